"""What must hold of every merge, whatever was lost, cut, stamped or doubled on the way. `bench/laws.py` checks thousands of cases more."""

import pytest

from support import laws
from support.corpus import captures, load, needs_corpus

CASES, BLOCK = 120, 10
CORPUS_CASES = 5
ONCE_BROKEN = (12, 5669)
"""Cases that found something: windows of restarted ids, a snapshot at the begin of an event that overlaps the opening book."""
SMALL = {"spot_2021-04-05_cf_10sym", "usdm_2021-04-17_cf_4sym", "coinm_2021-04-17_cf_10sym"}
"""Captures of small books: a whole book is compared behind every event."""


@pytest.mark.parametrize("block", range(CASES // BLOCK))
def test_the_laws_hold_of_made_up_markets(block):
    for number in range(block * BLOCK, (block + 1) * BLOCK):
        laws.check(number)


@pytest.mark.parametrize("number", ONCE_BROKEN)
def test_what_once_broke_a_law_does_so_no_more(number):
    laws.check(number)


@pytest.mark.corpus
@pytest.mark.parametrize("capture", sorted(SMALL & set(captures())) or [pytest.param("", marks=needs_corpus)])
def test_the_laws_hold_of_pieces_of_real_recordings(capture):
    tapes = [laws.Tape(recording) for recording in load(capture)[:4]]
    for number in range(CORPUS_CASES):
        laws.check(number, tapes)


def broken_when(monkeypatch, target, replacement):
    """Return whether a defect breaks a law within the first cases."""
    monkeypatch.setattr(target, replacement)
    for number in range(BLOCK * 3):
        try:
            laws.check(number)
        except AssertionError:
            return True
        except Exception:  # noqa: BLE001 - a defect may also fall over, which is noticed as well
            return True
    return False


def _path_that_passes_over_the_last_event(original):
    def splice(prev, final, line, start=None):
        path = original(prev, final, line, start)
        keep = max(1, len(path.chosen) - 1)
        return type(path)(path.chosen[:keep], path.overlap_at[:keep], path.gap_after[:keep])

    return splice


def test_a_path_that_loses_an_event_breaks_a_law(monkeypatch):
    from twintape.columns import fates

    assert broken_when(monkeypatch, "twintape.columns.fates.splice", _path_that_passes_over_the_last_event(fates.splice))


def test_a_book_that_does_not_hear_of_a_gap_breaks_a_law(monkeypatch):
    import numpy as np

    from twintape.columns import merge

    def deaf(**fields):
        return merge_day_book(**{**fields, "breaks": np.zeros(0, np.int64)})

    merge_day_book = merge.DayBook
    assert broken_when(monkeypatch, "twintape.columns.merge.DayBook", deaf)
