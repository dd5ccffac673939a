"""Run real Binance clients, unmodified, against `twintape exchange`, and compare their books with what they must be.

    uv run python tests/peers/run.py                     all cases
    uv run python tests/peers/run.py ccxt cryptofeed     those whose name begins so
    uv run python tests/peers/run.py --list

Each peer gets an environment of its own from `requirements/<peer>.txt`, made once and kept. A case starts an exchange that plays a
recording, and a driver (`drivers/*.py`) that follows one symbol with the peer's own means until the last event; its book must then be,
level by level, the snapshot it was given and every event after it.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import os
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cases import CASES, Case
from expected import Book, book_of, differences, expected_book
from recordings import Played, open_recording

from twintape.core.gateway import FaultKind, GatewayOptions
from twintape.core.markets import RULES
from twintape.io.exchange import ExchangeConfig, SimulatedExchange
from twintape.io.exchange_gateway import Gateway

HERE = Path(__file__).resolve().parent
DRIVER_S_MAX = 120.0
OUTPUT_BYTES_MAX = 64 << 20
LOG_LINES_SHOWN = 15
RETOLD_MAX = 20
"""So many events behind a snapshot may come to a client that does not compare their ids with it."""


@dataclass(frozen=True)
class Outcome:
    """What became of one case."""

    case: Case
    played: str
    seconds: float
    problems: Sequence[str]
    book: Book | None = None
    snapshots: int = 0
    connections: int = 0


def environment(peer: str, cache: Path, python: str) -> Path:
    """Return the interpreter of a peer's environment, which is made if its requirements have changed."""
    requirements = HERE / "requirements" / f"{peer}.txt"
    digest = hashlib.sha256(requirements.read_bytes() + python.encode()).hexdigest()[:12]
    home = cache / f"{peer}-{digest}"
    ready = home / "ready"
    if not ready.is_file():
        print(f"making {home}", flush=True)
        subprocess.run(["uv", "venv", "--quiet", "--clear", "--python", python, home], check=True)
        install = ["uv", "pip", "install", "--quiet", "--python", home / "bin" / "python", "-r", requirements]
        # From elsewhere: within this project uv would hold the peer to the project's own versions.
        subprocess.run(install, check=True, cwd=home)
        ready.touch()
    return home / "bin" / "python"


def make_authority(directory: Path) -> tuple[ssl.SSLContext, Path]:
    """Make a certificate authority and a server's certificate for this machine; return the server's side and the authority's file."""
    (directory / "extensions").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1")
    key = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes"
    for command in (
        f"req -x509 {key} -keyout ca.key -out ca.pem -subj /CN=peers -days 2",
        f"req {key} -keyout server.key -out server.csr -subj /CN=localhost",
        "x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -out server.pem -days 2 -extfile extensions",
    ):
        subprocess.run(["openssl", *command.split()], cwd=directory, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(directory / "server.pem", directory / "server.key")
    return context, directory / "ca.pem"


async def run_case(case: Case, python: Path, *, synthetic: bool, directory: Path) -> Outcome:
    """Play the case's recording to its driver and judge the book that comes back."""
    played = open_recording(case.recording, synthetic=synthetic)
    tls, authority = make_authority(directory) if case.tls else (None, None)
    speed = played.speed * case.pace
    rules = RULES[played.recording.market]
    config = ExchangeConfig(
        [played.source],
        [GatewayOptions()],
        case.faults,
        speed=speed,
        wait_clients=1,
        tls=tls,
        deflate=case.deflate,
        # A minute of the recording is over sooner, and with it the budget: who asks again at every event would ban itself.
        weight_budgets={rules.weight_pool: int(rules.weight_per_minute * max(1.0, speed))},
    )
    started = time.monotonic()
    async with SimulatedExchange(config) as exchange:
        gateway = exchange.gateways[0]
        code, output, log = await drive(case, python, task_of(case, played, gateway), authority, directory)
        problems = [] if code == 0 else [f"the driver ended with {code}", *log[-LOG_LINES_SHOWN:]]
        book = read_book(output) if code == 0 else None
        connections = gateway.accepted_count
    answers = [answer for answer in gateway.desk.depth_answers if answer.symbol == played.symbol]
    if book is not None:
        problems += judge(case, played, book, answers, gateway)
    seconds = time.monotonic() - started
    name = played.recording.capture if played.real else f"synthetic {played.recording.market}"
    return Outcome(case, name, seconds, problems, book, len(answers), connections)


def judge(case: Case, played: Played, book: Book, answers: Sequence, gateway: Gateway) -> list[str]:
    """Return what is wrong with a book, or with the case itself: a fault nobody noticed proves nothing."""
    if not answers:
        return ["no snapshot was asked for"]
    final_update_id = played.track.final_update_id
    found = differences(expected_book(played.track, answers[-1], final_update_id, case.kept, book), book)
    for retold in range(RETOLD_MAX) if found and case.may_retell else ():
        expected = expected_book(played.track, answers[-1], final_update_id, case.kept, book, retold=retold)
        if not differences(expected, book):
            found = []
            break
    if len(answers) < case.snapshots_min:
        found.append(f"{len(answers)} snapshots were asked for: the client was not disturbed")
    if any(fault.kind in (FaultKind.FIN, FaultKind.RST) for fault in case.faults) and gateway.accepted_count < 2:
        found.append("the client did not come back")
    return found


def task_of(case: Case, played: Played, gateway: Gateway) -> Mapping[str, object]:
    """Return what `drivers/task.py` reads."""
    return {
        "market": str(played.recording.market),
        "symbol": played.symbol,
        "base": played.base,
        "quote": played.quote,
        "stream": played.stream,
        "host": f"{'localhost' if case.tls else '127.0.0.1'}:{gateway.port}",
        "secure": case.tls,
        "final_update_id": played.track.final_update_id,
        "seconds": DRIVER_S_MAX,
    }


async def drive(
    case: Case, python: Path, task: Mapping[str, object], authority: Path | None, directory: Path
) -> tuple[int, bytes, list[str]]:
    """Run a driver to its end and return its exit code, what it printed and its log."""
    # Nothing of this environment reaches the peer, in particular no proxy and no PYTHONPATH.
    variables = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "PEER_LOG") if name in os.environ}
    variables |= dict.fromkeys(("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"), str(authority)) if authority is not None else {}
    output, log = directory / "book.json", directory / "driver.log"
    with output.open("wb") as stdout, log.open("wb") as stderr:
        process = await asyncio.create_subprocess_exec(
            python,
            HERE / "drivers" / f"{case.driver}.py",
            json.dumps(task),
            stdout=stdout,
            stderr=stderr,
            env=variables,
            cwd=directory,
        )
        try:
            code = await asyncio.wait_for(process.wait(), DRIVER_S_MAX + 30)
        except TimeoutError:
            process.kill()
            code = await process.wait()
    if "PEER_LOG" in os.environ:
        print(log.read_text(errors="replace"))
    return code, output.read_bytes(), log.read_text(errors="replace").splitlines()


def read_book(output: bytes) -> Book:
    """Read the line a driver ends with; clients may print above it."""
    line = json.loads(output.splitlines()[-1])
    return book_of(line["last_update_id"], line["bids"], line["asks"])


def table(outcomes: Sequence[Outcome], versions: Mapping[str, str]) -> str:
    """Return what happened, a line a case."""
    rows = [("case", "version", "played", "faults", "connections", "snapshots", "levels", "seconds", "verdict")]
    for outcome in outcomes:
        case = outcome.case
        faults = " ".join(f"{fault.kind} {fault.start:g}-{fault.stop:g}" for fault in case.faults) or "-"
        levels = str(outcome.book.size) if outcome.book is not None else "-"
        counts = (str(outcome.connections), str(outcome.snapshots), levels, f"{outcome.seconds:.0f}")
        verdict = "identical" if not outcome.problems else "DIFFERENT" if outcome.book is not None else "FAILED"
        rows.append((case.name, versions[case.name], outcome.played, faults, *counts, verdict))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)


def version_of(case: Case) -> str:
    """Return the pinned version of the package a case is about."""
    pins = dict(
        line.split("==") for line in (HERE / "requirements" / f"{case.peer}.txt").read_text().splitlines() if "==" in line
    )
    return pins[case.package]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="beginnings of case names; all without")
    parser.add_argument("--list", action="store_true", help="name the cases and stop")
    parser.add_argument("--synthetic", action="store_true", help="play made-up markets even where the recordings are")
    parser.add_argument("--python", default=sys.executable, help="interpreter of the peers' environments")
    default = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "twintape" / "peers"
    parser.add_argument("--cache", type=Path, default=default, help="where the environments are kept (%(default)s)")
    options = parser.parse_args()
    chosen = [case for case in CASES if not options.names or case.name.startswith(tuple(options.names))]
    if options.list or not chosen:
        print("\n".join(f"{case.name}: {case.about}" for case in CASES))
        return 0 if options.list else 2
    outcomes = []
    for case in chosen:
        try:
            python = environment(case.peer, options.cache, options.python)
            with tempfile.TemporaryDirectory(prefix="twintape-peer-") as directory:
                outcome = asyncio.run(run_case(case, python, synthetic=options.synthetic, directory=Path(directory)))
        except (OSError, subprocess.CalledProcessError) as error:
            outcome = Outcome(case, "-", 0.0, [f"no environment: {error}"])
        print(f"{case.name}: {chr(10).join(outcome.problems) or 'identical'} ({outcome.seconds:.0f} s)", flush=True)
        outcomes.append(outcome)
    print("\n" + table(outcomes, {case.name: version_of(case) for case in chosen}))
    return 1 if any(outcome.problems for outcome in outcomes) else 0


if __name__ == "__main__":
    raise SystemExit(main())
