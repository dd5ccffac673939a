"""The order book: exact, over int64 mantissas, with the best prices after each event.

Both sides are ladders: a dense array of quantities, one slot a tick between the lowest and the highest price seen, so that a level
is one memory access. Slots never written are memory never touched. Three layers of bits say which slots are occupied, and find the
next best price in a few steps when the best one is removed. The ladder is laid anew, longer or finer, when a price demands it; a
price too far from all others for a ladder of `LADDER_TICKS_MAX` lives in an ordinary dict, exactly but slowly.
"""

from __future__ import annotations

import hashlib
import mmap
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from twintape.columns.kernel import Int64s, Words, first_bit, inlined, kernel, zeros_above
from twintape.columns.parse import Levels

__all__ = [
    "NO_ASK",
    "NO_BID",
    "Book",
    "Top",
    "book_sha256",
    "book_text",
    "plain_text",
]

NO_BID = -1
"""Best bid of a book without bids."""
NO_ASK = 2**63 - 1
"""Best ask of a book without asks; below it is every price."""
LADDER_TICKS_MIN = 1 << 18
LADDER_TICKS_MAX = 1 << 26
"""Longest ladder: 512 MiB of address space a side, of which only the pages that are touched become memory."""

# Memory of this process alone, also after a fork, in small pages: where the system knows such things.
_PRIVATE = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if hasattr(mmap, "MAP_PRIVATE") else {}
_NO_HUGE_PAGES: int | None = getattr(mmap, "MADV_NOHUGEPAGE", None)

# Positions in a book's state array, which the kernel reads and writes: the event and the level of each side it is at, best slots.
_ROW, _BID_AT, _ASK_AT, _BEST_BID, _BEST_ASK, _CROSSED = range(6)
_DONE, _BID_STRANGE, _ASK_STRANGE = range(3)


@dataclass(slots=True)
class Top:
    """The best prices after each of some events with their quantities, as mantissas: `NO_BID`, `NO_ASK` and 0 where a side is empty.

    `crossed_count` says after how many events the best bid was not below the best ask.
    """

    best_bid: Int64s
    bid_quantity: Int64s
    best_ask: Int64s
    ask_quantity: Int64s
    crossed_count: int


# --- kernels ---------------------------------------------------------------------------------------------------------------
#
# `bits` holds three layers, one behind the other: a bit a slot, a bit a word of the first layer, a bit a word of the second. A ladder
# has at least 64^3 slots, so that each layer has whole words; one more word at the end is always zero.


@kernel
def _below(bits: Words, ticks: int, slot: int) -> int:
    # The highest occupied slot below `slot` (at most `ticks`), or -1.
    one = np.uint64(1)
    second = ticks >> 6
    third = second + (ticks >> 12)
    position = slot >> 6
    word = bits[position] & ((one << np.uint64(slot & 63)) - one)
    if word == np.uint64(0):
        upper = position >> 6
        word = bits[second + upper] & ((one << np.uint64(position & 63)) - one)
        if word == np.uint64(0):
            block = upper >> 6
            word = bits[third + block] & ((one << np.uint64(upper & 63)) - one)
            while word == np.uint64(0):
                block -= 1
                if block < 0:
                    return -1
                word = bits[third + block]
            upper = (block << 6) + 63 - zeros_above(word)
            word = bits[second + upper]
        position = (upper << 6) + 63 - zeros_above(word)
        word = bits[position]
    return (position << 6) + 63 - zeros_above(word)


@kernel
def _above(bits: Words, ticks: int, slot: int) -> int:
    # The lowest occupied slot at or above `slot`, or `ticks`.
    one = np.uint64(1)
    second = ticks >> 6
    third = second + (ticks >> 12)
    if slot >= ticks:
        return ticks
    position = slot >> 6
    word = bits[position] & ~((one << np.uint64(slot & 63)) - one)
    if word == np.uint64(0):
        upper = position >> 6
        word = bits[second + upper] & ~(((one << np.uint64(position & 63)) << one) - one)
        if word == np.uint64(0):
            block = upper >> 6
            word = bits[third + block] & ~(((one << np.uint64(upper & 63)) << one) - one)
            while word == np.uint64(0):
                block += 1
                if block >= ticks >> 18:
                    return ticks
                word = bits[third + block]
            upper = (block << 6) + first_bit(word)
            word = bits[second + upper]
        position = (upper << 6) + first_bit(word)
        word = bits[position]
    return (position << 6) + first_bit(word)


@inlined
def _put(quantities: Int64s, bits: Words, ticks: int, slot: int, quantity: int) -> None:
    one = np.uint64(1)
    before = quantities[slot]
    quantities[slot] = quantity
    if (before == 0) == (quantity == 0):
        return
    position = slot >> 6
    second = (ticks >> 6) + (position >> 6)
    third = (ticks >> 6) + (ticks >> 12) + (slot >> 18)
    if quantity:
        bits[position] |= one << np.uint64(slot & 63)
        bits[second] |= one << np.uint64(position & 63)
        bits[third] |= one << np.uint64((position >> 6) & 63)
        return
    bits[position] &= ~(one << np.uint64(slot & 63))
    if bits[position] == np.uint64(0):
        bits[second] &= ~(one << np.uint64(position & 63))
        if bits[second] == np.uint64(0):
            bits[third] &= ~(one << np.uint64((position >> 6) & 63))


@inlined
def _slot(price: int, base: int, tick: int, ticks: int) -> int:
    # The price's slot, or -1 if the ladder has none for it.
    slot = price - base
    if slot < 0:
        return -1
    if tick != 1:
        offset = slot
        slot = offset // tick
        if slot * tick != offset:
            return -1
    return slot if slot < ticks else -1


@kernel
def _apply(
    state: Int64s,
    stop: int,
    base: int,
    tick: int,
    far_bid: int,
    far_bid_quantity: int,
    far_ask: int,
    far_ask_quantity: int,
    bid_offsets: Int64s,
    bid_price: Int64s,
    bid_quantity: Int64s,
    ask_offsets: Int64s,
    ask_price: Int64s,
    ask_quantity: Int64s,
    bids: Int64s,
    bid_bits: Words,
    asks: Int64s,
    ask_bits: Words,
    best_bids: Int64s,
    bid_amounts: Int64s,
    best_asks: Int64s,
    ask_amounts: Int64s,
) -> int:
    # Applies events from where `state` is up to `stop`, or to a level whose price the ladder does not know.
    ticks = bids.size
    row, bid_at, ask_at, best_bid, best_ask, crossed = state
    first = stop - best_bids.size
    strange = 0
    while row < stop:
        while bid_at < bid_offsets[row + 1]:
            slot = _slot(bid_price[bid_at], base, tick, ticks)
            if slot < 0:
                strange = 1
                break
            quantity = bid_quantity[bid_at]
            _put(bids, bid_bits, ticks, slot, quantity)
            if quantity:
                best_bid = max(best_bid, slot)
            elif slot == best_bid:
                best_bid = _below(bid_bits, ticks, slot)
            bid_at += 1
        while strange == 0 and ask_at < ask_offsets[row + 1]:
            slot = _slot(ask_price[ask_at], base, tick, ticks)
            if slot < 0:
                strange = 2
                break
            quantity = ask_quantity[ask_at]
            _put(asks, ask_bits, ticks, slot, quantity)
            if quantity:
                best_ask = min(best_ask, slot)
            elif slot == best_ask:
                best_ask = _above(ask_bits, ticks, slot)
            ask_at += 1
        if strange:
            break
        bid, amount = far_bid, far_bid_quantity
        if best_bid >= 0 and base + best_bid * tick > far_bid:
            bid, amount = base + best_bid * tick, bids[best_bid]
        best_bids[row - first] = bid
        bid_amounts[row - first] = amount
        ask, amount = far_ask, far_ask_quantity
        if best_ask < ticks and base + best_ask * tick < far_ask:
            ask, amount = base + best_ask * tick, asks[best_ask]
        best_asks[row - first] = ask
        ask_amounts[row - first] = amount
        if bid >= ask:
            crossed += 1
        row += 1
    state[0], state[1], state[2], state[3], state[4], state[5] = row, bid_at, ask_at, best_bid, best_ask, crossed
    return strange


@kernel
def _place(prices: Int64s, amounts: Int64s, base: int, tick: int, quantities: Int64s, bits: Words) -> None:
    for index in range(prices.size):
        _put(quantities, bits, quantities.size, _slot(prices[index], base, tick, quantities.size), amounts[index])


@kernel
def _walk(bits: Words, ticks: int, slot: int, descending: bool, slots: Int64s) -> int:
    # Fills `slots` with occupied slots, from the best one on; returns how many there were.
    count = 0
    while count < slots.size and 0 <= slot < ticks:
        slots[count] = slot
        count += 1
        slot = _below(bits, ticks, slot) if descending else _above(bits, ticks, slot + 1)
    return count


@kernel
def _occupied(bits: Words, ticks: int) -> int:
    total = 0
    third = (ticks >> 6) + (ticks >> 12)
    second = ticks >> 6
    one = np.uint64(1)
    for block in range(ticks >> 18):
        outer = bits[third + block]
        while outer:
            upper = (block << 6) + first_bit(outer)
            outer &= outer - one
            inner = bits[second + upper]
            while inner:
                word = bits[(upper << 6) + first_bit(inner)]
                inner &= inner - one
                while word:
                    total += 1
                    word &= word - one
    return total


# --- the book --------------------------------------------------------------------------------------------------------------


def _sparse_zeros(count: int) -> Int64s:
    # Zeros that cost memory only where they are written. numpy would ask for huge pages, and one far level would cost 2 MiB.
    memory = mmap.mmap(-1, 8 * count, **_PRIVATE)
    if _NO_HUGE_PAGES is not None:
        memory.madvise(_NO_HUGE_PAGES)
    return np.frombuffer(memory, np.int64)


class _Side:
    """One side: the ladder's quantities and bits, and the levels too far away for it."""

    def __init__(self, ticks: int) -> None:
        self.quantities = _sparse_zeros(ticks)
        self.bits: Words = np.zeros((ticks >> 6) + (ticks >> 12) + (ticks >> 18) + 1, np.uint64)
        self.far: dict[int, int] = {}


class Book:
    """An order book of int64 mantissas.

    Args:
        price_exponent: Power of ten of its prices.
        quantity_exponent: Power of ten of its quantities.
    """

    def __init__(self, price_exponent: int, quantity_exponent: int) -> None:
        self.price_exponent = price_exponent
        self.quantity_exponent = quantity_exponent
        self._base = 0
        self._tick = 1
        self._bids = _Side(LADDER_TICKS_MIN)
        self._asks = _Side(LADDER_TICKS_MIN)
        self._state: Int64s = np.zeros(6, np.int64)
        self._state[_BEST_BID], self._state[_BEST_ASK] = -1, LADDER_TICKS_MIN
        self._far_at_rebuild = 0
        self._far_added = 0

    def __len__(self) -> int:
        """Return how many levels the book has, both sides together."""
        return sum(_occupied(side.bits, side.quantities.size) + len(side.far) for side in (self._bids, self._asks))

    def load(self, bid_price: Int64s, bid_quantity: Int64s, ask_price: Int64s, ask_quantity: Int64s) -> None:
        """Replace the whole content; levels in any order, each price once a side, no quantity 0 needed."""
        self._lay((bid_price, bid_quantity), (ask_price, ask_quantity))

    def apply(self, levels: Levels, start: int = 0, stop: int | None = None) -> Top:
        """Apply the events `[start, stop)` in order and return the best prices after each.

        Quantity 0 removes a level; removing an unknown one is normal. The sides are independent.
        """
        stop = len(levels) if stop is None else stop
        best_bid, bid_quantity, best_ask, ask_quantity = (np.empty(stop - start, np.int64) for _ in range(4))
        state = self._state
        state[_ROW], state[_BID_AT], state[_ASK_AT], state[_CROSSED] = (
            start,
            levels.bid_offsets[start],
            levels.ask_offsets[start],
            0,
        )
        while True:
            far_bid, far_ask = max(self._bids.far, default=NO_BID), min(self._asks.far, default=NO_ASK)
            strange = _apply(
                state, stop, self._base, self._tick, far_bid, self._bids.far.get(far_bid, 0), far_ask, self._asks.far.get(far_ask, 0),
                levels.bid_offsets, levels.bid_price, levels.bid_quantity, levels.ask_offsets, levels.ask_price, levels.ask_quantity,
                self._bids.quantities, self._bids.bits, self._asks.quantities, self._asks.bits,
                best_bid, bid_quantity, best_ask, ask_quantity,
            )  # fmt: skip
            if strange == _DONE:
                return Top(best_bid, bid_quantity, best_ask, ask_quantity, int(state[_CROSSED]))
            if strange == _BID_STRANGE:
                at = int(state[_BID_AT])
                self._put_far(self._bids, int(levels.bid_price[at]), int(levels.bid_quantity[at]))
                state[_BID_AT] += 1
            else:
                at = int(state[_ASK_AT])
                self._put_far(self._asks, int(levels.ask_price[at]), int(levels.ask_quantity[at]))
                state[_ASK_AT] += 1

    def _put_far(self, side: _Side, price: int, quantity: int) -> None:
        # Sets a level outside the ladder, and lays a new ladder when the levels outside have doubled since the last time.
        if quantity == 0:
            side.far.pop(price, None)
            return
        self._far_added += price not in side.far
        side.far[price] = quantity
        if self._far_added > self._far_at_rebuild:
            self._lay(self._side(self._bids, descending=True), self._side(self._asks, descending=False))

    def _lay(self, bids: tuple[Int64s, Int64s], asks: tuple[Int64s, Int64s]) -> None:
        # Lays the ladder around the median of all prices, as long as they need and may have, and fills both sides.
        prices = np.concatenate([bids[0], asks[0]])
        if len(prices) == 0:
            prices = np.zeros(1, np.int64)
        tick = int(np.gcd.reduce(prices)) or 1
        middle = int(np.partition(prices, len(prices) // 2)[len(prices) // 2])
        near = prices[np.abs(prices - middle) // tick < LADDER_TICKS_MAX // 2]
        low, high = int(near.min()), int(near.max())
        span = (high - low) // tick + 1
        ticks = min(LADDER_TICKS_MAX, max(LADDER_TICKS_MIN, 1 << (2 * span - 1).bit_length()))
        self._tick = tick
        self._base = max(0, low - (ticks - span) // 2 * tick)
        self._bids, self._asks = self._fill(ticks, *bids), self._fill(ticks, *asks)
        self._state[_BEST_BID] = _below(self._bids.bits, ticks, ticks)
        self._state[_BEST_ASK] = _above(self._asks.bits, ticks, 0)
        self._far_at_rebuild = len(self._bids.far) + len(self._asks.far)
        self._far_added = 0

    def _fill(self, ticks: int, prices: Int64s, quantities: Int64s) -> _Side:
        side = _Side(ticks)
        fits = (prices >= self._base) & ((prices - self._base) // self._tick < ticks)
        _place(prices[fits], quantities[fits], self._base, self._tick, side.quantities, side.bits)
        side.far = {p: q for p, q in zip(prices[~fits].tolist(), quantities[~fits].tolist(), strict=True) if q}
        return side

    def _side(self, side: _Side, depth: int | None = None, *, descending: bool) -> tuple[Int64s, Int64s]:
        # Prices and quantities, best first.
        ticks = side.quantities.size
        count = _occupied(side.bits, ticks) if depth is None else depth
        slots = np.empty(count, np.int64)
        best = self._state[_BEST_BID if descending else _BEST_ASK]
        slots = slots[: _walk(side.bits, ticks, int(best), descending, slots)]
        prices, quantities = self._base + slots * self._tick, side.quantities[slots]
        if side.far:
            far = np.array(sorted(side.far.items()), np.int64)
            prices, quantities = np.concatenate([prices, far[:, 0]]), np.concatenate([quantities, far[:, 1]])
            order = np.argsort(-prices if descending else prices)[:depth]
            prices, quantities = prices[order], quantities[order]
        return prices, quantities

    def levels(self, depth: int | None = None) -> tuple[Int64s, Int64s, Int64s, Int64s]:
        """Return bid prices, bid quantities, ask prices, ask quantities, best first, at most `depth` levels a side."""
        return (*self._side(self._bids, depth, descending=True), *self._side(self._asks, depth, descending=False))

    def copy(self) -> Book:
        """Return an independent book with the same levels."""
        book = Book(self.price_exponent, self.quantity_exponent)
        book.load(*self.levels())
        return book


# --- proof -----------------------------------------------------------------------------------------------------------------


def plain_text(mantissa: int, exponent: int) -> str:
    """Return `mantissa * 10**exponent` as a plain decimal without trailing zeros.

    >>> plain_text(150, -2), plain_text(5, -3), plain_text(70, 0)
    ('1.5', '0.005', '70')
    """
    digits_behind = -exponent
    text = str(mantissa).rjust(digits_behind + 1, "0")
    if digits_behind == 0:
        return text
    return f"{text[:-digits_behind]}.{text[-digits_behind:]}".rstrip("0").rstrip(".")


def book_text(book: Book) -> str:
    """Return the book as lines `b <price> <quantity>` from the best bid down, then `a …` from the best ask up.

    Numbers are plain decimals without trailing zeros, so that the text does not depend on the exponents.
    """
    bid_price, bid_quantity, ask_price, ask_quantity = (side.tolist() for side in book.levels())

    def lines(name: str, prices: list[int], quantities: list[int]) -> Iterator[str]:
        for price, quantity in zip(prices, quantities, strict=True):
            yield f"{name} {plain_text(price, book.price_exponent)} {plain_text(quantity, book.quantity_exponent)}"

    return "\n".join([*lines("b", bid_price, bid_quantity), *lines("a", ask_price, ask_quantity)])


def book_sha256(book: Book) -> str:
    """Return the SHA-256 of `book_text`.

    >>> book_sha256(Book(-2, -2))[:8]
    'e3b0c442'
    """
    return hashlib.sha256(book_text(book).encode()).hexdigest()
