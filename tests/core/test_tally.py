import pytest

from twintape.core.tally import RECONNECTS, Tally, close_word


def test_two_markets_count_apart():
    spot, usdm = Tally(), Tally()
    spot.suspects["silent"] += 1
    spot.reconnects["tcp_end"] += 2
    spot.handovers["waited"] += 1
    assert (usdm.frames, usdm.gaps, usdm.suspects, usdm.reconnects, usdm.handovers) == (0, 0, {}, {}, {})


@pytest.mark.parametrize(
    ("code", "word"), [(None, "tcp_end"), (1000, "close_1000"), (1008, "close_1008"), (3000, "close_other"), (0, "close_other")]
)
def test_every_end_is_one_of_the_words(code, word):
    assert close_word(code) == word
    assert word in RECONNECTS
