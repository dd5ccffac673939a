import asyncio
import os

import pytest

from support.virtual import VirtualClock
from twintape.core.errors import AlreadyExistsError, ConfigError, NotFoundError, StoreError
from twintape.io import disk as disk_module
from twintape.io.conditions import SoleWriterStore
from twintape.io.faults import Fault, Faults, FaultyStore
from twintape.io.ports import ObjectInfo
from twintape.io.store import FileStore, MemoryStore, create_by_reading_back, open_store

CANARIES = ("CANARY-key-id-4711", "CANARY-secret-4711", "CANARY-session-4711")
FLAKY = Faults(rates=dict.fromkeys((Fault.UNAVAILABLE, Fault.SLOW_DOWN, Fault.TIMEOUT, Fault.LOST, Fault.ECHO), 0.06))


@pytest.fixture(params=["memory", "file", "waiting file", "flaky", "sole writer", "radosgw", "ministack"])
def store(request, tmp_path):
    """Every kind of store there is; `flaky` fails a third of all requests, and its client tries again as one of S3 does."""
    match request.param:
        case "memory":
            return open_store("memory://")
        case "file":
            return open_store((tmp_path / "store dir").as_uri())
        case "waiting file":
            return open_store((tmp_path / "store dir").as_uri(), wait=True)
        case "flaky":
            return FaultyStore(MemoryStore(), clock=VirtualClock(), faults=FLAKY, attempts=12)
        case "sole writer":
            return SoleWriterStore(MemoryStore())
        case _:
            return request.getfixturevalue(request.param).store("twintape-test")


async def keys(store, prefix):
    return sorted([info.key async for info in store.list(prefix)])


# --- the contract of every store -------------------------------------------------------------------------------------------


async def test_an_object_is_what_was_put(store):
    data = bytes(range(256)) * 5000
    await store.create("raw/v1/a", data)
    assert await store.get("raw/v1/a") == data
    info = await store.head("raw/v1/a")
    assert (info.key, info.size) == ("raw/v1/a", len(data))
    assert info.modified_ns > 10**18


async def test_an_empty_object_is_an_object(store):
    await store.create("empty", b"")
    assert await store.get("empty") == b""
    assert (await store.head("empty")).size == 0
    assert await store.get_range("empty", 0, 10) == b""
    assert await store.get_range("empty", -10, 10) == b""


async def test_an_object_is_never_replaced(store):
    await store.create("k", b"first")
    with pytest.raises(AlreadyExistsError) as caught:
        await store.create("k", b"other")
    assert not caught.value.retryable
    assert await store.get("k") == b"first"


async def test_putting_the_same_again_is_success(store):
    await store.create("k", b"same")
    await store.create("k", b"same")
    assert await store.get("k") == b"same"


async def test_of_many_that_race_exactly_one_wins(store):
    results = await asyncio.gather(*[store.create("k", b"%d" % n) for n in range(8)], return_exceptions=True)
    winners = [n for n, result in enumerate(results) if result is None]
    assert len(winners) == 1
    assert all(isinstance(result, AlreadyExistsError) for n, result in enumerate(results) if n not in winners)
    assert await store.get("k") == b"%d" % winners[0]


async def test_what_is_not_there_is_not_found(store):
    await store.create("dir/k", b"x")
    for key in ("nothing", "dir", "dir/k/below", "dir/K"):
        for question in (store.get(key), store.head(key), store.get_range(key, 0, 1), store.get_range(key, -1, 1)):
            with pytest.raises(NotFoundError):
                await question


@pytest.mark.parametrize(
    ("start", "size", "expected"),
    [
        (0, 4, b"0123"),
        (8, 4, b"89"),
        (10, 4, b""),
        (99, 4, b""),
        (-4, 4, b"6789"),
        (-4, 2, b"67"),
        (-99, 3, b"012"),
        (3, 0, b""),
        (-3, 99, b"789"),
    ],
)
async def test_a_range_is_up_to_so_many_bytes_from_either_end(store, start, size, expected):
    await store.create("k", b"0123456789")
    assert await store.get_range("k", start, size) == expected


async def test_list_takes_a_prefix_of_the_key_not_of_its_parts(store):
    for key in ("a/b", "a/bc/d", "a/bc/e", "a/c", "ab/x", "proof/market=spot/symbol=%E5%B8%81/g0001.json"):
        await store.create(key, b"1")
    assert await keys(store, "a/b") == ["a/b", "a/bc/d", "a/bc/e"]
    assert await keys(store, "a/bc/") == ["a/bc/d", "a/bc/e"]
    assert await keys(store, "a") == ["a/b", "a/bc/d", "a/bc/e", "a/c", "ab/x"]
    assert await keys(store, "proof/market=spot/symbol=%E5") == ["proof/market=spot/symbol=%E5%B8%81/g0001.json"]
    assert await keys(store, "nothing/") == []
    assert len(await keys(store, "")) == 6
    (listed,), headed = [info async for info in store.list("a/c")], await store.head("a/c")
    assert (listed.key, listed.size) == (headed.key, headed.size) == ("a/c", 1)
    assert abs(listed.modified_ns - headed.modified_ns) < 10**9, "S3 gives whole seconds to HEAD and milliseconds to LIST"


async def test_list_finds_more_than_a_page(store):
    await asyncio.gather(*[store.create(f"many/{n:04d}", b"") for n in range(1100)])
    assert await keys(store, "many/") == [f"many/{n:04d}" for n in range(1100)]


async def test_a_deleted_object_is_gone_and_its_key_free(store):
    await store.create("d/k", b"1")
    await store.delete("d/k")
    with pytest.raises(NotFoundError):
        await store.head("d/k")
    assert await keys(store, "d/") == []
    await store.delete("d/k")
    await store.delete("never/was")
    await store.create("d/k", b"2")
    assert await store.get("d/k") == b"2"


@pytest.mark.parametrize(
    "key", ["", "/a", "a/", "a//b", "../a", "a/../b", ".", "a/./b", "a\0b", "a\nb", ".twintape-tmp/x", "x" * 1025]
)
async def test_a_key_that_some_store_could_not_hold_is_refused_by_all(store, key):
    with pytest.raises(StoreError) as caught:
        await store.create(key, b"x")
    assert not caught.value.retryable
    for question in (store.get(key), store.head(key), store.get_range(key, 0, 1), store.delete(key)):
        with pytest.raises(StoreError):
            await question


async def test_a_prefix_cannot_climb(store):
    with pytest.raises(StoreError):
        await keys(store, "../")


@pytest.mark.parametrize("key", ["a=b/@!_-/%2E%2E/x.tape.zst", "币/é", "with space", "~'()*", "a+b&c;d,e:f$g"])
async def test_a_key_is_kept_character_by_character(store, key):
    await store.create(key, b"x")
    assert await store.get(key) == b"x"
    assert await keys(store, "") == [key]
    await store.delete(key)
    assert await keys(store, "") == []


# --- outcomes that are unknown -----------------------------------------------------------------------------------------------


async def test_an_unclear_put_is_decided_by_what_is_there():
    unclear = StoreError("timed out", retryable=True)
    store = MemoryStore()
    with pytest.raises(StoreError, match="timed out") as caught:
        await create_by_reading_back(store, "k", b"mine", unclear)
    assert caught.value.retryable
    await store.create("k", b"mine")
    await create_by_reading_back(store, "k", b"mine", unclear)
    with pytest.raises(AlreadyExistsError):
        await create_by_reading_back(store, "k", b"other", unclear)


@pytest.fixture
def canaries(monkeypatch):
    key_id, secret, session = CANARIES
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", key_id)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", secret)
    monkeypatch.setenv("AWS_SESSION_TOKEN", session)
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")


class TinyStore(asyncio.Protocol):
    """As much of S3 as one object needs; the first answers to PUT get lost after the object is there, or instead of it."""

    objects: dict[str, bytes]
    lost_after: int
    lost_before: int

    def connection_made(self, transport):
        self.transport, self.buffer = transport, b""

    def data_received(self, data):
        self.buffer += data
        head, separator, body = self.buffer.partition(b"\r\n\r\n")
        method, path, _ = head.split(b"\r\n")[0].decode().split(" ")
        headers = dict(line.lower().split(": ", 1) for line in head.decode().split("\r\n")[1:])
        if separator and len(body) >= int(headers.get("content-length", 0)):
            self.buffer = b""
            self.answer(method, path, headers, body)

    def answer(self, method, path, headers, body):
        cls = type(self)
        if method == "PUT" and cls.lost_before:
            cls.lost_before -= 1
            self.transport.abort()
        elif method == "PUT":
            assert headers["if-none-match"] == "*"
            known = path in self.objects
            self.objects.setdefault(path, body)
            if cls.lost_after:
                cls.lost_after -= 1
                self.transport.abort()
            else:
                self.send("412 Precondition Failed" if known else "200 OK", b"")
        else:
            self.send("200 OK" if path in self.objects else "404 Not Found", self.objects.get(path, b""))

    def send(self, status, body):
        extra = 'ETag: "e"\r\nLast-Modified: Sun, 22 Nov 2026 09:00:00 GMT\r\n'
        self.transport.write(
            f"HTTP/1.1 {status}\r\n{extra}Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode() + body
        )
        self.transport.close()


@pytest.fixture
async def tiny(monkeypatch, canaries):
    TinyStore.objects, TinyStore.lost_after, TinyStore.lost_before = {}, 0, 0
    server = await asyncio.get_running_loop().create_server(TinyStore, "127.0.0.1", 0)
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    monkeypatch.setattr("twintape.io.cloud.RETRIES_MAX", 1)
    yield TinyStore
    server.close()


async def test_a_put_whose_answer_was_lost_is_success_if_the_object_is_ours(tiny):
    tiny.lost_after = 1  # the client's own retry then meets "already exists"
    await open_store("s3://bucket/p").create("k", b"mine")
    assert tiny.objects == {"/bucket/p/k": b"mine"}


async def test_a_put_whose_answers_were_all_lost_is_success_if_the_object_is_ours(tiny):
    tiny.lost_after = 2
    await open_store("s3://bucket/p").create("k", b"mine")
    assert tiny.lost_after == 0


async def test_a_put_whose_answer_was_lost_is_refused_if_the_object_is_not_ours(tiny):
    tiny.objects["/bucket/p/k"] = b"theirs"
    tiny.lost_after = 2
    with pytest.raises(AlreadyExistsError):
        await open_store("s3://bucket/p").create("k", b"mine")


async def test_a_put_that_never_landed_is_unknown_and_may_be_repeated(tiny):
    tiny.lost_before = 2
    with pytest.raises(StoreError, match="outcome of the put unknown") as caught:
        await open_store("s3://bucket/p").create("k", b"mine")
    assert caught.value.retryable
    await open_store("s3://bucket/p").create("k", b"mine")
    assert tiny.objects == {"/bucket/p/k": b"mine"}


# --- files -------------------------------------------------------------------------------------------------------------------


async def test_a_file_is_synced_before_it_appears_and_its_directories_after(tmp_path, monkeypatch):
    store = FileStore(tmp_path)
    events = []
    fsync, link = os.fsync, os.link

    def noted_fsync(fd):
        events.append(os.readlink(f"/proc/self/fd/{fd}").removeprefix(str(tmp_path)))
        fsync(fd)

    def noted_link(*arguments, **options):
        events.append("link")
        link(*arguments, **options)

    monkeypatch.setattr(disk_module.os, "fsync", noted_fsync)
    monkeypatch.setattr(os, "link", noted_link)
    await store.create("a/b/k", b"x")
    assert events[-2:] == ["link", "/a/b"]
    assert events[-3].startswith("/.twintape-tmp/")
    assert {"", "/a"} <= set(events[:-3])
    assert [path.name for path in (tmp_path / ".twintape-tmp").iterdir()] == []


async def test_a_put_found_to_be_ours_is_synced_before_it_is_called_durable(tmp_path, monkeypatch):
    store = FileStore(tmp_path)
    await store.create("a/k", b"x")
    synced = []
    monkeypatch.setattr(disk_module.os, "fsync", lambda fd: synced.append(os.readlink(f"/proc/self/fd/{fd}")))
    await store.create("a/k", b"x")
    assert synced[-2:] == [str(tmp_path / "a" / "k"), str(tmp_path / "a")]


@pytest.mark.parametrize("step", ["fsync", "write", "link"])
async def test_a_put_that_fails_can_be_repeated(tmp_path, monkeypatch, step):
    store = FileStore(tmp_path)
    await store.create("a/other", b"")

    def fail(*arguments, **options):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, step, fail)
        with pytest.raises(StoreError, match="No space") as caught:
            await store.create("a/k", b"x")
        assert caught.value.retryable
    assert await keys(store, "") == ["a/other"], "leftovers are no objects"
    await store.create("a/k", b"x")
    assert await store.get("a/k") == b"x"


async def test_a_leftover_of_a_process_with_the_same_number_is_overwritten(tmp_path):
    store = FileStore(tmp_path)
    (tmp_path / ".twintape-tmp").mkdir()
    for number in range(5000):
        (tmp_path / ".twintape-tmp" / f"{os.getpid()}-{number}").write_bytes(b"leftover, and longer than the object")
    await store.create("k", b"x")
    assert await store.get("k") == b"x"


async def test_leftovers_of_killed_processes_are_removed_a_day_later_and_nothing_else(tmp_path):
    await FileStore(tmp_path).create("a/old", b"x")
    temporary = tmp_path / ".twintape-tmp"
    now = (tmp_path / "a" / "old").stat().st_mtime
    for name, age_s in (("1-0", 90_000), ("1-1", 86_000), ("2-0", 10**8)):
        (temporary / name).write_bytes(b"leftover")
        os.utime(temporary / name, (now - age_s, now - age_s))
    os.utime(tmp_path / "a" / "old", (now - 10**8, now - 10**8))
    store = FileStore(tmp_path)
    await store.get("a/old")
    assert len(list(temporary.iterdir())) == 3, "who only reads removes nothing"
    await store.create("a/new", b"y")
    assert [path.name for path in temporary.iterdir()] == ["1-1"]
    assert await keys(store, "") == ["a/new", "a/old"]


async def test_links_are_neither_read_nor_followed_nor_listed(tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_bytes(b"secret")
    store = FileStore(tmp_path / "store")
    (tmp_path / "store" / "dir").symlink_to(outside)
    (tmp_path / "store" / "file").symlink_to(outside / "secret")
    for key in ("dir/secret", "file"):
        with pytest.raises(StoreError):
            await store.get(key)
        with pytest.raises(StoreError):
            await store.create(key, b"x")
    assert await keys(store, "") == []
    assert (outside / "secret").read_bytes() == b"secret"


async def test_a_key_with_a_part_too_long_for_a_file_name_is_no_use_to_retry(tmp_path):
    with pytest.raises(StoreError) as caught:
        await FileStore(tmp_path).create("x" * 300, b"")
    assert not caught.value.retryable


async def test_a_store_whose_volume_went_away_takes_nothing(tmp_path):
    store = FileStore(tmp_path / "store")
    os.rename(tmp_path / "store", tmp_path / "gone")
    (tmp_path / "store").mkdir()
    with pytest.raises(StoreError, match="unmounted"):
        await store.create("k", b"x")


# --- memory ------------------------------------------------------------------------------------------------------------------


async def test_a_memory_store_takes_its_time_from_whom_it_is_told():
    store = MemoryStore(wall_ns=iter([5, 6]).__next__)
    await store.create("a", b"")
    await store.create("b", b"")
    assert [info async for info in store.list("")] == [ObjectInfo("a", 0, 5), ObjectInfo("b", 0, 6)]
    assert store.url == "memory://"
    assert repr(store) == "MemoryStore('memory://')"


# --- addresses ---------------------------------------------------------------------------------------------------------------


def test_a_path_is_a_store_and_says_so(tmp_path):
    for url in (str(tmp_path), tmp_path.as_uri(), f"file://localhost{tmp_path}"):
        store = open_store(url)
        assert isinstance(store, FileStore)
        assert store.url == tmp_path.as_uri()
        assert str(tmp_path) in repr(store)


@pytest.mark.parametrize(
    "url",
    [
        "ftp://x/y",
        "file://host/x",
        "file://",
        "s3://",
        "s3:///x",
        "s3://user:CANARY-4711@bucket/x",
        "s3://bucket?secret=CANARY-4711",
        "s3://b/x#CANARY-4711",
    ],
)
def test_an_address_that_cannot_be_used_is_refused_without_repeating_secrets(url):
    with pytest.raises(ConfigError) as caught:
        open_store(url)
    assert "CANARY" not in str(caught.value)


def test_a_place_that_cannot_be_a_directory_is_refused(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ConfigError, match="cannot be a store"):
        open_store(str(tmp_path / "file"))


class Echo(asyncio.Protocol):
    """A server that answers every request with an error that repeats the whole request: the worst a store can do."""

    status = b"403 Forbidden"

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        body = b"<Error><Code>AccessDenied</Code><Message>%b</Message></Error>" % data[:4000].replace(b"<", b"")
        self.transport.write(b"HTTP/1.1 %b\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%b" % (self.status, len(body), body))
        self.transport.close()


async def test_no_credential_appears_in_any_text(canaries, monkeypatch):
    server = await asyncio.get_running_loop().create_server(Echo, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{CANARIES[0]}:{CANARIES[1]}@127.0.0.1:{port}")
    store = open_store("s3://bucket/prefix")
    texts = [repr(store), str(store), store.url]
    for question in (store.create("k", b"x"), store.get("k"), store.head("k"), store.delete("k"), keys(store, "a/")):
        with pytest.raises(StoreError) as caught:
            await question
        error = caught.value
        while error is not None:
            texts += [str(error), repr(error), repr(error.__cause__), str(vars(error))]
            error = error.__cause__ or error.__context__
    server.close()
    assert store.url == "s3://bucket/prefix"
    assert any("AccessDenied" in text or "403" in text for text in texts), "the server's reason is passed on"
    for text in texts:
        assert "CANARY" not in text, text


async def test_a_store_that_refuses_us_is_not_asked_again(canaries, monkeypatch):
    server = await asyncio.get_running_loop().create_server(Echo, "127.0.0.1", 0)
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    with pytest.raises(StoreError) as caught:
        await open_store("s3://bucket").create("k", b"x")
    server.close()
    assert not caught.value.retryable


async def test_a_store_that_cannot_be_reached_may_be_asked_again(canaries, monkeypatch):
    monkeypatch.setattr("twintape.io.cloud.RETRIES_MAX", 1)
    store = open_store("s3://bucket/prefix")
    with pytest.raises(StoreError, match="outcome of the put unknown") as caught:
        await store.create("k", b"x")
    assert caught.value.retryable
    with pytest.raises(StoreError) as caught:
        await store.get_range("k", 0, 5)
    assert caught.value.retryable
    with pytest.raises(StoreError):
        await keys(store, "")


def test_plain_http_must_be_allowed_by_name(canaries, monkeypatch):
    monkeypatch.delenv("AWS_ALLOW_HTTP")
    with pytest.raises(StoreError):
        asyncio.run(open_store("s3://bucket").get("k"))


def test_an_option_nobody_knows_is_refused(canaries):
    with pytest.raises(ConfigError) as caught:
        open_store("s3://bucket", options={"no_such_option": CANARIES[1]})
    assert "CANARY" not in str(caught.value)


async def test_a_directory_is_read_in_the_callers_thread_if_that_may_wait(tmp_path, monkeypatch):
    store = FileStore(tmp_path, wait=True)
    await store.create("a/b", b"text")
    monkeypatch.setattr(asyncio, "to_thread", None)
    assert (await store.get("a/b"), await store.get_range("a/b", 1, 2)) == (b"text", b"ex")
    with pytest.raises(NotFoundError):
        await store.get("a/c")
