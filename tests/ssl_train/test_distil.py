"""Distillation into any backbone: the loss is the docstring's loop, and the student comes to say what it is told."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor
from torch.testing import assert_close

from ssl_train.config import TrainConfig, check_config, load_recipe
from ssl_train.data.collate import Batch
from ssl_train.distributed import World
from ssl_train.errors import CheckpointError, ConfigError
from ssl_train.methods.distil import Distil, DistilNetworks
from ssl_train.models import Model, Vit, load_backbone
from ssl_train.models.internimage import InternImage
from ssl_train.models.load import describe
from ssl_train.models.resnet import Resnet
from ssl_train.start import Weights
from ssl_train.trainer import Trainer
from tests.ssl_train.copies_of_processes import batch_of

TEACHER = Vit(size="tiny", patch_size=8, image_size=64, layer_scale=0.5, num_registers=1, interpolation="antialias")
STUDENT = Resnet(size="tiny", image_size=64)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Weights:
    """A ViT's file, as a run exports it."""
    torch.manual_seed(1)
    path = tmp_path_factory.mktemp("teacher") / "teacher.safetensors"
    save_file(TEACHER.build().state_dict(), path, metadata=describe(TEACHER))
    return Weights(str(path))


def batch(*, num_local: int = 0) -> Batch:
    """Two crops of three images, and some local ones."""
    plain = batch_of(torch.randn(6, 3, 64, 64))
    return replace(plain, local_crops=torch.randn(num_local * 3, 3, 32, 32)) if num_local else plain


def loop(networks: DistilNetworks, crops: list[Tensor], *, pixels: int | None, kind: str) -> dict[str, Tensor]:
    """The loop in the loss's docstring, crop by crop and place by place."""

    def distance(said: Tensor, target: Tensor) -> Tensor:
        if kind == "mse":
            return (said - target).square().mean()
        return 1 - said @ target / (said.norm() * target.norm())

    image, dense = [], []
    for crop in crops:
        shown = crop[None]
        student = networks.student["backbone"].tokens(shown)
        if pixels is not None:
            shown = F.interpolate(shown, size=(pixels, pixels), mode="bilinear", antialias=True)
        taught = networks.frozen[0]["backbone"].tokens(shown)
        image.append(distance(networks.student["image_head"](student.cls[0]), taught.cls[0]))
        there = F.interpolate(taught.map, size=student.grid, mode="bilinear", antialias=True)
        places = [(row, column) for row in range(student.grid[0]) for column in range(student.grid[1])]
        dense.append(
            torch.stack(
                [
                    distance(networks.student["dense_head"](student.patches[0, number]), there[0, :, row, column])
                    for number, (row, column) in enumerate(places)
                ]
            ).mean()
        )
    return {"image": torch.stack(image).mean(), "dense": torch.stack(dense).mean()}


@pytest.mark.parametrize(("kind", "num_local", "pixels"), [("cosine", 2, None), ("mse", 0, None), ("cosine", 0, 80)])
def test_the_loss_is_the_loop(teacher: Weights, kind: str, num_local: int, pixels: int | None) -> None:
    config = Distil(teacher=teacher, distance=kind, teacher_pixels=pixels, image_weight=0.5, dense_weight=2.0)  # type: ignore[arg-type]
    networks = config.build(STUDENT, num_steps=1).eval()  # one crop at a time has no statistics of a batch
    data = batch(num_local=num_local)
    losses = networks.loss(data, 0)
    expected = loop(networks, [*data.global_crops, *data.local_crops], pixels=pixels, kind=kind)
    assert_close(losses.terms["image"], 0.5 * expected["image"].detach(), rtol=1e-4, atol=1e-6)
    assert_close(losses.terms["dense"], 2.0 * expected["dense"].detach(), rtol=1e-4, atol=1e-6)
    assert_close(losses.total, sum(losses.terms.values()))


def test_the_teacher_stays_and_has_no_gradient(teacher: Weights) -> None:
    networks = Distil(teacher=teacher).build(STUDENT, num_steps=1).train()
    networks.loss(batch(), 0).total.backward()
    frozen = networks.frozen[0]
    assert not frozen.training
    assert not any(p.requires_grad or p.grad is not None for p in frozen.parameters())
    assert all(p.grad is not None for p in networks.student.parameters())
    assert_close(frozen["backbone"].state_dict(), load_backbone(teacher.path).state_dict(), rtol=0, atol=0)
    assert not any("frozen" in name for name in networks.state_dict())


@pytest.mark.parametrize(("image", "dense"), [(1.0, 0.0), (0.0, 1.0)])
def test_a_weight_of_zero_leaves_its_layer_out(teacher: Weights, image: float, dense: float) -> None:
    networks = Distil(teacher=teacher, image_weight=image, dense_weight=dense).build(STUDENT, num_steps=1)
    losses = networks.loss(batch(), 0)
    assert list(losses.terms) == (["image"] if image else ["dense"])
    assert set(networks.student) == {"backbone", "image_head" if image else "dense_head"}


@pytest.mark.parametrize("student", [STUDENT, InternImage(size="nano"), Vit(size="tiny", patch_size=16, image_size=64)])
def test_a_student_of_any_kind_comes_to_say_what_the_teacher_says(teacher: Weights, student: Model) -> None:
    networks = Distil(teacher=teacher).build(student, num_steps=12)
    optimizer = torch.optim.AdamW(networks.student.parameters(), lr=3e-3)
    data, totals = batch(), []
    for step in range(12):
        losses = networks.loss(data, step)
        totals.append(float(losses.total.detach()))
        losses.total.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert totals[-1] < 0.6 * totals[0]


def test_a_run_ends_in_a_backbone_of_the_students_kind(
    tiny_run: Callable[..., TrainConfig], teacher: Weights, tmp_path: Path
) -> None:
    config = tiny_run(
        "model={kind: resnet, size: tiny, image_size: 32}",
        f"method={{kind: distil, teacher: {{path: {teacher.path}}}}}",
        "augment={global_pixels: 32, num_local: 0}",
    )
    trainer = Trainer(config, World(0, 1, torch.device("cpu")))
    assert trainer.run()
    found = load_backbone(str(tmp_path / "run" / "teacher.safetensors"))
    assert_close(found.state_dict(), trainer.networks.student["backbone"].state_dict(), rtol=0, atol=0)


def test_a_run_without_a_teacher_or_without_a_lesson_is_refused() -> None:
    plain = ["output_dir=/run", "data.folder=/photographs"]
    with pytest.raises(ConfigError, match="distil needs a teacher"):
        check_config(load_recipe("debug_distil", plain), 1)
    with pytest.raises(ConfigError, match="distil needs a teacher"):
        Distil().build(STUDENT, num_steps=1)
    nothing = ["method={kind: distil, teacher: {path: t.safetensors}, image_weight: 0, dense_weight: 0}"]
    with pytest.raises(ConfigError, match="nothing would be learned"):
        check_config(load_recipe("debug_distil", plain + nothing), 1)


def test_a_teacher_that_is_not_there_is_named() -> None:
    with pytest.raises(CheckpointError, match=r"no checkpoint at /nowhere/teacher\.safetensors"):
        Distil(teacher=Weights("/nowhere/teacher.safetensors")).build(STUDENT, num_steps=1)
