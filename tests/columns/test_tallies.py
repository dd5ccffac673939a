import pytest

from twintape.columns.lines import Chunk
from twintape.columns.messages import merge_messages_day
from twintape.columns.tallies import message_fates, message_gaps, message_statistics, messages_by_source


def trade(number, price="1.0"):
    return b'{"e":"trade","E":1723161255343,"s":"A","t":%d,"p":"%b","q":"1","T":1723161255342,"m":true}' % (
        number,
        price.encode(),
    )


def chunk(collector, frames, source, start_ns):
    text = b"".join(b"%d %b\n" % (start_ns + number, frame) for number, frame in enumerate(frames))
    return Chunk(collector, "aaaaaaaa-1", source, "2024-08-08", lambda: text)


@pytest.fixture
def chunks():
    return [
        chunk("tokyo", [trade(1), trade(2), trade(3), trade(3, "9.0")], 0, 100),
        chunk("paris", [trade(1), trade(3), b"<odd>", trade(7)], 1, 200),
        chunk("paris", [trade(8)], -1, 300),
    ]


def test_every_frame_is_in_one_count(chunks):
    day = merge_messages_day("trade", chunks)
    fates = message_fates(day, {"paris": 4})
    assert fates.chosen == {"tokyo": 3, "paris": 2}
    assert fates.duplicate == {"paris": 2}
    assert fates.verbatim == {"conflict": {"tokyo": 1}, "other": {"paris": 1}}
    assert fates.owed == {"paris": 4}
    assert messages_by_source(day, chunks, 3) == [4, 4, 0]


def test_each_line_has_what_it_heard_and_missed(chunks):
    paris, tokyo = message_statistics(merge_messages_day("trade", chunks), {"paris": 4})
    assert (paris.collector, paris.frames, paris.chosen, paris.duplicate, paris.verbatim, paris.owed) == ("paris", 9, 2, 2, 1, 4)
    assert (paris.only_here, paris.missed, paris.gaps) == (2, 1, 2)
    assert (paris.first_receive_time_ns, paris.last_receive_time_ns) == (200, 300)
    assert (tokyo.frames, tokyo.only_here, tokyo.missed, tokyo.gaps) == (4, 1, 2, 0)


def test_gaps_are_told_with_an_unknown_class(chunks):
    (gap,) = message_gaps(merge_messages_day("trade", chunks))
    assert (gap.after_update_id, gap.next_prev_update_id, gap.gap_class) == (3, 6, "unknown")
    assert gap.from_event_time_us == gap.to_event_time_us == 1723161255343000


def test_where_ids_are_not_contiguous_a_hole_of_a_line_shows_in_what_others_heard():
    def ticker(number):
        return b'{"u":%d,"s":"A","b":"1","B":"1","a":"1","A":"1"}' % number

    chunks = [chunk("tokyo", [ticker(10), ticker(30)], 0, 1), chunk("paris", [ticker(10), ticker(20), ticker(30)], 0, 5)]
    paris, tokyo = message_statistics(merge_messages_day("bookTicker", chunks), {})
    assert (paris.gaps, tokyo.gaps) == (0, 1)


def test_a_day_without_frames_and_a_collector_without_any():
    day = merge_messages_day("trade", [])
    assert message_statistics(day, {}) == []
    assert messages_by_source(day, [], 2) == [0, 0]
    empty = merge_messages_day("trade", [Chunk("tokyo", "aaaaaaaa-1", 0, "2024-08-08", lambda: b"")])
    assert message_statistics(empty, {})[0].first_receive_time_ns is None
