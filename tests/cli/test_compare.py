import io
import json
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
from rich.console import Console
from typer.testing import CliRunner

from support.compare import said, text_of
from twintape.cli import app
from twintape.cli.compare_text import live_view, print_report, row_text
from twintape.columns.report import Report
from twintape.core.client import Client
from twintape.core.gateway import Partition
from twintape.core.lineup import Event, Lineup, Row, Verdict, event_of
from twintape.core.markets import Market
from twintape.io.listening import ClientState

RUNNER = CliRunner()


def run(*arguments: str, code: int = 0) -> str:
    result = RUNNER.invoke(app, ["compare", *arguments])
    assert result.exit_code == code, result.output
    return result.output


def tapes(root: Path, partition: Partition, *, lost: range = range(0)) -> list[str]:
    arguments = []
    for name, how, latency in (("tokyo", Partition.IDENTICAL, 0), ("paris", partition, 400_000)):
        heard = [one for number, one in enumerate(said(Market.SPOT, how)) if name == "tokyo" or number not in lost]
        (root / f"{name}.txt").write_bytes(text_of(heard, latency))
        arguments += ["--tape", f"{name}={root / name}.txt"]
    return arguments


def report_of(root: Path, partition: Partition, **more: Any) -> Report:
    grave = 1 if partition in (Partition.CONFLICT, Partition.NET) else 0
    return msgspec.json.decode(run(*tapes(root, partition, **more), "--json", code=grave), type=Report)


@pytest.mark.parametrize(
    ("partition", "words", "code"),
    [
        (Partition.IDENTICAL, "IDENTICAL", 0),
        (Partition.SPLIT, "RE-CUT WINDOWS", 0),
        (Partition.SHIFTED, "SHIFTED WINDOWS", 0),
        (Partition.NET, "OMITTED LEVELS", 1),
        (Partition.CONFLICT, "CONFLICT", 1),
    ],
)
def test_the_verdict_stands_first_and_grave_ones_are_findings(
    tmp_path: Path, partition: Partition, words: str, code: int
) -> None:
    output = run(*tapes(tmp_path, partition), code=code)
    assert words in "".join(output.splitlines()[:3])


@pytest.mark.parametrize("width", [80, 160])
@pytest.mark.parametrize("partition", [Partition.SPLIT, Partition.CONFLICT])
def test_the_report_fits_the_terminal_but_for_frames(tmp_path: Path, width: int, partition: Partition) -> None:
    console = Console(width=width, record=True, force_terminal=False, file=io.StringIO())
    print_report(report_of(tmp_path, partition, lost=range(300, 320)), console, examples=False)
    text = console.export_text()
    assert max(len(line) for line in text.splitlines()) <= width
    assert "same book at common ids" in text
    assert "in paris" in " ".join(text.split())


def test_json_is_the_whole_report(tmp_path: Path) -> None:
    report = report_of(tmp_path, Partition.SPLIT)
    assert report.format == "twintape-compare/1"
    assert report.totals[0].findings == ["recut"]
    assert report.streams[0].pairs[0].examples


def test_the_page_needs_nothing_from_elsewhere_and_shows_what_differs(tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    run(*tapes(tmp_path, Partition.SPLIT, lost=range(300, 320)), "--html", str(page))
    text = page.read_text()
    assert not re.search(r"(src|href)=|url\(|@import|https?://", text)
    assert text.count("<svg") >= 4
    assert text.count("<svg") == text.count("</svg>")
    for words in ("RE-CUT WINDOWS", "Example: split", "paris minus tokyo", "same book at common ids"):
        assert words in text
    assert text.count('class="down"') >= 1


def test_names_and_frames_cannot_break_out_of_the_page(tmp_path: Path) -> None:
    arguments = [word.replace("tokyo=", "<b>&=") for word in tapes(tmp_path, Partition.SPLIT)]
    page = tmp_path / "report.html"
    run(*arguments, "--html", str(page))
    assert "<b>&" not in page.read_text().replace("<b>RE-CUT", "")
    assert "&lt;b&gt;&amp;" in page.read_text()


def test_plots_are_a_png(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    picture = tmp_path / "report.png"
    run(*tapes(tmp_path, Partition.SPLIT, lost=range(300, 320)), "--plot", str(picture))
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--store", "x", "--tape", "a=b"], "one of them"),
        (["--store", "{root}"], "of which date"),
        (["--tape", "a"], "NAME=FILE"),
        (["--tape", "a={root}/tokyo.txt"], "two lines"),
        (["--tape", "a={root}/none.txt", "--tape", "b={root}/none.txt"], "none.txt"),
        ([], "which symbols"),
        (["BTCUSDT", "--a", "https://x"], "websocket address"),
        (["BTCUSDT", "--market", "moon"], "unknown market"),
        (["BTCUSDT", "--a", "ws://x", "--b", "ws://y", "--for", "soon"], "not a duration"),
    ],
)
def test_what_cannot_be_compared_is_told_with_what_to_do(tmp_path: Path, arguments: list[str], words: str) -> None:
    tapes(tmp_path, Partition.IDENTICAL)
    result = RUNNER.invoke(app, ["compare", *(word.replace("{root}", str(tmp_path)) for word in arguments)])
    assert result.exit_code == 2
    assert words in result.stderr


def test_rows_are_lined_up_by_id_on_screen_and_on_paper(tmp_path: Path) -> None:
    states = [ClientState(Client("tokyo"), connected=True, frames=7), ClientState(Client("paris"))]
    lineup, rows = Lineup(2), []
    for client, partition in ((0, Partition.IDENTICAL), (1, Partition.SPLIT)):
        for _, frame in said(Market.SPOT, partition)[:200]:
            event = event_of(frame, Market.SPOT)
            assert event is not None
            rows += lineup.feed(client, event)
    assert row_text("BTCUSDT", rows[0]).startswith("= BTCUSDT  ")
    assert row_text("BTCUSDT", rows[0]).endswith("  same")
    for width in (80, 160):
        console = Console(width=width, record=True, file=io.StringIO())
        console.print(live_view([("BTCUSDT", row) for row in rows[-20:]], [lineup], states, "3 of 9 s"))
        text = console.export_text()
        assert "paris: U-u (not connected)" in text
        assert "cut differently: " in text
        assert max(map(len, text.splitlines())) <= width


def test_on_screen_ids_are_as_short_as_they_can_be_read() -> None:
    def event(prev: int, final: int) -> Event:
        return Event(prev, prev + 1, final, 0, b"")

    cells = ((event(9999, 10001), event(10001, 10050)), (event(10000, 10005),), ())
    states = [ClientState(Client(name), connected=True) for name in "abc"]
    console = Console(width=120, record=True, file=io.StringIO())
    row = Row(9999, 10050, cells, Verdict.CUT)
    console.print(live_view([("BTCUSDT", row)], [Lineup(3)], states, "1 s"))
    words = console.export_text().splitlines()[-1].split()
    assert words == ["≠", "BTCUSDT", "10000-01", "02-50", "10001-05", "–"]


def test_the_verdict_is_said_again_behind_the_examples(tmp_path: Path) -> None:
    last = run(*tapes(tmp_path, Partition.SPLIT)).splitlines()[-1]
    assert last == "tokyo | paris: RE-CUT WINDOWS: the same updates, now and then cut elsewhere"


def test_json_has_no_other_output(tmp_path: Path) -> None:
    json.loads(run(*tapes(tmp_path, Partition.IDENTICAL), "--json"))
