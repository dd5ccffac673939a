"""Columns back to the bytes they came from."""

import dataclasses
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st

from support.columns import columns_of
from support.frames import frame, frames, line, mutated
from twintape.columns.parse import UNDECODABLE, TemplateSet
from twintape.columns.render import render, render_lines
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
