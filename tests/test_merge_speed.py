"""A small made-up day through the whole of `twintape merge`: its CPU time against the floor of the same run, and its memory.

The bounds are wide: start-up alone is several floors of so small a day. `bench/merge_day.py` measures in earnest.
"""

import argparse
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).resolve().parents[1] / "bench"
CPU_OVER_FLOOR_MAX = 60
PEAK_MIB_MAX = 700


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="peak memory is read from /proc")
def test_a_small_day_costs_a_bounded_multiple_of_the_floor(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(BENCH))
    import merge_day

    options = argparse.Namespace(scale=0.02, seed=1, recut=False, rounds=1, cache=tmp_path, profile=False, peer=None)
    found = merge_day.measure(options)
    assert (found["events"], found["gaps"], found["status"]) == (17080, 1, "gapped")
    assert found["rendered"] == found["input_events"] - 2700, "all but what belongs to the days around"
    assert found["cpu_over_floor"] < CPU_OVER_FLOOR_MAX
    assert found["peak_mib"] < PEAK_MIB_MAX
