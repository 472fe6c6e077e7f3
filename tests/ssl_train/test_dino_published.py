"""Full checkpoints as DINO and iBOT publish them: backbone and heads load by name."""

import argparse
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from ssl_train.errors import CheckpointError
from ssl_train.methods.dino import Dino
from ssl_train.models import Vit, load_backbone
from ssl_train.models.heads import DinoHead
from ssl_train.start import Start, Weights, begin_with, read_heads

HEAD = DinoHead(num_prototypes=12, hidden_dim=16, bottleneck_dim=8)
TINY = Vit(size="tiny", patch_size=8, image_size=32, layer_scale=None, mask_token=False)


def renamed(modules: nn.ModuleDict, prefix: str) -> dict[str, Tensor]:
    """A network's tensors under DINO's names."""
    return {
        prefix + name.replace("dino_head.", "head.", 1): tensor.clone() for name, tensor in modules.state_dict().items()
    }


def checkpoint(path: Path, teacher: nn.ModuleDict, student: nn.ModuleDict) -> str:
    """What DINO's training writes: two networks, and much beside them."""
    torch.save(
        {
            "student": renamed(student, "module."),
            "teacher": renamed(teacher, ""),
            "optimizer": {"state": {}, "param_groups": [{"lr": 1e-6, "params": [0]}]},
            "epoch": 800,
            "args": argparse.Namespace(arch="vit_small", lr=5e-4, global_crops_scale=(0.25, 1.0)),
            "dino_loss": {"center": torch.ones(1, 12)},
        },
        path,
    )
    return str(path)


def test_a_full_checkpoint_gives_the_teachers_backbone_and_head(tmp_path: Path) -> None:
    published, own = (Dino(dino_head=HEAD).build(TINY, num_steps=1) for _ in range(2))
    other = Dino(dino_head=HEAD).build(TINY, num_steps=1)
    path = checkpoint(tmp_path / "dino_full_checkpoint.pth", published.teacher, other.student)
    assert_close(load_backbone(path).state_dict(), published.teacher_backbone.state_dict(), rtol=0, atol=0)
    begin_with((own.student, own.teacher), Start(backbone=Weights(path=path), heads=Weights(path=path)))
    for modules in (own.student, own.teacher):
        assert_close(modules.state_dict(), published.teacher.state_dict(), rtol=0, atol=0)


def test_a_backbone_alone_has_no_heads_and_that_is_said(tmp_path: Path) -> None:
    path = tmp_path / "dino_pretrain.pth"
    torch.save(TINY.build().state_dict(), path)
    with pytest.raises(CheckpointError, match="heads"):
        read_heads(Weights(path=str(path)))


def test_ibots_student_has_its_mask_token(tmp_path: Path) -> None:
    with_token = Vit(size="tiny", patch_size=8, image_size=32, layer_scale=None)
    network, path = with_token.build(), tmp_path / "checkpoint_student.pth"
    with torch.no_grad():
        network.mask_token.normal_()
    names = {"mask_token": "masked_embed"}
    torch.save({"state_dict": {names.get(name, name): tensor for name, tensor in network.state_dict().items()}}, path)
    assert_close(load_backbone(str(path)).state_dict(), network.state_dict(), rtol=0, atol=0)
