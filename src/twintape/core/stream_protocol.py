"""The server's side of Binance's websocket conventions: addresses, SUBSCRIBE and its answers, rate limits, pings.

Pure: text and time in, answers out. `io.exchange` connects it to sockets. Where the documentation is silent the choice is said.

Source: Binance, Spot API docs, web-socket-streams.md (2026-07-21); Derivatives docs, Live Subscribing/Unsubscribing to Streams and
Important WebSocket Change Notice (2026-05-28).
"""

from __future__ import annotations

import json
import re
from collections import deque
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

from twintape.core.errors import ConfigError
from twintape.core.markets import RULES, Market

__all__ = [
    "CLIENT_MESSAGE_CHARACTERS_MAX",
    "MessageRate",
    "PingKeeper",
    "Reaction",
    "Route",
    "StreamSession",
    "Target",
    "delivers",
    "parse_target",
    "shutdown_notice",
    "text_frame",
    "websocket_frame",
]

CLIENT_MESSAGE_CHARACTERS_MAX = 8000
"""A longer message drops the connection."""

REQUEST_ID_CHARACTERS_MAX = 36

_METHODS = ("SUBSCRIBE", "UNSUBSCRIBE", "LIST_SUBSCRIPTIONS", "SET_PROPERTY", "GET_PROPERTY")
_ROUTES = ("public", "market", "private")
_STRING_ID = re.compile(r"[A-Za-z0-9_-]{1,36}")

Route = str
"""`""` (unrouted), `public`, `market` or `private`; all but the first exist on USD-M only."""


@dataclass(frozen=True, slots=True)
class Target:
    """What a websocket URL asks for.

    Attributes:
        market: The market whose host this stands for.
        route: Which kinds of streams the connection can carry.
        combined: Whether frames are wrapped in `{"stream":…,"data":…}` to begin with.
        streams: The streams subscribed by the URL, in order, without repetitions.
        microseconds: Whether the URL asks for `timeUnit=MICROSECOND`.
    """

    market: Market
    route: Route
    combined: bool
    streams: tuple[str, ...]
    microseconds: bool = False


def parse_target(raw_path: str, default_market: Market | None = None) -> Target:
    """Read the path and query of a websocket request.

    Args:
        raw_path: As on the request line, still percent-encoded. `/spot`, `/usdm` or `/coinm` in front chooses the market.
        default_market: The market where the path names none.

    >>> parse_target("/usdm/public/stream?streams=btcusdt@depth/ethusdt@depth").streams
    ('btcusdt@depth', 'ethusdt@depth')
    >>> parse_target("/ws/btcusdt@depth@100ms?timeUnit=MICROSECOND", Market.SPOT)
    Target(market=<Market.SPOT: 'spot'>, route='', combined=False, streams=('btcusdt@depth@100ms',), microseconds=True)

    Raises:
        ConfigError: No market stream is served under that path; the server answers 404.
    """
    path, _, query = raw_path.partition("?")
    parts = [unquote(part) for part in path.split("/")[1:]]
    market = default_market
    if parts and parts[0] in tuple(Market):
        market = Market(parts.pop(0))
    if market is None:
        raise ConfigError(f"{path} names no market", hint="put /spot, /usdm or /coinm in front")
    route = ""
    if market is Market.USDM and parts and parts[0] in _ROUTES:
        route = parts.pop(0)
    if not parts or parts[0] not in ("ws", "stream"):
        raise ConfigError(f"{path} is not served on {market}")
    combined = parts.pop(0) == "stream"
    streams = [part for part in parts if part]
    if combined and streams:
        raise ConfigError(f"{path}: streams of /stream go into the query")
    microseconds = False
    # python-binance appends "?timeUnit=…" behind "stream?streams=…".
    for item in query.replace("?", "&").split("&"):
        name, _, value = item.partition("=")
        if name == "streams" and combined:
            streams += [unquote(stream) for stream in value.split("/") if stream]
        elif name == "timeUnit":
            microseconds = value.upper() == "MICROSECOND"
    unique = tuple(dict.fromkeys(streams))
    if len(unique) > RULES[market].streams_per_connection:
        raise ConfigError(f"{len(unique)} streams, at most {RULES[market].streams_per_connection} a connection")
    return Target(market, route, combined, unique, microseconds and market is Market.SPOT)


def delivers(market: Market, route: Route, stream: str) -> bool:
    """Return whether a connection on `route` ever gets frames of `stream`; a wrong route is acknowledged and silent.

    >>> delivers(Market.USDM, "market", "btcusdt@depth@100ms"), delivers(Market.USDM, "", "btcusdt@depth@100ms")
    (False, True)

    Source: Derivatives docs, Important WebSocket Change Notice: unrouted connections receive the data of `/public` only.
    """
    if market is not Market.USDM:
        return True
    kind = stream.partition("@")[2] or stream.removeprefix("!")
    public = kind.partition("@")[0] in ("bookTicker", "trade", "rpiDepth") or kind.startswith("depth")
    return {"": public, "public": public, "market": not public, "private": False}[route]


@dataclass(frozen=True, slots=True)
class Reaction:
    """What the server does after a client's message: sends `replies`, then maybe closes.

    Attributes:
        replies: Text payloads in order.
        close_code: Websocket close code, or None to stay open.
        drop: Cut the TCP connection without a close frame.
    """

    replies: tuple[bytes, ...] = ()
    close_code: int | None = None
    drop: bool = False


class StreamSession:
    """The subscriptions of one connection and the language in which the client changes them.

    Args:
        target: What the URL asked for.
    """

    def __init__(self, target: Target) -> None:
        self.target = target
        self.combined = target.combined
        self._streams = dict.fromkeys(target.streams)

    @property
    def streams(self) -> tuple[str, ...]:
        """The subscribed streams in order, known to the exchange or not."""
        return tuple(self._streams)

    @property
    def named_streams(self) -> tuple[str, ...]:
        """Those that could be streams: ccxt connects to `/ws/0` and subscribes afterwards; `0` never is one."""
        return tuple(name for name in self._streams if "@" in name or name.startswith("!"))

    def delivers(self, stream: str) -> bool:
        """Return whether frames of `stream` reach this client."""
        return stream in self._streams and delivers(self.target.market, self.target.route, stream)

    def handle(self, text: str) -> Reaction:
        """Execute one text message of the client."""
        if len(text) > CLIENT_MESSAGE_CHARACTERS_MAX:
            return Reaction(drop=True)
        try:
            request = json.loads(text)
        except (ValueError, RecursionError) as error:
            line, column = (error.lineno, error.colno) if isinstance(error, json.JSONDecodeError) else (1, 1)
            reply = _error(3, f"Invalid JSON: expected value at line {line} column {column}")
            # Source: Derivatives change log 2023-06-22: invalid JSON closes the connection on futures.
            return Reaction((reply,), close_code=None if self.target.market is Market.SPOT else 1008)
        return Reaction((self._execute(request),))

    def _execute(self, request: Any) -> bytes:
        if not isinstance(request, dict):
            return _error(2, "Invalid request: expected an object")
        request_id = request.get("id")
        if not _valid_id(request_id, self.target.market):
            return _error(2, "Invalid request: request ID must be an unsigned integer")
        method, params = request.get("method"), request.get("params", [])
        if method is None:
            return _error(2, "Invalid request: missing field `method` at line 1 column 73", request_id)
        if method not in _METHODS:
            known = ", ".join(f"`{name}`" for name in _METHODS)
            return _error(
                2, f"Invalid request: unknown variant `{method}`, expected one of {known} at line 1 column 28", request_id
            )
        if not isinstance(params, list):
            return _error(2, "Invalid request: params must be an array", request_id)
        if method in ("SUBSCRIBE", "UNSUBSCRIBE"):
            return self._change(method, params, request_id)
        if method == "LIST_SUBSCRIPTIONS":
            return _result(list(self._streams), request_id)
        return self._property(method, params, request_id)

    def _change(self, method: str, params: list[Any], request_id: Any) -> bytes:
        if not params:
            return _error(2, "Invalid request: missing field `params`", request_id)
        if not all(isinstance(name, str) and name for name in params):
            return _error(2, "Invalid request: invalid stream", request_id)
        if method == "UNSUBSCRIBE":
            for name in params:
                self._streams.pop(name, None)
            return _result(None, request_id)
        wanted = self._streams | dict.fromkeys(params)
        # The documentation names the limit but not the answer; here nothing of the request is subscribed.
        if len(wanted) > RULES[self.target.market].streams_per_connection:
            return _error(2, "Invalid request: too many subscriptions", request_id)
        self._streams = wanted
        return _result(None, request_id)

    def _property(self, method: str, params: list[Any], request_id: Any) -> bytes:
        expected = 2 if method == "SET_PROPERTY" else 1
        if len(params) > expected:
            return _error(2, "Invalid request: too many parameters", request_id)
        if not params or not isinstance(params[0], str):
            return _error(2, "Invalid request: property name must be a string", request_id)
        if params[0] != "combined":
            return _error(0, "Unknown property", request_id)
        if method == "GET_PROPERTY":
            return _result(self.combined, request_id)
        if len(params) < expected or not isinstance(params[1], bool):
            return _error(1, "Invalid value type: expected Boolean", request_id)
        self.combined = params[1]
        return _result(None, request_id)


def _valid_id(request_id: Any, market: Market) -> bool:
    if request_id is None:
        return True
    if isinstance(request_id, bool):
        return False
    if isinstance(request_id, int):
        # Futures documents an unsigned integer, spot a signed one of 64 bits. The official SDK sends UUIDs to both.
        lowest = -(2**63) if market is Market.SPOT else 0
        return lowest <= request_id < 2**63
    return isinstance(request_id, str) and _STRING_ID.fullmatch(request_id) is not None


def _json(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode(errors="surrogatepass")


def _result(result: Any, request_id: Any) -> bytes:
    return _json({"result": result, "id": request_id})


def _error(code: int, message: str, request_id: Any = None) -> bytes:
    error: dict[str, Any] = {"error": {"code": code, "msg": message}}
    if request_id is not None:
        error["id"] = request_id
    return _json(error)


def shutdown_notice(event_time_ms: int, *, combined: bool) -> bytes:
    """Return the notice that precedes a planned close, as a raw or a combined frame.

    >>> shutdown_notice(1770123456789, combined=False)
    b'{"e":"serverShutdown","E":1770123456789}'
    """
    notice = {"e": "serverShutdown", "E": event_time_ms}
    return _json({"stream": "!serverShutdown", "data": notice} if combined else notice)


class MessageRate:
    """Counts what a client sends (text, ping and pong) in any window of one second.

    Args:
        per_second: How many are allowed.
    """

    def __init__(self, per_second: int) -> None:
        self._per_second = per_second
        self._times_ns: deque[int] = deque()

    def allow(self, now_ns: int) -> bool:
        """Count one message at monotonic time `now_ns` and return whether it is within the limit."""
        while self._times_ns and now_ns - self._times_ns[0] >= 1_000_000_000:
            self._times_ns.popleft()
        self._times_ns.append(now_ns)
        return len(self._times_ns) <= self._per_second


@dataclass(slots=True)
class PingKeeper:
    """When to ping a client and when to give it up. All times are monotonic nanoseconds.

    Only a pong that echoes the payload of a ping counts; it settles that ping and all older ones.
    """

    interval_ns: int
    deadline_ns: int
    next_ping_ns: int
    sent_count: int = 0
    _unanswered: dict[bytes, int] = field(default_factory=dict)

    def due(self, now_ns: int, wall_ms: int) -> bytes | None:
        """Return the payload to ping with now (the time in milliseconds as text), or None."""
        if now_ns < self.next_ping_ns:
            return None
        self.next_ping_ns = now_ns + self.interval_ns
        self.sent_count += 1
        payload = str(wall_ms).encode()
        self._unanswered.setdefault(payload, now_ns)
        return payload

    def pong(self, payload: bytes) -> None:
        """Take a client's pong; an unsolicited one changes nothing."""
        if payload in self._unanswered:
            pinged = list(self._unanswered)
            for settled in pinged[: pinged.index(payload) + 1]:
                del self._unanswered[settled]

    def expired(self, now_ns: int) -> bool:
        """Return whether the oldest unanswered ping is past its deadline."""
        return any(now_ns - sent_ns >= self.deadline_ns for sent_ns in self._unanswered.values())

    def wake_ns(self) -> int:
        """Return when `due` or `expired` should be asked next."""
        return min([self.next_ping_ns, *(sent_ns + self.deadline_ns for sent_ns in self._unanswered.values())])


def websocket_frame(opcode: int, payload: bytes) -> bytes:
    r"""Return an unmasked, unfragmented websocket frame, as servers send them (RFC 6455, 5.2).

    >>> websocket_frame(9, b"hi")
    b'\x89\x02hi'
    """
    size = len(payload)
    if size < 126:
        return bytes((0x80 | opcode, size)) + payload
    if size < 65536:
        return bytes((0x80 | opcode, 126)) + size.to_bytes(2, "big") + payload
    return bytes((0x80 | opcode, 127)) + size.to_bytes(8, "big") + payload


def text_frame(payload: bytes) -> bytes:
    """Return a websocket frame of UTF-8 text."""
    return websocket_frame(1, payload)
