import os
import signal
import time

import pytest

from twintape.core import segment, wire
from twintape.core.index import ChainLink
from twintape.core.markets import Market
from twintape.io import sealer as module
from twintape.io.disk import PosixDisk
from twintape.io.sealer import SealerHere, SealerProcess, SealOrder

CHAIN = ChainLink("0" * 16, 0, None, "new spool")
NAME = "aaaaaaaa-1-1.tape"


def write_active(root, *, lines=40_000, damage=b""):
    """Write an active file large enough for the process."""
    opened = wire.open_line(
        collector="tokyo",
        market=Market.SPOT,
        run="a" * 32,
        connection=1,
        sequence=1,
        url="",
        version="1",
        streams=["btcusdt@trade"],
        event_time_us=None,
    )
    frames = [b'{"stream":"btcusdt@trade","data":{"e":"trade","E":1728000000000,"t":%d}}' % number for number in range(lines)]
    text = b"".join(segment.format_line(10**18 + number, frame) for number, frame in enumerate([opened, *frames]))
    path = root / "spot" / "active" / NAME
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text + damage)
    return SealOrder(f"spot/active/{NAME}", len(text) + len(damage), "tokyo", Market.SPOT, CHAIN)


@pytest.fixture
def process(tmp_path):
    made = SealerProcess(tmp_path, PosixDisk(tmp_path))
    yield made
    made.close()


def here(tmp_path, order):
    sealer = SealerHere(PosixDisk(tmp_path))
    sealer.start(order)
    return sealer.answer(wait=True)


def test_the_process_makes_the_same_bytes_as_sealing_on_the_spot(tmp_path, process):
    order = write_active(tmp_path, damage=b"torn")
    process.start(order)
    assert process._process is not None, "a file of this size is sealed elsewhere"
    answer = process.answer(wait=True)
    assert answer == here(tmp_path, order)
    assert answer.tail == b"torn"
    assert segment.verify_segment(answer.data).count == 40_001


def test_an_answer_that_is_not_there_yet_is_not_waited_for(tmp_path, process):
    process.start(write_active(tmp_path))
    assert process.answer(wait=False) is None  # it takes longer to start than to ask
    deadline = time.monotonic() + 30
    while (answer := process.answer(wait=False)) is None and time.monotonic() < deadline:
        time.sleep(0.01)
    assert answer is not None
    assert answer.data is not None


def test_a_small_file_needs_no_process(tmp_path, process):
    order = write_active(tmp_path, lines=3)
    process.start(order)
    assert process.answer(wait=False) == here(tmp_path, order)
    assert process._process is None


def test_a_process_that_is_killed_at_work_is_replaced_and_nothing_is_missing(tmp_path, process):
    order = write_active(tmp_path)
    expected = here(tmp_path, order)
    for _ in range(module.STARTS_MAX + 1):  # the last ones are sealed on the spot: no more processes are tried
        process.start(order)
        if process._process is not None:
            process._process.send_signal(signal.SIGKILL)
            process._process.wait()
        assert process.answer(wait=True) == expected
    assert process._process is None


def test_a_process_that_hangs_is_given_up_in_time(tmp_path, process, monkeypatch):
    monkeypatch.setattr(module, "ANSWER_S_MAX", 0.2)
    order = write_active(tmp_path)
    process.start(order)
    os.kill(process._process.pid, signal.SIGSTOP)
    assert process.answer(wait=True) == here(tmp_path, order)


def test_signals_to_the_whole_process_group_do_not_end_it(tmp_path, process):
    order = write_active(tmp_path)
    process.start(order)
    assert process.answer(wait=True).data is not None
    for number in (signal.SIGINT, signal.SIGTERM):
        os.kill(process._process.pid, number)
    process.start(order)
    assert process.answer(wait=True).data is not None
    assert process._starts == 1


def test_what_cannot_be_sealed_is_told_from_what_cannot_be_read(tmp_path, process):
    order = write_active(tmp_path)
    (tmp_path / order.path).write_bytes(b"1 {}\n" * 300_000)
    process.start(order)
    assert "does not begin with an open line" in process.answer(wait=True).corrupt
    (tmp_path / order.path).write_bytes(b"")
    process.start(order)
    assert process.answer(wait=True) == module.SealAnswer()
    (tmp_path / order.path).unlink()
    process.start(order)
    assert "No such file" in process.answer(wait=True).unreadable


def test_where_no_process_can_be_started_files_are_sealed_on_the_spot(tmp_path, process, monkeypatch):
    monkeypatch.setattr(module.sys, "executable", "/nonexistent/python")
    order = write_active(tmp_path)
    process.start(order)
    assert process.answer(wait=False) == here(tmp_path, order)
