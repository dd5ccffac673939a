"""Connection attempts counted together by all collectors of a machine: Binance allows 300 in five minutes to an IP address, not to a process.

The count is a small file under a directory of this user alone: one line an attempt, the machine's monotonic time in ns. It is only a courtesy
between processes: a process that cannot reach it keeps its own count and goes on, because a missing connection costs data for certain and
one too many only perhaps. Where the kernel has memory for files the directory is there, so that a disk that hangs delays nothing.
"""

from __future__ import annotations

import fcntl
import os
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from twintape.core.budget import ATTEMPT_LIMIT, ATTEMPT_WINDOW_NS, SECOND_NS, Window

__all__ = ["SharedAttempts", "default_directory"]

FILE_NAME = "connects"
FILE_BYTES_MAX = 1 << 16
"""More than any number of attempts within the limit takes; what lies behind is not read."""
AHEAD_MAX_NS = 5 * SECOND_NS
"""Another process may have looked at the clock after us; what is further ahead was written before the machine was started again."""
CONTENTION_MAX_NS = 5 * SECOND_NS
"""Whoever holds the lock for longer than this is stopped or stuck: then everybody counts alone."""


def default_directory() -> str:
    """Return where this user's collectors of this machine meet."""
    base = next((base for base in ("/dev/shm", "/var/tmp") if os.access(base, os.W_OK | os.X_OK)), "/tmp")  # noqa: S108
    return f"{base}/twintape-{os.geteuid()}"


class SharedAttempts:
    """The budget of connection attempts of all processes that use the same directory; used like `core.budget.Window`.

    Args:
        directory: Made if missing, mode 0700; it must belong to this user.
        notice: Takes `(name, details)` once when the count is not shared, and once when it is again.
        limit: At most so many attempts …
        window_ns: … in any window of so long, monotonic ns.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        notice: Callable[[str, Mapping[str, Any]], None],
        limit: int = ATTEMPT_LIMIT,
        window_ns: int = ATTEMPT_WINDOW_NS,
    ) -> None:
        self.shared = True
        self._directory = Path(directory)
        self._notice = notice
        self._own = Window(limit, window_ns)
        self._busy_since_ns: int | None = None

    def take(self, now_ns: int, cost: int = 1) -> bool:
        """Spend `cost` attempts if they fit, and return whether they did; also False while another process counts, for a moment."""
        if self._own.ready_ns(now_ns, cost) > now_ns:
            return False
        try:
            fits = self._take_shared(now_ns, cost)
        except BlockingIOError:
            if self._busy_since_ns is None:
                self._busy_since_ns = now_ns
            if now_ns - self._busy_since_ns < CONTENTION_MAX_NS:
                return False
            self._say(shared=False, error="another process holds the lock and does not give it back")
            fits = True
        except OSError as error:
            self._say(shared=False, error=str(error))
            fits = True
        else:
            self._busy_since_ns = None
            self._say(shared=True)
        return fits and self._own.take(now_ns, cost)

    def _say(self, *, shared: bool, **details: str) -> None:
        if shared is not self.shared:
            self.shared = shared
            self._notice("connects_shared" if shared else "connects_not_shared", {"directory": str(self._directory), **details})

    def _take_shared(self, now_ns: int, cost: int) -> bool:
        fd = self._open()
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)  # given back by close, and by the kernel if we die
            least_ns, greatest_ns = now_ns - self._own.window_ns, now_ns + AHEAD_MAX_NS
            times = [time for time in _times(os.pread(fd, FILE_BYTES_MAX, 0)) if least_ns < time <= greatest_ns]
            if len(times) + cost > self._own.limit:
                return False
            text = b"".join(b"%d\n" % time for time in [*times, *[now_ns] * cost])
            # Written before it is cut: whoever dies in between leaves a few attempts too many, never too few.
            os.pwrite(fd, text, 0)
            os.ftruncate(fd, len(text))
            return True
        finally:
            os.close(fd)

    def _open(self) -> int:
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = os.lstat(self._directory)
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o022:
            raise PermissionError(f"{self._directory} is not a directory that only this user may write")
        return os.open(self._directory / FILE_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)


def _times(text: bytes) -> list[int]:
    """Return the times in the file; what is no whole line of at most 19 digits is skipped."""
    return [int(line) for line in text.split(b"\n")[:-1] if line.isdigit() and len(line) <= 19]
