"""What a proof says beyond its chain survives being written, and older proofs are read."""

import msgspec

from twintape.core.evidence import Checkpoints, Evidence, SnapshotRecord, Tickers


def test_records_are_written_in_the_order_of_their_fields_and_read_back():
    record = SnapshotRecord(
        last_update_id=7,
        collector="tokyo",
        connection="0000aaaa-1",
        receive_time_ns=1,
        verdict="passed",
        prev_update_id=5,
        final_update_id=8,
        bid_low="1.5",
        ask_high=None,
    )
    data = msgspec.json.encode(Checkpoints(passed=1, snapshots=[record]))
    assert data.startswith(
        b'{"passed":1,"failed":0,"anchors":0,"outside":0,"failures":[],"snapshots":[{"last_update_id":7,"collector":"tokyo"'
    )
    assert msgspec.json.decode(data, type=Checkpoints).snapshots == [record]


def test_what_an_older_proof_does_not_say_is_empty_and_what_a_newer_one_says_is_ignored():
    assert msgspec.json.decode(b'{"passed":3,"failed":0,"later":[1]}', type=Checkpoints).snapshots == []
    assert msgspec.json.decode(b"{}", type=Tickers) == Tickers()
    evidence = Evidence(level="V0", name="bytes", verdict="held", counts={"frames": 2**62})
    assert msgspec.json.decode(msgspec.json.encode(evidence), type=Evidence) == evidence
