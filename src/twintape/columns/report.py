"""A comparison as one document: every stream with its pairs, sums over all streams, and what it means in words."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from msgspec import Struct

from twintape.columns.compare import LEVELS, Pair, PairComparison
from twintape.columns.heard import SLICE_WINDOWS, Keep, gather, in_memory, slices
from twintape.columns.lines import Chunk
from twintape.columns.redundancy import Redundancy, Worth
from twintape.columns.statistics import Rate, rate
from twintape.core.markets import Market

__all__ = [
    "FORMAT",
    "GRAVE",
    "ClockBounds",
    "LineInfo",
    "Report",
    "StreamReport",
    "Total",
    "compare_stream",
    "headline",
    "make_report",
    "meaning",
]

FORMAT = "twintape-compare/1"
GRAVE = ("conflict", "omitted")
"""Findings that say that a line is wrong."""

_MEANING = {
    "nothing": "NOTHING TO COMPARE: the lines have no windows in common",
    "conflict": "CONFLICT: other quantities for the same ids. One of the lines is wrong",
    "omitted": "OMITTED LEVELS: one line leaves out levels that the other mentions for the same ids",
    "shifted": "SHIFTED WINDOWS: the same updates, cut elsewhere nearly every time",
    "recut": "RE-CUT WINDOWS: the same updates, now and then cut elsewhere",
    "missing": "MISSING: updates that only one of the lines heard",
    "printed": "PRINTED OTHERWISE: the same ids and levels in another text",
    "restamped": "RESTAMPED: the same but for the event time E",
    "": "IDENTICAL: the same bytes",
}


class ClockBounds(Struct, frozen=True):
    """How far a line's receive times can be trusted: least and greatest known offset of its clock, and the greatest bound of the error."""

    samples: int
    offset_ns_min: int | None
    offset_ns_max: int | None
    error_ns_max: int | None


class LineInfo(Struct, frozen=True):
    """A line: its name, where it comes from (an address or a place in a store), and its clock, if anything is known of that."""

    name: str
    source: str
    clock: ClockBounds | None = None


class StreamReport(Struct, frozen=True):
    """One stream of one symbol: every pair of lines, and what they are worth together."""

    symbol: str
    stream: str
    pairs: list[Pair]
    redundancy: Redundancy | None


class Total(Struct, frozen=True):
    """A pair of lines over all streams.

    Attributes:
        a: The first line; `b` the second.
        findings: All findings of all streams, the gravest first; see `compare.findings`.
        streams: How many streams have something to compare; `differing` names those that have a finding.
        levels: As in `Pair`, summed up.
        first_a: Windows the first line heard first; `first_b` the second.
    """

    a: str
    b: str
    findings: list[str]
    streams: int
    differing: list[str]
    windows: int
    levels: dict[str, Rate]
    split: int
    merge: int
    shift: int
    cut_a: int
    omitted_by_a: int
    omitted_by_b: int
    conflicts: int
    undecided: int
    missing_in_a: int
    missing_in_b: int
    first_a: int
    first_b: int


class Report(Struct, frozen=True):
    """Everything: see docs/compare.md.

    Attributes:
        format: `twintape-compare/1`.
        version: Of the program.
        mode: `live` or `recorded`.
        market: Of all streams.
        from_us: `E` of the first window; `to_us` of the last; null without any.
        lines: Who was compared.
        totals: Each pair over all streams.
        streams: Each stream.
    """

    format: str
    version: str
    mode: str
    market: str
    from_us: int | None
    to_us: int | None
    lines: list[LineInfo]
    totals: list[Total]
    streams: list[StreamReport]


def compare_stream(
    symbol: str,
    stream: str,
    lines: Sequence[tuple[str, Sequence[Chunk]]],
    market: Market,
    keep: Keep = in_memory,
    *,
    windows: int = SLICE_WINDOWS,
) -> StreamReport:
    """Compare all lines of one stream, each with each.

    Args:
        symbol: For the report.
        stream: Likewise.
        lines: Name and chunks of each.
        market: How frames are read.
        keep: Where to put what is known of each window; with the default memory grows with their number.
        windows: About how many of each line are in memory at a time.

    Raises:
        CorruptionError: A chunk is damaged.
        WireError: A number is beyond 64 bits.
    """
    gathered = gather(lines, market, keep)
    worth = Worth(gathered)
    places = list(itertools.combinations(range(len(gathered)), 2))
    pairs = {(one, two): PairComparison(gathered[one], gathered[two], market) for one, two in places}
    for heard, until in slices(gathered, windows):
        worth.add(heard, until)
        for (one, two), pair in pairs.items():
            pair.add(heard[one], heard[two])
    again = [place for place, pair in pairs.items() if pair.unsettled]
    pairs |= {(one, two): PairComparison(gathered[one], gathered[two], market, whole=True) for one, two in again}
    for heard, _ in slices(gathered, windows) if again else ():
        for one, two in again:
            pairs[one, two].add(heard[one], heard[two])
    return StreamReport(symbol, stream, [pair.result() for pair in pairs.values()], worth.result())


def make_report(version: str, mode: str, market: Market, lines: Sequence[LineInfo], streams: Sequence[StreamReport]) -> Report:
    """Put streams together."""
    spans = [(one.redundancy.from_us, one.redundancy.to_us) for one in streams if one.redundancy is not None]
    names = [(one.name, two.name) for place, one in enumerate(lines) for two in lines[place + 1 :]]
    return Report(
        format=FORMAT,
        version=version,
        mode=mode,
        market=str(market),
        from_us=min((start for start, _ in spans), default=None),
        to_us=max((stop for _, stop in spans), default=None),
        lines=list(lines),
        totals=[_total(a, b, streams) for a, b in names],
        streams=list(streams),
    )


def _total(a: str, b: str, streams: Sequence[StreamReport]) -> Total:
    pairs = [(one, pair) for one in streams for pair in one.pairs if (pair.a, pair.b) == (a, b)]
    met = [pair for _, pair in pairs if pair.windows_a]
    known = [name for name in _MEANING if any(name in pair.findings for pair in met)]

    def total(field: str) -> int:
        return sum(getattr(pair, field) for pair in met)

    levels = {
        name: rate(sum(pair.levels[name].count for pair in met), sum(pair.levels[name].of for pair in met)) for name in LEVELS
    }
    return Total(
        a=a,
        b=b,
        findings=known if met else ["nothing"],
        streams=len(met),
        differing=[f"{one.symbol} {one.stream}" for one, pair in pairs if pair.windows_a and pair.findings],
        windows=total("windows_a"),
        levels=levels,
        split=total("split"),
        merge=total("merge"),
        shift=total("shift"),
        cut_a=total("cut_a"),
        omitted_by_a=total("omitted_by_a"),
        omitted_by_b=total("omitted_by_b"),
        conflicts=total("conflicts"),
        undecided=total("undecided"),
        missing_in_a=sum(pair.missing_in_a.windows for pair in met),
        missing_in_b=sum(pair.missing_in_b.windows for pair in met),
        first_a=sum(pair.arrival.first_a for pair in met),
        first_b=sum(pair.arrival.first_b for pair in met),
    )


def headline(findings: Sequence[str]) -> str:
    """Return the verdict in a line: the gravest finding.

    >>> headline([])
    'IDENTICAL: the same bytes'
    """
    return _MEANING[findings[0] if findings else ""]


def meaning(finding: str) -> str:
    """Return what a finding means, in a line."""
    return _MEANING[finding]
