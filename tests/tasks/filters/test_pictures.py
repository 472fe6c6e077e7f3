"""A picture decoded whole is made smaller as one decoded small would be: by means of blocks."""

import numpy as np
import pytest

from tasks.filters.pictures import block_means


@pytest.mark.parametrize(
    ("height", "width", "factor"), [(375, 500, 2), (64, 48, 4), (61, 103, 8), (5, 3, 2), (3, 20, 8), (1, 1, 2)]
)
def test_a_block_is_the_mean_of_the_pixels_that_there_are(height: int, width: int, factor: int) -> None:
    pixels = np.random.default_rng(height).integers(0, 256, (height, width, 3), dtype=np.uint8)
    means = [
        [pixels[y : y + factor, x : x + factor].mean(axis=(0, 1)) for x in range(0, width, factor)]
        for y in range(0, height, factor)
    ]
    found = block_means(pixels, factor)
    assert found.shape == np.shape(means)
    assert np.abs(found - np.array(means)).max() <= 0.5
