"""An exchange, the network and one shard of connections in virtual time: no sockets, no event loop, every id accounted for."""

import heapq
import itertools
import json
import random

from twintape.core.actions import AbortSocket, CloseSocket, Ended, FetchSnapshot, Notice, Ping, Replace
from twintape.core.budget import SECOND_NS, attempt_window
from twintape.core.markets import Market
from twintape.core.sequence import coverage
from twintape.core.session import State
from twintape.core.shard import Dial, Shard

S = SECOND_NS
DIAL_TIMEOUT_S = 10.0
WALL_NS = 1_760_000_000 * S
TICK_S = 0.5


class Wire:
    """One connection as the network sees it."""

    def __init__(self, session, opened_ns, latency_ns):
        self.session = session
        self.opened_ns = opened_ns
        self.latency_ns = latency_ns
        self.alive = True
        self.stalled = False
        self.muted = set()
        self.answers_pings = True
        self.flying = []


class Delivery:
    """One event on its way on several connections: `missed` takes it if the network loses all of them."""

    def __init__(self, stream, interval, count, missed):
        self.stream, self.interval, self.count, self.missed = stream, interval, count, missed

    def lose(self):
        self.count -= 1
        if self.count == 0:
            self.missed.append(self.interval)


class World:
    """A shard, its connections, and an exchange that numbers what it says.

    `heard[stream]` are the intervals that were recorded, `said[stream]` those the exchange sent while at least one connection was up and
    those it sent to nobody (`missed`).
    """

    def __init__(
        self, streams, *, seed=1, rotate_s=12 * 3600, seats=1, name="tokyo/spot/0", dial_s=(0.1, 0.6), latency_s=(0.005, 0.15)
    ):
        self.random = random.Random(seed)
        self.now = 1000 * S
        self.streams = list(streams)
        self.numbers = itertools.count(1)
        self.attempts = attempt_window()
        self.shard = Shard(
            market=Market.SPOT,
            streams=self.streams,
            attempts=self.attempts,
            next_number=lambda: next(self.numbers),
            draw=self.random.random,
            rotate_ns=int(rotate_s * S),
            now_ns=self.now,
            base="ws://x",
            name=name,
            seats=seats,
        )
        self.wires = {}
        self.dial_s, self.latency_s = dial_s, latency_s
        self.ids = dict.fromkeys(self.streams, 0)
        self.heard = {stream: [] for stream in self.streams}
        self.missed = {stream: [] for stream in self.streams}
        self.notices = []
        self.replacements = []
        self.snapshots = []
        self.dials = []
        self.retired = []
        self.suspect_lines = []
        self.on_open = lambda wire: None
        self.on_lines = lambda session, lines: None
        self.refuses = lambda: False
        self.dial_time = lambda: self.random.uniform(*self.dial_s)
        self.snapshot_wanted = lambda action: None
        self._events = []
        self._order = itertools.count()
        self.at(0, self._tick)

    @property
    def wall(self):
        return self.now + WALL_NS

    def at(self, seconds, call, *arguments):
        """Have something happen so much later."""
        heapq.heappush(self._events, (self.now + int(seconds * S), next(self._order), call, arguments))

    def run(self, seconds):
        """Let so much time pass."""
        until = self.now + int(seconds * S)
        while self._events and self._events[0][0] <= until:
            self.now, _, call, arguments = heapq.heappop(self._events)
            call(*arguments)
        self.now = until

    # --- the exchange

    def speak(self, stream, spacing):
        """Have a stream speak for ever; `spacing` returns the seconds to the next event."""
        self.at(spacing(), self._say, stream, spacing)

    def _say(self, stream, spacing):
        self.say(stream)
        self.at(spacing(), self._say, stream, spacing)

    def say(self, stream, skip=0):
        """Publish one event of a random number of ids."""
        first = self.ids[stream] + 1 + skip
        self.ids[stream] = final = first + self.random.randrange(5)
        data = f'{{"e":"depthUpdate","E":{self.wall // 10**6},"U":{first},"u":{final},"b":[],"a":[]}}'
        self.publish(stream, first - 1, final, f'{{"stream":"{stream}","data":{data}}}'.encode())

    def publish(self, stream, prev, final, payload):
        """Send an event to whoever can be reached."""
        wires = [wire for wire in self.wires.values() if wire.alive and not wire.stalled and stream not in wire.muted]
        delivery = Delivery(stream, (prev, final), len(wires), self.missed[stream])
        for wire in wires:
            wire.flying.append(delivery)
            self.at(wire.latency_ns / S, self._arrive, wire, stream, payload, delivery)
        if not wires:
            self.missed[stream].append(delivery.interval)

    def _arrive(self, wire, stream, payload, delivery):
        if delivery not in wire.flying:  # lost by a reset
            return
        wire.flying.remove(delivery)
        if wire.session.state in (State.OPEN, State.CLOSING):
            self.heard[stream].append(delivery.interval)
            delivery.count = -1  # nothing can lose it any more
            self.perform(wire.session.frame(1, payload, self.now), wire)

    def cut(self, wire, code=None):
        """End a connection from the exchange's side, behind what is under way."""
        if wire.alive:
            wire.alive = False
            self.at(wire.latency_ns / S, self._closed, wire, code)

    def reset(self, wire):
        """Cut a connection at once: what is under way on it is lost."""
        if wire.alive:
            wire.alive = False
            for delivery in wire.flying:
                delivery.lose()
            wire.flying = []
            self.at(0, self._closed, wire, None)

    def _closed(self, wire, code):
        if wire.session.state in (State.OPEN, State.CLOSING):
            self.perform(wire.session.closed(code, "end of TCP"), wire)

    def tell_shutdown(self, wire, *, raw=False):
        notice = b'{"e":"serverShutdown","E":1770123456789}'
        payload = notice if raw else b'{"stream":"!serverShutdown","data":%b}' % notice
        self.perform(wire.session.frame(1, payload, self.now), wire)

    # --- the collector

    def _tick(self):
        for order in self.shard.tick(self.now, self.wall):
            if isinstance(order, Dial):
                self.dials.append(self.now)
                delay = self.dial_time()
                self.at(min(delay, DIAL_TIMEOUT_S), self._opened if delay < DIAL_TIMEOUT_S else self._timed_out, order.session)
            else:
                self.retired.append((self.now, order.reason))
                wire = self.wires[order.session]
                self.perform(order.session.stop(self.now, order.reason), wire)
        for wire in list(self.wires.values()):
            if wire.session.deadline_ns() <= self.now:
                self.perform(wire.session.tick(self.now, self.wall), wire)
        self.at(TICK_S, self._tick)

    def _timed_out(self, session):
        self.perform(session.failed("timed out"), Wire(session, self.now, 0))

    def _opened(self, session):
        if self.refuses():
            self.perform(session.failed("refused"), Wire(session, self.now, 0))
            return
        wire = self.wires[session] = Wire(session, self.now, int(self.random.uniform(*self.latency_s) * S))
        actions = session.opened(self.now, self.wall)
        self.shard.opened(session, self.now)
        self.perform(actions, wire)
        self.on_open(wire)

    def perform(self, actions, wire):
        taken = wire.session.take()
        lines = taken.lines() if taken else []
        self.on_lines(wire.session, lines)
        for _, line in lines:
            if b"!twintape@suspect" in line:
                self.suspect_lines.append((self.now, wire.session.number, json.loads(line)))
        for action in actions:
            if isinstance(action, Notice):
                self.notices.append((self.now, wire.session.number, action))
            elif isinstance(action, Replace):
                self.replacements.append((self.now, wire.session.number, action.reason))
                self.shard.replace(wire.session, action.reason)
            elif isinstance(action, FetchSnapshot):
                self.snapshots.append((self.now, action))
                self.snapshot_wanted(action)
            elif isinstance(action, Ping):
                if wire.alive and wire.answers_pings:
                    self.at(2 * wire.latency_ns / S, wire.session.pong, self.now)
            elif isinstance(action, CloseSocket):
                wire.alive = wire.alive and wire.stalled  # a stalled peer answers no close
                if not wire.alive:
                    self.at(2 * wire.latency_ns / S, self._closed, wire, 1000)
            elif isinstance(action, AbortSocket):
                wire.alive = False
                self.at(0, self._closed, wire, None)
            elif isinstance(action, Ended):
                wire.alive = False
                self.wires.pop(wire.session, None)
                self.shard.ended(wire.session, self.now)

    # --- the account

    def named(self, name):
        return [(time, number, action) for time, number, action in self.notices if action.name == name]

    def lost(self, stream):
        """Return the holes in what was heard, and those in what the exchange sent to somebody."""
        heard, missed = self.heard[stream], self.missed[stream]
        union = coverage(heard)
        everything = coverage([*heard, *missed])
        return max(0, len(union) - 1), max(0, len(everything) - 1)

    def compact(self):
        """Forget the details of what was heard: a long run needs little memory."""
        for table in (self.heard, self.missed):
            for stream, intervals in table.items():
                table[stream] = coverage(intervals)

    def most_dials(self, window_s=300):
        """Return the greatest number of dials in any window."""
        most, start = 0, 0
        for end, time in enumerate(self.dials):
            while self.dials[start] <= time - window_s * S:
                start += 1
            most = max(most, end - start + 1)
        return most
