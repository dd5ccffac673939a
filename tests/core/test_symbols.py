import json

import pytest

from twintape.core.errors import WireError
from twintape.core.symbols import Changes, Listing, Roster, is_selector, matches, parse_listings, subscribable

GRACE_NS = 100


def listings(**statuses):
    return {symbol: Listing(symbol, status) for symbol, status in statuses.items()}


def test_the_lists_of_all_markets_are_read():
    spot = b'{"timezone":"UTC","symbols":[{"symbol":"BTCUSDT","status":"TRADING","filters":[]},{"symbol":"\xe5\xb8\x81USDT","status":"BREAK"}]}'
    assert parse_listings(spot) == {"BTCUSDT": Listing("BTCUSDT", "TRADING"), "币USDT": Listing("币USDT", "BREAK")}
    usdm = b'{"symbols":[{"symbol":"BTCUSDT_261225","contractType":"CURRENT_QUARTER","status":"PENDING_TRADING"}]}'
    assert parse_listings(usdm)["BTCUSDT_261225"] == Listing("BTCUSDT_261225", "PENDING_TRADING", "CURRENT_QUARTER")
    coinm = b'{"symbols":[{"symbol":"BTCUSD_PERP","contractType":"PERPETUAL","contractStatus":"TRADING"}]}'
    assert parse_listings(coinm)["BTCUSD_PERP"] == Listing("BTCUSD_PERP", "TRADING", "PERPETUAL")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>busy</html>",
        b"{}",
        b'{"symbols":[]}',
        b'{"symbols":{}}',
        b'{"symbols":[{"status":"TRADING"}]}',
        b'{"symbols":[{"symbol":"A/B"}]}',
        b'{"code":-1003,"msg":"Too much request weight used"}',
        b"\xff",
    ],
)
def test_what_is_no_list_of_symbols_is_an_error(body):
    with pytest.raises(WireError, match="symbols"):
        parse_listings(body)


def test_a_symbol_that_cannot_be_subscribed_is_left_out():
    body = json.dumps({"symbols": [{"symbol": "A B", "status": "TRADING"}, {"symbol": "OK", "status": "TRADING"}]}).encode()
    assert list(parse_listings(body)) == ["OK"]


@pytest.mark.parametrize("symbol", ["", "A/B", "A?B", "A#B", "A@B", "A&B", "A%B", "A B", 'A"B', "A\\B", "\x07", "!x", "A" * 65])
def test_symbols_that_break_a_url_or_a_message_cannot_be_subscribed(symbol):
    assert not subscribable(symbol)


@pytest.mark.parametrize(
    ("selector", "symbol", "contract_type", "selected"),
    [
        ("*", "ANYTHING", None, True),
        ("*USDT", "BTCUSDT", None, True),
        ("*USDT", "币安人生USDT", None, True),
        ("币*", "币安人生USDT", None, True),
        ("*USDT", "BTCUSDC", None, False),
        ("BTC*", "BTCUSDT", None, True),
        ("BTC*", "WBTCUSDT", None, False),
        ("B*C*T", "BTCUSDT", None, True),
        ("*.USDT", "XUSDT", None, False),
        ("PERPETUAL", "BTCUSDT", "PERPETUAL", True),
        ("PERPETUAL", "BTCUSDT_261225", "CURRENT_QUARTER", False),
        ("CURRENT_QUARTER_DELIVERING", "BTCUSDT_260925", "CURRENT_QUARTER DELIVERING", True),
        ("PERPETUAL", "PERPETUAL", None, False),
    ],
)
def test_selectors(selector, symbol, contract_type, selected):
    assert is_selector(selector)
    assert matches(selector, Listing(symbol, "TRADING", contract_type)) is selected


def test_a_pattern_records_what_trades_and_what_is_about_to():
    roster = Roster(["*USDT"], grace_ns=GRACE_NS)
    assert list(roster.recorded) == []
    changes = roster.update(listings(BTCUSDT="TRADING", NEWUSDT="PENDING_TRADING", OLDUSDT="BREAK", ETHBTC="TRADING"), 0)
    assert changes == Changes(added=("BTCUSDT", "NEWUSDT"), quiet=frozenset({"NEWUSDT"}))
    changes = roster.update(listings(BTCUSDT="HALT", NEWUSDT="TRADING", OLDUSDT="TRADING"), 1)
    assert changes == Changes(added=("OLDUSDT",), quiet=frozenset({"BTCUSDT"}))


@pytest.mark.parametrize("status", ["BREAK", "CLOSE", "DELIVERED", None])
def test_a_symbol_that_is_over_is_quiet_at_once_and_goes_after_the_grace(status):
    roster = Roster(["*"], grace_ns=GRACE_NS)
    roster.update(listings(A="TRADING", B="TRADING"), 0)
    later = listings(B="TRADING") if status is None else listings(A=status, B="TRADING")
    assert roster.update(later, 1) == Changes(quiet=frozenset({"A"}))
    assert roster.update(later, 1 + GRACE_NS - 1) == Changes(quiet=frozenset({"A"}))
    assert roster.update(later, 1 + GRACE_NS) == Changes(removed=("A",))
    assert list(roster.recorded) == ["B"]
    assert roster.update(later, 2 + GRACE_NS) == Changes()
    assert roster.update(listings(A="TRADING", B="TRADING"), 3 + GRACE_NS) == Changes(added=("A",))


def test_a_break_within_the_grace_starts_it_anew():
    roster = Roster(["*"], grace_ns=GRACE_NS)
    roster.update(listings(A="TRADING", B="TRADING"), 0)
    roster.update(listings(A="BREAK", B="TRADING"), 1)
    assert roster.update(listings(A="TRADING", B="TRADING"), 99) == Changes()
    assert roster.update(listings(A="BREAK", B="TRADING"), 101).removed == ()
    assert roster.update(listings(A="BREAK", B="TRADING"), 201).removed == ("A",)


def test_a_contract_whose_type_is_selected_no_longer_goes_after_the_grace_and_is_not_quiet():
    roster = Roster(["NEXT_QUARTER"], grace_ns=GRACE_NS)
    assert roster.update({"X": Listing("X", "TRADING", "NEXT_QUARTER")}, 0).added == ("X",)
    now_current = {"X": Listing("X", "TRADING", "CURRENT_QUARTER"), "Y": Listing("Y", "TRADING", "NEXT_QUARTER")}
    assert roster.update(now_current, 1) == Changes(added=("Y",))
    assert roster.update(now_current, 101) == Changes(removed=("X",))


def test_names_are_recorded_whatever_the_list_says_and_unknown_ones_are_named():
    roster = Roster(["BTCUSDT", "TYPOUSDT"], grace_ns=GRACE_NS)
    assert list(roster.recorded) == ["BTCUSDT", "TYPOUSDT"]
    found = roster.update(listings(BTCUSDT="TRADING", ETHUSDT="TRADING"), 0)
    assert found == Changes(unknown=("TYPOUSDT",), quiet=frozenset({"TYPOUSDT"}))
    assert roster.update(listings(BTCUSDT="TRADING"), 10 * GRACE_NS).unknown == ("TYPOUSDT",)
    assert "TYPOUSDT" in roster.recorded
    assert roster.update(listings(BTCUSDT="TRADING", TYPOUSDT="TRADING"), 11 * GRACE_NS) == Changes()


def test_a_name_that_was_listed_once_goes_like_the_others():
    roster = Roster(["A", "B"], grace_ns=GRACE_NS)
    roster.update(listings(A="TRADING", B="TRADING"), 0)
    assert roster.update(listings(B="TRADING"), 1) == Changes(quiet=frozenset({"A"}), unknown=("A",))
    assert roster.update(listings(B="TRADING"), 101) == Changes(removed=("A",), unknown=("A",))
    assert roster.update(listings(A="PENDING_TRADING", B="TRADING"), 102) == Changes(added=("A",), quiet=frozenset({"A"}))


def test_two_collectors_with_the_same_words_converge_whenever_they_started():
    lists = [
        listings(A="TRADING", B="TRADING"),
        listings(A="BREAK", B="TRADING", C="PENDING_TRADING"),
        listings(B="TRADING", C="TRADING", D="TRADING"),
        listings(B="HALT", C="TRADING", D="CLOSE"),
    ]
    for start in range(len(lists)):
        early, late = Roster(["*"], grace_ns=GRACE_NS), Roster(["*"], grace_ns=GRACE_NS)
        for number, found in enumerate(lists):
            early.update(found, number)
            if number >= start:
                late.update(found, number)
        for now_ns in (200, 400):
            early.update(lists[-1], now_ns)
            late.update(lists[-1], now_ns)
        assert set(early.recorded) == set(late.recorded) == {"B", "C"}
