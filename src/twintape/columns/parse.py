r"""Texts of depth frames to columns: headers of all lines, then the levels of those that were chosen.

Lines that match a template go through the compiled matcher (`columns.match`); shapes never seen before are discovered
(`columns.templates`), and frames that no template can describe are decoded by `core.wire.decode_depth`, the oracle.

Input is text as segments hold it: lines `<receive_time_ns> <frame>\n` of one depth stream.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray

from twintape.columns.kernel import DIGITS_MAX, Int8s, Int16s, Int32s, Int64s, Words, hash_ranges
from twintape.columns.match import decode_levels, receive_time, scan_lines
from twintape.columns.templates import TEMPLATES_MAX, TemplateSet, discover
from twintape.core import wire
from twintape.core.errors import CorruptionError, WireError
from twintape.core.markets import Market

__all__ = [
    "SLOW",
    "TEMPLATES_MAX",
    "UNDECODABLE",
    "Headers",
    "Levels",
    "TemplateSet",
    "discover",
    "exponents",
    "frame_of",
    "levels",
    "scan",
]

SLOW = -1
"""Template code of a frame only `wire.decode_depth` understands."""
UNDECODABLE = -2
"""Template code of a frame that is no depth frame, or an impossible one."""

_INT64_MAX = 2**63 - 1
_LEVEL_BYTES_MIN = len('["0","0"],')


@dataclass(slots=True)
class Headers:
    """What the lines of a text say besides their levels; one element a line, in the order of lines.

    Attributes:
        receive_time_ns: Nanoseconds since 1970.
        event_time_us: `E`, microseconds since 1970; -1 for undecodable lines, like all ids and times but the receive time.
        transaction_time_us: `T`, microseconds since 1970; -1 where there is none.
        prev: The event covers the ids `(prev, final]`.
        first: `U`.
        final: `u`.
        offset: Where the line starts in the text.
        length: Bytes of the line without its newline.
        template: Code in the template set, or `SLOW`, or `UNDECODABLE`.
        bid_count: Levels of the bid side.
        ask_count: Levels of the ask side.
        price_decimals: The fewest decimals that represent all prices of the event exactly (not: that were printed).
        quantity_decimals: Likewise of its quantities.
        content_hash: uint64[n, 2]: two independent hashes of the text of both level arrays; 0, 0 for undecodable lines.
    """

    receive_time_ns: Int64s
    event_time_us: Int64s
    transaction_time_us: Int64s
    prev: Int64s
    first: Int64s
    final: Int64s
    offset: Int64s
    length: Int32s
    template: Int16s
    bid_count: Int32s
    ask_count: Int32s
    price_decimals: Int8s
    quantity_decimals: Int8s
    content_hash: Words

    def __len__(self) -> int:
        return len(self.offset)


@dataclass(slots=True)
class Levels:
    """The levels of some events: those of event i are `[bid_offsets[i], bid_offsets[i+1])`, in the exchange's order.

    Prices and quantities are int64 mantissas of the exponents that were asked for.
    """

    bid_offsets: Int64s
    bid_price: Int64s
    bid_quantity: Int64s
    ask_offsets: Int64s
    ask_price: Int64s
    ask_quantity: Int64s

    def __len__(self) -> int:
        return len(self.bid_offsets) - 1

    @classmethod
    def joined(cls, parts: Sequence[Levels]) -> Levels:
        """Return the levels of one list of events after another."""

        def offsets(of: list[Int64s]) -> Int64s:
            return np.cumsum(np.concatenate([np.zeros(1, np.int64), *(np.diff(one) for one in of)]))

        def values(of: list[Int64s]) -> Int64s:
            return np.concatenate([np.zeros(0, np.int64), *of])

        return cls(
            offsets([part.bid_offsets for part in parts]),
            values([part.bid_price for part in parts]),
            values([part.bid_quantity for part in parts]),
            offsets([part.ask_offsets for part in parts]),
            values([part.ask_price for part in parts]),
            values([part.ask_quantity for part in parts]),
        )

    def take(self, rows: Int64s) -> Levels:
        """Return the levels of some events, in this order and as often as they are named."""
        bid_offsets, bids = _gather(self.bid_offsets, rows)
        ask_offsets, asks = _gather(self.ask_offsets, rows)
        return Levels(
            bid_offsets, self.bid_price[bids], self.bid_quantity[bids], ask_offsets, self.ask_price[asks], self.ask_quantity[asks]
        )


def _gather(offsets: Int64s, rows: Int64s) -> tuple[Int64s, Int64s]:
    # New offsets, and where the elements of the rows are.
    counts = offsets[rows + 1] - offsets[rows]
    fresh = np.zeros(len(rows) + 1, np.int64)
    np.cumsum(counts, out=fresh[1:])
    return fresh, np.repeat(offsets[rows] - fresh[:-1], counts) + np.arange(fresh[-1])


def frame_of(text: bytes, offset: int, length: int) -> bytes:
    r"""Return the frame of the line at `offset`, without its receive time.

    >>> frame_of(b"17 {}\\n", 0, 5)
    b'{}'
    """
    return text[text.index(b" ", offset, offset + length) + 1 : offset + length]


def scan(text: bytes, market: Market, templates: TemplateSet) -> Headers:
    """Return the header of every line of `text`; new templates are added to `templates`.

    Raises:
        CorruptionError: The text is not whole lines that start with a receive time.
    """
    if text and not text.endswith(b"\n"):
        raise CorruptionError("the text does not end with a newline")
    count = text.count(b"\n")
    buffer = np.frombuffer(text, np.uint8)
    ids = np.empty((7, count), np.int64)
    counts = np.empty((3, count), np.int32)
    template = np.empty(count, np.int16)
    decimals = np.empty((2, count), np.int8)
    hashes = np.empty((count, 2), np.uint64)
    row = position = code = 0
    while True:
        tables = templates.tables
        row, position, code = scan_lines(
            buffer, position, row, code, market is Market.SPOT, *tables, ids, counts, template, decimals, hashes
        )
        if row == count:
            break
        end = text.index(b"\n", position)
        received, start = receive_time(buffer, position)
        if start < 0:
            raise CorruptionError(
                f"line {row} of the text does not start with a receive time: {text[position : min(end, position + 40)]!r}"
            )
        frame = text[start:end]
        known = len(templates)
        found = discover(frame, market)
        if found is not None and templates.add(found) == known:
            code = known
            continue
        _slow_header(frame, market, row, ids, counts, template, decimals, hashes)
        ids[0, row] = received
        ids[6, row] = position
        counts[0, row] = end - position
        row += 1
        position = end + 1
    return Headers(
        ids[0],
        ids[1],
        ids[2],
        ids[3],
        ids[4],
        ids[5],
        ids[6],
        counts[0],
        template,
        counts[1],
        counts[2],
        decimals[0],
        decimals[1],
        hashes,
    )


def _slow_header(
    frame: bytes, market: Market, row: int, ids: Int64s, counts: Int32s, template: Int16s, decimals: Int8s, hashes: Words
) -> None:
    # Fills everything of a line but its place and receive time.
    try:
        event = wire.decode_depth(frame, market)
    except WireError:
        ids[:, row] = -1
        counts[:, row] = 0
        template[row] = UNDECODABLE
        decimals[:, row] = 0
        hashes[row] = 0
        return
    transaction_time = -1 if event.transaction_time_us is None else event.transaction_time_us
    ids[1:6, row] = event.event_time_us, transaction_time, event.prev_update_id, event.first_update_id, event.final_update_id
    counts[1:, row] = len(event.bids), len(event.asks)
    template[row] = SLOW
    for position in (0, 1):
        decimals[position, row] = max((_decimals(level[position]) for level in (*event.bids, *event.asks)), default=0)
    sides = _decode_sides(wire.unwrap(frame))
    bids, asks = bytes(sides.b), bytes(sides.a)
    hashes[row] = hash_ranges(np.frombuffer(bids + asks, np.uint8), 0, len(bids), len(bids), len(bids) + len(asks))


class _Sides(msgspec.Struct):
    b: msgspec.Raw
    a: msgspec.Raw


_decode_sides = msgspec.json.Decoder(_Sides).decode


def levels(
    text: bytes,
    offsets: NDArray[np.int64],
    lengths: NDArray[np.int32],
    codes: NDArray[np.int16],
    templates: TemplateSet,
    *,
    market: Market,
    price_exponent: int,
    quantity_exponent: int,
) -> Levels:
    """Return the levels of chosen lines of a text that `scan` has seen, in the order given.

    Args:
        text: The text `scan` was given.
        offsets: Where the chosen lines start (`Headers.offset`).
        lengths: Their lengths (`Headers.length`).
        codes: Their templates (`Headers.template`), none `UNDECODABLE`.
        templates: The set `scan` was given.
        market: The stream's market.
        price_exponent: Power of ten of the price mantissas, -18 to 0; `exponents` says which is fine enough.
        quantity_exponent: Likewise of the quantities.

    Raises:
        WireError: A value is not a whole int64 mantissa at the exponents, or a line is not what `scan` said; names the line.
    """
    count = len(offsets)
    buffer = np.frombuffer(text, np.uint8)
    capacity = int(lengths.sum(dtype=np.int64)) // _LEVEL_BYTES_MIN + 1
    # The capacity is an upper bound; pages that are never touched cost nothing.
    bid_price, bid_quantity, ask_price, ask_quantity = (np.empty(capacity, np.int64) for _ in range(4))
    bid_offsets, ask_offsets = np.zeros(count + 1, np.int64), np.zeros(count + 1, np.int64)
    offsets, codes = np.ascontiguousarray(offsets, np.int64), np.ascontiguousarray(codes, np.int16)
    limits = _limits(templates, price_exponent, quantity_exponent)
    row = 0
    while True:
        row = decode_levels(
            buffer, row, offsets, codes, *templates.tables, limits, bid_offsets, bid_price, bid_quantity, ask_offsets, ask_price, ask_quantity,
        )  # fmt: skip
        if row == count:
            break
        event = wire.decode_depth(frame_of(text, int(offsets[row]), int(lengths[row])), market)
        where = f"line at byte {offsets[row]}, ids ({event.prev_update_id}, {event.final_update_id}]"
        for side, start, price, quantity in (
            (event.bids, bid_offsets, bid_price, bid_quantity),
            (event.asks, ask_offsets, ask_price, ask_quantity),
        ):
            at = int(start[row])
            start[row + 1] = at + len(side)
            for index, level in enumerate(side, at):
                price[index] = _mantissa(level[0], price_exponent, where)
                quantity[index] = _mantissa(level[1], quantity_exponent, where)
        row += 1
    bids, asks = int(bid_offsets[-1]), int(ask_offsets[-1])
    return Levels(bid_offsets, bid_price[:bids], bid_quantity[:bids], ask_offsets, ask_price[:asks], ask_quantity[:asks])


def _limits(templates: TemplateSet, price_exponent: int, quantity_exponent: int) -> Int64s:
    # Per template, for prices and for quantities: how many of its decimals are kept, the factor that takes the mantissa to the
    # exponent, and the greatest mantissa it may be applied to.
    rows = []
    for template in templates:
        row = []
        for decimals, exponent in ((template.price_decimals, price_exponent), (template.quantity_decimals, quantity_exponent)):
            keep = min(decimals, -exponent)
            factor = 10 ** (-exponent - keep)
            row += [keep, factor, _INT64_MAX // factor]
        rows.append(row)
    return np.array(rows, np.int64).reshape(-1, 6)


def _mantissa(number: str, exponent: int, where: str) -> int:
    whole, _, fraction = number.partition(".")
    fraction = fraction.rstrip("0")
    digits_behind = -exponent
    # Without its trailing zeros, a fraction longer than the exponent allows leaves a rest.
    value = int(whole + fraction.ljust(digits_behind, "0"))
    if len(fraction) > digits_behind or value > _INT64_MAX:
        raise WireError(f"{number} is no int64 mantissa at exponent {exponent}: {where}")
    return value


def exponents(price_decimals: NDArray[np.int8], quantity_decimals: NDArray[np.int8]) -> tuple[int, int]:
    """Return the coarsest price and quantity exponents that represent all of some events exactly; between -18 and 0.

    (An event with more than 18 decimals has no int64 mantissas; `levels` refuses it.)

    >>> exponents(np.array([2, 1], np.int8), np.array([], np.int8))
    (-2, 0)
    """
    price, quantity = int(price_decimals.max(initial=0)), int(quantity_decimals.max(initial=0))
    return -min(price, DIGITS_MAX), -min(quantity, DIGITS_MAX)


def _decimals(number: str) -> int:
    return len(number.partition(".")[2].rstrip("0"))
