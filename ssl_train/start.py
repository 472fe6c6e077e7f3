"""Where a run's weights come from, when not from chance: a backbone from a file, with its heads, or another run."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, cast

import torch
from pydantic import ConfigDict, Field
from torch import Tensor, nn

from ssl_train.errors import CheckpointError
from ssl_train.models import Backbone
from ssl_train.models.heads import named_heads
from ssl_train.models.load import read_backbone, read_tensors

# What a network may have that a file's has not: they begin as they do in a new network.
_MAY_BE_NEW = frozenset({"mask_token", "register_tokens"})


@dataclass(frozen=True)
class Weights:
    """A file of weights."""

    __pydantic_config__ = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    path: str
    """Path or URL of a .safetensors or .pth file: an export of this trainer, or a published checkpoint."""
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None
    """Its checksum; a URL must have one."""


@dataclass(frozen=True)
class Start:
    """The weights that a run begins with: a further phase (high resolution), or another set of images."""

    __pydantic_config__ = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    backbone: Weights
    """The backbone, of student and teacher alike; positions are interpolated to another image size."""
    heads: Weights | None = None
    """The heads that were exported beside it (heads.safetensors); null begins with new ones."""


def begin_with(networks: Iterable[nn.ModuleDict], start: Start) -> None:
    """Put the weights of `start` into each of the networks. Raises CheckpointError when they do not fit."""
    networks = list(networks)
    loaded = read_backbone(start.backbone.path, start.backbone.sha256).network
    heads = read_heads(start.heads) if start.heads is not None else {}
    for modules in networks:
        put_backbone(modules["backbone"], loaded, start.backbone.path)
        if start.heads is not None:
            put_heads(modules, heads, start.heads.path)


@torch.no_grad()
def put_backbone(backbone: nn.Module, loaded: Backbone, path: str) -> None:
    """Copy a backbone's weights into another of the same width and depth, whatever the size of their images."""
    state = cast(Backbone, backbone).fitted(loaded)
    own = backbone.state_dict()
    missing = sorted(own.keys() - state.keys() - _MAY_BE_NEW)
    other = sorted(name for name in own.keys() & state.keys() if own[name].shape != state[name].shape)
    unexpected = sorted(state.keys() - own.keys() - _MAY_BE_NEW)
    if missing or other or unexpected:
        raise CheckpointError(
            f"start.backbone = {path} is no backbone for this model (missing {missing[:3]}, of another shape "
            f"{other[:3]}, unexpected {unexpected[:3]}). Set `model` to what the file was made with."
        )
    backbone.load_state_dict({name: state.get(name, tensor) for name, tensor in own.items()}, strict=True)


def read_heads(weights: Weights) -> dict[str, Tensor]:
    """The tensors of an exported file of heads, by "<head>.<name>". Raises CheckpointError when it holds none."""
    tensors = named_heads(read_tensors(weights.path, weights.sha256)[0])
    if not tensors:
        raise CheckpointError(
            f"{weights.path} is no file of heads. Give the heads.safetensors that lies beside an exported teacher, or "
            "a full checkpoint of DINO or iBOT; published backbones come without heads."
        )
    return tensors


@torch.no_grad()
def put_heads(modules: nn.ModuleDict, tensors: Mapping[str, Tensor], path: str) -> None:
    """Copy the heads' tensors into the heads of the same names. Raises CheckpointError when they do not fit."""
    given = {name.split(".")[0] for name in tensors}
    # A teacher has no predictor (MoCo v3, BYOL), so its file has none either: that head begins anew.
    heads = {n: module for n, module in modules.items() if n != "backbone" and (n in given or n != "predictor_head")}
    own: dict[str, Any] = {f"{name}.{key}": t for name, head in heads.items() for key, t in head.state_dict().items()}
    wrong = sorted(own.keys() ^ tensors.keys())
    wrong += [
        f"{key} is {list(tensors[key].shape)}, should be {list(own[key].shape)}"
        for key in sorted(own.keys() & tensors.keys())
        if own[key].shape != tensors[key].shape
    ]
    if wrong:
        raise CheckpointError(
            f"the heads in {path} are not this method's: {'; '.join(wrong[:4])}. Set the method's heads to what they "
            "were made with."
        )
    for name, head in heads.items():
        found = {key: tensors[f"{name}.{key}"] for key in head.state_dict()}
        head.load_state_dict({k: t.float() if t.is_floating_point() else t for k, t in found.items()}, strict=True)
