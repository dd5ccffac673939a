"""unicorn-binance-local-depth-cache: `create_depthcache`.

Neither address is an argument of the cache; those of its websocket and REST managers are set on the instances before the first
stream is made. The cache keeps its id to itself (`depth_caches[…]["last_update_id"]`), which is read to know when the end is reached.
"""

import contextlib
import time

from task import Patience, finish, read_task
from unicorn_binance_local_depth_cache import BinanceLocalDepthCacheManager, DepthCacheOutOfSync

task = read_task()
patience = Patience(task)
manager = BinanceLocalDepthCacheManager(
    exchange="binance.com" if task.market == "spot" else "binance.com-futures",
    depth_cache_update_interval=int(task.interval.removesuffix("ms")),
    init_interval=0.2,
    init_time_window=0,
    warn_on_update=False,
    disable_colorama=True,
)
manager.get_ubwa_manager().websocket_base_uri = f"{task.websocket}/"
rest = manager.get_ubra_manager()
rest.API_URL, rest.FUTURES_URL = f"{task.http}/api", f"{task.http}/fapi"
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
