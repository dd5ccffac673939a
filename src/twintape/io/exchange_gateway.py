"""One front-end of the simulated exchange: a TCP port that speaks Binance's websocket and REST paths."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import struct
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from aiohttp import WSMsgType, web

from twintape.core.errors import ConfigError
from twintape.core.gateway import FaultKind, GatewayOptions, Restamp
from twintape.core.markets import RULES, Market
from twintape.core.recut import GatewayView
from twintape.core.stream_protocol import (
    MessageRate,
    PingKeeper,
    StreamSession,
    Target,
    parse_target,
    shutdown_notice,
    text_frame,
    websocket_frame,
)
from twintape.core.venue import Happening, Venue, VenueMessage
from twintape.core.venue_rest import BAN_S, HttpAnswer, RestDesk

__all__ = ["Admin", "Connection", "Gateway", "KeepAlive"]

CLOSE_HANDSHAKE_S_MAX = 2.0
"""So long a client may take to answer a close frame."""
CLIENT_FRAME_BYTES_MAX = 1 << 20
STALLED_POLL_S = 0.1
PREFIXES = tuple(f"/{market}" for market in Market)


@dataclass(frozen=True, slots=True)
class KeepAlive:
    """Deviations from the documented timing; None means as documented for the market.

    Attributes:
        ping_interval_s: How often clients are pinged.
        pong_deadline_s: When one that did not answer is dropped.
        connection_life_s: When a connection is closed for its age.
    """

    ping_interval_s: float | None = None
    pong_deadline_s: float | None = None
    connection_life_s: float = 86_400.0


class Admin(Protocol):
    """What the paths under `/twintape/` reach; the exchange implements it."""

    def status(self) -> Mapping[str, object]:
        """Return the exchange's state as JSON values."""

    def start(self) -> None:
        """Start the source now."""

    def inject(self, kind: FaultKind, gateway: int, seconds: float) -> None:
        """Begin a fault now, for so long."""

    def source_time_ns(self, market: Market) -> int:
        """Return how far a market's source is, on its own clock."""

    def subscribed(self) -> None:
        """Take notice that some connection has changed its subscriptions."""


class Connection:
    """One client's websocket.

    Args:
        gateway: Where it came in.
        number: Counts the gateway's connections.
        target: What the URL asked for.
        websocket: Ready to send.
        transport: The TCP connection below it; data frames are written to it directly, whole, and many at a time.
        keep_alive: Timing of pings.
        restamp: Rewrites spot frames for this client, or None.
    """

    def __init__(
        self,
        gateway: Gateway,
        number: int,
        target: Target,
        websocket: web.WebSocketResponse,
        transport: asyncio.Transport,
        keep_alive: KeepAlive,
        restamp: Restamp | None,
    ) -> None:
        rules = RULES[target.market]
        self.number = number
        self.session = StreamSession(target)
        self.sent_count = 0
        self.stalled = False
        self.told = False  # that the server shuts down
        self.muted = ""
        self.lag_since_ns: int | None = None
        self._held: deque[tuple[int, bytes]] = deque()
        self._gateway = gateway
        self._websocket = websocket
        self._transport = transport
        self._restamp = restamp
        self._queue: list[bytes] = []
        self._rate = MessageRate(rules.client_messages_per_second)
        interval_ns = int((keep_alive.ping_interval_s or rules.ping_interval_s) * 1e9)
        deadline_ns = int((keep_alive.pong_deadline_s or rules.pong_deadline_s) * 1e9)
        now_ns = time.monotonic_ns()
        self.pings = PingKeeper(interval_ns, deadline_ns, now_ns + interval_ns)
        self._life_end_ns = now_ns + int(keep_alive.connection_life_s * 1e9)

    @property
    def open(self) -> bool:
        """Whether anything sent may still arrive."""
        return not self.stalled and not self._websocket.closed and not self._transport.is_closing()

    def publish(self, message: VenueMessage, encoded: dict[bool, bytes]) -> None:
        """Queue a message in the form the client has chosen; `encoded` keeps the forms other clients share."""
        if message.stream == self.muted:
            return
        combined = self.session.combined
        if self._restamp is not None or self._websocket.compress:
            payload = message.payload(combined=combined)
            payload = self._restamp(payload) if self._restamp is not None else payload
            # A compressing connection keeps the payload: the websocket below it makes the frame.
            frame = payload if self._websocket.compress else text_frame(payload)
        else:
            frame = encoded.get(combined) or encoded.setdefault(combined, text_frame(message.payload(combined=combined)))
        self._queue.append(frame)
        self._gateway.unflushed[self.number] = self
        self.sent_count += 1

    def send_text(self, payload: bytes) -> None:
        """Queue an answer of the protocol."""
        self._queue.append(payload if self._websocket.compress else text_frame(payload))
        self._gateway.unflushed[self.number] = self

    async def flush(self) -> None:
        """Hand everything queued to the operating system, as far as it takes it."""
        queue, self._queue = self._late() if self.lags else self._queue, []
        if not queue or not self.open:
            return
        if not self._websocket.compress:
            self._transport.write(b"".join(queue))
            return
        for payload in queue:
            try:
                await self._websocket.send_str(payload.decode())
            except ConnectionError:
                return

    @property
    def lags(self) -> bool:
        """Whether something is held back that comes without anything new."""
        return bool(self._held) or self.lag_since_ns is not None

    def _late(self) -> list[bytes]:
        """Return what a connection that lags gets now: what came in the first half of the time since it began to lag."""
        now_ns = time.monotonic_ns()
        self._held.extend((now_ns, frame) for frame in self._queue)
        until_ns = now_ns if self.lag_since_ns is None else (self.lag_since_ns + now_ns) // 2
        late: list[bytes] = []
        while self._held and self._held[0][0] <= until_ns:
            late.append(self._held.popleft()[1])
        return late

    def unsent_bytes(self) -> int:
        """Return how much of what was flushed the client has not yet taken."""
        return self._transport.get_write_buffer_size() if self.open else 0

    def finish(self) -> None:
        """End TCP without a close frame, after what is already written."""
        self._transport.close()

    def reset(self) -> None:
        """End TCP at once with a reset."""
        raw: socket.socket | None = self._transport.get_extra_info("socket")
        if raw is not None:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._transport.abort()

    async def close(self, code: int, reason: str) -> None:
        """Close with a close frame."""
        await self.flush()
        await self._websocket.close(code=code, message=reason.encode())

    async def serve(self) -> None:
        """Read what the client sends until the connection is over."""
        keeper = asyncio.create_task(self._keep_alive())
        try:
            while await self._serve_one():
                pass
        finally:
            keeper.cancel()

    async def _serve_one(self) -> bool:
        message = await self._websocket.receive()
        if self.stalled:
            # A black hole answers nothing, not even a close; it lasts until the client cuts TCP.
            while not self._transport.is_closing():  # noqa: ASYNC110 - nobody else knows when the client gives up
                await asyncio.sleep(STALLED_POLL_S)
            return False
        if message.type in (WSMsgType.CLOSE, WSMsgType.CLOSING, WSMsgType.CLOSED, WSMsgType.ERROR):
            await self._websocket.close()
            return False
        if not self._rate.allow(time.monotonic_ns()):
            await self.close(1008, "Too many requests")
            return False
        if message.type is WSMsgType.PING:
            self._transport.write(websocket_frame(10, bytes(message.data)))
        elif message.type is WSMsgType.PONG:
            self.pings.pong(bytes(message.data))
        elif message.type is WSMsgType.TEXT:
            return await self._take_text(message.data)
        return True

    async def _take_text(self, text: str) -> bool:
        before = self.session.streams
        reaction = self.session.handle(text)
        if reaction.drop:
            self.finish()
            return False
        if self.session.streams != before:
            self._gateway.index(self)
        # Real answers may come behind the first frames they promise (ccxt #6672).
        if self._gateway.options.acknowledge_delay_s:
            await asyncio.sleep(self._gateway.options.acknowledge_delay_s)
        for reply in reaction.replies:
            self.send_text(reply)
        await self.flush()
        if reaction.close_code is not None:
            await self.close(reaction.close_code, "Invalid request")
            return False
        return True

    async def _keep_alive(self) -> None:
        while self.open:
            now_ns = time.monotonic_ns()
            if self.pings.expired(now_ns):
                self.finish()
                return
            if now_ns >= self._life_end_ns:
                await self.close(1001, "")
                return
            payload = self.pings.due(now_ns, time.time_ns() // 1_000_000)
            if payload is not None:
                self._transport.write(websocket_frame(9, payload))
            wake_ns = min(self.pings.wake_ns(), self._life_end_ns)
            await asyncio.sleep(max(0, wake_ns - time.monotonic_ns()) / 1e9)


class Gateway:
    """One port with its connections, its own request weights and its own faults.

    Args:
        number: Its position in the exchange's list.
        options: How it differs.
        venues: The markets it serves.
        admin: The exchange.
        keep_alive: Timing of pings.
        deflate: Whether permessage-deflate is granted to clients that offer it.
        restamps_spot: Whether `timeUnit=MICROSECOND` is honoured; a recording can only be sent as it is.
        weight_budgets: Request weight per minute by pool, where not as documented.
    """

    def __init__(
        self,
        number: int,
        options: GatewayOptions,
        venues: Mapping[Market, Venue],
        admin: Admin,
        *,
        keep_alive: KeepAlive,
        deflate: bool = False,
        restamps_spot: bool = False,
        weight_budgets: Mapping[str, int] | None = None,
    ) -> None:
        self.number = number
        self.options = options
        self.port = 0
        self.market_ports: dict[Market, int] = {}
        self.connections: dict[int, Connection] = {}
        self.accepted_count = 0
        self.refused_count = 0
        self.cut_count = 0
        self.sent_count = 0
        self.snapshot_count = 0
        self.unflushed: dict[int, Connection] = {}  # those with something queued
        self._sent_by_ended: dict[int, int] = {}
        self._ping_count = 0
        self._venues = venues
        self._admin = admin
        self._keep_alive = keep_alive
        self._deflate = deflate
        self._restamps_spot = restamps_spot
        self.desk = RestDesk(venues, weight_budgets)
        self._view = GatewayView(number, options, {market: venue.symbols.values() for market, venue in venues.items()})
        self._listeners: dict[tuple[Market, str], dict[int, Connection]] = {}
        self._secure = ""
        self._faults: list[FaultKind] = []
        self._fault_over = asyncio.Event()
        self._stale_ns: dict[Market, int] = {}
        self._runners: list[web.AppRunner] = []
        self._closings: set[asyncio.Task[None]] = set()

    async def listen(self, host: str, tls: ssl.SSLContext | None = None) -> None:
        """Open the port; with several markets also one more port for each, where no prefix is needed.

        Raises:
            OSError: The port is taken.
        """
        only = next(iter(self._venues)) if len(self._venues) == 1 else None
        self._secure = "s" if tls is not None else ""
        self.port = await self._open(host, self.options.port, only, tls)
        for market in self._venues:
            self.market_ports[market] = self.port if only else await self._open(host, 0, market, tls)

    async def _open(self, host: str, port: int, default_market: Market | None, tls: ssl.SSLContext | None) -> int:
        async def handle(request: web.Request) -> web.StreamResponse:
            return await self._handle(request, default_market)

        application = web.Application()
        application.router.add_route("*", "/{path:.*}", handle)
        runner = web.AppRunner(application, access_log=None, shutdown_timeout=CLOSE_HANDSHAKE_S_MAX)
        await runner.setup()
        self._runners.append(runner)
        await web.TCPSite(runner, host, port, ssl_context=tls).start()
        return int(runner.addresses[0][1])

    async def close(self) -> None:
        """Close every connection, so that what was sent still arrives, and give the ports back."""
        for connection in list(self.connections.values()):
            if connection.open:
                self._cut_politely(connection)
            else:
                connection.reset()
        self._fault_over.set()
        await asyncio.gather(*self._closings)
        for runner in self._runners:
            await runner.cleanup()

    def websocket_base(self, market: Market) -> str:
        """Return what stands in for `MarketRules.websocket_base`."""
        return f"ws{self._secure}://127.0.0.1:{self.port}/{market}" + ("/public" if market is Market.USDM else "")

    def rest_base(self, market: Market) -> str:
        """Return what stands in for `MarketRules.rest_base`."""
        return f"http{self._secure}://127.0.0.1:{self.port}/{market}"

    def description(self) -> dict[str, object]:
        """Return where it listens, as JSON values."""
        bases = {str(market): f"ws{self._secure}://127.0.0.1:{self.port}/{market}" for market in self._venues}
        ports = {str(market): port for market, port in self.market_ports.items()}
        return {"port": self.port, **bases, "rest": f"http{self._secure}://127.0.0.1:{self.port}", "market_ports": ports}

    def status(self) -> dict[str, object]:
        """Return its counters, as JSON values."""
        return {
            "port": self.port,
            "connections": len(self.connections),
            "subscribed": self.subscribed_count(),
            "accepted": self.accepted_count,
            "refused": self.refused_count,
            "cut": self.cut_count,
            "sent": self.sent_count,
            "snapshots": self.snapshot_count,
            "sent_by_connection": self._sent_by_ended | {number: one.sent_count for number, one in self.connections.items()},
            "pings": self._ping_count + sum(connection.pings.sent_count for connection in self.connections.values()),
            "faults": [str(kind) for kind in self._faults],
        }

    def subscribed_count(self) -> int:
        """Return how many connections have subscribed to something."""
        return sum(1 for connection in self.connections.values() if connection.session.named_streams)

    def index(self, connection: Connection) -> None:
        """Take notice of a connection's changed subscriptions."""
        for listeners in self._listeners.values():
            listeners.pop(connection.number, None)
        market = connection.session.target.market
        for stream in connection.session.streams:
            if connection.session.delivers(stream):
                self._listeners.setdefault((market, stream), {})[connection.number] = connection
        self._admin.subscribed()

    def feed(self, happening: Happening) -> None:
        """Take the next thing that happened and queue what this gateway says of it."""
        for message in self._view.feed(happening):
            self._publish(message)

    def feed_end(self) -> None:
        """Take notice that nothing more will happen."""
        for message in self._view.flush():
            self._publish(message)

    def _publish(self, message: VenueMessage) -> None:
        encoded: dict[bool, bytes] = {}
        for connection in self._listeners.get((message.market, message.stream), {}).values():
            if connection.open:
                connection.publish(message, encoded)
                self.sent_count += 1

    async def flush(self) -> list[Connection]:
        """Hand everything queued to the operating system, and return the connections that had something."""
        flushed, self.unflushed = list(self.unflushed.values()), {}
        for connection in flushed:
            await connection.flush()
            if connection.lags:
                self.unflushed[connection.number] = connection
        return flushed

    # --- faults ----------------------------------------------------------------------------------------------------------------

    def begin(self, kind: FaultKind) -> None:
        """Begin a fault: what it does to the connections there are happens now."""
        self._faults.append(kind)
        if kind is FaultKind.STALE:
            self._stale_ns = {market: self._admin.source_time_ns(market) for market in self._venues}
        for connection in list(self.connections.values()):
            self._strike(connection, kind)

    def end(self, kind: FaultKind) -> None:
        """End a fault."""
        self._faults.remove(kind)
        for connection in list(self.connections.values()):
            if kind is FaultKind.SHUTDOWN or (kind is FaultKind.DRAIN and connection.told):
                self._cut_politely(connection)
            elif kind is FaultKind.MUTE:
                connection.muted = ""
            elif kind is FaultKind.LAG:
                connection.lag_since_ns = None
        self._fault_over.set()
        self._fault_over = asyncio.Event()

    def _strike(self, connection: Connection, kind: FaultKind) -> None:
        if kind in (FaultKind.SHUTDOWN, FaultKind.DRAIN):
            connection.told = True
            connection.send_text(shutdown_notice(time.time_ns() // 1_000_000, combined=connection.session.combined))
            return
        if kind is FaultKind.MUTE:
            connection.muted = next(iter(connection.session.named_streams), "")
            return
        if kind is FaultKind.LAG:
            connection.lag_since_ns = time.monotonic_ns()
            return
        if kind is FaultKind.FIN:
            connection.finish()
        elif kind is FaultKind.RST:
            connection.reset()
        elif kind is FaultKind.STALL:
            connection.stalled = True
        elif kind is FaultKind.GOING_AWAY:
            self._cut_politely(connection)
            return
        else:
            return
        self.cut_count += 1

    def _cut_politely(self, connection: Connection) -> None:
        self.cut_count += 1
        task = asyncio.create_task(connection.close(1001, ""))
        self._closings.add(task)
        task.add_done_callback(self._closings.discard)

    # --- requests --------------------------------------------------------------------------------------------------------------

    async def _handle(self, request: web.Request, default_market: Market | None) -> web.StreamResponse:
        if request.path.startswith("/twintape/"):
            return await self._administer(request)
        transport = request.transport
        if transport is None:
            return web.Response(status=499)
        if FaultKind.STALL in self._faults:
            self.refused_count += 1
            await self._fault_over.wait()
            transport.abort()
        elif any(kind in self._faults for kind in (FaultKind.FIN, FaultKind.RST, FaultKind.GOING_AWAY)):
            self.refused_count += 1
            transport.abort()
        if transport.is_closing():
            return web.Response(status=499)
        if request.headers.get("Upgrade", "").lower() == "websocket":
            return await self._websocket(request, transport, default_market)
        return self._rest(request, default_market)

    async def _websocket(
        self, request: web.Request, transport: asyncio.Transport, default_market: Market | None
    ) -> web.StreamResponse:
        try:
            target = parse_target(request.raw_path, default_market)
        except ConfigError as error:
            return web.Response(status=404, text=str(error))
        if target.market not in self._venues:
            return web.Response(status=404, text=f"{target.market} is not served here")
        websocket = web.WebSocketResponse(
            timeout=CLOSE_HANDSHAKE_S_MAX,
            autoclose=False,
            autoping=False,
            compress=self._deflate,
            max_msg_size=CLIENT_FRAME_BYTES_MAX,
        )
        await websocket.prepare(request)
        self.accepted_count += 1
        number = self.accepted_count
        connection = Connection(self, number, target, websocket, transport, self._keep_alive, self._restamp_for(target, number))
        self.connections[number] = connection
        try:
            self.index(connection)
            if FaultKind.SHUTDOWN in self._faults:
                self._strike(connection, FaultKind.SHUTDOWN)
            await connection.serve()
        finally:
            self._ping_count += connection.pings.sent_count
            self._sent_by_ended[number] = connection.sent_count
            del self.connections[number]
            self.unflushed.pop(number, None)
            for listeners in self._listeners.values():
                listeners.pop(number, None)
        return websocket

    def _restamp_for(self, target: Target, number: int) -> Restamp | None:
        microseconds = target.market is Market.SPOT and target.microseconds and self._restamps_spot
        if not (microseconds or self.options.event_time_jitter_us):
            return None
        seed = f"{self.options.seed}:{self.number}:{number}"
        return Restamp(seed, self.options.event_time_jitter_us, microseconds=microseconds)

    def _rest(self, request: web.Request, default_market: Market | None) -> web.Response:
        path = request.path
        for prefix in PREFIXES:
            path = path.removeprefix(prefix) if path.startswith(prefix + "/") else path
        now_ms = time.time_ns() // 1_000_000
        if request.method != "GET":
            return web.Response(status=405, text="only GET is served")
        if FaultKind.UNAVAILABLE in self._faults:
            return web.Response(status=503, text='{"code":-1008,"msg":"Request throttled by system-level protection."}')
        if FaultKind.BAN in self._faults:
            for budget in self.desk.budgets.values():
                budget.ban(BAN_S, now_ms)
        market = next((market for market in self._venues if path.startswith(_rest_root(market))), default_market)
        until_ns = self._rest_until_ns(market) if market is not None else None
        answer = self.desk.answer(path, dict(request.query), now_ms=now_ms, until_ns=until_ns)
        self.snapshot_count += answer.status == 200 and path.endswith("/depth")
        if FaultKind.WRONG in self._faults and answer.status == 200:
            answer = HttpAnswer(200, _wrong(answer.body), answer.headers)
        return web.Response(status=answer.status, body=answer.body, headers=answer.headers, content_type="application/json")

    def _rest_until_ns(self, market: Market) -> int | None:
        """Return up to which moment of the market's source its books answer; None for all that happened."""
        moments = [self._stale_ns[market]] if FaultKind.STALE in self._faults and market in self._stale_ns else []
        if self.options.rest_lag_s:
            moments.append(self._admin.source_time_ns(market) - int(self.options.rest_lag_s * 1e9))
        return min(moments, default=None)

    async def _administer(self, request: web.Request) -> web.Response:
        if request.path == "/twintape/status" and request.method == "GET":
            return web.json_response(self._admin.status())
        if request.path == "/twintape/start" and request.method == "POST":
            self._admin.start()
            return web.json_response({"started": True})
        if request.path == "/twintape/fault" and request.method == "POST":
            try:
                fault = await request.json()
                kind, number = FaultKind(str(fault["kind"])), int(fault.get("gateway", self.number))
                self._admin.inject(kind, number, float(fault.get("seconds", 0)))
            except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
                return web.json_response({"error": repr(error)}, status=400)
            return web.json_response({"injected": str(kind)})
        return web.json_response({"error": f"nothing under {request.path}"}, status=404)


def _rest_root(market: Market) -> str:
    return RULES[market].depth_path.rpartition("/")[0] + "/"


def _wrong(body: bytes) -> bytes:
    decoded = json.loads(body)
    for side in ("bids", "asks"):
        if decoded.get(side):
            price, quantity = decoded[side][0]
            decoded[side][0] = [price, "7" + quantity[1:] if quantity[0] != "7" else "8" + quantity[1:]]
    return json.dumps(decoded, separators=(",", ":"), ensure_ascii=False).encode()
