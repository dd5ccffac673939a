"""Depth frames as Binance prints and might print them: one builder, and Hypothesis strategies on top of it."""

from __future__ import annotations

from hypothesis import strategies as st

from twintape.core.markets import Market

KEYS = {Market.SPOT: "e E s U u b a", Market.USDM: "e E T s U u pu b a", Market.COINM: "e E T s ps U u pu b a"}


def frame(
    market=Market.SPOT,
    *,
    first=10,
    final=12,
    prev=9,
    event_time="1723161255208",
    transaction_time="1723161255200",
    bids=(("5.10", "0.200"),),
    asks=(("5.20", "1.000"),),
    suffix="",
    wrapped=True,
    keys=None,
    extra="",
    symbol="BTCUSDT",
):
    """Return one depth frame. `keys` is the order of keys, `extra` literal text in front of them."""

    def side(levels):
        return "[" + ",".join(f'["{price}","{quantity}"{suffix}]' for price, quantity in levels) + "]"

    values = {
        "e": '"depthUpdate"',
        "E": event_time,
        "T": transaction_time,
        "s": f'"{symbol}"',
        "ps": f'"{symbol}"',
        "U": str(first),
        "u": str(final),
        "pu": str(prev),
        "b": side(bids),
        "a": side(asks),
    }
    text = "{" + extra + ",".join(f'"{key}":{values[key]}' for key in (keys or KEYS[market]).split()) + "}"
    return (f'{{"stream":"{symbol.lower()}@depth","data":{text}}}' if wrapped else text).encode()


def line(text: bytes, receive_time=1723161255030314667) -> bytes:
    """Return the frame as a line of a segment."""
    return b"%d %b\n" % (receive_time, text)


def numbers(decimals):
    """Decimals with exactly so many digits behind the point, at most 18 in all."""
    largest = 10 ** min(18, decimals + 11) - 1
    if decimals == 0:
        return st.integers(0, largest).map(str)
    return st.integers(0, largest).map(lambda m: f"{m // 10**decimals}.{m % 10**decimals:0{decimals}d}")


def sides(price_decimals, quantity_decimals, most=6):
    return st.lists(st.tuples(numbers(price_decimals), numbers(quantity_decimals)), max_size=most)


@st.composite
def frames(draw, market=None):
    """Frames of a shape the matcher must know: returns (market, frame)."""
    market = market or draw(st.sampled_from(list(Market)))
    price_decimals, quantity_decimals = draw(st.integers(0, 8)), draw(st.integers(0, 8))
    unit = draw(st.sampled_from([13, 16]))
    time = st.integers(10 ** (unit - 1), 10**unit - 1).map(str)
    first = draw(st.integers(0, 10**18 - 1))
    final = draw(st.integers(first, min(first + 1000, 10**18 - 1)))
    prev = draw(st.integers(0, final - 1)) if final > 0 else 0
    keys = KEYS[market].split()
    return market, frame(
        market,
        first=first,
        final=final,
        prev=prev,
        event_time=draw(time),
        transaction_time=draw(time),
        bids=draw(sides(price_decimals, quantity_decimals)),
        asks=draw(sides(price_decimals, quantity_decimals)),
        suffix=draw(st.sampled_from(["", ",[]"])),
        wrapped=draw(st.booleans()),
        keys=" ".join(draw(st.permutations(keys))) if draw(st.booleans()) else None,
        extra=draw(st.sampled_from(["", '"st":2,', '"x":{"y":[1,null,"é币"]},'])),
        symbol=draw(st.sampled_from(["BTCUSDT", "币安人生USDT"])),
    )


@st.composite
def mutated(draw, market=None):
    """Frames with one to three bytes replaced, inserted or removed: mostly broken, sometimes only odd."""
    market, text = draw(frames(market))
    for _ in range(draw(st.integers(1, 3))):
        position = draw(st.integers(0, len(text) - 1))
        new = draw(
            st.sampled_from([b"", b"0", b"1", b"9", b".", b'"', b"-", b" ", b",", b"[", b"]", b"}", b"e", b"\\", b"\xff", b"00"])
        )
        text = text[:position] + new + text[position + draw(st.integers(0, 1)) :]
    return market, text
