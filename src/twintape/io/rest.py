"""Order-book snapshots within the exchange's request weight.

One request at a time per weight pool. Whoever needs a snapshot leaves a wish; wishes for the same symbol are one. The exchange's word is
obeyed: nothing is sent while a 429, 418, 403 or 451 forbids it, and a 418 (the IP is banned) stops every pool.

Source: Binance, Spot API docs, rest-api.md "IP Limits" (2026-07-21): 429 → back off, 418 → banned, `Retry-After` in seconds, 403 → WAF;
a snapshot older than the first buffered event has to be fetched again ("How to manage a local order book correctly").
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from twintape.core.budget import SECOND_NS, WeightBudget
from twintape.core.markets import RULES, Market
from twintape.io.ports import Clock, Rest, RestAnswer

__all__ = ["SnapshotFetcher", "Wish"]

TIMEOUT_S = 15.0
ATTEMPTS_MAX = 12
"""Unanswered or failed requests per wish; after that it is given up and said so."""
BACKOFF_BASE_S = 1.0
BACKOFF_MAX_S = 60.0
TOO_MANY_WAIT_S = 60.0
"""Without `Retry-After`: the weight window's length after a 429 …"""
BANNED_WAIT_S = 120.0
"""… and the shortest ban Binance names after a 418."""
FIREWALL_WAIT_S = 300.0
FORBIDDEN_WAIT_S = 3600.0
RETRY_AFTER_MAX_S = 4 * 86400.0
POLL_S = 0.25

_BANNED_UNTIL = re.compile(rb"banned until (\d{13})\b")
_LAST_UPDATE_ID = re.compile(rb'"lastUpdateId":\s?(-?\d{1,18})')


@dataclass(slots=True)
class Wish:
    """A snapshot somebody needs.

    Attributes:
        market: Which market.
        symbol: As REST spells it.
        url: Where it is served.
        weight: What it costs.
        reason: Why it is needed.
        urgent: Goes before all that are not.
        update_id: The snapshot must not be older than this; None: any will do.
        deliver: Takes every answer worth recording.
    """

    market: Market
    symbol: str
    url: str
    weight: int
    reason: str
    urgent: bool
    update_id: int | None
    deliver: Callable[[RestAnswer], None]
    attempts: int = 0
    not_before_ns: int = 0


class SnapshotFetcher:
    """Fulfils wishes.

    Args:
        rest: Sends the requests.
        clock: The time, for budgets and waits.
        pools: The weight budget of every pool in use.
        draw: Returns a random number in [0, 1).
        notice: Takes the name and the details of everything worth a log line.
    """

    def __init__(
        self,
        rest: Rest,
        clock: Clock,
        *,
        pools: Mapping[str, WeightBudget],
        draw: Callable[[], float],
        notice: Callable[[str, dict[str, Any]], None],
    ) -> None:
        self.pools = pools
        self._rest = rest
        self._clock = clock
        self._draw = draw
        self._notice = notice
        self._wishes: dict[str, dict[tuple[Market, str], Wish]] = {pool: {} for pool in pools}
        self._wake = {pool: asyncio.Event() for pool in pools}
        self._blocks = dict.fromkeys(pools, 0)
        self.answers: dict[int, int] = {}

    @property
    def waiting(self) -> int:
        """How many wishes are open; at most one per market and symbol."""
        return sum(len(wishes) for wishes in self._wishes.values())

    def ask(self, wish: Wish) -> None:
        """Take a wish; one for the same symbol that is still open is joined with it, and the stricter of both counts."""
        pool = RULES[wish.market].weight_pool
        wishes = self._wishes[pool]
        before = wishes.get((wish.market, wish.symbol))
        if before is None:
            wishes[wish.market, wish.symbol] = wish
        else:
            before.urgent |= wish.urgent
            if wish.update_id is not None:
                before.update_id = max(wish.update_id, before.update_id or 0) if wish.reason != "epoch" else wish.update_id
            if wish.urgent:
                before.reason, before.deliver = wish.reason, wish.deliver
        self._wake[pool].set()

    async def run(self, pool: str) -> None:
        """Fulfil the wishes of one pool, for ever."""
        budget, wishes, wake = self.pools[pool], self._wishes[pool], self._wake[pool]
        while True:
            if not wishes:
                wake.clear()
                await wake.wait()
            now_ns = self._clock.monotonic_ns()
            due = [wish for wish in wishes.values() if wish.not_before_ns <= now_ns]
            wish = min(due, key=lambda wish: not wish.urgent, default=None)
            if wish is None or not budget.take(now_ns, wish.weight):
                await self._clock.sleep(POLL_S)
                continue
            await self._fetch(wish, budget, wishes)

    async def _fetch(self, wish: Wish, budget: WeightBudget, wishes: dict[tuple[Market, str], Wish]) -> None:
        wish.attempts += 1
        try:
            answer = await self._rest.get(wish.url, timeout_s=TIMEOUT_S)
        except OSError as error:
            self._notice("snapshot_unanswered", {"symbol": wish.symbol, "error": str(error)})
            self._later(wish, wishes)
            return
        self.answers[answer.status] = self.answers.get(answer.status, 0) + 1
        now_ns = self._clock.monotonic_ns()
        used = answer.headers.get("x-mbx-used-weight-1m", "")
        if used.isdecimal():
            budget.observed(now_ns, int(used))
        if answer.status in (429, 418, 403, 451):
            self._blocked(wish, answer, budget, now_ns)
            wish.attempts -= 1  # it was not this wish's fault, and the block already waits
        elif answer.status == 200:
            self._arrived(wish, answer, wishes)
        elif answer.status >= 500:
            self._notice("snapshot_server_error", {"symbol": wish.symbol, "status": answer.status})
            self._later(wish, wishes, _retry_after_s(answer))
        else:
            self._blocks[RULES[wish.market].weight_pool] = 0
            wish.deliver(answer)
            self._notice("snapshot_refused", {"symbol": wish.symbol, "status": answer.status, "body": _start(answer)})
            del wishes[wish.market, wish.symbol]

    def _arrived(self, wish: Wish, answer: RestAnswer, wishes: dict[tuple[Market, str], Wish]) -> None:
        self._blocks[RULES[wish.market].weight_pool] = 0
        wish.deliver(answer)
        match = _LAST_UPDATE_ID.search(answer.body[:256])
        last_update_id = -1 if match is None else int(match[1])
        if wish.update_id is not None and last_update_id < wish.update_id:
            # The exchange may serve a snapshot older than the stream; it is recorded, but the book needs a later one.
            self._notice("snapshot_too_old", {"symbol": wish.symbol, "last_update_id": last_update_id, "needed": wish.update_id})
            self._later(wish, wishes)
        else:
            del wishes[wish.market, wish.symbol]

    def _later(self, wish: Wish, wishes: dict[tuple[Market, str], Wish], least_s: float | None = None) -> None:
        if wish.attempts >= ATTEMPTS_MAX:
            self._notice("snapshot_given_up", {"symbol": wish.symbol, "reason": wish.reason, "attempts": wish.attempts})
            del wishes[wish.market, wish.symbol]
            return
        wait_s = min(BACKOFF_MAX_S, BACKOFF_BASE_S * 2 ** (wish.attempts - 1)) * (0.5 + 0.5 * self._draw())
        wish.not_before_ns = self._clock.monotonic_ns() + int(max(wait_s, least_s or 0.0) * SECOND_NS)

    def _blocked(self, wish: Wish, answer: RestAnswer, budget: WeightBudget, now_ns: int) -> None:
        default_s = {429: TOO_MANY_WAIT_S, 418: BANNED_WAIT_S, 403: FIREWALL_WAIT_S, 451: FORBIDDEN_WAIT_S}[answer.status]
        retry_after_s = _retry_after_s(answer)
        if retry_after_s is None and answer.status in (429, 418):
            retry_after_s = _banned_s(answer)
        pool = RULES[wish.market].weight_pool
        self._blocks[pool] += 1
        # Refusals in a row are answered with ever longer silence, even where `Retry-After` says 0.
        wait_s = max(default_s if retry_after_s is None else retry_after_s, min(TOO_MANY_WAIT_S, 2.0 ** self._blocks[pool]))
        # A second more, because the exchange rounds and its clock is not ours.
        until_ns = now_ns + int((wait_s + 1.0) * SECOND_NS)
        for blocked in self.pools.values() if answer.status == 418 else (budget,):
            blocked.block(until_ns)
        self._notice(
            "rest_blocked",
            {"market": str(wish.market), "status": answer.status, "wait_s": wait_s, "body": _start(answer)},
        )


def _retry_after_s(answer: RestAnswer) -> float | None:
    value = answer.headers.get("retry-after", "").strip()
    return min(float(value), RETRY_AFTER_MAX_S) if value.isdecimal() else None


def _banned_s(answer: RestAnswer) -> float | None:
    """Return how long the text of a ban says it lasts; nothing if that is over by our clock, or absurd."""
    match = _BANNED_UNTIL.search(answer.body[:1000])
    seconds = 0.0 if match is None else int(match[1]) / 1e3 - answer.response_time_ns / 1e9
    return seconds if 0 < seconds <= RETRY_AFTER_MAX_S else None


def _start(answer: RestAnswer) -> str:
    return answer.body[:200].decode(errors="replace")
