"""What all commands share: exit codes, progress, output for people and for machines, the pieces a night needs."""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from twintape.core.markets import Market
    from twintape.io.merge import MergeRun
    from twintape.io.ports import Store

__all__ = [
    "DEFAULT_STORE",
    "FINDINGS",
    "check_date",
    "guarded",
    "markets_of",
    "merge_run",
    "plural",
    "print_json",
    "progress",
    "run_async",
    "span_text",
    "symbols_of",
    "table",
]

DEFAULT_STORE = "./twintape-store"
FINE, FINDINGS, USAGE, REFUSED = 0, 1, 2, 3
INTERRUPTED, TERMINATED = 128 + signal.SIGINT, 128 + signal.SIGTERM
"""What a shell reports of a process that ended by these signals."""
FIRST_DATE, LAST_DATE = "2009-01-01", "2199-12-31"
"""Every recording lies between them; what lies outside is a typing error."""
T = TypeVar("T")


def run_async(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end; SIGTERM cancels it as Ctrl-C does, so that it can tidy up.

    Raises:
        SystemExit: SIGTERM came.
    """
    import asyncio

    async def terminable() -> T:
        task = asyncio.current_task()
        assert task is not None
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        return await work

    try:
        return asyncio.run(terminable())
    except asyncio.CancelledError:
        raise SystemExit(TERMINATED) from None


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
    except OSError as error:
        place = "" if error.filename is None else f"{error.filename}: "
        print(f"twintape: {place}{error.strerror or error}", file=sys.stderr)
        raise SystemExit(FINDINGS) from error
    except KeyboardInterrupt:
        raise SystemExit(INTERRUPTED) from None


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
        # fromisoformat alone would take 20240808 and 2024-W32-4 as well.
        valid = re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", date) and calendar.fromisoformat(date)
    except ValueError:
        valid = None
    if not valid:
        raise ConfigError(f"not a date: {date!r}", hint="YYYY-MM-DD")
    if not FIRST_DATE <= date <= LAST_DATE:
        raise ConfigError(f"not a date of a recording: {date}", hint=f"between {FIRST_DATE} and {LAST_DATE}")
    return date


def symbols_of(symbols: list[str] | None) -> list[str]:
    """Return the symbols as keys spell them.

    Raises:
        ConfigError: One can be no symbol.
    """
    from twintape.core.wire import normal_symbol

    return [normal_symbol(symbol) for symbol in symbols or []]


def _check_scratch(directory: str | None) -> None:
    from twintape.core.errors import ConfigError

    if directory is not None and not (os.path.isdir(directory) and os.access(directory, os.W_OK | os.X_OK)):
        raise ConfigError(f"cannot keep raw objects in {directory}", hint="scratch names a directory that can be written")


@contextlib.asynccontextmanager
async def merge_run(
    store: Store, *, jobs: int, scratch: str | None, tell: Callable[[str, int, int], None]
) -> AsyncIterator[MergeRun]:
    """Build what a merge needs; raw objects are kept in a temporary directory while it runs.

    Raises:
        ConfigError: There is no directory `scratch` to write in.
    """
    from twintape import __version__
    from twintape.io.allocator import collect_rarely, keep_freed_memory
    from twintape.io.clock import SystemClock
    from twintape.io.disk import PosixDisk
    from twintape.io.executor import InlineExecutor, PoolExecutor
    from twintape.io.merge import MergeRun

    _check_scratch(scratch)
    keep_freed_memory()
    collect_rarely()
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


def span_text(nanoseconds: float) -> str:
    """Return a length of time for people.

    >>> span_text(-1_250_000), span_text(90e9), span_text(0)
    ('-1.25 ms', '90 s', '0')
    """
    for unit, size in (("d", 86_400e9), ("h", 3600e9), ("s", 1e9), ("ms", 1e6), ("µs", 1e3)):
        if abs(nanoseconds) >= (size * 2 if unit in "dh" else size):
            return f"{nanoseconds / size:.3g} {unit}"
    return f"{nanoseconds:.0f} ns" if nanoseconds else "0"


def plural(count: int, word: str, many: str | None = None) -> str:
    """Return a number of things.

    >>> plural(1, "stream"), plural(1200, "hole"), plural(2, "switch", "switches")
    ('1 stream', '1,200 holes', '2 switches')
    """
    return f"{count:,} {word if count == 1 else many or word + 's'}"


def plain(document: Any) -> Mapping[str, Any]:
    """Return a manifest document as plain dictionaries and lists."""
    from twintape.core import manifest

    return dict(manifest.plain(document))
