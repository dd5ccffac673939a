import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twintape.core import scan as module
from twintape.core import wire
from twintape.core.heads import read_heads
from twintape.core.index import extent
from twintape.core.markets import Market
from twintape.core.scan import by_line, cut, receipt_order

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
    receive_times, columns = scan([b"%d %b" % line for line in lines], market, {"AAA": "aaa@depth"}, "AAA")
    assert [column.name for column in columns] == list(dict.fromkeys(streams))  # in order of first appearance
    assert receive_times == times
    for column in columns:
        assert column.numbers == [number for number, name in enumerate(streams) if name == column.name]
        own_times = [event_times[number] for number in column.numbers]
        assert list(column.event_times_us()) == own_times
        assert column.event_extent_us() == extent(own_times)
        assert list(column.prev_ids) == [ids[number] and ids[number][0] for number in column.numbers]
        assert list(column.final_ids) == [ids[number] and ids[number][1] for number in column.numbers]
        assert column.mixed or None not in (*own_times, *column.prev_ids)
    if lines:
        assert by_line(columns, [column.event_times_us() for column in columns]) == event_times


def test_nothing_has_no_columns():
    assert scan([], Market.SPOT, {}) == ([], [])
    assert by_line([], []) == []


@pytest.mark.parametrize("market", list(Market))
def test_depth_events_alone_need_no_second_look(market, monkeypatch):
    monkeypatch.setattr(wire, "event_time_us", None)  # the slow way would fail
    lines = [b"%d %b" % (k, DEPTH % (b"aaa@depth", k, k, k, b'"pu":%d,' % (k - 1))) for k in range(1, 5)]
    _, (column,) = scan(lines, market, {})
    assert (column.prev_ids, column.final_ids) == ([0, 1, 2, 3], [1, 2, 3, 4])


def test_streams_beyond_the_limit_share_one(monkeypatch):
    monkeypatch.setattr(module, "STREAMS_MAX", 3)
    _, columns = scan([b'%d {"stream":"s%d@trade","data":{}}' % (k, k) for k in range(5)], Market.SPOT, {})
    assert [(column.name, column.numbers) for column in columns] == [
        ("s0@trade", [0]),
        ("s1@trade", [1]),
        (wire.OTHER, [2, 3, 4]),
    ]


@given(st.lists(st.tuples(st.binary(max_size=60), st.integers(0, 2)), min_size=1, max_size=30), st.sampled_from([100, 10_000]))
def test_blocks_keep_the_order_hold_one_date_and_are_as_large_as_they_may_be(lines, size_max):
    texts, days = map(list, zip(*lines, strict=True))
    found = list(cut(texts, days, size_max))
    assert [line for part, _ in found for line in texts[part]] == texts
    for part, text in found:
        assert text == b"".join(line + b"\n" for line in texts[part])
        assert len(set(days[part])) == 1
        assert len(texts[part]) == 1 or len(text) <= size_max
    for (before, text), (after, _) in itertools.pairwise(found):
        assert before.stop == after.start
        assert days[before.start] != days[after.start] or len(text) + len(texts[after.start]) + 1 > size_max


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 300)), min_size=1, max_size=20))
def test_the_order_of_receipt_is_spelled_out_only_where_the_times_do_not_tell_it(lines):
    places = list(dict.fromkeys(place for _, place in lines))
    lines = [(time, places.index(place)) for time, place in lines]
    times, positions = zip(*lines, strict=True)
    columns = [
        module.Column(str(place), [number for number, (_, other) in enumerate(lines) if other == place], [], [])
        for place in range(len(places))
    ]
    codes = receipt_order(times, columns)
    if codes is None:
        assert sorted(lines) == lines
    else:
        assert list(codes) == list(positions)  # as long as there are no more than 128 streams
        assert sorted(lines) != lines


def test_the_order_of_receipt_names_hundreds_of_streams():
    columns = [module.Column(str(place), [199 - place], [], []) for place in range(200)]
    assert receipt_order([7] * 200, columns)[:4] == b"\xc7\x01\xc6\x01"
