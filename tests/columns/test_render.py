"""Columns back to the bytes they came from."""

import dataclasses
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st

from support.columns import columns_of
from support.frames import frame, frames, line, mutated
from twintape.columns.bodies import body_parts
from twintape.columns.kernel import hash_seed
from twintape.columns.parse import UNDECODABLE, TemplateSet, scan
from twintape.columns.render import Copies, Printer, hash_copies, render, render_lines
from twintape.columns.schema import Template
from twintape.core.errors import CorruptionError, WireError
from twintape.core.markets import Market

SETTINGS = settings(max_examples=120, deadline=None, derandomize=True)
SPOT = Market.SPOT


@st.composite
def texts(draw):
    market = draw(st.sampled_from(list(Market)))
    rows = draw(st.lists(st.one_of(frames(market), mutated(market)), max_size=8))
    times = st.one_of(st.integers(0, 2**63 - 1), st.integers(10**18, 2 * 10**18))
    return market, [(draw(times), text) for _, text in rows]


@SETTINGS
@given(texts(), st.tuples(st.integers(0, 3), st.integers(0, 3)))
def test_rendering_what_was_parsed_gives_the_same_bytes(case, finer):
    market, rows = case
    lines = [line(text, time) for time, text in rows]
    templates = TemplateSet()
    try:
        headers, columns = columns_of(b"".join(lines), market, templates, finer=finer)
    except WireError:  # numbers too far apart for one exponent; test_parse has that case
        reject()
    kept = [row for row in range(len(lines)) if headers.template[row] != UNDECODABLE]
    frames_out, starts = render(columns, list(templates))
    assert [frames_out[a:b].tobytes() for a, b in pairwise(starts)] == [rows[row][1] for row in kept]
    lines_out, starts = render_lines(columns, templates)
    assert [lines_out[a:b].tobytes() for a, b in pairwise(starts)] == [lines[row] for row in kept]


def one(**changes):
    templates = TemplateSet()
    _, columns = columns_of(line(frame()), SPOT, templates)
    return dataclasses.replace(columns, **changes), list(templates)


def test_a_day_without_rows_renders_to_nothing():
    columns, templates = one()
    text, starts = render(columns.slice(0, 0), templates)
    assert (text.size, starts.tolist()) == (0, [0])


@pytest.mark.parametrize(
    "changes",
    [
        {"template": np.array([-1], np.int16)},
        {"template": np.array([1], np.int16)},
        {"template": np.array([-2], np.int16)},
        {"first": np.array([-1])},
        {"event_time_us": np.array([1723161255208001])},
        {"bid_price": np.array([-1])},
        {"ask_quantity": np.array([-1])},
        {"price_exponent": -19},
        {"quantity_exponent": 1},
        {"price_exponent": -3, "bid_price": np.array([5101])},
        {"quantity_exponent": -4, "ask_quantity": np.array([10001])},
    ],
)
def test_a_row_its_template_cannot_print_is_corrupt(changes):
    columns, templates = one(**changes)
    with pytest.raises(CorruptionError):
        render(columns, templates)


def test_a_frame_beside_a_template_is_not_needed_and_one_without_template_is_printed_as_it_is():
    columns, templates = one(frame={0: b"other"})
    assert render(columns, templates)[0].tobytes() == frame()
    columns = dataclasses.replace(columns, template=np.array([-1], np.int16))
    assert render(columns, templates)[0].tobytes() == b"other"
    assert render(columns, [])[0].tobytes() == b"other"


def test_the_longest_numbers_fit():
    columns, _ = one(price_exponent=0, quantity_exponent=0, bid_price=np.array([2**63 - 1]), bid_quantity=np.array([2**63 - 1]))
    columns = columns.slice(0, 1)
    template = Template(("", "b", ""), 8, 8, ",[]")
    price = str(2**63 - 1) + ".00000000"
    assert render(columns, [template])[0].tobytes() == f'[["{price}","{price}",[]]]'.encode()


def test_a_futures_template_without_transaction_time_needs_none():
    templates = TemplateSet()
    text = frame(Market.USDM, keys="e E s U u pu b a")
    _, columns = columns_of(line(text), Market.USDM, templates)
    assert columns.transaction_time_us.tolist() == [-1]
    assert render(columns, templates)[0].tobytes() == text
    asking = [Template(("", "T", ""), 0, 0)]
    with pytest.raises(CorruptionError):
        render(columns, asking)


def test_a_printer_prints_again_into_the_same_buffer():
    columns, templates = one()
    printer = Printer(templates)
    first, starts = printer.lines(columns)
    expected = first.tobytes()
    again, _ = printer.lines(columns.slice(0, 1))
    assert (again.tobytes(), np.shares_memory(first, again), starts.tolist()) == (expected, True, [0, len(expected)])


# --- copies ------------------------------------------------------------------------------------------------------------------------


@SETTINGS
@given(texts(), st.sampled_from(["", '"x":"]",', '"y":[],']))
def test_a_copys_digest_is_that_of_its_line_without_printing_its_body(case, extra):
    market, rows = case
    seed = hash_seed("paris", "2")
    for time, text in rows:
        templates = TemplateSet()
        own = text.replace(b'"U":', extra.encode() + b'"U":', 1)
        try:
            headers, columns = columns_of(line(own, time), market, templates)
        except WireError:
            reject()
        if not len(columns) or columns.template[0] < 0:
            continue
        body = np.stack([headers.body_a, headers.body_b], axis=1)
        copies = Copies(
            np.zeros(1, np.int64), columns.event_time_us, np.array([17], np.int64), columns.template, np.array([seed], np.uint64)
        )
        found = hash_copies(columns, copies, templates.tables, body)
        expected = scan(line(own, 17), market, templates, seed=seed)
        plain = body_parts(templates[0])
        assert plain is None or found.tolist() == [[expected.digest_a[0], expected.digest_b[0]]]
        assert plain is not None or "[" in "".join(templates[0].parts[:-1:2]) or "E" in templates[0].parts


def plain_template(**changes):
    parts = ('{"E":', "E", ',"U":', "U", ',"u":', "u", ',"b":', "b", ',"a":', "a", "}")
    return dataclasses.replace(Template(parts, 2, 3), **changes)


def test_what_stands_between_the_brackets_says_whether_two_templates_print_the_same_body():
    plain = plain_template()
    assert body_parts(plain) == body_parts(plain_template(parts=("<", "E", *plain.parts[2:-1], "}}")))
    assert body_parts(plain) != body_parts(plain_template(price_decimals=3))
    for parts in (
        ("{[", *plain.parts[1:]),
        (*plain.parts[:-1], "]}"),
        (*plain.parts[:8], ',"E":', "E", ',"a":', "a", "}"),
        plain.parts[:8],
    ):
        assert body_parts(plain_template(parts=parts)) is None


@pytest.mark.parametrize(
    ("changes", "event_time_us"),
    [({}, 5_001), ({}, -1000), ({"first": np.array([-1])}, 5_000), ({"final": np.array([-1])}, 5_000)],
)
def test_a_copy_with_a_number_that_cannot_be_printed_is_corrupt(changes, event_time_us):
    columns, templates = one(**changes)
    copies = Copies(
        np.zeros(1, np.int64), np.array([event_time_us]), np.array([17]), columns.template, np.zeros((1, 2), np.uint64)
    )
    with pytest.raises(CorruptionError, match="a copy of row 0"):
        hash_copies(columns, copies, TemplateSet(templates).tables, np.zeros((1, 2), np.uint64))
