"""Pictures of a comparison as SVG text: lines over time, histograms, and windows cut differently. No library, nothing from elsewhere."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from twintape.cli.common import span_text
from twintape.cli.compare_text import time_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from twintape.columns.compare import Bucket, Example, Pair
    from twintape.columns.redundancy import Redundancy
    from twintape.columns.statistics import Distribution

__all__ = ["histogram", "hours", "timeline", "windows"]

WIDTH = 860
LEFT = 120
"""Room for names."""
_PLOT = WIDTH - LEFT - 20
_ROW = 26


def _svg(height: float, parts: Sequence[str], label: str) -> str:
    inner = "".join(parts)
    return f'<div class="pic"><svg viewBox="0 0 {WIDTH} {height:.0f}" role="img" aria-label="{escape(label)}">{inner}</svg></div>'


def _text(x: float, y: float, text: str, *, anchor: str = "start", kind: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" class="{kind}">{escape(text)}</text>'


def _box(x: float, y: float, width: float, height: float, kind: str, title: str = "") -> str:
    inner = f"<title>{escape(title)}</title>" if title else ""
    return f'<rect x="{x:.2f}" y="{y:.2f}" width="{max(width, 0.5):.2f}" height="{height:.2f}" class="{kind}">{inner}</rect>'


def timeline(worth: Redundancy, pairs: Sequence[Pair]) -> str:
    """Draw each line over time with its holes, and below where pairs differ."""
    span = max(worth.to_us - worth.from_us, 1)

    def place(time_us: int) -> float:
        return LEFT + _PLOT * min(max((time_us - worth.from_us) / span, 0), 1)

    parts, y = [], 8.0
    for line in worth.lines:
        parts += [_text(LEFT - 8, y + 14, line.name, anchor="end"), _box(LEFT, y, _PLOT, 18, "up" if line.windows else "down")]
        for hole in line.outages if line.windows else []:
            title = f"{line.name}: {time_text(hole.from_us)}, {span_text((hole.to_us - hole.from_us) * 1e3)}"
            parts.append(_box(place(hole.from_us), y, max(place(hole.to_us) - place(hole.from_us), 1.5), 18, "down", title))
        y += _ROW
    for hole in worth.joint:
        title = f"nobody: {time_text(hole.from_us)}"
        parts.append(_box(place(hole.from_us), 2, max(place(hole.to_us) - place(hole.from_us), 2), y - 6, "gap", title))
    for pair in pairs:
        if not pair.timeline:
            continue
        parts.append(_text(LEFT - 8, y + 14, f"{pair.a} ≠ {pair.b}"[:16], anchor="end", kind="small"))
        parts.append(_box(LEFT, y, _PLOT, 18, "ground"))
        width = (pair.timeline[1].start_us - pair.timeline[0].start_us) if len(pair.timeline) > 1 else span
        parts += [_bucket(bucket, place(bucket.start_us), place(bucket.start_us + width), y) for bucket in pair.timeline]
        y += _ROW
    for share in (0, 0.25, 0.5, 0.75, 1):
        anchor = "start" if share == 0 else "end" if share == 1 else "middle"
        parts.append(
            _text(LEFT + _PLOT * share, y + 12, time_text(int(worth.from_us + span * share))[11:], anchor=anchor, kind="small")
        )
    return _svg(y + 18, parts, "what each line heard over time")


def _bucket(bucket: Bucket, start: float, stop: float, y: float) -> str:
    if not bucket.windows:
        return ""
    differing = {"book": bucket.books, "cut": bucket.cut, "bytes": bucket.other_bytes}
    found = ""
    for kind, count in reversed(differing.items()):
        if count:
            height = max(18 * min(count / bucket.windows, 1), 2)
            title = f"{time_text(bucket.start_us)}: {count} of {bucket.windows} windows"
            found += _box(start, y + 18 - height, stop - start, height, kind, title)
    return found


def histogram(of: Distribution, unit: str, scale: float, names: tuple[str, str]) -> str:
    """Draw a histogram of a difference; left of zero the second line is earlier, right of it the first."""
    if not of.bins:
        return '<p class="small">nothing to show</p>'
    top, height = max(of.bins), 150
    low, high = of.edges[0], of.edges[-1]
    step = _PLOT / len(of.bins)
    parts = []
    for number, count in enumerate(of.bins):
        tall = height * count / top
        title = f"{of.edges[number] * scale:.4g} to {of.edges[number + 1] * scale:.4g} {unit}: {count:,}"
        parts.append(_box(LEFT + step * number + 0.5, 10 + height - tall, step - 1, tall, "bar", title) if count else "")
    parts.append(f'<line x1="{LEFT}" y1="{10 + height}" x2="{LEFT + _PLOT}" y2="{10 + height}" class="axis"/>')
    parts += [
        _text(LEFT + _PLOT * share, 28 + height, f"{(low + (high - low) * share) * scale:.3g}", anchor="middle", kind="small")
        for share in (0, 0.25, 0.5, 0.75, 1)
    ]
    parts.append(_text(LEFT + _PLOT / 2, 46 + height, f"{names[1]} minus {names[0]}, {unit}", anchor="middle", kind="small"))
    parts.append(_text(LEFT - 8, 20, f"{top:,}", anchor="end", kind="small"))
    return _svg(height + 54, parts, f"distribution in {unit}")


def hours(rows: Sequence[tuple[int, int, float, float, float]], names: tuple[str, str]) -> str:
    """Draw, hour by hour, how often the first line is first."""
    if len(rows) < 2:
        return ""
    step, parts = _PLOT / len(rows), []
    for number, (start_us, count, middle, far, share) in enumerate(rows):
        title = f"{time_text(start_us)}: {names[0]} first in {share:.1%} of {count:,}; median {span_text(middle)}, 95 % {span_text(far)}"
        parts.append(_box(LEFT + step * number + 1, 10 + 80 * (1 - share), step - 2, 80 * share, "bar", title))
        if len(rows) <= 24:
            parts.append(_text(LEFT + step * (number + 0.5), 106, time_text(start_us)[11:13], anchor="middle", kind="small"))
    parts.append(f'<line x1="{LEFT}" y1="50" x2="{LEFT + _PLOT}" y2="50" class="axis"/>')
    parts += [_text(LEFT - 8, 18, "always", anchor="end", kind="small"), _text(LEFT - 8, 92, "never", anchor="end", kind="small")]
    parts.append(_text(LEFT - 8, 54, f"{names[0]} first", anchor="end", kind="small"))
    return _svg(114, parts, "who is first, by hour")


def windows(example: Example, names: tuple[str, str], ids: tuple[list[tuple[int, int]], list[tuple[int, int]]]) -> str:
    """Draw how two lines cut the same ids."""
    low, high = example.prev_update_id, example.final_update_id
    span, parts, y = max(high - low, 1), [], 6.0
    for name, own in zip(names, ids, strict=True):
        parts.append(_text(LEFT - 8, y + 17, name, anchor="end"))
        if not own:
            parts.append(_box(LEFT, y, _PLOT, 24, "down", "nothing"))
            parts.append(_text(LEFT + _PLOT / 2, y + 16, "nothing heard", anchor="middle", kind="on"))
        for prev, final in own:
            start, stop = (LEFT + _PLOT * (value - low) / span for value in (prev, final))
            parts.append(_box(start + 1, y, stop - start - 2, 24, "window", f"({prev}, {final}]"))
            if stop - start > 90:
                parts.append(_text((start + stop) / 2, y + 16, f"{final}", anchor="middle", kind="on"))
        y += 32
    parts.append(_text(LEFT, y + 8, f"{low}", kind="small"))
    parts.append(_text(LEFT + _PLOT, y + 8, f"{high}", anchor="end", kind="small"))
    return _svg(y + 14, parts, f"ids {low} to {high}")
