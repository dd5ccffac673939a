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
from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum

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
from twintape.core.budget import SECOND_NS, message_window
from twintape.core.markets import RULES, Market
from twintape.core.memory import HOLE_WAIT_NS, HeardStream, Hole, StreamMemory
from twintape.core.sequence import Join, is_new_epoch, join
from twintape.core.silence import Lag, Pace
from twintape.core.subscription import connection_url, subscription_messages
from twintape.core.wire import (
    bytes_line,
    depth_ids,
    event_time_us,
    is_shutdown_notice,
    recordable,
    suspect_line,
)

__all__ = [
    "TRANSITIONS",
    "Event",
    "Session",
    "State",
]

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
FIRST_STREAM_DATA_NS = 120 * SECOND_NS
"""A stream that was acknowledged and never spoke for so long is said to be mute: acknowledgements prove nothing."""
CHECK_LATE_NS = SECOND_NS
"""When a check comes so much later than it should, we were blocked ourselves, and what waits in the socket is no silence."""
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


_NOTHING: tuple[Action, ...] = ()


class Session:
    """One websocket connection.

    The caller takes `lines` with `take_lines` *before* it performs the actions of a call: actions refer to everything said so far.

    Args:
        market: Whose rules hold.
        number: The connection's number, for the caller.
        memories: The streams to subscribe, with what is known of them.
        base: Websocket address instead of the market's own.
        pace: The rhythm of all these streams together, learned from the connections before; None: nothing is known.
        suspects: Where suspected intervals are counted, by reason.
        now_ns: Monotonic time.
        wall_ns: Wall time at the same moment: together the anchor of all receive times.

    Attributes:
        frames: Data frames heard.
        gaps: Holes in this connection's own ids, whoever else filled them.
        opened_ns: When it was opened.
        opened_wall_ns: The same as wall time.
        lag: How late frames arrive.
    """

    def __init__(
        self,
        *,
        market: Market,
        number: int,
        memories: Iterable[StreamMemory],
        now_ns: int,
        wall_ns: int,
        base: str | None = None,
        pace: Pace | None = None,
        suspects: Counter[str] | None = None,
    ) -> None:
        self.market = market
        self.number = number
        self.state = State.DIALING
        self.streams = {memory.name.encode(): HeardStream(memory, now_ns) for memory in memories}
        self.url, messages = connection_url(market, [stream.memory.name for stream in self.streams.values()], base=base)
        self.frames = 0
        self.gaps = 0
        self.opened_ns = now_ns
        self.opened_wall_ns = wall_ns
        self.last_data_ns = now_ns
        self.lag = Lag()
        self.suspects: Counter[str] = Counter() if suspects is None else suspects
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
        self._whole = HeardStream(StreamMemory("!whole"), now_ns)
        if pace is not None:
            self._whole.pace = pace
        self._newest_depth: tuple[int, bytes] | None = None
        self._lag_suspect_ns: int | None = None
        self._counted: list[HeardStream] = []
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
        self.opened_wall_ns = wall_ns
        self._listening(1)
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
        self._listening(-1)
        self._end_suspicions()
        return (Ended(self._stop_reason if before is State.CLOSING else reason, code),)

    def _listening(self, change: int) -> None:
        """Let the memories know how many open connections listen; one that was closed before it was open never counted."""
        if change > 0:
            self._counted = list(self.streams.values())
        for stream in self._counted:
            stream.memory.listeners += change
        if change < 0:
            self._counted = []

    def change(self, added: Iterable[StreamMemory], removed: Sequence[str], now_ns: int) -> None:
        """Carry further streams, and some no longer; the messages go out when the connection is open and their budget allows."""
        fresh = {memory.name: HeardStream(memory, now_ns) for memory in added}
        counted = bool(self._counted)
        if counted:
            self._listening(-1)
        self.streams.update({name.encode(): stream for name, stream in fresh.items()})
        for name in removed:
            self.streams.pop(name.encode(), None)
        if counted:
            self._listening(1)
        for method, names in (("SUBSCRIBE", list(fresh)), ("UNSUBSCRIBE", list(removed))):
            messages = subscription_messages(names, self._message_count + 1, method)
            self._messages.extend(messages)
            self._message_count += len(messages)

    @property
    def suspect_count(self) -> int:
        """How many streams are suspected now: all of them if the connection is."""
        if self._whole.suspect or self._lag_suspect_ns is not None:
            return len(self.streams)
        return sum(stream.suspect for stream in self.streams.values())

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
        memory = stream.memory
        if stream.first_ns is None:
            stream.first_ns = now_ns
        if not memory.depth:
            return _NOTHING
        self._newest_depth = (receive_ns, payload)
        ids = depth_ids(payload, self.market)
        if ids is None:
            return (Notice("depth_without_ids", {"stream": memory.name}),)
        prev, final = ids
        filled = memory.fill(prev, final) if memory.holes else 0
        if prev != stream.update_id:
            return (*self._filled(memory, filled), *self._irregular(stream, prev, final, now_ns))
        stream.update_id = final
        if memory.update_id is None or final > memory.update_id:
            memory.update_id = final
        return self._filled(memory, filled) if filled else _NOTHING

    def _filled(self, memory: StreamMemory, count: int) -> tuple[Action, ...]:
        return (Notice("gap_filled", {"stream": memory.name}),) * count

    def _irregular(self, stream: HeardStream, prev: int, final: int, now_ns: int) -> Sequence[Action]:
        """Take an event that does not simply continue its line."""
        memory = stream.memory
        first = stream.update_id is None
        known = memory.update_id
        if known is None:
            stream.start_update_id = prev
            stream.update_id = memory.update_id = final
            return () if memory.snapshot_asked else self._ask(memory, "first", prev)
        # A connection that lags behind another one is no new epoch: a line is compared with itself as soon as it has a position.
        here = known if stream.update_id is None else stream.update_id
        if is_new_epoch(here, final, RULES[self.market].epoch_drop_ids):
            stream.start_update_id = prev
            stream.update_id = memory.update_id = final
            memory.holes.clear()
            return (Notice("epoch", {"stream": memory.name, "from": known, "to": prev}), *self._ask(memory, "epoch", prev))
        if stream.update_id is not None and join(stream.update_id, prev, final) is not Join.GAP:
            how = join(stream.update_id, prev, final)
            stream.update_id = max(stream.update_id, final)
            memory.update_id = max(known, final)
            return (Notice("id_irregular", {"stream": memory.name, "join": how.value}),)
        own = stream.update_id
        stream.update_id, stream.start_update_id = final, prev
        memory.update_id = max(known, final)
        self.gaps += not first
        if prev <= known:  # another connection has what this one missed; a first event that overlaps is the normal handover
            return _NOTHING if first else (Notice("gap_covered", {"stream": memory.name, "after": own, "next": prev}),)
        hole = Hole(known, prev, now_ns + HOLE_WAIT_NS, first)
        if memory.listeners > 1:  # the other connection may be a moment behind
            memory.holes.append(hole)
            return (Notice("gap_open", {"stream": memory.name, "after": known, "next": prev}),)
        return self._gap(memory, hole)

    def _gap(self, memory: StreamMemory, hole: Hole) -> tuple[Action, ...]:
        """Declare a gap: no connection of ours has these ids."""
        details = {"after": hole.after_update_id, "next": hole.next_prev_update_id, "across_connections": hole.across_connections}
        reason = "reconnect" if hole.across_connections else "gap"
        return (Notice("gap", {"stream": memory.name, **details}), *self._ask(memory, reason, hole.next_prev_update_id))

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

    def _excuse(self, late_ns: int, now_ns: int) -> None:
        """Leave a time in which we were blocked ourselves out of every silence."""
        self._heard_ns = min(now_ns, self._heard_ns + late_ns)
        if self._pinged_ns is not None:
            self._pinged_ns = min(now_ns, self._pinged_ns + late_ns)
        for stream in (*self.streams.values(), self._whole):
            stream.excuse(late_ns, now_ns)

    def resumed(self, now_ns: int) -> None:
        """Forgive the silence of a time in which we did not read the socket."""
        self._check_ns = now_ns + CHECK_NS
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
        late_ns = now_ns - self._check_ns
        self._check_ns = now_ns + CHECK_NS
        step_ns = wall_ns - now_ns - self._anchor_ns
        if abs(step_ns) > CLOCK_STEP_NS:
            if step_ns > 0:
                # The machine may have slept, and its monotonic clock with it: nobody knows what was sent meanwhile.
                from_ns = self._anchor_ns + self._heard_ns
                self.record(suspect_line(from_ns=from_ns, to_ns=wall_ns, streams=None, reason="clock step or suspend"), now_ns)
            self._anchor_ns += step_ns
            self._receive_ns = 0
            self._newest_depth = None
            self.lag.restart()
            actions += (Notice("clock_step", {"step_ns": step_ns}), CutSegment("clock step"))
        if self.state is State.CLOSING:
            if now_ns - self._stop_ns > CLOSE_WAIT_NS:
                self._stop_ns = now_ns
                actions.append(AbortSocket("no end after close"))
            return actions
        if late_ns > CHECK_LATE_NS:
            self._excuse(late_ns, now_ns)
            actions.append(Notice("check_late", {"seconds": round(late_ns / SECOND_NS, 3)}))
        actions += self._listen(now_ns)
        actions += self._silence(now_ns)
        actions += self._lateness()
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

    def _suspect(self, stream: HeardStream, now_ns: int, names: list[str] | None) -> Action:
        """Write the beginning or the end of an interval in which we may have been deaf."""
        stream.suspect = not stream.suspect
        if stream.suspect:
            stream.suspect_ns = self._anchor_ns + stream.last_ns
            self.suspects["silent"] += 1
        to_ns = None if stream.suspect else self._anchor_ns + now_ns
        self.record(suspect_line(from_ns=stream.suspect_ns, to_ns=to_ns, streams=names, reason="silent"), now_ns)
        seconds = round((now_ns - stream.last_ns) / SECOND_NS, 3)
        return (
            Notice("silent", {"streams": names, "seconds": seconds})
            if stream.suspect
            else Notice("silence_over", {"streams": names})
        )

    def _end_suspicions(self) -> None:
        """Close the intervals that are open when the connection ends."""
        suspects: list[tuple[int, list[str] | None, str]] = []
        if self._whole.suspect:
            suspects.append((self._whole.suspect_ns, None, "silent"))
        suspects += [(s.suspect_ns, [s.memory.name], "silent") for s in self.streams.values() if s.suspect]
        if self._lag_suspect_ns is not None:
            suspects.append((self._lag_suspect_ns, None, "lagging"))
        now_ns = max(self._receive_ns, self._anchor_ns + self._check_ns - CHECK_NS) - self._anchor_ns
        for from_ns, names, reason in suspects:
            line = suspect_line(from_ns=from_ns, to_ns=self._anchor_ns + now_ns, streams=names, reason=reason)
            self.record(line, now_ns)

    def _silence(self, now_ns: int) -> list[Action]:
        """Watch the streams and the connection as a whole."""
        actions: list[Action] = []
        whole = self._whole
        whole.measure(now_ns)
        if all(stream.memory.quiet for stream in self.streams.values()):
            return actions
        if whole.suspect != whole.silent(now_ns):
            actions.append(self._suspect(whole, now_ns, None))
        if whole.suspect and whole.pace.silence_retry.take(now_ns):
            actions += self._replace("silent")
        if not self.frames and now_ns - self.opened_ns > FIRST_DATA_NS and whole.pace.silence_retry.take(now_ns):
            actions += self._replace("no first data")
        for stream in self.streams.values():
            actions += self._stream_silence(stream, now_ns)
        return actions

    def _stream_silence(self, stream: HeardStream, now_ns: int) -> list[Action]:
        actions: list[Action] = []
        memory = stream.memory
        age_ns = now_ns - self.opened_ns
        for hole in memory.due(now_ns) if memory.holes else ():
            actions += self._gap(memory, hole)
        if memory.depth and memory.update_id is None and not memory.snapshot_asked and age_ns > FIRST_EVENT_NS:
            actions += self._ask(memory, "quiet", None)
        stream.measure(now_ns)
        if self._whole.suspect or memory.quiet:
            return actions
        if stream.suspect != stream.deaf(now_ns):
            actions.append(self._suspect(stream, now_ns, [memory.name]))
        if stream.suspect and stream.pace.silence_retry.take(now_ns):
            for other in self.streams.values():
                if other.suspect:  # one new connection is tried for all of them
                    other.pace.silence_retry.take(now_ns)
            actions += self._replace("a stream is silent")
        if not memory.pace.evidence and self.frames and age_ns > FIRST_STREAM_DATA_NS and not memory.mute:
            # Said once, and tried once with another connection: a symbol that does not trade has nothing to say.
            memory.mute = True
            self.suspects["mute"] += 1
            from_ns = self._anchor_ns + self.opened_ns
            line = suspect_line(from_ns=from_ns, to_ns=None, streams=[memory.name], reason="never any data")
            self.record(line, now_ns)
            actions += (Notice("stream_mute", {"stream": memory.name}), *self._replace("a stream never spoke"))
        return actions

    def _lateness(self) -> list[Action]:
        """Compare the newest depth frame's way with what is usual."""
        if self._newest_depth is None:
            return []
        (receive_ns, payload), self._newest_depth = self._newest_depth, None
        event_us = event_time_us(payload)
        if event_us is None:
            return []
        lag_ns = receive_ns - event_us * 1000
        late = self.lag.measure(lag_ns)
        if late == (self._lag_suspect_ns is not None):
            return []
        if late:
            self._lag_suspect_ns = receive_ns
            self.suspects["lagging"] += 1
            line = suspect_line(from_ns=receive_ns, to_ns=None, streams=None, reason="lagging")
        else:
            line = suspect_line(from_ns=self._lag_suspect_ns or 0, to_ns=receive_ns, streams=None, reason="lagging")
            self._lag_suspect_ns = None
        self.record(line, receive_ns - self._anchor_ns)
        seconds = {"seconds": round(lag_ns / SECOND_NS, 3), "usual": round(self.lag.usual_ns / SECOND_NS, 3)}
        if not late:
            return [Notice("lag_over", seconds)]
        retry = self._whole.pace.lag_retry.take(receive_ns - self._anchor_ns)
        return [Notice("lagging", seconds), *(self._replace("lagging") if retry else ())]
