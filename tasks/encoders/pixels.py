"""A copy descriptor without weights: for machines, tests and samples that have none, and as a baseline."""

from collections.abc import Sequence
from typing import Literal

import numpy as np

from tasks.config import StageConfig
from tasks.encoders.base import BuiltEncoder, Floats, Pixels8, bounded_threads, unit
from tasks.encoders.pixel_codebook import load_codebook
from tasks.encoders.pixel_features import colours, layout, patch_words, trim_frame

# The three parts spread over pictures by 6.75, 1.51 and 3.38 (root mean square distance to the mean, over 1,200 of the
# sample web's scenes); these scales bring that to 1, 1.2 and 0.8.
_WORDS_SCALE, _LAYOUT_SCALE, _COLOURS_SCALE = 0.148, 0.796, 0.237


class Pixels(StageConfig):
    """Shapes of patches, layout and colours, the same for mirror images: needs no weights. Whiten it (`Describe`)."""

    kind: Literal["pixels"] = "pixels"

    def build(self) -> BuiltEncoder:
        """Ready to encode; reads only the codebook that the package carries."""
        return PixelDescriptor()


class PixelDescriptor:
    """Vectors of `dim` numbers that whitening makes into a descriptor: bench/pixels_descriptor.py has its figures."""

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
        inside = trim_frame(image)
        parts = (
            _WORDS_SCALE * patch_words(inside, self._codebook),
            _LAYOUT_SCALE * layout(inside),
            _COLOURS_SCALE * colours(inside),
        )
        return np.concatenate(parts)
