"""The work of one day as picklable tasks: read blocks and parents from the scratch disk, call the pure merge, return bytes and findings."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from twintape.columns import findings
from twintape.columns.blocks import read_block
from twintape.columns.books import BookRow, SnapshotCopy, SnapshotRow
from twintape.columns.checkpoint import EVERYWHERE, NOWHERE, Region
from twintape.columns.digests import digest_lines, missing_lines
from twintape.columns.expand import Outputs, expand
from twintape.columns.fates import Fate
from twintape.columns.kept import WORD_BYTES
from twintape.columns.lines import Chunk, HeaderPlace
from twintape.columns.merge import DayRequest, merge_depth_day
from twintape.columns.messages import merge_messages_day
from twintape.columns.parse import HEADER, Headers
from twintape.columns.schema import SNAPSHOT, Table, TableReader
from twintape.columns.snapshots import read_snapshot
from twintape.columns.tallies import message_fates, message_gaps, message_statistics, messages_by_source
from twintape.columns.verify import Verified, verify_day
from twintape.columns.witness import partial_levels
from twintape.columns.worth import line_values
from twintape.core import segment
from twintape.core.errors import CorruptionError, WireError
from twintape.core.evidence import Checkpoints, LineValue, PartialBooks, Sanity, Tickers, Windows
from twintape.core.manifest import (
    BookDigest,
    EpochStart,
    Fates,
    GapRecord,
    LineStatistics,
    Overlap,
    PathRun,
    Switch,
    UnknownRange,
)
from twintape.core.markets import Market
from twintape.core.wire import decode_snapshot, recorded_snapshot
from twintape.io.ports import Disk
from twintape.io.scratch import HeaderRef, Place, Reader

__all__ = ["BlockRef", "DayResult", "DayTask", "merge_day", "read_book", "read_snapshots", "verify_task"]

_LIMIT = re.compile(rb'"url":"[^"]*[?&]limit=(\d{1,5})')


@dataclass(frozen=True, slots=True)
class BlockRef:
    """A block of a raw segment on the scratch disk.

    Attributes:
        source: The segment's position among the merge's inputs.
        place: Where the segment is.
        collector: Who recorded it.
        connection: On which connection, as the archive names it.
        block: Which part of the segment.
        headers: Of a depth stream: where the headers of the block's lines are.
        text: Of a block of control lines: its text.
    """

    source: int
    place: Place
    collector: str
    connection: str
    block: segment.Block
    headers: HeaderRef | None = None
    text: bytes | None = None


@dataclass(frozen=True, slots=True)
class DayTask:
    """Everything one day's merge needs; picklable.

    Attributes:
        market: The day's market.
        symbol: Its symbol.
        stream: Its stream.
        date: Its date.
        spliced: Whether the stream is a depth stream.
        scratch: The scratch disk, or the directory of a posix one.
        sources: How many raw segments there are.
        blocks: The stream's blocks.
        snapshots: Blocks of the symbol's REST snapshots.
        tickers: Blocks of the symbol's bookTicker that its top is compared with.
        partials: `(levels a side, block)` of its partial book streams.
        archived_witnesses: Stream → table → path of published witness streams whose raw segments are gone.
        archived_snapshots: Paths of published verbatim tables with REST snapshots of the symbol whose raw segments are gone.
        parent: Table → path of the outputs of the generation before, when raw segments of its lineage are not among the blocks; else empty.
        inherited: Which of the raw segments are of its lineage.
        start_pin: The end of the day before.
        end_pin: The start of the day behind.
        opening: Path of the snapshot table of the day before, whose closing book opens this day, or None.
    """

    market: Market
    symbol: str
    stream: str
    date: str
    spliced: bool
    scratch: Disk | str
    sources: int
    blocks: list[BlockRef]
    snapshots: list[BlockRef] = field(default_factory=list)
    tickers: list[BlockRef] = field(default_factory=list)
    partials: list[tuple[int, BlockRef]] = field(default_factory=list)
    archived_witnesses: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    archived_snapshots: list[str] = field(default_factory=list)
    parent: dict[str, str] = field(default_factory=dict)
    inherited: frozenset[int] = frozenset()
    start_pin: int | None = None
    end_pin: int | None = None
    opening: str | None = None


@dataclass(frozen=True, slots=True)
class DayResult:
    """What a day's merge returns: tables, and the proof's fields that follow from the frames alone."""

    tables: list[Table]
    start_update_id: int | None
    end_update_id: int | None
    open_start: bool
    open_end: bool
    gap_behind: bool
    events: int
    levels: int
    first_event_time_us: int | None
    last_event_time_us: int | None
    closing: BookDigest | None
    lines_agree: int
    conflicts: int
    slow: int
    settled_total: int
    settled: list[int]
    path: list[PathRun] = field(default_factory=list)
    switches: list[Switch] = field(default_factory=list)
    overlaps: list[Overlap] = field(default_factory=list)
    gaps: list[GapRecord] = field(default_factory=list)
    epochs: list[EpochStart] = field(default_factory=list)
    book_unknown: list[UnknownRange] = field(default_factory=list)
    checkpoints: Checkpoints = field(default_factory=Checkpoints)
    tickers: Tickers | None = None
    partial_books: PartialBooks | None = None
    windows: Windows | None = None
    sanity: Sanity | None = None
    lines: list[LineStatistics] = field(default_factory=list)
    redundancy: list[LineValue] = field(default_factory=list)
    fates: Fates = field(default_factory=Fates)


@dataclass(frozen=True, slots=True)
class KeptLevels:
    """The levels that one process kept of a share; two of the same file are equal."""

    disk: Reader
    path: str

    def __call__(self, first: int, count: int) -> NDArray[np.int64]:
        """Return words from the position `first` on."""
        return np.frombuffer(self.disk.read(self.path, WORD_BYTES * first, WORD_BYTES * count), np.int64)


@dataclass(frozen=True, slots=True)
class HeaderRows:
    """A file of headers; two of the same file are equal."""

    disk: Reader
    path: str

    def __call__(self, first: int, count: int) -> NDArray[np.void]:
        """Return so many headers from the position `first` on, whose changes nobody else sees."""
        return np.frombuffer(self.disk.map(self.path, HEADER.itemsize * first, HEADER.itemsize * count), HEADER)


def _chunk(disk: Reader, ref: BlockRef) -> Chunk:
    def load() -> bytes:
        if ref.text is not None:
            return ref.text
        # The pass over the whole object has counted the lines.
        data = disk.read(ref.place.path, ref.place.offset + ref.block.offset, ref.block.size)
        return read_block(data, ref.block)

    if ref.headers is None:
        return Chunk(ref.collector, ref.connection, ref.source, ref.block.date, load)
    place, templates, levels = ref.headers

    def headers() -> Headers:
        return Headers(np.frombuffer(disk.read(place.path, place.offset, place.size), HEADER), templates)

    kept = KeptLevels(disk, levels)
    rows = HeaderPlace(HeaderRows(disk, place.path), place.offset // HEADER.itemsize, templates)
    return Chunk(ref.collector, ref.connection, ref.source, ref.block.date, load, headers, ref.block.count, kept, rows)


def _chunks(task: DayTask, disk: Reader) -> list[Chunk]:
    chunks = [_chunk(disk, ref) for ref in task.blocks]
    if task.parent:
        outputs = Outputs({table: disk.read(path) for table, path in task.parent.items()})
        again = [chunk for chunk in chunks if chunk.source in task.inherited]
        chunks = [*_remnants(expand(outputs, task.date), again), *chunks]
    return chunks


def _archived_witnesses(task: DayTask, disk: Reader) -> Iterator[tuple[int | None, Chunk]]:
    """Yield the frames of published witness streams with the levels a side they have, None for bookTicker."""
    for stream, tables in task.archived_witnesses:
        outputs = Outputs({table: disk.read(path) for table, path in tables.items()})
        yield from ((partial_levels(stream), chunk) for chunk in expand(outputs, task.date))


def _remnants(parent: list[Chunk], raw: list[Chunk]) -> list[Chunk]:
    """Return the lines of the generation before whose raw segments are gone: what is at hand is read anew, for the day's bounds may have moved.

    `raw` is of the segments it was made from: a line that another segment holds once more, such as a spool that was put back from a copy, was heard twice.
    """
    lines = digest_lines(parent)
    gone, _ = missing_lines(lines, digest_lines(raw))
    places: dict[int, list[tuple[int, int]]] = {}
    for row in np.sort(gone).tolist():
        places.setdefault(int(lines.chunk[row]), []).append((int(lines.offset[row]), int(lines.length[row])))
    return [
        replace(parent[position], load=_cut(parent[position], kept), headers=None, place=None)
        for position, kept in places.items()
    ]


def _cut(chunk: Chunk, kept: list[tuple[int, int]]) -> Callable[[], bytes]:
    def load() -> bytes:
        text = chunk.load()
        return b"".join(text[offset : offset + length + 1] for offset, length in kept)

    return load


def merge_day(task: DayTask) -> DayResult:
    """Merge one day of one stream.

    Raises:
        CorruptionError: A block or a parent's output is damaged.
    """
    disk = Reader(task.scratch)
    chunks = _chunks(task, disk)
    return _merge_depth(task, disk, chunks) if task.spliced else _merge_messages(task, chunks)


def _merge_depth(task: DayTask, disk: Reader, chunks: list[Chunk]) -> DayResult:
    opening = None if task.opening is None else read_book(disk.read(task.opening), "closing")
    archived = [*_archived_witnesses(task, disk)]
    request = DayRequest(
        market=task.market,
        symbol=task.symbol,
        stream=task.stream,
        date=task.date,
        start_update_id=task.start_pin,
        end_update_id=task.end_pin,
        opening=opening,
        snapshots=[*_recorded_snapshots(task, disk)],
        tickers=[*(_chunk(disk, ref) for ref in task.tickers), *(chunk for levels, chunk in archived if levels is None)],
        partials=[
            *((levels, _chunk(disk, ref)) for levels, ref in task.partials),
            *((levels, chunk) for levels, chunk in archived if levels is not None),
        ],
    )
    day = merge_depth_day(request, chunks)
    times = day.lines.event_time_us[day.fates.chain]
    fates = findings.fate_table(day)
    return DayResult(
        tables=day.tables,
        start_update_id=day.bounds.start_update_id,
        end_update_id=day.bounds.end_update_id,
        open_start=day.bounds.open_start,
        open_end=day.bounds.open_end,
        gap_behind=day.bounds.gap_behind,
        events=len(day.fates.chain),
        levels=day.level_count,
        first_event_time_us=int(times[0]) if len(times) else None,
        last_event_time_us=int(times[-1]) if len(times) else None,
        closing=day.closing,
        lines_agree=sum(fates.duplicate.values()),
        conflicts=sum(fates.verbatim.get("conflict", {}).values()) + day.windows.conflicting,
        slow=int(np.count_nonzero(day.lines.template[day.fates.chain] < 0)),
        settled_total=int(np.count_nonzero(day.fates.fate != Fate.OWED)),
        settled=findings.settled_by_source(day, chunks, task.sources),
        path=findings.path_runs(day),
        switches=findings.switches(day),
        overlaps=findings.overlaps(day),
        gaps=findings.gaps(day),
        epochs=findings.epochs(day),
        book_unknown=findings.unknown_ranges(day),
        checkpoints=day.checkpoints,
        tickers=day.tickers,
        partial_books=day.partial_books,
        windows=day.windows,
        sanity=day.sanity,
        lines=findings.line_statistics(day),
        redundancy=line_values(day),
        fates=fates,
    )


def _merge_messages(task: DayTask, chunks: list[Chunk]) -> DayResult:
    """A stream that is not spliced: its frames belong to the date they are filed under."""
    own = [chunk for chunk in chunks if chunk.date == task.date]
    owed: Counter[str] = Counter()
    for chunk in chunks:
        if chunk.date != task.date:
            owed[chunk.collector] += chunk.load().count(b"\n")
    day = merge_messages_day(task.stream, own)
    settled = messages_by_source(day, own, task.sources)
    fates = message_fates(day, dict(owed))
    known = day.event_times_us[day.event_times_us >= 0]
    return DayResult(
        tables=day.tables,
        start_update_id=int(day.ids[0]) - 1 if day.contiguous and len(day.ids) else None,
        end_update_id=int(day.ids[-1]) if day.contiguous and len(day.ids) else None,
        open_start=False,
        open_end=False,
        gap_behind=False,
        events=len(day.ids),
        levels=0,
        first_event_time_us=int(known.min()) if len(known) else None,
        last_event_time_us=int(known.max()) if len(known) else None,
        closing=None,
        lines_agree=sum(fates.duplicate.values()),
        conflicts=sum(fates.verbatim.get("conflict", {}).values()),
        slow=0,
        settled_total=len(day.fate),
        settled=settled,
        gaps=message_gaps(day),
        lines=message_statistics(day, dict(owed)),
        fates=fates,
    )


def verify_task(task: DayTask, outputs: dict[str, bytes], result: DayResult) -> Verified:
    """Verify what was read back from the store against the raw lines; see `columns.verify`.

    Raises:
        CorruptionError: It is not what the raw lines say. Nothing may be published.
    """
    verified = verify_day(
        _chunks(task, Reader(task.scratch)),
        Outputs(outputs),
        date=task.date,
        market=task.market,
        start_update_id=result.start_update_id,
        end_update_id=result.end_update_id,
    )
    if verified.settled != result.settled_total:
        raise CorruptionError(f"the outputs hold {verified.settled} raw lines, the merge settled {result.settled_total}")
    if verified.chain is not None:
        inner = [(gap.after_update_id, gap.next_prev_update_id) for gap in result.gaps if gap.from_event_time_us is not None]
        if verified.chain.gaps != inner or verified.chain.rows != result.events:
            raise CorruptionError(f"the archived chain has gaps {verified.chain.gaps}, the merge found {inner}")
    return verified


# --- snapshots and books -------------------------------------------------------------------------------------------------------


def _recorded_snapshots(task: DayTask, disk: Reader) -> Iterator[SnapshotCopy]:
    """Return the REST snapshots of the raw blocks, of the archive and of the parent, each once."""
    seen: set[tuple[str, str, int, int]] = set()
    raw = (copy for ref in task.snapshots for copy in _decoded(ref.collector, ref.connection, _chunk(disk, ref).load()))
    archived = (
        copy
        for path in task.archived_snapshots
        for chunk in expand(Outputs({"verbatim": disk.read(path)}), task.date)
        for copy in _decoded(chunk.collector, chunk.connection, chunk.load())
    )
    parent = _archived_snapshots(disk.read(task.parent["snapshot"])) if "snapshot" in task.parent else iter(())
    for copy in (*raw, *archived, *parent):
        identity = (copy.collector, copy.connection, copy.receive_time_ns, copy.snapshot.last_update_id)
        if identity not in seen:
            seen.add(identity)
            yield copy


def _decoded(collector: str, connection: str, text: bytes) -> Iterator[SnapshotCopy]:
    for receive_time_ns, frame in segment.parse_text(text):
        recorded = recorded_snapshot(frame)
        if recorded is None or recorded.status != 200:
            continue
        try:
            snapshot = read_snapshot(recorded.body)
        except WireError:
            continue  # kept verbatim by the snapshot stream's own day; it cannot anchor anything
        limit = _LIMIT.search(frame[:1024])
        yield SnapshotCopy(collector, connection, receive_time_ns, int(limit[1]) if limit else 0, snapshot)


def _archived_snapshots(data: bytes) -> Iterator[SnapshotCopy]:
    for row in _rows(data):
        if row["kind"] != "rest":
            continue
        book = _book(row)
        snapshot = replace(_EMPTY, last_update_id=book.update_id, event_time_us=row["event_time"])
        snapshot = replace(
            snapshot,
            transaction_time_us=row["transaction_time"],
            bids=_texts(book.bid_price, book.price_exponent, book.bid_quantity, book.quantity_exponent),
            asks=_texts(book.ask_price, book.price_exponent, book.ask_quantity, book.quantity_exponent),
        )
        yield SnapshotCopy(row["collector"], row["connection"], row["receive_time"], row["limit"] or 0, snapshot)


_EMPTY = decode_snapshot(b'{"lastUpdateId":0,"bids":[],"asks":[]}')


def _texts(price: object, price_exponent: int, quantity: object, quantity_exponent: int) -> tuple[tuple[str, str], ...]:
    return tuple(
        (decimal_text(int(p), price_exponent), decimal_text(int(q), quantity_exponent))
        for p, q in zip(np.asarray(price).tolist(), np.asarray(quantity).tolist(), strict=True)
    )


def decimal_text(mantissa: int, exponent: int) -> str:
    """Return `mantissa * 10**exponent` as a plain decimal.

    >>> decimal_text(150, -2), decimal_text(5, -3), decimal_text(7, 0)
    ('1.50', '0.005', '7')
    """
    if exponent == 0:
        return str(mantissa)
    digits = str(mantissa).rjust(1 - exponent, "0")
    return f"{digits[:exponent]}.{digits[exponent:]}"


def _rows(data: bytes) -> list[dict[str, Any]]:
    reader = TableReader(data, SNAPSHOT)
    rows = []
    for batch in reader:
        columns = {}
        for name in SNAPSHOT.names:
            column = batch.column(name)
            if pa.types.is_timestamp(column.type):
                column = column.cast(pa.int64())
            elif pa.types.is_dictionary(column.type):
                column = column.cast(pa.string())
            columns[name] = column.to_pylist()
        rows += [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    return rows


def _book(row: dict[str, Any]) -> BookRow:
    def side(name: str) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        return np.array(row[name], np.int64)

    return BookRow(
        int(str(row["last_update_id"])),
        int(str(row["price_exponent"])),
        int(str(row["quantity_exponent"])),
        side("bid_price"),
        side("bid_quantity"),
        side("ask_price"),
        side("ask_quantity"),
        _region(row["known_low"], row["known_high"]),
    )


def _region(low: int | None, high: int | None) -> Region:
    return NOWHERE if low is None else Region(low, EVERYWHERE.high if high is None else high)


def read_book(data: bytes, kind: str) -> BookRow | None:
    """Return the opening or closing book of a snapshot table, or None if it has none.

    Raises:
        CorruptionError: The table is damaged.
    """
    for row in _rows(data):
        if row["kind"] == kind:
            return _book(row)
    return None


def read_snapshots(data: bytes) -> list[SnapshotRow]:
    """Return every row of a snapshot table, in its order.

    Raises:
        CorruptionError: The table is damaged.
    """
    return [
        SnapshotRow(row["kind"], row["verdict"], row["limit"] or 0, row["receive_time"] or 0, _book(row)) for row in _rows(data)
    ]
