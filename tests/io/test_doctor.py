import asyncio
import json
import re
from pathlib import Path

import pytest

from support.object_stores import add_user
from support.processes import call, run
from support.proxy import proxy
from support.store import DAYS, Exchange, Recorder, merge, prune, put
from support.virtual import SECOND_NS, VirtualClock
from twintape.core.errors import AlreadyExistsError, CorruptionError, RefusedError, StoreError
from twintape.core.names import TABLES
from twintape.io import conditions
from twintape.io.clock import SystemClock
from twintape.io.conditions import CONDITIONS_KEY, Fitness, SoleWriterStore, conditions_kept, latest_verdict, require_fit
from twintape.io.doctor import Outcome, Patient, Weight, examine, store_verdict
from twintape.io.faults import Fault, Faults, FaultyStore
from twintape.io.probes import BUCKET_PROBES, STORE_PROBES
from twintape.io.roles import Role, permissions_of, role_probes
from twintape.io.store import MemoryStore, open_store

ROOT = Path(__file__).resolve().parents[2]
EXAMINATION = "0123456789abcdef"


class IgnoringStore(MemoryStore):
    """Answers every put with success and replaces what is there."""

    async def create(self, key, data):
        await self.delete(key)
        await super().create(key, data)


def ids():
    numbers = iter(range(10**6))
    return lambda: f"{next(numbers):016x}"


def patient(store, **options):
    return Patient(store, options.pop("clock", SystemClock()), EXAMINATION, ids(), **options)


def examined(store, probes=STORE_PROBES, **options):
    return asyncio.run(examine(patient(store, **options), probes))


def outcomes(checkup, *which):
    return {finding.probe.name for finding in checkup.findings if finding.outcome in which}


def all_keys(store):
    async def collect():
        return [info.key async for info in store.list("")]

    return asyncio.run(collect())


# --- verdicts ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["memory", "file"])
def test_a_store_that_keeps_its_promises_is_fit_for_everything_and_left_as_it_was(kind, tmp_path):
    store = MemoryStore() if kind == "memory" else open_store(str(tmp_path / "store"))
    asyncio.run(store.create("raw/v1/tokyo/somebody", b"else"))
    checkup = examined(store, quick=kind == "file")
    assert checkup.fitness is Fitness.FULL
    assert outcomes(checkup, Outcome.FAILED, Outcome.WARNING) == set()
    assert checkup.left == []
    assert all_keys(store) == ["raw/v1/tokyo/somebody"]


def test_there_are_enough_probes_and_each_has_a_name_of_its_own():
    names = [probe.name for probe in (*STORE_PROBES, *BUCKET_PROBES)]
    assert len(set(names)) == len(names) >= 25


def test_a_store_that_ignores_conditions_is_for_one_merger_at_a_time():
    checkup = examined(IgnoringStore(), quick=True)
    assert checkup.fitness is Fitness.SINGLE_MERGER
    assert outcomes(checkup, Outcome.FAILED) == {"create-refused", "create-unchanged", "create-race", "create-ambiguous"}


@pytest.mark.parametrize(
    ("fault", "where", "failing"),
    [
        (Fault.CORRUPT, ("get", "/put"), {"put"}),
        (Fault.TRUNCATED, ("get", "/large"), {"large"}),
        (Fault.CORRUPT, ("get_range", "/range"), {"range"}),
        (Fault.TRUNCATED, ("get_range", "/beyond"), {"range-beyond"}),
        (Fault.OMITTED, ("list", "list-pages"), {"list-pages"}),
        (Fault.UNAVAILABLE, ("create", "long/"), {"long-key"}),
        (Fault.DAMAGED, ("create", "/empty"), {"empty"}),
        (Fault.UNAVAILABLE, ("head", "/head"), {"head"}),
    ],
)
def test_a_promise_that_is_broken_is_found_and_the_store_refused(fault, where, failing):
    faults = Faults(rates={fault: 1.0}, where=lambda operation, key: operation == where[0] and where[1] in key)
    checkup = examined(FaultyStore(MemoryStore(), clock=VirtualClock(), faults=faults), clock=SystemClock())
    assert checkup.fitness is Fitness.REFUSE
    assert outcomes(checkup, Outcome.FAILED) == failing


@pytest.mark.parametrize(
    ("fault", "where", "warned"),
    [
        (Fault.IGNORED, ("delete", "/delete"), {"delete"}),
        (Fault.GHOSTS, ("list", "list-gone"), {"list-gone"}),
        (Fault.OMITTED, ("list", "list-new"), {"list-new"}),
        (Fault.CORRUPT, ("get_range", "/suffix"), {"range-suffix"}),
    ],
)
def test_what_is_only_worth_knowing_is_a_warning(fault, where, warned):
    faults = Faults(rates={fault: 1.0}, where=lambda operation, key: operation == where[0] and where[1] in key)
    checkup = examined(FaultyStore(MemoryStore(), clock=VirtualClock(), seed=3, faults=faults), quick=True)
    assert checkup.fitness is Fitness.FULL
    assert outcomes(checkup, Outcome.WARNING) == warned
    assert checkup.left == [key for key in checkup.left if "/delete" in key]


def test_a_clock_that_is_off_and_a_slow_store_are_said():
    class Slow(VirtualClock):
        def monotonic_ns(self):
            self.now_ns += 2 * SECOND_NS
            return self.now_ns

    clock = Slow()
    store = MemoryStore(wall_ns=lambda: 10**18)
    checkup = examined(store, clock=clock, quick=True)
    assert outcomes(checkup, Outcome.WARNING) == {"clock-skew", "latency"}
    ticks = iter(range(10**6, 0, -1))
    assert "clock-order" in outcomes(examined(MemoryStore(wall_ns=lambda: next(ticks)), quick=True), Outcome.WARNING)


def test_a_store_that_cannot_be_reached_is_asked_only_once():
    store = FaultyStore(MemoryStore(), clock=VirtualClock(), faults=Faults(schedule={1: Fault.OUTAGE}))
    checkup = examined(store)
    assert checkup.fitness is Fitness.REFUSE
    assert outcomes(checkup, Outcome.FAILED) == {"put"}
    assert all(finding.outcome is Outcome.UNKNOWN for finding in checkup.findings[1:])
    assert checkup.left == [f"doctor/v1/probe/{EXAMINATION}/put"]


def test_only_what_merges_need_decides_the_verdict():
    weights = {probe.name: probe.weight for probe in (*STORE_PROBES, *BUCKET_PROBES)}
    assert {name for name, weight in weights.items() if weight is Weight.CONCURRENCY} == {
        "create-refused",
        "create-unchanged",
        "create-race",
        "create-ambiguous",
    }
    assert weights["lifecycle"] is weights["put"] is Weight.EVERYTHING


# --- what merges and prunes ask themselves -----------------------------------------------------------------------------------


async def test_the_short_question_is_answered_and_leaves_one_object_for_all_times():
    store = MemoryStore()
    draw = ids()
    for _ in range(5):
        assert await conditions_kept(store, draw) is None
    assert [info.key async for info in store.list("")] == [CONDITIONS_KEY]
    assert "replaces what is there" in (await conditions_kept(IgnoringStore(), draw) or "")


async def test_without_a_clear_answer_the_short_question_stays_open():
    store = FaultyStore(MemoryStore(), clock=VirtualClock(), faults=Faults(schedule={2: Fault.OUTAGE}))
    with pytest.raises(StoreError, match="unknown"):
        await conditions_kept(store, ids())


async def test_one_who_is_alone_may_use_a_store_that_ignores_conditions():
    store = SoleWriterStore(IgnoringStore())
    await require_fit(store, ids(), 0)
    await store.create("k", b"mine")
    await store.create("k", b"mine")
    with pytest.raises(AlreadyExistsError):
        await store.create("k", b"other")
    lying = SoleWriterStore(FaultyStore(IgnoringStore(), clock=VirtualClock(), faults=Faults(rates={Fault.DAMAGED: 1.0})))
    with pytest.raises(StoreError, match="read back"):
        await lying.create("k", b"x")


async def test_a_fresh_verdict_against_a_store_is_heeded_for_a_day():
    now = [1000 * conditions.FRESH_NS]
    store = MemoryStore(wall_ns=lambda: now[0])
    broken = FaultyStore(store, clock=VirtualClock(), faults=Faults(rates={Fault.CORRUPT: 1.0}))
    ill = patient(broken, quick=True)
    checkup = await examine(ill, STORE_PROBES)
    assert checkup.fitness is Fitness.REFUSE
    key = await store_verdict(ill, checkup, "test")
    with pytest.raises(RefusedError, match=r"found memory:// unfit \(put, "):
        await require_fit(store, ids(), now[0] + conditions.FRESH_NS)
    await require_fit(store, ids(), now[0] + conditions.FRESH_NS + 1)
    now[0] += 1
    well = Patient(store, SystemClock(), "f" * 16, ids(), quick=True)
    await store_verdict(well, await examine(well, STORE_PROBES), "test")
    await require_fit(store, ids(), now[0])
    found = await latest_verdict(store)
    assert found is not None
    assert (found[0].fitness, found[0].write_id, found[1]) == (Fitness.FULL, "f" * 16, now[0])
    assert key != conditions.verdict_key("f" * 16)


async def test_a_damaged_verdict_is_told_and_one_that_is_gone_or_newer_passed_over():
    store = MemoryStore()
    await store.create(conditions.verdict_key("1"), b"{}")
    with pytest.raises(CorruptionError, match="not a verdict"):
        await require_fit(store, ids(), 0)
    await store.delete(conditions.verdict_key("1"))
    newer = b'{"format":"twintape-verdict/2","write_id":"1","fitness":"refuse","version":"","probes":[]}'
    await store.create(conditions.verdict_key("2"), newer)
    await require_fit(store, ids(), 0)
    ghosts = FaultyStore(store, clock=VirtualClock(), faults=Faults(rates={Fault.GHOSTS: 1.0}))
    await ghosts.delete(conditions.verdict_key("2"))
    assert await latest_verdict(ghosts) is None


def test_a_prune_asks_before_it_reads_anything(tmp_path):
    store = IgnoringStore()
    put(store, Recorder("tokyo").seals([Exchange()]))
    with pytest.raises(RefusedError, match="--single-merger"):
        prune(store, grace_h=-1)
    merge(SoleWriterStore(store), tmp_path)
    _, report = prune(SoleWriterStore(store), grace_h=-1, gapped_h=-1)
    assert report.deleted


# --- real stores -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("server", "more"), [("radosgw", ["--quick"]), ("ministack", [])])
def test_a_real_store_is_fit(server, more, request, monkeypatch):
    endpoint = request.getfixturevalue(server)
    for name, value in endpoint.environment().items():
        monkeypatch.setenv(name, value)
    report = json.loads(call("doctor", "--store", f"s3://twintape-test/doctor-{server}", "--json", *more))
    assert report["verdict"] == "full"
    assert report["left"] == []
    by_name = {probe["name"]: probe for probe in report["probes"]}
    # A gateway that has just started may take its time.
    left_out = {"large", "list-pages"} if more else set()
    assert {name for name, probe in by_name.items() if probe["outcome"] != "passed"} - {"latency"} == {"versioning"} | left_out
    assert by_name["versioning"]["detail"] == "versioning is off"
    store = endpoint.store("twintape-test", f"doctor-{server}")
    assert all_keys(store) == [report["stored"]]


def test_rclone_is_refused_by_doctor_merge_and_prune_and_they_say_what_to_do(rclone, monkeypatch):
    for name, value in rclone.environment().items():
        monkeypatch.setenv(name, value)
    store = "s3://twintape-test/refused"
    report = json.loads(call("doctor", "--store", store, "--json", "--quick", expect=3))
    by_name = {probe["name"]: probe for probe in report["probes"]}
    assert report["verdict"] == "refuse", "it answers ranges with whole objects, too"
    assert by_name["create-refused"]["detail"] == "the second put was answered with success"
    assert "single-merger" in by_name["create-refused"]["advice"]
    assert by_name["range"]["outcome"] == "failed"
    assert "verdict: refuse" in call("doctor", "--store", store, "--quick", expect=3)
    for command in (["merge", "--date", DAYS[1]], ["prune"], ["prune", "--execute"], ["nightly"]):
        done = run_refused(*command, "--store", store)
        assert "does not honour If-None-Match: it answers a create-only put as if it had no condition" in done
        assert "--single-merger" in done
        assert len(done.splitlines()) == 1


def run_refused(*arguments):
    import contextlib
    import io

    text = io.StringIO()
    with contextlib.redirect_stderr(text):
        from typer.testing import CliRunner

        from twintape.cli import app

        done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert done.exit_code == 3, (done.exit_code, done.output)
    return done.stderr


def test_a_store_that_rejects_conditional_puts_is_refused(ministack, monkeypatch):
    def reject(request):
        return "501" if "if-none-match" in request.headers else "pass"

    with proxy(ministack.url, reject) as before:
        for name, value in {**ministack.environment(), "AWS_ENDPOINT_URL": before.url}.items():
            monkeypatch.setenv(name, value)
        report = json.loads(call("doctor", "--store", "s3://twintape-test/rejects", "--json", "--quick", expect=3))
        assert report["verdict"] == "refuse"
        done = run_refused("merge", "--date", DAYS[1], "--store", "s3://twintape-test/rejects")
        assert "does not honour If-None-Match: it rejects create-only puts" in done
        assert "501" in done


def test_a_store_behind_which_conditions_get_lost_works_for_one_merger_who_says_so(ministack, monkeypatch, tmp_path):
    with proxy(ministack.url, lambda _request: "unconditional") as before:
        for name, value in {**ministack.environment(), "AWS_ENDPOINT_URL": before.url}.items():
            monkeypatch.setenv(name, value)
        url = "s3://twintape-test/unconditional"
        report = json.loads(call("doctor", "--store", url, "--json", "--quick", expect=1))
        assert report["verdict"] == "single-merger"
        put(open_store(url), Recorder("tokyo").seals([Exchange()]))
        assert "--single-merger" in run_refused("merge", "--date", DAYS[1], "--store", url)
        merged = json.loads(call("merge", "--date", DAYS[1], "--store", url, "--single-merger", "--json", expect=(0, 1)))
        assert [outcome["fresh"] for outcome in merged if outcome["stream"] == "depth@100ms"] == [True]
        assert "dry run" in call("prune", "--store", url, "--grace", "0s", "--single-merger")


# --- roles -------------------------------------------------------------------------------------------------------------------


def policies():
    """Return the statements of docs/roles.md, by role."""
    text = (ROOT / "docs" / "roles.md").read_text()
    found = dict(re.findall(r"```json (\w+)\n(.*?)```", text, re.DOTALL))
    assert set(found) == set(Role)
    return {role: json.loads(policy)["Statement"] for role, policy in found.items()}


def test_the_policies_name_every_table_of_the_archive():
    for role in (Role.MERGER, Role.PRUNER):
        text = json.dumps(policies()[role])
        assert [table for table in TABLES if f"PREFIX/{table}/*" not in text] == []


def test_every_role_is_allowed_what_it_needs_and_nothing_it_must_not_on_a_real_store(radosgw):
    bucket = radosgw.make_bucket("twintape-roles")
    statements = [statement for role in Role for statement in policies()[role]]
    text = json.dumps({"Version": "2012-10-17", "Statement": statements})
    text = text.replace("BUCKET", bucket).replace("PREFIX/", "somewhere/")
    for user in ("tokyo", "merger", "pruner"):
        add_user(radosgw, user, user, f"{user}secret")
    answer = asyncio.run(radosgw.bucket(bucket).ask("PUT", query="policy=", body=text.encode()))
    assert answer.status in (200, 204), answer
    for role, user in ((Role.COLLECTOR, "tokyo"), (Role.MERGER, "merger"), (Role.PRUNER, "pruner")):
        store = radosgw.store(bucket, "somewhere", key=user, secret=f"{user}secret")
        checkup = examined(store, role_probes(role, "tokyo"))
        assert {f.probe.name: f.detail for f in checkup.findings if f.outcome is not Outcome.PASSED} == {}, role
        assert len(checkup.findings) == len(permissions_of(role, "tokyo"))
    operator = examined(radosgw.store(bucket, "elsewhere"), role_probes(Role.COLLECTOR, "tokyo"))
    assert {f.probe.name for f in operator.findings if f.outcome is Outcome.FAILED} == {
        probe.name for probe in role_probes(Role.COLLECTOR, "tokyo") if probe.name.startswith("may-not-")
    }
    assert operator.left == [], "what was put where it must not be possible is deleted again"


def test_a_whole_night_works_with_the_credentials_of_the_roles(radosgw, tmp_path):
    bucket = radosgw.make_bucket("twintape-night")
    text = json.dumps({"Version": "2012-10-17", "Statement": [s for role in Role for s in policies()[role]]})
    text = text.replace("BUCKET", bucket).replace("PREFIX/", "")
    for user in ("tokyo", "merger", "pruner"):
        add_user(radosgw, user, user, f"{user}secret")
    assert asyncio.run(radosgw.bucket(bucket).ask("PUT", query="policy=", body=text.encode())).status in (200, 204)
    stores = {user: radosgw.store(bucket, "", key=user, secret=f"{user}secret") for user in ("tokyo", "merger", "pruner")}
    keys = put(stores["tokyo"], Recorder("tokyo").seals([Exchange()]))
    merge(stores["merger"], tmp_path)
    _, report = prune(stores["pruner"], grace_h=-1, gapped_h=-1)
    assert set(report.deleted) == set(keys)


def test_a_role_nobody_knows_is_a_usage_error(tmp_path):
    (tmp_path / "store").mkdir()
    run("doctor", "--store", tmp_path / "store", "--role", "king", expect=2)
