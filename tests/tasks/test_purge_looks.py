"""A removal cuts an image out of what later crawls are compared with, and leaves the others there, in their order."""

import shutil
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from examples.sample_web.concepts import CONCEPTS, render_scene
from storage.images import encode_jpeg
from storage.layout import Layout
from storage.manifest import Manifest, load_manifest, save_manifest
from storage.records import image_schema
from storage.tables import read_table, table_from_rows, write_table
from tasks.encoders import Textures
from tasks.filters import Geometry
from tasks.hash_dedup import HashDedup, hash_dedup
from tasks.hashing import parts
from tasks.hashing.known import hashes_of
from tasks.hashing.looks import load_array, write_array
from tasks.hashing.names import FEATURES_SUFFIX, beside_thumbnails
from tasks.image_filter import ImageFilter, filter_images
from tasks.removal.ledger import append_entries, drop_removed, entries_of, load_ledger
from tasks.removal.plan import plan_purge
from tasks.removal.purge import purge
from tests.tasks.image_stages import downloaded, rows_of, verdicts
from tests.tasks.removal_runs import Killed, assert_whole, holders, kill, middle, tree

CONFIGS = {
    "pca": HashDedup(),
    "pdq": HashDedup(method="pdq"),
    "pca_features": HashDedup(method="pca_features", encoder=Textures()),
}


@cache
def scene(number: int) -> bytes:
    return encode_jpeg(render_scene(CONCEPTS[number % len(CONCEPTS)], number, (192, 144)), quality=90)


def crawl() -> dict[str, bytes]:
    """Nine scenes; of numbers 4 and 7 the same file at a second place, which is dropped as a copy."""
    return {f"{number:02d}": scene(number) for number in range(9)} | {"04-again": scene(4), "07-again": scene(7)}


GONE = {"04", "04-again"}
"""What goes when number 4 is taken out: the copy that was dropped in its favour shows the same."""


def chain(layout: Layout, config: HashDedup) -> tuple[Manifest, Manifest, Manifest]:
    """screen -> hash_dedup -> what the ledger leaves, of the crawl."""
    screened = filter_images.fn(
        downloaded(layout, crawl(), parts=2),
        ImageFilter(filters=(Geometry(),)),
        layout,
        "screen",
        hashes=config.looks,
    )
    hashed = hash_dedup.fn(screened, config, layout)
    return screened, hashed, drop_removed.fn(hashed, load_ledger(layout), layout, "remaining")


def take_out(layout: Layout, *names: str) -> None:
    append_entries(
        layout, entries_of(urls=[f"http://a.test/{name}" for name in names], reason="asked", date="2026-11-23")
    )


def removed_from(layout: Layout, config: HashDedup, *names: str) -> tuple[Manifest, Manifest]:
    """screen and hash_dedup after these images were taken out and all that held them was purged."""
    chain(layout, config)
    take_out(layout, *names)
    screened, hashed, left = chain(layout, config)
    purge(layout, [left], load_ledger(layout))
    return load_manifest(screened.directory), load_manifest(hashed.directory)


def later(layout: Layout, config: HashDedup, before: Manifest) -> dict[str, str | None]:
    """A further crawl has every scene again, elsewhere: the keeper of each, among those of the crawl before."""
    images = {f"new{number}": scene(number) for number in range(10)}
    found = hash_dedup.fn(downloaded(layout, images), config, layout, [before], ledger=load_ledger(layout))
    return {row["id"]: row["other"] for row in rows_of(found)}


@pytest.mark.parametrize("method", ["pdq", "pca_features"])
def test_a_removed_image_leaves_no_thumbnail_and_the_others_stay_in_order(layout: Layout, method: str) -> None:
    config = CONFIGS[method]
    hashed = chain(layout, config)[1]
    before = _rows(hashed)
    assert set(before) == set(crawl())
    assert all(len(holders(layout, data)) >= 1 for data in before["04"])
    screened, hashed = removed_from(layout, config, "04")
    assert _rows(hashed) == {name: looks for name, looks in before.items() if name not in GONE}
    assert [holders(layout, data) for data in before["04"]] == [[]] * len(before["04"])
    assert holders(layout, middle(scene(4))) == []
    assert all(len(holders(layout, before[f"{number:02d}"][0])) == 2 for number in (0, 3, 5, 8))  # screen, hash_dedup
    assert verdicts(screened)["04-again"] == "removed"
    assert_whole(layout)


def _rows(hashed: Manifest) -> dict[str, list[bytes]]:
    """Thumbnail, and what stands beside it, of every image: the row that its place in the table of hashes tells."""
    found: dict[str, list[bytes]] = {}
    for table, thumbnails in hashes_of(hashed):
        paths = [thumbnails, *(beside_thumbnails(thumbnails, suffix) for suffix in ("-pdq.npy", FEATURES_SUFFIX))]
        arrays = [load_array(path) for path in paths if Path(path).exists()]
        ids = read_table(table)["id"].to_pylist()
        assert {len(array) for array in arrays} == {len(ids)}
        found |= {name: [array[row].tobytes() for array in arrays] for row, name in enumerate(ids)}
    return found


def test_a_later_crawl_knows_copies_of_what_stayed_and_none_of_what_was_removed(layout: Layout) -> None:
    config = CONFIGS["pca"].model_copy(update={"max_distance": 4})
    hashed = chain(layout, config)[1]
    assert later(layout, config, hashed) == {f"new{n}": f"{n:02d}" if n < 9 else None for n in range(10)}
    take_out(layout, "04")
    told = {f"new{n}": f"{n:02d}" if n not in (4, 9) else None for n in range(10)}
    assert later(layout, config, hashed) == told  # the ledger alone says so already
    stages = set(Path(layout.root).glob("stages/hash_dedup/*"))
    hashed = removed_from(layout, config, "04")[1]
    assert later(layout, config, hashed) == told
    assert set(Path(layout.root).glob("stages/hash_dedup/*")) <= stages  # the same stage, found done
    assert later(layout, config.model_copy(update={"min_contrast_levels": 1.5}), hashed) == told  # hashed again
    take_out(layout, "05")
    assert later(layout, config, hashed) == told | {"new5": None}


def test_a_stage_made_anew_takes_the_cut_thumbnails_and_decodes_nothing(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    screened, hashed = removed_from(layout, CONFIGS["pdq"], "04")
    monkeypatch.setattr(parts, "decode_gray", None)
    anew = hash_dedup.fn(screened, HashDedup(method="phash"), layout)
    assert set(verdicts(anew)) == set(crawl()) - GONE
    assert [name for name, drop in verdicts(anew).items() if drop] == ["07-again"]
    assert {name: looks[0] for name, looks in _rows(anew).items()} == {n: one[0] for n, one in _rows(hashed).items()}


def test_one_removal_after_the_other_ends_where_both_at_once_do(tmp_path: Path) -> None:
    one, both = Layout(str(tmp_path / "one")), Layout(str(tmp_path / "both"))
    removed_from(one, CONFIGS["pdq"], "04")
    left = [_rows(removed_from(one, CONFIGS["pdq"], "00")[1]), _rows(removed_from(both, CONFIGS["pdq"], "04", "00")[1])]
    assert left[0] == left[1]
    assert set(left[0]) == set(crawl()) - GONE - {"00"}
    assert_whole(one)


def test_killed_anywhere_it_ends_in_the_same_files_and_no_thumbnail_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = CONFIGS["pdq"]
    whole, layout = Layout(str(tmp_path / "whole")), Layout(str(tmp_path / "killed"))
    removed_from(whole, config, "04")
    needles = _rows(chain(layout, config)[1])["04"]
    take_out(layout, "04")
    screened, hashed, left = chain(layout, config)
    for stage in (screened, hashed):  # what a worker that died while it wrote has left
        np.save(f"{stage.directory}/thumbnails-00000.npy.tmp-0123456789ab.npy", np.frombuffer(needles[0], np.uint8))
    page = Path(layout.run("latest")) / "report.html.tmp-0123456789ab"
    page.parent.mkdir(parents=True)
    page.write_bytes(needles[0])
    kill_at, ended = 0, False
    while not ended:
        with monkeypatch.context() as patch:
            kill(patch, kill_at)
            try:
                purge(layout, [left], load_ledger(layout))
                ended = True
            except Killed:
                kill_at += 1
    assert kill_at >= 15
    assert [holders(layout, needle) for needle in needles] == [[], []]
    assert tree(layout) == tree(whole)


def test_hashes_made_again_that_a_killed_crawl_left_behind_go_too(layout: Layout) -> None:
    """They lie in the folder of a crawl that has no image of those that are taken out."""
    hashed = chain(layout, CONFIGS["pca"])[1]
    further = hash_dedup.fn(downloaded(layout, {"new": scene(20)}), CONFIGS["pca"], layout, [hashed])
    scratch = Path(further.directory) / "scratch-known-0-00000.parquet"
    shutil.copy(hashed.file("hashes-00000.parquet"), scratch)
    take_out(layout, "04")
    left = chain(layout, CONFIGS["pca"])[2]
    purge(layout, [left, further], load_ledger(layout))
    assert not scratch.exists()
    assert load_manifest(further.directory) == further
    assert_whole(layout)


def test_a_copy_that_another_kept_run_has_in_its_set_is_left_alone(layout: Layout) -> None:
    """Settings that told the two apart: there it is an image in its own right, and nobody has named it."""
    chain(layout, CONFIGS["pca"])
    take_out(layout, "04")
    left = chain(layout, CONFIGS["pca"])[2]
    folder = layout.stage("describe", "d" * 64)
    table = table_from_rows([{"id": "04-again"}], image_schema())
    files = (write_table(f"{folder}/part-00000.parquet", table), write_array(f"{folder}/part-00000.npy", np.zeros(1)))
    described = Manifest("describe", 1, "d" * 64, folder, {}, {}, files, 1, 1, {})
    save_manifest(described)
    ledger = load_ledger(layout)
    assert set(plan_purge(layout, [left, described], ledger).removed) == {"04"}
    assert set(plan_purge(layout, [left], ledger).removed) == GONE
    assert "1 images are named by the ledger, and 1 were dropped" in next(plan_purge(layout, [left], ledger).lines())


def test_files_whose_order_cannot_be_told_are_deleted_and_the_images_left_out_with_a_warning(
    layout: Layout, caplog: pytest.LogCaptureFixture
) -> None:
    """Such as an early version wrote: a picture of the removed image may be in any row."""
    hashed = chain(layout, CONFIGS["pca"])[1]
    old = write_array(f"{hashed.directory}/part-00000.thumbnails.npy", np.zeros((11, 1024), np.uint8))
    hashed.files = (*hashed.files, old)
    save_manifest(hashed)
    take_out(layout, "04")
    left = chain(layout, CONFIGS["pca"])[2]
    purge(layout, [left], load_ledger(layout))
    hashed = load_manifest(hashed.directory)
    assert hashes_of(hashed) == []
    assert_whole(layout)
    assert set(later(layout, CONFIGS["pca"], hashed).values()) == {None}
    assert "11 images of" in caplog.text
    assert "a removal has deleted their hashes" in caplog.text
