"""One websocket connection as a state machine: frames and time in, lines and actions out.

A session never decides whether a frame is worth keeping: every one becomes a line. Besides, it follows just enough of the contents to act
in time: update ids (ask for a snapshot behind a gap), silence (ask for a replacement), shutdown notices, pings, answers to SUBSCRIBE.

Life-cycle, `TRANSITIONS`; a pair that is not in the table is an error of the caller::

    DIALING --opened--> OPEN --stop--> CLOSING --closed--> ENDED
       |                  `--closed--------------------------^
       |--failed------------------------------------------- -^
       `--stop--> CLOSING --opened--> CLOSING (the socket is closed at once)

Frames that arrive while CLOSING are recorded too. All times are monotonic nanoseconds except where a name says wall or receive.

Source: Binance, Spot API docs, web-socket-streams.md (2026-07-21): pongs echo the payload; 5 messages a second; `serverShutdown`.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from twintape.core.budget import SECOND_NS, message_window
from twintape.core.markets import RULES, Market, stream_url
from twintape.core.sequence import Join, is_new_epoch, join
from twintape.core.silence import STEADY_SPACING_NS, Listening
from twintape.core.wire import (
    bytes_line,
    depth_ids,
    is_depth,
    is_shutdown_notice,
    recordable,
    split_stream,
    subscribe_frame,
    suspect_line,
)

__all__ = [
    "TRANSITIONS",
    "AbortSocket",
    "Action",
    "CloseSocket",
    "CutSegment",
    "Ended",
    "Event",
    "FetchSnapshot",
    "Notice",
    "Ping",
    "Pong",
    "Replace",
    "Send",
    "Session",
    "State",
    "StreamMemory",
    "connection_url",
    "subscription_messages",
]

URL_CHARACTERS_MAX = 4000
"""Longer URLs are at the server's mercy; then the streams are subscribed by message."""
SUBSCRIBE_BYTES_MAX = 4000
"""A client message of about 8,000 characters has been seen to drop the connection."""
_MESSAGE_FRAME_BYTES = len('{"method":"UNSUBSCRIBE","params":[],"id":}') + 19
CLOCK_STEP_NS = SECOND_NS
"""A wall clock that leaves the anchor by more than this has been set (or the machine slept)."""
CHECK_NS = SECOND_NS // 2
PING_IDLE_NS = 15 * SECOND_NS
PONG_SPACING_NS = SECOND_NS // 2
"""A flood of pings must not use up the messages that subscribing needs."""
PING_WAIT_NS = 10 * SECOND_NS
CLOSE_WAIT_NS = 3 * SECOND_NS
FIRST_DATA_NS = 60 * SECOND_NS
"""Quiet symbols are silent for tens of seconds; a connection without any data for longer sits on a wrong route."""
FIRST_EVENT_NS = 10 * SECOND_NS
"""A depth stream without any event for so long gets its first snapshot all the same."""
STREAM_REPLACE_NS = 30 * SECOND_NS
_TEXT = 1


class State(StrEnum):
    """Where a connection is in its life."""

    DIALING = "dialing"
    OPEN = "open"
    CLOSING = "closing"
    ENDED = "ended"


class Event(StrEnum):
    """What moves a connection on."""

    OPENED = "opened"
    FAILED = "failed"
    STOP = "stop"
    CLOSED = "closed"


TRANSITIONS: Mapping[tuple[State, Event], State] = {
    (State.DIALING, Event.OPENED): State.OPEN,
    (State.DIALING, Event.FAILED): State.ENDED,
    (State.DIALING, Event.STOP): State.CLOSING,
    (State.OPEN, Event.STOP): State.CLOSING,
    (State.OPEN, Event.CLOSED): State.ENDED,
    (State.CLOSING, Event.OPENED): State.CLOSING,
    (State.CLOSING, Event.FAILED): State.ENDED,
    (State.CLOSING, Event.STOP): State.CLOSING,
    (State.CLOSING, Event.CLOSED): State.ENDED,
    (State.ENDED, Event.STOP): State.ENDED,
}
"""Every possible step; all other pairs cannot happen."""


@dataclass(frozen=True, slots=True)
class Send:
    """Send one text frame."""

    text: bytes


@dataclass(frozen=True, slots=True)
class Ping:
    """Send a ping."""

    payload: bytes


@dataclass(frozen=True, slots=True)
class Pong:
    """Send a pong that echoes `payload`."""

    payload: bytes


@dataclass(frozen=True, slots=True)
class CloseSocket:
    """Start the closing handshake."""

    reason: str


@dataclass(frozen=True, slots=True)
class AbortSocket:
    """Cut the connection at once."""

    reason: str


@dataclass(frozen=True, slots=True)
class FetchSnapshot:
    """Fetch a REST snapshot and record it on this connection.

    Attributes:
        symbol: As REST spells it.
        reason: `first`, `quiet`, `gap`, `reconnect` or `epoch`.
        update_id: The snapshot is of use only if its `lastUpdateId` is at least this; None: any.
    """

    symbol: str
    reason: str
    update_id: int | None


@dataclass(frozen=True, slots=True)
class Replace:
    """Open another connection for the same streams and retire this one when the other has overlapped."""

    reason: str


@dataclass(frozen=True, slots=True)
class CutSegment:
    """End the segment behind the lines taken so far; the next line starts another."""

    reason: str


@dataclass(frozen=True, slots=True)
class Notice:
    """Something worth a log line and a count."""

    name: str
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Ended:
    """The connection is over; nothing follows. `code` is the websocket close code or None."""

    reason: str
    code: int | None


Action = Send | Ping | Pong | CloseSocket | AbortSocket | FetchSnapshot | Replace | CutSegment | Notice | Ended

_NOTHING: tuple[Action, ...] = ()


class StreamMemory:
    """What successive connections know together about one stream; owned by whoever makes the sessions.

    Attributes:
        name: As Binance spells it.
        symbol: As REST spells it.
        depth: Whether the stream is spliced by update ids.
        update_id: The greatest final update id ever heard, or None.
        snapshot_asked: Whether the first snapshot was asked for.
        quiet: Whether its silence means nothing, because the symbol does not trade.
    """

    __slots__ = ("depth", "name", "quiet", "snapshot_asked", "symbol", "update_id")

    def __init__(self, name: str) -> None:
        self.name = name
        self.symbol, stream = split_stream(name)
        self.depth = is_depth(stream)
        self.update_id: int | None = None
        self.snapshot_asked = False
        self.quiet = False


class _Stream(Listening):
    """One stream on one connection."""

    __slots__ = ("joined", "memory", "suspect", "suspect_ns", "update_id")

    def __init__(self, memory: StreamMemory, now_ns: int) -> None:
        super().__init__(now_ns, steady=memory.depth)
        self.memory = memory
        self.update_id: int | None = None
        self.joined = False
        self.suspect = False
        self.suspect_ns = 0


def connection_url(market: Market, streams: Sequence[str], *, base: str | None = None) -> tuple[str, list[bytes]]:
    """Return the URL to open for `streams`, and the SUBSCRIBE messages to send when they do not fit into it.

    >>> connection_url(Market.SPOT, ["btcusdt@trade"], base="ws://x")
    ('ws://x/stream?streams=btcusdt@trade', [])
    """
    url = stream_url(market, streams, base=base)
    if len(url) <= URL_CHARACTERS_MAX:
        return url, []
    return stream_url(market, base=base), subscription_messages(streams, 1)


def subscription_messages(streams: Sequence[str], first_id: int, method: str = "SUBSCRIBE") -> list[bytes]:
    """Return the messages that change the subscription of `streams`, short enough for the server, with ids from `first_id` on.

    >>> subscription_messages([], 1), subscription_messages(["btcusdt@trade"], 7, "UNSUBSCRIBE")
    ([], [b'{"method":"UNSUBSCRIBE","params":["btcusdt@trade"],"id":7}'])
    """
    messages: list[bytes] = []
    batch: list[str] = []
    size = 0
    for stream in streams:
        grown = size + len(stream.encode()) + len('"",')
        if batch and grown >= SUBSCRIBE_BYTES_MAX - _MESSAGE_FRAME_BYTES:
            messages.append(subscribe_frame(batch, first_id + len(messages), method))
            batch, grown = [], len(stream.encode()) + len('"",')
        batch.append(stream)
        size = grown
    return [*messages, subscribe_frame(batch, first_id + len(messages), method)] if batch else messages


class Session:
    """One websocket connection.

    The caller takes `lines` with `take_lines` *before* it performs the actions of a call: actions refer to everything said so far.

    Args:
        market: Whose rules hold.
        number: The connection's number, for the caller.
        memories: The streams to subscribe, with what is known of them.
        base: Websocket address instead of the market's own.
        now_ns: Monotonic time.
        wall_ns: Wall time at the same moment: together the anchor of all receive times.
    """

    def __init__(
        self, *, market: Market, number: int, memories: Iterable[StreamMemory], now_ns: int, wall_ns: int, base: str | None = None
    ) -> None:
        self.market = market
        self.number = number
        self.state = State.DIALING
        self.streams = {memory.name.encode(): _Stream(memory, now_ns) for memory in memories}
        self.url, messages = connection_url(market, [stream.memory.name for stream in self.streams.values()], base=base)
        self.frames = 0
        self.gaps = 0
        self.opened_ns = now_ns
        self.last_data_ns = now_ns
        self.lines: list[tuple[int, bytes]] = []
        self.size = 0
        self._anchor_ns = wall_ns - now_ns
        self._receive_ns = 0
        self._messages = deque(messages)
        self._message_count = len(messages)
        self._unanswered: set[int] = set()
        self._window = message_window(market)
        self._pong: bytes | None = None
        self._pong_at_ns = now_ns
        self._heard_ns = now_ns
        self._pinged_ns: int | None = None
        self._stop_ns = 0
        self._stop_reason = ""
        self._check_ns = now_ns + CHECK_NS
        self._whole = _Stream(StreamMemory("!whole"), now_ns)
        self.replace_reason: str | None = None

    @property
    def subscribed(self) -> bool:
        """Whether every SUBSCRIBE message was sent and answered, and something was heard."""
        return self.frames > 0 and not self._messages and not self._unanswered

    # --- life-cycle ------------------------------------------------------------------------------------------------------------

    def _move(self, event: Event) -> State:
        before = self.state
        after = TRANSITIONS.get((before, event))
        if after is None:
            raise AssertionError(f"connection {self.number}: {event} cannot happen while {before}")
        self.state = after
        return before

    def opened(self, now_ns: int, wall_ns: int) -> Sequence[Action]:
        """Take the news that the connection is open."""
        self._move(Event.OPENED)
        if self.state is State.CLOSING:
            return (CloseSocket(self._stop_reason),)
        self._anchor_ns = wall_ns - now_ns
        self.opened_ns = self.last_data_ns = self._heard_ns = now_ns
        for stream in (*self.streams.values(), self._whole):
            stream.restart(now_ns)
        self._check_ns = now_ns + CHECK_NS
        return self._pump(now_ns)

    def failed(self, reason: str) -> Sequence[Action]:
        """Take the news that the connection could not be opened."""
        self._move(Event.FAILED)
        return (Ended(reason, None),)

    def stop(self, now_ns: int, reason: str) -> Sequence[Action]:
        """End the connection; frames are recorded until it is closed."""
        before = self._move(Event.STOP)
        if before in (State.CLOSING, State.ENDED):
            return _NOTHING
        self._stop_ns = now_ns
        self._stop_reason = reason
        return (CloseSocket(reason),) if before is State.OPEN else _NOTHING

    def closed(self, code: int | None, reason: str) -> Sequence[Action]:
        """Take the end of the connection."""
        before = self._move(Event.CLOSED)
        return (Ended(self._stop_reason if before is State.CLOSING else reason, code),)

    def change(self, added: Iterable[StreamMemory], removed: Sequence[str], now_ns: int) -> None:
        """Carry further streams, and some no longer; the messages go out when the connection is open and their budget allows."""
        fresh = {memory.name: _Stream(memory, now_ns) for memory in added}
        self.streams.update({name.encode(): stream for name, stream in fresh.items()})
        for name in removed:
            self.streams.pop(name.encode(), None)
        for method, names in (("SUBSCRIBE", list(fresh)), ("UNSUBSCRIBE", list(removed))):
            messages = subscription_messages(names, self._message_count + 1, method)
            self._messages.extend(messages)
            self._message_count += len(messages)

    # --- what arrives ----------------------------------------------------------------------------------------------------------

    def stamp(self, now_ns: int) -> int:
        """Return the receive time of the next line: wall anchor plus monotonic clock, strictly increasing within a segment."""
        receive_ns = self._anchor_ns + now_ns
        if receive_ns <= self._receive_ns:
            receive_ns = self._receive_ns + 1
        self._receive_ns = receive_ns
        return receive_ns

    def append(self, receive_ns: int, line: bytes) -> None:
        """Append a line under a time from `stamp`."""
        self.lines.append((receive_ns, line))
        self.size += len(line)

    def record(self, line: bytes, now_ns: int) -> None:
        """Append a line now."""
        self.append(self.stamp(now_ns), line)

    def take_lines(self) -> tuple[list[tuple[int, bytes]], int]:
        """Return the lines since the last call, oldest first, and the sum of their sizes in bytes."""
        lines, size = self.lines, self.size
        self.lines, self.size = [], 0
        return lines, size

    def frame(self, opcode: int, payload: bytes, now_ns: int) -> Sequence[Action]:
        """Take one data frame: record it, whatever it is, and see what it means."""
        self.frames += 1
        self.last_data_ns = self._heard_ns = now_ns
        whole = self._whole
        whole.count += 1
        whole.last_ns = now_ns
        if opcode != _TEXT or not recordable(payload):
            self.record(bytes_line(opcode, payload), now_ns)
            return (Notice("frame_not_text", {"opcode": opcode, "size": len(payload)}),)
        # The same as `record`, spelled out: this runs for every frame there is.
        receive_ns = self._anchor_ns + now_ns
        if receive_ns <= self._receive_ns:
            receive_ns = self._receive_ns + 1
        self._receive_ns = receive_ns
        self.lines.append((receive_ns, payload))
        self.size += len(payload)
        # `{"stream":"` is 11 bytes; a frame without that wrapper finds no stream here and is looked at more closely.
        stream = self.streams.get(payload[11 : payload.find(b'"', 11, 160)])
        if stream is None:
            return self._other(payload)
        stream.count += 1
        stream.last_ns = now_ns
        if not stream.memory.depth:
            stream.joined = True
            return _NOTHING
        ids = depth_ids(payload, self.market)
        if ids is None:
            return (Notice("depth_without_ids", {"stream": stream.memory.name}),)
        prev, final = ids
        if prev != stream.update_id:
            return self._irregular(stream, prev, final)
        stream.update_id = final
        memory = stream.memory
        if memory.update_id is None or final > memory.update_id:
            memory.update_id = final
        return _NOTHING

    def _irregular(self, stream: _Stream, prev: int, final: int) -> Sequence[Action]:
        """Take an event that does not simply continue its line."""
        memory = stream.memory
        first = stream.update_id is None
        known = memory.update_id
        if known is None:
            stream.update_id = memory.update_id = final
            stream.joined = True
            return () if memory.snapshot_asked else self._ask(memory, "first", prev)
        # A connection that lags behind another one is no new epoch: a line is compared with itself as soon as it has a position.
        here = known if stream.update_id is None else stream.update_id
        if is_new_epoch(here, final, RULES[self.market].epoch_drop_ids):
            stream.update_id = memory.update_id = final
            stream.joined = True
            return (Notice("epoch", {"stream": memory.name, "from": known, "to": prev}), *self._ask(memory, "epoch", prev))
        if stream.update_id is not None and join(stream.update_id, prev, final) is not Join.GAP:
            how = join(stream.update_id, prev, final)
            stream.update_id = max(stream.update_id, final)
            memory.update_id = max(known, final)
            return (Notice("id_irregular", {"stream": memory.name, "join": how.value}),)
        own = stream.update_id
        stream.update_id = final
        stream.joined = True
        memory.update_id = max(known, final)
        if prev <= known:  # another connection has what this one missed; a first event that overlaps is the normal handover
            if first:
                return _NOTHING
            self.gaps += 1
            return (Notice("gap_covered", {"stream": memory.name, "after": own, "next": prev}),)
        self.gaps += 1
        notice = Notice("gap", {"stream": memory.name, "after": known, "next": prev, "across_connections": first})
        return (notice, *self._ask(memory, "reconnect" if first else "gap", prev))

    def _ask(self, memory: StreamMemory, reason: str, update_id: int | None) -> tuple[Action, ...]:
        memory.snapshot_asked = True
        return (FetchSnapshot(memory.symbol, reason, update_id),)

    def _other(self, payload: bytes) -> Sequence[Action]:
        """Take a frame of no stream we subscribed: an answer, a notice, or something nobody expects."""
        if is_shutdown_notice(payload):
            return (Notice("server_shutdown"), *self._replace("server shutdown"))
        if len(payload) < 4096 and b'"id"' in payload:
            try:
                answer = json.loads(payload)
            except ValueError:
                answer = None
            if isinstance(answer, dict) and ("result" in answer or "error" in answer):
                request_id = answer.get("id")
                if isinstance(request_id, int):
                    self._unanswered.discard(request_id)
                if answer.get("result") is None and "error" not in answer:
                    return _NOTHING
                return (Notice("subscribe_refused", {"answer": payload.decode(errors="replace")}),)
        return (Notice("frame_of_no_stream", {"start": payload[:80].decode(errors="replace")}),)

    def ping(self, payload: bytes, now_ns: int) -> Sequence[Action]:
        """Take a ping: it is answered with its own payload; of several that wait for the message budget, only the newest."""
        self._heard_ns = now_ns
        self._pong = payload
        return self._pump(now_ns)

    def pong(self, now_ns: int) -> Sequence[Action]:
        """Take a pong."""
        self._heard_ns = now_ns
        self._pinged_ns = None
        return _NOTHING

    def resumed(self, now_ns: int) -> None:
        """Forgive the silence of a time in which we did not read the socket."""
        self.last_data_ns = self._heard_ns = now_ns
        self._pinged_ns = None
        for stream in (*self.streams.values(), self._whole):
            stream.restart(now_ns)

    # --- time ------------------------------------------------------------------------------------------------------------------

    def deadline_ns(self) -> int:
        """Return when `tick` is due next."""
        if self.state in (State.DIALING, State.ENDED):
            return self._check_ns
        checked_ns = self._check_ns - CHECK_NS
        message_ns = self._window.ready_ns(checked_ns, 2) if self._messages else self._check_ns
        pong_ns = self._check_ns if self._pong is None else max(self._pong_at_ns, self._window.ready_ns(checked_ns, 1))
        return min(self._check_ns, message_ns, pong_ns)

    def tick(self, now_ns: int, wall_ns: int) -> Sequence[Action]:
        """Do what is due."""
        actions: list[Action] = []
        if self.state in (State.DIALING, State.ENDED):
            self._check_ns = now_ns + CHECK_NS
            return _NOTHING
        actions += self._pump(now_ns)
        if now_ns < self._check_ns:
            return actions
        self._check_ns = now_ns + CHECK_NS
        step_ns = wall_ns - now_ns - self._anchor_ns
        if abs(step_ns) > CLOCK_STEP_NS:
            self._anchor_ns += step_ns
            self._receive_ns = 0
            actions += (Notice("clock_step", {"step_ns": step_ns}), CutSegment("clock step"))
        if self.state is State.CLOSING:
            if now_ns - self._stop_ns > CLOSE_WAIT_NS:
                self._stop_ns = now_ns
                actions.append(AbortSocket("no end after close"))
            return actions
        actions += self._listen(now_ns)
        actions += self._silence(now_ns)
        return actions

    def _pump(self, now_ns: int) -> list[Action]:
        """Send what waits, as far as the message budget allows: pongs first."""
        actions: list[Action] = []
        if self._pong is not None and now_ns >= self._pong_at_ns and self._window.take(now_ns):
            actions.append(Pong(self._pong))
            self._pong = None
            self._pong_at_ns = now_ns + PONG_SPACING_NS
        while self.state is State.OPEN and self._messages and self._window.ready_ns(now_ns, 2) <= now_ns:
            self._window.charge(now_ns)
            message = self._messages.popleft()
            self._unanswered.add(int(json.loads(message)["id"]))
            actions.append(Send(message))
        return actions

    def _listen(self, now_ns: int) -> list[Action]:
        """Notice a peer that vanished without a word."""
        if self._pinged_ns is not None and self._heard_ns < self._pinged_ns:
            if now_ns - self._pinged_ns > PING_WAIT_NS:
                self._pinged_ns = now_ns
                return [Notice("peer_vanished"), AbortSocket("no answer to ping")]
        elif now_ns - self._heard_ns > PING_IDLE_NS and self._window.take(now_ns):
            self._pinged_ns = now_ns
            return [Ping(b"twintape")]
        return []

    def _replace(self, reason: str) -> tuple[Action, ...]:
        if self.replace_reason is not None:
            return ()
        self.replace_reason = reason
        return (Replace(reason),)

    def _suspect(self, stream: _Stream, now_ns: int, names: list[str] | None) -> Action:
        """Write the beginning or the end of an interval in which we may have been deaf."""
        stream.suspect = not stream.suspect
        if stream.suspect:
            stream.suspect_ns = self._anchor_ns + stream.last_ns
        to_ns = None if stream.suspect else self._anchor_ns + now_ns
        self.record(suspect_line(from_ns=stream.suspect_ns, to_ns=to_ns, streams=names, reason="silent"), now_ns)
        return Notice("silent" if stream.suspect else "silence_over", {"streams": names})

    def _silence(self, now_ns: int) -> list[Action]:
        """Watch the streams and the connection as a whole."""
        actions: list[Action] = []
        whole = self._whole
        whole.measure()
        if all(stream.memory.quiet for stream in self.streams.values()):
            return actions
        if not self.frames:
            if now_ns - self.opened_ns > FIRST_DATA_NS:
                actions += self._replace("no first data")
        elif whole.suspect != whole.silent(now_ns):
            actions.append(self._suspect(whole, now_ns, None))
            if whole.suspect:
                actions += self._replace("silent")
        for stream in self.streams.values():
            memory = stream.memory
            if (
                memory.depth
                and memory.update_id is None
                and not memory.snapshot_asked
                and now_ns - self.opened_ns > FIRST_EVENT_NS
            ):
                actions += self._ask(memory, "quiet", None)
            if whole.suspect or memory.quiet:
                continue
            stream.measure()
            if stream.suspect != stream.silent(now_ns):
                actions.append(self._suspect(stream, now_ns, [memory.name]))
            if stream.suspect and stream.spacing_ns <= STEADY_SPACING_NS and now_ns - stream.last_ns > STREAM_REPLACE_NS:
                actions += self._replace("a stream is silent")
        return actions
