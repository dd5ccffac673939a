"""Object keys: built and read here and nowhere else.

A key is only ever taken apart by the strict readers below, which refuse every spelling the builders do not make: one object has one
key, and a name that the exchange (or somebody with write access to a prefix) chose can never become a path of its own.

Source: docs/format.md, sections 1 and 5.
"""

from __future__ import annotations

import datetime
import re
from dataclasses import dataclass

from twintape.core.errors import ConfigError
from twintape.core.markets import Market
from twintape.core.wire import SESSION, plausible_symbol

__all__ = [
    "TABLES",
    "ProofKey",
    "RawKey",
    "TableKey",
    "check_collector",
    "decode_part",
    "encode_part",
    "encode_stream",
    "encode_symbol",
    "parse_proof_key",
    "parse_raw_key",
    "parse_table_key",
    "plan_key",
    "proof_key",
    "proof_prefix",
    "raw_prefix",
    "receipt_key",
    "table_key",
    "table_prefix",
]

TABLES = (
    "depth",
    "snapshot",
    "arrival",
    "verbatim",
    "trade",
    "agg_trade",
    "book_ticker",
    "mark_price",
    "force_order",
    "partial_depth",
    "copy",
)
"""The archive's tables: the first part of an output's key."""

STREAM_SAFE = "@!"
"""What stream parts keep beside `A-Z a-z 0-9 _ -`."""

GENERATION_MAX = 9999

_SAFE = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-")
_MARKETS = "|".join(Market)
_COLLECTOR = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")
_PERCENT = re.compile(r"%([0-9A-F]{2})")
_RAW = re.compile(
    rf"raw/v1/({_COLLECTOR.pattern})/({_MARKETS})/([0-9-]{{10}})/([0-9]{{2}})/"
    r"([0-9a-f]{8})-([1-9][0-9]{0,8})-([1-9][0-9]{0,8})-([0-9a-f]{16})\.tape\.zst"
)
_DAY = rf"market=({_MARKETS})/symbol=([^/]+)/stream=([^/]+)/date=([0-9-]{{10}})"
_PROOF = re.compile(rf"proof/{_DAY}/g([0-9]{{4}})\.json")
_TABLE = re.compile(rf"({'|'.join(TABLES)})/{_DAY}/attempt=g([0-9]{{4}})-([0-9a-f]{{16}})/part-(0|[1-9][0-9]{{0,8}})\.parquet")
_DIGEST = re.compile(r"[0-9a-f]{16}(?:[0-9a-f]{48})?")
_WRITE_ID = re.compile(r"[0-9a-f]{16}")


@dataclass(frozen=True, slots=True, order=True)
class RawKey:
    """The parts of a sealed segment's key. `date` and `hour` are the exchange's; `digest16` begins the object's SHA-256."""

    collector: str
    market: Market
    date: str
    hour: int
    run8: str
    connection: int
    sequence: int
    digest16: str

    def key(self) -> str:
        """Return the key.

        Raises:
            ValueError: A part is not of its form.
        """
        key = (
            f"raw/v1/{self.collector}/{self.market}/{self.date}/{self.hour:02d}/"
            f"{self.run8}-{self.connection}-{self.sequence}-{self.digest16}.tape.zst"
        )
        return _checked(key, parse_raw_key(key) == self)


@dataclass(frozen=True, slots=True, order=True)
class ProofKey:
    """The parts of a proof's key: a day and its generation, counted from 1."""

    market: Market
    symbol: str
    stream: str
    date: str
    generation: int


@dataclass(frozen=True, slots=True, order=True)
class TableKey:
    """The parts of an archive file's key."""

    table: str
    market: Market
    symbol: str
    stream: str
    date: str
    generation: int
    write_id: str
    part: int


# --- parts ---------------------------------------------------------------------------------------------------------------------


def check_collector(name: str) -> str:
    """Return `name` if it can name a collector.

    >>> check_collector("tokyo-2")
    'tokyo-2'

    Raises:
        ConfigError: It cannot.
    """
    if not _COLLECTOR.fullmatch(name):
        raise ConfigError(
            f"{name!r} cannot name a collector",
            hint="use 1 to 32 lower-case letters, digits and hyphens, the first not a hyphen",
        )
    return name


def encode_part(text: str, *, also: str = "") -> str:
    """Percent-encode every byte of `text` but letters, digits, `_`, `-` and those of `also`: never empty, `.` or `..`, never with `/`.

    >>> encode_part("../币"), encode_part("depth@100ms", also="@")
    ('%2E%2E%2F%E5%B8%81', 'depth@100ms')

    Raises:
        ValueError: `text` is empty or has no UTF-8 form.
    """
    if not text:
        raise ValueError("a part of a key cannot be empty")
    safe = _SAFE | set(also.encode())
    return "".join(chr(byte) if byte in safe else f"%{byte:02X}" for byte in text.encode())


def decode_part(part: str, *, also: str = "") -> str | None:
    """Return the text whose encoding is exactly `part`, or None: other spellings of the same text are refused.

    >>> decode_part("%2E%2E"), decode_part("%41"), decode_part("..")
    ('..', None, None)
    """
    try:
        text = _PERCENT.sub(lambda match: chr(int(match[1], 16)), part).encode("latin-1").decode()
        return text if encode_part(text, also=also) == part else None
    except ValueError:
        return None


def encode_symbol(symbol: str) -> str:
    """Return the part of a symbol; `!session` stands for itself.

    >>> encode_symbol("BTCUSDT"), encode_symbol("!session")
    ('BTCUSDT', '!session')
    """
    return symbol if symbol == SESSION else encode_part(symbol)


def encode_stream(stream: str) -> str:
    """Return the part of a stream.

    >>> encode_stream("!miniTicker@arr"), encode_stream("kline_1m/x")
    ('!miniTicker@arr', 'kline_1m%2Fx')
    """
    return encode_part(stream, also=STREAM_SAFE)


def _decode_symbol(part: str) -> str | None:
    if part == SESSION:
        return SESSION
    symbol = decode_part(part)
    return symbol if symbol is not None and plausible_symbol(symbol) else None


def _is_date(text: str) -> bool:
    try:
        return datetime.date.fromisoformat(text).isoformat() == text
    except ValueError:
        return False


def _checked(key: str, valid: bool) -> str:
    if not valid:
        raise ValueError(f"not a key that can be read back: {key!r}")
    return key


# --- raw and plan --------------------------------------------------------------------------------------------------------------


def parse_raw_key(key: str) -> RawKey | None:
    """Return the parts of a sealed segment's key, or None if it is none.

    >>> parse_raw_key("raw/v1/tokyo/spot/2026-11-22/09/0123abcd-3-12-00112233aabbccdd.tape.zst").sequence
    12
    """
    match = _RAW.fullmatch(key)
    if match is None:
        return None
    collector, market, date, hour, run8, connection, sequence, digest16 = match.groups()
    if not _is_date(date) or int(hour) > 23:
        return None
    return RawKey(collector, Market(market), date, int(hour), run8, int(connection), int(sequence), digest16)


def raw_prefix(collector: str, market: Market | None = None, date: str | None = None) -> str:
    """Return what the keys of a collector's segments start with.

    >>> raw_prefix("tokyo", Market.SPOT)
    'raw/v1/tokyo/spot/'
    """
    prefix = f"raw/v1/{check_collector(collector)}/"
    if market is not None:
        prefix += f"{market}/"
        if date is not None:
            prefix += _checked(f"{date}/", _is_date(date))
    return prefix


def plan_key(market: Market, date: str, digest: str) -> str:
    """Return the key of a plan; `digest` is its SHA-256 or the first 16 digits of it.

    >>> plan_key(Market.SPOT, "2026-11-22", "00112233aabbccdd")
    'plan/v1/market=spot/date=2026-11-22/00112233aabbccdd.json'

    Raises:
        ValueError: A part is not of its form.
    """
    key = f"plan/v1/market={Market(market)}/date={date}/{digest[:16]}.json"
    return _checked(key, _is_date(date) and _DIGEST.fullmatch(digest) is not None)


# --- proofs and outputs --------------------------------------------------------------------------------------------------------


def _day(market: Market, symbol: str, stream: str, date: str) -> str:
    return f"market={market}/symbol={encode_symbol(symbol)}/stream={encode_stream(stream)}/date={date}"


def _parse_day(parts: tuple[str, ...]) -> tuple[Market, str, str, str] | None:
    market, symbol_part, stream_part, date = parts
    symbol, stream = _decode_symbol(symbol_part), decode_part(stream_part, also=STREAM_SAFE)
    if symbol is None or stream is None or not _is_date(date):
        return None
    return Market(market), symbol, stream, date


def _prefix(root: str, market: Market, symbol: str | None, stream: str | None, date: str | None) -> str:
    prefix = f"{root}/market={market}/"
    if symbol is not None:
        prefix += f"symbol={encode_symbol(symbol)}/"
        if stream is not None:
            prefix += f"stream={encode_stream(stream)}/"
            if date is not None:
                prefix += _checked(f"date={date}/", _is_date(date))
    return prefix


def proof_key(market: Market, symbol: str, stream: str, date: str, generation: int) -> str:
    """Return the key of a day's proof.

    >>> proof_key(Market.SPOT, "BTCUSDT", "depth@100ms", "2026-11-22", 1)
    'proof/market=spot/symbol=BTCUSDT/stream=depth@100ms/date=2026-11-22/g0001.json'

    Raises:
        ValueError: A part is not of its form.
    """
    key = f"proof/{_day(market, symbol, stream, date)}/g{generation:04d}.json"
    return _checked(key, parse_proof_key(key) == ProofKey(market, symbol, stream, date, generation))


def proof_prefix(market: Market, symbol: str | None = None, stream: str | None = None, date: str | None = None) -> str:
    """Return what the keys of proofs start with, as narrow as the arguments (from the left) allow.

    >>> proof_prefix(Market.SPOT, "BTCUSDT")
    'proof/market=spot/symbol=BTCUSDT/'
    """
    return _prefix("proof", market, symbol, stream, date)


def parse_proof_key(key: str) -> ProofKey | None:
    """Return the parts of a proof's key, or None if it is none."""
    match = _PROOF.fullmatch(key)
    day = _parse_day(match.groups()[:4]) if match else None
    if match is None or day is None or match[5] == "0000":
        return None
    return ProofKey(*day, int(match[5]))


def table_key(table: str, market: Market, symbol: str, stream: str, date: str, generation: int, write_id: str, part: int) -> str:
    """Return the key of an archive file.

    >>> table_key("depth", Market.SPOT, "BTCUSDT", "depth@100ms", "2026-11-22", 1, "00112233aabbccdd", 0)
    'depth/market=spot/symbol=BTCUSDT/stream=depth@100ms/date=2026-11-22/attempt=g0001-00112233aabbccdd/part-0.parquet'

    Raises:
        ValueError: A part is not of its form.
    """
    key = f"{table}/{_day(market, symbol, stream, date)}/attempt=g{generation:04d}-{write_id}/part-{part}.parquet"
    return _checked(key, parse_table_key(key) == TableKey(table, market, symbol, stream, date, generation, write_id, part))


def table_prefix(
    table: str, market: Market, symbol: str | None = None, stream: str | None = None, date: str | None = None
) -> str:
    """Return what the keys of one table's files start with, as narrow as the arguments (from the left) allow.

    Raises:
        ValueError: There is no such table.
    """
    return _prefix(_checked(table, table in TABLES), market, symbol, stream, date)


def parse_table_key(key: str) -> TableKey | None:
    """Return the parts of an archive file's key, or None if it is none."""
    match = _TABLE.fullmatch(key)
    day = _parse_day(match.groups()[1:5]) if match else None
    if match is None or day is None or match[6] == "0000":
        return None
    return TableKey(match[1], *day, int(match[6]), match[7], int(match[8]))


def receipt_key(write_id: str, name: str) -> str:
    """Return the key of a deletion's receipt; `name` is `plan`, `done` or `clock`.

    >>> receipt_key("00112233aabbccdd", "plan")
    'receipt/v1/00112233aabbccdd/plan.json'

    Raises:
        ValueError: A part is not of its form.
    """
    valid = _WRITE_ID.fullmatch(write_id) is not None and name in ("plan", "done", "clock")
    return _checked(f"receipt/v1/{write_id}/{name}.json", valid)
