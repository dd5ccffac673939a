"""Publish, then delete, under faults and beside one another; `bench/protocol.py` runs all of it."""

import pytest

from support.protocol import (
    PAIRS,
    agree,
    cases,
    check_interleaving,
    check_merge,
    check_prune,
    merge_all,
    prune_all,
    requests_of,
    world,
)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return world(tmp_path_factory.mktemp("scratch"))


STRIDE = 9
"""Every so many requests; the long run takes all."""


def test_a_merge_of_which_any_request_fails_in_any_way_ends_in_the_same_archive(small):
    asked = requests_of(small.raw, lambda store: merge_all(store, small.scratch))
    assert {operation for operation, _ in asked} == {"list", "get", "get_range", "create"}, "a merge never deletes"
    for number, fault in list(cases(asked, every_kind=False))[::STRIDE]:
        check_merge(small, number, fault)


def test_a_prune_of_which_any_request_fails_in_any_way_deletes_the_same(small):
    asked = requests_of(small.merged, prune_all)
    for number, fault in list(cases(asked, every_kind=False))[::STRIDE]:
        check_prune(small, number, fault)


@pytest.mark.parametrize(("first", "other"), PAIRS)
def test_runs_in_the_middle_of_one_another_are_harmless(small, first, other):
    inner, work = (small.raw, lambda store: merge_all(store, small.scratch)) if first == "merge" else (small.merged, prune_all)
    for at in range(1, len(requests_of(inner, work)) + 1, STRIDE * 4):
        check_interleaving(small, first, other, at)


def test_of_two_archives_only_a_more_careful_label_of_a_day_that_is_not_spliced_may_differ():
    def archive(depth, ticker, digest="a"):
        return {
            ("B", "depth@100ms", "d"): (depth, [("depth", "a")]),
            ("B", "bookTicker", "d"): (ticker, [("book_ticker", digest)]),
        }

    wanted = archive("complete", "complete")
    assert agree(wanted, wanted)
    assert agree(archive("complete", "partial"), wanted)
    assert not agree(wanted, archive("complete", "partial"))
    assert not agree(archive("partial", "complete"), wanted)
    assert not agree(archive("complete", "partial", "b"), wanted)
    assert not agree({}, wanted)
