import asyncio
from typing import Any

import msgspec
import pytest

from support.store import DAYS, STREAM, Exchange, MemoryStore, Recorder, heads, merge, put
from twintape.core.errors import CorruptionError, NotFoundError
from twintape.core.manifest import Output, Proof, digest
from twintape.io.verify import read_outputs, verify_published


@pytest.fixture
def store(tmp_path: Any) -> MemoryStore:
    exchange = Exchange("BTCUSDT")
    store = MemoryStore()
    for name in ("paris", "tokyo"):
        put(store, Recorder(name, lost={"BTCUSDT": {70}}, snapshots=(0, 100)).seals([exchange]))
    merge(store, tmp_path)
    return store


def head(store: MemoryStore) -> Proof:
    return heads(store)["BTCUSDT", STREAM, DAYS[1]]


def test_every_published_day_is_what_its_proof_says(store: MemoryStore) -> None:
    for proof in heads(store).values():
        asyncio.run(verify_published(store, proof))


def test_a_changed_byte_or_a_missing_output_is_found(store: MemoryStore) -> None:
    for output in head(store).outputs:
        data = asyncio.run(store.get(output.key))
        asyncio.run(store.delete(output.key))
        with pytest.raises(NotFoundError, match=output.key):
            asyncio.run(verify_published(store, head(store)))
        for changed in (data[:-1], data + b"\0", data[:40] + bytes([data[40] ^ 1]) + data[41:]):
            asyncio.run(store.create(output.key, changed))
            with pytest.raises(CorruptionError, match="the proof says"):
                asyncio.run(read_outputs(store, head(store)))
            asyncio.run(store.delete(output.key))
        asyncio.run(store.create(output.key, data))


def test_a_proof_that_does_not_describe_its_outputs_is_found(store: MemoryStore) -> None:
    proof = head(store)
    source = proof.inputs[0]
    for changes, words in (
        ({"events": proof.events + 1}, "rows"),
        ({"gaps": []}, "gaps"),
        ({"overlaps": [*proof.overlaps, None]}, "rows"),
        ({"end": msgspec.structs.replace(proof.end, update_id=1)}, "the chain ends at"),
        ({"inputs": [msgspec.structs.replace(source, settled=source.settled + 1), *proof.inputs[1:]]}, "settled"),
        ({"outputs": [output for output in proof.outputs if output.table != "arrival"]}, "raw lines"),
    ):
        with pytest.raises(CorruptionError, match=words):
            asyncio.run(verify_published(store, msgspec.structs.replace(proof, **changes)))


def test_an_output_that_is_no_parquet_at_all_is_damage_even_if_its_digest_holds(store: MemoryStore) -> None:
    proof = head(store)
    for data in (b"", b"PAR1", b"\0" * 4096):
        key = f"depth/{digest(data)[:16]}"
        asyncio.run(store.create(key, data))
        output = Output(table="depth", key=key, size=len(data), sha256=digest(data), rows=0)
        with pytest.raises(CorruptionError):
            asyncio.run(verify_published(store, msgspec.structs.replace(proof, outputs=[output])))
