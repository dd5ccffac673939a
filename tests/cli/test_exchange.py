import json
import signal
import subprocess
import sys
import urllib.request

import pytest
from typer.testing import CliRunner

from twintape.cli import app

TAPE = b"""1700000000000000000 {"lastUpdateId":1,"bids":[["1.0","1"]],"asks":[]}
1700000000010000000 {"stream":"xusdt@depth@100ms","data":{"e":"depthUpdate","E":1,"s":"XUSDT","U":2,"u":3,"b":[["1.0","2"]],"a":[]}}
"""


@pytest.fixture
def run(tmp_path):
    (tmp_path / "tape").write_bytes(TAPE)
    processes = []

    def start(*arguments):
        command = [sys.executable, "-c", "from twintape.cli import main; main()", "exchange", *arguments]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path)
        processes.append(process)
        return process

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def get(url):
    with urllib.request.urlopen(url, timeout=10) as answer:
        return json.load(answer)


def test_it_says_where_it_listens_plays_and_stops_when_told(run):
    process = run(
        "--market", "spot", "--tape", "tape", "--market", "usdm", "--synthetic", "3", "--messages", "50", "--speed", "max"
    )
    error = process.communicate(timeout=30)[1]
    assert process.returncode != 0  # of two markets, the tape must say which it is
    assert "spot:FILE" in error

    arguments = ["--tape", "spot:tape", "--market", "usdm", "--synthetic", "3", "--messages", "50", "--speed", "max"]
    process = run(*arguments, "--gateways", "2", "--gateway", "partition=split,rate=0.5", "--start", "2026-11-20T23:59:58Z")
    listening = json.loads(process.stdout.readline())
    assert listening["event"] == "listening"
    first, second = listening["gateways"]
    assert first["spot"] == f"ws://127.0.0.1:{first['port']}/spot"
    assert get(first["rest"] + "/api/v3/depth?symbol=XUSDT")["bids"]
    assert get(second["rest"] + "/fapi/v1/depth?symbol=BTCUSDT")["E"] // 86_400_000 == 1_795_219_198_000 // 86_400_000
    assert get(second["rest"] + "/twintape/status")["total"] == 51
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=10) == 0


def test_it_ends_with_the_tape_if_so_told(run):
    process = run("--market", "spot", "--tape", "tape", "--exit-at-end", "--speed", "max")
    output, error = process.communicate(timeout=30)
    assert (process.returncode, error) == (0, "")
    assert len(output.splitlines()) == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ["--market", "spot"],
        [],
        ["--tape", "spot:missing"],
        ["--tape", "spot:tape", "--speed", "0"],
        ["--tape", "spot:tape", "--speed", "fast"],
        ["--tape", "spot:tape", "--fault", "nonsense"],
        ["--tape", "spot:tape", "--certificate", "missing"],
        ["--market", "spot", "--synthetic", "1", "--start", "yesterday"],
    ],
)
def test_what_makes_no_sense_is_refused_in_words(tmp_path, monkeypatch, arguments):
    (tmp_path / "tape").write_bytes(TAPE)
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["exchange", *arguments], catch_exceptions=False)
    assert done.exit_code == 2
    assert done.stderr.startswith("twintape: ")
    assert done.stderr.count("\n") == 1
