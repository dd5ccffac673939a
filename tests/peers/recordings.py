"""What the peers are played: real recordings where they are, else made-up markets of the same kind."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from expected import Track, expected_book, track

from twintape.core.markets import Market
from twintape.core.synthetic import SyntheticConfig, SyntheticSource
from twintape.core.venue import Source
from twintape.io.exchange import tape_source

CORPUS = Path(__file__).resolve().parents[3] / "shared" / "corpus"
SYNTHETIC_SEED = 11
SYNTHETIC_MESSAGES = 6_000
SYNTHETIC_SPEED = 20.0


@dataclass(frozen=True)
class Recording:
    """One symbol of a recording.

    Attributes:
        market: Its market.
        capture: Its name in the corpus' `expected.json`.
        symbol: As in payloads.
        base: Its base asset.
        quote: Its quote asset.
        interval: The speed of the depth stream.
        speed: Seconds of the recording in a second.
    """

    market: Market
    capture: str
    symbol: str
    base: str
    quote: str
    interval: str
    speed: float

    @property
    def stream(self) -> str:
        return f"{self.symbol.lower()}@depth@{self.interval}"


RECORDINGS = {
    "spot": Recording(Market.SPOT, "spot_2024-08-08_hft_btcusdt", "BTCUSDT", "BTC", "USDT", "100ms", 50),
    "usdm": Recording(Market.USDM, "usdm_2024-08-08_hft_btcusdt", "BTCUSDT", "BTC", "USDT", "0ms", 25),
    "usdm@100ms": Recording(Market.USDM, "usdm_2021-04-17_cf_4sym", "KSMUSDT", "KSM", "USDT", "100ms", 3),
    "coinm": Recording(Market.COINM, "coinm_2021-04-17_cf_10sym", "BTCUSD_PERP", "BTC", "USD", "100ms", 3),
}


@dataclass(frozen=True)
class Played:
    """A recording and what is played for it."""

    recording: Recording
    source: Source
    track: Track
    speed: float
    symbol: str
    base: str
    quote: str
    stream: str
    real: bool = True


@lru_cache
def open_recording(name: str, *, synthetic: bool) -> Played:
    """Return a source for a recording: the corpus' if it is here, else one from a seed."""
    recording = RECORDINGS[name]
    listing = CORPUS / "expected.json"
    if synthetic or not listing.is_file():
        return _made_up(recording)
    capture = next(entry for entry in json.loads(listing.read_text()) if entry["capture"] == recording.capture)
    source = tape_source(recording.market, [CORPUS / file for file in capture["files"]])
    followed = track(source, recording.stream)
    promised = next(entry for entry in capture["symbols"] if entry["symbol"] == recording.symbol)
    # The exchange's own book at the end is known from elsewhere: a simulator that is wrong about it proves nothing.
    digest = expected_book(followed, None, followed.final_update_id).sha256()
    assert digest == promised["final_book_sha256"], f"{recording.capture}: the last book is not the published one"
    names = (recording.symbol, recording.base, recording.quote, recording.stream)
    return Played(recording, source, followed, recording.speed, *names)


def _made_up(recording: Recording) -> Played:
    config = SyntheticConfig(
        recording.market,
        SYNTHETIC_SEED,
        symbols_count=1,
        events_per_second=9.0,
        messages_count=SYNTHETIC_MESSAGES,
        depth_streams=(f"depth@{recording.interval}" if recording.interval != "0ms" else "depth@100ms",),
    )
    source = SyntheticSource(config)
    symbol = source.symbols[0].symbol
    base, quote = ("BTC", "USD") if recording.market is Market.COINM else ("BTC", "USDT")
    stream = f"{symbol.lower()}@{config.depth_streams[0]}"
    return Played(recording, source, track(source, stream), SYNTHETIC_SPEED, symbol, base, quote, stream, real=False)
