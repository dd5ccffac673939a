"""`ls`, `inspect`, `cat`, `book`, `proof` on a small store, as a user calls them."""

import json

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

import twintape
from support.processes import call
from twintape.cli import app


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Two copies of a small spot recording, one with a hole, merged."""
    root = tmp_path_factory.mktemp("look")
    lines = []
    snapshot = '{"lastUpdateId":10,"bids":[["1.00000000","5.00000000"]],"asks":[["2.00000000","6.00000000"]]}'
    lines.append(f"{1_700_000_000_000_000_000} {snapshot}")
    for number in range(11, 31):
        event = {"e": "depthUpdate", "E": 1_700_000_000_000 + number, "s": "TOYUSDT", "U": number, "u": number}
        event |= {"b": [[f"1.{number:08d}", "1.00000000"]], "a": []}
        frame = {"stream": "toyusdt@depth@100ms", "data": event}
        lines.append(f"{1_700_000_000_000_000_000 + number * 1_000_000} {json.dumps(frame, separators=(',', ':'))}")
    (root / "whole.txt").write_text("\n".join(lines) + "\n")
    (root / "holed.txt").write_text("\n".join(lines[:8] + lines[12:]) + "\n")
    for name, file in (("alpha", "holed"), ("beta", "whole")):
        call(
            "import",
            root / f"{file}.txt",
            "--market",
            "spot",
            "--collector",
            name,
            "--store",
            root / "store",
            "--symbol",
            "TOYUSDT",
        )
    call("merge", "--date", "2023-11-14", "--market", "spot", "--store", root / "store")
    return root / "store"


def test_ls_lists_days_and_their_files_can_be_opened(store):
    days = json.loads(call("ls", "--json", "--store", store))
    assert {(day["symbol"], day["stream"], day["status"]) for day in days} >= {("TOYUSDT", "depth@100ms", "partial")}
    files = call("ls", "--files", "--table", "depth", "--store", store).split()
    assert [pq.read_metadata(file).num_rows for file in files] == [20]
    assert "TOYUSDT" in call("ls", "--store", store)
    assert call("ls", "--store", store, "--symbol", "NONE").startswith("nothing is published")


def test_raw_segments_are_listed_inspected_and_printed_in_order_of_receipt(store):
    keys = [row["key"] for row in json.loads(call("ls", "--raw", "--json", "--store", store))]
    assert len(keys) == 2
    index = json.loads(call("inspect", keys[1], "--json", "--store", store))
    assert (index["collector"], index["count"]) == ("beta", 21)
    printed = call("cat", keys[1], "--store", store).splitlines()
    assert printed == (store.parent / "whole.txt").read_text().splitlines()
    assert len(call("cat", store / keys[1], "--stream", "toyusdt@depth@100ms").splitlines()) == 20


def test_the_proof_says_who_missed_what(store):
    proof = json.loads(
        call("proof", "--market", "spot", "--symbol", "TOYUSDT", "--date", "2023-11-14", "--json", "--store", store)
    )
    assert {line["collector"]: line["missed"] for line in proof["lines"]} == {"alpha": 4, "beta": 0}
    assert proof["gaps"] == []
    shown = call("proof", "--symbol", "TOYUSDT", "--date", "2023-11-14", "--store", store)
    assert "20 events" in shown


def test_the_book_is_exact(store):
    book = json.loads(call("book", "--market", "spot", "--symbol", "TOYUSDT", "--at", "end", "--json", "--store", store))
    assert book["update_id"] == 30
    assert book["bids"][0] == ["1.00000030", "1"]
    assert len(book["bids"]) == 21
    assert "ask" in call("book", "--symbol", "TOYUSDT", "--depth", "1", "--store", store)


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("merge", "--date", "yesterday"), 2),
        (("merge", "--date", "2023-11-14", "--market", "forex"), 2),
        (("book", "--symbol", "TOYUSDT", "--at", "noon"), 2),
        (("book", "--symbol", "NONE"), 1),
        (("book", "--symbol", "TOYUSDT", "--at", "9999-12-31T23:59:59"), 1),
        (("book", "--symbol", "TOYUSDT", "--at", "0001-01-01"), 1),
        (("proof", "--symbol", "TOYUSDT", "--date", "2010-01-01"), 1),
        (("inspect", "raw/v1/none"), 1),
        (("prune", "--grace", "soon"), 2),
        (("import", "no-such-file", "--market", "spot", "--collector", "x"), 2),
        (("import", "no-such-file", "--market", "spot", "--collector", "../x"), 2),
        (("nightly", "--config", "no-such.toml"), 2),
    ],
)
def test_what_goes_wrong_is_one_line_and_the_promised_exit_code(store, arguments, code):
    done = CliRunner().invoke(app, [*arguments, *(() if arguments[0] == "nightly" else ("--store", str(store)))])
    assert isinstance(done.exception, SystemExit)
    assert done.exit_code == code, done.output
    assert done.stderr.startswith("twintape: ")
    assert done.stderr.count("\n") == 1


def test_a_store_with_a_stop_object_is_refused(store, tmp_path):
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "STOP").write_text("")
    call("prune", "--store", tmp_path / "store", expect=3)


def test_symbols_may_be_typed_in_lower_case(store):
    date = ("--date", "2023-11-14")
    assert len(json.loads(call("ls", "--json", "--store", store, "--symbol", "toyusdt"))) == len(
        json.loads(call("ls", "--json", "--store", store, "--symbol", "TOYUSDT"))
    )
    assert json.loads(call("book", "--symbol", "toyusdt", "--json", "--store", store))["update_id"] == 30
    assert json.loads(call("proof", "--symbol", "ToyUsdt", *date, "--json", "--store", store))["symbol"] == "TOYUSDT"
    assert "TOYUSDT" in call("merge", "--symbol", "toyusdt", *date, "--store", store)
    assert "TOYUSDT" in call("verify", "--symbol", "toyusdt", "--store", store)
    archive = twintape.open(str(store))
    assert {day.symbol for day in archive.days("spot", "toyusdt")} == {"TOYUSDT"}
    assert archive.proof("spot", "toyusdt", "2023-11-14", "depth@100ms").symbol == "TOYUSDT"
    assert archive.book("spot", "toyusdt", "end").symbol == "TOYUSDT"
    assert archive.depth("spot", "toyusdt", "2023-11-14", "2023-11-15").read_all().num_rows == 20


def test_the_fates_of_a_line_add_up_to_its_frames(store):
    shown = call("proof", "--symbol", "TOYUSDT", "--date", "2023-11-14", "--store", store).splitlines()
    start = next(number for number, line in enumerate(shown) if line.startswith("line "))
    columns = shown[start].split()[:6]
    assert columns == ["line", "frames", "chosen", "duplicate", "verbatim", "owed"]
    for line in shown[start + 1 : shown.index("", start)]:
        frames, *fates = (int(cell) for cell in line.split()[1:6])
        assert frames == sum(fates) > 0


def test_a_proof_says_level_by_level_what_is_proven(store):
    text = call("proof", "--symbol", "TOYUSDT", "--date", "2023-11-14", "--store", store)
    verdicts = {
        words[0]: words[2] for words in map(str.split, text.splitlines()) if words and words[0] in {f"V{k}" for k in range(7)}
    }
    assert verdicts == {"V0": "held", "V1": "limited", "V2": "held", "V3": "held", "V4": "held", "V5": "none", "V6": "held"}


def test_the_second_verifier_agrees_and_names_what_was_changed_behind_everybodys_back(store, tmp_path):
    import shutil

    assert call("verify", "--independent", "--store", store).count(": ok (") == 2
    shutil.copytree(store, tmp_path / "store")
    key = next((tmp_path / "store").glob("proof/**/stream=depth*100ms/**/g0001.json"))
    proof = json.loads(key.read_text())
    proof["status"], proof["events"] = "complete", 21
    key.write_text(json.dumps(proof))
    text = call("verify", "--independent", "--symbol", "TOYUSDT", "--store", tmp_path / "store", expect=1)
    assert "status: the proof says complete, the published bytes say partial" in text
    assert "events: the proof says 21, the published bytes say 20" in text
    (found,) = (
        day
        for day in json.loads(call("verify", "--independent", "--json", "--store", tmp_path / "store", expect=1))
        if day["problem"]
    )
    assert (found["status"], len(found["disagreements"]) >= 2) == ("complete", True)


def test_a_proof_says_what_each_line_was_worth(store):
    shown = call("proof", "--symbol", "TOYUSDT", "--date", "2023-11-14", "--store", store)
    assert "without beta: ids 18…21 would be missing" in shown
    assert "beta is the same recording as alpha: together they are one witness" in shown
    line = next(
        words
        for words in map(str.split, shown.splitlines()[shown.splitlines().index("") + 1 :])
        if words[:1] == ["beta"] and words[1] == "4"
    )
    assert line[1:4] == ["4", "5", "ms"]
