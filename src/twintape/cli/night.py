"""`merge`, `verify`, `proof`, `prune`, `nightly`: from raw recordings to a proven archive, and only then less raw data."""

from __future__ import annotations

import contextlib
import re
import secrets
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from twintape.cli.common import (
    DEFAULT_STORE,
    FINDINGS,
    check_date,
    markets_of,
    merge_run,
    plain,
    plural,
    print_json,
    progress,
    run_async,
    size_text,
    span_text,
    symbols_of,
    table,
)
from twintape.core.errors import ConfigError
from twintape.io.allocator import use_small_pages

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from twintape.core.evidence import Distribution, LineValue
    from twintape.core.manifest import Proof
    from twintape.core.night_settings import NightlySettings
    from twintape.io.merge import DayOutcome
    from twintape.io.ports import Store
    from twintape.io.prune import PrunePlan

__all__ = ["merge", "nightly", "proof", "prune", "verify"]

StoreOption = Annotated[str, typer.Option(help="Where segments and archive are: a directory, s3://…, gs://…, az://….")]
MarketOption = Annotated[str | None, typer.Option(help="Only this market: spot, usdm or coinm.")]
SymbolOption = Annotated[list[str] | None, typer.Option(help="Only this symbol; repeatable.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
JobsOption = Annotated[int, typer.Option(min=1, help="Days computed at the same time.")]
ENGINES = ("local", "ray")
EngineOption = Annotated[str, typer.Option(help="Where days are merged: local (this machine) or ray (an existing Ray cluster).")]
AddressOption = Annotated[str | None, typer.Option(help="With --engine ray: HOST:PORT of the cluster's head.")]
SingleOption = Annotated[
    bool, typer.Option("--single-merger", help="Promise that no other merge or prune runs: for stores that ignore If-None-Match.")
]
ScratchOption = Annotated[str | None, typer.Option(help="Directory for raw objects while they are merged.")]


def merge(
    date: Annotated[str, typer.Option(help="UTC date, YYYY-MM-DD.")],
    market: MarketOption = None,
    symbol: SymbolOption = None,
    store: StoreOption = DEFAULT_STORE,
    jobs: JobsOption = 1,
    scratch: ScratchOption = None,
    engine: EngineOption = "local",
    address: AddressOption = None,
    single_merger: SingleOption = False,
    json: JsonOption = False,
) -> None:
    """Merge the lines of all collectors of one date, prove the result, publish it. Never deletes. Safe to repeat and to interrupt.

    Several machines may merge one date at the same time: each begins at another place of the list and passes over what is proven already.
    Exit code 1 if a day is gapped or conflicted, or cannot be merged; 3 if the store is not fit for it.
    """
    if engine not in ENGINES:
        raise ConfigError(f"--engine is {engine!r}", hint=f"it is one of {', '.join(ENGINES)}")
    if address is not None and engine != "ray":
        raise ConfigError("--address belongs to --engine ray")
    if single_merger and engine != "local":
        raise ConfigError("--single-merger promises what a cluster cannot keep", hint="merge with --engine local")
    day = check_date(date)
    names = symbols_of(symbol)
    work = _merge(day, market, names, store, jobs=jobs, scratch=scratch, engine=engine, address=address, alone=single_merger)
    outcomes = run_async(work)
    _report(outcomes, json=json)
    if any(_is_finding(outcome) for outcome in outcomes):
        raise SystemExit(FINDINGS)


async def _merge(
    date: str,
    market: str | None,
    symbols: list[str],
    url: str,
    *,
    jobs: int,
    scratch: str | None,
    engine: str,
    address: str | None,
    alone: bool,
) -> list[DayOutcome]:
    use_small_pages()
    from twintape.io.merge import merge_date

    store = await _fit_store(url, alone=alone)
    with progress() as tell, cluster(engine, address, store.url, tell) as spread:
        async with merge_run(store, jobs=jobs, scratch=scratch, tell=tell) as run:
            run.spread = spread
            outcomes: list[DayOutcome] = []
            for which in markets_of(market):
                outcomes += await merge_date(run, which, date, symbols=symbols)
            return outcomes


@contextlib.contextmanager
def cluster(engine: str, address: str | None, store_url: str, tell: Callable[[str, int, int], None]) -> Iterator[Any]:
    """Yield what merges shares elsewhere, or None for the engine `local`."""
    if engine == "local":
        yield None
        return
    from twintape import __version__
    from twintape.io.cluster import RayCluster

    ray = RayCluster(address, store_url=store_url, version=__version__, progress=tell)
    try:
        yield ray.spread
    finally:
        ray.close()


def _open(url: str, *, alone: bool) -> Store:
    """Open a store to publish in or to delete from; who is alone looks before each put, and needs no conditions of the store."""
    from twintape.io.conditions import SoleWriterStore
    from twintape.io.store import open_store

    store = open_store(url, create=False, wait=True)
    return SoleWriterStore(store) if alone else store


async def _fit_store(url: str, *, alone: bool) -> Store:
    """Open a store to publish in.

    Raises:
        RefusedError: Two merges at once could overwrite each other's proofs in it, or `twintape doctor` found it unfit.
    """
    from twintape.io.clock import SystemClock
    from twintape.io.conditions import require_fit

    store = _open(url, alone=alone)
    await require_fit(store, lambda: secrets.token_hex(8), SystemClock().wall_ns())
    return store


def _report(outcomes: list[DayOutcome], *, json: bool, empty: str = "nothing is recorded for that date") -> None:
    if json:
        print_json(
            [
                {
                    "symbol": outcome.symbol,
                    "stream": outcome.stream,
                    "date": outcome.date,
                    "status": outcome.status,
                    "generation": outcome.generation,
                    "fresh": outcome.fresh,
                    "proof": outcome.proof_key,
                    "error": outcome.error,
                }
                for outcome in outcomes
            ]
        )
        return
    if not outcomes:
        print(empty)
        return
    table(
        ["symbol", "stream", "date", "status", "generation", ""],
        [[o.symbol, o.stream, o.date, o.status or "", o.generation, _word(o)] for o in outcomes],
        right=("generation",),
    )
    for outcome in outcomes:
        if outcome.error:
            print(f"twintape: {outcome.symbol} {outcome.stream} {outcome.date} was not merged: {outcome.error}", file=sys.stderr)


def _word(outcome: DayOutcome) -> str:
    return "FAILED" if outcome.error else "new" if outcome.fresh else "unchanged"


def _is_finding(outcome: DayOutcome) -> bool:
    return outcome.error is not None or outcome.status in ("gapped", "conflicted")


def verify(
    date: Annotated[str | None, typer.Option(help="Only this UTC date.")] = None,
    market: MarketOption = None,
    symbol: SymbolOption = None,
    store: StoreOption = DEFAULT_STORE,
    independent: Annotated[
        bool,
        typer.Option(
            "--independent", help="Re-derive every claim with a second, slow verifier that shares no code with the merge."
        ),
    ] = False,
    json: JsonOption = False,
) -> None:
    """Read published days back: every output against its digest, every row against the chain its proof describes.

    With --independent every claim of a proof is derived anew from the published bytes, and from raw segments that are still there.
    Exit code 1 if anything is not what its proof says.
    """
    only = None if date is None else check_date(date)
    check = _verify_independently if independent else _verify
    with progress() as tell:
        findings = run_async(check(only, market, symbols_of(symbol), store, tell))
    if json:
        print_json(findings)
    else:
        for finding in findings:
            for line in [finding["problem"] or "ok"] if not independent else finding["disagreements"] or [_ok(finding)]:
                print(f"{finding['key']}: {line}")
        print(_summary(findings))
    if any(finding["problem"] for finding in findings):
        raise SystemExit(FINDINGS)


def _summary(findings: list[dict[str, Any]]) -> str:
    wrong = sum(finding["problem"] is not None for finding in findings)
    if not findings:
        return "no published day to verify"
    return f"{plural(len(findings), 'day')}: " + (f"{wrong:,} NOT as proven" if wrong else "all as proven")


def _ok(finding: dict[str, Any]) -> str:
    gone = f", {finding['raw_gone']} pruned" if finding["raw_gone"] else ""
    return f"ok ({finding['rows']:,} rows and {finding['raw_segments']} raw segments{gone})"


async def _verify_independently(
    date: str | None, market: str | None, symbols: list[str], url: str, tell: Any
) -> list[dict[str, Any]]:
    from twintape.independent.check import verify_market
    from twintape.io.store import open_store

    store = open_store(url, create=False)
    findings = []
    for which in markets_of(market):
        found = verify_market(store, str(which), symbols=symbols, date=date, tell=partial(tell, f"verify {which}"))
        async for verdict in found:
            cut = len(verdict.key) + 2
            disagreements = [line[cut:] for line in verdict.disagreements]
            findings.append(
                {
                    "key": verdict.key,
                    "status": verdict.status,
                    "problem": disagreements[0] if disagreements else None,
                    "disagreements": disagreements,
                    "rows": verdict.rows,
                    "raw_segments": verdict.raw_segments,
                    "raw_gone": verdict.raw_gone,
                }
            )
    return findings


async def _verify(date: str | None, market: str | None, symbols: list[str], url: str, tell: Any) -> list[dict[str, Any]]:
    from twintape.core.errors import CorruptionError, NotFoundError
    from twintape.io.catalog import list_heads
    from twintape.io.store import open_store
    from twintape.io.verify import verify_published

    store = open_store(url, create=False)
    findings = []
    for which in markets_of(market):
        heads = await list_heads(store, which, dates=None if date is None else [date])
        mine = {day: head for day, head in heads.items() if not symbols or day[0] in symbols}
        for number, head in enumerate(mine.values(), 1):
            problem = None
            try:
                await verify_published(store, head.proof)
            except (CorruptionError, NotFoundError) as error:
                problem = str(error)
            findings.append({"key": head.key, "status": head.proof.status, "problem": problem})
            tell(f"verify {which}", number, len(mine))
    return findings


def proof(
    symbol: Annotated[str, typer.Option(help="Symbol, such as BTCUSDT.")],
    date: Annotated[str, typer.Option(help="UTC date, YYYY-MM-DD.")],
    market: Annotated[str, typer.Option(help="spot, usdm or coinm.")] = "spot",
    stream: Annotated[str | None, typer.Option(help="Stream; default: the symbol's only depth stream.")] = None,
    store: StoreOption = DEFAULT_STORE,
    json: JsonOption = False,
) -> None:
    """Show what is proven about a day: its ids, gaps, switches, checkpoints, and what became of every raw frame.

    Exit code 1 unless the day is complete or partial.
    """
    from twintape.io.archive import Archive
    from twintape.io.store import open_store

    found = Archive(open_store(store, create=False)).proof(market, symbol, check_date(date), stream)
    if json:
        print_json(plain(found))
    else:
        print_proof(found)
    if found.status in ("gapped", "conflicted"):
        raise SystemExit(FINDINGS)


def print_proof(found: Proof) -> None:
    """Print a proof for people."""
    from twintape.core.proven import evidence_of

    print(f"{found.market} {found.symbol} {found.stream} {found.date}: {found.status} (generation {found.generation})")
    for reason in found.reasons:
        print(f"  {reason}")
    print(f"  ids       ({found.start.update_id}, {found.end.update_id}] in {found.events:,} events, {found.levels:,} levels")
    path = (
        plural(len(found.switches), "line switch", "line switches"),
        plural(len(found.overlaps), "overlap"),
        plural(len(found.gaps), "gap"),
    )
    print(f"  path      {', '.join(path)}")
    for gap in found.gaps:
        print(f"  gap       ids {gap.after_update_id + 1}…{gap.next_prev_update_id}, {gap.gap_class}: {gap.reason}")
        for line in gap.lines:
            for note in line.notes:
                print(f"              {line.collector}: {note}")
    print()
    rows: list[list[object]] = [
        [f"{level.level} {level.name}", level.verdict, _counts(level.counts)] for level in found.evidence or evidence_of(found)
    ]
    table(["proven", "", ""], rows)
    _print_contradictions(found)
    print()
    columns = ["line", "frames", "chosen", "duplicate", "verbatim", "owed", "missed", "only here"]
    rows = [
        [line.collector, line.frames, line.chosen, line.duplicate, line.verbatim, line.owed, line.missed, line.only_here]
        for line in found.lines
    ]
    table(columns, rows, right=tuple(columns[1:]))
    _print_worth(found.redundancy)


LOST_SHOWN_MAX = 3
"""Ranges of ids a line alone had that are printed for people; the proof has the first hundred of each line, and counts all."""


def _print_worth(values: list[LineValue]) -> None:
    """Print what each line was worth, and what would be missing without it."""
    if not values:
        return
    print()
    columns = ["without", "events lost", "time lost", "first", "behind (p50, p99)", "after E (p50, p99)"]
    rows: list[list[object]] = [
        [
            one.collector,
            f"{one.only_events:,}",
            span_text(one.only_us * 1e3),
            f"{100 * one.first / one.shared:.0f} %" if one.shared else "",
            _two(one.behind_first),
            _two(one.after_event),
        ]
        for one in values
    ]
    table(columns, rows, right=tuple(columns[1:]))
    for one in values:
        if one.same_recording_as is not None:
            print(f"  {one.collector} is the same recording as {one.same_recording_as}: together they are one witness")
        for lost_range in one.lost[:LOST_SHOWN_MAX]:
            print(
                f"  without {one.collector}: ids {lost_range.after_update_id + 1}…{lost_range.next_prev_update_id} would be missing"
            )
        if one.lost_ranges > LOST_SHOWN_MAX:
            print(f"  … and {one.lost_ranges - LOST_SHOWN_MAX} ranges more")


def _two(of: Distribution | None) -> str:
    return "" if of is None else f"{span_text(of.p50)}, {span_text(of.p99)}"


def _counts(counts: Mapping[str, int]) -> str:
    shown = [f"{count:,} {name.replace('_', ' ')}" for name, count in counts.items() if count]
    return ", ".join(shown) or ("nothing" if counts else "nothing recorded to check it by")


def _print_contradictions(found: Proof) -> None:
    """Print every snapshot that contradicts the stream, and the first differences of the other witnesses."""
    for failure in [*found.checkpoints.failures, *(found.partial_books.failures[:3] if found.partial_books else [])]:
        print(
            f"  snapshot {failure.last_update_id} of {failure.collector} contradicts the stream in {failure.differences} levels"
        )
        for side, price, theirs, ours in failure.examples[:3]:
            print(f"    {side} {price}: {theirs} in it, {ours} in the book")
    for ticker in found.tickers.examples[:3] if found.tickers else []:
        ours, theirs = (" ".join(top) for top in (ticker.in_book, ticker.in_ticker))
        print(f"  bookTicker {ticker.update_id} says {theirs}, the book at {ticker.final_update_id} {ours}")
    for window in found.windows.examples[:3] if found.windows else []:
        print(f"  {window.collector} is {window.kind} over ids ({window.prev_update_id}, {window.final_update_id}]")


_DURATION = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)([smhd])")
_UNITS_NS = {"s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9, "d": 86400 * 10**9}


def duration_ns(text: str) -> int:
    """Return a duration in nanoseconds.

    >>> duration_ns("72h") // 3_600_000_000_000
    72

    Raises:
        ConfigError: It is none.
    """
    from twintape.core.errors import ConfigError

    match = _DURATION.fullmatch(text)
    if match is None:
        raise ConfigError(f"not a duration: {text!r}", hint="a number and s, m, h or d: 72h")
    return int(float(match[1]) * _UNITS_NS[match[2]])


def prune(
    store: StoreOption = DEFAULT_STORE,
    market: MarketOption = None,
    grace: Annotated[str, typer.Option(help="How long raw data outlives a complete or partial proof.")] = "72h",
    gapped_grace: Annotated[str, typer.Option(help="How long it outlives a gapped one.")] = "14d",
    execute: Annotated[bool, typer.Option("--execute", help="Delete. Without it, only say what would go.")] = False,
    single_merger: SingleOption = False,
    json: JsonOption = False,
) -> None:
    """Delete raw segments whose every frame is proven to be in the archive. Prints its plan; deletes only with --execute.

    Exit code 3 if the store forbids pruning.
    """
    graces = duration_ns(grace), duration_ns(gapped_grace)
    plan, report = run_async(_prune(_open(store, alone=single_merger), market, *graces, execute=execute, json=json))
    if json:
        listed = {"delete": [plain(d) for d in plan.delete], "kept": [plain(k) for k in plan.kept]}
        print_json({"write_id": plan.write_id, **listed, "done": report})


SHOWN_MAX = 12
"""Lines of a plan that are printed for people; all of it is in the receipt, and in --json."""


def _print_plan(plan: PrunePlan) -> None:
    for deletion in plan.delete[:SHOWN_MAX]:
        print(f"delete {deletion.key}  ({deletion.why}, {size_text(deletion.size)})")
    if len(plan.delete) > SHOWN_MAX:
        print(f"… and {len(plan.delete) - SHOWN_MAX} more; --json prints all")
    reasons: dict[str, int] = {}
    for kept in plan.kept:
        reasons[kept.reason] = reasons.get(kept.reason, 0) + 1
    for reason, count in sorted(reasons.items()):
        print(f"keep   {count} objects: {reason}")
    print(
        f"{len(plan.delete)} objects to delete, {size_text(plan.delete_bytes)};"
        f" re-read {size_text(plan.checked_bytes)} of the archive to be sure",
        flush=True,
    )


def _print_done(plan: PrunePlan, report: Mapping[str, Any] | None) -> None:
    if report is None:
        print("dry run: nothing was deleted; --execute deletes" if plan.delete else "nothing to delete")
    else:
        print(f"deleted {len(report['deleted'])}, already gone {len(report['absent'])}; receipt/v1/{plan.write_id}")


async def _prune(
    store: Store, market: str | None, grace_ns: int, gapped_grace_ns: int, *, execute: bool, json: bool
) -> tuple[PrunePlan, Mapping[str, Any] | None]:
    """Plan, print the plan, and only then delete."""
    from twintape.core.manifest import PrunePolicy
    from twintape.io.prune import PruneRun, execute_prune, plan_prune

    with progress(quiet=json) as tell:
        run = PruneRun(store, lambda: secrets.token_hex(8), PrunePolicy(grace_ns, gapped_grace_ns), progress=tell)
        plan = await plan_prune(run, markets_of(market))
    if not json:
        _print_plan(plan)
    report = None
    if execute:
        with progress(quiet=json) as tell:
            run.progress = tell
            report = plain(await execute_prune(run, plan))
    if not json:
        _print_done(plan, report)
    return plan, report


def nightly(
    store: Annotated[str | None, typer.Option(help="Where segments and archive are.")] = None,
    config: Annotated[Path | None, typer.Option(help="TOML file; options win over it.")] = None,
    jobs: Annotated[int | None, typer.Option(min=1, help="Days computed at the same time.")] = None,
    grace: Annotated[str | None, typer.Option(help="How long raw data outlives its proof.")] = None,
    prune_too: Annotated[bool | None, typer.Option("--prune/--no-prune", help="Plan a prune after the merge.")] = None,
    execute: Annotated[bool | None, typer.Option("--execute/--dry-run", help="Whether that prune deletes.")] = None,
    single_merger: SingleOption = False,
    metrics_file: Annotated[
        Path | None, typer.Option(help="Write what the night came to here, for Prometheus' node exporter (*.prom).")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Merge every date that is due, then prune what is proven: the cron job.

    A date is due when every collector seen in the last week has recordings behind its midnight, or 24 hours after it.
    """
    import time

    from twintape.core.night_settings import parse_nightly_settings
    from twintape.io.night_metrics import night_metrics, write_night_metrics

    began_ns = time.time_ns()
    text = "" if config is None else _read(config)
    options = {"store": store, "jobs": jobs, "grace": grace, "prune": prune_too, "execute": execute}
    options["single_merger"] = single_merger or None
    settings = parse_nightly_settings(text, overrides={name: value for name, value in options.items() if value is not None})
    outcomes, report = run_async(_nightly(settings, json=json))
    if metrics_file is not None:
        write_night_metrics(metrics_file, night_metrics(outcomes, began_ns=began_ns, finished_ns=time.time_ns()))
    if json:
        print_json(
            {
                "merged": [
                    {"symbol": o.symbol, "stream": o.stream, "date": o.date, "status": o.status, "fresh": o.fresh}
                    for o in outcomes
                ],
                "pruned": report,
            }
        )
    if any(_is_finding(outcome) and (outcome.fresh or outcome.error) for outcome in outcomes):
        raise SystemExit(FINDINGS)


def _read(path: Path) -> str:
    from twintape.core.errors import ConfigError

    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read {path}: {error}") from error


async def _nightly(settings: NightlySettings, *, json: bool) -> tuple[list[DayOutcome], Mapping[str, Any] | None]:
    use_small_pages()
    from twintape.io.clock import SystemClock
    from twintape.io.merge import merge_date
    from twintape.io.nightly import due_dates

    # Before hours of merging, not behind them: a wrong duration ends the night.
    graces = duration_ns(settings.grace), duration_ns(settings.gapped_grace)
    store = await _fit_store(settings.store, alone=settings.single_merger)
    outcomes: list[DayOutcome] = []
    with progress(quiet=json) as tell:
        async with merge_run(store, jobs=settings.jobs, scratch=settings.scratch, tell=tell) as run:
            for which in markets_of(None):
                for date in await due_dates(run.store, which, SystemClock().wall_ns(), collectors=settings.collectors):
                    outcomes += await merge_date(run, which, date)
    if not json:
        _report([outcome for outcome in outcomes if outcome.fresh or outcome.error], json=False, empty="nothing new to merge")
    if not settings.prune:
        return outcomes, None
    _, report = await _prune(store, None, *graces, execute=settings.execute, json=json)
    return outcomes, report
