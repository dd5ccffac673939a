"""The local disk: a confined directory tree whose every success is durable.

Nothing here follows a symbolic link below the root, names anything outside of it, or reports success before the data *and* the directory
entry have been synced.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

__all__ = ["NearReader", "PosixDisk", "Tree", "check_path", "full_sync", "write_all"]

TEMPORARY_SUFFIX = ".tmp"
"""What `write_atomically` appends while it writes; a file of that name is the leftover of a crash."""

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW
_PLAIN = os.O_CLOEXEC | os.O_NOFOLLOW
_READ_SIZE = 1 << 24
DIRECTORIES_OPEN_MAX = 32
"""Directories that a reader keeps open: an hour of each of many collectors."""


def check_path(path: str) -> list[str]:
    """Return the parts of a relative path.

    Raises:
        ValueError: It is empty, or has a part that is empty, `.`, `..` or contains a NUL.
    """
    parts = path.split("/")
    if any(part in ("", ".", "..") or "\x00" in part for part in parts):
        raise ValueError(f"not a relative path of plain names: {path!r}")
    return parts


def write_all(fd: int, data: bytes) -> None:
    """Write all of `data`, however little the kernel takes at once.

    Raises:
        OSError: A write failed; how much was written is unknown.
    """
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(fd, rest) :]


def full_sync(fd: int) -> None:
    """Sync a file or directory down to the medium.

    Raises:
        OSError: It failed.
    """
    if hasattr(fcntl, "F_FULLFSYNC"):  # on macOS fsync stops at the drive's cache
        fcntl.fcntl(fd, fcntl.F_FULLFSYNC)
    else:
        os.fsync(fd)


def _make_root(root: Path, mode: int) -> None:
    missing = []
    while not root.exists():
        missing.append(root)
        root = root.parent
    for directory in reversed(missing):
        directory.mkdir(mode=mode, exist_ok=True)
        _sync_directory(directory.parent)


def _sync_directory(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        full_sync(fd)
    finally:
        os.close(fd)


class Tree:
    """A directory that nothing escapes, with the primitives the disk and the file store are made of.

    Args:
        root: The directory; created if missing. It may itself be a symbolic link, which is resolved once.
        directory_mode: For new directories, before the umask.
        file_mode: For new files, before the umask.
    """

    def __init__(self, root: str | os.PathLike[str], *, directory_mode: int = 0o700, file_mode: int = 0o600) -> None:
        self.root = Path(root).resolve()
        self._directory_mode = directory_mode
        self._file_mode = file_mode
        _make_root(self.root, directory_mode)
        self._fd = os.open(self.root, _DIRECTORY)
        self._identity = self._identify(os.fstat(self._fd))

    def __del__(self) -> None:
        fd = getattr(self, "_fd", None)
        if fd is not None:
            os.close(fd)

    @staticmethod
    def _identify(status: os.stat_result) -> tuple[int, int]:
        return status.st_dev, status.st_ino

    def check_mounted(self) -> None:
        """Make sure that the root's path still names the directory that was opened.

        Raises:
            OSError: It does not: the volume was unmounted or replaced, and writing would fill another one.
        """
        try:
            found = self._identify(os.stat(self.root))
        except OSError as error:
            raise OSError(errno.ENODEV, f"the volume of {self.root} is gone: {error.strerror}") from error
        if found != self._identity:
            raise OSError(errno.ENODEV, f"{self.root} is on device {found[0]} now, was on {self._identity[0]}: unmounted?")

    @contextmanager
    def directory(self, parts: Sequence[str], *, create: bool = False) -> Iterator[int]:
        """Open the directory named by `parts`, one part after the other, without following links.

        Raises:
            FileNotFoundError: It is missing and `create` is false.
            OSError: A part is no directory, or could not be made and synced.
        """
        fd = os.dup(self._fd)
        try:
            for part in parts:
                try:
                    below = os.open(part, _DIRECTORY, dir_fd=fd)
                except FileNotFoundError:
                    if not create:
                        raise
                    below = self._make(fd, part)
                os.close(fd)
                fd = below
            yield fd
        finally:
            os.close(fd)

    def _make(self, fd: int, part: str) -> int:
        with suppress(FileExistsError):  # somebody was faster; syncing its entry is still ours to do
            os.mkdir(part, self._directory_mode, dir_fd=fd)
        full_sync(fd)
        return os.open(part, _DIRECTORY, dir_fd=fd)

    @contextmanager
    def parent(self, path: str, *, create: bool = False) -> Iterator[tuple[int, str]]:
        """Open the directory `path` is in; yield its descriptor and the last part of the path."""
        *parts, name = check_path(path)
        with self.directory(parts, create=create) as fd:
            yield fd, name

    def open(self, fd: int, name: str, flags: int) -> int:
        """Open a file in an open directory; refuses links and everything that is not a regular file.

        Raises:
            FileNotFoundError: There is none.
            OSError: It is something else or cannot be opened.
        """
        # Opening a FIFO would wait for its other end.
        file = os.open(name, flags | _PLAIN | os.O_NONBLOCK, self._file_mode, dir_fd=fd)
        if not stat.S_ISREG(os.fstat(file).st_mode):
            os.close(file)
            raise FileNotFoundError(errno.ENOENT, "not a regular file", name)
        return file

    def write_synced(self, fd: int, name: str, data: bytes, flags: int) -> None:
        """Create a file with `data` in an open directory and sync it, but not the directory.

        Raises:
            OSError: Any of it failed.
        """
        file = self.open(fd, name, os.O_WRONLY | os.O_CREAT | flags)
        try:
            write_all(file, data)
            full_sync(file)
        finally:
            os.close(file)

    def read(self, path: str, offset: int = 0, size: int | None = None) -> bytes:
        """Return up to `size` bytes from `offset`; a negative offset counts from the end.

        Raises:
            FileNotFoundError: There is no such file.
        """
        with self.parent(path) as (fd, name):
            file = self.open(fd, name, os.O_RDONLY)
        return _read_and_close(file, offset, size)

    def status(self, path: str) -> os.stat_result:
        """Return a regular file's status.

        Raises:
            FileNotFoundError: There is no such file.
        """
        with self.parent(path) as (fd, name):
            status = os.stat(name, dir_fd=fd, follow_symlinks=False)
        if not stat.S_ISREG(status.st_mode):
            raise FileNotFoundError(errno.ENOENT, "not a regular file", path)
        return status

    def remove(self, path: str) -> None:
        """Delete a file and sync its directory.

        Raises:
            FileNotFoundError: There is no such file.
        """
        with self.parent(path) as (fd, name):
            os.unlink(name, dir_fd=fd)
            full_sync(fd)

    def walk(self, parts: Sequence[str]) -> Iterator[tuple[str, os.stat_result]]:
        """Yield path and status of every regular file under a directory; nothing if it is missing."""
        try:
            with self.directory(parts) as fd:
                names = sorted(os.listdir(fd))
                statuses = [_status_or_none(name, fd) for name in names]
        except (FileNotFoundError, NotADirectoryError):
            return
        for name, status in zip(names, statuses, strict=True):
            if status is None:  # deleted meanwhile
                continue
            if stat.S_ISREG(status.st_mode):
                yield "/".join([*parts, name]), status
            elif stat.S_ISDIR(status.st_mode):
                yield from self.walk([*parts, name])

    def free_bytes(self) -> int:
        """Return how many bytes an ordinary user can still write on this volume."""
        status = os.fstatvfs(self._fd)
        return status.f_bavail * status.f_frsize


def _read_and_close(file: int, offset: int, size: int | None) -> bytes:
    try:
        length = os.fstat(file).st_size
        position = max(length + offset, 0) if offset < 0 else offset
        end = length if size is None else min(length, position + size)
        chunks = []
        while position < end:
            chunk = os.pread(file, min(end - position, _READ_SIZE), position)
            if not chunk:
                break
            chunks.append(chunk)
            position += len(chunk)
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)
    finally:
        os.close(file)


class NearReader:
    """Reads many files that lie in a few directories of a tree, which are kept open; for one thread.

    An open directory is what it was, whatever its path leads to by now: so a file that is missing in it is looked for once more from the root.

    Args:
        tree: The tree.
    """

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._directories: dict[str, int] = {}

    def read(self, path: str, offset: int = 0, size: int | None = None) -> bytes:
        """Return what `Tree.read` returns.

        Raises:
            FileNotFoundError: There is no such file.
        """
        directory, _, name = path.rpartition("/")
        fd = self._directories.pop(directory, None)
        if fd is not None:
            try:
                file = self._tree.open(fd, name, os.O_RDONLY)
            except (OSError, ValueError):
                os.close(fd)
                fd = None
        if fd is None:
            with self._tree.parent(path) as (parent, _):
                fd = os.dup(parent)
            try:
                file = self._tree.open(fd, name, os.O_RDONLY)
            except OSError:
                os.close(fd)
                raise
        self._directories[directory] = fd  # the one used last stands last
        if len(self._directories) > DIRECTORIES_OPEN_MAX:
            os.close(self._directories.pop(next(iter(self._directories))))
        return _read_and_close(file, offset, size)

    def __del__(self) -> None:
        """Close the directories."""
        for fd in self._directories.values():
            os.close(fd)


def _status_or_none(name: str, fd: int) -> os.stat_result | None:
    try:
        return os.stat(name, dir_fd=fd, follow_symlinks=False)
    except FileNotFoundError:
        return None


class _AppendFile:
    """A file open for appending; `ports.DiskFile`."""

    def __init__(self, fd: int) -> None:
        self._fd: int | None = fd
        self._size = 0

    def _open_fd(self) -> int:
        if self._fd is None:
            raise OSError(errno.EBADF, "the file is closed")
        return self._fd

    def write(self, data: bytes) -> int:
        write_all(self._open_fd(), data)
        self._size += len(data)
        return self._size

    def sync(self) -> None:
        full_sync(self._open_fd())

    def close(self) -> None:
        if self._fd is not None:
            fd, self._fd = self._fd, None
            os.close(fd)

    def __del__(self) -> None:
        self.close()


class PosixDisk:
    """A directory of the real file system; `ports.Disk`. Directories are made 0700, files 0600.

    Every method raises `OSError` where the operating system does, with a clear text if the volume is gone, and `ValueError` for a
    path that is not relative and plain.

    Args:
        root: The directory; created if missing.
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self._tree = Tree(root)
        self._locks: dict[str, int] = {}

    def __repr__(self) -> str:
        return f"PosixDisk({str(self._tree.root)!r})"

    def append(self, path: str) -> _AppendFile:
        """Create `path` with its parents, sync the entry, and open it for appending.

        Raises:
            FileExistsError: It exists.
        """
        self._tree.check_mounted()
        with self._tree.parent(path, create=True) as (fd, name):
            file = _AppendFile(self._tree.open(fd, name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND))
            full_sync(fd)
        return file

    def read(self, path: str, offset: int = 0, size: int | None = None) -> bytes:
        """Return `size` bytes from `offset`, or what there is."""
        return self._tree.read(path, offset, size)

    def write_atomically(self, path: str, data: bytes) -> None:
        """Make `path` hold `data`, durably and all or nothing."""
        self._tree.check_mounted()
        with self._tree.parent(path, create=True) as (fd, name):
            self._tree.write_synced(fd, name + TEMPORARY_SUFFIX, data, os.O_TRUNC)
            os.rename(name + TEMPORARY_SUFFIX, name, src_dir_fd=fd, dst_dir_fd=fd)
            full_sync(fd)

    def rename(self, source: str, target: str) -> None:
        """Move a file, over another one if need be, and sync both directories."""
        self._tree.check_mounted()
        with (
            self._tree.parent(source) as (source_fd, source_name),
            self._tree.parent(target, create=True) as (target_fd, target_name),
        ):
            os.rename(source_name, target_name, src_dir_fd=source_fd, dst_dir_fd=target_fd)
            full_sync(target_fd)
            full_sync(source_fd)

    def remove(self, path: str) -> None:
        """Delete a file and sync its directory."""
        self._tree.remove(path)

    def list(self, prefix: str = "") -> list[str]:
        """Return all files under the directory `prefix`, sorted; leftovers of interrupted writes (`….tmp`) are among them."""
        return sorted(path for path, _ in self._tree.walk(check_path(prefix.rstrip("/")) if prefix else []))

    def size(self, path: str) -> int:
        """Return the file's length in bytes."""
        return self._tree.status(path).st_size

    def free_bytes(self) -> int:
        """Return how many bytes can still be written."""
        return self._tree.free_bytes()

    def lock(self, path: str) -> bool:
        """Take an exclusive lock for the life of the process; False if somebody else holds it, True again for the holder."""
        if path in self._locks:
            return True
        with self._tree.parent(path, create=True) as (fd, name):
            file = self._tree.open(fd, name, os.O_RDWR | os.O_CREAT)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(file)
            return False
        self._locks[path] = file
        return True

    def __del__(self) -> None:
        for fd in getattr(self, "_locks", {}).values():
            os.close(fd)
