"""All lines of one day as one table of headers: who heard which ids when, where the bytes are, and which frames belong to the day.

Headers come from the one pass over every raw byte (`survey`), or from texts that had none, such as an earlier generation's (`parse.scan`).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
from numpy.typing import NDArray

from twintape.columns.kernel import hash_seed, kernel
from twintape.columns.parse import HEADER, HEADER_WORDS, Headers, scan
from twintape.columns.schema import Template
from twintape.columns.splice import assign_epochs, never_restarts
from twintape.columns.templates import TEMPLATES_MAX, TemplateSet
from twintape.core.markets import RULES, Market

__all__ = [
    "CHUNK_CACHE_MAX",
    "Chunk",
    "ChunkTexts",
    "DayBounds",
    "HeaderPlace",
    "Lines",
    "Stretch",
    "day_bounds",
    "midnight_us",
    "read_lines",
    "stretch_of",
]

Ints = NDArray[np.int64]
Smalls = NDArray[np.int32]
Words = NDArray[np.uint64]
Flags = NDArray[np.bool_]

CHUNK_CACHE_MAX = 48
"""Decoded chunks (about 1 MiB each) that are kept while frames are fetched in chain order."""

DECIMALS_MAX = 8
"""Binance prints no more. A frame with more is no depth frame: one such price would take the whole day's exponents, and int64, with it."""

SLOW = -1
UNDECODABLE = -2


@dataclass(frozen=True, slots=True)
class HeaderPlace:
    """Where a chunk's headers are in a file of headers.

    Attributes:
        rows: Returns headers (`parse.HEADER`) of the file, from one position and so many, that whoever asks may change: nobody else sees it. The same one
            for all chunks of a file.
        first: The position of the chunk's first header.
        templates: What their codes mean.
    """

    rows: Callable[[int, int], NDArray[np.void]]
    first: int
    templates: TemplateSet


@dataclass(frozen=True, slots=True)
class Chunk:
    r"""Consecutive frames of one stream on one connection of one collector.

    Attributes:
        collector: Who heard them.
        connection: On which connection, `<run8>-<number>`.
        source: Position of the raw segment in the merge's inputs, or -1 if the frames come from an earlier generation.
        date: The exchange date the frames are filed under.
        load: Returns the text: lines `<receive_time_ns> <frame>\n`. May be called again; must return the same bytes.
        headers: Returns what the pass over the raw bytes read of these lines of a depth stream; None if they must be read from the text.
        count: How many lines there are, if whoever made the chunk knows.
        kept: Returns words that were kept when the lines were first seen, from one position and so many, or as many as there are (see `kept.Memory`);
            the same one for all chunks whose headers say places in the same whole. None if the levels must be read from the text.
        place: Where what `headers` returns is in a file, if it is in one that can be read as a whole.
    """

    collector: str
    connection: str
    source: int
    date: str
    load: Callable[[], bytes]
    headers: Callable[[], Headers] | None = None
    count: int | None = None
    kept: Callable[[int, int], Ints] | None = None
    place: HeaderPlace | None = None

    def read(self, market: Market, templates: TemplateSet) -> Headers:
        """Return the lines' headers; `templates` is filled if they must be read from the text.

        Raises:
            CorruptionError: The text is not whole lines, or damaged.
        """
        if self.headers is not None:
            return self.headers()
        return scan(self.load(), market, templates, seed=hash_seed(self.collector, self.connection))

    def headers_count(self) -> int:
        """Return how many lines a chunk with headers has."""
        assert self.headers is not None, "it has headers"
        return len(self.headers()) if self.count is None else self.count


class ChunkTexts:
    """The chunks' texts by position, the least recently used ones forgotten."""

    def __init__(self, chunks: Sequence[Chunk], limit: int = CHUNK_CACHE_MAX) -> None:
        self._chunks = chunks
        self._limit = limit
        self._kept: OrderedDict[int, bytes] = OrderedDict()

    def __getitem__(self, position: int) -> bytes:
        """Return the text of chunk `position`."""
        text = self._kept.get(position)
        if text is None:
            text = self._chunks[position].load()
            self._kept[position] = text
            if len(self._kept) > self._limit:
                self._kept.popitem(last=False)
        else:
            self._kept.move_to_end(position)
        return text

    def lines(self, chunk: NDArray[np.signedinteger[Any]], offset: NDArray[np.signedinteger[Any]], length: Smalls) -> list[bytes]:
        """Return the lines (without newline) at the given places, in the given order."""
        found = []
        for c, o, n in zip(chunk.tolist(), offset.tolist(), length.tolist(), strict=True):
            found.append(self[c][o : o + n])
        return found


@dataclass(slots=True)
class Lines:
    """Headers of all frames of a day's lines: int64[n] unless said otherwise, sorted by `(epoch, final, prev, line, receive time, …)`.

    Undecodable frames (`template` -2) come first and have epoch -1. The order does not depend on the order of the chunks.

    Attributes:
        collectors: Names, sorted; `line` (int32) is a position in it.
        connections: Names, sorted; `connection` (int32) is a position in it.
        templates: How fast frames were printed, sorted; `template` (int16) is a position in it, -1 for frames only the slow reader understands.
        epoch: int32[n].
        chunk: int32[n], position of the chunk; `offset` and `length` (int32) are the line's place in the chunk's text.
        place: int32[n], where its levels are among those the chunk's `kept` returns, -1 if they were not kept.
        group: int32[n], frames with the same epoch and ids have the same, ascending number; -1 for undecodable ones.
        price_decimals: int8[n], digits behind the point that the prices need; `quantity_decimals` likewise.
        hash_a: uint64[n], and `hash_b`: content of the level arrays.
    """

    collectors: list[str]
    connections: list[str]
    templates: list[Template]
    epoch: Smalls
    final: Ints
    prev: Ints
    first: Ints
    line: Smalls
    connection: Smalls
    receive_time_ns: Ints
    event_time_us: Ints
    transaction_time_us: Ints
    template: NDArray[np.int16]
    chunk: Smalls
    offset: Smalls
    place: Smalls
    length: Smalls
    price_decimals: NDArray[np.int8]
    quantity_decimals: NDArray[np.int8]
    hash_a: Words
    hash_b: Words
    group: Smalls

    def __len__(self) -> int:
        return len(self.final)

    @property
    def blind(self) -> int:
        """How many undecodable frames there are; they stand in front."""
        return int(np.searchsorted(self.epoch, 0)) if len(self.epoch) and self.epoch[0] < 0 else 0


_COLUMNS = {
    "final": "final",
    "prev": "prev",
    "first": "first",
    "receive_time_ns": "receive_time_ns",
    "event_time_us": "event_time_us",
    "transaction_time_us": "transaction_time_us",
    "template": "template",
    "offset": "offset",
    "place": "place",
    "length": "length",
    "price_decimals": "price_decimals",
    "quantity_decimals": "quantity_decimals",
    "hash_a": "body_a",
    "hash_b": "body_b",
}
"""Columns of the table by their names in headers."""


def read_lines(
    chunks: Sequence[Chunk], market: Market, *, start_update_id: int | None, misfits: Set[tuple[int, int]] = frozenset()
) -> Lines:
    """Gather the headers of every frame of every chunk.

    Args:
        chunks: All chunks that may hold frames of the day, any order.
        market: Decides what `p` is.
        start_update_id: Where the chain stood before, if known: ids far below it are a new epoch.
        misfits: `(chunk, offset)` of frames that are to be kept verbatim because their numbers leave the day's others no room in 64 bits.

    Raises:
        CorruptionError: A chunk is damaged.
    """
    collectors = sorted({chunk.collector for chunk in chunks})
    connections = sorted({chunk.connection for chunk in chunks})
    rows, chunk, templates = _gather(chunks, market)
    columns: dict[str, NDArray[Any]] = {name: rows[source] for name, source in _COLUMNS.items()}
    columns["line"] = np.array([collectors.index(one.collector) for one in chunks], np.int32)[chunk]
    columns["connection"] = np.array([connections.index(one.connection) for one in chunks], np.int32)[chunk]
    absurd = (columns["price_decimals"] > DECIMALS_MAX) | (columns["quantity_decimals"] > DECIMALS_MAX)
    columns["template"][absurd] = UNDECODABLE
    for number, offset in misfits:
        columns["template"][(chunk == number) & (columns["offset"] == offset)] = UNDECODABLE
    epoch, order = _sorted(columns, start_update_id, RULES[market].epoch_drop_ids)
    ordered: dict[str, NDArray[Any]] = {name: np.empty(len(rows), _KINDS[name]) for name in _COLUMNS}
    _arrange(
        rows.view(np.int64).reshape(-1, HEADER_WORDS), order, ordered["receive_time_ns"], ordered["event_time_us"],
        ordered["transaction_time_us"], ordered["prev"], ordered["first"], ordered["final"], ordered["hash_a"], ordered["hash_b"],
        ordered["offset"], ordered["place"], ordered["length"], ordered["template"], ordered["price_decimals"], ordered["quantity_decimals"],
    )  # fmt: skip
    epoch = epoch[order]
    return Lines(
        collectors=collectors,
        connections=connections,
        templates=templates,
        epoch=epoch,
        group=_groups(epoch, ordered["final"], ordered["prev"]),
        line=columns["line"][order],
        connection=columns["connection"][order],
        chunk=chunk[order],
        **ordered,
    )


Stretch = tuple[NDArray[np.void], Smalls, list[int], list[TemplateSet]]
"""Headers, to be changed at will; the chunk of each; and by chunk, in the order of the file, how many there are and what their codes mean."""


def stretch_of(chunks: Sequence[Chunk]) -> Stretch | None:
    """Return the headers of all chunks where they are, without copying any, or None if they do not lie one behind the other in one file.

    They do where an object holds one depth stream, and the day takes all blocks that were read: where most of the bytes are.
    """
    found = [(chunk.place.first, number, chunk.place) for number, chunk in enumerate(chunks) if chunk.place is not None]
    if len(found) < max(1, len(chunks)) or len({place.rows for *_, place in found}) > 1:
        return None
    found.sort(key=lambda one: one[:2])
    numbers = np.array([number for _, number, _ in found], np.int32)
    firsts = np.array([first for first, *_ in found], np.int64)
    counts = np.array([chunks[number].headers_count() for number in numbers.tolist()], np.int64)
    if (firsts[1:] != firsts[:-1] + counts[:-1]).any():
        return None
    rows = found[0][2].rows(int(firsts[0]), int(counts.sum()))
    return rows, np.repeat(numbers, counts), counts.tolist(), [place.templates for *_, place in found]


def _gather(chunks: Sequence[Chunk], market: Market) -> tuple[NDArray[np.void], Smalls, list[Template]]:
    """Return the headers of all chunks, the chunk of each, and the sorted templates that their codes mean."""
    stretch = stretch_of(chunks)
    if stretch is not None:
        rows, chunk, counts, sets = stretch
    else:
        rows, counts, sets = _copied(chunks, market)
        chunk = np.repeat(np.arange(len(chunks), dtype=np.int32), counts)
    shapes = [tuple(templates) for templates in sets]
    # A file lists so many templates; which ones must not depend on the order of chunks.
    ordered = sorted({template for listed in set(shapes) for template in listed}, key=_template_key)[:TEMPLATES_MAX]
    place = {template: position for position, template in enumerate(ordered)}
    begin = 0
    for listed, count in zip(shapes, counts, strict=True):
        if listed != tuple(ordered[: len(listed)]):
            # -1 and -2 index the table's end, so they keep their meaning.
            renumber = np.array([*(place.get(template, SLOW) for template in listed), UNDECODABLE, SLOW], np.int16)
            rows["template"][begin : begin + count] = renumber[rows["template"][begin : begin + count]]
        begin += count
    return rows, chunk, ordered


def _copied(chunks: Sequence[Chunk], market: Market) -> tuple[NDArray[np.void], list[int], list[TemplateSet]]:
    """Return the headers of all chunks one behind the other, how many each has, and what their codes mean."""
    known = TemplateSet()
    scanned = {number: chunk.read(market, known) for number, chunk in enumerate(chunks) if chunk.headers is None}
    counts = [len(scanned[number]) if number in scanned else chunk.headers_count() for number, chunk in enumerate(chunks)]
    words = np.empty((sum(counts), HEADER_WORDS), np.int64)
    sets: list[TemplateSet] = []
    begin = 0
    for number, chunk in enumerate(chunks):
        headers = scanned.pop(number, None) or chunk.read(market, known)
        words[begin : begin + counts[number]] = headers.rows.view(np.int64).reshape(-1, HEADER_WORDS)
        sets.append(headers.templates)
        begin += counts[number]
    return words.view(HEADER).reshape(-1), counts, sets


_KINDS = {name: HEADER[source] for name, source in _COLUMNS.items()}


@kernel
def _arrange(
    rows: Ints,
    order: Ints,
    receive_time_ns: Ints,
    event_time_us: Ints,
    transaction_time_us: Ints,
    prev: Ints,
    first: Ints,
    final: Ints,
    hash_a: Words,
    hash_b: Words,
    offset: Smalls,
    place_kept: Smalls,
    length: Smalls,
    template: NDArray[np.int16],
    price_decimals: NDArray[np.int8],
    quantity_decimals: NDArray[np.int8],
) -> None:
    # Cuts headers (`parse.HEADER`, as words) into columns in the given order: each row is fetched from memory once.
    for place in range(order.size):
        row = order[place]
        receive_time_ns[place] = rows[row, 0]
        event_time_us[place] = rows[row, 1]
        transaction_time_us[place] = rows[row, 2]
        prev[place] = rows[row, 3]
        first[place] = rows[row, 4]
        final[place] = rows[row, 5]
        hash_a[place] = np.uint64(rows[row, 6])
        hash_b[place] = np.uint64(rows[row, 7])
        offset[place] = (rows[row, 10] << 32) >> 32
        place_kept[place] = rows[row, 10] >> 32
        rest = rows[row, 11]
        length[place] = (rest << 32) >> 32
        template[place] = (rest << 16) >> 48
        price_decimals[place] = (rest << 8) >> 56
        quantity_decimals[place] = rest >> 56


RUN_MAX = 32
"""Frames of the same ids that are put in order by insertion; more of them are sorted like any others."""


def _sorted(columns: dict[str, NDArray[Any]], start_update_id: int | None, drop_ids: int) -> tuple[Smalls, Ints]:
    """Return the epochs, and the order of the rows."""
    blind = columns["template"] == UNDECODABLE
    final = columns["final"]
    if blind.any():
        final[blind] = columns["prev"][blind] = -1
    # Lines are nearly sorted, each for itself: merging such runs costs little, sorting by all keys at once a great deal.
    order = np.argsort(np.ascontiguousarray(final), kind="stable")
    epoch = np.where(blind, np.int32(-1), np.int32(0))
    behind = order[int(np.count_nonzero(blind)) :]
    if not never_restarts(final, columns["event_time_us"], behind, start_update_id, drop_ids=drop_ids):
        seen = ~blind
        epoch[seen] = assign_epochs(final[seen], columns["event_time_us"][seen], start_update_id, drop_ids=drop_ids)
        order = np.lexsort((final, epoch))
    end = 0
    while True:
        begin, end = _settle_ties(
            order, end, epoch, final, columns["prev"], columns["line"], columns["receive_time_ns"],
            columns["connection"], columns["event_time_us"], columns["hash_a"], columns["transaction_time_us"], columns["first"],
            columns["template"], columns["length"],
        )  # fmt: skip
        if end < 0:
            return epoch, order
        rows = order[begin:end]
        order[begin:end] = rows[np.lexsort([columns[name][rows] for name in reversed(_KEYS)])]


_KEYS = (
    "prev",
    "line",
    "receive_time_ns",
    "connection",
    "event_time_us",
    # In an imported recording one connection may have heard several frames at one time: then their content decides.
    "hash_a",
    "transaction_time_us",
    "first",
    "template",
    "length",
)
"""What the order of frames with the same last id is decided by."""


@kernel
def _settle_ties(
    order: Ints,
    begin: int,
    epoch: Smalls,
    final: Ints,
    prev: Ints,
    line: Smalls,
    receive_time_ns: Ints,
    connection: Smalls,
    event_time_us: Ints,
    hash_a: Words,
    transaction_time_us: Ints,
    first: Ints,
    template: NDArray[np.int16],
    length: Smalls,
) -> tuple[int, int]:
    # Puts rows of the same epoch and last id in order, from `begin` on; stops at a long run, and returns where it is, or (-1, -1).
    count = order.size
    while begin < count:
        end = begin + 1
        while end < count and final[order[end]] == final[order[begin]] and epoch[order[end]] == epoch[order[begin]]:
            end += 1
        if end - begin > RUN_MAX:
            return begin, end
        for place in range(begin + 1, end):
            row = order[place]
            at = place
            while at > begin:
                other = order[at - 1]
                if prev[row] != prev[other]:
                    less = prev[row] < prev[other]
                elif line[row] != line[other]:
                    less = line[row] < line[other]
                elif receive_time_ns[row] != receive_time_ns[other]:
                    less = receive_time_ns[row] < receive_time_ns[other]
                elif connection[row] != connection[other]:
                    less = connection[row] < connection[other]
                elif event_time_us[row] != event_time_us[other]:
                    less = event_time_us[row] < event_time_us[other]
                elif hash_a[row] != hash_a[other]:
                    less = hash_a[row] < hash_a[other]
                elif transaction_time_us[row] != transaction_time_us[other]:
                    less = transaction_time_us[row] < transaction_time_us[other]
                elif first[row] != first[other]:
                    less = first[row] < first[other]
                elif template[row] != template[other]:
                    less = template[row] < template[other]
                else:
                    less = length[row] < length[other]
                if not less:
                    break
                order[at] = other
                at -= 1
            order[at] = row
        begin = end
    return -1, -1


def _template_key(template: Template) -> tuple[object, ...]:
    return (template.parts, template.price_decimals, template.quantity_decimals, template.level_suffix, template.time_unit)


def _groups(epoch: Smalls, final: Ints, prev: Ints) -> Smalls:
    if len(epoch) == 0:
        return np.zeros(0, np.int32)
    fresh = np.ones(len(epoch), bool)
    fresh[1:] = (epoch[1:] != epoch[:-1]) | (final[1:] != final[:-1]) | (prev[1:] != prev[:-1])
    fresh &= epoch >= 0
    group = np.cumsum(fresh, dtype=np.int32) - np.int32(1)
    group[epoch < 0] = -1
    return group


@dataclass(frozen=True, slots=True)
class DayBounds:
    """Which frames belong to the day.

    Attributes:
        inside: bool[n], the day's frames.
        start_update_id: Where the chain stands before the day's first event; None for a day without events of which nothing is known.
        start_epoch: The epoch that id is of.
        end_update_id: Where it stands behind the last event.
        open_start: Nothing before the day is known: an edge of recording.
        open_end: Nothing behind it is.
        gap_behind: What is known behind does not join the end: whatever happened between may have been of this day.
    """

    inside: Flags
    start_update_id: int | None
    start_epoch: int
    end_update_id: int | None
    open_start: bool
    open_end: bool
    gap_behind: bool = False


def midnight_us(date: str) -> int:
    """Return the first microsecond of a UTC date.

    >>> midnight_us("1970-01-02")
    86400000000
    """
    day = datetime.fromisoformat(date).replace(tzinfo=UTC)
    return (day - _EPOCH) // timedelta(microseconds=1)


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
DAY_US = 86_400_000_000


def day_bounds(lines: Lines, chunks: Sequence[Chunk], date: str, start_pin: int | None, end_pin: int | None) -> DayBounds:
    """Decide which frames belong to `date`.

    A neighbour's pin wins. Without one the day begins behind the last event before the first event, in the order of ids, whose event time (the
    smallest any line gives it) is not before midnight. A frame that cannot be decoded belongs to the date it is filed under.

    Args:
        lines: All frames at hand, including those around the midnights on both sides.
        chunks: Where they come from.
        date: The day.
        start_pin: The end of the day before, if its proof says so.
        end_pin: The start of the day behind, if its proof says so.
    """
    inside = np.zeros(len(lines), bool)
    blind = lines.blind
    if blind:
        inside[:blind] = np.array([chunk.date for chunk in chunks])[lines.chunk[:blind]] == date
    readable = slice(blind, len(lines))
    if blind == len(lines):
        return DayBounds(inside, start_pin, 0, start_pin, open_start=start_pin is None, open_end=end_pin is None)
    group = lines.group[readable]
    firsts = np.flatnonzero(np.r_[True, group[1:] != group[:-1]])
    prev = lines.prev[readable][firsts]
    earliest = np.minimum.reduceat(lines.event_time_us[readable], firsts)
    final = lines.final[readable][firsts]
    epoch = lines.epoch[readable][firsts]
    midnight = midnight_us(date)
    begin, start, start_epoch = _start(final, epoch, earliest, midnight, start_pin)
    stop = max(begin, _stop(final, epoch, earliest, midnight + DAY_US, end_pin))
    edges = np.r_[firsts, len(group)]
    inside[blind + int(edges[begin]) : blind + int(edges[stop])] = True
    end = start
    if stop > begin:
        end = int(final[stop - 1])
        if start is None:
            start_epoch = int(epoch[begin])
            start = int(prev[begin:stop][epoch[begin:stop] == start_epoch].min())
    return DayBounds(
        inside,
        start,
        start_epoch,
        end,
        open_start=start_pin is None and begin == 0,
        open_end=end_pin is None and stop == len(final),
        gap_behind=_gap_behind(prev, epoch, stop, end),
    )


def _gap_behind(prev: Ints, epoch: Smalls, stop: int, end: int | None) -> bool:
    """Return whether what is known of the days behind does not join the day's end: ids are missing, or the ids restart."""
    if end is None or stop == 0 or stop == len(prev):
        return False
    behind = prev[stop:][epoch[stop:] == epoch[stop - 1]]
    return len(behind) == 0 or int(behind.min()) > end


def _behind(earliest: Ints, midnight: int) -> int:
    """Return the position of the first event, in the order of ids, whose event time is not before midnight."""
    behind = np.flatnonzero(earliest >= midnight)
    return int(behind[0]) if len(behind) else len(earliest)


def _pinned(final: Ints, epoch: Smalls, position: int, pin: int) -> tuple[int, int]:
    """Return the position of the first event behind a pin, and the pin's epoch: that of the nearest id before midnight (`position`)."""
    distance = np.abs(final[:position] - pin)[::-1]
    which = int(epoch[position - 1 - np.argmin(distance)]) if position else 0
    ids = np.where(epoch < which, -1, np.where(epoch > which, 2**62, final))
    return int(np.searchsorted(ids, pin, side="right")), which


def _start(final: Ints, epoch: Smalls, earliest: Ints, midnight: int, pin: int | None) -> tuple[int, int | None, int]:
    """Return the position of the day's first event, the id before it (None at an edge of recording), and that id's epoch."""
    position = _behind(earliest, midnight)
    if pin is not None:
        begin, which = _pinned(final, epoch, position, pin)
        return begin, pin, which
    if position == 0:
        return 0, None, 0
    return position, int(final[position - 1]), int(epoch[position - 1])


def _stop(final: Ints, epoch: Smalls, earliest: Ints, midnight: int, pin: int | None) -> int:
    """Return the position behind the day's last event."""
    position = _behind(earliest, midnight)
    return position if pin is None else _pinned(final, epoch, position, pin)[0]
