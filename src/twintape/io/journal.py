"""Log lines as JSON on standard error, without ever making the event loop wait for whoever reads them."""

from __future__ import annotations

import queue
import sys
import threading
from typing import Any, TextIO

import structlog

__all__ = ["BackgroundStream", "json_journal"]

LINES_MAX = 10_000
"""So many lines may wait for a slow reader; further ones are dropped and counted."""


class BackgroundStream:
    """A text stream that writes from a thread of its own; when the reader is gone or too slow, lines are dropped, never the recording.

    Args:
        target: Where the lines go.
    """

    def __init__(self, target: TextIO) -> None:
        self.dropped = 0
        self._target = target
        self._lines: queue.Queue[str | None] = queue.Queue(LINES_MAX)
        self._thread = threading.Thread(target=self._run, name="journal", daemon=True)
        self._thread.start()

    def write(self, text: str) -> int:
        """Take some text."""
        try:
            self._lines.put_nowait(text)
        except queue.Full:
            self.dropped += 1
        return len(text)

    def flush(self) -> None:
        """Do nothing: the thread flushes."""

    def close(self, wait_s: float = 2.0) -> None:
        """Write what waits, for at most `wait_s`."""
        try:
            self._lines.put(None, timeout=wait_s)
        except queue.Full:
            return
        self._thread.join(wait_s)

    def _run(self) -> None:
        while (text := self._lines.get()) is not None:
            try:
                self._target.write(text)
                if self._lines.empty():
                    self._target.flush()
            except (OSError, ValueError):
                self.dropped += 1  # the reader has gone away; the recording goes on


def json_journal(stream: Any = None) -> Any:
    """Return a logger that writes one JSON object a line: `timestamp`, `level`, `event` and the fields."""
    return structlog.wrap_logger(
        structlog.PrintLogger(stream or sys.stderr),
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.BoundLogger,
        cache_logger_on_first_use=True,
    )
