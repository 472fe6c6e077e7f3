"""Going on from an earlier dataset gives the samples of a full packing; what did not change is not written again."""

import json
import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from storage.errors import BadManifest
from storage.filesystem import read_bytes
from storage.manifest import Manifest
from storage.samples import read_samples
from tasks.pack import Pack, packed_alike
from tasks.packing.base import OtherBase
from tasks.packing.images import Bounded
from tasks.shuffle import Shuffle
from tests.tasks.packing import packed, samples, tars

OLD = range(40)
CONFIG = Shuffle(samples_per_shard=6, shards_per_part=2, rows_per_exchange=15)


def _grown(
    folder: Path,
    *,
    images: Sequence[int],
    keep: Sequence[int],
    query: str = "q",
    packing: Pack = Pack(),
    parts: int = 3,
) -> tuple[Manifest, Manifest, Manifest]:
    """A dataset of OLD, one of these images going on from it, and the full packing of these images."""
    old = packed(folder, "run", parts=2, images=OLD, keep=OLD, shuffling=CONFIG, packing=packing)
    given = {"parts": 3, "images": images, "keep": keep, "query": query, "shuffling": CONFIG, "packing": packing}
    return old, packed(folder, "run", base=old, **given), packed(folder, "full", **given)


def _inodes(dataset: Manifest) -> dict[str, int]:
    return {Path(tar).name: os.stat(tar).st_ino for tar in tars(dataset)}


@pytest.mark.parametrize(
    ("images", "keep"),
    [
        (range(60), range(60)),  # only new ones
        (range(40), range(5, 40)),  # only some that left
        (range(60), [*range(3, 20), *range(22, 58)]),  # both
        (range(50, 70), range(50, 70)),  # all old ones of the pool left
    ],
)
def test_the_samples_are_those_of_a_full_packing(tmp_path: Path, images: range, keep: Sequence[int]) -> None:
    _, grown, full = _grown(tmp_path, images=images, keep=keep)
    assert sorted(samples(grown)) == sorted(samples(full))
    assert grown.rows_kept == full.rows_kept


def test_lineage_that_changed_is_the_new_one(tmp_path: Path) -> None:
    old, grown, full = _grown(tmp_path, images=OLD, keep=OLD, query="r")
    assert samples(old) != samples(grown) == samples(full)


def test_new_images_leave_the_old_shards_as_they_lie(tmp_path: Path) -> None:
    old, grown, _ = _grown(tmp_path, images=range(60), keep=range(60))
    before, after = _inodes(old), _inodes(grown)
    assert {name: after[name] for name in before} == before
    assert grown.facts["shards"] == {"linked": len(before)}
    new = [name for name in sorted(after) if name not in before]
    assert new == [f"lvd-{len(before) + n:06d}.tar" for n in range(-(-20 // 6))]


def test_a_shard_is_rewritten_only_if_one_of_its_images_left_and_keeps_its_order(tmp_path: Path) -> None:
    old, grown, full = _grown(tmp_path, images=OLD, keep=range(3, 40))
    there = {key for key, _ in samples(full)}
    assert [key for key, _ in samples(grown)] == [key for key, _ in samples(old) if key in there]
    before, after = _inodes(old), _inodes(grown)
    of_shard = {Path(tar).name: [key for key, _ in read_samples(tar)] for tar in tars(old)}
    for name, keys in of_shard.items():
        assert (before[name] == after[name]) == (set(keys) <= there), name
    assert grown.facts["left"] == 3


def test_three_generations_equal_one(tmp_path: Path) -> None:
    given = {"shuffling": CONFIG}
    first = packed(tmp_path, "run", images=range(30), keep=range(30), **given)
    second = packed(tmp_path, "run", images=range(50), keep=range(4, 50), base=first, **given)
    third = packed(tmp_path, "run", images=range(60), keep=[*range(10), *range(15, 60)], base=second, **given)
    full = packed(tmp_path, "full", images=range(60), keep=[*range(10), *range(15, 60)], **given)
    assert sorted(samples(third)) == sorted(samples(full))
    card = json.loads(read_bytes(third.file("dataset.json")))
    assert [shard["file"] for shard in card["shards"]] == [Path(tar).name for tar in tars(third)]


def test_bounded_copies_are_not_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packing = Pack(images=Bounded(max_side=48))
    old, grown, full = _grown(tmp_path, images=OLD, keep=range(4, 40), packing=packing)
    assert sorted(samples(grown)) == sorted(samples(full))
    monkeypatch.setattr(Bounded, "encode", lambda *_: pytest.fail("a copy was made again"))
    packed(tmp_path, "run", base=old, images=OLD, keep=range(7, 40), shuffling=CONFIG, packing=packing)


def test_the_earlier_dataset_is_an_input_and_may_be_deleted(tmp_path: Path) -> None:
    old, grown, full = _grown(tmp_path, images=range(60), keep=range(60))
    assert grown.inputs["base"] == old.reference
    assert grown.fingerprint != full.fingerprint
    for path in Path(old.directory).iterdir():
        path.unlink()
    assert sorted(samples(grown)) == sorted(samples(full))


def test_only_a_dataset_that_was_packed_alike_can_be_gone_on_from(tmp_path: Path) -> None:
    old = packed(tmp_path, "run", shuffling=CONFIG)
    with pytest.raises(OtherBase, match="seed 0 there, 1 here"):
        packed(tmp_path, "run", base=old, shuffling=Shuffle(samples_per_shard=6, seed=1))
    with pytest.raises(OtherBase, match="images"):
        packed(tmp_path, "run", base=old, shuffling=CONFIG, packing=Pack(images=Bounded()))
    with pytest.raises(OtherBase, match="name"):
        packed(tmp_path, "run", base=old, shuffling=CONFIG, packing=Pack(name="other"))
    assert packed_alike(old, CONFIG, Pack(name="other")) is packed_alike(None, CONFIG, Pack()) is None
    assert packed_alike(old, Shuffle(samples_per_shard=9), Pack(threads=1)) is old


def test_a_stage_that_is_no_dataset_is_refused(tmp_path: Path) -> None:
    old = packed(tmp_path, "run", shuffling=CONFIG)
    nothing = Manifest("pack", 1, "f" * 64, old.directory, {}, {}, (), 0, 0, {})
    with pytest.raises(BadManifest, match=r"no file 'dataset\.json'"):
        packed(tmp_path, "run", base=nothing, shuffling=CONFIG)
