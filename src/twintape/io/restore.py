"""Bringing back what a prune deleted, from the old versions a bucket keeps.

Receipts say what was deleted, with size and digest; only bytes with that very digest are put back, under their own key and create-only. Everything can be
repeated. Restored raw data that a proof has settled is what the next prune deletes again: an object named `STOP` prevents that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from twintape.core.errors import NotFoundError, RefusedError
from twintape.core.manifest import Deletion, PruneReceipt, decode, digest
from twintape.io.ports import Store
from twintape.io.s3 import Bucket, Version

__all__ = ["Fate", "Restored", "restore", "wanted_deletions"]

RECEIPTS_PREFIX = "receipt/v1/"


class Fate(StrEnum):
    """What became of one object that was to be restored."""

    RESTORABLE = "restorable"
    RESTORED = "restored"
    PRESENT = "present"
    GONE = "gone"
    """The bucket no longer has a version with the receipt's size and digest."""


@dataclass(frozen=True, slots=True)
class Restored:
    """One object of a receipt and what became of it."""

    key: str
    size: int
    fate: Fate


async def wanted_deletions(store: Store, *, receipts: Sequence[str] = (), keys: Sequence[str] = ()) -> list[Deletion]:
    """Return what receipts say was deleted, sorted by key, each key once.

    Args:
        store: Where the receipts are.
        receipts: Only these (write ids); empty for all.
        keys: Only keys that start with one of these; empty for all.

    Raises:
        NotFoundError: There is no such receipt.
        CorruptionError: A receipt is damaged.
        StoreError: The store failed.
    """
    places = [f"{RECEIPTS_PREFIX}{receipt}/plan.json" for receipt in receipts]
    if not places:
        places = sorted({info.key async for info in store.list(RECEIPTS_PREFIX) if info.key.endswith("/plan.json")})
    found: dict[tuple[str, str], Deletion] = {}
    for place in places:
        for deletion in decode(await store.get(place), PruneReceipt, where=place).delete:
            if not keys or deletion.key.startswith(tuple(keys)):
                found[deletion.key, deletion.sha256] = deletion
    return [deletion for _, deletion in sorted(found.items())]


async def restore(
    store: Store,
    bucket: Bucket | None,
    deletions: Iterable[Deletion],
    *,
    execute: bool,
    progress: Callable[[str], None] = lambda _key: None,
) -> list[Restored]:
    """Find old versions of deleted objects and, if asked to, put them back.

    Args:
        store: Where to put them.
        bucket: The same bucket with its versions, or None if the store has none.
        deletions: What was deleted.
        execute: Whether to put them back; otherwise only find out what could be.
        progress: Told each key.

    Raises:
        RefusedError: The store keeps no versions.
        StoreError: The store failed; running again goes on.
    """
    if bucket is None:
        raise RefusedError(
            f"{store.url} keeps no versions that could be read",
            hint="restore the keys of the receipt from your own backup, under the same names",
        )
    outcomes = []
    for deletion in deletions:
        progress(deletion.key)
        outcomes.append(Restored(deletion.key, deletion.size, await _restore_one(store, bucket, deletion, execute=execute)))
    return outcomes


async def _restore_one(store: Store, bucket: Bucket, deletion: Deletion, *, execute: bool) -> Fate:
    try:
        await store.head(deletion.key)
    except NotFoundError:
        data = await _old_bytes(bucket, deletion)
    else:
        return Fate.PRESENT
    if data is None:
        return Fate.GONE
    if not execute:
        return Fate.RESTORABLE
    await store.create(deletion.key, data)
    return Fate.RESTORED


async def _old_bytes(bucket: Bucket, deletion: Deletion) -> bytes | None:
    for version in await bucket.versions(deletion.key):
        if _may_be(version, deletion):
            try:
                data = await bucket.get_version(version)
            except NotFoundError:
                continue  # it expired just now
            if digest(data) == deletion.sha256:
                return data
    return None


def _may_be(version: Version, deletion: Deletion) -> bool:
    return version.key == deletion.key and not version.deletion and version.size == deletion.size
