"""One line of one stream, compactly: the windows it heard, in the order of ids, each once.

About 90 bytes an event stay in memory, of which the text is not part: texts are read chunk by chunk, and again for what is looked at closer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from twintape.columns.lines import Chunk
from twintape.columns.parse import SLOW, UNDECODABLE, Headers, TemplateSet, frame_of, scan
from twintape.columns.schema import DECIMALS_MAX
from twintape.columns.splice import assign_epochs
from twintape.core.markets import RULES, Market

__all__ = ["Heard", "hear"]

Ints = NDArray[np.int64]

EPOCH_IDS = 1 << 52
"""Ids of a restarted id space are moved up by this much, so that they never meet those before; no id is as great."""


@dataclass(slots=True)
class Heard:
    """What one line heard of one stream; arrays have one element for each window, sorted by `(final, prev)`.

    Attributes:
        name: The line.
        chunks: Where the frames are.
        templates: What `template` is a position in, shared by all lines that are compared; -1: a frame no template prints.
        prev: The window is `(prev, final]`; ids of later epochs are moved up by `EPOCH_IDS` each.
        chunk: Position in `chunks`; `offset` and `length` are the frame's line there.
        content: uint64[n, 2]: hashes of the text from the first level to the last.
        frames: Frames heard, all of them.
        repeats: Of them, further copies of a window with the same content.
        contradictions: Of them, copies of a window with other content: the line contradicts itself.
        undecodable: Of them, what is no depth frame.
        late: Windows heard behind one with greater ids, on the same connection.
        connections: How many connections the line consists of.
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
    frames: int = 0
    repeats: int = 0
    contradictions: int = 0
    undecodable: int = 0
    late: int = 0
    connections: int = 0

    def __len__(self) -> int:
        return len(self.final)

    def frame(self, row: int) -> bytes:
        """Return the frame of a window, verbatim."""
        return frame_of(self.chunks[int(self.chunk[row])].load(), int(self.offset[row]), int(self.length[row]))

    def take(self, rows: Ints) -> Heard:
        """Return some of the windows; the counts are those of the whole line."""
        return replace(self, **{name: getattr(self, name)[rows] for name in _COLUMNS})


_SCANNED = (
    "prev", "first", "final", "event_time_us", "transaction_time_us", "receive_time_ns", "template", "offset", "length",
    "price_decimals", "quantity_decimals",
)  # fmt: skip
_COLUMNS = (*_SCANNED, "content", "chunk")


def hear(lines: Sequence[tuple[str, Sequence[Chunk]]], market: Market) -> list[Heard]:
    """Read all lines of one stream.

    Args:
        lines: Name and chunks of each.
        market: Decides what an event covers.

    Raises:
        CorruptionError: A chunk is damaged.
    """
    templates = TemplateSet()
    raw = [_read(name, chunks, market, templates) for name, chunks in lines]
    _separate_epochs(raw, market)
    return [_sorted(line) for line in raw]


def _read(name: str, chunks: Sequence[Chunk], market: Market, templates: TemplateSet) -> Heard:
    parts: dict[str, list[NDArray[np.generic]]] = {column: [] for column in _COLUMNS}
    highest: dict[str, int] = {}
    frames = undecodable = late = 0
    for position, chunk in enumerate(chunks):
        text = chunk.load()
        header = scan(text, market, templates)
        precise = (header.price_decimals <= DECIMALS_MAX) & (header.quantity_decimals <= DECIMALS_MAX)
        known = np.flatnonzero((header.template != UNDECODABLE) & precise)
        frames += len(header)
        undecodable += len(header) - len(known)
        final = header.final[known]
        late += _late(final, highest.get(chunk.connection, -1))
        highest[chunk.connection] = max(highest.get(chunk.connection, -1), int(final.max(initial=-1)))
        content = _content(header)[known]
        for row in np.flatnonzero(header.template[known] == SLOW).tolist():
            # No template tells what else such a frame says: its whole text, but for `E`, is its content.
            at = int(known[row])
            content[row] = _frame_hash(frame_of(text, int(header.offset[at]), int(header.length[at])), header.event_time_us[at])
        for column in _SCANNED:
            parts[column].append(getattr(header, column)[known])
        parts["content"].append(content)
        parts["chunk"].append(np.full(len(known), position, np.int32))
    nothing = scan(b"", market, templates)
    empty: dict[str, NDArray[np.generic]] = {column: getattr(nothing, column) for column in _SCANNED}
    empty |= {"content": _content(nothing), "chunk": np.zeros(0, np.int32)}
    joined = {column: np.concatenate([empty[column], *arrays]) for column, arrays in parts.items()}
    connections = len({chunk.connection for chunk in chunks})
    return Heard(name, chunks, templates, **joined, frames=frames, undecodable=undecodable, late=late, connections=connections)  # type: ignore[arg-type]  # every column by its name


def _content(header: Headers) -> NDArray[np.uint64]:
    return np.stack([header.body_a, header.body_b], axis=1)


def _late(final: Ints, before: int) -> int:
    if len(final) == 0:
        return 0
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


def _separate_epochs(lines: Sequence[Heard], market: Market) -> None:
    final = np.concatenate([np.zeros(0, np.int64), *(line.final for line in lines)])
    times = np.concatenate([np.zeros(0, np.int64), *(line.event_time_us for line in lines)])
    epochs = assign_epochs(final, times, None, drop_ids=RULES[market].epoch_drop_ids)
    if not epochs.any():
        return
    begin = 0
    for line in lines:
        moved = epochs[begin : begin + len(line)] * EPOCH_IDS
        line.prev, line.first, line.final = line.prev + moved, line.first + moved, line.final + moved
        begin += len(moved)


def _sorted(line: Heard) -> Heard:
    """Sort by ids; of several copies of a window the one heard first stays."""
    order = np.lexsort((line.receive_time_ns, line.prev, line.final))
    line = line.take(order)
    if len(line) == 0:
        return line
    fresh = np.ones(len(line), bool)
    fresh[1:] = (line.final[1:] != line.final[:-1]) | (line.prev[1:] != line.prev[:-1])
    leader = np.flatnonzero(fresh)[np.cumsum(fresh) - 1]
    same = (line.content == line.content[leader]).all(axis=1)
    line.contradictions = int((~same).sum())
    line.repeats = int((~fresh & same).sum())
    return line.take(np.flatnonzero(fresh))
