"""Every frame has exactly one fate."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.lines import DATE, MIDNIGHT_US, Exchange, chunks_of, covered_ids, decodable, expanded, hear, merge, printed, scene
from twintape.columns.fates import VERBATIM, Fate, decide
from twintape.columns.lines import ChunkTexts, day_bounds, read_lines
from twintape.core.markets import Market


def decided(heard, market=Market.SPOT, *, start=None, end=None, settled=()):
    chunks = [*chunks_of(settled, source=-1), *chunks_of(heard)]
    lines = read_lines(chunks, market, start_update_id=start)
    bounds = day_bounds(lines, chunks, DATE, start, end)
    old = np.array([chunk.source < 0 for chunk in chunks], bool)[lines.chunk]
    texts = ChunkTexts(chunks)
    fates = decide(lines, bounds, texts, market, old)
    return lines, fates, texts


def by_frame(heard, market=Market.SPOT, **more):
    """Return `{(collector, frame): fate}`."""
    lines, fates, texts = decided(heard, market, **more)
    found = texts.lines(lines.chunk, lines.offset, lines.length)
    return {
        (lines.collectors[line], text.split(b" ", 1)[1]): Fate(fate)
        for line, text, fate in zip(lines.line.tolist(), found, fates.fate.tolist(), strict=True)
    }


def count(heard, market=Market.SPOT, **more):
    _, fates, _ = decided(heard, market, **more)
    return Counter(Fate(fate).reason for fate in fates.fate.tolist())


# --- laws ----------------------------------------------------------------------------------------------------------------------


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 100_000), st.sampled_from(list(Market)), st.integers(1, 3))
def test_every_frame_has_one_fate_and_the_chain_covers_every_id_that_any_line_has(seed, market, number):
    found = scene(market, seed, lines=number)
    start = found.exchange.start_id
    lines, fates, _ = decided(found.heard, market, start=start)
    assert len(lines) == len(fates.fate) == len(found.heard)
    assert not (fates.fate == Fate.OWED).any()
    assert sorted(fates.chain.tolist()) == np.flatnonzero(fates.fate == Fate.CHOSEN).tolist()
    assert (fates.fate == Fate.UNDECODABLE).sum() == sum(not decodable(one, market) for one in found.heard)
    # Gaps are exactly the ids no line has; overlaps are where an event begins inside the one before.
    at, covered = start, []
    for k, row in enumerate(fates.chain.tolist()):
        prev, final = int(lines.prev[row]), int(lines.final[row])
        assert fates.gap_after[k] == (at if prev > at else -1)
        assert fates.overlap_at[k] == (at if prev < at else -1)
        assert final > at
        if covered and prev <= at:
            covered[-1] = (covered[-1][0], final)
        else:
            covered.append((max(prev, at), final))
        at = final
    assert covered == covered_ids(found.heard, market, start)
    for row in np.flatnonzero(fates.place >= 0).tolist():
        original = fates.chain[fates.place[row]]
        assert (lines.prev[row], lines.final[row]) == (lines.prev[original], lines.final[original])
        assert fates.fate[row] in (Fate.CHOSEN, Fate.DUPLICATE)
    assert (fates.place[np.isin(fates.fate, VERBATIM)] == -1).all()


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 100_000), st.sampled_from(list(Market)))
def test_one_more_line_never_widens_a_gap(seed, market):
    found = scene(market, seed, lines=3)
    holes = []
    for number in (1, 2, 3):
        heard = [one for one in found.heard if one.collector in ("frankfurt", "tokyo", "virginia")[:number]]
        lines, fates, _ = decided(heard, market, start=found.exchange.start_id)
        missing = set(range(found.exchange.start_id + 1, found.exchange.end_id + 1))
        for row in fates.chain.tolist():
            missing -= set(range(int(lines.prev[row]) + 1, int(lines.final[row]) + 1))
        holes.append(missing)
    assert holes[2] <= holes[1] <= holes[0]


# --- cases ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("market", Market)
def test_copies_with_another_event_time_or_printing_are_duplicates(market):
    exchange = Exchange(market, 3, 9)
    events = exchange.events(3)
    restamped = [event.print(stamp_us=event.time_us + 2000) for event in events]
    raw = [event.print(wrapped=False) for event in events]
    heard = hear(printed(events)) + hear(restamped, "paris") + hear(raw, "rome")
    assert count(heard, market) == {"chosen": 3, "duplicate": 6}


def test_the_same_frame_twice_in_a_line_is_a_duplicate():
    texts = printed(Exchange(Market.SPOT, 1, 9).events(3))
    assert count(hear([*texts, texts[1], texts[2]])) == {"chosen": 3, "duplicate": 2}
    assert count(hear(texts) + hear(texts, connection="0000aaaa-2")) == {"chosen": 3, "duplicate": 3}


def test_events_out_of_order_are_put_in_order():
    texts = printed(Exchange(Market.SPOT, 1, 9).events(3))
    lines, fates, _ = decided(hear(texts[::-1]))
    assert len(fates.chain) == 3
    assert (np.diff(lines.final[fates.chain]) > 0).all()
    assert not (fates.gap_after >= 0).any()


def test_other_windows_are_variants_where_the_chain_did_not_need_them():
    exchange = Exchange(Market.SPOT, 1, 12)
    ours, theirs = exchange.events(3), exchange.events(4)
    fates = by_frame(hear(printed(ours)) + hear(printed(theirs), "paris"))
    assert {fate for (collector, _), fate in fates.items() if collector == "paris"} == {Fate.CHOSEN}
    assert {fate for (collector, _), fate in fates.items() if collector == "tokyo"} == {Fate.VARIANT}


def test_an_event_its_own_line_had_already_heard_the_ids_of_is_stale():
    exchange = Exchange(Market.SPOT, 1, 12)
    late = exchange.event(2, 5).print()
    assert by_frame(hear([*printed(exchange.events(3)), late]))["tokyo", late] is Fate.STALE
    # Heard in good time it is another window.
    texts = printed(exchange.events(3))
    assert by_frame(hear([texts[0], late, *texts[1:]]))["tokyo", late] is Fate.VARIANT


def test_a_late_event_that_the_chain_needs_is_chosen():
    texts = printed(Exchange(Market.SPOT, 1, 12).events(3))
    assert count(hear([texts[0], *texts[2:], texts[1]])) == {"chosen": 4}


@pytest.mark.parametrize("market", Market)
def test_the_same_ids_with_other_content_are_a_conflict(market):
    event = Exchange(market, 1, 3).event(0, 3)
    other = event.print(bids=(("99.99", "77.777"),))
    fates = by_frame(hear([event.print()]) + hear([other], "paris"), market)
    assert sorted(fates.values()) == [Fate.CHOSEN, Fate.CONFLICT]


def test_the_same_book_printed_in_other_numbers_or_stamped_with_another_transaction_time_is_a_variant():
    event = Exchange(Market.USDM, 1, 3).event(0, 3)
    longer = event.print(bids=tuple((price + "0", quantity) for price, quantity in event.bids))
    restamped = event.print().replace(b'"T":%d' % (event.time_us // 1000), b'"T":%d' % (event.time_us // 1000 + 1))
    for other in (longer, restamped):
        fates = by_frame(hear([event.print()], "amsterdam") + hear([other], "paris"), Market.USDM)
        assert fates["amsterdam", event.print()] is Fate.CHOSEN
        assert fates["paris", other] is Fate.VARIANT


def test_frames_no_template_prints_are_duplicates_byte_for_byte_and_variants_otherwise():
    event = Exchange(Market.SPOT, 1, 3).event(0, 3)
    slow = event.print().replace(b'"b":', b'"b": ')
    assert count(hear([slow]) + hear([slow], "paris")) == {"chosen": 1, "duplicate": 1}
    assert count(hear([slow]) + hear([event.print()], "paris")) == {"chosen": 1, "variant": 1}
    assert count(hear([event.print()]) + hear([slow], "paris")) == {"chosen": 1, "variant": 1}


def test_a_frame_that_cannot_be_decoded_is_kept_for_that_reason():
    texts = printed(Exchange(Market.SPOT, 1, 6).events(3))
    impossible = texts[0].replace(b'"U":1001', b'"U":9001')
    assert count(hear([*texts, b"<html>", impossible])) == {"chosen": 2, "undecodable": 2}


def test_frames_of_other_days_are_owed():
    texts = printed(Exchange(Market.SPOT, 1, 12).events(3))
    assert count(hear(texts), start=1003, end=1009) == {"owed": 2, "chosen": 2}


def test_what_an_earlier_generation_settled_is_kept_even_if_the_bounds_have_moved():
    texts = printed(Exchange(Market.SPOT, 1, 12).events(3))
    old = hear(texts[:2])
    assert count(hear(texts[2:]), settled=old, start=1003) == {"stale": 1, "chosen": 3}


def test_one_sided_and_empty_events_are_events():
    event = Exchange(Market.SPOT, 1, 3).event(0, 3)
    empty, one_sided = event.print(bids=(), asks=()), event.print(asks=())
    assert count(hear([empty]) + hear([empty], "paris")) == {"chosen": 1, "duplicate": 1}
    assert count(hear([one_sided]) + hear([empty], "paris"))["conflict"] == 1


def test_the_chain_of_each_id_space_is_its_own():
    old, new = Exchange(Market.SPOT, 1, 6, start_id=500_000_000), Exchange(Market.SPOT, 2, 6, start_id=100)
    texts = printed(old.events(3)) + [event.print(stamp_us=event.time_us + 10_000_000) for event in new.events(2)]
    late = new.event(1, 3).print(stamp_us=new.changes[2].time_us + 10_000_000)
    lines, fates, _ = decided(hear([*texts, late]), start=500_000_000)
    assert lines.epoch[fates.chain].tolist() == [0, 0, 1, 1, 1]
    assert not (fates.gap_after >= 0).any()
    assert Counter(Fate(fate) for fate in fates.fate.tolist())[Fate.STALE] == 1


def test_a_gap_behind_a_start_in_a_restarted_id_space_is_found():
    old = Exchange(Market.SPOT, 1, 6, start_id=500_000_000, start_us=MIDNIGHT_US - 2_000_000)
    new = Exchange(Market.SPOT, 2, 6, start_id=100, start_us=MIDNIGHT_US - 80_000)
    texts = printed([*old.events(3), *new.events(1)[:2], *new.events(1)[4:]])
    lines, fates, _ = decided(hear(texts, start_us=0))
    assert lines.final[fates.chain].tolist() == [105, 106]
    assert fates.gap_after.tolist() == [102, -1]


def test_no_frames_have_no_fates():
    _, fates, _ = decided([])
    assert len(fates.chain) == len(fates.fate) == 0


def test_fates_are_the_same_when_the_frames_come_from_an_earlier_generation():
    heard = scene(Market.USDM, 17, lines=3).heard
    day = merge(chunks_of(heard), Market.USDM)
    again = merge(expanded(day), Market.USDM)
    assert np.array_equal(day.fates.fate, again.fates.fate)
