r"""A published day turned back into raw lines: what makes later generations, and the proof of conservation, possible.

Every depth row renders to the raw line it came from, every arrival row to the raw line of the copy it stands for, every verbatim row is one.
So the outputs of a day hold exactly the multiset of raw lines that the day settled, and anybody can check it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from twintape.columns.kinds import KINDS, flat_schema
from twintape.columns.lines import Chunk
from twintape.columns.render import render_lines
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

__all__ = ["Arrivals", "Outputs", "expand", "verbatim_chunks"]

Ints = NDArray[np.int64]
Smalls = NDArray[np.int32]

VERBATIM_BYTES_MIN = 64 << 20
"""A text of verbatim frames that has become so long ends, and another one begins: a header says where in two gigabytes a line is."""


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
        arrivals = Arrivals(outputs.reader("arrival", ARRIVAL), depth)
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
        chunks += verbatim_chunks(verbatim, date)
    return chunks


class Arrivals:
    """The arrival table in memory, each row joined to its depth row, in the order of depth rows.

    Attributes:
        row: int64[n], position in the depth table, ascending.
        event_time_us: int64[n]; `receive_time_ns` likewise.
        template: int16[n], position in `templates`.
        pair: int32[n], position in `pairs`, the collectors and connections.
    """

    def __init__(self, reader: TableReader | None, depth: TableReader) -> None:
        batches = [] if reader is None else list(reader)
        self.templates: list[Template] = [] if reader is None else reader.templates

        def column(name: str, kind: type) -> NDArray[Any]:
            parts: list[NDArray[Any]] = [
                np.asarray(batch.column(name).cast(pa.int64(), safe=False).to_numpy()).astype(kind) for batch in batches
            ]
            return np.concatenate([np.zeros(0, kind), *parts])

        self.event_time_us: Ints = column("event_time", np.int64)
        self.receive_time_ns: Ints = column("receive_time", np.int64)
        self.template: NDArray[np.int16] = column("template", np.int16)
        self.pairs: list[tuple[str, str]] = []
        self.pair = self._paired(batches)
        self.row = self._join(depth, column("final_update_id", np.int64), column("prev_update_id", np.int64))
        if (np.diff(self.row) < 0).any():
            order = np.argsort(self.row, kind="stable")
            self.row, self.pair, self.template = self.row[order], self.pair[order], self.template[order]
            self.event_time_us, self.receive_time_ns = self.event_time_us[order], self.receive_time_ns[order]

    def _paired(self, batches: list[pa.RecordBatch]) -> Smalls:
        known: dict[tuple[str, str], int] = {}
        found = [np.zeros(0, np.int32)]
        for batch in batches:
            collector, connection = batch.column("collector"), batch.column("connection")
            names, others = collector.dictionary.to_pylist(), connection.dictionary.to_pylist()
            code = np.asarray(collector.indices) * np.int64(len(others)) + np.asarray(connection.indices)
            used, place = np.unique(code, return_inverse=True)
            pairs = [(names[one // len(others)], others[one % len(others)]) for one in used.tolist()]
            found.append(np.array([known.setdefault(pair, len(known)) for pair in pairs], np.int32)[place])
        self.pairs = list(known)
        return np.concatenate(found)

    def _join(self, depth: TableReader, wanted_final: Ints, wanted_prev: Ints) -> Ints:
        """Find the depth row of every arrival row. Ids may repeat only in another epoch: then the nearer event time decides."""
        row = np.full(len(wanted_final), -1, np.int64)
        if len(row) == 0:
            return row
        finals, prevs, times, starts = [], [], [], [0]
        count = 0
        for group in range(depth.row_groups):
            batch = depth.read(group, ["final_update_id", "prev_update_id", "event_time", "flags"])
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
            place = np.minimum(begin + np.searchsorted(final[begin:end], wanted_final), end - 1)
            distance = np.abs(time[place] - self.event_time_us)
            hit = (final[place] == wanted_final) & (prev[place] == wanted_prev) & (distance < nearest)
            row[hit], nearest[hit] = place[hit], distance[hit]
        if (row < 0).any():
            raise CorruptionError(f"{int((row < 0).sum())} arrival rows have no depth row")
        return row

    def of(self, begin: int, end: int) -> slice:
        """Return the copies of the depth rows `[begin, end)`."""
        first, last = np.searchsorted(self.row, (begin, end)).tolist()
        return slice(first, last)

    def columns(self, depth: DepthColumns, begin: int, rows: Ints) -> DepthColumns:
        """Return some of the copies of the depth rows from `begin` on, as rows that render to their frames.

        Raises:
            CorruptionError: A copy that no template prints belongs to a depth row that one prints.
        """
        taken = _take(depth, self.row[rows] - begin)
        taken.event_time_us, taken.receive_time_ns = self.event_time_us[rows], self.receive_time_ns[rows]
        taken.template = self.template[rows]
        taken.frame = dict(self._slow_frames(depth, begin, rows))
        return taken

    def _slow_frames(self, depth: DepthColumns, begin: int, rows: Ints) -> Iterator[tuple[int, bytes]]:
        for place in np.flatnonzero(self.template[rows] < 0).tolist():
            frame = depth.frame.get(int(self.row[rows[place]]) - begin)
            if frame is None:
                raise CorruptionError("an arrival row without template belongs to a depth row without frame")
            yield place, frame


class _Cached:
    """The raw lines of one row group of a depth table with its arrivals, grouped by connection and rendered once."""

    def __init__(self, depth: TableReader, arrivals: Arrivals, group: int) -> None:
        self._depth = depth
        self._arrivals = arrivals
        self._group = group
        self._begin = group * ROW_GROUP_EVENTS
        self._rendered: dict[tuple[str, str], bytes] | None = None

    def pairs(self) -> list[tuple[str, str]]:
        batch = self._depth.read(self._group, ["collector", "connection"])
        collector, connection = (batch.column(name).cast(pa.string()).to_pylist() for name in ("collector", "connection"))
        found = set(zip(collector, connection, strict=True))
        mine = self._arrivals.of(self._begin, self._begin + batch.num_rows)
        found |= {self._arrivals.pairs[pair] for pair in np.unique(self._arrivals.pair[mine]).tolist()}
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
        columns = DepthColumns.from_batch(self._depth.read(self._group))
        parts: dict[tuple[str, str], list[bytes]] = {}
        pairs = zip(columns.collector.tolist(), columns.connection.tolist(), strict=True)
        names = [(columns.collector_names[a], columns.connection_names[b]) for a, b in pairs]
        _add(parts, names, *render_lines(columns, self._depth.templates))
        mine = self._arrivals.of(self._begin, self._begin + len(columns))
        if mine.start < mine.stop:
            rows = np.arange(mine.start, mine.stop)
            names = [self._arrivals.pairs[pair] for pair in self._arrivals.pair[mine].tolist()]
            _add(parts, names, *render_lines(self._arrivals.columns(columns, self._begin, rows), self._arrivals.templates))
        return {name: b"".join(texts) for name, texts in parts.items()}


def _add(
    parts: dict[tuple[str, str], list[bytes]], names: list[tuple[str, str]], lines: NDArray[np.uint8], offsets: Ints
) -> None:
    text = lines.tobytes()
    for name, begin, end in zip(names, offsets[:-1].tolist(), offsets[1:].tolist(), strict=True):
        parts.setdefault(name, []).append(text[begin:end])


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


def verbatim_chunks(reader: TableReader, date: str) -> list[Chunk]:
    """Return the frames of a verbatim table as chunks of a date: one for each row group and connection, or more if that is a long text."""
    chunks: list[Chunk] = []
    for batch in reader:
        collectors = batch.column("collector").cast(pa.string()).to_pylist()
        connections = batch.column("connection").cast(pa.string()).to_pylist()
        times = batch.column("receive_time").cast(pa.int64()).to_pylist()
        frames = batch.column("frame").to_pylist()
        lines: dict[tuple[str, str], list[bytes]] = {}
        sizes: Counter[tuple[str, str]] = Counter()
        for collector, connection, time, frame in zip(collectors, connections, times, frames, strict=True):
            pair, line = (collector, connection), b"%d %b\n" % (time, frame)
            lines.setdefault(pair, []).append(line)
            sizes[pair] += len(line)
            if sizes[pair] >= VERBATIM_BYTES_MIN:
                chunks.append(Chunk(*pair, -1, date, _constant(b"".join(lines.pop(pair)))))
                del sizes[pair]
        chunks += [Chunk(*pair, -1, date, _constant(b"".join(found))) for pair, found in sorted(lines.items())]
    return chunks


def _constant(text: bytes) -> Callable[[], bytes]:
    return lambda: text
