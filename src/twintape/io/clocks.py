"""What the collectors' clock lines of a date say: how far receive times can be trusted, and whether somebody's clock was wrong."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from twintape.core import segment
from twintape.core.manifest import ClockStatistics, LineStatistics
from twintape.core.wire import parse_control

__all__ = ["clock_of", "joined", "statistics_of", "with_clocks"]


def statistics_of(text: bytes) -> ClockStatistics | None:
    """Return what the clock lines of a text say, or None if there are none."""
    return clock_of(control for _, frame in segment.parse_text(text) if (control := parse_control(frame)) is not None)


def clock_of(control: Iterable[tuple[str, Mapping[str, Any]]]) -> ClockStatistics | None:
    """Return what the clock lines among some control lines (kind and fields) say, or None if there are none."""
    found = None
    for kind, fields in control:
        if kind == "clock":
            found = joined(found, _sample(fields))
    return found


def _sample(fields: Mapping[str, Any]) -> ClockStatistics:
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
