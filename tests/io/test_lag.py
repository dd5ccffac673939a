import asyncio
import time

from twintape.core.histogram import Histogram
from twintape.io.clock import SystemClock
from twintape.io.lag import watch_loop


async def test_a_loop_that_was_held_up_is_seen_to_have_been_late():
    lags = Histogram()
    watching = asyncio.create_task(watch_loop(SystemClock(), lags))
    await asyncio.sleep(0.05)
    time.sleep(0.1)  # noqa: ASYNC251 - holding the loop up is the point
    await asyncio.sleep(0.05)
    watching.cancel()
    assert lags.count >= 3
    assert lags.max_ns >= 80_000_000
