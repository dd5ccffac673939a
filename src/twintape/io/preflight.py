"""Finds out what `core.preflight` wants to know of machine, store and exchange. Leaves nothing behind."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

from twintape.core.errors import TwintapeError
from twintape.core.markets import stream_url
from twintape.core.preflight import Facts
from twintape.core.settings import RecordSettings
from twintape.io.clock import SystemClock, ask_chrony
from twintape.io.descriptors import raise_limit
from twintape.io.ports import Dialer, Store

__all__ = ["gather"]

DIAL_TIMEOUT_S = 10.0
STORE_TIMEOUT_S = 30.0
DAY_NS = 86_400 * 1_000_000_000
HOUR_NS = 3600 * 1_000_000_000
OBJECTS_MAX = 100_000
"""So many objects of a day are looked at; a day of 45-second segments on fifty connections has as many."""


async def gather(settings: RecordSettings, *, clock: SystemClock, dialer: Dialer, open_store: Callable[[str], Store]) -> Facts:
    """Return the facts; what cannot be found out is said as such, and nothing raises but a store's address that is none.

    Raises:
        ConfigError: The store's address cannot be used.
    """
    chronyc = shutil.which("chronyc")
    clock.heard_of(None if chronyc is None else await ask_chrony(chronyc))
    quality = clock.quality()
    store_error, uploaded_ns, rate = await _ask_store(settings, open_store, clock.wall_ns())
    return Facts(
        descriptors=raise_limit(),
        spool_free_bytes=_room(Path(settings.spool)),
        spool_collector=_owner(Path(settings.spool)),
        clock_offset_ns=quality.offset_ns,
        clock_error_ns=quality.error_ns,
        clock_source=quality.source,
        store_error=store_error,
        uploaded_ns=uploaded_ns,
        now_ns=clock.wall_ns(),
        bytes_per_hour=rate,
        exchange_errors=await _try_exchange(settings, dialer),
    )


def _room(spool: Path) -> int | None:
    """Return what the spool may come to occupy on its volume, or None if nothing can be written there."""
    place = next((path for path in (spool, *spool.absolute().parents) if path.exists()), None)
    try:
        with tempfile.TemporaryFile(dir=place):
            free = shutil.disk_usage(place or "/").free
    except OSError:
        return None
    own = sum(path.stat().st_size for path in spool.rglob("*") if path.is_file()) if spool.is_dir() else 0
    return free + own


def _owner(spool: Path) -> str | None:
    """Return whose spool it is by the record of its chain, or None if it has none."""
    for path in sorted(spool.glob("*/chain.json")):
        try:
            said = json.loads(path.read_bytes())
        except (OSError, ValueError):
            continue
        if isinstance(said, dict) and isinstance(said.get("collector"), str):
            return str(said["collector"])
    return None


async def _ask_store(
    settings: RecordSettings, open_store: Callable[[str], Store], now_ns: int
) -> tuple[str, int | None, float | None]:
    """Return why it does not answer, when our last object was put, and how many bytes an hour went there in the last day."""
    if _to_be_made(settings.store):
        return "", None, None
    store = open_store(settings.store)
    newest_ns, size, oldest_ns = None, 0, now_ns
    try:
        async with asyncio.timeout(STORE_TIMEOUT_S):
            count = 0
            for prefix in _recent(settings, now_ns):
                async for info in store.list(prefix):
                    count += 1
                    if count > OBJECTS_MAX:
                        break
                    if info.modified_ns > now_ns - DAY_NS:
                        size += info.size
                        newest_ns, oldest_ns = max(newest_ns or 0, info.modified_ns), min(oldest_ns, info.modified_ns)
    except TimeoutError:
        return f"no answer in {STORE_TIMEOUT_S:.0f} seconds", None, None
    except (TwintapeError, OSError) as error:
        return str(error), None, None
    hours = (now_ns - oldest_ns) / HOUR_NS
    return "", newest_ns, size / hours if hours >= 1 else None


def _to_be_made(url: str) -> bool:
    """Return whether it is a directory that is not there: recording makes it."""
    local = url.startswith("file://") or "://" not in url
    return local and not os.path.exists(url.removeprefix("file://"))


def _recent(settings: RecordSettings, now_ns: int) -> list[str]:
    dates = [datetime.fromtimestamp(time_ns / 1e9, UTC).date().isoformat() for time_ns in (now_ns - DAY_NS, now_ns)]
    return [f"raw/v1/{settings.collector}/{entry.market}/{date}/" for entry in settings.markets for date in dates]


class _Deaf:
    """A listener that does not listen."""

    def on_frame(self, opcode: int, payload: bytes) -> None: ...

    def on_ping(self, payload: bytes) -> None: ...

    def on_pong(self, payload: bytes) -> None: ...

    def on_closed(self, code: int | None, reason: str) -> None: ...


async def _try_exchange(settings: RecordSettings, dialer: Dialer) -> dict[str, str]:
    """Open one websocket for each market and close it again; return what went wrong, by address."""
    errors: dict[str, str] = {}

    async def attempt(url: str) -> None:
        try:
            socket = await dialer.dial(url, _Deaf(), timeout_s=DIAL_TIMEOUT_S)
        except OSError as error:
            errors[urlsplit(url).netloc] = str(error)
        else:
            socket.close()

    await asyncio.gather(*(attempt(stream_url(entry.market, base=entry.websocket)) for entry in settings.markets))
    return errors
