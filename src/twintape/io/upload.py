"""Uploading one sealed segment: until the store has shown that it holds these very bytes.

Clock and randomness are arguments, so that the simulation runs the code that ships.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable

from twintape.core.errors import CorruptionError, StoreError
from twintape.io.ports import Store
from twintape.io.shelf import SealedFile

__all__ = ["ATTEMPTS_MAX", "upload_one"]

ATTEMPTS_MAX = 6
"""How often one call tries; the caller comes back later with the files that are still pending."""
DELAY_S_MIN = 0.5
DELAY_S_MAX = 20.0


async def upload_one(
    store: Store,
    sealed: SealedFile,
    *,
    read: Callable[[str], Awaitable[bytes]],
    sleep: Callable[[float], Awaitable[None]],
    draw: Callable[[], float],
    attempts: int = ATTEMPTS_MAX,
) -> None:
    """Put a sealed segment under its key and return when the store has given the same bytes back.

    Args:
        store: Where to.
        sealed: What.
        read: Returns a file of the spool, off the event loop.
        sleep: Waits for seconds.
        draw: Returns a number from 0 to 1, for the jitter.
        attempts: How often to try at most; the wait before each next try doubles, up to `DELAY_S_MAX`, less up to a half by jitter.

    Raises:
        CorruptionError: The local file is not what was sealed: call `Spool.damaged`.
        AlreadyExistsError: Under the key there is another object.
        StoreError: It failed, at the last attempt or in a way that trying again does not help.
        OSError: The local file cannot be read.
    """
    data = await read(sealed.path)
    if len(data) != sealed.size or hashlib.sha256(data).hexdigest() != sealed.sha256:
        raise CorruptionError(f"{sealed.path}: {len(data)} bytes that are not the {sealed.size} that were sealed")
    for attempt in range(1, attempts + 1):
        try:
            await store.create(sealed.key, data)
            found = await store.get(sealed.key)
            if found == data:
                return
            raise StoreError(f"{sealed.key}: read back {len(found)} bytes that are not the {sealed.size} put", retryable=True)
        except StoreError as error:
            if attempt == attempts or not (error.retryable or isinstance(error, LookupError)):
                raise
        await sleep(min(DELAY_S_MAX, DELAY_S_MIN * 2 ** (attempt - 1)) * (1 - draw() / 2))
