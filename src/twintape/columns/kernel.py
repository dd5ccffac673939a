"""What the compiled kernels share: the decorator, unaligned eight-byte words, eight digits at a time, and the content hash.

Text is read and written eight bytes at a time as little-endian words (SIMD within a register): the first character is the lowest
byte. Kernels are module-level functions with plain array and integer arguments, so that their machine code is cached beside the
source; they release the GIL. Integers of different signedness must never meet in one expression, numba would make them floats.
"""

from __future__ import annotations

from collections.abc import Callable
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
    "hash_lines",
    "hash_ranges",
    "kernel",
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

_ASCII_ZEROS = np.uint64(0x3030303030303030)
_ABOVE_NINE = np.uint64(0x7676767676767676)
_HIGH_BITS = np.uint64(0x8080808080808080)
_PAIRS = np.uint64(0x0F0F0F0F0F0F0F0F)
_QUADS = np.uint64(0x00FF00FF00FF00FF)
_HALVES = np.uint64(0x0000FFFF0000FFFF)
_HASH_SEEDS = (np.uint64(0x9E3779B97F4A7C15), np.uint64(0xD1B54A32D192ED03))
_HASH_FIRST = np.uint64(0xA0761D6478BD642F)
_HASH_SECOND = np.uint64(0xE7037ED1A0B428DB)
_HASH_FINAL = np.uint64(0xFF51AFD7ED558CCD)


# Entries for C and for Python cost compile time: no kernel is called from C, and the inlined ones only by kernels.
_OPTIONS: dict[str, Any] = {"cache": True, "nogil": True, "no_cfunc_wrapper": True}
_INLINED: dict[str, Any] = {**_OPTIONS, "forceinline": True, "no_cpython_wrapper": True}


def kernel(function: Function) -> Function:
    """Compile `function` on first use, keep the machine code on disk, run it without the GIL."""
    return cast("Function", numba.njit(**_OPTIONS)(function))


def inlined(function: Function) -> Function:
    """Compile `function` into each of its callers; for the few lines that run for every number."""
    return cast("Function", numba.njit(**_INLINED)(function))


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
def eight_digits(word: np.uint64) -> tuple[int, np.uint64]:
    """Return how many of the word's first bytes are digits, and these digits as byte values, the last one in the highest byte."""
    values = word ^ _ASCII_ZEROS
    # A byte over nine sets its high bit; the carry out of it can only disturb later bytes.
    others = (values | (values + _ABOVE_NINE)) & _HIGH_BITS
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
def _absorb(text: Bytes, start: int, stop: int, first: np.uint64, second: np.uint64) -> tuple[np.uint64, np.uint64]:
    # Each step is a permutation of the state for any word, and of the word for any state.
    position = start
    while position + 8 <= stop:
        word = _load(text, position)
        first = (first ^ word) * _HASH_FIRST
        first ^= first >> np.uint64(32)
        second = (second + word) * _HASH_SECOND
        second ^= second >> np.uint64(29)
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
def hash_ranges(text: Bytes, bid_start: int, bid_stop: int, ask_start: int, ask_stop: int) -> tuple[np.uint64, np.uint64]:
    """Return two independent 64-bit hashes of the two byte ranges, in this order."""
    first, second = _absorb(text, bid_start, bid_stop, _HASH_SEEDS[0], _HASH_SEEDS[1])
    return _absorb(text, ask_start, ask_stop, first, second)


@kernel
def hash_lines(text: Bytes, starts: Int64s, stops: Int64s, seed: Bytes, out: NDArray[np.uint64]) -> None:
    """Write two independent 64-bit hashes of each byte range, salted with `seed`, into a row of `out`."""
    first, second = _absorb(seed, 0, seed.size, _HASH_SEEDS[0], _HASH_SEEDS[1])
    for row in range(len(starts)):
        out[row, 0], out[row, 1] = _absorb(text, starts[row], stops[row], first, second)


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
