"""The collector: keeps every connection of its settings alive, hands every line to the writer, and ships what is sealed.

Everything here runs in one event loop and on ports. What a connection does is decided by `core.session`, when connections are made and
retired by `core.shard`; this module carries their decisions out. A task or callback that raises ends the process with that error.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from twintape.core.actions import Ended
from twintape.core.budget import RETRY_FACTOR, SECOND_NS, Attempts, WeightBudget, attempt_window
from twintape.core.checkpoints import CheckpointPlan
from twintape.core.errors import TwintapeError
from twintape.core.histogram import Histogram
from twintape.core.markets import RULES, Market, depth_url, depth_weight
from twintape.core.session import Session, State
from twintape.core.settings import MarketSettings, RecordSettings, shards
from twintape.core.shard import Dial, Retire, Shard
from twintape.core.symbols import Changes, Roster
from twintape.core.tally import Tally
from twintape.core.wire import clock_line, snapshot_line, subscribe_line, suspect_line
from twintape.io.levels import ALARMING, LOG_ROUTINE_EVERY, ROUTINE, WARNING
from twintape.io.link import Link
from twintape.io.ports import Clock, Dialer, Journal, Rest, RestAnswer
from twintape.io.rest import SnapshotFetcher, Wish
from twintape.io.shipper import Shipper
from twintape.io.spool import SealedFile, Spool
from twintape.io.symbols import SymbolWatch
from twintape.io.writer import Writer

__all__ = ["Collector"]

DIAL_TIMEOUT_S = 10.0
FLUSH_S = 0.2
"""Lines are handed to the writer in batches no older than this: what a kill may take with it. Each batch costs a write a connection."""
LINKS_AT_ONCE = 8
"""So many connections are looked after in one go before sockets are read again."""
TICK_MAX_S = 0.25
TICK_MIN_S = 0.05
"""The longest and the shortest time between two looks at what connections have to do."""
CLOCK_LINE_NS = 60 * SECOND_NS
CLOSE_WAIT_S = 6.0
"""How long a stop waits for connections to end."""
QUEUE_LOW_SHARE = 0.5
"""Sockets are read again when the queue has fallen to this part of its limit."""


@dataclass
class _MarketState:
    """What a run knows of one market."""

    settings: MarketSettings
    connections: int = 0
    shards: int = 0
    lines: int = 0
    size: int = 0
    tally: Tally = field(default_factory=Tally)
    shard_of: dict[str, Shard] = field(default_factory=dict)
    watch: SymbolWatch | None = None

    def next_number(self) -> int:
        self.connections += 1
        return self.connections


class Collector:
    """One recording process.

    Args:
        settings: What to record.
        clock: The time.
        dialer: Opens websockets.
        rest: Fetches snapshots.
        spools: One per market of the settings; used by the writer alone from here on.
        upload: Puts one sealed file into the store (see `io.upload.upload_one`).
        draw: Returns a random number in [0, 1).
        journal: Takes log lines.
        threaded: False runs the writer's steps in the event loop (for simulations).
        attempts: The budget of connection attempts; None: this process has one of its own.
        room_to_connect: Returns whether file descriptors are left for one more connection.

    Attributes:
        loop_lag: How late the event loop was, counted by whoever runs `io.lag.watch_loop`.
        queue_peak_bytes: The most that ever waited for the disk.
    """

    def __init__(
        self,
        settings: RecordSettings,
        *,
        clock: Clock,
        dialer: Dialer,
        rest: Rest,
        spools: Mapping[Market, Spool],
        upload: Callable[[SealedFile], Awaitable[None]],
        draw: Callable[[], float],
        journal: Journal,
        threaded: bool = True,
        attempts: Attempts | None = None,
        room_to_connect: Callable[[], bool] = lambda: True,
    ) -> None:
        self.settings = settings
        self.clock = clock
        self.counts: Counter[str] = Counter()
        self.markets = {entry.market: _MarketState(entry) for entry in settings.markets}
        self.links: dict[Session, Link] = {}
        self.dirty = False
        self.paused = False
        self.loop_lag = Histogram()
        self.queue_peak_bytes = 0
        self.shards: list[Shard] = []
        self.writer = Writer(
            spools,
            clock,
            queue_bytes=settings.queue_mebibytes << 20,
            on_sealed=self._sealed,
            on_notice=self.report,
            threaded=threaded,
        )
        self.shipper = Shipper(
            upload,
            clock,
            draw=draw,
            on_confirmed=self.writer.confirmed,
            on_damaged=self.writer.damaged,
            on_notice=self.report,
        )
        self.fetcher = SnapshotFetcher(rest, clock, pools=self._pools(), draw=draw, notice=self.report)
        self.plans: dict[str, CheckpointPlan] = {}
        self._attempts: Attempts = attempts or attempt_window()
        self._room_to_connect = room_to_connect
        self._cramped = False
        self._paused_ns = 0
        self._dialer = dialer
        self._draw = draw
        self._journal = journal
        self._dirty_event = asyncio.Event()
        self._stop_event = asyncio.Event()
        self._stop_reason = ""
        self._error: BaseException | None = None
        self._group: asyncio.TaskGroup | None = None
        self._dials: set[asyncio.Task[None]] = set()

    def _pools(self) -> dict[str, WeightBudget]:
        rules = [RULES[market] for market in self.markets]
        share = min(1.0, self.settings.weight_share * RETRY_FACTOR)
        return {rule.weight_pool: WeightBudget(rule.weight_per_minute, share) for rule in rules}

    # --- life ------------------------------------------------------------------------------------------------------------------

    def stop(self, reason: str) -> None:
        """Stop in order; `run` returns when everything is closed, sealed and, as far as time allows, uploaded."""
        if not self._stop_event.is_set():
            self._stop_reason = reason
            self._stop_event.set()

    def fail(self, error: BaseException) -> None:
        """End the process because of an error that nobody is there to handle."""
        self._error = self._error or error
        self._stop_event.set()

    async def run(self) -> None:
        """Record until `stop`.

        Raises:
            BaseException: Whatever a task or a callback died of; what was heard until then is still written if the writer lives.
        """
        finished = self.writer.start()
        self._make_shards()
        try:
            async with asyncio.TaskGroup() as group:
                self._group = group
                tasks = [group.create_task(self._tick_for_ever()), group.create_task(self._flush_for_ever())]
                tasks += [group.create_task(self.shipper.run()) for _ in range(self.settings.uploads)]
                tasks += [group.create_task(self.fetcher.run(pool)) for pool in self.fetcher.pools]
                tasks.append(group.create_task(self._watch(finished)))
                self._journal.info("recording", collector=self.settings.collector, shards=len(self.shards))
                await self._stop_event.wait()
                if self._error is not None:
                    raise self._error
                await self._shut_down()
                for task in tasks:
                    task.cancel()
        except BaseExceptionGroup as errors:
            await self._save_what_was_heard(finished)
            raise errors.exceptions[0] from None
        await self.writer.end()
        held = sum(status.held_bytes for status in self.writer.status.values())
        if held:
            raise TwintapeError(
                f"{held} bytes of lines could not be written and are lost", hint="the spool's disk is full or failing"
            )

    async def _watch(self, finished: asyncio.Future[None]) -> None:
        """Die with the writer."""
        await asyncio.shield(finished)

    async def _save_what_was_heard(self, finished: asyncio.Future[None]) -> None:
        if not finished.done():
            for link in self.links.values():
                if link.recording:
                    link.save()
            await self.writer.end()

    async def _shut_down(self) -> None:
        self._journal.info("stopping", reason=self._stop_reason)
        now_ns = self.clock.monotonic_ns()
        for shard in self.shards:
            for retire in shard.stop(self._stop_reason):
                link = self.links[retire.session]
                link.perform(retire.session.stop(now_ns, retire.reason))
        for dial in self._dials:
            dial.cancel()
        until_ns = now_ns + int(CLOSE_WAIT_S * SECOND_NS)
        while self._recording() and self.clock.monotonic_ns() < until_ns:
            await self.clock.sleep(TICK_MIN_S)
        for link in list(self.links.values()):
            self.ended(link, Ended(self._stop_reason, None))
            if link.socket is not None:
                link.socket.abort()
        await self._ship_the_rest()
        self._journal.info("stopped", lines=self.line_count(), not_uploaded=self.shipper.waiting)

    async def _ship_the_rest(self) -> None:
        until_ns = self.clock.monotonic_ns() + int(self.settings.stop_seconds * SECOND_NS)
        await self.writer.barrier()
        while self.shipper.waiting and self.clock.monotonic_ns() < until_ns:
            await self.shipper.drain(until_ns)
            await self.writer.barrier()  # what the store has makes room for the next files to be handed out

    def _recording(self) -> bool:
        return any(link.recording for link in self.links.values())

    def _make_shards(self) -> None:
        now_ns = self.clock.monotonic_ns()
        for market, state in self.markets.items():
            self._add_shards(market, state.settings.stream_names(), now_ns)
            if state.settings.symbols and self.settings.symbols_minutes:
                state.watch = self._follow(market, state)
        self._plan_checkpoints(now_ns)

    def _add_shards(self, market: Market, streams: Sequence[str], now_ns: int) -> None:
        state = self.markets[market]
        sentinel = state.settings.sentinel
        for names in shards(streams, max(1, self.settings.streams_per_connection - bool(sentinel))):
            shard = Shard(
                market=market,
                streams=[*names, sentinel] if sentinel and sentinel not in names else names,
                base=state.settings.websocket,
                attempts=self._attempts,
                next_number=state.next_number,
                draw=self._draw,
                rotate_ns=int(self.settings.rotate_hours * 3600 * SECOND_NS),
                now_ns=now_ns,
                name=f"{self.settings.collector}/{market}",
                number=state.shards,
                seats=self.settings.connections,
                tally=state.tally,
            )
            state.shards += 1
            self.shards.append(shard)
            self._index(state, shard)

    def _index(self, state: _MarketState, shard: Shard) -> None:
        for memory in shard.memories:
            if memory.depth:
                state.shard_of[memory.symbol] = shard

    # --- symbols ---------------------------------------------------------------------------------------------------------------

    def _follow(self, market: Market, state: _MarketState) -> SymbolWatch:
        grace_ns = int(self.settings.symbols_grace_minutes * 60 * SECOND_NS)
        return SymbolWatch(
            market,
            Roster(state.settings.symbols, grace_ns=grace_ns),
            interval_ns=int(self.settings.symbols_minutes * 60 * SECOND_NS),
            clock=self.clock,
            draw=self._draw,
            ask=self.fetcher.ask,
            apply=partial(self._apply, market),
            notice=self.report,
            base=state.settings.rest,
        )

    def look_up(self, market: Market) -> None:
        """Have the exchange's list read soon: something is silent."""
        watch = self.markets[market].watch
        if watch is not None:
            watch.hurry(self.clock.monotonic_ns())

    def _apply(self, market: Market, changes: Changes) -> None:
        """Record further symbols, and some no longer; connections that carry neither are not touched."""
        state, now_ns = self.markets[market], self.clock.monotonic_ns()
        own = [shard for shard in self.shards if shard.market is market]
        if changes.added or changes.removed:
            self.notice("symbols_changed", market=str(market), added=list(changes.added), removed=list(changes.removed))
            gone = set(changes.removed)
            for symbol in gone:
                state.shard_of.pop(symbol, None)
            waiting = [name for symbol in changes.added for name in state.settings.symbol_streams(symbol)]
            for shard in own:
                removed = [memory.name for memory in shard.memories if memory.symbol in gone]
                room = self.settings.streams_per_connection - len(shard.memories) + len(removed)
                added, waiting = waiting[:room], waiting[room:]
                if added or removed:
                    self._change(state, shard, added, removed, now_ns)
            self._add_shards(market, waiting, now_ns)
            self._plan_checkpoints(now_ns)
        for shard in self.shards:
            if shard.market is market:
                for memory in shard.memories:
                    memory.quiet = memory.symbol in changes.quiet

    def _change(self, state: _MarketState, shard: Shard, added: Sequence[str], removed: Sequence[str], now_ns: int) -> None:
        told = shard.change(added, removed, now_ns)
        self._index(state, shard)
        streams = [memory.name for memory in shard.memories]
        if not set(streams) - {state.settings.sentinel}:
            self.shards.remove(shard)
            for retire in shard.stop("its symbols are gone"):
                self.links[retire.session].perform(retire.session.stop(now_ns, retire.reason))
            return
        for session in told:
            link = self.links[session]
            if link.recording:
                session.record(subscribe_line(streams=streams), now_ns)
                link.flush()
                self.writer.subscribed(link.market, session.number, streams)

    # --- tasks -----------------------------------------------------------------------------------------------------------------

    async def _flush_for_ever(self) -> None:
        while True:
            await self._dirty_event.wait()
            await self.clock.sleep(FLUSH_S)
            self._dirty_event.clear()
            self.dirty = False
            for market in self.markets:
                links = [link for link in self.links.values() if link.market is market]
                for start in range(0, len(links), LINKS_AT_ONCE):
                    taken = [link.take() for link in links[start : start + LINKS_AT_ONCE]]
                    self.writer.write_all(market, [batch for batch in taken if batch is not None])
                    await asyncio.sleep(0)  # frames that have come meanwhile get their times
            self._mind_the_queue()

    def mark_dirty(self) -> None:
        """Have the lines handed over soon."""
        self.dirty = True
        self._dirty_event.set()

    async def _tick_for_ever(self) -> None:
        while True:
            now_ns, wall_ns = self.clock.monotonic_ns(), self.clock.wall_ns()
            self._mind_the_queue()
            deadline_ns = now_ns + int(TICK_MAX_S * SECOND_NS)
            may_dial = self._may_dial()
            for shard in self.shards:
                for order in shard.tick(now_ns, wall_ns, may_dial=may_dial):
                    self._obey(shard, order, now_ns)
                deadline_ns = min(deadline_ns, shard.deadline_ns())
            links = [] if self.paused else list(self.links.values())
            for start in range(0, len(links), LINKS_AT_ONCE):
                for link in links[start : start + LINKS_AT_ONCE]:
                    self._tick_link(link, now_ns, wall_ns)
                    deadline_ns = min(deadline_ns, link.session.deadline_ns())
                await asyncio.sleep(0)  # frames that have come meanwhile get their times
                now_ns, wall_ns = self.clock.monotonic_ns(), self.clock.wall_ns()
            self._checkpoint(now_ns)
            for state in self.markets.values():
                if state.watch is not None:
                    state.watch.tick(now_ns)
            self.writer.tick()
            wait_s = max(TICK_MIN_S, (deadline_ns - now_ns) / SECOND_NS)
            await self.clock.sleep(wait_s)

    def _may_dial(self) -> bool:
        return not self.paused and not self.writer.disk_refuses and self._has_descriptors()

    def _has_descriptors(self) -> bool:
        """Return whether one more connection leaves enough file descriptors for what is being recorded."""
        cramped = not self._room_to_connect()
        if cramped is not self._cramped:
            self._cramped = cramped
            self.notice("descriptors_short" if cramped else "descriptors_short_over")
        return not cramped

    def _obey(self, shard: Shard, order: Dial | Retire, now_ns: int) -> None:
        if isinstance(order, Retire):
            self.links[order.session].perform(order.session.stop(now_ns, order.reason))
            return
        link = self.links[order.session] = Link(self, shard, order.session)
        assert self._group is not None
        task = self._group.create_task(self._dial(link))
        self._dials.add(task)
        task.add_done_callback(self._dials.discard)

    def _tick_link(self, link: Link, now_ns: int, wall_ns: int) -> None:
        session = link.session
        if session.deadline_ns() <= now_ns:
            link.perform(session.tick(now_ns, wall_ns))
        if link.recording and now_ns - link.clock_ns >= CLOCK_LINE_NS:
            self._clock_line(link, now_ns, wall_ns)
        if session.waiting and not self.dirty:
            self.mark_dirty()

    async def _dial(self, link: Link) -> None:
        session = link.session
        self.counts["dials"] += 1
        try:
            link.socket = await self._dialer.dial(session.url, link, timeout_s=DIAL_TIMEOUT_S)
        except OSError as error:
            self.notice("dial_failed", market=str(link.market), url=session.url[:200], error=str(error))
            if link.session in self.links:
                link.perform(session.failed(str(error)))
            return
        if session not in self.links:  # given up by a stop
            link.socket.abort()
            return
        now_ns, wall_ns = self.clock.monotonic_ns(), self.clock.wall_ns()
        streams = [memory.name for memory in link.shard.memories]
        self.writer.open(link.market, session.number, url=session.url, streams=streams)
        link.recording = True
        actions = session.opened(now_ns, wall_ns)
        self._clock_line(link, now_ns, wall_ns)
        link.shard.opened(session, now_ns)
        self.notice("connected", market=str(link.market), connection=session.number, streams=len(streams))
        link.perform(actions)

    # --- what links ask for ----------------------------------------------------------------------------------------------------

    def ended(self, link: Link, action: Ended) -> None:
        """Take the end of a connection."""
        session = link.session
        if self.links.pop(session, None) is None:
            return
        if link.recording:
            link.recording = False
            link.flush()
            self.writer.close(link.market, session.number, reason=action.reason, code=action.code)
            self.notice(
                "disconnected", market=str(link.market), connection=session.number, reason=action.reason, code=action.code
            )
        link.shard.ended(session, self.clock.monotonic_ns())

    def line_count(self) -> int:
        """Return how many lines were handed to the writer so far."""
        return sum(state.lines for state in self.markets.values())

    def heard(self, market: Market, count: int, size: int) -> None:
        """Take note of a batch of lines."""
        state = self.markets[market]
        state.lines += count
        state.size += size

    def fetch(self, shard: Shard, symbol: str, reason: str, update_id: int | None) -> None:
        """Have a snapshot fetched and recorded on the connection that serves the shard then."""
        state = self.markets[shard.market]
        limit = self._snapshot_limit(shard.market)
        url = depth_url(shard.market, symbol, limit, base=state.settings.rest)
        self.fetcher.ask(
            Wish(
                market=shard.market,
                symbol=symbol,
                url=url,
                weight=depth_weight(shard.market, limit),
                reason=reason,
                urgent=reason != "checkpoint",
                update_id=update_id,
                deliver=partial(self._deliver, shard, symbol, url),
            )
        )

    def _deliver(self, shard: Shard, symbol: str, url: str, answer: RestAnswer) -> None:
        link = next((self.links.get(session) for session in shard.sessions if session.state is State.OPEN), None)
        if link is None or not link.recording:
            self.notice("snapshot_homeless", symbol=symbol)
            return
        self.counts["snapshots"] += 1
        response_ns = link.session.stamp(self.clock.monotonic_ns())
        line = snapshot_line(
            symbol=symbol,
            url=url,
            request_time_ns=response_ns - (answer.response_time_ns - answer.request_time_ns),
            response_time_ns=response_ns,
            status=answer.status,
            body=answer.body,
        )
        link.session.append(response_ns, line)
        self.mark_dirty()

    def _clock_line(self, link: Link, now_ns: int, wall_ns: int) -> None:
        link.clock_ns = now_ns
        quality = self.clock.quality()
        line = clock_line(
            wall_ns=wall_ns,
            monotonic_ns=now_ns,
            offset_ns=quality.offset_ns,
            error_ns=quality.error_ns,
            source=quality.source,
        )
        link.session.record(line, now_ns)
        self.mark_dirty()

    def _plan_checkpoints(self, now_ns: int) -> None:
        """Plan the checkpoints of every weight pool; its markets share one budget and one round."""
        if not self.settings.snapshot_minutes:
            return
        for pool in self.fetcher.pools:
            markets = [market for market in self.markets if RULES[market].weight_pool == pool]
            entries = [
                (market, symbol, depth_weight(market, self._snapshot_limit(market)))
                for market in markets
                for symbol in self.markets[market].shard_of
            ]
            allowed = RULES[markets[0]].weight_per_minute * self.settings.weight_share
            interval_ns = int(self.settings.snapshot_minutes * 60 * SECOND_NS)
            before = self.plans.get(pool)
            if before is None or before.symbols != {(market, symbol) for market, symbol, _ in entries}:
                first = None if before is None else before.next  # where the round has come to, it goes on
                self.plans[pool] = CheckpointPlan(entries, allowed, interval_ns, now_ns, first)

    def _checkpoint(self, now_ns: int) -> None:
        """Ask for the snapshots whose turn it is."""
        for plan in self.plans.values():
            entry = plan.due(now_ns)
            if entry is not None:
                market, symbol = entry
                shard = self.markets[market].shard_of.get(symbol)
                if shard is not None:
                    self.fetch(shard, symbol, "checkpoint", None)

    def _snapshot_limit(self, market: Market) -> int:
        return min(self.settings.snapshot_limit or RULES[market].depth_limit, RULES[market].depth_limit)

    # --- pressure --------------------------------------------------------------------------------------------------------------

    def _mind_the_queue(self) -> None:
        """Stop reading when too much waits for the disk, and read again when half of that is gone."""
        self.queue_peak_bytes = max(self.queue_peak_bytes, self.writer.waiting_bytes)
        if self.writer.full and not self.paused:
            self._pause()
        elif self.paused and self.writer.waiting_bytes <= self.writer.queue_bytes * QUEUE_LOW_SHARE:
            self._resume(self.clock.monotonic_ns())

    def _pause(self) -> None:
        self.paused = True
        self._paused_ns = self.clock.monotonic_ns()
        self.notice("queue_full", waiting_bytes=self.writer.waiting_bytes)
        for link in self.links.values():
            if link.socket is not None:
                link.socket.pause()

    def _resume(self, now_ns: int) -> None:
        self.paused = False
        self.notice("queue_drained", seconds=round((now_ns - self._paused_ns) / SECOND_NS, 3))
        for link in self.links.values():
            if link.socket is not None and link.recording:
                to_ns = link.session.stamp(now_ns)
                from_ns = to_ns - (now_ns - self._paused_ns)
                link.session.append(to_ns, suspect_line(from_ns=from_ns, to_ns=to_ns, streams=None, reason="queue full"))
                link.session.resumed(now_ns)
                link.socket.resume()
        self.mark_dirty()

    # --- reports ---------------------------------------------------------------------------------------------------------------

    def _sealed(self, market: Market, files: Sequence[SealedFile]) -> None:
        self.counts["sealed"] += len(files)
        self.shipper.add(market, files)

    def report(self, name: str, details: Mapping[str, Any]) -> None:
        """Count and log something."""
        self.counts[name] += 1
        if name in ROUTINE and self.counts[name] % LOG_ROUTINE_EVERY != 1:
            return
        log = self._journal.error if name in ALARMING else self._journal.warning if name in WARNING else self._journal.info
        log(name, **details)

    def notice(self, name: str, **details: Any) -> None:
        """Count and log something."""
        self.report(name, details)
