"""Lines of one stream for comparisons: made by hand, and as gateways of one made-up exchange say them."""

import functools
import json

from twintape.columns.heard import gather, slices
from twintape.columns.lines import Chunk
from twintape.columns.report import compare_stream
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


def lines(*frames_of, **keywords):
    """Lines named a, b, c, … of chunks of some frames: name and chunks."""
    return [(chr(97 + number), chunks_of(frames, **keywords)) for number, frames in enumerate(frames_of)]


def chunks_of(frames, start_ns=10**18, size=40, **keywords):
    return [chunk(frames[start : start + size], start_ns + start, **keywords) for start in range(0, max(1, len(frames)), size)]


def hear(named, market):
    """Read lines: what is known of each, and its windows in one slice."""
    known = gather(named, market)
    ((heard, _),) = slices(known)
    return list(zip(known, heard, strict=True))


def compared(named, market, *, same_in_slices=True):
    """Compare lines: the stream's report, which does not depend on how the ids are sliced unless lines stand together nowhere for long."""
    whole, sliced = (compare_stream("BTCUSDT", "depth", named, market, windows=windows) for windows in (1 << 15, 40))
    assert whole == sliced or not same_in_slices
    return whole


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


def text_lines(*texts):
    """Lines named a, b, c, … of texts cut into chunks of some lines."""
    made = []
    for number, text in enumerate(texts):
        rows = text.splitlines(keepends=True)
        parts = [b"".join(rows[start : start + 60]) for start in range(0, len(rows), 60)]
        made.append((chr(97 + number), [Chunk("", "aaaaaaaa-1", 0, "", lambda part=part: part) for part in parts]))
    return made
