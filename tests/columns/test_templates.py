"""Finding the template of a frame, and sets of templates."""

import pytest
from hypothesis import given, settings

from support.frames import frame, frames, mutated
from twintape.columns.schema import Template
from twintape.columns.templates import TEMPLATES_MAX, TemplateSet, discover, discover_partial
from twintape.core.errors import WireError
from twintape.core.markets import Market
from twintape.core.wire import decode_depth

SETTINGS = settings(max_examples=300, deadline=None, derandomize=True)
SPOT, USDM = Market.SPOT, Market.USDM


def possible(market, text):
    try:
        decode_depth(text, market)
    except WireError:
        return False
    return True


def test_a_template_is_the_frame_with_its_fields_cut_out():
    assert discover(frame(USDM), USDM) == Template(
        parts=(
            '{"stream":"btcusdt@depth","data":{"e":"depthUpdate","E":', "E", ',"T":', "T", ',"s":"BTCUSDT","U":', "U", ',"u":', "u",
            ',"pu":', "pu", ',"b":', "b", ',"a":', "a", "}}",
        ),
        price_decimals=2,
        quantity_decimals=3,
        level_suffix="",
        time_unit="ms",
    )  # fmt: skip


@SETTINGS
@given(frames())
def test_every_possible_frame_of_a_regular_shape_has_a_template(case):
    market, text = case
    assert (discover(text, market) is not None) == possible(market, text)


@SETTINGS
@given(mutated())
def test_only_depth_frames_have_a_template(case):
    market, text = case
    if not possible(market, text):
        assert discover(text, market) is None


@pytest.mark.parametrize("bids", [(), (("5.10", "0.200"),)])
def test_one_side_is_enough_to_know_the_decimals(bids):
    template = discover(frame(bids=bids), SPOT)
    assert (template.price_decimals, template.quantity_decimals) == (2, 3)


def test_a_frame_without_levels_has_no_decimals_whatever_its_neighbours_have():
    template = discover(frame(bids=(), asks=(), suffix=",[]"), SPOT)
    assert (template.price_decimals, template.quantity_decimals, template.level_suffix) == (0, 0, "")


def test_sixteen_digits_are_microseconds():
    text = frame(event_time="1723161255208000")
    assert discover(text, SPOT).time_unit == "us"
    assert discover(frame(), SPOT).time_unit == "ms"


@pytest.mark.parametrize(
    ("why", "text", "market"),
    [
        ("no depth frame", b"{}", SPOT),
        ("another event", frame().replace(b"depthUpdate", b"trade"), SPOT),
        ("ids that cannot be", frame(final=9), SPOT),
        ("white space", frame().replace(b'"U":', b'"U": '), SPOT),
        ("white space between levels", frame(bids=(("1", "2"), ("3", "4")), asks=()).replace(b"],[", b"], ["), SPOT),
        ("an escape", frame(extra='"x":"\\"E\\":1",'), SPOT),
        ("text that is no UTF-8", frame(extra='"x":"_",').replace(b"_", b"\xff"), SPOT),
        ("a key twice", frame(keys="e E s U u b a a"), SPOT),
        ("a key twice at another depth", frame(extra='"x":{"U":1},'), SPOT),
        ("a time that is only nested", frame(extra='"x":{"T":1723161255208},'), SPOT),
        ("a null time", frame(USDM, transaction_time="null"), USDM),
        ("a negative id", frame(USDM, prev=-1), USDM),
        ("pu on spot, which no column holds", frame(keys="e E s U u pu b a"), SPOT),
        ("a time of 12 digits", frame(event_time="172316125520"), SPOT),
        ("two units of time", frame(USDM, event_time="1723161255208000"), USDM),
        ("mixed price decimals", frame(bids=(("1.0", "2"), ("1.00", "2")), asks=()), SPOT),
        ("mixed quantity decimals", frame(bids=(("1.0", "2"),), asks=(("1.0", "2.0"),)), SPOT),
        ("a superfluous zero", frame(bids=(("01.0", "2"),), asks=()), SPOT),
        ("over 18 digits", frame(bids=(("12345678901.12345678", "2"),), asks=()), SPOT),
        ("over 8 decimals", frame(bids=(("1.123456789", "2"),), asks=()), SPOT),
        ("a third element that is not empty", frame(suffix=",[1]"), SPOT),
        ("a third element in one level only", frame(bids=(("1", "2"), ("1", '2",[],"')), asks=()), SPOT),
        ("mixed suffixes", frame(suffix=",[]").replace(b'"1.000",[]', b'"1.000"'), SPOT),
    ],
)
def test_a_frame_that_no_template_can_print_has_none(why, text, market):
    assert discover(text, market) is None


def test_white_space_away_from_the_fields_is_literal_text_like_any_other():
    assert discover(frame() + b" ", SPOT).parts[-1] == "}} "


def test_a_missing_transaction_time_on_futures_is_a_shape_of_its_own():
    template = discover(frame(USDM, keys="e E s U u pu b a"), USDM)
    assert "T" not in template.parts[1::2]


def test_a_set_gives_each_template_one_code_in_order_of_arrival():
    first, second = discover(frame(), SPOT), discover(frame(wrapped=False), SPOT)
    templates = TemplateSet([first])
    assert [templates.add(first), templates.add(second), templates.add(first)] == [0, 1, 0]
    assert list(templates) == [first, second]
    assert (templates[1], templates[:1], len(templates)) == (second, [first], 2)


def test_a_full_set_takes_no_more_but_knows_what_it_has():
    templates = TemplateSet(Template((str(number),), 0, 0) for number in range(TEMPLATES_MAX))
    assert templates.add(Template(("one more",), 0, 0)) is None
    assert templates.add(Template(("7",), 0, 0)) == 7
    assert len(templates) == TEMPLATES_MAX


def test_the_tables_follow_the_set():
    templates = TemplateSet()
    assert templates.tables.numbers.shape == (0, 5)
    templates.add(Template(("{", "E", "}"), 1, 2, ",[]", "us"))
    tables = templates.tables
    assert tables is templates.tables
    assert tables.part.tolist() == [0, 2]
    assert tables.literals.tobytes() == b"{},[]" + bytes(8)
    assert tables.parts.tolist() == [[0, 1, 0], [1, 2, -1]]
    assert tables.numbers.tolist() == [[1, 2, 2, 5, 16]]


SPOT_PARTIAL = b'{"lastUpdateId":160,"bids":[["0.0024","10"]],"asks":[["0.0026","100"]]}'


def test_partial_depth_of_spot_is_cut_at_its_own_keys():
    found = discover_partial(b'{"stream":"bnbbtc@depth20@100ms","data":' + SPOT_PARTIAL + b"}")
    assert found.parts[1::2] == ("u", "b", "a")
    assert (found.price_decimals, found.quantity_decimals, found.time_unit) == (4, 0, "ms")


def test_partial_depth_of_futures_is_a_depth_frame():
    frame = b'{"e":"depthUpdate","E":1571889248277,"T":1571889248276,"s":"BTCUSDT","U":390497796,"u":390497878,"pu":390497794,"b":[],"a":[]}'
    assert discover_partial(frame) == discover(frame, Market.USDM)


@pytest.mark.parametrize(
    "frame",
    [
        b"<html>",
        b"[]",
        b'{"stream":"x","data":7}',
        SPOT_PARTIAL.replace(b"160", b"-1"),
        SPOT_PARTIAL.replace(b'"bids":', b'"bids": '),
        SPOT_PARTIAL.replace(b'"100"]', b'"100",[]]'),
        SPOT_PARTIAL.replace(b'"10"', b'"10.5"'),
        SPOT_PARTIAL.replace(b"}", b',"s":"\\u0041"}'),
    ],
)
def test_partial_depth_in_an_odd_spelling_has_no_template(frame):
    assert discover_partial(frame) is None
