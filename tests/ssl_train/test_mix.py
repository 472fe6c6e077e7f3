from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from ssl_train.config import TrainConfig
from ssl_train.data.collate import collate
from ssl_train.data.labelled import Labelled
from ssl_train.data.labels import ImageLabels
from ssl_train.data.loader import Batches
from ssl_train.data.mix import MIXES, Mix, Mixes, mix_images, soft_targets
from ssl_train.distributed import World
from ssl_train.trainer import build_batches

Configure = Callable[..., TrainConfig]
SIDE = 24
SETTINGS = {
    "published": Mix(),
    "each image": Mix(each="image"),
    "mixup": Mix(cutmix=0.0),
    "cutmix": Mix(mixup=0.0),
    "cutmix of each": Mix(mixup=0.0, each="image"),
    "sometimes": Mix(chance=0.5, each="image"),
}


def drawn(mix: Mix, *, times: int = 40, num_images: int = 6) -> list[Mixes]:
    rng = np.random.default_rng(0)
    return [mix.draw(num_images, SIDE, rng) for _ in range(times)]


def one_by_one(images: Tensor, mixes: Mixes) -> tuple[Tensor, list[float]]:
    """The slow truth: pixel by pixel, and the share of its own pixels that each image kept."""
    out, shares = torch.empty_like(images), []
    for i, mix in enumerate(mixes):
        partner, kept = images[mix["partner"]], 0.0
        rows = range(mix["top"], mix["top"] + mix["height"])
        columns = range(mix["left"], mix["left"] + mix["width"])
        for y in range(images.shape[2]):
            for x in range(images.shape[3]):
                weight = float(mix["share"]) if not mix["height"] else 0.0 if y in rows and x in columns else 1.0
                out[i, :, y, x] = weight * images[i, :, y, x] + (1 - weight) * partner[:, y, x]
                kept += weight
        shares.append(kept / (images.shape[2] * images.shape[3]))
    return out, shares


@pytest.mark.parametrize("name", SETTINGS)
def test_images_are_mixed_as_the_loop_mixes_them_and_shares_are_those_of_the_pixels(name: str) -> None:
    images = torch.randn(6, 3, SIDE, SIDE)
    for mixes in drawn(SETTINGS[name], times=8):
        expected, shares = one_by_one(images, mixes)
        assert_close(mix_images(images, mixes), expected)
        assert_close(torch.tensor(shares), torch.from_numpy(mixes["share"].copy()), atol=1e-6, rtol=0)


def test_a_pasted_pixel_is_the_partners_to_the_bit_and_all_others_the_images_own() -> None:
    images = torch.randn(6, 3, SIDE, SIDE)
    for mixes in drawn(Mix(mixup=0.0, each="image"), times=5):
        mixed = mix_images(images, mixes)
        is_own, is_other = mixed == images, mixed == images[torch.from_numpy(mixes["partner"]).long()]
        assert (is_own | is_other).all()
        assert_close(is_own.float().mean((1, 2, 3)), torch.from_numpy(mixes["share"].copy()))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_targets_are_distributions_with_the_shares_of_the_loop(smoothing: float) -> None:
    labels, others = torch.tensor([0, 3, 2, 2]), torch.tensor([2, 2, 3, 2])
    shares = torch.tensor([0.25, 1.0, 0.5, 0.3])
    targets = soft_targets(labels, others, shares, num_classes=5, smoothing=smoothing)
    for row in range(4):
        for k in range(5):
            told = float(shares[row]) * (labels[row] == k) + float(1 - shares[row]) * (others[row] == k)
            assert float(targets[row, k]) == pytest.approx((1 - smoothing) * float(told) + smoothing / 5, abs=1e-6)
    assert_close(targets.sum(1), torch.ones(4))
    plain = soft_targets(labels, num_classes=5, smoothing=smoothing)
    assert_close(plain, soft_targets(labels, labels, torch.ones(4), num_classes=5, smoothing=smoothing))
    assert_close(plain.sum(1), torch.ones(4))


def test_the_mean_target_does_not_depend_on_who_is_pasted_into_whom() -> None:
    """Partners are partners of each other, and one draw is for all: the classes of a batch keep their masses."""
    labels = torch.tensor([0, 1, 2, 3, 1, 0])
    for mixes in drawn(Mix()):
        others = labels[torch.from_numpy(mixes["partner"]).long()]
        assert (mixes["partner"][mixes["partner"]] == np.arange(6)).all()
        targets = soft_targets(labels, others, torch.from_numpy(mixes["share"].copy()), num_classes=4)
        assert_close(targets.sum(0), torch.tensor([2.0, 2.0, 1.0, 1.0]))


def test_draws_have_the_published_frequencies_and_shares() -> None:
    many = np.concatenate(drawn(Mix(each="image"), times=400))
    pasted = many["height"] > 0
    assert pasted.mean() == pytest.approx(0.5, abs=0.04)
    assert (many["share"] < 1).mean() > 0.95
    blended = many["share"][~pasted]
    # Beta(0.8, 0.8) around a half, with this variance; a pasted rectangle is cut off at the border
    assert blended.mean() == pytest.approx(0.5, abs=0.04)
    assert blended.var() == pytest.approx(1 / (4 * (2 * 0.8 + 1)), rel=0.15)
    assert 0.5 < many["share"][pasted].mean() < 0.75
    assert (np.concatenate(drawn(Mix(chance=0.3, each="image"), times=400))["share"] < 1).mean() == pytest.approx(
        0.3, abs=0.04
    )
    for mixes in drawn(Mix()):
        assert len(np.unique(mixes["share"])) == len(np.unique(mixes["top"])) == 1


def test_nothing_that_is_mixed_leaves_the_image() -> None:
    many = np.concatenate(drawn(Mix(mixup=0.0, each="image"), times=200))
    assert (many["top"] >= 0).all()
    assert (many["left"] >= 0).all()
    assert (many["top"] + many["height"]).max() == SIDE
    assert (many["left"] + many["width"]).max() == SIDE


def test_a_draw_that_mixes_nothing_leaves_the_images_alone() -> None:
    images = torch.randn(4, 3, 8, 8)
    (mixes,) = drawn(Mix(chance=0.0), times=1, num_images=4)
    assert mix_images(images, mixes) is images


def labelled_batches(tiny_run: Configure, rank: int = 0, size: int = 1, **changes: object) -> Batches:
    plain = build_batches(tiny_run("data.batch_images=8"), World(rank, size, torch.device("cpu")))
    labels = ImageLabels(np.arange(len(plain.images), dtype=np.int32) % 5, tuple("abcde"))
    augment = Labelled(pixels=16, mix=Mix(each="image"))
    return replace(plain, augment=augment, labels=labels, grid=2, group_images=4, **changes)  # type: ignore[arg-type]


def test_mixing_is_a_function_of_seed_and_step_alone(tiny_run: Configure) -> None:
    one, other = labelled_batches(tiny_run)[3], labelled_batches(tiny_run)[3]
    assert one.mixes is not None
    assert other.mixes is not None
    assert one.mixes.tobytes() == other.mixes.tobytes()
    assert torch.equal(one.finished().global_crops, other.finished().global_crops)
    for different in (labelled_batches(tiny_run)[4], labelled_batches(tiny_run, seed=7)[3]):
        assert different.mixes is not None
        assert different.mixes.tobytes() != one.mixes.tobytes()


def test_two_processes_mix_what_one_mixes(tiny_run: Configure) -> None:
    whole = labelled_batches(tiny_run)[2].finished()
    halves = [labelled_batches(tiny_run, rank, 2)[2].finished() for rank in range(2)]
    for name in ("global_crops", "labels", "mixed_labels", "label_shares"):
        assert torch.equal(torch.cat([getattr(half, name) for half in halves]), getattr(whole, name)), name


def test_a_batch_carries_labels_and_shares_and_finishes_once(tiny_run: Configure) -> None:
    raw = labelled_batches(tiny_run)[1]
    batch = raw.to(torch.device("cpu")).finished()
    assert batch.mixes is None
    assert batch.finished() is batch
    assert raw.mixes is not None
    assert raw.labels is not None
    assert batch.labels is not None
    assert batch.mixed_labels is not None
    assert batch.labels.dtype == torch.long
    assert batch.global_crops.shape == (8, 3, 16, 16)
    assert_close(batch.global_crops, mix_images(raw.global_crops, raw.mixes))
    assert torch.equal(batch.mixed_labels, raw.labels[torch.from_numpy(raw.mixes["partner"]).long()])
    # partners are of the same group of four
    assert (raw.mixes["partner"] // 4).tolist() == [0, 0, 0, 0, 1, 1, 1, 1]


def test_mixing_wants_one_crop_of_an_image_and_its_label() -> None:
    image = Labelled(pixels=8).crops(
        np.zeros((20, 20, 3), np.uint8), Labelled(pixels=8).plan(20, 20, np.random.default_rng(0))
    )
    with pytest.raises(ValueError, match="one crop and a label"):
        collate(["a"], [image], np.ones((1, 4), np.bool_), mixes=np.zeros(1, MIXES))


def test_repeated_augmentation_gives_every_image_so_many_different_crops_in_a_row(tiny_run: Configure) -> None:
    plain = labelled_batches(tiny_run)
    thrice = labelled_batches(tiny_run, data=replace(plain.data, repeats=4))
    first = thrice[0]
    assert [first.keys[4 * i : 4 * i + 4] == (first.keys[4 * i],) * 4 for i in range(2)] == [True, True]
    assert first.keys[::4] == plain[0].keys[:2]
    assert not torch.equal(first.global_crops[0], first.global_crops[1])
    images = {key for step in range(6) for key in thrice[step].keys}
    assert len(images) == len(plain.images)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", SETTINGS)
def test_a_gpu_mixes_what_the_host_mixes(name: str) -> None:
    images = torch.randn(6, 3, SIDE, SIDE)
    for mixes in drawn(SETTINGS[name], times=4):
        assert_close(mix_images(images.cuda(), mixes).cpu(), mix_images(images, mixes))
