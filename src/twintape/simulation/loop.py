"""An event loop whose time passes only while everybody waits for it: no clock, no sockets, no threads.

So a run is a function of its seed. Whoever wants other orders of events (and a simulation does) draws other delays from the seed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

__all__ = ["VirtualLoop", "run"]

T = TypeVar("T")

RESOLUTION_S = 1e-9


class _Selector:
    """In place of a selector: waiting is passing time."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop

    def select(self, timeout: float | None) -> list[Any]:
        if timeout is None:
            raise RuntimeError("everybody waits for somebody else, and nothing will ever happen")
        self._loop.now_s += timeout
        return []


class VirtualLoop(asyncio.BaseEventLoop):
    """An event loop that begins at time 0.

    Attributes:
        now_s: The time in seconds.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 0.0
        # The base class leaves these two to whoever has real events to wait for.
        self._selector = _Selector(self)
        self._clock_resolution = RESOLUTION_S

    def time(self) -> float:
        """Return virtual seconds."""
        return self.now_s

    def _process_events(self, event_list: list[Any]) -> None:
        """Do nothing: there are none."""

    def _write_to_self(self) -> None:
        """Wake nobody: there is only this thread."""


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine on a virtual loop of its own, end what it left running, and return what it returned."""
    loop = VirtualLoop()
    try:
        return loop.run_until_complete(main)
    finally:
        left = asyncio.all_tasks(loop)
        for task in left:
            task.cancel()
        if left:
            loop.run_until_complete(asyncio.wait(left))
        loop.close()
