"""Lines that are cut differently, compared with the chain: between two ids at which both end an event, both must have said the same.

An event lists every level touched in its ids with its final quantity, so the last word on each level over a *window* between common boundaries
does not depend on how it was cut. Frames of equal ids are compared as they are merged; this is for all others.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from twintape.columns.fates import Fate, Fates
from twintape.columns.lines import ChunkTexts, Lines
from twintape.columns.parse import TemplateSet, levels
from twintape.core.errors import WireError
from twintape.core.evidence import WindowDifference, Windows
from twintape.core.markets import Market

__all__ = ["compare_windows"]

Ints = NDArray[np.int64]

FRAMES_MAX = 4096
"""Frames of the chain and of a line that are decoded at the same time."""
EXAMPLES_MAX = 20

_OMITTED, _CONFLICTING = 1, 2


@dataclass(frozen=True, slots=True)
class _Window:
    """Ids over which a line is cut differently: its frames, and the frames of the chain that cover the same."""

    line: int
    prev: int
    final: int
    theirs: Ints
    ours: Ints


def compare_windows(lines: Lines, fates: Fates, texts: ChunkTexts, market: Market, exponents: tuple[int, int]) -> Windows:
    """Compare every line with the chain wherever it is cut differently and both have boundaries in common.

    Args:
        lines: All frames at hand.
        fates: Their fates.
        texts: Where the frames are.
        market: Decides how the slow ones are decoded.
        exponents: Powers of ten of prices and of quantities that hold every number of the chain.
    """
    equal = omitted = conflicting = 0
    examples: list[WindowDifference] = []
    for batch in _batches(_windows(lines, fates)):
        for window, kind in zip(batch, _judge(batch, lines, texts, market, exponents), strict=True):
            equal += kind == 0
            omitted += kind == _OMITTED
            conflicting += kind == _CONFLICTING
            if kind and len(examples) < EXAMPLES_MAX:
                word = "conflicting" if kind == _CONFLICTING else "omitted"
                name = lines.collectors[window.line]
                examples.append(
                    WindowDifference(collector=name, prev_update_id=window.prev, final_update_id=window.final, kind=word)
                )
    return Windows(equal=equal, omitted=omitted, conflicting=conflicting, examples=examples)


def _windows(lines: Lines, fates: Fates) -> Iterator[_Window]:
    variants = np.flatnonzero(fates.fate == Fate.VARIANT)
    for epoch in np.unique(lines.epoch[variants]).tolist():
        chain = fates.chain[lines.epoch[fates.chain] == epoch]
        here = variants[lines.epoch[variants] == epoch]
        for line in np.unique(lines.line[here]).tolist():
            rows = here[lines.line[here] == line]
            yield from _of_line(lines, rows[np.r_[True, lines.group[rows[1:]] != lines.group[rows[:-1]]]], line, chain)


def _of_line(lines: Lines, rows: Ints, line: int, chain: Ints) -> Iterator[_Window]:
    prev, final = lines.prev[chain], lines.final[chain]
    theirs_prev, theirs_final = lines.prev[rows], lines.final[rows]
    begins = np.minimum(np.searchsorted(final, theirs_prev, side="right"), len(chain) - 1)
    ends = np.minimum(np.searchsorted(final, theirs_final), len(chain) - 1)
    at_begin, at_end = prev[begins] == theirs_prev, final[ends] == theirs_final
    starts = np.flatnonzero(np.r_[True, at_begin[1:] | (theirs_prev[1:] != theirs_final[:-1])])
    for first, stop in zip(starts.tolist(), [*starts[1:].tolist(), len(rows)], strict=True):
        if at_begin[first] and at_end[stop - 1]:
            # The chain has no overlap and no gap in between: the line's own frames would have been the better path.
            ours = chain[int(begins[first]) : int(ends[stop - 1]) + 1]
            yield _Window(line, int(theirs_prev[first]), int(theirs_final[stop - 1]), rows[first:stop], ours)


def _batches(windows: Iterator[_Window]) -> Iterator[list[_Window]]:
    batch: list[_Window] = []
    frames = 0
    for window in windows:
        batch.append(window)
        frames += len(window.theirs) + len(window.ours)
        if frames >= FRAMES_MAX:
            yield batch
            batch, frames = [], 0
    if batch:
        yield batch


def _judge(batch: list[_Window], lines: Lines, texts: ChunkTexts, market: Market, exponents: tuple[int, int]) -> list[int]:
    try:
        ours = _last_words([window.ours for window in batch], lines, texts, market, exponents)
        theirs = _last_words([window.theirs for window in batch], lines, texts, market, exponents)
    except WireError:
        if len(batch) > 1:
            return [kind for window in batch for kind in _judge([window], lines, texts, market, exponents)]
        return [_CONFLICTING]  # a number that the day's exponents cannot hold is none of the chain's
    both = np.concatenate([ours, theirs], axis=1)
    window, side, price, quantity = both[:, np.lexsort(both[2::-1])]
    same = (window[1:] == window[:-1]) & (side[1:] == side[:-1]) & (price[1:] == price[:-1])
    kinds = np.zeros(len(batch), np.int64)
    alone = ~(np.r_[same, False] | np.r_[False, same])
    kinds[window[alone]] = _OMITTED
    kinds[window[1:][same & (quantity[1:] != quantity[:-1])]] = _CONFLICTING
    return [int(kind) for kind in kinds.tolist()]


def _last_words(groups: list[Ints], lines: Lines, texts: ChunkTexts, market: Market, exponents: tuple[int, int]) -> Ints:
    """Return int64[4, n]: window, side, price and the last quantity of every level the frames of each window list."""
    rows = np.concatenate(groups)
    window = np.repeat(np.arange(len(groups)), [len(group) for group in groups])
    found = texts.lines(lines.chunk[rows], lines.offset[rows], lines.length[rows])
    offsets = np.zeros(len(rows), np.int64)
    np.cumsum(lines.length[rows[:-1]].astype(np.int64) + 1, out=offsets[1:])
    decoded = levels(
        b"\n".join(found) + b"\n",
        offsets,
        lines.length[rows],
        lines.template[rows],
        TemplateSet(lines.templates),
        market=market,
        price_exponent=exponents[0],
        quantity_exponent=exponents[1],
    )
    sides = (
        (decoded.bid_offsets, decoded.bid_price, decoded.bid_quantity),
        (decoded.ask_offsets, decoded.ask_price, decoded.ask_quantity),
    )
    parts = [
        np.stack([np.repeat(window, np.diff(starts)), np.full(len(price), side, np.int64), price, quantity])
        for side, (starts, price, quantity) in enumerate(sides)
    ]
    every = np.concatenate(parts, axis=1)
    # Stable: among equal keys the order of the frames stays, and the last one counts.
    every = every[:, np.lexsort(every[2::-1])]
    differs = (every[:3, 1:] != every[:3, :-1]).any(axis=0)
    return every[:, np.r_[differs, np.ones(min(1, every.shape[1]), bool)]]
