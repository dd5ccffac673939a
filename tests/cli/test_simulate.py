import json

import pytest
from typer.testing import CliRunner

from twintape.cli import app
from twintape.simulation.oracle import Oracle
from twintape.simulation.world import BrokenPromiseError


def run(*arguments):
    return CliRunner().invoke(app, ["simulate", *arguments])


def test_a_seed_is_simulated_and_judged():
    result = run("--seed", "5", "--days", "1", "--faults", "kill,store")
    assert result.exit_code == 0
    assert "seed 5  ok" in result.stdout
    assert "faults: kill,store" in result.stdout
    assert "no seeds broke a promise" in result.stdout


def test_machines_get_one_line_of_json_with_everything_but_the_story():
    result = run("--days", "1", "--faults", "none", "--json")
    found = json.loads(result.stdout)
    assert (found["seed"], found["faults"], found["violation"]) == (0, [], None)
    assert found["counts"]["events"] > 2000


@pytest.mark.parametrize("whole", [True, False])
def test_a_broken_promise_is_told_as_a_story_with_the_command_that_repeats_it(monkeypatch, whole):
    def found(oracle):
        raise BrokenPromiseError("the book at id 7 is wrong")

    monkeypatch.setattr(Oracle, "check_archive", found)
    result = run("--seed", "1", "--days", "1", "--faults", "none", *(["--story"] if whole else []))
    assert result.exit_code == 1
    assert "BROKEN" in result.stdout
    assert "ORACLE       the book at id 7 is wrong" in result.stdout
    assert "merger-1" in result.stdout
    assert "twintape simulate --seed 1 --days 1 --faults none --story" in result.stderr


def test_a_fault_that_nobody_knows_is_a_clear_error():
    result = run("--faults", "typhoon")
    assert result.exit_code == 2
    assert "not faults: 'typhoon'" in result.stderr
