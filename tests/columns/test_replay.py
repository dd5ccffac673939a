"""The book of a published day, from its tables alone."""

from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.lines import Exchange, chunks_of, files, hear, merge, scene
from twintape.columns.books import BookRow
from twintape.columns.checkpoint import EVERYWHERE, Region
from twintape.columns.replay import Replay
from twintape.columns.schema import BOOK_UNKNOWN, DEPTH, TableReader
from twintape.core.errors import CorruptionError
from twintape.core.markets import Market
from twintape.io.day import read_snapshots

seeds = st.integers(0, 100_000)


def depth_of(day):
    return next(iter(TableReader(table_of(day, "depth"), DEPTH).depth()))


def table_of(day, name):
    return files(day).get(name)


def rows_of(day):
    table = table_of(day, "snapshot")
    return [] if table is None else read_snapshots(table)


def quiet_day(places):
    """Return a day on which nothing goes wrong, with snapshots of three levels a side at some changes."""
    exchange = Exchange(Market.USDM, 7, 60)
    heard = hear([event.print() for event in exchange.events(3)], "tokyo", "00000000-1")
    snapshots = shallow(exchange, places, 3)
    return merge(chunks_of(heard), Market.USDM, start_update_id=exchange.start_id, snapshots=snapshots)


def shallow(exchange, places, levels):
    """Snapshots that list so many levels a side, at some ids."""
    ids = [exchange.start_id, *(change.final for change in exchange.changes)]
    return [exchange.snapshot(ids[place % len(ids)], levels=levels, limit=levels) for place in sorted(set(places))]


def inside(sides, region):
    return [
        [(price, quantity) for price, quantity in zip(prices, quantities, strict=True) if region.holds(price)]
        for prices, quantities in (sides[:2], sides[2:])
    ]


def true_sides(exchange, update_id, columns):
    factor = 10 ** (-2 - columns.price_exponent), 10 ** (-3 - columns.quantity_exponent)
    return [[value * factor[place % 2] for value in side] for place, side in enumerate(exchange.book(update_id).levels())]


def ours(replay):
    return [side.tolist() for side in replay.book.levels()]


@settings(max_examples=60, deadline=None)
@given(
    seeds,
    st.sampled_from(list(Market)),
    st.lists(st.integers(0, 60), min_size=1, max_size=4),
    st.integers(1, 6),
    st.integers(1, 7),
)
def test_at_every_row_the_book_is_the_true_one_inside_its_region_and_says_no_more_at_the_end_than_the_merge(
    seed, market, places, levels, step
):
    found = scene(market, seed, lines=2)
    day = found.merge(snapshots=shallow(found.exchange, places, levels))
    columns, rows = depth_of(day), rows_of(day)
    assert day.checkpoints.failed == 0
    for stop in range(1, len(columns) + 1, step):
        replay = Replay(rows)
        replay.advance(columns, stop)
        assert replay.known == (not columns.flags[stop - 1] & BOOK_UNKNOWN)
        if replay.known:
            truth = true_sides(found.exchange, int(columns.final[stop - 1]), columns)
            assert inside(ours(replay), replay.region) == inside(truth, replay.region)
            if stop < len(columns):
                before, region = inside(ours(replay), EVERYWHERE), replay.region
                replay.look_ahead([(columns, stop)])
                assert inside(ours(replay), replay.region) == inside(truth, replay.region)
                assert all(set(old) <= set(new) for old, new in zip(before, inside(ours(replay), EVERYWHERE), strict=True))
                assert replay.region.low <= region.low
                assert replay.region.high >= region.high
    whole = Replay(rows)
    whole.advance(columns, len(columns))
    closing = [row for row in rows if row.kind == "closing"]
    assert bool(closing) == whole.known
    for row in closing:
        assert ours(whole) == [
            side.tolist() for side in (row.book.bid_price, row.book.bid_quantity, row.book.ask_price, row.book.ask_quantity)
        ]
        assert whole.region == row.book.region


def test_in_pieces_it_is_the_same_book():
    day = quiet_day([0, 20, 40])
    sink = table_of(day, "depth")
    columns, rows = depth_of(day), rows_of(day)
    whole = Replay(rows)
    whole.advance(columns, len(columns))
    assert whole.known
    for position in (1, len(columns) // 2):
        pieces = Replay(rows)
        pieces.advance(columns, 0)
        pieces.advance(columns, position)
        rest = next(iter(TableReader(sink, DEPTH).depth()))
        pieces.advance(rest_of(rest, position), len(rest) - position)
        assert ours(pieces) == ours(whole)
        assert pieces.region == whole.region


def rest_of(columns, position):
    """Return the columns from a row on."""
    changed = {}
    for field in fields(columns):
        value = getattr(columns, field.name)
        if isinstance(value, np.ndarray) and len(value) == len(columns):
            changed[field.name] = value[position:]
    for side in ("bid", "ask"):
        offsets = getattr(columns, f"{side}_offsets")
        begin = int(offsets[position])
        changed |= {f"{side}_offsets": offsets[position:] - begin}
        changed |= {f"{side}_{what}": getattr(columns, f"{side}_{what}")[begin:] for what in ("price", "quantity")}
    return replace(columns, **changed)


def test_a_day_whose_ids_restart_learns_from_no_checkpoint():
    day = quiet_day([0, 20, 40])
    columns, rows = depth_of(day), rows_of(day)
    learning, cautious = Replay(rows), Replay(rows, restarts=True)
    for replay in (learning, cautious):
        replay.advance(columns, len(columns))
    assert cautious.region.high - cautious.region.low < learning.region.high - learning.region.low


def test_a_row_that_claims_a_known_book_without_an_anchor_is_corruption():
    day = quiet_day([0])
    columns = depth_of(day)
    with pytest.raises(CorruptionError, match="no anchor covers it"):
        Replay([]).advance(columns, len(columns))


def test_looking_ahead_stops_where_the_book_is_lost():
    day = quiet_day([0, 50])
    columns, rows = depth_of(day), rows_of(day)
    replay = Replay(rows)
    replay.advance(columns, 2)
    before = replay.region
    flags = columns.flags.copy()
    flags[3] |= BOOK_UNKNOWN
    columns = replace(columns, flags=flags)
    replay.look_ahead([(columns, 2)])
    assert replay.region == before


def test_a_checkpoint_as_old_as_the_opening_teaches_behind_the_first_row():
    exchange = Exchange(Market.USDM, 7, 60)
    heard = hear([event.print() for event in exchange.events(3)], "tokyo", "00000000-1")
    sides = [np.array(side[:2], np.int64) for side in exchange.book(exchange.start_id).levels()]
    opening = BookRow(exchange.start_id, -2, -3, *sides, Region(int(sides[0][-1]), int(sides[2][-1])))
    snapshots = shallow(exchange, [0], 5)
    day = merge(chunks_of(heard), Market.USDM, start_update_id=exchange.start_id, snapshots=snapshots, opening=opening)
    rows, columns = rows_of(day), depth_of(day)
    assert [(row.kind, row.verdict) for row in rows] == [("opening", None), ("rest", "passed"), ("closing", None)]
    replay = Replay(rows)
    replay.advance(columns, len(columns))
    assert ours(replay)[0] == rows[2].book.bid_price.tolist()
    assert replay.region == rows[2].book.region == rows[1].book.region


def test_looking_ahead_at_a_market_that_has_moved_away_learns_nothing():
    day = quiet_day([0, 50])
    columns, rows = depth_of(day), rows_of(day)
    replay = Replay(rows)
    replay.advance(columns, 2)
    replay.region = Region(1, 2)
    replay.look_ahead([(columns, 2)])
    assert replay.region == Region(1, 2)
