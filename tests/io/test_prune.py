import asyncio
import io
import itertools
import random
from typing import Any

import msgspec
import pytest

from support.store import (
    DAYS,
    HOUR_NS,
    STREAM,
    DawdlingStore,
    DyingStore,
    Exchange,
    Killed,
    Recorder,
    WrappedStore,
    contents,
    copy_of,
    generations,
    heads,
    keys_of,
    merge,
    merge_run,
    proof_at,
    prune,
    prune_run,
    put,
    time_us,
)
from twintape.columns.schema import DEPTH, TableReader, TableWriter
from twintape.core import names
from twintape.core.errors import CorruptionError, RefusedError
from twintape.core.manifest import PruneReceipt, PruneReport, decode, digest, encode
from twintape.core.markets import Market
from twintape.core.segment import ChainLink, read_index, seal
from twintape.io.catalog import list_heads
from twintape.io.merge import merge_date
from twintape.io.prune import STOP_KEY, execute_prune, plan_prune
from twintape.io.store import MemoryStore
from twintape.io.verify import verify_published

BEFORE, DAY, BEHIND = DAYS
NO_GRACE = {"grace_h": -1, "gapped_h": -1}


class Hours:
    """The store's clock, in hours."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> int:
        return int(self.now * HOUR_NS)


def recorded(wall_ns: Any = lambda: 0, *, events: int = 180, segments: int = 5, **lost: set[int]) -> MemoryStore:
    exchange = Exchange("BTCUSDT", events=events)
    store = MemoryStore(wall_ns=wall_ns)
    for name in ("paris", "tokyo"):
        heard = Recorder(name, lost={"BTCUSDT": lost.get(name, set())}, snapshots=(0, 100), segments=segments, tickers=False)
        put(store, heard.seals([exchange]))
    return store


def raw_keys(store: Any) -> set[str]:
    return set(keys_of(store, "raw/"))


def tampered(store: MemoryStore, key: str) -> None:
    data = asyncio.run(store.get(key))
    asyncio.run(store.delete(key))
    asyncio.run(store.create(key, data[:-30] + bytes([data[-30] ^ 1]) + data[-29:]))


# --- when raw data may go --------------------------------------------------------------------------------------------------------


def test_raw_data_goes_after_the_grace_by_the_stores_own_clock(tmp_path: Any) -> None:
    clock = Hours()
    store = recorded(clock)
    merge(store, tmp_path)
    raw = raw_keys(store)
    clock.now = 71.9
    plan, report = prune(store)
    assert report.deleted == []
    assert raw_keys(store) == raw
    assert {kept.key for kept in plan.kept} == raw
    assert all("grace: 0.1 h left" in kept.reason for kept in plan.kept)
    clock.now = 72
    assert set(prune(store)[1].deleted) == raw
    assert raw_keys(store) == set()


def test_raw_data_of_a_gapped_day_stays_fourteen_days(tmp_path: Any) -> None:
    clock = Hours()
    store = recorded(clock, tokyo={70}, paris={70})
    merge(store, tmp_path)
    gapped = {source.key for source in heads(store)["BTCUSDT", STREAM, DAY].inputs}
    raw = raw_keys(store)
    assert gapped < raw
    clock.now = 14 * 24 - 0.1
    assert set(prune(store)[1].deleted) == raw - gapped
    clock.now = 14 * 24
    assert set(prune(store)[1].deleted) == gapped


def test_raw_data_of_a_conflicted_day_stays_for_ever(tmp_path: Any) -> None:
    clock = Hours()
    store = recorded(clock)
    liar = Exchange("BTCUSDT")
    object.__setattr__(liar.events[80], "asks", ((10005, 1),))
    put(store, Recorder("untrue").seals([liar]))
    merge(store, tmp_path)
    disputed = {source.key for source in heads(store)["BTCUSDT", STREAM, DAY].inputs}
    clock.now = 24 * 365 * 50
    plan, _ = prune(store)
    assert raw_keys(store) == disputed
    assert {kept.key: "is conflicted, and is not accepted" in kept.reason for kept in plan.kept} == dict.fromkeys(disputed, True)


def test_a_segment_across_midnight_goes_only_when_both_days_have_settled_it(tmp_path: Any) -> None:
    store = recorded()
    merge(store, tmp_path, [DAY])
    counts = {source.key: source for source in heads(store)["BTCUSDT", STREAM, DAY].inputs}
    whole = {key for key, source in counts.items() if source.owed == 0}
    plan, report = prune(store, **NO_GRACE)
    assert set(report.deleted) == whole
    assert whole
    assert all("frames settled" in kept.reason or "no proof" in kept.reason for kept in plan.kept)
    merge(store, tmp_path, [BEFORE])
    before = raw_keys(store)
    prune(store, **NO_GRACE)
    gone = before - raw_keys(store)
    assert gone
    assert gone < before
    assert all(key.split("/")[4] < BEHIND for key in gone)
    merge(store, tmp_path, [BEHIND])
    prune(store, **NO_GRACE)
    assert raw_keys(store) == set()


def test_raw_data_that_no_proof_names_stays(tmp_path: Any) -> None:
    store = recorded()
    merge(store, tmp_path)
    raw = raw_keys(store)
    late = put(store, Recorder("late").seals([Exchange("BTCUSDT")]))
    plan, report = prune(store, **NO_GRACE)
    assert set(report.deleted) == raw
    assert raw_keys(store) == set(late)
    assert {kept.reason for kept in plan.kept} == {"no proof has settled it"}


def test_days_whose_neighbours_disagree_about_midnight_wait(tmp_path: Any) -> None:
    store = recorded()
    merge(store, tmp_path)
    key = next(key for key in generations(store) if f"stream={STREAM}/date={BEHIND}" in key)
    proof = asyncio.run(store.get(key))
    start = heads(store)["BTCUSDT", STREAM, BEHIND].start.update_id
    asyncio.run(store.delete(key))
    asyncio.run(store.create(key, proof.replace(b'"start":{"update_id":%d' % start, b'"start":{"update_id":%d' % (start - 1))))
    plan, _ = prune(store, **NO_GRACE)
    assert plan.kept
    assert all("disagree about midnight" in kept.reason for kept in plan.kept)
    assert raw_keys(store) == {kept.key for kept in plan.kept}


# --- what it relies on -----------------------------------------------------------------------------------------------------------


def test_raw_data_stays_when_an_output_is_not_what_its_proof_says(tmp_path: Any) -> None:
    for how in ("tampered", "gone"):
        for table in ("depth", "arrival", "snapshot", "verbatim"):
            store = recorded()
            merge(store, tmp_path)
            output = next(output for proof in heads(store).values() for output in proof.outputs if output.table == table)
            proof_key = next(key for key, proof in _by_key(store).items() if output in proof.outputs)
            if how == "tampered":
                tampered(store, output.key)
            else:
                asyncio.run(store.delete(output.key))
            plan, report = prune(store, **NO_GRACE)
            needed = {source.key for source in _by_key(store)[proof_key].inputs}
            assert raw_keys(store) == needed
            assert {kept.reason for kept in plan.kept} == {f"the outputs of {proof_key} could not be verified"}
            assert not needed & set(report.deleted)


def _by_key(store: MemoryStore) -> Any:
    return {key: proof_at(store, key) for key in generations(store)}


def test_a_proof_of_a_newer_format_or_a_damaged_one_stops_everything(tmp_path: Any) -> None:
    for data, error in ((b'{"format":"twintape-proof/2"', CorruptionError), (b"", CorruptionError), (None, RefusedError)):
        store = recorded()
        merge(store, tmp_path)
        raw = raw_keys(store)
        key = generations(store)[-1]
        proof = asyncio.run(store.get(key))
        asyncio.run(store.delete(key))
        asyncio.run(store.create(key, proof.replace(b"proof/1", b"proof/2") if data is None else data))
        with pytest.raises(error, match=key):
            prune(store, **NO_GRACE)
        assert raw_keys(store) == raw


def test_proofs_of_years_that_no_raw_object_and_no_second_attempt_is_left_of_are_not_read(tmp_path: Any) -> None:
    """A proof names every raw object of its day: years of them are more than a machine can hold."""
    store = recorded(tokyo={70}, paris={70})
    merge(store, tmp_path)
    old = {output.key for output in heads(store)["BTCUSDT", STREAM, DAY].outputs}
    prune(store, **NO_GRACE)
    put(store, Recorder("late", snapshots=()).seals([Exchange("BTCUSDT")]))
    merge(store, tmp_path)
    for year in (2021, 2022, 2027):
        date = f"{year}-06-01"
        asyncio.run(store.create(names.proof_key(Market.SPOT, "BTCUSDT", STREAM, date, 1), b"not read"))
        key = names.table_key("depth", Market.SPOT, "BTCUSDT", STREAM, date, 1, f"{year:016x}", 0)
        asyncio.run(store.create(key, b"not read"))
    prune(store, **NO_GRACE)
    assert raw_keys(store) == set()
    assert not old & set(keys_of(store))
    assert len([key for key in keys_of(store, "depth/") if "-06-01" in key]) == 3
    # What nobody but the day's outputs and proofs speaks of any more is collected all the same.
    one = heads_of(store, DAY)
    orphan = names.table_key("depth", Market.SPOT, "BTCUSDT", STREAM, DAY, 2, "f" * 16, 0)
    asyncio.run(store.create(orphan, b"abandoned"))
    prune(store, **NO_GRACE)
    assert orphan not in keys_of(store)
    assert {output.key for output in one.outputs} <= set(keys_of(store))


def heads_of(store: Any, date: str) -> Any:
    return asyncio.run(list_heads(store, Market.SPOT, dates=[date]))["BTCUSDT", STREAM, date].proof


def test_an_object_that_changed_its_size_since_the_proof_stays(tmp_path: Any) -> None:
    store = recorded()
    merge(store, tmp_path)

    async def between() -> Any:
        run = prune_run(store, **NO_GRACE)
        plan = await plan_prune(run, [Market.SPOT])
        victim = plan.delete[0].key
        await store.delete(victim)
        await store.create(victim, b"something else")
        vanished = plan.delete[1].key
        await store.delete(vanished)
        return victim, vanished, await execute_prune(run, plan)

    victim, vanished, report = asyncio.run(between())
    assert raw_keys(store) == {victim}
    assert report.absent == [vanished]
    assert [kept.key for kept in report.kept] == [victim]
    assert asyncio.run(store.get(victim)) == b"something else"


def test_a_stop_object_refuses_planning_and_executing(tmp_path: Any) -> None:
    store = recorded()
    merge(store, tmp_path)
    run = prune_run(store, **NO_GRACE)
    plan = asyncio.run(plan_prune(run, [Market.SPOT]))
    asyncio.run(store.create(STOP_KEY, b""))
    raw = raw_keys(store)
    with pytest.raises(RefusedError, match="STOP"):
        asyncio.run(execute_prune(run, plan))
    with pytest.raises(RefusedError, match="STOP"):
        asyncio.run(plan_prune(run, [Market.SPOT]))
    assert raw_keys(store) == raw


def test_a_stop_object_ends_a_run_that_is_deleting(tmp_path: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr("twintape.io.prune.STOP_EVERY", 3)
    store = recorded()
    merge(store, tmp_path)
    before = raw_keys(store)

    def stop(name: str, _key: str, done: bool) -> Any:
        return store.create(STOP_KEY, b"") if (name, done) == ("delete", True) else None

    with pytest.raises(RefusedError, match="STOP"):
        prune(WrappedStore(store, stop), **NO_GRACE)
    assert len(before - raw_keys(store)) == 2
    asyncio.run(store.delete(STOP_KEY))
    prune(store, **NO_GRACE)
    assert raw_keys(store) == set()


def test_a_run_deletes_no_more_than_its_budget(tmp_path: Any) -> None:
    store = recorded()
    merge(store, tmp_path)
    raw = raw_keys(store)
    plan, report = prune(store, **NO_GRACE, deletions_max=3)
    assert len(report.deleted) == 3
    assert len(raw_keys(store)) == len(raw) - 3
    assert {kept.reason for kept in plan.kept} == {"over this run's budget"}
    prune(store, **NO_GRACE)
    assert raw_keys(store) == set()


def test_a_store_that_answers_deletes_and_keeps_the_objects_is_found_out(tmp_path: Any) -> None:
    class Hoarding(WrappedStore):
        async def delete(self, key: str) -> None:
            await self.inner.head(key)

    store = recorded()
    merge(store, tmp_path)
    plan, report = prune(Hoarding(store), **NO_GRACE)
    assert report.deleted == []
    assert len(report.kept) == len(plan.delete)
    assert {kept.reason for kept in report.kept} == {"the store answered the delete and still has the object"}


# --- what superseded and abandoned attempts left ---------------------------------------------------------------------------------


def test_outputs_go_only_when_a_proof_that_does_not_name_them_took_their_slot(tmp_path: Any) -> None:
    clock = Hours()
    store = recorded(clock)
    raw = copy_of(store)
    log: list[str] = []

    class Dying(WrappedStore):
        async def create(self, key: str, data: bytes) -> None:
            if key.startswith("proof/") and STREAM in key:
                raise Killed
            if key.startswith(("depth/", "arrival/", "snapshot/")):
                log.append(key)
            await super().create(key, data)

    with pytest.raises(Killed):
        asyncio.run(merge_date(merge_run(Dying(store), str(tmp_path)), Market.SPOT, DAY))
    assert log
    # Nobody has taken the slot: the attempt may still be published by a merger that only sleeps.
    clock.now = 10_000
    prune(store)
    assert set(log) <= set(keys_of(store))
    merge(store, tmp_path)
    clock.now += 71
    prune(store)
    assert set(log) <= set(keys_of(store))
    clock.now += 2
    plan, report = prune(store)
    assert {deletion.key for deletion in plan.delete if deletion.why == "abandoned"} == set(log)
    assert set(log) <= set(report.deleted)
    for proof in heads(store).values():
        asyncio.run(verify_published(store, proof))
    merge(raw, tmp_path)
    assert contents(raw) == contents(store)


def test_outputs_of_a_superseded_generation_go_after_the_grace_and_the_proof_stays(tmp_path: Any) -> None:
    clock = Hours()
    store = recorded(clock, tokyo={70}, paris={70})
    merge(store, tmp_path)
    old = {output.key for output in heads(store)["BTCUSDT", STREAM, DAY].outputs}
    put(store, Recorder("late", snapshots=()).seals([Exchange("BTCUSDT")]))
    merge(store, tmp_path)
    clock.now = 1
    prune(store)
    assert old <= set(keys_of(store))
    clock.now = 73
    plan, _ = prune(store)
    assert {deletion.key for deletion in plan.delete if deletion.why == "superseded"} >= old
    assert not old & set(keys_of(store))
    assert any(key.endswith("g0001.json") and f"{STREAM}/date={DAY}" in key for key in generations(store))
    for proof in heads(store).values():
        asyncio.run(verify_published(store, proof))


# --- kills and races -------------------------------------------------------------------------------------------------------------


def test_killed_anywhere_and_repeated_exactly_the_deletable_keys_are_gone(tmp_path: Any) -> None:
    merged = recorded(events=60, segments=2, tokyo={12}, paris={30})
    merge(merged, tmp_path)
    unproven = set(put(merged, Recorder("late", segments=1).seals([Exchange("BTCUSDT", events=60)])))
    proofs = {source.key for proof in heads(merged).values() for source in proof.inputs}
    kept = {key for key in keys_of(merged) if key not in raw_keys(merged) - unproven}
    for step in itertools.count():
        store = copy_of(merged)
        dying = DyingStore(store, step)
        try:
            prune(dying, **NO_GRACE)
        except Killed:
            pass
        else:
            break
        deletes = [number for number, (name, _) in enumerate(dying.log) if name == "delete"]
        receipts = [number for number, (name, key) in enumerate(dying.log) if name == "create" and key.endswith("plan.json")]
        assert not deletes or receipts[0] < deletes[0]
        assert all(key in proofs for name, key in dying.log if name == "delete")
        prune(store, **NO_GRACE)
        assert {key for key in keys_of(store) if not key.startswith(("receipt/", "doctor/"))} == kept, step
    assert step > 60


def test_the_receipts_name_everything_that_is_deleted(tmp_path: Any) -> None:
    store = recorded()
    merge(store, tmp_path)
    raw = raw_keys(store)
    plan, _ = prune(store, **NO_GRACE)
    prefix = f"receipt/v1/{plan.write_id}/"
    receipt = decode(asyncio.run(store.get(f"{prefix}plan.json")), PruneReceipt, where="plan")
    done = decode(asyncio.run(store.get(f"{prefix}done.json")), PruneReport, where="done")
    assert {deletion.key for deletion in receipt.delete} == set(done.deleted) == raw
    proofs = set(generations(store))
    assert all(deletion.proofs and set(deletion.proofs) <= proofs for deletion in receipt.delete)
    assert all(deletion.why == "settled" and len(deletion.sha256) == 64 for deletion in receipt.delete)


def test_a_plan_too_long_for_one_receipt_is_carried_out_with_several(tmp_path: Any, monkeypatch: Any) -> None:
    """An object of a whole market is in a thousand days: one receipt for a night of them would be too large to be read again."""
    store = recorded()
    merge(store, tmp_path)
    raw = raw_keys(store)
    monkeypatch.setattr("twintape.io.prune.RECEIPT_PROOFS_MAX", 5)
    plan, report = prune(store, **NO_GRACE)
    assert set(report.deleted) == raw
    found = [asyncio.run(store.get(key)) for key in keys_of(store, "receipt/") if key.endswith("/plan.json")]
    receipts = [decode(data, PruneReceipt, where="plan") for data in found]
    assert len(receipts) == len({receipt.write_id for receipt in receipts}) > 2
    assert plan.write_id in {receipt.write_id for receipt in receipts}
    assert all(0 < sum(len(one.proofs) for one in receipt.delete) <= 5 or len(receipt.delete) == 1 for receipt in receipts)
    assert sorted(one.key for receipt in receipts for one in receipt.delete) == sorted(raw)
    done = [asyncio.run(store.get(f"receipt/v1/{receipt.write_id}/done.json")) for receipt in receipts]
    assert {key for data in done for key in decode(data, PruneReport, where="done").deleted} == raw


def test_a_prune_beside_merges_never_removes_what_a_head_names_or_nobody_has_settled(tmp_path: Any) -> None:
    clock = Hours()
    for seed in range(12):
        rng = random.Random(seed)
        store = recorded(clock, events=90, segments=3, tokyo={20, 40}, paris={40, 60})
        merge(store, tmp_path, [BEFORE])
        late = Recorder("late", segments=2, tickers=False).seals([Exchange("BTCUSDT", events=90)])

        async def all_at_once(store: MemoryStore = store, rng: random.Random = rng, late: Any = late) -> None:
            slow = DawdlingStore(store, rng)

            async def merging() -> None:
                for date in (DAY, BEHIND, BEFORE, DAY):
                    await merge_date(merge_run(slow, str(tmp_path)), Market.SPOT, date)

            async def pruning() -> None:
                for _ in range(6):
                    run = prune_run(slow, **NO_GRACE)
                    await execute_prune(run, await plan_prune(run, [Market.SPOT]))

            async def arriving() -> None:
                for sealed in late:
                    await slow.create(sealed.key, sealed.data)

            await asyncio.gather(merging(), merging(), pruning(), arriving())

        asyncio.run(all_at_once())
        for proof in heads(store).values():
            asyncio.run(verify_published(store, proof))
        merge(store, tmp_path)
        calm = recorded(events=90, segments=3, tokyo={20, 40}, paris={40, 60})
        put(calm, late)
        merge(calm, tmp_path)
        assert contents(store, tables=("depth",)) == contents(calm, tables=("depth",)), seed
        for proof in heads(store).values():
            asyncio.run(verify_published(store, proof))


def test_streams_whose_names_differ_only_in_case_are_settled_together_or_not_at_all(tmp_path: Any) -> None:
    """Both belong to the days of one symbol; the count of one must not hide the frames of the other."""

    def trade(stream: str, day: str, number: int) -> tuple[int, bytes]:
        at = time_us(f"{day}T12:00:00") + number
        frame = f'{{"stream":"{stream}","data":{{"e":"trade","E":{at // 1000},"s":"BTCUSDT","t":{number},"p":"1.0","q":"2.0","T":{at // 1000}}}}}'
        return at * 1000, frame.encode()

    lines = [trade("btcusdt@trade", DAYS[0], 1), trade("btcusdt@trade", DAYS[0], 2)]
    lines += [trade("BTCUSDT@trade", DAYS[1], 3), trade("BTCUSDT@trade", DAYS[1], 4)]
    link = ChainLink(id="0" * 16, number=0, previous=None, reason="test")
    sealed = seal(
        lines, collector="tokyo", market=Market.SPOT, run="0" * 32, connection=1, sequence=1, chain=link, depth_streams={}
    )
    store = MemoryStore()
    put(store, [sealed])
    merge(store, tmp_path, [DAYS[0]])
    prune(store, **NO_GRACE)
    assert keys_of(store, "raw/") == [sealed.key]
    merge(store, tmp_path, [DAYS[1]])
    prune(store, **NO_GRACE)
    assert keys_of(store, "raw/") == []


def test_an_object_shared_by_two_days_goes_only_if_their_outputs_hold_every_line_of_it(tmp_path: Any) -> None:
    """The counts of two proofs may add up although one settled a frame twice and none settled another: the bytes decide."""
    exchange = Exchange("BTCUSDT")
    store = MemoryStore()
    put(store, Recorder("tokyo").seals([exchange]))
    merge(store, tmp_path)
    run = prune_run(store, **NO_GRACE)
    before = asyncio.run(plan_prune(run, [Market.SPOT]))
    (shared,) = [one for one in before.delete if sum(f"stream={STREAM}" in proof for proof in one.proofs) > 1][:1]
    head = heads(store, Market.SPOT)["BTCUSDT", STREAM, DAYS[1]]
    # The day loses a row, and a proof that knows nothing of it vouches for what is left.
    output = next(output for output in head.outputs if output.table == "depth")
    reader = TableReader(asyncio.run(store.get(output.key)), DEPTH)
    sink = io.BytesIO()
    with TableWriter(DEPTH, sink, templates=reader.templates) as writer:
        for batch in reader:
            writer.write(batch.slice(1))
    data = sink.getvalue()
    asyncio.run(store.delete(output.key))
    asyncio.run(store.create(output.key, data))
    forged = msgspec.structs.replace(output, size=len(data), sha256=digest(data))
    outputs = [forged if one.table == "depth" else one for one in head.outputs]
    proof_key = names.proof_key(Market.SPOT, "BTCUSDT", STREAM, DAYS[1], head.generation)
    asyncio.run(store.delete(proof_key))
    asyncio.run(store.create(proof_key, encode(msgspec.structs.replace(head, outputs=outputs))))
    plan = asyncio.run(plan_prune(run, [Market.SPOT]))
    assert shared.key not in [deletion.key for deletion in plan.delete]
    assert {kept.reason for kept in plan.kept if kept.key == shared.key} == {
        f"BTCUSDT {STREAM}: 1 frames are in no day's outputs"
    }


def test_a_damaged_object_that_two_days_share_stays_and_keeps_no_other_from_going(tmp_path: Any) -> None:
    store = MemoryStore()
    put(store, Recorder("tokyo").seals([Exchange("BTCUSDT")]))
    merge(store, tmp_path)
    before = asyncio.run(plan_prune(prune_run(store, **NO_GRACE), [Market.SPOT]))
    shared = next(one for one in before.delete if sum(f"stream={STREAM}" in proof for proof in one.proofs) > 1)
    data = asyncio.run(store.get(shared.key))
    asyncio.run(store.delete(shared.key))
    index = read_index(data, len(data))
    block = next(found for found in index.streams if found.stream == STREAM).blocks[0]
    asyncio.run(store.create(shared.key, data[: block.offset] + b"damaged!" + data[block.offset + 8 :]))
    plan, _ = prune(store, **NO_GRACE)
    assert raw_keys(store) == {shared.key}
    assert ["it is damaged" in kept.reason for kept in plan.kept if kept.key == shared.key] == [True]
