"""What all tests share: quiet Prefect of their own, small thread counts, an empty run folder."""

import gc
import os
import tempfile
from pathlib import Path

os.environ["PREFECT_HOME"] = tempfile.mkdtemp(prefix="prefect-tests-")  # never the user's own profile or database
os.environ.setdefault("PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW", "ignore")
os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest

from storage.layout import Layout

gc.disable()  # until all tests are imported: a quarter of the time of that is looking through what stays for good


def pytest_collection_finish() -> None:
    """From here on only what the tests make is looked through."""
    gc.collect()
    gc.freeze()
    gc.enable()


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    """An empty run folder."""
    return Layout(str(tmp_path / "run"))
