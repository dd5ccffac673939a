"""What collectors noted about their own connections: who was down across a gap, and why, in their own words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from twintape.core.manifest import GapRecord

__all__ = ["Note", "notes_of", "with_notes"]

NOTES_MAX = 8
"""Notes of one line about one gap."""
WORDS_MAX = 200


@dataclass(frozen=True, slots=True, order=True)
class Note:
    """One thing a collector noted: when, by its own clock, and what."""

    from_ns: int
    to_ns: int
    text: str


def notes_of(control: Iterable[tuple[int, str, Mapping[str, Any]]], connection: int) -> list[Note]:
    """Return what the control lines (receive time, kind, fields) of a raw segment of a connection say about being connected and hearing."""
    return [note for time_ns, kind, fields in control for note in _note(time_ns, f"connection {connection}", kind, fields)]


def _note(time_ns: int, who: str, kind: str, fields: Mapping[str, Any]) -> list[Note]:
    # Control lines are only as trustworthy as their text: whatever is of another shape says nothing.
    reason = str(fields.get("reason"))[:WORDS_MAX]
    if kind == "open" and fields.get("sequence") == 1:
        return [Note(time_ns, time_ns, f"{who} opened")]
    if kind == "close" and fields.get("final") is True:
        code = "" if fields.get("code") is None else f" (code {str(fields['code'])[:8]})"
        return [Note(time_ns, time_ns, f"{who} closed: {reason}{code}")]
    begin, end = fields.get("from_ns"), fields.get("to_ns")
    if kind == "suspect" and isinstance(begin, int):
        return [Note(begin, end if isinstance(end, int) else time_ns, f"{who} may have been deaf: {reason}")]
    return []


def with_notes(
    gaps: Iterable[GapRecord], notes: Mapping[str, Sequence[Note]], before: Iterable[GapRecord] = ()
) -> list[GapRecord]:
    """Return the gaps, each line of each with what its collector noted meanwhile.

    Args:
        gaps: What a merge found.
        notes: By collector.
        before: Gaps of the generation before, which remember what segments said that are gone by now.
    """
    remembered = {
        (gap.after_update_id, gap.next_prev_update_id, line.collector): line.notes for gap in before for line in gap.lines
    }
    found = []
    for gap in gaps:
        lines = []
        for line in gap.lines:
            begin, end = line.from_receive_time_ns, line.to_receive_time_ns
            own = {
                note.text: note
                for note in sorted(notes.get(line.collector, ()))
                if (begin is None or note.to_ns >= begin)
                and (end is None or note.from_ns <= end)
                and (begin, end) != (None, None)
            }
            old = remembered.get((gap.after_update_id, gap.next_prev_update_id, line.collector), [])
            words = [*dict.fromkeys([*old, *own])][:NOTES_MAX]
            lines.append(msgspec.structs.replace(line, notes=words))
        found.append(msgspec.structs.replace(gap, lines=lines))
    return found
