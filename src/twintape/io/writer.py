"""The one writer: everything that touches the spool happens here, in one thread, behind a queue bounded in bytes.

The event loop hands over batches and never waits. When more bytes wait than the limit allows (the disk is slow, full or broken: the spool
then holds lines in memory), `full` is true and the caller stops reading its sockets, so that TCP holds the exchange back.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from twintape.core.budget import SECOND_NS
from twintape.core.markets import Market
from twintape.io.ports import Clock
from twintape.io.spool import Batch, SealedFile, Spool

__all__ = ["SpoolStatus", "Writer"]

SYNC_NS = SECOND_NS
"""At most this much of one line is lost when the power fails."""
IDLE_S = 0.2
"""How often an idle writer looks whether something has to be synced or sealed."""
COMMANDS_MAX = 1024
"""How many batches are written before the clock is looked at again."""


@dataclass(frozen=True, slots=True)
class SpoolStatus:
    """What the writer last knew of one spool; `alarm` is 0 to 3."""

    used_bytes: int = 0
    held_bytes: int = 0
    lost_count: int = 0
    alarm: int = 0


@dataclass(frozen=True, slots=True)
class _Command:
    """Something to do with the spool of one market; `size` bytes of lines are in it."""

    market: Market
    run: Callable[[Spool], object]
    size: int = 0


class Writer:
    """Writes batches to the spools.

    Args:
        spools: One per market; used by nobody else from here on.
        clock: Only its `wall_ns` and `monotonic_ns` are used, from the writer's thread.
        queue_bytes: Behind so many waiting bytes `full` is true.
        on_sealed: Takes `(market, sealed files)` in the event loop, each file once, oldest first.
        on_notice: Takes `(name, details)` in the event loop.
        threaded: False runs every step in the event loop (for simulations on a virtual clock).
    """

    def __init__(
        self,
        spools: Mapping[Market, Spool],
        clock: Clock,
        *,
        queue_bytes: int,
        on_sealed: Callable[[Market, Sequence[SealedFile]], None],
        on_notice: Callable[[str, Mapping[str, Any]], None],
        threaded: bool = True,
    ) -> None:
        self.queue_bytes = queue_bytes
        self.status = dict.fromkeys(spools, SpoolStatus())
        self._spools = dict(spools)
        self._handed_out: dict[Market, set[str]] = {market: set() for market in spools}
        self._clock = clock
        self._on_sealed = on_sealed
        self._on_notice = on_notice
        self._threaded = threaded
        self._queue: queue.SimpleQueue[_Command | None] = queue.SimpleQueue()
        self._put_bytes = 0  # counted by the event loop …
        self._done_bytes = 0  # … and by the writer: neither needs a lock
        self._held_bytes = dict.fromkeys(spools, 0)
        self._kept_ns = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._finished: asyncio.Future[None] | None = None

    # --- called in the event loop ----------------------------------------------------------------------------------------------

    @property
    def waiting_bytes(self) -> int:
        """Bytes handed over that are in no file yet."""
        return self._put_bytes - self._done_bytes + sum(self._held_bytes.values())

    @property
    def full(self) -> bool:
        """Whether the caller must stop reading."""
        return self.waiting_bytes >= self.queue_bytes

    @property
    def disk_refuses(self) -> bool:
        """Whether lines are held in memory because the disk does not take them."""
        return any(self._held_bytes.values())

    def start(self) -> asyncio.Future[None]:
        """Recover what an earlier process left and start writing; the future ends with the writer, or with what it died of."""
        self._loop = asyncio.get_running_loop()
        self._finished = self._loop.create_future()
        for market in self._spools:
            self._put(_Command(market, lambda spool: spool.recover()))
        if self._threaded:
            threading.Thread(target=self._run, name="writer", daemon=True).start()
        return self._finished

    def open(self, market: Market, connection: int, *, url: str, streams: Sequence[str]) -> None:
        """Begin the line of a connection."""
        now_ns = self._clock.wall_ns()
        self._put(
            _Command(market, lambda spool: spool.open(connection, url=url, streams=streams, now_ns=now_ns, event_time_us=None))
        )

    def subscribed(self, market: Market, connection: int, streams: Sequence[str]) -> None:
        """Say that a connection carries other streams from here on."""
        self._put(_Command(market, lambda spool: spool.subscribed(connection, streams)))

    def write_all(self, market: Market, batches: Sequence[Batch]) -> None:
        """Append lines of several connections."""
        if batches:
            size = sum([lines.size for _, lines in batches])
            self._put(_Command(market, lambda spool: spool.write_all(batches), size))

    def cut(self, market: Market, connection: int, *, reason: str) -> None:
        """End the segment of a connection whose line goes on in another one."""
        now_ns = self._clock.wall_ns()
        self._put(_Command(market, lambda spool: spool.cut(connection, reason=reason, now_ns=now_ns)))

    def close(self, market: Market, connection: int, *, reason: str, code: int | None) -> None:
        """End the line of a connection and have it sealed."""
        now_ns = self._clock.wall_ns()
        self._put(_Command(market, lambda spool: spool.close(connection, reason=reason, code=code, now_ns=now_ns)))

    def confirmed(self, market: Market, sealed: SealedFile) -> None:
        """Say that the store holds a sealed file: the local copy may go."""
        self._put(_Command(market, lambda spool: spool.confirmed(sealed)))

    def damaged(self, market: Market, sealed: SealedFile, detail: str) -> None:
        """Say that a sealed file is not what was sealed: it is set aside."""
        self._put(_Command(market, lambda spool: spool.damaged(sealed, detail)))

    async def barrier(self) -> None:
        """Wait until everything handed over so far is done and what it sealed was reported.

        Raises:
            BaseException: What the writer died of.
        """
        assert self._loop is not None
        assert self._finished is not None
        reached: asyncio.Future[None] = self._loop.create_future()

        def reach(_: Spool) -> None:
            for spool in self._spools.values():
                spool.settle()
            self._keep()
            self._call(_resolve, reached)

        self._put(_Command(next(iter(self._spools)), reach))
        await asyncio.wait({reached, self._finished}, return_when=asyncio.FIRST_COMPLETED)
        if self._finished.done():
            self._finished.result()

    async def end(self) -> None:
        """Wait until everything handed over so far is done, and end the writer.

        Raises:
            BaseException: What the writer died of.
        """
        await self.barrier()
        self._put(None)
        assert self._finished is not None
        await self._finished

    def tick(self) -> None:
        """Without a thread: do what waits and what is due. With one, nothing: it looks by itself."""
        if self._threaded or self._finished is None or self._finished.done():
            return
        try:
            self._step(None)
        except BaseException as error:  # noqa: BLE001 - as in the thread
            _reject(self._finished, error)

    def _put(self, command: _Command | None) -> None:
        self._put_bytes += 0 if command is None else command.size
        self._queue.put(command)
        if not self._threaded and self._loop is not None:
            self._loop.call_soon(self.tick)

    # --- the writer's own thread -----------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while self._step(IDLE_S):
                pass
        except BaseException as error:  # noqa: BLE001 - the outermost frame of the thread; the event loop dies of it
            self._call(_reject, self._finished, error)

    def _call(self, function: Callable[..., None], *arguments: Any) -> None:
        assert self._loop is not None
        self._loop.call_soon_threadsafe(function, *arguments)

    def _step(self, wait_s: float | None) -> bool:
        """Do what waits, sync and seal what is due; return False after the end. With `wait_s`, wait for something to do."""
        ended = not self._work(wait_s)
        if ended:
            for spool in self._spools.values():
                spool.close_all(reason="end", now_ns=self._clock.wall_ns())
                spool.settle()
        if ended or self._clock.monotonic_ns() - self._kept_ns >= SYNC_NS:
            self._keep()
        if ended:
            for spool in self._spools.values():
                spool.shut()
            self._call(_resolve, self._finished)
        return not ended

    def _work(self, wait_s: float | None) -> bool:
        try:
            for number in range(COMMANDS_MAX):
                command = self._queue.get(timeout=wait_s) if number == 0 and wait_s is not None else self._queue.get_nowait()
                if command is None:
                    return False
                spool = self._spools[command.market]
                command.run(spool)
                self._held_bytes[command.market] = spool.held_bytes  # first, so that no byte is ever in neither count
                self._done_bytes += command.size
        except queue.Empty:
            pass  # nothing more to do for now
        return True

    def _keep(self) -> None:
        """Sync and seal what is due, and report what the spools have to say."""
        self._kept_ns = self._clock.monotonic_ns()
        for market, spool in self._spools.items():
            now_ns = self._clock.wall_ns()
            spool.sync(now_ns)
            spool.seal_due(now_ns)
            self._hand_out(market, spool.pending())
            for note in spool.take_notes():
                found = {"market": str(market), "kind": note.kind, "path": note.path, "detail": note.detail}
                self._call(self._on_notice, "spool_note", found)
            status = SpoolStatus(spool.used_bytes, spool.held_bytes, spool.lost_count, spool.alarm_level)
            if status.alarm != self.status[market].alarm:
                details = {"market": str(market), "level": status.alarm, "used": status.used_bytes, "held": status.held_bytes}
                self._call(self._on_notice, "spool_alarm" if status.alarm else "spool_alarm_over", details)
            self.status[market] = status
            self._held_bytes[market] = status.held_bytes

    def _hand_out(self, market: Market, pending: Sequence[SealedFile]) -> None:
        """Report the sealed files that were not reported yet; what is no longer pending is forgotten."""
        handed_out = self._handed_out[market]
        new = [sealed for sealed in pending if sealed.path not in handed_out]
        self._handed_out[market] = {sealed.path for sealed in pending}
        if new:
            self._call(self._on_sealed, market, new)


def _resolve(future: asyncio.Future[None] | None) -> None:
    if future is not None and not future.done():
        future.set_result(None)


def _reject(future: asyncio.Future[None] | None, error: BaseException) -> None:
    if future is not None and not future.done():
        future.set_exception(error)
