"""Faults of every kind at seeded moments against the code that keeps connections, in virtual time, with every id accounted for.

    uv run python bench/faults.py --faults 1000 --seed 1

Worlds of 50 faults each: three streams (a beat, a slow one, a quiet one with silences of up to 43 s), connections that are replaced every few
minutes all the while, and an exchange that keeps account of what it sent while at least one connection was healthy. All of that must be recorded.
Every hole in the recording must lie in a gap that was declared and asked for a snapshot. Beside it the real snapshot fetcher meets
storms of 429, 418, 5xx and silence: no request may be sent while one is forbidden, and in the end no wish may be open (one that met a dozen refusals is given up; a collector's next checkpoint tries again).

A world is its seed: `--world SEED --connections N` plays a single one again.
"""

import argparse
import asyncio
import itertools
import random
import sys
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from support.network import S, World
from support.virtual import VirtualClock
from twintape.core.budget import ATTEMPT_LIMIT, WeightBudget
from twintape.core.markets import RULES, Market, depth_url, depth_weight
from twintape.core.sequence import coverage
from twintape.io.ports import RestAnswer
from twintape.io.rest import SnapshotFetcher, Wish

PER_WORLD = 50
SPACING_S = (5, 60)
ROTATE_S = 240
WARM_UP_S, CALM_S = 120, 1800
STEP_S = 1.0
STREAMS = [f"symbol{number}usdt@depth@100ms" for number in range(3)]


# --- faults of connections: each takes the world, a victim (a connection or None) and draws the rest


def cut_with(code):
    return lambda world, wire: world.cut(wire, code) if wire else None


def reset(world, wire):
    if wire:
        world.reset(wire)


def stall(_, wire, answers_pings=True):
    if wire:
        wire.stalled, wire.answers_pings = True, answers_pings


def half_open(world, wire):
    stall(world, wire, answers_pings=False)


def mute(world, wire):
    if wire:
        wire.muted.add(world.random.choice(world.streams))


def lag(world, wire):
    def grow(left):
        if wire.session in world.wires and left:
            wire.latency_ns += S // 4
            world.at(0.5, grow, left - 1)

    if wire:
        grow(40)


def shutdown(world, wire, raw=False):
    if wire:
        world.tell_shutdown(wire, raw=raw)
        world.at(world.random.choice([0, 0.2, 2, 30, 300, 600]), world.cut, wire, 1001)


def shutdown_raw(world, wire):
    shutdown(world, wire, raw=True)


def on_fresh(world, wire, do, seconds):
    """Have something happen to every connection that is opened within so long, beginning with the one that follows the victim."""
    until = world.now + int(seconds * S)
    world.on_open = lambda new: do(new) if world.now < until else None
    if wire:
        world.cut(wire)


def fresh_shutdown(world, wire):
    on_fresh(world, wire, world.tell_shutdown, world.random.uniform(5, 60))


def fresh_stall(world, wire):
    on_fresh(world, wire, lambda new: stall(world, new), world.random.uniform(1, 10))


def fresh_close(world, wire):
    on_fresh(world, wire, lambda new: world.cut(new, 1008), world.random.uniform(1, 20))


def refused(world, wire):
    until = world.now + int(world.random.uniform(2, 60) * S)
    world.refuses = lambda: world.now < until
    if wire:
        world.cut(wire)


def slow_tls(world, wire):
    until, usual = world.now + int(world.random.uniform(10, 60) * S), lambda: world.random.uniform(*world.dial_s)
    world.dial_time = lambda: world.random.uniform(1, 15) if world.now < until else usual()
    if wire:
        world.cut(wire)


FAULTS = {
    "fin": cut_with(None),
    "rst": reset,
    "close 1001": cut_with(1001),
    "close 1006": cut_with(1006),
    "close 1008": cut_with(1008),
    "stall": stall,
    "half-open": half_open,
    "mute": mute,
    "lag": lag,
    "shutdown": shutdown,
    "shutdown, raw": shutdown_raw,
    "shutdown, fresh": fresh_shutdown,
    "stall, fresh": fresh_stall,
    "close, fresh": fresh_close,
    "refused": refused,
    "slow TLS": slow_tls,
}


# --- faults of REST


class StormyRest:
    """Implements `ports.Rest`: snapshots of now, or whatever the storm of the moment answers; keeps account of what it has forbidden."""

    KINDS = ("429", "429, Retry-After", "418", "5xx", "silence")

    def __init__(self, world, clock):
        self.world, self.clock = world, clock
        self.kind, self.until_ns = "", 0
        self.forbidden_until_ns = 0
        self.disobeyed = 0
        self.answered = Counter()

    def storm(self, kind, seconds):
        self.kind, self.until_ns = kind, self.clock.now_ns + int(seconds * S)

    async def get(self, url, *, timeout_s):
        now_ns = self.clock.now_ns
        self.disobeyed += now_ns < self.forbidden_until_ns
        kind = self.kind if now_ns < self.until_ns else ""
        await self.clock.sleep(timeout_s if kind == "silence" else self.world.random.uniform(0.02, 0.5))
        self.answered[kind or "200"] += 1
        if kind == "silence":
            raise OSError("timed out")
        headers, status, forbidden_s = {"x-mbx-used-weight-1m": "100"}, 200, 0
        if kind.startswith("429"):
            status, forbidden_s = 429, 1
            if "Retry-After" in kind:
                forbidden_s = self.world.random.randrange(5, 120)
                headers["retry-after"] = str(forbidden_s)
        elif kind == "418":
            status, forbidden_s = 418, self.world.random.randrange(120, 300)
            headers["retry-after"] = str(forbidden_s)
        elif kind == "5xx":
            status = self.world.random.choice([500, 502, 503, 504])
        if forbidden_s:
            self.forbidden_until_ns = max(self.forbidden_until_ns, self.clock.now_ns + int(forbidden_s * S))
        stream = next(name for name in self.world.streams if name.partition("@")[0].upper() in url)
        body = b'{"lastUpdateId":%d,"bids":[],"asks":[]}' % self.world.ids[stream]
        return RestAnswer(status, headers, body if status == 200 else b"{}", self.clock.wall_ns(), self.clock.wall_ns())


# --- one world


@dataclass
class Outcome:
    """What one world came to; everything in `failures` is a broken promise."""

    seed: int
    seats: int
    injected: Counter = field(default_factory=Counter)
    said: int = 0
    to_nobody: int = 0
    holes: int = 0
    lost: int = 0
    gaps: int = 0
    rotations: int = 0
    connections: int = 0
    attempts_most: int = 0
    outages: list = field(default_factory=list)
    answers: Counter = field(default_factory=Counter)
    given_up: int = 0
    failures: list = field(default_factory=list)


def new_world(seed, seats):
    world = World(STREAMS, seed=seed, seats=seats, rotate_s=ROTATE_S, name=f"world{seed}/spot")
    draw = world.random
    world.speak(STREAMS[0], lambda: draw.uniform(0.08, 0.12))
    world.speak(STREAMS[1], lambda: 0.1 + draw.expovariate(1 / 2))
    world.speak(STREAMS[2], lambda: draw.choice([1, 3, draw.uniform(10, 43)]))
    return world


async def play(seed, seats, faults=PER_WORLD, kinds=tuple(FAULTS)):
    """Play one world to its end."""
    world, clock, plan = new_world(seed, seats), VirtualClock(), random.Random(seed ^ 0x5EED)
    outcome, notices = Outcome(seed, seats), Counter()
    rest = StormyRest(world, clock)
    pools = {RULES[Market.SPOT].weight_pool: WeightBudget(RULES[Market.SPOT].weight_per_minute)}
    fetcher = SnapshotFetcher(rest, clock, pools=pools, draw=plan.random, notice=lambda name, _: notices.update([name]))
    weight = depth_weight(Market.SPOT, 5000)

    def wish(action):
        url = depth_url(Market.SPOT, action.symbol, 5000, base="http://x")
        fetcher.ask(
            Wish(
                Market.SPOT,
                action.symbol,
                url,
                weight,
                action.reason,
                urgent=True,
                update_id=action.update_id,
                deliver=lambda _: None,
            )
        )

    world.snapshot_wanted = wish
    running = asyncio.create_task(fetcher.run(next(iter(pools))))

    async def let(seconds):
        for _ in range(max(1, round(seconds / STEP_S))):
            world.run(STEP_S)
            await clock.run(STEP_S)
            dark = not any(wire.alive and not wire.stalled for wire in world.wires.values())
            outcome.outages.append(dark)

    await let(WARM_UP_S)
    order = [kinds[number % len(kinds)] for number in range(faults)]
    plan.shuffle(order)
    for number, kind in enumerate(order):
        victims = sorted((wire for wire in world.wires.values() if wire.alive), key=lambda wire: wire.session.number)
        FAULTS[kind](world, plan.choice(victims) if victims else None)
        outcome.injected[kind] += 1
        if number % 5 == 0:
            rest.storm(StormyRest.KINDS[number // 5 % len(StormyRest.KINDS)], plan.uniform(10, 240))
        await let(plan.uniform(*SPACING_S))
    world.on_open, world.refuses = (lambda _: None), (lambda: False)
    await let(CALM_S)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    judge(world, rest, fetcher, notices, outcome)
    return outcome


def judge(world, rest, fetcher, notices, outcome):
    """Compare what was recorded with what was sent."""
    for stream in world.streams:
        heard, missed = coverage(world.heard[stream]), coverage(world.missed[stream])
        outcome.said += world.ids[stream]
        outcome.to_nobody += sum(end - start for start, end in missed)
        declared = {(n.details["after"], n.details["next"]) for _, _, n in world.named("gap") if n.details["stream"] == stream}
        outcome.gaps += len(declared)
        begin = heard[0][0]
        reached = coverage([*heard, *((max(start, begin), end) for start, end in missed if end > begin)])
        outcome.lost += sum(after[0] - before[1] for before, after in itertools.pairwise(reached))
        holes = {(before[1], after[0]) for before, after in itertools.pairwise(heard)}
        outcome.holes += len(holes)
        # A connection that lags may fill a part of a gap after it was declared.
        silent = [hole for hole in sorted(holes) if not any(after <= hole[0] and hole[1] <= end for after, end in declared)]
        if silent:
            outcome.failures.append(f"{stream}: holes that nobody declared: {silent[:3]}")
    outcome.rotations = sum(reason == "replaced: age" for _, reason in world.retired)
    outcome.connections, outcome.attempts_most, outcome.answers = len(world.dials), world.most_dials(), rest.answered
    if outcome.lost:
        outcome.failures.append(f"{outcome.lost} ids lost that a healthy connection was sent")
    if outcome.attempts_most > ATTEMPT_LIMIT:
        outcome.failures.append(f"{outcome.attempts_most} connection attempts in five minutes")
    if rest.disobeyed:
        outcome.failures.append(f"{rest.disobeyed} requests while they were forbidden")
    outcome.given_up = notices["snapshot_given_up"]
    if fetcher.waiting:
        outcome.failures.append(f"{fetcher.waiting} wishes open at the end")
    alive = [wire for wire in world.wires.values() if wire.alive and not wire.stalled]
    if len(alive) < len(world.shard.seats):
        outcome.failures.append(f"{len(alive)} connections half an hour after the last fault")


def run(faults, rotations, seed, seats, tell=lambda _: None):
    """Play worlds until there were so many faults and rotations; returns their outcomes."""
    outcomes = []
    while sum(sum(o.injected.values()) for o in outcomes) < faults or sum(o.rotations for o in outcomes) < rotations:
        outcomes.append(asyncio.run(play(seed * 100_000 + len(outcomes), seats, min(PER_WORLD, faults))))
        last = outcomes[-1]
        tell(
            f"world {last.seed}: {sum(last.injected.values())} faults, {last.rotations} rotations, {last.connections} connections, {last.said} ids, lost {last.lost}"
        )
        for failure in last.failures:
            tell(f"  FAILED: {failure}; again: uv run python bench/faults.py --world {last.seed} --connections {seats}")
    return outcomes


def table(outcomes, seats):
    """Print what the worlds came to."""
    injected = sum((o.injected for o in outcomes), Counter())
    totals = defaultdict(int)
    for o in outcomes:
        for name in ("said", "to_nobody", "holes", "lost", "gaps", "rotations", "connections", "given_up"):
            totals[name] += getattr(o, name)
    dark = sum(sum(o.outages) for o in outcomes) / max(1, sum(len(o.outages) for o in outcomes))
    print(f"\nconnections = {seats}: {sum(injected.values())} faults, {totals['rotations']} rotations in {len(outcomes)} worlds")
    print("  " + ", ".join(f"{kind} {count}" for kind, count in sorted(injected.items())))
    print(
        "  REST: " + ", ".join(f"{kind} {count}" for kind, count in sorted(sum((o.answers for o in outcomes), Counter()).items()))
    )
    rows = [
        ("ids sent", totals["said"]),
        ("… while no connection was healthy", totals["to_nobody"]),
        ("… to a healthy one and lost", totals["lost"]),
        ("holes in the recording", totals["holes"]),
        ("gaps declared (late ones may have been filled)", totals["gaps"]),
        ("time without a healthy connection", f"{100 * dark:.3f} %"),
        ("snapshots given up in storms", totals["given_up"]),
        ("connections made", totals["connections"]),
        ("most attempts in five minutes", max(o.attempts_most for o in outcomes)),
        ("broken promises", sum(len(o.failures) for o in outcomes)),
    ]
    for name, value in rows:
        print(f"  {name:50} {value:>12}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faults", type=int, default=1000)
    parser.add_argument("--rotations", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--world", type=int, help="play only this world again")
    parser.add_argument("--connections", type=int, choices=(1, 2), help="only with so many; default: both")
    arguments = parser.parse_args()
    began, bad = time.monotonic(), 0
    for seats in (arguments.connections,) if arguments.connections else (2, 1):
        if arguments.world is not None:
            outcomes = [asyncio.run(play(arguments.world, seats))]
            print(*outcomes[0].failures, sep="\n")
        else:
            outcomes = run(arguments.faults, arguments.rotations, arguments.seed, seats, lambda text: print(text, flush=True))
        table(outcomes, seats)
        bad += sum(len(outcome.failures) for outcome in outcomes)
    print(f"seed {arguments.seed}, {time.monotonic() - began:.0f} s")
    return 1 if bad else 0


if __name__ == "__main__":
    raise SystemExit(main())
