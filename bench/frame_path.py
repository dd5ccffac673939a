"""What one frame costs on its way through the collector, part by part and without sockets: CPU in one process, the same frames every time.

    uv run python bench/frame_path.py [--seconds 20] [--market spot]

A whole market's depth frames (2,500 symbols on 50 connections, 20,000 frames/s, 610 bytes) go from the websocket's listener to sealed segments in
a directory. Prints JSON: microseconds of CPU a frame, the median of `--rounds`.

* `listen`: from the websocket library's callback to the batches that are handed to the writer, a batch a connection every `FLUSH_S`.
* `write`: into active files. `sync`: fsync of every file once a second.
* `seal`: from active files to sealed segments on the disk, one for each connection.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import tempfile
import time
from itertools import islice

from twintape.core.load import LoadConfig, LoadSource
from twintape.core.markets import Market
from twintape.core.memory import StreamMemory
from twintape.core.session import Session
from twintape.core.shard import Shard
from twintape.io.clock import SystemClock
from twintape.io.collector import FLUSH_S
from twintape.io.disk import PosixDisk
from twintape.io.link import Link
from twintape.io.spool import Spool

CONNECTIONS, SYMBOLS, FRAMES_PER_SECOND, FRAME_BYTES = 50, 2500, 20_000, 610
SECOND_NS = 1_000_000_000


class Ear:
    """As much of the collector as a link needs while nothing happens but frames."""

    def __init__(self, clock):
        self.clock = clock
        self.dirty = False

    def mark_dirty(self):
        self.dirty = True

    def heard(self, market, count, size):
        pass

    def fail(self, error):
        raise error

    def notice(self, name, **details):
        raise SystemExit(f"{name}: {details}")

    def fetch(self, shard, symbol, reason, update_id):
        pass


def make_links(market, source, clock):
    names = [symbol.book_stream or f"{symbol.symbol.lower()}@depth@100ms" for symbol in source.symbols]
    share, ear, links = len(names) // CONNECTIONS, Ear(clock), []
    for number in range(CONNECTIONS):
        own = names[number * share : (number + 1) * share]
        now_ns, wall_ns = clock.monotonic_ns(), clock.wall_ns()
        memories = [StreamMemory(name) for name in own]
        session = Session(market=market, number=number + 1, memories=memories, now_ns=now_ns, wall_ns=wall_ns)
        session.opened(now_ns, wall_ns)
        shard = Shard.__new__(Shard)  # a link only asks it for the market
        shard.market = market
        links.append((Link(ear, shard, session), own))
    return links


def measure(market, seconds, directory):
    """Return the CPU seconds of each part and the number of frames."""
    source, clock = LoadSource(LoadConfig(market, 7, SYMBOLS, FRAMES_PER_SECOND, FRAME_BYTES)), SystemClock()
    links = make_links(market, source, clock)
    link_of = {name: link for link, own in links for name in own}
    spool = Spool(
        PosixDisk(directory), collector="bench", market=market, run="0" * 32, version="1", draw_chain_id=lambda: "0" * 16
    )
    spool.recover()
    for link, own in links:
        spool.open(link.session.number, url="wss://bench", streams=own, now_ns=clock.wall_ns(), event_time_us=None)
    used = dict.fromkeys(("listen", "write", "sync", "seal"), 0.0)
    frames, happenings = 0, source.happenings()
    per_flush = int(FRAMES_PER_SECOND * FLUSH_S)
    for turn in range(int(seconds / FLUSH_S)):
        heard = [(link_of[one.stream], memoryview(one.payload(combined=True))) for one in islice(happenings, per_flush)]
        began = time.process_time()
        for link, payload in heard:
            link.on_frame(1, bytes(payload))
        batches = [batch for link, _ in links if (batch := link.take())]
        listened = time.process_time()
        spool.write_all(batches)
        written = time.process_time()
        if turn % round(1 / FLUSH_S) == 0:
            spool.sync(clock.wall_ns())
        used["listen"] += listened - began
        used["write"] += written - listened
        used["sync"] += time.process_time() - written
        frames += len(heard)
        assert sum(lines.count for _, lines in batches) == len(heard)
    began = time.process_time()
    spool.close_all(reason="end", now_ns=clock.wall_ns())
    spool.settle()
    used["seal"] += time.process_time() - began
    return used, frames


def frame_path(market=Market.SPOT, seconds=20.0, rounds=3):
    """Return microseconds of CPU a frame, by part."""
    gc.disable()  # as good as off in the collector, too
    found = []
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as directory:
            used, frames = measure(market, seconds, directory)
        found.append({part: 1e6 * cpu_s / frames for part, cpu_s in used.items()})
    return {part: round(statistics.median(one[part] for one in found), 2) for part in found[0]} | {"frames": frames}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=20.0, help="of the market")
    parser.add_argument("--market", type=Market, default=Market.SPOT)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    print(json.dumps(frame_path(options.market, options.seconds, options.rounds)))


if __name__ == "__main__":
    main()
