"""How the compiled kernels are compiled: once, cached on disk, without the interpreter lock."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, cast

import numba

__all__ = ["kernel"]

F = TypeVar("F", bound=Callable[..., object])


def kernel(function: F) -> F:
    """Compile a module-level function of primitive arguments and arrays; it must not be a closure, or it would not be cached."""
    return cast("F", numba.njit(cache=True, nogil=True)(function))
