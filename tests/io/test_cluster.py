"""Many machines, one archive: a Ray cluster whose worker is killed, and merges that meet in one store."""

import asyncio
import itertools
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from support.store import DAYS, DawdlingStore, Exchange, Recorder, contents, copy_of, generations, keys_of, merge, merge_run, put
from twintape.core.markets import Market
from twintape.io.merge import merge_date, merge_share
from twintape.io.store import FileStore, MemoryStore

DAY = DAYS[1]
SYMBOLS = ("BTCUSDT", "ETHUSDT", "SOLUSDT", "XRPUSDT")
START_MAX_S = 60
STOP_MAX_S = 3
WORKER = b"ray::_merge_share"


def recorded() -> MemoryStore:
    """Return a store in which each symbol was recorded by two collectors of its own."""
    store = MemoryStore()
    for number, symbol in enumerate(SYMBOLS):
        exchange = Exchange(symbol, Market.SPOT, seed=number)
        for name in ("paris", "tokyo"):
            lost = {symbol: {30 + number} if name == "tokyo" else {90}}
            put(store, Recorder(f"{name}{number}", lost=lost, snapshots=(0, 100)).seals([exchange]))
    return store


def on_disk(store: MemoryStore, root: Path) -> FileStore:
    written = FileStore(root)
    for key in keys_of(store):
        asyncio.run(written.create(key, asyncio.run(store.get(key))))
    return written


# --- a cluster ----------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cluster():
    """Start a Ray cluster of two processors; yields its address, which Ray does not let be loopback."""
    pytest.importorskip("ray")
    root = tempfile.mkdtemp(prefix="tt-ray-")  # short: Ray puts sockets there, whose paths may have 107 bytes
    command = [str(Path(sys.executable).parent / "ray"), "start", "--head", "--block", "--port=0", "--num-cpus=2"]
    command += [
        "--node-ip-address=127.0.0.1",
        "--include-dashboard=false",
        "--object-store-memory=80000000",
        f"--temp-dir={root}",
    ]
    log = Path(root) / "start.log"
    with log.open("wb") as out:
        head = subprocess.Popen([*command, "--disable-usage-stats"], stdout=out, stderr=out, start_new_session=True)
    try:
        yield address_in(log, head)
    finally:
        os.killpg(head.pid, signal.SIGTERM)
        try:
            head.wait(STOP_MAX_S)
        except subprocess.TimeoutExpired:
            os.killpg(head.pid, signal.SIGKILL)
            head.wait()
        shutil.rmtree(root, ignore_errors=True)


def address_in(log: Path, head: subprocess.Popen) -> str:
    give_up = time.monotonic() + START_MAX_S
    while time.monotonic() < give_up and head.poll() is None:
        found = re.search(rb"--address='([\d.]+:\d+)'", log.read_bytes())
        if found:
            return found[1].decode()
        time.sleep(0.2)
    raise AssertionError(log.read_text())


def workers_busy() -> list[int]:
    """Return the processes of the cluster that merge a share now."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                command = (entry / "cmdline").read_bytes()
            except OSError:
                continue  # it ended while we looked
            if command.startswith(WORKER):
                found.append(int(entry.name))
    return found


def test_a_cluster_whose_worker_is_killed_makes_the_same_archive(tmp_path, cluster):
    raw = recorded()
    local = copy_of(raw)
    merge(local, tmp_path, [DAY])
    store = on_disk(raw, tmp_path / "store")
    command = [sys.executable, "-m", "twintape", "merge", "--date", DAY, "--market", "spot", "--store", store.url]
    run = subprocess.Popen(
        [*command, "--engine", "ray", "--address", cluster], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    killed = 0
    while run.poll() is None and not killed:
        for worker in workers_busy()[:1]:
            os.kill(worker, signal.SIGKILL)
            killed += 1
        time.sleep(0.01)
    out, err = run.communicate(timeout=120)
    assert killed == 1
    assert run.returncode == 0, out + err
    assert all(symbol in out for symbol in SYMBOLS)
    assert contents(store) == contents(local)
    assert all("/g0001.json" in key for key in generations(store))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--engine", "ray", "--address", "127.0.0.1:1"], "ray start --head"),
        (["--address", "127.0.0.1:1"], "--engine ray"),
        (["--engine", "spark"], "local, ray"),
    ],
)
def test_what_cannot_be_reached_or_is_not_there_is_said_in_one_line_with_what_to_do(tmp_path, options, said):
    pytest.importorskip("ray")
    store = FileStore(tmp_path)
    command = [sys.executable, "-m", "twintape", "merge", "--date", DAY, "--store", store.url, *options]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert run.returncode == 2, run.stderr
    assert run.stderr.count("\n") == 1
    assert said in run.stderr


# --- several machines, one store ----------------------------------------------------------------------------------------------------


def test_merges_that_meet_in_one_store_share_the_work_and_prove_each_day_once(tmp_path):
    raw = recorded()
    alone = copy_of(raw)
    merge(alone, tmp_path, [DAY])
    shared = copy_of(raw)
    runs = [merge_run(DawdlingStore(shared, random.Random(seed)), str(tmp_path)) for seed in range(2)]
    # Each begins elsewhere in the list of days.
    for run, place in zip(runs, ("0", "6"), strict=True):
        run.draw_id = iter_ids(place)

    async def both():
        return await asyncio.gather(*(merge_date(run, Market.SPOT, DAY) for run in runs))

    one, other = asyncio.run(both())
    assert contents(shared) == contents(alone)
    assert all("/g0001.json" in key for key in generations(shared))
    fresh = [{(outcome.symbol, outcome.stream) for outcome in outcomes if outcome.fresh} for outcomes in (one, other)]
    assert not fresh[0] & fresh[1]
    assert fresh[0] | fresh[1] == {(outcome.symbol, outcome.stream) for outcome in one}
    assert fresh[0]
    assert fresh[1]
    assert [outcome.status for outcome in one] == [outcome.status for outcome in other]


def iter_ids(place: str):
    """Return a source of ids whose first two, for the shares and for the days of one, say where to begin."""
    numbers = itertools.count(1)
    first = [place, place]
    return lambda: first.pop() if first else f"{int(place):04x}{next(numbers):012x}"


def test_what_another_machine_proves_between_survey_and_merge_costs_no_fetch(tmp_path):
    store = recorded()
    rival = merge_run(store, str(tmp_path))
    run = merge_run(store, str(tmp_path))

    async def rival_first(batch, parts):
        await merge_date(rival, Market.SPOT, DAY)
        fetched.clear()
        outcomes = [
            await merge_share(run, batch.share("raw"), share, limit=asyncio.Semaphore(1), tell=done.append) for share in parts
        ]
        return [outcome for found in outcomes for outcome in found]

    fetched, done = [], []
    original = store.get

    async def get(key):
        fetched.append(key)
        return await original(key)

    store.get = get
    run.spread = rival_first
    outcomes = asyncio.run(merge_date(run, Market.SPOT, DAY))
    assert [outcome.fresh for outcome in outcomes] == [False] * len(outcomes)
    assert len(done) == len(outcomes)
    assert fetched
    assert not any(key.startswith("raw/") for key in fetched)
