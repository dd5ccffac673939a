"""Bodies of depth frames that were checked not long ago: what one line says, the others say again, byte for byte.

Whether a body, the text of both level arrays, is spelled as its template prints it is found by looking at every digit. For a body with the same bytes in a
frame with the same last id the answer is the same: equality is decided by two 64-bit hashes, which a header holds in any case, and by its length. What
is remembered makes nothing different but the time it takes.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

from twintape.columns.kernel import Bytes, Words, hash_body, inlined, kernel
from twintape.columns.schema import Template

__all__ = ["BODY_WORDS", "NO_BODIES", "body_format", "body_parts", "find_body", "keep_body", "new_bodies"]

BODIES_KEPT = 1 << 16
"""Of so many bodies is known that they were checked, 4 MiB: copies of an event come within minutes of each other."""
BODY_WORDS = 8
_KEY, _FORMAT, _SIZE, _HASH_A, _HASH_B, _PRICE_USED, _QUANTITY_USED, _LEVELS = range(BODY_WORDS)
_SPREAD = np.uint64(0x9E3779B97F4A7C15)
_ONE = np.uint64(1)

NO_BODIES: Words = np.zeros((0, BODY_WORDS), np.uint64)
"""Nothing is remembered."""


def new_bodies() -> Words:
    """Return an empty memory of bodies.

    A row is last id + 1 (0: empty), format, size, two hashes, which decimals are not zero, and in one word whether it has levels (the lowest bit) and where
    they are kept + 1.
    """
    return np.zeros((BODIES_KEPT, BODY_WORDS), np.uint64)


def body_parts(template: Template) -> tuple[object, ...] | None:
    """Return how the template prints a body, the text from the first `[` to the last `]`, or None if more than the levels stand there."""
    sides = [place for place in range(1, len(template.parts), 2) if template.parts[place] in "ba"]
    if len(sides) != 2 or sides[1] != sides[0] + 2:
        return None
    head, tail = "".join(template.parts[: sides[0]]), "".join(template.parts[sides[1] + 1 :])
    if "[" in head or "]" in tail:
        return None
    return (
        *template.parts[sides[0] : sides[1] + 1],
        template.price_decimals,
        template.quantity_decimals,
        template.level_suffix,
    )


def body_format(template: Template) -> int:
    """Return a number for how the template prints a body, 0 if it has no body of its own."""
    parts = body_parts(template)
    if parts is None:
        return 0
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8], "little") | 1


@inlined
def _row(bodies: Words, final: int) -> Any:
    # The number of rows is a power of two.
    return np.int64(((np.uint64(final) * _SPREAD) >> np.uint64(40)) & np.uint64(bodies.shape[0] - 1))


@kernel
def find_body(
    bodies: Words, body_format: np.uint64, final: int, text: Bytes, start: int, used: Words, found: Words
) -> tuple[Any, Any, Any]:
    """Find out whether the body at `start` of a frame with the last id `final` is one that was checked.

    Args:
        bodies: What is remembered.
        body_format: Of the frame's template; not 0.
        final: The id.
        text: Where the body stands.
        start: Its first byte.
        used: Out: which decimals of prices and of quantities are not zero.
        found: Out: the body's hashes.

    Returns:
        The position behind the body, or -1; whether it has levels; and where they are kept, or -1.
    """
    if bodies.shape[0] == 0:
        return -1, 0, -1
    known = bodies[_row(bodies, final)]
    stop: Any = start + np.int64(known[_SIZE])
    if known[_KEY] != np.uint64(final) + _ONE or known[_FORMAT] != body_format or stop > text.size:
        return -1, 0, -1
    first, second = hash_body(text, start, stop)
    if first != known[_HASH_A] or second != known[_HASH_B]:
        return -1, 0, -1
    used[0], used[1] = known[_PRICE_USED], known[_QUANTITY_USED]
    found[0], found[1] = first, second
    levels = np.int64(known[_LEVELS])
    return stop, levels & 1, (levels >> 1) - 1


@kernel
def keep_body(
    bodies: Words, body_format: np.uint64, final: int, size: int, used: Words, found: Words, levels: int, place: int
) -> None:
    """Remember a body that was checked, whether it has levels, and where they are kept (-1: nowhere)."""
    if bodies.shape[0] == 0:
        return
    row = _row(bodies, final)
    bodies[row, _KEY] = np.uint64(final) + _ONE
    bodies[row, _FORMAT] = body_format
    bodies[row, _SIZE] = np.uint64(size)
    bodies[row, _HASH_A], bodies[row, _HASH_B] = found[0], found[1]
    bodies[row, _PRICE_USED], bodies[row, _QUANTITY_USED] = used[0], used[1]
    bodies[row, _LEVELS] = np.uint64(((place + 1) << 1) | min(levels, 1))
