"""Recordings as a source of the exchange simulator: lines `<receive time> <frame>` in, what happened out.

A tape is read twice: `survey` finds its symbols, its first snapshots and its length; `TapeSource` then plays it in a stream, however
long it is. Frames keep every byte.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from twintape.core.errors import ConfigError, WireError
from twintape.core.markets import Market
from twintape.core.venue import Happening, RecordedBook, SymbolInfo, VenueMessage
from twintape.core.wire import (
    OTHER,
    SESSION,
    SHUTDOWN,
    SNAPSHOT,
    TWINTAPE,
    DepthSnapshot,
    decode_depth,
    decode_snapshot,
    depth_ids,
    is_depth,
    recorded_snapshot,
    split_stream,
    stream_of,
    unwrap,
)

__all__ = ["TapeSource", "parse_line"]

_WRAPPER = b'{"stream":"'
_MICROSECOND_DIGITS = 16
_NANOSECOND_DIGITS = 19
_UNSENT = (OTHER, SHUTDOWN, TWINTAPE)

Lines = Callable[[], Iterable[bytes]]
"""Opens one recording from its start: lines, with or without the newline."""


def parse_line(line: bytes) -> tuple[int, bytes] | None:
    """Split a line into its receive time in nanoseconds and its frame; None if it is no such line.

    >>> parse_line(b'1721749182850494 {"e":1}')
    (1721749182850494000, b'{"e":1}')
    """
    time, space, frame = line.rstrip(b"\r\n").partition(b" ")
    if not space or not frame or not time.isdigit() or len(time) > _NANOSECOND_DIGITS:
        return None
    return int(time) * (1000 if len(time) <= _MICROSECOND_DIGITS else 1), frame


@dataclass(slots=True)
class _Found:
    """What the survey knows of one symbol."""

    snapshot: DepthSnapshot | None = None
    book_stream: str | None = None
    first_prev_update_id: int | None = None
    first_frame: bytes | None = None


@dataclass(slots=True)
class _Survey:
    symbols: dict[str, _Found] = field(default_factory=dict)
    bare: list[DepthSnapshot] = field(default_factory=list)
    total: int = 0


class TapeSource:
    """Recordings of one market, played in order of receive time.

    Args:
        market: What they are recordings of.
        recordings: Each opens one; within each the order of lines is kept, even where receive times step back.

    Raises:
        ConfigError: A recording is empty, or a bare REST body could belong to several symbols.
    """

    def __init__(self, market: Market, recordings: Sequence[Lines]) -> None:
        self._market = market
        self._recordings = tuple(recordings)
        survey = self._survey()
        if not survey.total:
            raise ConfigError(f"no frame of any stream in {len(self._recordings)} recordings of {market}")
        named = [symbol for symbol, found in survey.symbols.items() if found.book_stream]
        self._bare_symbol = named[0] if len(named) == 1 else None
        if survey.bare:
            if self._bare_symbol is None:
                raise ConfigError(f"a bare REST body in a recording of {len(named)} symbols: {', '.join(named)}")
            found = survey.symbols[self._bare_symbol]
            found.snapshot = found.snapshot or survey.bare[0]
        self._total = survey.total
        self._symbols = tuple(_symbol_info(market, symbol, found) for symbol, found in survey.symbols.items())

    @property
    def market(self) -> Market:
        """The market."""
        return self._market

    @property
    def symbols(self) -> Sequence[SymbolInfo]:
        """All symbols in order of first appearance."""
        return self._symbols

    @property
    def total(self) -> int:
        """How many frames will be sent."""
        return self._total

    def happenings(self) -> Iterator[Happening]:
        """Yield frames and recorded snapshots, merged by receive time."""
        for time_ns, frame in heapq.merge(*(_timed(lines) for lines in self._recordings), key=lambda pair: pair[0]):
            happening = self._happening(time_ns, frame)
            if happening is not None:
                yield happening

    def _happening(self, time_ns: int, frame: bytes) -> Happening | None:
        name = stream_of(frame, snapshot_symbol=self._bare_symbol)
        symbol, stream = split_stream(name)
        if stream == SNAPSHOT:
            snapshot = _snapshot(frame)
            return None if snapshot is None else RecordedBook(time_ns, self._market, symbol, snapshot)
        if name in _UNSENT:
            return None
        return VenueMessage(time_ns, self._market, name, _data(frame), frame if frame.startswith(_WRAPPER) else None)

    def _survey(self) -> _Survey:
        survey = _Survey()
        for lines in self._recordings:
            for _, frame in _timed(lines):
                self._look(survey, frame)
        return survey

    def _look(self, survey: _Survey, frame: bytes) -> None:
        name = stream_of(frame)
        symbol, stream = split_stream(name)
        if name == OTHER or stream == SNAPSHOT:
            snapshot = _snapshot(frame)
            if snapshot is not None and name == OTHER:
                survey.bare.append(snapshot)
            elif snapshot is not None:
                found = survey.symbols.setdefault(symbol, _Found())
                found.snapshot = found.snapshot or snapshot
            return
        if name in _UNSENT:
            return
        survey.total += 1
        if symbol == SESSION:
            return
        found = survey.symbols.setdefault(symbol, _Found())
        if found.book_stream is None and is_depth(stream):
            interval = depth_ids(frame, self._market)
            if interval is not None:
                found.book_stream, found.first_prev_update_id, found.first_frame = name, interval[0], frame


def _timed(lines: Lines) -> Iterator[tuple[int, bytes]]:
    # The greatest time so far stands in for a smaller one, so that merging never reorders the lines of one recording.
    latest_ns = 0
    for line in lines():
        parsed = parse_line(line)
        if parsed is not None:
            latest_ns = max(latest_ns, parsed[0])
            yield latest_ns, parsed[1]


def _data(frame: bytes) -> bytes:
    try:
        return unwrap(frame)
    except WireError:
        return frame  # a damaged wrapper: whoever listens gets the bytes as they were


def _snapshot(frame: bytes) -> DepthSnapshot | None:
    recorded = recorded_snapshot(frame)
    if recorded is None or recorded.status != 200:
        return None
    try:
        return decode_snapshot(recorded.body)
    except WireError:
        return None


def _decimals(numbers: Iterable[str]) -> int:
    return max((len(number.partition(".")[2].rstrip("0")) for number in numbers), default=0)


def _symbol_info(market: Market, symbol: str, found: _Found) -> SymbolInfo:
    snapshot = found.snapshot
    if snapshot is None:
        # Without a snapshot the book begins empty where the stream begins; REST then knows what the stream has told.
        snapshot = DepthSnapshot(found.first_prev_update_id if found.first_prev_update_id is not None else -1, None, None, (), ())
    levels = [*snapshot.bids, *snapshot.asks]
    if not levels and found.first_frame is not None:
        try:
            event = decode_depth(found.first_frame, market)
            levels = [*event.bids, *event.asks]
        except WireError:
            levels = []
    return SymbolInfo(
        symbol=symbol,
        price_decimals=_decimals(price for price, _ in levels),
        quantity_decimals=_decimals(quantity for _, quantity in levels),
        snapshot=snapshot,
        book_stream=found.book_stream,
    )
