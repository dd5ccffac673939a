"""Columns back to frames: the inverse of `parse`, and what proves that nothing was lost.

A row whose template is known is printed by a kernel; a row that carries its frame is copied.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from twintape.columns.kernel import (
    Bytes,
    Int16s,
    Int64s,
    Words,
    hash_around,
    inlined,
    kernel,
    put_bytes,
    put_digits,
    put_integer,
)
from twintape.columns.schema import DECIMALS_MAX, DepthColumns, Template
from twintape.columns.templates import Tables, TemplateSet
from twintape.core.errors import CorruptionError

__all__ = ["Copies", "Printer", "hash_copies", "render", "render_lines"]

_INTEGER_BYTES_MAX = 19
_NUMBER_BYTES_MAX = _INTEGER_BYTES_MAX + 1 + DECIMALS_MAX
_SLACK = 16  # the digit printers write whole words


@inlined
def _divided(mantissa: int, unit: int) -> Any:
    # The usual units are spelled out: dividing by a constant is a multiplication, and unsigned.
    value = np.uint64(mantissa)
    if unit == 100:
        return np.int64(value // np.uint64(100))
    if unit == 100_000:
        return np.int64(value // np.uint64(100_000))
    if unit == 10:
        return np.int64(value // np.uint64(10))
    if unit == 1000:
        return np.int64(value // np.uint64(1000))
    if unit == 10_000:
        return np.int64(value // np.uint64(10_000))
    if unit == 1_000_000:
        return np.int64(value // np.uint64(1_000_000))
    if unit == 100_000_000:
        return np.int64(value // np.uint64(100_000_000))
    return np.int64(value // np.uint64(unit))


@inlined
def _put_decimal(out: Bytes, position: int, mantissa: int, decimals: int, scale: Int64s) -> int:
    # `scale`: the unit of the mantissa, and the factor and the divisor that take what is behind the point to `decimals` digits. Returns
    # -1 if that leaves a rest.
    if mantissa < 0:
        return -1
    whole = _divided(mantissa, scale[0])
    fraction = (mantissa - whole * scale[0]) * scale[1]
    if scale[2] != 1:
        exact = fraction
        fraction = exact // scale[2]
        if fraction * scale[2] != exact:
            return -1
    position = put_integer(out, position, whole)
    if decimals == 0:
        return position
    out[position] = 46
    return put_digits(out, position + 1, fraction, decimals)


@kernel
def _put_side(
    out: Bytes,
    position: int,
    price: Int64s,
    quantity: Int64s,
    start: int,
    stop: int,
    literals: Bytes,
    numbers: Int64s,
    scales: Int64s,
) -> int:
    out[position] = 91
    position += 1
    for level in range(start, stop):
        out[position] = 91
        out[position + 1] = 34
        position = _put_decimal(out, position + 2, price[level], numbers[0], scales[0])
        if position < 0:
            return -1
        out[position] = 34
        out[position + 1] = 44
        out[position + 2] = 34
        position = _put_decimal(out, position + 3, quantity[level], numbers[1], scales[1])
        if position < 0:
            return -1
        out[position] = 34
        position = put_bytes(out, position + 1, literals, numbers[2], numbers[3])
        out[position] = 93
        out[position + 1] = 44
        position += 2
    if stop > start:
        position -= 1
    out[position] = 93
    return position + 1


@kernel
def _render(
    row: int,
    stop: int,
    out: Bytes,
    ends: Int64s,
    integers: Int64s,
    templates: Int16s,
    literals: Bytes,
    part: Int64s,
    parts: Int64s,
    numbers: Int64s,
    formats: Words,  # noqa: ARG001 - the tables are given as a whole
    scales: Int64s,
    bid_offsets: Int64s,
    bid_price: Int64s,
    bid_quantity: Int64s,
    ask_offsets: Int64s,
    ask_price: Int64s,
    ask_quantity: Int64s,
    times: Int64s,
) -> int:
    # Prints rows until `stop`, one without template or one that its template cannot print; returns its row. `times`: receive times to
    # print before the frames, with a newline behind them, or empty.
    position = ends[row]
    while row < stop and templates[row] >= 0:
        code = np.int64(templates[row])
        unit = 1000 if numbers[code, 4] == 13 else 1
        if times.size:
            position = put_integer(out, position, times[row])
            out[position] = 32
            position += 1
        for index in range(part[code], part[code + 1]):
            position = put_bytes(out, position, literals, parts[index, 0], parts[index, 1])
            field = parts[index, 2]
            if field < 0:
                break
            if field == 5:
                position = _put_side(
                    out,
                    position,
                    bid_price,
                    bid_quantity,
                    bid_offsets[row],
                    bid_offsets[row + 1],
                    literals,
                    numbers[code],
                    scales[code],
                )
            elif field == 6:
                position = _put_side(
                    out,
                    position,
                    ask_price,
                    ask_quantity,
                    ask_offsets[row],
                    ask_offsets[row + 1],
                    literals,
                    numbers[code],
                    scales[code],
                )
            else:
                value = integers[field, row]
                if field <= 1:
                    whole = value // unit
                    if whole * unit != value:
                        return row
                    value = whole
                if value < 0:
                    return row
                position = put_integer(out, position, value)
            if position < 0:
                return row
        if times.size:
            out[position] = 10
            position += 1
        row += 1
        ends[row] = position
    return row


def render(columns: DepthColumns, templates: Sequence[Template]) -> tuple[Bytes, Int64s]:
    """Return the frames of all rows, one after another, and where each begins (with the end of the last: int64[n+1]).

    Args:
        columns: Rows whose template is a position in `templates`, or -1 with the frame in `columns.frame`.
        templates: The file's template list.

    Raises:
        CorruptionError: A row cannot be printed by its template, or has neither template nor frame; names the row.
    """
    return _print(columns, templates, np.zeros(0, np.int64))


def render_lines(columns: DepthColumns, templates: Sequence[Template]) -> tuple[Bytes, Int64s]:
    """Return the raw lines of all rows, `<receive_time_ns> <frame>` and a newline, and where each begins.

    Raises:
        CorruptionError: As for `render`.
    """
    return _print(columns, templates, columns.receive_time_ns)


def _print(columns: DepthColumns, templates: Sequence[Template], times: Int64s) -> tuple[Bytes, Int64s]:
    return Printer(templates).print(columns, times)


class Printer:
    """Prints rows of one file, into a buffer that is kept and overwritten.

    Args:
        templates: The file's.
    """

    def __init__(self, templates: Sequence[Template]) -> None:
        self._templates = templates
        self.tables: Tables = (templates if isinstance(templates, TemplateSet) else TemplateSet(templates)).tables
        self._out = np.empty(0, np.uint8)

    def lines(self, columns: DepthColumns) -> tuple[Bytes, Int64s]:
        """Return what `render_lines` does; the next call overwrites it.

        Raises:
            CorruptionError: As for `render`.
        """
        return self.print(columns, columns.receive_time_ns)

    def print(self, columns: DepthColumns, times: Int64s) -> tuple[Bytes, Int64s]:
        """Return frames, behind their receive times and with newlines unless `times` is empty; the next call overwrites them.

        Raises:
            CorruptionError: As for `render`.
        """
        count = len(columns)
        capacity = _capacity(columns, self._templates)
        if len(self._out) < capacity:
            self._out = np.empty(capacity, np.uint8)
        out, starts = self._out, np.zeros(count + 1, np.int64)
        integers = np.stack([columns.event_time_us, columns.transaction_time_us, columns.first, columns.final, columns.prev])
        codes = np.ascontiguousarray(columns.template)
        if not (-18 <= columns.price_exponent <= 0 and -18 <= columns.quantity_exponent <= 0):
            raise CorruptionError(f"exponents must be between -18 and 0: {columns.price_exponent}, {columns.quantity_exponent}")
        if count and int(codes.max()) >= len(self._templates):
            raise CorruptionError(f"template {int(codes.max())} of {len(self._templates)}")
        scales = _scales(self._templates, columns)
        row = 0
        while True:
            row = _render(
                row, count, out, starts, integers, codes, *self.tables, scales, columns.bid_offsets, columns.bid_price,
                columns.bid_quantity, columns.ask_offsets, columns.ask_price, columns.ask_quantity, times,
            )  # fmt: skip
            if row == count:
                return out[: starts[-1]], starts
            frame = columns.frame.get(row)
            if frame is None or codes[row] >= 0:
                where = f"row {row} (final_update_id {columns.final[row]})"
                raise CorruptionError(f"{where} cannot be printed by template {codes[row]}")
            line = b"%d %b\n" % (times[row], frame) if len(times) else frame
            starts[row + 1] = starts[row] + len(line)
            out[starts[row] : starts[row + 1]] = np.frombuffer(line, np.uint8)
            row += 1


# --- copies ----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Copies:
    """Further copies of events: those of `row` in some depth columns, each as its own connection heard it.

    Attributes:
        row: int64[n], positions in the depth columns.
        event_time_us: int64[n].
        receive_time_ns: int64[n].
        template: int16[n], whose body parts are those of the depth row's.
        seed: uint64[n, 2], of the digests (`kernel.hash_seed`).
    """

    row: Int64s
    event_time_us: Int64s
    receive_time_ns: Int64s
    template: Int16s
    seed: Words


def hash_copies(columns: DepthColumns, copies: Copies, tables: Tables, body: Words) -> Words:
    """Return the digests of the copies' lines, printing only what stands around their bodies.

    Args:
        columns: The depth rows.
        copies: Their copies.
        tables: The copies' templates.
        body: uint64[row, 2], hashes of the depth rows' bodies.

    Raises:
        CorruptionError: A copy has a number that its template cannot print.
    """
    out = np.empty((len(copies.row), 2), np.uint64)
    scratch = np.empty(len(tables.literals) + 8 * (_INTEGER_BYTES_MAX + 1) + _SLACK, np.uint8)
    row = _hash_copies(
        scratch, copies.row, copies.event_time_us, copies.receive_time_ns, copies.template, copies.seed, columns.transaction_time_us,
        columns.first, columns.final, columns.prev, tables.literals, tables.part, tables.parts, tables.numbers, body, out,
    )  # fmt: skip
    if row < len(out):
        raise CorruptionError(f"a copy of row {copies.row[row]} cannot be printed by template {copies.template[row]}")
    return out


@kernel
def _hash_copies(
    scratch: Bytes,
    rows: Int64s,
    event_time_us: Int64s,
    receive_time_ns: Int64s,
    templates: Int16s,
    seeds: Words,
    transaction_time_us: Int64s,
    first: Int64s,
    final: Int64s,
    prev: Int64s,
    literals: Bytes,
    part: Int64s,
    parts: Int64s,
    numbers: Int64s,
    body: Words,
    out: Words,
) -> int:
    for place in range(rows.size):
        row, code = rows[place], np.int64(templates[place])
        unit = 1000 if numbers[code, 4] == 13 else 1
        position = put_integer(scratch, 0, receive_time_ns[place])
        scratch[position] = 32
        position += 1
        sides = head = 0
        for index in range(part[code], part[code + 1]):
            if sides != 1:  # what stands between the sides is of the body
                position = put_bytes(scratch, position, literals, parts[index, 0], parts[index, 1])
            field = parts[index, 2]
            if field < 0:
                break
            if field >= 5:
                sides += 1
                if sides == 1:
                    head = position
                continue
            if field == 0:
                value = event_time_us[place]
            elif field == 1:
                value = transaction_time_us[row]
            elif field == 2:
                value = first[row]
            elif field == 3:
                value = final[row]
            else:
                value = prev[row]
            if field <= 1:
                whole = value // unit
                if whole * unit != value:
                    return place
                value = whole
            if value < 0:
                return place
            position = put_integer(scratch, position, value)
        seed = (seeds[place, 0], seeds[place, 1])
        out[place, 0], out[place, 1] = hash_around(scratch, (0, head), (head, position), (body[row, 0], body[row, 1]), seed)
    return rows.size


def _scales(templates: Sequence[Template], columns: DepthColumns) -> Int64s:
    # Per template, for prices and for quantities: what _put_decimal wants.
    rows = []
    for template in templates:
        for decimals, exponent in (
            (template.price_decimals, columns.price_exponent),
            (template.quantity_decimals, columns.quantity_exponent),
        ):
            shift = decimals + exponent
            rows.append((10**-exponent, 10 ** max(shift, 0), 10 ** max(-shift, 0)))
    return np.array(rows, np.int64).reshape(-1, 2, 3)


def _capacity(columns: DepthColumns, templates: Sequence[Template]) -> int:
    # An upper bound of the bytes printed; pages that are never touched cost nothing.
    literal = max((sum(len(part.encode()) for part in template.parts) for template in templates), default=0)
    suffix = max((len(template.level_suffix) for template in templates), default=0)
    levels = len(columns.bid_price) + len(columns.ask_price)
    per_level = len('["","",],') + suffix + 2 * _NUMBER_BYTES_MAX
    per_row = literal + 6 * (_INTEGER_BYTES_MAX + 1) + 4
    frames = sum(len(frame) for frame in columns.frame.values())
    return len(columns) * per_row + levels * per_level + frames + _SLACK
