"""What is kept at first sight of levels is what the slow decoder reads in the text."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.frames import frame, frames, line, mutated
from support.oracle import decimals, decode_line, mantissa
from twintape.columns import kept as module
from twintape.columns.kept import LEVEL_BYTES_MIN, NO_MEMORY, TEXT_BYTES_PER_WORD_MIN, Memory, unpack_levels
from twintape.columns.parse import scan
from twintape.columns.templates import TemplateSet
from twintape.core.markets import Market

SPOT = Market.SPOT
ROOM = 4096


def empty(count):
    return np.zeros(count + 1, np.int64), np.zeros(ROOM, np.int64), np.zeros(ROOM, np.int64)


def unpacked(words, places, digits=(8, 8), room=ROOM):
    """Return the rows read and, of each, its bids and asks."""
    (bids, bid_price, bid_quantity), (asks, ask_price, ask_quantity) = empty(len(places)), empty(len(places))
    row = unpack_levels(
        np.frombuffer(words, np.int64), np.array(places, np.int64), *digits,
        bids, bid_price[:room], bid_quantity[:room], asks, ask_price[:room], ask_quantity[:room],
    )  # fmt: skip
    sides = ((bids, bid_price, bid_quantity), (asks, ask_price, ask_quantity))
    return row, [
        [list(zip(p[o[k] : o[k + 1]].tolist(), q[o[k] : o[k + 1]].tolist(), strict=True)) for o, p, q in sides]
        for k in range(row)
    ]


def kept_of(texts, market=SPOT, memory=None):
    memory = Memory() if memory is None else memory
    headers = scan(b"".join(texts), market, TemplateSet(), memory=memory)
    return headers.rows["place"].tolist(), memory


def said(text, digits, market=SPOT):
    event = decode_line(text[:-1], market)[1]
    exponents = [-count for count in digits]
    return [[tuple(map(mantissa, level[:2], exponents)) for level in side] for side in (event.bids, event.asks)]


@settings(max_examples=120, deadline=None, derandomize=True)
@given(st.data(), st.sampled_from(list(Market)))
def test_what_was_kept_is_what_the_text_says(data, market):
    texts = data.draw(st.lists(st.one_of(frames(market), frames(market), mutated(market)), min_size=1, max_size=6))
    lines = [line(text) for _, text in texts if b"\n" not in text and b"\r" not in text]
    places, memory = kept_of(lines, market)
    _, words = memory.take()
    for text, place in zip(lines, places, strict=True):
        if place >= 0:
            event = decode_line(text[:-1], market)[1]
            levels = [*event.bids, *event.asks]
            own = tuple(max((decimals(level[side]) for level in levels), default=0) for side in range(2))
            assert unpacked(words, [place], own) == (1, [said(text, own, market)])


def test_ordinary_frames_are_all_kept_one_behind_the_other():
    texts = [line(frame(final=12 + k, bids=(("61737.63000000", "0.50000000"),) * k, asks=())) for k in range(4)]
    places, memory = kept_of(texts)
    assert places[0] == 0 < places[1] < places[2] < places[3]
    base, words = memory.take()
    assert base == 0
    assert unpacked(words, places) == (4, [said(text, (8, 8)) for text in texts])


def test_an_event_that_was_seen_before_is_kept_once_and_found_in_what_was_taken_away():
    first, second = line(frame(final=12), 5), line(frame(final=13, bids=(("1.50", "2"),), asks=()), 6)
    places, memory = kept_of([first])
    _, words = memory.take()
    again, _ = kept_of([line(frame(final=12), 99), second], memory=memory)
    base, more = memory.take()
    assert again == [places[0], base]
    assert base == len(words) // 8
    assert unpacked(words + more, again) == (2, [said(first, (8, 8)), said(second, (8, 8))])
    assert memory.take() == (base + len(more) // 8, b"")


@pytest.mark.parametrize(
    "level",
    [
        ("61737.63000000", "0.00000001"),
        ("0.00000001", "99999.00000000"),
        ("9999999.00000000", "9999999.99999999"),
        ("21474836.48000000", "1.00000000"),  # eight digits: not for the usual way
        ("1.00000000", "9999999999.00000000"),
        ("0.00000000", "0.00000000"),
    ],
)
def test_numbers_of_any_size_and_digits_are_kept(level):
    texts = [line(frame(final=12, bids=(("1.00000000", "1.00000000"), level), asks=(level,))) for _ in range(2)]
    plain = line(frame(final=13, bids=(("1.00000000", "1.00000000"),), asks=()))
    places, memory = kept_of([*texts, plain, texts[0]])
    assert min(places) >= 0
    assert unpacked(memory.take()[1], places)[1] == [said(text, (8, 8)) for text in (*texts, plain, texts[0])]


def test_templates_of_fewer_decimals_behind_those_of_more_keep_their_own():
    texts = [line(frame(final=12, bids=(("1.2345", "1.5"),), asks=())), line(frame(final=13, bids=(("7.5", "3"),), asks=()))]
    places, memory = kept_of(texts)
    assert unpacked(memory.take()[1], places, (4, 1)) == (2, [said(text, (4, 1)) for text in texts])


def test_asks_before_bids_are_asks():
    text = b'{"e":"depthUpdate","E":1725382961514,"s":"BTCUSDT","U":8,"u":9,"a":[["5.10","0.2"],["5.20","0.3"]],"b":[["4.00","0.1"]]}'
    places, memory = kept_of([line(text)])
    assert unpacked(memory.take()[1], places, (2, 1)) == (1, [[[(400, 1)], [(510, 2), (520, 3)]]])


def test_levels_are_read_at_coarser_exponents_only_without_loss():
    places, memory = kept_of([line(frame(final=12, bids=(("5.25", "3"), ("4.50", "2")), asks=()))])
    _, words = memory.take()
    assert unpacked(words, places, (2, 0)) == (1, [[[(525, 3), (450, 2)], []]])
    assert unpacked(words, places, (1, 0)) == (0, [])
    assert unpacked(words, places, (20, 0))[0] == unpacked(words, places, (2, 20))[0] == 0
    texts = [line(frame(final=12 + k, bids=((price, "3"),), asks=())) for k, price in enumerate(("5.25", "4.50"))]
    places, memory = kept_of(texts)
    assert unpacked(memory.take()[1], places[1:], (1, 0)) == (1, [[[(45, 3)], []]])


@pytest.mark.parametrize("side", ["bids", "asks"])
def test_a_record_that_cannot_be_is_not_read(side):
    texts = [line(frame(final=12, **{"bids": (), "asks": (), side: (("5.25", "3"),) * 9}))]
    places, memory = kept_of(texts)
    _, words = memory.take()
    assert unpacked(words, places)[0] == 1
    assert unpacked(words, [-1])[0] == unpacked(words, [len(words) // 8])[0] == 0
    assert unpacked(words[:-8], places)[0] == 0
    assert unpacked(words, places, room=8)[0] == 0
    assert unpacked(words, [*places, -1], (2, 0))[0] == 1
    for digits in ((18, 0), (2, 18)):
        huge, memory = kept_of([line(frame(final=12, **{"bids": (), "asks": (), side: (("9999999.25", "9999999"),)}))])
        assert unpacked(memory.take()[1], huge, digits)[0] == 0


def test_what_a_header_cannot_say_is_not_kept():
    texts = [line(frame(final=12)), line(frame(final=13))]
    memory = Memory()
    memory.state[module.BASE] = module.PLACES_MAX
    assert kept_of(texts, memory=memory)[0] == [module.PLACES_MAX, -1]


def test_who_has_no_memory_keeps_nothing():
    headers = scan(line(frame()), SPOT, TemplateSet())
    assert headers.rows["place"].tolist() == [-1]
    assert NO_MEMORY.take() == (0, b"")
    assert len(NO_MEMORY.words) == len(NO_MEMORY.bodies) == 0


def test_there_is_room_for_the_shortest_levels_of_two_words_each():
    level = b'["0","0"],'
    assert len(level) == LEVEL_BYTES_MIN
    assert len(level) > 2 * TEXT_BYTES_PER_WORD_MIN
    wide = (("0", "9999999999"), *((("0", "0"),) * 500))
    texts = [line(frame(final=12, bids=wide, asks=())), line(frame(final=13, bids=wide, asks=()))]
    places, memory = kept_of(texts)
    assert unpacked(memory.take()[1], places, (0, 0)) == (2, [said(text, (0, 0)) for text in texts])


def test_room_is_made_once_for_texts_of_one_size():
    memory = Memory()
    memory.reserve(1000)
    rooms = memory.words, memory.price, memory.quantity
    memory.reserve(900)
    assert all(one is other for one, other in zip(rooms, (memory.words, memory.price, memory.quantity), strict=True))
    memory.reserve(1100)
    assert len(memory.words) > len(rooms[0])
