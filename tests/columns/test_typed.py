import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from twintape.columns.digests import digest_lines, missing_lines
from twintape.columns.kinds import KINDS, flat_schema
from twintape.columns.lines import Chunk
from twintape.columns.messages import merge_messages_day
from twintape.columns.schema import COPY, ROW_GROUP_EVENTS, TEMPLATES_KEY, TableReader, TableWriter
from twintape.columns.typed import typed_chunks
from twintape.core.errors import CorruptionError

KIND = KINDS["trade"]
SCHEMA = flat_schema(KIND)


def trade(number):
    return b'{"e":"trade","E":1723161255343,"s":"A","t":%d,"p":"%d.50","q":"1","T":1723161255342,"m":false}' % (number, number)


def heard(collector, numbers, start_ns=1):
    text = b"".join(b"%d %b\n" % (start_ns + number, trade(number)) for number in numbers)
    return Chunk(collector, f"{collector[:2]}000000-1", 0, "2024-08-08", lambda: text)


def files(chunks):
    return {table.name: table.data for table in merge_messages_day("trade", chunks).tables}


def chunks_of(made):
    copies = TableReader(made["copy"], COPY) if "copy" in made else None
    return typed_chunks(TableReader(made["trade"], SCHEMA), copies, KIND, "2024-08-08")


def changed(data, schema, name, values):
    """The same file with another column."""
    reader = TableReader(data, schema)
    batch = reader.read(0)
    at = schema.get_field_index(name)
    column = pa.array(values, schema.field(name).type)
    batch = pa.RecordBatch.from_arrays([*batch.columns[:at], column, *batch.columns[at + 1 :]], schema=schema)
    sink = io.BytesIO()
    with TableWriter(schema, sink, metadata={TEMPLATES_KEY: reader.metadata(TEMPLATES_KEY)}) as writer:
        writer.write(batch)
    return sink.getvalue()


def test_rows_and_copies_come_back_whatever_their_row_groups_and_however_often_they_are_asked_for():
    count = ROW_GROUP_EVENTS + 100
    raw = [heard("tokyo", range(count)), heard("paris", range(50, count), 10**6), heard("paris", range(90, count), 10**7)]
    found = chunks_of(files(raw))
    assert sorted({(chunk.collector, chunk.date) for chunk in found}) == [("paris", "2024-08-08"), ("tokyo", "2024-08-08")]
    for _ in range(2):
        left, strangers = missing_lines(digest_lines(raw), digest_lines(found))
        assert (len(left), strangers) == (0, 0)
    first = found[0].load()
    assert found[0].load() == first


def test_a_table_without_copies_comes_back():
    raw = [heard("tokyo", range(5))]
    assert [chunk.load() for chunk in chunks_of(files(raw))] == [raw[0].load()]


@pytest.mark.parametrize(
    ("name", "values"), [("price_exponent", [-1, -2]), ("price_exponent", [-19, -19]), ("price_exponent", [1, 1])]
)
def test_exponents_that_cannot_be_are_damage(name, values):
    made = files([heard("tokyo", range(2))])
    made["trade"] = changed(made["trade"], SCHEMA, name, values)
    with pytest.raises(CorruptionError, match="price_exponent"):
        chunks_of(made)[0].load()


@pytest.mark.parametrize("values", [[2**62, 1], [0, 1]])
def test_a_number_its_template_cannot_print_is_damage(values):
    made = files([heard("tokyo", range(2))])
    exponent = [-4, -4] if values[0] == 0 else [0, 0]
    made["trade"] = changed(made["trade"], SCHEMA, "price_exponent", exponent)
    made["trade"] = changed(made["trade"], SCHEMA, "price", values)
    with pytest.raises(CorruptionError, match="price cannot be printed"):
        chunks_of(made)[0].load()


def test_a_template_there_is_not_is_damage():
    made = files([heard("tokyo", range(2))])
    made["trade"] = changed(made["trade"], SCHEMA, "template", [0, 7])
    with pytest.raises(CorruptionError, match="template 7 of 1"):
        chunks_of(made)[0].load()


@pytest.mark.parametrize("rows", [[0, 9], [1, 0]])
def test_copies_of_no_row_or_out_of_order_are_damage(rows):
    made = files([heard("tokyo", range(2)), heard("paris", range(2), 50)])
    made["copy"] = changed(made["copy"], COPY, "row", rows)
    with pytest.raises(CorruptionError, match="copies"):
        chunks_of(made)


def test_any_parquet_reader_reads_the_table():
    file = pq.ParquetFile(pa.BufferReader(files([heard("tokyo", [3])])["trade"]))
    table = file.read()
    assert table.column("price").to_pylist() == [35]
    assert table.column("price_exponent").to_pylist() == [-1]
    assert json.loads(file.metadata.metadata[b"twintape.templates"])[0]["time_unit"] == "ms"


def forces(sides):
    return b"".join(
        b'%d {"e":"forceOrder","E":1568014460893,"o":{"S":"%b","q":"1","p":"2","ap":"2","X":"NEW","l":"1","z":"1","T":%d}}\n'
        % (number, side, 1_568_014_460_000 + number)
        for number, side in enumerate(sides, 1)
    )


def test_words_come_back_and_one_there_is_not_is_damage():
    kind, text = KINDS["forceOrder"], forces([b"SELL", b"BUY"])
    schema = flat_schema(kind)
    table = merge_messages_day("forceOrder", [Chunk("tokyo", "to000000-1", 0, "2024-08-08", lambda: text)]).tables[0].data
    assert [chunk.load() for chunk in typed_chunks(TableReader(table, schema), None, kind, "2024-08-08")] == [text]
    wrong = changed(table, schema, "side", pa.array(["SELL", "HOLD"]).dictionary_encode())
    with pytest.raises(CorruptionError, match="side says"):
        typed_chunks(TableReader(wrong, schema), None, kind, "2024-08-08")[0].load()


def test_partial_depth_and_its_copies_come_back_whatever_their_row_groups():
    kind = KINDS["depth<levels>"]

    def text_of(numbers):
        return b"".join(
            b'%d {"lastUpdateId":%d,"bids":[["%d.5","1.0"]],"asks":[]}\n' % (number + 1, number, number) for number in numbers
        )

    count = ROW_GROUP_EVENTS + 50
    raw = [
        Chunk("tokyo", "to000000-1", 0, "2024-08-08", lambda: text_of(range(count))),
        Chunk("paris", "pa000000-1", 0, "2024-08-08", lambda: text_of(range(9, count))),
    ]
    made = {table.name: table.data for table in merge_messages_day("depth20", raw).tables}
    found = typed_chunks(
        TableReader(made["partial_depth"], flat_schema(kind)), TableReader(made["copy"], COPY), kind, "2024-08-08"
    )
    left, strangers = missing_lines(digest_lines(raw), digest_lines(found))
    assert (len(left), strangers) == (0, 0)
