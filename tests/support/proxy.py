"""An HTTP proxy before a real object store that loses, delays and spoils what passes through it, in a thread of its own."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit

BODY_BYTES_MAX = 256 * 1024 * 1024


@dataclass
class Request:
    """One request on its way: `number` counts from 1 over the proxy's life."""

    number: int
    method: str
    path: str
    headers: dict[str, str]
    body: bytes


Rule = Callable[[Request], str]
"""Says what happens to a request:

`pass` · `lose-request` (it never arrives) · `lose-answer` (it happens) · `cut-answer` (half of the answer arrives) · `503`, `500`, `501` (answered by the
proxy, nothing happens) · `corrupt` (one bit of the answer's body differs) · `unconditional` (it arrives without `If-None-Match`; for stores that do not
check signatures)
"""


def passing(_request: Request) -> str:
    return "pass"


class Proxy:
    """Attributes: `url` to be used as endpoint, `rule` (may be replaced at any time), `seen` (method, path, what happened)."""

    def __init__(self, target: str) -> None:
        self._host, self._port = urlsplit(target).hostname, urlsplit(target).port
        self.rule: Rule = passing
        self.seen: list[tuple[str, str, str]] = []
        self.url = ""
        self.serving: set[asyncio.Task[None]] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.serving.add(task)
        try:
            while (head := await _head(reader)) is not None:
                first, headers = head
                method, path, _ = first.split(" ", 2)
                request = Request(len(self.seen) + 1, method, path, headers, await _body(reader, headers))
                action = self.rule(request)
                self.seen.append((method, path, action))
                if not await self._do(action, request, writer):
                    break
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            self.seen.append(("", "", "the client went away"))
        finally:
            self.serving.discard(task)
            writer.transport.abort()

    async def _do(self, action: str, request: Request, writer: asyncio.StreamWriter) -> bool:
        if action == "lose-request":
            return False
        if action in ("500", "501", "503"):
            code = {"500": "InternalError", "501": "NotImplemented", "503": "SlowDown"}[action]
            body = f'<?xml version="1.0"?><Error><Code>{code}</Code></Error>'.encode()
            writer.write(f"HTTP/1.1 {action} {code}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
            await writer.drain()
            return True
        if action == "unconditional":
            request.headers.pop("if-none-match", None)
        head, body = await self._forward(request)
        if action == "lose-answer":
            return False
        if action == "corrupt" and body:
            body = body[:-1] + bytes([body[-1] ^ 1])
        writer.write(head + (body[: len(body) // 2] if action == "cut-answer" else body))
        await writer.drain()
        return action != "cut-answer"

    async def _forward(self, request: Request) -> tuple[bytes, bytes]:
        """Send a request to the store on a connection of its own; return head and body of the answer."""
        reader, writer = await asyncio.open_connection(self._host, self._port)
        headers = {**request.headers, "connection": "close"}
        lines = [f"{request.method} {request.path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
        writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + request.body)
        head = await _head(reader)
        assert head is not None, "the store did not answer"
        first, answered = head
        empty = request.method == "HEAD" or first.split(" ")[1] in ("204", "304")
        body = b"" if empty else await _body(reader, answered, to_end=True)
        writer.transport.abort()
        kept = {name: value for name, value in answered.items() if name not in ("connection", "transfer-encoding", "keep-alive")}
        if not empty:
            kept["content-length"] = str(len(body))
        return "\r\n".join([first, *(f"{name}: {value}" for name, value in kept.items())]).encode() + b"\r\n\r\n", body


async def _head(reader: asyncio.StreamReader) -> tuple[str, dict[str, str]] | None:
    try:
        text = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    except asyncio.IncompleteReadError:
        return None
    first, *lines = text.rstrip("\r\n").split("\r\n")
    return first, {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}


async def _body(reader: asyncio.StreamReader, headers: dict[str, str], *, to_end: bool = False) -> bytes:
    if headers.get("transfer-encoding", "").lower() == "chunked":
        parts = []
        while size := int((await reader.readuntil(b"\r\n")).split(b";")[0], 16):
            parts.append((await reader.readexactly(size + 2))[:-2])
        await reader.readuntil(b"\r\n")
        return b"".join(parts)
    if "content-length" in headers:
        return await reader.readexactly(min(int(headers["content-length"]), BODY_BYTES_MAX))
    return await reader.read(BODY_BYTES_MAX) if to_end else b""


@contextlib.contextmanager
def proxy(target: str, rule: Rule = passing) -> Iterator[Proxy]:
    """Run a proxy before `target` for as long as the block lasts."""
    found = Proxy(target)
    found.rule = rule
    loop = asyncio.new_event_loop()
    ready = threading.Event()

    async def main() -> None:
        server = await asyncio.start_server(found.serve, "127.0.0.1", 0, limit=1 << 20)
        found.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        ready.set()
        await stop.wait()
        server.close()
        for task in found.serving:
            task.cancel()
        await asyncio.gather(*found.serving, return_exceptions=True)
        await asyncio.sleep(0)  # an aborted transport is closed in the next round

    stop = asyncio.Event()
    thread = threading.Thread(target=loop.run_until_complete, args=(main(),))
    thread.start()
    assert ready.wait(10)
    try:
        yield found
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(10)
        loop.close()
