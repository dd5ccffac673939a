"""Object stores reached through obstore: S3 and what speaks it; Google's and Microsoft's are passed on untried.

Source: obstore 0.12 and Rust's object_store behind it; behaviours found by test: a retried create-only put whose first answer was lost
ends in "already exists"; a prefix lists whole path parts only; a missing object raises the built-in `FileNotFoundError`.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from datetime import datetime, timedelta
from typing import Any, TypeVar
from urllib.parse import urlsplit

import obstore
from obstore import exceptions
from obstore.store import from_url

from twintape.core.errors import AlreadyExistsError, ConfigError, NotFoundError, NotSupportedError, StoreError
from twintape.io.ports import ObjectInfo
from twintape.io.store import check_key, check_prefix, create_by_reading_back

__all__ = ["ObstoreStore", "open_cloud_store"]

RETRIES_MAX = 5
RETRY_TIMEOUT = timedelta(seconds=60)
ATTEMPTS_MAX = 3
"""How often we send a request whose failure the library passes on without a retry of its own: a connection that ends within an answer."""
ATTEMPT_DELAY_S = 0.2
REQUEST_TIMEOUT = timedelta(seconds=120)
CONNECT_TIMEOUT = timedelta(seconds=10)
ERROR_TEXT_MAX = 400
SECRET_SIZE_MIN = 3
"""A shorter "secret" is a placeholder, and taking it out would garble every message."""

UNSUPPORTED_HINT = "`twintape doctor` says what this store can do"

_RETRIED = re.compile(r"after \d+ retries")
_UNSUPPORTED = re.compile(r"status code: 501\b|<Code>NotImplemented</Code>|non-partial response")
_PLACE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,254}(/[^?#@\s]*)?")
_SECRET_NAME = re.compile(r"key|secret|token|password|credential|sas|account", re.IGNORECASE)
_ENVIRONMENT = re.compile(r"(AWS|GOOGLE|AZURE)_.*")

T = TypeVar("T")


def open_cloud_store(scheme: str, place: str, options: Mapping[str, str]) -> ObstoreStore:
    """Open `scheme://place`, see `twintape.io.store.open_store`.

    Raises:
        ConfigError: The address or an option cannot be used.
    """
    if not _PLACE.fullmatch(place):
        raise ConfigError(
            f"a {scheme}:// address is a bucket and perhaps a prefix, nothing else",
            hint="credentials and endpoints belong in the environment or the options",
        )
    url = f"{scheme}://{place.rstrip('/')}"
    # Which settings there are depends on the scheme; obstore checks them.
    settings: Any = {name: value for name, value in options.items() if name != "allow_http"}
    if scheme == "s3":
        # One key a request: its answer is about that key, and a policy that allows deleting below a prefix allows it. (radosgw 16 asks for the
        # permission on the whole bucket when the same key comes in a bulk request.)
        settings["disable_bulk_delete"] = "true"
    allow_http = options.get("allow_http", os.environ.get("AWS_ALLOW_HTTP", "false")).lower() in ("1", "true")
    try:
        backend: Any = from_url(
            url,
            config=settings,
            client_options={"timeout": REQUEST_TIMEOUT, "connect_timeout": CONNECT_TIMEOUT, "allow_http": allow_http},
            retry_config={
                "max_retries": RETRIES_MAX,
                "retry_timeout": RETRY_TIMEOUT,
                "backoff": {"init_backoff": timedelta(milliseconds=100), "max_backoff": timedelta(seconds=10), "base": 2},
            },
        )
    except (exceptions.BaseError, ValueError, TypeError) as error:
        raise ConfigError(f"{url}: {_scrub(str(error), _secrets(options))}") from None
    return ObstoreStore(backend, url, secrets=_secrets(options))


def _secrets(options: Mapping[str, str]) -> frozenset[str]:
    """Return every value that must not appear in a message, from the options and the environment."""
    environment = {name: value for name, value in os.environ.items() if _ENVIRONMENT.fullmatch(name)}
    found = set()
    for name, value in (*environment.items(), *options.items()):
        if _SECRET_NAME.search(name):
            found.add(value)
        if "@" in value:  # an endpoint with a password in it
            parts = urlsplit(value)
            found.update(part for part in (parts.username, parts.password) if part)
    return frozenset(value for value in found if len(value) >= SECRET_SIZE_MIN)


def _scrub(text: str, secrets: frozenset[str]) -> str:
    """Return an error's first paragraph without anything secret."""
    for secret in sorted(secrets, key=len, reverse=True):
        text = text.replace(secret, "***")
    return text.partition("\n\nDebug source:")[0][:ERROR_TEXT_MAX]


class ObstoreStore:
    """A store behind obstore.

    Args:
        backend: An obstore store object, its prefix included.
        url: Its address, without credentials.
        secrets: Texts that must not appear in errors.
    """

    def __init__(self, backend: Any, url: str, *, secrets: frozenset[str] = frozenset()) -> None:
        self._backend = backend
        self._url = url
        self._secrets = secrets

    def __repr__(self) -> str:
        return f"ObstoreStore({self._url!r})"

    @property
    def url(self) -> str:
        """The address, without credentials."""
        return self._url

    async def create(self, key: str, data: bytes) -> None:
        """Put `data` under `key` unless an object is there; an unclear outcome is decided by reading it back."""
        check_key(key)
        try:
            await self._ask(key, lambda: obstore.put_async(self._backend, key, data, mode="create", use_multipart=False))
        except StoreError as failure:
            if not (isinstance(failure, AlreadyExistsError) or failure.retryable):
                raise
            unknown = StoreError(f"outcome of the put unknown: {failure}", retryable=True)
            await create_by_reading_back(self, key, data, unknown)

    async def get(self, key: str) -> bytes:
        """Return the whole object."""
        return await self._ask(key, lambda: self._get(check_key(key)))

    async def _get(self, key: str, options: Any = None) -> bytes:
        answer = await obstore.get_async(self._backend, key, options=options)
        return bytes(await answer.bytes_async())

    async def get_range(self, key: str, start: int, size: int) -> bytes:
        """Return up to `size` bytes from `start`; a negative `start` counts from the end."""
        check_key(key)
        if size <= 0:
            await self.head(key)
            return b""
        wanted: Any = {"range": {"suffix": -start}} if start < 0 else {"range": (start, start + size)}
        try:
            found = await self._ask(key, lambda: self._get(key, wanted))
        except NotFoundError:
            raise
        except StoreError:
            # A range beyond the end is an error (416) for a store and an empty answer for us.
            length = (await self.head(key)).size
            if length > 0 and start < length:
                raise
            return b""
        return found[:size]

    async def head(self, key: str) -> ObjectInfo:
        """Return the object's size and time."""
        meta = await self._ask(key, lambda: obstore.head_async(self._backend, check_key(key)))
        return ObjectInfo(key, meta["size"], _nanoseconds(meta))

    async def list(self, prefix: str) -> AsyncIterator[ObjectInfo]:
        """Yield the objects whose key starts with `prefix`, in the store's order."""
        directory = "/".join(check_prefix(prefix)) or None
        last: str | None = None
        pages = obstore.list(self._backend, directory).__aiter__()
        for attempt in itertools.count(1):
            try:
                async for meta in self._metas(prefix, pages):
                    last = meta["path"]
                    if last.startswith(prefix):
                        yield ObjectInfo(last, meta["size"], _nanoseconds(meta))
                return
            except StoreError as error:
                if not self._worth_asking(error, attempt):
                    raise
            await asyncio.sleep(ATTEMPT_DELAY_S * attempt)
            # Keys come in order, so that it can go on behind the last one.
            pages = obstore.list(self._backend, directory, offset=last).__aiter__()

    async def _metas(self, prefix: str, pages: Any) -> AsyncIterator[Any]:
        while True:
            try:
                page = await self._run(prefix, pages.__anext__())
            except StopAsyncIteration:
                return
            for meta in page:
                yield meta

    async def delete(self, key: str) -> None:
        """Delete the object; deleting an absent one is no error."""
        try:
            await self._ask(key, lambda: obstore.delete_async(self._backend, check_key(key)))
        except NotFoundError:
            return

    async def _ask(self, key: str, request: Callable[[], Awaitable[T]]) -> T:
        """Send a request that may be repeated: all of ours, for a put under the same key has the same bytes."""
        for attempt in itertools.count(1):
            try:
                return await self._run(key, request())
            except StoreError as error:
                if not self._worth_asking(error, attempt):
                    raise
            await asyncio.sleep(ATTEMPT_DELAY_S * attempt)
        raise AssertionError("counting has no end")

    @staticmethod
    def _worth_asking(error: StoreError, attempt: int) -> bool:
        return error.retryable and attempt < ATTEMPTS_MAX and _RETRIED.search(str(error)) is None

    async def _run(self, key: str, request: Awaitable[T]) -> T:
        try:
            return await request
        except FileNotFoundError:
            failure: StoreError = NotFoundError(f"{key}: there is no object")
        except (exceptions.AlreadyExistsError, exceptions.PreconditionError):
            failure = AlreadyExistsError(f"{key}: an object is there")
        except (exceptions.PermissionDeniedError, exceptions.UnauthenticatedError) as error:
            failure = StoreError(f"{key}: refused: {self._text(error)}", hint="check the credentials and the bucket's policy")
        except (exceptions.NotSupportedError, exceptions.InvalidPathError, NotImplementedError) as error:
            failure = NotSupportedError(f"{key}: not supported: {self._text(error)}", hint=UNSUPPORTED_HINT)
        except (exceptions.BaseError, OSError) as error:
            text = self._text(error)
            if _UNSUPPORTED.search(text):
                failure = NotSupportedError(f"{key}: not supported: {text}", hint=UNSUPPORTED_HINT)
            else:
                failure = StoreError(f"{key}: {text}", retryable=True)
        # Raised out here, without the original as its context: that one's text may hold credentials.
        raise failure

    def _text(self, error: BaseException) -> str:
        return _scrub(str(error), self._secrets)


def _nanoseconds(meta: Any) -> int:
    modified: datetime = meta["last_modified"]
    return int(modified.timestamp()) * 1_000_000_000 + modified.microsecond * 1000
