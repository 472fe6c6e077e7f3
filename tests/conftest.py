"""What all tests share: quiet Prefect, small thread counts, tiny images."""

import io
import os
from pathlib import Path

os.environ.setdefault("PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW", "ignore")
os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
os.environ.setdefault("OMP_NUM_THREADS", "2")

import numpy as np
import pytest
from PIL import Image

from storage.layout import Layout


def jpeg(seed: int, side: int = 96) -> bytes:
    """A small JPEG of smooth noise; equal seeds give equal bytes."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8))
    buffer = io.BytesIO()
    coarse.resize((side, side), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    """An empty run folder."""
    return Layout(str(tmp_path / "run"))
