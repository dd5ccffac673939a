"""What an operator reads is true: every event and metric of the code is documented and no other, and alert rules name what is there."""

import ast
import asyncio
import re
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import aiohttp
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families
from tests.io.test_collector_runner import Rig, depth

from support import promql
from twintape.io.levels import ALARMING, ROUTINE, WARNING
from twintape.io.night_metrics import night_metrics
from twintape.io.status import StatusServer

ROOT = Path(__file__).resolve().parents[1]
OPERATIONS = (ROOT / "docs" / "operations.md").read_text()
RULES = ROOT / "docs" / "alerts" / "twintape.rules.yml"
ALERTS = [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]

# --- what the code says

TELLERS = {"Notice", "notice", "report", "_notice", "_on_notice"}
LOGGERS = {"_journal", "journal"}
FORWARDERS = {"record.py", "collector.py", "link.py"}
"""Files that may hand on a name they were given."""


def event_names():
    """Return every event name a call in the source gives, and the calls whose name is not written there."""
    names, dynamic = set(), set()
    for path in sorted((ROOT / "src").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            name = told(node)
            for value in [] if name is None else [name.body, name.orelse] if isinstance(name, ast.IfExp) else [name]:
                if isinstance(value, ast.Constant) and isinstance(value.value, str):
                    names.add(value.value)
                else:
                    dynamic.add(path.name)
    return names, dynamic


def told(node):
    """Return the expression of the name that a call tells, or None."""
    if not isinstance(node, ast.Call) or not node.args:
        return None
    function, arguments = node.func, node.args
    if isinstance(function, ast.Name):
        return arguments[0] if function.id == "Notice" else None
    if not isinstance(function, ast.Attribute):
        return None
    if function.attr == "_call" and isinstance(arguments[0], ast.Attribute) and arguments[0].attr in TELLERS:
        return arguments[1]  # handed to the event loop
    if function.attr in TELLERS:
        return arguments[0]
    owner = function.value
    is_log = (
        isinstance(owner, ast.Attribute | ast.Name) and (owner.attr if isinstance(owner, ast.Attribute) else owner.id) in LOGGERS
    )
    return arguments[0] if is_log and function.attr in ("info", "warning", "error") else None


EVENTS, DYNAMIC = event_names()


def tables(heading):
    """Return the rows of all tables of docs/operations.md whose first heading is this, as lists of cells."""
    rows, within = [], False
    for line in OPERATIONS.splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if not line.startswith("|"):
            within = False
        elif cells[0] == heading:
            within = True
        elif within and not set(line) <= set("|-: "):
            rows.append(cells)
    return rows


def quoted(cell):
    return re.findall(r"`([^`]+)`", cell)


def documented_events():
    return [name for row in tables("event") for name in quoted(row[0])]


def test_every_event_that_the_code_can_log_is_documented_once_and_no_other():
    documented = documented_events()
    assert sorted(documented) == sorted(EVENTS)
    assert len(EVENTS) >= 50
    assert all(len(row) == 3 and row[1] and row[2] for row in tables("event"))


def test_only_what_hands_names_on_does_not_say_them():
    assert DYNAMIC <= FORWARDERS


def test_every_event_with_a_level_exists_and_has_one_level_and_alarms_are_marked():
    assert ALARMING | WARNING | ROUTINE <= EVENTS
    assert len(ALARMING | WARNING | ROUTINE) == len(ALARMING) + len(WARNING) + len(ROUTINE)
    marked = {name for row in tables("event") for name in re.findall(r"`(\w+)` \(alarm\)", row[0])}
    assert marked == ALARMING


# --- what /metrics says


@pytest.fixture(scope="module")
def metrics(tmp_path_factory):
    """The text that a collector serves, and the night's file."""

    async def ask():
        directory = tmp_path_factory.mktemp("spool")
        async with Rig(directory) as rig, StatusServer(rig.collector, 0) as server, aiohttp.ClientSession() as http:
            rig.socket.hear(depth(1, 2), depth(5, 9))
            await rig.let(120)
            async with http.get(f"http://127.0.0.1:{server.port}/metrics") as answer:
                return await answer.text()

    text = asyncio.run(ask())
    day = SimpleNamespace(date="2026-11-21", status="complete", error=None)
    return text + night_metrics([day], began_ns=0, finished_ns=10**9).decode()


def types(text):
    return dict(re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE))


def test_every_metric_is_documented_with_its_labels_and_no_other(metrics):
    documented = {}
    for row in tables("metric"):
        for name in quoted(row[0]):
            metric, _, labels = name.partition("{")
            assert metric not in documented
            documented[metric] = set(filter(None, labels.rstrip("}").split(",")))
    assert set(documented) == set(types(metrics))
    for family in text_string_to_metric_families(metrics):
        for sample in family.samples:
            metric = next(name for name in (sample.name, family.name) if name in documented)
            if metric != "twintape_build_info":
                assert set(sample.labels) - {"le"} == documented[metric], metric


def test_metrics_are_named_as_prometheus_wants_them(metrics):
    assert subprocess_check("promtool", ["check", "metrics"], metrics) in (0, None)
    for name, kind in types(metrics).items():
        assert (kind == "counter") == name.endswith("_total"), name
        assert not re.search(r"(milli|nano|micro)seconds|_ns$|_ms$|kilobytes", name)
    help_texts = dict(re.findall(r"^# HELP (\S+) (.+)$", metrics, re.MULTILINE))
    assert set(help_texts) == set(types(metrics))


def test_no_label_can_grow_without_bound(metrics):
    labels = {label for family in text_string_to_metric_families(metrics) for sample in family.samples for label in sample.labels}
    assert labels == {"market", "event", "status", "pool", "reason", "result", "le", "source", "version", "collector"}


def subprocess_check(program, arguments, text=None, cwd=None):
    """Return the exit code of a program, or None if it is not installed."""
    found = shutil.which(program)
    if found is None:
        return None
    done = subprocess.run([found, *arguments], input=text, capture_output=True, text=True, check=False, cwd=cwd, timeout=60)
    if done.returncode:
        print(done.stdout, done.stderr)
    return done.returncode


# --- alerts


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert["alert"])
def test_an_alert_says_how_bad_it_is_what_happened_and_what_to_do(alert):
    assert alert["labels"]["severity"] in ("critical", "warning")
    assert set(alert["annotations"]) == {"summary", "description", "action"}
    assert all(text.strip() for text in alert["annotations"].values())
    assert re.fullmatch(r"Twintape[A-Za-z0-9]+", alert["alert"])
    promql.read(alert["expr"])


def test_alerts_name_metrics_labels_and_events_that_are_there_from_the_beginning(metrics):
    series = {}
    for family in text_string_to_metric_families(metrics):
        for sample in family.samples:
            series.setdefault(sample.name, []).append(sample.labels)
    series["up"] = [{}]
    added_by_prometheus = {"job", "instance"}
    for alert in ALERTS:
        selectors, groups = promql.read(alert["expr"])
        assert selectors
        for selector in selectors:
            assert selector.metric in series, f"{alert['alert']}: {selector.metric}"
            known = set().union(*series[selector.metric]) | added_by_prometheus
            assert groups | {label for label, _, _ in selector.matchers} <= known, alert["alert"]
            for label, operator, value in selector.matchers:
                if label not in added_by_prometheus:
                    assert operator in ("=", "=~")
                    for word in value.split("|"):  # a series that begins with its first count is seen by no increase
                        assert any(labels[label] == word for labels in series[selector.metric]), (
                            f"{alert['alert']}: {label}={word}"
                        )
        used = set(re.findall(r"\$labels\.(\w+)", str(alert["annotations"])))
        assert used <= set().union(*(set().union(*series[s.metric]) for s in selectors)) | added_by_prometheus, alert["alert"]


def test_alerts_have_names_of_their_own():
    names = [alert["alert"] for alert in ALERTS]
    assert len(set(names)) == len(names) > 30


def test_events_that_alarm_have_an_alert_or_a_metric_that_has_one():
    """A log line that somebody should act on must not be the only way to learn of it."""
    by_metric = {
        "queue_full": "twintape_paused",
        "descriptors_short": "twintape_descriptors_left",
        "rest_blocked": "twintape_rest_blocked_seconds",
        "upload_failing": "twintape_upload_failures_total",
        "spool_alarm": "twintape_spool_alarm",
    }
    expressions = "\n".join(alert["expr"] for alert in ALERTS)
    assert {name for name in ALARMING if by_metric.get(name, name) not in expressions} == set()


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool (Debian: prometheus) is not installed")
def test_prometheus_accepts_the_rules_and_they_fire_as_their_tests_say():
    assert subprocess_check("promtool", ["check", "rules", RULES.name], cwd=RULES.parent) == 0
    assert subprocess_check("promtool", ["test", "rules", "twintape.test.yml", "twintape.night.test.yml"], cwd=RULES.parent) == 0


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a >",
        "a{b}",
        'a{b="c"',
        "rate(a)",
        "sum by market (a)",
        "unknown(a)",
        "a b",
        "a == == b",
        "a[5m]",
        'a{b<"c"}',
        "by",
        "a $ b",
        "increase(a[5x])",
    ],
)
def test_what_is_no_expression_is_refused(text):
    with pytest.raises(promql.PromqlError):
        promql.read(text)


def test_an_expression_is_read_with_all_its_series():
    selectors, groups = promql.read('sum by (le, x) (rate(a_bucket{y=~"1|2"}[5m])) > 2 * abs(b) and time() - (c) < 1 or d')
    assert [selector.metric for selector in selectors] == ["a_bucket", "b", "c", "d"]
    assert selectors[0].matchers == (("y", "=~", "1|2"),)
    assert groups == {"le", "x"}
