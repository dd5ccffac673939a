"""The exchange simulator: plays one source per market to the clients of one or more gateways.

Everything that is said is decided in `core`; this is the clock, the sockets and the pump between them.
"""

from __future__ import annotations

import asyncio
import gzip
import heapq
import json
import math
import signal
import ssl
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from twintape.core.errors import ConfigError
from twintape.core.gateway import Fault, FaultKind, GatewayOptions
from twintape.core.load import LoadSource, LoadVenue
from twintape.core.markets import Market
from twintape.core.tape import TapeSource
from twintape.core.venue import Happening, Source, StatusChange, Venue, VenueMessage
from twintape.io.exchange_gateway import Gateway, KeepAlive

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

__all__ = ["MAX_SPEED", "ExchangeConfig", "KeepAlive", "SimulatedExchange", "open_recording", "run_exchange", "tape_source"]

BATCH_MESSAGES_MAX = 256
"""After so many messages the event loop gets its turn."""
UNSENT_BYTES_HIGH = 1 << 20
"""At full speed the source waits while a client has more than this yet to take."""
UNSENT_BYTES_MAX = 64 << 20
"""At a given speed the source waits for nobody; a client this far behind is cut off."""
SLOW_READER_S_MAX = 30.0
"""At full speed a client that takes nothing for so long is cut off."""
DRAIN_POLL_S = 0.002

MAX_SPEED = math.inf


def open_recording(path: Path) -> Callable[[], Iterable[bytes]]:
    """Return what opens a recording (gzip, zstd or plain, told apart by content) from its start, line by line.

    Raises:
        ConfigError: It cannot be read.
    """
    try:
        with path.open("rb") as file:
            magic = file.read(4)
    except OSError as error:
        raise ConfigError(f"cannot read the tape {path}: {error}") from error

    def lines() -> Iterator[bytes]:
        if magic[:2] == b"\x1f\x8b":
            with gzip.open(path, "rb") as compressed:
                yield from compressed
        elif magic == b"\x28\xb5\x2f\xfd":
            with zstd.open(path, "rb") as compressed_zstd:
                yield from compressed_zstd
        else:
            with path.open("rb") as plain:
                yield from plain

    return lines


def tape_source(market: Market, paths: Sequence[Path]) -> TapeSource:
    """Return recordings of one market as a source; they are read once now and once when played.

    Raises:
        ConfigError: One cannot be read, is empty, or does not say whose snapshot it holds.
    """
    return TapeSource(market, [open_recording(path) for path in paths])


@dataclass(frozen=True, slots=True)
class ExchangeConfig:
    """What to play to whom.

    Attributes:
        sources: One per market.
        gateways: The front-ends.
        faults: By position in the sources; needs sources that end.
        statuses: What the list of symbols says, likewise.
        holds: Positions, 0 to 1, where playing stops until `start` is called again; they too need sources that end.
        speed: How many seconds of the source pass in a second; `MAX_SPEED` sends as fast as all clients read.
        wait_clients: Start when so many connections have subscribed to something; 0 starts at once, None waits for `start`.
        host: The address to listen on.
        keep_alive: Timing of pings.
        deflate: Whether permessage-deflate is granted.
        tls: Serve TLS with this context, as some clients insist; None serves plain TCP.
        weight_budgets: Request weight per minute by pool, where not as documented.
        whole_books: REST answers hold every level known, whatever their limit.
        exit_at_end: Close everything when all sources have ended.
    """

    sources: Sequence[Source]
    gateways: Sequence[GatewayOptions] = (GatewayOptions(),)
    faults: Sequence[Fault] = ()
    statuses: Sequence[StatusChange] = ()
    holds: Sequence[float] = ()
    speed: float = 1.0
    wait_clients: int | None = 0
    host: str = "127.0.0.1"
    keep_alive: KeepAlive = field(default_factory=KeepAlive)
    deflate: bool = False
    tls: ssl.SSLContext | None = None
    weight_budgets: Mapping[str, int] = field(default_factory=dict)
    whole_books: bool = False
    exit_at_end: bool = False


class SimulatedExchange:
    """An exchange on this machine: `async with SimulatedExchange(config) as exchange: …`.

    Args:
        config: What to play to whom.

    Attributes:
        gateways: In the order of the configuration; their ports are known once entered.

    Raises:
        ConfigError: Two sources of one market, a fault of a gateway there is not, faults on an endless source.
    """

    def __init__(self, config: ExchangeConfig) -> None:
        self._config = config
        self._venues = {source.market: _venue(source, whole_books=config.whole_books) for source in config.sources}
        if len(self._venues) != len(config.sources) or not config.sources:
            raise ConfigError(f"{len(config.sources)} sources of {len(self._venues)} markets: there must be one for each")
        totals = [source.total for source in config.sources]
        self._total = None if None in totals else sum(total for total in totals if total is not None)
        if (config.faults or config.statuses or config.holds) and self._total is None:
            raise ConfigError("faults and holds are placed by fractions of a source that ends", hint="give it a number of events")
        if any(fault.gateway >= len(config.gateways) for fault in config.faults):
            raise ConfigError(f"a fault of a gateway beyond the {len(config.gateways)} there are")
        tapes = any(isinstance(source, TapeSource) for source in config.sources)
        self.gateways = tuple(
            Gateway(
                number,
                options,
                self._venues,
                self,
                keep_alive=config.keep_alive,
                deflate=config.deflate,
                restamps_spot=not tapes,
                weight_budgets=config.weight_budgets,
            )
            for number, options in enumerate(config.gateways)
        )
        self._schedule = _schedule(config.faults, self._total or 0)
        self._statuses = sorted(config.statuses, key=lambda change: change.position)
        self._holds = sorted(config.holds)
        self._going = asyncio.Event()
        self._started = asyncio.Event()
        self._ended = asyncio.Event()
        self._started_wall_ns: int | None = None
        self._messages_count = 0
        self._list_symbols()
        self._offset_ns = 0
        self._source_start_ns: dict[Market, int] = {}
        self._pump: asyncio.Task[None] | None = None
        self._injected: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        """Listen, and start if nobody has to be waited for.

        Raises:
            OSError: A port is taken.
        """
        for gateway in self.gateways:
            await gateway.listen(self._config.host, self._config.tls)
        self._pump = asyncio.create_task(self._play())
        if self._config.wait_clients == 0:
            self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stop playing, cut every connection and give the ports back; an error of the pump is raised here."""
        for task in [*self._injected, self._pump]:
            if task is not None:
                task.cancel()
        for gateway in self.gateways:
            await gateway.close()
        if self._pump is not None:
            result = (await asyncio.gather(self._pump, return_exceptions=True))[0]
            if isinstance(result, Exception) and error is None:
                raise result

    def description(self) -> dict[str, object]:
        """Return the line that is printed when listening, as JSON values."""
        return {"event": "listening", "gateways": [gateway.description() for gateway in self.gateways]}

    def status(self) -> Mapping[str, object]:
        """Return what `/twintape/status` answers."""
        ids: dict[str, dict[str, int]] = {str(market): venue.last_final_update_ids() for market, venue in self._venues.items()}
        return {
            "position": self.position(),
            "messages": self._messages_count,
            "messages_sent": sum(gateway.sent_count for gateway in self.gateways),
            "total": self._total,
            "started": self._started.is_set(),
            "holding": self._started.is_set() and not self._going.is_set(),
            "ended": self._ended.is_set(),
            "start_wall_ns": self._started_wall_ns,
            "gateways": [gateway.status() for gateway in self.gateways],
            "last_final_update_id": ids,
        }

    def position(self) -> float:
        """Return how much of the sources has been played, 0 to 1; 0 for an endless one."""
        return self._messages_count / self._total if self._total else 0.0

    def start(self) -> None:
        """Start the sources now, or go on where a hold stopped them."""
        self._going.set()
        if not self._started.is_set():
            self._started_wall_ns = time.time_ns()
            self._started.set()

    def subscribed(self) -> None:
        """Start when enough connections have subscribed to something."""
        wanted = self._config.wait_clients
        if (
            wanted is not None
            and not self._started.is_set()
            and sum(gateway.subscribed_count() for gateway in self.gateways) >= wanted
        ):
            self.start()

    def inject(self, kind: FaultKind, gateway: int, seconds: float) -> None:
        """Begin a fault now and end it after `seconds`; 0 cuts what is connected and lets it come back.

        Raises:
            IndexError: There is no such gateway.
        """
        target = self.gateways[gateway]
        target.begin(kind)

        async def end_later() -> None:
            await target.flush()
            await asyncio.sleep(seconds)
            target.end(kind)

        task = asyncio.create_task(end_later())
        self._injected.add(task)
        task.add_done_callback(self._injected.discard)

    def source_time_ns(self, market: Market) -> int:
        """Return how far a market's source is, on its own clock."""
        return self._source_start_ns.get(market, 0) + self._offset_ns

    async def wait_ended(self) -> None:
        """Wait until everything has been played and taken by the clients.

        Raises:
            Exception: Whatever ended the pump.
        """
        ended = asyncio.create_task(self._ended.wait())
        tasks: list[asyncio.Task[object]] = [ended]
        if self._pump is not None:
            tasks.append(self._pump)
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        ended.cancel()
        if self._pump is not None and self._pump.done():
            self._pump.result()

    # --- the pump --------------------------------------------------------------------------------------------------------------

    async def _play(self) -> None:
        await self._started.wait()
        start_ns = time.monotonic_ns()
        batched = 0
        await self._strike()
        for offset_ns, happening in heapq.merge(*map(self._offsets, self._config.sources), key=lambda pair: pair[0]):
            self._offset_ns = offset_ns
            if self._config.speed != MAX_SPEED:
                due_ns = start_ns + int(offset_ns / self._config.speed)
                if due_ns > time.monotonic_ns():
                    await self._flush()
                    batched = 0
                    await asyncio.sleep(max(0, due_ns - time.monotonic_ns()) / 1e9)
            self._venues[_market_of(happening)].note(happening)
            for gateway in self.gateways:
                gateway.feed(happening)
            if not isinstance(happening, VenueMessage):
                continue
            self._messages_count += 1
            batched += 1
            self._list_symbols()
            await self._strike()
            start_ns += await self._hold()
            if batched >= BATCH_MESSAGES_MAX:
                await self._flush()
                batched = 0
        for gateway in self.gateways:
            gateway.feed_end()
        await self._flush()
        await self._drain(1)
        self._ended.set()

    def _offsets(self, source: Source) -> Iterator[tuple[int, Happening]]:
        # Every source starts now, whatever the date of its recording.
        start_ns: int | None = None
        for happening in source.happenings():
            if start_ns is None:
                start_ns = self._source_start_ns[source.market] = happening.time_ns
            yield happening.time_ns - start_ns, happening

    def _list_symbols(self) -> None:
        """Change the list of symbols where it is due."""
        while self._statuses and self._statuses[0].position <= self.position():
            change = self._statuses.pop(0)
            self._venues[change.market].statuses[change.symbol] = change.status

    async def _strike(self) -> None:
        """Begin and end the faults that are due; what was said before them is sent before them."""
        if not self._schedule or self._schedule[0][0] > self._messages_count:
            return
        await self._flush()
        while self._schedule and self._schedule[0][0] <= self._messages_count:
            _, begins, fault = self._schedule.pop(0)
            gateway = self.gateways[fault.gateway]
            (gateway.begin if begins else gateway.end)(fault.kind)

    async def _hold(self) -> int:
        """Wait at a hold until told to go on; returns the nanoseconds waited."""
        if not self._holds or self.position() < self._holds[0]:
            return 0
        self._holds.pop(0)
        self._going.clear()
        since_ns = time.monotonic_ns()
        await self._flush()
        await self._going.wait()
        return time.monotonic_ns() - since_ns

    async def _flush(self) -> None:
        flushed = [connection for gateway in self.gateways for connection in await gateway.flush()]
        # Even without backpressure the readers of this process must get their turn.
        await asyncio.sleep(0)
        if self._config.speed == MAX_SPEED:
            await self._drain(UNSENT_BYTES_HIGH)
            return
        for connection in flushed:
            if connection.unsent_bytes() > UNSENT_BYTES_MAX:
                connection.reset()

    async def _drain(self, high_bytes: int) -> None:
        """Wait until every client has less than `high_bytes` yet to take; cut off those that take nothing."""
        connections = [connection for gateway in self.gateways for connection in gateway.connections.values()]
        for connection in connections:
            unsent, since_ns = connection.unsent_bytes(), time.monotonic_ns()
            while (now_unsent := connection.unsent_bytes()) >= high_bytes:
                if now_unsent < unsent:
                    unsent, since_ns = now_unsent, time.monotonic_ns()
                elif time.monotonic_ns() - since_ns > SLOW_READER_S_MAX * 1e9:
                    connection.reset()
                    break
                await asyncio.sleep(DRAIN_POLL_S)


def _venue(source: Source, *, whole_books: bool) -> Venue:
    return LoadVenue(source) if isinstance(source, LoadSource) else Venue(source, whole_books=whole_books)


def _market_of(happening: Happening) -> Market:
    return happening.market


def _schedule(faults: Sequence[Fault], total: int) -> list[tuple[int, bool, Fault]]:
    """Return when each fault begins and ends, in messages; an end comes before a beginning at the same place, but not its own."""
    moments = []
    for order, fault in enumerate(faults):
        begin, end = math.ceil(fault.start * total), math.ceil(fault.stop * total)
        moments.append((begin, order, True, fault))
        moments.append((end, order, False, fault))
    moments.sort(key=lambda moment: (moment[0], moment[1], not moment[2]))
    return [(at, begins, fault) for at, _, begins, fault in moments]


async def run_exchange(config: ExchangeConfig) -> None:
    """Serve until SIGTERM or SIGINT (or the end, if configured); prints one JSON line when listening.

    Raises:
        ConfigError: The configuration contradicts itself.
        OSError: A port is taken.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, stop.set)
    async with SimulatedExchange(config) as exchange:
        print(json.dumps(exchange.description()), flush=True)  # noqa: T201 - the line is the interface
        stopping = asyncio.create_task(stop.wait())
        ending = asyncio.create_task(exchange.wait_ended())
        await asyncio.wait({stopping, ending}, return_when=asyncio.FIRST_COMPLETED)
        if ending.done():
            ending.result()
            if not config.exit_at_end:
                await stopping
        for task in (stopping, ending):
            task.cancel()
