"""Where the codebook of patches comes from: pictures of random overlapping shapes, no photograph and no download.

"Dead leaves" (Lee, Mumford and Huang, IJCV 2001) have the edges, corners and scales of natural pictures. The codebook
is made once and carried as a file, because every machine must describe with the same one:

    python -c "from tasks.encoders.pixel_codebook import write_codebook; write_codebook()"
"""

from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
from safetensors.numpy import load_file, save_file

from tasks.algorithms.blocks import InMemory
from tasks.algorithms.kmeans import assign
from tasks.encoders.base import Floats, Pixels8
from tasks.encoders.pixel_features import Codebook, gradients, mirror_permutation, opponent, patches, scaled

PATH = Path(__file__).with_name("pixel_codebook.safetensors")


@lru_cache(maxsize=1)
def load_codebook() -> Codebook:
    """The codebook that the package carries."""
    return Codebook(**load_file(PATH))


def make_codebook(*, num_pictures: int = 150, num_words: int = 64, dim: int = 48) -> Codebook:
    """PCA of the patches of dead leaves and their mirror images, and k-means of half the words, then mirrored."""
    random = np.random.Generator(np.random.PCG64(0))
    found = []
    for seed in range(num_pictures):
        picture = dead_leaves(seed)
        for side in (128, 90, 64):
            described, _ = patches(gradients(opponent(scaled(picture, side))[..., 0]))
            found.append(described[random.choice(len(described), 100, replace=False)])
    sample = np.concatenate(found)
    mirror = mirror_permutation()
    mean = (sample.mean(axis=0) + sample.mean(axis=0)[mirror]) / 2
    centred = (sample - mean).astype(np.float64)
    spread = centred.T @ centred
    # Mirroring commutes with this matrix, so every eigenvector of a simple eigenvalue is even or odd under it.
    _, directions = np.linalg.eigh(spread + spread[mirror][:, mirror])
    directions = directions[:, ::-1][:, :dim]
    signs = np.sign((directions[mirror] * directions).sum(axis=0))
    words = _kmeans((centred @ directions).astype(np.float32), num_words // 2)
    both = np.concatenate([words, words * signs])
    as_floats = (np.ascontiguousarray(array, dtype=np.float32) for array in (mean, directions, signs, both))
    return Codebook(*as_floats)


def _kmeans(points: Floats, num: int, iterations: int = 20) -> Floats:
    """Plain k-means: squared distances as products with one more dimension."""
    centres = points[np.random.Generator(np.random.PCG64(1)).choice(len(points), num, replace=False)]
    extended = InMemory(np.concatenate([points, np.ones((len(points), 1), np.float32)], axis=1))
    for _ in range(iterations):
        lifted = np.concatenate([centres, -0.5 * (centres**2).sum(axis=1, keepdims=True)], axis=1)
        labels = np.concatenate([labels for _, labels, _ in assign(extended, lifted)])
        centres = np.stack([points[labels == label].mean(axis=0) for label in range(num)])
    return centres


def dead_leaves(seed: int, size: int = 160, num_shapes: int = 220) -> Pixels8:
    """Discs, boxes and triangles of random sizes and colours over each other, blurred, with grain: [size, size, 3]."""
    random = np.random.Generator(np.random.PCG64(seed))
    canvas = np.zeros((size, size, 3), dtype=np.float32)
    for _ in range(num_shapes):
        radius = min(4 * (1 - random.random()) ** -0.7, size * 0.6)
        centre, colour = random.uniform(0, size, 2), random.uniform(0, 255, 3).tolist()
        shape = random.integers(3)
        if shape == 0:
            cv2.circle(canvas, (int(centre[0]), int(centre[1])), int(radius), colour, -1, cv2.LINE_AA)
            continue
        turn, flat = random.uniform(0, 2 * np.pi), random.uniform(0.3, 1.0)
        box = turn + np.array([flat, -flat, np.pi + flat, np.pi - flat])
        angles = random.uniform(0, 2 * np.pi, 3) if shape == 1 else box
        corners = centre + radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)
        cv2.fillPoly(canvas, [corners.astype(np.int32)], colour, cv2.LINE_AA)
    blurred = np.asarray(cv2.GaussianBlur(canvas, (0, 0), random.uniform(0.4, 1.5)), dtype=np.float32)
    grain = random.normal(0, random.uniform(3, 25), (size // 2, size // 2)).astype(np.float32)
    blurred += np.asarray(cv2.resize(grain, (size, size)))[..., None]
    return np.clip(blurred, 0, 255).astype(np.uint8)


def write_codebook() -> None:
    """Makes the file anew; every descriptor changes with it."""
    save_file(dict(make_codebook()._asdict()), PATH)
