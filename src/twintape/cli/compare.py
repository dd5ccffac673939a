"""`twintape compare`: whether clients hear the same updates, and what a further one is worth."""

from __future__ import annotations

import contextlib
import sys
import tempfile
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from twintape.cli.common import FINDINGS, check_date, markets_of, progress, run_async, symbols_of
from twintape.cli.night import duration_ns

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from twintape.columns.report import Report
    from twintape.core.client import Client
    from twintape.core.lineup import Row
    from twintape.core.markets import Market
    from twintape.io.comparison import Lines, Scratch
    from twintape.io.listening import Listening

__all__ = ["compare"]

ROWS_SHOWN = 20
REFRESHES_PER_SECOND = 4
SUMMARY_EVERY_S = 10.0


def compare(
    symbols: Annotated[list[str] | None, typer.Argument(help="Symbols, such as BTCUSDT ETHUSDT. Recorded: default all.")] = None,
    market: Annotated[str, typer.Option(help="spot, usdm or coinm.")] = "spot",
    stream: Annotated[str | None, typer.Option(help="Depth stream. Live: depth@100ms; recorded: all.")] = None,
    a: Annotated[
        str | None,
        typer.Option(help="Live: the first client: an address, and behind it name= source=ADDRESS stream=… also=STREAM+STREAM."),
    ] = None,
    b: Annotated[
        str | None, typer.Option(help="Live: the second; without --a, --b and --url: two of the market's own address.")
    ] = None,
    url: Annotated[list[str] | None, typer.Option(help="Live: a further client; repeatable.")] = None,
    duration: Annotated[str | None, typer.Option("--for", help="Live: how long, such as 10m; default: until Ctrl-C.")] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Live: a summary line every ten seconds instead of every row.")] = False,
    save: Annotated[Path | None, typer.Option(help="Live: keep what each client hears in this directory, as NAME.txt.")] = None,
    store: Annotated[str | None, typer.Option(help="Recorded: the store with raw segments.")] = None,
    date: Annotated[str | None, typer.Option(help="Recorded: the exchange date.")] = None,
    collector: Annotated[list[str] | None, typer.Option(help="Recorded: only these; repeatable.")] = None,
    tape: Annotated[list[str] | None, typer.Option(help="Recorded: NAME=FILE, a recording; repeatable.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the report as JSON for machines.")] = False,
    html: Annotated[Path | None, typer.Option(help="Also write a report as one HTML page.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Also write the plots as a PNG (extra `plot`).")] = None,
) -> None:
    """Compare what several clients hear of the same order-book streams: live, from a store, or from recordings.

    Exit code 1 if one of them must be wrong: other quantities for the same ids, or levels left out.
    """
    from twintape import __version__
    from twintape.columns.report import GRAVE
    from twintape.core.errors import ConfigError
    from twintape.io.comparison import Scratch, compare_lines

    where = markets_of(market)[0]
    if sum(map(bool, (store, tape, a or b or url))) > 1:
        raise ConfigError("live, from a store, or from recordings: one of them", hint="give --a and --b, or --store, or --tape")
    if plot is not None:
        _check_plot()
    with tempfile.TemporaryDirectory(prefix="twintape-compare-") as root:
        scratch = Scratch(Path(root))
        mixed = False
        if store or tape:
            lines = _recorded(where, store, date, collector or [], tape or [], symbols_of(symbols), stream, scratch)
        else:
            clients = _clients(a, b, url or [])
            listening = _listening(
                clients, where, symbols_of(symbols), stream or "depth@100ms", scratch, save, quiet=json, watch=watch
            )
            mixed = listening.listening.mixed
            lines = listening.run(None if duration is None else duration_ns(duration) / 1e9)
        with progress(quiet=json) as tell:
            report = compare_lines(lines, __version__, by_symbol=mixed, progress=tell)
    _put_out(report, json=json, html=html, plot=plot)
    if any(name in GRAVE for total in report.totals for name in total.findings):
        raise typer.Exit(FINDINGS)


def _put_out(report: Report, *, json: bool, html: Path | None, plot: Path | None) -> None:
    import msgspec
    from rich.console import Console

    from twintape.cli.compare_text import print_report

    if html is not None:
        from twintape.cli.compare_html import page

        html.write_text(page(report), encoding="utf-8")
    if plot is not None:
        from twintape.cli.compare_plot import write_plot

        write_plot(report, plot)
    if json:
        sys.stdout.write(msgspec.json.encode(report).decode() + "\n")
    else:
        print_report(report, Console())


def _check_plot() -> None:
    from importlib.util import find_spec

    from twintape.core.errors import ConfigError

    if find_spec("matplotlib") is None:
        raise ConfigError("--plot needs matplotlib", hint="pip install 'twintape[plot]'; --html needs nothing")


# --- recorded ------------------------------------------------------------------------------------------------------------------------


def _recorded(
    market: Market,
    store: str | None,
    date: str | None,
    collectors: Sequence[str],
    tapes: Sequence[str],
    symbols: Sequence[str],
    stream: str | None,
    scratch: Scratch,
) -> Lines:
    from twintape.core.errors import ConfigError
    from twintape.io.comparison import recorded_lines, store_lines
    from twintape.io.store import open_store

    if store:
        if date is None:
            raise ConfigError("of which date?", hint="--date YYYY-MM-DD")
        work = store_lines(
            open_store(store, create=False),
            market,
            check_date(date),
            scratch,
            collectors=collectors,
            symbols=symbols,
            stream=stream,
        )
        lines = run_async(work)
    else:
        named = []
        for text in tapes:
            name, equals, file = text.partition("=")
            if not equals or not name or not file:
                raise ConfigError(f"not a recording: {text!r}", hint="write --tape NAME=FILE")
            named.append((name, Path(file)))
        lines = recorded_lines(named, market, scratch, symbols=symbols, stream=stream)
    if len(lines.infos) < 2:
        raise ConfigError("a comparison needs two lines", hint=f"there is only {lines.infos[0].name}")
    return lines


# --- live ----------------------------------------------------------------------------------------------------------------------------


def _clients(a: str | None, b: str | None, urls: Sequence[str]) -> list[Client]:
    from twintape.core.client import parse_client

    texts = [a, b, *urls] if a is not None or b is not None or not urls else list(urls)
    return [parse_client(text or "", chr(ord("a") + number)) for number, text in enumerate(texts)]


def _listening(
    clients: Sequence[Client],
    market: Market,
    symbols: Sequence[str],
    stream: str,
    scratch: Scratch,
    save: Path | None,
    *,
    quiet: bool,
    watch: bool,
) -> _Live:
    import os

    from twintape.core.errors import ConfigError
    from twintape.io.clock import SystemClock
    from twintape.io.dialer import PicowsDialer
    from twintape.io.egress import egress_of
    from twintape.io.listening import Listening

    if not symbols:
        raise ConfigError("which symbols?", hint="twintape compare BTCUSDT, or --store URL --date DATE, or --tape NAME=FILE")
    if save is not None:
        save.mkdir(parents=True, exist_ok=True)
    live = _Live(quiet=quiet, watch=watch)
    live.listening = Listening(
        clients,
        symbols,
        stream=stream,
        market=market,
        dialers=[PicowsDialer(egress=egress_of("", client.source, os.environ)) for client in clients],
        clock=SystemClock(),
        scratch=scratch,
        tell=live.tell,
        save=save,
    )
    return live


class _Live:
    """Shows a live comparison while it runs: a screen on a terminal, lines elsewhere."""

    listening: Listening

    def __init__(self, *, quiet: bool, watch: bool) -> None:
        from rich.console import Console

        self._quiet = quiet
        self._watch = watch
        self._rows: deque[tuple[str, Row]] = deque(maxlen=ROWS_SHOWN)
        self._console: Console = Console(stderr=quiet)
        self._screen = self._console.is_terminal and not quiet and not watch

    def tell(self, symbol: str, row: Row) -> None:
        """Show a row, or keep it for the screen."""
        from twintape.cli.compare_text import row_text

        self._rows.append((symbol, row))
        if not (self._quiet or self._watch or self._screen):
            self._console.print(row_text(symbol, row), markup=False, highlight=False, soft_wrap=True)

    def run(self, seconds: float | None) -> Lines:
        """Listen, and return what was heard; Ctrl-C ends it as the end of the time does."""
        from rich.live import Live

        with contextlib.suppress(KeyboardInterrupt), Live(console=self._console, refresh_per_second=REFRESHES_PER_SECOND, auto_refresh=False, transient=True) if self._screen else contextlib.nullcontext() as screen:  # fmt: skip
            run_async(self._run(seconds, screen))
        self._screen = False
        self._quiet = True  # rows that still wait for somebody say nothing new
        return self.listening.lines()

    async def _run(self, seconds: float | None, screen: object) -> None:
        import asyncio
        import time

        begin = time.monotonic()
        showing = asyncio.create_task(self._show(seconds, screen, begin))
        try:
            await self.listening.run(seconds)
        finally:
            showing.cancel()
            await asyncio.gather(showing, return_exceptions=True)

    async def _show(self, seconds: float | None, screen: object, begin: float) -> None:
        import asyncio
        import time

        from rich.live import Live

        from twintape.cli.compare_text import live_view

        while True:
            await asyncio.sleep(1 / REFRESHES_PER_SECOND if isinstance(screen, Live) else SUMMARY_EVERY_S)
            gone = time.monotonic() - begin
            left = f"{gone:.0f} s" if seconds is None else f"{gone:.0f} of {seconds:.0f} s"
            if isinstance(screen, Live):
                view = live_view(list(self._rows), list(self.listening.lineups.values()), self.listening.states, left)
                screen.update(view, refresh=True)
            elif self._watch and not self._quiet:
                self._console.print(self._summary(left), markup=False, highlight=False)

    def _summary(self, left: str) -> str:
        lineups = self.listening.lineups.values()
        counts = {verdict: sum(lineup.counts[verdict] for lineup in lineups) for verdict in next(iter(lineups)).counts}
        down = [state.client.name for state in self.listening.states if not state.connected]
        words = ", ".join(f"{count:,} {verdict}" for verdict, count in counts.items())
        return f"{left}: {words}" + (f"; not connected: {', '.join(down)}" if down else "")
