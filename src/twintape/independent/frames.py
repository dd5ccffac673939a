"""Rows printed as the frames they came from, and frames read as plain JSON.

Source: docs/format.md, sections 1 and 8; Binance, Spot API docs, web-socket-streams.md (2026-07-21); Derivatives docs, Diff. Book Depth Streams (2026-05-28).
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from decimal import Decimal, InvalidOperation
from typing import Any

from twintape.independent.objects import Row

__all__ = ["COLUMNS", "TABLES", "decimal_text", "depth_ids", "event_time_us", "payload_of", "print_frame"]

TABLES = {
    "trade": "trade",
    "aggTrade": "agg_trade",
    "bookTicker": "book_ticker",
    "markPrice": "mark_price",
    "forceOrder": "force_order",
}
"""Stream, without its speed, → table of the streams with rows of their own; partial depth is `partial_depth`."""
COLUMNS: dict[str, dict[str, str]] = {
    "depth": {"E": "event_time", "T": "transaction_time", "U": "first_update_id", "u": "final_update_id", "pu": "prev_update_id"},
    "partial_depth": {
        "E": "event_time",
        "T": "transaction_time",
        "U": "first_update_id",
        "u": "last_update_id",
        "pu": "prev_update_id",
    },
    "trade": {
        "t": "trade_id",
        "E": "event_time",
        "T": "trade_time",
        "p": "price",
        "q": "quantity",
        "m": "buyer_is_maker",
        "b": "buyer_order_id",
        "a": "seller_order_id",
    },
    "agg_trade": {
        "a": "agg_trade_id",
        "E": "event_time",
        "T": "trade_time",
        "p": "price",
        "q": "quantity",
        "m": "buyer_is_maker",
        "f": "first_trade_id",
        "l": "last_trade_id",
        "nq": "normal_quantity",
    },
    "book_ticker": {
        "u": "update_id",
        "E": "event_time",
        "T": "transaction_time",
        "b": "bid_price",
        "B": "bid_quantity",
        "a": "ask_price",
        "A": "ask_quantity",
    },
    "mark_price": {
        "E": "event_time",
        "T": "next_funding_time",
        "p": "mark_price",
        "i": "index_price",
        "P": "estimated_settle_price",
        "ap": "average_mark_price",
        "r": "funding_rate",
    },
    "force_order": {
        "T": "trade_time",
        "E": "event_time",
        "S": "side",
        "X": "status",
        "p": "price",
        "ap": "average_price",
        "q": "quantity",
        "l": "last_filled_quantity",
        "z": "filled_quantity",
    },
}
"""Table → Binance's key → column."""


def decimal_text(mantissa: int, exponent: int, decimals: int | None = None) -> str:
    """Return `mantissa * 10**exponent`: with exactly so many decimals, or plainly, without trailing zeros.

    >>> decimal_text(150, -2), decimal_text(150, -2, 3), decimal_text(-5, -3), decimal_text(7, 0, 0)
    ('1.5', '1.500', '-0.005', '7')

    Raises:
        ValueError: The number needs more decimals.
    """
    sign, digits = "-" * (mantissa < 0), str(abs(mantissa)).rjust(1 - exponent, "0")
    whole, fraction = (digits, "") if exponent == 0 else (digits[:exponent], digits[exponent:])
    fraction = fraction.rstrip("0")
    if decimals is not None:
        if len(fraction) > decimals:
            raise ValueError(f"{mantissa} x 10^{exponent} needs more than {decimals} decimals")
        fraction = fraction.ljust(decimals, "0")
    return f"{sign}{whole}.{fraction}" if fraction else sign + whole


def print_frame(table: str, row: Row, template: Row) -> bytes:
    """Return the frame a row was made from, byte for byte.

    Raises:
        ValueError: The template does not fit the row.
    """
    parts = template["parts"]
    out = [parts[0]]
    levels = table in ("depth", "partial_depth")
    for position in range(1, len(parts), 2):
        key = parts[position]
        if levels and key in "ba":
            out.append(_side(row, "bid" if key == "b" else "ask", template))
        else:
            decimals = 0 if levels else template["decimals"][position // 2]
            out.append(_field(table, row, COLUMNS[table][key], decimals, template["time_unit"]))
        out.append(parts[position + 1])
    return "".join(out).encode()


def _side(row: Row, side: str, template: Row) -> str:
    price, quantity, suffix = template["price_decimals"], template["quantity_decimals"], template["level_suffix"]
    texts = (
        f'["{decimal_text(p, row["price_exponent"], price)}","{decimal_text(q, row["quantity_exponent"], quantity)}"{suffix}]'
        for p, q in zip(row[f"{side}_price"], row[f"{side}_quantity"], strict=True)
    )
    return f"[{','.join(texts)}]"


def _field(table: str, row: Row, column: str, decimals: int, time_unit: str) -> str:
    value = row[column]
    if value is None:
        raise ValueError(f"{column} is null, and the template prints it")
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return value
    if column.endswith("_time"):
        if time_unit == "us":
            return f"{value:016d}"
        if value % 1000:
            raise ValueError(f"{column} {value} is no whole millisecond")
        return f"{value // 1000:013d}"
    exponent = _exponent_of(table, column)
    return str(value) if exponent is None else decimal_text(value, row[exponent], decimals)


def _exponent_of(table: str, column: str) -> str | None:
    if table in ("depth", "partial_depth") or column.endswith("_id"):
        return None
    if column == "funding_rate":
        return "rate_exponent"
    return "quantity_exponent" if column.endswith("quantity") else "price_exponent"


# --- frames of depth -----------------------------------------------------------------------------------------------------------


def payload_of(frame: bytes) -> Row | None:
    """Return what a frame says without its wrapper, or None if it is no JSON object."""
    try:
        found: Any = json.loads(frame)
    except (ValueError, RecursionError):
        return None
    if isinstance(found, dict) and "stream" in found and isinstance(found.get("data"), dict):
        found = found["data"]
    return found if isinstance(found, dict) else None


def depth_ids(frame: bytes, market: str) -> tuple[int, int] | None:
    """Return `(p, u]` of a depth frame, or None if it is none that could be a row."""
    found = payload_of(frame)
    if found is None or found.get("e") != "depthUpdate":
        return None
    first, final, prev = found.get("U"), found.get("u"), found.get("pu")
    ids = (first, final) if market == "spot" else (first, final, prev)
    if not all(type(value) is int and 0 <= value < 2**63 for value in ids) or not _readable(found):
        return None
    assert isinstance(first, int)
    assert isinstance(final, int)
    start = first - 1 if market == "spot" else prev
    assert isinstance(start, int)
    return (start, final) if start < final else None


def _readable(found: Row) -> bool:
    try:
        levels: Iterable[Any] = [*found["b"], *found["a"]]
        return type(found["E"]) is int and all(Decimal(level[0]) >= 0 and Decimal(level[1]) >= 0 for level in levels)
    except (KeyError, TypeError, IndexError, InvalidOperation):
        return False


def event_time_us(frame: bytes) -> int | None:
    """Return `E` in microseconds, or None."""
    found = payload_of(frame) or {}
    time = found.get("E")
    if type(time) is not int:
        return None
    return time if len(str(time)) == 16 else time * 1000
