"""How long a stream may be silent before that is suspicious, learned from how it has spoken so far.

A quiet symbol says nothing for a minute and is well; a busy one that says nothing for four seconds is not. Nothing is known of a stream
before it has spoken a while.
"""

from __future__ import annotations

from twintape.core.budget import SECOND_NS

__all__ = ["STEADY_SPACING_NS", "Listening", "patience_ns"]

STEADY_SPACING_NS = SECOND_NS // 2
"""A stream that speaks at least this often is expected to go on doing so."""
PATIENCE_MIN_NS = 3 * SECOND_NS
PATIENCE_STEADY_MAX_NS = 4 * SECOND_NS
PATIENCE_MAX_NS = 120 * SECOND_NS
SPACINGS = 20
"""How many usual spacings of silence are suspicious."""
SAMPLES_MIN = 20
"""Frames before anything is said about a stream."""
LONGEST_FACTOR = 2
"""A stream that speaks in bursts may be silent for so many times its longest pause."""
LONGEST_DECAY = 0.999
"""Per call of `measure`, twice a second: the longest pause is forgotten by half in six minutes."""
SPACING_WEIGHT = 0.1
PAUSE_MIN_NS = SECOND_NS


def patience_ns(spacing_ns: float) -> int:
    """Return how long a stream of this mean spacing may be silent.

    >>> patience_ns(100e6) / 1e9, patience_ns(400e6) / 1e9, patience_ns(2e9) / 1e9, patience_ns(60e9) / 1e9
    (3.0, 4.0, 40.0, 120.0)
    """
    limit = PATIENCE_STEADY_MAX_NS if spacing_ns <= STEADY_SPACING_NS else PATIENCE_MAX_NS
    return min(limit, max(PATIENCE_MIN_NS, int(SPACINGS * spacing_ns)))


class Listening:
    """What was heard of one stream. Whoever hears a frame sets `last_ns` and raises `count`; `measure` is called now and then.

    Args:
        now_ns: Monotonic time.
        steady: The stream speaks whenever there is something to say and at a fixed pace, as depth streams do; others speak in bursts.

    Attributes:
        count: Frames heard.
        last_ns: When the last one was heard.
        spacing_ns: Their mean distance of late.
    """

    __slots__ = ("_checked_count", "_checked_ns", "_longest_ns", "_samples", "_steady", "count", "last_ns", "spacing_ns")

    def __init__(self, now_ns: int, *, steady: bool) -> None:
        self.count = 0
        self.last_ns = now_ns
        self.spacing_ns = 0.0
        self._steady = steady
        self._checked_ns = now_ns
        self._checked_count = 0
        self._samples = 0
        self._longest_ns = 0.0

    def restart(self, now_ns: int) -> None:
        """Forgive the silence so far; what was learned stays."""
        self.last_ns = self._checked_ns = now_ns

    def measure(self) -> None:
        """Learn from what came since the last call."""
        new = self.count - self._checked_count
        self._longest_ns *= LONGEST_DECAY
        if not new:
            return
        if self._checked_count:  # the first interval begins with the subscription, not with a frame
            elapsed_ns = self.last_ns - self._checked_ns
            spacing_ns = elapsed_ns / new
            self.spacing_ns = (
                spacing_ns if not self._samples else self.spacing_ns + SPACING_WEIGHT * (spacing_ns - self.spacing_ns)
            )
            if elapsed_ns > PAUSE_MIN_NS:  # calls come twice a second: so long an interval was mostly one pause
                self._longest_ns = max(self._longest_ns, elapsed_ns)
            self._samples += new
        self._checked_count = self.count
        self._checked_ns = self.last_ns

    def silent(self, now_ns: int) -> bool:
        """Return whether the stream has been silent for longer than it usually is."""
        if self._samples < SAMPLES_MIN:
            return False
        patience = float(patience_ns(self.spacing_ns))
        if not self._steady or self.spacing_ns > STEADY_SPACING_NS:
            patience = max(patience, LONGEST_FACTOR * self._longest_ns)
        return now_ns - self.last_ns > patience
