"""Every frame gets exactly one fate: chosen for the chain, a duplicate of a chosen one, kept verbatim for a reason, or owed to another day."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from twintape.columns.lines import SLOW, UNDECODABLE, ChunkTexts, DayBounds, Lines
from twintape.columns.splice import splice
from twintape.core.markets import Market
from twintape.core.wire import DepthEvent, decode_depth

__all__ = ["Fate", "Fates", "decide"]

Ints = NDArray[np.int64]


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
        place: int64[n], for chosen and duplicate frames the position in the chain, else -1.
        overlap_at: int64[k], as in `splice.Path`.
        gap_after: int64[k], likewise.
    """

    fate: NDArray[np.int8]
    chain: Ints
    place: Ints
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
    fate[bounds.inside & (lines.template == UNDECODABLE)] = Fate.UNDECODABLE
    day = np.flatnonzero(bounds.inside & (lines.template != UNDECODABLE))
    chain, overlap_at, gap_after = _chain(lines, day, bounds)
    place_of_group = np.full(int(lines.group.max(initial=-1)) + 1, -1, np.int64)
    place_of_group[lines.group[chain]] = np.arange(len(chain))
    place = np.full(len(lines), -1, np.int64)
    place[day] = place_of_group[lines.group[day]]
    fate[day] = Fate.VARIANT
    fate[day[(place[day] < 0) & _late(lines, day)]] = Fate.STALE
    twins = day[place[day] >= 0]
    original = chain[place[twins]]
    same = (
        (lines.hash_a[twins] == lines.hash_a[original])
        & (lines.hash_b[twins] == lines.hash_b[original])
        & (lines.first[twins] == lines.first[original])
        & (lines.transaction_time_us[twins] == lines.transaction_time_us[original])
        & (lines.template[twins] != SLOW)
        & (lines.template[original] != SLOW)
    )
    fate[twins[same]] = Fate.DUPLICATE
    for row, chosen in zip(twins[~same].tolist(), original[~same].tolist(), strict=True):
        if row != chosen:
            fate[row] = _compare(lines, texts, market, row, chosen)
    fate[chain] = Fate.CHOSEN
    place[(fate != Fate.CHOSEN) & (fate != Fate.DUPLICATE)] = -1
    return Fates(fate, chain, place, overlap_at, gap_after)


def _chain(lines: Lines, day: Ints, bounds: DayBounds) -> tuple[Ints, Ints, Ints]:
    """Splice each epoch of the day; copies on the same line are no choices of their own."""
    parts: list[tuple[Ints, Ints, Ints]] = []
    epochs = np.unique(lines.epoch[day])
    for epoch in epochs.tolist():
        rows = day[lines.epoch[day] == epoch]
        fresh = np.ones(len(rows), bool)
        fresh[1:] = (lines.group[rows[1:]] != lines.group[rows[:-1]]) | (lines.line[rows[1:]] != lines.line[rows[:-1]])
        rows = rows[fresh]
        start = bounds.start_update_id if epoch == bounds.start_epoch else None
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


def _late(lines: Lines, day: Ints) -> NDArray[np.bool_]:
    """For each of the day's frames: had its own line already heard its last id when it came?"""
    late = np.zeros(len(day), bool)
    for line in np.unique(lines.line[day]).tolist():
        mine = np.flatnonzero(lines.line[day] == line)
        rows = day[mine]
        order = np.lexsort((lines.final[rows], lines.receive_time_ns[rows], lines.epoch[rows]))
        final = lines.final[rows][order]
        epoch = lines.epoch[rows][order]
        for number in np.unique(epoch).tolist():
            part = np.flatnonzero(epoch == number)
            high = np.maximum.accumulate(final[part])
            late[mine[order[part[1:]]]] = high[:-1] >= final[part[1:]]
    return late


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
