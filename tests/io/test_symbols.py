"""The collector follows the exchange's list: listings, delistings and bad answers, against the simulator and in virtual time."""

import asyncio
import contextlib
import json
import random
import signal
import sys
import time

import pytest

from support.virtual import SECOND_NS, VirtualClock
from twintape.core import segment
from twintape.core.gateway import FaultKind
from twintape.core.markets import Market
from twintape.core.settings import parse_record_settings
from twintape.core.symbols import Roster
from twintape.core.venue import StatusChange
from twintape.core.wire import parse_control
from twintape.io.collector import Collector
from twintape.io.disk import PosixDisk
from twintape.io.exchange import ExchangeConfig, SimulatedExchange, tape_source
from twintape.io.ports import RestAnswer
from twintape.io.rest import Wish
from twintape.io.spool import Spool
from twintape.io.symbols import SymbolWatch

COMMAND = ("-m", "twintape", "record")
START_NS = 1_760_000_000_000_000_000
TICKS = 160
WAIT_S = 60.0
"""However busy the machine is, what is waited for happens within this time, or never."""


def write_tape(path, lives):
    """One event per symbol every 0.1 s of its life (`first tick, tick behind the last`); returns the frames by symbol."""
    frames = {symbol: [] for symbol in lives}
    with path.open("wb") as file:
        for number in range(TICKS):
            time_ns = START_NS + number * 100_000_000
            for symbol, (begin, end) in lives.items():
                if begin <= number < end:
                    first = 10 * (number - begin) + 1
                    data = {"e": "depthUpdate", "E": time_ns // 10**6, "s": symbol, "U": first, "u": first + 9, "b": [], "a": []}
                    stream = "".join(c.lower() if c.isascii() else c for c in symbol) + "@depth@100ms"
                    frame = json.dumps({"stream": stream, "data": data}, separators=(",", ":"), ensure_ascii=False).encode()
                    file.write(b"%d %b\n" % (time_ns, frame))
                    frames[symbol].append(frame)
    return frames


@contextlib.asynccontextmanager
async def collector(directory, exchange, *words):
    config = directory / "record.toml"
    config.write_text("symbols_minutes = 0.01\nsymbols_grace_minutes = 0.03\nsnapshot_minutes = 0\n")
    base = f"127.0.0.1:{exchange.gateways[0].port}"
    arguments = [*words, "--collector", "tokyo", "--store", f"file://{directory}/store", "--spool", f"{directory}/spool"]
    arguments += ["--websocket", f"ws://{base}", "--rest", f"http://{base}", "--config", str(config)]
    process = await asyncio.create_subprocess_exec(sys.executable, *COMMAND, *arguments, stderr=asyncio.subprocess.PIPE)
    log = []

    async def read():
        async for line in process.stderr:
            log.extend([json.loads(line)])  # at once: tests look at it while it grows

    reading = asyncio.create_task(read())
    try:
        yield log
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), WAIT_S) == 0
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        await reading


async def wait_until(condition):
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, "did not happen"
        await asyncio.sleep(0.02)


def recorded(directory):
    """Return the lines in the store, in order of the chain."""
    objects = [file.read_bytes() for file in (directory / "store" / "raw").rglob("*.tape.zst")]
    objects.sort(key=lambda data: segment.verify_segment(data).chain.number)
    return [frame for data in objects for _, _, frame in segment.lines_in_order(data)]


def of_symbol(lines, symbol):
    return [line for line in lines if f'"s":"{symbol}"'.encode() in line]


def controls(lines, kind):
    found = [parse_control(line) for line in lines]
    return [control[1] for control in found if control is not None and control[0] == kind]


async def test_a_listing_is_recorded_from_its_first_event_and_a_delisting_ends_without_alarm(tmp_path):
    lives = {"BTCUSDT": (0, TICKS), "牛来USDT": (80, TICKS), "OLDUSDT": (0, 60), "ETHBTC": (0, TICKS)}
    frames = write_tape(tmp_path / "tape", lives)
    statuses = [
        StatusChange(Market.SPOT, "牛来USDT", 0.0, ""),
        StatusChange(Market.SPOT, "牛来USDT", 0.1, "PENDING_TRADING"),
        StatusChange(Market.SPOT, "牛来USDT", 0.5, "TRADING"),
        StatusChange(Market.SPOT, "OLDUSDT", 0.36, "BREAK"),
    ]
    config = ExchangeConfig([tape_source(Market.SPOT, [tmp_path / "tape"])], statuses=statuses, speed=1, wait_clients=1)
    async with SimulatedExchange(config) as exchange, collector(tmp_path, exchange, "*USDT") as log:
        await asyncio.wait_for(exchange.wait_ended(), WAIT_S)
        await wait_until(lambda: [entry["event"] for entry in log].count("symbols_changed") == 3)
    lines = recorded(tmp_path)
    for symbol in ("BTCUSDT", "OLDUSDT", "牛来USDT"):
        assert of_symbol(lines, symbol) == frames[symbol]
    assert of_symbol(lines, "ETHBTC") == []
    opened, changes = controls(lines, "open"), controls(lines, "subscribe")
    assert opened[0]["streams"] == ["btcusdt@depth@100ms", "oldusdt@depth@100ms"]
    assert [change["streams"] for change in changes] == [
        ["btcusdt@depth@100ms", "oldusdt@depth@100ms", "牛来usdt@depth@100ms"],
        ["btcusdt@depth@100ms", "牛来usdt@depth@100ms"],
    ]
    assert opened[-1]["streams"] == changes[-1]["streams"] or len(opened) == 1
    names = [entry["event"] for entry in log]
    assert names.count("connected") == 1
    assert not {"silent", "replace", "snapshot_given_up"} & set(names)
    assert [(entry["added"], entry["removed"]) for entry in log if entry["event"] == "symbols_changed"] == [
        (["BTCUSDT", "OLDUSDT"], []),
        (["牛来USDT"], []),
        ([], ["OLDUSDT"]),
    ]


async def test_a_name_the_exchange_does_not_know_is_a_warning_and_the_others_are_recorded(tmp_path):
    frames = write_tape(tmp_path / "tape", {"BTCUSDT": (0, 40)})
    config = ExchangeConfig([tape_source(Market.SPOT, [tmp_path / "tape"])], speed=4, wait_clients=1)
    async with SimulatedExchange(config) as exchange, collector(tmp_path, exchange, "BTCUSDT", "TYPOUSDT") as log:
        await asyncio.wait_for(exchange.wait_ended(), WAIT_S)
        await wait_until(lambda: "symbol_unknown" in [entry["event"] for entry in log])
    assert of_symbol(recorded(tmp_path), "BTCUSDT") == frames["BTCUSDT"]
    warned = [entry for entry in log if entry["event"] == "symbol_unknown"]
    assert warned
    assert warned[0]["symbols"] == ["TYPOUSDT"]
    assert warned[0]["level"] == "warning"


async def test_an_exchange_whose_rest_is_away_drops_nothing(tmp_path):
    frames = write_tape(tmp_path / "tape", {"BTCUSDT": (0, TICKS)})
    config = ExchangeConfig([tape_source(Market.SPOT, [tmp_path / "tape"])], speed=8, wait_clients=1)
    async with SimulatedExchange(config) as exchange, collector(tmp_path, exchange, "BTC*") as log:
        await wait_until(lambda: "connected" in [entry["event"] for entry in log])
        exchange.inject(FaultKind.UNAVAILABLE, 0, 60)
        await asyncio.wait_for(exchange.wait_ended(), WAIT_S)
        await asyncio.sleep(0.2)
    assert of_symbol(recorded(tmp_path), "BTCUSDT") == frames["BTCUSDT"]
    assert [entry["event"] for entry in log].count("connected") == 1


# --- in virtual time -----------------------------------------------------------------------------------------------------------


class Socket:
    def __init__(self, url, listener):
        self.url, self.listener, self.sent = url, listener, []

    def send_text(self, text):
        self.sent.append(json.loads(text))
        asyncio.get_running_loop().call_soon(self.listener.on_frame, 1, b'{"result":null,"id":%d}' % self.sent[-1]["id"])

    def ping(self, payload):
        self.listener.on_pong(payload)

    def pong(self, payload): ...

    def pause(self): ...

    def resume(self): ...

    def close(self):
        asyncio.get_running_loop().call_soon(self.listener.on_closed, 1000, "close frame")

    def abort(self):
        self.listener.on_closed(None, "aborted")

    @property
    def streams(self):
        """What an exchange would deliver here."""
        found = dict.fromkeys(filter(None, self.url.partition("?streams=")[2].split("/")))
        for message in self.sent:
            for stream in message.get("params", ()):  # a list names none
                found.pop(stream, None) if message["method"] == "UNSUBSCRIBE" else found.setdefault(stream)
        return list(found)


class World:
    """A collector in virtual time whose exchange answers `answer` to exchangeInfo."""

    def __init__(self, directory, words, toml=""):
        self.clock = VirtualClock()
        self.sockets, self.asked_ns, self.log = [], [], []
        self.answer = (200, b"{}")
        symbols = ", ".join(f'"{word}"' for word in words)
        text = f'collector = "tokyo"\nsnapshot_minutes = 0\nsymbols_minutes = 0.2\n{toml}\nmarkets = [{{market = "usdm", symbols = [{symbols}]}}]\n'
        spool = Spool(
            PosixDisk(directory),
            collector="tokyo",
            market=Market.USDM,
            run="f" * 32,
            version="test",
            draw_chain_id=lambda: "c" * 16,
        )
        self.collector = Collector(
            parse_record_settings(text),
            clock=self.clock,
            dialer=self,
            rest=self,
            spools={Market.USDM: spool},
            upload=self.upload,
            draw=random.Random(1).random,
            journal=self,
            threaded=False,
        )

    async def dial(self, url, listener, *, timeout_s):
        self.sockets.append(Socket(url, listener))
        return self.sockets[-1]

    async def get(self, url, *, timeout_s):
        status, body = 200, b'{"lastUpdateId":1,"bids":[],"asks":[]}'
        if url.endswith("exchangeInfo"):
            self.asked_ns.append(self.clock.now_ns)
            status, body = self.answer
        return RestAnswer(status, {}, body, self.clock.wall_ns(), self.clock.wall_ns())

    async def upload(self, sealed): ...

    def info(self, event, **fields):
        self.log.append(event)

    warning = error = info

    def list(self, *symbols, status="PENDING_TRADING", kind="PERPETUAL"):
        rows = [{"symbol": symbol, "status": status, "contractType": kind} for symbol in symbols]
        self.answer = 200, json.dumps({"symbols": rows}).encode()

    async def __aenter__(self):
        self.running = asyncio.create_task(self.collector.run())
        return self

    async def __aexit__(self, kind, *_):
        self.collector.stop("test over")
        await self.clock.run(60)
        if kind is None:
            await self.running

    @property
    def streams(self):
        return [socket.streams for socket in self.sockets]


@pytest.fixture
def world(tmp_path):
    return lambda *words, toml="": World(tmp_path, words, toml)


async def test_1500_symbols_fill_connections_to_the_limit_and_later_ones_take_the_room_that_is_left(world):
    symbols = [f"S{number:04}USDT" for number in range(1490)]
    async with world("PERPETUAL") as it:
        it.list(*symbols)
        await it.clock.run(10)
        assert [len(streams) for streams in it.streams] == [187, 187, 186, 186, 186, 186, 186, 186]
        before = list(it.sockets)
        it.list(*symbols, *(f"T{number:04}USDT" for number in range(310)))
        await it.clock.run(15)
        assert sorted(stream for streams in it.streams for stream in streams) == sorted(
            f"{symbol.lower()}@depth@100ms" for symbol in [*symbols, *(f"T{number:04}USDT" for number in range(310))]
        )
        assert [len(streams) for streams in it.streams] == [200] * 8 + [200]
        assert it.sockets[:8] == before


async def test_subscriptions_stay_within_the_limits_of_messages(world):
    async with world("*", toml="streams_per_connection = 1000") as it:
        it.list("BTCUSDT")
        await it.clock.run(5)
        it.list("BTCUSDT", *(f"VERYLONGNAME{number:04}USDT" for number in range(900)))
        await it.clock.run(15)
        (socket,) = it.sockets
        assert len(socket.streams) == 901
        assert all(len(json.dumps(message)) < 4200 for message in socket.sent)
        assert len({message["id"] for message in socket.sent}) == len(socket.sent) > 5


@pytest.mark.parametrize(
    "answer",
    [
        (200, b"<html>"),
        (200, b'{"symbols":[]}'),
        (200, b""),
        (429, b""),
        (418, b""),
        (451, b"no"),
        (403, b"no"),
        (500, b""),
        (404, b"{}"),
    ],
)
async def test_a_bad_answer_drops_nothing_and_is_asked_again(world, answer):
    async with world("*", toml="symbols_grace_minutes = 0") as it:
        it.list("BTCUSDT", "ETHUSDT")
        await it.clock.run(5)
        it.answer = answer
        await it.clock.run(40)
        assert it.streams == [["btcusdt@depth@100ms", "ethusdt@depth@100ms"]]
        assert len(it.asked_ns) >= 2


async def test_behind_bad_answers_the_list_is_followed_again(world):
    async with world("*", toml="symbols_grace_minutes = 0") as it:
        it.list("BTCUSDT", "ETHUSDT")
        await it.clock.run(5)
        it.answer = 500, b""
        await it.clock.run(20)
        it.list("BTCUSDT")
        await it.clock.run(40)
        assert it.streams == [["btcusdt@depth@100ms"]]


async def test_names_are_recorded_when_the_list_cannot_be_had_at_all(world):
    async with world("BTCUSDT", "ETH*") as it:
        it.answer = 451, b"restricted location"
        await it.clock.run(20)
        assert it.streams == [["btcusdt@depth@100ms"]]


async def test_a_connection_without_symbols_is_closed_and_a_listing_opens_another(world):
    async with world("*", toml="symbols_grace_minutes = 0") as it:
        it.list("BTCUSDT")
        await it.clock.run(5)
        it.list("BTCUSDT", status="CLOSE")
        await it.clock.run(15)
        assert it.collector.links == {}
        it.list("BTCUSDT")
        await it.clock.run(15)
        assert len(it.collector.links) == 1
        assert len(it.sockets) == 2
        assert it.streams[-1] == ["btcusdt@depth@100ms"]


async def test_the_silence_of_a_symbol_that_does_not_trade_replaces_nothing(world):
    async with world("*") as it:
        it.list("NEWUSDT", status="PENDING_TRADING")
        await it.clock.run(200)
        assert len(it.sockets) == 1
        assert it.log.count("silent") == 0


def watch(asked, interval_ns=600 * SECOND_NS, draw=0.5, applied=None):
    clock = VirtualClock()
    notices = []
    return (
        SymbolWatch(
            Market.SPOT,
            Roster(["*"], grace_ns=0),
            interval_ns=interval_ns,
            clock=clock,
            draw=lambda: draw,
            ask=asked.append,
            apply=(applied if applied is not None else []).append,
            notice=lambda name, details: notices.append(name),
        ),
        notices,
    )


@pytest.mark.parametrize(("draw", "second_s"), [(0.0, 540), (0.5, 600), (0.999999, 660)])
def test_the_list_is_asked_for_at_intervals_with_jitter(draw, second_s):
    asked: list[Wish] = []
    it, _ = watch(asked, draw=draw)
    it.tick(0)
    it.tick((second_s - 1) * SECOND_NS)
    assert [(wish.url, wish.weight) for wish in asked] == [("https://api.binance.com/api/v3/exchangeInfo", 20)]
    it.tick(second_s * SECOND_NS)
    assert len(asked) == 2


def test_silence_hurries_the_next_question_but_not_more_than_once_a_minute():
    asked: list[Wish] = []
    it, _ = watch(asked)
    it.hurry(0)
    it.tick(0)
    it.hurry(5 * SECOND_NS)
    it.tick(59 * SECOND_NS)
    assert len(asked) == 1
    it.tick(60 * SECOND_NS)
    assert len(asked) == 2
    it.hurry(300 * SECOND_NS)
    it.tick(300 * SECOND_NS)
    assert len(asked) == 3
