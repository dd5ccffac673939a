"""The proof of a merged day, put together from what the merge found, what reading back showed, and what the neighbours say."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from twintape.core.manifest import (
    ClockStatistics,
    Edge,
    Input,
    Output,
    Parent,
    Proof,
    Verification,
    status_of,
)
from twintape.core.proven import evidence_of
from twintape.io.batch import Batch, pins, unreadable_reasons, unspliced_reasons
from twintape.io.catalog import Head, RawSegment
from twintape.io.clocks import with_clocks
from twintape.io.day import DayResult, DayTask
from twintape.io.outages import Note, with_notes

__all__ = ["proof_of"]


def proof_of(
    batch: Batch,
    task: DayTask,
    result: DayResult,
    *,
    head: Head | None,
    sources: Sequence[RawSegment],
    carried: Sequence[Input],
    outputs: list[Output],
    verification: Verification,
    generation: int,
    write_id: str,
    created_ns: int,
    version: str,
) -> Proof:
    """Return the proof of a day that was merged, written and verified.

    Args:
        batch: The date, its plan published.
        task: What was merged.
        result: What the merge found.
        head: The generation before.
        sources: The raw segments it was merged from.
        carried: What the lineage has besides, and only the generation before remembers.
        outputs: What was written.
        verification: What reading it back showed.
        generation: The proof's.
        write_id: The attempt's.
        created_ns: Now.
        version: Of this program.
    """
    assert batch.plan is not None
    before, behind = pins(batch, task.symbol, task.stream) if task.spliced else (None, None)
    inputs = [*carried, *_inputs(batch, task, sources, result.settled)]
    reasons = _reasons(batch, task, result, head)
    gaps_now = {(gap.after_update_id, gap.next_prev_update_id) for gap in result.gaps}
    parent_gaps = [] if head is None else [*head.proof.gaps, *head.proof.closed_gaps]
    closing = result.closing
    opening = None
    if task.opening is not None and before is not None and before.proof.closing_book is not None:
        opening = msgspec.structs.replace(before.proof.closing_book, proof=before.key)
    proof = Proof(
        market=str(task.market),
        symbol=task.symbol,
        stream=task.stream,
        date=task.date,
        generation=generation,
        write_id=write_id,
        parent=None if head is None else Parent(generation=head.proof.generation, sha256=head.sha256),
        plan=batch.plan,
        status=status_of(conflicts=result.conflicts, gaps=len(result.gaps), partial_reasons=reasons),
        reasons=reasons,
        start=Edge(update_id=result.start_update_id, pinned_by=None if task.start_pin is None or before is None else before.key),
        end=Edge(update_id=result.end_update_id, pinned_by=None if task.end_pin is None or behind is None else behind.key),
        open_start=result.open_start,
        open_end=result.open_end,
        gap_behind=result.gap_behind or (behind is not None and _begins_with_gap(behind.proof)),
        opening_book=opening,
        closing_book=closing,
        outputs=outputs,
        events=result.events,
        levels=result.levels,
        first_event_time_us=result.first_event_time_us,
        last_event_time_us=result.last_event_time_us,
        path=result.path,
        switches=result.switches,
        overlaps=result.overlaps,
        gaps=with_notes(result.gaps, _notes(batch, result, sources), parent_gaps),
        closed_gaps=[gap for gap in parent_gaps if (gap.after_update_id, gap.next_prev_update_id) not in gaps_now],
        epochs=result.epochs,
        book_unknown=result.book_unknown,
        checkpoints=result.checkpoints,
        tickers=result.tickers,
        partial_books=result.partial_books,
        windows=result.windows,
        sanity=result.sanity,
        verification=verification,
        lines=with_clocks(result.lines, _clocks(batch, head if carried else None, sources)),
        redundancy=result.redundancy,
        fates=result.fates,
        inputs=sorted(inputs, key=lambda source: source.key),
        unreadable=batch.view.unreadable,
        missing=batch.missing,
        created_ns=created_ns,
        version=f"twintape {version}",
    )
    return msgspec.structs.replace(proof, evidence=evidence_of(proof))


def _clocks(batch: Batch, parent: Head | None, sources: Sequence[RawSegment]) -> Iterator[tuple[str, ClockStatistics | None]]:
    """Yield collector and what its clock lines say, for each segment; for those that are gone the parent's proof remembers."""
    settled = set()
    if parent is not None:
        settled = {source.key for source in parent.proof.inputs}
        yield from ((line.collector, line.clock) for line in parent.proof.lines)
    for raw in sources:
        key = raw.info.key
        if key in settled:
            continue
        yield raw.key.collector, batch.clocks[key]


def _notes(batch: Batch, result: DayResult, sources: Sequence[RawSegment]) -> dict[str, list[Note]]:
    """Return what the collectors noted about their connections, by collector; nobody asks where there is no gap."""
    found: dict[str, list[Note]] = {}
    for raw in sources if any(gap.lines for gap in result.gaps) else ():
        found.setdefault(raw.key.collector, []).extend(batch.notes[raw.info.key])
    return found


def _inputs(batch: Batch, task: DayTask, sources: Sequence[RawSegment], settled: Sequence[int]) -> list[Input]:
    inputs = []
    for raw, count in zip(sources, settled, strict=True):
        total = sum(s.count for s in raw.index.streams if (s.symbol, s.stream) == (task.symbol, task.stream))
        inputs.append(
            Input(
                key=raw.info.key,
                size=raw.info.size,
                sha256=batch.sha256[raw.info.key],
                collector=raw.key.collector,
                count=total,
                settled=count,
                owed=total - count,
            )
        )
    return inputs


def _reasons(batch: Batch, task: DayTask, result: DayResult, head: Head | None) -> list[str]:
    reasons = []
    if result.open_start:
        reasons.append("begins at an edge of recording")
    if result.open_end:
        reasons.append("ends at an edge of recording")
    _, behind = pins(batch, task.symbol, task.stream)
    if result.gap_behind or (behind is not None and _begins_with_gap(behind.proof)):
        reasons.append("a gap follows its end, which may have begun in it")
    if result.epochs:
        reasons.append(f"the ids restart {len(result.epochs)} times: what was missed then cannot be known")
    reasons += unreadable_reasons(batch)
    if not task.spliced:
        collectors = {line.collector for line in result.lines}
        reasons += unspliced_reasons(batch, task.symbol, task.stream, collectors, None if head is None else head.proof)
    return reasons


def _begins_with_gap(proof: Proof) -> bool:
    return any(gap.after_update_id == proof.start.update_id for gap in proof.gaps)
