"""Connections that come and go, stall and lag, for hours and days of virtual time: what is lost is what nobody could hear."""

import asyncio
import importlib.util
import sys
from pathlib import Path

import pytest

from support.network import World
from twintape.core.budget import SECOND_NS
from twintape.core.session import State

S = SECOND_NS
ROOT = Path(__file__).parents[2]


def bench(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "bench" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


ROTATIONS = bench("rotations")
STALLS = bench("stalls")
FAULTS = bench("faults")


def holes(world):
    """How many holes there are in what was heard, and in everything that was said while a connection existed."""
    pairs = [world.lost(stream) for stream in world.streams]
    return sum(heard for heard, _ in pairs), sum(said for _, said in pairs)


@pytest.mark.slow
def test_a_thousand_rotations_lose_no_id():
    world = ROTATIONS.rotate(1000, seed=7, rotate_s=90)
    assert len(world.retired) >= 1000
    assert holes(world) == (0, 0)
    assert world.named("gap") == []
    assert len(world.snapshots) == 3  # the first of each stream; a rotation needs none
    assert {reason for _, reason in world.retired} == {"replaced: age"}
    assert world.most_dials() < 20


def test_a_bare_fin_every_hour_loses_only_what_was_said_to_nobody():
    world = ROTATIONS.fins(0.5, seed=3)
    lost, unexplained = holes(world)
    assert world.shard.tally.reconnects.total() >= 10
    assert lost > 0
    assert unexplained == 0
    gaps = world.named("gap")
    assert lost <= len(gaps)
    snapshots = [action for _, action in world.snapshots if action.reason not in ("first", "quiet")]
    assert len(snapshots) == len(gaps)  # every gap asks for one, at once


def test_with_two_connections_a_bare_fin_every_hour_loses_nothing():
    world = ROTATIONS.fins(0.5, seed=3, seats=2)
    assert world.shard.tally.reconnects.total() >= 20
    assert holes(world) == (0, 0)
    assert world.named("gap") == []
    assert len(world.snapshots) == 3


def test_a_connection_that_is_replaced_before_it_is_cut_loses_nothing():
    world = ROTATIONS.fins(0.5, seed=3, rotate_s=40 * 60)
    assert world.shard.tally.reconnects.total() == 0
    assert holes(world) == (0, 0)


@pytest.mark.slow
def test_three_hundred_stalls_are_all_noticed_within_five_seconds_and_data_flows_again_within_three():
    report = STALLS.run_stalls(300, seed=11)
    assert (report.undetected, report.unrecovered) == (0, 0)
    assert (set(report.seconds), set(report.back)) == (set(STALLS.STALLS), set(STALLS.KINDS))
    values = report.all_seconds()
    assert (len(values), len(report.all_back())) == (250, 300)
    assert STALLS.quantile(report.all_back(), 0.99) <= 3
    assert STALLS.quantile(values, 0.99) <= 5
    assert (
        min(values) >= 2
    )  # a stream may have been silent for a while when its connection stalls; nobody is accused before three
    assert report.dials_most < 100


def test_a_symbol_with_silences_of_seconds_is_not_taken_for_dead():
    alarms, _ = STALLS.run_quiet(6 * 3600, seed=5)
    assert alarms == []


@pytest.mark.corpus
def test_the_real_silences_of_a_quiet_symbol_are_not_taken_for_stalls(corpus):
    spacings = STALLS.nexousdt_spacings()
    assert max(spacings) > 43
    alarms, _ = STALLS.run_quiet(sum(spacings), seed=1, spacings=spacings)
    assert alarms == []


# --- shutdown notices


def steady_world(**options):
    world = World(["btcusdt@depth@100ms", "ethusdt@depth@100ms"], **options)
    for stream in world.streams:
        world.speak(stream, lambda: world.random.uniform(0.08, 0.12))
    return world


@pytest.mark.parametrize("lead_s", [5, 30, 600])
def test_a_shutdown_notice_costs_nothing_when_there_is_time_to_change(lead_s):
    world = steady_world(seed=2)
    world.run(30)
    (wire,) = world.wires.values()
    world.tell_shutdown(wire)
    world.at(lead_s, world.cut, wire, 1001)
    world.run(lead_s + 30)
    assert holes(world) == (0, 0)
    assert world.retired[0][1] == "replaced: server shutdown"
    assert (len(world.wires), world.shard.tally.reconnects.total()) == (1, 0)


def test_a_notice_without_time_loses_only_what_was_said_to_nobody():
    world = steady_world(seed=2)
    world.run(30)
    (wire,) = world.wires.values()
    world.tell_shutdown(wire)
    world.cut(wire, 1001)
    world.run(30)
    lost, unexplained = holes(world)
    assert (lost > 0, unexplained) == (True, 0)


def test_a_pool_that_is_drained_tells_new_connections_too_and_there_is_no_storm():
    world = steady_world(seed=4)
    world.on_open = world.tell_shutdown  # each is told the moment it is open
    world.run(1800)
    assert world.shard.serving.state is State.OPEN
    assert holes(world) == (0, 0)
    assert world.most_dials() < 40
    world.on_open = lambda wire: None
    world.run(200)
    assert len(world.wires) == 1


# --- storms


def test_an_exchange_that_refuses_for_an_hour_sees_no_storm_and_is_found_again_within_half_a_minute():
    world = steady_world(seed=6)
    world.run(60)
    world.refuses = lambda: True
    for wire in list(world.wires.values()):
        world.cut(wire)
    world.run(3600)
    assert world.most_dials() < 60
    world.refuses = lambda: False
    world.run(35)
    assert world.shard.serving.frames > 0


def test_fifty_connections_that_are_cut_together_all_come_back_within_the_attempts_of_an_address():
    worlds = [steady_world(seed=seed) for seed in range(50)]
    shared = worlds[0].attempts
    for world in worlds:
        world.shard._attempts = shared

    def all_run(seconds):
        for _ in range(seconds):
            for world in worlds:
                world.run(1)

    all_run(3)
    for _ in range(6):  # six times within a minute: 300 connections, 350 attempts
        for world in worlds:
            for wire in list(world.wires.values()):
                world.cut(wire)
        all_run(10)
    all_run(120)
    times = sorted(time for world in worlds for time in world.dials)
    assert max(sum(start <= time < start + 300 * S for time in times) for start in times) <= 240
    all_run(220)
    assert all(world.shard.serving is not None and world.shard.serving.state is State.OPEN for world in worlds)


# --- lateness


def test_a_connection_that_falls_ever_further_behind_is_replaced_and_loses_nothing():
    world = steady_world(seed=8)
    world.run(120)
    (wire,) = world.wires.values()
    for _ in range(200):  # 100 ms more each second
        wire.latency_ns += S // 10
        world.run(1)
        if wire.session not in world.wires:
            break
    world.run(90)
    assert next(action.name for _, _, action in world.notices) == "lagging"
    assert world.retired[0][1] == "replaced: lagging"
    assert holes(world) == (0, 0)
    assert 30 < (world.replacements[0][0] - 1120 * S) / S < 45  # three seconds late after half a minute


def test_a_halt_of_the_exchange_is_suspected_and_costs_few_connections():
    world = steady_world(seed=9)
    world.run(300)
    world._events = [event for event in world._events if event[2] != world._say]  # trading stops
    world.run(2.5 * 3600)
    assert world.suspect_lines[0][2]["reason"] == "silent"
    assert len(world.dials) < 40
    assert world.most_dials() <= 6
    for stream in world.streams:
        world.speak(stream, lambda: 0.1)
    world.run(60)
    assert holes(world) == (0, 0)
    assert world.named("gap") == []  # no id is missing across it


# --- faults of every kind


@pytest.mark.parametrize("seats", [1, 2])
def test_sixty_four_faults_of_all_kinds_lose_nothing_that_a_healthy_connection_was_sent(seats):
    outcome = asyncio.run(FAULTS.play(17, seats, faults=64))
    assert outcome.failures == []
    assert outcome.injected == dict.fromkeys(FAULTS.FAULTS, 4)
    assert (outcome.lost, outcome.attempts_most < 120) == (0, True)
    assert outcome.rotations >= 5
    assert outcome.holes > 0  # there were times without any connection


def test_the_judge_of_faults_notices_an_id_that_was_dropped_and_a_gap_that_was_not_declared(monkeypatch):
    judge = FAULTS.judge

    def tampered(world, *others):
        heard = world.heard[world.streams[0]]
        del heard[len(heard) // 2]
        judge(world, *others)

    monkeypatch.setattr(FAULTS, "judge", tampered)
    monkeypatch.setattr(FAULTS, "CALM_S", 60)
    outcome = asyncio.run(FAULTS.play(17, 1, faults=1, kinds=("fin",)))
    assert outcome.lost > 0
    assert ["nobody declared" in failure for failure in outcome.failures[:2]] == [True, False]
    assert "healthy connection" in outcome.failures[1]
