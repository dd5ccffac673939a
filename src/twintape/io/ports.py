"""The seams between the runners and the world: everything that can fail, wait or surprise, as protocols.

Runners (collector, merge, prune, archive, server) take these as arguments and use nothing else of the operating system, so that
the whole system can run on a virtual clock, a simulated disk and a faulty store. Real adapters live in `io.store`, `io.disk`,
`io.dialer` and `io.rest`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, runtime_checkable

__all__ = [
    "Clock",
    "ClockQuality",
    "Dialer",
    "Disk",
    "DiskFile",
    "Executor",
    "Journal",
    "ObjectInfo",
    "Rest",
    "RestAnswer",
    "Socket",
    "SocketListener",
    "Store",
]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ClockQuality:
    """What is known of the wall clock's error at one moment.

    Attributes:
        offset_ns: Estimated true time minus wall time, or None if nobody knows.
        error_ns: Bound of the estimate's error, or None.
        source: Who says so: `adjtimex`, `chrony`, `none`, …
    """

    offset_ns: int | None
    error_ns: int | None
    source: str


class Clock(Protocol):
    """Wall time, monotonic time and waiting."""

    def wall_ns(self) -> int:
        """Return nanoseconds since 1970 (UTC); may jump."""

    def monotonic_ns(self) -> int:
        """Return nanoseconds that never step back; the zero is arbitrary."""

    def quality(self) -> ClockQuality:
        """Return what is known about the wall clock's error now."""

    async def sleep(self, seconds: float) -> None:
        """Wait for `seconds` of monotonic time."""


class SocketListener(Protocol):
    """Who is told what happens on one websocket; called in order, in the event loop, and must not block."""

    def on_frame(self, opcode: int, payload: bytes) -> None:
        """Take one whole data frame (opcode 1 text, 2 binary), verbatim and decompressed."""

    def on_ping(self, payload: bytes) -> None:
        """Take a ping; the listener answers with `Socket.pong`."""

    def on_pong(self, payload: bytes) -> None:
        """Take a pong."""

    def on_closed(self, code: int | None, reason: str) -> None:
        """Take the end, exactly once: `code` is the websocket close code, None for a bare end of TCP."""


class Socket(Protocol):
    """One open websocket. Sending never blocks; after the end it does nothing."""

    def send_text(self, text: bytes) -> None:
        """Send one text frame."""

    def ping(self, payload: bytes) -> None:
        """Send a ping."""

    def pong(self, payload: bytes) -> None:
        """Send a pong that echoes `payload`."""

    def pause(self) -> None:
        """Stop reading, so that TCP slows the sender down; what was read already may still be delivered."""

    def resume(self) -> None:
        """Read again."""

    def close(self) -> None:
        """Start the closing handshake and give up after a short time; `on_closed` follows."""

    def abort(self) -> None:
        """Cut the connection at once; `on_closed` follows."""


class Dialer(Protocol):
    """Opens websockets."""

    async def dial(self, url: str, listener: SocketListener, *, timeout_s: float) -> Socket:
        """Open `url` and deliver everything to `listener`, but nothing before this has returned.

        Raises:
            OSError: The connection could not be made (DNS, refused, TLS, handshake, timeout); the text says which.
        """


@dataclass(frozen=True, slots=True)
class RestAnswer:
    """One HTTP answer. `headers` have lower-case names; `body` is verbatim."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    request_time_ns: int
    response_time_ns: int


class Rest(Protocol):
    """One HTTP GET, no retries, no redirects to other hosts."""

    async def get(self, url: str, *, timeout_s: float) -> RestAnswer:
        """Return whatever the server answers, whatever its status.

        Raises:
            OSError: There was no answer.
        """


class DiskFile(Protocol):
    """One file open for appending."""

    def write(self, data: bytes) -> int:
        """Append all of `data` and return the file's new length.

        Raises:
            OSError: The write failed; how much of it is in the file is unknown.
        """

    def sync(self) -> None:
        """Make everything written so far survive a power loss.

        Raises:
            OSError: It failed. The file must not be trusted, nor synced again: the kernel may have dropped the dirty pages.
        """

    def close(self) -> None:
        """Close the file; does not sync."""


class Disk(Protocol):
    """A directory tree. Paths are relative to its root, with `/`; nothing outside the root can be named."""

    def append(self, path: str) -> DiskFile:
        """Create `path` (it must not exist) with its parents, sync the directory entry, and open it for appending."""

    def read(self, path: str, offset: int = 0, size: int | None = None) -> bytes:
        """Return `size` bytes from `offset` (to the end if None).

        Raises:
            FileNotFoundError: There is no such file.
        """

    def write_atomically(self, path: str, data: bytes) -> None:
        """Make `path` hold `data`, durably and all or nothing: temporary file, sync, rename, sync of the directory."""

    def rename(self, source: str, target: str) -> None:
        """Move a file and sync both directories."""

    def remove(self, path: str) -> None:
        """Delete a file and sync its directory.

        Raises:
            FileNotFoundError: There is no such file.
        """

    def list(self, prefix: str = "") -> list[str]:
        """Return the paths of all files under the directory `prefix`, sorted; empty if it does not exist."""

    def size(self, path: str) -> int:
        """Return the file's length in bytes."""

    def free_bytes(self) -> int:
        """Return how many bytes can still be written."""

    def lock(self, path: str) -> bool:
        """Take an exclusive lock for the life of the process; False if another process holds it."""


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """One object as the store describes it. `modified_ns` is by the store's clock."""

    key: str
    size: int
    modified_ns: int


class Store(Protocol):
    """An object store. LIST may omit or repeat keys; everything else is read-after-write.

    Every method may raise `StoreError` (with `retryable`). Missing objects raise `NotFoundError`.
    """

    @property
    def url(self) -> str:
        """The store's address, without credentials."""

    async def create(self, key: str, data: bytes) -> None:
        """Put `data` under `key` unless an object is there, and return only when it is durable.

        An "already exists" answer, or none at all, is decided by reading the object back: equal bytes are success.

        Raises:
            AlreadyExistsError: Another content is there.
            StoreError: The outcome is unknown or the put failed.
        """

    async def get(self, key: str) -> bytes:
        """Return the whole object."""

    async def get_range(self, key: str, start: int, size: int) -> bytes:
        """Return up to `size` bytes from `start`; a negative `start` counts from the end."""

    async def head(self, key: str) -> ObjectInfo:
        """Return the object's size and time."""

    def list(self, prefix: str) -> AsyncIterator[ObjectInfo]:
        """Yield the objects whose key starts with `prefix`, in no promised order."""

    async def delete(self, key: str) -> None:
        """Delete the object; deleting an absent one is no error. The caller asks `head` whether it is gone."""


@runtime_checkable
class LocalStore(Protocol):
    """A store whose objects are files of this machine."""

    def local_path(self, key: str) -> str:
        """Return the absolute path of the file that holds an object, now or once it is there."""


class Executor(Protocol):
    """Runs pure functions somewhere else: in this process, in a pool of processes, on a cluster."""

    async def run(self, function: Callable[..., T], *arguments: Any) -> T:
        """Return `function(*arguments)`; both ends must be picklable module-level things.

        Raises:
            Exception: Whatever `function` raised.
        """

    def close(self) -> None:
        """Stop the workers; unfinished work is abandoned."""


class Journal(Protocol):
    """Takes log lines: a fixed event name and fields."""

    def info(self, event: str, **fields: Any) -> Any:
        """Take something normal."""

    def warning(self, event: str, **fields: Any) -> Any:
        """Take something somebody should know."""

    def error(self, event: str, **fields: Any) -> Any:
        """Take something somebody should act on."""
