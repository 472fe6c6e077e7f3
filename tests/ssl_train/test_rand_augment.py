import math
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageOps
from torch.testing import assert_close

from ssl_train.data import pixels
from ssl_train.data import rand_augment as ra
from ssl_train.data.labelled import Labelled, LabelledPlan, ThreeAugment, ThreeDraw
from ssl_train.data.mix import Mix
from ssl_train.data.pixels import Box
from ssl_train.data.rand_augment import CHANGES, FILL, Change, RandAugment

Picture = NDArray[np.uint8]


def photograph(height: int = 40, width: int = 56, seed: int = 0) -> Picture:
    rng = np.random.default_rng(seed)
    smooth = np.kron(rng.integers(0, 256, (height // 8, width // 8, 3)), np.ones((8, 8, 1)))
    return np.clip(smooth + rng.normal(0, 12, smooth.shape), 0, 255).astype(np.uint8)


NARROW = (photograph() // 3 + 40).astype(np.uint8)
FLAT = np.full((16, 16, 3), 77, np.uint8)
PICTURES = {
    "photograph": photograph(),
    "narrow": NARROW,
    "flat": FLAT,
    "two levels": (photograph() > 128) * np.uint8(200),
}
PILLOW: dict[str, tuple[Callable[[Picture], Picture], Callable[[Image.Image], Image.Image]]] = {
    "auto_contrast": (ra.auto_contrast, ImageOps.autocontrast),
    "equalize": (ra.equalize, ImageOps.equalize),
    "invert": (ra.invert, ImageOps.invert),
    "posterize 1": (lambda x: ra.posterize(x, 1), lambda x: ImageOps.posterize(x, 1)),
    "posterize 3": (lambda x: ra.posterize(x, 3), lambda x: ImageOps.posterize(x, 3)),
    "solarize 0": (lambda x: ra.solarize(x, 0), lambda x: ImageOps.solarize(x, 0)),
    "solarize 26": (lambda x: ra.solarize(x, 26), lambda x: ImageOps.solarize(x, 26)),
    "solarize 256": (lambda x: ra.solarize(x, 256), lambda x: ImageOps.solarize(x, 256)),
    **{
        f"{name} {factor}": (
            lambda x, ours=ours, factor=factor: ours(x, factor),
            lambda x, theirs=theirs, factor=factor: theirs(x).enhance(factor),
        )
        for name, ours, theirs in (
            ("colour", ra.scale_colour, ImageEnhance.Color),
            ("contrast", ra.scale_contrast, ImageEnhance.Contrast),
            ("brightness", ra.scale_brightness, ImageEnhance.Brightness),
            ("sharpness", ra.scale_sharpness, ImageEnhance.Sharpness),
        )
        for factor in (0.1, 0.73, 1.0, 1.31, 1.9)
    },
}  # fmt: skip


@pytest.mark.parametrize("picture", PICTURES)
@pytest.mark.parametrize("change", PILLOW)
def test_a_change_of_levels_gives_the_bytes_that_pillow_gives(change: str, picture: str) -> None:
    ours, theirs = PILLOW[change]
    expected = np.asarray(theirs(Image.fromarray(PICTURES[picture])))
    np.testing.assert_array_equal(ours(PICTURES[picture]), expected)


def test_posterized_to_no_bits_is_black_and_solarize_add_raises_the_dark_half_alone() -> None:
    assert ra.posterize(photograph(), 0).max() == 0
    picture = np.arange(256, dtype=np.uint8).repeat(3).reshape(16, 16, 3)
    expected = [[min(255, level + 110) if level < 128 else level] * 3 for level in range(256)]
    np.testing.assert_array_equal(ra.solarize_add(picture, 110).reshape(256, 3), expected)


@pytest.mark.parametrize("degrees", [-30.0, 7.3, 0.0])
def test_turned_as_pillow_turns(degrees: float) -> None:
    picture = photograph()
    image = Image.fromarray(picture).rotate(degrees, Image.Resampling.BICUBIC, fillcolor=FILL)
    np.testing.assert_array_equal(ra.rotate(picture, degrees), np.asarray(image))


def cubic(x: float) -> float:
    """The kernel of PIL's transforms: Keys' with a = -1 (its resizing has -1/2)."""
    x = abs(x)
    return x**3 - 2 * x**2 + 1 if x < 1 else -(x**3) + 5 * x**2 - 8 * x + 4 if x < 2 else 0.0


def moved_pixel_by_pixel(picture: Picture, matrix: tuple[float, ...]) -> NDArray[np.float64]:
    """The slow truth of `affine`: the middle of every pixel, taken back, and sixteen neighbours there."""
    a, b, c, d, e, f = matrix
    height, width = picture.shape[:2]
    out = np.empty(picture.shape)
    for row in range(height):
        for column in range(width):
            x, y = (a * (column + 0.5) + b * (row + 0.5) + c, d * (column + 0.5) + e * (row + 0.5) + f)
            if not (0 <= x < width and 0 <= y < height):
                out[row, column] = FILL
                continue
            left, top = math.floor(x - 0.5), math.floor(y - 0.5)
            total = np.zeros(3)
            for v in range(top - 1, top + 3):
                for u in range(left - 1, left + 3):
                    weight = cubic(x - 0.5 - u) * cubic(y - 0.5 - v)
                    total += weight * picture[min(max(v, 0), height - 1), min(max(u, 0), width - 1)]
            out[row, column] = total.clip(0, 255)
    return out


@pytest.mark.parametrize(
    ("name", "sign"), [("shear_x", 1), ("shear_y", -1), ("shift_x", -1), ("shift_y", 1), ("rotate", 1)]
)
def test_what_moves_pixels_is_a_cubic_interpolation_at_the_places_that_they_come_from(name: str, sign: int) -> None:
    picture, share = photograph(16, 24), 0.9
    turn = -math.radians(sign * share * 30)
    cos, sin = math.cos(turn), math.sin(turn)
    matrix = {
        "shear_x": (1, sign * share * 0.3, 0, 0, 1, 0),
        "shear_y": (1, 0, 0, sign * share * 0.3, 1, 0),
        "shift_x": (1, 0, sign * share * 0.45 * 24, 0, 1, 0),
        "shift_y": (1, 0, 0, 0, 1, sign * share * 0.45 * 16),
        "rotate": (cos, sin, 12 - cos * 12 - sin * 8, -sin, cos, 8 + sin * 12 - cos * 8),
    }[name]
    moved = Change(name, 10 * share, sign).of(picture)
    assert np.abs(moved - moved_pixel_by_pixel(picture, matrix)).max() <= 1
    assert (moved != picture).any()


def test_a_magnitude_means_what_the_published_recipes_mean_by_it() -> None:
    picture = photograph()
    for sign, factor in ((1, 1.81), (-1, 0.19)):
        changed = Change("brightness", 9.0, sign).of(picture)
        np.testing.assert_array_equal(changed, ra.scale_brightness(picture, factor))
    np.testing.assert_array_equal(Change("contrast", 10.0, -1).of(picture), ra.scale_contrast(picture, 0.1))
    np.testing.assert_array_equal(Change("posterize", 9.0, 1).of(picture), ra.posterize(picture, 1))
    np.testing.assert_array_equal(Change("solarize", 9.0, 1).of(picture), ra.solarize(picture, 26))
    np.testing.assert_array_equal(Change("solarize_add", 9.0, 1).of(picture), ra.solarize_add(picture, 99))


def test_changes_are_drawn_alike_half_of_the_time_with_strengths_around_nine() -> None:
    rng = np.random.default_rng(0)
    drawn = [RandAugment().draw(rng) for _ in range(4000)]
    changes = [change for image in drawn for change in image]
    assert len(changes) / 8000 == pytest.approx(0.5, abs=0.02)
    counts = Counter(change.name for change in changes)
    assert counts.keys() == CHANGES.keys()
    assert len(CHANGES) == 15
    assert all(count == pytest.approx(len(changes) / 15, rel=0.25) for count in counts.values())
    magnitudes = np.array([change.magnitude for change in changes])
    assert magnitudes.mean() == pytest.approx(9, abs=0.05)
    assert magnitudes.std() == pytest.approx(0.5, abs=0.05)
    assert magnitudes.max() <= 10
    assert np.mean([change.sign for change in changes]) == pytest.approx(0, abs=0.05)


def test_chance_comes_from_the_generator_alone_and_an_image_takes_as_much_of_it_as_any_other() -> None:
    one, other = (Labelled(pixels=24, mix=None, erase=1.0) for _ in range(2))
    first = one.plan(60, 80, np.random.default_rng(5))
    assert first == other.plan(60, 80, np.random.default_rng(5))
    assert first != other.plan(60, 80, np.random.default_rng(6))
    picture = photograph(56, 80)
    assert torch.equal(one.crops(picture, first).global_crops[0], other.crops(picture, first).global_crops[0])
    for settings in (RandAugment(), RandAugment(chance=1.0), ThreeAugment()):
        rng, same = np.random.default_rng(0), np.random.default_rng(0)
        settings.draw(rng), settings.draw(same)
        assert rng.random() == same.random()


def plan_of(**changes: object) -> LabelledPlan:
    plan = Labelled(pixels=32, colours=None, erase=0.0, flip=0.0).plan(32, 32, np.random.default_rng(0))
    whole = plan.boxes._replace(boxes=(Box(0, 0, 32, 32),))
    return plan._replace(boxes=whole, **changes)


def crop_of(picture: Picture, plan: LabelledPlan) -> torch.Tensor:
    (crop,) = Labelled(pixels=32).crops(picture, plan).global_crops
    return crop


def test_a_crop_is_cut_flipped_changed_normalised_and_erased_in_this_order() -> None:
    picture = photograph(32, 32)
    plain = crop_of(picture, plan_of())
    assert_close(plain, pixels.normalise(pixels.to_unit(torch.from_numpy(picture).permute(2, 0, 1))))
    assert torch.equal(crop_of(picture, plan_of(is_flipped=True)), plain.flip(-1))
    changes = (Change("invert", 9.0, 1), Change("brightness", 9.0, -1))
    expected = ra.scale_brightness(ra.invert(picture[:, ::-1]), 0.19)
    changed = crop_of(picture, plan_of(is_flipped=True, changes=changes))
    assert_close(changed, pixels.normalise(pixels.to_unit(torch.from_numpy(expected.copy()).permute(2, 0, 1))))
    box = Box(3, 5, 10, 20)
    erased = crop_of(picture, plan_of(erased=box))
    inside = torch.zeros(32, 32, dtype=torch.bool)
    inside[3:13, 5:25] = True
    assert torch.equal(erased[:, ~inside], plain[:, ~inside])
    assert erased[:, inside].mean().abs() < 0.15
    assert erased[:, inside].std() == pytest.approx(1, abs=0.15)


def test_erased_rectangles_have_the_published_areas_and_aspects() -> None:
    rng = np.random.default_rng(0)
    boxes = [box for _ in range(2000) if (box := ra.draw_erased(200, rng)) is not None]
    areas = np.array([box.height * box.width for box in boxes]) / 200**2
    aspects = np.array([box.height / box.width for box in boxes])
    assert 0.018 < areas.min() < 0.03
    assert 0.3 < areas.max() < 0.34
    assert 0.29 < aspects.min() < 0.35
    assert 2.9 < aspects.max() < 3.5
    assert all(box.top + box.height <= 200 and box.left + box.width <= 200 for box in boxes)


@pytest.mark.parametrize("choice", ["gray", "solarize", "blur"])
def test_three_augment_makes_one_of_three_changes_then_jitters_in_its_order(choice: str) -> None:
    image = pixels.to_unit(torch.from_numpy(photograph(32, 32)).permute(2, 0, 1))
    draw = ThreeDraw(choice, 1.2, ((1, 0.8), (0, 1.2), (2, 1.1)))  # type: ignore[arg-type]
    first = {
        "gray": pixels.to_gray(image),
        "solarize": pixels.solarize(image),
        "blur": pixels.gaussian_blur(image, 1.2),
    }[choice]
    expected = pixels.scale_saturation(pixels.scale_brightness(pixels.scale_contrast(first, 0.8), 1.2), 1.1)
    assert_close(draw.of(image), expected)
    picture = photograph(32, 32)
    assert_close(crop_of(picture, plan_of(changes=draw)), pixels.normalise(expected))


def test_three_augment_draws_its_three_alike() -> None:
    rng = np.random.default_rng(0)
    drawn = [ThreeAugment().draw(rng) for _ in range(1500)]
    assert all(count == pytest.approx(500, rel=0.2) for count in Counter(draw.choice for draw in drawn).values())
    factors = np.array([factor for draw in drawn for _, factor in draw.jitters])
    assert 0.7 <= factors.min() < 0.71
    assert 1.29 < factors.max() <= 1.3
    assert len({tuple(number for number, _ in draw.jitters) for draw in drawn}) == 6


def simply_cut(picture: Picture, rng: np.random.Generator) -> torch.Tensor:
    settings = Labelled(pixels=32, cut="simple", colours=None, erase=0.0, flip=0.0, mix=None)
    (crop,) = settings.crops(picture, settings.plan(*picture.shape[:2], rng)).global_crops
    return crop


def test_a_simple_cut_is_a_window_of_the_image_with_its_mirrored_margin() -> None:
    """At its own size: every crop is one of the windows of the padded image, and all of them come."""
    picture = photograph(32, 48)
    padded = np.pad(picture, ((4, 4), (4, 4), (0, 0)), mode="reflect")
    windows = {
        padded[top : top + 32, left : left + 32].tobytes(): (top, left) for top in range(9) for left in range(25)
    }
    rng = np.random.default_rng(0)
    mean, std = (torch.tensor(numbers)[:, None, None] for numbers in (pixels.MEAN, pixels.STD))
    seen = set()
    for _ in range(600):
        crop = (simply_cut(picture, rng) * std + mean).mul(255).round().byte().permute(1, 2, 0)
        place = windows.get(crop.contiguous().numpy().tobytes())
        if place is None:  # a mirrored margin of the window is not that of the image where the image goes on
            continue
        seen.add(place)
    assert {top for top, _ in seen} == set(range(9))
    assert {left for _, left in seen} == set(range(25))


def test_the_defaults_are_those_of_the_published_recipes() -> None:
    settings = Labelled()
    assert settings.colours == RandAugment(num_changes=2, magnitude=9, magnitude_deviation=0.5, chance=0.5)
    assert settings.mix == Mix(mixup=0.8, cutmix=1.0, chance=1.0, cutmix_chance=0.5, each="batch")
    assert (settings.scale, settings.erase, settings.flip) == ((0.08, 1.0), 0.25, 0.5)
    assert (settings.global_pixels, settings.local_pixels, settings.num_local) == (224, 224, 0)
