"""Why a day whose ids cannot tell is not complete: what was not recorded, what was lost, what nobody knows."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from support.store import DAYS, MemoryStore, heads, keys_of, merge, prune, put, time_us
from twintape.core.markets import Market
from twintape.core.segment import ChainLink, Sealed, seal

BEFORE, DAY, BEHIND = DAYS
MINUTE_US = 60_000_000


def ticker(at_us: int, symbol: str = "BTCUSDT") -> tuple[int, bytes]:
    text = (
        f'{{"stream":"{symbol.lower()}@markPrice","data":{{"e":"markPriceUpdate","E":{at_us // 1000},"s":"{symbol}","p":"1.5"}}}}'
    )
    return at_us * 1000, text.encode()


def segments(
    collector: str,
    spans: list[tuple[str, str]],
    *,
    chain: str = "a",
    reason: str = "new spool",
    connection: int = 1,
    symbols: Sequence[str] = ("BTCUSDT",),
) -> list[Sealed]:
    """Return one segment for each span, with a frame a minute."""
    found: list[Sealed] = []
    for number, (begin, end) in enumerate(spans):
        lines = [ticker(at, name) for at in range(time_us(begin), time_us(end) + 1, MINUTE_US) for name in symbols]
        link = ChainLink(
            id=chain * 16, number=number, previous=found[-1].sha256 if found else None, reason=None if number else reason
        )
        found.append(
            seal(
                lines,
                collector=collector,
                market=Market.SPOT,
                run=chain * 32,
                connection=connection,
                sequence=number + 1,
                chain=link,
            )
        )
    return found


EARLY = (f"{BEFORE}T23:50:00", f"{BEFORE}T23:59:00")
WHOLE = [EARLY, (f"{DAY}T00:00:00", f"{DAY}T12:00:00"), (f"{DAY}T12:01:00", f"{BEHIND}T00:10:00")]


def reasons(store: MemoryStore, tmp_path: Any) -> list[str]:
    merge(store, tmp_path, [DAY])
    return heads(store)["BTCUSDT", "markPrice", DAY].reasons


def stored(*lines: list[Sealed]) -> MemoryStore:
    store = MemoryStore()
    for line in lines:
        put(store, line)
    return store


def test_a_day_recorded_from_before_it_to_behind_it_is_complete(tmp_path: Any) -> None:
    assert reasons(stored(segments("tokyo", WHOLE)), tmp_path) == []


def test_a_collector_that_recorded_nothing_before_the_date_leaves_it_partial(tmp_path: Any) -> None:
    store = stored(segments("tokyo", WHOLE[1:]))
    assert reasons(store, tmp_path) == ["nothing of tokyo before the date"]
    assert heads(store)["BTCUSDT", "markPrice", DAY].status == "partial"
    # Whether the raw segments are still there makes no difference.
    merge(store, tmp_path, [BEHIND])
    prune(store, grace_h=-1)
    put(store, segments("paris", WHOLE, chain="b"))
    assert reasons(store, tmp_path) == ["nothing of tokyo before the date"]


def test_a_collector_that_recorded_nothing_behind_the_date_leaves_it_partial(tmp_path: Any) -> None:
    assert reasons(stored(segments("tokyo", [*WHOLE[:2], (WHOLE[2][0], f"{DAY}T23:59:00")])), tmp_path) == [
        "tokyo has not closed the date"
    ]


def test_hours_in_which_nobody_recorded_are_unknown(tmp_path: Any) -> None:
    holed = [EARLY, (WHOLE[1][0], f"{DAY}T09:30:00"), (f"{DAY}T11:00:00", WHOLE[2][1])]
    store = stored(segments("tokyo", holed))
    assert reasons(store, tmp_path) == ["nobody recorded anything for 5400 s of the date, first from 09:30:00"]
    merge(store, tmp_path, [BEFORE, BEHIND])
    prune(store, grace_h=-1)
    # Later generations remember, though the segments around the hole are gone.
    put(store, segments("paris", [(f"{DAY}T13:00:00", f"{DAY}T13:05:00")], chain="b"))
    assert "nobody recorded anything for 5400 s of the date, first from 09:30:00" in reasons(store, tmp_path)


def test_what_other_streams_were_heard_on_meanwhile_says_nothing_about_a_stream(tmp_path: Any) -> None:
    """Of two connections of a collector one was away for an hour and a half; and it came back as another one."""
    up, away = ("BTCUSDT", "ETHUSDT", "SOLUSDT", "BNBUSDT"), ("ADAUSDT", "XRPUSDT", "BNBUSDT")
    before = segments("tokyo", [EARLY, (WHOLE[1][0], f"{DAY}T09:30:00")], chain="b", reason="import", connection=2, symbols=away)
    behind = segments("tokyo", [(f"{DAY}T11:00:00", WHOLE[2][1])], chain="c", reason="import", connection=3, symbols=away[:2])
    store = stored(segments("tokyo", WHOLE, symbols=up), before, behind)
    assert reasons(store, tmp_path) == []
    day = heads(store)
    assert day["ADAUSDT", "markPrice", DAY].reasons == ["nobody recorded anything for 5400 s of the date, first from 09:30:00"]
    assert day["BNBUSDT", "markPrice", DAY].reasons == []


def test_a_quiet_stream_was_carried_by_the_connection_that_took_over(tmp_path: Any) -> None:
    first = segments("tokyo", [EARLY, (WHOLE[1][0], f"{DAY}T12:00:00")], symbols=("BTCUSDT", "ETHUSDT", "QUIETUSDT"))
    second = segments("tokyo", WHOLE[2:], chain="b", reason="import", connection=2, symbols=("BTCUSDT", "ETHUSDT"))
    store = stored(first, second)
    assert reasons(store, tmp_path) == []
    assert heads(store)["QUIETUSDT", "markPrice", DAY].reasons == []


def test_a_stream_with_few_frames_stays_complete_when_segments_without_them_are_gone(tmp_path: Any) -> None:
    spans = [EARLY, (WHOLE[1][0], f"{DAY}T04:00:00"), (f"{DAY}T04:01:00", f"{DAY}T20:00:00"), (f"{DAY}T20:01:00", WHOLE[2][1])]
    other = segments("tokyo", spans)
    rare = (
        ticker(time_us(f"{DAY}T01:00:00"))[0] + 7,
        ticker(0)[1].replace(b"btcusdt", b"rareusdt").replace(b"BTCUSDT", b"RAREUSDT"),
    )
    rare_line = rare[0], rare[1].replace(b'"E":0', b'"E":%d' % (rare[0] // 10**6))
    seen = seal(
        [rare_line],
        collector="tokyo",
        market=Market.SPOT,
        run="a" * 32,
        connection=1,
        sequence=99,
        chain=ChainLink(id="b" * 16, number=0, previous=None, reason="import"),
    )
    store = stored(other, [seen])
    merge(store, tmp_path, [DAY])
    assert heads(store)["RAREUSDT", "markPrice", DAY].reasons == []
    # The other stream's segments go, this one's stays.
    for sealed in other[1:3]:
        asyncio.run(store.delete(sealed.key))
    late = seal(
        [(rare_line[0] + 9, rare_line[1])],
        collector="tokyo",
        market=Market.SPOT,
        run="c" * 32,
        connection=3,
        sequence=1,
        chain=ChainLink(id="c" * 16, number=0, previous=None, reason="import"),
    )
    put(store, [late])
    merge(store, tmp_path, [DAY])
    head = heads(store)["RAREUSDT", "markPrice", DAY]
    assert head.generation == 2
    assert not [reason for reason in head.reasons if "nobody" in reason]


@pytest.mark.parametrize("minutes", [0, 4])
def test_where_another_collector_recorded_or_the_pause_is_short_nothing_is_unknown(tmp_path: Any, minutes: int) -> None:
    holed = [EARLY, (WHOLE[1][0], f"{DAY}T09:30:00"), (f"{DAY}T11:00:00", WHOLE[2][1])]
    helper = [EARLY, (WHOLE[1][0], f"{DAY}T09:40:00"), (f"{DAY}T09:{40 + minutes}:00", WHOLE[2][1])]
    assert reasons(stored(segments("tokyo", holed), segments("paris", helper, chain="b")), tmp_path) == []


@pytest.mark.parametrize("why", ["new spool", "damaged chain record"])
def test_a_new_spool_says_that_the_end_of_the_one_before_is_lost(tmp_path: Any, why: str) -> None:
    first, second = segments("tokyo", WHOLE[:2]), segments("tokyo", WHOLE[2:], chain="b", reason=why)
    lost = ["tokyo began a new spool: what it had not stored of the one before is lost"]
    store = stored(first, second)
    assert reasons(store, tmp_path) == lost
    merge(store, tmp_path, [BEFORE, BEHIND])
    prune(store, grace_h=-1)
    put(store, segments("paris", WHOLE, chain="c"))
    assert reasons(store, tmp_path) == lost


def test_a_spool_that_began_before_and_an_import_lose_nothing(tmp_path: Any) -> None:
    early = segments("tokyo", [(f"{BEFORE}T10:00:00", f"{BEFORE}T11:00:00")], chain="b")
    assert reasons(stored(early, segments("tokyo", WHOLE)), tmp_path) == []
    imported = segments("tokyo", WHOLE[2:], chain="c", reason="import")
    assert reasons(stored(segments("tokyo", WHOLE[:2]), imported), tmp_path) == []


# --- a stream that hardly ever says anything --------------------------------------------------------------------------------------

ORDERS = [
    f"{BEFORE}T23:58:30",
    *(f"{DAY}T{time}" for time in ("03:10:30", "11:45:30", "11:46:30", "19:00:30")),
    f"{BEHIND}T00:03:30",
]
"""When somebody is liquidated."""


def liquidation(at_us: int) -> bytes:
    order = f'{{"s":"BTCUSDT","S":"SELL","o":"LIMIT","f":"IOC","q":"0.014","p":"9910","ap":"9910","X":"FILLED","l":"0.014","z":"0.014","T":{at_us // 1000}}}'
    return f'{{"stream":"btcusdt@forceOrder","data":{{"e":"forceOrder","E":{at_us // 1000},"o":{order}}}}}'.encode()


def lives(collector: str, spans: list[tuple[str, str]], orders: list[str]) -> list[Sealed]:
    """Return a segment for each life of a collector: a frame a minute of a busy stream, and the liquidations it lived to hear."""
    found: list[Sealed] = []
    for number, (begin, end) in enumerate(spans):
        heard = [time_us(at) for at in orders if begin <= at <= end]
        lines = [ticker(at) for at in range(time_us(begin), time_us(end) + 1, MINUTE_US)]
        lines = sorted([*lines, *((at * 1000, liquidation(at)) for at in heard)])
        before = found[-1].sha256 if found else None
        link = ChainLink(
            id=collector.encode().hex()[:2] * 8, number=number, previous=before, reason=None if number else "new spool"
        )
        run = f"{number}" * 32
        found.append(seal(lines, collector=collector, market=Market.USDM, run=run, connection=1, sequence=1, chain=link))
    return found


TOKYO = [(EARLY[0], f"{DAY}T11:40:00"), (f"{DAY}T11:50:00", f"{BEHIND}T00:10:00")]
"""Down for ten minutes at noon, in which two of the day's four liquidations happen."""


@pytest.mark.parametrize(
    ("other", "rows", "reasons"),
    [
        ([(EARLY[0], f"{DAY}T06:00:00"), (f"{DAY}T07:00:00", f"{BEHIND}T00:10:00")], 4, []),
        (
            [(EARLY[0], f"{DAY}T11:35:00"), (f"{DAY}T11:49:00", f"{BEHIND}T00:10:00")],
            2,
            ["540 s of the date, first from 11:40:00"],
        ),
    ],
)
def test_a_handful_of_events_a_day_is_complete_if_somebody_listened_all_day_and_holds_no_raw_data_back(
    tmp_path: Any, other: list[tuple[str, str]], rows: int, reasons: list[str]
) -> None:
    store = stored(lives("tokyo", TOKYO, ORDERS), lives("paris", other, ORDERS))
    merge(store, tmp_path, market=Market.USDM)
    proof = heads(store, Market.USDM)["BTCUSDT", "forceOrder", DAY]
    assert [output.rows for output in proof.outputs if output.table == "force_order"] == [rows]
    assert proof.status == ("partial" if reasons else "complete")
    assert [reason.removeprefix("nobody recorded anything for ") for reason in proof.reasons] == reasons
    prune(store, [Market.USDM], grace_h=-1)
    assert keys_of(store, "raw/") == []
    # And nothing is due again because of it.
    assert not any(outcome.fresh for outcome in merge(store, tmp_path, market=Market.USDM))


def test_a_day_on_which_such_a_stream_says_nothing_holds_no_raw_data_back(tmp_path: Any) -> None:
    quiet = [at for at in ORDERS if not at.startswith(DAY)]
    store = stored(lives("tokyo", TOKYO, quiet), lives("paris", TOKYO, quiet))
    merge(store, tmp_path, market=Market.USDM)
    days = [date for _, stream, date in heads(store, Market.USDM) if stream == "forceOrder"]
    assert days == [BEFORE, BEHIND]
    prune(store, [Market.USDM], grace_h=-1)
    assert keys_of(store, "raw/") == []
