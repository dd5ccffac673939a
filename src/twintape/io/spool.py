"""The spool: what the collector keeps on its own disk, from the first byte of a frame until the store has confirmed the sealed segment.

```
lock
<market>/chain.json                                                         where the serial chain stands
<market>/active/<run8>-<connection>-<sequence>.tape                         being written, one per connection
<market>/sealed/<number>-<run8>-<connection>-<sequence>-<sha256>.tape.zst   waiting for the store
<market>/quarantine/…                                                       damaged; never deleted by the program
```

All of it is synchronous and belongs to one thread. A line whose `write` returned is in a file that survives the process, and after the
next `sync` one that survives a power loss, or, while the disk fails, in memory (`held_bytes`). A file that failed once is never
written or synced again: a failed fsync may have dropped its pages and the next one would report success.
"""

from __future__ import annotations

import zlib
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import accumulate

from twintape.core import wire
from twintape.core.active import LineText, is_absurd, is_doubtful
from twintape.core.errors import RefusedError
from twintape.core.markets import Market
from twintape.core.names import check_collector
from twintape.core.segment import HourWatch, Line, format_line, format_sync
from twintape.io.ports import Disk, DiskFile
from twintape.io.sealer import Sealer
from twintape.io.shelf import RecoveryNote, Retired, SealedFile, Shelf, active_path

__all__ = ["Batch", "RecoveryNote", "SealedFile", "Spool", "SpoolLimits"]

LOCK = "lock"
ALARM_SHARES = (0.60, 0.80, 0.95)
"""From which share of the budget on the alarm level is 1, 2, 3."""
LINE_OVERHEAD = 21
"""The most bytes a line has beside its frame."""
Batch = tuple[int, LineText]
"""A connection's number, and lines of it."""
_GOLDEN_PERMILLE = 618
"""Multiples of it, modulo 1000, spread evenly, however many there are."""
ATTEMPTS = 2
"""A segment that fails is followed by one new segment at once; if that fails too, the next `sync` tries again."""


@dataclass(frozen=True, slots=True)
class SpoolLimits:
    """How long and how much.

    Attributes:
        segment_age_ns: A segment is sealed this long after its first line, or, where those of several connections begin together, down to
            half as long, so that the work is spread.
        segment_size: Or when its text has this many bytes.
        budget_size: What the spools that share a budget may occupy together; from there on new lines are only held in memory.
        reserve_size: What stays free on the volume all the same: sealing and uploading what is there needs some room.
        held_size: How many bytes of lines are held in memory, over all connections, while they cannot be written; what exceeds it is
            lost, counted, and recorded by a `@suspect` line as soon as lines can be written again.
    """

    segment_age_ns: int = 45_000_000_000
    segment_size: int = 48 << 20
    budget_size: int = 50 << 30
    reserve_size: int = 256 << 20
    held_size: int = 256 << 20


@dataclass(slots=True)
class _Active:
    """One active file: `synced_size` bytes survive a power loss, `unsynced` are the lines behind them that came from outside."""

    path: str
    file: DiskFile
    watch: HourWatch
    opened_ns: int
    last_ns: int
    age_ns: int  # when it is old enough to be sealed
    line_count: int = 0
    size: int = 0
    synced_size: int = 0
    vouched_size: int = 0  # end of the last sync line
    crc32: int = 0  # of everything behind it
    unsynced: list[LineText] = field(default_factory=list)


@dataclass(slots=True)
class _Connection:
    """One connection: `held` lines are in no file that counts, `failed` files go when those lines are in another one."""

    number: int
    url: str
    streams: tuple[str, ...]
    sequence: int = 0
    active: _Active | None = None
    held: list[Line] = field(default_factory=list)
    held_size: int = 0
    failed: list[Retired] = field(default_factory=list)
    lost: tuple[int, int, int] | None = None  # first and last receive time, number of lines
    closing: bool = False
    together: bool = True  # whether its next segment begins when those of other connections do


class Spool:
    """The spool of one collector and market. Call `recover` before anything else.

    Only the constructor and `recover` raise `OSError`: afterwards a failing disk shows in `held_bytes`, `alarm_level` and `take_notes`.

    Args:
        disk: Its directory.
        collector: The collector's name.
        market: The market.
        run: 32 hex digits, drawn once per process life.
        version: The program's, for open lines.
        draw_chain_id: Returns 16 fresh hex digits, when a chain has to begin.
        limits: How long and how much.
        sharing: The spools that share the budget; this one joins them. All belong to one thread.
        acknowledge: Called with `written` or `synced`, path and offset after every returned write and sync of an active file.
        sealer: Seals its active files; by default on the spot.

    Raises:
        RefusedError: Another process holds the spool, or it belongs to another collector.
        OSError: The disk failed.
    """

    def __init__(
        self,
        disk: Disk,
        *,
        collector: str,
        market: Market,
        run: str,
        version: str,
        draw_chain_id: Callable[[], str],
        limits: SpoolLimits | None = None,
        sharing: list[Spool] | None = None,
        acknowledge: Callable[[str, str, int], None] | None = None,
        sealer: Sealer | None = None,
    ) -> None:
        if not disk.lock(LOCK):
            raise RefusedError("another process holds this spool", hint="one collector per spool directory")
        self._disk = disk
        self._collector = check_collector(collector)
        self._market = market
        self._run = run
        self._version = version
        self._limits = limits or SpoolLimits()
        self._acknowledge = acknowledge or (lambda _kind, _path, _offset: None)
        self._connections: dict[int, _Connection] = {}
        self._event_time_us: int | None = None
        self._shelf = Shelf(disk, self._collector, market, draw_chain_id, sealer)
        self._active_size = 0
        self._held_size = 0
        self._last_chance = False
        self._lost_count = 0
        self._free_size = disk.free_bytes()
        self._sharing = [] if sharing is None else sharing
        self._sharing.append(self)

    # --- state -----------------------------------------------------------------------------------------------------------------

    @property
    def used_bytes(self) -> int:
        """What the spool occupies on the disk."""
        return self._shelf.size + self._active_size

    @property
    def shared_bytes(self) -> int:
        """What it occupies together with those it shares the budget with."""
        return sum(spool.used_bytes for spool in self._sharing)

    @property
    def held_bytes(self) -> int:
        """How much is only in memory because it could not be written."""
        return self._held_size

    @property
    def lost_count(self) -> int:
        """How many lines given to `write` are nowhere."""
        return self._lost_count

    @property
    def alarm_level(self) -> int:
        """0 to 3, by the share in use of the common budget or of what the volume allows; 3 also while lines are held in memory."""
        if self.held_bytes:
            return 3
        used = self.shared_bytes
        budget = min(self._limits.budget_size, used + max(self._free_size - self._limits.reserve_size, 0))
        return sum(used >= share * budget for share in ALARM_SHARES)

    def _has_room(self) -> bool:
        if self._last_chance:
            return True
        return self._free_size > self._limits.reserve_size and self.shared_bytes < self._limits.budget_size

    def take_notes(self) -> list[RecoveryNote]:
        """Return what has been noted since the last call: damage, failures, losses."""
        return self._shelf.take_notes()

    # --- life ------------------------------------------------------------------------------------------------------------------

    def recover(self) -> list[RecoveryNote]:
        """Seal what a former process left, set damage aside, find the chain's end.

        Raises:
            OSError: The disk failed.
        """
        self._shelf.recover()
        return self.take_notes()

    def open(self, connection: int, *, url: str, streams: Sequence[str], now_ns: int, event_time_us: int | None) -> None:
        """Begin a connection's first segment; `event_time_us` is the greatest exchange time known of this market."""
        if connection in self._connections:
            raise ValueError(f"connection {connection} is open")
        self._see(event_time_us, now_ns)
        state = self._connections[connection] = _Connection(connection, url, tuple(streams))
        try:
            self._begin(state, now_ns)
        except OSError as error:
            self._fail(state, error)

    def subscribed(self, connection: int, streams: Sequence[str]) -> None:
        """Have the open lines of a connection's further segments name these streams."""
        self._connections[connection].streams = tuple(streams)

    def write(self, connection: int, lines: Sequence[Line]) -> list[SealedFile]:
        """Append lines in order of receipt, in one disk write per segment; return segments that were sealed on the way."""
        self._write(self._connections[connection], lines, _size(lines))
        return self._shelf.drain()

    def write_all(self, batches: Iterable[Batch]) -> list[SealedFile]:
        """Do the same for several connections."""
        for connection, lines in batches:
            state = self._connections[connection]
            if not self._write_on(state, lines):
                self._write(state, lines.lines(), _text_size(lines))
        return self._shelf.drain()

    def sync(self, now_ns: int) -> None:
        """Make everything written so far survive a power loss."""
        with suppress(OSError):  # the writes below will tell
            self._free_size = self._disk.free_bytes()
        for state in list(self._connections.values()):
            for _ in range(ATTEMPTS):
                self._flush(state)
                if self._sync(state, now_ns):
                    break
            self._leave(state)

    def seal_due(self, now_ns: int) -> list[SealedFile]:
        """Seal segments that are old or large enough, and whatever could not be sealed before."""
        for state in list(self._connections.values()):
            self._flush(state)
            self._leave(state)
            active = state.active
            if active is not None and now_ns - active.opened_ns >= active.age_ns:
                self._end(state, now_ns, "segment age")
        return self._shelf.drain()

    def cut(self, connection: int, *, reason: str, now_ns: int) -> list[SealedFile]:
        """End a connection's segment and not the connection, as after a step of the wall clock."""
        state = self._connections[connection]
        self._flush(state)
        if state.active is not None:
            self._end(state, now_ns, reason)
        return self._shelf.drain()

    def close(self, connection: int, *, reason: str, code: int | None, now_ns: int) -> list[SealedFile]:
        """End a connection and its segment."""
        state = self._connections[connection]
        last_ns = state.held[-1][0] if state.held else state.active.last_ns if state.active else 0
        line = max(now_ns, last_ns + 1), wire.close_line(reason=reason, code=code, final=True)
        self._hold(state, [line], _size([line]), at_any_rate=True)
        state.closing = True
        self._flush(state)
        self._leave(state)
        return self._shelf.drain()

    def close_all(self, *, reason: str, now_ns: int) -> list[SealedFile]:
        """End every connection for good; call it again while `held_bytes` is not 0, if there is time.

        This is the last chance of lines that are held in memory: they may use the reserve and exceed the budget.
        """
        self._last_chance = True
        sealed = []
        for number, state in list(self._connections.items()):
            if not state.closing:
                sealed += self.close(number, reason=reason, code=None, now_ns=now_ns)
            else:
                self._flush(state)
                self._leave(state)
        return sealed + self.seal_due(now_ns)

    def settle(self) -> list[SealedFile]:
        """Wait until everything that has ended is sealed, as far as the disk allows."""
        return self._shelf.drain(wait=True)

    def shut(self) -> None:
        """Let go of the sealer; nothing is sealed after this."""
        self._shelf.close()

    def pending(self) -> list[SealedFile]:
        """Return the sealed files that the store has not confirmed, oldest first."""
        return self._shelf.pending()

    def confirmed(self, sealed: SealedFile) -> None:
        """Remove the local copy: the store holds an object of this size and digest."""
        self._shelf.confirmed(sealed)

    def damaged(self, sealed: SealedFile, detail: str) -> None:
        """Set a sealed file aside that could not be read back as it was written."""
        self._shelf.set_aside(sealed.path, detail)

    # --- segments --------------------------------------------------------------------------------------------------------------

    def _see(self, event_time_us: int | None, receive_time_ns: int) -> None:
        if event_time_us is None or is_doubtful(event_time_us, receive_time_ns, self._event_time_us):
            return
        known_us = self._event_time_us
        if known_us is None or event_time_us > known_us or is_absurd(known_us, event_time_us, receive_time_ns):
            self._event_time_us = event_time_us

    def _write(self, state: _Connection, lines: Sequence[Line], size: int) -> None:
        if state.held:
            self._flush(state)  # what has waited goes first, and makes room
        self._hold(state, lines, size)
        self._flush(state)

    def _write_on(self, state: _Connection, lines: LineText) -> bool:
        """Append lines that go on in the active segment as a matter of course, text as it is; return whether these did."""
        active = state.active
        if active is None or lines.event_times is None or state.held or state.lost or state.failed or not self._has_room():
            return False
        if active.size + _text_size(lines) >= self._limits.segment_size or not active.watch.spans(*lines.event_times):
            return False
        try:
            self._append(active, lines)
        except OSError as error:
            self._hold(state, lines.lines(), _text_size(lines))
            self._fail(state, error)
            self._flush(state, ATTEMPTS - 1)
        return True

    def _hold(self, state: _Connection, lines: Sequence[Line], size: int, *, at_any_rate: bool = False) -> None:
        room = self._limits.held_size - self._held_size
        if size > room and not at_any_rate:
            count = bisect_right(list(accumulate(_size([line]) for line in lines)), room)
            self._lose(state, lines[count:])
            lines = lines[:count]
            size = _size(lines)
        state.held.extend(lines)
        state.held_size += size
        self._held_size += size

    def _lose(self, state: _Connection, lines: Sequence[Line]) -> None:
        first_ns, _, count = state.lost or (lines[0][0], 0, 0)
        state.lost = first_ns, lines[-1][0], count + len(lines)
        if not count:
            self._shelf.note("lost", f"{self._market}/active", f"connection {state.number}: no room for lines from {first_ns} on")
        self._lost_count += len(lines)

    def _flush(self, state: _Connection, attempts: int = ATTEMPTS) -> None:
        """Write what is held, into as many segments as it takes; give up after so many failures."""
        while (state.held or state.lost) and attempts and self._has_room():
            if not state.held:
                self._admit_loss(state)
            try:
                active = state.active or self._begin(state, None)
                count = self._fitting(active, state.held, state.held_size)
                if count:
                    self._append(active, _text(state.held if count == len(state.held) else state.held[:count]))
            except OSError as error:
                self._fail(state, error)
                attempts -= 1
                continue
            size = state.held_size if count == len(state.held) else _size(state.held[:count])
            state.held_size -= size
            self._held_size -= size
            del state.held[:count]
            full = active.size >= self._limits.segment_size
            if full or state.held:
                state.together = not full
                if not self._end(state, 0, "size" if full else "hour"):
                    attempts -= 1
        if not state.held:
            self._release_failed(state)

    def _release_failed(self, state: _Connection) -> None:
        for retired in state.failed:
            self._shelf.retire(retired)
        state.failed.clear()

    def _admit_loss(self, state: _Connection) -> None:
        assert state.lost is not None
        first_ns, last_ns, count = state.lost
        state.lost = None
        line = last_ns, wire.suspect_line(from_ns=first_ns, to_ns=last_ns, streams=None, reason=f"spool: {count} lines lost")
        self._hold(state, [line], _size([line]), at_any_rate=True)

    def _fitting(self, active: _Active, lines: Sequence[Line], lines_size: int) -> int:
        """Return how many of the lines belong to this segment; at least one if the segment is new."""
        size = active.size
        if size + lines_size < self._limits.segment_size:
            return active.watch.fitting(lines)
        for position, (receive_time_ns, frame) in enumerate(lines):
            if size >= self._limits.segment_size and (position or active.line_count):
                return position
            if active.watch.would_raise_hour(frame, receive_time_ns):
                return position
            size += len(frame) + LINE_OVERHEAD
        return len(lines)

    def _begin(self, state: _Connection, now_ns: int | None) -> _Active:
        """Start the next segment with its open line; without `now_ns` for the lines held."""
        if now_ns is None:
            first_ns, frame = state.held[0]
            time_us = wire.event_time_us(frame)
            if time_us is not None and (self._event_time_us is None or time_us > self._event_time_us):
                self._see(time_us, first_ns)  # what is late says nothing about the time it is
            now_ns = max(first_ns - 1, 0)
        state.sequence += 1
        path = active_path(self._market, self._run, state.number, state.sequence)
        file = self._disk.append(path)
        active = state.active = _Active(path, file, HourWatch(self._event_time_us), now_ns, now_ns, self._age_ns(state))
        line = wire.open_line(
            collector=self._collector,
            market=self._market,
            run=self._run,
            connection=state.number,
            sequence=state.sequence,
            url=state.url,
            streams=state.streams,
            version=self._version,
            event_time_us=self._event_time_us,
        )
        self._put(active, format_line(now_ns, line))
        return active

    def _age_ns(self, state: _Connection) -> int:
        """Return how old the next segment may become; segments that begin together, at the start or with the hour, do not end so."""
        age_ns = self._limits.segment_age_ns
        if not state.together:
            return age_ns
        state.together = False
        return age_ns - age_ns * ((state.number - 1) * _GOLDEN_PERMILLE % 1000) // 2000

    def _put(self, active: _Active, data: bytes) -> None:
        size = active.file.write(data)
        self._active_size += size - active.size
        active.size = size
        active.crc32 = zlib.crc32(data, active.crc32)
        self._acknowledge("written", active.path, active.size)

    def _append(self, active: _Active, lines: LineText) -> None:
        self._put(active, lines.text)
        active.unsynced.append(lines)
        active.line_count += lines.count
        active.last_ns = max(active.last_ns, lines.last_receive_time_ns)
        self._see(active.watch.event_time_us, active.last_ns)

    def _vouch(self, active: _Active, now_ns: int) -> None:
        self._put(active, format_sync(now_ns, size=active.size - active.vouched_size, crc32=active.crc32))
        active.vouched_size, active.crc32 = active.size, 0

    def _sync(self, state: _Connection, now_ns: int) -> bool:
        active = state.active
        if active is None or active.size == active.synced_size:
            return True
        try:
            self._make_durable(active, now_ns)
        except OSError as error:
            self._fail(state, error)
            return False
        return True

    def _make_durable(self, active: _Active, now_ns: int) -> None:
        self._vouch(active, now_ns)
        active.file.sync()
        active.synced_size = active.size
        active.unsynced.clear()
        self._acknowledge("synced", active.path, active.size)

    def _end(self, state: _Connection, now_ns: int, reason: str | None) -> bool:
        """Retire the active segment, if it can be; a `reason` is what its last line says."""
        active = state.active
        assert active is not None, "only a connection with an active segment can end it"
        try:
            if reason is not None:
                active.last_ns = max(now_ns, active.last_ns + 1)
                self._put(active, format_line(active.last_ns, wire.close_line(reason=reason, code=None, final=False)))
            # Sealing may fail for as long as the disk does, and nothing syncs this file any more.
            self._make_durable(active, active.last_ns)
            active.file.close()
        except OSError as error:
            self._fail(state, error)
            return False
        state.active = None
        self._active_size -= active.size
        self._shelf.retire(Retired(active.path, active.size))
        return True

    def _leave(self, state: _Connection) -> None:
        """Let go of a closing connection once all of it is in segments."""
        if not state.closing or state.held or state.lost:
            return
        if state.active is not None:
            self._end(state, 0, None)
        if not state.held:
            self._release_failed(state)
            del self._connections[state.number]

    def _fail(self, state: _Connection, error: OSError) -> None:
        """Give up the active file behind its last sync; what was behind it is held, to be written into a new segment."""
        active, state.active = state.active, None
        path = active.path if active else active_path(self._market, self._run, state.number, state.sequence)
        self._shelf.note("disk", path, error)
        if active is None:
            return
        with suppress(OSError):
            active.file.close()
        self._active_size -= active.size
        state.held[:0] = [line for lines in active.unsynced for line in lines.lines()]
        size = sum([_text_size(lines) for lines in active.unsynced])
        state.held_size += size
        self._held_size += size
        state.failed.append(Retired(active.path, active.synced_size))


def _size(lines: Sequence[Line]) -> int:
    return sum([len(frame) + LINE_OVERHEAD for _, frame in lines])


def _text_size(lines: LineText) -> int:
    return lines.size + LINE_OVERHEAD * lines.count


def _text(lines: Sequence[Line]) -> LineText:
    """Return the text of lines that need not have come through a `Receipt`, which sees to it that every frame can stand on a line."""
    return LineText.of([line if wire.recordable(line[1]) else (line[0], wire.bytes_line(1, line[1])) for line in lines])
