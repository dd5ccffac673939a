"""Messages of a fixed set of fields between text and columns: templates, a compiled reader and a compiled printer.

As for depth frames, a *template* is a frame with its variable fields cut out, and what matches one renders back byte for byte by construction.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import msgspec
import numpy as np

from twintape.columns.kernel import (
    DIGITS_MAX,
    POWERS_OF_TEN,
    Bytes,
    Int16s,
    Int32s,
    Int64s,
    digits,
    inlined,
    kernel,
    put_bytes,
    put_digits,
    put_integer,
    same_bytes,
)
from twintape.columns.kinds import ABSENT, DECIMAL, INTEGER, KINDS, SIGNED, TIME, TRUTH, WORD, FlatField, FlatKind
from twintape.columns.match import receive_time
from twintape.core.errors import CorruptionError, WireError
from twintape.core.wire import unwrap

__all__ = [
    "DECIMALS_MAX",
    "TEMPLATES_MAX",
    "FlatTemplate",
    "FlatText",
    "discover",
    "print_lines",
    "scan",
    "templates_from_json",
    "templates_to_json",
]

DECIMALS_MAX = 8
TEMPLATES_MAX = 256
"""Shapes of frames a day; a stream with more is kept verbatim."""

_MS_DIGITS, _US_DIGITS = 13, 16
_TRUTHS = np.frombuffer(b"truefalse" + bytes(8), np.uint8)
_TEXT = {
    INTEGER: re.compile(rb"(?:0|[1-9]\d{0,17})(?=[,}])"),
    TIME: re.compile(rb"(?:[1-9]\d{12}|[1-9]\d{15})(?=[,}])"),
    DECIMAL: re.compile(rb"(?:0|[1-9]\d{0,17})(?:\.\d{1,8})?(?=\")"),
    TRUTH: re.compile(rb"(?:true|false)(?=[,}])"),
    SIGNED: re.compile(rb"-?(?:0|[1-9]\d{0,17})(?:\.\d{1,8})?(?=\")"),
    WORD: re.compile(rb"[A-Z_]+(?=\")"),
}
_QUOTED = (DECIMAL, SIGNED, WORD)
_NO_TIME, _NO_TEXT = re.compile(rb"0(?=[,}])"), re.compile(rb"(?<=:\")\"")
"""How a message says that it has no such value: the time 0, or an empty text."""


# --- templates -----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, order=True)
class FlatTemplate:
    """How one shape of frame is printed.

    Attributes:
        parts: Literal, key, literal, …, literal.
        decimals: For each key: digits behind the point (0 for what is no decimal).
        time_unit: `ms` or `us`, of all times.
    """

    parts: tuple[str, ...]
    decimals: tuple[int, ...]
    time_unit: str = "ms"


def templates_to_json(templates: Sequence[FlatTemplate]) -> str:
    """Return the list as files carry it in their metadata."""
    rows = [{"parts": list(t.parts), "decimals": list(t.decimals), "time_unit": t.time_unit} for t in templates]
    return json.dumps(rows, separators=(",", ":"), ensure_ascii=False)


def templates_from_json(text: str | bytes, kind: FlatKind) -> list[FlatTemplate]:
    """Return the list `templates_to_json` wrote.

    Raises:
        CorruptionError: The text is no such list.
    """
    try:
        return [_template(row["parts"], row["decimals"], row["time_unit"], kind) for row in json.loads(text)]
    except (ValueError, KeyError, TypeError) as error:
        raise CorruptionError(f"not a list of templates: {error!r}") from error


def _template(parts: Sequence[str], decimals: Sequence[int], time_unit: str, kind: FlatKind) -> FlatTemplate:
    # The printer writes by these numbers without looking.
    keys = list(parts[1::2])
    known = {field.key: field.kind for field in kind.fields}
    exact = set(keys) <= known.keys() and all(
        0 <= count <= DECIMALS_MAX and (count == 0 or known[key] in (DECIMAL, SIGNED))
        for key, count in zip(keys, decimals, strict=True)
    )
    if len(parts) % 2 == 0 or len(set(keys)) != len(keys) or not exact or time_unit not in ("ms", "us"):
        raise ValueError(f"parts {parts}, decimals {decimals}, time unit {time_unit!r}")
    return FlatTemplate(tuple(str(part) for part in parts), tuple(int(count) for count in decimals), str(time_unit))


def discover(frame: bytes, kind: FlatKind) -> FlatTemplate | None:
    """Return the template that prints `frame`, or None: it is no message of this kind, or is spelled in an odd way.

    >>> frame = b'{"u":7,"s":"BNBUSDT","b":"25.3","B":"31","a":"25.36","A":"40.6"}'
    >>> discover(frame, KINDS["bookTicker"]).decimals
    (0, 1, 0, 2, 1)
    """
    try:
        decoded = msgspec.json.decode(unwrap(frame))
        text = frame.decode()
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, WireError):
        return None
    if not isinstance(decoded, dict) or "\\" in text or "\n" in text:
        return None
    known = {field.key: field for field in kind.fields}
    pattern = re.compile(rb'"(' + b"|".join(re.escape(key.encode()) for key in known) + rb')":"?')
    parts: list[str] = []
    decimals: list[int] = []
    values: dict[str, bytes] = {}
    done = at = 0
    while match := pattern.search(frame, at):
        key = match[1].decode()
        field = known[key]
        at = match.end()
        if not field.required and (_NO_TIME if field.kind == TIME else _NO_TEXT).match(frame, at):
            continue  # the message says that it has none: literal text
        value = _TEXT[field.kind].match(frame, at)
        if value is None or key in values or (match[0][-1:] == b'"') is not (field.kind in _QUOTED):
            return None
        parts += [frame[done : match.end()].decode(), key]
        decimals.append(len(value[0].partition(b".")[2]))
        values[key] = value[0]
        done = at = value.end()
    parts.append(frame[done:].decode())
    lengths = {len(values[field.key]) for field in kind.fields if field.kind == TIME and field.key in values}
    if len(lengths) > 1 or any(field.required and field.key not in values for field in kind.fields):
        return None
    scope = decoded
    if kind.inner is not None:
        inner = decoded.get(kind.inner)
        scope = {**(inner if isinstance(inner, dict) else {}), "E": decoded.get("E")}
    if not all(_says(scope.get(key), value, known[key]) for key, value in values.items()):
        return None
    return FlatTemplate(tuple(parts), tuple(decimals), "us" if lengths == {_US_DIGITS} else "ms")


def _says(decoded: object, value: bytes, field: FlatField) -> bool:
    # Whether what was cut out of the text is what a JSON reader finds under the key, and not something within another value.
    if field.kind == WORD:
        return decoded == value.decode() and decoded in field.words
    if field.kind in (DECIMAL, SIGNED):
        plain = value.replace(b".", b"").removeprefix(b"-")
        return decoded == value.decode() and len(plain) <= DIGITS_MAX and (value[:1] != b"-" or plain.strip(b"0") != b"")
    return type(decoded) is (bool if field.kind == TRUTH else int) and json.dumps(decoded).encode() == value


class _Tables(NamedTuple):
    literals: Bytes
    first: Int64s  # the parts of template t are rows [first[t], first[t+1]) of …
    parts: Int64s  # … start and stop of the literal, position of the field behind it (-1: none), its kind, its decimals
    time_digits: Int64s
    words: (
        Int64s  # what words there are: field, start and stop among the literals; those of a field stand together in their order
    )


def _tables(templates: Sequence[FlatTemplate], kind: FlatKind) -> _Tables:
    position = {field.key: index for index, field in enumerate(kind.fields)}
    literals = bytearray()
    first = [0]
    rows: list[tuple[int, int, int, int, int]] = []
    for template in templates:
        for index in range(0, len(template.parts), 2):
            start = len(literals)
            literals.extend(template.parts[index].encode())
            last = index + 1 == len(template.parts)
            column = -1 if last else position[template.parts[index + 1]]
            what = -1 if last else kind.fields[column].kind
            rows.append((start, len(literals), column, what, 0 if last else template.decimals[index // 2]))
        first.append(len(rows))
    words = []
    for index, field in enumerate(kind.fields):
        for word in field.words:
            words.append((index, len(literals), len(literals) + len(word)))
            literals.extend(word.encode())
    literals.extend(bytes(8))  # machine words are loaded whole
    return _Tables(
        np.frombuffer(bytes(literals), np.uint8),
        np.array(first, np.int64),
        np.array(rows, np.int64).reshape(-1, 5),
        np.array([_US_DIGITS if template.time_unit == "us" else _MS_DIGITS for template in templates], np.int64),
        np.array(words, np.int64).reshape(-1, 3),
    )


# --- text to columns -----------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class FlatText:
    """The lines of a text, one element a line.

    Attributes:
        receive_time_ns: Nanoseconds since 1970.
        offset: Where the line starts; `length` is without its newline.
        template: Code in the list of templates, -1 for a line that none prints.
        values: int64[fields, lines]: ids, microseconds, mantissas of the template's decimals, 0 or 1,
            positions of words; `ABSENT` where a message has none.
    """

    receive_time_ns: Int64s
    offset: Int64s
    length: Int32s
    template: Int16s
    values: Int64s

    def __len__(self) -> int:
        return len(self.offset)


def scan(text: bytes, kind: FlatKind | None, templates: list[FlatTemplate]) -> FlatText:
    """Return every line of `text`; new templates are appended to `templates`. Without a kind no line has a template.

    Raises:
        CorruptionError: The text is not whole lines that start with a receive time.
    """
    if text and not text.endswith(b"\n"):
        raise CorruptionError("the text does not end with a newline")
    count = text.count(b"\n")
    buffer = np.frombuffer(text, np.uint8)
    places = np.empty((2, count), np.int64)
    length = np.empty(count, np.int32)
    template = np.full(count, -1, np.int16)
    values = np.full((0 if kind is None else len(kind.fields), count), ABSENT, np.int64)
    row = position = 0
    skip = kind is None
    tables = _tables(templates, kind or KINDS["trade"])
    while row < count:
        row, position = _scan(buffer, position, row, skip, *tables, places, length, template, values)
        if row == count:
            break
        end = text.index(b"\n", position)
        received, start = receive_time(buffer, position)
        if start < 0 or start >= end:
            raise CorruptionError(f"line {row} of the text is none: {text[position : min(end, position + 40)]!r}")
        found = None if kind is None or len(templates) > TEMPLATES_MAX else discover(text[start:end], kind)
        if found is not None and found not in templates:
            templates.append(found)
            tables = _tables(templates, kind or KINDS["trade"])
            continue
        places[:, row] = received, position
        length[row] = end - position
        row, position = row + 1, end + 1
    return FlatText(places[0], places[1], length, template, values)


@kernel
def _scan(
    text: Bytes,
    position: int,
    row: int,
    skip: bool,
    literals: Bytes,
    first: Int64s,
    parts: Int64s,
    time_digits: Int64s,
    words: Int64s,
    places: Int64s,
    length: Int32s,
    template: Int16s,
    values: Int64s,
) -> tuple[int, int]:
    # Reads lines from `position` on; stops at one that no template prints, or that is none, or at the end.
    count = length.size
    code = 0
    while row < count:
        received, start = receive_time(text, position)
        if start < 0 or start >= text.size or text[start] == 10:
            return row, position
        if skip:
            end = start
            while text[end] != 10:
                end += 1
        else:
            end = -1
            for attempt in range(time_digits.size):
                tried = (code + attempt) % time_digits.size
                end = _match(text, start, tried, literals, first, parts, time_digits[tried], words, values, row)
                if end >= 0:
                    code = tried
                    template[row] = tried
                    break
            if end < 0:
                return row, position
        places[0, row] = received
        places[1, row] = position
        length[row] = end - position
        position = end + 1
        row += 1
    return row, position


@kernel
def _match(
    text: Bytes,
    position: int,
    code: int,
    literals: Bytes,
    first: Int64s,
    parts: Int64s,
    time_digits: int,
    words: Int64s,
    values: Int64s,
    row: int,
) -> int:
    # Matches a frame and the newline behind it; returns the newline's position or -1.
    for field in range(values.shape[0]):
        values[field, row] = ABSENT
    for index in range(first[code], first[code + 1]):
        start, stop, field, kind, decimals = parts[index]
        if not same_bytes(text, position, literals, start, stop):
            break
        position += stop - start
        if field < 0:
            if position < text.size and text[position] == 10:
                return position
            break
        if kind == WORD:
            value, position = _word(text, position, field, literals, words)
        else:
            value, position = _value(text, position, kind, decimals, time_digits)
        if position < 0:
            break
        values[field, row] = value
    for field in range(values.shape[0]):
        values[field, row] = ABSENT
    return -1


@inlined
def _word(text: Bytes, position: int, field: int, literals: Bytes, words: Int64s) -> tuple[int, int]:
    # Which of the field's words stands before the quote, and the quote's position, or -1.
    number = 0
    for row in range(words.shape[0]):
        if words[row, 0] == field:
            end = position + words[row, 2] - words[row, 1]
            if same_bytes(text, position, literals, words[row, 1], words[row, 2]) and end < text.size and text[end] == 34:
                return number, end
            number += 1
    return 0, -1


@inlined
def _value(text: Bytes, position: int, kind: int, decimals: int, time_digits: int) -> tuple[int, int]:
    # A field's value and the position behind it, or -1.
    if kind == TRUTH:
        if same_bytes(text, position, _TRUTHS, 0, 4):
            return 1, position + 4
        return 0, position + 5 if same_bytes(text, position, _TRUTHS, 4, 9) else -1
    sign = 1
    if kind == SIGNED and position < text.size and text[position] == 45:
        sign = -1
        position += 1
    count, value = digits(text, position)
    if count == 0 or (count > 1 and text[position] == 48):
        return 0, -1
    position += count
    if kind == TIME:
        if count != time_digits:
            return 0, -1
        return value * 1000 if count == 13 else value, position
    if kind in (DECIMAL, SIGNED) and decimals:
        if position >= text.size or text[position] != 46:
            return 0, -1
        more, fraction = digits(text, position + 1)
        if more != decimals or count + more > 18:
            return 0, -1
        value = value * POWERS_OF_TEN[decimals] + fraction
        position += 1 + decimals
    if sign < 0 and value == 0:
        return 0, -1  # a negative zero would lose its sign
    return sign * value, position


# --- columns to text -----------------------------------------------------------------------------------------------------------


def print_lines(
    kind: FlatKind, templates: Sequence[FlatTemplate], codes: Int16s, receive_time_ns: Int64s, values: Int64s
) -> tuple[Bytes, Int64s]:
    """Return the raw lines of all rows with their newlines, and where each begins (with the end of the last).

    Args:
        kind: What the rows are.
        templates: What `codes` are positions in.
        codes: The template of each row.
        receive_time_ns: When each was heard.
        values: int64[fields, rows], mantissas at the decimals of the row's template.

    Raises:
        CorruptionError: A row cannot be printed.
    """
    count = len(codes)
    if count and not (int(codes.min()) >= 0 and int(codes.max()) < len(templates)):
        raise CorruptionError(f"templates {int(codes.min())} to {int(codes.max())} of {len(templates)}")
    literal = max((sum(len(part.encode()) for part in template.parts) for template in templates), default=0)
    out = np.empty(count * (literal + 24 * (len(kind.fields) + 1)) + 32, np.uint8)
    starts = np.zeros(count + 1, np.int64)
    done = _print(out, starts, np.ascontiguousarray(codes), receive_time_ns, values, *_tables(templates, kind))
    if done != count:
        raise CorruptionError(f"row {done} (id {values[0, done]}) cannot be printed by template {codes[done]}")
    return out[: starts[-1]], starts


@kernel
def _print(
    out: Bytes,
    starts: Int64s,
    codes: Int16s,
    receive_time_ns: Int64s,
    values: Int64s,
    literals: Bytes,
    first: Int64s,
    parts: Int64s,
    time_digits: Int64s,
    words: Int64s,
) -> int:
    position = 0
    for row in range(codes.size):
        code = np.int64(codes[row])
        position = put_integer(out, position, receive_time_ns[row])
        out[position] = 32
        position += 1
        for index in range(first[code], first[code + 1]):
            start, stop, field, kind, decimals = parts[index]
            position = put_bytes(out, position, literals, start, stop)
            if field < 0:
                break
            value = values[field, row]
            if value < 0:
                if kind != SIGNED or value == ABSENT:
                    return row
                out[position] = 45
                position += 1
                value = -value
            if kind == TIME and time_digits[code] == 13:
                if value % 1000:
                    return row
                value //= 1000
            if kind == WORD:
                number = 0
                end = -1
                for place in range(words.shape[0]):
                    if words[place, 0] == field:
                        if number == value:
                            end = put_bytes(out, position, literals, words[place, 1], words[place, 2])
                        number += 1
                if end < 0:
                    return row
                position = end
            elif kind == TRUTH:
                position = put_bytes(out, position, _TRUTHS, 0, 4) if value else put_bytes(out, position, _TRUTHS, 4, 9)
            elif decimals:
                whole = value // POWERS_OF_TEN[decimals]
                position = put_integer(out, position, whole)
                out[position] = 46
                position = put_digits(out, position + 1, value - whole * POWERS_OF_TEN[decimals], decimals)
            else:
                position = put_integer(out, position, value)
        out[position] = 10
        position += 1
        starts[row + 1] = position
    return codes.size
