"""What the compiled kernels share: the decorator, unaligned eight-byte words, eight digits at a time, and the content hash.

Text is read and written eight bytes at a time as little-endian words (SIMD within a register): the first character is the lowest
byte. Kernels are module-level functions with plain array and integer arguments, so that their machine code is cached beside the
source; they release the GIL. Integers of different signedness must never meet in one expression, numba would make them floats.

numba takes cached code for current as long as the file of the function itself is the same, whatever has become of the functions it calls. Here code is
compiled into other modules' kernels, so the cache is stamped with the source of the whole package.
"""

from __future__ import annotations

import hashlib
import importlib.resources
from collections.abc import Callable
from functools import lru_cache
from typing import Any, TypeVar, cast

import numba
import numpy as np
from numba.core import cgutils, types
from numba.extending import intrinsic
from numpy.typing import NDArray

__all__ = [
    "POWERS_OF_TEN",
    "Bytes",
    "Int16s",
    "Int32s",
    "Int64s",
    "Words",
    "digits",
    "hash_around",
    "hash_body",
    "hash_bytes",
    "hash_line",
    "hash_lines",
    "hash_seed",
    "kernel",
    "load_word",
    "not_digits",
    "put_digits",
    "put_integer",
    "same_bytes",
]

Function = TypeVar("Function", bound=Callable[..., Any])
Bytes = NDArray[np.uint8]
Int8s = NDArray[np.int8]
Int16s = NDArray[np.int16]
Int32s = NDArray[np.int32]
Int64s = NDArray[np.int64]
Words = NDArray[np.uint64]

POWERS_OF_TEN: Int64s = np.array([10**power for power in range(19)], dtype=np.int64)
"""10^0 … 10^18, all that an int64 holds."""

DIGITS_MAX = 18
"""Numbers with more digits are left to the slow path: every 18-digit number fits an int64."""

SEEDS_KEPT = 4096
"""Connections whose seeds of digests are remembered: each object of one asks for the same."""

_ASCII_ZEROS = np.uint64(0x3030303030303030)
_ABOVE_NINE = np.uint64(0x7676767676767676)
_HIGH_BITS = np.uint64(0x8080808080808080)
_PAIRS = np.uint64(0x0F0F0F0F0F0F0F0F)
_QUADS = np.uint64(0x00FF00FF00FF00FF)
_HALVES = np.uint64(0x0000FFFF0000FFFF)
_OPENING = np.uint64(0x5B5B5B5B5B5B5B5B)
_ONES = np.uint64(0x0101010101010101)
_HASH_SEEDS = (np.uint64(0x9E3779B97F4A7C15), np.uint64(0xD1B54A32D192ED03))
_HASH_FIRST = np.uint64(0xA0761D6478BD642F)
_HASH_SECOND = np.uint64(0xE7037ED1A0B428DB)
_HASH_FINAL = np.uint64(0xFF51AFD7ED558CCD)


# Entries for C and for Python cost compile time: no kernel is called from C, and the inlined ones only by kernels.
_OPTIONS: dict[str, Any] = {"cache": True, "nogil": True, "no_cfunc_wrapper": True}
_INLINED: dict[str, Any] = {**_OPTIONS, "forceinline": True, "no_cpython_wrapper": True}


def _sources_sha256() -> str:
    names = sorted(
        (file for file in importlib.resources.files(__package__).iterdir() if file.name.endswith(".py")),
        key=lambda file: file.name,
    )
    return hashlib.sha256(b"".join(file.read_bytes() for file in names)).hexdigest()


_SOURCES = _sources_sha256()


def _compiled(function: Function, options: dict[str, Any]) -> Function:
    found: Any = numba.njit(**options)(function)
    file: Any = getattr(getattr(found, "_cache", None), "_cache_file", None)
    if not hasattr(file, "_source_stamp"):  # another numba: better slow at the start than wrong
        return cast("Function", numba.njit(**options | {"cache": False})(function))
    file._source_stamp = (file._source_stamp, _SOURCES)
    return cast("Function", found)


def kernel(function: Function) -> Function:
    """Compile `function` on first use, keep the machine code on disk, run it without the GIL."""
    return _compiled(function, _OPTIONS)


def inlined(function: Function) -> Function:
    """Compile `function` into each of its callers; for the few lines that run for every number."""
    return _compiled(function, _INLINED)


def _pointer(context: Any, builder: Any, array_type: Any, array: Any, index: Any) -> Any:
    data = context.make_array(array_type)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [index]), cgutils.intp_t.as_pointer())


def _load_word(typing_context: Any, array: Any, index: Any) -> Any:  # noqa: ARG001 - numba's calling convention
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.load(_pointer(context, builder, signature.args[0], arguments[0], arguments[1]), align=1)

    return types.uint64(array, types.intp), generate


def _store_word(typing_context: Any, array: Any, index: Any, word: Any) -> Any:  # noqa: ARG001 - numba's calling convention
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        builder.store(arguments[2], _pointer(context, builder, signature.args[0], arguments[0], arguments[1]), align=1)
        return context.get_dummy_value()

    return types.void(array, types.intp, types.uint64), generate


def _trailing_zeros(typing_context: Any, word: Any) -> Any:  # noqa: ARG001 - numba's calling convention
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:  # noqa: ARG001
        return builder.cttz(arguments[0], cgutils.false_bit)

    return types.int64(types.uint64), generate


def _leading_zeros(typing_context: Any, word: Any) -> Any:  # noqa: ARG001 - numba's calling convention
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:  # noqa: ARG001
        return builder.ctlz(arguments[0], cgutils.false_bit)

    return types.int64(types.uint64), generate


_load = cast("Callable[[Bytes, int], np.uint64]", intrinsic(_load_word))
_store = cast("Callable[[Bytes, int, np.uint64], None]", intrinsic(_store_word))
load_word = _load
"""The eight bytes from a position; all of them must be there."""
first_bit = cast("Callable[[np.uint64], int]", intrinsic(_trailing_zeros))
"""Position of the lowest one bit; 64 if there is none."""
zeros_above = cast("Callable[[np.uint64], int]", intrinsic(_leading_zeros))
"""How many zero bits stand above the highest one bit."""


@kernel
def _last_word(text: Bytes, position: int) -> np.uint64:
    word = np.uint64(0)
    for index in range(text.size - 1, position - 1, -1):
        word = (word << np.uint64(8)) | np.uint64(text[index])
    return word


@inlined
def word_at(text: Bytes, position: int) -> np.uint64:
    """Return the eight bytes from `position`; behind the end of the text there are zeros."""
    if position + 8 <= text.size:
        return _load(text, position)
    return _last_word(text, position)


@kernel
def same_bytes(text: Bytes, position: int, other: Bytes, start: int, stop: int) -> bool:
    """Return whether the text at `position` begins with `other[start:stop]` (which has no NUL)."""
    return same(text, position, other, start, stop)


@inlined
def same(text: Bytes, position: int, other: Bytes, start: int, stop: int) -> bool:
    """Do what `same_bytes` does, within the caller."""
    size = stop - start
    done = 0
    while done + 8 <= size:
        if word_at(text, position + done) != _load(other, start + done):
            return False
        done += 8
    if done == size:
        return True
    shift = np.uint64(8 * (8 - (size - done)))
    difference = (word_at(text, position + done) ^ word_at(other, start + done)) << shift
    return bool(difference == np.uint64(0))


@inlined
def not_digits(word: np.uint64) -> np.uint64:
    """Return a word without a one bit below the first byte that is no digit; zero if all eight are digits."""
    values = word ^ _ASCII_ZEROS
    # A byte over nine sets its high bit; the carry out of it can only disturb later bytes.
    return (values | (values + _ABOVE_NINE)) & _HIGH_BITS


@inlined
def eight_digits(word: np.uint64) -> tuple[int, np.uint64]:
    """Return how many of the word's first bytes are digits, and these digits as byte values, the last one in the highest byte."""
    values = word ^ _ASCII_ZEROS
    others = not_digits(word)
    if others == np.uint64(0):
        return 8, values
    count = first_bit(others) >> 3
    if count == 0:
        return 0, np.uint64(0)
    return count, values << np.uint64(64 - 8 * count)


@inlined
def value_of(values: np.uint64) -> Any:
    """Return the number that eight byte values spell, most significant in the lowest byte."""
    values = ((values & _PAIRS) * np.uint64(2561)) >> np.uint64(8)
    values = ((values & _QUADS) * np.uint64(6553601)) >> np.uint64(16)
    return np.int64(((values & _HALVES) * np.uint64(42949672960001)) >> np.uint64(32))


@kernel
def digits(text: Bytes, position: int) -> tuple[int, int]:
    """Return how many digits stand at `position` and their value; over 18 digits count as none."""
    return digits_at(text, position)


@inlined
def digits_at(text: Bytes, position: int) -> tuple[int, int]:
    """Do what `digits` does, within the caller."""
    count, values = eight_digits(word_at(text, position))
    value = value_of(values)
    if count == 8:
        more, values = eight_digits(word_at(text, position + 8))
        count += more
        value = value * POWERS_OF_TEN[more] + value_of(values)
        if more == 8:
            more, values = eight_digits(word_at(text, position + 16))
            if more > DIGITS_MAX - 16:
                return 0, 0
            count += more
            value = value * POWERS_OF_TEN[more] + value_of(values)
    return count, value


@inlined
def _stir_first(state: np.uint64, word: np.uint64) -> np.uint64:
    # A permutation of the state for any word, and of the word for any state.
    state = (state ^ word) * _HASH_FIRST
    return state ^ (state >> np.uint64(32))


@inlined
def _stir_second(state: np.uint64, word: np.uint64) -> np.uint64:
    state = (state + word) * _HASH_SECOND
    return state ^ (state >> np.uint64(29))


@inlined
def _mixed(state: np.uint64) -> np.uint64:
    state = (state ^ (state >> np.uint64(30))) * _HASH_FINAL
    state = (state ^ (state >> np.uint64(27))) * _HASH_FIRST
    return state ^ (state >> np.uint64(31))


@inlined
def _absorb(text: Bytes, start: int, stop: int, first: np.uint64, second: np.uint64) -> tuple[np.uint64, np.uint64]:
    position = start
    if position + 64 <= stop:
        # Four chains side by side: a multiplication need not wait for the one before. Each word goes into one chain of either hash.
        a0, a1, a2, a3 = first, first + _HASH_SECOND, first ^ _HASH_FINAL, first + _HASH_FINAL
        b0, b1, b2, b3 = second, second + _HASH_FIRST, second ^ _HASH_FINAL, second + _HASH_FINAL
        while position + 32 <= stop:
            w0, w1 = _load(text, position), _load(text, position + 8)
            w2, w3 = _load(text, position + 16), _load(text, position + 24)
            a0, a1, a2, a3 = _stir_first(a0, w0), _stir_first(a1, w1), _stir_first(a2, w2), _stir_first(a3, w3)
            b0, b1, b2, b3 = _stir_second(b0, w0), _stir_second(b1, w1), _stir_second(b2, w2), _stir_second(b3, w3)
            position += 32
        # Mixed each for itself before they are joined: else the same change in one chain or in another would come to the same.
        first = _stir_first(_stir_first(_stir_first(_mixed(a0), _mixed(a1)), _mixed(a2)), _mixed(a3))
        second = _stir_second(_stir_second(_stir_second(_mixed(b0), _mixed(b1)), _mixed(b2)), _mixed(b3))
    while position + 8 <= stop:
        word = _load(text, position)
        first = _stir_first(first, word)
        second = _stir_second(second, word)
        position += 8
    word = np.uint64(0)
    if position < stop:
        shift = np.uint64(8 * (8 - (stop - position)))
        word = word_at(text, position) << shift
    size = np.uint64(stop - start)
    first = ((first ^ word) * _HASH_FIRST) ^ size
    first = (first ^ (first >> np.uint64(32))) * _HASH_FINAL
    second = ((second + word) * _HASH_SECOND) + size
    second = (second ^ (second >> np.uint64(29))) * _HASH_FINAL
    return first ^ (first >> np.uint64(33)), second ^ (second >> np.uint64(31))


@kernel
def hash_bytes(text: Bytes, start: int, stop: int, first: np.uint64, second: np.uint64) -> tuple[np.uint64, np.uint64]:
    """Return two independent 64-bit hashes of `text[start:stop]` that go on from two others."""
    return _absorb(text, start, stop, first, second)


@lru_cache(maxsize=SEEDS_KEPT)
def hash_seed(collector: str, connection: str) -> tuple[np.uint64, np.uint64]:
    """Return what the digests of one connection's lines go on from."""
    name = np.frombuffer(f"{collector}\n{connection}\n".encode(), np.uint8)
    first, second = hash_bytes(name, 0, name.size, *_HASH_SEEDS)
    return np.uint64(first), np.uint64(second)  # as Python integers they would be signed, or too large


@kernel
def _first_bracket(text: Bytes, position: int, stop: int) -> int:
    # Where the first `[` stands in `text[position:stop]`, or `stop`.
    while position + 8 <= stop:
        other = _load(text, position) ^ _OPENING
        found = (other - _ONES) & ~other & _HIGH_BITS  # the lowest byte that is zero is exact
        if found != np.uint64(0):
            return position + (first_bit(found) >> 3)
        position += 8
    while position < stop and text[position] != 91:
        position += 1
    return position


@inlined
def hash_body(text: Bytes, start: int, stop: int) -> tuple[np.uint64, np.uint64]:
    """Return two independent 64-bit hashes of a body (see `hash_line`)."""
    return _absorb(text, start, stop, _HASH_SEEDS[0], _HASH_SEEDS[1])


@inlined
def hash_around(
    text: Bytes,
    head: tuple[int, int],
    tail: tuple[int, int],
    body: tuple[np.uint64, np.uint64],
    seed: tuple[np.uint64, np.uint64],
) -> tuple[np.uint64, np.uint64]:
    """Return the digest of a line from the ranges before and behind its body and the body's hashes."""
    first, second = _absorb(text, head[0], head[1], seed[0], seed[1])
    first, second = _absorb(text, tail[0], tail[1], first, second)
    return _stir_first(first, body[0]), _stir_second(second, body[1])


@kernel
def hash_line(
    text: Bytes, start: int, stop: int, seed_first: np.uint64, seed_second: np.uint64
) -> tuple[np.uint64, np.uint64, np.uint64, np.uint64]:
    """Return the 128-bit digest of a line and that of its body, which is what stands between its first `[` and its last `]`.

    The digest covers every byte of `text[start:stop]`. Copies of an event that were heard elsewhere differ around the body, never in it: so the digest of
    a copy follows from the body's and the few bytes around it.
    """
    opening = _first_bracket(text, start, stop)
    closing = stop - 1
    while closing > opening and text[closing] != 93:
        closing -= 1
    if closing <= opening:
        opening, closing = stop, stop - 1
    body = hash_body(text, opening, closing + 1)
    digest = hash_around(text, (start, opening), (closing + 1, stop), body, (seed_first, seed_second))
    return digest[0], digest[1], body[0], body[1]


@kernel
def hash_lines(
    text: Bytes, starts: Int64s, stops: Int64s, seed_first: np.uint64, seed_second: np.uint64, out: NDArray[np.uint64]
) -> None:
    """Write the digest of each byte range, a line, into a row of `out`."""
    for row in range(len(starts)):
        out[row, 0], out[row, 1], _, _ = hash_line(text, starts[row], stops[row], seed_first, seed_second)


@inlined
def _digit_word(value: int) -> np.uint64:
    # The eight digits of a number below 10^8 as byte values, most significant first (lowest byte).
    number = np.uint64(value)
    high = number // np.uint64(10000)
    merged = high | ((number - high * np.uint64(10000)) << np.uint64(32))
    top = ((merged * np.uint64(10486)) >> np.uint64(20)) & np.uint64(0x7F0000007F)
    hundreds = ((merged - np.uint64(100) * top) << np.uint64(16)) + top
    tens = ((hundreds * np.uint64(103)) >> np.uint64(10)) & np.uint64(0x000F000F000F000F)
    return tens + ((hundreds - np.uint64(10) * tens) << np.uint64(8))


@inlined
def put_digits(out: Bytes, position: int, value: int, count: int) -> int:
    """Write a number with exactly 1 to 8 digits and return the position behind; the bytes up to `position + 8` are scribbled over."""
    _store(out, position, (_digit_word(value) + _ASCII_ZEROS) >> np.uint64(64 - 8 * count))
    return position + count


@inlined
def _put_short(out: Bytes, position: int, value: int) -> int:
    word = _digit_word(value)
    skip = first_bit(word | np.uint64(1 << 56)) & ~7
    _store(out, position, (word + _ASCII_ZEROS) >> np.uint64(skip))
    return position + 8 - (skip >> 3)


@kernel
def _put_long(out: Bytes, position: int, value: int) -> int:
    high = value // POWERS_OF_TEN[8]
    low = value - high * POWERS_OF_TEN[8]
    if high < POWERS_OF_TEN[8]:
        position = _put_short(out, position, high)
    else:
        top = high // POWERS_OF_TEN[8]
        position = put_digits(out, _put_short(out, position, top), high - top * POWERS_OF_TEN[8], 8)
    return put_digits(out, position, low, 8)


@inlined
def put_integer(out: Bytes, position: int, value: int) -> int:
    """Write a non-negative integer and return the position behind; up to 8 bytes behind that are scribbled over."""
    if value < POWERS_OF_TEN[8]:
        return _put_short(out, position, value)
    return _put_long(out, position, value)


@inlined
def put_bytes(out: Bytes, position: int, source: Bytes, start: int, stop: int) -> int:
    """Copy `source[start:stop]`, behind which `source` has 8 more bytes, and return the position behind."""
    for done in range(0, stop - start, 8):
        _store(out, position + done, _load(source, start + done))
    return position + stop - start
