"""Many decimals at a time, against Python's own."""

from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from twintape.columns.decimals import decimals_needed, mantissas

SETTINGS = settings(max_examples=300, deadline=None, derandomize=True)
DIGITS = st.text("0123456789", min_size=1, max_size=22)
TEXTS = st.lists(st.one_of(DIGITS, st.tuples(DIGITS, DIGITS).map(".".join)), max_size=6)


@SETTINGS
@given(TEXTS, st.integers(-18, 0))
def test_mantissas_are_what_decimals_say(texts, exponent):
    expected = [int(Decimal(text).scaleb(-exponent)) for text in texts]
    if max(expected, default=0) >= 2**63:
        with pytest.raises(OverflowError):
            mantissas(texts, exponent)
    else:
        assert mantissas(texts, exponent).tolist() == expected


@pytest.mark.parametrize("text", ["1E2", "-3", "+4", "5."])
def test_other_spellings_are_pythons_to_read(text):
    assert mantissas(["1", text], -1).tolist() == [10, int(Decimal(text) * 10)]


def test_an_exponent_beyond_64_bits_is_too():
    assert mantissas(["0", "0.0"], -30).tolist() == [0, 0]
    assert mantissas(["250"], 1).tolist() == [25]


@SETTINGS
@given(TEXTS)
def test_the_digits_that_are_needed_are_those_before_trailing_zeros(texts):
    assert decimals_needed(texts) == max((len(text.partition(".")[2].rstrip("0")) for text in texts), default=0)
