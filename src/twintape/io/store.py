"""Object stores: a directory, memory, and whatever `io.cloud` reaches.

A create-only put is the one operation everything rests on. Its answer can be lost, so "already exists" and silence are both decided the
same way: read the object back; equal bytes are success, other bytes belong to somebody else, anything else is unknown.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import itertools
import os
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import TypeVar
from urllib.parse import unquote, urlsplit

from twintape.core.errors import AlreadyExistsError, ConfigError, NotFoundError, StoreError
from twintape.io.disk import NearReader, Tree, check_path, full_sync
from twintape.io.ports import ObjectInfo, Store

__all__ = ["FileStore", "MemoryStore", "check_key", "check_prefix", "create_by_reading_back", "open_store"]

KEY_SIZE_MAX = 1024
"""The longest key S3 takes, in bytes."""

TEMPORARY_DIRECTORY = ".twintape-tmp"
"""Where a `FileStore` writes what is not an object yet; no key can name anything in it."""

LEFTOVER_S = 24 * 3600
"""A temporary file that is so much older than one written now, by the file system's clock, has no writer any more."""

T = TypeVar("T")


def open_store(url: str, *, options: Mapping[str, str] | None = None, create: bool = True, wait: bool = False) -> Store:
    """Open a store by its address.

    Args:
        url: `file:///path` or a bare path; `memory://` (a new empty one each time); `s3://bucket/prefix`. `gs://…` and `az://…` are
            handed to obstore as they are and have never been tried.
        options: Further settings of an `s3`, `gs` or `az` store, by obstore's names (`endpoint`, `region`, `access_key_id`, …). Where
            one is missing the environment counts (`AWS_*`, with `AWS_ENDPOINT_URL` and `AWS_ALLOW_HTTP`). Credentials belong here or
            there, never in `url`.
        create: Whether a directory that is missing is made. Who only reads, merges or prunes must not: a mistyped path would look like
            an empty store.
        wait: Whether reading from a directory may hold up the event loop; see `FileStore`.

    Raises:
        ConfigError: The address cannot be used, or there is no such directory.
    """
    scheme, separator, rest = url.partition("://")
    if not separator:
        return _directory_store(url, create=create, wait=wait)
    if scheme == "file":
        parts = urlsplit(url)
        if parts.netloc not in ("", "localhost") or not parts.path.startswith("/"):
            raise ConfigError("a file:// address needs an absolute path", hint="write file:///path/to/store")
        return _directory_store(unquote(parts.path), create=create, wait=wait)
    if scheme == "memory":
        return MemoryStore(url)
    if scheme in ("s3", "gs", "az"):
        from twintape.io.cloud import open_cloud_store  # here, because obstore takes 85 ms to import

        return open_cloud_store(scheme, rest, options or {})
    raise ConfigError(f"unknown kind of store {scheme!r}", hint="use file://, s3://, gs://, az:// or memory://")


def _directory_store(path: str, *, create: bool, wait: bool) -> Store:
    if not path:
        raise ConfigError("an empty address is no store")
    if not create and not os.path.exists(path):
        raise ConfigError(f"there is no store at {path}", hint="`twintape record` and `twintape import` make one")
    return FileStore(path, wait=wait)


def check_key(key: str) -> str:
    """Return `key` if every kind of store can hold it under this very name.

    Raises:
        StoreError: It is empty or too long, or has an empty part, `.`, `..`, a control character, or a name of our own.
    """
    try:
        first = check_path(key)[0]
        size = len(key.encode())
    except ValueError as error:
        raise StoreError(f"not a key: {key!r}: {error}") from error
    if size > KEY_SIZE_MAX or first == TEMPORARY_DIRECTORY or not key.isprintable():
        raise StoreError(f"not a key: {key[:200]!r}")
    return key


def check_prefix(prefix: str) -> list[str]:
    """Return the parts of the directory that everything with this prefix is in.

    Raises:
        StoreError: No key can start like this.
    """
    directory = prefix.rpartition("/")[0]
    return check_key(directory).split("/") if directory else []


async def create_by_reading_back(store: Store, key: str, data: bytes, failure: StoreError) -> None:
    """Settle a create-only put that ended with "already exists" or with no clear answer.

    Args:
        store: Where it was tried.
        key: The object's key.
        data: What was to be put.
        failure: What the put came back with; raised again if the object cannot be read.

    Raises:
        AlreadyExistsError: Another content is there.
        StoreError: Whether the put took effect, or still will, is unknown.
    """
    try:
        found = await store.get(key)
    except StoreError:
        raise failure from None
    if found != data:
        raise AlreadyExistsError(f"{key}: another object of {len(found)} bytes is there, wanted to put {len(data)}")


# --- directory -----------------------------------------------------------------------------------------------------------------


class FileStore:
    """A store in a directory; several processes on one machine may use it at once.

    `create` returns when file, directory and new parents are synced; the file appears by `link`, which never replaces one. The
    blocking work runs in a thread. A killed process can leave files in `.twintape-tmp`, named by its process id, which are no objects; they are
    removed a day later by whoever writes.

    Args:
        root: The directory; created if missing.
        wait: Read in the caller's thread: for who does nothing else meanwhile, and reads thousands of small objects.
    """

    _numbers = itertools.count()

    def __init__(self, root: str | os.PathLike[str], *, wait: bool = False) -> None:
        try:
            self._tree = Tree(root, directory_mode=0o777, file_mode=0o666)
        except OSError as error:
            raise ConfigError(f"{root} cannot be a store: {error.strerror}") from error
        self._wait = wait
        self._read = NearReader(self._tree).read if wait else self._tree.read
        self._swept = False

    def __repr__(self) -> str:
        return f"FileStore({str(self._tree.root)!r})"

    @property
    def url(self) -> str:
        """The directory as an address."""
        return self._tree.root.as_uri()

    async def create(self, key: str, data: bytes) -> None:
        """Put `data` under `key` unless an object is there; durable on return."""
        check_key(key)
        try:
            await self._run(key, self._create, key, data)
        except AlreadyExistsError as failure:
            unknown = StoreError(f"outcome of the put unknown: {failure}", retryable=True)
            await create_by_reading_back(self, key, data, unknown)
            # It may be ours, left by a crash between link and sync.
            await self._run(key, self._sync, key)

    async def get(self, key: str) -> bytes:
        """Return the whole object."""
        return await self._run(key, self._read, check_key(key), here=self._wait)

    async def get_range(self, key: str, start: int, size: int) -> bytes:
        """Return up to `size` bytes from `start`; a negative `start` counts from the end."""
        return await self._run(key, self._read, check_key(key), start, size, here=self._wait)

    def local_path(self, key: str) -> str:
        """Return the absolute path of the object's file."""
        return f"{self._tree.root}/{check_key(key)}"

    async def head(self, key: str) -> ObjectInfo:
        """Return the object's size and time."""
        status = await self._run(key, self._tree.status, check_key(key))
        return ObjectInfo(key, status.st_size, status.st_mtime_ns)

    async def list(self, prefix: str) -> AsyncIterator[ObjectInfo]:
        """Yield the objects whose key starts with `prefix`, sorted by key."""
        directory = check_prefix(prefix)
        for info in await self._run(prefix, self._find, directory, prefix):
            yield info

    async def delete(self, key: str) -> None:
        """Delete the object, durably; deleting an absent one is no error."""
        try:
            await self._run(key, self._tree.remove, check_key(key))
        except NotFoundError:
            return

    @staticmethod
    async def _run(key: str, function: Callable[..., T], *arguments: object, here: bool = False) -> T:
        try:
            return function(*arguments) if here else await asyncio.to_thread(function, *arguments)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise NotFoundError(f"{key}: there is no object") from error
        except FileExistsError as error:
            raise AlreadyExistsError(f"{key}: an object is there") from error
        except OSError as error:
            retryable = error.errno not in (errno.ENAMETOOLONG, errno.EROFS, errno.EACCES, errno.EPERM, errno.ELOOP)
            raise StoreError(f"{key}: {error.strerror or error}", retryable=retryable) from error

    def _create(self, key: str, data: bytes) -> None:
        self._tree.check_mounted()
        temporary = f"{os.getpid()}-{next(self._numbers)}"
        with (
            self._tree.directory([TEMPORARY_DIRECTORY], create=True) as temporary_fd,
            self._tree.parent(key, create=True) as (fd, name),
        ):
            # O_TRUNC: a process id comes back some day, and with it the name of a leftover.
            self._tree.write_synced(temporary_fd, temporary, data, os.O_TRUNC)
            if not self._swept:
                self._swept = True
                _remove_leftovers(temporary_fd, os.stat(temporary, dir_fd=temporary_fd, follow_symlinks=False).st_mtime)
            try:
                os.link(temporary, name, src_dir_fd=temporary_fd, dst_dir_fd=fd, follow_symlinks=False)
            except FileExistsError:
                os.unlink(temporary, dir_fd=temporary_fd)
                raise
            full_sync(fd)
            os.unlink(temporary, dir_fd=temporary_fd)

    def _sync(self, key: str) -> None:
        with self._tree.parent(key) as (fd, name):
            file = self._tree.open(fd, name, os.O_RDONLY)
            try:
                full_sync(file)
            finally:
                os.close(file)
            full_sync(fd)

    def _find(self, directory: Sequence[str], prefix: str) -> Sequence[ObjectInfo]:
        hidden = TEMPORARY_DIRECTORY + "/"
        found = [
            ObjectInfo(key, status.st_size, status.st_mtime_ns)
            for key, status in self._tree.walk(directory)
            if key.startswith(prefix) and not key.startswith(hidden)
        ]
        return sorted(found, key=lambda info: info.key)


def _remove_leftovers(directory_fd: int, now_s: float) -> None:
    """Remove what killed processes left; a writer that is that slow gets an error and puts its object again."""
    with os.scandir(directory_fd) as entries:
        for entry in entries:
            with contextlib.suppress(FileNotFoundError):  # another process removes the same
                if entry.is_file(follow_symlinks=False) and entry.stat(follow_symlinks=False).st_mtime < now_s - LEFTOVER_S:
                    os.unlink(entry.name, dir_fd=directory_fd)


# --- memory --------------------------------------------------------------------------------------------------------------------


class MemoryStore:
    """A store in this process's memory, for tests and embedding; every call completes without suspending.

    Args:
        url: What `url` says.
        wall_ns: The store's clock.
    """

    def __init__(self, url: str = "memory://", *, wall_ns: Callable[[], int] = time.time_ns) -> None:
        self._url = url
        self._wall_ns = wall_ns
        self._objects: dict[str, tuple[bytes, int]] = {}

    def __repr__(self) -> str:
        return f"MemoryStore({self._url!r})"

    @property
    def url(self) -> str:
        """The address it was made with."""
        return self._url

    async def create(self, key: str, data: bytes) -> None:
        """Put `data` under `key` unless an object is there."""
        known = self._objects.get(check_key(key))
        if known is None:
            self._objects[key] = bytes(data), self._wall_ns()
        elif known[0] != data:
            raise AlreadyExistsError(f"{key}: another object of {len(known[0])} bytes is there, wanted to put {len(data)}")

    def _find(self, key: str) -> tuple[bytes, int]:
        known = self._objects.get(check_key(key))
        if known is None:
            raise NotFoundError(f"{key}: there is no object")
        return known

    async def get(self, key: str) -> bytes:
        """Return the whole object."""
        return self._find(key)[0]

    async def get_range(self, key: str, start: int, size: int) -> bytes:
        """Return up to `size` bytes from `start`; a negative `start` counts from the end."""
        data, _ = self._find(key)
        position = max(len(data) + start, 0) if start < 0 else start
        return data[position : position + size]

    async def head(self, key: str) -> ObjectInfo:
        """Return the object's size and time."""
        data, modified_ns = self._find(key)
        return ObjectInfo(key, len(data), modified_ns)

    async def list(self, prefix: str) -> AsyncIterator[ObjectInfo]:
        """Yield the objects whose key starts with `prefix`, sorted by key."""
        check_prefix(prefix)
        found = [ObjectInfo(key, len(data), time_ns) for key, (data, time_ns) in self._objects.items() if key.startswith(prefix)]
        for info in sorted(found, key=lambda info: info.key):
            yield info

    async def delete(self, key: str) -> None:
        """Delete the object; deleting an absent one is no error."""
        self._objects.pop(check_key(key), None)
