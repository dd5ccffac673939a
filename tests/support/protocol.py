"""Publishing and deleting under every fault of the store and beside one another: the same archive in the end, and nothing lost.

One world is small enough to be run thousands of times: two collectors that heard different parts of some events around a midnight, merged and pruned.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support.store import (
    DAYS,
    Exchange,
    Recorder,
    WrappedStore,
    contents,
    copy_of,
    generations,
    heads,
    keys_of,
    merge,
    merge_run,
    prune,
    prune_run,
    put,
)
from support.virtual import SECOND_NS, VirtualClock
from twintape.core import names
from twintape.core.errors import TwintapeError
from twintape.core.markets import Market
from twintape.core.wire import is_depth
from twintape.io.faults import FAULTS_OF, Fault, Faults, FaultyStore
from twintape.io.merge import merge_date
from twintape.io.ports import Store
from twintape.io.prune import execute_prune, plan_prune
from twintape.io.store import MemoryStore
from twintape.io.verify import verify_published

HOUR_S = 3600
LATE_S = (3 * HOUR_S, 3 * HOUR_S)
_AMBIGUOUS = (Fault.LOST, Fault.ECHO, Fault.LATE, Fault.TIMEOUT, Fault.CONFLICT)


@dataclass
class World:
    """A store before any merge, and the archive of an undisturbed night.

    Attributes:
        raw: Only raw objects.
        merged: The same after all merges.
        wanted: What the archive must say in the end.
        scratch: A directory.
    """

    raw: MemoryStore
    merged: MemoryStore
    wanted: Any
    scratch: str


def world(scratch: Path) -> World:
    raw = MemoryStore()
    exchange = Exchange("BTCUSDT", events=12)
    for name, lost in (("tokyo", 5), ("paris", 6)):
        put(raw, Recorder(name, lost={"BTCUSDT": {lost}}, segments=3, tickers=False).seals([exchange]))
    merged = copy_of(raw)
    merge(merged, scratch)
    return World(raw, merged, contents(merged), str(scratch))


async def merge_all(store: Store, scratch: str, dates: Iterable[str] = DAYS) -> None:
    for date in dates:
        await merge_date(merge_run(store, scratch), Market.SPOT, date)


async def prune_all(store: Store) -> None:
    run = prune_run(store, grace_h=-1, gapped_h=-1)
    await execute_prune(run, await plan_prune(run, [Market.SPOT]))


def requests_of(inner: MemoryStore, work: Callable[[Store], Awaitable[None]]) -> list[tuple[str, str]]:
    """Return operation and key of every request that work makes undisturbed, in order."""
    asked: list[tuple[str, str]] = []

    def note(operation: str, key: str) -> bool:
        asked.append((operation, key))
        return False

    store = FaultyStore(copy_of(inner), clock=VirtualClock(), faults=Faults(rates={Fault.LOST: 0.0}, where=note))
    asyncio.run(_finished(work(store)))
    return asked


async def _finished(work: Awaitable[None]) -> None:
    await work


# --- one request fails -----------------------------------------------------------------------------------------------------------


def faults_for(operation: str, key: str) -> list[Fault]:
    """Return the faults that one request may meet. Stores check the digest of what is put: damage on the way is met by outputs only, which are read back."""
    kinds = [fault for fault in FAULTS_OF[operation] if fault not in (Fault.SLOW_DOWN, Fault.OUTAGE)]
    return [
        fault for fault in kinds if fault is not Fault.DAMAGED or key.startswith(tuple(f"{table}/" for table in names.TABLES))
    ]


def cases(asked: list[tuple[str, str]], *, every_kind: bool) -> Iterator[tuple[int, Fault]]:
    """Yield each request's number with all faults it may meet, or with one of them, in turn."""
    for number, (operation, key) in enumerate(asked, 1):
        kinds = faults_for(operation, key)
        yield from ((number, fault) for fault in (kinds if every_kind else [kinds[number % len(kinds)]]))


def disturbed(
    inner: MemoryStore, work: Callable[[Store], Awaitable[None]], number: int, fault: Fault
) -> tuple[MemoryStore, FaultyStore]:
    """Do work on a copy of a store while one request fails."""
    store, clock = copy_of(inner), VirtualClock()
    count = 0

    def here(operation: str, key: str) -> bool:
        nonlocal count
        count += 1  # days are merged in another order each time, so that it may be another request than in `asked`
        return count == number and fault in faults_for(operation, key)

    faulty = FaultyStore(store, clock=clock, seed=number, faults=Faults(rates={fault: 1.0}, where=here, late_s=LATE_S))

    async def attempt() -> None:
        try:
            await work(faulty)
        except TwintapeError:
            return  # the night ends here; the next one begins anew

    asyncio.run(attempt())
    clock.now_ns += 4 * HOUR_S * SECOND_NS
    return store, faulty


def check_merge(of: World, number: int, fault: Fault) -> None:
    """A merge of which one request failed, and another one, end in the same archive; a late request lands before or after it."""
    raw = set(keys_of(of.raw))
    store, faulty = disturbed(of.raw, lambda store: merge_all(store, of.scratch), number, fault)
    assert raw <= set(keys_of(store)), "a merge deletes nothing"
    for proof in heads(store).values():
        asyncio.run(verify_published(store, proof))
    if number % 2:
        asyncio.run(faulty.land())
    merge(store, of.scratch)
    asyncio.run(faulty.land(all_of_them=True))
    merge(store, of.scratch)
    assert contents(store) == of.wanted, (number, fault)
    if fault in _AMBIGUOUS:
        assert len(generations(store)) == len(heads(store)), "whatever was unclear, a day was published once"
    asyncio.run(prune_all(store))
    assert keys_of(store, "raw/") == [], (number, fault)
    assert contents(store) == of.wanted, (number, fault)


def check_prune(of: World, number: int, fault: Fault) -> None:
    """A prune of which one request failed deletes nothing else, and the next ones finish it."""
    store, faulty = disturbed(of.merged, prune_all, number, fault)
    assert contents(store) == of.wanted, (number, fault)
    for proof in heads(store).values():
        asyncio.run(verify_published(store, proof))
    asyncio.run(prune_all(store))
    asyncio.run(faulty.land(all_of_them=True))
    asyncio.run(prune_all(store))
    assert keys_of(store, "raw/") == [], (number, fault)
    merge(store, of.scratch)
    assert contents(store) == of.wanted, (number, fault)
    assert not any(outcome.fresh for outcome in merge(store, of.scratch)), (number, fault)


# --- several at once -------------------------------------------------------------------------------------------------------------


def interleaved(
    inner: MemoryStore, first: Callable[[Store], Awaitable[None]], other: Callable[[Store], Awaitable[None]], at: int
) -> MemoryStore:
    """Do `first`, and all of `other` in between, just before the request with the number `at`."""
    store = copy_of(inner)
    count = 0

    def around(_operation: str, _key: str, done: bool) -> Awaitable[None] | None:
        nonlocal count
        count += not done
        return other(store) if count == at and not done else None

    asyncio.run(_finished(first(WrappedStore(store, around))))
    return store


def agree(found: Any, wanted: Any) -> bool:
    """Return whether two archives hold the same bytes and say the same of them.

    Late data of a stream whose ids cannot tell may meet a day of which half of the raw data is gone, and with it the times at which somebody listened. Such a
    day stays what it was, partial, where it would be complete had all data come at once: a more cautious label is accepted for days that are not spliced,
    a less cautious one never.
    """
    if found.keys() != wanted.keys() or any(found[day][1] != wanted[day][1] for day in found):
        return False
    differing = [day for day in found if found[day][0] != wanted[day][0]]
    return all(not is_depth(day[1]) and (found[day][0], wanted[day][0]) == ("partial", "complete") for day in differing)


def check_interleaving(of: World, first: str, other: str, at: int) -> None:
    """Two runs, one in the middle of the other, publish each day's generations once, lose nothing and agree with an undisturbed night."""
    late = Recorder("zurich", latency_ns=9_000_000, segments=3, tickers=False).seals([Exchange("BTCUSDT", events=12)])

    async def merged(store: Store) -> None:
        await merge_all(store, of.scratch)

    async def late_data(store: Store) -> None:
        for sealed in late:
            await store.create(sealed.key, sealed.data)
        await merge_all(store, of.scratch)

    async def late_data_and_prune(store: Store) -> None:
        await late_data(store)
        await prune_all(store)

    works = {"merge": merged, "late data": late_data, "prune": prune_all, "late data, prune": late_data_and_prune}
    store = interleaved(of.raw if first == "merge" else of.merged, works[first], works[other], at)
    if "late" not in other:
        merge(store, of.scratch)
        assert contents(store) == of.wanted, (first, other, at)
    merge(store, of.scratch)
    whole = copy_of(of.raw)
    if "late" in other:
        put(whole, late)
    merge(whole, of.scratch)
    assert agree(contents(store), contents(whole)), (first, other, at)
    for proof in heads(store).values():
        asyncio.run(verify_published(store, proof))
    prune(store, grace_h=-1, gapped_h=-1)
    assert keys_of(store, "raw/") == []
    assert agree(contents(store), contents(whole)), (first, other, at)


PAIRS = (
    ("merge", "merge"),
    ("merge", "prune"),
    ("merge", "late data, prune"),
    ("prune", "prune"),
    ("prune", "late data"),
    ("prune", "late data, prune"),
)
