"""python-binance: `depth_socket` (spot) or `futures_multiplex_socket` (USD-M) and `get_order_book`.

Addresses are class attributes of the client and of its socket manager; there is no argument for them.
"""

import asyncio

from binance import AsyncClient, BinanceSocketManager
from documented import DocumentedBook
from task import Patience, finish, read_task


async def main():
    task = read_task()
    patience = Patience(task)
    AsyncClient.API_URL, AsyncClient.FUTURES_URL = f"{task.http}/api", f"{task.http}/fapi"
    BinanceSocketManager.STREAM_URL = BinanceSocketManager.FSTREAM_URL = f"{task.websocket}/"
    client = await AsyncClient.create()
    manager = BinanceSocketManager(client, max_queue_size=10_000)
    spot = task.market == "spot"
    socket = (
        manager.depth_socket(task.symbol, interval=100)
        if spot
        else manager.futures_multiplex_socket([task.stream], category="public")
    )
    book = DocumentedBook(task.market)
    async with socket as stream:
        while book.last_update_id is None or book.last_update_id < task.final_update_id:
            patience.check(book.last_update_id)
            message = await asyncio.wait_for(stream.recv(), task.seconds)
            if message.get("e") == "error":
                continue  # a lost connection is reported as a message; the socket comes back by itself
            book.event(message if spot else message["data"])
            if book.needs_snapshot:
                ask = client.get_order_book if spot else client.futures_order_book
                book.snapshot(await ask(symbol=task.symbol, limit=1000))
    finish(book.last_update_id, book.bids.items(), book.asks.items())


asyncio.run(main())
