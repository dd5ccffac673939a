"""What the lines of a segment say, stream by stream: the part of sealing that looks at every line there ever is.

Of a depth frame as Binance prints it the head says all there is to say; whatever looks different takes the slow way, with the same result.

Source: docs/format.md, section 3.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from operator import lt
from typing import TypeVar

from twintape.core import wire
from twintape.core.heads import Head
from twintape.core.index import extent
from twintape.core.markets import Market

__all__ = ["STREAMS_MAX", "Column", "Extent", "by_line", "cut", "receipt_order", "scan"]

STREAMS_MAX = 16_384
"""Streams a segment tells apart; frames of still further streams are filed under `!other`."""

T = TypeVar("T")
Extent = tuple[int, int] | tuple[None, None]
_WRAPPER = b'{"stream":"'
_OURS = ord("!")


@dataclass(frozen=True, slots=True)
class Column:
    """The lines of one stream of a segment.

    Attributes:
        name: The stream's.
        numbers: Of its lines in the segment, ascending.
        prev_ids: For each line `p` of a depth event, or None.
        final_ids: For each line `u` of a depth event, or None; None exactly where `prev_ids` is.
        event_digits: The event times of lines that all have heads, which leave no other value None either; numbers are made of them on demand.
        odd_event_times_us: Those of other lines, or None: there is one of both for every line.
    """

    name: str
    numbers: list[int]
    prev_ids: Sequence[int | None]
    final_ids: Sequence[int | None]
    event_digits: Sequence[bytes] = ()
    odd_event_times_us: Sequence[int | None] = ()

    @property
    def mixed(self) -> bool:
        """Whether there may be lines without ids or event time."""
        return not self.event_digits

    def event_times_us(self) -> Sequence[int | None]:
        """Return for each line its event time, or None."""
        return [int(digits) * 1000 for digits in self.event_digits] or self.odd_event_times_us

    def event_extent_us(self) -> Extent:
        """Return the least and the greatest event time, looked for in all of them."""
        if self.event_digits:
            return int(min(self.event_digits)) * 1000, int(max(self.event_digits)) * 1000
        return extent(self.odd_event_times_us)


class _Streams:
    """The places of streams, given out in order of first appearance."""

    def __init__(self, depth_streams: Mapping[str, str], snapshot_symbol: str | None) -> None:
        self.names: list[str] = []
        self.is_depth: list[bool] = []
        self._position_of: dict[str, int] = {}
        self._position_of_wrapped: dict[bytes, int] = {}
        self._names_of_raw = depth_streams, snapshot_symbol

    def of(self, frame: bytes) -> int:
        """Return the place of a frame's stream."""
        start = len(_WRAPPER)
        end = frame.find(b'"', start, start + wire.STREAM_NAME_BYTES_MAX + 1) if frame.startswith(_WRAPPER) else -1
        # Of our own lines and of raw frames the whole text decides.
        if end < 0 or frame.startswith(b"!twintape", start):
            return self._place(frame)
        # A wrapped frame's stream follows from the bytes of its name: working it out once a name is enough.
        name = frame[start:end]
        position = self._position_of_wrapped.get(name)
        if position is None:
            position = self._position_of_wrapped[name] = self._place(frame)
        return position

    def _place(self, frame: bytes) -> int:
        name = wire.stream_of(frame, *self._names_of_raw)
        if name not in self._position_of and len(self.names) >= STREAMS_MAX - 1:
            name = wire.OTHER
        position = self._position_of.get(name)
        if position is None:
            position = self._position_of[name] = len(self.names)
            self.names.append(name)
            self.is_depth.append(wire.is_depth(wire.split_stream(name)[1]))
        return position


def scan(
    texts: Sequence[bytes],
    heads: Sequence[Head],
    market: Market,
    depth_streams: Mapping[str, str],
    snapshot_symbol: str | None = None,
) -> tuple[list[int], list[Column]]:
    """Return what well-formed lines say: their receive times, in ns, and the streams in order of first appearance.

    Args:
        texts: `<receive time> <frame>` each, without newline.
        heads: Their heads.
        market: Decides what ids mean.
        depth_streams: For frames without wrapper, symbol → stream name.
        snapshot_symbol: The symbol of bare REST bodies in a recording of one symbol.
    """
    streams = _Streams(depth_streams, snapshot_symbol)
    receive_times_ns = [int(head[0] or 0) for head in heads]
    numbers: list[list[int]] = []
    numbers_of: dict[bytes | None, list[int]] = {}
    for number, head in enumerate(heads):
        name = head[1]
        own = numbers_of.get(name)
        if own is None:
            time, _, frame = texts[number].partition(b" ")
            receive_times_ns[number] = int(time)
            position = streams.of(frame)
            if position == len(numbers):
                numbers.append([])
            own = numbers[position]
            # A name of ours, one with an escape, or one too long to be one, is not taken from the head alone.
            if name is not None and len(name) <= wire.STREAM_NAME_BYTES_MAX and b"\\" not in name and name[0] != _OURS:
                numbers_of[name] = own
        own.append(number)
    return receive_times_ns, [
        _column(name, own, is_depth, texts, [heads[number] for number in own], market)
        for name, own, is_depth in zip(streams.names, numbers, streams.is_depth, strict=True)
    ]


def _column(
    name: str, numbers: list[int], is_depth: bool, texts: Sequence[bytes], heads: Sequence[Head], market: Market
) -> Column:
    """Take the lines of one stream apart: if not all their heads say all there is to say, one after the other."""
    spot = market is Market.SPOT
    _, _, events, firsts, finals, prevs = zip(*heads, strict=True)
    before = firsts if spot else prevs
    if is_depth and None not in before:
        prev_ids = [int(first) - 1 for first in firsts] if spot else list(map(int, prevs))
        return Column(name, numbers, prev_ids, list(map(int, finals)), event_digits=events)
    frames = [texts[number].partition(b" ")[2] for number in numbers]
    ids = [(wire.depth_ids(frame, market) if is_depth else None) or (None, None) for frame in frames]
    event_times_us = [wire.event_time_us(frame) for frame in frames]
    return Column(name, numbers, [prev for prev, _ in ids], [final for _, final in ids], odd_event_times_us=event_times_us)


def cut(lines: Sequence[bytes], days: Sequence[int], text_size_max: int) -> Iterator[tuple[slice, bytes]]:
    """Yield the blocks of one stream, which of its lines they hold and their text: one exchange date and `text_size_max`, or one line.

    Args:
        lines: The stream's lines, without newline; at least one.
        days: Their exchange dates.
        text_size_max: The most text of several lines.
    """
    text = b"\n".join([*lines, b""])
    if len(text) <= text_size_max and days.count(days[0]) == len(days):  # nearly always
        yield slice(0, len(lines)), text
        return
    start = text_size = 0
    for place, line in enumerate(lines):
        if place > start and (text_size + len(line) + 1 > text_size_max or days[place] != days[place - 1]):
            yield slice(start, place), b"\n".join([*lines[start:place], b""])
            start, text_size = place, 0
        text_size += len(line) + 1
    yield slice(start, len(lines)), b"\n".join([*lines[start:], b""])


def by_line(columns: Sequence[Column], values: Iterable[Sequence[T]]) -> list[T]:
    """Return for every line of a segment what `values` has of it: for each stream a sequence, for each of its lines a value."""
    found = {
        number: value
        for column, own in zip(columns, values, strict=True)
        for number, value in zip(column.numbers, own, strict=True)
    }
    return [found[number] for number in range(len(found))]


def receipt_order(receive_times_ns: Sequence[int], columns: Sequence[Column]) -> bytes | None:
    """Return the positions of all lines' streams as LEB128; None if receive times, and positions where they are equal, say the same."""
    if all(map(lt, receive_times_ns, receive_times_ns[1:])):
        return None
    positions = by_line(columns, [[position] * len(column.numbers) for position, column in enumerate(columns)])
    keys = list(zip(receive_times_ns, positions, strict=True))
    if all(before <= after for before, after in pairwise(keys)):
        return None
    codes = [_leb128(position) for position in range(len(columns))]
    return b"".join([codes[position] for position in positions])


def _leb128(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
