"""Hash dedup: equal pictures keep their best copy, different ones are never merged, in any cut of the parts."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from examples.sample_web.plants import transform
from storage.images import decode_gray, encode_jpeg
from storage.layout import Layout
from storage.manifest import FileEntry, Manifest
from storage.tables import read_table
from tasks.algorithms.pdq import pdq_hash
from tasks.encoders import Textures
from tasks.filters import Geometry
from tasks.hash_dedup import HashDedup, hash_dedup
from tasks.hashing import parts
from tasks.hashing.copies import find_copies
from tasks.hashing.looks import load_rows
from tasks.hashing.parts import frequency_hashes, thumbnail
from tasks.image_filter import ImageFilter, filter_images
from tests.tasks.hash_pictures import copies_of, hash_pictures, scene
from tests.tasks.image_stages import downloaded, rows_of, verdicts


@pytest.fixture(scope="module")
def pictures() -> dict[str, bytes]:
    return hash_pictures()


def test_same_bytes_are_always_one_picture_and_different_scenes_never_are(
    pictures: dict[str, bytes], layout: Layout
) -> None:
    manifest = hash_dedup.fn(downloaded(layout, pictures, parts=3), HashDedup(), layout)
    dropped = {row["id"]: row for row in rows_of(manifest) if row["drop"]}
    assert {row["drop"] for row in dropped.values()} == {"hash_duplicate"}
    assert all(name[:3] == row["other"][:3] for name, row in dropped.items())  # the same scene
    same_bytes = {f"{number:03d}" for number in range(10)}
    assert same_bytes <= {name[:3] for name in dropped}
    recompressed = {name[:3] for name in dropped} - same_bytes
    assert len(recompressed) >= 0.6 * 20
    assert manifest.rows_in == len(pictures)
    assert manifest.drops == {"hash_duplicate": len(dropped)}
    assert all(row["value"] >= 0.98 for row in dropped.values())


def test_the_cut_into_parts_and_the_passes_change_no_verdict(pictures: dict[str, bytes], tmp_path: Path) -> None:
    results = []
    for number, (cut, per_pass) in enumerate([(1, 10_000), (5, 10_000), (4, 20)]):
        layout = Layout(str(tmp_path / str(number)))
        manifest = hash_dedup.fn(downloaded(layout, pictures, parts=cut), HashDedup(images_per_pass=per_pass), layout)
        results.append([(row["id"], row["drop"], row["other"], row["hash"]) for row in rows_of(manifest)])
    assert results[0] == results[1] == results[2]


def test_the_keeper_is_the_largest_then_the_earliest_then_the_first_by_id(layout: Layout) -> None:
    pixels = scene(3, (256, 192))
    small = np.asarray(Image.fromarray(pixels).resize((128, 96), Image.Resampling.BOX))
    large, other = encode_jpeg(pixels, quality=90), encode_jpeg(scene(4, (256, 192)), quality=90)
    images = {
        "a": encode_jpeg(small, quality=95),
        "b": large,
        "c": large,
        "d": large,
        "e": other,
        "f": other,
        "g": other,
    }
    dates = {"a": "2025-12", "b": "2026-03", "c": "2026-01", "d": "2026-02", "e": None, "f": "2026-05", "g": None}
    extra = {name: {"crawl_date": date} for name, date in dates.items()}
    rows = rows_of(hash_dedup.fn(downloaded(layout, images, parts=2, extra=extra), HashDedup(), layout))
    assert {row["id"]: row["other"] for row in rows} == {
        "a": "c",
        "b": "c",
        "c": None,
        "d": "c",
        "e": "f",
        "f": None,
        "g": "f",
    }


def test_pictures_without_contrast_are_compared_by_their_bytes(layout: Layout) -> None:
    grays = [encode_jpeg(np.full((100, 100, 3), level, np.uint8), quality=90) for level in (60, 61, 200)]
    scenes = {f"scene{number}": encode_jpeg(scene(number), quality=90) for number in range(4)}
    images = {"plain0": grays[0], "plain1": grays[1], "plain2": grays[2], "plain3": grays[0], **scenes}
    rows = {row["id"]: row for row in rows_of(hash_dedup.fn(downloaded(layout, images), HashDedup(), layout))}
    assert [name for name, row in rows.items() if row["drop"]] == ["plain3"]
    assert (rows["plain3"]["other"], rows["plain3"]["detail"]) == ("plain0", "same bytes")
    assert rows["plain0"]["hash"] is None
    assert len(rows["scene0"]["hash"]) == 16


def test_an_equal_hash_alone_does_not_merge_different_pictures(layout: Layout) -> None:
    """With a PCA of one direction there are two hashes; only what is alike as well is a copy."""
    images = {f"{number}": encode_jpeg(scene(number), quality=90) for number in range(24)}
    images["24"] = images["7"]
    one_bit = np.zeros((1, 1025))
    one_bit[0, :512] = 1
    np.save(path := f"{layout.root}-one.npy", one_bit)
    source = downloaded(layout, images)
    manifest = hash_dedup.fn(source, HashDedup(pca_file=path), layout)
    assert [name for name, drop in verdicts(manifest).items() if drop] == ["7"]  # "24" is the smaller id
    blind = hash_dedup.fn(source, HashDedup(pca_file=path, min_correlation=-1), layout)
    assert blind.rows_kept <= 2


def test_dropped_images_are_left_out_and_an_empty_stage_is_no_error(layout: Layout) -> None:
    data = encode_jpeg(scene(1), quality=90)
    gone = {"a": {"drop": "too_small"}, "b": {"drop": "too_small"}}
    assert (
        rows_of(hash_dedup.fn(downloaded(layout, {"a": data, "c": data}, extra=gone), HashDedup(), layout))[0]["id"]
        == "c"
    )
    empty = hash_dedup.fn(downloaded(layout, {"a": data, "b": data}, extra=gone), HashDedup(), layout)
    assert (empty.rows_in, empty.rows_kept) == (0, 0)


def test_a_second_run_reuses_the_first(pictures: dict[str, bytes], layout: Layout) -> None:
    source = downloaded(layout, dict(list(pictures.items())[:12]))
    first = hash_dedup.fn(source, HashDedup(), layout)
    again = hash_dedup.fn(source, HashDedup(images_per_pass=3), layout)  # cannot change the result
    assert again.fingerprint == first.fingerprint
    assert hash_dedup.fn(source, HashDedup(min_correlation=0.9), layout).fingerprint != first.fingerprint


def test_the_fitted_pca_serves_a_later_run(pictures: dict[str, bytes], layout: Layout) -> None:
    names = list(pictures)
    first = hash_dedup.fn(downloaded(layout, {name: pictures[name] for name in names[:40]}), HashDedup(), layout)
    config = HashDedup(pca_file=first.file("pca.npy"))
    later = hash_dedup.fn(downloaded(layout, {name: pictures[name] for name in names[:20]}), config, layout)
    hashes = [{row["id"]: row["hash"] for row in rows_of(manifest)} for manifest in (first, later)]
    assert all(hashes[0][name] == value for name, value in hashes[1].items())


def test_a_file_that_is_no_pca_is_refused_with_what_to_do(layout: Layout, pictures: dict[str, bytes]) -> None:
    np.save(path := f"{layout.root}-bad.npy", np.zeros((3, 4)))
    with pytest.raises(ValueError, match=r"\(3, 4\).*leave pca_file out"):
        hash_dedup.fn(downloaded(layout, dict(list(pictures.items())[:2])), HashDedup(pca_file=path), layout)
    with pytest.raises(ValidationError):
        HashDedup(min_correlation=1.5)


def test_phash_is_imagehashs_on_our_thumbnails(pictures: dict[str, bytes], layout: Layout) -> None:
    import imagehash

    data = pictures["000-scene"]
    small = thumbnail(data)
    (packed,) = frequency_hashes(small[None]).tolist()
    bits = imagehash.phash(Image.fromarray(small.reshape(32, 32))).hash.reshape(-1)
    assert [packed >> place & 1 for place in range(64)] == bits.astype(int).tolist()
    whole = imagehash.phash(Image.open(io.BytesIO(data))).hash.reshape(-1)
    assert (bits != whole).sum() <= 8  # a different resize before the same cosines
    manifest = hash_dedup.fn(downloaded(layout, pictures, parts=2), HashDedup(method="phash"), layout)
    dropped = [row for row in rows_of(manifest) if row["drop"]]
    assert len(dropped) >= 10
    assert all(row["id"][:3] == row["other"][:3] for row in dropped)


def test_a_resized_copy_has_nearly_the_same_thumbnail() -> None:
    rng = np.random.default_rng(0)
    for number in range(12):
        pixels = scene(number, (480, 360))
        small = encode_jpeg(transform("resize", pixels, rng), quality=90)
        pair = np.stack([thumbnail(encode_jpeg(pixels, quality=90)), thumbnail(small)]).astype(float)
        assert np.corrcoef(pair)[0, 1] > 0.99


def test_no_copies_give_an_empty_table(layout: Layout, pictures: dict[str, bytes]) -> None:
    few = {name: pictures[name] for name in ("050-scene", "055-scene")}
    manifest = hash_dedup.fn(downloaded(layout, few), HashDedup(), layout)
    assert read_table(manifest.file("duplicates.parquet")).num_rows == 0
    assert find_copies([], min_correlation=0.9, images_per_pass=10).num_rows == 0


def test_pdq_finds_the_same_bytes_and_its_hash_is_the_published_one(pictures: dict[str, bytes], layout: Layout) -> None:
    some = {name: pictures[name] for name in [*list(pictures)[:6], "000-again", "012-recompressed"]}
    rows = {row["id"]: row for row in rows_of(hash_dedup.fn(downloaded(layout, some), HashDedup(method="pdq"), layout))}
    assert rows["000-scene"]["other"] == "000-again"  # the smaller id
    digest, quality = pdq_hash(decode_gray(some["003-scene"], min_side=512))
    assert rows["003-scene"]["hash"] == (digest.hex() if quality >= 50 else None)


@pytest.mark.parametrize("method", ["pca", "phash", "pdq"])
def test_a_larger_radius_finds_more_copies_and_never_other_scenes(
    pictures: dict[str, bytes], layout: Layout, method: Any
) -> None:
    source = downloaded(layout, pictures, parts=3)
    radius = {"pca": 6, "phash": 6, "pdq": 31}[method]
    exact = copies_of(hash_dedup.fn(source, HashDedup(method=method), layout))
    near = copies_of(hash_dedup.fn(source, HashDedup(method=method, max_distance=radius), layout))
    assert set(exact) <= set(near)
    assert len(near) == 30  # every second file of a scene, recompressed ones too
    assert all(name[:3] == other[:3] for name, other in near.items())
    assert not set(near.values()) & set(near)  # a keeper is never a copy


def test_thumbnails_that_the_stage_before_made_serve_as_well(pictures: dict[str, bytes], layout: Layout) -> None:
    few = dict(list(pictures.items())[:12])
    source = downloaded(layout, few, parts=2)
    alone = hash_dedup.fn(source, HashDedup(), layout)
    ready = []
    for number, path in enumerate(source.paths(".parquet")):
        rows = [few[name] for name in read_table(path)["id"].to_pylist()]
        name = f"thumbnails-{number:05d}.npy"
        np.save(f"{source.directory}/{name}", np.stack([thumbnail(data) for data in rows]))
        ready.append(FileEntry(name, len(rows), 0, ""))
    with_ready = Manifest("download", 1, "7" * 64, source.directory, {}, {}, (*source.files, *ready), 12, 12, {})
    assert [row["hash"] for row in rows_of(hash_dedup.fn(with_ready, HashDedup(), layout))] == [
        row["hash"] for row in rows_of(alone)
    ]


@pytest.mark.parametrize("method", ["pca", "pdq"])
def test_what_the_screen_hashed_in_passing_is_decoded_no_more_and_drops_the_same(
    pictures: dict[str, bytes], layout: Layout, method: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = {name: data for name, data in pictures.items() if name[:3] in ("000", "001", "012", "013", "014", "040")}
    source, config = downloaded(layout, few, parts=2), HashDedup(method=method, max_distance=8)
    alone = copies_of(hash_dedup.fn(source, config, layout))
    screened = filter_images.fn(source, ImageFilter(filters=(Geometry(),)), layout, "screen", hashes=config.looks)
    monkeypatch.setattr(parts, "decode_gray", None)
    assert copies_of(hash_dedup.fn(screened, config, layout)) == alone
    assert len(alone) == 5


FEATURES = HashDedup(method="pca_features", encoder=Textures())


def test_hashes_of_a_descriptors_features_find_copies_and_merge_no_other_scenes(
    pictures: dict[str, bytes], layout: Layout
) -> None:
    source = downloaded(layout, pictures, parts=3)
    manifest = hash_dedup.fn(source, FEATURES, layout)
    exact = copies_of(manifest)
    near = copies_of(hash_dedup.fn(source, FEATURES.model_copy(update={"max_distance": 8}), layout))
    assert {name[:3] for name in exact} >= {f"{number:03d}" for number in range(10)}  # the same bytes
    assert set(exact) <= set(near)
    assert len(near) >= 28
    assert all(name[:3] == other[:3] for name, other in near.items())
    hashes = {row["id"]: row["hash"] for row in rows_of(manifest)}
    assert len({value for name, value in hashes.items() if name.endswith("scene")}) >= 55  # of 60 scenes
    assert np.load(manifest.file("pca.npy")).shape[1] == FEATURES.encoder.build().dim + 1  # type: ignore[union-attr]


def test_the_cut_into_parts_changes_no_feature_hash_and_a_later_run_can_use_the_pca(
    pictures: dict[str, bytes], layout: Layout, tmp_path: Path
) -> None:
    few = dict(list(pictures.items())[:16])
    here = Layout(str(tmp_path / "later"))
    first = hash_dedup.fn(downloaded(layout, few), FEATURES, layout)
    config = FEATURES.model_copy(update={"pca_file": first.file("pca.npy")})
    later = hash_dedup.fn(downloaded(here, few, parts=5), config, here)
    assert [row["hash"] for row in rows_of(first)] == [row["hash"] for row in rows_of(later)]
    pixels = hash_dedup.fn(downloaded(here, few), HashDedup(), here)
    with pytest.raises(RuntimeError, match="give a PCA of the same method and encoder"):
        wrong = FEATURES.model_copy(update={"pca_file": pixels.file("pca.npy")})
        hash_dedup.fn(downloaded(here, few), wrong, here)


def test_features_want_an_encoder_and_the_other_methods_none() -> None:
    for wrong in ({"method": "pca_features"}, {"method": "pca", "encoder": Textures()}):
        with pytest.raises(ValidationError, match="pca_features needs an encoder"):
            HashDedup(**wrong)  # type: ignore[arg-type]


def test_single_rows_of_a_file_of_thumbnails_are_those_of_the_whole(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).integers(0, 256, (300, 1024)).astype(np.uint8)
    np.save(tmp_path / "rows.npy", rows)
    for places in ([], [299], [7, 3, 7, 150], list(range(0, 300, 2))):
        found = load_rows(str(tmp_path / "rows.npy"), np.array(places, np.int64))
        assert np.array_equal(found, rows[places].reshape(-1, 1024))
