"""Hostile bytes for every decoder, and every bit of a segment turned over.

    uv run python bench/fuzz.py --executions 1000000
    uv run python bench/fuzz.py --flips

Each decoder gets so many inputs, four fifths of them mutated from valid ones. It may accept or refuse them with an error of ours; another exception, more
than a second, or growing memory is a finding, and the command ends with 1. Branches are counted over the first 20,000 inputs. `--flips` turns over each of
the 524,288 bits of a segment of 64 KiB, one at a time: reading it must fail each time.
"""

import argparse
import asyncio
import json
import resource
import sys
import tempfile
import time
from pathlib import Path

import coverage

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from support.flips import SEGMENT_BYTES, big_segment, unnoticed
from support.fuzzing import fire, targets
from support.store import Exchange, Recorder, generations, keys_of, merge, prune, put
from twintape.io.store import MemoryStore

COVERED_EXECUTIONS = 20_000
RSS_GROWTH_MIB_MAX = 64


def documents():
    """Return plans, proofs and receipts of a real night."""
    store = MemoryStore()
    for name, lost in (("tokyo", {7}), ("paris", {7, 20})):
        put(store, Recorder(name, lost={"BTCUSDT": lost}, snapshots=(0, 10)).seals([Exchange(events=45)]))
    with tempfile.TemporaryDirectory() as scratch:
        merge(store, scratch)
    prune(store, grace_h=-1, gapped_h=-1)
    read = [[asyncio.run(store.get(key)) for key in keys] for keys in (keys_of(store, "plan/"), generations(store))]
    return *read, [asyncio.run(store.get(key)) for key in keys_of(store, "receipt/") if key.endswith("/plan.json")]


def branches(target, executions, seed):
    """Return branches taken and branches there are in the target's functions."""
    measured = coverage.Coverage(branch=True, data_file=None, include=[f"*/twintape/c*/{module}.py" for module in target.code])
    measured.start()
    fire(target, executions, seed)
    measured.stop()
    with tempfile.NamedTemporaryFile(suffix=".json") as report:
        measured.json_report(outfile=report.name)
        files = json.loads(Path(report.name).read_text())["files"]
    taken = there = 0
    missing = []
    for module, functions in target.code.items():
        (found,) = [found for name, found in files.items() if name.endswith(f"/{module}.py")]
        for function in functions.split():
            summary = found["functions"][function]["summary"]
            taken += summary["covered_branches"]
            there += summary["num_branches"]
            if summary["missing_branches"]:
                missing.append(f"{function} {found['functions'][function]['missing_branches']}")
    return taken, there, missing


def rss_mib():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def fuzz(executions, seed, only):
    failed = False
    print(
        f"{'decoder':10}{'inputs':>10}{'mutated':>10}{'accepted':>10}{'refused':>10}{'branches':>10}{'slowest':>10}{'memory':>10}{'per s':>8}"
    )
    for target in targets(*documents()):
        if only and target.name not in only:
            continue
        taken, there, missing = branches(target, min(executions, COVERED_EXECUTIONS), seed)
        before, begin = rss_mib(), time.process_time()
        tally = fire(target, executions, seed)
        rate, grown = tally.executions / (time.process_time() - begin), rss_mib() - before
        print(
            f"{target.name:10}{tally.executions:10,}{tally.mutated:10,}{tally.accepted:10,}{tally.refused:10,}{taken:6}/{there:<3}"
            f"{tally.slowest_s * 1000:7.0f} ms{grown:6.0f} MiB{rate:8,.0f}",
            flush=True,
        )
        for line in missing:
            print(f"{'':10}not taken: {line}")
        for finding in tally.findings:
            print(finding)
        failed |= bool(tally.findings) or grown > RSS_GROWTH_MIB_MAX
    return failed


def flip():
    data = big_segment()
    begin = time.process_time()
    found = unnoticed(data, range(len(data) * 8))
    print(
        f"{len(data) * 8:,} bits of {SEGMENT_BYTES:,} bytes turned over, {len(found)} not noticed, {time.process_time() - begin:.0f} s of CPU"
    )
    return bool(found)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--executions", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--flips", action="store_true")
    arguments = parser.parse_args()
    failed = flip() if arguments.flips else fuzz(arguments.executions, arguments.seed, arguments.only)
    raise SystemExit(failed)


if __name__ == "__main__":
    main()
