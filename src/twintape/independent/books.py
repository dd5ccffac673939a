"""The slow and obvious book: two dicts of exact decimals.

Source: docs/format.md, sections 7 and 8 (digest of a book, verdicts of snapshots).
"""

from __future__ import annotations

from collections.abc import Iterable
from heapq import heappop, heappush

from twintape.independent.frames import decimal_text
from twintape.independent.objects import Row, sha256

__all__ = ["Book", "contradictions"]

UNIT = 18
"""Prices and quantities are whole multiples of 10^-18, which every exponent of the archive is a multiple of."""


def _scaled(values: Iterable[int], exponent: int) -> list[int]:
    factor = 10 ** (UNIT + exponent)
    return [value * factor for value in values]


class Book:
    """Price → quantity on both sides, in units of 10^-18."""

    def __init__(self) -> None:
        self.bids: dict[int, int] = {}
        self.asks: dict[int, int] = {}
        # Best price first; prices that are gone are dropped when they come up.
        self._bid_order: list[int] = []
        self._ask_order: list[int] = []

    @classmethod
    def of(cls, row: Row) -> Book:
        """Return the book a row of a snapshot table holds."""
        book = cls()
        book.apply(row)
        return book

    def apply(self, row: Row) -> None:
        """Set every level a row lists to its quantity; 0 removes it."""
        for side, levels, order, sign in (("bid", self.bids, self._bid_order, -1), ("ask", self.asks, self._ask_order, 1)):
            prices = _scaled(row[f"{side}_price"], row["price_exponent"])
            for price, quantity in zip(prices, _scaled(row[f"{side}_quantity"], row["quantity_exponent"]), strict=True):
                if quantity:
                    if price not in levels:
                        heappush(order, sign * price)
                    levels[price] = quantity
                else:
                    levels.pop(price, None)

    def top(self) -> tuple[int, int, int, int] | None:
        """Return best bid, its quantity, best ask, its quantity; None while a side is empty."""
        while self._bid_order and -self._bid_order[0] not in self.bids:
            heappop(self._bid_order)
        while self._ask_order and self._ask_order[0] not in self.asks:
            heappop(self._ask_order)
        if not self.bids or not self.asks:
            return None
        bid, ask = -self._bid_order[0], self._ask_order[0]
        return bid, self.bids[bid], ask, self.asks[ask]

    def crossed(self) -> bool:
        """Whether the best bid is not below the best ask."""
        top = self.top()
        return top is not None and top[0] >= top[2]

    def digest(self) -> str:
        """Return the SHA-256 of the book's text."""
        lines = [f"b {decimal_text(p, -UNIT)} {decimal_text(self.bids[p], -UNIT)}" for p in sorted(self.bids, reverse=True)]
        lines += [f"a {decimal_text(p, -UNIT)} {decimal_text(self.asks[p], -UNIT)}" for p in sorted(self.asks)]
        return sha256("\n".join(lines).encode())


def contradictions(snapshot: Row, event: Row | None, book: Book) -> int:
    """Return in how many levels a snapshot, with the event that spans it applied, differs from the book inside its own price range.

    A side with fewer levels than were asked for is complete, and reaches to the end.
    """
    count = 0
    stated, limit = Book.of(snapshot), snapshot["limit"]
    for side, theirs, ours, sign in (("bid", stated.bids, book.bids, -1), ("ask", stated.asks, book.asks, 1)):
        complete = limit is not None and len(snapshot[f"{side}_price"]) < limit
        listed = _scaled(snapshot[f"{side}_price"], snapshot["price_exponent"])
        worst = None if complete else max((sign * price for price in listed), default=None)
        if not complete and worst is None:
            continue
        expected = dict(theirs)
        if event is not None:
            prices = _scaled(event[f"{side}_price"], event["price_exponent"])
            expected |= dict(zip(prices, _scaled(event[f"{side}_quantity"], event["quantity_exponent"]), strict=True))
        for price in expected.keys() | ours.keys():
            if (worst is None or sign * price <= worst) and expected.get(price, 0) != ours.get(price, 0):
                count += 1
    return count
