"""Means of areas against whole-number arithmetic written out, and the share of content against its definition."""

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from tasks.algorithms.area_mean import area_mean
from tasks.algorithms.content_share import content_share

Bytes = NDArray[np.uint8]


def _noise(*shape: int) -> Bytes:
    return np.random.default_rng(sum(shape)).integers(0, 256, shape, dtype=np.uint8)


def _covered(size: int, side: int) -> NDArray[np.int64]:
    """How much of each pixel every cell covers, in pixels / side: [side, size]."""
    cells, pixels = np.arange(side)[:, None] * size, np.arange(size)[None] * side
    return np.clip(np.minimum(cells + size, pixels + side) - np.maximum(cells, pixels), 0, None)


@pytest.mark.parametrize(
    ("height", "width"), [(188, 250), (256, 192), (128, 128), (129, 3000), (33, 31), (1, 1), (1, 500), (3, 7), (32, 32)]
)
def test_every_cell_is_the_exact_mean_of_its_area_with_halves_to_the_even_byte(height: int, width: int) -> None:
    gray = _noise(height, width)
    sums = _covered(height, 32) @ gray.astype(np.int64) @ _covered(width, 32).T
    whole, rest = np.divmod(sums, height * width)
    up = (2 * rest > height * width) | ((2 * rest == height * width) & (whole % 2 == 1))
    found = area_mean(gray, 32)
    assert found.shape == (1024,)
    assert np.array_equal(found, (whole + up).reshape(-1))


def test_means_are_opencvs_up_to_the_rounding_of_its_floats() -> None:
    for height, width in ((188, 250), (375, 500), (192, 256), (511, 130)):
        gray = _noise(height, width)
        theirs = cv2.resize(gray, (32, 32), interpolation=cv2.INTER_AREA).reshape(-1)
        off = area_mean(gray, 32).astype(int) - theirs
        assert np.abs(off).max() <= 1
        assert (off != 0).mean() < 0.01


def test_views_have_the_means_of_their_copies_and_no_pixels_are_refused() -> None:
    gray = _noise(300, 400)
    for view in (gray[::2, ::-1], gray.T, gray[7:200, 3:390]):
        assert np.array_equal(area_mean(view, 32), area_mean(view.copy(), 32))
    with pytest.raises(ValueError, match="0 x 5"):
        area_mean(np.empty((0, 5), np.uint8), 32)


def _slow_share(pixels: Bytes, levels: int, side: int) -> float:
    """The definition, cell by cell: means of the whole pixels whose middles lie in the cell."""
    scale = min(1.0, side / max(pixels.shape[:2]))
    cuts = []
    for size in pixels.shape[:2]:
        parts = max(1, round(size * scale))
        middles = 2 * np.arange(size) + 1  # in half pixels
        cuts.append([np.flatnonzero((middles * parts >= 2 * i * size) & (middles * parts < 2 * (i + 1) * size))
                     for i in range(parts)])  # fmt: skip
    means = [
        pixels[np.ix_(rows, columns)].mean(axis=(0, 1), dtype=np.float64) for rows in cuts[0] for columns in cuts[1]
    ]
    colours = np.floor(np.array(means) + 0.5)
    median = np.sort(colours, axis=0)[len(colours) // 2]
    return float((np.abs(colours - median).max(axis=1) > levels).mean())


@pytest.mark.parametrize(
    ("height", "width"), [(47, 62), (40, 50), (33, 32), (1, 90), (90, 1), (1, 1), (20, 31), (65, 64)]
)
def test_the_content_share_is_what_its_definition_says(height: int, width: int) -> None:
    pixels = _noise(height, width, 3) // 4  # 0..63: medians and means near each other
    for levels in (0, 3, 12, 31, 255):
        assert content_share(pixels, levels=levels, side=32) == pytest.approx(_slow_share(pixels, levels, 32), abs=0)


def test_the_content_share_is_the_share_of_pixels_off_the_median() -> None:
    picture = np.zeros((100, 100, 3), np.uint8)
    picture[:30, :, 1] = 13
    assert content_share(picture, levels=12, side=128) == pytest.approx(0.3)
    assert content_share(picture, levels=13, side=128) == 0
    assert content_share(255 - picture, levels=12, side=128) == pytest.approx(0.3)
