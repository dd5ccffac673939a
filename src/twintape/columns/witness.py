"""Other streams as witnesses of the book: bookTicker says the top at an id, partial book streams the best levels.

They say nothing that merging could use; agreeing with them tests what the book rests on. Neither ever starts or repairs a book.

Source: Binance, Spot API docs, web-socket-streams.md, Individual Symbol Book Ticker and Partial Book Depth Streams (2026-07-21); Derivatives docs,
Partial Book Depth Streams (2026-05-28).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray

from twintape.columns.book import plain_text
from twintape.columns.books import SnapshotCopy
from twintape.columns.flat import FlatTemplate, FlatText, scan
from twintape.columns.kinds import KINDS
from twintape.columns.lines import Chunk
from twintape.core.errors import WireError
from twintape.core.evidence import TickerDifference, Tickers
from twintape.core.markets import Market
from twintape.core.wire import DepthSnapshot, decode_depth, decode_snapshot, unwrap

__all__ = ["BOOK_TICKER", "PARTIAL_SPACING", "Chain", "compare_tickers", "partial_levels", "sample_partials"]

Ints = NDArray[np.int64]

BOOK_TICKER = "bookTicker"
EXAMPLES_MAX = 20
PARTIAL_SPACING = 64
"""Of so many consecutive events at most one is compared with a partial book: each comparison walks the book's best levels."""
EPOCH_DISTANCE_NS = 600_000_000_000
"""Where ids repeat in another epoch, a message speaks of an event heard within this time of it."""

_KIND = KINDS[BOOK_TICKER]
_VALUES = tuple(next(i for i, field in enumerate(_KIND.fields) if field.key == key) for key in "bBaA")
_PARTIAL = re.compile(r"depth(5|10|20)(@[0-9]+ms)?")
_LAST_ID = re.compile(rb'"(?:lastUpdateId|u)":(\d{1,18})[,}]')
_FITS = 2**63 - 1


def partial_levels(stream: str) -> int | None:
    """Return how many levels a side a partial book stream has, None for any other stream.

    >>> partial_levels("depth20@100ms"), partial_levels("depth@100ms")
    (20, None)
    """
    match = _PARTIAL.fullmatch(stream)
    return int(match[1]) if match else None


@dataclass(frozen=True, slots=True)
class Chain:
    """The chain of a day: int64[k] each, by position.

    Attributes:
        epoch: Ascending; within one, ends ascend.
        prev: `p`.
        final: `u`.
        receive_time_ns: When the event was heard.
    """

    epoch: Ints
    prev: Ints
    final: Ints
    receive_time_ns: Ints

    def places(self, ids: Ints, receive_time_ns: Ints) -> Ints:
        """Return for each id the position of the event that covers it (`p < id <= u`), or -1."""
        found = np.full(len(ids), -1, np.int64)
        if len(self.final) == 0:
            return found
        starts = np.flatnonzero(np.r_[True, self.epoch[1:] != self.epoch[:-1]])
        for begin, end in zip(starts.tolist(), [*starts[1:].tolist(), len(self.final)], strict=True):
            place = begin + np.minimum(np.searchsorted(self.final[begin:end], ids), end - begin - 1)
            hit = (self.prev[place] < ids) & (ids <= self.final[place])
            if len(starts) > 1:
                hit &= np.abs(self.receive_time_ns[place] - receive_time_ns) < EPOCH_DISTANCE_NS
            found[hit] = place[hit]
        return found


# --- bookTicker ----------------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Last:
    """For each event the last ticker one collector heard of the greatest id in it: id (-1: none), receive time, the four numbers."""

    update_id: Ints
    receive_time_ns: Ints
    values: Ints

    @classmethod
    def none(cls, count: int) -> _Last:
        return cls(np.full(count, -1, np.int64), np.zeros(count, np.int64), np.zeros((count, 4), np.int64))

    def learn(self, place: Ints, update_id: Ints, receive_time_ns: Ints, values: Ints) -> None:
        order = np.lexsort((receive_time_ns, update_id, place))
        place, update_id, receive_time_ns, values = place[order], update_id[order], receive_time_ns[order], values[order]
        last = np.flatnonzero(np.r_[place[1:] != place[:-1], np.ones(min(1, len(place)), bool)])
        at = place[last]
        newer = (update_id[last] > self.update_id[at]) | (
            (update_id[last] == self.update_id[at]) & (receive_time_ns[last] >= self.receive_time_ns[at])
        )
        at, last = at[newer], last[newer]
        self.update_id[at], self.receive_time_ns[at], self.values[at] = update_id[last], receive_time_ns[last], values[last]


def compare_tickers(
    chain: Chain, known: NDArray[np.bool_], tops: Ints, exponents: tuple[int, int], chunks: Sequence[Chunk]
) -> Tickers | None:
    """Compare the book's top behind each event with the last bookTicker of the event's ids.

    Where several collectors have that id, one of them that says the book's top is enough: another may have been cut off between two tickers of one id.

    Args:
        chain: The day's chain.
        known: bool[k], whether the book is known behind the event.
        tops: int64[k, 4], bid, quantity, ask, quantity behind each event, as mantissas.
        exponents: Powers of ten of prices and of quantities.
        chunks: bookTicker frames of the symbol around the day, any order; each is read once, and only one ticker an event is kept.

    Returns:
        The counts, or None if there are no chunks.
    """
    if not chunks:
        return None
    count = len(chain.final)
    best, values, agrees = np.full(count, -1, np.int64), np.zeros((count, 4), np.int64), np.zeros(count, bool)
    templates: list[FlatTemplate] = []
    for collector in sorted({chunk.collector for chunk in chunks}):
        last = _Last.none(count)
        for chunk in chunks:
            if chunk.collector == collector:
                _learn(last, chunk.load(), templates, chain, known, exponents)
        equal = (last.update_id >= 0) & (last.values == tops).all(axis=1)
        newer = last.update_id > best
        agrees = np.where(newer, equal, agrees | ((last.update_id == best) & equal))
        best[newer], values[newer] = last.update_id[newer], last.values[newer]
    told = best >= 0
    wrong = np.flatnonzero(told & ~agrees)
    return Tickers(
        equal=int((told & agrees).sum()),
        different=int((best[wrong] == chain.final[wrong]).sum()),
        suspect=int((best[wrong] != chain.final[wrong]).sum()),
        examples=[
            TickerDifference(
                update_id=int(best[at]),
                final_update_id=int(chain.final[at]),
                in_ticker=_plain(values[at].tolist(), exponents),
                in_book=_plain(tops[at].tolist(), exponents),
            )
            for at in wrong[:EXAMPLES_MAX].tolist()
        ],
    )


def _plain(values: Sequence[int], exponents: tuple[int, int]) -> tuple[str, str, str, str]:
    bid, bids, ask, asks = values
    return (
        plain_text(bid, exponents[0]),
        plain_text(bids, exponents[1]),
        plain_text(ask, exponents[0]),
        plain_text(asks, exponents[1]),
    )


def _learn(
    last: _Last, text: bytes, templates: list[FlatTemplate], chain: Chain, known: NDArray[np.bool_], exponents: tuple[int, int]
) -> None:
    found = scan(text, _KIND, templates)
    ids = found.values[0].copy()
    scaled = np.stack([_scaled(found, templates, row, exponents[at % 2]) for at, row in enumerate(_VALUES)], axis=1)
    for row in np.flatnonzero(found.template < 0).tolist():  # frames no template prints
        one = _decoded(text[found.offset[row] : found.offset[row] + found.length[row]], exponents)
        if one is not None:
            ids[row], scaled[row] = one
    place = chain.places(ids, found.receive_time_ns)
    rows = np.flatnonzero(place >= 0)
    rows = rows[known[place[rows]]]
    last.learn(place[rows], ids[rows], found.receive_time_ns[rows], scaled[rows])


def _scaled(found: FlatText, templates: Sequence[FlatTemplate], row: int, exponent: int) -> Ints:
    """Return one field's mantissas at the exponent; -1 where they do not fit: no level of the book equals them."""
    key = _KIND.fields[row].key
    # A last entry for frames without a template, whose value is -1.
    digits = np.array([*(t.decimals[t.parts[1::2].index(key)] for t in templates), -exponent], np.int64)[found.template]
    values = found.values[row]
    up, down = 10 ** np.maximum(-exponent - digits, 0), 10 ** np.maximum(digits + exponent, 0)
    whole = values // down
    fits = (values >= 0) & (whole * down == values) & (whole <= _FITS // up)
    return np.where(fits, np.where(fits, whole, 0) * up, -1)


def _decoded(line: bytes, exponents: tuple[int, int]) -> tuple[int, list[int]] | None:
    try:
        fields = msgspec.json.decode(unwrap(line.split(b" ", 1)[-1]))
        return int(fields["u"]), [_mantissa(str(fields[key]), exponents[at % 2]) for at, key in enumerate("bBaA")]
    except (msgspec.DecodeError, WireError, KeyError, TypeError, ValueError):
        return None  # kept verbatim by its own day; it is no witness


def _mantissa(text: str, exponent: int) -> int:
    whole, _, fraction = text.partition(".")
    digits = fraction.rstrip("0").ljust(-exponent, "0")
    found = int(whole + digits)
    return found if len(digits) == -exponent and 0 <= found <= _FITS else -1


# --- partial books -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, order=True)
class _Candidate:
    """A partial book, the better ones first: at an event's end, early, and by whoever comes first."""

    inside: bool
    place: int
    update_id: int
    levels: int
    collector: str
    receive_time_ns: int
    connection: str
    frame: bytes


def sample_partials(chain: Chain, market: Market, chunks: Sequence[tuple[int, Chunk]]) -> Mapping[int, SnapshotCopy]:
    """Choose the partial books that are to be compared, at most one in `PARTIAL_SPACING` events.

    Args:
        chain: The day's chain.
        market: Decides what a frame looks like.
        chunks: `(levels a side, frames)` of partial book streams of the symbol around the day, any order; each is read once.

    Returns:
        Chain position → partial book; its id is covered by the event there.
    """
    kept: dict[int, _Candidate] = {}
    for levels, chunk in chunks:
        text = chunk.load()
        matches = list(_LAST_ID.finditer(text))
        starts = np.array([text.rfind(b"\n", 0, match.start()) + 1 for match in matches], np.int64)
        ids = np.array([int(match[1]) for match in matches], np.int64)
        times = np.array([int(text[start : text.index(b" ", start)]) for start in starts.tolist()], np.int64)
        place = chain.places(ids, times)
        rows = np.flatnonzero(place >= 0)
        inside = ids[rows] != chain.final[place[rows]]
        order = np.lexsort((times[rows], ids[rows], place[rows], inside, place[rows] // PARTIAL_SPACING))
        bucket = (place[rows] // PARTIAL_SPACING)[order]
        for at in order[np.flatnonzero(np.r_[np.ones(min(1, len(bucket)), bool), bucket[1:] != bucket[:-1]])].tolist():
            row = int(rows[at])
            start = int(starts[row])
            frame = text[start : text.index(b"\n", start)].split(b" ", 1)[1]
            found = _Candidate(
                bool(inside[at]),
                int(place[row]),
                int(ids[row]),
                levels,
                chunk.collector,
                int(times[row]),
                chunk.connection,
                frame,
            )
            number = int(place[row]) // PARTIAL_SPACING
            kept[number] = min(kept.get(number, found), found)
    copies = {}
    for number in sorted(kept):
        snapshot = _partial(kept[number].frame, market)
        if snapshot is not None and snapshot.last_update_id == kept[number].update_id:
            one = kept[number]
            copies[one.place] = SnapshotCopy(one.collector, one.connection, one.receive_time_ns, one.levels, snapshot)
    return copies


def _partial(frame: bytes, market: Market) -> DepthSnapshot | None:
    """Return what a partial book frame says: on spot a body like REST's, on futures the shape of an event whose levels are the book's."""
    try:
        if market is Market.SPOT:
            return decode_snapshot(unwrap(frame))
        event = decode_depth(frame, market)
    except WireError:
        return None
    return DepthSnapshot(event.final_update_id, event.event_time_us, event.transaction_time_us, event.bids, event.asks)
