"""unicorn-binance-websocket-api: a depth stream, with snapshots by unicorn-binance-rest-api.

The websocket address is an argument. REST addresses are class attributes, which the manager keeps if it is told a top-level domain
rather than an exchange; it asks for the time while it is made, so that they cannot be set afterwards.
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
BinanceRestApiManager.API_URL, BinanceRestApiManager.FUTURES_URL = f"{task.http}/api", f"{task.http}/fapi"
rest = BinanceRestApiManager(tld="com", warn_on_update=False, disable_colorama=True)
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
