"""What a pretended exchange says of accounts: every key is that of somebody without money, positions or discounts.

Some clients ask what fees they pay before they list a single symbol, and follow nothing without an answer. Keys and signatures
are not looked at; a request that is not meant to be signed is refused.

Source: Binance, Wallet docs, Trade Fee; Derivatives docs, Account Information V2, Position Information V3 (2026-05-28).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from twintape.core.markets import Market

__all__ = ["ACCOUNT_PATHS", "AccountPath", "account_body"]


@dataclass(frozen=True, slots=True)
class AccountPath:
    """A path that needs an account.

    Attributes:
        market: Whose.
        weight: What it costs of the market's pool; 0 where another pool pays, which is not simulated.
    """

    market: Market
    weight: int


ACCOUNT_PATHS: Mapping[str, AccountPath] = {
    "/sapi/v1/asset/tradeFee": AccountPath(Market.SPOT, 0),
    "/fapi/v2/account": AccountPath(Market.USDM, 5),
    "/fapi/v3/positionRisk": AccountPath(Market.USDM, 5),
    "/dapi/v1/account": AccountPath(Market.COINM, 5),
    "/dapi/v1/positionRisk": AccountPath(Market.COINM, 1),
}

_TOTALS = (
    "totalInitialMargin",
    "totalMaintMargin",
    "totalWalletBalance",
    "totalUnrealizedProfit",
    "totalMarginBalance",
    "totalPositionInitialMargin",
    "totalOpenOrderInitialMargin",
    "totalCrossWalletBalance",
    "totalCrossUnPnl",
    "availableBalance",
    "maxWithdrawAmount",
)


def account_body(path: str, symbols: Iterable[str], symbol: str | None) -> Any:
    """Return the body of an answer as JSON values.

    Args:
        path: One of `ACCOUNT_PATHS`.
        symbols: The symbols the market lists.
        symbol: The one asked for, if any.

    >>> account_body("/sapi/v1/asset/tradeFee", ["ADABNB"], None)
    [{'symbol': 'ADABNB', 'makerCommission': '0.001', 'takerCommission': '0.001'}]
    """
    if path.endswith("tradeFee"):
        wanted = [name for name in symbols if symbol in (None, name)]
        return [{"symbol": name, "makerCommission": "0.001", "takerCommission": "0.001"} for name in wanted]
    if path.endswith("positionRisk"):
        return []
    body: dict[str, Any] = {"feeTier": 0, "canTrade": True, "canDeposit": True, "canWithdraw": True, "updateTime": 0}
    if ACCOUNT_PATHS[path].market is Market.USDM:
        body |= dict.fromkeys(_TOTALS, "0.00000000")
    return body | {"assets": [], "positions": []}
