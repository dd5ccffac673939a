"""The main job in numbers: recording, merging, archive size, on a capture repeated to a large size.

    uv run python bench/main_job.py [--file ../shared/corpus/spot_btcusdt_20240808.gz --market spot] [--repeat 20]

Prints JSON; ratios are taken within this one run.

* recording: one collector process against the simulator at full speed, durable and uploaded. `cpu_us_per_frame` is what counts: the simulator is the slower side.
* frame_path: what a frame costs on its way, part by part and without sockets (`bench/frame_path.py`).
* merge: three equal lines of the tape, each with holes of its own; every raw byte read and checked, outputs read back and rendered to raw lines again.
  The floor is what no merge can avoid: decompressing the three lines, and writing and reading the one Parquet file.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import io
import json
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
import urllib.request
from functools import partial
from pathlib import Path

import pyarrow.parquet as pq
from frame_path import frame_path

import twintape
from twintape.core.segment import lines_in_order

IDS = re.compile(rb'"(U|u|pu|lastUpdateId)":(\d+)')
TIMES = re.compile(rb'"(E|T)":(\d{13})')


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "twintape", *map(str, arguments)]


def _shifted(by: int, match: re.Match[bytes]) -> bytes:
    return b'"%b":%d' % (match[1], int(match[2]) + by)


def repeated(path: Path, count: int) -> list[bytes]:
    """Repeat a recording: ids and times go on where the copy before ended, so that it is one long chain."""
    lines = [line for line in gzip.decompress(path.read_bytes()).splitlines() if b"@trade" not in line[:80]]
    depth = [line for line in lines if b'"depthUpdate"' in line[:160]]
    first, last = depth[0], depth[-1]
    ids = {key: int(value) for key, value in IDS.findall(first)}
    step = int(dict(IDS.findall(last))[b"u"]) - (ids[b"pu"] if b"pu" in ids else ids[b"U"] - 1)
    first_ms, last_ms = (int(dict(TIMES.findall(line))[b"E"]) for line in (first, last))
    period = last_ms - first_ms + 100
    made = []
    for number in range(count):
        for line in lines:
            if number and b"lastUpdateId" in line[:200]:
                continue
            stamp, _, frame = line.partition(b" ")
            scale = 10 ** (19 - len(stamp))
            head, mark, tail = frame.partition(b'"b":') if b'"depthUpdate"' in line[:160] else (frame, b"", b"")
            if number:
                head = IDS.sub(partial(_shifted, number * step), head)
                head = TIMES.sub(partial(_shifted, number * period), head)
            made.append(b"%d %b" % (int(stamp) * scale + number * period * 10**6, head + mark + tail))
    return made


def record(root: Path, tape: Path, market: str, symbol: str, streams: list[str]) -> dict[str, float]:
    options = ["--market", market, "--tape", f"{market}:{tape}", "--speed", "max", "--wait-clients", "1"]
    exchange = subprocess.Popen(command("exchange", *options), stdout=subprocess.PIPE)
    assert exchange.stdout is not None
    gateway = json.loads(exchange.stdout.readline())["gateways"][0]
    parts = [part for stream in streams for part in ("--stream", stream)]
    where = ["--store", root / "recorded", "--spool", root / "spool", "--websocket", gateway[market], "--rest", gateway["rest"]]
    collector = subprocess.Popen(
        command("record", symbol, "--market", market, "--collector", "bench", *parts, *where), stderr=subprocess.DEVNULL
    )
    began = None
    while True:
        with urllib.request.urlopen(f"{gateway['rest']}/twintape/status") as answer:
            status = json.load(answer)
        if began is None and status["started"]:
            began = time.monotonic()
        if status["ended"]:
            break
        time.sleep(0.02)
    wall = time.monotonic() - (began or time.monotonic())
    peak_mib = _peak_mib(collector.pid)
    collector.terminate()
    _, code, usage = os.wait4(collector.pid, 0)
    collector.returncode = code
    exchange.terminate()
    exchange.wait()
    recorded = sum(
        1 for path in (root / "recorded").rglob("*.zst") for name, _, _ in lines_in_order(path.read_bytes()) if "@" in name
    )
    cpu = usage.ru_utime + usage.ru_stime
    start_up = _start_up_cpu_s(root)
    return {
        "frames_sent": status["gateways"][0]["sent"],
        "frames_recorded": recorded,
        "wall_s": round(wall, 2),
        "frames_per_s": round(recorded / wall),
        "cpu_s": round(cpu, 2),
        "cpu_us_per_frame": round((cpu - start_up) / recorded * 1e6, 2),
        "core_percent_at_20000_frames_per_s": round((cpu - start_up) / recorded * 20_000 * 100, 1),
        "peak_rss_mib": peak_mib,
    }


def _peak_mib(pid: int) -> int:
    """Return the most memory a running process has used. (`ru_maxrss` of a child would count its copy of us before exec.)"""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:"))) // 1024


def _run_watched(arguments: list[str]) -> int:
    """Run a command to its end and return its peak memory in MiB."""
    process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL)
    peak = 0
    while process.poll() is None:
        with contextlib.suppress(FileNotFoundError, StopIteration):
            peak = max(peak, _peak_mib(process.pid))
        time.sleep(0.05)
    return peak


def _start_up_cpu_s(root: Path) -> float:
    """Return the CPU that importing and starting take: `record --help` loads what `record` loads but the network."""
    began = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command("record", "--help"), check=True, stdout=subprocess.DEVNULL, cwd=root)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - began.ru_utime - began.ru_stime


def merge(root: Path, tape: list[bytes], market: str, symbol: str) -> dict[str, object]:
    store = root / "store"
    for number, name in enumerate(("alpha", "beta", "gamma")):
        path = root / f"{name}.txt"
        size = len(tape) // 30
        path.write_bytes(
            b"\n".join(
                line for place, line in enumerate(tape) if (place // size) % 10 != number * 3 + 1 or b"lastUpdateId" in line[:200]
            )
            + b"\n"
        )
        subprocess.run(
            command("import", path, "--market", market, "--collector", name, "--store", store, "--symbol", symbol),
            check=True,
            stdout=subprocess.DEVNULL,
        )
    floor_raw = time.process_time()
    raw_bytes = text_bytes = 0
    for path in (store / "raw").rglob("*.zst"):
        data = path.read_bytes()
        raw_bytes += len(data)
        text_bytes += _decompressed(data)
    floor_raw = time.process_time() - floor_raw
    dates = sorted({path.parent.parent.name for path in (store / "raw").rglob("*.zst")})
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    began = time.monotonic()
    peak_mib = max(_run_watched(command("merge", "--date", date, "--market", market, "--store", store)) for date in dates)
    wall = time.monotonic() - began
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - usage.ru_utime - usage.ru_stime
    days = [day for day in twintape.open(str(store)).days() if day.stream.startswith("depth@")]
    proofs = [twintape.open(str(store)).proof(market, symbol, day.date, day.stream) for day in days]
    files = [store / day.files["depth"] for day in days]
    floor_write = time.process_time()
    for path in files:
        sink = io.BytesIO()
        pq.write_table(pq.read_table(path), sink, compression="zstd", compression_level=3, use_dictionary=False)
    floor_write = time.process_time() - floor_write
    events = sum(proof.events for proof in proofs)
    levels = sum(proof.levels for proof in proofs)
    heard = sum(line.frames for proof in proofs for line in proof.lines)
    floor = floor_raw + floor_write
    return {
        "raw_bytes": raw_bytes,
        "raw_text_bytes": text_bytes,
        "events": events,
        "levels": levels,
        "input_events": heard,
        "statuses": [proof.status for proof in proofs],
        "gaps": sum(len(proof.gaps) for proof in proofs),
        "wall_s": round(wall, 2),
        "cpu_s": round(cpu, 2),
        "input_events_per_cpu_s": round(heard / cpu),
        "floor_cpu_s": round(floor, 2),
        "cpu_over_floor": round(cpu / floor, 2),
        "depth_bytes_per_level": round(sum(path.stat().st_size for path in files) / levels, 3),
        "all_outputs_bytes_per_level": round(sum(output.size for proof in proofs for output in proof.outputs) / levels, 3),
        "raw_bytes_per_level_and_line": round(raw_bytes / 3 / levels, 3),
        "peak_rss_mib": peak_mib,
    }


def _decompressed(data: bytes) -> int:
    from backports import zstd

    return len(zstd.decompress(data[: int.from_bytes(data[-16:-8], "little")]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--file", type=Path, default=Path(__file__).parents[1].parent / "shared/corpus/spot_btcusdt_20240809.gz")
    parser.add_argument("--market", default="spot")
    parser.add_argument("--repeat", type=int, default=20)
    options = parser.parse_args()
    tape = repeated(options.file, options.repeat)
    stream = next(re.search(rb'"stream":"([^"@]+)@(depth[^"]*)"', line) for line in tape if b"depthUpdate" in line[:160])
    symbol, depth = stream[1].decode().upper(), stream[2].decode()
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        (root / "tape.txt").write_bytes(b"\n".join(tape) + b"\n")
        result = {
            "file": options.file.name,
            "repeat": options.repeat,
            "lines": len(tape),
            "bytes": sum(map(len, tape)),
            "recording": record(root, root / "tape.txt", options.market, symbol, [depth, "bookTicker"]),
            "frame_path_us": frame_path(),
            "merge": merge(root, [line for line in tape if b"@bookTicker" not in line[:80]], options.market, symbol),
        }
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
