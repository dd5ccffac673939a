"""Sealed files on their way to the store: oldest first, a few at a time, for as long as it takes.

A store that is away costs nothing but time: the files stay in the spool, and each comes back to the end of the queue after a growing pause
until the store has shown that it holds the bytes; only then is the spool told to let go of its copy.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

from twintape.core import names
from twintape.core.errors import CorruptionError, StoreError
from twintape.core.markets import Market
from twintape.io.ports import Clock
from twintape.io.spool import SealedFile

__all__ = ["Shipper"]

BACKOFF_BASE_S = 1.0
BACKOFF_MAX_S = 60.0
POLL_S = 0.05
WAIT_BOUNDS_S = (0.3, 1.0, 3.0, 10.0, 30.0, 60.0, 300.0, 3600.0)
"""Upper bounds of the counts of how long files waited."""
HOUR_NS = 3600 * 1_000_000_000


class Shipper:
    """Uploads what is sealed. The queue is bounded by how many files the spool names at once.

    Args:
        upload: Puts one sealed file into the store and returns when the store has shown that it has it.
        clock: The time, for pauses.
        draw: Returns a random number in [0, 1).
        on_confirmed: Takes `(market, file)` once the store has it.
        on_damaged: Takes `(market, file, detail)` of a file that is not what was sealed.
        on_notice: Takes `(name, details)`.

    Attributes:
        uploaded: Files the store has shown that it has; `uploaded_bytes` their sizes.
        failures: Attempts that failed.
        wait_counts: How many files waited from being handed over to being confirmed for at most each of `WAIT_BOUNDS_S`, and longer.
        wait_s: How long they waited together.
    """

    def __init__(
        self,
        upload: Callable[[SealedFile], Awaitable[None]],
        clock: Clock,
        *,
        draw: Callable[[], float],
        on_confirmed: Callable[[Market, SealedFile], None],
        on_damaged: Callable[[Market, SealedFile, str], None],
        on_notice: Callable[[str, Mapping[str, Any]], None],
    ) -> None:
        self.uploaded = 0
        self.uploaded_bytes = 0
        self.failures = 0
        self.wait_counts = [0] * (len(WAIT_BOUNDS_S) + 1)
        self.wait_s = 0.0
        self._since_ns: dict[tuple[Market, str], int] = {}
        self._upload = upload
        self._clock = clock
        self._draw = draw
        self._on_confirmed = on_confirmed
        self._on_damaged = on_damaged
        self._on_notice = on_notice
        self._queue: asyncio.Queue[tuple[Market, SealedFile]] = asyncio.Queue()
        self._active = 0
        self._failures_in_a_row = 0

    @property
    def waiting(self) -> int:
        """How many of the files handed over the store does not have yet."""
        return self._queue.qsize() + self._active

    def add(self, market: Market, files: Sequence[SealedFile]) -> None:
        """Take sealed files, oldest first."""
        now_ns = self._clock.wall_ns()
        for sealed in files:
            # What an earlier process left has waited at least since the end of the hour it is filed under.
            key = names.parse_raw_key(sealed.key)
            filed_ns = now_ns if key is None else _hour_end_ns(key.date, key.hour)
            self._since_ns[market, sealed.path] = min(now_ns, filed_ns)
            self._queue.put_nowait((market, sealed))

    def oldest_s(self) -> float:
        """Return how long the oldest file that the store does not have has been waiting; 0 without any. By the wall clock."""
        return max(0.0, (self._clock.wall_ns() - min(self._since_ns.values())) / 1e9) if self._since_ns else 0.0

    async def run(self) -> None:
        """Upload, for ever; several of these run at once."""
        while True:
            market, sealed = await self._queue.get()
            self._active += 1
            done = await self._ship(market, sealed)
            self._active -= 1
            if done:
                self._since_ns.pop((market, sealed.path), None)
            else:
                self._queue.put_nowait((market, sealed))

    async def drain(self, until_ns: int) -> None:
        """Wait until the store has everything handed over, or until that monotonic time."""
        while self.waiting and self._clock.monotonic_ns() < until_ns:
            await self._clock.sleep(POLL_S)

    async def _ship(self, market: Market, sealed: SealedFile) -> bool:
        """Return whether the file is out of our hands."""
        try:
            await self._upload(sealed)
        except CorruptionError as error:
            self._on_notice("upload_damaged", {"market": str(market), "path": sealed.path, "error": str(error)})
            self._on_damaged(market, sealed, str(error))
            return True
        except (StoreError, OSError) as error:
            self.failures += 1
            self._failures_in_a_row += 1
            self._on_notice("upload_failing", {"market": str(market), "key": sealed.key, "error": str(error)[:500]})
            pause_s = min(BACKOFF_MAX_S, BACKOFF_BASE_S * 2.0 ** min(self._failures_in_a_row - 1, 10))
            await self._clock.sleep(pause_s * (0.5 + 0.5 * self._draw()))
            return False
        if self._failures_in_a_row:
            self._failures_in_a_row = 0
            self._on_notice("upload_recovered", {"market": str(market)})
        self.uploaded += 1
        self.uploaded_bytes += sealed.size
        waited_s = max(0.0, (self._clock.wall_ns() - self._since_ns.get((market, sealed.path), 0)) / 1e9)
        self.wait_counts[bisect_left(WAIT_BOUNDS_S, waited_s)] += 1
        self.wait_s += waited_s
        self._on_confirmed(market, sealed)
        return True


def _hour_end_ns(date: str, hour: int) -> int:
    return int(datetime.fromisoformat(f"{date}T00:00:00+00:00").timestamp()) * 1_000_000_000 + (hour + 1) * HOUR_NS
