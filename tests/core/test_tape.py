import gzip
import hashlib
import json
from decimal import Decimal
from pathlib import Path

import pytest

from twintape.core.errors import ConfigError
from twintape.core.markets import Market
from twintape.core.tape import TapeSource, parse_line
from twintape.core.venue import RecordedBook, Venue, VenueMessage
from twintape.core.wire import decode_snapshot

CORPUS = Path(__file__).resolve().parents[2].parent / "shared" / "corpus"

DEPTH = b'{"stream":"xusdt@depth@100ms","data":{"e":"depthUpdate","E":1700000000000,"s":"XUSDT","U":11,"u":12,"b":[["1.50","2.250"]],"a":[]}}'
TRADE = b'{"stream":"yusdt@trade","data":{"e":"trade","E":1700000000000,"s":"YUSDT"}}'
BODY = b'{"lastUpdateId":11,"bids":[["1.25000000","7.00000000"]],"asks":[]}'
NAMED_BODY = b'{"stream":"xusdt@depthSnapshot","generated":true,"data":' + BODY + b"}"


def tape(*frames, market=Market.SPOT):
    lines = [b"%d %b\n" % (1_700_000_000_000_000_000 + number, frame) for number, frame in enumerate(frames)]
    return TapeSource(market, [lambda: lines])


def sent(source):
    return [happening for happening in source.happenings() if isinstance(happening, VenueMessage)]


@pytest.mark.parametrize(
    ("line", "parsed"),
    [
        (b"1700000000000000000 {}\n", (1_700_000_000_000_000_000, b"{}")),
        (b"1700000000000000 {}\r\n", (1_700_000_000_000_000_000, b"{}")),
        (b"1700000000000000000 a b", (1_700_000_000_000_000_000, b"a b")),
        (b"1700000000000000000 ", None),
        (b"1700000000000000000", None),
        (b"x {}", None),
        (b"", None),
        (b"17217491828504940001 x", None),
        (b"1" * 5000 + b" x", None),
    ],
)
def test_a_line_is_a_receive_time_in_nanoseconds_or_microseconds_and_a_frame(line, parsed):
    assert parse_line(line) == parsed


def test_frames_keep_every_byte_wrapped_and_unwrapped():
    spaced = b'{"stream":"xusdt@depth@100ms", "data": {"U":13, "u":14}}'
    first, second, third = sent(tape(DEPTH, spaced, b'{"e":"trade","s":"XUSDT","E":1}'))
    assert (first.frame, first.stream) == (DEPTH, "xusdt@depth@100ms")
    assert first.data == DEPTH[DEPTH.index(b'{"e"') : -1]
    assert second.frame == spaced
    assert (third.frame, third.stream, third.data) == (None, "xusdt@trade", b'{"e":"trade","s":"XUSDT","E":1}')


def test_a_damaged_wrapper_is_sent_as_it_is():
    damaged = b'{"stream":"xusdt@trade","data":{"e":'
    (message,) = sent(tape(damaged))
    assert (message.frame, message.data) == (damaged, damaged)


def test_symbols_start_from_the_tapes_first_snapshot_wherever_it_stands():
    source = tape(TRADE, DEPTH, NAMED_BODY, NAMED_BODY.replace(b"11", b"99"))
    assert [info.symbol for info in source.symbols] == ["YUSDT", "XUSDT"]
    info = source.symbols[1]
    assert (info.snapshot.last_update_id, info.price_decimals, info.quantity_decimals) == (11, 2, 0)
    assert info.book_stream == "xusdt@depth@100ms"
    assert source.total == 2
    assert [type(happening) for happening in source.happenings()] == [VenueMessage, VenueMessage, RecordedBook, RecordedBook]


def test_a_bare_snapshot_belongs_to_the_one_symbol_there_is():
    source = tape(BODY, DEPTH, BODY)
    assert source.symbols[0].snapshot.last_update_id == 11
    assert sum(isinstance(happening, RecordedBook) for happening in source.happenings()) == 2
    with pytest.raises(ConfigError, match="2 symbols: XUSDT, ZUSDT"):
        tape(BODY, DEPTH, DEPTH.replace(b"xusdt", b"zusdt"))


def test_without_a_snapshot_the_book_begins_empty_where_the_stream_begins():
    (info,) = tape(DEPTH).symbols
    assert (info.snapshot.last_update_id, info.snapshot.bids, info.price_decimals, info.quantity_decimals) == (10, (), 1, 2)


def test_without_any_depth_a_symbol_has_the_book_of_a_new_listing():
    (info,) = tape(TRADE).symbols
    assert (info.snapshot.last_update_id, info.book_stream) == (-1, None)


def test_a_symbol_whose_first_depth_frame_cannot_be_decoded_still_plays():
    odd = b'{"stream":"xusdt@depth","data":{"e":"depthUpdate","U":5,"u":6}}'
    no_ids = b'{"stream":"zusdt@depth","data":{"e":"depthUpdate"}}'
    source = tape(odd, no_ids)
    assert [(info.symbol, info.price_decimals, info.book_stream) for info in source.symbols] == [
        ("XUSDT", 0, "xusdt@depth"),
        ("ZUSDT", 0, None),
    ]


def test_our_own_lines_answers_and_notices_are_not_sent():
    control = b'{"stream":"!twintape@close","reason":"x","code":null,"final":true}'
    answer = b'{"result":null,"id":1}'
    notice = b'{"e":"serverShutdown","E":1700000000000}'
    failed = b'{"stream":"!twintape@snapshot","symbol":"XUSDT","url":"u","request_time_ns":1,"response_time_ns":2,"status":503,"body":{}}'
    broken = b'{"stream":"xusdt@depthSnapshot","data":{"lastUpdateId":-5,"bids":[],"asks":[]}}'
    everybody = b'{"stream":"!miniTicker@arr","data":[]}'
    source = tape(control, DEPTH, answer, notice, failed, broken, everybody)
    assert [message.stream for message in sent(source)] == ["xusdt@depth@100ms", "!miniTicker@arr"]
    assert source.symbols[0].snapshot.last_update_id == 10


def test_recordings_are_merged_by_time_without_reordering_their_lines():
    one = [b"1700000000000000005 " + TRADE, b"1700000000000000001 " + DEPTH, b"no line"]
    two = [b"1700000000000000004 " + TRADE, b"1700000000000000006 " + TRADE]
    source = TapeSource(Market.SPOT, [lambda: one, lambda: two])
    assert source.market is Market.SPOT
    played = [(message.time_ns % 10, message.stream) for message in sent(source)]
    assert played == [(4, "yusdt@trade"), (5, "yusdt@trade"), (5, "xusdt@depth@100ms"), (6, "yusdt@trade")]
    assert sent(source) == sent(source)


def test_a_tape_without_frames_is_refused():
    with pytest.raises(ConfigError):
        tape(BODY)


def plain(number):
    text = f"{Decimal(number):f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


@pytest.mark.corpus
@pytest.mark.skipif(not CORPUS.is_dir(), reason="the recordings in ../shared/corpus are not here")
@pytest.mark.parametrize(
    "files",
    [
        ["spot_10symbols_20210405.gz"],
        ["usdm_4symbols_20210417.gz"],
        ["coinm_10symbols_20210417.gz"],
        ["spot_btcusdt_20240808.gz", "spot_btcusdt_20240809.gz"],
    ],
)
def test_at_the_end_of_a_real_recording_the_books_are_the_published_ones(files):
    (capture,) = [capture for capture in json.loads((CORPUS / "expected.json").read_bytes()) if capture["files"] == files]
    source = TapeSource(
        Market(capture["market"]),
        [lambda name=name: gzip.decompress((CORPUS / name).read_bytes()).splitlines() for name in files],
    )
    venue = Venue(source)
    for happening in source.happenings():
        venue.note(happening)
    for expected in capture["symbols"]:
        snapshot = decode_snapshot(venue.depth(expected["symbol"], 10**6, now_ms=0))
        lines = [f"b {plain(price)} {plain(quantity)}" for price, quantity in snapshot.bids]
        lines += [f"a {plain(price)} {plain(quantity)}" for price, quantity in snapshot.asks]
        assert hashlib.sha256("\n".join(lines).encode()).hexdigest() == expected["final_book_sha256"], expected["symbol"]
