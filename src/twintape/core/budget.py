"""Budgets that Binance enforces with disconnections and bans: request weight, connection attempts, messages on a connection.

All are the same rule, "at most so much in any window of so long", and all are kept by remembering what was spent and when. A token
bucket would be shorter and wrong: a full bucket plus its refill fits almost twice the limit into one of the exchange's windows.

Source: Binance, Spot API docs, rest-api.md "IP Limits" and web-socket-streams.md "Websocket Limits" (2026-07-21).
"""

from __future__ import annotations

from collections import deque
from typing import Protocol

from twintape.core.markets import RULES, Market

__all__ = [
    "ATTEMPT_LIMIT",
    "ATTEMPT_WINDOW_NS",
    "RETRY_FACTOR",
    "SECOND_NS",
    "Attempts",
    "WeightBudget",
    "Window",
    "attempt_window",
    "message_window",
]

SECOND_NS = 1_000_000_000

ATTEMPT_WINDOW_NS = 300 * SECOND_NS
"""Binance counts connection attempts over five minutes."""
ATTEMPT_LIMIT = 240
"""We stay below the 300 attempts an IP address has: other programs may share it."""
WEIGHT_WINDOW_NS = 60 * SECOND_NS
RETRY_FACTOR = 1.2
"""Retries and snapshots that cannot wait may use a fifth more than what is planned."""
MESSAGE_WINDOW_NS = SECOND_NS


class Attempts(Protocol):
    """A budget of connection attempts, of one process or of all of a machine."""

    def take(self, now_ns: int, cost: int = 1) -> bool:
        """Spend `cost` if it fits, and return whether it did."""


class Window:
    """At most `limit` in any `window_ns`; the caller owns the time.

    Args:
        limit: How much may be spent in any window.
        window_ns: The window's length, monotonic nanoseconds.

    >>> window = Window(2, 1000)
    >>> window.take(0), window.take(10), window.take(20), window.ready_ns(20), window.take(1000)
    (True, True, False, 1000, True)
    """

    __slots__ = ("_spent", "_sum", "limit", "window_ns")

    def __init__(self, limit: int, window_ns: int) -> None:
        self.limit = limit
        self.window_ns = window_ns
        self._spent: deque[tuple[int, int]] = deque()
        self._sum = 0

    def spent(self, now_ns: int) -> int:
        """Return what was spent in the window that ends now."""
        while self._spent and self._spent[0][0] + self.window_ns <= now_ns:
            self._sum -= self._spent.popleft()[1]
        return self._sum

    def take(self, now_ns: int, cost: int = 1) -> bool:
        """Spend `cost` if it fits, and return whether it did."""
        if self.spent(now_ns) + cost > self.limit:
            return False
        self.charge(now_ns, cost)
        return True

    def charge(self, now_ns: int, cost: int = 1) -> None:
        """Record a cost that was spent whether or not it fits."""
        self._spent.append((now_ns, cost))
        self._sum += cost

    def ready_ns(self, now_ns: int, cost: int = 1) -> int:
        """Return the earliest time at which `cost` fits if nothing else is spent; what can never fit waits for an empty window."""
        free = self.limit - self.spent(now_ns)
        ready = now_ns
        for time_ns, amount in self._spent:
            if free >= cost:
                break
            free += amount
            ready = time_ns + self.window_ns
        return ready


def attempt_window() -> Window:
    """Return the budget of connection attempts that all connections of a process share."""
    return Window(ATTEMPT_LIMIT, ATTEMPT_WINDOW_NS)


def message_window(market: Market) -> Window:
    """Return the budget of messages we may send on one connection: SUBSCRIBE, ping and pong together.

    >>> message_window(Market.SPOT).limit
    4
    """
    # One below the limit: the exchange's second need not begin where ours does, and it closes the connection with 1008.
    return Window(RULES[market].client_messages_per_second - 1, MESSAGE_WINDOW_NS)


class WeightBudget:
    """The request weight of one pool, and until when the exchange told us to stay away.

    Args:
        weight_per_minute: The exchange's limit for the IP address.
        share: The part of it we allow ourselves, 0 < share <= 1; the rest is for whoever shares the address.
    """

    __slots__ = ("_window", "blocked_until_ns")

    def __init__(self, weight_per_minute: int, share: float = 0.5) -> None:
        self._window = Window(max(1, int(weight_per_minute * share)), WEIGHT_WINDOW_NS)
        self.blocked_until_ns = 0

    @property
    def limit(self) -> int:
        """The weight we allow ourselves in any minute."""
        return self._window.limit

    def used(self, now_ns: int) -> int:
        """Return the weight used in the last minute, as far as known."""
        return self._window.spent(now_ns)

    def take(self, now_ns: int, weight: int) -> bool:
        """Spend `weight` if it is allowed now, and return whether it is."""
        if now_ns < self.blocked_until_ns:
            return False
        # A single request dearer than the whole share is allowed when nothing else was spent; otherwise it could never be made.
        return self._window.take(now_ns, min(weight, self._window.limit))

    def ready_ns(self, now_ns: int, weight: int) -> int:
        """Return the earliest time at which `weight` may be spent."""
        return max(self.blocked_until_ns, self._window.ready_ns(now_ns, min(weight, self._window.limit)))

    def observed(self, now_ns: int, used_weight: int) -> None:
        """Take the exchange's own count (`X-MBX-USED-WEIGHT-1M`): what others behind the same address spent counts too."""
        unknown = used_weight - self._window.spent(now_ns)
        if unknown > 0:
            self._window.charge(now_ns, unknown)

    def block(self, until_ns: int) -> None:
        """Allow nothing before `until_ns`; never shortens a block."""
        self.blocked_until_ns = max(self.blocked_until_ns, until_ns)
