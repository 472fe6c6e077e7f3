"""One Prefect server, one small sample web and one finished run for all tests of the flows."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from prefect.settings import PREFECT_API_URL
from prefect.testing.utilities import prefect_test_harness

from examples.sample_web import SampleWeb, build_sample_web
from examples.sample_web.flow import sample_config
from examples.sample_web.server import serve_sample_web
from flows.config import CurateConfig
from flows.curate_lvd import CuratedRun, curate_lvd

STEPS = 4


@dataclass(frozen=True)
class Served:
    """The sample web, and where it is served."""

    web: SampleWeb
    address: str

    def config(self, root: Path, **changes: object) -> CurateConfig:
        """The sample's run in `root`: small parts, a training of a few steps."""
        content = sample_config(self.web, root=str(root), address=self.address).model_dump(mode="json")
        content["url_policy"]["urls_per_part"] = 40
        content["cluster"]["num_clusters"] = 12
        content["shuffle"]["samples_per_shard"] = 20
        content["retrieve"]["per_cluster"] = 10
        small = ["model.image_size=32", "augment.global_pixels=32", "augment.local_pixels=16"]
        content["pretrain"]["overrides"] = [f"num_steps={STEPS}", "checkpoint.every_steps=2", *small]
        content["workers"] = {"num_workers": 0}  # a process of its own reads torch for longer than its parts take
        return CurateConfig.model_validate(content | changes)


def write_config(config: CurateConfig, path: Path) -> Path:
    """The config as a YAML file that `curate-lvd run` reads."""
    path.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    return path


@pytest.fixture(scope="session")
def prefect_server() -> Iterator[str]:
    """The API address of a Prefect server of the tests' own."""
    with prefect_test_harness(server_startup_timeout=180):
        yield str(PREFECT_API_URL.value())


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A small sample web with every planted case."""
    web = build_sample_web(tmp_path_factory.mktemp("web") / "web", num_images=200, num_pages=20)
    with serve_sample_web(web.directory) as address:
        yield Served(web, address)


@dataclass(frozen=True)
class Finished:
    """A run that ended well."""

    root: Path
    config: CurateConfig
    run: CuratedRun


@pytest.fixture(scope="session")
def finished(served: Served, prefect_server: str, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """The whole chain on the small web, uninterrupted."""
    assert prefect_server
    root = tmp_path_factory.mktemp("runs") / "lvd"
    config = served.config(root)
    return Finished(root, config, curate_lvd(config))
