"""Where pure functions run: here, or in a pool of processes."""

from __future__ import annotations

import asyncio
import multiprocessing
import signal
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any, TypeVar

from twintape.io.allocator import collect_rarely, keep_freed_memory

__all__ = ["InlineExecutor", "PoolExecutor"]

T = TypeVar("T")


class InlineExecutor:
    """Runs every function at once in the caller's thread: for one job, for tests, for simulation."""

    async def run(self, function: Callable[..., T], *arguments: Any) -> T:
        """Return `function(*arguments)`."""
        return function(*arguments)

    def close(self) -> None:
        """Do nothing; there are no workers."""


class PoolExecutor:
    """A pool of worker processes. Workers are started fresh, not forked, so that no thread or lock of ours is copied.

    Args:
        jobs: How many.
    """

    def __init__(self, jobs: int) -> None:
        self._pool = ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"), initializer=_start)

    async def run(self, function: Callable[..., T], *arguments: Any) -> T:
        """Return `function(*arguments)`, computed by a worker.

        Raises:
            concurrent.futures.process.BrokenProcessPool: A worker was killed; what it was doing is lost, nothing else is.
        """
        return await asyncio.get_running_loop().run_in_executor(self._pool, _call, function, arguments)

    def close(self) -> None:
        """Stop the workers."""
        self._pool.shutdown(wait=True, cancel_futures=True)


def _start() -> None:
    # Ctrl-C reaches the whole process group; workers leave it to us, who end them.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    keep_freed_memory()
    collect_rarely()


def _call(function: Callable[..., T], arguments: tuple[Any, ...]) -> T:
    return function(*arguments)
