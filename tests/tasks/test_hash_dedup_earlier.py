"""Hash dedup of a further crawl: its images are compared with those of all crawls before, however those were hashed."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from storage.images import encode_jpeg
from storage.layout import Layout
from storage.manifest import Manifest
from tasks.encoders import Textures
from tasks.hash_dedup import HashDedup, hash_dedup
from tasks.hashing.known import earlier_pca, pca_of
from tasks.removal.ledger import Ledger, entries_of
from tests.tasks.hash_pictures import copies_of, hash_pictures, scene
from tests.tasks.image_stages import downloaded


@pytest.fixture(scope="module")
def pictures() -> dict[str, bytes]:
    return hash_pictures()


def test_copies_of_an_earlier_crawl_are_dropped_unless_they_are_larger(layout: Layout, tmp_path: Path) -> None:
    scenes = {number: scene(number, (256, 192)) for number in range(20)}
    small = {
        number: np.asarray(Image.fromarray(pixels).resize((128, 96), Image.Resampling.BOX))
        for number, pixels in scenes.items()
    }
    old = {f"old{number:02d}": encode_jpeg(scenes[number], quality=90) for number in range(1, 20)}
    old["old00"] = encode_jpeg(small[0], quality=95)
    new = {
        "new01": old["old01"],
        "new02": encode_jpeg(small[2], quality=95),
        "new00": encode_jpeg(scenes[0], quality=90),
    }
    new["new20"] = encode_jpeg(scene(20, (256, 192)), quality=90)
    first = hash_dedup.fn(downloaded(layout, old, parts=2), HashDedup(), layout)
    here = Layout(str(tmp_path / "later"))
    later = downloaded(here, new)
    found = hash_dedup.fn(later, HashDedup(), here, earlier=[first])
    assert copies_of(found) == {"new01": "old01", "new02": "old02"}
    assert hash_dedup.fn(later, HashDedup(), here).fingerprint != found.fingerprint
    assert Path(found.file("pca.npy")).read_bytes() == Path(first.file("pca.npy")).read_bytes()
    with pytest.raises(ValueError, match="give hash_dedup stages"):
        hash_dedup.fn(later, HashDedup(), here, earlier=[later])


def test_all_crawls_at_once_and_one_after_the_other_drop_the_same_new_images(
    pictures: dict[str, bytes], layout: Layout, tmp_path: Path
) -> None:
    """With one PCA the hashes are the same: what a run over both crawls drops of the new one, the second run drops."""
    first_half = {f"1-{name}": data for name, data in pictures.items() if name.endswith("scene")}
    second_half = {f"2-{name}": data for name, data in pictures.items() if not name.endswith("scene")}
    fitted = hash_dedup.fn(downloaded(layout, first_half, parts=2), HashDedup(), layout)
    config = HashDedup(pca_file=fitted.file("pca.npy"), max_distance=4)
    one, other, both = (Layout(str(tmp_path / name)) for name in ("one", "other", "both"))
    earlier = hash_dedup.fn(downloaded(one, first_half, parts=2), config, one)
    split = copies_of(hash_dedup.fn(downloaded(other, second_half), config, other, earlier=[earlier]))
    whole = copies_of(hash_dedup.fn(downloaded(both, first_half | second_half, parts=3), config, both))
    assert set(split) == set(whole) & set(second_half)
    assert split


def test_what_was_taken_out_is_nobodys_keeper_any_more(layout: Layout, tmp_path: Path) -> None:
    data = {number: encode_jpeg(scene(number), quality=90) for number in range(6)}
    old = {f"old{number}": data[number] for number in range(4)}
    first = hash_dedup.fn(downloaded(layout, old, parts=2), HashDedup(), layout)
    here = Layout(str(tmp_path / "later"))
    later = downloaded(here, {f"new{number}": data[number] for number in range(2, 6)})
    reason = {"reason": "asked", "date": "2026-11-22"}
    ledger = Ledger(tuple(entries_of(urls=["http://a.test/old2"], **reason)))
    for distance in (0, 4):
        config = HashDedup(max_distance=distance)
        found = [hash_dedup.fn(later, config, here, earlier=[first], ledger=one) for one in (Ledger(), ledger)]
        assert [copies_of(one) for one in found] == [{"new2": "old2", "new3": "old3"}, {"new3": "old3"}]
    elsewhere = Ledger(tuple(entries_of(domains=["b.test"], **reason)))
    again = hash_dedup.fn(later, config, here, earlier=[first], ledger=elsewhere)
    assert again.fingerprint == found[0].fingerprint  # what is not among them changes nothing


FEATURES = HashDedup(method="pca_features", encoder=Textures())


def _halves(pictures: dict[str, bytes]) -> tuple[dict[str, bytes], dict[str, bytes]]:
    """Two crawls of one size of picture: 30 scenes, then copies of them, ten of each scene's bytes."""
    first = {f"1-{name}": data for name, data in pictures.items() if name.endswith("scene") and name < "030"}
    return first, {f"2-{name}": data for name, data in pictures.items() if not name.endswith("scene")}


def _pca(folder: Path, pictures: dict[str, bytes], config: HashDedup) -> str:
    """A PCA of other scenes than those that are compared."""
    here = Layout(str(folder))
    others = {name: data for name, data in pictures.items() if name > "035"}
    return hash_dedup.fn(downloaded(here, others), config, here).file("pca.npy")


@pytest.mark.parametrize(
    ("before", "now"),
    [
        (HashDedup(), HashDedup(max_distance=4)),
        (HashDedup(method="phash"), HashDedup()),
        (HashDedup(min_contrast_levels=45), HashDedup(min_contrast_levels=55)),
        (FEATURES, FEATURES.model_copy(update={"max_distance": 4})),
        (HashDedup(method="pdq"), HashDedup(method="phash", max_distance=4)),
    ],
    ids=["pca", "phash-pca", "contrast", "features", "pdq-phash"],
)
def test_crawls_that_were_hashed_otherwise_are_hashed_again_and_give_what_all_at_once_give(
    pictures: dict[str, bytes], tmp_path: Path, before: HashDedup, now: HashDedup
) -> None:
    first_half, second_half = _halves(pictures)
    if now.method in ("pca", "pca_features"):
        now = now.model_copy(update={"pca_file": _pca(tmp_path / "fitted", pictures, now)})
    one, other, both = (Layout(str(tmp_path / name)) for name in ("one", "other", "both"))
    earlier = hash_dedup.fn(downloaded(one, first_half, parts=3), before, one)
    assert pca_of(earlier) is None or pca_of(earlier) != _sha256(now.pca_file)
    split = hash_dedup.fn(downloaded(other, second_half), now, other, earlier=[earlier])
    whole = hash_dedup.fn(downloaded(both, first_half | second_half, parts=2), now, both)
    expected = {name: keeper for name, keeper in copies_of(whole).items() if name in second_half}
    assert copies_of(split) == expected
    assert {f"2-{number:03d}-again" for number in range(10)} <= set(expected)  # the same bytes, at the least
    assert all(name[2:5] == keeper[2:5] for name, keeper in expected.items())
    assert split.facts == {"earlier_compared": 30, "earlier_hashed_again": 30, "earlier_left_out": 0}
    assert not list(Path(split.directory).glob("scratch-*"))


def _sha256(path: str | None) -> str | None:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest() if path else None


def test_of_two_crawls_with_two_pcas_a_third_one_knows_both(pictures: dict[str, bytes], tmp_path: Path) -> None:
    """The newest of them lends its PCA: its own hashes are taken as they are."""
    first_half, copies = _halves(pictures)
    names = list(first_half)
    stages = []
    for number, some in enumerate((names[:15], names[15:])):
        here = Layout(str(tmp_path / f"{number}"))
        stages.append(hash_dedup.fn(downloaded(here, {name: first_half[name] for name in some}), HashDedup(), here))
    old, newest = stages
    assert pca_of(old) != pca_of(newest)
    here = Layout(str(tmp_path / "third"))
    third = hash_dedup.fn(downloaded(here, copies), HashDedup(), here, earlier=[newest, old])
    assert pca_of(third) == pca_of(newest)
    assert third.facts == {"earlier_compared": 30, "earlier_hashed_again": 15, "earlier_left_out": 0}
    found = copies_of(third)
    assert {f"2-{number:03d}-again" for number in range(10)} <= set(found)
    assert {found[f"2-{number:03d}-again"] for number in range(10)} == {f"1-{number:03d}-scene" for number in range(10)}


@pytest.mark.parametrize(
    ("before", "now", "why"),
    [
        (HashDedup(), HashDedup(method="pdq"), "hashed with pca, which keeps thumbnails and no PDQ hashes"),
        (HashDedup(method="phash"), FEATURES, "hashed with phash, which keeps thumbnails and no features"),
    ],
    ids=["pdq", "features"],
)
def test_what_cannot_be_hashed_again_is_left_out_counted_and_warned_of(
    layout: Layout, tmp_path: Path, caplog: pytest.LogCaptureFixture, before: HashDedup, now: HashDedup, why: str
) -> None:
    data = {f"{number}": encode_jpeg(scene(number), quality=90) for number in range(3)}
    first = hash_dedup.fn(downloaded(layout, data), before, layout)
    here = Layout(str(tmp_path / "later"))
    found = hash_dedup.fn(downloaded(here, {"new": data["1"]}), now, here, earlier=[first])
    assert copies_of(found) == {}
    assert (found.facts["earlier_compared"], found.facts["earlier_left_out"]) == (0, 3)
    assert [row["images"] for row in found.facts["left_out"]] == [3]
    assert why in found.facts["left_out"][0]["why"]
    assert why in caplog.text
    assert earlier_pca([first], now.meaning()) is None


def test_features_of_another_encoder_and_thumbnails_of_another_size_are_left_out(
    layout: Layout, tmp_path: Path
) -> None:
    data = {f"{number}": encode_jpeg(scene(number), quality=90) for number in range(2)}
    first = hash_dedup.fn(downloaded(layout, data), FEATURES, layout)
    another = Manifest(**{**vars(first), "config": {**first.config, "encoder": {"kind": "pixels"}}})
    here = Layout(str(tmp_path / "later"))
    later = downloaded(here, data)
    found = hash_dedup.fn(later, FEATURES, here, earlier=[another])
    assert "features are of another encoder, {'kind': 'pixels'}" in found.facts["left_out"][0]["why"]
    np.save(Path(first.directory) / "thumbnails-00000.npy", np.zeros((2, 256), np.uint8))
    found = hash_dedup.fn(later, HashDedup(), here, earlier=[first])
    assert "256 pixels, and 1024 are wanted" in found.facts["left_out"][0]["why"]


def test_without_earlier_crawls_nothing_is_told_of_them(layout: Layout) -> None:
    assert hash_dedup.fn(downloaded(layout, {"a": encode_jpeg(scene(1), quality=90)}), HashDedup(), layout).facts == {}
