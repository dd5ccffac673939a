import pytest
from hypothesis import given
from hypothesis import strategies as st

from twintape.core.budget import SECOND_NS
from twintape.core.markets import Market
from twintape.core.memory import HOLES_MAX, WITNESS_NS, HeardStream, Hole, StreamMemory, find_witnesses, is_witness

S = SECOND_NS
NAME = "btcusdt@depth@100ms"


def memory_with(*holes, listeners=2):
    memory = StreamMemory(NAME)
    memory.listeners = listeners
    memory.holes = [Hole(after, following, 10 * S, across_connections=False) for after, following in holes]
    return memory


def test_a_name_says_whose_stream_it_is_and_whether_it_is_spliced():
    assert (StreamMemory(NAME).symbol, StreamMemory(NAME).depth) == ("BTCUSDT", True)
    assert StreamMemory("btcusdt@trade").depth is False


def test_events_fill_a_hole_from_its_beginning_until_it_is_closed():
    memory = memory_with((10, 20), (30, 40))
    assert memory.fill(10, 15) == 0
    assert memory.fill(17, 20) == 0  # not connected to what is known
    assert memory.fill(12, 22) == 1
    assert [hole.after_update_id for hole in memory.holes] == [30]
    assert memory.fill(25, 45) == 1
    assert memory.fill(45, 46) == 0


def test_a_hole_that_nobody_closes_in_time_is_a_gap_once():
    memory = memory_with((10, 20))
    assert memory.due(9 * S) == []
    assert [hole.after_update_id for hole in memory.due(10 * S)] == [10]
    assert memory.due(11 * S) == []


def test_a_hole_is_a_gap_at_once_when_nobody_is_left_to_close_it():
    assert len(memory_with((10, 20), listeners=1).due(0)) == 1


def test_of_too_many_holes_the_oldest_are_gaps_at_once():
    memory = memory_with(*((10 * n, 10 * n + 5) for n in range(HOLES_MAX + 2)))
    assert [hole.after_update_id for hole in memory.due(0)] == [0, 10]
    assert len(memory.holes) == HOLES_MAX


def heard(memory, start=None, final=None, now=0):
    stream = HeardStream(memory, now)
    stream.start_update_id, stream.update_id = start, final
    return stream


def test_depth_streams_overlap_when_the_newer_chain_begins_inside_the_older():
    memory = StreamMemory(NAME)
    old = heard(memory, 0, 100)
    assert heard(memory, 100, 120).overlaps(old)
    assert heard(memory, 50, 90).overlaps(old)
    assert not heard(memory, 101, 120).overlaps(old)
    assert not heard(memory).overlaps(old)
    assert not heard(memory, 1, 2).overlaps(heard(memory))


def test_other_streams_overlap_when_both_spoke_at_the_same_time():
    memory = StreamMemory("btcusdt@trade")
    old, new = heard(memory), heard(memory)
    assert not new.overlaps(old)
    new.first_ns = 5
    assert not new.overlaps(old)
    old.count, old.last_ns = 1, 4
    assert not new.overlaps(old)
    old.last_ns = 5
    assert new.overlaps(old)


def test_a_stream_is_deaf_when_another_connection_hears_it_go_on_for_three_seconds():
    memory = StreamMemory(NAME)
    memory.listeners, memory.update_id = 2, 50
    stream = heard(memory)
    memory.update_id = 55
    assert not stream.deaf(1 * S)  # under way to the other one when this one was opened
    assert not stream.deaf(60 * S)  # what was said before it was opened is nothing it should have heard
    memory.update_id = 60
    assert not stream.deaf(61 * S)
    assert stream.deaf(64 * S)
    stream.update_id, stream.last_ns = 60, 64 * S
    assert not stream.deaf(64 * S)


def test_a_stream_that_lags_but_goes_on_is_not_deaf():
    memory = StreamMemory(NAME)
    memory.listeners, memory.update_id = 2, 1
    stream = heard(memory)
    for second in range(60):
        memory.update_id = 1000 + second
        stream.update_id, stream.last_ns = second, second * S
        assert not stream.deaf(second * S)


def test_a_stream_alone_on_its_connection_is_not_measured_by_others():
    memory = StreamMemory(NAME)
    stream = heard(memory)
    memory.update_id = 10
    assert not stream.deaf(100 * S)


def test_a_time_in_which_nobody_listened_is_no_deafness():
    memory = StreamMemory(NAME)
    memory.listeners, memory.update_id = 2, 50
    stream = heard(memory)
    memory.update_id = 60
    stream.excuse(20 * S, 21 * S)
    assert not stream.deaf(21 * S)
    stream.restart(30 * S)
    assert not stream.deaf(40 * S)


# --- other streams of the symbol as witnesses


def test_the_witnesses_of_a_depth_stream_are_those_of_its_symbol_on_the_same_connection():
    names = ["x@depth@100ms", "x@bookTicker", "x@trade", "x@kline_1m", "y@depth", "z@trade"]
    streams = {name: HeardStream(StreamMemory(name), 0) for name in names}
    find_witnesses(Market.SPOT, streams.values())
    assert streams["x@depth@100ms"].witnesses == (streams["x@bookTicker"], streams["x@trade"])
    assert [streams[name].witnesses for name in names[1:]] == [()] * 5


def test_only_streams_that_speak_when_the_book_moves_are_witnesses():
    spot = {
        name
        for name in ("trade", "aggTrade", "bookTicker", "kline_1m", "ticker", "depth5@100ms")
        if is_witness(Market.SPOT, f"x@{name}")
    }
    assert spot == {"trade", "aggTrade", "bookTicker"}
    assert [is_witness(market, "x@aggTrade") for market in (Market.USDM, Market.COINM)] == [False, False]


class Both:
    """One stream twice over: looked at the long way always, and only where it is not at ease."""

    def __init__(self, *, depth, witnessed):
        self.now = 100 * S
        names = (NAME, "btcusdt@bookTicker") if depth else ("btcusdt@trade", "btcusdt@aggTrade")
        self.streams = [HeardStream(StreamMemory(names[0]), self.now) for _ in range(2)]
        self.witness = HeardStream(StreamMemory(names[1]), self.now)
        for stream in self.streams:
            stream.witnesses = (self.witness,) * witnessed

    def speak(self, ids, elsewhere):
        for stream in self.streams:
            stream.count += 1
            stream.last_ns = self.now - S // 10
            stream.update_id = stream.memory.update_id = (stream.memory.update_id or 0) + ids
            stream.memory.update_id += elsewhere

    def look(self, listeners, holes):
        """Return how often streams were at ease, what is wrong with each, and what was learned of it."""
        self.now += S // 2
        rested, verdicts = 0, []
        for stream in self.streams:
            stream.memory.listeners, stream.memory.holes = listeners, [Hole(1, 2, self.now, across_connections=False)] * holes
            if stream is self.streams[1] and stream.at_ease(self.now):
                rested, deaf = 1, False
            else:
                stream.measure(self.now)
                deaf = stream.deaf(self.now)
            pace = stream.pace
            verdicts.append((deaf, pace.evidence, pace.longest_ns(self.now), pace.patience_ns(self.now)))
        return rested, *verdicts


@given(
    st.booleans(),
    st.booleans(),
    st.lists(
        st.tuples(
            st.integers(1, 30),
            st.sampled_from(["speak", "be silent"]),
            st.integers(1, 2),
            st.integers(0, 1),
            st.integers(0, 3),
            st.booleans(),
        ),
        max_size=30,
    ),
)
def test_the_long_way_finds_nothing_wrong_with_a_stream_at_ease_then_or_later(depth, witnessed, phases):
    both = Both(depth=depth, witnessed=witnessed)
    for looks, what, listeners, holes, elsewhere, witness_speaks in phases:
        for _ in range(looks):
            if what == "speak":
                both.speak(2, elsewhere if listeners > 1 else 0)
            if witness_speaks:
                both.witness.count += 1
                both.witness.last_ns = both.now
            _, long, short = both.look(listeners, holes)
            assert short == long


def test_a_stream_that_speaks_alone_and_misses_nothing_is_at_ease():
    both = Both(depth=True, witnessed=False)
    both.speak(1, 0)
    assert both.look(1, 0)[0] == 0  # its beginning
    both.now += 10 * S
    both.speak(1, 0)
    assert both.look(1, 0)[0] == 1
    assert both.look(1, 0)[0] == 0  # silent since
    both.speak(1, 0)
    assert [both.look(2, 0)[0], both.speak(1, 0), both.look(1, 1)[0], both.speak(1, 0), both.look(1, 0)[0]] == [
        0,
        None,
        0,
        None,
        1,
    ]
    both.speak(1, 0)
    both.streams[1].suspect = True
    assert both.look(1, 0)[0] == 0


class Witnessed:
    """A depth stream and a witness of its book, looked at twice a second."""

    def __init__(self):
        self.now = 100 * S
        self.depth = HeardStream(StreamMemory(NAME), self.now)
        self.ticker = HeardStream(StreamMemory("btcusdt@bookTicker"), self.now)
        self.depth.witnesses = (self.ticker,)

    def hear(self, stream):
        stream.count += 1
        stream.last_ns = self.now

    def look(self, seconds, *, ticker_every_s=0.5, depth_every_s=None):
        """Return when the depth stream was first deaf, in seconds from now, or None."""
        began = self.now
        for step in range(1, int(2 * seconds) + 1):
            self.now += S // 2
            if depth_every_s and step % (2 * depth_every_s) == 0:
                self.hear(self.depth)
            if ticker_every_s and step % (2 * ticker_every_s) == 0:
                self.hear(self.ticker)
            if self.depth.deaf(self.now):
                return (self.now - began) / S
        return None


def test_a_depth_stream_that_is_silent_while_its_book_moves_is_deaf_and_not_after_it_has_spoken():
    case = Witnessed()
    noticed = case.look(20)
    assert WITNESS_NS / S <= noticed <= WITNESS_NS / S + 1
    assert case.depth.deaf(case.now + 100 * S)  # also when the witness falls silent as well
    case.hear(case.depth)
    assert not case.depth.deaf(case.now)


def test_a_book_that_moves_now_and_then_is_enough():
    assert 60 < Witnessed().look(200, ticker_every_s=20) <= 85


def test_depth_that_goes_on_is_never_contradicted_however_much_more_the_others_say():
    assert Witnessed().look(600, depth_every_s=4) is None


def test_a_few_frames_without_depth_are_no_proof_and_silence_of_all_is_none_either():
    case = Witnessed()
    assert case.look(2.4) is None
    assert case.look(600, ticker_every_s=0) is None
    silent = Witnessed()
    assert silent.look(600, ticker_every_s=0) is None


@pytest.mark.parametrize("forgive", [lambda case: case.depth.restart(case.now), lambda case: case.depth.excuse(3 * S, case.now)])
def test_what_was_seen_before_a_time_in_which_nobody_listened_counts_for_nothing(forgive):
    case = Witnessed()
    assert case.look(4.5) is None
    forgive(case)
    assert case.look(4.5) is None
