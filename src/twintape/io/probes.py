"""The probes of `twintape doctor`: what every store must be able to do, on the Store port alone, and what can be seen of an S3 bucket."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable

from twintape.core.errors import AlreadyExistsError, NotFoundError, NotSupportedError, StoreError
from twintape.core.names import TABLES
from twintape.io.doctor import Patient, Probe, UnaskedError, UnwellError, Weight

__all__ = ["BUCKET_PROBES", "STORE_PROBES"]

RACERS = 16
RACES = 4
PAGE_KEYS = 1005
"""More than a page of any store."""
LARGE_BYTES = 16 << 20
SKEW_S_MAX = 60.0
LATENCY_S_MAX = 1.0
LATENCY_SAMPLES = 9
CANCELLED_AFTER_S = 0.002
NAMED = (
    "characters/date=2026-11-22/g0001-x.json",
    "characters/depth@100ms!a",
    "characters/%E5%B8%81USDT",
    "characters/1000.tape.zst",
)
LONG_KEY = f"long/symbol={'%E5%B8%81' * 21}/stream={'%40' * 80}/part-0.parquet"

HONOUR = "use a store that honours If-None-Match: *, or promise with --single-merger that never more than one merge or prune runs"
OTHER = "do not use this store; please report which one it is"


def _unless(condition: bool, fault: str) -> None:
    if not condition:
        raise UnwellError(fault)


async def _absent(request: Awaitable[object]) -> bool:
    try:
        await request
    except NotFoundError:
        return True
    return False


async def _listed(patient: Patient, prefix: str) -> list[str]:
    return sorted({info.key async for info in patient.store.list(patient.key(prefix))})


# --- putting -------------------------------------------------------------------------------------------------------------------


async def _put(patient: Patient) -> str:
    data = bytes(range(256)) * 64
    key = await patient.put("put", data)
    _unless(await patient.store.get(key) == data, "other bytes came back")
    return f"{len(data)} bytes there and back"


async def _refused(patient: Patient) -> str:
    key = await patient.put("refused", b"first")
    try:
        await patient.store.create(key, b"other")
    except AlreadyExistsError:
        return "the second put was refused"
    except NotSupportedError as error:
        raise UnwellError(f"conditional puts are rejected: {error}") from error
    raise UnwellError("the second put was answered with success")


async def _unchanged(patient: Patient) -> str:
    key = await patient.put("unchanged", b"first")
    for data in (b"other", b"", b"a third, longer one"):
        try:
            await patient.store.create(key, data)
        except AlreadyExistsError:
            continue
    found = await patient.store.get(key)
    _unless(found == b"first", f"the object was replaced by {found!r}")
    return "the first object is still there"


async def _race(patient: Patient) -> str:
    wins = []
    for race in range(RACES):
        key = patient.key(f"race/{race}")
        patient.made.add(key)
        entries = [b"%d of %d, %d" % (racer, RACERS, race) for racer in range(RACERS)]
        answers = await asyncio.gather(*(patient.store.create(key, entry) for entry in entries), return_exceptions=True)
        winners = [entry for entry, answer in zip(entries, answers, strict=True) if answer is None]
        others = [answer for answer in answers if answer is not None and not isinstance(answer, AlreadyExistsError)]
        _unless(not others, f"{len(others)} of {RACERS} got no clear answer: {others[0] if others else ''}")
        _unless(len(winners) == 1, f"{len(winners)} of {RACERS} were told they had won")
        _unless(await patient.store.get(key) == winners[0], "the winner's object is not the one that is there")
        wins.append(winners[0])
    return f"{RACES} times exactly one of {RACERS} won"


async def _same(patient: Patient) -> str:
    key = await patient.put("same", b"same")
    await patient.store.create(key, b"same")
    await asyncio.gather(*(patient.store.create(key, b"same") for _ in range(8)))
    return "the same put again is success"


async def _ambiguous(patient: Patient) -> str:
    key = patient.key("ambiguous")
    patient.made.add(key)
    put = asyncio.ensure_future(patient.store.create(key, b"mine"))
    await asyncio.wait({put}, timeout=CANCELLED_AFTER_S)
    put.cancel()
    await asyncio.gather(put, return_exceptions=True)
    await patient.store.create(key, b"mine")
    try:
        await patient.store.create(key, b"theirs")
    except AlreadyExistsError:
        return "a put that was cut off was settled by reading back"
    raise UnwellError("behind a put that was cut off, another one replaced the object")


async def _empty(patient: Patient) -> str:
    key = await patient.put("empty", b"")
    _unless(await patient.store.get(key) == b"", "an empty object came back with bytes")
    _unless((await patient.store.head(key)).size == 0, "an empty object has a size")
    return "an empty object is an object"


async def _large(patient: Patient) -> str:
    if patient.quick:
        raise UnaskedError("left out by --quick")
    block = hashlib.sha256(patient.examination.encode()).digest()
    data = block * (LARGE_BYTES // len(block))
    begin_ns = patient.clock.monotonic_ns()
    key = await patient.put("large", data)
    put_ns = patient.clock.monotonic_ns()
    found = await patient.store.get(key)
    read_ns = patient.clock.monotonic_ns()
    _unless(hashlib.sha256(found).digest() == hashlib.sha256(data).digest(), "other bytes came back")
    rates = [LARGE_BYTES / (1 << 20) / max((b - a) / 1e9, 1e-9) for a, b in ((begin_ns, put_ns), (put_ns, read_ns))]
    return f"{LARGE_BYTES >> 20} MiB in one put at {rates[0]:.0f} MiB/s, read at {rates[1]:.0f} MiB/s"


async def _characters(patient: Patient) -> str:
    for name in NAMED:
        key = await patient.put(name, name.encode())
        _unless(await patient.store.get(key) == name.encode(), f"{name!r} came back as another object")
    listed = await _listed(patient, "characters/")
    wanted = sorted(patient.key(name) for name in NAMED)
    _unless(listed == wanted, f"listed as {[key for key in listed if key not in wanted]}")
    return "= @ ! % . are kept"


async def _case(patient: Patient) -> str:
    for name in ("case/a", "case/A"):
        await patient.put(name, name.encode())
    _unless(await patient.store.get(patient.key("case/a")) == b"case/a", "keys that differ only in case are one object")
    return "a and A are two objects"


async def _long(patient: Patient) -> str:
    key = await patient.put(LONG_KEY, b"x")
    _unless(await patient.store.get(key) == b"x", "other bytes came back")
    return f"a key of {len(key)} characters"


# --- reading -------------------------------------------------------------------------------------------------------------------


async def _range(patient: Patient) -> str:
    key = await patient.put("range", bytes(range(200)))
    for start, size in ((0, 1), (50, 20), (190, 10), (199, 1)):
        found = await patient.store.get_range(key, start, size)
        _unless(found == bytes(range(start, start + size)), f"bytes {start}+{size} came back as {len(found)} other ones")
    return "pieces are what was asked for"


async def _suffix(patient: Patient) -> str:
    key = await patient.put("suffix", bytes(range(200)))
    found = await patient.store.get_range(key, -16, 16)
    _unless(found == bytes(range(184, 200)), f"the last 16 bytes came back as {len(found)} other ones")
    return "the last bytes can be asked for"


async def _beyond(patient: Patient) -> str:
    key = await patient.put("beyond", b"0123456789")
    _unless(await patient.store.get_range(key, 8, 100) == b"89", "a range over the end is not cut off there")
    _unless(await patient.store.get_range(key, 100, 5) == b"", "a range behind the end is not empty")
    return "ranges end where the object ends"


async def _head(patient: Patient) -> str:
    key = await patient.put("head", b"12345")
    info = await patient.store.head(key)
    _unless(info.size == 5 and info.modified_ns > 0, f"size {info.size}, modified {info.modified_ns}")
    return "size and time are told at once"


async def _nothing(patient: Patient) -> str:
    key, store = patient.key("nothing"), patient.store
    for request in (store.get(key), store.head(key), store.get_range(key, 0, 1)):
        _unless(await _absent(request), "a key without an object was answered")
    return "what is not there is not found"


async def _many_reads(patient: Patient) -> str:
    key = await patient.put("many-reads", b"x" * 1000)
    answers = await asyncio.gather(*(patient.store.get(key) for _ in range(64)))
    _unless(all(answer == b"x" * 1000 for answer in answers), "other bytes came back")
    return "64 reads at once"


# --- listing -------------------------------------------------------------------------------------------------------------------


async def _list_new(patient: Patient) -> str:
    for number in range(5):
        key = await patient.put(f"list-new/{number}", b"")
        _unless(key in await _listed(patient, "list-new/"), "an object was not listed at once")
    return "what was put is listed at once"


async def _list_prefix(patient: Patient) -> str:
    for name in ("list-prefix/a/b", "list-prefix/a/bc/d", "list-prefix/ab"):
        await patient.put(name, b"")
    found = await _listed(patient, "list-prefix/a/b")
    _unless(found == [patient.key(f"list-prefix/a/{name}") for name in ("b", "bc/d")], f"{len(found)} keys instead of 2")
    return "a prefix is a prefix"


async def _list_pages(patient: Patient) -> str:
    if patient.quick:
        raise UnaskedError("left out by --quick")
    names = [f"list-pages/{number:04d}" for number in range(PAGE_KEYS)]
    await patient.all_of([patient.create(patient.key(name), b"") for name in names])
    found = [info.key async for info in patient.store.list(patient.key("list-pages/"))]
    _unless(len(set(found)) == PAGE_KEYS, f"{len(set(found))} of {PAGE_KEYS} keys were listed")
    return f"{PAGE_KEYS} keys over several pages, {len(found) - len(set(found))} twice"


async def _list_gone(patient: Patient) -> str:
    key = await patient.put("list-gone/k", b"")
    await patient.store.delete(key)
    _unless(await _listed(patient, "list-gone/") == [], "a deleted object is still listed")
    return "what was deleted is not listed"


# --- deleting ------------------------------------------------------------------------------------------------------------------


async def _delete(patient: Patient) -> str:
    key = await patient.put("delete", b"x")
    await patient.store.delete(key)
    _unless(await _absent(patient.store.head(key)), "HEAD still finds a deleted object")
    _unless(await _absent(patient.store.get(key)), "GET still finds a deleted object")
    return "deleted is gone at once"


async def _delete_nothing(patient: Patient) -> str:
    await patient.store.delete(patient.key("never-was"))
    return "deleting what is not there is no error"


async def _again(patient: Patient) -> str:
    key = await patient.put("again", b"first")
    await patient.store.delete(key)
    await patient.store.create(key, b"second")
    _unless(await patient.store.get(key) == b"second", "other bytes came back")
    return "a deleted object can be put again"


# --- time ----------------------------------------------------------------------------------------------------------------------


async def _skew(patient: Patient) -> str:
    before_ns = patient.clock.wall_ns()
    key = await patient.put("skew", b"")
    after_ns = patient.clock.wall_ns()
    modified_ns = (await patient.store.head(key)).modified_ns
    # Stores tell whole seconds.
    off_s = max(before_ns - modified_ns - 10**9, modified_ns - after_ns, 0) / 1e9
    _unless(off_s <= SKEW_S_MAX, f"the store's clock and ours differ by {off_s:.0f} s")
    return f"the store's clock and ours differ by at most {off_s + (after_ns - before_ns) / 1e9 + 1:.1f} s"


async def _forward(patient: Patient) -> str:
    keys = [await patient.put(f"forward/{number}", b"") for number in range(4)]
    times = [(await patient.store.head(key)).modified_ns for key in keys]
    _unless(times == sorted(times), "the times of objects put one after the other step back")
    return "the store's clock does not step back"


async def _latency(patient: Patient) -> str:
    key = await patient.put("latency/read", b"x" * 1024)
    names = iter(range(LATENCY_SAMPLES))
    put = await patient.seconds(lambda: patient.put(f"latency/{next(names)}", b"x"), LATENCY_SAMPLES)
    get = await patient.seconds(lambda: patient.store.get(key), LATENCY_SAMPLES)
    head = await patient.seconds(lambda: patient.store.head(key), LATENCY_SAMPLES)
    text = f"median put {put * 1000:.0f} ms, get {get * 1000:.0f} ms, head {head * 1000:.0f} ms"
    _unless(max(put, get, head) <= LATENCY_S_MAX, text)
    return text


# --- the bucket's settings -----------------------------------------------------------------------------------------------------


async def _versioning(patient: Patient) -> str:
    if patient.bucket is None:
        raise UnaskedError("only S3 buckets reached by key and secret show it")
    state = await patient.bucket.versioning()
    _unless(state == "Enabled", f"versioning is {state.lower()}")
    return "deleted objects can be restored: `twintape restore`"


async def _lifecycle(patient: Patient) -> str:
    if patient.bucket is None:
        raise UnaskedError("only S3 buckets reached by key and secret show it")
    try:
        rules = await patient.bucket.lifecycle()
    except StoreError as error:
        raise UnaskedError(f"the bucket does not say: {error}") from error
    ours = [patient.bucket.prefix + part for part in ("raw/", "plan/", "proof/", "receipt/", *(f"{table}/" for table in TABLES))]
    bad = [
        name or prefix or "unnamed" for name, prefix in rules if any(o.startswith(prefix) or prefix.startswith(o) for o in ours)
    ]
    _unless(not bad, f"these rules let objects of ours expire: {', '.join(bad)}")
    return f"{len(rules)} rules of expiry, none for objects of ours"


async def _lock(patient: Patient) -> str:
    if patient.bucket is None:
        raise UnaskedError("only S3 buckets reached by key and secret show it")
    try:
        return "objects can be locked" if await patient.bucket.locked() else "no object lock"
    except StoreError as error:
        raise UnaskedError(f"the bucket does not say: {error}") from error


ALL, ONE, NICE = Weight.EVERYTHING, Weight.CONCURRENCY, Weight.COMFORT

STORE_PROBES = (
    Probe("put", "what is put can be read at once, byte for byte", "check credentials, endpoint and bucket", ALL, _put),
    Probe("create-refused", "a second create-only put of other bytes is refused: two merges cannot both publish", HONOUR, ONE, _refused),
    Probe("create-unchanged", "create-only puts never replace an object", HONOUR, ONE, _unchanged),
    Probe("create-race", f"of {RACERS} that create one key at the same time exactly one wins", HONOUR, ONE, _race),
    Probe("create-same", "repeating a put of the same bytes is success: retries are harmless", OTHER, ALL, _same),
    Probe("create-ambiguous", "a put whose answer was lost can be settled by reading back", HONOUR, ONE, _ambiguous),
    Probe("empty", "empty objects are possible", OTHER, ALL, _empty),
    Probe("large", "large objects go in one put, which alone can be create-only", "raise the limit of a proxy before the store", ALL, _large),
    Probe("characters", "keys keep every character we use", OTHER, ALL, _characters),
    Probe("case", "keys that differ only in case are different", "expect trouble only with symbols that differ only in case", NICE, _case),
    Probe("long-key", "the longest keys we write are possible", OTHER, ALL, _long),
    Probe("range", "pieces of objects can be read: indexes and single streams are", OTHER, ALL, _range),
    Probe("range-suffix", "the last bytes of an object can be asked for", "nothing: we ask by position", NICE, _suffix),
    Probe("range-beyond", "ranges are cut off at the object's end", OTHER, ALL, _beyond),
    Probe("head", "size and time of an object are told at once", OTHER, ALL, _head),
    Probe("absent", "a missing object is told from a failure", "allow the credentials to list the bucket: without, S3 hides what is missing", ALL, _nothing),
    Probe("reads-at-once", "many reads at the same time are answered", "raise the limits of the store", ALL, _many_reads),
    Probe("list-new", "an object is listed at once; otherwise days are merged late, never wrongly", "expect further generations", NICE, _list_new),
    Probe("list-prefix", "a listing is confined to its prefix and complete within", OTHER, ALL, _list_prefix),
    Probe("list-pages", "listings of over a thousand keys are complete", OTHER, ALL, _list_pages),
    Probe("list-gone", "a deleted object is not listed", "nothing: what is listed and gone is passed over", NICE, _list_gone),
    Probe("delete", "a deleted object is gone at once", "prune will keep telling what it could not delete", NICE, _delete),
    Probe("delete-absent", "deleting what is gone is no error: a prune can be repeated", OTHER, NICE, _delete_nothing),
    Probe("recreate", "a deleted object can be put again: restoring works", "restore by the store's own tools", NICE, _again),
    Probe("clock-skew", f"the store's clock and ours agree within {SKEW_S_MAX:.0f} s", "run chrony; S3 refuses requests that are 15 minutes off", NICE, _skew),
    Probe("clock-order", "the store's clock, which graces are measured by, does not step back", "lengthen --grace", NICE, _forward),
    Probe("latency", f"small requests take less than {LATENCY_S_MAX:.0f} s", "expect long nights", NICE, _latency),
)  # fmt: skip
"""What can be asked of every store."""

BUCKET_PROBES = (
    Probe("versioning", "the bucket keeps deleted objects for a while", "turn versioning on, and keep noncurrent versions 30 days", NICE, _versioning),
    Probe("lifecycle", "no rule of the bucket deletes recordings or the archive", "remove the rule, or confine it to noncurrent versions", ALL, _lifecycle),
    Probe("object-lock", "whether objects can be locked against deletion", "nothing: it is worth having for proof/", NICE, _lock),
)  # fmt: skip
"""What can be seen of an S3 bucket."""
