"""What no day of a working exchange has, counted as the chain goes by: it proves nothing, and shows what a plausible chain may hide."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from twintape.columns.book import plain_text
from twintape.columns.kernel import Int64s, kernel
from twintape.columns.parse import Levels
from twintape.core.evidence import Sanity

__all__ = ["SanityTally"]

Ints = NDArray[np.int64]

FAR_FACTOR = 1000
"""A price is far if it is so many times above the best ask or below the best bid."""
FAR_FROM_RECEIPT_US = 600_000_000
TICK_SHARE = 1000
"""Digits that fewer than one price in so many has are not the tick's."""
ZEROS_MAX = 18

_NO_BID, _NO_ASK = -1, 2**63 - 1
_ZERO, _FAR, _LOW, _HIGH = range(4)


@kernel
def _count(
    offsets: Int64s, price: Int64s, quantity: Int64s, best_bid: Int64s, best_ask: Int64s, far: int, zeros: Int64s, found: Int64s
) -> None:
    for row in range(offsets.size - 1):
        low, high = float(best_bid[row]) / far, float(best_ask[row]) * far
        for at in range(offsets[row], offsets[row + 1]):
            value = price[at]
            if value == 0:
                found[0] += 1
                continue
            rest, count = value, 0
            while rest % 10 == 0:
                rest //= 10
                count += 1
            zeros[count] += 1
            if quantity[at]:
                found[2] = min(found[2], value)
                found[3] = max(found[3], value)
                if value < low or value > high:
                    found[1] += 1


class SanityTally:
    """Counts level by level; the times are looked at once, at the end.

    Args:
        price_exponent: Power of ten of the price mantissas.
    """

    def __init__(self, price_exponent: int) -> None:
        self._exponent = price_exponent
        self._zeros = np.zeros(ZEROS_MAX + 1, np.int64)
        self._found = np.array([0, 0, _NO_ASK, -1], np.int64)

    def add(self, levels: Levels, tops: Ints) -> None:
        """Take the next events of the chain.

        Args:
            levels: Their levels.
            tops: int64[n, 4], best bid and ask behind each in columns 0 and 2; -1 and 2**63 - 1 where they are not known.
        """
        bid, ask = np.ascontiguousarray(tops[:, 0]), np.ascontiguousarray(tops[:, 2])
        for offsets, price, quantity in (
            (levels.bid_offsets, levels.bid_price, levels.bid_quantity),
            (levels.ask_offsets, levels.ask_price, levels.ask_quantity),
        ):
            _count(offsets, price, quantity, bid, ask, FAR_FACTOR, self._zeros, self._found)

    def result(self, crossed: int, event_time_us: Ints, transaction_time_us: Ints, receive_time_ns: Ints) -> Sanity:
        """Return the counts.

        Args:
            crossed: Events behind which the book was crossed.
            event_time_us: int64[k], `E` in chain order.
            transaction_time_us: int64[k], `T`, -1 where there is none.
            receive_time_ns: int64[k].
        """
        back = -np.diff(event_time_us)
        both = (transaction_time_us[1:] >= 0) & (transaction_time_us[:-1] >= 0)
        tick, off_tick = self._tick()
        return Sanity(
            crossed=crossed,
            zero_prices=int(self._found[_ZERO]),
            far_prices=int(self._found[_FAR]),
            off_tick=off_tick,
            price_tick=tick,
            price_low=plain_text(int(self._found[_LOW]), self._exponent) if self._found[_HIGH] >= 0 else None,
            price_high=plain_text(int(self._found[_HIGH]), self._exponent) if self._found[_HIGH] >= 0 else None,
            event_time_back=int((back > 0).sum()),
            event_time_back_us_max=max(0, int(back.max(initial=0))),
            transaction_time_back=int((both & (np.diff(transaction_time_us) < 0)).sum()),
            far_from_receipt=int((np.abs(event_time_us - receive_time_ns // 1000) > FAR_FROM_RECEIPT_US).sum()),
        )

    def _tick(self) -> tuple[str | None, int]:
        """Return the tick of nearly all prices, and how many are not multiples of it."""
        total = int(self._zeros.sum())
        if total == 0:
            return None, 0
        below = np.r_[0, np.cumsum(self._zeros)[:-1]]  # prices with fewer than k zeros at the end
        zeros = int(np.flatnonzero(below * TICK_SHARE < total)[-1])
        exponent = self._exponent + zeros
        return (str(10**exponent) if exponent >= 0 else plain_text(1, exponent)), int(below[zeros])
