"""The sealed segment: lines regrouped by stream into independent zstd frames, with an index behind them.

Everything read is treated as hostile: a damaged or forged segment raises `CorruptionError` and nothing else, and nothing is allocated
on its word beyond `BLOCK_TEXT_SIZE_MAX` a block and `INDEX_SIZE_MAX` for the index.

The text of active segments is in `core.active`, the index in `core.index`; what belongs to a segment can be had from here.

Source: docs/format.md, sections 3 and 4.
"""

from __future__ import annotations

import base64
import binascii
import datetime
import hashlib
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise

from twintape.core import wire
from twintape.core.active import (
    HourWatch,
    Line,
    Recovered,
    depth_streams_of,
    format_line,
    format_sync,
    is_absurd,
    is_doubtful,
    parse_line,
    parse_text,
    recover_active,
)
from twintape.core.errors import CorruptionError
from twintape.core.index import (
    BLOCK_TEXT_SIZE_MAX,
    FORMAT,
    INDEX_SIZE_MAX,
    TAIL_SIZE,
    Block,
    ChainLink,
    Index,
    NeedMore,
    StreamIndex,
    expect,
    extent,
    index_frame,
    index_json,
    read_index,
)
from twintape.core.markets import Market

if sys.version_info >= (3, 14):
    from compression import zstd  # pragma: no cover
else:
    from backports import zstd

__all__ = [
    "BLOCK_TEXT_SIZE",
    "BLOCK_TEXT_SIZE_MAX",
    "INDEX_SIZE_MAX",
    "TAIL_SIZE",
    "Block",
    "ChainLink",
    "HourWatch",
    "Index",
    "Line",
    "NeedMore",
    "Recovered",
    "Sealed",
    "StreamIndex",
    "believed_times_us",
    "check_digests",
    "depth_streams_of",
    "exchange_times_us",
    "format_line",
    "format_sync",
    "index_json",
    "lines_in_order",
    "parse_line",
    "parse_text",
    "read_block",
    "read_index",
    "recover_active",
    "seal",
    "verify_segment",
]

BLOCK_TEXT_SIZE = 1 << 20
"""The most text a block of several lines holds."""
STREAMS_MAX = 16_384
"""Streams a segment tells apart; frames of still further streams are filed under `!other`."""

_DAY_US = 86_400_000_000
_HOUR_US = 3_600_000_000
_WINDOW_LOG_MAX = 26  # no block needs more than its own 64 MiB

_COMPRESSION: dict[int, int] = {zstd.CompressionParameter.compression_level: 1, zstd.CompressionParameter.checksum_flag: 1}
_DECOMPRESSION: dict[int, int] = {zstd.DecompressionParameter.window_log_max: _WINDOW_LOG_MAX}
_WRAPPER = b'{"stream":"'
# The head of every depth frame Binance has sent through a combined stream since 2019; whatever looks different takes the slow way.
_DEPTH_HEAD = re.compile(
    rb'\{"stream":"([^"\\]{1,128})","data":\{"e":"depthUpdate","E":(\d{13}),(?:"(?:T|st)":\d{1,16},|"(?:s|ps)":"[^"\\]{1,128}",){1,4}'
    rb'"U":(\d{1,18}),"u":(\d{1,18}),(?:"pu":(-?\d{1,18}),)?"[ab]":'
)


# --- sealing -------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Sealed:
    """A sealed segment: the object's bytes, their SHA-256, the key it belongs under, and its index."""

    data: bytes
    sha256: str
    key: str
    index: Index


def believed_times_us(
    event_times_us: Sequence[int | None], receive_times_ns: Sequence[int], open_event_time_us: int | None
) -> list[int | None]:
    """Return the event times of a segment's lines with None for the doubtful ones, in µs; see `core.active.is_doubtful`.

    >>> day_us = 86_400_000_000
    >>> believed_times_us([5, 9 * day_us, 6], [0, 0, 0], None), believed_times_us([9 * day_us, 5, 6], [0, 0, 0], None)
    ([5, None, 6], [None, 5, 6])
    """
    known_us = open_event_time_us
    believed: list[int | None] = []
    for time, receive_time_ns in zip(event_times_us, receive_times_ns, strict=True):
        if time is None or is_doubtful(time, receive_time_ns, known_us):
            believed.append(None)
            continue
        if known_us is None:
            # Nothing vouches for the first of all but the one behind it.
            behind = next(islice((other for other in event_times_us[len(believed) :] if other is not None), 1, 2), time)
            if is_absurd(time, behind, receive_time_ns):
                believed.append(None)
                continue
        believed.append(time)
        known_us = time if known_us is None or time > known_us else known_us
    return believed


def exchange_times_us(
    believed_us: Sequence[int | None], receive_times_ns: Sequence[int], open_event_time_us: int | None
) -> list[int]:
    """Return the exchange time of every line of a segment, in µs: the clock its date is taken from.

    `believed_us` are the event times that are not doubtful.

    >>> exchange_times_us([None, 5, None, 4], [1000, 2000, 3000, 4000], None), exchange_times_us([None], [9000], None)
    ([5, 5, 5, 4], [9])
    """
    first = next((time for time in believed_us if time is not None), None)
    known = open_event_time_us if open_event_time_us is not None else first
    if known is None:
        return [time // 1000 for time in receive_times_ns]
    greatest: int | None = None
    times = []
    for time in believed_us:
        if time is None:
            times.append(known if greatest is None else greatest)
        else:
            times.append(time)
            if greatest is None or time > greatest:
                greatest = time
    return times


class _Scan:
    """The lines of a segment, column by column.

    Attributes:
        names: The streams, in order of first appearance.
        positions: For each line its stream's place in `names`.
        event_times: For each line its event time in µs, or None.
        ids: For each line `(p, u]` of a depth event, or None.
    """

    def __init__(
        self, lines: Sequence[Line], market: Market, depth_streams: Mapping[str, str], snapshot_symbol: str | None
    ) -> None:
        self.names: list[str] = []
        self.positions: list[int] = []
        self.event_times: list[int | None] = []
        self.ids: list[tuple[int, int] | None] = []
        self._position_of: dict[str, int] = {}
        self._is_depth: list[bool] = []
        self._names_of_raw = depth_streams, snapshot_symbol
        self._scan(lines, market)

    def _scan(self, lines: Sequence[Line], market: Market) -> None:
        is_spot = market is Market.SPOT
        # A wrapped frame's stream follows from the bytes of its name: working it out once a name is enough.
        known: dict[bytes, int] = {}
        match_head, is_depth = _DEPTH_HEAD.match, self._is_depth
        add_position, add_time, add_ids = self.positions.append, self.event_times.append, self.ids.append
        for _, frame in lines:
            head = match_head(frame)
            if head is not None:
                name, time, first, final, prev = head.groups()
                position = known.get(name, -1)
                if position >= 0 and is_depth[position]:
                    add_position(position)
                    add_time(int(time) * 1000)
                    if is_spot:
                        add_ids((int(first) - 1, int(final)))
                    else:
                        add_ids(None if prev is None else (int(prev), int(final)))
                    continue
            position = self._slow_position(frame, known)
            add_position(position)
            add_time(wire.event_time_us(frame))
            add_ids(wire.depth_ids(frame, market) if is_depth[position] else None)

    def _slow_position(self, frame: bytes, known: dict[bytes, int]) -> int:
        start = len(_WRAPPER)
        end = frame.find(b'"', start, start + wire.STREAM_NAME_BYTES_MAX + 1) if frame.startswith(_WRAPPER) else -1
        # Of our own lines and of raw frames the whole text decides.
        if end < 0 or frame.startswith(b"!twintape", start):
            return self._place(frame)
        name = frame[start:end]
        position = known.get(name)
        if position is None:
            position = known[name] = self._place(frame)
        return position

    def _place(self, frame: bytes) -> int:
        name = wire.stream_of(frame, *self._names_of_raw)
        if name not in self._position_of and len(self.names) >= STREAMS_MAX - 1:
            name = wire.OTHER
        position = self._position_of.get(name)
        if position is None:
            position = self._position_of[name] = len(self.names)
            self.names.append(name)
            self._is_depth.append(wire.is_depth(wire.split_stream(name)[1]))
        return position


def _open_fields(lines: Sequence[Line]) -> tuple[int | None, list[str]]:
    """Return `event_time_us` and `streams` of the segment's open line; None and nothing if it has none."""
    control = wire.parse_control(lines[0][1]) if lines else None
    if control is None or control[0] != "open":
        return None, []
    time, streams = control[1].get("event_time_us"), control[1].get("streams")
    known = time if isinstance(time, int) and 0 <= time <= 10**16 else None
    return known, [name for name in streams if isinstance(name, str)] if isinstance(streams, list) else []


def _chunks(members: Sequence[int], sizes: Sequence[int], days: Sequence[int]) -> Iterator[list[int]]:
    """Cut one stream's lines, at least one, into blocks: at most `BLOCK_TEXT_SIZE` of text (or one line), and one exchange date."""
    chunk: list[int] = []
    text_size, day = 0, None
    for member in members:
        if chunk and (text_size + sizes[member] > BLOCK_TEXT_SIZE or days[member] != day):
            yield chunk
            chunk, text_size = [], 0
        chunk.append(member)
        text_size += sizes[member]
        day = days[member]
    yield chunk


def _date(day: int) -> str:
    return (datetime.date(1970, 1, 1) + datetime.timedelta(days=day)).isoformat()


def _block(
    compressed: bytes,
    text_size: int,
    *,
    offset: int,
    day: int,
    receive_times_ns: Sequence[int],
    event_times: Sequence[int | None],
    ids: Iterable[tuple[int, int] | None],
) -> Block:
    least, greatest = extent(event_times)
    events = [event for event in ids if event is not None]
    return Block(
        date=_date(day),
        offset=offset,
        size=len(compressed),
        sha256=hashlib.sha256(compressed).hexdigest(),
        text_size=text_size,
        count=len(receive_times_ns),
        first_receive_time_ns=receive_times_ns[0],
        last_receive_time_ns=receive_times_ns[-1],
        event_time_us_min=least,
        event_time_us_max=greatest,
        first_prev_update_id=events[0][0] if events else None,
        last_final_update_id=events[-1][1] if events else None,
        breaks=sum(before[1] != after[0] for before, after in pairwise(events)),
    )


def seal(
    lines: Sequence[Line],
    *,
    collector: str,
    market: Market,
    run: str,
    connection: int,
    sequence: int,
    chain: ChainLink,
    unchecked_count: int = 0,
    depth_streams: Mapping[str, str] | None = None,
    snapshot_symbol: str | None = None,
) -> Sealed:
    """Seal the lines of one segment, in order of receipt and without `@sync`: the same lines give the same object.

    Args:
        lines: At least one; the first is the open line, where there is one.
        collector: Its name.
        market: Where the frames come from.
        run: 32 hex digits.
        connection: Number of the connection within the run.
        sequence: Number of the segment within the connection.
        chain: The segment's place in the collector's serial chain.
        unchecked_count: How many of the lines no sync line vouches for.
        depth_streams: For frames without wrapper, symbol → stream name; by default taken from the open line's streams.
        snapshot_symbol: The symbol of bare REST bodies in a recording of one symbol.

    Raises:
        CorruptionError: What came out could not be read back: an impossible line, or an index beyond `INDEX_SIZE_MAX`.
    """
    open_event_time_us, streams = _open_fields(lines)
    scan = _Scan(lines, market, depth_streams_of(streams) if depth_streams is None else depth_streams, snapshot_symbol)
    receive_times = [time for time, _ in lines]
    texts = [b"%d %b\n" % line for line in lines]
    sizes = list(map(len, texts))
    believed = believed_times_us(scan.event_times, receive_times, open_event_time_us)
    exchange_times = exchange_times_us(believed, receive_times, open_event_time_us)
    days = [time // _DAY_US for time in exchange_times]
    members: list[list[int]] = [[] for _ in scan.names]
    for number, position in enumerate(scan.positions):
        members[position].append(number)
    parts: list[bytes] = []
    offset = 0
    stream_indexes = []
    for name, own in zip(scan.names, members, strict=True):
        blocks = []
        for chunk in _chunks(own, sizes, days):
            text = b"".join([texts[number] for number in chunk])
            compressed = zstd.compress(text, options=_COMPRESSION)
            blocks.append(
                _block(
                    compressed,
                    len(text),
                    offset=offset,
                    day=days[chunk[0]],
                    receive_times_ns=[receive_times[number] for number in chunk],
                    event_times=[believed[number] for number in chunk],
                    ids=[scan.ids[number] for number in chunk],
                )
            )
            parts.append(compressed)
            offset += len(compressed)
        stream_indexes.append(StreamIndex(name, *wire.split_stream(name), len(own), tuple(blocks)))
    greatest_us = max(exchange_times, default=0)
    least_event, greatest_event = extent(believed)
    index = Index(
        format=FORMAT,
        collector=collector,
        market=market,
        run=run,
        connection=connection,
        sequence=sequence,
        chain=chain,
        date=_date(greatest_us // _DAY_US),
        hour=greatest_us // _HOUR_US % 24,
        count=len(lines),
        unchecked_count=unchecked_count,
        text_size=sum(sizes),
        first_receive_time_ns=receive_times[0] if lines else 0,
        last_receive_time_ns=receive_times[-1] if lines else 0,
        event_time_us_min=least_event,
        event_time_us_max=greatest_event,
        order=_order(receive_times, scan.positions),
        streams=tuple(stream_indexes),
    )
    data = b"".join([*parts, index_frame(index, offset)])
    read_index(data[offset:], len(data))
    sha256 = hashlib.sha256(data).hexdigest()
    return Sealed(data, sha256, index.raw_key(sha256).key(), index)


def _order(receive_times: Sequence[int], positions: Sequence[int]) -> str | None:
    keys = list(zip(receive_times, positions, strict=True))
    if all(before <= after for before, after in pairwise(keys)):
        return None
    codes = [_leb128(position) for position in range(max(positions) + 1)]
    return base64.b64encode(zstd.compress(b"".join([codes[position] for position in positions]), options=_COMPRESSION)).decode()


def _leb128(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


# --- reading -------------------------------------------------------------------------------------------------------------------


def _decompress(compressed: bytes, size_max: int) -> bytes:
    """Return the content of exactly one zstd frame of at most `size_max` bytes."""
    decompressor = zstd.ZstdDecompressor(options=_DECOMPRESSION)
    try:
        content = decompressor.decompress(compressed, size_max)
    except zstd.ZstdError as error:
        raise CorruptionError(f"damaged zstd frame: {error}") from error
    if not decompressor.eof or decompressor.unused_data:
        raise CorruptionError(f"not one whole zstd frame of at most {size_max} bytes")
    return content


def read_block(compressed: bytes, block: Block) -> bytes:
    """Return a block's text, checked against the index: size, digest, size of the text, number of lines.

    Raises:
        CorruptionError: They differ.
    """
    if len(compressed) != block.size or hashlib.sha256(compressed).hexdigest() != block.sha256:
        raise CorruptionError(f"block at {block.offset}: {len(compressed)} bytes that are not the {block.size} of the index")
    text = _decompress(compressed, block.text_size)
    if len(text) != block.text_size or text.count(b"\n") != block.count or not text.endswith(b"\n"):
        raise CorruptionError(f"block at {block.offset}: its text is not the {block.text_size} bytes of the index")
    return text


def _whole_index(data: bytes) -> Index:
    index = read_index(data, len(data))
    assert isinstance(index, Index), "more than the whole object was asked for"
    return index


def _positions(index: Index, receive_times_ns: Sequence[Sequence[int]]) -> list[int]:
    """Return for each line in order of receipt its stream's position."""
    if index.order is None:
        keys = [(time, position) for position, times in enumerate(receive_times_ns) for time in times]
        return [position for _, position in sorted(keys)]
    try:
        compressed = base64.b64decode(index.order, validate=True)
    except (binascii.Error, ValueError) as error:
        raise CorruptionError(f"segment index: order is not base64: {error}") from error
    positions: list[int] = []
    value = shift = 0
    for byte in _decompress(compressed, 3 * index.count):
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            positions.append(value)
            value = shift = 0
    counts = [0] * len(index.streams)
    for position in positions:
        expect(position < len(counts), f"order names stream {position} of {len(counts)}")
        counts[position] += 1
    expect(counts == [stream.count for stream in index.streams] and shift == 0, "order is not one of these lines")
    return positions


def _in_order(data: bytes, index: Index) -> Iterator[tuple[int, int, bytes]]:
    streams = []
    for stream in index.streams:
        lines: list[Line] = []
        for block in stream.blocks:
            lines += parse_text(read_block(data[block.offset : block.offset + block.size], block))
        streams.append(lines)
    cursors = [iter(lines) for lines in streams]
    for position in _positions(index, [[time for time, _ in lines] for lines in streams]):
        yield position, *next(cursors[position])


def check_digests(data: bytes) -> Index:
    """Return the index of a whole object after checking every byte of it against the index, without decompressing anything.

    Raises:
        CorruptionError: It is damaged.
    """
    index = _whole_index(data)
    for stream in index.streams:
        for block in stream.blocks:
            found = hashlib.sha256(data[block.offset : block.offset + block.size]).hexdigest()
            expect(found == block.sha256, f"the block at {block.offset} is damaged")
    return index


def lines_in_order(data: bytes) -> Iterator[tuple[str, int, bytes]]:
    """Yield stream name, receive time in ns and frame of every line of a sealed segment, in order of receipt.

    Raises:
        CorruptionError: The segment is damaged.
    """
    index = _whole_index(data)
    for position, receive_time_ns, frame in _in_order(data, index):
        yield index.streams[position].name, receive_time_ns, frame


def verify_segment(data: bytes) -> Index:
    """Return the index of a whole object after checking that every statement in it is true.

    Raises:
        CorruptionError: One is not.
    """
    index = _whole_index(data)
    lines = list(_in_order(data, index))
    receive_times = [time for _, time, _ in lines]
    open_event_time_us, _ = _open_fields([(time, frame) for _, time, frame in lines[:1]])
    event_times = believed_times_us([wire.event_time_us(frame) for _, _, frame in lines], receive_times, open_event_time_us)
    exchange_times = exchange_times_us(event_times, receive_times, open_event_time_us)
    members: list[list[int]] = [[] for _ in index.streams]
    for number, (position, _, _) in enumerate(lines):
        members[position].append(number)
    for stream, own in zip(index.streams, members, strict=True):
        is_depth, rest = wire.is_depth(stream.stream), iter(own)
        for block in stream.blocks:
            chunk = [next(rest) for _ in range(block.count)]
            found = _block(
                data[block.offset : block.offset + block.size],
                block.text_size,
                offset=block.offset,
                day=exchange_times[chunk[0]] // _DAY_US,
                receive_times_ns=[receive_times[number] for number in chunk],
                event_times=[event_times[number] for number in chunk],
                ids=[wire.depth_ids(lines[number][2], index.market) if is_depth else None for number in chunk],
            )
            expect(found == block, f"the block at {block.offset} holds other times or ids than it says")
            days = {exchange_times[number] // _DAY_US for number in chunk}
            expect(len(days) == 1, f"the block at {block.offset} holds more than one date")
    greatest_us = max(exchange_times)
    expect((index.date, index.hour) == (_date(greatest_us // _DAY_US), greatest_us // _HOUR_US % 24), "wrong date or hour")
    first_last = (index.first_receive_time_ns, index.last_receive_time_ns)
    expect(first_last == (receive_times[0], receive_times[-1]), "wrong first or last receive time")
    return index
