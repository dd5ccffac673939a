"""What usually goes wrong with a collector, looked for before it records: settings, the machine and the store in, findings out.

Nothing here keeps a collector from starting. A *problem* will cost data, or already does; an *advice* may.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import combinations

from twintape.core.markets import Market
from twintape.core.settings import MarketSettings, RecordSettings
from twintape.core.shard import PHASES, rotation_phase
from twintape.core.symbols import is_selector
from twintape.core.wire import is_depth

__all__ = ["Facts", "Finding", "Level", "Nearby", "examine"]

GIB = 1 << 30
OUTAGE_HOURS = 72.0
"""So long a store may be away before anything is lost …"""
MARGIN = 1.2
STREAM_BYTES_PER_HOUR = 4 << 20
"""… at this rate while none was measured: sealed bytes of one stream of a busy symbol on a busy day."""
SELECTED_SYMBOLS = {Market.SPOT: 1500, Market.USDM: 600, Market.COINM: 100}
"""So many symbols a pattern may stand for."""
FILES_PER_CONNECTION = 4
"""A socket, the segment being written, and two while one is sealed and another begun."""
FILES_RESERVE = 128
CLOCK_ERROR_MAX_NS = 100_000_000
CLOCK_OFFSET_MAX_NS = 100_000_000
RECENT_NS = 3600 * 1_000_000_000
"""Whoever uploaded under our name within so long is alive."""
LEADERS = frozenset({"BTCUSDT", "ETHUSDT", "BTCUSD_PERP", "ETHUSD_PERP"})
"""Symbols that are never silent for seconds."""
ROTATE_HOURS_MAX = 23.0


class Level(StrEnum):
    """How bad a finding is."""

    FINE = "ok"
    ADVICE = "advice"
    PROBLEM = "problem"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at: what was found and, unless it is fine, what to do."""

    level: Level
    what: str
    action: str = ""


@dataclass(frozen=True, slots=True)
class Nearby:
    """Another collector of the same archive, by its configuration; `name` is the file's."""

    name: str
    settings: RecordSettings


@dataclass(frozen=True, slots=True)
class Facts:
    """What was found out about machine and store; None where it could not be.

    Attributes:
        descriptors: How many files the process may open at most.
        spool_free_bytes: Free on the spool's volume, what the spool occupies already included.
        spool_collector: Whose spool it is, if it was used before.
        clock_offset_ns: True time minus ours.
        clock_error_ns: The bound of that.
        clock_source: Who says so.
        store_error: Why the store could not be asked; empty if it could.
        uploaded_ns: When the last object under our name was put, by the store's clock, as far back as was looked; None if there is none.
        now_ns: Wall time.
        bytes_per_hour: What we uploaded per hour of late; None if nothing.
        exchange_errors: Addresses that could not be reached, and why.
    """

    descriptors: int
    spool_free_bytes: int | None
    spool_collector: str | None
    clock_offset_ns: int | None
    clock_error_ns: int | None
    clock_source: str
    store_error: str
    uploaded_ns: int | None
    now_ns: int
    bytes_per_hour: float | None = None
    exchange_errors: Mapping[str, str] = field(default_factory=dict)


def examine(settings: RecordSettings, facts: Facts, nearby: Sequence[Nearby] = ()) -> list[Finding]:
    """Return what there is to say, in a fixed order: the machine, the store, the settings, the other collectors."""
    findings = [
        *_clock(facts),
        *_descriptors(settings, facts),
        *_spool(settings, facts),
        *_store(settings, facts),
        *_exchange(facts),
    ]
    for entry in settings.markets:
        findings += _market(settings, entry)
    findings += _connections(settings)
    everybody = [Nearby("this one", settings), *nearby]
    for one, other in combinations(everybody, 2):
        findings += _pair(one, other)
    if len(everybody) == 1:
        findings.append(
            Finding(
                Level.ADVICE,
                "no other collector's configuration was given to compare with",
                "a second collector in another network is what gaps are filled from; name its file with --beside",
            )
        )
    return findings


def _clock(facts: Facts) -> list[Finding]:
    offset_ns, error_ns = facts.clock_offset_ns, facts.clock_error_ns
    if offset_ns is None or error_ns is None:
        return [Finding(Level.PROBLEM, f"nobody keeps the clock ({facts.clock_source})", "install and start chrony")]
    text = f"clock: off by {offset_ns / 1e6:+.1f} ms, to within {error_ns / 1e6:.1f} ms ({facts.clock_source})"
    if abs(offset_ns) > CLOCK_OFFSET_MAX_NS or error_ns > CLOCK_ERROR_MAX_NS:
        return [
            Finding(
                Level.PROBLEM,
                text,
                "look at `chronyc tracking` and `chronyc sources`; receive times are recorded with this error",
            )
        ]
    return [Finding(Level.FINE, text)]


def _connection_count(settings: RecordSettings) -> int:
    count = 0
    for entry in settings.markets:
        per_connection = max(1, settings.streams_per_connection - bool(entry.sentinel))
        count += -(-_stream_count(entry) // per_connection) * settings.connections
    return count


def _stream_count(entry: MarketSettings) -> int:
    """Return how many streams there are, with a generous guess for patterns."""
    wide = sum(stream.startswith("!") for stream in entry.streams)
    named = sum(not is_selector(symbol) for symbol in entry.symbols)
    symbols = SELECTED_SYMBOLS[entry.market] if named < len(entry.symbols) else named
    return symbols * (len(entry.streams) - wide) + wide


def _descriptors(settings: RecordSettings, facts: Facts) -> list[Finding]:
    # A connection that is replaced is there twice for a while.
    needed = 2 * _connection_count(settings) * FILES_PER_CONNECTION + FILES_RESERVE
    text = f"files: {facts.descriptors} may be open, about {needed} are needed"
    if facts.descriptors < needed:
        return [Finding(Level.PROBLEM, text, "raise `ulimit -n` (LimitNOFILE= of the service)")]
    return [Finding(Level.FINE, text)]


def _spool(settings: RecordSettings, facts: Facts) -> list[Finding]:
    findings = []
    budget = settings.spool_gibibytes * GIB
    if facts.spool_collector not in (None, settings.collector):
        what = f"the spool {settings.spool} belongs to the collector {facts.spool_collector}, not to {settings.collector}"
        findings.append(Finding(Level.PROBLEM, what, "give each collector a spool of its own"))
    if facts.spool_free_bytes is None:
        findings.append(
            Finding(Level.PROBLEM, f"the spool {settings.spool} cannot be written", "make the directory, writable for this user")
        )
    elif facts.spool_free_bytes < budget:
        what = f"spool_gibibytes is {settings.spool_gibibytes:g}, and its volume has room for {facts.spool_free_bytes / GIB:.1f}"
        findings.append(Finding(Level.PROBLEM, what, "a larger volume, or a smaller budget: alarms count from the budget"))
    streams = sum(map(_stream_count, settings.markets))
    measured = facts.bytes_per_hour is not None
    rate = facts.bytes_per_hour if facts.bytes_per_hour is not None else float(streams * STREAM_BYTES_PER_HOUR)
    hours = budget / (rate * MARGIN) if rate else float("inf")
    how = "uploaded of late" if measured else f"assumed for {streams} streams on a busy day"
    what = f"spool: {settings.spool_gibibytes:g} GiB last {min(hours, 9999):.0f} h without the store, at {rate / (1 << 20):.1f} MiB/h {how}"
    if hours >= OUTAGE_HOURS:
        findings.append(Finding(Level.FINE, what))
    else:
        needed = rate * MARGIN * OUTAGE_HOURS / GIB
        action = f"spool_gibibytes = {needed:.0f} lasts {OUTAGE_HOURS:.0f} h"
        findings.append(Finding(Level.PROBLEM if measured else Level.ADVICE, what, action))
    return findings


def _store(settings: RecordSettings, facts: Facts) -> list[Finding]:
    if facts.store_error:
        action = "credentials come from the environment; `twintape doctor --role collector` tries what this collector needs"
        return [Finding(Level.PROBLEM, f"the store {settings.store} does not answer: {facts.store_error}", action)]
    if facts.spool_collector is None and facts.uploaded_ns is not None and facts.now_ns - facts.uploaded_ns < RECENT_NS:
        minutes = max(0, facts.now_ns - facts.uploaded_ns) / 60e9
        what = f"somebody called {settings.collector} uploaded {minutes:.0f} minutes ago, and this spool has never recorded"
        return [Finding(Level.PROBLEM, what, "every collector needs a name of its own (collector = …, or --collector)")]
    return [Finding(Level.FINE, f"store: {settings.store} answers")]


def _exchange(facts: Facts) -> list[Finding]:
    action = "network, proxy (`proxy`, HTTPS_PROXY), name service, or a firewall"
    return [
        Finding(Level.PROBLEM, f"{url} cannot be reached: {error}", action)
        for url, error in sorted(facts.exchange_errors.items())
    ]


def _market(settings: RecordSettings, entry: MarketSettings) -> list[Finding]:
    findings = []
    depth = [stream for stream in entry.streams if is_depth(stream)]
    selected = any(is_selector(symbol) for symbol in entry.symbols)
    several = selected or _stream_count(entry) > settings.streams_per_connection
    if not entry.sentinel and depth and (several or LEADERS.isdisjoint(entry.symbols)):
        leader = "btcusd_perp" if entry.market is Market.COINM else "btcusdt"
        findings.append(
            Finding(
                Level.ADVICE,
                f"{entry.market}: a connection of quiet symbols alone cannot be told from a stalled one for up to minutes",
                f'sentinel = "{leader}@depth5@100ms" puts a busy stream on every connection',
            )
        )
    if depth and entry.symbols and "bookTicker" not in entry.streams:
        findings.append(
            Finding(
                Level.ADVICE,
                f"{entry.market}: nothing contradicts a depth stream that falls silent while its connection goes on",
                "record bookTicker beside it: what it says is also an independent check of the books",
            )
        )
    if len(depth) > 1:
        what = f"{entry.market}: {' and '.join(depth)} are recorded; different speeds are different days and never fill each other's gaps"
        findings.append(Finding(Level.ADVICE, what, "one speed, the same on every collector, unless both are wanted"))
    return findings


def _connections(settings: RecordSettings) -> list[Finding]:
    findings = []
    if settings.connections == 1:
        findings.append(
            Finding(
                Level.ADVICE,
                "connections is 1: a connection that is cut costs this line what is sent until the next one hears",
                "connections = 2 loses nothing then, at twice the raw volume; or rely on the other collectors",
            )
        )
    if settings.rotate_hours > ROTATE_HOURS_MAX:
        what = f"rotate_hours is {settings.rotate_hours:g}: close to the 24 at which Binance cuts"
        findings.append(Finding(Level.ADVICE, what, "23 or less leaves time for a change without a gap"))
    if not settings.metrics_port:
        findings.append(
            Finding(
                Level.ADVICE, "metrics_port is 0: nobody is told when something is wrong", "metrics_port = 9100, and docs/alerts"
            )
        )
    return findings


def _pair(one: Nearby, other: Nearby) -> list[Finding]:
    a, b = one.settings, other.settings
    both = f"{one.name} and {other.name}"
    findings = []
    if a.collector == b.collector:
        findings.append(
            Finding(Level.PROBLEM, f"{both} are both called {a.collector}", "every collector needs a name of its own")
        )
    elif a.rotate_hours == b.rotate_hours and (near := _rotating_together(a, b)):
        what = f"{both} change their connections to {near} at the same times of day, as their names have it"
        findings.append(Finding(Level.ADVICE, what, "another name for one of them, or another rotate_hours"))
    if a.store != b.store:
        findings.append(Finding(Level.PROBLEM, f"{both} upload to different stores: they are never merged", "one store for all"))
    findings += _same_streams(both, a, b)
    if a.weight_share + b.weight_share > 1:
        what = f"{both} plan {a.weight_share:.0%} and {b.weight_share:.0%} of the request weight"
        findings.append(Finding(Level.ADVICE, what, "if they share an IP address the sum must stay below 100 %"))
    if a.source_address and a.source_address == b.source_address:
        findings.append(
            Finding(Level.ADVICE, f"{both} use the address {a.source_address}", "one ban silences both: use different networks")
        )
    return findings


def _rotating_together(a: RecordSettings, b: RecordSettings) -> str:
    """Return a market whose first connections both change in the same slot of the day; empty if there is none."""
    markets = {entry.market for entry in a.markets} & {entry.market for entry in b.markets}
    for market in sorted(markets):
        phases = [rotation_phase(f"{settings.collector}/{market}") for settings in (a, b)]
        if round((phases[0] - phases[1]) * PHASES) % PHASES == 0:
            return str(market)
    return ""


def _same_streams(both: str, a: RecordSettings, b: RecordSettings) -> list[Finding]:
    findings = []
    ours, theirs = ({entry.market: entry for entry in settings.markets} for settings in (a, b))
    for market in sorted(ours.keys() | theirs.keys()):
        if market not in ours or market not in theirs:
            findings.append(
                Finding(Level.ADVICE, f"{both}: only one records {market}", "what one collector records alone has no second line")
            )
            continue
        for what, left, right in (
            ("streams", ours[market].streams, theirs[market].streams),
            ("symbols", ours[market].symbols, theirs[market].symbols),
        ):
            different = sorted(set(left) ^ set(right))
            if different:
                text = f"{both}: {what} of {market} that only one records: {' '.join(different[:10])}"
                findings.append(Finding(Level.ADVICE, text, "what one collector records alone has no second line"))
    return findings
