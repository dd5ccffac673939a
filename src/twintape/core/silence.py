"""How long a stream may be silent before that is suspicious, learned from how it has spoken so far.

A quiet symbol says nothing for a minute and is well; one that speaks ten times a second and says nothing for four seconds is not. The
median of the spacings does not tell them apart (real recordings have streams with a median of 0.4 s and silences of 43 s): the
longest silence that turned out to be none does. A stream may be silent for twice as long as it ever was of late, and for longer while
little is known of it.

What is learned belongs to the stream and outlives its connections: `Pace`. What one connection hears of it is a `Listening`.

Source: recordings of quiet spot symbols (NEXOUSDT, 2024-07: 34 hours, 97,840 events, median 0.4 s, longest silence 43.5 s).
"""

from __future__ import annotations

from twintape.core.budget import SECOND_NS

__all__ = ["STEADY_PATIENCE_NS", "Lag", "Listening", "Pace", "Retry"]

PATIENCE_MIN_NS = 3 * SECOND_NS
PATIENCE_MAX_NS = 900 * SECOND_NS
STEADY_PATIENCE_NS = 4 * SECOND_NS
"""A stream that gets no more patience than this is steady: its silence is noticed within five seconds."""
LONGEST_FACTOR = 2
BURSTY_FACTOR = 3
"""Trades come in bursts, and records of silence are broken by more."""
PAUSE_NS = 3 * SECOND_NS // 2
"""A stream without a silence of this length keeps a beat."""
LONGEST_HALF_LIFE_NS = 12 * 3600 * SECOND_NS
"""The longest silence counts half after so long: long enough for a busy day not to forget the night."""
EVIDENCE_BEAT = 60
"""With so many intervals heard, patience is twice what it will be in the end, for a stream that never paused."""
EVIDENCE_PAUSES = 400
"""The same for one that does pause: its next silence may well be its longest."""
EVIDENCE_MIN = 20
"""Intervals heard before anything is said about a stream."""
RETRY_MIN_NS = 30 * SECOND_NS
RETRY_MAX_NS = 600 * SECOND_NS
RETRY_FORGET_NS = 3600 * SECOND_NS
"""Trouble after so long without any is a new one."""
"""A silence that a new connection did not end is answered by another one only so often: the exchange itself is silent."""

LAG_SLACK_NS = 3 * SECOND_NS
"""Frames that arrive so much later than usual are late."""
LAG_EVIDENCE_MIN = 20
LAG_STRIKES = 4
"""How many looks in a row must find frames late; looks come twice a second."""
LAG_RISE_NS = SECOND_NS // 1000
"""What is usual grows by no more than this a look: a clock that drifts is followed, a connection that falls behind is not."""
LAG_FALL = 10


class Retry:
    """When another connection may be tried against the same trouble: at once, then less and less often, until the trouble is over."""

    __slots__ = ("_at_ns", "_wait_ns")

    def __init__(self) -> None:
        self._at_ns: int | None = None
        self._wait_ns = RETRY_MIN_NS

    def take(self, now_ns: int) -> bool:
        """Return whether one may be tried now, and count it as tried if so."""
        if self._at_ns is not None and now_ns < self._at_ns:
            return False
        if self._at_ns is not None and now_ns > self._at_ns + RETRY_FORGET_NS:
            self._wait_ns = RETRY_MIN_NS
        self._at_ns = now_ns + self._wait_ns
        self._wait_ns = min(RETRY_MAX_NS, 2 * self._wait_ns)
        return True

    def over(self) -> None:
        """Take note that the trouble is over: the next is a new one."""
        self._at_ns = None
        self._wait_ns = RETRY_MIN_NS


class Pace:
    """The rhythm of one stream, learned from all connections there were and are; owned by whoever makes the sessions.

    Args:
        bursty: Whether the stream speaks in bursts (trades, best prices) rather than whenever the book changed.

    Attributes:
        evidence: Half-second intervals in which the stream spoke.
        silence_retry: Of replacements because it was silent.
        lag_retry: Of replacements because it was late.
    """

    __slots__ = ("_factor", "_longest_at_ns", "_longest_ns", "evidence", "lag_retry", "silence_retry")

    def __init__(self, *, bursty: bool = False) -> None:
        self.evidence = 0
        self._factor = BURSTY_FACTOR if bursty else LONGEST_FACTOR
        self._longest_ns = 0.0
        self._longest_at_ns = 0
        self.silence_retry = Retry()
        self.lag_retry = Retry()

    def longest_ns(self, now_ns: int) -> float:
        """Return the longest natural silence of late, fading with time."""
        if not self._longest_ns:
            return 0.0
        return float(self._longest_ns * 0.5 ** ((now_ns - self._longest_at_ns) / LONGEST_HALF_LIFE_NS))

    def learn(self, silence_ns: int, now_ns: int) -> None:
        """Take a silence that ended by itself; 0 for one too short to matter."""
        self.evidence += 1
        if silence_ns and silence_ns > self.longest_ns(now_ns):
            self._longest_ns, self._longest_at_ns = silence_ns, now_ns

    def patience_ns(self, now_ns: int) -> int | None:
        """Return how long the stream may be silent, or None while too little is known of it."""
        if self.evidence < EVIDENCE_MIN:
            return None
        longest_ns = self.longest_ns(now_ns)
        doubt = 1 + (EVIDENCE_PAUSES if longest_ns > PAUSE_NS else EVIDENCE_BEAT) / self.evidence
        patience = max(PATIENCE_MIN_NS, self._factor * longest_ns) * doubt
        return min(PATIENCE_MAX_NS, int(patience))

    def steady(self, now_ns: int) -> bool:
        """Return whether a silence of this stream is noticed within five seconds."""
        patience_ns = self.patience_ns(now_ns)
        return patience_ns is not None and patience_ns <= STEADY_PATIENCE_NS


class Listening:
    """What was heard of one stream on one connection. Whoever hears a frame sets `last_ns` and raises `count`; `measure` is called twice a second.

    Args:
        now_ns: Monotonic time.
        pace: What is known of the stream; learned from and added to.

    Attributes:
        count: Frames heard.
        last_ns: When the last one was heard, or from when on one was expected.
    """

    __slots__ = ("_checked_count", "_checked_ns", "_pausing", "count", "last_ns", "pace")

    def __init__(self, now_ns: int, pace: Pace) -> None:
        self.count = 0
        self.last_ns = now_ns
        self.pace = pace
        self._checked_ns = now_ns
        self._checked_count = 0
        self._pausing = False

    def restart(self, now_ns: int) -> None:
        """Forgive the silence so far, and learn nothing from it."""
        self.last_ns = self._checked_ns = now_ns
        self._checked_count = self.count
        self._pausing = False

    def excuse(self, late_ns: int, now_ns: int) -> None:
        """Leave so much of the silence out: nobody listened."""
        self.last_ns = min(now_ns, self.last_ns + late_ns)
        self._checked_ns = min(now_ns, self._checked_ns + late_ns)

    def measure(self, now_ns: int) -> None:
        """Learn from what came since the last call."""
        if self.count == self._checked_count:
            self._pausing = True
            return
        # Only a silence that outlasted a whole interval between two calls matters; its first frame is not later than the last one.
        self.pace.learn(self.last_ns - self._checked_ns if self._pausing else 0, now_ns)
        self.pace.silence_retry.over()
        self._pausing = False
        self._checked_count = self.count
        self._checked_ns = self.last_ns

    def silent(self, now_ns: int) -> bool:
        """Return whether the stream has been silent for longer than it may be."""
        silence_ns = now_ns - self.last_ns
        if silence_ns <= PATIENCE_MIN_NS:
            return False
        patience_ns = self.pace.patience_ns(now_ns)
        return patience_ns is not None and silence_ns > patience_ns


class Lag:
    """How much later than usual frames arrive on one connection: `receive_time - E` against what is usual there.

    Attributes:
        last_ns: The newest lag.
        usual_ns: The usual lag, whatever the clocks make of it: follows frames that are earlier at once and later ones slowly.
        late: Whether frames are late now.
    """

    __slots__ = ("_evidence", "_strikes", "last_ns", "late", "usual_ns")

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """Forget everything: the clock was set."""
        self.usual_ns = self.last_ns = 0
        self.late = False
        self._evidence = self._strikes = 0

    def measure(self, lag_ns: int) -> bool:
        """Take one frame's lag, at most twice a second, and return whether frames are late now."""
        self.last_ns = lag_ns
        self._evidence += 1
        if self._evidence == 1:
            self.usual_ns = lag_ns
        elif lag_ns < self.usual_ns:
            self.usual_ns -= (self.usual_ns - lag_ns) // LAG_FALL
        else:
            self.usual_ns += min(lag_ns - self.usual_ns, LAG_RISE_NS)
        above = self._evidence > LAG_EVIDENCE_MIN and lag_ns > self.usual_ns + LAG_SLACK_NS
        self._strikes = self._strikes + 1 if above else 0
        self.late = above and (self.late or self._strikes >= LAG_STRIKES)
        return self.late
