"""Blocks read at Arrow's speed are what the plain reader reads, and what is odd is left to it."""

import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from twintape.columns.blocks import is_plain_frame, read_block
from twintape.core import segment
from twintape.core.errors import CorruptionError
from twintape.core.segment import zstd

PARAMETER = zstd.CompressionParameter
CHECKSUM = {PARAMETER.compression_level: 1, PARAMETER.checksum_flag: 1}
TEXT = b"".join(b'%d {"e":"depthUpdate","u":%d}\n' % (10**18 + k * k, k * 7919) for k in range(300))


def block_of(compressed, text, **changes):
    values = {
        "offset": 0, "size": len(compressed), "text_size": len(text), "count": text.count(b"\n"),
        "sha256": hashlib.sha256(compressed).hexdigest(), "date": "2024-08-09", "first_receive_time_ns": 1, "last_receive_time_ns": 2,
        "event_time_us_min": None, "event_time_us_max": None, "first_prev_update_id": None, "last_final_update_id": None, "breaks": 0,
    }  # fmt: skip
    return segment.Block(**values | changes)


def verdict(reader, compressed, block):
    try:
        return reader(compressed, block)
    except CorruptionError as error:
        return str(error)


def plain(compressed, block):
    return segment.read_block(compressed, block, count_lines=False)


@pytest.mark.parametrize("size", [1, 2, 255, 256, 257, 65_791, 65_792, 300_000])
def test_ordinary_blocks_of_any_size_are_read_without_the_plain_reader(monkeypatch, size):
    text = (TEXT * (size // len(TEXT) + 1))[: size - 1] + b"\n"
    for content in (text, b"0" * (size - 1) + b"\n"):
        compressed = zstd.compress(content, options=CHECKSUM)
        block = block_of(compressed, content)
        assert is_plain_frame(compressed, size)
        monkeypatch.setattr(segment, "read_block", None)
        assert read_block(compressed, block) == content
        monkeypatch.undo()


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.data())
def test_whatever_is_done_to_a_block_the_plain_reader_says_the_same(data):
    text = data.draw(st.sampled_from([TEXT, TEXT * 40, TEXT[:40] + b"\n", b"\n", b""]))
    compressed = bytearray(zstd.compress(text, options=CHECKSUM | data.draw(st.sampled_from([{}, {PARAMETER.window_log: 10}]))))
    for _ in range(data.draw(st.integers(0, 2))):
        place = data.draw(st.one_of(st.integers(0, min(20, len(compressed) - 1)), st.integers(0, len(compressed) - 1)))
        compressed[place] ^= 1 << data.draw(st.integers(0, 7))
    tail = data.draw(st.sampled_from([b"", b"x", zstd.compress(b"more\n", options=CHECKSUM)]))
    compressed = bytes(compressed[: data.draw(st.sampled_from([len(compressed), len(compressed) - 1]))]) + tail
    block = block_of(compressed, text, text_size=max(1, len(text) + data.draw(st.sampled_from([0, 0, 0, 1, -1]))))
    assert verdict(read_block, compressed, block) == verdict(plain, compressed, block)


FRAMES = {
    "no checksum": zstd.compress(TEXT, options={PARAMETER.compression_level: 1}),
    "no content size": zstd.compress(TEXT, options=CHECKSUM | {PARAMETER.content_size_flag: 0}),
    "two frames": zstd.compress(TEXT[:100], options=CHECKSUM) + zstd.compress(TEXT[100:], options=CHECKSUM),
    "a frame and a skippable one": zstd.compress(TEXT, options=CHECKSUM) + b"\x50\x2a\x4d\x18\x00\x00\x00\x00",
    "a skippable frame": b"\x50\x2a\x4d\x18\x04\x00\x00\x00text",
    "nothing": b"",
    "a large window": b"\x28\xb5\x2f\xfd\x84\x88" + len(TEXT).to_bytes(4, "little") + bytes(20),
    "a reserved block": b"\x28\xb5\x2f\xfd\xa4" + len(TEXT).to_bytes(4, "little") + b"\x07" + bytes(20),
    "no last block": b"\x28\xb5\x2f\xfd\xa4" + len(TEXT).to_bytes(4, "little") + b"\x00" * 30,
}


@pytest.mark.parametrize("frame", FRAMES.values(), ids=FRAMES)
def test_frames_out_of_the_ordinary_are_left_to_the_plain_reader(frame):
    assert not is_plain_frame(frame, len(TEXT))
    block = block_of(frame, TEXT)
    assert verdict(read_block, frame, block) == verdict(plain, frame, block)


def test_a_text_that_does_not_end_with_a_newline_is_refused():
    compressed = zstd.compress(TEXT[:-1], options=CHECKSUM)
    assert is_plain_frame(compressed, len(TEXT) - 1)
    with pytest.raises(CorruptionError):
        read_block(compressed, block_of(compressed, TEXT[:-1]))


def test_damage_that_only_the_checksum_shows_is_found():
    compressed = bytearray(zstd.compress(TEXT, options=CHECKSUM))
    compressed[-1] ^= 1
    assert is_plain_frame(bytes(compressed), len(TEXT))
    with pytest.raises(CorruptionError):
        read_block(bytes(compressed), block_of(bytes(compressed), TEXT))
