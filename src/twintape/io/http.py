"""HTTP GETs by aiohttp: TLS verified, no redirects followed, bodies bounded; proxy and source address as the egress says."""

from __future__ import annotations

import asyncio
import base64
import importlib
import ssl
from types import TracebackType
from typing import TYPE_CHECKING

from twintape.io.egress import Egress, without_credentials
from twintape.io.ports import Clock, RestAnswer

if TYPE_CHECKING:
    import aiohttp

__all__ = ["BODY_BYTES_MAX", "AiohttpRest"]

BODY_BYTES_MAX = 32 * 1024 * 1024
"""No answer of the exchange is this large (exchangeInfo is about 15 MB); a longer one is no answer."""
CONNECTIONS_MAX = 8
_CHUNK_BYTES = 256 * 1024


class AiohttpRest:
    """One connection pool. Use it as an asynchronous context manager.

    Args:
        clock: Stamps requests and answers.
        ca_file: Trust only the authorities in this PEM file instead of the system's.
        egress: Proxy and source address.
    """

    def __init__(self, clock: Clock, *, ca_file: str | None = None, egress: Egress | None = None) -> None:
        self._egress = egress or Egress()
        self._clock = clock
        self._tls = ssl.create_default_context(cafile=ca_file)
        self._opening: asyncio.Task[aiohttp.ClientSession] | None = None

    async def __aenter__(self) -> AiohttpRest:
        self._opening = asyncio.create_task(self._open())
        return self

    async def _open(self) -> aiohttp.ClientSession:
        # Loading it takes as long as everything else the collector needs before its first frame: recording does not wait for it.
        await asyncio.to_thread(importlib.import_module, "aiohttp")
        import aiohttp

        source = self._egress.source_address
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                ssl=self._tls, limit=CONNECTIONS_MAX, local_addr=None if source is None else (source, 0)
            ),
            headers={"User-Agent": "twintape"},
            auto_decompress=True,
            trust_env=False,
        )

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._opening is not None:
            opening, self._opening = self._opening, None
            session = await opening
            await session.close()

    async def get(self, url: str, *, timeout_s: float) -> RestAnswer:
        """Return whatever the server answers.

        Raises:
            OSError: There was no answer, or its body is longer than `BODY_BYTES_MAX`.
        """
        if self._opening is None:
            raise OSError("the HTTP client is not open")
        session = await asyncio.shield(self._opening)  # which one caller's end must not take from the others
        import aiohttp

        request_time_ns = self._clock.wall_ns()
        try:
            timeout = aiohttp.ClientTimeout(total=timeout_s)
            proxy, proxy_headers = self._proxy_for(url)
            async with session.get(
                url, allow_redirects=False, timeout=timeout, proxy=proxy, proxy_headers=proxy_headers
            ) as response:
                body = bytearray()
                async for chunk in response.content.iter_chunked(_CHUNK_BYTES):
                    body += chunk
                    if len(body) > BODY_BYTES_MAX:
                        raise OSError(f"the answer is longer than {BODY_BYTES_MAX} bytes")
                headers = {name.lower(): value for name, value in response.headers.items()}
                return RestAnswer(response.status, headers, bytes(body), request_time_ns, self._clock.wall_ns())
        except TimeoutError as error:
            raise TimeoutError(f"no answer within {timeout_s:g} s") from error
        except aiohttp.ClientError as error:
            raise OSError(self._egress.scrub(f"no answer: {type(error).__name__}: {error}")) from None

    def _proxy_for(self, url: str) -> tuple[str | None, dict[str, str] | None]:
        """Return the proxy and, apart from its URL so that no error text can hold them, its credentials as headers."""
        proxy = self._egress.proxy_for(url)
        if proxy is None:
            return None, None
        plain, user, password = without_credentials(proxy)
        if user is None:
            return plain, None
        return plain, {"Proxy-Authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}
