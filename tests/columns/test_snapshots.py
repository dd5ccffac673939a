"""REST snapshots as columns against the strict reader of the same bodies."""

import json
from decimal import Decimal

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from twintape.columns.snapshots import CompactSnapshot, counts_of, decimals_of, read_snapshot, sides_of
from twintape.core.errors import WireError
from twintape.core.wire import DepthSnapshot, decode_snapshot

BODY = b'{"lastUpdateId":160,"bids":[["0.0024","10"]],"asks":[["0.0026","100.50"]]}'
USDM = b'{"lastUpdateId":7,"E":1725382961514,"T":1725382961510,"bids":[["1.50","2"]],"asks":[["2","3"],["4","5"]]}'
COINM = (
    b'{"lastUpdateId":7,"symbol":"BTCUSD_PERP","pair":"BTCUSD","E":1725382961514,"T":1725382961510,"bids":[],"asks":[["2","3"]]}'
)
NEW = b'{"lastUpdateId":7,"E":1725382961514123,"T":1725382961510456,"symbol":"BTCUSD","bids":[["1","2"]],"asks":[]}'


def numbers(whole, decimals):
    return st.tuples(st.integers(0, 10**whole - 1), st.integers(0, 10**decimals - 1)).map(
        lambda number: f"{number[0]}.{number[1]:0{decimals}d}" if decimals else str(number[0])
    )


@st.composite
def bodies(draw):
    """Bodies of one market or another, most of them as exchanges print them."""
    price, quantity = (
        numbers(draw(st.integers(1, 9)), draw(st.integers(0, 8))),
        numbers(draw(st.integers(1, 9)), draw(st.integers(0, 8))),
    )
    bids, asks = (draw(st.lists(st.tuples(price, quantity), max_size=6)) for _ in range(2))
    times = draw(
        st.sampled_from([{}, {"E": 1725382961514, "T": 1725382961510}, {"E": 1725382961514}, {"symbol": "A_1", "E": 10**15}])
    )
    return json.dumps(
        {"lastUpdateId": draw(st.integers(0, 10**18 - 1)), **times, "bids": bids, "asks": asks}, separators=(",", ":")
    ).encode()


def levels(snapshot, price_exponent, quantity_exponent):
    return [side.tolist() for side in sides_of(snapshot, price_exponent, quantity_exponent)]


def same(compact, strict):
    """Assert that both readers read the same; levels by their exact values."""
    for name in ("last_update_id", "event_time_us", "transaction_time_us"):
        assert getattr(compact, name) == getattr(strict, name)
    assert counts_of(compact) == counts_of(strict) == (len(strict.bids), len(strict.asks))
    price, quantity = decimals_of(compact)
    assert (price, quantity) == decimals_of(strict)
    for further in (0, 1):
        exponents = -price - further, -quantity - further
        found = levels(compact, *exponents)
        assert found == levels(strict, *exponents)
        texts = [[row[column] for row in side] for side in (strict.bids, strict.asks) for column in (0, 1)]
        assert found == [
            [int(Decimal(text).scaleb(-exponent)) for text in side] for side, exponent in zip(texts, exponents * 2, strict=True)
        ]


@settings(max_examples=150, deadline=None)
@given(bodies())
@example(BODY)
@example(USDM)
@example(COINM)
@example(NEW)
def test_a_body_is_read_as_the_strict_reader_reads_it(body):
    found = read_snapshot(body)
    assert isinstance(found, CompactSnapshot)
    same(found, decode_snapshot(body))


@pytest.mark.parametrize(
    "body",
    [
        BODY.replace(b'"bids"', b'"x":1,"bids"'),
        BODY.replace(b",", b", "),
        BODY.replace(b'"0.0024"', b'"00.0024"'),
        BODY.replace(b'["0.0024","10"]', b'["0.0024","10",[]]'),
        BODY.replace(b'"0.0024"', b'"0.0000000000000000000000024"'),
        BODY.replace(b'"10"', b'"1000000000000000000000"'),
        BODY.replace(b'"10"', b'"1000000000000000.5"').replace(b"100.50", b"0.00000001"),
        BODY[:-1] + b',"further":[]}',
        BODY.replace(b"}", b"\n}"),
        BODY.replace(b'"lastUpdateId":160,', b"").replace(b"}", b',"lastUpdateId":160}'),
    ],
)
def test_a_body_that_is_out_of_the_ordinary_is_left_to_the_strict_reader(body):
    found = read_snapshot(body)
    assert isinstance(found, DepthSnapshot)
    assert found == decode_snapshot(body)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from([BODY, USDM, COINM, NEW]), st.data())
def test_a_damaged_body_is_read_as_the_strict_reader_reads_it_or_not_at_all(body, data):
    at = data.draw(st.integers(0, len(body)))
    damaged = body[:at] + data.draw(st.sampled_from([b"", b"0", b'"', b",", b"[", b"]", b"}", b".", b"-", b"1e5", b"\xff"]))
    damaged += body[at + data.draw(st.integers(0, 2)) :]
    try:
        strict = decode_snapshot(damaged)
    except WireError:
        with pytest.raises(WireError):
            read_snapshot(damaged)
        return
    found = read_snapshot(damaged)
    if isinstance(found, CompactSnapshot):
        same(found, strict)
    else:
        assert found == strict


@pytest.mark.parametrize("cut", range(len(USDM)))
def test_a_body_cut_short_is_none(cut):
    with pytest.raises(WireError):
        read_snapshot(USDM[:cut])


def test_a_number_that_does_not_fit_is_refused():
    compact, strict = read_snapshot(BODY), decode_snapshot(BODY)
    for snapshot in (compact, strict):
        assert levels(snapshot, -4, -16)[1] == [10**17]
        with pytest.raises(OverflowError):
            sides_of(snapshot, -4, -18)


def test_levels_may_be_empty():
    found = read_snapshot(b'{"lastUpdateId":0,"bids":[],"asks":[]}')
    assert (counts_of(found), decimals_of(found), found.event_time_us) == ((0, 0), (0, 0), None)
    assert [side.dtype for side in sides_of(found, -8, -8)] == [np.dtype(np.int64)] * 4


def price_text(price):
    return f"{price // 100}.{price % 100:02d}"


def quantity_text(quantity):
    return f"{quantity // 1000}.{quantity % 1000:03d}"


@given(st.lists(st.tuples(st.integers(0, 10**9), st.integers(0, 10**9)), max_size=5))
def test_a_snapshot_needs_the_digits_that_are_not_trailing_zeros(rows):
    texts = tuple((price_text(price), quantity_text(quantity)) for price, quantity in rows)
    price, quantity = decimals_of(DepthSnapshot(1, None, None, texts, ()))
    assert levels(DepthSnapshot(1, None, None, texts, ()), -price, 0)[0] == [p * 10**price // 100 for p, _ in rows]
    assert all(p * 10**price % 100 == 0 and q * 10**quantity % 1000 == 0 for p, q in rows)
    assert price == 0 or any(p * 10 ** (price - 1) % 100 for p, _ in rows)
