"""The official SDKs binance-sdk-spot and binance-sdk-derivatives-trading-usds-futures: depth streams and snapshots.

Both addresses are part of the configuration.
"""

import asyncio

from binance_common.configuration import ConfigurationRestAPI, ConfigurationWebSocketStreams
from documented import DocumentedBook
from task import Patience, finish, read_task


def event_of(message):
    return {
        "U": message.U,
        "u": message.u,
        "pu": getattr(message, "pu", None),
        "b": message.b,
        "a": message.a,
    }


async def main():
    task = read_task()
    patience = Patience(task)
    rest = ConfigurationRestAPI(api_key="", api_secret="", base_path=task.http, timeout=10_000)
    streams = ConfigurationWebSocketStreams(stream_url=task.websocket, reconnect_delay=200)
    if task.market == "spot":
        from binance_sdk_spot.spot import Spot

        client = Spot(config_rest_api=rest, config_ws_streams=streams)
        ask = client.rest_api.depth
    else:
        from binance_sdk_derivatives_trading_usds_futures.derivatives_trading_usds_futures import DerivativesTradingUsdsFutures

        client = DerivativesTradingUsdsFutures(config_rest_api=rest, config_ws_streams=streams)
        ask = client.rest_api.order_book
    events = asyncio.Queue()
    connection = await client.websocket_streams.create_connection()
    subscribe = connection.diff_book_depth if task.market == "spot" else connection.diff_book_depth_streams
    handle = await subscribe(symbol=task.symbol.lower(), update_speed=task.interval)
    handle.on("message", lambda message: events.put_nowait(event_of(message)))
    book = DocumentedBook(task.market)
    while book.last_update_id is None or book.last_update_id < task.final_update_id:
        patience.check(book.last_update_id)
        book.event(await asyncio.wait_for(events.get(), task.seconds))
        if book.needs_snapshot:
            answer = (await asyncio.to_thread(ask, symbol=task.symbol, limit=1000)).data()
            book.snapshot({"lastUpdateId": answer.last_update_id, "bids": answer.bids, "asks": answer.asks})
    finish(book.last_update_id, book.bids.items(), book.asks.items())


asyncio.run(main())
