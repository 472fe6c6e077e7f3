import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch.testing import assert_close

from ssl_train.errors import CheckpointError
from ssl_train.evaluate.classify import read_classifier
from ssl_train.models import Vit, infer_vit, load_backbone
from ssl_train.models.load import describe, plain_names
from ssl_train.models.vit import Size
from storage.errors import ChecksumMismatch

TINY = Vit(size="tiny", patch_size=8, image_size=16)


@pytest.mark.parametrize("family", ["dinov2", "dino_v1"])
def test_every_published_vit_has_exactly_our_tensors_in_our_order(facts: Any, family: str) -> None:
    published = {name: shapes for name, shapes in facts(f"{family}_state_dict_shapes").items() if "resnet" not in name}
    assert len(published) in (4, 8)
    with torch.device("meta"):
        for name, shapes in published.items():
            network = infer_vit({key: torch.empty(shape) for key, shape in shapes.items()}).build()
            own = {key: list(tensor.shape) for key, tensor in network.state_dict().items()}
            assert list(own.items()) == list(shapes.items()), name


def test_an_export_is_rebuilt_from_its_own_metadata(tmp_path: Path) -> None:
    network, path = TINY.build(), tmp_path / "teacher.safetensors"
    save_file(network.state_dict(), path, metadata=describe(TINY))
    loaded = load_backbone(str(path), hashlib.sha256(path.read_bytes()).hexdigest())
    assert not loaded.training
    assert_close(loaded.state_dict(), network.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize("prefix", ["teacher.backbone.", "module.backbone.", "module.", "backbone.", ""])
@pytest.mark.parametrize("envelope", ["teacher", None])
def test_published_wrappings_of_a_state_dict_are_taken_off(tmp_path: Path, prefix: str, envelope: str | None) -> None:
    network, path = TINY.build(), tmp_path / "published.pth"
    state = {prefix + name: tensor for name, tensor in network.state_dict().items()}
    if prefix:
        head = prefix.removesuffix("backbone.") + "dino_head.mlp.0.weight"
        state[head] = torch.zeros(2, 2)
    torch.save({envelope: state, "student": {"backbone.other": torch.zeros(1)}} if envelope else state, path)
    assert_close(load_backbone(str(path), model=TINY).state_dict(), network.state_dict(), rtol=0, atol=0)


def test_blocks_written_in_chunks_find_their_place(tmp_path: Path) -> None:
    network, path = TINY.build(), tmp_path / "chunked.pth"
    chunk = {"0": "0", "1": "0", "2": "1", "3": "1"}
    state = {}
    for name, tensor in network.state_dict().items():
        head, *rest = name.split(".")
        state[".".join([head, chunk[rest[0]], *rest]) if head == "blocks" else name] = tensor
    torch.save(state, path)
    assert_close(load_backbone(str(path)).state_dict(), network.state_dict(), rtol=0, atol=0)


def test_an_altered_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "teacher.safetensors"
    save_file(TINY.build().state_dict(), path, metadata=describe(TINY))
    with pytest.raises(ChecksumMismatch, match="expected 0000"):
        load_backbone(str(path), "0" * 64)


def test_a_checkpoint_of_another_architecture_says_what_differs(tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    save_file(TINY.build().state_dict(), path)
    with pytest.raises(CheckpointError, match=r"missing: register_tokens.*other shape: pos_embed.*Set `model`"):
        load_backbone(str(path), model=Vit(size="tiny", patch_size=8, image_size=32, num_registers=4))


@pytest.mark.parametrize("name", ["cut.pth", "cut.safetensors"])
def test_a_file_that_is_no_checkpoint_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"not tensors at all")
    with pytest.raises(CheckpointError, match=name):
        load_backbone(str(tmp_path / name))


def test_a_checkpoint_of_no_known_family_is_named(tmp_path: Path) -> None:
    path = tmp_path / "language.safetensors"
    save_file({"conv1.weight": torch.zeros(1)}, path)
    with pytest.raises(CheckpointError, match="holds no backbone that is known"):
        load_backbone(str(path))


def test_code_inside_a_checkpoint_is_not_run(tmp_path: Path) -> None:
    path = tmp_path / "object.pth"
    torch.save({"model": Path("anything")}, path)
    with pytest.raises(CheckpointError, match="convert it to"):
        load_backbone(str(path))


def test_a_missing_checkpoint_and_a_url_without_checksum_are_refused() -> None:
    with pytest.raises(CheckpointError, match="no checkpoint at /nowhere"):
        load_backbone("/nowhere/teacher.safetensors")
    with pytest.raises(CheckpointError, match="give its `sha256`"):
        load_backbone("https://example.org/teacher.safetensors")


def deit3_names(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Our tensors as DeiT III's files have them: another LayerScale, and no position of the class token."""
    scales = {f".ls{i}.gamma": f".gamma_{i}" for i in (1, 2)}
    named = {}
    for name, tensor in state.items():
        for ours, theirs in scales.items():
            name = name.replace(ours, theirs)
        named[name] = tensor[:, 1:] if name == "pos_embed" else tensor
    return named


@pytest.mark.parametrize("family", ["deit", "timm"])
@torch.no_grad()
def test_deit3s_files_give_the_network_whose_class_token_has_no_position(tmp_path: Path, family: str) -> None:
    network = replace(TINY, layer_scale=0.3, mask_token=False).build().eval()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    network.pos_embed[:, 0] = 0
    state, path = network.state_dict(), tmp_path / "deit_3_tiny_16_1k.pth"
    published = deit3_names(state) if family == "deit" else {**state, "pos_embed": state["pos_embed"][:, 1:]}
    assert published["pos_embed"].shape[1] == 4
    head = {"head.weight": torch.randn(7, network.dim), "head.bias": torch.randn(7)}
    torch.save({"model": {**published, **head}, "epoch": 799}, path)
    loaded = read_classifier(str(path))
    images = torch.randn(2, 3, 16, 16)
    cls = loaded.networks["backbone"].tokens(images).cls
    assert_close(cls, network.tokens(images).cls, rtol=0, atol=0)
    assert_close(loaded.networks["class_head"](cls, None), F.linear(cls, head["head.weight"], head["head.bias"]))


@pytest.mark.parametrize(
    ("size", "patch", "image"),
    [("small", 16, 224), ("medium", 16, 224), ("base", 16, 384), ("large", 16, 384), ("huge", 14, 224)],
)
def test_deit3s_published_sizes_are_recognised_and_load_strictly(size: Size, patch: int, image: int) -> None:
    expected = Vit(size=size, patch_size=patch, image_size=image, mask_token=False)
    with torch.device("meta"):
        network = expected.build()
        state = plain_names({f"module.{name}": t for name, t in deit3_names(network.state_dict()).items()})
    assert infer_vit(state) == expected
    network.load_state_dict(state, strict=True, assign=True)
