import copy
import json
import struct
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twintape.core import index as index_module
from twintape.core.errors import CorruptionError
from twintape.core.index import Index, NeedMore, index_frame, index_json, read_index
from twintape.core.markets import Market

DATA_SIZE = 300


def block(offset, size, count, **changes):
    return {
        "date": "2026-11-22",
        "offset": offset,
        "size": size,
        "sha256": "ab" * 32,
        "text_size": 100 * count,
        "count": count,
        "first_receive_time_ns": 1,
        "last_receive_time_ns": 2,
        "event_time_us_min": 5,
        "event_time_us_max": 9,
        "first_prev_update_id": 100,
        "last_final_update_id": 200,
        "breaks": 0,
    } | changes


def good():
    return {
        "format": "twintape-segment/1",
        "collector": "tokyo",
        "market": "spot",
        "run": "0123456789abcdef" * 2,
        "connection": 3,
        "sequence": 12,
        "chain": {"id": "00112233aabbccdd", "number": 17, "previous": "cd" * 32, "reason": None},
        "date": "2026-11-22",
        "hour": 9,
        "count": 6,
        "unchecked_count": 1,
        "text_size": 600,
        "first_receive_time_ns": 1,
        "last_receive_time_ns": 2,
        "event_time_us_min": 5,
        "event_time_us_max": 9,
        "order": None,
        "streams": [
            {
                "name": "btcusdt@depth",
                "symbol": "BTCUSDT",
                "stream": "depth",
                "count": 3,
                "blocks": [block(0, 100, 1), block(100, 50, 2, first_prev_update_id=None, last_final_update_id=None)],
            },
            {
                "name": "!other",
                "symbol": "!session",
                "stream": "!other",
                "count": 3,
                "blocks": [
                    block(
                        150,
                        150,
                        3,
                        event_time_us_min=None,
                        event_time_us_max=None,
                        first_prev_update_id=None,
                        last_final_update_id=None,
                    )
                ],
            },
        ],
    }


def sealed(fields, *, data_size=DATA_SIZE):
    """Return the end of an object whose index is `fields`, in the spelling of any JSON writer, and the object's size."""
    text = fields if isinstance(fields, bytes) else json.dumps(fields).encode()
    trailer = struct.pack("<QI4s", data_size, zlib.crc32(text), b"TTP1")
    tail = b"\x50\x2a\x4d\x18" + struct.pack("<I", len(text) + 16) + text + trailer
    return tail, data_size + len(tail)


def changed(*path_and_value):
    *path, last, value = path_and_value
    fields = copy.deepcopy(good())
    target = fields
    for part in path:
        target = target[part]
    target[last] = value
    return fields


def test_an_index_says_what_was_written():
    index = read_index(*sealed(good()))
    assert isinstance(index, Index)
    assert (index.market, index.chain.number, index.streams[0].blocks[1].offset) == (Market.SPOT, 17, 100)
    assert index.raw_key("ef" * 32).key() == "raw/v1/tokyo/spot/2026-11-22/09/01234567-3-12-efefefefefefefef.tape.zst"


def test_what_is_written_is_what_is_read_back():
    index = read_index(*sealed(good()))
    frame = index_frame(index, DATA_SIZE)
    assert read_index(frame, DATA_SIZE + len(frame)) == index
    text = index_json(frame, DATA_SIZE + len(frame))
    assert list(json.loads(text)) == list(good()), "keys in the order of the format"
    assert b" " not in text


def test_keys_nobody_knows_yet_are_ignored_and_any_order_is_read():
    fields = dict(reversed(list(good().items()))) | {"later": [1, {"x": 2.5}]}
    assert read_index(*sealed(fields)) == read_index(*sealed(good()))


def test_a_tail_that_is_too_short_says_how_much_it_takes():
    tail, size = sealed(good())
    for length in range(16):
        assert index_json(tail[len(tail) - length :], size) == NeedMore(size)
    for length in range(16, len(tail)):
        assert read_index(tail[len(tail) - length :], size) == NeedMore(len(tail))
    assert isinstance(read_index(b"x" * DATA_SIZE + tail, size), Index)
    assert index_json(b"", 10**9) == NeedMore(index_module.TAIL_SIZE)


def test_every_flipped_bit_of_the_frame_is_noticed():
    tail, size = sealed(good())
    for bit in range(8 * len(tail)):
        damaged = bytearray(tail)
        damaged[bit // 8] ^= 1 << bit % 8
        try:
            answer = read_index(bytes(damaged), size)
        except CorruptionError:
            continue
        # A damaged offset may ask for more; with the whole object at hand it is refused.
        assert isinstance(answer, NeedMore)
        with pytest.raises(CorruptionError):
            read_index(b"\0" * DATA_SIZE + bytes(damaged), size)


def test_other_files_are_no_segments():
    for data in (b"", b"\0" * 24, b"\0" * 4096, b"PAR1" * 100, b"x" * 30):
        with pytest.raises(CorruptionError):
            read_index(data, len(data))
    tail, size = sealed(good())
    with pytest.raises(CorruptionError, match="bytes read of an object"):
        read_index(tail, len(tail) - 1)
    for cut in range(1, len(tail)):
        with pytest.raises(CorruptionError):
            read_index(b"\0" * DATA_SIZE + tail[:-cut], size - cut)


def test_an_index_larger_than_any_is_refused_before_it_is_read():
    trailer = struct.pack("<QI4s", 0, 0, b"TTP1")
    with pytest.raises(CorruptionError, match="impossible offset"):
        read_index(trailer, index_module.INDEX_SIZE_MAX + 25)


@given(st.binary(max_size=200))
def test_bytes_of_any_kind_are_refused_and_nothing_else_happens(text):
    with pytest.raises(CorruptionError):
        read_index(*sealed(text))


@pytest.mark.parametrize("text", [b"[" * 100_000, b'{"a":' * 100_000, b'"\xff"', b"\xef\xbb\xbf{}", b"null", b"NaN"])
def test_json_made_to_hurt_is_refused(text):
    with pytest.raises(CorruptionError):
        read_index(*sealed(text))


@pytest.mark.parametrize(
    "change",
    [
        ("format", "twintape-segment/2"),
        ("collector", "../x"),
        ("collector", "tokyo\n"),
        ("market", "options"),
        ("run", "x" * 32),
        ("connection", 0),
        ("connection", True),
        ("connection", 3.0),
        ("connection", "3"),
        ("sequence", 10**9),
        ("date", "2026-02-30"),
        ("date", "20261122"),
        ("date", "../../.."),
        ("hour", 24),
        ("count", 7),
        ("unchecked_count", 7),
        ("unchecked_count", -1),
        ("text_size", 601),
        ("first_receive_time_ns", 2**63),
        ("event_time_us_min", 4),
        ("event_time_us_max", None),
        ("order", 5),
        ("streams", []),
        ("streams", None),
        ("chain", "number", 0),
        ("chain", "previous", None),
        ("chain", "id", "x"),
        ("chain", "reason", 5),
        ("streams", 0, "name", ""),
        ("streams", 0, "name", "ethusdt@depth"),
        ("streams", 0, "symbol", "../../x"),
        ("streams", 0, "stream", "depth@100ms"),
        ("streams", 0, "count", 4),
        ("streams", 0, "blocks", []),
        ("streams", 1, "name", "btcusdt@depth"),
        ("streams", 0, "blocks", 0, "offset", 1),
        ("streams", 0, "blocks", 0, "offset", -1),
        ("streams", 0, "blocks", 0, "offset", 100),
        ("streams", 0, "blocks", 0, "size", 0),
        ("streams", 0, "blocks", 0, "size", 99),
        ("streams", 1, "blocks", 0, "size", 151),
        ("streams", 0, "blocks", 0, "sha256", "AB" * 32),
        ("streams", 0, "blocks", 0, "text_size", index_module.BLOCK_TEXT_SIZE_MAX + 1),
        ("streams", 0, "blocks", 0, "text_size", 3),
        ("streams", 0, "blocks", 1, "text_size", 7),
        ("streams", 0, "blocks", 0, "date", "2026-13-01"),
        ("streams", 0, "blocks", 0, "event_time_us_min", None),
        ("streams", 0, "blocks", 0, "event_time_us_min", 10),
        ("streams", 0, "blocks", 0, "last_final_update_id", None),
        ("streams", 0, "blocks", 0, "last_final_update_id", 10**19),
        ("streams", 0, "blocks", 0, "breaks", 1),
        ("streams", 1, "blocks", 0, "first_prev_update_id", 1),
    ],
)
def test_an_index_that_contradicts_itself_or_names_the_impossible_is_refused(change):
    with pytest.raises(CorruptionError):
        read_index(*sealed(changed(*change)))


def test_one_stream_twice_is_refused():
    fields = good()
    fields["streams"][1] |= {"name": "btcusdt@depth", "symbol": "BTCUSDT", "stream": "depth"}
    with pytest.raises(CorruptionError, match="twice"):
        read_index(*sealed(fields))


def test_ids_of_a_stream_that_has_none_are_refused():
    fields = good()
    fields["streams"][1]["blocks"][0] |= {"first_prev_update_id": 1, "last_final_update_id": 2}
    with pytest.raises(CorruptionError, match="ids where there are none"):
        read_index(*sealed(fields))


def test_the_first_of_a_chain_has_nothing_before_it():
    fields = good()
    fields["chain"] = {"id": "00112233aabbccdd", "number": 0, "previous": None, "reason": "new spool"}
    assert read_index(*sealed(fields)).chain.reason == "new spool"


def test_blocks_must_tile_the_file_up_to_the_index():
    for data_size in (DATA_SIZE - 1, DATA_SIZE + 1):
        with pytest.raises(CorruptionError, match="the blocks end at"):
            read_index(*sealed(good(), data_size=data_size))
