"""Do two lines hear the same updates? Windows matched by id, and what differs counted and classified.

Lines are compared where both have recorded: from the greater of their first ids to the lesser of their last. There a window of one line
may be *missing* in the other (which has a hole there), *matched* (the same ids) or *cut differently*. Between two ids at which both stand,
the levels that either line mentions say whether the books still agree.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from msgspec import Struct
from msgspec.structs import replace
from numpy.typing import NDArray

from twintape.columns.compare_books import BookCheck, check_books
from twintape.columns.heard import EPOCH_IDS, Heard
from twintape.columns.kernel import kernel
from twintape.columns.statistics import Distribution, Rate, distribution, rate
from twintape.core.markets import Market

__all__ = ["LEVELS", "Arrival", "Bucket", "Example", "Missing", "Pair", "compare_pair", "findings"]

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


def compare_pair(a: Heard, b: Heard, market: Market) -> Pair:
    """Compare two lines of one stream, read together by `heard.hear`.

    Raises:
        CorruptionError: A chunk is damaged.
    """
    sides, shapes = _sides(a, b)
    one, two = sides
    compared_a = one.region >= 0
    matched = np.flatnonzero(compared_a & (one.match >= 0))
    partner = one.match[matched]
    same_text = _same_text(a, b, matched, partner)
    same_content = (a.content[matched] == b.content[partner]).all(axis=1)
    same_bytes = same_text & (a.event_time_us[matched] == b.event_time_us[partner])
    asked = _differing(one, two, matched, same_content, shapes)
    checked = check_books((a, one.region, one.segment), (b, two.region, two.segment), asked, shapes.complete, market)
    same_levels = same_content | checked.same_levels[one.region[matched]]
    total = int(compared_a.sum())
    cut = np.flatnonzero(compared_a & (one.match < 0))
    common = int(shapes.complete.sum())
    levels = {
        "bytes": rate(total - int(same_bytes.sum()), total),
        "bytes_without_event_time": rate(total - int(same_text.sum()), total),
        "windows_and_levels": rate(total - int(same_levels.sum()), total),
        "book": rate(int(checked.wrong.sum()), common),
    }
    kinds = _kinds(shapes)
    examples = _examples(sides, kinds, checked, matched[~same_bytes & same_text], matched[same_levels & ~same_text])
    differs = b.event_time_us[partner] - a.event_time_us[matched]
    found = Pair(
        a=a.name,
        b=b.name,
        findings=[],
        windows_a=total,
        windows_b=int((two.region >= 0).sum()),
        outside_a=int(one.outside.sum()),
        outside_b=int(two.outside.sum()),
        edge=sum(int(((side.region < 0) & ~side.outside & ~side.missing).sum()) for side in sides),
        missing_in_a=_missing(two),
        missing_in_b=_missing(one),
        levels=levels,
        split=int((kinds == _SPLIT).sum()),
        merge=int((kinds == _MERGE).sum()),
        shift=int((kinds == _SHIFT).sum()),
        cut_a=len(cut),
        printed=int((same_levels & ~same_text).sum()),
        omitted_by_a=int(checked.omitted_by_a.sum()),
        omitted_by_b=int(checked.omitted_by_b.sum()),
        conflicts=int(checked.wrong.sum()),
        undecided=int(checked.undecided.sum()),
        event_time=distribution(differs[differs != 0]),
        arrival=_arrival(a, b, matched, partner),
        timeline=_timeline(sides, matched[~same_bytes], cut, checked),
        examples=examples,
    )
    return _with_findings(found)


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


def _with_findings(pair: Pair) -> Pair:
    return replace(pair, findings=findings(pair))


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


def _spans(line: Heard) -> tuple[Ints, Ints]:
    """Return starts and ends of the stretches without a hole."""
    order = np.argsort(line.prev, kind="stable")
    prev, final = line.prev[order], np.maximum.accumulate(line.final[order])
    edges = np.flatnonzero(prev[1:] > final[:-1])
    return prev[np.concatenate([[0], edges + 1])], final[np.concatenate([edges, [len(final) - 1]])]


def _sides(a: Heard, b: Heard) -> tuple[tuple[_Side, _Side], _Shapes]:
    nothing = _Shapes(*(np.zeros(0, np.int64),) * 2, *(np.zeros(0, bool),) * 2)
    if not len(a) or not len(b):
        sides = [
            _Side(
                line, np.ones(len(line), bool), np.zeros(len(line), bool), *(np.full(len(line), -1, np.int64) for _ in range(3))
            )
            for line in (a, b)
        ]
        return (sides[0], sides[1]), nothing
    spans = [_spans(line) for line in (a, b)]
    low = max(int(starts[0]) for starts, _ in spans)
    high = min(int(ends[-1]) for _, ends in spans)
    made = []
    for line, own, other in ((a, spans[0], spans[1]), (b, spans[1], spans[0])):
        outside = (line.final <= low) | (line.prev >= high) | (line.prev < low) | (line.final > high)
        place = np.searchsorted(other[0], line.prev, side="right") - 1
        inside = ~outside & (place >= 0) & (line.final <= other[1][np.maximum(place, 0)])
        segment = place + np.searchsorted(own[0], line.prev, side="right") - 1
        made.append(_Side(line, outside, ~outside & ~inside, np.full(len(line), -1, np.int64), np.where(inside, 0, -1), segment))
    one, two = made
    one.match[:] = _match(a.final, a.prev, b.final, b.prev)
    two.match[:] = _match(b.final, b.prev, a.final, a.prev)
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


def _missing(side: _Side) -> Missing:
    rows = np.flatnonzero(side.missing)
    places = int((np.diff(rows) > 1).sum()) + 1 if len(rows) else 0
    line = side.line
    behind = np.maximum(line.prev[rows], np.concatenate([[-1], line.final[rows[:-1]]])) if len(rows) else rows
    return Missing(len(rows), int(np.maximum(line.final[rows] - behind, 0).sum()), places)


def _arrival(a: Heard, b: Heard, rows: Ints, partner: Ints) -> Arrival:
    later = b.receive_time_ns[partner] - a.receive_time_ns[rows]
    hour = a.event_time_us[rows] // _HOUR_US
    hours = []
    for number in np.unique(hour).tolist():
        own = later[hour == number]
        middle, far = np.percentile(own, [50, 95])
        hours.append((number * _HOUR_US, len(own), float(middle), float(far), float((own > 0).mean())))
    return Arrival(int((later > 0).sum()), int((later < 0).sum()), distribution(later), hours)


def _timeline(sides: tuple[_Side, _Side], other_bytes: Ints, cut: Ints, checked: BookCheck) -> list[Bucket]:
    one, two = sides
    times = np.concatenate([one.line.event_time_us, two.line.event_time_us])
    if not len(times):
        return []
    start, stop = int(times.min()), int(times.max()) + 1
    width = max(1, -(-(stop - start) // BUCKETS))

    def counts(side: _Side, rows: Ints) -> list[int]:
        found = np.bincount((side.line.event_time_us[rows] - start) // width, minlength=BUCKETS)
        return [int(count) for count in found]

    wrong = np.flatnonzero((one.region >= 0) & checked.wrong[one.region]) if len(checked.wrong) else np.zeros(0, np.int64)
    columns = (
        counts(one, np.flatnonzero(one.region >= 0)),
        counts(one, other_bytes),
        counts(one, cut),
        counts(two, np.flatnonzero(two.missing)),
        counts(one, np.flatnonzero(one.missing)),
        counts(one, wrong),
    )
    return [Bucket(start + position * width, *row) for position, row in enumerate(zip(*columns, strict=True))]


def _examples(sides: tuple[_Side, _Side], kinds: Ints, checked: BookCheck, restamped: Ints, printed: Ints) -> list[Example]:
    one, two = sides
    regions = {
        "conflict": np.flatnonzero(checked.wrong),
        "omitted": np.flatnonzero(checked.omitted_by_a + checked.omitted_by_b),
        "split": np.flatnonzero(kinds == _SPLIT),
        "merge": np.flatnonzero(kinds == _MERGE),
        "shift": np.flatnonzero(kinds == _SHIFT),
        "printed": one.region[printed],
        "event_time": one.region[restamped],
    }
    none = np.zeros(0, np.int64)
    wanted = [
        (kind, np.flatnonzero(one.region == region), np.flatnonzero(two.region == region))
        for kind, which in regions.items()
        for region in which[:EXAMPLES_MAX].tolist()
    ]
    wanted += [("missing_in_a", none, np.array([row])) for row in np.flatnonzero(two.missing)[:EXAMPLES_MAX].tolist()]
    wanted += [("missing_in_b", np.array([row]), none) for row in np.flatnonzero(one.missing)[:EXAMPLES_MAX].tolist()]
    return [_example(kind, one, rows_a, two, rows_b) for kind, rows_a, rows_b in wanted]


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
