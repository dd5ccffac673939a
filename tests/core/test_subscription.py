import itertools
import json

import pytest

from twintape.core.budget import SECOND_NS
from twintape.core.markets import Market
from twintape.core.subscription import (
    LIST_EVERY_NS,
    LIST_FIRST_NS,
    LISTS_MAX,
    Answer,
    Subscription,
    connection_url,
    subscription_messages,
)


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


# --- what the server has

S = SECOND_NS


class Server:
    """A connection's subscription and a server that answers it; `has` is what it lists."""

    def __init__(self, streams=("a@trade", "b@trade")):
        self.now = 100 * S
        self.subscription = Subscription(Market.SPOT, list(streams), base="ws://x")
        self.has = set(streams)
        self.subscription.opened(self.now)

    def sent(self, seconds=0.0, step_s=0.5):
        """Let time pass and return what was sent meanwhile."""
        messages = []
        for _ in range(max(1, round(seconds / step_s))):
            self.now += int(step_s * S) if seconds else 0
            self.subscription.look(self.now)
            while self.subscription.waiting:
                messages.append(json.loads(self.subscription.next_message()))
        return messages

    def say(self, request_id, result=None):
        return self.subscription.answer(json.dumps({"result": result, "id": request_id}).encode(), self.now)

    def list_now(self, most_s=LIST_EVERY_NS / S + 1):
        """Wait until the server is asked, and have it answer."""
        for _ in range(int(2 * most_s)):
            for message in self.sent(0.5):
                if message["method"] == "LIST_SUBSCRIPTIONS":
                    return self.say(message["id"], sorted(self.has))
                self.say(message["id"])
        raise AssertionError("never asked")


def test_a_server_is_asked_what_it_has_soon_after_the_opening_and_from_time_to_time():
    server = Server()
    assert server.sent(4.5) == []
    (first,) = server.sent(1)
    assert first == {"method": "LIST_SUBSCRIPTIONS", "id": 1}
    assert server.say(1, ["b@trade", "a@trade"]) == Answer(listing=True)
    assert server.sent(LIST_EVERY_NS / S - 2) == []
    assert [message["id"] for message in server.sent(3)] == [2]


def test_it_is_not_asked_while_a_change_is_under_way():
    server = Server(many(500))
    messages = server.sent(LIST_FIRST_NS / S * 4)
    assert {message["method"] for message in messages} == {"SUBSCRIBE"}
    assert not server.subscription.answered
    for message in messages:
        assert server.say(message["id"]) == Answer()
    assert server.subscription.answered
    assert server.sent(LIST_FIRST_NS / S - 1) == []
    assert [message["method"] for message in server.sent(2)] == ["LIST_SUBSCRIPTIONS"]
    assert server.subscription.answered  # a list is no change


def test_what_the_server_has_not_got_is_asked_for_again_at_growing_intervals():
    server = Server()
    server.has = {"a@trade", "x@trade"}
    times = []
    for _ in range(10):
        assert server.list_now() == Answer(listing=True, missing=("b@trade",), extra=("x@trade",))
        times.append(server.now / S)
        (again,) = server.sent()
        assert (again["method"], again["params"]) == ("SUBSCRIBE", ["b@trade"])
        server.say(again["id"])
    waits = [after - before for before, after in itertools.pairwise(times)]
    assert waits[0] <= 6
    assert waits[-1] >= LIST_EVERY_NS / S
    server.has = {"a@trade", "b@trade"}
    assert server.list_now() == Answer(listing=True)
    server.has = {"a@trade"}
    server.list_now()
    assert server.list_now(most_s=12).missing == ("b@trade",)  # a new trouble


def test_a_list_that_a_change_has_overtaken_says_nothing():
    server = Server()
    (asked,) = server.sent(6)
    server.subscription.change(["c@trade"], ["a@trade"], server.now)
    assert server.say(asked["id"], ["a@trade", "b@trade"]) == Answer()
    changes = server.sent()
    assert [(message["method"], message["params"]) for message in changes] == [
        ("SUBSCRIBE", ["c@trade"]),
        ("UNSUBSCRIBE", ["a@trade"]),
    ]
    for message in changes:
        server.say(message["id"])
    server.has = {"b@trade", "c@trade"}
    assert server.list_now(most_s=6) == Answer(listing=True)


def test_a_server_that_refuses_to_list_is_not_asked_again():
    server = Server()
    (asked,) = server.sent(6)
    error = b'{"error":{"code":2,"msg":"Invalid request"},"id":%d}' % asked["id"]
    assert server.subscription.answer(error, server.now) == Answer(listing=True, refused=True)
    assert server.sent(3 * LIST_EVERY_NS / S, step_s=10) == []


def test_a_server_that_never_answers_lists_holds_nothing_up_and_fills_no_memory():
    server = Server()
    asked = server.sent(2 * LISTS_MAX * LIST_EVERY_NS / S, step_s=10)
    assert len(asked) >= 2 * LISTS_MAX - 1
    assert server.subscription.answered
    assert len(server.subscription._list_ids) <= LISTS_MAX


@pytest.mark.parametrize(
    "payload",
    [
        b"{}",
        b'{"result":null}',
        b'"id"',
        b'{"id":1}',
        b'[{"id":1}]',
        b'{"id":',
        b'{"result":null,"id":1}' + b" " * (1 << 17),
        b"[" * 5000 + b'"id"',
    ],
    ids=range(8),
)
def test_what_is_no_answer_is_none(payload):
    assert Server().subscription.answer(payload, 0) is None


@pytest.mark.parametrize(
    ("payload", "refused"),
    [
        (b'{"id":7,"result":null}', False),
        (b'{"result":null,"id":"text"}', False),
        (b'{"result":[1],"id":7}', True),  # nobody asked for a list
        (b'{"error":{"code":3,"msg":"Invalid JSON"},"id":null}', True),
    ],
)
def test_answers_come_with_any_id_and_their_keys_in_any_order(payload, refused):
    assert Server().subscription.answer(payload, 0) == Answer(refused=refused)
