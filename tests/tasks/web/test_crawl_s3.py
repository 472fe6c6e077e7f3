"""Crawls, listings and lists in S3 are found and read, through a server on loopback that speaks the protocol; what is
wrong is said with what, where and what to do."""

import gzip
import sys
from collections.abc import Callable, Iterator
from typing import Any

import boto3
import moto.settings
import pytest
import s3fs
from fsspec.registry import _registry
from moto.server import ThreadedMotoServer

from storage.errors import UnreachableStorage
from storage.filesystem import exists, list_files, read_bytes, write_bytes
from storage.images import encode_jpeg
from storage.layout import Layout
from storage.manifest import load_manifest
from storage.tables import read_table
from tasks.extract import Extract, extract_part
from tasks.hash_dedup import HashDedup, hash_dedup
from tasks.hashing.known import hashes_of
from tasks.hashing.looks import load_array
from tasks.removal.ledger import append_entries, drop_removed, entries_of, load_ledger
from tasks.removal.purge import purge
from tasks.url_policy import UrlPolicy, policy_rules
from tasks.web.crawl_files import find_crawl_files
from tasks.web.domains import lists_key
from tasks.web.errors import CrawlNotFound
from tasks.web.known_bad import HashList, load_hashes
from tests.tasks.crawls import gz, page, wat_page
from tests.tasks.hash_pictures import scene
from tests.tasks.image_stages import downloaded
from tests.tasks.removal_runs import middle

BUCKET = "s3://crawl"


@pytest.fixture(scope="module")
def server() -> Iterator[ThreadedMotoServer]:
    """s3://crawl/ with crawl files, listings of them, and lists."""
    one = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    one.start()
    with pytest.MonkeyPatch.context() as patch:
        _settings(patch, one)
        client = boto3.client("s3")
        client.create_bucket(Bucket="crawl")
        for key, data in _objects().items():
            client.put_object(Bucket="crawl", Key=key, Body=data)
        yield one
    one.stop()


def _settings(patch: pytest.MonkeyPatch, server: ThreadedMotoServer) -> None:
    """The environment as a user sets it, and no file of this machine's user."""
    patch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:{1}".format(*server.get_host_and_port()))
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        patch.setenv(name, "test")
    patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    patch.setenv("AWS_MAX_ATTEMPTS", "1")
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        patch.setenv(name, "/nonexistent")


def _objects() -> dict[str, bytes]:
    objects: dict[str, bytes] = {}
    for name in "ab":
        pages = [page(f"https://{name}.example/{number}", b"<img src=%d.jpg>" % number) for number in range(20)]
        objects[f"data/{name}.warc.gz"] = gz(pages)
    images = {"Links": [{"path": "IMG@/src", "url": f"{number}.jpg"} for number in range(20)]}
    objects["data/c.wat.gz"] = gz([wat_page("https://c.example/", images)])
    objects["warc.paths.gz"] = gzip.compress(b"data/b.warc.gz\ndata/a.warc.gz\n")
    objects["whole.paths"] = b"s3://crawl/data/c.wat.gz\n"
    objects |= {
        "lists/plain.txt": b"# ours\nplain.example\n",
        "lists/hosts.gz": gzip.compress(b"0.0.0.0 hosts.example\n"),
    }
    objects |= {"lists/adult/domains": b"folder.example\n", "lists/adult/urls": b"some.example/bad\n"}
    objects |= {"lists/bad.md5": b"0123456789abcdef0123456789abcdef\n"}
    return objects


@pytest.fixture
def bucket(server: ThreadedMotoServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    _settings(monkeypatch, server)
    s3fs.S3FileSystem.clear_instance_cache()  # one of an earlier test knows that test's settings
    yield BUCKET
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.mark.parametrize(
    ("crawl", "names"),
    [
        ("data/a.warc.gz", ["a.warc"]),
        ("data/*.warc.gz", ["a.warc", "b.warc"]),
        ("warc.paths.gz", ["b.warc", "a.warc"]),
        ("whole.paths", ["c.wat"]),
    ],
)
def test_a_crawl_in_s3_is_read(bucket: str, crawl: str, names: list[str]) -> None:
    config = Extract(crawl=(f"{bucket}/{crawl}",), listing_prefix=f"{bucket}/")
    files, key = find_crawl_files(config.crawl, config.listing_prefix)
    assert [file.path for file in files] == [f"{bucket}/data/{name}.gz" for name in names]
    assert key
    outcomes = [extract_part(file, f"{bucket}/out/{number}", config=config) for number, file in enumerate(files)]
    assert [outcome.rows_in for outcome in outcomes] == [20] * len(names)
    urls = [read_table(f"{bucket}/out/{number}.parquet")["url"].to_pylist() for number in range(len(files))]
    assert urls == [[f"https://{name[0]}.example/{number}.jpg" for number in range(20)] for name in names]


def test_lists_in_s3_are_read_and_a_changed_one_has_another_key(bucket: str) -> None:
    names = ("plain.txt", "hosts.gz", "adult/")
    config = UrlPolicy(blocked_domain_files=tuple(f"{bucket}/lists/{name}" for name in names))
    key = lists_key(config.list_files)
    blocked = policy_rules(config, key).blocked
    hosts = ["a.plain.example", "hosts.example", "www.folder.example", "other.example"]
    assert blocked.match(hosts) == ["plain.example", "hosts.example", "folder.example", None]
    assert blocked.match_prefix("some.example", "/bad/1.jpg")
    hashes = load_hashes(HashList(file=f"{bucket}/lists/bad.md5", kind="md5"))
    assert len(hashes) == 1
    boto3.client("s3").put_object(Bucket="crawl", Key="lists/plain.txt", Body=b"plain.example\nmore.example\n")
    changed = lists_key(config.list_files)
    assert changed != key
    assert policy_rules(config, changed).blocked.match(["more.example"]) == ["more.example"]


def test_what_another_process_writes_is_seen(bucket: str) -> None:
    """A worker's file stands there for the flow, which has listed its folder before."""
    assert list_files(f"{bucket}/shared/*") == []
    write_bytes(f"{bucket}/shared/mine", b"1")
    assert list_files(f"{bucket}/shared/*") == [f"{bucket}/shared/mine"]
    boto3.client("s3").put_object(Bucket="crawl", Key="shared/theirs", Body=b"12")
    assert exists(f"{bucket}/shared/theirs")
    assert list_files(f"{bucket}/shared/*") == [f"{bucket}/shared/mine", f"{bucket}/shared/theirs"]


WAYS: list[Callable[[str], Any]] = [
    exists,
    read_bytes,
    lambda path: list_files(f"{path}*"),
    lambda path: write_bytes(path, b"1"),
]


@pytest.mark.parametrize("way", WAYS, ids=["exists", "read", "list", "write"])
def test_bad_or_missing_credentials_and_a_dead_server_are_said(
    bucket: str, monkeypatch: pytest.MonkeyPatch, way: Callable[[str], Any]
) -> None:
    monkeypatch.setattr(moto.settings, "INITIAL_NO_AUTH_ACTION_COUNT", 0)  # from now on it knows nobody
    advice = r"Check the path, the credentials and the network\."
    with pytest.raises(
        UnreachableStorage, match=rf"s3://crawl/data/a.*(Forbidden|does not exist in our records)\. {advice}"
    ):
        way(f"{bucket}/data/a")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(UnreachableStorage, match=rf"s3://crawl/data/a.*Unable to locate credentials\. {advice}"):
        way(f"{bucket}/data/a")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")  # nobody listens there
    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(UnreachableStorage, match=rf"s3://crawl/data/a.*Could not connect to the endpoint.*{advice}"):
        way(f"{bucket}/data/a")


def test_a_missing_bucket_is_said_and_never_made(bucket: str) -> None:
    for way in (read_bytes, lambda path: write_bytes(path, b"1")):
        with pytest.raises(UnreachableStorage, match=r"s3://crawll/a\.warc\.gz: The specified bucket does not exist"):
            way("s3://crawll/a.warc.gz")
    assert [one["Name"] for one in boto3.client("s3").list_buckets()["Buckets"]] == ["crawl"]
    for crawl in ("s3://crawll/a.warc.gz", "s3://crawll/*.warc.gz", f"{bucket}/data/z.warc.gz"):
        with pytest.raises(CrawlNotFound, match="Correct `crawl`, or fetch the file"):
            find_crawl_files((crawl,), "")
    with pytest.raises(UnreachableStorage, match=r"no\.paths\.gz: there is no such file"):
        find_crawl_files((f"{bucket}/no.paths.gz",), "")


def test_a_removal_reaches_a_root_in_s3(bucket: str) -> None:
    """Hash deduplication, a removal and the purge, all of it there; the other image stays as it was."""
    layout = Layout(f"{bucket}/root")
    images = {name: encode_jpeg(scene(number), quality=90) for number, name in enumerate(("gone", "stays"))}
    hashed = hash_dedup.fn(downloaded(layout, images), HashDedup(method="phash"), layout)
    gone, stays = load_array(hashes_of(hashed)[0][1])
    append_entries(layout, entries_of(urls=["http://a.test/gone"], reason="asked", date="2026-11-23"))
    left = drop_removed.fn(hashed, load_ledger(layout), layout, "remaining")
    purge(layout, [left], load_ledger(layout))
    objects = boto3.client("s3").list_objects_v2(Bucket="crawl", Prefix="root/")["Contents"]
    data = [read_bytes(f"s3://crawl/{one['Key']}") for one in objects]
    needles = [gone.tobytes(), middle(images["gone"]), stays.tobytes(), middle(images["stays"])]
    assert [sum(needle in one for one in data) for needle in needles] == [0, 0, 1, 1]
    ((table, thumbnails),) = hashes_of(load_manifest(hashed.directory))
    assert read_table(table)["id"].to_pylist() == ["stays"]
    assert load_array(thumbnails).tolist() == [stays.tolist()]


def test_without_the_extra_one_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)
    monkeypatch.delitem(_registry, "s3", raising=False)
    with pytest.raises(UnreachableStorage, match=r"s3://crawl/x.*pip install 'curate-lvd\[s3\]'"):
        read_bytes("s3://crawl/x")
