"""What `obstore` does not offer of S3: settings of a bucket and old versions of its objects, by signed requests.

Source: AWS Signature Version 4 as in the "Amazon S3 API Reference", section "Authenticating Requests".
"""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit
from xml.etree import ElementTree

import aiohttp
from yarl import URL  # aiohttp's own: it has to be told not to encode again what is signed

from twintape.core.errors import ConfigError, NotFoundError, StoreError

if TYPE_CHECKING:
    from twintape.io.ports import Clock

__all__ = ["Bucket", "S3Answer", "Version", "open_bucket", "sign"]

REQUEST_TIMEOUT_S = 120.0
ANSWER_BYTES_MAX = 1 << 30
"""No version of an object of ours is larger."""
PAGES_MAX = 10_000
"""A listing that goes on for longer is not ours."""
ERROR_TEXT_MAX = 300
DEFAULT_REGION = "us-east-1"


@dataclass(frozen=True, slots=True)
class S3Answer:
    """One answer of the store; `headers` have lower-case names."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def code(self) -> str:
        """The store's own word for an error, such as `NoSuchKey`, or an empty text."""
        return _text(_parse(self.body), "Code") if self.status >= 300 and self.body.lstrip().startswith(b"<") else ""


@dataclass(frozen=True, slots=True)
class Version:
    """One version of an object, or the mark of its deletion."""

    key: str
    version_id: str
    size: int
    latest: bool
    deletion: bool
    modified: str


def sign(
    method: str,
    url: str,
    *,
    body: bytes,
    headers: Mapping[str, str],
    region: str,
    key: str,
    secret: str,
    token: str | None,
    now: datetime,
) -> dict[str, str]:
    """Return the headers of a signed request.

    Args:
        method: `GET`, `PUT`, …
        url: With path and query percent-encoded as they are sent.
        body: What is sent.
        headers: Further headers; all are signed.
        region: The bucket's.
        key: Access key id.
        secret: Secret access key.
        token: Session token, or None.
        now: UTC.
    """
    parts = urlsplit(url)
    stamp, day = now.strftime("%Y%m%dT%H%M%SZ"), now.strftime("%Y%m%d")
    sha256 = hashlib.sha256(body).hexdigest()
    signed = {name.lower(): value for name, value in headers.items()}
    signed |= {"host": parts.netloc.rpartition("@")[2], "x-amz-content-sha256": sha256, "x-amz-date": stamp}
    if token is not None:
        signed["x-amz-security-token"] = token
    names = sorted(signed)
    query = "&".join(sorted(part if "=" in part else f"{part}=" for part in parts.query.split("&") if part))
    canonical = "\n".join(
        [method, parts.path or "/", query, *(f"{name}:{signed[name].strip()}" for name in names), "", ";".join(names), sha256]
    )
    scope = f"{day}/{region}/s3/aws4_request"
    digest = hashlib.sha256(canonical.encode()).hexdigest()
    material = f"AWS4{secret}".encode()
    for word in (day, region, "s3", "aws4_request"):
        material = hmac.digest(material, word.encode(), "sha256")
    signature = hmac.digest(material, f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{digest}".encode(), "sha256").hex()
    signed["authorization"] = f"AWS4-HMAC-SHA256 Credential={key}/{scope},SignedHeaders={';'.join(names)},Signature={signature}"
    return signed


def open_bucket(url: str, *, clock: Clock, options: Mapping[str, str] | None = None) -> Bucket | None:
    """Open the bucket behind `s3://bucket/prefix`; None if it is no such address or there are no credentials in options or environment.

    Args:
        url: The store's address.
        clock: For the signatures.
        options: As for `twintape.io.store.open_store`.

    Raises:
        ConfigError: The endpoint cannot be used.
    """
    scheme, _, place = url.partition("://")
    name, _, prefix = place.partition("/")
    settings = {f"AWS_{option.removeprefix('aws_').upper()}": value for option, value in (options or {}).items()}
    settings = {**os.environ, **settings}
    key, secret = settings.get("AWS_ACCESS_KEY_ID"), settings.get("AWS_SECRET_ACCESS_KEY")
    if scheme != "s3" or not name or not key or not secret:
        return None
    region = settings.get("AWS_REGION") or settings.get("AWS_DEFAULT_REGION") or DEFAULT_REGION
    endpoint = settings.get("AWS_ENDPOINT") or settings.get("AWS_ENDPOINT_URL_S3") or settings.get("AWS_ENDPOINT_URL")
    endpoint = (endpoint or f"https://s3.{region}.amazonaws.com").rstrip("/")
    allow_http = (settings.get("AWS_ALLOW_HTTP") or "").lower() in ("1", "true")
    if not endpoint.startswith("https://") and not allow_http:
        raise ConfigError("the store's endpoint is not https://", hint="AWS_ALLOW_HTTP=true allows plain http")
    return Bucket(
        f"{endpoint}/{name}",
        prefix=f"{prefix.strip('/')}/" if prefix.strip("/") else "",
        region=region,
        key=key,
        secret=secret,
        token=settings.get("AWS_SESSION_TOKEN"),
        clock=clock,
    )


class Bucket:
    """A bucket, asked by signed requests; one connection a request, no retries.

    Args:
        url: Endpoint and name.
        prefix: Before every key; empty, or ends with `/`.
        region: The bucket's.
        key: Access key id.
        secret: Secret access key.
        token: Session token, or None.
        clock: For the signatures.
    """

    def __init__(
        self, url: str, *, prefix: str, region: str, key: str, secret: str, token: str | None = None, clock: Clock
    ) -> None:
        self._url = url
        self.prefix = prefix
        self._region = region
        self._key, self._secret, self._token = key, secret, token
        self._clock = clock

    def __repr__(self) -> str:
        return f"Bucket({self._url!r})"

    async def ask(
        self, method: str, key: str = "", query: str = "", body: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> S3Answer:
        """Send one request.

        Args:
            method: `GET`, `PUT`, …
            key: A key, with the prefix; empty for the bucket.
            query: Percent-encoded.
            body: What is sent.
            headers: Further headers.

        Raises:
            StoreError: There was no answer.
        """
        url = f"{self._url}{'/' if key else ''}{quote(key, safe='/-_.~')}{'?' if query else ''}{query}"
        signed = sign(
            method,
            url,
            body=body,
            headers=headers or {},
            region=self._region,
            key=self._key,
            secret=self._secret,
            token=self._token,
            now=datetime.fromtimestamp(self._clock.wall_ns() / 1e9, UTC),
        )
        timeout = aiohttp.ClientTimeout(total=REQUEST_TIMEOUT_S)
        try:
            async with (
                aiohttp.ClientSession(timeout=timeout, auto_decompress=False) as session,
                session.request(
                    method, URL(url, encoded=True), data=body or None, headers=signed, allow_redirects=False
                ) as answer,
            ):
                found = bytearray()
                async for chunk in answer.content.iter_chunked(1 << 20):
                    found += chunk
                    if len(found) > ANSWER_BYTES_MAX:
                        raise StoreError(f"{key or query}: the answer has more than {ANSWER_BYTES_MAX} bytes")
                return S3Answer(answer.status, {name.lower(): value for name, value in answer.headers.items()}, bytes(found))
        except (aiohttp.ClientError, OSError) as error:
            raise StoreError(f"{key or query}: {type(error).__name__}: no answer", retryable=True) from None

    async def versioning(self) -> str:
        """Return `Enabled`, `Suspended` or `Off`.

        Raises:
            StoreError: The store does not say.
        """
        answer = _checked(await self.ask("GET", query="versioning="), "the bucket's versioning")
        return _text(_parse(answer.body), "Status") or "Off"

    async def lifecycle(self) -> list[tuple[str, str]]:
        """Return the rules that make current objects expire, as `(id, prefix)`.

        Raises:
            StoreError: The store does not say.
        """
        answer = await self.ask("GET", query="lifecycle=")
        if answer.status == 404:
            return []
        rules = []
        for rule in _all(_parse(_checked(answer, "the bucket's lifecycle").body), "Rule"):
            expiry = next(iter(_all(rule, "Expiration")), None)
            expires = expiry is not None and (_text(expiry, "Days") or _text(expiry, "Date"))
            if expires and _text(rule, "Status") == "Enabled":
                rules.append((_text(rule, "ID"), _text(rule, "Prefix")))
        return rules

    async def locked(self) -> bool:
        """Return whether objects can be locked against deletion.

        Raises:
            StoreError: The store does not say.
        """
        answer = await self.ask("GET", query="object-lock=")
        return answer.status != 404 and _text(_parse(_checked(answer, "the object lock").body), "ObjectLockEnabled") == "Enabled"

    async def versions(self, prefix: str) -> list[Version]:
        """Return all versions of the objects whose key starts with `prefix`, in the store's order: by key, newest first.

        Raises:
            StoreError: The store failed or knows no versions.
        """
        found: list[Version] = []
        marker = ""
        for _ in range(PAGES_MAX):
            query = f"{marker}prefix={quote(self.prefix + prefix, safe='')}&versions="
            page = _parse(_checked(await self.ask("GET", query=query), f"versions of {prefix}").body)
            for entry in page:
                kind = _name(entry)
                if kind in ("Version", "DeleteMarker"):
                    found.append(self._version(entry, deletion=kind == "DeleteMarker"))
            if _text(page, "IsTruncated") != "true":
                return found
            key, version = (quote(_text(page, name), safe="") for name in ("NextKeyMarker", "NextVersionIdMarker"))
            marker = f"key-marker={key}&version-id-marker={version}&"
        raise StoreError(f"{prefix}: the list of versions does not end")

    def _version(self, entry: ElementTree.Element, *, deletion: bool) -> Version:
        return Version(
            key=_text(entry, "Key").removeprefix(self.prefix),
            version_id=_text(entry, "VersionId"),
            size=int(_text(entry, "Size") or 0),
            latest=_text(entry, "IsLatest") == "true",
            deletion=deletion,
            modified=_text(entry, "LastModified"),
        )

    async def get_version(self, version: Version) -> bytes:
        """Return the bytes of an old version.

        Raises:
            NotFoundError: The store no longer has it.
            StoreError: The store failed.
        """
        answer = await self.ask("GET", self.prefix + version.key, f"versionId={quote(version.version_id, safe='')}")
        if answer.status == 404:
            raise NotFoundError(f"{version.key}: there is no version {version.version_id}")
        return _checked(answer, version.key).body


def _checked(answer: S3Answer, what: str) -> S3Answer:
    if answer.status >= 300:
        hint = "check the credentials and the bucket's policy" if answer.status in (401, 403) else None
        raise StoreError(f"{what}: {answer.status} {answer.code}".rstrip(), retryable=answer.status >= 500, hint=hint)
    return answer


def _parse(body: bytes) -> ElementTree.Element:
    try:
        return ElementTree.fromstring(body)  # noqa: S314 - expat has bounded entity expansion since 2.4.1
    except ElementTree.ParseError as error:
        raise StoreError(f"the store's answer is no XML: {error}") from error


def _name(element: ElementTree.Element) -> str:
    return element.tag.rpartition("}")[2]


def _all(element: ElementTree.Element, name: str) -> list[ElementTree.Element]:
    return [found for found in element.iter() if _name(found) == name]


def _text(element: ElementTree.Element, name: str) -> str:
    return next((found.text or "" for found in _all(element, name)), "")
