"""Torch's antialiased resize against Pillow's, and against means where the answer is known."""

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from examples.sample_web.concepts import CONCEPTS, render_scene
from tasks.algorithms.resized import Filter, resized

Bytes = NDArray[np.uint8]
SCENE = render_scene(CONCEPTS[0], 3, (400, 300))
NOISE = np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8)
PILLOW = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


def _pillows(pixels: Bytes, height: int, width: int, method: Filter) -> NDArray[np.int64]:
    return np.asarray(Image.fromarray(pixels).resize((width, height), PILLOW[method])).astype(np.int64)


@pytest.mark.parametrize("method", ["bilinear", "bicubic"])
@pytest.mark.parametrize(("height", "width"), [(200, 267), (256, 341), (37, 399), (300, 20), (150, 200), (1, 1)])
def test_smaller_is_pillows_within_a_level(height: int, width: int, method: Filter) -> None:
    for pixels, overshoots in ((SCENE, False), (NOISE, method == "bicubic"), (SCENE[..., 1].copy(), False)):
        found = resized(pixels, height=height, width=width, method=method)
        assert found.shape == (height, width, *pixels.shape[2:])
        assert found.flags.c_contiguous
        assert np.abs(found - _pillows(pixels, height, width, method)).max() <= (3 if overshoots else 1)


@pytest.mark.parametrize("method", ["bilinear", "bicubic"])
def test_larger_is_pillows_up_to_where_it_clips(method: Filter) -> None:
    for pixels, most in ((SCENE, 4), (SCENE[..., 0].copy(), 4)):
        off = np.abs(resized(pixels, height=700, width=500, method=method) - _pillows(pixels, 700, 500, method))
        assert off.max() <= (1 if method == "bilinear" else most)
        assert (off > 1).mean() < 0.001


@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 900, 3), (900, 1, 3), (1, 7), (5000, 2, 3)])
def test_sides_of_a_pixel_and_long_thin_pictures_are_resized_too(shape: tuple[int, ...]) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8)
    for height, width in ((1, 1), (8, 5), (1, 60), (60, 1)):
        off = np.abs(resized(pixels, height=height, width=width, method="bilinear")
                     - _pillows(pixels, height, width, "bilinear"))  # fmt: skip
        assert off.max() <= 1


def test_views_and_read_only_arrays_are_taken_and_left_as_they_are() -> None:
    for view in (NOISE[::2, ::-1], NOISE[10:200, 5:300], NOISE.swapaxes(0, 1), NOISE[..., ::-1], NOISE[..., 2]):
        before = view.copy()
        view.flags.writeable = False
        assert np.array_equal(resized(view, height=90, width=70), resized(before, height=90, width=70))
        assert np.array_equal(view, before)


def test_a_picture_of_the_wanted_size_stays_and_no_pixel_is_refused() -> None:
    assert np.array_equal(resized(SCENE, height=300, width=400), SCENE)
    for height, width in ((0, 3), (3, 0)):
        with pytest.raises(ValueError, match=f"to {width}x{height}"):
            resized(SCENE, height=height, width=width)
