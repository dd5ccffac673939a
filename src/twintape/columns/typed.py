"""Typed tables (trades, best bid and ask, partial depth, …) turned back into raw lines, a row group at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from twintape.columns.flat import FlatTemplate, print_lines, templates_from_json
from twintape.columns.kernel import Bytes
from twintape.columns.kinds import ABSENT, FlatKind
from twintape.columns.lines import Chunk
from twintape.columns.partial import partial_lines
from twintape.columns.schema import ROW_GROUP_EVENTS, TEMPLATES_KEY, TableReader, Template
from twintape.core.errors import CorruptionError

__all__ = ["typed_chunks"]

Ints = NDArray[np.int64]
_INT64_MAX = 2**63 - 1


def typed_chunks(typed: TableReader, copies: TableReader | None, kind: FlatKind, date: str) -> list[Chunk]:
    """Return the raw lines of a typed table and of its further copies, one chunk for each row group and connection.

    Raises:
        CorruptionError: A file is damaged, or a copy has no row.
    """
    templates = _templates(typed, kind)
    copied = _Copies(copies, kind, typed.rows)
    chunks = []
    for group in range(typed.row_groups):
        cached = _Cached(typed, copied, kind, templates, group)
        chunks += [Chunk(*pair, -1, date, cached.loader(pair)) for pair in cached.pairs()]
    return chunks


def _templates(reader: TableReader, kind: FlatKind) -> Sequence[FlatTemplate | Template]:
    return reader.templates if kind.levels else templates_from_json(reader.metadata(TEMPLATES_KEY) or b"[]", kind)


@dataclass(slots=True)
class _Heard:
    """Who heard which message when, and how it was printed; `row` is the message's place in its row group."""

    row: Ints
    event_time_us: Ints
    receive_time_ns: Ints
    template: NDArray[np.int16]
    pair: NDArray[np.int32]
    pairs: list[tuple[str, str]]


def _ints(batch: pa.RecordBatch, name: str, words: Sequence[str] = ()) -> Ints:
    column = batch.column(name)
    if words:
        said = column.dictionary.to_pylist()
        if not set(said) <= set(words):
            raise CorruptionError(f"{name} says {said}")
        places = np.array([words.index(word) for word in said], np.int64)
        return places[np.asarray(column.indices.to_numpy(zero_copy_only=False), np.int64)]
    return np.asarray(column.cast(pa.int64()).fill_null(ABSENT).to_numpy(zero_copy_only=False), np.int64)


def _heard(batch: pa.RecordBatch, row: Ints) -> _Heard:
    codes, names = [], []
    for column in ("collector", "connection"):
        words = batch.column(column)
        codes.append(np.asarray(words.indices.to_numpy(zero_copy_only=False), np.int64))
        names.append([str(word) for word in words.dictionary.to_pylist()])
    both = codes[0] * max(len(names[1]), 1) + codes[1]
    used, pair = np.unique(both, return_inverse=True)
    pairs = [(names[0][code // len(names[1])], names[1][code % len(names[1])]) for code in used.tolist()]
    template = np.asarray(batch.column("template").to_numpy(zero_copy_only=False), np.int16)
    return _Heard(row, _ints(batch, "event_time"), _ints(batch, "receive_time"), template, pair.astype(np.int32), pairs)


class _Copies:
    """The copy table, of which only the rows of one row group of messages are read at a time."""

    def __init__(self, reader: TableReader | None, kind: FlatKind, rows: int) -> None:
        self._reader = reader
        self.templates: Sequence[FlatTemplate | Template] = []
        self._first: list[int] = []
        self._last: list[int] = []
        if reader is None:
            return
        self.templates = _templates(reader, kind)
        for group in range(reader.row_groups):
            row = _ints(reader.read(group), "row")
            if (np.diff(row) < 0).any() or row[0] < (self._last[-1] if self._last else 0) or row[-1] >= rows:
                raise CorruptionError(f"copies {row[0]} to {row[-1]} of {rows} rows, in row group {group}")
            self._first.append(int(row[0]))
            self._last.append(int(row[-1]))

    def of(self, begin: int, end: int) -> list[_Heard]:
        """Return the copies of the messages `[begin, end)`."""
        found = []
        for group, (first, last) in enumerate(zip(self._first, self._last, strict=True)):
            if first >= end or last < begin or self._reader is None:
                continue
            batch = self._reader.read(group)
            row = _ints(batch, "row")
            start, stop = np.searchsorted(row, [begin, end]).tolist()
            found.append(_heard(batch.slice(start, stop - start), row[start:stop] - begin))
        return found


class _Cached:
    """The raw lines of one row group with its copies, grouped by connection and rendered once."""

    def __init__(
        self, typed: TableReader, copies: _Copies, kind: FlatKind, templates: Sequence[FlatTemplate | Template], group: int
    ) -> None:
        self._typed = typed
        self._copies = copies
        self._kind = kind
        self._templates = templates
        self._group = group
        self._rendered: dict[tuple[str, str], bytes] | None = None

    def _read(self) -> tuple[pa.RecordBatch, list[_Heard]]:
        batch = self._typed.read(self._group)
        begin = self._group * ROW_GROUP_EVENTS
        return batch, [_heard(batch, np.arange(batch.num_rows)), *self._copies.of(begin, begin + batch.num_rows)]

    def pairs(self) -> list[tuple[str, str]]:
        _, heard = self._read()
        return sorted({pair for part in heard for pair in part.pairs})

    def loader(self, pair: tuple[str, str]) -> Callable[[], bytes]:
        def load() -> bytes:
            # Chunks may be loaded again: what was handed out is forgotten, and a second round renders anew.
            if self._rendered is None or pair not in self._rendered:
                self._rendered = self._render()
            text = self._rendered.pop(pair)
            if not self._rendered:
                self._rendered = None
            return text

        return load

    def _render(self) -> dict[tuple[str, str], bytes]:
        batch, heard = self._read()
        templates = [*self._templates, *self._copies.templates]
        names = sorted({pair for part in heard for pair in part.pairs})
        place = {name: index for index, name in enumerate(names)}
        codes = [part.template + (len(self._templates) if index else 0) for index, part in enumerate(heard)]
        pair = np.concatenate([np.array([place[name] for name in part.pairs], np.int64)[part.pair] for part in heard])
        order = np.argsort(pair, kind="stable")
        row = np.concatenate([part.row for part in heard])[order]
        code = np.concatenate(codes)[order].astype(np.int16)
        stamps = np.concatenate([part.event_time_us for part in heard])[order]
        times = np.concatenate([part.receive_time_ns for part in heard])[order]
        text, starts = self._print(batch, row, stamps, times, templates, code)
        edges = np.searchsorted(pair[order], np.arange(len(names) + 1))
        return {name: text[starts[edges[index]] : starts[edges[index + 1]]].tobytes() for index, name in enumerate(names)}

    def _print(
        self,
        batch: pa.RecordBatch,
        row: Ints,
        stamps: Ints,
        times: Ints,
        templates: Sequence[FlatTemplate | Template],
        code: NDArray[np.int16],
    ) -> tuple[Bytes, Ints]:
        if self._kind.levels:
            shapes = [template for template in templates if isinstance(template, Template)]
            return partial_lines(batch, row, {"event_time": stamps, "receive_time": times}, shapes, code)
        flat = [template for template in templates if isinstance(template, FlatTemplate)]
        values = np.stack([_ints(batch, field.name, field.words) for field in self._kind.fields])[:, row]
        values[self._kind.stamp] = stamps
        self._scale(values, code, flat, batch)
        return print_lines(self._kind, flat, code, times, values)

    def _scale(self, values: Ints, code: NDArray[np.int16], templates: Sequence[FlatTemplate], batch: pa.RecordBatch) -> None:
        """Bring mantissas from the file's exponents to the decimals each row's template prints."""
        if len(code) and int(code.max()) >= len(templates):
            raise CorruptionError(f"template {int(code.max())} of {len(templates)}")
        for index, field in enumerate(self._kind.fields):
            if field.exponent is None:
                continue
            bounds = np.unique(_ints(batch, field.exponent))
            if len(bounds) != 1 or not -18 <= bounds[0] <= 0:
                raise CorruptionError(
                    f"{field.exponent} must be constant within a file and between -18 and 0, found {bounds.tolist()}"
                )
            printed = [
                dict(zip(template.parts[1::2], template.decimals, strict=True)).get(field.key, 0) for template in templates
            ]
            shift = (np.array(printed, np.int64) + int(bounds[0]))[code]
            known = values[index] != ABSENT
            up, down = 10 ** np.maximum(shift, 0), 10 ** np.maximum(-shift, 0)
            if (known & ((np.abs(values[index]) > _INT64_MAX // up) | (values[index] % down != 0))).any():
                raise CorruptionError(f"a {field.name} cannot be printed by its template")
            values[index] = np.where(known, values[index] * up // down, ABSENT)
