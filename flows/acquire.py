"""Crawl files → URLs → images worth keeping, beside those that earlier runs have."""

from typing import NamedTuple

from flows.config import CurateConfig
from storage.layout import Layout
from storage.manifest import Manifest
from tasks.download import download
from tasks.earlier import Earlier, load_earlier
from tasks.extract import extract
from tasks.hash_dedup import hash_dedup, hashed_before
from tasks.image_filter import filter_images
from tasks.removal.ledger import Ledger, drop_removed, load_ledger
from tasks.unite import unite
from tasks.url_policy import url_policy


class Acquired(NamedTuple):
    """The images, the stages that know where they came from, what must not be among them, and the run that this one
    goes on from."""

    images: Manifest
    history: dict[str, Manifest]
    ledger: Ledger
    earlier: Earlier | None


def acquire(config: CurateConfig, layout: Layout) -> Acquired:
    """The crawl's images: downloaded, screened, without exact copies, without NSFW, faces blurred; with `config.base`,
    the earlier runs' images before them. What the ledger names is neither fetched nor kept."""
    urls = extract(config.extract, layout)
    earlier, ledger = load_earlier(config.base, urls, layout), load_ledger(layout)
    known = earlier.history["download"] if earlier else None
    allowed = url_policy(urls, config.url_policy, layout, known=known, ledger=ledger)
    downloaded = download(allowed, config.download, layout)
    ahead = config.safety if config.decode_once else None
    screened = filter_images(downloaded, config.screen, layout, "screen", hashes=config.hash_dedup.looks, ahead=ahead)
    before = hashed_before(earlier)
    distinct = hash_dedup(screened, config.hash_dedup, layout, before, ledger=ledger, history=[known] if known else [])
    safe = filter_images(distinct, config.safety, layout, "safety", seen=screened if ahead else None)
    fresh = Acquired(safe, {"url_policy": allowed, "download": downloaded}, ledger, earlier)
    return without_removed(beside_earlier(fresh, layout), layout)


def beside_earlier(fresh: Acquired, layout: Layout) -> Acquired:
    """The images of all crawls so far, and their history, part by part beside them."""
    if fresh.earlier is None:
        return fresh
    earlier = fresh.earlier
    history = {
        "url_policy": unite("pool_urls", [earlier.history["url_policy"], fresh.history["url_policy"]], layout),
        "download": unite("pool_downloads", [earlier.history["download"], fresh.history["download"]], layout),
    }
    return fresh._replace(images=unite("pool", [earlier.pool, fresh.images], layout), history=history)


def without_removed(acquired: Acquired, layout: Layout) -> Acquired:
    """The images that the ledger does not name, by URL, domain, id or hash."""
    if not acquired.ledger:
        return acquired
    history = {"download": acquired.history["download"]}
    return acquired._replace(
        images=drop_removed(acquired.images, acquired.ledger, layout, "remaining", history=history)
    )


def acquired_before(earlier: Earlier, layout: Layout) -> Acquired:
    """What an earlier run had acquired, without what the ledger names by now: no crawl, nothing fetched."""
    return without_removed(Acquired(earlier.pool, earlier.history, load_ledger(layout), earlier), layout)
