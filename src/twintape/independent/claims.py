"""The claims of a proof, one by one, against what its tables show and against each other.

Source: docs/format.md, section 7.
"""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from typing import Any

from twintape.independent.chain import DepthDay
from twintape.independent.frames import TABLES
from twintape.independent.objects import Findings, Row, rows_of

__all__ = ["check_claims", "check_depth", "check_evidence", "check_messages", "check_status"]

HEARD_THROUGH = "heard through"
"""The record of a line one connection of which delivered both the event before a gap and the one behind it."""


def check_claims(proof: Row, findings: Findings) -> None:
    """Compare what a proof says in several places with itself."""
    fates = proof["fates"]
    verbatim: Counter[str] = Counter()
    for counts in fates["verbatim"].values():
        verbatim.update(counts)
    for line in proof["lines"]:
        name = line["collector"]
        sums = {"chosen": fates["chosen"], "duplicate": fates["duplicate"], "verbatim": verbatim, "owed": fates["owed"]}
        for fate, counts in sums.items():
            findings.equal(f"{fate} frames of {name}, by the fates", line[fate], counts.get(name, 0))
        findings.equal(f"frames of {name}", line["frames"], sum(line[fate] for fate in sums))
    check = proof["verification"]
    findings.equal("lines_agree", check["lines_agree"], sum(fates["duplicate"].values()))
    windows = proof.get("windows") or {"conflicting": 0}
    conflicts = sum(fates["verbatim"].get("conflict", {}).values()) + windows["conflicting"]
    findings.equal("conflicts", check["conflicts"], conflicts)
    findings.equal("read_back_bytes", check["read_back_bytes"], sum(output["size"] for output in proof["outputs"]))


def check_depth(proof: Row, day: DepthDay, tables: dict[str, bytes], findings: Findings) -> None:
    """Compare a depth day's proof with what walking its tables showed."""
    for name in ("events", "levels", "first_event_time_us", "last_event_time_us"):
        findings.equal(name, proof[name], getattr(day, name))
    pairs = [(gap["after_update_id"], gap["next_prev_update_id"]) for gap in proof["gaps"]]
    findings.equal("gaps", pairs, day.gaps)
    times = [(gap["from_event_time_us"], gap["to_event_time_us"]) for gap in proof["gaps"]]
    findings.equal("times of the gaps", times, day.gap_times)
    for gap in proof["gaps"]:
        lines = gap.get("lines", [])  # older proofs name none
        through = {
            (line["from_receive_time_ns"], line["to_receive_time_ns"]) for line in lines if line["record"] == HEARD_THROUGH
        }
        if lines and (gap["class"] == "exchange-side") != (len(through) > 1):
            findings.add(f"gap behind {gap['after_update_id']}: {gap['class']}, and {len(through)} lines heard through it")
    fields = {
        "overlaps": ("at", "prev_update_id", "final_update_id", "collector"),
        "switches": ("at", "from", "to"),
        "path": ("collector", "prev_update_id", "final_update_id", "events"),
        "epochs": ("prev_update_id", "first_event_time_us"),
        "book_unknown": ("prev_update_id", "final_update_id", "events"),
    }
    for name, keys in fields.items():
        findings.equal(name, [tuple(entry[key] for key in keys) for entry in proof[name]], getattr(day, name))
    if day.last is not None:
        findings.equal("end", proof["end"]["update_id"], day.last)
    elif proof["start"]["update_id"] != proof["end"]["update_id"]:
        findings.add("a day without events ends where it begins")
    points = proof["checkpoints"]
    for name, verdict in (("passed", "passed"), ("failed", "failed"), ("anchors", "anchor"), ("outside", "outside")):
        findings.equal(f"checkpoints.{name}", points[name], day.verdicts[verdict])
    _check_snapshots(points, tables, findings)
    _check_books(proof, day, findings)
    _check_lines(proof, day, findings)
    if proof.get("sanity") is not None:
        for name in ("crossed", "zero_prices", "event_time_back"):
            findings.equal(f"sanity.{name}", proof["sanity"][name], getattr(day, name))
    if proof.get("windows") is not None and day.windows is not None:
        for name in ("equal", "omitted", "conflicting"):
            findings.equal(f"windows.{name}", proof["windows"][name], getattr(day.windows, name))
    claimed = (proof.get("tickers") or {}).get("different", 0)
    if day.tickers["different"] > claimed:
        findings.add(f"{day.tickers['different']} bookTickers contradict the book at their own id, the proof says {claimed}")


def _carried(book: Row | None) -> tuple[str, str | None, str | None] | None:
    return None if book is None else (book["sha256"], book.get("known_low"), book.get("known_high"))


def _check_snapshots(points: Row, tables: dict[str, bytes], findings: Findings) -> None:
    rows = [row for row in rows_of(tables["snapshot"]) if row["kind"] == "rest"] if "snapshot" in tables else []
    keys = ("last_update_id", "collector", "connection", "verdict")
    found = [(*(row[key] for key in keys), row["receive_time"]) for row in rows]
    claimed = [(*(one[key] for key in keys), one["receive_time_ns"]) for one in points.get("snapshots", [])]
    if claimed or not found:
        findings.equal("checkpoints.snapshots", claimed, found)
    failed = sorted((row["last_update_id"], row["collector"]) for row in rows if row["verdict"] == "failed")
    findings.equal("checkpoints.failures", sorted((f["last_update_id"], f["collector"]) for f in points["failures"]), failed)


def _check_books(proof: Row, day: DepthDay, findings: Findings) -> None:
    opening, closing = proof["opening_book"], proof["closing_book"]
    findings.equal("opening book", _carried(opening), day.opening)
    expected = day.closing if proof["end"]["update_id"] is not None else None
    findings.equal("closing book", _carried(closing), expected)
    findings.equal("closing book, as stored", _carried(closing), day.stored_closing)
    if closing is not None:
        findings.equal("id of the closing book", closing["update_id"], proof["end"]["update_id"])


def _check_lines(proof: Row, day: DepthDay, findings: Findings) -> None:
    findings.equal("fates.chosen", proof["fates"]["chosen"], dict(day.chosen))
    findings.equal("fates.duplicate", proof["fates"]["duplicate"], dict(day.duplicate))
    for line in proof["lines"]:
        name = line["collector"]
        times = day.receive_times.get(name, [])
        findings.equal(f"only_here of {name}", line["only_here"], day.only_here[name])
        findings.equal(f"first_receive_time_ns of {name}", line["first_receive_time_ns"], min(times, default=None))
        findings.equal(f"last_receive_time_ns of {name}", line["last_receive_time_ns"], max(times, default=None))
        if not proof["epochs"]:
            findings.equal(f"missed of {name}", line["missed"], _missed(day.chain, day.heard.get(name, [])))
    if not proof["epochs"]:
        for value in proof.get("redundancy", []):
            _check_worth(value, day, findings)


def _check_worth(value: Row, day: DepthDay, findings: Findings) -> None:
    """Compare what a line is said to be worth with what is missing without it."""
    name = value["collector"]
    others = [ids for other, heard in day.heard.items() if other != name for ids in heard]
    missed = _missed(day.chain, day.heard.get(name, []))
    findings.equal(f"covered by {name}", value["covered"], len(day.chain) - missed)
    findings.equal(f"only_events of {name}", value["only_events"], _missed(day.chain, others))


def _missed(chain: list[tuple[int, int]], heard: list[tuple[int, int]]) -> int:
    """Return how many events have an id that none of the intervals covers."""
    union: list[tuple[int, int]] = []
    for prev, final in sorted(heard):
        if union and prev <= union[-1][1]:
            union[-1] = (union[-1][0], max(union[-1][1], final))
        else:
            union.append((prev, final))
    missed = place = 0
    for prev, final in chain:
        while place < len(union) and union[place][1] < final:
            place += 1
        missed += not (place < len(union) and union[place][0] <= prev)
    return missed


def check_messages(proof: Row, tables: dict[str, bytes], findings: Findings) -> None:
    """Compare a typed day's proof with its rows."""
    table = next((name for name in (*TABLES.values(), "partial_depth") if name in tables), None)
    chosen: Counter[str] = Counter()
    ids = []
    for row in rows_of(tables[table]) if table else ():
        chosen[row["collector"]] += 1
        ids.append(int(row["trade_id" if table == "trade" else "agg_trade_id"]) if table in ("trade", "agg_trade") else 0)
    copies: Counter[str] = (
        Counter(row["collector"] for row in rows_of(tables["copy"], ["collector"])) if "copy" in tables else Counter()
    )
    findings.equal("fates.chosen", proof["fates"]["chosen"], dict(chosen))
    findings.equal("fates.duplicate", proof["fates"]["duplicate"], dict(copies))
    findings.equal("events", proof["events"], len(ids))
    if table not in ("trade", "agg_trade"):
        return
    findings.equal("start", proof["start"]["update_id"], ids[0] - 1)
    findings.equal("end", proof["end"]["update_id"], ids[-1])
    if any(b <= a for a, b in pairwise(ids)):
        findings.add(f"{table} ids do not ascend")
    holes = [(a, b - 1) for a, b in pairwise(ids) if b > a + 1]
    claimed = [(gap["after_update_id"], gap["next_prev_update_id"]) for gap in proof["gaps"]]
    # Ids that only frames kept verbatim have are not missing: then the holes between rows are wider than the gaps.
    inside = [any(a <= after and last <= b for a, b in holes) for after, last in claimed]
    if not all(inside) or ("verbatim" not in tables and claimed != holes):
        findings.equal("gaps", claimed, holes)


def check_status(proof: Row, findings: Findings, *, spliced: bool) -> None:
    """Derive the status from what the proof itself lists."""
    limits = {
        "begins at an edge of recording": proof["open_start"],
        "ends at an edge of recording": proof["open_end"],
        "a gap follows": proof["gap_behind"],
        "the ids restart": bool(proof["epochs"]),
        "could not be read": bool(proof["unreadable"]),
    }
    for words, holds in limits.items():
        if bool(holds) != any(words in reason for reason in proof["reasons"]):
            findings.add(f"reasons {'lack' if holds else 'have'} {words!r}")
    if not spliced:
        collectors = {line["collector"] for line in proof["lines"]}
        for hole in proof["missing"]:
            if hole["collector"] in collectors and f"{hole['collector']}: segments are missing" not in proof["reasons"]:
                findings.add(f"reasons lack the missing segments of {hole['collector']}")
    status = "complete"
    if proof["verification"]["conflicts"]:
        status = "conflicted"
    elif proof["gaps"]:
        status = "gapped"
    elif proof["reasons"]:
        status = "partial"
    findings.equal("status", proof["status"], status)


def check_evidence(proof: Row, findings: Findings, *, spliced: bool) -> None:
    """Derive the verdict of each level from the proof's own counts."""
    levels = proof.get("evidence") or []
    if not levels:
        return  # older proofs say nothing of levels
    findings.equal("levels", [one["level"] for one in levels], [f"V{k}" for k in range(7)] if spliced else ["V0", "V1", "V4"])
    expected: dict[str, str] = {}
    missing = sum(last - first + 1 for hole in proof["missing"] for first, last in hole["numbers"])
    expected["V0"] = _verdict(limited=missing + len(proof["unreadable"]))
    ends = proof["open_start"] + proof["open_end"] + proof["gap_behind"]
    known = 1 if spliced or proof["start"]["update_id"] is not None else 0
    expected["V1"] = _verdict(limited=len(proof["gaps"]) + len(proof["epochs"]) + ends, evidence=known)
    points, windows, check = proof["checkpoints"], proof.get("windows") or {}, proof["verification"]
    anchored = points["anchors"] + (proof["opening_book"] is not None)
    expected["V2"] = _verdict(limited=sum(part["events"] for part in proof["book_unknown"]), evidence=anchored)
    expected["V3"] = _verdict(failed=points["failed"], evidence=points["passed"])
    omitted = windows.get("omitted", 0)
    agree = check["lines_agree"] + windows.get("equal", 0) + omitted
    expected["V4"] = _verdict(failed=check["conflicts"], limited=omitted, evidence=agree)
    tickers, partial = proof.get("tickers") or {}, proof.get("partial_books") or {}
    failed = tickers.get("different", 0) + partial.get("failed", 0)
    evidence = sum(tickers.get(name, 0) for name in ("equal", "different", "suspect"))
    evidence += partial.get("passed", 0) + partial.get("failed", 0)
    expected["V5"] = _verdict(failed=failed, limited=tickers.get("suspect", 0), evidence=evidence)
    sanity: dict[str, Any] = proof.get("sanity") or {}
    odd = sum(sanity.get(name, 0) for name in ("off_tick", "event_time_back", "transaction_time_back", "far_from_receipt"))
    wrong = sanity.get("crossed", 0) + sanity.get("zero_prices", 0)
    expected["V6"] = _verdict(failed=wrong, limited=odd, evidence=int(bool(sanity) and proof["events"] > 0))
    for one in levels:
        findings.equal(f"verdict of {one['level']}", one["verdict"], expected.get(one["level"]))


def _verdict(*, failed: int = 0, limited: int = 0, evidence: int = 1) -> str:
    if failed:
        return "failed"
    if not evidence:
        return "none"
    return "limited" if limited else "held"
