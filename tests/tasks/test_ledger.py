"""What the ledger names is dropped wherever it turns up, by URL, domain, id or hash; the ledger itself only grows."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.layout import Layout
from storage.samples import SampleWriter
from storage.tables import read_table, table_from_rows
from tasks.download import SCHEMA as DOWNLOADED
from tasks.hash_dedup import HashDedup, hash_dedup
from tasks.removal.ledger import (
    BadEntry,
    DamagedLedger,
    Entry,
    Ledger,
    append_entries,
    drop_removed,
    entries_of,
    hash_entry,
    load_ledger,
    new_entry,
    split_removed,
)
from tasks.web.urls import name_url
from tests.helpers import jpeg
from tests.tasks.image_stages import verdicts
from tests.tasks.removal_runs import id_of, record, run, stage_of, url_of

TODAY = {"reason": "the owner asked", "date": "2026-11-22"}


def _entry(kind: str, value: str) -> Entry:
    return new_entry(kind, value, **TODAY)


def _matched(ledger: Ledger, rows: Sequence[dict[str, Any]]) -> list[str | None]:
    return ledger.match(table_from_rows(rows, DOWNLOADED)).to_pylist()


def test_each_kind_names_what_it_should_and_nothing_else() -> None:
    rows = [
        record("http://a.test/1.jpg", b"one"),
        record("http://img.b.test/2.jpg", b"two"),
        record("http://c.test/3.jpg"),
    ]
    for entry, wanted in [
        (_entry("url", "HTTP://A.test:80/x/../1.jpg#here"), [True, False, False]),
        (_entry("domain", "b.test"), [False, True, False]),
        (_entry("id", rows[2]["id"].upper()), [False, False, True]),
        (_entry("sha256", hashlib.sha256(b"two").hexdigest()), [False, True, False]),
        (_entry("md5", rows[0]["md5"]), [True, False, False]),
    ]:
        named = [None if not hit else str(entry) for hit in wanted]
        assert _matched(Ledger((entry,)), rows) == named, entry


def test_a_domain_covers_its_subdomains_and_no_lookalike() -> None:
    ledger = Ledger((_entry("domain", "*.Example.org"),))
    hosts = ["example.org", "img.example.org", "a.b.example.org:8080", "notexample.org", "example.org.evil.test", "org"]
    found = _matched(ledger, [record(f"http://{host}/x.jpg") for host in hosts])
    assert found == ["domain:example.org"] * 3 + [None] * 3


def test_where_a_redirect_led_counts_too() -> None:
    row = record("http://short.test/1", final_url="http://cdn.owner.test/1.jpg")
    assert _matched(Ledger((_entry("domain", "owner.test"),)), [row]) == ["domain:owner.test"]
    assert _matched(Ledger((_entry("url", "http://cdn.owner.test/1.jpg"),)), [row]) == [
        "url:http://cdn.owner.test/1.jpg"
    ]


def test_a_url_is_found_by_its_id_where_no_url_is_stored() -> None:
    ids = pa.table({"id": [name_url("http://a.test/1").id, "0" * 24]})
    assert Ledger((_entry("url", "http://a.test/1"),)).match(ids).to_pylist() == ["url:http://a.test/1", None]


def test_a_picture_is_found_by_its_hash() -> None:
    table = pa.table({"id": ["a", "b"], "hash": ["00ff00ff00ff00ff", None]})
    assert Ledger((hash_entry("00FF00ff00ff00ff", **TODAY),)).match(table).to_pylist() == [
        *("pca_hash:00ff00ff00ff00ff", None)
    ]


HOSTS = st.sampled_from(["a.test", "x.a.test", "b.test", "y.b.test", "ab.test", "xa.test"])
URLS = st.builds(lambda host, path: f"http://{host}/{path}", HOSTS, st.integers(0, 3))


@settings(max_examples=60, deadline=None)
@given(urls=st.lists(URLS, max_size=12), taken=st.lists(URLS, max_size=3), domains=st.lists(HOSTS, max_size=2))
def test_matching_equals_the_slow_loop(urls: list[str], taken: list[str], domains: list[str]) -> None:
    entries = [*(_entry("url", url) for url in taken), *(_entry("domain", domain) for domain in domains)]
    found = _matched(Ledger(tuple(entries)), [record(url) for url in urls])
    wanted = []
    for url in urls:
        host = urlsplit(url).hostname or ""
        named = any(host == domain or host.endswith(f".{domain}") for domain in domains)
        wanted.append(url in taken or named)
    assert [hit is not None for hit in found] == wanted


def test_the_ledger_only_grows_and_the_same_batch_is_written_once(tmp_path: Path) -> None:
    layout = Layout(str(tmp_path))
    first = append_entries(layout, [_entry("url", "http://a.test/1"), _entry("domain", "b.test")])
    before = Path(first).read_bytes()
    append_entries(layout, [_entry("id", "0" * 24)])
    assert append_entries(layout, [_entry("url", "http://a.test/1"), _entry("domain", "b.test")]) == first
    assert Path(first).read_bytes() == before
    assert len(list((tmp_path / "ledger").iterdir())) == 2
    assert {str(entry) for entry in load_ledger(layout).entries} == {
        *("url:http://a.test/1", "domain:b.test", f"id:{'0' * 24}")
    }


def test_identity_is_what_is_named_and_not_when_or_why() -> None:
    url, domain = _entry("url", "http://a.test/1"), _entry("domain", "b.test")
    later = new_entry("url", "http://A.test/1", reason="again", date="2027-01-01")
    assert Ledger((url, domain)).identity == Ledger((domain, later, url)).identity
    assert Ledger((url,)).identity != Ledger((url, domain)).identity


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        *(("domain", "com"), ("domain", "co.uk"), ("domain", "github.io"), ("domain", "http://a.test/")),
        *(("id", "xyz"), ("sha256", "00"), ("url", "http://"), ("colour", "red")),
    ],
)
def test_what_names_nothing_or_far_too_much_is_refused(kind: str, value: str) -> None:
    with pytest.raises(BadEntry):
        _entry(kind, value)


def test_hashes_tell_their_kind_by_their_length() -> None:
    assert [hash_entry("a" * length, **TODAY).kind for length in (64, 32, 16)] == ["sha256", "md5", "pca_hash"]
    with pytest.raises(BadEntry, match="no hash"):
        hash_entry("a" * 24, **TODAY)


def test_a_batch_is_whole_or_refused() -> None:
    given = {"urls": ["http://a.test/1"], "domains": ["B.test"], "ids": ["A" * 24], "hashes": ["c" * 32]}
    assert [str(entry) for entry in entries_of(**given, **TODAY)] == [
        *("url:http://a.test/1", "domain:b.test", f"id:{'a' * 24}", f"md5:{'c' * 32}")
    ]
    with pytest.raises(BadEntry, match="nothing was written"):
        entries_of(**given | {"ids": ["nonsense"]}, **TODAY)


def test_a_damaged_ledger_stops_the_run(tmp_path: Path) -> None:
    path = Path(append_entries(Layout(str(tmp_path)), [_entry("id", "0" * 24)]))
    for content in ("", "{}", '{"format": 2, "entries": []}', '{"format": 1, "entries": [{"kind": "id"}]}'):
        path.write_text(content)
        with pytest.raises(DamagedLedger, match="Restore it"):
            load_ledger(Layout(str(tmp_path)))


def test_the_stage_drops_by_what_only_an_earlier_stage_knows(tmp_path: Path) -> None:
    layout = Layout(str(tmp_path))
    rows = [record(f"http://a.test/{n}", b"%d" % n) for n in range(6)]
    blurred = [row | {"sha256": "f" * 64, "md5": None, "final_url": None} for row in rows]
    parts = [table_from_rows(blurred[:3], DOWNLOADED), table_from_rows([*blurred[3:], {"drop": "nsfw"}], DOWNLOADED)]
    images = stage_of(layout, "safety", parts)
    past = stage_of(layout, "download", [table_from_rows(r, DOWNLOADED) for r in (rows[:3], rows[3:])])
    ledger = Ledger((_entry("md5", rows[1]["md5"]), _entry("sha256", rows[4]["sha256"]), _entry("url", rows[5]["url"])))
    kept = drop_removed.fn(images, ledger, layout, "merge", history={"download": past})
    assert [row["id"] for row in rows if verdicts(kept)[row["id"]] == "removed"] == [rows[n]["id"] for n in (1, 4, 5)]
    assert (kept.rows_in, kept.rows_kept, dict(kept.drops)) == (6, 3, {"removed": 3})
    details = [row["detail"] for row in read_table(kept.paths(".parquet")[1]).to_pylist()]
    assert details == [None, f"sha256:{rows[4]['sha256']}", f"url:{rows[5]['url']}"]
    again = drop_removed.fn(images, Ledger(ledger.entries[:1]), layout, "merge", history={"download": past})
    assert (again.fingerprint != kept.fingerprint, again.rows_kept) == (True, 5)


def test_a_picture_named_by_a_hash_alone_is_fetched_again_by_a_later_crawl_and_does_not_come_in(tmp_path: Path) -> None:
    before = run(tmp_path)
    layout = before.layout
    hashes = {
        row["id"]: row["hash"] for path in before.hashed.paths(".parquet") for row in read_table(path).to_pylist()
    }
    sha256, md5 = hashlib.sha256(jpeg(3)).hexdigest(), hashlib.md5(jpeg(4), usedforsecurity=False).hexdigest()
    append_entries(layout, entries_of(hashes=[sha256, md5, hashes[id_of(5)]], **TODAY))
    ledger = load_ledger(layout)
    crawl = {url_of(3): 3, "http://mirror.test/3.jpg": 3, "http://c.test/x.jpg": 4, "http://c.test/y.jpg": 5}
    crawl["http://c.test/new.jpg"] = 900
    urls = stage_of(layout, "urls", [table_from_rows([record(url) | {"sha256": None} for url in crawl], DOWNLOADED)])
    assert drop_removed.fn(urls, ledger, layout, "keep_urls").rows_kept == 5  # all are fetched
    tar = f"{layout.stage('later', '0')}.tar"
    with SampleWriter(tar) as writer:
        rows = []
        for number, (url, picture) in enumerate(crawl.items()):
            offset, size = writer.add(f"{number}", {"jpg": jpeg(picture)})["jpg"]
            place = {"image_file": layout.relative(tar), "image_offset": offset, "image_bytes": size}
            rows.append(record(url, jpeg(picture), width=96, height=96, format="JPEG", **place))
    fetched = stage_of(layout, "later", [table_from_rows(rows, DOWNLOADED)])
    distinct = hash_dedup.fn(fetched, HashDedup(method="phash"), layout)
    images = drop_removed.fn(distinct, ledger, layout, "remaining", history={"download": fetched})
    kept = [id_ for id_, reason in verdicts(images).items() if reason is None]
    assert kept == [name_url("http://c.test/new.jpg").id]
    assert sum(reason == "removed" for reason in verdicts(images).values()) == 3


def test_an_empty_ledger_drops_nothing() -> None:
    table = table_from_rows([record("http://a.test/1")], DOWNLOADED)
    assert split_removed(table, Ledger()).equals(table)
