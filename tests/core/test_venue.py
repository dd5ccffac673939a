import json

import pytest

from twintape.core import venue as venue_module
from twintape.core.markets import Market
from twintape.core.venue import (
    BookChange,
    OrderBook,
    Piece,
    RecordedBook,
    SymbolInfo,
    Venue,
    VenueMessage,
    render_snapshot,
    touched_levels,
)
from twintape.core.wire import DepthSnapshot

START = DepthSnapshot(100, None, None, (("10.0", "1"), ("9.0", "2")), (("11.0", "3"),))


class OneSymbol:
    def __init__(self, market=Market.SPOT, book_stream="x@depth@100ms", snapshot=START):
        self.market = market
        self.symbols = (SymbolInfo("X", 1, 0, snapshot, book_stream),)
        self.total = None

    def happenings(self):
        return iter(())


def event(prev, final, bids=(), asks=(), time_ns=0, market=Market.SPOT, **more):
    fields = {
        "e": "depthUpdate",
        "E": 1_700_000_000_000 + final,
        "s": "X",
        "U": prev + 1,
        "u": final,
        "b": bids,
        "a": asks,
        **more,
    }
    return VenueMessage(time_ns, market, "x@depth@100ms", json.dumps(fields).encode())


def body(venue, limit=1000, **keywords):
    return json.loads(venue.depth("X", limit, now_ms=7, **keywords))


def test_before_anything_happened_the_answer_is_the_first_snapshot_verbatim():
    assert body(Venue(OneSymbol())) == {"lastUpdateId": 100, "bids": [["10.0", "1"], ["9.0", "2"]], "asks": [["11.0", "3"]]}


def test_the_answer_follows_the_stream_and_names_its_last_id():
    venue = Venue(OneSymbol())
    venue.note(event(98, 100, [["10.0", "0"]]))  # stale on spot
    venue.note(event(100, 102, [["9.0", "0"], ["9.50", "5"]], [["10.90", "1"]]))
    assert body(venue) == {"lastUpdateId": 102, "bids": [["10.0", "1"], ["9.50", "5"]], "asks": [["10.90", "1"], ["11.0", "3"]]}
    assert body(venue, limit=1) == {"lastUpdateId": 102, "bids": [["10.0", "1"]], "asks": [["10.90", "1"]]}
    assert venue.last_final_update_ids() == {"x@depth@100ms": 102}


def test_one_price_printed_two_ways_is_one_level():
    venue = Venue(OneSymbol())
    venue.note(event(100, 101, [["10.00", "7"], ["9.00", "0.00"]]))
    assert body(venue)["bids"] == [["10.00", "7"]]


def test_an_event_that_ends_at_the_snapshot_is_applied_once_on_futures():
    venue = Venue(OneSymbol(Market.USDM))
    first = event(90, 100, [["10.0", "8"]], market=Market.USDM, pu=90, T=1_700_000_000_001)
    venue.note(first)
    venue.note(event(80, 100, [["10.0", "9"]], market=Market.USDM, pu=80, T=1))
    answer = body(venue)
    assert answer["bids"][0] == ["10.0", "8"]
    assert (answer["E"], answer["T"]) == (1_700_000_000_100, 1_700_000_000_001)


def test_futures_bodies_have_times_and_coinm_ones_a_pair():
    assert body(Venue(OneSymbol(Market.USDM))) == {"lastUpdateId": 100, "E": 7, "T": 7} | {
        "bids": [["10.0", "1"], ["9.0", "2"]],
        "asks": [["11.0", "3"]],
    }
    text = render_snapshot(Market.COINM, "BTCUSD_PERP", DepthSnapshot(1, 5_000, 4_000, (), ()), 0)
    assert text == b'{"lastUpdateId":1,"E":5,"T":4,"symbol":"BTCUSD_PERP","pair":"BTCUSD","bids":[],"asks":[]}'


def test_an_unknown_symbol_has_no_book_and_is_no_stream_of_ours():
    venue = Venue(OneSymbol())
    assert venue.depth("Y", 5, now_ms=0) is None
    venue.note(VenueMessage(0, Market.SPOT, "y@depth", b'{"U":1,"u":2}'))
    venue.note(VenueMessage(0, Market.SPOT, "x@depth20", b"{}"))
    venue.note(VenueMessage(0, Market.SPOT, "x@trade", b"{}"))
    venue.note(BookChange(0, Market.SPOT, "Y", 1, 2, (), (), 0))
    assert venue.last_final_update_ids() == {}


def test_a_lagging_answer_leaves_out_what_happened_later():
    venue = Venue(OneSymbol())
    venue.note(event(100, 101, [["10.0", "5"]], time_ns=10))
    venue.note(event(101, 102, [["10.0", "6"]], time_ns=20))
    assert body(venue, until_ns=9)["lastUpdateId"] == 100
    assert body(venue, until_ns=10)["lastUpdateId"] == venue.book_update_id("X") == 101
    assert body(venue)["lastUpdateId"] == venue.book_update_id("X") == 102


def test_unpublished_changes_move_the_book_too():
    venue = Venue(OneSymbol(Market.USDM, None))
    venue.note(BookChange(0, Market.USDM, "X", 100, 105, (("10.5", "1"),), (("11.0", "0"),), 1_700_000_000_000))
    answer = body(venue)
    assert (answer["lastUpdateId"], answer["bids"][0], answer["asks"]) == (105, ["10.5", "1"], [])


def test_after_a_hole_the_next_recorded_snapshot_restarts_the_book():
    venue = Venue(OneSymbol())
    recorded = DepthSnapshot(300, None, None, (("1.0", "1"),), ())
    venue.note(RecordedBook(0, Market.SPOT, "X", recorded))  # nothing is missing: it is only a witness
    assert body(venue)["lastUpdateId"] == 100
    venue.note(event(200, 201))
    venue.note(RecordedBook(0, Market.SPOT, "X", DepthSnapshot(150, None, None, (), ())))  # too old
    assert body(venue)["lastUpdateId"] == 201
    venue.note(RecordedBook(0, Market.SPOT, "X", recorded))
    assert body(venue) == {"lastUpdateId": 300, "bids": [["1.0", "1"]], "asks": []}
    venue.note(VenueMessage(0, Market.SPOT, "x@depth@100ms", b'{"e":"depthUpdate"'))  # damaged: a hole again
    venue.note(RecordedBook(0, Market.SPOT, "X", DepthSnapshot(301, None, None, (), ())))
    assert body(venue)["lastUpdateId"] == 301


def test_changes_nobody_asks_for_are_applied_by_halves(monkeypatch):
    monkeypatch.setattr(venue_module, "PENDING_CHANGES_MAX", 4)
    venue = Venue(OneSymbol())
    for number in range(5):
        venue.note(event(100 + number, 101 + number, [["10.0", str(number + 1)]], time_ns=number))
    # Three of five are applied already: an answer as of before them cannot be given any more.
    assert body(venue, until_ns=0)["lastUpdateId"] == 103
    assert body(venue)["lastUpdateId"] == 105


def test_a_book_says_what_was_news():
    book = OrderBook(START, contiguous_ids=True)
    assert not book.apply(99, 100, (), (), 0, None)
    assert book.apply(99, 101, (), (), 0, None)
    assert not book.gapped
    assert book.snapshot().last_update_id == 101
    assert book.snapshot().bids == START.bids


@pytest.mark.parametrize(("market", "bids"), [(Market.SPOT, ["10", "9"]), (Market.COINM, ["9", "10"])])
def test_levels_come_in_the_markets_order(market, bids):
    pieces = [Piece(1, 1, (("9", "1"), ("10", "2")), (("12", "1"),)), Piece(2, 3, (), (("11", "1"), ("12", "0")))]
    printed = touched_levels(pieces, market)
    assert [price for price, _ in printed[0]] == bids
    assert printed[1] == [("11", "1"), ("12", "0")]


def test_a_venue_of_whole_books_answers_with_every_level_it_knows():
    venue = Venue(OneSymbol(), whole_books=True)
    found = json.loads(venue.depth("X", 1, now_ms=0))
    assert (len(found["bids"]), len(found["asks"])) == (2, 1)


def test_a_symbol_is_listed_with_the_status_it_was_given_and_not_at_all_without_one():
    venue = Venue(OneSymbol())
    assert [info.status for info in venue.listed()] == ["TRADING"]
    venue.statuses["X"] = "BREAK"
    assert [info.status for info in venue.listed()] == ["BREAK"]
    venue.statuses["X"] = ""
    assert venue.listed() == []


def test_a_message_wears_its_wrapper_only_for_clients_of_combined_streams():
    message = VenueMessage(0, Market.SPOT, "币usdt@trade", b"{}")
    assert message.payload(combined=False) == b"{}"
    assert message.payload(combined=True) == '{"stream":"币usdt@trade","data":{}}'.encode()
    message.frame = b"as recorded"
    assert message.payload(combined=True) == b"as recorded"
