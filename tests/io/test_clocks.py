from support.store import DAYS, STREAM, Exchange, Recorder, heads, keys_of, merge, prune, put, time_us
from twintape.core import wire
from twintape.core.manifest import ClockStatistics
from twintape.io.clocks import joined, with_clocks
from twintape.io.store import MemoryStore

_, DAY, _ = DAYS
NOON_NS = time_us(f"{DAY}T12:00:00") * 1000
DAYS_DEPTH = ("BTCUSDT", STREAM, DAY)


def clock(at_ns, offset_ns, error_ns, source="chrony"):
    return at_ns, wire.clock_line(wall_ns=at_ns, monotonic_ns=1, offset_ns=offset_ns, error_ns=error_ns, source=source)


def recorded(name, samples, **options):
    return Recorder(name, extra=[clock(NOON_NS + n * 1000, *sample) for n, sample in enumerate(samples)], **options).seals(
        [Exchange()]
    )


def clocks(store):
    return {line.collector: line.clock for line in heads(store)[DAYS_DEPTH].lines}


def test_a_proof_says_of_each_line_how_good_its_clock_was(tmp_path):
    store = MemoryStore()
    put(store, recorded("paris", [(-21_000, 900), (35_000, 800), (None, None)]))
    put(store, recorded("rome", [(None, None), (None, 5)]))
    put(store, recorded("tokyo", []))
    merge(store, tmp_path)
    assert clocks(store) == {
        "paris": ClockStatistics(samples=3, offset_ns_min=-21_000, offset_ns_max=35_000, error_ns_max=900, unsynchronised=1),
        "rome": ClockStatistics(samples=2, offset_ns_min=None, offset_ns_max=None, error_ns_max=5, unsynchronised=2),
        "tokyo": None,
    }
    tickers = heads(store)["BTCUSDT", "bookTicker", DAY]
    assert {line.collector: line.clock for line in tickers.lines} == clocks(store)


def test_samples_of_other_dates_do_not_count(tmp_path):
    store = MemoryStore()
    lines = [clock(time_us(f"{date}T00:02:00") * 1000, offset, 1) for date, offset in zip(DAYS, (5, 6, 7), strict=True)]
    put(store, Recorder("paris", extra=lines).seals([Exchange()]))
    merge(store, tmp_path)
    # The first is before the recording begins, so it is filed with the first event.
    assert clocks(store)["paris"] == ClockStatistics(
        samples=1, offset_ns_min=6, offset_ns_max=6, error_ns_max=1, unsynchronised=0
    )


def test_what_was_said_survives_the_raw_data_and_is_counted_once(tmp_path):
    store = MemoryStore()
    put(store, recorded("paris", [(1, 2), (3, 4)], lost={"BTCUSDT": {90}}))
    merge(store, tmp_path)
    before = clocks(store)["paris"]
    prune(store, grace_h=-1, gapped_h=-1)
    assert keys_of(store, "raw/") == []
    put(store, recorded("tokyo", [(50, 60)]))
    merge(store, tmp_path)
    assert heads(store)[DAYS_DEPTH].generation == 2
    assert clocks(store)["paris"] == before
    assert clocks(store)["tokyo"].offset_ns_max == 50


def test_a_clock_line_that_is_not_ours_says_nothing(tmp_path):
    store = MemoryStore()
    forged = b'{"stream":"!twintape@clock","wall_ns":1,"offset_ns":"5","error_ns":[]}'
    put(store, Recorder("paris", extra=[(NOON_NS, forged)]).seals([Exchange()]))
    merge(store, tmp_path)
    assert clocks(store)["paris"] == ClockStatistics(
        samples=1, offset_ns_min=None, offset_ns_max=None, error_ns_max=None, unsynchronised=1
    )


def test_nothing_said_is_nothing_joined():
    said = ClockStatistics(samples=1, offset_ns_min=1, offset_ns_max=1, error_ns_max=1, unsynchronised=0)
    assert joined(None, None) is None
    assert joined(said, None) == joined(None, said) == said
    assert with_clocks([], [("paris", said)]) == []
