"""The laws of merging, checked on one random case after the other.

A case is a stretch of a market whose book is known at every id, two to five lines of it, and what happens to lines: other windows, lost ranges,
frames doubled, late or stamped otherwise, reconnections, a midnight in between, ids that restart. Everything follows from the case's number.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from itertools import pairwise

from support.corpus import Recording
from support.lines import BEFORE, DATE, MIDNIGHT_US, Exchange, Heard, chunks_of, covered_ids, expanded, files, hear, rows
from support.oracle import cheapest_path
from twintape.columns import findings
from twintape.columns.books import BookRow, SnapshotCopy
from twintape.columns.merge import DayRequest, MergedDay, merge_depth_day
from twintape.core import wire
from twintape.core.gateway import GatewayOptions, Partition, Restamp
from twintape.core.markets import Market
from twintape.core.recut import GatewayView
from twintape.core.synthetic import SyntheticConfig, SyntheticSource
from twintape.core.venue import SymbolInfo, VenueMessage

UNIT = 18
NAMES = ("frankfurt", "london", "paris", "tokyo", "virginia")
SPLICE_EVENTS_MAX = 120
"""The exhaustive search is quadratic: longer stretches are left to the other laws."""

Sides = tuple[dict[int, int], dict[int, int]]


def whole(text: str) -> int:
    return int(Decimal(text).scaleb(UNIT))


@dataclass
class Stretch:
    """Some events of one id space: the book before them, and every change that cannot be divided further."""

    snapshot: wire.DepthSnapshot
    changes: list[tuple[int, tuple[wire.Level, ...], tuple[wire.Level, ...]]]
    messages: list[VenueMessage]
    source: SymbolInfo

    def books(self) -> Iterator[tuple[int, Sides]]:
        """Yield each id at which a change ends, with the book there: the same two dicts, changed as it goes."""
        bids, asks = ({whole(p): whole(q) for p, q in side} for side in (self.snapshot.bids, self.snapshot.asks))
        yield self.snapshot.last_update_id, (bids, asks)
        for final, *sides in self.changes:
            for book, levels in zip((bids, asks), sides, strict=True):
                for price, quantity in levels:
                    book[whole(price)] = whole(quantity)
                    if not book[whole(price)]:
                        del book[whole(price)]
            yield final, (bids, asks)

    def snapshot_at(self, wanted: int) -> wire.DepthSnapshot:
        for final, (bids, asks) in self.books():
            if final == wanted:
                sides = [sorted(bids.items(), reverse=True), sorted(asks.items())]
                texts = [tuple((plain(p), plain(q)) for p, q in side) for side in sides]
                return wire.DepthSnapshot(final, None, None, *texts)
        raise AssertionError(f"no change ends at {wanted}")


def plain(value: int) -> str:
    return f"{Decimal(value).scaleb(-UNIT):f}"


@dataclass
class Case:
    number: int
    market: Market
    stretches: list[Stretch]
    heard: list[Heard]
    snapshots: list[SnapshotCopy] = field(default_factory=list)

    @property
    def start_id(self) -> int:
        return self.stretches[0].snapshot.last_update_id

    @property
    def collectors(self) -> list[str]:
        return sorted({one.collector for one in self.heard})


# --- markets -------------------------------------------------------------------------------------------------------------------


def synthetic(rng: random.Random, market: Market, count: int, start_us: int) -> Stretch:
    source = SyntheticSource(
        SyntheticConfig(
            market,
            rng.randrange(10**6),
            symbols_count=1,
            events_per_second=9,
            messages_count=count,
            start_ns=start_us // 1000 * 10**6,
            levels=rng.choice([5, 40]),
            integration_fields=rng.random() < 0.5,
            book_tickers=False,
            trades=False,
        )
    )
    info = source.symbols[0]
    messages = [one for one in source.happenings() if isinstance(one, VenueMessage)]
    changes = [(piece.final_update_id, piece.bids, piece.asks) for message in messages for piece in message.pieces]
    return Stretch(info.snapshot, changes, messages, info)


def tiny(rng: random.Random, market: Market, count: int, start_us: int, start_id: int) -> Stretch:
    """An exchange of a handful of levels: the one whose ids can be chosen, so that they restart."""
    exchange = Exchange(market, rng.randrange(10**6), count, start_id=start_id, start_us=start_us)
    events = exchange.events([rng.randint(1, 4) for _ in range(3)])
    info = SymbolInfo("BTCUSDT", 2, 3, exchange.snapshot(start_id).snapshot)
    messages = [
        VenueMessage(event.time_us * 1000, market, "btcusdt@depth@100ms", wire.unwrap(event.print(wrapped=True)))
        for event in events
    ]
    return Stretch(info.snapshot, [(event.final, event.bids, event.asks) for event in events], messages, info)


class Tape:
    """A recording with its events decoded, and its true book at some of them."""

    def __init__(self, recording: Recording) -> None:
        self.recording = recording
        self.frames = [line.split(b" ", 1)[1] for line in recording.text.splitlines()]
        self.events = [wire.decode_depth(frame, recording.market) for frame in self.frames]
        self.books = list(_books_along(self, max(1, len(self.events) // 12)))


def _books_along(holder: Tape, step: int) -> Iterator[tuple[int, wire.DepthSnapshot]]:
    """Yield `(position, book before the event there)` now and then, following the recording from its own snapshot."""
    snapshot, market = holder.recording.snapshots[0], holder.recording.market
    first = next(
        k for k, event in enumerate(holder.events) if event.final_update_id >= snapshot.last_update_id + (market is Market.SPOT)
    )
    bids, asks = dict(snapshot.bids), dict(snapshot.asks)
    bids, asks = ({whole(p): whole(q) for p, q in side.items()} for side in (bids, asks))
    for position, event in enumerate(holder.events[first:], first):
        if position > first and (position - first) % step == 0:
            at = holder.events[position - 1].final_update_id
            sides = [sorted(bids.items(), reverse=True), sorted(asks.items())]
            yield position, wire.DepthSnapshot(at, None, None, *(tuple((plain(p), plain(q)) for p, q in side) for side in sides))
        for book, levels in ((bids, event.bids), (asks, event.asks)):
            for price, quantity in levels:
                book[whole(price)] = whole(quantity)
                if not book[whole(price)]:
                    del book[whole(price)]


def recorded(rng: random.Random, holder: Tape, count: int, start_us: int) -> Stretch:
    """A piece of a real recording; its times are moved to where the case plays."""
    position, snapshot = rng.choice(holder.books)
    market = holder.recording.market
    shift_ms = start_us // 1000 - holder.events[position].event_time_us // 1000
    messages, changes = [], []
    for frame, event in zip(holder.frames[position : position + count], holder.events[position : position + count], strict=True):
        data = json.loads(wire.unwrap(frame))
        for key in ("E", "T"):
            if key in data:
                data[key] += shift_ms
        text = json.dumps(data, separators=(",", ":")).encode()
        messages.append(VenueMessage(data["E"] * 10**6, market, f"{event.symbol.lower()}@depth@100ms", text))
        changes.append((event.final_update_id, event.bids, event.asks))
    return Stretch(snapshot, changes, messages, SymbolInfo(event.symbol, 2, 3, snapshot))


# --- lines ---------------------------------------------------------------------------------------------------------------------


def make(number: int, holders: Sequence[Tape] = ()) -> Case:
    """Return the case of a number; with recordings at hand it is a piece of one of them."""
    rng = random.Random(f"law {number}")
    count = rng.randint(3, 60)
    # Half of the cases have the midnight between their first and their last event.
    start_us = MIDNIGHT_US - (rng.randint(0, count * 100_000) if rng.random() < 0.5 else -3_600_000_000) // 1000 * 1000
    if holders:
        holder = rng.choice(holders)
        market, stretches = holder.recording.market, [recorded(rng, holder, count, start_us)]
    else:
        market = rng.choice(list(Market))
        if rng.random() < 0.6:
            stretches = [synthetic(rng, market, count, start_us)]
        else:
            high = 5_000_000_000
            stretches = [tiny(rng, market, count, start_us, high)]
            if rng.random() < 0.4:
                behind = stretches[0].messages[-1].time_ns // 1000 + 2_000_000
                stretches.append(tiny(rng, market, rng.randint(3, 40), behind, 1000))
    heard: list[Heard] = []
    for place, name in enumerate(NAMES[: rng.randint(2, 5)]):
        heard += _line(rng, market, stretches, name, place)
    case = Case(number, market, stretches, heard)
    for stretch in stretches:
        ids = [stretch.snapshot.last_update_id, *(final for final, *_ in stretch.changes)]
        wanted = {ids[0], *rng.sample(ids, min(len(ids), rng.randint(0, 3)))}
        times = {message_final(message, market): message.time_ns for message in stretch.messages}
        for last in sorted(wanted):
            time = next((time for final, time in times.items() if final >= last), stretch.messages[-1].time_ns)
            case.snapshots.append(SnapshotCopy(rng.choice(NAMES), "0000aaaa-1", time, 100_000, stretch.snapshot_at(last)))
    return case


def message_final(message: VenueMessage, market: Market) -> int:
    return wire.decode_depth(message.data, market).final_update_id


def _line(rng: random.Random, market: Market, stretches: Sequence[Stretch], name: str, place: int) -> list[Heard]:
    partition = rng.choice([Partition.IDENTICAL, Partition.IDENTICAL, Partition.SPLIT, Partition.SHIFTED])
    frames: list[bytes] = []
    for stretch in stretches:
        options = GatewayOptions(partition=partition, partition_rate=rng.choice([0.05, 0.5]), seed=rng.randrange(10**6))
        view = GatewayView(place, options, {market: [stretch.source]})
        said = [one for message in stretch.messages for one in view.feed(message)] + view.flush()
        frames += [b'{"stream":"%b","data":%b}' % (one.stream.encode(), one.data) for one in said]
    if market is Market.SPOT and rng.random() < 0.5:
        stamp = Restamp(f"{name} {rng.random()}", rng.choice([500, 3000]), microseconds=rng.random() < 0.2)
        frames = [stamp(frame) for frame in frames]
    for _ in range(rng.randint(0, 3)):
        begin = rng.randrange(len(frames)) if frames else 0
        del frames[begin : begin + rng.randint(1, 12)]
    change = rng.randrange(len(frames) + 1)
    latency_us = rng.randint(1, 300) * 1000
    start_us = stretches[0].messages[0].time_ns // 1000
    lines = [
        *hear(frames[:change], name, f"{place:08x}-1", delay_us=latency_us, start_us=start_us),
        *hear(frames[change:], name, f"{place:08x}-2", delay_us=latency_us, start_us=start_us),
    ]
    for _ in range(rng.randint(0, 2) if lines else 0):  # heard twice, as where connections overlap
        one = rng.choice(lines)
        lines.append(Heard(one.collector, f"{place:08x}-3", one.receive_time_ns + rng.randint(1, 10**9), one.frame))
    for _ in range(rng.randint(0, 2) if len(lines) > 1 else 0):  # out of order
        at = rng.randrange(len(lines) - 1)
        lines[at], lines[at + 1] = lines[at + 1], lines[at]
    return lines


# --- laws ----------------------------------------------------------------------------------------------------------------------


@dataclass
class Days:
    """The days of a case, each merged behind the one before, as nights do it."""

    days: list[MergedDay]

    @property
    def gaps(self) -> list[tuple[int, int]]:
        return [(gap.after_update_id, gap.next_prev_update_id) for day in self.days for gap in findings.gaps(day)]

    @property
    def files(self) -> list[dict[str, bytes]]:
        return [files(day) for day in self.days]


def merge_days(case: Case, chunks_of_day: Callable[[int], list], *, dates: Sequence[str] = (BEFORE, DATE)) -> Days:
    """Merge both dates in order: the second begins where the first ends, with its closing book."""
    merged: list[MergedDay] = []
    start: int | None = case.start_id
    opening: BookRow | None = None
    for number, date in enumerate(dates):
        request = DayRequest(
            market=case.market,
            symbol="BTCUSDT",
            stream="depth@100ms",
            date=date,
            start_update_id=start,
            opening=opening,
            snapshots=case.snapshots,
        )
        day = merge_depth_day(request, chunks_of_day(number))
        merged.append(day)
        start, opening = day.bounds.end_update_id, _closing(day)
    return Days(merged)


def _closing(day: MergedDay) -> BookRow | None:
    import numpy as np

    for row in rows(day, "snapshot"):
        if row["kind"] == "closing":
            sides = (np.array(row[name], np.int64) for name in ("bid_price", "bid_quantity", "ask_price", "ask_quantity"))
            return BookRow(row["last_update_id"], row["price_exponent"], row["quantity_exponent"], *sides)
    return None


def check(number: int, holders: Sequence[Tape] = ()) -> None:
    """Check every law on the case of a number.

    Raises:
        AssertionError: One does not hold; the message has the number.
    """
    case = make(number, holders)
    try:
        chunks = chunks_of(case.heard)
        days = merge_days(case, lambda _day: chunks)
        _gaps_are_exactly_the_ids_no_line_has(case, days)
        _every_frame_belongs_to_one_day(case, days)
        _books_are_the_undamaged_ones(case, days)
        _nothing_contradicts(days)
        _order_and_cuts_make_no_difference(case, days)
        _merging_again_changes_nothing(case, days)
        _a_line_more_never_widens_a_gap(case, days)
        _the_path_is_the_cheapest(case, days)
    except AssertionError as error:
        raise AssertionError(f"case {number}: {error}") from error


def _in_stretch(case: Case, one: Heard) -> int:
    final = wire.decode_depth(one.frame, case.market).final_update_id
    return next(k for k, s in enumerate(case.stretches) if s.snapshot.last_update_id < final <= s.changes[-1][0])


def _union(case: Case, heard: Sequence[Heard]) -> list[list[tuple[int, int]]]:
    """Return the ids the lines cover, by stretch."""
    parts: list[list[Heard]] = [[] for _ in case.stretches]
    for one in heard:
        parts[_in_stretch(case, one)].append(one)
    return [covered_ids(part, case.market) for part in parts]


def _gaps_are_exactly_the_ids_no_line_has(case: Case, days: Days) -> None:
    holes = []
    for number, union in enumerate(_union(case, case.heard)):
        edge = [(case.start_id, case.start_id)] if number == 0 and union else []
        holes += [(a[1], b[0]) for a, b in pairwise([*edge, *union]) if a[1] < b[0]]
    assert days.gaps == holes, f"gaps {days.gaps}, ids that no line has {holes}"


def _every_frame_belongs_to_one_day(case: Case, days: Days) -> None:
    inside = sum(int((day.fates.fate != 0).sum()) for day in days.days)
    assert inside == len(case.heard), f"{inside} of {len(case.heard)} frames settled"


def _books_are_the_undamaged_ones(case: Case, days: Days) -> None:
    """Behind every row the archive's book is the true one, or said to be unknown: and that only behind a gap with no snapshot since."""
    truths = [stretch.books() for stretch in case.stretches]
    position = 0
    final_true, true = next(truths[0])
    book: Sides | None = None
    started = False
    for day in days.days:
        tables = rows(day, "snapshot")
        anchors = [row for row in tables if row["verdict"] == "anchor"]
        for row in rows(day, "depth"):
            if row["flags"] & 8:
                position += 1
                final_true, true = next(truths[position])
            while final_true < row["final_update_id"]:
                final_true, true = next(truths[position])
            if row["flags"] & 9 or not started:
                book = None
            started = True
            if row["flags"] & 16:
                assert book is None, f"the book is unknown at {row['final_update_id']} for no reason"
                continue
            if book is None:
                meets = [one for one in anchors if row["prev_update_id"] <= one["last_update_id"] <= row["final_update_id"]]
                assert meets, f"a known book at {row['final_update_id']} out of nowhere"
                book = ({}, {})
                _apply(book, meets[0])
            _apply(book, row)
            assert final_true == row["final_update_id"], (
                f"the chain stands at {row['final_update_id']}, inside an indivisible change"
            )
            assert book == true, f"another book at {row['final_update_id']}"


def _apply(book: Sides, row: dict) -> None:
    price, quantity = (10 ** (UNIT + row[f"{name}_exponent"]) for name in ("price", "quantity"))
    for side, levels in zip(("bid", "ask"), book, strict=True):
        for p, q in zip(row[f"{side}_price"], row[f"{side}_quantity"], strict=True):
            levels[p * price] = q * quantity
            if not q:
                del levels[p * price]


def _nothing_contradicts(days: Days) -> None:
    for day in days.days:
        assert day.checkpoints.failed == 0, f"snapshots contradict: {day.checkpoints.failures}"
        assert not day.fates.fate.tolist().count(4), "conflicts among lines of one exchange"
        assert (day.windows.omitted, day.windows.conflicting) == (0, 0), f"windows differ: {day.windows.examples}"


def _order_and_cuts_make_no_difference(case: Case, days: Days) -> None:
    rng = random.Random(case.number)
    chunks = chunks_of(case.heard, sizes=[rng.randint(1, 9) for _ in range(3)])
    rng.shuffle(chunks)
    assert merge_days(case, lambda _day: chunks).files == days.files, "the order of the lines made a difference"


def _merging_again_changes_nothing(case: Case, days: Days) -> None:
    again = merge_days(case, lambda number: _expanded(days.days[number], number))
    assert again.files == days.files, "merging what was merged made a difference"


def _expanded(day: MergedDay, number: int) -> list:
    from dataclasses import replace

    return [replace(chunk, date=(BEFORE, DATE)[number]) for chunk in expanded(day)]


def _a_line_more_never_widens_a_gap(case: Case, days: Days) -> None:
    others = case.collectors[:-1]
    fewer = [one for one in case.heard if one.collector in others]
    before = merge_days(case, lambda _day: chunks_of(fewer)).gaps
    was = [*before, *_edges(case, fewer)]
    for after, behind in days.gaps:
        assert any(a <= after and behind <= b for a, b in was), f"({after}, {behind}] is missing only since there is a line more"


def _edges(case: Case, heard: Sequence[Heard]) -> list[tuple[int, int]]:
    """What lies before the first and behind the last id that some lines cover, by stretch: missing to them, and no gap of theirs."""
    found = []
    for stretch, union in zip(case.stretches, _union(case, heard), strict=True):
        low, high = stretch.snapshot.last_update_id, stretch.changes[-1][0]
        found += [(low, union[0][0]), (union[-1][1], high)] if union else [(low, high)]
    return found


def _the_path_is_the_cheapest(case: Case, days: Days) -> None:
    """In each stretch of ids that the lines cover, by (overlaps, switches, events)."""
    for day in days.days:
        lines, fates = day.lines, day.fates
        inside = [k for k in range(len(lines)) if fates.fate[k] not in (0, 6)]
        for epoch in {int(lines.epoch[k]) for k in inside}:
            start = day.bounds.start_update_id if epoch == day.bounds.start_epoch else None
            mine = [k for k in inside if lines.epoch[k] == epoch]
            events = {(int(lines.prev[k]), int(lines.final[k]), int(lines.line[k])) for k in mine}
            if len(events) > SPLICE_EVENTS_MAX:
                continue
            chain = [k for k, row in enumerate(fates.chain.tolist()) if lines.epoch[row] == epoch]
            chosen = [
                (int(lines.final[fates.chain[k]]), int(lines.line[fates.chain[k]]), int(fates.overlap_at[k])) for k in chain
            ]
            low = min(prev for prev, _, _ in events) if start is None else start
            for begin, end in _merged(events, low):
                part = [one for one in chosen if begin < one[0] <= end]
                cost = (sum(at >= 0 for *_, at in part), sum(a[1] != b[1] for a, b in pairwise(part)), len(part))
                wanted = cheapest_path([event for event in events if begin < event[1] <= end], begin)
                assert cost == wanted, f"the path over ({begin}, {end}] costs {cost}, the cheapest {wanted}"


def _merged(events: set[tuple[int, int, int]], low: int) -> list[tuple[int, int]]:
    found: list[tuple[int, int]] = []
    for prev, final, _ in sorted(events):
        prev = max(prev, low)
        if found and prev <= found[-1][1]:
            found[-1] = (found[-1][0], max(found[-1][1], final))
        elif final > prev:
            found.append((prev, final))
    return found
