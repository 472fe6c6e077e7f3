"""A copy descriptor without weights: for machines, tests and samples that have none, and as a baseline."""

from typing import Literal

import numpy as np

from tasks.config import StageConfig
from tasks.encoders.base import BuiltEncoder, Floats, OneByOne, Pixels8
from tasks.encoders.pixel_codebook import load_codebook
from tasks.encoders.pixel_features import Codebook, colours, layout, patch_words, trim_frame

# The three parts spread over pictures by 6.75, 1.51 and 3.38 (root mean square distance to the mean, over 1,200 of the
# sample web's scenes); these scales bring that to 1, 1.2 and 0.8.
_WORDS_SCALE, _LAYOUT_SCALE, _COLOURS_SCALE = 0.148, 0.796, 0.237


class Pixels(StageConfig):
    """Shapes of patches, layout and colours, the same for mirror images: needs no weights. Whiten it (`Describe`)."""

    kind: Literal["pixels"] = "pixels"

    def build(self) -> BuiltEncoder:
        """Ready to encode; reads only the codebook that the package carries."""
        return PixelDescriptor()


class PixelDescriptor(OneByOne):
    """Vectors of `dim` numbers that whitening makes into a descriptor: bench/pixels_descriptor.py has its figures."""

    def __init__(self) -> None:
        codebook = load_codebook()
        super().__init__(lambda image: _parts(trim_frame(image), codebook))


def _parts(inside: Pixels8, codebook: Codebook) -> Floats:
    parts = (
        _WORDS_SCALE * patch_words(inside, codebook),
        _LAYOUT_SCALE * layout(inside),
        _COLOURS_SCALE * colours(inside),
    )
    return np.concatenate(parts)
