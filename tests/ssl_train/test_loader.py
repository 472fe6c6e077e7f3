import io
import tarfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from ssl_train.config import TrainConfig
from ssl_train.data.collate import Batch
from ssl_train.data.loader import MAX_UNDECODABLE_IN_A_ROW
from ssl_train.data.source import FolderImages, TarImages
from ssl_train.distributed import World
from ssl_train.errors import DataError
from ssl_train.trainer import build_batches, build_loader
from storage.samples import SampleWriter

Configure = Callable[..., TrainConfig]


def world(rank: int = 0, size: int = 1) -> World:
    return World(rank, size, torch.device("cpu"))


def write_tars(folder: Path, counts: list[int]) -> list[str]:
    paths = []
    for number, count in enumerate(counts):
        path = str(folder / f"part-{number:05d}.tar")
        with SampleWriter(path) as writer:
            for image in range(count):
                writer.add(f"{number}-{image}", {"jpg": f"image {number} {image}".encode(), "json": b"{}"})
        paths.append(path)
    return paths


def same(one: Batch, other: Batch) -> None:
    assert one.keys == other.keys
    for name in ("global_crops", "local_crops", "masks", "masked", "mask_weights"):
        assert_close(getattr(one, name), getattr(other, name), rtol=0, atol=0)


def test_any_image_of_any_tar_is_read_by_number(tmp_path: Path) -> None:
    paths = write_tars(tmp_path, [3, 0, 2])
    for shards in (paths, str(tmp_path / "part-*.tar")):
        images = TarImages(shards)
        assert [images.read(index) for index in range(len(images))] == [
            (f"{number}-{image}", f"image {number} {image}".encode())
            for number, count in ((0, 3), (2, 2))
            for image in range(count)
        ]


def test_tars_of_other_writers_are_read_too(tmp_path: Path) -> None:
    path = tmp_path / "other.tar"
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as tar:
        for name, data in (
            ("folder", None),
            ("folder/a.PNG", b"first"),
            ("notes.txt", b"no image"),
            ("b.webp", b"second"),
        ):
            info = tarfile.TarInfo(name)
            if data is None:
                info.type = tarfile.DIRTYPE
            info.size = len(data or b"")
            tar.addfile(info, io.BytesIO(data or b""))
    images = TarImages([str(path)])
    assert [images.read(index) for index in range(len(images))] == [("folder/a", b"first"), ("b", b"second")]


def test_a_folder_is_read_with_its_subfolders(tmp_path: Path) -> None:
    (tmp_path / "deep" / "er").mkdir(parents=True)
    for name in ("b.jpg", "a.PNG", "deep/er/c.webp", "notes.txt"):
        (tmp_path / name).write_bytes(name.encode())
    images = FolderImages(str(tmp_path))
    assert {images.read(index).data.decode() for index in range(len(images))} == {"b.jpg", "a.PNG", "deep/er/c.webp"}


def test_missing_and_damaged_data_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no tars match data\.shards"):
        TarImages(str(tmp_path / "*.tar"))
    with pytest.raises(DataError, match=r"no images under data\.folder"):
        FolderImages(str(tmp_path))
    (tmp_path / "bad.tar").write_bytes(b"this is no tar" * 100)
    with pytest.raises(DataError, match=r"bad\.tar is not a whole tar"):
        TarImages([str(tmp_path / "bad.tar")])
    with pytest.raises(DataError, match="hold no images"):
        TarImages(write_tars(tmp_path, [0]))


def test_a_batch_is_a_function_of_seed_and_step(tiny_run: Configure) -> None:
    one, other = (build_batches(tiny_run(), world()) for _ in range(2))
    same(one[3], other[3])
    assert not torch.equal(one[3].global_crops, one[4].global_crops)
    assert not torch.equal(one[3].global_crops, build_batches(tiny_run("seed=1"), world())[3].global_crops)


def test_two_processes_see_what_one_sees(tiny_run: Configure) -> None:
    whole = build_batches(tiny_run("data.batch_images=8"), world())[5]
    halves = [build_batches(tiny_run("data.batch_images=8"), world(rank, 2))[5] for rank in range(2)]
    assert whole.keys == halves[0].keys + halves[1].keys
    for name in ("global_crops", "local_crops", "masks"):
        parts = [getattr(half, name).unflatten(0, (2, -1)) for half in halves]
        assert_close(torch.cat(parts, dim=1).flatten(0, 1), getattr(whole, name), rtol=0, atol=0)


def test_an_epoch_over_all_processes_holds_every_image_once(tiny_run: Configure) -> None:
    batches = [build_batches(tiny_run(), world(rank, 2)) for rank in range(2)]
    assert set(Counter(key for step in range(3) for part in batches for key in part[step].keys).values()) == {1}


def test_workers_change_nothing_and_a_later_start_sees_the_same(tiny_run: Configure) -> None:
    batches = build_batches(tiny_run(), world())
    plain = build_loader(batches, num_steps=4, num_workers=0, prefetch_batches=1, world=world())
    parallel = build_loader(batches, num_steps=4, num_workers=2, prefetch_batches=2, world=world())
    late = dict(parallel.from_(2))
    assert sorted(late) == [2, 3]
    for step, batch in plain.from_(0):
        if step in late:
            same(batch, late[step])


def test_masks_match_their_crops_and_weights_sum_to_one_each(tiny_run: Configure) -> None:
    batch = build_batches(tiny_run(), world())[0]
    assert batch.masks.shape == (8, 16)
    assert_close(batch.masks.flatten().nonzero().flatten(), batch.masked)
    crops = batch.masked // 16
    sums = torch.zeros(8).index_add_(0, crops, batch.mask_weights)
    assert_close(sums, batch.masks.any(-1).float())
    assert batch.masks.any(-1).sum() == 4


def test_an_image_that_cannot_be_decoded_gives_way_to_the_next_and_is_counted(
    tiny_run: Configure, tmp_path: Path, photographs: str
) -> None:
    folder = tmp_path / "mixed"
    folder.mkdir()
    (folder / "a-broken.jpg").write_bytes(b"\xff\xd8\xff no more")
    (folder / "b-whole.jpg").write_bytes((Path(photographs) / "image-00.jpg").read_bytes())
    batch = build_batches(tiny_run(f"data.folder={folder}"), world())[0]
    assert {Path(key).name for key in batch.keys} == {"b-whole.jpg"}
    assert batch.num_undecodable == 2


def test_a_set_that_cannot_be_decoded_at_all_ends_with_the_reason(tiny_run: Configure, tmp_path: Path) -> None:
    (tmp_path / "broken.jpg").write_bytes(b"<html>")
    with pytest.raises(DataError, match=rf"{MAX_UNDECODABLE_IN_A_ROW} images in a row.*broken\.jpg"):
        build_batches(tiny_run(f"data.folder={tmp_path}"), world())[0]


def test_masks_of_a_step_differ_between_groups(tiny_run: Configure) -> None:
    masks = build_batches(tiny_run("data.batch_images=8", "method.group_images=2"), world())[0].masks
    groups = masks.unflatten(0, (2, 4, 2)).transpose(0, 1).flatten(1).numpy()
    assert len(np.unique(groups, axis=0)) == 4
