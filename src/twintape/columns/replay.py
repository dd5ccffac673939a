"""The book of a published day, from its tables alone: opened, fed row by row, and taught by snapshots exactly as when the day was merged."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from twintape.columns.book import Book
from twintape.columns.books import SnapshotRow, rescaled
from twintape.columns.checkpoint import NOWHERE, Region, meet, region_of
from twintape.columns.parse import Levels
from twintape.columns.schema import BOOK_UNKNOWN, EPOCH_START, GAP_BEFORE, DepthColumns
from twintape.core.errors import CorruptionError

__all__ = ["Replay"]

_BREAK = GAP_BEFORE | EPOCH_START
Ints = NDArray[np.int64]


@dataclass(slots=True)
class Replay:
    """Follows a day's book through its `depth` rows.

    Args:
        snapshots: The rows of its `snapshot` table, in their order.
        restarts: Whether the day's ids restart. Then an id does not say which event a checkpoint was met behind, and nothing is learned from any.

    Attributes:
        book: The book behind the last row fed, or None if there never was one.
        region: Of which prices it knows everything.
        lost: Whether it is unknown there.
    """

    snapshots: Sequence[SnapshotRow]
    restarts: bool = False
    book: Book | None = field(init=False, default=None)
    region: Region = field(init=False, default=NOWHERE)
    lost: bool = field(init=False, default=False)
    _first: bool = field(init=False, default=True)

    @property
    def known(self) -> bool:
        """Whether there is a book to speak of."""
        return self.book is not None and not self.lost

    def advance(self, columns: DepthColumns, count: int) -> None:
        """Apply the first `count` rows of the next columns.

        Raises:
            CorruptionError: A row claims a known book and no snapshot of the table begins one there.
        """
        flags, levels = columns.flags[:count], _levels(columns)
        known = (flags & BOOK_UNKNOWN) == 0
        meetings = self._meetings(columns, count)
        row = 0
        while row < count:
            if not known[row]:
                self.lost = True
                row += 1
                continue
            stop = row + 1
            while stop < count and known[stop] and not flags[stop] & _BREAK and stop - 1 not in meetings:
                stop += 1
            if not self.known or flags[row] & _BREAK:
                self._begin(columns, row)
            assert self.book is not None
            self.book.apply(levels, row, stop)
            for snapshot in meetings.get(stop - 1, ()):
                self._learn(snapshot, levels, stop - 1)
            row = stop
        self._first = self._first and count == 0

    def _begin(self, columns: DepthColumns, row: int) -> None:
        """Load the book that makes row `row` known: the one with `p < L <= u`, or at the chain's start the one with `L = p`."""
        prev, final = int(columns.prev[row]), int(columns.final[row])
        starts = [one for one in self.snapshots if one.kind == "opening" or one.verdict == "anchor"]
        inside = [one for one in starts if prev < one.book.update_id <= final]
        chosen = next(iter(inside or [one for one in starts if one.book.update_id == prev]), None)
        if chosen is None:
            raise CorruptionError(f"the row that ends at {final} is flagged as known and no anchor covers it")
        self.book = Book(columns.price_exponent, columns.quantity_exponent)
        self.book.load(*rescaled(chosen.book, columns.price_exponent, columns.quantity_exponent))
        self.region = chosen.book.region.finer(10 ** (chosen.book.price_exponent - columns.price_exponent))
        self.lost = False

    def _passed(self) -> list[SnapshotRow]:
        return [] if self.restarts else [one for one in self.snapshots if one.verdict == "passed"]

    def _meetings(self, columns: DepthColumns, count: int) -> dict[int, list[SnapshotRow]]:
        """Return which snapshots are met behind which rows."""
        found: dict[int, list[SnapshotRow]] = {}
        for one in self._passed():
            last = one.book.update_id
            met = (columns.prev[:count] < last) & (last <= columns.final[:count])
            if self._first and count:
                met[0] |= columns.prev[0] == last  # nothing comes before it: what speaks of its `p` is met behind it too
            for row in np.flatnonzero(met):
                found.setdefault(int(row), []).append(one)
        return found

    def _learn(self, snapshot: SnapshotRow, levels: Levels, row: int) -> None:
        assert self.book is not None
        sides = rescaled(snapshot.book, self.book.price_exponent, self.book.quantity_exponent)
        complete_bid, complete_ask = snapshot.complete_bid, snapshot.complete_ask
        _, self.region = meet(sides, self.book, self.region, levels, row, complete_bid=complete_bid, complete_ask=complete_ask)

    def look_ahead(self, rows: Iterable[tuple[DepthColumns, int]]) -> None:
        """Learn from the next checkpoint behind the book: a level it lists that no event touched in between was there all the time.

        Args:
            rows: The columns that follow, each with the first row not yet fed. No more of them is read than needed.
        """
        assert self.book is not None
        touched: tuple[set[int], set[int]] = (set(), set())
        for columns, start in rows:
            levels, meetings = _levels(columns), self._meetings(columns, len(columns))
            for row in range(start, len(columns)):
                if columns.flags[row] & (_BREAK | BOOK_UNKNOWN):
                    return
                touched[0].update(levels.bid_price[levels.bid_offsets[row] : levels.bid_offsets[row + 1]].tolist())
                touched[1].update(levels.ask_price[levels.ask_offsets[row] : levels.ask_offsets[row + 1]].tolist())
                if row in meetings:
                    self._learn_backwards(meetings[row][0], touched)
                    return

    def _learn_backwards(self, snapshot: SnapshotRow, touched: tuple[set[int], set[int]]) -> None:
        assert self.book is not None
        sides = rescaled(snapshot.book, self.book.price_exponent, self.book.quantity_exponent)
        region = region_of(sides, complete_bid=snapshot.complete_bid, complete_ask=snapshot.complete_ask)
        if region.low > self.region.high or region.high < self.region.low:
            return
        bid_price, bid_quantity, ask_price, ask_quantity = self.book.levels()
        learned = []
        low, high = region.low, region.high
        for changed, own, prices, quantities in (
            (touched[0], set(bid_price.tolist()), sides[0].tolist(), sides[1].tolist()),
            (touched[1], set(ask_price.tolist()), sides[2].tolist(), sides[3].tolist()),
        ):
            # What was touched later, and not before, may have been anything: what is known ends there.
            unclear = {price for price in changed - own if not self.region.holds(price)}
            low = max([low, *(price + 1 for price in unclear if price < self.region.low)])
            high = min([high, *(price - 1 for price in unclear if price > self.region.high)])
            learned.append({p: q for p, q in zip(prices, quantities, strict=True) if p not in changed | own})
        sides_now = (bid_price, bid_quantity, ask_price, ask_quantity)
        self.book.load(*_with(sides_now, learned, self.region))
        self.region = self.region.joined(Region(low, high))


def _with(sides: tuple[Ints, Ints, Ints, Ints], learned: list[dict[int, int]], region: Region) -> list[Ints]:
    """Return the sides with the levels learned outside a region."""
    whole: list[Ints] = []
    for prices, quantities, more in ((sides[0], sides[1], learned[0]), (sides[2], sides[3], learned[1])):
        outside = {price: quantity for price, quantity in more.items() if not region.holds(price)}
        whole.append(np.concatenate([prices, np.array(list(outside), np.int64)]))
        whole.append(np.concatenate([quantities, np.array(list(outside.values()), np.int64)]))
    return whole


def _levels(columns: DepthColumns) -> Levels:
    return Levels(
        columns.bid_offsets,
        columns.bid_price,
        columns.bid_quantity,
        columns.ask_offsets,
        columns.ask_price,
        columns.ask_quantity,
    )
