import gzip
import itertools
import json
import random

import numpy as np
import pytest

from twintape.columns.digests import digest_lines, missing_lines
from twintape.columns.expand import Outputs, expand
from twintape.columns.kinds import KINDS, flat_schema
from twintape.columns.lines import Chunk
from twintape.columns.messages import merge_messages_day
from twintape.columns.schema import COPY, VERBATIM, TableReader

DATE = "2024-08-08"
T0_MS = 1_723_161_255_000


def trade(number, price="61837.63", quantity="0.020", event_ms=None, **more):
    """A spot trade; prices print with eight decimals, as the exchange does."""
    content = {"e": "trade", "E": event_ms or T0_MS + number, "s": "BTCUSDT", "t": number, "p": price, "q": quantity}
    content |= {"T": T0_MS + number, "m": number % 2 == 0, "M": True} | more
    return json.dumps({"stream": "btcusdt@trade", "data": content}, separators=(",", ":")).encode()


def ticker(number, bid="1.0"):
    return f'{{"u":{number},"s":"BTCUSDT","b":"{bid}","B":"2.00","a":"3.0","A":"4.00"}}'.encode()


def chunk(collector, frames, connection="aaaaaaaa-1", start_ns=10**18, source=0):
    text = b"".join(b"%d %b\n" % (start_ns + number, frame) for number, frame in enumerate(frames))
    return Chunk(collector, connection, source, DATE, lambda: text)


def files(day):
    return {table.name: table.data for table in day.tables}


def column(day, table, name):
    schema = COPY if table == "copy" else VERBATIM if table == "verbatim" else flat_schema(KINDS_BY_TABLE[table])
    reader = TableReader(files(day)[table], schema)
    return [value for batch in reader for value in batch.column(name).to_pylist()]


KINDS_BY_TABLE = {kind.table: kind for kind in KINDS.values()}


def assert_nothing_is_lost(day, chunks):
    left, strangers = missing_lines(digest_lines(chunks), digest_lines(expand(Outputs(files(day)), DATE)))
    assert (len(left), strangers) == (0, 0)


def test_two_lines_of_trades_are_one_table_and_the_copies_of_each():
    chunks = [
        chunk("tokyo", [trade(n) for n in (1, 2, 3)], start_ns=10**18),
        chunk("paris", [trade(n, event_ms=T0_MS + n + 1) for n in (2, 3, 4)], start_ns=10**18 + 50, connection="bbbbbbbb-1"),
    ]
    day = merge_messages_day("trade", chunks)
    assert column(day, "trade", "trade_id") == [1, 2, 3, 4]
    assert column(day, "trade", "collector") == ["tokyo", "tokyo", "tokyo", "paris"]
    assert column(day, "trade", "price") == [6183763] * 4
    assert set(column(day, "trade", "price_exponent")) == {-2}
    assert column(day, "trade", "quantity") == [2] * 4
    assert column(day, "trade", "buyer_is_maker") == [False, True, False, True]
    assert (column(day, "copy", "row"), column(day, "copy", "collector")) == ([1, 2], ["paris", "paris"])
    assert (day.ids.tolist(), day.gaps, day.contiguous) == ([1, 2, 3, 4], [], True)
    assert_nothing_is_lost(day, chunks)


def test_ids_no_line_has_are_a_gap_and_ids_of_odd_frames_are_none():
    odd = trade(6).replace(b'"t":6', b'"t": 6')
    frames = [trade(1), trade(2), trade(5), odd, b"<html>", b"[]", b'{"t":"7"}', b'{"stream":"a@trade","data":', trade(8)]
    chunks = [chunk("tokyo", frames)]
    day = merge_messages_day("trade", chunks)
    assert [(after, missing) for after, missing, _, _ in day.gaps] == [(2, 4), (6, 7)]
    assert day.gaps[0][2:] == ((T0_MS + 2) * 1000, (T0_MS + 5) * 1000)
    assert column(day, "verbatim", "frame") == [odd, *frames[4:8]]
    assert_nothing_is_lost(day, chunks)


def test_of_trades_with_one_id_that_contradict_each_other_the_first_heard_is_the_row():
    chunks = [
        chunk("tokyo", [trade(1), trade(2, price="7.00")], start_ns=10**18 + 9),
        chunk("paris", [trade(1), trade(2, price="8.00"), trade(2, price="8.00")], connection="bbbbbbbb-1"),
    ]
    day = merge_messages_day("trade", chunks)
    assert column(day, "trade", "price") == [6183763, 800]
    assert column(day, "verbatim", "reason") == ["conflict"]
    assert column(day, "copy", "row") == [0, 1]
    assert_nothing_is_lost(day, chunks)


def test_tickers_of_one_id_are_one_message_for_each_content_in_the_order_heard():
    chunks = [chunk("tokyo", [ticker(5, "9.0"), ticker(5, "1.0"), ticker(5, "9.0"), ticker(9)])]
    day = merge_messages_day("bookTicker", chunks)
    assert column(day, "book_ticker", "bid_price") == [9, 1, 1]
    assert column(day, "copy", "row") == [0]
    assert set(column(day, "book_ticker", "event_time")) == {None}
    assert (day.gaps, day.contiguous) == ([], False)
    assert_nothing_is_lost(day, chunks)


def test_decimals_that_differ_share_the_coarsest_exponent_that_holds_all():
    prices = ["1.50", "1.5", "2", "0.00100000"]
    chunks = [chunk("tokyo", [trade(n, price=price, quantity="10") for n, price in enumerate(prices, 1)])]
    day = merge_messages_day("trade", chunks)
    assert column(day, "trade", "price") == [1500, 1500, 2000, 1]
    assert set(column(day, "trade", "price_exponent")) == {-3}
    assert set(column(day, "trade", "quantity_exponent")) == {0}
    assert_nothing_is_lost(day, chunks)


def test_a_number_that_leaves_the_others_no_room_costs_its_own_frame_the_type():
    frames = [trade(1, price="123456789012345678"), trade(2, price="0.00000001")]
    chunks = [chunk("tokyo", frames)]
    day = merge_messages_day("trade", chunks)
    assert day.ids.tolist() == [2]
    assert column(day, "verbatim", "frame") == [frames[0]]
    assert day.gaps == []
    assert_nothing_is_lost(day, chunks)


def test_a_frame_whose_own_numbers_leave_each_other_no_room_may_be_the_only_one():
    frame = b'{"e":"aggTrade","E":1723161255343,"a":1,"p":"1","q":"123456789012345678","nq":"0.00000001","f":1,"l":1,"T":1723161255342,"m":true}'
    one = chunk("tokyo", [frame])
    day = merge_messages_day("aggTrade", [one])
    assert (list(files(day)), day.gaps, day.ids.tolist()) == (["verbatim"], [], [])
    assert_nothing_is_lost(day, [one])


def test_optional_fields_are_null_where_a_message_has_none():
    chunks = [chunk("tokyo", [trade(1), trade(2, b=77, a=78)])]
    day = merge_messages_day("trade", chunks)
    assert column(day, "trade", "buyer_order_id") == [None, 77]
    assert_nothing_is_lost(day, chunks)


def test_a_stream_without_a_type_and_one_of_too_many_shapes_are_kept_verbatim():
    kline = chunk("tokyo", [b'{"e":"kline","k":1}', b'{"e":"kline","k":2}'])
    shapes = chunk("tokyo", [trade(number, n=number) for number in range(1, 300)])
    for stream, one in (("kline_1m", kline), ("trade", shapes)):
        day = merge_messages_day(stream, [one])
        assert list(files(day)) == ["verbatim"]
        assert_nothing_is_lost(day, [one])


def test_frames_that_are_all_odd_have_no_typed_table():
    one = chunk("tokyo", [b"<html>"])
    assert list(files(merge_messages_day("trade", [one]))) == ["verbatim"]
    assert merge_messages_day("trade", []).tables == []


@pytest.mark.parametrize("seed", range(12))
def test_neither_the_order_of_chunks_nor_a_detour_through_the_archive_changes_a_byte(seed):
    rng = random.Random(seed)
    stream, make = rng.choice([("trade", trade), ("bookTicker", ticker)])
    heard = []
    for number, collector in enumerate(["tokyo", "paris", "tokyo"]):
        frames = [make(n) for n in range(1, 60) if rng.random() < 0.8]
        frames.insert(rng.randrange(len(frames)), make(rng.randrange(1, 60), "123.4"))
        frames.insert(rng.randrange(len(frames)), b"<odd>")
        heard.append((collector, f"aaaaaaaa-{number}", frames, 10**18 + rng.randrange(40)))
    whole = [chunk(c, frames, k, start) for c, k, frames, start in heard]
    pieces = []
    for c, k, frames, start in heard:
        cuts = sorted({0, len(frames), *(rng.randrange(len(frames)) for _ in range(3))})
        pieces += [chunk(c, frames[a:b], k, start + a) for a, b in itertools.pairwise(cuts)]
    rng.shuffle(pieces)
    day = merge_messages_day(stream, whole)
    assert files(merge_messages_day(stream, pieces)) == files(day)
    assert_nothing_is_lost(day, whole)
    first = merge_messages_day(stream, whole[:2])
    later = [*expand(Outputs(files(first)), DATE), whole[2]]
    assert files(merge_messages_day(stream, later)) == files(day)


@pytest.mark.corpus
@pytest.mark.parametrize(
    ("file", "stream", "count", "bytes_max"),
    [
        ("spot_btcusdt_20240808", "btcusdt@trade", 9757, 7.5),
        ("spot_btcusdt_20240808", "btcusdt@bookTicker", 28040, 7.4),
        ("usdm_btcusdt_20240808", "btcusdt@trade", 21313, 5.9),
        ("usdm_btcusdt_20240808", "btcusdt@bookTicker", 66089, 8.4),
        ("coinm_btcusd_perp_20240808", "btcusd_perp@trade", 2286, 9.1),
        ("coinm_btcusd_perp_20240808", "btcusd_perp@bookTicker", 19136, 9.6),
        ("spot_10symbols_20210405", "dentusdt@aggTrade", 716, 19),
    ],
)
def test_real_messages_are_all_typed_small_and_contiguous(corpus, file, stream, count, bytes_max):
    prefix = b'{"stream":"%b"' % stream.encode()
    with gzip.open(corpus / f"{file}.gz") as recording:
        lines = [line for line in recording if line.split(b" ", 1)[-1].startswith(prefix)]
    parts = [b"".join(lines[start : start + 5000]) for start in range(0, len(lines), 5000)]
    one = [Chunk("tokyo", "aaaaaaaa-1", 0, DATE, lambda text=text: text) for text in parts]
    day = merge_messages_day(stream.partition("@")[2], one)
    assert (len(lines), len(day.ids), [table.name in KINDS_BY_TABLE for table in day.tables]) == (count, count, [True])
    assert day.gaps == []
    if day.contiguous:
        assert np.array_equal(np.diff(day.ids), np.ones(count - 1))
    assert len(day.tables[0].data) / count <= bytes_max
    assert_nothing_is_lost(day, one)
    two = [Chunk("paris", "bbbbbbbb-1", 0, DATE, lambda text=text: text) for text in parts]
    both = merge_messages_day(stream.partition("@")[2], [*two, *one])
    assert {table.name: table.rows for table in both.tables} == {day.tables[0].name: count, "copy": count}
    assert_nothing_is_lost(both, [*one, *two])


# --- mark prices, liquidations, partial depth --------------------------------------------------------------------------------------


def mark(number, price="61837.63000000", rate="-0.00010000", event_ms=None):
    return (
        f'{{"stream":"btcusdt@markPrice@1s","data":{{"e":"markPriceUpdate","E":{event_ms or T0_MS + number * 1000},"s":"BTCUSDT",'
        f'"p":"{price}","i":"{price}","P":"{price}","r":"{rate}","T":1723161600000}}}}'
    ).encode()


def force(number, side="SELL", event_ms=None):
    return (
        f'{{"stream":"btcusdt@forceOrder","data":{{"e":"forceOrder","E":{event_ms or T0_MS + number},"o":{{"s":"BTCUSDT","S":"{side}",'
        f'"o":"LIMIT","f":"IOC","q":"0.014","p":"9910.10","ap":"9910","X":"FILLED","l":"0.014","z":"0.014","T":{T0_MS + number}}}}}}}'
    ).encode()


def spot_partial(number, quantity="3.20000000"):
    return (
        f'{{"stream":"btcusdt@depth20@100ms","data":{{"lastUpdateId":{number},"bids":[["61837.63000000","{quantity}"],'
        f'["61837.62000000","1.00000000"]],"asks":[["61837.64000000","{number}.00000000"]]}}}}'
    ).encode()


def futures_partial(number, quantity="0.350", event_ms=None):
    return (
        f'{{"stream":"btcusdt@depth20@100ms","data":{{"e":"depthUpdate","E":{event_ms or T0_MS + number},"T":{T0_MS + number},'
        f'"s":"BTCUSDT","U":{number * 10},"u":{number * 10 + 7},"pu":{number * 10 - 3},"b":[["61837.6","{quantity}"]],"a":[]}}}}'
    ).encode()


def test_mark_prices_of_two_seconds_are_two_rows_though_they_say_the_same():
    chunks = [
        chunk("tokyo", [mark(1), mark(2)]),
        chunk("paris", [mark(2), mark(3)], connection="bbbbbbbb-1", start_ns=10**18 + 9),
    ]
    day = merge_messages_day("markPrice@1s", chunks)
    assert column(day, "mark_price", "event_time")[0].timestamp() == T0_MS / 1000 + 1
    assert set(column(day, "mark_price", "funding_rate")) == {-1}
    assert set(column(day, "mark_price", "rate_exponent")) == {-4}
    assert column(day, "copy", "row") == [1]
    assert (len(day.ids), day.gaps, day.contiguous) == (3, [], False)
    assert_nothing_is_lost(day, chunks)


def test_a_liquidation_is_one_row_however_its_copies_were_stamped():
    chunks = [
        chunk("tokyo", [force(1), force(2, "BUY")]),
        chunk("paris", [force(2, "BUY", event_ms=T0_MS + 9)], connection="bbbbbbbb-1", start_ns=10**18 + 9),
    ]
    day = merge_messages_day("forceOrder", chunks)
    assert column(day, "force_order", "side") == ["SELL", "BUY"]
    assert column(day, "force_order", "price") == [99101, 99101]
    assert column(day, "copy", "row") == [1]
    assert_nothing_is_lost(day, chunks)


def test_partial_depth_of_spot_has_one_id_and_no_time():
    chunks = [
        chunk("tokyo", [spot_partial(7), spot_partial(9)]),
        chunk("paris", [spot_partial(9), spot_partial(9, "3.10000000")], connection="bbbbbbbb-1", start_ns=10**18 + 9),
    ]
    day = merge_messages_day("depth20@100ms", chunks)
    assert column(day, "partial_depth", "last_update_id") == [7, 9, 9]
    assert column(day, "partial_depth", "bid_price") == [[6183763, 6183762]] * 3
    assert column(day, "partial_depth", "bid_quantity") == [[32, 10], [32, 10], [31, 10]]
    assert column(day, "partial_depth", "ask_quantity") == [[70], [90], [90]]
    assert set(column(day, "partial_depth", "price_exponent")) == {-2}
    for name in ("event_time", "transaction_time", "first_update_id", "prev_update_id"):
        assert set(column(day, "partial_depth", name)) == {None}
    assert column(day, "copy", "row") == [1]
    assert day.event_times_us.tolist() == [-1, -1, -1]
    assert_nothing_is_lost(day, chunks)


def test_partial_depth_of_futures_has_the_ids_and_times_of_an_event():
    chunks = [
        chunk("tokyo", [futures_partial(1), b"<odd>", futures_partial(2)]),
        chunk("paris", [futures_partial(1, event_ms=T0_MS + 5)], connection="bbbbbbbb-1", start_ns=10**18 + 9),
    ]
    day = merge_messages_day("depth5", chunks)
    assert column(day, "partial_depth", "last_update_id") == [17, 27]
    assert column(day, "partial_depth", "first_update_id") == [10, 20]
    assert column(day, "partial_depth", "prev_update_id") == [7, 17]
    assert column(day, "partial_depth", "ask_price") == [[], []]
    assert column(day, "copy", "row") == [0]
    assert column(day, "verbatim", "frame") == [b"<odd>"]
    assert_nothing_is_lost(day, chunks)


def test_partial_depth_whose_numbers_share_no_exponent_or_of_too_many_shapes_is_kept_verbatim():
    wide = [spot_partial(1, "999999999999999999"), spot_partial(2, "0.00000001")]
    wide[0] = wide[0].replace(b'"1.00000000"', b'"1"').replace(b".00000000", b"")
    shapes = [spot_partial(n).replace(b"btcusdt", b"b%dusdt" % n) for n in range(300)]
    for frames in (wide, shapes):
        one = chunk("tokyo", frames)
        day = merge_messages_day("depth20", [one])
        assert list(files(day)) == ["verbatim"]
        assert_nothing_is_lost(day, [one])


@pytest.mark.parametrize("stream", ["markPrice@1s", "forceOrder", "depth20@100ms", "depth10"])
def test_the_other_tables_do_not_depend_on_the_order_of_lines_either(stream):
    make = {"markPrice@1s": mark, "forceOrder": force, "depth20@100ms": spot_partial, "depth10": futures_partial}[stream]
    heard = [
        ("tokyo", "aaaaaaaa-1", [make(n) for n in range(1, 40) if n % 5], 10**18),
        ("paris", "bbbbbbbb-1", [make(n) for n in range(3, 45)], 10**18 + 30),
        ("tokyo", "aaaaaaaa-2", [make(n) for n in range(20, 50)], 10**18 + 99),
    ]
    whole = [chunk(c, frames, k, start) for c, k, frames, start in heard]
    pieces = [chunk(c, frames[a:b], k, s + a) for c, k, frames, s in heard for a, b in ((9, len(frames)), (0, 9))]
    day = merge_messages_day(stream, whole)
    assert files(merge_messages_day(stream, pieces[::-1])) == files(day)
    first = merge_messages_day(stream, whole[:2])
    later = [*expand(Outputs(files(first)), DATE), whole[2]]
    assert files(merge_messages_day(stream, later)) == files(day)
    assert len(day.ids) == 49
    assert_nothing_is_lost(day, whole)
