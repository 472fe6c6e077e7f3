import pytest
import torch
from torch import nn
from torch.testing import assert_close

from ssl_train.distributed import World
from ssl_train.losses.dino import pair_shares, prototype_monitors
from ssl_train.methods import DinoV2
from ssl_train.models import Vit
from ssl_train.models.heads import DinoHead
from ssl_train.monitors import feature_rank, part_gradient_norms
from ssl_train.ops.prototype_loss import Projected, Targets, prototype_loss
from tests.ssl_train import two_processes

ALONE = World(0, 1, torch.device("cpu"))
MODEL = Vit(size="tiny", patch_size=8, image_size=16, layer_scale=0.5)
HEAD = DinoHead(num_prototypes=24, hidden_dim=32, bottleneck_dim=16)


def test_features_on_k_equal_axes_have_rank_k() -> None:
    for k in (1, 3, 7):
        rows = torch.eye(7)[:k].repeat(2, 1) * torch.tensor([1.0, -1.0]).repeat_interleave(k)[:, None]
        assert_close(feature_rank(rows + 5.0), torch.tensor(float(k)))  # wherever their mean is


def test_the_rank_is_that_of_the_eigenvalues_and_does_not_feel_scale() -> None:
    features = torch.randn(50, 12, dtype=torch.float64) @ torch.randn(12, 12, dtype=torch.float64)
    eigenvalues = torch.linalg.eigvalsh(torch.cov(features.T))
    slow = eigenvalues.sum().square() / eigenvalues.square().sum()
    for scale in (1e-6, 1.0, 1e6):
        assert_close(feature_rank(features.float() * scale), slow.float(), rtol=1e-4, atol=0)


def test_equal_features_have_no_rank() -> None:
    assert feature_rank(torch.ones(8, 4)) == 0


def test_the_parts_squares_add_up_to_the_backbone_s_and_every_parameter_is_in_one() -> None:
    backbone = MODEL.build()
    student = nn.ModuleDict({"backbone": backbone, "dino_head": HEAD.build(backbone.dim)})
    for parameter in student.parameters():
        parameter.grad = torch.randn_like(parameter)
    norms = part_gradient_norms(student)
    parts = ["embeddings", "blocks_1", "blocks_2", "blocks_3", "blocks_4"]
    assert list(norms) == [f"grad_norm_backbone_{part}" for part in parts]
    whole = torch.nn.utils.get_total_norm([p.grad for p in backbone.parameters() if p.grad is not None])
    assert_close(torch.stack(list(norms.values())).norm(), whole)
    for parameter in backbone.blocks[1].parameters():
        parameter.grad = torch.zeros_like(parameter)
    assert [name for name, norm in part_gradient_norms(student).items() if norm == 0] == ["grad_norm_backbone_blocks_2"]


@pytest.mark.parametrize("weight", [1.0, 0.25])
def test_kl_is_the_mean_over_pairs_of_the_divergence_of_student_from_teacher(weight: float) -> None:
    images, num_local, prototypes = 3, 2, 6
    rows = [torch.randn(count * images, 4) for count in (2 + num_local, 2)]
    last = torch.randn(prototypes, 4)
    targets = Targets(rows[1], last, 0.5, torch.zeros(prototypes))
    shares = pair_shares(num_local, weight)
    loss = prototype_loss(Projected(rows[0], last), targets, shares, torch.full((images,), 1 / images), temperature=0.7)
    student = (rows[0] @ last.T / 0.7).log_softmax(-1).unflatten(0, (-1, images))
    teacher = (rows[1] @ last.T / 0.5).log_softmax(-1).unflatten(0, (-1, images))
    divergences = [
        (teacher[view].exp() * (teacher[view] - student[crop])).sum(-1).mean()
        for crop in range(2 + num_local)
        for view in range(2)
        if crop != view
    ]
    assert_close(prototype_monitors(loss, weight)["teacher_student_kl"], torch.stack(divergences).mean())


def test_without_a_loss_between_class_tokens_there_is_no_kl() -> None:
    rows, last = torch.randn(4, 4), torch.randn(6, 4)
    targets = Targets(rows, last, 0.5, torch.zeros(6))
    loss = prototype_loss(Projected(rows, last), targets, pair_shares(0, 0.0), torch.full((2,), 0.5), temperature=0.7)
    assert "teacher_student_kl" not in prototype_monitors(loss, 0.0)


def test_a_step_hands_over_the_class_tokens_of_its_global_crops_without_a_gradient() -> None:
    networks, _ = two_processes.built(DinoV2(dino_head=HEAD), ALONE)
    batch = two_processes.batch_of((0, 3), ALONE)
    features = networks.loss(batch, 0).features
    assert features is not None
    assert not features.requires_grad
    assert_close(features, networks.student["backbone"]([batch.global_crops], [batch.masks])[0].cls)
