"""obstore and a real store, with a network between them that loses, cuts and spoils."""

import asyncio
import hashlib
import itertools

import pytest

from support.object_stores import Endpoint
from support.proxy import proxy
from support.store import (
    DAYS,
    Exchange,
    Recorder,
    contents,
    copy_of,
    generations,
    heads,
    keys_of,
    merge,
    merge_run,
    prune,
    prune_run,
    put,
)
from twintape.core.errors import AlreadyExistsError, StoreError
from twintape.core.markets import Market
from twintape.io.merge import merge_date
from twintape.io.prune import execute_prune, plan_prune
from twintape.io.store import MemoryStore

BUCKET = "twintape-test"


@pytest.fixture(params=["radosgw", "ministack"])
def wire(request):
    """Yield a proxy before a real store."""
    with proxy(request.getfixturevalue(request.param).url) as before:
        yield before


def store_behind(wire, prefix=None):
    return Endpoint(wire.url, directory=None).store(BUCKET, prefix)


def first(action, method, times=1):
    """Return a rule that does something to the first requests of a kind."""
    left = itertools.repeat(action, times)
    return lambda request: next(left, "pass") if request.method == method else "pass"


def always(action, *methods):
    return lambda request: action if request.method in methods else "pass"


async def test_a_put_whose_answer_is_lost_on_the_wire_is_ours(wire):
    store = store_behind(wire)
    wire.rule = first("lose-answer", "PUT")
    await store.create("k", b"mine")
    assert [action for method, _, action in wire.seen if method == "PUT"] == ["lose-answer", "pass"], (
        "the client tried again by itself"
    )
    assert await store.get("k") == b"mine"


async def test_a_lost_answer_to_a_put_on_somebody_elses_key_is_a_lost_race(wire):
    store = store_behind(wire)
    await store.create("k", b"theirs")
    wire.rule = first("lose-answer", "PUT", times=2)
    with pytest.raises(AlreadyExistsError):
        await store.create("k", b"mine")
    assert await store.get("k") == b"theirs"


@pytest.mark.parametrize("action", ["lose-request", "503", "500"])
async def test_a_put_that_comes_through_in_the_end_is_done_once(wire, action):
    store = store_behind(wire)
    wire.rule = first(action, "PUT", times=2)
    await store.create("k", b"mine")
    assert await store.get("k") == b"mine"


async def test_a_put_about_which_nothing_can_be_learned_is_unknown(wire, monkeypatch):
    monkeypatch.setattr("twintape.io.cloud.RETRIES_MAX", 1)
    store = store_behind(wire)
    wire.rule = always("lose-answer", "PUT", "GET")
    with pytest.raises(StoreError, match="outcome of the put unknown") as caught:
        await store.create("k", b"mine")
    assert caught.value.retryable
    assert not isinstance(caught.value, AlreadyExistsError)
    wire.rule = always("pass")
    await store.create("k", b"mine")


async def test_a_body_that_is_cut_off_is_never_given_out(wire, monkeypatch):
    monkeypatch.setattr("twintape.io.cloud.RETRIES_MAX", 1)
    store = store_behind(wire)
    data = bytes(range(256)) * 1000
    await store.create("k", data)
    wire.rule = first("cut-answer", "GET")
    assert await store.get("k") == data
    wire.rule = always("cut-answer", "GET")
    with pytest.raises(StoreError) as caught:
        await store.get("k")
    assert caught.value.retryable


async def test_a_listing_that_is_cut_off_goes_on(wire):
    store = store_behind(wire)
    for name in "abc":
        await store.create(name, b"")
    wire.rule = first("cut-answer", "GET")
    assert [info.key async for info in store.list("")] == ["a", "b", "c"]
    wire.rule = always("cut-answer", "GET")
    with pytest.raises(StoreError) as caught:
        [info async for info in store.list("")]
    assert caught.value.retryable


async def test_a_delete_whose_answer_is_lost_can_be_repeated(wire):
    store = store_behind(wire)
    await store.create("k", b"x")
    wire.rule = first("lose-answer", "DELETE")
    await store.delete("k")
    assert [info.key async for info in store.list("")] == []
    assert {method for method, _, _ in wire.seen} >= {"DELETE"}, "one key a request"


def unreliable(request):
    """Do something to every sixth request, never the same twice running."""
    actions = ("lose-answer", "503", "lose-request", "500", "cut-answer")
    return actions[request.number // 6 % len(actions)] if request.number % 6 == 0 else "pass"


def test_a_night_over_an_unreliable_wire_makes_the_archive_of_a_quiet_one(wire, tmp_path):
    raw = MemoryStore()
    for name, lost in (("tokyo", 5), ("paris", 6)):
        put(raw, Recorder(name, lost={"BTCUSDT": {lost}}, segments=3, tickers=False).seals([Exchange(events=12)]))
    quiet = copy_of(raw)
    merge(quiet, tmp_path)
    store = store_behind(wire)

    async def night():
        for key in keys:
            await store.create(key, recordings[key])
        for date in DAYS:
            await merge_date(merge_run(store, str(tmp_path), jobs=3), Market.SPOT, date)
        run = prune_run(store, grace_h=-1, gapped_h=-1)
        return await execute_prune(run, await plan_prune(run, [Market.SPOT]))

    keys = keys_of(raw)
    recordings = {key: asyncio.run(raw.get(key)) for key in keys}
    wire.rule = unreliable
    report = asyncio.run(night())
    wire.rule = always("pass")
    assert sum(action != "pass" for _, _, action in wire.seen) > 20
    assert set(report.deleted) | set(report.absent) == set(keys)
    assert keys_of(store, "raw/") == []
    assert contents(store) == contents(quiet)
    assert len(generations(store)) == len(heads(store)), "each day was published once"
    prune(quiet, grace_h=-1, gapped_h=-1)


async def test_wrong_bytes_on_the_wire_are_given_out_and_their_digest_tells(wire):
    store = store_behind(wire)
    data = b"x" * 1000
    await store.create("k", data)
    wire.rule = first("corrupt", "GET")
    spoiled = await store.get("k")
    assert hashlib.sha256(spoiled).digest() != hashlib.sha256(data).digest(), "which is why every reader of ours compares digests"
