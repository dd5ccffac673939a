import hashlib

import pytest

from twintape.core.errors import AlreadyExistsError, CorruptionError, NotFoundError, StoreError
from twintape.io.shelf import SealedFile
from twintape.io.store import MemoryStore
from twintape.io.upload import ATTEMPTS_MAX, DELAY_S_MAX, upload_one

DATA = b"sealed bytes"
KEY = "raw/v1/tokyo/spot/2026-11-22/09/00000001-1-1-00112233aabbccdd.tape.zst"
SEALED = SealedFile("spot/sealed/x", KEY, len(DATA), hashlib.sha256(DATA).hexdigest())


class FaultyStore(MemoryStore):
    """A store whose calls fail, or lie, as they are told, in order."""

    def __init__(self, *, create=(), get=()):
        super().__init__()
        self.faults = {"create": list(create), "get": list(get)}
        self.calls = []

    def fault(self, name):
        self.calls.append(name)
        fault = self.faults[name].pop(0) if self.faults[name] else None
        if isinstance(fault, Exception):
            raise fault
        return fault

    async def create(self, key, data):
        if self.fault("create") != "forget":
            await super().create(key, data)

    async def get(self, key):
        lie = self.fault("get")
        return await super().get(key) if lie is None else lie


class Pauses:
    def __init__(self):
        self.seconds = []

    async def __call__(self, seconds):
        self.seconds.append(seconds)


async def upload(store, *, data=DATA, draw=lambda: 0.0, attempts=ATTEMPTS_MAX):
    pauses = Pauses()

    async def read(path):
        assert path == SEALED.path
        return data

    try:
        await upload_one(store, SEALED, read=read, sleep=pauses, draw=draw, attempts=attempts)
    finally:
        store.pauses = pauses.seconds


AWAY = StoreError("away", retryable=True)


async def test_it_returns_when_the_store_has_given_the_same_bytes_back():
    store = FaultyStore()
    await upload(store)
    assert store.calls == ["create", "get"]
    assert await store.get(KEY) == DATA
    assert store.pauses == []


@pytest.mark.parametrize(
    "faults",
    [
        {"create": [AWAY]},
        {"get": [AWAY]},
        {"get": [b""]},
        {"get": [DATA[:-1] + b"?"]},
        {"create": ["forget"]},
        {"get": [NotFoundError("not yet")]},
    ],
)
async def test_a_failure_or_a_wrong_answer_is_tried_again(faults):
    store = FaultyStore(**faults)
    await upload(store)
    assert store.pauses == [0.5]
    assert await store.get(KEY) == DATA


async def test_pauses_double_to_a_limit_and_are_shortened_by_chance():
    store = FaultyStore(create=[AWAY] * 9)
    await upload(store, attempts=10)
    assert store.pauses == [0.5, 1, 2, 4, 8, 16, DELAY_S_MAX, DELAY_S_MAX, DELAY_S_MAX]
    store = FaultyStore(create=[AWAY] * 2)
    await upload(store, draw=lambda: 0.999)
    assert store.pauses == pytest.approx([0.25, 0.5], rel=0.01)


async def test_after_the_last_attempt_the_failure_is_the_callers():
    store = FaultyStore(create=[AWAY] * 99)
    with pytest.raises(StoreError, match="away"):
        await upload(store)
    assert store.calls == ["create"] * ATTEMPTS_MAX
    assert len(store.pauses) == ATTEMPTS_MAX - 1


async def test_a_store_that_never_gives_the_bytes_back_has_not_confirmed_them():
    store = FaultyStore(get=[b"other bytes "] * 99)
    with pytest.raises(StoreError, match="not the 12 put"):
        await upload(store)


async def test_what_trying_again_does_not_help_is_not_tried_again():
    store = FaultyStore(create=[StoreError("refused")])
    with pytest.raises(StoreError, match="refused"):
        await upload(store)
    assert store.calls == ["create"]


async def test_another_object_under_the_key_is_reported_at_once():
    store = FaultyStore()
    await MemoryStore.create(store, KEY, b"other")
    with pytest.raises(AlreadyExistsError):
        await upload(store)
    assert store.calls == ["create"]


@pytest.mark.parametrize("data", [b"", DATA + b"x", DATA[:-1] + b"?"])
async def test_a_damaged_local_file_is_never_uploaded(data):
    store = FaultyStore()
    with pytest.raises(CorruptionError):
        await upload(store, data=data)
    assert store.calls == []
