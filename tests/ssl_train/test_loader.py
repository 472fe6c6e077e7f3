import pickle
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context, set_start_method
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch.testing import assert_close

from ssl_train.config import TrainConfig
from ssl_train.data.collate import Batch
from ssl_train.data.loader import MAX_UNDECODABLE_IN_A_ROW
from ssl_train.distributed import World
from ssl_train.errors import DataError
from ssl_train.trainer import build_batches, build_loader
from storage.images import encode_jpeg
from storage.samples import SampleWriter

Configure = Callable[..., TrainConfig]


def world(rank: int = 0, size: int = 1) -> World:
    return World(rank, size, torch.device("cpu"))


def same(one: Batch, other: Batch) -> None:
    assert one.keys == other.keys
    for name in ("global_crops", "local_crops", "masks", "masked", "mask_weights"):
        assert_close(getattr(one, name), getattr(other, name), rtol=0, atol=0)


FORMS = ("folder", "shards", "shards in stretches", "parquet")


def lay(form: str, photographs: str, folder: Path) -> str:
    """Settings that name the same dozen images in one of the forms in which data may lie; written under `folder`."""
    files = sorted(Path(photographs).iterdir())
    if form == "folder":
        return f"data.folder={photographs}"
    if form == "parquet":
        rows = [{"bytes": file.read_bytes(), "path": file.name} for file in files]
        for part in range(2):
            table = pa.table({"image": rows[part::2]})
            pq.write_table(table, folder / f"part-{part}.parquet", row_group_size=2)
        return f"data={{parquet: {folder}/part-*.parquet, shuffle_images: 4, batch_images: 4}}"
    order = "shard_shuffle" if "stretches" in form else "global"
    for part in range(4):
        with SampleWriter(str(folder / f"{order}-{part}.tar")) as writer:
            for file in files[part::4]:
                writer.add(file.stem, {"jpg": file.read_bytes()})
    return f"data={{shards: {folder}/{order}-*.tar, order: {order}, shuffle_images: 6, batch_images: 4}}"


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(params=FORMS)
def source(request: pytest.FixtureRequest, photographs: str, tmp_path: Path, own_cache: None) -> str:
    return lay(request.param, photographs, tmp_path)


def test_a_batch_is_a_function_of_seed_and_step(tiny_run: Configure, source: str) -> None:
    one, other = (build_batches(tiny_run(source), world()) for _ in range(2))
    other[7]  # what was asked for before does not matter
    same(one[3], other[3])
    assert not torch.equal(one[3].global_crops, one[4].global_crops)
    assert not torch.equal(one[3].global_crops, build_batches(tiny_run(source, "seed=1"), world())[3].global_crops)


def test_two_processes_see_what_one_sees(tiny_run: Configure, source: str) -> None:
    run = tiny_run(source, "data.batch_images=8")
    whole = build_batches(run, world())[5]
    halves = [build_batches(run, world(rank, 2))[5] for rank in range(2)]
    assert whole.keys == halves[0].keys + halves[1].keys
    for name in ("global_crops", "local_crops", "masks"):
        parts = [getattr(half, name).unflatten(0, (2, -1)) for half in halves]
        assert_close(torch.cat(parts, dim=1).flatten(0, 1), getattr(whole, name), rtol=0, atol=0)


def test_an_epoch_over_all_processes_holds_every_image_once(tiny_run: Configure, source: str) -> None:
    batches = [build_batches(tiny_run(source), world(rank, 2)) for rank in range(2)]
    assert set(Counter(key for step in range(3) for part in batches for key in part[step].keys).values()) == {1}


def test_workers_change_nothing_and_a_later_start_sees_the_same_in_whatever_form_the_images_lie(
    tiny_run: Configure, photographs: str, tmp_path: Path, own_cache: None
) -> None:
    configs = {form: tiny_run(lay(form, photographs, tmp_path)) for form in FORMS}
    # Workers are forked, as a training's are: from a process that has not run half a test suite before.
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as fresh:
        made = {form: fresh.submit(made_by_workers, config, start=2) for form, config in configs.items()}
        late = {form: future.result() for form, future in made.items()}
    for form, config in configs.items():
        assert sorted(late[form]) == [2, 3], form
        batches = build_batches(config, world())
        plain = build_loader(batches, num_steps=4, num_workers=0, prefetch_batches=1, world=world())
        for step, batch in plain.from_(0):
            if step in late[form]:
                same(batch, late[form][step])


def made_by_workers(config: TrainConfig, start: int) -> dict[int, Batch]:
    """The batches from a step on, made by two worker processes; their tensors hold memory of their own."""
    set_start_method("fork", force=True)  # a spawned process would spawn its own
    batches = build_batches(config, world())
    loader = build_loader(batches, num_steps=4, num_workers=2, prefetch_batches=2, world=world())
    return {step: pickle.loads(pickle.dumps(batch)) for step, batch in loader.from_(start)}


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


@pytest.mark.parametrize("name", ["global_crops", "local_crops"])
def test_decoding_smaller_changes_a_large_image_little_and_a_small_one_not_at_all(
    tiny_run: Configure, tmp_path: Path, name: str
) -> None:
    rows, columns = np.mgrid[0:400, 0:400] / 400
    waves = 128 + 90 * np.sin(np.stack([9 * rows, 7 * columns, 8 * (rows + columns)], -1))
    picture = waves.astype(np.uint8)
    for size, levels in ((400, 3.0), (60, 0.0)):
        (tmp_path / "image.jpg").write_bytes(encode_jpeg(picture[:size, :size], quality=95))
        exact, reduced = (
            build_batches(
                tiny_run(f"data.folder={tmp_path}", f"data.decode={decode}", "augment.device=device"), world()
            )
            for decode in ("exact", "reduced")
        )
        one, other = getattr(exact[0], name).float(), getattr(reduced[0], name).float()
        assert (one - other).square().mean().sqrt() <= levels


def test_one_source_is_wanted(tiny_run: Configure, tmp_path: Path) -> None:
    assert tiny_run().data.sources == ["folder"]
    assert tiny_run(f"data.shards={tmp_path}/*.tar").data.sources == ["shards", "folder"]
