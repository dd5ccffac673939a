"""A comparison as a PNG, by matplotlib (extra `plot`): lines over time, and the distributions of arrival and of `E`."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from twintape.columns.report import headline

if TYPE_CHECKING:
    from pathlib import Path

    from twintape.columns.redundancy import Redundancy
    from twintape.columns.report import Report, StreamReport
    from twintape.columns.statistics import Distribution

__all__ = ["write_plot"]

STREAMS_MAX = 6
"""Streams that are drawn, those that differ first."""
VERDICTS_MAX = 10
"""Pairs whose verdict stands above."""


def write_plot(report: Report, path: Path) -> None:
    """Draw the report's streams, one row each.

    Raises:
        OSError: The file cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    order = sorted(report.streams, key=lambda one: (not any(pair.findings for pair in one.pairs), one.symbol))[:STREAMS_MAX]
    verdicts = [f"{total.a} | {total.b}: {headline(total.findings)}" for total in report.totals[:VERDICTS_MAX]]
    height = 0.6 + 0.2 * len(verdicts) + sum(1.6 + 0.35 * len(report.lines) for _ in order)
    figure: Any = Figure(figsize=(13, height), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle("\n".join(verdicts), fontsize=10, x=0.01, ha="left")
    if order:
        axes = figure.subplots(len(order), 3, squeeze=False, width_ratios=(2, 1, 1))
        for row, one in zip(axes, order, strict=True):
            _draw(one, row)
    figure.savefig(path, dpi=110)


def _draw(one: StreamReport, row: Any) -> None:
    if one.redundancy is not None:
        _coverage(one.redundancy, row[0])
    name = one.symbol if one.symbol.isascii() else one.symbol.encode("ascii", "backslashreplace").decode()
    row[0].set_title(f"{name} {one.stream}", fontsize=9, loc="left")
    for axis, distribution, scale, title in (
        (row[1], one.pairs[0].arrival.difference_ns, 1e-6, "arrival, ms"),
        (row[2], one.pairs[0].event_time, 1e-3, "E, ms, where it differs"),
    ):
        _bars(distribution, scale, axis)
        axis.set_title(f"{one.pairs[0].b} − {one.pairs[0].a}: {title}", fontsize=9, loc="left")


def _coverage(worth: Redundancy, axis: Any) -> None:
    from importlib import import_module

    dates: Any = import_module("matplotlib.dates")  # untyped
    ticker: Any = import_module("matplotlib.ticker")

    def day(time_us: int) -> float:
        return float(dates.date2num(datetime.fromtimestamp(time_us / 1e6, UTC)))

    start, stop = day(worth.from_us), day(worth.to_us)
    for place, line in enumerate(worth.lines):
        axis.broken_barh(
            [(start, max(stop - start, 1e-9))], (place - 0.4, 0.8), facecolors="#2e7d4f" if line.windows else "#c0262d"
        )
        holes = [(day(hole.from_us), max(day(hole.to_us) - day(hole.from_us), (stop - start) / 800)) for hole in line.outages]
        axis.broken_barh(holes, (place - 0.4, 0.8), facecolors="#c0262d")
    axis.set_yticks(range(len(worth.lines)), [line.name for line in worth.lines], fontsize=8)
    axis.invert_yaxis()
    axis.set_xlim(start, max(stop, start + 1e-9))
    axis.xaxis.set_major_formatter(dates.DateFormatter("%H:%M:%S"))
    axis.xaxis.set_major_locator(ticker.MaxNLocator(6))
    axis.tick_params(axis="x", labelsize=7)


def _bars(distribution: Distribution, scale: float, axis: Any) -> None:
    if distribution.bins:
        edges = [edge * scale for edge in distribution.edges]
        axis.bar(edges[:-1], distribution.bins, width=edges[1] - edges[0], align="edge", color="#2b6cb0")
    else:
        axis.text(0.5, 0.5, "no difference", ha="center", va="center", fontsize=9, transform=axis.transAxes)
        axis.set_xticks([])
        axis.set_yticks([])
    axis.tick_params(labelsize=7)
