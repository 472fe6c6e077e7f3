"""64-bit PCA hash: the signs of an image's projections on the 64 main directions of all images.

"Signs of a PCA to 64 dimensions" is the one public definition (MetaCLIP, Xu et al. 2023, arXiv 2309.16671, appendix A);
DINOv2 names the hash and does not define it. There the PCA is of a descriptor network's features (`feature_levels`
makes bytes of them); of downscaled gray pixels, the other reading, it needs no network. Both are rows of bytes here,
which are called thumbnails.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8, UInt64

NUM_BITS = 64


_SCALE = 2.0**24
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Pca:
    """Directions of largest variance, largest first, and the mean thumbnail's projection on each.

    Directions are whole numbers (unit vectors times 2^24, rounded), so that a projection of bytes is a whole number
    too, exact in float64: equal thumbnails have equal hashes, whatever stands beside them and on any machine.
    """

    directions: Float[np.ndarray, "bits pixels"]
    thresholds: Float[np.ndarray, " bits"]


def fit_pca(
    blocks: Iterable[UInt8[np.ndarray, "_ pixels"]], *, num_bits: int = NUM_BITS, min_deviation: float = 8.0
) -> Pca:
    """Mean and main directions of thumbnails given as blocks of uint8 pixels.

    Sums and products of bytes are whole numbers, exact in float64 up to 10^11 images: they do not depend on the order
    or the size of the blocks. Directions have their largest component positive. A direction along which the images
    spread by less than `min_deviation` levels (standard deviation) is made zero, and so is its bit: the little that a
    copy differs by would decide it. That happens when images are few.
    Memory: 8 bytes x pixels^2 (8 MB at 32 x 32). Time: pixels^2 per image. Raises ValueError without a single image.
    """
    count, total, products = 0, np.zeros(0), np.zeros((0, 0))
    for block in blocks:
        rows = block.astype(np.float64)
        if not count:
            total, products = np.zeros(rows.shape[1]), np.zeros((rows.shape[1], rows.shape[1]))
        count += len(rows)
        total += rows.sum(axis=0)
        products += rows.T @ rows
    if not count:
        raise ValueError("a PCA needs at least one thumbnail")
    mean = total / count
    variances, vectors = _spectrum(products / count - np.outer(mean, mean))
    order = np.argsort(-variances, kind="stable")[:num_bits]
    directions = vectors[:, order].T
    largest = directions[np.arange(len(directions)), np.abs(directions).argmax(axis=1)]
    directions = np.rint(directions * np.sign(largest)[:, None] * _SCALE)
    directions[variances[order] < min_deviation**2] = 0
    return Pca(directions, directions @ mean)


def _spectrum(
    covariance: Float[np.ndarray, "pixels pixels"],
) -> tuple[Float[np.ndarray, " pixels"], Float[np.ndarray, "pixels pixels"]]:
    """Eigenvalues, ascending, and eigenvectors in columns.

    On one thread (0.2 s at 1,024 pixels): where other processes share the cores, two threads wait for each other at
    every one of LAPACK's small steps and take up to 50 times as long.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        values, vectors = torch.linalg.eigh(torch.from_numpy(covariance))
    finally:
        torch.set_num_threads(threads)
    return values.numpy(), vectors.numpy()


def hash_thumbnails(thumbnails: UInt8[np.ndarray, "images pixels"], pca: Pca) -> UInt64[np.ndarray, " images"]:
    """Bit b (least significant first) of an image's hash is 1 where it lies beyond the mean in direction b."""
    return pack_bits(thumbnails.astype(np.float64) @ pca.directions.T > pca.thresholds)


def pack_bits(bits: Bool[np.ndarray, "images bits"]) -> UInt64[np.ndarray, " images"]:
    """Up to 64 bits a row as one integer, column 0 least significant."""
    weights = np.uint64(1) << np.arange(bits.shape[1], dtype=np.uint64)
    return np.asarray((bits * weights).sum(axis=1, dtype=np.uint64))


def feature_levels(features: Float[np.ndarray, "images dim"]) -> UInt8[np.ndarray, "images dim"]:
    """Features of unit length as bytes, for the PCA and the hash: 128 is 0, and 16 levels are 1 / sqrt(dim), what a
    component is when all are equally long. Beyond 8 times that it is cut off. A network says of one picture the same
    up to rounding; as bytes that is, nearly always, the very same."""
    scaled = 128 + 16 * np.sqrt(features.shape[1]) * features.astype(np.float64)
    return np.asarray(np.clip(np.rint(scaled), 0, 255), np.uint8)


def contrasts(thumbnails: UInt8[np.ndarray, "images pixels"]) -> Float[np.ndarray, " images"]:
    """Standard deviation of each thumbnail's pixels, in levels of 0..255. Without contrast, signs are noise."""
    return np.asarray(thumbnails.std(axis=1, dtype=np.float64))


def verified_groups(
    hashes: UInt64[np.ndarray, " images"],
    thumbnails: UInt8[np.ndarray, "images pixels"],
    *,
    min_correlation: float,
) -> tuple[Int[np.ndarray, " images"], Float[np.ndarray, " images"]]:
    """For images in order of preference: the position of the keeper of each (itself if it stays), and the correlation.

    An image belongs to the first kept image of equal hash whose thumbnail correlates with its own by `min_correlation`
    or more (Pearson, over pixels); without one it stays and is a keeper. Different pictures may share a hash; they do
    not share a thumbnail. The slow truth is that sentence, image by image.
    Time: per group of equal hash, images x keepers. Memory: 4 bytes x pixels per image given.
    """
    keeper, correlation = np.arange(len(hashes)), np.ones(len(hashes))
    order = np.argsort(hashes, kind="stable")
    changes = np.flatnonzero(hashes[order][1:] != hashes[order][:-1]) + 1
    for group in np.split(order, changes):
        units = _standardised(thumbnails[group])
        kept: list[int] = []
        for member, unit in enumerate(units):
            likeness = units[kept] @ unit
            alike = np.flatnonzero(likeness >= min_correlation - _ROUNDING)
            if alike.size:
                keeper[group[member]] = group[kept[alike[0]]]
                correlation[group[member]] = min(float(likeness[alike[0]]), 1.0)
            else:
                kept.append(member)
    return keeper, correlation


def correlations(
    one: UInt8[np.ndarray, "pairs pixels"], other: UInt8[np.ndarray, "pairs pixels"]
) -> Float[np.ndarray, " pairs"]:
    """Pearson's correlation of each row of `one` with the same row of `other`."""
    return np.asarray(np.einsum("pi,pi->p", _standardised(one), _standardised(other)))


def _standardised(thumbnails: UInt8[np.ndarray, "images pixels"]) -> Float[np.ndarray, "images pixels"]:
    """Rows of mean 0 and length 1: a product of two is their correlation. Flat rows are like each other only."""
    centred = thumbnails - thumbnails.mean(axis=1, keepdims=True)
    lengths = np.linalg.norm(centred, axis=1, keepdims=True)
    flat = np.full_like(centred, thumbnails.shape[1] ** -0.5)
    return np.asarray(np.divide(centred, lengths, out=flat, where=lengths > 0))
