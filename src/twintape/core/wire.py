"""Binance's frames: which stream a frame belongs to, what a depth frame and a REST body say, and the control lines of our own.

Two speeds. `stream_of`, `event_time_us` and `depth_ids` look at every frame ever recorded and only scan bytes; they never raise, because
a frame nobody understands is recorded all the same. `decode_depth` and `decode_snapshot` are the slow, strict readers: the oracle that
the columnar kernels are compared with, and the way out for frames that no kernel understands.

Source: Binance, Spot API docs, web-socket-streams.md (2026-07-21); Derivatives docs, Diff. Book Depth Streams (2026-05-28);
frames of August 2026 with `ps` and `st`.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from typing import Any

import msgspec

from twintape.core.errors import ConfigError, WireError
from twintape.core.markets import Market

__all__ = [
    "OTHER",
    "SESSION",
    "SHUTDOWN",
    "SNAPSHOT",
    "TWINTAPE",
    "DepthEvent",
    "DepthSnapshot",
    "Level",
    "RecordedSnapshot",
    "bytes_line",
    "clock_line",
    "close_line",
    "decode_depth",
    "decode_snapshot",
    "depth_ids",
    "event_time_us",
    "is_depth",
    "is_shutdown_notice",
    "normal_symbol",
    "open_line",
    "parse_control",
    "plausible_symbol",
    "recordable",
    "recorded_snapshot",
    "snapshot_line",
    "split_stream",
    "stream_name",
    "stream_of",
    "subscribe_frame",
    "subscribe_line",
    "suspect_line",
    "sync_line",
    "unwrap",
]

SESSION = "!session"
"""The pseudo-symbol of frames that belong to no symbol."""
OTHER = "!other"
"""The stream name of frames that belong to no stream."""
TWINTAPE = "!twintape"
"""The stream name of our own control lines."""
SHUTDOWN = "!serverShutdown"
"""The stream name of Binance's notice that it is about to close the connection."""
SNAPSHOT = "depthSnapshot"
"""The stream of REST depth bodies, next to a symbol's real streams."""

STREAM_NAME_BYTES_MAX = 80
"""Percent-encoded, a longer name of unlucky letters would be no file name any more."""
SYMBOL_BYTES_MAX = 64
STREAM_NAMES_KNOWN_MAX = 4096  # whose parts are remembered: indexes say the same few again and again

_WRAPPER = b'{"stream":"'
_SYMBOL = re.compile(rb'"s":"([^"\\]{1,128})"')
_EVENT_TYPE = re.compile(rb'"e":"([A-Za-z0-9_]{1,64})"')
_EVENT_TIME = re.compile(rb'"E":\s?(\d{16}|\d{13})(?!\d)')
_DEPTH_IDS = re.compile(rb'"U":\s?(\d{1,18}),\s?"u":\s?(\d{1,18})(?:,\s?"pu":\s?(-?\d{1,18}))?(?!\d)')
_LAST_UPDATE_ID = re.compile(rb'"lastUpdateId":\s?(-?\d{1,18})')
_DEPTH_STREAM = re.compile(r"depth(@[0-9]+ms)?")
_KINDS = {b"depthUpdate": "depth", b"markPriceUpdate": "markPrice"}

Level = tuple[str, str]
"""Price and quantity as Binance printed them."""


@dataclass(frozen=True, slots=True)
class DepthEvent:
    """One depth frame, decoded.

    The event covers the ids `(prev_update_id, final_update_id]`; `prev_update_id` is `pu` on futures and `U - 1` on spot.
    Times are microseconds since 1970; `transaction_time_us` is None on spot. Levels are in the exchange's order.
    """

    symbol: str
    event_time_us: int
    transaction_time_us: int | None
    prev_update_id: int
    first_update_id: int
    final_update_id: int
    bids: tuple[Level, ...]
    asks: tuple[Level, ...]


@dataclass(frozen=True, slots=True)
class DepthSnapshot:
    """One REST depth body, decoded; bids best first, asks best first. Spot bodies have no times."""

    last_update_id: int
    event_time_us: int | None
    transaction_time_us: int | None
    bids: tuple[Level, ...]
    asks: tuple[Level, ...]


@dataclass(frozen=True, slots=True)
class RecordedSnapshot:
    """A REST answer as a recording holds it. `symbol` is None for a bare body; `status` is 200 unless the line says otherwise."""

    symbol: str | None
    status: int
    body: bytes
    request_time_ns: int | None
    response_time_ns: int | None


# --- names ---------------------------------------------------------------------------------------------------------------------


def plausible_symbol(symbol: str) -> bool:
    r"""Return whether `symbol` may stand in a key of its own: 1–64 bytes, no control characters, not one of our pseudo-symbols.

    >>> plausible_symbol("币安人生USDT"), plausible_symbol("A\x00B"), plausible_symbol("!session")
    (True, False, False)
    """
    try:
        size = len(symbol.encode())
    except UnicodeEncodeError:  # a lone surrogate
        return False
    if not 1 <= size <= SYMBOL_BYTES_MAX or symbol.startswith("!"):
        return False
    return not any(character < " " or "\x7f" <= character <= "\x9f" for character in symbol)


def _upper(text: str) -> str:
    return "".join(chr(ord(c) - 32) if "a" <= c <= "z" else c for c in text)


def _lower(text: str) -> str:
    return "".join(chr(ord(c) + 32) if "A" <= c <= "Z" else c for c in text)


def normal_symbol(symbol: str) -> str:
    """Return a symbol somebody typed as keys and proofs spell it: its ASCII letters upper case.

    >>> normal_symbol("btcusdt"), normal_symbol("币安人生usdt")
    ('BTCUSDT', '币安人生USDT')

    Raises:
        ConfigError: It can be no symbol.
    """
    if symbol == SESSION:
        return symbol
    if not plausible_symbol(symbol):
        raise ConfigError(f"not a symbol: {symbol[:SYMBOL_BYTES_MAX]!r}", hint="such as BTCUSDT")
    return _upper(symbol)


@lru_cache(maxsize=STREAM_NAMES_KNOWN_MAX)
def split_stream(name: str) -> tuple[str, str]:
    """Return the symbol and the stream of a stream name.

    >>> split_stream("btcusdt@depth@100ms"), split_stream("!bookTicker")
    (('BTCUSDT', 'depth@100ms'), ('!session', '!bookTicker'))
    """
    prefix, at, stream = name.partition("@")
    symbol = _upper(prefix)
    if not at or not stream or not plausible_symbol(symbol):
        return SESSION, name
    return symbol, stream


def stream_name(symbol: str, stream: str) -> str:
    """Return the stream name Binance uses: the inverse of `split_stream`.

    >>> stream_name("BTCUSDT", "depth@100ms")
    'btcusdt@depth@100ms'
    """
    return stream if symbol == SESSION else f"{_lower(symbol)}@{stream}"


def is_depth(stream: str) -> bool:
    """Return whether `stream` (without symbol) carries order-book deltas that are spliced by id."""
    return _DEPTH_STREAM.fullmatch(stream) is not None


# --- scanning: never raises ----------------------------------------------------------------------------------------------------


def stream_of(frame: bytes, depth_streams: Mapping[str, str] | None = None, snapshot_symbol: str | None = None) -> str:
    """Return the stream name a recorded frame is filed under.

    Args:
        frame: One frame or control line, without its receive time.
        depth_streams: For raw frames: symbol → the one depth stream name the connection subscribed for it.
        snapshot_symbol: For bare REST bodies: the symbol of a recording of a single symbol.

    >>> stream_of(b'{"stream":"btcusdt@depth@100ms","data":{}}'), stream_of(b"<html>")
    ('btcusdt@depth@100ms', '!other')
    """
    if frame.startswith(_WRAPPER):
        return _wrapped_stream(frame, _wrapper_name(frame))
    return _raw_stream(frame, depth_streams or {}, snapshot_symbol)


def _wrapper_name(frame: bytes) -> str:
    """Return the name in a frame's wrapper, `!other` if it is none: empty, over-long, escaped, or no UTF-8."""
    end = frame.find(b'"', len(_WRAPPER), len(_WRAPPER) + STREAM_NAME_BYTES_MAX + 1)
    name = frame[len(_WRAPPER) : max(end, 0)]
    if not name or b"\\" in name:  # an escaped name cannot be compared with one that is not; the frame stays whole
        return OTHER
    try:
        return name.decode()
    except UnicodeDecodeError:
        return OTHER


def _wrapped_stream(frame: bytes, name: str) -> str:
    if name == "!twintape@snapshot":
        snapshot = recorded_snapshot(frame)
        if snapshot is not None and snapshot.symbol is not None and plausible_symbol(snapshot.symbol):
            return stream_name(snapshot.symbol, SNAPSHOT)
        return TWINTAPE
    if name == "!twintape@bytes":
        return OTHER
    if name.startswith("!twintape"):
        return TWINTAPE
    return name


def _raw_stream(frame: bytes, depth_streams: Mapping[str, str], snapshot_symbol: str | None) -> str:
    if not frame.startswith(b"{"):  # an array of many symbols' tickers belongs to none of them
        return OTHER
    head = frame[:256]
    event = _EVENT_TYPE.search(head)
    symbol_match = _SYMBOL.search(head)
    if event is not None and event[1] == b"serverShutdown":
        return SHUTDOWN
    if symbol_match is None:
        if snapshot_symbol is not None and _LAST_UPDATE_ID.search(head):
            return stream_name(snapshot_symbol, SNAPSHOT)
        return OTHER
    try:
        symbol = symbol_match[1].decode()
    except UnicodeDecodeError:
        return OTHER
    if not plausible_symbol(symbol):
        return OTHER
    if event is None:
        # Spot's bookTicker is the one event without a type: {"u":…,"s":…,"b":…,"B":…,"a":…,"A":…}.
        return stream_name(symbol, "bookTicker") if head.startswith(b'{"u":') and b'"B":' in head else OTHER
    kind = _KINDS.get(event[1]) or event[1].decode()
    if kind == "depth":
        return depth_streams.get(symbol, stream_name(symbol, "depth"))
    name = stream_name(symbol, kind)
    return name if len(name.encode()) <= STREAM_NAME_BYTES_MAX else OTHER


def event_time_us(frame: bytes) -> int | None:
    """Return the frame's `E` in microseconds since 1970, or None if it has none.

    >>> event_time_us(b'{"e":"depthUpdate","E":1725382961514,"s":"X"}')
    1725382961514000
    """
    match = _EVENT_TIME.search(frame)
    if match is None:
        return None
    digits = match[1]
    return int(digits) * (1000 if len(digits) == 13 else 1)


def depth_ids(frame: bytes, market: Market) -> tuple[int, int] | None:
    """Return `(p, u]` of a depth frame without decoding it, or None.

    >>> depth_ids(b'{"U":157,"u":160,"pu":149}', Market.USDM), depth_ids(b'{"U":157,"u":160}', Market.SPOT)
    ((149, 160), (156, 160))
    """
    match = _DEPTH_IDS.search(frame)
    if match is None:
        return None
    if market is Market.SPOT:
        return int(match[1]) - 1, int(match[2])
    prev = match[3]
    return None if prev is None else (int(prev), int(match[2]))


def recordable(payload: bytes, *, lines: bool = False) -> bool:
    """Return whether a text payload can stand on a line of a segment as it is; with `lines`, whether each line in it can that is not empty."""
    # Numbers are found seven times as fast as texts.
    if 13 in payload or 0 in payload or not (lines or (payload and 10 not in payload)):
        return False
    try:
        return payload.isascii() or bool(payload.decode())
    except UnicodeDecodeError:
        return False


def is_shutdown_notice(frame: bytes) -> bool:
    """Return whether the frame is Binance's `serverShutdown`, raw or wrapped.

    >>> is_shutdown_notice(b'{"stream":"!serverShutdown","data":{"e":"serverShutdown","E":1770123456789}}')
    True
    """
    return len(frame) < 256 and b'"e":"serverShutdown"' in frame


# --- decoding: strict ----------------------------------------------------------------------------------------------------------


class _Depth(msgspec.Struct):
    e: str
    E: int
    s: str
    U: int
    u: int
    b: list[list[Any]]
    a: list[list[Any]]
    T: int | None = None
    pu: int | None = None


class _Body(msgspec.Struct):
    lastUpdateId: int
    bids: list[list[Any]]
    asks: list[list[Any]]
    E: int | None = None
    T: int | None = None


class _Wrapped(msgspec.Struct):
    data: msgspec.Raw


_decode_depth = msgspec.json.Decoder(_Depth).decode
_decode_body = msgspec.json.Decoder(_Body).decode
_decode_wrapped = msgspec.json.Decoder(_Wrapped).decode
_NUMBERS = re.compile("{0}(?:,{0})*".format(r"[0-9]{1,30}(?:\.[0-9]{1,30})?"))  # not \d: the digits of every script


def _microseconds(time: int) -> int:
    if not 0 <= time < 10**16:
        raise WireError(f"impossible time {time}")
    # 16 digits are microseconds (timeUnit=MICROSECOND), 13 are milliseconds.
    return time if time >= 10**15 else time * 1000


def _levels(rows: Sequence[Sequence[Any]]) -> tuple[Level, ...]:
    try:
        levels = tuple([(row[0], row[1]) for row in rows])  # until 2019 spot levels had a third, always empty element
        text = ",".join(chain.from_iterable(levels))
    except (TypeError, IndexError) as error:
        raise WireError(f"a level is not a pair of strings: {rows!r:.100}") from error
    if levels and (text.count(",") != 2 * len(levels) - 1 or not _NUMBERS.fullmatch(text)):
        raise WireError(f"a level is not a pair of plain decimals: {rows!r:.100}")
    return levels


def unwrap(frame: bytes) -> bytes:
    """Return the `data` of a combined frame, or the frame itself if it has no wrapper.

    Raises:
        WireError: It looks wrapped and is not valid JSON.
    """
    if not frame.startswith(_WRAPPER):
        return frame
    try:
        return bytes(_decode_wrapped(frame).data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise WireError(f"not a combined frame: {error}") from error


def decode_depth(frame: bytes, market: Market) -> DepthEvent:
    """Decode a depth frame, raw or combined, whatever further keys it has.

    >>> event = decode_depth(b'{"e":"depthUpdate","E":1725382961514,"s":"BTCUSDT","U":8,"u":9,"b":[["5.10","0.20"]],"a":[]}', Market.SPOT)
    >>> event.prev_update_id, event.final_update_id, event.bids
    (7, 9, (('5.10', '0.20'),))

    Raises:
        WireError: It is not one, or says something impossible: `u < U`, `u <= pu`, a negative id (but for a `pu` of -1, with which
            futures chains began in 2020), a time that is neither milliseconds nor microseconds since 1970.
    """
    try:
        depth = _decode_depth(unwrap(frame))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise WireError(f"not a depth frame: {error}") from error
    if depth.e != "depthUpdate":
        raise WireError(f"not a depth frame: e is {depth.e!r:.100}")
    if market is Market.SPOT:
        prev = depth.U - 1
    elif depth.pu is None:
        raise WireError(f"a {market} depth frame without pu")
    else:
        prev = depth.pu
    if depth.u < depth.U or depth.u <= prev or depth.U < 0 or prev < -1 or depth.u >= 10**18:
        raise WireError(f"impossible ids: U={depth.U} u={depth.u} pu={depth.pu}")
    return DepthEvent(
        symbol=depth.s,
        event_time_us=_microseconds(depth.E),
        transaction_time_us=None if depth.T is None else _microseconds(depth.T),
        prev_update_id=prev,
        first_update_id=depth.U,
        final_update_id=depth.u,
        bids=_levels(depth.b),
        asks=_levels(depth.a),
    )


def decode_snapshot(body: bytes) -> DepthSnapshot:
    """Decode a REST depth body of any market.

    >>> decode_snapshot(b'{"lastUpdateId":160,"bids":[["0.0024","10"]],"asks":[]}').bids
    (('0.0024', '10'),)

    Raises:
        WireError: It is not one. (`lastUpdateId` is -1 for a symbol whose book is still empty; that is no snapshot either.)
    """
    try:
        decoded = _decode_body(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise WireError(f"not a depth body: {error}") from error
    if not 0 <= decoded.lastUpdateId < 10**18:
        raise WireError(f"impossible lastUpdateId {decoded.lastUpdateId}")
    return DepthSnapshot(
        last_update_id=decoded.lastUpdateId,
        event_time_us=None if decoded.E is None else _microseconds(decoded.E),
        transaction_time_us=None if decoded.T is None else _microseconds(decoded.T),
        bids=_levels(decoded.bids),
        asks=_levels(decoded.asks),
    )


_SNAPSHOT_PREFIX = b'{"stream":"!twintape@snapshot",'


def recorded_snapshot(frame: bytes) -> RecordedSnapshot | None:
    """Return the REST answer a recorded frame holds, in any of the three forms recordings have, or None.

    Forms: our `!twintape@snapshot` line, `{"stream":"<symbol>@depthSnapshot",…,"data":<body>}`, and a bare body.
    """
    if frame.startswith(_SNAPSHOT_PREFIX):
        try:
            head, _, body = frame.partition(b',"body":')
            if body:
                fields = json.loads(head + b"}")
                verbatim = body[:-1]
            else:
                fields = json.loads(frame)
                verbatim = base64.b64decode(fields["base64"])
            return RecordedSnapshot(
                symbol=str(fields["symbol"]),
                status=int(fields["status"]),
                body=verbatim,
                request_time_ns=int(fields["request_time_ns"]),
                response_time_ns=int(fields["response_time_ns"]),
            )
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
            return None
    if frame.startswith(_WRAPPER):
        symbol, stream = split_stream(_wrapper_name(frame))
        if stream != SNAPSHOT:
            return None
        try:
            return RecordedSnapshot(symbol, 200, unwrap(frame), None, None)
        except WireError:
            return None
    if _LAST_UPDATE_ID.search(frame[:256]):
        return RecordedSnapshot(None, 200, frame, None, None)
    return None


# --- what we send and write ----------------------------------------------------------------------------------------------------


def subscribe_frame(streams: Sequence[str], request_id: int, method: str = "SUBSCRIBE") -> bytes:
    """Return a SUBSCRIBE (or UNSUBSCRIBE) message.

    >>> subscribe_frame(["btcusdt@depth@100ms"], 1)
    b'{"method":"SUBSCRIBE","params":["btcusdt@depth@100ms"],"id":1}'
    """
    return _json({"method": method, "params": list(streams), "id": request_id})


def _json(value: Mapping[str, Any]) -> bytes:
    # A lone surrogate is no UTF-8; spelled with a backslash it is the JSON escape of itself.
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode(errors="backslashreplace")


def _line(kind: str, **fields: Any) -> bytes:
    """Return a control line; its keys come in the order they are given."""
    return _json({"stream": f"!twintape@{kind}", **fields})


def bytes_line(opcode: int, payload: bytes) -> bytes:
    """Return the line that stands for a payload that is not a single line of UTF-8 text."""
    return _line("bytes", opcode=opcode, base64=base64.b64encode(payload).decode())


def open_line(
    *,
    collector: str,
    market: Market,
    run: str,
    connection: int,
    sequence: int,
    url: str,
    streams: Sequence[str],
    version: str,
    event_time_us: int | None,
) -> bytes:
    """Return the first line of a segment."""
    return _line(
        "open",
        format="twintape-active/1",
        collector=collector,
        market=str(market),
        run=run,
        connection=connection,
        sequence=sequence,
        url=url,
        streams=list(streams),
        version=version,
        event_time_us=event_time_us,
    )


def subscribe_line(*, streams: Sequence[str]) -> bytes:
    """Return the line that says which streams the connection is asked for from here on."""
    return _line("subscribe", streams=list(streams))


def clock_line(*, wall_ns: int, monotonic_ns: int, offset_ns: int | None, error_ns: int | None, source: str) -> bytes:
    """Return a line that states how good the clock is."""
    return _line("clock", wall_ns=wall_ns, monotonic_ns=monotonic_ns, offset_ns=offset_ns, error_ns=error_ns, source=source)


def snapshot_line(*, symbol: str, url: str, request_time_ns: int, response_time_ns: int, status: int, body: bytes) -> bytes:
    """Return the line of a REST answer; the body stays verbatim, as JSON where it is one line of JSON, else as base64."""
    asked = {"symbol": symbol, "url": url, "request_time_ns": request_time_ns, "response_time_ns": response_time_ns}
    head = _line("snapshot", **asked, status=status)[:-1]
    if recordable(body):
        try:
            msgspec.json.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            pass  # not JSON: the base64 form below keeps it
        else:
            return head + b',"body":' + body + b"}"
    return head + b',"base64":"' + base64.b64encode(body) + b'"}'


def suspect_line(*, from_ns: int, to_ns: int | None, streams: Sequence[str] | None, reason: str) -> bytes:
    """Return a line that names an interval in which the collector may have been deaf."""
    named = None if streams is None else list(streams)
    return _line("suspect", from_ns=from_ns, to_ns=to_ns, streams=named, reason=reason)


def close_line(*, reason: str, code: int | None, final: bool) -> bytes:
    """Return the last line of a segment."""
    return _line("close", reason=reason, code=code, final=final)


def sync_line(*, size: int, crc32: int) -> bytes:
    """Return the line that is written before each fsync.

    >>> sync_line(size=12, crc32=255)
    b'{"stream":"!twintape@sync","bytes":12,"crc32":"000000ff"}'
    """
    return b'{"stream":"!twintape@sync","bytes":%d,"crc32":"%08x"}' % (size, crc32)


def parse_control(frame: bytes) -> tuple[str, dict[str, Any]] | None:
    """Return the kind (`open`, `clock`, …) and the fields of a control line of ours, or None if it is none or damaged."""
    if not frame.startswith(b'{"stream":"!twintape@'):
        return None
    try:
        fields = json.loads(frame.decode("utf-8", "surrogatepass"))
    except (ValueError, RecursionError):
        return None
    return str(fields["stream"]).removeprefix("!twintape@"), fields
