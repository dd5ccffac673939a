"""Texts of decimals to mantissas, many at a time."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal

import numpy as np

from twintape.columns.kernel import DIGITS_MAX, POWERS_OF_TEN, Bytes, Int64s, kernel

__all__ = ["decimals_needed", "mantissas"]


def mantissas(texts: Sequence[str], exponent: int) -> Int64s:
    """Return plain decimals as multiples of `10**exponent`; digits behind that are cut off.

    >>> mantissas(["1.50", "2"], -2).tolist()
    [150, 200]

    Raises:
        OverflowError: One does not fit into 64 bits.
    """
    found = np.empty(len(texts), np.int64)
    if -DIGITS_MAX <= exponent <= 0 and _mantissas(_joined(texts), -exponent, found) == len(texts):
        return found
    return np.array([int(Decimal(text).scaleb(-exponent)) for text in texts], np.int64)


def decimals_needed(texts: Sequence[str]) -> int:
    """Return the most digits behind the point, trailing zeros aside, that any of the plain decimals has.

    >>> decimals_needed(["1.50", "2"]), decimals_needed([])
    (1, 0)
    """
    return int(_needed(_joined(texts)))


def _joined(texts: Sequence[str]) -> Bytes:
    return np.frombuffer(("\n".join(texts) + "\n").encode() if texts else b"", np.uint8)


@kernel
def _mantissas(text: Bytes, decimals: int, out: Int64s) -> int:
    # Reads lines; stops at one that is no plain decimal or has a mantissa of over 18 digits, and returns how many were read.
    row = position = 0
    while position < text.size and row < out.size:
        value = np.int64(0)
        digits = 0
        behind = -1
        while text[position] != 10:
            byte = text[position]
            position += 1
            if byte == 46 and behind < 0:
                behind = 0
                continue
            if byte < 48 or byte > 57:
                return row
            if behind >= 0:
                if behind == decimals:
                    continue
                behind += 1
            if value > 0 or byte > 48:
                digits += 1
            if digits > 18:
                return row
            value = value * 10 + (np.int64(byte) - 48)
        position += 1
        rest = decimals - (behind if behind > 0 else 0)
        if digits + rest > 18:
            return row
        out[row] = value * POWERS_OF_TEN[rest]
        row += 1
    return row


@kernel
def _needed(text: Bytes) -> int:
    needed = 0
    behind = -1
    for position in range(text.size):
        byte = text[position]
        if byte == 10:
            behind = -1
        elif byte == 46:
            behind = 0
        elif behind >= 0:
            behind += 1
            if byte != 48 and behind > needed:
                needed = behind
    return needed
