r"""A published day turned back into raw lines: what makes later generations, and the proof of conservation, possible.

Every depth row renders to the raw line it came from, every arrival row to the raw line of the copy it stands for, every verbatim row is one.
So the outputs of a day hold exactly the multiset of raw lines that the day settled, and anybody can check it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from twintape.columns.kernel import hash_lines, kernel
from twintape.columns.kinds import KINDS, flat_schema
from twintape.columns.lines import Chunk
from twintape.columns.render import render
from twintape.columns.schema import (
    ARRIVAL,
    COPY,
    DEPTH,
    EPOCH_START,
    ROW_GROUP_EVENTS,
    VERBATIM,
    DepthColumns,
    TableReader,
    Template,
)
from twintape.columns.typed import typed_chunks
from twintape.core.errors import CorruptionError

__all__ = ["LineDigests", "Outputs", "digest_lines", "expand", "missing_lines"]

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Outputs:
    """The files of one published day, by table; absent tables had no rows."""

    tables: Mapping[str, bytes]

    def reader(self, table: str, schema: pa.Schema) -> TableReader | None:
        """Open a table, or None if the day has none.

        Raises:
            CorruptionError: It is damaged.
        """
        data = self.tables.get(table)
        return None if data is None else TableReader(data, schema)


def expand(outputs: Outputs, date: str) -> list[Chunk]:
    """Return every raw line the outputs hold, as chunks of the date, each rendered when it is asked for.

    Args:
        outputs: The files of the day.
        date: The day's date.

    Returns:
        One chunk for each row group and connection. Chunks of one connection hold its lines in chain order, not in order of receipt.

    Raises:
        CorruptionError: A file is damaged, or an arrival row has no depth row.
    """
    chunks: list[Chunk] = []
    depth = outputs.reader("depth", DEPTH)
    if depth is not None:
        arrivals = _Arrivals(outputs.reader("arrival", ARRIVAL), depth)
        for group in range(depth.row_groups):
            cached = _Cached(depth, arrivals, group)
            chunks += [
                Chunk(collector, connection, -1, date, cached.loader(collector, connection))
                for collector, connection in cached.pairs()
            ]
    for kind in KINDS.values():
        typed = outputs.reader(kind.table, flat_schema(kind))
        if typed is not None:
            chunks += typed_chunks(typed, outputs.reader("copy", COPY), kind, date)
    verbatim = outputs.reader("verbatim", VERBATIM)
    if verbatim is not None:
        chunks += _verbatim_chunks(verbatim, date)
    return chunks


class _Arrivals:
    """The arrival table in memory, each row joined to its depth row."""

    def __init__(self, reader: TableReader | None, depth: TableReader) -> None:
        batches = [] if reader is None else list(reader)
        table = pa.Table.from_batches(batches, ARRIVAL)
        self.templates: list[Template] = [] if reader is None else reader.templates

        def ints(name: str) -> Ints:
            return np.asarray(table.column(name).cast(pa.int64()).to_numpy(), np.int64)

        self.prev = ints("prev_update_id")
        self.final = ints("final_update_id")
        self.event_time_us = ints("event_time")
        self.receive_time_ns = ints("receive_time")
        self.template = np.asarray(table.column("template").to_numpy(), np.int16)
        self.collector = table.column("collector").cast(pa.string()).to_pylist()
        self.connection = table.column("connection").cast(pa.string()).to_pylist()
        self.row = self._join(depth)

    def _join(self, depth: TableReader) -> Ints:
        """Find the depth row of every arrival row. Ids may repeat only in another epoch: then the nearer event time decides."""
        row = np.full(len(self.final), -1, np.int64)
        if len(row) == 0:
            return row
        finals, prevs, times, starts = [], [], [], [0]
        count = 0
        for batch in depth:
            finals.append(np.asarray(batch.column("final_update_id")))
            prevs.append(np.asarray(batch.column("prev_update_id")))
            times.append(np.asarray(batch.column("event_time").cast(pa.int64())))
            flags = np.asarray(batch.column("flags"))
            starts += [count + int(k) for k in np.flatnonzero(flags & EPOCH_START) if count + int(k) > 0]
            count += batch.num_rows
        none = np.zeros(0, np.int64)
        final, prev, time = (np.concatenate([none, *parts]) for parts in (finals, prevs, times))
        nearest = np.full(len(row), np.iinfo(np.int64).max)
        for begin, end in zip(starts, [*starts[1:], count], strict=True):
            if begin == end:
                continue
            place = np.minimum(begin + np.searchsorted(final[begin:end], self.final), end - 1)
            distance = np.abs(time[place] - self.event_time_us)
            hit = (final[place] == self.final) & (prev[place] == self.prev) & (distance < nearest)
            row[hit], nearest[hit] = place[hit], distance[hit]
        if (row < 0).any():
            raise CorruptionError(f"{int((row < 0).sum())} arrival rows have no depth row")
        return row


class _Cached:
    """The raw lines of one row group of a depth table with its arrivals, grouped by connection and rendered once."""

    def __init__(self, depth: TableReader, arrivals: _Arrivals, group: int) -> None:
        self._depth = depth
        self._arrivals = arrivals
        self._group = group
        self._begin = group * ROW_GROUP_EVENTS
        self._rendered: dict[tuple[str, str], bytes] | None = None

    def _columns(self) -> DepthColumns:
        return DepthColumns.from_batch(self._depth.read(self._group))

    def _mine(self, count: int) -> Ints:
        return np.flatnonzero((self._arrivals.row >= self._begin) & (self._arrivals.row < self._begin + count))

    def pairs(self) -> list[tuple[str, str]]:
        columns = self._columns()
        found = {
            (columns.collector_names[collector], columns.connection_names[connection])
            for collector, connection in set(zip(columns.collector.tolist(), columns.connection.tolist(), strict=True))
        }
        for row in self._mine(len(columns)).tolist():
            found.add((self._arrivals.collector[row], self._arrivals.connection[row]))
        return sorted(found)

    def loader(self, collector: str, connection: str) -> Callable[[], bytes]:
        def load() -> bytes:
            # Chunks may be loaded again: what was handed out is forgotten, and a second round renders anew.
            if self._rendered is None or (collector, connection) not in self._rendered:
                self._rendered = self._render()
            text = self._rendered.pop((collector, connection))
            if not self._rendered:
                self._rendered = None
            return text

        return load

    def _render(self) -> dict[tuple[str, str], bytes]:
        columns = self._columns()
        parts: dict[tuple[str, str], list[bytes]] = {}
        pairs = zip(columns.collector.tolist(), columns.connection.tolist(), strict=True)
        names = [(columns.collector_names[a], columns.connection_names[b]) for a, b in pairs]
        _add(parts, names, columns.receive_time_ns, *render(columns, self._depth.templates))
        mine = self._mine(len(columns))
        if len(mine):
            taken = _take(columns, self._arrivals.row[mine] - self._begin)
            slow = dict(_slow_frames(columns, self._arrivals, mine, self._begin))
            taken.event_time_us = self._arrivals.event_time_us[mine]
            taken.template = self._arrivals.template[mine]
            taken.frame = slow
            names = [(self._arrivals.collector[row], self._arrivals.connection[row]) for row in mine.tolist()]
            _add(parts, names, self._arrivals.receive_time_ns[mine], *render(taken, self._arrivals.templates))
        return {name: b"".join(texts) for name, texts in parts.items()}


def _slow_frames(columns: DepthColumns, arrivals: _Arrivals, mine: Ints, begin: int) -> Iterator[tuple[int, bytes]]:
    for place, row in enumerate(mine.tolist()):
        if arrivals.template[row] < 0:
            frame = columns.frame.get(int(arrivals.row[row]) - begin)
            if frame is None:
                raise CorruptionError("an arrival row without template belongs to a depth row without frame")
            yield place, frame


def _add(
    parts: dict[tuple[str, str], list[bytes]],
    names: list[tuple[str, str]],
    receive_time_ns: Ints,
    frames: NDArray[np.uint8],
    offsets: Ints,
) -> None:
    text = frames.tobytes()
    for name, time, begin, end in zip(names, receive_time_ns.tolist(), offsets[:-1].tolist(), offsets[1:].tolist(), strict=True):
        parts.setdefault(name, []).append(b"%d %b\n" % (time, text[begin:end]))


def _take(columns: DepthColumns, rows: Ints) -> DepthColumns:
    """Return the given rows, in this order and as often as they are named."""
    bid_offsets, bids = _gather(columns.bid_offsets, rows)
    ask_offsets, asks = _gather(columns.ask_offsets, rows)
    return DepthColumns(
        prev=columns.prev[rows],
        first=columns.first[rows],
        final=columns.final[rows],
        event_time_us=columns.event_time_us[rows],
        transaction_time_us=columns.transaction_time_us[rows],
        receive_time_ns=columns.receive_time_ns[rows],
        collector=columns.collector[rows],
        collector_names=columns.collector_names,
        connection=columns.connection[rows],
        connection_names=columns.connection_names,
        template=columns.template[rows],
        flags=columns.flags[rows],
        price_exponent=columns.price_exponent,
        quantity_exponent=columns.quantity_exponent,
        bid_offsets=bid_offsets,
        bid_price=columns.bid_price[bids],
        bid_quantity=columns.bid_quantity[bids],
        ask_offsets=ask_offsets,
        ask_price=columns.ask_price[asks],
        ask_quantity=columns.ask_quantity[asks],
    )


def _gather(offsets: Ints, rows: Ints) -> tuple[Ints, Ints]:
    counts = offsets[rows + 1] - offsets[rows]
    fresh = np.zeros(len(rows) + 1, np.int64)
    np.cumsum(counts, out=fresh[1:])
    places = np.repeat(offsets[rows] - fresh[:-1], counts) + np.arange(fresh[-1])
    return fresh, places


def _verbatim_chunks(reader: TableReader, date: str) -> list[Chunk]:
    parts: dict[tuple[str, str], list[bytes]] = {}
    for batch in reader:
        collectors = batch.column("collector").cast(pa.string()).to_pylist()
        connections = batch.column("connection").cast(pa.string()).to_pylist()
        times = batch.column("receive_time").cast(pa.int64()).to_pylist()
        frames = batch.column("frame").to_pylist()
        lines: dict[tuple[str, str], list[bytes]] = {}
        for collector, connection, time, frame in zip(collectors, connections, times, frames, strict=True):
            lines.setdefault((collector, connection), []).append(b"%d %b\n" % (time, frame))
        for (
            name,
            found,
        ) in lines.items():  # one piece of text a batch: millions of lines as objects would be three times the memory
            parts.setdefault(name, []).append(b"".join(found))
    return [
        Chunk(collector, connection, -1, date, _constant(b"".join(texts)))
        for (collector, connection), texts in sorted(parts.items())
    ]


def _constant(text: bytes) -> Callable[[], bytes]:
    return lambda: text


# --- comparing multisets of lines ----------------------------------------------------------------------------------------------


@dataclass(slots=True)
class LineDigests:
    """A multiset of raw lines: 128 bits a line, with where each came from.

    Attributes:
        digest: (uint64, uint64)[n] over collector, connection and line.
        chunk: int64[n], position of the chunk.
        offset: int64[n], where the line starts in the chunk's text; `length` (int64) is its length.
    """

    digest: NDArray[np.uint64]
    chunk: Ints
    offset: Ints
    length: Ints


def digest_lines(chunks: list[Chunk]) -> LineDigests:
    """Digest every line of every chunk.

    Raises:
        CorruptionError: A chunk is damaged.
    """
    digests, places = [], []
    for position, chunk in enumerate(chunks):
        text = np.frombuffer(chunk.load(), np.uint8)
        ends = np.flatnonzero(text == 10)
        starts = np.r_[np.int64(0), ends[:-1] + 1] if len(ends) else np.zeros(0, np.int64)
        seed = np.frombuffer(f"{chunk.collector}\n{chunk.connection}\n".encode(), np.uint8)
        out = np.empty((len(ends), 2), np.uint64)
        hash_lines(text, starts, ends, seed, out)
        digests.append(out)
        places.append(np.stack([np.full(len(ends), position, np.int64), starts, ends - starts]))
    if not digests:
        none = np.zeros(0, np.int64)
        return LineDigests(np.zeros((0, 2), np.uint64), none, none, none)
    where = np.concatenate(places, axis=1)
    return LineDigests(np.concatenate(digests), where[0], where[1], where[2])


def missing_lines(whole: LineDigests, part: LineDigests) -> tuple[Ints, int]:
    """Compare two multisets.

    Returns:
        Positions of the lines of `whole` that are not in `part`, and how many lines of `part` are not in `whole`.
    """
    order_whole = np.lexsort((whole.digest[:, 1], whole.digest[:, 0]))
    order_part = np.lexsort((part.digest[:, 1], part.digest[:, 0]))
    matched = np.zeros(len(order_whole), bool)
    strangers = _match(whole.digest[order_whole], part.digest[order_part], matched)
    return order_whole[~matched], int(strangers)


@kernel
def _match(whole: NDArray[np.uint64], part: NDArray[np.uint64], matched: NDArray[np.bool_]) -> int:
    strangers = 0
    i = 0
    for j in range(len(part)):
        while i < len(whole) and (whole[i, 0] < part[j, 0] or (whole[i, 0] == part[j, 0] and whole[i, 1] < part[j, 1])):
            i += 1
        if i < len(whole) and whole[i, 0] == part[j, 0] and whole[i, 1] == part[j, 1]:
            matched[i] = True
            i += 1
        else:
            strangers += 1
    return strangers
