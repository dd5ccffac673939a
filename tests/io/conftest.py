"""Makes the shared parts of tests/support importable, and starts real object stores where they are installed."""

import contextlib
import shutil
import sys
from pathlib import Path

import pytest

_TESTS = str(Path(__file__).parents[1])
if _TESTS not in sys.path:
    sys.path.insert(0, _TESTS)


@pytest.fixture(scope="session")
def radosgw():
    """Run Ceph's S3 gateway, once for all tests that ask for it."""
    from support import object_stores

    if missing := object_stores.missing_for_radosgw():
        pytest.skip(f"not installed: {', '.join(missing)} (Debian: radosgw ceph-mon ceph-osd ceph-common)")
    with object_stores.radosgw() as endpoint:
        endpoint.make_bucket("twintape-test")
        yield endpoint


@contextlib.contextmanager
def _small_server(name, directory):
    from support import object_stores

    if shutil.which("uvx") is None:
        pytest.skip(f"{name} is started by uvx, which is not installed")
    with contextlib.ExitStack() as stack:
        try:
            endpoint = stack.enter_context(getattr(object_stores, name)(directory))
        except RuntimeError as error:
            pytest.skip(f"{name} did not start, perhaps because uvx cannot fetch it: {error}")
        yield endpoint


@pytest.fixture(scope="session")
def ministack(tmp_path_factory):
    """Run ministack, once."""
    with _small_server("ministack", tmp_path_factory.mktemp("ministack")) as endpoint:
        endpoint.make_bucket("twintape-test")
        yield endpoint


@pytest.fixture(scope="session")
def rclone(tmp_path_factory):
    """Run rclone's S3 server, which ignores conditions, once."""
    with _small_server("rclone", tmp_path_factory.mktemp("rclone")) as endpoint:
        endpoint.make_bucket("twintape-test")
        yield endpoint
