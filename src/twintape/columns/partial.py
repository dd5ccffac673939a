r"""Partial depth (`depth5`, `depth10`, `depth20`): the top of the book as the exchange prints it, between text and columns.

Spot's frames name one id and no time, futures' have the shape of a depth event; both go through the matcher and the printer of depth
frames, spot's `lastUpdateId`, `bids` and `asks` in the places of `u`, `b` and `a`.

Source: Binance, Spot API docs, web-socket-streams.md, Partial Book Depth Streams (2026-07-21); Derivatives docs, Partial Book Depth
Streams (2026-05-28).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from twintape.columns.flat import FlatText
from twintape.columns.kept import NO_MEMORY
from twintape.columns.kernel import Bytes
from twintape.columns.kinds import ABSENT
from twintape.columns.match import receive_time, scan_lines
from twintape.columns.parse import HEADER, HEADER_WORDS, UNSEEDED, Levels
from twintape.columns.render import render_lines
from twintape.columns.schema import DepthColumns, Template, list_array
from twintape.columns.templates import TemplateSet, discover_partial
from twintape.core.errors import CorruptionError

__all__ = ["HASHES", "level_columns", "partial_lines", "scan_partial"]

Ints = NDArray[np.int64]
HASHES = (5, 6)
"""Rows of `FlatText.values` behind the fields: two hashes of the text from the first side to the last."""


def scan_partial(text: bytes, templates: TemplateSet) -> tuple[FlatText, NDArray[np.int8]]:
    """Return every line of `text`, and the decimals that its prices and quantities need; new templates are added to `templates`.

    Raises:
        CorruptionError: The text is not whole lines that start with a receive time.
    """
    if text and not text.endswith(b"\n"):
        raise CorruptionError("the text does not end with a newline")
    count = text.count(b"\n")
    buffer = np.frombuffer(text, np.uint8)
    rows = np.empty(count, HEADER)
    words = rows.view(np.int64).reshape(count, HEADER_WORDS)
    row = position = code = 0
    spot = False  # the id before the event is the one it names, if any
    while True:
        tables = templates.tables
        row, position, code = scan_lines(
            buffer, position, row, code, spot, UNSEEDED[0], UNSEEDED[1], *tables, *NO_MEMORY.arrays, words
        )
        if row == count:
            break
        end = text.index(b"\n", position)
        received, start = receive_time(buffer, position)
        if start < 0 or start >= end:
            raise CorruptionError(f"line {row} of the text is none: {text[position : min(end, position + 40)]!r}")
        found = discover_partial(text[start:end])
        known = len(templates)
        if found is not None and templates.add(found) == known:
            code = known
            continue
        rows[row] = (received, -1, -1, -1, -1, -1, 0, 0, 0, 0, position, -1, end - position, -1, 0, 0)
        row, position = row + 1, end + 1
    fields = [rows[name] for name in ("final", "event_time_us", "transaction_time_us", "first", "prev")]
    values = np.stack([*fields, rows["body_a"].view(np.int64), rows["body_b"].view(np.int64)])
    values[:5][values[:5] < 0] = ABSENT
    places = rows["receive_time_ns"].copy(), rows["offset"].astype(np.int64), rows["length"].copy(), rows["template"].copy()
    return FlatText(*places, values), np.stack([rows["price_decimals"], rows["quantity_decimals"]])


def level_columns(levels: Levels) -> dict[str, pa.Array]:
    """Return the level columns of a table."""
    return {
        "bid_price": list_array(levels.bid_offsets, levels.bid_price),
        "bid_quantity": list_array(levels.bid_offsets, levels.bid_quantity),
        "ask_price": list_array(levels.ask_offsets, levels.ask_price),
        "ask_quantity": list_array(levels.ask_offsets, levels.ask_quantity),
    }


def partial_lines(
    batch: pa.RecordBatch,
    row: Ints,
    times: Mapping[str, Ints],
    templates: Sequence[Template],
    codes: NDArray[np.int16],
) -> tuple[Bytes, Ints]:
    """Return raw lines of the table's rows with their newlines, and where each begins (with the end of the last).

    Args:
        batch: A row group.
        row: The rows of it to print, in this order and as often as they are named.
        times: `receive_time` of each line, and its own `event_time`.
        templates: What `codes` are positions in.
        codes: The template of each line.

    Raises:
        CorruptionError: A row cannot be printed.
    """

    def ints(name: str) -> Ints:
        return np.asarray(batch.column(name).cast(pa.int64()).fill_null(-1).to_numpy(zero_copy_only=False), np.int64)[row]

    def exponent(name: str) -> int:
        found = np.unique(np.asarray(batch.column(name)))
        if len(found) > 1:
            raise CorruptionError(f"{name} must be constant within a file, found {found.tolist()}")
        return int(found[0])

    shapes = TemplateSet()
    places = [shapes.add(template) for template in templates]  # rows and copies have lists of their own: one may be in both
    if None in places or (len(codes) and not 0 <= int(codes.min()) <= int(codes.max()) < len(places)):
        raise CorruptionError(f"templates {codes.tolist()[:10]} of {len(places)}")
    levels = _levels(batch).take(row)
    nobody = np.zeros(len(row), np.int32)
    columns = DepthColumns(
        prev=ints("prev_update_id"),
        first=ints("first_update_id"),
        final=ints("last_update_id"),
        event_time_us=times["event_time"],
        transaction_time_us=ints("transaction_time"),
        receive_time_ns=times["receive_time"],
        collector=nobody,
        collector_names=(),
        connection=nobody,
        connection_names=(),
        template=np.array(places, np.int16)[codes],
        flags=nobody.astype(np.uint8),
        price_exponent=exponent("price_exponent"),
        quantity_exponent=exponent("quantity_exponent"),
        bid_offsets=levels.bid_offsets,
        bid_price=levels.bid_price,
        bid_quantity=levels.bid_quantity,
        ask_offsets=levels.ask_offsets,
        ask_price=levels.ask_price,
        ask_quantity=levels.ask_quantity,
    )
    return render_lines(columns, shapes)


def _levels(batch: pa.RecordBatch) -> Levels:
    found = {}
    for name in ("bid_price", "bid_quantity", "ask_price", "ask_quantity"):
        column = batch.column(name)
        offsets = np.asarray(column.offsets).astype(np.int64)
        found[name] = (offsets - offsets[0], np.asarray(column.values)[offsets[0] : offsets[-1]])
    for side in ("bid", "ask"):
        if not np.array_equal(found[f"{side}_price"][0], found[f"{side}_quantity"][0]):
            raise CorruptionError("price and quantity lists differ in length")
    return Levels(*found["bid_price"], found["bid_quantity"][1], *found["ask_price"], found["ask_quantity"][1])
