"""A market made up from a seed: order books that live, cut into events the way Binance cuts them.

Every symbol has a generator of its own and changes in bursts; a burst is one or more numbered changes of single levels. Each depth
stream (there may be several speeds) collects the changes of its window: on spot windows end on a fixed grid with a phase of the
symbol's own, on futures a change opens a window, and events are over 100 ms apart. An event lists every level touched, also those that
end as they began and those created and removed within the window. Spot ids are contiguous; futures ids grow with time, in one space
for all symbols, and are chained by `pu`.

Source: measurements of public recordings, see the corpus and docs/format.md section 8; Binance, Diff. Depth Stream (2026-07-21).
"""

from __future__ import annotations

import heapq
import json
import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from twintape.core.errors import ConfigError
from twintape.core.markets import Market
from twintape.core.venue import BookChange, Happening, Piece, SymbolInfo, VenueMessage, touched_levels
from twintape.core.wire import DepthSnapshot, Level, is_depth, stream_name

__all__ = ["SyntheticConfig", "SyntheticSource"]

_MS = 1_000_000
_SECOND = 1_000_000_000
_EVENT_RATE_MAX = 9.0
"""Events per second of one symbol at 100 ms."""
_SPOT_DECIMALS = 8
_FUTURES_IDS_PER_MS = 215
_FUTURES_BASE_ID = 11_377_001_539_649
_NON_ASCII_POSITION = 2
_COINS = ("BTC", "ETH", "币安人生", "BNB", "SOL", "XRP", "TRX", "DOGE", "ADA", "LTC")
_QUIET_EVERY = 5
_QUIET_RATE = 0.02
_LEVELS_MIN = 20
_JSON = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False)
_BID, _ASK = 0, 1


@dataclass(frozen=True, slots=True)
class SyntheticConfig:
    """What to make up.

    Attributes:
        market: The market whose shapes and rules to follow.
        seed: Everything follows from it.
        symbols_count: How many symbols; the third has a Chinese name, and every fifth is quiet.
        events_per_second: Depth events of the whole market at the first speed; a symbol has at most 9.
        messages_count: How many frames in all; None for ever.
        start_ns: The exchange's time at the beginning.
        depth_streams: The speeds: `depth@100ms`, `depth`, …
        levels: Levels a side to begin with.
        integration_fields: Whether futures frames have `ps` and `st`, as they do since 2026-06-30.
        book_tickers: Whether to publish `bookTicker`.
        trades: Whether to publish `trade`.
    """

    market: Market
    seed: int
    symbols_count: int = 10
    events_per_second: float = 50.0
    messages_count: int | None = None
    start_ns: int = 1_795_305_600 * _SECOND
    depth_streams: tuple[str, ...] = ("depth@100ms",)
    levels: int = 200
    integration_fields: bool = True
    book_tickers: bool = True
    trades: bool = True


def _period_ms(market: Market, stream: str) -> int:
    if stream == "depth":
        return 1000 if market is Market.SPOT else 250
    return int(stream.removeprefix("depth@").removesuffix("ms"))


@dataclass(slots=True)
class _Window:
    """The changes one depth stream has not yet published."""

    stream: str
    period_ns: int
    prev_update_id: int
    pieces: list[Piece] = field(default_factory=list)
    last_change_ns: int = 0
    last_sent_ns: int = 0


class _Symbol:
    """One symbol: its book in ticks and steps, its ids, its windows."""

    def __init__(self, config: SyntheticConfig, position: int, rate: float) -> None:
        self.config = config
        self.name = _symbol_name(config.market, position)
        self.rng = random.Random(f"{config.seed}:{config.market}:{self.name}")  # noqa: S311 - reproducible, not secret
        self.price_decimals = self.rng.randint(1, 4)
        self.quantity_decimals = 0 if config.market is Market.COINM else self.rng.randint(0, 3)
        self.rate = rate
        self.phase_ns = self.rng.randrange(100 * _MS)
        middle = self.rng.randint(20_000, 5_000_000)
        self.sides: tuple[dict[int, int], dict[int, int]] = ({}, {})
        for distance in range(config.levels):
            self.sides[_BID][middle - 1 - distance * self.rng.randint(1, 3)] = self._quantity()
            self.sides[_ASK][middle + 1 + distance * self.rng.randint(1, 3)] = self._quantity()
        self.best = [max(self.sides[_BID]), min(self.sides[_ASK])]
        spot = config.market is Market.SPOT
        self.update_id = self.rng.randint(10**8, 10**11) if spot else _FUTURES_BASE_ID + self.rng.randrange(1000)
        self.trade_id = self.rng.randint(10**6, 10**9)
        self.windows = [
            _Window(stream_name(self.name, stream), _period_ms(config.market, stream) * _MS, self.update_id)
            for stream in config.depth_streams
        ]

    # --- printing ------------------------------------------------------------------------------------------------------------

    def price(self, ticks: int) -> str:
        return _fixed(ticks, self.price_decimals, self.config.market)

    def quantity(self, steps: int) -> str:
        return _fixed(steps, self.quantity_decimals, self.config.market)

    def info(self) -> SymbolInfo:
        bids = tuple((self.price(ticks), self.quantity(steps)) for ticks, steps in sorted(self.sides[_BID].items(), reverse=True))
        asks = tuple((self.price(ticks), self.quantity(steps)) for ticks, steps in sorted(self.sides[_ASK].items()))
        start_us = None if self.config.market is Market.SPOT else self.config.start_ns // 1000
        snapshot = DepthSnapshot(self.update_id, start_us, start_us, bids, asks)
        return SymbolInfo(self.name, self.price_decimals, self.quantity_decimals, snapshot)

    # --- changing ------------------------------------------------------------------------------------------------------------

    def _quantity(self) -> int:
        return self.rng.randint(1, 100_000)

    def gap_ns(self) -> int:
        """Return the time to the next burst."""
        return 1 + int(self.rng.expovariate(self.rate) * _SECOND)

    def burst(self) -> tuple[list[tuple[int, int, int]], int | None]:
        """Change the book; returns the changes `(side, ticks, steps)` in order, and the quantity traded at the first, if any."""
        kind = self.rng.random()
        side = self.rng.randrange(2)
        if len(self.sides[side]) < _LEVELS_MIN:
            kind = 1.0
        best = self.best[side]
        if kind < 0.1:  # touched, and back as it was
            steps = self.sides[side][best]
            changes = [(side, best, steps + self.rng.randint(1, 1000)), (side, best, steps)]
        elif kind < 0.2:  # created and removed again
            ticks = self._new_ticks(side)
            if ticks in self.sides[side]:
                changes = [(side, ticks, self._quantity())]
            else:
                changes = [(side, ticks, self._quantity()), (side, ticks, 0)]
        elif kind < 0.35:  # traded
            before = self.sides[side][best]
            after = 0 if self.rng.random() < 0.4 else self.rng.randrange(before)
            changes = [(side, best, after)]
            self._put(*changes[0])
            return changes, before - after
        else:
            changes = []
            for _ in range(1 + min(20, int(self.rng.expovariate(0.4)))):
                side = side if self.rng.random() < 0.85 else 1 - side
                change = self._ordinary(side)
                self._put(*change)
                changes.append(change)
            return changes, None
        for change in changes:
            self._put(*change)
        return changes, None

    def _new_ticks(self, side: int) -> int:
        # A distance from the other side, so that the book never crosses.
        distance = 1 + int(self.rng.expovariate(0.08))
        return max(1, self.best[_ASK] - distance) if side == _BID else self.best[_BID] + distance

    def _ordinary(self, side: int) -> tuple[int, int, int]:
        ticks = self._new_ticks(side)
        removable = ticks in self.sides[side] and len(self.sides[side]) > _LEVELS_MIN
        return side, ticks, 0 if removable and self.rng.random() < 0.5 else self._quantity()

    def _put(self, side: int, ticks: int, steps: int) -> None:
        levels = self.sides[side]
        better = max if side == _BID else min
        if steps:
            levels[ticks] = steps
            self.best[side] = better(self.best[side], ticks)
            return
        levels.pop(ticks, None)
        if ticks == self.best[side]:
            self.best[side] = better(levels)

    def number(self, change_ns: int) -> tuple[int, int]:
        """Return the ids `[first, final]` the next change takes."""
        if self.config.market is Market.SPOT:
            first = self.update_id + 1
            # Now and then an id goes by without a visible change of the book.
            self.update_id = first + (self.rng.randint(1, 3) if self.rng.random() < 0.2 else 0)
            return first, self.update_id
        elapsed_ns = change_ns - self.config.start_ns
        self.update_id = max(self.update_id, _FUTURES_BASE_ID + elapsed_ns * _FUTURES_IDS_PER_MS // _MS) + self.rng.randint(1, 40)
        return self.update_id, self.update_id


def _fixed(mantissa: int, decimals: int, market: Market) -> str:
    whole, fraction = divmod(mantissa, 10**decimals)
    if market is Market.SPOT:
        return (
            f"{whole}.{fraction:0{decimals}d}".ljust(len(str(whole)) + 1 + _SPOT_DECIMALS, "0")
            if decimals
            else f"{whole}.00000000"
        )
    return f"{whole}.{fraction:0{decimals}d}" if decimals else str(whole)


def _symbol_name(market: Market, position: int) -> str:
    coin = _COINS[position] if position < len(_COINS) else f"SYN{position:04d}"
    if market is Market.COINM:
        coin = "DOT" if position == _NON_ASCII_POSITION else coin
        return f"{coin}USD_PERP" if position % 3 < 2 else f"{coin}USD_261225"
    return f"{coin}USDT"


def _burst_rates(config: SyntheticConfig) -> list[float]:
    """Return bursts per second of each symbol, so that together they make `events_per_second` events."""
    weights = [
        _QUIET_RATE if position % _QUIET_EVERY == _QUIET_EVERY - 1 else 1 / (position + 1)
        for position in range(config.symbols_count)
    ]
    scale = config.events_per_second / sum(weights)
    rates = []
    for weight in weights:
        events = min(_EVENT_RATE_MAX, weight * scale)
        if config.market is Market.SPOT:
            rates.append(-10 * math.log(1 - events / 10))
        else:
            rates.append(1 / max(0.005, 1 / events - 0.105))
    return rates


class SyntheticSource:
    """A made-up market; the same for everybody who has the seed.

    Args:
        config: What to make up.

    Raises:
        ConfigError: There is nothing to make up, or a stream that is no depth stream.
    """

    def __init__(self, config: SyntheticConfig) -> None:
        if config.symbols_count < 1 or config.events_per_second <= 0:
            raise ConfigError(f"{config.symbols_count} symbols, {config.events_per_second} events per second: nothing happens")
        wrong = [stream for stream in config.depth_streams if not is_depth(stream)]
        if wrong or not config.depth_streams:
            raise ConfigError(f"not depth streams: {wrong}", hint="such as depth@100ms or depth")
        self.config = config
        self._symbols = tuple(symbol.info() for symbol in self._make_symbols())

    @property
    def market(self) -> Market:
        """The market."""
        return self.config.market

    @property
    def symbols(self) -> Sequence[SymbolInfo]:
        """All symbols, the busiest first."""
        return self._symbols

    @property
    def total(self) -> int | None:
        """How many frames there will be, or None."""
        return self.config.messages_count

    def streams(self) -> tuple[str, ...]:
        """Return the names of all depth streams."""
        return tuple(stream_name(info.symbol, stream) for info in self._symbols for stream in self.config.depth_streams)

    def _make_symbols(self) -> list[_Symbol]:
        return [_Symbol(self.config, position, rate) for position, rate in enumerate(_burst_rates(self.config))]

    def happenings(self) -> Iterator[Happening]:
        """Yield changes of books and frames, in order of time."""
        remaining = self.config.messages_count
        endless = self._endless()
        while remaining is None or remaining > 0:
            happening = next(endless)
            yield happening
            if remaining is not None and isinstance(happening, VenueMessage):
                remaining -= 1

    def _endless(self) -> Iterator[Happening]:
        symbols = self._make_symbols()
        # (time, symbol, window): a negative window is the symbol's next burst.
        agenda = [(self.config.start_ns + symbol.gap_ns(), position, -1) for position, symbol in enumerate(symbols)]
        heapq.heapify(agenda)
        while True:
            now_ns, position, window_number = heapq.heappop(agenda)
            symbol = symbols[position]
            if window_number >= 0:
                yield _publish(symbol, symbol.windows[window_number], now_ns)
                continue
            yield from self._burst(symbol, now_ns)
            for number, window in enumerate(symbol.windows):
                if window.last_change_ns == 0:
                    window.last_change_ns = now_ns
                    heapq.heappush(agenda, (self._due_ns(symbol, window, now_ns), position, number))
                window.last_change_ns = now_ns
            heapq.heappush(agenda, (now_ns + symbol.gap_ns(), position, -1))

    def _due_ns(self, symbol: _Symbol, window: _Window, now_ns: int) -> int:
        """Return when a window that opens now is published."""
        if self.config.market is Market.SPOT:
            since_grid_ns = (now_ns - symbol.phase_ns) % window.period_ns
            return now_ns + window.period_ns - since_grid_ns
        if not window.period_ns:
            return now_ns + symbol.rng.randint(1, _MS)
        earliest_ns = window.last_sent_ns + window.period_ns + symbol.rng.randint(1 * _MS, 9 * _MS)
        return max(now_ns + symbol.rng.randint(_MS, window.period_ns), earliest_ns)

    def _burst(self, symbol: _Symbol, now_ns: int) -> Iterator[Happening]:
        best_before = [(best, symbol.sides[side][best]) for side, best in enumerate(symbol.best)]
        prev_update_id = symbol.update_id
        changes, traded = symbol.burst()
        pieces = []
        for side, ticks, steps in changes:
            first, final = symbol.number(now_ns)
            level: tuple[Level, ...] = ((symbol.price(ticks), symbol.quantity(steps)),)
            pieces.append(Piece(first, final, level, ()) if side == _BID else Piece(first, final, (), level))
        for window in symbol.windows:
            window.pieces += pieces
        bids = tuple(level for piece in pieces for level in piece.bids)
        asks = tuple(level for piece in pieces for level in piece.asks)
        market = self.config.market
        yield BookChange(now_ns, market, symbol.name, prev_update_id, symbol.update_id, bids, asks, now_ns // _MS)
        if traded is not None and self.config.trades:
            yield _trade(symbol, changes[0], traded, now_ns)
        best_after = [(best, symbol.sides[side][best]) for side, best in enumerate(symbol.best)]
        if best_after != best_before and self.config.book_tickers:
            yield _book_ticker(symbol, now_ns)


def _frame(symbol: _Symbol, kind: str, now_ns: int, fields: dict[str, object]) -> VenueMessage:
    market = symbol.config.market
    if market is not Market.SPOT and symbol.config.integration_fields:
        ordered: dict[str, object] = {}
        for key, value in fields.items():
            ordered[key] = value
            if key == "s":
                ordered["ps"] = symbol.name.partition("_")[0]
        fields = {**ordered, "st": 1 if market is Market.USDM else 2}
    data = _JSON.encode(fields).encode()
    name = kind if "@" in kind else stream_name(symbol.name, kind)
    return VenueMessage(now_ns, market, name, data)


def _publish(symbol: _Symbol, window: _Window, now_ns: int) -> VenueMessage:
    pieces = tuple(window.pieces)
    spot = symbol.config.market is Market.SPOT
    fields: dict[str, object] = {"e": "depthUpdate", "E": now_ns // _MS}
    if not spot:
        fields["T"] = window.last_change_ns // _MS
    fields |= {"s": symbol.name, "U": pieces[0].first_update_id, "u": pieces[-1].final_update_id}
    if not spot:
        fields["pu"] = window.prev_update_id
    bids, asks = touched_levels(pieces, symbol.config.market)
    fields |= {"b": bids, "a": asks}
    message = _frame(symbol, window.stream, now_ns, fields)
    message.pieces = pieces
    window.prev_update_id = pieces[-1].final_update_id
    window.pieces = []
    window.last_change_ns, window.last_sent_ns = 0, now_ns
    return message


def _book_ticker(symbol: _Symbol, now_ns: int) -> VenueMessage:
    (bid, ask), (bids, asks) = symbol.best, symbol.sides
    best = {
        "b": symbol.price(bid),
        "B": symbol.quantity(bids[bid]),
        "a": symbol.price(ask),
        "A": symbol.quantity(asks[ask]),
    }
    fields: dict[str, object] = {"u": symbol.update_id, "s": symbol.name, **best}
    if symbol.config.market is not Market.SPOT:
        fields = {"e": "bookTicker", **fields, "T": now_ns // _MS, "E": now_ns // _MS}
    return _frame(symbol, "bookTicker", now_ns, fields)


def _trade(symbol: _Symbol, change: tuple[int, int, int], traded: int, now_ns: int) -> VenueMessage:
    side, ticks, _ = change
    symbol.trade_id += 1
    price, quantity, now_ms = symbol.price(ticks), symbol.quantity(traded), now_ns // _MS
    # The buyer is the maker where a bid was hit.
    fields: dict[str, object]
    if symbol.config.market is Market.SPOT:
        fields = {"e": "trade", "E": now_ms, "s": symbol.name, "t": symbol.trade_id, "p": price, "q": quantity, "T": now_ms}
        fields |= {"m": side == _BID, "M": True}
    else:
        fields = {"e": "trade", "E": now_ms, "T": now_ms, "s": symbol.name, "t": symbol.trade_id, "p": price, "q": quantity}
        fields |= {"X": "MARKET", "m": side == _BID}
    return _frame(symbol, "trade", now_ns, fields)
