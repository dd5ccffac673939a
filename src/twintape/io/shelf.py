"""The shelf: sealed segments on the local disk and the serial chain that links them.

Order is everything here. A segment is written before the chain's record names it, the record is written before its active file goes, and
only then is the segment offered for upload; whatever step a crash cuts off, the next start finds enough to go on from the same place,
and no segment is sealed twice under two numbers.
"""

from __future__ import annotations

import hashlib
import itertools
import re
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import msgspec

from twintape.core import segment
from twintape.core.errors import CorruptionError, RefusedError
from twintape.core.markets import Market
from twintape.core.segment import ChainLink, Index
from twintape.io.ports import Disk
from twintape.io.sealer import SealAnswer, Sealer, SealerHere, SealOrder

__all__ = ["RecoveryNote", "Retired", "SealedFile", "Shelf", "active_path"]

CHAIN_FORMAT = "twintape-chain/1"
NOTES_MAX = 1000
"""How many notes are kept until somebody takes them; the oldest go first."""

_SEALED_NAME = re.compile(r"([0-9]{10})-([0-9a-f]{8}-[1-9][0-9]{0,8}-[1-9][0-9]{0,8})-([0-9a-f]{64})\.tape\.zst")


@dataclass(frozen=True, slots=True)
class RecoveryNote:
    """Something the operator should know: `kind` is one word, `path` relative to the spool's root."""

    kind: str
    path: str
    detail: str


@dataclass(frozen=True, slots=True)
class SealedFile:
    """A sealed segment on the local disk and the key it belongs under.

    After a restart `sha256` is what the file's name promises; whoever uploads it finds out.
    """

    path: str
    key: str
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Retired:
    """An active file that gets no more lines; only its first `size` bytes count."""

    path: str
    size: int


class _ChainRecord(msgspec.Struct, frozen=True):
    format: str
    collector: str
    market: Market
    id: str
    number: int
    sha256: str


def active_path(market: Market, run: str, connection: int, sequence: int) -> str:
    """Return the path of an active file."""
    return f"{market}/active/{run[:8]}-{connection}-{sequence}.tape"


class Shelf:
    """Turns active files into sealed ones, keeps the chain, and gives up what the store has confirmed.

    A failing disk is noted and tried again at the next call; only `recover` and the constructor raise `OSError`.

    Args:
        disk: The spool's directory.
        collector: The collector's name.
        market: The market.
        draw_chain_id: Returns 16 fresh hex digits.
        sealer: Turns an active file into a sealed segment's bytes; by default on the spot.

    Raises:
        RefusedError: The spool belongs to another collector or a newer version.
        OSError: The disk failed.
    """

    def __init__(
        self, disk: Disk, collector: str, market: Market, draw_chain_id: Callable[[], str], sealer: Sealer | None = None
    ) -> None:
        self._disk = disk
        self._sealer = sealer or SealerHere(disk)
        self._sealing: ChainLink | None = None  # the place of what the sealer works on: the first of the queue
        self._collector = collector
        self._market = market
        self._draw_chain_id = draw_chain_id
        self._new_chain: ChainLink | None = None
        self._notes: deque[RecoveryNote] = deque(maxlen=NOTES_MAX)
        self._queue: deque[Retired] = deque()
        self._stored: dict[str, SealedFile] = {}
        self._stored_size = 0
        self._unremoved: dict[str, str | None] = {}  # active file → the sealed file made of it, None if it held no line
        self._confirmed: set[str] = set()  # sealed files that the store has and that could not be removed yet
        self._quarantine: dict[str, int] = {}
        self._reason = "new spool"
        self._recorded = self._head = self._load_record()
        self._head_index: Index | None = None  # of the head, if it is a sealed file found at start

    # --- state -----------------------------------------------------------------------------------------------------------------

    @property
    def size(self) -> int:
        """What sealed, retired and quarantined files occupy, in bytes."""
        return self._stored_size + sum(retired.size for retired in self._queue) + sum(self._quarantine.values())

    def take_notes(self) -> list[RecoveryNote]:
        """Return what has been noted since the last call."""
        notes = list(self._notes)
        self._notes.clear()
        return notes

    def note(self, kind: str, path: str, detail: object) -> None:
        """Remember something for the operator."""
        self._notes.append(RecoveryNote(kind, path, str(detail)))

    def _shelve(self, sealed: SealedFile) -> None:
        self._stored[sealed.path] = sealed
        self._stored_size += sealed.size

    def _unshelve(self, path: str) -> None:
        sealed = self._stored.pop(path, None)
        if sealed is not None:
            self._stored_size -= sealed.size

    def _path(self, *parts: str) -> str:
        return "/".join((str(self._market), *parts))

    def _load_record(self) -> _ChainRecord | None:
        path = self._path("chain.json")
        try:
            data = self._disk.read(path)
        except FileNotFoundError:
            return None
        try:
            record = msgspec.json.decode(data, type=_ChainRecord)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            self._reason = "damaged chain record"
            self._keep_copy("chain.json", data)
            return None
        if record.format != CHAIN_FORMAT:
            raise RefusedError(f"{path}: unknown format {record.format[:64]!r}", hint="a newer version has used this spool")
        if (record.collector, record.market) != (self._collector, self._market):
            raise RefusedError(
                f"this spool belongs to {record.collector}/{record.market}, not {self._collector}/{self._market}",
                hint="give every collector a directory of its own",
            )
        return record

    # --- quarantine ------------------------------------------------------------------------------------------------------------

    def _keep_copy(self, name: str, data: bytes) -> None:
        """Copy damaged bytes durably to quarantine/; doing it again after a crash changes nothing."""
        target = self._path("quarantine", f"{name}.{hashlib.sha256(data).hexdigest()[:16]}")
        self._disk.write_atomically(target, data)
        self._quarantine[target] = len(data)
        self.note("quarantine", target, f"{len(data)} damaged bytes of {name}")

    def _set_aside(self, path: str, detail: object) -> None:
        """Move a damaged file to quarantine/ under a name that no other file has."""
        name = path.rpartition("/")[2]
        targets = (self._path("quarantine", f"{name}.{number}") for number in itertools.count())
        target = next(target for target in targets if target not in self._quarantine)
        size = self._disk.size(path)
        self._disk.rename(path, target)
        self._quarantine[target] = size
        self.note("quarantine", target, f"{path}: {detail}")

    # --- start -----------------------------------------------------------------------------------------------------------------

    def recover(self) -> None:
        """Bring whatever a former process left to the state of an orderly end; safe to repeat from every crash point.

        Raises:
            OSError: The disk failed.
        """
        paths = self._disk.list(str(self._market))
        for path in paths:
            if path.endswith(".tmp"):  # never finished, so nobody relies on it
                self._disk.remove(path)
        paths = [path for path in paths if not path.endswith(".tmp")]
        self._quarantine = {path: self._disk.size(path) for path in paths if path.startswith(self._path("quarantine/"))}
        actives = {path.rpartition("/")[2]: path for path in paths if path.startswith(self._path("active/"))}
        for path in paths:
            if path.startswith(self._path("sealed/")):
                try:
                    self._take_in(path, actives)
                except CorruptionError as error:
                    self._set_aside(path, error)
        for name, path in sorted(actives.items()):
            if segment.ACTIVE_NAME.fullmatch(name):
                self._queue.append(Retired(path, self._disk.size(path)))
            else:
                self._set_aside(path, "not the name of an active file")
        self.drain()

    def _take_in(self, path: str, actives: dict[str, str]) -> None:
        """Shelve a sealed file found at start; read it whole where the chain's end or an active twin hangs on it."""
        match = _SEALED_NAME.fullmatch(path.rpartition("/")[2])
        if match is None:
            raise CorruptionError("not the name of a sealed file")
        number, twin, sha256 = int(match[1]), f"{match[2]}.tape", match[3]
        ahead = self._recorded is None or number > self._recorded.number
        try:
            index = self._read_index(path)
        except OSError as error:
            if ahead:
                raise
            self.note("unreadable", path, f"{error}; it stays for the next start")
            return
        if index.chain.number != number or index.collector != self._collector or index.market is not self._market:
            raise CorruptionError(f"holds number {index.chain.number} of {index.collector}/{index.market}")
        if (ahead or twin in actives) and hashlib.sha256(self._disk.read(path)).hexdigest() != sha256:
            raise CorruptionError("its bytes are not those its name promises")
        self._shelve(SealedFile(path, index.raw_key(sha256).key(), self._disk.size(path), sha256))
        if twin in actives:
            self._unremoved[actives.pop(twin)] = path
        ours = self._recorded is None or index.chain.id == self._recorded.id
        if ahead and ours and (self._head_index is None or _newer(index, self._head_index)):
            self._head, self._head_index = self._record(index, sha256), index

    def _read_index(self, path: str) -> Index:
        size = self._disk.size(path)
        tail_size = min(size, segment.TAIL_SIZE)
        index = segment.read_index(self._disk.read(path, size - tail_size), size)
        if isinstance(index, segment.NeedMore):
            index = segment.read_index(self._disk.read(path, size - index.size), size)
        assert isinstance(index, Index), "it got the bytes it asked for"
        return index

    def _record(self, index: Index, sha256: str) -> _ChainRecord:
        return _ChainRecord(CHAIN_FORMAT, self._collector, self._market, index.chain.id, index.chain.number, sha256)

    # --- sealing ---------------------------------------------------------------------------------------------------------------

    def retire(self, retired: Retired) -> None:
        """Queue an active file for sealing."""
        self._queue.append(retired)

    def drain(self, *, wait: bool = False) -> list[SealedFile]:
        """Seal what is queued, in order; return the segments that can be uploaded now and could not be before.

        What takes longer goes on beside us, and is looked for at the next call, unless this one is to `wait`.
        """
        while self._queue:
            retired = self._queue[0]
            if not self._sealing:
                chain = self._next_link()
                self._sealer.start(SealOrder(retired.path, retired.size, self._collector, self._market, chain))
                self._sealing = chain
            answer = self._sealer.answer(wait=wait)
            if answer is None:
                break
            chain, self._sealing = self._sealing, None
            if answer.unreadable is not None:
                self.note("unreadable", retired.path, f"{answer.unreadable}; it stays for the next start")
            elif answer.corrupt is not None:
                self.set_aside(retired.path, answer.corrupt)
            else:
                try:
                    self._take(retired, chain, answer)
                except OSError as error:
                    # Whether the file is there is unknown, so its number belongs to it until the same bytes are known to be.
                    self.note("disk", retired.path, error)
                    break
            self._queue.popleft()
        self._let_go()
        return self._finish()

    def _take(self, retired: Retired, chain: ChainLink, answer: SealAnswer) -> None:
        """Put what the sealer made of an active file on the disk."""
        name = retired.path.rpartition("/")[2]
        if answer.tail:
            self._keep_copy(name, answer.tail)
        if answer.data is None:
            self._unremoved[retired.path] = None
            return
        path = self._path("sealed", f"{chain.number:010d}-{name.removesuffix('.tape')}-{answer.sha256}.tape.zst")
        self._disk.write_atomically(path, answer.data)
        self._head = _ChainRecord(CHAIN_FORMAT, self._collector, self._market, chain.id, chain.number, answer.sha256)
        self._shelve(SealedFile(path, answer.key, len(answer.data), answer.sha256))
        self._unremoved[retired.path] = path

    def _next_link(self) -> ChainLink:
        if self._head is not None:
            return ChainLink(self._head.id, self._head.number + 1, self._head.sha256, None)
        if self._new_chain is None:  # drawn once, so that sealing again gives the same bytes
            self._new_chain = ChainLink(self._draw_chain_id(), 0, None, self._reason)
        return self._new_chain

    def _finish(self) -> list[SealedFile]:
        """Write the chain's record, then remove the active files that have been sealed; what fails is done next time."""
        ready = []
        try:
            if self._head is not None and self._recorded != self._head:
                self._disk.write_atomically(self._path("chain.json"), msgspec.json.encode(self._head))
                self._recorded = self._head
            for active, path in list(self._unremoved.items()):
                self._remove(active)
                del self._unremoved[active]
                if path is not None:
                    ready.append(self._stored[path])
        except OSError as error:
            self.note("disk", self._path("chain.json"), error)
        return ready

    def _remove(self, path: str) -> None:
        with suppress(FileNotFoundError):  # a removal that failed may have removed it
            self._disk.remove(path)

    def close(self) -> None:
        """Let the sealer go."""
        self._sealer.close()
        self._sealing = None

    # --- giving up -------------------------------------------------------------------------------------------------------------

    def pending(self) -> list[SealedFile]:
        """Return the sealed files that may be uploaded, oldest first."""
        if self._recorded != self._head:
            return []
        held_back = self._confirmed.union(path for path in self._unremoved.values() if path is not None)
        return sorted((sealed for path, sealed in self._stored.items() if path not in held_back), key=lambda sealed: sealed.path)

    def set_aside(self, path: str, detail: object) -> None:
        """Move a file that turned out to be damaged to quarantine/, if the disk lets us."""
        try:
            self._set_aside(path, detail)
        except OSError as error:
            self.note("disk", path, error)
        else:
            self._unshelve(path)

    def confirmed(self, sealed: SealedFile) -> None:
        """Remove a sealed file whose copy in the store has been verified, now or as soon as the disk lets it go."""
        if sealed.path in self._stored:
            self._confirmed.add(sealed.path)
            self._let_go()

    def _let_go(self) -> None:
        for path in sorted(self._confirmed):
            try:
                self._remove(path)
            except OSError as error:
                self.note("disk", path, error)
            else:
                self._confirmed.remove(path)
                self._unshelve(path)


def _newer(index: Index, than: Index) -> bool:
    if index.chain.id == than.chain.id:
        return index.chain.number > than.chain.number
    return index.last_receive_time_ns > than.last_receive_time_ns
