import asyncio
import gzip
from typing import Any

import pytest

from support.compare import T0_MS, frame
from support.store import DAYS, Exchange, MemoryStore, Recorder, put
from twintape.columns.report import ClockBounds
from twintape.core.errors import ConfigError, CorruptionError, NotFoundError
from twintape.core.markets import Market
from twintape.core.wire import clock_line
from twintape.io import comparison
from twintape.io.comparison import CHUNK_BYTES, Scratch, compare_lines, recorded_lines, store_lines


def tape(path: Any, frames: list[bytes], *, start_ns: int = 10**18) -> Any:
    path.write_bytes(b"".join(b"%d %b\n" % (start_ns + number, one) for number, one in enumerate(frames)))
    return path


def windows(count: int, symbol: str = "BTCUSDT") -> list[bytes]:
    name = b'{"stream":"%b@depth@100ms","data":' % symbol.lower().encode()
    return [name + frame(n, n + 1, [(1, n)], event_ms=T0_MS + n) + b"}" for n in range(count)]


def test_a_date_of_a_store_is_one_line_for_each_collector(tmp_path: Any) -> None:
    exchange, store = Exchange("BTCUSDT"), MemoryStore()
    for name, lost in (("paris", {70, 71}), ("tokyo", set())):
        put(store, Recorder(name, lost={"BTCUSDT": lost}).seals([exchange]))
    scratch = Scratch(tmp_path)
    lines = asyncio.run(store_lines(store, Market.SPOT, DAYS[1], scratch, collectors=[], symbols=[], stream=None))
    report = compare_lines(lines, "1.0")
    assert [info.name for info in report.lines] == ["paris", "tokyo"]
    assert [(one.symbol, one.stream) for one in report.streams] == [("BTCUSDT", "depth@100ms")]
    (total,) = report.totals
    assert (total.findings, total.missing_in_a, total.missing_in_b) == (["missing"], 2, 0)
    assert report.mode == "recorded"


def test_collectors_symbols_and_streams_can_be_chosen_and_those_there_are_not_are_told(tmp_path: Any) -> None:
    exchanges, store = [Exchange("BTCUSDT"), Exchange("ETHUSDT", seed=5)], MemoryStore()
    for name in ("oslo", "paris", "tokyo"):
        put(store, Recorder(name).seals(exchanges))

    def read(*collectors: str, **more: Any) -> Any:
        wanted = {"symbols": ["ETHUSDT"], "stream": "depth@100ms"} | more
        return asyncio.run(store_lines(store, Market.SPOT, DAYS[1], Scratch(tmp_path), collectors=collectors, **wanted))

    report = compare_lines(read("tokyo", "oslo"), "1.0")
    assert [info.name for info in report.lines] == ["oslo", "tokyo"]
    assert [one.symbol for one in report.streams] == ["ETHUSDT"]
    assert report.totals[0].findings == []
    assert compare_lines(read(stream="depth"), "1.0").streams == []
    with pytest.raises(NotFoundError, match="by rome"):
        read("rome")
    with pytest.raises(NotFoundError, match="anybody"):
        asyncio.run(store_lines(store, Market.USDM, DAYS[1], Scratch(tmp_path), collectors=[], symbols=[], stream=None))


def keys(store: MemoryStore) -> list[str]:
    async def collect() -> list[str]:
        return [info.key async for info in store.list("raw/")]

    return asyncio.run(collect())


def test_what_is_damaged_in_the_store_is_told(tmp_path: Any) -> None:
    store = MemoryStore()
    put(store, Recorder("tokyo").seals([Exchange("BTCUSDT")]))
    key = next(key for key in keys(store) if DAYS[1] in key)
    data = asyncio.run(store.get(key))
    asyncio.run(store.delete(key))
    asyncio.run(store.create(key, data[:-1] + b"?"))
    with pytest.raises(CorruptionError, match="cannot be read"):
        asyncio.run(store_lines(store, Market.SPOT, DAYS[1], Scratch(tmp_path), collectors=[], symbols=[], stream=None))


def test_recordings_of_one_name_are_one_line_whatever_packs_them(tmp_path: Any) -> None:
    frames = windows(900)
    plain = tape(tmp_path / "a.txt", frames)
    first, second = tape(tmp_path / "b1.txt", frames[:500]), tmp_path / "b2.gz"
    second.write_bytes(gzip.compress(tape(tmp_path / "b2.txt", frames[450:]).read_bytes()))
    tapes = [("a", plain), ("b", first), ("b", second)]
    report = compare_lines(recorded_lines(tapes, Market.SPOT, Scratch(tmp_path), symbols=[], stream=None), "1.0")
    assert report.totals[0].findings == []
    assert report.totals[0].windows == 900
    line = report.streams[0].redundancy.lines[1]  # type: ignore[union-attr]
    assert (line.repeats, line.connections) == (50, 2)
    assert report.lines[1].source == f"{first}, {second}"


def test_a_recording_without_what_was_asked_for_is_an_error(tmp_path: Any) -> None:
    path = tape(tmp_path / "a.txt", windows(3))
    for wanted in ({"symbols": ["ETHUSDT"], "stream": None}, {"symbols": [], "stream": "depth"}):
        with pytest.raises(ConfigError, match="no depth frame"):
            recorded_lines([("a", path)], Market.SPOT, Scratch(tmp_path), **wanted)  # type: ignore[arg-type]


def test_texts_larger_than_a_chunk_are_read_piece_by_piece_and_again(tmp_path: Any) -> None:
    scratch = Scratch(tmp_path)
    long = frame(0, 1, [(1, 2)]) + b" " * 5000
    count = 3 * CHUNK_BYTES // len(long)
    for number in range(count):
        scratch.add("a", "btcusdt@depth", "1", 10**18 + number, long)
    scratch.add("b", "btcusdt@depth", "1", 10**18, long)
    chunks = scratch.streams()["BTCUSDT", "depth"]
    assert len(chunks["a"]) > 1
    for _ in range(2):
        assert b"".join(chunk.load() for chunk in chunks["a"]).count(b"\n") == count
    assert chunks["b"][0].load() == b"%d %b\n" % (10**18, long)


def test_of_very_many_streams_no_more_is_gathered_than_there_is_room_for(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparison, "PENDING_BYTES_MAX", 1000)
    scratch = Scratch(tmp_path)
    for number in range(30):
        scratch.add("a", f"s{number}@depth", "1", 10**18, b"x" * 100)
    assert 20 <= len(list(tmp_path.iterdir())) < 30
    found = scratch.streams()
    assert [len(chunks["a"][0].load()) for chunks in found.values()] == [121] * 30


def test_what_is_known_of_windows_is_kept_outside_memory_while_a_stream_is_compared(tmp_path: Any) -> None:
    scratch = Scratch(tmp_path)
    with scratch.keeping() as keep:
        kept = [keep(bytes([number]) * 10) for number in range(3)]
        assert [load() for load in kept] == [bytes([number]) * 10 for number in range(3)]
    with pytest.raises(ValueError, match="closed"):
        kept[0]()


def test_streams_of_two_speeds_are_compared_by_symbol_if_asked(tmp_path: Any) -> None:
    fast = windows(20)
    slow = [
        b'{"stream":"btcusdt@depth","data":' + frame(n, n + 10, [(1, n + 9)], event_ms=T0_MS + n) + b"}" for n in range(0, 20, 10)
    ]
    tapes = [("fast", tape(tmp_path / "a.txt", fast)), ("slow", tape(tmp_path / "b.txt", slow))]
    seen: list[tuple[str, int, int]] = []
    lines = recorded_lines(tapes, Market.SPOT, Scratch(tmp_path), symbols=[], stream=None)
    apart = compare_lines(lines, "1.0", progress=lambda *told: seen.append(told))
    assert apart.totals[0].findings == ["nothing"]
    assert [what for what, _, _ in seen] == ["BTCUSDT depth", "BTCUSDT depth@100ms"]
    together = compare_lines(lines, "1.0", by_symbol=True)
    assert (together.totals[0].findings, together.totals[0].merge) == (["shifted"], 2)


def test_what_is_known_of_clocks_is_told(tmp_path: Any) -> None:
    exchange, store = Exchange("BTCUSDT"), MemoryStore()
    at = exchange.events[60].time_us * 1000
    said = [
        (at + n, clock_line(wall_ns=at, monotonic_ns=n, offset_ns=offset, error_ns=900, source="chrony"))
        for n, offset in enumerate((-20, 30, None))
    ]
    put(store, Recorder("paris", extra=said).seals([exchange]))
    put(store, Recorder("tokyo").seals([exchange]))
    lines = asyncio.run(store_lines(store, Market.SPOT, DAYS[1], Scratch(tmp_path), collectors=[], symbols=[], stream=None))
    assert [info.clock for info in lines.infos] == [ClockBounds(3, -20, 30, 900), None]
