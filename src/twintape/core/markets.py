"""The three markets and what Binance says about each: endpoints, limits, weights, and how an event covers ids.

Source: Binance, Spot API docs (web-socket-streams.md, rest-api.md, 2026-07-21) and Derivatives docs (WebSocket Market
Streams, Order Book, Important WebSocket Change Notice, 2026-05-28).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from urllib.parse import quote

from twintape.core.errors import ConfigError

__all__ = ["RULES", "Market", "MarketRules", "depth_url", "depth_weight", "exchange_info_url", "stream_url"]


class Market(StrEnum):
    """A Binance product line, as it is spelled in keys and on the command line."""

    SPOT = "spot"
    USDM = "usdm"
    COINM = "coinm"


@dataclass(frozen=True, slots=True)
class MarketRules:
    """What is fixed per market.

    Attributes:
        websocket_base: Where market streams are served; `/stream` or `/ws` follows.
        rest_base: Where REST is served.
        depth_path: Path of the order-book snapshot.
        exchange_info_path: Path of the symbol list.
        exchange_info_weight: What it costs.
        depth_limit: The deepest snapshot, levels a side.
        depth_weights: `(limit, weight)` ascending: a request for up to `limit` levels costs `weight`.
        weight_per_minute: The IP's budget of request weight.
        weight_pool: Markets with the same pool share one budget.
        client_messages_per_second: SUBSCRIBE, ping and pong frames together; above it the server closes with 1008.
        streams_per_connection: The most streams one connection may carry.
        ping_interval_s: How often the server pings.
        pong_deadline_s: When it closes a connection that did not answer.
        default_depth: The fastest documented depth stream every symbol has.
        contiguous_ids: Whether the event after the one that ends with `u` starts at `U = u + 1`; otherwise events are chained by `pu`.
        epoch_drop_ids: An event that ends this far below the greatest id seen opens a new epoch (relisting, testnet reset, engine restart); nearer
            ones are late.
    """

    websocket_base: str
    rest_base: str
    depth_path: str
    exchange_info_path: str
    exchange_info_weight: int
    depth_limit: int
    depth_weights: tuple[tuple[int, int], ...]
    weight_per_minute: int
    weight_pool: str
    client_messages_per_second: int
    streams_per_connection: int
    ping_interval_s: int
    pong_deadline_s: int
    default_depth: str
    contiguous_ids: bool
    epoch_drop_ids: int


# Futures ids rise by some 200,000 a second, so that an event that is merely late may end millions below the others.
_FUTURES_DROP = 100_000_000
_FUTURES_WEIGHTS = ((50, 2), (100, 5), (500, 10), (1000, 20))

RULES: dict[Market, MarketRules] = {
    Market.SPOT: MarketRules(
        websocket_base="wss://stream.binance.com:9443",
        rest_base="https://api.binance.com",
        depth_path="/api/v3/depth",
        exchange_info_path="/api/v3/exchangeInfo",
        exchange_info_weight=20,
        depth_limit=5000,
        depth_weights=((100, 5), (500, 25), (1000, 50), (5000, 250)),
        weight_per_minute=6000,
        weight_pool="spot",
        client_messages_per_second=5,
        streams_per_connection=1024,
        ping_interval_s=20,
        pong_deadline_s=60,
        default_depth="depth@100ms",
        contiguous_ids=True,
        epoch_drop_ids=1_000_000,
    ),
    # Depth, bookTicker and trade live behind /public since the 2026-03 route split; unrouted URLs are on their way out.
    Market.USDM: MarketRules(
        websocket_base="wss://fstream.binance.com/public",
        rest_base="https://fapi.binance.com",
        depth_path="/fapi/v1/depth",
        exchange_info_path="/fapi/v1/exchangeInfo",
        exchange_info_weight=1,
        depth_limit=1000,
        depth_weights=_FUTURES_WEIGHTS,
        weight_per_minute=2400,
        weight_pool="futures",
        client_messages_per_second=10,
        streams_per_connection=1024,
        ping_interval_s=180,
        pong_deadline_s=600,
        default_depth="depth@100ms",
        contiguous_ids=False,
        epoch_drop_ids=_FUTURES_DROP,
    ),
    Market.COINM: MarketRules(
        websocket_base="wss://dstream.binance.com",
        rest_base="https://dapi.binance.com",
        depth_path="/dapi/v1/depth",
        exchange_info_path="/dapi/v1/exchangeInfo",
        exchange_info_weight=1,
        depth_limit=1000,
        depth_weights=_FUTURES_WEIGHTS,
        weight_per_minute=2400,
        weight_pool="futures",
        client_messages_per_second=10,
        streams_per_connection=1024,
        ping_interval_s=180,
        pong_deadline_s=600,
        default_depth="depth@100ms",
        contiguous_ids=False,
        epoch_drop_ids=_FUTURES_DROP,
    ),
}


def depth_weight(market: Market, limit: int) -> int:
    """Return the request weight of a snapshot of `limit` levels a side.

    >>> depth_weight(Market.SPOT, 5000), depth_weight(Market.USDM, 1000)
    (250, 20)

    Raises:
        ConfigError: The market serves no snapshot that deep.
    """
    for deepest, weight in RULES[market].depth_weights:
        if limit <= deepest:
            return weight
    raise ConfigError(f"{market} serves at most {RULES[market].depth_limit} levels a side, asked for {limit}")


def depth_url(market: Market, symbol: str, limit: int, *, base: str | None = None) -> str:
    """Return the URL of a snapshot.

    >>> depth_url(Market.SPOT, "币USDT", 5000)
    'https://api.binance.com/api/v3/depth?symbol=%E5%B8%81USDT&limit=5000'
    """
    rules = RULES[market]
    return f"{base or rules.rest_base}{rules.depth_path}?symbol={quote(symbol, safe='')}&limit={limit}"


def exchange_info_url(market: Market, *, base: str | None = None) -> str:
    """Return the URL of the market's symbol list."""
    rules = RULES[market]
    return f"{base or rules.rest_base}{rules.exchange_info_path}"


def stream_url(market: Market, streams: Sequence[str] = (), *, base: str | None = None) -> str:
    """Return the URL of a combined connection; without streams, one to be filled by SUBSCRIBE.

    >>> stream_url(Market.COINM, ["btcusd_perp@depth@100ms", "ethusd_perp@depth@100ms"])
    'wss://dstream.binance.com/stream?streams=btcusd_perp@depth@100ms/ethusd_perp@depth@100ms'
    """
    root = f"{base or RULES[market].websocket_base}/stream"
    if not streams:
        return root
    return f"{root}?streams=" + "/".join(quote(stream, safe="@!_-.") for stream in streams)
