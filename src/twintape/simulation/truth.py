"""The exchange's own log: what truly happened to every book, id by id, in plain Python and shared with nothing that is tested.

A depth event is right if it lists, for every level touched in its ids, the quantity behind its last id; a book is right if it is what all
changes up to its id make of the first one.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from decimal import Decimal

from twintape.core.venue import SymbolInfo, VenueMessage
from twintape.core.wire import split_stream
from twintape.simulation.world import DAY_NS

__all__ = ["Book", "SymbolTruth", "Truth"]

Book = tuple[dict[Decimal, Decimal], dict[Decimal, Decimal]]
"""Bids and asks: price → quantity."""


class SymbolTruth:
    """One symbol's changes in order.

    Args:
        info: The symbol with its first book.

    Attributes:
        first_update_id: The id of the first book.
        finals: The last id of every change, ascending.
        boundaries: The `u` of every event as the exchange cut it.
        times_ms: The `E` of each of these events, as the exchange stamped it first.
    """

    def __init__(self, info: SymbolInfo) -> None:
        self.first_update_id = info.snapshot.last_update_id
        self.finals: list[int] = []
        self.boundaries: list[int] = []
        self.times_ms: list[int] = []
        self._changes: list[tuple[tuple[tuple[Decimal, Decimal], ...], tuple[tuple[Decimal, Decimal], ...]]] = []
        self._first: Book = (_levels(info.snapshot.bids), _levels(info.snapshot.asks))
        self._reached = self.first_update_id
        self._book: Book = (dict(self._first[0]), dict(self._first[1]))

    def add(self, message: VenueMessage) -> None:
        """Take what the exchange says."""
        for piece in message.pieces:
            self.finals.append(piece.final_update_id)
            self._changes.append((tuple(_levels(piece.bids).items()), tuple(_levels(piece.asks).items())))
        self.boundaries.append(message.pieces[-1].final_update_id)
        self.times_ms.append(message.time_ns // 1_000_000)

    def touched(self, after_update_id: int, final_update_id: int) -> Book:
        """Return every level touched in `(after, final]` with its last quantity; 0 where it is gone."""
        bids: dict[Decimal, Decimal] = {}
        asks: dict[Decimal, Decimal] = {}
        for change in self._changes[bisect_right(self.finals, after_update_id) : bisect_right(self.finals, final_update_id)]:
            bids.update(change[0])
            asks.update(change[1])
        return bids, asks

    def book(self, update_id: int) -> Book:
        """Return the book behind an id; asked in ascending order, it costs what has happened in between."""
        if update_id < self._reached:
            self._reached, self._book = self.first_update_id, (dict(self._first[0]), dict(self._first[1]))
        for side, touched in zip(self._book, self.touched(self._reached, update_id), strict=True):
            side.update(touched)
        self._reached = update_id
        return _present(self._book[0]), _present(self._book[1])

    def is_change(self, update_id: int) -> bool:
        """Return whether a change ends at this id (or the first book does)."""
        place = bisect_left(self.finals, update_id)
        return update_id == self.first_update_id or (place < len(self.finals) and self.finals[place] == update_id)

    def changes_between(self, after_update_id: int, until_update_id: int) -> int:
        """Return how many changes end in `(after, until]`."""
        return bisect_right(self.finals, until_update_id) - bisect_right(self.finals, after_update_id)


class Truth:
    """All symbols of a market.

    Args:
        symbols: Each with its first book.
    """

    def __init__(self, symbols: Sequence[SymbolInfo]) -> None:
        self.symbols = {info.symbol: SymbolTruth(info) for info in symbols}
        self.events = 0
        self._streams: dict[str, SymbolTruth] = {}

    def by_day(self, start_ns: int, days: int) -> list[int]:
        """Return how many events each day has had, of all symbols; the last one ends with the log."""
        starts_ms = [(start_ns + number * DAY_NS) // 1_000_000 for number in range(days)]
        found = [0] * days
        for symbol in self.symbols.values():
            for time_ms in symbol.times_ms:
                found[bisect_right(starts_ms, time_ms) - 1] += 1
        return found

    def say(self, message: VenueMessage) -> None:
        """Take what the exchange says."""
        if message.pieces:
            self.events += 1
            if message.stream not in self._streams:
                self._streams[message.stream] = self.symbols[split_stream(message.stream)[0]]
            self._streams[message.stream].add(message)


def _levels(levels: Iterable[tuple[str, str]]) -> dict[Decimal, Decimal]:
    return {Decimal(price): Decimal(quantity) for price, quantity in levels}


def _present(levels: dict[Decimal, Decimal]) -> dict[Decimal, Decimal]:
    return {price: quantity for price, quantity in levels.items() if quantity}
