"""A made-up day of one busy spot symbol, recorded by three collectors: the input of `merge_day.py`, made fast and kept.

Nothing of it is market data. Its shape is: ten events a second with 46 levels each, four in ten of them removals, prices with eight decimals of which two
are used, a book that never crosses, 45-second segments with open and clock lines, an hourly REST snapshot of 5,000 levels a side. The lines differ in
receive times and, now and then, in `E`; each has holes of its own, one hole is common to all, and the third line may be cut at other ids.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import numba
import numpy as np
from backports import zstd

from twintape.core import wire
from twintape.core.index import FORMAT, Block, ChainLink, Index, StreamIndex, index_frame
from twintape.core.markets import Market

SYMBOL, STREAM, DATE = "BTCUSDT", "depth@100ms", "2026-03-14"
COLLECTORS = ("alpha", "beta", "gamma")
EVENTS_DAY, SEGMENT_EVENTS, PERIOD_US = 864_000, 450, 100_000
TICKS, MIDDLE, PRICE_BASE = 1 << 17, 1 << 16, 6_100_000
FIRST_ID = 90_000_000_000
HOLES = 6
SNAPSHOT_LEVELS = 5000
BLOCK_TEXT = 1 << 20
TAIL_BYTES = 1 << 23
COMPRESSION = {zstd.CompressionParameter.compression_level: 1, zstd.CompressionParameter.checksum_flag: 1}
# The state: random, book middle, next id, half events made, changes that wait for the other half.
RANDOM, MID, ID, HALVES, WAITING, FIRST_WAITING = range(6)


@numba.njit(cache=True)
def _draw(state, below):
    state[0] += np.uint64(0x9E3779B97F4A7C15)
    word = state[0]
    word = (word ^ (word >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    word = (word ^ (word >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.int64((word ^ (word >> np.uint64(31))) >> np.uint64(33)) % below


@numba.njit(cache=True)
def _distance(seed):
    kind = _draw(seed, 100)
    if kind < 45:
        return _draw(seed, 12)
    if kind < 80:
        return _draw(seed, 1 << (4 + _draw(seed, 8)))
    return 100 * _draw(seed, 200) + 1 if kind < 90 else _draw(seed, 20_000)


@numba.njit(cache=True)
def _quantity(seed):
    kind = _draw(seed, 100)
    if kind < 30:
        return 9 * (1 + _draw(seed, 40))
    return 1 + _draw(seed, 1 << (4 + _draw(seed, 14)))


@numba.njit(cache=True)
def _half(seed, numbers, book, changes, count):
    """Draw half an event's changes: `(side, tick, quantity)` behind the `count` that are there."""
    moved = _draw(seed, 3) - 1 if _draw(seed, 4) == 0 else 0
    if _draw(seed, 200) == 0:
        moved *= 1 + _draw(seed, 40)
    mid = min(max(numbers[MID] + moved, 1 << 14), book.shape[1] - (1 << 14))
    side = 1 if mid > numbers[MID] else 0
    low, high = min(mid, numbers[MID]), max(mid, numbers[MID])
    for tick in range(low, high + 1):  # what the middle has passed is taken
        if book[side, tick] and ((side == 1 and tick < mid) or (side == 0 and tick >= mid)):
            book[side, tick] = 0
            changes[count] = side, tick, 0
            count += 1
    numbers[MID] = mid
    for _ in range(20 + _draw(seed, 19)):
        side = _draw(seed, 2)
        away = _distance(seed)
        tick = mid + away if side else mid - 1 - away
        if tick < 0 or tick >= book.shape[1]:
            continue
        quantity = 0 if _draw(seed, 10) < 4 else _quantity(seed)
        book[side, tick] = quantity
        changes[count] = side, tick, quantity
        count += 1
    numbers[ID] += count + _draw(seed, 12)
    return count


@numba.njit(cache=True)
def _digits(out, at, value, count):
    for place in range(count - 1, -1, -1):
        out[at + place] = 48 + value % 10
        value //= 10
    return at + count


@numba.njit(cache=True)
def _integer(out, at, value):
    count, rest = 1, value // 10
    while rest:
        count += 1
        rest //= 10
    return _digits(out, at, value, count)


@numba.njit(cache=True)
def _copy(out, at, text):
    out[at : at + text.size] = text
    return at + text.size


@numba.njit(cache=True)
def _tail(out, at, first, last, changes, count, mark, number, base, words):
    """Print `"s":…` to the end of a frame; of several changes of one level the last one counts, best levels first."""
    kept = np.empty((count, 2), np.int64)
    at = _copy(out, at, words[0])
    at = _integer(out, at, first)
    at = _copy(out, at, words[1])
    at = _integer(out, at, last)
    for side in range(2):
        at = _copy(out, at, words[2 + side])
        used = 0
        for position in range(count - 1, -1, -1):
            if changes[position, 0] != side or mark[side, changes[position, 1]] == number:
                continue
            tick = changes[position, 1]
            mark[side, tick] = number
            place = used
            while place > 0 and (kept[place - 1, 0] > tick) == (side == 1):
                kept[place] = kept[place - 1]
                place -= 1
            kept[place, 0], kept[place, 1] = tick, changes[position, 2]
            used += 1
        for position in range(used):
            price, quantity = base + kept[position, 0], kept[position, 1]
            at = _copy(out, at, words[4])
            at = _integer(out, at, price // 100)
            out[at] = 46
            at = _digits(out, at + 1, price % 100, 2)
            at = _copy(out, at, words[5])
            at = _integer(out, at, quantity // 100_000)
            out[at] = 46
            at = _digits(out, at + 1, quantity % 100_000, 5)
            at = _copy(out, at, words[6])
        at -= used > 0
        out[at] = 93
        at += 1
    out[at], out[at + 1], out[at + 2] = 125, 125, 10
    return at + 3


@numba.njit(cache=True)
def _events(seed, numbers, book, changes, mark, recut, base, words, out, ends, ids, out_cut, ends_cut, ids_cut):
    """Make `len(ends)` events: their tails, and those of the windows that lie half an event later."""
    at = at_cut = 0
    for event in range(ends.size):
        first = numbers[ID] + 1
        half = _half(seed, numbers, book, changes, 0)
        middle = numbers[ID]
        if recut:
            # What waits is the second half of the event before.
            waiting = numbers[WAITING]
            changes[4096 + waiting : 4096 + waiting + half] = changes[:half]
            start = numbers[FIRST_WAITING]
            number = 2 * numbers[HALVES] + 1
            at_cut = _tail(out_cut, at_cut, start, middle, changes[4096:], waiting + half, mark, number, base, words)
            ends_cut[event], ids_cut[event, 0], ids_cut[event, 1] = at_cut, start, middle
        count = _half(seed, numbers, book, changes[half:], 0) + half
        numbers[HALVES] += 1
        if recut:
            numbers[WAITING], numbers[FIRST_WAITING] = count - half, middle + 1
            changes[4096 : 4096 + count - half] = changes[half:count]
        at = _tail(out, at, first, numbers[ID], changes, count, mark, 2 * numbers[HALVES], base, words)
        ends[event], ids[event, 0], ids[event, 1] = at, first, numbers[ID]


@numba.njit(cache=True)
def _lines(out, tails, ends, chosen, receive_time_ns, event_time_ms, head):
    """Put a line's receive times and `E` before the tails of the events it heard; returns where each line ends."""
    at = 0
    stops = np.empty(chosen.size, np.int64)
    for place, event in enumerate(chosen):
        at = _integer(out, at, receive_time_ns[event])
        at = _copy(out, at, head)
        at = _integer(out, at, event_time_ms[event])
        at = _copy(out, at, tails[ends[event - 1] if event else 0 : ends[event]])
        stops[place] = at
    return stops


def _bytes(text: bytes):
    return np.frombuffer(text, np.uint8)


WORDS = tuple(_bytes(text) for text in (b',"s":"BTCUSDT","U":', b',"u":', b',"b":[', b',"a":[', b'["', b'000000","', b'000"],'))
HEAD = _bytes(f' {{"stream":"{SYMBOL.lower()}@{STREAM}","data":{{"e":"depthUpdate","E":'.encode())


@dataclass(frozen=True)
class Day:
    """A generated day: the directory of its store and what is in it, of the date alone."""

    store: Path
    events: int
    input_events: int
    levels_per_event: float
    text_bytes: int
    raw_bytes: int
    seconds: float


class _Collector:
    """Writes one collector's segments."""

    def __init__(self, name: str, number: int, store: Path, events: int, seed: int) -> None:
        self.name, self.number, self.store = name, number, store
        self.run = hashlib.sha256(f"{name}{seed}".encode()).hexdigest()[:32]
        self.connection, self.sequence = 1, 0
        self.chain_number, self.previous = 0, None
        self.random = np.random.default_rng([seed, number])
        self.common = events // 2 + 100
        self.holes = sorted(self.random.choice(events // SEGMENT_EVENTS, HOLES, replace=False).tolist())
        self.event_time_us: int | None = None
        self.heard = self.text = self.raw = 0

    def write(self, first_us: int, at: int, tails, ends, ids, snapshot: tuple[int, bytes] | None, *, inside: bool) -> None:
        count = len(ends)
        number = at // SEGMENT_EVENTS
        chosen = np.ones(count, bool)
        if number in self.holes:
            chosen[120 : 120 + 17 * (self.number + 2)] = False
        common = self.common - at
        if 0 <= common < count:
            chosen[common : common + 20] = False
        times_ms = first_us // 1000 + 7 + 100 * np.arange(count) + (self.random.random(count) < 0.03) * (1 + self.number)
        delay = 2_000_000 + 40_000_000 * self.number + self.random.gamma(2.0, 1_500_000, count).astype(np.int64)
        received = np.maximum.accumulate(times_ms * 1_000_000 + delay) + np.arange(count)
        head = self._open(first_us)
        streams = [("!twintape", [(b"%d %b\n" % line, None) for line in head], None)]
        buffer = np.empty(int(ends[-1]) + count * 160, np.uint8)
        rows = np.flatnonzero(chosen)
        stops = _lines(buffer, tails, ends, rows, received, times_ms, HEAD)
        blocks, parts, offset = [], [], 0
        control = b"".join(text for text, _ in streams[0][1])
        before = self.event_time_us if self.event_time_us is not None else int(times_ms[rows[0]]) * 1000
        offset = self._block(parts, blocks, offset, control, before, len(head), head[0][0], head[-1][0])
        control_blocks, depth_blocks, start = blocks, [], 0
        while start < len(rows):
            begin = int(stops[start - 1]) if start else 0
            stop = int(np.searchsorted(stops, begin + BLOCK_TEXT, side="right"))
            part = rows[start:stop]
            chain = ids[part]
            offset = self._block(
                parts, depth_blocks, offset, buffer[begin : stops[stop - 1]].tobytes(), int(times_ms[part[-1]]) * 1000, len(part),
                int(received[part[0]]), int(received[part[-1]]), times_us=times_ms[part] * 1000, chain=chain,
            )  # fmt: skip
            start = stop
        found = [StreamIndex("!twintape", *wire.split_stream("!twintape"), len(head), tuple(control_blocks))]
        name = f"{SYMBOL.lower()}@{STREAM}"
        found.append(StreamIndex(name, *wire.split_stream(name), len(rows), tuple(depth_blocks)))
        last = int(received[rows[-1]])
        if snapshot is not None:
            last += 5_000_000
            body = wire.snapshot_line(
                symbol=SYMBOL, url=f"https://api.binance.com/api/v3/depth?symbol={SYMBOL}&limit={SNAPSHOT_LEVELS}",
                request_time_ns=last - 3_000_000, response_time_ns=last, status=200, body=snapshot[1],
            )  # fmt: skip
            own: list[Block] = []
            offset = self._block(parts, own, offset, b"%d %b\n" % (last, body), int(times_ms[rows].max()) * 1000, 1, last, last)
            name = f"{SYMBOL.lower()}@{wire.SNAPSHOT}"
            found.append(StreamIndex(name, *wire.split_stream(name), 1, tuple(own)))
        self._store(parts, found, offset, head[0][0], last, int(times_ms[rows].min()) * 1000, int(times_ms[rows].max()) * 1000)
        if inside:
            self.heard += len(rows)
            self.text += int(stops[-1])
        if number in self.holes:
            self.connection, self.sequence = self.connection + 1, 0

    def _open(self, first_us: int) -> list[tuple[int, bytes]]:
        self.sequence += 1
        opened = first_us * 1000 + 1_000_000
        line = wire.open_line(
            collector=self.name, market="spot", run=self.run, connection=self.connection, sequence=self.sequence, version="bench",
            url="wss://stream.binance.com:9443/stream", streams=[f"{SYMBOL.lower()}@{STREAM}"], event_time_us=self.event_time_us,
        )  # fmt: skip
        clock = wire.clock_line(wall_ns=opened + 1, monotonic_ns=opened, offset_ns=12_000, error_ns=400_000, source="chrony")
        return [(opened, line), (opened + 1, clock)]

    def _block(self, parts, blocks, offset, text, time_us, count, first_ns, last_ns, *, times_us=None, chain=None) -> int:
        data = zstd.compress(text, options=COMPRESSION)
        parts.append(data)
        blocks.append(
            Block(
                date=_date(time_us), offset=offset, size=len(data), sha256=hashlib.sha256(data).hexdigest(), text_size=len(text),
                count=count, first_receive_time_ns=first_ns, last_receive_time_ns=last_ns,
                event_time_us_min=None if times_us is None else int(times_us.min()),
                event_time_us_max=None if times_us is None else int(times_us.max()),
                first_prev_update_id=None if chain is None else int(chain[0, 0]) - 1,
                last_final_update_id=None if chain is None else int(chain[-1, 1]),
                breaks=0 if chain is None else int((chain[1:, 0] - 1 != chain[:-1, 1]).sum()),
            )
        )  # fmt: skip
        return offset + len(data)

    def _store(self, parts, streams, offset, first_ns, last_ns, least_us, greatest_us) -> None:
        chain = ChainLink(
            id=self.run[:16], number=self.chain_number, previous=self.previous, reason=None if self.chain_number else "new spool"
        )
        hour = greatest_us // 3_600_000_000 % 24
        index = Index(
            format=FORMAT, collector=self.name, market=Market.SPOT, run=self.run, connection=self.connection, sequence=self.sequence,
            chain=chain, date=_date(greatest_us), hour=hour, count=sum(stream.count for stream in streams), unchecked_count=0,
            text_size=sum(block.text_size for stream in streams for block in stream.blocks), first_receive_time_ns=first_ns,
            last_receive_time_ns=last_ns, event_time_us_min=least_us, event_time_us_max=greatest_us, order=None, streams=tuple(streams),
        )  # fmt: skip
        data = b"".join([*parts, index_frame(index, offset)])
        sha256 = hashlib.sha256(data).hexdigest()
        path = self.store / index.raw_key(sha256).key()
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        self.chain_number, self.previous, self.event_time_us = self.chain_number + 1, sha256, greatest_us
        self.raw += len(data)


def _date(time_us: int) -> str:
    return (datetime.date(1970, 1, 1) + datetime.timedelta(days=time_us // 86_400_000_000)).isoformat()


def _snapshot(book, numbers) -> tuple[int, bytes]:
    mid = int(numbers[MID])
    bids = np.flatnonzero(book[0, :mid])[::-1][:SNAPSHOT_LEVELS].tolist()
    asks = (mid + np.flatnonzero(book[1, mid:])[:SNAPSHOT_LEVELS]).tolist()

    def levels(side: int, ticks: list[int]) -> str:
        rows = []
        for tick in ticks:
            price, quantity = PRICE_BASE + tick, int(book[side, tick])
            rows.append(f'["{price // 100}.{price % 100:02}000000","{quantity // 100_000}.{quantity % 100_000:05}000"]')
        return ",".join(rows)

    last = int(numbers[ID])
    return last, f'{{"lastUpdateId":{last},"bids":[{levels(0, bids)}],"asks":[{levels(1, asks)}]}}'.encode()


def generate(cache: Path, *, scale: float = 1.0, seed: int = 1, recut: bool = False) -> Day:
    """Make a day, or find it made before.

    Args:
        cache: Directory that keeps it.
        scale: Part of a day: events a day times this; the hours in between are left out.
        seed: Of everything that is drawn.
        recut: Whether the third line is cut at other ids.
    """
    version = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:12]
    root = cache / f"day-{version}-{scale:g}-{seed}{'-recut' if recut else ''}"
    about = root / "about.json"
    if not about.exists():
        shutil.rmtree(root, ignore_errors=True)
        about.parent.mkdir(parents=True)
        about.write_text(json.dumps(_generate(root / "store", scale, seed, recut=recut)))
    return Day(store=root / "store", **json.loads(about.read_text()))


def _generate(store: Path, scale: float, seed: int, *, recut: bool) -> dict[str, float]:
    began = time.monotonic()
    segments_day = max(8, round(EVENTS_DAY * scale / SEGMENT_EVENTS))
    seeds = np.array([seed], np.uint64)
    numbers = np.zeros(6, np.int64)
    numbers[MID], numbers[ID] = MIDDLE, FIRST_ID
    book = np.zeros((2, TICKS), np.int64)
    filled = np.random.default_rng(seed)
    for side, start in ((0, MIDDLE - 12_000), (1, MIDDLE)):
        book[side, start : start + 12_000] = filled.integers(0, 3, 12_000) * filled.integers(1, 90_000, 12_000)
    changes = np.zeros((8192, 3), np.int64)
    mark = np.zeros((2, TICKS), np.int64)
    numbers[FIRST_WAITING] = FIRST_ID + 1
    collectors = [_Collector(name, number, store, segments_day * SEGMENT_EVENTS, seed) for number, name in enumerate(COLLECTORS)]
    midnight_us = int(datetime.datetime.fromisoformat(f"{DATE}T00:00+00:00").timestamp()) * 1_000_000
    span = SEGMENT_EVENTS * PERIOD_US
    per_hour = 3_600_000_000 // span
    brackets = 0
    for segment in range(-1, segments_day + 1):
        # A part of a day is its first hours and its last segment: both midnights are there.
        place = segment if segment < segments_day - 1 else segment - segments_day + EVENTS_DAY // SEGMENT_EVENTS
        tails, cut = np.empty(TAIL_BYTES, np.uint8), np.empty(TAIL_BYTES if recut else 0, np.uint8)
        ends, ends_cut = np.zeros(SEGMENT_EVENTS, np.int64), np.zeros(SEGMENT_EVENTS, np.int64)
        ids, ids_cut = np.zeros((SEGMENT_EVENTS, 2), np.int64), np.zeros((SEGMENT_EVENTS, 2), np.int64)
        _events(seeds, numbers, book, changes, mark, recut, PRICE_BASE, WORDS, tails, ends, ids, cut, ends_cut, ids_cut)
        inside = 0 <= segment < segments_day
        if inside:
            brackets += int(np.count_nonzero(tails[: ends[-1]] == 91)) - 2 * SEGMENT_EVENTS
        for collector in collectors:
            taken = place % per_hour == 3 + 4 * collector.number or segment == -1
            own = (cut, ends_cut, ids_cut) if recut and collector.number == 2 else (tails, ends, ids)
            snapshot = _snapshot(book, numbers) if taken else None
            collector.write(midnight_us + place * span, segment * SEGMENT_EVENTS, *own, snapshot, inside=inside)
    events = segments_day * SEGMENT_EVENTS
    return {
        "events": events,
        "input_events": sum(collector.heard for collector in collectors),
        "levels_per_event": brackets / events,
        "text_bytes": sum(collector.text for collector in collectors),
        "raw_bytes": sum(collector.raw for collector in collectors),
        "seconds": round(time.monotonic() - began, 1),
    }
