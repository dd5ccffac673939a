"""The scratch disk of a merge: raw objects packed one behind the other, and beside them the headers of their frames.

A day has thousands of small objects. Packed into one file they cost no directory entry, no sync and no open file each.
"""

from __future__ import annotations

import itertools
import mmap
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from twintape.columns.kept import Memory
from twintape.columns.schema import Template
from twintape.columns.survey import survey
from twintape.columns.templates import TemplateSet
from twintape.core import segment
from twintape.core.errors import NotFoundError
from twintape.core.manifest import ClockStatistics
from twintape.core.markets import Market
from twintape.core.wire import parse_control
from twintape.io.clocks import clock_of, joined
from twintape.io.outages import Note, notes_of
from twintape.io.ports import Disk, DiskFile

__all__ = ["HeaderRef", "Pack", "Place", "Reader", "SurveyTask", "Surveyed", "survey_object"]

STREAMS_KNOWN_MAX = 20_000
"""Streams whose shapes of frames a process remembers; with more it begins anew."""
MEMORIES_MAX = 4
"""Shares whose bodies a process remembers (4 MiB each); of more those it has read of last."""

FILES_OPEN_MAX = 64
"""Files a reader keeps open."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where something is on the scratch disk; or, with an absolute path, in a store that is a directory of this machine."""

    path: str
    offset: int
    size: int


HeaderRef = tuple[Place, TemplateSet, str]
"""Where the headers of a depth stream's frames are, what their templates are, and the file of the levels that were kept of them."""


class Pack:
    """A file that things are put into one behind the other, and that is forgotten as a whole.

    `path` is where it is, `number` its own in this process.

    Args:
        disk: The scratch disk.
        path: The file; it must not exist.
    """

    _numbers = itertools.count()

    def __init__(self, disk: Disk, path: str) -> None:
        self.number = next(self._numbers)
        self._disk = disk
        self.path = path
        self._file: DiskFile | None = None
        self._size = 0

    def add(self, data: bytes) -> Place:
        """Put `data` at the end."""
        if self._file is None:
            self._file = self._disk.append(self.path)
        place = Place(self.path, self._size, len(data))
        self._size = self._file.write(data)
        return place

    def remove(self) -> None:
        """Forget everything that is in it; it can be used again."""
        if self._file is not None:
            self._file.close()
            self._disk.remove(self.path)
            self._file, self._size = None, 0


class Reader:
    """Reads places; keeps files open.

    Args:
        scratch: The disk, or its directory for workers in other processes.
    """

    def __init__(self, scratch: Disk | str) -> None:
        self._scratch = scratch
        self._files: dict[str, int] = {}

    def read(self, path: str, offset: int = 0, size: int | None = None) -> bytes:
        """Return `size` bytes of a file from `offset`, to its end if `size` is None.

        Raises:
            FileNotFoundError: There is no such file.
            NotFoundError: There is no such object in the store any more.
        """
        if isinstance(self._scratch, str):
            path = os.path.join(self._scratch, path)
        elif not os.path.isabs(path):
            return self._scratch.read(path, offset, size)
        file = self._files.pop(path, None)
        if file is None:
            file = self._open(path)
        self._files[path] = file  # the one used last stands last
        return os.pread(file, os.fstat(file).st_size - offset if size is None else size, offset)

    def map(self, path: str, offset: int, size: int) -> memoryview:
        """Return `size` bytes of a file of the scratch disk, that may be changed: the file is not. Where it can be, the file's own pages in memory.

        Raises:
            FileNotFoundError: There is no such file.
        """
        if not isinstance(self._scratch, str) or size == 0:
            return memoryview(bytearray(self.read(path, offset, size)))
        begin = offset - offset % mmap.ALLOCATIONGRANULARITY
        with open(os.path.join(self._scratch, path), "rb") as file:
            pages = mmap.mmap(file.fileno(), offset + size - begin, access=mmap.ACCESS_COPY, offset=begin)
        return memoryview(pages)[offset - begin :]

    def _open(self, path: str) -> int:
        if len(self._files) == FILES_OPEN_MAX:
            os.close(self._files.pop(next(iter(self._files))))
        try:
            return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError as error:
            if isinstance(self._scratch, str) and path.startswith(self._scratch):
                raise
            raise NotFoundError(f"{path}: there is no object") from error

    def __del__(self) -> None:
        """Close the files."""
        for file in self._files.values():
            os.close(file)


@dataclass(frozen=True, slots=True)
class SurveyTask:
    """A raw object that is to be read through; picklable.

    Attributes:
        scratch: The scratch disk.
        place: Where on it the object is.
        index: What it says it holds, as read from these bytes.
        connection: As the archive names it.
        share: A number for what is surveyed together: what was seen of one is not looked for in another.
        data: The object itself, for who shares memory with the caller.
    """

    scratch: Disk | str
    place: Place
    index: segment.Index
    connection: str
    share: int = 0
    data: bytes | None = None


@dataclass(frozen=True, slots=True)
class Surveyed:
    """What a raw object was found to hold.

    Attributes:
        rows: The headers (`parse.HEADER`) of its depth frames, stream by stream and block by block as the index has them.
        levels: What was kept of levels first seen, to be put behind what was kept before it under the same name.
        before: How many words that was.
        kept: The name: headers say where their levels are among all that is kept under it.
        templates: By depth stream, what the headers' codes mean.
        clocks: By date, what its clock lines say.
        notes: What the collector noted about the connection.
        control: By offset of the block in the object, the texts of its control lines.
    """

    rows: bytes
    levels: bytes
    before: int
    kept: str
    templates: dict[str, tuple[Template, ...]]
    clocks: dict[str, ClockStatistics | None]
    notes: list[Note]
    control: dict[int, bytes]


def survey_object(task: SurveyTask) -> Surveyed:
    """Read every byte of a raw object and check every statement of its index; see `columns.survey`.

    Raises:
        CorruptionError: It is damaged.
    """
    data = task.data
    if data is None:
        data = Reader(task.scratch).read(task.place.path, task.place.offset, task.place.size)
    known = _known.setdefault(task.index.market, {})
    if len(known) > STREAMS_KNOWN_MAX:
        known.clear()
    name, memory = _memory_of(task.share)
    found = survey(data, task.connection, known, task.index, memory)
    rows = b"".join(headers.rows.tobytes() for blocks in found.headers.values() for headers in blocks)
    templates = {name: tuple(blocks[-1].templates) for name, blocks in found.headers.items()}
    control = [(block.date, list(_control(text))) for block, text in found.control]
    clocks: dict[str, ClockStatistics | None] = {}
    for date, said in control:
        clocks[date] = joined(clocks.get(date), clock_of((kind, fields) for _, kind, fields in said))
    notes = notes_of((line for _, said in control for line in said), task.index.connection)
    before, levels = memory.take()
    return Surveyed(rows, levels, before, name, templates, clocks, notes, {block.offset: text for block, text in found.control})


def _control(text: bytes) -> Iterator[tuple[int, str, dict[str, Any]]]:
    """Yield receive time, kind and fields of the control lines of a text."""
    for time_ns, frame in segment.parse_text(text):
        said = parse_control(frame)
        if said is not None:
            yield time_ns, *said


def _memory_of(share: int) -> tuple[str, Memory]:
    """Return what this process has seen of a share, and a name for it that no other process, and nothing forgotten, has or had."""
    memory = _memories.pop(share, None)
    if memory is None:
        memory = f"{os.getpid()}-{next(_numbers)}", Memory()
        if len(_memories) == MEMORIES_MAX:
            del _memories[next(iter(_memories))]
    _memories[share] = memory  # the one used last stands last
    return memory


_numbers = itertools.count()
_memories: dict[int, tuple[str, Memory]] = {}
"""What this process knows of depth frames it has seen: it makes the copies of other collectors faster and no result another one."""
_known: dict[Market, dict[str, TemplateSet]] = {}
"""Shapes of frames this process has seen, by stream name: they make the next object faster and no result another one."""
