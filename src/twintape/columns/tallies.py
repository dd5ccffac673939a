"""What a merge of messages found, in the words of a proof: gaps, statistics of each line, fates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from twintape.columns.lines import Chunk
from twintape.columns.messages import CHOSEN, COPIED, MessagesDay
from twintape.columns.verbatim import REASONS
from twintape.core.manifest import Fates, GapRecord, LineStatistics

__all__ = ["message_fates", "message_gaps", "message_statistics", "messages_by_source"]


def message_gaps(day: MessagesDay) -> list[GapRecord]:
    """Return the ids no line has. Which line was up is not asked, so their class is unknown."""
    return [
        GapRecord(
            after_update_id=after,
            next_prev_update_id=missing,
            gap_class="unknown",
            from_event_time_us=begin,
            to_event_time_us=end,
            reason=f"no line has the {missing - after} ids between",
        )
        for after, missing, begin, end in day.gaps
    ]


def message_fates(day: MessagesDay, owed: Mapping[str, int]) -> Fates:
    """Return how many frames of each collector met which fate; `owed` belong to other days."""

    def by_collector(fate: int) -> dict[str, int]:
        counts = np.bincount(day.line[day.fate == fate], minlength=len(day.collectors))
        return {name: int(count) for name, count in zip(day.collectors, counts.tolist(), strict=True) if count}

    verbatim = {reason: by_collector(code) for code, reason in enumerate(REASONS)}
    return Fates(
        chosen=by_collector(CHOSEN),
        duplicate=by_collector(COPIED),
        verbatim={reason: counts for reason, counts in verbatim.items() if counts},
        owed=dict(sorted(owed.items())),
    )


def message_statistics(day: MessagesDay, owed: Mapping[str, int]) -> list[LineStatistics]:
    """Return what each collector contributed to the day."""
    known = np.flatnonzero(day.group >= 0)
    count = max(len(day.collectors), 1)
    pairs = np.unique(day.group[known] * count + day.line[known])
    heard_by = np.bincount(pairs // count, minlength=len(day.ids))
    found = []
    for number, collector in enumerate(day.collectors):
        mine = day.line == number
        chosen = mine & (day.fate == CHOSEN)
        own = np.unique(pairs[pairs % count == number] // count)
        times = day.receive_time_ns[mine]
        found.append(
            LineStatistics(
                collector=collector,
                frames=int(mine.sum()) + owed.get(collector, 0),
                chosen=int(chosen.sum()),
                duplicate=int((mine & (day.fate == COPIED)).sum()),
                verbatim=int((mine & (day.fate >= 0)).sum()),
                owed=owed.get(collector, 0),
                only_here=int((heard_by[day.group[chosen]] == 1).sum()),
                missed=len(day.ids) - len(own),
                first_receive_time_ns=int(times.min()) if len(times) else None,
                last_receive_time_ns=int(times.max()) if len(times) else None,
                gaps=_gaps_of_line(day, own),
            )
        )
    return found


def _gaps_of_line(day: MessagesDay, rows: NDArray[np.int64]) -> int:
    """Return how many holes the line alone would have; where ids are not contiguous, what others heard in between shows them."""
    return int((np.diff(day.ids[rows]) > 1).sum()) if day.contiguous else int((np.diff(rows) > 1).sum())


def messages_by_source(day: MessagesDay, chunks: Sequence[Chunk], sources: int) -> list[int]:
    """Return how many frames of each raw segment the day settled."""
    source = np.array([chunk.source for chunk in chunks], np.int64)[day.chunk] if len(chunks) else np.zeros(0, np.int64)
    return [int(count) for count in np.bincount(source[source >= 0], minlength=sources)]
