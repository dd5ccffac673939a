"""Frames kept as they came: the verbatim table, written from places in texts so that no more than a batch of frames is in memory."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from twintape.columns.lines import ChunkTexts
from twintape.columns.schema import ROW_GROUP_EVENTS, VERBATIM, Table, TableWriter, dictionary_array

__all__ = ["CONFLICT", "OTHER", "REASONS", "Places", "verbatim_table"]

Ints = NDArray[np.int64]

REASONS = ("conflict", "other", "stale", "undecodable", "variant")
"""Why a frame is kept, sorted."""
CONFLICT, OTHER = REASONS.index("conflict"), REASONS.index("other")


@dataclass(slots=True)
class Places:
    """Where frames are and who heard them when: int64[n] unless said otherwise.

    Attributes:
        collectors: Names, sorted; `line` is a position in it.
        connections: Names, sorted; `connection` is a position in it.
        chunk: Position of the chunk; `offset` and `length` (int32) are the line's place in its text.
    """

    collectors: list[str]
    connections: list[str]
    line: Ints
    connection: Ints
    receive_time_ns: Ints
    chunk: Ints
    offset: Ints
    length: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.line)

    def take(self, rows: Ints) -> Places:
        """Return some of them."""
        return Places(
            collectors=self.collectors,
            connections=self.connections,
            line=self.line[rows],
            connection=self.connection[rows],
            receive_time_ns=self.receive_time_ns[rows],
            chunk=self.chunk[rows],
            offset=self.offset[rows],
            length=self.length[rows],
        )


def verbatim_table(texts: ChunkTexts, places: Places, reason: NDArray[np.int8]) -> Table:
    """Write frames as they came, sorted by what is in them: collector, connection, receive time, frame, reason.

    Args:
        texts: Where they are.
        places: Which.
        reason: Position in `REASONS`, of each.
    """
    order = np.lexsort((reason, places.receive_time_ns, places.connection, places.line))
    _settle_ties(order, texts, places)
    sink = io.BytesIO()
    with TableWriter(VERBATIM, sink) as writer:
        for begin in range(0, len(order), ROW_GROUP_EVENTS):
            part = places.take(order[begin : begin + ROW_GROUP_EVENTS])
            columns = [
                dictionary_array(part.line.astype(np.int32), part.collectors),
                dictionary_array(part.connection.astype(np.int32), part.connections),
                pa.array(part.receive_time_ns).view(pa.timestamp("ns", "UTC")),
                dictionary_array(reason[order[begin : begin + ROW_GROUP_EVENTS]].astype(np.int32), REASONS),
                pa.array(_frames(texts, part), pa.binary()),
            ]
            writer.write(pa.RecordBatch.from_arrays(columns, schema=VERBATIM))
    return Table("verbatim", sink.getvalue(), len(order))


def _frames(texts: ChunkTexts, places: Places) -> list[bytes]:
    return [line.split(b" ", 1)[-1] for line in texts.lines(places.chunk, places.offset, places.length)]


def _settle_ties(order: Ints, texts: ChunkTexts, places: Places) -> None:
    """Sort by content what one connection heard at one time: imported recordings have such frames, live ones have not."""
    keys = (places.receive_time_ns[order], places.connection[order], places.line[order])
    same = np.ones(max(len(order) - 1, 0), bool)
    for key in keys:
        same &= key[1:] == key[:-1]
    edges = np.diff(np.r_[False, same, False].astype(np.int8))
    for start, stop in zip(np.flatnonzero(edges == 1).tolist(), (np.flatnonzero(edges == -1) + 1).tolist(), strict=True):
        tied = order[start:stop]
        frames = _frames(texts, places.take(tied))
        order[start:stop] = tied[sorted(range(len(tied)), key=frames.__getitem__)]  # stable: reasons are in order
