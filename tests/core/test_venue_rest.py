import json

import pytest

from twintape.core.markets import Market
from twintape.core.venue import SymbolInfo, Venue
from twintape.core.venue_rest import BAN_S, REFUSALS_BEFORE_BAN, DepthAnswer, RestDesk, exchange_info
from twintape.core.wire import DepthSnapshot

MINUTE = 60_000
LEVELS = tuple((str(10_000 - number), "1") for number in range(6000))


class OneSymbol:
    total = None

    def __init__(self, market, symbol):
        self.market = market
        self.symbols = (SymbolInfo(symbol, 2, 3, DepthSnapshot(100, None, None, LEVELS, ())),)

    def happenings(self):
        return iter(())


def desk(**budgets):
    names = {Market.SPOT: "BTCUSDT", Market.USDM: "BTCUSDT", Market.COINM: "BTCUSD_PERP"}
    return RestDesk({market: Venue(OneSymbol(market, symbol)) for market, symbol in names.items()}, budgets)


def get(desk_, path, now_ms=0, **query):
    answer = desk_.answer(path, query, now_ms=now_ms)
    return answer.status, json.loads(answer.body), answer.headers


@pytest.mark.parametrize(
    ("path", "symbol", "limit", "levels", "weight"),
    [
        ("/api/v3/depth", "BTCUSDT", None, 100, 5),
        ("/api/v3/depth", "BTCUSDT", "7", 7, 5),
        ("/api/v3/depth", "BTCUSDT", "101", 101, 25),
        ("/api/v3/depth", "BTCUSDT", "1000", 1000, 50),
        ("/api/v3/depth", "BTCUSDT", "5000", 5000, 250),
        ("/api/v3/depth", "BTCUSDT", "6000", 5000, 250),
        ("/fapi/v1/depth", "BTCUSDT", None, 500, 10),
        ("/fapi/v1/depth", "BTCUSDT", "50", 50, 2),
        ("/fapi/v1/depth", "BTCUSDT", "100", 100, 5),
        ("/dapi/v1/depth", "BTCUSD_PERP", "1000", 1000, 20),
    ],
)
def test_a_snapshot_has_as_many_levels_as_asked_for_and_costs_as_documented(path, symbol, limit, levels, weight):
    query = {"symbol": symbol} | ({"limit": limit} if limit else {})
    status, body, headers = get(desk(), path, **query)
    assert (status, len(body["bids"])) == (200, levels)
    assert headers == {"X-MBX-USED-WEIGHT": str(weight), "X-MBX-USED-WEIGHT-1M": str(weight)}


@pytest.mark.parametrize(
    ("path", "query", "code"),
    [
        ("/api/v3/depth", {"symbol": "NOSUCH"}, -1121),
        ("/api/v3/depth", {}, -1102),
        ("/api/v3/depth", {"symbol": "BTCUSDT", "limit": "x"}, -1100),
        ("/api/v3/depth", {"symbol": "BTCUSDT", "limit": "-5"}, -1100),
        ("/api/v3/depth", {"symbol": "BTCUSDT", "limit": "٣"}, -1100),
        ("/api/v3/depth", {"symbol": "BTCUSDT", "limit": "9" * 21}, -1100),
        ("/api/v3/depth", {"symbol": "BTCUSDT", "limit": "0"}, -1130),
        ("/fapi/v1/depth", {"symbol": "BTCUSDT", "limit": "7"}, -4021),
        ("/dapi/v1/depth", {"symbol": "BTCUSDT", "limit": "5000"}, -4021),
        ("/api/v3/exchangeInfo", {"symbol": "NOSUCH"}, -1121),
        ("/api/v3/exchangeInfo", {"symbols": "nonsense"}, -1100),
        ("/api/v3/exchangeInfo", {"symbols": "5"}, -1100),
    ],
)
def test_a_wrong_request_gets_the_documented_error_and_is_charged(path, query, code):
    status, body, headers = get(desk(), path, **query)
    assert (status, body["code"]) == (400, code)
    assert int(headers["X-MBX-USED-WEIGHT-1M"]) > 0


@pytest.mark.parametrize("path", ["/", "/api/v3/klines", "/api/v1/depth", "/fapi/v1/", "depth"])
def test_anything_else_is_not_served(path):
    assert get(desk(), path)[0] == 404


@pytest.mark.parametrize("prefix", ["/api/v3", "/fapi/v1", "/dapi/v1"])
def test_of_a_market_that_is_not_simulated_only_ping_and_time_are_served(prefix):
    nothing = RestDesk({})
    assert get(nothing, prefix + "/ping")[0] == get(nothing, prefix + "/time")[0] == 200
    assert get(nothing, prefix + "/depth", symbol="BTCUSDT")[0] == get(nothing, prefix + "/exchangeInfo")[0] == 404


def test_what_was_handed_out_is_remembered_by_symbol_limit_and_id():
    one = desk()
    get(one, "/api/v3/depth", symbol="BTCUSDT")
    get(one, "/fapi/v1/depth", symbol="BTCUSDT", limit="50")
    get(one, "/api/v3/depth", symbol="NOSUCH")
    assert list(one.depth_answers) == [
        DepthAnswer(Market.SPOT, "BTCUSDT", 100, 100),
        DepthAnswer(Market.USDM, "BTCUSDT", 50, 100),
    ]


@pytest.mark.parametrize("prefix", ["/api/v3", "/fapi/v1", "/dapi/v1"])
def test_ping_and_time(prefix):
    assert get(desk(), prefix + "/ping")[1] == {}
    assert get(desk(), prefix + "/time", now_ms=1_700_000_000_000)[1] == {"serverTime": 1_700_000_000_000}


SIGNED = {"timestamp": "1", "signature": "x"}


def test_a_signed_request_for_an_account_is_answered_and_charged():
    status, body, headers = get(desk(), "/fapi/v2/account", **SIGNED)
    assert (status, body["feeTier"], headers["X-MBX-USED-WEIGHT-1M"]) == (200, 0, "5")
    fees = get(desk(), "/sapi/v1/asset/tradeFee", **SIGNED)[1]
    assert [fee["symbol"] for fee in fees] == ["BTCUSDT"]


def test_an_account_is_for_signed_requests_within_the_budget_of_a_market_that_is_simulated():
    status, body, _ = get(desk(), "/fapi/v2/account", timestamp="1")
    assert (status, body["code"]) == (400, -1102)
    assert get(desk(futures=4), "/fapi/v2/account", **SIGNED)[0] == 429
    assert get(RestDesk({}), "/fapi/v2/account", **SIGNED)[0] == 404


def test_over_budget_is_429_until_the_minute_is_over():
    one = desk(spot=100)
    assert get(one, "/api/v3/depth", 1000, symbol="BTCUSDT", limit="1000")[0] == 200
    assert get(one, "/api/v3/depth", 1000, symbol="BTCUSDT", limit="1000")[0] == 200
    status, body, headers = get(one, "/api/v3/ping", 1500)
    assert (status, body["code"]) == (429, -1003)
    assert "current limit is 100" in body["msg"]
    assert headers["Retry-After"] == "59"
    assert get(one, "/api/v3/ping", MINUTE)[2]["X-MBX-USED-WEIGHT-1M"] == "1"


def test_usdm_and_coinm_share_a_budget_and_spot_has_its_own():
    one = desk(futures=20)
    assert get(one, "/dapi/v1/depth", symbol="BTCUSD_PERP", limit="1000")[0] == 200
    assert get(one, "/fapi/v1/ping")[0] == 429
    assert get(one, "/api/v3/ping")[0] == 200


def test_who_goes_on_after_429_is_banned_for_two_minutes():
    one = desk(spot=1)
    statuses = [get(one, "/api/v3/ping", 1000)[0] for _ in range(REFUSALS_BEFORE_BAN + 2)]
    assert statuses == [200] + [429] * REFUSALS_BEFORE_BAN + [418]
    status, body, headers = get(one, "/api/v3/ping", MINUTE)
    assert (status, body["code"], headers["Retry-After"]) == (418, -1003, "61")
    assert f"IP banned until {1000 + BAN_S * 1000}" in body["msg"]
    assert get(one, "/api/v3/ping", 1000 + BAN_S * 1000)[0] == 200


def symbols(path, **query):
    return get(desk(), path, **query)[1]["symbols"]


def test_spot_symbols_have_the_keys_clients_read():
    (one,) = symbols("/api/v3/exchangeInfo", symbols='["BTCUSDT"]')
    assert (one["status"], one["baseAsset"], one["quoteAsset"], one["permissionSets"]) == ("TRADING", "BTC", "USDT", [["SPOT"]])
    assert (one["filters"][0]["filterType"], one["filters"][0]["tickSize"]) == ("PRICE_FILTER", "0.01000000")
    assert (one["filters"][1]["filterType"], one["filters"][1]["stepSize"]) == ("LOT_SIZE", "0.00100000")
    assert (one["filters"][2]["filterType"], one["filters"][2]["minNotional"]) == ("NOTIONAL", "5.00000000")
    assert get(desk(), "/api/v3/exchangeInfo", symbol="BTCUSDT")[2]["X-MBX-USED-WEIGHT-1M"] == "20"


def test_futures_symbols_have_the_keys_clients_read():
    (linear,) = symbols("/fapi/v1/exchangeInfo")
    assert (linear["status"], linear["contractType"], linear["marginAsset"]) == ("TRADING", "PERPETUAL", "USDT")
    assert linear["filters"][0]["tickSize"] == "0.01"
    assert linear["filters"][2] == {"filterType": "MIN_NOTIONAL", "notional": "5"}
    (inverse,) = symbols("/dapi/v1/exchangeInfo")
    assert (inverse["contractStatus"], inverse["pair"], inverse["marginAsset"], inverse["contractSize"]) == (
        "TRADING",
        "BTCUSD",
        "BTC",
        100,
    )
    assert [known["filterType"] for known in inverse["filters"]] == ["PRICE_FILTER", "LOT_SIZE"]


def test_dated_contracts_are_delivered_at_eight_on_the_day_in_their_name():
    infos = [SymbolInfo(name, 0, 0, DepthSnapshot(1, None, None, (), ())) for name in ("ETHUSD_210625", "ETHUSD_NONSENSE", "ODD")]
    dated, odd, nameless = exchange_info(Market.COINM, infos, 0)["symbols"]
    assert (dated["contractType"], dated["deliveryDate"], dated["contractSize"]) == ("CURRENT_QUARTER", 1_624_608_000_000, 10)
    assert odd["deliveryDate"] == 4_133_404_800_000
    assert dated["filters"][0]["tickSize"] == "1"
    assert nameless["baseAsset"] == "ODD"
    assert exchange_info(Market.SPOT, infos, 0)["symbols"][0]["filters"][0]["tickSize"] == "1.00000000"
