"""Reads the recordings in ../shared/corpus: real frames of Binance, not part of the project."""

from __future__ import annotations

import gzip
import json
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest

from twintape.core import wire
from twintape.core.markets import Market

CORPUS = Path(__file__).resolve().parents[3] / "shared" / "corpus"

needs_corpus = [
    pytest.mark.corpus,
    pytest.mark.skipif(not (CORPUS / "expected.json").is_file(), reason=f"the recordings are not in {CORPUS}"),
]
"""Marks of tests that read recordings: `pytestmark = needs_corpus`."""


@dataclass
class Recording:
    """One symbol of one capture.

    Attributes:
        market: Where it was recorded.
        symbol: Upper case.
        expected: The symbol's entry in expected.json.
        text: Its depth lines, `<receive time> <frame>`, in order; receive times in the unit of the file.
        snapshots: Its REST bodies in order.
        tickers: Its bookTickers in order: `(u, (bid, quantity, ask, quantity))` as printed.
    """

    market: Market
    symbol: str
    expected: dict[str, Any]
    text: bytes = b""
    snapshots: list[wire.DepthSnapshot] = field(default_factory=list)
    tickers: list[tuple[int, tuple[str, str, str, str]]] = field(default_factory=list)


def captures() -> list[str]:
    """Return the names of all captures; none if the corpus is missing."""
    path = CORPUS / "expected.json"
    return [capture["capture"] for capture in json.loads(path.read_text())] if path.is_file() else []


@lru_cache(maxsize=1)
def load(name: str) -> list[Recording]:
    """Return the recordings of one capture, one a symbol."""
    capture = next(c for c in json.loads((CORPUS / "expected.json").read_text()) if c["capture"] == name)
    market = Market(capture["market"])
    found = {symbol["symbol"]: Recording(market, symbol["symbol"], symbol) for symbol in capture["symbols"]}
    lines: dict[str, list[bytes]] = {symbol: [] for symbol in found}
    only = next(iter(found)) if len(found) == 1 else None
    for file in capture["files"]:
        with gzip.open(CORPUS / file) as stream:
            for line in stream:
                frame = line[line.index(b" ") + 1 :].rstrip(b"\n")
                symbol, kind = wire.split_stream(wire.stream_of(frame, snapshot_symbol=only))
                if symbol not in found:
                    continue
                if wire.is_depth(kind):
                    lines[symbol].append(line)
                elif kind == "bookTicker":
                    fields = json.loads(wire.unwrap(frame))
                    found[symbol].tickers.append((fields["u"], (fields["b"], fields["B"], fields["a"], fields["A"])))
                elif kind == wire.SNAPSHOT:
                    snapshot = wire.recorded_snapshot(frame)
                    assert snapshot is not None
                    found[symbol].snapshots.append(wire.decode_snapshot(snapshot.body))
    for symbol, recording in found.items():
        recording.text = b"".join(lines[symbol])
    return list(found.values())
