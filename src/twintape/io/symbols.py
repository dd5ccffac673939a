"""Follows the exchange's list of symbols: asks for it at intervals, within the weight budget, and says what it changes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from twintape.core.budget import SECOND_NS
from twintape.core.errors import WireError
from twintape.core.markets import RULES, Market, exchange_info_url
from twintape.core.symbols import Changes, Roster, parse_listings
from twintape.io.ports import Clock, RestAnswer
from twintape.io.rest import Wish

__all__ = ["SymbolWatch"]

JITTER = 0.1
"""Collectors that were started together need not ask together."""
HURRY_NS = 60 * SECOND_NS
"""A stream that fell silent is looked up at once, but not more often than this."""
WISH = "!exchangeInfo"


class SymbolWatch:
    """Follows one market's list.

    Args:
        market: Which market.
        roster: Decides.
        interval_ns: How often to ask, monotonic nanoseconds.
        clock: The time.
        draw: Returns a random number in [0, 1).
        ask: Takes the wish for the list; `io.rest` asks again by itself while it gets no answer, and obeys bans.
        apply: Takes what an answer changes.
        notice: Takes name and details of everything worth a log line.
        base: REST address instead of the market's own.
    """

    def __init__(
        self,
        market: Market,
        roster: Roster,
        *,
        interval_ns: int,
        clock: Clock,
        draw: Callable[[], float],
        ask: Callable[[Wish], None],
        apply: Callable[[Changes], None],
        notice: Callable[[str, Mapping[str, Any]], None],
        base: str | None = None,
    ) -> None:
        self.market = market
        self.roster = roster
        self._interval_ns = interval_ns
        self._clock = clock
        self._draw = draw
        self._ask = ask
        self._apply = apply
        self._notice = notice
        self._base = base
        self._asked_ns: int | None = None
        self._due_ns = clock.monotonic_ns()

    def tick(self, now_ns: int) -> None:
        """Ask if it is time."""
        if now_ns < self._due_ns:
            return
        self._asked_ns = now_ns
        self._due_ns = now_ns + int(self._interval_ns * (1 - JITTER + 2 * JITTER * self._draw()))
        self._ask(
            Wish(
                market=self.market,
                symbol=WISH,
                url=exchange_info_url(self.market, base=self._base),
                weight=RULES[self.market].exchange_info_weight,
                reason="symbols",
                urgent=True,
                update_id=None,
                deliver=partial(self._deliver),
            )
        )

    def hurry(self, now_ns: int) -> None:
        """Ask soon: a stream fell silent, perhaps because its symbol does not trade any more."""
        if self._asked_ns is not None:
            self._due_ns = min(self._due_ns, max(now_ns, self._asked_ns + HURRY_NS))

    def _deliver(self, answer: RestAnswer) -> None:
        if answer.status != 200:
            return  # the fetcher has said so; what is recorded stays
        try:
            listings = parse_listings(answer.body)
        except WireError as error:
            self._notice("symbols_unreadable", {"market": str(self.market), "error": str(error)})
            return
        changes = self.roster.update(listings, self._clock.monotonic_ns())
        if changes.unknown:
            self._notice("symbol_unknown", {"market": str(self.market), "symbols": list(changes.unknown)})
        self._apply(changes)
