import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from twintape.columns.flat import FlatTemplate, discover, print_lines, scan, templates_from_json, templates_to_json
from twintape.columns.kinds import ABSENT, DECIMAL, KINDS, SIGNED, TIME, TRUTH, WORD
from twintape.core.errors import CorruptionError

TRADE, AGG_TRADE, TICKER = KINDS["trade"], KINDS["aggTrade"], KINDS["bookTicker"]
MARK, FORCE = KINDS["markPrice"], KINDS["forceOrder"]

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
# The two below are examples of the documentation, with the keys of 2026.
USDM_MARK = (
    b'{"stream":"btcusdt@markPrice@1s","data":{"e":"markPriceUpdate","E":1562305380000,"s":"BTCUSDT","p":"11794.15000000",'
    b'"ap":"11793.63104562","i":"11784.62659091","P":"11784.25641265","r":"-0.00038167","T":1562306400000,"st":1}}'
)
COINM_MARK = (
    b'{"e":"markPriceUpdate","E":1596095725000,"s":"BTCUSD_201225","p":"10934.62615417","P":"10962.17178236","r":"","T":0}'
)
USDM_FORCE = (
    b'{"stream":"btcusdt@forceOrder","data":{"e":"forceOrder","E":1568014460893,"o":{"s":"BTCUSDT","S":"SELL","o":"LIMIT","f":"IOC",'
    b'"q":"0.014","p":"9910","ap":"9910","X":"FILLED","l":"0.014","z":"0.014","T":1568014460891}}}'
)
COINM_FORCE = (
    b'{"e":"forceOrder","E":1591154240950,"o":{"s":"BTCUSD_200925","ps":"BTCUSD","S":"BUY","o":"LIMIT","f":"IOC","q":"1",'
    b'"p":"9425.5","ap":"9496.5","X":"PARTIALLY_FILLED","l":"1","z":"1","T":1591154240949}}'
)
FRAMES = [(TRADE, SPOT_TRADE), (TRADE, USDM_TRADE), (AGG_TRADE, USDM_AGG), (TICKER, SPOT_TICKER), (TICKER, COINM_TICKER)]
FRAMES += [(MARK, USDM_MARK), (MARK, COINM_MARK), (FORCE, USDM_FORCE), (FORCE, COINM_FORCE)]


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
        "buyer_order_id": ABSENT,
        "seller_order_id": ABSENT,
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


def values_of(kind, frame):
    found = scan(text_of(frame), kind, [])
    return dict(zip([field.name for field in kind.fields], found.values[:, 0].tolist(), strict=True))


def test_funding_rates_may_be_negative_and_what_a_contract_does_not_have_is_absent():
    usdm, coinm = values_of(MARK, USDM_MARK), values_of(MARK, COINM_MARK)
    assert (usdm["funding_rate"], usdm["average_mark_price"]) == (-38167, 1179363104562)
    assert (coinm["funding_rate"], coinm["next_funding_time"], coinm["index_price"]) == (ABSENT, ABSENT, ABSENT)
    assert coinm["mark_price"] == 1093462615417


def test_words_are_positions_and_fields_may_stand_in_an_inner_object():
    usdm, coinm = values_of(FORCE, USDM_FORCE), values_of(FORCE, COINM_FORCE)
    side, status = (next(field.words for field in FORCE.fields if field.name == name) for name in ("side", "status"))
    assert [side[row["side"]] for row in (usdm, coinm)] == ["SELL", "BUY"]
    assert [status[row["status"]] for row in (usdm, coinm)] == ["FILLED", "PARTIALLY_FILLED"]
    assert (usdm["trade_time"], usdm["event_time"]) == (1568014460891000, 1568014460893000)


@pytest.mark.parametrize(
    ("kind", "frame", "old", "new"),
    [
        (MARK, USDM_MARK, b"-0.00038167", b"-0.00000000"),
        (MARK, USDM_MARK, b"-0.00038167", b"--0.00038167"),
        (MARK, USDM_MARK, b'"p":"11794.15000000"', b'"p":"-11794.15000000"'),
        (MARK, USDM_MARK, b'"p":"11794.15000000"', b'"p":""'),
        (FORCE, USDM_FORCE, b'"SELL"', b'"SELLS"'),
        (FORCE, USDM_FORCE, b'"SELL"', b'"sell"'),
        (FORCE, USDM_FORCE, b'"SELL"', b'"S'),
        (FORCE, USDM_FORCE, b'"o":{', b'"x":{'),
        (FORCE, b'{"e":"forceOrder","E":1568014460893,"o":7}', b"7", b"8"),
    ],
)
def test_an_odd_spelling_costs_a_frame_its_template(kind, frame, old, new):
    odd = frame.replace(old, new)
    assert odd != frame
    found = scan(text_of(USDM_MARK if kind is MARK else USDM_FORCE, odd), kind, [])
    assert found.template.tolist() == [0, -1]


@pytest.mark.parametrize("value", [ABSENT, -1, 99])
def test_a_word_there_is_not_is_damage(value):
    templates: list[FlatTemplate] = []
    found = scan(text_of(USDM_FORCE), FORCE, templates)
    found.values[2, 0] = value
    with pytest.raises(CorruptionError, match="row 0"):
        print_lines(FORCE, templates, found.template, found.receive_time_ns, found.values)


def test_an_absent_signed_number_is_not_printed():
    templates: list[FlatTemplate] = []
    found = scan(text_of(USDM_MARK), MARK, templates)
    found.values[-1, 0] = ABSENT
    with pytest.raises(CorruptionError, match="row 0"):
        print_lines(MARK, templates, found.template, found.receive_time_ns, found.values)


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
    assert found.values[:, 1].tolist() == [ABSENT] * len(TRADE.fields)


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


def decimal():
    return st.from_regex(r"(0|[1-9][0-9]{0,8})(\.[0-9]{1,8})?", fullmatch=True)


def signed():
    return st.builds(lambda minus, number: "-" * (minus and number.strip("0.") != "") + number, st.booleans(), decimal())


@given(st.data())
def test_every_frame_that_is_made_of_proper_fields_comes_back(data):
    kind = data.draw(st.sampled_from(list(KINDS.values())))
    unit = data.draw(st.sampled_from([st.integers(10**12, 10**13 - 1), st.integers(10**15, 10**16 - 1)]))
    frames = []
    for _ in range(data.draw(st.integers(1, 4))):
        fields = [field for field in kind.fields if field.required or data.draw(st.booleans())]
        content = {"e": "x", "s": "币USDT"}
        for field in data.draw(st.permutations(fields)):
            strategies = {TIME: unit, DECIMAL: decimal(), TRUTH: st.booleans(), SIGNED: signed()}
            strategies[WORD] = st.sampled_from(field.words or ("",))
            inner = content if kind.inner is None or field.key == "E" else content.setdefault(kind.inner, {"o": "LIMIT"})
            inner[field.key] = data.draw(strategies.get(field.kind, st.integers(0, 10**18 - 1)))
        content["M"] = True
        frames.append(json.dumps(content, separators=(",", ":"), ensure_ascii=False).encode())
    text = text_of(*frames)
    assert again(kind, text) == text
