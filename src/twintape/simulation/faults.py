"""What goes wrong in a simulation, and who does it: kinds of fault, a random choice of them for each seed, and the saboteurs."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from enum import StrEnum

from twintape.core.errors import ConfigError
from twintape.core.gateway import Partition
from twintape.io.faults import Fault, Faults, FaultyStore
from twintape.simulation.exchange import Front
from twintape.simulation.machine import Machine
from twintape.simulation.world import DAY_NS, MachineClock, World

__all__ = ["Kind", "chosen", "damage_rates", "parse_kinds", "partition_of", "sabotage_all", "sabotage_machine", "store_rates"]

SECOND_NS = 1_000_000_000
SWARM_SHARE = 0.45
"""Each seed has so many of the kinds: faults that are always there hide each other."""
PAUSE_S = 12.0
"""About so much machine time passes between the faults of one machine."""
MIDNIGHT_SHARE = 0.4
"""So many blackouts are put where days meet: nothing else makes a gap between two proofs."""


class Kind(StrEnum):
    """What can go wrong."""

    KILL = "kill"
    """A collector is killed (SIGKILL) and comes back."""
    POWER = "power"
    """A machine loses power, at any moment or at a step of its disk."""
    RESTART = "restart"
    """A collector is stopped in order and comes back."""
    DISK = "disk"
    """Writes, syncs, renames fail for a while."""
    FULL = "full"
    """A disk is full for a while."""
    CLOCK = "clock"
    """A wall clock steps."""
    NETWORK = "network"
    """Connections are cut, stall, lose a stream, are told to go, or cannot be made."""
    BLACKOUT = "blackout"
    """No collector hears anything for a while: a true gap."""
    REST = "rest"
    """Snapshots are refused, late, or old."""
    RECUT = "recut"
    """A collector's front-end cuts events into other windows."""
    STORE = "store"
    """Requests fail, answers are lost, puts and deletes land hours later."""
    LISTING = "listing"
    """Listings omit, repeat, and show what was deleted."""
    DELETES = "deletes"
    """Deletes are answered and not done, or what was deleted is there again."""
    DAMAGE = "damage"
    """Objects are damaged on their way, in either direction."""
    AWAY = "away"
    """A collector's store is away, for minutes or for more than a day."""
    ROT = "rot"
    """A published output is not there, or not what it was, while a prune looks; later it is again."""
    WORKERS = "workers"
    """Mergers and pruners are killed."""


def parse_kinds(text: str) -> tuple[Kind, ...] | None:
    """Return the kinds a text names; None for `all`, which leaves the choice to each seed.

    >>> parse_kinds("kill,power"), parse_kinds("none"), parse_kinds("all")
    ((<Kind.KILL: 'kill'>, <Kind.POWER: 'power'>), (), None)

    Raises:
        ConfigError: There is no such kind.
    """
    if text == "all":
        return None
    try:
        return tuple(Kind(word) for word in text.split(",")) if text != "none" else ()
    except ValueError as error:
        raise ConfigError(f"not faults: {text!r} ({error})", hint="all, none, or some of " + ",".join(Kind)) from error


def chosen(kinds: Sequence[Kind] | None, rng: random.Random) -> frozenset[Kind]:
    """Return the kinds of one seed."""
    return frozenset(kind for kind in Kind if rng.random() < SWARM_SHARE) if kinds is None else frozenset(kinds)


def store_rates(kinds: Iterable[Kind]) -> dict[Fault, float]:
    """Return how often which fault of the store happens to a request."""
    rates: dict[Fault, float] = {}
    if Kind.STORE in kinds:
        ordinary = (Fault.UNAVAILABLE, Fault.SLOW_DOWN, Fault.TIMEOUT, Fault.LOST, Fault.LATE, Fault.CONFLICT, Fault.ECHO)
        rates |= dict.fromkeys(ordinary, 0.006)
    if Kind.LISTING in kinds:
        rates |= dict.fromkeys((Fault.OMITTED, Fault.REPEATED, Fault.GHOSTS), 0.2)
    if Kind.DELETES in kinds:
        rates |= dict.fromkeys((Fault.IGNORED, Fault.RESURRECTED), 0.1)
    return rates


def damage_rates(kinds: Iterable[Kind], rng: random.Random) -> dict[Fault, float]:
    """Draw how often bytes are damaged on their way: seldom enough, sometimes, that days without damage are among those with it."""
    rate = rng.choice((0.01, 0.001))
    return dict.fromkeys((Fault.DAMAGED, Fault.TRUNCATED, Fault.CORRUPT), rate) if Kind.DAMAGE in kinds else {}


def partition_of(kinds: Iterable[Kind], rng: random.Random) -> Partition:
    """Draw how a front-end cuts."""
    return rng.choice((Partition.IDENTICAL, Partition.SHIFTED, Partition.SPLIT)) if Kind.RECUT in kinds else Partition.IDENTICAL


async def sabotage_machine(
    world: World, machine: Machine, clock: MachineClock, store: FaultyStore, kinds: frozenset[Kind]
) -> None:
    """Do one thing after the other to a machine, for ever."""
    rng = world.random(f"saboteur {machine.name}")
    mine = sorted(
        kinds & {Kind.KILL, Kind.POWER, Kind.RESTART, Kind.DISK, Kind.FULL, Kind.CLOCK, Kind.NETWORK, Kind.REST, Kind.AWAY}
    )
    while mine:
        await world.sleep(rng.expovariate(1 / PAUSE_S))
        kind = rng.choice(mine)
        world.counts[f"fault {kind}"] += 1
        if kind in (Kind.NETWORK, Kind.REST):
            await _sabotage_front(world, machine.name, machine.front, kind, rng)
        elif kind is Kind.AWAY:
            await _take_store_away(world, machine.name, store, rng)
        elif kind in (Kind.DISK, Kind.FULL):
            await _sabotage_disk(world, machine, kind, rng)
        elif kind is Kind.CLOCK:
            clock.error_ns += int(rng.choice((-1, 1)) * _seconds(rng, 0.5, 5000.0) * SECOND_NS)
            world.tell(machine.name, f"the wall clock steps to {clock.error_ns / SECOND_NS:+.1f} s")
        elif kind is Kind.RESTART:
            world.tell(machine.name, "SIGTERM", count="restarts")
            await machine.restart()
        elif kind is Kind.POWER and rng.random() < 0.6:
            machine.die_at_step(rng.randrange(60))
        else:
            down_s = _seconds(rng, 0.5, 36.0)
            word = "loses power" if kind is Kind.POWER else "is killed"
            world.tell(machine.name, f"{word} and is down for {down_s:.1f} s of machine time", count="deaths")
            await machine.die(power=kind is Kind.POWER, down_s=down_s)


async def _sabotage_disk(world: World, machine: Machine, kind: Kind, rng: random.Random) -> None:
    lasts_s = _seconds(rng, 0.5, 25.0)
    if kind is Kind.DISK:
        rate = rng.choice((0.02, 0.3, 1.0))
        world.tell(machine.name, f"of the disk's steps {rate:.0%} fail, for {lasts_s:.1f} s of machine time")
        machine.break_disk(rate)
    else:
        free = rng.choice((0, 300, 25_000))
        world.tell(machine.name, f"the disk has {free} bytes left, for {lasts_s:.1f} s of machine time")
        machine.fill_disk(free)
    await world.sleep(lasts_s)
    machine.heal()


async def _take_store_away(world: World, name: str, store: FaultyStore, rng: random.Random) -> None:
    hours = _seconds(rng, 0.2, 40.0)
    world.tell(name, f"the store is away, for {hours:.1f} h")
    before, store.faults = store.faults, Faults(rates={Fault.UNAVAILABLE: 1.0})
    await world.sleep(hours * 3600 / world.pace)
    store.faults = before


async def _sabotage_front(world: World, name: str, front: Front, kind: Kind, rng: random.Random) -> None:
    lasts_s = _seconds(rng, 0.5, 25.0)
    if kind is Kind.REST:
        what = rng.choice(("503", "418", "old"))
        world.tell(name, f"snapshots are answered {what}, for {lasts_s:.1f} s of machine time")
        if what == "old":
            front.lag_ns = int(lasts_s * world.pace * SECOND_NS)
        else:
            front.status = int(what)
        await world.sleep(lasts_s)
        front.status = front.lag_ns = 0
        return
    what = rng.choice(("cut", "stall", "mute", "shutdown", "refused", "hangs"))
    world.tell(name, f"network: {what}, for {lasts_s:.1f} s of machine time", count=f"network {what}")
    if what in ("cut", "refused", "hangs"):
        front.refuses, front.hangs = what == "refused", what == "hangs"
        front.cut()
    elif what == "stall":
        front.stall()
    elif what == "mute":
        front.mute()
    else:
        front.shut_down()
    await world.sleep(lasts_s)
    front.refuses = front.hangs = False


async def sabotage_all(world: World, fronts: Sequence[Front], kinds: frozenset[Kind]) -> None:
    """Let nobody hear anything, now and then."""
    rng = world.random("blackouts")
    while Kind.BLACKOUT in kinds:
        await world.sleep(rng.expovariate(1 / (6 * PAUSE_S)))
        lasts_s = _seconds(rng, 0.5, 16.0)
        if rng.random() < MIDNIGHT_SHARE:
            away_ns = DAY_NS - (world.calendar_ns() - world.start_ns) % DAY_NS
            await world.sleep(away_ns / world.pace / SECOND_NS - rng.random() * lasts_s)
        world.tell("exchange", f"nobody is served, for {lasts_s:.1f} s of machine time", count="blackouts")
        for front in fronts:
            front.refuses = True
            front.cut()
        await world.sleep(lasts_s)
        for front in fronts:
            front.refuses = False


def _seconds(rng: random.Random, least: float, greatest: float) -> float:
    """Draw a duration: ten times as long is as likely."""
    return float(least * (greatest / least) ** rng.random())
