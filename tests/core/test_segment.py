import base64
import dataclasses
import gzip
import io
import sys
import zlib
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from twintape.core import scan, segment, wire
from twintape.core.errors import CorruptionError
from twintape.core.markets import Market
from twintape.core.names import parse_raw_key
from twintape.core.segment import ChainLink, read_index, seal, verify_segment

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

CORPUS = Path(__file__).parents[3] / "shared" / "corpus"
RUN = "0123456789abcdef" * 2
CHAIN = ChainLink("00112233aabbccdd", 0, None, "new spool")
DAY_MS = 86_400_000
MIDNIGHT_MS = 20_000 * DAY_MS
T0 = 1_728_000_000_000_000_000


def sealing(lines, **changes):
    settings = {"collector": "tokyo", "market": Market.SPOT, "run": RUN, "connection": 3, "sequence": 12, "chain": CHAIN}
    return seal(lines, **(settings | changes))


def opening(*, event_time_us=None, streams=("btcusdt@depth@100ms",), market=Market.SPOT):
    return wire.open_line(
        collector="tokyo",
        market=market,
        run=RUN,
        connection=3,
        sequence=12,
        url="wss://example.invalid",
        streams=list(streams),
        version="0",
        event_time_us=event_time_us,
    )


def depth(event_time, first, final, *, prev=None, name="btcusdt@depth@100ms", symbol="BTCUSDT", levels=0):
    pu = b"" if prev is None else b'"pu":%d,' % prev
    rows = b",".join([b'["1.00000000","2.00000000"]'] * levels)
    data = b'{"e":"depthUpdate","E":%d,"s":"%b","U":%d,"u":%d,%b"b":[%b],"a":[]}' % (
        event_time,
        symbol.encode(),
        first,
        final,
        pu,
        rows,
    )
    return data if name is None else b'{"stream":"%b","data":%b}' % (name.encode(), data)


def text_of(lines):
    return b"".join(segment.format_line(*line) for line in lines)


def by_stream(lines, index):
    return {stream.name: stream for stream in index.streams}


frames = st.one_of(
    st.builds(
        depth,
        st.integers(MIDNIGHT_MS - 3, MIDNIGHT_MS + 3),
        st.integers(0, 50),
        st.integers(0, 50),
        prev=st.none() | st.integers(-5, 50),
        name=st.sampled_from(["a@depth", "b@depth@100ms", "c@trade", None]),
    ),
    st.sampled_from(
        [
            b"{}",
            b"<html>",
            b'{"stream":"a@bookTicker","data":{"u":1,"s":"A"}}',
            b'{"stream":"a@depth',
            b'{"stream":"a@depth","data":{"e":"depthUpdate","E":1728000000000123,"s":"A","U":1,"u":2,"b":[],"a":[]}}',
            b'{"stream":"a@depth","data":{"e":"depthUpdate","E":1728000000000,"s":"A","U":1,"u":2}}',
            b'{"stream":"a@depth","data":{"e":"depthUpdate","E":1728000000000,"s":"A","U":1,"u":2,"pu":0}}',
            '{"stream":"币安人生usdt@depth","data":{}}'.encode(),
            b'{"stream":"","data":{}}',
            b'{"stream":"!twintape@clock","wall_ns":1}',
            wire.snapshot_line(
                symbol="A", url="u", request_time_ns=1, response_time_ns=2, status=200, body=b'{"lastUpdateId":5}'
            ),
            wire.bytes_line(2, b"\xff"),
            b'{"e":"serverShutdown","E":1728000000000}',
            b'{"lastUpdateId":1,"bids":[],"asks":[]}',
        ]
    ),
)
lines = st.lists(st.tuples(st.integers(0, 9) | st.integers(T0, T0 + 10**6), frames), min_size=1, max_size=25)


@settings(max_examples=150)
@given(lines=lines, market=st.sampled_from(Market), opened=st.booleans(), time=st.none() | st.just((MIDNIGHT_MS + 5) * 1000))
def test_a_sealed_segment_gives_back_every_line_in_order_of_receipt_with_its_stream(lines, market, opened, time):
    if opened:
        lines = [(lines[0][0], opening(event_time_us=time, streams=["btcusdt@depth"], market=market)), *lines]
    sealed = sealing(lines, market=market, snapshot_symbol="A")
    depth_streams = {"BTCUSDT": "btcusdt@depth"} if opened else {}
    found = list(segment.lines_in_order(sealed.data))
    assert [(ns, frame) for _, ns, frame in found] == lines
    assert [name for name, _, _ in found] == [wire.stream_of(frame, depth_streams, "A") for _, frame in lines]
    assert verify_segment(sealed.data) == sealed.index == segment.check_digests(sealed.data)
    assert sealed.index.raw_key(sealed.sha256).key() == sealed.key
    assert parse_raw_key(sealed.key).digest16 == sealed.sha256[:16]


@settings(max_examples=60)
@given(lines=lines, market=st.sampled_from(Market))
def test_scanning_by_shape_agrees_with_the_slow_readers(lines, market):
    sealed = sealing(lines, market=market)
    for stream in sealed.index.streams:
        own = [frame for _, frame in lines if wire.stream_of(frame, {}) == stream.name]
        assert len(own) == stream.count
        times = [time for frame in own if (time := wire.event_time_us(frame)) is not None]
        mins = [block.event_time_us_min for block in stream.blocks if block.event_time_us_min is not None]
        assert min(times, default=None) == min(mins, default=None)
        ids = [wire.depth_ids(frame, market) for frame in own] if wire.is_depth(stream.stream) else []
        known = [pair for pair in ids if pair is not None]
        firsts = [block.first_prev_update_id for block in stream.blocks if block.first_prev_update_id is not None]
        lasts = [block.last_final_update_id for block in stream.blocks if block.last_final_update_id is not None]
        assert firsts[:1] == [pair[0] for pair in known[:1]]
        assert lasts[-1:] == [pair[1] for pair in known[-1:]]


def test_the_same_lines_give_the_same_object():
    lines = [(T0 + k, depth(MIDNIGHT_MS + k, k, k)) for k in range(100)]
    assert sealing(lines) == sealing(list(lines))


def test_every_zstd_reader_sees_the_text_of_all_streams_one_after_the_other():
    lines = [(T0, opening()), (T0 + 1, depth(MIDNIGHT_MS, 1, 2)), (T0 + 2, b"{}"), (T0 + 3, depth(MIDNIGHT_MS, 3, 4))]
    data = sealing(lines).data
    with zstd.ZstdFile(io.BytesIO(data)) as file:
        assert file.read() == text_of([lines[0], lines[1], lines[3], lines[2]])
    assert zstd.decompress(data) == text_of([lines[0], lines[1], lines[3], lines[2]])


def test_one_stream_can_be_read_by_byte_range():
    lines = [(T0 + k, depth(MIDNIGHT_MS, k, k, name=f"{'ab'[k % 2]}@depth")) for k in range(10)]
    sealed = sealing(lines)
    index = read_index(sealed.data[-segment.TAIL_SIZE :], len(sealed.data))
    block = by_stream(lines, index)["b@depth"].blocks[0]
    text = segment.read_block(sealed.data[block.offset : block.offset + block.size], block)
    assert segment.parse_text(text) == lines[1::2]


def test_blocks_hold_at_most_a_mebibyte_unless_one_line_is_longer():
    big = b"x" * (segment.BLOCK_TEXT_SIZE + 1)
    lines = [(T0 + k, b"y" * 300_000) for k in range(7)] + [(T0 + 8, big), (T0 + 9, b"z")]
    index = verify_segment(sealing(lines).data)
    assert [block.count for block in index.streams[0].blocks] == [3, 3, 1, 1, 1]
    assert index.streams[0].blocks[3].text_size > segment.BLOCK_TEXT_SIZE


def test_a_block_ends_where_the_exchange_date_changes():
    times = [MIDNIGHT_MS - 2, MIDNIGHT_MS - 1, MIDNIGHT_MS, MIDNIGHT_MS + 1, MIDNIGHT_MS - 1]
    lines = [(T0 + k, depth(time, k, k)) for k, time in enumerate(times)]
    index = verify_segment(sealing(lines).data)
    assert [(block.date, block.count) for block in index.streams[0].blocks] == [
        ("2024-10-03", 2),
        ("2024-10-04", 2),
        ("2024-10-03", 1),
    ]
    assert (index.date, index.hour) == ("2024-10-04", 0)


def test_lines_without_event_time_are_dated_by_the_greatest_one_before_them():
    lines = [
        (0, opening(event_time_us=(MIDNIGHT_MS - 1) * 1000)),
        (1, b"{}"),
        (2, depth(MIDNIGHT_MS, 1, 1)),
        (3, depth(MIDNIGHT_MS - 1, 2, 2)),
        (4, b"{}"),
    ]
    index = verify_segment(sealing(lines).data)
    assert [block.date for block in by_stream(lines, index)["!other"].blocks] == ["2024-10-03", "2024-10-04"]
    assert by_stream(lines, index)["!twintape"].blocks[0].date == "2024-10-03"


def test_an_open_line_that_knows_a_later_time_files_the_segment_there():
    index = sealing([(T0, opening(event_time_us=(MIDNIGHT_MS + 3_600_000) * 1000)), (T0 + 1, depth(MIDNIGHT_MS, 1, 1))]).index
    assert (index.date, index.hour) == ("2024-10-04", 1)
    assert index.event_time_us_max == MIDNIGHT_MS * 1000


def test_without_any_event_time_the_receive_time_dates():
    index = verify_segment(sealing([(MIDNIGHT_MS * 10**6 - 1, b"a"), (MIDNIGHT_MS * 10**6, b"b")]).data)
    assert [block.date for block in index.streams[0].blocks] == ["2024-10-03", "2024-10-04"]
    assert (index.date, index.hour, index.event_time_us_max) == ("2024-10-04", 0, None)


@pytest.mark.parametrize("time", [-1, 10**17, "5", 1.5, True, None])
def test_an_open_line_with_an_impossible_time_says_nothing(time):
    frame = msgspec.json.encode(
        {"stream": "!twintape@open", "event_time_us": time, "streams": [5, "btcusdt@depth"] if time else 7}
    )
    index = verify_segment(sealing([(T0, frame), (T0 + 1, depth(MIDNIGHT_MS, 1, 1, name=None))]).data)
    assert index.date == "2024-10-04"


def test_exchange_times_follow_the_order_of_the_format():
    assert segment.exchange_times_us([None, 7, None, 3, None], [9000] * 5, None) == [7, 7, 7, 3, 7]
    assert segment.exchange_times_us([None, 7, None], [9000] * 3, 2) == [2, 7, 7]
    assert segment.exchange_times_us([None, None], [9000, 9999], 2) == [2, 2]
    assert segment.exchange_times_us([None, None], [9000, 9999], None) == [9, 9]


DAY_US = 86_400_000_000


def test_an_absurd_event_time_counts_as_none():
    far = T0 // 1000 + 500 * DAY_US
    now = T0 // 1000
    assert segment.believed_times_us([now, far, None, now + 1], [T0] * 4, None) == [now, None, None, now + 1]
    assert segment.believed_times_us([far, now], [T0] * 2, now) == [None, now]
    assert segment.believed_times_us([None, far, None, now, far], [T0] * 5, None) == [None, None, None, now, None]
    assert segment.believed_times_us([far], [T0], None) == [far]
    assert segment.believed_times_us([far, far + 1, now, far + 2], [T0] * 4, None) == [far, far + 1, now, far + 2]
    assert segment.believed_times_us([now - 900 * DAY_US, now], [T0] * 2, None) == [now - 900 * DAY_US, now]


@pytest.mark.parametrize("position", [0, 1, 2])
def test_one_absurd_event_time_files_neither_its_segment_nor_its_line(position):
    t0 = MIDNIGHT_MS * 1_000_000
    lines = [(t0 + number, depth(MIDNIGHT_MS + number, number + 1, number + 1)) for number in range(3)]
    lines[position] = (t0 + position, depth(MIDNIGHT_MS + 500 * 86_400_000, position + 1, position + 1))
    index = verify_segment(sealing(lines).data)
    (block,) = index.streams[0].blocks
    assert index.date == block.date == "2024-10-04"
    assert block.count == 3
    assert index.event_time_us_max == block.event_time_us_max < (MIDNIGHT_MS + 3) * 1000


def test_ids_and_breaks_of_a_block_are_those_of_its_events():
    spot = [(T0, depth(MIDNIGHT_MS, 11, 20)), (T0 + 1, depth(MIDNIGHT_MS, 21, 22)), (T0 + 2, depth(MIDNIGHT_MS, 25, 30))]
    block = sealing(spot).index.streams[0].blocks[0]
    assert (block.first_prev_update_id, block.last_final_update_id, block.breaks) == (10, 30, 1)
    futures = [
        (T0, depth(MIDNIGHT_MS, 11, 20, prev=5)),
        (T0 + 1, b'{"stream":"btcusdt@depth@100ms","data":null}'),
        (T0 + 2, depth(MIDNIGHT_MS, 31, 40, prev=20)),
    ]
    block = sealing(futures, market=Market.USDM).index.streams[0].blocks[0]
    assert (block.first_prev_update_id, block.last_final_update_id, block.breaks) == (5, 40, 0)
    block = sealing(futures[1:2], market=Market.USDM).index.streams[0].blocks[0]
    assert (block.first_prev_update_id, block.last_final_update_id, block.breaks) == (None, None, 0)


def test_a_futures_depth_frame_without_pu_has_no_ids():
    block = sealing([(T0, depth(MIDNIGHT_MS, 1, 2))] * 2, market=Market.COINM).index.streams[0].blocks[0]
    assert block.first_prev_update_id is None


def test_order_is_left_out_where_receive_times_tell_it():
    lines = [(1, opening()), (1, b"{}"), (1, b"[]"), (2, opening()), (3, b"{}")]
    assert sealing(lines).index.order is None
    shuffled = [lines[k] for k in (3, 1, 4, 0, 2)]
    sealed = sealing(shuffled)
    assert sealed.index.order is not None
    assert [(ns, frame) for _, ns, frame in segment.lines_in_order(sealed.data)] == shuffled


def test_order_can_name_more_streams_than_fit_in_seven_bits():
    lines = [(1000 - k, b'{"stream":"s%d@trade","data":{}}' % (k % 300)) for k in range(600)]
    sealed = sealing(lines)
    assert [(ns, frame) for _, ns, frame in segment.lines_in_order(sealed.data)] == lines
    assert verify_segment(sealed.data) == sealed.index


def test_more_streams_than_a_segment_tells_apart_share_one(monkeypatch):
    monkeypatch.setattr(scan, "STREAMS_MAX", 4)
    lines = [(k, b'{"stream":"s%d@trade","data":{}}' % k) for k in range(9)]
    index = verify_segment(sealing(lines).data)
    assert [(stream.name, stream.count) for stream in index.streams] == [
        ("s0@trade", 1),
        ("s1@trade", 1),
        ("s2@trade", 1),
        ("!other", 6),
    ]


def test_lines_that_cannot_be_read_back_are_not_sealed():
    for lines in ([], [(2**63, b"{}")]):
        with pytest.raises(CorruptionError):
            sealing(lines)
    with pytest.raises(CorruptionError):
        sealing([(1, b"{}")], unchecked_count=2)


# --- damage ----------------------------------------------------------------------------------------------------------------


def small():
    return sealing([(T0, opening()), (T0 + 1, depth(MIDNIGHT_MS, 1, 2)), (T0, b"{}")]).data


def test_every_flipped_bit_is_noticed():
    data = small()
    for bit in range(8 * len(data)):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(CorruptionError):
            verify_segment(bytes(damaged))
        with pytest.raises(CorruptionError):
            segment.check_digests(bytes(damaged))


def test_every_cut_and_every_addition_is_noticed():
    data = small()
    for size in range(len(data)):
        with pytest.raises(CorruptionError):
            verify_segment(data[:size])
    for addition in (b"\0", b"\n", data):
        with pytest.raises(CorruptionError):
            verify_segment(data + addition)
        with pytest.raises(CorruptionError):
            verify_segment(addition + data)


@given(st.binary(max_size=300))
def test_foreign_bytes_are_refused_and_nothing_else_happens(data):
    with pytest.raises(CorruptionError):
        verify_segment(data)
    with pytest.raises(CorruptionError):
        list(segment.lines_in_order(data))


def test_zeros_are_refused():
    for size in (0, 1, 24, 4096):
        with pytest.raises(CorruptionError):
            verify_segment(b"\0" * size)


def forged(lines, texts, **changes):
    """Return an object with a valid index over blocks of any text: what a collector gone mad could upload."""
    good = sealing(lines)
    stream = good.index.streams[0]
    compressed = [text if isinstance(text, Raw) else zstd.compress(text) for text in texts]
    blocks, offset = [], 0
    for block, data, text in zip(stream.blocks, compressed, texts, strict=True):
        size = len(data)
        found = segment.hashlib.sha256(data).hexdigest()
        sizes = {} if isinstance(text, Raw) else {"text_size": max(len(text), 4 * block.count)}
        blocks.append(msgspec.structs.replace(block, **({"offset": offset, "size": size, "sha256": found} | sizes)))
        offset += size
    stream = msgspec.structs.replace(stream, blocks=tuple(blocks))
    total = sum(block.text_size for block in blocks)
    index = msgspec.structs.replace(good.index, **({"streams": (stream,), "text_size": total} | changes))
    return b"".join(compressed) + segment.index_frame(index, offset)


class Raw(bytes):
    """Bytes that stand in the file as they are."""


TWO = [(5, b"{}"), (6, b"[]")]


def test_a_forged_segment_that_tells_the_truth_is_accepted():
    assert verify_segment(forged(TWO, [b"5 {}\n6 []\n"])).count == 2


@pytest.mark.parametrize(
    "text",
    [
        b"5 {}\n7 []\n",  # another last receive time
        b"5 {}\n6 []",  # no last newline
        b"5 {}6 []\n",  # one line
        b"5 {}\n6\n\n",
        b"5 {}\n\n\n",  # three newlines
        b"5 {}\nsix []\n",
        b'5 {}\n6 {"E":1728000000000}\n',  # an event time that the index does not know
        Raw(zstd.compress(b"5 {}\n6 []\n") + zstd.compress(b"x" * 1000)),
        Raw(zstd.compress(b"5 {}\n6 []\n")[:-1]),
        Raw(zstd.compress(b"5 {}\n" * 1000)),
        Raw(b"\x50\x2a\x4d\x18\x01\x00\x00\x00x"),
        Raw(b"not zstd"),
        Raw(b"5 {}\n6 []\n"),
    ],
)
def test_a_block_that_is_not_what_the_index_says_is_refused(text):
    with pytest.raises(CorruptionError):
        verify_segment(forged(TWO, [text]))


def test_a_bomb_is_not_unpacked_beyond_what_the_index_admits():
    bomb = zstd.compress(b"\0" * (80 << 20))
    assert len(bomb) < 20_000
    with pytest.raises(CorruptionError, match="not one whole zstd frame"):
        verify_segment(forged(TWO, [Raw(bomb)]))


@pytest.mark.parametrize(
    "changes",
    [
        {"date": "1970-01-02"},
        {"hour": 1},
        {"first_receive_time_ns": 4},
        {"last_receive_time_ns": 7},
        {"order": "!"},
        {"order": "é"},
        {"order": ""},
        {"order": base64.b64encode(b"xx").decode()},
        {"order": base64.b64encode(zstd.compress(b"\0")).decode()},
        {"order": base64.b64encode(zstd.compress(b"\0\1")).decode()},
        {"order": base64.b64encode(zstd.compress(b"\0\0\0")).decode()},
        {"order": base64.b64encode(zstd.compress(b"\0\0\x80")).decode()},
        {"order": base64.b64encode(zstd.compress(b"\0" * 10**6)).decode()},
    ],
)
def test_an_index_whose_statements_are_false_is_refused(changes):
    with pytest.raises(CorruptionError):
        verify_segment(forged(TWO, [b"5 {}\n6 []\n"], **changes))


def test_a_block_of_two_dates_is_refused():
    lines = [(MIDNIGHT_MS * 10**6 + k, b"{}") for k in range(2)]
    text = b"%d {}\n%d {}\n" % (MIDNIGHT_MS * 10**6 - 10**9, MIDNIGHT_MS * 10**6 + 1)
    data = forged(lines, [text])
    index = read_index(data, len(data))
    block = msgspec.structs.replace(
        index.streams[0].blocks[0], first_receive_time_ns=MIDNIGHT_MS * 10**6 - 10**9, date="2024-10-03"
    )
    stream = msgspec.structs.replace(index.streams[0], blocks=(block,))
    index = msgspec.structs.replace(index, streams=(stream,), first_receive_time_ns=MIDNIGHT_MS * 10**6 - 10**9)
    data = data[: block.size] + segment.index_frame(index, block.size)
    with pytest.raises(CorruptionError, match="more than one date"):
        verify_segment(data)


def test_a_block_read_by_range_must_be_the_one_of_the_index():
    sealed = sealing(TWO)
    block = sealed.index.streams[0].blocks[0]
    compressed = sealed.data[: block.size]
    assert segment.read_block(compressed, block) == b"5 {}\n6 []\n"
    for wrong in (compressed[:-1], compressed + b"\0", b"", b"\0" * len(compressed)):
        with pytest.raises(CorruptionError):
            segment.read_block(wrong, block)


def test_a_sealed_segment_is_a_value():
    sealed = sealing(TWO)
    with pytest.raises(dataclasses.FrozenInstanceError):
        sealed.data = b""
    with pytest.raises(AttributeError):
        sealed.index.count = 5


# --- real recordings ---------------------------------------------------------------------------------------------------------


@pytest.mark.corpus
@pytest.mark.skipif(not CORPUS.is_dir(), reason="the recordings are not in ../shared/corpus")
@pytest.mark.parametrize(
    ("name", "market"),
    [("spot_btcusdt_20240808", Market.SPOT), ("coinm_10symbols_20210417", Market.COINM), ("usdm_4symbols_20210417", Market.USDM)],
)
def test_real_recordings_come_back_byte_for_byte(name, market):
    with gzip.open(CORPUS / f"{name}.gz") as file:
        lines = [segment.parse_line(line.rstrip(b"\n")) for line in file]
    sealed = sealing(lines, market=market, snapshot_symbol="BTCUSDT")
    assert [(ns, frame) for _, ns, frame in segment.lines_in_order(sealed.data)] == lines
    index = verify_segment(sealed.data)
    for stream in index.streams:
        if wire.is_depth(stream.stream):
            assert stream.blocks[0].first_prev_update_id is not None
            assert all(block.breaks == 0 for block in stream.blocks)


NAME = f"{RUN[:8]}-3-12.tape"


def sealing_active(data, name=NAME, **changes):
    return segment.seal_active(data, name=name, **({"collector": "tokyo", "market": Market.SPOT, "chain": CHAIN} | changes))


@given(st.lists(st.tuples(st.integers(0, 10**9), frames), max_size=20), st.binary(max_size=20))
def test_an_active_file_is_sealed_as_its_lines_are(pairs, garbage):
    lines = [(T0, opening()), *((T0 + after, frame) for after, frame in pairs if wire.recordable(frame))]
    text = text_of(lines)
    data = text + segment.format_sync(T0, size=len(text), crc32=zlib.crc32(text)) + text_of([(T0 + 1, b"{}")]) + garbage
    recovered = segment.recover_active(data)
    outcome = sealing_active(data)
    assert outcome.tail == recovered.tail
    assert outcome.sealed == sealing(recovered.lines, unchecked_count=recovered.unchecked_count)


def test_an_active_file_without_a_line_becomes_nothing():
    assert sealing_active(b"torn") == segment.SealOutcome(None, b"torn")


@pytest.mark.parametrize(
    ("name", "frame", "complaint"),
    [
        (NAME, b"{}", "does not begin with an open line"),
        (NAME, wire.close_line(reason="", code=None, final=True), "does not begin with an open line"),
        ("what.tape", opening(), "does not begin with an open line"),
        (f"{RUN[:8]}-4-12.tape", opening(), "its open line says connection 3, expected 4"),
        ("ffffffff-3-12.tape", opening(), "its open line says run"),
    ],
)
def test_an_active_file_whose_open_line_is_not_that_of_its_name_is_not_sealed(name, frame, complaint):
    with pytest.raises(CorruptionError, match=complaint):
        sealing_active(text_of([(T0, frame)]), name)
