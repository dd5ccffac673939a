"""Checking what is published against its proof, from the published bytes alone."""

from __future__ import annotations

import numpy as np

from twintape.columns.digests import digest_outputs
from twintape.columns.expand import Outputs
from twintape.columns.kinds import flat_schema, kind_of
from twintape.columns.verify import check_chain
from twintape.core.errors import CorruptionError
from twintape.core.manifest import Proof, digest
from twintape.core.wire import is_depth
from twintape.io.ports import Store

__all__ = ["read_outputs", "verify_published"]


async def read_outputs(store: Store, proof: Proof) -> Outputs:
    """Read every output of a day.

    Raises:
        CorruptionError: One is not what the proof says.
        NotFoundError: One is gone.
    """
    tables: dict[str, bytes] = {}
    for output in proof.outputs:
        data = await store.get(output.key)
        if len(data) != output.size or digest(data) != output.sha256:
            raise CorruptionError(f"{output.key}: {len(data)} bytes with sha256 {digest(data)}, the proof says {output.sha256}")
        tables[output.table] = data
    return Outputs(tables)


def check_messages(outputs: Outputs, proof: Proof) -> None:
    """Compare the ids of a typed table with the proof's gaps; a stream without one has nothing to compare.

    Raises:
        CorruptionError: Ids are missing that the proof does not name, or there are some that it says are missing.
    """
    kind = kind_of(proof.stream)
    reader = None if kind is None else outputs.reader(kind.table, flat_schema(kind))
    if kind is None or reader is None or not kind.unique:
        return
    ids = np.concatenate([np.asarray(batch.column(0)) for batch in reader])
    holes = [(int(ids[at]), int(ids[at + 1]) - 1) for at in np.flatnonzero(np.diff(ids) > 1)]
    inside = [
        hole for hole in holes for gap in proof.gaps if hole[0] <= gap.after_update_id and gap.next_prev_update_id <= hole[1]
    ]
    if (np.diff(ids) <= 0).any() or len(inside) != len(proof.gaps):
        raise CorruptionError(f"{kind.table} has ids missing in {holes[:10]}, the proof says {proof.gaps[:10]}")
    if "verbatim" not in outputs.tables and len(holes) != len(proof.gaps):
        raise CorruptionError(f"{kind.table} has {len(holes)} gaps, the proof {len(proof.gaps)}")


async def verify_published(store: Store, proof: Proof) -> None:
    """Read a day whole; render every row; compare chain, gaps and counts with the proof.

    Raises:
        CorruptionError: The day is not what its proof says.
        NotFoundError: An output is gone.
    """
    outputs = await read_outputs(store, proof)
    lines = len(digest_outputs(outputs, proof.date))
    settled = sum(source.settled for source in proof.inputs)
    if lines != settled:
        raise CorruptionError(f"the outputs render to {lines} raw lines, the proof settled {settled}")
    if not is_depth(proof.stream):
        check_messages(outputs, proof)
        return
    chain = check_chain(outputs)
    inner = [(gap.after_update_id, gap.next_prev_update_id) for gap in proof.gaps if gap.from_event_time_us is not None]
    if chain.rows != proof.events or chain.gaps != inner or chain.overlaps != len(proof.overlaps):
        raise CorruptionError(
            f"the chain has {chain.rows} rows, {chain.overlaps} overlaps and gaps {chain.gaps}, "
            f"the proof says {proof.events}, {len(proof.overlaps)} and {inner}"
        )
    if chain.last_final is not None and chain.last_final != proof.end.update_id:
        raise CorruptionError(f"the chain ends at {chain.last_final}, the proof says {proof.end.update_id}")
