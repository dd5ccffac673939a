"""`ls`, `inspect`, `cat`, `book`, `import`: looking at what there is, and bringing recordings in."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from twintape.cli.common import (
    DEFAULT_STORE,
    FINDINGS,
    markets_of,
    print_json,
    progress,
    run_async,
    size_text,
    symbols_of,
    table,
)

if TYPE_CHECKING:
    from twintape.io.archive import Day

__all__ = ["book", "cat", "import_", "inspect", "ls"]

StoreOption = Annotated[str, typer.Option(help="Where segments and archive are: a directory, s3://…, gs://…, az://….")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]


def ls(
    market: Annotated[str | None, typer.Option(help="Only this market: spot, usdm or coinm.")] = None,
    symbol: Annotated[str | None, typer.Option(help="Only this symbol.")] = None,
    files: Annotated[bool, typer.Option("--files", help="Print the proven files, one a line, for DuckDB, Polars, ….")] = False,
    only: Annotated[str | None, typer.Option("--table", help="With --files: only this table: depth, arrival, …")] = None,
    raw: Annotated[bool, typer.Option("--raw", help="List raw segments instead of days.")] = False,
    store: StoreOption = DEFAULT_STORE,
    json: JsonOption = False,
) -> None:
    """List the published days."""
    from twintape.io.archive import Archive
    from twintape.io.store import open_store

    if raw:
        return _ls_raw(store, market, json=json)
    days = Archive(open_store(store, create=False)).days(market, symbol)
    if json:
        print_json([_day_row(day) for day in days])
    elif files:
        for day in days:
            for name, key in day.files.items():
                if only in (None, name):
                    print(f"{store.rstrip('/')}/{key}")
    elif not days:
        print("nothing is published yet: `twintape merge` publishes")
    else:
        rows: list[list[object]] = [
            [d.market, d.symbol, d.stream, d.date, d.status, d.generation, f"{d.events:,}", f"{d.levels:,}", size_text(d.size)]
            for d in days
        ]
        columns = ["market", "symbol", "stream", "date", "status", "generation", "events", "levels", "size"]
        table(columns, rows, right=("generation", "events", "levels", "size"))
    return None


def _day_row(day: Day) -> dict[str, Any]:
    return {
        "market": day.market,
        "symbol": day.symbol,
        "stream": day.stream,
        "date": day.date,
        "status": day.status,
        "generation": day.generation,
        "events": day.events,
        "levels": day.levels,
        "size": day.size,
        "files": day.files,
    }


def _ls_raw(url: str, market: str | None, *, json: bool) -> None:
    from twintape.core import names
    from twintape.io.store import open_store

    wanted = markets_of(market)

    async def collect() -> list[tuple[str, int]]:
        store = open_store(url, create=False)
        return [(info.key, info.size) async for info in store.list("raw/v1/")]

    rows = [(key, size) for key, size in sorted(run_async(collect())) if (k := names.parse_raw_key(key)) and k.market in wanted]
    if json:
        print_json([{"key": key, "size": size} for key, size in rows])
    else:
        for key, size in rows:
            print(f"{size:>12}  {key}")
        if not rows:
            print("no raw segments: nothing was recorded, or all of it is pruned", file=sys.stderr)


def _segment_bytes(segment: str, store: str) -> bytes:
    """Return a segment's bytes from a local file or, if there is none, from the store.

    Raises:
        NotFoundError: There is neither.
    """
    from twintape.io.store import open_store

    path = Path(segment)
    if path.is_file():
        return path.read_bytes()
    return run_async(open_store(store, create=False).get(segment))


def inspect(
    segment: Annotated[str, typer.Argument(help="A sealed segment: a file, or a key in the store.")],
    store: StoreOption = DEFAULT_STORE,
    json: JsonOption = False,
) -> None:
    """Check a sealed segment to the last byte and show its index. Exit code 1 if it is damaged."""
    import msgspec

    from twintape.core.segment import verify_segment

    index = verify_segment(_segment_bytes(segment, store))
    if json:
        print_json(msgspec.json.decode(msgspec.json.encode(index)))
        return
    print(f"{index.collector} {index.market} run {index.run[:8]} connection {index.connection} segment {index.sequence}")
    chain = index.chain
    print(
        f"chain {chain.id} number {chain.number}, {index.count:,} lines ({index.unchecked_count} unchecked), {size_text(index.text_size)} of text"
    )
    rows: list[list[object]] = [
        [
            stream.name,
            stream.count,
            len(stream.blocks),
            ", ".join(sorted({block.date for block in stream.blocks})),
            stream.blocks[0].first_prev_update_id or "",
            stream.blocks[-1].last_final_update_id or "",
            sum(block.breaks for block in stream.blocks),
        ]
        for stream in index.streams
    ]
    table(["stream", "lines", "blocks", "dates", "first p", "last u", "breaks"], rows, right=("lines", "blocks", "breaks"))


def cat(
    segment: Annotated[str, typer.Argument(help="A sealed segment: a file, or a key in the store.")],
    stream: Annotated[str | None, typer.Option(help="Only this stream, such as btcusdt@depth@100ms.")] = None,
    store: StoreOption = DEFAULT_STORE,
) -> None:
    """Print a sealed segment's lines in order of receipt: `<receive time in ns> <frame>`."""
    from twintape.core.segment import lines_in_order

    for name, receive_time_ns, frame in lines_in_order(_segment_bytes(segment, store)):
        if stream is None or name == stream:
            sys.stdout.buffer.write(b"%d %b\n" % (receive_time_ns, frame))
    sys.stdout.buffer.flush()


def book(
    symbol: Annotated[str, typer.Option(help="Symbol, such as BTCUSDT.")],
    at: Annotated[str, typer.Option(help="ISO time (UTC unless it says otherwise), or `end`.")] = "end",
    market: Annotated[str, typer.Option(help="spot, usdm or coinm.")] = "spot",
    stream: Annotated[str | None, typer.Option(help="Depth stream; default: the only one.")] = None,
    depth: Annotated[int | None, typer.Option(min=1, help="Levels a side; default: all with --json, else 10.")] = None,
    look_ahead: Annotated[bool, typer.Option(help="Learn far levels also from the next snapshot behind that time.")] = False,
    store: StoreOption = DEFAULT_STORE,
    json: JsonOption = False,
) -> None:
    """Show the exact order book at a time, and between which prices everything is known. Exit code 1 if the book is not known there."""
    from twintape.io.archive import Archive
    from twintape.io.store import open_store

    archive = Archive(open_store(store, create=False))
    view = archive.book(market, symbol, at, depth=depth or (None if json else 10), stream=stream, look_ahead=look_ahead)
    low, high = view.known or (None, None)
    if json:
        print_json(
            {
                "symbol": view.symbol,
                "update_id": view.update_id,
                "event_time": None if view.event_time is None else view.event_time.isoformat(),
                "bids": [[f"{price:f}", f"{quantity:f}"] for price, quantity in view.bids],
                "asks": [[f"{price:f}", f"{quantity:f}"] for price, quantity in view.asks],
                "known": None if low is None else [f"{low:f}", None if high is None else f"{high:f}"],
            }
        )
        return
    print(f"{view.symbol} at id {view.update_id}, {view.event_time}")
    rows: list[list[object]] = [["ask", f"{price:f}", f"{quantity:f}"] for price, quantity in reversed(view.asks)]
    rows += [["bid", f"{price:f}", f"{quantity:f}"] for price, quantity in view.bids]
    table(["", "price", "quantity"], rows, right=("price", "quantity"))
    if low is None:
        print("known: these levels alone")
    elif low or high is not None:
        print(
            f"known: everything from {low:f} to {'the highest price' if high is None else f'{high:f}'}; outside, what was touched"
        )


def import_(
    files: Annotated[list[Path], typer.Argument(help="Recordings, in the order they were made: text, gzip or zstd.")],
    market: Annotated[str, typer.Option(help="spot, usdm or coinm.")],
    collector: Annotated[str, typer.Option(help="Whom the recordings are ascribed to.")],
    symbol: Annotated[str | None, typer.Option(help="Symbol of bare REST bodies; default: the file's only symbol.")] = None,
    store: StoreOption = DEFAULT_STORE,
    json: JsonOption = False,
) -> None:
    """Store existing recordings as raw segments, as if a collector of that name had recorded them.

    One `<receive time> <frame>` a line; ns, µs or ms. Importing the same files again changes nothing.
    """
    from twintape.core.names import check_collector
    from twintape.io.importer import import_files
    from twintape.io.store import open_store

    (only,) = symbols_of([symbol]) if symbol is not None else (None,)
    with progress() as tell:
        report = run_async(
            import_files(
                files,
                market=markets_of(market)[0],
                collector=check_collector(collector),
                store=open_store(store),
                symbol=only,
                progress=tell,
            )
        )
    if json:
        print_json({"lines": report.lines, "segments": report.segments, "bytes": report.stored_bytes, "dates": report.dates})
    else:
        print(
            f"{report.lines:,} lines in {report.segments} segments, {size_text(report.stored_bytes)}; dates {', '.join(report.dates)}"
        )
    if report.lines == 0:
        raise SystemExit(FINDINGS)
