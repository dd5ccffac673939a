"""What a simulated machine promises of the lines on its disk."""

from types import SimpleNamespace

import pytest

from twintape.core.settings import parse_record_settings
from twintape.simulation.loop import VirtualLoop
from twintape.simulation.machine import Machine
from twintape.simulation.world import World

SETTINGS = 'collector = "tokyo"\nmarkets = [{market = "spot", symbols = ["BTCUSDT"], streams = ["depth@100ms"]}]\n'
LINES = {b'1 {"stream":"a"}', b'2 {"stream":"b"}'}


class Life:
    """A machine whose process has synced one line and written another."""

    def __init__(self):
        self.loop = VirtualLoop()
        world = World(1, start_ns=0, pace=1, loop=self.loop)
        self.machine = Machine(world, parse_record_settings(SETTINGS), SimpleNamespace(connections=[]), None, None)
        self.disk = self.machine.volume.open()
        for path, line in zip(("spot/active/run-1-1.tape", "spot/active/run-1-2.tape"), sorted(LINES), strict=True):
            file = self.disk.append(path)
            file.write(line + b"\n")
            if line.startswith(b"1"):
                file.sync()
                self.machine._acknowledge("synced", path, len(line) + 1)
            self.machine._acknowledge("written", path, len(line) + 1)

    def die(self, *, power):
        self.loop.run_until_complete(self.machine.die(power=power, down_s=0.0))
        return self.machine.promised


@pytest.fixture
def life():
    one = Life()
    yield one
    one.loop.close()


def test_what_was_synced_is_promised_at_once_and_what_was_written_when_the_process_is_killed(life):
    assert life.machine.promised == {b'1 {"stream":"a"}'}
    assert life.die(power=False) == LINES


def test_what_was_only_written_is_not_promised_when_the_power_fails(life):
    assert life.die(power=True) == {b'1 {"stream":"a"}'}


def test_what_a_kill_left_may_go_with_the_power_until_the_next_life_has_sealed_it(life):
    life.die(power=False)
    assert life.die(power=True) == {b'1 {"stream":"a"}'}


def test_what_the_next_life_has_sealed_stays_promised_when_the_power_fails(life):
    life.die(power=False)
    disk = life.machine.volume.open()
    disk.write_atomically("spot/sealed/run-1-2.zst", disk.read("spot/active/run-1-2.tape"))
    disk.remove("spot/active/run-1-2.tape")
    assert life.die(power=True) == LINES
