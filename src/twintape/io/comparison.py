"""Where compared lines come from: raw segments of a store, recordings, or websockets that are open now.

Texts, and what is known of each of their windows, are kept in files of a scratch directory: memory does not grow with what is compared.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from twintape.columns.heard import Keep
from twintape.columns.lines import Chunk
from twintape.columns.report import ClockBounds, LineInfo, Report, StreamReport, compare_stream, make_report
from twintape.core import segment
from twintape.core.errors import ConfigError, CorruptionError, NotFoundError
from twintape.core.index import StreamIndex
from twintape.core.manifest import ClockStatistics
from twintape.core.markets import Market
from twintape.core.wire import TWINTAPE, is_depth, split_stream, stream_of
from twintape.io.catalog import REQUESTS_MAX, RawSegment, read_segments
from twintape.io.clocks import joined, statistics_of
from twintape.io.importer import read_recording
from twintape.io.ports import Store

__all__ = ["Lines", "Scratch", "compare_lines", "recorded_lines", "store_lines"]

CHUNK_BYTES = 1 << 20
"""Text of one stream that is gathered before it goes to the scratch directory."""
PENDING_BYTES_MAX = 64 << 20
"""Text of all streams that is gathered; of more, the largest goes there first."""
Progress = Callable[[str, int, int], None]


class Scratch:
    """Texts in files, one for each line and stream.

    Args:
        root: A directory of our own; whoever made it removes it.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._files: dict[tuple[str, str, str], Path] = {}
        self._pending: dict[tuple[str, str, str, str], list[bytes]] = {}
        self._sizes: dict[tuple[str, str, str, str], int] = {}
        self._size = 0
        self._chunks: dict[tuple[str, str], dict[str, list[Chunk]]] = {}

    def add(self, line: str, name: str, connection: str, receive_time_ns: int, frame: bytes) -> None:
        """Keep one frame of a stream (`btcusdt@depth@100ms`)."""
        symbol, stream = split_stream(name)
        key = (line, symbol, stream, connection)
        text = b"%d %b\n" % (receive_time_ns, frame)
        self._pending.setdefault(key, []).append(text)
        self._sizes[key] = self._sizes.get(key, 0) + len(text)
        self._size += len(text)
        if self._sizes[key] >= CHUNK_BYTES:
            self._flush(key)
        while self._size > PENDING_BYTES_MAX:
            self._flush(max(self._sizes, key=self._sizes.__getitem__))

    def put(
        self,
        line: str,
        symbol: str,
        stream: str,
        connection: str,
        data: bytes,
        read: Callable[[bytes], bytes],
        count: int | None = None,
    ) -> None:
        """Keep one piece of a line, of `count` frames; `read` makes its text of the bytes whenever it is wanted."""
        path = self._files.setdefault((line, symbol, stream), self._root / f"{len(self._files)}.text")
        with path.open("ab") as file:
            offset = file.tell()
            file.write(data)
        chunk = Chunk(line, connection, 0, "", _reader(path, offset, len(data), read), count=count)
        self._chunks.setdefault((symbol, stream), {}).setdefault(line, []).append(chunk)

    def _flush(self, key: tuple[str, str, str, str]) -> None:
        line, symbol, stream, connection = key
        self.put(line, symbol, stream, connection, b"".join(self._pending.pop(key)), bytes)
        self._size -= self._sizes.pop(key)

    @contextmanager
    def keeping(self) -> Iterator[Keep]:
        """Give a place for what is known of the windows of one stream; in the end it is forgotten."""
        with tempfile.TemporaryFile(dir=self._root, buffering=0) as file:

            def keep(data: bytes) -> Callable[[], bytes]:
                offset, size = file.tell(), file.write(data)
                return lambda: os.pread(file.fileno(), size, offset)

            yield keep

    def streams(self) -> dict[tuple[str, str], dict[str, list[Chunk]]]:
        """Return the chunks of every line, by `(symbol, stream)`."""
        for key in list(self._pending):
            self._flush(key)
        return dict(sorted(self._chunks.items()))


def _reader(path: Path, offset: int, size: int, read: Callable[[bytes], bytes]) -> Callable[[], bytes]:
    def load() -> bytes:
        with path.open("rb") as file:
            file.seek(offset)
            return read(file.read(size))

    return load


@dataclass(slots=True)
class Lines:
    """What is to be compared: who, and where their texts are."""

    market: Market
    mode: str
    infos: list[LineInfo]
    scratch: Scratch
    notes: list[str] = field(default_factory=list)


def compare_lines(lines: Lines, version: str, *, by_symbol: bool = False, progress: Progress = lambda *_: None) -> Report:
    """Compare everything that was gathered.

    Args:
        lines: From `store_lines`, `recorded_lines` or `io.listening`.
        version: Of the program, for the report.
        by_symbol: Compare streams of one symbol whatever their speed.
        progress: Told `(stream, done, total)`.

    Raises:
        ConfigError: Fewer than two lines have anything.
        CorruptionError: A piece is damaged.
    """
    found = lines.scratch.streams()
    if by_symbol:
        merged: dict[tuple[str, str], dict[str, list[Chunk]]] = {}
        for (symbol, _), own in found.items():
            for name, chunks in own.items():
                merged.setdefault((symbol, "any speed"), {}).setdefault(name, []).extend(chunks)
        found = merged
    names = [info.name for info in lines.infos]
    streams: list[StreamReport] = []
    for done, ((symbol, stream), own) in enumerate(found.items()):
        progress(f"{symbol} {stream}", done, len(found))
        with lines.scratch.keeping() as keep:
            streams.append(compare_stream(symbol, stream, [(name, own.get(name, [])) for name in names], lines.market, keep))
    return make_report(version, lines.mode, lines.market, lines.infos, streams)


# --- a store -------------------------------------------------------------------------------------------------------------------------


async def store_lines(
    store: Store,
    market: Market,
    date: str,
    scratch: Scratch,
    *,
    collectors: Sequence[str],
    symbols: Sequence[str],
    stream: str | None,
) -> Lines:
    """Fetch the depth frames of a date, one line for each collector.

    Args:
        store: Where the raw segments are.
        market: Which market.
        date: Exchange date.
        scratch: Where to keep them.
        collectors: Only these; empty: all there are.
        symbols: Only these; empty: all.
        stream: Only this depth stream (`depth@100ms`); None: all.

    Raises:
        NotFoundError: There is nothing of that date, or of one of the collectors.
        CorruptionError: A segment is damaged.
        StoreError: The store failed.
    """
    view = await read_segments(store, market, [date])
    if view.unreadable:
        raise CorruptionError(f"{view.unreadable[0].key} cannot be read: {view.unreadable[0].reason}")
    there = sorted({raw.key.collector for raw in view.segments.values()})
    missing = sorted(set(collectors) - set(there))
    if missing or not there:
        known = ", ".join(there) or "nobody"
        raise NotFoundError(
            f"no raw segments of {market} {date} by {', '.join(missing) or 'anybody'}", hint=f"recorded by: {known}"
        )
    chosen = sorted(set(collectors)) or there
    clocks: dict[str, ClockStatistics | None] = dict.fromkeys(chosen)
    limit = asyncio.Semaphore(REQUESTS_MAX)

    async def fetch(raw: RawSegment) -> list[tuple[StreamIndex, segment.Block, bytes]]:
        wanted = [
            (own, block)
            for own in raw.index.streams
            if own.name == TWINTAPE
            or (is_depth(own.stream) and (not symbols or own.symbol in symbols) and stream in (None, own.stream))
            for block in own.blocks
            if block.date == date
        ]
        async with limit:
            return [(own, block, await store.get_range(raw.info.key, block.offset, block.size)) for own, block in wanted]

    # In order of number, so that the pieces of a connection stand in the order in which they were heard.
    segments = sorted(
        view.segments.values(), key=lambda raw: (raw.key.collector, raw.index.run, raw.index.connection, raw.index.sequence)
    )
    ours = [raw for raw in segments if raw.key.collector in chosen]
    for start in range(0, len(ours), REQUESTS_MAX):
        part = ours[start : start + REQUESTS_MAX]
        for raw, blocks in zip(part, await asyncio.gather(*map(fetch, part)), strict=True):
            name = raw.key.collector
            for own, block, data in blocks:
                if own.name == TWINTAPE:
                    clocks[name] = joined(clocks[name], statistics_of(segment.read_block(data, block)))
                    continue
                connection = f"{raw.key.run8}-{raw.key.connection}"
                scratch.put(name, own.symbol, own.stream, connection, data, _block_reader(block), block.count)
    infos = [LineInfo(name, f"{store.url} {name}", _bounds(clocks[name])) for name in chosen]
    return Lines(market, "recorded", infos, scratch)


def _block_reader(block: segment.Block) -> Callable[[bytes], bytes]:
    return lambda data: segment.read_block(data, block, count_lines=False)  # whoever scans the text counts them


def _bounds(clock: ClockStatistics | None) -> ClockBounds | None:
    if clock is None:
        return None
    return ClockBounds(clock.samples, clock.offset_ns_min, clock.offset_ns_max, clock.error_ns_max)


# --- recordings ------------------------------------------------------------------------------------------------------------------------


def recorded_lines(
    tapes: Sequence[tuple[str, Path]], market: Market, scratch: Scratch, *, symbols: Sequence[str], stream: str | None
) -> Lines:
    """Read recordings (`<receive time> <frame>` a line, plain, gzip or zstd); those of one name are one line.

    Raises:
        ConfigError: One cannot be read, or holds no depth frame.
        CorruptionError: One is damaged.
    """
    for number, (name, path) in enumerate(tapes):
        count = 0
        for receive_time_ns, frame in read_recording(path):
            stream_name = stream_of(frame)
            symbol, own = split_stream(stream_name)
            if is_depth(own) and (not symbols or symbol in symbols) and stream in (None, own):
                scratch.add(name, stream_name, f"{number}", receive_time_ns, frame)
                count += 1
        if not count:
            raise ConfigError(f"{path} holds no depth frame that was asked for")
    sources: dict[str, list[str]] = {}
    for name, path in tapes:
        sources.setdefault(name, []).append(str(path))
    return Lines(market, "recorded", [LineInfo(name, ", ".join(paths)) for name, paths in sources.items()], scratch)
