"""The plain form of DINOv2's step, as one writes it from the papers: what `bench.train_step` measures ours against.

Each size of crops goes through the network by itself; drop path computes every branch and multiplies what it drops by
zero; logits, targets and log-probabilities over prototypes stand in memory whole, in fp32. The weights are those of our
own networks, so that losses and gradients can be compared (tests/ssl_train/test_train_step_bench.py does).
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssl_train.data.collate import Batch
from ssl_train.losses.centering import SoftmaxCentering, sinkhorn_knopp
from ssl_train.losses.dino import dino_loss, swapped_dino_loss
from ssl_train.losses.ibot import ibot_loss
from ssl_train.losses.koleo import koleo_loss

NUM_VIEWS = 2
Draw = Callable[[int, float], Tensor]
"""(crops, drop) -> the weight of a residual branch for each crop."""


def bernoulli(crops: int, drop: float) -> Tensor:
    """Drop path as timm has it: every crop by its own chance, what is kept scaled up."""
    return torch.empty(crops).bernoulli_(1 - drop) / (1 - drop)


class PlainStep:
    """Loss, optimizer and moving average over the networks of our own method."""

    def __init__(self, networks: Any, optimizer: torch.optim.Optimizer, *, max_grad_norm: float) -> None:
        self.networks, self.optimizer, self.max_grad_norm = networks, optimizer, max_grad_norm

    def __call__(self, batch: Batch, step: int) -> Tensor:
        """One step; its loss."""
        total = plain_loss(self.networks, batch, step)
        total.backward()  # type: ignore[no-untyped-call]
        for module in self.networks.student.values():
            torch.nn.utils.clip_grad_norm_(module.parameters(), self.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        momentum = self.networks.momentum(step)
        with torch.no_grad():
            for slow, fast in zip(self.networks.teacher.parameters(), self.networks.student.parameters(), strict=True):
                slow.mul_(momentum).add_(fast, alpha=1 - momentum)
        return total.detach()


def plain_loss(networks: Any, batch: Batch, step: int, draw: Draw = bernoulli) -> Tensor:
    """The loss of DINOv2Networks, by the textbook."""
    config, temperature = networks.config, networks.temperature(step)
    num_images, num_local = batch.num_images, len(batch.local_crops) // batch.num_images
    with torch.no_grad():
        views = tokens(networks.teacher["backbone"], batch.global_crops, None, _keep_all)
        cls_targets = _targets(networks.cls_targets, logits(networks.teacher, "dino_head", views[:, 0]), temperature)
        rows = _masked(networks.teacher["backbone"], views, batch)
        patch_targets = _targets(networks.patch_targets, logits(networks.teacher, "ibot_head", rows), temperature)
        t = cls_targets.unflatten(0, (NUM_VIEWS, -1))
    seen = tokens(networks.student["backbone"], batch.global_crops, batch.masks, draw)
    small = tokens(networks.student["backbone"], batch.local_crops, None, draw)
    s = logits(networks.student, "dino_head", torch.cat([seen[:, 0], small[:, 0]])).unflatten(0, (-1, num_images))
    student = config.student_temperature
    pairs = NUM_VIEWS * num_local + NUM_VIEWS * (NUM_VIEWS - 1)
    dino = dino_loss(s[NUM_VIEWS:], t, temperature=student) + swapped_dino_loss(s[:NUM_VIEWS], t, temperature=student)
    patches = logits(networks.student, "ibot_head", _masked(networks.student["backbone"], seen, batch))
    ibot = ibot_loss(patches, patch_targets, batch.mask_weights, num_crops=len(seen), temperature=student)
    spread = [koleo_loss(view, group_images=config.group_images) for view in seen[:, 0].chunk(NUM_VIEWS)]
    koleo = config.koleo_weight * torch.stack(spread).sum()
    return config.dino_weight * dino / pairs + config.ibot_weight * ibot + koleo


def tokens(backbone: Any, crops: Tensor, masks: Tensor | None, draw: Draw) -> Tensor:
    """[crops, tokens, dim] of crops of one size, after the last norm."""
    x = backbone.embed(crops, masks)
    for block in backbone.blocks:
        x = x + _dropped(block.ls1(_attention(block.attn, block.norm1(x))), block, draw)
        x = x + _dropped(block.ls2(block.mlp(block.norm2(x))), block, draw)
    out: Tensor = backbone.norm(x)
    return out


def logits(modules: nn.ModuleDict, name: str, rows: Tensor) -> Tensor:
    """What a head (the class tokens' where it is shared) says of rows, whole and in fp32."""
    head: Any = modules[name if name in modules else "dino_head"]
    return F.linear(F.normalize(head.mlp(rows), dim=-1), head.last_layer()).float()


def _attention(attention: Any, x: Tensor) -> Tensor:
    q, k, v = attention.qkv(x).unflatten(-1, (3, attention.num_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
    out: Tensor = attention.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
    return out


def _dropped(branch: Tensor, block: Any, draw: Draw) -> Tensor:
    if not block.training or block.drop_path == 0.0:
        return branch
    weights = draw(len(branch), block.drop_path).to(branch.device, branch.dtype)
    return branch * weights[:, None, None]


def _keep_all(crops: int, _drop: float) -> Tensor:
    return torch.ones(crops)


def _targets(centering: Any, z: Tensor, temperature: float) -> Tensor:
    if not isinstance(centering, SoftmaxCentering):
        return sinkhorn_knopp(z, temperature=temperature)
    targets = ((z - centering.center) / temperature).softmax(-1)
    if len(z):
        centering.center.lerp_(z.mean(0, keepdim=True), 1 - centering.momentum)
    return targets


def _masked(backbone: Any, seen: Tensor, batch: Batch) -> Tensor:
    return seen[:, 1 + backbone.num_registers :].flatten(0, 1)[batch.masked]
