from typing import Any

import numpy as np
import pytest

from ssl_train.data.masking import BlockMasks, NoMasks


def test_masks_are_distributed_as_the_published_ones(facts: Any) -> None:
    published, rng = facts("dinov2_mask_stats"), np.random.default_rng(0)
    counts = np.concatenate([BlockMasks().draw(128, 16, rng).sum(-1) for _ in range(100)])
    masked = counts[counts > 0]
    assert np.mean(counts == 0) == published["fraction_unmasked"]
    assert masked.mean() == pytest.approx(published["masked_count_mean"], rel=0.03)
    assert masked.std() == pytest.approx(published["masked_count_std"], rel=0.03)
    quantiles = np.quantile(masked, [0, 0.05, 0.25, 0.5, 0.75, 0.95, 1])
    assert quantiles == pytest.approx(published["quantiles_0_5_25_50_75_95_100"], rel=0.03)


def test_no_mask_is_larger_than_its_share() -> None:
    masks = BlockMasks(masked_crops=1.0, ratio=(0.25, 0.25)).draw(50, 14, np.random.default_rng(1))
    assert masks.shape == (50, 196)
    assert masks.sum(-1).max() <= 49


def test_masks_are_a_function_of_the_generator_alone() -> None:
    one, other = (BlockMasks().draw(16, 8, np.random.default_rng(3)) for _ in range(2))
    assert np.array_equal(one, other)


@pytest.mark.parametrize("grid", [1, 2, 3, 4])
def test_grids_too_small_for_a_block_end_without_a_mask_too_large(grid: int) -> None:
    masks = BlockMasks(masked_crops=1.0, ratio=(0.5, 1.0)).draw(20, grid, np.random.default_rng(0))
    assert masks.sum(-1).max() <= grid * grid


def test_exact_masks_have_the_same_number_of_patches_in_every_group() -> None:
    drawn = [BlockMasks(exact=True).draw(16, 14, np.random.default_rng(seed)) for seed in range(10)]
    wanted = sorted(int(196 * ratio) for ratio in np.linspace(0.1, 0.5, 9)[1:])
    for masks in drawn:
        assert sorted(masks.sum(-1))[8:] == wanted
        assert not any(sorted(masks.sum(-1))[:8])


def test_without_masks_every_patch_is_asked_about() -> None:
    masks = NoMasks().draw(3, 4, np.random.default_rng(0))
    assert masks.shape == (3, 16)
    assert masks.all()
    assert not NoMasks.hides
