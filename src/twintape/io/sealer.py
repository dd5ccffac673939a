"""Sealing beside the collector: a process of its own that reads an active file and answers with the sealed segment's bytes.

Sealing is computing, and as much of it as recording itself: in the collector's process it would hold up the event loop. The process only
reads the spool and never writes to it, so it does not matter when it dies, nor whether it outlives a collector that was killed.

    python -m twintape.io.sealer <spool directory>

Requests come on standard input, answers go to standard output: four bytes of length, then msgpack.
"""

from __future__ import annotations

import gc
import os
import select
import signal
import struct
import subprocess
import sys
import time
from typing import IO, Protocol

import msgspec

from twintape.core import segment
from twintape.core.errors import CorruptionError
from twintape.core.index import ChainLink
from twintape.core.markets import Market
from twintape.io.disk import PosixDisk, write_all
from twintape.io.ports import Disk

__all__ = ["SealAnswer", "SealOrder", "Sealer", "SealerHere", "SealerProcess"]

SMALL_SIZE = 1 << 20
"""Files below this are sealed on the spot: that takes a few milliseconds, and a quiet collector stays one process."""
STARTS_MAX = 3
"""After so many processes that died, sealing is done on the spot."""
ANSWER_S_MAX = 60.0
"""A process that takes longer than this for one segment is taken to be dead."""
NICENESS = 5
ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": str(128 << 20), "MALLOC_TRIM_THRESHOLD_": str(128 << 20)}
"""glibc's settings for the process: a segment's memory serves the next one; pages given back have to be cleared by the kernel again."""
_LENGTH = struct.Struct("<I")


class SealOrder(msgspec.Struct, frozen=True):
    """Which active file to seal: its first `size` bytes; and its place in the collector's chain."""

    path: str
    size: int
    collector: str
    market: Market
    chain: ChainLink


class SealAnswer(msgspec.Struct, frozen=True):
    """The sealed segment; `data` is None if the file held no line, `tail` the damaged bytes at its end.

    `corrupt` or `unreadable` say why there is nothing.
    """

    data: bytes | None = None
    sha256: str = ""
    key: str = ""
    tail: bytes = b""
    corrupt: str | None = None
    unreadable: str | None = None


class Sealer(Protocol):
    """Seals one active file at a time."""

    def start(self, order: SealOrder) -> None:
        """Begin with a file; the one before is finished."""

    def answer(self, *, wait: bool) -> SealAnswer | None:
        """Return the answer to the last order, or None if it is still being worked on and `wait` is false."""

    def close(self) -> None:
        """Let go of everything."""


def seal_file(disk: Disk, order: SealOrder) -> SealAnswer:
    """Seal an active file."""
    try:
        data = disk.read(order.path, 0, order.size)
    except OSError as error:
        return SealAnswer(unreadable=str(error))
    name = order.path.rpartition("/")[2]
    try:
        outcome = segment.seal_active(data, name=name, collector=order.collector, market=order.market, chain=order.chain)
    except CorruptionError as error:
        return SealAnswer(corrupt=str(error))
    sealed = outcome.sealed
    if sealed is None:
        return SealAnswer(tail=outcome.tail)
    return SealAnswer(sealed.data, sealed.sha256, sealed.key, outcome.tail)


class SealerHere:
    """Seals on the spot, when the answer is asked for.

    Args:
        disk: The spool's directory.
    """

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self._order: SealOrder | None = None

    def start(self, order: SealOrder) -> None:
        """Begin with a file."""
        self._order = order

    def answer(self, *, wait: bool) -> SealAnswer | None:  # noqa: ARG002 - it never takes time of its own
        """Return the answer to the last order."""
        assert self._order is not None, "an answer follows an order"
        return seal_file(self._disk, self._order)

    def close(self) -> None:
        """Do nothing."""


class SealerProcess:
    """Seals in another process, started when the first large file comes, and again should it die.

    Args:
        root: The spool's directory.
        disk: The same, for small files and for a machine on which no process can be started.
    """

    def __init__(self, root: str | os.PathLike[str], disk: Disk) -> None:
        self._root = os.fspath(root)
        self._here = SealerHere(disk)
        self._process: subprocess.Popen[bytes] | None = None
        self._starts = 0
        self._there = False  # whether the last order went to the process
        self._until_s = 0.0

    def start(self, order: SealOrder) -> None:
        """Begin with a file."""
        self._here.start(order)  # what the process cannot answer is answered here
        self._there = order.size >= SMALL_SIZE and self._send(msgspec.msgpack.encode(order))
        self._until_s = time.monotonic() + ANSWER_S_MAX

    def answer(self, *, wait: bool) -> SealAnswer | None:
        """Return the answer to the last order, or None if it is still being worked on and `wait` is false."""
        if not self._there:
            return self._here.answer(wait=wait)
        process = self._process
        assert process is not None, "an order was sent to it"
        assert process.stdout is not None, "its output is a pipe"
        left_s = self._until_s - time.monotonic()
        if left_s > 0 and not wait and not select.select([process.stdout], [], [], 0)[0]:
            return None
        message = _receive(process.stdout, self._until_s)
        if message is None:
            self.close()
            return self._here.answer(wait=wait)
        return msgspec.msgpack.decode(message, type=SealAnswer)

    def close(self) -> None:
        """End the process; what it was working on is not lost, it has only read."""
        process, self._process, self._there = self._process, None, False
        if process is not None:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()

    def _send(self, message: bytes) -> bool:
        while self._process is not None or self._starts < STARTS_MAX:
            try:
                process = self._process = self._process or self._spawn()
                assert process.stdin is not None, "its input is a pipe"
                os.write(process.stdin.fileno(), _LENGTH.pack(len(message)) + message)  # far below what a pipe takes at once
            except OSError:
                self.close()
            else:
                return True
        return False

    def _spawn(self) -> subprocess.Popen[bytes]:
        self._starts += 1
        return subprocess.Popen(  # noqa: S603 - our own module
            [sys.executable, "-m", __name__, self._root],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            env=ALLOCATOR | os.environ,  # what the operator has set holds
        )


def _receive(pipe: IO[bytes], until_s: float | None) -> bytearray | None:
    """Return the next message, or None if it ends before it is whole, or is not there by that monotonic time."""
    head = _read(pipe, _LENGTH.size, until_s)
    return None if head is None else _read(pipe, _LENGTH.unpack(head)[0], until_s)


def _read(pipe: IO[bytes], size: int, until_s: float | None) -> bytearray | None:
    data = bytearray(size)
    view = memoryview(data)
    while view:
        if until_s is not None and not select.select([pipe], [], [], max(0, until_s - time.monotonic()))[0]:
            return None
        count = os.readv(pipe.fileno(), [view])
        if not count:
            return None
        view = view[count:]
    return data


def main() -> None:
    """Answer orders until standard input ends; the collector decides when that is, whatever signals its process group gets."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    gc.disable()  # there are no cycles here, and looking for them among a segment's lines takes a quarter of the time
    os.nice(NICENESS)
    disk = PosixDisk(sys.argv[1])
    requests, answers = open(0, "rb", buffering=0), open(1, "wb", buffering=0)  # noqa: SIM115 - they live as long as the process
    while (message := _receive(requests, None)) is not None:
        answer = msgspec.msgpack.encode(seal_file(disk, msgspec.msgpack.decode(message, type=SealOrder)))
        try:
            write_all(answers.fileno(), _LENGTH.pack(len(answer)))
            write_all(answers.fileno(), answer)
        except BrokenPipeError:
            return  # nobody is there any more


if __name__ == "__main__":
    main()
