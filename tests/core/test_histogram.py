from hypothesis import given
from hypothesis import strategies as st

from twintape.core.histogram import Histogram

DURATIONS = st.lists(st.integers(0, 200_000_000_000), min_size=1, max_size=200)


def counted(values):
    histogram = Histogram()
    for value in values:
        histogram.add(value)
    return histogram


@given(DURATIONS, st.floats(0.001, 1.0))
def test_a_percentile_is_never_below_the_true_one_and_at_most_a_fifth_above_it(values, share):
    values = [min(value, 60_000_000_000) for value in values]
    rank = -(-len(values) * share // 1)
    true = sorted(values)[max(0, int(rank) - 1)]
    assert true <= counted(values).percentile_ns(share) <= max(62_500, true * 1.2)


@given(DURATIONS)
def test_every_duration_is_counted_once(values):
    histogram = counted(values)
    assert (histogram.count, histogram.total_ns, histogram.max_ns) == (len(values), sum(values), max(values))
    assert sum(histogram.counts().values()) == len(values)


@given(DURATIONS)
def test_octaves_count_what_does_not_exceed_their_bound(values):
    pairs = counted(values).octaves()
    assert [bound for bound, _ in pairs] == [62_500 * 2**number for number in range(21)]
    assert all(count == sum(value <= bound for value in values) for bound, count in pairs)


def test_a_clock_that_ran_backwards_counts_as_no_time():
    histogram = counted([-5])
    assert (histogram.count, histogram.max_ns, histogram.percentile_ns(0.5)) == (1, 0, 0)


def test_nothing_counted_has_percentiles_of_zero():
    assert Histogram().percentile_ns(0.99) == 0
    assert Histogram().counts() == {}


def test_what_exceeds_every_bound_is_reported_as_the_greatest():
    histogram = counted([10**9, 100 * 10**9])
    assert histogram.percentile_ns(0.999) == 100 * 10**9
    assert max(histogram.counts()) == 100 * 10**9
