import random

import numpy as np
import pytest

from support.compare import chunk, compared, frame, hear
from twintape.columns import compare_books
from twintape.columns.compare_books import check_books, read_levels
from twintape.core.markets import Market
from twintape.core.wire import decode_depth


def pair_of(a, b, parts=1):
    def chunks(frames):
        size = max(1, -(-len(frames) // parts))
        return [chunk(frames[start : start + size], 10**18 + start) for start in range(0, len(frames), size)]

    return compared([("a", chunks(a)), ("b", chunks(b))], Market.SPOT).pairs[0]


def books_at_common_ids(a, b):
    """What plain dictionaries say: ids where a level just mentioned differs, and where one is known to one line only."""
    events = [[decode_depth(one, Market.SPOT) for one in frames] for frames in (a, b)]
    bounds = [{event.final_update_id for event in own} for own in events]
    starts = [own[0].prev_update_id for own in events]
    assert starts[0] == starts[1]
    wrong = unknown = 0
    books, said = ({}, {}), (set(), set())
    for at in sorted(bounds[0] & bounds[1]):
        for own, book, keys in zip(events, books, said, strict=True):
            keys.clear()
            while own and own[0].final_update_id <= at:
                event = own.pop(0)
                for side, levels in (("b", event.bids), ("a", event.asks)):
                    for price, quantity in levels:
                        book[side, price] = float(quantity)
                        keys.add((side, price))
        touched = said[0] | said[1]
        wrong += any(key in books[0] and key in books[1] and books[0][key] != books[1][key] for key in touched)
        unknown += any((key in books[0]) != (key in books[1]) for key in touched)
    return wrong, unknown


def windows(rng, changes, *, chance):
    """Cut changes (one an id) into windows, and say of each touched level its last quantity."""
    made, prev, pending = [], 0, {}
    for update_id, (side, price, quantity) in enumerate(changes, 1):
        pending[side, price] = quantity
        if rng.random() < chance or update_id % 10 == 0:
            levels = [[(p, q) for (s, p), q in pending.items() if s == side] for side in "ba"]
            made.append(frame(prev, update_id, *levels))
            prev, pending = update_id, {}
    return made


@pytest.mark.parametrize("seed", range(30))
@pytest.mark.parametrize("block_bytes", [200, 1 << 20])
def test_what_is_wrong_and_what_is_unknown_is_what_plain_dictionaries_say(seed, block_bytes, monkeypatch):
    monkeypatch.setattr(compare_books, "BLOCK_BYTES", block_bytes)
    rng = random.Random(seed)
    changes = [(rng.choice("ba"), rng.randrange(1, 9), rng.randrange(4)) for _ in range(400)]
    a, b = (windows(rng, changes, chance=chance) for chance in (0.3, rng.choice([0.1, 0.3, 0.9])))
    for _ in range(rng.choice([0, 1, 5, 30])):
        at = rng.randrange(len(b))
        event = decode_depth(b[at], Market.SPOT)
        spoiled = [[(int(float(p)), int(float(q))) for p, q in side] for side in (event.bids, event.asks)]
        side = rng.choice([side for side in spoiled if side] or [spoiled[0]])
        if side and rng.random() < 0.5:
            side.pop(rng.randrange(len(side)))
        elif side:
            side[0] = (side[0][0], side[0][1] + rng.choice([0, 9]))
        b[at] = frame(event.prev_update_id, event.final_update_id, *spoiled)
    pair = pair_of(a, b, parts=3)
    assert (pair.conflicts, pair.undecided) == books_at_common_ids(a, b)
    bounds = [{decode_depth(one, Market.SPOT).final_update_id for one in frames} for frames in (a, b)]
    assert pair.levels["book"].of == len(bounds[0] & bounds[1])


def test_a_hole_makes_both_forget():
    known = [frame(0, 1, [(1, 5)]), frame(1, 2, [(2, 5)])]
    behind = [frame(3, 4, [(1, 5)]), frame(4, 5, [(9, 9)])]
    less = [frame(3, 4, []), frame(4, 5, [(9, 9)])]
    with_hole = pair_of([*known, *behind], [*known, *less])
    assert (with_hole.undecided, with_hole.conflicts, with_hole.omitted_by_b) == (1, 0, 1)
    middle = [frame(2, 3, [])]
    without = pair_of([*known, *middle, *behind], [*known, *middle, *less])
    assert (without.undecided, without.conflicts, without.omitted_by_b) == (0, 0, 1)


def test_a_level_that_was_said_wrongly_once_and_left_out_later_is_wrong_then():
    a = [frame(0, 1, [(1, 5)]), frame(1, 2, [(1, 6)]), frame(2, 3, [(1, 6)])]
    b = [frame(0, 1, [(1, 5)]), frame(1, 2, []), frame(2, 3, [])]
    pair = pair_of(a, b)
    assert (pair.conflicts, pair.undecided, pair.omitted_by_b) == (2, 0, 2)


def test_mentions_are_looked_for_in_the_windows_that_overlap_only():
    a = [frame(0, 4, [(1, 5)]), frame(4, 8, [(1, 5)]), frame(8, 10, [])]
    b = [frame(0, 5, [(1, 5)]), frame(5, 10, [])]
    assert (pair_of(a, b).omitted_by_a, pair_of(a, b).omitted_by_b) == (0, 0)
    late = [frame(0, 2, [(1, 5)]), frame(2, 10, [])]
    assert pair_of(a, late).omitted_by_b == 1
    assert pair_of(late, a).omitted_by_a == 1


def test_nothing_asked_is_nothing_read():
    ((_, a),) = hear([("a", [chunk([frame(0, 1, [(1, 2)])])])], Market.SPOT)
    placed = (a, np.zeros(1, np.int64), np.zeros(1, np.int64))
    found = check_books(placed, placed, np.zeros(1, bool), np.ones(1, bool), Market.SPOT)
    assert not found.wrong.any() | found.same_levels.any() | found.undecided.any()


def test_levels_come_in_the_order_asked_for_whatever_chunk_they_are_in():
    frames = [frame(n, n + 1, [(n + 1, n + 1)]) for n in range(6)]
    ((_, line),) = hear([("a", [chunk(frames[3:]), chunk(frames[:3])])], Market.SPOT)
    read = read_levels(line, np.array([5, 0, 3, 0]), (0, 0), Market.SPOT)
    assert read.bid_price.tolist() == [6, 1, 4, 1]
    assert len(read_levels(line, np.zeros(0, np.int64), (0, 0), Market.SPOT)) == 0


@pytest.mark.parametrize("top", [20.0, 40_000_000_000.0])
def test_prices_far_apart_are_compared_like_any_others(top):
    # Of the greater one, price and place together are beyond 64 bits.
    def level(price, quantity):
        return f'["{price:.8f}","{quantity}.0"]'.encode()

    def said(quantity):
        frames = [frame(n, n + 1, [(1, n)]) for n in range(3)]
        tiny = [level(0.00000001, 2), level(top, quantity), level(3.00000002, 1)]
        return [one.replace(b'"b":[', b'"b":[' + b",".join(tiny) + b",") for one in frames]

    assert pair_of(said(1), [*said(1)[:2], said(2)[2]]).conflicts == 1
    assert pair_of(said(1), [frame(0, 3, [(1, 2)]).replace(b'"b":[', b'"b":[' + level(0.00000001, 2) + b",")]).omitted_by_b == 6


def test_windows_without_levels_are_the_same_book():
    pair = pair_of([frame(0, 1), frame(1, 2)], [frame(0, 2)])
    assert (pair.findings, pair.conflicts, pair.levels["book"].of) == (["shifted"], 0, 1)
