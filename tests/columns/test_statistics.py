import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from twintape.columns.statistics import (
    Spread,
    events_interval,
    incomplete_beta,
    incomplete_gamma,
    poisson_tail,
    rate,
)


def at_least(count, of, p):
    return math.fsum(math.comb(of, k) * p**k * (1 - p) ** (of - k) for k in range(count, of + 1))


@given(st.integers(1, 60), st.data())
def test_bounds_of_a_rate_leave_a_fortieth_of_the_chance_on_each_side(of, data):
    count = data.draw(st.integers(1, of))
    found = rate(count, of)
    assert found.low <= found.value <= found.high
    if count < of:
        assert at_least(count, of, found.low) == pytest.approx(0.025, abs=1e-9)
        assert 1 - at_least(count + 1, of, found.high) == pytest.approx(0.025, abs=1e-9)


def test_nothing_of_n_is_below_three_in_n_and_all_of_n_above():
    assert (rate(0, 10**6).low, rate(0, 10**6).high) == (0.0, 3e-6)
    assert (rate(300, 300).low, rate(300, 300).high) == (0.99, 1.0)
    assert (rate(0, 2).high, rate(2, 2).low) == (1.0, 0.0)
    assert (rate(0, 0).value, rate(0, 0).low, rate(0, 0).high) == (0.0, 0.0, 1.0)


def test_a_rate_in_millions_has_narrow_bounds():
    found = rate(5_000, 10**6)
    deviation = math.sqrt(5_000) / 10**6
    assert found.low == pytest.approx(0.005 - 1.96 * deviation, rel=2e-3)
    assert found.high == pytest.approx(0.005 + 1.96 * deviation, rel=2e-3)


@given(st.integers(1, 40))
def test_bounds_of_a_number_of_events_leave_a_fortieth_of_the_chance_on_each_side(count):
    low, high = events_interval(count)

    def fewer(x):
        return math.fsum(math.exp(-x) * x**k / math.factorial(k) for k in range(count))

    assert 1 - fewer(low) == pytest.approx(0.025, abs=1e-9)
    assert fewer(high) + math.exp(-high) * high**count / math.factorial(count) == pytest.approx(0.025, abs=1e-9)
    assert low < count < high


def test_bounds_of_no_event_and_of_very_many():
    assert events_interval(0) == (0.0, 3.0)
    low, high = events_interval(1_000_000)
    assert low == pytest.approx(1_000_000 - 1960, rel=1e-5)
    assert high == pytest.approx(1_000_000 + 1961, rel=1e-5)


def test_chance_of_so_many_events():
    assert poisson_tail(0, 5.0) == 1.0
    assert poisson_tail(3, 0.0) == 0.0
    assert poisson_tail(2, 1.0) == pytest.approx(1 - 2 / math.e)


@pytest.mark.parametrize(("x", "value"), [(-1.0, 0.0), (0.0, 0.0), (1.0, 1.0), (2.0, 1.0), (0.5, 0.5)])
def test_the_beta_function_at_its_ends(x, value):
    assert incomplete_beta(3.0, 3.0, x) == pytest.approx(value)


@pytest.mark.parametrize(("a", "x"), [(0.5, 0.1), (5.0, 2.0), (5.0, 9.0), (200.0, 190.0), (200.0, 230.0)])
def test_the_gamma_function_by_adding_up(a, x):
    steps = np.linspace(0, x, 2_000_001)[1:]
    whole = np.exp((a - 1) * np.log(steps) - steps - math.lgamma(a))
    near = {} if a < 1 else {"rel": 1e-4}
    assert incomplete_gamma(a, x) == pytest.approx(float(whole.sum() * (steps[1] - steps[0])), **near or {"rel": 2e-3})
    assert incomplete_gamma(a, 0.0) == 0.0


def distribution_of(*parts):
    spread = Spread()
    for part in parts:
        spread.add(part)
    return spread.distribution()


def test_numbers_are_described():
    found = distribution_of(np.arange(-50, 151))
    assert (found.count, found.least, found.greatest, found.percentiles["50"]) == (201, -50, 150, 50)
    assert sum(found.bins) == 201
    assert found.edges[0] < 0 < found.edges[-1]
    assert len(found.edges) == len(found.bins) + 1


@pytest.mark.parametrize(
    ("values", "low", "high"), [([5, 6, 7], 0, True), ([-5, -6, -7], None, False), ([0, 0], 0, True), ([0, 0, 0, 0, 9], 0, True)]
)
def test_a_histogram_always_shows_zero(values, low, high):
    found = distribution_of(np.array(values))
    assert found.edges[0] <= 0 <= found.edges[-1]
    assert (found.edges[0] == 0) is (low == 0)
    assert (found.edges[-1] > 0) is high
    assert sum(found.bins) == len(values)


def test_no_numbers_have_no_histogram():
    nothing = distribution_of(np.zeros(0, np.int64))
    assert (nothing.count, nothing.bins) == (0, [])


@given(st.lists(st.lists(st.integers(-(2**62), 2**62)), min_size=1))
def test_numbers_that_come_in_parts_are_told_as_exactly_as_is_said(parts):
    spread = Spread()
    for part in parts:
        spread.add(np.array(part, np.int64))
    values = np.array([value for part in parts for value in part], np.int64)
    assert (spread.count, spread.above, spread.below) == (len(values), (values > 0).sum(), (values < 0).sum())
    if len(values):
        ranks = [0, 10, 50, 90, 100]
        for told, true in zip(spread.percentiles(ranks), np.percentile(values.astype(float), ranks), strict=True):
            assert abs(told - true) <= np.abs(values).max() / 128
        assert (spread.least, spread.greatest) == (float(values.min()), float(values.max()))


def test_small_numbers_and_equal_ones_are_told_exactly():
    rng = np.random.default_rng(1)
    values = rng.integers(-255, 256, 1000)
    found = distribution_of(values[:300], values[300:])
    assert list(found.percentiles.values()) == pytest.approx(np.percentile(values, [int(p) for p in found.percentiles]))
    assert found.mean == pytest.approx(values.mean())
    assert set(distribution_of(np.full(7, 123_456_789)).percentiles.values()) == {123_456_789}
