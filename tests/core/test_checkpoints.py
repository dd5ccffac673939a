import pytest

from twintape.core.budget import SECOND_NS
from twintape.core.checkpoints import CheckpointPlan
from twintape.core.markets import RULES, Market, depth_weight

MINUTE_NS = 60 * SECOND_NS
HOUR_NS = 60 * MINUTE_NS


def taken(plan, until_ns, step_ns=SECOND_NS // 4):
    found = []
    for now_ns in range(0, until_ns, step_ns):
        entry = plan.due(now_ns)
        if entry is not None:
            found.append((now_ns, *entry))
    return found


def test_few_symbols_are_taken_once_an_interval_evenly_spread():
    plan = CheckpointPlan([(Market.SPOT, symbol, 250) for symbol in "ABC"], 2400, HOUR_NS, 0)
    assert plan.round_ns == HOUR_NS
    found = taken(plan, 2 * HOUR_NS + 1)
    assert [symbol for _, _, symbol in found] == list("ABCABC")
    assert [now_ns // MINUTE_NS for now_ns, _, _ in found] == [20, 40, 60, 80, 100, 120]


def test_with_1500_symbols_the_interval_stretches_to_what_the_weight_allows():
    weight = depth_weight(Market.SPOT, 5000)
    allowed = 0.4 * RULES[Market.SPOT].weight_per_minute
    plan = CheckpointPlan([(Market.SPOT, f"S{number}", weight) for number in range(1500)], allowed, HOUR_NS, 0)
    assert plan.round_ns == 1500 * 250 / 2400 * MINUTE_NS  # 2 h 36 min
    found = taken(plan, plan.round_ns + 1)
    assert len({symbol for _, _, symbol in found}) == len(found) == 1500
    times = [now_ns for now_ns, _, _ in found]
    for start in times[::50]:
        assert sum(weight for time in times if start <= time < start + MINUTE_NS) <= allowed + weight


def test_markets_of_one_pool_share_its_budget_by_weight():
    entries = [(Market.USDM, f"U{number}", 20) for number in range(600)] + [
        (Market.COINM, f"C{number}", 10) for number in range(300)
    ]
    plan = CheckpointPlan(entries, 240, MINUTE_NS, 0)
    assert plan.round_ns == 15_000 / 240 * MINUTE_NS
    found = taken(plan, plan.round_ns + MINUTE_NS)
    assert {market for _, market, _ in found} == {Market.USDM, Market.COINM}
    assert len(found) >= 900


def test_after_a_long_pause_the_round_goes_on_without_a_burst():
    plan = CheckpointPlan([(Market.SPOT, symbol, 250) for symbol in "AB"], 2400, HOUR_NS, 0)
    assert plan.due(10 * HOUR_NS) == (Market.SPOT, "A")
    assert plan.due(10 * HOUR_NS) == (Market.SPOT, "B")
    assert plan.due(10 * HOUR_NS + 1) is None
    assert plan.due(10 * HOUR_NS + 30 * MINUTE_NS) == (Market.SPOT, "A")


@pytest.mark.parametrize("now_ns", [0, HOUR_NS])
def test_without_symbols_nothing_is_ever_due(now_ns):
    plan = CheckpointPlan([], 2400, HOUR_NS, 0)
    assert (plan.due(now_ns), plan.round_ns) == (None, 0)


def test_a_new_plan_goes_on_where_the_old_one_had_come_to():
    entries = [(Market.SPOT, symbol, 250) for symbol in "ABC"]
    plan = CheckpointPlan(entries, 2400, HOUR_NS, 0)
    assert plan.due(HOUR_NS) == (Market.SPOT, "A")
    changed = [*entries[1:], (Market.SPOT, "D", 250)]
    assert plan.symbols != {(market, symbol) for market, symbol, _ in changed}
    again = CheckpointPlan(changed, 2400, HOUR_NS, 0, plan.next)
    assert [symbol for _, _, symbol in taken(again, HOUR_NS + 1)] == ["B", "C", "D"]
    assert CheckpointPlan(entries, 2400, HOUR_NS, 0, (Market.USDM, "A")).next == (Market.SPOT, "A")
    assert CheckpointPlan([], 2400, HOUR_NS, 0).next is None
