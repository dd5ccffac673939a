"""cryptofeed: `L2_BOOK` of `Binance` and `BinanceFutures`.

Endpoints are class attributes of the exchanges; there is no argument for them. cryptofeed refuses `ws://`: it needs the exchange
on TLS, and finds the test authority by `SSL_CERT_FILE` and, for its list of symbols, `REQUESTS_CA_BUNDLE`.
"""

from cryptofeed import FeedHandler
from cryptofeed.connection import RestEndpoint, Routes, WebsocketEndpoint
from cryptofeed.defines import L2_BOOK
from cryptofeed.exchanges import Binance, BinanceFutures
from task import Patience, finish, read_task

task = read_task()
patience = Patience(task)
exchange, root = (Binance, "/api/v3") if task.market == "spot" else (BinanceFutures, "/fapi/v1")
exchange.websocket_endpoints = [WebsocketEndpoint(task.websocket)]
exchange.rest_endpoints = [
    RestEndpoint(task.http, routes=Routes(f"{root}/exchangeInfo", l2book=root + "/depth?symbol={}&limit={}"))
]


async def on_book(book, receipt_timestamp):
    patience.check(book.sequence_number)
    if book.sequence_number >= task.final_update_id:
        sides = book.book.to_dict()
        finish(book.sequence_number, sides["bid"].items(), sides["ask"].items())


symbol = f"{task.base}-{task.quote}" + ("" if task.market == "spot" else "-PERP")
handler = FeedHandler(config={"uvloop": False, "log": {"filename": "/dev/stderr", "level": "WARNING", "disabled": False}})
handler.add_feed(
    exchange(
        symbols=[symbol],
        channels=[L2_BOOK],
        callbacks={L2_BOOK: on_book},
        depth_interval=task.interval,
    )
)
handler.run()
