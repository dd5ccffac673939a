"""One client of a live comparison, as the command line spells it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from twintape.core.errors import ConfigError
from twintape.core.wire import is_depth, stream_name

__all__ = ["Client", "client_streams", "parse_client"]


@dataclass(frozen=True, slots=True)
class Client:
    """One websocket client.

    Attributes:
        name: What it is called in the report.
        url: Where it connects to, without path; empty: the market's own address.
        source: The address it connects from; empty: any.
        stream: The depth stream it listens to; empty: the comparison's.
        also: Further streams on the same connection, which are not compared.
    """

    name: str
    url: str = ""
    source: str = ""
    stream: str = ""
    also: tuple[str, ...] = ()


def parse_client(text: str, name: str) -> Client:
    """Read a client: an address, and behind it `key=value` separated by spaces.

    >>> parse_client("wss://stream.binance.com:443 source=10.0.0.2 also=ethusdt@trade+bnbusdt@trade", "b").also
    ('ethusdt@trade', 'bnbusdt@trade')

    Args:
        text: What was written; without an address the market's own.
        name: What it is called if the text does not say.

    Raises:
        ConfigError: It is not spelled so.
    """
    words = text.split()
    url = words.pop(0) if words and "=" not in words[0].partition("?")[0] else ""
    if url and not url.startswith(("ws://", "wss://")):
        raise ConfigError(f"not a websocket address: {url!r}", hint="ws://… or wss://…, without a path")
    given: dict[str, str] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or not value or key not in ("name", "source", "stream", "also"):
            raise ConfigError(
                f"{word!r} says nothing of a client", hint="name=, source=ADDRESS, stream=depth@100ms, also=STREAM+STREAM"
            )
        given[key] = value
    stream = given.get("stream", "")
    if stream and not is_depth(stream):
        raise ConfigError(f"{stream!r} is no depth stream", hint="depth@100ms, depth, depth@500ms, …")
    return Client(
        name=given.get("name", name),
        url=url.rstrip("/"),
        source=given.get("source", ""),
        stream=stream,
        also=tuple(given["also"].split("+")) if "also" in given else (),
    )


def client_streams(client: Client, symbols: Sequence[str], stream: str) -> list[str]:
    """Return everything a client subscribes to, the compared streams first.

    >>> client_streams(Client("a", also=("x@trade",)), ["BTCUSDT"], "depth@100ms")
    ['btcusdt@depth@100ms', 'x@trade']
    """
    return [*(stream_name(symbol, client.stream or stream) for symbol in symbols), *client.also]
