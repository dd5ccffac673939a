"""What lies in the store, read with suspicion: keys, digests, JSON, and the rows of Parquet files.

Source: docs/format.md, sections 1, 5 and 8.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pyarrow as pa
import pyarrow.parquet as pq

from twintape.core.errors import NotFoundError
from twintape.io.ports import Store

__all__ = [
    "Findings",
    "Row",
    "day_prefix",
    "fetch",
    "is_raw_key",
    "proof_key",
    "read_document",
    "rows_of",
    "sha256",
    "table_key",
    "templates_of",
]

Row = dict[str, Any]

_RAW = re.compile(
    r"raw/v1/(?P<collector>[a-z0-9][a-z0-9-]{0,31})/(?P<market>spot|usdm|coinm)/\d{4}-\d\d-\d\d/\d\d/"
    r"(?P<run8>[0-9a-f]{8})-(?P<connection>[1-9]\d*)-[1-9]\d*-(?P<digest>[0-9a-f]{16})\.tape\.zst"
)


class Findings:
    """Collects disagreements, each once, in the order they were found.

    Args:
        where: The proof's key, which begins every line.
    """

    def __init__(self, where: str) -> None:
        self.where = where
        self.lines: list[str] = []

    def add(self, text: str) -> None:
        """Note a disagreement."""
        if text not in self.lines:
            self.lines.append(text)

    def equal(self, what: str, claimed: object, found: object) -> None:
        """Note it if what the proof claims is not what was found."""
        if claimed != found:
            self.add(f"{what}: the proof says {_short(claimed)}, the published bytes say {_short(found)}")


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 160 else f"{text[:157]}…"


def sha256(data: bytes) -> str:
    """Return the lower-case hexadecimal SHA-256."""
    return hashlib.sha256(data).hexdigest()


def _symbol_part(symbol: str) -> str:
    return symbol if symbol == "!session" else quote(symbol, safe="").replace(".", "%2E").replace("~", "%7E")


def day_prefix(root: str, market: str, symbol: str, stream: str, date: str) -> str:
    """Return where something of a day lies."""
    part = quote(stream, safe="@!").replace(".", "%2E").replace("~", "%7E")
    return f"{root}/market={market}/symbol={_symbol_part(symbol)}/stream={part}/date={date}/"


def proof_key(market: str, symbol: str, stream: str, date: str, generation: int) -> str:
    """Return the key of a proof."""
    return f"{day_prefix('proof', market, symbol, stream, date)}g{generation:04d}.json"


def table_key(proof: Row, table: str) -> str:
    """Return the key under which a proof's table must lie."""
    prefix = day_prefix(table, proof["market"], proof["symbol"], proof["stream"], proof["date"])
    return f"{prefix}attempt=g{proof['generation']:04d}-{proof['write_id']}/part-0.parquet"


def is_raw_key(key: str) -> re.Match[str] | None:
    """Return the parts of a raw segment's key, or None if it is none."""
    return _RAW.fullmatch(key)


async def fetch(store: Store, key: str) -> bytes | None:
    """Return an object, or None if it is not there.

    Raises:
        StoreError: The store failed.
    """
    try:
        return await store.get(key)
    except NotFoundError:
        return None


def read_document(data: bytes) -> Row:
    """Return a JSON object.

    Raises:
        ValueError: It is none.
    """
    document = json.loads(data)
    if not isinstance(document, dict):
        raise ValueError("not a JSON object")
    return document


def templates_of(data: bytes) -> list[Row]:
    """Return a file's list of templates."""
    metadata = pq.ParquetFile(io.BytesIO(data)).metadata.metadata or {}
    found: list[Row] = json.loads(metadata.get(b"twintape.templates", b"[]"))
    return found


def rows_of(data: bytes, columns: list[str] | None = None) -> Iterator[Row]:
    """Yield the rows of a Parquet file, a row group at a time; times are integers in their own unit."""
    # No threads of Arrow's, neither for reading nor for decoding: a process that ends soon after them is aborted now and then.
    file = pq.ParquetFile(io.BytesIO(data), page_checksum_verification=True, pre_buffer=False)
    for group in range(file.metadata.num_row_groups):
        table = file.read_row_group(group, columns=columns, use_threads=False)
        names, values = [], []
        for name in table.column_names:
            column = table.column(name)
            if pa.types.is_timestamp(column.type):
                column = column.cast(pa.int64())
            names.append(name)
            values.append(column.to_pylist())
        for row in zip(*values, strict=True):
            yield dict(zip(names, row, strict=True))
