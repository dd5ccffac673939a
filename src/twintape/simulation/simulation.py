"""One simulation from one seed: collectors, store, nights and readers around a pretended exchange, and the oracle's verdict."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Coroutine, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from twintape.core import names
from twintape.core.manifest import PrunePolicy
from twintape.core.markets import Market
from twintape.core.settings import RecordSettings, parse_record_settings
from twintape.io.faults import Faults, FaultyStore
from twintape.io.ports import Store
from twintape.simulation.exchange import Exchange
from twintape.simulation.faults import (
    Kind,
    chosen,
    damage_rates,
    partition_of,
    sabotage_all,
    sabotage_machine,
    store_rates,
)
from twintape.simulation.loop import VirtualLoop, run
from twintape.simulation.machine import Machine
from twintape.simulation.nights import Merger, Pruner, Reader, Worker
from twintape.simulation.oracle import Oracle
from twintape.simulation.store import DistantStore
from twintape.simulation.world import DAY_NS, HOUR_NS, BrokenPromiseError, Calendar, Incident, MachineClock, World

__all__ = ["Report", "simulate"]

START_NS = 1_795_305_600_000_000_000
"""2026-11-22."""
PACE = 1_000
"""A day of the calendar takes a minute and a half of machine time."""
EVENTS_PER_DAY = 2_240
SYMBOLS = 3
COLLECTORS = ("frankfurt", "tokyo", "virginia")
STORE_ATTEMPTS = 3
"""How often a request is sent by itself, as object-store clients do."""
ROUNDS_MAX = 6
"""After so many nights without a fault, nothing may change any more."""


@dataclass(frozen=True, slots=True)
class Report:
    """What became of a seed.

    Attributes:
        seed: The seed.
        days: How many days were simulated.
        kinds: What went wrong.
        market: Which market was made up.
        digest: Of the trace; equal runs have equal ones.
        counts: How often what happened.
        events_by_day: How many depth events the exchange said on each day, of all symbols.
        story: What happened, in order.
        violation: The promise that was broken, or None.
    """

    seed: int
    days: int
    kinds: tuple[Kind, ...]
    market: Market
    digest: str
    counts: Mapping[str, int]
    events_by_day: Sequence[int]
    story: Sequence[Incident] = field(repr=False)
    violation: str | None


def simulate(seed: int, *, days: int = 2, kinds: Sequence[Kind] | None = None) -> Report:
    """Simulate so many days.

    Args:
        seed: Everything follows from it.
        days: How many days the exchange trades.
        kinds: What goes wrong; None leaves the choice to the seed.
    """
    gc.collect()  # the seed before leaves circles behind, and none are looked for while a loop runs
    loop = VirtualLoop()
    simulation = _Simulation(seed, days, kinds, loop)
    return simulation.summary(run(simulation.run(), loop))


class _Simulation:
    def __init__(self, seed: int, days: int, kinds: Sequence[Kind] | None, loop: VirtualLoop) -> None:
        self.world = world = World(seed, start_ns=START_NS, pace=PACE, loop=loop)
        rng = world.random("simulation")
        self.days = days
        self.kinds = chosen(kinds, rng)
        self.market = rng.choice((Market.SPOT, Market.SPOT, Market.USDM))
        self.exchange = Exchange(world, self.market, days=days, events_per_day=EVENTS_PER_DAY, symbols_count=SYMBOLS)
        self.oracle = Oracle(world, self.exchange.truth, self.market)
        self.calendar = Calendar(world)
        self.collectors = COLLECTORS[: rng.choice((2, 2, 2, 3))]
        self.rotate_hours = rng.choice((0.03, 0.1, 1.0))
        self.machines: list[Machine] = []
        self.clocks: dict[str, MachineClock] = {}
        self.stores: dict[str, FaultyStore] = {}
        self.damaging: list[FaultyStore] = []

    # --- who is there ----------------------------------------------------------------------------------------------------------

    def _store(self, name: str) -> Store:
        """Return a client's way to the store, with faults of its own."""
        world = self.world
        damaging = FaultyStore(
            self.oracle.store,
            clock=self.calendar,
            seed=world.random(f"damage {name}").getrandbits(32),
            faults=Faults(rates=damage_rates(self.kinds, world.random("damage")), where=_may_be_damaged),
        )
        faulty = FaultyStore(
            damaging,
            clock=self.calendar,
            seed=world.random(f"store {name}").getrandbits(32),
            faults=Faults(rates=store_rates(self.kinds)),
            attempts=STORE_ATTEMPTS,
        )
        self.damaging.append(damaging)
        self.stores[name] = faulty
        return DistantStore(world, faulty, world.random(f"way {name}"))

    def _settings(self, name: str) -> RecordSettings:
        symbols = ", ".join(f'"{info.symbol}"' for info in self.exchange.source.symbols)
        return parse_record_settings(
            f'collector = "{name}"\nsymbols_minutes = 0\nsnapshot_minutes = 1\nsnapshot_limit = 500\nstop_seconds = 60\n'
            f"queue_mebibytes = 1\nrotate_hours = {self.rotate_hours}\n"
            f'markets = [{{market = "{self.market}", symbols = [{symbols}], streams = ["depth@100ms"]}}]\n'
        )

    def _make_machine(self, name: str) -> Machine:
        world = self.world
        wall_start_ns = START_NS + (self.days + 2) * DAY_NS
        clock = self.clocks[name] = MachineClock(world, wall_start_ns=wall_start_ns, rng=world.random(f"clock {name}"))
        front = self.exchange.front(name, clock, partition_of(self.kinds, world.random(f"cut {name}")))
        return Machine(world, self._settings(name), front, clock, self._store(name))

    def _worker(self, kind: type[Worker], name: str, hour: float) -> Any:
        worker = kind(self.world, name, self.calendar, self._store(name), hour=hour)
        worker.kill_rate = 0.5 if Kind.WORKERS in self.kinds else 0.0
        return worker

    # --- what happens ----------------------------------------------------------------------------------------------------------

    async def run(self) -> str | None:
        """Let everything happen and judge it; return the promise that was broken, or None."""
        rng = self.world.random("casting")
        self.machines = [self._make_machine(name) for name in self.collectors]
        mergers = [self._worker(Merger, f"merger-{number}", 1.0) for number in range(1, rng.choice((2, 3)))]
        pruners = [self._worker(Pruner, f"pruner-{number}", rng.choice((1.5, 8.0))) for number in range(1, rng.choice((2, 3)))]
        self.oracle.grace_ns = grace_ns = rng.choice((2, 8)) * HOUR_NS
        for merger in mergers:
            merger.is_there = self.oracle.store.__contains__
        for pruner in pruners:
            pruner.policy = PrunePolicy(grace_ns, 2 * grace_ns)
            pruner.dawdle_s = rng.choice((0.0, 12.0, 80.0))
            if Kind.ROT in self.kinds:
                pruner.rotting = partial(self.oracle.rotting, self.world.random(f"rot {pruner.name}"))
        readers = [Reader(self.world, "reader", self.calendar, DistantStore(self.world, self.oracle.store, rng), hour=5.0)]
        readers[0].patience_ns = grace_ns * 3 // 4
        readers[0].rots = lambda: (self.oracle.store.rots, len(self.oracle.store.away))
        try:
            await self._trade([*mergers, *pruners, *readers])
            await self._rest(mergers[0], pruners[0])
            self._judge()
        except BrokenPromiseError as found:
            return str(found)
        return None

    def summary(self, violation: str | None) -> Report:
        """Return what became of it, when it is over."""
        try:
            if violation is None:
                self.oracle.check_books()
        except BrokenPromiseError as found:
            violation = str(found)
        if violation is not None:
            self.world.tell("ORACLE", violation)
        self.world.counts["events"] = self.exchange.truth.events
        return Report(
            self.world.seed,
            self.days,
            tuple(sorted(self.kinds)),
            self.market,
            self.world.digest,
            self.world.counts,
            self.exchange.truth.by_day(START_NS, self.days),
            self.world.story,
            violation,
        )

    async def _trade(self, workers: Sequence[Worker]) -> None:
        """Let the exchange trade, and everybody work and everything go wrong, until it closes."""
        world = self.world
        background: list[Coroutine[Any, Any, None]] = [worker.run(self.market) for worker in workers]
        background += [
            sabotage_machine(world, machine, self.clocks[machine.name], self.stores[machine.name], self.kinds)
            for machine in self.machines
        ]
        background.append(sabotage_all(world, self.exchange.fronts, self.kinds))
        self._lives = [asyncio.ensure_future(machine.run()) for machine in self.machines]
        tasks = [asyncio.ensure_future(work) for work in background]
        trading = asyncio.ensure_future(self.exchange.run())
        await _until(trading, [*tasks, *self._lives])
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)

    async def _rest(self, merger: Merger, pruner: Pruner) -> None:
        """End all faults, bring everything home, and let nights pass until nothing changes any more."""
        for front in self.exchange.fronts:
            front.refuses = front.hangs = False
            front.status = front.lag_ns = 0
        for machine in self.machines:
            machine.heal()
        pruner.rotting = nullcontext
        for store in [*self.stores.values(), *self.damaging]:
            store.faults = Faults()
        await _until(asyncio.gather(*(machine.finish() for machine in self.machines)), self._lives)
        await asyncio.wait(self._lives)
        for store in [*self.stores.values(), *self.damaging]:
            await store.land(all_of_them=True)
        self.world.tell("simulation", "all faults are over, everything is uploaded")
        for _ in range(ROUNDS_MAX):
            changed = await self._night(merger)
            await self.calendar.sleep(20 * 3600)
            deleted = self.world.counts["deleted"]
            await self._do(pruner, pruner.work(self.market))
            if not changed and self.world.counts["deleted"] == deleted:
                return
        raise BrokenPromiseError(f"after {ROUNDS_MAX} nights without a fault, merges and prunes still find something to do")

    async def _night(self, merger: Merger) -> bool:
        """Merge every date there is anything of; return whether that changed anything."""
        dates = {key.date for key in map(names.parse_raw_key, self.oracle.store.keys("raw/")) if key is not None}
        dates |= {key.date for key in map(names.parse_proof_key, self.oracle.store.keys("proof/")) if key is not None}
        changed = False

        async def merge(date: str) -> None:
            nonlocal changed
            changed |= await merger.merge(self.market, date)

        for date in sorted(dates):
            await self._do(merger, merge(date))
        return changed

    async def _do(self, worker: Worker, work: Coroutine[Any, Any, None]) -> None:
        if not await worker.attempt(lambda: work):
            raise BrokenPromiseError(f"{worker.name} failed although nothing is wrong any more: {self.world.story[-1].text}")

    def _judge(self) -> None:
        self.oracle.check_promises(
            {machine.name: machine.promised for machine in self.machines},
            {machine.name: machine.kept() for machine in self.machines},
        )
        self.oracle.check_archive()


def _may_be_damaged(_operation: str, key: str) -> bool:
    """Proofs and plans are not damaged: a slot that is taken by garbage needs an operator."""
    return not key.startswith(("proof/", "plan/", "receipt/"))


async def _until(main: asyncio.Future[Any], others: Sequence[asyncio.Future[Any]]) -> None:
    """Wait for the main thing; an error of any of them is raised at once."""
    waiting = {main, *others}
    while not main.done():
        done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            if not task.cancelled() and task.exception() is not None:
                raise task.exception() or AssertionError
    main.result()
