"""Websockets by picows: TLS always verified, no redirects, no compression, pings handed to the listener.

picows swallows what a listener raises; listeners have to report their own errors.
"""

from __future__ import annotations

import asyncio
import datetime
import logging
import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from functools import partial

from picows import WSCloseCode, WSError, WSFrame, WSListener, WSMsgType, WSTransport, ws_connect
from python_socks import ProxyError

from twintape.io.egress import Egress
from twintape.io.ports import SocketListener

__all__ = ["MESSAGE_BYTES_MAX", "PicowsDialer"]

MESSAGE_BYTES_MAX = 16 * 1024 * 1024
"""Larger messages end the connection with code 1009."""
CLOSE_WAIT_S = 40.0
"""How long the other side may take to answer a close frame if nobody cuts it off before: it may still be sending what it has queued."""
TCP_USER_TIMEOUT_MS = 20_000
"""How long sent bytes may stay unacknowledged before the kernel gives the connection up."""

_LOGGER = logging.getLogger("twintape.picows")
_LOGGER.setLevel(logging.CRITICAL)  # picows reports every connection; what matters reaches the listener
_TEXT, _BINARY, _PING, _PONG, _CLOSE, _CONTINUATION = (
    WSMsgType.TEXT,
    WSMsgType.BINARY,
    WSMsgType.PING,
    WSMsgType.PONG,
    WSMsgType.CLOSE,
    WSMsgType.CONTINUATION,
)

for _member in WSMsgType:
    # Python 3.11 looks members up by raising and catching, six times as slowly as later versions, and picows does so for every frame.
    type.__setattr__(WSMsgType, _member.name, _member)


class _Adapter(WSListener):
    """Puts fragments together and hands everything to the port's listener, but nothing before `dial` has returned."""

    def __init__(self, listener: SocketListener) -> None:
        self._listener = listener
        self._fragments: list[bytes] = []
        self._fragments_opcode = 0
        self._fragments_size = 0
        self._held: list[tuple[object, ...]] | None = []
        self._on_frame: Callable[[int, bytes], None] = partial(self._tell, "on_frame")
        self.close_reason: str | None = None
        self.connected = False

    def on_ws_connected(self, transport: WSTransport) -> None:  # noqa: ARG002 - picows' signature
        self.connected = True

    def release(self) -> None:
        """Deliver what came before `dial` returned."""
        held, self._held = self._held or [], None
        self._on_frame = self._listener.on_frame
        for kind, *arguments in held:
            getattr(self._listener, str(kind))(*arguments)

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        kind = frame.msg_type
        payload = frame.get_payload_as_bytes()
        if kind is _TEXT and frame.fin:
            self._on_frame(1, payload)
        elif kind is _TEXT or kind is _BINARY:
            opcode = 1 if kind is _TEXT else 2
            if frame.fin:
                self._tell("on_frame", opcode, payload)
            else:
                self._fragments, self._fragments_opcode, self._fragments_size = [payload], opcode, len(payload)
        elif kind is _CONTINUATION:
            self._continue(transport, payload, fin=frame.fin)
        elif kind is _PING:
            self._tell("on_ping", payload)
        elif kind is _PONG:
            self._tell("on_pong", payload)
        elif kind is _CLOSE:
            transport.send_close(frame.get_close_code())
            transport.disconnect()

    def _continue(self, transport: WSTransport, payload: bytes, *, fin: bool) -> None:
        self._fragments.append(payload)
        self._fragments_size += len(payload)
        if self._fragments_size > MESSAGE_BYTES_MAX:
            self.close_reason = f"message of more than {MESSAGE_BYTES_MAX} bytes"
            transport.send_close(WSCloseCode.MESSAGE_TOO_BIG)
            transport.disconnect()
        elif fin:
            whole, self._fragments = b"".join(self._fragments), []
            self._tell("on_frame", self._fragments_opcode, whole)

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        handshake = transport.close_handshake
        received = None if handshake is None else handshake.recv
        if received is not None:
            code = int(received.code.value) or None
            self._tell("on_closed", code, received.reason or "close frame")
        else:
            self._tell("on_closed", None, self.close_reason or "end of TCP without a close frame")

    def _tell(self, method: str, *arguments: object) -> None:
        if self._held is not None:
            self._held.append((method, *arguments))
        else:
            getattr(self._listener, method)(*arguments)


class _Socket:
    """The port's view of one picows transport."""

    def __init__(self, transport: WSTransport, adapter: _Adapter) -> None:
        self._transport = transport
        self._adapter = adapter

    def _open(self) -> bool:
        return not self._transport.is_disconnected and not self._transport.is_close_frame_sent

    def send_text(self, text: bytes) -> None:
        if self._open():
            self._transport.send(WSMsgType.TEXT, text)

    def ping(self, payload: bytes) -> None:
        if self._open():
            self._transport.send_ping(payload)

    def pong(self, payload: bytes) -> None:
        if self._open():
            self._transport.send_pong(payload)

    def pause(self) -> None:
        if not self._transport.is_disconnected:
            self._transport.underlying_transport.pause_reading()

    def resume(self) -> None:
        if not self._transport.is_disconnected:
            self._transport.underlying_transport.resume_reading()

    def close(self) -> None:
        if self._open():
            self._adapter.close_reason = "closed by us"
            self._transport.send_close(WSCloseCode.OK)
            asyncio.get_running_loop().call_later(CLOSE_WAIT_S, self.abort)

    def abort(self) -> None:
        if not self._transport.is_disconnected:
            self._transport.disconnect(graceful=False)


class PicowsDialer:
    """Opens websockets.

    Args:
        ca_file: Trust only the authorities in this PEM file instead of the system's (for tests and closed networks).
        egress: Proxy and source address.
    """

    def __init__(self, *, ca_file: str | None = None, egress: Egress | None = None) -> None:
        self._egress = egress or Egress()
        self._tls = ssl.create_default_context(cafile=ca_file)
        self._tls.minimum_version = ssl.TLSVersion.TLSv1_2

    async def dial(self, url: str, listener: SocketListener, *, timeout_s: float) -> _Socket:
        """Open `url`; nothing reaches `listener` before this has returned.

        Raises:
            OSError: The connection could not be made.
        """
        adapter = _Adapter(listener)
        try:
            async with asyncio.timeout(timeout_s):
                transport, _ = await ws_connect(
                    lambda: adapter,
                    url,
                    ssl_context=self._tls,
                    websocket_handshake_timeout=timeout_s,
                    enable_auto_pong=False,
                    max_frame_size=MESSAGE_BYTES_MAX,
                    max_redirects=0,
                    logger_name=_LOGGER,
                    proxy=self._egress.proxy_for(url),
                    socket_factory=lambda place: self._egress.connect(place.host, place.port),
                )
        except TimeoutError as error:
            raise TimeoutError(f"no websocket within {timeout_s:g} s") from error
        except ssl.SSLCertVerificationError as error:
            now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
            raise OSError(f"TLS certificate refused: {error.verify_message} (our clock says {now})") from error
        except WSError as error:
            raise OSError(self._egress.scrub(f"websocket handshake failed: {str(error)[:300]}")) from None
        except ProxyError as error:
            raise OSError(self._egress.scrub(f"the proxy refused: {error}")) from None
        if not adapter.connected:
            # picows returns without an error, and never tells a listener, when TCP ends in the middle of the handshake.
            raise OSError("the connection ended during the websocket handshake")
        raw = transport.underlying_transport.get_extra_info("socket")
        if raw is not None and hasattr(socket, "TCP_USER_TIMEOUT"):
            with suppress(OSError):  # a socket that is gone already reports its end by itself
                raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, TCP_USER_TIMEOUT_MS)
        asyncio.get_running_loop().call_soon(adapter.release)
        return _Socket(transport, adapter)
