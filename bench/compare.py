"""Two questions about `twintape compare`: does it raise a false alarm, and does a comparison cost less than a merge?

    uv run python bench/compare.py [--events 1000000] [--lines 3]
    uv run python bench/compare.py --day [--scale 1.0] [--recut] [--rounds 3]

The first compares lines that are identical: a market is made up once and repeated with ids and times moved on, so that the events are many and the making is
short. Exit code 1 if identical lines differ in anything.

The second compares and merges the three lines of a BTC-sized day (`generated_day.py`, kept in `--cache`) as the commands do it, each in a process of its own
and in turn: CPU seconds of both, all in all, and peak memory. Exit code 1 if comparing took more.

Both print one JSON object.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from twintape.columns.lines import Chunk
from twintape.columns.report import compare_stream
from twintape.core.markets import Market
from twintape.core.synthetic import SyntheticConfig, SyntheticSource
from twintape.core.wire import decode_depth, is_depth, split_stream

ROUND = 5000
START_NS = 1_795_305_600 * 10**9
_FIELDS = re.compile(rb'"(E|U|u)":(\d+)')


def base_frames() -> list[tuple[int, bytes]]:
    config = SyntheticConfig(
        Market.SPOT,
        7,
        symbols_count=1,
        events_per_second=9.0,
        messages_count=ROUND,
        start_ns=START_NS,
        book_tickers=False,
        trades=False,
    )
    happenings = SyntheticSource(config).happenings()
    return [(m.time_ns, m.data) for m in happenings if hasattr(m, "stream") and is_depth(split_stream(m.stream)[1])]


def chunks_of(name: str, base: list[tuple[int, bytes]], events: int, root: Path) -> list[Chunk]:
    ids = [decode_depth(frame, Market.SPOT) for _, frame in base]
    span_ids = ids[-1].final_update_id - ids[0].prev_update_id
    span_ms = (base[-1][0] - base[0][0]) // 10**6 + 100
    moves = {b"E": span_ms, b"U": span_ids, b"u": span_ids}
    chunks = []
    for number in range(events // len(base)):
        text = b"".join(
            b"%d %b\n"
            % (
                time_ns + number * span_ms * 10**6 + len(name),
                _FIELDS.sub(lambda m, n=number: b'"%b":%d' % (m[1], int(m[2]) + n * moves[m[1]]), frame, count=3),
            )
            for time_ns, frame in base
        )
        path = root / f"{name}-{number}"
        path.write_bytes(text)
        chunks.append(Chunk(name, "aaaaaaaa-1", 0, time.strftime("%Y-%m-%d", time.gmtime(START_NS // 10**9)), path.read_bytes))
    return chunks


def false_alarms(events: int, count: int) -> tuple[dict, bool]:
    base = base_frames()
    with tempfile.TemporaryDirectory() as scratch:
        names = [f"line{number}" for number in range(count)]
        lines = [(name, chunks_of(name, base, events, Path(scratch))) for name in names]
        compare_stream("WARM", "depth", [(name, chunks[:1]) for name, chunks in lines], Market.SPOT)
        begin = time.process_time()
        report = compare_stream("BTCUSDT", "depth@100ms", lines, Market.SPOT)
        seconds = time.process_time() - begin
    alarms = {f"{pair.a}|{pair.b}": pair.findings for pair in report.pairs if pair.findings}
    rates = {f"{pair.a}|{pair.b}": {name: [r.count, r.of] for name, r in pair.levels.items()} for pair in report.pairs}
    windows = sum(pair.windows_a for pair in report.pairs)
    return {"windows": windows, "cpu_seconds": round(seconds, 1), "rates": rates, "false_alarms": alarms}, not alarms


# --- a day ---------------------------------------------------------------------------------------------------------------------


def job(store: str, date: str) -> None:
    """Run `twintape compare` here and print what it cost."""
    from twintape.cli import main

    sys.argv = ["twintape", "compare", "--store", store, "--date", date, "--json"]
    out, sys.stdout = sys.stdout, io.StringIO()
    try:
        main()
        code = 0
    except SystemExit as end:
        code = end.code
    text, sys.stdout = sys.stdout.getvalue(), out
    found = {f"{total['a']}|{total['b']}": [total["findings"], total["windows"]] for total in json.loads(text)["totals"]}
    peak = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    print(json.dumps({"code": code, "cpu_s": sum(os.times()[:4]), "peak_mib": int(peak[1]) / 1024, "found": found}))


def day(options: argparse.Namespace) -> tuple[dict, bool]:
    from generated_day import DATE, generate
    from merge_day import child, fresh_store

    options.cache.mkdir(parents=True, exist_ok=True)
    made = generate(options.cache, scale=options.scale, seed=1, recut=options.recut)
    rounds = []
    with tempfile.TemporaryDirectory(prefix="round-", dir=options.cache) as root:
        for _ in range(options.rounds):
            store = fresh_store(made.store, Path(root, "store"))
            ran = subprocess.run([sys.executable, __file__, "--job", store, DATE], check=True, stdout=subprocess.PIPE, text=True)
            rounds.append((json.loads(ran.stdout.splitlines()[-1]), child("--job", store, DATE)))

    def middle(of: int, name: str) -> float:
        return round(statistics.median(one[of][name] for one in rounds), 1)

    ratio = round(statistics.median(compared["cpu_s"] / merged["cpu_s"] for compared, merged in rounds), 3)
    found = {
        "scale": options.scale,
        "recut": options.recut,
        "rounds": len(rounds),
        "compare_cpu_s": middle(0, "cpu_s"),
        "merge_cpu_s": middle(1, "cpu_s"),
        "compare_over_merge": ratio,
        "compare_peak_mib": middle(0, "peak_mib"),
        "merge_peak_mib": middle(1, "peak_mib"),
        "found": rounds[0][0]["found"],
    }
    return found, ratio < 1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--lines", type=int, default=2)
    parser.add_argument("--day", action="store_true")
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--recut", action="store_true")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache" / "twintape" / "bench")
    parser.add_argument("--job", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.job:
        job(*options.job)
        return 0
    found, fine = day(options) if options.day else false_alarms(options.events, options.lines)
    print(json.dumps(found, indent=1))
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
