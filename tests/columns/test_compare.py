import pytest

from support.compare import T0_MS, chunk, compared, frame, lines, said, text_lines, text_of
from twintape.columns.compare import EDGE_WINDOWS_MAX, REGION_WINDOWS_MAX
from twintape.core.gateway import Partition
from twintape.core.markets import Market
from twintape.core.wire import decode_depth

PERSISTENT = (Partition.SHIFTED, Partition.NET)
"""Lines then stand at no common id for so long that slices end between."""
MARKETS = pytest.mark.parametrize("market", [Market.SPOT, Market.USDM])


def pair_of(*frames, market=Market.SPOT, **more):
    return compared(lines(*frames), market, **more).pairs[0]


def counts(pair):
    return [(rate.count, rate.of) for rate in pair.levels.values()]


def cut(*finals, start=0, market=Market.SPOT, **more):
    """Windows that end at these ids; each touches one level a tenth of its last id."""
    prev, made = start, []
    for final in finals:
        made.append(
            frame(prev, final, [(level, level) for level in range(prev // 10 + 1, final // 10 + 1)], market=market, **more)
        )
        prev = final
    return made


# --- what was injected is what is found ------------------------------------------------------------------------------------------------


def played(market, partition):
    reference, other = said(market, Partition.IDENTICAL), said(market, partition)
    lines_of = text_lines(text_of(reference), text_of(other, 250_000))
    return reference, other, compared(lines_of, market, same_in_slices=partition not in PERSISTENT).pairs[0]


def ids(heard, market):
    return [(event.prev_update_id, event.final_update_id) for event in (decode_depth(one, market) for _, one in heard)]


@MARKETS
def test_identical_gateways_are_identical(market):
    _, _, pair = played(market, Partition.IDENTICAL)
    assert (pair.findings, counts(pair)) == ([], [(0, 1000)] * 4)
    assert [rate.high for rate in pair.levels.values()] == [0.003] * 4
    assert (pair.examples, pair.edge, pair.outside_a, pair.outside_b) == ([], 0, 0, 0)
    assert pair.arrival.difference_ns.percentiles["50"] == 250_000
    assert (pair.arrival.first_a, pair.arrival.first_b) == (1000, 0)


@MARKETS
def test_windows_cut_at_random_are_recut_and_nothing_else(market):
    reference, other, pair = played(market, Partition.SPLIT)
    assert pair.findings == ["recut"]
    differing = len(set(ids(reference, market)) - set(ids(other, market)))
    assert counts(pair)[:3] == [(differing, 1000)] * 3
    assert pair.levels["book"].count == 0
    assert pair.cut_a == differing
    # One event in twenty is cut: half of these in two, the other half so that the next one is another as well.
    assert pair.levels["windows_and_levels"].low < 0.075 < pair.levels["windows_and_levels"].high
    assert {example.kind for example in pair.examples} >= {"split", "shift"}


@MARKETS
def test_windows_of_another_phase_are_shifted_and_nothing_else(market):
    _, _, pair = played(market, Partition.SHIFTED)
    assert pair.findings == ["shifted"]
    assert pair.cut_a > 0.9 * pair.windows_a
    assert (pair.levels["book"].count, pair.conflicts) == (0, 0)


@MARKETS
def test_a_gateway_that_leaves_out_what_did_not_change_is_named(market):
    _, _, pair = played(market, Partition.NET)
    assert pair.findings == ["omitted", "shifted"]
    assert pair.omitted_by_a == 0
    assert pair.omitted_by_b > 20
    assert pair.levels["book"].count == 0


@MARKETS
def test_wrong_quantities_are_conflicts(market):
    reference, other, pair = played(market, Partition.CONFLICT)
    assert pair.findings == ["conflict"]
    wrong = sum(one != two for (_, one), (_, two) in zip(reference, other, strict=True))
    assert counts(pair) == [(wrong, 1000)] * 4
    assert pair.levels["book"].low < 0.05 < pair.levels["book"].high
    assert {example.kind for example in pair.examples} == {"conflict"}


@MARKETS
def test_another_e_is_only_another_e(market):
    reference = said(market, Partition.IDENTICAL)
    stamped = []
    for number, (time_ns, one) in enumerate(reference):
        at = one.index(b'"E":') + 4
        later = b"%d" % (int(one[at : at + 13]) + 2)
        stamped.append((time_ns, one[:at] + later + one[at + 13 :] if number % 20 == 7 else one))
    pair = compared(text_lines(text_of(reference), text_of(stamped)), market).pairs[0]
    assert pair.findings == ["restamped"]
    assert counts(pair) == [(50, 1000), (0, 1000), (0, 1000), (0, 1000)]
    assert (pair.event_time.count, pair.event_time.least, pair.event_time.greatest) == (50, 2000, 2000)
    assert [example.kind for example in pair.examples] == ["event_time"] * 3


@MARKETS
def test_lost_frames_are_missing_and_no_conflict(market):
    reference = said(market, Partition.IDENTICAL)
    holes = [(100, 120), (500, 501), (700, 900)]
    heard = [one for number, one in enumerate(reference) if not any(start <= number < stop for start, stop in holes)]
    pair = compared(text_lines(text_of(reference), text_of(heard)), market).pairs[0]
    assert pair.findings == ["missing"]
    assert (pair.missing_in_b.windows, pair.missing_in_b.places) == (221, 3)
    assert pair.missing_in_b.ids == sum(
        ids(reference, market)[stop - 1][1] - ids(reference, market)[start][0] for start, stop in holes
    )
    assert (pair.missing_in_a.windows, pair.windows_a, pair.windows_b) == (0, 779, 779)
    assert [example.kind for example in pair.examples] == ["missing_in_b"] * 3
    assert sum(bucket.missing_b for bucket in pair.timeline) == 221
    turned = compared(text_lines(text_of(heard), text_of(reference)), market).pairs[0]
    assert (turned.missing_in_a, turned.missing_in_b) == (pair.missing_in_b, pair.missing_in_a)
    assert [example.kind for example in turned.examples] == ["missing_in_a"] * 3


# --- shapes ------------------------------------------------------------------------------------------------------------------------------


def test_one_window_for_two_is_a_merge_two_for_one_a_split_and_several_for_several_a_shift():
    a, b = cut(10, 20, 30, 40, 50, 60, 70), cut(20, 30, 35, 40, 45, 65, 70)
    pair = pair_of(a, b)
    assert (pair.merge, pair.split, pair.shift, pair.cut_a) == (1, 1, 1, 6)
    assert (pair.windows_a, pair.windows_b, pair.findings) == (7, 7, ["shifted"])
    assert counts(pair)[3] == (0, 4)
    assert [(e.kind, e.prev_update_id, e.final_update_id) for e in pair.examples] == [
        ("split", 30, 40),
        ("merge", 0, 20),
        ("shift", 40, 70),
    ]
    assert [len(side) for side in (pair.examples[1].a, pair.examples[1].b)] == [2, 1]
    assert pair.examples[1].b[0][1] == b[0].decode()


def test_what_only_one_recorded_is_outside():
    pair = pair_of(cut(10, 20, 30, 40), cut(30, 40, 50, start=20))
    assert (pair.outside_a, pair.outside_b, pair.windows_a, pair.findings) == (2, 1, 2, [])


def test_windows_that_stick_out_of_what_both_heard_are_an_edge():
    # The second line has a hole from 20 to 33, and is back inside a window of the first.
    pair = pair_of(cut(10, 20, 30, 40, 50), [*cut(10, 20), *cut(37, 50, start=33)])
    assert (pair.missing_in_b.windows, pair.edge) == (2, 3)
    assert (pair.windows_a, pair.findings) == (2, ["missing"])


def test_lines_that_stand_together_nowhere_are_shifted_and_their_books_not_compared():
    a = cut(*range(10, 3000, 10), market=Market.USDM)
    b = cut(*range(15, 3000, 10), start=5, market=Market.USDM)
    pair = pair_of(a, b, market=Market.USDM, same_in_slices=False)
    assert pair.findings == ["shifted"]
    assert pair.windows_a > EDGE_WINDOWS_MAX
    assert counts(pair)[3] == (0, 0)


def test_even_if_it_lasts_no_region_is_without_bound():
    count = 3 * REGION_WINDOWS_MAX
    a = [frame(2 * n, 2 * n + 2, [(1, n + 1)]) for n in range(count)]
    b = [frame(2 * n + 1, 2 * n + 3, [(1, n + 1)] if n % 1000 else []) for n in range(count)]
    pair = pair_of(a, b, same_in_slices=False)
    assert (pair.findings, pair.shift, pair.omitted_by_a) == (["shifted"], 3, 0)
    assert pair.windows_a + pair.edge + pair.outside_a >= count
    gone = pair_of(a, [one.replace(b'"b":[["1.0"', b'"b":[["2.0"') for one in b], same_in_slices=False)
    assert gone.findings == ["omitted", "shifted"]


def test_lines_with_nothing_in_common_have_nothing_to_compare():
    for pair in (pair_of(cut(10, 20), []), pair_of([], []), pair_of(cut(10, 20), cut(110, 120, start=100))):
        assert (pair.findings, pair.windows_a) == (["nothing"], 0)
        assert pair.levels["bytes"].high == 1.0


# --- contents ----------------------------------------------------------------------------------------------------------------------------


def test_the_same_levels_in_another_text_are_only_printed_otherwise():
    a = [frame(0, 5, [(1, 2), (3, 4)]), frame(5, 9, [(1, 2)]), frame(9, 12, [(1, 2)])]
    b = [frame(0, 5, [(3, 4), (1, 2)]), frame(5, 9, [(1, 2)], st=1), frame(9, 12, [(1, 2)]).replace(b'"2.0"', b'"2.00"')]
    pair = pair_of(a, b)
    assert (pair.findings, counts(pair)) == (["printed"], [(3, 3), (3, 3), (0, 3), (0, 3)])
    assert pair.printed == 3
    assert {example.kind for example in pair.examples} == {"printed"}


def test_a_level_left_out_of_a_window_is_omitted_even_if_the_book_is_right():
    a = [frame(0, 5, [(1, 2), (3, 4)]), frame(5, 9, [(1, 2), (3, 5)])]
    b = [frame(0, 5, [(1, 2), (3, 4)]), frame(5, 9, [(3, 5)])]
    pair = pair_of(a, b)
    assert (pair.findings, pair.omitted_by_a, pair.omitted_by_b, pair.undecided) == (["omitted"], 0, 1, 0)
    assert counts(pair) == [(1, 2), (1, 2), (1, 2), (0, 2)]
    assert pair_of(b, a).omitted_by_a == 1


def test_who_is_first_is_told_by_the_hour():
    hour = 3_600_000
    a = [frame(n, n + 1, event_ms=T0_MS + n * hour) for n in range(3)]
    pair = compared([("a", [chunk(a)]), ("b", [chunk(a, 10**18 - 5)])], Market.SPOT).pairs[0]
    assert (pair.arrival.first_a, pair.arrival.first_b) == (0, 3)
    assert [(start, count, middle, share) for start, count, middle, _, share in pair.arrival.hours] == [
        ((T0_MS + n * hour) // hour * hour * 1000, 1, -5.0, 0.0) for n in range(3)
    ]
