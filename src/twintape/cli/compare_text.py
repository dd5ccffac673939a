"""A comparison on a terminal: the verdict first, then what it rests on."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING

from rich.columns import Columns
from rich.console import Console, Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from twintape.cli.common import plural, span_text
from twintape.columns.compare import LEVELS
from twintape.columns.report import GRAVE, headline, meaning
from twintape.core.errors import WireError
from twintape.core.markets import Market
from twintape.core.wire import decode_depth

if TYPE_CHECKING:
    from collections.abc import Sequence

    from twintape.columns.compare import Example, Pair
    from twintape.columns.redundancy import Redundancy
    from twintape.columns.report import ClockBounds, Report, StreamReport, Total
    from twintape.columns.statistics import Rate
    from twintape.core.lineup import Lineup, Row
    from twintape.io.listening import ClientState

__all__ = [
    "LEVEL_WORDS",
    "clock_text",
    "differences",
    "example_words",
    "level_differences",
    "live_view",
    "print_report",
    "rate_text",
    "row_text",
    "time_text",
    "together_text",
    "worth_text",
]

LEVEL_WORDS = {
    "bytes": "same bytes",
    "bytes_without_event_time": "same bytes without E",
    "windows_and_levels": "same (U,u) and levels",
    "book": "same book at common ids",
}
_VERDICT_STYLES = {
    "same": "green",
    "E differs": "cyan",
    "cut differently": "yellow",
    "CONTENT DIFFERS": "bold white on red",
    "missing": "red",
}
_MARKS = {"same": "=", "E differs": "~", "cut differently": "≠", "CONTENT DIFFERS": "!", "missing": "·"}
STREAMS_MAX = 20
"""Streams that are listed one by one."""
EXAMPLE_LINES = 3
"""Lines of the terminal that a frame of an example may fill."""
LEVELS_SHOWN = 4
"""Differing levels of an example that are spelled out."""
ESTIMATE_MIN_US = 3_600_000_000
"""From less than an hour nothing is said of days."""


def percent(value: float) -> str:
    """Return a share for people.

    >>> percent(0.000012), percent(0.5), percent(0)
    ('0.0012 %', '50 %', '0 %')
    """
    return f"{float(f'{value * 100:.2g}'):.12g} %" if value < 0.1 else f"{float(f'{value * 100:.4g}'):.12g} %"


def rate_text(rate: Rate) -> str:
    """Return a rate with its bounds."""
    if not rate.of:
        return "nothing to compare"
    if not rate.count:
        return f"0 of {rate.of:,} (rate below {percent(rate.high)})"
    return f"{rate.count:,} of {rate.of:,} = {percent(rate.value)} ({percent(rate.low)} – {percent(rate.high)})"


def time_text(time_us: int | None) -> str:
    """Return a time (UTC) to the second."""
    return "–" if time_us is None else datetime.fromtimestamp(time_us // 1_000_000, UTC).strftime("%Y-%m-%d %H:%M:%S")


def print_report(report: Report, console: Console, *, examples: bool = True) -> None:
    """Print everything a person wants to know, the verdict first."""
    for total in report.totals:
        console.print(_verdict(total))
        console.print(_levels(total))
        _print_differences(report, total, console)
    _print_clocks(report, console)
    for one in report.streams[:STREAMS_MAX]:
        if one.redundancy is not None:
            console.print(Text(f"\n{one.symbol} {one.stream}", style="bold"))
            console.print(_health(one.redundancy))
            _print_worth(one.redundancy, console)
    if len(report.streams) > STREAMS_MAX:
        console.print(f"… and {len(report.streams) - STREAMS_MAX} more streams: see --json or --html")
    shown: set[str] = set()
    for one in report.streams if examples else []:
        for pair in one.pairs:
            for example in pair.examples:
                if example.kind not in shown:
                    shown.add(example.kind)
                    _print_example(f"{one.symbol} {one.stream}", pair, example, Market(report.market), console)
    if shown:
        console.print()
        for total in report.totals:
            # Long examples have pushed the first words off the screen.
            console.print(Text(f"{total.a} | {total.b}: {headline(total.findings)}", style=_style(total)))


def _verdict(total: Total) -> Panel:
    grave = any(name in GRAVE for name in total.findings)
    lines = [Text(headline(total.findings), style="bold")]
    lines += [Text(f"also {meaning(name)}") for name in total.findings[1:]]
    lines.append(
        Text(f"{plural(total.windows, 'window')} in {plural(total.streams, 'stream')}", style="dim" if not grave else "")
    )
    return Panel(Group(*lines), title=f"{total.a} | {total.b}", border_style=_style(total), title_align="left")


def _style(total: Total) -> str:
    if any(name in GRAVE for name in total.findings):
        return "bold white on red"
    return "green" if not total.findings or total.findings == ["restamped"] else "yellow"


def _levels(total: Total) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("how much is the same")
    table.add_column("not the same")
    for name in LEVELS:
        rate = total.levels[name]
        style = "green" if not rate.count else "bold red" if name == "book" else "yellow"
        table.add_row(LEVEL_WORDS[name], Text(rate_text(rate), style=style if rate.of else "dim"))
    return table


def differences(total: Total) -> list[str]:
    """Return in words what differs beside the four levels."""
    facts = []
    if total.conflicts:
        facts.append(f"CONFLICTS: at {plural(total.conflicts, 'common id')} a level has two quantities")
    if total.omitted_by_a or total.omitted_by_b:
        facts.append(f"levels left out: {total.omitted_by_a:,} by {total.a}, {total.omitted_by_b:,} by {total.b}")
    if total.cut_a:
        facts.append(f"cut differently: {total.split:,} split, {total.merge:,} merged, {plural(total.shift, 'shifted place')}")
    if total.undecided:
        facts.append(f"undecided: {plural(total.undecided, 'place')} where a level's quantity is known to one line only")
    if total.missing_in_a or total.missing_in_b:
        facts.append(f"missing: {plural(total.missing_in_a, 'window')} in {total.a}, {total.missing_in_b:,} in {total.b}")
    if total.first_a or total.first_b:
        facts.append(f"heard first: {total.first_a:,} by {total.a}, {total.first_b:,} by {total.b}")
    return facts


def _print_differences(report: Report, total: Total, console: Console) -> None:
    table = Table.grid(padding=(0, 1))
    table.add_column(width=1)
    table.add_column()
    for fact in differences(total):
        table.add_row("·", fact, style="bold red" if fact.startswith("CONFLICT") else None)
    console.print(table)
    pairs = [(one, pair) for one in report.streams for pair in one.pairs if (pair.a, pair.b) == (total.a, total.b)]
    met = [(one, pair) for one, pair in pairs if pair.windows_a]
    if met:
        console.print(_streams(met[:STREAMS_MAX]))
    if total.differing and len(met) > STREAMS_MAX:
        console.print(f"{len(total.differing)} streams differ: {', '.join(total.differing[:STREAMS_MAX])}")


def _streams(met: Sequence[tuple[StreamReport, Pair]]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0))
    for name in ("stream", "differs", "E off by", "who is later", "5 – 95 %"):
        table.add_column(name, no_wrap=name != "differs", overflow="fold")
    for one, pair in met:
        stamps, points = pair.event_time.percentiles, pair.arrival.difference_ns.percentiles
        later = f"{pair.b if points['50'] > 0 else pair.a} by {span_text(abs(points['50']))}" if points else "–"
        table.add_row(
            f"{one.symbol} {one.stream}",
            ", ".join(pair.findings) or "nothing",
            span_text(stamps["50"] * 1e3) if stamps else "–",
            later,
            f"{span_text(points['5'])} to {span_text(points['95'])}" if points else "–",
        )
    return table


def _health(redundancy: Redundancy) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0))
    for name in ("line", "windows", "repeats", "sockets", "available", "holes", "time lost", "only it has"):
        table.add_column(name, justify="left" if name == "line" else "right")
    for line in redundancy.lines:
        table.add_row(
            line.name,
            f"{line.windows:,}",
            f"{line.repeats:,}",
            f"{line.connections}",
            f"{line.available:.4%}",
            f"{line.outages_count}",
            span_text(line.lost_us * 1e3),
            span_text(line.saved_us * 1e3),
            style="red" if line.contradictions else None,
        )
    return table


def worth_text(redundancy: Redundancy) -> str:
    """Return how many gaps an archive of one, two, … lines would have."""
    span_us = redundancy.to_us - redundancy.from_us
    if span_us < ESTIMATE_MIN_US:
        return f"{span_text(span_us * 1e3)} are too short to say how many gaps a day one, two or more lines would have"
    worth = (
        f"{one.lines} line{'s' * (one.lines > 1)}: {one.episodes_per_day:.3g} ({one.low:.2g} – {one.high:.2g})"
        for one in redundancy.together
    )
    return "gaps a day of an archive with " + ", ".join(worth)


def together_text(redundancy: Redundancy) -> list[str]:
    """Return what all lines lack together, and whether they fail together."""
    found = []
    if len(redundancy.lines) > 1 and redundancy.joint:
        found.append(f"{plural(len(redundancy.joint), 'hole')} that no line covers")
    for pair in redundancy.dependence:
        words = {
            "independent": "fail independently, as far as this shows",
            "together": "FAIL TOGETHER more often than chance explains",
            "too few": "have too few holes to say whether they fail together",
        }[pair.verdict]
        found.append(f"{pair.a} and {pair.b} {words} ({pair.together} together, {pair.expected:.2g} expected by chance)")
    return found


def _print_worth(redundancy: Redundancy, console: Console) -> None:
    if len(redundancy.lines) < 2:
        return
    console.print(worth_text(redundancy))
    for text in together_text(redundancy):
        console.print(text, style="red" if "no line" in text else None)


def clock_text(clock: ClockBounds | None) -> str:
    """Return what is known of a clock."""
    if clock is None or clock.error_ns_max is None:
        return "not known"
    offset = max(abs(clock.offset_ns_min or 0), abs(clock.offset_ns_max or 0))
    return f"at most {span_text(offset)} off, known to ±{span_text(clock.error_ns_max)}"


def _print_clocks(report: Report, console: Console) -> None:
    known = [f"{line.name}: {clock_text(line.clock)}" for line in report.lines]
    console.print(f"\nwho is later (median) is only as certain as the clocks. {'; '.join(known)}", style="dim")


def level_differences(example: Example, market: Market) -> list[str]:
    """Return the levels whose last quantity differs, in words; none where it is not the levels that differ."""
    if example.kind not in ("conflict", "omitted"):
        return []
    last: tuple[dict[tuple[str, Decimal], str], dict[tuple[str, Decimal], str]] = ({}, {})
    for own, frames in zip(last, (example.a, example.b), strict=True):
        for _, text in frames:
            try:
                event = decode_depth(text.encode(), market)
            except WireError:
                return []
            for side, levels in (("bid", event.bids), ("ask", event.asks)):
                own.update({(side, Decimal(price)): quantity for price, quantity in levels})
    found = []
    for key in sorted({*last[0], *last[1]}):
        a, b = last[0].get(key), last[1].get(key)
        if a is None or b is None or Decimal(a) != Decimal(b):
            found.append(f"{key[0]} {key[1]}: {a or 'not mentioned'} | {b or 'not mentioned'}")
    return found


def _print_example(where: str, pair: Pair, example: Example, market: Market, console: Console) -> None:
    kind = example_words(example.kind, pair)
    console.print(f"\n{where}, {kind}: ids ({example.prev_update_id}, {example.final_update_id}]", style="bold", highlight=False)
    differing = level_differences(example, market)
    for text in differing[:LEVELS_SHOWN]:
        console.print(f"  {pair.a} | {pair.b}: {text}", style="red" if example.kind == "conflict" else None)
    if len(differing) > LEVELS_SHOWN:
        console.print(f"  and {plural(len(differing) - LEVELS_SHOWN, 'level')} more")
    room = EXAMPLE_LINES * console.width - 60
    for name, frames in ((pair.a, example.a), (pair.b, example.b)):
        if not frames:
            console.print(f"  {name}  nothing", style="red")
        for time_ns, text in frames:
            short = text if len(text) <= room else f"{text[:room]}… ({len(text)} characters: --html or --json)"
            console.print(Text(f"  {name}  {time_ns}  {short}"), soft_wrap=True)


def example_words(kind: str, pair: Pair) -> str:
    """Return a kind of example in words."""
    return {"missing_in_a": f"missing in {pair.a}", "missing_in_b": f"missing in {pair.b}", "event_time": "another E"}.get(
        kind, kind
    )


# --- live ----------------------------------------------------------------------------------------------------------------------------


def _cell(row: Row, client: int) -> str:
    return " ".join(f"{event.first_update_id}-{event.final_update_id}" for event in row.cells[client]) or "–"


def _short_cell(row: Row, client: int) -> str:
    """Return the ids of a cell as short as they can be read: the first in full, of the others the last digits."""
    events = row.cells[client]
    if not events:
        return "–"
    first, last = str(events[0].first_update_id), str(events[-1].final_update_id)
    alike = next((place for place, (one, two) in enumerate(zip(first, last, strict=False)) if one != two), len(last))
    digits = max(len(last) - alike, 2) if len(first) == len(last) else len(last)
    ids = [(str(event.first_update_id)[-digits:], str(event.final_update_id)[-digits:]) for event in events]
    return " ".join([f"{first}-{ids[0][1]}", *(f"{start}-{end}" for start, end in ids[1:])])


def row_text(symbol: str, row: Row) -> str:
    """Return a row as a line of plain text."""
    cells = "  |  ".join(_cell(row, client) for client in range(len(row.cells)))
    return f"{_MARKS[row.verdict]} {symbol}  {cells}  {row.verdict}"


def live_view(
    rows: Sequence[tuple[str, Row]], lineups: Sequence[Lineup], states: Sequence[ClientState], left: str
) -> RenderableType:
    """Return the screen of a live comparison: counts, then the newest rows side by side."""
    counts = {verdict: sum(lineup.counts[verdict] for lineup in lineups) for verdict in lineups[0].counts}
    words = [Text(f"{_MARKS[verdict]} {verdict}: {count:,}", style=_VERDICT_STYLES[verdict]) for verdict, count in counts.items()]
    summary = Columns([*words, Text(left, style="dim")], padding=(0, 2))
    table = Table(expand=True, box=None, padding=(0, 1))
    table.add_column("", width=1)
    table.add_column("symbol", no_wrap=True, max_width=12)
    for state in states:
        note = f"{state.frames:,} frames" if state.connected else "not connected"
        table.add_column(
            Text(f"{state.client.name}: U-u ({note})", style="" if state.connected else "red"),
            overflow="ellipsis",
            no_wrap=True,
            ratio=1,
        )
    for symbol, row in rows:
        style = _VERDICT_STYLES[row.verdict]
        table.add_row(_MARKS[row.verdict], symbol, *(_short_cell(row, client) for client in range(len(states))), style=style)
    return Group(summary, table)
