import itertools
import json
from collections import Counter, defaultdict
from decimal import Decimal

import pytest

from twintape.core.errors import ConfigError
from twintape.core.markets import Market
from twintape.core.synthetic import SyntheticConfig, SyntheticSource
from twintape.core.venue import BookChange, Venue, VenueMessage
from twintape.core.wire import decode_depth, decode_snapshot, is_depth, split_stream

MS = 1_000_000
MARKETS = pytest.mark.parametrize("market", list(Market))


def make(market, **keywords):
    options = {"symbols_count": 5, "events_per_second": 25.0, "messages_count": 2500, "depth_streams": ("depth@100ms", "depth")}
    return SyntheticSource(SyntheticConfig(market, **({"seed": 7} | options | keywords)))


def sent(source):
    return [happening for happening in source.happenings() if isinstance(happening, VenueMessage)]


def depth_events(source):
    """Return stream name → [(time_ns, event)]."""
    streams = defaultdict(list)
    for message in sent(source):
        if is_depth(split_stream(message.stream)[1]):
            streams[message.stream].append((message.time_ns, decode_depth(message.data, source.market)))
    return streams


@MARKETS
def test_the_same_seed_makes_the_same_market_and_another_one_another(market):
    source = make(market, messages_count=800)
    first = list(source.happenings())
    assert list(source.happenings()) == first
    assert list(make(market, messages_count=800).happenings()) == first
    assert list(make(market, messages_count=800, seed=8).happenings()) != first
    assert source.total == len(sent(source)) == 800


@MARKETS
def test_time_never_steps_back_and_starts_where_it_was_told(market):
    start_ns = 1_700_000_000_000_000_000
    times = [happening.time_ns for happening in make(market, start_ns=start_ns).happenings()]
    assert times == sorted(times)
    assert 0 < times[0] - start_ns < 1000 * MS


@MARKETS
def test_every_speed_is_a_chain_of_its_own_without_a_gap(market):
    source = make(market)
    starts = {info.symbol: info.snapshot.last_update_id for info in source.symbols}
    partitions = []
    for name, events in depth_events(source).items():
        first = events[0][1]
        assert first.prev_update_id == starts[first.symbol]
        assert all(before.final_update_id == after.prev_update_id for (_, before), (_, after) in itertools.pairwise(events))
        partitions.append((name, [event.final_update_id for _, event in events]))
    fast, slow = (
        dict(partitions)[f"btcus{'d_perp' if market is Market.COINM else 'dt'}@{speed}"] for speed in ("depth@100ms", "depth")
    )
    assert len(fast) > 2 * len(slow)


def test_spot_events_come_on_a_grid_with_a_phase_of_each_symbol_and_contiguous_ids():
    phases = {}
    for name, events in depth_events(make(Market.SPOT)).items():
        symbol, stream = split_stream(name)
        if stream == "depth@100ms":
            (phases[symbol],) = {time_ns % (100 * MS) for time_ns, _ in events}
            assert all(event.event_time_us // 1000 == time_ns // MS for time_ns, event in events)
            assert all(
                after.first_update_id == before.final_update_id + 1 for (_, before), (_, after) in itertools.pairwise(events)
            )
    assert len(set(phases.values())) == 5


@pytest.mark.parametrize("market", [Market.USDM, Market.COINM])
def test_futures_events_are_over_100_ms_apart_with_sparse_ids(market):
    events = depth_events(make(market))["ethusd_perp@depth@100ms" if market is Market.COINM else "ethusdt@depth@100ms"]
    gaps = [after - before for (before, _), (after, _) in itertools.pairwise(events)]
    assert min(gaps) > 100 * MS
    assert sum(event.first_update_id == event.prev_update_id + 1 for _, event in events) < len(events) / 10
    assert all(event.transaction_time_us <= event.event_time_us for _, event in events)


def test_at_0_ms_every_burst_is_an_event():
    source = make(Market.USDM, depth_streams=("depth@0ms",), messages_count=500)
    spacing = [after - before for (before, _), (after, _) in itertools.pairwise(depth_events(source)["btcusdt@depth@0ms"])]
    assert min(spacing) < 50 * MS


@MARKETS
def test_events_list_levels_as_the_exchange_does(market):
    events = [event for stream in depth_events(make(market)).values() for _, event in stream]
    for event in events:
        bids, asks = ([Decimal(price) for price, _ in side] for side in (event.bids, event.asks))
        assert bids == sorted(set(bids), reverse=market is Market.SPOT)
        assert asks == sorted(set(asks))
        assert bids or asks
    decimals = {len(number.partition(".")[2]) for event in events for level in event.bids for number in level}
    assert decimals == {8} if market is Market.SPOT else max(decimals) <= 4
    if market is Market.SPOT:
        assert any(not event.bids for event in events)
        assert any(not event.asks for event in events)


@MARKETS
def test_events_list_touched_levels_not_differences(market):
    source = make(market, depth_streams=("depth@100ms",))
    books = {info.symbol: dict(info.snapshot.bids + info.snapshot.asks) for info in source.symbols}
    counts = Counter()
    for message in sent(source):
        if "@depth" in message.stream:
            event = decode_depth(message.data, market)
            book = books[event.symbol]
            for price, quantity in event.bids + event.asks:
                if not Decimal(quantity):
                    counts["removed" if book.pop(price, None) else "removed what never was"] += 1
                else:
                    counts["same" if book.get(price) == quantity else "changed"] += 1
                    book[price] = quantity
    assert min(counts.values()) > 10
    assert len(counts) == 4


@MARKETS
def test_a_snapshot_taken_at_any_moment_and_the_events_behind_it_are_the_book(market):
    source = make(market, messages_count=1500)
    venue = Venue(source)
    snapshots = defaultdict(list)
    events = defaultdict(list)
    inside = 0
    for number, happening in enumerate(source.happenings()):
        venue.note(happening)
        if isinstance(happening, VenueMessage) and happening.stream.endswith("@depth@100ms"):
            event = decode_depth(happening.data, market)
            events[event.symbol].append(event)
        if number % 50 == 0:
            for info in source.symbols:
                snapshots[info.symbol].append(decode_snapshot(venue.depth(info.symbol, 5000, now_ms=0)))
    for symbol, taken in snapshots.items():
        final = events[symbol][-1].final_update_id
        books = []
        for snapshot in taken:
            if snapshot.last_update_id > final:
                continue
            sides = dict(snapshot.bids), dict(snapshot.asks)
            at = snapshot.last_update_id
            for event in events[symbol]:
                if event.final_update_id > at:
                    assert event.prev_update_id <= at
                    inside += event.prev_update_id < at
                    at = event.final_update_id
                    for side, levels in zip(sides, (event.bids, event.asks), strict=True):
                        side.update(levels)
            books.append([{price: quantity for price, quantity in side.items() if Decimal(quantity)} for side in sides])
        assert all(book == books[0] for book in books)
        bids, asks = books[0]
        assert max(map(Decimal, bids)) < min(map(Decimal, asks))
    assert inside  # some snapshots fall inside an event


def test_symbols_are_quiet_busy_and_not_all_ascii():
    source = make(Market.SPOT, messages_count=6000)
    counts = Counter(message.stream for message in sent(source) if message.stream.endswith("@depth@100ms"))
    busiest, quiet = counts["btcusdt@depth@100ms"], counts["solusdt@depth@100ms"]
    assert quiet * 20 < busiest
    assert "币安人生usdt@depth@100ms" in source.streams()
    assert source.symbols[2].symbol == "币安人生USDT"
    assert counts["币安人生usdt@depth@100ms"]


@MARKETS
def test_best_prices_and_trades_are_published_in_the_markets_shape(market):
    source = make(market, messages_count=300)
    kinds = {split_stream(message.stream)[1]: json.loads(message.data) for message in sent(source)}
    futures = market is not Market.SPOT
    assert list(kinds["bookTicker"])[:2] == (["e", "u"] if futures else ["u", "s"])
    assert ("X" in kinds["trade"]) is futures
    assert ("M" in kinds["trade"]) is not futures
    for frame in kinds.values():
        assert ("ps" in frame) is ("st" in frame) is futures
    old = {split_stream(message.stream)[1]: json.loads(message.data) for message in sent(make(market, integration_fields=False))}
    assert not any("ps" in frame or "st" in frame for frame in old.values())
    bare = make(market, book_tickers=False, trades=False, messages_count=100)
    assert {split_stream(message.stream)[1] for message in sent(bare)} == {"depth@100ms", "depth"}


def test_thin_books_do_not_run_dry():
    source = make(Market.SPOT, levels=1, symbols_count=12, messages_count=3000)
    assert [info.symbol for info in source.symbols][10:] == ["SYN0010USDT", "SYN0011USDT"]
    venue = Venue(source)
    for happening in source.happenings():
        venue.note(happening)
    body = decode_snapshot(venue.depth("BTCUSDT", 100, now_ms=0))
    assert body.bids
    assert body.asks


def test_an_endless_market_has_no_total():
    source = make(Market.COINM, messages_count=None)
    assert source.total is None
    assert sum(isinstance(happening, BookChange) for happening in itertools.islice(source.happenings(), 1000)) > 0
    assert [info.symbol for info in source.symbols][:3] == ["BTCUSD_PERP", "ETHUSD_PERP", "DOTUSD_261225"]


@pytest.mark.parametrize(
    "keywords", [{"symbols_count": 0}, {"events_per_second": 0}, {"depth_streams": ()}, {"depth_streams": ("trade",)}]
)
def test_a_market_where_nothing_can_happen_is_refused(keywords):
    with pytest.raises(ConfigError):
        make(Market.SPOT, **keywords)
