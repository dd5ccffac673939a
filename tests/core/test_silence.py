import random

import pytest

from twintape.core.budget import SECOND_NS
from twintape.core.silence import Lag, Listening, Pace, Retry

S = SECOND_NS


def speak(stream, spacings_s, start_s=0.0):
    """Let the stream speak with these pauses, measured twice a second; returns the time of the last frame in seconds."""
    now, check = start_s, start_s
    for spacing in spacings_s:
        now += spacing
        while check + 0.5 < now:
            check += 0.5
            stream.measure(int(check * S))
        stream.count += 1
        stream.last_ns = int(now * S)
    stream.measure(int(now * S))
    return now


def noticed_after(stream, last_s):
    """How many seconds of silence it takes."""
    for tenth in range(9000):
        if stream.silent(int((last_s + tenth / 10) * S)):
            return tenth / 10
    raise AssertionError("never noticed")


def listening(bursty=False):
    return Listening(0, Pace(bursty=bursty))


def test_nothing_is_said_about_a_stream_that_has_hardly_spoken():
    stream = listening()
    speak(stream, [0.1] * 10)
    assert not stream.silent(3600 * S)
    assert not stream.pace.steady(3600 * S)


@pytest.mark.parametrize("spacing", [0.02, 0.1, 0.25, 0.45])
def test_a_stall_of_a_stream_that_keeps_a_beat_is_noticed_within_five_seconds(spacing):
    draw = random.Random(1)
    stream = listening()
    last = speak(stream, [spacing * draw.uniform(0.8, 1.1) for _ in range(round(200 / spacing))])
    assert 3.0 <= noticed_after(stream, last) <= 4.5
    assert stream.pace.steady(int(last * S))


def test_while_little_is_known_of_a_stream_it_gets_more_patience():
    waits = []
    for seconds in (15, 60, 600):
        stream = listening()
        waits.append(noticed_after(stream, speak(stream, [0.1] * seconds * 10)))
    assert waits == sorted(waits, reverse=True)
    assert waits[0] > 8
    assert waits[-1] < 3.5


def test_a_quiet_stream_may_be_silent_for_twice_its_longest_silence():
    stream = listening()
    last = speak(stream, ([0.1] * 20 + [20.0]) * 200)
    assert 40 <= noticed_after(stream, last) <= 80
    assert not stream.pace.steady(int(last * S))


def test_a_median_below_half_a_second_does_not_make_a_quiet_stream_a_busy_one():
    draw = random.Random(3)
    stream = listening()
    last = speak(stream, [0.3 if draw.random() < 0.6 else draw.uniform(1, 20) for _ in range(3000)])
    assert noticed_after(stream, last) > 38


def test_a_bursty_stream_gets_more_patience_than_a_depth_stream():
    spacings = ([0.05] * 200 + [10.0]) * 40
    depth, trades = listening(), listening(bursty=True)
    assert noticed_after(trades, speak(trades, spacings)) > noticed_after(depth, speak(depth, spacings)) >= 20


def test_no_stream_gets_more_than_a_quarter_of_an_hour():
    stream = listening()
    last = speak(stream, [600.0] * 30)
    assert stream.pace.patience_ns(int(last * S)) == 900 * S


def test_the_longest_silence_counts_half_after_half_a_day():
    pace = Pace()
    pace.learn(40 * S, 0)
    assert pace.longest_ns(12 * 3600 * S) == pytest.approx(20 * S)
    pace.learn(10 * S, 12 * 3600 * S)
    assert pace.longest_ns(12 * 3600 * S) == pytest.approx(20 * S)
    pace.learn(30 * S, 12 * 3600 * S)
    assert pace.longest_ns(12 * 3600 * S) == pytest.approx(30 * S)


def test_a_restart_forgives_the_silence_and_keeps_what_was_learned():
    stream = listening()
    last = speak(stream, [0.1] * 3000)
    later = int((last + 100) * S)
    assert stream.silent(later)
    stream.restart(later)
    assert not stream.silent(later)
    assert stream.silent(later + 5 * S)
    speak(stream, [0.1] * 100, (later + 1) / S)
    assert stream.pace.longest_ns(later) == 0  # the forgiven silence taught nothing


def test_a_time_in_which_nobody_listened_is_left_out_of_the_silence():
    stream = listening()
    last = speak(stream, [0.1] * 3000)
    now = int((last + 10) * S)
    assert stream.silent(now)
    stream.excuse(9 * S, now)
    assert not stream.silent(now)
    stream.excuse(100 * S, now)
    assert stream.last_ns == now


def test_what_one_connection_learned_another_one_knows():
    pace = Pace()
    last = speak(Listening(0, pace), [0.1] * 3000)
    assert noticed_after(Listening(int(last * S), pace), last) < 4


def test_trouble_is_answered_at_once_then_ever_less_often_and_anew_when_it_was_over():
    retry = Retry()
    assert [second for second in range(3600) if retry.take(second * S)] == [0, 30, 90, 210, 450, 930, 1530, 2130, 2730, 3330]
    retry.over()
    assert [second for second in range(100) if retry.take((3600 + second) * S)] == [0, 30, 90]


def test_trouble_after_an_hour_without_is_new_trouble():
    retry = Retry()
    assert all(retry.take(second * S) for second in (0, 30, 90, 210))
    assert retry.take(10_000 * S)
    assert retry.take(10_030 * S)


def lags(lag, values):
    return [lag.measure(int(value * S)) for value in values]


def test_frames_are_late_when_four_in_a_row_are_three_seconds_above_the_usual():
    lag = Lag()
    assert not any(lags(lag, [0.1] * 100))
    assert lags(lag, [5, 5, 5, 0.1, 5, 5, 5, 5, 5]) == [False] * 7 + [True] * 2
    assert lags(lag, [0.1, 5]) == [False, False]


def test_nothing_is_late_before_it_is_known_what_is_usual():
    assert not any(lags(Lag(), [0.1] * 10 + [9.0] * 10))


def test_a_clock_that_differs_is_no_lateness_and_neither_is_a_slow_drift():
    lag = Lag()
    assert not any(lags(lag, [-1.3] * 50))
    assert lag.usual_ns == pytest.approx(-1.3 * S)
    assert not any(lags(lag, [-1.3 + step / 1000 for step in range(5000)]))


def test_a_connection_that_falls_behind_slowly_is_late_all_the_same():
    lag = Lag()
    assert any(lags(lag, [0.1 + step / 50 for step in range(300)]))


def test_what_is_usual_is_hardly_moved_by_late_frames_and_found_again_after_a_late_beginning():
    lag = Lag()
    lags(lag, [60] * 10 + [0.1] * 200)
    assert lag.usual_ns < 0.2 * S
    lags(lag, [60] * 10)
    assert lag.usual_ns < 0.2 * S
    assert lag.late
    lag.restart()
    assert (lag.usual_ns, lag.late) == (0, False)
