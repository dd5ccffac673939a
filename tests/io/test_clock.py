import asyncio
import contextlib
import os
import pwd
import shutil
import socket
import sys
import tempfile
import time
from pathlib import Path

import pytest

from twintape.io import clock as clock_module
from twintape.io.clock import UNKNOWN, SystemClock, ask_chrony, chrony_quality, quality_of, watch_chrony
from twintape.io.ports import ClockQuality


def test_wall_and_monotonic_time_are_the_system_s():
    clock = SystemClock()
    assert abs(clock.wall_ns() - time.time_ns()) < 10**9
    first = clock.monotonic_ns()
    assert clock.monotonic_ns() >= first


@pytest.mark.skipif(sys.platform != "linux", reason="adjtimex is Linux's")
def test_the_kernel_says_how_good_the_clock_is():
    quality = SystemClock().quality()
    assert quality.source.startswith("adjtimex")
    assert (quality.error_ns is None) == (quality.offset_ns is None)


@pytest.mark.parametrize(
    ("answer", "quality"),
    [
        ((0, 0x2001, -1500, 2000), ClockQuality(-1500, 2_000_000, "adjtimex")),
        ((0, 0x0001, 15, 2000), ClockQuality(15_000, 2_000_000, "adjtimex")),
        ((5, 0x0001, 0, 2000), ClockQuality(None, None, "adjtimex: unsynchronised")),
        ((0, 0x0040, 0, 16_000_000), ClockQuality(None, None, "adjtimex: unsynchronised")),
        ((-1, 0, 0, 0), UNKNOWN),
    ],
)
def test_an_answer_of_the_kernel_is_read_in_its_unit_and_unsynchronised_is_unknown(answer, quality):
    assert quality_of(*answer) == quality


def test_without_adjtimex_nothing_is_claimed():
    clock = SystemClock()
    clock._adjtimex = None
    assert clock.quality() == ClockQuality(None, None, "none")


async def test_sleep_waits():
    before = time.monotonic()
    await SystemClock().sleep(0.02)
    assert time.monotonic() - before >= 0.019


TRACKING = "C0A80101,ntp,3,1763769600.5,-0.000001234,0,0,-1.2,0,0.1,0.010000000,0.000500000,64.2,Normal"


@pytest.mark.parametrize(
    "text",
    ["", "506 Cannot talk to daemon", TRACKING.replace("-0.000001234", "x"), TRACKING.replace("-0.000001234", "nan"), "1,2,3"],
)
def test_what_is_no_answer_of_chrony_says_nothing(text):
    assert chrony_quality(text) is None


def script(tmp_path, text):
    path = tmp_path / "chronyc"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


async def test_chrony_is_asked_outside_of_the_loop_and_believed_while_it_is_fresh(tmp_path, monkeypatch):
    clock = SystemClock()
    task = asyncio.create_task(watch_chrony(clock, script(tmp_path, f"echo '{TRACKING}'")))
    for _ in range(500):
        if clock.quality().source == "chrony":
            break
        await asyncio.sleep(0.01)
    task.cancel()
    assert clock.quality() == ClockQuality(-1234, 5_500_000, "chrony")
    monkeypatch.setattr(clock_module, "CHRONY_VALID_NS", 0)
    assert clock.quality().source != "chrony"


@pytest.mark.parametrize("text", ["exec sleep 60", "exit 1", "echo nothing"])
async def test_a_chrony_that_hangs_or_fails_holds_nothing_up(tmp_path, monkeypatch, text):
    monkeypatch.setattr(clock_module, "CHRONY_TIMEOUT_S", 0.2)
    assert await clock_module.ask_chrony(script(tmp_path, text)) is None


async def test_without_chrony_there_is_nothing_to_watch(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    await asyncio.wait_for(watch_chrony(SystemClock()), 1)
    assert await clock_module.ask_chrony("/nowhere/chronyc") is None


@pytest.mark.parametrize(
    ("line", "quality"),
    [
        # chronyc 4.3, a clock that is a quarter of a second slow, and a server that follows nobody
        (
            "7F000001,127.0.0.1,2,1795363019.109054879,0.249998614,-0.000000145,0.000000160,0.076,-0.012,0.332,0.000006005,0.000001765,0.3,Normal",
            ClockQuality(249_998_614, 4768, "chrony"),
        ),
        (
            "7F7F0101,,1,1795363014.758814667,0.000000000,0.000000000,0.000000000,0.000,0.000,0.000,0.000000000,0.000000000,0.0,Normal",
            ClockQuality(None, None, "chrony: follows itself"),
        ),
    ],
)
def test_what_chrony_printed_is_read(line, quality):
    assert chrony_quality(line + "\n") == quality


# --- a real chrony, in the sandbox: it does not touch the clock, and its sockets are in a directory of the test

CHRONYD = shutil.which("chronyd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
CHRONYC = shutil.which("chronyc")


def free_udp_port():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.asynccontextmanager
async def chronyd(directory, name, *lines):
    """A daemon that only looks; yields a program that asks it as `chronyc` does."""
    (directory / f"{name}.conf").write_text(
        "\n".join([*lines, "cmdport 0", f"bindcmdaddress {directory}/{name}", f"pidfile {directory}/{name}.pid"])
    )
    user = pwd.getpwuid(os.geteuid()).pw_name
    process = await asyncio.create_subprocess_exec(
        CHRONYD, "-x", "-d", "-u", user, "-f", str(directory / f"{name}.conf"), stderr=asyncio.subprocess.DEVNULL
    )
    asks = directory / f"ask-{name}"
    asks.write_text(f'#!/bin/sh\nexec {CHRONYC} -h {directory}/{name} "$@"\n')
    asks.chmod(0o700)
    try:
        yield str(asks)
    finally:
        process.terminate()
        await process.wait()


@pytest.mark.skipif(CHRONYD is None or CHRONYC is None, reason="chrony is not installed")
async def test_a_real_chrony_says_how_far_the_clock_is_behind_and_when_it_follows_nobody():
    port = free_udp_port()
    with tempfile.TemporaryDirectory(prefix="chrony") as name:  # a socket's path is short, and its directory closed to others
        directory = Path(name)
        nobody = f"server 127.0.0.1 port {free_udp_port()} iburst"
        slow = f"server 127.0.0.1 port {port} iburst minpoll -2 maxpoll -2 offset 0.25"
        async with (
            chronyd(directory, "server", "local stratum 1", "allow 127.0.0.1", "bindaddress 127.0.0.1", f"port {port}"),
            chronyd(directory, "client", slow, "port 0"),
            chronyd(directory, "lonely", nobody, "port 0") as ask_lonely,
        ):
            quality = None
            for _ in range(100):
                quality = await ask_chrony(str(directory / "ask-client"))
                if quality is not None and quality.offset_ns is not None:
                    break
                await asyncio.sleep(0.1)
            assert quality is not None
            assert quality.source == "chrony"
            assert abs(quality.offset_ns - 250_000_000) < 5_000_000  # the clock is slow: true time is ahead of ours
            assert 0 < quality.error_ns < 100_000_000
            assert (await ask_chrony(ask_lonely)).source == "chrony: unsynchronised"
