import pytest

from twintape.core.preflight import Facts, Level, Nearby, examine
from twintape.core.settings import parse_record_settings

S = 1_000_000_000
NOW = 1_760_000_000 * S
GIB = 1 << 30
GOOD = """
collector = "tokyo"
store = "s3://bucket"
connections = 2
metrics_port = 9100
[[markets]]
market = "spot"
symbols = ["BTCUSDT", "ETHUSDT"]
streams = ["depth@100ms", "bookTicker"]
"""


def settings(text=GOOD, **changes):
    return parse_record_settings(text, overrides=changes)


def facts(**changes):
    good = {
        "descriptors": 65536,
        "spool_free_bytes": 500 * GIB,
        "spool_collector": "tokyo",
        "clock_offset_ns": 1000,
        "clock_error_ns": 2_000_000,
        "clock_source": "chrony",
        "store_error": "",
        "uploaded_ns": NOW - 30 * S,
        "now_ns": NOW,
        "bytes_per_hour": 100e6,
    }
    return Facts(**{**good, **changes})


def paris(text=GOOD, **changes):
    # The name decides the times of rotation, and this one's are others than tokyo's.
    return Nearby("paris.toml", settings(text, **{"collector": "paris", **changes}))


def said(given=None, known=None, nearby=None):
    """Return what is not fine, by level."""
    found = examine(given or settings(), known or facts(), [paris()] if nearby is None else nearby)
    assert all(finding.what and bool(finding.action) == (finding.level is not Level.FINE) for finding in found)
    return [(finding.level.value, finding.what) for finding in found if finding.level is not Level.FINE]


def test_two_good_collectors_have_nothing_to_be_told():
    assert said() == []
    assert len(examine(settings(), facts(), [paris()])) >= 4  # what was looked at is said


@pytest.mark.parametrize(
    ("known", "words"),
    [
        ({"clock_offset_ns": None}, "nobody keeps the clock (chrony)"),
        ({"clock_error_ns": None}, "nobody keeps the clock"),
        ({"clock_offset_ns": -250_000_000}, "clock: off by -250.0 ms"),
        ({"clock_error_ns": 300_000_000}, "to within 300.0 ms"),
        ({"descriptors": 100}, "files: 100 may be open, about 144 are needed"),
        ({"spool_collector": "osaka"}, "belongs to the collector osaka, not to tokyo"),
        ({"spool_free_bytes": None}, "cannot be written"),
        ({"spool_free_bytes": 20 * GIB}, "spool_gibibytes is 50, and its volume has room for 20.0"),
        ({"bytes_per_hour": 2e9}, "50 GiB last 22 h without the store, at 1907.3 MiB/h uploaded of late"),
        ({"store_error": "access denied"}, "the store s3://bucket does not answer: access denied"),
        ({"spool_collector": None}, "somebody called tokyo uploaded 0 minutes ago, and this spool has never recorded"),
        ({"exchange_errors": {"stream.binance.com:9443": "refused"}}, "stream.binance.com:9443 cannot be reached: refused"),
    ],
)
def test_what_is_wrong_with_machine_and_store_is_a_problem(known, words):
    ((level, what),) = said(known=facts(**known))
    assert level == "problem"
    assert words in what


@pytest.mark.parametrize("known", [{"uploaded_ns": None}, {"uploaded_ns": NOW - 7200 * S}])
def test_a_new_spool_under_a_name_that_nobody_uses_now_is_fine(known):
    assert said(known=facts(spool_collector=None, **known)) == []


def test_without_a_measured_rate_the_spool_is_judged_by_a_guess_and_only_advised():
    assert said(known=facts(bytes_per_hour=None)) == []
    wide = settings(GOOD.replace('"BTCUSDT", "ETHUSDT"', '"*USDT"'), spool_gibibytes=10)
    advice = said(wide, facts(bytes_per_hour=None), [])
    assert (
        "advice",
        "spool: 10 GiB last 1 h without the store, at 12000.0 MiB/h assumed for 3000 streams on a busy day",
    ) in advice
    assert [what for level, what in advice if level == "problem"] == []  # 31 connections, twice, need fewer files than there are


def test_nothing_recorded_lasts_for_ever():
    found = examine(settings(), facts(bytes_per_hour=0.0), [paris()])
    assert any("last 9999 h" in finding.what for finding in found)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('"BTCUSDT", "ETHUSDT"', '"NEXOUSDT"', "a connection of quiet symbols alone"),
        ('"BTCUSDT", "ETHUSDT"', '"*USDT", "BTCUSDT"', "a connection of quiet symbols alone"),
        ('"depth@100ms", "bookTicker"', '"depth@100ms"', "nothing contradicts a depth stream"),
        ('"depth@100ms", "bookTicker"', '"depth@100ms", "depth", "bookTicker"', "depth@100ms and depth are recorded"),
        ("connections = 2", "connections = 1", "connections is 1"),
        ("connections = 2", "connections = 2\nrotate_hours = 23.5", "rotate_hours is 23.5"),
        ("metrics_port = 9100", "", "metrics_port is 0"),
    ],
)
def test_settings_that_may_cost_data_are_advised_against(old, new, words):
    assert old in GOOD
    text = GOOD.replace(old, new)
    given = settings(text)
    found = said(given, nearby=[paris(text)])
    assert {level for level, _ in found} == {"advice"}
    assert [words in what for _, what in found] == [True]


def test_a_sentinel_watches_quiet_symbols_and_is_named_as_the_market_spells_it():
    text = GOOD.replace('"BTCUSDT", "ETHUSDT"', '"NEXOUSDT"')
    watched = text.replace("streams =", 'sentinel = "btcusdt@depth5@100ms"\nstreams =')
    assert said(settings(watched), nearby=[paris(watched)]) == []
    coinm = text.replace('"spot"', '"coinm"').replace("NEXOUSDT", "ADAUSD_PERP")
    (finding,) = [found for found in examine(settings(coinm), facts(), [paris(coinm)]) if found.level is Level.ADVICE]
    assert finding.action.startswith('sentinel = "btcusd_perp@')


def test_streams_of_the_whole_market_need_neither_symbols_nor_witnesses():
    text = GOOD.replace('"BTCUSDT", "ETHUSDT"', "").replace('"depth@100ms", "bookTicker"', '"!miniTicker@arr"')
    assert said(settings(text), nearby=[paris(text)]) == []


@pytest.mark.parametrize(
    ("changes", "level", "words"),
    [
        ({"collector": "tokyo"}, "problem", "are both called tokyo"),
        ({"store": "s3://other"}, "problem", "upload to different stores"),
        ({"weight_share": 0.7}, "advice", "plan 40% and 70% of the request weight"),
        ({"collector": "c30"}, "advice", "change their connections to spot at the same times"),
    ],
)
def test_collectors_that_get_in_each_other_s_way_are_told(changes, level, words):
    ((found, what),) = said(nearby=[paris(**changes)])
    assert (found, words in what, what.startswith("this one and paris.toml")) == (level, True, True)


def test_collectors_with_the_same_phase_and_other_periods_drift_apart():
    assert said(nearby=[paris(collector="c30", rotate_hours=11.0)]) == []


def test_two_collectors_behind_one_address_are_told():
    own = settings(source_address="10.0.0.1")
    ((level, what),) = said(own, nearby=[paris(source_address="10.0.0.1")])
    assert (level, "use the address 10.0.0.1" in what) == ("advice", True)
    assert said(own, nearby=[paris(source_address="10.0.0.2")]) == []


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('"ETHUSDT"', '"XRPUSDT"', "symbols of spot that only one records: ETHUSDT XRPUSDT"),
        ('"bookTicker"', '"bookTicker", "trade"', "streams of spot that only one records: trade"),
        ('"spot"', '"usdm"', "only one records spot"),
    ],
)
def test_what_only_one_collector_records_is_told(old, new, words):
    found = said(nearby=[paris(GOOD.replace(old, new))])
    assert any(words in what for _, what in found)
    assert {level for level, _ in found} == {"advice"}


def test_every_pair_is_compared_and_a_lonely_collector_is_told_so():
    osaka = Nearby("osaka.toml", settings(collector="osaka", store="s3://elsewhere"))
    found = [what.partition(" upload")[0] for level, what in said(nearby=[paris(), osaka]) if level == "problem"]
    assert found == ["this one and osaka.toml", "paris.toml and osaka.toml"]
    ((level, what),) = said(nearby=[])
    assert (level, "no other collector" in what) == ("advice", True)
