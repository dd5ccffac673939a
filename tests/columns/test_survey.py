"""The one pass over a segment: it says what the slow reader says, and its headers are those of the lines."""

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.frames import frame, frames, mutated
from twintape.columns import survey as module
from twintape.columns import templates as templates_module
from twintape.columns.kernel import hash_seed
from twintape.columns.parse import SLOW, scan
from twintape.columns.survey import TEMPLATES_SHARED_MAX, survey
from twintape.columns.templates import TemplateSet
from twintape.core import segment, wire
from twintape.core.errors import CorruptionError
from twintape.core.index import index_frame
from twintape.core.markets import Market

SPOT, USDM = Market.SPOT, Market.USDM
RUN = "0123456789abcdef0123456789abcdef"
NOON_MS = 1_723_204_800_000
MIDNIGHT_MS = 1_723_248_000_000
T0 = NOON_MS * 10**6


def opening(time_us=NOON_MS * 1000, market=SPOT):
    return wire.open_line(
        collector="tokyo", market=market, run=RUN, connection=3, sequence=1, url="wss://x", streams=["btcusdt@depth"],
        version="0", event_time_us=time_us,
    )  # fmt: skip


def seal(lines, market=SPOT, **more):
    chain = segment.ChainLink(id=RUN[:16], number=0, previous=None, reason="new spool")
    return segment.seal(lines, collector="tokyo", market=market, run=RUN, connection=3, sequence=1, chain=chain, **more).data


def event(number, *, time_ms=NOON_MS, market=SPOT, **more):
    ids = {"first": 10 * number + 1, "final": 10 * number + 10, "prev": 10 * number}
    return frame(market, event_time=str(time_ms + number), **(ids | more))


def ordinary(market=SPOT, count=6):
    lines = [(T0, opening(market=market))]
    for number in range(count):
        lines += [
            (T0 + 10 * number + 1, event(number, market=market)),
            (T0 + 10 * number + 2, b'{"stream":"btcusdt@trade","data":{"e":"trade","E":%d,"t":%d}}' % (NOON_MS + number, number)),
            (T0 + 10 * number + 3, b'{"stream":"btcusdt@bookTicker","data":{"u":1,"s":"BTCUSDT"}}'),
        ]
    return lines


def refuse(_data):
    raise AssertionError("the slow reader was asked")


def forged(data, **changes):
    """Return the object with another index: `changes` name fields of the index, `block__` and fields of the first block of depth frames."""
    index = segment.read_index(data, len(data))
    own = {name.removeprefix("block__"): value for name, value in changes.items() if name.startswith("block__")}
    streams = [
        msgspec.structs.replace(stream, blocks=(msgspec.structs.replace(stream.blocks[0], **own), *stream.blocks[1:]))
        if wire.is_depth(stream.stream)
        else stream
        for stream in index.streams
    ]
    rest = {name: value for name, value in changes.items() if not name.startswith("block__")}
    offset = sum(block.size for stream in streams for block in stream.blocks)
    return data[:offset] + index_frame(msgspec.structs.replace(index, streams=tuple(streams), **rest), offset)


def verdict(reader, data):
    try:
        return reader(data)
    except CorruptionError:
        return None


# --- what the index says -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("market", list(Market))
def test_an_ordinary_segment_is_checked_without_the_slow_reader(monkeypatch, market):
    data = seal(ordinary(market), market)
    expected = segment.verify_segment(data)
    monkeypatch.setattr(segment, "verify_segment", refuse)
    found = survey(data, "01234567-3", {})
    assert found.index == expected
    assert [len(block) for block in found.headers["btcusdt@depth"]] == [6]
    again = survey(data, "01234567-3", {}, expected)
    assert again.index is expected
    assert [text.count(b"\n") for _, text in again.control] == [1]


LINES = {
    "no open line": [(T0 + k, event(k)) for k in range(3)],
    "an open line that knows no time": [(T0, opening(None)), (T0 + 1, event(0))],
    "an open line of the day before": [(T0, opening(MIDNIGHT_MS * 1000 - 1)), (T0 + 1, event(0, time_ms=MIDNIGHT_MS))],
    "an open line from the future": [(T0, opening(NOON_MS * 1000 + 10**12)), (T0 + 1, event(0))],
    "an open line that is not the first": [(T0 - 1, event(0)), (T0, opening())],
    "a control line that opens nothing": [(T0, wire.subscribe_line(streams=["x"])), (T0 + 1, event(0))],
    "an open line whose time is none": [(T0, opening("soon")), (T0 + 1, event(0))],
    "a midnight": [(T0 + k, event(k, time_ms=MIDNIGHT_MS - 3)) for k in range(6)],
    "no event time at all": [(T0, b"{}"), (T0 + 1, b"<html>")],
    "times that step back": [(T0 + 5, event(0)), (T0, event(1))],
    "streams out of order": [(T0, b"{}"), (T0 + 5, event(0)), (T0 + 4, b"{}"), (T0 + 4, event(1))],
    "an absurd time": [(T0, event(0)), (T0 + 1, event(1, time_ms=NOON_MS + 10**9)), (T0 + 2, event(2))],
    "a frame without ids": [(T0, event(0)), (T0 + 1, b'{"stream":"btcusdt@depth","data":{"E":%d}}' % NOON_MS)],
    "a frame only the slow reader understands": [(T0, event(0)), (T0 + 1, event(1, extra='"x":"\\n",'))],
    "ids in another order": [(T0, event(0, keys="e E s u U b a"))],
    "text beyond ASCII": [(T0, event(0)), (T0 + 1, '{"stream":"币@trade","data":{}}'.encode())],
    "many blocks": [(T0 + k, event(k, extra=f'"x":"{"y" * 300_000}",')) for k in range(8)],
    "an event without levels": [(T0, event(0, bids=(), asks=()))],
}


@pytest.mark.parametrize("lines", LINES.values(), ids=LINES)
def test_segments_out_of_the_ordinary_are_what_the_slow_reader_says(lines):
    data = seal(lines)
    found = survey(data, "01234567-3", {})
    assert found.index == segment.verify_segment(data)
    counts = {stream.name: stream.count for stream in found.index.streams if wire.is_depth(stream.stream)}
    assert {name: sum(map(len, blocks)) for name, blocks in found.headers.items()} == counts


@settings(max_examples=60, deadline=None)
@given(st.data(), st.sampled_from(list(Market)))
def test_whatever_is_recorded_the_two_readers_agree(data, market):
    texts = data.draw(st.lists(st.one_of(frames(market), mutated(market)), min_size=1, max_size=8))
    times = sorted(data.draw(st.lists(st.integers(0, 50), min_size=len(texts), max_size=len(texts))))
    lines = [(T0 + time, text) for time, (_, text) in zip(times, texts, strict=True) if wire.recordable(text)]
    if lines:
        sealed = seal([(T0, opening(market=market)), *lines], market)
        assert survey(sealed, "01234567-3", {}).index == segment.verify_segment(sealed)


FORGED = {
    "first receive time": {"first_receive_time_ns": T0 + 1},
    "last receive time": {"last_receive_time_ns": T0 + 9},
    "hour": {"hour": 13},
    "date": {"date": "2024-08-08"},
    "date of a block": {"block__date": "2024-08-08"},
    "first id": {"block__first_prev_update_id": 1},
    "last id": {"block__last_final_update_id": 99},
    "breaks": {"block__breaks": 3},
    "first receive time of a block": {"block__first_receive_time_ns": T0},
    "last receive time of a block": {"block__last_receive_time_ns": T0},
    "event times": {"block__event_time_us_min": NOON_MS * 1000 - 1, "event_time_us_min": NOON_MS * 1000 - 1},
}


@pytest.mark.parametrize("changes", FORGED.values(), ids=FORGED)
def test_an_index_that_says_what_is_not_true_is_refused_by_both(changes):
    data = forged(seal(ordinary()), **changes)
    for reader in (segment.verify_segment, lambda data: survey(data, "01234567-3", {})):
        with pytest.raises(CorruptionError):
            reader(data)


@pytest.mark.parametrize("text", [b"5 \n", b"x {}\n", b"5 {}\r\n", b"5 {\x00}\n", b"5 \xff\xff\n", b"5 a\n6 b\n"])
def test_lines_that_cannot_be_are_left_to_the_slow_reader(text):
    facts = module._Facts(segment.read_index(data := seal(ordinary()), len(data)))
    block = facts._index.streams[0].blocks[0]
    facts.add_text(text, "!other", msgspec.structs.replace(block, count=1))
    assert not facts.ordinary()


@settings(max_examples=200, deadline=None)
@given(st.lists(st.text('"E:1 23,\t}', max_size=40).map(str.encode), max_size=4), st.sampled_from([b"", b'"E":', b'"E": ']))
def test_event_times_are_found_where_the_slow_reader_finds_them(texts, key):
    texts = [b"{" + key + text for text in texts]
    for text in [*texts, b'{"E":1234567890123}', b'{"E":\t1234567890123456,', b'{"E":12345678901234567,"E":1234567890123}']:
        time = wire.event_time_us(text)
        assert skimmed(b"17 %b\n" % text) == (1, [17, 17, 0, *[-1 if time is None else time] * 2])


def skimmed(text):
    found = np.empty(module._TEXT_FACTS, np.int64)
    return module._skim(np.frombuffer(text, np.uint8), found), found.tolist()


def test_lines_are_summed_up():
    times = 1234567890123, 1234567890120, 1234567890999
    lines = [b"%d {}\n" % received for received in (5, 9, 7, 7)]
    assert skimmed(b"".join(lines)) == (4, [5, 7, 1, -1, -1])
    lines[1:3] = [b'9 {"E":%d}\n' % time for time in times]
    assert skimmed(b"".join(lines)) == (5, [5, 7, 1, 1234567890120000, 1234567890999000])


def test_a_damaged_object_is_refused():
    data = seal(ordinary())
    for place in (0, 20, len(data) // 2, len(data) - 1):
        with pytest.raises(CorruptionError):
            survey(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :], "01234567-3", {})


# --- headers -------------------------------------------------------------------------------------------------------------------


def test_headers_are_those_of_the_blocks_texts():
    data = seal(LINES["many blocks"])
    found = survey(data, "01234567-3", {}).headers["btcusdt@depth"]
    index = segment.read_index(data, len(data))
    seed, templates = hash_seed("tokyo", "01234567-3"), TemplateSet()
    for block, headers in zip(index.streams[0].blocks, found, strict=True):
        text = segment.read_block(data[block.offset : block.offset + block.size], block)
        assert headers.rows.tolist() == scan(text, SPOT, templates, seed=seed).rows.tolist()


def shapes(found):
    (headers,) = found.headers["btcusdt@depth"]
    return [headers.templates[code] if code >= 0 else None for code in headers.template.tolist()]


def test_what_was_seen_before_makes_no_difference(monkeypatch):
    few = seal([(T0 + k, event(k, extra=f'"x":{k % 2},')) for k in range(6)])
    many = seal([(T0 + k, event(k, extra=f'"x":{k},')) for k in range(TEMPLATES_SHARED_MAX + 4)])
    known = {}
    alone = shapes(survey(few, "01234567-3", {}))
    assert shapes(survey(few, "01234567-3", known)) == shapes(survey(few, "01234567-3", known)) == alone
    assert len(known["btcusdt@depth"]) == 2
    monkeypatch.setattr(templates_module, "TEMPLATES_MAX", TEMPLATES_SHARED_MAX + 2)
    monkeypatch.setattr(module, "TEMPLATES_MAX", TEMPLATES_SHARED_MAX + 2)
    expected = shapes(survey(many, "01234567-3", {}))
    assert expected.count(None) == 2, "of the last two shapes"
    known["btcusdt@depth"] = TemplateSet(alone[:1])
    assert SLOW in survey(many, "01234567-3", {}).headers["btcusdt@depth"][0].template
    assert shapes(survey(many, "01234567-3", known)) == expected
    assert known == {}
