"""A part of URLs becomes a shard that is the same whatever the order of arrival, with a verdict for every URL."""

import asyncio
import hashlib
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from storage.filesystem import read_bytes
from storage.layout import Layout
from storage.manifest import Manifest
from storage.samples import read_samples
from storage.tables import read_table
from tasks.download import TIMING_COLUMNS, Download, download
from tasks.url_policy import UrlPolicy, url_policy
from tasks.web.errors import EmptyCrawl
from tests.helpers import jpeg
from tests.tasks.test_url_policy import crawl_of
from tests.tasks.web.hostile_web import HostileWeb, Request, reply, serve_hostile_web

IMAGES = {f"/{number}.jpg": jpeg(number, side=32 + number) for number in range(12)}


@pytest.fixture(scope="module")
def web() -> Iterator[HostileWeb]:
    """Every image after a delay of its own, different each time."""
    delays = random.Random(0)

    async def image(request: Request, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(delays.random() / 10)
        reply(writer, IMAGES[request.path])

    with serve_hostile_web() as served:
        served.pages |= dict.fromkeys(IMAGES, image)
        yield served


def config_for(web: HostileWeb, **changes: Any) -> Download:
    fast: dict[str, Any] = {
        "connect_to": {"*": f"127.0.0.1:{web.port}"}, "allow_networks": ("127.0.0.0/8",), "total_seconds": 0.5,
        "read_seconds": 0.3, "retry_seconds": 0.01, "requests_per_second_per_domain": 10_000, "max_bytes": 1_000_000,
    }  # fmt: skip
    return Download(**(fast | changes))


def policy_of(folder: Path, layout: Layout, urls: list[str], **changes: Any) -> Manifest:
    return url_policy.fn(crawl_of(folder, urls), UrlPolicy(**changes), layout)


def result(manifest: Manifest) -> list[dict[str, Any]]:
    return [row for path in manifest.paths(".parquet") for row in read_table(path).to_pylist()]


GOOD = [f"https://h{number % 3}.example{path}" for number, path in enumerate(IMAGES)]
GOOD = [url.replace("https:", "http:") for url in GOOD]
BAD = {
    "http://h0.example/html.jpg": "not_an_image",
    "http://h1.example/missing.jpg": "http_404",
    "http://h2.example/drip.jpg": "timeout",
    "http://h2.example/endless.jpg": "too_large",
    "http://h0.example/svg.jpg": "unsupported_format",
}


def test_originals_are_kept_byte_for_byte_and_rows_say_where(tmp_path: Path, layout: Layout, web: HostileWeb) -> None:
    urls = policy_of(tmp_path, layout, [*GOOD, *BAD], urls_per_part=6)
    manifest = download.fn(urls, config_for(web), layout)
    found = result(manifest)
    assert {row["url"]: row["drop"] for row in found if row["drop"]} == BAD
    assert (manifest.rows_in, manifest.rows_kept) == (len(GOOD) + len(BAD), len(GOOD))
    images = [row for row in found if row["drop"] is None]
    assert sorted(row["url"] for row in images) == sorted(GOOD)
    for row in images:
        body = read_bytes(layout.resolve(row["image_file"]), row["image_offset"], row["image_bytes"])
        wanted = IMAGES["/" + row["url"].rpartition("/")[2]]
        assert body == wanted
        assert row["sha256"] == hashlib.sha256(wanted).hexdigest()
        assert row["md5"] == hashlib.md5(wanted).hexdigest()
        assert (row["format"], row["http_status"], row["content_type"]) == ("JPEG", 200, "image/jpeg")
        assert row["width"] == row["height"] == 32 + int(row["url"].rpartition("/")[2][:-4])
        assert row["final_url"] == row["url"]
        assert row["page_url"].startswith("https://p.example/")
        assert row["attempts"] == 1
        assert row["fetched_at"] is not None


def test_part_by_part_rows_and_tars_follow_the_order_of_the_urls(
    tmp_path: Path, layout: Layout, web: HostileWeb
) -> None:
    urls = policy_of(tmp_path, layout, [*GOOD, *BAD], urls_per_part=6)
    manifest = download.fn(urls, config_for(web), layout)
    assert len(manifest.paths(".tar")) == len(urls.paths(".parquet")) == 3
    for before, after, tar in zip(
        urls.paths(".parquet"), manifest.paths(".parquet"), manifest.paths(".tar"), strict=True
    ):
        ids = [row["id"] for row in read_table(before).to_pylist() if row["drop"] is None]
        rows = read_table(after).to_pylist()
        assert [row["id"] for row in rows] == ids
        kept = [row["id"] for row in rows if row["drop"] is None]
        assert [(key, list(members)) for key, members in read_samples(tar)] == [(key, ["jpg"]) for key in kept]


def test_the_same_urls_give_the_same_bytes_whatever_arrives_first(tmp_path: Path, web: HostileWeb) -> None:
    runs = []
    for number, memory_bytes in enumerate((512 << 20, 1 << 20)):
        layout = Layout(str(tmp_path / str(number)))
        urls = policy_of(tmp_path / f"crawl{number}", layout, [*GOOD, *BAD])
        manifest = download.fn(urls, config_for(web, memory_bytes=memory_bytes), layout)
        table = read_table(manifest.paths(".parquet")[0]).drop_columns(list(TIMING_COLUMNS))
        runs.append((read_bytes(manifest.paths(".tar")[0]), table.to_pylist(), manifest.drops))
    assert runs[0][0] == runs[1][0]
    assert [row | {"detail": ""} for row in runs[0][1]] == [row | {"detail": ""} for row in runs[1][1]]
    assert runs[0][2] == runs[1][2]


def test_speed_and_place_of_the_web_are_not_in_the_fingerprint(tmp_path: Path, layout: Layout, web: HostileWeb) -> None:
    urls = policy_of(tmp_path, layout, GOOD)
    first = download.fn(urls, config_for(web), layout)
    asked = web.asked.total()
    again = download.fn(urls, config_for(web, connect_to={}, concurrency=1, contact="mail@lab.example"), layout)
    assert again.directory == first.directory
    assert web.asked.total() == asked
    assert Download(max_pixels=1).deciding() != Download().deciding()


def test_redirects_obey_the_policy_that_judged_the_urls(tmp_path: Path, layout: Layout, web: HostileWeb) -> None:
    web.page("jump.example/ad.jpg", b"", 302, Location="http://sub.ads.example/0.jpg")
    web.page("jump.example/port.jpg", b"", 302, Location="http://other.example:8080/0.jpg")
    starts = ["http://jump.example/ad.jpg", "http://jump.example/port.jpg", GOOD[0]]
    urls = policy_of(tmp_path, layout, starts, blocked_domains=("ads.example",))
    found = {row["url"]: (row["drop"], row["detail"]) for row in result(download.fn(urls, config_for(web), layout))}
    assert found["http://jump.example/ad.jpg"] == ("bad_redirect", "blocked_domain: ads.example")
    assert found["http://jump.example/port.jpg"] == ("bad_redirect", "port: :8080")


def test_a_download_without_one_image_says_why(tmp_path: Path, layout: Layout, web: HostileWeb) -> None:
    urls = policy_of(tmp_path, layout, ["http://h0.example/missing.jpg", "http://h0.example/html.jpg"])
    with pytest.raises(EmptyCrawl, match=r"not one of 2 URLs gave an image \(reasons: http_404, not_an_image"):
        download.fn(urls, config_for(web), layout)
    assert not list(Path(layout.root, "stages", "download").rglob("manifest.json"))


@pytest.mark.parametrize(
    "wrong",
    [
        {"total_seconds": 0}, {"max_bytes": 0}, {"max_attempts": 0}, {"allow_networks": ("10.0.0.0/40",)},
        {"connect_to": {"*": "photos.example:80"}}, {"connect_to": {"*": "127.0.0.1"}}, {"contact": "a\r\nX: y"},
        {"timeout": 3},
    ],
)  # fmt: skip
def test_configs_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Download(**wrong)


def test_every_stage_config_survives_json() -> None:
    for config in (Download(connect_to={"*": "127.0.0.1:80"}, allow_networks=("127.0.0.0/8",)), UrlPolicy()):
        assert type(config).model_validate_json(config.model_dump_json()) == config


def test_a_worker_that_downloads_knows_no_prefect_and_loads_no_compiler_for_a_few_images() -> None:
    code = "import sys, tasks.parts, tasks.web.part; print([name for name in {names} if name in sys.modules])"
    names = ["prefect", "distributed", "numba", "h2", "torch"]
    done = subprocess.run(
        [sys.executable, "-c", code.format(names=names)], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"
