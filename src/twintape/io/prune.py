"""The prune run: deletes raw objects whose every frame is proven to be in the archive, and outputs that no head names.

What may go is decided by `core.manifest` from head proofs and the objects' own indexes; this module gathers the evidence, re-reads every output of the
proofs it relies on, writes the plan to the store, and only then deletes, key by key. It is meant to run with credentials of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from twintape.columns.digests import LineDigests, digest_lines, digest_outputs, joined, missing_lines
from twintape.columns.lines import Chunk
from twintape.core import names, segment
from twintape.core.errors import CorruptionError, NotFoundError, RefusedError
from twintape.core.manifest import (
    Candidate,
    Deletion,
    Kept,
    Output,
    Proof,
    PrunePolicy,
    PruneReceipt,
    PruneReport,
    Settlement,
    digest,
    encode,
    settlement,
    unsettled_reason,
)
from twintape.core.markets import Market
from twintape.core.wire import is_depth
from twintape.io.batch import neighbour
from twintape.io.catalog import Head, RawSegment, find_head, list_days, read_heads, read_segments
from twintape.io.conditions import require_fit
from twintape.io.ports import ObjectInfo, Store
from twintape.io.verify import read_outputs

__all__ = ["DELETIONS_MAX", "STOP_KEY", "PrunePlan", "PruneRun", "execute_prune", "plan_prune"]

DELETIONS_MAX = 100_000
"""Objects one run deletes at most."""
STOP_KEY = "STOP"
"""An object of this name in the store stops every prune, also one that is deleting."""
ARCHIVED_LINES_MAX = 4_000_000
"""So many lines of outputs a plan remembers (28 bytes each): objects recorded at the same midnight share their days."""
STOP_EVERY = 100
"""After so many deletions a prune looks for it again."""

RECEIPT_PROOFS_MAX = 500_000
"""So many proofs one receipt names at most, each time it names one: merges read receipts back, and an object of a whole market is in a thousand days."""

Progress = Callable[[str, int, int], None]
Day = tuple[str, str, str]
"""Symbol, stream and date."""


def _silent(_what: str, _done: int, _total: int) -> None:
    """Tell nobody."""


@dataclass(slots=True)
class PruneRun:
    """What a prune needs of the world.

    Attributes:
        store: Where everything is.
        draw_id: Returns 16 fresh hex digits.
        policy: How long settled raw data stays.
        deletions_max: How many objects one run may delete.
        progress: Told how far it is.
    """

    store: Store
    draw_id: Callable[[], str]
    policy: PrunePolicy
    deletions_max: int = DELETIONS_MAX
    progress: Progress = _silent


@dataclass(frozen=True, slots=True)
class PrunePlan:
    """What a prune would delete and what it keeps, with reasons. Nothing has been deleted yet."""

    write_id: str
    delete: list[Deletion] = field(default_factory=list)
    kept: list[Kept] = field(default_factory=list)
    checked_bytes: int = 0

    @property
    def delete_bytes(self) -> int:
        """Bytes that would be freed."""
        return sum(deletion.size for deletion in self.delete)


async def plan_prune(run: PruneRun, markets: Iterable[Market]) -> PrunePlan:
    """Find out what may be deleted, and verify the archive it relies on by reading it whole.

    Raises:
        RefusedError: The store holds an object named `STOP`, is not fit for pruning, or has a proof of a format this version does not know.
        StoreError: The store failed.
    """
    await _check_stop(run)
    plan = PrunePlan(write_id=run.draw_id())
    now_ns = await _store_now_ns(run, plan.write_id)
    await require_fit(run.store, run.draw_id, now_ns)
    checked = 0
    for market in markets:
        checked += await _plan_market(run, market, plan, now_ns)
    if len(plan.delete) > run.deletions_max:
        surplus = plan.delete[run.deletions_max :]
        del plan.delete[run.deletions_max :]
        plan.kept.extend(Kept(key=deletion.key, reason="over this run's budget") for deletion in surplus)
    plan.kept.sort(key=lambda kept: kept.key)
    return PrunePlan(plan.write_id, plan.delete, plan.kept, checked)


async def _check_stop(run: PruneRun) -> None:
    try:
        await run.store.head(STOP_KEY)
    except NotFoundError:
        return
    raise RefusedError(f"{run.store.url} holds an object named {STOP_KEY}", hint="delete it to allow pruning again")


async def _store_now_ns(run: PruneRun, write_id: str) -> int:
    """Return the store's own clock: when it received an object written just now."""
    key = names.receipt_key(write_id, "clock")
    await run.store.create(key, b"{}")
    return (await run.store.head(key)).modified_ns


async def _plan_market(run: PruneRun, market: Market, plan: PrunePlan, now_ns: int) -> int:
    view = await read_segments(run.store, market)
    days = await list_days(run.store, market)
    dates = _dates_around(view.segments.values())
    heads = await read_heads(run.store, market, {day: known for day, known in days.items() if day[2] in dates})
    by_key = {head.key: head.proof for head in heads.values()}
    settled = settlement(by_key)
    known = {(source.key, source.size): source.sha256 for proof in by_key.values() for source in proof.inputs}
    plan.kept.extend(Kept(key=unreadable.key, reason=f"unreadable: {unreadable.reason}") for unreadable in view.unreadable)
    disagreeing = _disagreeing(heads)
    created: dict[str, int] = {}
    unproven: dict[str, bool] = {}
    archived = _ArchivedLines(run.store)
    checked = 0
    for number, (key, raw) in enumerate(view.segments.items(), 1):
        # The key names the content; proofs say which whole digest they read under it.
        sha256 = known.get((key, raw.info.size), "")
        candidate = Candidate(
            key=key,
            size=raw.info.size,
            sha256=sha256,
            counts=_counts(raw.index),
        )
        mine = settled.get(sha256)
        reason = _counts_reason(candidate, mine, run.policy)
        proofs = () if mine is None else mine.proofs
        if reason is None:
            for proof_key in proofs:
                if proof_key not in unproven:
                    size = await _outputs_size(run.store, by_key[proof_key].outputs)
                    unproven[proof_key] = size is None
                    checked += size or 0
                    created[proof_key] = (await run.store.head(proof_key)).modified_ns
            disputed = sorted(set(proofs) & disagreeing)
            reason = (
                f"{disputed[0]} and its neighbour disagree about midnight"
                if disputed
                else unsettled_reason(
                    candidate,
                    mine,
                    policy=run.policy,
                    proof_created_ns=created,
                    now_ns=now_ns,
                    unproven_outputs=[proof for proof in proofs if unproven[proof]],
                )
            )
        if reason is None:
            reason = await _shared_reason(run.store, archived, raw, [by_key[proof] for proof in sorted(proofs)])
        if reason is None:
            plan.delete.append(
                Deletion(key=key, size=candidate.size, sha256=candidate.sha256, why="settled", proofs=sorted(proofs))
            )
        else:
            plan.kept.append(Kept(key=key, reason=reason))
        run.progress(f"{market}: raw objects", number, len(view.segments))
    await _plan_outputs(run, market, plan, days, heads, now_ns)
    return checked


def _dates_around(segments: Iterable[RawSegment]) -> set[str]:
    """Return the dates whose proofs may speak of raw segments, and those of their neighbours, which must agree with them.

    A frame is settled by the date it is filed under or by one beside it. What no proof of these dates has settled stays, whatever others say.
    """
    filed = {block.date for raw in segments for stream in raw.index.streams for block in stream.blocks}
    return {neighbour(date, days) for date in filed for days in range(-2, 3)}


class _ArchivedLines:
    """The digests of the raw lines that days' outputs render to; the days looked at last are remembered."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._known: dict[tuple[str, ...], LineDigests] = {}

    async def of(self, proof: Proof) -> LineDigests:
        """Return the lines of one day, from outputs that are what their proof says. Raises `CorruptionError`, `NotFoundError`."""
        content = proof.date, *(output.sha256 for output in proof.outputs)
        found = self._known.pop(content, None)
        if found is None:
            found = digest_outputs(await read_outputs(self._store, proof), proof.date)
        self._known[content] = found
        while len(self._known) > 1 and sum(map(len, self._known.values())) > ARCHIVED_LINES_MAX:
            del self._known[next(iter(self._known))]
        return found


async def _shared_reason(store: Store, archived: _ArchivedLines, raw: RawSegment, proofs: Sequence[Proof]) -> str | None:
    """Return why an object must stay that several days of one stream share, or None.

    Counts added up over days could hide a frame that one day settled twice and none settled at all, so every raw line of such a stream is looked for in
    what the days' outputs render to, byte for byte.
    """
    days: dict[tuple[str, str], list[Proof]] = {}
    for proof in proofs:
        days.setdefault((proof.symbol, proof.stream), []).append(proof)
    shared = {day: found for day, found in days.items() if len(found) > 1}
    try:
        data = await store.get(raw.info.key) if shared else b""
    except NotFoundError:
        return "it is gone: another prune was faster"
    for (symbol, stream), found in shared.items():
        lines: list[LineDigests] = []
        for proof in found:
            try:
                lines.append(await archived.of(proof))
            except (CorruptionError, NotFoundError) as error:
                return f"the outputs of {symbol} {stream} {proof.date} could not be verified: {error}"
        try:
            said = digest_lines(_lines_of(raw, data, symbol, stream))
        except CorruptionError as error:
            return f"it is damaged: {error}"
        _, strangers = missing_lines(joined(lines), said)
        if strangers:
            return f"{symbol} {stream}: {strangers} frames are in no day's outputs"
    return None


def _lines_of(raw: RawSegment, data: bytes, symbol: str, stream: str) -> list[Chunk]:
    """Return an object's lines of one stream."""
    connection = f"{raw.key.run8}-{raw.key.connection}"
    blocks = [b for found in raw.index.streams if (found.symbol, found.stream) == (symbol, stream) for b in found.blocks]
    return [Chunk(raw.key.collector, connection, 0, block.date, partial(_block_text, data, block)) for block in blocks]


def _block_text(data: bytes, block: segment.Block) -> bytes:
    return segment.read_block(data[block.offset : block.offset + block.size], block)


def _counts(index: segment.Index) -> dict[tuple[str, str], int]:
    """Return the frames of each stream; names that differ only in the case of the symbol are one stream."""
    counts: dict[tuple[str, str], int] = {}
    for stream in index.streams:
        day = (stream.symbol, stream.stream)
        counts[day] = counts.get(day, 0) + stream.count
    return counts


def _counts_reason(candidate: Candidate, mine: Settlement | None, policy: PrunePolicy) -> str | None:
    """Answer the cheap questions first: is every frame settled, by proofs that allow deleting at all?"""
    created = {} if mine is None else dict.fromkeys(mine.proofs, 0)
    return unsettled_reason(candidate, mine, policy=policy, proof_created_ns=created, now_ns=2**62)


def _disagreeing(heads: Mapping[Day, Head]) -> set[str]:
    """Return the keys of head proofs whose neighbour's head begins or ends elsewhere; prune waits until a merge has settled it."""
    found: set[str] = set()
    for (symbol, stream, date), head in heads.items():
        behind = heads.get((symbol, stream, neighbour(date, 1)))
        if behind is None or not is_depth(stream):
            continue
        if head.proof.end.update_id is not None and behind.proof.start.update_id != head.proof.end.update_id:
            found |= {head.key, behind.key}
    return found


async def _outputs_size(store: Store, outputs: Iterable[Output]) -> int | None:
    """Read every output whole; return their size, or None if one is not what its proof says."""
    size = 0
    for output in outputs:
        try:
            data = await store.get(output.key)
        except NotFoundError:
            return None
        if digest(data) != output.sha256 or len(data) != output.size:
            return None
        size += len(data)
    return size


async def _plan_outputs(
    run: PruneRun,
    market: Market,
    plan: PrunePlan,
    days: Mapping[Day, int],
    heads: Mapping[Day, Head],
    now_ns: int,
) -> None:
    """Find outputs of attempts whose generation's slot is taken by a proof that does not name them, and of superseded generations.

    Age never makes an output garbage: an attempt whose slot is free may still be published. A proven day with a single attempt has nothing to give up; its
    proof, one of years of them, is not read.
    """
    attempts: dict[Day, dict[tuple[int, str], list[ObjectInfo]]] = {}
    for table in names.TABLES:
        async for info in run.store.list(names.table_prefix(table, market)):
            key = names.parse_table_key(info.key)
            if key is not None:
                of_day = attempts.setdefault((key.symbol, key.stream, key.date), {})
                of_day.setdefault((key.generation, key.write_id), []).append(info)
    for day, found in sorted(attempts.items()):
        head = heads.get(day)
        if head is None and day in days:
            if len(found) == 1:
                continue
            head = await find_head(run.store, market, *day, known=days[day])
        for (generation, _), infos in sorted(found.items()):
            for info in infos:
                await _plan_output(run, plan, head, generation, info, now_ns)


async def _plan_output(run: PruneRun, plan: PrunePlan, head: Head | None, generation: int, info: ObjectInfo, now_ns: int) -> None:
    """Decide about one output of an attempt at a generation of a day with this head."""
    if head is None or head.proof.generation < generation:
        plan.kept.append(Kept(key=info.key, reason=f"generation {generation} is not decided"))
        return
    if any(output.key == info.key for output in head.proof.outputs):
        return
    # Readers that hold the generation before get the grace to finish.
    left = (await run.store.head(head.key)).modified_ns + run.policy.grace_ns - now_ns
    if left > 0:
        plan.kept.append(Kept(key=info.key, reason=f"superseded; grace: {left / 3.6e12:.1f} h left"))
        return
    if await _outputs_size(run.store, head.proof.outputs) is None:
        plan.kept.append(Kept(key=info.key, reason=f"the outputs of {head.key} could not be verified"))
        return
    why = "abandoned" if head.proof.generation == generation else "superseded"
    try:
        data = await run.store.get(info.key)
    except NotFoundError:
        return  # LIST showed a ghost, or another prune was faster
    plan.delete.append(Deletion(key=info.key, size=info.size, sha256=digest(data), why=why, proofs=[head.key]))


async def execute_prune(run: PruneRun, plan: PrunePlan) -> PruneReport:
    """Delete what a plan names, having written the plan to the store first. Interrupted, it is simply planned and run again.

    A plan that is too long for one receipt is carried out in parts, each with a receipt under a fresh id, the first under the plan's own.

    Returns:
        What became of the whole plan.

    Raises:
        RefusedError: The store holds an object named `STOP` by now; what is deleted is in the receipts.
        StoreError: The store failed; what is deleted is in the receipts.
    """
    await _check_stop(run)
    whole = PruneReport(write_id=plan.write_id, deleted=[], absent=[], kept=[])
    done = 0
    for number, part in enumerate(_parts(plan.delete)):
        write_id = run.draw_id() if number else plan.write_id
        await run.store.create(names.receipt_key(write_id, "plan"), encode(PruneReceipt(write_id=write_id, delete=part)))
        report = PruneReport(write_id=write_id, deleted=[], absent=[], kept=[] if number else list(plan.kept))
        for deletion in part:
            done += 1
            if done % STOP_EVERY == 0:
                await _check_stop(run)
            await _delete(run, deletion, report)
            run.progress("deleting", done, len(plan.delete))
        await run.store.create(names.receipt_key(write_id, "done"), encode(report))
        whole.deleted.extend(report.deleted)
        whole.absent.extend(report.absent)
        whole.kept.extend(report.kept)
    return whole


def _parts(deletions: Sequence[Deletion]) -> list[list[Deletion]]:
    """Cut a list of deletions so that no part names more proofs than a receipt may; one part at least."""
    parts: list[list[Deletion]] = [[]]
    named = 0
    for deletion in deletions:
        named += len(deletion.proofs)
        if named > RECEIPT_PROOFS_MAX and parts[-1]:
            parts.append([])
            named = len(deletion.proofs)
        parts[-1].append(deletion)
    return parts


async def _delete(run: PruneRun, deletion: Deletion, report: PruneReport) -> None:
    """Delete one object, and add what became of it to the report."""
    try:
        info = await run.store.head(deletion.key)
    except NotFoundError:
        report.absent.append(deletion.key)
        return
    if info.size != deletion.size:
        reason = f"has {info.size} bytes now, the plan says {deletion.size}"
        report.kept.append(Kept(key=deletion.key, reason=reason))
        return
    await run.store.delete(deletion.key)
    if await _is_gone(run.store, deletion.key):
        report.deleted.append(deletion.key)
    else:
        report.kept.append(Kept(key=deletion.key, reason="the store answered the delete and still has the object"))


async def _is_gone(store: Store, key: str) -> bool:
    try:
        await store.head(key)
    except NotFoundError:
        return True
    return False
