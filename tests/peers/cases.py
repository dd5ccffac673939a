"""What is tried with whom."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from twintape.core.gateway import Fault, FaultKind


@dataclass(frozen=True)
class Case:
    """One driver on one recording.

    Attributes:
        name: `<peer>/<what>`.
        peer: Whose environment: the name of its requirements.
        package: Whose version is shown.
        driver: Which of `drivers/`.
        recording: Which of `recordings.RECORDINGS`.
        about: What is special, in words.
        faults: What happens meanwhile, by position in the recording.
        snapshots_min: So many snapshots a client needs that notices all of it.
        tls: Whether the client insists on TLS.
        deflate: Whether permessage-deflate is granted to clients that offer it.
        pace: How much slower than the recording's usual speed, for clients that cannot follow it.
        kept: The client forgets levels beyond its best so many a side; None if it keeps all.
        may_retell: Whether the client compares ids with its snapshot's only of events that came before the snapshot: it may drop the one that ends
            exactly there, which the futures rule applies, and apply those that come late.
    """

    name: str
    peer: str
    package: str
    driver: str
    recording: str
    about: str
    faults: Sequence[Fault] = ()
    snapshots_min: int = 1
    tls: bool = False
    deflate: bool = False
    pace: float = 1.0
    kept: int | None = None
    may_retell: bool = False


def _fault(kind: FaultKind, start: float, stop: float) -> Fault:
    return Fault(kind, 0, start, stop)


FIN = (_fault(FaultKind.FIN, 0.4, 0.4),)
RST = (_fault(FaultKind.RST, 0.4, 0.45),)
GAP = (_fault(FaultKind.MUTE, 0.4, 0.42),)
# Whoever comes back meets snapshots from before it left, for a while.
STALE = (_fault(FaultKind.STALE, 0.35, 0.6), _fault(FaultKind.FIN, 0.4, 0.4))
STALE_LONG = (_fault(FaultKind.STALE, 0.35, 0.8), _fault(FaultKind.FIN, 0.4, 0.4))  # for whoever takes six seconds to come back


def _case(name: str, driver: str, recording: str, about: str, package: str = "", **more: Any) -> Case:
    peer = name.partition("/")[0]
    return Case(name, peer, package or peer, driver, recording, about, **more)


UBWA = "unicorn-binance-websocket-api"
UBLDC = "unicorn-binance-local-depth-cache"
# It sorts everything it knows at every event, and by the text of the price, so that asks of 100,000 and more count among its nearest 1,000.
SLOW = {"pace": 0.35, "kept": 900}

CASES = (
    _case("python-binance/socket", "python_binance_socket", "spot", "depth_socket"),
    _case("python-binance/deflate", "python_binance_socket", "spot", "and permessage-deflate", deflate=True),
    _case("python-binance/futures", "python_binance_socket", "usdm", "futures_multiplex_socket on /public"),
    _case("python-binance/cache", "python_binance_cache", "spot", "DepthCacheManager"),
    _case("python-binance/cache-rst", "python_binance_cache", "spot", "and a reset", faults=RST, snapshots_min=2),
    _case("ccxt/spot", "ccxt_pro", "spot", "watch_order_book", kept=1000),
    _case("ccxt/usdm", "ccxt_pro", "usdm", "watch_order_book", kept=1000),
    _case("ccxt/coinm", "ccxt_pro", "coinm", "watch_order_book", kept=1000),
    _case("ccxt/spot-fin", "ccxt_pro", "spot", "and an end of TCP", faults=FIN, snapshots_min=2, kept=1000),
    _case("ccxt/spot-gap", "ccxt_pro", "spot", "and a gap", faults=GAP, snapshots_min=2, kept=1000),
    _case("ccxt/usdm-gap", "ccxt_pro", "usdm", "and a gap", faults=GAP, snapshots_min=2, kept=1000),
    _case("ccxt/spot-stale", "ccxt_pro", "spot", "and stale snapshots", faults=STALE, snapshots_min=3, kept=1000),
    _case("cryptofeed/spot", "cryptofeed_feed", "spot", "L2_BOOK", tls=True),
    _case("cryptofeed/usdm", "cryptofeed_feed", "usdm@100ms", "L2_BOOK", tls=True),
    _case("cryptofeed/spot-fin", "cryptofeed_feed", "spot", "and an end of TCP", faults=FIN, snapshots_min=2, tls=True),
    _case("cryptofeed/spot-gap", "cryptofeed_feed", "spot", "and a gap", faults=GAP, snapshots_min=2, tls=True),
    _case("cryptofeed/spot-stale", "cryptofeed_feed", "spot", "and stale snapshots", faults=STALE, snapshots_min=3, tls=True),
    _case("unicorn/websocket-spot", "unicorn_websocket", "spot", "a stream", UBWA),
    _case("unicorn/websocket-usdm", "unicorn_websocket", "usdm", "a stream", UBWA),
    _case("unicorn/cache-spot", "unicorn_depth_cache", "spot", "a depth cache", UBLDC, **SLOW),
    _case("unicorn/cache-usdm", "unicorn_depth_cache", "usdm", "a depth cache", UBLDC, **SLOW),
    _case("unicorn/cache-fin", "unicorn_depth_cache", "spot", "and an end of TCP", UBLDC, faults=FIN, snapshots_min=2, **SLOW),
    _case("unicorn/cache-gap", "unicorn_depth_cache", "spot", "and a gap", UBLDC, faults=GAP, snapshots_min=2, **SLOW),
    _case(
        "unicorn/cache-stale",
        "unicorn_depth_cache",
        "spot",
        "and stale snapshots",
        UBLDC,
        faults=STALE_LONG,
        snapshots_min=3,
        **SLOW,
    ),
    _case("binance-sdk/spot", "official_sdk", "spot", "diff_book_depth", "binance-sdk-spot"),
    _case(
        "binance-sdk/usdm",
        "official_sdk",
        "usdm@100ms",
        "diff_book_depth_streams",
        "binance-sdk-derivatives-trading-usds-futures",
    ),
    _case("binance-connector/spot", "old_connector", "spot", "diff_book_depth"),
    _case("binance-futures-connector/usdm", "old_connector", "usdm", "diff_book_depth"),
    _case("nautilus/spot", "nautilus", "spot", "the cache's order book", "nautilus-trader"),
    _case("nautilus/usdm", "nautilus", "usdm", "the cache's order book", "nautilus-trader", may_retell=True),
    _case("nautilus/spot-fin", "nautilus", "spot", "and an end of TCP", "nautilus-trader", faults=FIN, snapshots_min=2),
    _case(
        "nautilus/usdm-rst",
        "nautilus",
        "usdm",
        "and a reset",
        "nautilus-trader",
        faults=RST,
        snapshots_min=2,
        may_retell=True,
    ),
)
