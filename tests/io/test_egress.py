"""Proxies, source addresses and hosts with several addresses, for websockets and REST alike, against real servers on loopback."""

import asyncio
import base64
import contextlib
import shutil
import socket
import ssl
import subprocess

import pytest
from aiohttp import web
from picows import WSListener, WSMsgType, ws_create_server

from twintape.io.clock import SystemClock
from twintape.io.dialer import PicowsDialer
from twintape.io.egress import Egress, egress_of
from twintape.io.http import AiohttpRest

SECRET = "canary-p@ss"
needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="makes certificates with the openssl command")


class Proxy:
    """The least of a CONNECT proxy; `requests` are `(target, credentials)`."""

    def __init__(self, refuses=None):
        self.refuses = refuses
        self.requests = []
        self.tasks = set()

    async def __aenter__(self):
        self.server = await asyncio.start_server(self.serve, "127.0.0.1", 0)
        self.port = self.server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_):
        self.server.close()
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)

    async def serve(self, reader, writer):
        self.tasks.add(asyncio.current_task())
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        method, target, _ = head[0].split(" ")
        given = [line.partition(": ")[2] for line in head if line.lower().startswith("proxy-authorization")]
        self.requests.append((method, target, base64.b64decode(given[0].split()[1]).decode() if given else None))
        try:
            if self.refuses:
                writer.write(f"HTTP/1.1 {self.refuses}\r\nContent-Length: 0\r\n\r\n".encode())
                return
            host, _, port = target.rpartition(":")
            there, back = await asyncio.open_connection(host, int(port))
            writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            try:
                await asyncio.gather(self.copy(reader, back), self.copy(there, writer))
            finally:
                back.close()
        finally:
            writer.close()

    @staticmethod
    async def copy(source, target):
        with contextlib.suppress(OSError):
            while data := await source.read(65536):
                target.write(data)
                await target.drain()
        target.close()

    def url(self, user=""):
        return f"http://{user}127.0.0.1:{self.port}"


class Listener:
    def __init__(self):
        self.told = asyncio.Queue()

    def on_frame(self, opcode, payload):
        self.told.put_nowait(payload)

    def on_ping(self, payload):
        pass

    on_pong = on_ping

    def on_closed(self, code, reason):
        self.told.put_nowait(None)


class Greeter(WSListener):
    def on_ws_connected(self, transport):
        peer = transport.underlying_transport.get_extra_info("peername")[0]
        transport.send(WSMsgType.TEXT, peer.encode())


class Exchange:
    """A websocket server that greets with the peer's address, and an HTTPS server that answers with it."""

    def __init__(self, tls=None):
        self.tls = tls

    async def __aenter__(self):
        self.websockets = await ws_create_server(lambda request: Greeter(), "127.0.0.1", 0, ssl=self.tls)
        self.port = self.websockets.sockets[0].getsockname()[1]
        application = web.Application()

        async def answer(request):
            return web.Response(text=request.remote)

        application.router.add_get("/", answer)
        self.runner = web.AppRunner(application)
        await self.runner.setup()
        await web.TCPSite(self.runner, "127.0.0.1", 0, ssl_context=self.tls).start()
        self.rest_port = self.runner.addresses[0][1]
        return self

    async def __aexit__(self, *_):
        self.websockets.close()
        await self.runner.cleanup()

    async def greeting(self, egress, host="127.0.0.1", ca_file=None):
        listener = Listener()
        scheme = "ws" if self.tls is None else "wss"
        opened = await PicowsDialer(egress=egress, ca_file=ca_file).dial(
            f"{scheme}://{host}:{self.port}/stream", listener, timeout_s=5
        )
        text = await asyncio.wait_for(listener.told.get(), 5)
        opened.abort()
        await asyncio.wait_for(listener.told.get(), 5)
        return text.decode()

    async def answer(self, egress, host="127.0.0.1", ca_file=None):
        scheme = "http" if self.tls is None else "https"
        async with AiohttpRest(SystemClock(), egress=egress, ca_file=ca_file) as rest:
            return (await rest.get(f"{scheme}://{host}:{self.rest_port}/", timeout_s=5)).body.decode()


@pytest.fixture
def tls(tmp_path):
    (tmp_path / "extensions").write_text("subjectAltName=IP:127.0.0.1,DNS:exchange.test")
    for command in (
        "req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.pem -subj /CN=authority -days 2",
        "req -newkey rsa:2048 -nodes -keyout server.key -out server.csr -subj /CN=server",
        "x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -out server.pem -days 2 -extfile extensions",
    ):
        subprocess.run(["openssl", *command.split()], cwd=tmp_path, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "server.pem", tmp_path / "server.key")
    return context


@needs_openssl
async def test_websockets_and_rest_go_through_the_proxy_with_its_credentials_and_the_exchange_s_own_tls(tls, tmp_path):
    ca_file = str(tmp_path / "ca.pem")
    async with Proxy() as proxy, Exchange(tls) as exchange:
        egress = egress_of(proxy.url("me:canary-p%40ss@"), "", {})
        assert await exchange.greeting(egress, ca_file=ca_file) == "127.0.0.1"
        assert await exchange.answer(egress, ca_file=ca_file) == "127.0.0.1"
        assert proxy.requests == [
            ("CONNECT", f"127.0.0.1:{exchange.port}", f"me:{SECRET}"),
            ("CONNECT", f"127.0.0.1:{exchange.rest_port}", f"me:{SECRET}"),
        ]
        with pytest.raises(OSError, match="certificate"):  # the proxy vouches for nobody
            await exchange.greeting(egress)
        with pytest.raises(OSError, match="certificate"):
            await exchange.answer(egress)


@needs_openssl
@pytest.mark.parametrize("refuses", ["407 Proxy Authentication Required", "502 Bad Gateway", None])
async def test_a_proxy_that_refuses_or_is_away_is_an_os_error_without_its_password(refuses, tls, tmp_path):
    async with Proxy(refuses) as proxy, Exchange(tls) as exchange:
        egress = egress_of(proxy.url("me:canary-p%40ss@"), "", {})
        if refuses is None:
            proxy.server.close()
            await proxy.server.wait_closed()
        for way in (exchange.greeting, exchange.answer):
            with pytest.raises(OSError, match=r".") as caught:
                await way(egress)
            error, texts = caught.value, []
            while error is not None:
                texts.append(f"{error} {error!r}")
                error = error.__cause__
            assert "canary" not in " ".join(texts)
        assert "canary" not in repr(egress)


async def test_the_source_address_is_the_one_asked_for():
    async with Exchange() as exchange:
        egress = egress_of("", "127.0.0.2", {})
        assert await exchange.greeting(egress) == "127.0.0.2"
        assert await exchange.answer(egress) == "127.0.0.2"
        with pytest.raises(OSError, match=r"."):
            await exchange.greeting(egress_of("", "203.0.113.7", {}))


@pytest.fixture
def addresses(monkeypatch):
    """Give `exchange.test` the addresses in the list."""
    found = []

    async def getaddrinfo(self, host, port, **options):
        if host == "exchange.test":
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in found]
        return await original(self, host, port, **options)

    loop_class = asyncio.BaseEventLoop
    original = loop_class.getaddrinfo
    monkeypatch.setattr(loop_class, "getaddrinfo", getaddrinfo)
    return found


async def test_of_several_addresses_one_that_refuses_is_passed_over(addresses):
    addresses += ["127.0.0.9", "127.0.0.1"]
    async with Exchange() as exchange:
        assert await exchange.greeting(Egress(), host="exchange.test") == "127.0.0.1"


async def test_of_several_addresses_one_that_never_answers_delays_by_a_moment_only(addresses):
    addresses += ["127.0.0.3", "127.0.0.1"]
    async with Exchange() as exchange:
        with contextlib.ExitStack() as stack:
            hole = stack.enter_context(socket.socket())
            hole.bind(("127.0.0.3", exchange.port))
            hole.listen(0)
            for _ in range(3):  # its queue is full: further attempts get no answer
                filler = stack.enter_context(socket.socket())
                filler.settimeout(0)
                filler.connect_ex(("127.0.0.3", exchange.port))
            began = asyncio.get_running_loop().time()
            assert await exchange.greeting(Egress(), host="exchange.test") == "127.0.0.1"
            assert asyncio.get_running_loop().time() - began < 2


async def test_a_host_without_a_suitable_address_cannot_be_reached(addresses):
    addresses += ["127.0.0.1"]
    with pytest.raises(OSError, match="no address that can be reached from ::1"):
        await Egress(source_address="::1").connect("exchange.test", 1)


@pytest.mark.parametrize(
    ("url", "proxy"),
    [
        ("wss://stream.binance.com:9443/stream", "http://secure:1"),
        ("https://api.binance.com/api/v3/depth", "http://secure:1"),
        ("http://api.binance.com/", "http://plain:2"),
        ("ws://127.0.0.1:8080/stream", None),
        ("http://[::1]:8080/", None),
        ("http://localhost/", None),
        ("https://data.example.org/", None),
        ("https://example.org/", None),
        ("https://notexample.org/", "http://secure:1"),
    ],
)
def test_proxies_of_the_environment_hold_for_their_scheme_and_not_for_exceptions_or_this_machine(url, proxy):
    environment = {"HTTPS_PROXY": "http://secure:1", "http_proxy": "plain:2", "NO_PROXY": "other, .example.org"}
    assert egress_of("", "", environment).proxy_for(url) == proxy


def test_a_proxy_of_the_settings_wins_over_the_environment_and_a_star_excepts_everything():
    environment = {"HTTPS_PROXY": "http://secure:1", "NO_PROXY": "*"}
    assert egress_of("", "", environment).proxy_for("https://api.binance.com/") is None
    assert egress_of("http://ours:3", "", environment).proxy_for("ws://127.0.0.1/") == "http://ours:3"
    assert egress_of("", "", {}).proxy_for("https://api.binance.com/") is None
