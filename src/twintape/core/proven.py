"""What a proof proves, level by level, from its own counts: nothing here looks at a byte that the proof does not already speak of.

| level | name | held means |
|---|---|---|
| V0 | bytes | every raw frame has one fate, and the outputs, read back, render to exactly what was settled |
| V1 | chain | every id of the day is in an event; gaps, restarts and open ends limit it |
| V2 | anchored | the book is known behind every event, from a snapshot of the chain or from the day before |
| V3 | checkpoints | further snapshots equal the book |
| V4 | lines | lines agree wherever they have ids in common |
| V5 | streams | bookTicker and partial books equal the book |
| V6 | sanity | nothing that a working exchange does not do |
"""

from __future__ import annotations

from twintape.core.evidence import Evidence
from twintape.core.manifest import Proof
from twintape.core.wire import is_depth

__all__ = ["FAILED", "HELD", "LIMITED", "NONE", "evidence_of"]

HELD, LIMITED, FAILED, NONE = "held", "limited", "failed", "none"


def evidence_of(proof: Proof) -> list[Evidence]:
    """Return the levels V0 to V6 of a day with their verdicts and counts; streams that are not spliced have no book, and only V0, V1 and V4."""
    levels = [_bytes(proof), _chain(proof)]
    if is_depth(proof.stream):
        levels += [_anchored(proof), _checkpoints(proof), _lines(proof), _streams(proof), _sanity(proof)]
    else:
        levels.append(_lines(proof))
    return levels


def _verdict(*, failed: int = 0, limited: int = 0, evidence: int = 1) -> str:
    if failed:
        return FAILED
    if not evidence:
        return NONE
    return LIMITED if limited else HELD


def _bytes(proof: Proof) -> Evidence:
    settled, check = sum(source.settled for source in proof.inputs), proof.verification
    counts = {
        "segments": len(proof.inputs),
        "frames": sum(line.frames for line in proof.lines),
        "settled": settled,
        "rendered": check.render_exact,
        "kept": check.render_kept,
        "read_back_bytes": check.read_back_bytes,
        "unreadable": len(proof.unreadable),
        "missing": sum(last - first + 1 for hole in proof.missing for first, last in hole.numbers),
    }
    return Evidence(level="V0", name="bytes", verdict=_verdict(limited=counts["unreadable"] + counts["missing"]), counts=counts)


def _chain(proof: Proof) -> Evidence:
    counts = {
        "events": proof.events,
        "gaps": len(proof.gaps),
        "overlaps": len(proof.overlaps),
        "switches": len(proof.switches),
        "restarts": len(proof.epochs),
        "open_ends": proof.open_start + proof.open_end + proof.gap_behind,
    }
    known = is_depth(proof.stream) or proof.start.update_id is not None
    limited = counts["gaps"] + counts["restarts"] + counts["open_ends"]
    return Evidence(level="V1", name="chain", verdict=_verdict(limited=limited, evidence=known), counts=counts)


def _anchored(proof: Proof) -> Evidence:
    unknown = sum(part.events for part in proof.book_unknown)
    counts = {
        "anchors": proof.checkpoints.anchors,
        "opening_book": int(proof.opening_book is not None),
        "events_known": proof.events - unknown,
        "events_unknown": unknown,
    }
    anchored = counts["anchors"] + counts["opening_book"]
    return Evidence(level="V2", name="anchored", verdict=_verdict(limited=unknown, evidence=anchored), counts=counts)


def _checkpoints(proof: Proof) -> Evidence:
    points = proof.checkpoints
    counts = {"passed": points.passed, "failed": points.failed, "outside": points.outside}
    return Evidence(level="V3", name="checkpoints", verdict=_verdict(failed=points.failed, evidence=points.passed), counts=counts)


def _lines(proof: Proof) -> Evidence:
    counts = {"copies_equal": proof.verification.lines_agree, "conflicts": proof.verification.conflicts}
    limited = 0
    if proof.windows is not None:
        windows = proof.windows
        counts |= {"windows_equal": windows.equal, "windows_omitted": windows.omitted, "windows_conflicting": windows.conflicting}
        limited = windows.omitted
    evidence = counts["copies_equal"] + counts.get("windows_equal", 0) + limited
    verdict = _verdict(failed=counts["conflicts"], limited=limited, evidence=evidence)
    return Evidence(level="V4", name="lines", verdict=verdict, counts=counts)


def _streams(proof: Proof) -> Evidence:
    counts: dict[str, int] = {}
    if proof.tickers is not None:
        tickers = proof.tickers
        counts |= {"tickers_equal": tickers.equal, "tickers_different": tickers.different, "tickers_suspect": tickers.suspect}
    if proof.partial_books is not None:
        counts |= {"partial_books_passed": proof.partial_books.passed, "partial_books_failed": proof.partial_books.failed}
    verdict = _verdict(
        failed=counts.get("tickers_different", 0) + counts.get("partial_books_failed", 0),
        limited=counts.get("tickers_suspect", 0),
        evidence=sum(counts.values()),
    )
    return Evidence(level="V5", name="streams", verdict=verdict, counts=counts)


def _sanity(proof: Proof) -> Evidence:
    found = proof.sanity
    counts: dict[str, int] = {}
    if found is not None:
        counts = {
            "crossed": found.crossed,
            "zero_prices": found.zero_prices,
            "far_prices": found.far_prices,
            "off_tick": found.off_tick,
            "event_time_back": found.event_time_back,
            "transaction_time_back": found.transaction_time_back,
            "far_from_receipt": found.far_from_receipt,
        }
    verdict = _verdict(
        failed=counts.get("crossed", 0) + counts.get("zero_prices", 0),
        limited=sum(counts.get(key, 0) for key in ("off_tick", "event_time_back", "transaction_time_back", "far_from_receipt")),
        evidence=int(found is not None and proof.events > 0),
    )
    return Evidence(level="V6", name="sanity", verdict=verdict, counts=counts)
