"""Connections that come and go in virtual time, with every id accounted for.

    uv run python bench/rotations.py --days 30 --rotations 1000

`age`: connections are replaced at their age, many times. `fin`: the exchange ends each connection with a bare FIN 50 to 70 minutes after it was
opened, for so many days; recorded by one connection, by two, and by one that is replaced every 40 minutes at the latest. What the exchange sent while
no connection existed cannot be recorded; everything else must be.
"""

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from support.network import World

FIN_S = (50 * 60, 70 * 60)


def market(world):
    """One stream on a beat, a slow one and a quiet one with silences of up to 43 s."""
    draw = world.random
    world.speak(world.streams[0], lambda: draw.uniform(0.4, 0.5))
    world.speak(world.streams[1], lambda: 0.1 + draw.expovariate(1 / 2))
    world.speak(world.streams[2], lambda: draw.choice([1, 3, draw.uniform(10, 43)]))


def new_world(**options):
    world = World([f"symbol{number}usdt@depth@100ms" for number in range(3)], **options)
    market(world)
    return world


def rotate(count, seed, rotate_s=120):
    """Replace so many connections at their age."""
    world = new_world(seed=seed, rotate_s=rotate_s)
    while len(world.retired) < count:
        world.run(600)
        world.compact()
    world.run(120)
    return world


def fins(days, seed, seats=1, rotate_s=12 * 3600):
    """End every connection without a word 50 to 70 minutes after it was opened."""
    world = new_world(seed=seed, seats=seats, rotate_s=rotate_s)
    world.on_open = lambda wire: world.at(world.random.uniform(*FIN_S), world.cut, wire)
    for _ in range(round(days * 24)):
        world.run(3600)
        world.compact()
    return world


def tell(name, world):
    lost = [world.lost(stream) for stream in world.streams]
    holes, unexplained = (sum(pair[index] for pair in lost) for index in (0, 1))
    print(
        f"{name}: {len(world.dials)} connections, {len(world.retired)} replaced in time, {world.shard.tally.reconnects.total()} ended by themselves, "
        f"{holes} holes, {unexplained} of them not explained by a time without any connection, {len(world.named('gap'))} gaps seen, "
        f"{len(world.snapshots)} snapshots, {world.most_dials()} attempts in 5 minutes at most",
        flush=True,
    )
    return unexplained


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--days", type=float, default=30)
    parser.add_argument("--rotations", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    began = time.monotonic()
    bad = tell("age", rotate(arguments.rotations, arguments.seed))
    bad += tell("fin, two connections", fins(arguments.days, arguments.seed, seats=2))
    bad += tell("fin, one connection", fins(arguments.days, arguments.seed))
    bad += tell("fin, one connection of at most 40 minutes", fins(arguments.days, arguments.seed, rotate_s=40 * 60))
    print(f"{time.monotonic() - began:.0f} s")
    return 1 if bad else 0


if __name__ == "__main__":
    raise SystemExit(main())
