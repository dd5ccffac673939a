"""Which symbols of a market are recorded: names, patterns and contract types in, additions and removals out.

The exchange's own list is all that is asked, so collectors with the same selectors come to record the same symbols without talking to each
other. A list that cannot be read changes nothing.

Source: Binance, Spot API docs, enums.md "Symbol status" (2026-07-21); Derivatives docs, Common Definition, "Contract type" and "Contract
status" (2026-05-28).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import msgspec

from twintape.core.errors import WireError
from twintape.core.wire import plausible_symbol

__all__ = ["CONTRACT_TYPES", "Changes", "Listing", "Roster", "is_selector", "matches", "parse_listings", "subscribable"]

CONTRACT_TYPES = frozenset(
    {
        "PERPETUAL",
        "PERPETUAL_DELIVERING",
        "TRADIFI_PERPETUAL",
        "CURRENT_MONTH",
        "NEXT_MONTH",
        "CURRENT_QUARTER",
        "NEXT_QUARTER",
        "CURRENT_QUARTER_DELIVERING",
    }
)
"""Words that select futures by their kind."""

_TRADING = "TRADING"
_OVER = frozenset({"BREAK", "CLOSE", "DELIVERED"})
"""Nothing is published in these states. In every other one but `TRADING` streams may be silent for long, and events may come at any time."""
_UNSUBSCRIBABLE = frozenset('/?#@&%"\\')


@dataclass(frozen=True, slots=True)
class Listing:
    """One symbol of the exchange's list. `contract_type` is None on spot."""

    symbol: str
    status: str
    contract_type: str | None = None

    @property
    def over(self) -> bool:
        """Whether nothing is published."""
        return self.status in _OVER


@dataclass(frozen=True, slots=True)
class Changes:
    """What a list changes.

    Attributes:
        added: Symbols to record from now on, sorted.
        removed: Symbols to record no longer, sorted.
        quiet: Recorded symbols whose silence means nothing: they do not trade.
        unknown: Symbols that were asked for by name and that the exchange does not list, sorted.
    """

    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    quiet: frozenset[str] = frozenset()
    unknown: tuple[str, ...] = ()


class _Symbol(msgspec.Struct):
    symbol: str
    status: str | None = None
    contractStatus: str | None = None  # noqa: N815 - Binance's key
    contractType: str | None = None  # noqa: N815 - likewise


class _Body(msgspec.Struct):
    symbols: list[_Symbol]


_decode = msgspec.json.Decoder(_Body).decode


def subscribable(symbol: str) -> bool:
    """Return whether a symbol can stand in a stream's name and in a URL.

    >>> subscribable("币安人生USDT"), subscribable("BTC/USDT"), subscribable("A B")
    (True, False, False)
    """
    return plausible_symbol(symbol) and not any(
        character in _UNSUBSCRIBABLE or character.isspace() or not character.isprintable() for character in symbol
    )


def is_selector(word: str) -> bool:
    """Return whether a word selects symbols by pattern or kind, rather than being one.

    >>> is_selector("*USDT"), is_selector("PERPETUAL"), is_selector("BTCUSDT")
    (True, True, False)
    """
    return "*" in word or word in CONTRACT_TYPES


def parse_listings(body: bytes) -> dict[str, Listing]:
    """Return the symbols of an `exchangeInfo` body of any market.

    >>> parse_listings(b'{"symbols":[{"symbol":"BTCUSDT","status":"TRADING"}]}')
    {'BTCUSDT': Listing(symbol='BTCUSDT', status='TRADING', contract_type=None)}

    Raises:
        WireError: It is no such list, or an empty one.
    """
    try:
        rows = _decode(body).symbols
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise WireError(f"not a list of symbols: {error}") from error
    found = {
        row.symbol: Listing(row.symbol, row.status or row.contractStatus or "", row.contractType)
        for row in rows
        if subscribable(row.symbol)
    }
    if not found:
        raise WireError(f"a list without symbols: {body[:80]!r}")
    return found


def matches(selector: str, listing: Listing) -> bool:
    """Return whether a pattern (`*` stands for any text) or a contract type selects a symbol.

    >>> matches("*USDT", Listing("币安人生USDT", "TRADING")), matches("PERPETUAL", Listing("BTCUSDT_261225", "TRADING", "CURRENT_QUARTER"))
    (True, False)
    """
    if selector in CONTRACT_TYPES:
        # The list spells one type with a space.
        return listing.contract_type is not None and listing.contract_type.replace(" ", "_") == selector
    pattern = ".*".join(re.escape(part) for part in selector.split("*"))
    return re.fullmatch(pattern, listing.symbol, re.DOTALL) is not None


class Roster:
    """The symbols of one market that are recorded now.

    Symbols given by name are recorded from the start, whether or not the exchange's list can be had: a subscription to a symbol that does not
    exist costs nothing, and catches its first event should it come to exist.

    Args:
        words: Names and selectors.
        grace_ns: How long a symbol that is over, gone from the list or selected no longer is recorded all the same.

    Attributes:
        recorded: Symbols in the order in which they were added.
    """

    def __init__(self, words: Sequence[str], *, grace_ns: int) -> None:
        self._names = [word for word in words if not is_selector(word)]
        self._selectors = [word for word in words if is_selector(word)]
        self._grace_ns = grace_ns
        self._leaving_ns: dict[str, int] = {}
        self._known: set[str] = set()
        self.recorded: dict[str, None] = dict.fromkeys(self._names)

    def update(self, listings: Mapping[str, Listing], now_ns: int) -> Changes:
        """Take the exchange's list as of `now_ns` (monotonic), and return what it changes; `recorded` is changed already."""
        wanted = set(self._wanted(listings.values()))
        self._known.update(name for name in self._names if name in listings)
        removed = []
        for symbol in self.recorded:
            if symbol in wanted or not self._may_leave(symbol):
                self._leaving_ns.pop(symbol, None)
            elif now_ns - self._leaving_ns.setdefault(symbol, now_ns) >= self._grace_ns:
                removed.append(symbol)
        for symbol in removed:
            del self.recorded[symbol], self._leaving_ns[symbol]
        added = sorted(wanted - self.recorded.keys())
        self.recorded.update(dict.fromkeys(added))
        trading = {listing.symbol for listing in listings.values() if listing.status == _TRADING}
        return Changes(
            added=tuple(added),
            removed=tuple(sorted(removed)),
            quiet=frozenset(self.recorded.keys() - trading),
            unknown=tuple(sorted(name for name in self._names if name not in listings)),
        )

    def _wanted(self, listings: Iterable[Listing]) -> Iterable[str]:
        names = set(self._names)
        for listing in listings:
            if not listing.over and (listing.symbol in names or any(matches(word, listing) for word in self._selectors)):
                yield listing.symbol

    def _may_leave(self, symbol: str) -> bool:
        """Return whether a symbol was ever on the list: one that is still awaited stays subscribed."""
        return symbol not in self._names or symbol in self._known
