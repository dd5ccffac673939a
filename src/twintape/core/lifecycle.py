"""The life of one websocket connection as a table; a pair that is not in it is an error of the caller.

DIALING --opened--> OPEN --stop--> CLOSING --closed--> ENDED
   |                  `--closed--------------------------^
   |--failed---------------------------------------------^
   `--stop--> CLOSING --opened--> CLOSING (the socket is closed at once)
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

__all__ = ["TRANSITIONS", "Event", "State"]


class State(StrEnum):
    """Where a connection is in its life."""

    DIALING = "dialing"
    OPEN = "open"
    CLOSING = "closing"
    ENDED = "ended"


class Event(StrEnum):
    """What moves a connection on."""

    OPENED = "opened"
    FAILED = "failed"
    STOP = "stop"
    CLOSED = "closed"


TRANSITIONS: Mapping[tuple[State, Event], State] = {
    (State.DIALING, Event.OPENED): State.OPEN,
    (State.DIALING, Event.FAILED): State.ENDED,
    (State.DIALING, Event.STOP): State.CLOSING,
    (State.OPEN, Event.STOP): State.CLOSING,
    (State.OPEN, Event.CLOSED): State.ENDED,
    (State.CLOSING, Event.OPENED): State.CLOSING,
    (State.CLOSING, Event.FAILED): State.ENDED,
    (State.CLOSING, Event.STOP): State.CLOSING,
    (State.CLOSING, Event.CLOSED): State.ENDED,
    (State.ENDED, Event.STOP): State.ENDED,
}
"""Every possible step; all other pairs cannot happen."""
