"""Tables in and out of Parquet: exact, deterministic, and suspicious of what a file claims."""

import dataclasses
import io
import json
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from twintape.columns import schema
from twintape.columns.schema import (
    ARRIVAL,
    DEPTH,
    ROW_GROUP_EVENTS,
    SNAPSHOT,
    VERBATIM,
    DepthColumns,
    TableReader,
    TableWriter,
    Template,
    dictionary_array,
    list_array,
    nullable_times,
    templates_from_json,
    templates_to_json,
)
from twintape.core.errors import CorruptionError

TEMPLATES = [Template(("{", "E", ",", "b", "币}"), 2, 3), Template(("", "a", ""), 0, 8, ",[]", "us")]
ARRAYS = [field.name for field in dataclasses.fields(DepthColumns)]


def rows(count, seed=0, frames=True):
    random = np.random.default_rng(seed)
    ids = np.cumsum(random.integers(1, 9, count))
    bids, asks = random.integers(0, 4, count), random.integers(0, 4, count)

    def offsets(counts):
        return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)

    def values(total):
        return random.integers(0, 2**40, int(total))

    return DepthColumns(
        prev=ids - 1,
        first=ids,
        final=ids + 3,
        event_time_us=1723161255208000 + ids * 1000,
        transaction_time_us=np.where(ids % 3 == 0, -1, 1723161255208000 + ids * 1000),
        receive_time_ns=1723161255208000123 + ids * 1_000_003,
        collector=(ids % 2).astype(np.int32),
        collector_names=("tokyo", "paris"),
        connection=(ids % 3).astype(np.int32),
        connection_names=("aa-1", "bb-2", "aa-10"),
        template=np.where(ids % 50 == 0, -1, 0).astype(np.int16) if frames else np.zeros(count, np.int16),
        flags=(ids % 32).astype(np.uint8),
        price_exponent=-2,
        quantity_exponent=-8,
        bid_offsets=offsets(bids),
        bid_price=values(bids.sum()),
        bid_quantity=values(bids.sum()),
        ask_offsets=offsets(asks),
        ask_price=values(asks.sum()),
        ask_quantity=values(asks.sum()),
        frame={int(row): b"frame %d" % row for row in np.flatnonzero(ids % 50 == 0)} if frames else {},
    )


def written(parts, templates=TEMPLATES, table=DEPTH):
    sink = io.BytesIO()
    with TableWriter(table, sink, templates=templates) as writer:
        for part in parts:
            writer.write(part.to_batch() if isinstance(part, DepthColumns) else part)
    return sink.getvalue()


def same(one, other):
    for name in ARRAYS:
        first, second = getattr(one, name), getattr(other, name)
        if name in ("collector", "connection"):
            names, others = getattr(one, f"{name}_names"), getattr(other, f"{name}_names")
            first, second = [names[code] for code in first], [others[code] for code in second]
        elif name.endswith("_names"):
            continue
        assert np.array_equal(first, second) if isinstance(first, np.ndarray) else first == second, name


@pytest.mark.parametrize("frames", [True, False])
def test_rows_survive_arrow_and_parquet(frames):
    columns = rows(700, frames=frames)
    same(DepthColumns.from_batch(columns.to_batch()), columns)
    (read,) = TableReader(written([columns]), DEPTH).depth()
    same(read, columns)


def test_a_batch_cut_out_of_the_middle_of_another_is_read_like_any_other():
    columns = rows(300)
    same(DepthColumns.from_batch(columns.to_batch().slice(100, 80)), columns.slice(100, 180))


def test_a_slice_of_no_rows_is_empty():
    empty = rows(10).slice(4, 4)
    assert (len(empty), empty.bid_offsets.tolist(), len(empty.to_batch())) == (0, [0], 0)
    assert len(DepthColumns.from_batch(empty.to_batch())) == 0
    assert DepthColumns.from_batch(empty.to_batch()).price_exponent == 0


@settings(max_examples=12, deadline=None, derandomize=True)
@given(st.lists(st.integers(0, 2 * ROW_GROUP_EVENTS + 100), max_size=6))
def test_the_bytes_of_a_file_do_not_depend_on_how_the_rows_came(cuts):
    total = 2 * ROW_GROUP_EVENTS + 100
    columns = LARGE
    places = [0, *sorted(cuts), total]
    parts = [columns.slice(start, stop) for start, stop in pairwise(places)]
    assert written(parts) == LARGE_BYTES


def test_rows_wait_until_a_row_group_is_full():
    with TableWriter(DEPTH, io.BytesIO(), templates=[]) as writer:
        writer.write(LARGE.slice(0, 100).to_batch())
        assert writer.pending_rows == 100
        writer.write(LARGE.slice(0, ROW_GROUP_EVENTS - 100).to_batch())
        assert writer.pending_rows == 0


LARGE = rows(2 * ROW_GROUP_EVENTS + 100)
LARGE_BYTES = written([LARGE])


def test_every_row_group_but_the_last_is_full():
    reader = TableReader(LARGE_BYTES, DEPTH)
    assert (reader.rows, reader.row_groups) == (len(LARGE), 3)
    assert [batch.num_rows for batch in reader] == [ROW_GROUP_EVENTS, ROW_GROUP_EVENTS, 100]
    same(next(iter(reader.depth())), LARGE.slice(0, ROW_GROUP_EVENTS))


def test_dictionaries_with_other_codes_for_the_same_words_give_the_same_bytes():
    columns = rows(200)
    swapped = dataclasses.replace(columns, collector=1 - columns.collector, collector_names=("paris", "tokyo"))
    assert written([columns]) == written([swapped])
    unused = dataclasses.replace(columns, connection_names=(*columns.connection_names, "never"))
    assert written([columns]) == written([unused])


def test_columns_have_the_encodings_the_format_promises():
    group = pq.ParquetFile(io.BytesIO(LARGE_BYTES)).metadata.row_group(0)
    found = {group.column(i).path_in_schema.split(".")[0]: group.column(i) for i in range(group.num_columns)}
    assert set(found) == set(DEPTH.names)
    for name in DEPTH.names[:6]:
        assert "DELTA_BINARY_PACKED" in found[name].encodings
    for name in ("collector", "connection", "template", "flags", "price_exponent", "quantity_exponent"):
        assert "RLE_DICTIONARY" in found[name].encodings
    for name in ("bid_price", "bid_quantity", "ask_price", "ask_quantity"):
        assert "BYTE_STREAM_SPLIT" in found[name].encodings
        assert not found[name].is_stats_set
    assert found["final_update_id"].statistics.min == LARGE.final[0]
    assert {column.compression for column in found.values()} == {"ZSTD"}


def test_a_file_tells_nothing_of_when_or_by_which_version_of_ours_it_was_written():
    metadata = pq.ParquetFile(io.BytesIO(LARGE_BYTES)).metadata.metadata
    assert set(metadata) == {b"ARROW:schema", b"twintape.templates"}
    assert json.loads(metadata[b"twintape.templates"])[0]["parts"] == ["{", "E", ",", "b", "币}"]


def test_the_template_list_may_grow_until_the_file_is_closed():
    sink, templates = io.BytesIO(), TEMPLATES[:1]
    writer = TableWriter(DEPTH, sink, templates=templates)
    writer.write(rows(3).to_batch())
    templates.append(TEMPLATES[1])
    writer.close()
    assert TableReader(sink.getvalue(), DEPTH).templates == TEMPLATES
    assert writer.rows == 3


def test_a_file_that_is_given_up_has_no_footer():
    sink = io.BytesIO()

    def give_up():
        with TableWriter(DEPTH, sink, templates=TEMPLATES) as writer:
            writer.write(rows(3).to_batch())
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        give_up()
    with pytest.raises(CorruptionError):
        TableReader(sink.getvalue(), DEPTH)


def test_the_other_tables_are_written_and_read_like_the_first():
    offsets, numbers = np.array([0, 2]), np.array([5, 6])
    batches = {
        "arrival": (ARRIVAL, [pa.array([1]), pa.array([2]), nullable_times(np.array([7])), pa.array([8]).view(pa.timestamp("ns", tz="UTC")),
                              dictionary_array(np.array([0]), ["tokyo"]), dictionary_array(np.array([0]), ["aa-1"]), pa.array([0], pa.int16())]),
        "snapshot": (SNAPSHOT, [dictionary_array(np.array([0]), ["opening"]), pa.array([9]), nullable_times(np.array([-1])), nullable_times(np.array([-1])),
                                pa.array([None], pa.timestamp("ns", tz="UTC")), *(pa.array([None], pa.dictionary(pa.int32(), pa.string())) for _ in range(2)),
                                pa.array([None], pa.int32()), pa.array([None], pa.dictionary(pa.int32(), pa.string())),
                                pa.array([5]), pa.array([None], pa.int64()), pa.array([-2], pa.int8()), pa.array([-3], pa.int8()), *(list_array(offsets, numbers) for _ in range(4))]),
        "verbatim": (VERBATIM, [dictionary_array(np.array([0]), ["tokyo"]), dictionary_array(np.array([0]), ["aa-1"]),
                                pa.array([8]).view(pa.timestamp("ns", tz="UTC")), dictionary_array(np.array([0]), ["other"]), pa.array([b"{}"])]),
    }  # fmt: skip
    for table, arrays in batches.values():
        batch = pa.RecordBatch.from_arrays(arrays, schema=table)
        reader = TableReader(written([batch], None, table), table)
        assert reader.templates == []
        assert next(iter(reader)).equals(batch)


def test_a_table_without_rows_is_a_file_without_row_groups():
    reader = TableReader(written([]), DEPTH)
    assert (reader.rows, reader.row_groups, list(reader)) == (0, 0, [])
    assert TableReader(io.BytesIO(written([rows(0)])), DEPTH).rows == 0


def test_a_batch_of_other_columns_is_cast_or_refused():
    batch = rows(3).to_batch()
    plain = batch.set_column(8, "template", batch.column("template").cast(pa.int64()))
    assert written([plain]) == written([rows(3)])
    with pytest.raises(ValueError, match="schema"):
        written([batch.drop_columns(["flags"])])


@pytest.mark.parametrize("data", [b"", b"PAR1", LARGE_BYTES[:-1], LARGE_BYTES[:1000]])
def test_bytes_that_are_no_parquet_file_are_corrupt(data):
    with pytest.raises(CorruptionError):
        TableReader(data, DEPTH)


def test_a_file_of_another_table_is_corrupt():
    with pytest.raises(CorruptionError, match="columns"):
        TableReader(LARGE_BYTES, VERBATIM)


def test_a_flipped_bit_in_a_page_is_corrupt():
    damaged = bytearray(LARGE_BYTES)
    damaged[len(damaged) // 2] ^= 1
    with pytest.raises(CorruptionError):
        list(TableReader(bytes(damaged), DEPTH))


def test_exponents_that_vary_and_sides_of_unequal_length_are_corrupt():
    batch = rows(5).to_batch()
    mixed = batch.set_column(10, DEPTH.field(10), pa.array([-2, -2, -2, -2, -3], pa.int8()))
    with pytest.raises(CorruptionError, match="constant"):
        DepthColumns.from_batch(mixed)
    short = list_array(np.array([0, 0, 0, 0, 0, 1]), np.array([1]))
    for column in (13, 15):
        with pytest.raises(CorruptionError, match="length"):
            DepthColumns.from_batch(batch.set_column(column, DEPTH.field(column), short))


def test_templates_survive_their_json():
    assert templates_from_json(templates_to_json(TEMPLATES)) == TEMPLATES
    assert templates_from_json("[]") == []


@pytest.mark.parametrize(
    "change",
    [
        {"parts": ["{", "E"]},
        {"parts": []},
        {"parts": ["{", "x", "}"]},
        {"parts": ["{", "E", ",", "E", "}"]},
        {"price_decimals": -1},
        {"price_decimals": 9},
        {"quantity_decimals": 9},
        {"quantity_decimals": None},
        {"time_unit": "ns"},
        {"parts": None},
    ],
)
def test_templates_the_kernels_could_not_print_are_corrupt(change):
    (row,) = json.loads(templates_to_json(TEMPLATES[:1]))
    with pytest.raises(CorruptionError):
        templates_from_json(json.dumps([row | change]))


@pytest.mark.parametrize("text", ["", "{}x", "[1]", "[{}]", "1"])
def test_text_that_is_no_template_list_is_corrupt(text):
    with pytest.raises(CorruptionError):
        templates_from_json(text)


READS = """
import os, sys
from pathlib import Path
from twintape.columns.schema import DEPTH, TableReader
from twintape.independent.objects import rows_of

data = Path(sys.argv[1]).read_bytes()
before = set(os.listdir("/proc/self/task"))
counts = sum(batch.num_rows for batch in TableReader(data, DEPTH)), len(list(rows_of(data)))
print(*counts, len(set(os.listdir("/proc/self/task")) - before))
"""


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="threads are counted as Linux shows them")
def test_reading_leaves_no_thread_that_could_outlive_the_interpreter(tmp_path):
    file = tmp_path / "depth.parquet"
    file.write_bytes(written([rows(100)]))
    done = subprocess.run([sys.executable, "-c", READS, file], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["100", "100", "0"]


def test_the_flags_are_single_bits():
    flags = [schema.GAP_BEFORE, schema.OVERLAP, schema.LINE_SWITCH, schema.EPOCH_START, schema.BOOK_UNKNOWN]
    assert flags == [1, 2, 4, 8, 16]
