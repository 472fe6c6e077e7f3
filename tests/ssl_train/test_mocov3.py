import copy
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.testing import assert_close

from ssl_train.config import check_config, load_recipe
from ssl_train.data.collate import Batch
from ssl_train.distributed import World
from ssl_train.errors import ConfigError
from ssl_train.methods.mocov3 import MocoV3
from ssl_train.models import Vit
from ssl_train.models.projectors import MlpHead
from ssl_train.models.resnet import Resnet
from ssl_train.trainer import Trainer
from tests.ssl_train.two_processes_views import batch_of

ALONE = World(0, 1, torch.device("cpu"))
VIT = Vit(size="tiny", patch_size=8, image_size=32, layer_scale=None, mask_token=False, positions="sincos")
RESNET = Resnet(size="tiny", stem_kind="small", zero_last_gamma=False)
HEADS = {"projector": MlpHead(16, 8), "predictor": MlpHead(16, 8, num_layers=2)}


@pytest.fixture
def batch() -> Batch:
    return batch_of(0, ALONE)


def published_order(
    networks: Any, batch: Batch, momentum: float, temperature: float
) -> tuple[Tensor, dict[str, Tensor | None]]:
    """Loss and gradients of a step in the order of the paper: queries, then the teacher moves, then keys; on copies."""
    student, teacher = copy.deepcopy(networks.student), copy.deepcopy(networks.teacher)
    views = batch.global_crops.chunk(2)
    queries = [student["predictor_head"](student["projector_head"](student["backbone"].tokens(v).cls)) for v in views]
    with torch.no_grad():
        for name, parameter in teacher.named_parameters():
            parameter.mul_(momentum).add_(dict(student.named_parameters())[name] * (1 - momentum))
        keys = [teacher["projector_head"](teacher["backbone"].tokens(view).cls) for view in views]
    total = torch.zeros(())
    for query, key in ((queries[0], keys[1]), (queries[1], keys[0])):
        similarities = F.normalize(query, dim=-1) @ F.normalize(key, dim=-1).T / temperature
        total = total - 2 * temperature * similarities.log_softmax(-1).diagonal().mean()
    total.backward()
    return total.detach(), {name: parameter.grad for name, parameter in student.named_parameters()}


@pytest.mark.parametrize("model", [VIT, RESNET])
def test_a_step_is_that_of_the_papers_algorithm(batch: Batch, model: Any) -> None:
    networks = MocoV3(**HEADS, temperature=0.3, teacher_momentum=(0.7, 1.0)).build(model, num_steps=10)
    with torch.no_grad():
        for parameter in networks.student.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))  # otherwise the teacher's move moves nothing
    expected, gradients = published_order(networks, batch, 0.7, 0.3)
    losses = networks.loss(batch, 0)
    assert_close(losses.total.detach(), expected)
    losses.total.backward()
    for name, parameter in networks.student.named_parameters():
        gradient = gradients[name]
        assert (parameter.grad is None) == (gradient is None), name
        if gradient is not None:
            assert_close(parameter.grad, gradient, rtol=1e-3, atol=1e-4 * float(gradient.abs().max()) + 1e-6)
    assert all(parameter.grad is None for parameter in networks.teacher.parameters())


def test_the_teacher_moves_before_the_keys_are_made_and_at_no_other_time(batch: Batch) -> None:
    networks = MocoV3(**HEADS, teacher_momentum=(0.5, 1.0)).build(VIT, num_steps=10)
    weight, own = networks.teacher["backbone"].norm.weight, networks.student["backbone"].norm.weight
    with torch.no_grad():
        own.add_(1.0)
    before = weight.clone()
    networks.loss(batch, 0)
    assert_close(weight, before.lerp(own, 0.5))
    after = weight.clone()
    networks.after_step(0)
    assert torch.equal(weight, after)


def test_momentum_grows_along_half_a_cosine() -> None:
    networks = MocoV3(**HEADS, teacher_momentum=(0.99, 1.0)).build(VIT, num_steps=200)
    for step in (0, 50, 100, 199):
        expected = 1 - (1 - 0.99) * (1 + math.cos(math.pi * step / 200)) / 2
        assert networks.scheduled(step)["teacher_momentum"] == pytest.approx(expected)


def test_heads_are_the_published_ones_of_vits_and_of_resnet_50() -> None:
    with torch.device("meta"):
        vit, resnet = (
            load_recipe(name).method.build(model, num_steps=1)
            for name, model in (("mocov3_vitb16", Vit(size="tiny")), ("mocov3_resnet50", RESNET))
        )

    def shapes(head: nn.Module) -> list[list[int]]:
        return [list(p.shape) for name, p in head.named_parameters() if p.ndim == 2]

    assert shapes(vit.student["projector_head"]) == [[4096, 128], [4096, 4096], [256, 4096]]
    assert shapes(vit.student["predictor_head"]) == [[4096, 256], [256, 4096]]
    assert shapes(resnet.student["projector_head"]) == [[4096, 256], [256, 4096]]
    assert shapes(resnet.student["predictor_head"]) == [[4096, 256], [256, 4096]]
    names = {name for name, _ in vit.student["projector_head"].named_buffers()}
    assert {"1.running_mean", "4.running_var", "7.running_mean"} < names
    assert [type(layer).__name__ for layer in resnet.student["predictor_head"]][-1] == "Linear"


def test_without_a_predictor_queries_are_what_the_projector_says(batch: Batch) -> None:
    networks = MocoV3(projector=MlpHead(16, 8), predictor=None).build(VIT, num_steps=10)
    losses = networks.loss(batch, 0)
    # Student and teacher are equal still: a query is the key of its own view.
    with torch.no_grad():
        first, second = (networks.teacher["backbone"].tokens(view).cls for view in batch.global_crops.chunk(2))
        q, k = (F.normalize(networks.teacher["projector_head"](cls), dim=-1) for cls in (first, second))
        expected = -0.4 * sum((a @ b.T / 0.2).log_softmax(-1).diagonal().mean() for a, b in ((q, k), (k, q)))
    assert_close(losses.total.detach(), expected)


def test_the_teachers_norms_look_at_the_batch_and_its_running_statistics_are_its_own(batch: Batch) -> None:
    networks = MocoV3(**HEADS, teacher_momentum=(1.0, 1.0)).build(RESNET, num_steps=10)
    with torch.no_grad():
        networks.student["backbone"].conv1.weight.mul_(3.0)
    networks.loss(batch, 0)
    ours, theirs = (modules["backbone"].bn1 for modules in (networks.student, networks.teacher))
    assert int(theirs.num_batches_tracked) == 2
    assert_close(ours.running_var - 0.81, (theirs.running_var - 0.81) * 9, rtol=1e-3, atol=1e-4)


def test_a_frozen_stem_has_no_gradient_and_stays_in_the_teacher_too(batch: Batch) -> None:
    networks = MocoV3(**HEADS).build(Vit(size="tiny", patch_size=8, image_size=32, frozen_stem=True), num_steps=10)
    networks.loss(batch, 0).total.backward()
    assert all(p.grad is None for p in networks.student["backbone"].patch_embed.parameters())
    assert networks.student["backbone"].cls_token.grad is not None


def test_settings_that_do_not_fit_are_named(tmp_path: Any, photographs: str) -> None:
    sound = ["output_dir=/run", f"data.folder={photographs}"]
    check_config(load_recipe("debug_mocov3", sound), 1)
    with pytest.raises(ConfigError, match=r"each process has 1 images.*needs 2 or more"):
        check_config(load_recipe("debug_mocov3", [*sound, "data.batch_images=4"]), 4)
    with pytest.raises(ConfigError, match=r"method.predictor.out_dim must be method.projector.out_dim"):
        check_config(load_recipe("debug_mocov3", [*sound, "method.predictor.out_dim=5"]), 1)
    small = ["augment.num_local=2", "augment.local_pixels=16", f"output_dir={tmp_path}", "data.batch_images=4"]
    with pytest.raises(ConfigError, match=r"set augment.num_local = 0, not 2"):
        Trainer(load_recipe("debug_mocov3", [*sound, *small]), ALONE)


def test_heads_cost_three_passes_of_the_student_and_one_of_the_teacher() -> None:
    method = MocoV3(**HEADS)
    flops = method.head_flops(num_crops=2, num_patches=0, student_dim=10, teacher_dim=10)
    projector, predictor = 2 * (10 * 16 + 16 * 16 + 16 * 8), 2 * (8 * 16 + 16 * 8)
    assert flops == 2 * 3 * (projector + predictor) + 2 * projector
