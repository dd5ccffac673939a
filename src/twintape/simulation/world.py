"""What everybody in a simulation shares: the seed, the time, and the trace of what happened.

There are two times. *Machine time* is the virtual loop's: timers, latencies, connections and machines live in it. The *calendar* is the
exchange's, the store's and the nights', and runs `pace` times as fast: event times, dates and graces are by the calendar. So a day of a
few thousand events takes a few minutes of machine time, and every timer that ships keeps the value it ships with.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime

from twintape.io.ports import ClockQuality
from twintape.simulation.loop import VirtualLoop

__all__ = ["DAY_NS", "HOUR_NS", "BrokenPromiseError", "Calendar", "Incident", "MachineClock", "World"]

SECOND_NS = 1_000_000_000
HOUR_NS = 3_600 * SECOND_NS
DAY_NS = 24 * HOUR_NS
CLOCK_ERROR_NS = 2_000_000


class BrokenPromiseError(AssertionError):
    """The system broke a promise: the text says which, of what, and how the oracle knows."""


@dataclass(frozen=True, slots=True)
class Incident:
    """One line of the story: when by the calendar, who, what."""

    calendar_ns: int
    actor: str
    text: str

    def __str__(self) -> str:
        moment = datetime.fromtimestamp(self.calendar_ns // SECOND_NS, UTC)
        return f"{moment:%Y-%m-%d %H:%M:%S}  {self.actor:<12} {self.text}"


class World:
    """The seed, the time and the trace.

    Args:
        seed: Everything follows from it.
        start_ns: The calendar at the beginning.
        pace: Calendar seconds in a machine second.
        loop: Where time passes.

    Attributes:
        loop: Where time passes.
        story: What a person wants to read, in order.
        counts: How often what happened.
    """

    def __init__(self, seed: int, *, start_ns: int, pace: int, loop: VirtualLoop) -> None:
        self.seed = seed
        self.loop = loop
        self.start_ns = start_ns
        self.pace = pace
        self.story: list[Incident] = []
        self.counts: Counter[str] = Counter()
        self._digest = hashlib.sha256()

    def random(self, name: str) -> random.Random:
        """Return a generator of its own for one purpose."""
        return random.Random(f"{self.seed} {name}")  # noqa: S311 - a simulation, which has to be repeatable

    def now_ns(self) -> int:
        """Return machine time."""
        return round(self.loop.now_s * SECOND_NS)

    def calendar_ns(self) -> int:
        """Return the calendar's time."""
        return self.start_ns + self.now_ns() * self.pace

    async def sleep(self, seconds: float) -> None:
        """Wait for so many seconds of machine time."""
        await asyncio.sleep(max(seconds, 0.0))

    async def sleep_until(self, calendar_ns: int) -> None:
        """Wait for a moment of the calendar."""
        await self.sleep((calendar_ns - self.calendar_ns()) / self.pace / SECOND_NS)

    def note(self, actor: str, text: str) -> None:
        """Put something into the trace."""
        self._digest.update(f"{self.now_ns()} {actor} {text}\n".encode())

    def tell(self, actor: str, text: str, *, count: str | None = None) -> None:
        """Put something into the trace and the story."""
        self.note(actor, text)
        self.story.append(Incident(self.calendar_ns(), actor, text))
        if count is not None:
            self.counts[count] += 1

    @property
    def digest(self) -> str:
        """The trace in 16 hex digits: equal runs have equal ones."""
        return self._digest.hexdigest()[:16]


class Calendar:
    """The calendar as a clock: `ports.Clock` of the store and the nights."""

    def __init__(self, world: World) -> None:
        self._world = world

    def wall_ns(self) -> int:
        """Return the calendar's time."""
        return self._world.calendar_ns()

    def monotonic_ns(self) -> int:
        """Return the calendar's time, which never steps."""
        return self._world.calendar_ns()

    def quality(self) -> ClockQuality:
        """Say that it is right."""
        return ClockQuality(0, CLOCK_ERROR_NS, "simulation")

    async def sleep(self, seconds: float) -> None:
        """Wait for so many seconds of the calendar."""
        await self._world.sleep(seconds / self._world.pace)


class MachineClock:
    """One machine's clock, whose wall time may be wrong and step: `ports.Clock`.

    Args:
        world: The time.
        wall_start_ns: Its wall time at machine time 0.
        rng: For the delays of a busy machine.

    Attributes:
        error_ns: Its wall clock's lead over the truth; the caller's to change.
    """

    def __init__(self, world: World, *, wall_start_ns: int, rng: random.Random) -> None:
        self.error_ns = 0
        self._world = world
        self._wall_start_ns = wall_start_ns
        self._rng = rng

    def wall_ns(self) -> int:
        """Return what the machine's wall clock shows."""
        return self._wall_start_ns + self._world.now_ns() + self.error_ns

    def monotonic_ns(self) -> int:
        """Return machine time."""
        return self._world.now_ns()

    def quality(self) -> ClockQuality:
        """Say what is known of the wall clock."""
        return ClockQuality(-self.error_ns, CLOCK_ERROR_NS, "simulation")

    async def sleep(self, seconds: float) -> None:
        """Wait so long, and for the scheduler."""
        await self._world.sleep(seconds + self._rng.random() * 0.002)
