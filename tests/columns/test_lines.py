"""All lines of a day as one table, and which frames belong to the day."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.lines import BEFORE, BEHIND, DATE, MIDNIGHT_US, Exchange, Heard, chunks_of, hear, printed, scene
from twintape.columns import lines as module
from twintape.columns.lines import (
    DAY_US,
    RUN_MAX,
    Chunk,
    ChunkTexts,
    HeaderPlace,
    Lines,
    day_bounds,
    midnight_us,
    read_lines,
    stretch_of,
)
from twintape.columns.parse import HEADER
from twintape.columns.templates import TemplateSet
from twintape.core.errors import CorruptionError
from twintape.core.markets import Market

SECOND_US = 1_000_000


def lines_of(heard, market=Market.SPOT, start=None):
    chunks = chunks_of(heard)
    return read_lines(chunks, market, start_update_id=start), chunks


def bounds_of(heard, *, start=None, end=None, market=Market.SPOT):
    lines, chunks = lines_of(heard, market, start)
    bounds = day_bounds(lines, chunks, DATE, start, end)
    inside = sorted(zip(lines.prev[bounds.inside].tolist(), lines.final[bounds.inside].tolist(), strict=True))
    return bounds, inside


def around(midnight_us, *, start_id=1000):
    """Ten spot events of one id each, 40 ms apart; the sixth is the first at or after the midnight."""
    exchange = Exchange(Market.SPOT, 1, 10, start_id=start_id, start_us=midnight_us - 5 * 40_000)
    return exchange.events(1)


# --- reading -------------------------------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from(list(Market)), st.randoms(use_true_random=False))
def test_the_table_depends_neither_on_the_order_of_chunks_nor_on_how_lines_are_cut(seed, market, rng):
    heard = scene(market, seed, lines=3).heard
    whole = read_lines(chunks_of(heard), market, start_update_id=None)
    pieces = chunks_of(heard, sizes=[1, 3, 2])
    rng.shuffle(pieces)
    cut = read_lines(pieces, market, start_update_id=None)
    assert cut.collectors == whole.collectors
    assert cut.connections == whole.connections
    assert cut.templates == whole.templates
    for name in (
        "epoch",
        "group",
        "final",
        "prev",
        "first",
        "line",
        "connection",
        "receive_time_ns",
        "template",
        "hash_a",
        "hash_b",
    ):
        assert np.array_equal(getattr(cut, name), getattr(whole, name)), name
    assert len(cut) == len(heard)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from(list(Market)))
def test_every_place_names_the_line_its_header_was_read_from(seed, market):
    heard = scene(market, seed).heard
    lines, chunks = lines_of(heard, market)
    texts = ChunkTexts(chunks, limit=1).lines(lines.chunk, lines.offset, lines.length)
    assert sorted(text + b"\n" for text in texts) == sorted(one.text for one in heard)
    for text, time, line in zip(texts, lines.receive_time_ns.tolist(), lines.line.tolist(), strict=True):
        assert text.startswith(b"%d " % time)
        assert lines.collectors[line] in {one.collector for one in heard}


def test_frames_of_the_same_ids_are_a_group_and_undecodable_ones_come_first_without_one():
    events = Exchange(Market.SPOT, 1, 6).events(3)
    heard = hear([b"<html>", *printed(events)]) + hear(printed(events), "paris")
    lines, _ = lines_of(heard)
    assert lines.group.tolist() == [-1, 0, 0, 1, 1]
    assert lines.epoch.tolist() == [-1, 0, 0, 0, 0]
    assert lines.template.tolist()[0] == -2
    assert [lines.collectors[line] for line in lines.line.tolist()[1:]] == ["paris", "tokyo"] * 2


def test_frames_one_connection_heard_at_one_time_are_ordered_by_what_they_say():
    one, other = Exchange(Market.USDM, 1, 3).event(0, 3).print(), Exchange(Market.USDM, 1, 3).event(0, 3).print(suffix=",[]")
    odd = one.replace(b'"b":', b'"b": ')
    copies = [Heard("tokyo", "0000aaaa-1", 5, text) for text in (one, other, odd)]
    orders = []
    for heard in (copies, copies[::-1]):
        lines, chunks = lines_of(heard, Market.USDM)
        orders.append(ChunkTexts(chunks).lines(lines.chunk, lines.offset, lines.length))
    assert orders[0] == orders[1]


def test_headers_that_are_there_are_not_read_from_the_text_again():
    chunks = chunks_of(hear(printed(Exchange(Market.SPOT, 1, 6).events(3))))

    def refuse():
        raise AssertionError("the text was read")

    def swept(chunk):
        headers = chunk.read(Market.SPOT, TemplateSet())
        return replace(chunk, load=refuse, headers=lambda: headers, count=len(headers))

    for chunk in map(swept, chunks):
        assert replace(chunk, count=None).headers_count() == chunk.headers_count() == chunk.count
    found = read_lines([swept(chunk) for chunk in chunks], Market.SPOT, start_update_id=None)
    expected = read_lines(chunks, Market.SPOT, start_update_id=None)
    assert (found.final.tolist(), found.templates) == (expected.final.tolist(), expected.templates)


class Shelf:
    """A file of headers as a merge maps it: whoever asks gets memory of its own."""

    def __init__(self):
        self.rows = np.zeros(0, HEADER)
        self.asked = 0

    def put(self, chunk, market=Market.SPOT):
        headers = chunk.read(market, TemplateSet())
        first = len(self.rows)
        self.rows = np.concatenate([self.rows, headers.rows])
        return replace(chunk, headers=lambda: headers, count=len(headers), place=HeaderPlace(self.of, first, headers.templates))

    def of(self, first, count):
        self.asked += 1
        return self.rows[first : first + count].copy()


COLUMNS = [name for name in Lines.__slots__ if name not in ("collectors", "connections", "templates", "place")]


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from(list(Market)), st.randoms(use_true_random=False))
def test_headers_that_fill_a_stretch_of_a_file_are_taken_as_they_lie_there_in_any_order(seed, market, rng):
    chunks = chunks_of(scene(market, seed, lines=3).heard, sizes=[1, 3, 2])
    order = list(range(len(chunks)))
    rng.shuffle(order)
    shelf, placed = Shelf(), list(chunks)
    for number in order:
        placed[number] = shelf.put(chunks[number], market)
    before = shelf.rows.copy()
    expected, found = (read_lines(some, market, start_update_id=None) for some in (chunks, placed))
    assert shelf.asked == (len(chunks) > 0)  # a scene may be one in which nobody heard anything
    for name in COLUMNS:
        assert np.array_equal(getattr(found, name), getattr(expected, name)), name
    assert found.templates == expected.templates
    assert (shelf.rows == before).all()
    texts = [
        ChunkTexts(some).lines(lines.chunk, lines.offset, lines.length) for some, lines in ((chunks, expected), (placed, found))
    ]
    assert texts[0] == texts[1]


def test_headers_that_lie_apart_are_copied():
    chunks = chunks_of(hear(printed(Exchange(Market.SPOT, 1, 12).events(2))), sizes=[2])
    shelf, other = Shelf(), Shelf()
    whole = [shelf.put(chunk) for chunk in chunks]
    elsewhere = [*whole[:-1], other.put(chunks[-1])]
    for apart in ([whole[0], whole[2]], elsewhere, [*whole[:-1], chunks[-1]], []):
        assert stretch_of(apart) is None
    assert shelf.asked == other.asked == 0
    rows, chunk, counts, _ = stretch_of(whole[1:3][::-1])
    assert (len(rows), chunk.tolist(), counts) == (4, [1, 1, 0, 0], [2, 2])
    expected = read_lines(chunks, Market.SPOT, start_update_id=None)
    found = read_lines(elsewhere, Market.SPOT, start_update_id=None)
    assert found.final.tolist() == expected.final.tolist()


def test_of_too_many_templates_those_that_are_kept_do_not_depend_on_the_order_of_chunks(monkeypatch):
    monkeypatch.setattr(module, "TEMPLATES_MAX", 2)
    texts = [Exchange(Market.SPOT, 1, 3).event(k, k + 1).print(extra=f'"x":{k},') for k in range(3)]
    found = []
    for order in (1, -1):
        lines = read_lines(chunks_of(hear(texts[::order]), sizes=[1]), Market.SPOT, start_update_id=None)
        assert len(lines.templates) == 2
        found.append((lines.templates, lines.template.tolist()))
    assert found[0] == found[1]
    assert sorted(found[0][1]) == [-1, 0, 1]


@pytest.mark.parametrize("count", [RUN_MAX, RUN_MAX + 8])
def test_many_frames_of_one_id_are_sorted_like_few(count):
    text, other = printed(Exchange(Market.SPOT, 1, 2).events(1))
    heard = [Heard("tokyo", "0000aaaa-1", 1000 - k, text) for k in range(count)] + [Heard("paris", "0000bbbb-1", 5, text)]
    lines = read_lines(chunks_of([*heard, Heard("tokyo", "0000aaaa-1", 2, other)]), Market.SPOT, start_update_id=None)
    assert lines.receive_time_ns.tolist() == [5, *range(1001 - count, 1001), 2]
    assert lines.group.tolist() == [0] * (count + 1) + [1]


def test_frames_that_do_not_fit_are_undecodable():
    chunks = chunks_of(hear(printed(Exchange(Market.SPOT, 1, 9).events(3))))
    whole = read_lines(chunks, Market.SPOT, start_update_id=None)
    place = (int(whole.chunk[1]), int(whole.offset[1]))
    lines = read_lines(chunks, Market.SPOT, start_update_id=None, misfits={place})
    assert lines.blind == 1
    assert (lines.chunk[0], lines.offset[0], lines.template[0], lines.epoch[0], lines.group[0]) == (*place, -2, -1, -1)


def test_no_chunks_are_an_empty_table():
    lines = read_lines([], Market.SPOT, start_update_id=None)
    assert len(lines) == 0
    assert lines.collectors == []
    bounds = day_bounds(lines, [], DATE, 7, None)
    assert (bounds.start_update_id, bounds.end_update_id, bounds.open_start, bounds.open_end) == (7, 7, False, True)


def test_a_chunk_of_no_whole_lines_is_corrupt():
    with pytest.raises(CorruptionError):
        read_lines([Chunk("tokyo", "0000aaaa-1", 0, DATE, lambda: b"5 {}")], Market.SPOT, start_update_id=None)


def test_texts_are_loaded_once_while_they_are_kept_and_again_when_they_were_forgotten():
    loaded = []

    def loader(number):
        def load():
            loaded.append(number)
            return b"%d" % number

        return load

    texts = ChunkTexts([Chunk("tokyo", "0000aaaa-1", 0, DATE, loader(number)) for number in range(3)], limit=2)
    assert [texts[number] for number in (0, 1, 0, 2, 0, 1)] == [b"0", b"1", b"0", b"2", b"0", b"1"]
    assert loaded == [0, 1, 2, 1]


# --- the day -------------------------------------------------------------------------------------------------------------------


def test_midnight_is_that_of_the_utc_date():
    assert midnight_us(BEHIND) - midnight_us(DATE) == DAY_US


def test_without_pins_the_day_runs_from_midnight_to_midnight():
    events = around(MIDNIGHT_US) + around(MIDNIGHT_US + DAY_US, start_id=1010)
    bounds, inside = bounds_of(hear(printed(events), start_us=0))
    assert inside == [(event.prev, event.final) for event in events[5:15]]
    assert (bounds.start_update_id, bounds.end_update_id) == (1005, 1015)
    assert (bounds.open_start, bounds.open_end) == (False, False)


def test_edges_of_recording_are_open():
    events = around(MIDNIGHT_US)[5:]
    bounds, inside = bounds_of(hear(printed(events)))
    assert len(inside) == 5
    assert (bounds.start_update_id, bounds.end_update_id) == (1005, 1010)
    assert (bounds.open_start, bounds.open_end) == (True, True)


def test_at_an_edge_of_recording_the_day_starts_at_the_least_id_any_event_covers():
    exchange = Exchange(Market.SPOT, 1, 10)
    heard = hear([exchange.event(2, 4).print()]) + hear([exchange.event(1, 6).print()], "paris")
    bounds, _ = bounds_of(heard)
    assert (bounds.start_update_id, bounds.end_update_id) == (1001, 1006)


def test_the_smallest_event_time_any_line_gives_decides():
    events = around(MIDNIGHT_US)
    # The sixth event is stamped on this side of midnight by one line and on the other side by the other.
    early = [event.print(stamp_us=event.time_us - (1000 if k == 5 else 0)) for k, event in enumerate(events)]
    bounds, inside = bounds_of(hear(printed(events), start_us=0) + hear(early, "paris", start_us=0))
    assert bounds.start_update_id == 1006
    assert inside == sorted(2 * [(event.prev, event.final) for event in events[6:]])


def test_an_event_time_that_steps_back_behind_midnight_stays_in_the_new_day():
    events = around(MIDNIGHT_US)
    stamps = [event.time_us - (80_000 if k == 6 else 0) for k, event in enumerate(events)]
    assert stamps[6] < MIDNIGHT_US
    texts = [event.print(stamp_us=stamp) for event, stamp in zip(events, stamps, strict=True)]
    bounds, inside = bounds_of(hear(texts, start_us=0))
    assert bounds.start_update_id == 1005
    assert inside == [(event.prev, event.final) for event in events[5:]]


@pytest.mark.parametrize("pin", [1003, 1005, 1008])
def test_a_neighbours_pin_wins_over_event_times(pin):
    events = around(MIDNIGHT_US)
    bounds, inside = bounds_of(hear(printed(events), start_us=0), start=pin)
    assert inside == [(event.prev, event.final) for event in events if event.final > pin]
    assert (bounds.start_update_id, bounds.open_start) == (pin, False)
    bounds, inside = bounds_of(hear(printed(around(MIDNIGHT_US + DAY_US)), start_us=0), end=pin)
    assert inside == [(event.prev, event.final) for event in events if event.final <= pin]
    assert (bounds.end_update_id, bounds.open_end) == (pin, False)


def test_an_event_across_the_pinned_start_belongs_to_the_day():
    exchange = Exchange(Market.SPOT, 1, 10)
    bounds, inside = bounds_of(hear(printed(exchange.events(4))), start=1006)
    assert inside == [(1004, 1008), (1008, 1010)]
    assert bounds.start_update_id == 1006


def test_a_day_without_events_ends_where_it_starts():
    events = around(MIDNIGHT_US)[:5]
    bounds, inside = bounds_of(hear(printed(events), start_us=0), start=1005, end=1005)
    assert inside == []
    assert (bounds.start_update_id, bounds.end_update_id) == (1005, 1005)
    bounds, _ = bounds_of(hear(printed(events), start_us=0))
    assert (bounds.start_update_id, bounds.end_update_id, bounds.open_start) == (1005, 1005, False)
    bounds, _ = bounds_of([])
    assert (bounds.start_update_id, bounds.end_update_id, bounds.open_start, bounds.open_end) == (None, None, True, True)
    bounds, inside = bounds_of(hear(printed(around(MIDNIGHT_US + DAY_US + 9 * SECOND_US)), start_us=0))
    assert inside == []
    assert bounds.start_update_id is None


def test_a_frame_that_cannot_be_decoded_belongs_to_the_date_it_is_filed_under():
    chunks = [chunk for date in (BEFORE, DATE, BEHIND) for chunk in chunks_of(hear([b"<html>"]), date=date)]
    lines = read_lines(chunks, Market.SPOT, start_update_id=None)
    assert day_bounds(lines, chunks, DATE, None, None).inside.tolist() == [chunks[c].date == DATE for c in lines.chunk.tolist()]


# --- restarts ------------------------------------------------------------------------------------------------------------------

OLD = 500_000_000


def restart(before, behind):
    """Events of the old id space up to `before`, then of the new one; `behind` is where the new one begins in time."""
    old = Exchange(Market.SPOT, 1, 5, start_id=OLD, start_us=before).events(1)
    new = Exchange(Market.SPOT, 2, 5, start_id=100, start_us=behind).events(1)
    return old, new


def ids(events):
    return sorted((event.prev, event.final) for event in events)


def test_a_restart_within_the_day_leaves_both_id_spaces_in_it():
    old, new = restart(MIDNIGHT_US + SECOND_US, MIDNIGHT_US + 2 * SECOND_US)
    bounds, inside = bounds_of(hear(printed(old + new), start_us=0))
    assert inside == ids(old + new)
    assert (bounds.start_update_id, bounds.start_epoch, bounds.end_update_id) == (OLD, 0, 105)


def test_a_restart_at_midnight_leaves_the_pin_in_the_old_id_space():
    old, new = restart(MIDNIGHT_US - SECOND_US, MIDNIGHT_US)
    for heard in (hear(printed(old + new), start_us=0), hear(printed(new), start_us=0)):
        bounds, inside = bounds_of(heard, start=OLD + 5)
        assert inside == ids(new)
        assert (bounds.start_update_id, bounds.start_epoch, bounds.end_update_id) == (OLD + 5, 0, 105)


@pytest.mark.parametrize("pin", [102, None])
def test_a_restart_before_midnight_leaves_the_start_in_the_new_id_space(pin):
    old, new = restart(MIDNIGHT_US - SECOND_US, MIDNIGHT_US - 80_000)
    bounds, inside = bounds_of(hear(printed(old + new), start_us=0), start=pin)
    assert inside == ids(new[2:])
    assert (bounds.start_update_id, bounds.start_epoch, bounds.end_update_id) == (102, 1, 105)


def test_a_pin_whose_own_event_nobody_heard_is_of_the_id_space_nearest_to_it():
    old, new = restart(MIDNIGHT_US - SECOND_US, MIDNIGHT_US - 80_000)
    bounds, inside = bounds_of(hear(printed(old + new[:1] + new[3:]), start_us=0), start=102)
    assert inside == ids(new[3:])
    assert bounds.start_epoch == 1


def test_a_restart_behind_an_empty_day_is_the_next_days():
    _, new = restart(0, MIDNIGHT_US + DAY_US)
    bounds, inside = bounds_of(hear(printed(new), start_us=0), start=OLD, end=OLD)
    assert inside == []
    assert bounds.end_update_id == OLD
