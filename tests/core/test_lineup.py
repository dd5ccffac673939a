import random

import pytest

from twintape.core.lineup import HELD_MAX, Event, Lineup, Verdict, event_of
from twintape.core.markets import Market


def event(prev, final, stamp=0, content=b""):
    return Event(prev, prev + 1, final, stamp, content)


def rows_of(lineup, *fed):
    return [row for client, one in fed for row in lineup.feed(client, one)]


def shape(row):
    return [[one.final_update_id for one in cell] for cell in row.cells]


def test_a_row_is_whole_when_all_stand_at_the_same_id():
    lineup = Lineup(2)
    assert rows_of(lineup, (0, event(0, 5)), (0, event(5, 9))) == []
    (row,) = rows_of(lineup, (1, event(0, 5)))
    assert (row.verdict, row.prev_update_id, row.final_update_id, shape(row)) == (Verdict.SAME, 0, 5, [[5], [5]])
    (row,) = rows_of(lineup, (1, event(5, 9, stamp=3)))
    assert row.verdict is Verdict.EVENT_TIME
    assert lineup.counts[Verdict.SAME] == lineup.counts[Verdict.EVENT_TIME] == 1


def test_windows_cut_differently_are_one_row():
    lineup = Lineup(3)
    rows = rows_of(
        lineup, (0, event(0, 5)), (1, event(0, 2)), (1, event(2, 7)), (2, event(0, 9)), (0, event(5, 9)), (1, event(7, 9))
    )
    assert [(row.verdict, shape(row)) for row in rows] == [(Verdict.CUT, [[5, 9], [2, 7, 9], [9]])]


def test_other_content_of_the_same_ids_is_shouted():
    lineup = Lineup(2)
    (row,) = rows_of(lineup, (0, event(0, 5, content=b"x")), (1, event(0, 5, content=b"y")))
    assert row.verdict is Verdict.CONTENT
    (row,) = rows_of(lineup, (0, event(5, 9)), (1, event(6, 9)))
    assert row.verdict is Verdict.CUT


def test_who_missed_an_event_has_an_empty_cell():
    lineup = Lineup(2)
    rows = rows_of(lineup, (0, event(0, 5)), (0, event(5, 9)), (1, event(5, 9)))
    assert [(row.verdict, shape(row)) for row in rows] == [(Verdict.MISSING, [[5], []]), (Verdict.SAME, [[9], [9]])]


def test_a_client_that_is_silent_is_waited_for_but_not_for_ever():
    lineup = Lineup(2)
    rows = rows_of(lineup, *((0, event(n, n + 1)) for n in range(HELD_MAX + 2)))
    assert [row.verdict for row in rows] == [Verdict.MISSING] * 3
    back = rows_of(lineup, (1, event(1, 2)), (1, event(HELD_MAX, HELD_MAX + 1)))
    assert lineup.late == 1
    assert back[-1].verdict is Verdict.SAME
    assert sum(row.verdict is Verdict.MISSING for row in rows + back) == HELD_MAX


def test_a_client_that_is_away_is_not_waited_for_until_it_is_back():
    lineup = Lineup(2)
    assert rows_of(lineup, (0, event(0, 5)), (0, event(5, 9)), (1, event(0, 3))) == []
    assert [(row.verdict, shape(row)) for row in lineup.leave(1)] == [(Verdict.CUT, [[5], [3]]), (Verdict.MISSING, [[9], []])]
    assert [row.verdict for row in rows_of(lineup, (0, event(9, 11)))] == [Verdict.MISSING]
    lineup.join(1)
    assert rows_of(lineup, (0, event(11, 12))) == []
    assert [row.verdict for row in rows_of(lineup, (1, event(11, 12)))] == [Verdict.SAME]


def test_clients_that_never_stand_at_the_same_id_make_rows_all_the_same():
    lineup = Lineup(2)
    fed = [one for n in range(300) for one in ((0, event(10 * n, 10 * n + 10)), (1, event(10 * n + 5, 10 * n + 15)))]
    rows = rows_of(lineup, *fed) + lineup.flush()
    assert {row.verdict for row in rows} == {Verdict.CUT}
    assert sum(len(cell) for row in rows for cell in row.cells) == 600


def test_very_long_windows_beside_very_short_ones_make_rows_all_the_same():
    lineup = Lineup(2)
    fed = [(1, event(0, 10**6)), *((0, event(n, n + 1)) for n in range(500))]
    rows = rows_of(lineup, *fed) + lineup.flush()
    assert sum(len(cell) for row in rows for cell in row.cells) + lineup.late == 501


def test_a_repeated_or_late_event_makes_no_row():
    lineup = Lineup(2)
    rows_of(lineup, (0, event(0, 5)), (1, event(0, 5)))
    assert rows_of(lineup, (0, event(0, 5)), (0, event(5, 9)), (0, event(5, 9))) == []
    assert lineup.late == 2


def test_at_the_end_what_waits_is_told():
    lineup = Lineup(2)
    rows_of(lineup, (0, event(0, 5)), (0, event(5, 9)), (1, event(0, 7)))
    rows = lineup.flush()
    assert sum(len(cell) for row in rows for cell in row.cells) == 3
    assert lineup.flush() == []


@pytest.mark.parametrize("seed", range(20))
def test_every_event_is_in_one_row_or_late_however_the_clients_take_turns(seed):
    rng = random.Random(seed)
    lineup = Lineup(3)
    feeds = []
    for client in range(3):
        at, own = 0, []
        while at < 600:
            final = at + rng.choice([1, 1, 1, 2, 5])
            if rng.random() > 0.05:
                own.append((client, event(at, final)))
            at = final
        feeds.append(own)
    rows, count = [], sum(map(len, feeds))
    while any(feeds):
        own = rng.choice([own for own in feeds if own])
        rows += rows_of(lineup, *(own.pop(0) for _ in range(min(len(own), rng.choice([1, 1, 30])))))
    rows += lineup.flush()
    assert sum(len(cell) for row in rows for cell in row.cells) + lineup.late == count
    assert [row.final_update_id for row in rows] == sorted(row.final_update_id for row in rows)
    assert sum(lineup.counts.values()) == len(rows)


def test_frames_become_events():
    frame = b'{"e":"depthUpdate","E":1725382961514,"s":"X","U":8,"u":9,"b":[],"a":[]}'
    one = event_of(frame, Market.SPOT)
    assert (one.prev_update_id, one.first_update_id, one.final_update_id, one.event_time_us) == (7, 8, 9, 1725382961514000)
    assert one.content == event_of(frame.replace(b"514", b"515"), Market.SPOT).content
    assert event_of(b"<html>", Market.SPOT) is None
