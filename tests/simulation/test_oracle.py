"""What the simulation's oracle lets a prune delete."""

import asyncio
from types import SimpleNamespace

import pytest

from support.store import DAYS, Exchange, Recorder, merge, put
from twintape.core.markets import Market
from twintape.simulation.loop import VirtualLoop
from twintape.simulation.oracle import Oracle
from twintape.simulation.world import BrokenPromiseError, World


@pytest.fixture
def store():
    loop = VirtualLoop()
    world = World(1, start_ns=0, pace=1, loop=loop)
    yield Oracle(world, SimpleNamespace(symbols={}), Market.SPOT).store
    loop.close()


@pytest.fixture
def segments():
    return Recorder("tokyo").seals([Exchange()])


def damaged(data):
    return data[:-1] + bytes([data[-1] ^ 1])


def delete(store, key):
    asyncio.run(store.delete(key))


def test_raw_data_may_not_go_before_every_line_is_in_an_archive(store, segments):
    keys = put(store, segments)
    with pytest.raises(BrokenPromiseError, match="of its lines are in no head's outputs"):
        delete(store, keys[0])


def test_raw_data_may_go_when_it_is_settled(store, segments, tmp_path):
    keys = put(store, segments)
    merge(store, tmp_path, DAYS)
    delete(store, keys[0])
    assert keys[0] not in store


def test_an_object_that_nobody_could_read_may_not_go(store, segments, tmp_path):
    first, *others = segments
    asyncio.run(store.create(first.key, damaged(first.data)))
    put(store, others)
    merge(store, tmp_path, DAYS)
    with pytest.raises(BrokenPromiseError, match="nobody has read it"):
        delete(store, first.key)


def test_a_settled_object_that_comes_back_may_go_again_even_if_it_is_damaged_now(store, segments, tmp_path):
    keys = put(store, segments)
    merge(store, tmp_path, DAYS)
    delete(store, keys[0])
    asyncio.run(store.create(keys[0], damaged(segments[0].data)))
    delete(store, keys[0])
    assert keys[0] not in store


def test_an_object_that_comes_back_damaged_is_judged_by_the_lines_it_once_had(store, segments):
    keys = put(store, segments)
    with store.rotten(keys[0], damaged(segments[0].data)), pytest.raises(BrokenPromiseError, match="in no head's outputs"):
        delete(store, keys[0])
