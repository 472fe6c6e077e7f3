"""A run that goes on from an earlier one finds that run's own stages, and finds itself done when nothing changed."""

import json

import pytest

from storage.errors import BadManifest
from storage.filesystem import write_bytes
from storage.layout import Layout
from storage.manifest import Manifest, fingerprint, save_manifest
from tasks.config import StageConfig
from tasks.earlier import load_earlier, taken_over


class Width(StageConfig):
    """Test config."""

    width: int = 1


def stage(layout: Layout, name: str, config: Width | None = None, /, **inputs: Manifest) -> Manifest:
    content = (config or Width()).deciding()
    references = {role: manifest.reference for role, manifest in inputs.items()}
    key = fingerprint(name, 1, content, references)
    folder = layout.dataset(key) if name == "pack" else layout.stage(name, key)
    manifest = Manifest(name, 1, key, folder, content, references, (), 0, 0, {})
    save_manifest(manifest)
    return manifest


def dataset(layout: Layout, crawl: int, base: Manifest | None = None) -> tuple[Manifest, Manifest]:
    """(extract, pack) of a run: a chain of the shape that the flow makes, the second crawl united with the first."""
    urls = stage(layout, "extract", Width(width=crawl))
    allowed = stage(layout, "url_policy", urls=urls)
    downloaded = stage(layout, "download", urls=allowed)
    images = stage(layout, "safety", images=downloaded)
    more = {}
    if base is not None:
        earlier = load_earlier(base.reference, urls, layout)
        assert earlier is not None
        images = stage(layout, "pool", a=earlier.pool, b=images)
        allowed = stage(layout, "pool_urls", a=earlier.history["url_policy"], b=allowed)
        downloaded = stage(layout, "pool_downloads", a=earlier.history["download"], b=downloaded)
        more = {"whitening": earlier.stage("describe")}
    described = stage(layout, "describe", images=images, **more)
    chosen = stage(layout, "retrieve", described=described)
    rows = stage(layout, "shuffle", chosen=chosen, url_policy=allowed, download=downloaded)
    packed = stage(layout, "pack", shuffled=rows, **({"base": base} if base is not None else {}))
    write_bytes(layout.run("latest.json"), json.dumps({"ends": [packed.reference, "pretrain/x"]}).encode())
    return urls, packed


def test_the_stages_of_the_last_crawl_count(layout: Layout) -> None:
    _, first = dataset(layout, 1)
    urls, second = dataset(layout, 2, first)
    third = stage(layout, "extract", Width(width=3))
    earlier = load_earlier("latest", third, layout)
    assert earlier is not None
    assert earlier.dataset == second
    assert earlier.pool.stage == "pool"
    assert {role: manifest.stage for role, manifest in earlier.history.items()} == {
        "url_policy": "pool_urls",
        "download": "pool_downloads",
    }
    assert "whitening" in earlier.stage("describe").inputs  # not the first crawl's
    assert urls.reference in earlier.chain


def test_the_latest_run_of_the_same_crawl_goes_on_from_what_it_went_on_from(layout: Layout) -> None:
    first_urls, first = dataset(layout, 1)
    assert load_earlier("latest", first_urls, layout) is None
    second_urls, _ = dataset(layout, 2, first)
    earlier = load_earlier("latest", second_urls, layout)
    assert earlier is not None
    assert earlier.dataset == first


def test_without_a_base_or_a_finished_run_there_is_nothing_earlier(layout: Layout) -> None:
    urls = stage(layout, "extract")
    assert load_earlier(None, urls, layout) is None
    assert load_earlier("latest", urls, layout) is None


def test_only_a_stage_of_the_same_config_can_be_taken_over(layout: Layout) -> None:
    _, first = dataset(layout, 1)
    earlier = load_earlier(first.fingerprint, stage(layout, "extract", Width(width=9)), layout)
    assert earlier is not None
    assert taken_over(earlier, "describe", Width()) == earlier.stage("describe")
    assert taken_over(earlier, "describe", Width(width=2)) is None
    assert taken_over(earlier, "cluster", Width()) is None
    assert taken_over(None, "describe", Width()) is None


def test_a_base_that_is_no_dataset_is_said(layout: Layout) -> None:
    urls, _ = dataset(layout, 1)
    with pytest.raises(BadManifest, match="names a stage 'describe'"):
        load_earlier("describe/abc", urls, layout)
    with pytest.raises(BadManifest, match="no manifest"):
        load_earlier("abc", urls, layout)
