"""A small trained copy descriptor that the package carries: for machines without downloads.

What `pixels` measures of a picture, under a projection that was trained by SSCD's objective (Pizzi et al., CVPR 2022)
on copies of pictures that this project draws: directions in which copies differ count little, those in which pictures
differ count much. No photograph was used, so that no rights but the project's own are on it. docs/copy_descriptor.md
has its figures and those of what was tried beside it; `python -m bench.sscd_small --write` makes the file anew.
"""

from collections.abc import Sequence
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Literal

import numpy as np
from safetensors.numpy import load

from tasks.algorithms.whitening import Whitening
from tasks.config import StageConfig
from tasks.encoders.base import BuiltEncoder, EncoderUnavailable, Floats, Pixels8, bounded_threads, unit
from tasks.encoders.pixels import Pixels

PATH = Path(__file__).with_name("sscd_small.safetensors")
SHA256 = "f984775674823eb32567116785a71f367547082126b4ffdb73d5cee0a5d79df8"
"""Of the file of `version`."""


class SscdSmall(StageConfig):
    """A small descriptor for finding copies, trained for it; its weights come with the package."""

    kind: Literal["sscd_small"] = "sscd_small"
    version: Literal[1] = 1
    """Of its weights: a stage that was made with others is not reused."""

    def build(self) -> BuiltEncoder:
        """Ready to encode. Raises EncoderUnavailable when the package's file was changed."""
        return SmallDescriptor()


class SmallDescriptor:
    """Unit vectors on the scale of the pipeline's thresholds, whitened further on a pool or not."""

    num_threads = 1
    batches_at_a_time = 1
    batch_images = 256  # rows that a projection takes at a time

    def __init__(self) -> None:
        self._pixels, self._projection = Pixels().build(), load_projection()
        self.dim, self.min_side = self._projection.out_dim, self._pixels.min_side

    def prepare(self, image: Pixels8) -> Floats:
        """What `pixels` measures."""
        measured: Floats = self._pixels.prepare(image)
        return measured

    def finish(self, prepared: Sequence[Floats]) -> Floats:
        """Measurements -> [len(prepared), dim] of unit length; a row does not depend on those beside it."""
        if not prepared:
            return np.zeros((0, self.dim), dtype=np.float32)
        return self._projection(unit(np.stack(prepared)))

    def encode(self, images: Sequence[Pixels8]) -> Floats:
        """RGB pictures [height, width, 3] -> [len(images), dim] of unit length."""
        with bounded_threads(self.num_threads):
            return self.finish([self.prepare(image) for image in images])


@lru_cache(maxsize=1)
def load_projection() -> Whitening:
    """The projection that the package carries. Raises EncoderUnavailable when it is another file."""
    data = PATH.read_bytes()
    if sha256(data).hexdigest() != SHA256:
        raise EncoderUnavailable(f"{PATH} is not the file of this version ({SHA256}): install the package again.")
    tensors = load(data)
    mean, matrix = (tensors[name].astype(np.float32) for name in ("mean", "matrix"))
    return Whitening(mean, matrix, float(tensors["offset"][0]))
