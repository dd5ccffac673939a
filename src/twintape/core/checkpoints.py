"""When each symbol's next checkpoint snapshot is taken: evenly spread, and never faster than the request weight allows.

Markets of one weight pool share one plan. If a round at the wished interval would cost more than the planned share of the budget, the round
takes longer: 5,000 levels of 1,500 spot symbols cost 375,000, at 2,400 a minute two hours and a half.
"""

from __future__ import annotations

from collections.abc import Sequence

from twintape.core.budget import SECOND_NS
from twintape.core.markets import Market

__all__ = ["CheckpointPlan"]

_MINUTE_NS = 60 * SECOND_NS


class CheckpointPlan:
    """A round through the symbols of one weight pool, for ever.

    Args:
        entries: Market, symbol and weight of every snapshot, in the order of the round.
        weight_per_minute: What the plan may use of the pool's budget.
        interval_ns: How long a round should take; it takes longer if that would cost too much.
        now_ns: Monotonic time at which the first round begins.
        first: Begin with this market and symbol, if it is there.

    Attributes:
        round_ns: How long a round takes; 0 without entries.

    >>> plan = CheckpointPlan([(Market.SPOT, "A", 250), (Market.SPOT, "B", 250)], 100, 60 * SECOND_NS, 0)
    >>> plan.round_ns // SECOND_NS, plan.due(149 * SECOND_NS), plan.due(150 * SECOND_NS)
    (300, None, (<Market.SPOT: 'spot'>, 'A'))
    """

    __slots__ = ("_due_ns", "_entries", "_index", "_spacing_ns", "round_ns")

    def __init__(
        self,
        entries: Sequence[tuple[Market, str, int]],
        weight_per_minute: float,
        interval_ns: int,
        now_ns: int,
        first: tuple[Market, str] | None = None,
    ) -> None:
        start = next((number for number, (*names, _) in enumerate(entries) if tuple(names) == first), 0)
        self._entries = [*entries[start:], *entries[:start]]
        weight = sum(weight for _, _, weight in entries)
        self.round_ns = max(interval_ns, int(weight / weight_per_minute * _MINUTE_NS)) if entries else 0
        self._spacing_ns = [self.round_ns * own // weight for _, _, own in self._entries]
        self._index = 0
        self._due_ns = now_ns + (self._spacing_ns[0] if entries else 0)

    @property
    def symbols(self) -> set[tuple[Market, str]]:
        """Market and symbol of every entry."""
        return {(market, symbol) for market, symbol, _ in self._entries}

    @property
    def next(self) -> tuple[Market, str] | None:
        """Market and symbol of the next snapshot."""
        return self._entries[self._index][:2] if self._entries else None

    def due(self, now_ns: int) -> tuple[Market, str] | None:
        """Return market and symbol of the snapshot to take now, if it is time; what was missed is not made up for."""
        if not self._entries or now_ns < self._due_ns:
            return None
        market, symbol, _ = self._entries[self._index]
        self._index = (self._index + 1) % len(self._entries)
        # Twice late is not twice as often: after a long pause the round goes on at its own pace.
        self._due_ns = max(self._due_ns + self._spacing_ns[self._index], now_ns)
        return market, symbol
