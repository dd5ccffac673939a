"""What a merge found, in the words of a proof."""

from itertools import pairwise

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.lines import CITIES, Exchange, chunks_of, covered_ids, expanded, hear, merge, printed, scene
from twintape.columns import findings
from twintape.core.manifest import GapRecord, Overlap, PathRun, Switch, UnknownRange
from twintape.core.markets import Market

EXCHANGE = Exchange(Market.SPOT, 7, 60)
EVENTS = EXCHANGE.events(3)
"""Twenty events: (1000, 1003], … (1057, 1060]."""


def day_of(*lines, **more):
    return merge(chunks_of([one for line in lines for one in line]), Market.SPOT, **more)


def without(*numbers):
    return printed(event for number, event in enumerate(EVENTS) if number not in numbers)


# --- laws ----------------------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 100_000), st.sampled_from(list(Market)), st.integers(1, 3))
def test_counts_add_up_and_ids_agree(seed, market, number):
    found = scene(market, seed, lines=number)
    day = found.merge()
    statistics = findings.line_statistics(day)
    table = findings.fate_table(day)
    for line in statistics:
        assert line.frames == sum(one.collector == line.collector for one in found.heard)
        assert line.frames == line.chosen + line.duplicate + line.verbatim + line.owed
        assert line.chosen == table.chosen.get(line.collector, 0)
        assert line.duplicate == table.duplicate.get(line.collector, 0)
        assert line.verbatim == sum(counts.get(line.collector, 0) for counts in table.verbatim.values())
        assert line.only_here <= line.chosen
    assert sum(line.chosen for line in statistics) == len(day.fates.chain)
    # Gaps are exactly the ids no line has.
    start = found.exchange.start_id
    union = covered_ids(found.heard, market, start)
    holes = [(a[1], b[0]) for a, b in pairwise([(start, start), *union]) if a[1] < b[0]]
    gaps = findings.gaps(day)
    assert [(gap.after_update_id, gap.next_prev_update_id) for gap in gaps] == holes
    runs = findings.path_runs(day)
    assert sum(run.events for run in runs) == len(day.fates.chain)
    assert {run.collector for run in runs} <= set(CITIES)
    assert all(one.final_update_id != two.prev_update_id or one.collector != two.collector for one, two in pairwise(runs))
    unknown = findings.unknown_ranges(day)
    assert sum(part.events for part in unknown) == int((day.flags & 16 != 0).sum())
    assert len(findings.overlaps(day)) == int((day.flags & 2 != 0).sum())
    assert len(findings.switches(day)) == int((day.flags & 4 != 0).sum())


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 100_000), st.sampled_from(list(Market)))
def test_findings_are_the_same_when_the_frames_come_from_an_earlier_generation(seed, market):
    found = scene(market, seed, lines=3)
    day = found.merge()
    again = found.merge(expanded(day))
    for name in ("path_runs", "switches", "overlaps", "gaps", "epochs", "unknown_ranges", "line_statistics", "fate_table"):
        assert getattr(findings, name)(again) == getattr(findings, name)(day), name


# --- the path ------------------------------------------------------------------------------------------------------------------


def test_the_path_changes_lines_where_one_has_a_hole_and_ends_where_all_have_one():
    day = day_of(hear(without(5, 6, 12), "paris"), hear(without(0, 12, 18), "tokyo"), start_update_id=1000)
    assert findings.path_runs(day) == [
        PathRun(collector="paris", prev_update_id=1000, final_update_id=1015, events=5),
        PathRun(collector="tokyo", prev_update_id=1015, final_update_id=1036, events=7),
        PathRun(collector="paris", prev_update_id=1039, final_update_id=1060, events=7),
    ]
    assert findings.switches(day) == [
        Switch(at=1015, source="paris", target="tokyo"),
        Switch(at=1036, source="tokyo", target="paris"),
    ]
    assert [line.gaps for line in findings.line_statistics(day)] == [2, 2]
    assert [line.only_here for line in findings.line_statistics(day)] == [2, 2]


def test_an_overlap_says_at_which_id_the_event_was_applied():
    day = day_of(hear([EXCHANGE.event(0, 5).print(), EXCHANGE.event(3, 9).print()]))
    assert findings.overlaps(day) == [Overlap(at=1005, prev_update_id=1003, final_update_id=1009, collector="tokyo")]


def test_the_book_is_unknown_in_ranges():
    day = day_of(hear(without(5, 12)), snapshots=[EXCHANGE.snapshot(last) for last in (1004, 1026)])
    assert findings.unknown_ranges(day) == [
        UnknownRange(prev_update_id=1000, final_update_id=1003, events=1),
        UnknownRange(prev_update_id=1018, final_update_id=1024, events=2),
        UnknownRange(prev_update_id=1039, final_update_id=1060, events=7),
    ]
    whole = day_of(hear(without()), snapshots=[EXCHANGE.snapshot(1000)])
    assert findings.unknown_ranges(whole) == []


def test_restarts_are_named_and_end_a_run():
    old = Exchange(Market.SPOT, 1, 6, start_id=500_000_000)
    new = Exchange(Market.SPOT, 2, 6, start_id=100, start_us=old.changes[-1].time_us + 10_000_000)
    day = day_of(hear(printed(old.events(3) + new.events(2))))
    (start,) = findings.epochs(day)
    assert (start.prev_update_id, start.first_event_time_us) == (100, new.changes[1].time_us)
    assert [run.events for run in findings.path_runs(day)] == [2, 3]
    assert findings.gaps(day) == []
    assert findings.line_statistics(day)[0].gaps == 0


def test_a_day_without_events_has_nothing_to_tell():
    day = day_of(hear(printed(EVENTS[:2])), start_update_id=1006, end_update_id=1006)
    assert findings.path_runs(day) == findings.gaps(day) == findings.unknown_ranges(day) == findings.switches(day) == []
    (line,) = findings.line_statistics(day)
    assert (line.frames, line.owed, line.first_receive_time_ns, line.last_receive_time_ns) == (2, 2, None, None)


# --- gaps ----------------------------------------------------------------------------------------------------------------------


def split(texts, collector, at):
    """One line on two connections, changed after `at` frames."""
    one, other = hear(texts[:at], collector, "0000aaaa-1"), hear(texts[at:], collector, "0000aaaa-2")
    return one + other


HOLE = without(8, 9)
LATE = 7000
"""Microseconds behind `E`: two machines never hear an event at the same nanosecond."""


@pytest.mark.parametrize(
    ("lines", "kind", "reason"),
    [
        ([hear(HOLE, "a"), hear(HOLE, "b", delay_us=LATE)], "exchange-side", "a: heard through, b: heard through"),
        ([hear(HOLE, "a")], "unknown", "a: heard through"),
        ([split(HOLE, "a", 8)], "collector-side", "a: another connection behind"),
        ([split(HOLE, "a", 8), hear(HOLE, "b", delay_us=LATE)], "unknown", "a: another connection behind, b: heard through"),
        ([split(HOLE, "a", 8), hear(HOLE[:3], "b")], "collector-side", "a: another connection behind, b: no data behind"),
        ([split(HOLE, "a", 8), hear(HOLE[9:], "b")], "collector-side", "a: another connection behind, b: no data before"),
        ([split(HOLE, "a", 8), hear([b"<html>"], "b")], "collector-side", "a: another connection behind, b: no data"),
        # The same receive times: one recording under two names.
        ([hear(HOLE, "a"), hear(HOLE, "b")], "unknown", "a: heard through, b: heard through"),
        # One that lost more than the others cannot say that the exchange said nothing.
        ([hear(HOLE, "a"), hear(without(7, 8, 9), "b")], "unknown", "a: heard through, b: missed more"),
        ([split(HOLE, "a", 8), hear(without(8, 9, 10), "b")], "unknown", "a: another connection behind, b: missed more"),
        # Two connections at once: one of them stayed.
        (
            [hear(HOLE, "a"), hear(HOLE[8:], "a", "0000aaaa-2"), hear(HOLE, "b", delay_us=LATE)],
            "exchange-side",
            "a: heard through, b: heard through",
        ),
    ],
)
def test_a_gap_is_classed_by_who_was_there(lines, kind, reason):
    day = day_of(*lines)
    (gap,) = findings.gaps(day)
    assert [line.record for line in gap.lines] == [words.partition(": ")[2] for words in reason.split(", ")]
    for line in gap.lines:
        times = [one.receive_time_ns for heard in lines for one in heard if one.collector == line.collector]
        assert (line.from_receive_time_ns or times[0]) in times
        assert (line.to_receive_time_ns or times[0]) in times
        assert ("no data" in line.record) == (None in (line.from_receive_time_ns, line.to_receive_time_ns))
    assert [msgspec.structs.replace(gap, lines=[])] == [
        GapRecord(
            after_update_id=1024,
            next_prev_update_id=1030,
            gap_class=kind,
            from_event_time_us=EVENTS[7].time_us,
            to_event_time_us=EVENTS[10].time_us,
            reason=reason,
        )
    ]


def test_a_gap_behind_the_pinned_start_has_no_event_before_it():
    (gap,) = findings.gaps(day_of(hear(HOLE[:4]), start_update_id=990))
    assert (gap.after_update_id, gap.next_prev_update_id, gap.from_event_time_us, gap.gap_class) == (
        990,
        1000,
        None,
        "collector-side",
    )


# --- inputs --------------------------------------------------------------------------------------------------------------------


def test_each_raw_segment_is_credited_with_what_the_day_settled_of_it():
    exchange = EXCHANGE
    texts = printed(exchange.events(3))
    chunks = [
        *chunks_of(hear(texts[:6]), source=0),
        *chunks_of(hear(texts[6:10]), source=2),
        *chunks_of(hear(texts[10:12]), source=-1),
        *chunks_of(hear([*texts[:3], b"<html>"], "paris"), source=0),
    ]
    day = merge(chunks, Market.SPOT, start_update_id=1006)
    assert findings.settled_by_source(day, chunks, 4) == [4 + 2, 0, 4, 0]
    table = findings.fate_table(day)
    assert table.owed == {"paris": 2, "tokyo": 2}
    assert table.verbatim == {"undecodable": {"paris": 1}}
    assert table.chosen == {"tokyo": 10}
    assert table.duplicate == {"paris": 1}
