"""Optimizers: groups by depth and kind of parameter, clipping, and no step on bad numbers."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Annotated, Literal, NamedTuple, TypeAlias

import torch
from pydantic import ConfigDict, Field
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim import AdamW, Optimizer

from ssl_train.lamb import Lamb
from ssl_train.lars import Lars, global_norms, local
from ssl_train.models import Backbone
from ssl_train.schedules import OptimizerSchedules, WarmUpCosine

Share: TypeAlias = Annotated[float, Field(ge=0, le=1)]
Positive: TypeAlias = Annotated[float, Field(gt=0)]
Clip: TypeAlias = Literal["per_network", "per_tensor", "none"]
CLIP_EPS = 1e-6
LAST_LAYERS = ("last_layer.", "prototypes.")
"""Beginnings of the names of heads' prototypes."""


@dataclass(frozen=True)
class Optim:
    """The optimizer and its schedules; the defaults are those of DINOv2's short ViT-L/16 recipe."""

    __pydantic_config__ = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    kind: Literal["adamw", "lamb", "lars", "sgd"] = "adamw"
    """How gradients become steps: `adamw`; `lamb`, Adam's with the length of the matrix, DeiT III's; `sgd` with
    momentum; `lars`, where a matrix's step is a share of its own length, for convolutional networks."""
    lr: Positive = 4e-3
    """Peak learning rate for a batch of `lr_reference_images` images."""
    lr_scaling: Literal["sqrt", "linear", "none"] = "sqrt"
    """How the peak grows with batch / `lr_reference_images`."""
    lr_reference_images: Annotated[int, Field(ge=1)] = 1024
    """Batch for which `lr` is given."""
    final_lr: Annotated[float, Field(ge=0)] = 1e-6
    """Learning rate at the last step."""
    warmup_steps: Annotated[int, Field(ge=0)] = 12_500
    """Steps over which the learning rate grows from 0."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.04
    """Weight decay at the first step."""
    final_weight_decay: Annotated[float, Field(ge=0)] = 0.4
    """Weight decay at the last step."""
    betas: tuple[Share, Share] = (0.9, 0.999)
    """Adam's two momenta; `adamw` and `lamb`."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Momentum of `lars` and `sgd`."""
    trust: Positive = 1e-3
    """A matrix's step, relative to its length, at a learning rate of 1; `lars` only."""
    decay_all: bool = False
    """Decay biases, norms and layer scales too, as MoCo v3 does."""
    max_grad_norm: Positive = 3.0
    """Gradients are clipped to this norm; `clip` says which together."""
    clip: Clip = "per_network"
    """What is clipped as one: all gradients of the backbone and of each head (`per_network`, DINOv2), each parameter's
    on its own (`per_tensor`, DINO), or nothing (`none`, MoCo v3)."""
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 0.9
    """Learning rate of a block relative to the next one's."""
    patch_embed_multiplier: Positive = 0.2
    """Learning rate of the patch projection relative to the other embeddings'."""
    frozen_last_layer_steps: Annotated[int, Field(ge=0)] = 1250
    """Steps during which the heads' prototypes do not move."""
    max_skipped_in_a_row: Annotated[int, Field(ge=1)] = 20
    """Steps with a non-finite loss or gradient are skipped; so many in a row end the run."""

    def peak_lr(self, batch_images: int) -> float:
        """The learning rate after warm-up for a batch of so many images."""
        ratio = batch_images / self.lr_reference_images
        return self.lr * {"sqrt": ratio**0.5, "linear": ratio, "none": 1.0}[self.lr_scaling]

    def schedules(self, *, num_steps: int, batch_images: int) -> OptimizerSchedules:
        """Learning rate and weight decay of a run of `num_steps`."""
        return OptimizerSchedules(
            lr=WarmUpCosine(self.peak_lr(batch_images), self.final_lr, num_steps, min(self.warmup_steps, num_steps)),
            weight_decay=WarmUpCosine(self.weight_decay, self.final_weight_decay, num_steps),
            frozen_last_layer_steps=self.frozen_last_layer_steps,
        )


class Multipliers(NamedTuple):
    """What a parameter takes of the scheduled learning rate and weight decay."""

    lr: float
    weight_decay: float
    is_last_layer: bool


def multipliers(name: str, module: nn.Module, optim: Optim) -> Multipliers:
    """The multipliers of the parameter `name` of the backbone or of a head.

    Layer-wise decay: a backbone's parameter at depth d of L blocks takes layer_decay ^ (L + 1 - d). Biases, norms and
    layer scales are not decayed (unless all are); tokens, positions and the lengths of the prototypes are, as in the
    published runs. Norms are known by having one dimension: in a ResNet no name tells of them.
    """
    lr = 1.0
    if isinstance(module, Backbone):
        lr = optim.layer_decay ** (module.num_layers + 1 - module.layer_of(name))
    if name.startswith("patch_embed."):
        lr *= optim.patch_embed_multiplier
    small = module.get_parameter(name).ndim <= 1 or name.endswith((".bias", ".gamma")) or "norm" in name
    decayed = optim.decay_all or not small
    return Multipliers(lr, 1.0 if decayed else 0.0, name.startswith(LAST_LAYERS))


def build_optimizer(student: nn.ModuleDict, optim: Optim) -> Optimizer:
    """The optimizer, with one group for each set of multipliers; `OptimizerSchedules.apply` fills in the numbers.

    Parameters that are frozen have no place in it.
    """
    groups: dict[Multipliers, list[nn.Parameter]] = {}
    for module in student.values():
        for name, parameter in module.named_parameters():
            if parameter.requires_grad:
                groups.setdefault(multipliers(name, module, optim), []).append(parameter)
    settings = [
        {"params": params, "lr_multiplier": m.lr, "wd_multiplier": m.weight_decay, "is_last_layer": m.is_last_layer}
        for m, params in groups.items()
    ]
    if optim.kind == "adamw":
        return AdamW(settings, lr=0.0, betas=optim.betas, fused=True)
    if optim.kind == "lamb":
        return Lamb(settings, betas=optim.betas)
    return Lars(settings, momentum=optim.momentum, trust=optim.trust if optim.kind == "lars" else None)


def clip_gradients(student: nn.ModuleDict, max_norm: float, how: Clip = "per_network") -> Iterator[tuple[str, Tensor]]:
    """Clip gradients to `max_norm`; yields each submodule's (name, norm before clipping)."""
    for name, module in student.items():
        if how == "per_network":
            norm = torch.nn.utils.clip_grad_norm_(module.parameters(), max_norm)
            yield name, norm.full_tensor() if isinstance(norm, DTensor) else norm
        else:
            yield name, _clip_each(module, max_norm if how == "per_tensor" else None)


@torch.no_grad()
def _clip_each(module: nn.Module, max_norm: float | None) -> Tensor:
    """Clip every parameter's gradient on its own, if at all; the norm of all of them before. One collective."""
    gradients = [parameter.grad for parameter in module.parameters() if parameter.grad is not None]
    if not gradients:
        return torch.zeros((), device=next(module.parameters()).device)
    parts = [local(gradient) for gradient in gradients]
    norms = global_norms(parts, sharded=any(isinstance(gradient, DTensor) for gradient in gradients))
    if max_norm is not None:
        factors = (max_norm / (norms + CLIP_EPS)).clamp_max(1.0)
        torch._foreach_mul_(parts, list(factors.unbind()))
    return norms.norm()


def step_if_finite(optimizer: Optimizer, finite: Tensor) -> None:
    """Take the step, or leave weights and moments as they are; gradients are gone either way.

    `finite` is a flag on the device, and the fused kernel looks at it there: the host does not wait for it.
    """
    optimizer.found_inf = (~finite).float()  # type: ignore[attr-defined]
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


class LossScale(nn.Module):
    """fp16's loss scale: doubled after `growth_steps` good steps, halved after a bad one; all of it on the device.

    Source: Micikevicius et al., Mixed Precision Training (arXiv 1710.03740), section 3.2.
    """

    scale: Tensor
    good_steps: Tensor

    def __init__(self, initial: float = 2.0**16, growth_steps: int = 2000) -> None:
        super().__init__()
        self.growth_steps = growth_steps
        self.register_buffer("scale", torch.tensor(initial))
        self.register_buffer("good_steps", torch.tensor(0, dtype=torch.int32))

    @torch.no_grad()
    def unscale(self, parameters: Iterable[Tensor]) -> None:
        """Divide the gradients by the scale."""
        grads = [p.grad.to_local() if isinstance(p.grad, DTensor) else p.grad for p in parameters if p.grad is not None]
        torch._foreach_mul_(grads, self.scale.reciprocal())

    @torch.no_grad()
    def update(self, finite: Tensor) -> None:
        """Grow or shrink after a step."""
        torch._amp_update_scale_(self.scale, self.good_steps, (~finite).float(), 2.0, 0.5, self.growth_steps)
