"""The levels of a proof follow from its own counts."""

from collections.abc import Sequence

import msgspec
import pytest

from twintape.core.evidence import Checkpoints, PartialBooks, Sanity, Tickers, Windows
from twintape.core.manifest import (
    BookDigest,
    Edge,
    EpochStart,
    GapRecord,
    Input,
    Missing,
    Proof,
    Reference,
    Status,
    UnknownRange,
    Unreadable,
    Verification,
)
from twintape.core.proven import evidence_of

GAP = GapRecord(
    after_update_id=1,
    next_prev_update_id=2,
    gap_class="unknown",
    from_event_time_us=None,
    to_event_time_us=1,
    reason="nobody knows",
)
BOOK = BookDigest(update_id=1, sha256="0" * 64)


def proof(stream: tuple[str, str] = ("BTCUSDT", "depth@100ms"), *, inputs: Sequence[Input] = ()) -> Proof:
    return Proof(
        market="spot",
        symbol=stream[0],
        stream=stream[1],
        date="2026-03-02",
        generation=1,
        write_id="0" * 16,
        parent=None,
        plan=Reference(key="plan/v1/x", sha256="0" * 64),
        status=Status.COMPLETE,
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
        inputs=list(inputs),
        created_ns=0,
        version="test",
    )


def verdicts(stream=("BTCUSDT", "depth@100ms"), **changes) -> dict[str, str]:
    found = msgspec.structs.replace(proof(stream), **changes)
    return {level.level: level.verdict for level in evidence_of(found)}


def counts(level: str, found: Proof) -> dict[str, int]:
    return next(one.counts for one in evidence_of(found) if one.level == level)


def test_a_bare_proof_has_bytes_and_a_chain_and_no_witness():
    assert verdicts() == {"V0": "held", "V1": "held", "V2": "none", "V3": "none", "V4": "none", "V5": "none", "V6": "none"}


@pytest.mark.parametrize(
    ("level", "verdict", "changes"),
    [
        ("V0", "limited", {"unreadable": [Unreadable(key="raw/x", reason="torn")]}),
        ("V0", "limited", {"missing": [Missing(collector="tokyo", chain="c", numbers=[(3, 4)])]}),
        ("V1", "limited", {"gaps": [GAP]}),
        ("V1", "limited", {"open_start": True}),
        ("V1", "limited", {"gap_behind": True}),
        ("V1", "limited", {"epochs": [EpochStart(prev_update_id=1, first_event_time_us=1)]}),
        ("V2", "held", {"checkpoints": Checkpoints(anchors=1)}),
        ("V2", "held", {"opening_book": BOOK}),
        ("V2", "limited", {"opening_book": BOOK, "book_unknown": [UnknownRange(prev_update_id=1, final_update_id=2, events=1)]}),
        ("V2", "none", {"book_unknown": [UnknownRange(prev_update_id=1, final_update_id=2, events=1)]}),
        ("V3", "held", {"checkpoints": Checkpoints(passed=1, outside=3)}),
        ("V3", "none", {"checkpoints": Checkpoints(anchors=1, outside=3)}),
        ("V3", "failed", {"checkpoints": Checkpoints(passed=5, failed=1)}),
        ("V4", "held", {"verification": Verification(lines_agree=5), "windows": Windows()}),
        ("V4", "held", {"windows": Windows(equal=1)}),
        ("V4", "limited", {"windows": Windows(equal=1, omitted=1)}),
        ("V4", "failed", {"verification": Verification(conflicts=1)}),
        ("V5", "held", {"tickers": Tickers(equal=1)}),
        ("V5", "none", {"tickers": Tickers()}),
        ("V5", "limited", {"tickers": Tickers(equal=1, suspect=1)}),
        ("V5", "failed", {"tickers": Tickers(equal=1, different=1)}),
        ("V5", "held", {"partial_books": PartialBooks(passed=2)}),
        ("V5", "failed", {"tickers": Tickers(equal=9), "partial_books": PartialBooks(passed=2, failed=1)}),
        ("V6", "held", {"sanity": Sanity(far_prices=3)}),
        ("V6", "none", {"sanity": Sanity(), "events": 0}),
        ("V6", "limited", {"sanity": Sanity(event_time_back=1)}),
        ("V6", "failed", {"sanity": Sanity(crossed=1)}),
    ],
)
def test_a_verdict_is_what_the_counts_make_it(level, verdict, changes):
    assert verdicts(**changes)[level] == verdict


def test_counts_are_the_proofs():
    source = Input(key="raw/x", size=1, sha256="0" * 64, collector="tokyo", count=5, settled=3, owed=2)
    found = msgspec.structs.replace(
        proof(inputs=[source, source]),
        missing=[Missing(collector="tokyo", chain="c", numbers=[(3, 4), (9, 9)])],
        book_unknown=[UnknownRange(prev_update_id=1, final_update_id=2, events=1)],
        checkpoints=Checkpoints(anchors=2),
    )
    assert {name: counts("V0", found)[name] for name in ("segments", "settled", "missing")} == {
        "segments": 2,
        "settled": 6,
        "missing": 3,
    }
    assert counts("V2", found) == {"anchors": 2, "opening_book": 0, "events_known": 0, "events_unknown": 1}


def test_streams_without_a_book_have_bytes_ids_and_copies():
    trades = ("BTCUSDT", "trade")
    assert verdicts(trades, verification=Verification(lines_agree=2)) == {"V0": "held", "V1": "held", "V4": "held"}
    assert verdicts(trades, start=Edge())["V1"] == "none"
