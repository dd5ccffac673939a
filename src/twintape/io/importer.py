"""Existing recordings become raw segments, as if the named collector had recorded them.

Understood: text with one `<receive time> <frame>` a line, plain, gzip or zstd; receive times in ns, µs or ms; combined or raw frames; REST bodies bare or
wrapped. hftbacktest's collectors write this form. Every line that has it is kept verbatim; a line that has not is an error that names it.

The same files under the same collector name make the same objects, so importing again changes nothing.
"""

from __future__ import annotations

import gzip
import hashlib
import sys
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

from twintape.core import wire
from twintape.core.errors import ConfigError, CorruptionError
from twintape.core.markets import Market
from twintape.core.segment import ChainLink, HourWatch, seal
from twintape.io.ports import Store

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

__all__ = ["ImportReport", "import_files", "read_recording"]

SEGMENT_TEXT_BYTES_MAX = 32 * 1024 * 1024
"""Text of one raw segment made by an import."""
LINE_BYTES_MAX = 64 * 1024 * 1024

Line = tuple[int, bytes]
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class ImportReport:
    """What an import stored: lines read, segments made, their bytes, and the dates they are filed under."""

    lines: int
    segments: int
    stored_bytes: int
    dates: list[str]


def read_recording(path: Path) -> Iterator[Line]:
    """Yield receive time (ns) and frame of every line of a recording.

    Raises:
        CorruptionError: A line does not have the form, or the compressed file is damaged; the message names file and line.
        ConfigError: The file cannot be opened.
    """
    number = 0
    try:
        with _open(path) as stream:
            for number, line in enumerate(stream, 1):
                if len(line) > LINE_BYTES_MAX:
                    raise CorruptionError(f"{path}:{number}: a line of {len(line)} bytes")
                text = line.removesuffix(b"\n").removesuffix(b"\r")
                if text:
                    yield _line(text, path, number)
    except (EOFError, gzip.BadGzipFile, zlib.error, zstd.ZstdError) as error:
        raise CorruptionError(f"{path}: damaged behind line {number}: {error}", hint="cut it there or restore it") from error
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror or error}") from error


def _open(path: Path) -> IO[bytes]:
    with path.open("rb") as probe:
        magic = probe.read(4)
    if magic[:2] == b"\x1f\x8b":
        return cast("IO[bytes]", gzip.open(path, "rb"))
    if magic == b"\x28\xb5\x2f\xfd":
        return cast("IO[bytes]", zstd.open(path, "rb"))
    return path.open("rb")


def _line(text: bytes, path: Path, number: int) -> Line:
    digits, _, frame = text.partition(b" ")
    if not digits.isdigit() or not 13 <= len(digits) <= 19 or not frame:
        raise CorruptionError(f"{path}:{number}: not `<receive time> <frame>`: {text[:80]!r}")
    # 19 digits are nanoseconds, 16 microseconds, 13 milliseconds since 1970: until 2286 the number of digits tells.
    time = int(digits) * 10 ** (19 - len(digits)) if len(digits) in (13, 16, 19) else None
    if time is None:
        raise CorruptionError(f"{path}:{number}: a receive time of {len(digits)} digits is neither ns, µs nor ms")
    if not wire.recordable(frame):
        return time, wire.bytes_line(1, frame)
    return time, frame


async def import_files(
    files: Sequence[Path],
    *,
    market: Market,
    collector: str,
    store: Store,
    symbol: str | None = None,
    progress: Progress = lambda _what, _done, _total: None,
) -> ImportReport:
    """Store recordings as raw segments.

    Args:
        files: In the order they were recorded; each is one connection.
        market: Where they were recorded.
        collector: Whom they are ascribed to.
        store: Where to.
        symbol: Whose REST bodies stand without a wrapper; by default the only symbol of the file, if there is but one.
        progress: Told `(file, done, total)`.

    Raises:
        ConfigError: A file cannot be opened.
        CorruptionError: A file is damaged. Segments stored before stay.
        StoreError: The store failed.
    """
    run = hashlib.sha256("\n".join([collector, str(market), *map(_content_sha256, files)]).encode()).hexdigest()[:32]
    previous: str | None = None
    number = lines = stored = 0
    dates: set[str] = set()
    for connection, path in enumerate(files, 1):
        snapshot_symbol = symbol or _only_symbol(path)
        for sequence, part in enumerate(_segments(read_recording(path)), 1):
            link = ChainLink(id=run[:16], number=number, previous=previous, reason="import" if number == 0 else None)
            sealed = seal(
                part,
                collector=collector,
                market=market,
                run=run,
                connection=connection,
                sequence=sequence,
                chain=link,
                depth_streams={},
                snapshot_symbol=snapshot_symbol,
            )
            await store.create(sealed.key, sealed.data)
            previous = sealed.sha256
            number += 1
            lines += len(part)
            stored += len(sealed.data)
            dates |= {block.date for stream in sealed.index.streams for block in stream.blocks}
        progress(path.name, connection, len(files))
    return ImportReport(lines, number, stored, sorted(dates))


def _content_sha256(path: Path) -> str:
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror or error}") from error


def _segments(lines: Iterator[Line]) -> Iterator[list[Line]]:
    """Cut a recording where the exchange's hour changes and where a segment is full."""
    watch = HourWatch()
    part: list[Line] = []
    size = 0
    for line in lines:
        if part and (size > SEGMENT_TEXT_BYTES_MAX or watch.would_raise_hour(line[1])):
            yield part
            part, size = [], 0
            watch = HourWatch()
        if not part:
            watch.would_raise_hour(line[1])
        part.append(line)
        size += len(line[1]) + 21
    if part:
        yield part


def _only_symbol(path: Path) -> str | None:
    """Return the symbol of a recording of a single one; its first lines tell."""
    symbols: set[str] = set()
    for count, (_, frame) in enumerate(read_recording(path)):
        name = wire.stream_of(frame)
        symbol, _ = wire.split_stream(name)
        if symbol != wire.SESSION:
            symbols.add(symbol)
        if count >= 10_000 or len(symbols) > 1:
            break
    return symbols.pop() if len(symbols) == 1 else None
