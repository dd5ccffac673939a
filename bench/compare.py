"""Compare lines of a made-up exchange: no false alarm among a million identical events, and the time beside that of a merge.

    uv run python bench/compare.py [--events 1000000] [--lines 3]

A market is made up once and repeated with ids and times moved on, so that the events are many and the making is short. Prints one JSON object;
exit code 1 if identical lines differ in anything.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
import time
from pathlib import Path

from twintape.columns.expand import Outputs
from twintape.columns.lines import Chunk
from twintape.columns.merge import DayRequest, merge_depth_day
from twintape.columns.report import compare_stream
from twintape.columns.verify import verify_day
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


def merged(lines: list[tuple[str, list[Chunk]]]) -> float:
    """CPU seconds of a merge and of the verification that belongs to it, without fetching and publishing."""
    begin = time.process_time()
    request = DayRequest(Market.SPOT, "BTCUSDT", "depth@100ms", time.strftime("%Y-%m-%d", time.gmtime(START_NS // 10**9)))
    chunks = [chunk for _, own in lines for chunk in own]
    day = merge_depth_day(request, chunks)
    outputs = Outputs({table.name: table.data for table in day.tables})
    verify_day(chunks, outputs, date=request.date, market=Market.SPOT, start_update_id=None, end_update_id=None)
    return time.process_time() - begin


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--lines", type=int, default=2)
    parser.add_argument("--merge", action="store_true", help="also merge the same lines")
    arguments = parser.parse_args()
    base = base_frames()
    with tempfile.TemporaryDirectory() as scratch:
        names = [f"line{number}" for number in range(arguments.lines)]
        lines = [(name, chunks_of(name, base, arguments.events, Path(scratch))) for name in names]
        compare_stream("WARM", "depth", [(name, chunks[:1]) for name, chunks in lines], Market.SPOT)
        begin = time.process_time()
        report = compare_stream("BTCUSDT", "depth@100ms", lines, Market.SPOT)
        seconds = time.process_time() - begin
        merge_seconds = None
        if arguments.merge:
            merged([(name, chunks[:1]) for name, chunks in lines])
            merge_seconds = round(merged(lines), 1)
    alarms = {f"{pair.a}|{pair.b}": pair.findings for pair in report.pairs if pair.findings}
    rates = {f"{pair.a}|{pair.b}": {name: [r.count, r.of] for name, r in pair.levels.items()} for pair in report.pairs}
    windows = sum(pair.windows_a for pair in report.pairs)
    print(
        json.dumps(
            {
                "windows": windows,
                "cpu_seconds": round(seconds, 1),
                "merge_cpu_seconds": merge_seconds,
                "rates": rates,
                "false_alarms": alarms,
            }
        )
    )
    return 1 if alarms else 0


if __name__ == "__main__":
    sys.exit(main())
