"""The lines of one stream: who heard which windows when, read once and gone through in slices of ids.

Texts are read chunk by chunk. What is kept of each window, `WINDOW_BYTES` bytes, is put aside by the caller's `Keep`; in memory are only the windows of one slice,
and of each part how far it reaches. Texts are read again for what is looked at closer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from twintape.columns.lines import Chunk
from twintape.columns.parse import HEADER, SLOW, UNDECODABLE, Headers, TemplateSet, frame_of, scan
from twintape.columns.schema import DECIMALS_MAX
from twintape.columns.splice import assign_epochs
from twintape.core.markets import RULES, Market

__all__ = [
    "EPOCH_IDS",
    "NO_END",
    "SLICE_WINDOWS",
    "WINDOW_BYTES",
    "Heard",
    "Keep",
    "Line",
    "gather",
    "in_memory",
    "joined_spans",
    "slices",
]

Ints = NDArray[np.int64]
Spans = tuple[Ints, Ints]
"""Starts and ends of stretches without a hole, ascending."""
Keep = Callable[[bytes], Callable[[], bytes]]
"""Puts bytes aside and returns what brings them back."""

EPOCH_IDS = 1 << 52
"""Ids of a restarted id space are moved up by this much, so that they never meet those before; no id is as great."""
SLICE_WINDOWS = 1 << 15
"""About so many windows of each line are in memory at a time."""
NO_END = (1 << 63) - 1
"""Where the last slice ends."""
_REACH_ROWS = 64
"""How finely is remembered which ids were heard when; see `_may_restart`."""

_COLUMNS = (
    "receive_time_ns", "event_time_us", "transaction_time_us", "prev", "first", "final", "offset", "length", "template",
    "price_decimals", "quantity_decimals",
)  # fmt: skip
_CHUNK = "digest_a"
"""Where the position of its chunk stands in what is kept of a window: digests of whole lines are not asked for here."""
WINDOW_BYTES = HEADER.itemsize
"""What is put aside of each window."""
Rows = NDArray[np.void]
"""Windows, of the type `HEADER`."""


def in_memory(data: bytes) -> Callable[[], bytes]:
    """Keep bytes where they are; see `Keep`."""
    return lambda: data


@dataclass(slots=True)
class Heard:
    """Windows of one line within a slice of ids; arrays have one element for each, sorted by `(final, prev)`, each window once.

    Attributes:
        name: The line.
        chunks: Where the frames are.
        templates: What `template` is a position in, shared by all lines that are compared; -1: a frame no template prints.
        prev: The window is `(prev, final]`; ids of later epochs are moved up by `EPOCH_IDS` each.
        chunk: Position in `chunks`; `offset` and `length` are the frame's line there.
        content: uint64[n, 2]: hashes of the text from the first level to the last.
    """

    name: str
    chunks: Sequence[Chunk]
    templates: TemplateSet
    prev: Ints
    first: Ints
    final: Ints
    event_time_us: Ints
    transaction_time_us: Ints
    receive_time_ns: Ints
    template: NDArray[np.int16]
    content: NDArray[np.uint64]
    chunk: NDArray[np.int32]
    offset: Ints
    length: NDArray[np.int32]
    price_decimals: NDArray[np.int8]
    quantity_decimals: NDArray[np.int8]

    def __len__(self) -> int:
        return len(self.final)

    def frame(self, row: int) -> bytes:
        """Return the frame of a window, verbatim."""
        return frame_of(self.chunks[int(self.chunk[row])].load(), int(self.offset[row]), int(self.length[row]))


@dataclass(slots=True)
class _Part:
    """The windows of one chunk, put aside; `least_prev` is the least id that one of them begins behind."""

    least_prev: int
    load: Callable[[], bytes]

    def rows(self) -> Rows:
        return np.frombuffer(self.load(), HEADER)


@dataclass(slots=True)
class Line:
    """What one line heard, but for the windows themselves.

    Attributes:
        name: The line.
        chunks: Where the frames are.
        templates: See `Heard`.
        spans: Where it has no hole.
        frames: Frames heard, all of them.
        undecodable: Of them, what is no depth frame.
        late: Windows heard behind one with greater ids, on the same connection.
        connections: How many connections the line consists of.
        from_us: Least `E`; `to_us` the greatest. Both 0 of nothing.
        decimals: The most digits behind the point of any price, and of any quantity.
        windows: Different windows; this and the following two are known when the slices have been gone through.
        repeats: Further copies of a window with the same content.
        contradictions: Copies of a window with other content: the line contradicts itself.
    """

    name: str
    chunks: Sequence[Chunk]
    templates: TemplateSet
    spans: Spans
    frames: int = 0
    undecodable: int = 0
    late: int = 0
    connections: int = 0
    from_us: int = 0
    to_us: int = 0
    decimals: tuple[int, int] = (0, 0)
    windows: int = 0
    repeats: int = 0
    contradictions: int = 0
    _parts: list[_Part] = field(default_factory=list, repr=False)


# --- reading -------------------------------------------------------------------------------------------------------------------------


def gather(lines: Sequence[tuple[str, Sequence[Chunk]]], market: Market, keep: Keep = in_memory) -> list[Line]:
    """Read all lines of one stream.

    Args:
        lines: Name and chunks of each.
        market: Decides what an event covers.
        keep: Where the windows go.

    Raises:
        CorruptionError: A chunk is damaged.
    """
    templates = TemplateSet()
    reach: list[Ints] = [np.zeros((4, 0), np.int64)]
    found = [_read(name, chunks, market, templates, keep, reach) for name, chunks in lines]
    if _may_restart(np.concatenate(reach, axis=1), RULES[market].epoch_drop_ids):
        _separate_epochs(found, RULES[market].epoch_drop_ids, keep)
    return found


def _read(name: str, chunks: Sequence[Chunk], market: Market, templates: TemplateSet, keep: Keep, reach: list[Ints]) -> Line:
    line = Line(name, chunks, templates, _no_spans(), connections=len({chunk.connection for chunk in chunks}))
    spans: list[Spans] = []
    highest: dict[str, int] = {}
    times: list[tuple[int, int]] = []
    for position, chunk in enumerate(chunks):
        text = chunk.load()
        header = scan(text, market, templates, count=chunk.count)
        rows = _windows(header, text, position)
        line.frames += len(header)
        line.undecodable += len(header) - len(rows)
        if not len(rows):
            continue
        before = highest.get(chunk.connection, -1)
        line.late += _late(rows["final"], before)
        highest[chunk.connection] = max(before, int(rows["final"].max()))
        times.append((int(rows["event_time_us"].min()), int(rows["event_time_us"].max())))
        digits = (int(rows["price_decimals"].max()), int(rows["quantity_decimals"].max()))
        line.decimals = (max(line.decimals[0], digits[0]), max(line.decimals[1], digits[1]))
        reach.append(_reach(rows["final"], rows["event_time_us"]))
        line._parts.append(_part(rows, keep, spans))
    line.spans = joined_spans(spans)
    if times:
        line.from_us, line.to_us = min(first for first, _ in times), max(last for _, last in times)
    return line


def _windows(header: Headers, text: bytes, position: int) -> Rows:
    precise = (header.price_decimals <= DECIMALS_MAX) & (header.quantity_decimals <= DECIMALS_MAX)
    known = (header.template != UNDECODABLE) & precise
    rows = header.rows if known.all() else header.rows[known]
    rows[_CHUNK] = position
    for row in np.flatnonzero(rows["template"] == SLOW).tolist():
        # No template tells what else such a frame says: its whole text, but for `E`, is its content.
        frame = frame_of(text, int(rows["offset"][row]), int(rows["length"][row]))
        rows["body_a"][row], rows["body_b"][row] = _frame_hash(frame, int(rows["event_time_us"][row]))
    return rows


def _part(rows: Rows, keep: Keep, spans: list[Spans]) -> _Part:
    spans.append(joined_spans([(rows["prev"], rows["final"])]))
    return _Part(int(rows["prev"].min()), keep(rows.tobytes()))


def _late(final: Ints, before: int) -> int:
    running = np.maximum.accumulate(np.concatenate([np.array([before], np.int64), final]))
    return int((final < running[:-1]).sum())


def _frame_hash(frame: bytes, event_time_us: int) -> tuple[int, int]:
    stamp = b'"E":%d' % event_time_us
    for spelled in (stamp, stamp[:-3]):
        frame = frame.replace(spelled, b'"E":', 1)
    low = high = 0xCBF29CE484222325
    for byte in frame:  # FNV-1a twice over; such frames are rare
        low = ((low ^ byte) * 0x100000001B3) & 0xFFFFFFFFFFFFFFFF
        high = ((high * 0x100000001B3) ^ byte) & 0xFFFFFFFFFFFFFFFF
    return low, high


def joined_spans(parts: Sequence[Spans]) -> Spans:
    """Return the union of intervals; those that touch are one.

    >>> [ends.tolist() for ends in joined_spans([(np.array([7, 0]), np.array([9, 5])), (np.array([5]), np.array([6]))])]
    [[0, 7], [6, 9]]
    """
    prev, final = (np.concatenate([np.zeros(0, np.int64), *column]) for column in zip(_no_spans(), *parts, strict=True))
    if not len(prev):
        return _no_spans()
    order = np.argsort(prev, kind="stable")
    prev, final = prev[order], np.maximum.accumulate(final[order])
    edges = np.flatnonzero(prev[1:] > final[:-1])
    return prev[np.concatenate([[0], edges + 1])], final[np.concatenate([edges, [len(final) - 1]])]


def _no_spans() -> Spans:
    return np.zeros(0, np.int64), np.zeros(0, np.int64)


# --- ids that begin anew -------------------------------------------------------------------------------------------------------------


def _reach(final: Ints, event_time_us: Ints) -> Ints:
    """Return int64[4, k]: least and greatest id, least and greatest `E` of every so many windows."""
    at = np.arange(0, len(final), _REACH_ROWS)
    return np.stack([edge.reduceat(values, at) for values in (final, event_time_us) for edge in (np.minimum, np.maximum)])


def _may_restart(reach: Ints, drop_ids: int) -> bool:
    """Return whether windows far below others in ids may be later in time than those."""
    low, high, early, late = reach
    order = np.argsort(-high)
    ascending, earliest = high[order[::-1]], np.minimum.accumulate(early[order])
    above = len(high) - np.searchsorted(ascending, low + drop_ids, side="right")
    some = np.flatnonzero(above)
    return bool((earliest[above[some] - 1] < late[some]).any())


def _separate_epochs(lines: Sequence[Line], drop_ids: int, keep: Keep) -> None:
    """Move the ids of later epochs up. This happens hardly ever, and takes memory for two numbers a window."""
    parts = [part for line in lines for part in line._parts]
    columns = [[part.rows()[name].copy() for part in parts] for name in ("final", "event_time_us")]
    epochs = assign_epochs(np.concatenate(columns[0]), np.concatenate(columns[1]), None, drop_ids=drop_ids)
    if not epochs.any():
        return
    begin = 0
    for line in lines:
        spans: list[Spans] = []
        for number, part in enumerate(line._parts):
            rows = part.rows().copy()
            moved = epochs[begin : begin + len(rows)] * EPOCH_IDS
            for name in ("prev", "first", "final"):
                rows[name] += moved
            line._parts[number] = _part(rows, keep, spans)
            begin += len(rows)
        line.spans = joined_spans(spans)


# --- slices --------------------------------------------------------------------------------------------------------------------------


def slices(lines: Sequence[Line], windows: int = SLICE_WINDOWS) -> Iterator[tuple[list[Heard], int]]:
    """Go through all lines together, in the order of ids.

    A slice ends at an id where no line has a window that goes on, if there is one for long enough; else behind a window of the first line. A window
    belongs to the slice it begins in.

    Args:
        lines: From `gather`; their counts of windows are begun anew.
        windows: About how many of each line a slice has.

    Yields:
        What each line heard, and the id at which the slice ends: all windows of those behind begin there or later.
    """
    readers = [_Reader(line) for line in lines]
    while any(reader.left for reader in readers):
        known = min(reader.fill(windows) for reader in readers)
        until = NO_END if known == NO_END else _cut([reader.begun(known) for reader in readers], known)
        yield [reader.take(until) for reader in readers], until


class _Reader:
    """Brings the windows of one line back, in about the order of ids."""

    def __init__(self, line: Line) -> None:
        self._line = line
        self._waiting = sorted(line._parts, key=lambda part: -part.least_prev)
        self._held: list[Rows] = []
        self._count = 0
        line.windows = line.repeats = line.contradictions = 0

    @property
    def left(self) -> bool:
        return bool(self._count or self._waiting)

    def fill(self, windows: int) -> int:
        """Bring so many windows back; return an id: all that begin before it are here."""
        while self._waiting:
            known = self._waiting[-1].least_prev
            if self._count >= windows and sum(int((rows["prev"] < known).sum()) for rows in self._held) >= windows:
                return known
            self._held.append(self._waiting.pop().rows())
            self._count += len(self._held[-1])
        return NO_END

    def begun(self, known: int) -> Spans:
        """Return the windows that begin before an id."""
        rows = self._joined()
        rows = rows[rows["prev"] < known]
        return rows["prev"], rows["final"]

    def take(self, until: int) -> Heard:
        """Return the windows that begin before an id, and forget them."""
        rows = self._joined()
        before = rows["prev"] < until
        self._held = [rows[~before]]
        self._count = len(self._held[0])
        return self._sorted(rows[before])

    def _joined(self) -> Rows:
        if len(self._held) != 1:
            self._held = [np.concatenate([np.empty(0, HEADER), *self._held])]
        return self._held[0]

    def _sorted(self, rows: Rows) -> Heard:
        """Sort by ids; of several copies of a window the one heard first stays."""
        line, final = self._line, rows["final"]
        if (final[1:] <= final[:-1]).any():
            rows = rows[np.lexsort((rows["receive_time_ns"], rows["prev"], rows["final"]))]
            fresh = np.ones(len(rows), bool)
            fresh[1:] = (rows["final"][1:] != rows["final"][:-1]) | (rows["prev"][1:] != rows["prev"][:-1])
            leader = rows[np.flatnonzero(fresh)[np.cumsum(fresh) - 1]]
            same = (rows["body_a"] == leader["body_a"]) & (rows["body_b"] == leader["body_b"])
            line.contradictions += int((~same).sum())
            line.repeats += int((~fresh & same).sum())
            rows = rows[fresh]
        line.windows += len(rows)
        return _heard(line, rows)


def _heard(line: Line, rows: Rows) -> Heard:
    columns: dict[str, NDArray[Any]] = {name: rows[name].copy() for name in _COLUMNS}
    content = np.stack([rows["body_a"], rows["body_b"]], axis=1)
    chunk = rows[_CHUNK].astype(np.int32)
    return Heard(line.name, line.chunks, line.templates, content=content, chunk=chunk, **columns)


def _cut(begun: Sequence[Spans], known: int) -> int:
    """Return an id to end a slice at, not behind `known`; all windows that begin before that are given."""
    prev, final = (np.concatenate(column) for column in zip(*begun, strict=True))
    order = np.argsort(prev, kind="stable")
    prev, reach = prev[order], np.maximum.accumulate(final[order])
    if reach[-1] <= known:
        return known
    ends = np.flatnonzero(prev[1:] >= reach[:-1])
    if len(ends):
        return int(prev[ends[-1] + 1])
    whole = begun[0][1][begun[0][1] <= known]
    return int(whole.max()) if len(whole) else known
