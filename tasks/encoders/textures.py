"""A semantic embedding without weights: textures, palette and coarse layout, so that neighbours look of one kind."""

from collections.abc import Sequence
from typing import Literal

import cv2
import numpy as np

from tasks.config import StageConfig
from tasks.encoders.base import BuiltEncoder, Floats, Pixels8, bounded_threads, unit
from tasks.encoders.pixel_codebook import load_codebook
from tasks.encoders.pixel_features import palette, strengths, word_shares


class Textures(StageConfig):
    """What patches, strengths of edges and colours a picture has, wherever they are: needs no weights.

    It stands in for a `vit` where there is none: it tells kinds of scenes apart, not kinds of dogs.
    """

    kind: Literal["textures"] = "textures"

    def build(self) -> BuiltEncoder:
        """Ready to encode; reads only the codebook that the package carries."""
        return TextureEmbedding()


class TextureEmbedding:
    """Vectors of 396 numbers; the cosine of two is near 1 for pictures of one kind."""

    min_side = 128

    def __init__(self) -> None:
        self._codebook = load_codebook()
        self.dim = len(self._describe(np.zeros((32, 32, 3), dtype=np.uint8)))

    def encode(self, images: Sequence[Pixels8]) -> Floats:
        """RGB pictures [height, width, 3] -> [len(images), dim] of unit length."""
        if not images:
            return np.zeros((0, self.dim), dtype=np.float32)
        with bounded_threads(1):
            return unit(np.stack([self._describe(image) for image in images]))

    def _describe(self, image: Pixels8) -> Floats:
        coarse = np.asarray(cv2.resize(image, (4, 4), interpolation=cv2.INTER_AREA), dtype=np.float32) / 255 - 0.5
        symmetric = (coarse + coarse[:, ::-1])[:, :2].ravel() / np.sqrt(48)
        return np.concatenate([word_shares(image, self._codebook), strengths(image), palette(image), 0.5 * symmetric])
