"""The archive's tables: their Arrow schemas, the numpy form the kernels work on, and deterministic Parquet out and in.

The tables and their encodings are those of docs/format.md, section 8. Equal rows give equal bytes however the caller cut them into
batches: the writer gathers rows into groups of exactly `ROW_GROUP_EVENTS`, gives every group dictionaries of its own, and writes
neither times nor versions of ours.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from twintape.core.errors import CorruptionError

__all__ = [
    "ARRIVAL",
    "BOOK_UNKNOWN",
    "COPY",
    "DECIMALS_MAX",
    "DEPTH",
    "EPOCH_START",
    "FIELDS",
    "GAP_BEFORE",
    "LEVEL_FIELDS",
    "LINE_SWITCH",
    "OVERLAP",
    "ROW_GROUP_EVENTS",
    "SNAPSHOT",
    "TEMPLATES_KEY",
    "TIME_DIGITS",
    "VERBATIM",
    "DepthColumns",
    "Table",
    "TableReader",
    "TableWriter",
    "Template",
    "dictionary_array",
    "list_array",
    "nullable_times",
    "templates_from_json",
    "templates_to_json",
]

GAP_BEFORE = 1
OVERLAP = 2
LINE_SWITCH = 4
EPOCH_START = 8
BOOK_UNKNOWN = 16

ROW_GROUP_EVENTS = 16_384
"""Rows of a row group; every group but the last of a file has exactly so many."""
ZSTD_LEVEL = 7
"""Against level 3 it writes at half the speed, a tenth more CPU for a merge, and makes an archive that is kept for years 2.5 % smaller; it reads as fast."""
TEMPLATES_KEY = b"twintape.templates"
"""Under this key of a file's metadata is the list of its templates."""
DATA_PAGE_BYTES = 1 << 20

_WORDS = pa.dictionary(pa.int32(), pa.string())
_EVENT_TIME = pa.timestamp("us", tz="UTC")
_RECEIVE_TIME = pa.timestamp("ns", tz="UTC")
_LEVELS = pa.list_(pa.field("element", pa.int64(), nullable=False))
_LEVEL_COLUMNS = ("bid_price", "bid_quantity", "ask_price", "ask_quantity")
LEVEL_FIELDS = [pa.field(name, _LEVELS, nullable=False) for name in _LEVEL_COLUMNS]


def _required(name: str, kind: pa.DataType) -> pa.Field:
    return pa.field(name, kind, nullable=False)


DEPTH: pa.Schema = pa.schema(
    [
        _required("prev_update_id", pa.int64()),
        _required("first_update_id", pa.int64()),
        _required("final_update_id", pa.int64()),
        _required("event_time", _EVENT_TIME),
        pa.field("transaction_time", _EVENT_TIME),
        _required("receive_time", _RECEIVE_TIME),
        _required("collector", _WORDS),
        _required("connection", _WORDS),
        _required("template", pa.int16()),
        _required("flags", pa.uint8()),
        _required("price_exponent", pa.int8()),
        _required("quantity_exponent", pa.int8()),
        *LEVEL_FIELDS,
        pa.field("frame", pa.binary()),
    ]
)
ARRIVAL: pa.Schema = pa.schema(
    [
        _required("prev_update_id", pa.int64()),
        _required("final_update_id", pa.int64()),
        _required("event_time", _EVENT_TIME),
        _required("receive_time", _RECEIVE_TIME),
        _required("collector", _WORDS),
        _required("connection", _WORDS),
        _required("template", pa.int16()),
    ]
)
COPY: pa.Schema = pa.schema(
    [
        _required("row", pa.int64()),
        pa.field("event_time", _EVENT_TIME),
        _required("receive_time", _RECEIVE_TIME),
        _required("collector", _WORDS),
        _required("connection", _WORDS),
        _required("template", pa.int16()),
    ]
)
SNAPSHOT: pa.Schema = pa.schema(
    [
        _required("kind", _WORDS),
        _required("last_update_id", pa.int64()),
        pa.field("event_time", _EVENT_TIME),
        pa.field("transaction_time", _EVENT_TIME),
        pa.field("receive_time", _RECEIVE_TIME),
        pa.field("collector", _WORDS),
        pa.field("connection", _WORDS),
        pa.field("limit", pa.int32()),
        pa.field("verdict", _WORDS),
        pa.field("known_low", pa.int64()),
        pa.field("known_high", pa.int64()),
        _required("price_exponent", pa.int8()),
        _required("quantity_exponent", pa.int8()),
        *LEVEL_FIELDS,
    ]
)
VERBATIM: pa.Schema = pa.schema(
    [
        _required("collector", _WORDS),
        _required("connection", _WORDS),
        _required("receive_time", _RECEIVE_TIME),
        _required("reason", _WORDS),
        _required("frame", pa.binary()),
    ]
)


@dataclass(frozen=True, slots=True)
class Table:
    """One file of the archive: its bytes and rows."""

    name: str
    data: bytes
    rows: int


# --- templates -----------------------------------------------------------------------------------------------------------------


DECIMALS_MAX = 8
"""Digits behind the point of a template; Binance prints at most 8."""
FIELDS = ("E", "T", "U", "u", "pu", "b", "a")
"""The variable parts of a frame; the kernels know a field by its position."""
TIME_DIGITS = {"ms": 13, "us": 16}
"""Digits of a time in each unit."""


@dataclass(frozen=True, slots=True)
class Template:
    """How one shape of frame is printed: its literal text, and between it the fields.

    Attributes:
        parts: Literal, field, literal, …, literal: odd positions are one of `E T U u pu b a`.
        price_decimals: Digits behind the point of every price; 0 prints no point.
        quantity_decimals: Likewise of every quantity.
        level_suffix: What stands between the quantity's closing quote and the level's `]`: `` or `,[]`.
        time_unit: `ms` (13 digits) or `us` (16 digits), of both times.
    """

    parts: tuple[str, ...]
    price_decimals: int
    quantity_decimals: int
    level_suffix: str = ""
    time_unit: str = "ms"


def templates_to_json(templates: Sequence[Template]) -> str:
    """Return the list as the text that files carry in their metadata.

    >>> templates_to_json([Template(("{", "b", "}"), 2, 3)])
    '[{"parts":["{","b","}"],"price_decimals":2,"quantity_decimals":3,"level_suffix":"","time_unit":"ms"}]'
    """
    rows = [
        {
            "parts": list(template.parts),
            "price_decimals": template.price_decimals,
            "quantity_decimals": template.quantity_decimals,
            "level_suffix": template.level_suffix,
            "time_unit": template.time_unit,
        }
        for template in templates
    ]
    return json.dumps(rows, separators=(",", ":"), ensure_ascii=False)


def templates_from_json(text: str | bytes) -> list[Template]:
    """Return the list `templates_to_json` wrote.

    Raises:
        CorruptionError: The text is no such list.
    """
    try:
        return [_template(row) for row in json.loads(text)]
    except (ValueError, KeyError, TypeError) as error:
        raise CorruptionError(f"not a list of templates: {error!r}") from error


def _template(row: Mapping[str, Any]) -> Template:
    # Kernels write by these numbers without looking: what a file claims is checked here.
    parts = tuple(str(part) for part in row["parts"])
    price_decimals, quantity_decimals = int(row["price_decimals"]), int(row["quantity_decimals"])
    suffix, time_unit = str(row["level_suffix"]), str(row["time_unit"])
    if len(parts) % 2 == 0 or not set(parts[1::2]) <= set(FIELDS) or len(set(parts[1::2])) != len(parts) // 2:
        raise ValueError(f"parts {parts}")
    if not (0 <= price_decimals <= DECIMALS_MAX and 0 <= quantity_decimals <= DECIMALS_MAX) or time_unit not in TIME_DIGITS:
        raise ValueError(f"{price_decimals} and {quantity_decimals} decimals, time unit {time_unit!r}")
    return Template(parts, price_decimals, quantity_decimals, suffix, time_unit)


# --- arrays ----------------------------------------------------------------------------------------------------------------


def list_array(offsets: NDArray[np.int64], values: NDArray[np.int64]) -> pa.ListArray:
    """Return `values[offsets[i]:offsets[i+1]]` for each i as an Arrow list column, without copying the values."""
    start, stop = int(offsets[0]), int(offsets[-1])
    return pa.ListArray.from_arrays((offsets - start).astype(np.int32), pa.array(values[start:stop]), type=_LEVELS)


def dictionary_array(codes: NDArray[np.int32], names: Sequence[str]) -> pa.DictionaryArray:
    """Return the column whose row i is `names[codes[i]]`."""
    return pa.DictionaryArray.from_arrays(pa.array(codes, pa.int32()), pa.array(names, pa.string()))


def nullable_times(times_us: NDArray[np.int64]) -> pa.TimestampArray:
    """Return microseconds as a column of times in which negative numbers are null."""
    return pa.array(times_us, pa.int64(), mask=times_us < 0).view(_EVENT_TIME)


def _numbers(array: pa.Array) -> NDArray[Any]:
    return np.asarray(array.to_numpy(zero_copy_only=False))


def _list_parts(array: pa.ListArray) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    offsets = _numbers(array.offsets).astype(np.int64)
    values = _numbers(array.values)[offsets[0] : offsets[-1]]
    return offsets - offsets[0], values


def _dictionary_parts(array: pa.DictionaryArray) -> tuple[NDArray[np.int32], tuple[str, ...]]:
    return _numbers(array.indices).astype(np.int32), tuple(array.dictionary.to_pylist())


def _constant(array: pa.Array, name: str) -> int:
    if len(array) == 0:
        return 0
    bounds = pc.min_max(array).as_py()
    if bounds["min"] != bounds["max"]:
        raise CorruptionError(f"{name} must be constant within a file, found {bounds['min']} and {bounds['max']}")
    return int(bounds["min"])


@dataclass(slots=True)
class DepthColumns:
    """Rows of the depth table as numpy arrays, one element a row unless said otherwise.

    Attributes:
        prev: `prev_update_id`: the event covers the ids `(prev, final]`.
        first: `first_update_id`.
        final: `final_update_id`.
        event_time_us: `E`, microseconds since 1970.
        transaction_time_us: `T`, microseconds since 1970; -1 where there is none.
        receive_time_ns: Nanoseconds since 1970.
        collector: Positions in `collector_names`.
        connection: Positions in `connection_names`.
        template: Position in the file's template list; -1: the row's frame is in `frame`.
        flags: Sum of `GAP_BEFORE`, `OVERLAP`, `LINE_SWITCH`, `EPOCH_START`, `BOOK_UNKNOWN`.
        price_exponent: Power of ten of every price mantissa of these rows.
        quantity_exponent: Power of ten of every quantity mantissa of these rows.
        bid_offsets: int64[n+1]; the bids of row i are `bid_price[bid_offsets[i]:bid_offsets[i+1]]`.
        frame: Row → frame verbatim, for the rows no template renders.
    """

    prev: NDArray[np.int64]
    first: NDArray[np.int64]
    final: NDArray[np.int64]
    event_time_us: NDArray[np.int64]
    transaction_time_us: NDArray[np.int64]
    receive_time_ns: NDArray[np.int64]
    collector: NDArray[np.int32]
    collector_names: tuple[str, ...]
    connection: NDArray[np.int32]
    connection_names: tuple[str, ...]
    template: NDArray[np.int16]
    flags: NDArray[np.uint8]
    price_exponent: int
    quantity_exponent: int
    bid_offsets: NDArray[np.int64]
    bid_price: NDArray[np.int64]
    bid_quantity: NDArray[np.int64]
    ask_offsets: NDArray[np.int64]
    ask_price: NDArray[np.int64]
    ask_quantity: NDArray[np.int64]
    frame: Mapping[int, bytes] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.final)

    def slice(self, start: int, stop: int) -> DepthColumns:
        """Return the rows `[start, stop)`; arrays are views, offsets start at 0 again."""
        bid_start, bid_stop = int(self.bid_offsets[start]), int(self.bid_offsets[stop])
        ask_start, ask_stop = int(self.ask_offsets[start]), int(self.ask_offsets[stop])
        return DepthColumns(
            prev=self.prev[start:stop],
            first=self.first[start:stop],
            final=self.final[start:stop],
            event_time_us=self.event_time_us[start:stop],
            transaction_time_us=self.transaction_time_us[start:stop],
            receive_time_ns=self.receive_time_ns[start:stop],
            collector=self.collector[start:stop],
            collector_names=self.collector_names,
            connection=self.connection[start:stop],
            connection_names=self.connection_names,
            template=self.template[start:stop],
            flags=self.flags[start:stop],
            price_exponent=self.price_exponent,
            quantity_exponent=self.quantity_exponent,
            bid_offsets=self.bid_offsets[start : stop + 1] - bid_start,
            bid_price=self.bid_price[bid_start:bid_stop],
            bid_quantity=self.bid_quantity[bid_start:bid_stop],
            ask_offsets=self.ask_offsets[start : stop + 1] - ask_start,
            ask_price=self.ask_price[ask_start:ask_stop],
            ask_quantity=self.ask_quantity[ask_start:ask_stop],
            frame={row - start: frame for row, frame in self.frame.items() if start <= row < stop},
        )

    def to_batch(self) -> pa.RecordBatch:
        """Return the rows in the schema `DEPTH`; the level arrays are shared, not copied."""
        count = len(self)
        return pa.RecordBatch.from_arrays(
            [
                pa.array(self.prev),
                pa.array(self.first),
                pa.array(self.final),
                pa.array(self.event_time_us).view(_EVENT_TIME),
                nullable_times(self.transaction_time_us),
                pa.array(self.receive_time_ns).view(_RECEIVE_TIME),
                dictionary_array(self.collector, self.collector_names),
                dictionary_array(self.connection, self.connection_names),
                pa.array(self.template),
                pa.array(self.flags),
                pa.array(np.full(count, self.price_exponent, np.int8)),
                pa.array(np.full(count, self.quantity_exponent, np.int8)),
                list_array(self.bid_offsets, self.bid_price),
                list_array(self.bid_offsets, self.bid_quantity),
                list_array(self.ask_offsets, self.ask_price),
                list_array(self.ask_offsets, self.ask_quantity),
                pa.array([self.frame.get(row) for row in range(count)], pa.binary())
                if self.frame
                else pa.nulls(count, pa.binary()),
            ],
            schema=DEPTH,
        )

    @classmethod
    def from_batch(cls, batch: pa.RecordBatch) -> DepthColumns:
        """Return the rows of a batch with the schema `DEPTH`.

        Raises:
            CorruptionError: The exponents vary, or the price and quantity lists of a side differ in length.
        """
        column = {name: batch.column(name) for name in DEPTH.names}
        bid_offsets, bid_price = _list_parts(column["bid_price"])
        ask_offsets, ask_price = _list_parts(column["ask_price"])
        bid_quantity_offsets, bid_quantity = _list_parts(column["bid_quantity"])
        ask_quantity_offsets, ask_quantity = _list_parts(column["ask_quantity"])
        if not np.array_equal(bid_offsets, bid_quantity_offsets) or not np.array_equal(ask_offsets, ask_quantity_offsets):
            raise CorruptionError("price and quantity lists differ in length")
        collector, collector_names = _dictionary_parts(column["collector"])
        connection, connection_names = _dictionary_parts(column["connection"])
        frames = column["frame"]
        rows = [] if frames.null_count == len(frames) else np.flatnonzero(_numbers(frames.is_valid())).tolist()
        return cls(
            prev=_numbers(column["prev_update_id"]),
            first=_numbers(column["first_update_id"]),
            final=_numbers(column["final_update_id"]),
            event_time_us=_numbers(column["event_time"].view(pa.int64())),
            transaction_time_us=_numbers(column["transaction_time"].view(pa.int64()).fill_null(-1)),
            receive_time_ns=_numbers(column["receive_time"].view(pa.int64())),
            collector=collector,
            collector_names=collector_names,
            connection=connection,
            connection_names=connection_names,
            template=_numbers(column["template"]),
            flags=_numbers(column["flags"]),
            price_exponent=_constant(column["price_exponent"], "price_exponent"),
            quantity_exponent=_constant(column["quantity_exponent"], "quantity_exponent"),
            bid_offsets=bid_offsets,
            bid_price=bid_price,
            bid_quantity=bid_quantity,
            ask_offsets=ask_offsets,
            ask_price=ask_price,
            ask_quantity=ask_quantity,
            frame={row: frames[row].as_py() for row in rows},
        )


# --- Parquet ---------------------------------------------------------------------------------------------------------------


def _encodings(schema: pa.Schema) -> dict[str, Any]:
    delta = [f.name for f in schema if f.type in (pa.int64(), _EVENT_TIME, _RECEIVE_TIME)]
    levels = [f.name for f in schema if f.type == _LEVELS]
    return {
        "use_dictionary": [f.name for f in schema if f.name not in (*delta, *levels, "frame")],
        "column_encoding": dict.fromkeys(delta, "DELTA_BINARY_PACKED")
        | {f"{name}.list.element": "BYTE_STREAM_SPLIT" for name in levels},
        "write_statistics": [f.name for f in schema if f.name not in (*levels, "frame")],
    }


class _Valve(io.RawIOBase):
    """Passes bytes on until it is shut: pyarrow's writer finishes its file even when it is thrown away, which must not look finished."""

    def __init__(self, sink: IO[bytes]) -> None:
        self._sink = sink
        self.shut = False

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        if not self.shut:
            self._sink.write(data)
        return memoryview(data).nbytes


class TableWriter:
    """Writes one Parquet file, its bytes a function of the rows alone.

    Args:
        schema: One of `DEPTH`, `ARRIVAL`, `SNAPSHOT`, `VERBATIM`; no other columns, no other order.
        sink: A binary file open for writing, owned by the caller, who closes it.
        templates: The file's template list, read when the file is finished: it may grow until then. None for tables without.
        metadata: Further metadata of the file.

    Finish with `close` or by leaving the `with` block without an error; otherwise the file is not valid.
    """

    def __init__(
        self,
        schema: pa.Schema,
        sink: IO[bytes],
        *,
        templates: Sequence[Template] | None = None,
        metadata: Mapping[bytes, bytes] | None = None,
    ) -> None:
        self._schema = schema
        self._metadata = dict(metadata or {})
        self._templates = templates
        self._pending: list[pa.RecordBatch] = []
        self._pending_rows = 0
        self._dictionaries = [f.name for f in schema if pa.types.is_dictionary(f.type)]
        self.rows = 0
        self._valve = _Valve(sink)
        self._writer = pq.ParquetWriter(
            pa.PythonFile(self._valve, "w"),
            schema,
            version="2.6",
            data_page_version="1.0",
            data_page_size=DATA_PAGE_BYTES,
            compression="zstd",
            compression_level=ZSTD_LEVEL,
            write_page_checksum=True,
            **_encodings(schema),
        )

    def write(self, batch: pa.RecordBatch) -> None:
        """Append rows; the batch must not be changed afterwards."""
        self._pending.append(batch.cast(self._schema) if batch.schema != self._schema else batch)
        self._pending_rows += batch.num_rows
        self.rows += batch.num_rows
        if self._pending_rows >= ROW_GROUP_EVENTS:
            table = pa.Table.from_batches(self._pending, self._schema)
            whole = self._pending_rows - self._pending_rows % ROW_GROUP_EVENTS
            for start in range(0, whole, ROW_GROUP_EVENTS):
                self._write_group(table.slice(start, ROW_GROUP_EVENTS))
            self._pending = table.slice(whole).to_batches()
            self._pending_rows -= whole

    def _write_group(self, table: pa.Table) -> None:
        for name in self._dictionaries:
            position = self._schema.get_field_index(name)
            words = table.column(position).cast(pa.string()).combine_chunks().dictionary_encode()
            table = table.set_column(position, self._schema.field(position), words)
        self._writer.write_table(table.combine_chunks(), row_group_size=ROW_GROUP_EVENTS)

    @property
    def pending_rows(self) -> int:
        """Rows that wait for more to fill their row group; their batches must not be changed yet."""
        return self._pending_rows

    def close(self) -> None:
        """Write the last row group and the footer; the sink stays open."""
        if self._pending_rows:
            self._write_group(pa.Table.from_batches(self._pending, self._schema))
            self._pending, self._pending_rows = [], 0
        if self._templates is not None:
            self._metadata[TEMPLATES_KEY] = templates_to_json(self._templates).encode()
        if self._metadata:
            self._writer.add_key_value_metadata(self._metadata)
        self._writer.close()

    def __enter__(self) -> TableWriter:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if error is None:
            self.close()
        else:
            self._valve.shut = True


class TableReader:
    """Reads a file `TableWriter` wrote, one row group at a time.

    Args:
        source: The whole file as bytes, or a binary file that can seek.
        schema: The table's schema.

    Raises:
        CorruptionError: It is no Parquet file, or one with other columns. Reading a damaged page raises it as well.
    """

    def __init__(self, source: bytes | IO[bytes], schema: pa.Schema) -> None:
        try:
            # Arrow's threads tidy up when the answer is long there, and abort or block a process that ends meanwhile: none takes part.
            # Source: github.com/apache/arrow, issues 33975, 34314 and 50482.
            self._file = pq.ParquetFile(
                pa.BufferReader(source) if isinstance(source, bytes) else source,
                page_checksum_verification=True,
                pre_buffer=False,
            )
        except (pa.ArrowException, OSError) as error:
            raise CorruptionError(f"not a readable Parquet file: {error}") from error
        self._schema = schema
        if not self._file.schema_arrow.remove_metadata().equals(schema):
            raise CorruptionError(f"not the expected columns: {self._file.schema_arrow.names}")
        self.rows: int = self._file.metadata.num_rows
        self.row_groups: int = self._file.metadata.num_row_groups

    @property
    def templates(self) -> list[Template]:
        """The file's template list; empty if it has none."""
        return templates_from_json(self.metadata(TEMPLATES_KEY) or b"[]")

    def metadata(self, key: bytes) -> bytes:
        """Return what the file's metadata says under `key`; nothing if there is no such key."""
        return bytes((self._file.metadata.metadata or {}).get(key, b""))

    def read(self, row_group: int, columns: Sequence[str] | None = None) -> pa.RecordBatch:
        """Return the rows of one row group, at most `ROW_GROUP_EVENTS`; only some columns, if they are named.

        Raises:
            CorruptionError: The bytes are damaged.
        """
        try:
            table = self._file.read_row_group(row_group, columns, use_threads=False)
        except (pa.ArrowException, OSError) as error:
            raise CorruptionError(f"row group {row_group} cannot be read: {error}") from error
        batches = table.combine_chunks().to_batches()
        return batches[0] if batches else pa.RecordBatch.from_pylist([], schema=self._schema)

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        return (self.read(row_group) for row_group in range(self.row_groups))

    def depth(self) -> Iterator[DepthColumns]:
        """Yield the row groups of a depth file in the kernels' form."""
        return (DepthColumns.from_batch(batch) for batch in self)
