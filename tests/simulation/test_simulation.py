"""The whole system in virtual time. The long run: `twintape simulate --seeds 2000 --days 5 --jobs 2` (10,000 days)."""

import os
import subprocess
import sys
from collections import Counter

import pytest

from twintape.core.errors import ConfigError
from twintape.simulation.faults import Kind, chosen, parse_kinds
from twintape.simulation.simulation import simulate

DAYS = 2
SEEDS = range(8)
MORE_SEEDS, MORE_DAYS, SEEDS_A_TEST = range(100, 137), 5, 4
DIGEST = f"from twintape.simulation.simulation import simulate; print(simulate(3, days={DAYS}).digest)"


@pytest.fixture(scope="module")
def reports():
    return [simulate(seed, days=DAYS) for seed in SEEDS]


def test_no_promise_is_broken_whatever_goes_wrong(reports):
    broken = {report.seed: report.violation for report in reports if report.violation is not None}
    assert broken == {}


@pytest.mark.slow
@pytest.mark.parametrize("first", MORE_SEEDS[::SEEDS_A_TEST])
def test_no_promise_is_broken_in_longer_stories(first):
    seeds = range(first, min(first + SEEDS_A_TEST, MORE_SEEDS.stop))
    broken = {seed: violation for seed in seeds if (violation := simulate(seed, days=MORE_DAYS).violation) is not None}
    assert broken == {}


def test_everything_that_can_happen_does_happen_in_some_seed(reports):
    counts = Counter()
    for report in reports:
        counts.update(report.counts)
        assert len(report.events_by_day) == DAYS
        assert min(report.events_by_day) >= 2000
    wanted = ["books right", "days read", "raw deleted", "outputs deleted", "later generations", "gaps", "lines promised"]
    wanted += ["deaths", "power losses", "disk errors", "merger kills", "prunes", "published gapped", "restarts", "blackouts"]
    assert [name for name in wanted if not counts[name]] == []


@pytest.mark.parametrize("seed", [1, 4])
def test_without_faults_the_archive_has_every_event_but_those_said_before_anybody_listened_and_every_raw_object_goes(seed):
    report = simulate(seed, days=DAYS, kinds=())
    assert report.violation is None
    assert report.kinds == ()
    assert (report.counts["gaps"], report.counts["damaged objects"], report.counts["collector failures"]) == (0, 0, 0)
    # There are no gaps: what was said to nobody was said before the first subscription, and nothing else is missing.
    assert report.counts["rows"] == report.counts["events"] - report.counts["events said to nobody"]
    assert report.counts["raw deleted"] == report.counts["uploads"]


def test_a_seed_replays_to_the_same_trace_in_another_process_with_another_hash_seed(reports):
    environment = os.environ | {"PYTHONHASHSEED": "4711"}
    found = subprocess.run([sys.executable, "-c", DIGEST], env=environment, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == reports[3].digest


def test_other_seeds_have_other_stories(reports):
    assert len({report.digest for report in reports}) == len(reports)
    assert len({report.kinds for report in reports}) > 5


def test_faults_are_named_or_left_to_the_seed():
    assert parse_kinds("all") is None
    assert parse_kinds("none") == ()
    assert parse_kinds("kill,power") == (Kind.KILL, Kind.POWER)
    assert chosen((Kind.KILL,), None) == {Kind.KILL}
    with pytest.raises(ConfigError, match="not faults"):
        parse_kinds("kill,typhoon")
