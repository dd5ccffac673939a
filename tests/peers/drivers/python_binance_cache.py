"""python-binance: `DepthCacheManager` (spot).

Addresses are class attributes of the client and of its socket manager; there is no argument for them. The manager keeps its id
to itself (`_last_update_id`), which is read to know when the end is reached.
"""

import asyncio

from binance import AsyncClient, BinanceSocketManager
from binance.ws.depthcache import DepthCacheManager
from task import Patience, finish, read_task


async def main():
    task = read_task()
    patience = Patience(task)
    AsyncClient.API_URL = f"{task.http}/api"
    BinanceSocketManager.STREAM_URL = f"{task.websocket}/"
    client = await AsyncClient.create()
    sockets = BinanceSocketManager(client, max_queue_size=10_000)
    manager = DepthCacheManager(client, task.symbol, bm=sockets, limit=5000, ws_interval=100, conv_type=str)
    async with manager as stream:
        while (manager._last_update_id or 0) < task.final_update_id:
            patience.check(manager._last_update_id)
            # A lost connection is reported as a message of its own kind; the socket comes back by itself.
            await asyncio.wait_for(stream.recv(), task.seconds)
        cache = manager.get_depth_cache()
        finish(manager._last_update_id, cache._bids.items(), cache._asks.items())


asyncio.run(main())
