"""Every frame gets exactly one fate: chosen for the chain, a duplicate of a chosen one, kept verbatim for a reason, or owed to another day."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from enum import IntEnum
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from twintape.columns.kernel import kernel
from twintape.columns.lines import ChunkTexts, DayBounds, Lines
from twintape.columns.splice import splice
from twintape.core.markets import Market
from twintape.core.wire import DepthEvent, decode_depth

__all__ = ["Fate", "Fates", "decide"]

Ints = NDArray[np.int64]
Smalls = NDArray[np.int32]
Words = NDArray[np.uint64]


class Fate(IntEnum):
    """What became of a frame."""

    OWED = 0
    CHOSEN = 1
    DUPLICATE = 2
    VARIANT = 3
    CONFLICT = 4
    STALE = 5
    UNDECODABLE = 6

    @property
    def reason(self) -> str:
        """The word in the verbatim table and in proofs."""
        return self.name.lower()


VERBATIM = (Fate.VARIANT, Fate.CONFLICT, Fate.STALE, Fate.UNDECODABLE)


@dataclass(frozen=True, slots=True)
class Fates:
    """Fates of all frames, and the chain.

    Attributes:
        fate: int8[n], one of `Fate`, by position in `Lines`.
        chain: int64[k], positions of the chosen frames, in chain order.
        place: int32[n], for chosen and duplicate frames the position in the chain, else -1.
        overlap_at: int64[k], as in `splice.Path`.
        gap_after: int64[k], likewise.
    """

    fate: NDArray[np.int8]
    chain: Ints
    place: Smalls
    overlap_at: Ints
    gap_after: Ints


def decide(lines: Lines, bounds: DayBounds, texts: ChunkTexts, market: Market, settled: NDArray[np.bool_]) -> Fates:
    """Find the chain of the day and decide the fate of every frame.

    Args:
        lines: All frames at hand.
        bounds: Which of them belong to the day.
        texts: Where to look when two frames of the same ids have to be compared in full.
        market: Decides how they are decoded then.
        settled: bool[n], frames that an earlier generation of this day has settled: their raw bytes may be gone, so they are kept even if the day's
            bounds have moved since.
    """
    fate = np.full(len(lines), Fate.OWED, np.int8)
    fate[settled & ~bounds.inside] = Fate.STALE
    blind = lines.blind
    fate[:blind][bounds.inside[:blind]] = Fate.UNDECODABLE
    day = _span(bounds.inside, blind)
    chain, overlap_at, gap_after = _chain(lines, day, bounds)
    place_of_group = np.full(int(lines.group.max(initial=-1)) + 1, -1, np.int32)
    place_of_group[lines.group[chain]] = np.arange(len(chain), dtype=np.int32)
    place = np.full(len(lines), -1, np.int32)
    place[day] = place_of_group[lines.group[day]]
    astray = day.start + np.flatnonzero(place[day] < 0)
    if len(astray):
        fate[astray] = np.where(_late(lines, day)[astray - day.start], Fate.STALE, Fate.VARIANT)
    unequal = _settle(
        day.start, day.stop, place, chain, lines.hash_a, lines.hash_b, lines.first, lines.transaction_time_us, lines.template, fate,
    )  # fmt: skip
    for row in unequal.tolist():
        fate[row] = _compare(lines, texts, market, row, int(chain[place[row]]))
    fate[chain] = Fate.CHOSEN
    place[(fate != Fate.CHOSEN) & (fate != Fate.DUPLICATE)] = -1
    return Fates(fate, chain, place, overlap_at, gap_after)


def _span(inside: NDArray[np.bool_], blind: int) -> slice:
    """Return where the day's readable frames are: one behind the other, for they are sorted by id and a day is a range of ids."""
    found = np.flatnonzero(inside[blind:])
    if len(found) == 0:
        return slice(blind, blind)
    span = slice(blind + int(found[0]), blind + int(found[-1]) + 1)
    assert len(found) == span.stop - span.start, "a day is a range of ids"
    return span


@kernel
def _settle(
    begin: int,
    end: int,
    place: Smalls,
    chain: Ints,
    hash_a: Words,
    hash_b: Words,
    first: Ints,
    transaction_time_us: Ints,
    template: NDArray[np.int16],
    fate: NDArray[np.int8],
) -> Ints:
    # Finds the duplicates of chosen frames among those with the same ids; returns the rows that must be compared in full.
    unequal = np.empty(end - begin, np.int64)
    count = 0
    for row in range(begin, end):
        if place[row] < 0:
            continue
        chosen = chain[place[row]]
        if (
            hash_a[row] == hash_a[chosen]
            and hash_b[row] == hash_b[chosen]
            and first[row] == first[chosen]
            and transaction_time_us[row] == transaction_time_us[chosen]
            and template[row] >= 0
            and template[chosen] >= 0
        ):
            fate[row] = 2  # Fate.DUPLICATE
        elif row != chosen:
            unequal[count] = row
            count += 1
    return unequal[:count].copy()


def _chain(lines: Lines, day: slice, bounds: DayBounds) -> tuple[Ints, Ints, Ints]:
    """Splice each epoch of the day; copies on the same line are no choices of their own."""
    parts: list[tuple[Ints, Ints, Ints]] = []
    edges = day.start + np.flatnonzero(np.diff(lines.epoch[day])) + 1
    for begin, end in pairwise([day.start, *edges.tolist(), day.stop]):
        if begin == end:
            continue
        group, line = lines.group[begin:end], lines.line[begin:end]
        fresh = np.ones(end - begin, bool)
        fresh[1:] = (group[1:] != group[:-1]) | (line[1:] != line[:-1])
        rows = begin + np.flatnonzero(fresh)
        start = bounds.start_update_id if lines.epoch[begin] == bounds.start_epoch else None
        path = splice(lines.prev[rows], lines.final[rows], lines.line[rows], start)
        parts.append((rows[path.chosen], path.overlap_at, path.gap_after))
    if not parts:
        empty = np.zeros(0, np.int64)
        return empty, empty, empty
    return (
        np.concatenate([part[0] for part in parts]),
        np.concatenate([part[1] for part in parts]),
        np.concatenate([part[2] for part in parts]),
    )


def _late(lines: Lines, day: slice) -> NDArray[np.bool_]:
    """For each of the day's frames: had its own line already heard its last id when it came?"""
    final, epoch = lines.final[day], lines.epoch[day]
    late = np.zeros(len(final), bool)
    for line in range(len(lines.collectors)):
        mine = np.flatnonzero(lines.line[day] == line)
        order = np.lexsort((final[mine], lines.receive_time_ns[day][mine], epoch[mine]))
        rows = mine[order]
        high = _running_maximum(final[rows], epoch[rows])
        same = epoch[rows[1:]] == epoch[rows[:-1]]
        late[rows[1:]] = same & (high[:-1] >= final[rows[1:]])
    return late


def _running_maximum(final: Ints, epoch: Smalls) -> Ints:
    """Return the greatest id so far, in each epoch anew."""
    high = final.copy()
    edges = np.flatnonzero(np.diff(epoch)) + 1
    for begin, end in pairwise([0, *edges.tolist(), len(final)]):
        np.maximum.accumulate(final[begin:end], out=high[begin:end])
    return high


def _compare(lines: Lines, texts: ChunkTexts, market: Market, row: int, chosen: int) -> Fate:
    """Compare two frames of the same ids in full: the slow way, for the few whose bytes differ."""
    pair = np.array([row, chosen])
    ours, theirs = (line.split(b" ", 1)[1] for line in texts.lines(lines.chunk[pair], lines.offset[pair], lines.length[pair]))
    if ours == theirs:
        return Fate.DUPLICATE
    if _levels(decode_depth(ours, market)) == _levels(decode_depth(theirs, market)):
        # The same book, but printed differently or stamped with another T or U: the chosen row cannot render it.
        return Fate.VARIANT
    return Fate.CONFLICT


def _levels(event: DepthEvent) -> tuple[dict[Decimal, Decimal], dict[Decimal, Decimal]]:
    bids = {Decimal(price): Decimal(quantity) for price, quantity in event.bids}
    asks = {Decimal(price): Decimal(quantity) for price, quantity in event.asks}
    return bids, asks
