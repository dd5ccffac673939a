"""An order book kept the way Binance's documentation says, for clients that hand out events and snapshots but keep no book.

It shares no code with twintape. Source: Binance, "How to manage a local order book correctly": Spot API docs, web-socket-streams.md
(2025-11-12); Derivatives docs (2026-05-28).
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any


class DocumentedBook:
    """Events buffered until a snapshot fits, then applied in order.

    Attributes:
        last_update_id: Where the book stands; None while it has no snapshot that fits.
        needs_snapshot: Whether the next thing to do is to fetch one.
    """

    def __init__(self, market: str) -> None:
        self._spot = market == "spot"
        self._buffer: list[Mapping[str, Any]] = []
        self._synced = False
        self.last_update_id: int | None = None
        self.bids: dict[str, str] = {}
        self.asks: dict[str, str] = {}

    @property
    def needs_snapshot(self) -> bool:
        """Events wait, and no snapshot has been given to them."""
        return self.last_update_id is None and bool(self._buffer)

    def snapshot(self, body: Mapping[str, Any]) -> None:
        """Take a REST answer and apply what was buffered; one that is older than the buffer is forgotten."""
        first = self._buffer[0]
        last_update_id = body["lastUpdateId"]
        if last_update_id < (first["U"] - 1 if self._spot else min(first["U"], first["pu"])):
            return
        self.last_update_id, self._synced = last_update_id, False
        self.bids = {price: quantity for price, quantity, *_ in body["bids"]}
        self.asks = {price: quantity for price, quantity, *_ in body["asks"]}
        waiting, self._buffer = self._buffer, []
        for event in waiting:
            self.event(event)

    def event(self, event: Mapping[str, Any]) -> None:
        """Take the next event of the stream."""
        if self.last_update_id is None:
            self._buffer.append(event)
            return
        stale = event["u"] <= self.last_update_id if self._spot else event["u"] < self.last_update_id
        if stale and not self._synced:
            return
        if not self._follows(event):
            self.last_update_id = None
            self._buffer = [event]
            return
        self._synced = True
        for side, changes in ((self.bids, event["b"]), (self.asks, event["a"])):
            for price, quantity, *_ in changes:
                if Decimal(quantity):
                    side[price] = quantity
                else:
                    side.pop(price, None)
        self.last_update_id = event["u"]

    def _follows(self, event: Mapping[str, Any]) -> bool:
        if self._synced:
            return (event["U"] - 1 if self._spot else event["pu"]) == self.last_update_id
        # The first event spans the snapshot's id. On futures U is far above pu, and a quiet snapshot ends where pu does.
        reached = self.last_update_id + 1 if self._spot else self.last_update_id
        return event["U"] <= reached <= event["u"] or event.get("pu") == self.last_update_id
