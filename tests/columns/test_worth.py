"""What a line was worth is what is missing without it."""

from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from support.lines import CITIES, Exchange, chunks_of, covered_ids, hear, merge, printed, scene
from twintape.columns import findings
from twintape.columns.worth import line_values
from twintape.core.markets import Market

EXCHANGE = Exchange(Market.SPOT, 7, 60)
EVENTS = EXCHANGE.events(3)
"""Twenty events: (1000, 1003], … (1057, 1060]."""


def without(*numbers):
    return printed(event for number, event in enumerate(EVENTS) if number not in numbers)


def values_of(*lines, **more):
    return {
        one.collector: one for one in line_values(merge(chunks_of([one for line in lines for one in line]), Market.SPOT, **more))
    }


def difference(whole, part):
    """Return the ids of disjoint intervals that are in none of others."""
    return {x for a, b in whole for x in range(a + 1, b + 1)} - {x for a, b in part for x in range(a + 1, b + 1)}


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 100_000), st.sampled_from(list(Market)), st.integers(1, 3))
def test_what_is_lost_without_a_line_is_what_no_other_line_covers(seed, market, number):
    found = scene(market, seed, lines=number)
    day = found.merge()
    statistics = {one.collector: one for one in findings.line_statistics(day)}
    everything = covered_ids(found.heard, market, found.exchange.start_id)
    for value in line_values(day):
        others = covered_ids([one for one in found.heard if one.collector != value.collector], market, found.exchange.start_id)
        # An event that straddles the start has ids that are the day before's.
        lost = {x for one in value.lost for x in range(one.after_update_id + 1, one.next_prev_update_id + 1)}
        assert {x for x in lost if x > found.exchange.start_id} == difference(everything, others)
        assert all(a.next_prev_update_id <= b.after_update_id for a, b in pairwise(value.lost))
        assert value.lost_ranges == len(value.lost)
        assert bool(value.only_events) == bool(value.lost)
        assert value.only_us >= 0
        assert value.covered == len(day.fates.chain) - statistics[value.collector].missed
        assert value.first <= value.shared <= value.covered


def test_the_ranges_are_the_gaps_of_a_merge_without_the_line_with_the_same_times():
    paris, tokyo = hear(without(5, 6, 12), "paris"), hear(without(2, 9), "tokyo")
    found = values_of(paris, tokyo, start_update_id=1000)
    for name, other in (("paris", tokyo), ("tokyo", paris)):
        alone = findings.gaps(merge(chunks_of(other), Market.SPOT, start_update_id=1000))
        assert [
            (one.after_update_id, one.next_prev_update_id, one.from_event_time_us, one.to_event_time_us)
            for one in found[name].lost
        ] == [(g.after_update_id, g.next_prev_update_id, g.from_event_time_us, g.to_event_time_us) for g in alone]
    assert (found["paris"].only_events, found["tokyo"].only_events) == (2, 3)
    assert found["tokyo"].only_us == 120_000 * 3 + 120_000 * 2


def test_the_day_has_no_times_beyond_its_first_and_last_event():
    found = values_of(hear(without(0, 19), "paris"), hear(without(), "tokyo"), start_update_id=1000)
    assert [(one.after_update_id, one.next_prev_update_id) for one in found["tokyo"].lost] == [(1000, 1003), (1057, 1060)]
    assert found["tokyo"].only_us == 2 * 120_000


def test_who_was_first_and_how_far_behind_the_others_were():
    early, late = hear(without(), "paris", delay_us=1000), hear(without(3), "tokyo", delay_us=4000)
    found = values_of(early, late, hear(without(*range(1, 20)), "zurich", delay_us=1000))
    assert (found["paris"].shared, found["tokyo"].shared, found["zurich"].shared) == (19, 19, 1)
    # Of the first event paris and zurich heard at the same time.
    assert (found["paris"].first, found["tokyo"].first, found["zurich"].first) == (18, 0, 0)
    behind = found["tokyo"].behind_first
    assert (behind.p50, behind.p90, behind.p99, behind.max) == (3_000_000,) * 4
    assert found["paris"].after_event.p50 == 1_000_000
    assert found["paris"].behind_first.max == 0


def test_percentiles_are_nearest_ranks():
    frames = printed(EVENTS)
    slow = [one for k, frame in enumerate(frames) for one in hear([frame], "tokyo", delay_us=1000 * (k + 1))]
    found = values_of(hear(frames, "paris", delay_us=0), slow)
    behind = found["tokyo"].behind_first
    assert (behind.p50, behind.p90, behind.p99, behind.max) == (10_000_000, 18_000_000, 20_000_000, 20_000_000)


def test_one_recording_under_two_names_is_one_witness():
    lines = [hear(without(*lost), name) for name, lost in zip(CITIES, ((3,), (7, 8), ()), strict=True)]
    later = hear(without(), "zurich", delay_us=5001)
    found = values_of(*lines, later)
    assert [found[name].same_recording_as for name in sorted(found)] == [None, "frankfurt", "frankfurt", None]


def test_only_the_first_ranges_are_spelled_out(monkeypatch):
    monkeypatch.setattr("twintape.columns.worth.LOST_MAX", 2)
    found = values_of(hear(without(1, 3, 5, 7), "paris"), hear(without(), "tokyo"), start_update_id=1000)
    assert (found["tokyo"].lost_ranges, len(found["tokyo"].lost), found["tokyo"].only_us) == (4, 2, 4 * 240_000)


def test_a_line_without_events_of_the_day_was_worth_nothing():
    before = hear(printed(EVENTS[:2]), "paris")
    found = values_of(before, hear(printed(EVENTS[2:]), "tokyo"), start_update_id=1006)
    assert (found["paris"].covered, found["paris"].lost, found["paris"].after_event, found["paris"].behind_first) == (
        0,
        [],
        None,
        None,
    )
    nothing = values_of(before, start_update_id=1006, end_update_id=1006)
    assert (nothing["paris"].covered, nothing["paris"].lost_ranges) == (0, 0)


def test_restarted_ids_are_told_apart():
    old = Exchange(Market.SPOT, 1, 12, start_id=500_000_000)
    new = Exchange(Market.SPOT, 2, 12, start_id=1000, start_us=old.changes[-1].time_us + 10_000_000)
    whole = [*old.events(3), *new.events(3)]
    found = values_of(hear(printed(whole), "paris"), hear(printed([*whole[:1], *whole[2:5], *whole[6:]]), "tokyo"))
    assert [(one.after_update_id, one.next_prev_update_id) for one in found["paris"].lost] == [
        (500_000_003, 500_000_006),
        (1003, 1006),
    ]
