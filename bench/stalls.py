"""Injected stalls in virtual time: how soon they are noticed, how soon data flows again, and how often a quiet symbol is taken for a dead one.

    uv run python bench/stalls.py --stalls 10000 --seed 1

Kinds: `silent` (the connection stays open, pings are answered, nothing comes), `half-open` (nothing is answered either), `mute` (one stream
of several stops), `new` (a new connection is accepted and acknowledged, and never says anything), `sentinel` (a connection of quiet symbols
and one busy stream stalls), `cut` (a bare end of TCP, for comparison: nothing has to be noticed). Times of detection run from the last frame that
arrived to the `!twintape@suspect` line, times of recovery from there (`cut`: from the end) to the first frame of a stream that was lost on another
connection. Stalls come every minute or so; what a connection is worth is not forgotten in between.

The streams that stall have spacings of 0.05 to 0.5 seconds. The quiet day is NEXOUSDT's of 2024-07-24 and 25 where the recordings are there
(median 0.4 s, silences up to 43.5 s), and a seeded mixture of bursts and silences of 10 to 43 s everywhere.
"""

import argparse
import gzip
import itertools
import random
import sys
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from support.network import S, World  # noqa: E402

CORPUS = ROOT.parent / "shared" / "corpus"
WARM_UP_S = 240.0
"""Evidence after which a stream is watched with its full attention."""
NOTICED_MAX_S = 30.0
RECOVERED_MAX_S = 60.0
NOTICED_P99_S, RECOVERED_P99_S = 5.0, 3.0
STALLS = ("silent", "half-open", "mute", "new", "sentinel")
KINDS = (*STALLS, "cut")
LIFE_S = (30, 60)
SPACINGS_S = (0.05, 0.1, 0.25, 0.4, 0.45)


@dataclass
class Report:
    seconds: dict = field(default_factory=lambda: defaultdict(list))
    back: dict = field(default_factory=lambda: defaultdict(list))
    undetected: int = 0
    unrecovered: int = 0
    false_alarms: list = field(default_factory=list)
    dials_most: int = 0

    def all_seconds(self):
        return sorted(value for values in self.seconds.values() for value in values)

    def all_back(self):
        return sorted(value for values in self.back.values() for value in values)


def quantile(values, share):
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


def steady(world, stream, spacing):
    # Depth streams come on a beat, and now and then a beat has nothing to say.
    draw = world.random
    world.speak(stream, lambda: spacing * (draw.uniform(0.8, 1.1) if draw.random() < 0.9 else draw.uniform(1.5, 2.5)))


def bursts(draw):
    """Return spacings like a quiet symbol's: half of them short, many of seconds, some silences of 10 to 43 s."""
    kind = draw.random()
    if kind < 0.55:
        return draw.uniform(0.1, 0.4)
    if kind < 0.97:
        return 0.1 + draw.expovariate(1 / 1.2)
    return draw.uniform(10, 43)


def wait(world, condition, most_s):
    """Let time pass until the condition holds; returns whether it did."""
    until = world.now + int(most_s * S)
    while world.now < until:
        if condition():
            return True
        world.run(0.05)
    return condition()


def serving_wire(world):
    return world.wires[world.shard.serving]


def settle(world):
    """Wait until one connection serves and hears everything."""
    alone = lambda: world.shard.seats[0].settled and world.shard.candidate is None and len(world.wires) == 1  # noqa: E731
    assert wait(world, alone, 900), "the shard never came to rest"
    world.run(2)


def inject(world, kind, report):
    """Stall something and see when that is written down, and when another connection delivers again."""
    wire, number = serving_wire(world), world.shard.serving.number
    stream = world.streams[0]
    victim = world.shard.serving.streams[stream.encode()]
    lines_before = len(world.suspect_lines)
    if kind == "new":
        # The old connection is cut, and the next one is a black hole.
        world.on_open = lambda new: setattr(new, "stalled", True)
        world.cut(wire)
        before = world.shard.serving
        assert wait(world, lambda: world.shard.serving is not before and world.shard.serving in world.wires, 60)
        world.on_open = lambda _: None
        number = world.shard.serving.number
        began = world.shard.serving.opened_ns
    elif kind == "cut":
        began = world.now
        world.cut(wire)
    else:
        if kind == "mute":
            wire.muted.add(stream)
        else:
            wire.stalled = True
            wire.answers_pings = kind != "half-open"
        world.run(0.2)  # what was under way arrives
        began = victim.last_ns if kind == "mute" else wire.session.last_data_ns

    def noticed():
        return any(line[1] == number for line in world.suspect_lines[lines_before:])

    if kind == "cut":
        written = began
    elif wait(world, noticed, NOTICED_MAX_S):
        written = next(line[0] for line in world.suspect_lines[lines_before:] if line[1] == number)
        report.seconds[kind].append((written - began) / S)
    else:
        report.undetected += 1
        written = None
    if written is not None:
        others = lambda: [w.session.streams[stream.encode()] for w in world.wires.values() if w.session.number != number]  # noqa: E731
        if wait(world, lambda: any(other.count for other in others()), RECOVERED_MAX_S):
            first_ns = min(other.first_ns for other in others() if other.count)
            report.back[kind].append(max(0, first_ns - written) / S)
        else:
            report.unrecovered += 1
    settle(world)


def make_world(seed, kind):
    names = [f"symbol{number}usdt@depth@100ms" for number in range(3)]
    draw = random.Random(seed)
    world = World(names, seed=seed)
    if kind == "sentinel":
        world.speak(names[0], lambda: 0.1)
        for name in names[1:]:
            world.speak(name, lambda: bursts(world.random))
    else:
        for name in names:
            steady(world, name, draw.choice(SPACINGS_S))
    world.run(WARM_UP_S)
    settle(world)
    return world


def run_stalls(count, seed, progress=lambda _: None):
    """Inject so many stalls of all kinds; the report says how soon each was noticed."""
    report = Report()
    draw = random.Random(seed)
    per_world = 50
    done = 0
    while done < count:
        kind = KINDS[(done // per_world) % len(KINDS)]
        world = make_world(draw.randrange(2**32), kind)
        for _ in range(min(per_world, count - done)):
            inject(world, kind, report)
            # Connections that are cut within seconds of each other are made again ever more slowly: that is no recovery but a storm avoided.
            world.run(draw.uniform(*(LIFE_S if kind == "cut" else (1, 10))))
            world.compact()
            done += 1
        report.dials_most = max(report.dials_most, world.most_dials())
        progress(f"{done} of {count}: {kind}, undetected {report.undetected}, unrecovered {report.unrecovered}")
    return report


def nexousdt_spacings(files=("spot_nexousdt_20240724.gz", "spot_nexousdt_20240725.gz")):
    """Return the real spacings of a quiet symbol's depth events, seconds, or None where the recordings are missing."""
    if not all((CORPUS / name).is_file() for name in files):
        return None
    times = []
    for name in files:
        with gzip.open(CORPUS / name) as file:
            times += [int(line[: line.index(b" ")]) / 1e6 for line in file if b"@depth@100ms" in line[:80]]
    return [max(0.0, after - before) for before, after in itertools.pairwise(times)]


def run_quiet(seconds, seed, spacings=None):
    """Let quiet symbols speak for so long with nothing wrong; returns what was suspected."""
    world = World(["nexousdt@depth@100ms"], seed=seed)
    if spacings is None:
        world.speak(world.streams[0], lambda: bursts(world.random))
    else:
        left = iter(spacings)
        world.speak(world.streams[0], lambda: next(left, 1e9))
    for _ in range(round(seconds / 600)):
        world.run(600)
        world.compact()
    return list(world.suspect_lines) + world.replacements, sum(len(table) for table in world.heard.values())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stalls", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    began = time.monotonic()
    report = run_stalls(arguments.stalls, arguments.seed, lambda text: print(text, flush=True))
    for title, table, total in (
        ("noticed after", report.seconds, report.all_seconds()),
        ("heard again after", report.back, report.all_back()),
    ):
        print(title)
        for kind, values in {**table, "all": total}.items():
            figures = " ".join(f"p{share:g} {quantile(values, share / 100):5.2f}" for share in (50, 90, 99, 99.9))
            print(f"  {kind:10} {len(values):6} {figures} max {max(values):5.2f} s")
    print(f"undetected {report.undetected}, unrecovered {report.unrecovered}")
    print(f"most connection attempts in any 5 minutes: {report.dials_most}")
    quiet = {"seeded day": run_quiet(86_400, arguments.seed)[0]}
    real = nexousdt_spacings()
    if real is not None:
        quiet["nexousdt, 34 hours"] = run_quiet(sum(real), arguments.seed, real)[0]
    for name, alarms in quiet.items():
        print(f"quiet: {name}: {len(alarms)} false alarms {Counter(str(alarm[2]) for alarm in alarms) if alarms else ''}")
    print(f"{time.monotonic() - began:.0f} s")
    bad = report.undetected or report.unrecovered or any(quiet.values())
    bad = bad or quantile(report.all_seconds(), 0.99) > NOTICED_P99_S or quantile(report.all_back(), 0.99) > RECOVERED_P99_S
    return 1 if bad else 0


if __name__ == "__main__":
    raise SystemExit(main())
