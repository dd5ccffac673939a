"""The levels of chosen frames: what was kept of them at first sight, or what their texts say."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from twintape.columns.kept import TEXT_BYTES_PER_WORD_MIN
from twintape.columns.lines import Chunk, ChunkTexts, Lines
from twintape.columns.parse import LevelDecoder, Levels
from twintape.core.errors import WireError

__all__ = ["ChosenLevels", "MisfitError"]

Ints = NDArray[np.int64]
Smalls = NDArray[np.int32]
Codes = NDArray[np.int16]

KEPT_WORDS_MAX = 2 << 20
"""So many words of kept levels (16 MiB) are in memory at a time, and the last event's."""


class MisfitError(Exception):
    """Chosen frames whose numbers do not fit into 64 bits with the day's exponents, by `(chunk, offset)`."""

    def __init__(self, places: frozenset[tuple[int, int]]) -> None:
        super().__init__(f"{len(places)} frames do not fit")
        self.places = places


class ChosenLevels:
    """Reads the levels of chosen frames, some of them at a time.

    Args:
        lines: All frames.
        chunks: Where they are.
        texts: The texts of the chunks.
        decoder: Its templates are what the codes mean; its arrays are what is returned.
    """

    def __init__(self, lines: Lines, chunks: Sequence[Chunk], texts: ChunkTexts, decoder: LevelDecoder) -> None:
        self._lines = lines
        self._texts = texts
        self._decoder = decoder
        self._kept = list({chunk.kept: None for chunk in chunks if chunk.kept is not None})
        number = {kept: place for place, kept in enumerate(self._kept)}
        self._whole = np.array([-1 if chunk.kept is None else number[chunk.kept] for chunk in chunks], np.int32)

    def read(self, rows: Ints, template: Codes) -> Levels:
        """Return the levels of some rows of the lines: views that the next call makes worthless.

        Args:
            rows: Which rows.
            template: Their codes.

        Raises:
            MisfitError: Some of their numbers do not fit into 64 bits with the day's exponents.
        """
        lines = self._lines
        chunk, length = lines.chunk[rows], lines.length[rows]
        whole = np.where((lines.place[rows] < 0) | (template < 0), np.int32(-1), self._whole[chunk])
        # Of kept levels it is all the same whose text they were read from.
        source = np.where(whole < 0, chunk + np.int32(len(self._kept)), whole)
        edges = [0, *(np.flatnonzero(np.diff(source)) + 1).tolist(), len(rows)]
        self._decoder.begin(len(rows), int(length.sum(dtype=np.int64)))
        try:
            for begin, end in pairwise(edges):
                part = slice(begin, end)
                if begin < end and whole[begin] >= 0:
                    self._add_kept(int(whole[begin]), lines.place[rows[part]].astype(np.int64), length[part])
                elif begin < end:
                    self._decoder.add(self._texts[int(chunk[begin])], lines.offset[rows[part]], length[part], template[part])
        except WireError:
            raise MisfitError(self._misfits(rows, template)) from None
        return self._decoder.levels()

    def _add_kept(self, whole: int, places: Ints, lengths: Smalls) -> None:
        """Take kept levels, as many at a time as lie near each other."""
        begin = 0
        while begin < len(places):
            rest = places[begin:]
            spread = np.maximum.accumulate(rest) - np.minimum.accumulate(rest)
            end = begin + max(1, int(np.searchsorted(spread, KEPT_WORDS_MAX, "right")))
            near = places[begin:end]
            first = int(near.min())
            # The last one's record ends where the next begins, wherever that is: it cannot be longer than its line allows.
            count = int(near.max()) - first + int(lengths[begin:end].max()) // TEXT_BYTES_PER_WORD_MIN + 1
            self._decoder.add_kept(self._kept[whole](first, count), near - first)
            begin = end

    def _misfits(self, rows: Ints, template: Codes) -> frozenset[tuple[int, int]]:
        """Return the places of all copies of the frames that do not fit."""
        lines = self._lines
        places: set[tuple[int, int]] = set()
        for at, row in enumerate(rows.tolist()):
            self._decoder.begin(1, int(lines.length[row]))
            part = slice(row, row + 1)
            text = self._texts[int(lines.chunk[row])]
            try:
                self._decoder.add(text, lines.offset[part], lines.length[part], template[at : at + 1])
            except WireError:
                copies = np.flatnonzero((lines.hash_a == lines.hash_a[row]) & (lines.hash_b == lines.hash_b[row]))
                places |= set(zip(lines.chunk[copies].tolist(), lines.offset[copies].tolist(), strict=True))
        return frozenset(places)
