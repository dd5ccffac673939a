"""The heads of depth frames: what is to be known of one before its levels, by one match.

Nearly every frame has one, when it is heard and when it is sealed; of one that has none `core.wire` tells what it is, at leisure.

Source: Binance, Spot API docs, web-socket-streams.md (2026-07-21); Derivatives docs, Diff. Book Depth Streams (2026-05-28);
frames of August 2026 with `ps` and `st`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

__all__ = ["NO_HEAD", "Head", "depth_head", "read_heads"]

# Spelled so that nothing is ever tried twice (`}+`), and with ranges of digits, which are found faster than the class of them.
_NAME, _NUMBER = rb'"[^"]{1,128}+"', rb"[0-9]{1,18}+"
_DEPTH_HEAD = (
    rb'\{"stream":"([^"]{1,128}+)","data":\{"e":"depthUpdate","E":([0-9]{13}),'
    rb'(?:"T":[0-9]{1,16}+,)?"s":%b,(?:"ps":%b,)?(?:"st":[0-9]{1,16}+,)?'
    rb'"U":(%b),"u":(%b),(?:"pu":(-?%b),)?"[ab]":' % (_NAME, _NAME, _NUMBER, _NUMBER, _NUMBER)
)
_LINE_HEAD = re.compile(rb"([1-8][0-9]{0,18}+) " + _DEPTH_HEAD)
_HOT_COUNT = 256
"""So many lines at a time: looking at each twice while it is in the processor's cache is cheaper than coming back to it."""

depth_head = re.compile(_DEPTH_HEAD).match
"""Match a depth frame as all combined streams have printed it since 2019: stream, event time in ms, `U`, `u` and `pu` or None."""
Head = tuple[bytes | None, ...]
"""Of a line: its receive time and what `depth_head` finds behind it."""
NO_HEAD: Head = (None,) * 6
"""The head of any other line."""


def read_heads(texts: Sequence[bytes]) -> list[Head]:
    """Return the heads of lines; the very object `NO_HEAD` for each that looks different.

    A line with a head has the form of a line, if all its text is recordable.

    >>> read_heads([b'7 {"stream":"x@depth","data":{"e":"depthUpdate","E":1725382961514,"s":"X","U":8,"u":9,"b":[],"a":[]}}', b"8 []"])
    [(b'7', b'x@depth', b'1725382961514', b'8', b'9', None), (None, None, None, None, None, None)]
    """
    heads: list[Head] = []
    for start in range(0, len(texts), _HOT_COUNT):
        found = map(_LINE_HEAD.match, texts[start : start + _HOT_COUNT])
        heads += [NO_HEAD if head is None else head.groups() for head in found]
    return heads
