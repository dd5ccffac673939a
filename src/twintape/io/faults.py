"""A store that fails as stores fail: one wrapper of the Store port for tests, simulations and drills.

Every fault is something a real store or the network before it has done to somebody. What happens is decided by one seed and a schedule, and
is logged, so that a run that found something can be repeated. A put is decided like a real adapter decides it: "already exists" and silence
are settled by reading back, through the same faults.

One instance may serve all clients of a simulated world; its requests are numbered from 1 in the order in which they are sent.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import random
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TypeVar

from twintape.core.errors import AlreadyExistsError, NotFoundError, StoreError
from twintape.io.ports import Clock, ObjectInfo, Store
from twintape.io.store import create_by_reading_back

__all__ = ["FAULTS_OF", "Fault", "Faults", "FaultyStore", "Incident"]

LOG_MAX = 100_000
"""Incidents that are remembered; the oldest are forgotten first."""
OMITTED_SHARE = 0.3
"""How much of a listing is left out, or shown twice, when it is."""
SECOND_NS = 1_000_000_000

T = TypeVar("T")


class Fault(StrEnum):
    """What can happen to one request."""

    UNAVAILABLE = "unavailable"
    """500 Internal Error; nothing happened."""
    SLOW_DOWN = "slow-down"
    """503 SlowDown; nothing happened."""
    TIMEOUT = "timeout"
    """No answer; nothing happened."""
    LOST = "lost"
    """It happened; the answer was lost."""
    LATE = "late"
    """No answer, and it happens hours later, whatever the client has done since."""
    CONFLICT = "conflict"
    """409 for a create-only put; nothing happened."""
    ECHO = "echo"
    """The put happened and its answer was lost on the way, so the client's own retry was answered with 412."""
    DAMAGED = "damaged"
    """The put was answered and other bytes are there."""
    TRUNCATED = "truncated"
    """A body ends early, and nobody says so."""
    CORRUPT = "corrupt"
    """A body has other bytes than the object."""
    OMITTED = "omitted"
    """A listing leaves keys out."""
    REPEATED = "repeated"
    """A listing shows keys twice."""
    GHOSTS = "ghosts"
    """A listing shows keys that were deleted through this wrapper."""
    IGNORED = "ignored"
    """A delete was answered and nothing happened."""
    RESURRECTED = "resurrected"
    """A delete happened, and hours later the object is there again."""
    EXPIRED = "expired"
    """The credentials end: this request and all that follow are refused for a while."""
    OUTAGE = "outage"
    """The store goes away: this request and all that follow are not answered for a while."""


_ANY = (Fault.UNAVAILABLE, Fault.SLOW_DOWN, Fault.TIMEOUT, Fault.LOST, Fault.EXPIRED, Fault.OUTAGE)

FAULTS_OF: Mapping[str, tuple[Fault, ...]] = {
    "create": (*_ANY, Fault.LATE, Fault.CONFLICT, Fault.ECHO, Fault.DAMAGED),
    "get": (*_ANY, Fault.TRUNCATED, Fault.CORRUPT),
    "get_range": (*_ANY, Fault.TRUNCATED, Fault.CORRUPT),
    "head": _ANY,
    "list": (*_ANY, Fault.OMITTED, Fault.REPEATED, Fault.GHOSTS),
    "delete": (*_ANY, Fault.LATE, Fault.IGNORED, Fault.RESURRECTED),
}
"""Which faults each kind of request can meet; one that does not suit a request does nothing to it."""


_SILENT = frozenset({Fault.TIMEOUT, Fault.LOST, Fault.LATE, Fault.OUTAGE})
"""Faults whose client hears nothing until its patience ends."""
_TEXTS: Mapping[Fault, str] = {
    Fault.UNAVAILABLE: "500 InternalError",
    Fault.SLOW_DOWN: "503 SlowDown",
    Fault.TIMEOUT: "timed out",
    Fault.LOST: "connection closed before the answer",
    Fault.LATE: "timed out",
    Fault.OUTAGE: "connection refused",
}


def _everything(_operation: str, _key: str) -> bool:
    return True


@dataclass(frozen=True, slots=True)
class Faults:
    """What goes wrong, how often and for how long.

    Attributes:
        rates: Fault → probability for each request it suits, 0 to 1; they must not add up to more than 1.
        schedule: Number of a request, from 1 → its fault, whatever the rates say. A fault that does not suit the request is not used.
        where: Told operation (`create`, `get`, …) and key; the rates hold where it says True.
        late_s: Least and greatest delay of `LATE` and `RESURRECTED`.
        expired_s: How long `EXPIRED` lasts.
        outage_s: How long `OUTAGE` lasts.
        wait_s: How long a request without an answer is waited for, on the clock; 0 waits for nothing.
    """

    rates: Mapping[Fault, float] = field(default_factory=dict)
    schedule: Mapping[int, Fault] = field(default_factory=dict)
    where: Callable[[str, str], bool] = _everything
    late_s: tuple[float, float] = (600.0, 6 * 3600.0)
    expired_s: float = 900.0
    outage_s: float = 3600.0
    wait_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Incident:
    """One thing that went wrong: which request, when (monotonic), and what was done to it."""

    number: int
    at_ns: int
    operation: str
    key: str
    fault: Fault


class FaultyStore:
    """Passes requests on to another store and does to some of them what `Faults` says.

    Requests that are late land when the clock has reached their time and the next request is sent, or `land` is called.

    Args:
        inner: Where the objects are.
        clock: When late requests land and how long silence lasts.
        seed: The same seed, requests and clock give the same faults.
        faults: What goes wrong.
        attempts: How often a request is sent before its failure is the caller's, as an object-store client does by itself: 1 for no retry.

    Attributes:
        faults: What goes wrong from now on; may be replaced at any time.
        requests: How many requests have been sent.
        log: What was done to them, oldest first.
    """

    def __init__(self, inner: Store, *, clock: Clock, seed: int = 0, faults: Faults | None = None, attempts: int = 1) -> None:
        self._inner = inner
        self._clock = clock
        self._random = random.Random(seed)  # noqa: S311 - a simulation, which has to be repeatable
        self._attempts = attempts
        self._deleted: dict[str, ObjectInfo] = {}
        self._late: list[tuple[int, int, Callable[[], Awaitable[object]]]] = []
        self._refused_until_ns = self._silent_until_ns = clock.monotonic_ns()
        self.faults = faults or Faults()
        self.requests = 0
        self.log: deque[Incident] = deque(maxlen=LOG_MAX)

    def __repr__(self) -> str:
        return f"FaultyStore({self._inner!r})"

    @property
    def url(self) -> str:
        """The address of the store behind."""
        return self._inner.url

    @property
    def next_landing_ns(self) -> int | None:
        """When the next late request lands, by the monotonic clock, or None."""
        return self._late[0][0] if self._late else None

    async def land(self, *, all_of_them: bool = False) -> int:
        """Let every late request happen whose time has come, or all of them now; returns how many."""
        landed = 0
        while self._late and (all_of_them or self._late[0][0] <= self._clock.monotonic_ns()):
            _, _, happen = heapq.heappop(self._late)
            with contextlib.suppress(AlreadyExistsError, NotFoundError):  # nobody is there any more to hear this answer
                await happen()
            landed += 1
        return landed

    # --- the port --------------------------------------------------------------------------------------------------------------

    async def create(self, key: str, data: bytes) -> None:
        """Put `data` under `key` unless an object is there; an unclear outcome is decided by reading it back."""

        async def put(fault: Fault | None) -> None:
            await self._inner.create(key, self._flipped(data) if fault is Fault.DAMAGED else data)

        try:
            await self._send("create", key, put)
        except StoreError as failure:
            if not (isinstance(failure, AlreadyExistsError) or failure.retryable):
                raise
            unknown = StoreError(f"outcome of the put unknown: {failure}", retryable=True)
            await create_by_reading_back(self, key, data, unknown)

    async def get(self, key: str) -> bytes:
        """Return the whole object, or what is given out as such."""

        async def read(fault: Fault | None) -> bytes:
            return self._spoiled(await self._inner.get(key), fault)

        return await self._send("get", key, read)

    async def get_range(self, key: str, start: int, size: int) -> bytes:
        """Return up to `size` bytes from `start`, or what is given out as such."""

        async def read(fault: Fault | None) -> bytes:
            return self._spoiled(await self._inner.get_range(key, start, size), fault)

        return await self._send("get_range", key, read)

    async def head(self, key: str) -> ObjectInfo:
        """Return the object's size and time."""
        return await self._send("head", key, lambda _fault: self._inner.head(key))

    async def list(self, prefix: str) -> AsyncIterator[ObjectInfo]:
        """Yield the objects whose key starts with `prefix`, more or less."""

        async def read(fault: Fault | None) -> Iterable[ObjectInfo]:
            return self._relisted(prefix, [info async for info in self._inner.list(prefix)], fault)

        for info in await self._send("list", prefix, read):
            yield info

    async def delete(self, key: str) -> None:
        """Delete the object, perhaps."""

        async def remove(fault: Fault | None) -> None:
            try:
                known, data = await self._inner.head(key), await self._inner.get(key)
            except NotFoundError:
                return
            if fault is Fault.IGNORED:
                return
            await self._inner.delete(key)
            self._deleted[key] = known
            if fault is Fault.RESURRECTED:
                self._later(lambda: self._inner.create(key, data))

        await self._send("delete", key, remove)

    # --- one request -----------------------------------------------------------------------------------------------------------

    async def _send(self, operation: str, key: str, happen: Callable[[Fault | None], Awaitable[T]]) -> T:
        for attempt in itertools.count(1):
            try:
                return await self._send_once(operation, key, happen)
            except StoreError as error:
                if not error.retryable or attempt >= self._attempts:
                    raise
        raise AssertionError("counting has no end")

    async def _send_once(self, operation: str, key: str, happen: Callable[[Fault | None], Awaitable[T]]) -> T:
        await self.land()
        self.requests += 1
        fault = self._draw(operation, key)
        failure = self._refusal(fault, key)
        if fault is not None:
            self.log.append(Incident(self.requests, self._clock.monotonic_ns(), operation, key, fault))
        if fault is Fault.LATE:
            self._later(lambda: happen(None))
        elif failure is None or fault in (Fault.LOST, Fault.ECHO):
            answer = await happen(fault)
        if failure is None:
            return answer
        if fault in _SILENT and self.faults.wait_s:
            await self._clock.sleep(self.faults.wait_s)
        raise failure

    def _draw(self, operation: str, key: str) -> Fault | None:
        """Return what happens to a request; the generator is asked once, whatever the answer."""
        point = self._random.random()
        now_ns = self._clock.monotonic_ns()
        if now_ns < self._refused_until_ns:
            return Fault.EXPIRED
        if now_ns < self._silent_until_ns:
            return Fault.OUTAGE
        suits = FAULTS_OF[operation]
        planned = self.faults.schedule.get(self.requests)
        if planned is not None:
            return planned if planned in suits else None
        if self.faults.where(operation, key):
            for fault, rate in self.faults.rates.items():
                if fault in suits:
                    if point < rate:
                        return fault
                    point -= rate
        return None

    def _refusal(self, fault: Fault | None, key: str) -> StoreError | None:
        """Return what the client gets to hear instead of an answer, or None if it gets one."""
        now_ns = self._clock.monotonic_ns()
        if fault is Fault.EXPIRED:
            if now_ns >= self._refused_until_ns:
                self._refused_until_ns = now_ns + int(self.faults.expired_s * SECOND_NS)
            return StoreError(f"{key}: refused: 403 ExpiredToken", hint="check the credentials and the bucket's policy")
        if fault is Fault.OUTAGE and now_ns >= self._silent_until_ns:
            self._silent_until_ns = now_ns + int(self.faults.outage_s * SECOND_NS)
        if fault in (Fault.CONFLICT, Fault.ECHO):
            return AlreadyExistsError(f"{key}: an object is there")
        text = _TEXTS.get(fault) if fault is not None else None
        return None if text is None else StoreError(f"{key}: {text}", retryable=True)

    def _later(self, happen: Callable[[], Awaitable[object]]) -> None:
        due_ns = self._clock.monotonic_ns() + int(self._random.uniform(*self.faults.late_s) * SECOND_NS)
        heapq.heappush(self._late, (due_ns, self.requests, happen))

    # --- what is done to bytes and listings ------------------------------------------------------------------------------------

    def _spoiled(self, data: bytes, fault: Fault | None) -> bytes:
        if fault is Fault.TRUNCATED and data:
            return data[: self._random.randrange(len(data))]
        return self._flipped(data) if fault is Fault.CORRUPT else data

    def _flipped(self, data: bytes) -> bytes:
        """Return `data` with one bit turned over; nothing becomes one byte."""
        if not data:
            return b"\0"
        byte, bit = divmod(self._random.randrange(len(data) * 8), 8)
        return data[:byte] + bytes([data[byte] ^ 1 << bit]) + data[byte + 1 :]

    def _relisted(self, prefix: str, found: Sequence[ObjectInfo], fault: Fault | None) -> Sequence[ObjectInfo]:
        if fault is Fault.GHOSTS:
            known = {info.key for info in found}
            return [*found, *(i for key, i in sorted(self._deleted.items()) if key.startswith(prefix) and key not in known)]
        if fault is Fault.OMITTED:
            return [info for info in found if self._random.random() >= OMITTED_SHARE]
        if fault is Fault.REPEATED:
            return [info for info in found for _ in range(2 if self._random.random() < OMITTED_SHARE else 1)]
        return found
