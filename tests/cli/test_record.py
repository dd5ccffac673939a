import os
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from support import processes
from twintape.cli import app
from twintape.core.markets import Market
from twintape.core.settings import MarketSettings, RecordSettings
from twintape.io.disk import PosixDisk


@pytest.fixture
def invoke(monkeypatch):
    """Call the command without recording anything; returns the settings it would record with."""
    seen = {}

    async def pretend(settings, *, acknowledge_fd, duration_s):
        seen.update(settings=settings, acknowledge_fd=acknowledge_fd, duration_s=duration_s)

    monkeypatch.setattr(sys.modules["twintape.cli.record"], "_record", pretend)

    def call(*words):
        seen.clear()
        result = CliRunner().invoke(app, ["record", *words])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return seen, result

    return call


def test_symbols_and_options_become_settings(invoke):
    seen, _ = invoke(
        *["btcusdt", "币安人生USDT", "--market", "usdm", "--collector", "tokyo", "--store", "s3://b/p", "--spool", "/var/spool"],
        *["--stream", "depth@100ms", "--stream", "trade", "--websocket", "ws://127.0.0.1:1", "--rest", "http://127.0.0.1:1"],
        *["--acknowledge-fd", "7", "--duration", "5", "--metrics-port", "9000"],
    )
    settings = seen["settings"]
    assert (settings.collector, settings.store, settings.spool, settings.metrics_port) == (
        "tokyo",
        "s3://b/p",
        "/var/spool",
        9000,
    )
    (market,) = settings.markets
    assert market.stream_names() == ["btcusdt@depth@100ms", "btcusdt@trade", "币安人生usdt@depth@100ms", "币安人生usdt@trade"]
    assert (market.market, market.websocket, market.rest) == ("usdm", "ws://127.0.0.1:1", "http://127.0.0.1:1")
    assert (seen["acknowledge_fd"], seen["duration_s"]) == (7, 5.0)


def test_a_symbol_alone_is_enough(invoke):
    settings = invoke("BTCUSDT")[0]["settings"]
    assert (settings.store, settings.spool) == ("./twintape-store", "./twintape-spool")
    assert settings.markets[0].stream_names() == ["btcusdt@depth@100ms"]
    assert settings.collector


def test_options_win_over_the_file_and_the_file_over_the_defaults(invoke, tmp_path):
    (tmp_path / "c.toml").write_text('collector = "paris"\nspool = "/a"\nuploads = 2\n', encoding="utf-8")
    settings = invoke("BTCUSDT", "--config", str(tmp_path / "c.toml"), "--spool", "/b")[0]["settings"]
    assert (settings.collector, settings.spool, settings.uploads) == ("paris", "/b", 2)


def test_a_file_may_name_the_markets(invoke, tmp_path):
    text = '[[markets]]\nmarket = "coinm"\nsymbols = ["BTCUSD_PERP"]\n'
    (tmp_path / "c.toml").write_text(text, encoding="utf-8")
    assert invoke("--config", str(tmp_path / "c.toml"))[0]["settings"].markets[0].stream_names() == ["btcusd_perp@depth@100ms"]
    _, result = invoke("BTCUSDT", "--config", str(tmp_path / "c.toml"))
    assert (result.exit_code, "both here and in the configuration" in result.stderr) == (2, True)


@pytest.mark.parametrize(
    "words",
    [
        *([symbol] for symbol in ("BTC USDT", "", "A/B", "A\x00B", "A" * 65)),
        [],
        ["BTCUSDT", "--market", "forex"],
        ["BTCUSDT", "--collector", "X"],
        ["BTCUSDT", "--stream", "depth 100"],
        ["BTCUSDT", "--websocket", "http://x"],
        ["BTCUSDT", "--config", "/nowhere/x.toml"],
    ],
)
def test_what_cannot_be_recorded_is_refused_before_anything_is_touched(invoke, words):
    seen, result = invoke(*words)
    assert (seen, result.exit_code) == ({}, 2)
    assert result.stderr.startswith("twintape: ")


def test_a_second_process_on_the_same_spool_is_refused_with_exit_code_3(tmp_path):
    disk = PosixDisk(tmp_path / "spool")
    assert disk.lock("lock")
    words = ["record", "BTCUSDT", "--collector", "tokyo", "--spool", tmp_path / "spool", "--store", tmp_path / "store"]
    done = subprocess.run(processes.command(*words), capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 3
    assert "another process holds this spool" in done.stderr
    assert sorted(disk.list()) == ["lock"]


def test_a_wrong_option_is_a_usage_error(invoke):
    assert invoke("BTCUSDT", "--duration", "-1")[1].exit_code == 2
    assert invoke("BTCUSDT", "--no-such-option")[1].exit_code == 2


def test_reports_of_writes_go_to_the_file_descriptor_a_line_each(tmp_path):
    read_fd, write_fd = os.pipe()
    report = sys.modules["twintape.cli.record"]._acknowledge(write_fd)
    report("written", "spot/active/a-1-1.tape", 12)
    report("synced", "spot/active/a-1-1.tape", 12)
    os.close(write_fd)
    with os.fdopen(read_fd, "rb") as reader:
        assert reader.read() == b"written spot/active/a-1-1.tape 12\nsynced spot/active/a-1-1.tape 12\n"
    assert sys.modules["twintape.cli.record"]._acknowledge(None) is None


@pytest.mark.parametrize(
    ("websocket", "shared"),
    [(None, True), ("wss://stream.example:9443", True), ("ws://127.0.0.1:8000", False), ("ws://[::1]:1", False)],
)
def test_attempts_are_counted_with_others_only_where_they_leave_the_machine(websocket, shared):
    settings = RecordSettings(collector="a", markets=(MarketSettings(market=Market.SPOT, symbols=("A",), websocket=websocket),))
    assert sys.modules["twintape.cli.record"]._leaves_the_machine(settings) is shared
