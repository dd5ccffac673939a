"""The power fails at every step of a spool's disk: the short version of `bench/power_loss.py`."""

import importlib.util
from pathlib import Path

import pytest

PATH = Path(__file__).parents[2] / "bench" / "power_loss.py"
SPEC = importlib.util.spec_from_file_location("power_loss", PATH)
power_loss = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(power_loss)


@pytest.mark.parametrize("seed", [0, 1, 2, 3, 5, 7, 9])
def test_no_power_loss_takes_a_line_whose_sync_returned_and_recovery_invents_none(seed):
    assert power_loss.crash_everywhere(seed, every=9) > 15


@pytest.mark.parametrize("seed", [0, 2])
def test_no_kill_takes_a_line_whose_write_returned(seed):
    assert power_loss.crash_everywhere(seed, every=9, power=False) > 15


def test_a_life_is_the_same_every_time():
    first, again = (power_loss.Life(3).run(crash_at=40, done=0.5) for _ in range(2))
    assert first.synced == again.synced
    disks = [witness.volume.open() for witness in (first, again)]
    assert disks[0].list() == disks[1].list() != []
    assert [disks[0].read(path) for path in disks[0].list()] == [disks[1].read(path) for path in disks[1].list()]
