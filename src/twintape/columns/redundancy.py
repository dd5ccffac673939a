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

from twintape.columns.heard import EPOCH_IDS, Heard, Line
from twintape.columns.statistics import events_interval, poisson_tail

__all__ = ["Dependence", "LineHealth", "Outage", "Redundancy", "Together", "Worth"]

Ints = NDArray[np.int64]
Spans = list[tuple[int, int]]

OUTAGES_MAX = 200
"""Holes that are listed one by one for each line."""
SUBSETS_MAX = 12
"""Lines of which all combinations are looked at; more are compared by pairs and all together."""
_UNKNOWN = -(1 << 62)
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


class Worth:
    """What lines of one stream are worth together, found while their slices are gone through.

    Args:
        lines: All of them.
    """

    def __init__(self, lines: Sequence[Line]) -> None:
        self._lines = lines
        heard = [line.spans for line in lines if len(line.spans[0])]
        self._bounds = (
            min((int(starts[0]) for starts, _ in heard), default=0),
            max((int(ends[-1]) for _, ends in heard), default=0),
        )
        self._holes = [_holes(line.spans, *self._bounds) for line in lines]
        self._clock = _Clock(self._holes)

    def add(self, heard: Sequence[Heard], until: int) -> None:
        """Take in a slice and where it ends, as `heard.slices` gives them."""
        self._clock.add(heard, until)

    def result(self) -> Redundancy | None:
        """Return what they are worth, or None if none heard anything."""
        lines, holes, bounds, clock = self._lines, self._holes, self._bounds, self._clock
        times = [(line.from_us, line.to_us) for line in lines if len(line.spans[0])]
        if not times:
            return None
        start_us, stop_us = min(start for start, _ in times), max(stop for _, stop in times)
        length = max(stop_us - start_us, 1)
        joint = _common(holes)
        return Redundancy(
            from_us=start_us,
            to_us=stop_us,
            lines=[_health(lines, position, holes, bounds, clock, length) for position in range(len(lines))],
            joint=[_outage(hole, bounds, clock) for hole in joint[:OUTAGES_MAX]],
            together=[_together(holes, count, clock, length) for count in range(1, len(lines) + 1)],
            dependence=[
                _dependence(lines[one].name, clock.spans(holes[one]), lines[two].name, clock.spans(holes[two]), length)
                for one, two in itertools.combinations(range(len(lines)), 2)
            ],
        )


class _Clock:
    """Event times of all lines together at the ids where holes begin and end."""

    def __init__(self, holes: Sequence[Spans]) -> None:
        self._ids = np.unique(np.array([edge for own in holes for hole in own for edge in hole], np.int64))
        self._before, self._behind = (np.full(len(self._ids), _UNKNOWN, np.int64) for _ in range(2))
        self._waiting: tuple[Ints, Ints] = (np.zeros(0, np.int64), np.zeros(0, np.int64))
        self._first_us = self._latest_us = _UNKNOWN

    def add(self, heard: Sequence[Heard], until: int) -> None:
        """Take in all windows of a slice; those that end behind it wait for others that end before them."""
        final = np.concatenate([self._waiting[0], *(line.final for line in heard)])
        times = np.concatenate([self._waiting[1], *(line.event_time_us for line in heard)])
        order = np.argsort(final, kind="stable")
        final, times = final[order], times[order]
        known = int(np.searchsorted(final, until, side="right"))
        self._waiting = final[known:], times[known:]
        if not known:
            return
        final, times = final[:known], np.maximum(np.maximum.accumulate(times[:known]), self._latest_us)
        if self._first_us == _UNKNOWN:
            self._first_us = int(times[0])
        self._latest_us = int(times[-1])
        place = np.searchsorted(final, self._ids, side="right")
        self._before[place > 0] = times[place[place > 0] - 1]
        first = (self._behind == _UNKNOWN) & (place < known)
        self._behind[first] = times[place[first]]

    def before(self, update_id: int) -> int:
        """Return the time of the last window that ends at the id or before."""
        found = int(self._before[np.searchsorted(self._ids, update_id)])
        return self._first_us if found == _UNKNOWN else found

    def behind(self, update_id: int) -> int:
        """Return the time of the first window that ends behind the id."""
        found = int(self._behind[np.searchsorted(self._ids, update_id)])
        return self._latest_us if found == _UNKNOWN else found

    def spans(self, holes: Spans) -> Spans:
        """Return holes in ids as holes in time, those that touch as one."""
        return _merged([(self.before(after), self.behind(until)) for after, until in holes])

    def lost(self, holes: Spans) -> int:
        """Return the time in holes."""
        return sum(stop - start for start, stop in self.spans(holes))


def _holes(spans: tuple[Ints, Ints], low: int, high: int) -> Spans:
    """Return what a line lacks of `(low, high]`; what was missed at a restart of the ids cannot be known."""
    starts, ends = np.concatenate([spans[0], [high]]), np.concatenate([[low], spans[1]])
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


def _health(
    lines: Sequence[Line], position: int, holes: Sequence[Spans], bounds: tuple[int, int], clock: _Clock, length: int
) -> LineHealth:
    line, own = lines[position], holes[position]
    others = [hole for place, hole in enumerate(holes) if place != position]
    lost = clock.lost(own)
    without = clock.lost(_common(others)) if others else length
    return LineHealth(
        name=line.name,
        frames=line.frames,
        windows=line.windows,
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


def _together(holes: Sequence[Spans], count: int, clock: _Clock, length: int) -> Together:
    every = len(holes) <= SUBSETS_MAX or count <= 2
    chosen = list(itertools.combinations(holes, count)) if every else [tuple(holes[:count])]
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
