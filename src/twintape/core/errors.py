"""Every error twintape raises, grouped by what the one who catches it does.

* `TwintapeError` – base; `hint` says what to do next.

  * `ConfigError` (also a `ValueError`) – fix the command line or the configuration; exit code 2.
  * `WireError` – a frame is not what its shape promised; keep it verbatim, count it, go on.
  * `CorruptionError` – bytes at rest are damaged; set them aside, never retry, never delete.
  * `ContinuityError` – the caller demanded a range without gaps, and there is one.
  * `StoreError` – the object store failed; `retryable` says whether trying again may help.

    * `NotFoundError` (also a `LookupError`) – the key does not exist.
    * `AlreadyExistsError` – a create-only put met an object that is provably somebody else's.
    * `NotSupportedError` – the store does not know requests of this kind, and never will.

  * `RefusedError` – an unsafe request was declined; exit code 3.

A torn tail of a file is a result, not an error.
"""

from __future__ import annotations

__all__ = [
    "AlreadyExistsError",
    "ConfigError",
    "ContinuityError",
    "CorruptionError",
    "NotFoundError",
    "NotSupportedError",
    "RefusedError",
    "StoreError",
    "TwintapeError",
    "WireError",
]


class TwintapeError(Exception):
    """Base of all errors of this package.

    Args:
        message: Facts first, lower case, with both numbers where two disagree.
        hint: What the reader can do about it, or None.
    """

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint

    def __str__(self) -> str:
        message = super().__str__()
        return f"{message} ({self.hint})" if self.hint else message


class ConfigError(TwintapeError, ValueError):
    """The command line or the configuration is wrong."""


class WireError(TwintapeError):
    """A frame cannot be decoded; the frame itself is kept."""


class CorruptionError(TwintapeError):
    """Stored bytes are not what they claim to be."""


class ContinuityError(TwintapeError):
    """A range that had to be without gaps has one."""


class StoreError(TwintapeError):
    """The object store failed.

    Args:
        message: What was asked of which key and what came back.
        retryable: Whether the same request may succeed later.
        hint: What the reader can do about it, or None.
    """

    def __init__(self, message: str, *, retryable: bool = False, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.retryable = retryable


class NotFoundError(StoreError, LookupError):
    """There is no object under the key."""


class AlreadyExistsError(StoreError):
    """A create-only put found an object with other content under its key."""


class NotSupportedError(StoreError):
    """The store does not know requests of this kind; asking again does not help."""


class RefusedError(TwintapeError):
    """An unsafe request was declined."""
