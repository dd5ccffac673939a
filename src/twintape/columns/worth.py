"""What each line was worth: what only it heard, how early it heard the rest, and what the archive would have lost without it.

That is decided by ids alone: without a line, exactly those ids are missing that no other line covers in any form.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from twintape.columns.fates import Fate
from twintape.columns.merge import MergedDay
from twintape.core.evidence import Distribution, LineValue, LostRange

__all__ = ["line_values"]

Ints = NDArray[np.int64]

LOST_MAX = 100
"""Ranges that are spelled out for each line; all of them are counted."""
_NEVER = np.iinfo(np.int64).max


def line_values(day: MergedDay) -> list[LineValue]:
    """Return what each collector's line was worth, in the order of their names."""
    heard = _first_heard(day)
    counts = (heard != _NEVER).sum(axis=0)
    earliest = heard.min(axis=0, initial=_NEVER)
    alone = (heard == earliest).sum(axis=0) == 1
    same = [None if other is None else day.lines.collectors[other] for other in _same_recordings(heard)]
    found = []
    for number, collector in enumerate(day.lines.collectors):
        mine = heard[number] != _NEVER
        shared = mine & (counts > 1)
        lost, events = _lost(day, number, np.flatnonzero(mine & (counts == 1)))
        found.append(
            LineValue(
                collector=collector,
                covered=_covered(day, number),
                only_events=events,
                only_us=sum(one.to_event_time_us - one.from_event_time_us for one in lost),
                lost_ranges=len(lost),
                lost=lost[:LOST_MAX],
                shared=int(shared.sum()),
                first=int((shared & alone & (heard[number] == earliest)).sum()),
                behind_first=_distribution(heard[number][shared] - earliest[shared]),
                after_event=_after_event(day, number),
                same_recording_as=same[number],
            )
        )
    return found


def _first_heard(day: MergedDay) -> Ints:
    """Return int64[lines, events]: when each line first heard each event of the chain in this form."""
    found = np.full((len(day.lines.collectors), len(day.fates.chain)), _NEVER, np.int64)
    rows = np.flatnonzero(day.fates.place >= 0)
    np.minimum.at(found, (day.lines.line[rows], day.fates.place[rows]), day.lines.receive_time_ns[rows])
    return found


def _same_recordings(heard: Ints) -> list[int | None]:
    """Return for each line an earlier one whose receive times are the same wherever both heard an event: no clock on two machines does that."""
    same: list[int | None] = []
    for number in range(len(heard)):
        other = None
        for earlier in range(number):
            both = (heard[number] != _NEVER) & (heard[earlier] != _NEVER)
            if both.any() and (heard[number][both] == heard[earlier][both]).all():
                other = earlier
                break
        same.append(other)
    return same


def _distribution(values: Ints) -> Distribution | None:
    if len(values) == 0:
        return None
    ranks = [-(-percent * len(values) // 100) - 1 for percent in (50, 90, 99, 100)]
    p50, p90, p99, greatest = np.partition(values, ranks)[ranks].tolist()
    return Distribution(p50=p50, p90=p90, p99=p99, max=greatest)


def _after_event(day: MergedDay, number: int) -> Distribution | None:
    rows = np.flatnonzero((day.fates.place >= 0) & (day.lines.line == number))
    return _distribution(day.lines.receive_time_ns[rows] - 1000 * day.lines.event_time_us[rows])


def _union(prev: Ints, final: Ints) -> tuple[Ints, Ints]:
    """Return begins and ends of the union of intervals `(prev, final]`, ascending."""
    order = np.argsort(prev, kind="stable")
    prev, reach = prev[order], np.maximum.accumulate(final[order])
    begins = np.flatnonzero(np.r_[np.ones(min(1, len(prev)), bool), prev[1:] > reach[:-1]])
    return prev[begins], reach[np.r_[begins[1:] - 1, len(prev) - 1][: len(begins)]]


def _holds(union: tuple[Ints, Ints], prev: Ints, final: Ints) -> NDArray[np.bool_]:
    """Whether each interval lies in the union."""
    begins, ends = union
    if len(begins) == 0:
        return np.zeros(len(prev), bool)
    place = np.searchsorted(begins, prev, side="right") - 1
    return np.asarray((place >= 0) & (ends[np.maximum(place, 0)] >= final), bool)


def _inside(day: MergedDay, epoch: int) -> NDArray[np.bool_]:
    return np.asarray((day.fates.fate != Fate.OWED) & (day.lines.epoch == epoch), bool)


def _covered(day: MergedDay, number: int) -> int:
    """Return how many events of the chain have only ids that the line heard, however it was cut."""
    lines, chain = day.lines, day.fates.chain
    total = 0
    for epoch in np.unique(lines.epoch[chain]).tolist():
        own = _inside(day, epoch) & (lines.line == number)
        wanted = chain[lines.epoch[chain] == epoch]
        total += int(_holds(_union(lines.prev[own], lines.final[own]), lines.prev[wanted], lines.final[wanted]).sum())
    return total


def _lost(day: MergedDay, number: int, places: Ints) -> tuple[list[LostRange], int]:
    """Return the ranges of ids that no other line has, and how many events of the chain have such ids; `places` are the chain's events of this line alone."""
    lines, chain = day.lines, day.fates.chain
    found: list[LostRange] = []
    events = 0
    for epoch in np.unique(lines.epoch[chain[places]]).tolist():
        others = _inside(day, epoch) & (lines.line != number)
        union = _union(lines.prev[others], lines.final[others])
        part = places[lines.epoch[chain[places]] == epoch]
        part = part[~_holds(union, lines.prev[chain[part]], lines.final[chain[part]])]
        events += len(part)
        whole = np.flatnonzero(lines.epoch[chain] == epoch)
        first, last = int(whole[0]), int(whole[-1])
        for begin, end in zip(*_union(lines.prev[chain[part]], lines.final[chain[part]]), strict=True):
            for after, behind in _without(int(begin), int(end), union):
                found.append(_range(day, first, last, after, behind))
    return found, events


def _without(begin: int, end: int, union: tuple[Ints, Ints]) -> list[tuple[int, int]]:
    """Return what of `(begin, end]` lies outside the union."""
    begins, ends = union
    place = max(0, int(np.searchsorted(ends, begin, side="right")))
    left: list[tuple[int, int]] = []
    at = begin
    while place < len(begins) and begins[place] < end:
        if begins[place] > at:
            left.append((at, int(begins[place])))
        at = int(ends[place])
        place += 1
    if at < end:
        left.append((at, end))
    return left


def _range(day: MergedDay, first: int, last: int, after: int, behind: int) -> LostRange:
    """Return a range with the times of the events around it: before its first id and behind its last one, as far as the day has them."""
    chain = day.fates.chain[first : last + 1]
    before = int(np.searchsorted(day.lines.final[chain], after, side="right")) - 1
    beyond = int(np.searchsorted(day.lines.prev[chain], behind))
    times = day.lines.event_time_us[chain]
    return LostRange(
        after_update_id=after,
        next_prev_update_id=behind,
        from_event_time_us=int(times[max(before, 0)]),
        to_event_time_us=int(times[min(beyond, len(chain) - 1)]),
    )
