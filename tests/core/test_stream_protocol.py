import json

import pytest

from twintape.core.errors import ConfigError
from twintape.core.markets import Market
from twintape.core.stream_protocol import (
    CLIENT_MESSAGE_CHARACTERS_MAX,
    MessageRate,
    PingKeeper,
    StreamSession,
    Target,
    delivers,
    parse_target,
    shutdown_notice,
    text_frame,
    websocket_frame,
)

SECOND = 1_000_000_000
UUID = "a9b1c2d3-1234-4abc-9def-001122334455"


def session(market=Market.SPOT, *, combined=True, streams=()):
    return StreamSession(Target(market, "", combined, tuple(streams)))


def answer(request, **keywords):
    reaction = session(**keywords).handle(request if isinstance(request, str) else json.dumps(request))
    (reply,) = reaction.replies
    return json.loads(reply)


# --- addresses ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "combined", "streams"),
    [
        ("/ws", False, ()),
        ("/ws/", False, ()),
        ("/ws/0", False, ("0",)),
        ("/ws/btcusdt@depth", False, ("btcusdt@depth",)),
        ("/ws/a@depth/b@depth", False, ("a@depth", "b@depth")),
        ("/ws/a@depth/a@depth", False, ("a@depth",)),
        ("/stream", True, ()),
        ("/stream?streams=a@depth/b@trade", True, ("a@depth", "b@trade")),
        ("/stream?timeUnit=millisecond", True, ()),
        ("/stream?streams=%E5%B8%81usdt@depth", True, ("币usdt@depth",)),
        ("/stream?streams=", True, ()),
        ("/ws/a@depth?streams=b@depth", False, ("a@depth",)),
    ],
)
def test_a_path_says_which_streams_and_whether_frames_are_wrapped(path, combined, streams):
    target = parse_target(path, Market.SPOT)
    assert (target.combined, target.streams, target.microseconds) == (combined, streams, False)


@pytest.mark.parametrize(
    "path",
    [
        "/ws/a@depth?timeUnit=MICROSECOND",
        "/ws?timeUnit=microsecond",
        "/stream?streams=a@depth&timeUnit=MICROSECOND",
        "/stream?streams=a@depth?timeUnit=MICROSECOND",
    ],
)
def test_microseconds_are_understood_wherever_clients_put_them_and_only_on_spot(path):
    assert parse_target(path, Market.SPOT).microseconds
    assert not parse_target(path, Market.COINM).microseconds


@pytest.mark.parametrize(
    ("path", "market", "route"),
    [
        ("/spot/ws", Market.SPOT, ""),
        ("/coinm/stream", Market.COINM, ""),
        ("/usdm/stream", Market.USDM, ""),
        ("/usdm/public/ws", Market.USDM, "public"),
        ("/usdm/market/stream", Market.USDM, "market"),
        ("/usdm/private/ws", Market.USDM, "private"),
    ],
)
def test_a_prefix_chooses_the_market_and_on_usdm_a_route(path, market, route):
    target = parse_target(path)
    assert (target.market, target.route) == (market, route)


@pytest.mark.parametrize(
    ("path", "default"),
    [
        ("/ws", None),
        ("/", Market.SPOT),
        ("/spot", None),
        ("/wss", Market.SPOT),
        ("/public/ws", Market.SPOT),
        ("/market/ws", Market.COINM),
        ("/stream/a@depth", Market.SPOT),
        ("/stream?streams=" + "/".join(f"s{number}@depth" for number in range(1025)), Market.SPOT),
    ],
)
def test_any_other_path_is_not_served(path, default):
    with pytest.raises(ConfigError):
        parse_target(path, default)


@pytest.mark.parametrize(
    ("stream", "public"),
    [
        ("btcusdt@depth", True),
        ("btcusdt@depth@100ms", True),
        ("btcusdt@depth20@100ms", True),
        ("btcusdt@rpiDepth@500ms", True),
        ("btcusdt@bookTicker", True),
        ("!bookTicker", True),
        ("btcusdt@trade", True),
        ("btcusdt@aggTrade", False),
        ("btcusdt@markPrice@1s", False),
        ("!miniTicker@arr", False),
    ],
)
def test_usdm_routes_carry_their_own_kinds_and_the_unrouted_root_only_the_public_ones(stream, public):
    assert delivers(Market.USDM, "", stream) is public
    assert delivers(Market.USDM, "public", stream) is public
    assert delivers(Market.USDM, "market", stream) is not public
    assert not delivers(Market.USDM, "private", stream)
    assert delivers(Market.SPOT, "", stream)
    assert delivers(Market.COINM, "", stream)


# --- requests ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("request_id", [1, 0, 2**63 - 1, "abc", UUID, None])
@pytest.mark.parametrize("market", list(Market))
def test_an_id_comes_back_as_it_was_sent(market, request_id):
    assert answer({"method": "LIST_SUBSCRIPTIONS", "id": request_id}, market=market) == {"result": [], "id": request_id}


@pytest.mark.parametrize("request_id", [True, 1.5, 2**63, "x" * 37, "a b", "", [], {}])
def test_an_id_of_another_kind_is_refused(request_id):
    error = answer({"method": "LIST_SUBSCRIPTIONS", "id": request_id})
    assert error == {"error": {"code": 2, "msg": "Invalid request: request ID must be an unsigned integer"}}


def test_negative_ids_are_for_spot_only():
    assert answer({"method": "LIST_SUBSCRIPTIONS", "id": -1}) == {"result": [], "id": -1}
    assert answer({"method": "LIST_SUBSCRIPTIONS", "id": -1}, market=Market.USDM)["error"]["code"] == 2


def test_a_missing_id_is_answered_with_null():
    assert answer({"method": "LIST_SUBSCRIPTIONS"}) == {"result": [], "id": None}


@pytest.mark.parametrize(
    ("request_", "code", "text"),
    [
        ({"id": 1}, 2, "missing field `method`"),
        ({"method": "subscribe", "id": 1}, 2, "unknown variant `subscribe`, expected one of `SUBSCRIBE`, `UNSUBSCRIBE`"),
        ({"method": ["SUBSCRIBE"], "id": 1}, 2, "unknown variant"),
        ([], 2, "expected an object"),
        ({"method": "SUBSCRIBE", "id": 1}, 2, "missing field `params`"),
        ({"method": "UNSUBSCRIBE", "params": [], "id": 1}, 2, "missing field `params`"),
        ({"method": "SUBSCRIBE", "params": "a@depth", "id": 1}, 2, "params must be an array"),
        ({"method": "SUBSCRIBE", "params": [1], "id": 1}, 2, "invalid stream"),
        ({"method": "SUBSCRIBE", "params": [""], "id": 1}, 2, "invalid stream"),
        ({"method": "GET_PROPERTY", "params": ["combined", 1], "id": 1}, 2, "too many parameters"),
        ({"method": "SET_PROPERTY", "params": ["combined", True, 1], "id": 1}, 2, "too many parameters"),
        ({"method": "GET_PROPERTY", "params": [], "id": 1}, 2, "property name must be a string"),
        ({"method": "GET_PROPERTY", "params": [1], "id": 1}, 2, "property name must be a string"),
        ({"method": "GET_PROPERTY", "params": ["colour"], "id": 1}, 0, "Unknown property"),
        ({"method": "SET_PROPERTY", "params": ["combined"], "id": 1}, 1, "expected Boolean"),
        ({"method": "SET_PROPERTY", "params": ["combined", 1], "id": 1}, 1, "expected Boolean"),
        ("{", 3, "Invalid JSON: expected value at line 1 column 2"),
        ("[" * 7000, 3, "Invalid JSON"),
    ],
)
def test_a_wrong_request_gets_the_documented_error(request_, code, text):
    error = answer(request_)["error"]
    assert error["code"] == code
    assert text in error["msg"]


def test_invalid_json_closes_the_connection_on_futures_and_not_on_spot():
    assert session().handle("nonsense").close_code is None
    assert session(Market.USDM).handle("nonsense").close_code == 1008


def test_a_message_over_8000_characters_drops_the_connection_unanswered():
    request = json.dumps({"method": "LIST_SUBSCRIPTIONS", "id": 1})
    assert session().handle(request.ljust(CLIENT_MESSAGE_CHARACTERS_MAX)).replies
    reaction = session().handle(request.ljust(CLIENT_MESSAGE_CHARACTERS_MAX + 1))
    assert reaction.drop
    assert not reaction.replies


def test_subscriptions_are_listed_in_order_once_each_known_or_not():
    one = session(streams=["a@depth"])
    for request in (
        {"method": "SUBSCRIBE", "params": ["nosuch@depth", "b@depth", "a@depth"], "id": 1},
        {"method": "UNSUBSCRIBE", "params": ["b@depth", "never@depth"], "id": 2},
    ):
        assert json.loads(one.handle(json.dumps(request)).replies[0]) == {"result": None, "id": request["id"]}
    assert one.streams == ("a@depth", "nosuch@depth")
    assert one.delivers("a@depth")
    assert not one.delivers("b@depth")


def test_a_name_in_the_path_that_is_no_stream_is_subscribed_and_told_apart():
    session = StreamSession(parse_target("/ws/0", Market.SPOT))
    session.handle('{"method":"SUBSCRIBE","params":["!bookTicker","x@depth"],"id":1}')
    assert session.streams == ("0", "!bookTicker", "x@depth")
    assert session.named_streams == ("!bookTicker", "x@depth")


def test_a_connection_takes_1024_streams_and_of_a_request_beyond_nothing():
    one = session(streams=[f"s{number}@depth" for number in range(1023)])
    refused = one.handle(json.dumps({"method": "SUBSCRIBE", "params": ["x@depth", "y@depth"], "id": 1}))
    assert json.loads(refused.replies[0])["error"]["code"] == 2
    assert len(one.streams) == 1023
    one.handle(json.dumps({"method": "SUBSCRIBE", "params": ["x@depth"], "id": 2}))
    assert len(one.streams) == 1024


def test_wrapping_follows_the_path_and_can_be_changed():
    raw = session(combined=False)
    get = json.dumps({"method": "GET_PROPERTY", "params": ["combined"], "id": 2})
    assert json.loads(raw.handle(get).replies[0]) == {"result": False, "id": 2}
    raw.handle(json.dumps({"method": "SET_PROPERTY", "params": ["combined", True], "id": 3}))
    assert json.loads(raw.handle(get).replies[0]) == {"result": True, "id": 2}
    assert raw.combined
    assert session().combined


def test_the_shutdown_notice_has_a_raw_and_a_combined_form():
    assert json.loads(shutdown_notice(5, combined=False)) == {"e": "serverShutdown", "E": 5}
    assert json.loads(shutdown_notice(5, combined=True)) == {"stream": "!serverShutdown", "data": {"e": "serverShutdown", "E": 5}}


# --- limits and pings --------------------------------------------------------------------------------------------------------


def test_the_sixth_message_within_any_second_is_too_many():
    rate = MessageRate(5)
    times = [0, SECOND // 5, 2 * SECOND // 5, 3 * SECOND // 5, SECOND - 1]
    assert all(rate.allow(time) for time in times)
    assert rate.allow(SECOND)  # the one at 0 is a whole second ago
    assert not rate.allow(SECOND + 1)


def test_pings_come_at_intervals_and_carry_the_time():
    keeper = PingKeeper(20 * SECOND, 60 * SECOND, 20 * SECOND)
    assert keeper.due(20 * SECOND - 1, 111) is None
    assert keeper.due(20 * SECOND, 1770123456789) == b"1770123456789"
    assert keeper.due(20 * SECOND, 1770123456789) is None
    assert keeper.wake_ns() == 40 * SECOND
    assert keeper.sent_count == 1


def test_only_a_pong_with_the_payload_of_a_ping_keeps_the_connection():
    keeper = PingKeeper(20 * SECOND, 60 * SECOND, 20 * SECOND)
    keeper.due(20 * SECOND, 1)
    keeper.due(40 * SECOND, 2)
    keeper.due(60 * SECOND, 3)
    keeper.pong(b"")
    assert keeper.wake_ns() == 80 * SECOND
    assert not keeper.expired(80 * SECOND - 1)
    assert keeper.expired(80 * SECOND)
    keeper.pong(b"2")
    assert not keeper.expired(80 * SECOND)
    assert keeper.expired(120 * SECOND)


@pytest.mark.parametrize(
    ("size", "head"), [(125, "817d"), (126, "817e007e"), (65535, "817effff"), (65536, "817f0000000000010000")]
)
def test_frames_have_the_shortest_length_field(size, head):
    assert text_frame(b"x" * size) == bytes.fromhex(head) + b"x" * size
    assert websocket_frame(10, b"")[0] == 0x8A
