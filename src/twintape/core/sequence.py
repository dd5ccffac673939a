"""One rule for the update ids of all markets.

A depth event covers the half-open id interval `(p, u]`: `p = U - 1` on spot, `p = pu` on futures, where `U` is only information and ids
are sparse. With the book at id `x`:

=============  ========  ===============================================================================================
`u <= x`       STALE     drop: applying it would put older quantities over newer ones
`p == x`       ALIGNED   apply; exact, needs nothing but ids
`p < x < u`    OVERLAP   apply; exact because an event lists every level *touched* in `(p, u]` with its final quantity
`p > x`        GAP       hold: ids `x+1 … p` are missing
=============  ========  ===============================================================================================

A snapshot with `lastUpdateId = L` starts a book with the same table, `x = L`.

Source: Binance, "How to manage a local order book correctly" (spot text of 2025-11-12, futures text of 2026-05-28), corrected where real
recordings contradict it: the first event behind a snapshot need not contain `L` (it may start exactly there), and on futures `U` may be
far above `pu + 1`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from itertools import pairwise

__all__ = ["EPOCH_DROP_IDS", "Gap", "Join", "LineTracker", "Step", "coverage", "holes", "is_new_epoch", "join"]

EPOCH_DROP_IDS = 1_000_000
"""An event that ends this far below the greatest id seen opens a new epoch (relisting, testnet reset, engine restart); nearer ones are late."""


class Join(Enum):
    """How an event meets a book."""

    STALE = "stale"
    ALIGNED = "aligned"
    OVERLAP = "overlap"
    GAP = "gap"


@dataclass(frozen=True, slots=True)
class Gap:
    """Ids that no event covers: everything in `(after_update_id, next_prev_update_id]`."""

    after_update_id: int
    next_prev_update_id: int


def join(book_update_id: int, prev_update_id: int, final_update_id: int) -> Join:
    """Return how the event `(prev_update_id, final_update_id]` meets a book at `book_update_id`.

    >>> join(10, 10, 12), join(10, 8, 12), join(10, 8, 10), join(10, 11, 12)
    (<Join.ALIGNED: 'aligned'>, <Join.OVERLAP: 'overlap'>, <Join.STALE: 'stale'>, <Join.GAP: 'gap'>)
    """
    if final_update_id <= book_update_id:
        return Join.STALE
    if prev_update_id == book_update_id:
        return Join.ALIGNED
    return Join.OVERLAP if prev_update_id < book_update_id else Join.GAP


def is_new_epoch(high_update_id: int, final_update_id: int) -> bool:
    """Return whether an event that ends at `final_update_id` belongs to a restarted id space.

    >>> is_new_epoch(5_000_000, 3), is_new_epoch(5_000_000, 4_999_990)
    (True, False)
    """
    return final_update_id < high_update_id - EPOCH_DROP_IDS


@dataclass(frozen=True, slots=True)
class Step:
    """What one event meant for one line: how it joined, the gap before it, and whether it opened a new epoch."""

    join: Join
    gap: Gap | None = None
    new_epoch: bool = False


class LineTracker:
    """Follows the ids of one stream as one line hears them.

    >>> line = LineTracker()
    >>> line.feed(5, 7).join, line.feed(7, 9).join, line.feed(11, 12).gap
    (<Join.ALIGNED: 'aligned'>, <Join.ALIGNED: 'aligned'>, Gap(after_update_id=9, next_prev_update_id=11))
    """

    __slots__ = ("update_id",)

    def __init__(self, update_id: int | None = None) -> None:
        self.update_id = update_id
        """Where the line stands, or None before its first event."""

    def feed(self, prev_update_id: int, final_update_id: int) -> Step:
        """Take the next event and return what it means; the line then stands at its end unless it was stale."""
        here = self.update_id
        if here is None:
            self.update_id = final_update_id
            return Step(Join.ALIGNED)
        if is_new_epoch(here, final_update_id):
            self.update_id = final_update_id
            return Step(Join.GAP, new_epoch=True)
        how = join(here, prev_update_id, final_update_id)
        if how is Join.STALE:
            return Step(how)
        self.update_id = final_update_id
        return Step(how, Gap(here, prev_update_id) if how is Join.GAP else None)


def coverage(intervals: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return the union of half-open intervals `(p, u]` as disjoint, sorted, maximal ones.

    A chain of events from `a` to `b` exists exactly if one of them contains `(a, b]`.

    >>> coverage([(7, 9), (5, 7), (20, 30), (25, 26)])
    [(5, 9), (20, 30)]
    """
    union: list[tuple[int, int]] = []
    for prev, final in sorted(intervals):
        if final <= prev:
            continue
        if union and prev <= union[-1][1]:
            if final > union[-1][1]:
                union[-1] = (union[-1][0], final)
        else:
            union.append((prev, final))
    return union


def holes(intervals: Iterable[tuple[int, int]]) -> list[Gap]:
    """Return the gaps between the first and the last id covered.

    >>> holes([(5, 9), (20, 30)])
    [Gap(after_update_id=9, next_prev_update_id=20)]
    """
    union = coverage(intervals)
    return [Gap(before[1], behind[0]) for before, behind in pairwise(union)]
