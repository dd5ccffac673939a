"""Facts of a real machine, a real directory store and a real exchange on loopback; and what the command makes of them."""

import asyncio
import shutil
import socket
import subprocess
import sys

import pytest
from tests.io.test_collector import play, write_tape

from twintape.core.errors import StoreError
from twintape.core.preflight import Level, examine
from twintape.core.settings import parse_record_settings
from twintape.io import preflight
from twintape.io.clock import SystemClock
from twintape.io.dialer import PicowsDialer
from twintape.io.exchange import SimulatedExchange
from twintape.io.store import MemoryStore, open_store

DAY_NS = 86_400 * 10**9


def closed_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def settings(directory, port, store=None):
    text = f"""
collector = "tokyo"
store = "{store or f"file://{directory}/store"}"
spool = "{directory}/spool"
spool_gibibytes = 0.01
[[markets]]
market = "spot"
symbols = ["BTCUSDT"]
websocket = "ws://127.0.0.1:{port}"
"""
    return parse_record_settings(text)


async def gather(given, store=None):
    opener = open_store if store is None else lambda _: store
    return await preflight.gather(given, clock=SystemClock(), dialer=PicowsDialer(), open_store=opener)


async def test_a_machine_that_has_never_recorded_is_found_as_it_is_and_nothing_is_left_behind(tmp_path):
    write_tape(tmp_path / "tape", seconds=1)
    before = sorted(tmp_path.iterdir())
    async with SimulatedExchange(play(tmp_path / "tape")) as exchange:
        facts = await gather(settings(tmp_path, exchange.gateways[0].port))
    assert (facts.spool_collector, facts.store_error, facts.uploaded_ns, facts.bytes_per_hour) == (None, "", None, None)
    assert facts.exchange_errors == {}
    assert facts.descriptors > 0
    assert abs(facts.spool_free_bytes - shutil.disk_usage(tmp_path).free) < 1 << 30
    assert sorted(tmp_path.iterdir()) == before


async def test_an_exchange_that_cannot_be_reached_is_named(tmp_path):
    port = closed_port()
    facts = await gather(settings(tmp_path, port))
    assert list(facts.exchange_errors) == [f"127.0.0.1:{port}"]


async def test_a_spool_says_whose_it_is_and_a_broken_record_says_nothing(tmp_path):
    for market, text in (("coinm", "{"), ("spot", '["a"]'), ("usdm", '{"collector":"osaka"}')):
        (tmp_path / "spool" / market).mkdir(parents=True)
        (tmp_path / "spool" / market / "chain.json").write_text(text)
    assert (await gather(settings(tmp_path, closed_port()))).spool_collector == "osaka"


@pytest.mark.skipif(not hasattr(shutil.os, "geteuid") or shutil.os.geteuid() == 0, reason="root may write everywhere")
async def test_a_spool_that_cannot_be_written_is_found(tmp_path):
    (tmp_path / "spool").mkdir(mode=0o500)
    assert (await gather(settings(tmp_path, closed_port()))).spool_free_bytes is None


async def test_what_was_uploaded_in_the_last_day_is_measured(tmp_path):
    now_ns = SystemClock().wall_ns()
    times = iter([now_ns - 30 * 3600 * 10**9, now_ns - 10 * 3600 * 10**9, now_ns - 60 * 10**9])
    store = MemoryStore(wall_ns=lambda: next(times))
    for number, prefix in enumerate(preflight._recent(settings(tmp_path, 1), now_ns)[:1] * 3):
        await store.create(f"{prefix}00/{number}", b"x" * 1_000_000)
    facts = await gather(settings(tmp_path, closed_port(), "s3://x"), store)
    assert facts.bytes_per_hour == pytest.approx(200_000, rel=0.01)  # two of them, in ten hours
    assert facts.uploaded_ns == now_ns - 60 * 10**9


async def test_a_store_that_refuses_or_hangs_is_told_and_not_waited_for_long(tmp_path, monkeypatch):
    class Refusing(MemoryStore):
        async def list(self, prefix):
            raise StoreError(f"{prefix}: access denied")
            yield

    class Hanging(MemoryStore):
        async def list(self, prefix):
            await asyncio.sleep(600)
            yield

    given = settings(tmp_path, closed_port(), "s3://x")
    assert "access denied" in (await gather(given, Refusing())).store_error
    monkeypatch.setattr(preflight, "STORE_TIMEOUT_S", 0.05)
    assert "no answer" in (await gather(given, Hanging())).store_error


async def test_the_findings_of_a_real_machine_are_sentences(tmp_path):
    given = settings(tmp_path, closed_port())
    levels = {finding.level for finding in examine(given, await gather(given))}
    assert Level.PROBLEM in levels


def test_the_command_says_what_is_wrong_and_records_nothing(tmp_path):
    port = closed_port()
    other = tmp_path / "paris.toml"
    other.write_text(
        f'collector = "tokyo"\nstore = "file://{tmp_path}/store"\n[[markets]]\nmarket = "spot"\nsymbols = ["BTCUSDT"]\n'
    )
    words = ["BTCUSDT", "--collector", "tokyo", "--store", f"file://{tmp_path}/store", "--spool", f"{tmp_path}/spool"]
    command = [
        sys.executable,
        "-m",
        "twintape",
        "record",
        *words,
        "--websocket",
        f"ws://127.0.0.1:{port}",
        "--check",
        "--beside",
        str(other),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1, done.stderr
    assert f"problem  127.0.0.1:{port} cannot be reached" in done.stdout
    assert f"problem  this one and {other} are both called tokyo" in done.stdout
    assert "→ every collector needs a name of its own" in done.stdout
    assert list(tmp_path.iterdir()) == [other]
    assert done.stdout.index("ok ") < done.stdout.index("advice ") < done.stdout.index("problem ")
