"""`twintape record`: record streams until told to stop."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import Console

    from twintape.core.markets import Market
    from twintape.core.settings import RecordSettings
    from twintape.io.collector import Collector
    from twintape.io.ports import Disk
    from twintape.io.spool import Spool

__all__ = ["record"]

LIVE_REFRESH_S = 0.5
COLLECT_EVERY = 20_000
"""So many new containers make the garbage collector look for cycles."""


def record(
    symbols: Annotated[
        list[str] | None,
        typer.Argument(help="Symbols, patterns ('*USDT'), or futures contract types (PERPETUAL).", show_default=False),
    ] = None,
    market: Annotated[str, typer.Option(help="spot, usdm or coinm: the market of all symbols named here.")] = "spot",
    collector: Annotated[str | None, typer.Option(help="This collector's name; default: made from the host name.")] = None,
    store: Annotated[str | None, typer.Option(help="Where sealed segments go, such as s3://bucket/prefix.")] = None,
    spool: Annotated[str | None, typer.Option(help="Local directory that keeps them until then.")] = None,
    config: Annotated[Path | None, typer.Option(help="TOML file; options win over it.")] = None,
    stream: Annotated[
        list[str] | None, typer.Option(help="Stream of every symbol (depth@100ms, bookTicker, trade, …); repeatable.")
    ] = None,
    websocket: Annotated[str | None, typer.Option(help="Websocket address instead of the market's own.")] = None,
    rest: Annotated[str | None, typer.Option(help="REST address instead of the market's own.")] = None,
    acknowledge_fd: Annotated[
        int | None, typer.Option(help="Report every returned write and sync to this file descriptor.")
    ] = None,
    duration: Annotated[float | None, typer.Option(min=0, help="Stop after so many seconds.")] = None,
    metrics_port: Annotated[int | None, typer.Option(help="Serve /metrics and /status on this loopback port.")] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Record nothing: say what is wrong with settings, machine, store and clock.")
    ] = False,
    beside: Annotated[
        list[Path] | None, typer.Option(help="With --check: configuration of another collector of the archive; repeatable.")
    ] = None,
) -> None:
    """Record streams to the object store until SIGTERM or Ctrl-C.

    With --check, exit code 1 if something would cost data.
    """
    import asyncio

    try:
        import uvloop
    except ImportError:  # not on Windows
        loop_factory = None
    else:
        loop_factory = uvloop.new_event_loop

    overrides: dict[str, object] = {"collector": collector, "store": store, "spool": spool, "metrics_port": metrics_port}
    entry = {"market": market, "symbols": symbols or [], "streams": stream or [], "websocket": websocket, "rest": rest}
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        settings = _settings(config, {name: value for name, value in overrides.items() if value is not None}, entry)
        if check:
            raise SystemExit(runner.run(_check(settings, beside or [])))
        runner.run(_record(settings, acknowledge_fd=acknowledge_fd, duration_s=duration))


async def _check(settings: RecordSettings, beside: list[Path]) -> int:
    """Print what is found, the worst last, and return the exit code."""
    import os

    from twintape.cli.common import FINDINGS, FINE
    from twintape.core.preflight import Level, Nearby, examine
    from twintape.io.clock import SystemClock
    from twintape.io.dialer import PicowsDialer
    from twintape.io.egress import egress_of
    from twintape.io.preflight import gather
    from twintape.io.store import open_store

    nearby = [Nearby(str(path), _settings(path, {}, {"symbols": [], "streams": []})) for path in beside]
    dialer = PicowsDialer(egress=egress_of(settings.proxy, settings.source_address, os.environ))
    facts = await gather(settings, clock=SystemClock(), dialer=dialer, open_store=lambda url: open_store(url, create=False))
    findings = examine(settings, facts, nearby)
    for level in Level:
        for finding in findings:
            if finding.level is level:
                print(f"{level:8} {finding.what}" + (f"\n{'':8} → {finding.action}" if finding.action else ""))
    return FINDINGS if any(finding.level is Level.PROBLEM for finding in findings) else FINE


def _settings(config: Path | None, overrides: dict[str, object], entry: dict[str, Any]) -> RecordSettings:
    """Return the settings of file and command line together.

    Raises:
        ConfigError: They are wrong, contradict each other, or the file cannot be read.
    """
    import socket

    from twintape.core.errors import ConfigError
    from twintape.core.settings import collector_name, parse_record_settings

    try:
        text = "" if config is None else config.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read {config}: {error}") from error
    if entry["symbols"] or entry["streams"]:
        if "[[markets]]" in text:
            raise ConfigError("symbols and streams are given both here and in the configuration", hint="give them in one place")
        overrides["markets"] = [entry]
    default = f'collector = "{collector_name(socket.gethostname())}"\n'
    named = any(line.partition("=")[0].strip() == "collector" for line in text.splitlines())
    return parse_record_settings(text if named else default + text, overrides=overrides)


def _acknowledge(fd: int | None) -> Callable[[str, str, int], None] | None:
    """Return what reports a write or sync to the file descriptor; called in the writer's thread."""
    import os

    if fd is None:
        return None
    descriptor = fd

    def report(kind: str, path: str, offset: int) -> None:
        os.write(descriptor, f"{kind} {path} {offset}\n".encode())

    return report


def _spools(
    settings: RecordSettings, disk: Disk, run: str, acknowledge: Callable[[str, str, int], None] | None
) -> dict[Market, Spool]:
    """Open the spool of every market; they share one budget.

    Raises:
        RefusedError: Another process holds them, or they belong to another collector.
    """
    import secrets
    from importlib.metadata import version

    from twintape.io.sealer import SealerProcess
    from twintape.io.spool import Spool, SpoolLimits

    limits = SpoolLimits(
        budget_size=int(settings.spool_gibibytes * (1 << 30)),
        held_size=2 * settings.queue_mebibytes << 20,  # sockets are paused long before the spool would lose lines
    )
    sharing: list[Spool] = []
    return {
        entry.market: Spool(
            disk,
            collector=settings.collector,
            market=entry.market,
            run=run,
            version=version("twintape"),
            draw_chain_id=lambda: secrets.token_hex(8),
            limits=limits,
            sharing=sharing,
            acknowledge=acknowledge,
            sealer=SealerProcess(settings.spool, disk),
        )
        for entry in settings.markets
    }


async def _record(settings: RecordSettings, *, acknowledge_fd: int | None, duration_s: float | None) -> None:
    import asyncio
    import gc
    import os
    import random
    import secrets
    import signal
    import sys
    from contextlib import AsyncExitStack

    from twintape.io.clock import SystemClock, watch_chrony
    from twintape.io.collector import Collector
    from twintape.io.connects import SharedAttempts, default_directory
    from twintape.io.descriptors import may_connect, raise_limit
    from twintape.io.dialer import PicowsDialer
    from twintape.io.disk import PosixDisk
    from twintape.io.egress import egress_of
    from twintape.io.http import AiohttpRest
    from twintape.io.journal import BackgroundStream, json_journal
    from twintape.io.lag import watch_loop
    from twintape.io.store import open_store
    from twintape.io.turns import take_turns
    from twintape.io.upload import upload_one

    if settings.metrics_port:  # it takes long to load, and nothing must wait for it that has begun
        from twintape.io.status import StatusServer

    clock, disk, run, draw = SystemClock(), PosixDisk(settings.spool), secrets.token_hex(16), random.SystemRandom().random
    store = open_store(settings.store)
    egress = egress_of(settings.proxy, settings.source_address, os.environ)
    raise_limit()
    spools = _spools(settings, disk, run, _acknowledge(acknowledge_fd))

    async def read(path: str) -> bytes:
        return await asyncio.to_thread(disk.read, path)

    stream = BackgroundStream(sys.stderr)
    terminal = _TerminalJournal() if sys.stderr.isatty() else None
    journal = terminal or json_journal(stream)
    async with AsyncExitStack() as stack:
        stack.callback(stream.close)
        http = await stack.enter_async_context(AiohttpRest(clock, egress=egress))
        collector = Collector(
            settings,
            clock=clock,
            dialer=PicowsDialer(egress=egress),
            rest=http,
            spools=spools,
            # One attempt at a time: the shipper waits between them, and says so.
            upload=lambda sealed: upload_one(store, sealed, read=read, sleep=clock.sleep, draw=draw, attempts=1),
            draw=draw,
            journal=journal,
            attempts=SharedAttempts(
                settings.shared_directory or default_directory(),
                notice=lambda name, details: collector.report(name, details),
            )
            if settings.shared_directory or _leaves_the_machine(settings)
            else None,
            room_to_connect=may_connect,
        )
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, collector.stop, signal.Signals(number).name)
        if duration_s is not None:
            loop.call_later(duration_s, collector.stop, "duration")
        for watch in (watch_chrony(clock), watch_loop(clock, collector.loop_lag), take_turns(collector.line_count)):
            stack.callback(asyncio.create_task(watch).cancel)
        if settings.metrics_port:
            await stack.enter_async_context(StatusServer(collector, settings.metrics_port, log_dropped=lambda: stream.dropped))
        if terminal is not None:
            live = asyncio.create_task(_live_line(collector, terminal.console))
            stack.callback(live.cancel)
        # What there is by now stays, and lines are no cycles: looking for garbage among them would only hold up the loop.
        gc.freeze()
        gc.set_threshold(COLLECT_EVERY)
        await collector.run()


def _leaves_the_machine(settings: RecordSettings) -> bool:
    """Return whether any market is served elsewhere: an exchange simulator on this machine has no limit that others share."""
    from urllib.parse import urlsplit

    from twintape.io.egress import is_loopback

    return any(entry.websocket is None or not is_loopback(urlsplit(entry.websocket).hostname or "") for entry in settings.markets)


class _TerminalJournal:
    """Log lines for people: what somebody should know, above the live line."""

    def __init__(self) -> None:
        from rich.console import Console

        self.console = Console(stderr=True, highlight=False)

    def info(self, event: str, **fields: Any) -> None:
        """Print a few milestones; the live line says the rest."""
        if event in ("recording", "stopping", "stopped"):
            self._print("", event, fields)

    def warning(self, event: str, **fields: Any) -> None:
        """Print in yellow."""
        self._print("yellow", event, fields)

    def error(self, event: str, **fields: Any) -> None:
        """Print in red."""
        self._print("red", event, fields)

    def _print(self, style: str, event: str, fields: dict[str, Any]) -> None:
        details = " ".join(f"{name}={value}" for name, value in fields.items())
        self.console.print(f"{event} {details}", style=style, markup=False, soft_wrap=True)


async def _live_line(collector: Collector, console: Console) -> None:
    """Keep one line on the terminal that says how it goes."""
    import asyncio

    from rich.live import Live
    from rich.text import Text

    from twintape.core.session import State

    before = 0
    with Live(console=console, transient=True, auto_refresh=False) as live:
        while True:
            lines = collector.line_count()
            size = sum(state.size for state in collector.markets.values())
            spool = sum(known.used_bytes for known in collector.writer.status.values())
            open_count = sum(session.state is State.OPEN for session in collector.links)
            text = (
                f"{(lines - before) / LIVE_REFRESH_S:6.0f} frames/s {size / 1e6:.1f} MB {open_count} connections "
                f"| spool {spool / 1e6:.1f} MB | uploaded {collector.shipper.uploaded}, {collector.shipper.waiting} left"
            )
            before = lines
            live.update(Text(text, no_wrap=True), refresh=True)
            await asyncio.sleep(LIVE_REFRESH_S)
