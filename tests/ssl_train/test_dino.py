import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.testing import assert_close

from ssl_train.losses.dino import dino_loss, pair_shares, swapped_dino_loss
from ssl_train.methods.dino import Dino, DinoNetworks
from ssl_train.models import Vit
from ssl_train.models.heads import DinoHead, DinoHeadNet, named_heads
from ssl_train.ops.prototype_loss import Projected, prototype_loss
from ssl_train.schedules import WarmUpConstant
from tests.ssl_train.prototype_batches import PATCH, SIDE, batch_of

TINY = Vit(size="tiny", patch_size=PATCH, image_size=SIDE)
HEAD = DinoHead(num_prototypes=12, hidden_dim=16, bottleneck_dim=8)
TOLERANCE = {"rtol": 1e-4, "atol": 1e-5}


def built(**settings: Any) -> DinoNetworks:
    torch.manual_seed(0)
    return Dino(dino_head=HEAD, **settings).build(TINY, num_steps=10)


def logits_of(networks: nn.ModuleDict, crops: list[Tensor]) -> Tensor:
    """What a network says of groups of crops, one after the other."""
    cls = torch.cat([tokens.cls for tokens in networks["backbone"](crops)])
    logits: Tensor = networks["dino_head"](cls).logits()
    return logits


def test_three_epochs_are_the_published_ones_with_gradients_and_centres(vectors: Any) -> None:
    """Logits stand for a head whose prototypes are the axes: the method's own targets, loss and centre see them."""
    v = vectors("dino_v1_loss")
    centring = Dino(dino_head=DinoHead(num_prototypes=32)).build(TINY, num_steps=10).cls_targets
    temperature, axes = WarmUpConstant(0.04, 0.07, 3), torch.eye(32)
    for epoch in range(3):
        student, teacher = v[f"{epoch}.in.student"].requires_grad_(), v[f"{epoch}.in.teacher"]
        num_images = len(teacher) // 2
        even = torch.full((num_images,), 1 / num_images)
        mix = pair_shares(len(student) // num_images - 2)
        targets = centring(Projected(teacher, axes), temperature(epoch))
        loss = prototype_loss(Projected(student, axes), targets, mix, even, temperature=0.1).total
        loss.backward()
        centring.commit()
        assert_close(loss.detach(), v[f"{epoch}.out.loss"][0], **TOLERANCE)
        assert_close(student.grad, v[f"{epoch}.out.grad_student"], **TOLERANCE)
        assert_close(centring.state_dict()["center"], v[f"{epoch}.out.center_after"], **TOLERANCE)


@pytest.mark.parametrize("num_local", [0, 2])
@pytest.mark.parametrize("centering", ["softmax", "none"])
def test_two_steps_are_the_loop_over_pairs_with_the_loops_gradients(num_local: int, centering: str) -> None:
    networks, loop = (built(centering=centering, teacher_temperature_steps=2) for _ in range(2))
    batch, centre = batch_of(num_local=num_local), torch.zeros(12)
    for step, temperature in enumerate((0.04, 0.07)):
        losses = networks.loss(batch, step)
        losses.total.backward()
        crops = [batch.global_crops, *([batch.local_crops] if num_local else [])]
        student = logits_of(loop.student, crops).unflatten(0, (2 + num_local, -1))
        with torch.no_grad():
            teacher = logits_of(loop.teacher, [batch.global_crops])
        targets = ((teacher - centre) / temperature).softmax(-1).unflatten(0, (2, -1))
        pairs = swapped_dino_loss(student[:2], targets, temperature=0.1)
        if num_local:
            pairs = pairs + dino_loss(student[2:], targets, temperature=0.1)
        expected = pairs / (2 + 2 * num_local)
        expected.backward()
        assert_close(losses.total.detach(), expected.detach(), **TOLERANCE)
        for (name, found), parameter in zip(
            networks.student.named_parameters(), loop.student.parameters(), strict=True
        ):
            assert_close(found.grad, parameter.grad, **TOLERANCE, msg=lambda text, name=name: f"{name}: {text}")
        networks.after_step(step)
        if centering == "softmax":
            centre = 0.9 * centre + 0.1 * teacher.mean(0)
        for own in (networks, loop):
            own.student.zero_grad()
            with torch.no_grad():
                torch._foreach_mul_(list(own.student.parameters()), 1.1)
        loop.teacher.load_state_dict(networks.teacher.state_dict())


def test_the_terms_add_up_to_what_is_optimised_and_the_monitors_are_those_of_the_targets() -> None:
    networks = built()
    losses = networks.loss(batch_of(), step=0)
    assert losses.terms.keys() == {"dino_global", "dino_local"}
    assert_close(torch.stack(list(losses.terms.values())).sum(), losses.total)
    with torch.no_grad():
        targets = (logits_of(networks.teacher, [batch_of().global_crops]) / 0.04).softmax(-1)
    assert_close(losses.monitors["teacher_entropy"], torch.special.entr(targets).sum(-1).mean(), **TOLERANCE)
    marginal = torch.special.entr(targets.mean(0)).sum()
    assert_close(losses.monitors["teacher_marginal_entropy"], marginal, **TOLERANCE)
    assert losses.features is not None
    assert losses.features.shape == (8, TINY.dim)


@pytest.mark.parametrize("norm_last_layer", [True, False])
def test_lengths_of_prototypes_are_trained_unless_the_last_layer_is_normed(norm_last_layer: bool) -> None:
    torch.manual_seed(0)
    head = DinoHead(num_prototypes=12, hidden_dim=16, bottleneck_dim=8, norm_last_layer=norm_last_layer)
    networks = Dino(dino_head=head).build(TINY, num_steps=10)
    networks.loss(batch_of(), step=0).total.backward()
    without = {name for name, parameter in networks.student.named_parameters() if parameter.grad is None}
    # Without masks there is nothing to put a mask token in the place of.
    assert without - {"backbone.mask_token"} == ({"dino_head.last_layer.weight_g"} if norm_last_layer else set())
    assert not any(parameter.requires_grad for parameter in networks.teacher.parameters())


def test_a_step_that_was_skipped_leaves_no_trace_in_the_centre() -> None:
    networks = built()
    networks.loss(batch_of(), step=0)
    networks.after_step(0, finite=torch.tensor(False))
    assert not networks.state_dict()["cls_targets.center"].any()
    networks.loss(batch_of(), step=1)
    networks.after_step(1, finite=torch.tensor(True))
    assert networks.state_dict()["cls_targets.center"].any()


def test_the_teacher_follows_by_a_momentum_that_ends_at_one() -> None:
    networks = built()
    assert networks.scheduled(0)["teacher_momentum"] == 0.996
    assert networks.scheduled(10)["teacher_momentum"] == 1.0
    before = [parameter.clone() for parameter in networks.teacher.parameters()]
    with torch.no_grad():
        for parameter in networks.student.parameters():
            parameter.add_(1.0)
    networks.after_step(0)
    for old, new in zip(before, networks.teacher.parameters(), strict=True):
        assert_close(new, old + 0.004)


def test_a_batch_norm_head_has_the_published_names_and_norms_over_rows() -> None:
    head = DinoHead(num_prototypes=12, hidden_dim=16, bottleneck_dim=8, batch_norm=True).build(24)
    linear = [f"mlp.{place}.{kind}" for place in (0, 3, 6) for kind in ("weight", "bias")]
    statistics = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    norms = [f"mlp.{place}.{kind}" for place in (1, 4) for kind in statistics]
    assert head.state_dict().keys() == {*linear, *norms, "last_layer.weight_g", "last_layer.weight_v"}
    x = torch.randn(6, 24)
    rows = head.mlp[0](x)
    hidden = F.gelu((rows - rows.mean(0)) / (rows.var(0, correction=0) + 1e-5).sqrt())
    assert_close(head.mlp[:3](x), hidden, **TOLERANCE)


def test_each_of_centering_and_sharpening_alone_draws_the_targets_one_way() -> None:
    """Of the same logits: no centre leaves the favourite prototype in front, no sharpening leaves all more alike."""
    entropies: dict[tuple[str, float], float] = {}
    for centering in ("softmax", "none"):
        for temperature in (0.04, 0.1):
            networks = built(centering=centering, teacher_temperature=(temperature, temperature))
            for step in range(60):  # the centre has arrived
                losses = networks.loss(batch_of(), step)
                networks.cls_targets.commit()
            entropies[centering, temperature] = float(losses.monitors["teacher_entropy"])
    for centering in ("softmax", "none"):
        assert entropies[centering, 0.04] < entropies[centering, 0.1]
    for temperature in (0.04, 0.1):
        assert entropies["none", temperature] < entropies["softmax", temperature]
    assert entropies["softmax", 0.1] == pytest.approx(math.log(12), rel=0.01)


Wrap = Callable[[dict[str, Tensor]], dict[str, Tensor]]
WRAPPINGS: dict[str, Wrap] = {
    "our heads.safetensors": lambda head: {f"dino_head.{name}": tensor for name, tensor in head.items()},
    "DINO's teacher": lambda head: {f"head.{name}": tensor for name, tensor in head.items()},
    "DINO's student": lambda head: {f"module.head.{name}": tensor for name, tensor in head.items()},
    "iBOT's shared head": lambda head: {
        **{f"head.{name}": tensor for name, tensor in head.items()},
        **{f"head.{name.replace('layer.', 'layer2.')}": tensor for name, tensor in head.items() if "layer." in name},
    },
}


@pytest.mark.parametrize("wrapping", WRAPPINGS)
def test_heads_of_published_checkpoints_load_by_name(wrapping: str) -> None:
    published, own = HEAD.build(24), HEAD.build(24)
    state = WRAPPINGS[wrapping](published.state_dict())
    found = named_heads({**state, "backbone.cls_token": torch.zeros(1), "module.backbone.norm.bias": torch.zeros(1)})
    assert {name.split(".")[0] for name in found} == {"dino_head"}
    own.load_state_dict({name.removeprefix("dino_head."): tensor for name, tensor in found.items()}, strict=True)
    assert_close(own.state_dict(), published.state_dict(), rtol=0, atol=0)


def test_ibots_heads_with_prototypes_of_their_own_become_two_heads_with_one_mlp() -> None:
    cls, patches = HEAD.build(24), HEAD.build(24)
    state = {f"head.{name}": tensor for name, tensor in cls.state_dict().items()}
    state |= {f"head.last_layer2.{name}": tensor for name, tensor in patches.last_layer.state_dict().items()}
    found = named_heads(state)

    def load(prefix: str) -> DinoHeadNet:
        head = HEAD.build(24)
        names = {name.removeprefix(prefix): tensor for name, tensor in found.items() if name.startswith(prefix)}
        head.load_state_dict(names, strict=True)
        return head

    assert_close(load("dino_head.").state_dict(), cls.state_dict(), rtol=0, atol=0)
    both = {**cls.state_dict(), **{f"last_layer.{k}": t for k, t in patches.last_layer.state_dict().items()}}
    assert_close(load("ibot_head.").state_dict(), both, rtol=0, atol=0)
