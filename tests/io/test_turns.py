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


@pytest.fixture
def rests(monkeypatch):
    """Judge often, and note every rest instead of taking it."""
    taken = []
    monkeypatch.setattr(turns, "JUDGE_S", 0.02)
    monkeypatch.setattr(turns.time, "sleep", taken.append)
    return taken


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
    assert set(rests) == {turns.REST_S_MAX}


async def test_a_loop_that_is_less_busy_rests_in_proportion(rests):
    async with taking_turns(Frames(round(turns.FULL_PER_S * 0.02 / 2))):
        await until(lambda: len(rests) > 50)
    assert set(rests) == {turns.REST_S_MAX / 2}


async def test_on_a_machine_short_of_cpu_it_rests_no_more_than_once_between_two_judgements(rests, monkeypatch):
    monkeypatch.setattr(turns, "LATE_S", -1.0)  # every rest is one that took too long
    frames = Frames(turns.BUSY_PER_S)
    async with taking_turns(frames):
        await until(lambda: len(rests) > 3)
    assert len(rests) <= frames.count // frames.step


async def test_a_loop_that_is_not_busy_never_rests(rests):
    frames = Frames(int(turns.BUSY_PER_S * 0.02) - 1)
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
