"""Multisets of raw lines: from headers, from texts, from outputs, and compared."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.lines import DATE, Exchange, chunks_of, expanded, files, hear, merge, printed, scene
from twintape.columns import digests as module
from twintape.columns.digests import digest_lines, digest_outputs, joined, missing_lines
from twintape.columns.expand import Outputs
from twintape.columns.kernel import hash_seed
from twintape.columns.lines import Chunk
from twintape.columns.parse import scan
from twintape.columns.templates import TemplateSet
from twintape.core.errors import CorruptionError
from twintape.core.markets import Market


def constant(text, collector="tokyo", connection="0000aaaa-1"):
    return Chunk(collector, connection, 0, DATE, lambda: text)


def counted(found):
    return Counter(map(tuple, found.digest.tolist()))


def swept(chunk, market):
    """Return the chunk with the headers the pass over the raw bytes would have left."""
    seed = hash_seed(chunk.collector, chunk.connection)
    headers = scan(chunk.load(), market, TemplateSet(), seed=seed)
    return replace(chunk, headers=lambda: headers, count=len(headers))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 100_000), st.sampled_from(list(Market)), st.integers(1, 3))
def test_raw_lines_their_headers_and_the_files_of_the_day_have_the_same_digests(seed, market, number):
    found = scene(market, seed, lines=number)
    chunks = chunks_of(found.heard)
    day = merge(chunks, market)
    expected = counted(digest_lines(chunks))
    assert counted(digest_lines([swept(chunk, market) for chunk in chunks])) == expected
    assert counted(digest_outputs(Outputs(files(day)), DATE)) == counted(digest_lines(expanded(day)))


def copies(market=Market.SPOT):
    """Events of which further lines heard copies: alike, printed in another wrapper, with the levels in another place, and odd ones."""
    events = Exchange(market, 5, 30).events(3)
    keys = "e E s U u b a" if market is Market.SPOT else "e E T s U u pu b a"
    bare = printed(events, wrapped=False)
    behind = printed(events, keys=f"{keys.replace(' b a', '')} b a", extra='"x":[1],')
    odd = [text.replace(b'"b":', b'"b": ') for text in bare]
    return [
        *hear(printed(events)),
        *hear(bare, "paris"),
        *hear(behind, "rome"),
        *hear(behind, "bern"),
        *hear(odd, "osaka"),
        *hear(
            printed(events, keys="e U u b a s E T pu" if market is not Market.SPOT else "e U u b a s E"), "tokyo", "0000bbbb-2"
        ),
    ]


@pytest.mark.parametrize("market", list(Market))
@pytest.mark.parametrize("first", [0, 10, 20, 30, 40, 50])
def test_copies_that_were_printed_in_another_way_keep_their_digests(market, first):
    heard = copies(market)
    # Each form once as the one the day is told by: the others are its copies, or are kept as they came.
    heard = [replace(one, collector="aaa") if k // 10 * 10 == first else one for k, one in enumerate(heard)]
    chunks = chunks_of(heard)
    day = merge(chunks, market)
    assert counted(digest_outputs(Outputs(files(day)), DATE)) == counted(digest_lines(chunks))


def test_several_row_groups_are_digested_like_one(monkeypatch):
    heard = copies()
    expected = counted(digest_lines(chunks_of(heard)))
    for where in ("schema", "merge", "expand", "digests"):
        monkeypatch.setattr(f"twintape.columns.{where}.ROW_GROUP_EVENTS", 4)
    day = merge(chunks_of([*heard[:10], *heard[10:14]]), Market.SPOT)
    assert counted(digest_outputs(Outputs(files(day)), DATE)) == counted(digest_lines(chunks_of(heard[:14])))
    assert counted(digest_outputs(Outputs(files(merge(chunks_of(heard), Market.SPOT))), DATE)) == expected


def test_no_files_are_no_lines():
    assert len(digest_outputs(Outputs({}), DATE)) == len(digest_lines([])) == 0


def test_a_file_that_is_none_is_an_error():
    with pytest.raises(CorruptionError):
        digest_outputs(Outputs({"depth": b"no Parquet"}), DATE)


def test_a_digest_says_where_its_line_stands():
    chunks = [constant(b"1 a\n22 bb\n"), constant(b""), constant(b"3 c\n")]
    found = digest_lines(chunks)
    places = zip(found.chunk.tolist(), found.offset.tolist(), found.length.tolist(), strict=True)
    assert [chunks[c].load()[o : o + n] for c, o, n in places] == [b"1 a", b"22 bb", b"3 c"]


LINES = st.lists(st.sampled_from([b"1 a", b"2 b", b"3 c", b"4 d"]), max_size=12)


@settings(max_examples=100, deadline=None)
@given(LINES, LINES)
def test_missing_lines_are_the_difference_of_the_multisets(whole, part):
    def chunk(lines):
        return [constant(b"".join(line + b"\n" for line in lines))]

    left, strangers = missing_lines(digest_lines(chunk(whole)), digest_lines(chunk(part)))
    assert Counter(whole[row] for row in left.tolist()) == Counter(whole) - Counter(part)
    assert strangers == sum((Counter(part) - Counter(whole)).values())
    assert left.tolist() == sorted(left.tolist())


def test_the_same_line_of_another_collector_or_connection_is_another_line():
    one = digest_lines([constant(b"1 a\n")])
    for other in (constant(b"1 a\n", "paris"), constant(b"1 a\n", connection="0000aaaa-2"), constant(b"1 b\n")):
        left, strangers = missing_lines(one, digest_lines([other]))
        assert (len(left), strangers) == (1, 1)


def test_the_lines_of_several_parts_are_one_multiset():
    one, other = digest_lines([constant(b"1 a\n2 b\n")]), digest_lines([constant(b"1 a\n")])
    assert counted(joined([one, other])) == counted(one) + counted(other)
    assert len(joined([])) == 0


def test_digests_with_equal_halves_are_told_apart_and_equal_ones_are_counted():
    whole = np.array([(1, 2), (2, 0), (1, 1), (2, 0), (1, 2), (17, 0), (33, 0)], np.uint64)
    part = np.array([(1, 2), (0, 9), (3, 0), (2, 0), (1, 2), (1, 2), (33, 0), (17, 0), (17, 0)], np.uint64)
    found = []
    for match in (module._match, module._match.py_func):
        matched = np.zeros(len(whole), bool)
        strangers = match(whole, part, np.full(16, -1, np.int32), np.empty(len(whole), np.int32), matched)
        found.append((strangers, matched.tolist()))
    assert found[0] == found[1] == (4, [True, True, False, False, True, True, True])
