"""The compiled matcher: lines of text against templates, fields to integers, levels to mantissas.

A line matches a template when the literal text between the fields is equal byte for byte and every field is spelled in the one way a
printer would spell it (no superfluous zeros, exactly the template's decimals), so that printing its values gives the line again: what
matches renders back by construction.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from twintape.columns.bodies import BODY_WORDS, find_body, keep_body
from twintape.columns.kept import (
    AT,
    CURSOR,
    HIGH,
    PRICE_KEEP,
    QUANTITY_KEEP,
    STATE_WORDS,
    WIDE,
    finish_record,
    is_too_small,
    put_level,
)
from twintape.columns.kernel import (
    DIGITS_MAX,
    POWERS_OF_TEN,
    Bytes,
    Int16s,
    Int64s,
    Words,
    digits,
    digits_at,
    eight_digits,
    first_bit,
    hash_around,
    hash_body,
    hash_line,
    inlined,
    kernel,
    load_word,
    not_digits,
    same,
    same_bytes,
    value_of,
    word_at,
)

__all__ = ["decode_levels", "receive_time", "scan_lines"]

_E, _T, _FIRST, _FINAL, _PREV, _BIDS, _ASKS = range(7)
_PLACE, _VALUES = 11, 12
_LEVEL_BYTES_MAX = 96
"""A level of numbers with fewer than eight digits before the point, its suffix aside, and the word that is loaded behind it."""
_INT64_MAX = 2**63 - 1
_ASCII_ZEROS = np.uint64(0x3030303030303030)
_THREE_BYTES = np.uint64(0xFFFFFF)
_DIGIT_VALUES = np.uint64(0x0F0F0F0F0F0F0F0F)


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


@inlined
def _skim_number(text: Bytes, position: int, decimals: int, decimals_mask: np.uint64) -> tuple[int, np.uint64, np.uint64]:
    # The position behind a decimal, or -1, or -2 if it is for `_number` to say; the digits before the point and its decimals as byte values.
    word = load_word(text, position)
    others = not_digits(word)
    if others == np.uint64(0):
        return -2, np.uint64(0), np.uint64(0)
    count = first_bit(others) >> 3
    if count == 0 or (count > 1 and (word & np.uint64(0xFF)) == np.uint64(48)):
        return -1, np.uint64(0), np.uint64(0)
    whole = (word ^ _ASCII_ZEROS) << np.uint64(64 - 8 * count)
    position += count
    if decimals == 0:
        return position, whole, np.uint64(0)
    if text[position] != 46:
        return -1, np.uint64(0), np.uint64(0)
    word = load_word(text, position + 1)
    if (not_digits(word) & decimals_mask) != np.uint64(0):
        return -1, np.uint64(0), np.uint64(0)
    return position + 1 + decimals, whole, (word & _DIGIT_VALUES) << np.uint64(64 - 8 * decimals)


@inlined
def _kept_decimals(decimals: int, keep: int) -> tuple[np.uint64, np.uint64, Any]:
    # What cuts decimals, as byte values, to so many: a shift, a mask, and what the digits before the point are multiplied with.
    if keep == 0:
        return np.uint64(0), np.uint64(0), POWERS_OF_TEN[0]
    return np.uint64(8 * max(decimals - keep, 0)), ~np.uint64(0), POWERS_OF_TEN[min(keep, decimals)]


@kernel
def _skim_side(
    text: Bytes, position: int, literals: Bytes, numbers: Int64s, used: Words, words: Int64s, state: Int64s
) -> tuple[int, int]:
    # What `_side` does, for the usual numbers: the position behind the array, -1, or -2 if `_side` must look; and how many levels. They are written to
    # `words`, if it has room for anything, as `state` (see `kept`) says.
    size = text.size
    price_decimals, quantity_decimals, suffix_start, suffix_stop = numbers[0], numbers[1], numbers[2], numbers[3]
    price_mask = ~np.uint64(0) >> np.uint64(64 - 8 * max(price_decimals, 1))
    quantity_mask = ~np.uint64(0) >> np.uint64(64 - 8 * max(quantity_decimals, 1))
    price_shift, price_kept, price_unit = _kept_decimals(price_decimals, min(state[PRICE_KEEP], price_decimals))
    quantity_shift, quantity_kept, quantity_unit = _kept_decimals(quantity_decimals, min(state[QUANTITY_KEEP], quantity_decimals))
    store, wide, at, high = words.size > 0, state[WIDE], state[AT], state[HIGH]
    price_used, quantity_used = used[0], used[1]
    suffix = suffix_stop - suffix_start
    count = 0
    if position + 2 > size or text[position] != 91:
        return -1, 0
    position += 1
    if text[position] == 93:
        return position + 1, 0
    while True:
        if position + suffix + _LEVEL_BYTES_MAX > size:
            return -2, 0
        if (load_word(text, position) & np.uint64(0xFFFF)) != np.uint64(0x225B):  # ["
            return -1, 0
        position, whole, decimals = _skim_number(text, position + 2, price_decimals, price_mask)
        price_used |= decimals
        if position < 0:
            return position, 0
        if (load_word(text, position) & np.uint64(0xFFFFFF)) != np.uint64(0x222C22):  # ","
            return -1, 0
        position, amount, fraction = _skim_number(text, position + 3, quantity_decimals, quantity_mask)
        quantity_used |= fraction
        if position < 0:
            return position, 0
        if store:
            price = value_of(whole) * price_unit + value_of((decimals << price_shift) & price_kept)
            quantity = value_of(amount) * quantity_unit + value_of((fraction << quantity_shift) & quantity_kept)
            high |= price | quantity
            at = put_level(words, at, price, quantity, wide)
        count += 1
        if text[position] != 34:
            return -1, 0
        position += 1
        if suffix:
            if not same_bytes(text, position, literals, suffix_start, suffix_stop):
                return -1, 0
            position += suffix
        if text[position] != 93:
            return -1, 0
        following = text[position + 1]
        position += 2
        if following == 93:
            used[0], used[1] = price_used, quantity_used
            state[AT], state[HIGH] = at, high
            return position, count
        if following != 44:
            return -1, 0


@kernel
def _put_side(words: Int64s, state: Int64s, price: Int64s, quantity: Int64s, count: int) -> None:
    # Writes levels that `_side` found.
    for level in range(count):
        state[HIGH] |= price[level] | quantity[level]
        state[AT] = put_level(words, state[AT], price[level], quantity[level], state[WIDE])


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
    body_format: np.uint64,
    bodies: Words,
    body: Words,
    words: Int64s,
    state: Int64s,
) -> int:
    # Matches a frame and the newline behind it; returns the newline's position or -1. `values`: E, T, U, u, pu (-1 where the
    # template has none), then start, stop and count of the bid and the ask array, and where the levels are kept. Levels are stored in the arrays if there is
    # no room in `words`; else a body among `bodies` is not looked at (`body` are its hashes and 1, its levels are not counted but for whether there are any),
    # and the levels of others are written to `words`.
    values[_E] = values[_T] = values[_FIRST] = values[_FINAL] = values[_PREV] = -1
    used[:] = 0
    body[2] = 0
    keeps = words.size > 0
    state[AT], state[HIGH] = state[CURSOR] + 1, 0
    row = -1
    while row + 1 < parts.shape[0]:
        row += 1
        if not same(text, position, literals, parts[row, 0], parts[row, 1]):
            return -1
        position += parts[row, 1] - parts[row, 0]
        field = parts[row, 2]
        if field < 0:
            break
        start = position
        if field >= _BIDS:
            if body_format != np.uint64(0) and values[_FINAL] >= 0 and body[2] == np.uint64(0):
                # The first of the two arrays; a body that is not known is looked at as one of a template without format.
                stop, levels, place = find_body(bodies, body_format, values[_FINAL], text, start, used, body)
                if stop >= 0:
                    body[2] = 1
                    values[5], values[6], values[7] = start, stop, levels
                    values[8], values[9], values[10] = start, stop, 0
                    values[_PLACE] = place
                    position = stop
                    row += 1
                    continue
                body_format = np.uint64(0)
            position, count = -2, 0
            if keeps or bid_price.size == 0:
                position, count = _skim_side(text, start, literals, numbers, used, words, state)
            if position == -2 and field == _BIDS:
                count, position = _side(text, start, literals, numbers, limits, bid_price, bid_quantity, bid_cursor, used)
                if keeps and position >= 0:
                    _put_side(words, state, bid_price, bid_quantity, count)
            elif position == -2:
                count, position = _side(text, start, literals, numbers, limits, ask_price, ask_quantity, ask_cursor, used)
                if keeps and position >= 0:
                    _put_side(words, state, ask_price, ask_quantity, count)
            if position < 0:
                return -1
            place = 5 + 3 * (field - _BIDS)
            values[place] = start
            values[place + 1] = position
            values[place + 2] = count
            continue
        count, value = digits_at(text, start)
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
def receive_time(text: Bytes, position: int) -> tuple[int, int]:
    """Return the receive time at `position` and where the frame starts, or -1 if none stands there."""
    if position + 24 <= text.size and 49 <= text[position] <= 56:
        # As they are since 2001: 19 digits.
        first, second, third = load_word(text, position + 1), load_word(text, position + 9), load_word(text, position + 16)
        if (not_digits(first) | not_digits(second) | (not_digits(third) & _THREE_BYTES)) == np.uint64(0) and text[
            position + 19
        ] == 32:
            value = value_of(first ^ _ASCII_ZEROS) * POWERS_OF_TEN[8] + value_of(second ^ _ASCII_ZEROS)
            value = value * 100 + 10 * np.int64(text[position + 17]) + np.int64(text[position + 18]) - 528
            return value + (np.int64(text[position]) - 48) * POWERS_OF_TEN[18], position + 20
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


@inlined
def _put_fields(row: Int64s, values: Int64s, prev: int, unit: int) -> None:
    # Times and ids of a header.
    row[1] = values[_E] * unit
    row[2] = values[_T] * unit if values[_T] >= 0 else -1
    row[3] = prev
    row[4] = values[_FIRST]
    row[5] = values[_FINAL]


@kernel
def scan_lines(
    text: Bytes,
    position: int,
    row: int,
    code: int,
    spot: bool,
    seed_first: np.uint64,
    seed_second: np.uint64,
    literals: Bytes,
    part: Int64s,
    parts: Int64s,
    numbers: Int64s,
    formats: Words,
    bodies: Words,
    words: Int64s,
    state: Int64s,
    price: Int64s,
    quantity: Int64s,
    rows: Int64s,
) -> tuple[int, int, int]:
    """Scan lines from `position` until the end or one that no template matches.

    Args:
        text: Lines, whole.
        position: Where to start; the start of a line.
        row: That line's number.
        code: The template to try first.
        spot: Whether `U - 1` is the id before the event; otherwise it is `pu`.
        seed_first: What the lines' digests go on from.
        seed_second: Likewise.
        literals: This and the next four are `templates.Tables`.
        part: See there.
        parts: See there.
        numbers: See there.
        formats: See there.
        bodies: In and out: this and the next four are a `kept.Memory`.
        words: In and out: room enough for all levels of the text, or none at all.
        state: In and out.
        price: Scratch; room for all levels of a line, if `words` has any.
        quantity: Likewise.
        rows: Out, int64[line, 12]: the columns of `parse.HEADER`, of which the last two are smaller numbers side by side.

    Returns:
        Row and position of the line it stopped at, and the template that matched last.
    """
    values = np.zeros(_VALUES, np.int64)
    used = np.zeros(2, np.uint64)
    body = np.zeros(3, np.uint64)
    limits = np.array([0, 1, _INT64_MAX, 0, 1, _INT64_MAX], np.int64)
    zero = rows.size - rows.size  # not a literal: _match is compiled once
    total = numbers.shape[0]
    while row < rows.shape[0]:
        received, frame = receive_time(text, position)
        if frame < 0:
            break
        end = -1
        attempt = 0
        while attempt < total:
            candidate = code + attempt
            if candidate >= total:
                candidate -= total
            limits[0] = min(state[PRICE_KEEP], numbers[candidate, 0])
            limits[3] = min(state[QUANTITY_KEEP], numbers[candidate, 1])
            end = _match(
                text, frame, literals, parts[part[candidate] : part[candidate + 1]], numbers[candidate],
                limits, price, quantity, zero, price, quantity, zero, values, used, formats[candidate], bodies, body, words, state,
            )  # fmt: skip
            if end < 0:
                attempt += 1
                continue
            price_decimals = _significant(used[0], numbers[candidate, 0])
            quantity_decimals = _significant(used[1], numbers[candidate, 1])
            if words.size and body[2] == np.uint64(0) and is_too_small(state, price_decimals, quantity_decimals):
                continue
            code = candidate
            break
        if end < 0:
            break
        prev = values[_FIRST] - 1 if spot else values[_PREV]
        if values[_FINAL] < values[_FIRST] or values[_FINAL] <= prev:
            break
        place = -1
        if formats[code] != np.uint64(0):
            start, stop = min(values[5], values[8]), max(values[6], values[9])
            if body[2] == np.uint64(0):
                levels = values[7] + values[10]
                if words.size:
                    values[_PLACE] = finish_record(
                        words, state, limits[0], limits[3], values[7], values[10], values[8] < values[5]
                    )
                else:
                    values[_PLACE] = -1
                body[0], body[1] = hash_body(text, start, stop)
                keep_body(bodies, formats[code], values[_FINAL], stop - start, used, body, levels, values[_PLACE])
            place = values[_PLACE]
            body_first, body_second = body[0], body[1]
            digest_first, digest_second = hash_around(
                text, (position, start), (stop, end), (body_first, body_second), (seed_first, seed_second)
            )
        else:
            digest_first, digest_second, body_first, body_second = hash_line(text, position, end, seed_first, seed_second)
        rows[row, 0] = received
        _put_fields(rows[row], values, prev, 1000 if numbers[code, 4] == 13 else 1)
        rows[row, 6] = np.int64(body_first)
        rows[row, 7] = np.int64(body_second)
        rows[row, 8] = np.int64(digest_first)
        rows[row, 9] = np.int64(digest_second)
        rows[row, 10] = position | (place << 32)
        rows[row, 11] = (end - position) | (code << 32) | (price_decimals << 48) | (quantity_decimals << 56)
        row += 1
        position = end + 1
    return row, position, code


@kernel
def decode_levels(
    text: Bytes,
    row: int,
    offsets: Int64s,
    codes: Int16s,
    literals: Bytes,
    part: Int64s,
    parts: Int64s,
    numbers: Int64s,
    formats: Words,
    limits: Int64s,
    bid_offsets: Int64s,
    bid_price: Int64s,
    bid_quantity: Int64s,
    ask_offsets: Int64s,
    ask_price: Int64s,
    ask_quantity: Int64s,
) -> int:
    """Decode the levels of chosen lines until the end or one that does not match its code; returns its row.

    Args:
        text: The text `scan_lines` was given.
        row: The first of the chosen lines that is to be decoded.
        offsets: Where the chosen lines start.
        codes: Their templates; a negative one stops the kernel.
        literals: This and the next four are `templates.Tables`.
        part: See there.
        parts: See there.
        numbers: See there.
        formats: See there.
        limits: int64[template, 6]: see `_side`.
        bid_offsets: In and out: `bid_offsets[row]` says where in `bid_price` the bids of `row` begin.
        bid_price: Out; long enough for all, and not empty.
        bid_quantity: Out.
        ask_offsets: In and out.
        ask_price: Out; not empty.
        ask_quantity: Out.
    """
    values = np.zeros(_VALUES, np.int64)
    used = np.zeros(2, np.uint64)
    body = np.zeros(3, np.uint64)
    nothing = np.zeros((0, BODY_WORDS), np.uint64)
    words = np.zeros(0, np.int64)
    state = np.zeros(STATE_WORDS, np.int64)
    while row < offsets.size and codes[row] >= 0:
        code = np.int64(codes[row])
        _, frame = receive_time(text, offsets[row])
        if frame < 0:
            break
        end = _match(
            text, frame, literals, parts[part[code] : part[code + 1]], numbers[code], limits[code],
            bid_price, bid_quantity, bid_offsets[row], ask_price, ask_quantity, ask_offsets[row], values, used,
            formats[code] & np.uint64(0), nothing, body, words, state,
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
