import copy
import dataclasses
import hashlib
import os
import signal
import subprocess
import sys
from collections import Counter

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from twintape.core import segment, wire
from twintape.core.active import LineText
from twintape.core.errors import ConfigError, RefusedError
from twintape.core.heads import depth_head
from twintape.core.markets import Market
from twintape.io.disk import PosixDisk
from twintape.io.spool import Spool, SpoolLimits

HOUR_MS = 3_600_000
T_MS = 1_700_000_000_000 // HOUR_MS * HOUR_MS + HOUR_MS - 1000  # a second before the hour
SECOND = 10**9
RUNS = [f"{number:08x}" + "0" * 24 for number in range(1, 100)]


def line(number, *, connection=1):
    """Return the line of `number` milliseconds after the start; no two are alike."""
    time = T_MS + number
    event = b'{"e":"depthUpdate","E":%d,"s":"BTCUSDT","U":%d,"u":%d,"b":[],"a":[]}' % (time, number, number)
    return time * 10**6 + connection, b'{"stream":"btcusdt@depth@100ms","data":%b}' % event


def text_of(lines):
    """Return lines as a connection hands them over."""
    heads = [depth_head(frame) for _, frame in lines]
    times = [head[2] for head in heads if head]
    return dataclasses.replace(LineText.of(lines), event_times=(min(times), max(times)) if len(times) == len(lines) else None)


def at(number):
    return (T_MS + number) * 10**6


class Crash(BaseException):
    """The process died here."""


class MemoryFile:
    def __init__(self, disk, path):
        self.disk, self.path, self.failed = disk, path, False

    def write(self, data):
        assert not self.failed, "a file that failed was written again"
        with self.disk.step("write", self.path) as when:
            if when == "half":
                data = data[: len(data) // 2]
            if when != "before":
                self.disk.files[self.path] += data
        return len(self.disk.files[self.path])

    def sync(self):
        assert not self.failed, "a file that failed was synced again"
        with self.disk.step("sync", self.path) as when:
            if when != "before":
                self.disk.synced[self.path] = len(self.disk.files[self.path])

    def close(self):
        pass


class Step:
    """One operation: may fail before, after or half-way."""

    def __init__(self, disk, name, path):
        self.disk, self.name, self.path = disk, name, path

    def __enter__(self):
        self.fault = self.disk.fault(self.name, self.path)
        return self.fault[0] if self.fault else None

    def __exit__(self, *_):
        if self.fault:
            raise self.fault[1]


class MemoryDisk:
    """A disk in memory that keeps the promises of `ports.Disk`, counts its operations and fails where it is told."""

    def __init__(self):
        self.files, self.synced, self.open_files = {}, {}, []
        self.operations = []
        self.fault = lambda name, path: None
        self.free = 1 << 40
        self.unreadable = set()

    def step(self, name, path):
        self.operations.append((name, path))
        return Step(self, name, path)

    def after_power_loss(self, keep):
        """Return what a reboot finds: of what was not synced, `keep(path, size)` bytes."""
        disk = MemoryDisk()
        for path, data in self.files.items():
            synced = self.synced.get(path, 0)
            disk.files[path] = data[: synced + keep(path, len(data) - synced)]
        return disk

    def after_kill(self):
        return self.after_power_loss(lambda path, size: size)

    def append(self, path):
        with self.step("append", path) as when:
            assert path not in self.files
            if when != "before":
                self.files[path] = b""
        file = MemoryFile(self, path)
        self.open_files.append(file)
        return file

    def read(self, path, offset=0, size=None):
        if path in self.unreadable:
            raise OSError(5, "Input/output error")
        if path not in self.files:
            raise FileNotFoundError(path)
        end = None if size is None else offset + size
        return self.files[path][offset:end]

    def write_atomically(self, path, data):
        with self.step("write_atomically", path) as when:
            if when == "half":
                self.files[path + ".tmp"] = data[: len(data) // 2]
            elif when != "before":
                self.files.pop(path + ".tmp", None)
                self.files[path], self.synced[path] = data, len(data)

    def rename(self, source, target):
        with self.step("rename", source) as when:
            if when != "before":
                self.files[target] = self.files.pop(source)
                self.synced[target] = self.synced.pop(source, 0)

    def remove(self, path):
        with self.step("remove", path) as when:
            if path not in self.files:
                raise FileNotFoundError(path)
            if when != "before":
                del self.files[path]
                self.synced.pop(path, None)

    def list(self, prefix=""):
        return sorted(path for path in self.files if path.startswith(prefix and prefix.rstrip("/") + "/"))

    def size(self, path):
        return len(self.files[path])

    def free_bytes(self):
        return self.free

    def lock(self, path):
        return True


def failing(number, when, error):
    """Return a fault: the `number`-th operation from now fails."""
    left = [number]

    def fault(name, path):
        left[0] -= 1
        return (when, error) if left[0] == -1 else None

    return fault


def make(disk, run=0, **options):
    settings = {"collector": "tokyo", "market": Market.SPOT, "version": "1", "draw_chain_id": lambda: f"{run:016x}"}
    return Spool(disk, run=RUNS[run], **(settings | options))


class World:
    """A disk, a store, and what a perfect memory knows: which lines were accepted, which were promised to survive a power loss."""

    def __init__(self, disk):
        self.disk = disk
        self.store = {}
        self.returned, self.promised = [], []
        self.pending_promise = {}

    def write(self, spool, connection, numbers):
        lines = [line(number, connection=connection) for number in numbers]
        if connection == 1:
            spool.write_all([(connection, text_of(lines))])
        else:
            spool.write(connection, lines)
        self.returned += lines

    def sync(self, spool, number):
        candidates = list(self.returned)
        spool.sync(at(number))
        self.promised = candidates

    def upload(self, spool):
        for sealed in spool.pending():
            data = self.disk.read(sealed.path)
            assert hashlib.sha256(data).hexdigest() == sealed.sha256
            assert len(data) == sealed.size
            assert self.store.setdefault(sealed.key, data) == data
            spool.confirmed(sealed)

    def story(self, run=0):
        """Everything that can happen in the life of a spool, once."""
        spool = make(self.disk, run)
        spool.recover()
        spool.open(1, url="wss://a", streams=["btcusdt@depth@100ms"], now_ns=at(0), event_time_us=None)
        spool.open(2, url="wss://b", streams=["btcusdt@depth@100ms"], now_ns=at(0), event_time_us=None)
        self.write(spool, 1, range(1, 4))
        self.write(spool, 2, range(1, 3))
        self.sync(spool, 5)
        self.write(spool, 1, range(6, 8))
        self.write(spool, 2, range(998, 1002))  # across the hour
        spool.close(2, reason="planned", code=1000, now_ns=at(1100))
        self.upload(spool)
        self.write(spool, 1, range(8, 10))
        self.sync(spool, 1200)
        spool.seal_due(at(46_000))
        self.write(spool, 1, range(46_000, 46_003))
        self.upload(spool)
        spool.close_all(reason="stop", now_ns=at(47_000))
        return spool

    def segments(self):
        """Return every sealed segment, here and in the store, by number."""
        found = {}
        for data in [*self.store.values(), *(self.disk.files[path] for path in self.disk.list("spot/sealed"))]:
            index = segment.verify_segment(data)
            known = found.setdefault(index.chain.number, data)
            assert known == data, f"two segments have the number {index.chain.number}"
        return [found[number] for number in sorted(found)]

    def lines(self):
        return [
            (ns, frame) for data in self.segments() for name, ns, frame in segment.lines_in_order(data) if name != wire.TWINTAPE
        ]

    def check(self, expected, *, once=True):
        """The chain is whole, no segment was sealed twice, nothing is active, and no line is missing."""
        segments = self.segments()
        indexes = [segment.verify_segment(data) for data in segments]
        assert [index.chain.number for index in indexes] == list(range(len(indexes)))
        assert len({index.chain.id for index in indexes}) <= 1
        for before, index in zip(segments, indexes[1:], strict=False):
            assert index.chain.previous == hashlib.sha256(before).hexdigest()
        places = [(index.run, index.connection, index.sequence) for index in indexes]
        assert len(set(places)) == len(places), "one active file became two segments"
        assert self.disk.list("spot/active") == []
        assert [path for path in self.disk.list() if path.endswith(".tmp")] == []
        counts = Counter(self.lines())
        assert [missing for missing in expected if missing not in counts] == []
        if once:
            assert [line for line, count in counts.items() if count > 1] == []


def operations_of_a_story():
    disk = MemoryDisk()
    World(disk).story()
    return len(disk.operations)


# --- an orderly life -------------------------------------------------------------------------------------------------------


def test_an_orderly_life_seals_every_line_once_in_one_chain():
    world = World(MemoryDisk())
    spool = world.story()
    world.check(world.returned)
    assert spool.take_notes() == []
    assert spool.held_bytes == 0
    assert [index.chain.reason for index in map(segment.verify_segment, world.segments())][:2] == ["new spool", None]
    assert all(segment.verify_segment(data).unchecked_count == 0 for data in world.segments())
    assert all(segment.verify_segment(data).order is None for data in world.segments())


def test_every_segment_begins_with_an_open_line_and_ends_with_a_close_line():
    world = World(MemoryDisk())
    world.story()
    for data in world.segments():
        frames = [frame for _, _, frame in segment.lines_in_order(data)]
        kind, fields = wire.parse_control(frames[0])
        index = segment.verify_segment(data)
        assert kind == "open"
        assert (fields["connection"], fields["sequence"], fields["run"]) == (index.connection, index.sequence, index.run)
        assert fields["streams"] == ["btcusdt@depth@100ms"]
        assert wire.parse_control(frames[-1])[0] == "close"
    finals = [wire.parse_control(list(segment.lines_in_order(data))[-1][2])[1]["final"] for data in world.segments()]
    assert finals.count(True) == 2


def test_receive_times_increase_within_a_segment():
    world = World(MemoryDisk())
    world.story()
    for data in world.segments():
        times = [ns for _, ns, _ in segment.lines_in_order(data)]
        assert times == sorted(times)


def test_a_new_run_goes_on_with_the_chain():
    world = World(MemoryDisk())
    world.story(0)
    world.story(1)
    world.check(world.returned, once=False)
    assert len({segment.verify_segment(data).run for data in world.segments()}) == 2


def test_each_returned_write_and_sync_is_acknowledged_with_file_and_offset():
    disk, heard = MemoryDisk(), []
    spool = make(disk, acknowledge=lambda *what: heard.append((*what, len(disk.files[what[1]]))))
    spool.recover()
    spool.open(1, url="u", streams=[], now_ns=at(0), event_time_us=None)
    spool.write(1, [line(1), line(2)])
    spool.sync(at(3))
    spool.sync(at(4))
    assert [(kind, path) for kind, path, _, _ in heard] == [
        ("written", "spot/active/00000001-1-1.tape"),
        ("written", "spot/active/00000001-1-1.tape"),
        ("written", "spot/active/00000001-1-1.tape"),
        ("synced", "spot/active/00000001-1-1.tape"),
    ], "one write a call, and nothing is synced twice"
    assert all(offset == size for _, _, offset, size in heard)


def sealed_lines(disk, sealed):
    return list(segment.lines_in_order(disk.read(sealed.path)))


def started(disk, **options):
    spool = make(disk, **options)
    spool.recover()
    spool.open(1, url="u", streams=["btcusdt@depth@100ms"], now_ns=at(0), event_time_us=None)
    return spool


def test_a_segment_ends_before_the_first_frame_of_a_new_hour():
    spool = started(MemoryDisk())
    (first,) = spool.write(1, [line(998), line(999), line(1000), line(1001)])
    (second,) = spool.close_all(reason="stop", now_ns=at(2000))
    frames = [
        [frame for name, _, frame in sealed_lines(spool._disk, sealed) if name != wire.TWINTAPE] for sealed in (first, second)
    ]
    assert frames == [[line(998)[1], line(999)[1]], [line(1000)[1], line(1001)[1]]]
    hours = [key.split("/")[5] for key in (first.key, second.key)]
    assert int(hours[1]) == int(hours[0]) + 1
    fields = wire.parse_control(sealed_lines(spool._disk, second)[0][2])[1]
    assert fields["event_time_us"] == (T_MS + 1000) * 1000


def test_the_greatest_exchange_time_is_shared_by_the_connections_of_a_market():
    disk = MemoryDisk()
    spool = started(disk)
    spool.write(1, [line(500)])
    spool.open(2, url="u", streams=[], now_ns=at(501), event_time_us=(T_MS + 100) * 1000)
    assert (
        wire.parse_control(disk.read("spot/active/00000001-2-1.tape").split(b" ", 1)[1])[1]["event_time_us"]
        == (T_MS + 500) * 1000
    )


ABSURD_MS = 500 * 86_400_000


@pytest.mark.parametrize("position", [0, 1, 5])
def test_one_absurd_event_time_misfiles_nothing_that_comes_after_it(position):
    disk = MemoryDisk()
    spool = started(disk)
    spool.open(2, url="u", streams=["btcusdt@depth@100ms"], now_ns=at(0), event_time_us=None)
    lines = [line(number) for number in range(8)]
    lines[position] = (lines[position][0], line(position + ABSURD_MS)[1])
    for one in lines:
        spool.write(1, [one])
        spool.write(2, [(one[0] + 1, line(7)[1])])
    spool.cut(1, reason="test", now_ns=at(10))
    spool.write(1, [line(20), line(21)])
    spool.close_all(reason="stop", now_ns=at(2000))
    indexes = [segment.verify_segment(disk.read(sealed.path)) for sealed in spool.pending()]
    assert len(indexes) == 3, "no segment more than without it"
    assert len({(index.date, index.hour) for index in indexes}) == 1
    assert {block.date for index in indexes for stream in index.streams for block in stream.blocks} == {indexes[0].date}


def test_a_late_frame_at_the_beginning_of_a_segment_does_not_bring_an_exchange_of_the_future_back():
    disk = MemoryDisk()
    spool = started(disk)
    spool.write(1, [(at(0), line(ABSURD_MS)[1]), (at(1), line(ABSURD_MS + 1)[1])])
    spool.cut(1, reason="test", now_ns=at(2))
    spool.write(1, [(at(3), line(3)[1]), (at(4), line(ABSURD_MS + 4)[1])])
    spool.close_all(reason="stop", now_ns=at(5))
    first, second = (segment.verify_segment(disk.read(sealed.path)) for sealed in spool.pending())
    assert (first.date, first.hour) == (second.date, second.hour)


def test_a_segment_ends_at_its_size_and_the_next_has_the_rest():
    disk = MemoryDisk()
    spool = started(disk, limits=SpoolLimits(segment_size=1000))
    sealed = spool.write(1, [line(number) for number in range(20)])
    assert len(sealed) >= 3
    sealed += spool.close_all(reason="stop", now_ns=at(100))
    frames = [frame for one in sealed for name, _, frame in sealed_lines(disk, one) if name != wire.TWINTAPE]
    assert frames == [line(number)[1] for number in range(20)]


def test_a_segment_smaller_than_its_open_line_still_takes_a_line():
    disk = MemoryDisk()
    spool = started(disk, limits=SpoolLimits(segment_size=1))
    sealed = spool.write(1, [line(0), line(1), line(2)])
    assert [segment.verify_segment(disk.read(one.path)).streams[1].count for one in sealed] == [1, 1, 1]


def test_an_idle_connection_gets_no_new_segment_before_it_has_something_to_say():
    disk = MemoryDisk()
    spool = started(disk)
    assert spool.seal_due(at(44_999)) == []
    assert len(spool.seal_due(at(45_000))) == 1
    assert spool.seal_due(at(999_000)) == []
    assert disk.list("spot/active") == []
    spool.write(1, [line(999_500)])
    assert disk.list("spot/active") == ["spot/active/00000001-1-2.tape"]


def test_a_connection_that_says_nothing_any_more_still_records_its_end():
    spool = started(MemoryDisk())
    spool.seal_due(at(45_000))
    (sealed,) = spool.close(1, reason="stale", code=None, now_ns=at(50_000))
    frames = [frame for _, _, frame in sealed_lines(spool._disk, sealed)]
    assert [wire.parse_control(frame)[0] for frame in frames] == ["open", "close"]
    assert wire.parse_control(frames[1])[1] == {"stream": "!twintape@close", "reason": "stale", "code": None, "final": True}


def test_a_segment_can_be_cut_without_ending_the_connection():
    spool = started(MemoryDisk())
    spool.write(1, [line(1)])
    (sealed,) = spool.cut(1, reason="clock", now_ns=at(2))
    assert wire.parse_control(sealed_lines(spool._disk, sealed)[-1][2])[1]["reason"] == "clock"
    assert spool.cut(1, reason="clock", now_ns=at(3)) == []
    spool.write(1, [line(4)])
    assert len(spool.close_all(reason="stop", now_ns=at(5))) == 1


TIMES = st.sampled_from([*range(-30, 30), 998, 999, 1000, 1001, -1000, HOUR_MS, -HOUR_MS, ABSURD_MS, -30 * HOUR_MS])


@given(
    st.lists(st.tuples(st.lists(TIMES, min_size=1, max_size=4), st.booleans()), min_size=2, max_size=8),
    st.sampled_from([1000, 48 << 20]),
    st.none() | st.tuples(st.integers(0, 40), st.sampled_from(["before", "half", "after"])),
    st.sampled_from([None, 0, 0, 1]),
)
def test_lines_that_come_as_text_end_as_those_that_come_one_by_one(batches, segment_size, fault, hour):
    disks = [MemoryDisk(), MemoryDisk()]
    for disk, as_text in zip(disks, [False, True], strict=True):
        spool = make(disk, limits=SpoolLimits(segment_size=segment_size))
        spool.recover()
        event_time_us = None if hour is None else (T_MS + hour * HOUR_MS) * 1000
        spool.open(1, url="wss://a", streams=["btcusdt@depth@100ms"], now_ns=at(0), event_time_us=event_time_us)
        if fault is not None:
            disk.fault = failing(*fault, OSError("disk"))
        number = 0
        for times, odd in batches:
            frames = [line(1)[1].replace(b"%d" % (T_MS + 1), b"%b%d" % (b" " * odd, T_MS + time)) for time in times]
            lines = [(at(number + place), frame) for place, frame in enumerate(frames, 1)]
            number += len(lines)
            if as_text:
                spool.write_all([(1, text_of(lines))])
            else:
                spool.write(1, lines)
        spool.sync(at(number + 1))
        spool.close_all(reason="end", now_ns=at(number + 2))
    assert disks[0].files == disks[1].files


def test_frames_that_cannot_stand_on_a_line_are_kept_all_the_same():
    disk = MemoryDisk()
    spool = started(disk)
    bad = [b"a\nb", b"a\rb", b"\0", b"", b"\xff", "币".encode()[:2], "币".encode()[2:]]
    spool.write(1, [(at(k), frame) for k, frame in enumerate([*bad, b"good"])])
    (sealed,) = spool.close_all(reason="stop", now_ns=at(100))
    frames = [frame for name, _, frame in sealed_lines(disk, sealed) if name != wire.TWINTAPE]
    assert frames == [*(wire.bytes_line(1, frame) for frame in bad), b"good"]


def test_one_number_is_one_connection():
    spool = started(MemoryDisk())
    with pytest.raises(ValueError, match="is open"):
        spool.open(1, url="u", streams=[], now_ns=0, event_time_us=None)


# --- who may use it --------------------------------------------------------------------------------------------------------


def test_a_spool_has_one_process_at_a_time(tmp_path):
    first = make(PosixDisk(tmp_path))
    with pytest.raises(RefusedError, match="another process"):
        make(PosixDisk(tmp_path))
    del first


def test_a_spool_belongs_to_one_collector_and_market():
    disk = MemoryDisk()
    World(disk).story()
    with pytest.raises(RefusedError, match="belongs to tokyo/spot"):
        make(disk, collector="osaka")
    make(disk, market=Market.USDM)
    with pytest.raises(ConfigError):
        make(disk, collector="../x")


def test_a_spool_of_a_newer_version_is_left_alone():
    disk = MemoryDisk()
    World(disk).story()
    disk.files["spot/chain.json"] = disk.files["spot/chain.json"].replace(b"twintape-chain/1", b"twintape-chain/2")
    with pytest.raises(RefusedError, match="unknown format"):
        make(disk)


# --- crashes ---------------------------------------------------------------------------------------------------------------


def die(world, number, when):
    world.disk.fault = failing(number, when, Crash())
    with pytest.raises(Crash):
        world.story()


def reborn(world, disk):
    after = World(disk)
    after.store = world.store
    make(disk, 1).recover()
    return after


@pytest.mark.parametrize("when", ["before", "half", "after"])
def test_killed_at_any_operation_nothing_written_is_lost_and_nothing_sealed_twice(when):
    for number in range(operations_of_a_story()):
        world = World(MemoryDisk())
        die(world, number, when)
        after = reborn(world, world.disk.after_kill())
        after.check(world.returned)
        before = copy.deepcopy(after.disk.files)
        make(after.disk, 2).recover()
        assert after.disk.files == before, "recovering again changes nothing"


@pytest.mark.parametrize("keep", [lambda path, size: 0, lambda path, size: size // 2, lambda path, size: max(size - 1, 0)])
def test_without_power_at_any_operation_nothing_synced_is_lost(keep):
    for number in range(operations_of_a_story()):
        world = World(MemoryDisk())
        die(world, number, "after")
        after = reborn(world, world.disk.after_power_loss(keep))
        after.check(world.promised)


def test_killed_again_at_any_operation_of_the_recovery_the_next_one_gets_there():
    for number in range(0, operations_of_a_story(), 3):
        world = World(MemoryDisk())
        die(world, number, "half")
        left = world.disk.after_power_loss(lambda path, size: size * 2 // 3)
        probe = copy.deepcopy(left)
        make(probe, 1).recover()
        for again in range(len(probe.operations)):
            for when in ("before", "half", "after"):
                disk = copy.deepcopy(left)
                disk.fault = failing(again, when, Crash())
                with pytest.raises(Crash):
                    make(disk, 1).recover()
                after = reborn(world, disk.after_kill())
                after.check(world.promised)


# --- a failing disk --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("when", ["before", "half", "after"])
def test_any_operation_may_fail_once_and_every_line_is_still_sealed_once(when):
    for number in range(3, operations_of_a_story()):
        disk = MemoryDisk()
        world = World(disk)
        disk.fault = failing(number, when, OSError(5, "Input/output error"))
        spool = world.story()
        spool.seal_due(at(48_000))
        assert spool.take_notes() != []
        assert (spool.held_bytes, spool.lost_count) == (0, 0)
        left = [path for path in disk.list("spot/active") if disk.files[path] == b""]
        assert len(left) <= 1, "a file that may not even be there"
        for path in left:
            del disk.files[path]
        leftovers = [path for path in disk.list() if path.endswith(".tmp")]
        assert len(leftovers) <= 1
        for path in leftovers:
            del disk.files[path]
        world.check(world.returned)


@pytest.mark.parametrize("when", ["before", "half", "after"])
def test_a_disk_that_fails_for_a_while_loses_nothing_that_fits_into_memory(when):
    for number in range(3, operations_of_a_story(), 4):
        disk = MemoryDisk()
        world = World(disk)
        left = [number]

        def fault(name, path, left=left):
            left[0] -= 1
            return (when, OSError(28, "No space left on device")) if -8 <= left[0] < 0 else None

        disk.fault = fault
        spool = world.story()
        disk.fault = lambda name, path: None
        spool.sync(at(48_000))
        spool.seal_due(at(48_001))
        assert (spool.held_bytes, spool.lost_count) == (0, 0)
        counts = Counter(World.lines(world))
        assert [line for line in world.returned if counts[line] != 1] == []


def test_a_failed_sync_moves_what_was_not_synced_into_a_new_segment():
    disk = MemoryDisk()
    spool = started(disk)
    spool.write(1, [line(1)])
    spool.sync(at(2))
    spool.write(1, [line(3), line(4)])
    disk.fault = lambda name, path: (
        ("before", OSError(5, "Input/output error")) if (name, path[-8:]) == ("sync", "1-1.tape") else None
    )
    spool.sync(at(5))
    assert disk.synced["spot/active/00000001-1-2.tape"] == len(disk.files["spot/active/00000001-1-2.tape"])
    (first,) = spool.write(1, [line(6)])
    (second,) = spool.close_all(reason="stop", now_ns=at(7))
    frames = [[frame for name, _, frame in sealed_lines(disk, sealed) if name != wire.TWINTAPE] for sealed in (first, second)]
    assert frames == [[line(1)[1]], [line(3)[1], line(4)[1], line(6)[1]]]
    (note,) = spool.take_notes()
    assert (note.kind, note.path) == ("disk", "spot/active/00000001-1-1.tape")


def test_while_the_disk_is_gone_lines_are_held_and_the_alarm_is_on():
    disk = MemoryDisk()
    spool = started(disk)
    assert spool.alarm_level == 0
    disk.fault = lambda name, path: ("before", OSError(5, "Input/output error"))
    spool.write(1, [line(1)])
    assert spool.held_bytes > 0
    assert spool.alarm_level == 3
    spool.sync(at(2))
    spool.seal_due(at(3))
    assert spool.close(1, reason="stop", code=None, now_ns=at(4)) == []
    disk.fault = lambda name, path: None
    spool.sync(at(5))
    sealed = spool.seal_due(at(6))
    frames = [frame for one in sealed for name, _, frame in sealed_lines(disk, one) if name != wire.TWINTAPE]
    assert frames == [line(1)[1]]
    assert (spool.held_bytes, spool.alarm_level) == (0, 0)


def test_what_memory_cannot_hold_is_counted_and_recorded():
    disk = MemoryDisk()
    spool = started(disk, limits=SpoolLimits(held_size=1000))
    disk.fault = lambda name, path: ("before", OSError(28, "No space left on device"))
    spool.write(1, [line(number) for number in range(1, 50)])
    spool.write(1, [line(number) for number in range(50, 100)])
    assert spool.lost_count > 80
    assert spool.held_bytes <= 1000
    kept = 99 - spool.lost_count
    assert [note.kind for note in spool.take_notes()].count("lost") == 1
    disk.fault = lambda name, path: None
    spool.write(1, [line(100)])
    (sealed,) = spool.close_all(reason="stop", now_ns=at(101))
    lines = sealed_lines(disk, sealed)
    frames = [frame for name, _, frame in lines if name != wire.TWINTAPE]
    assert frames == [line(number)[1] for number in [*range(1, kept + 1), 100]]
    (suspect,) = [wire.parse_control(frame)[1] for name, _, frame in lines if b"@suspect" in frame]
    assert (suspect["from_ns"], suspect["to_ns"]) == (line(kept + 1)[0], line(99)[0])
    assert suspect["reason"] == f"spool: {spool.lost_count} lines lost"


def test_above_the_budget_lines_wait_in_memory_until_the_store_takes_something():
    disk = MemoryDisk()
    spool = started(disk, limits=SpoolLimits(budget_size=4000, segment_size=1500))
    levels = []
    for number in range(1, 200):
        spool.write(1, [line(number)])
        levels.append(spool.alarm_level)
        if spool.held_bytes:
            break
    assert set(levels) == {0, 1, 2, 3}
    assert levels == sorted(levels)
    assert spool.used_bytes >= 4000
    for sealed in spool.pending():
        spool.confirmed(sealed)
    spool.sync(at(1000))
    assert spool.held_bytes == 0
    assert disk.list("spot/sealed") == [sealed.path for sealed in spool.pending()]


def test_spools_of_one_process_share_their_budget_and_its_alarms():
    disk, sharing, limits = MemoryDisk(), [], SpoolLimits(budget_size=10_000)
    spot = started(disk, limits=limits, sharing=sharing)
    usdm = make(disk, limits=limits, sharing=sharing, market=Market.USDM)
    usdm.recover()
    usdm.open(1, url="u", streams=[], now_ns=at(0), event_time_us=None)
    levels, number = [], 0
    while not spot.held_bytes:
        number += 1
        spot.write(1, [line(number)])
        assert spot.alarm_level == usdm.alarm_level or spot.held_bytes
        levels.append(usdm.alarm_level)
    assert sorted(set(levels)) == [0, 1, 2, 3]
    assert levels == sorted(levels)
    usdm.write(1, [line(1)])
    assert usdm.held_bytes > 0, "what one market uses is not there for the other"
    assert spot.shared_bytes == usdm.shared_bytes == spot.used_bytes + usdm.used_bytes
    spot.cut(1, reason="test", now_ns=at(number + 1))
    for sealed in spot.pending():
        spot.confirmed(sealed)
    usdm.sync(at(number + 2))
    assert usdm.held_bytes == 0, "and what it gives up is"


def test_some_room_is_left_on_the_volume_for_sealing():
    disk = MemoryDisk()
    spool = started(disk, limits=SpoolLimits(reserve_size=1000))
    disk.free = 999
    spool.sync(at(0))
    spool.write(1, [line(1)])
    assert spool.held_bytes > 0
    assert len(spool.seal_due(at(60_000))) == 1, "sealing goes on"
    disk.free = 10**9
    spool.sync(at(60_001))
    assert spool.held_bytes == 0


def test_a_sealed_file_is_not_offered_before_the_chain_knows_it_and_its_active_file_is_gone():
    for broken in ("write_atomically spot/chain.json", "remove spot/active/00000001-1-1.tape"):
        disk = MemoryDisk()
        spool = started(disk)
        spool.write(1, [line(1)])

        def fault(name, path, broken=broken):
            return ("before", OSError(5, "Input/output error")) if f"{name} {path}" == broken else None

        disk.fault = fault
        assert spool.close_all(reason="stop", now_ns=at(2)) == []
        assert spool.pending() == []
        assert len(disk.list("spot/sealed")) == 1
        disk.fault = lambda name, path: None
        assert spool.seal_due(at(3)) == spool.pending() != []


def test_nothing_is_offered_while_the_chain_is_on_record_nowhere_but_in_the_sealed_files():
    disk = MemoryDisk()
    started(disk).close_all(reason="stop", now_ns=at(2))
    del disk.files["spot/chain.json"]
    disk.fault = failing(0, "before", OSError(5, "Input/output error"))
    spool = make(disk, 1)
    spool.recover()
    assert spool.pending() == []
    spool.seal_due(at(3))
    assert len(spool.pending()) == 1


def test_a_failed_file_stays_as_long_as_its_lines_are_in_no_other():
    disk = MemoryDisk()
    spool = started(disk)
    spool.write(1, [line(1), line(2)])
    disk.fault = lambda name, path: ("before", OSError(5, "Input/output error")) if name in ("append", "sync") else None
    spool.sync(at(3))
    spool.seal_due(at(4))
    assert spool.held_bytes > 0
    after = disk.after_kill()
    make(after, 1).recover()
    assert World(after).lines() == [line(1), line(2)]


def test_what_could_not_be_sealed_survives_a_power_loss_once_it_was_synced():
    disk = MemoryDisk()
    spool = started(disk)
    disk.fault = lambda name, path: ("before", OSError(5, "Input/output error")) if name == "write_atomically" else None
    spool.write(1, [line(1), line(2)])
    spool.cut(1, reason="clock step", now_ns=at(3))
    spool.sync(at(4))
    assert spool.held_bytes == 0
    after = disk.after_power_loss(lambda path, size: 0)
    make(after, 1).recover()
    assert World(after).lines() == [line(1), line(2)]


def test_a_file_that_cannot_be_read_waits_for_the_next_start():
    disk = MemoryDisk()
    spool = started(disk)
    spool.write(1, [line(1)])
    disk.unreadable.add("spot/active/00000001-1-1.tape")
    assert spool.close_all(reason="stop", now_ns=at(2)) == []
    assert [note.kind for note in spool.take_notes()] == ["unreadable"]
    disk.unreadable.clear()
    make(disk, 1).recover()
    assert World(disk).lines() == [line(1)]


def test_a_confirmed_file_that_cannot_be_removed_is_removed_later_and_not_offered_again():
    disk = MemoryDisk()
    spool = started(disk)
    (sealed,) = spool.close_all(reason="stop", now_ns=at(2))
    disk.fault = failing(0, "before", OSError(5, "Input/output error"))
    spool.confirmed(sealed)
    assert spool.pending() == []
    assert disk.list("spot/sealed") == [sealed.path]
    spool.seal_due(at(3))
    assert disk.list("spot/sealed") == []
    assert spool.used_bytes == 0
    spool.confirmed(sealed)
    assert [note.path for note in spool.take_notes()] == [sealed.path]


# --- damage ----------------------------------------------------------------------------------------------------------------


def abandoned(disk, numbers=range(1, 4)):
    """Leave a disk as a killed process leaves it, one line synced at least."""
    spool = started(disk)
    spool.write(1, [line(number) for number in numbers])
    spool.sync(at(100))
    return "spot/active/00000001-1-1.tape"


def quarantined(disk):
    return {path: disk.files[path] for path in disk.list("spot/quarantine")}


def test_a_torn_tail_is_kept_aside_before_the_rest_is_sealed():
    disk = MemoryDisk()
    path = abandoned(disk)
    disk.files[path] += segment.format_line(*line(5)) + b"1700 {torn"
    disk.operations.clear()
    notes = make(disk, 1).recover()
    assert World(disk).lines() == [line(1), line(2), line(3), line(5)]
    assert list(quarantined(disk).values()) == [b"1700 {torn"]
    assert [note.kind for note in notes] == ["quarantine"]
    assert [name for name, _ in disk.operations[:3]] == ["write_atomically", "write_atomically", "write_atomically"]
    assert "quarantine" in disk.operations[0][1]
    (sealed,) = disk.list("spot/sealed")
    assert segment.verify_segment(disk.read(sealed)).unchecked_count == 1


def test_a_file_without_a_single_line_leaves_nothing_but_its_tail():
    disk = MemoryDisk()
    disk.files["spot/active/00000001-1-1.tape"] = b""
    disk.files["spot/active/00000001-1-2.tape"] = b"\0" * 100
    make(disk, 1).recover()
    assert disk.list("spot/active") == disk.list("spot/sealed") == []
    assert list(quarantined(disk).values()) == [b"\0" * 100]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"collector":"tokyo"', b'"collector":"osaka"'),
        (b'"market":"spot"', b'"market":"usdm"'),
        (b'"connection":1', b'"connection":2'),
        (b'"sequence":1', b'"sequence":"1"'),
        (b'"run":"00000001', b'"run":"00000002'),
        (b"!twintape@open", b"!twintape@nope"),
        (b'0000000000000000"', b'x"'),
    ],
)
def test_an_active_file_that_is_not_what_its_name_says_is_set_aside_whole(old, new):
    disk = MemoryDisk()
    path = abandoned(disk)
    disk.files[path] = changed = disk.files[path].replace(old, new)
    notes = make(disk, 1).recover()
    assert changed in quarantined(disk).values()
    assert disk.list("spot/sealed") == disk.list("spot/active") == []
    assert "quarantine" in {note.kind for note in notes}


def test_files_with_strange_names_are_set_aside_and_never_over_one_another():
    disk = MemoryDisk()
    for number in range(2):
        disk.files["spot/active/x"] = b"%d" % number
        disk.files["spot/sealed/y"] = b"%d" % number
        disk.files["spot/sealed/z.tape.zst.tmp"] = b"unfinished"
        make(disk, 1).recover()
    assert sorted(quarantined(disk).values()) == [b"0", b"0", b"1", b"1"]
    assert disk.list("spot/active") == disk.list("spot/sealed") == []


def test_a_damaged_sealed_file_is_set_aside_and_its_active_twin_sealed_again():
    disk = MemoryDisk()
    path = abandoned(disk)
    twin = disk.files[path]
    make(disk, 1).recover()
    (sealed,) = disk.list("spot/sealed")
    for position in (10, len(disk.files[sealed]) - 40):
        other = copy.deepcopy(disk)
        damaged = bytearray(other.files[sealed])
        damaged[position] ^= 1
        other.files[sealed] = bytes(damaged)
        other.files[path] = twin
        notes = make(other, 2).recover()
        assert [note.kind for note in notes] == ["quarantine"]
        assert bytes(damaged) in quarantined(other).values()
        (again,) = other.list("spot/sealed")
        assert segment.verify_segment(other.files[again]).chain.number == 1, "the number of the damaged one is not given twice"
        assert [frame for name, _, frame in segment.lines_in_order(other.files[again]) if name != wire.TWINTAPE]


def test_a_sealed_file_under_the_name_of_another_is_set_aside():
    disk = MemoryDisk()
    abandoned(disk)
    make(disk, 1).recover()
    (sealed,) = disk.list("spot/sealed")
    disk.files[sealed.replace("sealed/0000000000", "sealed/0000000007")] = disk.files.pop(sealed)
    make(disk, 2).recover()
    assert disk.list("spot/sealed") == []
    assert len(quarantined(disk)) == 1


def test_a_sealed_file_found_damaged_on_the_way_to_the_store_is_set_aside():
    disk = MemoryDisk()
    spool = started(disk)
    (sealed,) = spool.close_all(reason="stop", now_ns=at(2))
    disk.fault = failing(0, "before", OSError(5, "Input/output error"))
    spool.damaged(sealed, "bit rot")
    assert spool.pending() == [sealed]
    spool.damaged(sealed, "bit rot")
    assert spool.pending() == []
    assert len(quarantined(disk)) == 1
    assert spool.used_bytes == sealed.size
    assert spool.take_notes()[-1].detail.endswith("bit rot")


def test_a_sealed_file_of_the_backlog_that_cannot_be_read_does_not_keep_the_collector_from_starting():
    disk = MemoryDisk()
    abandoned(disk)
    make(disk, 1).recover()
    (sealed,) = disk.list("spot/sealed")
    disk.unreadable.add(sealed)
    spool = make(disk, 2)
    assert [note.kind for note in spool.recover()] == ["unreadable"]
    assert spool.pending() == []
    del disk.files["spot/chain.json"]
    with pytest.raises(OSError, match="Input/output"):
        make(disk, 3).recover()  # the chain's end may hang on it


def test_a_spool_that_was_lost_begins_a_new_chain_and_says_so():
    disk = MemoryDisk()
    World(disk).story()
    chains = {segment.verify_segment(disk.read(path)).chain.id for path in disk.list("spot/sealed")}
    disk.files.clear()
    World(disk).story(1)
    (first, *_) = disk.list("spot/sealed")
    chain = segment.verify_segment(disk.read(first)).chain
    assert chain.reason == "new spool" or chain.number > 0
    assert chain.id not in chains


@pytest.mark.parametrize("damage", [b"", b"{", b"\xff", b"[1]", b'{"format":5}'])
def test_a_damaged_record_is_kept_aside_and_the_sealed_files_tell_where_the_chain_is(damage):
    world = World(MemoryDisk())
    world.story()
    disk = world.disk
    disk.files["spot/chain.json"] = damage
    spool = make(disk, 1)
    notes = spool.recover()
    assert [note.kind for note in notes] == ["quarantine"]
    assert damage in quarantined(disk).values()
    assert msgspec.json.decode(disk.files["spot/chain.json"])["number"] == len(world.segments()) - 1
    world.story(2)
    world.check(world.returned, once=False)


def test_without_record_and_sealed_files_the_new_chain_names_the_damage():
    disk = MemoryDisk()
    disk.files["spot/chain.json"] = b"\0" * 50
    spool = started(disk)
    (sealed,) = spool.close_all(reason="stop", now_ns=at(1))
    assert segment.verify_segment(disk.read(sealed.path)).chain.reason == "damaged chain record"


def test_of_two_chains_without_record_the_one_written_last_goes_on():
    disk = MemoryDisk()
    started(disk).close_all(reason="stop", now_ns=at(1))
    old = dict(disk.files)
    disk.files.clear()
    spool = make(disk, 1)
    spool.recover()
    for connection in (1, 2):
        spool.open(connection, url="u", streams=[], now_ns=at(5000), event_time_us=None)
    spool.close_all(reason="stop", now_ns=at(6000))
    disk.files |= {path: data for path, data in old.items() if "sealed" in path}
    del disk.files["spot/chain.json"]
    make(disk, 2).recover()
    record = msgspec.json.decode(disk.files["spot/chain.json"])
    assert (record["id"], record["number"]) == (f"{1:016x}", 1)


def test_a_sealed_file_with_a_large_index_is_found_again():
    disk = MemoryDisk()
    spool = make(disk)
    spool.recover()
    spool.open(1, url="u", streams=[], now_ns=at(0), event_time_us=None)
    spool.write(1, [(at(number + 1), b'{"stream":"symbol%dusdt@trade","data":{}}' % number) for number in range(400)])
    (sealed,) = spool.close_all(reason="stop", now_ns=at(1000))
    assert make(disk, 1).pending() == []
    again = make(disk, 1)
    again.recover()
    assert again.pending() == [sealed]


# --- a real disk and a real death --------------------------------------------------------------------------------------------

PROGRAM = """
import sys
from twintape.core.markets import Market
from twintape.io.disk import PosixDisk
from twintape.io.spool import Spool, SpoolLimits

root, run, start = sys.argv[1], sys.argv[2], int(sys.argv[3])
spool = Spool(PosixDisk(root), collector="tokyo", market=Market.SPOT, run=run, version="1", draw_chain_id=lambda: "0" * 16,
              limits=SpoolLimits(segment_size=3000))
spool.recover()
spool.open(1, url="u", streams=[], now_ns=start, event_time_us=None)
for number in range(start, start + 10**7):
    spool.write(1, [(number, b'{"n":%d}' % number)])
    print(number, flush=True)
    if number % 20 == 0:
        spool.sync(number)
"""


def test_a_process_killed_at_any_moment_loses_no_line_it_said_it_had_written(tmp_path):
    said = []
    for life in range(6):
        start = 10**9 * (life + 1)
        child = subprocess.Popen([sys.executable, "-c", PROGRAM, str(tmp_path), RUNS[life], str(start)], stdout=subprocess.PIPE)
        said += [int(child.stdout.readline()) for _ in range(37 + 61 * life)]
        os.kill(child.pid, signal.SIGKILL)
        said += [int(rest) for rest in child.stdout.read().split(b"\n")[:-1]]
        child.wait()
        child.stdout.close()
    disk = PosixDisk(tmp_path)
    make(disk, 50).recover()
    paths = disk.list("spot/sealed")
    found = []
    for number, path in enumerate(paths):
        assert segment.verify_segment(disk.read(path)).chain.number == number
        found += [int(frame[5:-1]) for name, _, frame in segment.lines_in_order(disk.read(path)) if name != wire.TWINTAPE]
    assert set(said) <= set(found)
    assert len(set(found)) == len(found)
    assert disk.list("spot/active") == []


def test_the_last_lines_may_use_the_reserve_and_survive_the_end():
    """A process that ends on a full disk has nowhere else to keep them."""
    disk = MemoryDisk()
    spool = started(disk, limits=SpoolLimits(reserve_size=1000))
    disk.free = 900
    spool.sync(at(1))
    lines = [line(number) for number in range(5)]
    spool.write(1, lines)
    assert spool.held_bytes > 0
    spool.close_all(reason="end", now_ns=at(10))
    assert spool.held_bytes == 0
    kept = [found for sealed in spool.pending() for _, *found in segment.lines_in_order(disk.read(sealed.path))]
    assert [tuple(found) for found in kept if tuple(found) in lines] == lines
