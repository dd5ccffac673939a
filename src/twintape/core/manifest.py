"""What merges and prunes promise in writing: plans, proofs, fates, and the decision what may be deleted.

A *plan* names the exact raw objects of one merge. A *proof* publishes one day: it names the plan, the outputs with their digests, where the
day begins and ends, every gap, overlap and switch, and what became of every raw frame. Deleting is decided here, by a pure function from
proofs and indexes to a list of keys with reasons; the shell only carries it out.

Formats: docs/format.md, sections 6, 7 and 9.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from typing import Any, TypeVar

import msgspec

from twintape.core.errors import CorruptionError, RefusedError
from twintape.core.evidence import Checkpoints, Evidence, GapLine, LineValue, PartialBooks, Sanity, Tickers, Windows

__all__ = [
    "PLAN_FORMAT",
    "PROOF_FORMAT",
    "Acceptance",
    "Candidate",
    "ClockStatistics",
    "Deletion",
    "Edge",
    "GapRecord",
    "Input",
    "LineStatistics",
    "Output",
    "Plan",
    "PlanInput",
    "Proof",
    "PrunePolicy",
    "PruneReceipt",
    "PruneReport",
    "Reference",
    "Settlement",
    "Status",
    "decode",
    "digest",
    "encode",
    "held_reason",
    "settlement",
    "status_of",
    "unsettled_reason",
]

PLAN_FORMAT = "twintape-plan/1"
PROOF_FORMAT = "twintape-proof/1"
PRUNE_FORMAT = "twintape-prune/1"
PRUNE_DONE_FORMAT = "twintape-prune-done/1"

D = TypeVar("D", bound="_Document")

DOCUMENT_BYTES_MAX = 256 * 1024 * 1024
"""No plan or proof is larger; whatever is, is not ours."""


class Status(StrEnum):
    """What a proof says of its day; the first that applies, from the bottom."""

    COMPLETE = "complete"
    PARTIAL = "partial"
    GAPPED = "gapped"
    CONFLICTED = "conflicted"


class _Document(msgspec.Struct, frozen=True, kw_only=True):
    """Base: unknown keys are ignored, keys are written in the order of the fields."""


class PlanInput(_Document, frozen=True, kw_only=True):
    """One raw object of a plan."""

    key: str
    size: int
    sha256: str
    index_sha256: str
    collector: str
    chain: str
    number: int


class Missing(_Document, frozen=True, kw_only=True):
    """Holes in one serial chain of a collector, as inclusive ranges of numbers."""

    collector: str
    chain: str
    numbers: list[tuple[int, int]]


class Unreadable(_Document, frozen=True, kw_only=True):
    """A raw object that could not be read; it is never an input and never deleted."""

    key: str
    reason: str


class Plan(_Document, frozen=True, kw_only=True):
    """The exact raw objects of one merge, sorted by key."""

    format: str = PLAN_FORMAT
    market: str
    date: str
    inputs: list[PlanInput]
    missing: list[Missing] = []
    unreadable: list[Unreadable] = []


class Reference(_Document, frozen=True, kw_only=True):
    """Another document, by key and digest."""

    key: str
    sha256: str


class Parent(_Document, frozen=True, kw_only=True):
    """The generation a proof grew from."""

    generation: int
    sha256: str


class Edge(_Document, frozen=True, kw_only=True):
    """Where a day begins or ends in the chain of ids; `pinned_by` names the neighbour's proof that fixed it."""

    update_id: int | None = None
    pinned_by: str | None = None


class BookDigest(_Document, frozen=True, kw_only=True):
    """A book carried over midnight: at which id, the digest of its text, and for an opening book the proof it came from.

    From `known_low` to `known_high` everything about it is known (both None: of no price; `known_high` alone: nothing above is unknown).
    """

    update_id: int
    sha256: str
    known_low: str | None = None
    known_high: str | None = None
    proof: str | None = None


class Output(_Document, frozen=True, kw_only=True):
    """One object of the archive."""

    table: str
    key: str
    size: int
    sha256: str
    rows: int


class PathRun(_Document, frozen=True, kw_only=True):
    """Consecutive events taken from one line."""

    collector: str
    prev_update_id: int
    final_update_id: int
    events: int


class Switch(_Document, frozen=True, kw_only=True):
    """Where the path left one line for another."""

    at: int
    source: str = msgspec.field(name="from")
    target: str = msgspec.field(name="to")


class Overlap(_Document, frozen=True, kw_only=True):
    """An event applied inside its own interval, at book id `at`."""

    at: int
    prev_update_id: int
    final_update_id: int
    collector: str


class GapRecord(_Document, frozen=True, kw_only=True):
    """Ids no line has, and what the lines' own records say about why."""

    after_update_id: int
    next_prev_update_id: int
    gap_class: str = msgspec.field(name="class")
    from_event_time_us: int | None
    to_event_time_us: int
    reason: str
    lines: list[GapLine] = []


class EpochStart(_Document, frozen=True, kw_only=True):
    """The first event of a restarted id space."""

    prev_update_id: int
    first_event_time_us: int


class UnknownRange(_Document, frozen=True, kw_only=True):
    """Consecutive events behind which the book is not known."""

    prev_update_id: int
    final_update_id: int
    events: int


class Verification(_Document, frozen=True, kw_only=True):
    """What was checked on the bytes read back from the store."""

    render_exact: int = 0
    render_kept: int = 0
    chain_checked: int = 0
    read_back_bytes: int = 0
    crossed: int = 0
    lines_agree: int = 0
    conflicts: int = 0


class ClockStatistics(_Document, frozen=True, kw_only=True):
    """What one collector's clock lines say: offsets are true time minus its clock, as far as its system knew.

    `unsynchronised` counts the samples in which nobody knew; without any other the bounds are None.
    """

    samples: int
    offset_ns_min: int | None
    offset_ns_max: int | None
    error_ns_max: int | None
    unsynchronised: int


class LineStatistics(_Document, frozen=True, kw_only=True):
    """What one collector contributed.

    `only_here` counts chosen events no other collector heard in this form; `missed` counts chosen events with ids the collector did not hear in any form;
    `gaps` counts the holes in the collector's own ids between its first and its last event of the day; `clock` says how far its receive times
    can be trusted, None if it recorded nothing about that.
    """

    collector: str
    frames: int
    chosen: int
    duplicate: int
    verbatim: int
    owed: int
    only_here: int
    missed: int
    first_receive_time_ns: int | None
    last_receive_time_ns: int | None
    gaps: int
    clock: ClockStatistics | None = None


class Input(_Document, frozen=True, kw_only=True):
    """One raw segment of the lineage and how many of its frames of this stream the day settled."""

    key: str
    size: int
    sha256: str
    collector: str
    count: int
    settled: int
    owed: int


class Fates(_Document, frozen=True, kw_only=True):
    """What became of the raw frames, by collector; verbatim also by reason."""

    chosen: dict[str, int] = {}
    duplicate: dict[str, int] = {}
    verbatim: dict[str, dict[str, int]] = {}
    owed: dict[str, int] = {}


class Acceptance(_Document, frozen=True, kw_only=True):
    """An operator's word that the raw data of a day may go although the day is conflicted or inputs could not be read."""

    by: str
    reason: str


class Proof(_Document, frozen=True, kw_only=True):
    """The record that publishes a day."""

    format: str = PROOF_FORMAT
    market: str
    symbol: str
    stream: str
    date: str
    generation: int
    write_id: str
    parent: Parent | None
    plan: Reference
    status: Status
    reasons: list[str]
    start: Edge
    end: Edge
    open_start: bool
    open_end: bool
    gap_behind: bool = False
    opening_book: BookDigest | None
    closing_book: BookDigest | None
    outputs: list[Output]
    events: int
    levels: int
    first_event_time_us: int | None
    last_event_time_us: int | None
    path: list[PathRun] = []
    switches: list[Switch] = []
    overlaps: list[Overlap] = []
    gaps: list[GapRecord] = []
    closed_gaps: list[GapRecord] = []
    epochs: list[EpochStart] = []
    book_unknown: list[UnknownRange] = []
    checkpoints: Checkpoints = Checkpoints()
    tickers: Tickers | None = None
    partial_books: PartialBooks | None = None
    windows: Windows | None = None
    sanity: Sanity | None = None
    verification: Verification = Verification()
    evidence: list[Evidence] = []
    lines: list[LineStatistics] = []
    redundancy: list[LineValue] = []
    fates: Fates = Fates()
    inputs: list[Input] = []
    unreadable: list[Unreadable] = []
    missing: list[Missing] = []
    acceptance: Acceptance | None = None
    created_ns: int
    version: str


class Deletion(_Document, frozen=True, kw_only=True):
    """One key a prune wants to delete, and the proofs that allow it."""

    key: str
    size: int
    sha256: str
    why: str
    proofs: list[str]


class PruneReceipt(_Document, frozen=True, kw_only=True):
    """What a prune is about to delete; written before the first delete."""

    format: str = PRUNE_FORMAT
    write_id: str
    delete: list[Deletion]


class Kept(_Document, frozen=True, kw_only=True):
    """An object that stays, and why."""

    key: str
    reason: str


class PruneReport(_Document, frozen=True, kw_only=True):
    """What a prune did."""

    format: str = PRUNE_DONE_FORMAT
    write_id: str
    deleted: list[str]
    absent: list[str]
    kept: list[Kept]


def encode(document: _Document) -> bytes:
    """Return the document's canonical JSON bytes."""
    return msgspec.json.encode(document)


def digest(data: bytes) -> str:
    """Return the lower-case hexadecimal SHA-256 of `data`.

    >>> digest(b"")[:16]
    'e3b0c44298fc1c14'
    """
    return hashlib.sha256(data).hexdigest()


def decode(data: bytes, kind: type[D], *, where: str) -> D:
    """Read a plan, proof or receipt; everything read from a store is treated as hostile.

    Args:
        data: The object's bytes.
        kind: What it has to be.
        where: The object's key, for the message.

    Raises:
        CorruptionError: It is not one.
        RefusedError: It is one of a format this version does not know.
    """
    if len(data) > DOCUMENT_BYTES_MAX:
        raise CorruptionError(f"{where}: {len(data)} bytes are too many for a {kind.__name__.lower()}")
    try:
        document = msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, RecursionError, ValueError) as error:
        raise CorruptionError(f"{where}: not a {kind.__name__.lower()}: {error}") from error
    wanted = kind.__struct_defaults__[0] if kind.__struct_fields__[0] == "format" else None
    found = getattr(document, "format", None)
    if found != wanted:
        raise RefusedError(f"{where}: format {found!r} is not {wanted!r}", hint="a newer twintape wrote it; upgrade this one")
    return document


def status_of(*, conflicts: int, gaps: int, partial_reasons: Sequence[str]) -> Status:
    """Return the status of a day.

    >>> status_of(conflicts=0, gaps=0, partial_reasons=[]), status_of(conflicts=0, gaps=1, partial_reasons=["x"])
    (<Status.COMPLETE: 'complete'>, <Status.GAPPED: 'gapped'>)
    """
    if conflicts:
        return Status.CONFLICTED
    if gaps:
        return Status.GAPPED
    return Status.PARTIAL if partial_reasons else Status.COMPLETE


# --- what may be deleted -------------------------------------------------------------------------------------------------------


class Candidate(msgspec.Struct, frozen=True):
    """A raw object that prune looks at: its key, size, digest, and the frames of each `(symbol, stream)` by its own index."""

    key: str
    size: int
    sha256: str
    counts: dict[tuple[str, str], int]


class Settlement(msgspec.Struct, frozen=True):
    """What head proofs settled of one raw object: per `(symbol, stream)` the frames, the keys of the proofs, and which of them hold it back, and why."""

    settled: dict[tuple[str, str], int]
    proofs: dict[str, Status]
    held: dict[str, str] = {}


class PrunePolicy(msgspec.Struct, frozen=True):
    """When settled raw objects may go: nanoseconds from the proof's creation by the store's own clock."""

    grace_ns: int
    gapped_grace_ns: int

    def grace_of(self, status: Status) -> int:
        """Return how long raw data outlives a proof of this status; a conflicted one has been accepted, or holds it back for ever."""
        if status in (Status.COMPLETE, Status.PARTIAL):
            return self.grace_ns
        return max(self.gapped_grace_ns, self.grace_ns)


def held_reason(proof: Proof) -> str | None:
    """Return why a day's raw data must stay until an operator has accepted the day, or None."""
    if proof.acceptance is not None:
        return None
    if proof.status is Status.CONFLICTED:
        return "is conflicted"
    return f"may lack {len(proof.unreadable)} unreadable raw objects" if proof.unreadable else None


def settlement(heads: Mapping[str, Proof]) -> dict[str, Settlement]:
    """Add up what head proofs settled, by the digest of the raw object.

    Args:
        heads: Proof key → proof; heads only, each day once.
    """
    found: dict[str, tuple[dict[tuple[str, str], int], dict[str, Status], dict[str, str]]] = {}
    for key, proof in sorted(heads.items()):
        stream = (proof.symbol, proof.stream)
        holding = held_reason(proof)
        for source in proof.inputs:
            counts, proofs, held = found.setdefault(source.sha256, ({}, {}, {}))
            counts[stream] = counts.get(stream, 0) + source.settled
            proofs[key] = proof.status
            if holding is not None:
                held[key] = holding
    return {sha256: Settlement(*parts) for sha256, parts in found.items()}


def unsettled_reason(
    candidate: Candidate,
    settled: Settlement | None,
    *,
    policy: PrunePolicy,
    proof_created_ns: Mapping[str, int],
    now_ns: int,
    unproven_outputs: Iterable[str] = (),
) -> str | None:
    """Return why a raw object must stay, or None if everything it says is in the archive and the grace is over.

    Args:
        candidate: The raw object with the counts of its own index.
        settled: What the head proofs settled of it, or None.
        policy: The graces.
        proof_created_ns: Proof key → when the store received the proof, by the store's clock.
        now_ns: The store's clock now.
        unproven_outputs: Keys of proofs whose outputs could not be read back whole just now.
    """
    if settled is None:
        return "no proof has settled it"
    for stream, count in sorted(candidate.counts.items()):
        done = settled.settled.get(stream, 0)
        if done != count:
            return f"{stream[0]} {stream[1]}: {done} of {count} frames settled"
    for stream in sorted(settled.settled):
        if stream not in candidate.counts and settled.settled[stream]:
            return f"{stream[0]} {stream[1]}: settled by a proof but not in the index"
    unproven = set(unproven_outputs)
    for key, status in sorted(settled.proofs.items()):
        if key in unproven:
            return f"the outputs of {key} could not be verified"
        if key in settled.held:
            return f"{key} {settled.held[key]}, and is not accepted"
        left = proof_created_ns[key] + policy.grace_of(status) - now_ns
        if left > 0:
            return f"grace: {left / 3.6e12:.1f} h left by {key}"
    return None


def plain(document: _Document) -> Any:
    """Return the document as plain dictionaries and lists, for printing."""
    return msgspec.json.decode(encode(document))
