import pytest
from hypothesis import given
from hypothesis import strategies as st

from twintape.core import wire
from twintape.core.heads import NO_HEAD, depth_head, read_heads
from twintape.core.markets import Market

FRAME = b'{"stream":"%b","data":{"e":"depthUpdate","E":1728000000000,%b"U":%b8,"u":9,%b"b":[],"a":[]}}'
NAMES = [b"a@depth", "币@depth@100ms".encode(), b"a\\u0041@depth", b'a"@depth', b""]
MIDDLES = [
    b'"s":"A",',
    b'"T":1728000000000,"s":"A",',
    b'"T":1728000000000,"s":"A","ps":"A",',
    b'"T":1728000000000,"s":"A","ps":"A","st":1,',
    b'"s":"A","x":{"U":1,"u":2},',
    b' "s":"A",',
    b"",
]


@given(
    st.sampled_from(NAMES),
    st.sampled_from(MIDDLES),
    st.sampled_from([b"", b" "]),
    st.sampled_from([b"", b'"pu":-1,', b'"pu":7,']),
    st.integers(0, 2**63 - 1),
)
def test_what_a_head_says_is_what_the_scanners_say_of_the_frame(name, middle, space, prev, receive_time_ns):
    frame = FRAME % (name, middle, space, prev)
    head = depth_head(frame)
    if head is not None:
        stream, event_time, first, final, before = head.groups()
        assert stream == name
        assert int(event_time) * 1000 == wire.event_time_us(frame)
        assert wire.depth_ids(frame, Market.SPOT) == (int(first) - 1, int(final))
        assert wire.depth_ids(frame, Market.USDM) == (None if before is None else (int(before), int(final)))
    (found,) = read_heads([b"%d %b" % (receive_time_ns, frame)])
    if head is not None and str(receive_time_ns)[0] in "12345678":  # so that no 19 digits are too many
        assert found == (b"%d" % receive_time_ns, *head.groups())
    else:
        assert found is NO_HEAD


@pytest.mark.parametrize("middle", MIDDLES[:4])
@pytest.mark.parametrize("prev", [b"", b'"pu":7,'])
def test_every_depth_frame_printed_since_2019_has_a_head(middle, prev):
    assert depth_head(FRAME % (b"btcusdt@depth@100ms", middle, b"", prev)) is not None


@pytest.mark.parametrize("time", [b"", b"0", b"01", b"-1", b"x", b"9223372036854775808", b"12345678901234567890"])
def test_a_line_without_a_possible_receive_time_has_none(time):
    assert read_heads([time + b" " + FRAME % (b"a@depth", b'"s":"A",', b"", b"")]) == [NO_HEAD]


def test_all_lines_are_looked_at_however_many_there_are():
    lines = [b"%d %b" % (number, FRAME % (b"a@depth", b'"s":"A",', b"", b"")) for number in range(1000, 1700)]
    assert [head[0] for head in read_heads(lines)] == [b"%d" % number for number in range(1000, 1700)]
    assert read_heads([]) == []
