"""One collector's machine: the collector that ships, on a disk, a clock, a network and a store that are simulated, and its deaths.

The witness is told by the spool what it has made durable and reads it from the disk at that moment: these lines are *promised*, and nothing
that happens later may lose them.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Mapping
from typing import Any

from twintape.core.errors import TwintapeError
from twintape.core.markets import Market
from twintape.core.settings import RecordSettings
from twintape.io.collector import Collector
from twintape.io.ports import Store
from twintape.io.shelf import SealedFile
from twintape.io.spool import Spool, SpoolLimits
from twintape.io.upload import upload_one
from twintape.simulation.disk import Crash, DiskFault, Volume
from twintape.simulation.exchange import Front
from twintape.simulation.world import BrokenPromiseError, MachineClock, World

__all__ = ["Machine"]

LIMITS = SpoolLimits(reserve_size=20_000, held_size=200_000)
RESTART_S = (0.5, 3.0)
STOP_WAIT_S = 60.0
SETTLED_S = 5.0
SYNC_LINE = b'{"stream":"!twintape@sync",'


class Machine:
    """A machine that starts its collector again whenever it has ended.

    Args:
        world: Seed, time and trace.
        settings: What to record; the collector's name is the machine's.
        front: Its way to the exchange.
        clock: Its clock.
        store: Its way to the store.

    Attributes:
        volume: Its disk.
        promised: Every line that its spool said would survive, as `<receive_time_ns> <frame>`.
        error_rate: How often a step of the disk fails.
    """

    def __init__(self, world: World, settings: RecordSettings, front: Front, clock: MachineClock, store: Store) -> None:
        self.name = settings.collector
        self.front = front
        self.clock = clock
        self.volume = Volume(world.random(f"volume {self.name}"))
        self.volume.fault = self._fault
        self.promised: set[bytes] = set()
        self.error_rate = 0.0
        self._world = world
        self._settings = settings
        self._store = store
        self._rng = world.random(f"machine {self.name}")
        self._errors = world.random(f"disk {self.name}")
        self._market = settings.markets[0].market
        self._collector: Collector | None = None
        self._running: asyncio.Task[None] | None = None
        self._may_start = asyncio.Event()
        self._may_start.set()
        self._written: dict[str, int] = {}
        self._read: dict[str, int] = {}
        self._outlived: dict[
            str, set[bytes]
        ] = {}  # what a kill left unsynced, by file: a power loss may take it until it is sealed
        self._honest = True
        self._crash_in: int | None = None
        self._over = False

    # --- lives -----------------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Start the collector again and again, until `finish`."""
        while not self._over:
            await self._may_start.wait()
            try:
                running = self._start()
                await asyncio.wait({running})
                error = None if running.cancelled() else running.exception()
            except (Crash, OSError, TwintapeError) as failure:
                error = failure
            if isinstance(error, OSError | TwintapeError):
                self._world.tell(self.name, f"the collector ended: {error}", count="collector failures")
                if self._honest:
                    raise BrokenPromiseError(
                        f"{self.name}: the collector died although its disk has no fault: {error}"
                    ) from error
            elif error is not None and not isinstance(error, Crash):
                raise BrokenPromiseError(f"{self.name}: the collector died of {type(error).__name__}: {error}") from error
            self._running = self._collector = None
            self._hang_up()
            self.volume.kill()
            await self._world.sleep(self._rng.uniform(*RESTART_S))

    def _start(self) -> asyncio.Task[None]:
        rng = self._world.random(f"life {self.name} {self._world.now_ns()}")
        disk = self.volume.open()
        self._written, self._read = {}, {}
        spool = Spool(
            disk,
            collector=self.name,
            market=self._market,
            run=f"{rng.getrandbits(128):032x}",
            version="simulation",
            draw_chain_id=lambda: f"{rng.getrandbits(64):016x}",
            limits=LIMITS,
            acknowledge=self._acknowledge,
        )

        async def read(path: str) -> bytes:
            return disk.read(path)

        async def upload(sealed: SealedFile) -> None:
            await upload_one(self._store, sealed, read=read, sleep=self.clock.sleep, draw=rng.random, attempts=1)
            self._world.counts["uploads"] += 1

        spools: Mapping[Market, Spool] = {self._market: spool}
        self._collector = Collector(
            self._settings,
            clock=self.clock,
            dialer=self.front,
            rest=self.front,
            spools=spools,
            upload=upload,
            draw=rng.random,
            journal=_Journal(self._world, self.name),
            threaded=False,
        )
        self._running = asyncio.get_running_loop().create_task(self._collector.run())
        self._world.counts["collector lives"] += 1
        return self._running

    def _hang_up(self) -> None:
        for connection in list(self.front.connections):
            connection.forget()

    async def finish(self) -> None:
        """Heal everything, upload what there is, and end for good."""
        self.heal()
        collector = await self._settled()
        self._over = True
        collector.stop("the simulation is over")
        if self._running is not None:
            await asyncio.wait({self._running}, timeout=self._settings.stop_seconds + STOP_WAIT_S)

    async def _settled(self) -> Collector:
        """Wait for a collector that has run for a while: one that was told to stop before may still be ending."""
        while True:
            while not self._is_running():
                await self._world.sleep(0.5)
            await self._world.sleep(SETTLED_S)
            if self._collector is not None and self._is_running():
                return self._collector

    def _is_running(self) -> bool:
        return self._running is not None and not self._running.done()

    def heal(self) -> None:
        """End every fault of the machine."""
        self.error_rate = 0.0
        self.volume.capacity = 1 << 40
        self._crash_in = None
        self._may_start.set()

    # --- deaths ----------------------------------------------------------------------------------------------------------------

    async def die(self, *, power: bool, down_s: float) -> None:
        """Kill the collector, with the machine's power or without, and let it come back later."""
        self._may_start.clear()
        self._end(power=power)
        if self._running is not None:
            self._running.cancel()
        await self._world.sleep(down_s)
        self._may_start.set()

    def die_at_step(self, steps: int) -> None:
        """Cut the power so many steps of the disk from now."""
        self._crash_in = steps

    def _end(self, *, power: bool) -> None:
        if power:
            self._lose_power()
        else:
            if self._honest:  # a process that is killed loses nothing that it has written
                for path, offset in self._written.items():
                    self._outlived.setdefault(path, set()).update(self._promise(path, offset))
            self.volume.kill()
        self._hang_up()

    async def restart(self) -> None:
        """Stop the collector in order; it comes back at once."""
        if self._collector is not None:
            self._collector.stop("SIGTERM")

    # --- the disk --------------------------------------------------------------------------------------------------------------

    def break_disk(self, rate: float) -> None:
        """Let steps of the disk fail from now on."""
        self.error_rate, self._honest = rate, False

    def fill_disk(self, free: int) -> None:
        """Leave so many bytes on the disk."""
        self._honest = False
        self.volume.capacity -= self.volume.free_bytes() - free

    def _fault(self, step: str, path: str) -> DiskFault | None:
        if self._crash_in is not None:
            self._crash_in -= 1
            if self._crash_in < 0:
                self._crash_in = None
                self._world.tell(self.name, f"the power fails at {step} {path}", count="power losses")
                done = self._errors.choice((0.0, 0.5, 1.0))
                # The process is dead at once; what the step still does comes before the medium forgets.
                self.volume.kill()
                asyncio.get_running_loop().call_soon(self._after_crash)
                return DiskFault(Crash(), done)
        if self.error_rate and self._errors.random() < self.error_rate and step != "read":
            self._world.counts["disk errors"] += 1
            return DiskFault(OSError(errno.EIO, "Input/output error"), self._errors.choice((0.0, 0.5, 1.0)))
        return None

    def _lose_power(self) -> None:
        # What was only written is promised to survive a kill, not this; nor is it where the next life has not come to seal it yet.
        waiting = set(self.volume.list(f"{self._market}/active/"))
        for path in waiting & self._outlived.keys():
            self.promised -= self._outlived[path]
        self._outlived = {}
        self._written = {}
        self.volume.lose_power()

    def _after_crash(self) -> None:
        self._lose_power()
        self._hang_up()
        if self._running is not None:
            self._may_start.clear()
            self._running.cancel()
            asyncio.get_running_loop().call_later(self._rng.uniform(1.0, 12.0), self._may_start.set)

    # --- the witness -----------------------------------------------------------------------------------------------------------

    def _acknowledge(self, kind: str, path: str, offset: int) -> None:
        if kind == "synced":
            self._world.note(self.name, f"synced {path} {offset}")
            self._promise(path, offset)
        else:
            self._written[path] = offset

    def _promise(self, path: str, offset: int) -> set[bytes]:
        """Promise what the file holds up to `offset`; returns what had not been promised before."""
        try:
            content = self.volume.inode(path).cached
        except FileNotFoundError:
            return set()  # sealed by now, and so durable by other means
        start = self._read.get(path, 0)
        text = bytes(content[start:offset])
        lines = {
            line for line in text[: text.rfind(b"\n") + 1].split(b"\n")[:-1] if not line.partition(b" ")[2].startswith(SYNC_LINE)
        }
        lines -= self.promised
        self.promised |= lines
        self._read[path] = max(start, offset)
        return lines

    def kept(self) -> list[bytes]:
        """Return the sealed objects that are on the disk."""
        disk = self.volume.open()
        return [disk.read(path) for path in disk.list(f"{self._market}/sealed") if path.endswith(".zst")]


class _Journal:
    """Takes the collector's log lines into the trace."""

    def __init__(self, world: World, name: str) -> None:
        self._world = world
        self._name = name

    def _take(self, event: str, fields: Mapping[str, Any]) -> None:
        self._world.counts[event] += 1
        self._world.note(self._name, f"{event} {sorted(fields)}")

    def info(self, event: str, **fields: Any) -> None:
        self._take(event, fields)

    def warning(self, event: str, **fields: Any) -> None:
        self._take(event, fields)

    def error(self, event: str, **fields: Any) -> None:
        self._take(event, fields)
