import itertools
import random

import pytest

from twintape.core.budget import SECOND_NS, Window
from twintape.core.markets import Market
from twintape.core.session import State
from twintape.core.shard import BACKOFF_MAX_NS, Dial, Retire, Shard, backoff_ns, rotation_age_ns, rotation_phase

S = SECOND_NS
DEPTH = "btcusdt@depth@100ms"
TRADE = "btcusdt@trade"


class Rig:
    def __init__(self, draw=0.5, attempts=None, rotate_s=3600, streams=(DEPTH, TRADE), seats=1, name=""):
        self.now = 1000 * S
        self.numbers = iter(range(1, 1000))
        self.shard = Shard(
            market=Market.SPOT,
            streams=streams,
            attempts=attempts or Window(100, 300 * S),
            next_number=lambda: next(self.numbers),
            draw=lambda: draw,
            rotate_ns=rotate_s * S,
            now_ns=self.now,
            base="ws://x",
            name=name,
            seats=seats,
        )

    def tick(self, seconds=0.0, may_dial=True):
        self.now += int(seconds * S)
        return list(self.shard.tick(self.now, self.now, may_dial=may_dial))

    def wait_for_dial(self, most_s=60):
        for _ in range(most_s * 4):
            orders = self.tick(0.25)
            if orders:
                (order,) = orders
                assert isinstance(order, Dial)
                return order.session
        raise AssertionError("never dialled")

    def open(self, session):
        session.opened(self.now, self.now)
        self.shard.opened(session, self.now)
        return session

    def connect(self):
        (order,) = self.tick()
        return self.open(order.session)

    def depth(self, session, first, final):
        payload = f'{{"stream":"{DEPTH}","data":{{"U":{first},"u":{final}}}}}'
        session.frame(1, payload.encode(), self.now)

    def trade(self, session):
        session.frame(1, b'{"stream":"btcusdt@trade","data":{}}', self.now)

    def end(self, session):
        session.closed(None, "end of TCP")
        self.shard.ended(session, self.now)


def test_the_first_connection_is_dialled_at_once_and_only_one():
    rig = Rig()
    session = rig.connect()
    assert (session.number, rig.shard.serving, rig.shard.alive) == (1, session, True)
    assert rig.tick(1) == []


def test_a_lost_connection_is_dialled_again_and_good_ones_start_the_backoff_anew():
    rig = Rig(draw=1.0)
    session = rig.connect()
    rig.trade(session)
    rig.now += 100 * S
    rig.end(session)
    assert not rig.shard.alive
    ended = rig.now
    again = rig.wait_for_dial()
    assert rig.now - ended <= 0.75 * S
    assert (again.number, rig.shard.seats[0].failures, rig.shard.tally.reconnects.total()) == (2, 0, 1)


def test_dials_that_fail_wait_longer_and_longer_up_to_the_cap():
    rig, waits = Rig(draw=1.0), []
    (order,) = rig.tick()
    session = order.session
    for _ in range(10):
        session.failed("refused")
        rig.shard.ended(session, rig.now)
        ended = rig.now
        session = rig.wait_for_dial()
        waits.append((rig.now - ended) / S)
    assert waits[:4] == [0.5, 1.0, 2.0, 4.0]
    assert waits[-1] == BACKOFF_MAX_NS / S


@pytest.mark.parametrize("failures", [0, 1, 5, 200])
def test_jitter_is_full(failures):
    assert backoff_ns(failures, 0.0) == 0
    assert backoff_ns(failures, 0.5) * 2 == backoff_ns(failures, 1.0) <= BACKOFF_MAX_NS


def test_a_connection_that_never_spoke_counts_as_failed_however_long_it_lived():
    rig = Rig()
    session = rig.connect()
    rig.now += 1000 * S
    rig.end(session)
    assert rig.shard.seats[0].failures == 1


def test_nothing_is_dialled_beyond_the_shared_budget_or_while_forbidden():
    attempts = Window(1, 300 * S)
    first, second = Rig(attempts=attempts), Rig(attempts=attempts)
    assert first.tick(may_dial=False) == []
    assert len(first.tick()) == 1
    assert second.tick() == []
    assert len(second.tick(301)) == 1


def test_an_old_connection_is_retired_only_when_the_new_one_overlaps_on_every_active_stream():
    rig = Rig()
    old = rig.connect()
    rig.depth(old, 1, 10)
    rig.trade(old)
    rig.shard.replace(old, "server shutdown")
    rig.shard.replace(old, "silent")
    (order,) = rig.tick(1)
    new = rig.open(order.session)
    assert rig.shard.candidate is new
    rig.now += 3 * S
    rig.depth(old, 11, 20)
    rig.trade(old)
    assert rig.tick() == []
    rig.trade(new)
    assert rig.tick() == []
    rig.depth(new, 11, 20)
    assert rig.tick() == [Retire(old, "replaced: server shutdown")]
    assert (rig.shard.serving, rig.shard.candidate) == (new, None)
    rig.shard.ended(old, rig.now)  # the retired one's end changes nothing
    assert rig.shard.tally.reconnects.total() == 0
    assert rig.tick(1) == []


def test_both_are_heard_for_a_while_even_if_the_new_one_overlaps_at_once():
    rig = Rig()
    old = rig.connect()
    rig.depth(old, 1, 10)
    rig.shard.replace(old, "age")
    new = rig.open(rig.tick(1)[0].session)
    rig.depth(new, 5, 10)
    assert rig.tick(1) == []
    assert rig.tick(1.5) == [Retire(old, "replaced: age")]


def change(rig, reason="age"):
    """Two connections: an old one that heard both streams, and a candidate."""
    old = rig.connect()
    rig.depth(old, 1, 10)
    rig.trade(old)
    rig.shard.replace(old, reason)
    return old, rig.open(rig.tick(1)[0].session)


def test_streams_that_are_quiet_on_both_hold_up_the_change_for_a_minute_and_no_longer():
    rig = Rig()
    old, new = change(rig)
    rig.now += S
    rig.depth(old, 11, 12)
    rig.depth(new, 11, 12)
    assert rig.tick(57) == []
    assert rig.tick(3) == [Retire(old, "replaced: age")]
    assert rig.shard.tally.handovers == {"waited": 1}


def test_streams_the_old_one_never_heard_do_not_hold_up_the_change():
    rig = Rig()
    old = rig.connect()
    rig.depth(old, 1, 10)
    rig.shard.replace(old, "age")
    new = rig.open(rig.tick(1)[0].session)
    rig.depth(new, 5, 10)
    assert rig.tick(3) == [Retire(old, "replaced: age")]
    assert rig.shard.tally.handovers == {"overlapped": 1}


def test_ids_that_do_not_meet_are_no_overlap_and_an_old_one_that_lags_may_catch_up():
    rig = Rig(streams=(DEPTH,))
    old, new = change(rig)
    for second in range(100):
        rig.now += S
        rig.depth(old, 11 + second, 11 + second)
        rig.depth(new, 2000 + second, 2000 + second)
        assert rig.tick() == []
    rig.depth(old, 111, 1999)
    assert rig.tick(1) == [Retire(old, "replaced: age")]


def test_an_old_one_that_lags_for_ever_is_let_go_in_the_end():
    rig = Rig(streams=(DEPTH,))
    old, new = change(rig)
    seconds = 0
    while not (orders := rig.tick(1)):
        rig.depth(old, 11 + seconds, 11 + seconds)
        rig.depth(new, 2000 + seconds, 2000 + seconds)
        seconds += 1
    assert orders == [Retire(old, "replaced: age")]
    assert 595 <= seconds <= 600


def test_a_candidate_that_does_not_hear_what_the_old_one_hears_is_rejected_and_another_one_tried():
    rig = Rig()
    old, new = change(rig)
    for second in range(58):
        rig.now += S
        rig.depth(old, 11 + second, 11 + second)
        rig.depth(new, 11 + second, 11 + second)
        rig.trade(old)
        assert rig.tick() == []
    rig.trade(old)
    assert rig.tick(2) == [Retire(new, "deaf: btcusdt@trade")]
    assert (rig.shard.serving, rig.shard.candidate) == (old, None)
    rig.shard.ended(new, rig.now)
    assert rig.shard.tally.reconnects.total() == 0
    assert rig.wait_for_dial() is rig.shard.candidate
    assert rig.shard.tally.handovers == {"deaf": 1}


def test_after_a_bounded_wait_the_new_one_takes_over_whatever_it_has_heard():
    rig = Rig()
    old, _ = change(rig, "silent")
    assert rig.tick(59) == []
    assert rig.tick(2) == [Retire(old, "replaced: silent")]


def test_a_candidate_that_is_not_open_yet_never_takes_over():
    rig = Rig()
    old = rig.connect()
    rig.shard.replace(old, "silent")
    (order,) = rig.tick(1)
    assert rig.tick(100) == []
    assert order.session.state is State.DIALING


def test_a_candidate_that_fails_is_dialled_again_while_the_old_one_goes_on():
    rig = Rig()
    old = rig.connect()
    rig.shard.replace(old, "age")
    candidate = rig.tick(1)[0].session
    candidate.failed("refused")
    rig.shard.ended(candidate, rig.now)
    assert rig.shard.serving is old
    assert rig.wait_for_dial() is rig.shard.candidate
    assert rig.shard.serving is old


def test_a_candidate_serves_at_once_when_the_old_one_ends_before_the_change():
    rig = Rig()
    old = rig.connect()
    rig.shard.replace(old, "server shutdown")
    new = rig.tick(1)[0].session
    rig.end(old)
    assert (rig.shard.serving, rig.shard.candidate) == (new, None)
    rig.open(new)
    assert rig.tick(10) == []


def test_a_candidate_that_is_told_to_go_elsewhere_is_replaced_when_it_serves_and_not_in_a_storm():
    rig = Rig(draw=1.0)
    session, dials = rig.connect(), []
    shutdown = b'{"e":"serverShutdown","E":1}'
    session.frame(1, shutdown, rig.now)
    rig.shard.replace(session, "server shutdown")
    for _ in range(1200):
        for order in rig.tick(0.5):
            if isinstance(order, Dial):
                dials.append(rig.now)
                new = rig.open(order.session)
                rig.trade(new)
                new.frame(1, shutdown, rig.now)
                rig.shard.replace(new, "server shutdown")
    gaps = [(after - before) / S for before, after in itertools.pairwise(dials)]
    assert gaps[0] < 4
    assert gaps[-1] >= 30
    assert len(dials) < 40


def test_a_connection_is_replaced_before_its_greatest_age_and_its_successor_a_period_later():
    rig = Rig(draw=0.0)
    ages = []
    session = rig.connect()
    opened = rig.now
    while len(ages) < 3:
        rig.now += S
        rig.trade(session)
        for order in rig.tick():
            if isinstance(order, Dial):
                ages.append((rig.now - opened) // S)
                session, opened = rig.open(order.session), rig.now
    assert ages[0] <= 3600
    assert ages[1:] == pytest.approx([2880, 2880], abs=2)


@pytest.mark.parametrize("hour", range(24))
def test_no_connection_lives_longer_than_told_whenever_it_was_opened(hour):
    for name in ("tokyo/spot/0", "paris/spot/0", "tokyo/usdm/3"):
        for draw in (0.0, 0.999):
            age_ns = rotation_age_ns(hour * 3600 * S, 12 * 3600 * S, rotation_phase(name), draw)
            assert 1.2 * 3600 * S <= age_ns <= 12 * 3600 * S


def rotations(name, seed, days=30, rotate_h=12, start_h=0.0):
    """When a collector of this name rotates, in hours of the wall clock."""
    draw = random.Random(seed).random
    now_ns, times = int(start_h * 3600 * S), []
    while now_ns < days * 24 * 3600 * S:
        now_ns += rotation_age_ns(now_ns, rotate_h * 3600 * S, rotation_phase(name), draw())
        times.append(now_ns / 3600 / S)
    return times


def test_two_collectors_never_rotate_together():
    tokyo = rotations("tokyo/spot/0", 1)
    paris = rotations("paris/spot/0", 2, start_h=0.01)
    assert min(abs(one - other) for one in tokyo for other in paris) > 0.1
    assert len(tokyo) > 60


def test_the_seats_of_a_shard_rotate_half_a_period_apart():
    assert abs(rotation_phase("tokyo/spot", 3, 0, 2) - rotation_phase("tokyo/spot", 3, 1, 2)) == 0.5
    assert len({rotation_phase("tokyo/spot", shard) for shard in range(32)}) == 32


def test_two_seats_carry_the_same_streams_with_one_memory_and_one_snapshot():
    rig = Rig(seats=2)
    first, second = (rig.open(order.session) for order in rig.tick())
    assert rig.shard.sessions == [first, second]
    asked = [first.frame(1, b'{"stream":"btcusdt@depth@100ms","data":{"U":1,"u":5}}', rig.now)]
    asked.append(second.frame(1, b'{"stream":"btcusdt@depth@100ms","data":{"U":1,"u":5}}', rig.now))
    assert [len(actions) for actions in asked] == [1, 0]
    rig.end(first)
    assert rig.shard.sessions == [second]
    assert rig.wait_for_dial() is rig.shard.serving


def test_a_seat_does_not_rotate_while_the_other_is_not_there_unless_it_is_too_old():
    rig = Rig(seats=2)
    first, second = (rig.open(order.session) for order in rig.tick())
    rig.trade(first)
    rig.trade(second)
    rig.now = max(seat.rotate_at_ns for seat in rig.shard.seats)
    second.closed(None, "end of TCP")
    rig.shard.ended(second, rig.now)
    assert rig.tick(may_dial=False) == []
    assert rig.shard.seats[0].wanted is None
    rig.now = first.opened_ns + 3600 * S
    rig.tick(may_dial=False)
    assert rig.shard.seats[0].wanted == "age"


def test_streams_can_be_added_and_taken_away_on_every_connection():
    rig = Rig(seats=2)
    first, second = (rig.open(order.session) for order in rig.tick())
    assert rig.shard.change(["ethusdt@trade"], [TRADE], rig.now) == [first, second]
    assert [memory.name for memory in rig.shard.memories] == [DEPTH, "ethusdt@trade"]
    assert set(first.streams) == set(second.streams) == {DEPTH.encode(), b"ethusdt@trade"}


def test_five_hundred_rotations_keep_one_connection_serving_at_every_moment():
    rig = Rig(rotate_s=60, attempts=Window(240, 300 * S))
    rig.numbers = iter(range(1, 10**9))
    serving = rig.connect()
    ids, rotations = 1, 0
    while rotations < 500:
        rig.now += S
        live = [s for s in (rig.shard.serving, rig.shard.candidate) if s is not None and s.state is State.OPEN]
        assert rig.shard.serving.state is State.OPEN
        for session in live:
            rig.depth(session, ids, ids)
        ids += 1
        for order in rig.tick():
            if isinstance(order, Dial):
                rig.open(order.session)
            else:
                assert order.session is serving
                serving, rotations = rig.shard.serving, rotations + 1
        assert all(session.gaps == 0 for session in live)


def test_after_a_stop_everything_is_retired_and_nothing_dialled():
    rig = Rig()
    old = rig.connect()
    rig.shard.replace(old, "age")
    new = rig.tick(1)[0].session
    assert list(rig.shard.stop("SIGTERM")) == [Retire(old, "SIGTERM"), Retire(new, "SIGTERM")]
    rig.shard.ended(old, rig.now)
    rig.shard.ended(new, rig.now)
    assert not rig.shard.alive
    assert rig.tick(1000) == []


def test_the_deadline_is_soon_and_never_behind_the_next_dial():
    rig = Rig(draw=0.1)
    session = rig.connect()
    assert rig.shard.deadline_ns() <= rig.now + S
    rig.end(session)
    assert rig.shard.deadline_ns() <= rig.now + 0.05 * S


def cut_again_and_again(rig, life_s, times):
    """Have each connection speak and end so long after it was opened; returns the waits for the next one."""
    waits = []
    session = rig.connect()
    for _ in range(times):
        for _ in range(int(life_s)):
            rig.trade(session)
            rig.now += S
        rig.end(session)
        ended = rig.now
        session = rig.wait_for_dial()
        waits.append((rig.now - ended) / S)
        rig.open(session)
    return waits


def test_connections_that_are_heard_for_half_a_minute_are_replaced_at_once_each_time():
    assert max(cut_again_and_again(Rig(draw=1.0), 30, 50)) <= 0.75


def test_connections_that_are_cut_after_seconds_are_replaced_ever_more_slowly():
    waits = cut_again_and_again(Rig(draw=1.0), 5, 10)
    assert waits[0] <= 0.75
    assert waits[-1] == BACKOFF_MAX_NS / S
    assert waits == sorted(waits)


def test_a_connection_that_was_open_and_deaf_for_long_was_heard_only_until_then():
    rig = Rig(draw=1.0)
    session = rig.connect()
    rig.shard.seats[0].failures = 5
    for _ in range(50):
        rig.trade(session)
        rig.now += S // 2
        session.tick(rig.now, rig.now)
    while session.suspect_count == 0:
        rig.now += S // 2
        session.tick(rig.now, rig.now)
    rig.now += 500 * S
    rig.end(session)
    assert rig.shard.seats[0].failures == 4  # 25 seconds forgive two, and it counts as one


def heard_by_both(rig, seconds=10):
    """An old and a new connection that hear the same; returns them just before the change."""
    old = rig.connect()
    rig.depth(old, 1, 10)
    rig.shard.replace(old, "lagging")
    new = rig.open(rig.wait_for_dial())
    return old, new


def test_a_new_connection_that_has_just_fallen_silent_does_not_take_over():
    rig = Rig(streams=(DEPTH,))
    old, new = heard_by_both(rig)
    rig.depth(new, 11, 20)
    for number in range(11, 41):  # what the old one still delivers, the new one does not
        rig.now += S // 10
        rig.depth(old, number, number)
    assert rig.tick() == []
    rig.depth(new, 21, 50)
    assert rig.tick() == [Retire(old, "replaced: lagging")]


def test_a_new_connection_with_a_stream_that_only_it_finds_silent_is_rejected_in_the_end():
    rig = Rig(streams=(DEPTH, TRADE))
    old, new = heard_by_both(rig)
    ids = iter(range(11, 10_000))
    for connection in (old, new):
        rig.trade(connection)
    number = next(ids)
    for connection in (old, new):
        rig.depth(connection, number, number)
    new.streams[DEPTH.encode()].suspect = True
    orders = []
    while rig.now - new.opened_ns < 59 * S:
        rig.now += S // 2
        for connection in (old, new):
            rig.trade(connection)
        number = next(ids)
        rig.depth(old, number, number)
        orders += rig.tick()
    assert orders == []
    rig.now += 2 * S
    for connection in (old, new):
        rig.trade(connection)
    assert rig.tick() == [Retire(new, f"deaf: {DEPTH}")]
    assert rig.shard.tally.handovers == {"deaf": 1}
