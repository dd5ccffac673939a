"""NautilusTrader: its Binance data client in a trading node, and the order book its data engine keeps in the cache.

Both addresses are part of the configuration. Keys are made up: the market list asks for the account's fees.
"""

from nautilus_trader.adapters.binance import BINANCE, BinanceAccountType, BinanceDataClientConfig, BinanceLiveDataClientFactory
from nautilus_trader.common.actor import Actor
from nautilus_trader.config import InstrumentProviderConfig, LoggingConfig, TradingNodeConfig
from nautilus_trader.live.node import TradingNode
from nautilus_trader.model.enums import BookType
from nautilus_trader.model.identifiers import InstrumentId, TraderId
from task import Patience, finish, read_task

task = read_task()
patience = Patience(task)
instrument_id = InstrumentId.from_str(f"{task.symbol}{'' if task.market == 'spot' else '-PERP'}.BINANCE")


class Follower(Actor):
    def on_start(self):
        if self.cache.instrument(instrument_id) is None:
            raise SystemExit(f"the list of symbols gave no {instrument_id}")
        self.subscribe_order_book_deltas(
            instrument_id,
            book_type=BookType.L2_MBP,
            params={"update_speed": int(task.interval.removesuffix("ms"))},
        )

    def on_order_book_deltas(self, deltas):
        book = self.cache.order_book(instrument_id)
        patience.check(book.sequence)
        if book.sequence >= task.final_update_id:
            # A level's own size is a float; that of its one order is exact.
            sides = [
                [(level.price, order.size) for level in side for order in level.orders()] for side in (book.bids(), book.asks())
            ]
            finish(book.sequence, *sides)


node = TradingNode(
    TradingNodeConfig(
        trader_id=TraderId("PEER-001"),
        logging=LoggingConfig(log_level="WARNING", log_colors=False, bypass_logging=False),
        data_clients={
            BINANCE: BinanceDataClientConfig(
                api_key="key",
                api_secret="secret",
                account_type=BinanceAccountType.SPOT if task.market == "spot" else BinanceAccountType.USDT_FUTURES,
                base_url_http=task.http,
                base_url_ws=task.websocket,
                instrument_provider=InstrumentProviderConfig(load_ids=frozenset([instrument_id])),
            )
        },
        timeout_connection=task.seconds,
    )
)
node.trader.add_actor(Follower())
node.add_data_client_factory(BINANCE, BinanceLiveDataClientFactory)
node.build()
node.run()
