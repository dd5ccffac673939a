"""What is remembered of bodies makes a scan faster and no header another one."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.frames import frame, frames, line, mutated
from twintape.columns import bodies as module
from twintape.columns.bodies import NO_BODIES, body_format, body_parts, find_body, keep_body, new_bodies
from twintape.columns.kept import Memory
from twintape.columns.kernel import hash_line
from twintape.columns.parse import scan
from twintape.columns.templates import TemplateSet, discover
from twintape.core.markets import Market

FORMAT = np.uint64(5)


def array(text):
    return np.frombuffer(text, np.uint8)


def words(*values):
    return np.array(values, np.uint64)


def body_of(text):
    _, _, first, second = hash_line(array(text), 0, len(text), np.uint64(0), np.uint64(0))
    return words(first, second)


def kept(text, *, final=7, levels=1, place=-1):
    bodies = new_bodies()
    keep_body(bodies, FORMAT, final, len(text), words(3, 4), body_of(text), levels, place)
    return bodies


def found(bodies, text, *, final=7, of=FORMAT, start=0):
    used, hashes = words(0, 0), words(0, 0)
    stop, levels, place = find_body(bodies, of, final, array(text), start, used, hashes)
    return int(stop), int(levels), int(place), used.tolist(), hashes.tolist() == body_of(text[start:]).tolist()


BODY = b'[["1.0","2"]],"a":[["3.0","4"]]'


def test_a_body_with_the_same_bytes_under_the_same_id_is_found_wherever_it_stands():
    bodies = kept(BODY)
    assert found(bodies, BODY) == (len(BODY), 1, -1, [3, 4], True)
    assert found(bodies, b'"b":' + BODY, start=4) == (len(BODY) + 4, 1, -1, [3, 4], True)
    assert found(kept(b'[],"a":[]', levels=0), b'[],"a":[]')[:3] == (9, 0, -1)
    for place in (0, 1, 2**31 - 1):
        assert found(kept(BODY, levels=23, place=place), BODY)[:3] == (len(BODY), 1, place)


@pytest.mark.parametrize(
    ("text", "changes"),
    [
        (BODY, {"final": 8}),
        (BODY, {"final": 7 + module.BODIES_KEPT}),
        (BODY, {"of": np.uint64(9)}),
        (BODY.replace(b"4", b"5"), {}),
        (BODY[:-1], {}),
    ],
)
def test_another_id_format_or_byte_is_another_body(text, changes):
    assert found(kept(BODY), text, **changes)[:4] == (-1, 0, -1, [0, 0])


def test_a_hash_that_is_half_equal_is_not_equal():
    for half in range(2):
        bodies = kept(BODY)
        bodies[bodies[:, 0] > 0, 3 + half] ^= np.uint64(1)
        assert found(bodies, BODY)[0] == -1


def test_who_remembers_nothing_finds_nothing():
    keep_body(NO_BODIES, FORMAT, 7, len(BODY), words(3, 4), body_of(BODY), 1, 0)
    assert found(NO_BODIES, BODY)[0] == -1


def test_formats_say_how_bodies_are_printed_and_nothing_else():
    plain = discover(frame(final=12), Market.SPOT)
    assert body_format(plain) == body_format(discover(frame(final=99, symbol="ETHUSDT"), Market.SPOT)) != 0
    other = discover(frame(final=12, bids=(("1.5", "2"),), asks=()), Market.SPOT)
    assert body_format(other) not in (0, body_format(plain))
    bracket = discover(frame(final=12, extra='"x":"[",'), Market.SPOT)
    assert body_parts(bracket) is None
    assert body_format(bracket) == 0


@settings(max_examples=80, deadline=None)
@given(st.data(), st.sampled_from(list(Market)))
def test_whatever_was_seen_before_the_headers_are_the_same(data, market):
    texts = data.draw(st.lists(st.one_of(frames(market), mutated(market)), min_size=1, max_size=6))
    lines = [line(text) for _, text in texts if b"\n" not in text and b"\r" not in text]
    memory = Memory()
    for order in (lines, lines[::-1], lines):
        text = b"".join(order)
        expected = scan(text, market, TemplateSet()).rows
        found = scan(text, market, TemplateSet(), memory=memory).rows
        found["place"] = expected["place"]
        assert found.tolist() == expected.tolist()
