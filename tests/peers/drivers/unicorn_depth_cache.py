"""unicorn-binance-local-depth-cache: `create_depthcache`.

The websocket address is no argument of the cache: it is set on its websocket manager before the first stream is made. REST
addresses are class attributes of the REST manager, which is an argument. The cache keeps its id to itself
(`depth_caches[…]["last_update_id"]`), which is read to know when the end is reached.
"""

import contextlib
import time

from task import Patience, finish, read_task
from unicorn_binance_local_depth_cache import BinanceLocalDepthCacheManager, DepthCacheOutOfSync
from unicorn_binance_rest_api import BinanceRestApiManager

task = read_task()
patience = Patience(task)
BinanceRestApiManager.API_URL, BinanceRestApiManager.FUTURES_URL = f"{task.http}/api", f"{task.http}/fapi"
manager = BinanceLocalDepthCacheManager(
    exchange="binance.com" if task.market == "spot" else "binance.com-futures",
    depth_cache_update_interval=int(task.interval.removesuffix("ms")),
    ubra_manager=BinanceRestApiManager(tld="com", warn_on_update=False, disable_colorama=True),
    init_interval=0.2,
    init_time_window=0,
    warn_on_update=False,
    disable_colorama=True,
)
manager.get_ubwa_manager().websocket_base_uri = f"{task.websocket}/"
market = task.symbol.lower()
manager.create_depthcache(market)
while True:
    last_update_id = manager.depth_caches[market]["last_update_id"]
    patience.check(last_update_id)
    if last_update_id is not None and last_update_id >= task.final_update_id:
        # While it fetches a snapshot it hands out nothing.
        with contextlib.suppress(DepthCacheOutOfSync):
            finish(last_update_id, manager.get_bids(market), manager.get_asks(market))
    time.sleep(0.05)
