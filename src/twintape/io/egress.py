"""The way out: through which proxy, from which local address, and to which of a host's addresses.

Several addresses of a host are tried by RFC 8305 (a new one every quarter of a second while the others still hang), so that one dead
gateway does not keep a connection from being made.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from urllib.parse import unquote, urlsplit, urlunsplit

import aiohappyeyeballs

__all__ = ["Egress", "egress_of", "is_loopback"]

HAPPY_EYEBALLS_DELAY_S = 0.25


@dataclass(frozen=True, slots=True)
class Egress:
    """How to leave this machine.

    Attributes:
        proxy: `http://[user:password@]host:port` for everything, or None.
        source_address: Local IP address to connect from, or None for the system's choice.
        environment: Proxies of the environment by scheme (`http`, `https`, `no`), for hosts that are not this machine.
    """

    proxy: str | None = None
    source_address: str | None = None
    environment: Mapping[str, str] | None = None

    def __repr__(self) -> str:
        return f"Egress(proxy={'set' if self.proxy or self.environment else None}, source_address={self.source_address!r})"

    def proxy_for(self, url: str) -> str | None:
        """Return the proxy a URL goes through, with its credentials, or None."""
        if self.proxy is not None:
            return self.proxy
        parts = urlsplit(url)
        host = parts.hostname or ""
        known = dict(self.environment or {})
        if not known or is_loopback(host) or _is_excepted(host, known.get("no", "")):
            return None
        return known.get("https" if parts.scheme in ("https", "wss") else "http") or None

    def scrub(self, text: str) -> str:
        """Return an error's text without a proxy's credentials."""
        for proxy in (self.proxy, *(self.environment or {}).values()):
            user_info = urlsplit(proxy or "").netloc.rpartition("@")[0]
            _, _, password = user_info.partition(":")
            for secret in sorted({user_info, password, unquote(password)} - {""}, key=len, reverse=True):
                text = text.replace(secret, "***")
        return text

    async def connect(self, host: str, port: int) -> socket.socket:
        """Return a connected TCP socket to one of a host's addresses.

        Raises:
            OSError: No address could be resolved or reached.
        """
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        local = None
        if self.source_address is not None:
            local = await loop.getaddrinfo(self.source_address, 0, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
            family = local[0][0]
            found = [entry for entry in found if entry[0] == family]
            if not found:
                raise OSError(f"{host} has no address that can be reached from {self.source_address}")
        connected = await aiohappyeyeballs.start_connection(
            found, local_addr_infos=local, happy_eyeballs_delay=HAPPY_EYEBALLS_DELAY_S, interleave=1
        )
        # Frames of control (pongs, SUBSCRIBE) are small and must not wait for others.
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connected


def without_credentials(url: str) -> tuple[str, str | None, str]:
    """Return a proxy's URL without credentials, the user or None, and the password.

    >>> without_credentials("http://me:p%40ss@proxy:3128")
    ('http://proxy:3128', 'me', 'p@ss')
    """
    parts = urlsplit(url)
    plain = urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))
    return plain, None if parts.username is None else unquote(parts.username), unquote(parts.password or "")


def egress_of(proxy: str, source_address: str, environment: Mapping[str, str]) -> Egress:
    """Return the way out that settings and environment ask for; a proxy of the settings wins.

    >>> egress_of("", "", {"HTTPS_PROXY": "http://proxy:3128", "NO_PROXY": ".example"}).proxy_for("wss://stream.binance.com:9443/ws")
    'http://proxy:3128'
    """
    lower = {name.lower(): value for name, value in environment.items() if value}
    # `http_proxy` in capitals can be forged by a request's header in CGI programs; this is none, both spellings count.
    known = {scheme: lower[f"{scheme}_proxy"] for scheme in ("http", "https", "no") if f"{scheme}_proxy" in lower}
    known = {scheme: value if scheme == "no" or "://" in value else f"http://{value}" for scheme, value in known.items()}
    return Egress(proxy or None, source_address or None, None if proxy else known)


def is_loopback(host: str) -> bool:
    """Return whether a host name or address is this machine."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _is_excepted(host: str, names: str) -> bool:
    """Return whether a host is among the names of `NO_PROXY`, or below one of them."""
    entries = [entry.strip().lstrip("*").lstrip(".").lower() for entry in names.split(",") if entry.strip()]
    return "*" in names.split(",") or any(entry and (host == entry or host.endswith(f".{entry}")) for entry in entries)
