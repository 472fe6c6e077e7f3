"""What a re-run takes over and what it asks for again; what stands in a list of known-bad files is never stored."""

import asyncio
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from examples.sample_web.concepts import render_scene
from storage.errors import BadManifest
from storage.filesystem import read_bytes
from storage.images import decode_gray, encode_jpeg
from storage.layout import Layout
from storage.manifest import Manifest, load_manifest, save_manifest
from storage.samples import read_samples
from storage.tables import read_table
from tasks.algorithms.pdq import pdq_hash
from tasks.download import TIMING_COLUMNS, download
from tasks.removal.ledger import append_entries, hash_entry, load_ledger, new_entry
from tasks.removal.purge import purge
from tasks.url_policy import UrlPolicy, url_policy
from tasks.web.errors import BadHashList
from tasks.web.known_bad import HashList, KnownBad, load_hashes
from tests.helpers import jpeg
from tests.tasks.test_download import config_for, policy_of, result
from tests.tasks.test_url_policy import crawl_of
from tests.tasks.web.hostile_web import HostileWeb, Request, reply, serve_hostile_web

IMAGES = {f"/{number}.jpg": jpeg(number, side=40 + number) for number in range(6)}
URLS = [f"http://h{number % 2}.example{path}" for number, path in enumerate(IMAGES)]
NEVER = ["http://h0.example/missing.jpg", "http://h1.example/html.jpg"]
LATER = ["http://late.example/0.jpg", "http://late.example/3.jpg"]


@pytest.fixture
def web() -> Iterator[HostileWeb]:
    """`late.example` is out of order until `recovered` is set."""
    with serve_hostile_web() as served:
        for path, body in IMAGES.items():
            served.page(path, body)

        async def late(request: Request, writer: asyncio.StreamWriter) -> None:
            reply(writer, IMAGES[request.path], 200 if "recovered" in served.pages else 503)

        served.pages |= {f"late.example{path}": late for path in IMAGES}
        yield served


def recover(web: HostileWeb) -> None:
    web.page("recovered")


def images_of(manifest: Manifest, layout: Layout) -> dict[str, bytes]:
    rows = [row for row in result(manifest) if row["drop"] is None]
    return {
        row["url"]: read_bytes(layout.resolve(row["image_file"]), row["image_offset"], row["image_bytes"])
        for row in rows
    }


def without_times(manifest: Manifest) -> list[dict[str, Any]]:
    tables = [read_table(path).drop_columns([*TIMING_COLUMNS, "image_file", "image_offset"])
              for path in manifest.paths(".parquet")]  # fmt: skip
    return [row for table in tables for row in table.to_pylist()]


def test_a_re_run_asks_only_for_what_may_have_passed_and_ends_as_a_whole_run_would(
    tmp_path: Path, layout: Layout, web: HostileWeb
) -> None:
    urls = policy_of(tmp_path, layout, [*URLS, *NEVER, *LATER], urls_per_part=4)
    first = download.fn(urls, config_for(web, max_attempts=1), layout)
    assert first.drops == {"http_404": 1, "http_503": 2, "not_an_image": 1}
    asked = web.asked.copy()
    recover(web)
    again = download.fn(urls, config_for(web, max_attempts=1, only_failed_of=first.reference), layout)
    new = {where for where, count in web.asked.items() if count > asked[where] and not where.endswith((".txt", "json"))}
    assert new == {"late.example/0.jpg", "late.example/3.jpg"}
    assert again.facts["urls_fetched"] == 2
    assert again.directory != first.directory
    assert set(images_of(again, layout)) == {*URLS, *LATER}
    assert images_of(again, layout) == {url: IMAGES["/" + url.rpartition("/")[2]] for url in [*URLS, *LATER]}
    assert sum(len(list(read_samples(tar))) for tar in again.paths(".tar")) == 2  # nothing is stored twice
    whole = download.fn(urls, config_for(web, max_attempts=1, max_redirects=4), layout)
    assert without_times(again) == without_times(whole)


def test_the_reasons_that_are_worth_another_try_are_the_configs(
    tmp_path: Path, layout: Layout, web: HostileWeb
) -> None:
    urls = policy_of(tmp_path, layout, [*URLS, *NEVER])
    first = download.fn(urls, config_for(web), layout)
    web.page("h0.example/missing.jpg", IMAGES["/0.jpg"])
    short = first.reference[:20]  # the first characters will do
    kept = download.fn(urls, config_for(web, only_failed_of=short), layout)
    assert (kept.drops, kept.facts["urls_fetched"]) == (first.drops, 0)
    asked = {"only_failed_of": short, "retry_reasons": frozenset({"http_404"})}
    found = download.fn(urls, config_for(web, **asked), layout)
    assert found.drops == {"not_an_image": 1}


def test_only_a_download_of_the_same_urls_can_be_gone_on_from(tmp_path: Path, layout: Layout, web: HostileWeb) -> None:
    urls = policy_of(tmp_path, layout, URLS)
    other = policy_of(tmp_path / "other", layout, URLS, urls_per_part=2)
    first = download.fn(urls, config_for(web), layout)
    with pytest.raises(BadManifest, match=r"is no finished download of these URLs .* There is: none"):
        download.fn(other, config_for(web, only_failed_of=first.reference), layout)
    with pytest.raises(BadManifest, match=first.reference):
        download.fn(urls, config_for(web, only_failed_of="download/0000"), layout)


def test_a_removed_image_is_gone_from_every_download_that_took_it_over_and_does_not_come_back(
    tmp_path: Path, layout: Layout, web: HostileWeb
) -> None:
    crawl = crawl_of(tmp_path, [*URLS, *LATER])
    urls = url_policy.fn(crawl, UrlPolicy(), layout)
    crawl.directory = layout.stage("extract", crawl.fingerprint)  # where a purge looks for what urls were made of
    save_manifest(crawl)
    first = download.fn(urls, config_for(web, max_attempts=1), layout)
    recover(web)
    again = download.fn(urls, config_for(web, max_attempts=1, only_failed_of=first.reference), layout)
    asked, given = web.asked.copy(), {"reason": "asked", "date": "2026-11-22"}
    digest = hashlib.sha256(IMAGES["/4.jpg"]).hexdigest()
    append_entries(layout, [new_entry("url", URLS[2], **given), hash_entry(digest, **given)])
    purge(layout, [again], load_ledger(layout))
    files = [path.read_bytes() for path in Path(layout.root).rglob("*") if path.is_file()]
    assert not [data for data in files if IMAGES["/2.jpg"] in data or IMAGES["/4.jpg"] in data]
    third = {"only_failed_of": first.reference, "retry_reasons": frozenset({"http_503", "timeout"})}
    anew = download.fn(load_manifest(urls.directory), config_for(web, max_attempts=1, **third), layout)
    for manifest in (load_manifest(first.directory), load_manifest(again.directory)):
        assert {row["url"] for row in result(manifest) if row["drop"] == "removed"} == {URLS[2], URLS[4]}
    assert set(images_of(anew, layout)) == {*URLS, *LATER} - {URLS[2], URLS[4]}
    new = {where for where, count in web.asked.items() if count > asked[where] and where.endswith(".jpg")}
    assert new == {"late.example/0.jpg", "late.example/3.jpg"}


def listed(folder: Path, kind: str, *hashes: str) -> HashList:
    path = folder / f"{kind}.csv"
    path.write_text("hash,source\n" + "".join(f'"{one.upper()}",test\n' for one in hashes) + "# end\n\n")
    return HashList(file=str(path), kind=kind)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["md5", "sha256"])
def test_a_known_bad_file_is_logged_and_nowhere_stored(
    tmp_path: Path, layout: Layout, web: HostileWeb, kind: str
) -> None:
    bad = IMAGES["/2.jpg"]
    digest = hashlib.new(kind, bad).hexdigest()
    lists = (listed(tmp_path, kind, digest, "00" * (len(digest) // 2)),)
    urls = policy_of(tmp_path, layout, URLS, urls_per_part=3)
    manifest = download.fn(urls, config_for(web, known_bad=lists), layout)
    assert manifest.drops == {"known_bad": 1}
    (row,) = [row for row in result(manifest) if row["drop"]]
    assert (row["drop"], row["detail"], row["image_file"]) == ("known_bad", f"{kind} in {kind}.csv", None)
    assert row["sha256"] == hashlib.sha256(bad).hexdigest()
    stored = b"".join(read_bytes(tar) for tar in manifest.paths(".tar"))
    assert bad not in stored
    assert IMAGES["/1.jpg"] in stored
    (entry,) = [
        json.loads(line) for path in manifest.paths(".known_bad.jsonl") for line in Path(path).read_text().splitlines()
    ]
    assert entry["url"] == row["url"] == "http://h0.example/2.jpg"
    assert (entry["kind"], entry["hash"], entry["list"]) == (kind, digest, lists[0].file)
    assert entry["when"].startswith("20")


def test_a_new_list_judges_what_a_re_run_takes_over(tmp_path: Path, layout: Layout, web: HostileWeb) -> None:
    urls = policy_of(tmp_path, layout, URLS)
    first = download.fn(urls, config_for(web), layout)
    lists = (listed(tmp_path, "md5", hashlib.md5(IMAGES["/4.jpg"]).hexdigest()),)
    again = download.fn(urls, config_for(web, only_failed_of=first.reference, known_bad=lists), layout)
    assert again.drops == {"known_bad": 1}
    assert set(images_of(again, layout)) == {url for url in URLS if not url.endswith("/4.jpg")}


def test_the_content_of_the_lists_decides_and_not_their_names(tmp_path: Path, layout: Layout, web: HostileWeb) -> None:
    urls = policy_of(tmp_path, layout, URLS)
    config = config_for(web, known_bad=(listed(tmp_path, "md5", "00" * 16),))
    first = download.fn(urls, config, layout)
    listed(tmp_path, "md5", hashlib.md5(IMAGES["/4.jpg"]).hexdigest())
    second = download.fn(urls, config, layout)
    assert (first.drops, second.drops) == ({}, {"known_bad": 1})


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "no hash"),
        ("# none\n\n", "no hash"),
        (f"{'0' * 32}\nhello\n", "line 2"),
        ("\n" + "0" * 31, "line 2"),
        (f"{'0' * 64}\n{'0' * 32}\n", "line 1"),
    ],
)
def test_a_list_that_cannot_be_understood_is_refused(tmp_path: Path, text: str, why: str) -> None:
    path = tmp_path / "list.txt"
    path.write_text(text)
    with pytest.raises(BadHashList, match=why):
        load_hashes(HashList(file=str(path), kind="md5"))


def test_digests_that_end_in_zeros_are_found_and_their_neighbours_are_not(tmp_path: Path) -> None:
    lists = [listed(tmp_path, "md5", "ab" * 15 + "00", "00" * 16, "ff" * 16)]
    known = KnownBad(lists)
    for digest, bad in (("ab" * 15 + "00", True), ("00" * 16, True), ("ff" * 16, True), ("ab" * 16, False),
                        ("00" * 15 + "01", False)):  # fmt: skip
        assert (known.match(b"", md5=digest, sha256="00" * 32) is not None) is bad


def test_a_picture_is_known_by_its_pdq_hash_however_it_was_saved(
    tmp_path: Path, layout: Layout, web: HostileWeb
) -> None:
    scene = render_scene("desert", 3, (400, 300))
    other = render_scene("desert", 4, (400, 300))
    digest, quality = pdq_hash(decode_gray(encode_jpeg(scene, quality=95)))
    assert quality >= 50
    web.page("/same.jpg", encode_jpeg(scene, quality=40))
    web.page("/other.jpg", encode_jpeg(other, quality=40))
    web.page("/flat.jpg", encode_jpeg(np.full((300, 400, 3), 90, np.uint8), quality=90))
    urls = policy_of(tmp_path, layout, [f"http://h.example/{name}.jpg" for name in ("same", "other", "flat")])
    lists = (listed(tmp_path, "pdq", digest.hex(), "00" * 32),)
    manifest = download.fn(urls, config_for(web, known_bad=lists), layout)
    found = {row["url"].rpartition("/")[2]: row["drop"] for row in result(manifest)}
    assert found == {"same.jpg": "known_bad", "other.jpg": None, "flat.jpg": None}


def test_md5_is_stored_unless_it_is_not_wanted_and_then_no_list_may_need_it(
    tmp_path: Path, layout: Layout, web: HostileWeb
) -> None:
    urls = policy_of(tmp_path, layout, URLS[:2])
    rows = result(download.fn(urls, config_for(web, md5=False), layout))
    assert [(row["md5"], row["drop"]) for row in rows] == [(None, None)] * 2
    with pytest.raises(ValidationError, match="set md5"):
        config_for(web, md5=False, known_bad=(listed(tmp_path, "md5", "00" * 16),))
