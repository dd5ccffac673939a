"""Text to the rows of a depth table, the way a merge does it, for one collector."""

from __future__ import annotations

import numpy as np

from twintape.columns.parse import SLOW, UNDECODABLE, Headers, TemplateSet, exponents, frame_of, levels, scan
from twintape.columns.schema import DepthColumns
from twintape.core.markets import Market


def columns_of(
    text: bytes,
    market: Market,
    templates: TemplateSet,
    *,
    exponent: tuple[int, int] | None = None,
    finer: tuple[int, int] = (0, 0),
) -> tuple[Headers, DepthColumns]:
    """Return the headers of all lines and the rows of those that are depth events, at the coarsest exponents or `finer` ones."""
    headers = scan(text, market, templates)
    rows = np.flatnonzero(headers.template != UNDECODABLE)
    price, quantity = exponent or exponents(headers.price_decimals, headers.quantity_decimals)
    price, quantity = max(-18, price - finer[0]), max(-18, quantity - finer[1])
    offsets, lengths, template = headers.offset[rows], headers.length[rows], headers.template[rows]
    found = levels(text, offsets, lengths, template, templates, market=market, price_exponent=price, quantity_exponent=quantity)
    zeros = np.zeros(len(rows), np.int32)
    slow = np.flatnonzero(template == SLOW).tolist()
    return headers, DepthColumns(
        prev=headers.prev[rows],
        first=headers.first[rows],
        final=headers.final[rows],
        event_time_us=headers.event_time_us[rows],
        transaction_time_us=headers.transaction_time_us[rows],
        receive_time_ns=headers.receive_time_ns[rows],
        collector=zeros,
        collector_names=("tokyo",),
        connection=zeros,
        connection_names=("0123abcd-1",),
        template=template,
        flags=np.zeros(len(rows), np.uint8),
        price_exponent=price,
        quantity_exponent=quantity,
        bid_offsets=found.bid_offsets,
        bid_price=found.bid_price,
        bid_quantity=found.bid_quantity,
        ask_offsets=found.ask_offsets,
        ask_price=found.ask_price,
        ask_quantity=found.ask_quantity,
        frame={row: frame_of(text, int(offsets[row]), int(lengths[row])) for row in slow},
    )
