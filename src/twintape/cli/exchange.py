"""`twintape exchange`: a Binance on this machine, to test anything that talks to one."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

__all__ = ["exchange"]


class MarketName(StrEnum):
    """The markets, by the names the command line uses."""

    SPOT = "spot"
    USDM = "usdm"
    COINM = "coinm"


def exchange(
    market: Annotated[list[MarketName] | None, typer.Option(help="Markets to serve; repeatable.")] = None,
    tape: Annotated[list[str] | None, typer.Option(help="[market:]FILE to play; repeatable, merged by receive time.")] = None,
    speed: Annotated[str, typer.Option(help="Seconds of the source per second, or `max`.")] = "1",
    gateways: Annotated[int, typer.Option(min=1, help="How many front-ends (ports) to open.")] = 1,
    port: Annotated[list[int] | None, typer.Option(help="Ports of the gateways in order; 0 or missing: any.")] = None,
    fault: Annotated[list[str] | None, typer.Option(help="kind:gateway:start-stop, such as fin:0:0.2-0.4; repeatable.")] = None,
    wait_clients: Annotated[int, typer.Option(min=-1, help="Start when so many connections have subscribed; -1: by hand.")] = 0,
    deflate: Annotated[bool, typer.Option(help="Grant permessage-deflate.")] = False,
    exit_at_end: Annotated[bool, typer.Option(help="Stop when everything has been played.")] = False,
) -> None:
    """Speak Binance's websocket and REST paths on loopback, playing recordings."""
    import asyncio
    import math

    from twintape.core.errors import ConfigError
    from twintape.core.gateway import GatewayOptions, parse_fault
    from twintape.core.markets import Market
    from twintape.io.exchange import ExchangeConfig, run_exchange, tape_source

    markets = [Market(name) for name in market or []]
    paths: dict[Market, list[Path]] = {}
    for text in tape or []:
        name, colon, file = text.partition(":")
        if colon and name in tuple(Market):
            paths.setdefault(Market(name), []).append(Path(file))
        elif len(markets) == 1:
            paths.setdefault(markets[0], []).append(Path(text))
        else:
            raise ConfigError(f"of which market is the tape {text}?", hint="write it as spot:FILE")
    ports = [*(port or []), *[0] * gateways]
    config = ExchangeConfig(
        sources=[tape_source(of, files) for of, files in paths.items()],
        gateways=[GatewayOptions(port=ports[number]) for number in range(gateways)],
        faults=[parse_fault(text) for text in fault or []],
        speed=math.inf if speed == "max" else float(speed),
        wait_clients=None if wait_clients < 0 else wait_clients,
        deflate=deflate,
        exit_at_end=exit_at_end,
    )
    asyncio.run(run_exchange(config))
