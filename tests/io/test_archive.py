import asyncio
import random
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from support.store import (
    DAYS,
    PERIODS,
    STREAM,
    Exchange,
    Recorder,
    WrappedStore,
    heads,
    merge,
    put,
    time_us,
)
from twintape.core.errors import ConfigError, ContinuityError, CorruptionError, NotFoundError
from twintape.core.markets import Market
from twintape.core.names import proof_key
from twintape.io.archive import Archive, BookView
from twintape.io.store import MemoryStore
from twintape.io.verify import verify_published

BEFORE, DAY, BEHIND = DAYS


def at(event_time_us: int) -> datetime:
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=event_time_us)


def published(
    exchanges: list[Exchange], tmp_path: Any, *, snapshots: tuple[int, ...] = (0, 100), **lost: set[int]
) -> MemoryStore:
    store = MemoryStore()
    for name in ("paris", "tokyo"):
        heard = Recorder(name, lost=dict.fromkeys([e.symbol for e in exchanges], lost.get(name, set())), snapshots=snapshots)
        put(store, heard.seals(exchanges))
    merge(store, tmp_path, market=exchanges[0].market)
    return store


def same_book(found: BookView, exchange: Exchange, position: int) -> bool:
    bids, asks = exchange.true_book(position)

    def scaled(side: list[tuple[int, int]]) -> list[tuple[Decimal, Decimal]]:
        return [(Decimal(price) / 100, Decimal(quantity) / 1000) for price, quantity in side]

    return (found.bids, found.asks, found.update_id) == (scaled(bids), scaled(asks), exchange.events[position].final)


@pytest.mark.parametrize("market", [Market.SPOT, Market.USDM])
def test_the_book_is_the_exchanges_book_at_any_time(tmp_path: Any, market: Market) -> None:
    exchange = Exchange("BTCUSDT", market)
    archive = Archive(published([exchange], tmp_path, tokyo={40, 41, 90}, paris={3, 120}))
    rng = random.Random(3)
    times = [rng.randrange(*rng.choice(PERIODS)) for _ in range(20)]
    times += [exchange.events[k].time_us + d for k in (0, 1, 60) for d in (-1, 0, 1)] + [exchange.events[179].time_us]
    times += [time_us(f"{date}T00:00:00") + d for date in (DAY, BEHIND) for d in (-1, 0)] + [time_us("2026-03-02T06:00:00")]
    for time in times:
        position = exchange.position_at(time)
        if position < 0 or time > exchange.events[179].time_us:
            with pytest.raises((NotFoundError, ContinuityError)):
                archive.book(market, "BTCUSDT", at(time))
        else:
            found = archive.book(market, "BTCUSDT", at(time))
            assert same_book(found, exchange, position), time
            assert found.event_time == at(exchange.events[position].time_us)
    assert same_book(archive.book(market, "BTCUSDT", "end"), exchange, 179)
    assert archive.book(market, "BTCUSDT", "end").known == (
        Decimal(0),
        None,
    )  # the snapshots had fewer levels than were asked for
    assert archive.book(market, "BTCUSDT", at(times[0]), look_ahead=True) == archive.book(market, "BTCUSDT", at(times[0]))
    assert archive.book(market, "BTCUSDT", "end", depth=3).bids == archive.book(market, "BTCUSDT", "end").bids[:3]
    assert same_book(
        archive.book(market, "BTCUSDT", "2026-03-02"), exchange, exchange.position_at(time_us("2026-03-02T00:00:00"))
    )


def test_of_years_of_days_only_those_that_are_asked_for_are_read(tmp_path: Any) -> None:
    """A proof names every raw object of its day: megabytes, for which a book at one time must not wait once for every day there is."""
    exchange = Exchange("BTCUSDT")
    store = published([exchange], tmp_path)
    unread = [proof_key(Market.SPOT, "BTCUSDT", STREAM, f"202{year}-06-0{day}", 1) for year in (1, 2, 7) for day in (1, 2)]
    for key in unread:
        asyncio.run(store.create(key, b"not read"))
    read: list[str] = []
    archive = Archive(WrappedStore(store, lambda name, key, done: read.append(key) if name == "get" and done else None))
    for name in (None, STREAM):
        assert same_book(archive.book("spot", "BTCUSDT", at(exchange.events[90].time_us), stream=name), exchange, 90)
        assert archive.depth("spot", "BTCUSDT", DAY, BEHIND, stream=name).read_all().num_rows > 100
    assert archive.messages("spot", "BTCUSDT", "bookTicker", DAY, BEHIND).read_all().num_rows > 100
    assert not set(read) & set(unread)
    with pytest.raises(CorruptionError, match="2027-06-02"):
        archive.book("spot", "BTCUSDT", "end")


def test_the_book_is_unknown_before_the_first_snapshot_and_behind_a_gap(tmp_path: Any) -> None:
    exchange = Exchange("BTCUSDT")
    archive = Archive(published([exchange], tmp_path, snapshots=(20, 100), tokyo={70, 71}, paris={70, 71}))
    known_before = at(exchange.events[69].time_us)
    assert same_book(archive.book("spot", "BTCUSDT", known_before), exchange, 69)
    with pytest.raises(ContinuityError, match="gap behind"):
        archive.book("spot", "BTCUSDT", at(exchange.events[70].time_us))
    for position, known in ((0, False), (19, False), (20, True), (69, True), (72, False), (99, False), (100, True), (179, True)):
        time = at(exchange.events[position].time_us)
        if known:
            assert same_book(archive.book("spot", "BTCUSDT", time), exchange, position)
        else:
            with pytest.raises(ContinuityError, match="not known"):
                archive.book("spot", "BTCUSDT", time)


def test_a_book_is_not_carried_over_what_was_not_recorded(tmp_path: Any) -> None:
    exchange = Exchange("BTCUSDT")
    store = MemoryStore()
    put(store, Recorder("tokyo", snapshots=(0, 100)).seals([exchange]))
    merge(store, tmp_path, [DAY])
    archive = Archive(store)
    for time in ("2026-03-03T00:01:00", "2026-03-09"):
        with pytest.raises(ContinuityError, match="2026-03-03 is not published"):
            archive.book("spot", "BTCUSDT", time)
    merge(store, tmp_path)
    with pytest.raises(ContinuityError, match="edge of recording"):
        archive.book("spot", "BTCUSDT", "2026-03-03T12:00:00")
    with pytest.raises(ContinuityError, match="begins at an edge"):
        archive.depth("spot", "BTCUSDT", BEFORE, DAY, allow_gaps=False).read_all()
    assert same_book(archive.book("spot", "BTCUSDT", "end"), exchange, 179)


def test_a_book_lost_to_a_gap_at_the_end_of_a_day_stays_lost_over_midnight(tmp_path: Any) -> None:
    exchange = Exchange("BTCUSDT")
    last = exchange.position_at(time_us(f"{BEHIND}T00:00:00") - 1)
    lost = {last - 1}
    archive = Archive(published([exchange], tmp_path, snapshots=(0, last + 3), tokyo=lost, paris=lost))
    for position in (last, last + 1, last + 2):
        with pytest.raises(ContinuityError):
            archive.book("spot", "BTCUSDT", at(exchange.events[position].time_us))
    assert same_book(archive.book("spot", "BTCUSDT", at(exchange.events[last + 3].time_us)), exchange, last + 3)


def test_depth_streams_exactly_the_events_of_the_range(tmp_path: Any) -> None:
    exchange = Exchange("BTCUSDT")
    archive = Archive(published([exchange], tmp_path, tokyo={40}, paris={90}))
    rng = random.Random(5)
    for _ in range(8):
        inside = (exchange.events[0].time_us, exchange.events[179].time_us)
        first, last = sorted(rng.randrange(*rng.choice([*PERIODS[1:2], inside])) for _ in range(2))
        table = archive.depth("spot", "BTCUSDT", at(first), at(last), allow_gaps=False).read_all()
        wanted = [event.final for event in exchange.events if first <= event.time_us < last]
        assert table.column("final_update_id").to_pylist() == wanted
    whole = archive.depth("spot", "BTCUSDT", BEFORE, "2026-03-04").read_all()
    assert whole.num_rows == 180
    prices = whole.column("ask_price").to_pylist()
    exponents = np.asarray(whole.column("price_exponent"))
    events = [
        [price * 10 ** (-2 - int(e)) // 10 ** (-2 - int(e)) for price in row] for row, e in zip(prices, exponents, strict=True)
    ]
    scaled = [[int(Decimal(price).scaleb(int(e) + 2)) for price in row] for row, e in zip(events, exponents, strict=True)]
    assert scaled == [[price for price, _ in event.asks] for event in exchange.events]
    assert archive.depth("spot", "BTCUSDT", "2025-01-01", "2025-01-03").read_all().num_rows == 0


def test_a_range_with_a_gap_or_an_unpublished_day_is_refused_where_gaps_are(tmp_path: Any) -> None:
    exchange = Exchange("BTCUSDT")
    store = published([exchange], tmp_path, tokyo={70}, paris={70})
    archive = Archive(store)
    with pytest.raises(ContinuityError, match="gap"):
        archive.depth("spot", "BTCUSDT", DAY, BEHIND, allow_gaps=False).read_all()
    assert archive.depth("spot", "BTCUSDT", DAY, "2026-03-02T06:00:00Z", allow_gaps=False).read_all().num_rows > 0
    with pytest.raises(ContinuityError, match="gap"):
        archive.depth("spot", "BTCUSDT", DAY, at(exchange.events[70].time_us + 1), allow_gaps=False).read_all()
    merge(store, tmp_path)
    with pytest.raises(ContinuityError, match="not published"):
        archive.depth("spot", "BTCUSDT", "2026-02-27", "2026-02-28", allow_gaps=False).read_all()


def test_a_gap_across_midnight_is_in_the_range_that_spans_it(tmp_path: Any) -> None:
    exchange = Exchange("BTCUSDT")
    first = exchange.position_at(time_us(f"{BEHIND}T00:00:00") - 1) + 1
    lost = {first - 1, first}
    archive = Archive(published([exchange], tmp_path, tokyo=lost, paris=lost))
    assert [gap.after_update_id for gap in archive.proof("spot", "BTCUSDT", BEHIND).gaps] == [exchange.events[first - 2].final]
    for end in (BEHIND, at(exchange.events[first + 1].time_us)):
        with pytest.raises(ContinuityError, match=f"{BEHIND} has a gap|behind .* is a gap"):
            archive.depth("spot", "BTCUSDT", DAY, end, allow_gaps=False).read_all()
    inside = archive.depth("spot", "BTCUSDT", DAY, at(exchange.events[first - 2].time_us), allow_gaps=False)
    assert inside.read_all().num_rows > 0


def test_days_and_proofs_are_found_by_market_symbol_and_stream(tmp_path: Any) -> None:
    store = published([Exchange("BTCUSDT"), Exchange("币安人生USDT")], tmp_path)
    archive = Archive(store)
    days = archive.days("spot", "币安人生USDT")
    assert {(day.stream, day.date) for day in days if day.stream == STREAM} == {(STREAM, date) for date in DAYS}
    assert [(d.market, d.symbol, d.stream, d.date) for d in archive.days()] == sorted(
        (d.market, d.symbol, d.stream, d.date) for d in archive.days()
    )
    assert len(archive.days("usdm")) == 0
    assert repr(archive) == "Archive('memory://')"
    (day,) = (d for d in archive.days("spot", "BTCUSDT") if (d.stream, d.date) == (STREAM, DAY))
    proof = archive.proof("spot", "BTCUSDT", DAY)
    assert (day.status, day.events, day.levels, day.size) == (
        proof.status,
        proof.events,
        proof.levels,
        sum(output.size for output in proof.outputs),
    )
    assert day.files["depth"] == next(output.key for output in proof.outputs if output.table == "depth")
    assert archive.proof("spot", "BTCUSDT", DAY, "bookTicker").stream == "bookTicker"
    for arguments in (("spot", "BTCUSDT", "2026-03-09"), ("spot", "XRPUSDT", DAY), ("spot", "BTCUSDT", DAY, "trade")):
        with pytest.raises(NotFoundError):
            archive.proof(*arguments)


def test_a_symbol_with_two_speeds_needs_a_stream(tmp_path: Any) -> None:
    exchange = Exchange("BTCUSDT")
    slow = [(event.time_us * 1000 + 9, exchange.frame(k, stream="depth")) for k, event in enumerate(exchange.events)]
    store = MemoryStore()
    put(store, Recorder("tokyo", extra=slow).seals([exchange]))
    merge(store, tmp_path)
    archive = Archive(store)
    with pytest.raises(ConfigError, match="several depth streams"):
        archive.proof("spot", "BTCUSDT", DAY)
    with pytest.raises(ConfigError, match="several depth streams"):
        archive.book("spot", "BTCUSDT", "end")
    assert same_book(archive.book("spot", "BTCUSDT", "end", stream="depth"), exchange, 179)


def test_nonsense_is_refused_in_words(tmp_path: Any) -> None:
    archive = Archive(published([Exchange("BTCUSDT")], tmp_path))
    for call in (
        lambda: archive.days("futures"),
        lambda: archive.book("spot", "BTCUSDT", "yesterday"),
        lambda: archive.book("spot", "BTCUSDT", datetime(2026, 3, 2)),
        lambda: archive.depth("spot", "BTCUSDT", "a", "b"),
    ):
        with pytest.raises(ConfigError):
            call()
    with pytest.raises(NotFoundError):
        archive.book("spot", "XRPUSDT", "end")


def test_a_tampered_output_is_never_read(tmp_path: Any) -> None:
    store = published([Exchange("BTCUSDT")], tmp_path)
    archive = Archive(store)
    output = next(o for o in heads(store)["BTCUSDT", STREAM, DAY].outputs if o.table == "depth")
    data = asyncio.run(store.get(output.key))
    asyncio.run(store.delete(output.key))
    asyncio.run(store.create(output.key, data[:99] + bytes([data[99] ^ 1]) + data[100:]))
    with pytest.raises(CorruptionError, match="the proof says"):
        archive.book("spot", "BTCUSDT", "2026-03-02T12:00:00Z")
    with pytest.raises((CorruptionError, pa.ArrowInvalid), match="the proof says"):
        archive.depth("spot", "BTCUSDT", DAY, BEHIND).read_all()


async def test_it_works_where_an_event_loop_is_running(tmp_path: Any) -> None:
    exchange = Exchange("BTCUSDT")
    archive = Archive(await asyncio.to_thread(published, [exchange], tmp_path))
    assert same_book(archive.book("spot", "BTCUSDT", "end"), exchange, 179)


def test_the_typed_tables_of_other_streams_are_read_by_time(tmp_path: Any) -> None:
    exchange = Exchange("BTCUSDT")

    def partials(latency_ns: int) -> list[tuple[int, bytes]]:
        return [
            (
                event.time_us * 1000 + latency_ns,
                b'{"stream":"btcusdt@depth5@100ms","data":{"lastUpdateId":%d,"bids":[["1.50","2.00"]],"asks":[["1.60","%d.00"]]}}'
                % (event.final, number),
            )
            for number, event in enumerate(exchange.events)
        ]

    store = MemoryStore()
    for name, latency in (("paris", 100), ("tokyo", 200)):
        put(store, Recorder(name, extra=partials(latency)).seals([exchange]))
    merge(store, tmp_path)
    for proof in heads(store).values():
        asyncio.run(verify_published(store, proof))
    archive = Archive(store)
    whole = archive.messages("spot", "btcusdt", "depth5@100ms", BEFORE, "2099-01-01").read_all()
    assert whole["last_update_id"].to_pylist() == [event.final for event in exchange.events]
    assert set(whole["collector"].to_pylist()) == {"paris"}
    assert whole["ask_quantity"].to_pylist()[:3] == [[0], [1], [2]]
    middle = at(exchange.events[90].time_us)
    part = archive.messages("spot", "BTCUSDT", "depth5@100ms", BEFORE, middle).read_all()
    rest = archive.messages("spot", "BTCUSDT", "depth5@100ms", middle, "2099-01-01").read_all()
    assert (part.num_rows, rest.num_rows) == (90, len(exchange.events) - 90)
    assert archive.messages("spot", "BTCUSDT", "depth5@100ms", "2001-01-01", "2001-01-02").read_all().num_rows == 0
    with pytest.raises(ConfigError, match="no typed table"):
        archive.messages("spot", "BTCUSDT", "kline_1m", BEFORE, BEHIND)
    with pytest.raises(NotFoundError, match="markPrice"):
        archive.messages("spot", "BTCUSDT", "markPrice", BEFORE, BEHIND)
