"""ccxt pro: `watch_order_book` with the market list, the streams and the snapshots of the exchange.

Addresses are entries of `urls`. ccxt tells spot from futures by "/stream" in the websocket address; not every machine resolves
`stream.localhost`, therefore it is the name of a stream there never is: `/ws/stream/0`, where ccxt would ask for `/ws/0`.
"""

import asyncio

import ccxt.pro
from ccxt.base.errors import BaseError
from task import Patience, finish, read_task

IDS = {"spot": "binance", "usdm": "binanceusdm", "coinm": "binancecoinm"}
KINDS = {"spot": "spot", "usdm": "linear", "coinm": "inverse"}


async def main():
    task = read_task()
    patience = Patience(task)
    exchange = getattr(ccxt.pro, IDS[task.market])()
    exchange.options["fetchMarkets"] = {"types": [KINDS[task.market]]}
    exchange.options["watchOrderBookRate"] = task.interval.removesuffix("ms")
    api = exchange.urls["api"]
    for name, path in {"public": "api/v3", "fapiPublic": "fapi/v1", "dapiPublic": "dapi/v1"}.items():
        api[name] = f"{task.http}/{path}"
    api["ws"] = {"spot": f"{task.websocket}/ws/stream", "linear": f"{task.websocket}/ws", "inverse": f"{task.websocket}/ws"}
    symbol = {"spot": "{0}/{1}", "usdm": "{0}/{1}:{1}", "coinm": "{0}/{1}:{0}"}[task.market].format(task.base, task.quote)
    book = None
    while book is None or book["nonce"] < task.final_update_id:
        patience.check(book and book["nonce"])
        try:
            book = await asyncio.wait_for(exchange.watch_order_book(symbol), task.seconds)
        except BaseError as error:
            # A gap or a lost connection is an error of the call; the next call subscribes and asks for a snapshot again.
            exchange.log(f"{type(error).__name__}: {error}")
            await asyncio.sleep(0.1)
    finish(book["nonce"], book["bids"], book["asks"])


asyncio.run(main())
