"""Eight bytes at a time: digits, comparisons and hashes against plain Python."""

import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from twintape.columns import kernel
from twintape.columns.kernel import digits, hash_line, hash_lines, hash_seed, same_bytes

SETTINGS = settings(max_examples=200, deadline=None, derandomize=True)


@numba.njit
def word_at(text, position):
    return kernel.word_at(text, position)


@numba.njit
def copy_word(text, position, out, place):
    kernel._store(out, place, kernel._load(text, position))


@numba.njit
def put_integer(out, position, value):
    return kernel.put_integer(out, position, value)


@numba.njit
def put_digits(out, position, value, count):
    return kernel.put_digits(out, position, value, count)


@numba.njit
def put_bytes(out, position, source, start, stop):
    return kernel.put_bytes(out, position, source, start, stop)


@numba.njit
def bits_around(word):
    return kernel.first_bit(word), kernel.zeros_above(word)


@numba.njit
def hash_body(text, start, stop):
    return kernel.hash_body(text, start, stop)


@numba.njit
def hash_around(text, head, tail, body, seed):
    return kernel.hash_around(text, head, tail, body, seed)


@numba.njit
def not_digits(word):
    return kernel.not_digits(word)


def array(text: bytes):
    return np.frombuffer(text, np.uint8)


@SETTINGS
@given(st.binary(max_size=20), st.integers(0, 22))
def test_a_word_is_the_eight_bytes_from_a_position_and_zeros_behind_the_end(text, position):
    assert int(word_at(array(text), position)) == int.from_bytes(text[position : position + 8], "little")


@pytest.mark.parametrize("position", range(9))
def test_words_are_loaded_and_stored_at_any_byte(position):
    text, out = array(bytes(range(1, 18))), np.zeros(20, np.uint8)
    copy_word(text, position, out, 11 - position)
    assert out.tobytes().strip(b"\x00") == text[position : position + 8].tobytes()
    assert out[11 - position] == position + 1


@SETTINGS
@given(
    st.from_regex(rb"[0-9]{0,21}", fullmatch=True),
    st.one_of(st.just(b""), st.binary(min_size=1, max_size=9).filter(lambda t: t[:1] not in b"0123456789")),
)
def test_digits_are_counted_and_valued_up_to_the_first_other_byte(number, rest):
    count, value = digits(array(number + rest), 0)
    assert (count, value) == ((len(number), int(number or b"0")) if len(number) <= 18 else (0, 0))


@pytest.mark.parametrize("other", [b"/", b":", b'"', b".", b"\x00", b"\x80", b"\xb0", b"\xff"])
@pytest.mark.parametrize("position", range(8))
def test_every_byte_that_is_no_digit_ends_a_number(other, position):
    text = b"12345678"[:position] + other + b"9" * 8
    assert digits(array(text), 0) == (position, int(b"12345678"[:position] or b"0"))


@SETTINGS
@given(st.binary(max_size=30), st.integers(0, 12), st.integers(0, 30), st.integers(0, 255))
def test_same_bytes_is_true_only_for_equal_bytes(text, start, place, value):
    text = bytes(max(byte, 1) for byte in text)  # literals have no NUL
    literal = array(b"__" + text[start:] + bytes(8))
    stop = 2 + len(text[start:])
    assert same_bytes(array(text), start, literal, 2, stop)
    if place < len(text[start:]):
        changed = bytearray(text)
        changed[start + place] = value
        assert same_bytes(array(bytes(changed)), start, literal, 2, stop) == (bytes(changed) == text)
    assert not same_bytes(array(text), start, array(b"__" + text[start:] + b"x" + bytes(8)), 2, stop + 1)


def hashed(text, start=0, stop=None, seed=("tokyo", "1")):
    return tuple(int(part) for part in hash_line(array(text), start, len(text) if stop is None else stop, *hash_seed(*seed)))


@SETTINGS
@given(st.text("ab[]", max_size=90).map(str.encode), st.binary(max_size=9), st.binary(max_size=9))
def test_a_digest_depends_on_the_line_and_on_nothing_around_it(line, before, behind):
    alone = hashed(line)
    assert hashed(before + line + behind, len(before), len(before) + len(line)) == alone


@SETTINGS
@given(
    st.text("ab[]", max_size=90).map(str.encode),
    st.text("ab", max_size=20).map(str.encode),
    st.text("ab", max_size=9).map(str.encode),
)
def test_a_digest_follows_from_the_body_and_what_stands_around_it(inner, head, tail):
    body = b"[" + inner + b"]"
    line = head + body + tail
    bodies = tuple(map(np.uint64, hash_body(array(line), len(head), len(head + body))))
    assert hashed(line)[2:] == hashed(body)[2:] == tuple(map(int, bodies))
    around = hash_around(array(head + tail), (0, len(head)), (len(head), len(head + tail)), bodies, hash_seed("tokyo", "1"))
    assert hashed(line)[:2] == tuple(map(int, around))


def test_a_line_without_brackets_or_with_wrong_ones_has_an_empty_body():
    empty = hashed(b"")[2:]
    for line in (b"", b"a", b"]a[", b"[", b"]", b"12345678]2345678[", b"1 " * 40):
        assert hashed(line)[2:] == empty
    assert hashed(b"[]")[2:] != empty


def test_every_bit_every_length_and_every_place_of_the_body_decides_all_four_hashes():
    body = b'[["61737.63000000","0.00000000"],["61730.17000000","1.50000000"],["1","2"]],"a":[["5","6"]]'
    variants = [body, body[:-1] + b" ]", body[:-1] + b"\x00]"]
    for bit in range(8, 8 * (len(body) - 1)):
        changed = bytearray(body)
        changed[bit // 8] ^= 1 << bit % 8
        if changed[bit // 8] not in b"[]" and body[bit // 8] not in b"[]":
            variants.append(bytes(changed))
    seen = [hashed(b"17 " + variant + b"}") for variant in variants]
    for part in range(4):
        assert len({found[part] for found in seen}) == len(variants)


@SETTINGS
@given(st.integers(0, 2**63 - 1), st.integers(0, 3))
def test_an_integer_is_printed_as_python_prints_it(value, position):
    out = np.zeros(40, np.uint8)
    end = put_integer(out, position, value)
    assert out[position:end].tobytes() == str(value).encode()


@SETTINGS
@given(st.integers(1, 8), st.integers(0, 10**8 - 1))
def test_a_fraction_is_printed_with_all_its_zeros(count, value):
    value %= 10**count
    out = np.zeros(24, np.uint8)
    assert put_digits(out, 1, value, count) == 1 + count
    assert out[1 : 1 + count].tobytes() == f"{value:0{count}d}".encode()


@SETTINGS
@given(st.binary(max_size=30))
def test_bytes_are_copied_whole(text):
    out = np.zeros(50, np.uint8)
    assert put_bytes(out, 2, array(b"_" + text + bytes(8)), 1, 1 + len(text)) == 2 + len(text)
    assert out[2 : 2 + len(text)].tobytes() == text


def test_bits_are_found_at_both_ends_of_a_word():
    for low in range(64):
        for high in range(low, 64):
            assert bits_around(np.uint64(1 << low | 1 << high)) == (low, 63 - high)
    assert bits_around(np.uint64(0)) == (64, 64)


def test_every_byte_of_a_line_its_length_and_the_seed_decide_its_hash():
    """Lines of all lengths around a word and around four, each changed in every byte, under two seeds: no two digests are equal."""
    lines = [bytes(range(1, size + 1)) for size in (*range(26), *range(60, 75))]
    lines += [line[:at] + bytes([line[at] ^ 0x80]) + line[at + 1 :] for line in lines for at in range(len(line))]
    text = b"".join(lines)
    stops = np.cumsum([len(line) for line in lines])
    starts = stops - np.array([len(line) for line in lines])
    seen = set()
    for collector in ("tokyo", "paris"):
        out = np.zeros((len(lines), 2), np.uint64)
        hash_lines(np.frombuffer(text, np.uint8), starts, stops, *hash_seed(collector, "1"), out)
        seen |= {(int(a), int(b)) for a, b in out}
        assert len(set(out[:, 0].tolist())) == len(set(out[:, 1].tolist())) == len(lines)
    assert len(seen) == 2 * len(lines)


@SETTINGS
@given(st.binary(min_size=8, max_size=8))
def test_what_is_no_digit_is_marked_from_the_first_byte_on(text):
    digit = [48 <= byte <= 57 for byte in text]
    marks = int(not_digits(np.uint64(int.from_bytes(text, "little"))))
    first = digit.index(False) if False in digit else 8
    assert marks & ((1 << 8 * first) - 1) == 0
    assert first == 8 or marks >> 8 * first & 0xFF == 0x80


def test_cached_code_is_stamped_with_the_source_of_the_whole_package():
    stamp = kernel.hash_line._cache._cache_file._source_stamp
    assert stamp[1] == kernel._sources_sha256() == kernel._SOURCES
    assert stamp[0] != stamp[1], "numba's own"


def test_without_a_cache_that_can_be_stamped_nothing_is_cached(monkeypatch):
    made = []

    def njit(**options):
        made.append(options["cache"])
        return lambda function: function

    monkeypatch.setattr(numba, "njit", njit)
    assert kernel.kernel(array) is array
    assert made == [True, False]
