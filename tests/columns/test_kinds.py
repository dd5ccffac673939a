import pyarrow as pa
import pytest

from twintape.columns.kinds import KINDS, flat_schema, kind_of


def test_columns_are_named_and_required_as_the_fields_are():
    schema = flat_schema(KINDS["bookTicker"])
    assert schema.names[:3] == ["update_id", "event_time", "transaction_time"]
    assert not schema.field("update_id").nullable
    assert schema.field("event_time").nullable
    assert {"price_exponent", "quantity_exponent", "receive_time", "collector", "connection", "template"} < set(schema.names)


def test_partial_depth_has_ids_and_times_first_and_levels_last():
    schema = flat_schema(KINDS["depth<levels>"])
    assert schema.names[:5] == ["last_update_id", "event_time", "transaction_time", "first_update_id", "prev_update_id"]
    assert schema.names[-4:] == ["bid_price", "bid_quantity", "ask_price", "ask_quantity"]
    assert schema.field("bid_price").type == pa.list_(pa.field("element", pa.int64(), nullable=False))
    assert {"price_exponent", "quantity_exponent"} < set(schema.names)


@pytest.mark.parametrize(
    ("stream", "table"),
    [
        ("trade", "trade"),
        ("aggTrade", "agg_trade"),
        ("bookTicker", "book_ticker"),
        ("markPrice", "mark_price"),
        ("markPrice@1s", "mark_price"),
        ("forceOrder", "force_order"),
        ("depth5", "partial_depth"),
        ("depth20@100ms", "partial_depth"),
        ("depth10@500ms", "partial_depth"),
    ],
)
def test_streams_with_a_table_are_known_by_name_whatever_their_speed(stream, table):
    kind = kind_of(stream)
    assert kind is not None
    assert kind.table == table


@pytest.mark.parametrize(
    "stream", ["depth", "depth@100ms", "depth@0ms", "rpiDepth@500ms", "kline_1m", "!forceOrder@arr", "depth<levels>x"]
)
def test_other_streams_have_none(stream):
    assert kind_of(stream) is None


def test_only_mark_prices_are_as_of_their_event_time():
    assert [name for name, kind in KINDS.items() if kind.stamp in kind.content] == ["markPrice"]
    assert all(kind.fields[kind.stamp].key == "E" for kind in KINDS.values())
