"""No secret is ever told: a whole record, merge and prune against a store and a proxy that refuse, and repeat what they were sent."""

import http.server
import os
import subprocess
import threading
import urllib.request

import pytest

from support.processes import command, exchange

CANARIES = {
    "AWS_ACCESS_KEY_ID": "AKIACANARY0000000001",
    "AWS_SECRET_ACCESS_KEY": "canary-secret-0000000000000000000000002",
    "AWS_SESSION_TOKEN": "canary-token-3",
}
PROXY_PASSWORD = "canary-proxy-4"


class Refusing(http.server.BaseHTTPRequestHandler):
    """A store that answers everything with 403 and with all that it was told."""

    def refuse(self):
        told = "".join(f"{name}: {value}\n" for name, value in self.headers.items())
        self.server.told.append(told)
        body = f"<Error><Code>AccessDenied</Code><Message>{self.path} {told}</Message></Error>".encode()
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.send_response(403)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = do_CONNECT = refuse  # noqa: N815 - the names http.server looks for

    def log_message(self, *_):
        pass


@pytest.fixture
def refusing():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Refusing) as server:
        server.told = []
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def run(environment, *arguments):
    done = subprocess.run(command(*arguments), capture_output=True, timeout=120, check=False, env=environment)
    return done.returncode, done.stdout + done.stderr


def everything_in(directory):
    return b"".join(path.read_bytes() + str(path).encode() for path in sorted(directory.rglob("*")) if path.is_file())


def free_port():
    with http.server.HTTPServer(("127.0.0.1", 0), Refusing) as probe:
        return probe.server_address[1]


@pytest.mark.slow
def test_no_secret_is_in_a_log_an_error_a_metric_or_a_tape(tmp_path, refusing):
    endpoint = f"http://127.0.0.1:{refusing.server_address[1]}"
    proxy = f"http://me:{PROXY_PASSWORD}@127.0.0.1:{refusing.server_address[1]}"
    environment = os.environ | CANARIES | {"AWS_ENDPOINT_URL": endpoint, "AWS_REGION": "us-east-1", "AWS_ALLOW_HTTP": "true"}
    port = free_port()
    text, pages = b"", b""
    with exchange(tmp_path / "exchange.log", "--market", "spot", "--synthetic", "1", "--symbols", "2") as simulator:
        gateway = simulator.gateways[0]
        for proxied in (False, True):
            spool = tmp_path / f"spool-{proxied}"
            config = tmp_path / "tape.toml"
            config.write_text(
                f'collector = "tokyo"\nstore = "s3://bucket/prefix"\nspool = "{spool}"\nstop_seconds = 1\n'
                + (f'proxy = "{proxy}"\n' if proxied else "")
                + f'[[markets]]\nmarket = "spot"\nsymbols = ["BTCUSDT"]\nwebsocket = "{gateway["spot"]}"\nrest = "{gateway["rest"]}"\n'
            )
            arguments = ("record", "--config", str(config), "--duration", "5", "--metrics-port", str(port))
            process = subprocess.Popen(command(*arguments), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment)
            while process.poll() is None:
                try:
                    for page in ("metrics", "status"):
                        with urllib.request.urlopen(f"http://127.0.0.1:{port}/{page}", timeout=30) as answer:
                            pages += answer.read()
                except OSError:
                    pass  # not there yet, or no longer
                try:
                    process.wait(0.5)
                except subprocess.TimeoutExpired:
                    continue
            with process.stdout:
                text += process.stdout.read()
    store = ("--store", "s3://bucket/prefix")
    codes = []
    for arguments in (("merge", "--date", "2026-11-22", *store), ("prune", "--execute", *store), ("ls", *store)):
        code, said = run(environment, *arguments)
        codes.append(code)
        text += said
    assert all(code != 0 for code in codes)
    assert any(CANARIES["AWS_SESSION_TOKEN"] in told for told in refusing.told), "the store was asked, with credentials"
    assert b"upload_failing" in text
    assert b"dial_failed" in text
    assert b"twintape_lines" in pages
    for canary in (*CANARIES.values(), PROXY_PASSWORD):
        for place, found in (("output", text), ("pages", pages), ("files", everything_in(tmp_path / "spool-False"))):
            assert canary.encode() not in found, f"{canary} is told in {place}"
    assert b"canary" not in everything_in(tmp_path / "spool-True")
