"""Lines of one stream for comparisons: made by hand, and as gateways of one made-up exchange say them."""

import functools
import json

from twintape.columns.heard import hear
from twintape.columns.lines import Chunk
from twintape.core.gateway import GatewayOptions
from twintape.core.markets import Market
from twintape.core.recut import GatewayView
from twintape.core.synthetic import SyntheticConfig, SyntheticSource
from twintape.core.wire import is_depth, split_stream

T0_MS = 1_795_305_600_000


def frame(prev, final, bids=(), asks=(), *, market=Market.SPOT, event_ms=None, **more):
    """A depth event of the ids `(prev, final]`."""
    content = {"e": "depthUpdate", "E": event_ms or T0_MS + final, "s": "BTCUSDT", "U": prev + 1, "u": final}
    if market is not Market.SPOT:
        content |= {"T": content["E"], "pu": prev}
    content |= {"b": [[f"{p}.0", f"{q}.0"] for p, q in bids], "a": [[f"{p}.0", f"{q}.0"] for p, q in asks]} | more
    return json.dumps(content, separators=(",", ":")).encode()


def chunk(frames, start_ns=10**18, connection="aaaaaaaa-1", step_ns=1):
    text = b"".join(b"%d %b\n" % (start_ns + step_ns * number, one) for number, one in enumerate(frames))
    return Chunk("", connection, 0, "", lambda: text)


def lines(*frames_of, market=Market.SPOT, **keywords):
    """Lines named a, b, c, … of one chunk each."""
    return hear([(chr(97 + number), [chunk(frames, **keywords)]) for number, frames in enumerate(frames_of)], market)


@functools.cache
def _source(market, count):
    config = SyntheticConfig(
        market, 3, symbols_count=1, events_per_second=9.0, messages_count=count, levels=40, book_tickers=False, trades=False
    )
    source = SyntheticSource(config)
    return source.symbols, list(source.happenings())


def said(market, partition, *, count=1000, rate=0.05, seed=2):
    """What one gateway says of one symbol's depth: `(time_ns, frame)`."""
    symbols, happenings = _source(market, count)
    view = GatewayView(0, GatewayOptions(partition=partition, partition_rate=rate, seed=seed), {market: symbols})
    messages = [message for happening in happenings for message in view.feed(happening)] + view.flush()
    return [(m.time_ns, m.data) for m in messages if is_depth(split_stream(m.stream)[1])]


def text_of(heard, latency_ns=0):
    """Lines of text; receive times strictly increase."""
    found, last = [], 0
    for time_ns, one in heard:
        last = max(time_ns + latency_ns, last + 1)
        found.append(b"%d %b\n" % (last, one))
    return b"".join(found)


def heard_lines(market, *texts):
    """Lines named a, b, c, … of texts cut into chunks of some hundred lines."""
    made = []
    for number, text in enumerate(texts):
        rows = text.splitlines(keepends=True)
        parts = [b"".join(rows[start : start + 700]) for start in range(0, len(rows), 700)]
        made.append((chr(97 + number), [Chunk("", "aaaaaaaa-1", 0, "", lambda part=part: part) for part in parts]))
    return hear(made, market)
