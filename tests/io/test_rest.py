import asyncio
import itertools
import random

import pytest

from support.virtual import VirtualClock
from twintape.core.budget import SECOND_NS, WeightBudget
from twintape.core.markets import Market, depth_url, depth_weight
from twintape.io.ports import RestAnswer
from twintape.io.rest import ATTEMPTS_MAX, SnapshotFetcher, Wish


class FakeRest:
    """Answers by script: a function of the request's number and URL."""

    def __init__(self, clock, script):
        self.clock = clock
        self.script = script
        self.requests = []

    async def get(self, url, *, timeout_s):
        self.requests.append((self.clock.now_ns / SECOND_NS, url))
        answer = self.script(len(self.requests), url)
        if isinstance(answer, OSError):
            raise answer
        status, headers, body = answer
        return RestAnswer(status, headers, body, self.clock.wall_ns(), self.clock.wall_ns())

    def times(self):
        return [time for time, _ in self.requests]


def good(last_update_id=100, **headers):
    return 200, headers, b'{"lastUpdateId":%d,"bids":[],"asks":[]}' % last_update_id


class Rig:
    def __init__(self, script, pools=("spot",)):
        self.clock = VirtualClock()
        self.rest = FakeRest(self.clock, script)
        self.notices = []
        self.delivered = []
        self.fetcher = SnapshotFetcher(
            self.rest,
            self.clock,
            pools={pool: WeightBudget(6000, 0.5) for pool in pools},
            draw=random.Random(1).random,
            notice=lambda name, details: self.notices.append((name, details)),
        )
        self.tasks = []

    async def __aenter__(self):
        self.tasks = [asyncio.create_task(self.fetcher.run(pool)) for pool in self.fetcher.pools]
        return self

    async def __aexit__(self, *_):
        for task in self.tasks:
            task.cancel()
        results = await asyncio.gather(*self.tasks, return_exceptions=True)
        assert all(isinstance(result, asyncio.CancelledError) for result in results)

    def ask(self, symbol="BTCUSDT", update_id=None, urgent=True, market=Market.SPOT, reason="first"):
        limit = 5000 if market is Market.SPOT else 1000
        self.fetcher.ask(
            Wish(
                market=market,
                symbol=symbol,
                url=depth_url(market, symbol, limit),
                weight=depth_weight(market, limit),
                reason=reason,
                urgent=urgent,
                update_id=update_id,
                deliver=lambda answer: self.delivered.append((symbol, answer.status, answer.body)),
            )
        )

    def names(self):
        return [name for name, _ in self.notices]


async def test_a_snapshot_is_fetched_and_delivered_verbatim():
    async with Rig(lambda number, url: good()) as rig:
        rig.ask()
        await rig.clock.run(1)
        assert rig.delivered == [("BTCUSDT", 200, good()[2])]
        assert rig.rest.requests[0][1] == "https://api.binance.com/api/v3/depth?symbol=BTCUSDT&limit=5000"
        assert (rig.fetcher.waiting, rig.notices, rig.fetcher.answers) == (0, [], {200: 1})


async def test_no_minute_ever_costs_more_than_the_share_of_the_budget():
    async with Rig(lambda number, url: good()) as rig:
        for number in range(60):
            rig.ask(f"S{number}")
        await rig.clock.run(600)
        times = rig.rest.times()
        assert len(times) == len(rig.delivered) == 60
        assert max(sum(start <= time < start + 60 for time in times) for start in times) == 12  # 3000 / 250


async def test_urgent_wishes_go_first_and_a_second_wish_for_a_symbol_is_joined_with_the_first():
    async with Rig(lambda number, url: good(999)) as rig:
        for number in range(3):
            rig.ask(f"C{number}", urgent=False, reason="checkpoint")
        rig.ask("C2", urgent=True, update_id=500, reason="gap")
        rig.ask("C2", urgent=False, reason="checkpoint")
        assert rig.fetcher.waiting == 3
        await rig.clock.run(2)
        assert [symbol for symbol, *_ in rig.delivered] == ["C2", "C0", "C1"]


async def test_the_stricter_of_two_wishes_counts_but_an_epoch_starts_anew():
    bodies = iter([good(150), good(250), good(5)])
    async with Rig(lambda number, url: next(bodies)) as rig:
        rig.ask(update_id=200)
        rig.ask(update_id=100)
        await rig.clock.run(10)
        assert [body for *_, body in rig.delivered] == [good(150)[2], good(250)[2]]
        rig.ask(update_id=300)
        rig.ask(update_id=3, reason="epoch")
        await rig.clock.run(10)
        assert rig.fetcher.waiting == 0


async def test_after_429_nothing_is_sent_until_retry_after_has_passed():
    async with Rig(lambda number, url: (429, {"retry-after": "37"}, b"{}") if number == 1 else good()) as rig:
        for number in range(3):
            rig.ask(f"S{number}")
        await rig.clock.run(37.5)
        assert len(rig.rest.requests) == 1
        await rig.clock.run(3)
        assert len(rig.delivered) == 3
        assert [time for time in rig.rest.times()[1:] if time < 37] == []
        assert rig.names() == ["rest_blocked"]


@pytest.mark.parametrize(("status", "wait_s"), [(429, 60), (418, 120), (403, 300), (451, 3600)])
async def test_a_refusal_without_retry_after_is_obeyed_for_long_enough(status, wait_s):
    async with Rig(lambda number, url: (status, {"retry-after": "soon"}, b"") if number == 1 else good()) as rig:
        rig.ask()
        await rig.clock.run(wait_s)
        assert len(rig.rest.requests) == 1
        await rig.clock.run(5)
        assert len(rig.delivered) == 1


async def test_a_ban_stops_every_pool():
    def script(number, url):
        return (418, {"retry-after": "600"}, b"banned") if "api.binance.com/api" in url and number == 1 else good()

    async with Rig(script, pools=("spot", "futures")) as rig:
        rig.ask()
        await rig.clock.run(1)
        rig.ask("BTCUSDT", market=Market.USDM)
        rig.ask("ETHUSDT")
        await rig.clock.run(599)
        assert len(rig.rest.requests) == 1
        await rig.clock.run(5)
        assert len(rig.delivered) == 3


async def test_a_server_that_always_refuses_hears_from_us_ever_more_rarely():
    async with Rig(lambda number, url: (429, {"retry-after": "0"}, b"")) as rig:
        for number in range(50):
            rig.ask(f"S{number}")
        await rig.clock.run(3600)
        times = rig.rest.times()
        assert len(times) < 70
        gaps = [after - before for before, after in itertools.pairwise(times)]
        assert gaps[-1] >= 60
        assert rig.fetcher.waiting == 50


@pytest.mark.parametrize("answer", [OSError("no route"), (500, {}, b""), (503, {"retry-after": "2"}, b"busy")])
async def test_what_fails_is_tried_again_with_growing_pauses_and_given_up_in_the_end(answer):
    async with Rig(lambda number, url: answer) as rig:
        rig.ask()
        await rig.clock.run(3600)
        times = rig.rest.times()
        assert len(times) == ATTEMPTS_MAX
        gaps = [after - before for before, after in itertools.pairwise(times)]
        assert gaps[0] >= 0.5
        assert 30 <= gaps[-1] <= 61
        assert rig.names()[-1] == "snapshot_given_up"
        assert (rig.fetcher.waiting, rig.delivered) == (0, [])


async def test_a_snapshot_older_than_the_stream_is_recorded_and_fetched_again():
    async with Rig(lambda number, url: good(100 * number)) as rig:
        rig.ask(update_id=300)
        await rig.clock.run(60)
        assert [body for *_, body in rig.delivered] == [good(100)[2], good(200)[2], good(300)[2]]
        assert rig.names() == ["snapshot_too_old"] * 2


async def test_a_symbol_the_exchange_does_not_know_is_recorded_and_not_asked_for_again():
    async with Rig(lambda number, url: (400, {}, b'{"code":-1121,"msg":"Invalid symbol."}')) as rig:
        rig.ask()
        await rig.clock.run(600)
        assert len(rig.rest.requests) == 1
        assert rig.delivered == [("BTCUSDT", 400, b'{"code":-1121,"msg":"Invalid symbol."}')]
        assert rig.names() == ["snapshot_refused"]


async def test_weight_that_others_behind_the_address_used_is_left_to_them():
    async with Rig(lambda number, url: good(**{"x-mbx-used-weight-1m": "2900"})) as rig:
        rig.ask("A")
        rig.ask("B")
        await rig.clock.run(59)
        assert len(rig.rest.requests) == 1
        await rig.clock.run(3)
        assert len(rig.rest.requests) == 2


class Exchange:
    """The exchange's side of the weight limit: counts by calendar minute, answers 429 above it, and bans who goes on."""

    def __init__(self, clock, limit=6000):
        self.clock = clock
        self.limit = limit
        self.minutes = {}
        self.refused = 0

    async def get(self, url, *, timeout_s):
        minute = self.clock.now_ns // (60 * SECOND_NS)
        self.minutes[minute] = used = self.minutes.get(minute, 0) + 250
        status = 200 if used <= self.limit else 429
        self.refused += status != 200
        headers = {"x-mbx-used-weight-1m": str(used)}
        return RestAnswer(status, headers, good()[2], self.clock.wall_ns(), self.clock.wall_ns())


async def test_restarts_one_after_the_other_never_cost_more_than_the_budget():
    clock = VirtualClock()
    exchange = Exchange(clock)
    for _ in range(12):  # a process that dies every ten seconds and wants 1,500 snapshots each time
        rig = Rig(lambda number, url: good())
        rig.clock, rig.rest = clock, exchange
        rig.fetcher = SnapshotFetcher(
            exchange,
            clock,
            pools={"spot": WeightBudget(6000, 0.48)},
            draw=random.Random(1).random,
            notice=lambda name, details: None,
        )
        async with rig:
            for number in range(1500):
                rig.ask(f"S{number}")
            await clock.run(10)
    assert exchange.refused == 0
    # A newborn process learns from its first answer what was spent before it: one request a life is the price.
    assert max(exchange.minutes.values()) <= 2880 + 6 * 250
    assert sum(exchange.minutes.values()) >= 2 * 2500


async def test_a_ban_that_names_its_end_only_in_its_text_is_obeyed_to_that_time():
    clock_start_ms = VirtualClock().wall_ns() // 1_000_000

    def script(number, url):
        body = b'{"code":-1003,"msg":"Way too much request weight used; IP banned until %d."}' % (clock_start_ms + 3_600_000)
        return (418, {}, body) if number == 1 else good()

    async with Rig(script) as rig:
        rig.ask()
        await rig.clock.run(3599)
        assert len(rig.rest.requests) == 1
        await rig.clock.run(5)
        assert len(rig.delivered) == 1


async def test_a_ban_that_names_an_absurd_time_lasts_as_long_as_one_without():
    def script(number, url):
        return (418, {}, b"IP banned until 9999999999999") if number == 1 else good()

    async with Rig(script) as rig:
        rig.ask()
        await rig.clock.run(125)
        assert len(rig.delivered) == 1
