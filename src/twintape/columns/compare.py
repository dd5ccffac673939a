"""Do two lines hear the same updates? Windows matched by id, and what differs counted and classified.

Lines are compared where both have recorded: from the greater of their first ids to the lesser of their last. There a window of one line
may be *missing* in the other (which has a hole there), *matched* (the same ids) or *cut differently*. Between two ids at which both stand,
the levels that either line mentions say whether the books still agree.

All of this is decided within a slice of ids; what a comparison remembers from one slice to the next does not grow with the number of windows.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from msgspec import Struct
from msgspec.structs import replace
from numpy.typing import NDArray

from twintape.columns.compare_books import BookCheck, History, check_books
from twintape.columns.heard import EPOCH_IDS, NO_END, Heard, Line
from twintape.columns.kernel import kernel
from twintape.columns.statistics import Distribution, Rate, Spread, rate
from twintape.core.markets import Market

__all__ = ["LEVELS", "Arrival", "Bucket", "Example", "Missing", "Pair", "PairComparison", "findings"]

Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]

LEVELS = ("bytes", "bytes_without_event_time", "windows_and_levels", "book")
"""What two lines may have in common, the strictest first."""
EDGE_WINDOWS_MAX = 8
"""Beside a hole, windows may stick out of what both have heard. As many are the edge's; more have other boundaries for good."""
REGION_WINDOWS_MAX = 2048
"""Windows of the first line that are looked at together where both lines stand at the same id nowhere."""
EXAMPLES_MAX = 3
"""Example pairs of each kind."""
EXAMPLE_FRAMES_MAX = 4
"""Frames of one line in an example."""
BUCKETS = 120
"""Parts of the timeline."""
_PERSISTENT = 0.5
_HOUR_US = 3_600_000_000


class Missing(Struct, frozen=True):
    """What one line has not heard though the other has: windows, the ids they cover, and in how many places."""

    windows: int
    ids: int
    places: int


class Arrival(Struct, frozen=True):
    """Who heard the same window first.

    Attributes:
        first_a: How many windows the first line heard first; `first_b` likewise; the others at the same nanosecond.
        difference_ns: Receive time of the second line minus that of the first.
        hours: By hour (microseconds since 1970 at its start): windows, median and 95th percentile of the difference, share first on the first line.
    """

    first_a: int
    first_b: int
    difference_ns: Distribution
    hours: list[tuple[int, int, float, float, float]]


class Bucket(Struct, frozen=True):
    """A part of the timeline: where it begins (`E`, µs), windows of the first line, and how many are other bytes, cut differently, missing."""

    start_us: int
    windows: int
    other_bytes: int
    cut: int
    missing_a: int
    missing_b: int
    books: int


class Example(Struct, frozen=True):
    """A pair of frames, or of groups of frames, that differ.

    Attributes:
        kind: `event_time`, `printed`, `split`, `merge`, `shift`, `omitted`, `conflict`, `missing_in_a` or `missing_in_b`.
        prev_update_id: Both stand here before …
        final_update_id: … and here after these frames.
        a: Receive time (ns) and frame of the first line, verbatim.
        b: Of the second.
    """

    kind: str
    prev_update_id: int
    final_update_id: int
    a: list[tuple[int, str]]
    b: list[tuple[int, str]]


class Pair(Struct, frozen=True):
    """Two lines of one stream compared.

    Attributes:
        a: Name of the first line; `b` of the second.
        findings: What differs; see `findings`. Empty: nothing.
        windows_a: Windows of the first line that were compared; `windows_b` of the second.
        outside_a: Windows of the first line before or behind what both recorded; `outside_b` of the second.
        edge: Windows of both beside a hole, which have no counterpart to be compared with.
        missing_in_a: What the first line lacks; `missing_in_b` the second.
        levels: By name of `LEVELS`: how often it was *not* the same. The first three of `windows_a`, the last of the ids at which both stand.
        split: Places where the second line has several windows for one of the first; `merge` the other way round; `shift`: several for several.
        cut_a: Windows of the first line that the second cut differently.
        printed: Matched windows whose text differs in more than `E`, but not in ids and levels.
        omitted_by_a: How often the second line mentions a level that the first does not mention in any window of those ids; `omitted_by_b` the other way round.
        conflicts: Ids at which a level that was just mentioned differs: one of the lines is wrong.
        undecided: Places where a level is mentioned by one line only, and the other's quantity is not known.
        event_time: `E` of the second minus `E` of the first, µs, of matched windows in which they differ.
    """

    a: str
    b: str
    findings: list[str]
    windows_a: int
    windows_b: int
    outside_a: int
    outside_b: int
    edge: int
    missing_in_a: Missing
    missing_in_b: Missing
    levels: dict[str, Rate]
    split: int
    merge: int
    shift: int
    cut_a: int
    printed: int
    omitted_by_a: int
    omitted_by_b: int
    conflicts: int
    undecided: int
    event_time: Distribution
    arrival: Arrival
    timeline: list[Bucket]
    examples: list[Example]


@dataclass(slots=True)
class _Side:
    """One line of a pair.

    Attributes:
        line: The line.
        outside: Whether a window lies before or behind what both recorded.
        missing: Whether the other line has a hole there.
        match: The other's window with the same ids, or -1.
        region: The place between two ids at which both stand; -1 for what is not compared.
        segment: Changes wherever either line has a hole.
    """

    line: Heard
    outside: Flags
    missing: Flags
    match: Ints
    region: Ints
    segment: Ints


class PairComparison:
    """Two lines of one stream, compared slice by slice.

    Args:
        a: The first line.
        b: The second.
        market: How frames are read.
        whole: Whether all quantities ever mentioned are remembered: where `unsettled` says so, only that tells whether books agree.
    """

    def __init__(self, a: Line, b: Line, market: Market, *, whole: bool = False) -> None:
        self._lines = (a, b)
        self._market = market
        self._tally = _Tally()
        self._timeline = _Timeline.of(a, b)
        self._arrival = _Hours()
        self._event_time = Spread()
        self._missing = (_MissingTally(), _MissingTally())
        self._examples: dict[str, list[Example]] = {kind: [] for kind in _EXAMPLE_KINDS}
        decimals = [max(one, two) for one, two in zip(a.decimals, b.decimals, strict=True)]
        self._history = History((-decimals[0], -decimals[1])) if whole else None
        self.unsettled = False

    def add(self, a: Heard, b: Heard) -> None:
        """Compare a slice; slices are given in the order of ids, from `heard.slices`.

        Raises:
            CorruptionError: A chunk is damaged.
        """
        (one, two), shapes = _sides((a, b), self._lines)
        inside = one.region >= 0
        matched = np.flatnonzero(inside & (one.match >= 0))
        partner = one.match[matched]
        same_text = _same_text(a, b, matched, partner)
        same_content = (a.content[matched] == b.content[partner]).all(axis=1)
        same_bytes = same_text & (a.event_time_us[matched] == b.event_time_us[partner])
        asked = _differing(one, two, matched, same_content, shapes)
        placed = (a, one.region, one.segment), (b, two.region, two.segment)
        checked = check_books(*placed, asked, shapes.complete, self._market, self._history)
        same_levels = same_content | checked.same_levels[one.region[matched]]
        self.unsettled |= self._history is None and bool(checked.undecided.any())
        cut = np.flatnonzero(inside & (one.match < 0))
        kinds = _kinds(shapes)
        self._tally.add((one, two), shapes, kinds, checked, (same_bytes, same_text, same_levels), len(cut))
        for tally, side in zip(self._missing, (two, one), strict=True):
            tally.add(side)
        differs = b.event_time_us[partner] - a.event_time_us[matched]
        self._event_time.add(differs[differs != 0])
        self._arrival.add(a.event_time_us[matched], b.receive_time_ns[partner] - a.receive_time_ns[matched])
        wrong = np.flatnonzero(inside)
        wrong = wrong[checked.wrong[one.region[wrong]]]
        own = (np.flatnonzero(inside), matched[~same_bytes], cut)
        self._timeline.add(a, b, (*own, np.flatnonzero(two.missing), np.flatnonzero(one.missing), wrong))
        regions = {
            "conflict": np.flatnonzero(checked.wrong),
            "omitted": np.flatnonzero(checked.omitted_by_a + checked.omitted_by_b),
            "split": np.flatnonzero(kinds == _SPLIT),
            "merge": np.flatnonzero(kinds == _MERGE),
            "shift": np.flatnonzero(kinds == _SHIFT),
            "printed": one.region[matched[same_levels & ~same_text]],
            "event_time": one.region[matched[~same_bytes & same_text]],
        }
        self._add_examples(one, two, regions)

    def result(self) -> Pair:
        """Return what was found in all slices."""
        a, b = self._lines
        tally = self._tally
        total = tally.windows_a
        rates = (tally.other_bytes, tally.other_text, tally.other_levels)
        levels = {name: rate(count, total) for name, count in zip(LEVELS, rates, strict=False)}
        levels["book"] = rate(tally.conflicts, tally.common)
        found = Pair(
            a=a.name,
            b=b.name,
            findings=[],
            windows_a=total,
            windows_b=tally.windows_b,
            outside_a=tally.outside_a,
            outside_b=tally.outside_b,
            edge=tally.edge,
            missing_in_a=self._missing[0].result(),
            missing_in_b=self._missing[1].result(),
            levels=levels,
            split=tally.split,
            merge=tally.merge,
            shift=tally.shift,
            cut_a=tally.cut_a,
            printed=tally.printed,
            omitted_by_a=tally.omitted_by_a,
            omitted_by_b=tally.omitted_by_b,
            conflicts=tally.conflicts,
            undecided=tally.undecided,
            event_time=self._event_time.distribution(),
            arrival=self._arrival.result(),
            timeline=self._timeline.result(),
            examples=[example for kind in _EXAMPLE_KINDS for example in self._examples[kind]],
        )
        return replace(found, findings=findings(found))

    def _add_examples(self, one: _Side, two: _Side, regions: dict[str, Ints]) -> None:
        none = np.zeros(0, np.int64)
        for kind, which in regions.items():
            for region in which[: self._room(kind)].tolist():
                rows = np.flatnonzero(one.region == region), np.flatnonzero(two.region == region)
                self._examples[kind].append(_example(kind, one, rows[0], two, rows[1]))
        for row in np.flatnonzero(two.missing)[: self._room("missing_in_a")].tolist():
            self._examples["missing_in_a"].append(_example("missing_in_a", one, none, two, np.array([row])))
        for row in np.flatnonzero(one.missing)[: self._room("missing_in_b")].tolist():
            self._examples["missing_in_b"].append(_example("missing_in_b", one, np.array([row]), two, none))

    def _room(self, kind: str) -> int:
        return EXAMPLES_MAX - len(self._examples[kind])


def findings(pair: Pair) -> list[str]:
    """Return what differs between two lines, the gravest first; empty if nothing does.

    `conflict` other quantities for the same ids · `omitted` levels that one line leaves out · `shifted` other windows nearly always ·
    `recut` other windows now and then · `missing` windows only one line heard · `printed` other text · `restamped` another `E` ·
    `nothing` there was nothing to compare.
    """
    if pair.windows_a == 0:
        return ["nothing"]
    found = [
        ("conflict", pair.conflicts > 0),
        ("omitted", pair.omitted_by_a + pair.omitted_by_b > 0),
        ("shifted", pair.cut_a > _PERSISTENT * pair.windows_a),
        ("recut", 0 < pair.cut_a <= _PERSISTENT * pair.windows_a),
        ("missing", pair.missing_in_a.windows + pair.missing_in_b.windows > 0),
        ("printed", pair.printed > 0),
        ("restamped", pair.event_time.count > 0),
    ]
    return [name for name, true in found if true]


# --- which windows belong together -------------------------------------------------------------------------------------------------

_SAME, _SPLIT, _MERGE, _SHIFT = range(4)


@dataclass(slots=True)
class _Shapes:
    """The places between two ids at which both lines stand; one element each.

    Attributes:
        count_a: Windows of the first line; `count_b` of the second.
        matched: Whether every window has a counterpart with the same ids.
        complete: Whether both lines stand at both ends.
    """

    count_a: Ints
    count_b: Ints
    matched: Flags
    complete: Flags


def _sides(heard: tuple[Heard, Heard], lines: tuple[Line, Line]) -> tuple[tuple[_Side, _Side], _Shapes]:
    spans = [line.spans for line in lines]
    if all(len(starts) for starts, _ in spans):
        low = max(int(starts[0]) for starts, _ in spans)
        high = min(int(ends[-1]) for _, ends in spans)
    else:
        low, high = NO_END, 0
    made = []
    for line, own, other in ((heard[0], spans[0], spans[1]), (heard[1], spans[1], spans[0])):
        outside = (line.final <= low) | (line.prev >= high) | (line.prev < low) | (line.final > high)
        place = np.searchsorted(other[0], line.prev, side="right") - 1
        inside = ~outside & (place >= 0)
        inside[inside] = line.final[inside] <= other[1][place[inside]]
        segment = place + np.searchsorted(own[0], line.prev, side="right") - 1
        made.append(_Side(line, outside, ~outside & ~inside, np.full(len(line), -1, np.int64), np.where(inside, 0, -1), segment))
    one, two = made
    one.match[:] = _match(one.line.final, one.line.prev, two.line.final, two.line.prev)
    two.match[:] = _match(two.line.final, two.line.prev, one.line.final, one.line.prev)
    return (one, two), _place(one, two)


@kernel
def _match(final: Ints, prev: Ints, other_final: Ints, other_prev: Ints) -> Ints:
    # Both sorted by (final, prev), each pair of ids once.
    found = np.full(final.size, -1, np.int64)
    j = 0
    for i in range(final.size):
        while j < other_final.size and (other_final[j] < final[i] or (other_final[j] == final[i] and other_prev[j] < prev[i])):
            j += 1
        if j < other_final.size and other_final[j] == final[i] and other_prev[j] == prev[i]:
            found[i] = j
    return found


def _place(one: _Side, two: _Side) -> _Shapes:
    """Give every window inside its region; the regions of edges are -1 again."""
    rows = [np.flatnonzero(side.region >= 0) for side in (one, two)]
    marks = [_distinct(side.line.prev[own], side.line.final[own]) for side, own in zip((one, two), rows, strict=True)]
    common = _with_cuts(np.intersect1d(marks[0], marks[1], assume_unique=True), one.line.final[rows[0]])
    for side, own in zip((one, two), rows, strict=True):
        # A hole ends a region even where its ids are not a boundary of both. Both numbers only grow: their sum changes with either.
        side.region[own] = np.searchsorted(common, side.line.prev[own], side="right") + side.segment[own]
    numbers = _distinct(one.region[rows[0]], two.region[rows[1]])
    counts, low, high, matched = [], [], [], np.ones(len(numbers), bool)
    for side, own in zip((one, two), rows, strict=True):
        side.region[own] = np.searchsorted(numbers, side.region[own])
        region = side.region[own]
        counts.append(np.bincount(region, minlength=len(numbers)))
        first, last = np.full(len(numbers), np.iinfo(np.int64).max), np.full(len(numbers), -1, np.int64)
        np.minimum.at(first, region, side.line.prev[own])
        np.maximum.at(last, region, side.line.final[own])
        low.append(first)
        high.append(last)
        matched[region[side.match[own] < 0]] = False
    complete = (low[0] == low[1]) & (high[0] == high[1]) & (counts[0] > 0) & (counts[1] > 0)
    edge = ~complete & ((np.minimum(*counts) == 0) | (np.maximum(*counts) <= EDGE_WINDOWS_MAX))
    renumber = np.where(edge, -1, np.cumsum(~edge) - 1)
    for side, own in zip((one, two), rows, strict=True):
        side.region[own] = renumber[side.region[own]]
    return _Shapes(counts[0][~edge], counts[1][~edge], matched[~edge], complete[~edge])


def _distinct(*parts: Ints) -> Ints:
    """Return the values of ascending arrays, each once: merging them is faster than hashing."""
    values = np.sort(np.concatenate(parts), kind="stable")
    fresh = np.ones(len(values), bool)
    fresh[1:] = values[1:] != values[:-1]
    return values[fresh]


def _with_cuts(common: Ints, final: Ints) -> Ints:
    """Add ends of windows of the first line where both stand together nowhere for long, so that no region is too large to look at."""
    last = np.searchsorted(common, final, side="right") - 1
    behind = np.searchsorted(final, common)  # the window that ends there
    since = np.arange(len(final)) - np.where(last >= 0, np.append(behind, 0)[last], 0)
    return np.union1d(common, final[(since > 0) & (since % REGION_WINDOWS_MAX == 0)])


def _kinds(shapes: _Shapes) -> Ints:
    kinds = np.full(len(shapes.count_a), _SHIFT, np.int64)
    kinds[(shapes.count_a == 1) & shapes.complete] = _SPLIT
    kinds[(shapes.count_b == 1) & shapes.complete] = _MERGE
    kinds[shapes.matched] = _SAME
    return kinds


def _differing(one: _Side, two: _Side, matched: Ints, same_content: Flags, shapes: _Shapes) -> Flags:
    """Return which regions must be looked at closer."""
    found = ~shapes.matched
    found[one.region[matched[~same_content]]] = True
    other = two.region[(two.region >= 0) & (two.match < 0)]
    found[other] = True
    return found


def _same_text(a: Heard, b: Heard, rows: Ints, partner: Ints) -> Flags:
    """Whether matched windows are the same text but for `E`: the same template and the same values."""
    same: Flags = (a.content[rows] == b.content[partner]).all(axis=1)
    for name in ("template", "first", "transaction_time_us"):
        same &= getattr(a, name)[rows] == getattr(b, name)[partner]
    return same


# --- what is told --------------------------------------------------------------------------------------------------------------------


_EXAMPLE_KINDS = (
    "conflict", "omitted", "split", "merge", "shift", "printed", "event_time", "missing_in_a", "missing_in_b",
)  # fmt: skip


@dataclass(slots=True)
class _Tally:
    """Sums over the slices; see `Pair`."""

    windows_a: int = 0
    windows_b: int = 0
    outside_a: int = 0
    outside_b: int = 0
    edge: int = 0
    other_bytes: int = 0
    other_text: int = 0
    other_levels: int = 0
    common: int = 0
    split: int = 0
    merge: int = 0
    shift: int = 0
    cut_a: int = 0
    printed: int = 0
    omitted_by_a: int = 0
    omitted_by_b: int = 0
    conflicts: int = 0
    undecided: int = 0

    def add(
        self,
        sides: tuple[_Side, _Side],
        shapes: _Shapes,
        kinds: Ints,
        checked: BookCheck,
        same: tuple[Flags, Flags, Flags],
        cut: int,
    ) -> None:
        one, two = sides
        same_bytes, same_text, same_levels = same
        self.windows_a += int((one.region >= 0).sum())
        self.windows_b += int((two.region >= 0).sum())
        self.outside_a += int(one.outside.sum())
        self.outside_b += int(two.outside.sum())
        self.edge += sum(int(((side.region < 0) & ~side.outside & ~side.missing).sum()) for side in sides)
        self.other_bytes += cut + int((~same_bytes).sum())
        self.other_text += cut + int((~same_text).sum())
        self.other_levels += cut + int((~same_levels).sum())
        self.common += int(shapes.complete.sum())
        self.split += int((kinds == _SPLIT).sum())
        self.merge += int((kinds == _MERGE).sum())
        self.shift += int((kinds == _SHIFT).sum())
        self.cut_a += cut
        self.printed += int((same_levels & ~same_text).sum())
        self.omitted_by_a += int(checked.omitted_by_a.sum())
        self.omitted_by_b += int(checked.omitted_by_b.sum())
        self.conflicts += int(checked.wrong.sum())
        self.undecided += int(checked.undecided.sum())


@dataclass(slots=True)
class _MissingTally:
    """Windows of one line that the other has missed; `going_on`: the last window there was is one of them."""

    windows: int = 0
    ids: int = 0
    places: int = 0
    going_on: bool = False
    _reach: int = -1

    def add(self, side: _Side) -> None:
        line, rows = side.line, np.flatnonzero(side.missing)
        if len(rows):
            behind = np.maximum(line.prev[rows], np.concatenate([[self._reach], line.final[rows[:-1]]]))
            self.windows += len(rows)
            self.ids += int(np.maximum(line.final[rows] - behind, 0).sum())
            self.places += int((np.diff(rows) > 1).sum()) + (not (self.going_on and rows[0] == 0))
            self._reach = int(line.final[rows[-1]])
        if len(line):
            self.going_on = bool(side.missing[-1])

    def result(self) -> Missing:
        return Missing(self.windows, self.ids, self.places)


class _Hours:
    """Who heard how much later, by hour of the event."""

    def __init__(self) -> None:
        self._whole = Spread()
        self._hours: dict[int, Spread] = {}

    def add(self, event_time_us: Ints, later_ns: Ints) -> None:
        self._whole.add(later_ns)
        hour = event_time_us // _HOUR_US
        for number in _distinct(hour).tolist():
            self._hours.setdefault(number, Spread()).add(later_ns[hour == number])

    def result(self) -> Arrival:
        hours = []
        for number, own in sorted(self._hours.items()):
            median, late = own.percentiles([50, 95])
            hours.append((number * _HOUR_US, own.count, median, late, own.above / own.count))
        return Arrival(self._whole.above, self._whole.below, self._whole.distribution(), hours)


@dataclass(slots=True)
class _Timeline:
    """Counts by part of the time of both lines."""

    start_us: int
    width_us: int
    counts: Ints = field(default_factory=lambda: np.zeros((6, BUCKETS), np.int64))

    @classmethod
    def of(cls, a: Line, b: Line) -> _Timeline:
        lines = [line for line in (a, b) if len(line.spans[0])]
        start = min((line.from_us for line in lines), default=0)
        stop = max((line.to_us for line in lines), default=-1) + 1
        return cls(start, -(-(stop - start) // BUCKETS))

    def add(self, a: Heard, b: Heard, rows: tuple[Ints, ...]) -> None:
        """Count windows of the first line; of the second those at position 3, which the first misses."""
        for position, own in enumerate(rows):
            times = (b if position == 3 else a).event_time_us[own]
            if len(times):
                self.counts[position] += np.bincount((times - self.start_us) // self.width_us, minlength=BUCKETS)

    def result(self) -> list[Bucket]:
        if not self.width_us:
            return []
        return [Bucket(self.start_us + place * self.width_us, *row) for place, row in enumerate(self.counts.T.tolist())]


def _example(kind: str, one: _Side, rows_a: Ints, two: _Side, rows_b: Ints) -> Example:
    lines = ((one.line, rows_a), (two.line, rows_b))
    prev = min(int(line.prev[rows].min()) for line, rows in lines if len(rows))
    final = max(int(line.final[rows].max()) for line, rows in lines if len(rows))
    texts = [
        [
            (int(line.receive_time_ns[row]), line.frame(row).decode(errors="backslashreplace"))
            for row in rows[:EXAMPLE_FRAMES_MAX].tolist()
        ]
        for line, rows in lines
    ]
    return Example(kind, prev % EPOCH_IDS, final % EPOCH_IDS, *texts)
