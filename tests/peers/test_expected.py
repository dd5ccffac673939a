import hashlib
from decimal import Decimal

import pytest

from peers.expected import book_of, differences, expected_book, track
from twintape.core.markets import Market
from twintape.core.synthetic import SyntheticConfig, SyntheticSource
from twintape.core.tape import TapeSource
from twintape.core.venue import Venue, VenueMessage
from twintape.core.venue_rest import DepthAnswer, RestDesk
from twintape.core.wire import decode_depth, decode_snapshot

STREAM = "xusdt@depth@100ms"
LINES = [
    b'1 {"lastUpdateId":10,"bids":[["9","1"],["8","1"],["7","1"]],"asks":[["11","1"],["12","1"],["13","1"]]}',
    b'2 {"stream":"xusdt@depth@100ms","data":{"e":"depthUpdate","E":1,"s":"XUSDT","U":9,"u":10,"b":[["9","5"]],"a":[]}}',
    b'3 {"stream":"xusdt@depth@100ms","data":{"e":"depthUpdate","E":1,"s":"XUSDT","U":11,"u":12,"b":[["9","2"]],"a":[["11","0"]]}}',
    b'4 {"stream":"xusdt@depth@100ms","data":{"e":"depthUpdate","E":1,"s":"XUSDT","U":13,"u":13,"b":[["9","0"]],"a":[["10","4"]]}}',
]


@pytest.fixture
def followed():
    return track(TapeSource(Market.SPOT, [lambda: LINES]), STREAM)


def answer(limit, last_update_id):
    return DepthAnswer(Market.SPOT, "XUSDT", limit, last_update_id)


def book(last_update_id, bids, asks):
    return book_of(
        last_update_id, [text.split("@")[::-1] for text in bids.split()], [text.split("@")[::-1] for text in asks.split()]
    )


def test_the_exchanges_own_book_has_every_level(followed):
    assert expected_book(followed, None, 13) == book(13, "1@8 1@7", "4@10 1@12 1@13")


def test_a_client_knows_the_levels_of_its_snapshot_and_those_that_changed_since(followed):
    assert expected_book(followed, answer(1, 10), 13) == book(13, "", "4@10")
    assert expected_book(followed, answer(2, 12), 13) == book(13, "1@8", "4@10 1@12 1@13")
    assert expected_book(followed, answer(100, 10), 12) == book(12, "2@9 1@8 1@7", "1@12 1@13")


@pytest.mark.parametrize(
    ("retold", "bids"), [(None, "2@9 8@5"), (0, "2@9"), (1, "2@9 8@5"), (2, "2@9 8@5 3@4"), (9, "2@9 8@5 3@4")]
)
def test_events_behind_a_futures_snapshot_tell_of_levels_beyond_its_limit(retold, bids):
    lines = [
        b'1 {"lastUpdateId":6,"bids":[["9","1"],["8","1"]],"asks":[]}',
        b'2 {"stream":"x@depth","data":{"e":"depthUpdate","E":1,"T":1,"s":"X","U":7,"u":8,"pu":6,"b":[["4","3"],["8","0"]],"a":[]}}',
        b'3 {"stream":"x@depth","data":{"e":"depthUpdate","E":1,"T":1,"s":"X","U":9,"u":10,"pu":8,"b":[["9","2"],["5","8"]],"a":[]}}',
        b'4 {"stream":"x@depth","data":{"e":"depthUpdate","E":1,"T":1,"s":"X","U":11,"u":12,"pu":10,"b":[],"a":[["11","1"]]}}',
    ]
    followed = track(TapeSource(Market.USDM, [lambda: lines]), "x@depth")
    snapshot = DepthAnswer(Market.USDM, "X", 1, 10)
    assert expected_book(followed, snapshot, 12, retold=retold) == book(12, bids, "1@11")


def test_an_id_at_which_the_exchange_never_stood_is_an_error(followed):
    with pytest.raises(AssertionError, match="never stood at 11"):
        expected_book(followed, answer(100, 11), 13)


def test_of_a_client_that_forgets_far_levels_only_the_near_ones_are_expected(followed):
    # It kept two a side: 7 was forgotten while 9 and 8 were nearer, 13 while 10 and 12 were.
    forgetful = book(13, "1@8", "4@10 1@12")
    assert expected_book(followed, answer(100, 10), 13, kept=2, got=forgetful) == forgetful
    remembers = book(13, "1@8 1@7", "4@10 1@12 1@13")
    assert expected_book(followed, answer(100, 10), 13, kept=2, got=remembers) == remembers
    wrong = book(13, "1@8 9@7", "4@10 1@12")
    assert differences(expected_book(followed, answer(100, 10), 13, kept=2, got=wrong), wrong) == ["bid 7 has 9, not 1"]
    hole = book(13, "1@7", "4@10 1@12")
    assert differences(expected_book(followed, answer(100, 10), 13, kept=2, got=hole), hole) == ["bid 8 is missing"]


def test_whatever_differs_is_named():
    ours = book(5, "1@8 1@7", "4@10")
    assert differences(ours, book_of(5, [("8.0", "1.00"), ("7", "1"), ("6", "0")], [("1E1", "4")])) == []
    assert differences(ours, book(4, "1@8 2@7", "3@11")) == [
        "it stands at 4, not 5",
        "bid 7 has 2, not 1",
        "ask 10 is missing",
        "ask 11 should not be there",
    ]
    many = differences(book(1, " ".join(f"1@{price}" for price in range(1, 9)), ""), book(1, "", ""))
    assert (len(many), many[-1]) == (6, "… 8 differences in all")


def test_a_digest_is_of_the_book_as_plain_text_from_the_best_prices_down_and_up():
    one = book_of(1, [("9.50", "1.0"), ("100", "2")], [("101.0", "0.30")])
    assert one.sha256() == hashlib.sha256(b"b 100 2\nb 9.5 1\na 101 0.3").hexdigest()


@pytest.mark.parametrize("market", list(Market))
def test_a_client_of_a_made_up_market_that_starts_anywhere_ends_as_expected(market):
    config = SyntheticConfig(market, 5, symbols_count=1, events_per_second=9.0, messages_count=600)
    source = SyntheticSource(config)
    stream = f"{source.symbols[0].symbol.lower()}@depth@100ms"
    followed = track(source, stream)
    venue = Venue(source)
    desk = RestDesk({market: venue})
    path = {Market.SPOT: "/api/v3/depth", Market.USDM: "/fapi/v1/depth", Market.COINM: "/dapi/v1/depth"}[market]
    bids: dict[Decimal, str] = {}
    asks: dict[Decimal, str] = {}
    snapshot = None
    for number, happening in enumerate(source.happenings()):
        venue.note(happening)
        if number == 500:
            snapshot = decode_snapshot(desk.answer(path, {"symbol": source.symbols[0].symbol, "limit": "100"}, now_ms=0).body)
            bids = {Decimal(price): quantity for price, quantity in snapshot.bids}
            asks = {Decimal(price): quantity for price, quantity in snapshot.asks}
        if snapshot is None or not isinstance(happening, VenueMessage) or happening.stream != stream:
            continue
        event = decode_depth(happening.data, market)
        if event.final_update_id > snapshot.last_update_id:
            bids |= {Decimal(price): quantity for price, quantity in event.bids}
            asks |= {Decimal(price): quantity for price, quantity in event.asks}
    got = book_of(followed.final_update_id, [(str(p), q) for p, q in bids.items()], [(str(p), q) for p, q in asks.items()])
    assert expected_book(followed, desk.depth_answers[-1], followed.final_update_id) == got
