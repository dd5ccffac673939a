"""The exchange of a simulation: one source, a front-end for each collector, and the log of everything that truly happened.

What is said and answered is decided by `core` (`synthetic`, `venue`, `venue_rest`, `recut`, `stream_protocol`), as in the exchange simulator
that listens on sockets; here it is delivered through the ports `Dialer`, `Socket` and `Rest`, late, and over connections that break.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from urllib.parse import parse_qsl, urlsplit

from twintape.core.gateway import GatewayOptions, Partition, Restamp
from twintape.core.markets import RULES, Market
from twintape.core.recut import GatewayView
from twintape.core.stream_protocol import StreamSession, parse_target, shutdown_notice
from twintape.core.synthetic import SyntheticConfig, SyntheticSource
from twintape.core.venue import Happening, Venue, VenueMessage
from twintape.core.venue_rest import RestDesk
from twintape.io.ports import RestAnswer, Socket, SocketListener
from twintape.simulation.truth import Truth
from twintape.simulation.world import DAY_NS, MachineClock, World

__all__ = ["Exchange", "Front"]

SECOND_NS = 1_000_000_000
LATENCY_S = (0.002, 0.06)
CLOSE_S = 0.05


class Exchange:
    """The source, what it has said so far, and who is told.

    Args:
        world: Seed and time.
        market: Which market to make up.
        days: For how many days it trades.
        events_per_day: How many depth events, of all symbols.
        symbols_count: How many symbols.

    Attributes:
        truth: The log.
        fronts: One for each collector.
    """

    def __init__(self, world: World, market: Market, *, days: int, events_per_day: int, symbols_count: int) -> None:
        config = SyntheticConfig(
            market=market,
            seed=world.seed,
            symbols_count=symbols_count,
            events_per_second=events_per_day / 86_400,
            start_ns=world.start_ns,
            levels=25,
            book_tickers=False,
            trades=False,
        )
        self.market = market
        self.source = SyntheticSource(config)
        self.venue = Venue(self.source)
        self.truth = Truth(self.source.symbols)
        self.fronts: list[Front] = []
        self._world = world
        self._end_ns = world.start_ns + days * DAY_NS

    def front(self, name: str, clock: MachineClock, partition: Partition) -> Front:
        """Return a new front-end, for one collector."""
        front = Front(self._world, self, name, clock, partition, number=len(self.fronts))
        self.fronts.append(front)
        return front

    async def run(self) -> None:
        """Trade until the last day is over."""
        unsaid: list[Happening] = []
        for happening in self.source.happenings():
            if happening.time_ns >= self._end_ns:
                break
            unsaid.append(happening)
            if not isinstance(happening, VenueMessage):
                continue  # a change of a book is said with the next event, a few hundred milliseconds of the calendar later
            await self._world.sleep_until(happening.time_ns)
            self.truth.say(happening)
            if not any(front.is_heard(happening.stream) for front in self.fronts):
                self._world.counts["events said to nobody"] += 1
            for noted in unsaid:
                self.venue.note(noted)
                for front in self.fronts:
                    front.feed(noted)
            unsaid.clear()
        for front in self.fronts:
            front.end()


class Front:
    """What one collector reaches of the exchange: `ports.Dialer` and `ports.Rest`, and the faults on the way.

    Attributes:
        refuses: New connections are refused.
        hangs: New connections are made and hear nothing, and requests are never answered.
        status: REST answers with this instead of 200, or 0.
        lag_ns: Snapshots are so much older, by the calendar.
    """

    def __init__(
        self, world: World, exchange: Exchange, name: str, clock: MachineClock, partition: Partition, *, number: int
    ) -> None:
        options = GatewayOptions(partition=partition, partition_rate=0.2, event_time_jitter_us=3000, seed=world.seed)
        self.refuses = self.hangs = False
        self.status = 0
        self.lag_ns = 0
        self.connections: list[_Connection] = []
        self._world = world
        self._exchange = exchange
        self._clock = clock
        self._name = name
        self._rng = world.random(f"front {name}")
        self._view = GatewayView(number, options, {exchange.market: exchange.source.symbols})
        self._desk = RestDesk({exchange.market: exchange.venue})
        self._jitter_us = options.event_time_jitter_us
        self._dialled = 0

    def latency_s(self) -> float:
        """Draw how long something is under way."""
        return self._rng.uniform(*LATENCY_S)

    # --- what the exchange says ------------------------------------------------------------------------------------------------

    def is_heard(self, stream: str) -> bool:
        """Return whether anybody listens to a stream."""
        return any(connection.carries(stream) for connection in self.connections)

    def feed(self, happening: Happening) -> None:
        """Pass on what happened, as this front-end cuts it."""
        for message in self._view.feed(happening):
            self._publish(message)

    def end(self) -> None:
        """Say what was held back."""
        for message in self._view.flush():
            self._publish(message)

    def _publish(self, message: VenueMessage) -> None:
        for connection in self.connections:
            connection.publish(message)

    # --- ports -----------------------------------------------------------------------------------------------------------------

    async def dial(self, url: str, listener: SocketListener, *, timeout_s: float) -> Socket:
        """Open a connection."""
        await self._world.sleep(self.latency_s() * 2)
        if self.refuses:
            raise OSError("connection refused")
        if self.hangs:
            await self._world.sleep(timeout_s)
            raise OSError("timed out")
        parts = urlsplit(url)
        target = parse_target(f"{parts.path}?{parts.query}", self._exchange.market)
        self._dialled += 1
        restamp = None
        if self._exchange.market is Market.SPOT:
            restamp = Restamp(f"{self._world.seed} {self._name} {self._dialled}", self._jitter_us, microseconds=False)
        connection = _Connection(self._world, self, StreamSession(target), listener, restamp)
        self.connections.append(connection)
        return connection

    async def get(self, url: str, *, timeout_s: float) -> RestAnswer:
        """Answer a request."""
        asked_ns = self._clock.wall_ns()
        await self._world.sleep(self.latency_s())
        if self.refuses:
            raise OSError("connection refused")
        if self.hangs:
            await self._world.sleep(timeout_s)
            raise OSError("timed out")
        parts = urlsplit(url)
        until_ns = self._world.calendar_ns() - self.lag_ns if self.lag_ns else None
        now_ms = self._world.now_ns() // 1_000_000
        answer = self._desk.answer(parts.path, dict(parse_qsl(parts.query)), now_ms=now_ms, until_ns=until_ns)
        await self._world.sleep(self.latency_s())
        headers = {key.lower(): value for key, value in answer.headers.items()}
        status, body = (self.status, b"{}") if self.status else (answer.status, answer.body)
        return RestAnswer(status, headers, body, asked_ns, self._clock.wall_ns())

    # --- faults ----------------------------------------------------------------------------------------------------------------

    def cut(self) -> None:
        """End every connection without a word."""
        for connection in list(self.connections):
            connection.over(None, "end of TCP")

    def stall(self) -> None:
        """Let every connection stay open and say nothing any more."""
        for connection in self.connections:
            connection.stalled = True

    def mute(self) -> None:
        """Let every connection forget its first stream."""
        for connection in self.connections:
            connection.muted = next(iter(connection.session.streams), "")

    def shut_down(self) -> None:
        """Announce the end, and then end every connection."""
        for connection in list(self.connections):
            notice = shutdown_notice(self._world.calendar_ns() // 1_000_000, combined=True)
            connection.deliver_text(notice)
            connection.deliver_end(20.0)


class _Connection:
    """One websocket; `ports.Socket` for the client. What is under way arrives in order."""

    def __init__(
        self, world: World, front: Front, session: StreamSession, listener: SocketListener, restamp: Restamp | None
    ) -> None:
        self.session = session
        self.stalled = False
        self.muted = ""
        self._world = world
        self._front = front
        self._listener = listener
        self._restamp = restamp
        self._arrives_s = 0.0
        self._closed = False
        self._paused = False
        self._waiting: list[Callable[[SocketListener], None]] = []
        self._keeper = asyncio.get_running_loop().create_task(self._ping())

    def carries(self, stream: str) -> bool:
        """Return whether the client gets what is said on a stream."""
        return self.session.delivers(stream) and stream != self.muted and not self.stalled

    def publish(self, message: VenueMessage) -> None:
        """Send a message if the client wants it."""
        if not self.carries(message.stream):
            return
        payload = message.payload(combined=True)
        frame = payload if self._restamp is None else self._restamp(payload)
        self.deliver_text(frame)

    def deliver_text(self, text: bytes) -> None:
        """Have a text frame reach the client."""
        self.deliver(lambda listener: listener.on_frame(1, text))

    def deliver_end(self, delay_s: float) -> None:
        """Have a close frame reach the client, some time from now."""
        self.deliver(lambda _listener: self.over(1001, ""), delay_s)

    def deliver(self, happen: Callable[[SocketListener], None], delay_s: float = 0.0) -> None:
        """Have something reach the client, behind everything sent before."""
        if self._closed or self.stalled:
            return
        loop = asyncio.get_running_loop()
        self._arrives_s = max(loop.time() + self._front.latency_s() + delay_s, self._arrives_s + 1e-6)
        loop.call_at(self._arrives_s, self._arrive, happen)

    def _arrive(self, happen: Callable[[SocketListener], None]) -> None:
        if self._closed or self.stalled:
            return
        if self._paused:
            self._waiting.append(happen)
        else:
            happen(self._listener)

    def over(self, code: int | None, reason: str) -> None:
        """End it, now, for both sides."""
        if not self._closed:
            self.forget()
            self._listener.on_closed(code, reason)

    def forget(self) -> None:
        """End it without telling the client, which is gone."""
        self._closed = True
        self._keeper.cancel()
        if self in self._front.connections:
            self._front.connections.remove(self)

    async def _ping(self) -> None:
        interval_s = RULES[self.session.target.market].ping_interval_s
        while True:
            await self._world.sleep(interval_s)
            self.deliver(lambda listener: listener.on_ping(b"%d" % self._world.now_ns()))

    # --- the client's side -----------------------------------------------------------------------------------------------------

    def send_text(self, text: bytes) -> None:
        """Take a text message."""
        for reply in self.session.handle(text.decode()).replies:
            self.deliver_text(reply)

    def ping(self, payload: bytes) -> None:
        """Take a ping and answer it."""
        self.deliver(lambda listener: listener.on_pong(payload))

    def pong(self, payload: bytes) -> None:
        """Take a pong."""

    def pause(self) -> None:
        """Keep what arrives."""
        self._paused = True

    def resume(self) -> None:
        """Deliver what was kept."""
        self._paused = False
        waiting, self._waiting = self._waiting, []
        for happen in waiting:
            self._arrive(happen)

    def close(self) -> None:
        """Close in order; a stalled connection answers nothing."""
        if self.stalled:
            asyncio.get_running_loop().call_later(5.0, self.over, None, "no answer to the close frame")
        else:
            self.deliver(lambda _listener: self.over(1000, "close frame"), CLOSE_S)

    def abort(self) -> None:
        """Cut it at once."""
        self.over(None, "aborted")
