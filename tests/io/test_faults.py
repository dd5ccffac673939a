import contextlib

import pytest

from support.virtual import SECOND_NS, VirtualClock
from twintape.core.errors import AlreadyExistsError, NotFoundError, StoreError
from twintape.io.faults import FAULTS_OF, Fault, Faults, FaultyStore
from twintape.io.store import MemoryStore

HOUR_NS = 3600 * SECOND_NS


@pytest.fixture
def inner():
    return MemoryStore()


@pytest.fixture
def clock():
    return VirtualClock()


def faulty(inner, clock, *planned, **options):
    """Return a store whose n-th request meets the n-th of the faults; None is none."""
    schedule = {number: fault for number, fault in enumerate(planned, 1) if fault is not None}
    return FaultyStore(inner, clock=clock, faults=Faults(schedule=schedule, late_s=(3600.0, 3600.0)), **options)


async def keys(store, prefix=""):
    return [info.key async for info in store.list(prefix)]


async def test_without_faults_everything_is_passed_on(inner, clock):
    store = faulty(inner, clock)
    await store.create("a/k", b"0123")
    assert await store.get("a/k") == await inner.get("a/k") == b"0123"
    assert await store.get_range("a/k", -2, 2) == b"23"
    assert await store.head("a/k") == await inner.head("a/k")
    assert await keys(store, "a/") == ["a/k"]
    await store.delete("a/k")
    assert await keys(inner) == []
    assert (store.requests, list(store.log), store.url) == (6, [], inner.url)
    assert repr(store) == "FaultyStore(MemoryStore('memory://'))"


@pytest.mark.parametrize("fault", [Fault.UNAVAILABLE, Fault.SLOW_DOWN, Fault.TIMEOUT, Fault.OUTAGE])
async def test_a_put_that_fails_before_its_effect_leaves_nothing_and_is_unknown(inner, clock, fault):
    store = faulty(inner, clock, fault)
    with pytest.raises(StoreError, match="outcome of the put unknown") as caught:
        await store.create("k", b"x")
    assert caught.value.retryable
    assert await keys(inner) == []
    assert [(incident.number, incident.operation, incident.fault) for incident in store.log][:1] == [(1, "create", fault)]


@pytest.mark.parametrize("fault", [Fault.LOST, Fault.ECHO])
async def test_a_put_whose_answer_is_lost_has_happened_and_reading_back_finds_it(inner, clock, fault):
    store = faulty(inner, clock, fault)
    await store.create("k", b"x")
    assert await inner.get("k") == b"x"
    assert store.requests == 2


@pytest.mark.parametrize("fault", [Fault.LOST, Fault.ECHO])
async def test_when_the_reading_back_fails_too_the_outcome_is_unknown(inner, clock, fault):
    store = faulty(inner, clock, fault, Fault.TIMEOUT)
    with pytest.raises(StoreError, match="outcome of the put unknown") as caught:
        await store.create("k", b"x")
    assert caught.value.retryable
    assert not isinstance(caught.value, AlreadyExistsError)


async def test_a_conflict_without_an_object_is_unknown_and_not_a_lost_race(inner, clock):
    with pytest.raises(StoreError, match="outcome of the put unknown") as caught:
        await faulty(inner, clock, Fault.CONFLICT).create("k", b"x")
    assert caught.value.retryable


async def test_somebody_elses_object_is_a_lost_race_whatever_the_answer(inner, clock):
    await inner.create("k", b"theirs")
    for fault in (None, Fault.TIMEOUT, Fault.LATE, Fault.CONFLICT):
        with pytest.raises(AlreadyExistsError):
            await faulty(inner, clock, fault).create("k", b"mine")


async def test_a_late_put_lands_hours_later_and_never_replaces_what_is_there_by_then(inner, clock):
    store = faulty(inner, clock, Fault.LATE, None, Fault.LATE)
    for key in ("free", "taken"):
        with pytest.raises(StoreError, match="unknown"):
            await store.create(key, b"late")
    await inner.create("taken", b"theirs")
    clock.now_ns = HOUR_NS - 1
    assert await store.land() == 0
    assert store.next_landing_ns == HOUR_NS
    clock.now_ns = HOUR_NS
    assert await keys(store) == ["free", "taken"], "the next request lets it land"
    assert await inner.get("taken") == b"theirs"
    assert store.next_landing_ns is None


async def test_a_late_delete_can_be_made_to_land_at_once(inner, clock):
    await inner.create("k", b"x")
    store = faulty(inner, clock, Fault.LATE)
    with pytest.raises(StoreError):
        await store.delete("k")
    assert await inner.get("k") == b"x"
    assert await store.land(all_of_them=True) == 1
    with pytest.raises(NotFoundError):
        await inner.get("k")


async def test_a_deleted_object_comes_back(inner, clock):
    await inner.create("k", b"x")
    store = faulty(inner, clock, Fault.RESURRECTED)
    await store.delete("k")
    assert await keys(store) == []
    clock.now_ns = HOUR_NS
    assert await store.get("k") == b"x"


async def test_a_delete_is_answered_and_ignored(inner, clock):
    await inner.create("k", b"x")
    await faulty(inner, clock, Fault.IGNORED).delete("k")
    assert await inner.get("k") == b"x"
    await faulty(inner, clock, Fault.IGNORED).delete("never")


async def test_bodies_are_cut_short_or_differ_by_one_bit(inner, clock):
    data = bytes(range(256))
    await inner.create("k", data)
    await inner.create("empty", b"")
    store = faulty(inner, clock, Fault.TRUNCATED, Fault.CORRUPT, Fault.CORRUPT, Fault.TRUNCATED)
    short = await store.get("k")
    assert len(short) < 256
    assert data.startswith(short)
    found = await store.get_range("k", 10, 20)
    assert sum((a ^ b).bit_count() for a, b in zip(found, data[10:30], strict=True)) == 1
    assert await store.get("empty") == b"\0"
    assert await store.get("empty") == b""


async def test_a_put_can_be_damaged_on_its_way_and_answered(inner, clock):
    await faulty(inner, clock, Fault.DAMAGED).create("k", b"abcd")
    assert (found := await inner.get("k")) != b"abcd"
    assert len(found) == 4


async def test_listings_leave_out_repeat_and_show_what_is_gone(inner, clock):
    for number in range(100):
        await inner.create(f"p/{number:02d}", b"")
    everything = await keys(inner)
    store = faulty(inner, clock, Fault.OMITTED, Fault.REPEATED, None, Fault.GHOSTS)
    assert set(await keys(store)) < set(everything)
    repeated = await keys(store)
    assert len(repeated) > len(everything)
    assert set(repeated) == set(everything)
    await store.delete("p/50")
    assert sorted(await keys(store, "p/")) == everything
    assert await keys(store, "p/5") == [key for key in everything if key.startswith("p/5") and key != "p/50"]


async def test_ended_credentials_and_an_outage_last(inner, clock):
    await inner.create("k", b"x")
    store = faulty(inner, clock, Fault.EXPIRED)
    for at_s in (0, 899):
        clock.now_ns = at_s * SECOND_NS
        with pytest.raises(StoreError, match="ExpiredToken") as caught:
            await store.get("k")
        assert not caught.value.retryable
    clock.now_ns = 900 * SECOND_NS
    assert await store.get("k") == b"x"
    store.faults = Faults(schedule={4: Fault.OUTAGE})
    for _ in range(2):
        with pytest.raises(StoreError, match="connection refused") as caught:
            await store.get("k")
        assert caught.value.retryable
    clock.now_ns += HOUR_NS
    assert await store.get("k") == b"x"
    assert [incident.fault for incident in store.log] == [Fault.EXPIRED, Fault.EXPIRED, Fault.OUTAGE, Fault.OUTAGE]


async def test_a_request_is_repeated_as_often_as_its_client_would(inner, clock):
    store = faulty(inner, clock, Fault.SLOW_DOWN, Fault.LOST, Fault.TIMEOUT, attempts=4)
    await store.create("k", b"x")
    assert await inner.get("k") == b"x"
    assert store.requests == 4
    with pytest.raises(NotFoundError):
        await store.get("nothing")
    assert store.requests == 5, "an answer is not asked for again"


async def test_silence_takes_as_long_as_the_client_waits(inner):
    class Slept(VirtualClock):
        async def sleep(self, seconds):
            self.now_ns += int(seconds * SECOND_NS)

    clock = Slept()
    store = FaultyStore(inner, clock=clock, faults=Faults(schedule={1: Fault.TIMEOUT, 2: Fault.SLOW_DOWN}, wait_s=60))
    for expected_s in (60, 60):
        with pytest.raises(StoreError):
            await store.get("k")
        assert clock.now_ns == expected_s * SECOND_NS, "503 is an answer"


async def test_the_same_seed_does_the_same():
    async def run(seed):
        clock = VirtualClock()
        store = FaultyStore(MemoryStore(), clock=clock, seed=seed, faults=Faults(rates=dict.fromkeys(Fault, 0.05)))
        for number in range(300):
            key = f"k{number % 50}"
            for request in (store.create(key, b"x"), store.get(key), store.delete(key), keys(store)):
                with contextlib.suppress(StoreError):
                    await request
                clock.now_ns += 10 * SECOND_NS
        return list(store.log)

    first = await run(1)
    assert first == await run(1)
    assert first != await run(2)


async def test_rates_are_kept_and_only_where_they_are_meant(inner, clock):
    rates = {Fault.TIMEOUT: 0.2, Fault.CORRUPT: 0.1}
    faults = Faults(rates=rates, where=lambda operation, key: operation == "get" and key.startswith("raw/"))
    store = FaultyStore(inner, clock=clock, faults=faults)
    await store.create("raw/k", b"x")
    await store.create("k", b"x")
    for _ in range(2000):
        await store.get("k")
        try:
            await store.get("raw/k")
        except StoreError:
            continue
    counts = {fault: sum(incident.fault is fault for incident in store.log) for fault in Fault}
    assert 320 < counts[Fault.TIMEOUT] < 480
    assert 150 < counts[Fault.CORRUPT] < 250
    assert sum(counts.values()) == counts[Fault.TIMEOUT] + counts[Fault.CORRUPT]


async def test_a_fault_that_does_not_suit_a_request_does_nothing_to_it(inner, clock):
    assert set().union(*FAULTS_OF.values()) == set(Fault)
    store = faulty(inner, clock, Fault.OMITTED, Fault.DAMAGED)
    await store.create("k", b"x")
    assert await store.get("k") == b"x"
