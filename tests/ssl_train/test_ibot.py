from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from ssl_train.data.masking import NoPatches
from ssl_train.losses.dino import dino_loss, swapped_dino_loss
from ssl_train.losses.ibot import ibot_loss
from ssl_train.methods.base import FORWARD_BACKWARD
from ssl_train.methods.dinov2 import DinoV2
from ssl_train.methods.ibot import Ibot, IbotNetworks
from ssl_train.models import Vit
from ssl_train.models.heads import DinoHead
from tests.ssl_train.prototype_batches import PATCH, PATCHES, SIDE, batch_of

TINY = Vit(size="tiny", patch_size=PATCH, image_size=SIDE)
HEAD = DinoHead(num_prototypes=12, hidden_dim=16, bottleneck_dim=8)
OTHER = DinoHead(num_prototypes=10, hidden_dim=16, bottleneck_dim=6)
TOLERANCE = {"rtol": 1e-4, "atol": 1e-5}


def built(**settings: Any) -> IbotNetworks:
    torch.manual_seed(0)
    networks = Ibot(dino_head=HEAD, **settings).build(TINY, num_steps=10)
    with torch.no_grad():  # a mask token of zeros hides patches as well as another; this one is told apart
        networks.student["backbone"].mask_token.normal_()
    return networks


def patch_logits(networks: nn.ModuleDict, crops: Tensor, masks: Tensor | None) -> Tensor:
    """[crops, patches, prototypes] of each patch on its own, by the head that is for it."""
    patches = networks["backbone"]([crops], [masks])[0].patches
    head = networks["ibot_head"] if "ibot_head" in networks else networks["dino_head"]
    logits: Tensor = head(patches.flatten(0, 1)).logits().unflatten(0, patches.shape[:2])
    return logits


def cls_logits(networks: nn.ModuleDict, crops: Tensor, masks: Tensor | None) -> Tensor:
    logits: Tensor = networks["dino_head"](networks["backbone"]([crops], [masks])[0].cls).logits()
    return logits


@pytest.mark.parametrize("num_local", [0, 2])
@pytest.mark.parametrize("ibot_head", [None, OTHER], ids=["shared head", "two heads"])
def test_two_steps_are_the_loop_over_crops_and_patches_with_the_loops_gradients(
    num_local: int, ibot_head: DinoHead | None
) -> None:
    settings: dict[str, Any] = {
        "ibot_head": ibot_head,
        "teacher_temperature": (0.04, 0.05),
        "patch_temperature": (0.06, 0.07),
        "teacher_temperature_steps": 2,
        "dino_weight": 0.5,
        "ibot_weight": 2.0,
    }
    networks, loop = built(**settings), built(**settings)
    batch = batch_of(num_local=num_local, masked=True)
    cls_centre: Tensor = torch.zeros(12)
    patch_centre: Tensor = torch.zeros((ibot_head or HEAD).num_prototypes)
    for step, (temperature, patch_temperature) in enumerate(((0.04, 0.06), (0.05, 0.07))):
        losses = networks.loss(batch, step)
        losses.total.backward()
        with torch.no_grad():
            teacher = cls_logits(loop.teacher, batch.global_crops, None)
            teacher_patches = patch_logits(loop.teacher, batch.global_crops, None)
        targets = ((teacher - cls_centre) / temperature).softmax(-1).unflatten(0, (2, -1))
        student = cls_logits(loop.student, batch.global_crops, batch.masks).unflatten(0, (2, -1))
        pairs = swapped_dino_loss(student, targets, temperature=0.1)
        if num_local:
            local = cls_logits(loop.student, batch.local_crops, None).unflatten(0, (num_local, -1))
            pairs = pairs + dino_loss(local, targets, temperature=0.1)
        patch_targets = ((teacher_patches - patch_centre) / patch_temperature).softmax(-1)
        asked = patch_logits(loop.student, batch.global_crops, batch.masks)[batch.masks]
        patches = ibot_loss(asked, patch_targets[batch.masks], batch.mask_weights, num_crops=8, temperature=0.1)
        expected = 0.5 * pairs / (2 + 2 * num_local) + 2.0 * patches
        expected.backward()
        assert_close(losses.total.detach(), expected.detach(), **TOLERANCE)
        assert_close(losses.terms["ibot"], 2.0 * patches.detach(), **TOLERANCE)
        for (name, found), parameter in zip(
            networks.student.named_parameters(), loop.student.parameters(), strict=True
        ):
            assert_close(found.grad, parameter.grad, **TOLERANCE, msg=lambda text, name=name: f"{name}: {text}")
        networks.after_step(step)
        cls_centre = 0.9 * cls_centre + 0.1 * teacher.mean(0)
        patch_centre = 0.9 * patch_centre + 0.1 * teacher_patches.mean((0, 1))  # all patches, masked or not
        assert_close(networks.state_dict()["cls_targets.center"][0], cls_centre, **TOLERANCE)
        assert_close(networks.state_dict()["patch_targets.center"][0], patch_centre, **TOLERANCE)
        for own in (networks, loop):
            own.student.zero_grad()
            with torch.no_grad():
                torch._foreach_mul_(list(own.student.parameters()), 1.1)
        loop.teacher.load_state_dict(networks.teacher.state_dict())


def test_every_patch_goes_through_the_heads_masked_or_not() -> None:
    networks, rows = built(ibot_head=OTHER), dict[str, int]()
    for name, modules in (("student", networks.student), ("teacher", networks.teacher)):
        modules["ibot_head"].register_forward_pre_hook(
            lambda _module, inputs, name=name: rows.__setitem__(name, len(inputs[0]))
        )
    networks.loss(batch_of(masked=True), step=0)
    assert rows == {"student": 8 * PATCHES, "teacher": 8 * PATCHES}


def test_the_heads_cost_what_all_patches_cost_which_is_most_of_the_difference_to_dinov2() -> None:
    sizes = {"num_crops": 12, "num_patches": 392, "student_dim": 384, "teacher_dim": 384}
    head = DinoHead(num_prototypes=8192)
    cost = Ibot(dino_head=head).head_flops(**sizes)
    assert cost == (FORWARD_BACKWARD * (12 + 392) + 2 + 392) * head.row_flops(384)
    assert cost / DinoV2(dino_head=head).head_flops(**sizes) == pytest.approx(5.9, abs=0.1)


def test_a_batch_without_a_masked_patch_has_no_patch_loss_and_its_gradients_are_numbers() -> None:
    networks = built(ibot_head=OTHER)
    losses = networks.loss(batch_of(masked=False), step=0)
    losses.total.backward()
    assert losses.terms["ibot"].item() == 0
    head = [parameter.grad for parameter in networks.student["ibot_head"].parameters()]
    assert all(grad is not None and not grad.any() for grad in head)


def test_masks_that_hide_nothing_and_groups_that_do_not_fit_are_named() -> None:
    def broken(method: Ibot, share: int) -> list[str]:
        return [message for message, is_broken in method.rules(share).items() if is_broken]

    assert not broken(Ibot(), 64)
    assert not broken(Ibot(group_images=16), 64)
    assert "hides nothing" in broken(Ibot(masks=NoPatches()), 64)[0]
    assert "group_images = 48 must divide the 64 images" in broken(Ibot(group_images=48), 64)[0]
