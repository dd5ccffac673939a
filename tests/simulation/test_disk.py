import errno
import random
from collections import Counter

import pytest

from twintape.simulation.disk import SECTOR_SIZE, Crash, DiskFault, Volume

TRIES = 60


def after_power_loss(prepare):
    """Return what reboots find after `prepare(volume)`: for every path how often which content was there, None where it was not."""
    found = {}
    for seed in range(TRIES):
        volume = Volume(random.Random(seed))
        paths = prepare(volume)
        volume.lose_power()
        disk = volume.open()
        for path in paths:
            found.setdefault(path, Counter())[disk.read(path) if path in disk.list() else None] += 1
    return found


def failing(step, fault):
    return lambda name, path: fault if name == step else None


def io_error(done=0.0):
    return DiskFault(OSError(errno.EIO, "Input/output error"), done)


def test_what_was_synced_survives_a_power_loss_and_what_was_not_may_or_may_not():
    def prepare(volume):
        file = volume.open().append("a/file")
        file.write(b"synced")
        file.sync()
        file.write(b"behind")
        return ["a/file"]

    contents = after_power_loss(prepare)["a/file"]
    assert all(content.startswith(b"synced") for content in contents)
    assert contents[b"synced"]
    assert contents[b"syncedbehind"]
    lengths = {len(content) for content in contents}
    assert len(lengths) > 4, "any length in between"


def test_a_lost_sector_reads_as_zeros_between_others_that_survived():
    text = b"".join(bytes([65 + number]) * SECTOR_SIZE for number in range(6))

    def prepare(volume):
        volume.open().append("file").write(text)
        return ["file"]

    holes = 0
    for content in after_power_loss(prepare)["file"]:
        for start in range(0, len(content), SECTOR_SIZE):
            sector = content[start : start + SECTOR_SIZE]
            assert sector in (text[start : start + len(sector)], bytes(len(sector)))
        holes += b"\0" in content.rstrip(b"\0")
    assert holes > 5


def test_a_kill_loses_nothing_that_was_written():
    volume = Volume(random.Random(1))
    volume.open().append("file").write(b"text")
    volume.kill()
    assert volume.open().read("file") == b"text"


def test_a_new_file_is_there_after_a_power_loss_because_its_entry_was_synced():
    def prepare(volume):
        volume.open().append("a/file")
        return ["a/file"]

    assert after_power_loss(prepare)["a/file"] == {b"": TRIES}


@pytest.mark.parametrize(
    ("act", "before", "after"),
    [
        (lambda disk: disk.rename("old/x", "new/x"), {"old/x": b"x", "new/x": None}, {"old/x": None, "new/x": b"x"}),
        (lambda disk: disk.remove("old/x"), {"old/x": b"x"}, {"old/x": None}),
        (lambda disk: disk.write_atomically("old/x", b"y"), {"old/x": b"x"}, {"old/x": b"y"}),
    ],
)
def test_an_entry_whose_directory_was_not_synced_is_as_before_or_as_after_and_never_torn(act, before, after):
    seen = []
    for seed in range(TRIES):
        volume = Volume(random.Random(seed))
        volume.open().write_atomically("old/x", b"x")
        volume.fault = failing("sync directory", DiskFault(Crash()))
        with pytest.raises(Crash):
            act(volume.open())
        volume.fault = lambda step, path: None
        volume.lose_power()
        disk = volume.open()
        seen.append({path: disk.read(path) if path in disk.list() else None for path in before})
    assert before in seen
    assert after in seen
    assert all(found in (before, after) for found in seen)


def test_entries_of_one_directory_survive_independently_of_each_other():
    def prepare(volume):
        volume.fault = failing("sync directory", io_error())
        for name in ("a", "b"):
            with pytest.raises(OSError, match="Input/output"):
                volume.open().append(name)
        return ["a", "b"]

    seen = set()
    for seed in range(TRIES):
        volume = Volume(random.Random(seed))
        prepare(volume)
        volume.lose_power()
        seen.add(tuple(volume.open().list()))
    assert seen == {(), ("a",), ("b",), ("a", "b")}


def test_a_failed_sync_drops_what_was_dirty_and_the_next_one_claims_success():
    lost = 0
    for seed in range(TRIES):
        volume = Volume(random.Random(seed))
        file = volume.open().append("file")
        file.write(b"x" * 3 * SECTOR_SIZE)
        volume.fault = failing("sync", io_error())
        with pytest.raises(OSError, match="Input/output"):
            file.sync()
        volume.fault = lambda step, path: None
        assert file.write(b"behind") == 3 * SECTOR_SIZE + 6
        file.sync()
        volume.lose_power()
        content = volume.open().read("file")
        assert content.endswith(b"behind")
        lost += content != b"x" * 3 * SECTOR_SIZE + b"behind"
    assert lost > TRIES / 2


def test_a_full_volume_takes_what_fits_and_has_room_again_when_something_goes():
    volume = Volume(random.Random(1), capacity=10)
    disk = volume.open()
    disk.append("a").write(b"123456")
    assert disk.free_bytes() == 4
    with pytest.raises(OSError, match="No space left") as caught:
        disk.append("b").write(b"123456")
    assert caught.value.errno == errno.ENOSPC
    assert (disk.size("b"), disk.free_bytes()) == (4, 0)
    disk.remove("a")
    assert disk.free_bytes() == 6


@pytest.mark.parametrize(("done", "content"), [(0.0, b""), (0.5, b"12"), (1.0, b"1234")])
def test_a_write_may_fail_half_way(done, content):
    volume = Volume(random.Random(1))
    file = volume.open().append("file")
    volume.fault = failing("write", io_error(done))
    with pytest.raises(OSError, match="Input/output"):
        file.write(b"1234")
    volume.fault = lambda step, path: None
    assert volume.open().read("file") == content


def test_a_read_may_fail_and_parts_can_be_read():
    volume = Volume(random.Random(1))
    disk = volume.open()
    disk.append("file").write(b"0123456789")
    assert (disk.read("file", 2, 3), disk.read("file", -3), disk.read("file", 8, 100)) == (b"234", b"789", b"89")
    volume.fault = failing("read", io_error())
    with pytest.raises(OSError, match="Input/output"):
        disk.read("file")


def test_one_process_has_a_lock_and_the_next_one_after_its_end():
    volume = Volume(random.Random(1))
    first, second = volume.open(), volume.open()
    assert first.lock("lock")
    assert first.lock("lock")
    assert not second.lock("lock")
    volume.kill()
    assert volume.open().lock("lock")


def test_a_process_that_has_ended_does_nothing_any_more():
    volume = Volume(random.Random(1))
    disk = volume.open()
    file = disk.append("file")
    volume.kill()
    for call in (lambda: file.write(b"x"), file.sync, lambda: disk.remove("file"), lambda: disk.append("b"), disk.list):
        with pytest.raises(OSError, match="this process has ended"):
            call()
    assert volume.open().read("file") == b""


def test_names_are_those_a_directory_can_have():
    disk = Volume(random.Random(1)).open()
    disk.append("a/b")
    with pytest.raises(FileExistsError):
        disk.append("a/b")
    with pytest.raises(FileNotFoundError):
        disk.read("a")
    with pytest.raises(FileNotFoundError):
        disk.remove("a/c")
    with pytest.raises(ValueError, match="not a relative path"):
        disk.append("../b")
    file = disk.append("ab")
    file.close()
    with pytest.raises(OSError, match="closed"):
        file.write(b"")
    assert (disk.list(), disk.list("a"), disk.list("a/")) == (["a/b", "ab"], ["a/b"], ["a/b"])
