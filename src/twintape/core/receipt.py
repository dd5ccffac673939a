"""What one connection hears becomes lines here: in the order in which it came, each under the time at which it came.

Whoever reads the socket only notes a text frame and its time in `heard`; taking several in at once costs a fraction of taking in each.

Times are monotonic nanoseconds except where a name says wall or receive.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import repeat
from operator import contains, lt

from twintape.core.active import LineText, format_line, format_lines
from twintape.core.wire import bytes_line, recordable

__all__ = ["TEXT", "Receipt"]

TEXT = 1
"""The opcode of text frames."""
_NEWLINE = ord("\n")  # numbers are found seven times as fast as texts


class Receipt:
    """The lines of one connection.

    Args:
        now_ns: Monotonic time.
        wall_ns: Wall time at the same moment: together the anchor of all receive times.

    Attributes:
        heard: Text frames that are no lines yet, `(monotonic ns, payload)`, in order; whoever hears one appends it. Everything below takes
            them in first, so that the order of lines is that of receipt.
        event_times: The event times, 13 digits of milliseconds, of those lines not yet taken that have one so printed: noted by whoever
            looks at them.
    """

    def __init__(self, now_ns: int, wall_ns: int) -> None:
        self.heard: list[tuple[int, bytes]] = []
        self.event_times: list[bytes] = []
        self._texts: list[bytes] = []
        self._count = self._size = self._last_ns = 0
        self._anchor_ns = wall_ns - now_ns
        self._receive_ns = 0

    def stamp(self, now_ns: int) -> int:
        """Return the receive time of the next line: wall anchor plus monotonic clock, strictly increasing within a segment."""
        self.take_in()
        receive_ns = self._anchor_ns + now_ns
        if receive_ns <= self._receive_ns:
            receive_ns = self._receive_ns + 1
        self._receive_ns = receive_ns
        return receive_ns

    def append(self, receive_ns: int, line: bytes) -> None:
        """Append a line under a time from `stamp`."""
        self.take_in()
        self._texts.append(format_line(receive_ns, line))
        self._count += 1
        self._size += len(line)
        self._last_ns = receive_ns

    def record(self, line: bytes, now_ns: int) -> None:
        """Append a line now."""
        self.append(self.stamp(now_ns), line)

    def take_in(self) -> None:
        """Make lines of all frames in `heard`."""
        heard, self.heard[:] = self.heard[:], ()
        self.add(heard)

    def add(self, heard: Sequence[tuple[int, bytes]]) -> tuple[list[int], list[bytes]]:
        """Append lines for text frames and return their receive times and frames: verbatim, or in base64 what cannot stand on a line."""
        if not heard:
            return [], []
        payloads = [payload for _, payload in heard]
        anchor_ns, last_ns = self._anchor_ns, self._receive_ns
        times_ns = [anchor_ns + now_ns for now_ns, _ in heard]
        if not all(map(lt, [last_ns, *times_ns], times_ns)):
            for place, receive_ns in enumerate(times_ns):
                times_ns[place] = last_ns = max(receive_ns, last_ns + 1)
        text = format_lines(times_ns, payloads)
        # Frames end between characters: what holds for the whole text holds for each of them, but that it is neither empty nor several lines.
        if not recordable(text, lines=True) or not all(payloads) or any(map(contains, payloads, repeat(_NEWLINE))):
            payloads = [payload if recordable(payload) else bytes_line(TEXT, payload) for payload in payloads]
            text = format_lines(times_ns, payloads)
        self._texts.append(text)
        self._count += len(payloads)
        self._size += sum(map(len, payloads))
        self._receive_ns = self._last_ns = times_ns[-1]
        return times_ns, payloads

    @property
    def waiting(self) -> bool:
        """Whether there are lines to be taken."""
        return bool(self.heard or self._texts)

    def take(self) -> LineText | None:
        """Return the lines since the last call, oldest first; None if there are none."""
        if self.heard:
            self.take_in()
        if not self._texts:
            return None
        event_times = self.event_times
        known = (min(event_times), max(event_times)) if len(event_times) == self._count else None
        taken = LineText(b"".join(self._texts), self._count, self._size, self._last_ns, known)
        self._texts, self.event_times = [], []
        self._count = self._size = 0
        return taken
