"""The clock of this machine, and what its kernel says about how good it is.

Where chrony keeps it, chrony is asked instead, once a minute and outside of the event loop: it knows the offset that the kernel does not see.

Source: adjtimex(2), Linux man-pages 6.9: `struct timex`, `TIME_ERROR`, `STA_UNSYNC`, `STA_NANO`; chronyc(1), chrony 4: `tracking`
("System time": how much slow the clock is; the error is at most root dispersion + half of root delay), `-c` for 14 fields.
"""

from __future__ import annotations

import asyncio
import ctypes
import math
import shutil
import sys
import time
from contextlib import suppress

from twintape.io.ports import ClockQuality

__all__ = ["SystemClock", "chrony_quality", "quality_of", "watch_chrony"]

_STA_UNSYNC = 0x0040
_STA_NANO = 0x2000
_TIME_ERROR = 5
CHRONY_EVERY_S = 60.0
CHRONY_TIMEOUT_S = 5.0
CHRONY_VALID_NS = 150 * 1_000_000_000
"""What chrony said is not repeated longer than this after it has fallen silent."""
LOCAL_REFERENCE = "7F7F0101"
"""What a daemon with the directive `local` and without a server follows: its own clock, to which it is exact."""
UNKNOWN = ClockQuality(None, None, "none")


class _Timex(ctypes.Structure):
    _fields_ = [
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long),
        ("status", ctypes.c_int),
        ("constant", ctypes.c_long),
        ("precision", ctypes.c_long),
        ("tolerance", ctypes.c_long),
        ("time_s", ctypes.c_long),
        ("time_us", ctypes.c_long),
        ("tick", ctypes.c_long),
        ("ppsfreq", ctypes.c_long),
        ("jitter", ctypes.c_long),
        ("shift", ctypes.c_int),
        ("stabil", ctypes.c_long),
        ("jitcnt", ctypes.c_long),
        ("calcnt", ctypes.c_long),
        ("errcnt", ctypes.c_long),
        ("stbcnt", ctypes.c_long),
        ("tai", ctypes.c_int),
        ("reserved", ctypes.c_int * 11),
    ]


def quality_of(state: int, status: int, offset: int, maxerror_us: int) -> ClockQuality:
    """Return what an answer of `adjtimex` means.

    >>> quality_of(0, 0x2001, 1500, 2000)
    ClockQuality(offset_ns=1500, error_ns=2000000, source='adjtimex')
    >>> quality_of(5, 0x40, 0, 16000000).offset_ns is None
    True
    """
    if state < 0:
        return UNKNOWN
    if state == _TIME_ERROR or status & _STA_UNSYNC:
        return ClockQuality(None, None, "adjtimex: unsynchronised")
    return ClockQuality(offset if status & _STA_NANO else offset * 1000, maxerror_us * 1000, "adjtimex")


def chrony_quality(text: str) -> ClockQuality | None:
    """Return what a line of `chronyc -c tracking` means, or None if it is none.

    >>> chrony_quality("C0A80101,ntp,3,1763769600.5,0.000001234,0,0,-1.2,0,0.1,0.010000000,0.000500000,64.2,Normal")
    ClockQuality(offset_ns=1234, error_ns=5500000, source='chrony')
    >>> chrony_quality("00000000,,0,0.0,0.0,0,0,0,0,0,1.0,1.0,0,Not synchronised").source
    'chrony: unsynchronised'
    """
    fields = text.strip().split(",")
    if len(fields) < 14:
        return None
    if fields[13] == "Not synchronised":
        return ClockQuality(None, None, "chrony: unsynchronised")
    if fields[0] == LOCAL_REFERENCE:
        return ClockQuality(None, None, "chrony: follows itself")
    try:
        offset_s, delay_s, dispersion_s = float(fields[4]), float(fields[10]), float(fields[11])
    except ValueError:
        return None
    if not all(math.isfinite(value) and abs(value) < 1e9 for value in (offset_s, delay_s, dispersion_s)):
        return None
    return ClockQuality(round(offset_s * 1e9), round((abs(dispersion_s) + abs(delay_s) / 2) * 1e9), "chrony")


async def ask_chrony(program: str) -> ClockQuality | None:
    """Return what chrony says, or None if it says nothing in time."""
    try:
        process = await asyncio.create_subprocess_exec(
            program,
            "-c",
            "-n",
            "tracking",
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
    except OSError:
        return None
    try:
        async with asyncio.timeout(CHRONY_TIMEOUT_S):
            text, _ = await process.communicate()
    except TimeoutError:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        return None
    return chrony_quality(text.decode(errors="replace")) if process.returncode == 0 else None


async def watch_chrony(clock: SystemClock, program: str | None = None) -> None:
    """Ask chrony for ever, if it is installed."""
    found = program or shutil.which("chronyc")
    while found is not None:
        clock.heard_of(await ask_chrony(found))
        await clock.sleep(CHRONY_EVERY_S)


class SystemClock:
    """The real clock."""

    def __init__(self) -> None:
        self._chrony: ClockQuality | None = None
        self._chrony_ns = 0
        self._adjtimex = getattr(ctypes.CDLL(None), "adjtimex", None) if sys.platform == "linux" else None

    def wall_ns(self) -> int:
        """Return nanoseconds since 1970 (UTC)."""
        return time.time_ns()

    # Monotonic nanoseconds; this clock stands still while the machine sleeps. It is asked for every frame, hence no call in between.
    monotonic_ns = staticmethod(time.monotonic_ns)

    def heard_of(self, quality: ClockQuality | None) -> None:
        """Take what somebody who knows better than the kernel says of the clock now; None: nothing."""
        if quality is not None:
            self._chrony, self._chrony_ns = quality, self.monotonic_ns()

    def quality(self) -> ClockQuality:
        """Return chrony's estimate if there is a fresh one, else the kernel's; unknown where there is no `adjtimex`."""
        if self._chrony is not None and self.monotonic_ns() - self._chrony_ns < CHRONY_VALID_NS:
            return self._chrony
        if self._adjtimex is None:
            return UNKNOWN
        timex = _Timex()  # modes = 0: only ask
        state = self._adjtimex(ctypes.byref(timex))
        return quality_of(state, timex.status, timex.offset, timex.maxerror)

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        await asyncio.sleep(seconds)
