import asyncio
from typing import Any

from support.store import DAYS, Exchange, MemoryStore, Recorder, merge, put, time_us
from twintape.core.markets import Market
from twintape.io.nightly import due_dates

BEFORE, DAY, BEHIND = DAYS
EARLY_NS = time_us("2026-03-01T12:00:00") * 1000
"""Long before any date waits no more."""


def due(store: MemoryStore, now: str | None = None, market: Market = Market.SPOT, collectors: tuple[str, ...] = ()) -> list[str]:
    now_ns = EARLY_NS if now is None else time_us(now) * 1000
    return asyncio.run(due_dates(store, market, now_ns, collectors=collectors))


def recording(name: str, *, until: int = 180, since: int = 0, market: Market = Market.SPOT) -> Any:
    lost = set(range(180)) - set(range(since, until))
    return Recorder(name, lost={"BTCUSDT": lost}, snapshots=()).seals([Exchange("BTCUSDT", market)])


def test_nothing_recorded_is_nothing_due() -> None:
    assert due(MemoryStore(), "2030-01-01T00:00:00") == []


def test_a_date_is_due_when_its_collectors_have_recorded_behind_its_midnight() -> None:
    store = MemoryStore()
    put(store, recording("tokyo"))
    assert due(store) == [BEFORE, DAY]
    put(store, recording("paris", until=100))
    assert due(store) == [BEFORE]


def test_a_day_after_its_midnight_a_date_waits_for_nobody() -> None:
    store = MemoryStore()
    put(store, recording("tokyo"))
    put(store, recording("paris", until=100))
    assert due(store, "2026-03-03T23:59:59") == [BEFORE]
    assert due(store, "2026-03-04T00:00:00") == [BEFORE, DAY]
    assert due(store, "2026-03-05T00:00:00") == [BEFORE, DAY, BEHIND]


def test_collectors_of_the_configuration_are_waited_for_even_if_nothing_is_there(tmp_path: Any) -> None:
    store = MemoryStore()
    put(store, recording("tokyo"))
    assert due(store, collectors=("tokyo", "silent")) == []
    assert due(store, collectors=("tokyo",)) == [BEFORE, DAY]
    merge(store, tmp_path)
    assert due(store, collectors=("tokyo", "silent")) == []


def test_collectors_of_last_weeks_proofs_are_waited_for(tmp_path: Any) -> None:
    store = MemoryStore()
    put(store, recording("tokyo"))
    put(store, recording("paris", until=25))
    merge(store, tmp_path, [BEFORE])
    assert due(store) == []
    put(store, recording("paris", since=25))
    assert due(store) == [BEFORE, DAY]


def test_markets_are_apart() -> None:
    store = MemoryStore()
    put(store, recording("tokyo", market=Market.USDM))
    asyncio.run(store.create("raw/v1/readme", b""))
    assert due(store) == []
    assert due(store, market=Market.USDM) == [BEFORE, DAY]
