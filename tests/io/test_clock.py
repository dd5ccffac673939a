import sys
import time

import pytest

from twintape.io.clock import UNKNOWN, SystemClock, quality_of
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
