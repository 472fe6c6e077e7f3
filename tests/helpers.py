"""Tiny inputs that several tests make."""

import io

import numpy as np
from PIL import Image


def jpeg(seed: int, side: int = 96) -> bytes:
    """A small JPEG of smooth noise; equal seeds give equal bytes."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8))
    buffer = io.BytesIO()
    coarse.resize((side, side), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()
