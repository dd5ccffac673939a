import asyncio
import contextlib
import time

import pytest

from twintape.io import turns


class Frames:
    """A count that grows by so many each time somebody asks."""

    def __init__(self, step):
        self.step, self.count = step, 0

    def __call__(self):
        self.count += self.step
        return self.count


class Time:
    """A clock that only rests move on, and the work that is done between two of them."""

    def __init__(self):
        self.now_s, self.rests, self.work_s, self.late_s = 0.0, [], 0.0, 0.0

    def monotonic(self):
        return self.now_s

    def sleep(self, seconds):
        self.rests.append(seconds)
        self.now_s += seconds + self.late_s

    async def work(self):
        while True:
            self.now_s += self.work_s
            await asyncio.sleep(0)


@pytest.fixture
def clock(monkeypatch):
    """Judge often, and note every rest instead of taking it."""
    monkeypatch.setattr(turns, "JUDGE_S", 0.05)
    monkeypatch.setattr(turns, "time", made := Time())
    return made


@pytest.fixture
def rests(clock):
    return clock.rests


@contextlib.asynccontextmanager
async def taking_turns(frames):
    task = asyncio.create_task(turns.take_turns(frames))
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def until(condition, seconds=30):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.001)


async def test_a_busy_loop_rests_and_does_everything_else_in_between(rests):
    async with taking_turns(Frames(turns.FULL_PER_S)):
        await until(lambda: len(rests) > 50)  # this task goes on meanwhile
    assert rests == pytest.approx([turns.TURN_S_MAX] * len(rests))


async def test_half_the_load_makes_turns_a_quarter_as_long(rests):
    async with taking_turns(Frames(round(turns.FULL_PER_S * 0.05 / 2))):
        await until(lambda: len(rests) > 50)
    assert rests == pytest.approx([turns.TURN_S_MAX / 4] * len(rests))


async def test_work_is_a_part_of_the_turn(clock):
    clock.work_s = turns.TURN_S_MAX / 5
    worker = asyncio.create_task(clock.work())
    async with taking_turns(Frames(turns.FULL_PER_S)):
        await until(lambda: len(clock.rests) > 50)
        assert sorted(clock.rests)[:25] == pytest.approx([turns.TURN_S_MAX * 4 / 5] * 25)  # all but the first behind a judgement
        clock.work_s = 2 * turns.TURN_S_MAX
        clock.rests.clear()
        await until(lambda: len(clock.rests) > 50)
        assert sorted(clock.rests)[:25] == [0.0] * 25  # and the turns go on
    worker.cancel()


async def test_on_a_machine_short_of_cpu_it_rests_no_more_than_once_between_two_judgements(clock, rests):
    clock.late_s = 1.1 * turns.LATE_S
    frames = Frames(turns.BUSY_PER_S)
    async with taking_turns(frames):
        await until(lambda: len(rests) > 3)
    assert len(rests) <= frames.count // frames.step


async def test_a_loop_that_is_not_busy_never_rests(rests):
    frames = Frames(int(turns.BUSY_PER_S * 0.05) - 1)
    async with taking_turns(frames):
        await until(lambda: frames.count > 10 * frames.step)
    assert rests == []


async def test_the_rests_end_with_the_load(rests):
    frames = Frames(turns.BUSY_PER_S)
    async with taking_turns(frames):
        await until(lambda: rests)
        frames.step = 0
        asked = frames.count
        await asyncio.sleep(0.1)
        count = len(rests)
        await asyncio.sleep(0.1)
        assert frames.count == asked
        assert len(rests) == count
