"""What a pretended exchange answers over REST: depth, exchangeInfo, ping, time and a little of accounts, with weights, limits and bans.

Source: Binance, Spot API docs, rest-api.md and errors.md (2026-07-21); Derivatives docs, General Info, Order Book, Exchange
Information, Error Codes (2026-05-28).
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from twintape.core.markets import RULES, Market, depth_weight
from twintape.core.venue import SymbolInfo, Venue
from twintape.core.venue_account import ACCOUNT_PATHS, account_body

__all__ = [
    "BAN_S",
    "DEPTH_ANSWERS_MAX",
    "REFUSALS_BEFORE_BAN",
    "DepthAnswer",
    "HttpAnswer",
    "RestDesk",
    "WeightBudget",
    "exchange_info",
]

REFUSALS_BEFORE_BAN = 10
"""So many requests after the first 429 of a minute turn into a ban. The true number is not documented."""
BAN_S = 120
"""A first ban lasts two minutes."""
DEPTH_ANSWERS_MAX = 1000
"""So many of the last snapshots are remembered by what they were."""

_MINUTE_MS = 60_000
_PREFIXES = {"/api/v3": Market.SPOT, "/fapi/v1": Market.USDM, "/dapi/v1": Market.COINM}
_STATELESS_NAMES = ("ping", "time")
_NAMES = ("depth", "exchangeInfo", *_STATELESS_NAMES)
_FUTURES_LIMITS = (5, 10, 20, 50, 100, 500, 1000)
_PERPETUAL_DELIVERY_MS = 4_133_404_800_000  # perpetuals are listed with this far date
_QUOTES = ("USDT", "USDC", "FDUSD", "BUSD", "TUSD", "USD", "BTC", "ETH", "BNB", "TRY", "EUR", "BRL", "JPY")


@dataclass(frozen=True, slots=True)
class HttpAnswer:
    """One HTTP answer; the body is JSON."""

    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class DepthAnswer:
    """A snapshot that was handed out: which levels a client may know from it follows from its id and its limit."""

    market: Market
    symbol: str
    limit: int
    last_update_id: int


@dataclass(slots=True)
class WeightBudget:
    """The request weight one client address has left in one pool, by minutes of the wall clock."""

    limit: int
    used: int = 0
    _minute: int = -1
    _refusals: int = 0
    _banned_until_ms: int = 0

    def spend(self, weight: int, now_ms: int) -> HttpAnswer | None:
        """Charge a request and return the refusal, or None if it may be served."""
        if now_ms // _MINUTE_MS != self._minute:
            self._minute, self.used, self._refusals = now_ms // _MINUTE_MS, 0, 0
        if now_ms < self._banned_until_ms:
            return self._ban_answer(now_ms)
        self.used += weight
        if self.used <= self.limit:
            return None
        self._refusals += 1
        if self._refusals > REFUSALS_BEFORE_BAN:
            return self.ban(BAN_S, now_ms)
        message = (
            f"Too much request weight used; current limit is {self.limit} request weight per 1 MINUTE. "
            "Please use WebSocket Streams for live updates to avoid polling the API."
        )
        retry_after_s = -(-(_MINUTE_MS - now_ms % _MINUTE_MS) // 1000)
        return _error(429, -1003, message, {"Retry-After": str(retry_after_s)})

    def ban(self, seconds: float, now_ms: int) -> HttpAnswer:
        """Ban the address and return the answer it gets from now on."""
        self._banned_until_ms = max(self._banned_until_ms, now_ms + int(seconds * 1000))
        return self._ban_answer(now_ms)

    def _ban_answer(self, now_ms: int) -> HttpAnswer:
        until_ms = self._banned_until_ms
        message = (
            f"Way too much request weight used; IP banned until {until_ms}. "
            "Please use WebSocket Streams for live updates to avoid bans."
        )
        return _error(418, -1003, message, {"Retry-After": str(-(-(until_ms - now_ms) // 1000))})


class RestDesk:
    """Answers the GET requests of one client address.

    Args:
        venues: The markets served here; of another one only `ping` and `time` are: python-binance asks spot's before it follows futures.
        budgets: By pool (`MarketRules.weight_pool`), to lower them in tests; the documented ones where missing.

    Attributes:
        depth_answers: The last snapshots handed out, oldest first.
    """

    def __init__(self, venues: Mapping[Market, Venue], budgets: Mapping[str, int] | None = None) -> None:
        self._venues = venues
        self.depth_answers: deque[DepthAnswer] = deque(maxlen=DEPTH_ANSWERS_MAX)
        limits = {rules.weight_pool: rules.weight_per_minute for rules in RULES.values()} | dict(budgets or {})
        self.budgets = {pool: WeightBudget(limit) for pool, limit in limits.items()}

    def answer(self, path: str, query: Mapping[str, str], *, now_ms: int, until_ns: int | None = None) -> HttpAnswer:
        """Answer one GET.

        Args:
            path: Decoded, without a market prefix of ours: `/api/v3/depth`.
            query: Decoded parameters.
            now_ms: Wall time in milliseconds; weights are counted by its minutes.
            until_ns: On the source's clock: books answer as of then.
        """
        if path in ACCOUNT_PATHS and ACCOUNT_PATHS[path].market in self._venues:
            account = ACCOUNT_PATHS[path]
            budget = self.budgets[RULES[account.market].weight_pool]
            return self._charged(budget, budget.spend(account.weight, now_ms) or self._serve_account(path, query))
        prefix, _, name = path.rpartition("/")
        market = _PREFIXES.get(prefix)
        served = _NAMES if market in self._venues else _STATELESS_NAMES
        if market is None or name not in served:
            return _error(404, -1, f"nothing is served under {path}")
        limit, mistake = _depth_limit(market, query.get("limit")) if name == "depth" else (0, None)
        weight = (
            depth_weight(market, limit)
            if name == "depth"
            else RULES[market].exchange_info_weight
            if name == "exchangeInfo"
            else 1
        )
        budget = self.budgets[RULES[market].weight_pool]
        answer = budget.spend(weight, now_ms) or mistake
        if answer is None:
            answer = self._serve(market, name, query, limit, now_ms, until_ns)
        return self._charged(budget, answer)

    def _charged(self, budget: WeightBudget, answer: HttpAnswer) -> HttpAnswer:
        used = {"X-MBX-USED-WEIGHT": str(budget.used), "X-MBX-USED-WEIGHT-1M": str(budget.used)}
        return HttpAnswer(answer.status, answer.body, {**answer.headers, **used})

    def _serve_account(self, path: str, query: Mapping[str, str]) -> HttpAnswer:
        for parameter in ("timestamp", "signature"):
            if not query.get(parameter):
                return _error(400, -1102, f"Mandatory parameter '{parameter}' was not sent, was empty/null, or malformed.")
        symbols = [info.symbol for info in self._venues[ACCOUNT_PATHS[path].market].listed()]
        return HttpAnswer(200, _json(account_body(path, symbols, query.get("symbol"))))

    def _serve(
        self, market: Market, name: str, query: Mapping[str, str], limit: int, now_ms: int, until_ns: int | None
    ) -> HttpAnswer:
        if name == "ping":
            return HttpAnswer(200, b"{}")
        if name == "time":
            return HttpAnswer(200, b'{"serverTime":%d}' % now_ms)
        venue = self._venues[market]
        if name == "exchangeInfo":
            return _symbol_list(venue, query, now_ms)
        symbol = query.get("symbol")
        if not symbol:
            return _error(400, -1102, "Mandatory parameter 'symbol' was not sent, was empty/null, or malformed.")
        body = venue.depth(symbol, limit, now_ms=now_ms, until_ns=until_ns)
        if body is None:
            return _error(400, -1121, "Invalid symbol.")
        self.depth_answers.append(DepthAnswer(venue.market, symbol, limit, venue.book_update_id(symbol)))
        return HttpAnswer(200, body)


def _depth_limit(market: Market, text: str | None) -> tuple[int, HttpAnswer | None]:
    rules = RULES[market]
    if text is None:
        return (100 if market is Market.SPOT else 500), None
    if not text.isascii() or not text.isdigit() or len(text) > 20:
        message = "Illegal characters found in parameter 'limit'; legal range is '^[0-9]{1,20}$'."
        return 1, _error(400, -1100, message)
    limit = int(text)
    if market is Market.SPOT:
        if limit == 0:
            return 1, _error(400, -1130, "Data sent for parameter 'limit' is not valid.")
        return min(limit, rules.depth_limit), None
    if limit not in _FUTURES_LIMITS:
        return 1, _error(400, -4021, f"{limit} is not valid depth limit, please check the valid limits.")
    return limit, None


def _symbol_list(venue: Venue, query: Mapping[str, str], now_ms: int) -> HttpAnswer:
    wanted: list[str] | None = None
    if venue.market is Market.SPOT and "symbol" in query:
        wanted = [query["symbol"]]
    elif venue.market is Market.SPOT and "symbols" in query:
        try:
            wanted = [str(symbol) for symbol in json.loads(query["symbols"])]
        except (ValueError, TypeError, RecursionError):
            return _error(400, -1100, "Illegal characters found in parameter 'symbols'.")
    listed = {info.symbol: info for info in venue.listed()}
    if wanted is not None and not all(symbol in listed for symbol in wanted):
        return _error(400, -1121, "Invalid symbol.")
    chosen = [info for symbol, info in listed.items() if wanted is None or symbol in wanted]
    return HttpAnswer(200, _json(exchange_info(venue.market, chosen, now_ms)))


def exchange_info(market: Market, symbols: list[SymbolInfo], now_ms: int) -> dict[str, Any]:
    """Return the body of `exchangeInfo` in the market's shape."""
    rules = RULES[market]
    limits = [{"rateLimitType": "REQUEST_WEIGHT", "interval": "MINUTE", "intervalNum": 1, "limit": rules.weight_per_minute}]
    return {
        "timezone": "UTC",
        "serverTime": now_ms,
        "rateLimits": limits,
        "exchangeFilters": [],
        "symbols": [_spot_symbol(info) if market is Market.SPOT else _futures_symbol(market, info) for info in symbols],
    }


def _step(decimals: int, printed: int) -> str:
    if decimals == 0:
        return "1" if printed == 0 else "1." + "0" * printed
    return "0." + "1".rjust(decimals, "0").ljust(max(decimals, printed), "0")


def _assets(name: str) -> tuple[str, str]:
    for quote in _QUOTES:
        if name.endswith(quote) and len(name) > len(quote):
            return name[: -len(quote)], quote
    return name, "USDT"


def _filters(market: Market, info: SymbolInfo) -> list[dict[str, Any]]:
    printed = 8 if market is Market.SPOT else 0
    tick, step = _step(info.price_decimals, printed), _step(info.quantity_decimals, printed)
    # cryptofeed reads filters[0]["tickSize"].
    filters: list[dict[str, Any]] = [
        {"filterType": "PRICE_FILTER", "minPrice": tick, "maxPrice": _number(1_000_000, printed), "tickSize": tick},
        {"filterType": "LOT_SIZE", "minQty": step, "maxQty": _number(9_000_000, printed), "stepSize": step},
    ]
    if market is Market.SPOT:
        least = {"minNotional": _number(5, printed), "applyMinToMarket": True}
        most = {"maxNotional": _number(9_000_000, printed), "applyMaxToMarket": False, "avgPriceMins": 5}
        filters.append({"filterType": "NOTIONAL", **least, **most})
    elif market is Market.USDM:
        filters.append({"filterType": "MIN_NOTIONAL", "notional": "5"})
    return filters


def _number(value: int, printed: int) -> str:
    return str(value) if printed == 0 else f"{value}." + "0" * printed


def _spot_symbol(info: SymbolInfo) -> dict[str, Any]:
    base, quote = _assets(info.symbol)
    return {
        "symbol": info.symbol,
        "status": info.status,
        "baseAsset": base,
        "baseAssetPrecision": 8,
        "quoteAsset": quote,
        "quotePrecision": 8,
        "quoteAssetPrecision": 8,
        "baseCommissionPrecision": 8,
        "quoteCommissionPrecision": 8,
        "orderTypes": ["LIMIT", "LIMIT_MAKER", "MARKET", "STOP_LOSS_LIMIT", "TAKE_PROFIT_LIMIT"],
        "icebergAllowed": True,
        "ocoAllowed": True,
        "otoAllowed": True,
        "quoteOrderQtyMarketAllowed": True,
        "allowTrailingStop": True,
        "cancelReplaceAllowed": True,
        "isSpotTradingAllowed": True,
        "isMarginTradingAllowed": False,
        "filters": _filters(Market.SPOT, info),
        "permissions": [],
        "permissionSets": [["SPOT"]],
        "defaultSelfTradePreventionMode": "EXPIRE_MAKER",
        "allowedSelfTradePreventionModes": ["EXPIRE_TAKER", "EXPIRE_MAKER", "EXPIRE_BOTH"],
    }


def _futures_symbol(market: Market, info: SymbolInfo) -> dict[str, Any]:
    pair, _, suffix = info.symbol.partition("_")
    # Every COIN-M pair is quoted in USD; DOTUSD is not DO in TUSD.
    base, quote = (pair.removesuffix("USD"), "USD") if market is Market.COINM else _assets(pair)
    perpetual = suffix in ("", "PERP")
    contract = "PERPETUAL" if perpetual else "CURRENT_QUARTER"
    delivery_ms = _PERPETUAL_DELIVERY_MS if perpetual else _delivery_ms(suffix)
    described: dict[str, Any] = {
        "symbol": info.symbol,
        "pair": pair,
        "contractType": contract,
        "deliveryDate": delivery_ms,
        "onboardDate": 1_569_398_400_000,
        "contractStatus" if market is Market.COINM else "status": info.status,
        "maintMarginPercent": "2.5000",
        "requiredMarginPercent": "5.0000",
        "baseAsset": base,
        "quoteAsset": quote,
        "marginAsset": base if market is Market.COINM else quote,
        "pricePrecision": info.price_decimals,
        "quantityPrecision": info.quantity_decimals,
        "baseAssetPrecision": 8,
        "quotePrecision": 8,
        "underlyingType": "COIN",
        "underlyingSubType": [],
        "triggerProtect": "0.0500",
        "liquidationFee": "0.010000",
        "marketTakeBound": "0.05",
        "filters": _filters(market, info),
        "orderTypes": ["LIMIT", "MARKET", "STOP", "STOP_MARKET", "TAKE_PROFIT", "TAKE_PROFIT_MARKET", "TRAILING_STOP_MARKET"],
        "timeInForce": ["GTC", "IOC", "FOK", "GTX"],
    }
    if market is Market.COINM:
        described["contractSize"] = 100 if base == "BTC" else 10
        described["equalQtyPrecision"] = 4
    return described


def _delivery_ms(suffix: str) -> int:
    # Contracts are delivered at 08:00 UTC of the day in their name, YYMMDD.
    try:
        day = datetime.strptime(suffix, "%y%m%d").replace(hour=8, tzinfo=UTC)
    except ValueError:
        return _PERPETUAL_DELIVERY_MS
    return int(day.timestamp()) * 1000


def _json(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


def _error(status: int, code: int, message: str, headers: Mapping[str, str] | None = None) -> HttpAnswer:
    return HttpAnswer(status, _json({"code": code, "msg": message}), headers or {})
