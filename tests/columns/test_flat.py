import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from twintape.columns.flat import (
    DECIMAL,
    KINDS,
    TIME,
    TRUTH,
    FlatTemplate,
    discover,
    flat_schema,
    print_lines,
    scan,
    templates_from_json,
    templates_to_json,
)
from twintape.core.errors import CorruptionError

TRADE, AGG_TRADE, TICKER = KINDS["trade"], KINDS["aggTrade"], KINDS["bookTicker"]

# Frames as the exchange printed them, shortened nowhere.
SPOT_TRADE = (
    b'{"stream":"btcusdt@trade","data":{"e":"trade","E":1723161255343,"s":"BTCUSDT","t":3735683259,"p":"61837.63000000",'
    b'"q":"0.02000000","T":1723161255342,"m":true,"M":true}}'
)
USDM_TRADE = (
    b'{"stream":"btcusdt@trade","data":{"e":"trade","E":1723161256322,"T":1723161256322,"s":"BTCUSDT","t":5266583935,'
    b'"p":"61800.30","q":"0.006","X":"MARKET","m":false}}'
)
USDM_AGG = (
    b'{"e":"aggTrade","E":1618677448110,"a":30,"s":"BTCUSDT","p":"60000","q":"1.5","nq":"1.0","f":100,"l":105,'
    b'"T":1618677448105,"m":true}'
)
SPOT_TICKER = (
    b'{"stream":"btcusdt@bookTicker","data":{"u":50093239212,"s":"BTCUSDT","b":"61837.63000000","B":"3.78826000",'
    b'"a":"61837.64000000","A":"1.54698000"}}'
)
COINM_TICKER = (
    b'{"stream":"btcusd_perp@bookTicker","data":{"u":1007198632021,"e":"bookTicker","s":"BTCUSD_PERP","ps":"BTCUSD","b":"61804.7",'
    b'"B":"35","a":"61804.8","A":"1645","T":1723161257465,"E":1723161257476}}'
)
FRAMES = [(TRADE, SPOT_TRADE), (TRADE, USDM_TRADE), (AGG_TRADE, USDM_AGG), (TICKER, SPOT_TICKER), (TICKER, COINM_TICKER)]


def text_of(*frames):
    return b"".join(b"%d %b\n" % (1_723_161_254_087_891_268 + number, frame) for number, frame in enumerate(frames))


def again(kind, text):
    """Read a text and print what was read."""
    templates: list[FlatTemplate] = []
    found = scan(text, kind, templates)
    assert (found.template >= 0).all()
    return print_lines(kind, templates, found.template, found.receive_time_ns, found.values)[0].tobytes()


@pytest.mark.parametrize(("kind", "frame"), FRAMES)
def test_frames_of_every_market_are_printed_again_byte_for_byte(kind, frame):
    text = text_of(frame, frame)
    assert again(kind, text) == text


def test_fields_are_ids_microseconds_mantissas_and_truths():
    templates: list[FlatTemplate] = []
    found = scan(text_of(SPOT_TRADE), TRADE, templates)
    values = dict(zip([field.name for field in TRADE.fields], found.values[:, 0].tolist(), strict=True))
    assert values == {
        "trade_id": 3735683259,
        "event_time": 1723161255343000,
        "trade_time": 1723161255342000,
        "price": 6183763000000,
        "quantity": 2000000,
        "buyer_is_maker": 1,
        "buyer_order_id": -1,
        "seller_order_id": -1,
    }
    assert templates == [
        FlatTemplate(
            (
                '{"stream":"btcusdt@trade","data":{"e":"trade","E":', "E", ',"s":"BTCUSDT","t":', "t", ',"p":"', "p", '","q":"', "q",
                '","T":', "T", ',"m":', "m", ',"M":true}}',
            ),
            (0, 0, 8, 8, 0, 0),
        )
    ]  # fmt: skip


def test_microseconds_are_another_template():
    frame = SPOT_TRADE.replace(b"1723161255343", b"1723161255343123").replace(b"1723161255342", b"1723161255342007")
    assert again(TRADE, text_of(SPOT_TRADE, frame)) == text_of(SPOT_TRADE, frame)
    mixed = SPOT_TRADE.replace(b"1723161255343", b"1723161255343123")
    assert discover(mixed, TRADE) is None


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"t":3735683259', b'"t":03735683259'),
        (b'"t":3735683259', b'"t":-1'),
        (b'"t":3735683259', b'"t": 1'),
        (b'"t":3735683259', b'"t":"1"'),
        (b'"t":3735683259', b'"t":1,"t":1'),
        (b'"t":3735683259', b'"t":1234567890123456789'),
        (b'"t":3735683259,', b""),
        (b'"p":"61837.63000000"', b'"p":61837.63'),
        (b'"p":"61837.63000000"', b'"p":"061837.63"'),
        (b'"p":"61837.63000000"', b'"p":"1.123456789"'),
        (b'"p":"61837.63000000"', b'"p":"12345678901.12345678"'),
        (b'"p":"61837.63000000"', b'"p":"1e5"'),
        (b'"p":"61837.63000000"', b'"p":"5."'),
        (b'"m":true', b'"m":1'),
        (b'"m":true', b'"m":null'),
        (b'"s":"BTCUSDT"', b'"s":"BTC\\u0055SDT"'),
        (b'"s":"BTCUSDT"', b'"s":"BTC\xffSDT"'),
        (b'"T":1723161255342', b'"T":17231612553420'),
        (b'"M":true', b'"x":{"q":"1"},"M":true'),
        (b'"t":3735683259,', b'"x":{"t":5},'),
        (b"}}", b"}"),
    ],
)
def test_a_frame_that_is_spelled_in_an_odd_way_has_no_template_and_costs_no_other_its_own(old, new):
    odd = SPOT_TRADE.replace(old, new)
    assert odd != SPOT_TRADE
    assert discover(odd, TRADE) is None
    found = scan(text_of(SPOT_TRADE, odd, SPOT_TRADE), TRADE, [])
    assert found.template.tolist() == [0, -1, 0]
    assert found.values[:, 1].tolist() == [-1] * len(TRADE.fields)


@pytest.mark.parametrize("frame", [b"[]", b"<html>", b"7", b'{"stream":"a@trade","data":[]}'])
def test_what_is_no_message_has_no_template(frame):
    assert discover(frame, TRADE) is None


def test_a_template_of_other_decimals_does_not_take_a_frame():
    wider = SPOT_TRADE.replace(b"61837.63000000", b"61837.6")
    longer = SPOT_TRADE.replace(b"61837.63000000", b"123456789012345678")
    narrow = SPOT_TRADE.replace(b"61837.63000000", b"6")
    text = text_of(SPOT_TRADE, wider, longer, narrow, SPOT_TRADE)
    assert again(TRADE, text) == text


def test_without_a_kind_lines_have_places_only():
    text = text_of(SPOT_TRADE, b"anything at all")
    found = scan(text, None, [])
    assert found.template.tolist() == [-1, -1]
    assert found.values.shape == (0, 2)
    places = zip(found.offset.tolist(), found.length.tolist(), strict=True)
    assert [text[offset : offset + length] for offset, length in places] == text[:-1].split(b"\n")
    assert len(found) == 2
    assert len(scan(b"", TRADE, [])) == 0


@pytest.mark.parametrize("text", [b"1 {}", b"{}\n", b"01 {}\n", b"1\n", b"1 \n", b"17 {}\n\n"])
@pytest.mark.parametrize("kind", [TRADE, None])
def test_a_text_that_is_no_lines_is_damage(text, kind):
    with pytest.raises(CorruptionError, match="text"):
        scan(text, kind, [])


def test_after_too_many_shapes_no_further_one_is_looked_for():
    frames = [b'{"t":%d,"T":1723161255342,"p":"1","q":"1","m":true,"n":%d}' % (number, number) for number in range(300)]
    templates: list[FlatTemplate] = []
    found = scan(text_of(*frames), TRADE, templates)
    assert len(templates) == 257
    assert (found.template >= 0).sum() == 257


def test_templates_survive_a_file():
    templates = [template for kind, frame in FRAMES if kind is TRADE and (template := discover(frame, kind))]
    assert templates_from_json(templates_to_json(templates), TRADE) == templates


@pytest.mark.parametrize(
    "row",
    [
        {"parts": ["a", "t"], "decimals": [0], "time_unit": "ms"},
        {"parts": ["a", "zz", "b"], "decimals": [0], "time_unit": "ms"},
        {"parts": ["a", "p", "b"], "decimals": [9], "time_unit": "ms"},
        {"parts": ["a", "t", "b"], "decimals": [1], "time_unit": "ms"},
        {"parts": ["a", "t", "b"], "decimals": [], "time_unit": "ms"},
        {"parts": ["a", "t", "b", "t", "c"], "decimals": [0, 0], "time_unit": "ms"},
        {"parts": ["a", "t", "b"], "decimals": [0], "time_unit": "ns"},
        {"parts": ["a"]},
        7,
    ],
)
def test_a_damaged_list_of_templates_is_noticed(row):
    with pytest.raises(CorruptionError, match="templates"):
        templates_from_json(json.dumps([row]), TRADE)


@pytest.mark.parametrize(("field", "value"), [("t", -1), ("T", 1_723_161_255_342_001)])
def test_a_row_its_template_cannot_print_is_damage(field, value):
    templates: list[FlatTemplate] = []
    found = scan(text_of(SPOT_TRADE, SPOT_TRADE), TRADE, templates)
    found.values[[f.key for f in TRADE.fields].index(field), 1] = value
    with pytest.raises(CorruptionError, match="row 1"):
        print_lines(TRADE, templates, found.template, found.receive_time_ns, found.values)


@pytest.mark.parametrize("code", [-1, 1])
def test_a_row_of_a_template_there_is_not_is_damage(code):
    templates: list[FlatTemplate] = []
    found = scan(text_of(SPOT_TRADE), TRADE, templates)
    with pytest.raises(CorruptionError, match="of 1"):
        print_lines(TRADE, templates, np.array([code], np.int16), found.receive_time_ns, found.values)


def test_nothing_is_printed_of_nothing():
    none = np.zeros(0, np.int64)
    assert print_lines(TRADE, [], none.astype(np.int16), none, np.zeros((len(TRADE.fields), 0), np.int64))[0].size == 0


def test_columns_are_named_and_required_as_the_fields_are():
    schema = flat_schema(TICKER)
    assert schema.names[:3] == ["update_id", "event_time", "transaction_time"]
    assert not schema.field("update_id").nullable
    assert schema.field("event_time").nullable
    assert {"price_exponent", "quantity_exponent", "receive_time", "collector", "connection", "template"} < set(schema.names)


def decimal():
    return st.from_regex(r"(0|[1-9][0-9]{0,8})(\.[0-9]{1,8})?", fullmatch=True)


@given(st.data())
def test_every_frame_that_is_made_of_proper_fields_comes_back(data):
    kind = data.draw(st.sampled_from(list(KINDS.values())))
    unit = data.draw(st.sampled_from([st.integers(10**12, 10**13 - 1), st.integers(10**15, 10**16 - 1)]))
    frames = []
    for _ in range(data.draw(st.integers(1, 4))):
        fields = [field for field in kind.fields if field.required or data.draw(st.booleans())]
        content = {"e": "x", "s": "币USDT"}
        for field in data.draw(st.permutations(fields)):
            strategy = {TIME: unit, DECIMAL: decimal(), TRUTH: st.booleans()}.get(field.kind, st.integers(0, 10**18 - 1))
            content[field.key] = data.draw(strategy)
        content["M"] = True
        frames.append(json.dumps(content, separators=(",", ":"), ensure_ascii=False).encode())
    text = text_of(*frames)
    assert again(kind, text) == text
