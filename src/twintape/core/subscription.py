"""How streams are asked for: in the URL while they fit there, by messages otherwise."""

from __future__ import annotations

from collections.abc import Sequence

from twintape.core.markets import Market, stream_url
from twintape.core.wire import subscribe_frame

__all__ = ["connection_url", "subscription_messages"]

URL_CHARACTERS_MAX = 4000
"""Longer URLs are at the server's mercy; then the streams are subscribed by message."""
SUBSCRIBE_BYTES_MAX = 4000
"""A client message of about 8,000 characters has been seen to drop the connection."""
_MESSAGE_FRAME_BYTES = len('{"method":"UNSUBSCRIBE","params":[],"id":}') + 19


def connection_url(market: Market, streams: Sequence[str], *, base: str | None = None) -> tuple[str, list[bytes]]:
    """Return the URL to open for `streams`, and the SUBSCRIBE messages to send when they do not fit into it.

    >>> connection_url(Market.SPOT, ["btcusdt@trade"], base="ws://x")
    ('ws://x/stream?streams=btcusdt@trade', [])
    """
    url = stream_url(market, streams, base=base)
    if len(url) <= URL_CHARACTERS_MAX:
        return url, []
    return stream_url(market, base=base), subscription_messages(streams, 1)


def subscription_messages(streams: Sequence[str], first_id: int, method: str = "SUBSCRIBE") -> list[bytes]:
    """Return the messages that change the subscription of `streams`, short enough for the server, with ids from `first_id` on.

    >>> subscription_messages([], 1), subscription_messages(["btcusdt@trade"], 7, "UNSUBSCRIBE")
    ([], [b'{"method":"UNSUBSCRIBE","params":["btcusdt@trade"],"id":7}'])
    """
    messages: list[bytes] = []
    batch: list[str] = []
    size = 0
    for stream in streams:
        grown = size + len(stream.encode()) + len('"",')
        if batch and grown >= SUBSCRIBE_BYTES_MAX - _MESSAGE_FRAME_BYTES:
            messages.append(subscribe_frame(batch, first_id + len(messages), method))
            batch, grown = [], len(stream.encode()) + len('"",')
        batch.append(stream)
        size = grown
    return [*messages, subscribe_frame(batch, first_id + len(messages), method)] if batch else messages
