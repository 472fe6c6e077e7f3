"""Read a backbone from a file: our teacher exports, and published checkpoints under their own names."""

import argparse
import json
import pickle
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any, NamedTuple

import torch
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ssl_train.errors import CheckpointError
from ssl_train.models.backbone import Backbone
from ssl_train.models.internimage import infer_internimage
from ssl_train.models.model import Model
from ssl_train.models.resnet import infer_resnet
from ssl_train.models.vit import Vit
from ssl_train.models.vit_published import as_mocov3, from_deit3, infer_vit
from storage.filesystem import fetch_verified, file_sha256, is_url

METADATA = "ssl_train"
"""Name of the safetensors metadata entry that holds the backbone's config, and other facts, as JSON."""

# Wrappers a state dict may lie in, and prefixes its names may carry, outermost first.
_ENVELOPES = ("teacher", "model", "state_dict")
_PREFIXES = ("module.", "_orig_mod.", "teacher.", "backbone.", "module.", "base_encoder.", "momentum_encoder.")
_MOCOV3 = ("base_encoder.", "momentum_encoder.")
# First parts of names, with or without "_head", that are no part of a backbone: heads, the student beside a teacher.
_HEADS = frozenset(
    {"head", "fc", "dino", "ibot", "student", "projection", "prototypes", "predictor", "momentum_encoder", "queue"}
    | {"conv", "class", "dcnv3_head_x3", "dcnv3_head_x4", "clip_projector", "fc_norm"}  # InternImage's
)
# Sharded training of DINOv2 writes block 3 of chunk 0 as `blocks.0.3.`.
_CHUNKED_BLOCK = re.compile(r"^blocks\.\d+\.(\d+)\.")
# A tensor that only one family has, and what reads that family's architecture off its tensors.
_INFERRED_BY: dict[str, Callable[[Mapping[str, Tensor], str], Model]] = {
    "patch_embed.proj.weight": infer_vit,
    "patch_embed.proj.0.weight": infer_vit,  # a convolutional stem
    "layer1.0.conv1.weight": infer_resnet,
    "levels.0.blocks.0.dcn.input_proj.weight": infer_internimage,
}


class Loaded(NamedTuple):
    """A backbone from a file, its architecture, and what else the file says of itself (`step`, `seed`)."""

    network: Backbone
    model: Model
    facts: Mapping[str, Any]


def load_backbone(path: str, sha256: str | None = None, *, model: Model | None = None) -> Backbone:
    """The backbone in `path` (.safetensors or .pth; a local path, or a URL with its `sha256`), in eval mode.

    `model` says the architecture; left out, it is read from the file's metadata or inferred from the tensors' shapes.
    A .pth is read without running code from it. Raises CheckpointError when the file is missing, of no known kind or
    of another architecture, and storage's ChecksumMismatch when its bytes are others.
    """
    return read_backbone(path, sha256, model=model).network


def read_backbone(path: str, sha256: str | None = None, *, model: Model | None = None) -> Loaded:
    """`load_backbone`, with the architecture that was found and what the file says of itself."""
    state, metadata = read_tensors(path, sha256)
    is_mocov3 = any(name.removeprefix("module.").startswith(_MOCOV3) for name in state)
    state, facts = plain_names(state), json.loads(metadata.get(METADATA, "{}"))
    model = model or _named_model(facts, path) or infer_model(state, path)
    if is_mocov3 and isinstance(model, Vit):
        model = as_mocov3(model)
    with torch.device("meta"):  # no time spent on initial weights that are replaced at once
        network = model.build()
    _load_strictly(network, state, path)
    return Loaded(network.eval(), model, facts)


def read_tensors(path: str, sha256: str | None = None) -> tuple[dict[str, Tensor], dict[str, str]]:
    """A file's tensors by name, and its metadata; no code in it is run. Raises CheckpointError, ChecksumMismatch."""
    return _read(_local_copy(path, sha256), path)


def plain_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The backbone's tensors of a checkpoint under their own names: wrappers stripped, heads and student left out."""
    names = list(state)
    for prefix in _PREFIXES:
        inner = [name for name in names if name.startswith(prefix)]
        if inner:
            state = {name.removeprefix(prefix): state[name] for name in inner}
            names = list(state)
    kept = {_CHUNKED_BLOCK.sub(r"blocks.\1.", name): tensor for name, tensor in state.items() if not _is_head(name)}
    # iBOT's name for it
    return from_deit3({("mask_token" if name == "masked_embed" else name): tensor for name, tensor in kept.items()})


def infer_model(state: Mapping[str, Tensor], path: str = "the state dict") -> Model:
    """The architecture that a state dict belongs to, by its tensors' names and shapes. Raises CheckpointError."""
    for name, infer in _INFERRED_BY.items():
        if name in state:
            return infer(state, path)
    raise CheckpointError(
        f"{path} holds no backbone that is known: none of {', '.join(_INFERRED_BY)} is among its {len(state)} tensors "
        f"({', '.join(list(state)[:4])}, ...). Give a published checkpoint of a known family, or one of our exports."
    )


def describe(model: Model, **facts: Any) -> dict[str, str]:
    """Safetensors metadata from which `load_backbone` rebuilds the network, with other facts beside it.

    One entry only: safetensors writes several in an order that changes, and equal networks should give equal files.
    """
    return {METADATA: json.dumps({"model": asdict(model), **facts}, sort_keys=True)}


def _local_copy(path: str, sha256: str | None) -> str:
    if sha256:
        return fetch_verified(path, sha256)
    if is_url(path):
        raise CheckpointError(f"{path} is fetched from elsewhere: give its `sha256`, so that its content is sure.")
    try:
        open(path, "rb").close()
    except OSError as error:
        raise CheckpointError(f"no checkpoint at {path}: {error.strerror}. Check the path.") from error
    return path


def _read(local: str, name: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    if name.endswith(".safetensors"):
        return _read_safetensors(local, name)
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):  # DINO's `args`: a plain container of settings
            content = torch.load(local, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise CheckpointError(
            f"{name} cannot be read as a plain file of tensors: {str(error).splitlines()[0]}. Fetch it again; if it "
            "holds Python objects beside tensors, convert it to .safetensors where you trust it."
        ) from error
    for envelope in _ENVELOPES:
        if isinstance(content, dict) and isinstance(content.get(envelope), dict):
            content = content[envelope]
    if not isinstance(content, dict):
        raise CheckpointError(f"{name} holds a {type(content).__name__}, not a dictionary of tensors.")
    return {key: tensor for key, tensor in content.items() if isinstance(tensor, Tensor)}, {}


def _read_safetensors(local: str, name: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(local, framework="pt") as file:
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (the handle is no mapping)
            return state, file.metadata() or {}
    except SafetensorError as error:
        size, checksum = file_sha256(local)
        raise CheckpointError(
            f"{name} ({size} bytes, SHA-256 {checksum}) is no whole .safetensors file: {error}. Fetch it again."
        ) from error


def _named_model(facts: Mapping[str, Any], name: str) -> Model | None:
    if "model" not in facts:
        return None
    try:
        model: Model = TypeAdapter(Model).validate_python(facts["model"])
        return model
    except ValidationError as error:
        raise CheckpointError(
            f"{name} was exported by a version whose `model` this one does not know: {error}. Pass `model` explicitly."
        ) from error


def _is_head(name: str) -> bool:
    return name.split(".")[0].removesuffix("_head") in _HEADS


def _load_strictly(network: Backbone, state: Mapping[str, Tensor], path: str) -> None:
    own = network.state_dict()
    wrong = [
        f"{name} is {list(state[name].shape)}, should be {list(own[name].shape)}"
        for name in own.keys() & state.keys()
        if own[name].shape != state[name].shape
    ]
    complaints = [
        f"{title}: {', '.join(sorted(names)[:5])}" + (f" and {len(names) - 5} more" if len(names) > 5 else "")
        for title, names in (
            ("missing", own.keys() - state.keys()),
            ("unexpected", state.keys() - own.keys()),
            ("of another shape", wrong),
        )
        if names
    ]
    if complaints:
        raise CheckpointError(
            f"{path} does not fit the network. {'; '.join(complaints)}. "
            "Set `model` (size, patch_size, image_size, ffn, num_registers, mask_token) to what the file was made with."
        )
    network.load_state_dict(
        {name: t.float() if t.is_floating_point() else t for name, t in state.items()}, strict=True, assign=True
    )
