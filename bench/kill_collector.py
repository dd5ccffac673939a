"""Kill the collector with SIGKILL at random moments, and prove that no line whose write returned is lost.

A simulated exchange plays a made-up market without end. The collector is started on the same spool and store again and again, reports
every returned write and sync on a pipe (`--acknowledge-fd`), and is killed. Right after each kill the witness takes what the reports
promise from the active files. At the end one collector runs undisturbed and stops in order; then every line of every witness must be in
an object of the store, in order, and the serial chain of objects must have no hole.

    uv run python bench/kill_collector.py --kills 1000 --parallel 2
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import re
import signal
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

from twintape.core import segment
from twintape.core.markets import Market
from twintape.core.synthetic import SyntheticConfig, SyntheticSource
from twintape.core.wire import depth_ids
from twintape.io.exchange import ExchangeConfig, SimulatedExchange

COMMAND = ("-m", "twintape", "record")
STREAMS = ("depth@100ms", "bookTicker", "trade")
LIFE_S_MAX = 1.2
LAST_LIFE_S = 3.0
START_S_USUAL = 1.0
PROGRESS_EVERY = 50
START_S_MAX = 60.0
STOP_S_MAX = 60.0
_NAME = re.compile(r"([0-9a-f]{8}-\d+-\d+)")


@dataclass
class Report:
    """What a run found; everything in `failures` is a broken promise."""

    kills: int = 0
    kills_before_first_write: int = 0
    acknowledged_writes: int = 0
    acknowledged_syncs: int = 0
    witnessed_segments: int = 0
    witnessed_lines: int = 0
    objects: int = 0
    recorded_lines: int = 0
    seconds: float = 0.0
    failures: list[str] = field(default_factory=list)


class Life:
    """One collector process and what it has reported."""

    def __init__(self, process, reader):
        self.process = process
        self.offsets = {}
        self.syncs = 0
        self.writes = 0
        self.started = asyncio.Event()
        self._reading = asyncio.create_task(self._read(reader))

    @classmethod
    async def start(cls, directory, base, symbols):
        read_fd, write_fd = os.pipe()
        arguments = [*symbols, "--collector", "witness", "--store", f"file://{directory}/store", "--spool", f"{directory}/spool"]
        arguments += [word for stream in STREAMS for word in ("--stream", stream)]
        arguments += ["--websocket", f"ws://{base}", "--rest", f"http://{base}", "--acknowledge-fd", str(write_fd)]
        with (directory / "log").open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                sys.executable, *COMMAND, *arguments, pass_fds=[write_fd], stderr=log, stdout=log
            )
        os.close(write_fd)
        reader = asyncio.StreamReader(limit=1 << 20)
        await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(read_fd, "rb", buffering=0)
        )
        return cls(process, reader)

    async def _read(self, reader):
        # A report that was cut off by the kill has no newline and promises nothing.
        while (line := await reader.readline()).endswith(b"\n"):
            kind, path, offset = line.decode().split()
            self.offsets[path] = max(int(offset), self.offsets.get(path, 0))
            self.writes += kind == "written"
            self.syncs += kind == "synced"
            self.started.set()

    async def end(self, number):
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(number)
        code = await asyncio.wait_for(self.process.wait(), STOP_S_MAX)
        await self._reading
        return code


def witness(directory, life, report):
    """Return the bytes each report promises, by segment; complain about every one that is not in its file."""
    found = {}
    for path, offset in life.offsets.items():
        name = _NAME.search(path)[1]
        file = directory / "spool" / path
        try:
            data = file.read_bytes()
        except FileNotFoundError:
            continue  # sealed in the meantime; the store is judged at the end
        if len(data) < offset:
            report.failures.append(f"{path}: {len(data)} bytes, {offset} were reported")
        elif not data[:offset].endswith(b"\n"):
            report.failures.append(f"{path}: the report at {offset} is not the end of a line")
        found[name] = data[:offset]
    return found


def lines_of(text):
    """Return the lines of an active file without its sync lines."""
    return [line for line in text.split(b"\n") if line and b'{"stream":"!twintape@sync"' not in line]


def judge(directory, witnesses, report):
    """Compare the store with the witnesses, and look at the chain of objects and at the ids within every connection."""
    objects, links = {}, []
    for file in sorted((directory / "store" / "raw").rglob("*.tape.zst")):
        data = file.read_bytes()
        index = segment.verify_segment(data)
        name = _NAME.search(file.name)[1]
        lines = [b"%d %b" % (time_ns, frame) for _, time_ns, frame in segment.lines_in_order(data)]
        objects.setdefault(name, []).append(lines)
        links.append((index.chain.id, index.chain.number, index.chain.previous))
        report.objects += 1
        report.recorded_lines += len(lines)
    for name, text in witnesses.items():
        promised = lines_of(text)
        report.witnessed_segments += 1
        report.witnessed_lines += len(promised)
        copies = objects.get(name, [])
        if len(copies) != 1:
            report.failures.append(f"{name}: {len(copies)} objects in the store")
        elif copies[0][: len(promised)] != promised:
            kept = set(copies[0])
            report.failures.append(
                f"{name}: {sum(line not in kept for line in promised)} of {len(promised)} lines lost, or out of order"
            )
    if len({chain for chain, _, _ in links}) != 1 or sorted(number for _, number, _ in links) != list(range(len(links))):
        report.failures.append(f"the chain of {len(links)} objects has holes: {sorted(links)[:5]}…")
    check_ids(objects, report)
    left = [path for path in (directory / "spool").rglob("*") if path.is_file() and path.name not in ("lock", "chain.json")]
    torn = [path for path in left if "quarantine" in path.parts]
    if len(left) != len(torn):
        report.failures.append(f"left in the spool after an orderly stop: {[str(path) for path in left][:5]}")


def check_ids(objects, report):
    """Within a connection nothing may be missing: every depth event continues the one before it."""
    connections = {}
    for name in sorted(objects, key=lambda name: (name.rsplit("-", 1)[0], int(name.rsplit("-", 1)[1]))):
        for lines in objects[name]:
            connections.setdefault(name.rsplit("-", 1)[0], []).extend(lines)
    for name, lines in connections.items():
        last = {}
        for line in lines:
            stream = line[line.find(b'"stream":"') + 10 :].split(b'"', 1)[0]
            ids = depth_ids(line, Market.SPOT) if b"@depth" in stream else None
            if ids is not None:
                if ids[0] != last.get(stream, ids[0]):
                    report.failures.append(f"connection {name} {stream}: {ids} after {last[stream]}")
                last[stream] = ids[1]


async def kill_again_and_again(kills, draw, directory, base, symbols, report, expected):
    """Kill so many collectors on one spool, let a last one stop in order, and compare the store with what was witnessed."""
    witnesses = {}
    for number in range(kills + 1):
        life = await Life.start(directory, base, symbols)
        if number == kills or draw.random() < 0.8:
            await asyncio.wait_for(life.started.wait(), START_S_MAX)
            await asyncio.sleep(draw.random() * LIFE_S_MAX if number < kills else LAST_LIFE_S)
        else:
            await asyncio.sleep(
                draw.random() * START_S_USUAL
            )  # somewhere in the start, or in recovering what the one before left
        code = await life.end(signal.SIGKILL if number < kills else signal.SIGTERM)
        if number < kills:
            report.kills += 1
            report.kills_before_first_write += not life.writes
            witnesses |= witness(directory, life, report)
        if code != (-signal.SIGKILL if number < kills else 0):
            report.failures.append(f"life {number} ended with {code}")
        report.acknowledged_writes += life.writes
        report.acknowledged_syncs += life.syncs
        if report.kills % PROGRESS_EVERY == 0:
            print(f"{report.kills} of {expected} kills, {len(report.failures)} failures", file=sys.stderr)
    judge(directory, witnesses, report)


async def run(kills, seed, directory, *, parallel=1, events_per_second=60.0, speed=10.0):
    """Kill so many collectors, so many at a time with a spool and a store each, and return what was found."""
    report, began = Report(), time.monotonic()
    source = SyntheticSource(SyntheticConfig(market=Market.SPOT, seed=seed, symbols_count=8, events_per_second=events_per_second))
    symbols = [info.symbol for info in source.symbols]
    async with SimulatedExchange(ExchangeConfig(sources=[source], speed=speed)) as exchange, asyncio.TaskGroup() as lanes:
        base = f"127.0.0.1:{exchange.gateways[0].port}"
        for number in range(parallel):
            lane = directory / f"lane-{number}"
            lane.mkdir()
            share, draw = (kills + number) // parallel, random.Random(f"{seed}:{number}")
            lanes.create_task(kill_again_and_again(share, draw, lane, base, symbols, report, kills))
    report.seconds = round(time.monotonic() - began, 1)
    return report


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--parallel", type=int, default=1, help="so many collectors at a time, each with a spool and a store of its own"
    )
    parser.add_argument(
        "--directory", type=Path, help="where spool and store go; default: a temporary directory, removed in the end"
    )
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        report = asyncio.run(
            run(arguments.kills, arguments.seed, arguments.directory or Path(temporary), parallel=arguments.parallel)
        )
    print(json.dumps(asdict(report), indent=2))
    return 1 if report.failures else 0


if __name__ == "__main__":
    sys.exit(main())
