"""Publish, then delete, under faults and beside one another; `bench/protocol.py` runs all of it."""

import pytest

from support.protocol import PAIRS, cases, check_interleaving, check_merge, check_prune, merge_all, prune_all, requests_of, world


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
