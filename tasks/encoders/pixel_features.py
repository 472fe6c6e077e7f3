"""What the weight-free descriptor measures: shapes of patches wherever they are, layout, and colours.

Everything is the same for a picture and its mirror image. Working sizes are of equal area, so that a picture that was
enlarged, reduced or squeezed a little comes out as before. Positions near the rim weigh less: that is what crops,
frames and captions change.
"""

from functools import lru_cache
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import sliding_window_view

from tasks.encoders.base import Floats, Pixels8, product

SIDES = (128, 90, 64, 45)
"""Square roots of the working areas, a factor of about 1.4 apart."""
BINS = 8
"""Directions of a gradient, over the full turn."""
CELL = 4
"""Pixels across a cell, over which gradients are summed."""
CELLS = 4
"""Cells across a patch: 16 pixels, and 4 * 4 * 8 numbers, as SIFT has them (Lowe, IJCV 2004)."""
NUM_COLOURS = 256
_RIM = 0.25
_FLAT = 15.0

cv2.setNumThreads(1)  # the pictures of a part are spread over workers; threads inside one would only fight


class Codebook(NamedTuple):
    """Patches in few numbers, and the typical ones: see `pixel_codebook`.

    Each direction is its own mirror image up to its sign, and the second half of the words mirrors the first, so that
    what a mirrored picture would give is read off what the picture gave.
    """

    mean: Floats  # [128]
    directions: Floats  # [128, d]
    signs: Floats  # [d], +1 or -1
    words: Floats  # [k, d]


def trim_frame(image: Pixels8, *, tolerance: float = 12.0, max_share: float = 0.25) -> Pixels8:
    """The picture without rows and columns of one colour along its rims (a frame), at most `max_share` on each side."""
    height, width = image.shape[:2]
    turned = image.transpose(1, 0, 2)
    top, bottom = (_frame_lines(lines, int(height * max_share), tolerance) for lines in (image, image[::-1]))
    left, right = (_frame_lines(lines, int(width * max_share), tolerance) for lines in (turned, turned[::-1]))
    return image[top : height - bottom, left : width - right]


def _frame_lines(lines: Pixels8, limit: int, tolerance: float) -> int:
    colour = np.median(lines[0], axis=0).astype(np.int16)
    for line in range(limit):
        if np.mean(np.abs(lines[line].astype(np.int16) - colour).max(axis=1) > tolerance) > 0.02:
            return line
    return limit


def scaled(image: Pixels8, side: int) -> Floats:
    """The picture at an area of side * side pixels, its aspect kept, no side below one patch and a cell."""
    height, width = image.shape[:2]
    scale = side / np.sqrt(height * width)
    least = CELL * (CELLS + 1)
    size = (max(least, round(width * scale)), max(least, round(height * scale)))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), dtype=np.float32)


def opponent(image: Floats) -> Floats:
    """RGB -> lightness, red-green, yellow-blue: [height, width, 3]."""
    red, green, blue = image[..., 0], image[..., 1], image[..., 2]
    return np.stack([(red + green + blue) / 3, (red - green) / 2, (red + green) / 4 - blue / 2], axis=-1)


@lru_cache(maxsize=1)
def _compass() -> tuple[Floats, Floats]:
    angles = 2 * np.pi * np.arange(BINS) / BINS
    return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)


def gradients(lightness: Floats) -> Floats:
    """Strength of the gradient by direction: [height, width, 8]; a direction fades as cos**4 to its sides."""
    along_x = cv2.Sobel(lightness, cv2.CV_32F, 1, 0, ksize=3, scale=0.125)
    along_y = cv2.Sobel(lightness, cv2.CV_32F, 0, 1, ksize=3, scale=0.125)
    cosines, sines = _compass()
    strength = np.sqrt(along_x * along_x + along_y * along_y)[..., None] + 1e-6
    facing = np.maximum(along_x[..., None] * cosines + along_y[..., None] * sines, 0) / strength
    facing *= facing
    facing *= facing
    return np.asarray(facing * strength, dtype=np.float32)


def patches(directed: Floats) -> tuple[Floats, Floats]:
    """All patches at a stride of one cell: [patches, 128], and how much each weighs: [patches], in all 1.

    A patch is divided by its length plus a constant (flat ones stay small), then square-rooted (Arandjelovic and
    Zisserman, CVPR 2012).
    """
    rows, columns = directed.shape[0] // CELL, directed.shape[1] // CELL
    cells = cv2.resize(directed[: rows * CELL, : columns * CELL], (columns, rows), interpolation=cv2.INTER_AREA)
    windows = sliding_window_view(np.asarray(cells), (CELLS, CELLS), axis=(0, 1)).transpose(0, 1, 3, 4, 2)
    flat = windows.reshape(windows.shape[0] * windows.shape[1], -1)
    weights = np.outer(centre_weights(windows.shape[0]), centre_weights(windows.shape[1])).ravel()
    lengths = np.linalg.norm(flat, axis=1, keepdims=True)
    return np.sqrt(flat / (lengths + _FLAT)), (weights / weights.sum()).astype(np.float32)


@lru_cache(maxsize=256)
def centre_weights(count: int) -> npt.NDArray[np.float64]:
    """Weights of `count` places across the picture: 1 in the middle, towards a quarter at the rim."""
    places = np.linspace(-1, 1, count + 2)[1:-1]
    return np.asarray(_RIM + (1 - _RIM) * np.cos(places * np.pi / 2) ** 2)


def mirror_permutation() -> npt.NDArray[np.int64]:
    """patch[mirror_permutation()] is the patch of the mirrored picture."""
    index = np.arange(CELLS * CELLS * BINS).reshape(CELLS, CELLS, BINS)[:, ::-1]
    return index[..., [(BINS // 2 - direction) % BINS for direction in range(BINS)]].ravel()


def patch_words(image: Pixels8, codebook: Codebook) -> Floats:
    """How the patches near each word of the codebook differ from it: [k * d] (VLAD, Jegou et al., CVPR 2010).

    Summed over four scales, each word's sum at unit length, the picture and its mirror image together.
    """
    k, d = codebook.words.shape
    total = np.zeros((k, d), dtype=np.float32)
    for side in SIDES:
        described, weights = patches(gradients(opponent(scaled(image, side))[..., 0]))
        reduced, nearest = _nearest_words(described, codebook)
        membership = np.zeros((len(nearest), k), dtype=np.float32)
        membership[np.arange(len(nearest)), nearest] = weights
        total += product(membership.T, reduced) - membership.sum(axis=0)[:, None] * codebook.words
    mirrored = np.concatenate([total[k // 2 :], total[: k // 2]]) * codebook.signs
    both = total + mirrored
    return np.asarray(both / (np.linalg.norm(both, axis=1, keepdims=True) + 1e-3), dtype=np.float32).ravel()


def _nearest_words(described: Floats, codebook: Codebook) -> tuple[Floats, npt.NDArray[np.int64]]:
    """Patches in the codebook's few numbers [patches, d], and the nearest word of each."""
    reduced = product(described - codebook.mean, codebook.directions)
    offsets = 0.5 * (codebook.words**2).sum(axis=1)
    return reduced, (product(reduced, codebook.words.T) - offsets).argmax(axis=1)


def word_shares(image: Pixels8, codebook: Codebook) -> Floats:
    """How often each word of the codebook occurs at each scale, with its mirror image: [4 * k / 2], roots of shares."""
    k = len(codebook.words)
    shares = []
    for side in SIDES:
        described, weights = patches(gradients(opponent(scaled(image, side))[..., 0]))
        _, nearest = _nearest_words(described, codebook)
        shares.append(np.bincount(nearest % (k // 2), weights, minlength=k // 2))
    return np.sqrt(np.concatenate(shares)).astype(np.float32)


def strengths(image: Pixels8) -> Floats:
    """How strong gradients are at each scale: shares of seven octaves, roots: [4 * 7]."""
    shares = []
    for side in SIDES:
        total = gradients(opponent(scaled(image, side))[..., 0]).sum(axis=-1)
        octave = np.clip(np.log2(total + 1e-6) + 1, 0, 6.999).astype(np.int64)
        shares.append(np.bincount(octave.ravel(), minlength=7) / octave.size)
    return np.sqrt(np.concatenate(shares)).astype(np.float32)


def palette(image: Pixels8) -> Floats:
    """Shares of hue by saturation by value, roots, colours spread over neighbouring hues: [12 * 4 * 4]."""
    small = cv2.resize(image, (64, 64), interpolation=cv2.INTER_AREA)
    hue, saturation, value = (np.asarray(band, dtype=np.int64).ravel() for band in np.moveaxis(_hsv(small), -1, 0))
    cell = (hue // 15) * 16 + (saturation // 64) * 4 + value // 64
    shares = np.bincount(cell, minlength=192).reshape(12, 16) / len(cell)
    spread = 0.5 * shares + 0.25 * (np.roll(shares, 1, axis=0) + np.roll(shares, -1, axis=0))
    return np.sqrt(spread).astype(np.float32).ravel()


def _hsv(image: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
    return np.asarray(cv2.cvtColor(np.asarray(image, dtype=np.uint8), cv2.COLOR_RGB2HSV))  # hue in 0..179


def layout(image: Pixels8) -> Floats:
    """Where light, colours and gradients lie, at 8, 4 and 2 cells across: [912]; each part at unit length.

    Light and colours are counted from their mean in units of their deviation, so that exposure and tint drop out.
    """
    square = np.asarray(cv2.resize(image, (64, 64), interpolation=cv2.INTER_AREA), dtype=np.float32)
    channels = opponent(square)
    directed = gradients(channels[..., 0]) ** 0.75
    relative = (channels - channels.mean(axis=(0, 1))) / (channels.std(axis=(0, 1)) + 8.0)
    turned = [(BINS // 2 - direction) % BINS for direction in range(BINS)]
    parts = [_folded(relative, cells, slice(None)) for cells in (8, 4)]
    parts += [_folded(directed, cells, turned) for cells in (8, 4, 2)]
    return np.concatenate(parts)


def _folded(maps: Floats, cells: int, turned: slice | list[int]) -> Floats:
    """Means of cells [cells, cells, channels], the left half and the mirrored right one as mean and difference."""
    means = np.asarray(cv2.resize(maps, (cells, cells), interpolation=cv2.INTER_AREA))
    mirrored = means[:, ::-1][..., turned]
    half = slice(0, cells // 2)
    even, odd = (means + mirrored)[:, half] / 2, np.abs(means - mirrored)[:, half] / 2
    both = np.concatenate([even.ravel(), odd.ravel()])
    return np.asarray(both / (np.linalg.norm(both) + 1e-6), dtype=np.float32)


@lru_cache(maxsize=1)
def _waves() -> tuple[Floats, Floats]:
    """Random Fourier features of two widths (Rahimi and Recht, NIPS 2007): [3, 256], [256]."""
    random = np.random.Generator(np.random.PCG64(5))
    half = NUM_COLOURS // 2
    waves = np.concatenate([random.normal(size=(3, half)) / width for width in (0.5, 1.0)], axis=1)
    return waves.astype(np.float32), random.uniform(0, 2 * np.pi, NUM_COLOURS).astype(np.float32)


def colours(image: Pixels8) -> Floats:
    """The distribution of colours, wherever they lie, relative to their mean and deviation: [256]."""
    small = np.asarray(cv2.resize(image, (32, 32), interpolation=cv2.INTER_AREA), dtype=np.float32)
    points = opponent(small).reshape(-1, 3)
    points = (points - points.mean(axis=0)) / (points.std(axis=0) + 6.0)
    weights = np.outer(centre_weights(32), centre_weights(32)).reshape(1, -1)
    waves, phases = _waves()
    return product((weights / weights.sum()).astype(np.float32), np.cos(product(points, waves) + phases))[0]
