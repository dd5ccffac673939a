import pytest

from twintape.core.client import Client, client_streams, parse_client
from twintape.core.errors import ConfigError


def test_a_client_is_an_address_and_what_stands_behind_it():
    text = "wss://stream.binance.com:443/ name=tokyo source=10.0.0.2 stream=depth also=ethusdt@trade+bnbusdt@depth"
    assert parse_client(text, "a") == Client(
        "tokyo", "wss://stream.binance.com:443", "10.0.0.2", "depth", ("ethusdt@trade", "bnbusdt@depth")
    )


def test_without_an_address_it_is_the_markets_own():
    assert parse_client("", "a") == Client("a")
    assert parse_client("source=10.0.0.2", "b") == Client("b", source="10.0.0.2")
    assert parse_client("wss://x/?key=value", "b").url == "wss://x/?key=value"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("https://x", "websocket address"),
        ("x", "websocket address"),
        ("ws://x colour=red", "colour=red"),
        ("ws://x name=", "name="),
        ("ws://x fast", "fast"),
        ("ws://x stream=trade", "no depth stream"),
    ],
)
def test_what_is_no_client_is_told(text, words):
    with pytest.raises(ConfigError, match=words):
        parse_client(text, "a")


def test_a_client_listens_to_its_own_speed_and_to_more():
    assert client_streams(Client("a"), ["BTCUSDT", "币USDT"], "depth@100ms") == ["btcusdt@depth@100ms", "币usdt@depth@100ms"]
    assert client_streams(Client("a", stream="depth", also=("x@trade",)), ["BTCUSDT"], "depth@100ms") == [
        "btcusdt@depth",
        "x@trade",
    ]
