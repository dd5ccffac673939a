"""How late the event loop comes back to what is due: what a frame may have to wait before it gets its receive time."""

from __future__ import annotations

from twintape.core.histogram import Histogram
from twintape.io.ports import Clock

__all__ = ["PROBE_S", "watch_loop"]

PROBE_S = 0.01
"""A loop that is never late for longer than this is not noticed to be late more often than it is."""


async def watch_loop(clock: Clock, lags: Histogram) -> None:
    """Sleep again and again, for ever, and count by how much each sleep was too long; costs a hundred wake-ups a second."""
    while True:
        due_ns = clock.monotonic_ns() + int(PROBE_S * 1e9)
        await clock.sleep(PROBE_S)
        lags.add(clock.monotonic_ns() - due_ns)
