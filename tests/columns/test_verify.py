"""What was read back is refused unless it is exactly what the raw lines say."""

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.lines import BEFORE, DATE, NOON_US, Exchange, chunks_of, files, hear, merge, printed, scene
from support.tables import changed, replaced
from twintape.columns.expand import Outputs
from twintape.columns.schema import ARRIVAL, DEPTH, SNAPSHOT, VERBATIM
from twintape.columns.verify import check_chain, verify_day
from twintape.core.errors import CorruptionError
from twintape.core.markets import Market

SCHEMAS = {"depth": DEPTH, "arrival": ARRIVAL, "snapshot": SNAPSHOT, "verbatim": VERBATIM}


def verify(chunks, day, *, tables=None, market=Market.SPOT):
    return verify_day(
        chunks,
        Outputs(files(day) if tables is None else tables),
        date=DATE,
        market=market,
        start_update_id=day.bounds.start_update_id,
        end_update_id=day.bounds.end_update_id,
    )


def published(**more):
    """A day of two lines with a gap, an overlap, a variant and a garbled frame, and its neighbours' frames around it."""
    exchange = Exchange(Market.SPOT, 7, 60)
    events = exchange.events(3)
    del events[9]
    events[4] = exchange.event(11, 15)
    heard = (
        hear([*printed(events), b"<html>"])
        + hear(printed(exchange.events(3)[:3]), "zurich")
        + hear([exchange.event(1, 5).print()], "y")
    )
    chunks = chunks_of(heard)
    return chunks, merge(chunks, Market.SPOT, start_update_id=1003, end_update_id=1057, **more)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 100_000), st.sampled_from(list(Market)), st.integers(1, 3))
def test_what_a_merge_made_is_verified(seed, market, number):
    found = scene(market, seed, lines=number)
    chunks = chunks_of(found.heard)
    day = found.merge(chunks)
    verified = verify(chunks, day, market=market)
    assert (verified.raw_lines, verified.settled, verified.owed) == (len(found.heard), len(found.heard), 0)
    assert verified.rendered + verified.kept == len(found.heard)
    assert verified.chain.rows == len(day.fates.chain)
    inner = [(int(a), int(day.lines.prev[row])) for a, row in zip(day.fates.gap_after, day.fates.chain, strict=True) if a >= 0]
    assert verified.chain.gaps == [gap for gap in inner if gap[0] != found.exchange.start_id]


def test_frames_of_other_days_are_owed():
    chunks, day = published()
    verified = verify(chunks, day)
    # Before the start: one event on both lines; behind the end: one.
    assert (verified.owed, verified.settled) == (3, len(day.lines) - 3)
    assert len(verified.chain.gaps) == 1
    assert verified.chain.overlaps == 1
    assert verified.chain.last_final == 1057


def test_the_chain_of_a_restarted_id_space_is_a_span_of_its_own():
    old = Exchange(Market.SPOT, 1, 6, start_id=500_000_000)
    new = Exchange(Market.SPOT, 2, 6, start_id=100, start_us=old.changes[-1].time_us + 10_000_000)
    chunks = chunks_of(hear(printed(old.events(3) + new.events(2))) + hear(printed(old.events(3)), "zurich"))
    day = merge(chunks, Market.SPOT)
    verified = verify(chunks, day)
    assert verified.chain.epochs == 1
    assert verified.chain.spans == [(500_000_000, 500_000_006), (100, 106)]
    tables = files(day)
    broken = changed(tables["arrival"], ARRIVAL, lambda table: table.slice(1))
    with pytest.raises(CorruptionError, match="is not in the archive"):
        verify(chunks, day, tables=tables | {"arrival": broken})


def test_a_day_that_begins_with_a_restart_is_verified_by_the_ids_behind_it():
    new = Exchange(Market.SPOT, 2, 6, start_id=100)
    chunks = chunks_of(hear(printed(new.events(2))) + hear(printed(new.events(2)), "zurich"))
    day = merge(chunks, Market.SPOT, start_update_id=500_000_000)
    assert verify(chunks, day).owed == 0
    broken = changed(files(day)["arrival"], ARRIVAL, lambda table: table.slice(1))
    with pytest.raises(CorruptionError, match="is not in the archive"):
        verify(chunks, day, tables=files(day) | {"arrival": broken})


@pytest.mark.parametrize(
    ("column", "row", "value"),
    [
        ("receive_time", 3, 1),
        ("event_time", 0, 1_795_348_801_000_000),
        ("bid_quantity", 2, None),
        ("ask_price", 2, None),
        ("collector", 1, "zurich"),
        ("connection", 1, "0000aaaa-9"),
        ("final_update_id", 4, 1014),
    ],
)
def test_one_changed_value_of_a_depth_row_is_refused(column, row, value):
    exchange = Exchange(Market.SPOT, 7, 60)
    chunks = chunks_of(hear(printed(exchange.events(3))))
    day = merge(chunks, Market.SPOT)
    tables = files(day)
    if value is None:
        event = exchange.events(3)[row]
        side = event.bids if column.startswith("bid") else event.asks
        value = [7] * len(side)
        assert side
    tables["depth"] = replaced(tables["depth"], DEPTH, column, row, value)
    with pytest.raises(CorruptionError):
        verify(chunks, day, tables=tables)


@pytest.mark.parametrize("table", ["depth", "arrival", "verbatim"])
def test_a_dropped_row_is_refused(table):
    chunks, day = published()
    tables = files(day)
    for begin in (0, 1):
        broken = changed(tables[table], SCHEMAS[table], lambda rows, begin=begin: rows.slice(begin, rows.num_rows - 1))
        with pytest.raises(CorruptionError):
            verify(chunks, day, tables=tables | {table: broken})


@pytest.mark.parametrize("table", ["arrival", "verbatim"])
def test_a_missing_table_is_refused(table):
    chunks, day = published()
    with pytest.raises(CorruptionError, match="is not in the archive"):
        verify(chunks, day, tables={name: data for name, data in files(day).items() if name != table})


@pytest.mark.parametrize("table", ["arrival", "verbatim"])
def test_a_row_too_many_is_refused(table):
    chunks, day = published()
    tables = files(day)
    twice = changed(tables[table], SCHEMAS[table], lambda rows: pa.concat_tables([rows, rows.slice(0, 1)]))
    with pytest.raises(CorruptionError, match="1 archived frames are not among the raw lines"):
        verify(chunks, day, tables=tables | {table: twice})


@pytest.mark.parametrize("wrong", [1, 2, 8, 3])
def test_wrong_flags_are_refused(wrong):
    chunks, day = published()
    tables = files(day)
    for row in range(1, len(day.fates.chain)):
        flags = int(day.flags[row]) ^ wrong
        if wrong == 8 and not int(day.flags[row]) & 3:
            continue  # a restart joins anything; what it starts is the proof's to say
        broken = replaced(tables["depth"], DEPTH, "flags", row, flags)
        with pytest.raises(CorruptionError, match=f"row {row}: "):
            verify(chunks, day, tables=tables | {"depth": broken})


def test_a_row_that_ends_before_the_one_before_it_is_refused():
    _, day = published()
    backwards = changed(files(day)["depth"], DEPTH, lambda rows: rows.take([1, 0, *range(2, rows.num_rows)]))
    with pytest.raises(CorruptionError, match="row 1: "):
        check_chain(Outputs({"depth": backwards}))


def test_the_chain_is_walked_across_row_groups(monkeypatch):
    _, day = published()
    whole = check_chain(Outputs(files(day)))
    monkeypatch.setattr("twintape.columns.schema.ROW_GROUP_EVENTS", 4)
    small = changed(files(day)["depth"], DEPTH, lambda rows: rows)
    monkeypatch.undo()
    assert check_chain(Outputs({"depth": small})) == whole


def test_a_day_without_a_depth_table_has_no_chain():
    with pytest.raises(CorruptionError, match="without a depth table"):
        check_chain(Outputs({}))


def test_an_empty_day_is_verified_and_an_event_it_should_have_is_refused():
    texts = printed(Exchange(Market.SPOT, 7, 6).events(3))
    chunks = chunks_of(hear(texts))
    for pin in (1000, 1006):
        day = merge(chunks, Market.SPOT, start_update_id=pin, end_update_id=pin)
        verified = verify(chunks, day)
        assert (verified.owed, verified.settled, verified.chain.last_final) == (2, 0, None)
    nothing = merge([], Market.SPOT)
    assert verify([], nothing).chain.spans == []
    assert verify(chunks_of(hear(texts), date=BEFORE), nothing).owed == 2
    with pytest.raises(CorruptionError, match="is not in the archive"):
        verify(chunks, nothing)


def test_garbled_frames_go_by_the_date_they_are_filed_under_whatever_ids_they_seem_to_have():
    exchange = Exchange(Market.SPOT, 7, 6)
    torn = exchange.event(0, 3).print()[:-2]
    chunks = chunks_of(hear(printed(exchange.events(3)))) + chunks_of(hear([torn, b"<html>"], "zurich"), date=BEFORE)
    day = merge(chunks, Market.SPOT)
    assert verify(chunks, day).owed == 2


def test_a_stream_that_is_not_spliced_is_verified_by_date_alone():
    ours, theirs = chunks_of(hear([b"{}", b"<html>"])), chunks_of(hear([b"[]"]), date=BEFORE)
    tables = files(merge(ours, Market.SPOT))
    verified = verify_day(
        [*ours, *theirs],
        Outputs({"verbatim": tables["verbatim"]}),
        date=DATE,
        market=Market.SPOT,
        start_update_id=None,
        end_update_id=None,
    )
    assert (verified.settled, verified.owed, verified.chain, verified.rendered, verified.kept) == (2, 1, None, 0, 2)


def test_another_dates_frames_with_ids_of_this_day_are_left_to_it_behind_a_restart():
    """Ids jump up and fall back behind midnight: what they say of the day is nothing, what the date says is enough."""
    day_us = 86_400_000_000
    today = Exchange(Market.SPOT, 1, 40, start_id=1000)
    above = Exchange(Market.SPOT, 2, 10, start_id=5_000_000, start_us=NOON_US + day_us)
    again = Exchange(Market.SPOT, 3, 10, start_id=1010, start_us=NOON_US + day_us + 60_000_000)
    heard = hear(frame for exchange in (today, above, again) for frame in printed(exchange.events(2)))
    chunks = chunks_of(heard)
    day = merge(chunks, Market.SPOT, start_update_id=1000)
    bounds = day.bounds
    verified = verify_day(
        chunks,
        Outputs(files(day)),
        date=DATE,
        market=Market.SPOT,
        start_update_id=bounds.start_update_id,
        end_update_id=bounds.end_update_id,
    )
    assert (verified.settled, verified.owed) == (20, 10)
