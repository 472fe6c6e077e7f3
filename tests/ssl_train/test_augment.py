import colorsys
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps
from torch import Tensor
from torch.testing import assert_close

from ssl_train.data import augment, pixels
from ssl_train.data.augment import MultiCrop, View


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


def test_crops_have_the_sizes_asked_for_and_depend_on_the_generator_alone() -> None:
    settings = MultiCrop(global_pixels=32, local_pixels=16, num_local=3)
    one, other = (settings.crops(photograph(), np.random.default_rng(5)) for _ in range(2))
    assert [tuple(crop.shape) for crop in one.global_crops] == [(3, 32, 32)] * 2
    assert [tuple(crop.shape) for crop in one.local_crops] == [(3, 16, 16)] * 3
    assert_close(list(one.global_crops), list(other.global_crops), rtol=0, atol=0)
    assert not torch.equal(one.global_crops[0], one.global_crops[1])


@pytest.mark.parametrize(("blur", "chances"), [("released", (0.0, 0.9, 0.5)), ("paper", (1.0, 0.1, 0.5))])
def test_blur_happens_by_the_chances_of_the_release_or_of_the_paper(
    blur: Any, chances: tuple[float, float, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    blurred = list[float]()

    def spy(image: Tensor, sigma: float) -> Tensor:
        blurred.append(sigma)
        return image

    monkeypatch.setattr(augment, "gaussian_blur", spy)
    image, rng = photograph(20, 20), np.random.default_rng(0)
    for view, chance in zip(MultiCrop(global_pixels=8, local_pixels=8, blur=blur).views(), chances, strict=True):
        blurred.clear()
        for _ in range(300):
            view.crop(image, rng)
        assert len(blurred) / 300 == pytest.approx(chance, abs=0.09)
        assert all(0.1 <= sigma <= 2.0 for sigma in blurred)


def test_only_the_second_global_crop_is_solarised() -> None:
    assert [view.solarize for view in MultiCrop().views()] == [0.0, 0.2, 0.0]


def test_a_crop_without_any_chance_is_a_resized_box_normalised() -> None:
    class NoChance:
        def random(self) -> float:
            return 1.0

        def uniform(self, low: float, high: float) -> float:
            return (low + high) / 2

        def integers(self, low: int, high: int) -> int:
            return low

    crop = View(8, (1.0, 1.0), blur=0.5, solarize=0.5).crop(np.full((10, 10, 3), 255, np.uint8), NoChance())  # type: ignore[arg-type]
    expected = (1 - torch.tensor(pixels.MEAN)) / torch.tensor(pixels.STD)
    assert_close(crop, expected[:, None, None].expand(3, 8, 8))
