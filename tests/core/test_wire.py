import base64
import json
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twintape.core import wire
from twintape.core.errors import ConfigError, WireError
from twintape.core.markets import Market
from twintape.core.wire import (
    OTHER,
    SESSION,
    SHUTDOWN,
    SNAPSHOT,
    TWINTAPE,
    DepthEvent,
    RecordedSnapshot,
    decode_depth,
    decode_snapshot,
    depth_ids,
    event_time_us,
    is_depth,
    is_shutdown_notice,
    normal_symbol,
    parse_control,
    plausible_symbol,
    recordable,
    recorded_snapshot,
    split_stream,
    stream_name,
    stream_of,
    unwrap,
)

# Frames as the exchange sent them, levels shortened: 2024, 2026 with `ps` and `st`, and the documentation's own examples.
SPOT = (
    b'{"e":"depthUpdate","E":1725382961514,"s":"BTCUSDT","U":51157289108,"u":51157289113,'
    b'"b":[["57689.19000000","0.25344000"],["57610.99000000","0.02000000"]],"a":[["57711.00000000","6.41529000"]]}'
)
USDM = (
    b'{"e":"depthUpdate","E":1787592539515,"T":1787592539514,"s":"BTCUSDT","ps":"BTCUSDT","U":11377001539649,'
    b'"u":11377001557469,"pu":11377001539214,"b":[["78562.70","0.775"]],"a":[["78562.80","1.848"]],"st":1}'
)
COINM = (
    b'{"e":"depthUpdate","E":1591270260907,"T":1591270260891,"s":"BTCUSD_200626","ps":"BTCUSD","U":17285681,'
    b'"u":17285702,"pu":17285675,"b":[["9517.6","10"]],"a":[["9518.5","45"]],"st":2}'
)
RAW = {Market.SPOT: SPOT, Market.USDM: USDM, Market.COINM: COINM}
EVENTS = {
    Market.SPOT: DepthEvent(
        symbol="BTCUSDT",
        event_time_us=1725382961514_000,
        transaction_time_us=None,
        prev_update_id=51157289107,
        first_update_id=51157289108,
        final_update_id=51157289113,
        bids=(("57689.19000000", "0.25344000"), ("57610.99000000", "0.02000000")),
        asks=(("57711.00000000", "6.41529000"),),
    ),
    Market.USDM: DepthEvent(
        symbol="BTCUSDT",
        event_time_us=1787592539515_000,
        transaction_time_us=1787592539514_000,
        prev_update_id=11377001539214,
        first_update_id=11377001539649,
        final_update_id=11377001557469,
        bids=(("78562.70", "0.775"),),
        asks=(("78562.80", "1.848"),),
    ),
    Market.COINM: DepthEvent(
        symbol="BTCUSD_200626",
        event_time_us=1591270260907_000,
        transaction_time_us=1591270260891_000,
        prev_update_id=17285675,
        first_update_id=17285681,
        final_update_id=17285702,
        bids=(("9517.6", "10"),),
        asks=(("9518.5", "45"),),
    ),
}
SHUTDOWN_RAW = b'{"e":"serverShutdown","E":1770123456789}'
SHUTDOWN_COMBINED = b'{"stream":"!serverShutdown","data":{"e":"serverShutdown","E":1770123456789}}'
CONTROL_FRAMES = [
    b'{"result":null,"id":1}',
    b'{"id":1,"result":null}',
    b'{"result":["btcusdt@depth@100ms"],"id":3}',
    b'{"result":true,"id":2}',
    b'{"code":0,"msg":"Unknown property"}',
    b'{"error":{"code":2,"msg":"Invalid request: invalid stream"},"id":2}',
    b'{"error":{"code":3,"msg":"Invalid JSON: expected value at line 1 column 1"}}',
]


def combined(frame: bytes, name: str = "btcusdt@depth@100ms") -> bytes:
    return b'{"stream":"' + name.encode() + b'","data":' + frame + b"}"


def depth(market: Market = Market.SPOT, **changed: str) -> bytes:
    """Return a small frame; `changed` replaces the JSON text of a key, adds one, or (with an empty text) leaves it out."""
    keys = {"e": '"depthUpdate"', "E": "1725382961514", "s": '"BTCUSDT"', "U": "8", "u": "9", "b": "[]", "a": '[["5.10","0.20"]]'}
    if market is not Market.SPOT:
        keys |= {"T": "1725382961513", "pu": "7"}
    keys |= changed
    return ("{" + ",".join(f'"{key}":{text}' for key, text in keys.items() if text) + "}").encode()


def body(**changed: str) -> bytes:
    keys = {"lastUpdateId": "160", "bids": '[["0.0024","10"]]', "asks": '[["0.0026","100"]]'} | changed
    return ("{" + ",".join(f'"{key}":{text}' for key, text in keys.items() if text) + "}").encode()


# Bytes that look like frames in parts, so that the scanners are not only shown noise.
PIECES = [
    *(b'{"stream":"', b'","data":', b'"e":"depthUpdate"', b'"E":', b'"s":"', b'"U":', b'"u":', b'"pu":', b'"b":[["', b'"a":[]'),
    *(b'{"stream":"!twintape@', b'{"stream":"!twintape@snapshot",', b'"symbol":"', b'"status":', b'"body":', b'"base64":"'),
    *(b'"request_time_ns":1,', b'"response_time_ns":2,', b"1e999", b'"lastUpdateId":160', b"-1", b"1725382961514", b"9" * 40),
    *(
        b"\\ud800",
        b"\xff",
        b"\x00",
        b"{",
        b"}",
        b"[",
        b"]",
        b'"',
        b",",
        b"@depth",
        b"depthSnapshot",
        "币".encode(),
        b"../x",
        b" ",
    ),
]
FRAMES = st.one_of(st.binary(max_size=300), st.lists(st.sampled_from(PIECES), max_size=24).map(b"".join))


@st.composite
def damaged_frames(draw):
    """Return a real frame with a few bytes replaced, removed or inserted."""
    frame = bytearray(
        draw(st.sampled_from([*RAW.values(), *map(combined, RAW.values()), body(), SHUTDOWN_COMBINED, SNAPSHOT_LINE]))
    )
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(frame)))
        frame[at : at + draw(st.integers(0, 8))] = draw(st.one_of(st.binary(max_size=4), st.sampled_from(PIECES)))
    return bytes(frame)


# --- names ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("symbol", "plausible"),
    [
        ("BTCUSDT", True),
        ("BTCUSD_200626", True),
        ("币安人生USDT", True),
        ("../X", True),  # percent-encoded in keys
        ("A/B", True),
        ("%2E", True),
        (" ", True),
        ("A" * 64, True),
        ("币" * 21, True),
        ("", False),
        ("A" * 65, False),
        ("币" * 22, False),
        ("!session", False),
        ("!", False),
        ("A\x00B", False),
        ("A\x1f", False),
        ("A\n", False),
        ("\x7f", False),
        ("A\x9f", False),
        ("A\xa0", True),
        ("\ud800", False),
        ("A\udcff", False),
    ],
)
def test_a_symbol_is_plausible_if_it_may_stand_in_a_key(symbol, plausible):
    assert plausible_symbol(symbol) is plausible


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("btcusdt@depth", ("BTCUSDT", "depth")),
        ("btcusdt@depth@100ms", ("BTCUSDT", "depth@100ms")),
        ("btcusd_perp@depth@0ms", ("BTCUSD_PERP", "depth@0ms")),
        ("币安人生usdt@depth@100ms", ("币安人生USDT", "depth@100ms")),
        ("ı@depth", ("ı", "depth")),  # only ASCII letters have cases here
        ("../x@depth", ("../X", "depth")),
        ("!bookTicker", (SESSION, "!bookTicker")),
        ("!miniTicker@arr", (SESSION, "!miniTicker@arr")),
        ("!session@depth", (SESSION, "!session@depth")),
        ("@depth", (SESSION, "@depth")),
        ("btcusdt@", (SESSION, "btcusdt@")),
        ("btcusdt", (SESSION, "btcusdt")),
        ("", (SESSION, "")),
        ("a\x00@depth", (SESSION, "a\x00@depth")),
        ("\ud800@depth", (SESSION, "\ud800@depth")),
        ("a" * 65 + "@depth", (SESSION, "a" * 65 + "@depth")),
    ],
)
def test_a_stream_name_splits_into_symbol_and_stream(name, parts):
    assert split_stream(name) == parts
    assert stream_name(*parts) == name


@given(st.text(max_size=80))
def test_splitting_loses_nothing_but_the_case_of_ascii_letters(name):
    symbol, stream = split_stream(name)
    joined = stream_name(symbol, stream)
    assert joined.encode(errors="surrogatepass").lower() == name.encode(errors="surrogatepass").lower()
    assert split_stream(joined) == (symbol, stream)


@pytest.mark.parametrize(
    ("typed", "symbol"), [("btcUSDT", "BTCUSDT"), ("币安人生usdt", "币安人生USDT"), ("straße", "STRAßE"), (SESSION, SESSION)]
)
def test_a_typed_symbol_is_spelled_as_keys_spell_it(typed, symbol):
    assert normal_symbol(typed) == symbol


@pytest.mark.parametrize("typed", ["", "!other", "A\n", "A" * 65, "\ud800"])
def test_what_can_be_no_symbol_is_refused(typed):
    with pytest.raises(ConfigError, match="not a symbol"):
        normal_symbol(typed)


@pytest.mark.parametrize("stream", ["depth", "depth@100ms", "depth@0ms", "depth@1000ms"])
def test_deltas_of_any_speed_are_depth_streams(stream):
    assert is_depth(stream)


@pytest.mark.parametrize(
    "stream",
    [
        "depth5",
        "depth20@100ms",
        "depthSnapshot",
        "rpiDepth@500ms",
        "depth@",
        "depth@ms",
        "depth@100",
        "depth@100ms\n",
        "depth@١ms",
        "xdepth",
        "",
    ],
)
def test_partial_and_other_books_are_no_depth_streams(stream):
    assert not is_depth(stream)


# --- scanning ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("market", Market)
def test_a_combined_frame_is_filed_under_its_own_name(market):
    assert stream_of(combined(RAW[market])) == "btcusdt@depth@100ms"


def test_a_chinese_name_is_filed_as_the_exchange_spells_it():
    assert stream_of(combined(SPOT, "币安人生usdt@depth@100ms")) == "币安人生usdt@depth@100ms"


def test_a_raw_depth_frame_is_filed_under_the_stream_its_connection_subscribed():
    assert stream_of(USDM, {"BTCUSDT": "btcusdt@depth@0ms"}) == "btcusdt@depth@0ms"
    assert stream_of(USDM, {"ETHUSDT": "ethusdt@depth@0ms"}) == "btcusdt@depth"
    assert stream_of(USDM) == "btcusdt@depth"


@pytest.mark.parametrize(
    ("frame", "name"),
    [
        (b'{"e":"trade","E":1,"s":"BTCUSDT"}', "btcusdt@trade"),
        (b'{"e":"aggTrade","E":1,"s":"BTCUSDT"}', "btcusdt@aggTrade"),
        (b'{"e":"markPriceUpdate","E":1,"s":"BTCUSDT"}', "btcusdt@markPrice"),
        (b'{"e":"forceOrder","E":1,"o":{"s":"BTCUSDT"}}', "btcusdt@forceOrder"),
        (b'{"e":"bookTicker","u":1,"s":"BTCUSD_PERP"}', "btcusd_perp@bookTicker"),
        (b'{"u":1,"s":"BTCUSDT","b":"1","B":"2","a":"3","A":"4"}', "btcusdt@bookTicker"),
        (b'{"u":1,"s":"BTCUSDT","b":"1"}', OTHER),
        (b'{"s":"BTCUSDT","B":"2"}', OTHER),
        ('{"e":"trade","s":"币USDT"}'.encode(), "币usdt@trade"),
        (SHUTDOWN_RAW, SHUTDOWN),
        (SHUTDOWN_COMBINED, SHUTDOWN),
        (b'[{"e":"24hrTicker","s":"ETHBTC"},{"e":"24hrTicker","s":"LTCBTC"}]', OTHER),
        (b'{"e":"trade","s":"!session"}', OTHER),
        (b'{"e":"trade","s":"A\x01"}', OTHER),
        (b'{"e":"trade","s":"\\u5e01USDT"}', OTHER),
        (b'{"e":"trade","s":"' + b"A" * 65 + b'"}', OTHER),
        (b'{"e":"trade","s":"\xff"}', OTHER),
        (b"", OTHER),
        (b"<html>502</html>", OTHER),
        (b"1787592539515", OTHER),
        *((frame, OTHER) for frame in CONTROL_FRAMES),
    ],
)
def test_a_raw_frame_is_filed_by_its_event_and_symbol(frame, name):
    assert stream_of(frame) == name


@pytest.mark.parametrize(
    "frame",
    [
        b'{"stream":"',
        b'{"stream":""}',
        b'{"stream":"btcusdt@depth',
        b'{"stream":"' + b"a" * 81 + b'"}',
        b'{"stream":"\xff@depth"}',
        b'{"stream":"\\u5e01usdt@depth"}',
        b'{"stream":"\\"@depth"}',
        b'{"stream":"!twintape@bytes","opcode":2,"base64":""}',
    ],
)
def test_a_wrapper_without_a_usable_name_is_other(frame):
    assert stream_of(frame) == OTHER


def test_a_name_of_80_bytes_is_still_a_name():
    assert stream_of(combined(SPOT, "a" * 80)) == "a" * 80


@pytest.mark.parametrize("name", ["!twintape@open", "!twintape@clock", "!twintape@sync", "!twintape", "!twintapes@x"])
def test_control_lines_have_one_stream(name):
    assert stream_of(combined(b"{}", name)) == TWINTAPE


def test_a_bare_body_belongs_to_the_symbol_of_a_recording_of_one():
    assert stream_of(body(), snapshot_symbol="BTCUSDT") == "btcusdt@depthSnapshot"
    assert stream_of(body()) == OTHER
    assert stream_of(b'{"result":null,"id":1}', snapshot_symbol="BTCUSDT") == OTHER


@pytest.mark.parametrize(
    ("symbol", "name"),
    [("币USDT", "币usdt@depthSnapshot"), ("../X", "../x@depthSnapshot"), ("!session", TWINTAPE), ("\ud800", TWINTAPE)],
)
def test_a_snapshot_line_belongs_to_its_symbol_if_that_is_one(symbol, name):
    line = wire.snapshot_line(symbol=symbol, url="u", request_time_ns=1, response_time_ns=2, status=200, body=body())
    assert stream_of(line) == name


def test_a_damaged_snapshot_line_is_a_control_line_of_no_symbol():
    assert stream_of(b'{"stream":"!twintape@snapshot","symbol":') == TWINTAPE
    assert stream_of(b'{"stream":"!twintape@snapshot"}') == TWINTAPE


@pytest.mark.parametrize(
    ("frame", "time"),
    [
        (SPOT, 1725382961514_000),
        (combined(USDM), 1787592539515_000),
        (b'{"e":"depthUpdate","E":1725382961514321,"s":"X"}', 1725382961514321),
        (b'{"E": 1725382961514}', 1725382961514_000),
        (b'{"lastUpdateId":1,"E":1725382961514,"T":1}', 1725382961514_000),
        (b'{"E":123456789}', None),
        (b'{"E":17253829615143}', None),
        (b'{"E":17253829615143210}', None),
        (b'{"E":"1725382961514"}', None),
        (b'{"E":-1725382961514}', None),
        (b"", None),
    ],
)
def test_the_event_time_is_milliseconds_or_microseconds_by_its_digits(frame, time):
    assert event_time_us(frame) == time


@pytest.mark.parametrize("market", Market)
def test_scanned_ids_are_the_decoded_ones(market):
    event = EVENTS[market]
    assert depth_ids(RAW[market], market) == (event.prev_update_id, event.final_update_id)
    assert depth_ids(combined(RAW[market]), market) == (event.prev_update_id, event.final_update_id)


@pytest.mark.parametrize(
    ("frame", "market", "ids"),
    [
        (b'{"U":157,"u":160,"pu":149}', Market.SPOT, (156, 160)),
        (b'{"U":157,"u":160}', Market.USDM, None),
        (b'{"U":157,"u":160,"pu":-1}', Market.COINM, (-1, 160)),
        (b'{"U": 157, "u": 160, "pu": 149}', Market.USDM, (149, 160)),
        (b'{"U":9007199254740993,"u":9007199254740995,"pu":9007199254740991}', Market.USDM, (9007199254740991, 9007199254740995)),
        (b'{"U":999999999999999998,"u":999999999999999999}', Market.SPOT, (999999999999999997, 999999999999999999)),
        (b'{"U":1,"u":1000000000000000000}', Market.SPOT, None),
        (b'{"U":1,"u":2,"pu":1000000000000000000}', Market.USDM, None),
        (b'{"u":160,"U":157,"pu":149}', Market.USDM, None),
        (b'{"lastUpdateId":160}', Market.SPOT, None),
        (b"", Market.SPOT, None),
    ],
)
def test_ids_are_scanned_where_the_exchange_puts_them_and_never_guessed(frame, market, ids):
    assert depth_ids(frame, market) == ids


@pytest.mark.parametrize(
    ("payload", "fits"),
    [
        (b"{}", True),
        ("币".encode(), True),
        (b" ", True),
        (b"", False),
        (b"a\nb", False),
        (b"a\rb", False),
        (b"a\x00", False),
        (b"\xff", False),
        (b"\xed\xa0\x80", False),
    ],
)
def test_a_payload_stands_on_a_line_if_it_is_one_line_of_utf8(payload, fits):
    assert recordable(payload) is fits


@pytest.mark.parametrize("frame", [SHUTDOWN_RAW, SHUTDOWN_COMBINED])
def test_both_forms_of_the_shutdown_notice_are_seen(frame):
    assert is_shutdown_notice(frame)
    assert event_time_us(frame) == 1770123456789_000


@pytest.mark.parametrize("frame", [SPOT, b"", b'{"e":"serverShutdowns"}', b'{"e":"serverShutdown"' + b" " * 300 + b"}"])
def test_nothing_else_is_a_shutdown_notice(frame):
    assert not is_shutdown_notice(frame)


# --- decoding ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("market", Market)
@pytest.mark.parametrize("wrap", [bytes, combined])
def test_a_depth_frame_of_every_market_is_decoded_raw_and_combined(market, wrap):
    assert decode_depth(wrap(RAW[market]), market) == EVENTS[market]


@pytest.mark.parametrize("market", Market)
def test_the_order_of_keys_does_not_matter(market):
    keys = json.loads(RAW[market])
    turned = json.dumps(dict(reversed(keys.items()))).encode()
    assert decode_depth(turned, market) == EVENTS[market]


@pytest.mark.parametrize("market", Market)
def test_unknown_keys_do_not_matter(market):
    keys = json.loads(RAW[market]) | {"ps": "BTCUSD", "st": 9, "new": {"b": [[1]], "币": None}}
    assert decode_depth(json.dumps(keys).encode(), market) == EVENTS[market]


def test_a_third_element_of_a_level_is_left_out():
    event = decode_depth(depth(b='[["0.0024","10",[]]]', a='[["0.0026","100",[]],["1","2"]]'), Market.SPOT)
    assert (event.bids, event.asks) == ((("0.0024", "10"),), (("0.0026", "100"), ("1", "2")))


@pytest.mark.parametrize(("b", "a"), [("[]", '[["1","2"]]'), ('[["1","0"]]', "[]"), ("[]", "[]")])
def test_a_side_may_be_empty(b, a):
    event = decode_depth(depth(b=b, a=a), Market.SPOT)
    assert (len(event.bids), len(event.asks)) == (len(json.loads(b)), len(json.loads(a)))


def test_prices_and_quantities_stay_as_printed():
    levels = (("0.00000001", "92233720368.54775807"), ("1" * 30, "0." + "0" * 30), ("007", "0.000"))
    event = decode_depth(depth(b=json.dumps(levels)), Market.SPOT)
    assert event.bids == levels


def test_microseconds_stay_microseconds():
    event = decode_depth(depth(Market.USDM, E="1725382961514321", T="1725382961514320"), Market.USDM)
    assert (event.event_time_us, event.transaction_time_us) == (1725382961514321, 1725382961514320)


def test_ids_beyond_the_exact_range_of_floats_stay_exact():
    event = decode_depth(depth(Market.USDM, U="9007199254740993", u="9007199254740995", pu="9007199254740991"), Market.USDM)
    assert (event.first_update_id, event.final_update_id, event.prev_update_id) == (2**53 + 1, 2**53 + 3, 2**53 - 1)


def test_a_chain_may_begin_with_a_pu_of_minus_one():
    assert decode_depth(depth(Market.USDM, pu="-1"), Market.USDM).prev_update_id == -1
    assert decode_depth(depth(U="0"), Market.SPOT).prev_update_id == -1


@pytest.mark.parametrize("symbol", ["../x", "币安人生USDT", "\x00", "A" * 100_000, "%2e%2e"])
def test_a_hostile_symbol_is_told_as_it_is(symbol):
    assert decode_depth(depth(s=json.dumps(symbol)), Market.SPOT).symbol == symbol


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"e": '"trade"'}, "e is 'trade'"),
        ({"e": ""}, "missing required field `e`"),
        ({"s": ""}, "missing required field `s`"),
        ({"b": ""}, "missing required field `b`"),
        ({"s": '"\\ud800"'}, "not a depth frame"),
        ({"u": "7"}, "impossible ids: U=8 u=7"),
        ({"U": "-1"}, "impossible ids"),
        ({"u": "1000000000000000000"}, "impossible ids"),
        ({"u": "9" * 5000}, "not a depth frame"),
        ({"u": '"9"'}, "Expected `int`"),
        ({"u": "9.0"}, "Expected `int`"),
        ({"u": "1e999"}, "not a depth frame"),
        ({"E": "-1"}, "impossible time -1"),
        ({"E": "10000000000000000"}, "impossible time"),
        ({"T": "-1"}, "impossible time -1"),
        ({"b": '[["1"]]'}, "not a pair of strings"),
        ({"b": "[[]]"}, "not a pair of strings"),
        ({"b": '[[1,"2"]]'}, "not a pair of strings"),
        ({"b": '[["1",2]]'}, "not a pair of strings"),
        ({"b": '["12"]'}, "not a depth frame"),
        ({"b": '[["-1","2"]]'}, "not a pair of plain decimals"),
        ({"b": '[["1","2e3"]]'}, "not a pair of plain decimals"),
        ({"b": '[["1.","2"]]'}, "not a pair of plain decimals"),
        ({"b": '[[".1","2"]]'}, "not a pair of plain decimals"),
        ({"b": '[["","2"]]'}, "not a pair of plain decimals"),
        ({"b": '[["1","2\\n"]]'}, "not a pair of plain decimals"),
        ({"b": '[["1",""]]'}, "not a pair of plain decimals"),
        ({"b": '[["1,2","3"]]'}, "not a pair of plain decimals"),
        ({"b": '[["1,2",""]]'}, "not a pair of plain decimals"),
        ({"b": '[["1","2"],["3",","]]'}, "not a pair of plain decimals"),
        ({"b": '[["NaN","2"]]'}, "not a pair of plain decimals"),
        ({"b": '[["\\u0661","2"]]'}, "not a pair of plain decimals"),
        ({"b": f'[["{"1" * 31}","2"]]'}, "not a pair of plain decimals"),
    ],
)
def test_an_impossible_frame_is_refused_with_what_is_wrong(changed, says):
    with pytest.raises(WireError, match=says):
        decode_depth(depth(**changed), Market.SPOT)


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"pu": ""}, "a usdm depth frame without pu"),
        ({"pu": "9"}, "impossible ids"),
        ({"pu": "-2"}, "impossible ids: U=8 u=9 pu=-2"),
    ],
)
def test_a_futures_frame_must_join_by_pu(changed, says):
    with pytest.raises(WireError, match=says):
        decode_depth(depth(Market.USDM, **changed), Market.USDM)


def test_an_error_quotes_no_more_than_a_line_of_a_hostile_frame():
    for frame in (
        depth(e=json.dumps("x" * 100_000)),
        depth(b=json.dumps([["x" * 100_000, "1"]])),
        depth(b=json.dumps([["x" * 100_000]])),
    ):
        with pytest.raises(WireError) as caught:
            decode_depth(frame, Market.SPOT)
        assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        b"null",
        b"[]",
        b"<html>",
        b"\xff",
        depth()[:-1],
        depth().replace(b"BTC", b"\xff"),
        b'{"x":' * 100_000,
        *CONTROL_FRAMES,
        SHUTDOWN_RAW,
        body(),
    ],
)
@pytest.mark.parametrize("wrap", [bytes, combined])
def test_what_is_no_depth_frame_is_a_wire_error(frame, wrap):
    with pytest.raises(WireError):
        decode_depth(wrap(frame), Market.SPOT)


def test_only_what_looks_wrapped_is_unwrapped():
    assert unwrap(combined(SPOT)) == SPOT
    assert unwrap(SPOT) == SPOT
    assert unwrap(b'{"stream":"x@depthSnapshot","generated":true,"data":{"lastUpdateId": 1}}') == b'{"lastUpdateId": 1}'
    for damaged in (
        b'{"stream":"x"}',
        b'{"stream":"x","data":',
        combined(b"{}") + b"x",
        b'{"stream":"x","data":' + b"[" * 100_000,
    ):
        with pytest.raises(WireError, match="not a combined frame"):
            unwrap(damaged)


@pytest.mark.parametrize(
    ("text", "times"),
    [
        (body(), (None, None)),
        (body(E="1725382961514", T="1725382961513"), (1725382961514_000, 1725382961513_000)),
        (
            body(E="1725382961514", T="1725382961513", symbol='"BTCUSD_PERP"', pair='"BTCUSD"'),
            (1725382961514_000, 1725382961513_000),
        ),
    ],
)
def test_a_rest_body_of_every_market_is_decoded(text, times):
    snapshot = decode_snapshot(text)
    assert (snapshot.event_time_us, snapshot.transaction_time_us) == times
    assert (snapshot.last_update_id, snapshot.bids, snapshot.asks) == (160, (("0.0024", "10"),), (("0.0026", "100"),))


def test_a_body_of_old_has_levels_of_three_elements():
    assert decode_snapshot(body(bids='[["0.0024","10",[]]]')).bids == (("0.0024", "10"),)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (body(lastUpdateId="-1"), "impossible lastUpdateId -1"),
        (body(lastUpdateId="1000000000000000000"), "impossible lastUpdateId"),
        (body(lastUpdateId=""), "missing required field"),
        (body(bids='[["1","x"]]'), "plain decimals"),
        (body(E="-5"), "impossible time"),
        (body(E="1", T="-5"), "impossible time"),
        (b'{"code":-1121,"msg":"Invalid symbol."}', "not a depth body"),
        (b"<html>", "not a depth body"),
        (b'{"x":' + b"[" * 100_000, "not a depth body"),
        (b'{"lastUpdateId":1,"bids":[["\xff","1"]],"asks":[]}', "not a depth body"),
        (SPOT, "not a depth body"),
    ],
)
def test_what_is_no_rest_body_is_a_wire_error(text, says):
    with pytest.raises(WireError, match=says):
        decode_snapshot(text)


# --- REST answers in recordings ------------------------------------------------------------------------------------------------

SNAPSHOT_LINE = wire.snapshot_line(
    symbol="BTCUSDT", url="https://x/y", request_time_ns=1, response_time_ns=2, status=200, body=body()
)


@pytest.mark.parametrize(
    "answer",
    [
        body(),
        body(E="1"),
        b" 1 ",
        b'{"a":",\\"body\\":"}',
        b'{"x":{"body":1},"body":2}',
        b"<html>502</html>",
        b'{"a":1}\n',
        b"",
        b"\xff\x00",
        b"NaN",
        "币".encode(),
    ],
)
@pytest.mark.parametrize("symbol", ["BTCUSDT", "币安人生USDT", '","body":"', "../x", "\x00\n", "\ud800"])
def test_an_answer_is_read_back_verbatim_whatever_it_is(answer, symbol):
    line = wire.snapshot_line(
        symbol=symbol, url="https://x/?a=\u2028", request_time_ns=1, response_time_ns=2, status=429, body=answer
    )
    assert recordable(line)
    assert recorded_snapshot(line) == RecordedSnapshot(symbol, 429, answer, 1, 2)


def test_json_bodies_stay_readable_in_the_recording():
    assert SNAPSHOT_LINE.endswith(b',"status":200,"body":' + body() + b"}")
    other = wire.snapshot_line(symbol="X", url="u", request_time_ns=1, response_time_ns=2, status=502, body=b"<html>")
    assert other.endswith(b',"base64":"' + base64.b64encode(b"<html>") + b'"}')


def test_a_body_nested_beyond_reading_is_kept_as_base64():
    answer = b'{"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    line = wire.snapshot_line(symbol="X", url="u", request_time_ns=1, response_time_ns=2, status=200, body=answer)
    assert b'"base64"' in line
    assert recorded_snapshot(line) == RecordedSnapshot("X", 200, answer, 1, 2)


def test_the_wrapped_and_the_bare_body_of_other_recorders_are_read():
    wrapped = b'{"stream":"btcusdt@depthSnapshot","generated":true,"data":' + body() + b"}"
    assert recorded_snapshot(wrapped) == RecordedSnapshot("BTCUSDT", 200, body(), None, None)
    assert stream_of(wrapped) == f"btcusdt@{SNAPSHOT}"
    assert recorded_snapshot(body()) == RecordedSnapshot(None, 200, body(), None, None)


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        SPOT,
        combined(SPOT),
        combined(body(), "btcusdt@depth20"),
        b'{"stream":"btcusdt@depthSnapshot","data":',
        b'{"stream":"\xff@depthSnapshot","data":{}}',
        b'{"stream":"btcusdt@depthSnapshot',
        b'{"stream":"!twintape@snapshot","symbol":"X"}',
        b'{"stream":"!twintape@snapshot","body":{}}',
        b'{"stream":"!twintape@snapshot",nonsense,"body":{}}',
        SNAPSHOT_LINE.replace(b'"status":200', b'"status":1e999'),
        SNAPSHOT_LINE.replace(b'"status":200', b'"status":[]'),
        b'{"stream":"!twintape@snapshot","symbol":"X","status":200,"request_time_ns":1,"response_time_ns":2,"base64":"a"}',
        b'{"stream":"!twintape@snapshot","symbol":"X","status":200,"request_time_ns":1,"response_time_ns":2,"base64":1}',
        b'{"stream":"!twintape@snapshot","x":' + b"[" * 100_000,
    ],
)
def test_nothing_else_is_a_recorded_answer(frame):
    assert recorded_snapshot(frame) is None


# --- control lines -------------------------------------------------------------------------------------------------------------

OPEN = {
    "collector": "tokyo",
    "market": Market.SPOT,
    "run": "0" * 32,
    "connection": 3,
    "sequence": 12,
    "url": "wss://stream.binance.com:9443/stream",
    "streams": ["btcusdt@depth@100ms", "币usdt@depth"],
    "version": "0.1.0",
    "event_time_us": None,
}


@pytest.mark.parametrize(
    ("line", "kind", "fields"),
    [
        (wire.open_line(**OPEN), "open", {"format": "twintape-active/1"} | OPEN),
        (
            wire.clock_line(wall_ns=5, monotonic_ns=6, offset_ns=None, error_ns=7, source="chrony"),
            "clock",
            {"wall_ns": 5, "monotonic_ns": 6, "offset_ns": None, "error_ns": 7, "source": "chrony"},
        ),
        (
            wire.suspect_line(from_ns=1, to_ns=None, streams=("a@depth",), reason="silence"),
            "suspect",
            {"from_ns": 1, "to_ns": None, "streams": ["a@depth"], "reason": "silence"},
        ),
        (
            wire.subscribe_line(streams=["a@depth", "币usdt@trade"]),
            "subscribe",
            {"streams": ["a@depth", "币usdt@trade"]},
        ),
        (
            wire.suspect_line(from_ns=1, to_ns=2, streams=None, reason="stall"),
            "suspect",
            {"from_ns": 1, "to_ns": 2, "streams": None, "reason": "stall"},
        ),
        (
            wire.close_line(reason="FIN\n\ud800", code=None, final=True),
            "close",
            {"reason": "FIN\n\ud800", "code": None, "final": True},
        ),
        (wire.sync_line(size=12, crc32=zlib.crc32(b"x")), "sync", {"bytes": 12, "crc32": "8cdc1683"}),
        (wire.bytes_line(2, b"\x00\xff"), "bytes", {"opcode": 2, "base64": "AP8="}),
    ],
)
def test_a_control_line_says_its_fields_in_the_order_of_the_format(line, kind, fields):
    assert parse_control(line) == (kind, {"stream": f"!twintape@{kind}"} | fields)
    assert list(json.loads(line)) == ["stream", *fields]
    assert recordable(line)
    assert stream_of(line) == (OTHER if kind == "bytes" else TWINTAPE)


@pytest.mark.parametrize(
    "frame",
    [
        SPOT,
        b"",
        b'{"stream":"!twintape@',
        b'{"stream":"!twintape@open"',
        b'{"stream":"!twintape@x","a":"\xff"}',
        b'{"stream":"!twintape@x","a":' + b"[" * 100_000,
        b'{"stream":"!twintape@x","a":' + b"9" * 5000 + b"}",
    ],
)
def test_a_damaged_control_line_is_none(frame):
    assert parse_control(frame) is None


def test_a_subscription_names_its_streams_and_its_number():
    frame = wire.subscribe_frame(["btcusdt@depth@100ms", "币usdt@depth"], 7)
    assert json.loads(frame) == {"method": "SUBSCRIBE", "params": ["btcusdt@depth@100ms", "币usdt@depth"], "id": 7}


@given(st.binary())
def test_any_payload_has_a_line(payload):
    line = wire.bytes_line(2, payload)
    assert recordable(line)
    control = parse_control(line)
    assert control is not None
    assert base64.b64decode(control[1]["base64"]) == payload


# --- laws ----------------------------------------------------------------------------------------------------------------------

LEVELS = st.lists(st.tuples(*[st.from_regex(r"[0-9]{1,12}(\.[0-9]{1,8})?", fullmatch=True)] * 2), max_size=5)
SYMBOLS = st.text(st.characters(exclude_categories=["Cs"]), max_size=70)


@given(
    market=st.sampled_from(Market),
    symbol=SYMBOLS,
    first=st.integers(0, 10**17),
    width=st.integers(0, 10**6),
    back=st.integers(1, 10**6),
    bids=LEVELS,
    asks=LEVELS,
    time=st.integers(10**12, 10**13 - 1),
)
def test_a_printed_event_is_decoded_and_scanned_as_itself(market, symbol, first, width, back, bids, asks, time):
    prev = first - 1 if market is Market.SPOT else max(first - back, -1)
    keys = {"e": "depthUpdate", "E": time, "s": symbol, "U": first, "u": first + width, "pu": prev, "b": bids, "a": asks}
    if market is Market.SPOT:
        del keys["pu"]
    frame = json.dumps(keys, ensure_ascii=False, separators=(",", ":")).encode()
    event = decode_depth(frame, market)
    assert event == DepthEvent(symbol, time * 1000, None, prev, first, first + width, tuple(bids), tuple(asks))
    assert depth_ids(frame, market) == (prev, first + width)
    assert event_time_us(frame) == time * 1000


@given(frame=FRAMES | damaged_frames(), market=st.sampled_from(Market), symbol=st.none() | st.just("BTCUSDT"))
def test_scanning_never_raises_and_a_name_is_never_over_80_bytes(frame, market, symbol):
    name = stream_of(frame, {}, symbol)
    assert 1 <= len(name.encode()) <= wire.STREAM_NAME_BYTES_MAX
    assert stream_name(*split_stream(name)).encode().lower() == name.encode().lower()
    time, ids, control, recorded = event_time_us(frame), depth_ids(frame, market), parse_control(frame), recorded_snapshot(frame)
    assert time is None or 0 <= time < 10**16
    assert ids is None or max(map(abs, ids)) < 10**18
    assert control is None or frame.startswith(b'{"stream":"!twintape@')
    assert recorded is None or recorded.symbol is not None or not frame.startswith(b'{"stream":')
    assert not (recordable(frame) and b"\n" in frame)
    assert not is_shutdown_notice(frame) or b"serverShutdown" in frame


@given(frame=FRAMES | damaged_frames(), market=st.sampled_from(Market))
def test_decoders_raise_wire_errors_only(frame, market):
    try:
        event = decode_depth(frame, market)
    except WireError:
        pass
    else:
        assert -1 <= event.prev_update_id < event.final_update_id < 10**18
        assert 0 <= event.event_time_us < 10**18
    try:
        snapshot = decode_snapshot(frame)
    except WireError:
        pass
    else:
        assert 0 <= snapshot.last_update_id < 10**18


@pytest.mark.parametrize(("kind", "name"), [("e" * 15, "a" * 64 + "@" + "e" * 15), ("e" * 16, OTHER), ("e" * 64, OTHER)])
def test_a_raw_frame_whose_name_would_be_over_80_bytes_is_other(kind, name):
    assert stream_of(f'{{"e":"{kind}","s":"{"A" * 64}"}}'.encode()) == name


def test_every_name_of_ours_fits_the_longest_symbol():
    symbol = "A" * wire.SYMBOL_BYTES_MAX
    for stream in (SNAPSHOT, "bookTicker", "depth@1000ms"):
        assert len(stream_name(symbol, stream)) <= wire.STREAM_NAME_BYTES_MAX
