"""Hostile bytes for everything that decodes: valid inputs, mutations of them, and the seven plagues of JSON and zstd.

A decoder may accept its input or refuse it with an error of ours. Anything else is a finding: another exception, more than a second, more memory.
"""

from __future__ import annotations

import hashlib
import random
import struct
import time
import traceback
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal

import msgspec

from support.store import Exchange, Recorder
from twintape.columns.kept import Memory
from twintape.columns.snapshots import CompactSnapshot, counts_of, read_snapshot
from twintape.columns.survey import survey
from twintape.core import active, index, manifest, names, segment, tape, wire
from twintape.core.errors import TwintapeError, WireError
from twintape.core.markets import Market

SLOW_S = 1.0
FINDINGS_MAX = 20
GROWTH_MAX = 1 << 16
MUTATED_SHARE = 0.8
NUMBERS = (b"0", b"-1", b"1e400", b"9223372036854775807", b"9223372036854775808", b"1" * 400, b"0.1", b"NaN", b"00", b"-0")
TOKENS = (
    b"null",
    b"true",
    b"[]",
    b"{}",
    b'""',
    b"[[[[",
    b'{"a":',
    b"\\ud800",
    b"\xff\xfe",
    b"\x00",
    b"\n",
    b",",
    b":",
    b'"',
    b"\\",
    b"\xe5\xb8\x81",
)

Decode = Callable[[bytes], object]


@dataclass
class Target:
    """A decoder under fire.

    Attributes:
        name: Of the target.
        decode: Takes the bytes.
        corpus: Valid inputs.
        code: Module of core or columns → the functions whose branches count; kernels are compiled, theirs cannot be counted.
        mend: Makes checksums right again behind a mutation, so that it gets past them; used for half of the inputs.
    """

    name: str
    decode: Decode
    corpus: Sequence[bytes]
    code: dict[str, str]
    mend: Callable[[bytes], bytes] | None = None


@dataclass
class Tally:
    """What came of a target."""

    executions: int = 0
    mutated: int = 0
    accepted: int = 0
    refused: int = 0
    slowest_s: float = 0.0
    findings: list[str] = field(default_factory=list)


# --- inputs --------------------------------------------------------------------------------------------------------------------


def mutate(rng: random.Random, data: bytes, corpus: Sequence[bytes]) -> bytes:
    """Return a valid input with one to four changes."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        at = rng.randrange(len(changed) + 1)
        match rng.randrange(9):
            case 0 if changed:
                changed[at % len(changed)] ^= 1 << rng.randrange(8)
            case 1:
                changed[at:at] = rng.choice(TOKENS)
            case 2:
                del changed[at : at + rng.choice((1, 2, 4, 16, 256))]
            case 3:
                other = rng.choice(corpus)
                start = rng.randrange(len(other) + 1)
                changed[at : at + rng.randrange(64)] = other[start : start + rng.randrange(1, 256)]
            case 4:
                changed = changed[:at]
            case 5:
                changed[at : at + rng.choice((1, 8, 32))] = rng.randbytes(rng.choice((1, 8, 32)))
            case 6:
                begin, end = _digits(changed, at)
                changed[begin:end] = rng.choice(NUMBERS)
            case 7:
                part = bytes(changed[at : at + rng.choice((1, 8, 64))])
                changed[at:at] = part * min(rng.choice((2, 10, 100)), GROWTH_MAX // max(1, len(part)))
            case _:
                begin, end = _digits(changed, at)
                if end > begin:
                    changed[begin:end] = str(int(changed[begin:end]) + rng.choice((-1, 1))).encode()
    return bytes(changed)


def _digits(data: bytearray, at: int) -> tuple[int, int]:
    """Return where the first number of at most 19 digits behind a position is, or an empty place."""
    begin = at
    while begin < min(len(data), at + 64) and not 48 <= data[begin] <= 57:
        begin += 1
    end = begin
    while end < min(len(data), begin + 19) and 48 <= data[end] <= 57:
        end += 1
    return begin, end


def invent(rng: random.Random) -> bytes:
    """Return an input nobody made: noise, JSON's words in any order, deep nesting."""
    match rng.randrange(4):
        case 0:
            return rng.randbytes(rng.randrange(200))
        case 1:
            return b"".join(rng.choice(TOKENS + NUMBERS) for _ in range(rng.randrange(30)))
        case 2:
            depth = rng.choice((10, 1000, 30_000))
            return rng.choice((b"[", b'{"data":', b'{"a":[')) * depth
        case _:
            return b'{"stream":"%b","data":' % rng.choice((b"btcusdt@depth", b"!x", b"\xff", b"a" * 90)) + rng.choice(TOKENS) * 3


def fire(target: Target, executions: int, seed: int) -> Tally:
    """Feed a decoder; the same seed feeds it the same."""
    rng = random.Random(f"{target.name} {seed}")
    tally = Tally()
    for data in target.corpus:
        target.decode(data)  # what is valid must be accepted, or mutating it shows nothing
    while tally.executions < executions and len(tally.findings) < FINDINGS_MAX:
        if rng.random() < MUTATED_SHARE:
            tally.mutated += 1
            data = mutate(rng, rng.choice(target.corpus), target.corpus)
            if target.mend is not None and rng.random() < 0.5:
                data = target.mend(data)
        else:
            data = invent(rng)
        begin = time.perf_counter()
        try:
            target.decode(data)
            tally.accepted += 1
        except TwintapeError:
            tally.refused += 1
        except Exception:  # noqa: BLE001 - whatever a decoder crashes with is the finding
            tally.findings.append(f"{data[:300]!r}: {traceback.format_exc(limit=-3)}")
        took = time.perf_counter() - begin
        if took > SLOW_S:
            tally.findings.append(f"{data[:300]!r}: took {took:.1f} s")
        tally.slowest_s = max(tally.slowest_s, took)
        tally.executions += 1
    return tally


# --- valid inputs, and right checksums around wrong contents ---------------------------------------------------------------------


def segments() -> list[bytes]:
    """Return small sealed segments."""
    found = []
    for market in (Market.SPOT, Market.USDM):
        exchange = Exchange(market=market, events=9)
        found += [sealed.data for sealed in Recorder("tokyo", segments=3).seals([exchange])]
    # Connections and clocks may step back: then an order is kept beside the lines.
    lines = [(10**18 + number * (-1) ** number, frame) for number, frame in enumerate(frames()) if b"\n" not in frame]
    link = segment.ChainLink(id="0" * 16, number=1, previous="0" * 64, reason=None)
    options = {"collector": "tokyo", "market": Market.SPOT, "run": "0" * 32, "connection": 1, "sequence": 1}
    return [*found, segment.seal(lines, chain=link, **options).data]


def mend_index(data: bytes) -> bytes:
    """Return an index frame whose sizes and CRC are right for whatever text it holds."""
    text = data[8:-16]
    offset = data[-16:-8] if len(data) >= 24 else bytes(8)
    return struct.pack("<II", 0x184D2A50, len(text) + 16) + text + offset + struct.pack("<I4s", zlib.crc32(text), b"TTP1")


def mend_segment(data: bytes) -> bytes:
    """Return a segment whose trailer and CRC are right, and the digest of every block that is where the index says."""
    offset = struct.unpack("<Q", data[-16:-8])[0] if len(data) >= 40 else 0
    if not 0 < offset < len(data) - 24:
        return data
    text = data[offset + 8 : -16]
    try:
        described = msgspec.json.decode(text)
        for stream in described["streams"]:
            for block in stream["blocks"]:
                found = data[block["offset"] : block["offset"] + block["size"]]
                block["sha256"] = hashlib.sha256(found).hexdigest()
        text = msgspec.json.encode(described)
    except (msgspec.DecodeError, KeyError, TypeError, UnicodeDecodeError, RecursionError):
        text = bytes(text)  # hostile text, right checksum
    trailer = struct.pack("<QI4s", offset, zlib.crc32(text), b"TTP1")
    return data[:offset] + struct.pack("<II", 0x184D2A50, len(text) + 16) + text + trailer


def frames() -> list[bytes]:
    """Return frames as exchange, REST and recorder write them."""
    found = []
    for market in (Market.SPOT, Market.USDM):
        exchange = Exchange(market=market, events=6)
        found += [frame for _, frame in Recorder("tokyo", snapshots=(0, 2)).lines([exchange])]
        found += [exchange.body(1), exchange.frame(1)[len(b'{"stream":"btcusdt@depth@100ms","data":') : -1]]
    found.append(wire.sync_line(size=100, crc32=7))
    found.append(wire.suspect_line(from_ns=1, to_ns=None, streams=["btcusdt@depth"], reason="silent"))
    found.append(wire.close_line(reason="", code=1006, final=True))
    found.append(wire.bytes_line(2, b"\x00\xff"))
    found.append(b'{"e":"serverShutdown"}')
    return found


def read_wire(data: bytes) -> None:
    """Ask everything of a frame that is ever asked of one."""
    name = wire.stream_of(data)
    wire.split_stream(name)
    wire.event_time_us(data)
    wire.recordable(data)
    wire.is_shutdown_notice(data)
    control = wire.parse_control(data)
    refused: TwintapeError | None = None
    readers: list[Callable[[], object]] = [lambda: wire.recorded_snapshot(data), lambda: wire.decode_snapshot(data)]
    readers += [lambda market=market: wire.depth_ids(data, market) for market in Market]
    readers += [lambda market=market: wire.decode_depth(data, market) for market in Market]
    accepted = 0
    for read in readers:
        try:
            accepted += read() is not None
        except TwintapeError as error:
            refused = error
    if not accepted and control is None and name == wire.OTHER and refused is not None:
        raise refused


def read_segment(data: bytes) -> None:
    """Read a segment in every way there is: index by tail, digests, lines, all of it."""
    segment.verify_segment(data)
    segment.check_digests(data)


def read_tail(data: bytes) -> None:
    """Read an index from the end of an object that is as long as the end says."""
    offset = struct.unpack("<Q", data[-16:-8])[0] if len(data) >= 16 else 0
    size = len(data) + min(offset, 1 << 40)
    for tail in (data[-8:], data[-64:], data):
        index.read_index(tail, size)


def read_names(data: bytes) -> None:
    """Take a key apart; what is a key must be built again the same."""
    text = data.decode("utf-8", "surrogateescape")
    raw = names.parse_raw_key(text)
    assert raw is None or raw.key() == text
    proof = names.parse_proof_key(text)
    if proof is not None:
        assert names.proof_key(proof.market, proof.symbol, proof.stream, proof.date, proof.generation) == text
    output = names.parse_table_key(text)
    assert output is None or text.startswith(
        names.table_prefix(output.table, output.market, output.symbol, output.stream, output.date)
    )


KEYS = [
    b"raw/v1/tokyo/spot/2026-03-02/00/08ef248e-1-1-bcd3ba8775299c00.tape.zst",
    b"proof/market=spot/symbol=%E5%B8%81USDT/stream=depth@100ms/date=2026-03-02/g0001.json",
    b"depth/market=usdm/symbol=BTCUSDT/stream=depth/date=2026-03-02/attempt=g0001-0123456789abcdef/part-0.parquet",
]


def read_as_a_merge_does(data: bytes) -> None:
    """Survey a segment, keeping its levels."""
    survey(data, "tokyo-1", {}, memory=Memory())


def read_snapshot_twice(data: bytes) -> None:
    """Read a snapshot as columns, which accepts what the strict reader accepts and finds the same."""
    try:
        strict = wire.decode_snapshot(data)
    except WireError:
        found = read_snapshot(data)  # refuses it, too
        raise AssertionError(f"only the strict reader refuses it: {found}") from None
    found = read_snapshot(data)
    names = ("last_update_id", "event_time_us", "transaction_time_us")
    assert [getattr(found, name) for name in names] == [getattr(strict, name) for name in names]
    assert counts_of(found) == counts_of(strict)
    if isinstance(found, CompactSnapshot):
        decimals = [found.price_decimals, found.quantity_decimals] * 2
        values = [int(value) for side in found.sides for value in side]
        wanted = [
            Decimal(row[place]).scaleb(decimals[place]) for side in (strict.bids, strict.asks) for place in (0, 1) for row in side
        ]
        assert values == wanted


def targets(plans: Sequence[bytes], proofs: Sequence[bytes], receipts: Sequence[bytes]) -> list[Target]:
    """Return all decoders, with documents of a real merge."""
    sealed = segments()
    tails = [data[struct.unpack("<Q", data[-16:-8])[0] :] for data in sealed]
    lines = [frame for frame in frames() if b"\n" not in frame]
    text = b"".join(active.format_line(10**18 + number, frame) for number, frame in enumerate(lines))
    synced = text + active.format_sync(10**18 + 99, size=len(text), crc32=zlib.crc32(text))
    bodies = [found.body for frame in lines if (found := wire.recorded_snapshot(frame)) is not None]
    documents = {"manifest": "decode"}
    segment_code = "verify_segment check_digests _in_order _positions read_block _decompress _whole_index _block _open_fields believed_times_us"
    index_code = "index_json read_index _check_index _check_stream _is_date extent expect"
    wire_code = (
        "stream_of _wrapper_name _wrapped_stream _raw_stream event_time_us depth_ids recordable is_shutdown_notice _microseconds _levels"
        " unwrap decode_depth decode_snapshot recorded_snapshot parse_control split_stream plausible_symbol"
    )
    names_code = "parse_raw_key parse_proof_key parse_table_key decode_part _decode_symbol _is_date _parse_day"
    return [
        Target(
            "segment", read_segment, sealed, {"segment": segment_code, "index": index_code, "active": "parse_text"}, mend_segment
        ),
        Target("index", read_tail, tails, {"index": index_code}, mend_index),
        Target(
            "active", active.recover_active, [text, synced, synced + text[:500]], {"active": "recover_active _split parse_line"}
        ),
        Target("plan", lambda data: manifest.decode(data, manifest.Plan, where="k"), plans, documents),
        Target("proof", lambda data: manifest.decode(data, manifest.Proof, where="k"), proofs, documents),
        Target("receipt", lambda data: manifest.decode(data, manifest.PruneReceipt, where="k"), receipts, documents),
        Target("wire", read_wire, frames(), {"wire": wire_code}),
        Target("tape", tape.parse_line, [b"1700000000000000000 " + frame for frame in lines], {"tape": "parse_line"}),
        Target("names", read_names, KEYS, {"names": names_code}),
        Target(
            "survey",
            read_as_a_merge_does,
            sealed,
            {"survey": "survey _scan", "blocks": "read_block is_plain_frame"},
            mend_segment,
        ),
        Target("snapshot", read_snapshot_twice, bodies, {"snapshots": "read_snapshot _microseconds"}),
    ]
