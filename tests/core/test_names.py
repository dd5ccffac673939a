import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twintape.core import names
from twintape.core.errors import ConfigError
from twintape.core.markets import Market
from twintape.core.names import ProofKey, RawKey, TableKey
from twintape.core.wire import SESSION, plausible_symbol

HOSTILE = [
    "../x",
    "a/b",
    ".",
    "..",
    "%2E",
    "%",
    "%%41",
    "a%2Fb",
    "币安人生USDT",
    "a b",
    "ETH.D",
    "~",
    "A\u202eB",
    "\u00e9",
    "e\u0301",
    "1" * 64,
]
DATE = "2026-11-22"
WRITE_ID = "00112233aabbccdd"
RAW = RawKey("tokyo", Market.SPOT, DATE, 9, "0123abcd", 3, 12, "00112233aabbccdd")

text = st.text(min_size=1, max_size=64).filter(lambda t: not any("\ud800" <= c <= "\udfff" for c in t))
symbols = st.one_of(st.sampled_from([*HOSTILE, SESSION]), text.filter(plausible_symbol))
streams = st.one_of(st.sampled_from([*HOSTILE, "depth@100ms", "!miniTicker@arr"]), text)
markets = st.sampled_from(Market)


def assert_plain(key):
    assert not key.startswith("/")
    for part in key.split("/"):
        assert part not in ("", ".", "..")
        assert set(part) <= set(string.ascii_letters + string.digits + "_-.@!%=")


@given(market=markets, symbol=symbols, stream=streams, generation=st.integers(1, 9999), part=st.integers(0, 999_999_999))
def test_every_key_is_plain_and_gives_back_exactly_what_it_was_made_of(market, symbol, stream, generation, part):
    proof = names.proof_key(market, symbol, stream, DATE, generation)
    assert_plain(proof)
    assert names.parse_proof_key(proof) == ProofKey(market, symbol, stream, DATE, generation)
    for table in names.TABLES:
        key = names.table_key(table, market, symbol, stream, DATE, generation, WRITE_ID, part)
        assert_plain(key)
        assert names.parse_table_key(key) == TableKey(table, market, symbol, stream, DATE, generation, WRITE_ID, part)
        assert key.startswith(names.table_prefix(table, market, symbol, stream, DATE))
    assert proof.startswith(names.proof_prefix(market, symbol, stream, DATE))


@given(text)
def test_a_part_has_exactly_one_spelling(value):
    part = names.encode_part(value)
    assert names.decode_part(part) == value
    assert names.decode_part(part.lower()) in (None, value.lower())
    assert names.decode_part("%41" + part) is None, "a letter that needs no escape"


@given(st.text(max_size=40))
def test_no_part_decodes_to_a_text_with_another_encoding(part):
    value = names.decode_part(part, also="@!")
    assert value is None or names.encode_part(value, also="@!") == part


def test_symbols_that_differ_have_keys_that_differ():
    keys = {names.encode_symbol(symbol) for symbol in [*HOSTILE, SESSION]}
    assert len(keys) == len(HOSTILE) + 1


def test_the_literal_session_cannot_be_spelled_by_a_symbol():
    assert names.encode_symbol("!session") == "!session"
    assert names.parse_proof_key(f"proof/market=spot/symbol=%21session/stream=depth/date={DATE}/g0001.json") is None


@pytest.mark.parametrize("symbol", ["", "x" * 65, "A\x00", "A\x1f", "!other", "\x80"])
def test_a_symbol_that_is_not_plausible_gets_no_key(symbol):
    with pytest.raises(ValueError, match="key"):
        names.proof_key(Market.SPOT, symbol, "depth", DATE, 1)


@pytest.mark.parametrize(
    "key",
    [
        f"proof/market=spot/symbol=%42TC/stream=depth/date={DATE}/g0001.json",
        f"proof/market=spot/symbol=%e5%b8%81/stream=depth/date={DATE}/g0001.json",
        f"proof/market=spot/symbol=%E5/stream=depth/date={DATE}/g0001.json",
        f"proof/market=spot/symbol=../stream=depth/date={DATE}/g0001.json",
        f"proof/market=spot/symbol=./stream=depth/date={DATE}/g0001.json",
        f"proof/market=spot/symbol=B/C/stream=depth/date={DATE}/g0001.json",
        f"proof/market=spot/symbol=/stream=depth/date={DATE}/g0001.json",
        f"proof/market=spot/symbol=BTC/stream=depth@/date={DATE}/g0001.json ",
        f"proof/market=spot/symbol=BTC/stream=depth%40/date={DATE}/g0001.json",
        "proof/market=spot/symbol=BTC/stream=depth/date=2026-02-30/g0001.json",
        "proof/market=spot/symbol=BTC/stream=depth/date=2026-1-011/g0001.json",
        f"proof/market=spot/symbol=BTC/stream=depth/date={DATE}/g0000.json",
        f"proof/market=spot/symbol=BTC/stream=depth/date={DATE}/g1.json",
        f"proof/market=spot/symbol=BTC/stream=depth/date={DATE}/g00001.json",
        f"proof/market=Spot/symbol=BTC/stream=depth/date={DATE}/g0001.json",
        f"proof/market=spot/symbol=BTC/stream=depth/date={DATE}/g0001.json\n",
        f"/proof/market=spot/symbol=BTC/stream=depth/date={DATE}/g0001.json",
    ],
)
def test_a_proof_key_in_another_spelling_is_none(key):
    assert names.parse_proof_key(key) is None


@pytest.mark.parametrize("key", ["", "depth", "depth/x", "x" * 2000])
def test_other_keys_are_neither_proofs_nor_tables_nor_raw(key):
    assert names.parse_proof_key(key) is None
    assert names.parse_table_key(key) is None
    assert names.parse_raw_key(key) is None


@pytest.mark.parametrize(
    "old_new",
    [
        ("depth/", "raw/"),
        ("g0001", "g0000"),
        (WRITE_ID, WRITE_ID.upper()),
        ("part-0", "part-00"),
        ("symbol=BTCUSDT", "symbol=%41"),
        (".parquet", ".parquet.tmp"),
    ],
)
def test_a_table_key_in_another_spelling_is_none(old_new):
    key = names.table_key("depth", Market.SPOT, "BTCUSDT", "depth", DATE, 1, WRITE_ID, 0)
    assert names.parse_table_key(key) is not None
    assert names.parse_table_key(key.replace(*old_new)) is None


def test_a_raw_key_gives_back_its_parts():
    assert RAW.key() == "raw/v1/tokyo/spot/2026-11-22/09/0123abcd-3-12-00112233aabbccdd.tape.zst"
    assert names.parse_raw_key(RAW.key()) == RAW
    assert RAW.key().startswith(names.raw_prefix("tokyo", Market.SPOT, DATE))
    assert names.raw_prefix("tokyo", Market.SPOT) == "raw/v1/tokyo/spot/"
    assert names.raw_prefix("tokyo") == "raw/v1/tokyo/"


@pytest.mark.parametrize(
    "old_new",
    [
        ("/09/", "/9/"),
        ("/09/", "/24/"),
        ("-3-", "-03-"),
        ("-3-", "-0-"),
        ("tokyo", "Tokyo"),
        ("tokyo", "-tokyo"),
        ("2026-11-22", "2026-13-22"),
        ("0123abcd", "0123ABCD"),
        ("raw/v1", "raw/v2"),
        (".zst", ".zst/"),
    ],
)
def test_a_raw_key_in_another_spelling_is_none(old_new):
    assert names.parse_raw_key(RAW.key().replace(*old_new)) is None


def test_parts_that_no_reader_would_take_make_no_key():
    with pytest.raises(ValueError, match="read back"):
        RawKey("tokyo", Market.SPOT, DATE, 24, "0123abcd", 3, 12, "00112233aabbccdd").key()
    with pytest.raises(ValueError, match="read back"):
        names.table_key("depth", Market.SPOT, "BTC", "depth", DATE, 1, "../../../etc", 0)
    with pytest.raises(ValueError, match="read back"):
        names.plan_key(Market.SPOT, DATE, "xyz")
    with pytest.raises(ValueError, match="read back"):
        names.plan_key(Market.SPOT, "today", WRITE_ID)
    with pytest.raises(ValueError, match="read back"):
        names.receipt_key(WRITE_ID, "other")
    with pytest.raises(ValueError, match="read back"):
        names.receipt_key("x", "plan")
    with pytest.raises(ValueError, match="read back"):
        names.raw_prefix("tokyo", Market.SPOT, "..")
    with pytest.raises(ValueError, match="read back"):
        names.table_prefix("raw", Market.SPOT)
    with pytest.raises(ValueError, match="read back"):
        names.proof_prefix(Market.SPOT, "A", "depth", "..")


def test_plans_are_named_by_the_beginning_of_their_digest():
    assert names.plan_key(Market.SPOT, DATE, "ab" * 32) == f"plan/v1/market=spot/date={DATE}/{'ab' * 8}.json"
    assert names.receipt_key(WRITE_ID, "done") == f"receipt/v1/{WRITE_ID}/done.json"


def test_prefixes_are_as_narrow_as_they_are_told():
    assert names.proof_prefix(Market.USDM) == "proof/market=usdm/"
    assert names.proof_prefix(Market.USDM, "币") == "proof/market=usdm/symbol=%E5%B8%81/"
    assert names.table_prefix("arrival", Market.USDM, "A", "depth@0ms") == "arrival/market=usdm/symbol=A/stream=depth@0ms/"


@pytest.mark.parametrize("name", ["tokyo", "0", "a-b-", "a" * 32])
def test_a_collector_may_have_such_a_name(name):
    assert names.check_collector(name) == name


@pytest.mark.parametrize("name", ["", "-a", "Tokyo", "a" * 33, "a/b", "..", "a\n", "ö"])
def test_a_collector_may_not_have_such_a_name(name):
    with pytest.raises(ConfigError, match="cannot name a collector"):
        names.check_collector(name)


def test_the_days_of_frames_without_a_symbol_have_keys_that_are_read_back():
    key = names.proof_key(Market.SPOT, "!session", "!twintape", "2026-11-22", 3)
    assert names.parse_proof_key(key) == names.ProofKey(Market.SPOT, "!session", "!twintape", "2026-11-22", 3)
