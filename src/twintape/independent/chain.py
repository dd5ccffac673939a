"""A depth day walked row by row: chain, path, book, snapshots, tickers, and the raw lines its rows render to.

Source: docs/format.md, sections 7 and 8.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise

from twintape.independent.books import UNIT, Book, Region, compare, joined, region_of, region_text, stated_region
from twintape.independent.frames import print_frame
from twintape.independent.objects import Row, rows_of, templates_of
from twintape.independent.windows import WindowCheck

__all__ = ["DepthDay", "walk"]

GAP_BEFORE, OVERLAP, LINE_SWITCH, EPOCH_START, BOOK_UNKNOWN = 1, 2, 4, 8, 16


@dataclass
class DepthDay:
    """What the tables of a day show; fields are named as in the proof."""

    events: int = 0
    levels: int = 0
    first_event_time_us: int | None = None
    last_event_time_us: int | None = None
    gaps: list[tuple[int, int]] = field(default_factory=list)
    gap_times: list[tuple[int | None, int]] = field(default_factory=list)
    overlaps: list[tuple[int, int, int, str]] = field(default_factory=list)
    switches: list[tuple[int, str, str]] = field(default_factory=list)
    epochs: list[tuple[int, int]] = field(default_factory=list)
    path: list[tuple[str, int, int, int]] = field(default_factory=list)
    book_unknown: list[tuple[int, int, int]] = field(default_factory=list)
    verdicts: Counter[str] = field(default_factory=Counter)
    crossed: int = 0
    event_time_back: int = 0
    zero_prices: int = 0
    tickers: Counter[str] = field(default_factory=Counter)
    windows: WindowCheck | None = None
    opening: _Carried | None = None
    closing: _Carried | None = None
    stored_closing: _Carried | None = None
    last: int | None = None
    chosen: Counter[str] = field(default_factory=Counter)
    duplicate: Counter[str] = field(default_factory=Counter)
    only_here: Counter[str] = field(default_factory=Counter)
    heard: dict[str, list[tuple[int, int]]] = field(default_factory=dict)
    chain: list[tuple[int, int]] = field(default_factory=list)
    receive_times: dict[str, list[int]] = field(default_factory=dict)


@dataclass
class _Ids:
    prev: int
    final: int
    time: int
    fresh: bool


def walk(
    proof: Row,
    tables: dict[str, bytes],
    tickers: Iterator[Row] | None,
    problem: Callable[[str], None],
    line: Callable[[str, str, int, bytes], None],
) -> DepthDay:
    """Walk a day.

    Args:
        proof: Its proof; only its start and its market are believed.
        tables: Its files.
        tickers: Rows of the symbol's `book_ticker` table of the date, in their order, or None.
        problem: Told every contradiction among the published bytes.
        line: Given collector, connection, receive time and frame of every raw line the rows stand for.
    """
    day = DepthDay()
    ids = _ids(tables["depth"])
    day.chain = [(one.prev, one.final) for one in ids]
    snapshots = [*rows_of(tables["snapshot"])] if "snapshot" in tables else []
    judge = _Judge(day, ids, snapshots, problem)
    variants = [row for row in rows_of(tables["verbatim"]) if row["reason"] == "variant"] if "verbatim" in tables else []
    restarts = any(one.final < before.final for before, one in pairwise(ids))
    if not restarts:
        day.windows = WindowCheck(variants, proof["market"], day.chain)
    copies = _Copies(tables, problem)
    witness = None if tickers is None or restarts else _Tickers(tickers, day)
    templates = templates_of(tables["depth"])
    at, before = proof["start"]["update_id"], None
    for place, row in enumerate(rows_of(tables["depth"])):
        if proof["market"] == "spot" and row["first_update_id"] != row["prev_update_id"] + 1:
            problem(f"depth row {place}: first id {row['first_update_id']} behind {row['prev_update_id']}")
        _join(day, row, before, at, place, problem)
        judge.apply(place, row)
        if witness is not None:
            witness.compare(row, judge.book if judge.known else None)
        if day.windows is not None:
            day.windows.feed(place, row)
        _hear(day, row, templates, problem, line, copies.of(row, line, day))
        at, before = row["final_update_id"], row
    copies.end()
    judge.end()
    day.last = at if ids else None
    return day


def _ids(data: bytes) -> list[_Ids]:
    rows = rows_of(data, ["prev_update_id", "final_update_id", "receive_time", "flags"])
    return [
        _Ids(
            row["prev_update_id"],
            row["final_update_id"],
            row["receive_time"],
            place == 0 or bool(row["flags"] & (GAP_BEFORE | EPOCH_START)),
        )
        for place, row in enumerate(rows)
    ]


def _join(day: DepthDay, row: Row, before: Row | None, at: int | None, place: int, problem: Callable[[str], None]) -> None:
    """Compare how a row joins the one before with what its flags say, and note it in the words of a proof."""
    prev, final, flags, collector = row["prev_update_id"], row["final_update_id"], row["flags"], row["collector"]
    epoch = bool(flags & EPOCH_START)
    where = f"depth row {place}, ids ({prev}, {final}]"
    if final <= prev:
        problem(f"{where}: covers no id")
    if at is not None and ((epoch and final >= at) or (not epoch and final <= at)):
        problem(f"{where}: behind id {at} with flags {flags}")
    gap = at is not None and not epoch and prev > at
    overlap = at is not None and not epoch and prev < at < final
    switch = before is not None and before["collector"] != collector
    for name, bit, found in (
        ("gap before", GAP_BEFORE, gap),
        ("overlap", OVERLAP, overlap),
        ("line switch", LINE_SWITCH, switch),
    ):
        if bool(flags & bit) != found:
            problem(f"{where}: flags say {'' if flags & bit else 'no '}{name}, the ids and lines say otherwise")
    day.events += 1
    day.levels += len(row["bid_price"]) + len(row["ask_price"])
    day.zero_prices += row["bid_price"].count(0) + row["ask_price"].count(0)
    time = row["event_time"]
    day.event_time_back += before is not None and time < before["event_time"]
    day.first_event_time_us = time if day.first_event_time_us is None else day.first_event_time_us
    day.last_event_time_us = time
    if gap:
        assert at is not None
        day.gaps.append((at, prev))
        day.gap_times.append((None if before is None else before["event_time"], time))
    if overlap:
        assert at is not None
        day.overlaps.append((at, prev, final, collector))
    if switch:
        assert before is not None
        day.switches.append((before["final_update_id"], before["collector"], collector))
    if epoch:
        day.epochs.append((prev, time))
    if before is None or gap or switch or epoch:
        day.path.append((collector, prev, final, 1))
    else:
        name, start, _, count = day.path[-1]
        day.path[-1] = (name, start, final, count + 1)
    if flags & BOOK_UNKNOWN:
        if before is not None and before["flags"] & BOOK_UNKNOWN:
            start, _, count = day.book_unknown[-1]
            day.book_unknown[-1] = (start, final, count + 1)
        else:
            day.book_unknown.append((prev, final, 1))


_Carried = tuple[str, str | None, str | None]
"""A book as a proof states it: its digest, and from which price to which everything is known."""


def _carried(book: Book, region: Region | None) -> _Carried:
    return (book.digest(), *region_text(region))


class _Judge:
    """Follows the book and compares every snapshot with it."""

    def __init__(self, day: DepthDay, ids: list[_Ids], snapshots: list[Row], problem: Callable[[str], None]) -> None:
        self._day, self._problem, self._ids = day, problem, ids
        self.book, self.known = Book(), False
        self.region: Region | None = None
        self._meets: dict[int, list[Row]] = {}
        for row in snapshots:
            if row["kind"] == "opening":
                self.book, self.known = Book.of(row), True  # until the first row says that something is missing before it
                self.region = stated_region(row)
                day.opening = _carried(self.book, self.region)
            elif row["kind"] == "closing":
                day.stored_closing = _carried(Book.of(row), stated_region(row))
            else:
                self._place(row)

    def _place(self, row: Row) -> None:
        """Find the event that spans a snapshot: `p < L <= u`, or `L == p` where a chain begins; of several the one heard nearest to it."""
        wanted, last = row["receive_time"], row["last_update_id"]
        best: tuple[int, int] | None = None
        for place, one in enumerate(self._ids):
            at_start = one.fresh and one.prev == last
            if at_start or one.prev < last <= one.final:
                distance = abs(one.time - wanted)
                if best is None or distance < best[0]:
                    best = (distance, place)
        if best is None:
            self._verdict(row, "outside")
            self._check_region(row, None)
        else:
            self._meets.setdefault(best[1], []).append(row)

    def _verdict(self, row: Row, found: str) -> None:
        self._day.verdicts[found] += 1
        if row["verdict"] != found:
            self._problem(
                f"snapshot {row['last_update_id']} of {row['collector']}: the table says {row['verdict']}, it is {found}"
            )

    def _meet(self, snapshot: Row, event: Row) -> None:
        if not self.known:
            self.book, self.known = Book.of(snapshot), True
            self.book.apply(event)
            self.region = region_of(snapshot)
            self._verdict(snapshot, "anchor")
        else:
            differences, taught = compare(snapshot, event, self.book, self.region)
            self._verdict(snapshot, "failed" if differences else "passed")
            if differences:
                self._check_region(snapshot, None)
                return
            self.book.learn(taught)
            self.region = joined(self.region, region_of(snapshot))
        self._check_region(snapshot, self.region)

    def _check_region(self, snapshot: Row, region: Region | None) -> None:
        if stated_region(snapshot) != region:
            which = f"snapshot {snapshot['last_update_id']} of {snapshot['collector']}"
            self._problem(f"{which}: it makes other prices known than the table says")

    def apply(self, place: int, row: Row) -> None:
        """Take the next row."""
        if row["flags"] & (GAP_BEFORE | EPOCH_START):
            self.known = False
        if self.known:
            self.book.apply(row)
            self._day.crossed += self.book.crossed()
        for snapshot in self._meets.get(place, ()):
            self._meet(snapshot, row)
        if bool(row["flags"] & BOOK_UNKNOWN) == self.known:
            self._problem(f"depth row {place}: flags say the book is {'un' * self.known}known, it is not")

    def end(self) -> None:
        """Note the closing book."""
        self._day.closing = _carried(self.book, self.region) if self.known else None


class _Copies:
    """The arrival table, walked beside the depth table: both go by epoch and final id."""

    def __init__(self, tables: dict[str, bytes], problem: Callable[[str], None]) -> None:
        data = tables.get("arrival")
        self._rows = iter(()) if data is None else rows_of(data)
        self._templates = [] if data is None else templates_of(data)
        self._problem = problem
        self._next: Row | None = next(self._rows, None)

    def of(self, row: Row, line: Callable[[str, str, int, bytes], None], day: DepthDay) -> list[str]:
        """Take the further copies of a depth row; returns who heard them."""
        names = []
        while (copy := self._next) is not None and all(copy[key] == row[key] for key in ("prev_update_id", "final_update_id")):
            self._next = next(self._rows, None)
            names.append(copy["collector"])
            day.duplicate[copy["collector"]] += 1
            day.receive_times.setdefault(copy["collector"], []).append(copy["receive_time"])
            _render(row | {"event_time": copy["event_time"]}, copy, self._templates, self._problem, line)
        return names

    def end(self) -> None:
        """Say so if copies are left that no row was made of."""
        if self._next is not None:
            self._problem(
                f"arrival row of ids ({self._next['prev_update_id']}, {self._next['final_update_id']}] has no depth row"
            )


def _render(
    row: Row, heard: Row, templates: list[Row], problem: Callable[[str], None], line: Callable[[str, str, int, bytes], None]
) -> None:
    code = heard["template"]
    try:
        frame = row["frame"] if code < 0 else print_frame("depth", row, templates[code])
        if frame is None:
            raise ValueError("neither a template nor a frame")
    except (ValueError, IndexError, KeyError) as error:
        problem(f"ids ({row['prev_update_id']}, {row['final_update_id']}] of {heard['collector']} cannot be printed: {error}")
        return
    line(heard["collector"], heard["connection"], heard["receive_time"], frame)


def _hear(
    day: DepthDay,
    row: Row,
    templates: list[Row],
    problem: Callable[[str], None],
    line: Callable[[str, str, int, bytes], None],
    copies: list[str],
) -> None:
    collector, ids = row["collector"], (row["prev_update_id"], row["final_update_id"])
    day.chosen[collector] += 1
    day.only_here[collector] += not set(copies) - {collector}
    day.receive_times.setdefault(collector, []).append(row["receive_time"])
    for name in {collector, *copies}:
        day.heard.setdefault(name, []).append(ids)
    _render(row, row, templates, problem, line)


class _Tickers:
    """bookTicker rows of the date, walked beside the chain."""

    def __init__(self, rows: Iterator[Row], day: DepthDay) -> None:
        self._rows, self._day = rows, day
        self._next: Row | None = next(rows, None)

    def compare(self, row: Row, book: Book | None) -> None:
        """Compare the tickers of an event's ids with the book behind it; None: it is not known."""
        last: list[Row] = []
        while (found := self._next) is not None and found["update_id"] <= row["final_update_id"]:
            self._next = next(self._rows, None)
            if found["update_id"] > row["prev_update_id"]:
                last = [*last, found] if last and last[0]["update_id"] == found["update_id"] else [found]
        if not last or book is None:
            return
        if any(_top(found) == book.top() for found in last):
            self._day.tickers["equal"] += 1
        else:
            self._day.tickers["different" if last[0]["update_id"] == row["final_update_id"] else "suspect"] += 1


def _top(row: Row) -> tuple[int, int, int, int]:
    price, quantity = (10 ** (UNIT + row[f"{name}_exponent"]) for name in ("price", "quantity"))
    return row["bid_price"] * price, row["bid_quantity"] * quantity, row["ask_price"] * price, row["ask_quantity"] * quantity
