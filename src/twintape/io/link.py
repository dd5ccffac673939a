"""One connection of the collector: what the socket tells goes to the session, what the session wants is done."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from twintape.core.actions import (
    AbortSocket,
    Action,
    CloseSocket,
    CutSegment,
    Ended,
    FetchSnapshot,
    Notice,
    Ping,
    Pong,
    Replace,
    Send,
)
from twintape.core.receipt import TEXT, Receipt
from twintape.core.session import Session
from twintape.core.shard import Shard
from twintape.io.ports import Socket
from twintape.io.spool import Batch

if TYPE_CHECKING:
    from twintape.io.collector import Collector

__all__ = ["Link"]


class Link:
    """One connection: the socket's listener and the hands of its session."""

    def __init__(self, collector: Collector, shard: Shard, session: Session) -> None:
        self.shard = shard
        self.session = session
        self.market = shard.market
        self.socket: Socket | None = None
        self.recording = False
        self.clock_ns = 0
        self._collector = collector
        self._monotonic_ns = collector.clock.monotonic_ns
        self._heard = session.heard.append

    # SocketListener: what these raise would be swallowed by the library that calls them, hence the guard.

    def on_frame(self, opcode: int, payload: bytes) -> None:
        """Take a data frame; what text means is seen when its line is handed over or the connection is looked after."""
        try:
            if opcode == TEXT:
                self._heard((self._monotonic_ns(), payload))
            else:
                self.perform(self.session.frame(opcode, payload, self._monotonic_ns()))
            if not self._collector.dirty:
                self._collector.mark_dirty()
        except Exception as error:  # noqa: BLE001 - the outermost frame of a callback; the error ends the process
            self._collector.fail(error)

    def on_ping(self, payload: bytes) -> None:
        """Take a ping."""
        self._guarded(lambda: self.session.ping(payload, self._monotonic_ns()))

    def on_pong(self, payload: bytes) -> None:  # noqa: ARG002 - any pong proves that somebody is there
        """Take a pong."""
        self._guarded(lambda: self.session.pong(self._monotonic_ns()))

    def on_closed(self, code: int | None, reason: str) -> None:
        """Take the end."""
        self._guarded(lambda: self.session.closed(code, reason))

    def _guarded(self, call: Callable[[], Sequence[Action]]) -> None:
        try:
            self.perform(call())
        except Exception as error:  # noqa: BLE001 - as above
            self._collector.fail(error)

    def perform(self, actions: Sequence[Action]) -> None:
        """Carry out what the session wants."""
        for action in actions:
            if isinstance(action, Notice):
                self._collector.notice(action.name, connection=self.session.number, market=str(self.market), **action.details)
                if action.name == "silent":
                    self._collector.look_up(self.market)
            elif isinstance(action, FetchSnapshot):
                self._collector.fetch(self.shard, action.symbol, action.reason, action.update_id)
            elif isinstance(action, Replace):
                self.shard.replace(self.session, action.reason)
            elif isinstance(action, CutSegment):
                self.flush()
                self._collector.writer.cut(self.market, self.session.number, reason=action.reason)
            elif isinstance(action, Ended):
                self._collector.ended(self, action)
            elif self.socket is not None:
                self._send(self.socket, action)

    def _send(self, socket: Socket, action: Send | Ping | Pong | CloseSocket | AbortSocket) -> None:
        if isinstance(action, Send):
            socket.send_text(action.text)
        elif isinstance(action, Pong):
            socket.pong(action.payload)
        elif isinstance(action, Ping):
            socket.ping(action.payload)
        elif isinstance(action, CloseSocket):
            socket.close()
        else:
            socket.abort()

    def look(self) -> None:
        """See what the frames so far mean."""
        actions = self.session.look()
        if actions:
            self.perform(actions)

    def take(self) -> Batch | None:
        """Return the lines so far, for the writer, or None if there are none."""
        self.look()
        lines = self.session.take()
        if lines is None:
            return None
        self._collector.heard(self.market, lines.count, lines.size)
        return self.session.number, lines

    def save(self) -> None:
        """Hand the lines so far to the writer, whatever they mean: the collector is dying of an error."""
        Receipt.take_in(self.session)
        lines = self.session.take()
        if lines is not None:
            self._collector.writer.write_all(self.market, [(self.session.number, lines)])

    def flush(self) -> None:
        """Hand the lines so far to the writer."""
        batch = self.take()
        if batch is not None:
            self._collector.writer.write_all(self.market, [batch])
