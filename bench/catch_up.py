"""How fast a collector catches up with a store that was away, and whether the recording notices.

One collector's writer records at a steady rate through an outage; then the store is back. Both stores are directories on this machine, so
what is measured is our side: reading, hashing, uploading, reading back, letting go. `--bandwidth` makes the store as slow as a network.

    uv run python bench/catch_up.py --seconds 30 --rate 4
"""

import argparse
import asyncio
import json
import random
import tempfile
import time

from twintape.core.active import LineText
from twintape.core.errors import StoreError
from twintape.core.markets import Market
from twintape.io.clock import SystemClock
from twintape.io.disk import PosixDisk
from twintape.io.shipper import Shipper
from twintape.io.spool import Spool, SpoolLimits
from twintape.io.store import FileStore
from twintape.io.upload import upload_one
from twintape.io.writer import Writer

STEP_S = 0.02
OUTAGE_S_MAX = 60.0
BATCHES = 50
"""Different batches of lines; what repeats within a segment would compress too well."""


class Network:
    """A store behind a line of `bandwidth` bytes a second that can be cut."""

    def __init__(self, store, bandwidth):
        self.store, self.bandwidth, self.away = store, bandwidth, True

    async def create(self, key, data):
        await self._pass(len(data))
        await self.store.create(key, data)

    async def get(self, key):
        data = await self.store.get(key)
        await self._pass(len(data))
        return data

    async def _pass(self, size):
        if self.away:
            raise StoreError("the store is away", retryable=True)
        if self.bandwidth:
            await asyncio.sleep(size / self.bandwidth)


def lines_of(count, start):
    """Return depth lines of ordinary size, with numbers as incompressible as real ones."""
    rng = random.Random(start)
    base_ns = time.time_ns()
    found = []
    for number in range(count):
        levels = ",".join(f'["{rng.randrange(10**7) / 100:.2f}","{rng.randrange(10**6) / 1000:.5f}"]' for _ in range(12))
        event_ms = base_ns // 1_000_000
        text = f'{{"stream":"btcusdt@depth@100ms","data":{{"e":"depthUpdate","E":{event_ms},"s":"BTCUSDT","U":{start + number},"u":{start + number},"b":[{levels}],"a":[]}}}}'
        found.append((base_ns + number, text.encode()))
    return found


async def measure(root, *, seconds, megabytes_per_second, segment_mebibytes=1.0, uploads=4, bandwidth=0, files=1):
    """Return the rates in sealed bytes a second, and how late the recording's steps were in the outage and in the catch-up.

    The outage lasts `seconds`, and on a machine that seals too slowly until so many `files` wait.
    """
    clock, disk = SystemClock(), PosixDisk(f"{root}/spool")
    network = Network(FileStore(f"{root}/store"), bandwidth)
    limits = SpoolLimits(segment_size=int(segment_mebibytes * (1 << 20)), reserve_size=0)
    spool = Spool(
        disk, collector="bench", market=Market.SPOT, run="b" * 32, version="bench", draw_chain_id=lambda: "c" * 16, limits=limits
    )
    sealed_bytes = 0

    def on_sealed(market, files):
        nonlocal sealed_bytes
        sealed_bytes += sum(sealed.size for sealed in files)
        shipper.add(market, files)

    writer = Writer({Market.SPOT: spool}, clock, queue_bytes=256 << 20, on_sealed=on_sealed, on_notice=lambda *_: None)

    async def read(path):
        return await asyncio.to_thread(disk.read, path)

    async def upload(sealed):
        await upload_one(network, sealed, read=read, sleep=clock.sleep, draw=random.random, attempts=1)

    shipper = Shipper(
        upload,
        clock,
        draw=random.random,
        on_confirmed=writer.confirmed,
        on_damaged=lambda *_: None,
        on_notice=lambda *_: None,
    )
    writer.start()
    writer.open(Market.SPOT, 1, url="wss://bench", streams=["btcusdt@depth@100ms"])
    tasks = [asyncio.create_task(shipper.run()) for _ in range(uploads)]
    batches = [lines_of(max(1, int(megabytes_per_second * 1e6 * STEP_S / 420)), start) for start in range(1, 1 + BATCHES)]
    written, recording, late_s, full = 0, True, [], 0

    async def record():
        nonlocal written, full
        due = time.monotonic()
        number = 1
        while recording:
            now_ns = time.time_ns()
            batch = batches[number % BATCHES]
            size = sum(len(frame) for _, frame in batch)
            lines = [(now_ns + index, frame) for index, (_, frame) in enumerate(batch)]
            writer.write_all(Market.SPOT, [(1, LineText.of(lines))])
            full += writer.full
            written += size
            number += 1
            due += STEP_S
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            late_s.append(time.monotonic() - due)

    recorder, away_from = asyncio.create_task(record()), time.monotonic()
    await asyncio.sleep(seconds)
    while shipper.waiting < files and time.monotonic() - away_from < OUTAGE_S_MAX:
        await clock.sleep(0.01)
    outage = {"backlog_bytes": sealed_bytes, "backlog_files": shipper.waiting, "late_s": sorted(late_s)}
    outage_s = time.monotonic() - away_from
    outage_rate = sealed_bytes / outage_s
    late_s.clear()
    network.away = False
    while not shipper.uploaded:  # the pause before the next attempt is a matter of chance, and over within a minute
        await clock.sleep(0.01)
    began, before = time.monotonic(), shipper.uploaded_bytes
    while shipper.waiting > uploads and time.monotonic() - began < 10 * seconds + 60:
        await clock.sleep(0.01)
    took = time.monotonic() - began
    uploaded = shipper.uploaded_bytes - before
    recording = False
    await recorder
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    writer.close(Market.SPOT, 1, reason="stop", code=None)
    await writer.end()
    catch_up_late = sorted(late_s)
    return {
        "recorded_mb_per_s": round(written / 1e6 / (outage_s + took), 2),
        "sealed_mb_per_s": round(outage_rate / 1e6, 3),
        "backlog_mb": round(outage["backlog_bytes"] / 1e6, 1),
        "backlog_files": outage["backlog_files"],
        "catch_up_s": round(took, 2),
        "catch_up_mb_per_s": round(uploaded / 1e6 / took, 3),
        "times_the_recording": round(uploaded / took / outage_rate, 1),
        "late_ms_p99_outage": _p99_ms(outage["late_s"]),
        "late_ms_p99_catch_up": _p99_ms(catch_up_late),
        "queue_full": full,
        "lost_lines": spool.lost_count,
        "failures": shipper.failures,
    }


def _p99_ms(ordered):
    return round(1000 * ordered[int(len(ordered) * 0.99)], 1) if ordered else None


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=20, help="length of the outage")
    parser.add_argument("--rate", type=float, default=4, help="raw MB/s that are recorded")
    parser.add_argument("--bandwidth", type=float, default=0, help="bytes/s of one upload; 0: as fast as it goes")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as root:
        found = asyncio.run(
            measure(root, seconds=options.seconds, megabytes_per_second=options.rate, bandwidth=options.bandwidth)
        )
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
