import os
import stat
import subprocess
import sys

import pytest

from twintape.io import disk as disk_module
from twintape.io.disk import NearReader, PosixDisk, Tree


@pytest.fixture
def root(tmp_path):
    return tmp_path / "new" / "spool"


@pytest.fixture
def disk(root):
    return PosixDisk(root)


@pytest.fixture
def synced(monkeypatch):
    """Record what is synced, by inode, in order."""
    inodes = []
    real = os.fsync

    def fsync(fd):
        inodes.append(os.fstat(fd).st_ino)
        real(fd)

    monkeypatch.setattr(disk_module.os, "fsync", fsync)
    return inodes


def inode(path):
    return path.stat().st_ino


def test_what_is_appended_is_read_back(disk):
    file = disk.append("spot/active/a.tape")
    assert file.write(b"one\n") == 4
    assert file.write(b"two\n") == 8
    file.sync()
    file.close()
    file.close()
    assert disk.read("spot/active/a.tape") == b"one\ntwo\n"
    assert disk.read("spot/active/a.tape", 4) == b"two\n"
    assert disk.read("spot/active/a.tape", 2, 3) == b"e\nt"
    assert disk.read("spot/active/a.tape", 6, 100) == b"o\n"
    assert disk.read("spot/active/a.tape", 100) == b""
    assert disk.size("spot/active/a.tape") == 8


def test_a_closed_file_takes_nothing(disk):
    file = disk.append("a")
    file.close()
    with pytest.raises(OSError, match="closed"):
        file.write(b"x")
    with pytest.raises(OSError, match="closed"):
        file.sync()


def test_directories_are_0700_and_files_0600_whatever_the_umask(disk, root):
    old = os.umask(0)
    try:
        disk.append("spot/active/a.tape").close()
        disk.write_atomically("spot/chain.json", b"{}")
        disk.lock("lock")
    finally:
        os.umask(old)
    for path in (root / "spot", root / "spot" / "active", root):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700
    for name in ("spot/active/a.tape", "spot/chain.json", "lock"):
        assert stat.S_IMODE((root / name).stat().st_mode) == 0o600


def test_append_never_opens_a_file_that_exists(disk):
    disk.append("a").close()
    with pytest.raises(FileExistsError):
        disk.append("a")


def test_every_new_entry_is_synced_up_to_the_root(disk, root, synced):
    disk.append("spot/active/a.tape").close()
    assert synced == [inode(root), inode(root / "spot"), inode(root / "spot" / "active")]


def test_an_atomic_write_syncs_the_file_before_the_rename_and_the_directory_after_it(disk, root, synced, monkeypatch):
    disk.write_atomically("spot/x", b"old")
    synced.clear()
    events = synced
    real = os.rename
    monkeypatch.setattr(disk_module.os, "rename", lambda *a, **k: (events.append("rename"), real(*a, **k)))
    disk.write_atomically("spot/x", b"new")
    assert events == [inode(root / "spot" / "x"), "rename", inode(root / "spot")]
    assert disk.read("spot/x") == b"new"


def test_an_atomic_write_that_fails_leaves_the_old_content_and_can_be_repeated(disk, monkeypatch):
    disk.write_atomically("x", b"old")

    def fail(fd):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(disk_module.os, "fsync", fail)
        with pytest.raises(OSError, match="No space"):
            disk.write_atomically("x", b"newer")
    assert disk.read("x") == b"old"
    assert disk.list() == ["x", "x.tmp"]
    disk.write_atomically("x", b"new")
    assert disk.read("x") == b"new"
    assert disk.list() == ["x"]


def test_writes_that_the_kernel_cuts_short_are_continued(disk, monkeypatch):
    real = os.write
    monkeypatch.setattr(disk_module.os, "write", lambda fd, data: real(fd, bytes(data)[:3]))
    file = disk.append("a")
    assert file.write(b"0123456789") == 10
    disk.write_atomically("b", b"0123456789")
    assert disk.read("a") == disk.read("b") == b"0123456789"


def test_reads_that_the_kernel_cuts_short_are_continued(disk, monkeypatch):
    disk.write_atomically("a", b"0123456789")
    real = os.pread
    monkeypatch.setattr(disk_module.os, "pread", lambda fd, size, offset: real(fd, min(size, 3), offset))
    assert disk.read("a") == b"0123456789"
    monkeypatch.setattr(disk_module.os, "pread", lambda fd, size, offset: b"")
    assert disk.read("a") == b"", "a file that shrinks meanwhile ends"


def test_rename_and_remove_sync_the_directories(disk, root, synced):
    disk.write_atomically("a/x", b"1")
    disk.write_atomically("b/y", b"2")
    synced.clear()
    disk.rename("a/x", "b/z")
    assert sorted(synced) == sorted([inode(root / "a"), inode(root / "b")])
    synced.clear()
    disk.remove("b/z")
    assert synced == [inode(root / "b")]
    assert disk.list() == ["b/y"]


def test_what_is_not_there_is_not_found(disk):
    for action in (disk.read, disk.remove, disk.size):
        with pytest.raises(FileNotFoundError):
            action("nothing/here")
    with pytest.raises(FileNotFoundError):
        disk.rename("nothing", "x")
    assert disk.list("nothing") == []


def test_list_is_sorted_and_knows_directories_not_prefixes(disk):
    for path in ("b/2", "b/1", "b/c/3", "bb/4", "a"):
        disk.write_atomically(path, b"")
    assert disk.list() == ["a", "b/1", "b/2", "b/c/3", "bb/4"]
    assert disk.list("b") == disk.list("b/") == ["b/1", "b/2", "b/c/3"]
    assert disk.list("a") == []


@pytest.mark.parametrize("path", ["", "/etc/passwd", "..", "../x", "a/../../x", "a//b", "./a", "a/", "a\0b"])
def test_a_path_that_is_not_plain_is_refused(disk, path):
    for action in (disk.append, disk.read, disk.remove, disk.size, disk.lock):
        with pytest.raises(ValueError, match="not a relative path"):
            action(path)
    with pytest.raises(ValueError, match="not a relative path"):
        disk.write_atomically(path, b"")


def test_no_link_leads_out_of_the_root(disk, root, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_bytes(b"secret")
    (root / "directory").symlink_to(outside)
    (root / "file").symlink_to(outside / "secret")
    for path in ("directory/secret", "file"):
        with pytest.raises(OSError, match=r"\w"):
            disk.read(path)
        with pytest.raises(OSError, match=r"\w"):
            disk.append(path)
        with pytest.raises(OSError, match=r"\w"):
            disk.size(path)
    with pytest.raises(OSError, match=r"\w"):
        disk.write_atomically("directory/new", b"x")
    disk.write_atomically("file", b"x")  # replaces the link, not what it points to
    assert (outside / "secret").read_bytes() == b"secret"
    assert os.listdir(outside) == ["secret"]
    assert disk.list() == ["file"]


def test_pipes_and_directories_are_no_files(disk, root):
    os.mkfifo(root / "pipe")
    (root / "directory").mkdir()
    for path in ("pipe", "directory"):
        with pytest.raises(OSError, match=r"\w"):
            disk.read(path)
        with pytest.raises(FileNotFoundError):
            disk.size(path)
    assert disk.list() == []


def test_the_root_may_be_a_link(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    PosixDisk(tmp_path / "link").write_atomically("a", b"x")
    assert (tmp_path / "real" / "a").read_bytes() == b"x"


def test_a_root_that_was_replaced_is_noticed_before_anything_is_written(disk, root):
    disk.write_atomically("a", b"1")
    os.rename(root, root.with_name("gone"))
    for action in (disk.append, lambda path: disk.write_atomically(path, b""), lambda path: disk.rename("a", path)):
        with pytest.raises(OSError, match="is gone"):
            action("x")
    root.mkdir()
    with pytest.raises(OSError, match="unmounted"):
        disk.append("x")
    assert list(root.iterdir()) == []


def test_one_lock_for_one_holder(disk, root):
    assert disk.lock("lock")
    assert disk.lock("lock"), "the holder may ask again"
    assert not PosixDisk(root).lock("lock")
    assert PosixDisk(root).lock("other")


def test_a_lock_ends_with_its_process(disk, root):
    code = f"import sys; from twintape.io.disk import PosixDisk; print(PosixDisk({str(root)!r}).lock('lock'))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "True\n"
    assert disk.lock("lock")
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


def test_no_descriptor_is_inherited(disk, root):
    file = disk.append("a")
    disk.lock("lock")
    code = "import os; print([os.readlink(f'/proc/self/fd/{n}') for n in os.listdir('/proc/self/fd') if os.path.exists(f'/proc/self/fd/{n}')])"
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, close_fds=False)
    assert str(root) not in child.stdout
    file.close()


def test_nothing_stays_open(disk):
    before = len(os.listdir("/proc/self/fd"))
    for number in range(20):
        disk.write_atomically(f"a/b/{number}", b"x")
        disk.read(f"a/b/{number}")
        disk.rename(f"a/b/{number}", f"a/c/{number}")
        disk.list()
        with pytest.raises(FileNotFoundError):
            disk.read("a/b/none")
        disk.remove(f"a/c/{number}")
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_reader_of_near_files_reads_what_a_tree_reads(disk, root):
    tree = Tree(root)
    reader = NearReader(tree)
    for path in ("a/b/1", "a/b/2", "a/1", "1"):
        disk.write_atomically(path, path.encode() * 100)
    for _ in range(2):
        for path in ("a/b/1", "a/b/2", "a/1", "1"):
            for part in ((0, None), (3, 5), (-5, 5), (-10_000, 7), (10_000, 1)):
                assert reader.read(path, *part) == tree.read(path, *part)


def test_a_reader_of_near_files_finds_what_its_directories_have_no_more(disk, root):
    reader = NearReader(Tree(root))
    disk.write_atomically("a/b/1", b"old")
    assert reader.read("a/b/1") == b"old"
    with pytest.raises(FileNotFoundError):
        reader.read("a/b/2")
    disk.write_atomically("a/b/2", b"late")
    assert reader.read("a/b/2") == b"late"
    os.rename(root / "a", root / "c")
    (root / "c" / "b" / "1").unlink()
    disk.write_atomically("a/b/1", b"new")
    assert reader.read("a/b/1") == b"new"
    disk.remove("a/b/1")
    with pytest.raises(FileNotFoundError):
        reader.read("a/b/1")


def test_no_link_leads_a_reader_of_near_files_out_of_the_root(disk, root, tmp_path):
    (tmp_path / "secret").write_bytes(b"secret")
    disk.write_atomically("a/b/1", b"x")
    (root / "a" / "b" / "link").symlink_to(tmp_path / "secret")
    (root / "a" / "out").symlink_to(tmp_path)
    reader = NearReader(Tree(root))
    for _ in range(2):
        assert reader.read("a/b/1") == b"x"
        for path in ("a/b/link", "a/out/secret"):
            with pytest.raises(OSError, match=r"\w"):
                reader.read(path)
        for path in ("a/b/", "a/b/..", "a/b/.", "a/b/\0", "a/b/../../../secret"):
            with pytest.raises(ValueError, match="plain"):
                reader.read(path)


def test_a_reader_of_near_files_keeps_few_directories_open_and_leaves_none(disk, root):
    before = len(os.listdir("/proc/self/fd"))
    tree = Tree(root)
    reader = NearReader(tree)
    for number in range(3 * disk_module.DIRECTORIES_OPEN_MAX):
        disk.write_atomically(f"{number}/x", b"x")
        assert reader.read(f"{number}/x") == b"x"
    assert len(os.listdir("/proc/self/fd")) == before + 1 + disk_module.DIRECTORIES_OPEN_MAX
    del reader, tree
    assert len(os.listdir("/proc/self/fd")) == before


def test_free_bytes_are_those_of_the_volume(disk, root):
    status = os.statvfs(root)
    assert abs(disk.free_bytes() - status.f_bavail * status.f_frsize) < 1 << 30


def test_its_name_says_where_it_is(disk, root):
    assert repr(disk) == f"PosixDisk({str(root)!r})"
