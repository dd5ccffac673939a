"""A sealed segment of exactly 64 KiB, and which of its bits can be turned over unnoticed: none."""

from __future__ import annotations

import random
from collections.abc import Iterable

from twintape.core import wire
from twintape.core.errors import CorruptionError
from twintape.core.markets import Market
from twintape.core.segment import ChainLink, check_digests, seal

SEGMENT_BYTES = 65_536
_START_NS = 1_772_400_000_000_000_000


def big_segment() -> bytes:
    """Return a valid segment of 64 KiB: depth frames of some streams, and one line of noise that makes its size come out right."""
    rng = random.Random(64)
    size = 36_000
    while True:
        data = _sealed(size, random.Random(64))
        if len(data) == SEGMENT_BYTES:
            return data
        # Noise does not compress, so that one character more of it is about one byte more; base64 sizes come in steps.
        size += (SEGMENT_BYTES - len(data)) or rng.choice((-1, 1))
        assert 0 < size < SEGMENT_BYTES, size


def _sealed(noise: int, rng: random.Random) -> bytes:
    lines = [
        wire.open_line(
            collector="tokyo",
            market=Market.SPOT,
            run="0" * 32,
            connection=1,
            sequence=1,
            url="wss://stream.example",
            streams=["btcusdt@depth@100ms"],
            version="test",
            event_time_us=None,
        )
    ]
    for number in range(1500):
        name = ("btcusdt", "ethusdt", "bnbusdt")[number % 3]
        time_ms = _START_NS // 1_000_000 + number
        levels = f'[["{rng.randrange(10**7) / 100:.2f}","{rng.randrange(10**6) / 1000:.3f}"]]'
        lines.append(
            f'{{"stream":"{name}@depth@100ms","data":{{"e":"depthUpdate","E":{time_ms},"s":"{name.upper()}",'
            f'"U":{number * 10 + 1},"u":{number * 10 + 10},"b":{levels},"a":[]}}}}'.encode()
        )
    letters = bytes(byte for byte in range(33, 127) if byte not in b'"\\')
    lines.append(b'{"result":"' + bytes(rng.choices(letters, k=noise)) + b'"}')
    sealed = seal(
        [(_START_NS + number, line) for number, line in enumerate(lines)],
        collector="tokyo",
        market=Market.SPOT,
        run="0" * 32,
        connection=1,
        sequence=1,
        chain=ChainLink(id="0" * 16, number=0, previous=None, reason="new spool"),
    )
    return sealed.data


def unnoticed(data: bytes, bits: Iterable[int]) -> list[int]:
    """Return the bits whose turning over a reader would not notice, turning over one at a time."""
    found = []
    spoiled = bytearray(data)
    for bit in bits:
        spoiled[bit >> 3] ^= 1 << (bit & 7)
        try:
            check_digests(bytes(spoiled))
        except CorruptionError:
            spoiled[bit >> 3] ^= 1 << (bit & 7)
            continue
        spoiled[bit >> 3] ^= 1 << (bit & 7)
        found.append(bit)
    return found
