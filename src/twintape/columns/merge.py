"""One day of one depth stream: the lines of all collectors in, the archive's tables and everything a proof says about them out.

A pure function of the multiset of raw lines and of what the neighbours pinned. Where the lines come from (raw segments or an earlier generation,
which renders back to raw lines) makes no difference, nor does their order, nor who computes it.

Three passes: headers of every line (`lines`), the decision (`fates`), then the chosen frames' levels in chain order, a batch at a time.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from twintape.columns.agreement import compare_windows
from twintape.columns.books import BookRow, DayBook, SnapshotCopy
from twintape.columns.checkpoint import EVERYWHERE, Region
from twintape.columns.chosen import ChosenLevels, MisfitError
from twintape.columns.fates import VERBATIM, Fate, Fates, decide
from twintape.columns.lines import SLOW, Chunk, ChunkTexts, DayBounds, Lines, day_bounds, read_lines
from twintape.columns.parse import LevelDecoder, Levels, TemplateSet, exponents
from twintape.columns.sanity import SanityTally
from twintape.columns.schema import (
    ARRIVAL,
    BOOK_UNKNOWN,
    DECIMALS_MAX,
    DEPTH,
    EPOCH_START,
    GAP_BEFORE,
    LINE_SWITCH,
    OVERLAP,
    ROW_GROUP_EVENTS,
    SNAPSHOT,
    DepthColumns,
    Table,
    TableWriter,
    dictionary_array,
    nullable_times,
)
from twintape.columns.snapshots import decimals_of, sides_of
from twintape.columns.verbatim import REASONS, Places, verbatim_table
from twintape.columns.witness import Chain, compare_tickers, sample_partials
from twintape.core.errors import CorruptionError
from twintape.core.evidence import Checkpoints, PartialBooks, Sanity, Tickers, Windows
from twintape.core.manifest import BookDigest
from twintape.core.markets import Market

__all__ = ["DayRequest", "MergedDay", "Table", "merge_depth_day"]

Ints = NDArray[np.int64]

MISFIT_ROUNDS_MAX = 8
"""How often a day is merged anew without the frames whose numbers do not fit together with the others."""


@dataclass(frozen=True, slots=True)
class DayRequest:
    """What is asked, beside the lines.

    Attributes:
        market: Decides what an event covers.
        symbol: For messages.
        stream: Likewise.
        date: The UTC date.
        start_update_id: The end of the day before, pinned by its proof, or None.
        end_update_id: The start of the day behind, pinned by its proof, or None.
        opening: The closing book of the day before, or None.
        snapshots: REST snapshots of the symbol around the day, any order.
        tickers: bookTicker frames of the symbol around the day, any order: they are compared with the book, and change nothing.
        partials: `(levels a side, frames)` of its partial book streams, likewise.
    """

    market: Market
    symbol: str
    stream: str
    date: str
    start_update_id: int | None = None
    end_update_id: int | None = None
    opening: BookRow | None = None
    snapshots: Sequence[SnapshotCopy] = ()
    tickers: Sequence[Chunk] = ()
    partials: Sequence[tuple[int, Chunk]] = ()


@dataclass(frozen=True, slots=True)
class MergedDay:
    """What a merge made and found.

    Attributes:
        tables: The files, `depth` first; a table without rows is left out, except `depth`.
        lines: Headers of all frames.
        bounds: Which belong to the day.
        fates: What became of them.
        flags: uint8[k], by chain position.
        level_count: Levels in the chain.
        checkpoints: How the snapshots compared.
        tickers: How bookTicker compared, None without any.
        partial_books: How partial books compared, None without any.
        windows: How lines compared that are cut differently.
        sanity: What no working exchange does, counted.
        closing: The book at the end, with its digest, or None.
    """

    tables: list[Table]
    lines: Lines
    bounds: DayBounds
    fates: Fates
    flags: NDArray[np.uint8]
    level_count: int
    checkpoints: Checkpoints
    tickers: Tickers | None
    partial_books: PartialBooks | None
    windows: Windows
    sanity: Sanity
    closing: BookDigest | None


def merge_depth_day(request: DayRequest, chunks: Sequence[Chunk]) -> MergedDay:
    """Merge the lines of one day.

    Args:
        request: The day, its pins, its opening book and its snapshots.
        chunks: Every chunk of every line that may hold frames of the day, any order; read up to three times.

    Returns:
        Tables and findings. The same multiset of lines and the same request give the same bytes.

    Raises:
        CorruptionError: A chunk is damaged, or there is no end of numbers that do not fit together.
    """
    misfits: frozenset[tuple[int, int]] = frozenset()
    for _ in range(MISFIT_ROUNDS_MAX):
        try:
            return _merge(request, chunks, misfits)
        except MisfitError as error:
            # One absurd number must not cost the day: its frame is kept verbatim, and the ids it covers are missing if no line has them otherwise.
            misfits |= error.places
    raise CorruptionError(
        f"after {MISFIT_ROUNDS_MAX} rounds there are still numbers that do not fit into 64 bits with the others"
    )


def _merge(request: DayRequest, chunks: Sequence[Chunk], misfits: frozenset[tuple[int, int]]) -> MergedDay:
    texts = ChunkTexts(chunks)
    lines = read_lines(chunks, request.market, start_update_id=request.start_update_id, misfits=misfits)
    bounds = day_bounds(lines, chunks, request.date, request.start_update_id, request.end_update_id)
    settled = np.array([chunk.source < 0 for chunk in chunks], bool)[lines.chunk]
    fates = decide(lines, bounds, texts, request.market, settled)
    snapshots, finest = _usable(request, lines, fates)
    flags = _flags(lines, bounds, fates)
    chain = Chain(
        lines.epoch[fates.chain].astype(np.int64),
        lines.prev[fates.chain],
        lines.final[fates.chain],
        lines.receive_time_ns[fates.chain],
    )
    book = DayBook(
        final=chain.final,
        prev=chain.prev,
        receive_time_ns=chain.receive_time_ns,
        breaks=np.flatnonzero(flags & (GAP_BEFORE | EPOCH_START)),
        snapshots=snapshots,
        price_exponent=finest[0],
        quantity_exponent=finest[1],
        partials=sample_partials(chain, request.market, request.partials),
    )
    book.open(request.opening)
    sanity = SanityTally(finest[0])
    depth, level_count = _write_depth(request.market, lines, fates, flags, chunks, texts, book, sanity)
    closing_row = book.closing(bounds.end_update_id)
    closing = None if closing_row is None else _digest(closing_row, book.closing_sha256())
    tables = [
        depth,
        _write_arrival(lines, fates),
        _write_snapshots(request.opening, book, closing_row),
        _write_verbatim(lines, fates, texts),
    ]
    return MergedDay(
        tables=[table for table in tables if table.rows or table.name == "depth"],
        lines=lines,
        bounds=bounds,
        fates=fates,
        flags=flags,
        level_count=level_count,
        checkpoints=book.results(),
        tickers=compare_tickers(chain, (flags & BOOK_UNKNOWN) == 0, book.tops, finest, request.tickers),
        partial_books=book.partial_results(),
        windows=compare_windows(lines, fates, texts, request.market, finest),
        sanity=sanity.result(
            book.crossed,
            *(values[fates.chain] for values in (lines.event_time_us, lines.transaction_time_us, lines.receive_time_ns)),
        ),
        closing=closing,
    )


def _usable(request: DayRequest, lines: Lines, fates: Fates) -> tuple[list[SnapshotCopy], tuple[int, int]]:
    """Return the snapshots in order, and the exponents that hold every number of the day exactly."""
    chain = fates.chain
    price_exponent, quantity_exponent = exponents(lines.price_decimals[chain], lines.quantity_decimals[chain])
    price, quantity = [-price_exponent], [-quantity_exponent]
    if request.opening is not None:
        price.append(-request.opening.price_exponent)
        quantity.append(-request.opening.quantity_exponent)
    ordered = sorted(request.snapshots, key=lambda s: (s.snapshot.last_update_id, s.collector, s.receive_time_ns, s.connection))
    first, last = _ends(lines, fates)
    # The others speak of no id of this day's chain: they belong to a neighbour.
    near = [copy for copy in ordered if first <= copy.snapshot.last_update_id <= last]
    # A number with more digits than Binance ever prints would not leave the others room in 64 bits.
    near = [copy for copy in near if max(decimals_of(copy.snapshot)) <= DECIMALS_MAX]
    for copy in near:
        decimals = decimals_of(copy.snapshot)
        price.append(decimals[0])
        quantity.append(decimals[1])
    finest = (-max(price), -max(quantity))
    return [copy for copy in near if _fits(copy, finest)], finest


def _ends(lines: Lines, fates: Fates) -> tuple[int, int]:
    """Return the least and the greatest id that the chain begins or ends an event with."""
    if len(fates.chain) == 0:
        return 0, -1
    return int(lines.prev[fates.chain].min()), int(lines.final[fates.chain].max())


def _fits(copy: SnapshotCopy, finest: tuple[int, int]) -> bool:
    try:
        sides_of(copy.snapshot, *finest)
    except OverflowError:  # a number beyond 64 bits: no book of ours can hold it
        return False
    return True


def _flags(lines: Lines, bounds: DayBounds, fates: Fates) -> NDArray[np.uint8]:
    chain = fates.chain
    flags = np.zeros(len(chain), np.uint8)
    flags[fates.gap_after >= 0] |= GAP_BEFORE
    flags[fates.overlap_at >= 0] |= OVERLAP
    if len(chain):
        flags[1:][lines.line[chain[1:]] != lines.line[chain[:-1]]] |= LINE_SWITCH
        flags[1:][lines.epoch[chain[1:]] != lines.epoch[chain[:-1]]] |= EPOCH_START
        if lines.epoch[chain[0]] != bounds.start_epoch:
            flags[0] |= EPOCH_START
    return flags


def _used_templates(lines: Lines, rows: Ints) -> tuple[TemplateSet, NDArray[np.int16]]:
    """Return the templates of the rows, and the new code of each old one: a file lists no template of frames it does not hold."""
    used = np.unique(lines.template[rows])
    used = used[used >= 0]
    codes = np.full(len(lines.templates) + 1, SLOW, np.int16)  # SLOW indexes the end
    codes[used] = np.arange(len(used))
    return TemplateSet(lines.templates[code] for code in used.tolist()), codes


def _write_depth(
    market: Market,
    lines: Lines,
    fates: Fates,
    flags: NDArray[np.uint8],
    chunks: Sequence[Chunk],
    texts: ChunkTexts,
    book: DayBook,
    sanity: SanityTally,
) -> tuple[Table, int]:
    templates, codes = _used_templates(lines, fates.chain)
    sink = io.BytesIO()
    decoder = LevelDecoder(market, templates, price_exponent=book.price_exponent, quantity_exponent=book.quantity_exponent)
    chosen = ChosenLevels(lines, chunks, texts, decoder)
    level_count = 0
    misfits: frozenset[tuple[int, int]] = frozenset()
    with TableWriter(DEPTH, sink, templates=list(templates)) as writer:
        for begin in range(0, len(fates.chain), ROW_GROUP_EVENTS):
            rows = fates.chain[begin : begin + ROW_GROUP_EVENTS]
            template = codes[lines.template[rows]]
            try:
                batch = chosen.read(rows, template)
            except MisfitError as error:
                misfits |= error.places
                continue
            unknown = book.advance(begin, batch)
            flags[begin : begin + len(rows)] |= np.where(unknown, BOOK_UNKNOWN, 0).astype(np.uint8)
            sanity.add(batch, book.tops[begin : begin + len(rows)])
            level_count += len(batch.bid_price) + len(batch.ask_price)
            columns = _columns(lines, rows, template, flags[begin : begin + len(rows)], batch, book, texts)
            writer.write(columns.to_batch())
            if writer.pending_rows:
                decoder.detach()
    if misfits:
        raise MisfitError(misfits)
    return Table("depth", sink.getvalue(), len(fates.chain)), level_count


def _columns(
    lines: Lines,
    rows: Ints,
    template: NDArray[np.int16],
    flags: NDArray[np.uint8],
    batch: Levels,
    book: DayBook,
    texts: ChunkTexts,
) -> DepthColumns:
    slow = np.flatnonzero(template == SLOW)
    kept = texts.lines(lines.chunk[rows[slow]], lines.offset[rows[slow]], lines.length[rows[slow]])
    return DepthColumns(
        prev=lines.prev[rows],
        first=lines.first[rows],
        final=lines.final[rows],
        event_time_us=lines.event_time_us[rows],
        transaction_time_us=lines.transaction_time_us[rows],
        receive_time_ns=lines.receive_time_ns[rows],
        collector=lines.line[rows].astype(np.int32),
        collector_names=tuple(lines.collectors),
        connection=lines.connection[rows].astype(np.int32),
        connection_names=tuple(lines.connections),
        template=template,
        flags=flags,
        price_exponent=book.price_exponent,
        quantity_exponent=book.quantity_exponent,
        bid_offsets=batch.bid_offsets,
        bid_price=batch.bid_price,
        bid_quantity=batch.bid_quantity,
        ask_offsets=batch.ask_offsets,
        ask_price=batch.ask_price,
        ask_quantity=batch.ask_quantity,
        frame={position: line.split(b" ", 1)[1] for position, line in zip(slow.tolist(), kept, strict=True)},
    )


def _settle_arrivals(lines: Lines, rows: Ints) -> None:
    """Sort copies by epoch, ids, collector, connection, time of receipt, template and event time.

    They come in the order of the first three. Few have a neighbour that is the same in these, and sorting all would take a tenth of a gigabyte.
    """
    group, line = lines.group[rows], lines.line[rows]
    tied = np.flatnonzero((group[1:] == group[:-1]) & (line[1:] == line[:-1]))
    places = np.union1d(tied, tied + 1)
    some = rows[places]
    keys = (lines.event_time_us, lines.template, lines.receive_time_ns, lines.connection, lines.line, lines.group)
    rows[places] = some[np.lexsort([key[some] for key in keys])]


def _write_arrival(lines: Lines, fates: Fates) -> Table:
    rows = np.flatnonzero(fates.fate == Fate.DUPLICATE)
    templates, codes = _used_templates(lines, rows)
    _settle_arrivals(lines, rows)
    sink = io.BytesIO()
    with TableWriter(ARRIVAL, sink, templates=list(templates)) as writer:
        for begin in range(0, len(rows), ROW_GROUP_EVENTS):
            part = rows[begin : begin + ROW_GROUP_EVENTS]
            writer.write(
                pa.RecordBatch.from_arrays(
                    [
                        pa.array(lines.prev[part]),
                        pa.array(lines.final[part]),
                        nullable_times(lines.event_time_us[part]),
                        pa.array(lines.receive_time_ns[part]).view(pa.timestamp("ns", "UTC")),
                        dictionary_array(lines.line[part].astype(np.int32), lines.collectors),
                        dictionary_array(lines.connection[part].astype(np.int32), lines.connections),
                        pa.array(codes[lines.template[part]]),
                    ],
                    schema=ARRIVAL,
                )
            )
    return Table("arrival", sink.getvalue(), len(rows))


def _write_verbatim(lines: Lines, fates: Fates, texts: ChunkTexts) -> Table:
    rows = np.flatnonzero(np.isin(fates.fate, VERBATIM))
    reasons = np.full(max(Fate) + 1, -1, np.int8)
    for fate in VERBATIM:
        reasons[fate] = REASONS.index(fate.reason)
    places = Places(
        collectors=lines.collectors,
        connections=lines.connections,
        line=lines.line[rows].astype(np.int64),
        connection=lines.connection[rows].astype(np.int64),
        receive_time_ns=lines.receive_time_ns[rows],
        chunk=lines.chunk[rows].astype(np.int64),
        offset=lines.offset[rows].astype(np.int64),
        length=lines.length[rows],
    )
    return verbatim_table(texts, places, reasons[fates.fate[rows]])


def _digest(row: BookRow, sha256: str) -> BookDigest:
    low, high = row.region.texts(row.price_exponent)
    return BookDigest(update_id=row.update_id, sha256=sha256, known_low=low, known_high=high)


def _bounds(region: Region) -> dict[str, object]:
    """Return a region as columns: null, null for none; no upper bound where nothing above is unknown."""
    if not region:
        return {"known_low": None, "known_high": None}
    return {"known_low": region.low, "known_high": None if region.high == EVERYWHERE.high else region.high}


def _write_snapshots(opening: BookRow | None, book: DayBook, closing: BookRow | None) -> Table:
    finest = (book.price_exponent, book.quantity_exponent)
    rows: list[dict[str, object]] = []
    if opening is not None:
        rows.append(_book_row("opening", opening))
    for number, (copy, verdict, region) in enumerate(zip(book.snapshots, book.verdicts, book.regions, strict=True)):
        sides = book.sides(number)
        rows.append(
            {
                "kind": "rest",
                "last_update_id": copy.snapshot.last_update_id,
                "event_time": copy.snapshot.event_time_us,
                "transaction_time": copy.snapshot.transaction_time_us,
                "receive_time": copy.receive_time_ns,
                "collector": copy.collector,
                "connection": copy.connection,
                "limit": copy.limit or None,
                "verdict": verdict,
                **_bounds(region),
                "price_exponent": finest[0],
                "quantity_exponent": finest[1],
                **dict(zip(("bid_price", "bid_quantity", "ask_price", "ask_quantity"), sides, strict=True)),
            }
        )
    if closing is not None:
        rows.append(_book_row("closing", closing))
    sink = io.BytesIO()
    with TableWriter(SNAPSHOT, sink) as writer:
        for row in rows:
            writer.write(pa.RecordBatch.from_pylist([row], schema=SNAPSHOT))
    return Table("snapshot", sink.getvalue(), len(rows))


def _book_row(kind: str, row: BookRow) -> dict[str, object]:
    return {
        "kind": kind,
        "last_update_id": row.update_id,
        "event_time": None,
        "transaction_time": None,
        "receive_time": None,
        "collector": None,
        "connection": None,
        "limit": None,
        "verdict": None,
        **_bounds(row.region),
        "price_exponent": row.price_exponent,
        "quantity_exponent": row.quantity_exponent,
        "bid_price": row.bid_price,
        "bid_quantity": row.bid_quantity,
        "ask_price": row.ask_price,
        "ask_quantity": row.ask_quantity,
    }
