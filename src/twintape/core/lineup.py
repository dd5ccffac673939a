"""Depth events of several clients side by side as they come: lined up by id, and told apart at once.

A row is what all clients say between two ids at which all of them stand. A client that is behind is waited for, but not for ever, and not
while it is not connected.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from twintape.core.errors import WireError
from twintape.core.markets import Market
from twintape.core.wire import decode_depth

__all__ = ["HELD_MAX", "Event", "Lineup", "Row", "Verdict", "event_of"]

HELD_MAX = 4096
"""Events of one client that wait for another; then the other is taken to have missed them."""
ALIGNED_MAX = 16
"""If clients stand at no common id though each has said so much, they are cut elsewhere for good: a row is made of what there is."""
_EVENT_TIME = re.compile(rb'"E":\d+')


class Verdict(StrEnum):
    """How the clients of a row differ."""

    SAME = "same"
    EVENT_TIME = "E differs"
    CUT = "cut differently"
    CONTENT = "CONTENT DIFFERS"
    MISSING = "missing"


@dataclass(frozen=True, slots=True)
class Event:
    """A depth event of one client: it covers `(prev, final]`, and `content` is its text without `E`."""

    prev_update_id: int
    first_update_id: int
    final_update_id: int
    event_time_us: int
    content: bytes


@dataclass(frozen=True, slots=True)
class Row:
    """What the clients say between two ids; `cells` has their events in the order of clients, none for one that missed it."""

    prev_update_id: int
    final_update_id: int
    cells: tuple[tuple[Event, ...], ...]
    verdict: Verdict


def event_of(frame: bytes, market: Market) -> Event | None:
    """Return a frame as an event, or None if it is no depth frame."""
    try:
        event = decode_depth(frame, market)
    except WireError:
        return None
    text = _EVENT_TIME.sub(b'"E":', frame, count=1)
    return Event(event.prev_update_id, event.first_update_id, event.final_update_id, event.event_time_us, text)


@dataclass(slots=True)
class Lineup:
    """The clients of one stream.

    Attributes:
        clients: How many.
        counts: Rows so far, by verdict.
        late: Events that came behind their row.
        away: Clients that are not connected: nobody waits for them.
    """

    clients: int
    counts: dict[Verdict, int] = field(default_factory=lambda: dict.fromkeys(Verdict, 0))
    late: int = 0
    away: set[int] = field(default_factory=set)
    _held: list[deque[Event]] = field(init=False)
    _told: int = -1

    def __post_init__(self) -> None:
        self._held = [deque() for _ in range(self.clients)]

    def feed(self, client: int, event: Event) -> list[Row]:
        """Take the next event of a client and return the rows that are whole now, in the order of ids."""
        if event.final_update_id <= self._told:
            self.late += 1
            return []
        held = self._held[client]
        if held and held[-1].final_update_id >= event.final_update_id:
            self.late += 1
            return []
        held.append(event)
        return self._whole()

    def leave(self, client: int) -> list[Row]:
        """Wait for a client no longer; return the rows that are whole without it."""
        self.away.add(client)
        return self._whole()

    def join(self, client: int) -> None:
        """Wait for a client again."""
        self.away.discard(client)

    def _whole(self) -> list[Row]:
        rows = []
        while (row := self._next()) is not None:
            rows.append(row)
        return rows

    def flush(self) -> list[Row]:
        """Return what is still held, as far as it makes rows."""
        rows = []
        while any(self._held):
            count = self._common(ended=True)
            rows.append(self._row(count if count is not None else [len(held) for held in self._held]))
        return rows

    def _next(self) -> Row | None:
        full = max(len(held) for held in self._held) >= HELD_MAX
        waited_for = any(not held and client not in self.away for client, held in enumerate(self._held))
        if not any(self._held) or (waited_for and not full):
            return None
        count = self._common(ended=full and not all(self._held))
        if count is None:
            held_by_all = min((len(held) for client, held in enumerate(self._held) if client not in self.away), default=0)
            if not full and held_by_all < ALIGNED_MAX:
                return None
            last = min(held[-1].final_update_id for held in self._held if held)
            count = [sum(event.final_update_id <= last for event in held) for held in self._held]
        return self._row(count)

    def _common(self, *, ended: bool) -> list[int] | None:
        """Return how many events of each client reach the least id at which all stand; None if that is not known yet.

        Args:
            ended: Whether clients that have nothing held have missed what the others have.
        """
        target = min(held[0].final_update_id for held in self._held if held)
        while True:
            counts = []
            reached = target
            for client, held in enumerate(self._held):
                count = 0
                while count < len(held) and held[count].prev_update_id < target:
                    reached = max(reached, held[count].final_update_id)
                    count += 1
                    if held[count - 1].final_update_id >= target:
                        break
                else:
                    # Nothing of this client ends the row: it has a hole there, or has not said it yet.
                    if count == len(held) and not (client in self.away or (ended and count == 0)):
                        return None
                counts.append(count)
            if reached == target:
                return counts
            target = reached

    def _row(self, counts: Sequence[int]) -> Row:
        cells = tuple(tuple(held.popleft() for _ in range(count)) for held, count in zip(self._held, counts, strict=True))
        said = [event for cell in cells for event in cell]
        row = Row(min(event.prev_update_id for event in said), max(event.final_update_id for event in said), cells, _judge(cells))
        self._told = row.final_update_id
        self.counts[row.verdict] += 1
        return row


def _judge(cells: Sequence[Sequence[Event]]) -> Verdict:
    if not all(cells):
        return Verdict.MISSING
    if any(len(cell) > 1 for cell in cells):
        return Verdict.CUT
    heads = [cell[0] for cell in cells]
    if len({(event.prev_update_id, event.final_update_id) for event in heads}) > 1:
        return Verdict.CUT
    if len({event.content for event in heads}) > 1:
        return Verdict.CONTENT
    return Verdict.SAME if len({event.event_time_us for event in heads}) == 1 else Verdict.EVENT_TIME
