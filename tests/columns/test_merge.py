"""The merge of one day: laws of the whole, and the tables it writes."""

import dataclasses
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.lines import (
    BEFORE,
    CITIES,
    DATE,
    MIDNIGHT_US,
    NOON_US,
    Exchange,
    Heard,
    chunks_of,
    expanded,
    files,
    hear,
    known_books,
    merge,
    printed,
    raw_lines,
    rows,
    scene,
)
from twintape.columns import findings
from twintape.columns import merge as merge_module
from twintape.columns.books import BookRow
from twintape.columns.expand import Outputs
from twintape.columns.fates import Fate
from twintape.columns.schema import ARRIVAL, DEPTH, TableReader
from twintape.core.errors import CorruptionError
from twintape.core.markets import Market

seeds = st.integers(0, 100_000)
markets = st.sampled_from(list(Market))


def spot(count=30, **more):
    return Exchange(Market.SPOT, 5, count, **more)


def verdicts(day):
    return [row["verdict"] for row in rows(day, "snapshot") if row["kind"] == "rest"]


# --- laws ----------------------------------------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(seeds, markets, st.integers(1, 3), st.randoms(use_true_random=False))
def test_neither_the_order_of_chunks_nor_how_lines_are_cut_changes_a_byte(seed, market, number, rng):
    found = scene(market, seed, lines=number)
    pieces = chunks_of(found.heard, sizes=[rng.randint(1, 9) for _ in range(3)])
    rng.shuffle(pieces)
    snapshots = list(found.snapshots)
    rng.shuffle(snapshots)
    assert files(found.merge(pieces, snapshots=snapshots)) == files(found.merge())


@settings(max_examples=50, deadline=None)
@given(seeds, markets, st.integers(1, 3))
def test_the_outputs_hold_exactly_the_raw_lines_and_merge_to_themselves(seed, market, number):
    found = scene(market, seed, lines=number)
    day = found.merge()
    chunks = expanded(day)
    assert raw_lines(chunks) == raw_lines(chunks_of(found.heard))
    assert {chunk.source for chunk in chunks} <= {-1}
    assert files(found.merge(chunks)) == files(day)


@settings(max_examples=25, deadline=None)
@given(seeds, markets, st.sampled_from(CITIES))
def test_a_generation_from_its_parents_outputs_is_the_same_as_from_all_raw_lines(seed, market, late):
    found = scene(market, seed, lines=3)
    early = [one for one in found.heard if one.collector != late]
    parent = found.merge(chunks_of(early))
    child = found.merge([*expanded(parent), *chunks_of([one for one in found.heard if one.collector == late])])
    assert files(child) == files(found.merge())


@settings(max_examples=50, deadline=None)
@given(seeds, markets, st.integers(1, 3))
def test_wherever_the_archive_does_not_say_it_is_unknown_the_book_is_the_true_one(seed, market, number):
    found = scene(market, seed, lines=number)
    day = found.merge()
    for update_id, book in known_books(day, market).items():
        assert book.levels() == found.exchange.book(update_id).levels()
    unknown = [bool(row["flags"] & 16) for row in rows(day, "depth")]
    assert (day.closing is None) == (not unknown or unknown[-1])
    if day.closing is not None:
        assert day.closing.sha256 == found.exchange.sha256(day.closing.update_id)
    assert day.checkpoints.failed == 0


@settings(max_examples=25, deadline=None)
@given(seeds, markets)
def test_lines_that_miss_different_frames_make_one_whole_day(seed, market):
    # Every event is lost by at most two of three lines.
    found = scene(market, seed, lines=1, trouble=False)
    exchange = found.exchange
    heard = []
    for number, city in enumerate(CITIES):
        events = [event for k, event in enumerate(exchange.events(2)) if (k + seed) % 3 == number or (k * 7 + seed) % 5 == number]
        heard += hear(printed(events), city)
    day = merge(chunks_of(heard), market, start_update_id=exchange.start_id, snapshots=[exchange.snapshot(exchange.start_id)])
    assert not any(row["flags"] & (1 | 16) for row in rows(day, "depth"))
    assert day.closing.sha256 == exchange.sha256(exchange.end_id)


# --- the depth table -----------------------------------------------------------------------------------------------------------


def test_a_row_says_where_it_was_taken_from_and_how_it_joins():
    exchange = spot()
    events = exchange.events(3)
    heard = hear(printed(events[:4]), "paris") + hear(printed([exchange.event(11, 16), *events[6:8], events[9]]), "tokyo")
    day = merge(chunks_of(heard), Market.SPOT, start_update_id=999)
    table = rows(day, "depth")
    assert [row["flags"] for row in table] == [16 | 1, 16, 16, 16, 16 | 2 | 4, 16 | 1, 16, 16 | 1]
    assert [row["collector"] for row in table] == ["paris"] * 4 + ["tokyo"] * 4
    assert [(row["prev_update_id"], row["final_update_id"]) for row in table[4:6]] == [(1011, 1016), (1018, 1021)]
    assert {row["receive_time"] for row in table} <= {one.receive_time_ns for one in heard}
    assert day.level_count == sum(len(row["bid_price"]) + len(row["ask_price"]) for row in table)


def test_more_events_than_a_row_group_holds_are_written_in_several(monkeypatch):
    monkeypatch.setattr(merge_module, "ROW_GROUP_EVENTS", 4)
    exchange = spot()
    heard = hear([b"<html>"] * 9) + [one for city in CITIES for one in hear(printed(exchange.events(2)), city)]
    small = merge(chunks_of(heard), Market.SPOT, snapshots=[exchange.snapshot(1011)])
    monkeypatch.undo()
    assert files(small) == files(merge(chunks_of(heard), Market.SPOT, snapshots=[exchange.snapshot(1011)]))
    monkeypatch.setattr(merge_module, "ROW_GROUP_EVENTS", 4)
    monkeypatch.setattr("twintape.columns.schema.ROW_GROUP_EVENTS", 4)
    groups = merge(chunks_of(heard), Market.SPOT, snapshots=[exchange.snapshot(1011)])
    assert rows(groups, "depth") == rows(small, "depth")


def test_frames_no_template_prints_are_kept_as_they_came():
    event = spot().event(0, 3)
    mixed = event.print(bids=(("99.5", "1.0"), ("99.50", "1.00")))
    spaced = spot().event(3, 6).print().replace(b'"a":', b'"a" : ')
    day = merge(chunks_of(hear([mixed, spaced]) + hear([mixed], "paris")), Market.SPOT)
    assert [row["frame"] for row in rows(day, "depth")] == [mixed, spaced]
    assert [row["template"] for row in rows(day, "depth")] == [-1, -1]
    assert [row["template"] for row in rows(day, "arrival")] == [-1]
    assert TableReader(files(day)["depth"], DEPTH).templates == []


@pytest.mark.parametrize("key", ["E", "T", "U", "u", "pu", "b", "a"])
def test_white_space_before_any_colon_changes_nothing_of_what_is_read(key):
    exchange = Exchange(Market.USDM, 5, 30)
    texts = printed(exchange.events(3))
    odd = [text.replace(b'"%b":' % key.encode(), b'"%b" :' % key.encode()) for text in texts]
    more = {"snapshots": [exchange.snapshot(exchange.start_id)]}
    one, other = (merge(chunks_of(hear(frames, start_us=NOON_US)), Market.USDM, **more) for frames in (texts, odd))
    assert other.closing == one.closing
    assert [row["ask_quantity"] for row in rows(other, "depth")] == [row["ask_quantity"] for row in rows(one, "depth")]
    assert raw_lines(expanded(other)) == raw_lines(chunks_of(hear(odd)))


def test_levels_of_three_elements_render():
    exchange = spot(9)
    texts = printed(exchange.events(3), suffix=",[]")
    day = merge(chunks_of(hear(texts)), Market.SPOT)
    assert {template.level_suffix for template in TableReader(files(day)["depth"], DEPTH).templates} == {",[]"}
    assert raw_lines(expanded(day)) == raw_lines(chunks_of(hear(texts)))


def test_a_file_lists_only_templates_of_its_own_rows():
    exchange = spot(9)
    first, second, third = exchange.events(3)
    heard = hear([first.print(wrapped=False), second.print(), third.print(extra='"x":1,')])
    heard += hear([second.print(suffix=",[]")], "virginia") + hear([second.print(extra='"y":2,')], "zurich")
    day = merge(chunks_of(heard), Market.SPOT, start_update_id=1003, end_update_id=1006)
    assert Counter(Fate(fate).reason for fate in day.fates.fate.tolist()) == {
        "owed": 2,
        "chosen": 1,
        "duplicate": 1,
        "variant": 1,
    }
    assert len(TableReader(files(day)["depth"], DEPTH).templates) == 1
    assert len(TableReader(files(day)["arrival"], ARRIVAL).templates) == 1


def test_an_empty_day_has_an_empty_depth_table_and_hands_its_opening_book_on():
    exchange = spot()
    opening = opening_of(exchange, 1000)
    for chunks in ([], chunks_of(hear(printed(exchange.events(3))))):
        day = merge(
            chunks, Market.SPOT, start_update_id=1000, end_update_id=1000, opening=opening, snapshots=[exchange.snapshot(1000)]
        )
        assert [table.name for table in day.tables] == ["depth", "snapshot"]
        assert rows(day, "depth") == []
        assert [row["kind"] for row in rows(day, "snapshot")] == ["opening", "closing"]
        assert day.closing.sha256 == exchange.sha256(1000)
    day = merge([], Market.SPOT)
    assert [(table.name, table.rows) for table in day.tables] == [("depth", 0)]
    assert day.closing is None


def test_frames_of_neighbours_are_left_to_them():
    exchange = spot(10, start_us=MIDNIGHT_US - 5 * 40_000)
    day = merge(chunks_of(hear(printed(exchange.events(1)), start_us=0)), Market.SPOT)
    assert [row["prev_update_id"] for row in rows(day, "depth")] == [1005, 1006, 1007, 1008, 1009]
    assert day.fates.fate.tolist().count(Fate.OWED) == 5
    garbled = chunks_of(hear([b"<html>"]), date=BEFORE)
    assert rows(merge(garbled, Market.SPOT), "verbatim") == []


# --- restarts ------------------------------------------------------------------------------------------------------------------


def test_two_id_spaces_in_a_day_are_two_chains_and_two_books():
    old = spot(6, start_id=500_000_000)
    new = Exchange(Market.SPOT, 6, 6, start_id=100, start_us=old.changes[-1].time_us + 10_000_000)
    heard = [one for city in CITIES[:2] for one in hear(printed(old.events(2) + new.events(2)), city)]
    snapshots = [old.snapshot(500_000_000), new.snapshot(103)]
    day = merge(chunks_of(heard), Market.SPOT, snapshots=snapshots)
    assert [row["flags"] for row in rows(day, "depth")] == [0, 0, 0, 8 | 16, 0, 0]
    assert day.closing.sha256 == new.sha256(106)
    assert verdicts(day) == ["anchor", "anchor"]
    again = merge(expanded(day), Market.SPOT, snapshots=snapshots)
    assert files(again) == files(day)


def test_a_day_that_begins_with_a_restart_says_so_and_does_not_open_yesterdays_book():
    new = Exchange(Market.SPOT, 6, 6, start_id=100)
    old = spot(6, start_id=500_000_000)
    more = {"start_update_id": 500_000_006, "opening": opening_of(old, 500_000_006)}
    day = merge(chunks_of(hear(printed(new.events(2)))), Market.SPOT, **more)
    assert [row["flags"] for row in rows(day, "depth")] == [8 | 16, 16, 16]
    assert day.closing is None


def test_a_restart_before_midnight_is_not_repeated_by_the_next_day():
    old = spot(6, start_id=500_000_000, start_us=MIDNIGHT_US - 2_000_000)
    new = Exchange(Market.SPOT, 6, 6, start_id=100, start_us=MIDNIGHT_US - 80_000)
    more = {"start_update_id": 102, "opening": opening_of(new, 102)}
    day = merge(chunks_of(hear(printed(old.events(1) + new.events(1)), start_us=0)), Market.SPOT, **more)
    assert [row["flags"] for row in rows(day, "depth")] == [0] * 4
    assert day.closing.sha256 == new.sha256(106)


# --- snapshots -----------------------------------------------------------------------------------------------------------------


def opening_of(exchange, update_id):
    return BookRow(update_id, -2, -3, *(np.array(side, np.int64) for side in exchange.book(update_id).levels()))


def test_the_snapshot_table_has_both_books_and_every_snapshot_with_its_verdict():
    exchange = spot()
    snapshots = [exchange.snapshot(1030), exchange.snapshot(1004, limit=0), exchange.snapshot(2000)]
    heard = chunks_of(hear(printed(exchange.events(3))))
    day = merge(heard, Market.SPOT, start_update_id=1000, opening=opening_of(exchange, 1000), snapshots=snapshots)
    table = rows(day, "snapshot")
    assert [row["kind"] for row in table] == ["opening", "rest", "rest", "closing"]
    assert [row["verdict"] for row in table] == [None, "passed", "passed", None]
    assert [row["last_update_id"] for row in table] == [1000, 1004, 1030, 1030]
    assert [row["limit"] for row in table] == [None, None, 1000, None]
    assert [row["receive_time"] is None for row in table] == [True, False, False, True]
    assert [row[name] for row in table[2:3] for name in ("bid_price", "bid_quantity")] == [
        table[3]["bid_price"],
        table[3]["bid_quantity"],
    ]


def test_a_snapshot_inside_a_gap_is_outside():
    exchange = spot()
    events = exchange.events(3)
    day = merge(chunks_of(hear(printed(events[:4] + events[6:]))), Market.SPOT, snapshots=[exchange.snapshot(1015)])
    assert verdicts(day) == ["outside"]
    assert day.checkpoints.outside == 1


def test_finer_numbers_of_a_snapshot_make_the_whole_day_finer():
    exchange = spot()
    copy = exchange.snapshot(1000)
    (price, quantity), *others = copy.snapshot.bids
    finer = dataclasses.replace(copy, snapshot=dataclasses.replace(copy.snapshot, bids=(*others, ("0.0001", "0.00000005"))))
    day = merge(chunks_of(hear(printed(exchange.events(3)))), Market.SPOT, opening=opening_of(exchange, 1000), snapshots=[finer])
    exponents = {(row["price_exponent"], row["quantity_exponent"]) for row in rows(day, "depth") + rows(day, "snapshot")[1:]}
    assert exponents == {(-4, -8)}
    assert day.closing.sha256 == exchange.sha256(1030)
    assert verdicts(day) == ["failed"]
    assert (price, quantity) not in finer.snapshot.bids


@pytest.mark.parametrize("level", [("0.000000000000000000001", "1"), ("1", "0.123456789"), ("1", "9" * 25)])
def test_a_snapshot_with_numbers_no_book_can_hold_is_left_out(level):
    exchange = spot()
    copy = exchange.snapshot(1000)
    absurd = dataclasses.replace(copy, snapshot=dataclasses.replace(copy.snapshot, asks=(level,)))
    heard = chunks_of(hear(printed(exchange.events(3))))
    day = merge(heard, Market.SPOT, snapshots=[absurd])
    assert files(day) == files(merge(heard, Market.SPOT))


@pytest.mark.parametrize("quantity", ["9" * 20, "999999999999.00000001", "92233720368547758.07"])
def test_a_frame_with_a_number_that_leaves_the_others_no_room_is_kept_verbatim_and_its_ids_are_missing(quantity):
    """One absurd number costs its own frame, on every line that heard it, and never the day."""
    exchange = spot()
    events = exchange.events(3)
    frames = printed(events)
    frames[4] = events[4].print(bids=(("1.00000001", quantity),), asks=())
    heard = [*hear(frames), *hear(frames, "paris", "0000bbbb-1")]
    day = merge(chunks_of(heard), Market.SPOT, snapshots=[exchange.snapshot(1000)])
    assert Counter(row["reason"] for row in rows(day, "verbatim")) == {"undecodable": 2}
    assert [(gap.after_update_id, gap.next_prev_update_id) for gap in findings.gaps(day)] == [(events[4].prev, events[4].final)]
    assert len(rows(day, "depth")) == len(events) - 1


def test_absurd_numbers_in_many_row_groups_are_found_in_one_round(monkeypatch):
    monkeypatch.setattr(merge_module, "ROW_GROUP_EVENTS", 2)
    monkeypatch.setattr(merge_module, "MISFIT_ROUNDS_MAX", 2)
    exchange = spot(60)
    events = exchange.events(1)
    absurd = range(1, len(events), 4)
    frames = printed(events)
    for number in absurd:
        frames[number] = events[number].print(bids=(("1.00000001", f"99999999{number:04d}.00000001"),), asks=())
    day = merge(chunks_of(hear(frames)), Market.SPOT)
    assert [row["reason"] for row in rows(day, "verbatim")] == ["undecodable"] * len(absurd)


def test_numbers_that_never_fit_are_an_error_and_no_endless_search(monkeypatch):
    monkeypatch.setattr(merge_module, "MISFIT_ROUNDS_MAX", 0)
    with pytest.raises(CorruptionError, match="do not fit into 64 bits"):
        merge(chunks_of(hear(printed(spot().events(3)))), Market.SPOT)


# --- verbatim ------------------------------------------------------------------------------------------------------------------


def test_everything_that_is_neither_chosen_nor_a_copy_is_kept_byte_for_byte_with_its_reason():
    exchange = spot(12)
    texts = printed(exchange.events(3))
    late = exchange.event(2, 5).print()
    liar = exchange.event(0, 3).print(bids=(("1.00", "77.777"),))
    heard = hear([*texts, late, b"<html>"], "amsterdam") + hear([liar, exchange.event(1, 5).print()], "paris")
    day = merge(chunks_of(heard), Market.SPOT)
    kept = {(row["collector"], row["reason"], row["frame"]) for row in rows(day, "verbatim")}
    assert kept == {
        ("amsterdam", "stale", late),
        ("amsterdam", "undecodable", b"<html>"),
        ("paris", "conflict", liar),
        ("paris", "variant", exchange.event(1, 5).print()),
    }


def test_a_frame_that_is_nothing_at_all_survives():
    heard = [Heard("tokyo", "0000aaaa-1", 7, b"")]
    day = merge(chunks_of(heard), Market.SPOT)
    assert [row["frame"] for row in rows(day, "verbatim")] == [b""]
    assert raw_lines(expanded(day)) == raw_lines(chunks_of(heard))
    assert Outputs(files(day)).reader("arrival", ARRIVAL) is None
    assert DATE in {chunk.date for chunk in expanded(day)}
