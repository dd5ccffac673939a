"""The shares of a merge on a Ray cluster: the same code as on one machine, on many, with nothing between them but the object store.

A task is one share of one date (`io.batch`). Its worker fetches the raw objects itself, merges, publishes and says what became of the days; the raw
bytes never pass through the machine that started the merge. A task may be repeated, for proofs are create-only: a worker or node that dies costs only
what it had not yet published. Workers reach the store with credentials of their own machine; none are sent.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import socket
import tempfile
from collections.abc import Sequence
from typing import Any

from twintape.core.errors import ConfigError
from twintape.io.batch import Batch, Share, slices
from twintape.io.clock import SystemClock
from twintape.io.disk import PosixDisk
from twintape.io.executor import InlineExecutor
from twintape.io.merge import DayOutcome, MergeRun, Progress, merge_share
from twintape.io.store import open_store

__all__ = ["SLICES_PER_CPU", "RayCluster"]

SLICES_PER_CPU = 2
"""Shares are cut until there are so many for each processor of the cluster: more would fetch objects more often, fewer would leave processors idle."""
CONNECT_S_MAX = 5.0
RETRIES_MAX = 3
"""How often a task is given to another worker when its worker died."""


class RayCluster:
    """An existing Ray cluster as a place to merge.

    Args:
        address: `host:port` of its head, or `ray://…`; None for `RAY_ADDRESS`, else the cluster that runs on this machine.
        store_url: The store, as the workers name it.
        version: Of this program; a worker with another one refuses.
        progress: Told how far it is.

    Raises:
        ConfigError: Ray is not installed, there is no cluster, or it cannot be reached.
    """

    def __init__(self, address: str | None, *, store_url: str, version: str, progress: Progress) -> None:
        # Under `uv run` Ray would send the working directory, recordings and all, to every worker, and install it there.
        os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
        try:
            import ray
        except ImportError as error:
            raise ConfigError(
                "Ray is not installed", hint="install twintape[ray] here and on every node of the cluster"
            ) from error
        _reach(address)
        self._ray = ray
        self._store_url = store_url
        self._version = version
        self._progress = progress
        try:
            ray.init(address=address or "auto", logging_level=logging.WARNING, log_to_driver=False)
        except (ConnectionError, RuntimeError, ValueError) as error:
            hint = "start one with `ray start --head`, and give its address with --address HOST:PORT"
            raise ConfigError(
                f"there is no Ray cluster at {address or 'RAY_ADDRESS or this machine'}: {error}", hint=hint
            ) from error

    async def spread(self, batch: Batch, parts: Sequence[Share]) -> list[DayOutcome]:
        """Merge shares on the cluster; `MergeRun.spread`.

        Raises:
            StoreError: The store failed in a worker; what is published stays.
            ConfigError: A worker runs another version.
            OSError: A task's worker died more than `RETRIES_MAX` times.
        """
        ray = self._ray
        processors = int(ray.cluster_resources().get("CPU", 1))
        wanted = slices(parts, SLICES_PER_CPU * processors)
        total, done = sum(len(share) for share in wanted), 0
        survey = ray.put(batch)
        remote = ray.remote(_merge_share).options(num_cpus=1, max_retries=RETRIES_MAX)
        tasks = [remote.remote(self._store_url, survey, share, self._version) for share in wanted]
        outcomes: list[DayOutcome] = []
        for finished in asyncio.as_completed([self._outcome(task) for task in tasks]):
            found = await finished
            outcomes += found
            done += len(found)
            self._progress(f"{batch.market} {batch.date}: on {processors} processors", done, total)
        return outcomes

    async def _outcome(self, task: Any) -> list[DayOutcome]:
        exceptions = self._ray.exceptions
        try:
            found: list[DayOutcome] = await task
        except exceptions.RayTaskError as error:
            raise error.cause from None  # what our own code raised there, as if it had been here
        except exceptions.RayError as error:
            raise OSError(f"a worker of the Ray cluster died {RETRIES_MAX + 1} times: {error}") from error
        return found

    def close(self) -> None:
        """Leave the cluster; tasks under way are abandoned."""
        self._ray.shutdown()


def _no_cluster(address: str | None, error: Exception) -> ConfigError:
    hint = "start one with `ray start --head`, and give its address with --address HOST:PORT"
    return ConfigError(f"there is no Ray cluster at {address or 'RAY_ADDRESS or this machine'}: {error}", hint=hint)


def _reach(address: str | None) -> None:
    """Find out at once that nobody listens at an address: Ray itself tries for minutes."""
    host, _, port = (address or "").removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        return  # a word of Ray's own, such as `auto`, or none
    try:
        socket.create_connection((host, int(port)), timeout=CONNECT_S_MAX).close()
    except OSError as error:
        raise _no_cluster(address, error) from error


def _merge_share(store_url: str, batch: Batch, share: Share, version: str) -> list[DayOutcome]:
    """Merge one share in a worker of the cluster.

    Raises:
        ConfigError: The worker runs another version: archives of one night must not depend on who made them.
        StoreError: The store failed.
    """
    from twintape import __version__

    if version != __version__:
        raise ConfigError(
            f"a node of the Ray cluster has twintape {__version__}, this is {version}", hint="install the same one everywhere"
        )

    async def work() -> list[DayOutcome]:
        with tempfile.TemporaryDirectory(prefix="twintape-merge-") as root:
            run = MergeRun(
                store=open_store(store_url, create=False, wait=True),
                clock=SystemClock(),
                scratch=PosixDisk(root),
                executor=InlineExecutor(),
                draw_id=lambda: secrets.token_hex(8),
                version=version,
                scratch_root=root,
            )
            return await merge_share(run, batch.share("raw"), share, limit=asyncio.Semaphore(1), tell=lambda _day: None)

    return asyncio.run(work())
