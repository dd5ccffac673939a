"""Levels of chosen frames: the same from what was kept of them and from their texts."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.frames import frame, line
from support.lines import chunks_of, scene
from twintape.columns import chosen as module
from twintape.columns.chosen import ChosenLevels, MisfitError
from twintape.columns.kept import Memory
from twintape.columns.kernel import hash_seed
from twintape.columns.lines import Chunk, ChunkTexts, read_lines
from twintape.columns.parse import LevelDecoder, exponents, scan
from twintape.columns.templates import TemplateSet
from twintape.core.markets import Market

SPOT = Market.SPOT
DATE = "2024-08-09"


class Kept:
    """Words that were kept, and which of them were asked for."""

    def __init__(self):
        self.words = np.zeros(0, np.int64)
        self.asked = []

    def __call__(self, first, count):
        self.asked.append((first, count))
        return self.words[first : first + count]


def survey(chunks, market=SPOT, memories=1, unseen=()):
    """Return the chunks as a survey by some processes makes them, those numbered in `unseen` without headers."""
    kept, memory = [Kept() for _ in range(memories)], [Memory() for _ in range(memories)]
    found = []
    for number, chunk in enumerate(chunks):
        who = number % memories
        headers = scan(chunk.load(), market, TemplateSet(), seed=hash_seed(chunk.collector, chunk.connection), memory=memory[who])
        changes = {"headers": lambda headers=headers: headers, "kept": kept[who]} if number not in unseen else {}
        found.append(dataclasses.replace(chunk, **changes))
    for who in range(memories):
        kept[who].words = np.frombuffer(memory[who].take()[1], np.int64)
    return found, kept


def reader(chunks, market=SPOT, exponent=None):
    lines = read_lines(chunks, market, start_update_id=None)
    price, quantity = exponent or exponents(lines.price_decimals, lines.quantity_decimals)
    decoder = LevelDecoder(market, TemplateSet(lines.templates), price_exponent=price, quantity_exponent=quantity)
    return lines, ChosenLevels(lines, chunks, ChunkTexts(chunks), decoder)


def texts_of(*frames, date=DATE):
    lines = [line(text, 10**18 + number) for number, text in enumerate(frames)]
    return [Chunk("tokyo", "01234567-1", number, date, lambda text=text: text) for number, text in enumerate(lines)]


def read(chunks, rows=None, market=SPOT, exponent=None):
    lines, chosen = reader(chunks, market, exponent)
    rows = np.arange(lines.blind, len(lines)) if rows is None else np.array(rows, np.int64)
    found = chosen.read(rows, lines.template[rows])
    return [getattr(found, name).tolist() for name in found.__slots__]


def refuse():
    raise AssertionError("a text was read")


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.integers(0, 100_000), st.sampled_from(list(Market)), st.integers(1, 3), st.sets(st.integers(0, 5)))
def test_kept_levels_are_those_of_the_texts(seed, market, memories, unseen):
    chunks = chunks_of(scene(market, seed, lines=3).heard, sizes=(3, 7))
    surveyed, _ = survey(chunks, market, memories, unseen)
    assert read(surveyed, market=market) == read(chunks, market=market)


def test_no_text_is_read_where_all_levels_were_kept():
    surveyed, _ = survey(texts_of(*(frame(first=k, final=k) for k in range(10, 20))))
    blind = [dataclasses.replace(chunk, load=refuse) for chunk in surveyed]
    assert read(blind) == read(surveyed)
    assert read(blind, []) == [[0], [], [], [0], [], []]


def test_levels_that_lie_far_from_each_other_are_read_in_pieces(monkeypatch):
    surveyed, (kept,) = survey(texts_of(*(frame(first=k, final=k) for k in range(10, 20))))
    whole = read(surveyed)
    assert len(kept.asked) == 1
    for most in (0, 3, 7):
        monkeypatch.setattr(module, "KEPT_WORDS_MAX", most)
        kept.asked.clear()
        assert read(surveyed) == whole
        assert [first for first, _ in kept.asked] == list(range(0, 30, 3 * (most // 3 + 1)))
    assert read(surveyed, [9, 0, 5]) == read(texts_of(*(frame(first=k, final=k) for k in range(10, 20))), [9, 0, 5])


@pytest.mark.parametrize("seen", [True, False])
def test_all_copies_of_frames_whose_numbers_do_not_fit_are_named(seen):
    absurd = frame(first=11, final=11, bids=(("5.10", "99999999999.00"),))
    chunks = texts_of(frame(first=10, final=10), absurd, frame(first=12, final=12), absurd)
    surveyed, _ = survey(chunks, unseen=() if seen else range(4))
    with pytest.raises(MisfitError) as error:
        read(surveyed, exponent=(-2, -8))
    assert error.value.places == {(1, 0), (3, 0)}
