"""Multisets of raw lines, 128 bits a line: what the raw side said, what the outputs of a day render to, and where they differ.

A copy of an event is not printed whole: its body is its depth row's, whose digest is known from printing that one, so that what stands around it is
enough (see `kernel.hash_line`). A copy whose template prints the body in another way is printed whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from twintape.columns.bodies import body_parts
from twintape.columns.expand import Arrivals, Outputs, expand
from twintape.columns.kernel import Bytes, Int64s, Words, hash_line, hash_lines, hash_seed, kernel
from twintape.columns.lines import Chunk
from twintape.columns.render import Copies, Printer, hash_copies
from twintape.columns.schema import ARRIVAL, DEPTH, ROW_GROUP_EVENTS, DepthColumns, TableReader, Template

__all__ = ["LineDigests", "digest_lines", "digest_outputs", "joined", "missing_lines"]

Ints = NDArray[np.int64]
Smalls = NDArray[np.int32]


@dataclass(slots=True)
class LineDigests:
    """A multiset of raw lines, and where each came from.

    Attributes:
        digest: uint64[n, 2] over collector, connection and line.
        chunk: int32[n], position of the chunk.
        offset: int64[n], where the line starts in the chunk's text; `length` (int32) is its length.
    """

    digest: Words
    chunk: Smalls
    offset: Ints
    length: Smalls

    def __len__(self) -> int:
        return len(self.digest)


def digest_lines(chunks: Sequence[Chunk]) -> LineDigests:
    """Return the digest of every line of every chunk: from the pass over the raw bytes where there was one, else from the text.

    Raises:
        CorruptionError: A chunk is damaged.
    """
    texts = {number: _of_text(chunk) for number, chunk in enumerate(chunks) if chunk.headers is None}
    counts = [len(texts[number]) if number in texts else chunk.headers_count() for number, chunk in enumerate(chunks)]
    total = sum(counts)
    found = LineDigests(
        np.empty((total, 2), np.uint64),
        np.repeat(np.arange(len(chunks), dtype=np.int32), counts),
        np.empty(total, np.int64),
        np.empty(total, np.int32),
    )
    begin = 0
    for number, chunk in enumerate(chunks):
        part = slice(begin, begin + counts[number])
        if chunk.headers is None:
            own = texts.pop(number)
            found.digest[part], found.offset[part], found.length[part] = own.digest, own.offset, own.length
        else:
            rows = chunk.headers().rows
            found.digest[part, 0], found.digest[part, 1] = rows["digest_a"], rows["digest_b"]
            found.offset[part], found.length[part] = rows["offset"], rows["length"]
        begin += counts[number]
    return found


def _of_text(chunk: Chunk) -> LineDigests:
    text = np.frombuffer(chunk.load(), np.uint8)
    ends = np.flatnonzero(text == 10)
    starts = np.zeros(len(ends), np.int64)
    starts[1:] = ends[:-1] + 1
    digest = np.empty((len(ends), 2), np.uint64)
    hash_lines(text, starts, ends, *hash_seed(chunk.collector, chunk.connection), digest)
    return LineDigests(digest, np.zeros(len(ends), np.int32), starts, (ends - starts).astype(np.int32))


def digest_outputs(outputs: Outputs, date: str) -> LineDigests:
    """Return the digest of every raw line that the files of a day stand for; places are not known.

    Raises:
        CorruptionError: A file is damaged, an arrival row has no depth row, or a row cannot be printed.
    """
    found: list[Words] = []
    depth = outputs.reader("depth", DEPTH)
    if depth is not None:
        found += _of_depth(depth, Arrivals(outputs.reader("arrival", ARRIVAL), depth))
    rest = {name: data for name, data in outputs.tables.items() if name not in ("depth", "arrival")}
    found.append(digest_lines(expand(Outputs(rest), date)).digest)
    return _without_places(found)


def joined(parts: Sequence[LineDigests]) -> LineDigests:
    """Return the lines of all parts as one multiset; places are not known."""
    return _without_places([part.digest for part in parts])


def _without_places(found: Sequence[Words]) -> LineDigests:
    none = np.zeros(0, np.int64)
    return LineDigests(np.concatenate([np.zeros((0, 2), np.uint64), *found]), none.astype(np.int32), none, none.astype(np.int32))


def _of_depth(depth: TableReader, arrivals: Arrivals) -> list[Words]:
    found: list[Words] = []
    printer, copier = Printer(depth.templates), Printer(arrivals.templates)
    alike = _prints_alike(depth.templates, arrivals.templates)
    seeds = np.array([hash_seed(*pair) for pair in arrivals.pairs], np.uint64).reshape(-1, 2)
    for group in range(depth.row_groups):
        columns = DepthColumns.from_batch(depth.read(group))
        digest, body = np.empty((len(columns), 2), np.uint64), np.empty((len(columns), 2), np.uint64)
        text, starts = printer.lines(columns)
        own = np.array([[hash_seed(a, b) for b in columns.connection_names] for a in columns.collector_names], np.uint64)
        _hash_rows(text, starts, own[columns.collector, columns.connection], digest, body)
        found.append(digest)
        begin = group * ROW_GROUP_EVENTS
        mine = arrivals.of(begin, begin + len(columns))
        if mine.start == mine.stop:
            continue
        row, template, pair = arrivals.row[mine] - begin, arrivals.template[mine], arrivals.pair[mine]
        short = alike[columns.template[row], template]
        copies = Copies(
            row[short],
            arrivals.event_time_us[mine][short],
            arrivals.receive_time_ns[mine][short],
            template[short],
            seeds[pair[short]],
        )
        found.append(hash_copies(columns, copies, copier.tables, body))
        whole = np.flatnonzero(~short)
        if len(whole):
            text, starts = copier.lines(arrivals.columns(columns, begin, mine.start + whole))
            printed = np.empty((len(whole), 2), np.uint64)
            _hash_rows(text, starts, seeds[pair[whole]], printed, np.empty_like(printed))
            found.append(printed)
    return found


def _prints_alike(depth: Sequence[Template], arrivals: Sequence[Template]) -> NDArray[np.bool_]:
    """Return for each template of depth rows (and none) and each of arrival rows (and none) whether they print the same body."""
    own, others = [body_parts(template) for template in depth], [body_parts(template) for template in arrivals]
    alike = np.zeros((len(own) + 1, len(others) + 1), bool)
    for position, one in enumerate(own):
        for place, other in enumerate(others):
            alike[position, place] = one is not None and one == other
    return alike


@kernel
def _hash_rows(text: Bytes, starts: Int64s, seeds: Words, digest: Words, body: Words) -> None:
    # The lines' newlines are not hashed.
    for row in range(starts.size - 1):
        digest[row, 0], digest[row, 1], body[row, 0], body[row, 1] = hash_line(
            text, starts[row], starts[row + 1] - 1, seeds[row, 0], seeds[row, 1]
        )


def missing_lines(whole: LineDigests, part: LineDigests) -> tuple[Ints, int]:
    """Compare two multisets.

    Returns:
        Positions of the lines of `whole` that are not in `part`, ascending, and how many lines of `part` are not in `whole`.
    """
    matched = np.zeros(len(whole), bool)
    # Half of the table stays empty, so that what is looked for is found near where it should be.
    table = np.full(1 << max(2 * len(whole) - 1, 1).bit_length(), -1, np.int32)
    strangers = _match(whole.digest, part.digest, table, np.empty(len(whole), np.int32), matched)
    return np.flatnonzero(~matched), int(strangers)


@kernel
def _match(whole: Words, part: Words, table: Smalls, behind: Smalls, matched: NDArray[np.bool_]) -> int:
    # A hash table of rows of `whole`; digests are as good as random. Rows with the same digest hang behind each other, the lowest first.
    mask = table.size - 1
    for row in range(whole.shape[0] - 1, -1, -1):
        place = np.int64(whole[row, 0] & np.uint64(mask))
        while table[place] >= 0 and (whole[table[place], 0] != whole[row, 0] or whole[table[place], 1] != whole[row, 1]):
            place = (place + 1) & mask
        behind[row] = table[place]
        table[place] = row
    strangers = 0
    for row in range(part.shape[0]):
        place = np.int64(part[row, 0] & np.uint64(mask))
        while table[place] >= 0 and (whole[table[place], 0] != part[row, 0] or whole[table[place], 1] != part[row, 1]):
            place = (place + 1) & mask
        found = table[place]
        while found >= 0 and matched[found]:
            found = behind[found]
        if found < 0:
            strangers += 1
            continue
        matched[found] = True
        if behind[found] >= 0:
            table[place] = behind[found]  # the matched ones need not be walked over again
    return strangers
