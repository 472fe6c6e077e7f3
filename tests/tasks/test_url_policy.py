"""Every URL gets one verdict; what is kept is kept once, and every host is spread over the parts."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pydantic import ValidationError

from storage.layout import Layout
from storage.manifest import Manifest
from storage.tables import kept, read_table, write_table
from tasks.extract import SCHEMA
from tasks.removal.ledger import Entry, Ledger
from tasks.url_policy import UrlPolicy, mark_duplicates, part_spans, runs_of_parts, url_policy
from tasks.web.errors import BadDomainList, EmptyCrawl
from tasks.web.urls import name_url


def crawl_of(folder: Path, *parts: list[str]) -> Manifest:
    """An extract manifest whose parts name these URLs, each on a page of its own."""
    entries = []
    for number, urls in enumerate(parts):
        rows = []
        for at, raw in enumerate(urls):
            name = name_url(raw, None)
            row = {"id": name.id, "url": name.url, "raw_url": name.raw, "page_url": f"https://p.example/{number}/{at}"}
            rows.append({field.name: row.get(field.name) for field in SCHEMA})
        entries.append(write_table(f"{folder}/part-{number:05d}.parquet", pa.Table.from_pylist(rows, schema=SCHEMA)))
    total = sum(map(len, parts))
    return Manifest("extract", 1, "e" * 64, str(folder), {}, {}, tuple(entries), total, total, {})


def run(layout: Layout, urls: Manifest, **changes: Any) -> Manifest:
    return url_policy.fn(urls, UrlPolicy(**changes), layout)


def tables(manifest: Manifest) -> list[pa.Table]:
    return [read_table(path) for path in manifest.paths(".parquet")]


def rows(manifest: Manifest) -> list[dict[str, Any]]:
    return [row for table in tables(manifest) for row in table.to_pylist()]


URLS = [f"https://host{number % 7}.example/{number}.jpg" for number in range(300)]
WITH_BAD = [*URLS, "javascript:alert(1)", "http://10.0.0.1/x", "http://", "https://ads.example/x", *URLS[:50]]


@pytest.mark.parametrize("rows_per_bucket", [1_000_000, 60, 15])
@pytest.mark.parametrize("urls_per_part", [1000, 64, 7])
def test_every_row_in_gives_one_verdict_and_every_url_is_kept_once(
    tmp_path: Path, layout: Layout, rows_per_bucket: int, urls_per_part: int
) -> None:
    crawl = crawl_of(tmp_path, WITH_BAD[:200], WITH_BAD[200:], [], URLS[250:])
    changes = {"blocked_domains": ("ads.example",), "rows_per_bucket": rows_per_bucket, "urls_per_part": urls_per_part}
    manifest = run(layout, crawl, **changes)
    found = rows(manifest)
    assert manifest.rows_in == len(found) == crawl.rows_in
    assert sorted(row["url"] for row in found if row["drop"] is None) == sorted(URLS)
    drops = {"duplicate_url": 100, "scheme": 1, "private_host": 1, "malformed": 1, "blocked_domain": 1}
    assert manifest.drops == drops == Counter(row["drop"] for row in found if row["drop"])
    assert all(kept(table).num_rows <= urls_per_part for table in tables(manifest))
    assert [row["id"] for row in found] == sorted(row["id"] for row in found)


def test_the_first_in_crawl_order_is_the_one_that_stays(tmp_path: Path, layout: Layout) -> None:
    crawl = crawl_of(tmp_path, ["https://a.example/1", "https://b.example/2"], ["https://b.example/2"] * 2)
    found = rows(run(layout, crawl))
    stays = next(row for row in found if row["url"] == "https://b.example/2" and row["drop"] is None)
    assert stays["page_url"] == "https://p.example/0/1"
    copies = [row for row in found if row["drop"] == "duplicate_url"]
    assert [row["page_url"] for row in copies] == ["https://p.example/1/0", "https://p.example/1/1"]
    assert {row["other"] for row in copies} == {stays["id"]}


@pytest.mark.parametrize("rows_per_bucket", [1_000_000, 100])
def test_what_stands_everywhere_fills_no_bucket_and_changes_no_verdict(
    tmp_path: Path, layout: Layout, monkeypatch: pytest.MonkeyPatch, rows_per_bucket: int
) -> None:
    pixel, logo = "data:image/gif;base64,R0lGOD", "https://host1.example/1.jpg"
    crawl = crawl_of(tmp_path, [pixel, logo] * 40 + URLS[:50], ([pixel] * 30 + [logo] * 3), URLS + [pixel] * 60)
    changes = {"rows_per_bucket": rows_per_bucket, "urls_per_part": 40}
    plain = run(layout, crawl, **changes)
    monkeypatch.setattr("tasks.url_policy._MAX_SAME", 5)
    buckets: list[int] = []
    monkeypatch.setattr(
        "tasks.url_policy.mark_duplicates", lambda t: (buckets.append(t.num_rows), mark_duplicates(t))[1]
    )
    spread = run(Layout(str(tmp_path / "spread")), crawl, **changes)
    verdicts = [
        sorted((r["page_url"], r["url"], r["drop"] or "", r["other"] or "") for r in rows(m)) for m in (plain, spread)
    ]
    assert verdicts[0] == verdicts[1]
    assert (spread.rows_in, spread.rows_kept, spread.drops) == (plain.rows_in, plain.rows_kept, plain.drops)
    assert sum(buckets) <= len(URLS) + 50 + 2 * 5 * 3
    assert sum(table.num_rows for table in tables(spread)) == crawl.rows_in
    assert {path.name for path in Path(spread.directory).glob("*.parquet")} == {one.path for one in spread.files}


def test_a_host_is_spread_over_the_parts(tmp_path: Path, layout: Layout) -> None:
    crawl = crawl_of(tmp_path, [f"https://one.example/{number}" for number in range(100)] + URLS)
    manifest = run(layout, crawl, urls_per_part=40)
    shares = [sum("one.example" in url for url in kept(table)["url"].to_pylist()) for table in tables(manifest)]
    assert len(shares) == 10
    assert sum(shares) == 100
    assert max(shares) <= 20


def test_a_later_crawl_file_changes_no_verdict_of_an_earlier_one(tmp_path: Path, layout: Layout) -> None:
    small = rows(run(layout, crawl_of(tmp_path / "a", WITH_BAD)))
    large = rows(run(layout, crawl_of(tmp_path / "b", WITH_BAD, [f"https://new.example/{n}" for n in range(99)])))
    pages = {(row["page_url"], row["url"], row["drop"]) for row in small}
    assert pages <= {(row["page_url"], row["url"], row["drop"]) for row in large}


def test_nothing_half_made_stays_in_the_folder(tmp_path: Path, layout: Layout) -> None:
    manifest = run(layout, crawl_of(tmp_path, URLS), rows_per_bucket=100)
    names = {path.name for path in Path(manifest.directory).glob("*.parquet")}
    assert names == {entry.path for entry in manifest.files}


def test_a_changed_list_makes_a_new_result_and_an_unchanged_one_is_reused(tmp_path: Path, layout: Layout) -> None:
    blocklist = tmp_path / "list.txt"
    blocklist.write_text("host0.example\n")
    crawl = crawl_of(tmp_path / "crawl", URLS)
    first = run(layout, crawl, blocked_domain_files=(str(blocklist),))
    assert first.drops == {"blocked_domain": 43}
    assert run(layout, crawl, blocked_domain_files=(str(blocklist),)).directory == first.directory
    blocklist.write_text("host0.example\nhost1.example\n")
    assert run(layout, crawl, blocked_domain_files=(str(blocklist),)).drops == {"blocked_domain": 86}


def test_a_policy_that_keeps_nothing_says_why(tmp_path: Path, layout: Layout) -> None:
    with pytest.raises(EmptyCrawl, match="'not_allowed_domain': 300"):
        run(layout, crawl_of(tmp_path, URLS), allowed_domains=("other.example",))


def test_bad_lists_and_ranges_are_refused(tmp_path: Path, layout: Layout) -> None:
    with pytest.raises(BadDomainList, match="no domain list at"):
        run(layout, crawl_of(tmp_path, URLS), blocked_domain_files=(str(tmp_path / "none"),))
    for wrong in (
        {"max_url_chars": 0},
        {"urls_per_part": 0},
        {"allowed_ports": {0}},
        {"allow_networks": ("10.0.0.0/99",)},
    ):
        with pytest.raises(ValidationError):
            UrlPolicy(**wrong)  # type: ignore[arg-type]


def test_parts_are_even_and_cover_every_row() -> None:
    rng = np.random.default_rng(0)
    for total, per_part in [(0, 5), (1, 5), (5, 5), (6, 5), (1000, 7), (100, 100)]:
        mask = rng.random(total) < 0.6
        spans = part_spans(mask, per_part)
        counts = [int(mask[start:end].sum()) for start, end in spans]
        assert [row for start, end in spans for row in range(start, end)] == list(range(total))
        assert sum(counts) == mask.sum()
        assert all(count <= per_part for count in counts)
        assert not counts or max(counts) - min(counts) <= 1


def test_dropped_rows_are_never_the_ones_that_others_are_copies_of() -> None:
    ids, drops = ["b" * 24, "a" * 24, "b" * 24, "b" * 24], ["scheme", None, None, None]
    rows = [{f.name: None for f in SCHEMA} | {"id": i, "drop": d} for i, d in zip(ids, drops, strict=True)]
    marked = mark_duplicates(pa.Table.from_pylist(rows, schema=SCHEMA))
    assert marked["drop"].to_pylist() == [None, "scheme", None, "duplicate_url"]


def downloaded(folder: Path, ids_and_drops: list[tuple[str, str | None]], *, parts: int) -> Manifest:
    """A download stage of an earlier crawl: only what this stage reads of it."""
    schema = pa.schema([("id", pa.string()), ("drop", pa.string())])
    entries = []
    for number in range(parts):
        content = [{"id": key, "drop": drop} for key, drop in ids_and_drops[number::parts]]
        path = f"{folder}/part-{number:05d}.parquet"
        entries.append(write_table(path, pa.Table.from_pylist(content, schema=schema)))
    kept_rows = sum(drop is None for _, drop in ids_and_drops)
    return Manifest("download", 1, "d" * 64, str(folder), {}, {}, tuple(entries), len(ids_and_drops), kept_rows, {})


@pytest.mark.parametrize("rows_per_bucket", [1_000_000, 15])
def test_what_an_earlier_crawl_has_is_not_fetched_again_and_what_it_could_not_have_is(
    tmp_path: Path, layout: Layout, rows_per_bucket: int
) -> None:
    crawl = crawl_of(tmp_path / "crawl", WITH_BAD)
    had = [(name_url(url, None).id, None) for url in URLS[:100]]
    failed = [(name_url(url, None).id, "timeout") for url in URLS[100:120]]
    config = UrlPolicy(rows_per_bucket=rows_per_bucket)
    manifest = url_policy.fn(crawl, config, layout, known=downloaded(tmp_path / "known", had + failed, parts=3))
    verdicts = {row["url"]: row["drop"] for row in rows(manifest) if row["url"] and row["drop"] != "duplicate_url"}
    assert {url for url, drop in verdicts.items() if drop == "known_url"} == set(URLS[:100])
    assert all(verdicts[url] is None for url in URLS[100:])
    assert manifest.drops["known_url"] == 100
    alone = url_policy.fn(crawl, config, layout)
    assert alone.fingerprint != manifest.fingerprint
    assert alone.rows_kept == manifest.rows_kept + 100


def test_a_crawl_of_known_urls_alone_says_so(tmp_path: Path, layout: Layout) -> None:
    crawl = crawl_of(tmp_path / "crawl", URLS[:5])
    had = [(name_url(url, None).id, None) for url in URLS[:5]]
    with pytest.raises(EmptyCrawl, match="'known_url': 5"):
        url_policy.fn(crawl, UrlPolicy(), layout, known=downloaded(tmp_path / "known", had, parts=1))


def test_what_the_ledger_names_is_not_fetched(tmp_path: Path, layout: Layout) -> None:
    crawl = crawl_of(tmp_path, WITH_BAD)
    url, domain = "https://host1.example/1.jpg", "host2.example"
    entries = (Entry("url", url, "asked", "2026-01-01"), Entry("domain", domain, "asked", "2026-01-01"))
    manifest = url_policy.fn(crawl, UrlPolicy(), layout, ledger=Ledger(entries))
    removed = {row["url"]: row["detail"] for row in rows(manifest) if row["drop"] == "removed"}
    assert removed.pop(url) == f"url:{url}"
    assert set(removed) == {url for url in URLS if domain in url}
    assert set(removed.values()) == {f"domain:{domain}"}
    assert url_policy.fn(crawl, UrlPolicy(), layout, ledger=Ledger()).fingerprint == run(layout, crawl).fingerprint


def test_runs_of_parts_hold_every_part_in_order_and_about_a_buckets_rows(tmp_path: Path) -> None:
    crawl = crawl_of(tmp_path, *([URLS[:number] for number in (30, 30, 90, 1, 1, 1)]))
    runs = runs_of_parts(crawl, 60)
    assert [len(run) for run in runs] == [2, 1, 3]
    assert [path for run in runs for path in run] == crawl.paths(".parquet")


def test_the_policys_version_is_in_the_manifest_and_changes_with_its_rules_alone(
    tmp_path: Path, layout: Layout
) -> None:
    one, other = crawl_of(tmp_path / "one", URLS), crawl_of(tmp_path / "other", URLS[:200])
    version = run(layout, one).facts["policy"]
    assert len(version) == 16
    assert run(Layout(str(tmp_path / "elsewhere")), other).facts["policy"] == version
    assert run(layout, one, blocked_domains=("host1.example",)).facts["policy"] != version


def test_patterns_and_extensions_drop_with_their_reason(tmp_path: Path, layout: Layout) -> None:
    crawl = crawl_of(tmp_path, [*URLS, "https://a.example/x.svg", "https://a.example/pixel?id=1"])
    manifest = run(layout, crawl, blocked_extensions={"svg"}, blocked_patterns=("/pixel",))
    assert manifest.drops == {"blocked_pattern": 1, "extension": 1}
    with pytest.raises(ValidationError, match="no regular expression"):
        UrlPolicy(blocked_patterns=("(",))
