import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from twintape.core import active, wire
from twintape.core.active import HourWatch, parse_line, recover_active
from twintape.core.errors import CorruptionError

HOUR_MS = 3_600_000

frames = st.one_of(
    st.sampled_from([b"{}", b"x", b" ", b"  ", b'{"stream":"!twintape@sync","bytes":4,"crc32":"00000000"}', "币".encode()]),
    st.text(min_size=1, max_size=40).map(lambda t: t.encode(errors="ignore")).filter(wire.recordable),
)
lines = st.lists(st.tuples(st.integers(0, active.TIME_NS_MAX), frames), max_size=12)


class Writer:
    """What a spool does: appends lines and, now and then, a sync line."""

    def __init__(self):
        self.data = b""
        self.synced = 0

    def line(self, line):
        self.data += active.format_line(*line)

    def sync(self):
        covered = self.data[self.synced :]
        self.data += active.format_sync(7, size=len(covered), crc32=zlib.crc32(covered))
        self.synced = len(self.data)


def written(groups):
    """Return the file of groups of lines, each group but the last followed by a sync line, and for each sync its end and line count."""
    writer, syncs, count = Writer(), [(0, 0)], 0
    for position, group in enumerate(groups):
        for line in group:
            writer.line(line)
        count += len(group)
        if position < len(groups) - 1:
            writer.sync()
            syncs.append((len(writer.data), count))
    return writer.data, syncs


@given(st.lists(lines, min_size=1, max_size=4))
def test_recovery_gives_back_all_lines_and_drops_the_sync_lines(groups):
    data, syncs = written(groups)
    recovered = recover_active(data)
    assert recovered.lines == [line for group in groups for line in group]
    assert (recovered.good_size, recovered.tail) == (len(data), b"")
    assert recovered.checked_count == syncs[-1][1]
    assert recovered.unchecked_count == len(groups[-1])


@settings(max_examples=25)
@given(st.lists(st.lists(st.tuples(st.integers(0, 10**18), frames), max_size=4), min_size=1, max_size=3))
def test_a_file_cut_anywhere_keeps_every_whole_line_and_calls_checked_what_was_synced(groups):
    data, syncs = written(groups)
    everything = [line for group in groups for line in group]
    for size in range(len(data) + 1):
        recovered = recover_active(data[:size])
        assert recovered.lines == everything[: len(recovered.lines)]
        assert recovered.checked_count == max(count for end, count in syncs if end <= size)
        assert recovered.good_size + len(recovered.tail) == size
        assert data[: recovered.good_size] + recovered.tail == data[:size]
        assert b"\n" not in recovered.tail


@settings(max_examples=25)
@given(groups=st.lists(lines, min_size=2, max_size=3), garbage=st.binary(min_size=1, max_size=30))
def test_garbage_behind_a_sync_never_touches_what_was_synced(groups, garbage):
    data, syncs = written([*groups[:-1], []])
    recovered = recover_active(data + garbage)
    count = syncs[-1][1]
    assert recovered.checked_count == count
    assert recovered.lines[:count] == [line for group in groups[:-1] for line in group]
    assert data + garbage == (data + garbage)[: recovered.good_size] + recovered.tail


def test_every_flipped_bit_of_a_synced_line_ends_what_is_checked_before_it():
    first, second = (1, b'{"a":1}'), (2, b'{"b":2}')
    data, syncs = written([[first], [second], []])
    start, end = syncs[1][0], syncs[2][0]
    for bit in range(8 * start, 8 * end):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        recovered = recover_active(bytes(damaged))
        assert recovered.lines[0] == first
        # The sync line's own receive time is the one thing nothing depends on.
        assert recovered.checked_count == 1 or recovered.lines == [first, second]


def test_a_fake_sync_line_is_a_frame_like_any_other():
    fake = wire.sync_line(size=12, crc32=0)
    writer = Writer()
    for line in [(1, b"{}"), (2, fake), (3, b"{}")]:
        writer.line(line)
    writer.sync()
    recovered = recover_active(writer.data)
    assert recovered.lines == [(1, b"{}"), (2, fake), (3, b"{}")]
    assert recovered.checked_count == 3


def test_a_zero_filled_file_has_no_line():
    recovered = recover_active(b"\0" * 4096)
    assert recovered.lines == []
    assert recovered.tail == b"\0" * 4096


def test_an_empty_file_has_neither_line_nor_tail():
    assert recover_active(b"") == active.Recovered([], 0, 0, 0, b"")


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"1",
        b"1 ",
        b" {}",
        b"01 {}",
        b"00 {}",
        b"-1 {}",
        b"+1 {}",
        b"1_0 {}",
        b"1.0 {}",
        b"\xd9\xa1 {}",
        b"9223372036854775808 {}",
        b"12345678901234567890 {}",
        b"1\t{}",
        b"1 {\r}",
        b"1 {\0}",
        b"1 \xff",
        b"1 {\n}",
    ],
)
def test_what_has_not_the_form_of_a_line_is_refused(line):
    with pytest.raises(CorruptionError):
        parse_line(line)


@pytest.mark.parametrize("line", [b"0 {}", b"1 x", b"9223372036854775807  ", "5 币".encode()])
def test_what_has_the_form_of_a_line_is_read_exactly(line):
    assert active.format_line(*parse_line(line)) == line + b"\n"


def test_text_is_whole_lines():
    assert active.parse_text(b"1 a\n2 b\n") == [(1, b"a"), (2, b"b")]
    for text in (b"", b"1 a", b"1 a\n\n", b"1 a\n2 b"):
        with pytest.raises(CorruptionError):
            active.parse_text(text)


def depth(event_time_ms):
    return b'{"stream":"a@depth","data":{"e":"depthUpdate","E":%d}}' % event_time_ms


def test_a_segment_ends_before_the_first_frame_of_a_later_hour():
    watch = HourWatch()
    assert not watch.would_raise_hour(depth(1_700_000_000_000 // HOUR_MS * HOUR_MS))
    assert not watch.would_raise_hour(b'{"stream":"a@bookTicker","data":{"u":1}}')
    last = (1_700_000_000_000 // HOUR_MS + 1) * HOUR_MS - 1
    assert not watch.would_raise_hour(depth(last))
    assert watch.would_raise_hour(depth(last + 1))
    assert watch.event_time_us == last * 1000, "a frame that is not taken leaves no trace"
    assert not watch.would_raise_hour(depth(last)), "late frames never raise the hour"


def test_the_hour_begins_with_what_the_open_line_says():
    hour_us = 1_700_000_000_000_000 // 3_600_000_000 * 3_600_000_000
    watch = HourWatch(hour_us)
    assert not watch.would_raise_hour(depth(hour_us // 1000 - 1))
    assert not watch.would_raise_hour(depth(hour_us // 1000 + HOUR_MS - 1))
    assert watch.would_raise_hour(depth(hour_us // 1000 + HOUR_MS))


DAY_MS = 24 * HOUR_MS
NOW_MS = 1_700_000_000_000


def watching(*times_ms, receive_ms=NOW_MS, watch=None):
    """Return the watch after frames of these event times, and for which of them it wanted a new segment."""
    watch = watch or HourWatch()
    return watch, [watch.would_raise_hour(depth(time_ms), receive_ms * 1_000_000) for time_ms in times_ms]


def test_one_absurd_event_time_raises_no_hour_and_is_not_remembered():
    watch, raised = watching(NOW_MS, NOW_MS + 500 * DAY_MS, NOW_MS + 1)
    assert raised == [False, False, False]
    assert watch.event_time_us == (NOW_MS + 1) * 1000


def test_a_time_that_our_own_clock_has_reached_is_believed_however_far_it_is():
    _, raised = watching(NOW_MS - 500 * DAY_MS, NOW_MS)
    assert raised == [False, True]


def test_the_past_is_played_as_it_was():
    past = NOW_MS - 700 * DAY_MS
    watch, raised = watching(past, past + 1, past + HOUR_MS)
    assert raised == [False, False, True]
    assert watch.event_time_us == (past + 1) * 1000


def test_an_exchange_may_live_in_the_future_or_our_clock_in_the_past():
    future = NOW_MS + 700 * DAY_MS
    watch, raised = watching(future, future + 1, NOW_MS - 5, future + 2, future + HOUR_MS, future + 2 * DAY_MS)
    assert raised == [False, False, False, False, True, False]
    assert watch.event_time_us == (future + 2) * 1000


def test_two_frames_in_a_row_outweigh_an_absurd_first_one():
    watch, _ = watching(NOW_MS + 500 * DAY_MS, NOW_MS)
    assert watch.event_time_us == (NOW_MS + 500 * DAY_MS) * 1000
    watching(NOW_MS + 500 * DAY_MS - 1, NOW_MS, watch=watch)
    assert watch.event_time_us == (NOW_MS + 500 * DAY_MS) * 1000, "the one that agrees starts the count again"
    watching(NOW_MS + 1, watch=watch)
    assert watch.event_time_us == (NOW_MS + 1) * 1000


def test_old_frames_do_not_outweigh_a_time_that_is_not_ahead():
    watch, _ = watching(NOW_MS, NOW_MS - 3 * DAY_MS, NOW_MS - 3 * DAY_MS, NOW_MS - 3 * DAY_MS)
    assert watch.event_time_us == NOW_MS * 1000


def test_without_a_receive_time_every_event_time_is_believed():
    watch = HourWatch()
    assert not watch.would_raise_hour(depth(NOW_MS))
    assert watch.would_raise_hour(depth(NOW_MS + 500 * DAY_MS))
    assert not watch.would_raise_hour(depth(NOW_MS - 500 * DAY_MS))


def test_a_symbol_with_two_depth_streams_has_none_for_raw_frames():
    assert active.depth_streams_of(["a@depth@100ms", "b@depth", "b@depth@100ms", "a@trade", "!ticker@arr"]) == {
        "A": "a@depth@100ms"
    }
    assert active.depth_streams_of(["a@depth", "a@depth"]) == {"A": "a@depth"}


HOURS = st.lists(st.tuples(st.integers(-40, 40), st.integers(-3, 3), st.integers(-30, 30)), max_size=30)


@given(st.one_of(st.none(), st.integers(0, 50)), HOURS)
def test_times_printed_as_usual_are_taken_as_those_printed_otherwise(opened, steps):
    start_ms = 1_728_000_000_000
    usual, slow = (HourWatch(None if opened is None else (start_ms + opened * HOUR_MS // 10) * 1000) for _ in range(2))
    for hours, minutes, received_hours in steps:
        time_ms = start_ms + hours * HOUR_MS + minutes * 60_000
        receive_ns = (start_ms + received_hours * HOUR_MS) * 1_000_000
        answers = [
            watch.would_raise_hour(
                b'{"stream":"a@depth","data":{"e":"depthUpdate","E":%b%d,"s":"A"}}' % (space, time_ms), receive_ns
            )
            for watch, space in ((usual, b""), (slow, b" "))
        ]
        assert answers[0] == answers[1]
        assert usual.event_time_us == slow.event_time_us


def test_a_frame_of_no_time_in_a_known_hour_changes_nothing():
    watch = HourWatch(1_728_000_000_000_000)
    for frame in (b"{}", b'{"E":"soon","x":"............."}', b'{"E":1728000000001}'):
        assert not watch.would_raise_hour(frame)
    assert watch.event_time_us == 1_728_000_000_001_000


@given(st.integers(-40, 40), st.lists(st.tuples(st.integers(-40, 40), st.integers(0, 59)), min_size=1, max_size=6))
def test_times_that_belong_to_a_segment_as_a_matter_of_course_fit_into_it_one_by_one(opened, steps):
    start_ms = 1_728_000_000_000
    known_us = (start_ms + opened * HOUR_MS) * 1000
    times = [b"%d" % (start_ms + hours * HOUR_MS + minutes * 60_000) for hours, minutes in steps]
    together, alone = HourWatch(known_us), HourWatch(known_us)
    lines = [(start_ms * 1_000_000, b'{"e":"depthUpdate","E":%b,"s":"A"}' % time) for time in times]
    if together.spans(min(times), max(times)):
        assert alone.fitting(lines) == len(lines)
    assert together.event_time_us == (alone.event_time_us if together.spans(min(times), max(times)) else known_us)


def test_a_segment_that_knows_no_time_yet_takes_none_as_a_matter_of_course():
    watch = HourWatch()
    assert not watch.spans(b"1728000000000", b"1728000000001")
    assert watch.event_time_us is None


@given(st.lists(st.tuples(st.integers(0, 2**70), frames.filter(lambda frame: b"\n" not in frame)), min_size=1, max_size=5))
def test_the_text_of_lines_is_theirs_one_behind_the_other(lines):
    text = active.LineText.of(lines)
    assert text.text == b"".join(active.format_line(*line) for line in lines)
    assert text.lines() == lines
    assert (text.count, text.size) == (len(lines), sum(len(frame) for _, frame in lines))
    assert (text.last_receive_time_ns, text.event_times) == (lines[-1][0], None)
