"""Is what a proof says what the published bytes say? Every disagreement is a line.

Source: docs/format.md, sections 3 to 8.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from datetime import date as calendar
from datetime import timedelta
from hashlib import blake2b
from typing import Any

from twintape.independent.chain import DepthDay, walk
from twintape.independent.claims import check_claims, check_depth, check_evidence, check_messages, check_status
from twintape.independent.frames import TABLES, depth_ids, event_time_us, print_frame
from twintape.independent.objects import (
    Findings,
    Row,
    day_prefix,
    fetch,
    is_raw_key,
    proof_key,
    read_document,
    rows_of,
    sha256,
    table_key,
    templates_of,
)
from twintape.independent.segments import index_of, lines_of
from twintape.io.ports import Store

__all__ = ["Verdict", "verify_market"]

GENERATIONS_MAX = 9999
PARTIAL_TABLE = "partial_depth"
PARTIAL_STREAM = re.compile(r"depth(5|10|20)(@\d+ms)?")
CARRIED = ("update_id", "sha256", "known_low", "known_high")
"""What an opening book has from the closing book of the day before."""
SIGNED = {"generation", "write_id", "parent", "acceptance", "created_ns", "version", "sha256"}
"""What a generation that only accepts the one before says anew (and the digest this module keeps beside it)."""


@dataclass
class Verdict:
    """What came of one day.

    Attributes:
        key: The head proof's key.
        status: What it says of its day.
        rows: Rows that were re-derived.
        raw_segments: Raw segments of the lineage that were still there and were compared line by line; `raw_gone` were not.
        disagreements: One line each; none: the proof says what the bytes say.
    """

    key: str
    status: str
    rows: int = 0
    raw_segments: int = 0
    raw_gone: int = 0
    disagreements: list[str] = field(default_factory=list)


@dataclass
class _Head:
    key: str
    data: bytes
    proof: Row
    generations: list[Row]


async def verify_market(
    store: Store,
    market: str,
    *,
    symbols: list[str],
    date: str | None = None,
    tell: Callable[[int, int], None] = lambda _done, _total: None,
) -> AsyncIterator[Verdict]:
    """Verify the head of every published day of a market.

    Args:
        store: Where it is published.
        market: Which market.
        symbols: Only these; empty for all.
        date: Only this date.
        tell: Told how many days of how many are done.

    Yields:
        One verdict a day, in the order of the keys.

    Raises:
        StoreError: The store failed.
    """
    heads: dict[tuple[str, str, str], _Head] = {}
    prefix = f"proof/market={market}/"
    days = sorted({info.key.rpartition("/")[0] async for info in store.list(prefix)})
    broken: list[Verdict] = []
    for day in days:
        head = await _head(store, day)
        if isinstance(head, Verdict):
            broken.append(head)
        elif head is not None:
            heads[head.proof["symbol"], head.proof["stream"], head.proof["date"]] = head
    wanted = [name for name in heads if (not symbols or name[0] in symbols) and date in (None, name[2])]
    for verdict in broken:
        yield verdict
    for number, name in enumerate(wanted, 1):
        yield await _Day(store, heads, name).verdict()
        tell(number, len(wanted))


async def _head(store: Store, day: str) -> _Head | Verdict | None:
    """Return the highest generation `g` such that `g + 1` is absent, with all before it."""
    key, data, generations = "", b"", []
    for generation in range(1, GENERATIONS_MAX + 1):
        following = await fetch(store, f"{day}/g{generation:04d}.json")
        if following is None:
            break
        key, data = f"{day}/g{generation:04d}.json", following
        try:
            proof = read_document(data)
            if proof["format"] != "twintape-proof/1":
                raise ValueError(f"format {proof['format']!r} is not known here")
            expected = proof_key(*(proof[name] for name in ("market", "symbol", "stream", "date", "generation")))
            if expected != key:
                raise ValueError(f"it says it is {expected}")
        except (ValueError, KeyError, TypeError) as error:
            return Verdict(key, "unreadable", disagreements=[f"{key}: {error}"])
        generations.append(proof | {"sha256": sha256(data)})
    return _Head(key, data, generations[-1], generations) if generations else None


def _neighbour(date: str, days: int) -> str:
    return (calendar.fromisoformat(date) + timedelta(days=days)).isoformat()


class _Day:
    """One day under examination."""

    def __init__(self, store: Store, heads: dict[tuple[str, str, str], _Head], name: tuple[str, str, str]) -> None:
        self.store, self.heads, self.name = store, heads, name
        self.head = heads[name]
        self.proof = self.head.proof
        self.findings = Findings(self.head.key)
        self.result = Verdict(self.head.key, str(self.proof.get("status")))
        self.lines: Counter[bytes] = Counter()
        self.by_collector: Counter[str] = Counter()

    async def verdict(self) -> Verdict:
        """Examine everything; what cannot even be read is a disagreement too."""
        try:
            await self._examine()
        except (ValueError, KeyError, TypeError, IndexError, AttributeError, OSError) as error:
            # Hostile bytes may break any assumption; pyarrow's and zstd's errors are ValueErrors and OSErrors.
            self.findings.add(f"cannot be examined further: {type(error).__name__}: {error}")
        self.result.disagreements = [f"{self.findings.where}: {line}" for line in self.findings.lines]
        return self.result

    async def _examine(self) -> None:
        proof, findings = self.proof, self.findings
        tables = await self._tables()
        plan = await self._plan()
        self._generations(plan)
        check_claims(proof, findings)
        depth = proof["stream"] == "depth" or (proof["stream"].startswith("depth@") and proof["stream"].endswith("ms"))
        day: DepthDay | None = None
        if depth:
            if "depth" not in tables:
                findings.add("a depth day without a depth table")
                return
            day = walk(proof, tables, await self._tickers(), findings.add, self._line)
            self._verbatim(tables, day)
            check_depth(proof, day, tables, findings)
            self._neighbours()
        else:
            self._typed(tables)
            self._verbatim(tables, None)
            check_messages(proof, tables, findings)
        check_status(proof, findings, spliced=depth)
        check_evidence(proof, findings, spliced=depth)
        self.result.rows = sum(output["rows"] for output in proof["outputs"])
        await self._conservation(spliced=depth)
        if depth and not self.result.raw_segments:
            self._witnesses()

    # --- objects ---------------------------------------------------------------------------------------------------------------

    def _origin(self) -> Row:
        """Return the proof whose attempt wrote the outputs: this one, or the generation before if an operator accepted that as it is."""
        if self.proof.get("acceptance") is None:
            return self.proof
        if len(self.head.generations) < 2:
            self.findings.add("it accepts a generation before, and there is none")
            return self.proof
        before = self.head.generations[-2]
        for name in sorted((self.proof.keys() | before.keys()) - SIGNED):
            self.findings.equal(f"{name}, by the generation it accepts", self.proof.get(name), before.get(name))
        return before

    async def _tables(self) -> dict[str, bytes]:
        tables, origin = {}, self._origin()
        for output in self.proof["outputs"]:
            name, key = output["table"], output["key"]
            self.findings.equal(f"key of {name}", key, table_key(origin, name))
            data = await fetch(self.store, key)
            if data is None:
                self.findings.add(f"{key} is gone")
                continue
            self.findings.equal(f"size of {key}", output["size"], len(data))
            self.findings.equal(f"sha256 of {key}", output["sha256"], sha256(data))
            self.findings.equal(f"rows of {key}", output["rows"], sum(1 for _ in rows_of(data, _first_column(data))))
            tables[name] = data
        return tables

    async def _plan(self) -> Row:
        reference = self.proof["plan"]
        data = await fetch(self.store, reference["key"])
        if data is None:
            self.findings.add(f"the plan {reference['key']} is gone")
            return {"inputs": [], "missing": [], "unreadable": []}
        self.findings.equal("sha256 of the plan", reference["sha256"], sha256(data))
        expected = f"plan/v1/market={self.proof['market']}/date={self.proof['date']}/{sha256(data)[:16]}.json"
        self.findings.equal("key of the plan", reference["key"], expected)
        plan = read_document(data)
        for name in ("missing", "unreadable"):
            if any(entry not in self.proof[name] for entry in plan[name]):
                self.findings.add(f"the plan names {name} objects that the proof does not: {plan[name]}")
        return plan

    def _generations(self, plan: Row) -> None:
        """Lineage only grows, each generation names the one before, and every raw object comes from the plan or from there."""
        proof, findings = self.proof, self.findings
        planned = {source["key"]: source for source in plan["inputs"]}
        before = self.head.generations[-2] if len(self.head.generations) > 1 else None
        parent = None if before is None else {"generation": before["generation"], "sha256": before["sha256"]}
        findings.equal("parent", proof["parent"], parent)
        inputs = {source["key"]: source for source in proof["inputs"]}
        if len(inputs) != len(proof["inputs"]):
            findings.add("a raw object is named twice")
        inherited = {source["key"]: source for source in before["inputs"]} if before else {}
        for key, source in inherited.items():
            if key not in inputs:
                findings.add(f"the lineage lost {key}")
            elif inputs[key]["sha256"] != source["sha256"]:
                findings.add(f"the lineage has another object under {key}")
        for key, source in inputs.items():
            match = is_raw_key(key)
            if match is None or not source["sha256"].startswith(match["digest"]) or match["collector"] != source["collector"]:
                findings.add(f"{key} is no raw key of {source['collector']} with sha256 {source['sha256']}")
            entry = planned.get(key, inherited.get(key))
            if entry is None:
                findings.add(f"{key} is neither planned nor inherited")
            elif any(entry[name] != source[name] for name in ("size", "sha256", "collector")):
                findings.add(f"{key} is another object in the plan")
            if source["count"] != source["settled"] + source["owed"]:
                findings.add(f"{key}: {source['count']} frames are not {source['settled']} settled and {source['owed']} owed")
        if before is not None:
            was = {(gap["after_update_id"], gap["next_prev_update_id"]) for gap in [*before["gaps"], *before["closed_gaps"]]}
            now = {(gap["after_update_id"], gap["next_prev_update_id"]) for gap in [*proof["gaps"], *proof["closed_gaps"]]}
            if was - now:
                findings.add(f"gaps of the generation before are neither open nor closed: {sorted(was - now)[:5]}")

    async def _tickers(self) -> Iterator[Row] | None:
        """Return the rows of the symbol's book_ticker table of the date, if one is published."""
        head = self.heads.get((self.name[0], "bookTicker", self.name[2]))
        for output in [] if head is None else head.proof["outputs"]:
            if output["table"] == "book_ticker":
                data = await fetch(self.store, output["key"])
                return None if data is None or sha256(data) != output["sha256"] else rows_of(data)
        return None

    def _witnesses(self) -> None:
        """What a book was compared with is published itself; only raw segments that no merge has settled yet could hold it instead."""
        symbol, _, date = self.name
        dates = [_neighbour(date, days) for days in (-1, 0, 1)]
        published = {stream for name, stream, day in self.heads if name == symbol and day in dates}
        for claim, found in (
            ("tickers", "bookTicker" in published),
            ("partial_books", any(PARTIAL_STREAM.fullmatch(stream) for stream in published)),
        ):
            counts = [count for count in (self.proof.get(claim) or {}).values() if isinstance(count, int)]
            if sum(counts) and not found:
                self.findings.add(f"{claim}: the proof compared {sum(counts)} with the book, and none are published")

    def _neighbours(self) -> None:
        """A day begins where the one before ends, with its closing book."""
        proof, findings = self.proof, self.findings
        symbol, stream, date = self.name
        before, behind = (self.heads.get((symbol, stream, _neighbour(date, days))) for days in (-1, 1))
        if before is not None and before.proof["end"]["update_id"] is not None:
            findings.equal(f"start, by the end of {before.key}", proof["start"]["update_id"], before.proof["end"]["update_id"])
            mine, theirs = proof["opening_book"], before.proof["closing_book"]
            findings.equal(
                f"opening book, by the closing book of {before.key}",
                mine and [mine.get(key) for key in CARRIED],
                theirs and [theirs.get(key) for key in CARRIED],
            )
        if behind is not None and not behind.proof["open_start"] and behind.proof["start"]["update_id"] is not None:
            findings.equal(f"end, by the start of {behind.key}", proof["end"]["update_id"], behind.proof["start"]["update_id"])
        for edge in ("start", "end"):
            pin = proof[edge]["pinned_by"]
            other = day_prefix("proof", proof["market"], symbol, stream, _neighbour(date, -1 if edge == "start" else 1))
            if pin is not None and not pin.startswith(other):
                findings.add(f"the {edge} is pinned by {pin}, which is no neighbour")

    # --- lines -----------------------------------------------------------------------------------------------------------------

    def _line(self, collector: str, connection: str, receive_time_ns: int, frame: bytes) -> None:
        self.lines[_digest(collector, connection, receive_time_ns, frame)] += 1
        self.by_collector[collector] += 1

    def _verbatim(self, tables: dict[str, bytes], day: DepthDay | None) -> None:
        if "verbatim" not in tables:
            return
        counts: dict[str, Counter[str]] = {}
        for row in rows_of(tables["verbatim"]):
            counts.setdefault(row["reason"], Counter())[row["collector"]] += 1
            self._line(row["collector"], row["connection"], row["receive_time"], row["frame"])
            if day is not None:
                day.receive_times.setdefault(row["collector"], []).append(row["receive_time"])
                ids = depth_ids(row["frame"], self.proof["market"]) if row["reason"] != "undecodable" else None
                if ids is not None:
                    day.heard.setdefault(row["collector"], []).append(ids)
        found = {reason: dict(count) for reason, count in counts.items()}
        self.findings.equal("fates.verbatim", self.proof["fates"]["verbatim"], found)

    def _typed(self, tables: dict[str, bytes]) -> None:
        for name in sorted({*TABLES.values(), PARTIAL_TABLE} & tables.keys()):
            rows, templates = [], templates_of(tables[name])
            for row in rows_of(tables[name]):
                rows.append(row)
                self._print(name, row, row, templates)
            if "copy" in tables:
                templates = templates_of(tables["copy"])
                for copy in rows_of(tables["copy"]):
                    row = rows[copy["row"]]
                    timed = {} if name == "mark_price" else {"event_time": copy["event_time"]}
                    self._print(name, row | timed, copy, templates)

    def _print(self, table: str, row: Row, heard: Row, templates: list[Row]) -> None:
        try:
            frame = print_frame(table, row, templates[heard["template"]])
        except (ValueError, IndexError, KeyError) as error:
            self.findings.add(f"a {table} row of {heard['collector']} cannot be printed: {error}")
            return
        self._line(heard["collector"], heard["connection"], heard["receive_time"], frame)

    async def _conservation(self, *, spliced: bool) -> None:
        """Compare the rows' raw lines with the counts of the lineage, and with the raw segments that are still there."""
        proof, findings = self.proof, self.findings
        settled: Counter[str] = Counter()
        for source in proof["inputs"]:
            settled[source["collector"]] += source["settled"]
        findings.equal("settled frames by collector", +settled, +self.by_collector)
        left = Counter(self.lines)
        outside: list[tuple[str, bytes]] = []
        for source in sorted(proof["inputs"], key=lambda entry: str(entry["key"])):
            data = await fetch(self.store, source["key"])
            if data is None:
                self.result.raw_gone += 1
                continue
            self.result.raw_segments += 1
            findings.equal(f"size of {source['key']}", source["size"], len(data))
            findings.equal(f"sha256 of {source['key']}", source["sha256"], sha256(data))
            match = is_raw_key(source["key"])
            assert match is not None, "its key was checked"
            lines = lines_of(data, index_of(data), proof["symbol"], proof["stream"])
            findings.equal(f"frames in {source['key']}", source["count"], len(lines))
            count = 0
            for date, time, frame in lines:
                line = _digest(source["collector"], f"{match['run8']}-{match['connection']}", time, frame)
                # The same line in two segments may be filed under two dates: one without ids belongs to the date it is filed under.
                if left[line] and (spliced or date == proof["date"]):
                    left[line] -= 1
                    count += 1
                else:
                    outside.append((date, frame))
            findings.equal(f"settled frames of {source['key']}", source["settled"], count)
        if not self.result.raw_gone and left.total():
            findings.add(f"{left.total()} archived lines are in no raw segment of the lineage")
        self._outside(outside, spliced=spliced)

    def _outside(self, lines: list[tuple[str, bytes]], *, spliced: bool) -> None:
        """What the day did not settle must belong to another day."""
        proof = self.proof
        start, end = proof["start"]["update_id"], proof["end"]["update_id"]
        hidden = 0
        seen_before = False
        for date, frame in lines:
            ids = depth_ids(frame, proof["market"]) if spliced else None
            if ids is None or start is None or end is None:
                hidden += date == proof["date"]
            elif not proof["epochs"]:
                hidden += start < ids[1] <= end
                seen_before |= ids[1] <= start
        if hidden:
            self.findings.add(f"{hidden} raw frames of the day are neither in the archive nor another day's")
        alone = spliced and not self.result.raw_gone and proof["start"]["pinned_by"] is None
        if alone and start is not None and proof["open_start"] is False and not seen_before:
            self.findings.add("it does not begin at an edge of recording, says the proof, and nothing recorded lies before it")
        behind = [_midnight_us(_neighbour(proof["date"], 1)) <= (event_time_us(frame) or 0) for _, frame in lines]
        if (
            spliced
            and not self.result.raw_gone
            and proof["end"]["pinned_by"] is None
            and proof["open_end"] is False
            and not any(behind)
        ):
            self.findings.add("it does not end at an edge of recording, says the proof, and nothing recorded lies behind it")


def _midnight_us(date: str) -> int:
    return (calendar.fromisoformat(date).toordinal() - calendar(1970, 1, 1).toordinal()) * 86_400_000_000


def _digest(collector: str, connection: str, receive_time_ns: int, frame: bytes) -> bytes:
    return blake2b(f"{collector}\n{connection}\n{receive_time_ns} ".encode() + frame, digest_size=16).digest()


def _first_column(data: bytes) -> list[str]:
    import io

    import pyarrow.parquet as pq

    names: list[Any] = pq.ParquetFile(io.BytesIO(data)).schema_arrow.names
    return [str(names[0])]
