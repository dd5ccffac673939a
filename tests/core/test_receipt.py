import base64
import json

from hypothesis import given
from hypothesis import strategies as st

from twintape.core.active import LineText
from twintape.core.receipt import TEXT, Receipt
from twintape.core.wire import bytes_line, recordable

WALL_NS, BEGIN_NS = 1_760_000_000_000_000_000, 5_000_000_000
PAYLOADS = st.sampled_from(
    [b'{"a":1}', b"", b"two\nlines", b"\xff", "币".encode(), "币".encode()[:2], b"\x00", b"\r", b" "]
) | st.binary(max_size=8)


def make_receipt():
    return Receipt(BEGIN_NS, WALL_NS)


def one_by_one(heard):
    """What lines should be, the obvious way."""
    lines, last_ns = [], 0
    for now_ns, payload in heard:
        last_ns = max(WALL_NS + now_ns - BEGIN_NS, last_ns + 1)
        lines.append((last_ns, payload if recordable(payload) else bytes_line(TEXT, payload)))
    return lines


@given(st.lists(st.tuples(st.integers(0, 3), PAYLOADS), min_size=1, max_size=12), st.sets(st.integers(0, 12)))
def test_frames_become_lines_verbatim_and_in_order_however_many_are_taken_in_at_once(steps, looks):
    receipt, heard, now_ns = make_receipt(), [], BEGIN_NS
    for number, (step_ns, payload) in enumerate(steps):
        now_ns += step_ns
        heard.append((now_ns, payload))
        receipt.heard.append((now_ns, payload))
        if number in looks:
            receipt.take_in()
    taken, lines = receipt.take(), one_by_one(heard)
    assert taken.lines() == lines
    assert taken == LineText.of(lines)


def test_what_is_recorded_in_between_stands_behind_what_was_heard_before():
    receipt = make_receipt()
    receipt.heard.append((BEGIN_NS + 7, b"heard first"))
    stamp_ns = receipt.stamp(BEGIN_NS + 9)
    receipt.heard.append((BEGIN_NS + 11, b"heard second"))
    receipt.append(receipt.stamp(BEGIN_NS + 12), b"a snapshot")
    receipt.heard.append((BEGIN_NS + 12, b"heard third"))
    receipt.append(WALL_NS + 99, b"whenever")
    receipt.record(b"and now", BEGIN_NS + 12)
    assert stamp_ns == WALL_NS + 9
    assert receipt.take() == LineText.of(
        [
            (WALL_NS + 7, b"heard first"),
            (WALL_NS + 11, b"heard second"),
            (WALL_NS + 12, b"a snapshot"),
            (WALL_NS + 13, b"heard third"),
            (WALL_NS + 99, b"whenever"),
            (WALL_NS + 14, b"and now"),
        ]
    )


def test_what_is_no_line_of_text_is_kept_as_bytes():
    receipt = make_receipt()
    receipt.heard.append((BEGIN_NS, b"a\nb"))
    ((_, line),) = receipt.take().lines()
    assert base64.b64decode(json.loads(line)["base64"]) == b"a\nb"


def test_it_says_whether_lines_wait_and_forgets_what_was_taken():
    receipt = make_receipt()
    assert not receipt.waiting
    receipt.heard.append((BEGIN_NS, b"{}"))
    assert receipt.waiting
    receipt.take_in()
    assert receipt.waiting
    assert receipt.take().lines() == [(WALL_NS, b"{}")]
    assert (receipt.waiting, receipt.take()) == (False, None)


def test_event_times_are_handed_on_if_every_line_has_one():
    receipt = make_receipt()
    for number, event_time in enumerate([b"1728000000002", b"1728000000001", b"1728000000003"]):
        receipt.heard.append((BEGIN_NS + number, b"{}"))
        receipt.take_in()
        receipt.event_times.append(event_time)
    assert receipt.take().event_times == (b"1728000000001", b"1728000000003")
    receipt.heard.append((BEGIN_NS + 9, b"{}"))
    receipt.take_in()
    receipt.event_times.append(b"1728000000004")
    receipt.record(b"a line of ours", BEGIN_NS + 10)
    assert receipt.take().event_times is None
    receipt.heard.append((BEGIN_NS + 11, b"{}"))
    assert receipt.take().event_times is None, "nobody looked"
