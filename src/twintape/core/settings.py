"""What a collector is told to record, and with which limits: TOML text in, frozen settings out. Reading the file is the caller's."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Sequence
from ipaddress import ip_address

import msgspec

from twintape.core.errors import ConfigError
from twintape.core.markets import RULES, Market
from twintape.core.symbols import CONTRACT_TYPES, is_selector, subscribable
from twintape.core.wire import split_stream, stream_name

__all__ = ["MarketSettings", "RecordSettings", "collector_name", "market_settings", "parse_record_settings", "shards"]

STREAMS_PER_CONNECTION = 200
"""Few enough that one lost connection hurts little, many enough that few objects are made."""

_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")
_STREAM = re.compile(r"!?[A-Za-z0-9_]{1,48}(@[A-Za-z0-9_+:.-]{1,24}){0,2}")
_URL = {"websocket": re.compile(r"wss?://[^\s?#]+"), "rest": re.compile(r"https?://[^\s?#]+")}
_PROXY = re.compile(r"http://([^\s/?#@]*@)?[^\s/?#@]+(:[0-9]{1,5})?/?")


class MarketSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What to record of one market.

    Attributes:
        market: Which one.
        symbols: As Binance spells them, patterns (`*USDT`, `*`), or futures contract types (`PERPETUAL`); duplicates are dropped.
        streams: Streams of every symbol (`depth@100ms`, `bookTicker`, …), or market-wide ones that begin with `!`. Empty: the
            market's default depth stream.
        websocket: Websocket address instead of the market's own, without the path `/stream`.
        rest: REST address instead of the market's own.
        sentinel: A busy stream that every connection of this market carries besides, such as `btcusdt@depth5@100ms`: its silence tells a
            stalled connection from quiet symbols. Empty: none.
    """

    market: Market
    symbols: tuple[str, ...] = ()
    streams: tuple[str, ...] = ()
    websocket: str | None = None
    rest: str | None = None
    sentinel: str = ""

    def stream_names(self) -> list[str]:
        """Return every stream to subscribe at the start, a symbol's streams next to each other; patterns stand for none yet."""
        names = [name for symbol in self.symbols if not is_selector(symbol) for name in self.symbol_streams(symbol)]
        return names + [stream for stream in self.streams if stream.startswith("!")]

    def symbol_streams(self, symbol: str) -> list[str]:
        """Return the streams to subscribe of one symbol."""
        return [stream_name(symbol, stream) for stream in self.streams if not stream.startswith("!")]


class RecordSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one collector process records, and how.

    Attributes:
        collector: The collector's name: the first part of its objects' keys.
        store: Where sealed segments go.
        spool: Local directory that keeps them until then.
        markets: What to record.
        streams_per_connection: At most so many streams share a connection.
        rotate_hours: The greatest age of a connection; it is replaced before, at times of day that the collector's name decides. Binance
            cuts at 24.
        connections: How many connections carry every stream at all times; with 2, one that ends costs nothing.
        weight_share: The part of the IP address's request weight that checkpoints are planned to use; retries and snapshots behind gaps may
            add a fifth of it.
        snapshot_minutes: How often a snapshot is taken of each symbol as a checkpoint, or less often if the weight allows no more; 0: only
            when one is needed.
        snapshot_limit: Levels a side of snapshots; 0: as many as the market serves.
        symbols_minutes: How often the exchange's list of symbols is read; 0: never, which patterns do not allow.
        symbols_grace_minutes: How long a symbol is recorded after it is over, gone from the list or selected no longer.
        queue_mebibytes: Frames that may wait for the disk; behind that, sockets are no longer read.
        spool_gibibytes: What the spool of all markets together may occupy.
        uploads: How many uploads run at once.
        stop_seconds: How long a stop may wait for uploads.
        metrics_port: Port of `/metrics` and `/status` on loopback; 0: none.
        shared_directory: Where collectors of one machine count their connection attempts together; empty: a directory of this user in memory.
        proxy: `http://[user:password@]host:port` through which websockets and REST go; empty: what the environment's `HTTPS_PROXY` says. The
            store has its own settings.
        source_address: Local IP address that websockets and REST are opened from; empty: the system's choice.
    """

    collector: str
    store: str = "./twintape-store"
    spool: str = "./twintape-spool"
    markets: tuple[MarketSettings, ...] = ()
    streams_per_connection: int = STREAMS_PER_CONNECTION
    rotate_hours: float = 12.0
    connections: int = 1
    weight_share: float = 0.4
    snapshot_minutes: float = 60.0
    snapshot_limit: int = 0
    symbols_minutes: float = 10.0
    symbols_grace_minutes: float = 1440.0
    queue_mebibytes: int = 256
    spool_gibibytes: float = 50.0
    uploads: int = 4
    stop_seconds: float = 20.0
    metrics_port: int = 0
    shared_directory: str = ""
    proxy: str = ""
    source_address: str = ""


_RANGES: dict[str, tuple[float, float]] = {
    "streams_per_connection": (1, 1024),
    "rotate_hours": (0.0001, 23.9),
    "connections": (1, 2),
    "weight_share": (0.01, 1.0),
    "snapshot_minutes": (0, 1440),
    "snapshot_limit": (0, 5000),
    "symbols_minutes": (0, 1440),
    "symbols_grace_minutes": (0, 43200),
    "queue_mebibytes": (1, 65536),
    "spool_gibibytes": (0.01, 1_000_000),
    "uploads": (1, 64),
    "stop_seconds": (0, 3600),
    "metrics_port": (0, 65535),
}


def parse_record_settings(text: str, *, overrides: dict[str, object] | None = None) -> RecordSettings:
    r"""Return the settings a TOML text describes; `overrides` (of the command line) win over its top-level keys.

    >>> parse_record_settings('collector = "tokyo"\n[[markets]]\nmarket = "spot"\nsymbols = ["btcusdt"]').markets[0].stream_names()
    ['btcusdt@depth@100ms']

    Raises:
        ConfigError: The text is not TOML, has an unknown key, or says something impossible.
    """
    try:
        decoded = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"the configuration is not TOML: {error}") from error
    try:
        settings = msgspec.convert({**decoded, **(overrides or {})}, RecordSettings)
    except msgspec.ValidationError as error:
        raise ConfigError(f"the configuration is wrong: {error}") from error
    return check(settings)


def check(settings: RecordSettings) -> RecordSettings:
    """Return the settings with symbols and streams brought into their normal form.

    Raises:
        ConfigError: Something in them is impossible.
    """
    if not _NAME.fullmatch(settings.collector):
        raise ConfigError(
            f"collector name {settings.collector!r} is not made of 1 to 32 lower-case letters, digits and hyphens",
            hint="use --collector",
        )
    for name, (least, greatest) in _RANGES.items():
        value = getattr(settings, name)
        if not least <= value <= greatest:
            raise ConfigError(f"{name} is {value}, must be between {least} and {greatest}")
    if settings.proxy and not _PROXY.fullmatch(settings.proxy):
        # Without the value: it may hold a password.
        raise ConfigError("proxy is not of the form http://[user:password@]host:port")
    if settings.source_address:
        try:
            ip_address(settings.source_address)
        except ValueError as error:
            raise ConfigError(f"source_address {settings.source_address!r} is not an IP address") from error
    if not settings.markets:
        raise ConfigError("nothing to record", hint="name a symbol, or give [[markets]] in the configuration")
    seen = [entry.market for entry in settings.markets]
    if len(set(seen)) != len(seen):
        raise ConfigError("a market is configured twice", hint="put all its symbols into one [[markets]] entry")
    markets = tuple(market_settings(entry) for entry in settings.markets)
    if not settings.symbols_minutes and any(is_selector(symbol) for entry in markets for symbol in entry.symbols):
        raise ConfigError("symbols_minutes is 0, and there are patterns to follow", hint="name every symbol, or let it be 10")
    return msgspec.structs.replace(settings, markets=markets)


def market_settings(entry: MarketSettings) -> MarketSettings:
    """Return one market's settings in normal form: symbols in upper case, defaults filled in, duplicates dropped.

    Raises:
        ConfigError: A symbol, stream or address cannot be subscribed.
    """
    symbols = tuple(dict.fromkeys(_symbol(symbol) for symbol in entry.symbols))
    if entry.market is Market.SPOT and not CONTRACT_TYPES.isdisjoint(symbols):
        raise ConfigError(f"spot has no contract types: {' '.join(sorted(CONTRACT_TYPES & set(symbols)))}")
    streams = tuple(dict.fromkeys(entry.streams)) or (RULES[entry.market].default_depth,)
    for stream in (*streams, *filter(None, [entry.sentinel])):
        if not _STREAM.fullmatch(stream):
            raise ConfigError(
                f"stream {stream!r} cannot be subscribed", hint="a stream looks like depth@100ms, bookTicker or trade"
            )
    if not symbols and not all(stream.startswith("!") for stream in streams):
        raise ConfigError(f"no symbols for {entry.market}")
    for name, pattern in _URL.items():
        value = getattr(entry, name)
        if value is not None and not pattern.fullmatch(value):
            raise ConfigError(f"{name} address {value!r} is not a URL without query")
    return msgspec.structs.replace(
        entry,
        symbols=symbols,
        streams=streams,
        websocket=None if entry.websocket is None else entry.websocket.rstrip("/").removesuffix("/stream"),
        rest=None if entry.rest is None else entry.rest.rstrip("/"),
    )


def _symbol(symbol: str) -> str:
    if not subscribable(symbol):
        raise ConfigError(f"symbol {symbol!r} cannot be subscribed", hint="1 to 64 bytes, no white space, none of / ? # @ & %")
    return split_stream(f"{symbol}@x")[0]


def shards(names: Sequence[str], per_connection: int) -> list[list[str]]:
    """Return the streams in as few groups of at most `per_connection` as possible, of nearly equal size.

    >>> shards(["a", "b", "c"], 2)
    [['a', 'b'], ['c']]
    """
    count = -(-len(names) // per_connection)
    size, larger = divmod(len(names), max(count, 1))
    groups: list[list[str]] = []
    start = 0
    for index in range(count):
        end = start + size + (index < larger)
        groups.append(list(names[start:end]))
        start = end
    return groups


def collector_name(hostname: str) -> str:
    """Return a collector name made from a host name.

    >>> collector_name("Tokyo-1.example.com"), collector_name("__")
    ('tokyo-1-example-com', 'collector')
    """
    name = re.sub(r"[^a-z0-9]+", "-", hostname.lower()).strip("-")[:32].rstrip("-")
    return name or "collector"
