"""Durations counted in buckets whose width grows with them: percentiles of millions of values in a few hundred bytes."""

from __future__ import annotations

import math

__all__ = ["Histogram"]

_FIRST_NS = 62_500
_PER_OCTAVE = 4
_OCTAVES = 20
_BOUNDS_NS = tuple(int(_FIRST_NS * 2 ** (number / _PER_OCTAVE)) for number in range(_PER_OCTAVE * _OCTAVES + 1))
"""From 62.5 µs to 65.5 s; a percentile is at most a fifth above the truth."""


class Histogram:
    """Durations in nanoseconds, counted.

    Attributes:
        count: How many.
        total_ns: Their sum.
        max_ns: The greatest.

    >>> lags = Histogram()
    >>> for milliseconds in range(1000):
    ...     lags.add(milliseconds * 1_000_000)
    >>> lags.percentile_ns(0.5), lags.percentile_ns(1.0), lags.max_ns
    (512000000, 999000000, 999000000)
    """

    __slots__ = ("_counts", "count", "max_ns", "total_ns")

    def __init__(self) -> None:
        self.count = 0
        self.total_ns = 0
        self.max_ns = 0
        self._counts = [0] * (len(_BOUNDS_NS) + 1)

    def add(self, value_ns: int) -> None:
        """Count a duration; one below 0 counts as 0."""
        value_ns = max(0, value_ns)
        self.count += 1
        self.total_ns += value_ns
        self.max_ns = max(self.max_ns, value_ns)
        self._counts[_bucket(value_ns)] += 1

    def percentile_ns(self, share: float) -> int:
        """Return a duration that so large a share of all (0 to 1) does not exceed, in nanoseconds; 0 when there are none."""
        wanted, seen = math.ceil(share * self.count), 0
        for bound_ns, count in zip(_BOUNDS_NS, self._counts, strict=False):
            seen += count
            if seen >= wanted:
                return min(bound_ns, self.max_ns)
        return self.max_ns

    def octaves(self) -> list[tuple[int, int]]:
        """Return `(upper bound in ns, durations up to it)` for every doubling."""
        seen, pairs = 0, []
        for number, bound_ns in enumerate(_BOUNDS_NS):
            seen += self._counts[number]
            if number % _PER_OCTAVE == 0:
                pairs.append((bound_ns, seen))
        return pairs

    def counts(self) -> dict[int, int]:
        """Return the buckets that are not empty: upper bound in ns → count; the bound of what exceeds all others is the greatest value."""
        bounds = (*_BOUNDS_NS, self.max_ns)
        return {bound_ns: count for bound_ns, count in zip(bounds, self._counts, strict=True) if count}


def _bucket(value_ns: int) -> int:
    if value_ns <= _FIRST_NS:
        return 0
    number = min(math.ceil(math.log2(value_ns / _FIRST_NS) * _PER_OCTAVE), len(_BOUNDS_NS))
    # Rounding may put a value that lies on a bound on either side of it.
    return number - 1 if value_ns <= _BOUNDS_NS[number - 1] else number
