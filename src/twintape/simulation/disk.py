"""A disk that keeps only what was synced: `ports.Disk` over a model of page cache, medium and directory entries.

Every operation of the port is taken apart into what a kernel is asked to do (create, write, sync, rename, unlink, sync of a directory),
in the order in which `io.disk.PosixDisk` asks, and each of these steps can fail or be the last one before a crash:

* a file has what programs read (the cache) and what is on the medium. Until a sync returns, the medium may have any of the dirty sectors
  and not the others, and any length in between; a sector that is missing inside the length reads as zeros;
* a directory entry that was created, renamed or removed since its directory was synced may or may not be so after a power loss, each
  independently of the others; a rename is atomic;
* a sync that fails leaves some of the dirty sectors on the medium and *declares all of them clean*: the next sync reports success. What
  programs read of the others may be what they wrote, or what is on the medium;
* a full volume takes what fits of a write and refuses the rest.

Source: fsync(2); what Linux does with pages it could not write: Rebello et al., "Can Applications Recover from fsync Failures?", USENIX
ATC 2020, table 1.
"""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Callable
from dataclasses import dataclass

from twintape.io.disk import TEMPORARY_SUFFIX, check_path

__all__ = ["SECTOR_SIZE", "Crash", "DiskFault", "SimulatedDisk", "Volume"]

SECTOR_SIZE = 512
"""What a medium writes whole or not at all."""


class Crash(BaseException):
    """The process ends here: killed, or its machine without power. Nothing may catch it and go on."""


@dataclass(frozen=True, slots=True)
class DiskFault:
    """What one step meets.

    Attributes:
        error: Raised by the step: an `OSError`, or `Crash`.
        done: How much of the step takes effect before, 0 to 1; what cannot be done in part is done from 1 on.
    """

    error: BaseException
    done: float = 0.0


class _Inode:
    """A file's content: all that is read, and what the medium has; behind `dirty_from` nothing was synced."""

    __slots__ = ("cached", "dirty_from", "durable")

    def __init__(self) -> None:
        self.cached = bytearray()
        self.durable = bytearray()
        self.dirty_from = 0

    def sync(self) -> None:
        # What a failed sync has dropped before `dirty_from` stays dropped: the kernel holds it for clean.
        self._extend(len(self.cached))
        self.durable[self.dirty_from :] = self.cached[self.dirty_from :]
        self.dirty_from = len(self.cached)

    def fail_sync(self, rng: random.Random) -> None:
        self._write_some(rng, len(self.cached))
        self.dirty_from = len(self.cached)
        if rng.random() < 0.5:
            self.cached[:] = self.durable

    def lose_power(self, rng: random.Random, share: float) -> None:
        """Leave what the medium has: of the dirty sectors about `share`, and a length in between."""
        if self.dirty_from < len(self.cached):
            size = len(self.cached) if rng.random() < share else rng.randint(len(self.durable), len(self.cached))
            self._write_some(rng, size, share)
        self.cached[:] = self.durable
        self.dirty_from = len(self.cached)

    def _extend(self, size: int) -> None:
        self.durable.extend(bytes(max(size - len(self.durable), 0)))

    def _write_some(self, rng: random.Random, size: int, share: float = 0.5) -> None:
        self._extend(size)
        for start in range(self.dirty_from // SECTOR_SIZE * SECTOR_SIZE, size, SECTOR_SIZE):
            if rng.random() < share:
                begin, end = max(start, self.dirty_from), min(start + SECTOR_SIZE, size)
                self.durable[begin:end] = self.cached[begin:end]


@dataclass(frozen=True, slots=True)
class _Change:
    """One change of directory entries that is on the medium as a whole or not at all."""

    entries: dict[str, _Inode | None]

    def touches(self, directory: str) -> bool:
        return any(path.rpartition("/")[0] == directory for path in self.entries)

    def apply(self, entries: dict[str, _Inode]) -> None:
        for path, inode in self.entries.items():
            if inode is None:
                entries.pop(path, None)
            else:
                entries[path] = inode


def _no_fault(step: str, path: str) -> DiskFault | None:
    del step, path
    return None


class Volume:
    """One machine's disk, which outlives processes and power.

    Args:
        rng: Decides what survives.
        capacity: How many bytes fit.

    Attributes:
        fault: Asked before every step, with its name and path; the caller's to set. Steps are `create`, `write`, `sync`, `rename`,
            `unlink`, `sync directory` and `read`.
        steps: How many steps there have been.
        capacity: How many bytes fit; the caller's to change.
    """

    def __init__(self, rng: random.Random, *, capacity: int = 1 << 40) -> None:
        self.fault: Callable[[str, str], DiskFault | None] = _no_fault
        self.steps = 0
        self.capacity = capacity
        self._rng = rng
        self._entries: dict[str, _Inode] = {}
        self._durable: dict[str, _Inode] = {}
        self._pending: list[_Change] = []
        self._locks: dict[str, SimulatedDisk] = {}
        self._life = 0

    # --- crashes ---------------------------------------------------------------------------------------------------------------

    def open(self) -> SimulatedDisk:
        """Return the disk as a new process sees it."""
        return SimulatedDisk(self, self._life)

    def is_live(self, life: int) -> bool:
        """Return whether processes of that life are still there."""
        return life == self._life

    def kill(self) -> None:
        """End every process that uses the volume; the machine stays up."""
        self._life += 1
        self._locks.clear()

    def lose_power(self) -> None:
        """Cut the power: processes end, and of what was not synced some is lost."""
        self.kill()
        share = self._rng.choice((0.0, 0.5, 0.5, 1.0))
        for change in self._pending:
            if self._rng.random() < share:
                change.apply(self._durable)
        self._pending.clear()
        inodes = {id(inode): inode for inode in self._durable.values()}
        for inode in inodes.values():
            inode.lose_power(self._rng, share)
        self._entries = dict(self._durable)

    # --- steps -----------------------------------------------------------------------------------------------------------------

    def _begin(self, step: str, path: str) -> DiskFault | None:
        self.steps += 1
        return self.fault(step, path)

    def _change(self, step: str, path: str, entries: dict[str, _Inode | None]) -> None:
        fault = self._begin(step, path)
        if fault is None or fault.done >= 1:
            change = _Change(entries)
            change.apply(self._entries)
            self._pending.append(change)
        if fault is not None:
            raise fault.error

    def create(self, path: str) -> _Inode:
        """Make a new, empty file in place of whatever has the name."""
        inode = _Inode()
        self._change("create", path, {path: inode})
        return inode

    def write(self, path: str, inode: _Inode, data: bytes) -> int:
        """Append to a file; return its length."""
        fault = self._begin("write", path)
        count = len(data) if fault is None else int(len(data) * fault.done)
        count = min(count, max(self.free_bytes(), 0))
        inode.cached += data[:count]
        if fault is not None:
            raise fault.error
        if count < len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)
        return len(inode.cached)

    def sync(self, path: str, inode: _Inode) -> None:
        """Bring a file's content to the medium."""
        fault = self._begin("sync", path)
        if fault is None:
            inode.sync()
            return
        if isinstance(fault.error, OSError):
            inode.fail_sync(self._rng)
        elif fault.done >= 1:
            inode.sync()
        raise fault.error

    def rename(self, source: str, target: str) -> None:
        """Move an entry, over another one if need be."""
        self._change("rename", source, {source: None, target: self.inode(source)})

    def unlink(self, path: str) -> None:
        """Remove an entry."""
        self.inode(path)
        self._change("unlink", path, {path: None})

    def sync_directory(self, path: str) -> None:
        """Bring the entries of the directory that `path` is in to the medium."""
        fault = self._begin("sync directory", path)
        if fault is None or fault.done >= 1:
            directory = path.rpartition("/")[0]
            for change in [change for change in self._pending if change.touches(directory)]:
                change.apply(self._durable)
                self._pending.remove(change)
        if fault is not None:
            raise fault.error

    def read(self, path: str, offset: int = 0, size: int | None = None) -> bytes:
        """Return `size` bytes from `offset`, or what there is; a negative offset counts from the end."""
        inode = self.inode(path)
        fault = self._begin("read", path)
        if fault is not None:
            raise fault.error
        start = max(len(inode.cached) + offset, 0) if offset < 0 else offset
        return bytes(inode.cached[start : None if size is None else start + size])

    def inode(self, path: str) -> _Inode:
        """Return the file that has a name.

        Raises:
            FileNotFoundError: There is none.
        """
        inode = self._entries.get(path)
        if inode is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        return inode

    def list(self, prefix: str) -> list[str]:
        """Return the names that start with `prefix`, sorted."""
        return sorted(path for path in self._entries if path.startswith(prefix))

    def free_bytes(self) -> int:
        """Return how many bytes still fit."""
        return self.capacity - sum(len(inode.cached) for inode in self._entries.values())

    def lock(self, path: str, holder: SimulatedDisk) -> bool:
        """Take a lock for `holder` unless another one has it."""
        return self._locks.setdefault(path, holder) is holder


class _File:
    """A file open for appending; `ports.DiskFile`."""

    def __init__(self, disk: SimulatedDisk, path: str, inode: _Inode) -> None:
        self._disk = disk
        self._path = path
        self._inode: _Inode | None = inode

    def _open(self) -> tuple[Volume, _Inode]:
        if self._inode is None:
            raise OSError(errno.EBADF, "the file is closed")
        return self._disk.volume(), self._inode

    def write(self, data: bytes) -> int:
        volume, inode = self._open()
        return volume.write(self._path, inode, data)

    def sync(self) -> None:
        volume, inode = self._open()
        volume.sync(self._path, inode)

    def close(self) -> None:
        self._inode = None


class SimulatedDisk:
    """What one process sees of a volume; `ports.Disk`. After its end every call fails.

    Made by `Volume.open`.
    """

    def __init__(self, volume: Volume, life: int) -> None:
        self._volume = volume
        self._life = life

    def volume(self) -> Volume:
        """Return the volume, for as long as the process lives.

        Raises:
            OSError: It is over.
        """
        if not self._volume.is_live(self._life):
            raise OSError(errno.ENODEV, "this process has ended")
        return self._volume

    def append(self, path: str) -> _File:
        """Create `path`, sync the entry, and open it for appending.

        Raises:
            FileExistsError: It exists.
        """
        volume = self.volume()
        check_path(path)
        if path in volume.list(path):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path)
        inode = volume.create(path)
        volume.sync_directory(path)
        return _File(self, path, inode)

    def read(self, path: str, offset: int = 0, size: int | None = None) -> bytes:
        """Return `size` bytes from `offset`, or what there is; a negative offset counts from the end."""
        return self.volume().read(path, offset, size)

    def write_atomically(self, path: str, data: bytes) -> None:
        """Make `path` hold `data`, durably and all or nothing."""
        volume = self.volume()
        check_path(path)
        temporary = path + TEMPORARY_SUFFIX
        inode = volume.create(temporary)
        volume.write(temporary, inode, data)
        volume.sync(temporary, inode)
        volume.rename(temporary, path)
        volume.sync_directory(path)

    def rename(self, source: str, target: str) -> None:
        """Move a file, over another one if need be, and sync both directories."""
        volume = self.volume()
        check_path(target)
        volume.rename(source, target)
        volume.sync_directory(target)
        volume.sync_directory(source)

    def remove(self, path: str) -> None:
        """Delete a file and sync its directory."""
        volume = self.volume()
        volume.unlink(path)
        volume.sync_directory(path)

    def list(self, prefix: str = "") -> list[str]:
        """Return all files under the directory `prefix`, sorted; leftovers of interrupted writes are among them."""
        return self.volume().list(prefix.rstrip("/") + "/" if prefix else "")

    def size(self, path: str) -> int:
        """Return the file's length in bytes."""
        return len(self.volume().inode(path).cached)

    def free_bytes(self) -> int:
        """Return how many bytes can still be written."""
        return max(self.volume().free_bytes(), 0)

    def lock(self, path: str) -> bool:
        """Take an exclusive lock for the life of the process; False if somebody else holds it, True again for the holder."""
        return self.volume().lock(path, self)
