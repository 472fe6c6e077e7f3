"""What all tests share: quiet Prefect, small thread counts, an empty run folder."""

import os
from pathlib import Path

os.environ.setdefault("PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW", "ignore")
os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest

from storage.layout import Layout


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    """An empty run folder."""
    return Layout(str(tmp_path / "run"))
