import asyncio
import itertools
import json

import pytest

from support.processes import call
from support.store import DAYS, STREAM, Exchange, FixedClock, Recorder, contents, copy_of, heads, keys_of, merge, prune, put
from support.virtual import VirtualClock
from twintape.core.errors import CorruptionError, RefusedError
from twintape.core.manifest import Acceptance
from twintape.core.markets import Market
from twintape.io.accept import accept_day
from twintape.io.catalog import list_heads
from twintape.io.faults import Fault, Faults, FaultyStore
from twintape.io.store import FileStore, MemoryStore
from twintape.io.verify import verify_published

DAY = DAYS[1]
WORD = Acceptance(by="ann", reason="the second collector had a broken clock")


def conflicted(tmp_path, store=None):
    """Return a store with a day on which two collectors say different things."""
    store = store or MemoryStore()
    put(store, Recorder("tokyo", tickers=False).seals([Exchange()]))
    liar = Exchange()
    object.__setattr__(liar.events[80], "asks", ((10005, 1),))
    put(store, Recorder("untrue", tickers=False).seals([liar]))
    merge(store, tmp_path)
    assert heads(store)["BTCUSDT", STREAM, DAY].status == "conflicted"
    return store


def accept(store, symbol="BTCUSDT", stream=STREAM, date=DAY):
    head = asyncio.run(list_heads(store, Market.SPOT))[symbol, stream, date]
    numbers = itertools.count(1)
    accepting = accept_day(store, head, WORD, clock=FixedClock(), draw_id=lambda: f"{next(numbers):016x}", version="test")
    return asyncio.run(accepting)


def test_an_accepted_day_is_a_generation_of_the_same_outputs_and_lets_its_raw_data_go(tmp_path):
    store = conflicted(tmp_path)
    disputed = set(keys_of(store, "raw/"))
    before, parent = contents(store), heads(store)["BTCUSDT", STREAM, DAY]
    prune(store, grace_h=-1, gapped_h=-1)
    kept = set(keys_of(store, "raw/"))
    assert kept
    assert kept < disputed
    key = accept(store)
    assert key.endswith("g0002.json")
    accepted = heads(store)["BTCUSDT", STREAM, DAY]
    assert (accepted.acceptance, accepted.status) == (WORD, "conflicted")
    assert (accepted.outputs, accepted.inputs, accepted.parent.generation) == (parent.outputs, parent.inputs, 1)
    prune(store, grace_h=-1, gapped_h=-1)
    assert keys_of(store, "raw/") == []
    assert contents(store) == before
    for proof in heads(store).values():
        asyncio.run(verify_published(store, proof))
    assert [outcome.fresh for outcome in merge(store, tmp_path)].count(True) == 0


def test_the_grace_of_an_accepted_day_begins_with_its_acceptance_and_is_the_long_one(tmp_path):
    hours = [0]
    store = conflicted(tmp_path, MemoryStore(wall_ns=lambda: hours[0] * 3_600_000_000_000))
    hours[0] = 1000
    accept(store)
    hours[0] += 14 * 24 - 1
    plan, _ = prune(store)
    assert all("grace: 1.0 h left" in kept.reason for kept in plan.kept if "raw/" in kept.key)
    hours[0] += 1
    assert keys_of(store, "raw/")
    prune(store)
    assert keys_of(store, "raw/") == []


def test_a_day_that_nothing_holds_back_or_that_changed_meanwhile_is_not_accepted(tmp_path):
    store = conflicted(tmp_path)
    with pytest.raises(RefusedError, match="needs no acceptance"):
        accept(store, date=DAYS[0])
    head = asyncio.run(list_heads(store, Market.SPOT))["BTCUSDT", STREAM, DAY]
    accept(store)
    with pytest.raises(RefusedError, match="published meanwhile"):
        asyncio.run(accept_day(store, head, WORD, clock=FixedClock(), draw_id=lambda: "f" * 16, version="test"))
    with pytest.raises(RefusedError, match="needs no acceptance"):
        accept(store)


def test_a_day_whose_outputs_are_damaged_is_not_accepted(tmp_path):
    store = conflicted(tmp_path)
    output = heads(store)["BTCUSDT", STREAM, DAY].outputs[0]
    data = asyncio.run(store.get(output.key))
    asyncio.run(store.delete(output.key))
    asyncio.run(store.create(output.key, data[:-1] + b"x"))
    with pytest.raises(CorruptionError):
        accept(store)


def test_an_acceptance_whose_answer_was_lost_is_an_acceptance(tmp_path):
    store = conflicted(tmp_path)
    faults = Faults(rates={Fault.LOST: 1.0}, where=lambda operation, key: operation == "create")
    accept(FaultyStore(store, clock=VirtualClock(), faults=faults))
    assert heads(store)["BTCUSDT", STREAM, DAY].acceptance == WORD


def test_late_raw_data_of_an_accepted_day_needs_an_acceptance_of_its_own(tmp_path):
    store = conflicted(tmp_path)
    accept(store)
    prune(store, grace_h=-1, gapped_h=-1)
    late = put(store, Recorder("late", tickers=False).seals([Exchange()]))
    merge(store, tmp_path)
    head = heads(store)["BTCUSDT", STREAM, DAY]
    assert (head.generation, head.status, head.acceptance) == (3, "conflicted", None)
    prune(store, grace_h=-1, gapped_h=-1)
    assert set(keys_of(store, "raw/")) < set(late)
    assert keys_of(store, "raw/") != []


def test_raw_data_beside_an_unreadable_object_stays_until_somebody_accepts_that(tmp_path):
    clean = MemoryStore()
    keys = put(clean, Recorder("tokyo", tickers=False, segments=9).seals([Exchange()]))
    store = copy_of(clean)
    broken = next(key for key in keys if f"/{DAY}/11/" in key)
    data = asyncio.run(store.get(broken))
    asyncio.run(store.delete(broken))
    asyncio.run(store.create(broken, data[:-5] + b"12345"))
    merge(store, tmp_path)
    assert heads(store)["BTCUSDT", STREAM, DAY].unreadable
    plan, _ = prune(store, grace_h=-1, gapped_h=-1)
    reasons = {kept.reason for kept in plan.kept}
    assert any("may lack 1 unreadable raw objects, and is not accepted" in reason for reason in reasons), reasons
    for day, proof in heads(store).items():
        if proof.unreadable:
            accept(store, *day)
    prune(store, grace_h=-1, gapped_h=-1)
    assert keys_of(store, "raw/") == [broken], "what cannot be read is never deleted"


def test_the_command_accepts_what_a_date_holds_back_and_says_so(tmp_path):
    store = FileStore(tmp_path / "store")
    conflicted(tmp_path, store)
    arguments = ("accept", "--date", DAY, "--reason", "seen", "--by", "ann", "--store", tmp_path / "store")
    assert json.loads(call(*arguments, "--symbol", "ETHUSDT", "--json")) == []
    printed = call(*arguments)
    assert "g0002.json" in printed
    assert heads(store)["BTCUSDT", STREAM, DAY].acceptance == Acceptance(by="ann", reason="seen")
    assert call(*arguments) == "nothing there needs acceptance\n"
