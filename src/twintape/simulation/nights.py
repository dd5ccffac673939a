"""Who works in the store at night: mergers, pruners and readers, each a run of what ships, each killed now and then."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar

from twintape.core.errors import CorruptionError, NotFoundError, TwintapeError
from twintape.core.manifest import PrunePolicy
from twintape.core.markets import Market
from twintape.core.names import parse_proof_key
from twintape.io.catalog import find_head
from twintape.io.merge import MergeRun, merge_date
from twintape.io.nightly import due_dates
from twintape.io.ports import Clock, Store
from twintape.io.prune import PruneRun, execute_prune, plan_prune
from twintape.io.verify import verify_published
from twintape.simulation.disk import Volume
from twintape.simulation.world import DAY_NS, HOUR_NS, BrokenPromiseError, World

__all__ = ["Merger", "Pruner", "Reader", "Worker"]

T = TypeVar("T")

ROUNDS_MAX = 3
"""How often a worker that failed tries again in one night."""
LIFE_S_MAX = 6.0
"""How long at most a worker lives that is killed, in machine time; mostly much less, because most of its work is done within a second."""
READINGS = 3
"""How many days a reader reads in a night."""
COMPUTE_S = (0.001, 0.3)
"""How long a day's computation takes, in machine time."""


class _SlowExecutor:
    """Computes here, after a while; `ports.Executor`."""

    def __init__(self, world: World, rng: random.Random) -> None:
        self._world = world
        self._rng = rng

    async def run(self, function: Callable[..., T], *arguments: Any) -> T:
        await self._world.sleep(self._rng.uniform(*COMPUTE_S))
        return function(*arguments)

    def close(self) -> None:
        """Do nothing; there are no workers."""


class Worker:
    """Somebody who does a job once a night and may be killed at it.

    Args:
        world: Seed, time and trace.
        name: Its name in the story.
        clock: The calendar.
        store: Its way to the store.
        hour: At about which hour of the calendar it begins.

    Attributes:
        kill_rate: How often it is killed in a night's work, 0 to 1.
    """

    def __init__(self, world: World, name: str, clock: Clock, store: Store, *, hour: float) -> None:
        self.name = name
        self.kill_rate = 0.0
        self._world = world
        self._clock = clock
        self._store = store
        self._hour = hour
        self._rng = world.random(f"worker {name}")

    async def run(self, market: Market) -> None:
        """Work every night."""
        night_ns = self._world.start_ns
        while True:
            night_ns += DAY_NS
            await self._world.sleep_until(night_ns + int((self._hour + self._rng.uniform(0, 3)) * HOUR_NS))
            await self._night(market)

    async def _night(self, market: Market) -> None:
        for _ in range(ROUNDS_MAX):
            lives_s = LIFE_S_MAX * self._rng.random() ** 4 if self._rng.random() < self.kill_rate else None
            if await self.attempt(lambda: self.work(market), lives_s):
                return
            await self._world.sleep(self._rng.uniform(0.5, 10.0))

    async def attempt(self, work: Callable[[], Awaitable[None]], lives_s: float | None = None) -> bool:
        """Do a piece of work, killed after `lives_s` seconds; return whether it came to its end."""
        task = asyncio.ensure_future(work())
        try:
            done, _ = await asyncio.wait({task}, timeout=lives_s)
        finally:
            task.cancel()
        if not done:
            await asyncio.wait({task})
            self._world.tell(self.name, "killed", count=f"{type(self).__name__.lower()} kills")
            return False
        error = task.exception()
        if error is None:
            return True
        if isinstance(error, BrokenPromiseError):
            raise error
        if not isinstance(error, TwintapeError):
            raise BrokenPromiseError(f"{self.name} died of {type(error).__name__}: {error}") from error
        self._world.tell(self.name, f"failed: {error}"[:300], count=f"{type(self).__name__.lower()} failures")
        return False

    async def work(self, market: Market) -> None:
        """Do one night's work."""
        raise NotImplementedError

    def draw_id(self) -> str:
        """Return 16 fresh hex digits."""
        return f"{self._rng.getrandbits(64):016x}"


class Merger(Worker):
    """Merges every date that is due.

    Attributes:
        is_there: Whether an object truly is in the store; the caller's to set.
    """

    is_there: Callable[[str], bool]

    async def work(self, market: Market) -> None:
        """Merge what is due."""
        for date in await due_dates(self._store, market, self._clock.wall_ns()):
            await self.merge(market, date)

    async def merge(self, market: Market, date: str) -> bool:
        """Merge one date; return whether anything new was published."""
        run = MergeRun(
            store=self._store,
            clock=self._clock,
            scratch=Volume(self._rng).open(),
            executor=_SlowExecutor(self._world, self._rng),
            draw_id=self.draw_id,
            version="simulation",
            jobs=2,
        )
        outcomes = await merge_date(run, market, date)
        for outcome in outcomes:
            if outcome.error:
                self._world.tell(self.name, f"{outcome.symbol} {outcome.date} was not merged: {outcome.error}"[:300])
            elif outcome.fresh:
                if outcome.proof_key is None or not self.is_there(outcome.proof_key):
                    raise BrokenPromiseError(f"{self.name} says it has published {outcome.proof_key}, and nobody has")
                text = f"published {outcome.symbol} {outcome.stream} {outcome.date} g{outcome.generation}: {outcome.status}"
                self._world.tell(self.name, text, count=f"published {outcome.status}")
                self._world.counts["later generations"] += outcome.generation > 1
        return any(outcome.fresh for outcome in outcomes)


class Pruner(Worker):
    """Deletes what is proven, some time after having found out what that is.

    Attributes:
        policy: The graces; the caller's to change.
        dawdle_s: How long it may sleep between plan and deletion, in machine time.
        rotting: While it plans, an output of the head that this gives is not what its proof says; the caller's to change.
    """

    policy = PrunePolicy(grace_ns=8 * HOUR_NS, gapped_grace_ns=16 * HOUR_NS)
    dawdle_s = 0.0
    rotting: Callable[[], AbstractContextManager[str | None]] = nullcontext

    async def work(self, market: Market) -> None:
        """Plan and execute."""
        run = PruneRun(self._store, self.draw_id, self.policy)
        with self.rotting() as rotten:
            plan = await plan_prune(run, [market])
        for deletion in plan.delete:
            if rotten in deletion.proofs:
                raise BrokenPromiseError(
                    f"{self.name} would delete {deletion.key} for {rotten}, an output of which was gone or damaged"
                )
        await self._world.sleep(self._rng.uniform(0.0, self.dawdle_s))
        report = await execute_prune(run, plan)
        self._world.tell(self.name, f"deleted {len(report.deleted)} of {len(plan.delete)}, kept {len(plan.kept)}", count="prunes")
        self._world.counts["deleted"] += len(report.deleted)


class Reader(Worker):
    """Reads random published days, slowly, and never sees one that is not whole.

    Attributes:
        patience_ns: How long it may hold on to a proof before it reads the outputs, by the calendar; less than the pruners' grace.
        rots: How often an output has become or ceased to be other than its proof says, by nobody's fault, and how many are; the caller's to set.
    """

    patience_ns = HOUR_NS
    rots: Callable[[], tuple[int, int]]

    async def work(self, market: Market) -> None:
        """Read some days, one after the other."""
        for _ in range(READINGS):
            await self._read(market)

    async def _read(self, market: Market) -> None:
        keys = [info.key async for info in self._store.list(f"proof/market={market}/")]
        if not keys:
            return
        key = parse_proof_key(self._rng.choice(sorted(keys)))
        assert key is not None, "only proofs are listed under proof/"
        head = await find_head(self._store, market, key.symbol, key.stream, key.date)
        if head is None:
            raise BrokenPromiseError(f"{self.name}: {key.symbol} {key.date} had a proof and has none any more")
        await self._clock.sleep(self._rng.uniform(0, self.patience_ns / 1e9))
        rots = self.rots()
        try:
            await verify_published(self._store, head.proof)
        except (CorruptionError, NotFoundError) as error:
            if rots[1] or rots != self.rots():
                return
            raise BrokenPromiseError(f"{self.name} saw a torn archive: {head.key}: {error}") from error
        self._world.counts["days read"] += 1
