"""The merge of one busy day on one core: CPU against the floor no merge can go below, against hftbacktest's converter, and peak memory.

    uv run python bench/merge_day.py [--scale 0.02] [--recut] [--rounds 5] [--profile] [--corpus] [--peer PYTHON]

The job is `twintape merge`, from raw segments in a directory store to committed proofs, start-up and every check included: digests of objects and blocks,
every statement of every index, every line of every collector read, the outputs read back and rendered to exactly the raw lines. The input is made up
(`generated_day.py`) and kept in `--cache`.

The floor, measured in the same rounds: every block of the three lines decompressed once, and the one depth file written once with our writer and read back
once with our reader, in a process whose memory allocator is set as the job's is.

`--peer` names a Python that has hftbacktest (`uv venv .peer && uv pip install -p .peer hftbacktest numba`); its `binancefutures.convert` turns the first
`--peer-events` events of one line, printed as futures frames, from raw gzip into npz, JIT compilation left out. `--profile` adds CPU seconds by stage.
`--corpus` merges the recordings in ../shared/corpus and prints bytes a level. Everything is printed as JSON; ratios are medians of those of each round.
"""

from __future__ import annotations

import argparse
import gzip
import io
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

BENCH = Path(__file__).resolve().parent
sys.path.insert(0, str(BENCH))
CORPUS = BENCH.parents[1] / "shared" / "corpus"
BYTES_A_LEVEL_MAX = {"spot_btcusdt": 3.55, "usdm_btcusdt_20240808": 2.85, "usdm_btcusdt_202407": 3.1, "coinm_btcusd_perp": 3.2}
WARM_SCALE = 0.005
STAGES = {
    "list and indexes": ("twintape.io.merge", "_survey"),
    "fetch and check": ("twintape.io.merge", "_fetch"),
    "of it decompress, check, headers": ("twintape.io.scratch", "survey"),
    "gather headers": ("twintape.columns.merge", "read_lines"),
    "decide": ("twintape.columns.merge", "decide"),
    "snapshots": ("twintape.io.day", "_recorded_snapshots"),
    "levels, book, depth file": ("twintape.columns.merge", "_write_depth"),
    "arrival file": ("twintape.columns.merge", "_write_arrival"),
    "snapshot file": ("twintape.columns.merge", "_write_snapshots"),
    "statistics of lines": ("twintape.columns.findings", "line_statistics"),
    "put and read back": ("twintape.io.merge", "_publish_tables"),
    "verify": ("twintape.io.merge", "verify_task"),
    "proof": ("twintape.io.merge", "proof_of"),
}


# --- the job, in a process of its own ------------------------------------------------------------------------------------------


def job(store: str, date: str, profile: bool) -> None:
    """Run `twintape merge` here and print what it cost."""
    stages = _watch() if profile else {}
    from twintape.cli import main

    sys.argv = ["twintape", "merge", "--date", date, "--market", "spot", "--store", store, "--json"]
    out, sys.stdout = sys.stdout, io.StringIO()
    try:
        main()
    except SystemExit as end:
        code = end.code
    text, sys.stdout = sys.stdout.getvalue(), out
    times = os.times()
    peak = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    answer = {
        "code": code,
        "cpu_s": sum(times[:4]),
        "system_s": times.system,
        "peak_mib": int(peak[1]) / 1024 if peak else None,
        "outcomes": json.loads(text),
        "stages": {name: round(seconds, 2) for name, seconds in stages.items()},
    }
    print(json.dumps(answer))


def _watch() -> dict[str, float]:
    """Add up the CPU time of the functions of `STAGES`; what runs beside a stage on the same core counts for it too."""
    import asyncio
    import functools
    import importlib

    from twintape.io.allocator import use_small_pages

    use_small_pages()
    spent = {"start-up": 0.0} | dict.fromkeys(STAGES, 0.0)

    def timed(name, function):
        @functools.wraps(function)
        def call(*arguments, **named):
            began = time.process_time()
            found = function(*arguments, **named)
            if hasattr(found, "__next__"):
                found = iter([*found])
            spent[name] += time.process_time() - began
            return found

        @functools.wraps(function)
        async def wait(*arguments, **named):
            began = time.process_time()
            try:
                return await function(*arguments, **named)
            finally:
                spent[name] += time.process_time() - began

        return wait if asyncio.iscoroutinefunction(function) else call

    for name, (module, attribute) in STAGES.items():
        place = importlib.import_module(module)
        setattr(place, attribute, timed(name, getattr(place, attribute)))
    spent["start-up"] = time.process_time()
    return spent


# --- the floor, likewise -------------------------------------------------------------------------------------------------------


def floor(store: str, depth_file: str) -> None:
    """Print what decompressing all lines once, and writing and reading the depth file once, cost."""
    from twintape.io.allocator import keep_freed_memory, use_small_pages

    use_small_pages()
    keep_freed_memory()
    from twintape.columns.schema import DEPTH, TableReader, TableWriter
    from twintape.core import segment

    zstd = segment.zstd
    spent = {"decompress_s": 0.0, "write_s": 0.0, "read_s": 0.0}

    def clock(name, function):
        began = time.process_time()
        found = function()
        spent[name] += time.process_time() - began
        return found

    for path in sorted(Path(store, "raw").rglob("*.zst")):
        data = path.read_bytes()
        index = segment.read_index(data, len(data))
        for stream in index.streams:
            for block in stream.blocks:
                compressed = data[block.offset : block.offset + block.size]
                clock("decompress_s", lambda compressed=compressed: len(zstd.decompress(compressed)))
    reader = TableReader(Path(depth_file).read_bytes(), DEPTH)
    sink = io.BytesIO()
    writer = TableWriter(DEPTH, sink, templates=reader.templates)
    for group in range(reader.row_groups):
        batch = clock("read_s", lambda group=group: reader.read(group))
        clock("write_s", lambda batch=batch: writer.write(batch))
    clock("write_s", writer.close)
    assert sink.getvalue() == Path(depth_file).read_bytes(), "the writer's own settings"
    print(json.dumps(spent))


# --- the peer ------------------------------------------------------------------------------------------------------------------

PEER = """
import json, sys, time
from hftbacktest.data.utils import binancefutures
small, large = sys.argv[1:3]
binancefutures.convert(small, output_filename=small + ".npz")
began = time.process_time()
rows = len(binancefutures.convert(large, output_filename=large + ".npz"))
print(json.dumps({"cpu_s": time.process_time() - began, "rows": rows}))
"""


def peer_input(store: Path, events: int, path: Path) -> None:
    """Write the first events of the first line as a futures collector would have recorded them: the same ids, times and levels."""
    from twintape.core import segment

    shape = re.compile(rb'"E":(\d+),"s":"(\w+)","U":(\d+),')
    lines = []
    for source in sorted(Path(store, "raw/v1/alpha").rglob("*.zst"), key=lambda found: found.stat().st_mtime_ns):
        for name, received, frame in segment.lines_in_order(source.read_bytes()):
            if "@depth@" in name and len(lines) < events:
                futures = shape.sub(lambda m: b'"E":%b,"T":%b,"s":"%b","U":%b,' % (m[1], m[1], m[2], m[3]), frame, count=1)
                lines.append(b"%d %b\n" % (received, futures.replace(b',"b":[', b',"pu":0,"b":[', 1)))
        if len(lines) >= events:
            break
    with gzip.open(path, "wb", compresslevel=6) as file:
        file.writelines(lines)


def peer(python: str, store: Path, events: int, root: Path) -> dict[str, float]:
    small, large = root / "small.gz", root / "large.gz"
    if not large.exists():
        peer_input(store, 500, small)
        peer_input(store, events, large)
    ran = subprocess.run([python, "-c", PEER, small, large], check=True, capture_output=True, text=True)
    found = json.loads(ran.stdout.splitlines()[-1])
    return {"events_per_cpu_s": events / found["cpu_s"], "cpu_s": found["cpu_s"]}


# --- rounds --------------------------------------------------------------------------------------------------------------------


def child(cache: Path, *arguments: object) -> dict:
    # As in an installed program, modules are compiled beforehand: here they are kept beside the day, the first run of all fills them.
    surroundings = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    surroundings["PYTHONPYCACHEPREFIX"] = str(cache / "modules")
    command = [sys.executable, __file__, *map(str, arguments)]
    ran = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=surroundings)
    return json.loads(ran.stdout.splitlines()[-1])


def fresh_store(day_store: Path, work: Path) -> Path:
    """Return a store with the raw objects (hard links) and nothing else."""
    shutil.rmtree(work, ignore_errors=True)
    shutil.copytree(day_store / "raw", work / "raw", copy_function=os.link)
    return work


def measure(options: argparse.Namespace) -> dict:
    from generated_day import DATE, STREAM, SYMBOL, generate

    import twintape

    day = generate(options.cache, scale=options.scale, seed=options.seed, recut=options.recut)
    warm = generate(options.cache, scale=WARM_SCALE, seed=options.seed, recut=options.recut)
    rounds, proof = [], None
    with tempfile.TemporaryDirectory(prefix="round-", dir=options.cache) as root:
        for number in range(-1, options.rounds):
            # The round before the first one compiles modules and kernels where that has not been done, on a small part of the day.
            store = fresh_store((day if number >= 0 else warm).store, Path(root, "store"))
            ran = child(options.cache, "--job", store, DATE, *(["--profile"] if options.profile else []))
            if number < 0:
                continue
            archive = twintape.open(str(store))
            proof = archive.proof("spot", SYMBOL, DATE, STREAM)
            depth_file = next(path for path in (store / "depth").rglob("*.parquet"))
            one = {"job": ran, "floor": child(options.cache, "--floor", store, depth_file)}
            if options.peer:
                one["peer"] = peer(options.peer, store, options.peer_events, Path(root))
            rounds.append(one)
        sizes = {output.table: output.size for output in proof.outputs}
    return report(options, day, rounds, proof, sizes)


def report(options, day, rounds, proof, sizes) -> dict:
    def middle(function) -> float:
        return round(statistics.median(map(function, rounds)), 3)

    def floor_of(one) -> float:
        return sum(one["floor"].values())

    heard = sum(line.frames for line in proof.lines)
    found = {
        "scale": options.scale,
        "recut": options.recut,
        "rounds": len(rounds),
        "events": proof.events,
        "levels": proof.levels,
        "input_events": heard,
        "text_mib": round(day.text_bytes / 2**20, 1),
        "raw_mib": round(day.raw_bytes / 2**20, 1),
        "status": proof.status,
        "gaps": len(proof.gaps),
        "rendered": proof.verification.render_exact,
        "job_cpu_s": middle(lambda one: one["job"]["cpu_s"]),
        "job_system_s": middle(lambda one: one["job"]["system_s"]),
        "floor_cpu_s": middle(floor_of),
        **{f"floor_{name}": middle(lambda one, name=name: one["floor"][name]) for name in rounds[0]["floor"]},
        "cpu_over_floor": middle(lambda one: one["job"]["cpu_s"] / floor_of(one)),
        "cpu_over_floor_by_round": [round(one["job"]["cpu_s"] / floor_of(one), 2) for one in rounds],
        "input_events_per_cpu_s": middle(lambda one: heard / one["job"]["cpu_s"]),
        "text_mb_per_cpu_s": middle(lambda one: day.text_bytes / 1e6 / one["job"]["cpu_s"]),
        "peak_mib": max(one["job"]["peak_mib"] for one in rounds),
        "depth_bytes_per_level": round(sizes["depth"] / proof.levels, 3),
        "all_outputs_bytes_per_level": round(sum(sizes.values()) / proof.levels, 3),
    }
    if options.peer:
        found["peer_events"] = options.peer_events
        found["peer_events_per_cpu_s"] = middle(lambda one: one["peer"]["events_per_cpu_s"])
        found["input_events_over_peer"] = middle(
            lambda one: heard / one["job"]["cpu_s"] / one["peer"]["events_per_cpu_s"],
        )
    if options.profile:
        found["stages_cpu_s"] = {
            name: middle(lambda one, name=name: one["job"]["stages"][name]) for name in rounds[0]["job"]["stages"]
        }
        found["stages_text_mb_per_s"] = {
            name: round(day.text_bytes / 1e6 / seconds) for name, seconds in found["stages_cpu_s"].items() if seconds > 0.005
        }
    return found


# --- sizes on recordings -------------------------------------------------------------------------------------------------------


def corpus() -> dict[str, dict]:
    """Import and merge each recording of one symbol and return bytes a level."""
    import twintape

    found = {}
    for name, most in BYTES_A_LEVEL_MAX.items():
        files = sorted(CORPUS.glob(f"{name}*.gz"))
        market = name.split("_")[0]
        with tempfile.TemporaryDirectory() as store:
            command = [sys.executable, "-m", "twintape"]
            where = ["--market", market, "--store", store]
            subprocess.run(
                [*command, "import", *map(str, files), "--collector", "bench", *where], check=True, stdout=subprocess.DEVNULL
            )
            for date in sorted({path.parts[-3] for path in Path(store, "raw").rglob("*.zst")}):
                subprocess.run(
                    [*command, "merge", "--date", date, *where], check=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
                )
            archive = twintape.open(store)
            proofs = [
                archive.proof(d.market, d.symbol, d.date, d.stream) for d in archive.days() if d.stream.startswith("depth@")
            ]
            levels = sum(proof.levels for proof in proofs)
            depth = sum(output.size for proof in proofs for output in proof.outputs if output.table == "depth")
            everything = sum(output.size for proof in proofs for output in proof.outputs)
        found[name] = {
            "levels": levels,
            "depth_bytes_per_level": round(depth / levels, 3),
            "all_outputs_bytes_per_level": round(everything / levels, 3),
            "at_most": most,
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--recut", action="store_true")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache" / "twintape" / "bench")
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--corpus", action="store_true")
    parser.add_argument("--peer")
    parser.add_argument("--peer-events", type=int, default=20_000)
    parser.add_argument("--job", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--floor", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.job:
        job(*options.job, options.profile)
        return
    if options.floor:
        floor(*options.floor)
        return
    if options.corpus:
        print(json.dumps(corpus(), indent=1))
        return
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})  # and with it every process started from here
    options.cache.mkdir(parents=True, exist_ok=True)
    print(json.dumps(measure(options), indent=1))


if __name__ == "__main__":
    main()
