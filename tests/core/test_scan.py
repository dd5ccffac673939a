import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twintape.core import scan as module
from twintape.core import wire
from twintape.core.heads import read_heads
from twintape.core.markets import Market
from twintape.core.scan import cut, receipt_order

DEPTH = b'{"stream":"%b","data":{"e":"depthUpdate","E":17280000%05d,"s":"X","U":%d,"u":%d,%b"b":[],"a":[]}}'
OTHERS = [
    b'{"stream":"aaa@trade","data":{"e":"trade","E":1728000000999,"t":5}}',
    b'{"stream":"aaa@bookTicker","data":{"u":7,"s":"AAA"}}',
    b'{"stream":"!twintape@clock","wall_ns":1}',
    b'{"stream":"!twintape@snapshot","symbol":"AAA","url":"","request_time_ns":1,"response_time_ns":2,"status":200,"body":{}}',
    b'{"e":"depthUpdate","E":1728000000001,"s":"AAA","U":1,"u":2,"b":[],"a":[]}',
    b'{"stream":"aaa@depth","data":{ "e":"depthUpdate","E": 1728000000002,"s":"AAA","U": 3, "u": 4,"b":[]}}',
    b'{"stream":"ccc\\u0041@depth","data":{"e":"depthUpdate","E":1728000000003,"s":"X","U":1,"u":2,"b":[]}}',
    b'{"stream":"","data":{}}',
    b"<html>",
]
NAMES = [
    b"aaa@depth",
    b"bbb@depth@100ms",
    b"aaa@trade",
    b"x" * 100 + b"@depth",
    b"!twintape@depth",
    "币@depth".encode(),
    b"\xff@depth",
]


def scan(texts, *arguments):
    return module.scan(texts, read_heads(texts), *arguments)


@st.composite
def frames(draw):
    if draw(st.booleans()):
        return draw(st.sampled_from(OTHERS))
    first = draw(st.integers(1, 10**6))
    prev = draw(st.sampled_from([b"", b'"pu":%d,' % (first - 3)]))
    return DEPTH % (draw(st.sampled_from(NAMES)), draw(st.integers(0, 99_999)), first, first + draw(st.integers(0, 9)), prev)


def one_by_one(lines, market, depth_streams, snapshot_symbol):
    """What the slow scanners of `wire` say of each frame alone."""
    streams = [wire.stream_of(frame, depth_streams, snapshot_symbol) for _, frame in lines]
    ids = [
        wire.depth_ids(frame, market) if wire.is_depth(wire.split_stream(name)[1]) else None
        for name, (_, frame) in zip(streams, lines, strict=True)
    ]
    return streams, [time for time, _ in lines], [wire.event_time_us(frame) for _, frame in lines], ids


@given(st.lists(st.tuples(st.integers(0, 2**63 - 1), frames()), max_size=40), st.sampled_from(list(Market)))
def test_the_columns_say_what_each_line_says_alone(lines, market):
    streams, times, event_times, ids = one_by_one(lines, market, {"AAA": "aaa@depth"}, "AAA")
    columns = scan([b"%d %b" % line for line in lines], market, {"AAA": "aaa@depth"}, "AAA")
    assert [columns.names[position] for position in columns.positions] == streams
    assert columns.names == list(dict.fromkeys(streams))  # in order of first appearance
    assert (columns.receive_times_ns, columns.event_times_us) == (times, event_times)
    assert columns.prev_ids == [None if pair is None else pair[0] for pair in ids]
    assert columns.final_ids == [None if pair is None else pair[1] for pair in ids]
    for position, pair, time in zip(columns.positions, ids, event_times, strict=True):
        assert columns.mixed[position] or (pair is not None and time is not None)


def test_nothing_has_no_columns():
    assert scan([], Market.SPOT, {}) == module.Columns([], [], [], [], [], [], [])


@pytest.mark.parametrize("market", list(Market))
def test_depth_events_alone_need_no_second_look(market, monkeypatch):
    monkeypatch.setattr(wire, "event_time_us", None)  # the slow way would fail
    lines = [b"%d %b" % (k, DEPTH % (b"aaa@depth", k, k, k, b'"pu":%d,' % (k - 1))) for k in range(1, 5)]
    assert scan(lines, market, {}).final_ids == [1, 2, 3, 4]


def test_streams_beyond_the_limit_share_one(monkeypatch):
    monkeypatch.setattr(module, "STREAMS_MAX", 3)
    columns = scan([b'%d {"stream":"s%d@trade","data":{}}' % (k, k) for k in range(5)], Market.SPOT, {})
    assert (columns.names, columns.positions) == (["s0@trade", "s1@trade", wire.OTHER], [0, 1, 2, 2, 2])


@given(st.lists(st.tuples(st.binary(max_size=60), st.integers(0, 2)), min_size=1, max_size=30), st.sampled_from([100, 10_000]))
def test_blocks_keep_the_order_hold_one_date_and_are_as_large_as_they_may_be(lines, size_max):
    texts, days = zip(*lines, strict=True)
    numbers = range(7, 7 + len(lines))
    found = list(cut(texts, numbers, [None] * 7 + list(days), size_max, one_day=len(set(days)) == 1))
    assert [number for members, _ in found for number in members] == list(numbers)
    for members, text in found:
        assert text == b"".join(texts[number - 7] + b"\n" for number in members)
        assert len({days[number - 7] for number in members}) == 1
        assert len(members) == 1 or len(text) <= size_max
    for (before, text), (after, _) in itertools.pairwise(found):
        size = len(text) + len(texts[after[0] - 7]) + 1
        assert days[before[0] - 7] != days[after[0] - 7] or size > size_max


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 300)), min_size=1, max_size=20))
def test_the_order_of_receipt_is_spelled_out_only_where_the_times_do_not_tell_it(lines):
    times, positions = zip(*lines, strict=True)
    codes = receipt_order(times, positions)
    if codes is None:
        assert sorted(lines) == lines
    else:
        numbers, shift = [0], 0
        for byte in codes:
            numbers[-1] |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                numbers.append(0)
                shift = 0
        assert numbers == [*positions, 0]
        assert sorted(lines) != lines
