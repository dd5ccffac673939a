"""All lines of one day as one table of headers: who heard which ids when, where the bytes are, and which frames belong to the day.

This is the first pass of a merge: every raw byte is read, every frame is parsed, but only headers are kept (about 100 bytes a frame).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
from numpy.typing import NDArray

from twintape.columns.parse import TemplateSet, scan
from twintape.columns.schema import Template
from twintape.columns.splice import assign_epochs
from twintape.core.markets import RULES, Market

__all__ = ["CHUNK_CACHE_MAX", "Chunk", "ChunkTexts", "DayBounds", "Lines", "day_bounds", "midnight_us", "read_lines"]

Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]

CHUNK_CACHE_MAX = 48
"""Decoded chunks (about 1 MiB each) that are kept while frames are fetched in chain order."""

DECIMALS_MAX = 8
"""Binance prints no more. A frame with more is no depth frame: one such price would take the whole day's exponents, and int64, with it."""

SLOW = -1
UNDECODABLE = -2


@dataclass(frozen=True, slots=True)
class Chunk:
    r"""Consecutive frames of one stream on one connection of one collector.

    Attributes:
        collector: Who heard them.
        connection: On which connection, `<run8>-<number>`.
        source: Position of the raw segment in the merge's inputs, or -1 if the frames come from an earlier generation.
        date: The exchange date the frames are filed under.
        load: Returns the text: lines `<receive_time_ns> <frame>\n`. May be called again; must return the same bytes.
    """

    collector: str
    connection: str
    source: int
    date: str
    load: Callable[[], bytes]


class ChunkTexts:
    """The chunks' texts by position, the least recently used ones forgotten."""

    def __init__(self, chunks: Sequence[Chunk], limit: int = CHUNK_CACHE_MAX) -> None:
        self._chunks = chunks
        self._limit = limit
        self._kept: OrderedDict[int, bytes] = OrderedDict()

    def __getitem__(self, position: int) -> bytes:
        """Return the text of chunk `position`."""
        text = self._kept.get(position)
        if text is None:
            text = self._chunks[position].load()
            self._kept[position] = text
            if len(self._kept) > self._limit:
                self._kept.popitem(last=False)
        else:
            self._kept.move_to_end(position)
        return text

    def lines(self, chunk: Ints, offset: Ints, length: NDArray[np.int32]) -> list[bytes]:
        """Return the lines (without newline) at the given places, in the given order."""
        found = []
        for c, o, n in zip(chunk.tolist(), offset.tolist(), length.tolist(), strict=True):
            found.append(self[c][o : o + n])
        return found


@dataclass(slots=True)
class Lines:
    """Headers of all frames of a day's lines: int64[n] unless said otherwise, sorted by `(epoch, final, prev, line, receive time, …)`.

    Undecodable frames (`template` -2) come first and have epoch -1. The order does not depend on the order of the chunks.

    Attributes:
        collectors: Names, sorted; `line` is a position in it.
        connections: Names, sorted; `connection` is a position in it.
        templates: How fast frames were printed, sorted; `template` (int16) is a position in it, -1 for frames only the slow reader understands.
        chunk: Position of the chunk; `offset` and `length` (int32) are the line's place in the chunk's text.
        group: Frames with the same epoch and ids have the same, ascending number; -1 for undecodable ones.
        price_decimals: int8[n], digits behind the point that the prices need; `quantity_decimals` likewise.
        hash_a: uint64[n], and `hash_b`: content of the level arrays.
    """

    collectors: list[str]
    connections: list[str]
    templates: list[Template]
    epoch: Ints
    final: Ints
    prev: Ints
    first: Ints
    line: Ints
    connection: Ints
    receive_time_ns: Ints
    event_time_us: Ints
    transaction_time_us: Ints
    template: NDArray[np.int16]
    chunk: Ints
    offset: Ints
    length: NDArray[np.int32]
    level_count: Ints
    price_decimals: NDArray[np.int8]
    quantity_decimals: NDArray[np.int8]
    hash_a: NDArray[np.uint64]
    hash_b: NDArray[np.uint64]
    group: Ints

    def __len__(self) -> int:
        return len(self.final)


def read_lines(
    chunks: Sequence[Chunk], market: Market, *, start_update_id: int | None, misfits: Set[tuple[int, int]] = frozenset()
) -> Lines:
    """Parse every frame of every chunk and keep its header.

    Args:
        chunks: All chunks that may hold frames of the day, any order.
        market: Decides what `p` is.
        start_update_id: Where the chain stood before, if known: ids far below it are a new epoch.
        misfits: `(chunk, offset)` of frames that are to be kept verbatim because their numbers leave the day's others no room in 64 bits.
    """
    found = TemplateSet()
    headers = [scan(chunk.load(), market, found) for chunk in chunks]
    collectors = sorted({chunk.collector for chunk in chunks})
    connections = sorted({chunk.connection for chunk in chunks})
    counts = [len(header.final) for header in headers]

    def join(field: str, kind: type) -> NDArray[Any]:
        parts = [np.asarray(getattr(header, field)) for header in headers]
        return np.concatenate(parts) if parts else np.zeros(0, kind)

    def spread(values: list[int]) -> Ints:
        return np.repeat(np.array(values, np.int64), counts)

    ordered = sorted(found, key=_template_key)
    renumber = np.array([ordered.index(template) for template in found] + [UNDECODABLE, SLOW], np.int16)
    hashes = np.concatenate([header.content_hash for header in headers]) if headers else np.zeros((0, 2), np.uint64)
    columns: dict[str, NDArray[Any]] = {
        "final": join("final", np.int64),
        "prev": join("prev", np.int64),
        "first": join("first", np.int64),
        "line": spread([collectors.index(chunk.collector) for chunk in chunks]),
        "connection": spread([connections.index(chunk.connection) for chunk in chunks]),
        "receive_time_ns": join("receive_time_ns", np.int64),
        "event_time_us": join("event_time_us", np.int64),
        "transaction_time_us": join("transaction_time_us", np.int64),
        # -1 and -2 index the table's end, so they keep their meaning.
        "template": renumber[join("template", np.int16).astype(np.int64)],
        "chunk": spread(list(range(len(chunks)))),
        "offset": join("offset", np.int64),
        "length": join("length", np.int32),
        "level_count": join("bid_count", np.int64).astype(np.int64) + join("ask_count", np.int64).astype(np.int64),
        "price_decimals": join("price_decimals", np.int8),
        "quantity_decimals": join("quantity_decimals", np.int8),
        "hash_a": hashes[:, 0],
        "hash_b": hashes[:, 1],
    }
    absurd = (columns["price_decimals"] > DECIMALS_MAX) | (columns["quantity_decimals"] > DECIMALS_MAX)
    columns["template"][absurd] = UNDECODABLE
    for chunk, offset in misfits:
        columns["template"][(columns["chunk"] == chunk) & (columns["offset"] == offset)] = UNDECODABLE
    readable = columns["template"] != UNDECODABLE
    epoch = np.full(len(readable), -1, np.int64)
    epoch[readable] = assign_epochs(
        columns["final"][readable],
        columns["event_time_us"][readable],
        start_update_id,
        drop_ids=RULES[market].epoch_drop_ids,
    )
    order = _order(columns, epoch)
    sorted_columns = {name: values[order] for name, values in columns.items()}
    epoch = epoch[order]
    return Lines(
        collectors=collectors,
        connections=connections,
        templates=ordered,
        epoch=epoch,
        group=_groups(epoch, sorted_columns["final"], sorted_columns["prev"]),
        **sorted_columns,
    )


def _order(columns: dict[str, NDArray[Any]], epoch: Ints) -> Ints:
    # In an imported recording one connection may have heard several frames at one time: then their content decides.
    by_content = ("hash_a", "transaction_time_us", "first", "template", "length")
    keys = ("final", "prev", "line", "receive_time_ns", "connection", "event_time_us", *by_content)
    return np.lexsort((*(columns[name] for name in reversed(keys)), epoch))


def _template_key(template: Template) -> tuple[object, ...]:
    return (template.parts, template.price_decimals, template.quantity_decimals, template.level_suffix, template.time_unit)


def _groups(epoch: Ints, final: Ints, prev: Ints) -> Ints:
    if len(epoch) == 0:
        return np.zeros(0, np.int64)
    fresh = np.ones(len(epoch), bool)
    fresh[1:] = (epoch[1:] != epoch[:-1]) | (final[1:] != final[:-1]) | (prev[1:] != prev[:-1])
    fresh &= epoch >= 0
    group = np.cumsum(fresh) - 1
    group[epoch < 0] = -1
    return group


@dataclass(frozen=True, slots=True)
class DayBounds:
    """Which frames belong to the day.

    Attributes:
        inside: bool[n], the day's frames.
        start_update_id: Where the chain stands before the day's first event; None for a day without events of which nothing is known.
        start_epoch: The epoch that id is of.
        end_update_id: Where it stands behind the last event.
        open_start: Nothing before the day is known: an edge of recording.
        open_end: Nothing behind it is.
        gap_behind: What is known behind does not join the end: whatever happened between may have been of this day.
    """

    inside: Flags
    start_update_id: int | None
    start_epoch: int
    end_update_id: int | None
    open_start: bool
    open_end: bool
    gap_behind: bool = False


def midnight_us(date: str) -> int:
    """Return the first microsecond of a UTC date.

    >>> midnight_us("1970-01-02")
    86400000000
    """
    day = datetime.fromisoformat(date).replace(tzinfo=UTC)
    return (day - _EPOCH) // timedelta(microseconds=1)


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
DAY_US = 86_400_000_000


def day_bounds(lines: Lines, chunks: Sequence[Chunk], date: str, start_pin: int | None, end_pin: int | None) -> DayBounds:
    """Decide which frames belong to `date`.

    A neighbour's pin wins. Without one the day begins behind the last event before the first event, in the order of ids, whose event time (the
    smallest any line gives it) is not before midnight. A frame that cannot be decoded belongs to the date it is filed under.

    Args:
        lines: All frames at hand, including those around the midnights on both sides.
        chunks: Where they come from.
        date: The day.
        start_pin: The end of the day before, if its proof says so.
        end_pin: The start of the day behind, if its proof says so.
    """
    inside = np.zeros(len(lines), bool)
    dates = np.array([chunk.date for chunk in chunks])
    blind = lines.epoch < 0
    if blind.any():
        inside[blind] = dates[lines.chunk[blind]] == date
    readable = np.flatnonzero(~blind)
    if len(readable) == 0:
        return DayBounds(inside, start_pin, 0, start_pin, open_start=start_pin is None, open_end=end_pin is None)
    group = lines.group[readable]
    firsts = np.flatnonzero(np.r_[True, group[1:] != group[:-1]])
    earliest = np.minimum.reduceat(lines.event_time_us[readable], firsts)
    final = lines.final[readable][firsts]
    epoch = lines.epoch[readable][firsts]
    midnight = midnight_us(date)
    begin, start, start_epoch = _start(final, epoch, earliest, midnight, start_pin)
    stop = max(begin, _stop(final, epoch, earliest, midnight + DAY_US, end_pin))
    inside[readable] = (group - group[0] >= begin) & (group - group[0] < stop)
    end = start
    if stop > begin:
        end = int(final[stop - 1])
        if start is None:
            start_epoch = int(epoch[begin])
            start = int(lines.prev[readable][firsts][begin:stop][epoch[begin:stop] == start_epoch].min())
    return DayBounds(
        inside,
        start,
        start_epoch,
        end,
        open_start=start_pin is None and begin == 0,
        open_end=end_pin is None and stop == len(final),
        gap_behind=_gap_behind(lines.prev[readable][firsts], epoch, stop, end),
    )


def _gap_behind(prev: Ints, epoch: Ints, stop: int, end: int | None) -> bool:
    """Return whether what is known of the days behind does not join the day's end: ids are missing, or the ids restart."""
    if end is None or stop == 0 or stop == len(prev):
        return False
    behind = prev[stop:][epoch[stop:] == epoch[stop - 1]]
    return len(behind) == 0 or int(behind.min()) > end


def _behind(earliest: Ints, midnight: int) -> int:
    """Return the position of the first event, in the order of ids, whose event time is not before midnight."""
    behind = np.flatnonzero(earliest >= midnight)
    return int(behind[0]) if len(behind) else len(earliest)


def _pinned(final: Ints, epoch: Ints, position: int, pin: int) -> tuple[int, int]:
    """Return the position of the first event behind a pin, and the pin's epoch: that of the nearest id before midnight (`position`)."""
    distance = np.abs(final[:position] - pin)[::-1]
    which = int(epoch[position - 1 - np.argmin(distance)]) if position else 0
    ids = np.where(epoch < which, -1, np.where(epoch > which, 2**62, final))
    return int(np.searchsorted(ids, pin, side="right")), which


def _start(final: Ints, epoch: Ints, earliest: Ints, midnight: int, pin: int | None) -> tuple[int, int | None, int]:
    """Return the position of the day's first event, the id before it (None at an edge of recording), and that id's epoch."""
    position = _behind(earliest, midnight)
    if pin is not None:
        begin, which = _pinned(final, epoch, position, pin)
        return begin, pin, which
    if position == 0:
        return 0, None, 0
    return position, int(final[position - 1]), int(epoch[position - 1])


def _stop(final: Ints, epoch: Ints, earliest: Ints, midnight: int, pin: int | None) -> int:
    """Return the position behind the day's last event."""
    position = _behind(earliest, midnight)
    return position if pin is None else _pinned(final, epoch, position, pin)[0]
