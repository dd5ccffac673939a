r"""Texts of depth frames to columns: headers of all lines, then the levels of those that were chosen.

Lines that match a template go through the compiled matcher (`columns.match`); shapes never seen before are discovered
(`columns.templates`), and frames that no template can describe are decoded by `core.wire.decode_depth`, the oracle.

Input is text as segments hold it: lines `<receive_time_ns> <frame>\n` of one depth stream.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from twintape.columns.kept import LEVEL_BYTES_MIN, NO_MEMORY, Memory, unpack_levels
from twintape.columns.kernel import DIGITS_MAX, Int64s, hash_line
from twintape.columns.match import decode_levels, receive_time, scan_lines
from twintape.columns.templates import TEMPLATES_MAX, TemplateSet, discover
from twintape.core import wire
from twintape.core.errors import CorruptionError, WireError
from twintape.core.markets import Market

__all__ = [
    "HEADER",
    "HEADER_WORDS",
    "SLOW",
    "TEMPLATES_MAX",
    "UNDECODABLE",
    "UNSEEDED",
    "Headers",
    "LevelDecoder",
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

UNSEEDED = (np.uint64(0), np.uint64(0))
"""The seed of digests that are compared only with each other."""

_INT64_MAX = 2**63 - 1
TEXT_BYTES_MAX = 2**31 - 1
"""Texts are blocks, or pieces of what was published; a header can say where a line of no longer one begins."""


HEADER = np.dtype(
    [
        ("receive_time_ns", np.int64),
        ("event_time_us", np.int64),
        ("transaction_time_us", np.int64),
        ("prev", np.int64),
        ("first", np.int64),
        ("final", np.int64),
        ("body_a", np.uint64),
        ("body_b", np.uint64),
        ("digest_a", np.uint64),
        ("digest_b", np.uint64),
        ("offset", np.int32),
        ("place", np.int32),
        ("length", np.int32),
        ("template", np.int16),
        ("price_decimals", np.int8),
        ("quantity_decimals", np.int8),
    ]
)
"""What a line says besides its levels: 96 bytes.

* `receive_time_ns`: nanoseconds since 1970.
* `event_time_us`: `E`, microseconds since 1970; -1 for undecodable lines, like all ids and times but the receive time.
* `transaction_time_us`: `T`, microseconds since 1970; -1 where there is none.
* `prev`, `first`, `final`: the event covers the ids `(prev, final]`; `U`; `u`.
* `body_a`, `body_b`: hashes of the line's body, which holds both level arrays (see `kernel.hash_line`); 0 for undecodable lines.
* `digest_a`, `digest_b`: hashes of the whole line and of who heard it on which connection.
* `offset`: where the line starts in its text; `length` is without its newline.
* `place`: where the levels are among those that were kept at first sight (see `kept`), -1 if they were not.
* `template`: code in the template set, or `SLOW`, or `UNDECODABLE`.
* `price_decimals`, `quantity_decimals`: the fewest that represent all prices (quantities) of the event exactly, not those printed.
"""
HEADER_WORDS = HEADER.itemsize // 8


@dataclass(frozen=True, slots=True)
class Headers:
    """The headers of the lines of one text, in their order, and the templates their codes mean: `rows` has the type `HEADER`."""

    rows: NDArray[np.void]
    templates: TemplateSet

    def __len__(self) -> int:
        return len(self.rows)

    def __getattr__(self, name: str) -> NDArray[Any]:
        """Return a column; not a copy."""
        if name not in (HEADER.names or ()):
            raise AttributeError(name)
        return self.rows[name]


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


def scan(
    text: bytes,
    market: Market,
    templates: TemplateSet,
    *,
    seed: tuple[np.uint64, np.uint64] = UNSEEDED,
    count: int | None = None,
    memory: Memory = NO_MEMORY,
) -> Headers:
    """Return the header of every line of `text`; new templates are added to `templates`.

    Args:
        text: Lines, whole.
        market: The stream's market.
        templates: Shapes that are known.
        seed: What the lines' digests go on from (`kernel.hash_seed`).
        count: How many lines there are, if that is known.
        memory: What was checked before, and where levels are kept; changed. It makes no difference to the result but for `place`.

    Raises:
        CorruptionError: The text is not (so many) whole lines that start with a receive time, or over two gigabytes.
    """
    if text and not text.endswith(b"\n"):
        raise CorruptionError("the text does not end with a newline")
    if len(text) > TEXT_BYTES_MAX:
        raise CorruptionError(f"a text of {len(text)} bytes")
    count = text.count(b"\n") if count is None else count
    buffer = np.frombuffer(text, np.uint8)
    rows = np.empty(count, HEADER)
    words = rows.view(np.int64).reshape(count, HEADER_WORDS)
    if memory is not NO_MEMORY:
        memory.reserve(len(text))
    row = position = code = 0
    while True:
        tables = templates.tables
        row, position, code = scan_lines(
            buffer, position, row, code, market is Market.SPOT, seed[0], seed[1], *tables, *memory.arrays, words
        )
        if row == count:
            break
        end = text.find(b"\n", position)
        if end < 0:
            break
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
        rows[row] = _slow_header(frame, market, received, position, hash_line(buffer, position, end, *seed), end - position)
        row += 1
        position = end + 1
    if row != count or position != len(text):
        raise CorruptionError(f"the text has not the {count} lines it is said to have")
    return Headers(rows, templates)


def _slow_header(
    frame: bytes, market: Market, received: int, position: int, hashes: tuple[np.uint64, ...], length: int
) -> tuple[Any, ...]:
    digest_a, digest_b, body_a, body_b = hashes
    try:
        event = wire.decode_depth(frame, market)
    except WireError:
        return (received, -1, -1, -1, -1, -1, 0, 0, digest_a, digest_b, position, -1, length, UNDECODABLE, 0, 0)
    sides = (*event.bids, *event.asks)
    return (
        received,
        event.event_time_us,
        -1 if event.transaction_time_us is None else event.transaction_time_us,
        event.prev_update_id,
        event.first_update_id,
        event.final_update_id,
        body_a,
        body_b,
        digest_a,
        digest_b,
        position,
        -1,
        length,
        SLOW,
        max((_decimals(price) for price, _ in sides), default=0),
        max((_decimals(quantity) for _, quantity in sides), default=0),
    )


class LevelDecoder:
    """Decodes the levels of chosen lines of several texts into arrays that are kept and filled anew.

    Args:
        market: The stream's market.
        templates: What the codes mean.
        price_exponent: Power of ten of the price mantissas, -18 to 0; `exponents` says which is fine enough.
        quantity_exponent: Likewise of the quantities.
    """

    def __init__(self, market: Market, templates: TemplateSet, *, price_exponent: int, quantity_exponent: int) -> None:
        self._market = market
        self._templates = templates
        self._exponents = price_exponent, quantity_exponent
        self._limits = _limits(templates, price_exponent, quantity_exponent)
        self._values = tuple(np.empty(0, np.int64) for _ in range(4))
        self.begin(0, 0)

    def begin(self, count: int, size: int) -> None:
        """Begin with `count` lines that have `size` bytes together; the levels of those before are overwritten."""
        capacity = size // LEVEL_BYTES_MIN + 1
        if len(self._values[0]) < capacity:
            # The capacity is an upper bound; pages that are never touched cost nothing.
            self._values = tuple(np.empty(capacity, np.int64) for _ in range(4))
        self._bid_offsets, self._ask_offsets = np.zeros(count + 1, np.int64), np.zeros(count + 1, np.int64)
        self._row = 0

    def add(
        self, text: bytes, offsets: NDArray[np.signedinteger[Any]], lengths: NDArray[np.int32], codes: NDArray[np.int16]
    ) -> None:
        """Decode lines of a text that `scan` has seen, in the order given.

        Args:
            text: The text.
            offsets: Where the lines start (`Headers.offset`).
            lengths: Their lengths.
            codes: Their templates, none `UNDECODABLE`.

        Raises:
            WireError: A value is not a whole int64 mantissa at the exponents, or a line is not what `scan` said; names the line.
        """
        buffer = np.frombuffer(text, np.uint8)
        offsets, codes = np.ascontiguousarray(offsets, np.int64), np.ascontiguousarray(codes, np.int16)
        first, row = self._row, 0
        bid_price, bid_quantity, ask_price, ask_quantity = self._values
        bid_offsets, ask_offsets = self._bid_offsets[first:], self._ask_offsets[first:]
        while True:
            row = decode_levels(
                buffer, row, offsets, codes, *self._templates.tables, self._limits,
                bid_offsets, bid_price, bid_quantity, ask_offsets, ask_price, ask_quantity,
            )  # fmt: skip
            if row == len(offsets):
                break
            event = wire.decode_depth(frame_of(text, int(offsets[row]), int(lengths[row])), self._market)
            where = f"line at byte {offsets[row]}, ids ({event.prev_update_id}, {event.final_update_id}]"
            for side, start, price, quantity in (
                (event.bids, bid_offsets, bid_price, bid_quantity),
                (event.asks, ask_offsets, ask_price, ask_quantity),
            ):
                at = int(start[row])
                start[row + 1] = at + len(side)
                for index, level in enumerate(side, at):
                    price[index] = _mantissa(level[0], self._exponents[0], where)
                    quantity[index] = _mantissa(level[1], self._exponents[1], where)
            row += 1
        self._row += row

    def add_kept(self, words: Int64s, places: Int64s) -> None:
        """Take the levels of lines from what was kept of them at first sight.

        Args:
            words: What was kept (`kept.Memory`), or a part of it.
            places: Where in it the lines' levels are.

        Raises:
            WireError: A value is not a whole int64 mantissa at the exponents, or what is there are no levels.
        """
        bid_price, bid_quantity, ask_price, ask_quantity = self._values
        row = unpack_levels(
            words, places, -self._exponents[0], -self._exponents[1], self._bid_offsets[self._row :], bid_price, bid_quantity,
            self._ask_offsets[self._row :], ask_price, ask_quantity,
        )  # fmt: skip
        if row < len(places):
            raise WireError(f"the levels kept at {places[row]} have no int64 mantissas at exponents {self._exponents}")
        self._row += row

    def detach(self) -> None:
        """Leave the arrays to whoever has the levels last returned, and go on with others."""
        self._values = tuple(np.empty(0, np.int64) for _ in range(4))

    def levels(self) -> Levels:
        """Return the levels of the lines added since `begin`: views that `begin` makes worthless."""
        bids, asks = int(self._bid_offsets[-1]), int(self._ask_offsets[-1])
        bid_price, bid_quantity, ask_price, ask_quantity = self._values
        return Levels(
            self._bid_offsets, bid_price[:bids], bid_quantity[:bids], self._ask_offsets, ask_price[:asks], ask_quantity[:asks]
        )


def levels(
    text: bytes,
    offsets: Int64s,
    lengths: NDArray[np.int32],
    codes: NDArray[np.int16],
    templates: TemplateSet,
    *,
    market: Market,
    price_exponent: int,
    quantity_exponent: int,
) -> Levels:
    """Return the levels of chosen lines of one text that `scan` has seen, in the order given; see `LevelDecoder`.

    Raises:
        WireError: As for `LevelDecoder.add`.
    """
    decoder = LevelDecoder(market, templates, price_exponent=price_exponent, quantity_exponent=quantity_exponent)
    decoder.begin(len(offsets), int(lengths.sum(dtype=np.int64)))
    decoder.add(text, offsets, lengths, codes)
    return decoder.levels()


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
