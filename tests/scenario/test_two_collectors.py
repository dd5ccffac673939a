"""Two collectors with faults of their own before one exchange, merged by the real merge: what one of them was sent is in the archive.

Connections are the ones that ship, in virtual time; their lines are sealed, put into a store and merged. Gaps must be exactly what neither was sent,
and be blamed on whom they belong to.
"""

import asyncio
import importlib.util
import itertools
import random
import sys
from pathlib import Path

import pytest

from support.network import WALL_NS, S, World
from support.store import STREAM, Exchange, merge_run
from twintape.core import wire as lines
from twintape.core.manifest import Status
from twintape.core.markets import Market
from twintape.core.segment import ChainLink, seal
from twintape.core.sequence import coverage
from twintape.io.catalog import list_heads
from twintape.io.merge import merge_date
from twintape.io.store import MemoryStore

ROOT = Path(__file__).parents[2]
NAME = f"btcusdt@{STREAM}"
SPACING_S, MINUTES = 0.25, 30
CYCLE_S, FAULTS_UNTIL_S, SKIP_AT_S = 120, 60, 110
"""Each cycle begins with faults and ends in peace; in the peace of some the exchange loses an event of its own."""
DATE = "2025-10-09"


def load_faults():
    if "faults" not in sys.modules:
        spec = importlib.util.spec_from_file_location("faults", ROOT / "bench" / "faults.py")
        sys.modules["faults"] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules["faults"])
    return sys.modules["faults"].FAULTS


FAULTS = load_faults()


class Collector:
    """One shard in a network of its own, and everything its connections recorded."""

    def __init__(self, name, seed):
        self.name = name
        self.world = World([NAME], seed=seed, rotate_s=300, name=f"{name}/spot")
        self.connections = {}
        self.world.on_lines = self._take
        self.injected = 0

    def _take(self, session, taken):
        self.connections.setdefault(session.number, []).extend(taken)

    def plan(self, rng, seconds):
        """Have faults of all kinds happen in the first half of each cycle, or nothing in a cycle of peace."""
        for begin in range(CYCLE_S, seconds - CYCLE_S, CYCLE_S):
            for _ in range(rng.choice((0, 1, 2))):
                self.world.at(begin + rng.uniform(0, FAULTS_UNTIL_S), self._strike, FAULTS[rng.choice(sorted(FAULTS))])
                self.injected += 1

    def _strike(self, fault):
        victims = sorted((wire for wire in self.world.wires.values() if wire.alive), key=lambda wire: wire.session.number)
        fault(self.world, self.world.random.choice(victims) if victims else None)

    def healthy(self):
        """Return the connections that could hear something now."""
        return {wire.session.number for wire in self.world.wires.values() if wire.alive and not wire.stalled and not wire.muted}

    def segments(self):
        """Return the sealed recording: one segment a connection, in one chain."""
        sealed, run = [], f"{self.name:x<8}".encode().hex().ljust(32, "0")
        for number in sorted(number for number, taken in self.connections.items() if taken):
            taken = self.connections[number]
            opening = lines.open_line(
                collector=self.name,
                market=Market.SPOT,
                run=run,
                connection=number,
                sequence=1,
                url="wss://stream.example",
                streams=[NAME],
                version="test",
                event_time_us=None,
            )
            closing = lines.close_line(reason="end", code=None, final=True)
            link = ChainLink(run[:16], len(sealed), sealed[-1].sha256 if sealed else None, None if sealed else "new spool")
            whole = [(taken[0][0] - 1, opening), *taken, (taken[-1][0] + 1, closing)]
            sealed.append(
                seal(whole, collector=self.name, market=Market.SPOT, run=run, connection=number, sequence=1, chain=link)
            )
        return sealed


def record(seed):
    """Let both collectors hear the same exchange; returns exchange, collectors and the events it lost, with whether both heard on."""
    rng, seconds = random.Random(seed), MINUTES * 60
    start_us = (WALL_NS + 1000 * S) // 1000
    count = int(seconds / SPACING_S)
    exchange = Exchange(seed=seed, events=count, periods=((start_us + 10**6, start_us + seconds * 10**6),))
    collectors = [Collector("paris", 2 * seed), Collector("tokyo", 2 * seed + 1)]
    for collector in collectors:
        collector.plan(rng, seconds)
    skips = {begin + SKIP_AT_S for begin in range(CYCLE_S, seconds - CYCLE_S, 3 * CYCLE_S)}
    skipped, watched = {}, []
    for position, event in enumerate(exchange.events):
        at_ns = event.time_us * 1000 - WALL_NS
        for collector in collectors:
            collector.world.run((at_ns - collector.world.now) / S)
        if skips and at_ns / S - 1000 > min(skips):
            skips.remove(min(skips))
            skipped[position] = False
            watched.append((at_ns + 5 * S, position, [collector.healthy() for collector in collectors]))
            continue
        for until_ns, lost, before in list(watched):
            if at_ns > until_ns:
                watched.remove((until_ns, lost, before))
                skipped[lost] = all(old & collector.healthy() for old, collector in zip(before, collectors, strict=True))
        for collector in collectors:
            collector.world.publish(NAME, event.prev, event.final, exchange.frame(position))
    for collector in collectors:
        collector.world.run(120)
    return exchange, collectors, skipped


def merge(collectors, directory):
    store = MemoryStore()

    async def both():
        for collector in collectors:
            for sealed in collector.segments():
                await store.create(sealed.key, sealed.data)
        await merge_date(merge_run(store, str(directory)), Market.SPOT, DATE)
        return await list_heads(store, Market.SPOT)

    heads = asyncio.run(both())
    return heads["BTCUSDT", STREAM, DATE].proof


@pytest.mark.parametrize("seed", [3, 8])
def test_what_one_of_two_collectors_was_sent_is_in_the_archive_and_every_gap_is_blamed_rightly(tmp_path, seed):
    exchange, collectors, skipped = record(seed)
    assert all(collector.injected >= 8 for collector in collectors)
    proof = merge(collectors, tmp_path)

    heard = [coverage(collector.world.heard[NAME]) for collector in collectors]
    union = coverage([interval for line in heard for interval in line])
    holes = [(before[1], after[0]) for before, after in itertools.pairwise(union)]
    # Alone, each has more holes than both together: the scenario is worth its name.
    assert all(len(line) - 1 > len(holes) for line in heard)
    assert {(gap.after_update_id, gap.next_prev_update_id) for gap in proof.gaps} == set(holes)
    assert proof.status is Status.GAPPED

    # Nothing that reached a healthy connection of either is in a hole, and everything else is.
    missed = [set(collector.world.missed[NAME]) for collector in collectors]
    begin, end = union[0][0], union[-1][1]
    for position, event in enumerate(exchange.events):
        interval = (event.prev, event.final)
        if begin <= event.prev and event.final <= end:
            lost = any(after <= event.prev and event.final <= following for after, following in holes)
            assert lost == (position in skipped or all(interval in table for table in missed))

    by_position = {(exchange.events[k].prev, exchange.events[k].final): both_heard_on for k, both_heard_on in skipped.items()}
    for gap in proof.gaps:
        who = by_position.pop((gap.after_update_id, gap.next_prev_update_id), None)
        if who is None:
            assert gap.gap_class == "collector-side", gap
            assert "paris: another connection behind, tokyo: another connection behind" in gap.reason
        elif who:
            assert gap.gap_class == "exchange-side", gap
            assert gap.reason.count("heard") == 2
    assert sum(skipped.values()) >= 2
    assert any(gap.gap_class == "collector-side" for gap in proof.gaps)
