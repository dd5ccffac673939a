"""A pretended exchange's state: what it says, its order books, and the snapshots they give.

A source (`core.tape` or `core.synthetic`) yields what happens, in order of its own time; `Venue` keeps the books that REST answers
from. Books apply events only when somebody asks: most runs never ask for most books, and an answer that lags behind the stream
is then just a book that has not caught up yet.
"""

from __future__ import annotations

import heapq
import json
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any, Protocol

from twintape.core.errors import WireError
from twintape.core.markets import RULES, Market
from twintape.core.wire import DepthSnapshot, Level, decode_depth, depth_ids, split_stream

__all__ = [
    "PENDING_CHANGES_MAX",
    "BookChange",
    "Happening",
    "OrderBook",
    "Piece",
    "RecordedBook",
    "Source",
    "StatusChange",
    "SymbolInfo",
    "Venue",
    "VenueMessage",
    "render_snapshot",
    "touched_levels",
]

PENDING_CHANGES_MAX = 20_000
"""So many changes of one book may wait for somebody to ask; beyond, the older half is applied."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a depth event that no re-cutting can divide: the levels that changed in `[first_update_id, final_update_id]`."""

    first_update_id: int
    final_update_id: int
    bids: tuple[Level, ...]
    asks: tuple[Level, ...]


@dataclass(slots=True)
class VenueMessage:
    """One frame the exchange publishes on a stream.

    Attributes:
        time_ns: When, on the source's own clock.
        market: On which market.
        stream: The full stream name.
        data: The payload without wrapper, as a client of `/ws` gets it.
        frame: The payload with wrapper, verbatim, where it was recorded so; None where the wrapper is put on.
        pieces: What a depth event consists of, where the source knows; empty on tapes, whose events are indivisible.
    """

    time_ns: int
    market: Market
    stream: str
    data: bytes
    frame: bytes | None = None
    pieces: tuple[Piece, ...] = ()

    def payload(self, *, combined: bool) -> bytes:
        """Return what a client gets: with the wrapper if `combined`, which is put on once."""
        if not combined:
            return self.data
        if self.frame is None:
            self.frame = b'{"stream":' + json.dumps(self.stream, ensure_ascii=False).encode() + b',"data":' + self.data + b"}"
        return self.frame


@dataclass(slots=True)
class BookChange:
    """A change of a book that is not (yet) published: it moves what REST says. Times of the exchange are milliseconds."""

    time_ns: int
    market: Market
    symbol: str
    prev_update_id: int
    final_update_id: int
    bids: tuple[Level, ...]
    asks: tuple[Level, ...]
    event_time_ms: int


@dataclass(slots=True)
class RecordedBook:
    """A REST snapshot met on a tape. It is not sent; it restarts a book that a hole in the tape has left unknown."""

    time_ns: int
    market: Market
    symbol: str
    snapshot: DepthSnapshot


Happening = VenueMessage | BookChange | RecordedBook


@dataclass(frozen=True, slots=True)
class SymbolInfo:
    """One symbol of a venue.

    Attributes:
        symbol: As in payloads: `BTCUSDT`.
        price_decimals: Decimals of the tick size.
        quantity_decimals: Decimals of the step size.
        snapshot: The book before everything that happens.
        book_stream: The stream whose frames change the book, or None where `BookChange`s do.
        status: `TRADING`, …
    """

    symbol: str
    price_decimals: int
    quantity_decimals: int
    snapshot: DepthSnapshot
    book_stream: str | None = None
    status: str = "TRADING"


@dataclass(frozen=True, slots=True)
class StatusChange:
    """From a position in all sources on (0 to 1) the list of symbols gives one this status; an empty one: it is not listed."""

    market: Market
    symbol: str
    position: float
    status: str


class Source(Protocol):
    """What drives one market."""

    @property
    def market(self) -> Market:
        """The market."""

    @property
    def symbols(self) -> Sequence[SymbolInfo]:
        """All symbols, in a fixed order."""

    @property
    def total(self) -> int | None:
        """How many messages `happenings` will yield, or None if it never ends."""

    def happenings(self) -> Iterator[Happening]:
        """Yield everything that happens, in order of time; every call starts from the beginning and yields the same."""


def touched_levels(pieces: Sequence[Piece], market: Market) -> tuple[list[Level], list[Level]]:
    """Return every level the pieces touch with its last quantity, in the market's order.

    >>> touched_levels([Piece(1, 1, (("9", "5"),), ()), Piece(2, 2, (("10", "1"), ("9", "0")), ())], Market.SPOT)
    ([('10', '1'), ('9', '0')], [])

    Source: measured: spot prints bids from the best down, futures both sides ascending.
    """
    bids = {Decimal(price): (price, quantity) for piece in pieces for price, quantity in piece.bids}
    asks = {Decimal(price): (price, quantity) for piece in pieces for price, quantity in piece.asks}
    bid_prices = sorted(bids, reverse=market is Market.SPOT)
    return [bids[price] for price in bid_prices], [asks[price] for price in sorted(asks)]


class OrderBook:
    """Bids and asks as printed, keyed by value, so that `0.10` and `0.1` are one level.

    Args:
        snapshot: The book to begin with.
        contiguous_ids: False on futures, where an event that ends at the snapshot's own id is still applied.
    """

    def __init__(self, snapshot: DepthSnapshot, *, contiguous_ids: bool) -> None:
        self._contiguous_ids = contiguous_ids
        self.load(snapshot)

    def load(self, snapshot: DepthSnapshot) -> None:
        """Forget everything and start from `snapshot`."""
        self.bids: dict[Decimal, Level] = {}
        self.asks: dict[Decimal, Level] = {}
        _put(self.bids, snapshot.bids)
        _put(self.asks, snapshot.asks)
        self.last_update_id = snapshot.last_update_id
        self.event_time_us = snapshot.event_time_us
        self.transaction_time_us = snapshot.transaction_time_us
        self.gapped = False
        self._equal_is_news = not self._contiguous_ids

    def apply(
        self,
        prev_update_id: int,
        final_update_id: int,
        bids: Sequence[Level],
        asks: Sequence[Level],
        event_time_us: int,
        transaction_time_us: int | None,
    ) -> bool:
        """Apply the event `(prev_update_id, final_update_id]` and return whether it was news; a stale one changes nothing."""
        if final_update_id < self.last_update_id or (final_update_id == self.last_update_id and not self._equal_is_news):
            return False
        self._equal_is_news = False
        if prev_update_id > self.last_update_id:
            self.gapped = True
        _put(self.bids, bids)
        _put(self.asks, asks)
        self.last_update_id = final_update_id
        self.event_time_us = event_time_us
        self.transaction_time_us = transaction_time_us
        return True

    def snapshot(self, limit: int | None = None) -> DepthSnapshot:
        """Return the best `limit` levels a side (all if None), best first."""
        count = limit if limit is not None else max(len(self.bids), len(self.asks))
        return DepthSnapshot(
            last_update_id=self.last_update_id,
            event_time_us=self.event_time_us,
            transaction_time_us=self.transaction_time_us,
            bids=tuple(self.bids[price] for price in heapq.nlargest(count, self.bids)),
            asks=tuple(self.asks[price] for price in heapq.nsmallest(count, self.asks)),
        )


def _put(side: dict[Decimal, Level], levels: Sequence[Level]) -> None:
    for price, quantity in levels:
        if Decimal(quantity):
            side[Decimal(price)] = (price, quantity)
        else:
            side.pop(Decimal(price), None)


def render_snapshot(market: Market, symbol: str, snapshot: DepthSnapshot, now_ms: int) -> bytes:
    """Print a REST depth body as the market does. Futures bodies without recorded times say `now_ms`.

    >>> render_snapshot(Market.SPOT, "X", DepthSnapshot(7, None, None, (("1.0", "2"),), ()), 0)
    b'{"lastUpdateId":7,"bids":[["1.0","2"]],"asks":[]}'
    """
    body: dict[str, Any] = {"lastUpdateId": snapshot.last_update_id}
    if market is not Market.SPOT:
        body["E"] = now_ms if snapshot.event_time_us is None else snapshot.event_time_us // 1000
        body["T"] = body["E"] if snapshot.transaction_time_us is None else snapshot.transaction_time_us // 1000
    if market is Market.COINM:
        body["symbol"] = symbol
        body["pair"] = symbol.partition("_")[0]
    body["bids"] = snapshot.bids
    body["asks"] = snapshot.asks
    return json.dumps(body, separators=(",", ":"), ensure_ascii=False).encode()


class _LazyBook:
    """A book and the changes that wait for it to be looked at."""

    def __init__(self, market: Market, info: SymbolInfo) -> None:
        self.market = market
        self.book = OrderBook(info.snapshot, contiguous_ids=RULES[market].contiguous_ids)
        self.pending: deque[Happening] = deque()

    def add(self, happening: Happening) -> None:
        self.pending.append(happening)
        if len(self.pending) > PENDING_CHANGES_MAX:
            self.settle(self.pending[len(self.pending) // 2].time_ns)

    def settle(self, until_ns: int | None) -> None:
        while self.pending and (until_ns is None or self.pending[0].time_ns <= until_ns):
            self._apply(self.pending.popleft())

    def _apply(self, happening: Happening) -> None:
        if isinstance(happening, RecordedBook):
            if self.book.gapped and happening.snapshot.last_update_id >= self.book.last_update_id:
                self.book.load(happening.snapshot)
            return
        if isinstance(happening, BookChange):
            time_us = happening.event_time_ms * 1000
            self.book.apply(happening.prev_update_id, happening.final_update_id, happening.bids, happening.asks, time_us, time_us)
            return
        try:
            event = decode_depth(happening.data, self.market)
        except WireError:
            self.book.gapped = True  # the tape holds a damaged frame: the book is unknown until its next snapshot
            return
        self.book.apply(
            event.prev_update_id,
            event.final_update_id,
            event.bids,
            event.asks,
            event.event_time_us,
            event.transaction_time_us,
        )


class Venue:
    """One market's books and the last thing said on each stream.

    Args:
        source: Where its symbols come from; the caller feeds `note` with what `source.happenings()` yields.
        whole_books: Answer with every level known, whatever the limit: a recorder that is late then loses nothing of a recording's book.

    Attributes:
        symbols: All symbols there ever are.
        statuses: What the list says of some symbols instead of their own status; the caller's to change.
    """

    def __init__(self, source: Source, *, whole_books: bool = False) -> None:
        self.market = source.market
        self._whole_books = whole_books
        self.symbols: Mapping[str, SymbolInfo] = {info.symbol: info for info in source.symbols}
        self.statuses: dict[str, str] = {}
        self._books = {symbol: _LazyBook(source.market, info) for symbol, info in self.symbols.items()}
        self._book_streams = {info.book_stream: info.symbol for info in source.symbols if info.book_stream}
        self._last_depth: dict[str, bytes] = {}

    def listed(self) -> list[SymbolInfo]:
        """Return the symbols as the list has them now."""
        known = (replace(info, status=self.statuses.get(info.symbol, info.status)) for info in self.symbols.values())
        return [info for info in known if info.status]

    def note(self, happening: Happening) -> None:
        """Take the next thing that happened."""
        if isinstance(happening, VenueMessage):
            if "@depth" in happening.stream:
                self._last_depth[happening.stream] = happening.data
            symbol = self._book_streams.get(happening.stream)
        else:
            symbol = happening.symbol
        if symbol in self._books:
            self._books[symbol].add(happening)

    def depth(self, symbol: str, limit: int, *, now_ms: int, until_ns: int | None = None) -> bytes | None:
        """Return the body of a snapshot, or None for an unknown symbol.

        Args:
            symbol: As in payloads.
            limit: Levels a side.
            now_ms: The time futures bodies state where the source knows none.
            until_ns: Leave out what happened after this moment of the source's clock.
        """
        lazy = self._books.get(symbol)
        if lazy is None:
            return None
        lazy.settle(until_ns)
        return render_snapshot(self.market, symbol, lazy.book.snapshot(None if self._whole_books else limit), now_ms)

    def book_update_id(self, symbol: str) -> int:
        """Return where the book stands that `depth` last answered from; the symbol is a known one."""
        return self._books[symbol].book.last_update_id

    def last_final_update_ids(self) -> dict[str, int]:
        """Return for every depth stream the `u` of the last event published."""
        ids = {}
        for stream, data in self._last_depth.items():
            interval = depth_ids(data, self.market)
            if interval is not None and split_stream(stream)[0] in self.symbols:
                ids[stream] = interval[1]
        return ids
