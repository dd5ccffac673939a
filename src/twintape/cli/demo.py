"""`twintape demo`: the whole system on one machine, without the internet, in under two minutes."""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Annotated, Any

import typer

from twintape.cli.common import FINDINGS, size_text, table

__all__ = ["demo"]

MARKER = ".twintape-demo"
SYMBOLS = ("BTCUSDT", "ETHUSDT")
DATES = ("2025-03-03", "2025-03-04", "2025-03-05")
"""The made-up exchange plays 26 hours, so that the day in the middle is whole."""
MESSAGES = 60_000
KILL_AT, RESTART_AT = 0.25, 0.40
"""When tokyo is killed and started again, in parts of the tape; paris loses its connection later, so that one of them always hears."""
OUTAGE = "fin:1:0.55-0.70"
PLAY_TIMEOUT_S = 90.0
STOP_TIMEOUT_S = 30.0
POLL_S = 0.1


def demo(
    directory: Annotated[Path, typer.Option(help="Where everything goes; a demo that is there already is replaced.")] = Path(
        "twintape-demo"
    ),
    seed: Annotated[int, typer.Option(help="Of the made-up exchange.")] = 7,
) -> None:
    """Two collectors record a made-up exchange, one is killed, the other is cut off; the night merges, proves and prunes.

    Ends by printing what each line had, what only the union had, the proof, the bytes saved, and the book, compared with the exchange's own.
    """
    _prepare(directory)
    began = time.monotonic()
    with _exchange(directory, seed) as gateways:
        _record(directory, gateways)
        raw_bytes = _size(directory / "store")
        _night(directory)
        matches = _compare(directory, gateways[0]["rest"])
    _sum_up(directory, raw_bytes, time.monotonic() - began)
    if not matches:
        raise SystemExit(FINDINGS)


def _prepare(directory: Path) -> None:
    from twintape.core.errors import RefusedError

    if directory.exists() and any(directory.iterdir()):
        if not (directory / MARKER).is_file():
            raise RefusedError(f"{directory} is not empty and was not made by a demo", hint="name another with --directory")
        shutil.rmtree(directory)
    directory.mkdir(parents=True, exist_ok=True)
    (directory / MARKER).touch()


def _say(text: str) -> None:
    print(f"\n\x1b[1m▶ {text}\x1b[0m" if sys.stdout.isatty() else f"\n> {text}", flush=True)


def _command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "twintape", *arguments]


@contextlib.contextmanager
def _running(arguments: list[str], log: IO[bytes], **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    """Run a process, and end it with the block."""
    process = subprocess.Popen(arguments, stderr=log, **options)  # noqa: S603 - our own program
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@contextlib.contextmanager
def _exchange(directory: Path, seed: int) -> Iterator[list[dict[str, str]]]:
    from twintape.core.errors import TwintapeError

    _say(f"an exchange with two front-ends plays 26 hours of {' and '.join(SYMBOLS)}, 3,600 times as fast")
    arguments = _command(
        *("exchange", "--market", "spot", "--synthetic", str(seed), "--symbols", str(len(SYMBOLS)), "--gateways", "2"),
        *("--events-per-second", "0.4", "--messages", str(MESSAGES), "--speed", "3600", "--start", f"{DATES[0]}T22:40:00"),
        *("--wait-clients", "2", "--fault", OUTAGE),
    )
    with (directory / "exchange.log").open("wb") as log, _running(arguments, log, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise TwintapeError("the exchange did not start", hint=f"see {log.name}")
        yield json.loads(line)["gateways"]


def _status(rest: str) -> dict[str, Any]:
    with urllib.request.urlopen(f"{rest}/twintape/status", timeout=10) as answer:  # noqa: S310 - loopback
        return dict(json.load(answer))


def _wait(rest: str, position: float) -> None:
    from twintape.core.errors import TwintapeError

    deadline = time.monotonic() + PLAY_TIMEOUT_S
    while time.monotonic() < deadline:
        status = _status(rest)
        if status["position"] >= position or status["ended"]:
            return
        time.sleep(POLL_S)
    raise TwintapeError(f"the exchange did not reach {position:.0%} of its tape within {PLAY_TIMEOUT_S:.0f} s")


def _record(directory: Path, gateways: list[dict[str, str]]) -> None:
    _say("two collectors record it: tokyo and paris, who know nothing of each other")
    rest = gateways[0]["rest"]
    with contextlib.ExitStack() as stack:
        collectors = {
            name: stack.enter_context(_collector(directory, name, gateway))
            for name, gateway in zip(("tokyo", "paris"), gateways, strict=True)
        }
        _wait(rest, KILL_AT)
        _say(f"at {KILL_AT:.0%}: SIGKILL tokyo")
        collectors["tokyo"].send_signal(signal.SIGKILL)
        collectors["tokyo"].wait()
        _wait(rest, RESTART_AT)
        _say(f"at {RESTART_AT:.0%}: tokyo is started again, recovers its spool and goes on")
        collectors["tokyo"] = stack.enter_context(_collector(directory, "tokyo", gateways[0]))
        _wait(rest, 0.55)
        _say("from 55% to 70%: paris is cut off by its front-end")
        _wait(rest, 1.0)
        time.sleep(1)
        _say("the tape is over: SIGTERM, both seal and upload what is left")
        for process in collectors.values():
            process.terminate()
        for process in collectors.values():
            process.wait(STOP_TIMEOUT_S)


@contextlib.contextmanager
def _collector(directory: Path, name: str, gateway: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    arguments = _command(
        *("record", *SYMBOLS, "--market", "spot", "--collector", name, "--store", str(directory / "store")),
        *("--spool", str(directory / f"spool-{name}"), "--websocket", gateway["spot"], "--rest", gateway["rest"]),
    )
    with (directory / f"{name}.log").open("ab") as log, _running(arguments, log, stdout=subprocess.DEVNULL) as process:
        yield process


def _run(directory: Path, *arguments: str) -> None:
    """Run one of our commands and show it; findings are no failure of the demo."""
    from twintape.core.errors import TwintapeError

    shown = ["twintape", *arguments, "--store", str(directory / "store")]
    print(f"$ {' '.join(shown)}", flush=True)
    code = subprocess.run(_command(*shown[1:]), check=False).returncode  # noqa: S603 - our own program
    if code not in (0, FINDINGS):
        raise TwintapeError(f"twintape {arguments[0]} ended with exit code {code}")


def _night(directory: Path) -> None:
    _say("the night: merge what both heard, prove it, publish it")
    for date in DATES:
        _run(directory, "merge", "--date", date)
    _say("the proof of the whole day: tokyo missed hours, paris missed others, nothing is missing")
    print("(the day is made up and played in fast motion: its event times are far from the times of receipt)", flush=True)
    for symbol in SYMBOLS:
        _run(directory, "proof", "--symbol", symbol, "--date", DATES[1])
    _say("only now may raw data go (a real night waits 72 hours)")
    _run(directory, "prune", "--grace", "0s", "--execute")


def _compare(directory: Path, rest: str) -> bool:
    """Compare the archive's last book with what the exchange itself answers."""
    from twintape.io.archive import Archive
    from twintape.io.store import open_store

    _say("the book at the end, from the archive, beside the exchange's own answer")
    archive = Archive(open_store(str(directory / "store"), create=False))
    rows: list[list[object]] = []
    same = True
    for symbol in SYMBOLS:
        with urllib.request.urlopen(f"{rest}/api/v3/depth?symbol={symbol}&limit=5000", timeout=10) as answer:  # noqa: S310 - loopback
            theirs = json.load(answer)
        ours = archive.book("spot", symbol, "end")
        equal = all(
            [(f"{p:.8f}", f"{q:.8f}") for p, q in mine[: len(other)]] == [tuple(level) for level in other]
            for mine, other in ((ours.bids, theirs["bids"]), (ours.asks, theirs["asks"]))
        )
        same = same and equal and ours.update_id == theirs["lastUpdateId"]
        verdict = "identical" if equal and ours.update_id == theirs["lastUpdateId"] else "DIFFERENT"
        best = f"{ours.bids[0][0]:f} / {ours.asks[0][0]:f}"
        rows.append([symbol, ours.update_id, theirs["lastUpdateId"], len(ours.bids), len(ours.asks), best, verdict])
    table(
        ["symbol", "our id", "their id", "bids", "asks", "best bid / ask", "verdict"],
        rows,
        right=("our id", "their id", "bids", "asks"),
    )
    return same


def _sum_up(directory: Path, raw_bytes: int, seconds: float) -> None:
    left = _size(directory / "store")
    _say("what it cost")
    print(f"raw recordings {size_text(raw_bytes)} → everything in the store now {size_text(left)}")
    print(f"{seconds:.0f} seconds; look around: twintape ls --store {directory / 'store'}")


def _size(path: Path) -> int:
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
