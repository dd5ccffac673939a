import pytest

from twintape.core.markets import Market
from twintape.core.venue_account import ACCOUNT_PATHS, account_body


def test_fees_are_those_of_every_listed_symbol_or_of_the_one_asked_for():
    path = "/sapi/v1/asset/tradeFee"
    assert [fee["symbol"] for fee in account_body(path, ["BTCUSDT", "ETHUSDT"], None)] == ["BTCUSDT", "ETHUSDT"]
    assert [fee["symbol"] for fee in account_body(path, ["BTCUSDT", "ETHUSDT"], "ETHUSDT")] == ["ETHUSDT"]
    assert account_body(path, ["BTCUSDT"], "NOSUCH") == []


@pytest.mark.parametrize("path", ["/fapi/v3/positionRisk", "/dapi/v1/positionRisk"])
def test_nobody_has_positions(path):
    assert account_body(path, ["BTCUSDT"], None) == []


def test_a_futures_account_is_empty_and_without_discount_and_only_usdm_has_totals():
    usdm = account_body("/fapi/v2/account", ["BTCUSDT"], None)
    coinm = account_body("/dapi/v1/account", ["BTCUSD_PERP"], None)
    assert usdm["feeTier"] == coinm["feeTier"] == 0
    assert usdm["assets"] == usdm["positions"] == coinm["assets"] == coinm["positions"] == []
    assert usdm["totalWalletBalance"] == "0.00000000"
    assert "totalWalletBalance" not in coinm


def test_every_path_belongs_to_a_market():
    assert {path.partition("/v")[0]: account.market for path, account in ACCOUNT_PATHS.items()} == {
        "/sapi": Market.SPOT,
        "/fapi": Market.USDM,
        "/dapi": Market.COINM,
    }
