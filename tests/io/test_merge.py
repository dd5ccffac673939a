import asyncio
import hashlib
import itertools
import os
import random
import signal
import subprocess
import sys
import time
from typing import Any

import pytest

from support.store import (
    DAYS,
    STREAM,
    DawdlingStore,
    DyingStore,
    Exchange,
    Killed,
    Recorder,
    WrappedStore,
    contents,
    copy_of,
    generations,
    heads,
    keys_of,
    merge,
    merge_run,
    prune,
    put,
    time_us,
)
from twintape.core import wire
from twintape.core.errors import CorruptionError, RefusedError
from twintape.core.manifest import Proof, Status, encode
from twintape.core.markets import Market
from twintape.core.segment import ChainLink, seal
from twintape.io.archive import Archive
from twintape.io.executor import PoolExecutor
from twintape.io.merge import merge_date
from twintape.io.store import FileStore, MemoryStore
from twintape.io.verify import verify_published

BEFORE, DAY, BEHIND = DAYS
NO_GRACE = {"grace_h": -1, "gapped_h": -1}


@pytest.fixture(params=[Market.SPOT, Market.USDM])
def market(request: pytest.FixtureRequest) -> Market:
    return request.param


def midnight_position(exchange: Exchange, date: str = DAY) -> int:
    """Return the position of the date's first event."""
    return exchange.position_at(time_us(f"{date}T00:00:00") - 1) + 1


def small(market: Market = Market.SPOT, **lost: set[int]) -> MemoryStore:
    """Return a store with one symbol as two lines heard it."""
    exchange = Exchange("BTCUSDT", market)
    store = MemoryStore()
    for name in ("paris", "tokyo"):
        put(store, Recorder(name, lost={"BTCUSDT": lost.get(name, set())}, snapshots=(0, 100)).seals([exchange]))
    return store


def depth_head(store: Any, date: str = DAY, market: Market = Market.SPOT, symbol: str = "BTCUSDT") -> Proof:
    return heads(store, market)[symbol, STREAM, date]


def mutated(store: MemoryStore, key: str, data: bytes) -> None:
    """Replace an object behind everybody's back."""
    asyncio.run(store.delete(key))
    asyncio.run(store.create(key, data))


# --- what a merge says -----------------------------------------------------------------------------------------------------------


def test_two_lines_with_different_holes_make_one_complete_day(tmp_path: Any, market: Market) -> None:
    exchange = Exchange("BTCUSDT", market)
    middle = midnight_position(exchange)
    store = small(market, tokyo={3, 60, 61, middle}, paris={90, middle + 1})
    outcomes = merge(store, tmp_path, market=market)
    assert all(outcome.fresh and outcome.generation == 1 for outcome in outcomes)
    proofs = heads(store, market)
    before, day, behind = (proofs["BTCUSDT", STREAM, date] for date in DAYS)
    assert [proof.status for proof in (before, day, behind)] == [Status.PARTIAL, Status.COMPLETE, Status.PARTIAL]
    assert (before.open_start, before.open_end, behind.open_start, behind.open_end) == (True, False, False, True)
    assert [proof.events for proof in (before, day, behind)] == [
        middle,
        midnight_position(exchange, BEHIND) - middle,
        len(exchange) - midnight_position(exchange, BEHIND),
    ]
    assert (before.end.update_id, day.end.update_id) == (day.start.update_id, behind.start.update_id)
    assert day.gaps == []
    assert day.switches
    assert day.checkpoints.passed == 2
    assert day.checkpoints.failed == 0
    for proof in proofs.values():
        asyncio.run(verify_published(store, proof))


def test_every_raw_frame_is_settled_by_exactly_one_day(tmp_path: Any, market: Market) -> None:
    exchange = Exchange("BTCUSDT", market)
    middle = midnight_position(exchange)
    store = small(market, tokyo={1, 2, middle - 1}, paris={middle})
    merge(store, tmp_path, market=market)
    settled: dict[tuple[str, str], int] = {}
    counts: dict[tuple[str, str], int] = {}
    for (_, stream, _), proof in heads(store, market).items():
        for source in proof.inputs:
            settled[source.sha256, stream] = settled.get((source.sha256, stream), 0) + source.settled
            counts[source.sha256, stream] = source.count
            assert source.count == source.settled + source.owed
        frames = {line.collector: line.frames for line in proof.lines}
        for line in proof.lines:
            assert line.frames == line.chosen + line.duplicate + line.verbatim + line.owed
        assert sum(frames.values()) >= sum(source.settled for source in proof.inputs)
    assert settled == counts


def test_a_late_clock_of_one_line_moves_no_event_over_midnight(tmp_path: Any) -> None:
    exchange = Exchange("BTCUSDT")
    store = MemoryStore()
    put(store, Recorder("tokyo").seals([exchange]))
    put(store, Recorder("paris", shift_ms=40_000).seals([exchange]))
    merge(store, tmp_path)
    assert depth_head(store, BEFORE).events == midnight_position(exchange)
    assert prune(store, **NO_GRACE)[0].kept == []


@pytest.mark.parametrize(
    ("reconnects", "gap_class"), [({}, "exchange-side"), ({"tokyo", "paris"}, "collector-side"), ({"tokyo"}, "unknown")]
)
def test_a_range_that_both_lines_lost_is_exactly_one_classified_gap(
    tmp_path: Any, market: Market, reconnects: set[str], gap_class: str
) -> None:
    exchange = Exchange("BTCUSDT", market)
    store = MemoryStore()
    lost = {70, 71, 72}
    for latency_ms, name in enumerate(("paris", "tokyo"), 5):
        again = (73,) if name in reconnects else ()
        closing = wire.close_line(reason="reset by peer", code=1006, final=True)
        extra = [(exchange.events[72].time_us * 1000, closing)] if again else []
        recorder = Recorder(
            name, lost={"BTCUSDT": lost}, latency_ns=latency_ms * 10**6, snapshots=(0, 100), reconnects=again, extra=extra
        )
        put(store, recorder.seals([exchange]))
    merge(store, tmp_path, market=market)
    proof = depth_head(store, market=market)
    assert proof.status is Status.GAPPED
    (gap,) = proof.gaps
    down = {line.collector: line.notes for line in gap.lines}
    assert {name for name, notes in down.items() if "connection 1 closed: reset by peer (code 1006)" in notes} == set(reconnects)
    assert {name for name, notes in down.items() if "connection 2 opened" in notes} == set(reconnects)
    assert all(line.from_receive_time_ns < line.to_receive_time_ns for line in gap.lines)
    assert (gap.after_update_id, gap.next_prev_update_id) == (exchange.events[69].final, exchange.events[73].prev)
    assert gap.gap_class == gap_class
    assert (gap.from_event_time_us, gap.to_event_time_us) == (exchange.events[69].time_us, exchange.events[73].time_us)
    (unknown,) = proof.book_unknown
    # Snapshot 100 is the book behind event 100: known again from there.
    assert (unknown.prev_update_id, unknown.final_update_id) == (exchange.events[73].prev, exchange.events[99].final)
    assert [heads(store, market)["BTCUSDT", STREAM, date].status for date in (BEFORE, BEHIND)] == [Status.PARTIAL] * 2


def test_another_content_under_the_same_ids_makes_the_day_conflicted(tmp_path: Any) -> None:
    exchange, liar = Exchange("BTCUSDT"), Exchange("BTCUSDT")
    event = liar.events[80]
    object.__setattr__(event, "asks", ((10005, 1),))
    store = MemoryStore()
    put(store, Recorder("tokyo").seals([exchange]))
    put(store, Recorder("paris").seals([exchange]))
    put(store, Recorder("untrue").seals([liar]))
    merge(store, tmp_path)
    proof = depth_head(store)
    assert proof.status is Status.CONFLICTED
    assert sum(proof.fates.verbatim["conflict"].values()) == proof.verification.conflicts == 1


# --- kills -----------------------------------------------------------------------------------------------------------------------


def test_killed_at_any_step_a_fresh_run_ends_in_the_same_archive(tmp_path: Any) -> None:
    exchange = Exchange("BTCUSDT", events=60)
    raw = MemoryStore()
    for name, lost in (("tokyo", 13), ("paris", 30)):
        put(raw, Recorder(name, lost={"BTCUSDT": {lost}}, segments=2, tickers=False).seals([exchange]))
    merge(raw, tmp_path, [BEFORE])
    untouched = copy_of(raw)
    merge(untouched, tmp_path, [DAY])
    wanted = contents(untouched)
    for step in itertools.count():
        store = copy_of(raw)
        dying = DyingStore(store, step)
        try:
            asyncio.run(merge_date(merge_run(dying, str(tmp_path)), Market.SPOT, DAY))
        except Killed:
            pass
        else:
            break
        assert not any(name == "delete" for name, _ in dying.log)
        # What is published at this moment is whole, whatever was being written.
        for proof in heads(store).values():
            asyncio.run(verify_published(store, proof))
        merge(store, tmp_path, [DAY])
        assert contents(store) == wanted, step
        assert len(generations(store)) == len(heads(store))
        assert set(keys_of(raw, "raw/")) <= set(keys_of(store, "raw/"))
    assert step > 60


@pytest.mark.slow
def test_the_real_process_killed_at_random_moments_repairs_itself(tmp_path: Any) -> None:
    raw = small(tokyo={30}, paris={90})
    calm = FileStore(tmp_path / "calm")
    store = FileStore(tmp_path / "store")
    for target in (calm, store):
        for key in keys_of(raw):
            asyncio.run(target.create(key, asyncio.run(raw.get(key))))
    merge(calm, tmp_path)
    rng = random.Random(7)
    command = [sys.executable, "-m", "twintape"]

    def run(*arguments: str, kill_after: float | None) -> int:
        process = subprocess.Popen(
            [*command, *arguments, "--store", store.url], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=tmp_path
        )
        if kill_after is not None:
            time.sleep(kill_after)
            process.send_signal(signal.SIGKILL)
        return process.wait()

    start = time.monotonic()
    assert run("merge", "--date", BEFORE, "--market", "spot", kill_after=None) == 0
    took = time.monotonic() - start
    for _ in range(3):
        run("merge", "--date", DAY, "--market", "spot", kill_after=took * rng.uniform(0.5, 1.0))
    for date in (DAY, BEHIND):
        assert run("merge", "--date", date, "--market", "spot", kill_after=None) == 0
    assert contents(store) == contents(calm)
    assert set(keys_of(raw, "raw/")) == set(keys_of(store, "raw/"))
    for _ in range(2):
        run("prune", "--market", "spot", "--grace", "0s", "--execute", kill_after=took * rng.uniform(0.4, 1.0))
    assert run("prune", "--market", "spot", "--grace", "0s", "--execute", kill_after=None) == 0
    assert keys_of(store, "raw/") == []
    for proof in heads(store).values():
        asyncio.run(verify_published(store, proof))


# --- several merges --------------------------------------------------------------------------------------------------------------


def test_two_merges_at_once_publish_one_proof_a_generation_and_agree(tmp_path: Any) -> None:
    raw = small(tokyo={30}, paris={90})
    calm = copy_of(raw)
    merge(calm, tmp_path, [DAY])
    won = set()
    for seed in range(12):
        rng = random.Random(seed)
        store = copy_of(raw)

        async def both(store: MemoryStore = store, rng: random.Random = rng) -> Any:
            runs = [merge_run(DawdlingStore(store, rng), str(tmp_path), jobs=3) for _ in range(2)]
            return await asyncio.gather(*(merge_date(run, Market.SPOT, DAY) for run in runs))

        first, second = asyncio.run(both())
        ours = {(o.symbol, o.stream, o.date): (o.proof_key, o.status, o.generation) for o in first}
        theirs = {(o.symbol, o.stream, o.date): (o.proof_key, o.status, o.generation) for o in second}
        assert ours == theirs
        assert contents(store) == contents(calm)
        assert len(generations(store)) == len(heads(store))
        for a, b in zip(first, second, strict=True):
            assert not (a.fresh and b.fresh)
            won |= {a.fresh, b.fresh}
    assert won == {True, False}


def test_an_answer_that_is_lost_after_the_proof_was_written_is_success(tmp_path: Any) -> None:
    store = small()

    class Deaf(WrappedStore):
        """The first put arrives, its answer does not; the client library tries again, as the stores of the package do."""

        async def create(self, key: str, data: bytes) -> None:
            await super().create(key, data)
            await super().create(key, data)

    outcomes = asyncio.run(merge_date(merge_run(Deaf(store), str(tmp_path)), Market.SPOT, DAY))
    assert all(outcome.fresh for outcome in outcomes)
    assert len(generations(store)) == len(outcomes)


def test_a_slot_taken_by_somebody_else_is_a_lost_race_and_not_success(tmp_path: Any) -> None:
    raw = small()
    other = copy_of(raw)
    merge(other, tmp_path, [DAY])
    proof_key = next(key for key in generations(other) if STREAM in key)
    winner = asyncio.run(other.get(proof_key))
    store = copy_of(raw)

    class Beaten(WrappedStore):
        async def create(self, key: str, data: bytes) -> None:
            if key == proof_key and key not in keys:
                keys.append(key)
                await self.inner.create(key, winner)
            await super().create(key, data)

    keys: list[str] = []
    outcomes = asyncio.run(merge_date(merge_run(Beaten(store), str(tmp_path)), Market.SPOT, DAY))
    (depth,) = (outcome for outcome in outcomes if outcome.stream == STREAM)
    assert not depth.fresh
    assert asyncio.run(store.get(proof_key)) == winner


# --- again, and in any order -----------------------------------------------------------------------------------------------------


def test_merging_again_makes_nothing_new_before_and_after_a_prune(tmp_path: Any, market: Market) -> None:
    store = small(market, tokyo={30}, paris={90})
    merge(store, tmp_path, market=market)
    known = keys_of(store)
    assert not any(outcome.fresh for outcome in merge(store, tmp_path, market=market))
    assert keys_of(store) == known
    plan, report = prune(store, (market,), **NO_GRACE)
    assert plan.kept == []
    assert keys_of(store, "raw/") == []
    left = [key for key in known if key not in report.deleted]
    assert not any(outcome.fresh for outcome in merge(store, tmp_path, market=market))
    # A prune leaves its receipts and what it asked the store about conditions.
    assert [key for key in keys_of(store) if not key.startswith(("receipt/", "doctor/"))] == left


def lines_of(market: Market, symbols: tuple[str, ...] = ("BTCUSDT",)) -> tuple[list[Any], list[Any], list[Any]]:
    """Return two lines that share two holes, and a third one that has what both lack and little else of the first day."""
    exchanges = [Exchange(symbol, market) for symbol in symbols]
    middle = midnight_position(exchanges[0])
    tokyo = Recorder("tokyo", lost={"BTCUSDT": {10, 30, 31, 120, 121}}, snapshots=(0, 100))
    paris = Recorder("paris", lost={"BTCUSDT": {10, 90, 91, 120, middle - 1, middle}}, snapshots=(0, 100), segments=4)
    late = Recorder("late", lost={"BTCUSDT": set(range(60)) - {10, middle - 1, middle}}, snapshots=(0, 5, 150), segments=3)
    return tokyo.seals(exchanges), paris.seals(exchanges), late.seals(exchanges)


@pytest.mark.parametrize(
    "steps",
    [
        ["two", "late", DAY, BEFORE, BEHIND],
        ["two", "late", BEHIND, DAY, BEFORE],
        ["two", DAY, "late", BEFORE, DAY, BEHIND],
        ["two", BEFORE, DAY, "late", *DAYS],
        ["two", *DAYS, "late", BEHIND, DAY, BEFORE, *DAYS],
        ["two", *DAYS, "prune", "late", *DAYS],
        ["two", DAY, BEFORE, "prune", "late", BEHIND, DAY, BEFORE, *DAYS],
        ["late", *DAYS, "prune", "two", *DAYS],
        ["late", *DAYS, "prune", "tokyo", *DAYS, "prune", "paris", *DAYS],
        ["paris", DAY, "late", DAY, "tokyo", DAY, *DAYS],
    ],
    ids=" ".join,
)
def test_the_order_of_arrival_merging_and_pruning_makes_no_difference(tmp_path: Any, market: Market, steps: list[str]) -> None:
    tokyo, paris, late = lines_of(market)
    calm = MemoryStore()
    put(calm, tokyo + paris + late)
    merge(calm, tmp_path, market=market)
    assert [proof.status for proof in heads(calm, market).values() if proof.stream == STREAM] == [
        "partial",
        "complete",
        "partial",
    ]
    store = MemoryStore()
    arriving = {"two": tokyo + paris, "late": late, "tokyo": tokyo, "paris": paris}
    lineage: dict[Any, set[str]] = {}
    for step in steps:
        if step in arriving:
            put(store, arriving[step])
        elif step == "prune":
            prune(store, (market,), **NO_GRACE)
        else:
            merge(store, tmp_path, [step], market=market)
        for day, proof in heads(store, market).items():
            keys = {source.key for source in proof.inputs}
            assert lineage.get(day, set()) <= keys
            lineage[day] = keys
    assert contents(store, market) == contents(calm, market)
    for proof in heads(store, market).values():
        asyncio.run(verify_published(store, proof))
    prune(store, (market,), **NO_GRACE)
    assert keys_of(store, "raw/") == []


def test_segments_that_arrive_one_by_one_between_merges_and_prunes_all_end_in_the_archive(tmp_path: Any) -> None:
    """Which side of midnight a late event is filed on may differ where both lines were deaf there; the chain and its gaps may not."""
    for seed in range(9):
        rng = random.Random(seed)
        market = rng.choice((Market.SPOT, Market.USDM))
        exchange = Exchange("BTCUSDT", market, seed=seed, events=rng.choice((60, 90)))
        calm, store = MemoryStore(), MemoryStore()
        arriving = []
        for name in ("a", "b", "c"):
            lost = set(rng.sample(range(len(exchange)), rng.choice((0, 2, 5, len(exchange) // 2))))
            snapshots = rng.sample(range(len(exchange)), 2)
            recorder = Recorder(name, lost={"BTCUSDT": lost}, snapshots=snapshots, segments=rng.randint(4, 8), tickers=False)
            arriving += recorder.seals([exchange])
        put(calm, arriving)
        merge(calm, tmp_path, market=market)
        rng.shuffle(arriving)
        for sealed in arriving:
            put(store, [sealed])
            for _ in range(rng.choice((0, 0, 1, 2))):
                merge(store, tmp_path, [rng.choice(DAYS)], market=market)
            if rng.random() < 0.3:
                prune(store, (market,), **NO_GRACE)
        merge(store, tmp_path, market=market)
        merge(store, tmp_path, market=market)
        assert _chain(store, market) == _chain(calm, market), seed
        for proof in heads(store, market).values():
            asyncio.run(verify_published(store, proof))


def _chain(store: MemoryStore, market: Market) -> tuple[list[int], list[tuple[int, int]]]:
    """Return the ends of all events of all days in order, and all gaps."""
    proofs = [proof for day, proof in heads(store, market).items() if day[1] == STREAM]
    table = Archive(store).depth(market, "BTCUSDT", BEFORE, "2026-03-04").read_all()
    gaps = [(gap.after_update_id, gap.next_prev_update_id) for proof in proofs for gap in proof.gaps]
    return table.column("final_update_id").to_pylist(), gaps


def pieces(lines: list[Any], *cuts: int, chain: str = "a", first: int = 0) -> list[Any]:
    """Return lines of one connection of tokyo's as segments, cut at the given positions."""
    found: list[Any] = []
    for number, (begin, end) in enumerate(itertools.pairwise([0, *cuts, len(lines)])):
        link = ChainLink(chain * 16, number, found[-1].sha256 if found else None, None if found else "new spool")
        sequence = first + number + 1
        sealed = seal(
            lines[begin:end], collector="tokyo", market=Market.SPOT, run="a" * 32, connection=1, sequence=sequence, chain=link
        )
        found.append(sealed)
    return found


@pytest.mark.parametrize("pruned", [False, True])
def test_lines_that_come_again_in_another_segment_were_heard_twice(tmp_path: Any, pruned: bool) -> None:
    """As when a spool is put back from a copy: the first segments may be gone by then, and what they said must not be counted and dropped."""
    lines = Recorder("tokyo", snapshots=(0, 100)).lines([Exchange("BTCUSDT")])
    store = MemoryStore()
    put(store, pieces(lines, 50, 150))
    merge(store, tmp_path)
    if pruned:
        prune(store, **NO_GRACE)
        assert not keys_of(store, "raw/")
    put(store, pieces(lines[100:200], chain="b", first=50))
    merge(store, tmp_path)
    for proof in heads(store).values():
        asyncio.run(verify_published(store, proof))
    assert sum(depth_head(store).fates.duplicate.values()) > 30
    prune(store, **NO_GRACE)
    assert not keys_of(store, "raw/")


@pytest.mark.parametrize("cuts", [(8, 45), (8, 20, 45)])
def test_what_a_day_settled_before_its_midnight_moved_is_settled_once(tmp_path: Any, monkeypatch: Any, cuts: Any) -> None:
    """The day before was merged when nothing behind it was known, and again later than this day, which had taken its evening meanwhile."""
    monkeypatch.setattr("twintape.core.segment.BLOCK_TEXT_SIZE", 600)
    lines = Recorder("tokyo", snapshots=(0, 100), tickers=False).lines([Exchange("BTCUSDT")])
    evening, *late, rest = pieces(lines, *cuts)
    store = MemoryStore()
    put(store, [evening])
    merge(store, tmp_path, [BEFORE])
    put(store, [rest])
    merge(store, tmp_path, [DAY])
    put(store, late)
    merge(store, tmp_path, [DAY])
    assert depth_head(store).start.update_id == depth_head(store, BEFORE).end.update_id
    merge(store, tmp_path, DAYS)
    assert depth_head(store).generation == 3
    for proof in heads(store).values():
        asyncio.run(verify_published(store, proof))
    prune(store, **NO_GRACE)
    assert not keys_of(store, "raw/")


def test_a_gap_closed_by_a_late_line_is_in_the_second_generation(tmp_path: Any) -> None:
    tokyo, paris, late = lines_of(Market.SPOT)
    store = MemoryStore()
    put(store, tokyo + paris)
    merge(store, tmp_path)
    first = depth_head(store)
    assert first.status is Status.GAPPED
    assert len(first.gaps) == 2
    put(store, late)
    merge(store, tmp_path)
    second = depth_head(store)
    assert (second.status, second.generation, second.gaps) == (Status.COMPLETE, 2, [])
    assert second.closed_gaps == first.gaps
    assert second.parent is not None
    assert second.parent.generation == 1
    assert second.parent.sha256 == hashlib.sha256(encode(first)).hexdigest()


def test_a_changed_closing_book_merges_the_following_days_again(tmp_path: Any) -> None:
    exchange = Exchange("BTCUSDT")
    store = MemoryStore()
    put(store, Recorder("tokyo", snapshots=(170,)).seals([exchange]))
    merge(store, tmp_path)
    assert depth_head(store).book_unknown
    assert depth_head(store, BEHIND).book_unknown
    put(store, Recorder("paris", snapshots=(1,), lost={"BTCUSDT": set(range(60, 180))}).seals([exchange]))
    outcomes = merge(store, tmp_path, [BEFORE])
    again = [(outcome.date, outcome.generation) for outcome in outcomes if outcome.stream == STREAM and outcome.fresh]
    assert again == [(BEFORE, 2), (DAY, 2), (BEHIND, 2)]
    assert depth_head(store).book_unknown == depth_head(store, BEHIND).book_unknown == []
    assert depth_head(store, BEHIND).checkpoints.passed == 1


def test_a_closing_book_that_changes_alone_takes_the_snapshots_of_segments_without_depth_along(tmp_path: Any) -> None:
    """A snapshot may be recorded on a connection that carries no depth of its symbol."""
    exchange = Exchange("BTCUSDT")
    store = MemoryStore()
    put(store, Recorder("tokyo", snapshots=(2,)).seals([exchange]))
    alone = Recorder("paris", snapshots=(100,), lost={"BTCUSDT": set(range(180))}, tickers=False, segments=1).seals([exchange])
    put(store, alone)
    merge(store, tmp_path)
    assert depth_head(store).checkpoints.passed == 1
    put(store, Recorder("late", snapshots=(1,), segments=1, lost={"BTCUSDT": set(range(20, 180))}).seals([exchange]))
    merge(store, tmp_path, [BEFORE])
    assert depth_head(store).generation == 2
    assert depth_head(store).checkpoints.passed == 1


# --- the same bytes --------------------------------------------------------------------------------------------------------------


def test_the_archive_is_the_same_whatever_the_order_of_import_and_the_number_of_jobs(tmp_path: Any) -> None:
    tokyo, paris, late = lines_of(Market.USDM, ("BTCUSDT", "ETHUSDT"))
    wanted = None
    pool = PoolExecutor(2)
    try:
        for number, order in enumerate(([*tokyo, *paris, *late], [*late[::-1], *paris, *tokyo[::-1]])):
            store = MemoryStore()
            put(store, order)
            if number == 0:
                merge(store, tmp_path, [DAY], Market.USDM)
            else:
                run = merge_run(store, str(tmp_path), executor=pool, jobs=2)
                asyncio.run(merge_date(run, Market.USDM, DAY))
            wanted = wanted or contents(store, Market.USDM)
            assert contents(store, Market.USDM) == wanted
    finally:
        pool.close()


def test_the_archive_does_not_depend_on_the_hash_seed(tmp_path: Any) -> None:
    raw = small(tokyo={30}, paris={90})
    found = []
    for seed in ("0", "4711"):
        store = FileStore(tmp_path / seed)
        for key in keys_of(raw):
            asyncio.run(store.create(key, asyncio.run(raw.get(key))))
        subprocess.run(
            [sys.executable, "-m", "twintape", "merge", "--date", DAY, "--market", "spot", "--store", store.url],
            env={**os.environ, "PYTHONHASHSEED": seed},
            check=True,
            capture_output=True,
        )
        found.append(contents(store))
    assert found[0] == found[1]


# --- bad input -------------------------------------------------------------------------------------------------------------------


def test_a_damaged_object_is_no_input_and_the_rest_goes_on(tmp_path: Any) -> None:
    exchange = Exchange("BTCUSDT")
    tokyo = Recorder("tokyo", snapshots=(0, 100)).seals([exchange])
    paris = Recorder("paris", snapshots=(0, 100), segments=4).seals([exchange])
    for number, damaged in enumerate(tokyo[1:4], 1):
        body = damaged.data
        damages = [
            ("no segment", b""),
            ("no trailer", body[: len(body) // 2]),
            ("its key says", body[:200] + bytes([body[200] ^ 1]) + body[201:]),
            ("wrong CRC-32", body[:-100] + bytes([body[-100] ^ 4]) + body[-99:]),
            ("the index belongs under", tokyo[number - 1].data),
        ]
        for words, data in damages:
            store = MemoryStore()
            put(store, [*(sealed for sealed in tokyo if sealed is not damaged), *paris])
            asyncio.run(store.create(damaged.key, data))
            merge(store, tmp_path)
            proofs = heads(store)
            day = proofs["BTCUSDT", STREAM, DAY]
            # The other line has everything, but nobody can know what the damaged one said.
            assert (day.status, day.gaps, day.events) == (
                Status.PARTIAL,
                [],
                180 - midnight_position(exchange) - _behind(exchange),
            )
            (unreadable,) = day.unreadable
            assert unreadable.key == damaged.key
            assert words in unreadable.reason
            assert not any(source.key == damaged.key for proof in proofs.values() for source in proof.inputs)
            assert not any(outcome.fresh for outcome in merge(store, tmp_path)), (number, words)
            prune(store, **NO_GRACE)
            assert damaged.key in keys_of(store, "raw/")


def _behind(exchange: Exchange) -> int:
    return len(exchange) - midnight_position(exchange, BEHIND)


def test_a_damaged_object_that_is_restored_is_merged(tmp_path: Any) -> None:
    exchange = Exchange("BTCUSDT")
    tokyo = Recorder("tokyo", snapshots=(0, 100)).seals([exchange])
    store = MemoryStore()
    put(store, tokyo)
    mutated(store, tokyo[2].key, tokyo[2].data[:300] + b"\0" + tokyo[2].data[301:])
    merge(store, tmp_path)
    assert depth_head(store).status is Status.GAPPED
    mutated(store, tokyo[2].key, tokyo[2].data)
    merge(store, tmp_path)
    calm = MemoryStore()
    put(calm, tokyo)
    merge(calm, tmp_path)
    assert contents(store) == contents(calm)
    assert depth_head(store).status is Status.COMPLETE
    assert [day for day, proof in heads(store).items() if proof.unreadable] == [], "nor does another stream go on lacking it"
    prune(store, **NO_GRACE)
    assert keys_of(store, "raw/") == []


def test_an_index_that_lies_about_its_frames_loses_nothing(tmp_path: Any) -> None:
    """The CRC holds, the key holds, and the counts are wrong: the blocks say so."""
    exchange = Exchange("BTCUSDT")
    tokyo = Recorder("tokyo", snapshots=(0, 100)).seals([exchange])
    honest = tokyo[2]
    body, index_text = _split(honest.data)
    count = honest.index.streams[1].blocks[0].count
    lie = index_text.replace(f'"count":{count},'.encode(), f'"count":{count - 1},'.encode())
    assert lie != index_text
    data = _joined(body, lie)
    store = MemoryStore()
    put(store, [sealed for sealed in tokyo if sealed is not honest])
    key = honest.key.replace(honest.sha256[:16], hashlib.sha256(data).hexdigest()[:16])
    asyncio.run(store.create(key, data))
    merge(store, tmp_path)
    assert [unreadable.key for unreadable in depth_head(store).unreadable] == [key]
    prune(store, **NO_GRACE)
    assert key in keys_of(store, "raw/")


def _split(data: bytes) -> tuple[bytes, bytes]:
    start = int.from_bytes(data[-16:-8], "little")
    return data[:start], data[start + 8 : -16]


def _joined(body: bytes, index: bytes) -> bytes:
    import zlib

    payload = index + len(body).to_bytes(8, "little") + zlib.crc32(index).to_bytes(4, "little") + b"TTP1"
    return body + b"\x50\x2a\x4d\x18" + len(payload).to_bytes(4, "little") + payload


def test_foreign_objects_under_the_raw_prefix_are_left_alone(tmp_path: Any) -> None:
    store = small()
    for key in ("raw/v1/readme.txt", "raw/v1/tokyo/spot/2026-03-02/12/x.tape.zst", "raw/v2/tokyo/spot/2026-03-02/12/thing"):
        asyncio.run(store.create(key, b"hello"))
    calm = small()
    merge(calm, tmp_path)
    merge(store, tmp_path)
    assert contents(store) == contents(calm)
    prune(store, **NO_GRACE)
    assert len(keys_of(store, "raw/")) == 3


def test_hostile_symbols_in_frames_stay_inside_their_names(tmp_path: Any) -> None:
    hostile = ["../x", "a/b", "nul\\u0000", "!session", "", ".", "..", "%2e%2e", "x" * 65, "x" * 200]
    _merge_symbols(FileStore(tmp_path / "store"), tmp_path, hostile)
    assert {path.name for path in tmp_path.iterdir() if path.is_dir() and not path.name.startswith("tmp")} == {"store"}
    _merge_symbols(MemoryStore(), tmp_path, [f"币{n}usdt" for n in range(200)])


def _merge_symbols(store: Any, tmp_path: Any, symbols: list[str]) -> None:
    at = time_us("2026-03-02T12:00:00")
    frames = [
        (
            at * 1000 + number,
            f'{{"stream":"{symbol}@depth","data":{{"e":"depthUpdate","E":{at // 1000},"s":"{symbol}","U":5,"u":6,'
            f'"b":[["1.0","2.0"]],"a":[]}}}}'.encode(),
        )
        for number, symbol in enumerate(symbols)
    ]
    sealed = seal(
        frames,
        collector="tokyo",
        market=Market.SPOT,
        run="0" * 32,
        connection=1,
        sequence=1,
        chain=ChainLink(id="0" * 16, number=0, previous=None, reason="new spool"),
    )
    put(store, [sealed])
    merge(store, tmp_path, [DAY])
    proofs = heads(store)
    assert sum(source.settled for proof in proofs.values() for source in proof.inputs) == len(frames)
    for proof in proofs.values():
        asyncio.run(verify_published(store, proof))
    assert not any("/../" in key or "//" in key for key in keys_of(store))
    prune(store, **NO_GRACE)
    assert keys_of(store, "raw/") == []


def test_a_missing_number_of_the_chain_keeps_other_streams_from_being_complete_for_good(tmp_path: Any) -> None:
    exchange = Exchange("BTCUSDT")
    tokyo = Recorder("tokyo", snapshots=(0, 100), segments=8).seals([exchange])
    store = MemoryStore()
    put(store, tokyo[:4] + tokyo[5:])
    merge(store, tmp_path)
    ticker = heads(store)["BTCUSDT", "bookTicker", DAY]
    assert ticker.status is Status.PARTIAL
    assert [(hole.collector, hole.numbers) for hole in ticker.missing] == [("tokyo", [(4, 4)])]
    prune(store, **NO_GRACE)
    put(store, Recorder("paris", segments=4).seals([exchange]))
    merge(store, tmp_path)
    ticker = heads(store)["BTCUSDT", "bookTicker", DAY]
    assert (ticker.generation, ticker.status) == (2, Status.PARTIAL)
    assert [(hole.collector, hole.numbers) for hole in ticker.missing] == [("tokyo", [(4, 4)])]
    put(store, [tokyo[4]])
    merge(store, tmp_path)
    ticker = heads(store)["BTCUSDT", "bookTicker", DAY]
    assert (ticker.status, ticker.missing) == (Status.COMPLETE, [])


# --- stores and documents that lie -----------------------------------------------------------------------------------------------


def test_a_store_that_returns_other_bytes_gets_no_proof(tmp_path: Any) -> None:
    class Lying(WrappedStore):
        async def get(self, key: str) -> bytes:
            data = await super().get(key)
            return data[:-9] + bytes([data[-9] ^ 1]) + data[-8:] if key.startswith("depth/") else data

    store = small()
    outcomes = asyncio.run(merge_date(merge_run(Lying(store), str(tmp_path)), Market.SPOT, DAY))
    assert [outcome.stream for outcome in outcomes if outcome.error and "read back" in outcome.error] == [STREAM]
    # One day that cannot be published keeps no other from it.
    assert {outcome.stream for outcome in outcomes if outcome.fresh} >= {"bookTicker"}
    assert not any(STREAM in key for key in generations(store))
    merge(store, tmp_path)
    assert depth_head(store).status is Status.COMPLETE


def test_a_damaged_or_foreign_proof_stops_the_merge_and_says_where(tmp_path: Any) -> None:
    store = small()
    merge(store, tmp_path)
    key = next(key for key in generations(store) if f"{STREAM}/date={DAY}" in key)
    proof = asyncio.run(store.get(key))
    for data, error in (
        (b"", CorruptionError),
        (b"[" * 100_000, CorruptionError),
        (proof[:-20], CorruptionError),
        (proof.replace(b'"generation":1', b'"generation":"1"'), CorruptionError),
        (proof.replace(b"twintape-proof/1", b"twintape-proof/2"), RefusedError),
    ):
        mutated(store, key, data)
        with pytest.raises(error, match=key):
            merge(store, tmp_path)


def merged_and_pruned(tmp_path: Any) -> tuple[MemoryStore, Any, bytes, Any]:
    """Return a store whose raw data is gone, its depth output and what that holds, and raw data that came late."""
    tokyo, paris, late = lines_of(Market.SPOT)
    store = MemoryStore()
    put(store, tokyo + paris)
    merge(store, tmp_path)
    prune(store, **NO_GRACE)
    output = next(output for output in depth_head(store).outputs if output.table == "depth")
    data = asyncio.run(store.get(output.key))
    return store, output, data, late


def test_a_parent_whose_outputs_were_tampered_with_makes_no_generation(tmp_path: Any) -> None:
    store, output, data, late = merged_and_pruned(tmp_path)
    mutated(store, output.key, data[:500] + bytes([data[500] ^ 1]) + data[501:])
    put(store, late)
    (stuck,) = [outcome for outcome in merge(store, tmp_path, [DAY]) if outcome.error]
    assert "restore it first" in stuck.error
    assert (stuck.stream, stuck.status, stuck.generation) == (STREAM, Status.GAPPED, 1)
    assert depth_head(store).generation == 1
    mutated(store, output.key, data)
    merge(store, tmp_path)
    assert depth_head(store).status is Status.COMPLETE


def test_a_day_whose_outputs_are_gone_keeps_no_other_day_from_being_merged(tmp_path: Any) -> None:
    store, output, data, late = merged_and_pruned(tmp_path)
    asyncio.run(store.delete(output.key))
    put(store, late)
    outcomes = merge(store, tmp_path, [DAY])
    (stuck,) = [outcome for outcome in outcomes if outcome.error]
    assert output.key in stuck.error
    assert "restore it first" in stuck.error
    assert (stuck.stream, stuck.generation, depth_head(store).generation) == (STREAM, 1, 1)
    assert any(outcome.fresh for outcome in outcomes)
    asyncio.run(store.create(output.key, data))
    merge(store, tmp_path)
    assert depth_head(store).status is Status.COMPLETE


def test_a_raw_object_that_disappears_during_the_merge_is_no_input(tmp_path: Any) -> None:
    store = small()
    victim = next(key for key in keys_of(store, "raw/v1/tokyo") if "/2026-03-02/11/" in key or "/2026-03-02/12/" in key)

    class Shrinking(WrappedStore):
        async def get(self, key: str) -> bytes:
            if key == victim:
                await self.inner.delete(key)
            return await super().get(key)

    asyncio.run(merge_date(merge_run(Shrinking(store), str(tmp_path)), Market.SPOT, DAY))
    assert not any(source.key == victim for proof in heads(store).values() for source in proof.inputs)
    assert depth_head(store).status is Status.COMPLETE


def test_a_store_that_lists_too_little_makes_a_smaller_day_and_later_the_whole_one(tmp_path: Any) -> None:
    class Forgetful(WrappedStore):
        async def list(self, prefix: str) -> Any:
            number = 0
            async for info in super().list(prefix):
                number += 1
                if number % 3 or not prefix.startswith("raw/"):
                    yield info

    store = small(tokyo={30}, paris={90})
    calm = copy_of(store)
    merge(calm, tmp_path)
    merge(Forgetful(store), tmp_path)
    merge(store, tmp_path)
    assert contents(store) == contents(calm)


def test_frames_that_are_not_what_they_claim_are_kept_verbatim(tmp_path: Any) -> None:
    exchange = Exchange("BTCUSDT")
    name = b'{"stream":"btcusdt@depth@100ms","data":'
    at = exchange.events[80].time_us * 1000
    odd = [
        name + body + b"}"
        for body in (b"{}", b"[]", b'{"e":"depthUpdate","E":1,"s":"BTCUSDT","U":9,"u":3,"b":[],"a":[]}', b"nul")
    ]
    extra = [(at + 100 + number, frame) for number, frame in enumerate([*odd, wire.bytes_line(2, b"\x00")])]
    store = MemoryStore()
    put(store, Recorder("tokyo", extra=extra).seals([exchange]))
    merge(store, tmp_path)
    proof = depth_head(store)
    assert proof.fates.verbatim["undecodable"] == {"tokyo": len(odd)}
    assert proof.status is Status.COMPLETE
    assert prune(store, **NO_GRACE)[0].kept == []


def test_only_the_symbols_asked_for_are_merged(tmp_path: Any) -> None:
    store = MemoryStore()
    put(store, Recorder("tokyo").seals([Exchange("BTCUSDT"), Exchange("ETHUSDT")]))
    outcomes = asyncio.run(merge_date(merge_run(store, str(tmp_path)), Market.SPOT, DAY, symbols=["ETHUSDT"]))
    assert {outcome.symbol for outcome in outcomes} == {"ETHUSDT"}


def test_a_silent_day_between_days_with_events_gets_a_proof(tmp_path: Any) -> None:
    busy = Exchange("BTCUSDT")
    periods = (
        (time_us("2026-03-01T23:00:00"), time_us("2026-03-01T23:59:00")),
        (time_us("2026-03-03T00:01:00"), time_us("2026-03-03T00:05:00")),
    )
    quiet = Exchange("ETHUSDT", events=60, periods=periods)
    store = MemoryStore()
    put(store, Recorder("tokyo", snapshots=(2,)).seals([busy, quiet]))
    merge(store, tmp_path)
    proofs = heads(store)
    silent = proofs["ETHUSDT", STREAM, DAY]
    assert (silent.events, silent.status) == (0, Status.COMPLETE)
    assert silent.start.update_id == silent.end.update_id == proofs["ETHUSDT", STREAM, BEFORE].end.update_id
    assert proofs["ETHUSDT", STREAM, BEHIND].start.update_id == silent.end.update_id
    assert proofs["ETHUSDT", STREAM, BEHIND].gaps == proofs["ETHUSDT", STREAM, BEHIND].book_unknown == []
    assert not any(outcome.fresh for outcome in merge(store, tmp_path))
    assert prune(store, **NO_GRACE)[0].kept == []


def test_a_gap_across_midnight_makes_the_day_before_partial_and_the_later_one_gapped(tmp_path: Any) -> None:
    """Whatever happened between the last event and the next one known may have been of the earlier day."""
    exchange = Exchange("BTCUSDT")
    first = exchange.position_at(time_us(f"{DAYS[2]}T00:00:00") - 1) + 1
    store = MemoryStore()
    put(store, Recorder("tokyo", lost={"BTCUSDT": {first - 1, first}}).seals([exchange]))
    for dates in ([DAYS[1]], DAYS):
        merge(store, tmp_path, dates)
        proof = depth_head(store, DAYS[1])
        assert (proof.status, proof.gap_behind) == (Status.PARTIAL, True)
        assert proof.reasons == ["a gap follows its end, which may have begun in it"]
    assert depth_head(store, DAYS[2]).status is Status.GAPPED


@pytest.mark.parametrize("steps", [[DAY], DAYS], ids=["the day behind is not merged yet", "it is"])
@pytest.mark.parametrize("pruned", [False, True])
def test_what_a_late_line_says_of_the_end_of_a_day_is_of_that_day(tmp_path: Any, steps: list[str], pruned: bool) -> None:
    """A day that ended at a gap has not ended at midnight: it is not complete without the events that were missed before."""
    exchange = Exchange("BTCUSDT")
    first = midnight_position(exchange, BEHIND)
    store = MemoryStore()
    put(store, Recorder("tokyo", lost={"BTCUSDT": {first - 3, first - 2, first - 1, first}}, snapshots=(0,)).seals([exchange]))
    merge(store, tmp_path, steps)
    assert depth_head(store).gap_behind
    if pruned:
        prune(store, **NO_GRACE)
    put(store, Recorder("paris", snapshots=(0,)).seals([exchange]))
    for _ in range(2):
        merge(store, tmp_path)
    calm = MemoryStore()
    put(calm, Recorder("paris", snapshots=(0,)).seals([exchange]))
    merge(calm, tmp_path)
    for date in (DAY, BEHIND):
        proof, expected = depth_head(store, date), depth_head(calm, date)
        assert (proof.start.update_id, proof.end.update_id, proof.events) == (
            expected.start.update_id,
            expected.end.update_id,
            expected.events,
        )
        assert proof.gaps == []
    # Merged before the day behind it has closed its gap, the day still says that one follows its end.
    assert depth_head(store).status is (Status.COMPLETE if steps == [DAY] else Status.PARTIAL)


def test_a_day_whose_ids_restart_is_never_complete(tmp_path: Any) -> None:
    """What was missed while the exchange restarted leaves no trace in ids."""
    first = 1_772_352_000_000

    def lines(collector: str) -> Any:
        found = []
        for number in range(300):
            at, update_id = first + number * 600_000, 5_000_000 + number if number < 200 else number
            body = f'{{"e":"depthUpdate","E":{at},"s":"BTCUSDT","U":{update_id},"u":{update_id},"b":[["1.0","{number + 1}.0"]],"a":[]}}'
            found.append((at * 1_000_000, f'{{"stream":"btcusdt@{STREAM}","data":{body}}}'.encode()))
        link = ChainLink(id="0" * 16, number=0, previous=None, reason="test")
        fixed = {"collector": collector, "market": Market.SPOT, "run": "0" * 32, "connection": 1, "sequence": 1}
        return seal(found, chain=link, depth_streams={}, **fixed)

    store = MemoryStore()
    put(store, [lines("tokyo"), lines("paris")])
    merge(store, tmp_path, ["2026-03-01", "2026-03-02", "2026-03-03"])
    restarted = [proof for (_, stream, _), proof in heads(store, Market.SPOT).items() if stream == STREAM and proof.epochs]
    assert restarted
    assert all(proof.status is Status.PARTIAL and any("restart" in reason for reason in proof.reasons) for proof in restarted)


def test_a_day_keeps_its_end_where_the_day_behind_was_merged_without_knowing_of_it(tmp_path):
    # Two merges side by side: one has closed the gap at the end of a day, the other one has published the day behind as if it were still there.
    exchange, store = Exchange(), MemoryStore()
    midnight = exchange.position_at(time_us(f"{DAYS[1]}T00:00:00"))
    missed = {"BTCUSDT": {midnight - 2, midnight - 1, midnight}}
    put(store, Recorder("paris", lost=missed).seals([exchange]))
    merge(store, tmp_path, DAYS[:1])
    elsewhere = MemoryStore()
    elsewhere._objects |= store._objects
    merge(elsewhere, tmp_path, DAYS[1:2])
    others = {"BTCUSDT": set(range(len(exchange))) - {midnight - 3, *missed["BTCUSDT"]}}
    put(store, Recorder("tokyo", lost=others, snapshots=()).seals([exchange]))
    merge(store, tmp_path, DAYS[:1])
    end = exchange.events[midnight].final
    assert heads(store)["BTCUSDT", STREAM, DAYS[0]].end.update_id == end
    store._objects |= {key: found for key, found in elsewhere._objects.items() if key not in store._objects}
    put(store, Recorder("osaka", lost=others, snapshots=()).seals([exchange]))
    merge(store, tmp_path, DAYS[:2])
    first, second = (heads(store)["BTCUSDT", STREAM, date] for date in DAYS[:2])
    assert (first.end.update_id, second.start.update_id) == (end, end)
    assert (first.gaps, second.gaps) == ([], [])
    assert first.fates.verbatim == {}
