"""Which dates a night has to merge."""

from __future__ import annotations

from collections.abc import Iterable

from twintape.columns.lines import DAY_US, midnight_us
from twintape.core import names
from twintape.core.markets import Market
from twintape.io.batch import neighbour
from twintape.io.catalog import list_heads
from twintape.io.ports import Store

__all__ = ["WAIT_US", "due_dates"]

WAIT_US = DAY_US
"""How long after its midnight a date waits for collectors that have not closed it."""
SEEN_DAYS = 7
"""Collectors of proofs of so many days before a date are waited for."""


async def due_dates(store: Store, market: Market, now_ns: int, *, collectors: Iterable[str] = ()) -> list[str]:
    """Return the dates with raw recordings that are due, in order.

    A date is due when every collector has a segment behind its midnight, or a day after its midnight. Dates that are merged already are due again while
    raw data of them is there; merging finds out that nothing changed.

    Args:
        store: Where they are.
        market: Which market.
        now_ns: The time.
        collectors: Who must have closed a date; empty for those in the proofs of the week before it and in its own raw data.
    """
    latest: dict[str, str] = {}
    present: dict[str, set[str]] = {}
    async for info in store.list("raw/v1/"):
        key = names.parse_raw_key(info.key)
        if key is not None and key.market == market:
            latest[key.collector] = max(latest.get(key.collector, ""), key.date)
            present.setdefault(key.date, set()).add(key.collector)
            if key.hour == 0:  # it may begin before the midnight it is filed behind
                present.setdefault(neighbour(key.date, -1), set()).add(key.collector)
    due = []
    for date in sorted(present):
        behind = midnight_us(date) + DAY_US
        if now_ns // 1000 >= behind + WAIT_US or all(
            latest.get(name, "") > date for name in await _waited_for(store, market, date, collectors, present[date])
        ):
            due.append(date)
    return due


async def _waited_for(store: Store, market: Market, date: str, collectors: Iterable[str], own: set[str]) -> set[str]:
    named = set(collectors)
    if named:
        return named
    week = [neighbour(date, -days) for days in range(1, SEEN_DAYS + 1)]
    heads = await list_heads(store, market, dates=week)
    return own | {line.collector for head in heads.values() for line in head.proof.lines}
