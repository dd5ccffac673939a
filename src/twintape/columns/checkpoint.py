"""What a snapshot says of a book: where both know the prices it must agree, and beyond it the snapshot teaches.

A snapshot lists so many levels a side and no more. So a book that began with one knows every price between that snapshot's worst bid and worst ask (its
*region*), and of the prices outside only those an event has touched since. As the market moves, later snapshots reach beyond the region: on a price
that the book has never heard of they do not contradict it. One that agrees with everything the book does know adds those levels and widens the region.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from twintape.columns.book import Book, plain_text
from twintape.columns.parse import Levels

__all__ = [
    "DIFFERENCES_MAX",
    "EVERYWHERE",
    "NOWHERE",
    "Checkpoint",
    "Difference",
    "Region",
    "Sides",
    "checkpoint",
    "meet",
    "region_of",
]

DIFFERENCES_MAX = 20
"""Differences a checkpoint spells out; it counts them all."""
LOWEST = 0
HIGHEST = 2**63 - 1

Ints = NDArray[np.int64]
Sides = tuple[Ints, Ints, Ints, Ints]
"""Bid prices and quantities, ask prices and quantities, as mantissas; any order."""


@dataclass(frozen=True, slots=True)
class Region:
    """The prices, `low` to `high` inclusive, of which a book knows everything on both sides: mantissas of the book's exponent.

    `low` is 0 where nothing below is unknown, `high` is 2**63 - 1 where nothing above is; nothing is known where `low > high`.
    """

    low: int
    high: int

    def __bool__(self) -> bool:
        """Whether there is any such price."""
        return self.low <= self.high

    def holds(self, price: int) -> bool:
        """Whether everything at a price is known."""
        return self.low <= price <= self.high

    def joined(self, later: Region) -> Region:
        """Return what is known when `later` is known too: both where they meet, else the later one, which is where the market is.

        >>> Region(10, 20).joined(Region(15, 30)), Region(10, 20).joined(Region(25, 30))
        (Region(low=10, high=30), Region(low=25, high=30))
        """
        if not later:
            return self
        if not self or later.low > self.high or later.high < self.low:
            return later
        return Region(min(self.low, later.low), max(self.high, later.high))

    def finer(self, factor: int) -> Region:
        """Return the region in units that are `factor` times finer.

        >>> Region(0, 20).finer(10), NOWHERE.finer(10)
        (Region(low=0, high=200), Region(low=1, high=0))
        """
        if not self:
            return self
        return Region(self.low * factor, min(self.high * factor, HIGHEST))

    def texts(self, exponent: int) -> tuple[str | None, str | None]:
        """Return both bounds as plain decimals for a proof: `(None, None)` where nothing is known, no upper one where nothing above is unknown.

        >>> Region(0, 2**63 - 1).texts(-2), Region(150, 210).texts(-2), NOWHERE.texts(-2)
        (('0', None), ('1.5', '2.1'), (None, None))
        """
        if not self:
            return None, None
        return plain_text(self.low, exponent), None if self.high == HIGHEST else plain_text(self.high, exponent)


EVERYWHERE = Region(LOWEST, HIGHEST)
NOWHERE = Region(1, 0)


def region_of(snapshot: Sides, *, complete_bid: bool = False, complete_ask: bool = False) -> Region:
    """Return the prices a snapshot speaks of: from its worst bid to its worst ask, and beyond where a side is complete.

    >>> bids, asks, one = np.array([10, 9]), np.array([11, 13]), np.array([1, 1])
    >>> region_of((bids, one, asks, one)), region_of((bids, one, asks, one), complete_ask=True)
    (Region(low=9, high=13), Region(low=9, high=9223372036854775807))
    """
    bids, asks = snapshot[0], snapshot[2]
    # A side that is empty because it was cut to nothing says nothing; what lies between the other side's levels is known all the same.
    low = LOWEST if complete_bid else int(min(bids.min(initial=HIGHEST), asks.min(initial=HIGHEST)))
    high = HIGHEST if complete_ask else int(max(asks.max(initial=-1), bids.max(initial=-1)))
    return Region(low, high) if low <= high else NOWHERE


@dataclass(frozen=True, slots=True)
class Difference:
    """One level on which a snapshot and the book disagree; quantity 0 means it has none. `side` is `bid` or `ask`."""

    side: str
    price: int
    in_snapshot: int
    in_book: int


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What comparing a snapshot with the book gave.

    Attributes:
        verdict: `passed` or `failed`.
        differences: The first `DIFFERENCES_MAX`, bids before asks, by price.
        difference_count: All of them.
        learned: Levels `(side, price, quantity)` of which the book knew nothing, by side and price.
    """

    verdict: str
    differences: tuple[Difference, ...]
    difference_count: int
    learned: tuple[tuple[str, int, int], ...] = ()


def checkpoint(
    snapshot: Sides,
    book: Book,
    event: Levels | None = None,
    row: int = 0,
    *,
    complete_bid: bool = False,
    complete_ask: bool = False,
    depth: int | None = None,
    known: Region = EVERYWHERE,
) -> Checkpoint:
    """Compare a snapshot with id L with the reconstructed book at the end u of the event that covers it, `p <= L <= u`.

    The snapshot with the event applied must equal the book inside the snapshot's price range, from the best price to the worst one it
    lists; outside, nothing is claimed. A complete side (the server had fewer levels than were asked for) reaches to infinity. A level that the
    book lacks outside its own region is none it should have: nobody has told it.

    Args:
        snapshot: The snapshot's sides, with the book's exponents.
        book: The book at u.
        event: The levels that hold the spanning event, or None if L is u and the event need not be applied.
        row: The event's position in `event`.
        complete_bid: Whether the snapshot lists all bids.
        complete_ask: Whether it lists all asks.
        depth: How many levels a side of the book are looked at, None for all. A snapshot of n levels and an event that changes m of them need
            n + m + 1.
        known: Of which prices the book knows everything.
    """
    bid_price, bid_quantity, ask_price, ask_quantity = book.levels(depth)
    found: list[Difference] = []
    learned: list[tuple[str, int, int]] = []
    for side, prices, quantities, complete, sign, book_side in (
        ("bid", snapshot[0], snapshot[1], complete_bid, -1, (bid_price, bid_quantity)),
        ("ask", snapshot[2], snapshot[3], complete_ask, 1, (ask_price, ask_quantity)),
    ):
        changes = {} if event is None else _changes(event, row, side)
        if _equal(prices, quantities, changes, book_side, sign, complete=complete):
            continue
        expected = dict(zip(prices.tolist(), quantities.tolist(), strict=True))
        # In terms of sign * price, better is lower on both sides.
        worst = HIGHEST if complete else max((sign * price for price in expected), default=-HIGHEST)
        expected.update(changes)
        actual = dict(zip(book_side[0].tolist(), book_side[1].tolist(), strict=True))
        for price in sorted(expected.keys() | actual.keys()):
            before, after = expected.get(price, 0), actual.get(price, 0)
            if before == after or sign * price > worst:
                continue
            if after or known.holds(price):
                found.append(Difference(side, price, before, after))
            else:
                learned.append((side, price, before))
    if found:
        return Checkpoint("failed", tuple(found[:DIFFERENCES_MAX]), len(found))
    return Checkpoint("passed", (), 0, tuple(learned))


def meet(
    snapshot: Sides,
    book: Book,
    known: Region,
    event: Levels | None = None,
    row: int = 0,
    *,
    complete_bid: bool = False,
    complete_ask: bool = False,
) -> tuple[Checkpoint, Region]:
    """Compare a snapshot with a book, and let the book learn from it what it could not know, if it agrees with all the rest.

    Args:
        snapshot: As for `checkpoint`, like those not named here.
        book: The book, which may learn levels.
        known: Its region.
        event: As for `checkpoint`.
        row: Likewise.
        complete_bid: Likewise.
        complete_ask: Likewise.

    Returns:
        The comparison, and the region now.
    """
    result = checkpoint(snapshot, book, event, row, complete_bid=complete_bid, complete_ask=complete_ask, known=known)
    if result.verdict == "failed":
        return result, known
    if result.learned:
        book.apply(_as_event(result.learned))
    return result, known.joined(region_of(snapshot, complete_bid=complete_bid, complete_ask=complete_ask))


def _as_event(learned: tuple[tuple[str, int, int], ...]) -> Levels:
    def side(name: str) -> tuple[Ints, Ints, Ints]:
        rows = np.array([(price, quantity) for which, price, quantity in learned if which == name], np.int64).reshape(-1, 2)
        return np.array([0, len(rows)], np.int64), np.ascontiguousarray(rows[:, 0]), np.ascontiguousarray(rows[:, 1])

    return Levels(*side("bid"), *side("ask"))


def _equal(
    prices: Ints, quantities: Ints, changes: dict[int, int], actual: tuple[Ints, Ints], sign: int, *, complete: bool
) -> bool:
    """Return whether a side has no difference at all, which is nearly always so, without looking at it level by level."""
    worst = HIGHEST if complete else int((sign * prices).max(initial=-HIGHEST))
    if changes:
        kept = ~np.isin(prices, np.array([*changes], np.int64))
        prices = np.concatenate([prices[kept], np.array([*changes], np.int64)])
        quantities = np.concatenate([quantities[kept], np.array([*changes.values()], np.int64)])
    found = (quantities != 0) & (sign * prices <= worst)
    prices, quantities = prices[found], quantities[found]
    order = np.argsort(sign * prices, kind="stable")
    near = sign * actual[0] <= worst
    return np.array_equal(prices[order], actual[0][near]) and np.array_equal(quantities[order], actual[1][near])


def _changes(event: Levels, row: int, side: str) -> dict[int, int]:
    offsets: Ints = event.bid_offsets if side == "bid" else event.ask_offsets
    prices = event.bid_price if side == "bid" else event.ask_price
    quantities = event.bid_quantity if side == "bid" else event.ask_quantity
    chosen = slice(int(offsets[row]), int(offsets[row + 1]))
    return dict(zip(prices[chosen].tolist(), quantities[chosen].tolist(), strict=True))
