"""Reference vectors by name, and small settings that the tests of the trainer share."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

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


@pytest.fixture(autouse=True)
def same_random_numbers() -> None:
    torch.manual_seed(0)
