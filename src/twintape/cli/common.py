"""What all commands share: exit codes, progress, output for people and for machines, the pieces a night needs."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from twintape.core.markets import Market
    from twintape.io.merge import MergeRun
    from twintape.io.ports import Store

__all__ = ["DEFAULT_STORE", "FINDINGS", "guarded", "markets_of", "merge_run", "print_json", "progress", "run_async", "table"]

DEFAULT_STORE = "./twintape-store"
FINE, FINDINGS, USAGE, REFUSED = 0, 1, 2, 3
T = TypeVar("T")


def run_async(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end."""
    import asyncio

    return asyncio.run(work)


@contextlib.contextmanager
def guarded() -> Iterator[None]:
    """Turn errors into one line on stderr and the promised exit code."""
    from twintape.core.errors import ConfigError, RefusedError, TwintapeError

    try:
        yield
    except ConfigError as error:
        print(f"twintape: {error}", file=sys.stderr)
        raise SystemExit(USAGE) from error
    except RefusedError as error:
        print(f"twintape: refused: {error}", file=sys.stderr)
        raise SystemExit(REFUSED) from error
    except TwintapeError as error:
        print(f"twintape: {error}", file=sys.stderr)
        raise SystemExit(FINDINGS) from error
    except BrokenPipeError as error:
        # The reader of our output went away (`| head`): that is no error, and flushing at exit must not make it one.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(FINE) from error


def print_json(value: object) -> None:
    """Print one JSON document on stdout."""
    print(json.dumps(value, ensure_ascii=False, default=str))


def markets_of(market: str | None) -> list[Market]:
    """Return the named market, or all.

    Raises:
        ConfigError: There is no such market.
    """
    from twintape.core.errors import ConfigError
    from twintape.core.markets import Market

    if market is None:
        return list(Market)
    try:
        return [Market(market)]
    except ValueError as error:
        raise ConfigError(f"unknown market {market!r}", hint=f"one of {', '.join(Market)}") from error


def check_date(date: str) -> str:
    """Return a date as keys spell it.

    Raises:
        ConfigError: It is none.
    """
    from datetime import date as calendar

    from twintape.core.errors import ConfigError

    try:
        return calendar.fromisoformat(date).isoformat()
    except ValueError as error:
        raise ConfigError(f"not a date: {date!r}", hint="YYYY-MM-DD") from error


@contextlib.asynccontextmanager
async def merge_run(
    store: Store, *, jobs: int, scratch: str | None, tell: Callable[[str, int, int], None]
) -> AsyncIterator[MergeRun]:
    """Build what a merge needs; raw objects are kept in a temporary directory while it runs."""
    from twintape import __version__
    from twintape.io.clock import SystemClock
    from twintape.io.disk import PosixDisk
    from twintape.io.executor import InlineExecutor, PoolExecutor
    from twintape.io.merge import MergeRun

    executor = InlineExecutor() if jobs <= 1 else PoolExecutor(jobs)
    try:
        with tempfile.TemporaryDirectory(prefix="twintape-merge-", dir=scratch) as root:
            yield MergeRun(
                store=store,
                clock=SystemClock(),
                scratch=PosixDisk(root),
                executor=executor,
                draw_id=lambda: secrets.token_hex(8),
                version=__version__,
                scratch_root=root,
                jobs=jobs,
                progress=tell,
            )
    finally:
        executor.close()


@contextlib.contextmanager
def progress(*, quiet: bool = False) -> Iterator[Callable[[str, int, int], None]]:
    """Show how far long work is, on stderr: a bar with rate and time left on a terminal, a line every few seconds elsewhere."""
    if quiet:
        yield lambda _what, _done, _total: None
        return
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
            task = bars.add_task("", total=None)
            yield lambda what, done, total: bars.update(task, description=what, completed=done, total=total)
        return
    last = time.monotonic()

    def tell(what: str, done: int, total: int) -> None:
        nonlocal last
        if time.monotonic() - last > 5:
            last = time.monotonic()
            print(f"{what}: {done}/{total}", file=sys.stderr)

    yield tell


def table(columns: list[str], rows: list[list[object]], *, right: tuple[str, ...] = ()) -> None:
    """Print a plain table on stdout: it survives pipes and narrow terminals."""
    texts = [[str(cell) for cell in row] for row in rows]
    widths = [max(len(name), *(len(row[i]) for row in texts)) if texts else len(name) for i, name in enumerate(columns)]
    for row in [columns, *texts]:
        cells = [
            cell.rjust(width) if columns[i] in right else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        print("  ".join(cells).rstrip())


def size_text(count: float) -> str:
    """Return bytes for people.

    >>> size_text(1536)
    '1.5 KiB'
    """
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def plain(document: Any) -> Mapping[str, Any]:
    """Return a manifest document as plain dictionaries and lists."""
    from twintape.core import manifest

    return dict(manifest.plain(document))
