import numpy as np
import pyarrow as pa
import pytest

from twintape.columns.kinds import ABSENT, KINDS, flat_schema
from twintape.columns.lines import Chunk
from twintape.columns.messages import merge_messages_day
from twintape.columns.parse import levels
from twintape.columns.partial import level_columns, partial_lines, scan_partial
from twintape.columns.schema import TableReader
from twintape.columns.templates import TemplateSet
from twintape.core.errors import CorruptionError
from twintape.core.markets import Market

SPOT = b'{"lastUpdateId":160,"bids":[["0.0024","10"],["0.0023","9"]],"asks":[["0.0026","100"]]}'
EMPTY = b'{"lastUpdateId":161,"bids":[],"asks":[]}'
COINM = (
    b'{"e":"depthUpdate","E":1591269996801,"T":1591269996646,"s":"BTCUSD_200626","ps":"BTCUSD","U":17276694,"u":17276701,"pu":17276678,'
    b'"b":[["9523.0","5"]],"a":[["9524.6","2"]],"st":2}'
)


def text_of(*frames):
    return b"".join(b"%d %b\n" % (10**18 + number, frame) for number, frame in enumerate(frames))


def test_both_shapes_are_read_and_what_is_none_keeps_only_its_place():
    templates = TemplateSet()
    text = text_of(SPOT, b"<odd>", COINM, EMPTY, b'{"lastUpdateId":"7"}', SPOT)
    found, decimals = scan_partial(text, templates)
    assert found.template.tolist() == [0, -1, 1, 2, -1, 0]
    assert found.values[0].tolist() == [160, ABSENT, 17276701, 161, ABSENT, 160]
    assert found.values[1:5, 2].tolist() == [1591269996801000, 1591269996646000, 17276694, 17276678]
    assert found.values[1:5, 0].tolist() == [ABSENT] * 4
    assert decimals.T.tolist() == [[4, 0], [0, 0], [1, 0], [0, 0], [0, 0], [4, 0]]
    assert np.array_equal(found.values[5:, 0], found.values[5:, 5])
    assert (found.values[5:, 0] != found.values[5:, 2]).any()
    assert [text[o : o + n] for o, n in zip(found.offset, found.length, strict=True)] == text.splitlines()


@pytest.mark.parametrize("text", [b"1 {}", b"{}\n", b"12 \n"])
def test_a_text_that_is_not_whole_lines_is_damage(text):
    with pytest.raises(CorruptionError, match="text"):
        scan_partial(text, TemplateSet())


def test_levels_become_list_columns():
    templates = TemplateSet()
    text = text_of(SPOT, EMPTY)
    found, _ = scan_partial(text, templates)
    read = levels(
        text, found.offset, found.length, found.template, templates, market=Market.USDM, price_exponent=-4, quantity_exponent=0
    )
    columns = {name: array.to_pylist() for name, array in level_columns(read).items()}
    assert columns == {
        "bid_price": [[24, 23], []],
        "bid_quantity": [[10, 9], []],
        "ask_price": [[26], []],
        "ask_quantity": [[100], []],
    }


@pytest.fixture
def written():
    text = text_of(SPOT, EMPTY, SPOT)
    day = merge_messages_day("depth20", [Chunk("tokyo", "aaaaaaaa-1", 0, "2024-08-08", lambda: text)])
    reader = TableReader(day.tables[0].data, flat_schema(KINDS["depth<levels>"]))
    return reader.read(0), reader.templates


def printed(batch, templates, rows):
    count = len(rows)
    times = {"receive_time": np.arange(1, count + 1), "event_time": np.full(count, -1)}
    codes = np.asarray(batch.column("template"))[rows].astype(np.int16)
    return partial_lines(batch, np.array(rows), times, templates, codes)[0].tobytes()


def test_rows_are_printed_in_any_order_and_as_often_as_they_are_named(written):
    batch, templates = written
    assert printed(batch, templates, [1, 0, 1]) == b"1 %b\n2 %b\n3 %b\n" % (EMPTY, SPOT, EMPTY)


def test_one_template_in_two_lists_is_one_and_one_there_is_not_is_damage(written):
    batch, templates = written
    assert printed(batch, [*templates, *templates], [0]) == b"1 %b\n" % SPOT
    with pytest.raises(CorruptionError, match="of 1"):
        printed(batch, templates[:1], [0, 1])


def with_column(batch, name, column):
    at = batch.schema.get_field_index(name)
    return pa.RecordBatch.from_arrays([*batch.columns[:at], column, *batch.columns[at + 1 :]], schema=batch.schema)


def test_an_exponent_that_varies_is_damage(written):
    batch, templates = written
    with pytest.raises(CorruptionError, match="price_exponent must be constant"):
        printed(with_column(batch, "price_exponent", pa.array([-4, -3], pa.int8())), templates, [0])


def test_lists_of_different_length_are_damage(written):
    batch, templates = written
    other = pa.array([[1], []], batch.schema.field("bid_quantity").type)
    with pytest.raises(CorruptionError, match="differ in length"):
        printed(with_column(batch, "bid_quantity", other), templates, [0])
