import asyncio

import pytest

from twintape.simulation.loop import run


def test_time_passes_only_while_everybody_waits():
    async def main():
        loop = asyncio.get_running_loop()
        order = []

        async def one(name, seconds):
            await asyncio.sleep(seconds)
            order.append((name, loop.time()))

        await asyncio.gather(one("late", 86_400.0), one("soon", 0.25), one("now", 0))
        return order

    assert run(main()) == [("now", 0.0), ("soon", 0.25), ("late", 86_400.0)]


def test_waiting_for_what_will_never_happen_is_an_error():
    async def main():
        await asyncio.Event().wait()

    with pytest.raises(RuntimeError, match="nothing will ever happen"):
        run(main())


def test_what_is_left_running_is_cancelled():
    ended = []

    async def for_ever():
        try:
            await asyncio.sleep(1e9)
        finally:
            ended.append("cancelled")

    async def main():
        task = asyncio.create_task(for_ever())
        await asyncio.sleep(1)
        return task.done()

    assert run(main()) is False
    assert ended == ["cancelled"]


def test_an_error_reaches_the_caller():
    async def main():
        raise ValueError("as it is")

    with pytest.raises(ValueError, match="as it is"):
        run(main())
