"""What is in the store: raw segments with their indexes, and the head proof of each day.

LIST is never trusted: raw objects it omits are simply no inputs (and never deleted), and a head is found by asking for one generation after the
other until one is absent.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TypeVar

from twintape.core import names, segment
from twintape.core.errors import CorruptionError, NotFoundError, StoreError
from twintape.core.manifest import Missing, Plan, Proof, PruneReceipt, Unreadable, decode, digest
from twintape.core.markets import Market
from twintape.io.ports import ObjectInfo, Store

__all__ = [
    "REQUESTS_MAX",
    "Head",
    "RawSegment",
    "RawView",
    "find_head",
    "list_days",
    "list_heads",
    "missing_numbers",
    "read_heads",
    "read_segments",
    "sound",
]

T = TypeVar("T")

REQUESTS_MAX = 16
"""Requests under way at the same time."""
TAIL_BYTES = 64 * 1024
"""What is read first of an object to find its index."""


@dataclass(frozen=True, slots=True)
class RawSegment:
    """A raw object as its key and its index describe it."""

    info: ObjectInfo
    key: names.RawKey
    index: segment.Index
    index_sha256: str


@dataclass(slots=True)
class RawView:
    """Raw segments of one market, by key, and those whose index cannot be read."""

    segments: dict[str, RawSegment] = field(default_factory=dict)
    unreadable: list[Unreadable] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Head:
    """The highest generation of a day: its proof, the proof's key and digest."""

    key: str
    sha256: str
    proof: Proof


async def read_segments(store: Store, market: Market, dates: Iterable[str] | None = None) -> RawView:
    """List the raw objects of a market and read their indexes.

    Args:
        store: Where they are.
        market: Which market.
        dates: Only segments filed under these dates; None for all.

    Raises:
        StoreError: The store failed. (A damaged object is no such failure: it is reported in the view.)
    """
    wanted = None if dates is None else set(dates)
    found: dict[str, tuple[ObjectInfo, names.RawKey]] = {}
    async for info in store.list("raw/v1/"):
        key = names.parse_raw_key(info.key)
        if key is not None and key.market == market and (wanted is None or key.date in wanted):
            found[info.key] = (info, key)
    view = RawView()
    limit = asyncio.Semaphore(REQUESTS_MAX)

    async def read_once(info: ObjectInfo, key: names.RawKey) -> RawSegment:
        index, index_sha256 = await read_index(store, info)
        _check_key(key, index)
        return RawSegment(info, key, index, index_sha256)

    async def read(info: ObjectInfo, key: names.RawKey) -> None:
        async with limit:
            try:
                view.segments[info.key] = await sound(lambda: read_once(info, key))
            except NotFoundError:
                return  # LIST showed a ghost, or a prune was faster: it is no input
            except CorruptionError as error:
                view.unreadable.append(Unreadable(key=info.key, reason=str(error)))

    await asyncio.gather(*(read(info, key) for info, key in found.values()))
    view.segments = dict(sorted(view.segments.items()))
    view.unreadable.sort(key=lambda unreadable: unreadable.key)
    return view


async def sound(read: Callable[[], Awaitable[T]]) -> T:
    """Read something and, if it is damaged, once more: the damage may have been done on the way.

    Raises:
        CorruptionError: It was damaged each time.
    """
    try:
        return await read()
    except CorruptionError:
        return await read()


async def read_index(store: Store, info: ObjectInfo) -> tuple[segment.Index, str]:
    """Read a raw object's index from its end.

    Returns:
        The index and the digest of its JSON text.

    Raises:
        CorruptionError: It is damaged.
        StoreError: The store failed.
    """
    size = min(TAIL_BYTES, info.size)
    while True:
        tail = await store.get_range(info.key, info.size - size, size)
        text = segment.index_json(tail, info.size)
        if not isinstance(text, segment.NeedMore):
            return segment.parse_index(text, info.size), digest(text)
        if text.size <= size or text.size > info.size:
            raise CorruptionError(f"{info.key}: the index claims {text.size} of {info.size} bytes")
        size = text.size


def _check_key(key: names.RawKey, index: segment.Index) -> None:
    expected = index.raw_key(key.digest16)
    if expected != key:
        raise CorruptionError(f"the index belongs under {expected.key()}")


async def find_head(store: Store, market: Market, symbol: str, stream: str, date: str, *, known: int = 0) -> Head | None:
    """Return the head proof of a day, or None if it has none.

    Args:
        store: Where it is.
        market: The day's market.
        symbol: Its symbol.
        stream: Its stream.
        date: Its date.
        known: A generation that is known to exist, to start from.

    Raises:
        CorruptionError: The proof is damaged.
        StoreError: The store failed.
    """
    head: bytes | None = None
    generation = max(known, 1)
    while True:
        try:
            head = await store.get(names.proof_key(market, symbol, stream, date, generation))
        except NotFoundError:
            break
        generation += 1
    if head is None:
        if known:
            raise StoreError(f"generation {known} of {symbol} {stream} {date} was listed and is gone", retryable=True)
        return None
    key = names.proof_key(market, symbol, stream, date, generation - 1)
    return Head(key, digest(head), decode(head, Proof, where=key))


async def list_days(
    store: Store, market: Market, *, symbol: str | None = None, stream: str | None = None, dates: Iterable[str] | None = None
) -> dict[tuple[str, str, str], int]:
    """Return the days LIST knows of, `(symbol, stream, date)` → the highest generation it shows, sorted. No proof is read.

    Raises:
        StoreError: The store failed.
    """
    wanted = None if dates is None else set(dates)
    days: dict[tuple[str, str, str], int] = {}
    async for info in store.list(names.proof_prefix(market, symbol, stream)):
        key = names.parse_proof_key(info.key)
        if key is None or (stream is not None and key.stream != stream) or (wanted is not None and key.date not in wanted):
            continue
        day = (key.symbol, key.stream, key.date)
        days[day] = max(days.get(day, 0), key.generation)
    return dict(sorted(days.items()))


async def list_heads(
    store: Store, market: Market, *, symbol: str | None = None, stream: str | None = None, dates: Iterable[str] | None = None
) -> dict[tuple[str, str, str], Head]:
    """Return the heads of all days LIST knows of, by `(symbol, stream, date)`, sorted.

    A proof names every raw segment of its day, so that years of them are more than a machine can hold: say which dates.

    Raises:
        CorruptionError: A proof is damaged.
        StoreError: The store failed.
    """
    return await read_heads(store, market, await list_days(store, market, symbol=symbol, stream=stream, dates=dates))


async def read_heads(store: Store, market: Market, days: Mapping[tuple[str, str, str], int]) -> dict[tuple[str, str, str], Head]:
    """Return the heads of days by `(symbol, stream, date)`, sorted; `days` says which generation of each is known to exist.

    Raises:
        CorruptionError: A proof is damaged.
        StoreError: The store failed.
    """
    limit = asyncio.Semaphore(REQUESTS_MAX)
    heads: dict[tuple[str, str, str], Head] = {}

    async def read(day: tuple[str, str, str], known: int) -> None:
        async with limit:
            head = await find_head(store, market, *day, known=known)
        if head is not None:
            heads[day] = head

    await asyncio.gather(*(read(day, known) for day, known in days.items()))
    return dict(sorted(heads.items()))


async def pruned_numbers(
    store: Store, market: Market, dates: Sequence[str], holes: Iterable[Missing] | None = None
) -> dict[tuple[str, str], set[int]]:
    """Return the chain numbers of objects that a prune found settled, by `(collector, chain)`: they may be gone and are not missing.

    A merge's plan alone does not vouch for an object: it may have been lost before all its streams were merged.

    Args:
        store: Where plans and receipts are.
        market: Which market.
        dates: Whose plans name the objects.
        holes: Only these numbers are asked for; None for all. Receipts are read, the newest first, until each is accounted for: there are years of them.

    Raises:
        CorruptionError: A plan or a receipt is damaged.
        StoreError: The store failed.
    """
    inside: dict[tuple[str, str], list[tuple[int, int]]] = {}
    for hole in holes or ():
        inside.setdefault((hole.collector, hole.chain), []).extend(hole.numbers)
    wanted: dict[str, tuple[tuple[str, str], int]] = {}
    for date in dates:
        async for info in store.list(f"plan/v1/market={market}/date={date}/"):
            try:
                plan = decode(await store.get(info.key), Plan, where=info.key)
            except NotFoundError:
                continue
            for source in plan.inputs:
                chain = (source.collector, source.chain)
                if holes is None or any(first <= source.number <= last for first, last in inside.get(chain, ())):
                    wanted[source.key] = chain, source.number
    receipts = [info async for info in store.list("receipt/v1/") if info.key.endswith("/plan.json")] if wanted else []
    found: dict[tuple[str, str], set[int]] = {}
    for info in sorted(receipts, key=lambda info: (info.modified_ns, info.key), reverse=True):
        try:
            receipt = decode(await store.get(info.key), PruneReceipt, where=info.key)
        except NotFoundError:
            continue
        for deletion in receipt.delete:
            settled = wanted.pop(deletion.key, None)
            if settled is not None:
                found.setdefault(settled[0], set()).add(settled[1])
        if not wanted:
            break
    return found


def missing_numbers(
    segments: Iterable[RawSegment], known: dict[tuple[str, str], set[int]], before: Iterable[Missing] = ()
) -> list[Missing]:
    """Return the holes in the serial chains of the segments at hand.

    Args:
        segments: What was listed.
        known: Numbers that are accounted for without being listed.
        before: Holes that earlier proofs speak of: the segments around them may be gone, the holes are not.
    """
    present: dict[tuple[str, str], set[int]] = {}
    digests: dict[tuple[str, str, int], str] = {}
    links: list[tuple[str, str, int, str]] = []
    for found in segments:
        chain = found.index.chain
        present.setdefault((found.key.collector, chain.id), set()).add(chain.number)
        digests[found.key.collector, chain.id, chain.number] = found.key.digest16
        if chain.previous is not None:
            links.append((found.key.collector, chain.id, chain.number - 1, chain.previous))
    holes: dict[tuple[str, str], set[tuple[int, int]]] = {}
    for collector, chain_id, number, previous in links:
        # Another object under the number before means that the one this segment follows is not at hand.
        if not previous.startswith(digests.get((collector, chain_id, number), previous)):
            holes.setdefault((collector, chain_id), set()).add((number, number))
    for chain_of, numbers in present.items():
        have = numbers | {n for n in known.get(chain_of, ()) if min(numbers) < n < max(numbers)}
        holes.setdefault(chain_of, set()).update(_between(sorted(have)))
    for hole in before:
        chain_of = (hole.collector, hole.chain)
        have = present.get(chain_of, set()) | known.get(chain_of, set())
        for first, last in hole.numbers:
            filled = sorted(n for n in have if first <= n <= last)
            holes.setdefault(chain_of, set()).update(_between([first - 1, *filled, last + 1]))
    return [
        Missing(collector=collector, chain=chain_id, numbers=_outermost(ranges))
        for (collector, chain_id), ranges in sorted(holes.items())
        if ranges
    ]


def _between(numbers: Sequence[int]) -> list[tuple[int, int]]:
    return [(a + 1, b - 1) for a, b in pairwise(numbers) if b > a + 1]


def _outermost(ranges: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return the ranges that lie in no other, sorted."""
    kept: list[tuple[int, int]] = []
    for first, last in sorted(ranges, key=lambda found: (found[0], -found[1])):
        if not kept or last > kept[-1][1]:
            kept.append((first, last))
    return kept
