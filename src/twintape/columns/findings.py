"""What a merge found, in the words of a proof: path, switches, overlaps, gaps with their class, statistics of each line, fates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from twintape.columns.fates import VERBATIM, Fate
from twintape.columns.lines import Chunk
from twintape.columns.merge import MergedDay
from twintape.columns.schema import BOOK_UNKNOWN, EPOCH_START, GAP_BEFORE, LINE_SWITCH
from twintape.core.evidence import GapLine
from twintape.core.manifest import EpochStart, Fates, GapRecord, LineStatistics, Overlap, PathRun, Switch, UnknownRange

__all__ = [
    "epochs",
    "fate_table",
    "gaps",
    "line_statistics",
    "overlaps",
    "path_runs",
    "settled_by_source",
    "switches",
    "unknown_ranges",
]

Ints = NDArray[np.int64]

HEARD_THROUGH = "heard through"
MISSED_MORE = "missed more"


def _runs(starts: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Return the half-open ranges that begin where `starts` is true."""
    edges = [*np.flatnonzero(starts).tolist(), len(starts)]
    return list(pairwise(edges))


def path_runs(day: MergedDay) -> list[PathRun]:
    """Return the stretches of the chain that were taken from one line without a gap."""
    chain = day.fates.chain
    if len(chain) == 0:
        return []
    starts = (day.flags & (LINE_SWITCH | GAP_BEFORE | EPOCH_START)) != 0
    starts[0] = True
    lines = day.lines
    return [
        PathRun(
            collector=lines.collectors[int(lines.line[chain[begin]])],
            prev_update_id=int(lines.prev[chain[begin]]),
            final_update_id=int(lines.final[chain[end - 1]]),
            events=end - begin,
        )
        for begin, end in _runs(starts)
    ]


def switches(day: MergedDay) -> list[Switch]:
    """Return every change of line."""
    chain, lines = day.fates.chain, day.lines
    return [
        Switch(
            at=int(lines.final[chain[k - 1]]),
            source=lines.collectors[int(lines.line[chain[k - 1]])],
            target=lines.collectors[int(lines.line[chain[k]])],
        )
        for k in np.flatnonzero(day.flags & LINE_SWITCH).tolist()
    ]


def overlaps(day: MergedDay) -> list[Overlap]:
    """Return every event that was applied inside its interval."""
    chain, lines = day.fates.chain, day.lines
    return [
        Overlap(
            at=int(day.fates.overlap_at[k]),
            prev_update_id=int(lines.prev[chain[k]]),
            final_update_id=int(lines.final[chain[k]]),
            collector=lines.collectors[int(lines.line[chain[k]])],
        )
        for k in np.flatnonzero(day.fates.overlap_at >= 0).tolist()
    ]


def epochs(day: MergedDay) -> list[EpochStart]:
    """Return the first event of every restarted id space."""
    chain, lines = day.fates.chain, day.lines
    return [
        EpochStart(prev_update_id=int(lines.prev[chain[k]]), first_event_time_us=int(lines.event_time_us[chain[k]]))
        for k in np.flatnonzero(day.flags & EPOCH_START).tolist()
    ]


def unknown_ranges(day: MergedDay) -> list[UnknownRange]:
    """Return the stretches behind whose events the book is not known."""
    unknown = (day.flags & BOOK_UNKNOWN) != 0
    if not unknown.any():
        return []
    chain, lines = day.fates.chain, day.lines
    starts = unknown.copy()
    starts[1:] ^= unknown[:-1]
    starts[0] = True
    return [
        UnknownRange(
            prev_update_id=int(lines.prev[chain[begin]]), final_update_id=int(lines.final[chain[end - 1]]), events=end - begin
        )
        for begin, end in _runs(starts)
        if unknown[begin]
    ]


def gaps(day: MergedDay) -> list[GapRecord]:
    """Return every gap with the reason the lines' own records give.

    A line *heard through* a gap if one connection delivered both the last event before it and the first behind it. Two such lines make it the exchange's,
    unless their receive times there are the same: then they are one recording under two names, and one witness.
    Where no line stayed on one connection across it, it is the collectors'. Otherwise nobody can tell.
    """
    found = []
    chain, lines = day.fates.chain, day.lines
    for k in np.flatnonzero(day.flags & GAP_BEFORE).tolist():
        row = int(chain[k])
        after, behind = int(day.fates.gap_after[k]), int(lines.prev[row])
        across = [_across(day, line, int(lines.epoch[row]), after, behind) for line in range(len(lines.collectors))]
        records = [one.record for one in across]
        if len({one.heard for one in across if one.record == HEARD_THROUGH}) >= 2:
            kind = "exchange-side"
        elif not {HEARD_THROUGH, MISSED_MORE} & set(records):
            kind = "collector-side"
        else:
            kind = "unknown"
        words = ", ".join(f"{name}: {record}" for name, record in zip(lines.collectors, records, strict=True))
        found.append(
            GapRecord(
                after_update_id=after,
                next_prev_update_id=behind,
                gap_class=kind,
                from_event_time_us=int(lines.event_time_us[chain[k - 1]]) if k else None,
                to_event_time_us=int(lines.event_time_us[row]),
                reason=words,
                lines=[
                    GapLine(collector=name, record=one.record, from_receive_time_ns=one.heard[0], to_receive_time_ns=one.heard[1])
                    for name, one in zip(lines.collectors, across, strict=True)
                ],
            )
        )
    return found


@dataclass(frozen=True, slots=True)
class _Across:
    """How a line stood across a gap, and when it last heard something before it and first behind it."""

    record: str
    heard: tuple[int | None, int | None]


def _across(day: MergedDay, line: int, epoch: int, after: int, behind: int) -> _Across:
    lines = day.lines
    mine = (lines.line == line) & (lines.epoch == epoch)
    before, later = mine & (lines.final <= after), mine & (lines.prev >= behind)
    last = int(lines.receive_time_ns[before].max()) if before.any() else None
    first = int(lines.receive_time_ns[later].min()) if later.any() else None
    if last is None or first is None:
        side = " before" if first is not None else " behind" if last is not None else ""
        return _Across(f"no data{side}", (last, first))
    connections = [set(lines.connection[rows].tolist()) for rows in (before, later)]
    if not connections[0] & connections[1]:
        return _Across("another connection behind", (last, first))
    at_edge = [set(lines.connection[mine & rows].tolist()) for rows in (lines.final == after, lines.prev == behind)]
    return _Across(HEARD_THROUGH if at_edge[0] & at_edge[1] else MISSED_MORE, (last, first))


def line_statistics(day: MergedDay) -> list[LineStatistics]:
    """Return what each collector contributed to the day."""
    lines, fate = day.lines, day.fates.fate
    heard_by = _lines_per_event(day)
    found = []
    for number, collector in enumerate(lines.collectors):
        mine = lines.line == number
        inside = mine & (fate != Fate.OWED)
        chosen = mine & (fate == Fate.CHOSEN)
        times = lines.receive_time_ns[inside]
        found.append(
            LineStatistics(
                collector=collector,
                frames=int(mine.sum()),
                chosen=int(chosen.sum()),
                duplicate=int((mine & (fate == Fate.DUPLICATE)).sum()),
                verbatim=int(np.isin(fate[mine], VERBATIM).sum()),
                owed=int((mine & (fate == Fate.OWED)).sum()),
                only_here=int((heard_by[day.fates.place[chosen]] == 1).sum()),
                missed=_missed(day, inside),
                first_receive_time_ns=int(times.min()) if len(times) else None,
                last_receive_time_ns=int(times.max()) if len(times) else None,
                gaps=_gaps_of_line(day, inside),
            )
        )
    return found


def _lines_per_event(day: MergedDay) -> Ints:
    """Return for every event of the chain how many collectors heard it in this form."""
    place = day.fates.place
    known = np.flatnonzero(place >= 0)
    count = max(1, len(day.lines.collectors))
    heard = np.zeros((len(day.fates.chain), count), bool)
    heard[place[known], day.lines.line[known]] = True
    return np.asarray(np.count_nonzero(heard, axis=1), np.int64)


def _union(prev: Ints, final: Ints) -> Ints:
    """Return int64[n, 2], the ids that intervals `(prev, final]`, by ascending end, cover together: disjoint, ascending."""
    if len(final) == 0:
        return np.zeros((0, 2), np.int64)
    least = np.minimum.accumulate(prev[::-1])[::-1]
    begins = np.r_[True, least[1:] > final[:-1]]
    return np.stack([least[begins], final[np.r_[begins[1:], True]]], axis=1)


def _missed(day: MergedDay, inside: NDArray[np.bool_]) -> int:
    """Return how many events of the chain have ids that the line did not hear, however it was cut."""
    lines, chain = day.lines, day.fates.chain
    total = 0
    epochs_of_chain = lines.epoch[chain]
    for epoch in sorted(set(epochs_of_chain[np.r_[True, np.diff(epochs_of_chain) != 0]].tolist())) if len(chain) else ():
        wanted = chain[epochs_of_chain == epoch]
        heard = np.flatnonzero(inside & (lines.epoch == epoch))
        union = _union(lines.prev[heard], lines.final[heard])
        place = np.searchsorted(union[:, 0], lines.prev[wanted], side="right") - 1
        covered = (
            (place >= 0) & (union[np.maximum(place, 0), 1] >= lines.final[wanted]) if len(union) else np.zeros(len(wanted), bool)
        )
        total += int((~covered).sum())
    return total


def _gaps_of_line(day: MergedDay, inside: NDArray[np.bool_]) -> int:
    """Return how many holes the line alone would have, between its first and its last event of the day."""
    rows = np.flatnonzero(inside & (day.lines.epoch >= 0))
    total = 0
    for epoch in np.unique(day.lines.epoch[rows]).tolist():
        part = rows[day.lines.epoch[rows] == epoch]
        high = np.maximum.accumulate(day.lines.final[part])
        least = np.minimum.accumulate(day.lines.prev[part][::-1])[::-1]
        total += int((least[1:] > high[:-1]).sum())
    return total


def fate_table(day: MergedDay) -> Fates:
    """Return how many frames of each collector met which fate."""

    def by_collector(fate: Fate) -> dict[str, int]:
        counts = np.bincount(day.lines.line[day.fates.fate == fate], minlength=len(day.lines.collectors))
        return {name: int(count) for name, count in zip(day.lines.collectors, counts.tolist(), strict=True) if count}

    verbatim = {fate.reason: by_collector(fate) for fate in VERBATIM}
    return Fates(
        chosen=by_collector(Fate.CHOSEN),
        duplicate=by_collector(Fate.DUPLICATE),
        verbatim={reason: counts for reason, counts in verbatim.items() if counts},
        owed=by_collector(Fate.OWED),
    )


def settled_by_source(day: MergedDay, chunks: Sequence[Chunk], sources: int) -> list[int]:
    """Return how many frames of each raw segment the day settled."""
    source = np.array([chunk.source for chunk in chunks], np.int64)[day.lines.chunk]
    inside = (day.fates.fate != Fate.OWED) & (source >= 0)
    return [int(count) for count in np.bincount(source[inside], minlength=sources)]
