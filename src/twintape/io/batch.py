"""One market and date before its merge: what is recorded, which days are due and why, and which blocks a day is made from.

Pure decisions over indexes and head proofs; reading and writing is `io.merge`'s.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from itertools import pairwise
from typing import TypeVar

from twintape.columns.lines import DAY_US, midnight_us
from twintape.columns.witness import BOOK_TICKER
from twintape.core import segment
from twintape.core.manifest import BookDigest, ClockStatistics, Missing, Proof, Reference
from twintape.core.markets import Market
from twintape.core.sequence import coverage
from twintape.core.wire import SESSION, SNAPSHOT, is_depth
from twintape.io.catalog import Head, RawSegment, RawView
from twintape.io.outages import Note
from twintape.io.scratch import HeaderRef, Place

__all__ = [
    "WITNESSES",
    "Batch",
    "Share",
    "Stream",
    "blocks_of",
    "collectors_of",
    "keys_of",
    "neighbour",
    "pins",
    "rotated",
    "shares",
    "slices",
    "snapshot_blocks",
    "streams",
    "unreadable_reasons",
    "unspliced_reasons",
    "why_due",
    "witness_blocks",
]

T = TypeVar("T")

BOUNDARY_MARGIN_US = 10_000_000
"""Blocks of the neighbouring dates within this distance of a collector's nearest one are read too: lines stamp `E` differently, and it may step back."""
WITNESSES = (
    BOOK_TICKER,
    *(f"depth{n}{speed}" for n in (5, 10, 20) for speed in ("", "@0ms", "@100ms", "@250ms", "@500ms", "@1000ms")),
)
"""Streams that say what the top of the book is, and are compared with it."""
WITNESS_FRAMES_MAX = 2_000_000
"""Witness frames of a stream that are read however many lines have them; of more, one line's and what it may have missed."""
SILENT_NS_MAX = 300_000_000_000
"""If nobody recorded anything for longer, what was said meanwhile is unknown."""
IMPORT = "import"
"""Why a chain begins that follows no other: all others may have lost the end of the one before."""
_SILENT = "nobody recorded anything"
WITNESS_SLACK_NS = 5_000_000_000
"""A line that is silent for so long may have missed what another heard meanwhile; between two of its blocks less goes by."""

Stream = tuple[str, str]
"""A day of the date: symbol and stream."""
Share = tuple[Stream, ...]
"""Days that are made from the same raw objects and so are merged together, each object fetched and hashed once."""
KeyedBlock = tuple[str, segment.Block]
"""A block and the key of the segment that holds it."""
_Connection = tuple[str, str, int]
"""Collector, run and number of a connection."""


def neighbour(date: str, days: int) -> str:
    """Return the date some days later.

    >>> neighbour("2024-02-28", 1)
    '2024-02-29'
    """
    return (datetime.fromisoformat(date) + timedelta(days=days)).date().isoformat()


@dataclass(slots=True)
class Batch:
    """One market and date under way.

    Attributes:
        market: Which market.
        date: The UTC date.
        view: The raw segments of the date and its neighbours that are at hand; damaged ones are taken out as they are found.
        missing: Holes in the collectors' serial chains.
        heads: Head proofs of the date and its neighbours, by `(symbol, stream, date)`.
        sha256: Key → digest of the objects that were fetched and found sound.
        plan: The plan, once it is published.
        clocks: Key → what the segment's clock lines of the date say; kept because many days share a segment.
        notes: Key → what its collector noted about its connection, likewise.
        scratch: Directory of the scratch disk where the fetched objects are.
        places: Key → where on the scratch disk the object is.
        control: `(key, offset of the block)` → text of control lines.
        headers: `(key, stream name)` → where the headers of that depth stream's frames are.
    """

    market: Market
    date: str
    view: RawView
    missing: list[Missing]
    heads: dict[tuple[str, str, str], Head]
    sha256: dict[str, str] = field(default_factory=dict)
    plan: Reference | None = None
    clocks: dict[str, ClockStatistics | None] = field(default_factory=dict)
    notes: dict[str, list[Note]] = field(default_factory=dict)
    scratch: str = "raw"
    control: dict[tuple[str, int], bytes] = field(default_factory=dict)
    places: dict[str, Place] = field(default_factory=dict)
    headers: dict[tuple[str, str], HeaderRef] = field(default_factory=dict)
    _blocks: dict[Stream, list[KeyedBlock]] = field(default_factory=dict)
    _heard: dict[_Connection, set[Stream]] = field(default_factory=dict)
    _keys: dict[_Connection, list[str]] = field(default_factory=dict)
    _alike: dict[_Connection, set[_Connection]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self._blocks:
            return
        for key, raw in self.view.segments.items():
            connection = _connection(raw)
            heard = self._heard.setdefault(connection, set())
            self._keys.setdefault(connection, []).append(key)
            for index in raw.index.streams:
                self._blocks.setdefault((index.symbol, index.stream), []).extend((key, block) for block in index.blocks)
                if index.symbol != SESSION:
                    heard.add((index.symbol, index.stream))

    def share(self, scratch: str) -> Batch:
        """Return the batch for one share: what that finds damaged or gone, it finds for its own days alone, whatever the others do."""
        view = RawView(dict(self.view.segments), list(self.view.unreadable))
        return replace(
            self, view=view, sha256={}, plan=None, clocks={}, notes={}, scratch=scratch, places={}, headers={}, control={}
        )

    def recorded(self, symbol: str, stream: str) -> list[KeyedBlock]:
        """Return every block of a stream whose segment is at hand, by key and in order."""
        return [(key, block) for key, block in self._blocks.get((symbol, stream), ()) if key in self.view.segments]

    def listening(self, symbol: str, stream: str) -> list[str]:
        """Return the segments at hand of the connections that carried a stream: on which it was heard, or most of what was heard beside it.

        A quiet stream may have said nothing on a connection; that others were heard on another one says nothing about it.
        """
        own = {_connection(self.view.segments[key]) for key, _ in self.recorded(symbol, stream)}
        carried = own.union(*(self._alike_of(connection) for connection in own))
        return [key for connection in sorted(carried) for key in self._keys[connection] if key in self.view.segments]

    def _alike_of(self, connection: _Connection) -> set[_Connection]:
        found = self._alike.get(connection)
        if found is None:
            mine = self._heard[connection]
            found = self._alike[connection] = {
                other
                for other, theirs in self._heard.items()
                if other[0] == connection[0] and 2 * len(mine & theirs) >= max(1, min(len(mine), len(theirs)))
            }
        return found

    def recorded_streams(self) -> set[tuple[str, str]]:
        """Return the streams with frames filed under the date."""
        return {day for day in self._blocks if any(block.date == self.date for _, block in self.recorded(*day))}


def _connection(raw: RawSegment) -> _Connection:
    return raw.key.collector, raw.key.run8, raw.key.connection


def shares(batch: Batch, due: Iterable[Stream]) -> list[Share]:
    """Group days by the raw objects they are made from: no object is needed by two groups.

    Returns:
        The groups, and the days in each, in alphabetical order.
    """
    first: dict[str, Stream] = {}
    parents: dict[Stream, Stream] = {}

    def root(day: Stream) -> Stream:
        while parents[day] != day:
            parents[day] = parents[parents[day]]
            day = parents[day]
        return day

    for day in sorted(due):
        parents[day] = day
        for key in sorted(keys_of(batch, *day)):
            other = first.setdefault(key, day)
            parents[max(root(day), root(other))] = min(root(day), root(other))
    groups: dict[Stream, list[Stream]] = {}
    for day in parents:
        groups.setdefault(root(day), []).append(day)
    return [tuple(group) for group in groups.values()]


def slices(parts: Iterable[Share], count: int) -> list[Share]:
    """Cut shares, the largest first, until there are `count` or nothing is left to cut: objects are then fetched once for each slice.

    >>> slices([(("A", "depth"), ("B", "depth"), ("C", "depth")), (("D", "depth"),)], 3)
    [(('A', 'depth'),), (('B', 'depth'), ('C', 'depth')), (('D', 'depth'),)]
    """
    cut = sorted(parts)
    while len(cut) < count:
        largest = max(cut, key=len, default=())
        if len(largest) < 2:
            break
        place, middle = cut.index(largest), len(largest) // 2
        cut[place : place + 1] = [largest[:middle], largest[middle:]]
    return cut


def rotated(items: Sequence[T], start: int) -> list[T]:
    """Return the items in their order, beginning somewhere else.

    >>> rotated("abcd", 5)
    ['b', 'c', 'd', 'a']
    """
    return [items[(start + position) % len(items)] for position in range(len(items))]


def streams(batch: Batch, wanted: set[str], *, cascade: bool) -> list[tuple[str, str]]:
    """Return the streams that have a day on this date: with frames, with a proof, or silent between days that have one."""
    found = {(symbol, stream) for symbol, stream, date in batch.heads if date == batch.date}
    if not cascade:
        found |= batch.recorded_streams()
        alive = {raw.key.collector for raw in batch.view.segments.values() if raw.key.date == batch.date}
        for (symbol, stream, date), head in batch.heads.items():
            if date == neighbour(batch.date, -1) and is_depth(stream) and alive & {line.collector for line in head.proof.lines}:
                found.add((symbol, stream))
    return sorted(day for day in found if not wanted or day[0] in wanted)


def pins(batch: Batch, symbol: str, stream: str) -> tuple[Head | None, Head | None]:
    """Return the neighbours' heads, the day before and the day behind."""
    return (
        batch.heads.get((symbol, stream, neighbour(batch.date, -1))),
        batch.heads.get((symbol, stream, neighbour(batch.date, 1))),
    )


def why_due(batch: Batch, symbol: str, stream: str) -> str | None:
    """Return why a day must be merged (again), or None."""
    head = batch.heads.get((symbol, stream, batch.date))
    if head is None:
        return "it has no proof"
    lineage = {source.key for source in head.proof.inputs}
    if any(key not in lineage for key, _ in blocks_of(batch, symbol, stream)):
        return "there is new raw data"
    if {found.key for found in head.proof.unreadable} - {found.key for found in batch.view.unreadable}:
        return "raw data that could not be read is readable now, or gone"
    if not is_depth(stream):
        open_ends = unreadable_reasons(batch)
        open_ends += unspliced_reasons(batch, symbol, stream, collectors_of(head.proof), head.proof)
        return "it is settled now" if head.proof.reasons and not open_ends else None
    before, _ = pins(batch, symbol, stream)
    if before is not None:
        if before.proof.end.update_id is not None and before.proof.end.update_id != head.proof.start.update_id:
            return "the day before ends elsewhere"
        opening, closing = head.proof.opening_book, before.proof.closing_book
        if _carried(opening) != _carried(closing):
            return "the closing book of the day before is another one"
    return None


def _carried(book: BookDigest | None) -> tuple[str, str | None, str | None] | None:
    return None if book is None else (book.sha256, book.known_low, book.known_high)


def blocks_of(batch: Batch, symbol: str, stream: str) -> list[KeyedBlock]:
    """Return the blocks that may hold frames of the day.

    The date's own, and for depth streams of the dates around each collector's nearest, and whatever lies on this day's side of a neighbour's pin.
    """
    own: list[KeyedBlock] = []
    around: dict[tuple[str, str], list[KeyedBlock]] = {}
    for key, block in batch.recorded(symbol, stream):
        if block.date == batch.date:
            own.append((key, block))
        elif is_depth(stream) and block.event_time_us_min is not None:
            around.setdefault((batch.view.segments[key].key.collector, block.date), []).append((key, block))
    midnight = midnight_us(batch.date)
    before, behind = pins(batch, symbol, stream)
    start = None if before is None else before.proof.end.update_id
    end = None if behind is None else behind.proof.start.update_id
    for (_, date), blocks in sorted(around.items()):
        times = [(key, block, block.event_time_us_min or 0, block.event_time_us_max or 0) for key, block in blocks]
        if date < batch.date:
            edge = min(midnight, max(last for *_, last in times)) - BOUNDARY_MARGIN_US
            own += [(key, block) for key, block, _, last in times if last >= edge or _is_less(start, block.last_final_update_id)]
        else:
            edge = max(midnight + DAY_US, min(first for _, _, first, _ in times)) + BOUNDARY_MARGIN_US
            own += [(key, block) for key, block, first, _ in times if first <= edge or _is_less(block.first_prev_update_id, end)]
    return own + _inherited(batch, symbol, stream, own)


def _inherited(batch: Batch, symbol: str, stream: str, taken: Sequence[KeyedBlock]) -> list[KeyedBlock]:
    """Return the other blocks of segments that the generation before was made from: had the day's midnight been elsewhere, it settled frames of them.

    They are read anew, so that those that are another day's by now are settled by that one alone.
    """
    head = batch.heads.get((symbol, stream, batch.date))
    if head is None or not is_depth(stream):
        return []
    lineage = {source.key for source in head.proof.inputs}
    known = {(key, block.offset) for key, block in taken}
    return [(key, b) for key, b in batch.recorded(symbol, stream) if key in lineage and (key, b.offset) not in known]


def _is_less(one: int | None, other: int | None) -> bool:
    return one is not None and other is not None and one < other


def snapshot_blocks(batch: Batch, symbol: str, stream: str) -> list[KeyedBlock]:
    """Return the blocks of REST snapshots that a depth day may meet: the date's own, and those beside its frames.

    Which other streams are due must make no difference. Ids, not dates, say which of them the day's chain meets.
    """
    if not is_depth(stream):
        return []
    beside = {key for key, _ in blocks_of(batch, symbol, stream)}
    return [(key, block) for key, block in batch.recorded(symbol, SNAPSHOT) if key in beside or block.date == batch.date]


def witness_blocks(batch: Batch, symbol: str, stream: str) -> list[tuple[str, str, segment.Block]]:
    """Return stream, key and block of what a depth day's book is compared with.

    Of a busy witness stream one line is enough: that of the collector with most frames of the date, and of the others what it may have missed.
    """
    if not is_depth(stream):
        return []
    found = []
    for witness in WITNESSES:
        of: dict[str, list[KeyedBlock]] = {}
        own = [block for _, block in batch.recorded(symbol, witness) if block.date == batch.date]
        if not own:
            continue
        begin = min(block.first_receive_time_ns for block in own) - 1000 * BOUNDARY_MARGIN_US
        end = max(block.last_receive_time_ns for block in own) + 1000 * BOUNDARY_MARGIN_US
        for key, block in batch.recorded(symbol, witness):
            if begin <= block.last_receive_time_ns and block.first_receive_time_ns <= end:
                of.setdefault(batch.view.segments[key].key.collector, []).append((key, block))
        busy = sum(block.count for blocks in of.values() for _, block in blocks) > WITNESS_FRAMES_MAX
        heard: list[tuple[int, int]] = []
        for _, blocks in sorted(of.items(), key=lambda line: (-sum(block.count for _, block in line[1]), line[0])):
            new = [(key, block) for key, block in blocks if not (busy and _within(block, heard))]
            found += [(witness, key, block) for key, block in new]
            heard = coverage([*heard, *((b.first_receive_time_ns, b.last_receive_time_ns + WITNESS_SLACK_NS) for _, b in new)])
    return found


def _within(block: segment.Block, heard: list[tuple[int, int]]) -> bool:
    place = bisect_right(heard, (block.first_receive_time_ns, 2**63)) - 1
    return place >= 0 and block.last_receive_time_ns <= heard[place][1]


def keys_of(batch: Batch, symbol: str, stream: str) -> set[str]:
    """Return the raw objects a day is made from and compared with."""
    made = {key for key, _ in [*blocks_of(batch, symbol, stream), *snapshot_blocks(batch, symbol, stream)]}
    return made | {key for _, key, _ in witness_blocks(batch, symbol, stream)}


def collectors_of(proof: Proof) -> set[str]:
    """Return the collectors a proof has lines of."""
    return {line.collector for line in proof.lines}


def unreadable_reasons(batch: Batch) -> list[str]:
    """Return whether damaged objects keep a day from being complete."""
    count = len(batch.view.unreadable)
    return [f"{count} raw objects could not be read"] if count else []


def unspliced_reasons(batch: Batch, symbol: str, stream: str, collectors: set[str], parent: Proof | None) -> list[str]:
    """Return why a day of a stream that is not spliced is not complete: ids cannot tell, so the serial chains and the connections must.

    Who has frames of a later date, here or in a proof, has closed this one for good, whether or not the segments that showed it are still there.
    """
    behind = neighbour(batch.date, 1)
    closed = {raw.key.collector for raw in batch.view.segments.values() if raw.index.date >= behind}
    for (_, other, date), head in batch.heads.items():
        if date == behind and not is_depth(other):
            closed |= {line.collector for line in head.proof.lines if line.frames > line.owed}
    if parent is not None:
        closed |= {name for name in collectors_of(parent) if _not_closed(name) not in parent.reasons}
    reasons = [_not_closed(name) for name in sorted(collectors - closed)]
    reasons += [_not_opened(name) for name in sorted(collectors - _opened(batch, parent))]
    reasons += [f"{hole.collector}: segments are missing" for hole in batch.missing if hole.collector in collectors]
    reasons += [_lost_tail(name) for name in sorted(collectors & _new_spools(batch, parent))]
    return reasons + _silences(batch, symbol, stream, parent)


def _new_spools(batch: Batch, parent: Proof | None) -> set[str]:
    """Return the collectors that began a new spool on or after the last date of the one before: nobody knows what that still held of this date."""
    found = set() if parent is None else {name for name in collectors_of(parent) if _lost_tail(name) in parent.reasons}
    dates: dict[str, dict[str, list[str]]] = {}
    fresh: set[tuple[str, str]] = set()
    for raw in batch.view.segments.values():
        dates.setdefault(raw.key.collector, {}).setdefault(raw.index.chain.id, []).append(raw.index.date)
        if raw.index.chain.number == 0 and raw.index.chain.reason != IMPORT:
            fresh.add((raw.key.collector, raw.index.chain.id))
    for collector, chain in fresh:
        begin = min(dates[collector][chain])
        # Of two chains that begin on one date either may be the later one: then both have something before them.
        earlier = [max(found) for other, found in dates[collector].items() if other != chain and min(found) <= begin]
        if batch.date <= begin and any(last <= batch.date for last in earlier):
            found.add(collector)
    return found


def _silences(batch: Batch, symbol: str, stream: str, parent: Proof | None) -> list[str]:
    """Return whether there are times of the date in which no connection that carried a stream recorded anything: what was said then is unknown.

    A connection that is up notes the clock every minute. What pruned segments covered is known from the generation before, and not only those with frames of
    this stream: what was no silence then is none now.
    """
    if parent is not None:
        known = [reason for reason in parent.reasons if reason.startswith(_SILENT)]
        if not known or any(source.key not in batch.view.segments for source in parent.inputs):
            return known
    begin = midnight_us(batch.date) * 1000
    end = begin + DAY_US * 1000
    indexes = [batch.view.segments[key].index for key in batch.listening(symbol, stream)]
    spans = [(index.first_receive_time_ns, index.last_receive_time_ns) for index in indexes]
    heard = coverage([(begin - 1, begin), *((max(a, begin), min(b, end)) for a, b in spans), (end, end + 1)])
    silent = [(a[1], b[0]) for a, b in pairwise(heard) if b[0] - a[1] > SILENT_NS_MAX]
    if not silent:
        return []
    seconds = sum(b - a for a, b in silent) // 10**9
    clock = (datetime(1970, 1, 1) + timedelta(microseconds=silent[0][0] // 1000)).strftime("%H:%M:%S")
    return [f"{_SILENT} for {seconds} s of the date, first from {clock}"]


def _lost_tail(collector: str) -> str:
    return f"{collector} began a new spool: what it had not stored of the one before is lost"


def _opened(batch: Batch, parent: Proof | None) -> set[str]:
    """Return the collectors that have recorded since before the date, by their segments or by proofs of the day before."""
    opened = {raw.key.collector for raw in batch.view.segments.values() if raw.index.date < batch.date}
    for (_, stream, date), head in batch.heads.items():
        if date < batch.date and not is_depth(stream):
            opened |= {line.collector for line in head.proof.lines if line.frames > line.owed}
    if parent is not None:
        opened |= {name for name in collectors_of(parent) if _not_opened(name) not in parent.reasons}
    return opened


def _not_opened(collector: str) -> str:
    return f"nothing of {collector} before the date"


def _not_closed(collector: str) -> str:
    return f"{collector} has not closed the date"
