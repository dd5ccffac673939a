"""A set of streams kept alive through successive connections: when to dial, when to replace, when to let the old one go.

A *seat* is one connection at a time, except while it changes: then there are two, the *serving* one and a *candidate*, and both are
recorded, so that a change costs a few duplicate frames and never a missing one. The serving one is retired only when the candidate has
heard the same ids on every stream, or after a bounded wait for those that are quiet. A candidate that does not hear what the serving
one hears is rejected. A connection that ends by itself is replaced with full-jitter exponential backoff.

With two seats, two connections are there at all times, and their ages are half a period apart.

Source: Binance, Spot API docs, web-socket-streams.md (2026-07-21): a connection lives 24 hours at most; 300 attempts per 5 minutes and IP.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256

from twintape.core.budget import SECOND_NS, Attempts
from twintape.core.markets import Market
from twintape.core.memory import StreamMemory
from twintape.core.session import Session, State
from twintape.core.silence import Pace
from twintape.core.tally import Tally

__all__ = ["BACKOFF_BASE_NS", "BACKOFF_MAX_NS", "Dial", "Retire", "Shard", "backoff_ns", "rotation_age_ns", "rotation_phase"]

BACKOFF_BASE_NS = SECOND_NS // 2
BACKOFF_MAX_NS = 30 * SECOND_NS
STABLE_NS = 60 * SECOND_NS
"""A connection that was heard for this long was good: it ends without counting as a failure …"""
FORGIVE_NS = 10 * SECOND_NS
"""… and each so long that any was heard takes one earlier failure back. Whoever is cut off sooner waits ever longer."""
OVERLAP_MIN_NS = 2 * SECOND_NS
"""Both connections are heard for at least this long."""
OVERLAP_WAIT_NS = 60 * SECOND_NS
"""So long a change waits for quiet streams to speak on both connections; silences of 10 to 43 s are normal."""
CATCH_UP_MAX_NS = 600 * SECOND_NS
"""So long an old connection that lags may take to reach the ids the new one began with."""
FRESH_NS = 5 * SECOND_NS
"""A stream that was heard so recently goes on; what the other connection has not got by then was not under way."""
STALE_NS = SECOND_NS
"""A new connection on which nothing came for so long while the old one went on may just have stalled: that is waited for."""
DEAF_MARGIN_NS = 10 * SECOND_NS
"""What the old connection heard so long after the new one was opened, the new one must have heard too."""
CHECK_NS = SECOND_NS // 2
PHASES = 32
"""Collectors rotate at one of so many times of the period, which their names decide; jitter stays within half the distance."""
PHASE_STRIDE = 13
PERIOD_SHARE = 0.8
EARLIEST_SHARE = 0.1


@dataclass(frozen=True, slots=True)
class Dial:
    """Open this connection."""

    session: Session


@dataclass(frozen=True, slots=True)
class Retire:
    """Stop this connection: another one has taken over, or it is of no use, or the shard stops."""

    session: Session
    reason: str


def backoff_ns(failures: int, draw: float) -> int:
    """Return the wait before the next attempt: full jitter over an exponentially growing, capped interval.

    >>> backoff_ns(0, 1.0) / 1e9, backoff_ns(3, 0.5) / 1e9, backoff_ns(99, 1.0) / 1e9
    (0.5, 2.0, 30.0)
    """
    return int(draw * min(BACKOFF_MAX_NS, BACKOFF_BASE_NS << min(failures, 16)))


def rotation_phase(name: str, shard: int = 0, seat: int = 0, seats: int = 1) -> float:
    """Return when in each period a connection rotates, 0 to 1.

    The collector's name decides; its shards come one after the other, and the seats of a shard are evenly apart.

    >>> rotation_phase("tokyo/spot"), rotation_phase("paris/spot"), rotation_phase("tokyo/spot", 1), rotation_phase("tokyo/spot", 0, 1, 2)
    (0.28125, 0.5625, 0.6875, 0.78125)
    """
    slot = (int.from_bytes(sha256(name.encode()).digest()[:8], "big") + shard * PHASE_STRIDE) % PHASES
    return (slot / PHASES + seat / seats) % 1.0


def rotation_age_ns(opened_wall_ns: int, rotate_ns: int, phase: float, draw: float) -> int:
    """Return the age at which a connection is replaced, at most `rotate_ns`.

    Rotations happen around fixed times of the wall clock, `phase` of a period apart from everybody else's, so that collectors that know
    nothing of each other do not rotate together.

    >>> [rotation_age_ns(hour * 3600, 10 * 3600, 0.5, 0.0) / 3600 for hour in (0, 2, 4, 11)]
    [4.0, 2.0, 8.0, 1.0]
    """
    period_ns = max(1, int(rotate_ns * PERIOD_SHARE))
    earliest_ns = opened_wall_ns + int(rotate_ns * EARLIEST_SHARE)
    wait_ns = (int(phase * period_ns) - earliest_ns) % period_ns
    jitter_ns = int(draw * period_ns / PHASES / 2)
    return earliest_ns - opened_wall_ns + wait_ns + jitter_ns


class _Seat:
    """One connection of a shard, and the one that is to replace it."""

    __slots__ = ("alone", "candidate", "dial_at_ns", "failures", "phase", "rotate_at_ns", "serving", "wanted")

    def __init__(self, phase: float, now_ns: int) -> None:
        self.serving: Session | None = None
        self.candidate: Session | None = None
        self.wanted: str | None = None
        self.alone: tuple[str, int] | None = None  # a stream that only the serving connection hears, and since when
        self.phase = phase
        self.failures = 0
        self.dial_at_ns = now_ns
        self.rotate_at_ns = 0

    @property
    def sessions(self) -> list[Session]:
        return [session for session in (self.serving, self.candidate) if session is not None]

    @property
    def settled(self) -> bool:
        return self.serving is not None and self.serving.state is State.OPEN and self.wanted is None and self.serving.frames > 0

    def lacks_connection(self) -> bool:
        return self.candidate is None and (self.serving is None or self.wanted is not None)

    def verdict(self, now_ns: int) -> str | None:
        """Return how the change ends, or None while it goes on: `overlapped`, `waited`, or `deaf: <stream>`."""
        serving, candidate = self.serving, self.candidate
        if serving is None or candidate is None or candidate.state is not State.OPEN:
            return None
        age_ns = now_ns - candidate.opened_ns
        if age_ns < OVERLAP_MIN_NS:
            return None
        pairs = [
            (old, candidate.streams[name]) for name, old in serving.streams.items() if old.count and name in candidate.streams
        ]
        apart = [(old, new) for old, new in pairs if not new.overlaps(old)]
        # What has fallen silent meanwhile is no better: an old connection that lags still has on its way what the new one will never hear.
        silent = next((name for name in serving.streams if candidate.silent(name) and not serving.silent(name)), None)
        stale = candidate.last_data_ns < serving.last_data_ns - STALE_NS
        if candidate.subscribed and not apart and silent is None and not stale:
            return "overlapped"
        margin_ns = candidate.opened_ns + DEAF_MARGIN_NS
        alone = next((old.memory.name for old, new in apart if not new.count and old.last_ns > margin_ns), None)
        if alone is None or self.alone is None or self.alone[0] != alone:
            self.alone = None if alone is None else (alone, now_ns)
        if age_ns < OVERLAP_WAIT_NS or stale:
            return None
        if silent is not None:
            return f"deaf: {silent.decode()}"
        if self.alone is not None:
            return f"deaf: {alone}" if now_ns - self.alone[1] >= FRESH_NS else None
        catching_up = any(old.memory.depth and new.count and old.last_ns > now_ns - FRESH_NS for old, new in apart)
        return None if catching_up and age_ns < CATCH_UP_MAX_NS else "waited"


class Shard:
    """One set of streams.

    Args:
        market: Whose rules hold.
        streams: Stream names.
        base: Websocket address instead of the market's own.
        attempts: The budget of connection attempts, shared by all shards of the process.
        next_number: Returns the number of the next connection of this market.
        draw: Returns a random number in [0, 1).
        rotate_ns: The greatest age of a connection.
        now_ns: Monotonic time.
        name: What decides the times of rotation, such as the collector's name and the market.
        number: Which of the collector's shards this is.
        seats: How many connections carry the streams at all times.
        tally: Where what happens is counted; shards of one market share it.
    """

    def __init__(
        self,
        *,
        market: Market,
        streams: Sequence[str],
        attempts: Attempts,
        next_number: Callable[[], int],
        draw: Callable[[], float],
        rotate_ns: int,
        now_ns: int,
        base: str | None = None,
        name: str = "",
        number: int = 0,
        seats: int = 1,
        tally: Tally | None = None,
    ) -> None:
        self.market = market
        self.memories = [StreamMemory(stream) for stream in streams]
        self.seats = [_Seat(rotation_phase(name, number, index, seats), now_ns) for index in range(seats)]
        self.stopping = False
        self.tally = Tally() if tally is None else tally
        self.pace = Pace(bursty=not any(memory.depth for memory in self.memories))
        self._base = base
        self._attempts = attempts
        self._next_number = next_number
        self._draw = draw
        self._rotate_ns = rotate_ns
        self._check_ns = now_ns

    @property
    def sessions(self) -> list[Session]:
        """Every connection that is open or being opened, serving ones first."""
        serving = [seat.serving for seat in self.seats if seat.serving is not None]
        return serving + [seat.candidate for seat in self.seats if seat.candidate is not None]

    @property
    def serving(self) -> Session | None:
        """The first seat's connection."""
        return self.seats[0].serving

    @property
    def candidate(self) -> Session | None:
        """The connection that is to replace the first seat's."""
        return self.seats[0].candidate

    @property
    def alive(self) -> bool:
        """Whether a connection is open or being opened."""
        return bool(self.sessions)

    def deadline_ns(self) -> int:
        """Return when `tick` is due next."""
        return self._check_ns

    def tick(self, now_ns: int, wall_ns: int, *, may_dial: bool = True) -> Sequence[Dial | Retire]:
        """Dial, rotate or retire if it is time; `may_dial` False postpones every dial."""
        self._check_ns = now_ns + CHECK_NS
        if self.stopping:
            return []
        return [order for seat in self.seats for order in self._tick_seat(seat, now_ns, wall_ns, may_dial=may_dial)]

    def _tick_seat(self, seat: _Seat, now_ns: int, wall_ns: int, *, may_dial: bool) -> list[Dial | Retire]:
        serving = seat.serving
        if serving is not None and seat.wanted is None and self._too_old(seat, serving, now_ns):
            seat.wanted = "age"
        verdict = seat.verdict(now_ns)
        if verdict is not None and serving is not None and seat.candidate is not None:
            self.tally.handovers[verdict.partition(":")[0]] += 1
            if not verdict.startswith("deaf"):
                retire = Retire(serving, f"replaced: {seat.wanted}")
                if verdict == "overlapped" and seat.candidate.replace_reason is None:
                    seat.failures = 0
                self._promote(seat, seat.candidate, now_ns)
                return [retire]
            retire = Retire(seat.candidate, verdict)
            seat.candidate = None
            self._failed(seat, now_ns)
            return [retire]
        if seat.lacks_connection() and may_dial and now_ns >= seat.dial_at_ns and self._attempts.take(now_ns):
            return [Dial(self._new(seat, now_ns, wall_ns))]
        return []

    def _too_old(self, seat: _Seat, serving: Session, now_ns: int) -> bool:
        if serving.state is not State.OPEN or now_ns < seat.rotate_at_ns:
            return False
        # Not while another seat is without a connection that speaks, unless this one must go.
        return now_ns - serving.opened_ns >= self._rotate_ns or all(other.settled for other in self.seats if other is not seat)

    def opened(self, session: Session, now_ns: int) -> None:  # noqa: ARG002 - told in every case
        """Take the news that `session` is open."""
        for seat in self.seats:
            if session is seat.serving:
                self._plan_rotation(seat, session)

    def replace(self, session: Session, reason: str) -> None:
        """Take a session's wish to be replaced; a candidate's wish counts when it serves."""
        for seat in self.seats:
            if session is seat.serving and seat.wanted is None:
                seat.wanted = reason

    def ended(self, session: Session, now_ns: int) -> None:
        """Take the end of `session`; ends of retired ones change nothing."""
        seat = next((seat for seat in self.seats if session in seat.sessions), None)
        if seat is None:
            return
        self.tally.reconnects[session.ended_by] += 1
        until_ns = session.last_data_ns if session.suspect_count else now_ns  # it may have been open and deaf for long
        heard_ns = until_ns - session.opened_ns if session.frames else 0
        seat.failures = max(0, seat.failures - heard_ns // FORGIVE_NS)
        if heard_ns >= STABLE_NS:
            seat.dial_at_ns = now_ns + backoff_ns(0, self._draw())
        else:
            self._failed(seat, now_ns)
        self._check_ns = min(self._check_ns, seat.dial_at_ns)
        if session is seat.candidate:
            seat.candidate = None
        elif seat.candidate is not None:
            self.tally.handovers["died"] += 1
            self._promote(seat, seat.candidate, now_ns)
        else:
            seat.serving = seat.wanted = None

    def change(self, added: Sequence[str], removed: Sequence[str], now_ns: int) -> list[Session]:
        """Carry further streams, and some no longer; return the connections that have been told."""
        fresh = [StreamMemory(name) for name in added]
        gone = set(removed)
        self.memories = [memory for memory in self.memories if memory.name not in gone] + fresh
        told = self.sessions
        for session in told:
            session.change(fresh, removed, now_ns)
        return told

    def stop(self, reason: str) -> Sequence[Retire]:
        """Stop everything; nothing is dialled again."""
        self.stopping = True
        return [Retire(session, reason) for session in self.sessions]

    def _new(self, seat: _Seat, now_ns: int, wall_ns: int) -> Session:
        session = Session(
            market=self.market,
            number=self._next_number(),
            memories=self.memories,
            base=self._base,
            pace=self.pace,
            tally=self.tally,
            now_ns=now_ns,
            wall_ns=wall_ns,
        )
        if seat.serving is None:
            seat.serving = session
        else:
            seat.candidate = session
        return session

    def _failed(self, seat: _Seat, now_ns: int) -> None:
        seat.dial_at_ns = now_ns + backoff_ns(seat.failures, self._draw())
        seat.failures += 1

    def _plan_rotation(self, seat: _Seat, session: Session) -> None:
        age_ns = rotation_age_ns(session.opened_wall_ns, self._rotate_ns, seat.phase, self._draw())
        seat.rotate_at_ns = session.opened_ns + age_ns

    def _promote(self, seat: _Seat, session: Session, now_ns: int) -> None:
        seat.serving, seat.candidate, seat.wanted = session, None, session.replace_reason
        self._plan_rotation(seat, session)
        if seat.wanted is not None:
            # It was told at once to go elsewhere, as by a draining pool of servers: ask again, but not in a storm.
            seat.failures += 1
            seat.dial_at_ns = max(seat.dial_at_ns, now_ns + backoff_ns(seat.failures, self._draw()))
