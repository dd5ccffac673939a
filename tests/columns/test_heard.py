import numpy as np
import pytest

from support.compare import T0_MS, chunk, frame, lines
from twintape.columns.heard import EPOCH_IDS, hear
from twintape.core.errors import CorruptionError
from twintape.core.markets import Market


def test_windows_stand_in_the_order_of_ids_each_once_as_it_was_heard_first():
    frames = [frame(5, 9), frame(0, 5), frame(5, 9), frame(9, 12), b"<html>"]
    (line,) = lines(frames)
    assert line.final.tolist() == [5, 9, 12]
    assert line.prev.tolist() == [0, 5, 9]
    assert line.receive_time_ns.tolist() == [10**18 + 1, 10**18, 10**18 + 3]
    assert (line.frames, line.repeats, line.contradictions, line.undecodable, line.late) == (5, 1, 0, 1, 1)
    assert line.frame(1) == frame(5, 9)


def test_a_line_that_says_two_things_of_one_window_contradicts_itself():
    (line,) = lines([frame(0, 5, [(1, 2)]), frame(0, 5, [(1, 3)]), frame(0, 5, [(1, 2)], event_ms=T0_MS)])
    assert (len(line), line.repeats, line.contradictions) == (1, 1, 1)


def test_connections_are_counted_and_late_is_meant_of_each_for_itself():
    chunks = [chunk([frame(0, 5), frame(5, 9)]), chunk([frame(0, 5)], connection="bbbbbbbb-2"), chunk([frame(9, 10)])]
    (line,) = hear([("a", chunks)], Market.SPOT)
    assert (line.connections, line.late, line.repeats) == (2, 0, 1)
    behind = [chunk([frame(5, 9)]), chunk([frame(0, 5)])]
    assert hear([("a", behind)], Market.SPOT)[0].late == 1


def test_ids_that_begin_anew_are_told_apart_from_those_before():
    first = [frame(5_000_000 + n, 5_000_001 + n) for n in range(3)]
    anew = [frame(n, n + 1, event_ms=T0_MS + 9_000_000) for n in range(3)]
    a, b = lines(first + anew, anew)
    assert a.final.tolist() == [5_000_001, 5_000_002, 5_000_003, *(EPOCH_IDS + n for n in (1, 2, 3))]
    assert np.array_equal(b.final, a.final[3:])


def test_frames_no_template_prints_are_compared_by_their_text_without_e():
    odd = frame(0, 5, [(1, 2)]).replace(b'"s":', b'"s": ').replace(b'"b":', b'"b": ')
    later = odd.replace(b"%d" % (T0_MS + 5), b"%d" % (T0_MS + 6))
    other = odd.replace(b'"2.0"', b'"3.0"')
    micro = odd.replace(b"%d" % (T0_MS + 5), b"%d123" % (T0_MS + 5))
    a, b, c, d = lines([odd], [later], [other], [micro])
    assert a.template.tolist() == [-1]
    assert np.array_equal(a.content, b.content)
    assert np.array_equal(a.content, d.content)
    assert not np.array_equal(a.content, c.content)


def test_numbers_finer_than_any_the_exchange_prints_are_no_depth_frames():
    (line,) = lines([frame(0, 5, [(1, 2)]).replace(b'"2.0"', b'"2.123456789"')])
    assert (len(line), line.undecodable) == (0, 1)


def test_a_line_that_heard_nothing_is_a_line():
    a, b = hear([("a", []), ("b", [chunk([])])], Market.USDM)
    assert (len(a), len(b), a.connections, b.connections) == (0, 0, 0, 1)
    assert len(a.take(np.zeros(0, np.int64))) == 0


def test_damage_is_told():
    broken = chunk([])
    with pytest.raises(CorruptionError):
        hear([("a", [type(broken)("", "x-1", 0, "", lambda: b"no time\n")])], Market.SPOT)
