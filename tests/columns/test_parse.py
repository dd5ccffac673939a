"""Texts to headers and levels, against the slow decoder."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.frames import frame, frames, line, mutated
from support.oracle import decimals, decode_line, mantissa
from twintape.columns import parse as parse_module
from twintape.columns import templates as templates_module
from twintape.columns.kept import Memory
from twintape.columns.parse import SLOW, UNDECODABLE, LevelDecoder, Levels, TemplateSet, exponents, frame_of, levels, scan
from twintape.columns.schema import Template
from twintape.core.errors import CorruptionError, WireError
from twintape.core.markets import Market

SETTINGS = settings(max_examples=120, deadline=None, derandomize=True)
SPOT, USDM = Market.SPOT, Market.USDM
RECEIVE_TIMES = st.one_of(st.integers(0, 2**63 - 1), st.integers(10**18, 2 * 10**18))


@st.composite
def texts(draw):
    """A market and the lines of one stream, most of them regular."""
    market = draw(st.sampled_from(list(Market)))
    rows = draw(st.lists(st.one_of(frames(market), frames(market), mutated(market)), max_size=8))
    repeated = draw(st.lists(st.sampled_from(rows), max_size=4)) if rows else []
    return market, [line(text, draw(RECEIVE_TIMES)) for _, text in [*rows, *repeated]]


def bodies(headers):
    return list(zip(headers.body_a.tolist(), headers.body_b.tolist(), strict=True))


def levels_of(text, headers, templates, market, rows=None, exponent=None):
    rows = np.flatnonzero(headers.template != UNDECODABLE) if rows is None else rows
    price, quantity = exponent or exponents(headers.price_decimals, headers.quantity_decimals)
    return levels(
        text,
        headers.offset[rows],
        headers.length[rows],
        headers.template[rows],
        templates,
        market=market,
        price_exponent=price,
        quantity_exponent=quantity,
    ), (price, quantity)


@SETTINGS
@given(texts())
def test_headers_say_what_the_slow_decoder_says(case):
    market, lines = case
    text = b"".join(lines)
    headers = scan(text, market, TemplateSet())
    assert len(headers) == len(lines)
    start = 0
    for row, raw in enumerate(lines):
        receive_time, event = decode_line(raw[:-1], market)
        assert (headers.offset[row], headers.length[row], headers.receive_time_ns[row]) == (start, len(raw) - 1, receive_time)
        assert frame_of(text, start, len(raw) - 1) == raw.partition(b" ")[2][:-1]
        start += len(raw)
        ids = [getattr(headers, name)[row] for name in ("event_time_us", "transaction_time_us", "prev", "first", "final")]
        needed = (headers.price_decimals[row], headers.quantity_decimals[row])
        if event is None:
            assert headers.template[row] == UNDECODABLE
            assert (ids, needed, headers.body_a[row], headers.body_b[row]) == ([-1] * 5, (0, 0), 0, 0)
            continue
        assert headers.template[row] >= SLOW
        transaction_time = -1 if event.transaction_time_us is None else event.transaction_time_us
        assert ids == [event.event_time_us, transaction_time, event.prev_update_id, event.first_update_id, event.final_update_id]
        rows = (*event.bids, *event.asks)
        assert needed == tuple(max((decimals(level[place]) for level in rows), default=0) for place in (0, 1))


@SETTINGS
@given(texts())
def test_the_template_of_a_line_does_not_depend_on_the_lines_around_it(case):
    market, lines = case
    forward, backward = TemplateSet(), TemplateSet()
    headers = scan(b"".join(lines), market, forward)
    reverse = scan(b"".join(reversed(lines)), market, backward)

    def shapes(found, templates):
        return [templates[code] if code >= 0 else int(code) for code in found.template]

    assert shapes(headers, forward) == shapes(reverse, backward)[::-1]
    assert [bodies(headers), headers.digest_a.tolist()] == [bodies(reverse)[::-1], reverse.digest_a.tolist()[::-1]]


@SETTINGS
@given(texts())
def test_levels_are_the_exact_decimals_of_the_frames(case):
    market, lines = case
    text = b"".join(lines)
    templates = TemplateSet()
    headers = scan(text, market, templates)
    rows = np.flatnonzero(headers.template != UNDECODABLE)[::-1]
    events = [decode_line(lines[row][:-1], market)[1] for row in rows]
    exponent = exponents(headers.price_decimals, headers.quantity_decimals)
    largest = [max((mantissa(level[p], exponent[p]) for e in events for level in (*e.bids, *e.asks)), default=0) for p in (0, 1)]
    if max(largest) >= 2**63:
        with pytest.raises(WireError):
            levels_of(text, headers, templates, market, rows)
        return
    found, _ = levels_of(text, headers, templates, market, rows)
    assert len(found) == len(rows)
    for row, event in enumerate(events):
        for side, offsets, price, quantity in (
            (event.bids, found.bid_offsets, found.bid_price, found.bid_quantity),
            (event.asks, found.ask_offsets, found.ask_price, found.ask_quantity),
        ):
            place = slice(offsets[row], offsets[row + 1])
            expected = [(mantissa(p, exponent[0]), mantissa(q, exponent[1])) for p, q in side]
            assert list(zip(price[place].tolist(), quantity[place].tolist(), strict=True)) == expected
    assert (len(found.bid_price), len(found.ask_price)) == (found.bid_offsets[-1], found.ask_offsets[-1])


@SETTINGS
@given(st.sampled_from(list(Market)).flatmap(lambda market: st.tuples(frames(market), st.binary(max_size=60))))
def test_no_text_makes_the_scanner_read_or_write_astray(case):
    (market, text), junk = case
    junk = junk.replace(b"\n", b"")
    for cut in (1, 7, 8, 9, len(text) // 2, len(text) - 1):
        for broken in (text[:cut], text[:cut] + junk):
            headers = scan(line(broken) + line(text), market, TemplateSet())
            assert len(headers) == 2


def test_an_empty_text_has_no_lines():
    headers = scan(b"", SPOT, TemplateSet())
    assert len(headers) == 0
    found, exponent = levels_of(b"", headers, TemplateSet(), SPOT)
    assert (len(found), exponent) == (0, (0, 0))


@pytest.mark.parametrize(
    "text",
    [
        b"1 {}",
        b"{}\n",
        b" {}\n",
        b"01 {}\n",
        b"1{}\n",
        b"\n",
        b"9223372036854775808 {}\n",
        b"12345678901234567890 {}\n",
        b"0999999999999999999 {}\n",
    ],
)
def test_a_text_that_is_not_whole_lines_is_corrupt(text):
    with pytest.raises(CorruptionError):
        scan(line(frame()) + text, SPOT, TemplateSet())


def test_a_stream_printed_one_way_has_one_template_and_a_second_text_adds_none():
    templates = TemplateSet()
    text = b"".join(line(frame(final=12 + i)) for i in range(5))
    assert scan(text, SPOT, templates).template.tolist() == [0] * 5
    assert scan(text, SPOT, templates).template.tolist() == [0] * 5
    assert len(templates) == 1


def test_templates_beyond_the_limit_go_the_slow_way_and_are_exact_there(monkeypatch):
    monkeypatch.setattr(templates_module, "TEMPLATES_MAX", 2)
    shapes = [frame(extra=f'"x":{number},') for number in range(4)]
    templates = TemplateSet()
    text = b"".join(line(shape) for shape in shapes)
    headers = scan(text, SPOT, templates)
    assert headers.template.tolist() == [0, 1, SLOW, SLOW]
    found, _ = levels_of(text, headers, templates, SPOT)
    assert found.bid_price.tolist() == [51] * 4
    assert found.ask_quantity.tolist() == [10] * 4
    assert len(set(bodies(headers))) == 1


def test_equal_levels_have_equal_hashes_however_what_stands_around_them_is_printed():
    texts = [
        frame(),
        frame(wrapped=False),
        frame(final=99, event_time="1723161255208000"),
        frame(extra='"x":1,', keys="u U s E e b a"),
        frame(extra='"x":"\\n",'),
    ]
    headers = scan(b"".join(map(line, texts)), SPOT, TemplateSet())
    assert headers.template.tolist() == [0, 1, 2, 3, SLOW]
    assert len(set(bodies(headers))) == 1
    others = [
        frame(bids=()),
        frame(asks=()),
        frame(bids=(("5.10", "0.201"),)),
        frame(bids=(("5.20", "1.000"),), asks=(("5.10", "0.200"),)),
    ]
    hashes = bodies(scan(b"".join(map(line, [texts[0], *others])), SPOT, TemplateSet()))
    assert len({first for first, _ in hashes}) == len({second for _, second in hashes}) == 5


@pytest.mark.parametrize("count", [1, 3])
def test_a_text_of_more_or_fewer_lines_than_it_is_said_to_have_is_corrupt(count):
    with pytest.raises(CorruptionError, match=f"not the {count} lines"):
        scan(line(frame()) + line(frame()), SPOT, TemplateSet(), count=count)


def test_headers_have_the_columns_of_their_type_and_no_others():
    headers = scan(line(frame()), SPOT, TemplateSet())
    assert headers.final.tolist() == headers.rows["final"].tolist() == [12]
    with pytest.raises(AttributeError):
        _ = headers.mood


def test_levels_stay_as_they_were_once_the_decoder_has_left_them():
    text = line(frame())
    headers = scan(text, SPOT, TemplateSet())
    decoder = LevelDecoder(SPOT, headers.templates, price_exponent=-2, quantity_exponent=-3)

    def decode():
        decoder.begin(1, len(text))
        decoder.add(text, headers.offset, headers.length, headers.template)
        return decoder.levels()

    first, second = decode(), decode()
    assert first.bid_price.tolist() == [510]
    assert np.shares_memory(first.bid_price, second.bid_price)
    decoder.detach()
    assert not np.shares_memory(decode().bid_price, second.bid_price)


def test_exponents_ask_for_the_decimals_that_are_needed_not_for_those_that_are_printed():
    text = line(frame(bids=(("61737.63000000", "0.00000000"),), asks=(("61737.60000000", "1.50000000"),)))
    templates = TemplateSet()
    headers = scan(text, SPOT, templates)
    found, exponent = levels_of(text, headers, templates, SPOT)
    assert exponent == (-2, -1)
    assert (found.bid_price.tolist(), found.ask_price.tolist(), found.ask_quantity.tolist()) == ([6173763], [6173760], [15])
    finer, _ = levels_of(text, headers, templates, SPOT, exponent=(-9, -18))
    assert (finer.bid_price.tolist(), finer.ask_quantity.tolist()) == ([61737630000000], [1500000000000000000])


@pytest.mark.parametrize("exponent", [(-1, -1), (-2, 0), (0, -1), (-18, -1)])
def test_a_value_that_is_no_mantissa_at_the_exponent_is_refused_by_name(exponent):
    text = line(frame(bids=(("61737.63", "0.0"),), asks=(("61737.60", "1.5"),)))
    templates = TemplateSet()
    headers = scan(text, SPOT, templates)
    with pytest.raises(WireError, match=r"line at byte 0, ids \(9, 12\]"):
        levels_of(text, headers, templates, SPOT, exponent=exponent)


def test_exponents_never_go_below_what_an_int64_can_scale():
    text = line(frame(bids=(("0." + "0" * 24 + "1", "1"),), asks=()))
    headers = scan(text, SPOT, TemplateSet())
    assert headers.price_decimals.tolist() == [25]
    assert exponents(headers.price_decimals, headers.quantity_decimals) == (-18, 0)
    with pytest.raises(WireError):
        levels_of(text, headers, TemplateSet(), SPOT)


def test_undecodable_lines_have_no_levels():
    text = line(b"{}")
    headers = scan(text, SPOT, TemplateSet())
    with pytest.raises(WireError):
        levels_of(text, headers, TemplateSet(), SPOT, rows=np.array([0]))


def test_a_foreign_template_set_is_noticed_and_the_levels_are_still_exact():
    text = line(frame())
    headers = scan(text, SPOT, TemplateSet())
    foreign = TemplateSet([Template(("{", "b", "}"), 1, 1)])
    found, _ = levels_of(text, headers, foreign, SPOT)
    assert found.bid_price.tolist() == [51]


def test_ids_and_times_keep_their_meaning_per_market():
    text = line(frame(USDM, first=10, final=12, prev=3))
    futures = scan(text, USDM, TemplateSet())
    assert (futures.prev.tolist(), futures.transaction_time_us.tolist()) == ([3], [1723161255200000])
    spot = scan(line(frame(first=0, final=0)), SPOT, TemplateSet())
    assert (spot.prev.tolist(), spot.transaction_time_us.tolist(), spot.template.tolist()) == ([-1], [-1], [0])


def test_levels_are_taken_and_joined_by_event():
    def made(counts, start):
        offsets = np.cumsum([0, *counts])
        numbers = np.arange(start, start + offsets[-1])
        return Levels(offsets, numbers, numbers * 10, offsets, numbers * 100, numbers * 1000)

    both = Levels.joined([made([2, 0], 1), made([1, 3], 7)])
    assert both.bid_offsets.tolist() == both.ask_offsets.tolist() == [0, 2, 2, 3, 6]
    assert both.bid_price.tolist() == [1, 2, 7, 8, 9, 10]
    taken = both.take(np.array([3, 0, 1, 0]))
    assert taken.bid_offsets.tolist() == taken.ask_offsets.tolist() == [0, 3, 5, 5, 7]
    assert taken.bid_price.tolist() == [8, 9, 10, 1, 2, 1, 2]
    assert taken.ask_quantity.tolist() == [8000, 9000, 10000, 1000, 2000, 1000, 2000]
    assert len(Levels.joined([])) == 0


@SETTINGS
@given(texts())
def test_levels_that_were_kept_are_those_that_are_decoded(case):
    market, lines = case
    text, templates, memory = b"".join(lines), TemplateSet(), Memory()
    headers = scan(text, market, templates, memory=memory)
    rows = np.flatnonzero((headers.place >= 0) & (headers.template >= 0))
    price, quantity = exponents(headers.price_decimals, headers.quantity_decimals)
    decoder = LevelDecoder(market, templates, price_exponent=price, quantity_exponent=quantity)
    decoder.begin(len(rows), int(headers.length[rows].sum()))
    words, places = np.frombuffer(memory.take()[1], np.int64), headers.place[rows].astype(np.int64)
    try:
        expected, _ = levels_of(text, headers, templates, market, rows)
    except WireError:
        with pytest.raises(WireError):
            decoder.add_kept(words, places)
        return
    for part in np.array_split(places, 2):
        decoder.add_kept(words, part)
    found = decoder.levels()
    for name in found.__slots__:
        assert getattr(found, name).tolist() == getattr(expected, name).tolist()


def test_where_no_levels_are_kept_none_are_found():
    decoder = LevelDecoder(SPOT, TemplateSet(), price_exponent=-2, quantity_exponent=0)
    decoder.begin(1, 100)
    with pytest.raises(WireError, match="kept at 7"):
        decoder.add_kept(np.zeros(7, np.int64), np.array([7]))


def test_a_text_whose_lines_a_header_cannot_place_is_refused(monkeypatch):
    text = line(frame())
    monkeypatch.setattr(parse_module, "TEXT_BYTES_MAX", len(text))
    assert len(scan(text, SPOT, TemplateSet())) == 1
    monkeypatch.setattr(parse_module, "TEXT_BYTES_MAX", len(text) - 1)
    with pytest.raises(CorruptionError):
        scan(text, SPOT, TemplateSet())
