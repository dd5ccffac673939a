"""Archive files with something changed in them."""

from __future__ import annotations

import io
from collections.abc import Callable

import pyarrow as pa

from twintape.columns.schema import TableReader, TableWriter


def changed(data: bytes, schema: pa.Schema, change: Callable[[pa.Table], pa.Table]) -> bytes:
    """Return the file with its rows changed; well-formed, with the same templates."""
    reader = TableReader(data, schema)
    table = change(pa.Table.from_batches(list(reader), schema))
    sink = io.BytesIO()
    with TableWriter(schema, sink, templates=reader.templates) as writer:
        for batch in table.combine_chunks().to_batches():
            writer.write(batch)
    return sink.getvalue()


def replaced(data: bytes, schema: pa.Schema, column: str, row: int, value: object) -> bytes:
    """Return the file with one value replaced."""

    def change(table: pa.Table) -> pa.Table:
        position = schema.get_field_index(column)
        kind = schema.field(position).type
        plain = pa.string() if pa.types.is_dictionary(kind) else pa.int64() if pa.types.is_timestamp(kind) else kind
        values = table.column(column).cast(plain).to_pylist()
        values[row] = value
        return table.set_column(position, schema.field(position), pa.array(values, plain).cast(kind))

    return changed(data, schema, change)
