"""A whole market's traffic from a seed, cheap enough to make that the load is on whoever listens.

Every symbol walks through one pool of bodies made beforehand, from a place of its own, so that a frame costs little more than copying it
with its ids and time; within a segment of one symbol no body comes twice. Sizes are those of a market: most frames have a few levels, some
hundreds. Spacing is that of `@100ms` streams: each symbol has its own phase on a grid of 100 ms, and not every window holds an event.

The books are exact all the same: levels state absolute quantities, so the last round through the pool says all there is to say.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from twintape.core.errors import ConfigError
from twintape.core.markets import Market
from twintape.core.venue import Happening, SymbolInfo, Venue, VenueMessage, render_snapshot
from twintape.core.wire import DepthSnapshot, Level, stream_name

__all__ = ["LoadConfig", "LoadSource", "LoadVenue"]

_MS = 1_000_000
_SECOND = 1_000_000_000
_STREAM = "depth@100ms"
_WINDOW_NS = 100 * _MS
_CYCLE_WINDOWS = 100
"""After so many windows each symbol's events come at the same places again: a cycle takes ten seconds."""
_BODIES_COUNT = 4096
_LADDER_TICKS = 1000
"""Levels lie within so many ticks of the middle."""
_LEVELS_SIGMA = 1.1
"""How uneven the numbers of levels are: the logarithm is normal with this deviation, so the mean is 1.8 medians."""
_LEVELS_MAX = 500
_LEVEL_BYTES = 29.5
_FIRST_UPDATE_ID = 10_000_000_000
_PRICE_DECIMALS = 2
_BID, _ASK = 0, 1


@dataclass(frozen=True, slots=True)
class LoadConfig:
    """What to make.

    Attributes:
        market: The market whose shapes to follow.
        seed: Everything follows from it.
        symbols_count: How many symbols; together at most ten events a second each.
        frames_per_second: Of all symbols together; some speak twice as often as others.
        frame_bytes: Mean size of a frame, wrapper included.
        messages_count: How many frames in all; None for ever.
        start_ns: The exchange's time at the beginning.
        tick_ns: Events fall on a grid of this width, so that the sender wakes up for several at a time.
    """

    market: Market
    seed: int
    symbols_count: int = 2500
    frames_per_second: float = 20_000.0
    frame_bytes: int = 600
    messages_count: int | None = None
    start_ns: int = 1_795_305_600 * _SECOND
    tick_ns: int = _MS


@dataclass(frozen=True, slots=True)
class _Body:
    """What an event says of the book, and how it is printed; `ids_count` changes are numbered in it."""

    text: bytes
    sides: tuple[dict[int, str], dict[int, str]]  # ticks from the middle → quantity
    ids_count: int


class _Symbol:
    """One symbol: where it stands in its walk through the pool."""

    __slots__ = ("at", "first_body", "name", "stream", "update_id", "wrapper")

    def __init__(self, market: Market, position: int, first_body: int) -> None:
        coin = f"L{position:04d}"
        self.name = f"{coin}USD_PERP" if market is Market.COINM else f"{coin}USDT"
        self.stream = stream_name(self.name, _STREAM)
        self.wrapper = b'{"stream":"' + self.stream.encode() + b'","data":'
        self.first_body = first_body
        self.at = 0  # events so far
        self.update_id = _FIRST_UPDATE_ID + position


def _quantity(rng: random.Random) -> str:
    return f"{rng.expovariate(0.02):.3f}00000"


def _price(ticks: int) -> str:
    whole, fraction = divmod(_LADDER_TICKS * 5 + ticks, 10**_PRICE_DECIMALS)
    return f"{whole}.{fraction:02d}000000"


def _body(rng: random.Random, levels_count: int, market: Market) -> _Body:
    sides: tuple[dict[int, str], dict[int, str]] = {}, {}
    while len(sides[_BID]) + len(sides[_ASK]) < levels_count:
        side = rng.randrange(2)
        distance = 1 + min(int(rng.expovariate(0.004)), _LADDER_TICKS - 1)
        # The best level of each side never goes, so that no book is ever empty.
        quantity = "0.00000000" if distance > 1 and rng.random() < 0.3 else _quantity(rng)
        sides[side][-distance if side == _BID else distance] = quantity
    bids, asks = (_printed(side, reverse=number == _BID and market is Market.SPOT) for number, side in enumerate(sides))
    return _Body(b',"b":[' + bids + b'],"a":[' + asks + b"]}", sides, levels_count)


def _printed(side: dict[int, str], *, reverse: bool) -> bytes:
    return ",".join(f'["{_price(ticks)}","{side[ticks]}"]' for ticks in sorted(side, reverse=reverse)).encode()


def _make_bodies(config: LoadConfig, rng: random.Random) -> list[_Body]:
    wrapping = 150 if config.market is Market.SPOT else 200
    mean = max(1.0, (config.frame_bytes - wrapping) / _LEVEL_BYTES)
    draws = [rng.lognormvariate(0.0, _LEVELS_SIGMA) for _ in range(_BODIES_COUNT)]
    scale = mean * len(draws) / sum(draws)
    return [_body(rng, max(1, min(_LEVELS_MAX, round(scale * draw))), config.market) for draw in draws]


def _windows(config: LoadConfig, rng: random.Random) -> list[list[int]]:
    """Return for each symbol the windows of a cycle that hold an event."""
    wanted = round(config.frames_per_second * _CYCLE_WINDOWS * _WINDOW_NS / _SECOND)
    chosen: list[list[int]] = [[] for _ in range(config.symbols_count)]
    weights = [rng.uniform(1.0, 2.0) for _ in range(config.symbols_count)]
    scale = wanted / sum(weights)
    counts = [min(_CYCLE_WINDOWS, int(weight * scale)) for weight in weights]
    missing = wanted - sum(counts)
    while missing:  # what rounding and the ceiling have left out goes to those that have room
        room = [position for position, count in enumerate(counts) if count < _CYCLE_WINDOWS]
        for position in room[:missing]:
            counts[position] += 1
        missing -= len(room[:missing])
    for own, count in zip(chosen, counts, strict=True):
        own.extend(rng.sample(range(_CYCLE_WINDOWS), count))
    return chosen


class LoadSource:
    """A whole market's depth streams.

    Args:
        config: What to make.

    Raises:
        ConfigError: More frames than the symbols can say, or nothing.
    """

    def __init__(self, config: LoadConfig) -> None:
        most = config.symbols_count * _SECOND / _WINDOW_NS
        if not 0 < config.frames_per_second <= most:
            raise ConfigError(
                f"{config.frames_per_second:g} frames/s of {config.symbols_count} symbols",
                hint=f"over 0 and at most {most:g}: ten a second and symbol",
            )
        self.config = config
        rng = random.Random(f"{config.seed}:{config.market}")  # noqa: S311 - reproducible, not secret
        self._bodies = _make_bodies(config, rng)
        self._live = self._make_symbols()
        self._by_name = {symbol.name: symbol for symbol in self._live}
        self._agenda = self._make_agenda(rng)
        start_us = None if config.market is Market.SPOT else config.start_ns // 1000
        self._symbols = tuple(
            SymbolInfo(symbol.name, _PRICE_DECIMALS, 3, DepthSnapshot(symbol.update_id, start_us, start_us, (), ()))
            for symbol in self._live
        )

    @property
    def market(self) -> Market:
        """The market."""
        return self.config.market

    @property
    def symbols(self) -> Sequence[SymbolInfo]:
        """All symbols; their books begin empty."""
        return self._symbols

    @property
    def total(self) -> int | None:
        """How many frames there will be, or None."""
        return self.config.messages_count

    def _make_symbols(self) -> list[_Symbol]:
        # Places in the pool far enough apart that neighbours in time are not neighbours in it.
        return [
            _Symbol(self.config.market, position, position * 1031 % _BODIES_COUNT)
            for position in range(self.config.symbols_count)
        ]

    def _make_agenda(self, rng: random.Random) -> list[tuple[int, int]]:
        """Return `(offset in ns, symbol)` of every event of a cycle, in order."""
        tick_ns, agenda = self.config.tick_ns, []
        for position, windows in enumerate(_windows(self.config, rng)):
            phase_ns = rng.randrange(_WINDOW_NS)
            agenda += [((window * _WINDOW_NS + phase_ns) // tick_ns * tick_ns, position) for window in windows]
        agenda.sort()
        return agenda

    def happenings(self) -> Iterator[Happening]:
        """Return an iterator over the frames in order of time; the books of `book` stand where the one last made stands."""
        self._live = self._make_symbols()
        self._by_name = {symbol.name: symbol for symbol in self._live}
        return islice(self._endless(), self.config.messages_count)

    def _endless(self) -> Iterator[VenueMessage]:
        market, bodies, symbols = self.config.market, self._bodies, self._live
        names = [symbol.name.encode() for symbol in symbols]
        spot = market is Market.SPOT
        cycle_ns = self.config.start_ns
        while True:
            for offset_ns, position in self._agenda:
                time_ns = cycle_ns + offset_ns
                symbol = symbols[position]
                body = bodies[(symbol.first_body + symbol.at) % _BODIES_COUNT]
                symbol.at += 1
                before = symbol.update_id
                symbol.update_id = after = before + body.ids_count
                if spot:
                    data = b'{"e":"depthUpdate","E":%d,"s":"%b","U":%d,"u":%d%b' % (
                        time_ns // _MS,
                        names[position],
                        before + 1,
                        after,
                        body.text,
                    )
                else:
                    data = b'{"e":"depthUpdate","E":%d,"T":%d,"s":"%b","ps":"%b","U":%d,"u":%d,"pu":%d%b' % (
                        time_ns // _MS,
                        time_ns // _MS,
                        names[position],
                        names[position],
                        before + 1,
                        after,
                        before,
                        body.text,
                    )
                yield VenueMessage(time_ns, market, symbol.stream, data, symbol.wrapper + data + b"}")
            cycle_ns += _CYCLE_WINDOWS * _WINDOW_NS

    def book(self, symbol: str, limit: int) -> DepthSnapshot | None:
        """Return a symbol's book after all that was yielded, or None for an unknown symbol."""
        live = self._by_name.get(symbol)
        if live is None:
            return None
        sides: tuple[dict[int, str], dict[int, str]] = {}, {}
        for number in range(max(0, live.at - _BODIES_COUNT), live.at):
            body = self._bodies[(live.first_body + number) % _BODIES_COUNT]
            for side, changes in zip(sides, body.sides, strict=True):
                side.update(changes)
        return DepthSnapshot(live.update_id, None, None, _levels(sides[_BID], -1, limit), _levels(sides[_ASK], 1, limit))


def _levels(side: dict[int, str], sign: int, limit: int) -> tuple[Level, ...]:
    there = sorted(ticks * sign for ticks, quantity in side.items() if float(quantity))
    return tuple((_price(ticks * sign), side[ticks * sign]) for ticks in there[:limit])


class LoadVenue(Venue):
    """The market of a `LoadSource`: it answers from the source's books instead of keeping its own.

    Args:
        source: Where everything comes from; its `happenings` are played once.
    """

    def __init__(self, source: LoadSource) -> None:
        super().__init__(source)
        self._source = source

    def depth(self, symbol: str, limit: int, *, now_ms: int, until_ns: int | None = None) -> bytes | None:  # noqa: ARG002
        """Return the body of a snapshot as of now, or None for an unknown symbol; answers that lag are not made here."""
        snapshot = self._source.book(symbol, limit)
        return None if snapshot is None else render_snapshot(self.market, symbol, snapshot, now_ms)
