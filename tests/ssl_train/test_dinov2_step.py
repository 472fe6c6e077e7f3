from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.testing import assert_close

from ssl_train.data.collate import Batch
from ssl_train.methods import DinoV2, DinoV2Networks
from ssl_train.models import Vit
from ssl_train.models.heads import DinoHead
from ssl_train.models.vit import VisionTransformer

HEAD = DinoHead(num_prototypes=48, hidden_dim=96, bottleneck_dim=32)
TINY = Vit(size="tiny", patch_size=8, image_size=16)


class ReferenceVit(Vit):
    """The network of the reference vectors, which is smaller than any that has a name."""

    def build(self) -> VisionTransformer:
        return VisionTransformer(64, 3, 2, patch_size=14, grid=4)


def batch_of(global_crops: torch.Tensor, local_crops: torch.Tensor, masks: torch.Tensor) -> Batch:
    weights = (1 / masks.sum(-1).clamp(min=1)).unsqueeze(-1).expand_as(masks)[masks]
    keys = tuple(str(number) for number in range(len(global_crops) // 2))
    return Batch(keys, global_crops, local_crops, masks, masks.flatten().nonzero().flatten(), weights)


def small_method(**settings: Any) -> DinoV2Networks:
    return DinoV2(dino_head=HEAD, **settings).build(TINY, num_steps=10)


def small_batch(num_local: int = 2) -> Batch:
    masks = torch.zeros(8, 4, dtype=torch.bool)
    masks[0, :2] = True
    return batch_of(torch.randn(8, 3, 16, 16), torch.randn(4 * num_local, 3, 8, 8), masks)


@pytest.mark.parametrize("name", ["dinov2_step_sk_untied", "dinov2_step_centering_tied"])
def test_a_whole_step_is_the_published_one(vectors: Any, name: str) -> None:
    v = vectors(name)
    method = DinoV2(
        dino_head=HEAD,
        ibot_head=HEAD if v.metadata["separate_heads"] == "True" else None,
        centering="sinkhorn_knopp" if v.metadata["centering"] == "sinkhorn_knopp" else "softmax",
        student_temperature=float(v.metadata["student_temp"]),
        teacher_temperature=(float(v.metadata["teacher_temp"]),) * 2,
        koleo_weight=float(v.metadata["koleo_weight"]),
    )
    networks = method.build(ReferenceVit(), num_steps=10)
    centres = {key: tensor for key, tensor in networks.state_dict().items() if "targets" in key}
    networks.load_state_dict({**v.under("weights."), **centres}, strict=True)
    losses = networks.loss(batch_of(v["in.global_crops"], v["in.local_crops"], v["in.masks"]), step=0)
    for term, value in losses.terms.items():
        assert_close(value.detach(), v[f"out.{term}"][0], rtol=1e-4, atol=1e-5)
    assert_close(losses.total.detach(), v["out.total"][0], rtol=1e-4, atol=1e-5)
    losses.total.backward()
    norms = v.under("grad_norm.student.")
    assert norms.keys() == dict(networks.student.named_parameters()).keys()
    for parameter, tensor in networks.student.named_parameters():
        assert_close(tensor.grad.norm(), norms[parameter][0], rtol=1e-4, atol=1e-5, msg=parameter)


def test_the_terms_add_up_to_what_is_optimised() -> None:
    losses = small_method().loss(small_batch(), step=0)
    assert losses.terms.keys() == {"dino_global", "dino_local", "ibot", "koleo"}
    assert_close(torch.stack(list(losses.terms.values())).sum(), losses.total)


def test_the_teacher_starts_as_the_student_and_takes_no_gradient() -> None:
    networks = small_method()
    assert_close(networks.teacher.state_dict(), networks.student.state_dict(), rtol=0, atol=0)
    networks.loss(small_batch(), step=0).total.backward()
    assert all(parameter.grad is None for parameter in networks.teacher.parameters())
    assert all(parameter.grad is not None for parameter in networks.student.parameters())


def test_the_teacher_moves_towards_the_student_by_the_momentum() -> None:
    networks = small_method(teacher_momentum=(0.75, 1.0))
    before = [parameter.clone() for parameter in networks.teacher.parameters()]
    with torch.no_grad():
        for parameter in networks.student.parameters():
            parameter.add_(1.0)
    networks.after_step(0)
    for old, new in zip(before, networks.teacher.parameters(), strict=True):
        assert_close(new, old + 0.25)


def test_the_teacher_never_drops_a_path() -> None:
    networks = DinoV2(dino_head=HEAD).build(replace(TINY, drop_path=0.5), num_steps=10)
    networks.train()
    assert networks.student["backbone"].training
    assert not networks.teacher["backbone"].training


def test_without_local_crops_two_views_are_compared() -> None:
    losses = small_method(koleo_weight=0.0).loss(small_batch(num_local=0), step=0)
    assert losses.terms.keys() == {"dino_global", "ibot"}


def test_without_a_masked_patch_every_parameter_still_gets_a_gradient() -> None:
    networks, batch = small_method(ibot_head=HEAD), small_batch()
    bare = batch_of(batch.global_crops, batch.local_crops, torch.zeros_like(batch.masks))
    losses = networks.loss(bare, step=0)
    losses.total.backward()
    assert losses.terms["ibot"].item() == 0
    assert all(parameter.grad is not None for parameter in networks.student.parameters())
