"""`simulate`: the whole system in virtual time, from one seed, with everything going wrong."""

from __future__ import annotations

import sys
import time
from concurrent.futures import ProcessPoolExecutor
from typing import TYPE_CHECKING, Annotated

import typer

from twintape.cli.common import FINDINGS, print_json

if TYPE_CHECKING:
    from collections.abc import Iterator

    from twintape.simulation.simulation import Report

__all__ = ["simulate"]

STORY_LINES_MAX = 80
"""Lines of a failing seed's story that are printed; --story prints all."""


def simulate(
    seed: Annotated[int, typer.Option(help="The first seed; everything follows from it.")] = 0,
    seeds: Annotated[int, typer.Option(min=1, help="So many seeds, one after the other.")] = 1,
    days: Annotated[int, typer.Option(min=1, max=30, help="Days the exchange trades in each.")] = 3,
    faults: Annotated[str, typer.Option(help="all (each seed draws its own), none, or some of them, with commas.")] = "all",
    jobs: Annotated[int, typer.Option(min=1, help="Seeds at the same time.")] = 1,
    story: Annotated[bool, typer.Option("--story", help="Print everything that happened.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON for machines, one line a seed.")] = False,
) -> None:
    """Simulate collectors, store, merges, prunes and readers in virtual time, and compare what they claim with what truly happened.

    Exit code 1 if a promise was broken: the same seed, days and faults break it again in the same way.
    """
    from twintape.simulation.faults import parse_kinds

    parse_kinds(faults)  # before hours of simulating
    began, broken, simulated = time.monotonic(), 0, 0
    for report in _reports(range(seed, seed + seeds), days, faults, jobs):
        broken += report.violation is not None
        simulated += report.days
        _print(report, faults, whole=story, json=json)
    if not json:
        print(f"{simulated} days of {seeds} seeds in {time.monotonic() - began:.0f} s: {broken or 'no'} seeds broke a promise")
    if broken:
        raise SystemExit(FINDINGS)


def _reports(seeds: range, days: int, faults: str, jobs: int) -> Iterator[Report]:
    if jobs == 1:
        for seed in seeds:
            yield _one(seed, days, faults)
        return
    with ProcessPoolExecutor(jobs) as pool:
        yield from pool.map(_one, seeds, [days] * len(seeds), [faults] * len(seeds))


def _one(seed: int, days: int, faults: str) -> Report:
    from twintape.simulation.faults import parse_kinds
    from twintape.simulation.simulation import simulate as simulate_one

    return simulate_one(seed, days=days, kinds=parse_kinds(faults))


def _print(report: Report, faults: str, *, whole: bool, json: bool) -> None:
    if json:
        print_json(
            {
                "seed": report.seed,
                "days": report.days,
                "faults": list(report.kinds),
                "market": report.market,
                "digest": report.digest,
                "counts": dict(sorted(report.counts.items())),
                "violation": report.violation,
            }
        )
        return
    verdict = "ok" if report.violation is None else "BROKEN"
    print(
        f"seed {report.seed}  {verdict}  {report.market}  trace {report.digest}  faults: {','.join(report.kinds) or 'none'}",
        flush=True,
    )
    if report.violation is not None:
        print(f"\n{report.violation}\n")
    if whole or report.violation is not None:
        shown = report.story if whole else report.story[-STORY_LINES_MAX:]
        for incident in shown:
            print(f"  {incident}")
        if whole:
            print("  " + ", ".join(f"{count} {name}" for name, count in sorted(report.counts.items())))
    if report.violation is not None:
        again = f"twintape simulate --seed {report.seed} --days {report.days} --faults {faults} --story"
        print(f"\nthe same again: {again}", file=sys.stderr)
