"""Raw segments: the index in the last zstd skippable frame, and the lines of one stream.

Source: docs/format.md, section 3.
"""

from __future__ import annotations

import json
import struct
import sys
import zlib

from twintape.independent.objects import Row, sha256

if sys.version_info >= (3, 14):
    from compression import zstd  # pragma: no cover
else:
    from backports import zstd

__all__ = ["index_of", "lines_of"]

_TRAILER = struct.Struct("<QI4s")
_FRAME = struct.Struct("<II")
_MAGIC = 0x184D2A50
_TEXT_MAX = 64 * 1024 * 1024


def index_of(data: bytes) -> Row:
    """Return a segment's index.

    Raises:
        ValueError: It is no whole segment.
    """
    if len(data) < _TRAILER.size + _FRAME.size:
        raise ValueError("too short for a segment")
    offset, crc, magic = _TRAILER.unpack(data[-_TRAILER.size :])
    if magic != b"TTP1" or offset + _FRAME.size > len(data):
        raise ValueError("no trailer")
    frame_magic, size = _FRAME.unpack(data[offset : offset + _FRAME.size])
    text = data[offset + _FRAME.size : -_TRAILER.size]
    if frame_magic != _MAGIC or size != len(text) + _TRAILER.size or zlib.crc32(text) != crc:
        raise ValueError("damaged index")
    index: Row = json.loads(text)
    if index["format"] != "twintape-segment/1":
        raise ValueError(f"format {index['format']}")
    end = 0
    for block in sorted((block for stream in index["streams"] for block in stream["blocks"]), key=lambda block: block["offset"]):
        if block["offset"] != end:
            raise ValueError(f"blocks do not tile the file at {end}")
        end += block["size"]
    if end != offset:
        raise ValueError("blocks do not reach the index")
    return index


def lines_of(data: bytes, index: Row, symbol: str, stream: str) -> list[tuple[str, int, bytes]]:
    """Return date, receive time and frame of every line of one stream, in order.

    Raises:
        ValueError: A block is damaged.
    """
    found = []
    for entry in index["streams"]:
        if (entry["symbol"], entry["stream"]) != (symbol, stream):
            continue
        for block in entry["blocks"]:
            packed = data[block["offset"] : block["offset"] + block["size"]]
            if sha256(packed) != block["sha256"] or block["text_size"] > _TEXT_MAX:
                raise ValueError(f"the block at {block['offset']} is not what the index says")
            text = zstd.decompress(packed)
            lines = text.split(b"\n")
            if lines.pop() != b"" or len(lines) != block["count"] or len(text) != block["text_size"]:
                raise ValueError(f"the text of the block at {block['offset']} is not what the index says")
            for line in lines:
                time, _, frame = line.partition(b" ")
                found.append((block["date"], int(time), frame))
    return found
