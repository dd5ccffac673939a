from twintape.core.tally import Tally


def test_two_markets_count_apart():
    spot, usdm = Tally(), Tally()
    spot.suspects["silent"] += 1
    spot.reconnects["tcp_end"] += 2
    spot.handovers["waited"] += 1
    assert (usdm.frames, usdm.gaps, usdm.suspects, usdm.reconnects, usdm.handovers) == (0, 0, {}, {}, {})
