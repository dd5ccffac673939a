"""The book through the day: where it is known, which snapshots agree with it, and what it is at both midnights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from twintape.columns.book import NO_ASK, NO_BID, Book, Top, book_sha256, plain_text
from twintape.columns.checkpoint import EVERYWHERE, NOWHERE, Checkpoint, Region, checkpoint, meet, region_of
from twintape.columns.parse import Levels
from twintape.columns.snapshots import Snapshot, counts_of, decimals_of, sides_of
from twintape.core.evidence import CheckpointFailure, Checkpoints, PartialBooks, SnapshotRecord

__all__ = ["BookRow", "DayBook", "SnapshotCopy", "SnapshotRow", "rescaled"]

Ints = NDArray[np.int64]
EXAMPLES_MAX = 20
_INT64_MAX = 2**63 - 1


@dataclass(frozen=True, slots=True)
class SnapshotCopy:
    """One REST snapshot as one collector received it. `limit` is the levels a side that were asked for, 0 if unknown."""

    collector: str
    connection: str
    receive_time_ns: int
    limit: int
    snapshot: Snapshot


@dataclass(frozen=True, slots=True)
class BookRow:
    """A whole book at an id: mantissas (int64[]) with their exponents; bids best first, asks best first; and of which prices it knows everything."""

    update_id: int
    price_exponent: int
    quantity_exponent: int
    bid_price: Ints
    bid_quantity: Ints
    ask_price: Ints
    ask_quantity: Ints
    region: Region = EVERYWHERE


@dataclass(frozen=True, slots=True)
class SnapshotRow:
    """A row of a published snapshot table: `kind` and `verdict` as there, and `limit`, 0 if unknown, as above."""

    kind: str
    verdict: str | None
    limit: int
    receive_time_ns: int
    book: BookRow

    @property
    def complete_bid(self) -> bool:
        """Whether it lists all bids."""
        return len(self.book.bid_price) < self.limit

    @property
    def complete_ask(self) -> bool:
        """Whether it lists all asks."""
        return len(self.book.ask_price) < self.limit


@dataclass(slots=True)
class DayBook:
    """Follows one book along the chain and judges the snapshots it meets.

    Feed it the chain in order with `advance`. A book starts from an opening book or from the first snapshot behind which the chain is unbroken; it is
    unknown before that and from a gap to the next snapshot. Where ids repeat in another epoch, a snapshot speaks of the event heard nearest to it in time.
    A snapshot met while the book is known is a checkpoint: it is compared, never changes what the book knows, and, if it agrees with that, adds what lies
    outside the book's region (see `columns.checkpoint`).

    Args:
        final: int64[k], ends of the chain's events.
        prev: int64[k], their `p`.
        receive_time_ns: int64[k], when they were heard.
        breaks: Chain positions before which the book is lost (gaps and epochs).
        snapshots: The day's snapshots, sorted by `(last_update_id, collector, receive time)`.
        partials: Chain position → a book of the best levels whose id the event there covers; compared like a checkpoint, and never starts a book.
        price_exponent: Of all mantissas.
        quantity_exponent: Likewise.
    """

    final: Ints
    prev: Ints
    receive_time_ns: Ints
    breaks: Ints
    snapshots: Sequence[SnapshotCopy]
    price_exponent: int
    quantity_exponent: int
    partials: Mapping[int, SnapshotCopy] = field(default_factory=dict)
    tops: Ints = field(init=False)
    """int64[k, 4]: bid, quantity, ask, quantity behind each event behind which the book is known; `NO_BID`, `NO_ASK` and 0 where there is none."""
    book: Book = field(init=False)
    known: bool = field(init=False, default=False)
    region: Region = field(init=False, default=NOWHERE)
    """Of which prices the book knows everything."""
    regions: list[Region] = field(init=False)
    """The same behind each snapshot, `NOWHERE` for those that failed or were not met."""
    crossed: int = field(init=False, default=0)
    verdicts: list[str] = field(init=False)
    partial_passed: int = field(init=False, default=0)
    partial_failed: int = field(init=False, default=0)
    _met_behind: dict[int, int] = field(init=False)
    _meets: dict[int, list[int]] = field(init=False)
    _failures: list[CheckpointFailure] = field(init=False)
    _partial_failures: list[CheckpointFailure] = field(init=False)
    _differences: dict[int, int] = field(init=False)
    _lost: set[int] = field(init=False)
    _sides_of: dict[int, tuple[Ints, Ints, Ints, Ints]] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self.book = Book(self.price_exponent, self.quantity_exponent)
        self.verdicts = ["outside"] * len(self.snapshots)
        self.regions = [NOWHERE] * len(self.snapshots)
        self.tops = np.tile(np.array([NO_BID, 0, NO_ASK, 0], np.int64), (len(self.final), 1))
        self._failures, self._partial_failures, self._differences = [], [], {}
        self._lost = set(self.breaks.tolist())
        self._meets, self._met_behind = {}, {}
        for number, copy in enumerate(self.snapshots):
            self._place(number, copy.snapshot.last_update_id, copy.receive_time_ns)

    def _place(self, number: int, last_update_id: int, receive_time_ns: int) -> None:
        """Find the event with `p < L <= u`, or `L == p` where the chain begins or goes on after a break: behind it the snapshot is met.

        Where the first event of a day begins before the opening book's id, that book is ahead of a snapshot at `p`; behind the event both are the same.
        """
        fresh = np.zeros(len(self.final), bool)
        fresh[:1] = True
        fresh[self.breaks] = True
        at_start = fresh & (self.prev == last_update_id)
        candidates = np.flatnonzero(at_start | ((self.prev < last_update_id) & (last_update_id <= self.final)))
        if len(candidates):
            position = int(candidates[np.argmin(np.abs(self.receive_time_ns[candidates] - receive_time_ns))])
            self._meets.setdefault(position, []).append(number)
            self._met_behind[number] = position

    def open(self, opening: BookRow | None) -> None:
        """Start from yesterday's closing book, if there is one, the chain goes on from it, and it can be held in today's units."""
        if opening is None or 0 in self._lost:
            return
        try:
            sides = rescaled(opening, self.price_exponent, self.quantity_exponent)
        except OverflowError:
            return  # the book is unknown until the next snapshot, and flagged so
        self.book.load(*sides)
        self.region = opening.region.finer(10 ** (opening.price_exponent - self.price_exponent))
        self.known = True

    def advance(self, first: int, levels: Levels) -> NDArray[np.bool_]:
        """Apply the chain's next events.

        Args:
            first: Chain position of the first event of `levels`.
            levels: The events' levels, in the book's exponents.

        Returns:
            bool[len], whether the book is unknown behind each event.
        """
        count = len(levels.bid_offsets) - 1
        unknown = np.zeros(count, bool)
        stops = sorted(
            {
                position - first + 1
                for met in (self._meets, self.partials)
                for position in met
                if first <= position < first + count
            }
            | {position - first for position in self._lost if first < position < first + count}
            | {count}
        )
        begin = 0
        for stop in stops:
            if first + begin in self._lost:
                self.known = False
            if self.known:
                self._apply(first, levels, begin, stop)
            unknown[begin:stop] = not self.known
            for number in self._meets.get(first + stop - 1, ()):
                self._meet(number, levels, first, stop - 1)
            unknown[stop - 1] = not self.known
            if self.known and first + stop - 1 in self.partials:
                self._meet_partial(self.partials[first + stop - 1], levels, stop - 1)
            begin = stop
        return unknown

    def _apply(self, first: int, levels: Levels, begin: int, stop: int) -> None:
        top = self.book.apply(levels, begin, stop)
        self.crossed += top.crossed_count
        for column, values in enumerate((top.best_bid, top.bid_quantity, top.best_ask, top.ask_quantity)):
            self.tops[first + begin : first + stop, column] = values

    def _meet(self, number: int, levels: Levels, first: int, position: int) -> None:
        copy = self.snapshots[number]
        sides, complete = self.sides(number), self._complete(copy)
        if not self.known:
            self.book.load(*sides)
            self._set_top(first + position, self.book.apply(levels, position, position + 1))
            self.known = True
            self.verdicts[number] = "anchor"
            self.region = self.regions[number] = region_of(sides, complete_bid=complete[0], complete_ask=complete[1])
            return
        result, self.region = meet(
            sides, self.book, self.region, levels, position, complete_bid=complete[0], complete_ask=complete[1]
        )
        self.verdicts[number] = result.verdict
        if result.verdict == "failed":
            self._differences[number] = result.difference_count
            self._failures.append(self._failure(copy, result))
            return
        self.regions[number] = self.region
        if result.learned and levels is not None:
            self._set_top(first + position, self.book.apply(levels, position, position + 1))

    def _set_top(self, place: int, top: Top) -> None:
        self.tops[place] = [top.best_bid[-1], top.bid_quantity[-1], top.best_ask[-1], top.ask_quantity[-1]]

    @staticmethod
    def _complete(copy: SnapshotCopy) -> tuple[bool, bool]:
        """Whether the snapshot lists all bids, and all asks: fewer than were asked for."""
        limit = copy.limit
        bids, asks = counts_of(copy.snapshot)
        return bids < limit, asks < limit

    def _meet_partial(self, copy: SnapshotCopy, levels: Levels, position: int) -> None:
        if any(digits > -own for digits, own in zip(decimals_of(copy.snapshot), self._exponents(), strict=True)):
            self._judge_partial(copy, None)
            return
        sides = sides_of(copy.snapshot, *self._exponents())
        changed = levels.bid_offsets[position + 1] - levels.bid_offsets[position]
        changed = max(changed, levels.ask_offsets[position + 1] - levels.ask_offsets[position])
        depth = max(counts_of(copy.snapshot)) + int(changed) + 1
        complete = self._complete(copy)
        result = checkpoint(
            sides,
            self.book,
            levels,
            position,
            complete_bid=complete[0],
            complete_ask=complete[1],
            depth=depth,
            known=self.region,
        )
        self._judge_partial(copy, result)

    def _judge_partial(self, copy: SnapshotCopy, result: Checkpoint | None) -> None:
        """Count what came of a partial book; None: it has digits that no number of the day has."""
        if result is not None and result.verdict == "passed":
            self.partial_passed += 1
            return
        self.partial_failed += 1
        if len(self._partial_failures) < EXAMPLES_MAX:
            self._partial_failures.append(self._failure(copy, result or Checkpoint("failed", (), 0)))

    def _exponents(self) -> tuple[int, int]:
        return self.price_exponent, self.quantity_exponent

    def _failure(self, copy: SnapshotCopy, result: Checkpoint) -> CheckpointFailure:
        return CheckpointFailure(
            last_update_id=copy.snapshot.last_update_id,
            collector=copy.collector,
            differences=result.difference_count,
            examples=[
                (
                    found.side,
                    plain_text(found.price, self.price_exponent),
                    plain_text(found.in_snapshot, self.quantity_exponent),
                    plain_text(found.in_book, self.quantity_exponent),
                )
                for found in result.differences[:EXAMPLES_MAX]
            ],
        )

    def sides(self, number: int) -> tuple[Ints, Ints, Ints, Ints]:
        """Return the levels of a snapshot as mantissas: bid prices, bid quantities, ask prices, ask quantities."""
        found = self._sides_of.get(number)
        if found is None:
            found = self._sides_of[number] = sides_of(self.snapshots[number].snapshot, *self._exponents())
        return found

    def results(self) -> Checkpoints:
        """Return how the snapshots compared."""
        return Checkpoints(
            passed=self.verdicts.count("passed"),
            failed=self.verdicts.count("failed"),
            anchors=self.verdicts.count("anchor"),
            outside=self.verdicts.count("outside"),
            failures=self._failures,
            snapshots=[self._record(number) for number in range(len(self.snapshots))],
        )

    def _record(self, number: int) -> SnapshotRecord:
        copy, position = self.snapshots[number], self._met_behind.get(number)
        bid_price, _, ask_price, _ = self.sides(number)
        known_low, known_high = self.regions[number].texts(self.price_exponent)
        return SnapshotRecord(
            last_update_id=copy.snapshot.last_update_id,
            collector=copy.collector,
            connection=copy.connection,
            receive_time_ns=copy.receive_time_ns,
            verdict=self.verdicts[number],
            prev_update_id=None if position is None else int(self.prev[position]),
            final_update_id=None if position is None else int(self.final[position]),
            bid_low=plain_text(int(bid_price.min()), self.price_exponent) if len(bid_price) else None,
            ask_high=plain_text(int(ask_price.max()), self.price_exponent) if len(ask_price) else None,
            differences=self._differences.get(number, 0),
            known_low=known_low,
            known_high=known_high,
        )

    def partial_results(self) -> PartialBooks | None:
        """Return how the partial books compared; None if there were none."""
        if not self.partials:
            return None
        return PartialBooks(passed=self.partial_passed, failed=self.partial_failed, failures=self._partial_failures)

    def closing(self, update_id: int | None) -> BookRow | None:
        """Return the book behind the chain's last event, or None if it is not known."""
        if not self.known or update_id is None:
            return None
        return BookRow(update_id, self.price_exponent, self.quantity_exponent, *self.book.levels(), self.region)

    def closing_sha256(self) -> str:
        """Return the digest of the book's text."""
        return book_sha256(self.book)


def rescaled(row: BookRow, price_exponent: int, quantity_exponent: int) -> tuple[Ints, Ints, Ints, Ints]:
    """Return the book's sides with finer exponents; exact, because the day's exponents are at most the row's.

    Raises:
        OverflowError: A number does not fit into 64 bits any more.
    """
    price = 10 ** (row.price_exponent - price_exponent)
    quantity = 10 ** (row.quantity_exponent - quantity_exponent)
    for factor, sides in ((price, (row.bid_price, row.ask_price)), (quantity, (row.bid_quantity, row.ask_quantity))):
        if any(int(side.max(initial=0)) * factor > _INT64_MAX for side in sides):
            raise OverflowError(f"a number of the book at id {row.update_id} does not fit with {factor} times finer units")
    return row.bid_price * price, row.bid_quantity * quantity, row.ask_price * price, row.ask_quantity * quantity
