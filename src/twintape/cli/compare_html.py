"""A comparison as one HTML page that needs nothing else: to look at, to send, to publish."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from twintape.cli.common import plural, span_text
from twintape.cli.compare_svg import histogram, hours, timeline, windows
from twintape.cli.compare_text import (
    LEVEL_WORDS,
    clock_text,
    differences,
    example_words,
    level_differences,
    rate_text,
    time_text,
    together_text,
    worth_text,
)
from twintape.columns.compare import LEVELS
from twintape.columns.report import GRAVE, headline, meaning
from twintape.core.errors import WireError
from twintape.core.markets import Market
from twintape.core.wire import decode_depth

if TYPE_CHECKING:
    from twintape.columns.compare import Example, Pair
    from twintape.columns.redundancy import Redundancy
    from twintape.columns.report import Report, StreamReport, Total

__all__ = ["page"]

STREAMS_MAX = 30
"""Streams with a section of their own, those that differ first."""
_STYLE = """
:root{--ink:#1a1d21;--soft:#667;--paper:#fff;--card:#f6f7f9;--line:#d9dde3;--good:#2e7d4f;--fair:#b7791f;--bad:#c0262d;--blue:#2b6cb0;--ground:#eceff3;--on:#fff}
@media(prefers-color-scheme:dark){:root{--ink:#e6e8eb;--soft:#99a;--paper:#15181c;--card:#1d2126;--line:#333a42;--good:#5bb57f;--fair:#e0a84a;--bad:#f0626a;--blue:#6aa9e6;--ground:#262b31;--on:#0f1216}}
*{box-sizing:border-box}body{font:16px/1.5 system-ui,"DejaVu Sans",sans-serif;color:var(--ink);background:var(--paper);margin:0 auto;max-width:980px;padding:24px}
h1{font-size:1.6rem;margin:.2em 0}h2{font-size:1.2rem;margin:2em 0 .4em;border-bottom:1px solid var(--line)}h3{font-size:1rem;margin:1.4em 0 .3em}h3.pair{margin-top:2.2em;border-left:4px solid var(--blue);padding-left:8px}ul{margin:.4em 0}
.small,.soft{font-size:.85rem;color:var(--soft)}.verdict{border-left:8px solid var(--tone);background:var(--card);padding:14px 18px;margin:14px 0;border-radius:4px}
.verdict b{font-size:1.15rem;color:var(--tone)}.good{--tone:var(--good)}.fair{--tone:var(--fair)}.bad{--tone:var(--bad)}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}td,th{text-align:left;padding:5px 10px 5px 0;border-bottom:1px solid var(--line);vertical-align:top}
th{font-weight:600;color:var(--soft);font-size:.85rem}td.n,th.n{text-align:right}.wrap{overflow-wrap:anywhere}.tone{color:var(--tone);font-weight:600}
.pic{overflow-x:auto}svg{width:100%;min-width:640px;height:auto;display:block}svg text{font:13px system-ui,"DejaVu Sans",sans-serif;fill:var(--ink)}svg text.small{font-size:11px;fill:var(--soft)}svg text.on{fill:var(--on);font-size:11px}
.up{fill:var(--good);opacity:.8}.down{fill:var(--bad)}.gap{fill:none;stroke:var(--bad);stroke-width:2}.ground{fill:var(--ground)}.bytes{fill:var(--blue);opacity:.55}.cut{fill:var(--fair)}.book{fill:var(--bad)}
.bar{fill:var(--blue)}.window{fill:var(--blue)}.axis{stroke:var(--soft);stroke-width:1}
pre{white-space:pre-wrap;overflow-wrap:anywhere;font-size:12px;background:var(--card);padding:10px;border-radius:4px}summary{cursor:pointer;color:var(--soft)}
@media(max-width:560px){body{padding:14px}h1{font-size:1.3rem}td,th{font-size:.85rem;padding-right:6px}}
.key span{display:inline-block;width:.8em;height:.8em;margin:0 .3em 0 1em;border-radius:2px}
"""
_KEY = (
    '<p class="small key"><span style="background:var(--good)"></span>heard<span style="background:var(--bad)"></span>hole, or books differ'
    '<span style="background:var(--fair)"></span>cut differently<span style="background:var(--blue)"></span>other bytes (share of the windows)</p>'
)


def page(report: Report) -> str:
    """Return the whole page."""
    names = ", ".join(line.name for line in report.lines)
    facts = [
        report.market,
        plural(len(report.streams), "stream"),
        names,
        f"{time_text(report.from_us)} to {time_text(report.to_us)} UTC",
    ]
    facts += [report.mode, report.version]
    body = [
        f"<h1>Do {len(report.lines)} clients hear the same updates?</h1>",
        f'<p class="soft">{escape(" · ".join(facts))}</p>',
        *(_verdict(total) for total in report.totals),
        _lines(report),
        "<h2>Stream by stream</h2>",
    ]
    order = sorted(report.streams, key=lambda one: (not any(pair.findings for pair in one.pairs), one.symbol, one.stream))
    body += [_stream(one, Market(report.market)) for one in order[:STREAMS_MAX]]
    if len(order) > STREAMS_MAX:
        body.append(f'<p class="soft">{len(order) - STREAMS_MAX} more streams are in the JSON report.</p>')
    body.append(_method())
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(names)}: the same updates?</title><style>{_STYLE}</style></head><body>{''.join(body)}</body></html>\n"
    )


def _tone(findings: list[str]) -> str:
    if any(name in GRAVE for name in findings):
        return "bad"
    return "good" if not findings or findings == ["restamped"] else "fair"


def _verdict(total: Total) -> str:
    more = "".join(f"<br>{escape(meaning(name))}" for name in total.findings[1:])
    rows = "".join(
        f'<tr class="{"good" if not total.levels[name].count else "bad" if name == "book" else "fair"}"><td>{LEVEL_WORDS[name]}</td>'
        f'<td class="tone">{_unbroken(rate_text(total.levels[name]))}</td></tr>'
        for name in LEVELS
    )
    listed = "".join(f"<li>{escape(text)}</li>" for text in differences(total))
    return (
        f'<section class="verdict {_tone(total.findings)}"><div>{escape(total.a)} | {escape(total.b)}</div><b>{escape(headline(total.findings))}</b>'
        f'<span class="soft">{more}</span><table><tr><th>how much is the same</th><th>not the same (95 % bounds)</th></tr>{rows}</table>'
        f"<ul>{listed}</ul><span class='small'>{plural(total.windows, 'window')} in {plural(total.streams, 'stream')} compared</span></section>"
    )


def _unbroken(text: str) -> str:
    return text.replace(" %", "\xa0%").replace(" – ", "\xa0–\xa0")


def _lines(report: Report) -> str:
    rows = (
        f"<tr><td>{escape(line.name)}</td><td class=wrap>{escape(line.source)}</td><td>{clock_text(line.clock)}</td></tr>"
        for line in report.lines
    )
    return f"<h2>Who listened</h2><table><tr><th>line</th><th>where</th><th>its clock</th></tr>{''.join(rows)}</table>"


def _stream(one: StreamReport, market: Market) -> str:
    parts = [f"<h3>{escape(one.symbol)} {escape(one.stream)}</h3>"]
    if one.redundancy is not None:
        parts += [timeline(one.redundancy, one.pairs), _KEY, _health(one.redundancy)]
    for pair in one.pairs:
        parts.append(_pair(pair, market, alone=len(one.pairs) == 1))
    return "".join(parts)


def _health(worth: Redundancy) -> str:
    words = "<br>".join(escape(text) for text in (worth_text(worth), *together_text(worth)))
    rows = "".join(
        f"<tr><td>{escape(line.name)}</td><td class=n>{line.windows:,}</td><td class=n>{line.available:.4%}</td><td class=n>{line.outages_count}</td>"
        f"<td class=n>{span_text(line.lost_us * 1e3)}</td><td class=n>{span_text(line.saved_us * 1e3)}</td></tr>"
        for line in worth.lines
    )
    return (
        "<table><tr><th>line</th><th class=n>windows</th><th class=n>available</th><th class=n>holes</th><th class=n>time lost</th>"
        f"<th class=n>what only it has</th></tr>{rows}</table><p class=soft>{words}</p>"
    )


def _pair(pair: Pair, market: Market, *, alone: bool) -> str:
    names = (pair.a, pair.b)
    parts = [] if alone else [f'<h3 class="pair">{escape(pair.a)} | {escape(pair.b)}</h3>']
    if pair.arrival.difference_ns.count:
        parts += ["<h3>Who hears it first</h3>", _arrival(pair)]
    if pair.event_time.count:
        parts += [
            f"<h3>E differs in {plural(pair.event_time.count, 'window')}</h3>",
            histogram(pair.event_time, "ms", 1e-3, names),
        ]
    seen: set[str] = set()
    for example in pair.examples:
        if example.kind in seen and example.kind.startswith("missing"):
            continue  # one window like any other says it all
        seen.add(example.kind)
        parts.append(_example(example, pair, market))
    return "".join(parts)


def _arrival(pair: Pair) -> str:
    names, found = (pair.a, pair.b), pair.arrival.difference_ns
    heads = "".join(f"<th class=n>{point} %</th>" for point in found.percentiles)
    cells = "".join(f"<td class=n>{span_text(value)}</td>" for value in found.percentiles.values())
    return (
        f"<div class=pic><table><tr><th>{escape(pair.b)} minus {escape(pair.a)}</th>{heads}</tr><tr><td>percentiles</td>{cells}</tr></table></div>"
        + histogram(found, "ms", 1e-6, names)
        + hours(pair.arrival.hours, names)
    )


def _example(example: Example, pair: Pair, market: Market) -> str:
    names = (pair.a, pair.b)
    ids = (_ids(example.a, market), _ids(example.b, market))
    text = "\n".join(
        f"{name}  {time_ns}  {frame}"
        for name, frames in zip(names, (example.a, example.b), strict=True)
        for time_ns, frame in frames
    )
    levels = "".join(f"<li>{escape(one)}</li>" for one in level_differences(example, market))
    return (
        f"<h3>Example: {escape(example_words(example.kind, pair))}</h3>{windows(example, names, ids)}"
        + (
            f'<p class="small">levels that differ ({escape(pair.a)} | {escape(pair.b)})</p><ul class="small">{levels}</ul>'
            if levels
            else ""
        )
        + f"<details><summary>the frames, verbatim</summary><pre>{escape(text)}</pre></details>"
    )


def _ids(frames: list[tuple[int, str]], market: Market) -> list[tuple[int, int]]:
    found = []
    for _, text in frames:
        try:
            event = decode_depth(text.encode(), market)
        except WireError:
            continue
        found.append((event.prev_update_id, event.final_update_id))
    return found


def _method() -> str:
    return (
        "<h2>How this was measured</h2><p>Every depth frame was kept byte for byte and lined up by update id. A window covers the ids (p, u]; p is U−1 on spot "
        "and pu on futures. Lines are compared where both recorded. Books are compared at ids at which both stand. Bounds are exact binomial ones at 95 %; for no "
        "difference in n they are the rule of three, 3/n. Arrival is by each client's own clock. Made with <code>twintape compare</code>.</p>"
    )
