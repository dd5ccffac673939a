"""How frames are printed: sets of templates, and finding the template of a frame by looking at it.

A *template* is a frame with its variable fields cut out. Which one a frame has is a function of the frame alone: at most one fits, and
a frame without any level has decimals 0 and 0, whatever its neighbours have.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple, overload

import msgspec
import numpy as np

from twintape.columns.bodies import body_format
from twintape.columns.kernel import DIGITS_MAX, Bytes, Int64s, Words
from twintape.columns.schema import DECIMALS_MAX, FIELDS, TIME_DIGITS, Template
from twintape.core import wire
from twintape.core.errors import WireError
from twintape.core.markets import Market

__all__ = ["TEMPLATES_MAX", "Tables", "TemplateSet", "discover", "discover_partial"]

TEMPLATES_MAX = 256
"""Shapes of frames per stream; any further shape goes the slow way."""

_KEY = re.compile(rb'"(E|T|U|u|pu|b|a)":')
_NEEDED = frozenset(("E", "U", "u", "b", "a"))
_PARTIAL_KEY = re.compile(rb'"(lastUpdateId|bids|asks)":')
_PARTIAL_NAMES = {"lastUpdateId": "u", "bids": "b", "asks": "a"}
_INTEGER = re.compile(rb"0|[1-9]\d{0,17}")
_NUMBER = rb"(?:0|[1-9]\d*)(?:\.\d+)?"
_LEVEL = rb'\["' + _NUMBER + rb'","' + _NUMBER + rb'"(?:,\[\])?\]'
_ARRAY = re.compile(rb"\[(?:" + _LEVEL + rb"(?:," + _LEVEL + rb")*)?\]")
_FIRST_LEVEL = re.compile(rb'\["\d+\.?(\d*)","\d+\.?(\d*)"(,\[\])?\]')


class Tables(NamedTuple):
    """A template set as the arrays the kernels read.

    Attributes:
        literals: All literal text, one after another.
        part: int64[template+1]: the parts of template t are rows `[part[t], part[t+1])` of `parts`.
        parts: int64[part, 3]: start and stop of the literal, code of the field behind it (-1: none, the end).
        numbers: int64[template, 5]: price decimals, quantity decimals, start and stop of the level suffix, digits of a time.
        formats: uint64[template]: how bodies are printed (`bodies.body_format`), 0 where they have none of their own.
    """

    literals: Bytes
    part: Int64s
    parts: Int64s
    numbers: Int64s
    formats: Words


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
            parts.append((*put(template.parts[position]), -1 if last else FIELDS.index(template.parts[position + 1])))
        first_parts.append(len(parts))
        decimals = (template.price_decimals, template.quantity_decimals)
        numbers.append((*decimals, *put(template.level_suffix), TIME_DIGITS[template.time_unit]))
    literals.extend(bytes(8))  # words are loaded whole
    return Tables(
        np.frombuffer(bytes(literals), np.uint8),
        np.array(first_parts, np.int64),
        np.array(parts, np.int64).reshape(-1, 3),
        np.array(numbers, np.int64).reshape(-1, 5),
        np.array([body_format(template) for template in templates], np.uint64),
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
    cut = _cut(frame, _KEY, {})
    if cut is None or not cut[1].keys() >= _NEEDED:  # a field that was not cut would be literal text: printed, and never read
        return None
    text = cut[1]
    time_unit = "us" if event.event_time_us % 1000 or len(text["E"]) == TIME_DIGITS["us"] else "ms"
    template = _template(cut[0], text, time_unit)
    divisor = 1000 if time_unit == "ms" else 1
    values = {
        "E": event.event_time_us // divisor,
        "T": None if event.transaction_time_us is None else event.transaction_time_us // divisor,
        "U": event.first_update_id,
        "u": event.final_update_id,
        "pu": None if market is Market.SPOT else event.prev_update_id,
    }
    return template if _prints(template, values, event.bids, event.asks, frame) else None


class _Partial(msgspec.Struct):
    last: int = msgspec.field(name="lastUpdateId")
    bids: list[tuple[str, str]]
    asks: list[tuple[str, str]]


_decode_partial = msgspec.json.Decoder(_Partial).decode


def discover_partial(frame: bytes) -> Template | None:
    """Return the template that prints a frame of a partial depth stream, or None: futures' are depth frames, spot's name one id.

    >>> discover_partial(b'{"lastUpdateId":160,"bids":[["0.0024","10"]],"asks":[]}').parts[1::2]
    ('u', 'b', 'a')
    """
    found = discover(frame, Market.USDM)
    if found is not None:
        return found
    try:
        partial = _decode_partial(wire.unwrap(frame))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, WireError):
        return None
    cut = None if b"\\" in frame else _cut(frame, _PARTIAL_KEY, _PARTIAL_NAMES)
    if cut is None or len(cut[1]) < len(_PARTIAL_NAMES):
        return None
    template = _template(cut[0], cut[1], "ms")
    return template if _prints(template, {"u": partial.last}, partial.bids, partial.asks, frame) else None


def _template(parts: tuple[str, ...], text: dict[str, bytes], time_unit: str) -> Template:
    level = _FIRST_LEVEL.match(text["b"], 1) or _FIRST_LEVEL.match(text["a"], 1)
    return Template(
        parts=parts,
        price_decimals=len(level[1]) if level else 0,
        quantity_decimals=len(level[2]) if level else 0,
        level_suffix=",[]" if level and level[3] else "",
        time_unit=time_unit,
    )


def _cut(frame: bytes, keys: re.Pattern[bytes], names: Mapping[str, str]) -> tuple[tuple[str, ...], dict[str, bytes]] | None:
    # Cuts the frame at its fields: the parts of a template and the text of each field.
    try:
        parts: list[str] = []
        fields: dict[str, bytes] = {}
        done = 0
        while key := keys.search(frame, done):
            name = names.get(key[1].decode(), key[1].decode())
            value = (_ARRAY if name in "ba" else _INTEGER).match(frame, key.end())
            if value is None or name in fields:
                return None
            parts += [frame[done : key.end()].decode(), name]
            fields[name] = value[0]
            done = value.end()
        parts.append(frame[done:].decode())
    except UnicodeDecodeError:  # inside a value that decoding skipped
        return None
    return tuple(parts), fields


def _prints(
    template: Template,
    values: Mapping[str, int | None],
    bids: Sequence[tuple[str, str]],
    asks: Sequence[tuple[str, str]],
    frame: bytes,
) -> bool:
    # Whether the values, printed as the template says, are the frame: what the kernel will find, said slowly.
    decimals = (template.price_decimals, template.quantity_decimals)
    sides = {"b": _print_side(bids, decimals, template), "a": _print_side(asks, decimals, template)}
    printed = list(template.parts)
    for position in range(1, len(printed), 2):
        name = printed[position]
        value = sides[name] if name in sides else values[name]
        if value is None or (name in "ET" and len(str(value)) != TIME_DIGITS[template.time_unit]):
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
