"""The scratch disk of a merge: raw objects packed one behind the other, and beside them the headers of their frames.

A day has thousands of small objects. Packed into one file they cost no directory entry, no sync and no open file each.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from twintape.columns.schema import Template
from twintape.columns.survey import survey
from twintape.columns.templates import TemplateSet
from twintape.core import segment
from twintape.core.markets import Market
from twintape.io.ports import Disk, DiskFile

__all__ = ["Pack", "Place", "Reader", "SurveyTask", "Surveyed", "survey_object"]

STREAMS_KNOWN_MAX = 20_000
"""Streams whose shapes of frames a process remembers; with more it begins anew."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where something is on the scratch disk."""

    path: str
    offset: int
    size: int


class Pack:
    """A file that things are put into one behind the other, and that is forgotten as a whole.

    Args:
        disk: The scratch disk.
        path: The file; it must not exist.
    """

    def __init__(self, disk: Disk, path: str) -> None:
        self._disk = disk
        self._path = path
        self._file: DiskFile | None = None
        self._size = 0

    def add(self, data: bytes) -> Place:
        """Put `data` at the end."""
        if self._file is None:
            self._file = self._disk.append(self._path)
        place = Place(self._path, self._size, len(data))
        self._size = self._file.write(data)
        return place

    def remove(self) -> None:
        """Forget everything that is in it; it can be used again."""
        if self._file is not None:
            self._file.close()
            self._disk.remove(self._path)
            self._file, self._size = None, 0


class Reader:
    """Reads places of the scratch disk; keeps files open.

    Args:
        scratch: The disk, or its directory for workers in other processes.
    """

    def __init__(self, scratch: Disk | str) -> None:
        self._scratch = scratch
        self._open: dict[str, int] = {}

    def read(self, path: str, offset: int = 0, size: int | None = None) -> bytes:
        """Return `size` bytes of a file from `offset`, to its end if `size` is None.

        Raises:
            FileNotFoundError: There is no such file.
        """
        if not isinstance(self._scratch, str):
            return self._scratch.read(path, offset, size)
        file = self._open.get(path)
        if file is None:
            file = self._open[path] = os.open(os.path.join(self._scratch, path), os.O_RDONLY | os.O_CLOEXEC)
        return os.pread(file, os.fstat(file).st_size - offset if size is None else size, offset)

    def __del__(self) -> None:
        """Close the files."""
        for file in self._open.values():
            os.close(file)


@dataclass(frozen=True, slots=True)
class SurveyTask:
    """A raw object on the scratch disk that is to be read through; picklable. `connection` is as the archive names it."""

    scratch: Disk | str
    place: Place
    market: Market
    connection: str


@dataclass(frozen=True, slots=True)
class Surveyed:
    """What a raw object was found to hold.

    Attributes:
        index: Its index, which is true.
        rows: The headers (`parse.HEADER`) of its depth frames, stream by stream and block by block as the index has them.
        templates: By depth stream, what the headers' codes mean.
    """

    index: segment.Index
    rows: bytes
    templates: dict[str, tuple[Template, ...]]


def survey_object(task: SurveyTask) -> Surveyed:
    """Read every byte of a raw object and check every statement of its index; see `columns.survey`.

    Raises:
        CorruptionError: It is damaged.
    """
    data = Reader(task.scratch).read(task.place.path, task.place.offset, task.place.size)
    known = _known.setdefault(task.market, {})
    if len(known) > STREAMS_KNOWN_MAX:
        known.clear()
    found = survey(data, task.connection, known)
    rows = b"".join(headers.rows.tobytes() for blocks in found.headers.values() for headers in blocks)
    return Surveyed(found.index, rows, {name: tuple(blocks[-1].templates) for name, blocks in found.headers.items()})


_known: dict[Market, dict[str, TemplateSet]] = {}
"""Shapes of frames this process has seen, by stream name: they make the next object faster and no result another one."""
