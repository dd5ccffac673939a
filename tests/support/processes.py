"""Real processes of ours: the exchange, collectors, and commands, as a user starts them."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

WAIT_S = 60.0
QUIET_S = 1.5
"""A spool that has not changed for so long holds what its collector has heard: lines are written ten times a second."""


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "twintape", *map(str, arguments)]


def run(*arguments: str | Path, expect: int | tuple[int, ...] = 0, cwd: Path | None = None) -> str:
    """Run a command to its end and return what it printed."""
    done = subprocess.run(command(*arguments), capture_output=True, text=True, timeout=300, check=False, cwd=cwd)
    wanted = (expect,) if isinstance(expect, int) else expect
    assert done.returncode in wanted, f"{arguments} ended with {done.returncode}: {done.stderr[-2000:]}"
    return done.stdout


def call(*arguments: str | Path, expect: int | tuple[int, ...] = 0) -> str:
    """Run a command inside this process, which saves starting one, and return what it printed."""
    from typer.testing import CliRunner

    from twintape.cli import app

    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    wanted = (expect,) if isinstance(expect, int) else expect
    assert done.exit_code in wanted, f"{arguments} ended with {done.exit_code}: {done.output[-2000:]} {done.exception!r}"
    return done.stdout


class Exchange:
    """A running `twintape exchange`."""

    def __init__(self, process: subprocess.Popen[bytes], gateways: list[dict[str, str]]) -> None:
        self.process = process
        self.gateways = gateways

    def status(self) -> dict:
        with urllib.request.urlopen(f"{self.gateways[0]['rest']}/twintape/status", timeout=WAIT_S) as answer:
            return json.load(answer)

    def go_on(self) -> None:
        request = urllib.request.Request(f"{self.gateways[0]['rest']}/twintape/start", data=b"", method="POST")
        with urllib.request.urlopen(request, timeout=WAIT_S) as answer:
            assert answer.status == 200, answer.read()

    def inject(self, kind: str, gateway: int, *, seconds: float) -> None:
        body = json.dumps({"kind": kind, "gateway": gateway, "seconds": seconds}).encode()
        request = urllib.request.Request(f"{self.gateways[0]['rest']}/twintape/fault", data=body, method="POST")
        with urllib.request.urlopen(request, timeout=WAIT_S) as answer:
            assert answer.status == 200, answer.read()

    def wait(self, condition) -> dict:
        deadline = time.monotonic() + WAIT_S
        while time.monotonic() < deadline:
            status = self.status()
            if condition(status):
                return status
            time.sleep(0.05)
        raise AssertionError(f"the exchange did not come so far: {self.status()}")

    def wait_position(self, position: float) -> dict:
        return self.wait(lambda status: status["position"] >= position or status["ended"])

    def wait_holding(self) -> dict:
        return self.wait(lambda status: status["holding"])

    def wait_connected(self, gateway: int) -> dict:
        return self.wait(lambda status: status["gateways"][gateway]["subscribed"] > 0 or status["ended"])


@contextlib.contextmanager
def exchange(log: Path, *arguments: str | Path) -> Iterator[Exchange]:
    with log.open("wb") as stderr:
        process = subprocess.Popen(command("exchange", *arguments), stdout=subprocess.PIPE, stderr=stderr)
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line, log.read_text()
            yield Exchange(process, json.loads(line)["gateways"])
        finally:
            process.terminate()
            process.wait(WAIT_S)
            process.stdout.close()


class Collector:
    """A running `twintape record` that can be killed and started again."""

    def __init__(
        self, root: Path, name: str, market: str, gateway: dict[str, str], symbols: list[str], streams: list[str]
    ) -> None:
        options = [part for stream in streams for part in ("--stream", stream)]
        self.arguments = [
            *("record", *symbols, "--market", market, "--collector", name, "--store", str(root / "store")),
            *("--spool", str(root / f"spool-{name}"), "--websocket", gateway[market], "--rest", gateway["rest"], *options),
        ]
        self.log = root / f"{name}.log"
        self._spool = root / f"spool-{name}"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self.log.open("ab") as stderr:
            self.process = subprocess.Popen(
                command(*self.arguments), stdout=subprocess.DEVNULL, stderr=stderr, env=dict(os.environ)
            )

    def wait_written(self) -> None:
        """Wait until it has written what it has heard; the exchange is holding."""
        deadline = time.monotonic() + WAIT_S
        before: dict[Path, int] | None = None
        since = time.monotonic()
        while time.monotonic() - since < QUIET_S:
            assert time.monotonic() < deadline, f"{self._spool} does not come to rest"
            time.sleep(0.1)
            now: dict[Path, int] = {}
            for path in self._spool.rglob("*.tape"):
                with contextlib.suppress(FileNotFoundError):  # it has just been sealed
                    now[path] = path.stat().st_size
            if now != before:
                before, since = now, time.monotonic()

    def kill(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(WAIT_S)

    def stop(self) -> None:
        assert self.process is not None
        self.process.terminate()
        assert self.process.wait(60) == 0, self.log.read_text()[-3000:]

    def end(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait(WAIT_S)
