"""The update-id rule, against the published bugs of other programs."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twintape.core.sequence import Gap, Join, coverage, holes, is_new_epoch, join


@pytest.mark.parametrize(
    ("book", "prev", "final", "expected"),
    [
        (
            100,
            100,
            105,
            Join.ALIGNED,
        ),  # a snapshot whose L is the end of the event before: the literal spot text drops the book here
        (103, 100, 105, Join.OVERLAP),  # a snapshot inside an event
        (105, 100, 105, Join.STALE),  # a snapshot at the event's own end
        (99, 100, 105, Join.GAP),  # one id is missing
        (104, 100, 105, Join.OVERLAP),
        (106, 100, 105, Join.STALE),
        (2**53, 2**53, 2**53 + 1, Join.ALIGNED),  # beyond what a float can tell apart
    ],
)
def test_the_table_holds_at_every_edge(book, prev, final, expected):
    assert join(book, prev, final) is expected


def test_a_restart_is_told_from_a_late_event():
    assert is_new_epoch(3_000_000, 1, 1_000_000)
    assert not is_new_epoch(3_000_000, 2_000_000, 1_000_000)


intervals = st.lists(st.tuples(st.integers(0, 60), st.integers(-1, 8)).map(lambda t: (t[0], t[0] + t[1])), max_size=30)


@given(intervals)
def test_coverage_is_exactly_the_union_of_ids(events):
    ids = {i for p, u in events for i in range(p + 1, u + 1)}
    union = coverage(events)
    assert {i for p, u in union for i in range(p + 1, u + 1)} == ids
    assert all(b[0] > a[1] for a, b in pairwise(union))


@given(intervals)
def test_one_more_line_never_widens_a_gap(events):
    def lost(some):
        return {i for gap in holes(some) for i in range(gap.after_update_id + 1, gap.next_prev_update_id + 1)}

    for count in range(len(events)):
        covered = {i for p, u in events[:count] for i in range(p + 1, u + 1)}
        assert not (lost(events) & covered)


def test_holes_name_the_missing_ids():
    assert holes([(0, 3), (3, 5), (7, 9)]) == [Gap(5, 7)]
    assert holes([]) == []
