"""Lines that are cut differently say the same over every window between common boundaries, or are named."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.lines import Exchange, chunks_of, hear, merge, printed
from twintape.core.markets import Market

EXCHANGE = Exchange(Market.SPOT, 7, 60)


def windows_of(*lines, **more):
    return merge(chunks_of([one for line in lines for one in line]), Market.SPOT, start_update_id=1000, **more).windows


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 100_000), st.sampled_from(list(Market)))
def test_lines_of_one_exchange_never_differ_however_they_are_cut_and_torn(seed, market):
    rng = random.Random(seed)
    exchange = Exchange(market, seed, rng.randint(1, 80))
    heard = []
    for name in ("paris", "tokyo", "zurich"):
        events = exchange.events([rng.randint(1, 4) for _ in range(3)])
        for _ in range(rng.randint(0, 2)):
            begin = rng.randrange(len(events))
            del events[begin : begin + rng.randint(1, 4)]
            events = events or exchange.events(3)
        heard += hear(printed(events), name)
    found = merge(chunks_of(heard), market, start_update_id=exchange.start_id).windows
    assert (found.omitted, found.conflicting, found.examples) == (0, 0, [])


def test_each_window_between_common_boundaries_is_compared_once():
    whole, split = hear(printed(EXCHANGE.events(6)), "paris"), hear(printed(EXCHANGE.events([2, 4])), "tokyo")
    assert windows_of(whole, split).equal == 10
    assert windows_of(whole, split, end_update_id=1030).equal == 5
    # Copies on a second connection are no second window.
    assert windows_of(whole, split, hear(printed(EXCHANGE.events([2, 4])), "tokyo", "0000bbbb-2")).equal == 10
    # Without its second part a window has no common end.
    assert windows_of(whole, split[:-1]).equal == 9
    assert windows_of(whole, split[1:]).equal == 9
    assert windows_of(whole, split[:3] + split[4:]).equal == 9


def changed(heard, which, old, new):
    one = heard[which]
    assert old in one.frame
    return [
        *heard[:which],
        type(one)(one.collector, one.connection, one.receive_time_ns, one.frame.replace(old, new, 1)),
        *heard[which + 1 :],
    ]


def test_another_last_quantity_is_a_conflict_and_a_level_only_one_lists_is_omitted():
    whole, split = hear(printed(EXCHANGE.events(6)), "paris"), hear(printed(EXCHANGE.events([2, 4])), "tokyo")
    text = split[3].frame
    start = text.index(b'"b":[[') + 5
    level = text[start : text.index(b"]", start) + 1]
    price, _ = level.strip(b'[]"').split(b'","')
    other = b'["%b","%b"]' % (price, b"77.777")
    found = windows_of(whole, changed(split, 3, level, other))
    assert (found.equal, found.omitted, found.conflicting) == (9, 0, 1)
    (example,) = found.examples
    assert (example.collector, example.prev_update_id, example.final_update_id, example.kind) == (
        "tokyo",
        1006,
        1012,
        "conflicting",
    )
    separator = b"," if text[text.index(level) + len(level) : text.index(level) + len(level) + 1] == b"," else b""
    found = windows_of(whole, changed(split, 3, level + separator, b""))
    assert (found.equal, found.omitted, found.conflicting, found.examples[0].kind) == (9, 1, 0, "omitted")


def test_a_number_finer_than_any_of_the_chains_contradicts_it_and_only_its_own_window():
    whole, split = hear(printed(EXCHANGE.events(6)), "paris"), hear(printed(EXCHANGE.events([2, 4])), "tokyo")
    fine = changed(split, 3, b'"b":[["', b'"b":[["0.0000001","1.0000001"],["')
    found = windows_of(whole, fine)
    assert (found.equal, found.conflicting) == (9, 1)


def test_an_event_that_begins_or_ends_inside_the_chains_is_not_judged():
    whole = hear(printed([EXCHANGE.event(0, 5), EXCHANGE.event(3, 9), EXCHANGE.event(9, 12)]), "paris")
    found = windows_of(whole, hear(printed([EXCHANGE.event(3, 12)]), "tokyo"))
    assert (found.equal, found.omitted, found.conflicting) == (0, 0, 0)


@pytest.mark.parametrize("limit", [1, 7, 10_000])
def test_batches_make_no_difference_and_examples_are_few(limit, monkeypatch):
    monkeypatch.setattr("twintape.columns.agreement.FRAMES_MAX", limit)
    monkeypatch.setattr("twintape.columns.agreement.EXAMPLES_MAX", 2)
    whole, split = hear(printed(EXCHANGE.events(6)), "paris"), hear(printed(EXCHANGE.events([2, 4])), "tokyo")
    for which in (1, 3, 5):
        split = changed(
            split,
            which,
            b'"a":[',
            b'"a":[["777.00","1.000"],' if b'"a":[]' not in split[which].frame else b'"a":[["777.00","1.000"]',
        )
    found = windows_of(whole, split)
    assert (found.equal, found.omitted, len(found.examples)) == (7, 3, 2)


def test_each_restart_has_windows_of_its_own():
    old = Exchange(Market.SPOT, 1, 12, start_id=500_000_000)
    new = Exchange(Market.SPOT, 2, 12, start_id=1000, start_us=old.changes[-1].time_us + 10_000_000)
    whole = hear(printed([*old.events(6), *new.events(6)]), "paris")
    cut_before = hear(printed([*old.events([2, 4]), *new.events(6)]), "tokyo")
    cut_behind = hear(printed([*old.events(6), *new.events([2, 4])]), "zurich")
    chunks = chunks_of([*whole, *cut_before, *cut_behind])
    assert merge(chunks, Market.SPOT).windows.equal == 4
