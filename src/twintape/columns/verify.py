"""The check before a proof: what was read back from the store against the raw lines it came from.

Two questions, both answered from bytes alone. *Conservation*: do the outputs render to exactly the raw lines of the day, each as often as it
was heard, and are the raw lines that are missing from them really other days'? *Chain*: does every row join the one before as its flags say?
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from twintape.columns.digests import digest_lines, digest_outputs, missing_lines
from twintape.columns.expand import Outputs
from twintape.columns.kinds import KINDS, flat_schema
from twintape.columns.lines import Chunk, ChunkTexts, read_lines
from twintape.columns.schema import ARRIVAL, COPY, DEPTH, EPOCH_START, GAP_BEFORE, OVERLAP, VERBATIM
from twintape.core.errors import CorruptionError, WireError
from twintape.core.markets import Market
from twintape.core.wire import decode_depth

__all__ = ["ChainCheck", "Verified", "check_chain", "verify_day"]


@dataclass(frozen=True, slots=True)
class ChainCheck:
    """What the flags of a depth table say about its chain.

    Attributes:
        rows: Events.
        gaps: `(after, before]`, ids that are missing between two rows.
        overlaps: Events that begin inside the one before; the first one if it says that it begins before the day's start.
        epochs: Rows that begin a restarted id space.
        spans: For each stretch without a restart the ids at both ends, `(prev, final)`.
    """

    rows: int
    gaps: list[tuple[int, int]]
    overlaps: int
    epochs: int
    spans: list[tuple[int, int]]

    @property
    def last_final(self) -> int | None:
        """Where the chain ends; None without rows."""
        return self.spans[-1][1] if self.spans else None


@dataclass(frozen=True, slots=True)
class Verified:
    """The outcome of a verification that found nothing wrong.

    Attributes:
        raw_lines: Lines read on the raw side.
        settled: Of them, how many the outputs hold.
        owed: The rest; each of them lies outside the day.
        chain: The chain of the depth table, None for streams that are not spliced.
        rendered: Depth and arrival rows that a template rendered.
        kept: Rows and frames that are kept verbatim.
    """

    raw_lines: int
    settled: int
    owed: int
    chain: ChainCheck | None
    rendered: int
    kept: int


def verify_day(
    chunks: Sequence[Chunk],
    outputs: Outputs,
    *,
    date: str,
    market: Market,
    start_update_id: int | None,
    end_update_id: int | None,
) -> Verified:
    """Compare the outputs of a day with its raw lines.

    Args:
        chunks: Everything the merge was given.
        outputs: The files, as read back.
        date: The day.
        market: Decides what an event covers.
        start_update_id: Where the day's chain stands before its first event, for a depth stream.
        end_update_id: Where it stands behind its last.

    Raises:
        CorruptionError: The outputs are not what the raw lines say, or a file is damaged. Nothing may be published.
    """
    raw = digest_lines(chunks)
    archived = digest_outputs(outputs, date)
    left, strangers = missing_lines(raw, archived)
    if strangers:
        raise CorruptionError(f"{strangers} archived frames are not among the raw lines, byte for byte")
    depth = outputs.reader("depth", DEPTH)
    chain = None if depth is None else check_chain(outputs)
    spans = [] if chain is None else _claimed(chain.spans, start_update_id, end_update_id)
    texts = ChunkTexts(chunks)
    restarts: bool | None = None
    for row in left.tolist():
        chunk = chunks[int(raw.chunk[row])]
        offset = int(raw.offset[row])
        line = texts[int(raw.chunk[row])][offset : offset + int(raw.length[row])]
        if _outside(line, chunk, date, market, spans):
            continue
        if restarts is None:
            restarts = bool(read_lines(chunks, market, start_update_id=start_update_id).epoch.max(initial=0) > 0)
        # Behind a restart ids say nothing about the day: another date's frame may carry ids of this day's range.
        if not restarts or chunk.date == date:
            raise CorruptionError(f"a raw line of {chunk.collector} {chunk.connection} is not in the archive: {line[:200]!r}")
    verbatim = outputs.reader("verbatim", VERBATIM)
    arrival = outputs.reader("arrival", ARRIVAL)
    kept = 0 if verbatim is None else verbatim.rows
    rows = (0 if depth is None else depth.rows) + (0 if arrival is None else arrival.rows)
    for kind in KINDS.values():
        typed, copies = outputs.reader(kind.table, flat_schema(kind)), outputs.reader("copy", COPY)
        rows += 0 if typed is None else typed.rows + (0 if copies is None else copies.rows)
    return Verified(
        raw_lines=len(raw),
        settled=len(archived),
        owed=len(left),
        chain=chain,
        rendered=rows,
        kept=kept,
    )


def _claimed(spans: list[tuple[int, int]], start: int | None, end: int | None) -> list[tuple[int, int]]:
    """Return the ids that are the day's: what its chain spans, out to the day's own bounds. None where nothing at all is known."""
    if start is None or end is None:
        return []
    if not spans:
        return [(start, end)]
    claimed = list(spans)
    if start < claimed[0][1]:  # else the day begins with a restart, and the start is of the ids before it
        claimed[0] = (start, claimed[0][1])
    claimed[-1] = (claimed[-1][0], end)
    return claimed


def _outside(line: bytes, chunk: Chunk, date: str, market: Market, spans: list[tuple[int, int]]) -> bool:
    """Whether a raw line that the day did not settle belongs to another day."""
    try:
        final = decode_depth(line.split(b" ", 1)[-1], market).final_update_id
    except WireError:
        return chunk.date != date
    outside = not any(prev < final <= last for prev, last in spans)
    if len(spans) == 1:
        return outside
    # Where no ids are known, or where they may repeat, the date has a say.
    return chunk.date != date or (bool(spans) and outside)


def check_chain(outputs: Outputs) -> ChainCheck:
    """Walk the depth table and compare every join with the row's flags.

    Raises:
        CorruptionError: A row does not join as it says.
    """
    reader = outputs.reader("depth", DEPTH)
    if reader is None:
        raise CorruptionError("a depth day without a depth table")
    gaps: list[tuple[int, int]] = []
    overlaps = epochs = rows = at = 0
    firsts: list[int] = []
    lasts: list[int] = []
    for group in range(reader.row_groups):
        batch = reader.read(group, ["prev_update_id", "final_update_id", "flags"])
        prev = np.asarray(batch.column("prev_update_id"))
        final = np.asarray(batch.column("final_update_id"))
        flags = np.asarray(batch.column("flags"))
        before = np.r_[np.int64(at), final[:-1]]
        epoch = (flags & EPOCH_START) != 0
        gap = (prev > before) & ~epoch
        overlap = (prev < before) & (final > before) & ~epoch
        wrong = (~epoch & (final <= before)) | (gap != ((flags & GAP_BEFORE) != 0)) | (overlap != ((flags & OVERLAP) != 0))
        if rows == 0:
            # What lies before the first row is the proof's to say.
            wrong[0] = gap[0] = False
            overlap[0] = flags[0] & OVERLAP
        if wrong.any():
            row = int(np.flatnonzero(wrong)[0])
            raise CorruptionError(f"row {rows + row}: ({prev[row]}, {final[row]}] behind {before[row]} with flags {flags[row]}")
        gaps += [(int(before[k]), int(prev[k])) for k in np.flatnonzero(gap).tolist()]
        overlaps += int(overlap.sum())
        epochs += int(epoch.sum())
        epoch[0] |= rows == 0
        firsts += prev[epoch].tolist()
        lasts += before[epoch].tolist()
        rows += batch.num_rows
        at = int(final[-1])
    return ChainCheck(rows, gaps, overlaps, epochs, list(zip(firsts, [*lasts[1:], at], strict=False)))
