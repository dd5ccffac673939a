import asyncio
import dataclasses
import itertools
import random
from typing import Any

import msgspec
import pytest

from support.store import DAYS, STREAM, Exchange, MemoryStore, Recorder, WrappedStore, keys_of, merge, proof_at, put
from support.virtual import VirtualClock
from twintape.core import names
from twintape.core.errors import CorruptionError, StoreError
from twintape.core.manifest import Deletion, Missing, Plan, PlanInput, PruneReceipt, digest, encode
from twintape.core.markets import Market
from twintape.io import catalog
from twintape.io.catalog import find_head, list_heads, missing_numbers, pruned_numbers, read_segments
from twintape.io.faults import Fault, Faults, FaultyStore

DAY = DAYS[1]


@pytest.fixture
def store(tmp_path: Any) -> MemoryStore:
    store = MemoryStore()
    put(store, Recorder("tokyo", snapshots=(0, 100), segments=6).seals([Exchange("BTCUSDT")]))
    merge(store, tmp_path)
    return store


def generation(store: MemoryStore, number: int) -> str:
    """Publish a further generation that says what the first one says."""
    first = names.proof_key(Market.SPOT, "BTCUSDT", STREAM, DAY, 1)
    key = names.proof_key(Market.SPOT, "BTCUSDT", STREAM, DAY, number)
    proof = msgspec.structs.replace(proof_at(store, first), generation=number, write_id=f"{number:016x}")
    asyncio.run(store.create(key, encode(proof)))
    return key


class Blind(WrappedStore):
    """LIST leaves out what contains a word, and shows the rest twice."""

    def __init__(self, inner: Any, hidden: str) -> None:
        super().__init__(inner)
        self._hidden = hidden

    async def list(self, prefix: str) -> Any:
        async for info in super().list(prefix):
            if self._hidden not in info.key:
                yield info
                yield info


def test_the_head_is_the_highest_generation_even_where_list_does_not_show_it(store: MemoryStore) -> None:
    for number in (2, 3):
        generation(store, number)
    for blind in (store, Blind(store, "g0003"), Blind(store, "g0001"), Blind(store, "nothing")):
        head = asyncio.run(list_heads(blind, Market.SPOT, symbol="BTCUSDT", stream=STREAM, dates=[DAY]))["BTCUSDT", STREAM, DAY]
        assert head.proof.generation == 3
        assert head.key.endswith("g0003.json")
    assert asyncio.run(find_head(store, Market.SPOT, "BTCUSDT", STREAM, DAY)).proof.generation == 3
    assert asyncio.run(find_head(store, Market.SPOT, "BTCUSDT", STREAM, "2026-03-09")) is None


def test_a_generation_that_was_listed_and_is_gone_is_a_failure_of_the_store(store: MemoryStore) -> None:
    with pytest.raises(StoreError, match="was listed and is gone") as caught:
        asyncio.run(find_head(store, Market.SPOT, "BTCUSDT", STREAM, DAY, known=7))
    assert caught.value.retryable


def test_foreign_objects_among_the_proofs_are_no_days(store: MemoryStore) -> None:
    before = asyncio.run(list_heads(store, Market.SPOT))
    asyncio.run(store.create("proof/market=spot/readme.txt", b"hello"))
    assert asyncio.run(list_heads(store, Market.SPOT)) == before


def test_an_object_that_list_shows_and_nobody_has_is_no_input(store: MemoryStore) -> None:
    class Haunted(WrappedStore):
        async def list(self, prefix: str) -> Any:
            async for info in super().list(prefix):
                yield info
            for info in [info async for info in self.inner.list("raw/")][:2]:
                await self.inner.delete(info.key)

    keys = keys_of(store, "raw/")
    view = asyncio.run(read_segments(Haunted(store), Market.SPOT))
    assert list(view.segments) == keys[2:]
    assert view.unreadable == []


def test_damage_on_the_way_is_not_damage_of_the_object(store: MemoryStore) -> None:
    raw = keys_of(store, "raw/")[0]
    once = FaultyStore(store, clock=VirtualClock(), faults=Faults(schedule={2: Fault.TRUNCATED}))
    assert asyncio.run(read_segments(once, Market.SPOT)).unreadable == []
    assert [incident.fault for incident in once.log] == [Fault.TRUNCATED]
    always = FaultyStore(store, clock=VirtualClock(), faults=Faults(rates={Fault.CORRUPT: 1.0}, where=lambda _, key: key == raw))
    assert [found.key for found in asyncio.run(read_segments(always, Market.SPOT)).unreadable] == [raw]


def test_a_long_index_is_read_in_two_steps_and_one_that_claims_too_much_not_at_all(
    store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = asyncio.run(read_segments(store, Market.SPOT, [DAY]))
    monkeypatch.setattr(catalog, "TAIL_BYTES", 40)
    assert asyncio.run(read_segments(store, Market.SPOT, [DAY])).segments == whole.segments
    key = next(iter(whole.segments))
    data = asyncio.run(store.get(key))
    asyncio.run(store.delete(key))
    asyncio.run(store.create(key, data[:-16] + (0).to_bytes(8, "little") + data[-8:]))
    view = asyncio.run(read_segments(store, Market.SPOT, [DAY]))
    assert [unreadable.key for unreadable in view.unreadable] == [key]


def test_random_tails_never_raise_anything_but_a_report() -> None:
    rng = random.Random(1)
    exchange = Exchange("BTCUSDT", events=30)
    sealed = Recorder("tokyo", segments=1).seals([exchange])[0]
    for _ in range(200):
        data = bytearray(sealed.data)
        for _ in range(rng.randint(1, 4)):
            data[-rng.randint(1, 1500)] = rng.randrange(256)
        store = MemoryStore()
        asyncio.run(store.create(sealed.key, bytes(data)))
        view = asyncio.run(read_segments(store, Market.SPOT))
        assert len(view.segments) + len(view.unreadable) == 1


def test_holes_of_a_chain_are_those_between_what_is_there_and_what_plans_name(store: MemoryStore) -> None:
    found = list(asyncio.run(read_segments(store, Market.SPOT)).segments.values())
    chain = ("tokyo", found[0].index.chain.id)
    found.sort(key=lambda raw: raw.index.chain.number)

    def holes(numbers: list[int], known: set[int] = frozenset(), before: list[tuple[int, int]] = ()) -> list[tuple[int, int]]:  # type: ignore[assignment]
        earlier = [Missing(collector=chain[0], chain=chain[1], numbers=list(before))] if before else []
        missing = missing_numbers([found[n] for n in numbers], {chain: set(known)} if known else {}, earlier)
        return [tuple(hole) for entry in missing for hole in entry.numbers]  # type: ignore[misc]

    assert holes([0, 1, 2, 3, 4, 5]) == holes([]) == holes([3]) == []
    assert holes([0, 3, 5]) == [(1, 2), (4, 4)]
    assert holes([0, 3, 5], {1, 9}) == [(2, 2), (4, 4)]
    assert holes([4, 5], before=[(1, 2)]) == [(1, 2)]
    assert holes([2, 4, 5], before=[(1, 3)]) == [(1, 1), (3, 3)]
    assert holes([4, 5], {1, 2, 3}, before=[(1, 3)]) == []
    assert holes([0, 4], before=[(1, 2)]) == [(1, 3)]


def test_only_numbers_that_a_prune_found_settled_are_accounted_for(store: MemoryStore) -> None:
    """A merge's plan alone vouches for nothing: the object may have been lost before all of its streams were merged."""
    assert asyncio.run(pruned_numbers(store, Market.SPOT, DAYS)) == {}
    keys = keys_of(store, "raw/v1/")
    deletions = [Deletion(key=key, size=1, sha256="", why="settled", proofs=[]) for key in keys]
    receipt = PruneReceipt(write_id="00112233aabbccdd", delete=deletions)
    asyncio.run(store.create("receipt/v1/00112233aabbccdd/plan.json", encode(receipt)))
    asyncio.run(store.create("receipt/v1/00112233aabbccdd/clock.json", b"{}"))
    assert list(asyncio.run(pruned_numbers(store, Market.SPOT, DAYS)).values()) == [{0, 1, 2, 3, 4, 5}]


def test_receipts_are_read_the_newest_first_and_no_further_than_needed() -> None:
    """There are years of them."""
    hours = itertools.count(1)
    store = MemoryStore(wall_ns=lambda: next(hours))
    put(store, Recorder("tokyo").seals([Exchange("BTCUSDT")]))
    inputs = [
        PlanInput(key=key, size=1, sha256="", index_sha256="", collector="tokyo", chain="0" * 16, number=number)
        for number, key in enumerate(keys_of(store, "raw/v1/"))
    ]
    lost = msgspec.structs.replace(inputs[0], key="raw/v1/tokyo/lost", number=9)
    plan = encode(Plan(market="spot", date=DAY, inputs=[*inputs, lost]))
    asyncio.run(store.create(names.plan_key(Market.SPOT, DAY, digest(plan)), plan))
    asyncio.run(store.create("receipt/v1/ff112233aabbccdd/plan.json", b"too old to be read"))
    for number, part in enumerate((inputs[:2], inputs[2:])):
        deletions = [Deletion(key=one.key, size=1, sha256="", why="settled", proofs=[]) for one in part]
        receipt = encode(PruneReceipt(write_id=f"{number:016x}", delete=deletions))
        asyncio.run(store.create(names.receipt_key(f"{number:016x}", "plan"), receipt))
    holes = [Missing(collector="tokyo", chain="0" * 16, numbers=[(1, 2)])]
    assert asyncio.run(pruned_numbers(store, Market.SPOT, DAYS, holes)) == {("tokyo", "0" * 16): {1, 2}}
    assert asyncio.run(pruned_numbers(store, Market.SPOT, DAYS, [])) == {}
    with pytest.raises(CorruptionError, match="ff112233aabbccdd"):
        asyncio.run(
            pruned_numbers(store, Market.SPOT, DAYS, [*holes, Missing(collector="tokyo", chain="0" * 16, numbers=[(9, 9)])])
        )


def test_a_segment_that_does_not_follow_the_one_before_it_shows_that_another_is_missing(store: MemoryStore) -> None:
    """Two machines under one name, or a spool put back from a copy: numbers alone look whole."""
    view = asyncio.run(read_segments(store, Market.SPOT))
    found = sorted(view.segments.values(), key=lambda raw: raw.index.chain.number)
    forged = msgspec.structs.replace(found[3].index.chain, previous="0" * 64)
    fork = dataclasses.replace(found[3], index=msgspec.structs.replace(found[3].index, chain=forged))
    assert missing_numbers(found, {}) == []
    (missing,) = missing_numbers([*found[:3], fork, *found[4:]], {})
    assert missing.numbers == [(2, 2)]


def test_a_damaged_plan_is_an_error_that_names_it(store: MemoryStore) -> None:
    key = keys_of(store, f"plan/v1/market=spot/date={DAY}/")[0]
    asyncio.run(store.delete(key))
    asyncio.run(store.create(key, b"{}"))
    with pytest.raises(CorruptionError, match=key):
        asyncio.run(pruned_numbers(store, Market.SPOT, DAYS))
