"""The book through the day: where it is known, and what snapshots say about it."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.lines import Exchange, wrong
from twintape.columns.book import book_sha256
from twintape.columns.books import BookRow, DayBook, SnapshotRow, rescaled
from twintape.columns.checkpoint import EVERYWHERE, Region
from twintape.columns.decimals import mantissas
from twintape.columns.parse import Levels
from twintape.core.markets import Market
from twintape.core.wire import DepthSnapshot


def levels_of(events):
    def side(name):
        offsets = np.zeros(len(events) + 1, np.int64)
        np.cumsum([len(getattr(event, name)) for event in events], out=offsets[1:])
        flat = [level for event in events for level in getattr(event, name)]
        return offsets, mantissas([price for price, _ in flat], -2), mantissas([quantity for _, quantity in flat], -3)

    return Levels(*side("bids"), *side("asks"))


def day_book(events, snapshots=(), breaks=(), times=None, partials=None):
    ordered = sorted(snapshots, key=lambda copy: copy.snapshot.last_update_id)
    return DayBook(
        final=np.array([event.final for event in events], np.int64),
        prev=np.array([event.prev for event in events], np.int64),
        receive_time_ns=np.array([event.time_us * 1000 for event in events] if times is None else times, np.int64),
        breaks=np.array(breaks, np.int64),
        snapshots=ordered,
        price_exponent=-2,
        quantity_exponent=-3,
        partials=partials or {},
    )


def opening_of(exchange, update_id, *, price_exponent=-2, quantity_exponent=-3):
    sides = [np.array(side, np.int64) for side in exchange.book(update_id).levels()]
    return BookRow(update_id, price_exponent, quantity_exponent, *sides)


def run(book, events, *, batch=1000, opening=None):
    book.open(opening)
    unknown = [book.advance(first, levels_of(events[first : first + batch])).tolist() for first in range(0, len(events), batch)]
    return [flag for part in unknown for flag in part]


def sha(book):
    return book.closing_sha256()


EXCHANGE = Exchange(Market.SPOT, 5, 30)
EVENTS = EXCHANGE.events(3)
"""Ten events: (1000, 1003], … (1027, 1030]."""


# --- where the book is known ---------------------------------------------------------------------------------------------------


def test_without_opening_and_snapshots_the_book_is_never_known():
    book = day_book(EVENTS)
    assert run(book, EVENTS) == [True] * 10
    assert book.closing(1030) is None


def test_yesterdays_closing_book_opens_the_day():
    book = day_book(EVENTS)
    assert run(book, EVENTS, opening=opening_of(EXCHANGE, 1000)) == [False] * 10
    assert sha(book) == EXCHANGE.sha256(1030)
    closing = book.closing(1030)
    assert closing.update_id == 1030
    assert closing.bid_price.tolist() == EXCHANGE.book(1030).levels()[0]
    assert book.closing(None) is None


def test_yesterdays_closing_book_is_of_no_use_behind_a_gap():
    book = day_book(EVENTS[1:], breaks=[0])
    assert run(book, EVENTS[1:], opening=opening_of(EXCHANGE, 1000)) == [True] * 9


@pytest.mark.parametrize("batch", [1, 2, 3, 100])
@pytest.mark.parametrize("last", [1000, 1001, 1002, 1003, 1004, 1015, 1030])
def test_a_snapshot_anchors_the_book_from_the_event_that_covers_it(last, batch):
    book = day_book(EVENTS, [EXCHANGE.snapshot(last)])
    unknown = run(book, EVENTS, batch=batch)
    assert unknown == [event.final < last for event in EVENTS]
    assert book.verdicts == ["anchor"]
    assert sha(book) == EXCHANGE.sha256(1030)


@pytest.mark.parametrize("batch", [1, 4, 100])
def test_a_gap_loses_the_book_until_the_next_snapshot(batch):
    events = EVENTS[:4] + EVENTS[6:]
    snapshots = [EXCHANGE.snapshot(last) for last in (1005, 1014, 1017, 1024)]
    book = day_book(events, snapshots, breaks=[4])
    unknown = run(book, events, batch=batch)
    assert unknown == [True, False, False, False, True, False, False, False]
    assert book.verdicts == ["anchor", "outside", "outside", "anchor"]
    assert sha(book) == EXCHANGE.sha256(1030)


@pytest.mark.parametrize("batch", [1, 4, 100])
def test_a_snapshot_at_the_far_edge_of_a_gap_anchors_the_event_behind_it(batch):
    events = EVENTS[:4] + EVENTS[6:]
    book = day_book(events, [EXCHANGE.snapshot(1001), EXCHANGE.snapshot(1018)], breaks=[4])
    assert run(book, events, batch=batch) == [False] * 8
    assert book.verdicts == ["anchor", "anchor"]
    assert sha(book) == EXCHANGE.sha256(1030)


def test_an_overlapping_event_is_applied_whole():
    events = [EXCHANGE.event(0, 3), EXCHANGE.event(1, 7), EXCHANGE.event(5, 30)]
    book = day_book(events, [EXCHANGE.snapshot(1000)])
    assert run(book, events) == [False] * 3
    assert sha(book) == EXCHANGE.sha256(1030)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 10_000),
    st.lists(st.integers(0, 30), max_size=4),
    st.sets(st.integers(1, 9), max_size=3),
    st.integers(1, 5),
)
def test_whenever_it_is_known_it_is_the_true_book_however_it_is_fed(seed, at, lost, batch):
    exchange = Exchange(Market.USDM, seed, 30)
    kept = [event for number, event in enumerate(exchange.events(3)) if number not in lost]
    breaks = [k for k in range(1, len(kept)) if kept[k].prev != kept[k - 1].final]
    ids = [exchange.start_id, *(change.final for change in exchange.changes)]
    book = day_book(kept, [exchange.snapshot(ids[k]) for k in at], breaks)
    book.open(None)
    for first in range(0, len(kept), batch):
        part = kept[first : first + batch]
        unknown = book.advance(first, levels_of(part))
        assert bool(unknown[-1]) == (not book.known)
        if book.known:
            assert book_sha256(book.book) == exchange.sha256(part[-1].final)
    assert "failed" not in book.verdicts


def test_crossed_books_are_counted():
    book = day_book(EVENTS)
    opening = BookRow(1000, -2, -3, np.array([10_100]), np.array([1]), np.array([10_050]), np.array([1]))
    run(book, EVENTS, opening=opening)
    assert book.crossed == 10


# --- checkpoints ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("levels", [2, 1000])
def test_a_snapshot_that_agrees_passes(levels):
    snapshots = [EXCHANGE.snapshot(1001), *(EXCHANGE.snapshot(last, levels=levels, limit=levels) for last in (1003, 1010, 1030))]
    book = day_book(EVENTS, snapshots)
    run(book, EVENTS)
    results = book.results()
    assert (results.passed, results.anchors, results.failed, results.outside) == (3, 1, 0, 0)
    assert results.failures == []


@pytest.mark.parametrize("last", [1000, 1003, 1010])
def test_a_snapshot_that_contradicts_fails_and_never_reseeds_the_book(last):
    liar = wrong(EXCHANGE.snapshot(last, collector="paris"))
    if last == 1010:  # the level the snapshot lies about must not be one that the event sets anyway
        touched = {price for price, _ in EXCHANGE.event(9, 12).bids}
        assert liar.snapshot.bids[0][0] not in touched
    book = day_book(EVENTS, [EXCHANGE.snapshot(1030), liar])
    assert run(book, EVENTS, opening=opening_of(EXCHANGE, 1000)) == [False] * 10
    results = book.results()
    assert (results.passed, results.failed) == (1, 1)
    (failure,) = results.failures
    assert (failure.last_update_id, failure.collector, failure.differences) == (last, "paris", 1)
    ((side, _, in_snapshot, _),) = failure.examples
    assert (side, in_snapshot) == ("bid", "77.777")
    assert sha(book) == EXCHANGE.sha256(1030)


def test_a_side_with_fewer_levels_than_were_asked_for_is_complete():
    # The book has a far bid that the snapshot leaves out: only a complete side can say it is not there.
    opening = opening_of(EXCHANGE, 1000)
    far = BookRow(
        1000, -2, -3, np.r_[opening.bid_price, 1], np.r_[opening.bid_quantity, 5], opening.ask_price, opening.ask_quantity
    )
    for limit, verdict in ((1000, "failed"), (0, "passed"), (6, "passed")):
        book = day_book(EVENTS, [EXCHANGE.snapshot(1000, limit=limit)])
        run(book, EVENTS, opening=far)
        assert book.verdicts == [verdict], limit


def test_a_snapshot_of_ids_the_chain_does_not_have_is_outside():
    book = day_book(EVENTS, [EXCHANGE.snapshot(last) for last in (998, 999, 1031)])
    run(book, EVENTS)
    assert book.verdicts == ["outside"] * 3
    empty = day_book([], [EXCHANGE.snapshot(1000)])
    empty.open(opening_of(EXCHANGE, 1000))
    assert empty.verdicts == ["outside"]
    assert empty.closing(1000).update_id == 1000


def test_where_ids_repeat_in_another_epoch_a_snapshot_speaks_of_the_nearer_one_in_time():
    second = Exchange(Market.SPOT, 6, 30, start_us=EXCHANGE.changes[-1].time_us + 3_600_000_000)
    events = EVENTS + second.events(3)
    book = day_book(events, [second.snapshot(1010)], breaks=[10])
    assert run(book, events) == [True] * 13 + [False] * 7
    assert sha(book) == second.sha256(1030)


@pytest.mark.parametrize("batch", [1, 4, 100])
def test_a_snapshot_that_reaches_further_than_the_first_one_is_no_contradiction_and_widens_what_is_known(batch):
    snapshots = [EXCHANGE.snapshot(1000, levels=2, limit=2), EXCHANGE.snapshot(1010, levels=4, limit=4), EXCHANGE.snapshot(1020)]
    book = day_book(EVENTS, snapshots)
    run(book, EVENTS, batch=batch)
    assert book.verdicts == ["anchor", "passed", "passed"]
    assert not book.regions[0].holds(int(mantissas([snapshots[1].snapshot.bids[-1][0]], -2)[0]))
    assert [one.known_high for one in book.results().snapshots][2] is None  # the last one lists all there is
    assert sha(book) == EXCHANGE.sha256(1030)
    assert book.closing(1030).region == book.region == EVERYWHERE
    shallow = day_book(EVENTS, snapshots[:1])
    run(shallow, EVENTS)
    assert sha(shallow) != EXCHANGE.sha256(1030)
    assert shallow.closing(1030).region.holds(int(shallow.book.levels()[0][0]))
    assert shallow.closing(1030).region != EVERYWHERE


def test_the_region_goes_over_midnight_with_the_book_and_into_finer_units():
    row = replace(opening_of(EXCHANGE, 1000), region=Region(9_989, 10_011))
    book = day_book(EVENTS)
    book.open(row)
    assert book.region == Region(9_989, 10_011)
    finer = DayBook(
        final=book.final, prev=book.prev, receive_time_ns=book.receive_time_ns, breaks=book.breaks, snapshots=[],
        price_exponent=-3, quantity_exponent=-3,
    )  # fmt: skip
    finer.open(row)
    assert finer.region == Region(99_890, 100_110)


# --- numbers -------------------------------------------------------------------------------------------------------------------


def test_a_book_with_coarser_numbers_opens_a_day_with_finer_ones():
    row = BookRow(1, -1, 0, np.array([10]), np.array([2]), np.array([11]), np.array([3]))
    assert [side.tolist() for side in rescaled(row, -2, -3)] == [[100], [2000], [110], [3000]]


def test_an_opening_book_that_does_not_fit_into_finer_units_leaves_the_book_unknown():
    """A silently wrapped quantity would be a wrong book that is said to be known."""
    one = np.array([10**12], np.int64)
    opening = BookRow(100, 0, 0, one, one, one + 1, one)
    with pytest.raises(OverflowError, match="does not fit"):
        rescaled(opening, -8, -8)
    none = np.zeros(0, np.int64)
    book = DayBook(
        final=none, prev=none, receive_time_ns=none, breaks=none, snapshots=[], price_exponent=-8, quantity_exponent=-8
    )
    book.open(opening)
    assert not book.known


# --- what the proof says of it -------------------------------------------------------------------------------------------------


def test_every_snapshot_is_listed_with_the_event_it_was_compared_behind():
    late = replace(EXCHANGE.snapshot(1030), snapshot=DepthSnapshot(5000, None, None, (), ()))
    snapshots = [EXCHANGE.snapshot(1000), wrong(EXCHANGE.snapshot(1004)), EXCHANGE.snapshot(1015, collector="paris"), late]
    book = day_book(EVENTS, snapshots)
    run(book, EVENTS)
    found = book.results().snapshots
    assert [(one.last_update_id, one.verdict, one.prev_update_id, one.final_update_id) for one in found] == [
        (1000, "anchor", 1000, 1003),
        (1004, "failed", 1003, 1006),
        (1015, "passed", 1012, 1015),
        (5000, "outside", None, None),
    ]
    assert [one.differences for one in found] == [0, 1, 0, 0]
    assert (found[2].collector, found[3].bid_low, found[3].ask_high) == ("paris", None, None)
    bids, asks = EXCHANGE.book(1015).levels()[::2]
    assert (found[2].bid_low, found[2].ask_high) == tuple(f"{price / 100:g}" for price in (bids[-1], asks[-1]))


@pytest.mark.parametrize("batch", [1, 4, 100])
def test_the_top_is_kept_behind_every_event_where_the_book_is_known(batch):
    book = day_book(EVENTS, [EXCHANGE.snapshot(1005)])
    unknown = run(book, EVENTS, batch=batch)
    for event, top, hidden in zip(EVENTS, book.tops.tolist(), unknown, strict=True):
        assert tuple(top) == ((-1, 0, 2**63 - 1, 0) if hidden else EXCHANGE.book(event.final).top())


@pytest.mark.parametrize("levels", [1, 3, 20])
def test_partial_books_are_compared_at_the_end_of_the_event_that_covers_them_and_never_start_a_book(levels):
    copies = {k: EXCHANGE.snapshot(1002 + 3 * k, levels=levels, limit=levels) for k in range(10)}
    book = day_book(EVENTS, partials=copies)
    assert run(book, EVENTS) == [True] * 10
    assert (book.partial_results().passed, book.partial_results().failed) == (0, 0)
    book = day_book(EVENTS, [EXCHANGE.snapshot(1010)], partials=copies | {8: wrong(copies[8])})
    run(book, EVENTS)
    found = book.partial_results()
    assert (found.passed, found.failed) == (6, 1)
    (failure,) = found.failures
    assert failure.last_update_id == 1026
    assert failure.examples[0][2] == "77.777"
    assert day_book(EVENTS).partial_results() is None


def test_a_level_that_a_partial_book_lacks_is_a_difference_even_if_the_book_has_many_more():
    whole = EXCHANGE.snapshot(1030, levels=3, limit=2)
    holed = replace(whole, snapshot=replace(whole.snapshot, asks=(whole.snapshot.asks[0], *whole.snapshot.asks[2:])))
    book = day_book(EVENTS, [EXCHANGE.snapshot(1000)], partials={9: holed})
    run(book, EVENTS)
    assert [one[2] for one in book.partial_results().failures[0].examples] == ["0"]


def test_a_partial_book_with_digits_no_number_of_the_day_has_contradicts_it():
    whole = EXCHANGE.snapshot(1030, levels=3)
    fine = replace(whole, snapshot=replace(whole.snapshot, bids=(("99.9900001", "1.000"),)))
    book = day_book(EVENTS, [EXCHANGE.snapshot(1000)], partials={9: fine})
    run(book, EVENTS)
    assert (book.partial_results().failed, book.partial_results().failures[0].examples) == (1, [])


def test_only_the_first_failures_of_partial_books_are_spelled_out(monkeypatch):
    monkeypatch.setattr("twintape.columns.books.EXAMPLES_MAX", 2)
    copies = {k: wrong(EXCHANGE.snapshot(1003 + 3 * k, levels=3)) for k in range(5)}
    book = day_book(EVENTS, [EXCHANGE.snapshot(1000)], partials=copies)
    run(book, EVENTS)
    assert (book.partial_results().failed, len(book.partial_results().failures)) == (5, 2)


def test_a_snapshot_at_the_begin_of_an_event_that_overlaps_the_opening_book_is_compared_behind_it():
    # The day begins at 1002 inside an event of (1000, 1003]: the opening book is ahead of the snapshot.
    book = day_book(EVENTS, [EXCHANGE.snapshot(1000)])
    assert run(book, EVENTS, opening=opening_of(EXCHANGE, 1002)) == [False] * 10
    assert book.verdicts == ["passed"]
    assert sha(book) == EXCHANGE.sha256(1030)


def test_a_published_snapshot_lists_a_whole_side_if_it_has_fewer_levels_than_were_asked_for():
    ints = [np.arange(count, dtype=np.int64) for count in (2, 2, 3, 3)]
    for limit, whole in ((3, (True, False)), (4, (True, True)), (2, (False, False)), (0, (False, False))):
        row = SnapshotRow("snapshot", None, limit, 0, BookRow(7, -2, -3, *ints))
        assert (row.complete_bid, row.complete_ask) == whole
