"""Blocks decompressed at Arrow's speed: what `segment.read_block` does, for who counts the lines itself.

Arrow's codec writes into one piece of memory of the right size, and takes several frames for one. So a block's frame is walked first, header by header; one
that is out of the ordinary in any way, or seems to be damaged, is left to `segment.read_block`: what that says, counts.

Source: RFC 8878, sections 3.1.1.1 and 3.1.1.2.
"""

from __future__ import annotations

import hashlib

import pyarrow as pa

from twintape.core import segment

__all__ = ["is_plain_frame", "read_block"]

_CODEC = pa.Codec("zstd")
_MAGIC = b"\x28\xb5\x2f\xfd"
_CHECKSUM_BIT, _SINGLE_BIT, _RESERVED_BITS = 4, 32, 8 | 3
"""Bits of the frame's descriptor; what names a dictionary is as odd here as a reserved one."""
_SIZE_BYTES = (1, 2, 4, 8)
_SIZE_OFFSET = (0, 256, 0, 0)
_WINDOW_LOG_MIN, _WINDOW_LOG_MAX = 10, 26
"""Larger windows are for the other reader to judge."""
_CHECKSUM_BYTES = 4
_BLOCK_HEADER_BYTES = 3
_REPEATED, _RESERVED = 1, 3


def is_plain_frame(compressed: bytes | memoryview, text_size: int) -> bool:
    """Return whether the bytes are one zstd frame with a checksum and no dictionary that says its content has this size.

    >>> from twintape.core.segment import zstd
    >>> is_plain_frame(zstd.compress(b"text", options={zstd.CompressionParameter.checksum_flag: 1}), 4)
    True
    """
    if compressed[:4] != _MAGIC or len(compressed) < len(_MAGIC) + 2:
        return False
    descriptor = compressed[4]
    if descriptor & (_CHECKSUM_BIT | _RESERVED_BITS) != _CHECKSUM_BIT:
        return False
    begin, width = 5, descriptor >> 6
    if not descriptor & _SINGLE_BIT:
        # The window comes first; without it a width of 0 means a byte, with it no size at all.
        if width == 0 or compressed[begin] >> 3 >= _WINDOW_LOG_MAX - _WINDOW_LOG_MIN:
            return False
        begin += 1
    position = begin + _SIZE_BYTES[width]
    if int.from_bytes(compressed[begin:position], "little") + _SIZE_OFFSET[width] != text_size:
        return False
    last = False
    while not last and position < len(compressed):
        header = int.from_bytes(compressed[position : position + _BLOCK_HEADER_BYTES], "little")
        last, kind = bool(header & 1), header >> 1 & 3
        if kind == _RESERVED:
            return False
        position += _BLOCK_HEADER_BYTES + (1 if kind == _REPEATED else header >> 3)
    return last and position + _CHECKSUM_BYTES == len(compressed)


def read_block(compressed: bytes | memoryview, block: segment.Block) -> bytes:
    """Return a block's text, checked against the index but for the number of lines; see `segment.read_block`.

    Raises:
        CorruptionError: They differ.
    """
    if (
        len(compressed) == block.size
        and is_plain_frame(compressed, block.text_size)
        and hashlib.sha256(compressed).hexdigest() == block.sha256
    ):
        try:
            text = _CODEC.decompress(compressed, block.text_size, asbytes=True)
        except (pa.ArrowException, OSError):
            return segment.read_block(bytes(compressed), block, count_lines=False)
        if text.endswith(b"\n"):
            return bytes(text)
    return segment.read_block(bytes(compressed), block, count_lines=False)
