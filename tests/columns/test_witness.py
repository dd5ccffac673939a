"""bookTicker and partial books against the book: what agrees, what contradicts, what may only be lost."""

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.lines import NOON_US, Exchange, chunks_of, hear, merge, price_text, printed, quantity_text
from support.oracle import book_ticker_agreement
from twintape.columns.lines import Chunk
from twintape.columns.witness import PARTIAL_SPACING, Chain, compare_tickers, partial_levels, sample_partials
from twintape.core.markets import Market

EXCHANGE = Exchange(Market.SPOT, 5, 60)
EVENTS = EXCHANGE.events(3)


def ticker(update_id, top, *, decimals=(2, 3), odd=""):
    texts = [price_text(top[0]), quantity_text(top[1]), price_text(top[2]), quantity_text(top[3])]
    texts = [text.ljust(len(text) + decimals[i % 2] - (2, 3)[i % 2], "0") for i, text in enumerate(texts)]
    bid, bids, ask, asks = texts
    return f'{{"u":{update_id},{odd}"s":"BTCUSDT","b":"{bid}","B":"{bids}","a":"{ask}","A":"{asks}"}}'.encode()


def heard(frames, collector="tokyo", *, start_ns=NOON_US * 1000, step_ns=1000):
    text = b"".join(b"%d %b\n" % (start_ns + k * step_ns, frame) for k, frame in enumerate(frames))
    return Chunk(collector, "0000aaaa-1", 0, "2026-11-22", lambda: text)


def chain_of(exchange, windows=3):
    events = exchange.events(windows)
    columns = ([0] * len(events), [e.prev for e in events], [e.final for e in events], [e.time_us * 1000 for e in events])
    return Chain(*(np.array(column, np.int64) for column in columns))


def tops_of(exchange, chain):
    return np.array([exchange.book(final).top() for final in chain.final.tolist()], np.int64)


def compare(exchange, chunks, windows=3, **more):
    chain = chain_of(exchange, windows)
    known = more.get("known", np.ones(len(chain.final), bool))
    return compare_tickers(chain, known, tops_of(exchange, chain), (-2, -3), chunks)


# --- bookTicker ----------------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 100_000), st.sampled_from(list(Market)))
def test_the_counts_are_those_of_the_obvious_reference(seed, market):
    rng = random.Random(seed)
    exchange = Exchange(market, seed, rng.randint(1, 60))
    tickers = []
    for change in exchange.changes:
        for _ in range(rng.choice([0, 1, 1, 2])):
            top = exchange.book(change.final).top()
            if rng.random() < 0.1:
                top = (*top[:3], top[3] + 1)
            tickers.append((change.final, top))
    chain = chain_of(exchange)
    tops = [exchange.book(final).top() for final in chain.final.tolist()]
    wanted = book_ticker_agreement(zip(chain.prev.tolist(), chain.final.tolist(), tops, strict=True), tickers)
    frames = [ticker(update_id, top, decimals=(8, 8) if rng.random() < 0.5 else (2, 3)) for update_id, top in tickers]
    cut = rng.randrange(len(frames) + 1)
    chunks = [heard(frames[:cut]), heard(frames[cut:], start_ns=NOON_US * 1000 + 10**9)]
    found = compare(exchange, chunks[:: rng.choice([1, -1])])
    assert (found.equal, found.different + found.suspect) == wanted
    assert len(found.examples) == min(20, found.different + found.suspect)


def test_an_id_at_the_events_end_contradicts_and_a_smaller_one_is_suspect():
    top = EXCHANGE.book(1003).top()
    other = (*top[:3], top[3] + 1)
    assert compare(EXCHANGE, [heard([ticker(1003, other)])]).different == 1
    assert compare(EXCHANGE, [heard([ticker(1002, other)])]).suspect == 1
    (example,) = compare(EXCHANGE, [heard([ticker(1003, other)])]).examples
    assert (example.update_id, example.final_update_id) == (1003, 1003)
    assert example.in_ticker[:3] == example.in_book[:3]
    assert example.in_ticker[3] != example.in_book[3]


def test_of_several_collectors_the_greatest_id_counts_and_one_that_agrees_is_enough():
    top = EXCHANGE.book(1003).top()
    other = (*top[:3], top[3] + 1)
    early, late, true = ticker(1002, other), ticker(1003, other), ticker(1003, top)
    for chunks in (
        [heard([early], "paris"), heard([true])],
        [heard([true]), heard([late], "paris")],
        [heard([late]), heard([true], "paris")],
    ):
        assert compare(EXCHANGE, chunks).equal == 1
        assert compare(EXCHANGE, chunks[::-1]).equal == 1


def test_tickers_outside_the_chain_or_where_the_book_is_unknown_say_nothing():
    top = EXCHANGE.book(1003).top()
    assert compare(EXCHANGE, [heard([ticker(1000, top), ticker(5000, top)])]).equal == 0
    unknown = np.zeros(len(EVENTS), bool)
    assert compare(EXCHANGE, [heard([ticker(1003, top)])], known=unknown).equal == 0
    assert compare(EXCHANGE, []) is None
    nothing = np.zeros(0, np.int64)
    empty = compare_tickers(
        Chain(*[nothing] * 4), np.zeros(0, bool), np.zeros((0, 4), np.int64), (-2, -3), [heard([ticker(1003, top)])]
    )
    assert empty.equal == 0


def test_frames_no_template_prints_are_witnesses_too_and_what_is_none_is_passed_over():
    top = EXCHANGE.book(1003).top()
    odd = ticker(1003, top).replace(b'"b":', b'"b": ')
    assert compare(EXCHANGE, [heard([odd, b"<html>", b'{"u":1003}', b'{"u":"x","b":1}', b"[1]"])]).equal == 1
    fine = ticker(1003, top).replace(b'"b":"', b'"b": "').replace(b'","B"', b'00001","B"')
    assert compare(EXCHANGE, [heard([fine])]).different == 1
    # The same in the compiled way: more digits than the day's exponents, or more than 64 bits.
    assert compare(EXCHANGE, [heard([ticker(1003, top, decimals=(8, 8)).replace(b'00","B"', b'01","B"')])]).different == 1
    huge = ticker(1003, (999_999_999_999_999_999, 1, 2, 3), decimals=(2, 3)).replace(b'.99","B"', b'","B"')
    chain = chain_of(EXCHANGE)
    found = compare_tickers(chain, np.ones(len(EVENTS), bool), tops_of(EXCHANGE, chain), (-8, -8), [heard([huge])])
    assert found.different == 1


def test_where_ids_repeat_a_ticker_speaks_of_the_event_heard_near_it():
    chain = chain_of(EXCHANGE)
    far = 3_600_000_000_000
    twice = Chain(
        np.repeat([0, 1], len(EVENTS)),
        *(np.concatenate([part, part]) for part in (chain.prev, chain.final)),
        np.concatenate([chain.receive_time_ns, chain.receive_time_ns + far]),
    )
    ids = np.array([1003, 1003, 1003], np.int64)
    times = chain.receive_time_ns[0] + np.array([0, far, 3 * far], np.int64)
    assert twice.places(ids, times).tolist() == [0, len(EVENTS), -1]


# --- partial books -------------------------------------------------------------------------------------------------------------


def test_a_stream_of_partial_books_is_known_by_its_name():
    names = ["depth5", "depth20@100ms", "depth10@1000ms", "depth", "depth@100ms", "depth7", "depthSnapshot"]
    assert [partial_levels(name) for name in names] == [5, 20, 10, None, None, None, None]


def partial(exchange, update_id, levels=5):
    bids, asks = (
        [[price_text(p), quantity_text(q)] for p, q in zip(side[0][:levels], side[1][:levels], strict=True)]
        for side in (exchange.book(update_id).levels()[:2], exchange.book(update_id).levels()[2:])
    )
    body = f'"bids":{bids},"asks":{asks}'.replace("'", '"').replace(" ", "")
    if exchange.market is Market.SPOT:
        return f'{{"stream":"btcusdt@depth{levels}@100ms","data":{{"lastUpdateId":{update_id},{body}}}}}'.encode()
    body = body.replace('"bids"', '"b"').replace('"asks"', '"a"')
    return (
        f'{{"stream":"btcusdt@depth{levels}@100ms","data":{{"e":"depthUpdate","E":1723161255208,"T":1723161255200,"s":"BTCUSDT",'
        f'"U":{update_id},"u":{update_id},"pu":{update_id - 1},{body}}}}}'.encode()
    )


@pytest.mark.parametrize("market", [Market.SPOT, Market.USDM])
def test_at_most_one_partial_book_of_a_stretch_is_chosen_and_it_is_at_an_events_end_if_there_is_one(market):
    exchange = Exchange(market, 3, 4 * PARTIAL_SPACING)
    chain = chain_of(exchange, 2)
    frames = [partial(exchange, change.final) for change in exchange.changes]
    chunks = [(5, heard(frames[::2])), (5, heard(frames[1::2], "paris"))]
    found = sample_partials(chain, market, chunks)
    assert sorted(found) == [0, PARTIAL_SPACING]
    assert sample_partials(chain, market, chunks[::-1]) == found
    for position, copy in found.items():
        assert copy.snapshot.last_update_id == chain.final[position]
        assert (copy.limit, copy.collector) == (5, "paris")
    inside = sample_partials(chain, market, chunks[:1])
    assert [chain.prev[k] < copy.snapshot.last_update_id < chain.final[k] for k, copy in inside.items()] == [True, True]


def test_what_is_no_partial_book_is_passed_over():
    chain = chain_of(EXCHANGE)
    frames = [b'{"u":1003}', b"<html>", b'{"lastUpdateId":1003,"x":1}']
    assert sample_partials(chain, Market.SPOT, [(5, heard(frames))]) == {}
    assert sample_partials(chain, Market.USDM, [(5, heard([b'{"u":1003}']))]) == {}
    assert sample_partials(chain, Market.SPOT, [(5, heard([partial(EXCHANGE, 9000)])), (5, heard([]))]) == {}
    # Another number under the same key further on is not the id.
    nested = b'{"u":1003,"data":{"lastUpdateId":1006,"bids":[],"asks":[]}}'
    assert sample_partials(chain, Market.SPOT, [(5, heard([nested]))]) == {}


# --- in a merge ----------------------------------------------------------------------------------------------------------------


def test_a_merge_compares_its_book_with_both_and_none_of_them_starts_it():
    frames = [ticker(change.final, EXCHANGE.book(change.final).top()) for change in EXCHANGE.changes]
    witnesses = {"tickers": [heard(frames)], "partials": [(5, heard([partial(EXCHANGE, 1003), partial(EXCHANGE, 1004)]))]}
    chunks = chunks_of(hear(printed(EVENTS)))
    day = merge(chunks, Market.SPOT, snapshots=[EXCHANGE.snapshot(1000)], **witnesses)
    assert (day.tickers.equal, day.tickers.different, day.tickers.suspect) == (len(EVENTS), 0, 0)
    assert (day.partial_books.passed, day.partial_books.failed) == (1, 0)
    alone = merge(chunks, Market.SPOT, **witnesses)
    assert (alone.tickers.equal, alone.partial_books.passed, alone.closing) == (0, 0, None)
    assert alone.tables[0].data == merge(chunks, Market.SPOT).tables[0].data
