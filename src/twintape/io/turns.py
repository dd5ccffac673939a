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

TURN_S_MAX = 0.0125
"""How long a turn of a busy loop takes at most, from one look at its sockets to the next, unless its work takes longer: what this may add
to a receive time. What is left of a turn when all work is done is rest."""
FULL_PER_S = 20_000
"""From so many frames a second on turns take so long. With half as many they take a quarter: what a turn saves grows with the looks it spares
and with the frames each of them finds, what it costs is the same for every frame."""
BUSY_PER_S = 5000
"""From so many frames a second on the loop is busy."""
LATE_S = 0.005
"""A rest that took so much longer than asked shows that the machine is short of CPU: whoever rests then is the last to go on."""
JUDGE_S = 0.5
"""How often it is judged whether to rest."""


async def take_turns(heard: Callable[[], int]) -> None:
    """Have the event loop rest while it is busy, for ever; `heard` returns how many frames have been heard so far."""
    before, busy, turn_s = heard(), False, 0.0
    while True:
        looked_s = time.monotonic()
        until_s = looked_s + JUDGE_S
        while busy and looked_s < until_s:
            began_s = time.monotonic()
            rest_s = max(0.0, looked_s + turn_s - began_s)
            time.sleep(rest_s)  # noqa: ASYNC251 - that is the point: nothing else is to run in this thread
            looked_s = time.monotonic()
            busy = looked_s - began_s - rest_s < LATE_S
            await asyncio.sleep(0)
        await asyncio.sleep(max(0.0, until_s - time.monotonic()))
        count = heard()
        per_s, before = (count - before) / JUDGE_S, count
        busy, turn_s = per_s >= BUSY_PER_S, TURN_S_MAX * min(1.0, per_s / FULL_PER_S) ** 2
