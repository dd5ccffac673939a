"""The compiled matcher has no Python of its own to cover: its equality with the slow decoder is tested in test_parse.py; here, its edges."""

import numpy as np
import pytest

from twintape.columns.match import receive_time


def bytes_of(text: bytes):
    return np.frombuffer(text + bytes(8), np.uint8)


@pytest.mark.parametrize(
    ("line", "time", "start"),
    [
        (b"1723161253937085768 {}", 1723161253937085768, 20),
        (b"7 x", 7, 2),
        (b"0 {}", 0, 2),
        (b"1723161253937085768 {}                ", 1723161253937085768, 20),
        (b"8999999999999999999 {}                ", 8999999999999999999, 20),
        (b"9000000000000000001 {}                ", 9000000000000000001, 20),
        (b"123456789012345678 {}                 ", 123456789012345678, 19),
    ],
)
def test_a_receive_time_is_read_up_to_its_space(line, time, start):
    assert receive_time(bytes_of(line), 0) == (time, start)


@pytest.mark.parametrize("line", [b"x1 {}", b" {}", b"17", b"12345678901234567890 {}"])
def test_what_is_no_receive_time_has_no_start(line):
    assert receive_time(bytes_of(line), 0)[1] < 0
