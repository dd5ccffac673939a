"""The path: one chain of events through all lines.

Nodes are ids, edges are events. Within each stretch of ids that the lines cover together, the path minimises (overlaps, line switches,
events), in this order. A stretch ends where no line has the next id: that is a gap, and its ids are known exactly.

Why the union decides: at id `x` inside a stretch some event covers `x + 1`, so it has `p <= x < u` and can be applied; by induction a chain
reaches the stretch's end. Conversely an id in no event is in no chain.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from twintape.columns.kernel import kernel

__all__ = ["Path", "assign_epochs", "never_restarts", "splice"]

Ints = NDArray[np.int64]

_NO_ID = -(2**62)


@dataclass(frozen=True, slots=True)
class Path:
    """The chosen events, in chain order.

    Attributes:
        chosen: int64[k], positions in the arrays given to `splice`.
        overlap_at: int64[k], the book id at which the event is applied where it overlaps, else -1.
        gap_after: int64[k], the chain's end before the event where ids are missing between, else -1.
    """

    chosen: Ints
    overlap_at: Ints
    gap_after: Ints


def assign_epochs(final: Ints, event_time_us: Ints, start_update_id: int | None = None, *, drop_ids: int) -> Ints:
    """Number the epochs of all events: 0, 1, … in the order of the exchange's time.

    Args:
        final: int64[n], ends of the events of all lines, any order.
        event_time_us: int64[n], their `E`.
        start_update_id: Where the chain stood before, if that is known. It matters only if no event reaches it: then all of them come after a restart.
        drop_ids: How far ids must fall to be a restart (`MarketRules.epoch_drop_ids`).

    Returns:
        int64[n]. Everything is 0 unless ids fall by more than `drop_ids`.
    """
    epochs = np.zeros(len(final), np.int64)
    if len(final) == 0:
        return epochs
    greatest = int(final.max())
    high = _NO_ID if start_update_id is None or greatest >= start_update_id - drop_ids else start_update_id
    if high == _NO_ID and int(final.min()) >= greatest - drop_ids:
        return epochs
    order = np.lexsort((final, event_time_us))
    _number_epochs(final[order], order, high, drop_ids, epochs)
    return epochs


def never_restarts(final: Ints, event_time_us: Ints, order: Ints, start_update_id: int | None = None, *, drop_ids: int) -> bool:
    """Return whether `assign_epochs` would give 0 to all events, in a fraction of its time.

    Args:
        final: int64[n], ends of events.
        event_time_us: int64[n], their `E`.
        order: Positions of those that count, by ascending end.
        start_update_id: As for `assign_epochs`.
        drop_ids: Likewise.
    """
    if len(order) == 0:
        return True
    if start_update_id is not None and int(final[order[-1]]) < start_update_id - drop_ids:
        return False
    return bool(_never_falls(final, event_time_us, order, drop_ids))


@kernel
def _never_falls(final: Ints, event_time_us: Ints, order: Ints, drop: int) -> bool:
    # Ids restart where an event ends over `drop` below one with an earlier `E`.
    low = 0
    latest = np.int64(-(2**62))
    for k in range(order.size):
        row = order[k]
        while final[order[low]] < final[row] - drop:
            latest = max(latest, event_time_us[order[low]])
            low += 1
        if event_time_us[row] < latest:
            return False
    return True


@kernel
def _number_epochs(final: Ints, order: Ints, high: int, drop: int, epochs: Ints) -> None:
    epoch = 0
    for k in range(len(final)):
        if high != -(2**62) and final[k] < high - drop:
            epoch += 1
            high = final[k]
        elif final[k] > high:
            high = final[k]
        epochs[order[k]] = epoch


def splice(prev: Ints, final: Ints, line: Ints, start_update_id: int | None = None) -> Path:
    """Find the path through the events of one epoch.

    Args:
        prev: int64[n], `p` of each event. Sorted by `(final, prev, line)`, further copies behind the first.
        final: int64[n], `u` of each event, ascending.
        line: int64[n], which line heard it; lines are numbered in a fixed order, so that ties are broken the same way every time.
        start_update_id: Where the chain stands before the first event. Events that end at or before it must not be given.

    Returns:
        The path. Among equally good ones the lowest line, then the first event, wins. O(n · w) where `w` is how many events end inside one event.
    """
    count = len(final)
    if count == 0:
        empty = np.zeros(0, np.int64)
        return Path(empty, empty, empty)
    start = _NO_ID if start_update_id is None else start_update_id
    chosen = np.empty(count, np.int64)
    overlap_at = np.empty(count, np.int64)
    gap_after = np.empty(count, np.int64)
    used = _walk(prev, final, line, start, _suffix_minimum(prev), chosen, overlap_at, gap_after)
    return Path(chosen[:used].copy(), overlap_at[:used].copy(), gap_after[:used].copy())


def _suffix_minimum(prev: Ints) -> Ints:
    """For each event, the least `p` of it and all events that end later: where a stretch ends, this is above the event's end."""
    return np.minimum.accumulate(prev[::-1])[::-1]


@kernel
def _walk(
    prev: Ints, final: Ints, line: Ints, start: int, least_prev: Ints, chosen: Ints, overlap_at: Ints, gap_after: Ints
) -> int:
    count = len(final)
    used = 0
    begin = 0
    at = start
    while begin < count:
        # The stretch: events up to the first end behind which every event starts later.
        stop = begin + 1
        while stop < count and least_prev[stop] <= final[stop - 1]:
            stop += 1
        gap = -1
        least = least_prev[begin]
        if at == -(2**62):
            at = least
        elif least > at:
            gap = at
            at = least
        used = _shortest(prev, final, line, begin, stop, at, gap, chosen, overlap_at, gap_after, used)
        at = final[stop - 1]
        begin = stop
    return used


@kernel
def _shortest(
    prev: Ints,
    final: Ints,
    line: Ints,
    begin: int,
    stop: int,
    start: int,
    gap: int,
    chosen: Ints,
    overlap_at: Ints,
    gap_after: Ints,
    used: int,
) -> int:
    size = stop - begin
    big = np.int64(1) << 62
    bends = np.full(size, big, np.int64)  # overlaps << 32 | switches
    steps = np.full(size, big, np.int64)
    back = np.full(size, -1, np.int64)
    low = begin
    for i in range(begin, stop):
        p = prev[i]
        u = final[i]
        k = i - begin
        if p <= start:
            bends[k] = 0 if p == start else np.int64(1) << 32
            steps[k] = 1
        # Ends are ascending and so, nearly always, are starts: walk the window instead of searching it.
        while low > begin and final[low - 1] >= p:
            low -= 1
        while low < i and final[low] < p:
            low += 1
        j = low
        while j < i and final[j] < u:
            m = j - begin
            if steps[m] < big:
                cost = bends[m]
                if final[j] != p:
                    cost += np.int64(1) << 32
                if line[j] != line[i]:
                    cost += 1
                length = steps[m] + 1
                better = cost < bends[k] or (cost == bends[k] and length < steps[k])
                if not better and cost == bends[k] and length == steps[k] and back[k] >= 0:
                    better = line[j] < line[begin + back[k]]
                if better:
                    bends[k] = cost
                    steps[k] = length
                    back[k] = m
            j += 1
    best = size - 1
    last = final[stop - 1]
    i = stop - 1
    while i >= begin and final[i] == last:
        k = i - begin
        if (
            bends[k] < bends[best]
            or (bends[k] == bends[best] and steps[k] < steps[best])
            or (bends[k] == bends[best] and steps[k] == steps[best] and (line[i], i) < (line[begin + best], begin + best))
        ):
            best = k
        i -= 1
    length = steps[best]
    k = best
    for step in range(length - 1, -1, -1):
        i = begin + k
        chosen[used + step] = i
        before = start if back[k] < 0 else final[begin + back[k]]
        overlap_at[used + step] = before if prev[i] < before else -1
        gap_after[used + step] = -1
        k = back[k]
    gap_after[used] = gap
    return int(used + length)
