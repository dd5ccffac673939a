"""The collector as a real process against the simulated exchange, and its runner in this process where faults are needed."""

import asyncio
import contextlib
import importlib.util
import json
import random
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from pathlib import Path

import pytest

from support.browser import needs_chromium, rendered
from twintape.core import segment
from twintape.core.gateway import FaultKind
from twintape.core.markets import Market
from twintape.core.synthetic import SyntheticConfig, SyntheticSource
from twintape.core.wire import depth_ids, parse_control
from twintape.io.exchange import ExchangeConfig, SimulatedExchange, tape_source

COMMAND = ("-m", "twintape", "record")
START_NS = 1_760_000_000_000_000_000
ROOT = Path(__file__).parents[2]
WAIT_S = 60.0
"""However busy the machine is, what is waited for happens within this time, or never."""
LONG_S = 1200
"""So many seconds of tape no test plays to the end at sixfold speed."""


def write_tape(path, seconds=20, symbols=("btcusdt", "币安人生usdt")):
    """Ten events and ten tickers a second for each symbol; returns the frames by stream."""
    frames = {}
    with path.open("wb") as file:
        for number in range(seconds * 10):
            time_ns = START_NS + number * 100_000_000
            for symbol in symbols:
                data = {
                    "e": "depthUpdate",
                    "E": time_ns // 10**6,
                    "s": symbol.upper(),
                    "U": 10 * number + 1,
                    "u": 10 * number + 10,
                    "b": [[f"{100 + number % 7}.00000000", "1.50000000"]],
                    "a": [],
                }
                ticker = {"u": 10 * number + 10, "s": symbol.upper(), "b": "1.0", "B": "2.0", "a": "3.0", "A": "4.0"}
                for stream, content in ((f"{symbol}@depth@100ms", data), (f"{symbol}@bookTicker", ticker)):
                    frame = json.dumps({"stream": stream, "data": content}, separators=(",", ":"), ensure_ascii=False).encode()
                    file.write(b"%d %b\n" % (time_ns, frame))
                    frames.setdefault(stream, []).append(frame)
    return frames


class Recording:
    """What is in a store, by stream and by segment."""

    def __init__(self, directory):
        self.objects = []
        for file in sorted((directory / "store" / "raw").rglob("*.tape.zst")):
            data = file.read_bytes()
            index = segment.verify_segment(data)
            self.objects.append((index, [(name, frame) for name, _, frame in segment.lines_in_order(data)]))
        self.objects.sort(key=lambda item: item[0].chain.number)

    def frames(self, stream):
        return [frame for _, lines in self.objects for name, frame in lines if name == stream]

    def controls(self, kind):
        found = [parse_control(frame) for _, lines in self.objects for _, frame in lines]
        return [control[1] for control in found if control is not None and control[0] == kind]

    def connections(self):
        return {(index.run, index.connection) for index, _ in self.objects}


def arguments(directory, exchange, symbols=("BTCUSDT", "币安人生USDT"), streams=("depth@100ms", "bookTicker"), extra=()):
    base = f"127.0.0.1:{exchange.gateways[0].port}"
    words = [*symbols, "--collector", "tokyo", "--store", f"file://{directory}/store", "--spool", f"{directory}/spool"]
    words += [word for stream in streams for word in ("--stream", stream)]
    return [*words, "--websocket", f"ws://{base}", "--rest", f"http://{base}", *extra]


@contextlib.asynccontextmanager
async def collector(directory, exchange, **options):
    """A collector process; its log is in `process.log` after it has ended."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, *COMMAND, *arguments(directory, exchange, **options), stderr=asyncio.subprocess.PIPE
    )
    process.log = []
    process.reading = asyncio.create_task(read_log(process))
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        await process.reading


async def read_log(process):
    async for line in process.stderr:
        try:
            process.log.append(json.loads(line))
        except ValueError:
            process.log.append({"event": "not JSON", "text": line.decode()})


async def stop(process, number=signal.SIGTERM):
    process.send_signal(number)
    code = await asyncio.wait_for(process.wait(), WAIT_S)
    await process.reading
    return code


def events(process):
    return [entry["event"] for entry in process.log]


def ends(process):
    """Why connections have ended so far."""
    return [entry["reason"] for entry in process.log if entry["event"] == "disconnected"]


def written(directory, connections="[1-9]*"):
    """What stands in active files now."""
    return b"".join(path.read_bytes() for path in (directory / "spool").glob(f"*/active/*-{connections}-*.tape"))


def assert_heard_from_the_first_on(recording, frames):
    """Of every stream there is each frame up to the last that was heard."""
    for stream, said in frames.items():
        heard = set(recording.frames(stream))
        assert heard == set(said[: len(heard)])
        assert heard


async def wait_until(condition, seconds=WAIT_S):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "did not happen"
        await asyncio.sleep(0.02)


def play(path, **options):
    options = {"speed": 20, "wait_clients": 1} | options
    return ExchangeConfig(sources=[tape_source(Market.SPOT, [path])], **options)


async def test_what_is_recorded_equals_the_tape_and_a_stop_seals_and_uploads(tmp_path):
    frames = write_tape(tmp_path / "tape")
    async with SimulatedExchange(play(tmp_path / "tape")) as exchange, collector(tmp_path, exchange) as process:
        await asyncio.wait_for(exchange.wait_ended(), WAIT_S)
        await wait_until(lambda: written(tmp_path).count(b'"!twintape@snapshot"') >= 2)
        assert await stop(process) == 0
    recording = Recording(tmp_path)
    assert {stream: recording.frames(stream) for stream in frames} == frames
    (opened,), (closed,), clocks = recording.controls("open"), recording.controls("close"), recording.controls("clock")
    assert (opened["collector"], opened["connection"], opened["sequence"]) == ("tokyo", 1, 1)
    assert sorted(opened["streams"]) == sorted(frames)
    assert (closed["reason"], closed["final"]) == ("SIGTERM", True)
    assert clocks[0]["wall_ns"] > 0
    snapshots = recording.controls("snapshot")
    assert sorted(snapshot["symbol"] for snapshot in snapshots) == ["BTCUSDT", "币安人生USDT"]
    assert all(snapshot["status"] == 200 and snapshot["body"]["lastUpdateId"] >= 0 for snapshot in snapshots)
    index = recording.objects[0][0]
    assert (index.date, index.hour, index.chain.number) == ("2025-10-09", 8, 0)  # the exchange's time, not ours
    assert not list((tmp_path / "spool").rglob("*.tape*"))
    assert events(process)[-1] == "stopped"


async def test_a_cut_connection_comes_back_with_a_snapshot_and_the_same_streams(tmp_path):
    frames = write_tape(tmp_path / "tape", seconds=LONG_S)
    depths = {"btcusdt@depth@100ms", "币安人生usdt@depth@100ms"}
    snapshot = b'"!twintape@snapshot"'
    async with SimulatedExchange(play(tmp_path / "tape", speed=6)) as exchange, collector(tmp_path, exchange) as process:
        await wait_until(lambda: written(tmp_path).count(snapshot) >= 2)
        exchange.inject(FaultKind.FIN, 0, 0.5)
        await wait_until(lambda: written(tmp_path, "[2-9]*").count(snapshot) >= 2)
        assert await stop(process, signal.SIGINT) == 0
    recording = Recording(tmp_path)
    assert len(recording.connections()) == 2
    first, second = recording.controls("open")
    assert first["streams"] == second["streams"]
    assert [control["reason"] for control in recording.controls("close")] == ["end of TCP without a close frame", "SIGINT"]
    for stream in depths:
        heard = recording.frames(stream)
        assert heard == [frame for frame in frames[stream] if frame in set(heard)]
        assert frames[stream].index(heard[-1]) >= len(heard)  # something was said while nobody listened
    gaps = [entry for entry in process.log if entry["event"] == "gap"]
    assert {gap["stream"] for gap in gaps} == depths
    assert all(gap["across_connections"] for gap in gaps)
    asked = Counter(fields["symbol"] for fields in recording.controls("snapshot"))
    assert min(asked["BTCUSDT"], asked["币安人生USDT"]) >= 2


async def test_rotation_opens_the_next_connection_before_it_closes_the_last_and_misses_nothing(tmp_path):
    frames = write_tape(tmp_path / "tape", seconds=LONG_S)
    (tmp_path / "config").write_text("rotate_hours = 0.0001\n")
    async with (
        SimulatedExchange(play(tmp_path / "tape", speed=6)) as exchange,
        collector(tmp_path, exchange, extra=["--config", str(tmp_path / "config")]) as process,
    ):
        await wait_until(lambda: ends(process).count("replaced: age") >= 2)
        assert await stop(process) == 0
    recording = Recording(tmp_path)
    assert len(recording.connections()) >= 3
    assert_heard_from_the_first_on(recording, frames)
    for stream in frames:
        heard = recording.frames(stream)
        assert len(heard) > len(set(heard))  # both were recorded while both were open
    assert "gap" not in events(process)
    assert {control["reason"] for control in recording.controls("close")} == {"replaced: age", "SIGTERM"}


async def test_a_shutdown_notice_is_recorded_and_answered_by_a_new_connection_before_the_shutdown(tmp_path):
    write_tape(tmp_path / "tape", seconds=LONG_S)
    async with SimulatedExchange(play(tmp_path / "tape", speed=6)) as exchange, collector(tmp_path, exchange) as process:
        await wait_until(lambda: b"depthUpdate" in written(tmp_path))
        exchange.inject(FaultKind.SHUTDOWN, 0, WAIT_S)
        await wait_until(lambda: ends(process))
        assert await stop(process) == 0
    recording = Recording(tmp_path)
    assert b'"e":"serverShutdown"' in recording.frames("!serverShutdown")[0]
    assert "server_shutdown" in events(process)
    assert "replaced: server shutdown" in [control["reason"] for control in recording.controls("close")]


async def test_an_announced_shutdown_with_time_to_change_loses_nothing(tmp_path):
    frames = write_tape(tmp_path / "tape", seconds=LONG_S)
    async with SimulatedExchange(play(tmp_path / "tape", speed=6)) as exchange, collector(tmp_path, exchange) as process:
        await wait_until(lambda: b"depthUpdate" in written(tmp_path))
        exchange.inject(FaultKind.DRAIN, 0, WAIT_S)
        await wait_until(lambda: ends(process))
        assert exchange.status()["gateways"][0]["accepted"] == 2
        assert await stop(process) == 0
    recording = Recording(tmp_path)
    assert_heard_from_the_first_on(recording, frames)
    closes = [control["reason"] for control in recording.controls("close") if control["final"]]
    assert sorted(closes) == ["SIGTERM", "replaced: server shutdown"]
    assert "gap" not in events(process)


async def test_pings_are_answered_within_the_deadline(tmp_path):
    from twintape.io.exchange_gateway import KeepAlive

    write_tape(tmp_path / "tape", seconds=LONG_S)
    deadline_s = 5.0
    keep_alive = KeepAlive(ping_interval_s=0.3, pong_deadline_s=deadline_s)
    async with (
        SimulatedExchange(play(tmp_path / "tape", keep_alive=keep_alive, speed=6)) as exchange,
        collector(tmp_path, exchange) as process,
    ):
        await wait_until(lambda: exchange.status()["gateways"][0]["pings"] >= 1)
        await asyncio.sleep(deadline_s + 1)  # whoever does not answer has been closed by then
        assert exchange.status()["gateways"][0]["pings"] >= 5
        assert await stop(process) == 0
    assert len(Recording(tmp_path).connections()) == 1


async def test_what_was_not_uploaded_goes_at_the_next_start(tmp_path):
    frames = write_tape(tmp_path / "tape", seconds=LONG_S)
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "raw").write_text("in the way: nothing can be put into the store")
    async with SimulatedExchange(play(tmp_path / "tape", speed=6)) as exchange:
        (tmp_path / "stop.toml").write_text("stop_seconds = 3\n")
        async with collector(tmp_path, exchange, extra=["--config", str(tmp_path / "stop.toml")]) as process:
            await wait_until(lambda: b"depthUpdate" in written(tmp_path))
            assert await stop(process) == 0
        assert process.log[-1]["not_uploaded"] == 1
        assert "upload_failing" in events(process)
        assert len(list((tmp_path / "spool").rglob("*.tape.zst"))) == 1
        (tmp_path / "store" / "raw").unlink()
        async with collector(tmp_path, exchange) as process:
            await wait_until(lambda: (tmp_path / "store" / "raw").exists() and not list((tmp_path / "spool").rglob("*.tape.zst")))
            await wait_until(lambda: b"depthUpdate" in written(tmp_path))
            assert await stop(process) == 0
    recording = Recording(tmp_path)
    assert [index.chain.number for index, _ in recording.objects] == [0, 1]
    assert len({index.run for index, _ in recording.objects}) == 2
    heard = recording.frames("btcusdt@depth@100ms")
    assert heard == [frame for frame in frames["btcusdt@depth@100ms"] if frame in set(heard)]


async def test_a_second_collector_on_the_same_spool_is_refused(tmp_path):
    write_tape(tmp_path / "tape")
    async with SimulatedExchange(play(tmp_path / "tape")) as exchange, collector(tmp_path, exchange) as process:
        await wait_until(lambda: (tmp_path / "spool" / "spot" / "active").exists())
        async with collector(tmp_path, exchange) as other:
            await asyncio.wait_for(other.wait(), WAIT_S)
        assert other.returncode == 3
        assert "another process holds this spool" in "".join(entry.get("text", "") for entry in other.log)
        assert await stop(process) == 0


async def test_status_and_metrics_are_served_on_loopback(tmp_path):
    write_tape(tmp_path / "tape", seconds=LONG_S)
    port = free_port()
    async with (
        SimulatedExchange(play(tmp_path / "tape", speed=6)) as exchange,
        collector(tmp_path, exchange, extra=["--metrics-port", str(port), "--duration", str(WAIT_S)]) as process,
    ):
        await wait_until(lambda: b"depthUpdate" in written(tmp_path))
        status = json.loads(await asyncio.to_thread(fetch, port, "status"))
        metrics = await asyncio.to_thread(fetch, port, "metrics")
        assert await stop(process) == 0
    assert status["connections"][0]["state"] == "open"
    assert status["markets"]["spot"]["lines"] > 0
    assert 'twintape_lines_total{market="spot"}' in metrics
    assert "twintape_connections 1.0" in metrics


@needs_chromium
async def test_the_page_shows_a_browser_what_is_going_on(tmp_path):
    write_tape(tmp_path / "tape", seconds=LONG_S)
    port = free_port()
    async with (
        SimulatedExchange(play(tmp_path / "tape", speed=6)) as exchange,
        collector(tmp_path, exchange, extra=["--metrics-port", str(port)]) as process,
    ):
        await wait_until(lambda: b"depthUpdate" in written(tmp_path))
        page = await asyncio.to_thread(rendered, f"http://127.0.0.1:{port}/")
        assert await stop(process) == 0
    assert '<h1 id="name">tokyo</h1>' in page
    assert '<span id="verdict" class="good">recording</span>' in page
    assert re.search(r"<td>spot</td><td>[1-9]", page)
    assert '<td class="text good">open</td>' in page


def free_port():
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def fetch(port, path):
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/{path}", timeout=WAIT_S) as answer:
        return answer.read().decode()


async def test_several_markets_are_recorded_by_one_process(tmp_path):
    sources = [
        SyntheticSource(SyntheticConfig(market=market, seed=3, symbols_count=3, events_per_second=20, messages_count=400))
        for market in (Market.SPOT, Market.USDM)
    ]
    async with SimulatedExchange(ExchangeConfig(sources=sources, speed=20, wait_clients=4)) as exchange:
        base = f"127.0.0.1:{exchange.gateways[0].port}"
        lines = ["streams_per_connection = 2"]
        for source in sources:
            symbols = json.dumps([info.symbol for info in source.symbols], ensure_ascii=False)
            lines += ["[[markets]]", f'market = "{source.market}"', f"symbols = {symbols}"]
            lines += [f'websocket = "ws://{base}/{source.market}"', f'rest = "http://{base}/{source.market}"']
        (tmp_path / "config.toml").write_text("\n".join(lines), encoding="utf-8")
        words = ["--collector", "tokyo", "--store", f"file://{tmp_path}/store", "--spool", f"{tmp_path}/spool"]
        process = await asyncio.create_subprocess_exec(
            sys.executable, *COMMAND, *words, "--config", str(tmp_path / "config.toml"), stderr=asyncio.subprocess.DEVNULL
        )
        await asyncio.wait_for(exchange.wait_ended(), WAIT_S)
        process.terminate()
        assert await asyncio.wait_for(process.wait(), WAIT_S) == 0
    recording = Recording(tmp_path)
    markets = [index.market for index, _ in recording.objects]
    assert sorted(markets) == [Market.SPOT] * 2 + [Market.USDM] * 2
    for index, lines in recording.objects:
        last = {}
        for name, frame in lines:
            ids = depth_ids(frame, index.market) if "@depth@" in name else None
            if ids is not None:
                assert ids[0] == last.get(name, ids[0])
                last[name] = ids[1]
        assert last


def load_killer():
    spec = importlib.util.spec_from_file_location("kill_collector", ROOT / "bench" / "kill_collector.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
async def test_no_line_whose_write_returned_is_lost_by_a_kill(tmp_path):
    killer = load_killer()
    killer.LIFE_S_MAX = 0.3
    killer.LAST_LIFE_S = 1.0
    report = await killer.run(10, random.Random().randrange(2**32), tmp_path)
    assert report.failures == []
    assert report.kills == 10
    assert report.witnessed_lines > 100


def test_the_witness_of_kills_notices_a_lost_line(tmp_path):
    killer = load_killer()
    frames = write_tape(tmp_path / "tape", seconds=1)["btcusdt@depth@100ms"]
    from twintape.core.segment import ChainLink, format_line, seal
    from twintape.core.wire import open_line

    opened = open_line(
        collector="witness",
        market=Market.SPOT,
        run="a" * 32,
        connection=1,
        sequence=1,
        url="",
        streams=[],
        version="",
        event_time_us=None,
    )
    lines = [(START_NS, opened), *((START_NS + 1 + number, frame) for number, frame in enumerate(frames))]
    sealed = seal(
        [line for line in lines if line[1] != frames[4]],
        collector="witness",
        market=Market.SPOT,
        run="a" * 32,
        connection=1,
        sequence=1,
        chain=ChainLink("c" * 16, 0, None, "new spool"),
    )
    (tmp_path / "store" / "raw").mkdir(parents=True)
    (tmp_path / "store" / "raw" / f"aaaaaaaa-1-1-{sealed.sha256[:16]}.tape.zst").write_bytes(sealed.data)
    report = killer.Report()
    killer.judge(tmp_path, {"aaaaaaaa-1-1": b"".join(format_line(*line) for line in lines)}, report)
    assert any("1 of 11 lines lost" in failure for failure in report.failures)
    assert any("connection aaaaaaaa-1" in failure for failure in report.failures)


def test_the_collector_loads_none_of_the_analytics_packages():
    code = (
        "import sys, twintape.cli.record, twintape.io.collector, twintape.io.dialer, twintape.io.http, twintape.io.disk, twintape.io.spool,"
        "twintape.io.store, twintape.io.upload, twintape.io.status, twintape.io.journal, twintape.io.clock\n"
        "from twintape.io.store import open_store\n"
        "open_store('file:///tmp')\n"
        "print([name for name in ('numpy', 'numba', 'pyarrow', 'polars', 'pandas', 'matplotlib') if name in sys.modules])"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert answer.stdout.strip() == "[]"
