"""The dialer against servers of picows' own and against raw TCP, with and without TLS."""

import asyncio
import shutil
import socket
import ssl
import struct
import subprocess
import time

import pytest
from picows import WSCloseCode, WSListener, WSMsgType, ws_create_server

from twintape.io import dialer as dialer_module
from twintape.io.dialer import PicowsDialer

WAIT_S = 60.0
"""However busy the machine is, what is waited for happens within this time, or never."""


class Listener:
    """Writes down what it is told."""

    def __init__(self):
        self.told = []
        self.closed = asyncio.Event()

    def on_frame(self, opcode, payload):
        self.told.append(("frame", opcode, payload))

    def on_ping(self, payload):
        self.told.append(("ping", payload))

    def on_pong(self, payload):
        self.told.append(("pong", payload))

    def on_closed(self, code, reason):
        self.told.append(("closed", code, reason))
        self.closed.set()


class Server(WSListener):
    """Greets every client with what it was given, and writes down what clients say."""

    def __init__(self, greeting, heard):
        self.greeting = greeting
        self.heard = heard

    def on_ws_connected(self, transport):
        self.greeting(transport)

    def on_ws_frame(self, transport, frame):
        self.heard.append((frame.msg_type, frame.get_payload_as_bytes()))
        if frame.msg_type is WSMsgType.PING:
            transport.send_pong(frame.get_payload_as_bytes())
        if frame.msg_type is WSMsgType.CLOSE:
            transport.send_close(frame.get_close_code())
            transport.disconnect()


class Running:
    def __init__(self, greeting=lambda transport: None, tls=None):
        self.heard = []
        self.greeting = greeting
        self.tls = tls

    async def __aenter__(self):
        self.server = await ws_create_server(
            lambda request: Server(self.greeting, self.heard), "127.0.0.1", 0, ssl=self.tls, enable_auto_pong=False
        )
        self.port = self.server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_):
        self.server.close()
        await self.server.wait_closed()


async def told(listener, count):
    deadline = time.monotonic() + WAIT_S
    while len(listener.told) < count:
        assert time.monotonic() < deadline, listener.told
        await asyncio.sleep(0.01)
    return listener.told


async def test_frames_pings_and_pongs_arrive_verbatim_and_in_order_and_nothing_before_dial_returns():
    def greet(transport):
        transport.send(WSMsgType.TEXT, b'{"a":1}')
        transport.send(WSMsgType.BINARY, b"\x00\xff")
        transport.send(WSMsgType.TEXT, b"\xff not utf-8")
        transport.send_ping(b"1763769600000")

    async with Running(greet) as server:
        listener = Listener()
        opened = await PicowsDialer().dial(f"ws://127.0.0.1:{server.port}/stream", listener, timeout_s=WAIT_S)
        assert listener.told == []
        await told(listener, 4)
        opened.ping(b"ours")
        await told(listener, 5)
        assert listener.told == [
            ("frame", 1, b'{"a":1}'),
            ("frame", 2, b"\x00\xff"),
            ("frame", 1, b"\xff not utf-8"),
            ("ping", b"1763769600000"),
            ("pong", b"ours"),
        ]
        opened.pong(b"1763769600000")
        opened.send_text(b"hello")
        opened.close()
        await asyncio.wait_for(listener.closed.wait(), WAIT_S)
        assert (WSMsgType.PONG, b"1763769600000") in server.heard  # ours alone: picows does not answer by itself
        assert [kind for kind, _ in server.heard].count(WSMsgType.PONG) == 1
        assert (WSMsgType.TEXT, b"hello") in server.heard
        assert listener.told[-1] == ("closed", 1000, "close frame")
        for call in (
            opened.close,
            opened.abort,
            opened.pause,
            opened.resume,
            lambda: opened.send_text(b"x"),
            lambda: opened.ping(b"x"),
        ):
            call()  # after the end nothing happens


async def test_fragments_are_put_together_with_pings_in_between():
    def greet(transport):
        transport.send(WSMsgType.TEXT, b"one ", fin=False)
        transport.send_ping(b"p")
        transport.send(WSMsgType.CONTINUATION, b"two ", fin=False)
        transport.send(WSMsgType.CONTINUATION, b"three")
        transport.send(WSMsgType.BINARY, b"\x01", fin=False)
        transport.send(WSMsgType.CONTINUATION, b"\x02")

    async with Running(greet) as server:
        listener = Listener()
        opened = await PicowsDialer().dial(f"ws://127.0.0.1:{server.port}/", listener, timeout_s=WAIT_S)
        assert await told(listener, 3) == [("ping", b"p"), ("frame", 1, b"one two three"), ("frame", 2, b"\x01\x02")]
        opened.abort()
        await asyncio.wait_for(listener.closed.wait(), WAIT_S)


async def test_a_message_that_grows_beyond_the_limit_ends_the_connection(monkeypatch):
    monkeypatch.setattr(dialer_module, "MESSAGE_BYTES_MAX", 1000)

    def greet(transport):
        transport.send(WSMsgType.TEXT, b"x" * 600, fin=False)
        transport.send(WSMsgType.CONTINUATION, b"x" * 600)

    async with Running(greet) as server:
        listener = Listener()
        await PicowsDialer().dial(f"ws://127.0.0.1:{server.port}/", listener, timeout_s=WAIT_S)
        await asyncio.wait_for(listener.closed.wait(), WAIT_S)
        assert listener.told[-1] == ("closed", None, "message of more than 1000 bytes")


async def test_a_close_frame_is_answered_and_its_code_and_reason_reported():
    async with Running(lambda transport: transport.send_close(WSCloseCode.POLICY_VIOLATION, b"Too many requests")) as server:
        listener = Listener()
        await PicowsDialer().dial(f"ws://127.0.0.1:{server.port}/", listener, timeout_s=WAIT_S)
        await asyncio.wait_for(listener.closed.wait(), WAIT_S)
        assert listener.told == [("closed", 1008, "Too many requests")]
        assert server.heard[-1] == (WSMsgType.CLOSE, struct.pack("!H", 1008))


async def test_a_bare_end_of_tcp_has_no_code_and_is_reported_once():
    async with Running(lambda transport: transport.disconnect()) as server:
        listener = Listener()
        await PicowsDialer().dial(f"ws://127.0.0.1:{server.port}/", listener, timeout_s=WAIT_S)
        await asyncio.wait_for(listener.closed.wait(), WAIT_S)
        await asyncio.sleep(0.05)
        assert listener.told == [("closed", None, "end of TCP without a close frame")]


async def test_a_peer_that_does_not_answer_a_close_is_cut_off(monkeypatch):
    monkeypatch.setattr(dialer_module, "CLOSE_WAIT_S", 0.1)

    class Deaf(Server):
        def on_ws_frame(self, transport, frame):
            self.heard.append((frame.msg_type, b""))

    heard = []
    server = await ws_create_server(lambda request: Deaf(lambda transport: None, heard), "127.0.0.1", 0)
    listener = Listener()
    opened = await PicowsDialer().dial(f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/", listener, timeout_s=WAIT_S)
    opened.close()
    await asyncio.wait_for(listener.closed.wait(), WAIT_S)
    assert listener.told == [("closed", None, "closed by us")]
    server.close()


async def test_a_paused_socket_reads_no_more_until_it_is_resumed():
    transports = []
    async with Running(transports.append) as server:
        listener = Listener()
        opened = await PicowsDialer().dial(f"ws://127.0.0.1:{server.port}/", listener, timeout_s=WAIT_S)
        opened.pause()
        for number in range(3):
            transports[0].send(WSMsgType.TEXT, b"%d" % number)
        await asyncio.sleep(0.1)
        assert listener.told == []
        opened.resume()
        assert await told(listener, 3) == [("frame", 1, b"0"), ("frame", 1, b"1"), ("frame", 1, b"2")]
        opened.abort()
        await asyncio.wait_for(listener.closed.wait(), WAIT_S)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


async def test_what_cannot_be_dialled_is_an_os_error_that_says_why():
    async def answer(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 302 Found\r\nLocation: ws://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n")
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    async def say_nothing(reader, writer):
        await reader.read()
        writer.close()
        await writer.wait_closed()
        gone.set()

    gone = asyncio.Event()

    with pytest.raises(OSError, match=r"[Cc]onnect"):
        await PicowsDialer().dial(f"ws://127.0.0.1:{free_port()}/", Listener(), timeout_s=WAIT_S)
    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(OSError, match="handshake failed"):  # a redirect is not followed
            await PicowsDialer().dial(f"ws://127.0.0.1:{port}/", Listener(), timeout_s=WAIT_S)
    async with await asyncio.start_server(say_nothing, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(TimeoutError, match=r"no websocket within 0\.2 s"):
            await PicowsDialer().dial(f"ws://127.0.0.1:{port}/", Listener(), timeout_s=0.2)
        await asyncio.wait_for(gone.wait(), WAIT_S)  # the connection is not left behind


# --- TLS


def make_authority(directory, names):
    """Make a certificate authority and a server certificate for `names` with the openssl command."""
    (directory / "extensions").write_text("subjectAltName=" + ",".join(names))
    commands = [
        "req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.pem -subj /CN=authority -days 2",
        "req -newkey rsa:2048 -nodes -keyout server.key -out server.csr -subj /CN=server",
        "x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -out server.pem -days 2 -extfile extensions",
    ]
    for command in commands:
        subprocess.run(["openssl", *command.split()], cwd=directory, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(directory / "server.pem", directory / "server.key")
    return context


def make_expired(directory):
    """Make a server certificate that was valid in the past only."""
    make_authority(directory, ["IP:127.0.0.1"])
    command = "openssl x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -out server.pem -extfile extensions"
    dates = ["-not_before", "20200101000000Z", "-not_after", "20200201000000Z"]
    made = subprocess.run([*command.split(), *dates], cwd=directory, check=False, capture_output=True)
    if made.returncode:  # before OpenSSL 3.4: a negative number of days
        subprocess.run([*command.split(), "-days", "-1"], cwd=directory, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(directory / "server.pem", directory / "server.key")
    return context


needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="makes certificates with the openssl command")


@needs_openssl
async def test_a_certificate_of_a_trusted_authority_for_the_right_name_is_accepted(tmp_path):
    async with Running(
        lambda transport: transport.send(WSMsgType.TEXT, b"hi"), make_authority(tmp_path, ["IP:127.0.0.1"])
    ) as server:
        listener = Listener()
        dialer = PicowsDialer(ca_file=str(tmp_path / "ca.pem"))
        opened = await dialer.dial(f"wss://127.0.0.1:{server.port}/", listener, timeout_s=WAIT_S)
        assert await told(listener, 1) == [("frame", 1, b"hi")]
        opened.pause()
        opened.resume()
        opened.abort()
        await asyncio.wait_for(listener.closed.wait(), WAIT_S)


@needs_openssl
async def test_a_certificate_of_an_unknown_authority_or_for_another_name_is_refused(tmp_path):
    async with Running(tls=make_authority(tmp_path, ["DNS:other.example"])) as server:
        url = f"wss://127.0.0.1:{server.port}/"
        with pytest.raises(OSError, match=r"TLS certificate refused: .*\(our clock says 2"):
            await PicowsDialer().dial(url, Listener(), timeout_s=WAIT_S)
        with pytest.raises(OSError, match=r"TLS certificate refused: IP address mismatch"):
            await PicowsDialer(ca_file=str(tmp_path / "ca.pem")).dial(url, Listener(), timeout_s=WAIT_S)


@needs_openssl
async def test_an_expired_certificate_is_refused(tmp_path):
    context = make_expired(tmp_path)
    async with Running(tls=context) as server:
        with pytest.raises(OSError, match=r"TLS certificate refused: certificate has expired \(our clock says 2"):
            await PicowsDialer(ca_file=str(tmp_path / "ca.pem")).dial(
                f"wss://127.0.0.1:{server.port}/", Listener(), timeout_s=WAIT_S
            )


async def test_a_server_that_hangs_up_in_the_middle_of_the_handshake_is_an_os_error():
    """picows returns as if all were well and never tells the listener: a collector would wait for ever for a connection that is none."""

    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.transport.abort()

    server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    with pytest.raises(OSError, match="ended during the websocket handshake"):
        await PicowsDialer().dial(f"ws://127.0.0.1:{port}/stream", Listener(), timeout_s=WAIT_S)
    server.close()
    await server.wait_closed()
