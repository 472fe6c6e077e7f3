"""One small sample web for all tests of it; built once."""

from pathlib import Path

import pytest

from examples.sample_web import SampleWeb, build_sample_web

NUM_IMAGES, NUM_PAGES = 180, 16


@pytest.fixture(scope="session")
def web(tmp_path_factory: pytest.TempPathFactory) -> SampleWeb:
    directory: Path = tmp_path_factory.mktemp("sample_web")
    return build_sample_web(directory, seed=7, num_images=NUM_IMAGES, num_pages=NUM_PAGES)
