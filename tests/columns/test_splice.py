"""The path through all lines, compared with an exhaustive search."""

from itertools import pairwise

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from support.oracle import cheapest_path
from twintape.columns.splice import assign_epochs, never_restarts, splice
from twintape.core.sequence import coverage

DROP = 1_000_000


def arrays(events):
    events = sorted(events, key=lambda e: (e[1], e[0], e[2]))
    return events, *(np.array([e[i] for e in events], np.int64) for i in range(3))


def cost_of(path, events):
    chosen = [events[i] for i in path.chosen]
    switches = sum(a[2] != b[2] for a, b in pairwise(chosen))
    return (int((path.overlap_at >= 0).sum()), switches, len(chosen))


event = st.tuples(st.integers(0, 24), st.integers(1, 6), st.integers(0, 2)).map(lambda t: (t[0], t[0] + t[1], t[2]))


@settings(max_examples=600, deadline=None)
@given(st.lists(event, min_size=1, max_size=24), st.one_of(st.none(), st.integers(0, 24)))
def test_it_is_as_cheap_as_an_exhaustive_search_in_every_stretch(events, start):
    events = [e for e in set(events) if start is None or e[1] > start]
    if not events:
        return
    events, prev, final, line = arrays(events)
    path = splice(prev, final, line, start)
    chosen = [events[i] for i in path.chosen]
    # Every id the lines cover behind the start is covered by the chain, and gaps are exactly the holes.
    origin = min(p for p, _, _ in events) if start is None else start
    covered = coverage([(max(p, origin), u) for p, u, _ in events])
    assert coverage([(max(p, origin), u) for p, u, _ in chosen]) == covered
    at = start
    for k, (p, u, _) in enumerate(chosen):
        if at is None:
            assert path.gap_after[k] == -1
        elif p > at:
            assert path.gap_after[k] == at
        else:
            assert path.gap_after[k] == -1
            assert p <= at < u
            assert path.overlap_at[k] == (at if p < at else -1)
        at = u
    for number, (low, high) in enumerate(covered):
        inside = [e for e in events if e[1] <= high and e[1] > low]
        begin = start if number == 0 and start is not None and low == start else low
        stretch = [k for k, c in enumerate(chosen) if low < c[1] <= high]
        part = type(path)(path.chosen[stretch], path.overlap_at[stretch], path.gap_after[stretch])
        assert cost_of(part, events) == cheapest_path(inside, begin)


def test_it_stays_on_a_line_that_needs_no_help():
    events, prev, final, line = arrays([(i, i + 1, n) for i in range(50) for n in range(3)])
    path = splice(prev, final, line)
    assert {events[i][2] for i in path.chosen} == {0}


def test_it_crosses_a_hole_at_a_common_boundary_rather_than_inside_an_event():
    holed = [(0, 2, 0), (2, 4, 0), (8, 10, 0)]
    other = [(0, 2, 1), (2, 5, 1), (5, 8, 1), (8, 10, 1)]
    events, prev, final, line = arrays(holed + other)
    path = splice(prev, final, line)
    assert (path.overlap_at == -1).all()
    assert [events[i] for i in path.chosen] == [(0, 2, 1), (2, 5, 1), (5, 8, 1), (8, 10, 1)]


def test_without_a_common_boundary_it_overlaps_and_says_where():
    _, prev, final, line = arrays([(0, 4, 0), (2, 6, 1)])
    path = splice(prev, final, line)
    assert list(path.overlap_at) == [-1, 4]


def test_an_event_that_straddles_the_start_overlaps_it():
    _, prev, final, line = arrays([(0, 4, 0), (4, 6, 0)])
    path = splice(prev, final, line, 2)
    assert list(path.overlap_at) == [2, -1]


def test_a_gap_behind_the_start_is_this_chains_gap():
    _, prev, final, line = arrays([(5, 6, 0)])
    assert list(splice(prev, final, line, 2).gap_after) == [2]


def test_no_events_make_an_empty_path():
    none = np.zeros(0, np.int64)
    assert len(splice(none, none, none).chosen) == 0
    assert len(assign_epochs(none, none, drop_ids=DROP)) == 0


def test_ids_far_below_the_high_water_mark_open_an_epoch():
    final = np.array([5_000_000, 5_000_010, 3, 9, 5_000_020], np.int64)
    times = np.array([1, 2, 4, 5, 3], np.int64)
    assert list(assign_epochs(final, times, drop_ids=DROP)) == [0, 0, 1, 1, 0]
    assert list(assign_epochs(final[2:4], times[2:4], 5_000_000, drop_ids=DROP)) == [1, 1]
    assert list(assign_epochs(final[:2], times[:2], 5_000_000, drop_ids=DROP)) == [0, 0]


def test_a_late_event_opens_no_epoch():
    final = np.array([5_000_010, 5_000_000], np.int64)
    assert list(assign_epochs(final, np.array([1, 2], np.int64), drop_ids=DROP)) == [0, 0]


def test_yesterdays_last_events_below_the_pinned_start_are_no_restart():
    final = np.array([1_000_000, 9_000_000, 9_500_000], np.int64)
    assert list(assign_epochs(final, np.array([1, 2, 3], np.int64), 9_400_000, drop_ids=DROP)) == [0, 0, 0]


@settings(max_examples=400, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 4).map(lambda k: k * DROP // 2), st.integers(0, 6)), max_size=10),
    st.one_of(st.none(), st.integers(0, 5).map(lambda k: k * DROP)),
)
def test_ids_are_said_never_to_restart_exactly_where_all_epochs_are_the_first(events, start):
    final, times = (np.array([event[place] for event in events], np.int64) for place in (0, 1))
    order = np.argsort(final, kind="stable")
    expected = not assign_epochs(final, times, start, drop_ids=DROP).any()
    assert never_restarts(final, times, order, start, drop_ids=DROP) == expected
