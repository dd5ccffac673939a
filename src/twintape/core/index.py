"""The index of a sealed segment: what it says, how it is written, and how little of it is believed.

Everything read is treated as hostile: a damaged or forged index raises `CorruptionError` and nothing else.

Source: docs/format.md, section 3.
"""

from __future__ import annotations

import datetime
import struct
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated

import msgspec
from msgspec import Meta

from twintape.core import wire
from twintape.core.active import TIME_NS_MAX
from twintape.core.errors import CorruptionError
from twintape.core.markets import Market
from twintape.core.names import RawKey

__all__ = [
    "BLOCK_TEXT_SIZE_MAX",
    "FORMAT",
    "INDEX_SIZE_MAX",
    "TAIL_SIZE",
    "Block",
    "ChainLink",
    "Index",
    "NeedMore",
    "StreamIndex",
    "expect",
    "extent",
    "index_frame",
    "index_json",
    "parse_index",
    "read_index",
]

FORMAT = "twintape-segment/1"

BLOCK_TEXT_SIZE_MAX = 64 << 20
"""The most text a block holds, and with it the longest line."""
INDEX_SIZE_MAX = 64 << 20
"""The largest index that is written or believed."""
TAIL_SIZE = 64 << 10
"""What to read from the end of an object at first: enough for the index of most segments."""

_ID_MAX = 10**18
_MAGIC = b"\x50\x2a\x4d\x18"
_HEADER = struct.Struct("<4sI")
_TRAILER = struct.Struct("<QI4s")
_TRAILER_MAGIC = b"TTP1"

_Count = Annotated[int, Meta(ge=1, le=2**40)]
_Natural = Annotated[int, Meta(ge=0, le=2**40)]
_Number = Annotated[int, Meta(ge=1, le=999_999_999)]
_TimeNs = Annotated[int, Meta(ge=0, le=TIME_NS_MAX)]
_TimeUs = Annotated[int, Meta(ge=0, le=10**16)]
_UpdateId = Annotated[int, Meta(ge=-_ID_MAX, le=_ID_MAX)]
_Sha256 = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]
_Date = Annotated[str, Meta(pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}\Z")]
_Name = Annotated[str, Meta(min_length=1, max_length=512)]


class ChainLink(msgspec.Struct, frozen=True):
    """A segment's place in the serial chain of one collector and market.

    `previous` is the SHA-256 of the whole object with the number before; number 0 has none and `reason` says why the chain begins.
    """

    id: Annotated[str, Meta(pattern=r"^[0-9a-f]{16}\Z")]
    number: Annotated[int, Meta(ge=0, le=2**53)]
    previous: _Sha256 | None
    reason: Annotated[str, Meta(max_length=1024)] | None


class Block(msgspec.Struct, frozen=True):
    """One zstd frame: lines of one stream with one exchange date. Times and ids are those of its lines; None where no line has any."""

    date: _Date
    offset: _Natural
    size: _Count
    sha256: _Sha256
    text_size: Annotated[int, Meta(ge=4, le=BLOCK_TEXT_SIZE_MAX)]
    count: _Count
    first_receive_time_ns: _TimeNs
    last_receive_time_ns: _TimeNs
    event_time_us_min: _TimeUs | None
    event_time_us_max: _TimeUs | None
    first_prev_update_id: _UpdateId | None
    last_final_update_id: _UpdateId | None
    breaks: _Natural


class StreamIndex(msgspec.Struct, frozen=True):
    """Where a segment holds the lines of one stream, in order."""

    name: _Name
    symbol: _Name
    stream: _Name
    count: _Count
    blocks: tuple[Block, ...]


class Index(msgspec.Struct, frozen=True):
    """A sealed segment's table of contents; the fields are those of docs/format.md, section 3."""

    format: str
    collector: Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9-]{0,31}\Z")]
    market: Market
    run: Annotated[str, Meta(pattern=r"^[0-9a-f]{32}\Z")]
    connection: _Number
    sequence: _Number
    chain: ChainLink
    date: _Date
    hour: Annotated[int, Meta(ge=0, le=23)]
    count: _Count
    unchecked_count: _Natural
    text_size: _Count
    first_receive_time_ns: _TimeNs
    last_receive_time_ns: _TimeNs
    event_time_us_min: _TimeUs | None
    event_time_us_max: _TimeUs | None
    order: str | None
    streams: tuple[StreamIndex, ...]

    def raw_key(self, sha256: str) -> RawKey:
        """Return the parts of the key an object with this index and digest must have."""
        return RawKey(
            self.collector, self.market, self.date, self.hour, self.run[:8], self.connection, self.sequence, sha256[:16]
        )


@dataclass(frozen=True, slots=True)
class NeedMore:
    """The tail was too short: read the last `size` bytes of the object and ask again."""

    size: int


_decode_index = msgspec.json.Decoder(Index).decode


def expect(condition: bool, what: str) -> None:
    """Raise `CorruptionError` unless `condition` holds."""
    if not condition:
        raise CorruptionError(f"segment index: {what}")


def index_json(tail: bytes, object_size: int) -> bytes | NeedMore:
    """Return the index as it was written, its CRC checked, from the last bytes of an object.

    Raises:
        CorruptionError: These are not the last bytes of a sealed segment.
    """
    expect(len(tail) <= object_size, f"{len(tail)} bytes read of an object of {object_size}")
    overhead = _HEADER.size + _TRAILER.size
    expect(object_size > overhead, f"an object of {object_size} bytes is no segment")
    if len(tail) < _TRAILER.size:
        return NeedMore(min(object_size, TAIL_SIZE))
    offset, crc32, magic = _TRAILER.unpack(tail[-_TRAILER.size :])
    expect(magic == _TRAILER_MAGIC, "no trailer")
    size = object_size - offset
    expect(overhead < size <= overhead + INDEX_SIZE_MAX, f"impossible offset {offset} in an object of {object_size}")
    if len(tail) < size:
        return NeedMore(size)
    magic, payload_size = _HEADER.unpack_from(tail, len(tail) - size)
    expect(magic == _MAGIC and payload_size == size - _HEADER.size, "no skippable frame where the trailer points")
    text = tail[len(tail) - size + _HEADER.size : -_TRAILER.size]
    expect(zlib.crc32(text) == crc32, "wrong CRC-32")
    return text


def read_index(tail: bytes, object_size: int) -> Index | NeedMore:
    """Return the index from the last bytes of an object (`TAIL_SIZE` to begin with), or how many bytes it takes.

    Raises:
        CorruptionError: It is damaged, of another format, or contradicts itself or the object's size.
    """
    text = index_json(tail, object_size)
    return text if isinstance(text, NeedMore) else parse_index(text, object_size)


def parse_index(text: bytes, object_size: int) -> Index:
    """Return the index from its text (`index_json`).

    Raises:
        CorruptionError: It is of another format, or contradicts itself or the object's size.
    """
    try:
        index = _decode_index(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise CorruptionError(f"segment index: {error}") from error
    _check_index(index, object_size - len(text) - _HEADER.size - _TRAILER.size)
    return index


def _check_index(index: Index, data_size: int) -> None:
    expect(index.format == FORMAT, f"unknown format {index.format[:64]!r}")
    chain = index.chain
    expect((chain.previous is None) == (chain.number == 0), f"number {chain.number} of a chain, previous {chain.previous}")
    blocks = [block for stream in index.streams for block in stream.blocks]
    for stream in index.streams:
        _check_stream(stream)
    names = {stream.name for stream in index.streams}
    expect(len(names) == len(index.streams), "a stream stands twice")
    end = 0
    for block in sorted(blocks, key=lambda block: block.offset):
        expect(block.offset == end, f"the blocks leave a hole or overlap at {end}")
        end += block.size
    expect(end == data_size, f"the blocks end at {end}, the index begins at {data_size}")
    expect(sum(block.count for block in blocks) == index.count, "the counts do not add up")
    expect(sum(block.text_size for block in blocks) == index.text_size, "the text sizes do not add up")
    expect(index.unchecked_count <= index.count, "more unchecked lines than lines")
    expect(_is_date(index.date), f"no date: {index.date}")
    least, greatest = (
        extent(block.event_time_us_min for block in blocks)[0],
        extent(block.event_time_us_max for block in blocks)[1],
    )
    expect((least, greatest) == (index.event_time_us_min, index.event_time_us_max), "the event times do not add up")


def _check_stream(stream: StreamIndex) -> None:
    name = stream.name
    expect(wire.split_stream(name) == (stream.symbol, stream.stream), f"{name[:80]!r} is not {stream.symbol[:80]!r}")
    expect(sum(block.count for block in stream.blocks) == stream.count, f"the counts of {name[:80]!r} do not add up")
    is_depth = wire.is_depth(stream.stream)
    for block in stream.blocks:
        expect(block.text_size >= 4 * block.count, f"{block.count} lines in {block.text_size} bytes")
        expect(_is_date(block.date), f"no date: {block.date}")
        least, greatest = block.event_time_us_min, block.event_time_us_max
        expect((least is None) == (greatest is None), "half a range of event times")
        expect(least is None or greatest is None or least <= greatest, "event times that run backwards")
        first, last = block.first_prev_update_id, block.last_final_update_id
        expect((first is None) == (last is None) and (is_depth or first is None), "ids where there are none")
        expect(block.breaks < block.count, "more breaks than events")


@lru_cache(maxsize=64)
def _is_date(text: str) -> bool:
    try:
        datetime.date.fromisoformat(text)
    except ValueError:
        return False
    return True


def extent(values: Iterable[int | None]) -> tuple[int, int] | tuple[None, None]:
    """Return least and greatest of the values that are not None."""
    known = [value for value in values if value is not None]
    return (min(known), max(known)) if known else (None, None)


def index_frame(index: Index, offset: int) -> bytes:
    """Return the skippable frame that follows `offset` bytes of blocks and ends the object."""
    text = msgspec.json.encode(index)
    return b"".join(
        [
            _HEADER.pack(_MAGIC, len(text) + _TRAILER.size),
            text,
            _TRAILER.pack(offset, zlib.crc32(text), _TRAILER_MAGIC),
        ]
    )
