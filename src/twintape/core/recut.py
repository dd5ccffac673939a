"""Other windows: what a gateway makes of the exchange's depth events when it does not pass them on as they are.

A re-cut event is valid: first `U`, last `u`, the union of the levels, last value wins. Recorded events are indivisible, so tapes can
only be merged; made-up ones know which change has which id and can be divided anywhere.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal

from twintape.core.errors import WireError
from twintape.core.gateway import GatewayOptions, Partition
from twintape.core.markets import Market
from twintape.core.venue import Happening, Piece, SymbolInfo, VenueMessage, touched_levels
from twintape.core.wire import Level, decode_depth, is_depth, split_stream

__all__ = ["HOLD_NS_MAX", "GatewayView"]

HOLD_NS_MAX = 300_000_000
"""No change is held back longer than this, in the source's time."""


@dataclass(slots=True)
class _Cut:
    """One stream's changes that are not yet said."""

    message: VenueMessage
    prev_update_id: int
    fraction: float
    skips_first: bool
    pieces: list[Piece] = field(default_factory=list)


class GatewayView:
    """Turns what the source says into what one gateway says; the same whoever listens.

    Args:
        number: The gateway's position.
        options: Its partition, rate and seed.
        symbols: By market, the symbols with their first books, which `net` compares with.
    """

    def __init__(self, number: int, options: GatewayOptions, symbols: Mapping[Market, Iterable[SymbolInfo]]) -> None:
        self._partition = options.partition
        self._rate = options.partition_rate
        self._random = random.Random(f"{options.seed}:{number}")  # noqa: S311 - reproducible, not secret
        self._cuts: dict[tuple[Market, str], _Cut] = {}
        self._holding: dict[tuple[Market, str], int] = {}
        self._symbols = {(market, info.symbol): info for market, infos in symbols.items() for info in infos}
        self._known: dict[tuple[Market, str], _KnownQuantities] = {}

    def feed(self, happening: Happening) -> list[VenueMessage]:
        """Take the next thing that happened and return what is said now, in order."""
        released = self._release(happening.time_ns) if self._holding else []
        if not isinstance(happening, VenueMessage):
            return released
        if self._partition is Partition.IDENTICAL or not is_depth(split_stream(happening.stream)[1]):
            return [*released, happening]
        if self._partition is Partition.CONFLICT:
            return [*released, self._maybe_wrong(happening)]
        return released + self._recut(happening)

    def flush(self) -> list[VenueMessage]:
        """Return what is still held back."""
        return self._release(None)

    def _release(self, now_ns: int | None) -> list[VenueMessage]:
        late = [key for key, since_ns in self._holding.items() if now_ns is None or now_ns - since_ns > HOLD_NS_MAX]
        return [said for key in late for said in self._say(key, len(self._cuts[key].pieces))]

    # --- other windows -------------------------------------------------------------------------------------------------------

    def _recut(self, message: VenueMessage) -> list[VenueMessage]:
        try:
            event = decode_depth(message.data, message.market)
        except WireError:
            return [message]
        key = (message.market, message.stream)
        cut = self._cuts.get(key)
        if cut is None:
            fraction, skips_first = self._random.uniform(0.2, 0.8), self._random.random() < 0.5
            cut = self._cuts[key] = _Cut(message, event.prev_update_id, fraction, skips_first)
        said = []
        behind = cut.pieces[-1].final_update_id if cut.pieces else cut.prev_update_id
        if event.prev_update_id != behind:
            # A hole in the recording: nothing may be said across it.
            said += self._say(key, len(cut.pieces)) if cut.pieces else []
            cut.prev_update_id = event.prev_update_id
        cut.message = message
        new = message.pieces or (Piece(event.first_update_id, event.final_update_id, event.bids, event.asks),)
        held_before = len(cut.pieces)
        cut.pieces += new
        for count in self._cuts_in(cut, held_before, len(new)):
            said += self._say(key, count)
        if cut.pieces:
            self._holding[key] = message.time_ns
        return said

    def _cuts_in(self, cut: _Cut, held: int, new: int) -> list[int]:
        """Return how many pieces each event said now takes; the rest is held back."""
        if self._partition is Partition.SPLIT:
            if self._random.random() >= self._rate:
                return [held + new]
            if new == 1:
                return [] if not held else [held + new]
            inside = self._random.randrange(1, new)
            return [held + inside] if self._random.random() < 0.5 else [held + inside, new - inside]
        if cut.skips_first:
            cut.skips_first = False
            return [held + new]
        kept = max(1, int(new * cut.fraction)) if new > 1 else int(held == 0)
        return [held + new - kept] if held + new > kept else []

    def _say(self, key: tuple[Market, str], count: int) -> list[VenueMessage]:
        cut = self._cuts[key]
        pieces, cut.pieces = cut.pieces[:count], cut.pieces[count:]
        if not cut.pieces:
            self._holding.pop(key, None)
        market, stream = key
        bids, asks = touched_levels(pieces, market)
        if self._partition is Partition.NET:
            if key not in self._known:
                self._known[key] = _KnownQuantities(self._symbols[market, split_stream(stream)[0]])
            bids, asks = self._known[key].changed(pieces[-1].final_update_id, bids, asks)
        event = json.loads(cut.message.data)
        changes = {"U": pieces[0].first_update_id, "u": pieces[-1].final_update_id, "b": bids, "a": asks}
        if "pu" in event:
            changes["pu"] = cut.prev_update_id
        event.update(changes)
        cut.prev_update_id = pieces[-1].final_update_id
        return [VenueMessage(cut.message.time_ns, market, stream, _json(event))]

    # --- wrong quantities ----------------------------------------------------------------------------------------------------

    def _maybe_wrong(self, message: VenueMessage) -> VenueMessage:
        if self._random.random() >= self._rate:
            return message
        event = json.loads(message.data)
        sides = [side for side in ("b", "a") if event.get(side)]
        if not sides:
            return message
        level = self._random.choice(event[self._random.choice(sides)])
        level[1] = level[1][:-1] + str((int(level[1][-1]) + 1) % 10)
        return VenueMessage(message.time_ns, message.market, message.stream, _json(event))


class _KnownQuantities:
    """What somebody who heard everything so far knows of a book."""

    def __init__(self, info: SymbolInfo) -> None:
        self._last_update_id = info.snapshot.last_update_id
        self._bids = {Decimal(price): Decimal(quantity) for price, quantity in info.snapshot.bids}
        self._asks = {Decimal(price): Decimal(quantity) for price, quantity in info.snapshot.asks}

    def changed(self, final_update_id: int, bids: list[Level], asks: list[Level]) -> tuple[list[Level], list[Level]]:
        """Return the levels that differ from what is known, and learn them."""
        if final_update_id <= self._last_update_id:
            return bids, asks
        return _changed(self._bids, bids), _changed(self._asks, asks)


def _changed(known: dict[Decimal, Decimal], levels: list[Level]) -> list[Level]:
    news = []
    for price, quantity in levels:
        if known.get(Decimal(price), Decimal(0)) != Decimal(quantity):
            known[Decimal(price)] = Decimal(quantity)
            news.append((price, quantity))
    return news


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()
