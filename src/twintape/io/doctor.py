"""Examines an object store: what it promises is tried out, under a prefix of the examination's own, and tidied up.

A probe returns what it measured or raises `UnwellError`. Each says what depends on it (`Weight`), which decides the verdict, what it means and what to
do about it. Nothing outside `doctor/v1/` is touched, but for the permissions of a role, which are tried where the role works (`io.roles`).
"""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from twintape.core.errors import StoreError
from twintape.io.conditions import Fitness, Verdict, VerdictLine, verdict_key

if TYPE_CHECKING:
    from twintape.io.ports import Clock, Store
    from twintape.io.s3 import Bucket

__all__ = ["Checkup", "Finding", "Outcome", "Patient", "Probe", "UnwellError", "Weight", "examine", "fitness_of", "store_verdict"]

PROBE_PREFIX = "doctor/v1/probe/"
REQUESTS_MAX = 16
"""Requests under way at the same time."""
TIDY_ROUNDS_MAX = 3
"""How often deleting what an examination made is tried."""

Progress = Callable[[str, int, int], None]


class UnwellError(Exception):
    """A probe found what it must not find."""


class UnaskedError(Exception):
    """A probe could not be made here; nothing is known."""


class Outcome(StrEnum):
    """How a probe ended."""

    PASSED = "passed"
    FAILED = "failed"
    WARNING = "warning"
    UNKNOWN = "unknown"


class Weight(StrEnum):
    """What depends on a probe."""

    EVERYTHING = "everything"
    """Recording, merging or reading go wrong without it: the store is refused."""
    CONCURRENCY = "concurrency"
    """Without it only one merge or prune may run at a time."""
    COMFORT = "comfort"
    """Worth knowing; nothing is lost without it."""


@dataclass(frozen=True, slots=True)
class Probe:
    """One question to a store.

    Attributes:
        name: Of the probe, for machines.
        meaning: What is true if it passes, and why that matters.
        advice: What to do if it does not.
        weight: What depends on it.
        ask: Asks; returns the facts, or raises `UnwellError` (or `UnaskedError`) with them.
    """

    name: str
    meaning: str
    advice: str
    weight: Weight
    ask: Callable[[Patient], Awaitable[str]]


@dataclass(frozen=True, slots=True)
class Finding:
    """What a probe found, how long it took, and whether the store failed to give an answer at all."""

    probe: Probe
    outcome: Outcome
    detail: str
    seconds: float
    unanswered: bool = False


@dataclass(slots=True)
class Patient:
    """A store under examination.

    Attributes:
        store: The store.
        clock: Ours.
        examination: 16 fresh hex digits: everything put is under them.
        draw_id: Returns 16 fresh hex digits.
        bucket: The bucket's settings, or None where they cannot be seen.
        collector: Whose permissions are in question, or None.
        quick: Leave out what needs over a thousand requests or 16 MiB.
        made: Keys that may exist because of this examination.
    """

    store: Store
    clock: Clock
    examination: str
    draw_id: Callable[[], str]
    bucket: Bucket | None = None
    collector: str | None = None
    quick: bool = False
    made: set[str] = field(default_factory=set)

    def key(self, name: str) -> str:
        """Return a key of this examination."""
        return f"{PROBE_PREFIX}{self.examination}/{name}"

    async def create(self, key: str, data: bytes) -> None:
        """Put an object that is to be tidied up."""
        self.made.add(key)
        await self.store.create(key, data)

    async def put(self, name: str, data: bytes) -> str:
        """Put an object of this examination and return its key."""
        await self.create(self.key(name), data)
        return self.key(name)

    async def all_of(self, requests: Sequence[Awaitable[None]]) -> None:
        """Make many requests, a few at a time."""
        limit = asyncio.Semaphore(REQUESTS_MAX)

        async def one(request: Awaitable[None]) -> None:
            async with limit:
                await request

        await asyncio.gather(*(one(request) for request in requests))

    async def seconds(self, request: Callable[[], Awaitable[object]], times: int) -> float:
        """Return the median duration of a request."""
        taken = []
        for _ in range(times):
            begin_ns = self.clock.monotonic_ns()
            await request()
            taken.append((self.clock.monotonic_ns() - begin_ns) / 1e9)
        return statistics.median(taken)


@dataclass(frozen=True, slots=True)
class Checkup:
    """All that an examination found. `left` are keys that could not be tidied up."""

    findings: list[Finding]
    fitness: Fitness
    left: list[str]


async def examine(patient: Patient, probes: Sequence[Probe], progress: Progress = lambda _what, _done, _total: None) -> Checkup:
    """Ask all probes, one after the other, and tidy up. If the first gets no answer nothing else is asked."""
    findings: list[Finding] = []
    for number, probe in enumerate(probes, 1):
        progress(probe.name, number, len(probes))
        if findings and findings[0].unanswered:
            findings.append(Finding(probe, Outcome.UNKNOWN, f"not asked: {findings[0].probe.name} got no answer", 0.0))
        else:
            findings.append(await _ask(patient, probe))
    return Checkup(findings, fitness_of(findings), await _tidy(patient))


async def _ask(patient: Patient, probe: Probe) -> Finding:
    begin_ns = patient.clock.monotonic_ns()
    unanswered = False
    try:
        outcome, detail = Outcome.PASSED, await probe.ask(patient)
    except UnaskedError as error:
        outcome, detail = Outcome.UNKNOWN, str(error)
    except (UnwellError, StoreError) as error:
        outcome, detail = Outcome.WARNING if probe.weight is Weight.COMFORT else Outcome.FAILED, str(error)
        unanswered = isinstance(error, StoreError) and error.retryable
    return Finding(probe, outcome, detail, (patient.clock.monotonic_ns() - begin_ns) / 1e9, unanswered)


def fitness_of(findings: Sequence[Finding]) -> Fitness:
    """Return what a store is good for that a doctor found this of."""
    failed = {finding.probe.weight for finding in findings if finding.outcome is Outcome.FAILED}
    if Weight.EVERYTHING in failed:
        return Fitness.REFUSE
    return Fitness.SINGLE_MERGER if Weight.CONCURRENCY in failed else Fitness.FULL


async def _tidy(patient: Patient) -> list[str]:
    """Delete what this examination made; return what is still there."""
    left = sorted(patient.made)
    for _ in range(TIDY_ROUNDS_MAX):
        answers = await asyncio.gather(*(_delete(patient, key) for key in left))
        left = [key for key, gone in zip(left, answers, strict=True) if not gone]
        if not left:
            break
    return left


async def _delete(patient: Patient, key: str) -> bool:
    try:
        await patient.store.delete(key)
    except StoreError:
        return False
    return True


async def store_verdict(patient: Patient, checkup: Checkup, version: str) -> str:
    """Write a verdict into the store, where merges and prunes look for it; returns its key.

    Raises:
        StoreError: The store would not take it.
    """
    import msgspec

    lines = [VerdictLine(name=f.probe.name, outcome=f.outcome, detail=f.detail) for f in checkup.findings]
    verdict = Verdict(write_id=patient.examination, fitness=checkup.fitness, version=f"twintape {version}", probes=lines)
    key = verdict_key(patient.examination)
    await patient.store.create(key, msgspec.json.encode(verdict))
    return key
