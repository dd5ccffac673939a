"""Lines that are cut differently, compared with the chain over every window between common boundaries.

Source: docs/format.md, section 7 (evidence, V4).
"""

from __future__ import annotations

from decimal import Decimal

from twintape.independent.books import UNIT
from twintape.independent.frames import depth_ids, payload_of
from twintape.independent.objects import Row

__all__ = ["WindowCheck"]

Words = dict[tuple[str, int], int]


class WindowCheck:
    """Counts windows that are equal, omit levels, or conflict.

    Args:
        variants: Rows of the verbatim table whose reason is `variant`.
        market: Decides what a frame covers.
        chain: `(prev, final]` of every depth row, in order; ids must not repeat.
    """

    def __init__(self, variants: list[Row], market: str, chain: list[tuple[int, int]]) -> None:
        self.equal = self.omitted = self.conflicting = 0
        begins = {prev: place for place, (prev, _) in enumerate(chain)}
        ends = {final: place for place, (_, final) in enumerate(chain)}
        self._theirs: list[Words] = []
        self._opens: dict[int, list[int]] = {}
        self._last: dict[int, int] = {}
        self._open: dict[int, Words] = {}
        for frames in self._of_lines(variants, market).values():
            group: list[tuple[int, int, bytes]] = []
            for prev, final, frame in [*frames, (-1, -1, b"")]:
                if group and (prev in begins or prev != group[-1][1]):
                    first, last = begins.get(group[0][0]), ends.get(group[-1][1])
                    if first is not None and last is not None:
                        number = len(self._theirs)
                        self._theirs.append(_last_words([part for _, _, part in group]))
                        self._opens.setdefault(first, []).append(number)
                        self._last[number] = last
                    group = []
                group.append((prev, final, frame))

    def _of_lines(self, variants: list[Row], market: str) -> dict[str, list[tuple[int, int, bytes]]]:
        found: dict[str, dict[tuple[int, int], bytes]] = {}
        ordered = sorted(variants, key=lambda row: (row["receive_time"], row["connection"]))
        for row in ordered:
            ids = depth_ids(row["frame"], market)
            if ids is not None:
                found.setdefault(row["collector"], {}).setdefault(ids, row["frame"])
        return {
            name: [
                (prev, final, frame) for (prev, final), frame in sorted(frames.items(), key=lambda item: (item[0][1], item[0][0]))
            ]
            for name, frames in found.items()
        }

    def feed(self, place: int, row: Row) -> None:
        """Take the depth row at a position of the chain; all of them, in order."""
        for number in self._opens.get(place, ()):
            self._open[number] = {}
        for number in list(self._open):
            words = self._open[number]
            for side in ("bid", "ask"):
                price, quantity = (10 ** (UNIT + row[f"{name}_exponent"]) for name in ("price", "quantity"))
                for p, q in zip(row[f"{side}_price"], row[f"{side}_quantity"], strict=True):
                    words[side, p * price] = q * quantity
            if place == self._last[number]:
                self._judge(self._open.pop(number), self._theirs[number])

    def _judge(self, ours: Words, theirs: Words) -> None:
        if any(theirs.get(key, quantity) != quantity for key, quantity in ours.items()):
            self.conflicting += 1
        elif ours.keys() != theirs.keys():
            self.omitted += 1
        else:
            self.equal += 1


def _last_words(frames: list[bytes]) -> Words:
    words: Words = {}
    for frame in frames:
        found = payload_of(frame) or {}
        for side, key in (("bid", "b"), ("ask", "a")):
            for level in found[key]:
                words[side, int(Decimal(level[0]).scaleb(UNIT))] = int(Decimal(level[1]).scaleb(UNIT))
    return words
