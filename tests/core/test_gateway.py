import pytest

from twintape.core.errors import ConfigError
from twintape.core.gateway import Fault, FaultKind, GatewayOptions, Partition, Restamp, parse_fault, parse_gateway

FRAME = b'{"e":"trade","E":1700000000123,"s":"X","t":5,"p":"1","q":"1","T":1700000000122,"m":true,"M":true}'


def test_a_fault_is_spelled_kind_gateway_window():
    assert parse_fault("1001:2:0.5-0.75") == Fault(FaultKind.GOING_AWAY, 2, 0.5, 0.75)
    assert parse_fault("rst:0:0.5") == Fault(FaultKind.RST, 0, 0.5, 0.5)


@pytest.mark.parametrize(
    "text", ["", "fin", "fin:0", "fin:0:x", "fin:x:0-1", "boom:0:0-1", "fin:0:0.6-0.5", "fin:0:0-2", "fin:-1:0-1"]
)
def test_any_other_spelling_of_a_fault_is_refused(text):
    with pytest.raises(ConfigError):
        parse_fault(text)


def test_a_gateway_is_spelled_as_options():
    assert parse_gateway("") == GatewayOptions()
    assert parse_gateway("port=5,partition=net,rate=0.5,jitter-us=40,rest-lag-s=2,ack-delay-s=3,seed=9") == GatewayOptions(
        5, Partition.NET, 0.5, 40, 2.0, 3.0, 9
    )


@pytest.mark.parametrize("text", ["colour=red", "port=x", "partition=odd", "rate"])
def test_any_other_option_of_a_gateway_is_refused(text):
    with pytest.raises(ConfigError):
        parse_gateway(text)


def test_a_jitter_of_tens_of_microseconds_moves_a_few_percent_of_times_by_a_millisecond_and_nothing_else():
    restamp = Restamp("seed", 60, microseconds=False)
    moved = 0
    for number in range(2000):
        frame = FRAME.replace(b'"t":5', b'"t":%d' % number)
        stamped = restamp(frame)
        if stamped != frame:
            assert stamped == frame.replace(b'"E":1700000000123', b'"E":1700000000124')
            moved += 1
    assert 20 <= moved <= 100


def test_connections_differ_and_the_same_connection_repeats():
    frames = [FRAME.replace(b'"t":5', b'"t":%d' % number) for number in range(500)]

    def stamped(seed):
        restamp = Restamp(seed, 500, microseconds=False)
        return [restamp(frame) for frame in frames]

    assert stamped("a") != stamped("b")
    assert stamped("a") == stamped("a")


def test_microseconds_are_the_same_moment_for_every_connection_but_for_the_jitter():
    exact = Restamp("a", 0, microseconds=True)(FRAME)
    assert exact == Restamp("b", 0, microseconds=True)(FRAME)
    event_time = exact.partition(b'"E":')[2][:16]
    assert event_time.isdigit()
    assert event_time.startswith(b"1700000000123")
    assert b'"T":1700000000122' in exact
    assert len(exact) == len(FRAME) + 6
