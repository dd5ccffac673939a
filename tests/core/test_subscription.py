import json

from twintape.core.markets import Market
from twintape.core.subscription import connection_url, subscription_messages


def many(count):
    return [f"symbol{number:05d}usdt@depth@100ms" for number in range(count)]


def test_few_streams_stand_in_the_url_and_many_are_subscribed_by_message():
    url, messages = connection_url(Market.SPOT, many(3))
    assert messages == []
    assert url.endswith("symbol00002usdt@depth@100ms")
    url, messages = connection_url(Market.SPOT, many(500))
    assert url == "wss://stream.binance.com:9443/stream"
    assert all(len(message) < 4000 for message in messages)
    assert [name for message in messages for name in json.loads(message)["params"]] == many(500)
    assert [json.loads(message)["id"] for message in messages] == list(range(1, len(messages) + 1))


def test_non_ascii_symbols_are_percent_encoded_in_the_url():
    url, _ = connection_url(Market.SPOT, ["币安人生usdt@depth@100ms"])
    assert url.isascii()
    assert "%E5%B8%81" in url


def test_no_streams_need_no_message_and_ids_go_on_where_the_last_ended():
    assert subscription_messages([], 5) == []
    messages = subscription_messages(many(200), 7, "UNSUBSCRIBE")
    assert [json.loads(message)["id"] for message in messages] == [7, 8]
    assert {json.loads(message)["method"] for message in messages} == {"UNSUBSCRIBE"}
