import asyncio
from pathlib import Path
from typing import Any

import pytest

from twintape.columns.report import Report
from twintape.core.client import Client
from twintape.core.errors import ConfigError, StoreError
from twintape.core.gateway import FaultKind, GatewayOptions, Partition
from twintape.core.lineup import Row, Verdict
from twintape.core.markets import Market
from twintape.core.synthetic import SyntheticConfig, SyntheticSource
from twintape.io import listening as module
from twintape.io.clock import SystemClock
from twintape.io.comparison import Scratch, compare_lines, recorded_lines
from twintape.io.dialer import PicowsDialer
from twintape.io.exchange import MAX_SPEED, ExchangeConfig, SimulatedExchange
from twintape.io.listening import Listening


def source_of(market: Market, count: int) -> SyntheticSource:
    config = SyntheticConfig(
        market,
        5,
        symbols_count=2,
        events_per_second=18.0,
        messages_count=count,
        levels=40,
        book_tickers=False,
        trades=False,
        depth_streams=("depth@100ms", "depth@500ms") if market is not Market.SPOT else ("depth@100ms", "depth"),
    )
    return SyntheticSource(config)


async def listened(
    root: Path, market: Market, *gateways: GatewayOptions, speed: float = MAX_SPEED, count: int = 500, **more: Any
) -> tuple[Report, list[tuple[str, Row]], Listening]:
    source = source_of(market, count)
    rows: list[tuple[str, Row]] = []
    config = ExchangeConfig(sources=[source], gateways=gateways, speed=speed, wait_clients=len(gateways))
    async with SimulatedExchange(config) as exchange:
        given = more.pop("clients", [{} for _ in gateways])
        clients = [
            Client(chr(97 + number), gateway.websocket_base(market), **extra)
            for number, (gateway, extra) in enumerate(zip(exchange.gateways, given, strict=True))
        ]
        listening = Listening(
            clients,
            [info.symbol for info in source.symbols],
            stream="depth@100ms",
            market=market,
            dialers=[PicowsDialer() for _ in clients],
            clock=SystemClock(),
            scratch=Scratch(root),
            tell=lambda symbol, row: rows.append((symbol, row)),
            save=more.pop("save", None),
        )
        run = asyncio.create_task(listening.run(None))
        for after_s, number in more.pop("cuts", []):
            await asyncio.sleep(after_s)
            exchange.inject(FaultKind.FIN, number, 0.3)
        await exchange.wait_ended()
        await asyncio.sleep(0.1)
        run.cancel()
        await asyncio.gather(run, return_exceptions=True)
    lines = listening.lines()
    return compare_lines(lines, "1.0", by_symbol=listening.mixed), rows, listening


@pytest.mark.parametrize("market", [Market.SPOT, Market.USDM])
@pytest.mark.parametrize(
    ("partition", "findings"),
    [
        (Partition.IDENTICAL, []),
        (Partition.SPLIT, ["recut"]),
        (Partition.SHIFTED, ["shifted"]),
        (Partition.NET, ["omitted", "shifted"]),
        (Partition.CONFLICT, ["conflict"]),
    ],
)
async def test_what_a_gateway_does_is_named(tmp_path: Path, market: Market, partition: Partition, findings: list[str]) -> None:
    other = GatewayOptions(partition=partition, partition_rate=0.1, seed=6)
    report, rows, _ = await listened(tmp_path, market, GatewayOptions(), other)
    assert report.totals[0].findings == findings
    assert report.totals[0].windows > 200
    # One event in ten is wrong; or cut in two, or, as often, so that the next one is another as well.
    injected = {Partition.CONFLICT: ("book", 0.1), Partition.SPLIT: ("windows_and_levels", 0.15)}
    if partition in injected:
        level, rate = injected[partition]
        assert report.totals[0].levels[level].low < rate < report.totals[0].levels[level].high
    verdicts = {row.verdict for _, row in rows}
    expected = {
        Partition.IDENTICAL: {Verdict.SAME},
        Partition.CONFLICT: {Verdict.SAME, Verdict.CONTENT},
        Partition.SPLIT: {Verdict.SAME, Verdict.CUT},
    }
    assert verdicts == expected.get(partition, verdicts)
    assert report.mode == "live"


@pytest.mark.parametrize("market", [Market.SPOT, Market.USDM])
async def test_each_connections_own_e_is_named(tmp_path: Path, market: Market) -> None:
    stamped = [GatewayOptions(event_time_jitter_us=900, seed=seed) for seed in (1, 2)]
    report, rows, _ = await listened(tmp_path, market, *stamped)
    assert report.totals[0].findings == ["restamped"]
    # Of two that add up to 0.9 ms to a time somewhere in its millisecond, three in ten end in different ones.
    assert report.totals[0].levels["bytes"].low < 0.3 < report.totals[0].levels["bytes"].high
    assert report.totals[0].levels["bytes_without_event_time"].count == 0
    assert {row.verdict for _, row in rows} == {Verdict.SAME, Verdict.EVENT_TIME}


async def test_a_client_that_is_cut_off_comes_back_and_its_hole_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RETRY_FIRST_S", 0.1)
    report, _, listening = await listened(
        tmp_path, Market.SPOT, GatewayOptions(), GatewayOptions(), GatewayOptions(), speed=10, cuts=[(0.5, 1)]
    )
    assert [state.connections for state in listening.states] == [1, 2, 1]
    assert listening.states[1].reason
    by_pair = {(total.a, total.b): total for total in report.totals}
    assert by_pair["a", "c"].findings == []
    assert by_pair["a", "b"].findings == ["missing"]
    assert by_pair["a", "b"].missing_in_b > 0
    for stream in report.streams:
        assert stream.redundancy is not None
        assert [line.outages_count for line in stream.redundancy.lines] == [0, 1, 0]
        assert stream.redundancy.joint == []


async def test_speeds_differ_and_other_streams_share_the_connection(tmp_path: Path) -> None:
    report, _, listening = await listened(
        tmp_path,
        Market.SPOT,
        GatewayOptions(),
        GatewayOptions(),
        clients=[{}, {"stream": "depth", "also": ("btcusdt@depth@100ms",)}],
    )
    assert listening.mixed
    assert [stream.stream for stream in report.streams] == ["any speed", "any speed"]
    assert report.totals[0].findings[0] == "shifted"
    assert report.totals[0].levels["book"].count == 0
    assert "1 other streams" in report.lines[1].source


async def test_what_was_heard_is_saved_as_recordings(tmp_path: Path) -> None:
    save, again = tmp_path / "saved", tmp_path / "again"
    save.mkdir()
    again.mkdir()
    report, _, _ = await listened(tmp_path, Market.USDM, GatewayOptions(), GatewayOptions(), save=save)
    tapes = [(name, save / f"{name}.txt") for name in "ab"]
    second = compare_lines(recorded_lines(tapes, Market.USDM, Scratch(again), symbols=[], stream=None), "1.0")
    assert [total.levels for total in second.totals] == [total.levels for total in report.totals]


def listening_of(clients: list[Client], root: Path) -> Listening:
    return Listening(
        clients,
        ["BTCUSDT"],
        stream="depth@100ms",
        market=Market.SPOT,
        dialers=[PicowsDialer() for _ in clients],
        clock=SystemClock(),
        scratch=Scratch(root),
        tell=lambda _symbol, _row: None,
    )


async def test_an_address_nobody_answers_at_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RETRY_FIRST_S", 0.01)
    clients = [Client(name, "ws://127.0.0.1:1") for name in "ab"]
    with pytest.raises(StoreError, match="cannot connect to ws://127"):
        await listening_of(clients, tmp_path).run(20)


@pytest.mark.parametrize("names", ["a", "aa"])
async def test_a_comparison_needs_two_clients_of_different_names(tmp_path: Path, names: str) -> None:
    with pytest.raises(ConfigError, match="two clients"):
        listening_of([Client(name) for name in names], tmp_path)


async def test_lines_that_cannot_be_text_are_not_compared_and_end_nothing(tmp_path: Path) -> None:
    listening = listening_of([Client("a"), Client("b")], tmp_path)
    for payload in (b"<html>", b'{"result":null,"id":1}', b'{"stream":"btcusdt@depth@100ms","data":{}}', b"a\nb"):
        listening.take(0, payload)
    assert listening.states[0].frames == 1
    assert listening.lineups["BTCUSDT"].flush() == []
