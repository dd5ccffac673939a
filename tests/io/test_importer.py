import asyncio
import gzip
import sys
from pathlib import Path
from typing import Any

import pytest

from support.store import DAYS, STREAM, Exchange, MemoryStore, Recorder, contents, heads, keys_of, merge, prune, put
from twintape.core.errors import ConfigError, CorruptionError
from twintape.core.markets import Market
from twintape.core.segment import lines_in_order, read_index
from twintape.io import importer
from twintape.io.importer import import_files, read_recording

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

DAY = DAYS[1]


def lines_of(exchange: Exchange, **options: Any) -> list[tuple[int, bytes]]:
    return Recorder("tokyo", tickers=False, **options).lines([exchange])


def text_of(lines: list[tuple[int, bytes]], digits: int = 19) -> bytes:
    return b"".join(b"%d %b\n" % (time // 10 ** (19 - digits), frame) for time, frame in lines)


def imported(path: Path | list[Path], store: MemoryStore | None = None, **options: Any) -> tuple[MemoryStore, Any]:
    store = store or MemoryStore()
    options = {"market": Market.SPOT, "collector": "old"} | options
    files = path if isinstance(path, list) else [path]
    return store, asyncio.run(import_files(files, store=store, **options))


def raw_lines(store: MemoryStore) -> list[tuple[int, bytes]]:
    found = []
    for key in keys_of(store, "raw/"):
        found += [(time, frame) for _, time, frame in lines_in_order(asyncio.run(store.get(key)))]
    return sorted(found)


@pytest.mark.parametrize("digits", [19, 16, 13])
@pytest.mark.parametrize("pack", [bytes, gzip.compress, zstd.compress])
def test_every_line_of_a_recording_is_kept_verbatim(tmp_path: Path, digits: int, pack: Any) -> None:
    lines = lines_of(Exchange("BTCUSDT"))
    path = tmp_path / "recording"
    path.write_bytes(pack(text_of(lines, digits)))
    store, report = imported(path)
    unit = 10 ** (19 - digits)
    assert raw_lines(store) == sorted((time // unit * unit, frame) for time, frame in lines)
    assert (report.lines, report.dates, report.segments) == (len(lines), list(DAYS), len(keys_of(store, "raw/")))
    assert report.stored_bytes == sum(len(asyncio.run(store.get(key))) for key in keys_of(store))


def test_an_imported_recording_merges_like_a_live_one(tmp_path: Path) -> None:
    exchange = Exchange("BTCUSDT")
    path = tmp_path / "recording.gz"
    path.write_bytes(gzip.compress(text_of(lines_of(exchange, lost={"BTCUSDT": {100}}))))
    store, _ = imported(path)
    put(store, Recorder("live", lost={"BTCUSDT": {80}}).seals([exchange]))
    merge(store, tmp_path)
    proof = heads(store)["BTCUSDT", STREAM, DAY]
    assert proof.status == "complete"
    assert {line.collector for line in proof.lines} == {"old", "live"}
    assert prune(store, grace_h=-1)[0].kept == []


def test_importing_twice_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "recording.gz"
    path.write_bytes(gzip.compress(text_of(lines_of(Exchange("BTCUSDT")))))
    store, first = imported(path)
    known = {key: asyncio.run(store.get(key)) for key in keys_of(store)}
    merge(store, tmp_path)
    before = contents(store)
    _, second = imported(path, store)
    assert second == first
    assert {key: asyncio.run(store.get(key)) for key in keys_of(store, "raw/")} == known
    assert not any(outcome.fresh for outcome in merge(store, tmp_path))
    assert contents(store) == before


def test_hours_are_segments_of_one_serial_chain(tmp_path: Path) -> None:
    lines = lines_of(Exchange("BTCUSDT"))
    half = len(lines) // 2
    for name, part in (("a", lines[:half]), ("b", lines[half:])):
        (tmp_path / name).write_bytes(text_of(part))
    store, _ = imported([tmp_path / "a", tmp_path / "b"])
    indexes = []
    for key in keys_of(store, "raw/"):
        data = asyncio.run(store.get(key))
        indexes.append(read_index(data, len(data)))
    indexes.sort(key=lambda index: index.chain.number)
    assert [index.chain.number for index in indexes] == list(range(len(indexes)))
    assert len({index.chain.id for index in indexes}) == 1
    assert [(index.date, index.hour) for index in indexes] == sorted((index.date, index.hour) for index in indexes)
    assert {(index.date, index.hour) for index in indexes} == {(d, h) for d, h in zip(DAYS, (23, 0, 0), strict=False)} | {
        (DAY, 11),
        (DAY, 12),
        (DAY, 23),
    }
    assert indexes[0].chain.reason == "import"
    assert {index.connection for index in indexes} == {1, 2}


def test_a_full_segment_is_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importer, "SEGMENT_TEXT_BYTES_MAX", 5000)
    lines = lines_of(Exchange("BTCUSDT"))
    (tmp_path / "a").write_bytes(text_of(lines))
    store, report = imported(tmp_path / "a")
    assert report.segments > 6
    assert raw_lines(store) == sorted(lines)


def test_bare_rest_bodies_belong_to_the_only_symbol_or_the_named_one(tmp_path: Path) -> None:
    exchange = Exchange("BTCUSDT")
    at = exchange.events[3].time_us * 1000
    body = (at + 5_000_000 + 3, exchange.body(3))
    lines = sorted([*lines_of(exchange, snapshots=()), body])
    (tmp_path / "one").write_bytes(text_of(lines))
    store, _ = imported(tmp_path / "one")
    merge(store, tmp_path)
    assert ("BTCUSDT", "depthSnapshot", DAYS[0]) in heads(store)
    assert heads(store)["BTCUSDT", STREAM, DAYS[0]].checkpoints.anchors == 1
    several = sorted([*lines, *lines_of(Exchange("ETHUSDT"), snapshots=())])
    (tmp_path / "two").write_bytes(text_of(several))
    for symbol, wanted in ((None, 0), ("BTCUSDT", 1)):
        store, _ = imported(tmp_path / "two", symbol=symbol)
        merge(store, tmp_path)
        assert heads(store)["BTCUSDT", STREAM, DAYS[0]].checkpoints.anchors == wanted


def test_a_frame_that_is_no_line_of_text_is_kept_as_bytes(tmp_path: Path) -> None:
    (tmp_path / "odd").write_bytes(b"1772366100000000000 \xff\xfe binary\n\n1772366100000000001 <html>\r\n")
    assert [frame for _, frame in read_recording(tmp_path / "odd")] == [
        b'{"stream":"!twintape@bytes","opcode":1,"base64":"//4gYmluYXJ5"}',
        b"<html>",
    ]
    store, report = imported(tmp_path / "odd")
    assert report.lines == 2
    assert len(raw_lines(store)) == 2


@pytest.mark.parametrize(
    "line",
    [
        b"hello world",
        b"{}",
        b"1772366100000000000",
        b"1772366100000000000 ",
        b"12345 {}",
        b"17723661000000 {}",
        b"-772366100000 {}",
    ],
)
def test_a_foreign_line_is_named_by_file_and_number(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "foreign"
    path.write_bytes(b"1772366100000000000 {}\n" + line + b"\n")
    with pytest.raises(CorruptionError, match=r"foreign:2: "):
        imported(path)


def test_a_line_without_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importer, "LINE_BYTES_MAX", 1000)
    path = tmp_path / "long"
    path.write_bytes(b"1772366100000000000 " + b"x" * 5000)
    with pytest.raises(CorruptionError, match=r"long:1: a line of"):
        list(read_recording(path))


@pytest.mark.parametrize("pack", [gzip.compress, zstd.compress])
def test_a_torn_or_damaged_file_is_an_error_that_says_how_far_it_could_be_read(tmp_path: Path, pack: Any) -> None:
    packed = pack(text_of(lines_of(Exchange("BTCUSDT"))))
    for data in (packed[:-20], packed[: len(packed) // 2], packed[:40] + bytes(200) + packed[240:]):
        path = tmp_path / "torn"
        path.write_bytes(data)
        with pytest.raises(CorruptionError, match=r"torn"):
            list(read_recording(path))


def test_a_file_that_cannot_be_opened_is_a_mistake_of_the_command_line(tmp_path: Path) -> None:
    for path in (tmp_path / "absent", tmp_path):
        with pytest.raises(ConfigError, match="cannot read"):
            imported(path)


def test_an_empty_recording_makes_nothing(tmp_path: Path) -> None:
    (tmp_path / "empty").write_bytes(b"")
    store, report = imported(tmp_path / "empty")
    assert (report.lines, report.segments, report.dates, keys_of(store)) == (0, 0, [], [])


def test_what_an_import_makes_follows_from_what_the_files_hold_and_not_from_their_names(tmp_path: Path) -> None:
    text = text_of(lines_of(Exchange("BTCUSDT")))
    keys = {}
    for name, data in (
        ("one", text),
        ("other name", text),
        ("packed", gzip.compress(text)),
        ("longer", text + text[: text.index(b"\n") + 1]),
    ):
        (tmp_path / name).write_bytes(data)
        keys[name] = keys_of(imported(tmp_path / name)[0])
    assert keys["one"] == keys["other name"]
    # The digest is of the file: another packing or one line more is another import, and neither takes the other's keys.
    assert not set(keys["one"]) & set(keys["packed"])
    assert not set(keys["one"]) & set(keys["longer"])
    assert not set(keys["one"]) & set(keys_of(imported(tmp_path / "one", collector="another")[0]))
