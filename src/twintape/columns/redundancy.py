"""What several lines of one stream are worth together: what each lost, what all lost, and what one more would save.

A hole of a line is known by its ids; its time is from the `E` of the last window before it to that of the first behind, so it is never told
too short. Estimates rest on episodes, not on events: a broken connection loses thousands of events at once, and is one accident.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from twintape.columns.heard import EPOCH_IDS, Heard
from twintape.columns.statistics import events_interval, poisson_tail

__all__ = ["Dependence", "LineHealth", "Outage", "Redundancy", "Together", "redundancy"]

Ints = NDArray[np.int64]
Spans = list[tuple[int, int]]

OUTAGES_MAX = 200
"""Holes that are listed one by one for each line."""
SUBSETS_MAX = 12
"""Lines of which all combinations are looked at; more are compared by pairs and all together."""
_DAY_US = 86_400_000_000
_SIGNIFICANT = 0.05


class Outage(Struct, frozen=True):
    """A hole of one line: ids it lacks, and between which event times (µs) they lie."""

    after_update_id: int
    until_update_id: int
    from_us: int
    to_us: int
    edge: bool


class LineHealth(Struct, frozen=True):
    """One line.

    Attributes:
        name: Whose.
        frames: Frames it heard, with repeats.
        windows: Different windows.
        repeats: Further copies of a window.
        contradictions: Copies of a window with other content on the same line.
        undecodable: Frames that are none.
        late: Windows heard behind one with greater ids, on the same connection.
        connections: Connections it consists of.
        available: Share of the time of all lines together in which it has no hole.
        outages_count: Its holes; `outages` lists the first of them.
        lost_us: Time in holes.
        saved_us: Time that all other lines together would lack without it.
        outages: Holes in the order of ids.
    """

    name: str
    frames: int
    windows: int
    repeats: int
    contradictions: int
    undecodable: int
    late: int
    connections: int
    available: float
    outages_count: int
    lost_us: int
    saved_us: int
    outages: list[Outage]


class Together(Struct, frozen=True):
    """What an archive of so many lines would lack, on average over the combinations there are.

    Attributes:
        lines: How many.
        combinations: Of how many combinations this is the mean.
        episodes_per_day: Holes that none of them covers, a day.
        low: Between this and `high` lies the truth (95 %), if episodes come independently.
        high: See `low`.
        lost: Share of the time in such holes.
    """

    lines: int
    combinations: int
    episodes_per_day: float
    low: float
    high: float
    lost: float


class Dependence(Struct, frozen=True):
    """Whether two lines fail together.

    Attributes:
        a: One line; `b` the other.
        together: Episodes in which both had a hole.
        expected: How many there would be by chance.
        probability: Of so many or more by chance.
        verdict: `independent`, `together` (more often than chance explains), or `too few` holes to say.
    """

    a: str
    b: str
    together: int
    expected: float
    probability: float
    verdict: str


class Redundancy(Struct, frozen=True):
    """The lines of one stream as insurance of each other.

    Attributes:
        from_us: `E` of the first window anybody heard; `to_us` of the last.
        lines: Each line.
        joint: Holes that no line covers.
        together: For one line, two, …
        dependence: For each pair.
    """

    from_us: int
    to_us: int
    lines: list[LineHealth]
    joint: list[Outage]
    together: list[Together]
    dependence: list[Dependence]


def redundancy(lines: Sequence[Heard]) -> Redundancy | None:
    """Return what the lines are worth together, or None if none heard anything."""
    heard = [line for line in lines if len(line)]
    if not heard:
        return None
    low, high = min(int(line.prev.min()) for line in heard), max(int(line.final.max()) for line in heard)
    clock = _Clock(heard)
    holes = [_holes(line, low, high) for line in lines]
    length = max(clock.stop_us - clock.start_us, 1)
    joint = _common(holes)
    return Redundancy(
        from_us=clock.start_us,
        to_us=clock.stop_us,
        lines=[_health(lines, position, holes, (low, high), clock) for position in range(len(lines))],
        joint=[_outage(hole, (low, high), clock) for hole in joint[:OUTAGES_MAX]],
        together=[_together(holes, count, clock) for count in range(1, len(lines) + 1)],
        dependence=[
            _dependence(lines[one].name, clock.spans(holes[one]), lines[two].name, clock.spans(holes[two]), length)
            for one, two in itertools.combinations(range(len(lines)), 2)
        ],
    )


class _Clock:
    """Event times by id, of all lines together."""

    def __init__(self, lines: Sequence[Heard]) -> None:
        final = np.concatenate([line.final for line in lines])
        times = np.concatenate([line.event_time_us for line in lines])
        order = np.argsort(final, kind="stable")
        self._final, self._times = final[order], np.maximum.accumulate(times[order])
        self.start_us, self.stop_us = int(times.min()), int(times.max())

    def before(self, update_id: int) -> int:
        """Return the time of the last window that ends at the id or before."""
        return int(self._times[max(int(np.searchsorted(self._final, update_id, side="right")) - 1, 0)])

    def behind(self, update_id: int) -> int:
        """Return the time of the first window that ends behind the id."""
        return int(self._times[min(int(np.searchsorted(self._final, update_id, side="right")), len(self._final) - 1)])

    def spans(self, holes: Spans) -> Spans:
        """Return holes in ids as holes in time, those that touch as one."""
        return _merged([(self.before(after), self.behind(until)) for after, until in holes])

    def lost(self, holes: Spans) -> int:
        """Return the time in holes."""
        return sum(stop - start for start, stop in self.spans(holes))


def _holes(line: Heard, low: int, high: int) -> Spans:
    """Return what the line lacks of `(low, high]`; what was missed at a restart of the ids cannot be known."""
    order = np.argsort(line.prev, kind="stable")
    starts = np.concatenate([line.prev[order], [high]])
    ends = np.maximum.accumulate(np.concatenate([[low], line.final[order]]))
    rows = np.flatnonzero((starts > ends) & (starts // EPOCH_IDS == ends // EPOCH_IDS))
    return list(zip(ends[rows].tolist(), starts[rows].tolist(), strict=True))


def _outage(hole: tuple[int, int], bounds: tuple[int, int], clock: _Clock) -> Outage:
    after, until = hole
    return Outage(
        after_update_id=after % EPOCH_IDS,
        until_update_id=until % EPOCH_IDS,
        from_us=clock.before(after),
        to_us=clock.behind(until),
        edge=after == bounds[0] or until == bounds[1],
    )


def _health(lines: Sequence[Heard], position: int, holes: Sequence[Spans], bounds: tuple[int, int], clock: _Clock) -> LineHealth:
    line, own = lines[position], holes[position]
    others = [hole for place, hole in enumerate(holes) if place != position]
    length = max(clock.stop_us - clock.start_us, 1)
    lost = clock.lost(own)
    without = clock.lost(_common(others)) if others else length
    return LineHealth(
        name=line.name,
        frames=line.frames,
        windows=len(line),
        repeats=line.repeats,
        contradictions=line.contradictions,
        undecodable=line.undecodable,
        late=line.late,
        connections=line.connections,
        available=1 - min(lost, length) / length,
        outages_count=len(own),
        lost_us=lost,
        saved_us=max(without - clock.lost(_common(holes)), 0),
        outages=[_outage(hole, bounds, clock) for hole in own[:OUTAGES_MAX]],
    )


# --- spans of time --------------------------------------------------------------------------------------------------------------------


def _merged(spans: Spans) -> Spans:
    found: Spans = []
    for start, stop in sorted(spans):
        if found and start <= found[-1][1]:
            found[-1] = (found[-1][0], max(found[-1][1], stop))
        else:
            found.append((start, stop))
    return found


def _overlap(one: Spans, two: Spans) -> Spans:
    found, j = [], 0
    for start, stop in one:
        while j < len(two) and two[j][1] <= start:
            j += 1
        k = j
        while k < len(two) and two[k][0] < stop:
            found.append((max(start, two[k][0]), min(stop, two[k][1])))
            k += 1
    return found


def _common(spans: Sequence[Spans]) -> Spans:
    """Return what all lack."""
    found = _merged(spans[0])
    for own in spans[1:]:
        found = _overlap(found, _merged(own))
    return found


def _together(holes: Sequence[Spans], count: int, clock: _Clock) -> Together:
    every = len(holes) <= SUBSETS_MAX or count <= 2
    chosen = list(itertools.combinations(holes, count)) if every else [tuple(holes[:count])]
    length = max(clock.stop_us - clock.start_us, 1)
    joint = [_common(subset) for subset in chosen]
    mean = sum(len(own) for own in joint) / len(chosen)
    # Combinations share lines: they say no more about chance than as many as have no line in common.
    apart = max(len(holes) // count, 1)
    days = apart * length / _DAY_US
    low, high = events_interval(round(mean * apart))
    return Together(
        lines=count,
        combinations=len(chosen),
        episodes_per_day=mean * apart / days,
        low=low / days,
        high=high / days,
        lost=min(sum(clock.lost(own) for own in joint) / (len(chosen) * length), 1.0),
    )


def _dependence(a: str, first: Spans, b: str, second: Spans, length: int) -> Dependence:
    together = len(_overlap(first, second))
    # Two holes meet by chance if one begins within the other's length before, or its own behind.
    expected = sum((stop - start) * len(second) + sum(end - begin for begin, end in second) for start, stop in first) / length
    probability = poisson_tail(together, expected)
    if not first or not second:
        verdict = "too few"
    elif probability < _SIGNIFICANT:
        verdict = "together"
    else:
        verdict = "independent" if len(first) >= 5 and len(second) >= 5 else "too few"
    return Dependence(a, b, together, expected, probability, verdict)
