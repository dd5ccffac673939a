import random

from twintape.core.budget import SECOND_NS
from twintape.core.silence import Listening, patience_ns


def speak(stream, spacings_s, start_s=0.0):
    """Let the stream speak with these pauses, measured twice a second; returns the time of the last frame in seconds."""
    now, check = start_s, start_s
    for spacing in spacings_s:
        now += spacing
        while check + 0.5 < now:
            check += 0.5
            stream.measure()
        stream.count += 1
        stream.last_ns = int(now * SECOND_NS)
    stream.measure()
    return now


def noticed_after(stream, last_s):
    """How many seconds of silence it takes."""
    for tenth in range(3000):
        if stream.silent(int((last_s + tenth / 10) * SECOND_NS)):
            return tenth / 10
    raise AssertionError("never noticed")


def test_nothing_is_said_about_a_stream_that_has_hardly_spoken():
    stream = Listening(0, steady=True)
    speak(stream, [0.1] * 10)
    assert not stream.silent(3600 * SECOND_NS)


def test_a_stall_of_a_stream_with_spacings_up_to_half_a_second_is_noticed_within_five_seconds():
    draw = random.Random(1)
    for spacing in (0.02, 0.1, 0.25, 0.45):
        stream = Listening(0, steady=True)
        last = speak(stream, [spacing * draw.uniform(0.8, 1.1) for _ in range(200)])
        assert 3.0 <= noticed_after(stream, last) <= 4.5


def test_a_quiet_stream_may_be_silent_for_long():
    stream = Listening(0, steady=True)
    last = speak(stream, [3.0] * 40)
    assert noticed_after(stream, last) > 50


def test_a_bursty_stream_may_be_silent_for_twice_its_longest_pause():
    stream = Listening(0, steady=False)
    last = speak(stream, ([0.05] * 200 + [10.0]) * 4 + [0.05] * 200)
    assert noticed_after(stream, last) > 15


def test_a_depth_stream_at_full_pace_is_not_excused_by_one_long_pause():
    stream = Listening(0, steady=True)
    last = speak(stream, [0.1] * 200 + [10.0] + [0.1] * 400)
    assert noticed_after(stream, last) <= 4.5


def test_the_longest_pause_is_forgotten_in_time():
    stream = Listening(0, steady=False)
    last = speak(stream, [0.1] * 100 + [30.0] + [0.1] * 36000)
    assert noticed_after(stream, last) < 10


def test_a_restart_forgives_the_silence_and_keeps_what_was_learned():
    stream = Listening(0, steady=True)
    last = speak(stream, [0.1] * 100)
    later = int((last + 100) * SECOND_NS)
    assert stream.silent(later)
    stream.restart(later)
    assert not stream.silent(later)
    assert stream.silent(later + 5 * SECOND_NS)


def test_patience_grows_with_the_spacing_between_its_bounds():
    values = [patience_ns(spacing * 1e6) for spacing in (1, 100, 150, 400, 500, 501, 2000, 6000, 90000)]
    assert values == sorted(values)
    assert (values[0], values[4], values[-1]) == (3 * SECOND_NS, 4 * SECOND_NS, 120 * SECOND_NS)
