"""What successive and simultaneous connections know together about one stream: its rhythm, its ids, and the holes in them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from twintape.core.budget import SECOND_NS
from twintape.core.markets import Market
from twintape.core.silence import PATIENCE_MIN_NS, Listening, Pace
from twintape.core.wire import is_depth, split_stream

__all__ = ["HOLES_MAX", "HOLE_WAIT_NS", "HeardStream", "Hole", "StreamMemory", "find_witnesses", "is_witness"]

HOLE_WAIT_NS = SECOND_NS
"""While another connection listens to the same stream, a hole is no gap before that one had so long to deliver the ids."""
BEHIND_NS = 3 * SECOND_NS
"""A stream that says nothing for so long while another connection hears it go on is silent here and nowhere else."""
BEGINNING_NS = 2 * SECOND_NS
"""What another connection delivers so soon after this one was opened may have been under way before, and is not missed here."""
WITNESS_NS = 5 * SECOND_NS
"""A depth stream is mute if others have shown for so long that its book moves; in 34 hours of recordings that never was over 2.5 s …"""
WITNESS_LOOKS = 4
"""… and at so many looks, which come twice a second: one stray frame proves nothing."""
HOLES_MAX = 100
"""More undecided holes than this on one stream: the oldest are gaps at once."""


def is_witness(market: Market, name: str) -> bool:
    """Return whether every frame of a stream shows that the symbol's book moved, so that its depth stream has something to say.

    Trades on futures may be with orders that depth streams leave out (RPI).

    >>> is_witness(Market.SPOT, "btcusdt@trade"), is_witness(Market.USDM, "btcusdt@trade"), is_witness(Market.USDM, "btcusdt@bookTicker")
    (True, False, True)
    """
    stream = split_stream(name)[1]
    return stream == "bookTicker" or (market is Market.SPOT and stream in ("trade", "aggTrade"))


@dataclass(slots=True)
class Hole:
    """Ids `(after, next]` that one connection has missed and another may yet deliver."""

    after_update_id: int
    next_prev_update_id: int
    due_ns: int
    across_connections: bool


class StreamMemory:
    """What all connections know together about one stream; owned by whoever makes the sessions.

    Attributes:
        name: As Binance spells it.
        symbol: As REST spells it.
        depth: Whether the stream is spliced by update ids.
        pace: Its rhythm.
        update_id: The greatest final update id ever heard, or None.
        snapshot_asked: Whether the first snapshot was asked for.
        listeners: How many open connections are subscribed to it.
        holes: What one connection has missed while another one was open.
        mute: Whether it was found never to speak, and said so.
        quiet: Whether it is known to have nothing to say (a symbol that does not trade): its silence is no suspicion.
        missing_count: How often in a row a server said that it was not subscribed.
    """

    __slots__ = (
        "depth",
        "holes",
        "listeners",
        "missing_count",
        "mute",
        "name",
        "pace",
        "quiet",
        "snapshot_asked",
        "symbol",
        "update_id",
    )

    def __init__(self, name: str) -> None:
        self.name = name
        self.symbol, stream = split_stream(name)
        self.depth = is_depth(stream)
        self.pace = Pace(bursty=not self.depth)
        self.update_id: int | None = None
        self.snapshot_asked = False
        self.listeners = 0
        self.holes: list[Hole] = []
        self.mute = False
        self.quiet = False
        self.missing_count = 0

    def fill(self, prev_update_id: int, final_update_id: int) -> int:
        """Take an event that some connection delivered, and return how many holes it closed for good."""
        before = len(self.holes)
        for hole in self.holes:
            if prev_update_id <= hole.after_update_id < final_update_id:
                hole.after_update_id = final_update_id
        self.holes = [hole for hole in self.holes if hole.after_update_id < hole.next_prev_update_id]
        return before - len(self.holes)

    def due(self, now_ns: int) -> list[Hole]:
        """Return the holes that nobody has closed in time, and forget them: they are gaps."""
        excess = max(0, len(self.holes) - HOLES_MAX)
        gaps = [hole for index, hole in enumerate(self.holes) if hole.due_ns <= now_ns or self.listeners < 2 or index < excess]
        self.holes = [hole for hole in self.holes if hole not in gaps]
        return gaps


class HeardStream(Listening):
    """One stream on one connection.

    Attributes:
        memory: What is known beyond this connection.
        update_id: Where this connection stands, or None before its first event.
        start_update_id: Where its unbroken chain begins: it has every id in `(start_update_id, update_id]`.
        first_ns: When the first frame came, or None.
        suspect: Whether it is silent now; since `suspect_ns`, wall time.
        witnesses: Streams of the same connection that show whether this one's book moves.
    """

    __slots__ = (
        "_base_until_ns",
        "_base_update_id",
        "_behind_ns",
        "_witness_first_ns",
        "_witness_last_ns",
        "_witness_looks",
        "first_ns",
        "memory",
        "start_update_id",
        "suspect",
        "suspect_ns",
        "update_id",
        "witnesses",
    )

    def __init__(self, memory: StreamMemory, now_ns: int) -> None:
        super().__init__(now_ns, memory.pace)
        self.memory = memory
        self.update_id: int | None = None
        self.start_update_id: int | None = None
        self.first_ns: int | None = None
        self.suspect = False
        self.suspect_ns = 0
        self.witnesses: tuple[HeardStream, ...] = ()
        self._witness_first_ns = self._witness_last_ns = self._witness_looks = 0
        self._behind_ns = now_ns
        self._base_update_id = memory.update_id
        self._base_until_ns = now_ns + BEGINNING_NS

    def restart(self, now_ns: int) -> None:
        """Forgive the silence so far, and learn nothing from it."""
        super().restart(now_ns)
        self._witness_looks = 0
        self._behind_ns = now_ns
        self._base_update_id = self.memory.update_id
        self._base_until_ns = now_ns + BEGINNING_NS

    def excuse(self, late_ns: int, now_ns: int) -> None:
        """Leave so much of the silence out: nobody listened."""
        super().excuse(late_ns, now_ns)
        self._witness_looks = 0
        self._behind_ns = min(now_ns, self._behind_ns + late_ns)

    def at_ease(self, now_ns: int) -> bool:
        """Return whether there is nothing to doubt, and nothing but `measure` to do: it has just spoken, nobody else hears it, nothing is missing.

        So it is with nearly every stream of a busy market, twice a second.
        """
        memory = self.memory
        if (
            self.count == self._checked_count
            or self.suspect
            or now_ns - self.last_ns > PATIENCE_MIN_NS
            or now_ns < self._base_until_ns
        ):
            return False
        if memory.listeners > 1 or memory.holes or self.witnesses or (memory.depth and memory.update_id is None):
            return False
        self._behind_ns = now_ns
        self.measure(now_ns)
        return True

    def deaf(self, now_ns: int) -> bool:
        """Return whether something is wrong: silent for too long, while another connection hears the stream go on, or while its book moves."""
        known = self.memory.update_id
        if now_ns < self._base_until_ns:
            self._base_update_id = known
        here = max(self.update_id or 0, self._base_update_id or 0)
        if self.memory.listeners < 2 or known is None or known <= here or self.last_ns > self._behind_ns:
            self._behind_ns = now_ns
        return now_ns - self._behind_ns > BEHIND_NS or (bool(self.witnesses) and self._contradicted()) or self.silent(now_ns)

    def _contradicted(self) -> bool:
        """Return whether other streams of the symbol have shown for long that the book moves, and this one has not said so."""
        latest_ns = max(witness.last_ns if witness.count else 0 for witness in self.witnesses)
        if self.last_ns >= min(latest_ns, self._witness_first_ns):
            self._witness_looks = 0
        if latest_ns <= self.last_ns:
            return False
        if not self._witness_looks:
            self._witness_first_ns = self._witness_last_ns = latest_ns
            self._witness_looks = 1
        elif latest_ns > self._witness_last_ns:
            self._witness_last_ns = latest_ns
            self._witness_looks += 1
        return self._witness_looks >= WITNESS_LOOKS and self._witness_last_ns - self._witness_first_ns >= WITNESS_NS

    def overlaps(self, old: HeardStream) -> bool:
        """Return whether both have heard the same piece of the stream, so that nothing lies between them if `old` ends now."""
        if self.memory.depth:
            return old.update_id is not None and self.start_update_id is not None and self.start_update_id <= old.update_id
        return self.first_ns is not None and old.count > 0 and old.last_ns >= self.first_ns


def find_witnesses(market: Market, streams: Iterable[HeardStream]) -> None:
    """Let each depth stream of a connection know which other streams of it show that its book moved."""
    by_symbol: dict[str, list[HeardStream]] = {}
    streams = list(streams)
    for stream in streams:
        if is_witness(market, stream.memory.name):
            by_symbol.setdefault(stream.memory.symbol, []).append(stream)
    for stream in streams:
        stream.witnesses = tuple(by_symbol.get(stream.memory.symbol, ())) if stream.memory.depth else ()
