"""Whatever goes wrong is one line on stderr and the promised exit code; nobody sees a traceback."""

import json
import os
import signal
import subprocess
import sys

import pytest
from typer.testing import CliRunner

import twintape
from support.processes import call, command
from twintape.cli import app
from twintape.cli.common import guarded, run_async
from twintape.core.errors import ConfigError, RefusedError, TwintapeError


def complaint(*words, expect):
    """Run a command that goes wrong and return what it complains of, without the name in front."""
    done = CliRunner().invoke(app, [str(word) for word in words])
    assert isinstance(done.exception, SystemExit), done.exception
    assert done.exit_code == expect, done.output
    assert done.stderr.startswith("twintape: ")
    assert done.stderr.count("\n") == 1
    return done.stderr.removeprefix("twintape: ").rstrip()


@pytest.fixture
def store(tmp_path):
    """Four spot events, recorded by one collector, not merged yet."""
    lines = ['1700000000000000000 {"lastUpdateId":10,"bids":[["1.0","5.0"]],"asks":[["2.0","6.0"]]}']
    for number in range(11, 15):
        event = {"e": "depthUpdate", "E": 1_700_000_000_000 + number, "s": "TOYUSDT", "U": number, "u": number}
        event |= {"b": [["1.1", "1.0"]], "a": []}
        frame = {"stream": "toyusdt@depth@100ms", "data": event}
        lines.append(f"{1_700_000_000_000_000_000 + number * 1_000_000} {json.dumps(frame, separators=(',', ':'))}")
    (tmp_path / "tape").write_text("\n".join(lines) + "\n")
    words = ("import", tmp_path / "tape", "--market", "spot", "--collector", "alpha", "--symbol", "toyusdt")
    call(*words, "--store", tmp_path / "store")
    return tmp_path / "store"


# --- arguments -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "date", ["0001-01-01", "9999-12-31", "2008-12-31", "2200-01-01", "20240808", "2024-W32-4", "2024-02-30", "２０２４-01-01", ""]
)
@pytest.mark.parametrize("words", [("merge",), ("verify",), ("proof", "--symbol", "TOYUSDT")])
def test_a_date_is_a_plausible_day_in_the_one_spelling_of_the_keys(tmp_path, words, date):
    assert complaint(*words, "--date", date, "--store", tmp_path, expect=2).startswith("not a date")


@pytest.mark.parametrize("date", ["2009-01-01", "2199-12-31", "2024-02-29"])
def test_the_first_and_the_last_date_are_dates(tmp_path, date):
    assert call("merge", "--date", date, "--store", tmp_path) == "nothing is recorded for that date\n"


@pytest.mark.parametrize(
    "words",
    [
        ("ls",),
        ("book",),
        ("merge", "--date", "2023-11-14"),
        ("verify",),
        ("proof", "--date", "2023-11-14"),
    ],
)
@pytest.mark.parametrize("symbol", ["", "!x", "A\x07", "A" * 65])
def test_what_can_be_no_symbol_is_refused(tmp_path, words, symbol):
    assert complaint(*words, "--symbol", symbol, "--store", tmp_path, expect=2).startswith("not a symbol")


@pytest.mark.parametrize("scratch", ["missing", "file"])
def test_a_scratch_directory_has_to_be_there(tmp_path, scratch):
    (tmp_path / "file").touch()
    words = ("merge", "--date", "2023-11-14", "--store", tmp_path, "--scratch", tmp_path / scratch)
    assert complaint(*words, expect=2).startswith("cannot keep raw objects in ")


@pytest.mark.parametrize("grace", ["soon", "9" * 400 + "d", "-1h"])
def test_a_wrong_grace_is_found_before_anything_is_merged(store, tmp_path, grace):
    (tmp_path / "night.toml").write_text(f'store = "{store}"\ngapped_grace = "{grace}"\n')
    assert complaint("nightly", "--config", tmp_path / "night.toml", expect=2).startswith("not a duration")
    assert not (store / "proof").exists()
    assert sorted(path.name for path in store.iterdir()) == [".twintape-tmp", "raw"]


def test_a_night_without_news_says_so(store):
    assert "TOYUSDT" in call("nightly", "--store", store, "--no-prune")
    assert call("nightly", "--store", store, "--no-prune") == "nothing new to merge\n"


def test_it_says_its_version():
    assert call("--version") == f"twintape {twintape.__version__}\n"


# --- stores --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [
        ("ls",),
        ("ls", "--raw"),
        ("inspect", "raw/v1/x"),
        ("cat", "raw/v1/x"),
        ("book", "--symbol", "TOYUSDT"),
        ("merge", "--date", "2023-11-14"),
        ("verify",),
        ("proof", "--symbol", "TOYUSDT", "--date", "2023-11-14"),
        ("prune",),
        ("nightly",),
    ],
)
@pytest.mark.parametrize("url", ["typo", "s3//bucket/x"])
def test_a_mistyped_store_is_not_made(tmp_path, monkeypatch, words, url):
    monkeypatch.chdir(tmp_path)
    assert complaint(*words, "--store", url, expect=2).startswith(f"there is no store at {url}")
    assert list(tmp_path.iterdir()) == []


def test_opening_an_archive_makes_no_store(tmp_path):
    for url in (str(tmp_path / "typo"), (tmp_path / "typo").as_uri()):
        with pytest.raises(ConfigError, match="there is no store at"):
            twintape.open(url)
    with pytest.raises(ConfigError, match="empty"):
        twintape.open("")
    assert list(tmp_path.iterdir()) == []


# --- the operating system ------------------------------------------------------------------------------------------------------


def test_places_nobody_can_write_are_named_in_one_line(tmp_path):
    (tmp_path / "file").touch()
    words = ("record", "btcusdt", "--collector", "x", "--store", tmp_path / "store")
    assert str(tmp_path / "file") in complaint(*words, "--spool", tmp_path / "file" / "spool", expect=1)
    assert str(tmp_path / "file") in complaint("demo", "--directory", tmp_path / "file" / "demo", expect=1)


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (ConfigError("a", hint="b"), 2, "twintape: a (b)\n"),
        (RefusedError("a"), 3, "twintape: refused: a\n"),
        (TwintapeError("a"), 1, "twintape: a\n"),
        (FileNotFoundError(2, "No such file", "x"), 1, "twintape: x: No such file\n"),
        (OSError("odd"), 1, "twintape: odd\n"),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_every_error_has_its_exit_code(capsys, error, code, text):
    with pytest.raises(SystemExit) as caught, guarded():
        raise error
    assert (caught.value.code, capsys.readouterr().err) == (code, text)


# --- signals -------------------------------------------------------------------------------------------------------------------


def test_ctrl_c_while_the_command_line_is_loading_ends_silently():
    # The finder stands for the moment: it interrupts the first import of a command's module.
    script = """
import sys
class Interrupt:
    def find_spec(self, name, path=None, target=None):
        if name == "twintape.cli.night":
            raise KeyboardInterrupt
sys.meta_path.insert(0, Interrupt())
from twintape.cli import main
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def test_ctrl_c_ends_a_command_silently(tmp_path):
    words = command("exchange", "--market", "spot", "--synthetic", "1", "--wait-clients", "1")
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=30)
    assert (process.returncode in (0, 130), error) == (True, "")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_during_a_merge_ends_it_and_leaves_no_temporary_files(store, tmp_path, number, code):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    # The store hangs as a far one may: the first read waits until somebody ends the process.
    # Whoever runs the tests in the background of a shell has Ctrl-C ignored; here it counts.
    script = """
import asyncio, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from twintape.io import store
async def hang(self, key, start, size):
    print("reading", flush=True)
    await asyncio.sleep(60)
store.FileStore.get_range = hang
from twintape.cli import main
main()
"""
    words = ["merge", "--date", "2023-11-14", "--store", str(store), "--scratch", str(scratch)]
    process = subprocess.Popen(
        [sys.executable, "-c", script, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=dict(os.environ)
    )
    assert process.stdout.readline() == "reading\n"
    assert len(list(scratch.iterdir())) == 1
    process.send_signal(number)
    _, error = process.communicate(timeout=30)
    assert (process.returncode, error) == (code, "")
    assert list(scratch.iterdir()) == []


def test_sigterm_is_the_default_again_afterwards():
    async def work():
        return 7

    before = signal.getsignal(signal.SIGTERM)
    assert run_async(work()) == 7
    assert signal.getsignal(signal.SIGTERM) == before
