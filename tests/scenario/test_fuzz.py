"""Short runs of `bench/fuzz.py`, which has the long ones."""

import asyncio

import pytest

from support.flips import SEGMENT_BYTES, big_segment, unnoticed
from support.fuzzing import MUTATED_SHARE, fire, targets
from support.store import Exchange, Recorder, generations, keys_of, merge, prune, put
from twintape.core.segment import verify_segment
from twintape.io.store import MemoryStore

NAMES = ("segment", "index", "active", "plan", "proof", "receipt", "wire", "tape", "names", "survey", "snapshot")
EXECUTIONS = 3000


@pytest.fixture(scope="module")
def decoders(tmp_path_factory):
    store = MemoryStore()
    put(store, Recorder("tokyo", lost={"BTCUSDT": {7}}, snapshots=(0, 10), tickers=False).seals([Exchange(events=45)]))
    merge(store, tmp_path_factory.mktemp("scratch"))
    prune(store, grace_h=-1, gapped_h=-1)
    plans, proofs = ([asyncio.run(store.get(key)) for key in keys] for keys in (keys_of(store, "plan/"), generations(store)))
    receipts = [asyncio.run(store.get(key)) for key in keys_of(store, "receipt/") if key.endswith("/plan.json")]
    return {target.name: target for target in targets(plans, proofs, receipts)}


def test_every_decoder_is_under_fire(decoders):
    assert tuple(decoders) == NAMES
    assert all(target.corpus for target in decoders.values())


@pytest.mark.parametrize("name", NAMES)
def test_hostile_bytes_are_accepted_or_refused_and_nothing_else(decoders, name):
    tally = fire(decoders[name], EXECUTIONS, seed=20261122)
    assert tally.findings == []
    assert tally.executions == EXECUTIONS
    assert tally.mutated > EXECUTIONS * MUTATED_SHARE * 0.9
    assert tally.accepted, "mutations never get past the door"


def test_a_decoder_that_crashes_is_found(decoders):
    crashing = decoders["tape"]
    crashing = type(crashing)("crashing", lambda data: int(data[:1]), [b"1"], {})
    assert fire(crashing, 100, seed=1).findings


def test_bits_turned_over_anywhere_in_a_segment_are_noticed():
    data = big_segment()
    assert len(data) == SEGMENT_BYTES
    verify_segment(data)
    # Every bit of the last kibibytes, where index and trailer are, and a sample of all others.
    tail = range((len(data) - 1024) * 8, len(data) * 8)
    assert unnoticed(data, [*tail, *range(0, tail.start, 61)]) == []
