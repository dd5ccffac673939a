"""One websocket connection as a state machine: frames and time in, lines and actions out.

A session never decides whether a frame is worth keeping: every one becomes a line. Besides, it follows just enough of the contents to act
in time: update ids (ask for a snapshot behind a gap), silence (ask for a replacement), shutdown notices, pings, answers to SUBSCRIBE. Its
life-cycle is the table in `core.lifecycle`.
Frames that arrive while CLOSING are recorded too. All times are monotonic nanoseconds except where a name says wall or receive.

Source: Binance, Spot API docs, web-socket-streams.md (2026-07-21): pongs echo the payload; 5 messages a second; `serverShutdown`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

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
from twintape.core.heads import depth_head
from twintape.core.lifecycle import TRANSITIONS, Event, State
from twintape.core.markets import RULES, Market
from twintape.core.memory import HOLE_WAIT_NS, HeardStream, Hole, StreamMemory, find_witnesses
from twintape.core.receipt import TEXT, Receipt
from twintape.core.sequence import Join, is_new_epoch, join
from twintape.core.silence import Lag, Pace
from twintape.core.subscription import Subscription
from twintape.core.tally import Tally, close_word
from twintape.core.wire import bytes_line, depth_ids, event_time_us, is_shutdown_notice, suspect_line

__all__ = ["TRANSITIONS", "Event", "Session", "State"]

CLOCK_STEP_NS = SECOND_NS
"""A wall clock that leaves the anchor by more than this has been set (or the machine slept)."""
CHECK_NS = SECOND_NS // 2
PING_IDLE_NS = 15 * SECOND_NS
PONG_SPACING_NS = SECOND_NS // 2
"""A flood of pings must not use up the messages that subscribing needs."""
PING_WAIT_NS = 10 * SECOND_NS
CLOSE_WAIT_NS = 3 * SECOND_NS
"""A peer that says nothing for so long after our close is cut off …"""
CLOSE_MAX_NS = 30 * SECOND_NS
"""… and one that goes on and on after so long."""
FIRST_DATA_NS = 60 * SECOND_NS
"""Quiet symbols are silent for tens of seconds; a connection without any data for longer sits on a wrong route."""
FIRST_EVENT_NS = 10 * SECOND_NS
"""A depth stream without any event for so long gets its first snapshot all the same."""
FIRST_STREAM_DATA_NS = 120 * SECOND_NS
"""A stream that was acknowledged and never spoke for so long is said to be mute: acknowledgements prove nothing."""
CHECK_LATE_NS = SECOND_NS
"""When a check comes so much later than it should, we were blocked ourselves, and what waits in the socket is no silence."""
MISSING_MAX = 2
"""A stream that the server so often in a row says it has not got is worth another connection, once."""
NAMED_MAX = 20
NAMED_BYTES_MAX = 500
"""A log line names at most so many streams, and quotes so much of an answer."""
_NOTHING: tuple[Action, ...] = ()


class Session(Receipt):
    """One websocket connection.

    The caller takes the lines with `take` *before* it performs the actions of a call: actions refer to everything said so far.

    Args:
        market: Whose rules hold.
        number: The connection's number, for the caller.
        memories: The streams to subscribe, with what is known of them.
        base: Websocket address instead of the market's own.
        pace: The rhythm of all these streams together, learned from the connections before; None: nothing is known.
        tally: Where what happens is counted.
        now_ns: Monotonic time.
        wall_ns: Wall time at the same moment: together the anchor of all receive times.

    Attributes:
        frames: Data frames heard.
        heard: As in `Receipt`: whoever reads the socket may append text frames here instead of calling `frame`, and calls `look` soon.
        gaps: Holes in this connection's own ids, whoever else filled them.
        opened_ns: When it was opened.
        opened_wall_ns: The same as wall time.
        ended_by: Why it ended, in one of a few words (`tcp_end`, `close_1008`, `no_pong`, `dial_failed`, …); empty before.
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
        tally: Tally | None = None,
    ) -> None:
        super().__init__(now_ns, wall_ns)
        self.market = market
        self.number = number
        self.state = State.DIALING
        self.streams = {memory.name.encode(): HeardStream(memory, now_ns) for memory in memories}
        self.subscription = Subscription(market, [stream.memory.name for stream in self.streams.values()], base=base)
        find_witnesses(market, self.streams.values())
        self.frames = 0
        self.gaps = 0
        self.opened_ns = now_ns
        self.opened_wall_ns = wall_ns
        self.last_data_ns = now_ns
        self.lag = Lag()
        self.tally = Tally() if tally is None else tally
        self.ended_by = ""
        self._due: list[Action] = []
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
        return self.frames > 0 and self.subscription.answered

    @property
    def url(self) -> str:
        """What to open."""
        return self.subscription.url

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
        self.subscription.opened(now_ns)
        self._listening(1)
        for stream in (*self.streams.values(), self._whole):
            stream.restart(now_ns)
        self._check_ns = now_ns + CHECK_NS
        return self._pump(now_ns)

    def failed(self, reason: str) -> Sequence[Action]:
        """Take the news that the connection could not be opened."""
        self._move(Event.FAILED)
        self.ended_by = "dial_failed"
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
        actions = self.look()
        self.ended_by = self.ended_by or close_word(code)
        self.tally.frames += self.frames
        self._listening(-1)
        self._end_suspicions()
        return (*actions, Ended(self._stop_reason if before is State.CLOSING else reason, code))

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
        self.take_in()  # by the streams there were
        fresh = {memory.name: HeardStream(memory, now_ns) for memory in added}
        counted = bool(self._counted)
        if counted:
            self._listening(-1)
        self.streams.update({name.encode(): stream for name, stream in fresh.items()})
        for name in removed:
            self.streams.pop(name.encode(), None)
        if counted:
            self._listening(1)
        find_witnesses(self.market, self.streams.values())
        self.subscription.change(list(fresh), removed, now_ns)

    @property
    def suspect_count(self) -> int:
        """How many streams are suspected now: all of them if the connection is."""
        if self._whole.suspect or self._lag_suspect_ns is not None:
            return len(self.streams)
        return sum(stream.suspect for stream in self.streams.values())

    def silent(self, name: bytes) -> bool:
        """Return whether a stream is suspected to be silent here, by itself or with all others; lateness is no silence."""
        stream = self.streams.get(name)
        return self._whole.suspect or (stream is not None and stream.suspect)

    # --- what arrives ----------------------------------------------------------------------------------------------------------

    def frame(self, opcode: int, payload: bytes, now_ns: int) -> Sequence[Action]:
        """Take one data frame: record it, whatever it is, and see what it means."""
        if opcode == TEXT:
            self.heard.append((now_ns, payload))
            return self.look()
        self.record(bytes_line(opcode, payload), now_ns)
        self._due += self._no_text(opcode, payload, now_ns)
        return self.look()

    def look(self) -> Sequence[Action]:
        """Take in what is in `heard`, and return what is to be done: the same as if `frame` had taken each when it came."""
        self.take_in()
        if not self._due:
            return _NOTHING
        actions, self._due = self._due, []
        return actions

    def take_in(self) -> None:
        """Make lines of all frames in `heard`, and see what they mean; what is to be done is left to the next `look`."""
        heard, self.heard[:] = self.heard[:], ()
        times_ns, frames = self.add(heard)
        spot = int(self.market is Market.SPOT)  # what an event's first id is ahead of the id before it
        stream_of, event_time_seen, data_count, data_ns = self.streams.get, self.event_times.append, 0, 0
        for (now_ns, payload), receive_ns, frame, head in zip(heard, times_ns, frames, map(depth_head, frames), strict=True):
            if head is None:
                stream = stream_of(frame[11 : frame.find(b'"', 11, 160)])  # no stream's name, if it has no wrapper
            else:
                name, event_time, first, final, prev = head.groups()
                event_time_seen(event_time)
                stream, before = stream_of(name), first if spot else prev
                # Nearly every event continues its line: what that takes is done here.
                if stream and before and stream.update_id == int(before) - spot and not stream.memory.holes:
                    memory = stream.memory
                    stream.update_id = final_id = int(final)
                    if memory.update_id is None or final_id > memory.update_id:
                        memory.update_id = final_id
                    data_count += 1
                    stream.count += 1
                    stream.last_ns = data_ns = now_ns
                    self._newest_depth = receive_ns, frame
                    continue
            if stream:
                self._due += self._data_frame(stream, frame, receive_ns, now_ns)
            else:
                self._due += self._other(payload, now_ns) if frame is payload else self._no_text(TEXT, payload, now_ns)
        self._data(data_count, data_ns)

    def _data_frame(self, stream: HeardStream, frame: bytes, receive_ns: int, now_ns: int) -> Sequence[Action]:
        """Take a frame of a subscribed stream, whatever it is."""
        self._data(1, now_ns)
        stream.count += 1
        stream.last_ns = now_ns
        stream.first_ns = now_ns if stream.first_ns is None else stream.first_ns
        if not stream.memory.depth:
            return _NOTHING
        self._newest_depth = receive_ns, frame
        ids = depth_ids(frame, self.market)
        if ids is None:
            return (Notice("depth_without_ids", {"stream": stream.memory.name}),)
        return self._event(stream, *ids, now_ns)

    def _no_text(self, opcode: int, payload: bytes, now_ns: int) -> tuple[Action, ...]:
        self._data(1, now_ns)
        return (Notice("frame_not_text", {"opcode": opcode, "size": len(payload)}),)

    def _event(self, stream: HeardStream, prev: int, final: int, now_ns: int) -> Sequence[Action]:
        """Take an event while ids are missing somewhere, or one that does not simply continue its line."""
        memory = stream.memory
        filled = (Notice("gap_filled", {"stream": memory.name}),) * memory.fill(prev, final)
        if prev != stream.update_id:
            return (*filled, *self._irregular(stream, prev, final, now_ns))
        stream.update_id = final
        memory.update_id = final if memory.update_id is None else max(memory.update_id, final)
        return filled

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
        self.tally.gaps += 1
        reason = "reconnect" if hole.across_connections else "gap"
        return (Notice("gap", {"stream": memory.name, **details}), *self._ask(memory, reason, hole.next_prev_update_id))

    def _ask(self, memory: StreamMemory, reason: str, update_id: int | None) -> tuple[Action, ...]:
        memory.snapshot_asked = True
        return (FetchSnapshot(memory.symbol, reason, update_id),)

    def _data(self, count: int, now_ns: int) -> None:
        """Take note that frames were heard that are no mere answers, the last of them now."""
        self.frames += count
        self._whole.count += count
        self._whole.last_ns = max(self._whole.last_ns, now_ns)
        self.last_data_ns = max(self.last_data_ns, now_ns)
        self._heard_ns = max(self._heard_ns, now_ns)

    def _other(self, payload: bytes, now_ns: int) -> Sequence[Action]:
        """Take a frame of no stream we subscribed: an answer, a notice, or something nobody expects.

        Answers and notices prove that somebody is there, and not that data flows: a wrong route acknowledges everything.
        """
        self._heard_ns = now_ns
        if is_shutdown_notice(payload):
            return (Notice("server_shutdown"), *self._replace("server shutdown"))
        answer = self.subscription.answer(payload, now_ns)
        if answer is None:
            self._data(1, now_ns)
            return (Notice("frame_of_no_stream", {"start": payload[:80].decode(errors="replace")}),)
        if answer.refused:
            said = {"answer": payload[:NAMED_BYTES_MAX].decode(errors="replace")}
            return (Notice("subscriptions_unlisted" if answer.listing else "subscribe_refused", said),)
        actions = self._missing(answer.missing) if answer.listing else _NOTHING
        extra = {"count": len(answer.extra), "streams": answer.extra[:NAMED_MAX]}
        return (*actions, Notice("subscription_extra", extra)) if answer.extra else actions

    def _missing(self, names: Sequence[str]) -> tuple[Action, ...]:
        """Take the list of streams that the server has not got: asked for again already, and if that was in vain, once on another connection."""
        missing = {self.streams[name.encode()].memory for name in names}
        for stream in self.streams.values():
            if stream.memory not in missing:
                stream.memory.missing_count = 0
        if not missing:
            return _NOTHING
        for memory in missing:
            memory.missing_count += 1
        notice = Notice("subscription_missing", {"count": len(missing), "streams": names[:NAMED_MAX]})
        again = any(memory.missing_count == MISSING_MAX for memory in missing)
        return (notice, *(self._replace("streams are not subscribed") if again else ()))

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
        self.take_in()
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
        message_ns = self._window.ready_ns(checked_ns, 2) if self.subscription.waiting else self._check_ns
        pong_ns = self._check_ns if self._pong is None else max(self._pong_at_ns, self._window.ready_ns(checked_ns, 1))
        return min(self._check_ns, message_ns, pong_ns)

    def tick(self, now_ns: int, wall_ns: int) -> Sequence[Action]:
        """Do what is due."""
        actions = [*self.look()]
        if self.state in (State.DIALING, State.ENDED):
            self._check_ns = now_ns + CHECK_NS
            return actions
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
            # A server that lags sends what it has queued before it answers the close: that is still heard.
            quiet_ns = now_ns - max(self._stop_ns, self.last_data_ns)
            if quiet_ns > CLOSE_WAIT_NS or now_ns - self._stop_ns > CLOSE_MAX_NS:
                self._stop_ns = self.last_data_ns = now_ns
                actions.append(AbortSocket("no end after close"))
            return actions
        if late_ns > CHECK_LATE_NS:
            self._excuse(late_ns, now_ns)
            actions.append(Notice("check_late", {"seconds": round(late_ns / SECOND_NS, 3)}))
        self.subscription.look(now_ns)
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
        while self.state is State.OPEN and self.subscription.waiting and self._window.ready_ns(now_ns, 2) <= now_ns:
            self._window.charge(now_ns)
            actions.append(Send(self.subscription.next_message()))
        return actions

    def _listen(self, now_ns: int) -> list[Action]:
        """Notice a peer that vanished without a word."""
        if self._pinged_ns is not None and self._heard_ns < self._pinged_ns:
            if now_ns - self._pinged_ns > PING_WAIT_NS:
                self._pinged_ns = now_ns
                self.ended_by = "no_pong"
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
            self.tally.suspects["silent"] += 1
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
            self.record(suspect_line(from_ns=from_ns, to_ns=self._anchor_ns + now_ns, streams=names, reason=reason), now_ns)

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
        for stream in [stream for stream in self.streams.values() if not stream.at_ease(now_ns)]:
            actions += self._stream_silence(stream, now_ns)
        return actions

    def _stream_silence(self, stream: HeardStream, now_ns: int) -> list[Action]:
        actions: list[Action] = []
        memory, age_ns = stream.memory, now_ns - self.opened_ns
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
            self.tally.suspects["mute"] += 1
            line = suspect_line(
                from_ns=self._anchor_ns + self.opened_ns, to_ns=None, streams=[memory.name], reason="never any data"
            )
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
            self.tally.suspects["lagging"] += 1
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
