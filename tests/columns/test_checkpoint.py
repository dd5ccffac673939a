"""What snapshots say of a book: what they contradict, and what they teach."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.oracle import OracleBook
from twintape.columns.book import Book
from twintape.columns.checkpoint import (
    DIFFERENCES_MAX,
    EVERYWHERE,
    HIGHEST,
    NOWHERE,
    Checkpoint,
    Difference,
    Region,
    checkpoint,
    meet,
    region_of,
)
from twintape.columns.parse import Levels

SETTINGS = settings(max_examples=120, deadline=None, derandomize=True)


def levels_of(events):
    def column(side, place):
        return np.array([level[place] for event in events for level in event[side]], np.int64)

    def offsets(side):
        return np.cumsum([0, *(len(event[side]) for event in events)]).astype(np.int64)

    return Levels(offsets(0), column(0, 0), column(0, 1), offsets(1), column(1, 0), column(1, 1))


@st.composite
def histories(draw):
    side = st.lists(st.tuples(st.integers(1000, 1040), st.integers(0, 9)), max_size=8)
    return draw(st.lists(st.tuples(side, side), max_size=12))


def sides(bids, asks):
    return tuple(np.array([level[place] for level in side], np.int64) for side in (bids, asks) for place in (0, 1))


def book_of(bids, asks):
    book = Book(0, 0)
    book.load(*sides(bids, asks))
    return book


BIDS, ASKS = [(10, 1), (9, 2), (8, 3)], [(11, 1), (12, 2), (13, 3)]


def test_a_snapshot_equal_to_the_book_passes():
    assert checkpoint(sides(BIDS, ASKS), book_of(BIDS, ASKS)) == Checkpoint("passed", (), 0)


def test_every_wrong_level_inside_the_range_is_a_difference():
    book = book_of([(10, 1), (9, 5), (7, 9)], [(11, 1), (12, 2), (13, 3), (14, 9)])
    result = checkpoint(sides(BIDS, ASKS), book)
    assert result == Checkpoint("failed", (Difference("bid", 8, 3, 0), Difference("bid", 9, 2, 5)), 2)


def test_levels_beyond_the_worst_price_of_a_cut_snapshot_are_not_judged():
    book = book_of([*BIDS, (7, 9)], [*ASKS, (14, 9)])
    assert checkpoint(sides(BIDS, ASKS), book).verdict == "passed"


def test_a_complete_side_is_judged_to_infinity():
    book = book_of([*BIDS, (7, 9)], [*ASKS, (14, 9)])
    assert checkpoint(sides(BIDS, ASKS), book, complete_bid=True).differences == (Difference("bid", 7, 0, 9),)
    assert checkpoint(sides(BIDS, ASKS), book, complete_ask=True).differences == (Difference("ask", 14, 0, 9),)


def test_levels_better_than_the_snapshots_best_are_judged():
    result = checkpoint(sides(BIDS, ASKS), book_of([(20, 1), *BIDS], ASKS))
    assert result.differences == (Difference("bid", 20, 0, 1),)


def test_an_empty_side_claims_nothing_unless_it_is_complete():
    book = book_of(BIDS, ASKS)
    assert checkpoint(sides([], ASKS), book).verdict == "passed"
    assert checkpoint(sides([], ASKS), book, complete_bid=True).difference_count == 3


def test_the_spanning_event_is_applied_to_the_snapshot_before_it_is_compared():
    events = levels_of([((), ()), (((9, 0), (10, 4), (7, 5)), ((12, 0), (11, 6)))])
    book = book_of(BIDS, ASKS)
    book.apply(events)
    assert checkpoint(sides(BIDS, ASKS), book, events, 1).verdict == "passed"
    assert checkpoint(sides(BIDS, ASKS), book).difference_count == 4
    lost = book_of([(10, 4), (8, 3)], [(11, 6), (13, 3)])
    assert checkpoint(sides(BIDS, ASKS), lost, events, 1).verdict == "passed"  # 7 is outside the snapshot's range
    assert checkpoint(sides(BIDS, ASKS), lost, events, 1, complete_bid=True).differences == (Difference("bid", 7, 5, 0),)


def test_only_the_first_differences_are_spelled_out():
    asks = [(100 + n, 1) for n in range(3 * DIFFERENCES_MAX)]
    result = checkpoint(sides([], asks), book_of([], []))
    assert (len(result.differences), result.difference_count) == (DIFFERENCES_MAX, 3 * DIFFERENCES_MAX)


@SETTINGS
@given(histories(), st.integers(1, 12), st.integers(0, 4))
def test_a_true_snapshot_at_any_id_inside_an_event_passes(events, place, depth):
    # The snapshot is taken between two events that are then merged into one, as the exchange merges them.
    events = [*events, ((), ()), ((), ())]
    place = min(place, len(events) - 1)
    before, inside, after = events[: place - 1], events[place - 1], events[place]
    oracle = OracleBook()
    for event in (*before, inside):
        oracle.apply(*event)
    cut = tuple(np.array(part[:depth], np.int64) for part in oracle.levels())
    merged = levels_of([([*inside[0], *after[0]], [*inside[1], *after[1]])])
    book = Book(0, 0)
    book.apply(levels_of(before))
    book.apply(merged)
    complete_bid, complete_ask = len(oracle.bids) <= depth, len(oracle.asks) <= depth
    assert checkpoint(cut, book, merged, complete_bid=complete_bid, complete_ask=complete_ask).verdict == "passed"


@pytest.mark.parametrize("side", [0, 1])
def test_one_wrong_quantity_in_the_book_fails(side):
    wrong = [BIDS, ASKS]
    wrong[side] = [(price, quantity + (index == 1)) for index, (price, quantity) in enumerate(wrong[side])]
    assert checkpoint(sides(BIDS, ASKS), book_of(*wrong)).difference_count == 1


# --- regions ---------------------------------------------------------------------------------------------------------------------


def test_a_snapshot_speaks_of_what_lies_between_its_worst_levels():
    assert region_of(sides(BIDS, ASKS)) == Region(8, 13)
    assert region_of(sides(BIDS, ASKS), complete_bid=True) == Region(0, 13)
    assert region_of(sides(BIDS, ASKS), complete_bid=True, complete_ask=True) == EVERYWHERE
    assert region_of(sides([], ASKS)) == Region(11, 13)
    assert region_of(sides(BIDS, [])) == Region(8, 10)
    assert not region_of(sides([], []))


def test_regions_join_where_they_meet_and_the_later_one_stays_where_they_do_not():
    assert Region(5, 9).joined(Region(9, 12)) == Region(5, 12)
    assert Region(5, 9).joined(Region(10, 12)) == Region(10, 12)
    assert NOWHERE.joined(Region(1, 2)) == Region(1, 2)
    assert Region(1, 2).joined(NOWHERE) == Region(1, 2)
    assert Region(10, HIGHEST).joined(Region(1, 20)) == Region(1, HIGHEST)


def test_no_upper_bound_stays_none_in_finer_units():
    assert EVERYWHERE.finer(1000) == EVERYWHERE
    assert Region(1, 2**60).finer(100) == Region(100, HIGHEST)
    assert EVERYWHERE.texts(-2) == ("0", None)
    assert NOWHERE.finer(10) == NOWHERE
    assert NOWHERE.texts(-2) == (None, None)


def test_a_level_nobody_ever_told_is_no_contradiction_and_is_learned():
    book = book_of(BIDS, ASKS)
    deeper = sides([*BIDS, (7, 5), (5, 1)], [*ASKS, (15, 2)])
    assert checkpoint(deeper, book).verdict == "failed"
    result, region = meet(deeper, book, Region(8, 13))
    assert result == Checkpoint("passed", (), 0, (("bid", 5, 1), ("bid", 7, 5), ("ask", 15, 2)))
    assert region == Region(5, 15)
    assert [side.tolist() for side in book.levels()] == [[10, 9, 8, 7, 5], [1, 2, 3, 5, 1], [11, 12, 13, 15], [1, 2, 3, 2]]


def test_a_level_the_book_has_outside_its_region_must_be_the_snapshots():
    """An event told it: whoever says otherwise contradicts the stream."""
    for book_says in (4, 6):
        book = book_of([*BIDS, (7, book_says)], ASKS)
        result, region = meet(sides([*BIDS, (7, 4), (6, 1)], ASKS), book, Region(8, 13))
        assert result.verdict == ("passed" if book_says == 4 else "failed")
        assert region == (Region(6, 13) if book_says == 4 else Region(8, 13))
    gone = book_of([*BIDS, (7, 4)], ASKS)
    assert checkpoint(sides([*BIDS, (6, 1)], ASKS), gone, known=Region(8, 13)).differences == (Difference("bid", 7, 0, 4),)


def test_a_snapshot_that_fails_inside_teaches_nothing_outside():
    book = book_of(BIDS, ASKS)
    result, region = meet(sides([(10, 9), *BIDS[1:], (7, 5)], ASKS), book, Region(8, 13))
    assert (result.verdict, result.difference_count, region) == ("failed", 1, Region(8, 13))
    assert len(book) == 6


def test_what_the_spanning_event_removed_is_not_learned():
    events = levels_of([(((7, 0),), ((14, 6),))])
    book = book_of(BIDS, ASKS)
    book.apply(events)
    result, region = meet(sides([*BIDS, (7, 5), (6, 5)], [*ASKS, (14, 1)]), book, Region(8, 13), events, 0)
    assert result.learned == (("bid", 6, 5),)
    assert region == Region(6, 14)


@SETTINGS
@given(st.integers(0, 2**32), st.integers(1, 6), st.integers(1, 6))
def test_a_book_taught_by_true_snapshots_is_the_true_book_inside_its_region(seed, depth, steps):
    """The market wanders; the book began with few levels and hears events and cut snapshots of the whole one."""
    random = np.random.default_rng(seed)
    truth = OracleBook()
    truth.apply([(100 - n, n + 1) for n in range(40)], [(101 + n, n + 1) for n in range(40)])
    cut = tuple(np.array(part[:depth], np.int64) for part in truth.levels())
    book, region = Book(0, 0), region_of(cut)
    book.load(*cut)
    for _ in range(steps):
        best = truth.top()[0]
        event = ([(int(best - k), int(random.integers(0, 5))) for k in range(int(random.integers(0, 4)))], [])
        truth.apply(*event)
        book.apply(levels_of([event]))
        cut = tuple(np.array(part[:depth], np.int64) for part in truth.levels())
        result, region = meet(cut, book, region)
        assert result.verdict == "passed"
        inside = [
            [(price, quantity) for price, quantity in zip(prices, quantities, strict=True) if region.holds(price)]
            for prices, quantities in (truth.levels()[:2], truth.levels()[2:])
        ]
        ours = [side.tolist() for side in book.levels()]
        assert [
            [(price, quantity) for price, quantity in zip(prices, quantities, strict=True) if region.holds(price)]
            for prices, quantities in (ours[:2], ours[2:])
        ] == inside
