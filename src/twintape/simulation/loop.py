"""An event loop whose time passes only while everybody waits for it: no clock, no sockets, no threads.

So a run is a function of its seed. Whoever wants other orders of events (and a simulation does) draws other delays from the seed.
"""

from __future__ import annotations

import asyncio
import gc
import heapq
from collections import deque
from collections.abc import Callable, Coroutine
from contextvars import Context
from typing import Any, TypeVar, TypeVarTuple, Unpack

__all__ = ["VirtualLoop", "run"]

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class VirtualLoop(asyncio.BaseEventLoop):
    """An event loop that begins at time 0.

    Its agenda is its own, and leaner than the base class's: a simulated day has tens of thousands of timers. What is due at the same time
    happens in the order in which it was asked for. An error that leaves a callback ends the run; the base class would log it and go on.

    Attributes:
        now_s: The time in seconds.
    """

    _ready: deque[asyncio.Handle]
    _stopping: bool

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 0.0
        self._agenda: list[tuple[float, int, asyncio.TimerHandle]] = []
        self._number = 0

    def time(self) -> float:
        """Return virtual seconds."""
        return self.now_s

    def call_soon(self, callback: Callable[[Unpack[Ts]], object], *args: *Ts, context: Context | None = None) -> asyncio.Handle:
        """Have something happen next, behind what already waits."""
        handle = asyncio.Handle(callback, args, self, context)
        self._ready.append(handle)
        return handle

    def call_at(
        self, when: float, callback: Callable[[Unpack[Ts]], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.TimerHandle:
        """Have something happen at a time, or as soon as that is over."""
        handle = asyncio.TimerHandle(when, callback, args, self, context)
        self._number += 1
        heapq.heappush(self._agenda, (when, self._number, handle))
        return handle

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """Do nothing: a cancelled timer is passed over when its time comes."""

    def _run_once(self) -> None:
        ready, agenda = self._ready, self._agenda
        while not ready and not self._stopping:
            if not agenda:
                raise RuntimeError("everybody waits for somebody else, and nothing will ever happen")
            when, _, timer = heapq.heappop(agenda)
            if timer._cancelled:
                continue
            self.now_s = max(self.now_s, when)
            ready.append(timer)
            while agenda and agenda[0][0] <= self.now_s:
                ready.append(heapq.heappop(agenda)[2])
        for _ in range(len(ready)):
            handle = ready.popleft()
            if not handle._cancelled:
                handle._context.run(handle._callback, *handle._args)  # type: ignore[attr-defined]  # as Handle._run, which swallows errors

    def _process_events(self, event_list: list[Any]) -> None:
        """Do nothing: there are none."""

    def _write_to_self(self) -> None:
        """Wake nobody: there is only this thread."""


def run(main: Coroutine[Any, Any, T], loop: VirtualLoop | None = None) -> T:
    """Run a coroutine on a virtual loop, by default one of its own, end what it left running, and return what it returned."""
    loop = loop or VirtualLoop()
    collecting = gc.isenabled()
    gc.disable()  # a seed's objects live as long as the seed: looking for garbage among them costs a tenth of the time
    try:
        return loop.run_until_complete(main)
    finally:
        left = asyncio.all_tasks(loop)
        for task in left:
            task.cancel()
        if left:
            loop.run_until_complete(asyncio.wait(left))
        loop.close()
        if collecting:
            gc.enable()
