"""What the lines of a segment say, column by column: the part of sealing that looks at every line there ever is.

Of a depth frame as Binance prints it the head says all there is to say; whatever looks different takes the slow way, with the same result.

Source: docs/format.md, section 3.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from operator import lt

from twintape.core import wire
from twintape.core.heads import Head
from twintape.core.markets import Market

__all__ = ["STREAMS_MAX", "Columns", "cut", "receipt_order", "scan"]

STREAMS_MAX = 16_384
"""Streams a segment tells apart; frames of still further streams are filed under `!other`."""

_WRAPPER = b'{"stream":"'


@dataclass(slots=True)
class Columns:
    """The lines of a segment.

    Attributes:
        names: The streams, in order of first appearance.
        positions: For each line its stream's place in `names`.
        receive_times_ns: For each line.
        event_times_us: For each line its event time, or None.
        prev_ids: For each line `p` of a depth event, or None.
        final_ids: For each line `u` of a depth event, or None; None exactly where `prev_ids` is.
        mixed: For each stream whether it may have lines without ids or event time.
    """

    names: list[str]
    positions: list[int]
    receive_times_ns: list[int]
    event_times_us: list[int | None]
    prev_ids: list[int | None]
    final_ids: list[int | None]
    mixed: list[bool]


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
) -> Columns:
    """Return what well-formed lines say.

    Args:
        texts: `<receive time> <frame>` each, without newline.
        heads: Their heads.
        market: Decides what ids mean.
        depth_streams: For frames without wrapper, symbol → stream name.
        snapshot_symbol: The symbol of bare REST bodies in a recording of one symbol.
    """
    if not texts:
        return Columns([], [], [], [], [], [], [])
    times, wrapped, events, firsts, finals, prevs = zip(*heads, strict=True)
    streams = _Streams(depth_streams, snapshot_symbol)
    # Places are given out in order of first appearance; the last pair of a key that `dict` sees is the first in the segment.
    first_at = dict(zip(reversed(wrapped), range(len(texts) - 1, -1, -1), strict=True))
    # A name of ours, one with an escape, or one too long to be one, is not taken from the head alone.
    doubtful = {
        name
        for name in first_at
        if name is None or name.startswith(b"!") or b"\\" in name or len(name) > wire.STREAM_NAME_BYTES_MAX
    }
    slow = [number for number, name in enumerate(wrapped) if name in doubtful] if doubtful else []
    place_of = dict.fromkeys(doubtful, -1)
    slow_positions: dict[int, int] = {}
    for number, name in sorted(
        [(at, name) for name, at in first_at.items() if name not in doubtful] + [(at, None) for at in slow]
    ):
        position = streams.of(texts[number].partition(b" ")[2])
        if name is None:
            slow_positions[number] = position
        else:
            place_of[name] = position
            if not streams.is_depth[position]:  # its ids mean nothing to us
                slow += [at for at, other in enumerate(wrapped) if other == name]
    spot = market is Market.SPOT
    if not spot and None in prevs:  # a futures event without `pu` has no place in the chain
        slow = sorted({*slow, *(number for number, prev in enumerate(prevs) if prev is None)})
    columns = Columns(
        names=streams.names,
        positions=[place_of[name] for name in wrapped],
        receive_times_ns=[int(time or 0) for time in times],
        event_times_us=[None if time is None else int(time) * 1000 for time in events],
        prev_ids=[None if first is None else int(first) - 1 for first in firsts] if spot else _numbers(prevs),
        final_ids=_numbers(finals),
        mixed=[False] * len(streams.names),
    )
    for number in slow:
        _fill(columns, number, slow_positions.get(number), texts[number], market, streams)
    return columns


def _numbers(texts: Sequence[bytes | None]) -> list[int | None]:
    return [None if text is None else int(text) for text in texts]


def _fill(columns: Columns, number: int, position: int | None, text: bytes, market: Market, streams: _Streams) -> None:
    """Fill in one line the slow way; without a `position` it has been given one."""
    time, _, frame = text.partition(b" ")
    if position is not None:
        columns.positions[number] = position
    columns.mixed[columns.positions[number]] = True
    columns.receive_times_ns[number] = int(time)
    columns.event_times_us[number] = wire.event_time_us(frame)
    ids = wire.depth_ids(frame, market) if streams.is_depth[columns.positions[number]] else None
    columns.prev_ids[number], columns.final_ids[number] = (None, None) if ids is None else ids


def cut(
    lines: Sequence[bytes], members: Sequence[int], days: Sequence[int], text_size_max: int, *, one_day: bool
) -> Iterator[tuple[Sequence[int], bytes]]:
    """Yield the blocks of one stream, the numbers of their lines and their text: of one exchange date and `text_size_max`, or one line.

    Args:
        lines: The stream's lines, without newline; at least one.
        members: Their numbers in the segment.
        days: For every line of the segment its exchange date.
        text_size_max: The most text of several lines.
        one_day: Whether all dates are the same.
    """
    text = b"\n".join([*lines, b""])
    if one_day and len(text) <= text_size_max:  # nearly always
        yield members, text
        return
    start = text_size = 0
    for place, line in enumerate(lines):
        day = days[members[place]]
        if place > start and (text_size + len(line) + 1 > text_size_max or day != days[members[place - 1]]):
            yield members[start:place], b"\n".join([*lines[start:place], b""])
            start, text_size = place, 0
        text_size += len(line) + 1
    yield members[start:], b"\n".join([*lines[start:], b""])


def receipt_order(receive_times_ns: Sequence[int], positions: Sequence[int]) -> bytes | None:
    r"""Return the positions of all lines as LEB128, or None if receive times, and positions where they are equal, say the same.

    >>> receipt_order([7, 7, 8], [0, 1, 0]), receipt_order([7, 7, 8], [1, 0, 200])
    (None, b'\x01\x00\xc8\x01')
    """
    if all(map(lt, receive_times_ns, receive_times_ns[1:])):
        return None
    keys = list(zip(receive_times_ns, positions, strict=True))
    if all(before <= after for before, after in pairwise(keys)):
        return None
    codes = [_leb128(position) for position in range(max(positions) + 1)]
    return b"".join([codes[position] for position in positions])


def _leb128(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
