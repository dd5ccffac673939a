import asyncio
import json
import time
from datetime import UTC, datetime

import pytest

from support.processes import call
from support.store import Exchange, Recorder, contents, keys_of, merge, prune, put
from twintape.core.errors import ConfigError, NotFoundError, RefusedError, StoreError
from twintape.io.clock import SystemClock
from twintape.io.conditions import SoleWriterStore
from twintape.io.restore import Fate, restore, wanted_deletions
from twintape.io.s3 import open_bucket, sign
from twintape.io.store import MemoryStore

ENABLED = b"<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>"


def versioned(endpoint, name):
    """Return the name of a new bucket that keeps versions."""
    endpoint.make_bucket(name)
    assert asyncio.run(endpoint.bucket(name).ask("PUT", query="versioning=", body=ENABLED)).status == 200
    return name


@pytest.mark.parametrize("server", ["radosgw", "ministack"])
def test_everything_a_prune_deleted_can_be_brought_back_while_the_bucket_keeps_versions(server, request, monkeypatch, tmp_path):
    endpoint = request.getfixturevalue(server)
    bucket = versioned(endpoint, f"twintape-versions-{time.time_ns()}")
    for name, value in endpoint.environment().items():
        monkeypatch.setenv(name, value)
    url = f"s3://{bucket}/prefix"
    store = endpoint.store(bucket, "prefix")
    if server == "radosgw":
        # Ceph 16 forgets conditions where a bucket keeps versions, and is found out.
        with pytest.raises(RefusedError, match="does not honour If-None-Match"):
            prune(store)
        store = SoleWriterStore(store)
    raw = put(store, Recorder("tokyo", segments=3, tickers=False).seals([Exchange(events=30)]))
    recordings = {key: asyncio.run(store.get(key)) for key in raw}
    merge(store, tmp_path)
    archive = contents(store)
    _, report = prune(store, grace_h=-1, gapped_h=-1)
    assert set(report.deleted) == set(raw)
    assert keys_of(store, "raw/") == []

    planned = json.loads(call("restore", "--store", url, "--json"))
    assert {(row["key"], row["fate"]) for row in planned} == {(key, "restorable") for key in raw}
    assert keys_of(store, "raw/") == [], "a plan puts nothing back"
    printed = call("restore", "--store", url, "--receipt", report.write_id, "--key", raw[0], "--execute")
    assert "1 restored" in printed
    printed = call("restore", "--store", url, "--execute")
    assert "1 present" in printed
    assert f"{len(raw) - 1} restored" in printed
    assert {key: asyncio.run(store.get(key)) for key in keys_of(store, "raw/")} == recordings
    assert [outcome.fresh for outcome in merge(store, tmp_path)].count(True) == 0
    assert contents(store) == archive
    doctor = json.loads(call("doctor", "--store", url, "--json", "--quick", expect=(0, 1)))
    assert doctor["verdict"] == ("single-merger" if server == "radosgw" else "full")
    assert [probe["outcome"] for probe in doctor["probes"] if probe["name"] == "versioning"] == ["passed"]


def test_versions_with_other_bytes_are_not_put_back(ministack, tmp_path):
    bucket = versioned(ministack, f"twintape-other-{time.time_ns()}")
    store = ministack.store(bucket, "prefix")
    raw = put(store, Recorder("tokyo", segments=3, tickers=False).seals([Exchange(events=30)]))
    merge(store, tmp_path)
    prune(store, grace_h=-1, gapped_h=-1)
    deletions = asyncio.run(wanted_deletions(store))
    wrong = [type(found)(**{**_fields(found), "sha256": "0" * 64}) for found in deletions]
    restored = asyncio.run(restore(store, ministack.bucket(bucket, "prefix"), wrong, execute=True))
    assert {found.fate for found in restored} == {Fate.GONE}
    smaller = [type(found)(**{**_fields(found), "size": found.size - 1}) for found in deletions]
    restored = asyncio.run(restore(store, ministack.bucket(bucket, "prefix"), smaller, execute=True))
    assert {found.fate for found in restored} == {Fate.GONE}
    assert keys_of(store, "raw/") == []
    assert {deletion.key for deletion in deletions} == set(raw)


def _fields(document):
    return {name: getattr(document, name) for name in document.__struct_fields__}


def test_listings_of_versions_go_on_over_pages(ministack):
    bucket = ministack.bucket(versioned(ministack, f"twintape-pages-{time.time_ns()}"), "prefix")
    for number in range(5):
        assert asyncio.run(bucket.ask("PUT", "prefix/k", body=b"%d" % number)).status == 200
    assert asyncio.run(bucket.ask("DELETE", "prefix/k")).status == 204
    ask = bucket.ask

    async def small_pages(method, key="", query="", body=b"", headers=None):
        return await ask(method, key, f"max-keys=2&{query}" if "versions" in query else query, body, headers)

    whole = asyncio.run(bucket.versions("k"))
    bucket.ask = small_pages
    paged = asyncio.run(bucket.versions("k"))
    assert paged == whole
    assert [version.deletion for version in whole] == [True, False, False, False, False, False]
    assert [asyncio.run(bucket.get_version(version)) for version in whole[1:]] == [b"4", b"3", b"2", b"1", b"0"]
    gone = type(whole[1])(whole[1].key, "0" * 32, 1, latest=False, deletion=False, modified="")
    with pytest.raises(StoreError):
        asyncio.run(bucket.get_version(gone))


def test_a_store_without_versions_says_what_to_do(tmp_path):
    store = MemoryStore()
    put(store, Recorder("tokyo", segments=3, tickers=False).seals([Exchange(events=30)]))
    merge(store, tmp_path)
    prune(store, grace_h=-1, gapped_h=-1)
    deletions = asyncio.run(wanted_deletions(store))
    with pytest.raises(RefusedError, match="backup"):
        asyncio.run(restore(store, None, deletions, execute=True))
    with pytest.raises(NotFoundError):
        asyncio.run(wanted_deletions(store, receipts=["0" * 16]))
    assert asyncio.run(wanted_deletions(store, keys=["nothing/"])) == []
    (tmp_path / "store").mkdir()
    call("restore", "--store", tmp_path / "store", expect=3)


# --- signing -----------------------------------------------------------------------------------------------------------------


def test_requests_are_signed_as_amazon_s_own_example_is():
    """Source: "Signature Calculations for the Authorization Header: Example: GET Object", Amazon S3 API Reference."""
    headers = sign(
        "GET",
        "https://examplebucket.s3.amazonaws.com/test.txt",
        body=b"",
        headers={"Range": "bytes=0-9"},
        region="us-east-1",
        key="AKIAIOSFODNN7EXAMPLE",
        secret="wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
        token=None,
        now=datetime(2013, 5, 24, tzinfo=UTC),
    )
    assert headers["authorization"].endswith("f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41")


def test_buckets_are_opened_from_the_environment_and_never_in_the_clear_unless_allowed(monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL", "AWS_ALLOW_HTTP"):
        monkeypatch.delenv(name, raising=False)
    clock = SystemClock()
    assert open_bucket("s3://bucket/p", clock=clock) is None
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "CANARY")
    found = open_bucket("s3://bucket/p/", clock=clock)
    assert found is not None
    assert (repr(found), found.prefix) == ("Bucket('https://s3.us-east-1.amazonaws.com/bucket')", "p/")
    assert open_bucket("file:///x", clock=clock) is None
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    with pytest.raises(ConfigError, match="https"):
        open_bucket("s3://bucket", clock=clock)
    monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
    unreachable = open_bucket("s3://bucket", clock=clock)
    assert unreachable is not None
    with pytest.raises(StoreError, match="no answer") as caught:
        asyncio.run(unreachable.versioning())
    assert "CANARY" not in str(caught.value)
    assert caught.value.retryable
