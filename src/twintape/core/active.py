"""The active segment: the text a collector appends to, and what can be read of it after a crash.

A torn or damaged tail is no error: it is what a crash leaves, and `recover_active` returns it as a value.

Source: docs/format.md, sections 2 and 4.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from twintape.core import wire
from twintape.core.errors import CorruptionError

__all__ = [
    "DAY_US",
    "TIME_NS_MAX",
    "HourWatch",
    "Line",
    "LineText",
    "Recovered",
    "RecoveredTexts",
    "depth_streams_of",
    "format_line",
    "format_lines",
    "format_sync",
    "is_absurd",
    "is_doubtful",
    "parse_line",
    "parse_text",
    "recover_active",
    "recover_texts",
    "split_lines",
]

Line = tuple[int, bytes]
"""Receive time in ns and the frame."""

TIME_NS_MAX = 2**63 - 1

DAY_US = 86_400_000_000
_HOUR_US = 3_600_000_000
_EVENT_TIME_KEY = b'"E":'
_SYNC_MARK = b' {"stream":"!twintape@sync",'
_SYNC_MARK_END = 19 + len(_SYNC_MARK)  # behind the longest time
_PLAIN_LINE = re.compile(rb"[1-8]\d{0,18} [^\n]")
"""The beginning of a line that needs no closer look if all its text is recordable."""


def format_line(receive_time_ns: int, frame: bytes) -> bytes:
    r"""Return the line of a frame, with its newline.

    >>> format_line(17, b"{}")
    b'17 {}\n'
    """
    return b"%d %b\n" % (receive_time_ns, frame)


@dataclass(frozen=True, slots=True)
class LineText:
    """Lines, at least one, as they stand in an active file: so they are checked, copied and counted once.

    Attributes:
        text: `format_line` of each, one behind the other.
        count: How many.
        size: The bytes of their frames.
        last_receive_time_ns: The last one's receive time.
        event_times: The least and the greatest event time, 13 digits of milliseconds, if every frame has one so printed; otherwise None.
    """

    text: bytes
    count: int
    size: int
    last_receive_time_ns: int
    event_times: tuple[bytes, bytes] | None = None

    @classmethod
    def of(cls, lines: Sequence[Line]) -> LineText:
        """Return the text of lines whose frames are recordable, and look for no event times."""
        times_ns, frames = zip(*lines, strict=True)
        return cls(format_lines(times_ns, frames), len(lines), sum(map(len, frames)), times_ns[-1])

    def lines(self) -> list[Line]:
        r"""Return the lines.

        >>> LineText.of([(17, b"{}"), (18, b"[1, 2]")]).lines()
        [(17, b'{}'), (18, b'[1, 2]')]
        """
        parts = [line.partition(b" ") for line in self.text[:-1].split(b"\n")]
        return [(int(digits), frame) for digits, _, frame in parts]


def format_lines(receive_times_ns: Sequence[int], frames: Sequence[bytes]) -> bytes:
    r"""Return the lines of frames, in half the time that one after the other takes.

    >>> format_lines([17, 18], [b"{}", b"[]"])
    b'17 {}\n18 []\n'
    """
    parts = [b"\n"] * (3 * len(frames))
    parts[0::3] = [b"%d " % receive_time_ns for receive_time_ns in receive_times_ns]
    parts[1::3] = frames
    return b"".join(parts)


def format_sync(receive_time_ns: int, *, size: int, crc32: int) -> bytes:
    """Return the line that vouches for the `size` bytes since the sync line before."""
    return format_line(receive_time_ns, wire.sync_line(size=size, crc32=crc32))


def parse_line(line: bytes) -> Line:
    """Return receive time and frame of a line without its newline.

    >>> parse_line(b'1723161253937085768 {"a": 1}')
    (1723161253937085768, b'{"a": 1}')

    Raises:
        CorruptionError: It does not have the form of a line.
    """
    digits, _, frame = line.partition(b" ")
    if not wire.recordable(frame):
        raise CorruptionError(f"not a line of a segment: {line[:80]!r}")
    return _receive_time(digits), frame


def _receive_time(digits: bytes) -> int:
    if digits.isdigit() and len(digits) <= 19 and (digits[0] != 48 or len(digits) == 1):
        receive_time_ns = int(digits)
        if receive_time_ns <= TIME_NS_MAX:
            return receive_time_ns
    raise CorruptionError(f"not a receive time: {digits[:40]!r}")


def _split(line: bytes) -> Line:
    """Return what `parse_line` does of a line whose text is known to be recordable, in half the time."""
    digits, _, frame = line.partition(b" ")
    if not frame:
        raise CorruptionError(f"not a line of a segment: {line[:80]!r}")
    return _receive_time(digits), frame


def parse_text(text: bytes) -> list[Line]:
    """Return the lines of a block's text.

    Raises:
        CorruptionError: A line is malformed or the last one lacks its newline.
    """
    if not text.endswith(b"\n"):
        raise CorruptionError("text does not end with a whole line")
    return list(map(_parser(text), text[:-1].split(b"\n")))


def _parser(text: bytes) -> Callable[[bytes], Line]:
    # Lines end between characters, so what holds for the whole text holds for each of its lines.
    return _split if wire.recordable(text, lines=True) else parse_line


@dataclass(frozen=True, slots=True)
class Recovered:
    """What an active file holds.

    Attributes:
        lines: All good lines in order, without `@sync`.
        checked_count: How many of them, from the front, a sync line vouches for.
        unchecked_count: The rest: well-formed and whole, but nothing says that they are what was written.
        good_size: Length of the file's good part, sync lines included.
        tail: What follows it, from the first malformed line on.
    """

    lines: list[Line]
    checked_count: int
    unchecked_count: int
    good_size: int
    tail: bytes


@dataclass(frozen=True, slots=True)
class RecoveredTexts:
    """What an active file holds, as text: like `Recovered`, with `<receive time> <frame>` instead of each line.

    `sync_lines` are the numbers, among all lines, of those that are missing from `texts`.
    """

    texts: list[bytes]
    checked_count: int
    unchecked_count: int
    good_size: int
    tail: bytes
    sync_lines: list[int]


def recover_active(data: bytes) -> Recovered:
    """Read an active file that may have been cut or damaged anywhere.

    A sync line is believed if it vouches for exactly the bytes since the one before; any other line that looks like one is a frame
    (the exchange can send such a text) and kept.
    """
    texts = split_lines(data)
    found = recover_texts(data, texts, range(len(texts)))
    return Recovered(list(map(_split, found.texts)), found.checked_count, found.unchecked_count, found.good_size, found.tail)


def split_lines(data: bytes) -> list[bytes]:
    """Return the whole lines of an active file, whatever they look like, without their newlines."""
    texts = data.split(b"\n")
    texts.pop()  # what no newline ends is no line
    return texts


def recover_texts(data: bytes, texts: list[bytes], odd: Sequence[int]) -> RecoveredTexts:
    """Do the same as `recover_active` without taking the lines apart.

    Args:
        data: The file.
        texts: Its lines, from `split_lines`; belongs to the result from here on.
        odd: The numbers of all lines that may be sync lines, or not even have the form of a line.
    """
    # Lines end between characters, so what holds for the whole text holds for each of its lines.
    clean = wire.recordable(data, lines=True)
    sync_like, good_count = [], len(texts)
    for number in odd if clean else range(len(texts)):
        text = texts[number]
        if not (clean and _PLAIN_LINE.match(text)) and not _is_line(text):
            good_count = number
            break
        if text.find(_SYNC_MARK, 1, _SYNC_MARK_END) > 0:
            sync_like.append(number)
    good_size = data.rfind(b"\n") + 1 - sum(map(len, texts[good_count:])) - len(texts[good_count:])
    del texts[good_count:]
    checked_count = begin = synced_size = number = 0
    sync_lines: list[int] = []
    for sync in sync_like:
        begin += sum(map(len, texts[number:sync])) + sync - number
        covered, number = memoryview(data)[synced_size:begin], sync
        if texts[sync].partition(b" ")[2] == wire.sync_line(size=len(covered), crc32=zlib.crc32(covered)):
            checked_count, synced_size = sync - len(sync_lines), begin + len(texts[sync]) + 1
            sync_lines.append(sync)
    for sync in reversed(sync_lines):
        del texts[sync]
    return RecoveredTexts(texts, checked_count, len(texts) - checked_count, good_size, data[good_size:], sync_lines)


def _is_line(text: bytes) -> bool:
    try:
        parse_line(text)
    except CorruptionError:
        return False
    return True


def depth_streams_of(streams: Iterable[str]) -> dict[str, str]:
    """Return symbol → stream name for every symbol with exactly one depth stream among the stream names of a connection.

    >>> depth_streams_of(["btcusdt@depth@100ms", "btcusdt@trade", "ethusdt@depth", "ethusdt@depth@100ms"])
    {'BTCUSDT': 'btcusdt@depth@100ms'}
    """
    found: dict[str, set[str]] = {}
    for name in streams:
        symbol, stream = wire.split_stream(name)
        if wire.is_depth(stream):
            found.setdefault(symbol, set()).add(name)
    return {symbol: min(names) for symbol, names in found.items() if len(names) == 1}


def is_doubtful(event_time_us: int, receive_time_ns: int, known_us: int | None) -> bool:
    """Return whether an event time must not file anything: over a day ahead of its receive time *and* of all event times before.

    So recordings of the past may be played today, and a whole exchange may live in the future or our clock in the past, but one frame
    with an absurd time does not draw what follows with it.

    >>> day_us = 86_400_000_000
    >>> is_doubtful(9 * day_us, 0, None), is_doubtful(9 * day_us, 0, 7 * day_us), is_doubtful(9 * day_us, 8 * day_us * 1000, 7 * day_us)
    (False, True, False)
    """
    return known_us is not None and event_time_us > known_us + DAY_US and event_time_us > receive_time_ns // 1000 + DAY_US


def is_absurd(known_us: int, event_time_us: int, receive_time_ns: int) -> bool:
    """Return whether the greatest event time so far is itself over a day ahead, of the receive time and of a later line's event time."""
    return known_us > event_time_us + DAY_US and known_us > receive_time_ns // 1000 + DAY_US


class HourWatch:
    """Tells when a segment must end because the next frame's event time lies in a later hour than all before.

    Args:
        event_time_us: The `event_time_us` of the segment's open line.
    """

    __slots__ = ("_contradicted", "_digits", "_digits_from", "_digits_to", "_event_time_us", "_hour_end_us")

    def __init__(self, event_time_us: int | None = None) -> None:
        self._contradicted = False
        self._restart(event_time_us)

    def _restart(self, event_time_us: int | None) -> None:
        self._event_time_us = event_time_us
        hour_end_us = self._hour_end_us = None if event_time_us is None else (event_time_us // _HOUR_US + 1) * _HOUR_US
        # The same as milliseconds in 13 digits, which compare as the numbers do.
        self._digits = b"%013d" % ((event_time_us or 0) // 1000)
        self._digits_from = b"%013d" % (max((hour_end_us or 0) - DAY_US, 0) // 1000)
        self._digits_to = b"%013d" % ((hour_end_us or 0) // 1000)

    @property
    def event_time_us(self) -> int | None:
        """Greatest event time so far that is not doubtful, or None."""
        if self._event_time_us is not None:
            newest_us = int(self._digits) * 1000
            if newest_us > self._event_time_us:
                self._event_time_us = newest_us
        return self._event_time_us

    def would_raise_hour(self, frame: bytes, receive_time_ns: int | None = None) -> bool:
        """Return whether `frame` must open a new segment (and leave everything as it is); else take its event time in.

        Without `receive_time_ns` no time is doubtful.
        """
        return self.fitting([(receive_time_ns, frame)]) == 0

    def spans(self, least: bytes, greatest: bytes) -> bool:
        """Return whether frames with event times between these, 13 digits each, all belong to this segment as a matter of course.

        Then the times are taken in, as `fitting` would; otherwise nothing is changed, and it takes `fitting` to tell.
        """
        if not self._digits_from <= least <= greatest < self._digits_to:
            return False
        self._digits = max(greatest, self._digits)
        self._contradicted = False
        return True

    def fitting(self, lines: Sequence[tuple[int | None, bytes]]) -> int:
        """Return how many lines, from the front, come before the first whose frame must open a new segment; take their times in."""
        position = 0
        for receive_time_ns, frame in lines:
            # Nearly every time lies before the end of the hour and not a day behind anything: no more than two comparisons then.
            at = frame.find(_EVENT_TIME_KEY) + 4
            digits = frame[at : at + 13]
            if self._digits_from <= digits < self._digits_to and at > 3 and digits.isdigit() and frame[at + 13 : at + 14] == b",":
                if digits > self._digits:
                    self._digits = digits
                self._contradicted = False
            elif self._raises_hour(frame, receive_time_ns):
                break
            position += 1
        return position

    def _raises_hour(self, frame: bytes, receive_time_ns: int | None) -> bool:
        event_time_us = wire.event_time_us(frame)
        if event_time_us is None:
            return False
        known_us = self.event_time_us
        if known_us is not None and event_time_us <= known_us:
            if known_us - event_time_us > DAY_US and receive_time_ns is not None:
                self._contradict(known_us, event_time_us, receive_time_ns)
            else:
                self._contradicted = False
            return False
        if self._hour_end_us is not None and event_time_us >= self._hour_end_us:
            return receive_time_ns is None or not is_doubtful(event_time_us, receive_time_ns, known_us)
        self._contradicted = False
        self._restart(event_time_us)
        return False

    def _contradict(self, known_us: int, event_time_us: int, receive_time_ns: int) -> None:
        """Two frames in a row that are where our own clock is outweigh one that was far ahead of it: the first of all may be absurd."""
        if not is_absurd(known_us, event_time_us, receive_time_ns):
            return
        if self._contradicted:
            self._restart(event_time_us)
        self._contradicted = not self._contradicted
