"""binance-connector (spot) and binance-futures-connector (USD-M): depth streams and snapshots. Both addresses are arguments.

They answer pings with an empty payload, which the exchange does not count; a run of theirs ends before the first deadline.
"""

import json
import queue

from documented import DocumentedBook
from task import Patience, finish, read_task

task = read_task()
patience = Patience(task)
messages = queue.Queue()
milliseconds = int(task.interval.removesuffix("ms"))


def on_message(_, message):
    messages.put(json.loads(message))


if task.market == "spot":
    from binance.spot import Spot
    from binance.websocket.spot.websocket_stream import SpotWebsocketStreamClient

    rest = Spot(base_url=task.http)
    client = SpotWebsocketStreamClient(stream_url=task.websocket, on_message=on_message)
else:
    from binance.um_futures import UMFutures
    from binance.websocket.um_futures.websocket_client import UMFuturesWebsocketClient

    rest = UMFutures(base_url=task.http)
    client = UMFuturesWebsocketClient(stream_url=task.websocket, on_message=on_message)
client.diff_book_depth(symbol=task.symbol, speed=milliseconds)
book = DocumentedBook(task.market)
while book.last_update_id is None or book.last_update_id < task.final_update_id:
    patience.check(book.last_update_id)
    message = messages.get(timeout=task.seconds)
    if "result" in message:
        continue  # the answer to the subscription
    book.event(message)
    if book.needs_snapshot:
        book.snapshot(rest.depth(task.symbol, limit=1000))
finish(book.last_update_id, book.bids.items(), book.asks.items())
