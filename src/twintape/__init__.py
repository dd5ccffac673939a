"""twintape: record Binance order-book deltas on several machines; prove, merge and only then prune them.

`open` gives you the archive:

    import twintape

    archive = twintape.open("s3://bucket/prefix")
    for day in archive.days("spot", "BTCUSDT"):
        print(day.date, day.status, day.events)
    book = archive.book("spot", "BTCUSDT", "2026-11-22T09:30:00Z", depth=10)

Nothing heavy is loaded before it is used: the collector runs without numpy and pyarrow.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from twintape.io.archive import Archive

__all__ = ["__version__", "open"]

__version__ = "0.1.0"


def open(url: str, *, options: Mapping[str, str] | None = None) -> Archive:  # noqa: A001 - `twintape.open` reads as it should
    """Open an archive for reading.

    Args:
        url: A directory, `file://`, `s3://`, `gs://`, `az://` or `memory://`.
        options: Settings of the store that are not in the environment.

    Raises:
        ConfigError: The URL is none of these, or there is no such directory.
    """
    from twintape.io.archive import Archive
    from twintape.io.store import open_store

    return Archive(open_store(url, options=options, create=False))
