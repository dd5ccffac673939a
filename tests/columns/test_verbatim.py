import numpy as np
import pytest

from twintape.columns.lines import Chunk, ChunkTexts
from twintape.columns.schema import ROW_GROUP_EVENTS, VERBATIM, TableReader
from twintape.columns.verbatim import REASONS, Places, verbatim_table


def table(records):
    """`(collector, connection, receive time, reason, frame)` each."""
    chunks = [Chunk(r[0], r[1], 0, "2024-01-01", lambda r=r: b"%d %b\n" % (r[2], r[4])) for r in records]
    collectors, connections = sorted({r[0] for r in records}), sorted({r[1] for r in records})
    places = Places(
        collectors=collectors,
        connections=connections,
        line=np.array([collectors.index(r[0]) for r in records], np.int64),
        connection=np.array([connections.index(r[1]) for r in records], np.int64),
        receive_time_ns=np.array([r[2] for r in records], np.int64),
        chunk=np.arange(len(records)),
        offset=np.zeros(len(records), np.int64),
        length=np.array([len(b"%d %b" % (r[2], r[4])) for r in records], np.int32),
    )
    assert len(places) == len(records)
    return verbatim_table(ChunkTexts(chunks), places, np.array([REASONS.index(r[3]) for r in records], np.int8))


def rows(made):
    names = ("collector", "connection", "reason", "frame")
    batches = list(TableReader(made.data, VERBATIM))
    return [row for batch in batches for row in zip(*(batch.column(name).to_pylist() for name in names), strict=True)]


RECORDS = [
    ("b", "1", 2, "other", b"x"),
    ("a", "2", 1, "other", b"z"),
    ("a", "1", 3, "stale", b"y y"),
    ("a", "1", 3, "other", b"y y"),
    ("a", "1", 3, "variant", b"x"),
    ("a", "1", 4, "conflict", b"a"),
]


@pytest.mark.parametrize("turn", range(len(RECORDS)))
def test_rows_are_sorted_by_what_is_in_them(turn):
    made = table(RECORDS[turn:] + RECORDS[:turn])
    assert made == table(RECORDS)
    assert (made.name, made.rows) == ("verbatim", 6)
    assert rows(made) == [
        ("a", "1", "variant", b"x"),
        ("a", "1", "other", b"y y"),
        ("a", "1", "stale", b"y y"),
        ("a", "1", "conflict", b"a"),
        ("a", "2", "other", b"z"),
        ("b", "1", "other", b"x"),
    ]


def test_reasons_are_sorted():
    assert list(REASONS) == sorted(REASONS)


def test_more_rows_than_a_row_group_and_none_at_all():
    many = [("a", "1", number, "other", b"%d" % number) for number in range(ROW_GROUP_EVENTS + 3)]
    assert [frame for *_, frame in rows(table(many[::-1]))] == [b"%d" % number for number in range(ROW_GROUP_EVENTS + 3)]
    assert table([]).rows == 0
