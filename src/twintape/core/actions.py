"""What a connection wants done: the words between `core.session`, which decides, and the runner, which has hands."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = [
    "AbortSocket",
    "Action",
    "CloseSocket",
    "CutSegment",
    "Ended",
    "FetchSnapshot",
    "Notice",
    "Ping",
    "Pong",
    "Replace",
    "Send",
]


@dataclass(frozen=True, slots=True)
class Send:
    """Send one text frame."""

    text: bytes


@dataclass(frozen=True, slots=True)
class Ping:
    """Send a ping."""

    payload: bytes


@dataclass(frozen=True, slots=True)
class Pong:
    """Send a pong that echoes `payload`."""

    payload: bytes


@dataclass(frozen=True, slots=True)
class CloseSocket:
    """Start the closing handshake."""

    reason: str


@dataclass(frozen=True, slots=True)
class AbortSocket:
    """Cut the connection at once."""

    reason: str


@dataclass(frozen=True, slots=True)
class FetchSnapshot:
    """Fetch a REST snapshot and record it on this connection.

    Attributes:
        symbol: As REST spells it.
        reason: `first`, `quiet`, `gap`, `reconnect` or `epoch`.
        update_id: The snapshot is of use only if its `lastUpdateId` is at least this; None: any.
    """

    symbol: str
    reason: str
    update_id: int | None


@dataclass(frozen=True, slots=True)
class Replace:
    """Open another connection for the same streams and retire this one when the other has overlapped."""

    reason: str


@dataclass(frozen=True, slots=True)
class CutSegment:
    """End the segment behind the lines taken so far; the next line starts another."""

    reason: str


@dataclass(frozen=True, slots=True)
class Notice:
    """Something worth a log line and a count."""

    name: str
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Ended:
    """The connection is over; nothing follows. `code` is the websocket close code or None."""

    reason: str
    code: int | None


Action = Send | Ping | Pong | CloseSocket | AbortSocket | FetchSnapshot | Replace | CutSegment | Notice | Ended
