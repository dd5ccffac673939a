"""Several clients listening to the same streams at the same time, for a comparison: nothing is merged, everything is kept as it came."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from twintape.columns.report import ClockBounds, LineInfo
from twintape.core.client import Client, client_streams
from twintape.core.errors import ConfigError, StoreError
from twintape.core.lineup import Lineup, Row, event_of
from twintape.core.markets import Market
from twintape.core.subscription import connection_url
from twintape.core.wire import is_depth, split_stream, stream_of
from twintape.io.comparison import Lines, Scratch
from twintape.io.ports import Clock, Dialer, Socket

__all__ = ["Listening"]

DIAL_TIMEOUT_S = 20.0
RETRY_FIRST_S, RETRY_MAX_S = 1.0, 30.0
"""A client whose connection ended comes back after a second, then after twice as long each time."""
FAILURES_MAX = 5
"""So many attempts in vain before anything was ever heard end the comparison: the address is wrong."""
_NANOSECONDS = 1_000_000_000
Tell = Callable[[str, Row], None]


@dataclass(slots=True)
class ClientState:
    """How one client is doing.

    Attributes:
        client: Which.
        connections: How often it has connected.
        connected: Whether it is connected now.
        frames: Depth frames it has heard.
        reason: Why the last connection ended, or could not be made.
    """

    client: Client
    connections: int = 0
    connected: bool = False
    frames: int = 0
    reason: str = ""
    _last_ns: int = field(default=0)

    def stamp(self, now_ns: int) -> int:
        """Return a receive time behind all before."""
        self._last_ns = max(now_ns, self._last_ns + 1)
        return self._last_ns


class Listening:
    """A live comparison.

    Args:
        clients: Who listens, at least two, with different names.
        symbols: To what.
        stream: The depth stream of those who name none.
        market: Where.
        dialers: For each client, what opens its websockets.
        clock: Stamps receive times.
        scratch: Where texts go.
        tell: Told every row of the line-up, with its symbol.
        save: A directory where every client's frames are also written as a recording, or None.

    Raises:
        ConfigError: Fewer than two clients, or two of one name.
    """

    def __init__(
        self,
        clients: Sequence[Client],
        symbols: Sequence[str],
        *,
        stream: str,
        market: Market,
        dialers: Sequence[Dialer],
        clock: Clock,
        scratch: Scratch,
        tell: Tell,
        save: Path | None = None,
    ) -> None:
        if len(clients) < 2 or len({client.name for client in clients}) < len(clients):
            raise ConfigError(
                "a comparison needs two clients or more, with different names", hint="--a URL --b URL, or --url twice"
            )
        self.states = [ClientState(client) for client in clients]
        self.lineups: dict[str, Lineup] = {symbol: Lineup(len(clients)) for symbol in symbols}
        self._symbols, self._stream, self._market = list(symbols), stream, market
        self._dialers, self._clock, self._scratch, self._tell = dialers, clock, scratch, tell
        self._heard = asyncio.Event()
        self._files = None if save is None else [(save / f"{client.name}.txt").open("ab") for client in clients]

    @property
    def mixed(self) -> bool:
        """Whether the clients listen to different speeds."""
        return len({state.client.stream or self._stream for state in self.states}) > 1

    async def run(self, seconds: float | None) -> None:
        """Listen for so long, or until cancelled.

        Raises:
            StoreError: A client cannot connect at all.
        """
        tasks = [asyncio.create_task(self._keep(number)) for number in range(len(self.states))]
        try:
            done, _ = await asyncio.wait(tasks, timeout=seconds, return_when=asyncio.FIRST_EXCEPTION)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for file in self._files or []:
                file.close()

    def lines(self) -> Lines:
        """Return what was heard, to be compared; the rows that still waited for a client are told."""
        for symbol, lineup in self.lineups.items():
            for row in lineup.flush():
                self._tell(symbol, row)
        quality = self._clock.quality()
        clock = None
        if quality.offset_ns is not None:
            clock = ClockBounds(1, quality.offset_ns, quality.offset_ns, quality.error_ns)
        infos = [LineInfo(state.client.name, self._source(state.client), clock) for state in self.states]
        return Lines(self._market, "live", infos, self._scratch)

    def _source(self, client: Client) -> str:
        url, _ = connection_url(self._market, client_streams(client, self._symbols[:1], self._stream), base=client.url or None)
        more = f" and {len(client.also)} other streams" if client.also else ""
        return url.partition("?")[0] + (f" from {client.source}" if client.source else "") + more

    async def _keep(self, number: int) -> None:
        """Keep one client connected."""
        state, wait_s, failures = self.states[number], RETRY_FIRST_S, 0
        while True:
            client = state.client
            url, messages = connection_url(
                self._market, client_streams(client, self._symbols, self._stream), base=client.url or None
            )
            listener = _Listener(self, number)
            try:
                socket = await self._dialers[number].dial(url, listener, timeout_s=DIAL_TIMEOUT_S)
            except OSError as error:
                state.reason, failures = str(error), failures + 1
                if not state.connections and failures >= FAILURES_MAX:
                    raise StoreError(f"{client.name} cannot connect to {url.partition('?')[0]}: {error}") from error
            else:
                listener.socket = socket
                state.connections += 1
                for lineup in self.lineups.values():
                    lineup.join(number)
                state.connected, failures, wait_s = True, 0, RETRY_FIRST_S
                for message in messages:
                    socket.send_text(message)
                try:
                    state.reason = await listener.ended
                finally:
                    state.connected = False
                    socket.close()
            for symbol, lineup in self.lineups.items():  # nobody waits for a client that is away
                for row in lineup.leave(number):
                    self._tell(symbol, row)
            await self._clock.sleep(wait_s)
            wait_s = min(wait_s * 2, RETRY_MAX_S)

    def take(self, number: int, payload: bytes) -> None:
        """Take one frame of a client."""
        state = self.states[number]
        receive_time_ns = state.stamp(self._clock.wall_ns())
        if self._files is not None and b"\n" not in payload:
            self._files[number].write(b"%d %b\n" % (receive_time_ns, payload))
        name = stream_of(payload)
        symbol, stream = split_stream(name)
        lineup = self.lineups.get(symbol)
        if lineup is None or stream != (state.client.stream or self._stream) or not is_depth(stream) or b"\n" in payload:
            return
        state.frames += 1
        self._scratch.add(state.client.name, name, f"{number}-{state.connections}", receive_time_ns, payload)
        event = event_of(payload, self._market)
        if event is not None:
            for row in lineup.feed(number, event):
                self._tell(symbol, row)


class _Listener:
    """Hands the frames of one websocket on."""

    def __init__(self, listening: Listening, number: int) -> None:
        self._listening = listening
        self._number = number
        self.socket: Socket | None = None
        self.ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def on_frame(self, opcode: int, payload: bytes) -> None:
        if opcode != 1:
            return
        try:
            self._listening.take(self._number, payload)
        except Exception as error:  # noqa: BLE001 - a dialer swallows what a listener raises: it ends the client instead
            self._fail(error)

    def on_ping(self, payload: bytes) -> None:
        if self.socket is not None:
            self.socket.pong(payload)

    def on_pong(self, payload: bytes) -> None:
        """Nothing is asked."""

    def on_closed(self, code: int | None, reason: str) -> None:
        if not self.ended.done():
            self.ended.set_result(json.dumps([code, reason]))

    def _fail(self, error: Exception) -> None:
        if not self.ended.done():
            self.ended.set_exception(error)
