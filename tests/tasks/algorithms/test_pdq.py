"""PDQ is what its publishers' code computes, and keeps its hash where a person sees the same picture."""

import numpy as np
import pytest

from tasks.algorithms.pdq import MAX_DISTANCE, pdq_hash, tent_downsample


def picture(seed: int, height: int, width: int) -> np.ndarray:
    """Twelve waves of any direction: smooth, and the same on every machine but for the last digit."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width] / max(height, width)
    drawn = [rng.uniform(0.2, 1, 12), *(rng.uniform(-9, 9, 12) for _ in range(2)), rng.uniform(0, 6, 12)]
    field = sum(a * np.sin(2 * np.pi * (u * x + v * y) + p) for a, u, v, p in zip(*drawn, strict=True))
    return np.rint((field - field.min()) / (field.max() - field.min()) * 255).astype(np.uint8)


def distance(one: bytes, other: bytes) -> int:
    return (int.from_bytes(one) ^ int.from_bytes(other)).bit_count()


# By pdqhash 0.2.8, which wraps the publishers' C++, on these arrays as RGB.
@pytest.mark.parametrize(
    ("seed", "height", "width", "published"),
    [
        (0, 512, 512, "b3eb14f1baeb9eeb10411ce310d31feb4acbe06149237a826516effc2034e4bc"),
        (1, 512, 512, "0568aabff5aa4f031aea36838a7d562bfc0ea954bf68ba5514e811d454ea133e"),
        (3, 300, 200, "f81a52a6074b52b1475a52a546affc0dadc8f812ad47a5f1f3f4a559f01b454a"),
        (4, 64, 64, "4adfe780351a7780370a7fea3bca85e07abdaa95703d05187bb2d5959a32a911"),
        (5, 768, 1024, "7afb42b9ffffc23a7aaaf0384547480160223515153bf56980dc3f4680dc35ee"),
    ],
)
def test_the_hash_is_the_publishers(seed: int, height: int, width: int, published: str) -> None:
    digest, quality = pdq_hash(picture(seed, height, width))
    assert distance(digest, bytes.fromhex(published)) <= 2  # a bit at the median may turn with the last digit
    assert quality == 100


def test_half_of_the_bits_are_set() -> None:
    for seed in range(4):
        assert int.from_bytes(pdq_hash(picture(seed, 200, 300))[0]).bit_count() == 128


def test_brightness_and_size_hardly_change_the_hash_and_another_picture_does() -> None:
    image = picture(6, 512, 512)
    seen = pdq_hash(image)[0]
    darker = pdq_hash((image * 0.8 + 10).astype(np.uint8))[0]
    halved = pdq_hash(image.reshape(256, 2, 256, 2).mean(axis=(1, 3)).round().astype(np.uint8))[0]
    assert distance(seen, darker) <= 10
    assert distance(seen, halved) <= 10
    assert distance(seen, pdq_hash(picture(7, 512, 512))[0]) > 2 * MAX_DISTANCE


def test_a_plain_image_has_no_quality_and_a_tiny_one_no_hash() -> None:
    assert pdq_hash(np.full((100, 100), 128, np.uint8))[1] == 0
    assert pdq_hash(np.zeros((4, 100), np.uint8)) == (bytes(32), 0)


@pytest.mark.parametrize(("height", "width"), [(5, 7), (64, 64), (65, 200), (333, 127), (512, 640)])
def test_the_samples_are_those_of_two_box_filters(height: int, width: int) -> None:
    """The slow truth: filter every pixel of every row and column twice, then take 64 x 64 of them."""

    def box(line: np.ndarray) -> np.ndarray:
        window = (len(line) + 127) // 128
        half = (window + 2) // 2
        return np.array([line[max(0, i + half - window) : i + half].mean() for i in range(len(line))])

    image = picture(8, height, width).astype(float)
    for _ in range(2):
        image = np.apply_along_axis(box, 1, np.apply_along_axis(box, 0, image))
    rows, columns = (((np.arange(64) + 0.5) * size / 64).astype(int) for size in (height, width))
    small = tent_downsample(picture(8, height, width))
    np.testing.assert_allclose(small, image[np.ix_(rows, columns)], atol=1e-3)
