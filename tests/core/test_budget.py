import pytest
from hypothesis import given
from hypothesis import strategies as st

from twintape.core.budget import (
    ATTEMPT_LIMIT,
    ATTEMPT_WINDOW_NS,
    SECOND_NS,
    WeightBudget,
    Window,
    attempt_window,
    message_window,
)
from twintape.core.markets import RULES, Market


@given(
    limit=st.integers(1, 5),
    steps=st.lists(st.tuples(st.integers(0, 40), st.integers(1, 3)), max_size=60),
)
def test_no_window_of_its_length_ever_holds_more_than_the_limit(limit, steps):
    window, now, spent = Window(limit, 100), 0, []
    for wait, cost in steps:
        now += wait
        if window.take(now, cost):
            spent.append((now, cost))
    for start, _ in spent:
        assert sum(cost for time, cost in spent if start <= time < start + 100) <= limit


@given(steps=st.lists(st.tuples(st.integers(0, 40), st.integers(1, 3)), max_size=60), cost=st.integers(1, 3))
def test_ready_is_the_first_moment_at_which_taking_succeeds(steps, cost):
    window, now = Window(3, 100), 0
    for wait, amount in steps:
        now += wait
        window.take(now, amount)
    ready = window.ready_ns(now, cost)
    assert ready >= now
    if ready > now:
        assert not window.take(ready - 1, cost)
    assert window.take(ready, cost)


def test_what_can_never_fit_waits_for_an_empty_window():
    window = Window(2, 100)
    window.charge(10, 2)
    assert window.ready_ns(20, 5) == 110


def test_a_storm_of_reconnects_stays_below_the_exchange_s_limit():
    attempts = attempt_window()
    made = sum(attempts.take(second * SECOND_NS) for second in range(300) for _ in range(50))
    assert made == ATTEMPT_LIMIT < 300
    assert attempts.ready_ns(299 * SECOND_NS) == ATTEMPT_WINDOW_NS


@pytest.mark.parametrize("market", list(Market))
def test_one_message_a_second_is_left_as_a_margin(market):
    assert message_window(market).limit == RULES[market].client_messages_per_second - 1


def test_weight_is_spent_up_to_the_share_and_comes_back_after_a_minute():
    budget = WeightBudget(6000, 0.5)
    assert budget.limit == 3000
    assert sum(budget.take(0, 250) for _ in range(20)) == 12
    assert budget.used(0) == 3000
    assert budget.ready_ns(0, 250) == 60 * SECOND_NS
    assert not budget.take(60 * SECOND_NS - 1, 250)
    assert budget.take(60 * SECOND_NS, 250)


def test_a_request_dearer_than_the_share_is_possible_in_an_idle_minute():
    budget = WeightBudget(100, 0.5)
    assert budget.take(0, 250)
    assert not budget.take(0, 1)
    assert budget.ready_ns(0, 250) == 60 * SECOND_NS


def test_what_others_behind_the_same_address_spent_counts():
    budget = WeightBudget(6000, 0.5)
    budget.take(0, 250)
    budget.observed(SECOND_NS, 2900)
    assert budget.used(SECOND_NS) == 2900
    assert not budget.take(SECOND_NS, 250)
    budget.observed(2 * SECOND_NS, 100)
    assert budget.used(2 * SECOND_NS) == 2900


def test_nothing_is_allowed_while_blocked_and_a_block_is_never_shortened():
    budget = WeightBudget(6000)
    budget.block(500)
    budget.block(100)
    assert budget.blocked_until_ns == 500
    assert budget.ready_ns(0, 1) == 500
    assert not budget.take(499, 1)
    assert budget.take(500, 1)
