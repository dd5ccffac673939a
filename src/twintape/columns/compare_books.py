"""Whether the books of two lines agree wherever both stand at the same id, and whether each mentions what the other mentions.

Asked first is only what is in question: the places where windows or contents differ, each for itself. A level that both lines mention there
must have the same quantity in the end. A level that only one of them mentions says nothing by itself: the other may know it already. Only if
there are such levels is the history of the whole stretch gone through, with every quantity either line ever mentioned since the last hole: from the first
slice on, so that whoever compares must begin anew.

A window lists every level touched in its ids. So what one line mentions, the other must mention in one of its windows that overlap it, however
they are cut; if it does not, it *omits* it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from twintape.columns.heard import Heard
from twintape.columns.kernel import Int64s, kernel
from twintape.columns.parse import Levels, exponents, levels
from twintape.core.markets import Market

__all__ = ["BookCheck", "History", "check_books"]

Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]
Placed = tuple[Heard, Ints, Ints]
"""A line, and of each window its region (-1: not compared) and its segment."""

BLOCK_BYTES = 16 << 20
"""Text whose levels are in memory at a time, of each line."""
_INT64_MAX = 2**63 - 1
_DIGIT_BITS = 16
_DIGIT = (1 << _DIGIT_BITS) - 1


@dataclass(slots=True)
class BookCheck:
    """What was found, one element a region.

    Attributes:
        same_levels: Both lines mention the same levels with the same quantities (only said of regions that were asked for).
        wrong: A level that was mentioned differs where both stand at the end of the region.
        undecided: A level is mentioned by one line only, and it is not known what the other has.
        omitted_by_a: int64: how often the second line mentions a level and the first does not.
        omitted_by_b: The other way round.
    """

    same_levels: Flags
    wrong: Flags
    undecided: Flags
    omitted_by_a: Ints
    omitted_by_b: Ints


@dataclass(slots=True)
class History:
    """Quantities known at some id: key, and what either line says (-1: nothing); all of one segment. `scale` holds the exponents of every number."""

    scale: tuple[int, int]
    segment: int = -1
    key: Ints = field(default_factory=lambda: np.zeros(0, np.int64))
    quantity: tuple[Ints, Ints] = field(default_factory=lambda: (np.zeros(0, np.int64), np.zeros(0, np.int64)))


def check_books(
    one: Placed, two: Placed, asked: Flags, complete: Flags, market: Market, history: History | None = None
) -> BookCheck:
    """Compare the levels of two lines in a slice of ids.

    Args:
        one: The first line.
        two: The second.
        asked: The regions to look at.
        complete: The regions at whose ends both lines stand; elsewhere quantities are learned and not compared.
        market: How frames are read.
        history: What the slices before have left, and this one will; without it `undecided` is what may be decided with it.

    Raises:
        CorruptionError: A chunk is damaged.
        WireError: A price or quantity is beyond 64 bits.
    """
    count = len(asked)
    alone = _run(one, two, np.flatnonzero(asked), np.arange(count), complete, market, None)
    same = asked & complete & (alone[:, 0] + alone[:, 1] == 0)
    found = BookCheck(same, alone[:, 0] > 0, alone[:, 1] > 0, alone[:, 2], alone[:, 3])
    if history is not None:
        segment = np.zeros(count, np.int64)
        for _, region, segments in (one, two):
            rows = np.flatnonzero(region >= 0)
            segment[region[rows]] = segments[rows]
        whole = _run(one, two, np.arange(count), segment, complete, market, history)
        found.wrong |= whole[:, 0] > 0
        found.undecided &= whole[:, 1] > 0
    return found


def _run(
    one: Placed, two: Placed, regions: Ints, segment: Ints, complete: Flags, market: Market, history: History | None
) -> Ints:
    """Return for each region how many levels are wrong, known to one line only, omitted by the first line, by the second."""
    counts = np.zeros((len(segment), 4), np.int64)
    if not len(regions):
        return counts
    lines = [_chosen(placed, regions, len(segment)) for placed in (one, two)]
    state = History(_scale(lines)) if history is None else history
    for low, high in _blocks(lines):
        parts = []
        windows = 0
        reach, ids = np.empty((2, 2, high - low), np.int64), []
        for who, (line, rows, region) in enumerate(lines):
            begin, end = np.searchsorted(region, [low, high]).tolist()
            read = read_levels(line, rows[begin:end], state.scale, market)
            parts += _entries(read, region[begin:end], who, windows)
            windows += end - begin
            ids.append((line.prev[rows[begin:end]], line.final[rows[begin:end]]))
            reach[who] = _reach(*ids[-1], region[begin:end] - low, high - low)
        prev, final = (np.concatenate(column) for column in zip(*ids, strict=True))
        for who in (0, 1):
            known = np.flatnonzero(state.quantity[who] >= 0)
            minus = np.full(len(known), -1, np.int64)
            parts.append((state.key[known], minus, np.full(len(known), who, np.int64), state.quantity[who][known], minus))
        key, region, who_of, quantity, window = (np.concatenate(column) for column in zip(*parts, strict=True))
        order = _order(key, np.maximum(region - low + 1, 0))
        key, region, who_of = key[order], region[order], who_of[order]
        out = np.empty((3, np.count_nonzero(key[1:] != key[:-1]) + 1), np.int64)
        _omissions(key, region, who_of, window[order], prev, final, reach, low, counts)
        last = int(segment[high - 1])
        kept = _walk(key, region, who_of, quantity[order], segment, complete, state.segment, last, counts, out)
        state.segment, state.key = last, out[0, :kept].copy()
        state.quantity = (out[1, :kept].copy(), out[2, :kept].copy())
    return counts


def _order(key: Ints, place: Ints) -> Ints:
    """Return positions by key, then place; entries of both alike stay in their order, which is that of a line's windows.

    Prices are few multiples of a tick, and places are few: together they are numbers short enough to be sorted by their digits.
    """
    if not len(key):
        return np.zeros(0, np.int64)
    price = key >> 1
    price -= price.min()
    tick = price // max(int(np.gcd.reduce(price)), 1) * 2 + (key & 1)
    span = int(place.max()) + 1
    top = (int(tick.max()) + 1) * span
    if top > _INT64_MAX:
        return np.lexsort((place, key))
    code = tick * span + place
    order = np.argsort((code & _DIGIT).astype(np.uint16), kind="stable")
    for shift in range(_DIGIT_BITS, top.bit_length(), _DIGIT_BITS):
        order = order[np.argsort((code[order] >> shift & _DIGIT).astype(np.uint16), kind="stable")]
    return order


def _scale(lines: list[tuple[Heard, Ints, Ints]]) -> tuple[int, int]:
    return exponents(
        np.concatenate([line.price_decimals[rows] for line, rows, _ in lines]),
        np.concatenate([line.quantity_decimals[rows] for line, rows, _ in lines]),
    )


def _chosen(placed: Placed, regions: Ints, count: int) -> tuple[Heard, Ints, Ints]:
    line, region, _ = placed
    wanted = np.zeros(count + 1, bool)
    wanted[regions] = True  # the last element stays False: it is the region -1
    rows = np.flatnonzero(wanted[region])
    order = np.argsort(region[rows], kind="stable")
    return line, rows[order], region[rows[order]]


def _blocks(lines: list[tuple[Heard, Ints, Ints]]) -> Iterator[tuple[int, int]]:
    """Yield ranges of regions whose text is about `BLOCK_BYTES`, whole segments where it does not matter."""
    top = max(int(region[-1]) + 1 for _, _, region in lines if len(region))
    size = np.zeros(top, np.int64)
    for line, rows, region in lines:
        np.add.at(size, region, line.length[rows].astype(np.int64))
    total = np.cumsum(size)
    low = 0
    while low < top:
        before = int(total[low - 1]) if low else 0
        high = max(low + 1, int(np.searchsorted(total, before + BLOCK_BYTES)))
        yield low, min(high, top)
        low = high


def read_levels(line: Heard, rows: Ints, scale: tuple[int, int], market: Market) -> Levels:
    """Return the levels of some windows, in this order.

    Raises:
        CorruptionError: A chunk is damaged.
        WireError: A price or quantity is beyond 64 bits.
    """
    order = np.argsort(line.chunk[rows], kind="stable")
    edges = np.flatnonzero(np.diff(line.chunk[rows[order]])) + 1
    found = [
        levels(
            line.chunks[int(line.chunk[part[0]])].load(),
            line.offset[part],
            line.length[part],
            line.template[part],
            line.templates,
            market=market,
            price_exponent=scale[0],
            quantity_exponent=scale[1],
        )
        for part in np.split(rows[order], edges)
        if len(part)
    ]
    back = np.empty(len(order), np.int64)
    back[order] = np.arange(len(order))
    return Levels.joined(found).take(back)


def _entries(read: Levels, region: Ints, who: int, first_window: int) -> list[tuple[Ints, Ints, Ints, Ints, Ints]]:
    found = []
    for side, (offsets, price, quantity) in enumerate(
        ((read.bid_offsets, read.bid_price, read.bid_quantity), (read.ask_offsets, read.ask_price, read.ask_quantity))
    ):
        window = np.repeat(np.arange(len(region)), np.diff(offsets))
        found.append((price * 2 + side, region[window], np.full(len(window), who, np.int64), quantity, window + first_window))
    return found


def _reach(prev: Ints, final: Ints, region: Ints, count: int) -> Ints:
    """Return from where to where the windows of each region reach; nowhere if there are none."""
    found = np.stack([np.full(count, np.iinfo(np.int64).max), np.full(count, -1, np.int64)])
    np.minimum.at(found[0], region, prev)
    np.maximum.at(found[1], region, final)
    return found


@kernel
def _omissions(
    key: Int64s,
    region: Int64s,
    who: Int64s,
    window: Int64s,
    prev: Int64s,
    final: Int64s,
    reach: NDArray[np.int64],
    low: int,
    counts: Ints,
) -> None:
    # Sorted by key and region; within both the mentions of the first line, then those of the second, each in the order of windows.
    start = 0
    while start < key.size:
        stop = middle = start
        while stop < key.size and key[stop] == key[start] and region[stop] == region[start]:
            if who[stop] == 0:
                middle += 1
            stop += 1
        place = region[start]
        if place >= 0:
            for side in range(2):
                begin, end = (start, middle) if side == 0 else (middle, stop)
                other, other_end = (middle, stop) if side == 0 else (start, middle)
                for i in range(begin, end):
                    ids_from, ids_to = prev[window[i]], final[window[i]]
                    if ids_from < reach[1 - side, 0, place - low] or ids_to > reach[1 - side, 1, place - low]:
                        continue  # what the other line heard of these ids is not all in this region
                    while other < other_end and final[window[other]] <= ids_from:
                        other += 1
                    if other >= other_end or prev[window[other]] >= ids_to:
                        counts[place, 3 - side] += 1
        start = stop


@kernel
def _walk(
    key: Int64s,
    region: Int64s,
    who: Int64s,
    quantity: Int64s,
    segment: Int64s,
    complete: Flags,
    carried: int,
    last: int,
    counts: Ints,
    out: Ints,
) -> int:
    # Sorted by key and region. Quantities are those of the last mention; a new segment forgets them. Returns how many keys are known
    # at the end, in `out`: key, quantity of the first line, of the second.
    kept = 0
    i = 0
    while i < key.size:
        here = key[i]
        at = carried
        first = second = np.int64(-1)
        while i < key.size and key[i] == here:
            place = region[i]
            now = carried if place < 0 else segment[place]
            if now != at:
                first = second = np.int64(-1)
                at = now
            while i < key.size and key[i] == here and region[i] == place:
                if who[i] == 0:
                    first = quantity[i]
                else:
                    second = quantity[i]
                i += 1
            if place < 0 or not complete[place]:
                continue
            if first < 0 or second < 0:
                counts[place, 1] += 1
            elif first != second:
                counts[place, 0] += 1
        if at == last:
            out[0, kept] = here
            out[1, kept] = first
            out[2, kept] = second
            kept += 1
    return kept
