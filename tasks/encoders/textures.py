"""A semantic embedding without weights: textures, palette and coarse layout, so that neighbours look of one kind."""

from typing import Literal

import cv2
import numpy as np

from tasks.config import StageConfig
from tasks.encoders.base import BuiltEncoder, Floats, OneByOne, Pixels8
from tasks.encoders.pixel_codebook import load_codebook
from tasks.encoders.pixel_features import Codebook, palette, strengths, word_shares


class Textures(StageConfig):
    """What patches, strengths of edges and colours a picture has, wherever they are: needs no weights.

    It stands in for a `vit` where there is none: it tells kinds of scenes apart, not kinds of dogs.
    """

    kind: Literal["textures"] = "textures"

    def build(self) -> BuiltEncoder:
        """Ready to encode; reads only the codebook that the package carries."""
        return TextureEmbedding()


class TextureEmbedding(OneByOne):
    """Vectors of 396 numbers; the cosine of two is near 1 for pictures of one kind."""

    def __init__(self) -> None:
        codebook = load_codebook()
        super().__init__(lambda image: _parts(image, codebook))


def _parts(image: Pixels8, codebook: Codebook) -> Floats:
    coarse = np.asarray(cv2.resize(image, (4, 4), interpolation=cv2.INTER_AREA), dtype=np.float32) / 255 - 0.5
    symmetric = (coarse + coarse[:, ::-1])[:, :2].ravel() / np.sqrt(48)
    return np.concatenate([word_shares(image, codebook), strengths(image), palette(image), 0.5 * symmetric])
