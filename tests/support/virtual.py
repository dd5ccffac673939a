"""A clock whose time passes only while everybody waits for it."""

import asyncio
import heapq
import itertools

from twintape.io.ports import ClockQuality

SECOND_NS = 1_000_000_000
SETTLE_ROUNDS = 20


class VirtualClock:
    """Implements `ports.Clock`; `run` lets time pass. `wall_offset_ns` is the wall clock's lead over the monotonic one."""

    def __init__(self, wall_offset_ns=1_760_000_000 * SECOND_NS):
        self.now_ns = 0
        self.wall_offset_ns = wall_offset_ns
        self._order = itertools.count()
        self._sleepers = []

    def monotonic_ns(self):
        return self.now_ns

    def wall_ns(self):
        return self.now_ns + self.wall_offset_ns

    def quality(self):
        return ClockQuality(5, 1000, "virtual")

    async def sleep(self, seconds):
        woken = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self.now_ns + int(seconds * SECOND_NS), next(self._order), woken))
        await woken

    async def run(self, seconds):
        """Let so many seconds pass."""
        until_ns = self.now_ns + int(seconds * SECOND_NS)
        while True:
            for _ in range(SETTLE_ROUNDS):
                await asyncio.sleep(0)
            while self._sleepers and self._sleepers[0][2].done():
                heapq.heappop(self._sleepers)  # whoever slept there was cancelled
            if not self._sleepers or self._sleepers[0][0] > until_ns:
                self.now_ns = until_ns
                return
            self.now_ns, _, woken = heapq.heappop(self._sleepers)
            woken.set_result(None)
