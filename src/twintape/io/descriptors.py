"""File descriptors: as many as the system allows, and some kept back for the files that are being recorded.

A process without free descriptors can make no new segment and loses what it cannot hold in memory. So new connections stop first.
"""

from __future__ import annotations

import os
import resource
from contextlib import suppress

__all__ = ["RESERVE", "descriptors_in_use", "descriptors_left", "may_connect", "raise_limit"]

RESERVE = 64
"""Kept for segments (three while one is made), uploads and REST."""
UNLIMITED = 1 << 30

_OPEN = next((path for path in ("/proc/self/fd", "/dev/fd") if os.path.isdir(path)), None)


def raise_limit() -> int:
    """Raise the soft limit to the hard one where allowed, and return the limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with suppress(OSError, ValueError):  # macOS calls its hard limit unlimited and refuses it
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return _limit()


def _limit() -> int:
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return UNLIMITED if soft == resource.RLIM_INFINITY else soft


def descriptors_in_use() -> int:
    """Return how many descriptors are open; 0 where the system does not say."""
    if _OPEN is None:
        return 0
    try:
        return len(os.listdir(_OPEN))
    except OSError:  # there is none left to look with
        return _limit()


def descriptors_left() -> int:
    """Return how many more can be opened."""
    return max(0, _limit() - descriptors_in_use())


def may_connect() -> bool:
    """Return whether a new connection leaves the reserve alone."""
    return descriptors_left() > RESERVE
