"""The filter stage: one decode, verdicts for every image, new files for changed images only."""

import hashlib
import io
import json
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from examples.sample_web.concepts import render_scene
from storage.filesystem import exists, read_bytes
from storage.images import ImageError, decode_rgb, encode_jpeg, encode_like, jpeg_quality, probe
from storage.layout import Layout
from storage.manifest import Manifest
from tasks.filters import Faces, FilterUnavailable, Geometry, Nsfw, judge, pictures
from tasks.hash_dedup import HashDedup, hash_dedup
from tasks.hashing import parts
from tasks.hashing.looks import luma, thumbnail_of
from tasks.hashing.parts import thumbnail
from tasks.image_filter import ImageFilter, filter_images
from tests.tasks.filters.planted import backgrounds, coverage, planted_faces
from tests.tasks.image_stages import downloaded, rows_of, verdicts

SCREEN = ImageFilter(filters=(Geometry(),))
# NudeNet takes about one in a hundred of the smooth scenes for skin, at up to 0.63.
SAFETY = ImageFilter(filters=(Nsfw(thresholds={"FEMALE_BREAST_EXPOSED": 0.8}), Faces()), keep_unblurred=True)


def _png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def _crowd() -> tuple[dict[str, bytes], dict[str, np.ndarray]]:
    """Five pictures with a face, as JPEG of quality 83 and one PNG, four without; and where the faces are."""
    faces = list(planted_faces(80))[:5]
    images = {f"face{number}": encode_jpeg(pixels, quality=83) for number, (pixels, _) in enumerate(faces[:4])}
    images["face4"] = _png(faces[4][0])
    images |= {f"scene{number}": encode_jpeg(pixels, quality=83) for number, pixels in enumerate(backgrounds()[3:7])}
    return images, {f"face{number}": face for number, (_, face) in enumerate(faces)}


def test_screening_gives_every_image_its_reason(layout: Layout) -> None:
    scene = render_scene("desert", 1, (200, 150))
    images = {
        "small": encode_jpeg(scene[:40, :40], quality=90),
        "banner": encode_jpeg(np.tile(scene[:70], (1, 2, 1)), quality=90),
        "blank": _png(np.full((90, 90, 3), 250, np.uint8)),
        "good": encode_jpeg(scene, quality=90),
    }
    manifest = filter_images.fn(downloaded(layout, images, parts=2), SCREEN, layout, "screen")
    assert verdicts(manifest) == {"small": "too_small", "banner": "extreme_aspect", "blank": "near_blank", "good": None}
    assert (manifest.stage, manifest.rows_in, manifest.rows_kept) == ("screen", 4, 1)
    rows = {row["id"]: row for row in rows_of(manifest)}
    assert rows["small"]["value"] == 40
    assert rows["banner"]["detail"] == "400x70"
    assert not manifest.paths(".tar")


def test_faces_are_blurred_in_new_files_of_the_same_kind_and_the_originals_stay(layout: Layout) -> None:
    images, faces = _crowd()
    source = downloaded(layout, images, parts=2)
    manifest = filter_images.fn(source, SAFETY, layout, "safety")
    before, after = ({row["id"]: row for row in rows_of(stage)} for stage in (source, manifest))
    assert {name for name in images if before[name]["image_file"] != after[name]["image_file"]} == set(faces)
    for name, row in after.items():
        data = read_bytes(layout.resolve(row["image_file"]), row["image_offset"], row["image_bytes"])
        assert hashlib.sha256(data).hexdigest() == row["sha256"]
        assert (probe(data).format, probe(data).width, probe(data).height) == (
            row["format"],
            row["width"],
            row["height"],
        )
        if name not in faces:
            assert data == images[name]
            continue
        boxes = np.array(json.loads(row["faces"]))
        assert coverage(boxes, faces[name]) > 0.6
        assert row["detail"] == "1 face blurred"
        left, top, right, bottom = (int(side) for side in faces[name])
        detail = [decode_rgb(one)[top:bottom, left:right].astype(float) for one in (images[name], data)]
        assert np.abs(np.diff(detail[1], axis=1)).mean() < 0.5 * np.abs(np.diff(detail[0], axis=1)).mean()
    assert jpeg_quality(read_bytes(manifest.paths(".tar")[0], after["face0"]["image_offset"])) == 83
    original = read_bytes(layout.resolve(before["face0"]["image_file"]), before["face0"]["image_offset"])
    assert original.startswith(images["face0"])


def test_a_blurred_picture_that_cannot_be_written_again_is_dropped_and_the_others_go_on(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, faces = _crowd()

    def refusing(original: bytes, pixels: np.ndarray) -> bytes:
        if original.startswith(images["face0"]):
            raise ImageError("undecodable", "no codec for it")
        return encode_like(original, pixels)

    monkeypatch.setattr(judge, "encode_like", refusing)
    manifest = filter_images.fn(downloaded(layout, images), SAFETY, layout, "safety")
    assert {name for name, drop in verdicts(manifest).items() if drop} == {"face0"}
    assert (manifest.drops, manifest.facts["images_with_faces"]) == ({"undecodable": 1}, len(faces))
    (row,) = (row for row in rows_of(manifest) if row["id"] == "face0")
    assert "no codec for it" in row["detail"]


def test_the_facts_count_faces_over_all_parts(layout: Layout) -> None:
    images, faces = _crowd()
    manifest = filter_images.fn(downloaded(layout, images, parts=3), SAFETY, layout, "safety")
    assert manifest.facts["images_with_faces"] == len(faces)
    assert manifest.facts["faces"] >= len(faces)
    assert (manifest.rows_kept, manifest.drops) == (len(images), {})


def test_the_same_images_give_the_same_bytes_again(layout: Layout, tmp_path_factory: pytest.TempPathFactory) -> None:
    images, _ = _crowd()
    other = Layout(str(tmp_path_factory.mktemp("other")))
    manifests = [filter_images.fn(downloaded(one, images), SAFETY, one, "safety") for one in (layout, other)]
    assert manifests[0].files == manifests[1].files


def test_each_image_is_decoded_once_whatever_the_number_of_filters(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int | None] = []

    def counted(data: bytes, *, min_side: int | None = None) -> np.ndarray:
        calls.append(min_side)
        return decode_rgb(data, min_side=min_side)

    monkeypatch.setattr(pictures, "decode_rgb", counted)
    images = {f"{number}": encode_jpeg(pixels, quality=85) for number, pixels in enumerate(backgrounds()[:3])}
    source = downloaded(layout, images)
    filter_images.fn(source, ImageFilter(filters=(Geometry(), Nsfw(), Faces())), layout, "all")
    assert calls == [None] * 3  # whole: faces are looked for and blurred on the file's own pixels
    calls.clear()
    filter_images.fn(source, ImageFilter(filters=(Geometry(), Nsfw())), layout, "two")
    assert calls == [320] * 3


def test_a_dropped_image_is_not_blurred_and_keeps_its_verdict(layout: Layout) -> None:
    """A rule that calls faces unsafe drops the astronaut before the face filter sees her."""
    (pixels, _) = next(planted_faces(180))
    images = {"unsafe": encode_jpeg(pixels, quality=90), "scene": encode_jpeg(backgrounds()[4], quality=90)}
    rule = Nsfw(thresholds={"FACE_FEMALE": 0.25, "FACE_MALE": 0.25})
    source = downloaded(layout, images)
    manifest = filter_images.fn(source, ImageFilter(filters=(rule, Faces())), layout, "safety")
    rows = {row["id"]: row for row in rows_of(manifest)}
    assert (rows["unsafe"]["drop"], rows["scene"]["drop"]) == ("nsfw", None)
    assert rows["unsafe"]["faces"] is None
    assert rows["unsafe"]["sha256"] == rows_of(source)[0]["sha256"]
    assert manifest.drops == {"nsfw": 1}


def test_an_image_that_no_longer_decodes_is_a_drop_with_its_reason(layout: Layout) -> None:
    whole = encode_jpeg(backgrounds()[3], quality=90)
    images = {"cut": whole[: len(whole) // 2], "whole": whole}
    manifest = filter_images.fn(downloaded(layout, images), SCREEN, layout, "screen")
    assert verdicts(manifest) == {"cut": "truncated", "whole": None}


def test_rows_dropped_before_are_left_out_and_what_later_stages_need_is_carried(layout: Layout) -> None:
    data = encode_jpeg(backgrounds()[3], quality=90)
    extra = {"gone": {"drop": "http_404"}, "here": {"crawl_date": "2026-01-01"}}
    source = downloaded(layout, {"gone": data, "here": data}, extra=extra)
    (row,) = rows_of(filter_images.fn(source, SCREEN, layout, "screen"))
    assert (row["id"], row["crawl_date"]) == ("here", "2026-01-01")


def test_a_missing_model_is_said_before_any_part_is_written(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.filters.nudenet.find_spec", lambda name: None)
    source = downloaded(layout, {"a": encode_jpeg(backgrounds()[3], quality=90)})
    with pytest.raises(FilterUnavailable, match=r"pip install '\.\[nsfw\]'"):
        filter_images.fn(source, SAFETY, layout, "safety")
    assert not exists(f"{layout.root}/stages/safety")


def test_a_changed_threshold_makes_a_new_stage_and_threads_do_not(layout: Layout) -> None:
    source = downloaded(layout, {"a": encode_jpeg(backgrounds()[3], quality=90)})

    def fingerprint(geometry: Geometry, nsfw: Nsfw) -> str:
        return filter_images.fn(source, ImageFilter(filters=(geometry, nsfw)), layout, "screen").fingerprint

    base = fingerprint(Geometry(), Nsfw())
    assert fingerprint(Geometry(), Nsfw(threads=2)) == base
    assert fingerprint(Geometry(min_side_pixels=65), Nsfw()) != base


def test_a_stage_without_filters_is_refused() -> None:
    with pytest.raises(ValidationError, match="at least 1"):
        ImageFilter(filters=())


def test_thumbnails_are_those_of_the_kept_images_and_equal_what_their_bytes_give(layout: Layout) -> None:
    scenes = backgrounds()[:3]
    images = {
        "photo0": encode_jpeg(scenes[0], quality=85),
        "tiny": encode_jpeg(scenes[1][:30, :30], quality=85),
        "drawing": _png(scenes[1]),
        "photo1": encode_jpeg(scenes[2], quality=60),
    }
    manifest = filter_images.fn(downloaded(layout, images, parts=2), SCREEN, layout, "screen", hashes="thumbnails")
    kept = [row["id"] for row in rows_of(manifest) if row["drop"] is None]
    thumbnails = np.concatenate([np.load(manifest.file(f"thumbnails-0000{number}.npy")) for number in range(2)])
    assert kept == ["photo0", "drawing", "photo1"]
    assert (thumbnails.shape, thumbnails.dtype) == ((3, 1024), np.uint8)
    for name, found in zip(kept, thumbnails, strict=True):
        off = np.abs(found.astype(int) - thumbnail(images[name]).astype(int))
        assert off.max() <= (0 if name == "drawing" else 3), name
        assert off.mean() < 0.6
    without = filter_images.fn(downloaded(layout, images, parts=2), SCREEN, layout, "screen")
    assert not [entry for entry in without.files if entry.path.endswith(".npy")]
    assert verdicts(without) == verdicts(manifest)


def _mixed() -> dict[str, bytes]:
    """Faces, copies of them of the same and of other bytes, one too small, one unreadable."""
    crowd, _ = _crowd()
    images = {name: crowd[name] for name in ("face0", "face1", "face4", "scene0", "scene2")}
    for name in ("face0", "scene0"):
        images[f"{name}-again"] = images[name]
        images[f"{name}-recompressed"] = encode_jpeg(decode_rgb(images[name]), quality=70)
    images["tiny"] = encode_jpeg(backgrounds()[5][:30, :30], quality=85)
    images["cut"] = images["scene2"][:3000]
    return images


def test_one_pass_keeps_and_drops_what_two_passes_do_and_writes_the_same_pictures(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of copies, the kept one's verdict counts: a rule that calls one face unsafe takes its copies with it."""
    rule = Nsfw(thresholds={"FACE_FEMALE": 0.5, "FACE_MALE": 0.5})
    safety, dedup = ImageFilter(filters=(rule, Faces())), HashDedup(max_distance=8)
    source = downloaded(layout, _mixed(), parts=2)

    def in_passes(ahead: ImageFilter | None) -> list[Manifest]:
        screened = filter_images.fn(source, SCREEN, layout, "screen", hashes=dedup.looks, ahead=ahead)
        distinct = hash_dedup.fn(screened, dedup, layout)
        return [screened, distinct, filter_images.fn(distinct, safety, layout, "safety", seen=ahead and screened)]

    two = in_passes(None)
    monkeypatch.setattr(parts, "decode_gray", None)  # who decodes a second time fails
    one = in_passes(safety)
    for before, after in zip(two, one, strict=True):
        assert verdicts(before) == verdicts(after)
        assert [row["other"] for row in rows_of(before)] == [row["other"] for row in rows_of(after)]
    assert [set(verdicts(stage).values()) for stage in two[1:]] == [{None, "hash_duplicate"}, {None, "nsfw"}]
    assert two[2].facts == one[2].facts
    for row, other in zip(rows_of(two[2]), rows_of(one[2]), strict=True):
        places = ("image_file", "image_offset")
        assert {**row, **dict.fromkeys(places)} == {**other, **dict.fromkeys(places)}
        assert _bytes_of(row, layout) == _bytes_of(other, layout)


def _bytes_of(row: dict[str, Any], layout: Layout) -> bytes:
    return read_bytes(layout.resolve(row["image_file"]), row["image_offset"], row["image_bytes"])


def test_a_stage_that_looked_with_other_filters_is_refused(layout: Layout) -> None:
    source = downloaded(layout, {"a": encode_jpeg(backgrounds()[3], quality=90)})
    screened = filter_images.fn(source, SCREEN, layout, "screen", ahead=ImageFilter(filters=(Nsfw(),)))
    with pytest.raises(ValueError, match="has looked ahead with"):
        filter_images.fn(screened, SAFETY, layout, "safety", seen=screened)


def test_the_hash_is_of_the_picture_as_it_came_and_not_of_the_blurred_one(layout: Layout) -> None:
    images, _ = _crowd()
    both = ImageFilter(filters=(Geometry(), Faces()))
    manifest = filter_images.fn(downloaded(layout, images), both, layout, "screen", hashes="thumbnails")
    assert manifest.facts["images_with_faces"] == 5
    for data, found in zip(images.values(), np.load(manifest.file("thumbnails-00000.npy")), strict=True):
        assert np.array_equal(found, thumbnail_of(luma(decode_rgb(data))))
