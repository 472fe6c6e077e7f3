import colorsys
import hashlib
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps
from torch import Tensor
from torch.testing import assert_close

from ssl_train.data import colours, pixels
from ssl_train.data.augment import MultiCrop, Plan
from storage.images import decode_rgb, encode_jpeg


def photograph(height: int = 40, width: int = 60) -> np.ndarray:
    rng = np.random.default_rng(0)
    smooth = np.kron(rng.integers(0, 256, (height // 10, width // 10, 3)), np.ones((10, 10, 1)))
    return np.clip(smooth + rng.normal(0, 8, smooth.shape), 0, 255).astype(np.uint8)


def as_tensor(image: Image.Image) -> Tensor:
    return pixels.to_unit(torch.from_numpy(np.array(image)).permute(2, 0, 1))


IMAGE = Image.fromarray(photograph())
BYTE = 1 / 255


@pytest.mark.parametrize(
    ("ours", "pillow"),
    [
        (lambda x: pixels.scale_brightness(x, 1.3), lambda x: ImageEnhance.Brightness(x).enhance(1.3)),
        (lambda x: pixels.scale_contrast(x, 0.7), lambda x: ImageEnhance.Contrast(x).enhance(0.7)),
        (lambda x: pixels.scale_saturation(x, 1.2), lambda x: ImageEnhance.Color(x).enhance(1.2)),
        (pixels.solarize, lambda x: ImageOps.solarize(x, 128)),
        (pixels.to_gray, lambda x: x.convert("L").convert("RGB")),
    ],
    ids=["brightness", "contrast", "saturation", "solarize", "gray"],
)
def test_colours_change_as_pillow_changes_them(ours: Any, pillow: Any) -> None:
    assert_close(ours(as_tensor(IMAGE)), as_tensor(pillow(IMAGE)), rtol=0, atol=2 * BYTE)


def test_crops_are_resized_as_pillow_resizes_them() -> None:
    box = pixels.Box(4, 7, 30, 41)
    ours = pixels.crop_and_resize(np.array(IMAGE), box, 16)
    theirs = IMAGE.crop((7, 4, 7 + 41, 4 + 30)).resize((16, 16), Image.Resampling.BICUBIC)
    assert_close(pixels.to_unit(ours), as_tensor(theirs), rtol=0, atol=2 * BYTE)


@pytest.mark.parametrize("turn", [-0.1, 0.0, 0.07, 0.5])
def test_hue_turns_in_hsv(turn: float) -> None:
    image = as_tensor(IMAGE)[:, :6, :9]
    turned = pixels.shift_hue(image, turn)
    for row in range(6):
        for column in range(9):
            hue, saturation, value = colorsys.rgb_to_hsv(*image[:, row, column].tolist())
            expected = torch.tensor(colorsys.hsv_to_rgb((hue + turn) % 1, saturation, value))
            assert_close(turned[:, row, column], expected, rtol=0, atol=1e-5)


def test_blur_is_the_loop_over_nine_taps_each_way() -> None:
    image, sigma = torch.rand(3, 12, 11), 1.3
    weights = np.exp(-0.5 * (np.arange(-4, 5) / sigma) ** 2)
    weights /= weights.sum()
    padded = np.pad(image.numpy(), ((0, 0), (4, 4), (4, 4)), mode="reflect")
    expected = sum(weights[i] * weights[j] * padded[:, i : i + 12, j : j + 11] for i in range(9) for j in range(9))
    assert_close(pixels.gaussian_blur(image, sigma), torch.from_numpy(expected), rtol=0, atol=1e-5, check_dtype=False)


def test_boxes_lie_within_the_image_and_cover_the_share_asked_for() -> None:
    rng = np.random.default_rng(0)
    boxes = [pixels.random_box(300, 400, (0.05, 0.32), rng) for _ in range(500)]
    assert all(box.top + box.height <= 300 and box.left + box.width <= 400 for box in boxes)
    shares = np.array([box.height * box.width / 120_000 for box in boxes])
    assert 0.045 < shares.min() < 0.06
    assert 0.30 < shares.max() < 0.33
    assert shares.mean() == pytest.approx(0.185, rel=0.05)


def test_an_image_too_narrow_for_any_aspect_gives_its_centre() -> None:
    assert pixels.random_box(1000, 10, (0.9, 1.0), np.random.default_rng(0)) == pixels.Box(493, 0, 13, 10)


def crops_of(settings: MultiCrop, image: np.ndarray, seed: int) -> list[Tensor]:
    plan = settings.plan(image.shape[0], image.shape[1], np.random.default_rng(seed))
    crops = settings.crops(image, plan)
    return [*crops.global_crops, *crops.local_crops]


def test_crops_have_the_sizes_asked_for_and_depend_on_the_generator_alone() -> None:
    settings = MultiCrop(global_pixels=32, local_pixels=16, num_local=3)
    one, other = (crops_of(settings, photograph(), 5) for _ in range(2))
    assert [tuple(crop.shape) for crop in one] == [(3, 32, 32)] * 2 + [(3, 16, 16)] * 3
    assert_close(one, other, rtol=0, atol=0)
    assert not torch.equal(one[0], one[1])


@pytest.mark.parametrize(("blur", "chances"), [("released", (0.0, 0.9, 0.5)), ("paper", (1.0, 0.1, 0.5))])
def test_changes_happen_as_often_as_published(blur: Any, chances: tuple[float, float, float]) -> None:
    rng = np.random.default_rng(0)
    draws = np.stack([MultiCrop(blur=blur).plan(300, 400, rng).draws for _ in range(600)])  # [images, crops]
    near = partial(pytest.approx, abs=0.06)
    assert draws["blur"].mean(0).tolist() == near([*chances[:2], *[chances[2]] * 8])
    assert draws["solarize"].mean(0).tolist() == near([0.0, 0.2, *[0.0] * 8])
    assert draws["flip"].mean() == near(0.5)
    assert draws["jitter"].mean() == near(0.8)
    assert draws["gray"].mean() == near(0.2)


def test_amounts_are_drawn_from_the_published_ranges() -> None:
    rng = np.random.default_rng(0)
    draws = np.concatenate([MultiCrop().plan(300, 400, rng).draws for _ in range(300)])
    for number, (low, high) in enumerate([(0.6, 1.4), (0.6, 1.4), (0.8, 1.2), (-0.1, 0.1)]):
        amounts = draws["amounts"][:, number]
        margin = 0.01 * (high - low)
        assert low <= amounts.min() < low + margin
        assert high - margin < amounts.max() <= high
    assert 0.1 <= draws["sigma"].min() < 0.12
    assert 1.98 < draws["sigma"].max() <= 2.0
    assert len(np.unique(draws["order"], axis=0)) == 24


def test_the_draws_of_a_seed_are_those_of_runs_that_began_before_there_were_other_views() -> None:
    rng = np.random.default_rng(0)
    drawn = b"".join(MultiCrop().plan(300, 400, rng).draws.tobytes() for _ in range(50))
    assert hashlib.sha256(drawn).hexdigest() == "b1cd797359dc23b0b7a6dd23e22a66b7c8fc45709f2d31d8f3c1f4b708bfd278"


SIMCLR = MultiCrop(blur=(0.5, 0.5, 0.5), solarize=(0, 0, 0), jitter_strengths=(0.8, 0.8, 0.8, 0.2), num_local=2)


def test_views_of_other_methods_are_drawn_as_they_are_set() -> None:
    rng = np.random.default_rng(0)
    draws = np.stack([SIMCLR.plan(300, 400, rng).draws for _ in range(800)])  # [images, crops]
    assert draws["blur"].mean(0) == pytest.approx([0.5] * 4, abs=0.06)
    assert not draws["solarize"].any()
    for number, (low, high) in enumerate([(0.2, 1.8)] * 3 + [(-0.2, 0.2)]):
        amounts = draws["amounts"][..., number]
        margin = 0.01 * (high - low)
        assert low <= amounts.min() < low + margin
        assert high - margin < amounts.max() <= high


def test_chances_of_jitter_gray_and_solarising_are_those_asked_for() -> None:
    rng = np.random.default_rng(0)
    settings = MultiCrop(jitter=0.3, gray=0.0, solarize=(1.0, 0.0, 0.5))
    draws = np.stack([settings.plan(300, 400, rng).draws for _ in range(400)])
    assert draws["jitter"].mean() == pytest.approx(0.3, abs=0.04)
    assert not draws["gray"].any()
    assert draws["solarize"].mean(0) == pytest.approx([1.0, 0.0, *[0.5] * 8], abs=0.08)


def test_local_crops_are_those_of_any_number_of_them() -> None:
    few, many = (MultiCrop(num_local=number).views() for number in (2, 8))
    assert many[:4] == few
    assert MultiCrop(num_local=0).plan(50, 50, np.random.default_rng(0)).draws.shape == (2,)


def test_a_crop_that_nothing_happens_to_is_a_resized_box_normalised() -> None:
    row = np.zeros(1, colours.DRAWS)[0]
    white = torch.full((3, 8, 8), 255, dtype=torch.uint8)
    expected = (1 - torch.tensor(pixels.MEAN)) / torch.tensor(pixels.STD)
    assert_close(colours.coloured(white, row), expected[:, None, None].expand(3, 8, 8))


@pytest.mark.parametrize(("side", "factor"), [(223, 1), (224, 1), (447, 1), (448, 2), (900, 4), (1792, 8), (5000, 8)])
def test_an_image_is_decoded_no_smaller_than_its_crops_need(side: int, factor: int) -> None:
    one_box = Plan((pixels.Box(0, 0, side, side + 10),), (224,), np.zeros(1, colours.DRAWS))
    assert one_box.reduction() == factor


@pytest.mark.parametrize("factor", [1, 2, 4, 8])
def test_boxes_move_by_half_a_decoded_pixel_at_most_and_stay_within_the_image(factor: int) -> None:
    rng = np.random.default_rng(factor)
    for height, width in ((801, 1003), (640, 960)):
        drawn = MultiCrop(global_pixels=32, local_pixels=16).plan(height, width, rng)
        moved = drawn.on_grid(factor, height, width)
        for before, after, small in zip(drawn.boxes, moved.boxes, moved.reduced(factor).boxes, strict=True):
            assert abs(before.top - after.top) <= factor / 2
            assert abs(before.left + before.width - after.left - after.width) <= factor / 2
            assert small.top + small.height <= -(-height // factor)
            assert small.left + small.width <= -(-width // factor)
            assert small.height * factor == pytest.approx(after.height, abs=factor - 1)


def test_decoding_smaller_changes_crops_by_three_levels_at_most() -> None:
    smooth = np.asarray(Image.fromarray(photograph(200, 300)).resize((900, 600), Image.Resampling.BICUBIC))
    data = encode_jpeg(smooth, quality=90)
    settings = MultiCrop(global_pixels=112, local_pixels=48)
    whole, half = decode_rgb(data), decode_rgb(data, min_side=300)
    assert half.shape == (300, 450, 3)
    for seed in range(4):
        plan = settings.plan(600, 900, np.random.default_rng(seed)).on_grid(2, 600, 900)
        for exact, reduced in zip(plan.cut(whole), plan.reduced(2).cut(half), strict=True):
            error = (exact.float() - reduced.float()).square().mean().sqrt()
            assert error <= 3.0
