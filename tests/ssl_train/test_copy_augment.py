"""Copies of an image: the same by the same chance, edited as they say, and as good from a picture decoded smaller."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.testing import assert_close

from ssl_train.config import TrainConfig
from ssl_train.data import copy_edits
from ssl_train.data.copy_augment import CopyCrops
from ssl_train.data.copy_edits import Drawing, Frame, Text
from ssl_train.data.pixels import normalise, to_unit
from ssl_train.distributed import World
from ssl_train.trainer import build_batches
from tests.ssl_train.conftest import photograph

PLAIN = CopyCrops(
    global_pixels=32,
    global_scale=(1.0, 1.0),
    flip=0,
    quarter_turn=0,
    text=0,
    drawing=0,
    turn=0,
    jitter=0,
    gray=0,
    blur=0,
    jpeg=0,
)
"""Nothing happens to an image of four to three or squarer, but that it is resized."""


def changed(**chances: object) -> CopyCrops:
    return CopyCrops(**{**vars(PLAIN), **chances})  # type: ignore[arg-type]


def copies(augment: CopyCrops, image: NDArray[np.uint8], seed: int = 0) -> list[Tensor]:
    rng = np.random.default_rng(seed)
    return list(augment.crops(image, augment.plan(*image.shape[:2], rng)).global_crops)


def resized(image: NDArray[np.uint8]) -> Tensor:
    """What is left when nothing is edited: the image at its side."""
    return copies(PLAIN, image)[0]


def test_an_image_to_which_nothing_happens_is_only_resized() -> None:
    image = photograph(0, 32)
    first, second = copies(PLAIN, image)
    assert_close(first, normalise(to_unit(torch.from_numpy(image).permute(2, 0, 1))))
    assert torch.equal(first, second)


def test_copies_depend_on_the_chance_alone_and_differ_from_each_other() -> None:
    augment, image = CopyCrops(global_pixels=48, frame=0.3), photograph(1, 90)
    first, again, other = (copies(augment, image, seed) for seed in (1, 1, 2))
    assert all(torch.equal(one, two) for one, two in zip(first, again, strict=True))
    assert not torch.equal(first[0], other[0])
    assert not torch.equal(*first)
    assert all(one.shape == (3, 48, 48) and one.isfinite().all() for one in first)


def test_a_mirrored_copy_is_the_mirrored_image() -> None:
    image = photograph(2, 32)
    assert_close(copies(changed(flip=1.0), image)[0], resized(image).flip(-1))


def test_a_quarter_turn_loses_nothing() -> None:
    image = photograph(3, 32)
    found = copies(changed(quarter_turn=1.0), image)[0]
    assert any(torch.equal(found, resized(image).rot90(turns, (1, 2))) for turns in (1, 2, 3))


@pytest.mark.parametrize("edit", ["text", "drawing", "turn", "frame", "jitter", "gray", "blur", "jpeg"])
def test_every_edit_changes_the_copy_and_leaves_the_image(edit: str) -> None:
    image = photograph(4, 64)
    before = image.copy()
    found = copies(changed(**{edit: 1.0}), image)[0]
    assert (found - resized(image)).abs().mean() > 1e-3
    assert np.array_equal(image, before)


def test_one_chance_does_not_change_what_another_draws() -> None:
    plan, framed = (changed(turn=1.0, text=chance).plan(64, 64, np.random.default_rng(0)) for chance in (0, 1))
    assert plan.copies[0].text is None
    assert framed.copies[0]._replace(text=None) == plan.copies[0]


@pytest.mark.parametrize("degrees", [0, 90, 180, 270, 30, 211])
def test_a_turned_picture_has_the_size_that_was_planned_for(degrees: float) -> None:
    image = photograph(6, 60)[:40]
    height, width = copy_edits.turned(image, degrees).shape[:2]
    planned = copy_edits.turned_size(40, 60, degrees)
    assert abs(planned[0] - height) <= 1
    assert abs(planned[1] - width) <= 1


def test_text_and_drawings_touch_only_their_own_place() -> None:
    gray = np.full((100, 160, 3), 100, np.uint8)
    line = Text("copy", size=0.2, place=(1.0, 0.0), colour=(255, 0, 0), opacity=1.0)
    written = copy_edits.with_text(gray, line)
    touched = np.argwhere((written != gray).any(-1))
    assert touched[:, 0].max() < 30
    assert touched[:, 1].min() > 60
    assert written[..., 0].max() == 255
    half = copy_edits.with_text(gray, line._replace(opacity=0.5))
    assert abs(int(half[..., 0].max()) - 177) <= 2  # half of the way from 100 to 255
    for shape in range(len(copy_edits.SHAPES)):
        drawing = Drawing(shape, size=0.5, place=(0.0, 1.0), colours=((0, 255, 0), (0, 0, 255)), opacity=1.0)
        drawn = copy_edits.with_drawing(gray, drawing)
        touched = np.argwhere((drawn != gray).any(-1))
        assert touched[:, 0].min() >= 50
        assert touched[:, 1].max() < 50
        assert 0.08 < len(touched) / 50**2 < 0.9


def test_what_is_larger_than_the_picture_is_cut_off() -> None:
    tiny = np.zeros((5, 7, 3), np.uint8)
    line = Text("a long line of text", size=0.3, place=(0.5, 0.5), colour=(255, 255, 255), opacity=1.0)
    assert copy_edits.with_text(tiny, line).shape == tiny.shape
    drawing = Drawing(0, size=0.1, place=(0.5, 0.5), colours=((1, 2, 3), (4, 5, 6)), opacity=1.0)
    assert copy_edits.with_drawing(tiny, drawing).shape == tiny.shape


def test_a_frame_is_a_rim_of_one_colour_around_the_picture() -> None:
    image = photograph(7, 50)
    framed = copy_edits.with_frame(image, Frame(0.1, (1, 2, 3)))
    assert framed.shape == (60, 60, 3)
    assert np.array_equal(framed[5:-5, 5:-5], image)
    assert (framed[:5] == (1, 2, 3)).all()


def test_low_quality_loses_more_than_high() -> None:
    image = photograph(8, 64)
    errors = [np.abs(copy_edits.stored(image, quality).astype(int) - image).mean() for quality in (5, 50, 95)]
    assert errors == sorted(errors, reverse=True)


def test_a_picture_decoded_smaller_gives_nearly_the_same_copies() -> None:
    smooth = np.kron(photograph(9, 48), np.ones((8, 8, 1))).astype(np.uint8)  # 384 pixels, nothing finer than 8
    small = smooth[::4, ::4]
    augment = changed(text=1.0, drawing=1.0, frame=1.0, global_scale=(0.5, 1.0))
    for seed in range(4):
        plan = augment.plan(384, 384, np.random.default_rng(seed))
        assert plan.reduction() == 8
        whole = augment.crops(smooth, plan).global_crops[0]
        less = augment.crops(small, plan.on_grid(4, 384, 384).reduced(4)).global_crops[0]
        assert (whole - less).abs().mean() < 0.2  # of a standard deviation of colours


def test_no_copy_is_enlarged_for_being_decoded_smaller() -> None:
    augment = CopyCrops(global_pixels=32)
    for seed in range(40):
        plan = augment.plan(500, 300, np.random.default_rng(seed))
        factor = plan.reduction()
        assert all(copy.shorter_pixels >= factor * 32 for copy in plan.copies) or factor == 1


def test_a_trainers_batches_are_made_of_copies(tiny_run: Callable[..., TrainConfig]) -> None:
    config = tiny_run(
        "model={kind: resnet, size: tiny, image_size: 32}",
        "method={kind: sscd, descriptor_dim: 16}",
        "augment={kind: copies, global_pixels: 32, frame: 0.5}",
    )
    batches = build_batches(config, World(0, 1, torch.device("cpu")))
    first, again = batches[1], batches[1]
    assert first.global_crops.shape == (8, 3, 32, 32)
    assert len(first.local_crops) == 0
    assert torch.equal(first.global_crops, again.global_crops)
    assert not torch.equal(first.global_crops[0], first.global_crops[4])  # two copies of one image
