"""Memory of a process that goes through gigabytes in pieces of a megabyte: the C library's allocator and Python's garbage collector."""

from __future__ import annotations

import ctypes
import gc
import os

__all__ = ["collect_rarely", "keep_freed_memory", "use_small_pages"]

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
MAPPED_BYTES_MIN = 16 << 20
"""Larger pieces are given back to the system as soon as they are freed."""
KEPT_BYTES_MAX = 128 << 20
"""Freed memory that is kept, at most, at the end of the heap."""


COLLECTION_OBJECTS = 200_000
"""New objects between two collections; Python's own 700 make it walk all the indexes of a day again and again."""


def collect_rarely() -> None:
    """Look for cycles of garbage rarely, and never among what is there already."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(COLLECTION_OBJECTS, 50, 50)


def use_small_pages() -> None:
    """Have numpy ask for no huge pages, unless the environment says so; to be called before numpy is imported, which looks at it then.

    A merge's arrays are written once and read once or twice, and are often longer than what is used of them: a page of two megabytes has to be found,
    moved together and cleared whole. Processes started from here do likewise.

    Source: numpy's reference, global configuration options, `NUMPY_MADVISE_HUGEPAGE`.
    """
    os.environ.setdefault("NUMPY_MADVISE_HUGEPAGE", "0")


def keep_freed_memory() -> bool:
    """Have freed memory used again instead of returned to the system.

    Otherwise each decompressed block is memory the kernel has to clear first: that costs twice what decompressing does. Arrow's own allocator gives memory
    back as well; it is told to use the C library's (of a merge's CPU time that saves a tenth).

    Returns:
        Whether the C library is one that can be told (glibc).
    """
    import pyarrow as pa  # here, because the collector has no use for it

    pa.set_memory_pool(pa.system_memory_pool())
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_option is None:
        return False
    return all(
        set_option(option, size) for option, size in ((_MMAP_THRESHOLD, MAPPED_BYTES_MIN), (_TRIM_THRESHOLD, KEPT_BYTES_MAX))
    )
