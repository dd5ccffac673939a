"""Whether a store is fit for merging and pruning, above all: a create-only put (`If-None-Match: *`) never replaces an object.

Some stores answer such a put like any other and overwrite, some reject it. On the first kind two merges at once could replace each other's
proofs, so whoever merges or prunes asks first. The question needs no deleting and leaves one object for all times. What `twintape doctor` found within the last day counts too.

Format: docs/format.md, section 10.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from enum import StrEnum
from typing import TYPE_CHECKING

import msgspec

from twintape.core.errors import AlreadyExistsError, CorruptionError, NotFoundError, NotSupportedError, RefusedError, StoreError

if TYPE_CHECKING:
    from twintape.io.ports import ObjectInfo, Store

__all__ = [
    "CONDITIONS_KEY",
    "FRESH_NS",
    "Fitness",
    "SoleWriterStore",
    "Verdict",
    "VerdictLine",
    "conditions_kept",
    "latest_verdict",
    "require_fit",
    "verdict_key",
]

CONDITIONS_KEY = "doctor/v1/conditions"
"""The object that every check tries to replace, and must not be able to."""
FRESH_NS = 24 * 3600 * 10**9
"""How long a verdict counts."""
VERDICT_FORMAT = "twintape-verdict/1"
VERDICT_PREFIX = "doctor/v1/verdict/"
HINT = "`twintape doctor` says more; use a store that honours it, or promise with --single-merger that never more than one merge or prune runs"


async def conditions_kept(store: Store, draw_id: Callable[[], str]) -> str | None:
    """Try to replace an object by a create-only put.

    Args:
        store: The store in question.
        draw_id: Returns hex digits that nobody has drawn before.

    Returns:
        None if it was refused as it must be; otherwise what happened instead, in words.

    Raises:
        StoreError: The store gave no clear answer.
    """
    first, second = (f'{{"format":"twintape-conditions/1","drawn":"{draw_id()}"}}'.encode() for _ in range(2))
    try:
        await store.create(CONDITIONS_KEY, first)
    except AlreadyExistsError:
        return None  # left by the check before, and not replaced
    except NotSupportedError as error:
        return f"it rejects create-only puts ({error})"
    try:
        await store.create(CONDITIONS_KEY, second)
    except AlreadyExistsError:
        return None
    return "it answers a create-only put as if it had no condition, and replaces what is there"


async def require_fit(store: Store, draw_id: Callable[[], str], now_ns: int) -> None:
    """Go on only with a store on which several merges and prunes at once are harmless, and that no fresh verdict calls unfit.

    Args:
        store: The store in question.
        draw_id: Returns hex digits that nobody has drawn before.
        now_ns: The time, the store's if it is known.

    Raises:
        RefusedError: This is none.
        StoreError: The store gave no clear answer.
    """
    fault = await conditions_kept(store, draw_id)
    if fault is not None:
        raise RefusedError(f"{store.url} does not honour If-None-Match: {fault}", hint=HINT)
    found = await latest_verdict(store)
    if found is None or found[0].fitness is not Fitness.REFUSE:
        return
    verdict, modified_ns = found
    if now_ns - modified_ns <= FRESH_NS:
        failed = ", ".join(line.name for line in verdict.probes if line.outcome == "failed")
        raise RefusedError(
            f"`twintape doctor` found {store.url} unfit ({failed})",
            hint="mend what it names and run it again; a verdict counts for a day",
        )


# --- verdicts ------------------------------------------------------------------------------------------------------------------


class Fitness(StrEnum):
    """What a store is good for."""

    FULL = "full"
    SINGLE_MERGER = "single-merger"
    REFUSE = "refuse"


class VerdictLine(msgspec.Struct, frozen=True, kw_only=True):
    """What one probe found: `passed`, `failed`, `warning` or `unknown`, with the facts."""

    name: str
    outcome: str
    detail: str


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What a doctor wrote down; its time is the object's."""

    format: str = VERDICT_FORMAT
    write_id: str
    fitness: Fitness
    version: str
    probes: list[VerdictLine]


def verdict_key(write_id: str) -> str:
    """Return the key of a verdict."""
    return f"{VERDICT_PREFIX}{write_id}.json"


async def latest_verdict(store: Store) -> tuple[Verdict, int] | None:
    """Return the newest verdict and when the store received it, or None.

    Raises:
        CorruptionError: It is damaged.
        StoreError: The store failed.
    """
    newest: ObjectInfo | None = None
    async for info in store.list(VERDICT_PREFIX):
        if newest is None or (info.modified_ns, info.key) > (newest.modified_ns, newest.key):
            newest = info
    if newest is None:
        return None
    try:
        data = await store.get(newest.key)
        verdict = msgspec.json.decode(data, type=Verdict)
    except NotFoundError:
        return None  # a listing may show what is not there
    except (msgspec.DecodeError, RecursionError, ValueError) as error:
        raise CorruptionError(
            f"{newest.key}: not a verdict: {error}", hint="delete it and run `twintape doctor` again"
        ) from error
    return (verdict, newest.modified_ns) if verdict.format == VERDICT_FORMAT else None


class SoleWriterStore:
    """A store that ignores conditions, used by somebody who promises to be the only one who merges or prunes.

    `create` looks first, and reads back what it has put; between the two another writer could replace the object unnoticed.

    Args:
        inner: The store.
    """

    def __init__(self, inner: Store) -> None:
        self._inner = inner

    def __repr__(self) -> str:
        return f"SoleWriterStore({self._inner!r})"

    @property
    def url(self) -> str:
        """The address of the store behind."""
        return self._inner.url

    async def create(self, key: str, data: bytes) -> None:
        """Put `data` under `key` unless an object is there, as far as a look before can tell."""
        try:
            found = await self._inner.get(key)
        except NotFoundError:
            await self._inner.create(key, data)
            found = await self._inner.get(key)
            if found != data:
                raise StoreError(f"{key}: read back {len(found)} bytes that are not the {len(data)} put") from None
        if found != data:
            raise AlreadyExistsError(f"{key}: another object of {len(found)} bytes is there, wanted to put {len(data)}")

    async def get(self, key: str) -> bytes:
        """Return the whole object."""
        return await self._inner.get(key)

    async def get_range(self, key: str, start: int, size: int) -> bytes:
        """Return up to `size` bytes from `start`; a negative `start` counts from the end."""
        return await self._inner.get_range(key, start, size)

    async def head(self, key: str) -> ObjectInfo:
        """Return the object's size and time."""
        return await self._inner.head(key)

    def list(self, prefix: str) -> AsyncIterator[ObjectInfo]:
        """Yield the objects whose key starts with `prefix`."""
        return self._inner.list(prefix)

    async def delete(self, key: str) -> None:
        """Delete the object; deleting an absent one is no error."""
        await self._inner.delete(key)
