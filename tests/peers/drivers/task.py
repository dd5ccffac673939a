"""What a driver is asked to do and what it hands back; runs inside a peer's own environment, with the standard library alone."""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NoReturn


@dataclass(frozen=True)
class Task:
    """One symbol to follow.

    Attributes:
        market: `spot`, `usdm` or `coinm`.
        symbol: As in payloads: `BTCUSDT`.
        base: The symbol's base asset.
        quote: Its quote asset.
        stream: The depth stream there is: `btcusdt@depth@100ms`.
        host: `127.0.0.1:<port>` of the exchange, which serves this market alone.
        secure: Whether it speaks TLS; its authority is then in the file that `SSL_CERT_FILE` and `REQUESTS_CA_BUNDLE` name.
        final_update_id: The last event of the stream ends here.
        seconds: So long the driver may take.
    """

    market: str
    symbol: str
    base: str
    quote: str
    stream: str
    host: str
    secure: bool
    final_update_id: int
    seconds: float

    @property
    def http(self) -> str:
        """The exchange's REST address, without a slash at the end."""
        return f"http{'s' if self.secure else ''}://{self.host}"

    @property
    def websocket(self) -> str:
        """The exchange's websocket address, without a slash at the end."""
        return f"ws{'s' if self.secure else ''}://{self.host}"

    @property
    def interval(self) -> str:
        """What stands behind `@depth@` in the stream: `100ms`, `0ms`."""
        return self.stream.rpartition("@")[2]


def read_task() -> Task:
    """Return the task this driver was started with."""
    logging.basicConfig(
        stream=sys.stderr, level=os.environ.get("PEER_LOG", "WARNING"), format="%(name)s %(levelname)s %(message)s"
    )
    return Task(**json.loads(sys.argv[1]))


class Patience:
    """Ends a driver that waits for too long."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._deadline = time.monotonic() + task.seconds

    def check(self, last_update_id: int | None) -> None:
        """Stop the driver if its time is over."""
        if time.monotonic() > self._deadline:
            raise SystemExit(f"at id {last_update_id} of {self._task.final_update_id} after {self._task.seconds:.0f} s")


def finish(last_update_id: int, bids: Iterable[tuple[object, object]], asks: Iterable[tuple[object, object]]) -> NoReturn:
    """Hand back the client's book, levels in any order and numbers as the client prints them, and leave at once.

    Clients leave threads and tasks behind that nobody needs to wait for.
    """
    book = {
        "last_update_id": last_update_id,
        "bids": [[str(price), str(quantity)] for price, quantity in bids],
        "asks": [[str(price), str(quantity)] for price, quantity in asks],
    }
    print(json.dumps(book), flush=True)
    sys.stderr.flush()
    os._exit(0)
