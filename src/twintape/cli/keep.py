"""`accept` and `restore`: what an operator decides about raw data, before and after a prune."""

from __future__ import annotations

import getpass
import secrets
from typing import TYPE_CHECKING, Annotated

import typer

from twintape.cli.common import (
    DEFAULT_STORE,
    FINDINGS,
    check_date,
    markets_of,
    print_json,
    progress,
    run_async,
    size_text,
    symbols_of,
)

if TYPE_CHECKING:
    from twintape.io.restore import Restored

__all__ = ["accept", "restore"]

StoreOption = Annotated[str, typer.Option(help="Where segments and archive are: a directory, s3://…, gs://…, az://….")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]


def accept(
    date: Annotated[str, typer.Option(help="UTC date, YYYY-MM-DD.")],
    reason: Annotated[str, typer.Option(help="Why; it is published with the day.")],
    market: Annotated[str | None, typer.Option(help="Only this market: spot, usdm or coinm.")] = None,
    symbol: Annotated[list[str] | None, typer.Option(help="Only this symbol; repeatable.")] = None,
    by: Annotated[str | None, typer.Option(help="Who; default: the name of this account.")] = None,
    store: StoreOption = DEFAULT_STORE,
    json: JsonOption = False,
) -> None:
    """Accept days that are conflicted or lack unreadable recordings, as new generations: their raw data may then be pruned like that of gapped days.

    Look at `twintape proof` first. Both copies of a conflict stay in the archive, and unreadable raw objects are never deleted.
    """
    who = by or getpass.getuser()
    accepted = run_async(_accept(check_date(date), market, symbols_of(symbol), store, who, reason))
    if json:
        print_json(accepted)
    else:
        print("\n".join(accepted) if accepted else "nothing there needs acceptance")


async def _accept(date: str, market: str | None, symbols: list[str], url: str, by: str, reason: str) -> list[str]:
    from twintape import __version__
    from twintape.core.manifest import Acceptance, held_reason
    from twintape.io.accept import accept_day
    from twintape.io.catalog import list_heads
    from twintape.io.clock import SystemClock
    from twintape.io.conditions import require_fit
    from twintape.io.store import open_store

    store, clock = open_store(url, create=False), SystemClock()

    def draw_id() -> str:
        return secrets.token_hex(8)

    await require_fit(store, draw_id, clock.wall_ns())
    accepted = []
    for which in markets_of(market):
        for (name, _, _), head in (await list_heads(store, which, dates=[date])).items():
            if (not symbols or name in symbols) and held_reason(head.proof) is not None:
                acceptance = Acceptance(by=by, reason=reason)
                accepted.append(await accept_day(store, head, acceptance, clock=clock, draw_id=draw_id, version=__version__))
    return accepted


def restore(
    receipt: Annotated[
        list[str] | None, typer.Option(help="Only what this prune deleted: the id its end names; repeatable.")
    ] = None,
    key: Annotated[list[str] | None, typer.Option(help="Only keys that begin like this; repeatable.")] = None,
    execute: Annotated[bool, typer.Option("--execute", help="Put back. Without it, only say what could be.")] = False,
    store: StoreOption = DEFAULT_STORE,
    json: JsonOption = False,
) -> None:
    """Bring back what a prune deleted, from the versions an S3 bucket keeps. Puts back only bytes with the receipt's digest.

    Put an object named STOP into the store first, or the next prune deletes the same again. Exit code 1 if something is gone for good, 3 if the store keeps
    no versions.
    """
    outcomes = run_async(_restore(store, receipt or [], key or [], execute=execute, quiet=json))
    if json:
        print_json([{"key": outcome.key, "size": outcome.size, "fate": outcome.fate} for outcome in outcomes])
    else:
        for outcome in outcomes:
            print(f"{outcome.fate:10}  {outcome.key}  ({size_text(outcome.size)})")
        print(_summary(outcomes, execute=execute))
    if any(outcome.fate == "gone" for outcome in outcomes):
        raise SystemExit(FINDINGS)


def _summary(outcomes: list[Restored], *, execute: bool) -> str:
    counts: dict[str, int] = {}
    for outcome in outcomes:
        counts[outcome.fate] = counts.get(outcome.fate, 0) + 1
    text = ", ".join(f"{count} {fate}" for fate, count in sorted(counts.items())) or "no receipt names anything"
    return text if execute or "restorable" not in counts else f"{text}; --execute puts them back"


async def _restore(url: str, receipts: list[str], keys: list[str], *, execute: bool, quiet: bool) -> list[Restored]:
    from twintape.io.clock import SystemClock
    from twintape.io.restore import restore as bring_back
    from twintape.io.restore import wanted_deletions
    from twintape.io.s3 import open_bucket
    from twintape.io.store import open_store

    store = open_store(url, create=False)
    deletions = await wanted_deletions(store, receipts=receipts, keys=keys)
    with progress(quiet=quiet) as tell:
        done = iter(range(1, len(deletions) + 1))
        bucket = open_bucket(url, clock=SystemClock())
        return await bring_back(
            store, bucket, deletions, execute=execute, progress=lambda _key: tell("restore", next(done), len(deletions))
        )
