"""A whole market's load, small: the same run as `bench/whole_market.py`, for what must hold on any machine."""

import importlib.util
import shutil
import sys
from argparse import Namespace
from pathlib import Path

import pytest

BENCH = Path(__file__).parents[2] / "bench" / "whole_market.py"


def bench():
    spec = importlib.util.spec_from_file_location("whole_market", BENCH)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.skipif(shutil.which("openssl") is None, reason="makes a certificate with the openssl command")
def test_nothing_is_lost_of_many_streams_over_several_tls_connections(tmp_path):
    options = Namespace(
        seconds=4.0,
        frames_per_second=1000.0,
        frame_bytes=600,
        connections=5,
        symbols=200,
        store=None,
        samples=tmp_path / "samples.jsonl",
        sample_seconds=1.0,
        floor_seconds=0,
    )
    found = bench().run(options, tmp_path)
    assert (found["failures"], found["exit_code"], found["lost_ids"]) == ([], 0, 0)
    assert (found["frames_sent"], found["connections"]) == (4000, 5)
    if "disconnected" not in found["events"]:  # on a machine that stood still a connection may have been replaced
        assert found["lost_frames"] == 0
    assert found["rss_mib"]["last"] > 10
    assert found["queue_peak_bytes"] > 0
    assert found["steady_cpu_percent_by_part"]["event_loop"] > 0
    assert found["loop_lag"]["max_ms"] >= found["loop_lag"]["p50_ms"] >= 0
    assert found["idle_loop_lag"]
    assert len(options.samples.read_text().splitlines()) >= 3
