"""`doctor`: whether a store is fit, and whether credentials allow what their role needs and no more."""

from __future__ import annotations

import secrets
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from twintape.cli.common import DEFAULT_STORE, FINDINGS, REFUSED, print_json, progress, run_async

if TYPE_CHECKING:
    from twintape.io.doctor import Checkup

__all__ = ["doctor"]

VERDICTS = {
    "full": "fit for everything: any number of collectors, merges and prunes at the same time",
    "single-merger": "fit for ONE merge or prune at a time: both refuse to start without --single-merger, which promises that",
    "refuse": "not fit: see what failed",
}
WIDTH = 160
"""Columns of the table where there is no terminal."""
COLOURS = {"passed": "green", "failed": "bold red", "warning": "yellow", "unknown": "dim"}


def doctor(
    store: Annotated[str, typer.Option(help="The store: a directory, s3://…, gs://…, az://….")] = DEFAULT_STORE,
    role: Annotated[
        str | None, typer.Option(help="Instead, whether these credentials suit: collector, merger or pruner.")
    ] = None,
    collector: Annotated[str, typer.Option(help="With --role: the name of the (or a) collector.")] = "doctor",
    quick: Annotated[bool, typer.Option("--quick", help="Leave out what needs a thousand requests or many megabytes.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON for machines.")] = False,
) -> None:
    """Try out what an object store promises, and say what that means and what to do.

    Works under `doctor/v1/` and tidies up; the verdict stays there for a day's merges and prunes. Exit code 1 if something is missing, 3 if the store is
    not fit.
    """
    checkup, verdict_key = run_async(_doctor(store, role, collector, quick=quick, quiet=json))
    if json:
        print_json(_plain(checkup, role, verdict_key))
    else:
        _show(checkup)
        _conclude(checkup, role, verdict_key)
    if role is None and checkup.fitness == "refuse":
        raise SystemExit(REFUSED)
    if any(finding.outcome == "failed" for finding in checkup.findings) or checkup.left:
        raise SystemExit(FINDINGS)


async def _doctor(url: str, role: str | None, collector: str, *, quick: bool, quiet: bool) -> tuple[Checkup, str | None]:
    from twintape import __version__
    from twintape.core.errors import ConfigError, StoreError
    from twintape.core.names import check_collector
    from twintape.io.clock import SystemClock
    from twintape.io.doctor import Patient, examine, store_verdict
    from twintape.io.probes import BUCKET_PROBES, STORE_PROBES
    from twintape.io.roles import Role, role_probes
    from twintape.io.s3 import open_bucket
    from twintape.io.store import open_store

    if role is not None and role not in list(Role):
        raise ConfigError(f"unknown role {role!r}", hint=f"one of {', '.join(Role)}")
    clock = SystemClock()
    patient = Patient(
        open_store(url, create=False),
        clock,
        secrets.token_hex(8),
        lambda: secrets.token_hex(8),
        bucket=open_bucket(url, clock=clock),
        quick=quick,
    )
    probes = (*STORE_PROBES, *BUCKET_PROBES) if role is None else role_probes(Role(role), check_collector(collector))
    with progress(quiet=quiet) as tell:
        checkup = await examine(patient, probes, tell)
    if role is not None:
        return checkup, None
    try:
        return checkup, await store_verdict(patient, checkup, __version__)
    except StoreError as error:
        print(f"twintape: the verdict could not be stored: {error}", file=sys.stderr)
        return checkup, None


def _plain(checkup: Checkup, role: str | None, verdict_key: str | None) -> dict[str, object]:
    return {
        "verdict": checkup.fitness if role is None else None,
        "role": role,
        "stored": verdict_key,
        "left": checkup.left,
        "probes": [
            {
                "name": finding.probe.name,
                "outcome": finding.outcome,
                "detail": finding.detail,
                "meaning": finding.probe.meaning,
                "advice": None if finding.outcome == "passed" else finding.probe.advice,
                "weight": finding.probe.weight,
                "seconds": round(finding.seconds, 4),
            }
            for finding in checkup.findings
        ],
    }


def _show(checkup: Checkup) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for name in ("probe", "", "what was found", "what it means, and what to do"):
        table.add_column(name, overflow="fold")
    for finding in checkup.findings:
        colour = COLOURS[finding.outcome]
        detail = finding.detail
        meaning = finding.probe.meaning
        if finding.outcome in ("failed", "warning"):
            meaning = f"not given: {meaning}. → {finding.probe.advice}"
        table.add_row(finding.probe.name, f"[{colour}]{finding.outcome}[/]", escape(detail), escape(meaning))
    console = Console(highlight=False)
    console.print(table, width=None if console.is_terminal else WIDTH)


def _conclude(checkup: Checkup, role: str | None, verdict_key: str | None) -> None:
    failed = sum(finding.outcome == "failed" for finding in checkup.findings)
    for key in checkup.left:
        print(f"could not be tidied up: {key}")
    if role is not None:
        print(f"role {role}: " + ("as it should be" if not failed else f"{failed} permissions are wrong"))
        return
    print(f"verdict: {checkup.fitness} – {VERDICTS[checkup.fitness]}")
    if verdict_key is not None:
        print(f"stored as {verdict_key}")
