"""The collector's runner in virtual time: sockets, REST and the store are scripted, the spool and its disk are real."""

import asyncio
import errno
import json
import os
import threading

import pytest

from support.virtual import VirtualClock
from twintape.core import segment
from twintape.core.errors import CorruptionError, StoreError
from twintape.core.markets import Market
from twintape.core.settings import parse_record_settings
from twintape.core.wire import parse_control
from twintape.io.collector import Collector
from twintape.io.disk import PosixDisk
from twintape.io.ports import RestAnswer
from twintape.io.spool import SealedFile, Spool, SpoolLimits
from twintape.io.status import StatusServer, status
from twintape.io.store import MemoryStore
from twintape.io.upload import upload_one

SECOND_NS = 1_000_000_000


def depth(first, final, symbol="btcusdt"):
    return f'{{"stream":"{symbol}@depth@100ms","data":{{"e":"depthUpdate","E":1760000000000,"U":{first},"u":{final},"b":[],"a":[]}}}}'.encode()


class ScriptedSocket:
    def __init__(self, url, listener):
        self.url = url
        self.listener = listener
        self.calls = []
        self.answers_close = True

    def send_text(self, text):
        self.calls.append(("send_text", text))

    def ping(self, payload):
        self.calls.append(("ping", payload))
        self.listener.on_pong(payload)

    def pong(self, payload):
        self.calls.append(("pong", payload))

    def pause(self):
        self.calls.append(("pause",))

    def resume(self):
        self.calls.append(("resume",))

    def close(self):
        self.calls.append(("close",))
        if self.answers_close:
            asyncio.get_running_loop().call_soon(self.listener.on_closed, 1000, "close frame")

    def abort(self):
        self.calls.append(("abort",))
        self.listener.on_closed(None, "aborted")

    def hear(self, *payloads):
        for payload in payloads:
            self.listener.on_frame(1, payload)


class ScriptedDialer:
    def __init__(self, clock):
        self.clock = clock
        self.sockets = []
        self.attempts = []
        self.refuses = False
        self.hangs = False

    async def dial(self, url, listener, *, timeout_s):
        self.attempts.append(self.clock.now_ns / SECOND_NS)
        if self.hangs:
            await asyncio.Event().wait()
        if self.refuses:
            raise OSError("connection refused")
        self.sockets.append(ScriptedSocket(url, listener))
        return self.sockets[-1]


class ScriptedRest:
    def __init__(self, clock):
        self.clock = clock
        self.urls = []
        self.error = None
        self.last_update_id = 1000

    async def get(self, url, *, timeout_s):
        self.urls.append(url)
        if self.error is not None:
            raise self.error
        body = b'{"lastUpdateId":%d,"bids":[],"asks":[]}' % self.last_update_id
        return RestAnswer(200, {}, body, self.clock.wall_ns() - 1_000_000, self.clock.wall_ns())


class FlakyDisk(PosixDisk):
    """A real directory that refuses appends and writes while `full`."""

    full = False
    number = errno.ENOSPC

    def append(self, path):
        self._check()
        file = super().append(path)
        write = file.write

        def checked(data):
            self._check()
            return write(data)

        file.write = checked
        return file

    def _check(self):
        if self.full:
            raise OSError(self.number, os.strerror(self.number))


class Journal:
    def __init__(self):
        self.entries = []

    def info(self, event, **fields):
        self.entries.append(("info", event, fields))

    def warning(self, event, **fields):
        self.entries.append(("warning", event, fields))

    def error(self, event, **fields):
        self.entries.append(("error", event, fields))

    def named(self, name):
        return [fields for _, event, fields in self.entries if event == name]


class Rig:
    """A running collector and everything it touches."""

    def __init__(self, directory, toml="", *, disk=None, threaded=False, market=""):
        entry = f'{{market = "spot", symbols = ["BTCUSDT"]{market}}}'
        text = f'collector = "tokyo"\nsymbols_minutes = 0\n{toml}\nmarkets = [{entry}]\n'
        self.settings = parse_record_settings(text)
        self.clock = VirtualClock()
        self.dialer = ScriptedDialer(self.clock)
        self.rest = ScriptedRest(self.clock)
        self.store = MemoryStore(wall_ns=self.clock.wall_ns)
        self.journal = Journal()
        self.disk = disk or FlakyDisk(directory)
        self.store_error = None
        self.spool = Spool(
            self.disk,
            collector="tokyo",
            market=Market.SPOT,
            run="f" * 32,
            version="test",
            draw_chain_id=lambda: "c" * 16,
            limits=SpoolLimits(held_size=64 << 20, reserve_size=0),
        )
        self.collector = Collector(
            self.settings,
            clock=self.clock,
            dialer=self.dialer,
            rest=self.rest,
            spools={Market.SPOT: self.spool},
            upload=self.upload,
            draw=lambda: 0.5,
            journal=self.journal,
            threaded=threaded,
        )

    async def upload(self, sealed):
        if self.store_error is not None:
            raise self.store_error

        async def read(path):
            return self.disk.read(path)

        await upload_one(self.store, sealed, read=read, sleep=self.clock.sleep, draw=lambda: 0.5, attempts=1)

    async def __aenter__(self):
        self.running = asyncio.create_task(self.collector.run())
        await self.clock.run(1)
        return self

    async def __aexit__(self, kind, *_):
        if not self.running.done():
            self.collector.stop("test over")
            await self.let(60)
        if kind is None:
            await self.running

    async def let(self, seconds):
        await self.clock.run(seconds)

    async def failure(self):
        """Let the collector die and return what it died of."""
        await self.let(10)
        assert self.running.done()
        error = self.running.exception()
        self.running = asyncio.get_running_loop().create_future()
        self.running.set_result(None)
        return error

    def writer_alarm(self):
        return self.collector.writer.status[Market.SPOT].alarm

    @property
    def socket(self):
        return self.dialer.sockets[-1]

    async def recorded(self):
        """Return the lines in the store, in order of the chain."""
        found = []
        async for info in self.store.list("raw/"):
            data = await self.store.get(info.key)
            found.append((segment.verify_segment(data), list(segment.lines_in_order(data))))
        found.sort(key=lambda item: item[0].chain.number)
        return found

    async def frames(self):
        return [frame for _, lines in await self.recorded() for name, _, frame in lines if name == "btcusdt@depth@100ms"]

    async def controls(self, kind):
        parsed = [parse_control(frame) for _, lines in await self.recorded() for _, _, frame in lines]
        return [control[1] for control in parsed if control is not None and control[0] == kind]


async def test_segments_are_sealed_and_uploaded_while_recording_goes_on(tmp_path):
    async with Rig(tmp_path) as rig:
        rig.socket.hear(depth(1, 2), depth(3, 4))
        await rig.let(50)
        assert await rig.frames() == [depth(1, 2), depth(3, 4)]
        rig.socket.hear(depth(5, 6))
        await rig.let(1)
        assert len(rig.dialer.sockets) == 1
    assert await rig.frames() == [depth(1, 2), depth(3, 4), depth(5, 6)]
    assert [control["final"] for control in await rig.controls("close")] == [False, True]
    assert [index.sequence for index, _ in await rig.recorded()] == [1, 2]
    assert [path for path in rig.disk.list() if path.endswith((".tape", ".zst"))] == []


async def test_a_clock_line_opens_every_connection_and_comes_every_minute(tmp_path):
    async with Rig(tmp_path) as rig:
        for number in range(1, 131):
            rig.socket.hear(fresh(rig, number))
            await rig.let(1)
    clocks = await rig.controls("clock")
    assert len(clocks) == 3
    assert clocks[0] | {"wall_ns": 0, "monotonic_ns": 0} == {
        "stream": "!twintape@clock",
        "wall_ns": 0,
        "monotonic_ns": 0,
        "offset_ns": 5,
        "error_ns": 1000,
        "source": "virtual",
    }
    assert 60 <= (clocks[1]["monotonic_ns"] - clocks[0]["monotonic_ns"]) / SECOND_NS <= 61


async def test_snapshots_are_recorded_on_the_connection_with_the_time_of_their_answer(tmp_path):
    async with Rig(tmp_path) as rig:
        rig.socket.hear(depth(1, 2))
        await rig.let(5)
    (_, lines), *_ = await rig.recorded()
    ((_, time_ns, frame),) = [line for line in lines if line[0] == "btcusdt@depthSnapshot"]
    _, fields = parse_control(frame)
    assert fields["response_time_ns"] == time_ns
    assert fields["response_time_ns"] - fields["request_time_ns"] == 1_000_000
    assert (fields["symbol"], fields["status"], fields["body"]["lastUpdateId"]) == ("BTCUSDT", 200, 1000)
    assert rig.rest.urls == ["https://api.binance.com/api/v3/depth?symbol=BTCUSDT&limit=5000"]


async def test_checkpoints_are_taken_at_their_interval_and_not_at_all_when_switched_off(tmp_path):
    async with Rig(tmp_path / "a", "snapshot_minutes = 2") as rig:
        for second in range(61):
            rig.socket.hear(depth(second + 1, second + 1))
            await rig.let(10)
    assert len(rig.rest.urls) == 1 + 5
    async with Rig(tmp_path / "b", "snapshot_minutes = 0") as rig:
        for second in range(61):
            rig.socket.hear(depth(second + 1, second + 1))
            await rig.let(10)
    assert len(rig.rest.urls) == 1


async def test_a_wall_step_ends_the_segment_and_not_the_connection(tmp_path):
    async with Rig(tmp_path) as rig:
        rig.socket.hear(depth(1, 2))
        await rig.let(1)
        rig.clock.wall_offset_ns -= 3600 * SECOND_NS
        await rig.let(1)
        rig.socket.hear(depth(3, 4))
        await rig.let(1)
    (first, _), (second, _) = await rig.recorded()
    assert (first.connection, first.sequence, second.connection, second.sequence) == (1, 1, 1, 2)
    assert second.first_receive_time_ns < first.last_receive_time_ns - 3000 * SECOND_NS
    assert [control["reason"] for control in await rig.controls("close")] == ["clock step", "test over"]
    assert await rig.frames() == [depth(1, 2), depth(3, 4)]


async def test_a_store_that_is_away_costs_nothing_but_time(tmp_path):
    async with Rig(tmp_path) as rig:
        rig.store_error = StoreError("connection refused", retryable=True)
        for number in range(1, 20):
            rig.socket.hear(depth(number, number))
            await rig.let(10)
        assert await rig.recorded() == []
        failures = rig.collector.shipper.failures
        assert 4 <= failures < 40
        assert rig.collector.shipper.waiting >= 3
        rig.store_error = None
        await rig.let(61)
        assert rig.journal.named("upload_recovered")
        assert len(await rig.recorded()) >= 3
    assert await rig.frames() == [depth(number, number) for number in range(1, 20)]


async def test_how_long_files_wait_for_the_store_is_known(tmp_path):
    async with Rig(tmp_path) as rig:
        shipper = rig.collector.shipper
        rig.store_error = StoreError("away", retryable=True)
        rig.socket.hear(depth(1, 2))
        await rig.let(47)
        assert shipper.oldest_s() < 10
        await rig.let(100)
        assert 95 < shipper.oldest_s() < 110
        rig.store_error = None
        await rig.let(90)
        assert shipper.oldest_s() == 0
        assert sum(shipper.wait_counts) == shipper.uploaded > 1
        assert 100 < shipper.wait_s < 200 * shipper.uploaded


async def test_a_file_of_an_earlier_process_has_waited_since_its_hour_at_least(tmp_path):
    async with Rig(tmp_path) as rig:
        day_ago = SealedFile("x", "raw/v1/tokyo/spot/2025-10-08/08/ffffffff-1-1-0123456789abcdef.tape.zst", 1, "0" * 64)
        rig.store_error = StoreError("away", retryable=True)
        rig.collector.shipper.add(Market.SPOT, [day_ago])
        age_s = (rig.clock.wall_ns() - 1_759_914_000 * SECOND_NS) / SECOND_NS
        assert rig.collector.shipper.oldest_s() == pytest.approx(age_s)
        assert age_s > 86_000 - 3600


async def test_a_stop_does_not_wait_for_the_store_longer_than_told(tmp_path):
    async with Rig(tmp_path, "stop_seconds = 5") as rig:
        rig.socket.hear(depth(1, 2))
        await rig.let(1)
        rig.store_error = StoreError("away", retryable=True)
        began = rig.clock.now_ns
        rig.collector.stop("SIGTERM")
        while not rig.running.done():
            await rig.let(0.1)
        assert 5 <= (rig.clock.now_ns - began) / SECOND_NS < 7
    assert rig.journal.named("stopped") == [{"lines": 3, "not_uploaded": 1}]
    assert [path for path in rig.disk.list() if path.endswith(".zst")]


async def test_a_damaged_sealed_file_is_set_aside_and_never_uploaded(tmp_path):
    async with Rig(tmp_path) as rig:
        rig.store_error = CorruptionError("not what was sealed")
        rig.socket.hear(depth(1, 2))
        await rig.let(50)
        rig.store_error = None
        await rig.let(5)
        assert [path for path in rig.disk.list("spot/quarantine") if ".zst" in path]
        assert rig.journal.named("upload_damaged")
    assert depth(1, 2) not in await rig.frames()


async def test_a_full_disk_is_an_alarm_holds_lines_pauses_sockets_and_loses_nothing(tmp_path):
    frames = [depth(number, number).replace(b'"b":[]', b'"b":[["%b","1"]]' % (b"9" * 20_000)) for number in range(1, 121)]
    async with Rig(tmp_path, "queue_mebibytes = 1") as rig:
        rig.socket.hear(*frames[:10])
        await rig.let(2)
        rig.disk.full = True
        rig.socket.hear(*frames[10:20])
        await rig.let(2)
        assert [fields["level"] for fields in rig.journal.named("spool_alarm")] == [3]
        assert not rig.collector.paused
        rig.socket.hear(*frames[20:])
        await rig.let(2)
        assert rig.collector.paused
        assert rig.socket.calls[-1] == ("pause",)
        assert rig.journal.named("queue_full")
        (market,) = status(rig.collector)["markets"].values()
        assert market["spool_held_bytes"] > 1 << 20
        rig.disk.full = False
        await rig.let(5)
        assert not rig.collector.paused
        assert ("resume",) in rig.socket.calls
        assert rig.journal.named("spool_alarm_over")
        assert rig.journal.named("queue_drained")
        assert rig.spool.lost_count == 0
    assert await rig.frames() == frames
    (suspect,) = [control for control in await rig.controls("suspect") if control["reason"] == "queue full"]
    assert suspect["to_ns"] > suspect["from_ns"]


async def test_nothing_is_dialled_while_the_disk_refuses(tmp_path):
    async with Rig(tmp_path) as rig:
        rig.disk.full = True
        rig.socket.hear(depth(1, 2))
        await rig.let(2)
        rig.socket.listener.on_closed(None, "end of TCP")
        await rig.let(60)
        assert len(rig.dialer.attempts) == 1
        rig.disk.full = False
        await rig.let(5)
        assert len(rig.dialer.attempts) == 2


async def test_dials_that_fail_are_repeated_with_backoff_and_said_so(tmp_path):
    rig = Rig(tmp_path)
    rig.dialer.refuses = True
    async with rig:
        await rig.let(300)
        assert 8 < len(rig.dialer.attempts) < 40
        assert rig.journal.named("dial_failed")[0]["error"] == "connection refused"
        rig.dialer.refuses = False
        await rig.let(40)
        rig.socket.hear(depth(1, 2))
    assert await rig.frames() == [depth(1, 2)]


async def test_a_connection_that_ends_is_made_again_with_the_same_streams(tmp_path):
    async with Rig(tmp_path) as rig:
        rig.socket.hear(depth(1, 2))
        rig.socket.listener.on_closed(1006, "gone")
        await rig.let(3)
        assert len(rig.dialer.sockets) == 2
        rig.socket.hear(depth(9, 12))
        await rig.let(3)
    assert len({socket.url for socket in rig.dialer.sockets}) == 1
    assert [(control["reason"], control["code"]) for control in await rig.controls("close")] == [
        ("gone", 1006),
        ("test over", 1000),
    ]
    assert len(rig.rest.urls) == 2
    assert rig.journal.named("gap")[0] == {
        "connection": 2,
        "market": "spot",
        "stream": "btcusdt@depth@100ms",
        "after": 2,
        "next": 8,
        "across_connections": True,
    }


async def test_pings_are_answered_with_their_payload(tmp_path):
    async with Rig(tmp_path) as rig:
        rig.socket.listener.on_ping(b"1763769600000")
        assert ("pong", b"1763769600000") in rig.socket.calls


async def test_many_streams_are_subscribed_by_message_and_refusals_are_told(tmp_path):
    rig = Rig(tmp_path)
    symbols = [f"SYMBOL{number:05}USDT" for number in range(180)]
    text = json.dumps(symbols)
    rig.settings = parse_record_settings(f'collector = "tokyo"\nmarkets = [{{market = "spot", symbols = {text}}}]\n')
    rig.collector.settings = rig.settings
    rig.collector.markets[Market.SPOT].settings = rig.settings.markets[0]
    async with rig:
        sent = [json.loads(call[1]) for call in rig.socket.calls if call[0] == "send_text"]
        assert sum(len(message["params"]) for message in sent) == 180
        assert rig.socket.url.endswith("/stream")
        rig.socket.hear(b'{"error":{"code":2,"msg":"Invalid request"},"id":1}')
        await rig.let(1)
        assert rig.journal.named("subscribe_refused")


async def test_a_peer_that_does_not_close_is_cut_off_and_its_line_closed(tmp_path):
    async with Rig(tmp_path) as rig:
        rig.socket.hear(depth(1, 2))
        rig.socket.answers_close = False
        await rig.let(1)
    assert ("abort",) in rig.socket.calls
    assert [control["reason"] for control in await rig.controls("close")] == ["test over"]


async def test_a_socket_that_survives_even_that_does_not_hold_up_the_stop(tmp_path):
    async with Rig(tmp_path) as rig:
        rig.socket.hear(depth(1, 2))
        rig.socket.answers_close = False
        rig.socket.abort = lambda: None
        await rig.let(1)
    assert [control["final"] for control in await rig.controls("close")] == [True]


async def test_a_stop_while_dialling_ends_at_once(tmp_path):
    rig = Rig(tmp_path)
    rig.dialer.hangs = True
    async with rig:
        began = rig.clock.now_ns
        rig.collector.stop("SIGTERM")
        await rig.let(1)
        assert rig.running.done()
        assert rig.clock.now_ns - began <= SECOND_NS
    assert await rig.recorded() == []


async def test_a_snapshot_that_finds_no_connection_is_dropped_and_said_so(tmp_path):
    async with Rig(tmp_path) as rig:
        arrived = asyncio.Event()
        get = rig.rest.get

        async def slow(url, *, timeout_s):
            await arrived.wait()
            return await get(url, timeout_s=timeout_s)

        rig.rest.get = slow
        rig.socket.hear(depth(1, 2))
        await rig.let(1)
        rig.dialer.refuses = True
        rig.socket.listener.on_closed(None, "end of TCP")
        arrived.set()
        await rig.let(1)
        assert rig.journal.named("snapshot_homeless") == [{"symbol": "BTCUSDT"}]


class BrokenError(Exception):
    pass


async def test_an_error_in_a_callback_ends_the_run_with_it_and_what_was_heard_is_kept(tmp_path):
    async with Rig(tmp_path) as rig:
        rig.socket.hear(depth(1, 2))
        session = rig.socket.listener.session

        def broken(*_):
            raise BrokenError("frame")

        session.frame = broken
        rig.socket.listener.on_frame(2, b"\x00")
        assert isinstance(await rig.failure(), BrokenError)
    (path,) = rig.disk.list("spot/sealed")
    assert depth(1, 2) in [frame for _, _, frame in segment.lines_in_order(rig.disk.read(path))]


async def test_an_error_over_what_a_frame_means_ends_the_run_with_it_and_the_frame_is_kept(tmp_path):
    async with Rig(tmp_path) as rig:

        def broken(*_):
            raise BrokenError("meaning")

        rig.socket.listener.session._irregular = broken
        rig.socket.hear(depth(1, 2))
        rig.socket.hear(depth(3, 4))
        assert isinstance(await rig.failure(), BrokenError)
    (path,) = rig.disk.list("spot/sealed")
    recorded = [frame for _, _, frame in segment.lines_in_order(rig.disk.read(path))]
    assert [frame for frame in recorded if frame in (depth(1, 2), depth(3, 4))] == [depth(1, 2), depth(3, 4)]


async def test_an_error_in_a_ping_callback_ends_the_run_too(tmp_path):
    async with Rig(tmp_path) as rig:

        def broken(*_):
            raise BrokenError("ping")

        rig.socket.listener.session.ping = broken
        rig.socket.listener.on_ping(b"x")
        assert isinstance(await rig.failure(), BrokenError)


async def test_an_error_in_a_task_ends_the_run_with_it(tmp_path):
    async with Rig(tmp_path) as rig:
        rig.rest.error = BrokenError("rest")
        rig.socket.hear(depth(1, 2))
        assert isinstance(await rig.failure(), BrokenError)


async def test_a_writer_that_dies_ends_the_run_with_its_error(tmp_path):
    async with Rig(tmp_path) as rig:

        def broken(*_):
            raise BrokenError("write")

        rig.spool.write_all = broken
        rig.socket.hear(depth(1, 2))
        assert isinstance(await rig.failure(), BrokenError)


async def test_routine_notices_are_counted_always_and_logged_now_and_then(tmp_path):
    async with Rig(tmp_path) as rig:
        for _ in range(1500):
            rig.socket.hear(b"{}")
        await rig.let(1)
        assert rig.collector.counts["frame_of_no_stream"] == 1500
        assert len(rig.journal.named("frame_of_no_stream")) == 2


async def test_the_status_page_tells_the_state_and_prometheus_can_read_it(tmp_path):
    import aiohttp

    async with Rig(tmp_path) as rig, StatusServer(rig.collector, 0) as server, aiohttp.ClientSession() as http:
        rig.socket.hear(depth(1, 2))
        await rig.let(2)
        async with http.get(f"http://127.0.0.1:{server.port}/status") as answer:
            said = await answer.json()
        async with http.get(f"http://127.0.0.1:{server.port}/metrics") as answer:
            metrics = await answer.text()
    assert said == status(rig.collector) | said
    assert said["connections"][0]["frames"] == 1
    assert said["snapshots"]["answers"] == {"200": 1}
    for line in (
        'twintape_rest_answers_total{status="200"} 1.0',
        "twintape_connections 1.0",
        'twintape_events_total{event="connected"} 1.0',
    ):
        assert line in metrics


# --- clocks, disks and limits --------------------------------------------------------------------------------------------------

YEAR_S = 366 * 86400


def fresh(rig, number):
    """Return an event of now."""
    return depth(number, number).replace(b"1760000000000", b"%d" % (rig.clock.now_ns // 1_000_000 + 1760000000000))


@pytest.mark.parametrize("step_s", [YEAR_S, -YEAR_S, 3600])
async def test_a_wall_clock_that_jumps_loses_nothing_cuts_the_segment_and_forward_casts_suspicion(tmp_path, step_s):
    frames = []
    async with Rig(tmp_path) as rig:
        for number in range(1, 61):
            if number == 30:
                rig.clock.wall_offset_ns += step_s * SECOND_NS
            frames.append(fresh(rig, number))
            rig.socket.hear(frames[-1])
            await rig.let(1)
        assert rig.journal.named("clock_step")[0]["step_ns"] == pytest.approx(step_s * SECOND_NS, abs=2 * SECOND_NS)
        assert len(rig.dialer.sockets) == 1
    assert await rig.frames() == frames
    assert {index.date for index, _ in await rig.recorded()} == {"2025-10-09"}, "files follow the exchange's clock"
    assert "clock step" in [control["reason"] for control in await rig.controls("close")]
    suspects = [control for control in await rig.controls("suspect") if control["reason"] == "clock step or suspend"]
    assert len(suspects) == (step_s > 0)
    for suspect in suspects:
        assert suspect["to_ns"] - suspect["from_ns"] == pytest.approx(step_s * SECOND_NS, abs=3 * SECOND_NS)


@pytest.mark.parametrize("number", [errno.EROFS, errno.EIO, errno.EMFILE, errno.ENOSPC])
async def test_a_disk_that_refuses_for_a_minute_loses_nothing_and_lets_nobody_in(tmp_path, number):
    frames = []
    async with Rig(tmp_path) as rig:
        for count in range(1, 121):
            if count in (30, 90):
                rig.disk.number, rig.disk.full = number, count == 30
            if count == 60:
                rig.dialer.sockets[0].listener.on_closed(None, "end of TCP")
            socket = rig.socket
            if rig.collector.links:
                frames.append(fresh(rig, count))
                socket.hear(frames[-1])
            await rig.let(1)
            if 32 <= count < 90:
                assert rig.writer_alarm() == 3
                assert len(rig.dialer.sockets) == 1
        assert len(rig.dialer.sockets) == 2
        assert rig.writer_alarm() == 0
    assert await rig.frames() == frames
    assert len(frames) > 85


class StalledDisk(FlakyDisk):
    """A disk whose writes and syncs hang while `stalled`."""

    def __init__(self, root):
        super().__init__(root)
        self.moves = threading.Event()
        self.moves.set()

    def append(self, path):
        file = super().append(path)
        write, sync = file.write, file.sync
        file.write = lambda data: (self.moves.wait(60), write(data))[1]
        file.sync = lambda: (self.moves.wait(60), sync())[1]
        return file


async def test_pings_are_answered_at_once_while_the_disk_hangs_for_half_a_minute(tmp_path):
    disk = StalledDisk(tmp_path)
    rig = Rig(tmp_path, disk=disk, threaded=True)
    frames, waits_ns = [], []
    async with rig:
        disk.moves.clear()
        for second in range(30):
            frames.append(fresh(rig, second + 1))
            rig.socket.hear(frames[-1])
            payload = b"%d" % second
            asked_ns = rig.clock.now_ns
            rig.socket.listener.on_ping(payload)
            while ("pong", payload) not in rig.socket.calls:
                await rig.let(0.05)
            waits_ns.append(rig.clock.now_ns - asked_ns)
            await rig.let(1)
        assert max(waits_ns) <= SECOND_NS
        assert not any(line[0] == "disconnected" for line in rig.journal.entries)
        disk.moves.set()
        rig.collector.stop("test over")
        for _ in range(2000):
            if rig.running.done():
                break
            await rig.let(0.1)
            await asyncio.sleep(0.002)
    assert await rig.frames() == frames


async def test_a_change_of_connections_that_overlap_costs_no_snapshot(tmp_path):
    async with Rig(tmp_path, "rotate_hours = 0.05\nsnapshot_minutes = 0") as rig:
        for number in range(1, 600):
            frame = fresh(rig, number)
            for socket in rig.dialer.sockets:
                if ("close",) not in socket.calls:
                    socket.hear(frame)
            await rig.let(1)
        assert len(rig.dialer.sockets) >= 3
    assert len([url for url in rig.rest.urls if "/depth" in url]) == 1


async def test_no_connection_carries_more_streams_than_the_exchange_allows(tmp_path):
    symbols = ", ".join(f'"S{number}USDT"' for number in range(3000))
    settings = parse_record_settings(
        f'collector = "tokyo"\nstreams_per_connection = 1024\nmarkets = [{{market = "spot", symbols = [{symbols}]}}]'
    )
    rig = Rig(tmp_path)
    collector = Collector(
        settings,
        clock=rig.clock,
        dialer=rig.dialer,
        rest=rig.rest,
        spools={Market.SPOT: rig.spool},
        upload=rig.upload,
        draw=lambda: 0.5,
        journal=rig.journal,
        threaded=False,
    )
    collector._make_shards()
    assert max(len(shard.memories) for shard in collector.shards) <= 1024
    assert sum(len([memory for memory in shard.memories if memory.depth]) for shard in collector.shards) == 3000


# --- changes of connection -----------------------------------------------------------------------------------------------------


class Feed:
    """The same events to every open socket, ten a second, by the virtual clock."""

    def __init__(self, rig):
        self.rig = rig
        self.final = 0
        self.said = []
        self.closed = set()
        self.deaf = set()

    async def let(self, seconds, extra=()):
        for _ in range(round(seconds * 10)):
            self.final += 1
            event_ms = self.rig.clock.wall_ns() // 10**6
            data = f'{{"e":"depthUpdate","E":{event_ms},"s":"BTCUSDT","U":{self.final},"u":{self.final},"b":[],"a":[]}}'
            frame = f'{{"stream":"btcusdt@depth@100ms","data":{data}}}'.encode()
            self.said.append(frame)
            for socket in self.rig.dialer.sockets:
                if ("close",) not in socket.calls and socket not in self.closed | self.deaf:
                    socket.hear(frame, *extra)
            await self.rig.let(0.1)

    def cut(self, socket):
        self.closed.add(socket)
        socket.listener.on_closed(None, "end of TCP")


async def test_connections_are_replaced_at_their_age_and_everything_said_is_in_the_store(tmp_path):
    async with Rig(tmp_path, "rotate_hours = 0.02") as rig:
        feed = Feed(rig)
        await feed.let(180)
        assert 3 <= len(rig.dialer.sockets) <= 6
        assert rig.collector.shards[0].tally.handovers == {"overlapped": len(rig.dialer.sockets) - 1}
    assert set(await rig.frames()) == set(feed.said)
    assert "replaced: age" in {control["reason"] for control in await rig.controls("close")}
    assert rig.journal.named("gap") == []


async def test_with_two_connections_one_that_ends_costs_neither_an_event_nor_a_snapshot(tmp_path):
    async with Rig(tmp_path, "connections = 2") as rig:
        feed = Feed(rig)
        await feed.let(5)
        first, second = rig.dialer.sockets
        assert first.url == second.url
        feed.cut(first)
        await feed.let(5)
        feed.cut(second)
        await feed.let(5)
        assert len(rig.dialer.sockets) == 4
        assert len(rig.rest.urls) == 1
        assert rig.collector.shards[0].tally.reconnects.total() == 2
    heard = await rig.frames()
    assert set(heard) == set(feed.said)
    assert len(heard) > 1.5 * len(feed.said)  # both lines are kept
    assert rig.journal.named("gap") == []


async def test_a_snapshot_is_recorded_on_whichever_connection_is_there(tmp_path):
    async with Rig(tmp_path, "connections = 2") as rig:
        feed = Feed(rig)
        await rig.let(1)
        feed.cut(rig.dialer.sockets[0])
        rig.dialer.hangs = True
        await feed.let(3)
        assert rig.journal.named("snapshot_homeless") == []
    assert len(await rig.controls("snapshot")) == 1


async def test_a_connection_that_goes_deaf_is_suspected_in_the_recording_the_log_and_the_metrics(tmp_path):
    import aiohttp

    async with Rig(tmp_path) as rig, StatusServer(rig.collector, 0) as server, aiohttp.ClientSession() as http:
        feed = Feed(rig)
        await feed.let(120)
        feed.deaf.add(rig.socket)
        await rig.let(3)
        await rig.let(2)
        async with http.get(f"http://127.0.0.1:{server.port}/metrics") as answer:
            metrics = await answer.text()
        await feed.let(10)
        assert len(rig.dialer.sockets) == 2
    (silent,) = rig.journal.named("silent")
    assert 3 <= silent["seconds"] <= 5
    (opened, closed) = await rig.controls("suspect")
    assert (opened["to_ns"], opened["reason"]) == (None, "silent")
    assert closed["from_ns"] == opened["from_ns"] < closed["to_ns"]
    for line in (
        'twintape_suspects_total{market="spot",reason="silent"} 1.0',
        'twintape_streams_suspected{market="spot"} 0.0',  # the new connection is open, and nothing is known against it
        'twintape_connections_wanted{market="spot"} 1.0',
        'twintape_streams_steady{market="spot"} 1.0',
    ):
        assert line in metrics


async def test_a_sentinel_is_carried_by_every_connection_and_is_not_spliced(tmp_path):
    async with Rig(
        tmp_path, "streams_per_connection = 1", market=', streams = ["depth@100ms", "trade"], sentinel = "ethusdt@depth5@100ms"'
    ) as rig:
        assert all(socket.url.endswith("/ethusdt@depth5@100ms") for socket in rig.dialer.sockets)
        assert len(rig.dialer.sockets) == 2
        rig.socket.hear(b'{"stream":"ethusdt@depth5@100ms","data":{"lastUpdateId":5,"bids":[],"asks":[]}}')
        await rig.let(2)
    assert rig.rest.urls == []
    assert rig.journal.named("depth_without_ids") == []


async def test_shards_and_seats_of_a_collector_rotate_at_different_times(tmp_path):
    async with Rig(tmp_path, "streams_per_connection = 1\nconnections = 2", market=', streams = ["depth@100ms", "trade"]') as rig:
        phases = [seat.phase for shard in rig.collector.shards for seat in shard.seats]
    assert len(set(phases)) == 4


async def test_the_status_server_listens_on_loopback_only(tmp_path):
    async with Rig(tmp_path) as rig, StatusServer(rig.collector, 0) as server:
        _, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.close()
        await writer.wait_closed()
        with pytest.raises(OSError, match=r"."):
            await asyncio.open_connection("127.0.0.2", server.port)
