from urllib.parse import parse_qs, unquote, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twintape.core.errors import ConfigError
from twintape.core.markets import RULES, Market, depth_url, depth_weight, exchange_info_url, stream_url

WEIGHTS = [
    (Market.SPOT, [(1, 5), (100, 5), (101, 25), (500, 25), (501, 50), (1000, 50), (1001, 250), (5000, 250)]),
    (Market.USDM, [(5, 2), (50, 2), (51, 5), (100, 5), (101, 10), (500, 10), (501, 20), (1000, 20)]),
    (Market.COINM, [(5, 2), (50, 2), (51, 5), (100, 5), (101, 10), (500, 10), (501, 20), (1000, 20)]),
]


def test_every_market_has_its_rules():
    assert set(RULES) == set(Market)


@pytest.mark.parametrize(("market", "word"), [(Market.SPOT, "spot"), (Market.USDM, "usdm"), (Market.COINM, "coinm")])
def test_a_market_is_its_word(market, word):
    assert str(market) == word
    assert Market(word) is market


def test_only_spot_ids_are_contiguous():
    assert {market for market in Market if RULES[market].contiguous_ids} == {Market.SPOT}


def test_the_futures_markets_share_one_budget_of_request_weight():
    assert RULES[Market.USDM].weight_pool == RULES[Market.COINM].weight_pool != RULES[Market.SPOT].weight_pool


@pytest.mark.parametrize("market", Market)
def test_the_deepest_snapshot_has_a_weight_and_fits_the_budget(market):
    rules = RULES[market]
    assert rules.depth_weights[-1][0] == rules.depth_limit
    assert list(rules.depth_weights) == sorted(rules.depth_weights)
    assert depth_weight(market, rules.depth_limit) < rules.weight_per_minute


@pytest.mark.parametrize("market", Market)
def test_a_pong_is_due_after_more_than_one_ping(market):
    assert RULES[market].pong_deadline_s > RULES[market].ping_interval_s


@pytest.mark.parametrize(("market", "weights"), WEIGHTS)
def test_a_snapshot_costs_the_weight_of_the_next_deeper_step(market, weights):
    assert [(limit, depth_weight(market, limit)) for limit, _ in weights] == weights


@pytest.mark.parametrize("market", Market)
def test_a_snapshot_deeper_than_the_market_serves_is_refused_with_both_numbers(market):
    deepest = RULES[market].depth_limit
    with pytest.raises(ConfigError, match=rf"{market} serves at most {deepest} .* asked for {deepest + 1}"):
        depth_weight(market, deepest + 1)


@pytest.mark.parametrize(
    ("market", "url"),
    [
        (Market.SPOT, "https://api.binance.com/api/v3/depth?symbol=BTCUSDT&limit=5000"),
        (Market.USDM, "https://fapi.binance.com/fapi/v1/depth?symbol=BTCUSDT&limit=5000"),
        (Market.COINM, "https://dapi.binance.com/dapi/v1/depth?symbol=BTCUSDT&limit=5000"),
    ],
)
def test_a_snapshot_is_asked_for_at_the_market_s_own_path(market, url):
    assert depth_url(market, "BTCUSDT", 5000) == url


def test_another_base_replaces_the_host_and_keeps_the_path():
    assert depth_url(Market.USDM, "A", 5, base="http://127.0.0.1:1") == "http://127.0.0.1:1/fapi/v1/depth?symbol=A&limit=5"
    assert exchange_info_url(Market.COINM, base="http://127.0.0.1:1") == "http://127.0.0.1:1/dapi/v1/exchangeInfo"
    assert stream_url(Market.SPOT, base="ws://127.0.0.1:1") == "ws://127.0.0.1:1/stream"


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20))
def test_no_symbol_can_break_out_of_the_query(symbol):
    url = urlsplit(depth_url(Market.SPOT, symbol, 100))
    assert url.path == "/api/v3/depth"
    assert not url.fragment
    assert parse_qs(url.query, keep_blank_values=True) == {"symbol": [symbol], "limit": ["100"]}
    assert url.query.isascii()


@pytest.mark.parametrize(
    ("market", "url"),
    [
        (Market.SPOT, "https://api.binance.com/api/v3/exchangeInfo"),
        (Market.USDM, "https://fapi.binance.com/fapi/v1/exchangeInfo"),
        (Market.COINM, "https://dapi.binance.com/dapi/v1/exchangeInfo"),
    ],
)
def test_the_symbol_list_is_at_the_market_s_own_path(market, url):
    assert exchange_info_url(market) == url


@pytest.mark.parametrize(
    ("market", "streams", "url"),
    [
        (Market.SPOT, [], "wss://stream.binance.com:9443/stream"),
        (Market.SPOT, ["btcusdt@depth@100ms"], "wss://stream.binance.com:9443/stream?streams=btcusdt@depth@100ms"),
        (Market.USDM, ["a@depth", "!bookTicker"], "wss://fstream.binance.com/public/stream?streams=a@depth/!bookTicker"),
        (Market.COINM, ["btcusd_perp@depth"], "wss://dstream.binance.com/stream?streams=btcusd_perp@depth"),
        (Market.SPOT, ["币usdt@depth"], "wss://stream.binance.com:9443/stream?streams=%E5%B8%81usdt@depth"),
    ],
)
def test_a_combined_connection_names_its_streams(market, streams, url):
    assert stream_url(market, streams) == url


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20), min_size=1, max_size=5))
def test_no_stream_name_can_pass_for_two_or_end_the_query(names):
    url = urlsplit(stream_url(Market.SPOT, names))
    assert url.path == "/stream"
    assert [unquote(part) for part in url.query.removeprefix("streams=").split("/")] == names
