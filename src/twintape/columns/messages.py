"""One day of a stream that is not spliced: every frame of all collectors in, typed rows, further copies and verbatim frames out.

A message is what its fields say but for `E`, which is stamped per connection (mark prices are as of `E`: there it counts). Each distinct one is a row, taken from the copy heard first;
further copies are rows of `copy`. Streams without a type of their own, and frames no template prints, are kept byte for byte.
A pure function of the multiset of lines: their order makes no difference, nor whether they come from segments or from an earlier generation.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from twintape.columns import schema
from twintape.columns.flat import TEMPLATES_MAX, FlatTemplate, FlatText, scan, templates_to_json
from twintape.columns.kinds import ABSENT, TIME, TRUTH, WORD, FlatField, FlatKind, flat_schema, kind_of
from twintape.columns.lines import Chunk, ChunkTexts
from twintape.columns.parse import Levels, exponents, levels
from twintape.columns.partial import HASHES, level_columns, scan_partial
from twintape.columns.schema import (
    COPY,
    ROW_GROUP_EVENTS,
    TEMPLATES_KEY,
    Table,
    TableWriter,
    Template,
    dictionary_array,
    nullable_times,
)
from twintape.columns.templates import TemplateSet
from twintape.columns.verbatim import CONFLICT, OTHER, Places, verbatim_table
from twintape.core.errors import WireError
from twintape.core.markets import Market
from twintape.core.wire import unwrap

__all__ = ["CHOSEN", "COPIED", "MessagesDay", "merge_messages_day"]

Ints = NDArray[np.int64]
_INT64_MAX = 2**63 - 1


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
    """All frames of a day, one element each; `values` as in `columns.flat`, `decimals` as in `columns.partial`."""

    places: Places
    template: NDArray[np.int16]
    values: Ints
    decimals: NDArray[np.int8]
    templates: Sequence[FlatTemplate | Template]


def merge_messages_day(stream: str, chunks: Sequence[Chunk]) -> MessagesDay:
    """Merge the lines of one day.

    Args:
        stream: Its name, without symbol.
        chunks: Every chunk of the day's date, any order; read up to twice.

    Raises:
        CorruptionError: A chunk is damaged.
    """
    kind = kind_of(stream)
    try:
        return _merge(chunks, kind)
    except WireError:
        return _merge(chunks, None)


def _merge(chunks: Sequence[Chunk], kind: FlatKind | None) -> MessagesDay:
    """Merge the lines as messages of a kind.

    Raises:
        WireError: Together they have no table: too many shapes, or numbers that share no exponent.
    """
    frames = _read(chunks, kind)
    places = frames.places
    fate = np.full(len(places), OTHER, np.int8)
    group = np.full(len(places), -1, np.int64)
    tables: list[Table] = []
    texts = ChunkTexts(chunks)
    ids = times = np.zeros(0, np.int64)
    gaps: list[tuple[int, int, int, int]] = []
    if kind is not None and frames.templates:
        scales = _align(frames, kind)
        _decide(frames, kind, fate, group)
        rows = np.flatnonzero(fate == CHOSEN)
        rows = rows[np.argsort(group[rows])]
        tables = [_typed_table(frames, kind, scales, rows, texts), _copy_table(frames, kind, fate, group)]
        ids, times = frames.values[0, rows], np.maximum(frames.values[kind.stamp, rows], -1)
        if kind.unique:
            around = np.where(times >= 0, times, frames.values[kind.stamp + 1, rows])
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


def _scan(chunks: Sequence[Chunk], kind: FlatKind | None) -> tuple[list[FlatText], list[NDArray[np.int8]], list[Any]]:
    """Return the lines of every chunk, the decimals that their levels need, and all templates in the order of their codes."""
    if kind is None or not kind.levels:
        flat: list[FlatTemplate] = []
        parts = [scan(chunk.load(), kind, flat) for chunk in chunks]
        return parts, [np.zeros((2, len(part)), np.int8) for part in parts], flat
    found = TemplateSet()
    both = [scan_partial(chunk.load(), found) for chunk in chunks]
    return [part for part, _ in both], [decimals for _, decimals in both], list(found)


def _read(chunks: Sequence[Chunk], kind: FlatKind | None) -> _Frames:
    parts, decimals, found = _scan(chunks, kind)
    # A set of templates holds no more than the limit: a full one may have refused some.
    if len(found) > TEMPLATES_MAX - (kind is not None and kind.levels):
        raise WireError(f"frames of over {TEMPLATES_MAX} shapes")
    collectors = sorted({chunk.collector for chunk in chunks})
    connections = sorted({chunk.connection for chunk in chunks})
    counts = [len(part) for part in parts]

    def join(arrays: list[NDArray[Any]], kind_of: type, axis: int = 0) -> NDArray[Any]:
        return np.concatenate(arrays, axis=axis) if arrays else np.zeros((0,) * (axis + 1), kind_of)

    def spread(values: list[int]) -> Ints:
        return np.repeat(np.array(values, np.int64), counts)

    ordered = sorted(found, key=astuple)
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
    values = join([part.values for part in parts], np.int64, 1)
    return _Frames(places, template, values, join(decimals, np.int8, 1), ordered)


# --- numbers -------------------------------------------------------------------------------------------------------------------


def _align(frames: _Frames, kind: FlatKind) -> dict[str, int]:
    """Bring all mantissas of one exponent to the coarsest that holds them exactly; return the exponents.

    A frame with a number beyond 64 bits loses its template: it is kept verbatim.
    """
    if kind.levels:
        return dict(zip(kind.exponents, exponents(*frames.decimals), strict=True))
    found = {}
    for name in kind.exponents:
        columns = [index for index, field in enumerate(kind.fields) if field.exponent == name]
        decimals = _decimals(frames.templates, kind, columns)
        typed = np.flatnonzero(frames.template >= 0)
        finest = int(decimals[:, frames.template[typed]].max(initial=0))
        for index, column in enumerate(columns):
            factor = 10 ** (finest - decimals[index])[frames.template[typed]]
            values = frames.values[column, typed]
            known = values != ABSENT
            frames.template[typed[known & (np.abs(values) > _INT64_MAX // factor)]] = -1
            frames.values[column, typed] = np.where(known, values * factor, ABSENT)
        block = frames.values[columns][:, frames.template >= 0]
        coarser = 0
        while coarser < finest and not (np.where(block == ABSENT, 0, block) % 10 ** (coarser + 1)).any():
            coarser += 1
        if coarser:
            for column in columns:
                values = frames.values[column]
                frames.values[column] = np.where(values != ABSENT, values // 10**coarser, ABSENT)
        found[name] = coarser - finest
    return found


def _decimals(templates: Sequence[FlatTemplate | Template], kind: FlatKind, columns: Sequence[int]) -> Ints:
    """Return the decimals each template prints of each column."""
    found = np.zeros((len(columns), len(templates)), np.int64)
    for code, template in enumerate(templates):
        assert isinstance(template, FlatTemplate)
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
    content = [*kind.content, *(HASHES if kind.levels else ())]
    heard = [
        places.receive_time_ns[rows],
        places.line[rows],
        places.connection[rows],
        values[kind.stamp, rows],
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


def _renumbered(frames: _Frames, kind: FlatKind, rows: Ints) -> tuple[dict[bytes, bytes], NDArray[np.int16]]:
    """Return the metadata with the templates in use, and the codes by their positions there."""
    codes = frames.template[rows]
    used = np.unique(codes).tolist()
    renumber = np.full(len(frames.templates), -1, np.int16)
    renumber[used] = np.arange(len(used))
    templates: list[Any] = [frames.templates[code] for code in used]
    text = schema.templates_to_json(templates) if kind.levels else templates_to_json(templates)
    return {TEMPLATES_KEY: text.encode()}, renumber[codes]


def _typed_table(frames: _Frames, kind: FlatKind, scales: dict[str, int], rows: Ints, texts: ChunkTexts) -> Table:
    metadata, codes = _renumbered(frames, kind, rows)
    columns_of = flat_schema(kind)
    places = frames.places
    sink = io.BytesIO()
    with TableWriter(columns_of, sink, metadata=metadata) as writer:
        for begin in range(0, len(rows), ROW_GROUP_EVENTS):
            part = rows[begin : begin + ROW_GROUP_EVENTS]
            columns = _heard(places, part) | {"template": pa.array(codes[begin : begin + len(part)])}
            columns |= {name: pa.array(np.full(len(part), exponent, np.int8)) for name, exponent in scales.items()}
            columns |= {field.name: _column(frames.values[index, part], field) for index, field in enumerate(kind.fields)}
            if kind.levels:
                columns |= level_columns(_levels(frames, scales, part, texts))
            writer.write(pa.RecordBatch.from_arrays([columns[name] for name in columns_of.names], schema=columns_of))
    return Table(kind.table, sink.getvalue(), len(rows))


def _levels(frames: _Frames, scales: dict[str, int], rows: Ints, texts: ChunkTexts) -> Levels:
    """Read the levels of some frames from their texts.

    Raises:
        WireError: One is no 64-bit mantissa at the day's exponents.
    """
    places = frames.places
    templates = TemplateSet(template for template in frames.templates if isinstance(template, Template))
    order = np.argsort(places.chunk[rows], kind="stable")
    edges = np.flatnonzero(np.diff(places.chunk[rows[order]])) + 1
    found = [
        levels(
            texts[int(places.chunk[part[0]])],
            places.offset[part],
            places.length[part],
            frames.template[part],
            templates,
            market=Market.USDM,
            price_exponent=scales["price_exponent"],
            quantity_exponent=scales["quantity_exponent"],
        )
        for part in np.split(rows[order], edges)
    ]
    back = np.empty(len(order), np.int64)
    back[order] = np.arange(len(order))
    return Levels.joined(found).take(back)


def _column(values: Ints, field: FlatField) -> pa.Array:
    if field.kind == TIME:
        return nullable_times(values)
    if field.kind == TRUTH:
        return pa.array(values == 1)
    if field.kind == WORD:
        return dictionary_array(values.astype(np.int32), field.words)
    return pa.array(values, pa.int64(), mask=values == ABSENT)


def _heard(places: Places, rows: Ints) -> dict[str, pa.Array]:
    return {
        "receive_time": pa.array(places.receive_time_ns[rows]).view(pa.timestamp("ns", "UTC")),
        "collector": dictionary_array(places.line[rows].astype(np.int32), places.collectors),
        "connection": dictionary_array(places.connection[rows].astype(np.int32), places.connections),
    }


def _copy_table(frames: _Frames, kind: FlatKind, fate: NDArray[np.int8], group: Ints) -> Table:
    places = frames.places
    rows = np.flatnonzero(fate == COPIED)
    keys = (
        frames.values[kind.stamp, rows],
        frames.template[rows],
        places.receive_time_ns[rows],
        places.connection[rows],
        places.line[rows],
        group[rows],
    )
    rows = rows[np.lexsort(keys)]
    metadata, codes = _renumbered(frames, kind, rows)
    sink = io.BytesIO()
    with TableWriter(COPY, sink, metadata=metadata) as writer:
        for begin in range(0, len(rows), ROW_GROUP_EVENTS):
            part = rows[begin : begin + ROW_GROUP_EVENTS]
            columns = _heard(places, part) | {
                "row": pa.array(group[part]),
                "event_time": nullable_times(frames.values[kind.stamp, part]),
                "template": pa.array(codes[begin : begin + len(part)]),
            }
            writer.write(pa.RecordBatch.from_arrays([columns[name] for name in COPY.names], schema=COPY))
    return Table("copy", sink.getvalue(), len(rows))
