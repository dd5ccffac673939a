r"""Depth frames to columns: a compiled matcher for frames printed exactly as a template says, and a slow way for all others.

A *template* is a frame with its variable fields cut out. A line matches when the literal text between the fields is equal byte for
byte and every field is spelled in the one way a printer would spell it (no superfluous zeros, exactly the template's decimals), so
that printing its values gives the line again: what matches renders back by construction. Which template a frame has is a function of
the frame alone: at most one fits, and a frame without any level has decimals 0 and 0, whatever its neighbours have. Frames that
no template can describe are decoded by `core.wire.decode_depth`, the oracle.

Input is text as segments hold it: lines `<receive_time_ns> <frame>\\n` of one depth stream.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, overload

import msgspec
import numpy as np
from numpy.typing import NDArray

from twintape.columns.kernel import (
    DIGITS_MAX,
    POWERS_OF_TEN,
    Bytes,
    Int8s,
    Int16s,
    Int32s,
    Int64s,
    Words,
    digits,
    eight_digits,
    hash_ranges,
    inlined,
    kernel,
    same_bytes,
    value_of,
    word_at,
)
from twintape.columns.schema import Template
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
TEMPLATES_MAX = 256
"""Shapes of frames per stream; any further shape goes the slow way."""

DECIMALS_MAX = 8
"""Digits behind the point of a template; more go the slow way. (Binance prints at most 8.)"""

_FIELDS = ("E", "T", "U", "u", "pu", "b", "a")
_CODE = {name: code for code, name in enumerate(_FIELDS)}
_E, _T, _FIRST, _FINAL, _PREV, _BIDS, _ASKS = range(7)
_TIME_DIGITS = {"ms": 13, "us": 16}
_INT64_MAX = 2**63 - 1
_LEVEL_BYTES_MIN = len('["0","0"],')
_KEY = re.compile(rb'"(E|T|U|u|pu|b|a)":')
_INTEGER = re.compile(rb"0|[1-9]\d{0,17}")
_NUMBER = rb"(?:0|[1-9]\d*)(?:\.\d+)?"
_LEVEL = rb'\["' + _NUMBER + rb'","' + _NUMBER + rb'"(?:,\[\])?\]'
_ARRAY = re.compile(rb"\[(?:" + _LEVEL + rb"(?:," + _LEVEL + rb")*)?\]")
_FIRST_LEVEL = re.compile(rb'\["\d+\.?(\d*)","\d+\.?(\d*)"(,\[\])?\]')


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


class Tables(NamedTuple):
    """A template set as the arrays the kernels read.

    Attributes:
        literals: All literal text, one after another.
        part: int64[template+1]: the parts of template t are rows `[part[t], part[t+1])` of `parts`.
        parts: int64[part, 3]: start and stop of the literal, code of the field behind it (-1: none, the end).
        numbers: int64[template, 5]: price decimals, quantity decimals, start and stop of the level suffix, digits of a time.
    """

    literals: Bytes
    part: Int64s
    parts: Int64s
    numbers: Int64s


def _tables(templates: Sequence[Template]) -> Tables:
    literals = bytearray()
    first_parts = [0]
    parts: list[tuple[int, int, int]] = []
    numbers: list[tuple[int, int, int, int, int]] = []

    def put(text: str) -> tuple[int, int]:
        start = len(literals)
        literals.extend(text.encode())
        return start, len(literals)

    for template in templates:
        for position in range(0, len(template.parts), 2):
            last = position + 1 == len(template.parts)
            parts.append((*put(template.parts[position]), -1 if last else _CODE[template.parts[position + 1]]))
        first_parts.append(len(parts))
        decimals = (template.price_decimals, template.quantity_decimals)
        numbers.append((*decimals, *put(template.level_suffix), _TIME_DIGITS[template.time_unit]))
    literals.extend(bytes(8))  # words are loaded whole
    return Tables(
        np.frombuffer(bytes(literals), np.uint8),
        np.array(first_parts, np.int64),
        np.array(parts, np.int64).reshape(-1, 3),
        np.array(numbers, np.int64).reshape(-1, 5),
    )


class TemplateSet(Sequence[Template]):
    """An ordered set of templates of one stream; a template's code is its position. At most `TEMPLATES_MAX`."""

    def __init__(self, templates: Iterable[Template] = ()) -> None:
        self._list: list[Template] = []
        self._code: dict[Template, int] = {}
        self._tables: Tables | None = None
        for template in templates:
            self.add(template)

    def add(self, template: Template) -> int | None:
        """Return the template's code, a new one if it is not in the set; None if the set is full."""
        code = self._code.get(template)
        if code is None and len(self._list) < TEMPLATES_MAX:
            code = self._code[template] = len(self._list)
            self._list.append(template)
            self._tables = None
        return code

    @property
    def tables(self) -> Tables:
        """The set as arrays, in the order of codes."""
        if self._tables is None:
            self._tables = _tables(self._list)
        return self._tables

    @overload
    def __getitem__(self, index: int) -> Template: ...
    @overload
    def __getitem__(self, index: slice) -> list[Template]: ...
    def __getitem__(self, index: int | slice) -> Template | list[Template]:
        """Return the template with this code."""
        return self._list[index]

    def __len__(self) -> int:
        return len(self._list)

    def __iter__(self) -> Iterator[Template]:
        return iter(self._list)


def frame_of(text: bytes, offset: int, length: int) -> bytes:
    r"""Return the frame of the line at `offset`, without its receive time.

    >>> frame_of(b"17 {}\\n", 0, 5)
    b'{}'
    """
    return text[text.index(b" ", offset, offset + length) + 1 : offset + length]


# --- discovery: slow -------------------------------------------------------------------------------------------------------


def discover(frame: bytes, market: Market) -> Template | None:
    """Return the template that prints `frame`, or None if none can.

    Any order of keys, any further keys with constant values, raw or wrapped; but no white space around the fields, no escapes, no
    negative ids, no numbers over 18 digits, at most 8 of them behind the point, and the same decimals throughout.

    >>> frame = b'{"e":"depthUpdate","E":1725382961514,"s":"BTCUSDT","U":8,"u":9,"b":[["5.10","0.2"]],"a":[]}'
    >>> discover(frame, Market.SPOT).price_decimals
    2
    """
    try:
        event = wire.decode_depth(frame, market)
    except WireError:
        return None
    if b"\\" in frame:
        return None
    cut = _cut(frame)
    if cut is None:
        return None
    parts, text = cut
    level = _FIRST_LEVEL.match(text["b"], 1) or _FIRST_LEVEL.match(text["a"], 1)
    template = Template(
        parts=parts,
        price_decimals=len(level[1]) if level else 0,
        quantity_decimals=len(level[2]) if level else 0,
        level_suffix=",[]" if level and level[3] else "",
        time_unit="us" if event.event_time_us % 1000 or len(text["E"]) == _TIME_DIGITS["us"] else "ms",
    )
    return template if _prints(template, event, frame, market) else None


def _cut(frame: bytes) -> tuple[tuple[str, ...], dict[str, bytes]] | None:
    # Cuts the frame at its fields: the parts of a template and the text of each field.
    try:
        parts: list[str] = []
        fields: dict[str, bytes] = {}
        done = 0
        while key := _KEY.search(frame, done):
            name = key[1].decode()
            value = (_ARRAY if name in "ba" else _INTEGER).match(frame, key.end())
            if value is None or name in fields:
                return None
            parts += [frame[done : key.end()].decode(), name]
            fields[name] = value[0]
            done = value.end()
        parts.append(frame[done:].decode())
    except UnicodeDecodeError:  # pragma: no cover - decode_depth has accepted the frame as UTF-8
        return None
    return tuple(parts), fields


def _prints(template: Template, event: wire.DepthEvent, frame: bytes, market: Market) -> bool:
    # Whether the event's values, printed as the template says, are the frame: what the kernel will find, said slowly.
    divisor = 1000 if template.time_unit == "ms" else 1
    values = {
        "E": event.event_time_us // divisor,
        "T": None if event.transaction_time_us is None else event.transaction_time_us // divisor,
        "U": event.first_update_id,
        "u": event.final_update_id,
        "pu": None if market is Market.SPOT else event.prev_update_id,
    }
    decimals = (template.price_decimals, template.quantity_decimals)
    sides = {"b": _print_side(event.bids, decimals, template), "a": _print_side(event.asks, decimals, template)}
    printed = list(template.parts)
    for position in range(1, len(printed), 2):
        name = printed[position]
        value = sides[name] if name in sides else values[name]
        if value is None or (name in "ET" and len(str(value)) != _TIME_DIGITS[template.time_unit]):
            return False
        printed[position] = str(value)
    missing = {name for name, value in values.items() if value is not None} - set(template.parts[1::2])
    return not missing and "".join(printed).encode() == frame


def _print_side(side: Sequence[wire.Level], decimals: tuple[int, int], template: Template) -> str | None:
    for level in side:
        for number, wanted in zip(level, decimals, strict=True):
            whole, _, fraction = number.partition(".")
            if (
                len(whole) + len(fraction) > DIGITS_MAX
                or len(fraction) != wanted
                or wanted > DECIMALS_MAX
                or (whole[0] == "0" and len(whole) > 1)
            ):
                return None
    return "[" + ",".join(f'["{price}","{quantity}"{template.level_suffix}]' for price, quantity in side) + "]"


# --- the matcher -----------------------------------------------------------------------------------------------------------


@inlined
def _number(text: Bytes, position: int, decimals: int, keep: int) -> tuple[int, int, np.uint64]:
    # A decimal at `position`: its mantissa of `keep` decimals (the further ones are cut off), the position behind it or -1, and its
    # decimals as byte values, the last one in the highest byte. The caller sees whether the number really ends there.
    count, values = eight_digits(word_at(text, position))
    whole = value_of(values)
    if count == 8:
        count, whole = digits(text, position)
    if count == 0 or (count > 1 and text[position] == 48) or count + decimals > DIGITS_MAX:
        return 0, -1, np.uint64(0)
    position += count
    if decimals == 0:
        return whole, position, np.uint64(0)
    if position >= text.size or text[position] != 46:
        return 0, -1, np.uint64(0)
    count, values = eight_digits(word_at(text, position + 1))
    if count != decimals:
        return 0, -1, np.uint64(0)
    kept = values
    if keep < decimals:
        kept = values << np.uint64(8 * (decimals - keep)) if keep else np.uint64(0)
    return whole * POWERS_OF_TEN[keep] + value_of(kept), position + 1 + count, values


@kernel
def _side(
    text: Bytes,
    position: int,
    literals: Bytes,
    numbers: Int64s,
    limits: Int64s,
    price: Int64s,
    quantity: Int64s,
    cursor: int,
    used: Words,
) -> tuple[int, int]:
    # A level array at `position`: how many levels, and the position behind it or -1. Unless the price array is empty, mantissas go to
    # the arrays from `cursor` on: with limits[0] decimals, times limits[1], none before that over limits[2]; limits[3:] are the
    # quantity's. `used` collects which decimals are not zero: prices, quantities.
    size = text.size
    store = price.size > 0
    price_decimals, quantity_decimals, suffix_start, suffix_stop = numbers[0], numbers[1], numbers[2], numbers[3]
    price_keep, price_factor, price_max, quantity_keep, quantity_factor, quantity_max = limits
    price_used, quantity_used = used[0], used[1]
    if position + 2 > size or text[position] != 91:
        return 0, -1
    position += 1
    if text[position] == 93:
        return 0, position + 1
    suffix = suffix_stop - suffix_start
    count = 0
    while True:
        if (word_at(text, position) & np.uint64(0xFFFF)) != np.uint64(0x225B):  # ["
            return 0, -1
        mantissa, position, decimals = _number(text, position + 2, price_decimals, price_keep)
        if position < 0 or (word_at(text, position) & np.uint64(0xFFFFFF)) != np.uint64(0x222C22):  # ","
            return 0, -1
        price_used |= decimals
        amount, position, decimals = _number(text, position + 3, quantity_decimals, quantity_keep)
        if position < 0 or position + suffix + 2 >= size or text[position] != 34:
            return 0, -1
        quantity_used |= decimals
        position += 1
        if suffix:
            if not same_bytes(text, position, literals, suffix_start, suffix_stop):
                return 0, -1
            position += suffix
        if text[position] != 93:
            return 0, -1
        if store:
            if mantissa > price_max or amount > quantity_max:
                return 0, -1
            price[cursor + count] = mantissa * price_factor
            quantity[cursor + count] = amount * quantity_factor
        count += 1
        following = text[position + 1]
        position += 2
        if following == 93:
            used[0], used[1] = price_used, quantity_used
            return count, position
        if following != 44:
            return 0, -1


@kernel
def _match(
    text: Bytes,
    position: int,
    literals: Bytes,
    parts: Int64s,
    numbers: Int64s,
    limits: Int64s,
    bid_price: Int64s,
    bid_quantity: Int64s,
    bid_cursor: int,
    ask_price: Int64s,
    ask_quantity: Int64s,
    ask_cursor: int,
    values: Int64s,
    used: Words,
) -> int:
    # Matches a frame and the newline behind it; returns the newline's position or -1. `values`: E, T, U, u, pu (-1 where the
    # template has none), then start, stop and count of the bid and the ask array. Levels are stored unless the arrays are empty.
    values[_T] = -1
    values[_PREV] = -1
    used[:] = 0
    for row in range(parts.shape[0]):
        if not same_bytes(text, position, literals, parts[row, 0], parts[row, 1]):
            return -1
        position += parts[row, 1] - parts[row, 0]
        field = parts[row, 2]
        if field < 0:
            break
        start = position
        if field >= _BIDS:
            if field == _BIDS:
                count, position = _side(text, start, literals, numbers, limits, bid_price, bid_quantity, bid_cursor, used)
            else:
                count, position = _side(text, start, literals, numbers, limits, ask_price, ask_quantity, ask_cursor, used)
            if position < 0:
                return -1
            place = 5 + 3 * (field - _BIDS)
            values[place] = start
            values[place + 1] = position
            values[place + 2] = count
            continue
        count, value = digits(text, start)
        if count == 0 or (count > 1 and text[start] == 48):
            return -1
        if field <= _T and count != numbers[4]:
            return -1
        values[field] = value
        position += count
    if position >= text.size or text[position] != 10:
        return -1
    if values[7] + values[10] == 0 and numbers[0] + numbers[1] + numbers[3] - numbers[2] > 0:
        return -1  # a frame without levels has the template without decimals
    return position


@kernel
def _receive_time(text: Bytes, position: int) -> tuple[int, int]:
    # The receive time at `position` and where the frame starts, or -1.
    count, value = digits(text, position)
    if count == 0:
        # Zero or over 18 digits: receive times have 19.
        high, value = digits(text, position + 1)
        if high != DIGITS_MAX or position >= text.size or text[position] < 49 or text[position] > 57:
            return 0, -1
        lead = np.int64(text[position]) - 48
        if lead == 9 and value > _INT64_MAX - 9 * POWERS_OF_TEN[18]:
            return 0, -1
        value += lead * POWERS_OF_TEN[18]
        count = DIGITS_MAX + 1
    elif count > 1 and text[position] == 48:
        return 0, -1
    position += count
    if position >= text.size or text[position] != 32:
        return 0, -1
    return value, position + 1


@kernel
def _significant(used: np.uint64, decimals: int) -> int:
    # How many of the first decimals are needed, if `used` is what _number says of them.
    while decimals > 0 and (used >> np.uint64(56)) == np.uint64(0):
        used <<= np.uint64(8)
        decimals -= 1
    return decimals


@kernel
def _scan(
    text: Bytes,
    position: int,
    row: int,
    code: int,
    spot: bool,
    literals: Bytes,
    part: Int64s,
    parts: Int64s,
    numbers: Int64s,
    ids: Int64s,
    counts: Int32s,
    template: Int16s,
    decimals: Int8s,
    hashes: Words,
) -> tuple[int, int, int]:
    # Scans lines until the end or one that no template matches; returns its row, its position and the template that matched last.
    values = np.zeros(11, np.int64)
    used = np.zeros(2, np.uint64)
    nothing = np.zeros(0, np.int64)
    limits = np.zeros(6, np.int64)
    zero = ids.size - ids.size  # not a literal: _match is compiled once
    total = numbers.shape[0]
    while row < ids.shape[1]:
        receive_time, frame = _receive_time(text, position)
        if frame < 0:
            break
        end = -1
        for attempt in range(total):
            candidate = code + attempt
            if candidate >= total:
                candidate -= total
            end = _match(
                text, frame, literals, parts[part[candidate] : part[candidate + 1]], numbers[candidate],
                limits, nothing, nothing, zero, nothing, nothing, zero, values, used,
            )  # fmt: skip
            if end >= 0:
                code = candidate
                break
        if end < 0:
            break
        prev = values[_FIRST] - 1 if spot else values[_PREV]
        if values[_FINAL] < values[_FIRST] or values[_FINAL] <= prev:
            break
        unit = 1000 if numbers[code, 4] == 13 else 1
        ids[0, row] = receive_time
        ids[1, row] = values[_E] * unit
        ids[2, row] = values[_T] * unit if values[_T] >= 0 else -1
        ids[3, row] = prev
        ids[4, row] = values[_FIRST]
        ids[5, row] = values[_FINAL]
        ids[6, row] = position
        counts[0, row] = end - position
        counts[1, row] = values[7]
        counts[2, row] = values[10]
        template[row] = code
        decimals[0, row] = _significant(used[0], numbers[code, 0])
        decimals[1, row] = _significant(used[1], numbers[code, 1])
        hashes[row, 0], hashes[row, 1] = hash_ranges(text, values[5], values[6], values[8], values[9])
        row += 1
        position = end + 1
    return row, position, code


@kernel
def _levels(
    text: Bytes,
    row: int,
    offsets: Int64s,
    codes: Int16s,
    literals: Bytes,
    part: Int64s,
    parts: Int64s,
    numbers: Int64s,
    limits: Int64s,
    bid_offsets: Int64s,
    bid_price: Int64s,
    bid_quantity: Int64s,
    ask_offsets: Int64s,
    ask_price: Int64s,
    ask_quantity: Int64s,
) -> int:
    # Decodes the levels of lines until the end or one that does not match its code; returns its row.
    values = np.zeros(11, np.int64)
    used = np.zeros(2, np.uint64)
    while row < offsets.size and codes[row] >= 0:
        code = np.int64(codes[row])
        _, frame = _receive_time(text, offsets[row])
        if frame < 0:
            break
        end = _match(
            text, frame, literals, parts[part[code] : part[code + 1]], numbers[code], limits[code],
            bid_price, bid_quantity, bid_offsets[row], ask_price, ask_quantity, ask_offsets[row], values, used,
        )  # fmt: skip
        if (
            end < 0
            or _significant(used[0], numbers[code, 0]) > limits[code, 0]
            or _significant(used[1], numbers[code, 1]) > limits[code, 3]
        ):
            break
        bid_offsets[row + 1] = bid_offsets[row] + values[7]
        ask_offsets[row + 1] = ask_offsets[row] + values[10]
        row += 1
    return row


# --- texts to arrays -------------------------------------------------------------------------------------------------------


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
        row, position, code = _scan(
            buffer, position, row, code, market is Market.SPOT, *tables, ids, counts, template, decimals, hashes
        )
        if row == count:
            break
        end = text.index(b"\n", position)
        receive_time, start = _receive_time(buffer, position)
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
        ids[0, row] = receive_time
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
        price_exponent: Power of ten of the price mantissas; `exponents` says which is fine enough.
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
        row = _levels(
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
    """Return the coarsest price and quantity exponents that represent all of some events exactly; at most 0.

    >>> exponents(np.array([2, 1], np.int8), np.array([], np.int8))
    (-2, 0)
    """
    return -int(price_decimals.max(initial=0)), -int(quantity_decimals.max(initial=0))


def _decimals(number: str) -> int:
    return len(number.partition(".")[2].rstrip("0"))
