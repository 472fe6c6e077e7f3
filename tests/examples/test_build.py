"""The folder of a sample web: the same from the same seed, whole or not there, and readable as a crawl."""

import gzip
import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from fastwarc.warc import ArchiveIterator, WarcRecordType

from examples.sample_web import CONCEPTS, SampleWeb, build_sample_web, render_scene
from examples.sample_web.plants import COPY_KINDS, transform
from examples.sample_web.recipes import Recipe, make_image
from examples.sample_web.truth import read_truth
from tasks.web.html_files import pages_of_html
from tasks.web.html_images import ALL_WAYS
from tasks.web.pages import Page, Reading, Tally
from tasks.web.urls import name_url
from tasks.web.warc import pages_of_warc
from tasks.web.wat import pages_of_wat

from .conftest import NUM_IMAGES, NUM_PAGES

READING = Reading("all", frozenset(ALL_WAYS), 10 << 20)


def digest(directory: Path) -> dict[str, str]:
    return {
        str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


def urls_of(pages: list[Page]) -> set[str | None]:
    names = [name_url(image.url, page_base(page)) for page in pages for image in page.images]
    return {name.url or name.raw for name in names}


def page_base(page: Page) -> str:
    return page.content.base or page.url


def test_the_same_seed_gives_the_same_bytes_from_two_processes_too(web: SampleWeb, tmp_path: Path) -> None:
    again = build_sample_web(tmp_path / "again", seed=7, num_images=NUM_IMAGES, num_pages=NUM_PAGES, workers=2)
    assert digest(again.directory) == digest(web.directory)


def test_another_seed_gives_other_pictures_and_other_urls(web: SampleWeb) -> None:
    assert (render_scene("forest", 1, (96, 64)) != render_scene("forest", 2, (96, 64))).any()


def test_a_finished_web_is_taken_as_it_is(web: SampleWeb) -> None:
    before = {path: path.stat().st_mtime_ns for path in web.directory.rglob("*")}
    again = build_sample_web(web.directory, seed=7, num_images=NUM_IMAGES, num_pages=NUM_PAGES)
    assert again == web
    assert {path: path.stat().st_mtime_ns for path in web.directory.rglob("*")} == before


def test_a_folder_with_files_of_others_under_our_names_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "pages").mkdir()
    (tmp_path / "pages" / "diary.html").write_text("mine")
    with pytest.raises(FileExistsError, match="not a sample web"):
        build_sample_web(tmp_path, num_images=NUM_IMAGES, num_pages=NUM_PAGES)
    assert (tmp_path / "pages" / "diary.html").read_text() == "mine"


def test_a_build_that_breaks_leaves_no_marker_and_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def small(recipe: Recipe) -> object:
        return make_image(Recipe("blank", recipe.seed, (8, 8)))

    def broken(recipe: Recipe) -> object:
        raise OSError("disk full")

    monkeypatch.setattr("examples.sample_web.build.make_image", broken)
    with pytest.raises(OSError, match="disk full"):
        build_sample_web(tmp_path, num_images=NUM_IMAGES, num_pages=NUM_PAGES)
    assert not (tmp_path / "sample_web.json").exists()
    monkeypatch.setattr("examples.sample_web.build.make_image", small)
    build_sample_web(tmp_path, num_images=NUM_IMAGES, num_pages=NUM_PAGES)
    assert (tmp_path / "sample_web.json").exists()
    assert not (tmp_path / "sample_web.building").exists()


@pytest.mark.parametrize("concept", CONCEPTS)
def test_every_concept_paints_any_shape_and_differs_by_seed(concept: str) -> None:
    for size in ((97, 64), (64, 128)):
        first, second = render_scene(concept, 1, size), render_scene(concept, 2, size)
        assert first.shape == (size[1], size[0], 3)
        assert first.dtype == np.uint8
        assert np.abs(first.astype(int) - second).mean() > 8
        assert first.std() > 8


@pytest.mark.parametrize("kind", COPY_KINDS)
def test_every_kind_of_copy_changes_the_picture_and_leaves_the_original(kind: str) -> None:
    image = render_scene("desert", 3, (160, 120))
    before = image.copy()
    copy = transform(kind, image, np.random.default_rng(0))
    assert copy.dtype == np.uint8
    assert copy.shape != image.shape or (copy != image).any()
    assert (image == before).all()


def test_every_warc_file_is_one_gzip_member_a_record_and_names_itself(web: SampleWeb) -> None:
    for path in web.warc_files[:1] + web.warc_files[2:]:  # the second one holds the damaged record
        data = path.read_bytes()
        with path.open("rb") as file:
            records = [
                (r.record_type, r.stream_pos) for r in ArchiveIterator(file, record_types=WarcRecordType.any_type)
            ]
        assert records[0][0] == WarcRecordType.warcinfo
        assert all(data[offset : offset + 3] == b"\x1f\x8b\x08" for _, offset in records)
        assert gzip.decompress(data).count(b"WARC/1.1\r\n") == len(records)


def test_warc_and_html_name_every_url_of_the_truth_and_no_other(web: SampleWeb) -> None:
    truth = set(read_truth(web.truth)["url"].to_pylist())
    tally = Tally("warc")
    from_warc: list[Page] = []
    for path in web.warc_files:
        with path.open("rb") as file:
            from_warc += pages_of_warc(file, READING, tally)
    assert urls_of(from_warc) == truth
    assert len(from_warc) == NUM_PAGES
    assert tally.passed_over["bad_record"] == 1
    assert urls_of(list(pages_of_html(str(web.pages), READING, Tally("html")))) == truth


def test_the_wat_names_what_the_truth_says_it_does(web: SampleWeb) -> None:
    truth = read_truth(web.truth)
    named = {row["url"] for row in truth.to_pylist() if row["in_wat"]}
    tally = Tally("wat")
    pages: list[Page] = []
    for path in web.wat_files:
        with path.open("rb") as file:
            pages += pages_of_wat(file, READING, tally)
    assert urls_of(pages) == named
    assert len(named) > 0.8 * truth.num_rows
    assert tally.passed_over["bad_record"] == 1


def test_references_count_what_pages_name(web: SampleWeb) -> None:
    pages = list(pages_of_html(str(web.pages), READING, Tally("html")))
    counted: dict[str | None, int] = {}
    for page in pages:
        for image in page.images:
            name = name_url(image.url, page_base(page))
            counted[name.url or name.raw] = counted.get(name.url or name.raw, 0) + 1
    assert counted == {row["url"]: row["references"] for row in read_truth(web.truth).to_pylist()}


def test_curated_sets_hold_images_of_their_concepts(web: SampleWeb) -> None:
    for folder in [*web.sources.values(), *(path / "test" for path in web.benchmarks.values())]:
        assert len(list(folder.glob("*/*.jpg"))) >= 3
    for split in ("train", "test"):
        assert {path.name for path in (web.labelled / split).iterdir()} == set(CONCEPTS)


def test_the_marker_says_what_was_made(web: SampleWeb) -> None:
    made = json.loads((web.directory / "sample_web.json").read_text())
    assert made["made"]["seed"] == 7
    assert made["counts"]["urls"] == NUM_IMAGES
