"""The oracle: compares what the system claims with what truly happened, at every change of the store and at the end.

It knows the exchange's log, the lines that the spools promised, and every object that ever was in the store. It shares no code with what it
judges, but for reading the formats: segments, proofs, and Parquet files turned back into raw lines.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from typing import Any

from twintape.columns.expand import Outputs, expand
from twintape.columns.lines import midnight_us
from twintape.columns.schema import DEPTH, GAP_BEFORE
from twintape.core import names, segment, wire
from twintape.core.errors import ContinuityError, CorruptionError, RefusedError
from twintape.core.manifest import Proof, Status, decode
from twintape.core.markets import Market
from twintape.io.archive import Archive
from twintape.simulation.store import WitnessedStore
from twintape.simulation.truth import SymbolTruth, Truth
from twintape.simulation.world import HOUR_NS, BrokenPromiseError, World

__all__ = ["Oracle"]

Line = tuple[str, bytes]
"""Collector, and `<receive_time_ns> <frame>`."""
Interval = tuple[int, int]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
EDGE_MS = 60_000
"""How near to midnight an event may belong to either day."""
LEVEL_COLUMNS = [
    *("prev_update_id", "final_update_id", "price_exponent", "quantity_exponent"),
    *("bid_price", "bid_quantity", "ask_price", "ask_quantity"),
]


class Oracle:
    """Judges one simulation.

    Args:
        world: Seed, time and trace.
        truth: The exchange's log.
        market: The market.

    Attributes:
        grace_ns: How long outputs outlive the proof that has superseded them, by the calendar.
    """

    def __init__(self, world: World, truth: Truth, market: Market) -> None:
        self.grace_ns = 0
        self.store = WitnessedStore(world, on_create=self._created, on_delete=self._deleting)
        self._world = world
        self._truth = truth
        self._market = market
        self._heads: dict[tuple[str, str, str], tuple[str, Proof]] = {}
        self._superseded: dict[str, tuple[int, str]] = {}  # an output that a head named → since when none does, and by which
        self._lines: dict[str, set[Line]] = {}  # of a proof, by its key
        self._raw_lines: dict[str, frozenset[Line]] = {}  # of a raw object that is sound, by its digest
        self._sound: dict[str, str] = {}  # key of a raw object that was once put as it was recorded → its digest
        self._heard: dict[str, list[Interval]] = {symbol: [] for symbol in truth.symbols}
        self._rng = world.random("oracle")

    # --- as it happens ---------------------------------------------------------------------------------------------------------

    def _created(self, key: str, data: bytes) -> None:
        if key.startswith("raw/"):
            self._raw_created(key, data)
        elif key.startswith("proof/"):
            self._proof_created(key, data)

    def _raw_created(self, key: str, data: bytes) -> None:
        parts = names.parse_raw_key(key)
        if parts is None:
            raise BrokenPromiseError(f"an object under a key that is none: {key}")
        sha256 = hashlib.sha256(data).hexdigest()
        if not sha256.startswith(parts.digest16):
            self._world.tell("store", f"damaged on the way: {key}", count="damaged objects")
            return
        lines = []
        for _, time_ns, frame in segment.lines_in_order(data):
            lines.append((parts.collector, b"%d %b" % (time_ns, frame)))
            event = _event_of(frame)
            if event is not None and event[0] in self._heard:
                self._heard[event[0]].append(event[1])
        self._raw_lines[sha256] = frozenset(lines)
        self._sound[key] = sha256

    def _proof_created(self, key: str, data: bytes) -> None:
        try:
            proof = decode(data, Proof, where=key)
        except (CorruptionError, RefusedError):
            self._world.tell("store", f"damaged on the way: {key}", count="damaged objects")
            return
        day = proof.symbol, proof.stream, proof.date
        before = self._heads.get(day)
        if proof.generation != (1 if before is None else before[1].generation + 1):
            raise BrokenPromiseError(f"{key}: generation {proof.generation} does not follow what is there")
        for output in proof.outputs:
            if output.key not in self.store or hashlib.sha256(self.store.content(output.key)).hexdigest() != output.sha256:
                raise BrokenPromiseError(f"{key} was published and its output {output.key} is not what it says")
        if before is not None:
            lost = {source.sha256 for source in before[1].inputs} - {source.sha256 for source in proof.inputs}
            if lost:
                raise BrokenPromiseError(f"{key} forgets {len(lost)} raw objects that {before[0]} had settled")
            gone = {output.key for output in before[1].outputs} - {output.key for output in proof.outputs}
            self._superseded |= dict.fromkeys(gone, (self._world.calendar_ns(), key))
        self._heads[day] = key, proof
        if proof.status is Status.COMPLETE:
            self._check_complete(key, proof)

    def _deleting(self, key: str, data: bytes) -> None:
        if key.startswith("raw/"):
            self._world.counts["raw deleted"] += 1
            self._check_raw_deletion(key, data)
        elif names.parse_table_key(key) is not None:
            self._world.counts["outputs deleted"] += 1
            for head, proof in self._heads.values():
                if any(output.key == key for output in proof.outputs):
                    raise BrokenPromiseError(f"{key} was deleted, and the head {head} names it")
            self._check_output_deletion(key)
        elif not key.startswith("receipt/"):
            raise BrokenPromiseError(f"{key} was deleted; nothing may ever delete it")

    def _check_output_deletion(self, key: str) -> None:
        parts = names.parse_table_key(key)
        assert parts is not None, "the caller has looked"
        day = parts.symbol, parts.stream, parts.date
        head = self._heads.get(day)
        if head is None or head[1].generation < parts.generation:
            raise BrokenPromiseError(f"{key} was deleted, and its generation is not published: whoever wrote it may still do so")
        if key in self._superseded:  # what no head has ever named has no readers
            since_ns, by = self._superseded[key]
            age_ns = self._world.calendar_ns() - since_ns
            if age_ns < self.grace_ns:
                raise BrokenPromiseError(f"{key} was deleted {age_ns / HOUR_NS:.1f} h after {by}: readers may be at it")

    def _check_raw_deletion(self, key: str, data: bytes) -> None:
        """Every line of it must be in the outputs of heads, which must be there now.

        An object that was settled and deleted may come back, and be damaged on its way back: the lines it once had count.
        """
        sha256 = hashlib.sha256(data).hexdigest()
        if sha256 not in self._raw_lines:
            sha256 = self._sound.get(key, sha256)
        lines: AbstractSet[Line] | None = self._raw_lines.get(sha256)
        if lines is None:
            raise BrokenPromiseError(f"{key} was deleted, and it is not what was recorded: nobody has read it")
        for head, proof in self._heads.values():
            if any(source.sha256 == sha256 for source in proof.inputs):
                lines -= self.lines_of(head, proof)
        if lines:
            example = sorted(lines)[0][1][:150].decode(errors="replace")
            raise BrokenPromiseError(
                f"{key} was deleted, and {len(lines)} of its lines are in no head's outputs, such as {example}"
            )

    def lines_of(self, key: str, proof: Proof) -> set[Line]:
        """Return the raw lines that a proof's outputs hold; the outputs must be in the store."""
        for output in proof.outputs:
            if output.key not in self.store:
                raise BrokenPromiseError(f"the output {output.key} of the head {key} is gone")
        if key not in self._lines:
            self._lines[key] = {
                (chunk.collector, line)
                for chunk in expand(self._outputs(proof), proof.date)
                for line in chunk.load().split(b"\n")[:-1]
            }
        return self._lines[key]

    def _outputs(self, proof: Proof) -> Outputs:
        return Outputs({output.table: self.store.content(output.key) for output in proof.outputs})

    def _check_complete(self, key: str, proof: Proof) -> None:
        """No event of a complete day may be missing, but for those so near to midnight that they belong to a neighbour."""
        truth = self._truth.symbols.get(proof.symbol)
        if truth is None or not wire.is_depth(proof.stream) or proof.end.update_id is None:
            return
        covered = _union((row[0], row[1]) for row in self._rows(proof))
        first_ms = midnight_us(proof.date) // 1000
        for boundary, time_ms in zip(truth.boundaries, truth.times_ms, strict=True):
            inside = first_ms + EDGE_MS <= time_ms < first_ms + 86_400_000 - EDGE_MS
            if inside and not _holds(covered, boundary):
                raise BrokenPromiseError(f"{key} says complete, and the event that ends at {boundary} is missing")

    def _rows(self, proof: Proof) -> list[tuple[int, int, int]]:
        """Return `(p, u, flags)` of every depth row."""
        reader = self._outputs(proof).reader("depth", DEPTH)
        rows: list[tuple[int, int, int]] = []
        for batch in [] if reader is None else reader:
            columns = [batch.column(name).to_pylist() for name in ("prev_update_id", "final_update_id", "flags")]
            rows += zip(*columns, strict=True)
        return rows

    @contextmanager
    def rotting(self, rng: random.Random) -> Iterator[str | None]:
        """Have an output of some head be gone or damaged for as long as the block lasts; gives the proof's key, if there is a head."""
        heads = [head for head in self._heads.values() if not any(output.key in self.store.away for output in head[1].outputs)]
        if not heads:
            yield None
            return
        key, proof = rng.choice(sorted(heads, key=lambda head: head[0]))
        output = rng.choice(proof.outputs)
        data = bytearray(self.store.content(output.key))
        data[rng.randrange(len(data))] ^= 1
        with self.store.rotten(output.key, None if rng.random() < 0.5 else bytes(data)):
            yield key

    # --- at the end ------------------------------------------------------------------------------------------------------------

    def check_promises(self, promised: Mapping[str, set[bytes]], kept: Mapping[str, Iterable[bytes]]) -> None:
        """Every promised line must be in a raw object, in a head's outputs, or still on its machine.

        Args:
            promised: By collector.
            kept: Sealed objects on the machines' disks, by collector.
        """
        found: set[Line] = set()
        for key, proof in self._heads.values():
            found |= self.lines_of(key, proof)
        for key in self.store.keys("raw/"):
            found |= self._raw_lines.get(hashlib.sha256(self.store.content(key)).hexdigest(), frozenset())
        for collector, objects in kept.items():
            for data in objects:
                found |= _lines_in(collector, data)
        for collector, lines in promised.items():
            missing = sorted(line for line in lines if (collector, line) not in found)
            if missing:
                example = missing[0][:200].decode(errors="replace")
                raise BrokenPromiseError(
                    f"{len(missing)} of {len(lines)} lines that {collector} promised are nowhere, such as {example}"
                )
            self._world.counts["lines promised"] += len(lines)

    def check_archive(self) -> None:
        """The chain of every symbol must cover what was heard and nothing else, and every row and book must be right."""
        for symbol, truth in self._truth.symbols.items():
            days = sorted((day[2], *head) for day, head in self._heads.items() if day[0] == symbol and wire.is_depth(day[1]))
            rows = [row for _, _, proof in days for row in self._rows(proof)]
            self._check_chain(symbol, truth, rows, [proof for _, _, proof in days])
            for _, key, proof in days:
                self._check_levels(key, proof, truth)

    def _check_chain(self, symbol: str, truth: SymbolTruth, rows: list[tuple[int, int, int]], proofs: list[Proof]) -> None:
        heard, archived = _union(self._heard[symbol]), _union((row[0], row[1]) for row in rows)
        if heard != archived:
            raise BrokenPromiseError(
                f"{symbol}: heard were the ids {_difference(heard, archived)}, archived {_difference(archived, heard)}"
            )
        holes = [(one[1], other[0]) for one, other in pairwise(heard)]
        flagged: list[Interval] = []
        at: int | None = None
        for prev, final, flags in rows:
            if at is not None and final <= at:
                raise BrokenPromiseError(f"{symbol}: the stale event ({prev}, {final}] follows id {at}")
            if at is not None and prev > at:
                flagged.append((at, prev))
            if bool(flags & GAP_BEFORE) != (at is not None and prev > at) and at is not None:
                raise BrokenPromiseError(f"{symbol}: the event ({prev}, {final}] behind id {at} has flags {flags}")
            at = final
        told = sorted({(gap.after_update_id, gap.next_prev_update_id) for proof in proofs for gap in proof.gaps})
        if flagged != holes or told != holes:
            raise BrokenPromiseError(f"{symbol}: nobody heard {holes}, the rows say {flagged}, the proofs {told}")
        self._world.counts["gaps"] += len(holes)
        self._world.counts["ids missed"] += sum(truth.changes_between(*hole) for hole in holes)
        self._world.counts["rows"] += len(rows)
        for proof in proofs:
            if bool(proof.gaps) != (proof.status is Status.GAPPED):
                raise BrokenPromiseError(f"{symbol} {proof.date} is {proof.status} with {len(proof.gaps)} gaps")

    def _check_levels(self, key: str, proof: Proof, truth: SymbolTruth) -> None:
        """Every row must list what was touched in its ids, with the last quantities."""
        reader = self._outputs(proof).reader("depth", DEPTH)
        for batch in [] if reader is None else reader:
            for row in batch.select(LEVEL_COLUMNS).to_pylist():
                prev, final = row["prev_update_id"], row["final_update_id"]
                sides = tuple(_levels_of(row, side) for side in ("bid", "ask"))
                if sides != truth.touched(prev, final):
                    raise BrokenPromiseError(f"{key}: the event ({prev}, {final}] does not say what truly happened")

    def check_books(self) -> None:
        """A book of each day and the last of all must be the true ones, or told to be unknown.

        To be called outside of any loop: the reading API brings its own.
        """
        archive = Archive(self.store)
        newest = {(symbol, stream): date for symbol, stream, date in sorted(self._heads)}
        for (symbol, stream, date), (_, proof) in sorted(self._heads.items()):
            truth = self._truth.symbols.get(symbol)
            if truth is None or not wire.is_depth(stream) or proof.first_event_time_us is None:
                continue
            assert proof.last_event_time_us is not None, "it has a first one"
            moments = [self._rng.randint(proof.first_event_time_us, proof.last_event_time_us)]
            if newest[symbol, stream] == date:
                moments.append(proof.last_event_time_us)
            for time_us in moments:
                try:
                    view = archive.book(self._market, symbol, _EPOCH + timedelta(microseconds=time_us), stream=stream)
                except ContinuityError:
                    self._world.counts["books unknown"] += 1
                    continue
                if (dict(view.bids), dict(view.asks)) != truth.book(view.update_id):
                    raise BrokenPromiseError(f"{symbol} {date}: the book at id {view.update_id} is wrong")
                self._world.counts["books right"] += 1


def _lines_in(collector: str, data: bytes) -> set[Line]:
    try:
        return {(collector, b"%d %b" % (time_ns, frame)) for _, time_ns, frame in segment.lines_in_order(data)}
    except CorruptionError:
        return set()  # damaged: nobody may count on it


def _event_of(frame: bytes) -> tuple[str, Interval] | None:
    """Return symbol and `(p, u]` of a depth frame, read by the standard library."""
    if b'"depthUpdate"' not in frame:
        return None
    event: dict[str, Any] = json.loads(frame)["data"]
    return event["s"], (event.get("pu", event["U"] - 1), event["u"])


def _levels_of(row: Mapping[str, Any], side: str) -> dict[Decimal, Decimal]:
    prices, quantities = row[f"{side}_price"], row[f"{side}_quantity"]
    return {
        Decimal(price).scaleb(row["price_exponent"]): Decimal(quantity).scaleb(row["quantity_exponent"])
        for price, quantity in zip(prices, quantities, strict=True)
    }


def _union(intervals: Iterable[Interval]) -> list[Interval]:
    """Return the union of half-open intervals `(p, u]` as disjoint ones, ascending."""
    found: list[Interval] = []
    for prev, final in sorted(intervals):
        if found and prev <= found[-1][1]:
            found[-1] = found[-1][0], max(found[-1][1], final)
        else:
            found.append((prev, final))
    return found


def _holds(covered: list[Interval], update_id: int) -> bool:
    return any(prev < update_id <= final for prev, final in covered)


def _difference(one: list[Interval], other: list[Interval]) -> list[Interval]:
    """Return the intervals of one that are not in the other, at most a few."""
    return [interval for interval in one if interval not in other][:5]
