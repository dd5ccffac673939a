"""What a proof says beyond its chain: how each snapshot compared, what other streams say of the same book, what is odd, what each line was worth.

Plain records, part of a proof's JSON (docs/format.md, section 7). Numbers of a book are printed as plain decimals, so that no reader needs exponents.
"""

from __future__ import annotations

import msgspec

__all__ = [
    "CheckpointFailure",
    "Checkpoints",
    "Distribution",
    "Evidence",
    "GapLine",
    "LineValue",
    "LostRange",
    "PartialBooks",
    "Sanity",
    "SnapshotRecord",
    "TickerDifference",
    "Tickers",
    "WindowDifference",
    "Windows",
]


class _Record(msgspec.Struct, frozen=True, kw_only=True):
    """Base: unknown keys are ignored, keys are written in the order of the fields."""


class CheckpointFailure(_Record, frozen=True, kw_only=True):
    """A snapshot that contradicts the stream, with the first differences as `[side, price, in snapshot, in book]`; quantity 0: not there."""

    last_update_id: int
    collector: str
    differences: int
    examples: list[tuple[str, str, str, str]]


class SnapshotRecord(_Record, frozen=True, kw_only=True):
    """One REST snapshot of one line and the event it was compared behind.

    `prev_update_id` and `final_update_id` are the event's, None where the snapshot meets none: outside the chain, or at its very start.
    `bid_low` and `ask_high` bound what it speaks of; None for an empty side. From `known_low` to `known_high` everything about the book is known from
    then on, until it is lost (both None: nothing; `known_high` alone: nothing above is unknown).
    """

    last_update_id: int
    collector: str
    connection: str
    receive_time_ns: int
    verdict: str
    prev_update_id: int | None
    final_update_id: int | None
    bid_low: str | None
    ask_high: str | None
    differences: int = 0
    known_low: str | None = None
    known_high: str | None = None


class Checkpoints(_Record, frozen=True, kw_only=True):
    """How the day's REST snapshots compare with the book."""

    passed: int = 0
    failed: int = 0
    anchors: int = 0
    outside: int = 0
    failures: list[CheckpointFailure] = []
    snapshots: list[SnapshotRecord] = []


class TickerDifference(_Record, frozen=True, kw_only=True):
    """A bookTicker that says another top than the book behind the event that covers its id: bid, quantity, ask, quantity."""

    update_id: int
    final_update_id: int
    in_ticker: tuple[str, str, str, str]
    in_book: tuple[str, str, str, str]


class Tickers(_Record, frozen=True, kw_only=True):
    """How the best bid and ask of bookTicker compare with the book, counted by event.

    For each event behind which the book is known, the last bookTicker with an id in `(p, u]` says the top at `u`. `different`: it does not although
    its id is `u` itself. `suspect`: it does not, its id is smaller, and the change behind it may only have been lost or left out by bookTicker.
    """

    equal: int = 0
    different: int = 0
    suspect: int = 0
    examples: list[TickerDifference] = []


class PartialBooks(_Record, frozen=True, kw_only=True):
    """How the best levels of partial book streams compare with the book; a sample of at most one in every few events is compared."""

    passed: int = 0
    failed: int = 0
    failures: list[CheckpointFailure] = []


class WindowDifference(_Record, frozen=True, kw_only=True):
    """Ids `(prev, final]` over which a line that is cut differently says something else than the chain."""

    collector: str
    prev_update_id: int
    final_update_id: int
    kind: str


class Windows(_Record, frozen=True, kw_only=True):
    """How lines that are cut differently compare with the chain, from one common boundary to the next.

    `equal`: the same levels with the same final quantities. `omitted`: what both list is equal, and one lists levels that the other does not.
    `conflicting`: another final quantity of one level.
    """

    equal: int = 0
    omitted: int = 0
    conflicting: int = 0
    examples: list[WindowDifference] = []


class Sanity(_Record, frozen=True, kw_only=True):
    """What a correct day does not have, counted. It proves nothing; it shows what a plausible chain may hide.

    Attributes:
        crossed: Events behind which the best bid was not below the best ask.
        zero_prices: Levels with price 0.
        far_prices: Levels over 1,000 times the best ask or under a thousandth of the best bid.
        off_tick: Levels whose price has digits that fewer than one in 1,000 of the day's prices have.
        price_tick: The power of ten that the other prices are multiples of; None without levels.
        price_low: The least price with a quantity; None without any.
        price_high: The greatest.
        event_time_back: Events whose `E` is less than that of the event before.
        event_time_back_us_max: By how much at most.
        transaction_time_back: Likewise for `T`.
        far_from_receipt: Events whose `E` is over ten minutes away from their receive time.
    """

    crossed: int = 0
    zero_prices: int = 0
    far_prices: int = 0
    off_tick: int = 0
    price_tick: str | None = None
    price_low: str | None = None
    price_high: str | None = None
    event_time_back: int = 0
    event_time_back_us_max: int = 0
    transaction_time_back: int = 0
    far_from_receipt: int = 0


class Evidence(_Record, frozen=True, kw_only=True):
    """One level of verification: what it is called, what came of it, and the counts behind that.

    `held`: checked, and nothing speaks against it. `limited`: it holds for a part, the counts say for which. `failed`: something contradicts it.
    `none`: nothing was recorded that it could be checked by.
    """

    level: str
    name: str
    verdict: str
    counts: dict[str, int]


class Distribution(_Record, frozen=True, kw_only=True):
    """Nearest-rank percentiles of nanoseconds."""

    p50: int
    p90: int
    p99: int
    max: int


class LostRange(_Record, frozen=True, kw_only=True):
    """Ids `(after, next_prev]` that only one line had, with the event times around them."""

    after_update_id: int
    next_prev_update_id: int
    from_event_time_us: int
    to_event_time_us: int


class LineValue(_Record, frozen=True, kw_only=True):
    """What one line was worth to the day.

    Attributes:
        collector: Whose line.
        covered: Events of the chain whose ids the line heard, in whatever form.
        only_events: Events of the chain with ids that no other line heard: without this line they would be gaps.
        only_us: Microseconds between the event times around those ids.
        lost: The ranges themselves, the first 100; `lost_ranges` counts all.
        lost_ranges: How many.
        shared: Events that this and another line heard in the same form.
        first: How many of them this line heard before all others.
        behind_first: How long after the first line it heard them; None without any.
        after_event: Receive time minus `E`; None for a line without events.
        same_recording_as: A line whose receive times are this one's, frame for frame: one recording under two names, and one witness.
    """

    collector: str
    covered: int
    only_events: int
    only_us: int
    lost_ranges: int
    lost: list[LostRange]
    shared: int
    first: int
    behind_first: Distribution | None
    after_event: Distribution | None
    same_recording_as: str | None = None


class GapLine(_Record, frozen=True, kw_only=True):
    """What one line's own records say about a gap: how it stood across it, when it last heard before and first behind, and what it noted meanwhile."""

    collector: str
    record: str
    from_receive_time_ns: int | None
    to_receive_time_ns: int | None
    notes: list[str] = []
