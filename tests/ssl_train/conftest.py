"""Reference vectors by name, and small settings that the tests of the trainer share."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from torch import Tensor

from ssl_train.config import TrainConfig, load_recipe
from storage.images import encode_jpeg

REFERENCE = Path(__file__).parent.parent / "reference"


class Vectors(dict[str, Tensor]):
    """The tensors of one reference file, and its metadata."""

    metadata: dict[str, str]

    def under(self, prefix: str) -> dict[str, Tensor]:
        """Tensors whose name starts with `prefix`, without it."""
        return {name.removeprefix(prefix): tensor for name, tensor in self.items() if name.startswith(prefix)}


@pytest.fixture
def vectors() -> Callable[[str], Vectors]:
    def load(name: str) -> Vectors:
        with safe_open(REFERENCE / f"{name}.safetensors", framework="pt") as file:
            loaded = Vectors({key: file.get_tensor(key) for key in file.keys()})  # noqa: SIM118
            loaded.metadata = file.metadata() or {}
        return loaded

    return load


@pytest.fixture
def facts() -> Callable[[str], Any]:
    return lambda name: json.loads((REFERENCE / f"{name}.json").read_text())


# Tiny tensors: threads would wait for each other longer than they work.
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def same_random_numbers() -> None:
    torch.manual_seed(0)


def photograph(number: int, side: int = 72) -> NDArray[np.uint8]:
    """A picture of two smooth colours and some texture, another for each number."""
    rng = np.random.default_rng(number)
    rows, columns = np.mgrid[0:side, 0:side] / side
    wave = np.sin(rng.uniform(3, 20) * rows + rng.uniform(3, 20) * columns)[..., None]
    picture = 128 + 90 * wave * rng.uniform(-1, 1, 3) + rng.normal(0, 10, (side, side, 3))
    return np.clip(picture, 0, 255).astype(np.uint8)


@pytest.fixture(scope="session")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder with a dozen JPEGs."""
    folder = tmp_path_factory.mktemp("photographs")
    for number in range(12):
        (folder / f"image-{number:02d}.jpg").write_bytes(encode_jpeg(photograph(number), quality=90))
    return str(folder)


@pytest.fixture
def tiny_run(photographs: str, tmp_path: Path) -> Callable[..., TrainConfig]:
    """Configs of runs that take a moment, with `key=value` changes."""

    def configure(*overrides: str) -> TrainConfig:
        small = "{num_prototypes: 32, hidden_dim: 32, bottleneck_dim: 16}"
        return load_recipe(
            "debug",
            [
                f"data.folder={photographs}",
                f"output_dir={tmp_path / 'run'}",
                "num_steps=4",
                "model.image_size=32",
                "augment={global_pixels: 32, local_pixels: 16, num_local: 2}",
                f"method.dino_head={small}",
                f"method.ibot_head={small}",
                "method.group_images=2",
                "data.batch_images=4",
                "checkpoint.every_steps=2",
                *overrides,
            ],
        )

    return configure
