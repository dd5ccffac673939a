"""Log lines as JSON on standard error, without ever making the event loop wait for whoever reads them."""

from __future__ import annotations

import json
import queue
import sys
import threading
from datetime import UTC, datetime
from typing import Any, TextIO

from twintape.io.ports import Journal

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


class _JsonJournal:
    """Writes one JSON object a line."""

    def __init__(self, stream: Any) -> None:
        self._write = stream.write

    def info(self, event: str, **fields: Any) -> None:
        """Write something normal."""
        self._log("info", event, fields)

    def warning(self, event: str, **fields: Any) -> None:
        """Write something somebody should know."""
        self._log("warning", event, fields)

    def error(self, event: str, **fields: Any) -> None:
        """Write something somebody should act on."""
        self._log("error", event, fields)

    def _log(self, level: str, event: str, fields: dict[str, Any]) -> None:
        timestamp = datetime.now(UTC).isoformat().replace("+00:00", "Z")
        line = {**fields, "event": event, "level": level, "timestamp": timestamp}
        self._write(json.dumps(line, ensure_ascii=False, default=repr) + "\n")


def json_journal(stream: Any = None) -> Journal:
    """Return a logger that writes one JSON object a line: the fields, `event`, `level` and `timestamp`."""
    return _JsonJournal(stream or sys.stderr)
