"""A real browser, where the machine has one."""

import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
QUIET = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--hide-scrollbars",
)  # fmt: skip
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")


def _browse(*options: str) -> str:
    with tempfile.TemporaryDirectory() as profile:
        command = [str(CHROMIUM), *QUIET, f"--user-data-dir={profile}", *options]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout


def rendered(url: str, *, wait_ms: int = 5000) -> str:
    """Return the page as it is after its scripts have run for a while."""
    return _browse(f"--virtual-time-budget={wait_ms}", "--dump-dom", url)


def screenshot(url: str, path: Path, *, width: int = 1200, height: int = 900, wait_ms: int = 5000) -> None:
    """Take a picture of the page."""
    _browse(f"--virtual-time-budget={wait_ms}", f"--window-size={width},{height}", f"--screenshot={path}", url)
