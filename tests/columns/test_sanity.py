"""What no working exchange does is counted, exactly."""

import numpy as np
import pytest

from twintape.columns.parse import Levels
from twintape.columns.sanity import SanityTally

NO_TOP = [-1, 0, 2**63 - 1, 0]


def levels_of(*events):
    def side(number):
        offsets = np.zeros(len(events) + 1, np.int64)
        np.cumsum([len(event[number]) for event in events], out=offsets[1:])
        flat = [level for event in events for level in event[number]]
        return offsets, *(np.array([level[k] for level in flat], np.int64) for k in range(2))

    return Levels(*side(0), *side(1))


def tally(events, tops=None, exponent=-2, crossed=0, times=(), stamps=(), received=()):
    found = SanityTally(exponent)
    found.add(levels_of(*events), np.array(tops or [NO_TOP] * len(events), np.int64).reshape(-1, 4))
    arrays = [
        np.array(values, np.int64) for values in (times, stamps or [-1] * len(times), received or [t * 1000 for t in times])
    ]
    return found.result(crossed, *arrays)


def test_prices_are_looked_at_level_by_level():
    found = tally(
        [([(0, 5), (1000, 1)], [(2000, 1)]), ([(1, 1), (2, 0)], [(2_000_001, 1), (3_000_000, 0)])],
        [NO_TOP, [1500, 1, 2000, 1]],
    )
    assert (found.zero_prices, found.far_prices) == (1, 2)
    assert (found.price_low, found.price_high) == ("0.01", "20000.01")


@pytest.mark.parametrize(("exponent", "tick"), [(-2, "0.1"), (0, "10"), (-1, "1"), (-3, "0.01")])
def test_the_tick_is_what_nearly_all_prices_are_multiples_of(exponent, tick):
    usual = [(10 * k, 1) for k in range(1, 2001)]
    found = tally([(usual, [(7, 1)])], exponent=exponent)
    assert (found.price_tick, found.off_tick) == (tick, 1)
    few = tally([(usual[:900], [(7, 1)])], exponent=exponent)
    assert few.off_tick == 0


def test_without_levels_there_is_no_tick_and_no_price():
    found = tally([((), ())])
    assert (found.price_tick, found.off_tick, found.price_low, found.price_high) == (None, 0, None, None)
    only_removed = tally([([(50, 0)], ())])
    assert (only_removed.price_tick, only_removed.price_low) == ("0.1", None)


def test_times_that_step_back_or_are_far_from_receipt_are_counted():
    found = tally([((), ())] * 4, times=[10**9, 2 * 10**9, 10**9, 3 * 10**9], stamps=[5, 4, -1, 3])
    assert (found.event_time_back, found.event_time_back_us_max) == (1, 10**9)
    assert found.transaction_time_back == 1
    late = tally([((), ())] * 2, times=[0, 0], received=[600_000_000_000, 600_000_001_000])
    assert (late.far_from_receipt, late.event_time_back, late.event_time_back_us_max) == (1, 0, 0)


def test_crossed_books_are_passed_on():
    assert tally([((), ())], crossed=3).crossed == 3
