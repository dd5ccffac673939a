import re
from itertools import islice, pairwise
from statistics import mean, median

import pytest

from twintape.core.errors import ConfigError
from twintape.core.load import LoadConfig, LoadSource, LoadVenue
from twintape.core.markets import Market
from twintape.core.venue import OrderBook
from twintape.core.wire import decode_depth, decode_snapshot

MARKETS = list(Market)


def source(market=Market.SPOT, **options):
    return LoadSource(LoadConfig(market, 7, **({"symbols_count": 20, "frames_per_second": 100.0} | options)))


@pytest.mark.parametrize("market", MARKETS)
def test_every_symbols_events_continue_each_other_from_the_first_on(market):
    made = source(market)
    known = {info.symbol: info.snapshot.last_update_id for info in made.symbols}
    for message in islice(made.happenings(), 3000):
        event = decode_depth(message.data, market)
        assert event.prev_update_id == known[event.symbol]
        known[event.symbol] = event.final_update_id
        assert message.frame == b'{"stream":"%b","data":%b}' % (message.stream.encode(), message.data)


@pytest.mark.parametrize("market", MARKETS)
def test_a_book_is_what_all_events_make_of_an_empty_one(market):
    made = source(market, symbols_count=2, frames_per_second=20.0)
    books = {info.symbol: OrderBook(info.snapshot, contiguous_ids=market is Market.SPOT) for info in made.symbols}
    playing = made.happenings()
    for count in (0, 1, 500, 9000):  # a symbol is through the pool after 4096 events
        for message in islice(playing, count):
            event = decode_depth(message.data, market)
            times = event.event_time_us, event.transaction_time_us
            books[event.symbol].apply(event.prev_update_id, event.final_update_id, event.bids, event.asks, *times)
        for symbol, book in books.items():
            expected, found = book.snapshot(50), made.book(symbol, 50)
            assert (found.last_update_id, found.bids, found.asks) == (expected.last_update_id, expected.bids, expected.asks)
    assert made.book("NOSUCH", 5) is None


def test_frames_come_as_often_as_configured_on_a_grid_of_ticks():
    made = source(tick_ns=5_000_000)
    start_ns = made.config.start_ns
    times = [message.time_ns - start_ns for message in islice(made.happenings(), 3000)]
    assert times == sorted(times)
    assert {time % 5_000_000 for time in times} == {0}
    for second in range(10, 20):
        assert 60 < sum(second * 10**9 <= time < (second + 1) * 10**9 for time in times) < 140
    assert sum(time < 20 * 10**9 for time in times) == 2000  # two cycles, exactly


def test_symbols_speak_at_most_ten_times_a_second_even_when_all_do():
    made = source(frames_per_second=200.0)
    seen = {}
    for message in islice(made.happenings(), 2000):
        seen.setdefault(message.stream, []).append(message.time_ns)
    assert {len(times) for times in seen.values()} == {100}
    assert min(after - before for times in seen.values() for before, after in pairwise(times)) >= 99_000_000


@pytest.mark.parametrize("frame_bytes", [300, 600, 1500])
def test_most_frames_are_small_and_the_mean_is_the_configured_one(frame_bytes):
    made = source(frame_bytes=frame_bytes, symbols_count=50, frames_per_second=500.0)
    sizes = [len(message.frame) for message in islice(made.happenings(), 8000)]
    assert mean(sizes) == pytest.approx(frame_bytes, rel=0.08)
    assert median(sizes) < mean(sizes)
    assert max(sizes) > 5 * mean(sizes)


def test_the_same_seed_makes_the_same_and_playing_again_begins_again():
    first, second = source(messages_count=500), source(messages_count=500)
    frames = [message.frame for message in first.happenings()]
    assert len(frames) == first.total == 500
    assert frames == [message.frame for message in second.happenings()] == [message.frame for message in first.happenings()]


def test_an_endless_source_goes_on_behind_its_cycle():
    made = source()
    assert made.total is None
    times = [message.time_ns for message in islice(made.happenings(), 2500)]
    assert times[1000] - times[0] == times[2000] - times[1000] == 10 * 10**9


@pytest.mark.parametrize("wrong", [0.0, -1.0, 200.1])
def test_more_frames_than_the_symbols_can_say_are_refused(wrong):
    with pytest.raises(ConfigError, match=r"frames/s of 20 symbols"):
        source(frames_per_second=wrong)


def test_the_venue_answers_from_the_sources_books():
    made = source()
    venue = LoadVenue(made)
    for message in islice(made.happenings(), 2000):
        venue.note(message)
    body = venue.depth("L0003USDT", 5, now_ms=0)
    snapshot = decode_snapshot(body)
    assert len(snapshot.bids) == 5
    assert snapshot.last_update_id == venue.last_final_update_ids()["l0003usdt@depth@100ms"]
    assert re.match(rb'\{"lastUpdateId":\d+,"bids":\[\["', body)
    assert venue.depth("NOSUCH", 5, now_ms=0) is None
