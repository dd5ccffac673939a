"""What a client's book must be, from the recording alone: the snapshot it was given, then every later event of its stream."""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal

from twintape.core.markets import RULES, Market
from twintape.core.venue import BookChange, OrderBook, Source, SymbolInfo, VenueMessage
from twintape.core.venue_rest import DepthAnswer
from twintape.core.wire import DepthEvent, DepthSnapshot, decode_depth

Side = Mapping[Decimal, Decimal]

DIFFERENCES_SHOWN = 5


@dataclass(frozen=True)
class Book:
    """Bids and asks by price, and the id of the last event in them."""

    last_update_id: int
    bids: Side = field(repr=False)
    asks: Side = field(repr=False)

    @property
    def size(self) -> int:
        return len(self.bids) + len(self.asks)

    def sha256(self) -> str:
        """Return the digest of the book as text: `b <price> <quantity>` from the best bid down, then `a …` from the best ask up."""
        lines = [f"b {_plain(price)} {_plain(self.bids[price])}" for price in sorted(self.bids, reverse=True)]
        lines += [f"a {_plain(price)} {_plain(self.asks[price])}" for price in sorted(self.asks)]
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _plain(number: Decimal) -> str:
    return f"{number.normalize():f}"


def book_of(last_update_id: int, bids: Iterable[Sequence[str]], asks: Iterable[Sequence[str]]) -> Book:
    """Read a book from levels as printed; a level of no quantity is none.

    Floats as Python prints them come back as the decimals they were read from, which have at most 15 digits.
    """
    return Book(last_update_id, _side(bids), _side(asks))


def _side(levels: Iterable[Sequence[str]]) -> Side:
    return {Decimal(price): Decimal(quantity) for price, quantity in levels if Decimal(quantity)}


@dataclass(frozen=True)
class Track:
    """One symbol of a source, read once: what moves its book, and what its stream says.

    Attributes:
        market: The source's market.
        info: The symbol, with its first book.
        events: The depth stream, in order.
        changes: What moves the exchange's own book; the same as `events` on a recording.
    """

    market: Market
    info: SymbolInfo
    events: Sequence[DepthEvent]
    changes: Sequence[DepthEvent | BookChange]

    @property
    def final_update_id(self) -> int:
        return self.events[-1].final_update_id


def track(source: Source, stream: str) -> Track:
    """Read a depth stream of a source to its end."""
    info = next(info for info in source.symbols if info.symbol.lower() == stream.partition("@")[0])
    events: list[DepthEvent] = []
    changes: list[BookChange] = []
    for happening in source.happenings():
        if isinstance(happening, VenueMessage) and happening.stream == stream:
            events.append(decode_depth(happening.data, source.market))
        elif isinstance(happening, BookChange) and happening.symbol == info.symbol:
            changes.append(happening)
    return Track(source.market, info, events, changes if info.book_stream is None else events)


class Horizon:
    """How far a client is sure to see that now and then forgets all but its best levels: to the nearest limit there has ever been.

    What such a client keeps behind its horizon is right, but incomplete: it forgot levels that later became near again.

    Args:
        book: The expected book, before the first event.
        levels: So many a side the client keeps.
    """

    def __init__(self, book: OrderBook, levels: int) -> None:
        self._levels = levels
        # Ascending from the best: bids by their negative price.
        self._sides = ((book.bids, sorted(-price for price in book.bids)), (book.asks, sorted(book.asks)))
        self.bid = self.ask = Decimal("Infinity")
        self._come_nearer()

    def look(self, event: DepthEvent) -> None:
        """Take notice of an event that has just been applied."""
        for sign, changes, (known, prices) in zip((-1, 1), (event.bids, event.asks), self._sides, strict=True):
            for text, _ in changes:
                price = Decimal(text)
                place = bisect_left(prices, sign * price)
                listed = place < len(prices) and prices[place] == sign * price
                if price in known and not listed:
                    prices.insert(place, sign * price)
                elif price not in known and listed:
                    del prices[place]
        self._come_nearer()

    def _come_nearer(self) -> None:
        bids, asks = (prices for _, prices in self._sides)
        self.bid = min([self.bid, *bids[self._levels - 1 : self._levels]])
        self.ask = min([self.ask, *asks[self._levels - 1 : self._levels]])

    def narrow(self, expected: Book, got: Book) -> Book:
        """Return what is expected within the horizon and, behind it, of the levels that the client has."""
        bids = {price: amount for price, amount in expected.bids.items() if -price <= self.bid or price in got.bids}
        asks = {price: amount for price, amount in expected.asks.items() if price <= self.ask or price in got.asks}
        return Book(expected.last_update_id, bids, asks)


def expected_book(
    of: Track,
    answer: DepthAnswer | None,
    final_update_id: int,
    kept: int | None = None,
    got: Book | None = None,
    *,
    retold: int | None = None,
) -> Book:
    """Return the book of a client that was given `answer` and then heard every event up to `final_update_id`.

    Args:
        of: What the exchange plays.
        answer: The last snapshot the client was given; None for the exchange's own book, which has every level.
        final_update_id: Where the client's book stands.
        kept: The client forgets levels beyond its best so many a side.
        got: The book of such a client; what it has beyond its horizon is expected of it, what it has not is not.
        retold: How many events that end at or before the snapshot, the last ones, the client applies to it. They say nothing new of the levels
            in it, but tell of levels beyond its limit. None for Binance's rule: none on spot, the one that ends exactly there on futures.
    """
    contiguous = RULES[of.market].contiguous_ids
    book = OrderBook(of.info.snapshot, contiguous_ids=contiguous)
    if answer is not None:
        for change in of.changes:
            if book.last_update_id < answer.last_update_id:
                _apply(book, change)
        assert book.last_update_id == answer.last_update_id, f"the exchange's book never stood at {answer.last_update_id}"
        earlier = [event for event in of.events if event.final_update_id <= answer.last_update_id][-retold:] if retold else []
        book = OrderBook(_told_again(book.snapshot(answer.limit), earlier), contiguous_ids=contiguous)
    horizon = Horizon(book, kept) if kept is not None else None
    first = 0 if retold is None else book.last_update_id + 1
    for event in of.events:
        if first <= event.final_update_id <= final_update_id and _apply(book, event) and horizon is not None:
            horizon.look(event)
    assert not book.gapped, f"the stream of {of.info.symbol} has a hole"
    expected = book_of(book.last_update_id, book.bids.values(), book.asks.values())
    return expected if horizon is None or got is None else horizon.narrow(expected, got)


def _told_again(snapshot: DepthSnapshot, events: Sequence[DepthEvent]) -> DepthSnapshot:
    """Return a snapshot with events behind it applied to it: of levels told twice a book takes the later."""
    bids = [level for event in events for level in event.bids]
    asks = [level for event in events for level in event.asks]
    return replace(snapshot, bids=(*snapshot.bids, *bids), asks=(*snapshot.asks, *asks))


def _apply(book: OrderBook, change: DepthEvent | BookChange) -> bool:
    # Times have no part in what is compared.
    return book.apply(change.prev_update_id, change.final_update_id, change.bids, change.asks, 0, None)


def differences(expected: Book, got: Book) -> list[str]:
    """Return in words what is wrong with a client's book: nothing if it is the same, level by level."""
    found = []
    if expected.last_update_id != got.last_update_id:
        found.append(f"it stands at {got.last_update_id}, not {expected.last_update_id}")
    for name, ours, theirs in (("bid", expected.bids, got.bids), ("ask", expected.asks, got.asks)):
        found += [f"{name} {price} is missing" for price in ours.keys() - theirs.keys()]
        found += [f"{name} {price} should not be there" for price in theirs.keys() - ours.keys()]
        common = ours.keys() & theirs.keys()
        found += [f"{name} {price} has {theirs[price]}, not {ours[price]}" for price in common if ours[price] != theirs[price]]
    return found[:DIFFERENCES_SHOWN] + ([f"… {len(found)} differences in all"] if len(found) > DIFFERENCES_SHOWN else [])
