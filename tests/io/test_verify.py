import asyncio
from typing import Any

import msgspec
import pytest

from support.store import DAYS, STREAM, Exchange, MemoryStore, Recorder, heads, merge, put, time_us
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


def test_a_day_may_begin_with_an_event_that_begins_in_the_day_before(tmp_path: Any) -> None:
    # One line hears the last event before midnight and misses the first behind it; the other one hears both in one, cut differently.
    exchange, store = Exchange("BTCUSDT"), MemoryStore()
    last = exchange.position_at(time_us(f"{DAYS[1]}T00:00:00"))
    before, behind = exchange.events[last], exchange.events[last + 1]
    joined = exchange.frame(last + 1).replace(b'"U":%d' % behind.first, b'"U":%d' % before.first)
    everything = set(range(len(exchange)))
    put(store, Recorder("paris", lost={"BTCUSDT": {last + 1}}).seals([exchange]))
    heard = (behind.time_us * 1000 + 1, joined)
    put(store, Recorder("tokyo", lost={"BTCUSDT": everything - {0, last + 2}}, snapshots=(), extra=[heard]).seals([exchange]))
    merge(store, tmp_path)
    proof = head(store)
    assert [(found.at, found.prev_update_id) for found in proof.overlaps] == [(before.final, before.prev)]
    assert proof.start.update_id == before.final
    for proven in heads(store).values():
        asyncio.run(verify_published(store, proven))
    hidden = msgspec.structs.replace(proof, overlaps=[])
    with pytest.raises(CorruptionError, match="rows"):
        asyncio.run(verify_published(store, hidden))


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


def trades(exchange: Exchange, lost: set[int], latency_ns: int) -> list[tuple[int, bytes]]:
    """One trade with each event, ids from 0 on."""
    return [
        (
            event.time_us * 1000 + latency_ns,
            b'{"stream":"btcusdt@trade","data":{"e":"trade","E":%d,"s":"BTCUSDT","t":%d,"p":"1.50","q":"2.00","T":%d,"m":true,"M":true}}'
            % (event.time_us // 1000, number, event.time_us // 1000),
        )
        for number, event in enumerate(exchange.events)
        if number not in lost
    ]


def test_gaps_in_trades_are_published_verified_and_closed_by_a_late_line(tmp_path: Any) -> None:
    exchange, store = Exchange("BTCUSDT"), MemoryStore()
    first = next(number for number, event in enumerate(exchange.events) if number > 40)
    for name, lost, latency in (("paris", {first, first + 1}, 100), ("tokyo", {first + 1, first + 2}, 200)):
        put(store, Recorder(name, extra=trades(exchange, lost, latency)).seals([exchange]))
    merge(store, tmp_path)
    gapped = [proof for (_, stream, _), proof in heads(store).items() if stream == "trade" and proof.gaps]
    assert [(p.status, p.gaps[0].after_update_id, p.gaps[0].next_prev_update_id, p.gaps[0].gap_class) for p in gapped] == [
        ("gapped", first, first + 1, "unknown")
    ]
    asyncio.run(verify_published(store, gapped[0]))
    with pytest.raises(CorruptionError, match="1 gaps"):
        asyncio.run(verify_published(store, msgspec.structs.replace(gapped[0], gaps=[])))
    elsewhere = msgspec.structs.replace(gapped[0].gaps[0], after_update_id=first + 5, next_prev_update_id=first + 6)
    with pytest.raises(CorruptionError, match="missing"):
        asyncio.run(verify_published(store, msgspec.structs.replace(gapped[0], gaps=[elsewhere])))
    put(store, Recorder("oslo", extra=trades(exchange, set(), 300)).seals([exchange]))
    merge(store, tmp_path)
    closed = heads(store)["BTCUSDT", "trade", gapped[0].date]
    assert (closed.generation, closed.gaps, len(closed.closed_gaps)) == (2, [], 1)
    asyncio.run(verify_published(store, closed))
