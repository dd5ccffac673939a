"""What one front-end of the pretended exchange does differently from another: other clocks, other windows, outages.

Every gateway hears the same source. Real gateways normally pass the same events on, stamp spot events with their own `E`, and now
and then cut them into other windows; `conflict` and `net` do what Binance has never been seen to do.
"""

from __future__ import annotations

import random
import re
import zlib
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from twintape.core.errors import ConfigError

__all__ = ["Fault", "FaultKind", "GatewayOptions", "Partition", "Restamp", "parse_fault", "parse_gateway"]

_TIME = re.compile(rb'"([ET])":(\d{13})(?!\d)')


class Partition(StrEnum):
    """How a gateway cuts the exchange's changes into events.

    `identical`: as the source does. `shifted`: always elsewhere. `split`: elsewhere now and then. `net`: as `shifted`, and levels that end
    as they began are left out, which no merge by ids survives. `conflict`: as the source does, but now and then a quantity is wrong.
    """

    IDENTICAL = "identical"
    SHIFTED = "shifted"
    SPLIT = "split"
    NET = "net"
    CONFLICT = "conflict"


class FaultKind(StrEnum):
    """What happens to a gateway.

    `fin`, `rst`, `1001`: connections end by a bare TCP close, a reset, a close frame, and new ones are refused. `stall`: connections
    stay open and silent for ever, and new ones hang. `shutdown`: every connection is told `serverShutdown` and closed at the end.
    `drain`, `mute`, `lag` leave new connections alone: those there are get `serverShutdown` and are closed at the end; hear nothing of their
    first stream; get everything at half the pace. `ban`, `unavailable`, `wrong`, `stale`: REST answers 418, 503, a snapshot with a wrong
    quantity, or the book as it was when the fault began.
    """

    FIN = "fin"
    RST = "rst"
    GOING_AWAY = "1001"
    STALL = "stall"
    SHUTDOWN = "shutdown"
    DRAIN = "drain"
    MUTE = "mute"
    LAG = "lag"
    BAN = "ban"
    UNAVAILABLE = "unavailable"
    WRONG = "wrong"
    STALE = "stale"


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault of one gateway, while the position in the source is in `[start, stop)`; both are fractions of its length.

    With `start == stop` connections are cut once and may come back at once.
    """

    kind: FaultKind
    gateway: int
    start: float
    stop: float


def parse_fault(text: str) -> Fault:
    """Read a fault as the command line spells it: `kind:gateway:start-stop`.

    >>> parse_fault("fin:0:0.25-0.5")
    Fault(kind=<FaultKind.FIN: 'fin'>, gateway=0, start=0.25, stop=0.5)

    Raises:
        ConfigError: It is not spelled so.
    """
    try:
        kind, gateway, window = text.split(":")
        start, _, stop = window.partition("-")
        fault = Fault(FaultKind(kind), int(gateway), float(start), float(stop or start))
    except ValueError as error:
        raise ConfigError(
            f"not a fault: {text!r} ({error})", hint="write kind:gateway:start-stop, such as fin:0:0.25-0.5"
        ) from error
    if not 0 <= fault.start <= fault.stop <= 1 or fault.gateway < 0:
        raise ConfigError(f"fault {text!r} is not within 0-1 of the source")
    return fault


@dataclass(frozen=True, slots=True)
class GatewayOptions:
    """One front-end.

    Attributes:
        port: TCP port, 0 for any.
        partition: How events are cut.
        partition_rate: How often `split` and `conflict` differ from the source, per event.
        event_time_jitter_us: Events are stamped up to so much later, by connection; milliseconds change where they tick over. Binance is known to do so on spot only.
        rest_lag_s: REST answers are so much behind, in the source's time.
        acknowledge_delay_s: Answers to SUBSCRIBE come so much behind the subscription.
        seed: Of everything random here.
    """

    port: int = 0
    partition: Partition = Partition.IDENTICAL
    partition_rate: float = 0.05
    event_time_jitter_us: int = 0
    rest_lag_s: float = 0.0
    acknowledge_delay_s: float = 0.0
    seed: int = 0


_OPTIONS = {
    "port": ("port", int),
    "partition": ("partition", Partition),
    "rate": ("partition_rate", float),
    "jitter-us": ("event_time_jitter_us", int),
    "rest-lag-s": ("rest_lag_s", float),
    "ack-delay-s": ("acknowledge_delay_s", float),
    "seed": ("seed", int),
}


def parse_gateway(text: str) -> GatewayOptions:
    """Read a gateway as the command line spells it: `key=value` joined by commas.

    >>> parse_gateway("partition=split,rate=0.1,jitter-us=40").partition_rate
    0.1

    Raises:
        ConfigError: A key nobody knows or a value of the wrong kind.
    """
    values: dict[str, Any] = {}
    for item in filter(None, text.split(",")):
        key, _, value = item.partition("=")
        if key not in _OPTIONS:
            raise ConfigError(f"no gateway option {key!r}", hint="one of " + ", ".join(_OPTIONS))
        name, kind = _OPTIONS[key]
        try:
            values[name] = kind(value)
        except ValueError as error:
            raise ConfigError(f"gateway option {item!r}: {error}") from error
    return GatewayOptions(**values)


class Restamp:
    """Rewrites the times of frames for one connection.

    Args:
        seed: Of the connection.
        jitter_us: `E` grows by up to so much.
        microseconds: Print times in microseconds.
    """

    def __init__(self, seed: str, jitter_us: int, *, microseconds: bool) -> None:
        self._random = random.Random(seed)  # noqa: S311 - a reproducible simulation, not a secret
        self._jitter_us = jitter_us
        self._microseconds = microseconds

    def __call__(self, payload: bytes) -> bytes:
        """Return the frame as this connection gets it."""
        jitter_us = self._random.randint(0, self._jitter_us)
        # Where inside its millisecond something happened is not in the frame: it is made up, the same for every connection.
        phase_us = zlib.crc32(payload) % 1000

        def stamp(match: re.Match[bytes]) -> bytes:
            time_us = int(match[2]) * 1000 + phase_us + (jitter_us if match[1] == b"E" else 0)
            return b'"%b":%d' % (match[1], time_us if self._microseconds else time_us // 1000)

        return _TIME.sub(stamp, payload)
