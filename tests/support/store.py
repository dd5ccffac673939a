"""Small recordings of a made-up exchange, sealed and put in a store, and stores that die, dawdle and lie.

The exchange knows its true book behind every event, so that whatever the archive says can be compared with it.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import random
import tempfile
from bisect import bisect_right
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from twintape.core import names, wire
from twintape.core.manifest import Proof, PrunePolicy, PruneReport, decode
from twintape.core.markets import Market
from twintape.core.segment import ChainLink, Sealed, seal
from twintape.io.catalog import list_heads
from twintape.io.disk import PosixDisk
from twintape.io.executor import InlineExecutor
from twintape.io.merge import DayOutcome, MergeRun, merge_date
from twintape.io.ports import ClockQuality, Executor, ObjectInfo, Store
from twintape.io.prune import PrunePlan, PruneRun, execute_prune, plan_prune
from twintape.io.store import MemoryStore

DAYS = ("2026-03-01", "2026-03-02", "2026-03-03")
HOUR_NS = 3_600_000_000_000
STREAM = "depth@100ms"
Line = tuple[int, bytes]


def time_us(text: str) -> int:
    """Return microseconds since 1970 of an ISO time in UTC."""
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()) * 1_000_000


PERIODS = (
    (time_us("2026-03-01T23:55:00"), time_us("2026-03-02T00:05:00")),
    (time_us("2026-03-02T11:55:00"), time_us("2026-03-02T12:05:00")),
    (time_us("2026-03-02T23:55:00"), time_us("2026-03-03T00:05:00")),
)
"""When something happens: around both midnights of the middle day, and at its noon."""


# --- the exchange --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Event:
    time_us: int
    prev: int
    first: int
    final: int
    bids: tuple[tuple[int, int], ...]
    asks: tuple[tuple[int, int], ...]


class Exchange:
    """One symbol: events over the periods, and the true book behind each of them (prices in hundredths, quantities in thousandths)."""

    def __init__(
        self, symbol: str = "BTCUSDT", market: Market = Market.SPOT, *, seed: int = 1, events: int = 180, periods: Any = PERIODS
    ) -> None:
        self.symbol, self.market = symbol, market
        rng = random.Random(f"{symbol} {market} {seed}")
        bids = {price: rng.randint(1, 9999) for price in range(9980, 10000)}
        asks = {price: rng.randint(1, 9999) for price in range(10001, 10021)}
        final = rng.randint(10**6, 10**9)
        share = events // len(periods)
        times = sorted(rng.randrange(a, b, 1000) for a, b in periods for _ in range(share))
        self.events: list[Event] = []
        self.books = [(dict(bids), dict(asks))]
        for time in times:
            prev = final
            first = prev + 1 if market is Market.SPOT else prev + rng.randint(1, 20)
            final = first + rng.randint(0, 9)
            changed_bids = tuple(
                (rng.randint(9970, 9999), rng.choice((0, rng.randint(1, 9999)))) for _ in range(rng.randint(0, 3))
            )
            changed_asks = tuple(
                (rng.randint(10001, 10030), rng.choice((0, rng.randint(1, 9999)))) for _ in range(rng.randint(1, 3))
            )
            changed_bids, changed_asks = tuple(dict(changed_bids).items()), tuple(dict(changed_asks).items())
            for side, changes in ((bids, changed_bids), (asks, changed_asks)):
                for price, quantity in changes:
                    side.pop(price, None)
                    if quantity:
                        side[price] = quantity
            self.events.append(Event(time, prev, first, final, changed_bids, changed_asks))
            self.books.append((dict(bids), dict(asks)))

    def __len__(self) -> int:
        return len(self.events)

    def frame(self, position: int, *, stream: str = STREAM, shift_ms: int = 0) -> bytes:
        """Return the event as the exchange sends it; `shift_ms` moves `E`, as spot connections do."""
        event = self.events[position]
        times = f'"E":{event.time_us // 1000 + shift_ms},'
        if self.market is not Market.SPOT:
            times += f'"T":{event.time_us // 1000 - 1},'
        pu = "" if self.market is Market.SPOT else f'"pu":{event.prev},'
        name = f"{self.symbol.lower()}@{stream}"
        return (
            f'{{"stream":"{name}","data":{{"e":"depthUpdate",{times}"s":"{self.symbol}","U":{event.first},"u":{event.final},{pu}'
            f'"b":{_pairs(event.bids)},"a":{_pairs(event.asks)}}}}}'
        ).encode()

    def ticker(self, position: int) -> bytes:
        """Return a bookTicker frame with the event's time (spot's has none, as the exchange sends it)."""
        event, (bids, asks) = self.events[position], self.books[position + 1]
        best = f'"b":"{max(bids) / 100:.2f}","B":"1.000","a":"{min(asks) / 100:.2f}","A":"2.000"'
        time = "" if self.market is Market.SPOT else f',"T":{event.time_us // 1000},"E":{event.time_us // 1000}'
        kind = "" if self.market is Market.SPOT else '"e":"bookTicker",'
        data = f'{{{kind}"u":{event.final},"s":"{self.symbol}",{best}{time}}}'
        return f'{{"stream":"{self.symbol.lower()}@bookTicker","data":{data}}}'.encode()

    def body(self, position: int) -> bytes:
        """Return the REST body with the book behind event `position` (-1: before the first)."""
        bids, asks = self.books[position + 1]
        final = self.events[position].final if position >= 0 else self.events[0].prev
        ordered = sorted(bids.items(), reverse=True), sorted(asks.items())
        return f'{{"lastUpdateId":{final},"bids":{_pairs(ordered[0])},"asks":{_pairs(ordered[1])}}}'.encode()

    def position_at(self, at_us: int) -> int:
        """Return the position of the last event whose time is not later, -1 if there is none."""
        return bisect_right([event.time_us for event in self.events], at_us) - 1

    def true_book(self, position: int) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
        bids, asks = self.books[position + 1]
        return sorted(bids.items(), reverse=True), sorted(asks.items())


def _pairs(levels: Iterable[tuple[int, int]]) -> str:
    return "[" + ",".join(f'["{p // 100}.{p % 100:02d}","{q // 1000}.{q % 1000:03d}"]' for p, q in levels) + "]"


# --- recorders -----------------------------------------------------------------------------------------------------------------


@dataclass
class Recorder:
    """One collector's hearing of some exchanges of one market.

    Attributes:
        name: Collector.
        lost: Symbol → positions that this line did not hear.
        latency_ns: How much later than `E` it hears everything.
        shift_ms: Added to its `E`.
        snapshots: Positions behind which it takes a REST snapshot.
        segments: Into how many objects its lines are cut.
        reconnects: Positions (of any symbol) from which it hears on a new connection.
        extra: Further lines, at their receive times.
    """

    name: str
    lost: dict[str, set[int]] = field(default_factory=dict)
    latency_ns: int = 5_000_000
    shift_ms: int = 0
    snapshots: Sequence[int] = (0,)
    segments: int = 5
    reconnects: Sequence[int] = ()
    extra: Sequence[Line] = ()
    tickers: bool = True

    def lines(self, exchanges: Sequence[Exchange]) -> list[Line]:
        """Return everything heard, in order of receipt."""
        heard: list[tuple[int, int, bytes]] = []
        counter = itertools.count()
        for exchange in exchanges:
            lost = self.lost.get(exchange.symbol, set())
            for position, event in enumerate(exchange.events):
                at = event.time_us * 1000 + self.latency_ns
                if position not in lost:
                    heard.append((at, next(counter), exchange.frame(position, shift_ms=self.shift_ms)))
                    if self.tickers:
                        heard.append((at + 7, next(counter), exchange.ticker(position)))
                if position in self.snapshots:
                    line = wire.snapshot_line(
                        symbol=exchange.symbol,
                        url=f"https://api.example/depth?symbol={exchange.symbol}&limit=1000",
                        request_time_ns=at,
                        response_time_ns=at + 11,
                        status=200,
                        body=exchange.body(position),
                    )
                    heard.append((at + 11, next(counter), line))
        heard += [(at, next(counter), frame) for at, frame in self.extra]
        heard.sort()
        return [(at, frame) for at, _, frame in heard]

    def seals(self, exchanges: Sequence[Exchange]) -> list[Sealed]:
        """Return the sealed segments of the recording, in order."""
        market = exchanges[0].market
        run = hashlib.sha256(f"{self.name} {market}".encode()).hexdigest()[:32]
        lines = self.lines(exchanges)
        cuts = [len(lines) * k // self.segments for k in range(self.segments + 1)]
        starts = [exchanges[0].events[k].time_us * 1000 for k in self.reconnects]
        edges = sorted({*cuts, *(next(i for i, line in enumerate(lines) if line[0] >= at) for at in starts)})
        sealed: list[Sealed] = []
        sequence, connection = 0, 1
        for begin, end in itertools.pairwise(edges):
            now = 1 + sum(lines[begin][0] >= at for at in starts)
            sequence = sequence + 1 if now == connection else 1
            connection = now
            opening = wire.open_line(
                collector=self.name,
                market=market,
                run=run,
                connection=connection,
                sequence=sequence,
                url="wss://stream.example",
                streams=[f"{exchange.symbol.lower()}@{STREAM}" for exchange in exchanges],
                version="test",
                event_time_us=None,
            )
            sealed.append(
                seal(
                    [(lines[begin][0], opening), *lines[begin:end]],
                    collector=self.name,
                    market=market,
                    run=run,
                    connection=connection,
                    sequence=sequence,
                    chain=ChainLink(
                        id=run[:16],
                        number=len(sealed),
                        previous=sealed[-1].sha256 if sealed else None,
                        reason=None if sealed else "new spool",
                    ),
                )
            )
        return sealed


def put(store: Store, segments: Iterable[Sealed]) -> list[str]:
    """Put sealed segments in a store; returns their keys."""
    keys = []
    for sealed in segments:
        asyncio.run(store.create(sealed.key, sealed.data))
        keys.append(sealed.key)
    return keys


# --- runs ----------------------------------------------------------------------------------------------------------------------


class FixedClock:
    """A wall clock that stands still."""

    def wall_ns(self) -> int:
        return 1_800_000_000_000_000_000

    def monotonic_ns(self) -> int:
        return 0

    def quality(self) -> ClockQuality:
        return ClockQuality(None, None, "none")

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(0 * seconds)


_ids = itertools.count(1)


def merge_run(store: Store, scratch: str, *, executor: Executor | None = None, jobs: int = 1) -> MergeRun:
    """Return a merge run with a fresh scratch directory under `scratch`."""
    root = tempfile.mkdtemp(dir=scratch)
    return MergeRun(
        store=store,
        clock=FixedClock(),
        scratch=PosixDisk(root),
        executor=executor or InlineExecutor(),
        draw_id=lambda: f"{next(_ids):016x}",
        version="test",
        scratch_root=root,
        jobs=jobs,
    )


def merge(store: Store, scratch: Any, dates: Sequence[str] = DAYS, market: Market = Market.SPOT) -> list[DayOutcome]:
    """Merge dates one after the other, each with a fresh scratch."""
    outcomes: list[DayOutcome] = []
    for date in dates:
        outcomes += asyncio.run(merge_date(merge_run(store, str(scratch)), market, date))
    return outcomes


def prune_run(store: Store, *, grace_h: float = 72, gapped_h: float = 14 * 24, deletions_max: int = 1000) -> PruneRun:
    return PruneRun(
        store,
        lambda: f"{next(_ids):016x}",
        PrunePolicy(int(grace_h * HOUR_NS), int(gapped_h * HOUR_NS)),
        deletions_max=deletions_max,
    )


def prune(store: Store, markets: Sequence[Market] = (Market.SPOT,), **options: Any) -> tuple[PrunePlan, PruneReport]:
    """Plan and execute a prune."""

    async def both() -> tuple[PrunePlan, PruneReport]:
        run = prune_run(store, **options)
        plan = await plan_prune(run, markets)
        return plan, await execute_prune(run, plan)

    return asyncio.run(both())


def keys_of(store: Store, prefix: str = "") -> list[str]:
    """Return all keys with a prefix."""

    async def collect() -> list[str]:
        return [info.key async for info in store.list(prefix)]

    return asyncio.run(collect())


def heads(store: Store, market: Market = Market.SPOT) -> dict[tuple[str, str, str], Proof]:
    """Return the head proofs of a market."""
    return {day: head.proof for day, head in asyncio.run(list_heads(store, market)).items()}


def contents(
    store: Store, market: Market = Market.SPOT, tables: Sequence[str] = ("depth", "arrival", "snapshot", "verbatim")
) -> Any:
    """Return what the archive says, day by day: status and the digest of every table. Attempts and generations do not count."""
    return {
        day: (proof.status, sorted((output.table, output.sha256) for output in proof.outputs if output.table in tables))
        for day, proof in heads(store, market).items()
    }


def proof_at(store: Store, key: str) -> Proof:
    return decode(asyncio.run(store.get(key)), Proof, where=key)


def copy_of(store: MemoryStore, prefix: str = "", **options: Any) -> MemoryStore:
    """Return a new memory store with the same objects; their times are the new clock's."""
    fresh = MemoryStore(**options)
    for key in keys_of(store, prefix):
        asyncio.run(fresh.create(key, asyncio.run(store.get(key))))
    return fresh


def generations(store: Store) -> list[str]:
    """Return the keys of all proofs."""
    return [key for key in keys_of(store, "proof/") if names.parse_proof_key(key)]


# --- stores that misbehave -----------------------------------------------------------------------------------------------------


class Killed(BaseException):
    """The process is gone."""


class WrappedStore:
    """Passes everything on, and calls `around` before and after each operation with its name and key."""

    def __init__(self, inner: Store, around: Callable[[str, str, bool], Any] = lambda _name, _key, _done: None) -> None:
        self.inner = inner
        self._around = around

    @property
    def url(self) -> str:
        return self.inner.url

    async def _call(self, name: str, key: str, *arguments: Any) -> Any:
        await self._tell(name, key, done=False)
        answer = await getattr(self.inner, name)(key, *arguments)
        await self._tell(name, key, done=True)
        return answer

    async def _tell(self, name: str, key: str, *, done: bool) -> None:
        waiting = self._around(name, key, done)
        if waiting is not None:
            await waiting

    async def create(self, key: str, data: bytes) -> None:
        await self._call("create", key, data)

    async def get(self, key: str) -> bytes:
        return await self._call("get", key)

    async def get_range(self, key: str, start: int, size: int) -> bytes:
        return await self._call("get_range", key, start, size)

    async def head(self, key: str) -> ObjectInfo:
        return await self._call("head", key)

    async def delete(self, key: str) -> None:
        await self._call("delete", key)

    async def list(self, prefix: str) -> AsyncIterator[ObjectInfo]:
        await self._tell("list", prefix, done=False)
        found = [info async for info in self.inner.list(prefix)]
        await self._tell("list", prefix, done=True)
        for info in found:
            yield info


class DyingStore(WrappedStore):
    """Kills whoever uses it at step `step`: each operation is two steps, before it takes effect and after. Dead, it does nothing more.

    Attributes:
        steps: Steps taken.
        log: `(operation, key)` of every operation that took effect.
    """

    def __init__(self, inner: Store, step: int) -> None:
        super().__init__(inner, self._step)
        self._last = step
        self.steps = 0
        self.log: list[tuple[str, str]] = []

    def _step(self, name: str, key: str, done: bool) -> None:
        if done:
            self.log.append((name, key))
        if self.steps >= self._last:
            raise Killed
        self.steps += 1


class DawdlingStore(WrappedStore):
    """Lets other tasks run, seldom or often, before and after each operation, as a seed says."""

    def __init__(self, inner: Store, rng: random.Random) -> None:
        super().__init__(inner, self._wait)
        self._rng = rng

    async def _wait(self, _name: str, _key: str, _done: bool) -> None:
        for _ in range(self._rng.choice((0, 0, 1, 2, 5, 20))):
            await asyncio.sleep(0)
