"""The columns on real recordings: every frame renders, every book is the published one, the files are as small as promised."""

import io

import numpy as np
import pytest

from support.corpus import captures, load, needs_corpus
from support.oracle import OracleBook, book_ticker_agreement, decimals, mantissa
from twintape.columns.book import NO_ASK, NO_BID, Book, book_sha256
from twintape.columns.checkpoint import checkpoint
from twintape.columns.parse import TemplateSet, exponents, levels, scan
from twintape.columns.render import render_lines
from twintape.columns.schema import DEPTH, DepthColumns, TableReader, TableWriter
from twintape.core.markets import Market

pytestmark = needs_corpus

LEVELS_MIN = 250_000
BYTES_PER_LEVEL = {
    "spot_2024-08-08_hft_btcusdt": 3.55,
    "usdm_2024-08-08_hft_btcusdt": 2.85,
    "usdm_2024-07-18_hft_btcusdt": 3.1,
    "coinm_2024-08-08_hft_btcusd_perp": 3.2,
}


@pytest.fixture(scope="module", params=captures())
def capture(request):
    return request.param


def columns_of(recording, headers, decoded, exponent):
    count = len(headers)
    zeros = np.zeros(count, np.int32)
    return DepthColumns(
        prev=headers.prev,
        first=headers.first,
        final=headers.final,
        event_time_us=headers.event_time_us,
        transaction_time_us=headers.transaction_time_us,
        receive_time_ns=headers.receive_time_ns,
        collector=zeros,
        collector_names=("tokyo",),
        connection=zeros,
        connection_names=("0123abcd-1",),
        template=headers.template,
        flags=np.zeros(count, np.uint8),
        price_exponent=exponent[0],
        quantity_exponent=exponent[1],
        bid_offsets=decoded.bid_offsets,
        bid_price=decoded.bid_price,
        bid_quantity=decoded.bid_quantity,
        ask_offsets=decoded.ask_offsets,
        ask_price=decoded.ask_price,
        ask_quantity=decoded.ask_quantity,
    )


def parsed(recording, snapshot=None):
    templates = TemplateSet()
    headers = scan(recording.text, recording.market, templates)
    price, quantity = exponents(headers.price_decimals, headers.quantity_decimals)
    if snapshot is not None:
        rows = (*snapshot.bids, *snapshot.asks)
        price = min(price, *(-decimals(row[0]) for row in rows))
        quantity = min(quantity, *(-decimals(row[1]) for row in rows))
    decoded = levels(
        recording.text,
        headers.offset,
        headers.length,
        headers.template,
        templates,
        market=recording.market,
        price_exponent=price,
        quantity_exponent=quantity,
    )
    return templates, headers, decoded, (price, quantity)


def side(rows, exponent):
    return (
        np.array([mantissa(price, exponent[0]) for price, _ in rows], np.int64),
        np.array([mantissa(quantity, exponent[1]) for _, quantity in rows], np.int64),
    )


def test_every_depth_frame_of_a_capture_has_a_template_and_renders_byte_for_byte(capture):
    for recording in load(capture):
        templates, headers, decoded, exponent = parsed(recording)
        assert len(headers) == recording.expected["depth_events"]
        assert int(headers.template.min()) >= 0
        assert len(decoded.bid_price) + len(decoded.ask_price) == recording.expected["levels"]
        text, starts = render_lines(columns_of(recording, headers, decoded, exponent), templates)
        assert text.tobytes() == recording.text
        assert np.array_equal(starts[:-1], headers.offset)


def test_the_depth_file_of_a_capture_reads_back_equal_and_is_as_small_as_promised(capture):
    (recording, *others) = load(capture)
    if others or recording.expected["levels"] < LEVELS_MIN:
        pytest.skip("too few levels to measure")
    templates, headers, decoded, exponent = parsed(recording)
    columns = columns_of(recording, headers, decoded, exponent)
    sink = io.BytesIO()
    with TableWriter(DEPTH, sink, templates=templates) as writer:
        writer.write(columns.to_batch())
    reader = TableReader(sink.getvalue(), DEPTH)
    rendered = b"".join(render_lines(part, reader.templates)[0].tobytes() for part in reader.depth())
    assert rendered == recording.text
    assert len(sink.getvalue()) / recording.expected["levels"] <= BYTES_PER_LEVEL[capture]


def test_the_book_of_a_capture_is_the_published_one_and_agrees_with_book_ticker(capture):
    for recording in load(capture):
        snapshot = recording.snapshots[0]
        _, headers, decoded, exponent = parsed(recording, snapshot)
        newer = (
            headers.final > snapshot.last_update_id
            if recording.market is Market.SPOT
            else headers.final >= snapshot.last_update_id
        )
        start = int(np.argmax(newer))
        book = Book(*exponent)
        book.load(*side(snapshot.bids, exponent), *side(snapshot.asks, exponent))
        top = book.apply(decoded, start)
        assert book_sha256(book) == recording.expected["final_book_sha256"]
        assert top.crossed_count == recording.expected["crossed"]

        oracle = OracleBook()
        oracle.apply(
            [(mantissa(p, exponent[0]), mantissa(q, exponent[1])) for p, q in snapshot.bids],
            [(mantissa(p, exponent[0]), mantissa(q, exponent[1])) for p, q in snapshot.asks],
        )
        bid_price, bid_quantity = decoded.bid_price.tolist(), decoded.bid_quantity.tolist()
        ask_price, ask_quantity = decoded.ask_price.tolist(), decoded.ask_quantity.tolist()
        bid_offsets, ask_offsets = decoded.bid_offsets.tolist(), decoded.ask_offsets.tolist()
        events = []
        for row in range(start, len(headers)):
            bids, asks = slice(bid_offsets[row], bid_offsets[row + 1]), slice(ask_offsets[row], ask_offsets[row + 1])
            oracle.apply(
                zip(bid_price[bids], bid_quantity[bids], strict=True), zip(ask_price[asks], ask_quantity[asks], strict=True)
            )
            events.append((int(headers.prev[row]), int(headers.final[row]), oracle.top()))
        assert top.best_bid.tolist() == [best[0] if best else NO_BID for _, _, best in events]
        assert top.best_ask.tolist() == [best[2] if best else NO_ASK for _, _, best in events]

        tickers = [(u, tuple(mantissa(n, exponent[i % 2]) for i, n in enumerate(best))) for u, best in recording.tickers]
        agreement = book_ticker_agreement(events, tickers)
        assert agreement == (recording.expected["bookTicker_agree"], recording.expected["bookTicker_disagree"])


def test_a_snapshot_is_a_checkpoint_of_itself_and_a_changed_one_fails(capture):
    for recording in load(capture):
        snapshot = recording.snapshots[0]
        _, headers, decoded, exponent = parsed(recording, snapshot)
        last = snapshot.last_update_id
        spanning = np.flatnonzero((headers.prev <= last) & (last <= headers.final))
        if len(spanning) == 0:
            continue
        row = int(spanning[0])
        sides = (*side(snapshot.bids, exponent), *side(snapshot.asks, exponent))
        book = Book(*exponent)
        book.load(*sides)
        book.apply(decoded, row, row + 1)
        assert checkpoint(sides, book, decoded, row).verdict == "passed"
        changed = (sides[0], sides[1] + (np.arange(len(sides[1])) == len(sides[1]) // 2), sides[2], sides[3])
        touched = decoded.bid_price[decoded.bid_offsets[row] : decoded.bid_offsets[row + 1]]
        if sides[0][len(sides[0]) // 2] not in touched:
            assert checkpoint(changed, book, decoded, row).difference_count == 1
