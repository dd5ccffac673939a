"""How streams are asked for, in the URL while they fit there and by messages otherwise, and whether the server has got them.

An acknowledgement proves nothing, so the server is asked what it has (LIST_SUBSCRIPTIONS): soon after every change, and then from time to time.

Source: Binance, Spot API docs, web-socket-streams.md "Live Subscribing/Unsubscribing to streams" (2026-07-21); answers come with their keys in
either order, and errors wrapped in `error`.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from twintape.core.budget import SECOND_NS
from twintape.core.markets import Market, stream_url
from twintape.core.wire import subscribe_frame

__all__ = ["Answer", "Subscription", "connection_url", "subscription_messages"]

URL_CHARACTERS_MAX = 4000
"""Longer URLs are at the server's mercy; then the streams are subscribed by message."""
SUBSCRIBE_BYTES_MAX = 4000
"""A client message of about 8,000 characters has been seen to drop the connection."""
LIST_FIRST_NS = 5 * SECOND_NS
"""So long after the last change was answered the server is asked what it has …"""
LIST_EVERY_NS = 900 * SECOND_NS
"""… and again after so long without a change."""
LISTS_MAX = 8
"""A server that answers none of so many is asked as if for the first time."""
ANSWER_BYTES_MAX = 1 << 17
"""A list of 1,024 streams takes half of this; what is longer is no answer."""
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


@dataclass(frozen=True, slots=True)
class Answer:
    """What the server said to a message of ours.

    Attributes:
        refused: It refused to change the subscription, or to list it.
        listing: It was asked for the list.
        missing: Streams that we asked for and the server does not have.
        extra: Streams that the server has and nobody asked for.
    """

    refused: bool = False
    listing: bool = False
    missing: tuple[str, ...] = ()
    extra: tuple[str, ...] = ()


class Subscription:
    """What one connection has asked for and what is still to be said; the caller sends `next_message` while its budget allows.

    Args:
        market: Whose rules hold.
        streams: Stream names.
        base: Websocket address instead of the market's own.

    Attributes:
        url: What to open.
    """

    def __init__(self, market: Market, streams: Sequence[str], *, base: str | None = None) -> None:
        self.url, messages = connection_url(market, streams, base=base)
        self._streams = set(streams)
        self._waiting = deque(messages)
        self._last_id = len(messages)
        self._unanswered: set[int] = set()
        self._list_id: int | None = None  # of the list that no change has overtaken
        self._list_ids: set[int] = set()
        self._list_at_ns = 0
        self._misses = 0
        self._lists = True

    @property
    def waiting(self) -> bool:
        """Whether something is to be sent."""
        return bool(self._waiting)

    @property
    def answered(self) -> bool:
        """Whether every change was sent and answered."""
        return not self._waiting and not self._unanswered

    def change(self, added: Sequence[str], removed: Sequence[str], now_ns: int) -> None:
        """Ask for further streams, and for some no longer."""
        self._streams = (self._streams | set(added)) - set(removed)
        self._say("SUBSCRIBE", added)
        self._say("UNSUBSCRIBE", removed)
        self._list_id = None
        self._list_at_ns = now_ns + LIST_FIRST_NS

    def _say(self, method: str, streams: Sequence[str]) -> None:
        messages = subscription_messages(streams, self._last_id + 1, method)
        self._waiting.extend(messages)
        self._last_id += len(messages)

    def opened(self, now_ns: int) -> None:
        """Take the news that the connection is open."""
        self._list_at_ns = now_ns + LIST_FIRST_NS

    def look(self, now_ns: int) -> None:
        """Have the server asked for its list if it is time; called twice a second."""
        if not self.answered:
            self._list_at_ns = max(self._list_at_ns, now_ns + LIST_FIRST_NS)  # the answer would know nothing of the change
        elif self._lists and now_ns >= self._list_at_ns:
            self._list_at_ns = now_ns + LIST_EVERY_NS
            self._last_id += 1
            self._list_id = self._last_id
            self._list_ids = {*self._list_ids, self._last_id} if len(self._list_ids) < LISTS_MAX else {self._last_id}
            self._waiting.append(b'{"method":"LIST_SUBSCRIPTIONS","id":%d}' % self._list_id)

    def next_message(self) -> bytes:
        """Return the next message; from now on its answer is awaited."""
        message = self._waiting.popleft()
        request_id = int(json.loads(message)["id"])
        if request_id not in self._list_ids:
            self._unanswered.add(request_id)
        return message

    def answer(self, payload: bytes, now_ns: int) -> Answer | None:
        """Return what a frame without a stream answers, or None if it is no answer; streams that are missing are asked for again."""
        if len(payload) > ANSWER_BYTES_MAX or b'"id"' not in payload:
            return None
        try:
            said = json.loads(payload)
        except (ValueError, RecursionError):
            return None
        if not isinstance(said, dict) or not ("result" in said or "error" in said):
            return None
        request_id, result = said.get("id"), said.get("result")
        if isinstance(request_id, int):
            self._unanswered.discard(request_id)
            if request_id in self._list_ids:
                self._list_ids.remove(request_id)
                return self._compare(result, now_ns) if request_id == self._list_id else Answer()
        return Answer(refused="error" in said or result is not None)

    def _compare(self, result: object, now_ns: int) -> Answer:
        if not isinstance(result, list):
            self._lists = False
            return Answer(listing=True, refused=True)
        has = {name for name in result if isinstance(name, str)}
        missing, extra = tuple(sorted(self._streams - has)), tuple(sorted(has - self._streams))
        self._misses = self._misses + 1 if missing else 0
        if missing:
            self._say("SUBSCRIBE", missing)
            # Soon, and less and less often if it stays so.
            self._list_at_ns = now_ns + min(LIST_EVERY_NS, LIST_FIRST_NS << min(self._misses - 1, 16))
        return Answer(listing=True, missing=missing, extra=extra)
