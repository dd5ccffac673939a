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
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from operator import ne
from typing import cast

from twintape.core import wire
from twintape.core.active import (
    DAY_US,
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
    recover_texts,
    split_lines,
)
from twintape.core.errors import CorruptionError
from twintape.core.heads import NO_HEAD, Head, read_heads
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
    parse_index,
    read_index,
)
from twintape.core.markets import Market
from twintape.core.scan import Column, Extent, by_line, cut, receipt_order, scan

if sys.version_info >= (3, 14):
    from compression import zstd  # pragma: no cover
else:
    from backports import zstd

__all__ = [
    "ACTIVE_NAME",
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
    "SealOutcome",
    "Sealed",
    "StreamIndex",
    "believed_times_us",
    "check_digests",
    "date_of",
    "depth_streams_of",
    "exchange_times_us",
    "format_line",
    "format_sync",
    "index_json",
    "lines_in_order",
    "parse_index",
    "parse_line",
    "parse_text",
    "read_block",
    "read_index",
    "recover_active",
    "seal",
    "seal_active",
    "verify_segment",
]

ACTIVE_NAME = re.compile(r"([0-9a-f]{8})-([1-9][0-9]{0,8})-([1-9][0-9]{0,8})\.tape")
"""Run, connection and sequence of an active file."""
BLOCK_TEXT_SIZE = 1 << 20
"""The most text a block of several lines holds."""
_HOUR_US = 3_600_000_000
_WINDOW_LOG_MAX = 26  # no block needs more than its own 64 MiB

_COMPRESSION: dict[int, int] = {zstd.CompressionParameter.compression_level: 1, zstd.CompressionParameter.checksum_flag: 1}
_DECOMPRESSION: dict[int, int] = {zstd.DecompressionParameter.window_log_max: _WINDOW_LOG_MAX}


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
    least, greatest = extent(event_times_us)
    if (
        least is None
        or greatest is None
        or greatest <= min(least, least if open_event_time_us is None else open_event_time_us) + DAY_US
    ):
        return list(event_times_us)  # none is over a day ahead of any other
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
    if None not in believed_us:
        return [time for time in believed_us if time is not None]
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


def _open_fields(frame: bytes) -> tuple[int | None, list[str]]:
    """Return `event_time_us` and `streams` of the segment's open line, if its first frame is one; else None and nothing."""
    control = wire.parse_control(frame)
    if control is None or control[0] != "open":
        return None, []
    time, streams = control[1].get("event_time_us"), control[1].get("streams")
    known = time if isinstance(time, int) and 0 <= time <= 10**16 else None
    return known, [name for name in streams if isinstance(name, str)] if isinstance(streams, list) else []


def _dated(
    columns: Sequence[Column], extents_us: Sequence[Extent], receive_times_ns: Sequence[int], open_event_time_us: int | None
) -> tuple[list[int | None] | None, list[int], int]:
    """Date the lines of a segment.

    Returns:
        Of every line its event time if that is not doubtful, or None if none is and all are of one day; its exchange date, in days
        since 1970; and the greatest exchange time, in µs.
    """
    least, greatest = extent(time for extent_us in extents_us for time in extent_us)
    if least is not None and greatest is not None:
        # What the first lines have if they have no event time of their own; within a day of each other none is doubtful.
        known = least if open_event_time_us is None else open_event_time_us
        if least // DAY_US == known // DAY_US == greatest // DAY_US:
            leading = known if columns[0].event_times_us()[0] is None else greatest
            return None, [known // DAY_US] * len(receive_times_ns), max(greatest, leading)
    event_times_us = by_line(columns, [column.event_times_us() for column in columns])
    believed = believed_times_us(event_times_us, receive_times_ns, open_event_time_us)
    times = exchange_times_us(believed, receive_times_ns, open_event_time_us)
    return believed, [time // DAY_US for time in times], max(times, default=0)


def _known(values: Sequence[int | None], *, all_known: bool) -> Sequence[int]:
    return cast("Sequence[int]", values) if all_known else [value for value in values if value is not None]


def date_of(day: int) -> str:
    """Return the date so many days after 1970-01-01.

    >>> date_of(20_000)
    '2024-10-04'
    """
    return (datetime.date(1970, 1, 1) + datetime.timedelta(days=day)).isoformat()


def _block(
    compressed: bytes,
    text_size: int,
    *,
    offset: int,
    day: int,
    first_receive_time_ns: int,
    last_receive_time_ns: int,
    extent_us: Extent,
    prev_ids: Sequence[int | None],
    final_ids: Sequence[int | None],
    mixed: bool = True,
) -> Block:
    prevs, finals = (_known(ids, all_known=not mixed) for ids in (prev_ids, final_ids))
    return Block(
        date=date_of(day),
        offset=offset,
        size=len(compressed),
        sha256=hashlib.sha256(compressed).hexdigest(),
        text_size=text_size,
        count=len(prev_ids),
        first_receive_time_ns=first_receive_time_ns,
        last_receive_time_ns=last_receive_time_ns,
        event_time_us_min=extent_us[0],
        event_time_us_max=extent_us[1],
        first_prev_update_id=prevs[0] if prevs else None,
        last_final_update_id=finals[-1] if finals else None,
        breaks=sum(map(ne, finals, prevs[1:])),
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
    texts = [b"%d %b" % line for line in lines]
    return _seal_texts(
        texts,
        read_heads(texts),
        collector=collector,
        market=market,
        run=run,
        connection=connection,
        sequence=sequence,
        chain=chain,
        unchecked_count=unchecked_count,
        depth_streams=depth_streams,
        snapshot_symbol=snapshot_symbol,
    )


def _seal_texts(
    texts: Sequence[bytes],
    heads: Sequence[Head],
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
    """Do what `seal` does for lines as they are printed, without their newlines, and their heads."""
    open_event_time_us, streams = _open_fields(texts[0].partition(b" ")[2] if texts else b"")
    depth_streams = depth_streams_of(streams) if depth_streams is None else depth_streams
    receive_times, columns = scan(texts, heads, market, depth_streams, snapshot_symbol)
    extents_us = [column.event_extent_us() for column in columns]
    believed, days, greatest_us = _dated(columns, extents_us, receive_times, open_event_time_us)
    compress = zstd.ZstdCompressor(options=_COMPRESSION).compress  # one for all: each has some tables to fill
    parts: list[bytes] = []
    offset = text_size = 0
    stream_indexes = []
    for column, extent_us in zip(columns, extents_us, strict=True):
        numbers, blocks = column.numbers, list[Block]()
        own_days = days[: len(numbers)] if believed is None else [days[number] for number in numbers]
        cuts = list(cut([texts[number] for number in numbers], own_days, BLOCK_TEXT_SIZE))
        whole = believed is None and len(cuts) == 1
        times = () if whole else column.event_times_us() if believed is None else [believed[number] for number in numbers]
        for part, text in cuts:
            compressed = compress(text, zstd.ZstdCompressor.FLUSH_FRAME)
            blocks.append(
                _block(
                    compressed,
                    len(text),
                    offset=offset,
                    day=days[numbers[part.start]],
                    first_receive_time_ns=receive_times[numbers[part.start]],
                    last_receive_time_ns=receive_times[numbers[part.stop - 1]],
                    extent_us=extent_us if whole else extent(times[part]),
                    prev_ids=column.prev_ids[part],
                    final_ids=column.final_ids[part],
                    mixed=column.mixed,
                )
            )
            parts.append(compressed)
            offset += len(compressed)
            text_size += len(text)
        stream_indexes.append(StreamIndex(column.name, *wire.split_stream(column.name), len(numbers), tuple(blocks)))
    least_event, _ = extent([block.event_time_us_min for stream in stream_indexes for block in stream.blocks])
    _, greatest_event = extent([block.event_time_us_max for stream in stream_indexes for block in stream.blocks])
    index = Index(
        format=FORMAT,
        collector=collector,
        market=market,
        run=run,
        connection=connection,
        sequence=sequence,
        chain=chain,
        date=date_of(greatest_us // DAY_US),
        hour=greatest_us // _HOUR_US % 24,
        count=len(texts),
        unchecked_count=unchecked_count,
        text_size=text_size,
        first_receive_time_ns=receive_times[0] if texts else 0,
        last_receive_time_ns=receive_times[-1] if texts else 0,
        event_time_us_min=least_event,
        event_time_us_max=greatest_event,
        order=_order(receive_times, columns),
        streams=tuple(stream_indexes),
    )
    data = b"".join([*parts, index_frame(index, offset)])
    read_index(data[offset:], len(data))
    sha256 = hashlib.sha256(data).hexdigest()
    return Sealed(data, sha256, index.raw_key(sha256).key(), index)


@dataclass(frozen=True, slots=True)
class SealOutcome:
    """What became of an active file: the sealed segment, or None if it held no line, and the damaged bytes at its end."""

    sealed: Sealed | None
    tail: bytes


def seal_active(data: bytes, *, name: str, collector: str, market: Market, chain: ChainLink) -> SealOutcome:
    """Seal what can be read of an active file; the same bytes give the same object.

    Args:
        data: The file.
        name: Its name, `<run8>-<connection>-<sequence>.tape`: its open line must say the same.
        collector: Its collector.
        market: Its market.
        chain: The segment's place in the collector's serial chain.

    Raises:
        CorruptionError: It does not begin with the open line of a file of this name, or cannot be sealed.
    """
    texts = split_lines(data)
    heads = read_heads(texts)
    recovered = recover_texts(data, texts, [number for number, head in enumerate(heads) if head is NO_HEAD])
    del heads[len(recovered.texts) + len(recovered.sync_lines) :]
    for sync in reversed(recovered.sync_lines):
        del heads[sync]
    if not recovered.texts:
        return SealOutcome(None, recovered.tail)
    run, connection, sequence = _identity(name, recovered.texts[0].partition(b" ")[2], collector, market)
    sealed = _seal_texts(
        recovered.texts,
        heads,
        collector=collector,
        market=market,
        run=run,
        connection=connection,
        sequence=sequence,
        chain=chain,
        unchecked_count=recovered.unchecked_count,
    )
    return SealOutcome(sealed, recovered.tail)


def _identity(name: str, frame: bytes, collector: str, market: Market) -> tuple[str, int, int]:
    """Return run, connection and sequence of an active file: its open line must say what its name says."""
    control = wire.parse_control(frame)
    match = ACTIVE_NAME.fullmatch(name)
    if control is None or control[0] != "open" or match is None:
        raise CorruptionError(f"{name} does not begin with an open line")
    fields = control[1]
    run, connection, sequence = str(fields.get("run")), int(match[2]), int(match[3])
    expected = {
        "collector": collector,
        "market": str(market),
        "run": match[1] + run[8:],
        "connection": connection,
        "sequence": sequence,
    }
    for key, value in expected.items():
        if fields.get(key) != value:
            raise CorruptionError(f"{name}: its open line says {key} {fields.get(key)!r}, expected {value!r}")
    return run, connection, sequence


def _order(receive_times: Sequence[int], columns: Sequence[Column]) -> str | None:
    codes = receipt_order(receive_times, columns)
    return None if codes is None else base64.b64encode(zstd.compress(codes, options=_COMPRESSION)).decode()


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


def read_block(compressed: bytes, block: Block, *, count_lines: bool = True) -> bytes:
    """Return a block's text, checked against the index: size, digest, size of the text, number of lines.

    Args:
        compressed: The block's zstd frame.
        block: What the index says of it.
        count_lines: False for a caller that counts the lines itself.

    Raises:
        CorruptionError: They differ.
    """
    if len(compressed) != block.size or hashlib.sha256(compressed).hexdigest() != block.sha256:
        raise CorruptionError(f"block at {block.offset}: {len(compressed)} bytes that are not the {block.size} of the index")
    text = _decompress(compressed, block.text_size)
    counted = text.count(b"\n") if count_lines else block.count
    if len(text) != block.text_size or counted != block.count or not text.endswith(b"\n"):
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
    open_event_time_us, _ = _open_fields(lines[0][2])
    event_times = believed_times_us([wire.event_time_us(frame) for _, _, frame in lines], receive_times, open_event_time_us)
    exchange_times = exchange_times_us(event_times, receive_times, open_event_time_us)
    members: list[list[int]] = [[] for _ in index.streams]
    for number, (position, _, _) in enumerate(lines):
        members[position].append(number)
    for stream, own in zip(index.streams, members, strict=True):
        is_depth, rest = wire.is_depth(stream.stream), iter(own)
        for block in stream.blocks:
            chunk = [next(rest) for _ in range(block.count)]
            found_ids = [wire.depth_ids(lines[number][2], index.market) if is_depth else None for number in chunk]
            found = _block(
                data[block.offset : block.offset + block.size],
                block.text_size,
                offset=block.offset,
                day=exchange_times[chunk[0]] // DAY_US,
                first_receive_time_ns=receive_times[chunk[0]],
                last_receive_time_ns=receive_times[chunk[-1]],
                extent_us=extent([event_times[number] for number in chunk]),
                prev_ids=[ids and ids[0] for ids in found_ids],
                final_ids=[ids and ids[1] for ids in found_ids],
            )
            expect(found == block, f"the block at {block.offset} holds other times or ids than it says")
            days = {exchange_times[number] // DAY_US for number in chunk}
            expect(len(days) == 1, f"the block at {block.offset} holds more than one date")
    greatest_us = max(exchange_times)
    expect((index.date, index.hour) == (date_of(greatest_us // DAY_US), greatest_us // _HOUR_US % 24), "wrong date or hour")
    first_last = (index.first_receive_time_ns, index.last_receive_time_ns)
    expect(first_last == (receive_times[0], receive_times[-1]), "wrong first or last receive time")
    return index
