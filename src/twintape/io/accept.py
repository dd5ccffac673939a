"""Accepting a day: an operator's word, published as a generation of its own, that raw data may go which a prune would keep for ever.

The new generation names the same outputs and the same lineage; only the acceptance is new. Later raw data makes a generation without it.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from twintape.core import names
from twintape.core.errors import AlreadyExistsError, RefusedError
from twintape.core.manifest import Acceptance, Parent, encode, held_reason
from twintape.core.markets import Market
from twintape.io.catalog import Head
from twintape.io.ports import Clock, Store
from twintape.io.verify import verify_published

__all__ = ["accept_day"]


async def accept_day(
    store: Store, head: Head, acceptance: Acceptance, *, clock: Clock, draw_id: Callable[[], str], version: str
) -> str:
    """Publish a generation that accepts a day as it is; returns its proof's key.

    Args:
        store: Where the day is.
        head: The day's head; its outputs are read back first.
        acceptance: Who, and why.
        clock: For the proof's date of creation.
        draw_id: Returns 16 fresh hex digits.
        version: Of this program.

    Raises:
        RefusedError: Nothing holds the day's raw data back, or another generation was published meanwhile.
        CorruptionError: The day's outputs are not what its proof says.
        StoreError: The store failed; accepting again is harmless.
    """
    proof = head.proof
    if held_reason(proof) is None:
        raise RefusedError(f"{head.key} needs no acceptance: nothing but its grace holds raw data back")
    await verify_published(store, proof)
    accepted = msgspec.structs.replace(
        proof,
        generation=proof.generation + 1,
        write_id=draw_id(),
        parent=Parent(generation=proof.generation, sha256=head.sha256),
        acceptance=acceptance,
        created_ns=clock.wall_ns(),
        version=f"twintape {version}",
    )
    key = names.proof_key(Market(proof.market), proof.symbol, proof.stream, proof.date, accepted.generation)
    try:
        await store.create(key, encode(accepted))
    except AlreadyExistsError as error:
        raise RefusedError(f"{key} was published meanwhile", hint="look at the day again before you accept it") from error
    return key
