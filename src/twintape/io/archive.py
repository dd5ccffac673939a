"""Reading the archive: only what head proofs name, verified on the way in.

`twintape.open(url)` returns an `Archive`. It is synchronous on purpose: it is used from notebooks and backtests. Prices and quantities stay exact
(`Decimal` or integer mantissas) until you make them floats yourself.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa

from twintape.columns.book import Book
from twintape.columns.books import SnapshotRow
from twintape.columns.kinds import FlatKind, flat_schema, kind_of
from twintape.columns.lines import DAY_US, midnight_us
from twintape.columns.replay import Replay
from twintape.columns.schema import DEPTH, EPOCH_START, GAP_BEFORE, DepthColumns, TableReader
from twintape.core.errors import ConfigError, ContinuityError, CorruptionError, NotFoundError
from twintape.core.manifest import Proof, Status, digest
from twintape.core.markets import RULES, Market
from twintape.core.wire import is_depth, normal_symbol
from twintape.io.batch import neighbour
from twintape.io.catalog import find_head, list_days, list_heads
from twintape.io.day import read_snapshots
from twintape.io.ports import Store

__all__ = ["Archive", "BookView", "Day"]

T = TypeVar("T")

MIDNIGHT_SLACK_US = 60_000_000
"""A day's last events may have an `E` behind its midnight: lines stamp it differently, and it may step back."""
LATEST_US = 7_258_118_400_000_000
"""The beginning of 2200: every later time means the same, everything there is, and has no calendar day that could overflow."""
_MICROSECOND = timedelta(microseconds=1)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Day:
    """One published day.

    Attributes:
        market: `spot`, `usdm` or `coinm`.
        symbol: As Binance spells it.
        stream: `depth@100ms`, `trade`, …
        date: UTC date.
        status: What its proof says.
        generation: How often it was published.
        events: Rows of its depth table.
        levels: Level updates in them.
        size: Bytes of its files.
        files: Keys of its files, by table.
    """

    market: Market
    symbol: str
    stream: str
    date: str
    status: Status
    generation: int
    events: int
    levels: int
    size: int
    files: dict[str, str]


@dataclass(frozen=True, slots=True)
class BookView:
    """An order book at one id: exact levels, best first.

    Attributes:
        symbol: Whose.
        update_id: The last event applied ends here.
        event_time: Its `E`.
        bids: Price and quantity, best (highest) first.
        asks: Price and quantity, best (lowest) first.
        known: From which price to which everything is known: an exchange tells only its best levels when asked, and what changes. No upper bound (None)
            where nothing above is unknown; None where only the levels themselves are known.
    """

    symbol: str
    update_id: int
    event_time: datetime | None
    bids: list[tuple[Decimal, Decimal]]
    asks: list[tuple[Decimal, Decimal]]
    known: tuple[Decimal, Decimal | None] | None


class Archive:
    """A store seen through its proofs.

    Args:
        store: Where it is; `twintape.open(url)` makes one.
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    def __repr__(self) -> str:
        return f"Archive({self._store.url!r})"

    # --- what there is ---

    def days(self, market: Market | str | None = None, symbol: str | None = None) -> list[Day]:
        """Return all published days, sorted by market, symbol, stream and date.

        Args:
            market: Only this one.
            symbol: Only this one, in upper or lower case (as everywhere here).

        Raises:
            ConfigError: There is no such market, or that can be no symbol.
            CorruptionError: A proof is damaged.
            StoreError: The store failed.
        """
        markets = list(Market) if market is None else [_market(market)]
        symbol = None if symbol is None else normal_symbol(symbol)
        found: list[Day] = []
        for which in markets:
            heads = self._run(list_heads(self._store, which, symbol=symbol))
            found += [_day(which, head.proof) for head in heads.values()]
        return found

    def proof(self, market: Market | str, symbol: str, date: str, stream: str | None = None) -> Proof:
        """Return the head proof of a day.

        Args:
            market: Its market.
            symbol: Its symbol.
            date: UTC date, `YYYY-MM-DD`.
            stream: Its stream; by default the symbol's only depth stream of that date.

        Raises:
            NotFoundError: The day is not published.
            ConfigError: There are several depth streams; say which.
        """
        which, symbol = _market(market), normal_symbol(symbol)
        name = stream or self._depth_stream(which, symbol, date)
        head = self._run(find_head(self._store, which, symbol, name, date))
        if head is None:
            raise NotFoundError(f"{which} {symbol} {name} {date} is not published", hint="`twintape merge` publishes it")
        return head.proof

    def _depth_stream(self, market: Market, symbol: str, date: str | None) -> str:
        days = self._run(list_days(self._store, market, symbol=symbol, dates=None if date is None else [date]))
        streams = sorted({stream for _, stream, _ in days if is_depth(stream)})
        if not streams:
            raise NotFoundError(f"no depth of {market} {symbol} is published" + ("" if date is None else f" for {date}"))
        if len(streams) > 1:
            raise ConfigError(f"{symbol} has several depth streams: {', '.join(streams)}", hint="say which with stream=")
        return streams[0]

    # --- rows ---

    def depth(
        self,
        market: Market | str,
        symbol: str,
        start: datetime | str,
        end: datetime | str,
        *,
        stream: str | None = None,
        allow_gaps: bool = True,
    ) -> pa.RecordBatchReader:
        """Stream the events of a range, in chain order, without holding more than a day's file in memory.

        Args:
            market: The market.
            symbol: The symbol.
            start: First event time, inclusive (a datetime with time zone, or ISO text; a date means its midnight UTC).
            end: Last event time, exclusive.
            stream: The depth stream; by default the only one.
            allow_gaps: Whether a range with missing ids is served (its rows carry flag 1).

        Returns:
            A reader of batches with the schema `twintape.columns.schema.DEPTH`.

        Raises:
            ContinuityError: A gap, an edge of recording, or a day that is not published lies in the range and gaps are not allowed.
            NotFoundError: Nothing of the symbol is published.
            CorruptionError: A file is not what its proof says.
        """
        which, symbol = _market(market), normal_symbol(symbol)
        name = stream or self._depth_stream(which, symbol, None)
        first, last = _time_us(start), _time_us(end)
        return pa.RecordBatchReader.from_batches(DEPTH, self._batches(which, symbol, name, first, last, allow_gaps=allow_gaps))

    def _batches(
        self, market: Market, symbol: str, stream: str, first: int, last: int, *, allow_gaps: bool
    ) -> Iterator[pa.RecordBatch]:
        if not allow_gaps:
            self._check_continuous(market, symbol, stream, first, last)
        for date, proof in self._proofs(market, symbol, stream, self._dates(market, symbol, stream), first, last):
            for batch in self._table(proof, "depth", DEPTH):
                times = np.asarray(batch.column("event_time").cast(pa.int64()))
                flags = np.asarray(batch.column("flags"))
                keep = (times >= first) & (times < last)
                if not allow_gaps and (keep & ((flags & (GAP_BEFORE | EPOCH_START)) != 0)).any():
                    raise ContinuityError(f"{market} {symbol} {stream} has a gap on {date}: see its proof")
                if keep.all():
                    yield batch
                elif keep.any():
                    yield batch.filter(pa.array(keep))

    def messages(
        self, market: Market | str, symbol: str, stream: str, start: datetime | str, end: datetime | str
    ) -> pa.RecordBatchReader:
        """Stream the rows of a typed table: trades, best bid and ask, mark prices, liquidations, partial depth.

        Args:
            market: The market.
            symbol: The symbol.
            stream: `trade`, `aggTrade`, `bookTicker`, `markPrice@1s`, `forceOrder`, `depth20@100ms`, …
            start: First event time, inclusive, as for `depth`; where messages have none, the time of receipt.
            end: Last, exclusive.

        Returns:
            A reader of batches with the table's columns (docs/format.md, section 8), in the table's order.

        Raises:
            ConfigError: The stream has no typed table.
            NotFoundError: Nothing of it is published.
            CorruptionError: A file is not what its proof says.
        """
        which, symbol = _market(market), normal_symbol(symbol)
        kind = kind_of(stream)
        if kind is None:
            raise ConfigError(
                f"{stream} has no typed table", hint="depth streams are read with depth(); others are kept verbatim"
            )
        dates = self._dates(which, symbol, stream)
        if not dates:
            raise NotFoundError(f"nothing of {which} {symbol} {stream} is published")
        first, last = _time_us(start), _time_us(end)
        proofs = self._proofs(which, symbol, stream, dates, first, last)
        return pa.RecordBatchReader.from_batches(flat_schema(kind), self._rows(proofs, kind, first, last))

    def _dates(self, market: Market, symbol: str, stream: str) -> dict[str, int]:
        """Return the dates that are published, in order, with the generation LIST shows."""
        days = self._run(list_days(self._store, market, symbol=symbol, stream=stream))
        return {date: generation for (_, _, date), generation in days.items()}

    def _proofs(
        self, market: Market, symbol: str, stream: str, dates: dict[str, int], first: int, last: int
    ) -> Iterator[tuple[str, Proof]]:
        """Yield date and head proof of the days that may have events of a range; of all others no proof is read."""
        for date, known in dates.items():
            if midnight_us(date) - MIDNIGHT_SLACK_US >= last or midnight_us(neighbour(date, 1)) + MIDNIGHT_SLACK_US <= first:
                continue
            yield date, self._head(market, symbol, stream, date, known)

    def _head(self, market: Market, symbol: str, stream: str, date: str, known: int) -> Proof:
        head = self._run(find_head(self._store, market, symbol, stream, date, known=known))
        assert head is not None, "a generation that is known and gone is an error"
        return head.proof

    def _rows(self, proofs: Iterator[tuple[str, Proof]], kind: FlatKind, first: int, last: int) -> Iterator[pa.RecordBatch]:
        for _, proof in proofs:
            for batch in self._table(proof, kind.table, flat_schema(kind)):
                stamps = batch.column("event_time").cast(pa.int64())
                received = np.asarray(batch.column("receive_time").cast(pa.int64())) // 1000
                times = np.where(np.asarray(stamps.is_valid()), np.asarray(stamps.fill_null(0)), received)
                keep = (times >= first) & (times < last)
                if keep.any():
                    yield batch if keep.all() else batch.filter(pa.array(keep))

    def _check_continuous(self, market: Market, symbol: str, stream: str, first: int, last: int) -> None:
        """Raise unless everything that happened in a range of event times, `last` exclusive, is known to be published."""
        dates = list(_dates(first, last))
        before: int | None = None
        # A gap across midnight is told by the later day.
        for date in [*dates, neighbour(dates[-1], 1)] if dates else []:
            head = self._run(find_head(self._store, market, symbol, stream, date))
            where = f"{market} {symbol} {stream} {date}"
            if head is None:
                if date in dates:
                    raise ContinuityError(f"{where} is not published")
                return
            proof = head.proof
            begin, end = proof.first_event_time_us, proof.last_event_time_us
            if date in dates and proof.open_start and (begin is None or first < begin):
                raise ContinuityError(f"{where} begins at an edge of recording")
            if date in dates and (proof.open_end or proof.gap_behind) and (end is None or last > end + 1):
                raise ContinuityError(f"{where} ends at an edge of recording" if proof.open_end else f"behind {where} is a gap")
            for gap in proof.gaps:
                since = gap.from_event_time_us or before or midnight_us(date)
                if since < last and gap.to_event_time_us >= first:
                    raise ContinuityError(f"{where} has a gap behind id {gap.after_update_id}: see its proof")
            before = end or before

    def _table(self, proof: Proof, table: str, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
        for output in proof.outputs:
            if output.table == table:
                yield from TableReader(self._output(output.key, output.sha256), schema)

    def _output(self, key: str, sha256: str) -> bytes:
        data = self._run(self._store.get(key))
        if digest(data) != sha256:
            raise CorruptionError(f"{key}: sha256 {digest(data)}, the proof says {sha256}")
        return data

    # --- the book ---

    def book(
        self,
        market: Market | str,
        symbol: str,
        at: datetime | str,
        *,
        depth: int | None = None,
        stream: str | None = None,
        look_ahead: bool = False,
    ) -> BookView:
        """Return the exact book behind the last event with `E` at or before a time.

        Args:
            market: The market.
            symbol: The symbol.
            at: A datetime with time zone, ISO text, or `"end"` for the last event published.
            depth: Levels a side; None for all.
            stream: The depth stream; by default the only one.
            look_ahead: Learn also from the next snapshot behind that time: what it lists and no event touched in between was there before. It reads on as
                far as that snapshot. The book then says what was there, which is more than anybody knew at the time.

        Returns:
            Every level that was ever inside a snapshot or touched since. Inside `known` that is all there was; outside, a price may have had a level that
            nobody ever told.

        Raises:
            NotFoundError: There is no event before that time.
            ContinuityError: The book is not known there: no snapshot since the beginning or since a gap; or nothing is published of
                what happened between that event and the time.
            CorruptionError: A file is not what its proof says.
        """
        which, symbol = _market(market), normal_symbol(symbol)
        name = stream or self._depth_stream(which, symbol, None)
        time_us = 2**62 if at == "end" else _time_us(at)
        for date, known in reversed(self._dates(which, symbol, name).items()):
            if midnight_us(date) - DAY_US > time_us:
                continue  # one day later than it should be is looked at: a line's odd `E` may have moved a midnight
            proof = self._head(which, symbol, name, date, known)
            if proof.first_event_time_us is None or (proof.first_event_time_us > time_us):
                continue
            view, last_us = self._book_of_day(proof, time_us, depth, look_ahead=look_ahead)
            if at != "end" and last_us < time_us:
                self._check_continuous(which, symbol, name, last_us + 1, time_us + 1)
            return view
        raise NotFoundError(f"no event of {which} {symbol} {name} at or before {at} is published")

    def _book_of_day(self, proof: Proof, time_us: int, depth: int | None, *, look_ahead: bool) -> tuple[BookView, int]:
        """Return the book and the latest event time in it."""
        replay = Replay(self._snapshots(proof), restarts=bool(proof.epochs))
        batches = self._depth_rows(proof)
        last: tuple[int, int] | None = None
        latest_us = 0
        for columns in batches:
            # E may step back inside a line: the book is the one behind the last event in chain order whose E is not later.
            running = _running(columns)
            count = len(columns) if time_us >= 2**62 else int(np.searchsorted(running, time_us, side="right"))
            replay.advance(columns, count)
            if count:
                last = (int(columns.final[count - 1]), int(columns.event_time_us[count - 1]))
                latest_us = int(running[count - 1])
            if count < len(columns):
                if look_ahead and replay.known:
                    replay.look_ahead(itertools.chain([(columns, count)], ((behind, 0) for behind in batches)))
                break
        if last is None:
            raise NotFoundError(f"no event of {proof.symbol} {proof.stream} {proof.date} before that time")
        book = replay.book
        if book is None or not replay.known:
            raise ContinuityError(
                f"the book of {proof.symbol} is not known at id {last[0]}",
                hint="there is no snapshot since the beginning or since a gap; `twintape proof` shows where it is known",
            )
        sides = book.levels(depth)
        low, high = replay.region.texts(book.price_exponent)
        view = BookView(
            symbol=proof.symbol,
            update_id=last[0],
            event_time=_EPOCH + last[1] * _MICROSECOND,
            bids=_decimals(sides[0], sides[1], book),
            asks=_decimals(sides[2], sides[3], book),
            known=None if low is None else (Decimal(low), None if high is None else Decimal(high)),
        )
        return view, latest_us

    def _depth_rows(self, proof: Proof) -> Iterator[DepthColumns]:
        for output in proof.outputs:
            if output.table == "depth":
                yield from TableReader(self._output(output.key, output.sha256), DEPTH).depth()

    def _snapshots(self, proof: Proof) -> list[SnapshotRow]:
        """Return the books a day's replay starts from and learns from."""
        for output in proof.outputs:
            if output.table == "snapshot":
                return read_snapshots(self._output(output.key, output.sha256))
        return []

    @staticmethod
    def _run(work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine to its end, also where a loop is running already (notebooks)."""
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return asyncio.run(work)
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(asyncio.run, work).result()


def _running(columns: DepthColumns) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Return the greatest event time so far, so that a search by time has one answer."""
    return np.maximum.accumulate(columns.event_time_us)


def _decimals(prices: Any, quantities: Any, book: Book) -> list[tuple[Decimal, Decimal]]:
    return [
        (Decimal(price).scaleb(book.price_exponent), Decimal(quantity).scaleb(book.quantity_exponent))
        for price, quantity in zip(prices.tolist(), quantities.tolist(), strict=True)
    ]


def _market(market: Market | str) -> Market:
    try:
        return Market(market)
    except ValueError as error:
        raise ConfigError(f"unknown market {market!r}", hint=f"one of {', '.join(RULES)}") from error


def _day(market: Market, proof: Proof) -> Day:
    return Day(
        market=market,
        symbol=proof.symbol,
        stream=proof.stream,
        date=proof.date,
        status=proof.status,
        generation=proof.generation,
        events=proof.events,
        levels=proof.levels,
        size=sum(output.size for output in proof.outputs),
        files={output.table: output.key for output in proof.outputs},
    )


def _time_us(time: datetime | str) -> int:
    if isinstance(time, str):
        try:
            time = datetime.fromisoformat(time)
        except ValueError as error:
            raise ConfigError(f"not a time: {time!r}", hint="ISO 8601, for instance 2026-11-22T09:30:00Z") from error
        if time.tzinfo is None:
            time = time.replace(tzinfo=UTC)
    if time.tzinfo is None:
        raise ConfigError("a datetime without time zone", hint="use datetime(…, tzinfo=UTC)")
    return min((time - _EPOCH) // _MICROSECOND, LATEST_US)


def _dates(first_us: int, last_us: int) -> Iterator[str]:
    date = (_EPOCH + max(first_us, 0) * _MICROSECOND).date().isoformat()
    while midnight_us(date) < last_us:
        yield date
        date = neighbour(date, 1)
