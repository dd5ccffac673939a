"""A comparison on a terminal: the verdict first, then what it rests on."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from rich.console import Console, Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from twintape.columns.compare import LEVELS
from twintape.columns.report import GRAVE, headline, meaning

if TYPE_CHECKING:
    from collections.abc import Sequence

    from twintape.columns.compare import Example, Pair
    from twintape.columns.redundancy import Redundancy
    from twintape.columns.report import Report, Total
    from twintape.columns.statistics import Rate
    from twintape.core.lineup import Lineup, Row
    from twintape.io.listening import ClientState

__all__ = ["LEVEL_WORDS", "live_view", "print_report", "rate_text", "row_text", "span_text", "worth_text"]

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
EXAMPLE_CHARACTERS = 2000
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


def span_text(nanoseconds: float) -> str:
    """Return a length of time for people.

    >>> span_text(-1_250_000), span_text(90e9), span_text(0)
    ('-1.25 ms', '90 s', '0')
    """
    for unit, size in (("d", 86_400e9), ("h", 3600e9), ("s", 1e9), ("ms", 1e6), ("µs", 1e3)):
        if abs(nanoseconds) >= (size * 2 if unit in "dh" else size):
            return f"{nanoseconds / size:.3g} {unit}"
    return f"{nanoseconds:.0f} ns" if nanoseconds else "0"


def time_text(time_us: int | None) -> str:
    """Return a time (UTC) to the second."""
    return "–" if time_us is None else datetime.fromtimestamp(time_us // 1_000_000, UTC).strftime("%Y-%m-%d %H:%M:%S")


def print_report(report: Report, console: Console, *, examples: bool = True) -> None:
    """Print everything a person wants to know, the verdict first."""
    for total in report.totals:
        console.print(_verdict(total))
        console.print(_levels(total))
        _print_differences(report, total, console)
    for one in report.streams[:STREAMS_MAX]:
        if one.redundancy is not None:
            console.print(Text(f"\n{one.symbol} {one.stream}", style="bold"))
            console.print(_health(one.redundancy))
            _print_worth(one.redundancy, console)
    if len(report.streams) > STREAMS_MAX:
        console.print(f"… and {len(report.streams) - STREAMS_MAX} more streams: see --json or --html")
    _print_clocks(report, console)
    shown: set[str] = set()
    for one in report.streams if examples else []:
        for pair in one.pairs:
            for example in pair.examples:
                if example.kind not in shown:
                    shown.add(example.kind)
                    _print_example(f"{one.symbol} {one.stream}", pair, example, console)


def _verdict(total: Total) -> Panel:
    grave = any(name in GRAVE for name in total.findings)
    calm = not total.findings or total.findings == ["restamped"]
    style = "bold white on red" if grave else "green" if calm else "yellow"
    lines = [Text(headline(total.findings), style="bold")]
    lines += [Text(f"also {meaning(name)}") for name in total.findings[1:]]
    lines.append(Text(f"{total.windows:,} windows in {total.streams} streams", style="dim" if not grave else ""))
    return Panel(Group(*lines), title=f"{total.a} | {total.b}", border_style=style, title_align="left")


def _levels(total: Total) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("how much is the same")
    table.add_column("not the same")
    for name in LEVELS:
        rate = total.levels[name]
        style = "green" if not rate.count else "bold red" if name == "book" else "yellow"
        table.add_row(LEVEL_WORDS[name], Text(rate_text(rate), style=style if rate.of else "dim"))
    return table


def _print_differences(report: Report, total: Total, console: Console) -> None:
    facts = []
    if total.cut_a:
        facts.append(f"cut differently: {total.split:,} split, {total.merge:,} merged, {total.shift:,} shifted places")
    if total.omitted_by_a or total.omitted_by_b:
        facts.append(f"levels left out: {total.omitted_by_a:,} by {total.a}, {total.omitted_by_b:,} by {total.b}")
    if total.conflicts:
        facts.append(f"CONFLICTS: at {total.conflicts:,} common ids a level has two quantities")
    if total.undecided:
        facts.append(f"undecided: {total.undecided:,} places where a level's quantity is known to one line only")
    if total.missing_in_a or total.missing_in_b:
        facts.append(f"missing: {total.missing_in_a:,} windows in {total.a}, {total.missing_in_b:,} in {total.b}")
    for fact in facts:
        console.print("  " + fact, style="bold red" if fact.startswith("CONFLICT") else None)
    pairs = [(one, pair) for one in report.streams for pair in one.pairs if (pair.a, pair.b) == (total.a, total.b)]
    for one, pair in pairs[:STREAMS_MAX]:
        if not pair.windows_a:
            continue
        words = [f"  {one.symbol} {one.stream}:", ", ".join(pair.findings) or "identical"]
        if pair.event_time.count:
            middle = pair.event_time.percentiles
            words.append(f"| E differs in {pair.event_time.count:,}, by {span_text(middle['50'] * 1e3)} (median)")
        points = pair.arrival.difference_ns.percentiles
        if points:
            later = total.b if points["50"] > 0 else total.a
            words.append(
                f"| {later} hears {span_text(abs(points['50']))} later (median; 5–95 %: {span_text(points['5'])} to {span_text(points['95'])})"
            )
        console.print(" ".join(words))
    if total.differing and len(pairs) > STREAMS_MAX:
        console.print(f"  {len(total.differing)} streams differ: {', '.join(total.differing[:STREAMS_MAX])}")


def _health(redundancy: Redundancy) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0))
    for name in ("line", "windows", "repeats", "connections", "available", "holes", "time lost", "only it has"):
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


def _print_worth(redundancy: Redundancy, console: Console) -> None:
    if len(redundancy.lines) < 2:
        return
    console.print(worth_text(redundancy))
    if redundancy.joint:
        console.print(f"{len(redundancy.joint)} holes that no line covers", style="red")
    for pair in redundancy.dependence:
        words = {
            "independent": "fail independently, as far as this shows",
            "together": "FAIL TOGETHER more often than chance explains",
            "too few": "have too few holes to say whether they fail together",
        }[pair.verdict]
        console.print(f"{pair.a} and {pair.b} {words} ({pair.together} joint, {pair.expected:.2g} expected by chance)")


def _print_clocks(report: Report, console: Console) -> None:
    for line in report.lines:
        clock = line.clock
        if clock is None or clock.error_ns_max is None:
            console.print(f"clock of {line.name}: not known; its arrival times are only as good as its clock", style="dim")
        else:
            offset = max(abs(clock.offset_ns_min or 0), abs(clock.offset_ns_max or 0))
            console.print(
                f"clock of {line.name}: at most {span_text(offset)} off, known to ±{span_text(clock.error_ns_max)}", style="dim"
            )


def _print_example(where: str, pair: Pair, example: Example, console: Console) -> None:
    console.print(f"\n{where}, {example.kind}: ids ({example.prev_update_id}, {example.final_update_id}]", style="bold")
    for name, frames in ((pair.a, example.a), (pair.b, example.b)):
        if not frames:
            console.print(f"  {name}  nothing", style="red")
        for time_ns, text in frames:
            short = text if len(text) <= EXAMPLE_CHARACTERS else f"{text[:EXAMPLE_CHARACTERS]}… ({len(text)} characters)"
            console.print(Text(f"  {name}  {time_ns}  {short}"), soft_wrap=True)


# --- live ----------------------------------------------------------------------------------------------------------------------------


def _cell(row: Row, client: int) -> str:
    return " ".join(f"{event.first_update_id}-{event.final_update_id}" for event in row.cells[client]) or "–"


def row_text(symbol: str, row: Row) -> str:
    """Return a row as a line of plain text."""
    cells = "  |  ".join(_cell(row, client) for client in range(len(row.cells)))
    return f"{_MARKS[row.verdict]} {symbol}  {cells}  {row.verdict}"


def live_view(
    rows: Sequence[tuple[str, Row]], lineups: Sequence[Lineup], states: Sequence[ClientState], left: str
) -> RenderableType:
    """Return the screen of a live comparison: counts, then the newest rows side by side."""
    counts = {verdict: sum(lineup.counts[verdict] for lineup in lineups) for verdict in lineups[0].counts}
    summary = Text("  ").join(
        Text(f"{_MARKS[verdict]} {verdict}: {count:,}", style=_VERDICT_STYLES[verdict]) for verdict, count in counts.items()
    )
    summary.append(f"   {left}", style="dim")
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
        table.add_row(_MARKS[row.verdict], symbol, *(_cell(row, client) for client in range(len(states))), style=style)
    return Group(summary, table)
