import pytest
from hypothesis import given
from hypothesis import strategies as st

from twintape.core.errors import ConfigError
from twintape.core.markets import Market
from twintape.core.settings import MarketSettings, RecordSettings, collector_name, market_settings, parse_record_settings, shards

TOML = """
collector = "tokyo"
store = "s3://bucket/prefix"
spool = "/var/lib/twintape"
[[markets]]
market = "spot"
symbols = ["btcusdt", "ETHUSDT", "BTCUSDT", "币安人生USDT"]
streams = ["depth@100ms", "bookTicker", "depth@100ms"]
[[markets]]
market = "usdm"
symbols = ["BTCUSDT"]
websocket = "wss://example.com/public/stream"
rest = "https://example.com/"
"""


def test_a_configuration_names_markets_symbols_and_streams():
    settings = parse_record_settings(TOML)
    spot, usdm = settings.markets
    assert spot.symbols == ("BTCUSDT", "ETHUSDT", "币安人生USDT")
    assert spot.stream_names()[:3] == ["btcusdt@depth@100ms", "btcusdt@bookTicker", "ethusdt@depth@100ms"]
    assert len(spot.stream_names()) == 6
    assert usdm.stream_names() == ["btcusdt@depth@100ms"]
    assert (usdm.market, usdm.websocket, usdm.rest) == (Market.USDM, "wss://example.com/public", "https://example.com")
    assert settings.store == "s3://bucket/prefix"


def test_the_command_line_wins_over_the_file():
    assert parse_record_settings(TOML, overrides={"collector": "paris"}).collector == "paris"


def test_settings_are_frozen():
    with pytest.raises(AttributeError):
        parse_record_settings(TOML).collector = "x"


def test_a_market_wide_stream_needs_no_symbols():
    entry = market_settings(MarketSettings(market=Market.USDM, streams=("!bookTicker",)))
    assert entry.stream_names() == ["!bookTicker"]


@pytest.mark.parametrize(
    "symbol",
    ["", "BTC USDT", "BTC\tUSDT", "BTC\n", "BTC\x00", "BTC\u3000USDT", "BTC/USDT", "A?B", "A#B", "btcusdt@trade", "A&B", "A%B"],
)
def test_a_symbol_with_white_space_or_url_characters_is_refused(symbol):
    with pytest.raises(ConfigError, match="cannot be subscribed"):
        market_settings(MarketSettings(market=Market.SPOT, symbols=(symbol,)))


@pytest.mark.parametrize("symbol", ["!x", 'A"B', "A\\B", "A\u202eB", "\ud800"])
def test_a_symbol_that_could_not_stand_in_a_frame_or_a_key_is_refused(symbol):
    with pytest.raises(ConfigError, match="cannot be subscribed"):
        market_settings(MarketSettings(market=Market.SPOT, symbols=(symbol,)))


@pytest.mark.parametrize("symbol", ["A" * 65, "币" * 22])
def test_a_symbol_that_is_too_long_is_refused(symbol):
    with pytest.raises(ConfigError, match="cannot be subscribed"):
        market_settings(MarketSettings(market=Market.SPOT, symbols=(symbol,)))


@pytest.mark.parametrize(
    "symbol", ["1000SATSUSDT", "BTCUSD_PERP", "BTC-251123-126000-C", "牛来USDT", "币" * 21, "ÅUSDT", "A" * 64]
)
def test_every_other_symbol_can(symbol):
    assert market_settings(MarketSettings(market=Market.SPOT, symbols=(symbol,))).symbols == (symbol,)


@pytest.mark.parametrize("stream", ["", "depth 100", "depth/x", "depth@100ms@x@y", "a?b", "x" * 49])
def test_a_stream_that_cannot_be_subscribed_is_refused(stream):
    with pytest.raises(ConfigError, match="stream"):
        market_settings(MarketSettings(market=Market.SPOT, symbols=("A",), streams=(stream,)))


@pytest.mark.parametrize("stream", ["depth", "depth@0ms", "kline_1m", "markPrice@1s", "kline_1d@+08:00", "!ticker@arr"])
def test_every_stream_binance_has_can(stream):
    assert stream in market_settings(MarketSettings(market=Market.SPOT, symbols=("A",), streams=(stream,))).streams


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("collector = ", "not TOML"),
        ('collector = "Tokyo"', "collector name"),
        ('collector = "x"', "nothing to record"),
        ('collector = "x"\nmarkets = [{market = "spot", symbols = []}]', "no symbols"),
        ('collector = "x"\nmarkets = [{market = "forex", symbols = ["A"]}]', "forex"),
        ('collector = "x"\nmarkets = [{market = "spot", symbols = ["A"]}, {market = "spot", symbols = ["B"]}]', "twice"),
        ('collector = "x"\nsymbols_minutes = 0\nmarkets = [{market = "spot", symbols = ["*USDT"]}]', "symbols_minutes is 0"),
        ('collector = "x"\nmarkets = [{market = "spot", symbols = ["PERPETUAL"]}]', "no contract types"),
        ('collector = "x"\ncolour = "red"', "colour"),
        ('collector = "x"\nuploads = "many"', "uploads"),
        ('collector = "x"\nstreams_per_connection = 1025', "between 1 and 1024"),
        ('collector = "x"\nrotate_hours = 24', "rotate_hours"),
        ('collector = "x"\nmetrics_port = -1', "metrics_port"),
        ('collector = "x"\nmarkets = [{market = "spot", symbols = ["A"], websocket = "https://x"}]', "websocket address"),
        ('collector = "x"\nmarkets = [{market = "spot", symbols = ["A"], rest = "https://x/?a=b"}]', "rest address"),
    ],
)
def test_a_wrong_configuration_is_refused_in_words(change, message):
    with pytest.raises(ConfigError, match=message):
        parse_record_settings(change)


@given(count=st.integers(0, 300), most=st.integers(1, 50))
def test_streams_are_spread_evenly_over_as_few_connections_as_possible(count, most):
    names = [str(number) for number in range(count)]
    groups = shards(names, most)
    assert [name for group in groups for name in group] == names
    assert len(groups) == -(-count // most)
    assert all(0 < len(group) <= most for group in groups)
    assert not groups or max(map(len, groups)) - min(map(len, groups)) <= 1


@given(st.text(max_size=60))
def test_any_host_name_makes_a_valid_collector_name(hostname):
    name = collector_name(hostname)
    assert parse_record_settings(TOML, overrides={"collector": name}).collector == name


@pytest.mark.parametrize(
    "line", ['proxy = "socks5://me:canary@host:1"', 'proxy = "http://me:canary@"', 'source_address = "here"']
)
def test_a_way_out_that_cannot_be_is_refused_without_its_password(line):
    with pytest.raises(ConfigError) as caught:
        parse_record_settings(f'collector = "a"\n{line}\nmarkets = [{{market = "spot", symbols = ["A"]}}]')
    assert "canary" not in str(caught.value)


def test_a_proxy_and_a_source_address_are_taken_as_they_are():
    text = 'collector = "a"\nproxy = "http://me:p@host:3128"\nsource_address = "10.0.0.5"\nmarkets = [{market = "spot", symbols = ["A"]}]'
    settings = parse_record_settings(text)
    assert (settings.proxy, settings.source_address) == ("http://me:p@host:3128", "10.0.0.5")


def test_a_sentinel_must_look_like_a_stream_and_connections_are_one_or_two():
    def toml(sentinel, connections):
        entry = f'{{market = "spot", symbols = ["BTCUSDT"], sentinel = "{sentinel}"}}'
        return f'collector = "tokyo"\nconnections = {connections}\nmarkets = [{entry}]'

    settings = parse_record_settings(toml("ethusdt@depth5@100ms", 2))
    assert (settings.connections, settings.markets[0].sentinel) == (2, "ethusdt@depth5@100ms")
    with pytest.raises(ConfigError, match="cannot be subscribed"):
        parse_record_settings(toml("not a stream", 1))
    with pytest.raises(ConfigError, match="connections is 3"):
        parse_record_settings(toml("", 3))


def test_the_store_of_who_names_none_is_the_one_that_all_other_commands_look_at():
    from twintape.cli.common import DEFAULT_STORE
    from twintape.core.night_settings import NightlySettings

    assert RecordSettings(collector="a").store == DEFAULT_STORE == NightlySettings().store
