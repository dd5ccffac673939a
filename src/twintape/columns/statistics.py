"""How much a count says: exact intervals for rates, percentiles of differences, and whether failures of two lines are independent.

Everything is a plain function of numbers. Intervals are two-sided at 95 % and exact (Clopper-Pearson, Garwood), never the normal
approximation: what is compared here differs once in a million times, or never.

Source: C. Clopper, E. Pearson, Biometrika 26 (1934); F. Garwood, Biometrika 28 (1936); the "rule of three", J. Hanley, A. Lippman-Hand,
JAMA 249 (1983). Incomplete beta and gamma functions by continued fraction and series, as in any handbook of functions (DLMF 8.9, 8.17).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

__all__ = [
    "CONFIDENCE",
    "Distribution",
    "Rate",
    "Spread",
    "events_interval",
    "incomplete_beta",
    "incomplete_gamma",
    "poisson_tail",
    "rate",
]

CONFIDENCE = 0.95
PERCENTILES = (1, 5, 25, 50, 75, 95, 99)
BINS = 41
"""Bins of a histogram; odd, so that one stands around zero."""
_DIGITS = 8
_ITERATIONS_MAX = 10_000
_PRECISION = 1e-14
_TINY = 1e-300


class Rate(Struct, frozen=True):
    """How often something happened, and between which rates the truth lies (95 %).

    Attributes:
        count: How often it happened.
        of: How often it could have.
        low: Lower bound of the rate.
        high: Upper bound; 3/`of` where it never happened.
    """

    count: int
    of: int
    low: float
    high: float

    @property
    def value(self) -> float:
        """The rate itself; 0 where it could not have happened."""
        return self.count / self.of if self.of else 0.0


def rate(count: int, of: int) -> Rate:
    """Return the rate with its interval: exact, and for none of n the rule of three.

    The cases are taken to be independent; differences that come in bursts make the interval too narrow.

    >>> rate(0, 3000).high, rate(0, 0).high
    (0.001, 1.0)
    """
    if of == 0:
        return Rate(0, 0, 0.0, 1.0)
    tail = (1 - CONFIDENCE) / 2
    low = 0.0 if count == 0 else _solve(lambda p: incomplete_beta(count, of - count + 1, p) - tail)
    if count == 0:
        high = min(1.0, 3 / of)
    elif count == of:
        low, high = max(0.0, 1 - 3 / of), 1.0
    else:
        high = _solve(lambda p: incomplete_beta(count + 1, of - count, p) - (1 - tail))
    return Rate(count, of, low, high)


def events_interval(count: int) -> tuple[float, float]:
    """Return between which numbers the expected number of events lies if `count` were seen (95 %).

    >>> events_interval(0)
    (0.0, 3.0)
    """
    if count == 0:
        return 0.0, 3.0
    tail = (1 - CONFIDENCE) / 2
    top = count + 10 * math.sqrt(count) + 20
    low = _solve(lambda x: incomplete_gamma(count, x) - tail, top)
    return low, _solve(lambda x: incomplete_gamma(count + 1, x) - (1 - tail), top)


def poisson_tail(count: int, expected: float) -> float:
    """Return how likely `count` or more events are if `expected` are expected.

    >>> poisson_tail(0, 0.5), round(poisson_tail(1, 0.5), 4)
    (1.0, 0.3935)
    """
    if count == 0:
        return 1.0
    return incomplete_gamma(count, expected) if expected > 0 else 0.0


def _solve(function: Callable[[float], float], top: float = 1.0) -> float:
    """Return where an ascending function between 0 and `top` crosses zero."""
    low, high = 0.0, top
    for _ in range(200):
        middle = (low + high) / 2
        if function(middle) < 0:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def incomplete_beta(a: float, b: float, x: float) -> float:
    """Return the regularised incomplete beta function: how likely at least `a` of `a + b - 1` cases are if each has probability `x`.

    >>> round(incomplete_beta(1, 1, 0.3), 12)
    0.3
    """
    if x <= 0:
        return 0.0
    if x >= 1:
        return 1.0
    front = math.exp(math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x))
    if x > (a + 1) / (a + b + 2):  # there the other side's fraction converges faster
        return 1 - front * _beta_fraction(b, a, 1 - x) / b
    return front * _beta_fraction(a, b, x) / a


def _beta_fraction(a: float, b: float, x: float) -> float:
    # Lentz's method.
    c, d = 1.0, 1 / _not_zero(1 - (a + b) * x / (a + 1))
    result, change, m = d, 2.0, 0
    while abs(change - 1) >= _PRECISION and m < _ITERATIONS_MAX:
        m += 1
        step = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        d = 1 / _not_zero(1 + step * d)
        c = _not_zero(1 + step / c)
        result *= d * c
        step = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        d = 1 / _not_zero(1 + step * d)
        c = _not_zero(1 + step / c)
        change = d * c
        result *= change
    return result


def incomplete_gamma(a: float, x: float) -> float:
    """Return the regularised lower incomplete gamma function: how likely `a` or more events are if `x` are expected.

    >>> round(incomplete_gamma(1, 1), 6)
    0.632121
    """
    if x <= 0:
        return 0.0
    front = math.exp(a * math.log(x) - x - math.lgamma(a))
    if x < a + 1:
        term = total = 1 / a
        n = 0
        while term >= total * _PRECISION and n < _ITERATIONS_MAX:
            n += 1
            term *= x / (a + n)
            total += term
        return front * total
    b = x + 1 - a
    c, d = 1 / _TINY, 1 / b
    result, change, n = d, 2.0, 0
    while abs(change - 1) >= _PRECISION and n < _ITERATIONS_MAX:
        n += 1
        step = -n * (n - a)
        b += 2
        d = 1 / _not_zero(step * d + b)
        c = _not_zero(b + step / c)
        change = d * c
        result *= change
    return 1 - front * result


def _not_zero(value: float) -> float:
    return value if abs(value) > _TINY else _TINY


# --- distributions ---------------------------------------------------------------------------------------------------------------


class Distribution(Struct, frozen=True):
    """What some numbers look like.

    Attributes:
        count: How many there are.
        mean: Their mean; 0 of none.
        least: The least.
        greatest: The greatest.
        percentiles: By percent: 1, 5, 25, 50, 75, 95, 99; within a 128th.
        edges: Edges of a histogram's bins, one more than there are bins; what lies outside is counted in the outermost.
        bins: How many numbers lie in each.
    """

    count: int
    mean: float
    least: float
    greatest: float
    percentiles: dict[str, float]
    edges: list[float]
    bins: list[int]


class Spread:
    """Any number of whole numbers, in as much memory as a few hundred.

    They are counted in buckets a 128th wide of what they hold, with their sum in each: what is told of one is at most so far from the truth, and of equal
    numbers exact. Numbers below 256 have buckets of their own.

    >>> spread = Spread()
    >>> spread.add(np.array([250_000, 250_000, -3]))
    >>> spread.count, spread.above, spread.percentiles([50]), spread.least
    (3, 2, [250000.0], -3.0)
    """

    def __init__(self) -> None:
        self._keys = np.zeros(0, np.int64)
        self._counts = np.zeros(0, np.int64)
        self._sums = np.zeros(0, np.float64)
        self.least, self.greatest = math.inf, -math.inf

    @property
    def count(self) -> int:
        """How many there are."""
        return int(self._counts.sum())

    @property
    def above(self) -> int:
        """How many are greater than 0."""
        return int(self._counts[self._keys > 0].sum())

    @property
    def below(self) -> int:
        """How many are less than 0."""
        return int(self._counts[self._keys < 0].sum())

    def add(self, values: NDArray[np.int64]) -> None:
        """Count numbers."""
        if len(values) == 0:
            return
        self.least, self.greatest = min(self.least, float(values.min())), max(self.greatest, float(values.max()))
        keys = np.concatenate([self._keys, _bucket(values)])
        order = np.argsort(keys, kind="stable")
        keys = keys[order]
        edges = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]]))
        counts, sums = np.concatenate([self._counts, np.ones(len(values), np.int64)]), np.concatenate([self._sums, values])
        self._keys = keys[edges]
        self._counts, self._sums = np.add.reduceat(counts[order], edges), np.add.reduceat(sums[order], edges)

    def percentiles(self, points: Sequence[float]) -> list[float]:
        """Return percentiles, linear between neighbours; there must be a number."""
        reach = np.cumsum(self._counts)
        ranks = np.array(points) / 100 * (reach[-1] - 1)
        means = self._sums / self._counts
        low, high = (means[np.searchsorted(reach, edge(ranks), side="right")] for edge in (np.floor, np.ceil))
        return [float(value) for value in low + (high - low) * (ranks - np.floor(ranks))]

    def distribution(self) -> Distribution:
        """Describe them. The histogram spans the first to the 99th percentile and always zero."""
        if not len(self._keys):
            return Distribution(0, 0.0, 0.0, 0.0, {}, [], [])
        points = self.percentiles(PERCENTILES)
        span = max(abs(points[0]), abs(points[-1])) or max(1.0, abs(self.least), abs(self.greatest))
        edges = np.linspace(-span if points[0] < 0 else 0.0, span if points[-1] > 0 or points[0] >= 0 else 0.0, BINS + 1)
        bins, _ = np.histogram(np.clip(self._sums / self._counts, edges[0], edges[-1]), edges, weights=self._counts)
        return Distribution(
            count=self.count,
            mean=float(self._sums.sum()) / self.count,
            least=self.least,
            greatest=self.greatest,
            percentiles={str(percent): value for percent, value in zip(PERCENTILES, points, strict=True)},
            edges=[float(edge) for edge in edges],
            bins=[int(count) for count in bins],
        )


def _bucket(values: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the sign and the first eight binary digits of numbers, and how many follow, as one number that orders them."""
    size = np.abs(values)
    behind = np.maximum(np.frexp(size.astype(np.float64))[1] - _DIGITS, 0).astype(np.int64)
    bucket: NDArray[np.int64] = behind * (1 << (_DIGITS - 1)) + (size >> behind)
    return np.where(values < 0, -bucket, bucket)
