"""What collectors noted about their connections stands beside the gaps it explains."""

from twintape.core import wire
from twintape.core.evidence import GapLine
from twintape.core.manifest import GapRecord
from twintape.core.markets import Market
from twintape.core.segment import ChainLink, lines_in_order, seal
from twintape.io.outages import NOTES_MAX, Note, notes_of, with_notes

SECOND = 10**9
AT = 1_800_000_000 * SECOND


def segment_of(*lines: tuple[int, bytes], sequence: int = 1) -> bytes:
    opening = wire.open_line(
        collector="tokyo",
        market=Market.SPOT,
        run="a" * 32,
        connection=3,
        sequence=sequence,
        url="wss://x",
        streams=[],
        version="test",
        event_time_us=None,
    )
    chain = ChainLink(id="0" * 16, number=0, previous=None, reason="new spool")
    return seal(
        [(AT, opening), *((AT + at, frame) for at, frame in lines)],
        collector="tokyo",
        market=Market.SPOT,
        run="a" * 32,
        connection=3,
        sequence=sequence,
        chain=chain,
    ).data


def notes(data: bytes) -> list[tuple[int, int, str]]:
    control = [(at, *said) for _, at, frame in lines_in_order(data) if (said := wire.parse_control(frame)) is not None]
    found = notes_of(control, 3)
    return [(note.from_ns - AT, note.to_ns - AT, note.text) for note in found]


def test_openings_closings_and_deafness_are_noted_with_their_reasons() -> None:
    data = segment_of(
        (1, wire.clock_line(wall_ns=1, monotonic_ns=1, offset_ns=None, error_ns=None, source="none")),
        (5, wire.suspect_line(from_ns=AT + 2, to_ns=AT + 4, streams=None, reason="no pong")),
        (7, wire.suspect_line(from_ns=AT + 6, to_ns=None, streams=None, reason="silence")),
        (8, wire.close_line(reason="hour", code=None, final=False)),
        (9, wire.close_line(reason="reset by peer", code=1006, final=True)),
        (10, b'{"stream":"!twintape@suspect","from_ns":"x"}'),
        (11, b'{"stream":"!twintape@close","final":true,"reason":"stopped"}'),
    )
    assert notes(data) == [
        (0, 0, "connection 3 opened"),
        (2, 4, "connection 3 may have been deaf: no pong"),
        (6, 7, "connection 3 may have been deaf: silence"),
        (9, 9, "connection 3 closed: reset by peer (code 1006)"),
        (11, 11, "connection 3 closed: stopped"),
    ]


def test_a_later_segment_of_a_connection_opens_nothing() -> None:
    assert notes(segment_of(sequence=2)) == []


def gap(*lines: GapLine) -> GapRecord:
    return GapRecord(
        after_update_id=5,
        next_prev_update_id=9,
        gap_class="unknown",
        from_event_time_us=None,
        to_event_time_us=1,
        reason="x",
        lines=list(lines),
    )


def line(begin: int | None, end: int | None, *notes: str) -> GapLine:
    return GapLine(collector="tokyo", record="x", from_receive_time_ns=begin, to_receive_time_ns=end, notes=list(notes))


def test_a_note_belongs_to_a_gap_if_it_was_made_between_what_the_line_heard_before_and_behind_it() -> None:
    noted = {"tokyo": [Note(30, 30, "behind"), Note(10, 10, "at the edge"), Note(1, 5, "before"), Note(5, 15, "deaf")]}

    def found(begin: int | None, end: int | None) -> list[str]:
        return with_notes([gap(line(begin, end))], noted)[0].lines[0].notes

    assert found(10, 20) == ["deaf", "at the edge"]
    assert found(10, None) == ["deaf", "at the edge", "behind"]
    assert found(None, 12) == ["before", "deaf", "at the edge"]
    assert found(None, None) == []
    assert with_notes([gap(line(10, 20))], {})[0].lines[0].notes == []


def test_what_the_generation_before_remembers_is_kept_and_there_are_not_too_many() -> None:
    many = {"tokyo": [Note(k, k, f"note {k}") for k in range(20)]}
    (kept,) = with_notes([gap(line(0, 20))], many, [gap(line(0, 20, "from a segment that is gone", "note 3"))])
    assert kept.lines[0].notes[:3] == ["from a segment that is gone", "note 3", "note 0"]
    assert len(kept.lines[0].notes) == NOTES_MAX
