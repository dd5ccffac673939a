import random
from itertools import pairwise

import numpy as np
import pytest

from support.compare import T0_MS, chunk, chunks_of, frame, hear, lines
from twintape.columns.heard import EPOCH_IDS, NO_END, WINDOW_BYTES, gather, joined_spans, slices
from twintape.core.errors import CorruptionError
from twintape.core.markets import Market


def heard(*frames_of, market=Market.SPOT):
    return hear(lines(*frames_of), market)


def test_windows_stand_in_the_order_of_ids_each_once_as_it_was_heard_first():
    frames = [frame(5, 9), frame(0, 5), frame(5, 9), frame(9, 12), b"<html>"]
    ((line, windows),) = heard(frames)
    assert windows.final.tolist() == [5, 9, 12]
    assert windows.prev.tolist() == [0, 5, 9]
    assert windows.receive_time_ns.tolist() == [10**18 + 1, 10**18, 10**18 + 3]
    assert (line.frames, line.windows, line.repeats, line.contradictions, line.undecodable, line.late) == (5, 3, 1, 0, 1, 1)
    assert windows.frame(1) == frame(5, 9)
    assert (line.from_us, line.to_us) == ((T0_MS + 5) * 1000, (T0_MS + 12) * 1000)


def test_a_line_that_says_two_things_of_one_window_contradicts_itself():
    ((line, _),) = heard([frame(0, 5, [(1, 2)]), frame(0, 5, [(1, 3)]), frame(0, 5, [(1, 2)], event_ms=T0_MS)])
    assert (line.windows, line.repeats, line.contradictions) == (1, 1, 1)


def test_connections_are_counted_and_late_is_meant_of_each_for_itself():
    chunks = [chunk([frame(0, 5), frame(5, 9)]), chunk([frame(0, 5)], connection="bbbbbbbb-2"), chunk([frame(9, 10)])]
    ((line, _),) = hear([("a", chunks)], Market.SPOT)
    assert (line.connections, line.late, line.repeats) == (2, 0, 1)
    behind = [chunk([frame(5, 9)]), chunk([frame(0, 5)])]
    assert gather([("a", behind)], Market.SPOT)[0].late == 1


def test_ids_that_begin_anew_are_told_apart_from_those_before():
    first = [frame(5_000_000 + n, 5_000_001 + n) for n in range(3)]
    anew = [frame(n, n + 1, event_ms=T0_MS + 9_000_000) for n in range(3)]
    (a, windows), (b, behind) = heard(first + anew, anew)
    assert windows.final.tolist() == [5_000_001, 5_000_002, 5_000_003, *(EPOCH_IDS + n for n in (1, 2, 3))]
    assert np.array_equal(behind.final, windows.final[3:])
    assert [edge.tolist() for edge in a.spans] == [[5_000_000, EPOCH_IDS], [5_000_003, EPOCH_IDS + 3]]
    assert [edge.tolist() for edge in b.spans] == [[EPOCH_IDS], [EPOCH_IDS + 3]]


def test_ids_that_only_grow_fast_are_not_moved():
    # The second has ids a million above the first's before the first is done: but not earlier ones.
    ((_, windows),) = heard([frame(n * 2_000_000, (n + 1) * 2_000_000, event_ms=T0_MS + n) for n in range(9)])
    assert windows.final[-1] == 18_000_000


def test_frames_no_template_prints_are_compared_by_their_text_without_e():
    odd = frame(0, 5, [(1, 2)]).replace(b'"s":', b'"s": ').replace(b'"b":', b'"b": ')
    later = odd.replace(b"%d" % (T0_MS + 5), b"%d" % (T0_MS + 6))
    other = odd.replace(b'"2.0"', b'"3.0"')
    micro = odd.replace(b"%d" % (T0_MS + 5), b"%d123" % (T0_MS + 5))
    a, b, c, d = (windows for _, windows in heard([odd], [later], [other], [micro]))
    assert a.template.tolist() == [-1]
    assert np.array_equal(a.content, b.content)
    assert np.array_equal(a.content, d.content)
    assert not np.array_equal(a.content, c.content)


def test_numbers_finer_than_any_the_exchange_prints_are_no_depth_frames():
    (line,) = gather(lines([frame(0, 5, [(1, 2)]).replace(b'"2.0"', b'"2.123456789"')]), Market.SPOT)
    assert (len(line.spans[0]), line.undecodable) == (0, 1)
    assert gather(lines([frame(0, 5, [(1, 2)]).replace(b'"2.0"', b'"2.125"')]), Market.SPOT)[0].decimals == (0, 3)


def test_lines_that_heard_nothing_are_lines():
    a, b = gather([("a", []), ("b", [chunk([])])], Market.USDM)
    assert (a.frames, b.frames, a.connections, b.connections) == (0, 0, 0, 1)
    assert list(slices([a, b])) == []


def test_damage_is_told():
    broken = chunk([])
    with pytest.raises(CorruptionError):
        gather([("a", [type(broken)("", "x-1", 0, "", lambda: b"no time\n")])], Market.SPOT)


# --- slices ------------------------------------------------------------------------------------------------------------------------------


def cut(bounds):
    return [frame(prev, final) for prev, final in pairwise(bounds)]


def rows(windows):
    return list(zip(windows.prev.tolist(), windows.final.tolist(), strict=True))


@pytest.mark.parametrize("seed", range(8))
def test_slices_hold_every_window_once_in_order_and_end_where_no_window_goes_on(seed):
    rng = random.Random(seed)
    bounds = range(3001)
    every = [sorted({0, 3000, *range(0, 3000, 30), *rng.sample(bounds, 700)}) for _ in range(3)]
    frames = [cut(own) for own in every]
    for own in frames:
        for _ in range(20):  # what comes late or twice
            place = rng.randrange(1, len(own))
            own.insert(rng.randrange(place), own[place])
        del own[200 : 200 + rng.randrange(60)]
    known = gather(lines(*frames), Market.SPOT)
    whole = [rows(windows) for _, windows in hear(lines(*frames), Market.SPOT)]
    found, ends = [[], [], []], []
    for heard_of, until in slices(known, 100):
        assert all(windows.final.max(initial=0) <= until for windows in heard_of)
        assert max(len(windows) for windows in heard_of) <= 100 + 3 * 40
        for own, windows in zip(found, heard_of, strict=True):
            own += rows(windows)
        ends.append(until)
    assert found == whole
    assert ends == sorted(set(ends))
    assert len(ends) > 5
    assert ends[-1] == NO_END
    assert [line.windows for line in known] == [len(own) for own in whole]


def test_lines_that_stand_together_nowhere_are_sliced_where_the_first_one_stands():
    a, b = cut(range(0, 2000, 2)), cut(range(1, 2000, 2))
    ends = [until for _, until in slices(gather(lines(a, b), Market.SPOT), 100)]
    assert len(ends) > 5
    assert all(end % 2 == 0 for end in ends[:-1])


def test_where_the_first_line_has_a_hole_a_slice_may_end_anywhere():
    a, b, c = cut([0, 2000]), cut(range(0, 2000, 2)), cut(range(1, 2000, 2))
    found = list(slices(gather(lines(a, b, c), Market.SPOT), 100))
    assert len(found) > 5
    assert sum(len(windows) for heard_of, _ in found for windows in heard_of) == len(a) + len(b) + len(c)


def test_windows_are_put_where_the_caller_keeps_them():
    kept = []

    def keep(data):
        kept.append(data)
        return lambda: data

    gather([("a", chunks_of(cut(range(100))))], Market.SPOT, keep)
    assert [len(data) for data in kept] == [40 * WINDOW_BYTES, 40 * WINDOW_BYTES, 19 * WINDOW_BYTES]


def test_of_no_spans_the_union_is_none():
    assert [len(edge) for edge in joined_spans([])] == [0, 0]
