import itertools

import msgspec
import pytest

from twintape.core import manifest
from twintape.core.errors import CorruptionError, RefusedError
from twintape.core.manifest import (
    Acceptance,
    Candidate,
    Edge,
    Input,
    Plan,
    PlanInput,
    Proof,
    PrunePolicy,
    PruneReceipt,
    PruneReport,
    Reference,
    Settlement,
    Status,
    Unreadable,
    decode,
    digest,
    encode,
    held_reason,
    plain,
    settlement,
    status_of,
    unsettled_reason,
)

HOUR_NS = 3_600_000_000_000
POLICY = PrunePolicy(grace_ns=72 * HOUR_NS, gapped_grace_ns=14 * 24 * HOUR_NS)
DEPTH = ("BTCUSDT", "depth@100ms")
TICKER = ("BTCUSDT", "bookTicker")


def proof(stream: tuple[str, str] = DEPTH, *, inputs: list[Input] = [], status: Status = Status.COMPLETE) -> Proof:  # noqa: B006
    return Proof(
        market="spot",
        symbol=stream[0],
        stream=stream[1],
        date="2026-03-02",
        generation=1,
        write_id="0" * 16,
        parent=None,
        plan=Reference(key="plan/v1/x", sha256="0" * 64),
        status=status,
        reasons=[],
        start=Edge(update_id=1),
        end=Edge(update_id=2),
        open_start=False,
        open_end=False,
        opening_book=None,
        closing_book=None,
        outputs=[],
        events=1,
        levels=1,
        first_event_time_us=None,
        last_event_time_us=None,
        inputs=inputs,
        created_ns=0,
        version="test",
    )


def source(settled: int, *, sha256: str = "aa", count: int = 10) -> Input:
    return Input(key="raw/a", size=1, sha256=sha256, collector="tokyo", count=count, settled=settled, owed=count - settled)


def plan() -> Plan:
    entry = PlanInput(key="raw/a", size=1, sha256="aa", index_sha256="bb", collector="tokyo", chain="cc", number=2**60)
    return Plan(market="spot", date="2026-03-02", inputs=[entry])


# --- documents -------------------------------------------------------------------------------------------------------------------


def test_documents_are_the_same_after_writing_and_reading() -> None:
    documents = [
        plan(),
        proof(inputs=[source(3)]),
        PruneReceipt(write_id="1", delete=[]),
        PruneReport(write_id="1", deleted=[], absent=[], kept=[]),
    ]
    for document in documents:
        assert decode(encode(document), type(document), where="x") == document
        assert decode(encode(decode(encode(document), type(document), where="x")), type(document), where="x") == document
        assert plain(document)["format"] == document.format


def test_keys_are_written_in_the_order_of_the_format_and_without_white_space() -> None:
    text = encode(plan())
    assert text.startswith(b'{"format":"twintape-plan/1","market":"spot","date":"2026-03-02","inputs":[{"key":"raw/a","size":1,')
    assert b'"number":1152921504606846976' in text
    assert b" " not in text


def test_unknown_keys_are_ignored() -> None:
    text = encode(plan())
    assert decode(text[:-1] + b',"later":{"x":[1]}}', Plan, where="x") == plan()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        b"null",
        b"\xff\xfe",
        b"[" * 200_000,
        b'{"format":"twintape-plan/1"}',
        encode(plan())[:-1],
        encode(plan()) + b"x",
    ],
)
def test_whatever_is_no_document_is_damage_that_says_where(data: bytes) -> None:
    with pytest.raises(CorruptionError, match="plan/v1/here: not a plan"):
        decode(data, Plan, where="plan/v1/here")


def test_values_of_another_type_are_damage() -> None:
    for name, value in (("inputs", 3), ("date", None), ("inputs", [{"key": "x"}]), ("missing", [{"collector": 1}])):
        fields = plain(plan()) | {name: value}
        with pytest.raises(CorruptionError):
            decode(msgspec.json.encode(fields), Plan, where="x")
    with pytest.raises(CorruptionError):
        decode(encode(proof()).replace(b'"complete"', b'"perfect"'), Proof, where="x")


def test_a_document_beyond_all_measure_is_not_even_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifest, "DOCUMENT_BYTES_MAX", 100)
    with pytest.raises(CorruptionError, match="too many"):
        decode(encode(proof()), Proof, where="x")


@pytest.mark.parametrize("found", ["twintape-proof/2", "twintape-plan/1", ""])
def test_a_format_of_another_version_or_kind_is_refused(found: str) -> None:
    text = encode(proof()).replace(b"twintape-proof/1", found.encode())
    with pytest.raises(RefusedError, match="a newer twintape"):
        decode(text, Proof, where="x")


def test_a_document_of_no_version_is_read_by_its_fields() -> None:
    edge = Edge(update_id=7)
    assert decode(encode(edge), Edge, where="x") == edge


def test_the_digest_is_sha256() -> None:
    assert digest(b"abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


# --- status ----------------------------------------------------------------------------------------------------------------------


def test_the_worst_finding_is_the_status() -> None:
    for conflicts, gaps, reasons in itertools.product((0, 2), (0, 3), ([], ["begins at an edge"])):
        wanted = Status.CONFLICTED if conflicts else Status.GAPPED if gaps else Status.PARTIAL if reasons else Status.COMPLETE
        assert status_of(conflicts=conflicts, gaps=gaps, partial_reasons=reasons) is wanted


# --- what may be deleted ---------------------------------------------------------------------------------------------------------


def candidate(**counts: int) -> Candidate:
    streams = {"depth": DEPTH, "ticker": TICKER}
    return Candidate(key="raw/a", size=1, sha256="aa", counts={streams[name]: count for name, count in counts.items()})


def reason(
    found: Candidate, settled: Settlement | None, *, created_h: float = 0, now_h: float = 10_000, unproven: tuple[str, ...] = ()
) -> str | None:
    created = {} if settled is None else dict.fromkeys(settled.proofs, int(created_h * HOUR_NS))
    return unsettled_reason(
        found, settled, policy=POLICY, proof_created_ns=created, now_ns=int(now_h * HOUR_NS), unproven_outputs=unproven
    )


def test_settled_counts_add_up_over_heads_and_stay_apart_by_stream_and_digest() -> None:
    heads = {
        "p1": proof(inputs=[source(4), source(1, sha256="bb")]),
        "p2": proof(inputs=[source(6)], status=Status.GAPPED),
        "p3": proof(TICKER, inputs=[source(2)]),
    }
    found = settlement(heads)
    assert found["aa"] == Settlement({DEPTH: 10, TICKER: 2}, {"p1": Status.COMPLETE, "p2": Status.GAPPED, "p3": Status.COMPLETE})
    assert found["bb"] == Settlement({DEPTH: 1}, {"p1": Status.COMPLETE})
    assert settlement({}) == {}


def test_a_raw_object_may_go_when_every_frame_of_every_stream_is_settled() -> None:
    whole = Settlement({DEPTH: 10, TICKER: 5}, {"p": Status.COMPLETE})
    assert reason(candidate(depth=10, ticker=5), whole) is None
    assert reason(candidate(depth=10, ticker=5), None) == "no proof has settled it"
    assert reason(candidate(depth=11, ticker=5), whole) == "BTCUSDT depth@100ms: 10 of 11 frames settled"
    assert reason(candidate(depth=9, ticker=5), whole) == "BTCUSDT depth@100ms: 10 of 9 frames settled"
    assert reason(candidate(depth=10), whole) == "BTCUSDT bookTicker: settled by a proof but not in the index"
    assert reason(candidate(depth=10), Settlement({DEPTH: 10, TICKER: 0}, {"p": Status.COMPLETE})) is None
    assert reason(candidate(ticker=5), Settlement({TICKER: 5}, {})) is None
    assert reason(candidate(depth=10), Settlement({}, {"p": Status.COMPLETE})) == "BTCUSDT depth@100ms: 0 of 10 frames settled"


@pytest.mark.parametrize(
    ("status", "hours"), [(Status.COMPLETE, 72), (Status.PARTIAL, 72), (Status.GAPPED, 14 * 24), (Status.CONFLICTED, 14 * 24)]
)
def test_the_grace_depends_on_the_status(status: Status, hours: int) -> None:
    settled = Settlement({DEPTH: 10}, {"p": status, "q": Status.COMPLETE})
    assert reason(candidate(depth=10), settled, created_h=5, now_h=5 + hours - 0.5) == "grace: 0.5 h left by p"
    assert reason(candidate(depth=10), settled, created_h=5, now_h=5 + hours) is None


@pytest.mark.parametrize(
    ("status", "unreadable", "held"),
    [
        (Status.CONFLICTED, [], "is conflicted"),
        (Status.CONFLICTED, [Unreadable(key="k", reason="r")], "is conflicted"),
        (Status.PARTIAL, [Unreadable(key="k", reason="r")], "may lack 1 unreadable raw objects"),
        (Status.GAPPED, [], None),
        (Status.COMPLETE, [], None),
    ],
)
def test_a_day_in_dispute_or_with_unreadable_inputs_holds_its_raw_data_until_it_is_accepted(
    status: Status, unreadable: list[Unreadable], held: str | None
) -> None:
    found = msgspec.structs.replace(proof(inputs=[source(10)], status=status), unreadable=unreadable)
    assert held_reason(found) == held
    settled = settlement({"p": found, "q": proof(TICKER, inputs=[source(5)])})["aa"]
    wanted = None if held is None else f"p {held}, and is not accepted"
    assert reason(candidate(depth=10, ticker=5), settled, now_h=10**6) == wanted
    accepted = msgspec.structs.replace(found, acceptance=Acceptance(by="ann", reason="seen"))
    assert held_reason(accepted) is None
    assert settlement({"p": accepted})["aa"].held == {}


def test_a_gapped_day_never_waits_less_than_a_complete_one() -> None:
    assert PrunePolicy(grace_ns=9, gapped_grace_ns=3).grace_of(Status.GAPPED) == 9


def test_outputs_that_could_not_be_read_back_keep_what_they_settle() -> None:
    settled = Settlement({DEPTH: 10}, {"p": Status.COMPLETE})
    assert reason(candidate(depth=10), settled, unproven=("p",)) == "the outputs of p could not be verified"
    assert reason(candidate(depth=10), settled, unproven=("q",)) is None
