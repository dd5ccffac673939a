"""The merge run: raw segments in, proven days out. It never deletes.

For one market and date: read the indexes and decide which days are due; then, share by share (days made from the same raw objects), fetch and hash each
object once, write the plan, and for each day merge it, put the outputs, read them back, verify them against the raw lines, and publish the proof with a create-only put. Every step can be
interrupted and repeated: what is not named by a proof does not exist.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import cast

from twintape.columns.kept import WORD_BYTES
from twintape.columns.parse import HEADER
from twintape.columns.templates import TemplateSet
from twintape.columns.witness import BOOK_TICKER, partial_levels
from twintape.core import names, segment
from twintape.core.errors import AlreadyExistsError, CorruptionError, NotFoundError
from twintape.core.manifest import (
    Input,
    Output,
    Plan,
    PlanInput,
    Proof,
    Reference,
    Status,
    Unreadable,
    Verification,
    decode,
    digest,
    encode,
)
from twintape.core.markets import Market
from twintape.core.wire import SNAPSHOT, is_depth
from twintape.io.batch import (
    WITNESSES,
    Batch,
    Share,
    Stream,
    blocks_of,
    keys_of,
    neighbour,
    pins,
    rotated,
    shares,
    snapshot_blocks,
    streams,
    why_due,
    witness_blocks,
)
from twintape.io.catalog import Head, RawSegment, list_heads, missing_numbers, pruned_numbers, read_segments, sound
from twintape.io.day import BlockRef, DayResult, DayTask, merge_day, verify_task
from twintape.io.executor import InlineExecutor
from twintape.io.ports import Clock, Disk, Executor, LocalStore, Store
from twintape.io.proofs import proof_of
from twintape.io.scratch import HeaderRef, Pack, Place, SurveyTask, survey_object

__all__ = ["MERGES_MAX", "DayOutcome", "MergeRun", "merge_date", "merge_share"]

MERGES_MAX = 8
"""Days whose bytes are in memory at the same time, at most (fewer with fewer jobs)."""
FETCHES_MAX = 4
"""Raw objects that are fetched at the same time for one share; with more jobs, as many."""
PACKS = ("objects", "headers")
"""Files of a share on the scratch disk: the raw objects, and the headers of their depth frames. Beside them are the levels, a file for each process."""
GENERATIONS_MAX = 9999
CASCADE_MAX = 400
"""How many days in a row one run merges again because a closing book changed."""

Progress = Callable[[str, int, int], None]
"""Told `(what, done, total)` as a run goes on."""


def _silent(_what: str, _done: int, _total: int) -> None:
    """Tell nobody."""


@dataclass(frozen=True, slots=True)
class DayOutcome:
    """What became of one day: the head's proof now, whether this run made it, and why it could not be merged, if it could not."""

    symbol: str
    stream: str
    date: str
    proof_key: str | None
    status: Status | None
    generation: int
    fresh: bool
    error: str | None = None


@dataclass(slots=True)
class MergeRun:
    """What a merge needs of the world.

    Attributes:
        store: Where everything is.
        clock: For the proof's date of creation.
        scratch: An empty disk for raw objects; `scratch_root` is its directory for workers in other processes, or None.
        executor: Where days are computed.
        draw_id: Returns 16 fresh hex digits.
        version: Of this program.
        jobs: Days computed at the same time.
        progress: Told how far it is.
        spread: Merges a date's shares on other machines; None for this one.
        packs: What is on the scratch disk.
    """

    store: Store
    clock: Clock
    scratch: Disk
    executor: Executor
    draw_id: Callable[[], str]
    version: str
    scratch_root: str | None = None
    jobs: int = 1
    progress: Progress = _silent
    spread: Callable[[Batch, Sequence[Share]], Awaitable[list[DayOutcome]]] | None = None
    packs: dict[str, Pack] = field(default_factory=dict)


async def merge_date(run: MergeRun, market: Market, date: str, *, symbols: Sequence[str] = ()) -> list[DayOutcome]:
    """Merge every stream of a date that is due, and the following days whose opening book changes by it.

    Args:
        run: The world.
        market: Which market.
        date: The UTC date.
        symbols: Only these; empty for all.

    Returns:
        One outcome for each stream of the date, then for the days merged again, in order. A day that cannot be merged (a damaged output of the generation
        before, frames that contradict their proof) has an `error`; the others are merged all the same.

    Raises:
        StoreError: The store failed; everything published so far stays, and running again goes on.
    """
    outcomes: list[DayOutcome] = []
    wanted = set(symbols)
    for number in range(CASCADE_MAX):
        day = neighbour(date, number)
        found = await _merge_one(run, market, day, wanted, cascade=number > 0)
        outcomes += found
        changed = {outcome.symbol for outcome in found if outcome.fresh}
        if not changed:
            break
        wanted = changed
    return outcomes


async def _merge_one(run: MergeRun, market: Market, date: str, wanted: set[str], *, cascade: bool) -> list[DayOutcome]:
    batch = await _survey(run, market, date, wanted, cascade=cascade)
    if batch is None:
        return []
    days = streams(batch, wanted, cascade=cascade)
    parts = shares(batch, [day for day in days if why_due(batch, *day) is not None])
    merged = await (run.spread or partial(_merge_here, run))(batch, parts)
    fresh = {(outcome.symbol, outcome.stream): outcome for outcome in merged}
    return [fresh.get(day) or _unchanged(batch, *day) for day in days]


async def _survey(run: MergeRun, market: Market, date: str, wanted: set[str], *, cascade: bool) -> Batch | None:
    """Read what is there of a date; None where a cascade ends."""
    dates = [neighbour(date, -1), date, neighbour(date, 1)]
    heads = await list_heads(run.store, market, dates=dates)
    if cascade and not any(day == date and (not wanted or symbol in wanted) for symbol, _, day in heads):
        return None
    view = await read_segments(run.store, market, dates)
    before = [hole for (_, _, day), head in heads.items() if day == date for hole in head.proof.missing]
    missing = missing_numbers(view.segments.values(), {}, before)
    if missing:
        pruned = await pruned_numbers(run.store, market, dates, missing)
        missing = missing_numbers(view.segments.values(), pruned, before)
    batch = Batch(market, date, view, missing, heads)
    await _fetch(run, batch, _suspects(batch))
    _drop_raw(run, batch)
    return batch


async def _merge_here(run: MergeRun, batch: Batch, parts: Sequence[Share]) -> list[DayOutcome]:
    """Merge the shares on this machine, beginning at a place of the list that is this run's own.

    So several machines that were given the same date hardly ever work on the same day, with nothing between them but the store.
    """
    fetching, merging = asyncio.Semaphore(max(1, run.jobs)), asyncio.Semaphore(max(1, min(run.jobs, MERGES_MAX)))
    total = sum(len(share) for share in parts)
    done = 0

    def tell(day: Stream) -> None:
        nonlocal done
        done += 1
        run.progress(f"{batch.market} {batch.date}: {' '.join(day)}", done, total)

    async def one(number: int, share: Share) -> list[DayOutcome]:
        async with fetching:
            return await merge_share(run, batch.share(f"raw/{number}"), share, limit=merging, tell=tell)

    start = int(run.draw_id(), 16)
    merged = await asyncio.gather(*(one(number, share) for number, share in enumerate(rotated(parts, start))))
    return [outcome for outcomes in merged for outcome in outcomes]


async def merge_share(
    run: MergeRun, batch: Batch, share: Share, *, limit: asyncio.Semaphore, tell: Callable[[Stream], None]
) -> list[DayOutcome]:
    """Merge days that are made from the same raw objects: fetch each object once, publish the plan, merge each day, forget the objects.

    Args:
        run: The world.
        batch: The date, for this share alone; changed by it.
        share: The days.
        limit: How many days are merged at the same time.
        tell: Told each day that is done.

    Raises:
        StoreError: The store failed; everything published so far stays.
    """
    outcomes, due = [], []
    for day in rotated(share, int(run.draw_id(), 16)):
        winner = await _proven_meanwhile(run, batch, *day)
        if winner is None:
            due.append(day)
        else:
            outcomes.append(winner)
            tell(day)
    # Where an object turns out damaged or gone, the one beside it becomes the nearest to midnight.
    needed = _needed(batch, due)
    while not batch.sha256.keys() >= set(needed):
        await _fetch(run, batch, [key for key in needed if key not in batch.sha256])
        needed = _needed(batch, due)
    if due:
        await _publish_plan(run, batch, needed)

    async def one(day: Stream) -> DayOutcome:
        async with limit:
            outcome = await _proven_meanwhile(run, batch, *day) or await _merge_or_tell(run, batch, *day)
        tell(day)
        return outcome

    outcomes += await asyncio.gather(*(one(day) for day in due))
    _drop_raw(run, batch)
    return outcomes


def _drop_raw(run: MergeRun, batch: Batch) -> None:
    """Forget the fetched objects: the scratch disk need hold no more than the shares under way."""
    for path in [path for path in run.packs if path.startswith(f"{batch.scratch}/")]:
        run.packs.pop(path).remove()
    for fetched in (batch.sha256, batch.places, batch.headers, batch.control):
        fetched.clear()


async def _proven_meanwhile(run: MergeRun, batch: Batch, symbol: str, stream: str) -> DayOutcome | None:
    """Return what another merge has made of a day since the survey, or None: its proof is as good as ours would be."""
    head = batch.heads.get((symbol, stream, batch.date))
    generation = 1 if head is None else head.proof.generation + 1
    key = names.proof_key(batch.market, symbol, stream, batch.date, generation)
    try:
        winner = decode(await run.store.get(key), Proof, where=key)
    except NotFoundError:
        return None
    return DayOutcome(symbol, stream, batch.date, key, winner.status, generation, fresh=False)


def _suspects(batch: Batch) -> list[str]:
    """Return the objects that were damaged when the date was merged: only if they are sound by now are they new raw data."""
    damaged = {found.key for (_, _, date), head in batch.heads.items() if date == batch.date for found in head.proof.unreadable}
    return sorted(damaged & batch.view.segments.keys())


def _needed(batch: Batch, due: Sequence[tuple[str, str]]) -> list[str]:
    """Return the raw objects that the days to be merged are made from."""
    return sorted({key for day in due for key in keys_of(batch, *day)})


def _unchanged(batch: Batch, symbol: str, stream: str) -> DayOutcome:
    head = batch.heads[symbol, stream, batch.date]
    return DayOutcome(symbol, stream, batch.date, head.key, head.proof.status, head.proof.generation, fresh=False)


# --- raw objects and the plan --------------------------------------------------------------------------------------------------


async def _fetch(run: MergeRun, batch: Batch, keys: Sequence[str]) -> None:
    """Fetch each raw object once, keep it on the scratch disk, check its digest and, in one pass over its bytes, every statement of its index."""
    limit = asyncio.Semaphore(max(FETCHES_MAX, run.jobs))
    raw, headers = (_pack(run, batch, name) for name in PACKS)
    in_place = isinstance(run.store, LocalStore)
    done = 0

    async def one(key: str) -> None:
        nonlocal done
        async with limit:
            try:
                await sound(partial(_fetch_object, run, batch, key, None if in_place else raw, headers))
            except NotFoundError:
                del batch.view.segments[key]  # a prune was faster
            except CorruptionError as error:
                del batch.view.segments[key]
                batch.view.unreadable.append(Unreadable(key=key, reason=str(error)))
        done += 1
        run.progress(f"{batch.market} {batch.date}: raw objects", done, len(keys))

    # What several collectors heard at the same time is read one after the other: most of a copy is known by then.
    by_time = sorted(keys, key=lambda key: (batch.view.segments[key].index.first_receive_time_ns, key))
    await asyncio.gather(*(one(key) for key in by_time))
    batch.view.unreadable.sort(key=lambda unreadable: unreadable.key)


def _pack(run: MergeRun, batch: Batch, name: str) -> Pack:
    path = f"{batch.scratch}/{name}"
    return run.packs.get(path) or run.packs.setdefault(path, Pack(run.scratch, path))


async def _fetch_object(run: MergeRun, batch: Batch, key: str, raw: Pack | None, headers: Pack) -> None:
    segment_of = batch.view.segments[key]
    data = await run.store.get(key)
    sha256 = digest(data)
    if not sha256.startswith(segment_of.key.digest16):
        raise CorruptionError(f"the object's sha256 is {sha256[:16]}…, its key says {segment_of.key.digest16}")
    text = segment.index_json(data, len(data))
    if len(data) != segment_of.info.size or isinstance(text, segment.NeedMore) or digest(text) != segment_of.index_sha256:
        raise CorruptionError("the index changed while it was read")
    # What is a file of this machine is read again where it is.
    place = raw.add(data) if raw is not None else Place(cast("LocalStore", run.store).local_path(key), 0, len(data))
    here = data if isinstance(run.executor, InlineExecutor) else None
    task = SurveyTask(_scratch_of(run), place, segment_of.index, _connection(segment_of), headers.number, here)
    found = await run.executor.run(survey_object, task)
    levels = _pack(run, batch, f"levels-{found.kept}").add(found.levels)
    assert levels.offset == WORD_BYTES * found.before, "what one process returns comes in order"
    offset = headers.add(found.rows).offset
    for stream in segment_of.index.streams:
        if stream.name in found.templates:
            size = stream.count * HEADER.itemsize
            place_of = Place(headers.path, offset, size)
            batch.headers[key, stream.name] = place_of, TemplateSet(found.templates[stream.name]), levels.path
            offset += size
    batch.places[key] = place
    batch.clocks[key] = found.clocks.get(batch.date)
    batch.notes[key] = found.notes
    batch.control |= {(key, offset): text for offset, text in found.control.items()}
    batch.sha256[key] = sha256


def _scratch_of(run: MergeRun) -> Disk | str:
    return run.scratch if run.scratch_root is None else run.scratch_root


def _connection(raw: RawSegment) -> str:
    return f"{raw.key.run8}-{raw.key.connection}"


async def _publish_plan(run: MergeRun, batch: Batch, keys: Sequence[str]) -> None:
    inputs = []
    for key in keys:
        raw = batch.view.segments.get(key)
        if raw is not None:
            inputs.append(
                PlanInput(
                    key=key,
                    size=raw.info.size,
                    sha256=batch.sha256[key],
                    index_sha256=raw.index_sha256,
                    collector=raw.key.collector,
                    chain=raw.index.chain.id,
                    number=raw.index.chain.number,
                )
            )
    plan = Plan(market=str(batch.market), date=batch.date, inputs=inputs, missing=batch.missing, unreadable=batch.view.unreadable)
    data = encode(plan)
    key = names.plan_key(batch.market, batch.date, digest(data))
    await run.store.create(key, data)
    batch.plan = Reference(key=key, sha256=digest(data))


# --- one day -------------------------------------------------------------------------------------------------------------------


async def _merge_or_tell(run: MergeRun, batch: Batch, symbol: str, stream: str) -> DayOutcome:
    """Merge a stream's day; one that cannot be merged must not keep the others from it."""
    try:
        return await _merge_stream(run, batch, symbol, stream)
    except NotFoundError as error:
        # A prune has collected what this merge wrote or read. It may do so only where another merge took the generation's slot.
        winner = await _proven_meanwhile(run, batch, symbol, stream)
        if winner is not None:
            return winner
        problem = f"{error} (restore it first)"
    except CorruptionError as error:
        problem = str(error)
    head = batch.heads.get((symbol, stream, batch.date))
    key, status, generation = (None, None, 0) if head is None else (head.key, head.proof.status, head.proof.generation)
    return DayOutcome(symbol, stream, batch.date, key, status, generation, fresh=False, error=problem)


async def _merge_stream(run: MergeRun, batch: Batch, symbol: str, stream: str) -> DayOutcome:
    head = batch.heads.get((symbol, stream, batch.date))
    task, sources, carried = await _task(run, batch, symbol, stream, head)
    result = await run.executor.run(merge_day, task)
    generation = 1 if head is None else head.proof.generation + 1
    write_id = run.draw_id()
    outputs, read_back = await _publish_tables(run, task, result, generation, write_id)
    verified = await run.executor.run(verify_task, task, read_back, result)
    verification = Verification(
        render_exact=verified.rendered - result.slow,
        render_kept=result.slow + verified.kept,
        chain_checked=result.events,
        read_back_bytes=sum(output.size for output in outputs),
        crossed=0 if result.sanity is None else result.sanity.crossed,
        lines_agree=result.lines_agree,
        conflicts=result.conflicts,
    )
    proof = proof_of(
        batch,
        task,
        result,
        head=head,
        sources=sources,
        carried=carried,
        outputs=outputs,
        verification=verification,
        generation=generation,
        write_id=write_id,
        created_ns=run.clock.wall_ns(),
        version=run.version,
    )
    counted = sum(source.settled for source in proof.inputs)
    if counted != verified.settled:
        raise CorruptionError(f"the lineage settles {counted} frames, the outputs hold {verified.settled}")
    key = names.proof_key(batch.market, symbol, stream, batch.date, generation)
    try:
        await run.store.create(key, encode(proof))
    except AlreadyExistsError:
        # Another merge took the slot. Its proof is as good as ours; what we wrote is garbage that prune may collect.
        winner = await _proven_meanwhile(run, batch, symbol, stream)
        assert winner is not None, "a proof is never deleted"
        return winner
    return DayOutcome(symbol, stream, batch.date, key, proof.status, generation, fresh=True)


async def _task(
    run: MergeRun, batch: Batch, symbol: str, stream: str, head: Head | None
) -> tuple[DayTask, list[RawSegment], list[Input]]:
    """Build the day's task: from the raw data at hand and, for segments of the lineage that are gone, from the parent's outputs."""
    blocks = blocks_of(batch, symbol, stream)
    at_hand = {key for key, _ in blocks}
    lineage = [] if head is None else head.proof.inputs
    known = {source.key for source in lineage}
    carried = [source for source in lineage if source.key not in at_hand]
    parent: dict[str, str] = {}
    if head is not None and carried:
        for output in head.proof.outputs:
            parent[output.table] = await _fetch_output(run, output)
    keys = sorted({key for key, _ in blocks})
    spliced = is_depth(stream)
    before, behind = pins(batch, symbol, stream) if spliced else (None, None)
    start_pin = None if before is None else before.proof.end.update_id
    # A day that ended at an edge of recording, or at a gap, need not have ended at midnight: the day behind began there for want of anything better.
    open_end = head is not None and (head.proof.open_end or head.proof.gap_behind)
    loose = behind is None or behind.proof.open_start or open_end or (head is not None and _cut_short(head.proof, behind.proof))
    end_pin = None if loose or behind is None else behind.proof.start.update_id
    if parent and spliced and head is not None:
        # The frames around midnight that showed where the day ends may be gone; what they showed is in the parent's proof.
        if start_pin is None and not head.proof.open_start:
            start_pin = head.proof.start.update_id
        if end_pin is None and not open_end:
            end_pin = head.proof.end.update_id
    witnesses = witness_blocks(batch, symbol, stream)
    task = DayTask(
        market=batch.market,
        symbol=symbol,
        stream=stream,
        date=batch.date,
        spliced=spliced,
        scratch=_scratch_of(run),
        sources=len(keys),
        blocks=_refs(batch, keys, blocks, symbol, stream),
        snapshots=[_ref(batch, -1, key, block) for key, block in snapshot_blocks(batch, symbol, stream)],
        tickers=[_ref(batch, -1, key, block) for stream, key, block in witnesses if stream == BOOK_TICKER],
        partials=[
            (levels, _ref(batch, -1, key, block))
            for stream, key, block in witnesses
            if (levels := partial_levels(stream)) is not None
        ],
        archived_witnesses=await _archived_witnesses(run, batch, symbol) if spliced else [],
        archived_snapshots=await _archived_snapshots(run, batch, symbol) if spliced else [],
        parent=parent,
        inherited=frozenset(position for position, key in enumerate(keys) if key in known),
        start_pin=start_pin,
        end_pin=end_pin,
        opening=await _opening(run, before),
    )
    return task, [batch.view.segments[key] for key in keys], carried


def _cut_short(proof: Proof, behind: Proof) -> bool:
    """Whether a day has events where the day behind, which was merged without knowing of them, begins with a gap."""
    end, start = proof.end.update_id, behind.start.update_id
    if proof.epochs or behind.epochs:
        return False  # which of two ids is later cannot be told where they restart
    return end is not None and start is not None and end > start and any(gap.after_update_id == start for gap in behind.gaps)


def _ref(batch: Batch, source: int, key: str, block: segment.Block, headers: HeaderRef | None = None) -> BlockRef:
    raw = batch.view.segments[key]
    text = batch.control.get((key, block.offset))
    return BlockRef(source, batch.places[key], raw.key.collector, _connection(raw), block, headers, text)


def _refs(batch: Batch, keys: list[str], blocks: Sequence[tuple[str, segment.Block]], symbol: str, stream: str) -> list[BlockRef]:
    """Return the stream's blocks as the day's task names them, those of a depth stream with their headers."""
    source = {key: position for position, key in enumerate(keys)}
    headers: dict[tuple[str, int], HeaderRef] = {}
    for key in keys:
        for index in batch.view.segments[key].index.streams:
            found = batch.headers.get((key, index.name)) if (index.symbol, index.stream) == (symbol, stream) else None
            if found is None:
                continue
            place, templates, levels = found
            offset = place.offset
            for block in index.blocks:
                size = block.count * HEADER.itemsize
                headers[key, block.offset] = Place(place.path, offset, size), templates, levels
                offset += size
    return [_ref(batch, source[key], key, block, headers.get((key, block.offset))) for key, block in blocks]


async def _archived_snapshots(run: MergeRun, batch: Batch, symbol: str) -> list[str]:
    """Fetch the published snapshots of the dates around whose raw segments are gone: at the time, perhaps, no chain met them."""
    paths = []
    for days in (-1, 0, 1):
        head = batch.heads.get((symbol, SNAPSHOT, neighbour(batch.date, days)))
        if head is not None and any(source.key not in batch.view.segments for source in head.proof.inputs):
            paths += [await _fetch_output(run, output) for output in head.proof.outputs if output.table == "verbatim"]
    return paths


async def _archived_witnesses(run: MergeRun, batch: Batch, symbol: str) -> list[tuple[str, dict[str, str]]]:
    """Fetch what the date's published days of the symbol's witness streams hold, where raw segments of theirs are gone."""
    found = []
    for (name, stream, date), head in batch.heads.items():
        gone = any(source.key not in batch.view.segments for source in head.proof.inputs)
        if (name, date) == (symbol, batch.date) and stream in WITNESSES and gone:
            found.append((stream, {output.table: await _fetch_output(run, output) for output in head.proof.outputs}))
    return found


async def _fetch_output(run: MergeRun, output: Output) -> str:
    """Fetch a published output to the scratch disk; one that is not what its proof says stops the merge."""
    data = await run.store.get(output.key)
    if digest(data) != output.sha256:
        raise CorruptionError(f"{output.key}: sha256 {digest(data)}, the proof says {output.sha256}", hint="restore it first")
    path = f"outputs/{output.sha256}.parquet"
    if path not in run.scratch.list("outputs"):
        file = run.scratch.append(path)
        file.write(data)
        file.close()
    return path


async def _opening(run: MergeRun, before: Head | None) -> str | None:
    if before is None or before.proof.closing_book is None:
        return None
    for output in before.proof.outputs:
        if output.table == "snapshot":
            return await _fetch_output(run, output)
    raise CorruptionError(f"{before.key} has a closing book and no snapshot table")


async def _publish_tables(
    run: MergeRun, task: DayTask, result: DayResult, generation: int, write_id: str
) -> tuple[list[Output], dict[str, bytes]]:
    """Put the tables under a fresh write-id and read every byte back."""
    outputs, read_back = [], {}
    for table in result.tables:
        key = names.table_key(table.name, task.market, task.symbol, task.stream, task.date, generation, write_id, 0)
        await run.store.create(key, table.data)
        data = await run.store.get(key)
        if data != table.data:
            raise CorruptionError(f"{key}: read back {len(data)} bytes that are not the {len(table.data)} written")
        read_back[table.name] = data
        outputs.append(Output(table=table.name, key=key, size=len(data), sha256=digest(data), rows=table.rows))
    return outputs, read_back
