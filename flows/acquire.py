"""Crawl files → URLs → images worth keeping."""

from typing import NamedTuple

from flows.config import CurateConfig
from storage.layout import Layout
from storage.manifest import Manifest
from tasks.download import download
from tasks.extract import extract
from tasks.hash_dedup import hash_dedup
from tasks.image_filter import filter_images
from tasks.url_policy import url_policy


class Acquired(NamedTuple):
    """The images, and the stages that know where they came from."""

    images: Manifest
    history: dict[str, Manifest]


def acquire(config: CurateConfig, layout: Layout) -> Acquired:
    """The crawl's images: downloaded, screened, without exact copies, without NSFW, faces blurred."""
    urls = extract(config.extract, layout)
    allowed = url_policy(urls, config.url_policy, layout)
    downloaded = download(allowed, config.download, layout)
    screened = filter_images(downloaded, config.screen, layout, "screen")
    distinct = hash_dedup(screened, config.hash_dedup, layout)
    safe = filter_images(distinct, config.safety, layout, "safety")
    return Acquired(safe, {"url_policy": allowed, "download": downloaded})
