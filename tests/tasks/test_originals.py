"""By default no byte of a picture whose faces were blurred is left as it came, and everything still reads well."""

import hashlib
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from storage import overwrite as overwriting
from storage.filesystem import read_bytes
from storage.images import decode_rgb, encode_jpeg
from storage.layout import Layout
from storage.manifest import Manifest, load_manifest
from storage.overwrite import overwrite
from tasks import originals
from tasks.filters import Faces, Geometry
from tasks.hash_dedup import HashDedup, hash_dedup
from tasks.image_filter import ImageFilter, filter_images
from tasks.originals import fit
from tests.tasks.filters.planted import backgrounds, head
from tests.tasks.image_stages import downloaded, rows_of, verdicts

FACES = ImageFilter(filters=(Faces(),))
KEPT = ImageFilter(filters=(Faces(),), keep_unblurred=True)


@cache
def pictures() -> dict[str, bytes]:
    """Two small pictures with a face, a copy of the first at another place of the web, two without a face."""
    scenes = [picture[:200, :240].copy() for picture in backgrounds()[3:7]]
    scenes[0][5:195, 40:190] = head()
    scenes[1][5:195, 60:210] = head()[:, ::-1]
    names = ("face0", "face1", "scene0", "scene1")
    images = {name: encode_jpeg(pixels, quality=88) for name, pixels in zip(names, scenes, strict=True)}
    return images | {"twin": images["face0"]}


def chain(layout: Layout, config: ImageFilter = FACES) -> tuple[Manifest, Manifest, Manifest]:
    """download -> hash_dedup -> safety."""
    source = downloaded(layout, pictures(), parts=2)
    distinct = hash_dedup.fn(source, HashDedup(method="phash"), layout)
    return source, distinct, filter_images.fn(distinct, config, layout, "safety")


def holders(layout: Layout, data: bytes) -> list[str]:
    """Files below the root with a piece from the middle of these bytes."""
    needle = data[len(data) // 2 : len(data) // 2 + 64]
    return [
        path.name for path in sorted(Path(layout.root).rglob("*")) if path.is_file() and needle in path.read_bytes()
    ]


def tree(layout: Layout) -> dict[str, str]:
    root = Path(layout.root)
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(root.rglob("*")) if path.is_file() and path.name != "timing.json"}  # fmt: skip


def image_of(row: dict[str, Any], layout: Layout) -> bytes:
    return read_bytes(layout.resolve(row["image_file"]), row["image_offset"], row["image_bytes"])


def test_no_byte_of_an_unblurred_picture_nor_of_its_copy_is_left_and_all_manifests_hold(layout: Layout) -> None:
    images = pictures()
    source, distinct, safe = chain(layout)
    assert verdicts(distinct)["twin"] == "hash_duplicate"
    for name, data in images.items():
        assert len(holders(layout, data)) == (1 if name.startswith("scene") else 0), name
    assert (safe.facts["originals_replaced"], safe.facts["originals_erased"]) == (2, 1)
    now = {row["id"]: row for row in rows_of(safe)}
    for row in rows_of(source):  # every table that points there points to the blurred picture
        if row["id"].startswith("face"):
            assert image_of(row, layout).rstrip(b"\0") == image_of(now[row["id"]], layout)
        if row["id"].startswith("scene"):
            assert image_of(row, layout) == images[row["id"]]
        assert row["sha256"] == hashlib.sha256(images[row["id"]]).hexdigest()  # by which a removal finds it
    for manifest in (source, distinct, safe):
        for entry in load_manifest(manifest.directory).files:
            data = read_bytes(f"{manifest.directory}/{entry.path}")
            assert (len(data), hashlib.sha256(data).hexdigest()) == (entry.bytes, entry.sha256), entry.path


def test_the_originals_stay_where_the_config_says_so(layout: Layout) -> None:
    images = pictures()
    _, _, safe = chain(layout, KEPT)
    assert all(holders(layout, data) for data in images.values())
    assert "originals_replaced" not in safe.facts


def test_what_was_looked_at_ahead_is_erased_when_the_later_stage_takes_it(layout: Layout) -> None:
    source = downloaded(layout, pictures(), parts=2)
    dedup = HashDedup(method="phash")
    screen = ImageFilter(filters=(Geometry(),))
    screened = filter_images.fn(source, screen, layout, "screen", hashes=dedup.looks, ahead=FACES)
    assert holders(layout, pictures()["face0"])
    distinct = hash_dedup.fn(screened, dedup, layout)
    filter_images.fn(distinct, FACES, layout, "safety", seen=screened)
    assert not any(holders(layout, pictures()[name]) for name in ("face0", "face1", "twin"))


def test_an_unchanged_run_reuses_every_stage_and_other_filters_see_the_blurred_pictures(layout: Layout) -> None:
    _, distinct, safe = chain(layout)
    before = tree(layout)
    assert [one.reference for one in chain_again(layout)] == [distinct.reference, safe.reference]
    assert tree(layout) == before
    other = filter_images.fn(distinct, ImageFilter(filters=(Geometry(), Faces(expand=0.2))), layout, "safety")
    assert verdicts(other) == verdicts(safe)
    for row in rows_of(other):  # its checksum is that of the bytes that the row points to
        assert row["sha256"] == hashlib.sha256(image_of(row, layout)).hexdigest()


def chain_again(layout: Layout) -> tuple[Manifest, Manifest]:
    """The later stages from the download as it lies there."""
    (folder,) = Path(layout.root).glob("stages/download/*")
    source = load_manifest(str(folder))
    distinct = hash_dedup.fn(source, HashDedup(method="phash"), layout)
    return distinct, filter_images.fn(distinct, FACES, layout, "safety")


class Killed(BaseException):
    """The process dies."""


def test_killed_anywhere_within_and_run_again_it_ends_in_the_same_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, one = Layout(str(tmp_path / "whole")), Layout(str(tmp_path / "one"))
    chain(whole)
    for number, step in enumerate(("overwrite", "_read", "load_manifest", "save_manifest")):
        with monkeypatch.context() as patch:
            patch.setattr(originals if hasattr(originals, step) else overwriting, step, _dies)
            with pytest.raises(Killed):
                chain(one) if number == 0 else chain_again(one)
        assert not list(Path(one.root).glob("stages/safety/*/manifest.json"))
    chain_again(one)
    assert tree(one) == tree(whole)
    assert not holders(one, pictures()["face0"])


def _dies(*_: Any) -> Any:
    raise Killed


def test_a_longer_file_is_saved_at_a_lower_quality_and_one_that_cannot_be_is_none() -> None:
    data = encode_jpeg(backgrounds()[4], quality=95)
    for size in (len(data) + 1, len(data), len(data) // 2):
        fitted = fit(data, size)
        assert fitted is not None
        assert (len(fitted), fitted[-1]) == (size, 0)
        off = np.abs(decode_rgb(fitted).astype(int) - decode_rgb(data).astype(int)).mean()
        assert off < (0.1 if size > len(data) else 6)
    assert fit(data, 300) is None


def test_overwriting_changes_the_places_alone_and_writes_nothing_twice(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"a" * (3 << 20))
    places = [(2_000_000, 10), (5, 3), (8, 2)]
    told = overwrite(str(path), places, lambda place: b"b" * place[1])
    data = path.read_bytes()
    assert told == (len(data), hashlib.sha256(data).hexdigest())
    expected = bytearray(b"a" * (3 << 20))
    expected[5:10], expected[2_000_000:2_000_010] = b"b" * 5, b"b" * 10
    assert data == expected
    inode = path.stat().st_ino
    assert overwrite(str(path), places, lambda place: b"b" * place[1]) == told
    assert path.stat().st_ino == inode
    with pytest.raises(ValueError, match="cannot take the place"):
        overwrite(str(path), [(5, 4), (6, 1)], lambda place: b"c" * place[1])
    assert path.read_bytes() == expected
