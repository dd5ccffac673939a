"""What messages of a fixed set of fields are made of: trades, best bid and ask, mark prices, liquidations, partial depth.

Source: Binance, Spot API docs, web-socket-streams.md (2026-07-21); Derivatives docs, Aggregate Trade Streams, Individual Symbol Book Ticker
Streams, Mark Price Stream, Liquidation Order Streams, Partial Book Depth Streams (2026-05-28); frames of 2021 and 2024.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import pyarrow as pa

from twintape.columns.schema import COPY, LEVEL_FIELDS

__all__ = [
    "ABSENT",
    "DECIMAL",
    "INTEGER",
    "KINDS",
    "SIGNED",
    "TIME",
    "TRUTH",
    "WORD",
    "FlatField",
    "FlatKind",
    "flat_schema",
    "kind_of",
]

INTEGER, TIME, DECIMAL, TRUTH, SIGNED, WORD = range(6)
ABSENT = -(2**63)
"""The value of a field that a message does not have."""
_PARTIAL = re.compile(r"depth\d+(?:@\d+ms)?")


@dataclass(frozen=True, slots=True)
class FlatField:
    """One variable of a message.

    Attributes:
        key: Binance's.
        name: The column.
        kind: `INTEGER`, `TIME`, `DECIMAL`, `TRUTH`, `SIGNED` (a decimal that may be negative) or `WORD`.
        required: Whether every message has it.
        exponent: Whose exponent its mantissas have.
        words: What a `WORD` may say; its value is the position here.
    """

    key: str
    name: str
    kind: int
    required: bool = True
    exponent: str | None = None
    words: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class FlatKind:
    """What messages of one stream are made of.

    Attributes:
        table: The archive's table.
        fields: The first is what rows are sorted by: the id, or a time. One of them is `E`.
        unique: Whether an id belongs to one message; such ids are contiguous.
        timed: Whether `E` is part of what a message says. Elsewhere it is stamped per connection and says nothing of the message.
        inner: The key of the object within the payload that holds all fields but `E`; None: the payload itself.
        levels: Whether a message also has the levels of both sides (see `columns.partial`).
    """

    table: str
    fields: tuple[FlatField, ...]
    unique: bool = False
    timed: bool = False
    inner: str | None = None
    levels: bool = False

    @property
    def stamp(self) -> int:
        """The position of `E` among the fields."""
        return [field.key for field in self.fields].index("E")

    @property
    def content(self) -> list[int]:
        """The positions of the fields that two copies of one message have in common."""
        return [position for position in range(len(self.fields)) if self.timed or position != self.stamp]

    @property
    def exponents(self) -> list[str]:
        """The names of the exponent columns, sorted."""
        return sorted(
            {field.exponent for field in self.fields if field.exponent is not None} | set(_LEVEL_EXPONENTS * self.levels)
        )


_E = FlatField("E", "event_time", TIME, required=False)
_ORDER_STATUS = ("CANCELED", "EXPIRED", "EXPIRED_IN_MATCH", "FILLED", "NEW", "PARTIALLY_FILLED", "REJECTED")
_LEVEL_EXPONENTS = ("price_exponent", "quantity_exponent")

KINDS: dict[str, FlatKind] = {
    "trade": FlatKind(
        "trade",
        (
            FlatField("t", "trade_id", INTEGER),
            _E,
            FlatField("T", "trade_time", TIME),
            FlatField("p", "price", DECIMAL, exponent="price_exponent"),
            FlatField("q", "quantity", DECIMAL, exponent="quantity_exponent"),
            FlatField("m", "buyer_is_maker", TRUTH),
            FlatField("b", "buyer_order_id", INTEGER, required=False),
            FlatField("a", "seller_order_id", INTEGER, required=False),
        ),
        unique=True,
    ),
    "aggTrade": FlatKind(
        "agg_trade",
        (
            FlatField("a", "agg_trade_id", INTEGER),
            _E,
            FlatField("T", "trade_time", TIME),
            FlatField("p", "price", DECIMAL, exponent="price_exponent"),
            FlatField("q", "quantity", DECIMAL, exponent="quantity_exponent"),
            FlatField("m", "buyer_is_maker", TRUTH),
            FlatField("f", "first_trade_id", INTEGER),
            FlatField("l", "last_trade_id", INTEGER),
            FlatField("nq", "normal_quantity", DECIMAL, required=False, exponent="quantity_exponent"),
        ),
        unique=True,
    ),
    "bookTicker": FlatKind(
        "book_ticker",
        (
            FlatField("u", "update_id", INTEGER),
            _E,
            FlatField("T", "transaction_time", TIME, required=False),
            FlatField("b", "bid_price", DECIMAL, exponent="price_exponent"),
            FlatField("B", "bid_quantity", DECIMAL, exponent="quantity_exponent"),
            FlatField("a", "ask_price", DECIMAL, exponent="price_exponent"),
            FlatField("A", "ask_quantity", DECIMAL, exponent="quantity_exponent"),
        ),
    ),
    "markPrice": FlatKind(
        "mark_price",
        (
            FlatField("E", "event_time", TIME),
            FlatField("T", "next_funding_time", TIME, required=False),
            FlatField("p", "mark_price", DECIMAL, exponent="price_exponent"),
            FlatField("i", "index_price", DECIMAL, required=False, exponent="price_exponent"),
            FlatField("P", "estimated_settle_price", DECIMAL, required=False, exponent="price_exponent"),
            FlatField("ap", "average_mark_price", DECIMAL, required=False, exponent="price_exponent"),
            FlatField("r", "funding_rate", SIGNED, required=False, exponent="rate_exponent"),
        ),
        timed=True,
    ),
    "forceOrder": FlatKind(
        "force_order",
        (
            FlatField("T", "trade_time", TIME),
            _E,
            FlatField("S", "side", WORD, words=("BUY", "SELL")),
            FlatField("X", "status", WORD, words=_ORDER_STATUS),
            FlatField("p", "price", DECIMAL, exponent="price_exponent"),
            FlatField("ap", "average_price", DECIMAL, exponent="price_exponent"),
            FlatField("q", "quantity", DECIMAL, exponent="quantity_exponent"),
            FlatField("l", "last_filled_quantity", DECIMAL, exponent="quantity_exponent"),
            FlatField("z", "filled_quantity", DECIMAL, exponent="quantity_exponent"),
        ),
        inner="o",
    ),
    "depth<levels>": FlatKind(
        "partial_depth",
        (
            FlatField("u", "last_update_id", INTEGER),
            _E,
            FlatField("T", "transaction_time", TIME, required=False),
            FlatField("U", "first_update_id", INTEGER, required=False),
            FlatField("pu", "prev_update_id", INTEGER, required=False),
        ),
        levels=True,
    ),
}
"""By the stream's name without symbol and speed."""


def kind_of(stream: str) -> FlatKind | None:
    """Return what the messages of a stream are, or None if it has no typed table.

    >>> kind_of("markPrice@1s").table, kind_of("depth20@100ms").table, kind_of("depth@100ms"), kind_of("kline_1m")
    ('mark_price', 'partial_depth', None, None)
    """
    return KINDS.get("depth<levels>" if _PARTIAL.fullmatch(stream) else stream.partition("@")[0])


def flat_schema(kind: FlatKind) -> pa.Schema:
    """Return the columns of a kind's table: id and times, who heard it, exponents, and the rest."""
    types = {INTEGER: pa.int64(), TIME: COPY.field("event_time").type, DECIMAL: pa.int64(), TRUTH: pa.bool_()}
    types |= {SIGNED: pa.int64(), WORD: COPY.field("collector").type}
    own = [pa.field(field.name, types[field.kind], nullable=not field.required) for field in kind.fields]
    heard = [COPY.field(name) for name in ("receive_time", "collector", "connection", "template")]
    exponents = [pa.field(name, pa.int8(), nullable=False) for name in kind.exponents]
    # Of times and ids there are three, but five where there are levels.
    first = 5 if kind.levels else 3
    return pa.schema([*own[:first], *heard, *exponents, *own[first:], *(LEVEL_FIELDS if kind.levels else [])])
