"""What the collectors' clock lines of a date say: how far receive times can be trusted, and whether somebody's clock was wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from twintape.core import segment
from twintape.core.manifest import ClockStatistics, LineStatistics
from twintape.core.wire import TWINTAPE, parse_control

__all__ = ["clock_of", "joined", "statistics_of", "with_clocks"]


def clock_of(read: Callable[[int, int], bytes], index: segment.Index, date: str) -> ClockStatistics | None:
    """Return what the clock lines of a date in one raw segment say, or None if there are none.

    Args:
        read: Returns so many bytes (the second argument) of the segment from an offset (the first).
        index: The segment's.
        date: The date.

    Raises:
        CorruptionError: The segment is damaged.
    """
    blocks = [block for stream in index.streams if stream.name == TWINTAPE for block in stream.blocks if block.date == date]
    found = None
    for block in blocks:
        found = joined(found, statistics_of(segment.read_block(read(block.offset, block.size), block)))
    return found


def statistics_of(text: bytes) -> ClockStatistics | None:
    """Return what the clock lines of a text say, or None if there are none."""
    found = None
    for _, frame in segment.parse_text(text):
        control = parse_control(frame)
        if control is not None and control[0] == "clock":
            found = joined(found, _sample(control[1]))
    return found


def _sample(fields: dict[str, Any]) -> ClockStatistics:
    # Control lines are only as trustworthy as their text: whatever is no number says nothing.
    offset, error = (value if isinstance(value, int) else None for value in (fields.get("offset_ns"), fields.get("error_ns")))
    return ClockStatistics(
        samples=1, offset_ns_min=offset, offset_ns_max=offset, error_ns_max=error, unsynchronised=int(offset is None)
    )


def joined(one: ClockStatistics | None, other: ClockStatistics | None) -> ClockStatistics | None:
    """Return what both say together; None says nothing."""
    if one is None or other is None:
        return one or other
    return ClockStatistics(
        samples=one.samples + other.samples,
        offset_ns_min=min(_known(one.offset_ns_min, other.offset_ns_min), default=None),
        offset_ns_max=max(_known(one.offset_ns_max, other.offset_ns_max), default=None),
        error_ns_max=max(_known(one.error_ns_max, other.error_ns_max), default=None),
        unsynchronised=one.unsynchronised + other.unsynchronised,
    )


def _known(*values: int | None) -> list[int]:
    return [value for value in values if value is not None]


def with_clocks(lines: Iterable[LineStatistics], clocks: Iterable[tuple[str, ClockStatistics | None]]) -> list[LineStatistics]:
    """Return the lines, each with what `(collector, statistics)` of its collector say together."""
    by_collector: dict[str, ClockStatistics | None] = {}
    for collector, statistics in clocks:
        by_collector[collector] = joined(by_collector.get(collector), statistics)
    return [msgspec.structs.replace(line, clock=by_collector.get(line.collector)) for line in lines]
