from typing import Any

import numpy as np
import pytest

from ssl_train.data.masking import BlockMasks, ChoiceMasks, Masks, NoMasks, NoPatches


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


def test_choice_masks_leave_half_of_the_crops_whole_and_mask_the_others_as_ibots_code_does() -> None:
    """Statistics of 20,000 crops of a 14 x 14 grid by the published loop, with ratios [0, 0.3] and spreads [0, 0.2]."""
    counts = ChoiceMasks().draw(20_000, 14, np.random.default_rng(0)).sum(-1)
    masked = counts[counts > 0]
    assert np.mean(counts == 0) == pytest.approx(0.5, abs=0.01)
    assert masked.mean() == pytest.approx(57.4, rel=0.01)
    assert masked.std() == pytest.approx(23.0, rel=0.02)
    quantiles = np.quantile(masked, [0, 0.05, 0.25, 0.5, 0.75, 0.95, 1])
    assert quantiles == pytest.approx([14, 21, 37, 58, 77, 93, 97], rel=0.03)


def test_a_single_ratio_without_spread_is_every_crops_ratio() -> None:
    counts = ChoiceMasks(ratios=(0.4,), spreads=(0.0,)).draw(50, 14, np.random.default_rng(0)).sum(-1)
    assert counts.max() <= 0.4 * 196
    assert counts.mean() > 0.37 * 196


@pytest.mark.parametrize(
    "masks", [BlockMasks(), ChoiceMasks(), ChoiceMasks(ratios=(0.2, 0.4), spreads=(0.1, 0.1)), NoMasks(), NoPatches()]
)
def test_the_share_that_a_mask_states_is_what_it_draws(masks: Masks) -> None:
    drawn = masks.draw(512, 16, np.random.default_rng(0))
    assert drawn.mean() == pytest.approx(masks.share, rel=0.06)


@pytest.mark.parametrize(
    ("ratios", "spreads", "message"),
    [((0.3,), (0.1, 0.1), "one for each"), ((), (), "one for each"), ((0.1,), (0.2,), "below zero")],
)
def test_choices_that_are_none_are_named(ratios: tuple[float, ...], spreads: tuple[float, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ChoiceMasks(ratios=ratios, spreads=spreads)


def test_a_loss_on_whole_crops_asks_about_no_patch() -> None:
    assert not NoPatches().draw(3, 4, np.random.default_rng(0)).any()
    assert not NoPatches.hides
