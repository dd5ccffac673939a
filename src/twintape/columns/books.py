"""The book through the day: where it is known, which snapshots agree with it, and what it is at both midnights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import Decimal

import numpy as np
from numpy.typing import NDArray

from twintape.columns.book import Book, book_sha256, checkpoint
from twintape.columns.parse import Levels
from twintape.core.manifest import CheckpointFailure, Checkpoints
from twintape.core.wire import DepthSnapshot

__all__ = ["BookRow", "DayBook", "SnapshotCopy", "decimals_of", "mantissas"]

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
    snapshot: DepthSnapshot


@dataclass(frozen=True, slots=True)
class BookRow:
    """A whole book at an id: mantissas (int64[]) with their exponents; bids best first, asks best first."""

    update_id: int
    price_exponent: int
    quantity_exponent: int
    bid_price: Ints
    bid_quantity: Ints
    ask_price: Ints
    ask_quantity: Ints


def decimals_of(snapshot: DepthSnapshot) -> tuple[int, int]:
    """Return how many digits behind the point the snapshot's prices and quantities need, without trailing zeros."""
    rows = [*snapshot.bids, *snapshot.asks]
    return (max((_digits(price) for price, _ in rows), default=0), max((_digits(quantity) for _, quantity in rows), default=0))


def _digits(text: str) -> int:
    return len(text.partition(".")[2].rstrip("0"))


def mantissas(texts: Sequence[str], exponent: int) -> Ints:
    """Return decimals as multiples of `10**exponent`, exactly.

    >>> mantissas(["1.50", "2"], -2).tolist()
    [150, 200]
    """
    return np.array([int(Decimal(text).scaleb(-exponent)) for text in texts], np.int64)


@dataclass(slots=True)
class DayBook:
    """Follows one book along the chain and judges the snapshots it meets.

    Feed it the chain in order with `advance`. A book starts from an opening book or from the first snapshot behind which the chain is unbroken; it is
    unknown before that and from a gap to the next snapshot. Where ids repeat in another epoch, a snapshot speaks of the event heard nearest to it in time.
    A snapshot met while the book is known is a checkpoint: it is compared and changes nothing.

    Args:
        final: int64[k], ends of the chain's events.
        prev: int64[k], their `p`.
        receive_time_ns: int64[k], when they were heard.
        breaks: Chain positions before which the book is lost (gaps and epochs).
        snapshots: The day's snapshots, sorted by `(last_update_id, collector, receive time)`.
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
    book: Book = field(init=False)
    known: bool = field(init=False, default=False)
    crossed: int = field(init=False, default=0)
    verdicts: list[str] = field(init=False)
    checkpoints: Checkpoints = field(init=False)
    _starts: dict[int, list[int]] = field(init=False)
    _meets: dict[int, list[int]] = field(init=False)
    _failures: list[CheckpointFailure] = field(init=False)
    _lost: set[int] = field(init=False)

    def __post_init__(self) -> None:
        self.book = Book(self.price_exponent, self.quantity_exponent)
        self.verdicts = ["outside"] * len(self.snapshots)
        self._failures = []
        self._lost = set(self.breaks.tolist())
        self._starts, self._meets = {}, {}
        for number, copy in enumerate(self.snapshots):
            self._place(number, copy.snapshot.last_update_id, copy.receive_time_ns)

    def _place(self, number: int, last_update_id: int, receive_time_ns: int) -> None:
        """Find the event with `p < L <= u`, behind which the snapshot is met; or `L == p` where the chain begins or goes on after a break."""
        fresh = np.zeros(len(self.final), bool)
        fresh[:1] = True
        fresh[self.breaks] = True
        at_start = fresh & (self.prev == last_update_id)
        candidates = np.flatnonzero(at_start | ((self.prev < last_update_id) & (last_update_id <= self.final)))
        if len(candidates):
            position = int(candidates[np.argmin(np.abs(self.receive_time_ns[candidates] - receive_time_ns))])
            meetings = self._starts if at_start[position] else self._meets
            meetings.setdefault(position, []).append(number)

    def open(self, opening: BookRow | None) -> None:
        """Start from yesterday's closing book, if there is one, the chain goes on from it, and it can be held in today's units."""
        if opening is None or 0 in self._lost:
            return
        try:
            sides = rescaled(opening, self.price_exponent, self.quantity_exponent)
        except OverflowError:
            return  # the book is unknown until the next snapshot, and flagged so
        self.book.load(*sides)
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
            {position - first + 1 for position in self._meets if first <= position < first + count}
            | {position - first for position in self._lost if first < position < first + count}
            | {count}
        )
        begin = 0
        for stop in stops:
            if first + begin in self._lost:
                self.known = False
            for number in self._starts.get(first + begin, ()):
                self._meet(number, None, 0)
            if self.known:
                self.crossed += self.book.apply(levels, begin, stop).crossed_count
            unknown[begin:stop] = not self.known
            for number in self._meets.get(first + stop - 1, ()):
                self._meet(number, levels, stop - 1)
            unknown[stop - 1] = not self.known
            begin = stop
        return unknown

    def _meet(self, number: int, levels: Levels | None, position: int) -> None:
        copy = self.snapshots[number]
        sides = self._sides(copy.snapshot)
        if not self.known:
            self.book.load(*sides)
            if levels is not None:
                self.book.apply(levels, position, position + 1)
            self.known = True
            self.verdicts[number] = "anchor"
            return
        result = checkpoint(
            sides,
            self.book,
            levels,
            position,
            complete_bid=bool(copy.limit) and len(copy.snapshot.bids) < copy.limit,
            complete_ask=bool(copy.limit) and len(copy.snapshot.asks) < copy.limit,
        )
        self.verdicts[number] = result.verdict
        if result.verdict == "failed":
            self._failures.append(
                CheckpointFailure(
                    last_update_id=copy.snapshot.last_update_id,
                    collector=copy.collector,
                    differences=result.difference_count,
                    examples=[
                        (found.side, str(found.price), str(found.in_snapshot), str(found.in_book))
                        for found in result.differences[:EXAMPLES_MAX]
                    ],
                )
            )

    def _sides(self, snapshot: DepthSnapshot) -> tuple[Ints, Ints, Ints, Ints]:
        return (
            mantissas([price for price, _ in snapshot.bids], self.price_exponent),
            mantissas([quantity for _, quantity in snapshot.bids], self.quantity_exponent),
            mantissas([price for price, _ in snapshot.asks], self.price_exponent),
            mantissas([quantity for _, quantity in snapshot.asks], self.quantity_exponent),
        )

    def results(self) -> Checkpoints:
        """Return how the snapshots compared."""
        return Checkpoints(
            passed=self.verdicts.count("passed"),
            failed=self.verdicts.count("failed"),
            anchors=self.verdicts.count("anchor"),
            outside=self.verdicts.count("outside"),
            failures=self._failures,
        )

    def closing(self, update_id: int | None) -> BookRow | None:
        """Return the book behind the chain's last event, or None if it is not known."""
        if not self.known or update_id is None:
            return None
        return BookRow(update_id, self.price_exponent, self.quantity_exponent, *self.book.levels())

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
