"""What a power loss leaves of a spool: seeded lives of a collector's disk, cut off at every step, and what the next start makes of them.

Each seed is one script: connections come and go, lines are written, synced, sealed, uploaded, in a spool of odd limits on a simulated disk
(`twintape.simulation.disk`), which half of the seeds make fail or fill up now and then. The script is first run to its end to count the
disk's steps, then again and again with the power cut (or the process killed) at one step after the other: before it, half-way through,
and after it. Every rebirth goes through the shipped recovery, which is itself cut off at a random step now and then.

Checked after each crash, against a witness outside of the spool: recovery refuses nothing; every line whose sync was acknowledged is
there; no line is there that was never given; a chain's number never names two segments, and the links between them hold.

    uv run python bench/power_loss.py --seeds 40            # about 50,000 crashes, five minutes of one core
"""

import argparse
import dataclasses
import hashlib
import random
import time
from collections import Counter, defaultdict

from twintape.core import segment, wire
from twintape.core.active import LineText, recover_active
from twintape.core.heads import depth_head
from twintape.core.markets import Market
from twintape.io.spool import Spool, SpoolLimits
from twintape.simulation.disk import Crash, DiskFault, Volume

SECOND_NS = 1_000_000_000
HOUR_MS = 3_600_000
START_MS = 1_700_000_000_000 // HOUR_MS * HOUR_MS + HOUR_MS - 2000  # two seconds before the hour
ACTIONS = 24
DONE = (0.0, 0.5, 1.0)
EIO = 5


class Witness:
    """What a perfect memory knows of all lives of one spool, and a store that never forgets."""

    def __init__(self, volume):
        self.volume = volume
        self.given = set()
        self.written, self.synced = set(), set()
        self.store = {}
        self.runs = 0

    def acknowledge(self, kind, path, offset):
        lines = recover_active(bytes(self.volume.inode(path).cached[:offset])).lines
        (self.synced if kind == "synced" else self.written).update(lines)

    def spool(self, limits):
        self.runs += 1
        spool = Spool(
            self.volume.open(),
            collector="tokyo",
            market=Market.SPOT,
            run=f"{self.runs:08x}" + "0" * 24,
            version="1",
            draw_chain_id=lambda: f"{self.runs:016x}",
            limits=limits,
            acknowledge=self.acknowledge,
        )
        spool.recover()
        return spool

    def upload(self, spool, disk):
        for sealed in spool.pending():
            data = disk.read(sealed.path)
            assert (len(data), hashlib.sha256(data).hexdigest()) == (sealed.size, sealed.sha256), f"{sealed.path} is damaged"
            assert self.store.setdefault(sealed.key, data) == data, f"{sealed.key} has two contents"
            spool.confirmed(sealed)

    def check(self, *, power):
        """Compare everything that is left with what was promised. Raises `AssertionError`."""
        disk = self.volume.open()
        segments = {*self.store.values(), *(disk.read(path) for path in disk.list("spot/sealed"))}
        chains = defaultdict(dict)
        found = Counter()
        for data in segments:
            index = segment.verify_segment(data)
            other = chains[index.chain.id].setdefault(index.chain.number, (index, data))
            assert other[1] is data, f"two segments have the number {index.chain.number}"
            found.update((time_ns, frame) for _, time_ns, frame in segment.lines_in_order(data))
        assert len(chains) <= 1, "a chain was begun again although nothing was lost"
        for chain in chains.values():
            assert sorted(chain) == list(range(len(chain))), "a number is missing in the chain"
            for number in range(1, len(chain)):
                assert chain[number][0].chain.previous == hashlib.sha256(chain[number - 1][1]).hexdigest()
        assert disk.list("spot/active") == [], "something was left unsealed"
        ours = {line for line in found if wire.parse_control(line[1]) is None}
        assert ours <= self.given, f"invented: {sorted(ours - self.given)[:3]}"
        missing = (self.synced if power else self.synced | self.written) - set(found)
        assert not missing, f"{len(missing)} lines lost that were acknowledged, as {sorted(missing)[:3]}"


class Life:
    """One script of a spool, by its seed; the same every time it is run."""

    def __init__(self, seed):
        self.seed = seed
        rng = random.Random(f"life {seed}")
        self.failing = seed % 2 == 1
        self.limits = SpoolLimits(
            segment_age_ns=rng.choice((1, 3, 45)) * SECOND_NS,
            segment_size=rng.choice((700, 3000, 1 << 20)),
            budget_size=rng.choice((20_000, 1 << 30)),
            reserve_size=rng.choice((0, 4096)),
            held_size=rng.choice((2000, 1 << 20)),
        )
        self.capacity = rng.choice((30_000, 1 << 30)) if self.failing else 1 << 30
        rates = (0.0, 0.01, 0.05, 0.3) if self.failing else (0.0,)
        self.error_rates = {"sync": rng.choice(rates), "write": rng.choice(rates), "create": rng.choice(rates)}

    def run(self, *, crash_at=None, done=0.0, power=True):
        """Run the script, cut off before the `crash_at`-th step; return the witness."""
        volume = Volume(random.Random(f"volume {self.seed} {crash_at} {done}"), capacity=self.capacity)
        witness = Witness(volume)
        errors = random.Random(f"errors {self.seed}")

        def fault(step, _path):
            if volume.steps - 1 == crash_at:
                return DiskFault(Crash(), done)
            if errors.random() < self.error_rates.get(step, 0.0):
                return DiskFault(OSError(EIO, "Input/output error"), errors.choice(DONE))
            return None

        spool = witness.spool(self.limits)
        volume.steps, volume.fault = 0, fault
        try:
            self._act(witness, spool)
        except Crash:
            self._recover(witness, power=power)
        return witness

    def _act(self, witness, spool):
        rng = random.Random(f"acts {self.seed}")
        disk = witness.volume.open()
        now_ms, number, connections, open_connections = START_MS, 0, 0, []
        for _ in range(ACTIONS):
            now_ms += rng.choice((1, 100, 700, 2000))
            now_ns = now_ms * 1_000_000
            action = rng.choice(("open", "write", "write", "write", "sync", "sync", "seal", "cut", "close", "upload"))
            if action == "open" or not open_connections:
                connections += 1
                open_connections.append(connections)
                spool.open(connections, url="wss://a", streams=["btcusdt@depth"], now_ns=now_ns, event_time_us=None)
            elif action == "write":
                lines = []
                for _ in range(rng.randrange(1, 8)):
                    number += 1
                    lines.append(line_of(number, now_ns + number, rng))
                witness.given.update(lines)
                connection = rng.choice(open_connections)
                times = [head[2] for _, frame in lines if (head := depth_head(frame))]
                if len(times) == len(lines):  # as a connection hands over what it hears
                    text = dataclasses.replace(LineText.of(lines), event_times=(min(times), max(times)))
                    spool.write_all([(connection, text)])
                else:
                    spool.write(connection, lines)
            elif action == "sync":
                spool.sync(now_ns)
                if not spool.held_bytes and not spool.lost_count:
                    witness.synced |= witness.given  # nothing is said to be in memory, so all of it must survive
            elif action == "seal":
                spool.seal_due(now_ns + rng.choice((0, 2, 60)) * SECOND_NS)
            elif action == "cut":
                spool.cut(rng.choice(open_connections), reason="clock step", now_ns=now_ns)
            elif action == "close":
                connection = open_connections.pop(rng.randrange(len(open_connections)))
                spool.close(connection, reason="planned", code=1000, now_ns=now_ns)
            else:
                witness.upload(spool, disk)

    def _recover(self, witness, *, power):
        """Come back, again and again where the way back is cut off too; the last time nothing fails."""
        volume = witness.volume
        rng = random.Random(f"recover {self.seed} {volume.steps}")
        for last in (*[False] * rng.randrange(3), True):
            if power:
                volume.lose_power()
            else:
                volume.kill()
            volume.capacity = 1 << 30
            volume.steps, crash_at = 0, rng.randrange(25)
            volume.fault = no_fault if last else crash_at_step(volume, crash_at, rng.choice(DONE))
            try:
                witness.spool(self.limits)
            except Crash:
                continue
        volume.fault = no_fault


def no_fault(_step, _path):
    return None


def crash_at_step(volume, number, done):
    return lambda _step, _path: DiskFault(Crash(), done) if volume.steps - 1 == number else None


def line_of(number, time_ns, rng):
    levels = ",".join(f'["{rng.randrange(10**6)}.5","1"]' for _ in range(rng.choice((0, 1, 30))))
    event = f'{{"e":"depthUpdate","E":{time_ns // 1_000_000},"s":"BTCUSDT","U":{number},"u":{number},"b":[{levels}],"a":[]}}'
    return time_ns, f'{{"stream":"btcusdt@depth","data":{event}}}'.encode()


def crash_everywhere(seed, *, every=1, power=True):
    """Cut one life off at every `every`-th step, three ways each; return how many crashes that were. Raises `AssertionError`."""
    life = Life(seed)
    steps = life.run().volume.steps
    crashes = 0
    for number in range(seed % every, steps, every):
        for done in DONE:
            witness = life.run(crash_at=number, done=done, power=power)
            try:
                # What was written and not synced may be gone after a kill where a failed sync made the kernel drop it.
                witness.check(power=power or life.failing)
            except Exception as error:
                raise AssertionError(
                    f"seed {seed}, step {number} of {steps}, {done} of it done, power={power}: {error}"
                ) from error
            crashes += 1
    return crashes


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=40)
    parser.add_argument("--first", type=int, default=0)
    arguments = parser.parse_args()
    began, crashes = time.process_time(), 0
    for seed in range(arguments.first, arguments.first + arguments.seeds):
        crashes += crash_everywhere(seed) + crash_everywhere(seed, power=False)
    print(
        f"{crashes} crashes in {arguments.seeds} lives, {time.process_time() - began:.0f} s of CPU: no acknowledged line lost, none invented"
    )


if __name__ == "__main__":
    main()
