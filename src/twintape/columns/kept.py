"""Levels kept at first sight: who checks a body looks at every digit of it, and need not come back to decode it.

The survey writes the levels of each body it has not met before as machine words, one behind the other; a header says where its own begin. Of an event that
several lines heard they are written once. What is read back from there is rendered and compared with the raw lines like everything else.

A record is a word that says how many bids and asks there are and how they are stored, then the levels in the order of the text: one word each, the price's
mantissa in the lower half and the quantity's in the upper one, or, where a number of the event needs more than 31 bits, a word for each of the two.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from twintape.columns.bodies import NO_BODIES, new_bodies
from twintape.columns.kernel import POWERS_OF_TEN, Int64s, Words, inlined, kernel

__all__ = [
    "AT",
    "CURSOR",
    "HIGH",
    "LEVEL_BYTES_MIN",
    "NO_MEMORY",
    "PRICE_KEEP",
    "QUANTITY_KEEP",
    "STATE_WORDS",
    "TEXT_BYTES_PER_WORD_MIN",
    "WIDE",
    "WORD_BYTES",
    "Memory",
    "finish_record",
    "is_too_small",
    "put_level",
    "unpack_levels",
]

PLACES_MAX = 2**31 - 1
"""Of so many words (16 GiB) a header can say where its levels are; what comes behind is decoded from the text."""
WORD_BYTES = 8
TEXT_BYTES_PER_WORD_MIN = 4
"""A level of two words takes nine bytes of text at least, and the record's first word stands for a whole line."""
LEVEL_BYTES_MIN = len('["0","0"],')
_COUNT_BITS = 24
_COUNT_MASK = (1 << _COUNT_BITS) - 1
_INT64_MAX = 2**63 - 1
_LOWER_HALF = (1 << 32) - 1

STATE_WORDS = 7
CURSOR, BASE, PRICE_KEEP, QUANTITY_KEEP, WIDE, AT, HIGH = range(STATE_WORDS)
"""The state of writing: words written; words taken before those; decimals that mantissas have; whether levels have two words; and of the record under way
where its next level goes, and all its numbers' bits."""


class Memory:
    """What one process knows of the bodies of one share of a day: which were checked, and where their levels are.

    Attributes:
        bodies: See `bodies.new_bodies`.
        words: What has been written since the last `take`; room for more behind it.
        state: How far.
        price: Room for the levels of one event.
        quantity: Likewise.
    """

    def __init__(self, *, remembers: bool = True) -> None:
        self.bodies: Words = new_bodies() if remembers else NO_BODIES
        self.words: Int64s = np.empty(0, np.int64)
        self.state: Int64s = np.zeros(STATE_WORDS, np.int64)
        self.price: Int64s = np.empty(0, np.int64)
        self.quantity: Int64s = np.empty(0, np.int64)

    def reserve(self, text_bytes: int) -> None:
        """Make room for the levels of a text, whose numbers may need as few decimals and bits as they like."""
        written = int(self.state[CURSOR])
        needed = written + text_bytes // TEXT_BYTES_PER_WORD_MIN + 1
        if len(self.words) < needed:
            self.words = np.concatenate([self.words[:written], np.empty(needed - written, np.int64)])
        most = text_bytes // (LEVEL_BYTES_MIN - 1) + 1
        if len(self.price) < most:
            self.price, self.quantity = np.empty(most, np.int64), np.empty(most, np.int64)
        self.state[[PRICE_KEEP, QUANTITY_KEEP, WIDE]] = 0

    @property
    def arrays(self) -> tuple[Words, Int64s, Int64s, Int64s, Int64s]:
        """What `match.scan_lines` wants of it."""
        return self.bodies, self.words, self.state, self.price, self.quantity

    def take(self) -> tuple[int, bytes]:
        """Return what was written since the last time, and how many words were before it."""
        base, written = int(self.state[BASE]), int(self.state[CURSOR])
        self.state[BASE], self.state[CURSOR] = base + written, 0
        return base, self.words[:written].tobytes()


NO_MEMORY = Memory(remembers=False)
"""Keeps nothing, as long as no room is made."""


@inlined
def put_level(words: Int64s, at: int, price: int, quantity: int, wide: Any) -> int:
    """Write one level; returns where the next one goes."""
    if wide:
        words[at] = price
        words[at + 1] = quantity
        return at + 2
    words[at] = price | (quantity << 32)
    return at + 1


@inlined
def is_too_small(state: Int64s, price_decimals: int, quantity_decimals: int) -> bool:
    """Whether the record under way must be written anew, for its numbers need more decimals or bits; `state` says how from then on."""
    small = False
    if price_decimals > state[PRICE_KEEP]:
        state[PRICE_KEEP] = price_decimals
        small = True
    if quantity_decimals > state[QUANTITY_KEEP]:
        state[QUANTITY_KEEP] = quantity_decimals
        small = True
    if state[WIDE] == 0 and state[HIGH] >> 31:
        state[WIDE] = 1
        small = True
    return small


@inlined
def finish_record(
    words: Int64s, state: Int64s, price_decimals: int, quantity_decimals: int, bids: int, asks: int, asks_first: Any
) -> Any:
    """Write the record's first word; returns where the record is among all that is kept, or -1 if a header cannot say so."""
    begin = state[CURSOR]
    form = price_decimals | (quantity_decimals << 4) | (state[WIDE] << 8) | (np.int64(asks_first) << 9)
    words[begin] = bids | (asks << _COUNT_BITS) | (form << (2 * _COUNT_BITS))
    place = state[BASE] + begin
    state[CURSOR] = state[AT]
    return place if place <= PLACES_MAX else np.int64(-1)


@kernel
def unpack_levels(
    words: Int64s,
    places: Int64s,
    price_decimals: int,
    quantity_decimals: int,
    bid_offsets: Int64s,
    bid_price: Int64s,
    bid_quantity: Int64s,
    ask_offsets: Int64s,
    ask_price: Int64s,
    ask_quantity: Int64s,
) -> int:
    """Read records until the end or one that cannot be; returns its row.

    Args:
        words: What was kept, or a part of it.
        places: Where in `words` the records begin.
        price_decimals: Decimals that the mantissas are to have.
        quantity_decimals: Likewise.
        bid_offsets: In and out: `bid_offsets[row]` says where in `bid_price` the bids of `row` begin.
        bid_price: Out.
        bid_quantity: Out.
        ask_offsets: In and out.
        ask_price: Out.
        ask_quantity: Out.
    """
    for row in range(places.size):
        at = places[row]
        if at < 0 or at >= words.size:
            return row
        bids, asks = words[at] & _COUNT_MASK, (words[at] >> _COUNT_BITS) & _COUNT_MASK
        form = words[at] >> (2 * _COUNT_BITS)
        wide = (form >> 8) & 1
        at += 1
        if (
            at + (bids + asks) * (1 + wide) > words.size
            or bid_offsets[row] + bids > bid_price.size
            or ask_offsets[row] + asks > ask_price.size
        ):
            return row
        price_shift, quantity_shift = price_decimals - (form & 15), quantity_decimals - ((form >> 4) & 15)
        asks_at = at if form >> 9 else at + bids * (1 + wide)
        bids_at = at + asks * (1 + wide) if form >> 9 else at
        if not _unpack(words, bids_at, bids, wide, price_shift, quantity_shift, bid_price, bid_quantity, bid_offsets[row]):
            return row
        if not _unpack(words, asks_at, asks, wide, price_shift, quantity_shift, ask_price, ask_quantity, ask_offsets[row]):
            return row
        bid_offsets[row + 1] = bid_offsets[row] + bids
        ask_offsets[row + 1] = ask_offsets[row] + asks
    return places.size


@kernel
def _unpack(
    words: Int64s,
    at: int,
    count: int,
    wide: int,
    price_shift: int,
    quantity_shift: int,
    price: Int64s,
    quantity: Int64s,
    cursor: int,
) -> bool:
    # Levels to mantissas that have so many decimals more (or fewer); whether all of them exist.
    if price_shift > 18 or quantity_shift > 18:
        return False
    price_factor, quantity_factor = POWERS_OF_TEN[max(price_shift, 0)], POWERS_OF_TEN[max(quantity_shift, 0)]
    price_max, quantity_max = _INT64_MAX // price_factor, _INT64_MAX // quantity_factor
    for level in range(count):
        if wide:
            one, two = words[at + 2 * level], words[at + 2 * level + 1]
        else:
            one, two = words[at + level] & _LOWER_HALF, words[at + level] >> 32
        if one > price_max or two > quantity_max:
            return False
        price[cursor + level] = one * price_factor
        quantity[cursor + level] = two * quantity_factor
    return _coarser(price, cursor, count, -price_shift) and _coarser(quantity, cursor, count, -quantity_shift)


@kernel
def _coarser(values: Int64s, begin: int, count: int, decimals: int) -> bool:
    # Takes decimals away; whether all of them were zeros.
    if decimals > 0:
        unit = POWERS_OF_TEN[decimals]
        for place in range(begin, begin + count):
            value = values[place] // unit
            if value * unit != values[place]:
                return False
            values[place] = value
    return True
