"""What the connections of one market have come to since the process began: counts that only grow, whatever becomes of shards and streams."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

__all__ = ["CLOSE_CODES", "HANDOVERS", "RECONNECTS", "SUSPECTS", "Tally", "close_word"]

CLOSE_CODES = (1000, 1001, 1002, 1006, 1008, 1009, 1011, 1012, 1013)
"""Codes of the websocket protocol that are counted by themselves; metrics must not grow with what a server makes up."""
RECONNECTS = ("dial_failed", "no_pong", "tcp_end", *(f"close_{code}" for code in CLOSE_CODES), "close_other")
SUSPECTS = ("silent", "lagging", "mute")
HANDOVERS = ("overlapped", "waited", "deaf", "died")


def close_word(code: int | None) -> str:
    """Return which of `RECONNECTS` an end with this close code is; None is a bare end of TCP.

    >>> close_word(None), close_word(1008), close_word(4999)
    ('tcp_end', 'close_1008', 'close_other')
    """
    if code is None:
        return "tcp_end"
    return f"close_{code}" if code in CLOSE_CODES else "close_other"


@dataclass(slots=True)
class Tally:
    """Counts of one market.

    Attributes:
        frames: Data frames heard on connections that have ended.
        gaps: Holes in update ids that no connection filled.
        suspects: Intervals in which a stream or a connection was suspected, by reason, of `SUSPECTS`.
        reconnects: Connections that ended by themselves or could not be made, by reason, of `RECONNECTS`.
        handovers: How changes of connection ended, of `HANDOVERS`: `died` when the old one ended first.
    """

    frames: int = 0
    gaps: int = 0
    suspects: Counter[str] = field(default_factory=Counter)
    reconnects: Counter[str] = field(default_factory=Counter)
    handovers: Counter[str] = field(default_factory=Counter)
