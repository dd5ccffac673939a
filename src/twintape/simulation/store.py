"""The store of a simulation: requests take time, a witness sees what truly happens, and between them stands whatever goes wrong.

A client's request waits, passes `io.faults.FaultyStore`, happens, and its answer waits again; a client that is killed in either wait never
sent it, or never hears of it.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager

from twintape.core.errors import AlreadyExistsError, NotFoundError
from twintape.io.ports import ObjectInfo, Store
from twintape.io.store import MemoryStore
from twintape.simulation.world import World

__all__ = ["DistantStore", "WitnessedStore"]

LATENCY_S = (0.001, 0.02)


class WitnessedStore(MemoryStore):
    """What is truly there, and who is told of every change *before* it happens; `ports.Store`.

    Args:
        world: The trace; the store's clock is its calendar.
        on_create: Told key and bytes of every new object.
        on_delete: Told key and bytes of every object that goes.

    Attributes:
        away: Objects that are not there for a while, or not what they were.
        rots: How often something has begun or ceased to be so.
    """

    def __init__(self, world: World, *, on_create: Callable[[str, bytes], None], on_delete: Callable[[str, bytes], None]) -> None:
        super().__init__("simulation://store", wall_ns=world.calendar_ns)
        self._world = world
        self._on_create = on_create
        self._on_delete = on_delete
        self.away: dict[str, tuple[bytes, int]] = {}
        self.rots = 0

    def __contains__(self, key: str) -> bool:
        """Return whether there is such an object, here or away."""
        return key in self._objects or key in self.away

    def keys(self, prefix: str = "") -> list[str]:
        """Return the keys that start with `prefix`, sorted."""
        return sorted(key for key in self._objects if key.startswith(prefix))

    def content(self, key: str) -> bytes:
        """Return an object's bytes as they were put. Raises `KeyError`."""
        return (self.away.get(key) or self._objects[key])[0]

    @contextmanager
    def rotten(self, key: str, data: bytes | None) -> Iterator[None]:
        """Have an object's bytes be others for a while, or none."""
        self._world.tell("store", f"{key} is {'gone' if data is None else 'damaged'} for a while", count="outputs rotten")
        kept = self.away[key] = self._objects.pop(key)
        if data is not None:
            self._objects[key] = data, kept[1]
        self.rots += 1
        try:
            yield
        finally:
            self._objects[key] = self.away.pop(key)
            self.rots += 1

    async def create(self, key: str, data: bytes) -> None:
        """Put `data` under `key` unless an object is there."""
        is_new = key not in self._objects
        if is_new:
            self._world.note("store", f"create {key} {len(data)}")
            self._on_create(key, data)
        await super().create(key, data)

    async def delete(self, key: str) -> None:
        """Delete the object; deleting an absent one is no error."""
        if key in self._objects:
            self._world.note("store", f"delete {key}")
            self._on_delete(key, self._objects[key][0])
        await super().delete(key)


class DistantStore:
    """A store some milliseconds away; `ports.Store`.

    Args:
        world: The time.
        inner: The store.
        rng: Draws the latencies.
    """

    def __init__(self, world: World, inner: Store, rng: random.Random) -> None:
        self._world = world
        self._inner = inner
        self._rng = rng

    @property
    def url(self) -> str:
        """The address of the store."""
        return self._inner.url

    async def _travel(self) -> None:
        await self._world.sleep(self._rng.uniform(*LATENCY_S))

    async def create(self, key: str, data: bytes) -> None:
        """Put an object."""
        await self._travel()
        try:
            await self._inner.create(key, data)
        except AlreadyExistsError:
            self._world.counts["lost races"] += 1
            raise
        finally:
            await self._travel()

    async def get(self, key: str) -> bytes:
        """Return the whole object."""
        await self._travel()
        data = await self._inner.get(key)
        await self._travel()
        return data

    async def get_range(self, key: str, start: int, size: int) -> bytes:
        """Return a part of the object."""
        await self._travel()
        return await self._inner.get_range(key, start, size)

    async def head(self, key: str) -> ObjectInfo:
        """Return the object's size and time."""
        await self._travel()
        try:
            return await self._inner.head(key)
        except NotFoundError:
            await self._travel()
            raise

    async def list(self, prefix: str) -> AsyncIterator[ObjectInfo]:
        """Yield the objects whose key starts with `prefix`, as of one moment."""
        await self._travel()
        found = [info async for info in self._inner.list(prefix)]
        await self._travel()
        for info in found:
            yield info

    async def delete(self, key: str) -> None:
        """Delete the object."""
        await self._travel()
        await self._inner.delete(key)
        await self._travel()
