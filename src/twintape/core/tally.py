"""What the connections of one market have come to since the process began: counts that only grow, whatever becomes of shards and streams."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

__all__ = ["Tally"]


@dataclass(slots=True)
class Tally:
    """Counts of one market.

    Attributes:
        frames: Data frames heard on connections that have ended.
        gaps: Holes in update ids that no connection filled.
        suspects: Intervals in which a stream or a connection was suspected, by reason: `silent`, `lagging`, `mute`.
        reconnects: Connections that ended by themselves or could not be made, by reason (`Session.ended_by`).
        handovers: How changes of connection ended: `overlapped`, `waited`, `deaf`, or `died` when the old one ended first.
    """

    frames: int = 0
    gaps: int = 0
    suspects: Counter[str] = field(default_factory=Counter)
    reconnects: Counter[str] = field(default_factory=Counter)
    handovers: Counter[str] = field(default_factory=Counter)
