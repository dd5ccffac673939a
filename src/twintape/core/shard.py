"""A set of streams kept alive through successive connections: when to dial, when to replace, when to let the old one go.

At most two connections at a time: the *serving* one and a *candidate* that is to replace it. The serving one is retired only when the
candidate has delivered on every stream that is active, or after a bounded wait; until then both are recorded, so that a rotation costs a
few duplicate frames and never a missing one. A connection that ends by itself is replaced with full-jitter exponential backoff.

Source: Binance, Spot API docs, web-socket-streams.md (2026-07-21): a connection lives 24 hours at most; 300 attempts per 5 minutes and IP.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from twintape.core.budget import SECOND_NS, Window
from twintape.core.markets import Market
from twintape.core.session import Session, State, StreamMemory

__all__ = ["BACKOFF_BASE_NS", "BACKOFF_MAX_NS", "Dial", "Retire", "Shard", "backoff_ns"]

BACKOFF_BASE_NS = SECOND_NS // 2
BACKOFF_MAX_NS = 30 * SECOND_NS
STABLE_NS = 60 * SECOND_NS
"""A connection that lived this long was good: the next backoff starts from the beginning."""
OVERLAP_MIN_NS = 2 * SECOND_NS
"""Both connections are heard for at least this long."""
OVERLAP_MAX_NS = 30 * SECOND_NS
"""After this long the candidate takes over even if a stream stayed silent on it."""
CHECK_NS = SECOND_NS // 2


@dataclass(frozen=True, slots=True)
class Dial:
    """Open this connection."""

    session: Session


@dataclass(frozen=True, slots=True)
class Retire:
    """Stop this connection: another one has taken over, or the shard stops."""

    session: Session
    reason: str


def backoff_ns(failures: int, draw: float) -> int:
    """Return the wait before the next attempt: full jitter over an exponentially growing, capped interval.

    >>> backoff_ns(0, 1.0) / 1e9, backoff_ns(3, 0.5) / 1e9, backoff_ns(99, 1.0) / 1e9
    (0.5, 2.0, 30.0)
    """
    return int(draw * min(BACKOFF_MAX_NS, BACKOFF_BASE_NS << min(failures, 16)))


class Shard:
    """One set of streams.

    Args:
        market: Whose rules hold.
        streams: Stream names.
        base: Websocket address instead of the market's own.
        attempts: The budget of connection attempts, shared by all shards of the process.
        next_number: Returns the number of the next connection of this market.
        draw: Returns a random number in [0, 1).
        rotate_ns: A connection's age at which it is replaced; each draws up to a tenth less, so that shards do not rotate together.
        now_ns: Monotonic time.
    """

    def __init__(
        self,
        *,
        market: Market,
        streams: Sequence[str],
        attempts: Window,
        next_number: Callable[[], int],
        draw: Callable[[], float],
        rotate_ns: int,
        now_ns: int,
        base: str | None = None,
    ) -> None:
        self.market = market
        self.memories = [StreamMemory(name) for name in streams]
        self.serving: Session | None = None
        self.candidate: Session | None = None
        self.stopping = False
        self.reconnects = 0
        self.failures = 0
        self._base = base
        self._attempts = attempts
        self._next_number = next_number
        self._draw = draw
        self._rotate_ns = rotate_ns
        self._rotate_at_ns = 0
        self._dial_at_ns = now_ns
        self._wanted: str | None = None
        self._check_ns = now_ns

    @property
    def alive(self) -> bool:
        """Whether a connection is open or being opened."""
        return self.serving is not None or self.candidate is not None

    def deadline_ns(self) -> int:
        """Return when `tick` is due next."""
        return self._check_ns

    def tick(self, now_ns: int, wall_ns: int, *, may_dial: bool = True) -> Sequence[Dial | Retire]:
        """Dial, rotate or retire if it is time; `may_dial` False postpones every dial."""
        actions: list[Dial | Retire] = []
        self._check_ns = now_ns + CHECK_NS
        if self.stopping:
            return actions
        serving = self.serving
        if serving is not None and serving.state is State.OPEN and self._wanted is None and now_ns >= self._rotate_at_ns:
            self._wanted = "age"
        if serving is not None and self.candidate is not None and self._may_retire(serving, self.candidate, now_ns):
            actions.append(Retire(serving, f"replaced: {self._wanted}"))
            self._promote(self.candidate, now_ns)
        elif self._lacks_connection() and may_dial and now_ns >= self._dial_at_ns and self._attempts.take(now_ns):
            actions.append(Dial(self._new(now_ns, wall_ns)))
        return actions

    def _lacks_connection(self) -> bool:
        return self.candidate is None and (self.serving is None or self._wanted is not None)

    def opened(self, session: Session, now_ns: int) -> None:
        """Take the news that `session` is open."""
        if session is self.serving:
            self._rotate_at_ns = now_ns + int(self._rotate_ns * (1 - 0.1 * self._draw()))

    def replace(self, session: Session, reason: str) -> None:
        """Take a session's wish to be replaced; a candidate's wish counts when it serves."""
        if session is self.serving and self._wanted is None:
            self._wanted = reason

    def ended(self, session: Session, now_ns: int) -> None:
        """Take the end of `session`; ends of retired ones change nothing."""
        if session is not self.serving and session is not self.candidate:
            return
        stable = session.frames > 0 and now_ns - session.opened_ns >= STABLE_NS
        self.failures = 0 if stable else self.failures + 1
        self._dial_at_ns = now_ns + backoff_ns(0 if stable else self.failures - 1, self._draw())
        self._check_ns = min(self._check_ns, self._dial_at_ns)
        self.reconnects += 1
        if session is self.candidate:
            self.candidate = None
        elif self.candidate is not None:
            self._promote(self.candidate, now_ns)
        else:
            self.serving = None
            self._wanted = None

    def change(self, added: Sequence[str], removed: Sequence[str], now_ns: int) -> list[Session]:
        """Carry further streams, and some no longer; return the connections that have been told."""
        fresh = [StreamMemory(name) for name in added]
        gone = set(removed)
        self.memories = [memory for memory in self.memories if memory.name not in gone] + fresh
        told = [session for session in (self.serving, self.candidate) if session is not None]
        for session in told:
            session.change(fresh, removed, now_ns)
        return told

    def stop(self, reason: str) -> Sequence[Retire]:
        """Stop everything; nothing is dialled again."""
        self.stopping = True
        return [Retire(session, reason) for session in (self.serving, self.candidate) if session is not None]

    def _new(self, now_ns: int, wall_ns: int) -> Session:
        session = Session(
            market=self.market,
            number=self._next_number(),
            memories=self.memories,
            base=self._base,
            now_ns=now_ns,
            wall_ns=wall_ns,
        )
        if self.serving is None:
            self.serving = session
        else:
            self.candidate = session
        return session

    def _promote(self, session: Session, now_ns: int) -> None:
        self.serving, self.candidate, self._wanted = session, None, session.replace_reason
        self._rotate_at_ns = session.opened_ns + int(self._rotate_ns * (1 - 0.1 * self._draw()))
        if self._wanted is not None:
            # It was told at once to go elsewhere, as by a draining pool of servers: ask again, but not in a storm.
            self.failures += 1
            self._dial_at_ns = max(self._dial_at_ns, now_ns + backoff_ns(self.failures, self._draw()))

    def _may_retire(self, serving: Session, candidate: Session, now_ns: int) -> bool:
        """Return whether the candidate has taken over."""
        age_ns = now_ns - candidate.opened_ns
        if candidate.state is not State.OPEN or age_ns < OVERLAP_MIN_NS:
            return False
        if age_ns >= OVERLAP_MAX_NS:
            return True
        return candidate.subscribed and all(
            candidate.streams[name].joined or stream.last_ns <= candidate.opened_ns for name, stream in serving.streams.items()
        )
