"""The book against two dicts, on ordinary and on absurd prices."""

import hashlib

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from support.oracle import OracleBook
from twintape.columns import book as module
from twintape.columns.book import (
    LADDER_TICKS_MAX,
    LADDER_TICKS_MIN,
    NO_ASK,
    NO_BID,
    Book,
    book_sha256,
    book_text,
)
from twintape.columns.parse import Levels

SETTINGS = settings(max_examples=120, deadline=None, derandomize=True)

QUANTITIES = st.one_of(st.just(0), st.integers(1, 9), st.integers(1, 2**62))
PRICES = {
    "near": st.integers(1000, 1040),
    "one ladder": st.integers(0, LADDER_TICKS_MIN * 3),
    "coarse ticks": st.integers(1, 60).map(lambda tick: tick * 25_000),
    "word and block borders": st.sampled_from(
        [n * size + d for size in (64, 4096, 262144) for n in (1, 2, 5) for d in (-1, 0, 1)]
    ),
    "too far": st.one_of(st.integers(1000, 1040), st.integers(0, 2**62), st.just(LADDER_TICKS_MAX), st.just(2**62)),
    "absurd ticks": st.integers(1, 8).map(lambda tick: tick * 2**58),
}


def levels_of(events):
    def column(side, place):
        return np.array([level[place] for event in events for level in event[side]], np.int64)

    def offsets(side):
        return np.cumsum([0, *(len(event[side]) for event in events)]).astype(np.int64)

    return Levels(offsets(0), column(0, 0), column(0, 1), offsets(1), column(1, 0), column(1, 1))


@st.composite
def histories(draw):
    prices = PRICES[draw(st.sampled_from(sorted(PRICES)))]
    side = st.lists(st.tuples(prices, QUANTITIES), max_size=8)
    return draw(st.lists(st.tuples(side, side), max_size=12))


def as_lists(book, depth=None):
    return tuple(part.tolist() for part in book.levels(depth))


@SETTINGS
@given(histories(), st.booleans(), st.data())
def test_the_book_and_its_top_after_each_event_are_those_of_two_dicts(events, start_from_snapshot, data):
    levels, oracle, book = levels_of(events), OracleBook(), Book(-2, -3)
    first = 0
    if start_from_snapshot and events:
        oracle.apply(*events[0])
        book.load(*(np.array(part, np.int64) for part in oracle.levels()))
        first = 1
    best = []
    for event in events[first:]:
        oracle.apply(*event)
        bid, ask = oracle.best_bid(), oracle.best_ask()
        best.append((bid, oracle.bids.get(bid, 0), ask, oracle.asks.get(ask, 0)))
    cut = data.draw(st.integers(first, len(events)) if events else st.just(0))
    tops = [book.apply(levels, first, cut), book.apply(levels, cut)] if events else []
    sides = [(top.best_bid, top.bid_quantity, top.best_ask, top.ask_quantity) for top in tops]
    found = [one for top in sides for one in zip(*(part.tolist() for part in top), strict=True)]
    assert found == best
    assert sum(top.crossed_count for top in tops) == sum(bid >= ask for bid, _, ask, _ in best)
    assert as_lists(book) == oracle.levels()
    assert len(book) == len(oracle.bids) + len(oracle.asks)
    assert book_sha256(book) == oracle.sha256(-2, -3)
    depth = data.draw(st.integers(0, 5))
    assert as_lists(book, depth) == tuple(part[:depth] for part in oracle.levels())


def test_a_long_random_history_with_a_wandering_price_stays_exact():
    random = np.random.default_rng(7)
    middle, events = 500_000, []
    for _ in range(3000):
        middle += int(random.integers(-400, 401))
        events.append(
            tuple(
                [(middle + int(random.normal(0, 300)) + shift, int(random.integers(0, 3))) for _ in range(4)]
                for shift in (-300, 300)
            )
        )
    levels, oracle, book = levels_of(events), OracleBook(), Book(0, 0)
    top = book.apply(levels)
    best = []
    for event in events:
        oracle.apply(*event)
        best.append((oracle.best_bid(), oracle.best_ask()))
    assert list(zip(top.best_bid.tolist(), top.best_ask.tolist(), strict=True)) == best
    assert as_lists(book) == oracle.levels()


def test_an_empty_book_has_sentinels_for_best_prices_and_is_not_crossed():
    book = Book(0, 0)
    top = book.apply(levels_of([((), ()), (((5, 1),), ()), (((5, 0),), ((7, 1),)), ((), ((7, 0), (8, 0)))]))
    assert top.best_bid.tolist() == [NO_BID, 5, NO_BID, NO_BID]
    assert top.best_ask.tolist() == [NO_ASK, NO_ASK, 7, NO_ASK]
    assert (top.crossed_count, len(book), as_lists(book)) == (0, 0, ([], [], [], []))


def test_one_price_may_stand_on_both_sides_of_an_event():
    book = Book(0, 0)
    top = book.apply(levels_of([(((5, 1),), ((5, 2),))]))
    assert (as_lists(book), top.crossed_count) == (([5], [1], [5], [2]), 1)


def test_a_level_named_twice_in_an_event_has_the_last_quantity():
    book = Book(0, 0)
    book.apply(levels_of([(((5, 1), (5, 3)), ((7, 2), (7, 0)))]))
    assert as_lists(book) == ([5], [3], [], [])


def test_loading_replaces_everything_and_ignores_empty_levels():
    book = Book(0, 0)
    book.apply(levels_of([(((5, 1), (2**62, 1)), ((7, 1), (2**62, 4)))]))
    book.load(np.array([3, 4]), np.array([1, 0]), np.array([9, 8, 2**61]), np.array([2, 3, 0]))
    assert as_lists(book) == ([3], [1], [8, 9], [3, 2])


def test_a_copy_is_independent():
    book = Book(-1, -2)
    book.apply(levels_of([(((5, 1), (2**62, 6)), ((7, 1),))]))
    copy = book.copy()
    copy.apply(levels_of([(((5, 0),), ())]))
    assert as_lists(book) == ([2**62, 5], [6, 1], [7], [1])
    assert as_lists(copy) == ([2**62], [6], [7], [1])
    assert (copy.price_exponent, copy.quantity_exponent) == (-1, -2)


def test_levels_too_far_for_the_ladder_are_laid_anew_only_as_often_as_they_double(monkeypatch):
    laid = []
    lay = Book._lay
    monkeypatch.setattr(Book, "_lay", lambda self, *sides: (laid.append(1), lay(self, *sides))[1])
    near = [((1000 + n, 1), (2000 + n, 1)) for n in range(200)]
    far = [((3 * LADDER_TICKS_MAX + 7 * n, 1), (5 * LADDER_TICKS_MAX + 7 * n, 1)) for n in range(90)]
    book = Book(0, 0)
    book.apply(levels_of([([bid], [ask]) for bid, ask in [*near, *far]]))
    assert len(book) == 580
    assert len(laid) < 20


def test_memory_that_is_never_written_is_shared_with_nobody_and_works_without_advice(monkeypatch):
    monkeypatch.setattr(module, "_NO_HUGE_PAGES", None)
    zeros = module._sparse_zeros(1000)
    zeros[7] = 5
    assert (int(zeros.sum()), len(zeros)) == (5, 1000)


def test_the_text_of_a_book_is_plain_decimals_without_trailing_zeros():
    book = Book(-2, -3)
    book.load(np.array([610, 6160201, 1]), np.array([1000, 1671770, 1]), np.array([6160300]), np.array([20]))
    assert book_text(book) == "b 61602.01 1671.77\nb 6.1 1\nb 0.01 0.001\na 61603 0.02"
    assert book_sha256(book) == hashlib.sha256(book_text(book).encode()).hexdigest()


def test_books_at_different_exponents_with_equal_levels_have_equal_texts():
    coarse, fine = Book(0, -1), Book(-3, -4)
    coarse.load(np.array([50]), np.array([15]), np.array([60]), np.array([100]))
    fine.load(np.array([50_000]), np.array([15_000]), np.array([60_000]), np.array([100_000]))
    assert book_text(coarse) == book_text(fine) == "b 50 1.5\na 60 10"
