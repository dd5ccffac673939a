"""What one connection hears becomes lines here: in the order in which it came, each under the time at which it came.

Whoever reads the socket only notes a text frame and its time in `heard`; taking several in at once costs a fraction of taking in each.

Times are monotonic nanoseconds except where a name says wall or receive.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import lt

from twintape.core.wire import bytes_line, recordable

__all__ = ["TEXT", "Receipt"]

TEXT = 1
"""The opcode of text frames."""


class Receipt:
    """The lines of one connection.

    Args:
        now_ns: Monotonic time.
        wall_ns: Wall time at the same moment: together the anchor of all receive times.

    Attributes:
        heard: Text frames that are no lines yet, `(monotonic ns, payload)`, in order; whoever hears one appends it. Everything below takes
            them in first, so that the order of lines is that of receipt.
    """

    def __init__(self, now_ns: int, wall_ns: int) -> None:
        self.heard: list[tuple[int, bytes]] = []
        self._lines: list[tuple[int, bytes]] = []
        self._size = 0
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
        self._lines.append((receive_ns, line))
        self._size += len(line)

    def record(self, line: bytes, now_ns: int) -> None:
        """Append a line now."""
        self.append(self.stamp(now_ns), line)

    def take_in(self) -> None:
        """Make lines of all frames in `heard`."""
        heard, self.heard[:] = self.heard[:], ()
        self.add(heard)

    def add(self, heard: Sequence[tuple[int, bytes]]) -> list[tuple[int, bytes]]:
        """Append lines for text frames and return them: verbatim, or in base64 what cannot stand on a line."""
        if not heard:
            return []
        payloads = [payload for _, payload in heard]
        text = b" ".join(payloads)
        # Frames end between characters, so what holds for the whole text holds for each of them, but that it is not empty.
        if not recordable(text) or b"" in payloads:
            payloads = [payload if recordable(payload) else bytes_line(TEXT, payload) for payload in payloads]
            text = b" ".join(payloads)
        anchor_ns, last_ns = self._anchor_ns, self._receive_ns
        times_ns = [anchor_ns + now_ns for now_ns, _ in heard]
        if not all(map(lt, [last_ns, *times_ns], times_ns)):
            for place, receive_ns in enumerate(times_ns):
                times_ns[place] = last_ns = max(receive_ns, last_ns + 1)
        self._receive_ns = times_ns[-1]
        lines = list(zip(times_ns, payloads, strict=True))
        self._lines += lines
        self._size += len(text) - len(lines) + 1
        return lines

    @property
    def waiting(self) -> bool:
        """Whether there are lines to be taken."""
        return bool(self.heard or self._lines)

    def take_lines(self) -> tuple[list[tuple[int, bytes]], int]:
        """Return the lines since the last call, oldest first, and the sum of their sizes in bytes."""
        self.take_in()
        lines, size = self._lines, self._size
        self._lines, self._size = [], 0
        return lines, size
