"""unicorn-binance-websocket-api: a depth stream, with snapshots by unicorn-binance-rest-api.

The websocket address is an argument. REST addresses are attributes that the manager sets by its exchange's name; they are
set again on the instance.
"""

import json

from documented import DocumentedBook
from task import Patience, finish, read_task
from unicorn_binance_rest_api import BinanceRestApiManager
from unicorn_binance_websocket_api import BinanceWebSocketApiManager

task = read_task()
patience = Patience(task)
spot = task.market == "spot"
exchange = "binance.com" if spot else "binance.com-futures"
rest = BinanceRestApiManager(exchange=exchange, warn_on_update=False, disable_colorama=True)
rest.API_URL, rest.FUTURES_URL = f"{task.http}/api", f"{task.http}/fapi"
websocket = BinanceWebSocketApiManager(
    exchange=exchange, websocket_base_uri=f"{task.websocket}/", warn_on_update=False, disable_colorama=True
)
websocket.create_stream([task.stream.partition("@")[2]], [task.symbol.lower()])
book = DocumentedBook(task.market)
while book.last_update_id is None or book.last_update_id < task.final_update_id:
    patience.check(book.last_update_id)
    message = websocket.pop_stream_data_from_stream_buffer()
    if not message:
        continue
    frame = json.loads(message)
    if "data" not in frame:
        continue  # the answer to a subscription
    book.event(frame["data"])
    if book.needs_snapshot:
        ask = rest.get_order_book if spot else rest.futures_order_book
        book.snapshot(ask(symbol=task.symbol, limit=1000))
finish(book.last_update_id, book.bids.items(), book.asks.items())
