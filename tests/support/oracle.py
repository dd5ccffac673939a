"""Slow, obvious references the kernels and the archive are compared with: plain Python, exact integers, no numpy."""

from __future__ import annotations

import hashlib
import heapq
from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterable

from twintape.core import wire
from twintape.core.errors import WireError
from twintape.core.markets import Market


def mantissa(number: str, exponent: int) -> int:
    """Return the decimal as a whole multiple of 10^exponent; a rest is an error."""
    whole, _, fraction = number.partition(".")
    digits = -exponent
    kept, cut = fraction[:digits].ljust(digits, "0"), fraction[digits:]
    assert not cut.strip("0"), f"{number} at exponent {exponent}"
    return int(whole + kept)


def decimals(number: str) -> int:
    """Return how many decimals the number needs."""
    return len(number.partition(".")[2].rstrip("0"))


def decode_line(line: bytes, market: Market) -> tuple[int, wire.DepthEvent | None]:
    """Return the receive time and the event of a line, None if it is no depth event."""
    receive_time, _, frame = line.partition(b" ")
    try:
        return int(receive_time), wire.decode_depth(frame, market)
    except WireError:
        return int(receive_time), None


class OracleBook:
    """Two dicts of price → quantity, with the prices of each side sorted."""

    def __init__(self) -> None:
        self.bids: dict[int, int] = {}
        self.asks: dict[int, int] = {}
        self._sorted: dict[int, list[int]] = {id(self.bids): [], id(self.asks): []}

    def set(self, side: dict[int, int], price: int, quantity: int) -> None:
        order = self._sorted[id(side)]
        if quantity and price not in side:
            insort(order, price)
        if not quantity and price in side:
            del order[bisect_left(order, price)]
        if quantity:
            side[price] = quantity
        else:
            side.pop(price, None)

    def apply(self, bids: Iterable[tuple[int, int]], asks: Iterable[tuple[int, int]]) -> None:
        for price, quantity in bids:
            self.set(self.bids, price, quantity)
        for price, quantity in asks:
            self.set(self.asks, price, quantity)

    def top(self) -> tuple[int, int, int, int] | None:
        """Return best bid, its quantity, best ask, its quantity; None while a side is empty."""
        if not self.bids or not self.asks:
            return None
        bid, ask = self.best_bid(), self.best_ask()
        return bid, self.bids[bid], ask, self.asks[ask]

    def best_bid(self, none: int = -1) -> int:
        order = self._sorted[id(self.bids)]
        return order[-1] if order else none

    def best_ask(self, none: int = 2**63 - 1) -> int:
        order = self._sorted[id(self.asks)]
        return order[0] if order else none

    def levels(self) -> tuple[list[int], list[int], list[int], list[int]]:
        bids, asks = sorted(self.bids.items(), reverse=True), sorted(self.asks.items())
        return [p for p, _ in bids], [q for _, q in bids], [p for p, _ in asks], [q for _, q in asks]

    def sha256(self, price_exponent: int, quantity_exponent: int) -> str:
        lines = [
            f"{name} {plain(price, price_exponent)} {plain(quantity, quantity_exponent)}"
            for name, rows in (("b", sorted(self.bids.items(), reverse=True)), ("a", sorted(self.asks.items())))
            for price, quantity in rows
        ]
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def plain(value: int, exponent: int) -> str:
    """Return value × 10^exponent as a plain decimal without trailing zeros."""
    whole, rest = divmod(value, 10**-exponent)
    return f"{whole}.{rest:0{-exponent}d}".rstrip("0").rstrip(".") if rest else str(whole)


def book_ticker_agreement(
    events: Iterable[tuple[int, int, tuple[object, object, object, object] | None]],
    tickers: Iterable[tuple[int, tuple[object, object, object, object]]],
) -> tuple[int, int]:
    """Count how often a reconstructed book's top is what bookTicker says.

    For each event `(p, u]` the book was applied, the bookTicker with the greatest id in `(p, u]` (the last one received, if several have it)
    tells the top at `u`: the top cannot have changed behind it without another one. Events without one say nothing.

    Args:
        events: `(p, u, top after the event)` of every event that was applied to a known book; top as (bid, quantity, ask, quantity).
        tickers: `(u, top)` of every bookTicker in order of receipt, in the same units.

    Returns:
        How many agree in both prices and both quantities, how many do not. Reproduces the counts of the corpus' expected.json.
    """
    by_id = dict(tickers)
    ids = sorted(by_id)
    agree = disagree = 0
    for prev, final, top in events:
        position = bisect_right(ids, final) - 1
        if position < 0 or ids[position] <= prev:
            continue
        if by_id[ids[position]] == top:
            agree += 1
        else:
            disagree += 1
    return agree, disagree


def cheapest_path(events: Iterable[tuple[int, int, int]], start: int) -> tuple[int, int, int] | None:
    """Return the least (overlaps, switches, events) of a path from `start` to the last id of some events `(p, u, line)`: Dijkstra over (id, line)."""
    events = list(events)
    goal = max(u for _, u, _ in events)
    queue = [((0, 0, 0), start, -1)]
    done = set()
    while queue:
        cost, at, line = heapq.heappop(queue)
        if at == goal:
            return cost
        if (at, line) in done:
            continue
        done.add((at, line))
        for p, u, other in events:
            if p <= at < u:
                step = (cost[0] + (p < at), cost[1] + (line not in (-1, other)), cost[2] + 1)
                heapq.heappush(queue, (step, u, other))
    return None
