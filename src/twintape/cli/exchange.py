"""`twintape exchange`: a Binance on this machine, to test anything that talks to one."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    import ssl
    from asyncio import AbstractEventLoop
    from collections.abc import Sequence

    from twintape.core.markets import Market
    from twintape.core.venue import Source

__all__ = ["exchange"]


class MarketName(StrEnum):
    """The markets, by the names the command line uses."""

    SPOT = "spot"
    USDM = "usdm"
    COINM = "coinm"


def exchange(
    market: Annotated[list[MarketName] | None, typer.Option(help="Market to serve; repeatable.")] = None,
    tape: Annotated[
        list[str] | None, typer.Option(help="FILE, or market:FILE, to play; repeatable, merged by receive time.")
    ] = None,
    synthetic: Annotated[int | None, typer.Option(help="Make up the markets that have no tape, from this seed.")] = None,
    symbols: Annotated[int, typer.Option(min=1, help="Made-up symbols a market.")] = 10,
    events_per_second: Annotated[float, typer.Option(help="Made-up depth events per second a market.")] = 50.0,
    messages: Annotated[int, typer.Option(min=0, help="Made-up frames a market, all streams together; 0: for ever.")] = 0,
    load: Annotated[
        float, typer.Option(min=0, help="Instead of a made-up market: so many depth frames a second, made to be cheap to send.")
    ] = 0.0,
    frame_bytes: Annotated[int, typer.Option(min=200, help="Mean size of the frames of --load.")] = 600,
    start: Annotated[str, typer.Option(help="The exchange's time when made-up markets begin: ISO 8601, or `now`.")] = "now",
    depth_stream: Annotated[
        list[str] | None, typer.Option(help="Made-up depth stream; repeatable (depth@100ms if none is given).")
    ] = None,
    integration_fields: Annotated[bool, typer.Option(help="Made-up futures frames have `ps` and `st`.")] = True,
    speed: Annotated[str, typer.Option(help="Seconds of the source per second, or `max`.")] = "1",
    gateways: Annotated[int, typer.Option(min=1, help="How many front-ends (ports) to open.")] = 1,
    gateway: Annotated[
        list[str] | None,
        typer.Option(
            help="Options of the gateways in order: port=,partition=,rate=,jitter-us=,rest-lag-s=,ack-delay-s=,seed=; repeatable."
        ),
    ] = None,
    fault: Annotated[list[str] | None, typer.Option(help="kind:gateway:start-stop, such as fin:0:0.2-0.4; repeatable.")] = None,
    wait_clients: Annotated[int, typer.Option(min=-1, help="Start when so many connections have subscribed; -1: by hand.")] = 0,
    hold: Annotated[
        list[float] | None,
        typer.Option(min=0, max=1, help="Stop at this position, 0 to 1, until `POST /twintape/start`; repeatable."),
    ] = None,
    ping_interval: Annotated[float, typer.Option(help="Seconds between pings; 0: as documented.")] = 0,
    pong_deadline: Annotated[float, typer.Option(help="Seconds until a missing pong ends a connection; 0: as documented.")] = 0,
    deflate: Annotated[bool, typer.Option(help="Grant permessage-deflate.")] = False,
    certificate: Annotated[Path | None, typer.Option(help="Serve TLS: PEM file of the certificate and its private key.")] = None,
    whole_books: Annotated[bool, typer.Option(help="REST answers hold every level known, whatever their limit.")] = False,
    exit_at_end: Annotated[bool, typer.Option(help="Stop when everything has been played.")] = False,
) -> None:
    """Speak Binance's websocket and REST paths on loopback, from recordings or from a seed.

    Prints one JSON line when listening, and serves until SIGTERM. `GET /twintape/status` says how far it is; `POST /twintape/start`
    and `POST /twintape/fault` steer it.
    """
    import asyncio

    from twintape.core.errors import ConfigError
    from twintape.core.gateway import GatewayOptions, parse_fault, parse_gateway
    from twintape.core.load import LoadConfig, LoadSource
    from twintape.core.markets import Market
    from twintape.core.synthetic import SyntheticConfig, SyntheticSource
    from twintape.io.exchange import ExchangeConfig, KeepAlive, run_exchange

    markets = [Market(name) for name in market or []]
    sources = _tape_sources(tape or [], markets)
    start_ns = _start_ns(start)
    for other in markets:
        if other not in [source.market for source in sources]:
            if load:
                made = LoadConfig(other, synthetic or 0, symbols, load, frame_bytes, messages or None, start_ns)
                sources.append(LoadSource(made))
                continue
            if synthetic is None:
                raise ConfigError(f"nothing to play on {other}", hint="give a --tape or --synthetic SEED")
            config = SyntheticConfig(
                market=other,
                seed=synthetic,
                symbols_count=symbols,
                events_per_second=events_per_second,
                messages_count=messages or None,
                start_ns=start_ns,
                depth_streams=tuple(depth_stream or ["depth@100ms"]),
                integration_fields=integration_fields,
            )
            sources.append(SyntheticSource(config))
    described = [parse_gateway(text) for text in gateway or []]
    exchange_config = ExchangeConfig(
        sources=sources,
        gateways=described + [GatewayOptions()] * (gateways - len(described)),
        faults=[parse_fault(text) for text in fault or []],
        speed=_speed(speed),
        holds=hold or (),
        wait_clients=None if wait_clients < 0 else wait_clients,
        keep_alive=KeepAlive(ping_interval or None, pong_deadline or None),
        deflate=deflate,
        tls=_tls(certificate),
        whole_books=whole_books,
        exit_at_end=exit_at_end,
    )
    with asyncio.Runner(loop_factory=_fast_loop if load else None) as runner:
        runner.run(run_exchange(exchange_config))


def _fast_loop() -> AbstractEventLoop:
    """Return a loop whose TLS costs the sender less than it costs the listener."""
    import asyncio

    import aiofastnet

    try:
        import uvloop
    except ImportError:  # not on Windows
        return aiofastnet.patch_loop(asyncio.new_event_loop())
    return aiofastnet.patch_loop(uvloop.new_event_loop())


def _tape_sources(tapes: Sequence[str], markets: Sequence[Market]) -> list[Source]:
    from twintape.core.errors import ConfigError
    from twintape.core.markets import Market
    from twintape.io.exchange import tape_source

    paths: dict[Market, list[Path]] = {}
    for text in tapes:
        name, colon, file = text.partition(":")
        if colon and name in tuple(Market):
            paths.setdefault(Market(name), []).append(Path(file))
        elif len(markets) == 1:
            paths.setdefault(markets[0], []).append(Path(text))
        else:
            raise ConfigError(f"of which market is the tape {text}?", hint="write it as spot:FILE")
    return [tape_source(market, files) for market, files in paths.items()]


def _start_ns(text: str) -> int:
    import time
    from datetime import UTC

    from twintape.core.errors import ConfigError

    if text == "now":
        return time.time_ns()
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise ConfigError(f"not a time: {text!r}", hint="such as 2026-11-22T23:59:00Z") from error
    return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()) * 1_000_000_000


def _tls(certificate: Path | None) -> ssl.SSLContext | None:
    import ssl

    from twintape.core.errors import ConfigError

    if certificate is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(certificate)
    except OSError as error:
        raise ConfigError(f"cannot serve TLS with {certificate}: {error}") from error
    return context


def _speed(text: str) -> float:
    from twintape.core.errors import ConfigError
    from twintape.io.exchange import MAX_SPEED

    try:
        speed = MAX_SPEED if text == "max" else float(text)
    except ValueError as error:
        raise ConfigError(f"not a speed: {text!r}", hint="a number, or max") from error
    if not speed > 0:
        raise ConfigError(f"not a speed: {text!r}", hint="a number over 0, or max")
    return speed
