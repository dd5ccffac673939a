import pytest

from support.compare import T0_MS, compared, frame, lines
from twintape.columns.heard import gather, slices
from twintape.columns.redundancy import SUBSETS_MAX, Worth
from twintape.columns.report import compare_stream
from twintape.core.markets import Market

COUNT = 6000
"""Ten minutes of windows, a tenth of a second each."""


def line_of(*holes):
    """All windows but those of the holes `[start, stop)`."""
    return [
        frame(n, n + 1, event_ms=T0_MS + 100 * n) for n in range(COUNT) if not any(start <= n < stop for start, stop in holes)
    ]


def redundancy(named, market=Market.SPOT):
    return compared(named, market).redundancy


def test_what_each_lost_and_what_only_one_has():
    worth = redundancy(lines(line_of((100, 200), (300, 310)), line_of((150, 250)), line_of((4000, 4100))))
    a, b, c = worth.lines
    assert (worth.from_us, worth.to_us) == (T0_MS * 1000, (T0_MS + 100 * (COUNT - 1)) * 1000)
    assert [(hole.after_update_id, hole.until_update_id, hole.edge) for hole in a.outages] == [
        (100, 200, False),
        (300, 310, False),
    ]
    # From the last window heard to the first heard again.
    assert [hole.to_us - hole.from_us for hole in a.outages] == [10_100_000, 1_100_000]
    assert (a.lost_us, a.outages_count, a.windows) == (11_200_000, 2, COUNT - 110)
    assert a.available == pytest.approx(1 - 11.2 / 599.9)
    assert worth.joint == []
    # Without the third line nobody would have what the first and the second both lost.
    assert (a.saved_us, b.saved_us, c.saved_us) == (0, 0, 5_100_000)
    assert [one.lines for one in worth.together] == [1, 2, 3]
    assert [one.combinations for one in worth.together] == [3, 3, 1]
    days = 599.9 / 86_400
    assert worth.together[0].episodes_per_day == pytest.approx(4 / 3 / days)
    assert worth.together[1].episodes_per_day == pytest.approx(1 / 3 / days)
    assert (worth.together[2].episodes_per_day, worth.together[2].lost) == (0, 0)
    assert worth.together[2].high == pytest.approx(3 / days)
    for one in worth.together:
        assert one.low <= one.episodes_per_day <= one.high


def test_what_all_lost_is_a_hole_of_the_archive():
    worth = redundancy(lines(line_of((100, 200)), line_of((150, 250))))
    assert [(hole.after_update_id, hole.until_update_id) for hole in worth.joint] == [(150, 200)]
    assert [line.saved_us for line in worth.lines] == [5_000_000, 5_000_000]


def test_holes_with_one_window_between_are_one_in_time():
    line = redundancy(lines(line_of((100, 110), (111, 120)), line_of())).lines[0]
    assert (line.outages_count, line.lost_us) == (2, 2_100_000)


def test_a_line_that_began_late_or_ended_early_has_holes_at_its_edges():
    worth = redundancy(lines(line_of(), line_of((0, 50), (5900, COUNT))))
    assert [(hole.after_update_id, hole.until_update_id, hole.edge) for hole in worth.lines[1].outages] == [
        (0, 50, True),
        (5900, 6000, True),
    ]


def test_a_line_that_heard_nothing_lost_everything():
    worth = redundancy(lines(line_of(), []))
    assert (worth.lines[1].available, worth.lines[1].windows, worth.lines[0].saved_us) == (0.0, 0, 599_900_000)
    assert redundancy(lines([], [])) is None


def test_one_line_alone_saved_everything_it_has():
    worth = redundancy(lines(line_of((100, 200))))
    assert (worth.lines[0].saved_us, worth.dependence) == (599_900_000 - 10_100_000, [])


def test_lines_that_fail_at_the_same_times_fail_together_and_others_do_not():
    own = [(start, start + 5) for start in range(100, 5900, 400)]
    others = [(start + 200, start + 205) for start, _ in own]
    same, apart = redundancy(lines(line_of(*own), line_of(*own), line_of(*others))).dependence[:2]
    assert (same.a, same.b, same.verdict, same.together) == ("a", "b", "together", len(own))
    assert same.probability < 1e-6
    assert (apart.verdict, apart.together) == ("independent", 0)
    few = redundancy(lines(line_of((100, 110)), line_of((900, 910)), line_of())).dependence
    assert [one.verdict for one in few] == ["too few", "too few", "too few"]


def test_ids_that_begin_anew_are_no_hole():
    first = [frame(5_000_000 + n, 5_000_001 + n, event_ms=T0_MS + n) for n in range(5)]
    anew = [frame(n, n + 1, event_ms=T0_MS + 1000 + n) for n in range(5)]
    worth = redundancy(lines(first + anew, first[:3] + anew))
    assert [hole.after_update_id for hole in worth.lines[1].outages] == []
    assert worth.lines[0].outages == worth.joint == []


def test_of_very_many_lines_not_every_combination_is_looked_at():
    frames = [frame(n, n + 1, market=Market.USDM, event_ms=T0_MS + n) for n in range(5)]
    worth = redundancy(lines(*[frames] * (SUBSETS_MAX + 1)), Market.USDM)
    assert [one.combinations for one in worth.together][:3] == [13, 78, 1]


def test_windows_that_reach_beyond_their_slice_are_told_in_the_order_of_their_ends():
    # The first line has one window as long as many slices; the hole of the second is timed by its own windows all the same.
    gone = range(1210, 1290)
    short = [frame(n, n + 1, event_ms=T0_MS + n + 1) for n in range(3000) if n not in gone]
    long = [frame(0, 3000, event_ms=T0_MS + 3000)]
    worth = compare_stream("A", "depth", lines(long, short), Market.SPOT, windows=40).redundancy
    (hole,) = worth.lines[1].outages
    assert (hole.from_us, hole.to_us) == ((T0_MS + 1210) * 1000, (T0_MS + 1291) * 1000)


def test_a_slice_in_which_no_window_ends_makes_no_difference():
    known = gather(lines(line_of((100, 200)), line_of()), Market.SPOT)
    worth, other = Worth(known), Worth(known)
    for heard, until in slices(known):
        worth.add([], 0)
        worth.add(heard, until)
        other.add(heard, until)
    assert worth.result() == other.result()
