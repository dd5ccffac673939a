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

__all__ = ["Gap", "Join", "coverage", "holes", "is_new_epoch", "join"]


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


def is_new_epoch(high_update_id: int, final_update_id: int, drop_ids: int) -> bool:
    """Return whether an event that ends at `final_update_id` belongs to a restarted id space.

    Args:
        high_update_id: The greatest id seen.
        final_update_id: Where the event ends.
        drop_ids: How far ids must fall (`MarketRules.epoch_drop_ids`).

    >>> is_new_epoch(5_000_000, 3, 1_000_000), is_new_epoch(5_000_000, 4_999_990, 1_000_000)
    (True, False)
    """
    return final_update_id < high_update_id - drop_ids


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
