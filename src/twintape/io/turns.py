"""A busy event loop reads its sockets in turns.

A look at a socket costs as much as several frames, and while thousands of frames a second come on dozens of connections the loop looks at
one after each frame. A short rest between two looks lets frames gather, and other threads work; a frame gets its receive time up to
that much later. A loop that is not busy looks at once, as ever.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

__all__ = ["take_turns"]

REST_S_MAX = 0.005
"""How long a busy loop rests at most between two looks at its sockets: what this may add to a receive time."""
FULL_PER_S = 20_000
"""From so many frames a second on it rests so long, and below in proportion: CPU is short where much is heard."""
BUSY_PER_S = 5000
"""From so many frames a second on the loop is busy."""
LATE_S = 0.01
"""A rest that took so long shows that the machine is short of CPU: whoever rests then is the last to go on."""
JUDGE_S = 0.5
"""How often it is judged whether to rest."""


async def take_turns(heard: Callable[[], int]) -> None:
    """Have the event loop rest while it is busy, for ever; `heard` returns how many frames have been heard so far."""
    before, busy, rest_s = heard(), False, 0.0
    while True:
        until_s = time.monotonic() + JUDGE_S
        while busy and (began_s := time.monotonic()) < until_s:
            time.sleep(rest_s)  # noqa: ASYNC251 - that is the point: nothing else is to run in this thread
            busy = time.monotonic() - began_s < LATE_S
            await asyncio.sleep(0)
        await asyncio.sleep(max(0.0, until_s - time.monotonic()))
        count = heard()
        per_s, before = (count - before) / JUDGE_S, count
        busy, rest_s = per_s >= BUSY_PER_S, REST_S_MAX * min(1.0, per_s / FULL_PER_S)
