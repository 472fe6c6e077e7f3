"""A root may be called anything: what lies below it is found."""

from pathlib import Path

import pytest

from storage.filesystem import list_files, write_bytes
from storage.layout import Layout
from tasks.collect import Collection, list_members
from tasks.removal.ledger import append_entries, entries_of, load_ledger
from tasks.web.crawl_files import CrawlFile, find_crawl_files

NAMES = ["lvd [1]", "what?", "a*b", "two words"]


@pytest.mark.parametrize("name", NAMES)
def test_what_was_removed_is_known_below_any_root(tmp_path: Path, name: str) -> None:
    layout = Layout.at(str(tmp_path / name))
    append_entries(layout, entries_of(urls=["http://a.test/x.jpg"], reason="asked", date="2026-11-23"))
    write_bytes(layout.stage("pack", "0" * 16) + "/manifest.json", b"{}")
    assert [entry.reason for entry in load_ledger(layout).entries] == ["asked"]
    assert list_files(layout.stage_manifests("*")) == [f"{layout.root}/stages/pack/{'0' * 16}/manifest.json"]


@pytest.mark.parametrize("name", [name for name in NAMES if "*" not in name])  # of a collection, a star is a glob
def test_collections_and_crawls_are_found_in_any_folder(tmp_path: Path, name: str) -> None:
    folder = str(tmp_path / name)
    for file in ("a.jpg", "b/c.png", "crawl/x.warc.gz", "pages/p.html"):
        write_bytes(f"{folder}/{file}", b"")
    assert list_members(Collection(name="s", path=folder)) == [f"{folder}/a.jpg", f"{folder}/b/c.png"]
    assert find_crawl_files([f"{folder}/crawl"], "")[0] == [CrawlFile(f"{folder}/crawl/x.warc.gz", "warc")]
    assert find_crawl_files([f"{folder}/crawl/*.gz"], "")[0] == [CrawlFile(f"{folder}/crawl/x.warc.gz", "warc")]
    assert find_crawl_files([f"{folder}/pages"], "")[0] == [CrawlFile(f"{folder}/pages", "html")]
