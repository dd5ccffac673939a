"""Mistakes made on purpose are found out. All of them: `uv run python tests/mutations/hunt.py` (ten minutes of one core)."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from mutations.mutants import MUTANTS

HUNT = Path(__file__).with_name("hunt.py")
SHORT = [
    "the local copy goes before the upload",
    "lines are acknowledged before the sync",
    "outputs are deleted whoever names them",
]
"""Cheap ones of each room; the rest is for the long run."""


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name.replace(" ", "-"))
def test_a_mistake_still_has_its_place(mutant):
    for path, source in mutant.sources().values():
        assert compile(source, str(path), "exec")
        assert source != path.read_text(encoding="utf-8")


def test_there_are_enough_of_them_and_each_has_its_own_name():
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS) >= 20


@pytest.mark.parametrize("name", SHORT)
def test_a_mistake_is_found_out(name):
    (mutant,) = [mutant for mutant in MUTANTS if mutant.name == name]
    command = [sys.executable, str(HUNT), "--one", name, "--first", str(mutant.seed), "--seeds", "2"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    seed, words = json.loads(done.stdout.splitlines()[-1])
    assert seed >= mutant.seed
    assert words
