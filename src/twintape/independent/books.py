"""The slow and obvious book: two dicts of exact decimals.

Source: docs/format.md, sections 7 and 8 (digest of a book, verdicts of snapshots).
"""

from __future__ import annotations

from collections.abc import Iterable
from heapq import heappop, heappush

from twintape.independent.frames import decimal_text
from twintape.independent.objects import Row, sha256

__all__ = ["Book", "Region", "compare", "joined", "region_of", "region_text", "stated_region"]

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

    def learn(self, other: Book) -> None:
        """Take over the levels of another book."""
        for mine, order, theirs, sign in (
            (self.bids, self._bid_order, other.bids, -1),
            (self.asks, self._ask_order, other.asks, 1),
        ):
            for price, quantity in theirs.items():
                heappush(order, sign * price)
                mine[price] = quantity

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


Region = tuple[int, int | None]
"""The prices of which a book knows everything: least and greatest, None where nothing above is unknown."""


def stated_region(row: Row) -> Region | None:
    """Return the region a row of a snapshot table states, or None if it states none."""
    if row["known_low"] is None:
        return None
    low, *high = _scaled([row["known_low"], *([] if row["known_high"] is None else [row["known_high"]])], row["price_exponent"])
    return low, high[0] if high else None


def region_text(region: Region | None) -> tuple[str | None, str | None]:
    """Return a region as a proof states it."""
    if region is None:
        return None, None
    return decimal_text(region[0], -UNIT), None if region[1] is None else decimal_text(region[1], -UNIT)


def region_of(snapshot: Row) -> Region | None:
    """Return what a snapshot speaks of: from its worst bid to its worst ask, and to the end of a side with fewer levels than were asked for."""
    listed = {side: _scaled(snapshot[f"{side}_price"], snapshot["price_exponent"]) for side in ("bid", "ask")}
    both = listed["bid"] + listed["ask"]
    if _complete(snapshot, "bid"):
        low = 0
    elif both:
        low = min(both)
    else:
        return None
    if _complete(snapshot, "ask"):
        return low, None
    return (low, max(both)) if both else None


def joined(region: Region | None, later: Region | None) -> Region | None:
    """Return both where they meet, else the later one."""
    if region is None or later is None:
        return region or later
    if (region[1] is not None and later[0] > region[1]) or (later[1] is not None and later[1] < region[0]):
        return later
    return min(region[0], later[0]), None if region[1] is None or later[1] is None else max(region[1], later[1])


def _complete(snapshot: Row, side: str) -> bool:
    return snapshot["limit"] is not None and len(snapshot[f"{side}_price"]) < snapshot["limit"]


def compare(snapshot: Row, event: Row | None, book: Book, region: Region | None) -> tuple[int, Book]:
    """Compare a snapshot, with the event that spans it applied, with the book, inside the snapshot's own price range.

    Args:
        snapshot: The row.
        event: The depth row that spans its id, or None.
        book: The book behind that row.
        region: Of which prices the book knows everything. On one outside, which the book has not, they cannot differ.

    Returns:
        In how many levels they differ, and the levels of which the book knew nothing.
    """
    count, taught = 0, Book()
    stated = Book.of(snapshot)
    for side, theirs, ours, sign, new in (
        ("bid", stated.bids, book.bids, -1, taught.bids),
        ("ask", stated.asks, book.asks, 1, taught.asks),
    ):
        complete = _complete(snapshot, side)
        listed = _scaled(snapshot[f"{side}_price"], snapshot["price_exponent"])
        worst = None if complete else max((sign * price for price in listed), default=None)
        if not complete and worst is None:
            continue
        expected = dict(theirs)
        if event is not None:
            prices = _scaled(event[f"{side}_price"], event["price_exponent"])
            expected |= dict(zip(prices, _scaled(event[f"{side}_quantity"], event["quantity_exponent"]), strict=True))
        for price in expected.keys() | ours.keys():
            if (worst is not None and sign * price > worst) or expected.get(price, 0) == ours.get(price, 0):
                continue
            inside = region is not None and region[0] <= price and (region[1] is None or price <= region[1])
            if inside or price in ours:
                count += 1
            else:
                new[price] = expected[price]
    return count, taught
