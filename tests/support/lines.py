"""A tiny exchange whose book is known at every id, and the lines collectors hear of it: cut, restamped, torn, doubled, shuffled."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from support.frames import frame
from support.oracle import OracleBook
from twintape.columns.books import SnapshotCopy
from twintape.columns.expand import Outputs, expand
from twintape.columns.lines import DAY_US, Chunk, midnight_us
from twintape.columns.merge import DayRequest, MergedDay, merge_depth_day
from twintape.columns.schema import ARRIVAL, BOOK_UNKNOWN, DEPTH, SNAPSHOT, VERBATIM, TableReader
from twintape.core import wire
from twintape.core.errors import WireError
from twintape.core.markets import Market

DATE = "2026-11-22"
BEFORE = "2026-11-21"
BEHIND = "2026-11-23"
MIDNIGHT_US = midnight_us(DATE)
NOON_US = MIDNIGHT_US + DAY_US // 2
DEPTH_OF_BOOK = 6


@dataclass(frozen=True, slots=True)
class Change:
    """One level set to a quantity (in steps of 0.001; 0 removes it) at one id; the ids `(prev, final]` are its own."""

    prev: int
    final: int
    time_us: int
    side: str
    price: int
    quantity: int


def price_text(ticks: int) -> str:
    return f"{ticks // 100}.{ticks % 100:02d}"


def quantity_text(steps: int) -> str:
    return f"{steps // 1000}.{steps % 1000:03d}"


@dataclass(frozen=True, slots=True)
class Event:
    """What the exchange publishes of some consecutive changes: every level touched, with its final quantity."""

    market: Market
    prev: int
    first: int
    final: int
    time_us: int
    bids: tuple[tuple[str, str], ...]
    asks: tuple[tuple[str, str], ...]

    def print(self, *, stamp_us: int | None = None, **more) -> bytes:
        """Return the frame; `stamp_us` is another `E`."""
        return frame(
            self.market,
            first=self.first,
            final=self.final,
            prev=self.prev,
            event_time=str((self.time_us if stamp_us is None else stamp_us) // 1000),
            transaction_time=str(self.time_us // 1000),
            **({"bids": self.bids, "asks": self.asks} | more),
        )


class Exchange:
    """Changes of a book, made up from a seed.

    Args:
        market: Decides how ids run: without holes on spot, in leaps on futures.
        seed: Everything follows from it.
        count: How many changes.
        start_id: The id before the first change.
        start_us: The time of the first change; they are 40 ms apart.
    """

    def __init__(self, market: Market, seed: int = 1, count: int = 60, *, start_id: int = 1000, start_us: int = NOON_US) -> None:
        rng = random.Random(seed)
        self.market = market
        self.start_id = start_id
        self.opening = {("bid", 9_990 - k): 1000 + k for k in range(DEPTH_OF_BOOK)} | {
            ("ask", 10_010 + k): 2000 + k for k in range(DEPTH_OF_BOOK)
        }
        self.changes: list[Change] = []
        at = start_id
        for number in range(count):
            final = at + (1 if market is Market.SPOT else rng.randint(1, 500))
            side = rng.choice(["bid", "ask"])
            price = rng.randint(9_985, 9_999) if side == "bid" else rng.randint(10_001, 10_015)
            quantity = rng.choice([0, rng.randint(1, 5000)])
            self.changes.append(Change(at, final, start_us + number * 40_000, side, price, quantity))
            at = final

    @property
    def end_id(self) -> int:
        return self.changes[-1].final

    def book(self, update_id: int) -> OracleBook:
        """Return the true book at an id."""
        book = OracleBook()
        for (side, price), quantity in self.opening.items():
            book.set(book.bids if side == "bid" else book.asks, price, quantity)
        for change in self.changes:
            if change.final <= update_id:
                book.set(book.bids if change.side == "bid" else book.asks, change.price, change.quantity)
        return book

    def sha256(self, update_id: int) -> str:
        return self.book(update_id).sha256(-2, -3)

    def event(self, begin: int, end: int) -> Event:
        """Return the event of the changes `[begin, end)`."""
        part = self.changes[begin:end]
        touched = {(change.side, change.price): change.quantity for change in part}
        sides = {
            side: tuple((price_text(p), quantity_text(q)) for (s, p), q in sorted(touched.items()) if s == side)
            for side in ("bid", "ask")
        }
        first = part[0].prev + 1 if self.market is Market.SPOT else part[0].final
        return Event(self.market, part[0].prev, first, part[-1].final, part[-1].time_us, sides["bid"], sides["ask"])

    def events(self, windows: Sequence[int] | int = 3) -> list[Event]:
        """Return all changes cut into windows of the given sizes, taken in turn."""
        sizes = [windows] if isinstance(windows, int) else list(windows)
        found, begin, number = [], 0, 0
        while begin < len(self.changes):
            end = min(begin + sizes[number % len(sizes)], len(self.changes))
            found.append(self.event(begin, end))
            begin, number = end, number + 1
        return found

    def snapshot(self, update_id: int, *, collector: str = "tokyo", levels: int = 1000, limit: int = 1000) -> SnapshotCopy:
        """Return the REST snapshot at an id, as a collector received it."""
        bid_price, bid_quantity, ask_price, ask_quantity = (side[:levels] for side in self.book(update_id).levels())
        time_us = max((c.time_us for c in self.changes if c.final <= update_id), default=self.changes[0].time_us)
        return SnapshotCopy(
            collector,
            "0000aaaa-1",
            time_us * 1000,
            limit,
            wire.DepthSnapshot(
                update_id,
                None,
                None,
                tuple((price_text(p), quantity_text(q)) for p, q in zip(bid_price, bid_quantity, strict=True)),
                tuple((price_text(p), quantity_text(q)) for p, q in zip(ask_price, ask_quantity, strict=True)),
            ),
        )


# --- what collectors hear ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Heard:
    """One raw line of one collector."""

    collector: str
    connection: str
    receive_time_ns: int
    frame: bytes

    @property
    def text(self) -> bytes:
        return b"%d %b\n" % (self.receive_time_ns, self.frame)


def hear(
    frames: Iterable[bytes],
    collector: str = "tokyo",
    connection: str = "0000aaaa-1",
    *,
    delay_us: int = 5_000,
    start_us: int = NOON_US,
) -> list[Heard]:
    """Return the frames as one connection heard them, one after another: `delay_us` behind their `E`, in this order."""
    found: list[Heard] = []
    at = start_us * 1000
    for text in frames:
        event_time_us = wire.event_time_us(text)
        at = max(at + 1, ((event_time_us or 0) + delay_us) * 1000)
        found.append(Heard(collector, connection, at, text))
    return found


def printed(events: Iterable[Event], **more) -> list[bytes]:
    return [event.print(**more) for event in events]


def chunks_of(heard: Sequence[Heard], *, sizes: Sequence[int] = (1000,), source: int = 0, date: str | None = None) -> list[Chunk]:
    """Return the lines as chunks: in their order per connection, cut by the given sizes in turn and where the exchange's date changes."""
    found: list[Chunk] = []
    connections: dict[tuple[str, str], list[Heard]] = {}
    for one in heard:
        connections.setdefault((one.collector, one.connection), []).append(one)
    number = 0
    for (collector, connection), lines in connections.items():
        part: list[bytes] = []
        day = ""
        for one in lines:
            own = date or _date(one.frame) or day or DATE
            if part and (own != day or len(part) >= sizes[number % len(sizes)]):
                found.append(Chunk(collector, connection, source, day, _constant(b"".join(part))))
                part, number = [], number + 1
            day = own
            part.append(one.text)
        found.append(Chunk(collector, connection, source, day, _constant(b"".join(part))))
    return found


def _date(text: bytes) -> str | None:
    time_us = wire.event_time_us(text)
    return None if time_us is None else str(np.datetime64(time_us, "us").astype("datetime64[D]"))


def _constant(text: bytes) -> Callable[[], bytes]:
    return lambda: text


# --- what a merge made ---------------------------------------------------------------------------------------------------------

SCHEMAS = {"depth": DEPTH, "arrival": ARRIVAL, "snapshot": SNAPSHOT, "verbatim": VERBATIM}


def merge(chunks: Sequence[Chunk], market: Market, **more) -> MergedDay:
    return merge_depth_day(DayRequest(market=market, symbol="BTCUSDT", stream="depth@100ms", date=DATE, **more), chunks)


def files(day: MergedDay) -> dict[str, bytes]:
    return {table.name: table.data for table in day.tables}


def rows(day: MergedDay, table: str) -> list[dict[str, object]]:
    data = files(day).get(table)
    if data is None:
        return []
    schema = SCHEMAS[table]
    plain = pa.schema([pa.field(f.name, pa.int64() if pa.types.is_timestamp(f.type) else f.type) for f in schema])
    return [row for batch in TableReader(data, schema) for row in batch.cast(plain).to_pylist()]


def expanded(day: MergedDay) -> list[Chunk]:
    return expand(Outputs(files(day)), DATE)


def raw_lines(chunks: Iterable[Chunk]) -> Counter[tuple[str, str, bytes]]:
    """Return the multiset of lines with who heard them where."""
    return Counter((c.collector, c.connection, text) for c in chunks for text in c.load().splitlines())


def known_books(day: MergedDay, market: Market, opening: OracleBook | None = None) -> dict[int, OracleBook]:
    """Read the archive as a stranger would: the book behind every row that does not say it is unknown, by id.

    Books start at the opening or an anchor of the snapshot table and follow the rows; levels are in ticks of 0.01 and steps of 0.001.
    """
    anchors = [row for row in rows(day, "snapshot") if row["verdict"] == "anchor"]
    book = opening
    found: dict[int, OracleBook] = {}
    for row in rows(day, "depth"):
        if row["flags"] & BOOK_UNKNOWN:
            book = None
            continue
        if book is None or row["flags"] & 9:
            book = _book_of(next(a for a in anchors if row["prev_update_id"] <= a["last_update_id"] <= row["final_update_id"]))
        book.apply(*_sides(row))
        found[row["final_update_id"]] = copy_of(book)
    return found


def copy_of(book: OracleBook) -> OracleBook:
    twin = OracleBook()
    twin.apply(book.bids.items(), book.asks.items())
    return twin


def _book_of(row) -> OracleBook:
    book = OracleBook()
    book.apply(*_sides(row))
    return book


def _sides(row):
    # Mantissas of finer exponents are whole multiples of ticks and steps.
    price, quantity = 10 ** max(0, -2 - row["price_exponent"]), 10 ** max(0, -3 - row["quantity_exponent"])
    tick, step = 10 ** max(0, 2 + row["price_exponent"]), 10 ** max(0, 3 + row["quantity_exponent"])
    return tuple(
        [(p * tick // price, q * step // quantity) for p, q in zip(row[f"{side}_price"], row[f"{side}_quantity"], strict=True)]
        for side in ("bid", "ask")
    )


def decodable(one: Heard, market: Market) -> bool:
    try:
        wire.decode_depth(one.frame, market)
    except WireError:
        return False
    return True


def covered_ids(heard: Iterable[Heard], market: Market, start: int | None = None) -> list[tuple[int, int]]:
    """Return the union of all intervals `(p, u]`, from `start` on, as disjoint ascending intervals."""
    found: list[tuple[int, int]] = []
    spans = sorted(
        (e.prev_update_id, e.final_update_id) for e in (wire.decode_depth(h.frame, market) for h in heard if decodable(h, market))
    )
    for prev, final in spans:
        if start is not None:
            prev = max(prev, start)
        if final <= prev:
            continue
        if found and prev <= found[-1][1]:
            found[-1] = (found[-1][0], max(found[-1][1], final))
        else:
            found.append((prev, final))
    return found


# --- a whole scene -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Scene:
    """An exchange, what was heard of it, and the snapshots taken."""

    exchange: Exchange
    heard: tuple[Heard, ...]
    snapshots: tuple[SnapshotCopy, ...]

    @property
    def market(self) -> Market:
        return self.exchange.market

    def merge(self, chunks: Sequence[Chunk] | None = None, **more) -> MergedDay:
        more = {"start_update_id": self.exchange.start_id, "snapshots": self.snapshots} | more
        return merge(chunks_of(self.heard) if chunks is None else chunks, self.market, **more)


CITIES = ("frankfurt", "tokyo", "virginia")


def scene(market: Market, seed: int, *, lines: int = 2, recut: bool = True, trouble: bool = True) -> Scene:
    """Return a day of up to 3 lines with everything that happens to lines, by the seed's luck: ranges lost, events late, doubled, restamped,
    printed in other ways, garbled, reconnections, and snapshots at any id (some of them wrong in one quantity)."""
    rng = random.Random(seed)
    exchange = Exchange(market, seed, count=rng.randint(1, 60))
    common = [rng.randint(1, 5) for _ in range(3)]
    heard: list[Heard] = []
    for number in range(lines):
        windows = [rng.randint(1, 5) for _ in range(3)] if recut and rng.random() < 0.5 else common
        events = exchange.events(windows)
        for _ in range(rng.randint(0, 2) if trouble else 0):
            begin = rng.randrange(len(events) + 1)
            del events[begin : begin + rng.randint(1, 6)]
        texts = [_with_luck(event, rng) if trouble else event.print() for event in events]
        if trouble and texts and rng.random() < 0.5:
            place = rng.randrange(len(texts))
            texts.insert(rng.randrange(len(texts) + 1), texts[place] if rng.random() < 0.5 else texts.pop(place))
        if trouble and rng.random() < 0.2:
            texts.insert(rng.randrange(len(texts) + 1), rng.choice([b"<html>", b'{"e":"depthUpdate","E":1}', b"{}"]))
        connections = [f"{number:08x}-{k}" for k in (1, 2)]
        change = rng.randrange(len(texts) + 1)
        delay_us = rng.randint(1, 200) * 1000
        heard += hear(texts[:change], CITIES[number], connections[0], delay_us=delay_us)
        heard += hear(texts[change:], CITIES[number], connections[1], delay_us=delay_us)
    ids = [exchange.start_id, *(change.final for change in exchange.changes)]
    snapshots = [exchange.snapshot(rng.choice(ids), collector=rng.choice(CITIES)) for _ in range(rng.randint(0, 3))]
    return Scene(exchange, tuple(heard), tuple(snapshots))


def _with_luck(event: Event, rng: random.Random) -> bytes:
    more: dict[str, object] = {}
    luck = rng.random()
    if luck < 0.1:
        more["suffix"] = ",[]"
    elif luck < 0.15:
        more["wrapped"] = False
    elif luck < 0.2:
        more["extra"] = '"x": 1, '
    text = event.print(stamp_us=event.time_us + rng.choice([0, 0, 0, 1000]), **more)
    return text.replace(b'"b":', b'"b": ') if 0.2 <= luck < 0.25 else text


def wrong(copy: SnapshotCopy) -> SnapshotCopy:
    """Return the snapshot with another quantity of its best bid."""
    (price, _), *others = copy.snapshot.bids
    return replace(copy, snapshot=replace(copy.snapshot, bids=((price, "77.777"), *others)))
