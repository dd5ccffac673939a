"""The clock of this machine, and what its kernel says about how good it is.

Source: adjtimex(2), Linux man-pages 6.9: `struct timex`, `TIME_ERROR`, `STA_UNSYNC`, `STA_NANO`.
"""

from __future__ import annotations

import asyncio
import ctypes
import sys
import time

from twintape.io.ports import ClockQuality

__all__ = ["SystemClock", "quality_of"]

_STA_UNSYNC = 0x0040
_STA_NANO = 0x2000
_TIME_ERROR = 5
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


class SystemClock:
    """The real clock."""

    def __init__(self) -> None:
        self._adjtimex = getattr(ctypes.CDLL(None), "adjtimex", None) if sys.platform == "linux" else None

    def wall_ns(self) -> int:
        """Return nanoseconds since 1970 (UTC)."""
        return time.time_ns()

    def monotonic_ns(self) -> int:
        """Return monotonic nanoseconds; the clock stands still while the machine sleeps."""
        return time.monotonic_ns()

    def quality(self) -> ClockQuality:
        """Return the kernel's estimate; unknown where there is no `adjtimex`."""
        if self._adjtimex is None:
            return UNKNOWN
        timex = _Timex()  # modes = 0: only ask
        state = self._adjtimex(ctypes.byref(timex))
        return quality_of(state, timex.status, timex.offset, timex.maxerror)

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        await asyncio.sleep(seconds)
