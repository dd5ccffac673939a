"""One day of a stream that is not spliced: every frame of all collectors in, typed rows, further copies and verbatim frames out.

A message is what its fields say but for `E`, which is stamped per connection. Each distinct one is a row, taken from the copy heard first;
further copies are rows of `copy`. Streams without a type of their own, and frames no template prints, are kept byte for byte.
A pure function of the multiset of lines: their order makes no difference, nor whether they come from segments or from an earlier generation.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from twintape.columns.flat import (
    KINDS,
    TEMPLATES_MAX,
    TIME,
    TRUTH,
    FlatKind,
    FlatTemplate,
    flat_schema,
    scan,
    templates_to_json,
)
from twintape.columns.lines import Chunk, ChunkTexts
from twintape.columns.schema import COPY, ROW_GROUP_EVENTS, TEMPLATES_KEY, Table, TableWriter, dictionary_array, nullable_times
from twintape.columns.verbatim import CONFLICT, OTHER, Places, verbatim_table
from twintape.core.errors import WireError
from twintape.core.wire import unwrap

__all__ = ["CHOSEN", "COPIED", "MessagesDay", "merge_messages_day"]

Ints = NDArray[np.int64]
_INT64_MAX = 2**63 - 1
_EVENT_TIME = 1


@dataclass(frozen=True, slots=True)
class MessagesDay:
    """What a merge of messages made and found.

    Attributes:
        tables: The files; a table without rows is left out.
        collectors: Names, sorted.
        line: int64[n], position of each frame's collector.
        receive_time_ns: When it was heard.
        chunk: Where it was read.
        fate: int8[n]: `CHOSEN`, `COPIED`, or its reason in the verbatim table (see `columns.verbatim`).
        group: int64[n], its message's row; -1 for frames kept verbatim.
        ids: Ids of the rows, in their order; empty for a stream without a type.
        event_times_us: `E` of the rows, -1 where they have none.
        contiguous: Whether every id between the first and the last belongs to a message.
        gaps: `(last id before, last id that is missing)` with the times around, where ids are contiguous.
    """

    tables: list[Table]
    collectors: list[str]
    line: Ints
    receive_time_ns: Ints
    chunk: Ints
    fate: NDArray[np.int8]
    group: Ints
    ids: Ints
    event_times_us: Ints
    contiguous: bool
    gaps: list[tuple[int, int, int, int]]


CHOSEN, COPIED = -1, -2


@dataclass(slots=True)
class _Frames:
    """All frames of a day, one element each; `values` as in `columns.flat`."""

    places: Places
    template: NDArray[np.int16]
    values: Ints


def merge_messages_day(stream: str, chunks: Sequence[Chunk]) -> MessagesDay:
    """Merge the lines of one day.

    Args:
        stream: Its name, without symbol.
        chunks: Every chunk of the day's date, any order; read up to twice.

    Raises:
        CorruptionError: A chunk is damaged.
    """
    kind = KINDS.get(stream)
    frames, templates = _read(chunks, kind)
    if len(templates) > TEMPLATES_MAX:
        frames, templates = _read(chunks, None)[0], []
    places = frames.places
    fate = np.full(len(places), OTHER, np.int8)
    group = np.full(len(places), -1, np.int64)
    tables: list[Table] = []
    texts = ChunkTexts(chunks)
    ids = times = np.zeros(0, np.int64)
    gaps: list[tuple[int, int, int, int]] = []
    if kind is not None and templates:
        scales = _align(frames, templates, kind)
        _decide(frames, kind, fate, group)
        rows = np.flatnonzero(fate == CHOSEN)
        rows = rows[np.argsort(group[rows])]
        tables = [_typed_table(frames, kind, templates, scales, rows), _copy_table(frames, templates, fate, group)]
        ids, times = frames.values[0, rows], frames.values[_EVENT_TIME, rows]
        if kind.unique:
            around = np.where(times >= 0, times, frames.values[_EVENT_TIME + 1, rows])
            gaps = _gaps(ids, around, _stray_ids(kind, places, fate, texts))
    kept = np.flatnonzero(fate >= 0)
    tables.append(verbatim_table(texts, places.take(kept), fate[kept]))
    return MessagesDay(
        tables=[table for table in tables if table.rows],
        collectors=places.collectors,
        line=places.line,
        receive_time_ns=places.receive_time_ns,
        chunk=places.chunk,
        fate=fate,
        group=group,
        ids=ids,
        event_times_us=times,
        contiguous=kind is not None and kind.unique,
        gaps=gaps,
    )


def _read(chunks: Sequence[Chunk], kind: FlatKind | None) -> tuple[_Frames, list[FlatTemplate]]:
    found: list[FlatTemplate] = []
    parts = [scan(chunk.load(), kind, found) for chunk in chunks]
    collectors = sorted({chunk.collector for chunk in chunks})
    connections = sorted({chunk.connection for chunk in chunks})
    counts = [len(part) for part in parts]

    def join(arrays: list[NDArray[Any]], kind_of: type, axis: int = 0) -> NDArray[Any]:
        return np.concatenate(arrays, axis=axis) if arrays else np.zeros((0,) * (axis + 1), kind_of)

    def spread(values: list[int]) -> Ints:
        return np.repeat(np.array(values, np.int64), counts)

    ordered = sorted(found)
    renumber = np.array([ordered.index(template) for template in found] + [-1], np.int16)
    places = Places(
        collectors=collectors,
        connections=connections,
        line=spread([collectors.index(chunk.collector) for chunk in chunks]),
        connection=spread([connections.index(chunk.connection) for chunk in chunks]),
        receive_time_ns=join([part.receive_time_ns for part in parts], np.int64),
        chunk=spread(list(range(len(chunks)))),
        offset=join([part.offset for part in parts], np.int64),
        length=join([part.length for part in parts], np.int32),
    )
    template = renumber[join([part.template for part in parts], np.int16).astype(np.int64)]
    return _Frames(places, template, join([part.values for part in parts], np.int64, 1)), ordered


# --- numbers -------------------------------------------------------------------------------------------------------------------


def _align(frames: _Frames, templates: Sequence[FlatTemplate], kind: FlatKind) -> dict[str, int]:
    """Bring all mantissas of one exponent to the coarsest that holds them exactly; return the exponents.

    A frame with a number beyond 64 bits loses its template: it is kept verbatim.
    """
    exponents = {}
    for name in sorted({field.exponent for field in kind.fields if field.exponent is not None}):
        columns = [index for index, field in enumerate(kind.fields) if field.exponent == name]
        decimals = _decimals(templates, kind, columns)
        typed = np.flatnonzero(frames.template >= 0)
        finest = int(decimals[:, frames.template[typed]].max(initial=0))
        for index, column in enumerate(columns):
            factor = 10 ** (finest - decimals[index])[frames.template[typed]]
            values = frames.values[column, typed]
            frames.template[typed[values > _INT64_MAX // factor]] = -1
            frames.values[column, typed] = np.where(values >= 0, values * factor, -1)
        block = frames.values[columns][:, frames.template >= 0]
        coarser = 0
        while coarser < finest and not (np.where(block < 0, 0, block) % 10 ** (coarser + 1)).any():
            coarser += 1
        if coarser:
            for column in columns:
                values = frames.values[column]
                frames.values[column] = np.where(values >= 0, values // 10**coarser, -1)
        exponents[name] = coarser - finest
    return exponents


def _decimals(templates: Sequence[FlatTemplate], kind: FlatKind, columns: Sequence[int]) -> Ints:
    """Return the decimals each template prints of each column."""
    found = np.zeros((len(columns), len(templates)), np.int64)
    for code, template in enumerate(templates):
        printed = dict(zip(template.parts[1::2], template.decimals, strict=True))
        for index, column in enumerate(columns):
            found[index, code] = printed.get(kind.fields[column].key, 0)
    return found


# --- which is which ------------------------------------------------------------------------------------------------------------


def _decide(frames: _Frames, kind: FlatKind, fate: NDArray[np.int8], group: Ints) -> None:
    """Find the distinct messages and give every frame with a template its fate and its message's row."""
    rows = np.flatnonzero(frames.template >= 0)
    if len(rows) == 0:
        return
    places, values = frames.places, frames.values
    content = [0, *range(_EVENT_TIME + 1, len(kind.fields))]
    heard = [
        places.receive_time_ns[rows],
        places.line[rows],
        places.connection[rows],
        values[_EVENT_TIME, rows],
        frames.template[rows],
    ]
    keys = [*(values[column, rows] for column in content), *heard]
    order = np.lexsort(keys[::-1])
    ordered = rows[order]
    fresh = np.zeros(len(order), bool)
    fresh[0] = True
    for column in content:
        here = values[column, ordered]
        fresh[1:] |= here[1:] != here[:-1]
    firsts = np.flatnonzero(fresh)
    message = np.cumsum(fresh) - 1
    # Messages of one id stand in the order in which they were first heard; of those that contradict each other only the first is a row.
    ranks = [heard[index][order[firsts]] for index in (4, 3, 2, 1, 0)]
    by_time = np.lexsort((np.arange(len(firsts)), *ranks, values[0, ordered[firsts]]))
    ids = values[0, ordered[firsts[by_time]]]
    chosen = np.ones(len(ids), bool)
    if kind.unique:
        chosen[1:] = ids[1:] != ids[:-1]
    row = np.full(len(firsts), -1, np.int64)
    row[by_time[chosen]] = np.arange(int(chosen.sum()))
    group[ordered] = row[message]
    fate[ordered] = np.where(row[message] < 0, CONFLICT, np.where(fresh, CHOSEN, COPIED))


def _stray_ids(kind: FlatKind, places: Places, fate: NDArray[np.int8], texts: ChunkTexts) -> Ints:
    """Return the ids of frames that are kept verbatim, as far as they have any: they are not missing."""
    kept = np.flatnonzero(fate >= 0)
    found = []
    for line in texts.lines(places.chunk[kept], places.offset[kept], places.length[kept]):
        try:
            decoded = msgspec.json.decode(unwrap(line.split(b" ", 1)[-1]))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, WireError):
            continue
        number = decoded.get(kind.fields[0].key) if isinstance(decoded, dict) else None
        if type(number) is int and 0 <= number < 10**18:
            found.append(number)
    return np.array(sorted(found), np.int64)


def _gaps(ids: Ints, times: Ints, strays: Ints) -> list[tuple[int, int, int, int]]:
    if len(ids) == 0:
        return []
    known = np.unique(np.concatenate([ids, strays]))
    places = np.flatnonzero(np.diff(known) > 1)
    before, behind = known[places], known[places + 1]
    last = np.maximum(np.searchsorted(ids, before, side="right") - 1, 0)
    following = np.minimum(np.searchsorted(ids, behind), len(ids) - 1)
    return list(zip(before.tolist(), (behind - 1).tolist(), times[last].tolist(), times[following].tolist(), strict=True))


# --- tables --------------------------------------------------------------------------------------------------------------------


def _renumbered(templates: Sequence[FlatTemplate], codes: NDArray[np.int16]) -> tuple[dict[bytes, bytes], NDArray[np.int16]]:
    """Return the metadata with the templates in use, and the codes by their positions there."""
    used = np.unique(codes).tolist()
    renumber = np.full(len(templates), -1, np.int16)
    renumber[used] = np.arange(len(used))
    return {TEMPLATES_KEY: templates_to_json([templates[code] for code in used]).encode()}, renumber[codes]


def _typed_table(
    frames: _Frames, kind: FlatKind, templates: Sequence[FlatTemplate], exponents: dict[str, int], rows: Ints
) -> Table:
    metadata, codes = _renumbered(templates, frames.template[rows])
    schema = flat_schema(kind)
    places = frames.places
    sink = io.BytesIO()
    with TableWriter(schema, sink, metadata=metadata) as writer:
        for begin in range(0, len(rows), ROW_GROUP_EVENTS):
            part = rows[begin : begin + ROW_GROUP_EVENTS]
            columns = _heard(places, part) | {"template": pa.array(codes[begin : begin + len(part)])}
            columns |= {name: pa.array(np.full(len(part), exponent, np.int8)) for name, exponent in exponents.items()}
            columns |= {field.name: _column(frames.values[index, part], field.kind) for index, field in enumerate(kind.fields)}
            writer.write(pa.RecordBatch.from_arrays([columns[name] for name in schema.names], schema=schema))
    return Table(kind.table, sink.getvalue(), len(rows))


def _column(values: Ints, kind: int) -> pa.Array:
    if kind == TIME:
        return nullable_times(values)
    if kind == TRUTH:
        return pa.array(values == 1)
    return pa.array(values, pa.int64(), mask=values < 0)


def _heard(places: Places, rows: Ints) -> dict[str, pa.Array]:
    return {
        "receive_time": pa.array(places.receive_time_ns[rows]).view(pa.timestamp("ns", "UTC")),
        "collector": dictionary_array(places.line[rows].astype(np.int32), places.collectors),
        "connection": dictionary_array(places.connection[rows].astype(np.int32), places.connections),
    }


def _copy_table(frames: _Frames, templates: Sequence[FlatTemplate], fate: NDArray[np.int8], group: Ints) -> Table:
    places = frames.places
    rows = np.flatnonzero(fate == COPIED)
    keys = (
        frames.values[_EVENT_TIME, rows],
        frames.template[rows],
        places.receive_time_ns[rows],
        places.connection[rows],
        places.line[rows],
        group[rows],
    )
    rows = rows[np.lexsort(keys)]
    metadata, codes = _renumbered(templates, frames.template[rows])
    sink = io.BytesIO()
    with TableWriter(COPY, sink, metadata=metadata) as writer:
        for begin in range(0, len(rows), ROW_GROUP_EVENTS):
            part = rows[begin : begin + ROW_GROUP_EVENTS]
            columns = _heard(places, part) | {
                "row": pa.array(group[part]),
                "event_time": nullable_times(frames.values[_EVENT_TIME, part]),
                "template": pa.array(codes[begin : begin + len(part)]),
            }
            writer.write(pa.RecordBatch.from_arrays([columns[name] for name in COPY.names], schema=COPY))
    return Table("copy", sink.getvalue(), len(rows))
