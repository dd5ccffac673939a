"""The one pass over the bytes of a raw segment: that everything its index says is true, and the headers of all its depth frames.

What is checked is what `segment.verify_segment` checks, line by line but at the speed of decompression; that one, slow and plain, decides wherever a
segment is out of the ordinary: one that crosses midnight, or is not in order of time, or seems to be wrong.
"""

from __future__ import annotations

from collections.abc import MutableMapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from twintape.columns.blocks import read_block
from twintape.columns.kept import NO_MEMORY, Memory
from twintape.columns.kernel import Bytes, Int64s, hash_seed, kernel
from twintape.columns.match import receive_time
from twintape.columns.parse import HEADER_WORDS, Headers, scan
from twintape.columns.schema import Template
from twintape.columns.templates import TEMPLATES_MAX, TemplateSet
from twintape.core import segment, wire
from twintape.core.markets import Market

__all__ = ["TEMPLATES_SHARED_MAX", "Survey", "survey"]

TEMPLATES_SHARED_MAX = 16
"""Shapes of frames of a stream that are kept from one segment to the next; a stream of more shapes is looked at anew each time."""

_date_of = lru_cache(maxsize=64)(segment.date_of)
_DAY_US = 86_400_000_000
_HOUR_US = 3_600_000_000
_NONE = -1


@dataclass(frozen=True, slots=True)
class Survey:
    """What a segment was found to hold.

    Attributes:
        index: Its index, every statement of which is true.
        headers: By name of depth stream: the headers of its blocks, in their order.
        control: The blocks of control lines and their texts, in their order: they are short, and asked for again and again.
    """

    index: segment.Index
    headers: dict[str, list[Headers]]
    control: list[tuple[segment.Block, bytes]]


def survey(
    data: bytes,
    connection: str,
    known: MutableMapping[str, TemplateSet],
    index: segment.Index | None = None,
    memory: Memory = NO_MEMORY,
) -> Survey:
    """Read a whole sealed segment.

    Args:
        data: The object.
        connection: How the archive names its connection; the collector is the index's.
        known: By stream name, shapes of frames seen in segments before; changed. What is in it makes no difference to the result but which template has
            which code.
        index: Its index, if that has been read from these bytes before.
        memory: What was seen in segments before; changed. It makes no difference to the result but for where levels are kept, which it does itself.

    Raises:
        CorruptionError: It is damaged, or its index says what is not true.
    """
    if index is None:
        found_index = segment.read_index(data, len(data))
        assert isinstance(found_index, segment.Index), "the object is whole"
        index = found_index
    headers: dict[str, list[Headers]] = {}
    control: list[tuple[segment.Block, bytes]] = []
    facts = _Facts(index)
    for stream in index.streams:
        if not wire.is_depth(stream.stream):
            for block in stream.blocks:
                text = read_block(_cut(data, block), block)
                facts.add_text(text, stream.name, block)
                if stream.name == wire.TWINTAPE:
                    control.append((block, text))
            continue
        templates = known.setdefault(stream.name, TemplateSet())
        before = len(templates)
        found = headers[stream.name] = _scan(data, index, stream, connection, templates, facts, memory)
        if len(templates) > TEMPLATES_SHARED_MAX:
            del known[stream.name]
            if before and len(templates) == TEMPLATES_MAX:
                # A full set leaves lines without a template: which ones must not depend on the segments before.
                found[:] = _scan(data, index, stream, connection, TemplateSet(), facts, memory)
    if not facts.ordinary():
        index = segment.verify_segment(data)
    return Survey(index, headers, control)


def _cut(data: bytes, block: segment.Block) -> memoryview:
    # Not a copy: a day has a gigabyte of blocks.
    return memoryview(data)[block.offset : block.offset + block.size]


def _scan(
    data: bytes,
    index: segment.Index,
    stream: segment.StreamIndex,
    connection: str,
    templates: TemplateSet,
    facts: _Facts,
    memory: Memory,
) -> list[Headers]:
    seed = hash_seed(index.collector, connection)
    found = []
    for block in stream.blocks:
        text = read_block(_cut(data, block), block)
        found.append(scan(text, index.market, templates, seed=seed, count=block.count, memory=memory))
        facts.add_depth(text, found[-1], block)
    return found


class _Facts:
    """Collects what the lines of a segment say and compares it with the index; `odd` as soon as they differ or one cannot tell."""

    def __init__(self, index: segment.Index) -> None:
        self._index = index
        self._odd = index.order is not None
        self._least_us: int | None = None
        self._greatest_us: int | None = None
        self._opened_us: int | None = None
        self._first_ns, self._last_ns = 2**63 - 1, -1
        self._before: dict[str, int] = {}

    def add_depth(self, text: bytes, headers: Headers, block: segment.Block) -> None:
        """Take in a block of depth frames."""
        rows = headers.rows
        used, found = np.zeros(len(headers.templates), np.bool_), np.empty(_FACTS, np.int64)
        _sum_up(rows.view(np.int64).reshape(-1, HEADER_WORDS), used, found)
        if found[_STRANGE]:
            rows = self._understood(text, rows)
            _sum_up(rows.view(np.int64).reshape(-1, HEADER_WORDS), used, found)
        _, breaks, backwards, least_us, greatest_us = found.tolist()
        self._odd |= not all(
            _is_plain(headers.templates[code], self._index.market) for code, is_used in enumerate(used.tolist()) if is_used
        )
        said = (block.first_prev_update_id, block.last_final_update_id, block.breaks)
        self._odd |= (int(rows["prev"][0]), int(rows["final"][-1]), breaks) != said or backwards > 0
        times_ns = int(rows["receive_time_ns"][0]), int(rows["receive_time_ns"][-1])
        self._add(block, times_ns, (least_us, greatest_us))

    def _understood(self, text: bytes, rows: NDArray[np.void]) -> NDArray[np.void]:
        """Return the rows with times and ids where no template has found them, as the slow reader finds them."""
        rows = rows.copy()
        for row in np.flatnonzero(rows["template"] < 0).tolist():
            start = int(rows["offset"][row])
            frame = text[start : start + int(rows["length"][row])].partition(b" ")[2]
            time, ids = wire.event_time_us(frame), wire.depth_ids(frame, self._index.market)
            # A `p` of -1 is rare enough to be left to the slow reader; so is a frame without ids in a depth stream.
            self._odd |= not wire.recordable(frame) or time is None or ids is None or ids[0] < 0
            if time is not None and ids is not None:
                rows["event_time_us"][row], (rows["prev"][row], rows["final"][row]) = time, ids
        return rows

    def add_text(self, text: bytes, name: str, block: segment.Block) -> None:
        """Take in a block of any other frames."""
        found = np.empty(_TEXT_FACTS, np.int64)
        self._odd |= not _recordable(text) or _skim(np.frombuffer(text, np.uint8), found) != block.count
        self._odd |= (block.first_prev_update_id, block.last_final_update_id, block.breaks) != (None, None, 0)
        if self._odd:
            return
        first_ns, last_ns, backwards, least_us, greatest_us = found.tolist()
        if name == wire.TWINTAPE:
            self._add_opened(text, first_ns)
        self._odd |= backwards > 0
        self._add(block, (first_ns, last_ns), (None, None) if greatest_us == _NONE else (least_us, greatest_us))

    def _add_opened(self, text: bytes, first_ns: int) -> None:
        # Nothing but the segment's first line is believed to have opened it: what is odd about that, the slow reader decides.
        line = text[: text.index(b"\n")].partition(b" ")[2]
        control = wire.parse_control(line)
        if control is not None and control[0] == "open":
            time = control[1].get("event_time_us")
            self._odd |= first_ns != self._index.first_receive_time_ns or not (time is None or isinstance(time, int))
            self._opened_us = time if isinstance(time, int) else None

    def _add(self, block: segment.Block, times_ns: tuple[int, int], event_times_us: tuple[int, int] | tuple[None, None]) -> None:
        # Times of receipt of the first and the last line; least and greatest event time, if there is one.
        least_us, greatest_us = event_times_us
        self._odd |= (block.first_receive_time_ns, block.last_receive_time_ns) != times_ns
        self._odd |= (block.event_time_us_min, block.event_time_us_max) != event_times_us
        self._first_ns, self._last_ns = min(self._first_ns, times_ns[0]), max(self._last_ns, times_ns[1])
        if least_us is not None and greatest_us is not None:
            self._least_us = least_us if self._least_us is None else min(self._least_us, least_us)
            self._greatest_us = greatest_us if self._greatest_us is None else max(self._greatest_us, greatest_us)

    def ordinary(self) -> bool:
        """Return whether everything that the index says was found, in a segment so plain that the slow reader would find it too.

        In it all event times are of one date, so that none is doubtful and every line is filed under that date.
        """
        index, least_us, greatest_us = self._index, self._least_us, self._greatest_us
        if self._odd or least_us is None or greatest_us is None:
            return False
        if self._opened_us is not None:
            if not least_us - _DAY_US < self._opened_us <= greatest_us:
                return False
            least_us = min(least_us, self._opened_us)
        day = greatest_us // _DAY_US
        date = _date_of(day)
        return (
            least_us // _DAY_US == day
            and all(_in_order(stream) and all(block.date == date for block in stream.blocks) for stream in index.streams)
            and (index.date, index.hour) == (date, greatest_us // _HOUR_US % 24)
            and (index.first_receive_time_ns, index.last_receive_time_ns) == (self._first_ns, self._last_ns)
        )


def _in_order(stream: segment.StreamIndex) -> bool:
    return all(before.last_receive_time_ns <= after.first_receive_time_ns for before, after in pairwise(stream.blocks))


_STRANGE, _FACTS = 0, 5


@kernel
def _sum_up(rows: Int64s, used: NDArray[np.bool_], found: Int64s) -> None:
    # Of headers (`parse.HEADER`, as words): which templates they use; how many have none; how often an event does not begin where the one before ended;
    # how often a line was heard before the one before it; least and greatest event time.
    strange = breaks = backwards = 0
    least_us = greatest_us = rows[0, 1]
    for row in range(rows.shape[0]):
        code = (rows[row, 11] << 16) >> 48
        if code < 0:
            strange += 1
        else:
            used[code] = True
        if row > 0:
            breaks += rows[row, 3] != rows[row - 1, 5]
            backwards += rows[row, 0] < rows[row - 1, 0]
        least_us, greatest_us = min(least_us, rows[row, 1]), max(greatest_us, rows[row, 1])
    found[0], found[1], found[2], found[3], found[4] = strange, breaks, backwards, least_us, greatest_us


@lru_cache(maxsize=4096)
def _is_plain(template: Template, market: Market) -> bool:
    """Whether frames of the template can stand in a segment, and `wire.depth_ids` finds the ids where the template has them."""
    parts = template.parts
    behind = parts[parts.index("U") + 1 :]
    ids = (',"u":', "u") if market is Market.SPOT else (',"u":', "u", ',"pu":', "pu")
    return behind[: len(ids)] == ids and wire.recordable("".join(parts).encode())


def _recordable(text: bytes) -> bool:
    """Whether each line would be `wire.recordable`; empty frames aside."""
    if b"\r" in text or b"\x00" in text:
        return False
    if text.isascii():
        return True
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


_TEXT_FACTS = 5


@kernel
def _skim(text: Bytes, found: Int64s) -> int:
    # Reads receive time and `E` of every line, as `wire.event_time_us` finds it; returns how many lines there are, or -1 if one is none. `found`: receive time
    # of the first line and of the last, how often a line was heard before the one before it, least and greatest event time (-1 if no line has one).
    size = text.size
    row = position = backwards = 0
    first: Any = np.int64(0)
    last: Any = first
    least: Any = np.int64(_NONE)
    greatest: Any = least
    while position < size:
        time, start = receive_time(text, position)
        if start < 0 or start >= size or text[start] == 10:
            return -1
        if row == 0:
            first = time
        elif time < last:
            backwards += 1
        last = time
        at = start
        while text[at] != 10:
            # The text ends with a newline: a key that begins before it is looked at whole or ends with it.
            if text[at] == 34 and text[at + 1] == 69 and text[at + 2] == 34 and text[at + 3] == 58:
                place = at + 4
                byte = text[place]
                if byte == 32 or byte == 9 or byte == 11 or byte == 12:
                    place += 1
                value = np.int64(0)
                count = 0
                while count <= 16 and 48 <= text[place + count] <= 57:
                    value = value * 10 + (np.int64(text[place + count]) - 48)
                    count += 1
                if count == 13 or count == 16:
                    event_time_us = value * 1000 if count == 13 else value
                    least = event_time_us if greatest == _NONE else min(least, event_time_us)
                    greatest = max(greatest, event_time_us)
                    break
            at += 1
        while text[at] != 10:
            at += 1
        position = at + 1
        row += 1
    found[0], found[1], found[2], found[3], found[4] = first, last, backwards, least, greatest
    return row
