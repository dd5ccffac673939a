"""A published day turned back into raw lines, and multisets of lines compared."""

from collections import Counter

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.lines import DATE, Exchange, chunks_of, expanded, files, hear, merge, printed, raw_lines, scene
from support.tables import changed
from twintape.columns import expand as module
from twintape.columns.expand import Outputs, expand
from twintape.columns.lines import Chunk
from twintape.columns.messages import merge_messages_day
from twintape.columns.parse import TEXT_BYTES_MAX
from twintape.columns.schema import ARRIVAL, DEPTH
from twintape.core.errors import CorruptionError
from twintape.core.markets import Market


def constant(text, collector="tokyo", connection="0000aaaa-1"):
    return Chunk(collector, connection, 0, DATE, lambda: text)


def many(market=Market.SPOT):
    """Three lines of 21 events, some of them duplicates, variants, garbled and printed oddly."""
    exchange = Exchange(market, 7, 63)
    texts = printed(exchange.events(3))
    odd = [text.replace(b'"b":', b'"b": ') if k % 5 == 0 else text for k, text in enumerate(texts)]
    return hear(odd) + hear(odd[::2], "paris") + hear([b"<html>", *texts], "rome") + hear(odd, "paris", "0000bbbb-2")


# --- expanding -----------------------------------------------------------------------------------------------------------------


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 100_000), st.sampled_from(list(Market)), st.integers(1, 3))
def test_the_chunks_hold_the_raw_lines_and_may_be_loaded_in_any_order_and_again(seed, market, number):
    found = scene(market, seed, lines=number)
    chunks = expanded(found.merge())
    first = [chunk.load() for chunk in chunks]
    again = [chunk.load() for chunk in chunks[::-1]][::-1]
    assert first == again == [chunk.load() for chunk in chunks]
    assert raw_lines(chunks) == raw_lines(chunks_of(found.heard))
    assert all(chunk.date == DATE and chunk.source == -1 for chunk in chunks)


def test_each_row_group_and_connection_is_a_chunk(monkeypatch):
    heard = many()
    whole = expanded(merge(chunks_of(heard), Market.SPOT))
    assert len(whole) == 4 + 1
    monkeypatch.setattr("twintape.columns.schema.ROW_GROUP_EVENTS", 8)
    monkeypatch.setattr("twintape.columns.merge.ROW_GROUP_EVENTS", 8)
    monkeypatch.setattr(module, "ROW_GROUP_EVENTS", 8)
    parts = expanded(merge(chunks_of(heard), Market.SPOT))
    assert len(parts) > len(whole)
    assert raw_lines(parts) == raw_lines(whole) == raw_lines(chunks_of(heard))


def test_no_chunk_of_verbatim_lines_is_longer_than_a_header_can_say(monkeypatch):
    heard = hear([b"<html>%d" % number for number in range(50)]) + hear([b"<html>", b"garbled"], "paris")
    tables = files(merge(chunks_of(heard), Market.SPOT))
    whole = expand(Outputs({"verbatim": tables["verbatim"]}), DATE)
    assert [chunk.collector for chunk in whole] == ["paris", "tokyo"]
    assert module.VERBATIM_BYTES_MIN < TEXT_BYTES_MAX
    monkeypatch.setattr(module, "VERBATIM_BYTES_MIN", 100)
    parts = expand(Outputs({"verbatim": tables["verbatim"]}), DATE)
    sizes = {chunk.collector: [] for chunk in parts}
    for chunk in parts:
        sizes[chunk.collector].append(len(chunk.load()))
    assert all(100 <= size < 200 for size in sizes["tokyo"][:-1])
    assert len(sizes["tokyo"]) > 5
    assert len(sizes["paris"]) == 1
    assert raw_lines(parts) == raw_lines(whole) == raw_lines(chunks_of(heard))


def test_nothing_expands_to_nothing():
    assert expand(Outputs({}), DATE) == []
    assert expanded(merge([], Market.SPOT)) == []


def test_a_stream_that_is_not_spliced_has_only_verbatim_lines():
    tables = files(merge(chunks_of(hear([b"<html>", b"{}"])), Market.SPOT))
    chunks = expand(Outputs({"verbatim": tables["verbatim"]}), DATE)
    assert Counter(line.split(b" ", 1)[1] for chunk in chunks for line in chunk.load().splitlines()) == {b"<html>": 1, b"{}": 1}


def test_copies_of_ids_that_repeat_in_another_epoch_belong_to_the_nearer_one_in_time():
    # The first id space climbs past a million; the second begins where the first did, with the very same ids.
    low = Exchange(Market.SPOT, 1, 3, start_id=100)
    high = Exchange(Market.SPOT, 2, 3, start_id=5_000_000, start_us=low.changes[-1].time_us + 60_000_000)
    again = Exchange(Market.SPOT, 3, 3, start_id=100, start_us=high.changes[-1].time_us + 60_000_000)
    texts = printed([exchange.event(0, 3) for exchange in (low, high, again)])
    for copies in (texts, texts[2:], texts[:1]):
        heard = hear(texts) + hear(copies, "zurich")
        day = merge(chunks_of(heard), Market.SPOT)
        assert Counter(day.fates.fate.tolist())[2] == len(copies)
        assert raw_lines(expanded(day)) == raw_lines(chunks_of(heard))


def test_the_order_of_the_arrival_rows_makes_no_difference():
    tables = files(merge(chunks_of(many()), Market.SPOT))
    mixed = changed(tables["arrival"], ARRIVAL, lambda table: table.take(pa.array(range(table.num_rows - 1, -1, -1))))
    assert raw_lines(expand(Outputs(tables | {"arrival": mixed}), DATE)) == raw_lines(expand(Outputs(tables), DATE))


def test_an_arrival_row_without_its_depth_row_is_corrupt():
    tables = files(merge(chunks_of(many()), Market.SPOT))
    for broken in (
        changed(tables["depth"], DEPTH, lambda table: table.slice(1)),
        changed(tables["depth"], DEPTH, lambda table: table.slice(0, 0)),
        changed(tables["depth"], DEPTH, lambda table: table.slice(0, table.num_rows - 1)),
    ):
        with pytest.raises(CorruptionError, match="have no depth row"):
            expand(Outputs(tables | {"depth": broken}), DATE)


def test_an_arrival_row_that_needs_the_frame_of_a_row_without_one_is_corrupt():
    tables = files(
        merge(chunks_of(hear(texts := printed(Exchange(Market.SPOT, 1, 6).events(3))) + hear(texts, "zurich")), Market.SPOT)
    )
    arrival = changed(
        tables["arrival"],
        ARRIVAL,
        lambda table: table.set_column(6, ARRIVAL.field(6), pa.array([-1] * table.num_rows, pa.int16())),
    )
    chunks = expand(Outputs(tables | {"arrival": arrival}), DATE)
    with pytest.raises(CorruptionError, match="without template"):
        [chunk.load() for chunk in chunks]


def test_a_damaged_file_is_corrupt():
    tables = files(merge(chunks_of(many()), Market.SPOT))
    for name in tables:
        with pytest.raises(CorruptionError):
            expand(Outputs(tables | {name: tables[name][:-9]}), DATE)
    assert set(tables) == {"depth", "arrival", "verbatim"}


def test_typed_rows_and_their_copies_come_back():
    frame = b'{"u":7,"s":"A","b":"1.0","B":"2","a":"3.0","A":"4"}'
    heard = [constant(b"17 %b\n" % frame), constant(b"18 %b\n" % frame, "paris", "0000bbbb-1")]
    tables = {table.name: table.data for table in merge_messages_day("bookTicker", heard).tables}
    assert raw_lines(expand(Outputs(tables), DATE)) == raw_lines(heard)
