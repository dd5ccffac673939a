import base64
import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twintape.core.actions import (
    AbortSocket,
    CloseSocket,
    CutSegment,
    Ended,
    FetchSnapshot,
    Notice,
    Ping,
    Pong,
    Replace,
    Send,
)
from twintape.core.budget import SECOND_NS
from twintape.core.markets import Market
from twintape.core.memory import StreamMemory
from twintape.core.session import TRANSITIONS, Event, Session, State
from twintape.core.silence import Pace
from twintape.core.subscription import connection_url
from twintape.core.tally import Tally

S = SECOND_NS
WALL = 1_760_000_000 * S
NAME = "btcusdt@depth@100ms"


def frame(first, final, name=NAME, pu=None):
    previous = "" if pu is None else f',"pu":{pu}'
    return f'{{"stream":"{name}","data":{{"e":"depthUpdate","E":1,"s":"X","U":{first},"u":{final}{previous},"b":[],"a":[]}}}}'.encode()


class Rig:
    """A session with its clock: `at` moves the time, and every call returns actions by kind."""

    def __init__(self, names=(NAME,), market=Market.SPOT, memories=None, opened=True, number=1):
        self.now = 100 * S
        self.lists = []
        self.wall_offset = WALL - self.now
        self.memories = memories or [StreamMemory(name) for name in names]
        self.session = Session(market=market, number=number, memories=self.memories, now_ns=self.now, wall_ns=WALL, base="ws://x")
        if opened:
            self.opening = list(self.session.opened(self.now, self.wall))

    @property
    def wall(self):
        return self.now + self.wall_offset

    @property
    def stream(self):
        return self.session.streams[NAME.encode()]

    def pass_time(self, seconds, step=0.25):
        """Tick through `seconds` and return all actions."""
        actions = []
        for _ in range(round(seconds / step)):
            self.now += int(step * S)
            actions += self.tick()
        return actions

    def tick(self):
        """Tick, and leave out what every connection asks the server from time to time."""
        actions = self.session.tick(self.now, self.wall)
        self.lists += [action for action in actions if isinstance(action, Send) and b"LIST_SUBSCRIPTIONS" in action.text]
        return [action for action in actions if action not in self.lists]

    def frame(self, payload, opcode=1):
        return list(self.session.frame(opcode, payload, self.now))

    def talk(self, seconds, spacing=0.1, name="btcusdt@trade"):
        """Hear a stream at a steady pace while ticking."""
        actions = []
        for _ in range(round(seconds / spacing)):
            self.now += int(spacing * S)
            actions += self.frame(f'{{"stream":"{name}","data":{{}}}}'.encode())
            actions += self.tick()
        return actions

    def lines(self):
        taken = self.session.take()
        return [line for _, line in taken.lines()] if taken else []


def kinds(actions):
    return [type(action) for action in actions]


# --- life-cycle


def drive(session, event, now=200 * S):
    return {
        Event.OPENED: lambda: session.opened(now, WALL),
        Event.FAILED: lambda: session.failed("refused"),
        Event.STOP: lambda: session.stop(now, "asked"),
        Event.CLOSED: lambda: session.closed(1006, "gone"),
    }[event]()


@pytest.mark.parametrize(("state", "event"), list(itertools.product(State, Event)))
def test_every_event_in_every_state_does_what_the_table_says_or_is_an_error(state, event):
    session = Session(market=Market.SPOT, number=7, memories=[StreamMemory(NAME)], now_ns=0, wall_ns=WALL)
    session.state = state
    wanted = TRANSITIONS.get((state, event))
    if wanted is None:
        with pytest.raises(AssertionError, match=f"connection 7: {event} cannot happen while {state}"):
            drive(session, event)
        assert session.state is state
        return
    actions = drive(session, event)
    assert session.state is wanted
    assert (Ended in kinds(actions)) == (wanted is State.ENDED and state is not State.ENDED)


def test_every_state_but_the_last_can_be_left_and_the_last_cannot():
    for state in State:
        targets = {after for (before, _), after in TRANSITIONS.items() if before is state} - {state}
        assert bool(targets) == (state is not State.ENDED)


def test_a_stop_while_dialling_closes_the_socket_as_soon_as_there_is_one():
    rig = Rig(opened=False)
    assert list(rig.session.stop(rig.now, "stopping")) == []
    assert list(rig.session.opened(rig.now, rig.wall)) == [CloseSocket("stopping")]
    assert list(rig.session.closed(1000, "close frame")) == [Ended("stopping", 1000)]


def test_the_end_of_an_open_connection_carries_the_reason_of_the_other_side():
    rig = Rig()
    assert list(rig.session.closed(None, "end of TCP")) == [Ended("end of TCP", None)]


def test_a_second_stop_is_harmless():
    rig = Rig()
    assert list(rig.session.stop(rig.now, "a")) == [CloseSocket("a")]
    assert list(rig.session.stop(rig.now, "b")) == []
    assert list(rig.session.closed(None, "x")) == [Ended("a", None)]


def test_frames_are_recorded_while_closing_and_a_peer_that_does_not_close_is_cut_off():
    rig = Rig()
    rig.session.stop(rig.now, "done")
    rig.frame(frame(1, 2))
    assert rig.lines() == [frame(1, 2)]
    actions = rig.pass_time(8)
    assert kinds(actions).count(AbortSocket) == 2  # once more every few seconds: an abort that did nothing is repeated


def test_ticks_before_the_beginning_and_after_the_end_do_nothing():
    rig = Rig(opened=False)
    assert rig.pass_time(120) == []
    assert list(rig.session.failed("no route")) == [Ended("no route", None)]
    assert rig.pass_time(120) == []
    assert rig.session.deadline_ns() > rig.now


# --- what is recorded


EVENTS = st.builds(
    lambda first, count, name, time: frame(first, first + count, name).replace(b'"E":1,', time),
    st.integers(1, 9),
    st.integers(0, 4),
    st.sampled_from([NAME, "x@depth", "unknown@depth"]),
    st.sampled_from([b'"E":1,', b'"E":1770123456789,']),
)
ODD = st.sampled_from(
    [
        b"",
        b"two\nlines",
        b"\xff",
        b"<html>",
        f'{{"stream":"{NAME}","data":{{"U":\n1}}}}'.encode(),
        f'{{"stream":"{NAME}","data":{{}}}}'.encode(),
        b'{"stream":"x@trade","data":{}}',
        b'{"stream":"unknown@trade","data":{}}',
        b'{"stream":"!serverShutdown","data":{"e":"serverShutdown","E":1770123456789}}',
        b'{"result":null,"id":1}',
        b'{"error":{"code":2,"msg":"no"},"id":1}',
    ]
)


@given(st.lists(st.tuples(EVENTS | ODD, st.sampled_from([0, 1, S // 10]), st.booleans()), max_size=30), st.integers(1, 2))
def test_it_makes_no_difference_how_many_frames_are_looked_at_at_once(heard, listeners):
    def rig_up():
        memories = [StreamMemory(name) for name in (NAME, "x@depth", "x@trade")]
        rig = Rig(memories=memories)
        for memory in memories:
            memory.listeners = listeners
        return rig

    alone, together = rig_up(), rig_up()
    wanted, found = [], []
    for payload, step_ns, look in heard:
        alone.now = together.now = alone.now + step_ns
        wanted += alone.frame(payload)
        together.session.heard.append((together.now, payload))
        if look:
            found += together.session.look()
    alone.now = together.now = alone.now + S
    wanted += alone.session.tick(alone.now, alone.wall)
    found += together.session.tick(together.now, together.wall)
    assert found == wanted
    assert together.session.take() == alone.session.take()
    for name in ("frames", "gaps", "last_data_ns", "replace_reason", "suspect_count", "subscribed"):
        assert getattr(together.session, name) == getattr(alone.session, name)
    for key, stream in alone.session.streams.items():
        other = together.session.streams[key]
        for name in ("count", "last_ns", "first_ns", "update_id", "start_update_id"):
            assert getattr(other, name) == getattr(stream, name)
        assert (other.memory.update_id, other.memory.holes) == (stream.memory.update_id, stream.memory.holes)


@given(
    st.lists(st.tuples(st.integers(1, 9), st.integers(0, 4), st.none() | st.integers(0, 9)), max_size=12),
    st.sampled_from(list(Market)),
)
def test_it_makes_no_difference_how_a_depth_frame_is_printed(events, market):
    usual, odd = (Rig(market=market) for _ in range(2))
    for first, count, pu in events:
        payload = frame(first, first + count, pu=pu).replace(b'"E":1,', b'"E":1770123456789,')
        actions = usual.frame(payload)
        assert actions == odd.frame(payload.replace(b'"E":', b'"E": '))
        streams = [rig.session.streams[NAME.encode()] for rig in (usual, odd)]
        assert streams[0].update_id == streams[1].update_id
        assert usual.session.gaps == odd.session.gaps
    assert len(usual.session.event_times) == len(events)
    assert odd.session.event_times == []


@given(st.lists(st.booleans(), max_size=40), st.booleans())
def test_what_is_known_of_a_stream_is_what_the_connection_ahead_has_heard(turns, usual):
    memory = StreamMemory(NAME)
    rigs = [Rig(memories=[memory], number=number) for number in (1, 2)]
    for ahead in turns:
        stream = rigs[ahead].stream
        first = (stream.update_id or 0) + 1
        rigs[ahead].frame(frame(first, first + 4).replace(b'"E":1,', b'"E":1770123456789,' if usual else b'"E": 1,'))
        assert memory.update_id == max(rig.stream.update_id or 0 for rig in rigs)
        assert memory.holes == []


def test_every_frame_is_recorded_verbatim_and_in_order():
    rig = Rig()
    frames = [frame(1, 2), b"{", b"<html>", '{"stream":"币安人生usdt@trade","data":{}}'.encode(), b'{"result":null,"id":9}']
    for payload in frames:
        rig.frame(payload)
    assert rig.lines() == frames
    assert rig.session.take() is None


@pytest.mark.parametrize(("opcode", "payload"), [(2, b"abc"), (1, b"a\nb"), (1, b"\xff"), (1, b"")])
def test_what_is_not_one_line_of_text_is_recorded_as_base64(opcode, payload):
    rig = Rig()
    assert kinds(rig.frame(payload, opcode)) == [Notice]
    line = json.loads(rig.lines()[0])
    assert (line["stream"], line["opcode"], base64.b64decode(line["base64"])) == ("!twintape@bytes", opcode, payload)


def test_receive_times_are_wall_anchor_plus_monotonic_and_strictly_increase():
    rig = Rig()
    rig.frame(b"a")
    rig.frame(b"b")
    rig.now += 5
    rig.wall_offset += S // 2  # the wall clock drifts: the anchor holds
    rig.frame(b"c")
    taken = rig.session.take()
    assert [time - WALL for time, _ in taken.lines()] == [0, 1, 5]
    assert (taken.count, taken.size) == (3, 3)


@pytest.mark.parametrize("step_s", [3600, -3600])
def test_a_wall_step_over_a_second_cuts_the_segment_and_sets_a_new_anchor(step_s):
    rig = Rig()
    rig.frame(b"a")
    rig.wall_offset += step_s * S
    actions = [action for action in rig.pass_time(1) if not isinstance(action, Ping)]
    assert actions == [Notice("clock_step", {"step_ns": step_s * S}), CutSegment("clock step")]
    rig.session.take()
    rig.frame(b"b")
    assert rig.session.take().lines()[0][0] == rig.wall


def test_a_wall_step_below_a_second_is_left_to_the_clock_lines():
    rig = Rig()
    rig.wall_offset += S - 1
    assert CutSegment not in kinds(rig.pass_time(2))


def test_a_machine_that_slept_is_a_wall_step():
    rig = Rig()
    rig.wall_offset += 600 * S  # the monotonic clock stood still
    assert CutSegment in kinds(rig.pass_time(1))


# --- update ids


def test_the_first_event_of_a_stream_asks_for_a_snapshot_that_is_not_older():
    rig = Rig()
    assert rig.frame(frame(11, 15)) == [FetchSnapshot("BTCUSDT", "first", 10)]
    assert rig.frame(frame(16, 20)) == []


def test_a_gap_on_the_line_asks_for_a_snapshot_and_keeps_the_connection():
    rig = Rig()
    rig.frame(frame(11, 15))
    notice, fetch = rig.frame(frame(18, 20))
    assert notice.name == "gap"
    assert (notice.details["after"], notice.details["next"], notice.details["across_connections"]) == (15, 17, False)
    assert fetch == FetchSnapshot("BTCUSDT", "gap", 17)
    assert rig.session.gaps == 1
    assert rig.session.state is State.OPEN
    assert rig.frame(frame(21, 22)) == []


def test_futures_are_chained_by_pu():
    rig = Rig(market=Market.USDM)
    assert rig.frame(frame(100, 120, pu=90)) == [FetchSnapshot("BTCUSDT", "first", 90)]
    assert rig.frame(frame(150, 160, pu=120)) == []
    assert kinds(rig.frame(frame(161, 170, pu=161))) == [Notice, FetchSnapshot]


@pytest.mark.parametrize(("event", "how"), [((12, 15), "stale"), ((14, 18), "overlap")])
def test_events_that_overlap_their_own_line_are_noticed_and_lose_nothing(event, how):
    rig = Rig()
    rig.frame(frame(11, 15))
    assert rig.frame(frame(*event)) == [Notice("id_irregular", {"stream": NAME, "join": how})]
    assert rig.frame(frame(max(15, event[1]) + 1, 30)) == []


def test_ids_far_below_open_a_new_epoch():
    rig = Rig()
    rig.frame(frame(5_000_001, 5_000_010))
    notice, fetch = rig.frame(frame(11, 15))
    assert (notice.name, fetch) == ("epoch", FetchSnapshot("BTCUSDT", "epoch", 10))
    assert rig.frame(frame(16, 17)) == []


def test_a_depth_frame_without_ids_is_recorded_and_noticed():
    rig = Rig()
    payload = b'{"stream":"btcusdt@depth@100ms","data":{}}'
    assert rig.frame(payload) == [Notice("depth_without_ids", {"stream": NAME})]
    assert rig.lines() == [payload]


def two_connections(first_end=20):
    """One connection that stands at `first_end`, and a second one of the same streams."""
    old = Rig()
    old.frame(frame(11, first_end))
    return old, Rig(memories=old.memories, number=2)


@pytest.mark.parametrize("event", [(21, 25), (18, 25), (12, 20)])
def test_a_new_connection_that_overlaps_the_one_before_needs_no_snapshot(event):
    old, new = two_connections()
    assert new.frame(frame(*event)) == []
    assert new.stream.overlaps(old.stream)


def test_a_new_connection_that_does_not_overlap_asks_for_a_snapshot():
    old, new = two_connections()
    old.session.closed(None, "end of TCP")
    notice, fetch = new.frame(frame(31, 35))
    assert notice.details == {"stream": NAME, "after": 20, "next": 30, "across_connections": True}
    assert fetch == FetchSnapshot("BTCUSDT", "reconnect", 30)
    assert not new.stream.overlaps(old.stream)
    assert new.session.gaps == 0  # nothing is missing on its own line


def test_ids_that_another_open_connection_may_yet_deliver_are_no_gap_before_it_had_a_second():
    old, new = two_connections()
    assert kinds(new.frame(frame(31, 35))) == [Notice]
    assert [action.name for action in old.frame(frame(21, 30)) if isinstance(action, Notice)] == ["gap_filled"]
    assert new.pass_time(3) == []
    assert new.frame(frame(41, 45))[0].name == "gap_open"
    assert old.frame(frame(31, 38)) == []
    (notice, fetch) = new.pass_time(2)
    assert (notice.name, notice.details["after"], notice.details["next"]) == ("gap", 38, 40)
    assert fetch == FetchSnapshot("BTCUSDT", "gap", 40)


def test_an_irregular_event_of_the_other_connection_fills_a_hole_too():
    old, new = two_connections()
    assert new.frame(frame(31, 35))[0].name == "gap_open"
    assert [action.name for action in old.frame(frame(19, 30))] == ["gap_filled", "id_irregular"]


def test_a_new_connection_far_below_opens_an_epoch_once():
    old, new = two_connections(first_end=9_000_000)
    assert kinds(new.frame(frame(1, 5))) == [Notice, FetchSnapshot]
    assert new.frame(frame(6, 9)) == []
    assert old.memories[0].update_id == 9


def test_a_gap_that_another_connection_has_covered_needs_no_snapshot():
    old, new = two_connections()
    new.frame(frame(21, 40))
    assert old.frame(frame(31, 40)) == [Notice("gap_covered", {"stream": NAME, "after": 20, "next": 30})]
    assert old.session.gaps == 1
    assert old.memories[0].update_id == 40


def test_a_connection_that_lags_behind_another_is_no_epoch():
    old, new = two_connections()
    new.frame(frame(21, 9_000_000))
    assert old.frame(frame(21, 25)) == []
    assert old.memories[0].update_id == 9_000_000


def test_a_quiet_depth_stream_gets_its_first_snapshot_after_a_while_and_only_one():
    rig = Rig(names=[NAME, "ethusdt@bookTicker"])
    fetches = [action for action in rig.pass_time(30) if isinstance(action, FetchSnapshot)]
    assert fetches == [FetchSnapshot("BTCUSDT", "quiet", None)]
    assert rig.frame(frame(11, 15)) == []


# --- other frames


@pytest.mark.parametrize(
    "payload",
    [
        b'{"e":"serverShutdown","E":1770123456789}',
        b'{"stream":"!serverShutdown","data":{"e":"serverShutdown","E":1770123456789}}',
    ],
)
def test_a_shutdown_notice_in_either_form_is_recorded_and_asks_for_a_replacement_once(payload):
    rig = Rig()
    assert rig.frame(payload) == [Notice("server_shutdown"), Replace("server shutdown")]
    assert rig.frame(payload) == [Notice("server_shutdown")]
    assert rig.lines() == [payload, payload]


@pytest.mark.parametrize(
    "payload",
    [b'{"error":{"code":2,"msg":"Invalid request"},"id":1}', b'{"id":null,"error":{"code":3}}', b'{"result":[1],"id":1}'],
)
def test_an_answer_that_is_not_plain_success_is_noticed(payload):
    rig = Rig()
    (notice,) = rig.frame(payload)
    assert notice.name == "subscribe_refused"


@pytest.mark.parametrize("payload", [b'{"id":', b'[{"id":1}]', b'{"id":1}', b'{"a":1}', b'{"id":1,"x":"' + b"a" * 5000 + b'"}'])
def test_what_belongs_to_no_stream_is_recorded_and_noticed(payload):
    rig = Rig()
    (notice,) = rig.frame(payload)
    assert notice.name == "frame_of_no_stream"
    assert rig.lines() == [payload]


# --- subscribing and the message budget


def many(count):
    return [f"symbol{number:05d}usdt@depth@100ms" for number in range(count)]


@pytest.mark.parametrize("market", list(Market))
def test_subscribe_messages_pongs_and_pings_together_stay_within_the_message_budget(market):
    rig = Rig(names=many(1000), market=market)
    limit = 5 if market is Market.SPOT else 10
    sent = [(rig.now, action) for action in rig.opening]
    for _ in range(400):
        rig.now += S // 20
        actions = [*rig.session.ping(b"p", rig.now), *rig.session.tick(rig.now, rig.wall)]
        sent += [(rig.now, action) for action in actions]
    messages = [(time, action) for time, action in sent if isinstance(action, Send | Ping | Pong)]
    for start, _ in messages:
        assert sum(start <= time < start + S for time, _ in messages) < limit
    assert sum(isinstance(action, Send) for _, action in messages) == len(connection_url(market, many(1000))[1])
    assert next(time for time, action in messages if isinstance(action, Pong)) == 100 * S + S // 20  # at once


def test_a_connection_is_subscribed_when_every_message_was_answered_and_something_was_heard():
    rig = Rig(names=many(200))
    assert len([action for action in rig.opening if isinstance(action, Send)]) == 2
    assert rig.session.url == "ws://x/stream"
    assert not rig.session.subscribed
    for number in (1, 2):
        rig.frame(f'{{"result":null,"id":{number}}}'.encode())
    assert not rig.session.subscribed  # a wrong route acknowledges everything
    rig.frame(frame(1, 2))
    assert rig.session.subscribed


def test_a_pong_echoes_its_ping_at_once_and_under_a_flood_only_the_newest_waits():
    rig = Rig()
    assert list(rig.session.ping(b"1", rig.now)) == [Pong(b"1")]
    for payload in (b"2", b"3", b"4", b"5", b"6"):
        rig.session.ping(payload, rig.now)
    assert rig.session.deadline_ns() <= rig.now + S
    pongs = [action for action in rig.pass_time(1.5) if isinstance(action, Pong)]
    assert pongs == [Pong(b"6")]
    assert rig.session.deadline_ns() > rig.now


def test_the_deadline_follows_what_waits_to_be_sent():
    rig = Rig(names=many(1000))
    assert rig.session.deadline_ns() <= rig.now + S
    fresh = Rig(names=many(1000), opened=False)
    assert fresh.session.deadline_ns() > fresh.now


# --- silence


def test_a_peer_that_answers_nothing_is_pinged_and_then_cut_off():
    rig = Rig()
    actions = rig.pass_time(40)
    assert kinds(action for action in actions if isinstance(action, Ping | AbortSocket))[:2] == [Ping, AbortSocket]
    assert Notice("peer_vanished") in actions


def test_a_peer_that_answers_pings_is_kept():
    rig = Rig()
    actions = []
    for _ in range(60):
        step = rig.pass_time(0.5)
        if any(isinstance(action, Ping) for action in step):
            rig.session.pong(rig.now)
        actions += step
    assert Ping in kinds(actions)
    assert AbortSocket not in kinds(actions)


def test_a_ping_waits_for_the_message_budget():
    rig = Rig()
    rig.pass_time(15)
    for _ in range(4):
        rig.session._window.charge(rig.now)
    rig.session._heard_ns = rig.now - 20 * S
    assert Ping not in kinds(rig.session.tick(rig.now + S // 2, rig.wall + S // 2))


def test_a_connection_without_any_data_asks_for_a_replacement_once():
    rig = Rig()
    actions = []
    for _ in range(200):
        actions += rig.pass_time(0.5)
        rig.session.ping(b"x", rig.now)
    assert [action for action in actions if isinstance(action, Replace)] == [Replace("no first data")]


def suspects(rig):
    return [json.loads(line) for line in rig.lines() if b"!twintape@suspect" in line]


def test_a_stalled_connection_is_noticed_within_five_seconds_written_down_and_replaced():
    rig = Rig(names=["btcusdt@trade"])
    rig.talk(120)
    last = rig.wall
    rig.session.take()
    actions = rig.pass_time(5)
    assert Replace("silent") in actions
    (suspect,) = suspects(rig)
    assert (suspect["from_ns"], suspect["to_ns"], suspect["streams"], suspect["reason"]) == (last, None, None, "silent")
    assert rig.session.tally.suspects == {"silent": 1}
    assert [action.name for action in rig.talk(1) if isinstance(action, Notice)] == ["silence_over"]
    (over,) = suspects(rig)
    assert over["from_ns"] == last
    assert over["to_ns"] > last


def talk_both(rig, seconds):
    for ids in range(rig.ids, rig.ids + round(seconds * 10)):
        rig.frame(frame(ids, ids))
        rig.talk(0.1)
        rig.ids += 1


def test_one_silent_stream_among_others_is_written_down_and_the_connection_replaced():
    rig = Rig(names=["btcusdt@trade", NAME])
    rig.ids = 1
    talk_both(rig, 120)
    actions = rig.talk(6)
    assert [action.details["streams"] for action in actions if isinstance(action, Notice)] == [[NAME]]
    assert [action for action in actions if isinstance(action, Replace)] == [Replace("a stream is silent")]
    assert rig.talk(60) == []


def test_what_was_learned_of_a_stream_serves_the_next_connection():
    old = Rig(names=["btcusdt@trade", NAME])
    old.ids = 1
    talk_both(old, 120)
    new = Rig(memories=old.memories, number=2)
    actions = new.talk(6)
    assert [action.details["streams"] for action in actions if isinstance(action, Notice)] == [[NAME]]


def test_suspicions_that_are_open_when_the_connection_ends_end_with_it():
    rig = Rig(names=["btcusdt@trade", NAME])
    rig.ids = 1
    talk_both(rig, 120)
    last = rig.wall - S // 10
    rig.talk(6)
    rig.session.take()
    rig.session.closed(None, "end of TCP")
    assert [(s["from_ns"], s["streams"]) for s in suspects(rig)] == [(last, [NAME])]
    whole = Rig(names=["btcusdt@trade"])
    whole.talk(120)
    whole.pass_time(5)
    whole.session.take()
    whole.session.closed(None, "end of TCP")
    (suspect,) = suspects(whole)
    assert (suspect["streams"], suspect["reason"]) == (None, "silent")
    assert whole.wall - S <= suspect["to_ns"] <= whole.wall


def test_a_quiet_stream_that_another_connection_hears_go_on_is_deaf_here():
    old, new = two_connections()
    new.frame(frame(21, 30))
    old.frame(frame(21, 30))
    for _ in range(20):
        assert old.pass_time(1) == []
        new.now = old.now
        old.session.ping(b"", old.now)
    new.frame(frame(31, 40))
    actions = old.pass_time(4)
    assert [action.details["streams"] for action in actions if isinstance(action, Notice)] == [[NAME]]
    assert Replace("a stream is silent") in actions


def test_a_stream_that_was_acknowledged_and_never_speaks_is_said_once_and_tried_once_elsewhere():
    rig = Rig(names=["btcusdt@trade", "deadusdt@trade"])
    actions = rig.talk(150)
    assert [action.details for action in actions if isinstance(action, Notice)] == [{"stream": "deadusdt@trade"}]
    assert Replace("a stream never spoke") in actions
    (suspect,) = suspects(rig)
    assert (suspect["streams"], suspect["reason"]) == (["deadusdt@trade"], "never any data")
    again = Rig(memories=rig.memories, number=2)
    assert again.talk(150) == []


def late_frame(rig, lag_s, key="E"):
    rig.ids = getattr(rig, "ids", 0) + 1
    rig.now += S // 2
    event_ms = (rig.wall - int(lag_s * S)) // 10**6
    data = f'{{"e":"depthUpdate","{key}":{event_ms},"U":{rig.ids},"u":{rig.ids},"b":[],"a":[]}}'
    return [*rig.frame(f'{{"stream":"{NAME}","data":{data}}}'.encode()), *rig.session.tick(rig.now, rig.wall)]


def test_frames_that_come_ever_later_are_suspected_and_the_connection_replaced_once():
    rig = Rig()
    for _ in range(100):
        late_frame(rig, -1.2)  # the clocks differ: only against its own median is a frame late
    actions = [action for step in range(40) for action in late_frame(rig, -1.2 + step / 4)]
    assert next(action for action in actions if isinstance(action, Notice)).name == "lagging"
    assert [action for action in actions if isinstance(action, Replace)] == [Replace("lagging")]
    assert [line["reason"] for line in suspects(rig)] == ["lagging"]
    actions = [action for _ in range(4) for action in late_frame(rig, -1.0)]
    assert [action.name for action in actions] == ["lag_over"]
    (over,) = suspects(rig)
    assert over["to_ns"] > over["from_ns"]


def test_lateness_that_a_new_connection_shares_is_not_answered_by_ever_more_connections():
    pace = None
    replaced = 0
    for number in range(10):
        rig = Rig(number=number)
        rig.now += number * 60 * S
        rig.session._whole.pace = pace = pace or rig.session._whole.pace
        for _ in range(60):
            late_frame(rig, 0)
        actions = [action for _ in range(10) for action in late_frame(rig, 30)]
        replaced += Replace("lagging") in actions
        rig.session.take()
        rig.session.closed(None, "end of TCP")
        assert [line["reason"] for line in suspects(rig)] == ["lagging"]
    assert replaced == 5  # after 0, 1, 2, 4 and 8 minutes


def test_a_frame_without_its_time_says_nothing_about_lateness():
    rig = Rig()
    assert [action for _ in range(60) for action in late_frame(rig, 0, key="X") if isinstance(action, Notice)] == []
    assert rig.session.lag.usual_ns == 0


def test_time_in_which_we_were_blocked_ourselves_is_no_silence():
    rig = Rig(names=["btcusdt@trade"])
    rig.talk(120)
    rig.session.ping(b"", rig.now)
    rig.session._pinged_ns = rig.now
    rig.now += 20 * S
    assert [action.name for action in rig.session.tick(rig.now, rig.wall)] == ["check_late"]
    assert rig.talk(2) == []
    assert suspects(rig) == []


def test_time_in_which_we_did_not_read_is_no_silence():
    rig = Rig(names=["btcusdt@trade"])
    rig.talk(120)
    rig.now += 60 * S
    rig.session.resumed(rig.now)
    assert kinds(rig.pass_time(2)) == []


# --- what others may ask


def test_a_connection_that_is_suspected_counts_for_all_its_streams():
    rig = Rig(names=["btcusdt@trade", NAME])
    rig.ids = 1
    talk_both(rig, 120)
    assert rig.session.suspect_count == 0
    rig.talk(6)
    assert rig.session.suspect_count == 1
    rig.pass_time(6)
    assert rig.session.suspect_count == 2


def test_silences_are_counted_and_learned_where_the_caller_keeps_them():
    pace, tally = Pace(), Tally()
    session = Session(
        market=Market.SPOT,
        number=1,
        memories=[StreamMemory(NAME)],
        now_ns=0,
        wall_ns=WALL,
        base="ws://x",
        pace=pace,
        tally=tally,
    )
    session.opened(0, WALL)
    ids = itertools.count(1)
    for tenth in range(1200):
        number = next(ids)
        session.frame(1, frame(number, number), tenth * S // 10)
        session.tick(tenth * S // 10, WALL + tenth * S // 10)
    for tenth in range(1200, 1260):
        session.tick(tenth * S // 10, WALL + tenth * S // 10)
    assert pace.evidence > 100
    assert tally.suspects == {"silent": 1}


def test_streams_are_added_and_taken_away_by_message_on_open_connections_and_before():
    rig = Rig(names=["btcusdt@trade", NAME])
    added = StreamMemory("ethusdt@trade")
    rig.session.change([added], ["btcusdt@trade"], rig.now)
    assert (added.listeners, [memory.listeners for memory in rig.memories]) == (1, [0, 1])
    sent = [json.loads(action.text) for action in rig.pass_time(1) if isinstance(action, Send)]
    assert [(message["method"], message["params"]) for message in sent] == [
        ("SUBSCRIBE", ["ethusdt@trade"]),
        ("UNSUBSCRIBE", ["btcusdt@trade"]),
    ]
    assert rig.frame(b'{"stream":"ethusdt@trade","data":{}}') == []
    dialling = Rig(names=[NAME], opened=False)
    dialling.session.change([StreamMemory("ethusdt@trade")], [], dialling.now)
    assert dialling.memories[0].listeners == 0


def test_symbols_that_do_not_trade_are_not_suspected():
    rig = Rig(names=["btcusdt@trade"])
    rig.talk(120)
    rig.memories[0].quiet = True
    assert [action for action in rig.pass_time(12) if isinstance(action, Notice | Replace)] == []


# --- what the server says it has


def listed(rig, names, seconds=6):
    """Let time pass until the server is asked, and have it answer; returns what follows."""
    before = len(rig.lists)
    actions = rig.pass_time(seconds)
    (asked,) = rig.lists[before:]
    answer = {"id": json.loads(asked.text)["id"], "result": names}
    return [*actions, *rig.frame(json.dumps(answer).encode()), *rig.tick()]


def test_a_stream_that_the_server_has_not_got_is_asked_for_again_and_then_on_another_connection_once():
    rig = Rig(names=[NAME, "ethusdt@trade"])
    notice, again = listed(rig, [NAME])
    assert (notice.name, notice.details) == ("subscription_missing", {"count": 1, "streams": ("ethusdt@trade",)})
    assert json.loads(again.text) == {"method": "SUBSCRIBE", "params": ["ethusdt@trade"], "id": 2}
    assert rig.frame(b'{"result":null,"id":2}') == []
    actions = listed(rig, [NAME], seconds=5.5)
    assert Replace("streams are not subscribed") in actions
    after = Rig(memories=rig.memories, number=2)
    assert kinds(listed(after, [NAME])) == [Notice, Send]  # that was tried
    well = Rig(memories=rig.memories, number=3)
    assert listed(well, [NAME, "ethusdt@trade"]) == []
    assert [memory.missing_count for memory in rig.memories] == [0, 0]


def test_a_stream_that_nobody_asked_for_is_said():
    (notice,) = listed(Rig(), [NAME, "x@trade"])
    assert (notice.name, notice.details) == ("subscription_extra", {"count": 1, "streams": ("x@trade",)})


def test_a_server_that_does_not_list_is_said_once_and_let_be():
    rig = Rig()
    (notice,) = listed(rig, {"no": "list"})
    assert notice.name == "subscriptions_unlisted"
    assert len(rig.lists) == 1


def test_answers_and_notices_are_no_data():
    rig = Rig(names=many(200))
    for payload in (b'{"result":null,"id":1}', b'{"result":null,"id":2}', b'{"e":"serverShutdown","E":1770123456789}'):
        rig.frame(payload)
    assert (rig.session.frames, rig.session.last_data_ns) == (0, rig.session.opened_ns)
    assert len(rig.lines()) == 3
    rig.frame(b'{"what":"is this"}')
    assert rig.session.frames == 1


def test_a_quiet_depth_stream_is_suspected_when_the_best_price_moves_and_not_before():
    names = [NAME, "btcusdt@bookTicker"]
    rig = Rig(names=names)
    for number in range(1, 400):  # it speaks every ten to thirty seconds
        rig.now += S // 2
        if number % (20 + number % 41) == 0:
            rig.frame(frame(number, number))
            rig.frame(b'{"stream":"btcusdt@bookTicker","data":{}}')
        rig.tick()
    assert suspects(rig) == []
    actions = rig.talk(7, spacing=0.5, name="btcusdt@bookTicker")
    assert [action.details["streams"] for action in actions if isinstance(action, Notice)] == [[NAME]]
    assert Replace("a stream is silent") in actions
    rig.session.change([], ["btcusdt@bookTicker"], rig.now)
    assert rig.stream.witnesses == ()


@pytest.mark.parametrize(
    ("end", "word"),
    [
        (lambda rig: rig.session.closed(None, "end of TCP"), "tcp_end"),
        (lambda rig: rig.session.closed(1008, "policy"), "close_1008"),
        (lambda rig: rig.session.closed(4321, "made up"), "close_other"),
        (lambda rig: (rig.pass_time(30), rig.session.closed(None, "aborted")), "no_pong"),
    ],
)
def test_why_a_connection_ended_is_one_of_a_few_words(end, word):
    rig = Rig(names=["btcusdt@trade"])
    rig.talk(1)
    end(rig)
    assert rig.session.ended_by == word
    assert rig.session.tally.frames == 10


def test_a_peer_that_still_sends_what_it_had_queued_is_heard_after_our_close_and_not_for_ever():
    rig = Rig()
    rig.frame(frame(1, 2))
    rig.session.stop(rig.now, "replaced")
    number = 3
    heard_until = rig.now + 20 * S
    while rig.now < heard_until:
        assert rig.pass_time(1) == []
        rig.frame(frame(number, number))
        number += 1
    (abort,) = rig.pass_time(3.5)
    assert abort == AbortSocket("no end after close")
    assert len([line for line in rig.lines() if b"depthUpdate" in line]) == number - 2
    endless = Rig()
    endless.session.stop(endless.now, "replaced")
    aborts = [
        action
        for number in range(1, 40)
        for action in [*endless.frame(frame(number, number)), *endless.pass_time(1)]
        if isinstance(action, AbortSocket)
    ]
    assert len(aborts) == 1


def test_a_stream_is_silent_by_itself_or_with_the_whole_connection():
    rig = Rig(names=[NAME, "btcusdt@trade"])
    assert not rig.session.silent(NAME.encode())
    rig.stream.suspect = True
    assert [rig.session.silent(name) for name in (NAME.encode(), b"btcusdt@trade", b"x@trade")] == [True, False, False]
    rig.session._whole.suspect = True
    assert rig.session.silent(b"btcusdt@trade")
