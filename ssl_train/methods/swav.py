"""SwAV: every crop guesses to which prototypes another view of the image is assigned, all prototypes alike in use."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal, cast

import torch
from jaxtyping import Float
from pydantic import ConfigDict, Field
from torch import Tensor, nn

from ssl_train.data.collate import Batch
from ssl_train.data.masking import Masks, NoPatches
from ssl_train.losses.dino import prototype_monitors
from ssl_train.losses.swapped import swapped_prediction
from ssl_train.methods.base import FORWARD_BACKWARD, NUM_VIEWS, Losses, MethodConfig, MethodNetworks
from ssl_train.models import Model
from ssl_train.models.projectors import SwavHead, SwavHeadNet
from ssl_train.ops.gather import gathered, num_ranks, own_share


@dataclass(frozen=True)
class Queue:
    """Rows of earlier batches that are assigned along, for batches that are small beside the number of prototypes."""

    __pydantic_config__ = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    num_rows: Annotated[int, Field(ge=1)] = 3840
    """Rows of each view, all processes together."""
    from_step: Annotated[int, Field(ge=0)] = 0
    """Step from which rows are kept; they are used once there are enough."""

    def is_full(self, step: int, batch_images: int) -> bool:
        """Whether enough batches have gone by before `step`."""
        return (step - self.from_step) * batch_images >= self.num_rows


@dataclass(frozen=True)
class Swav(MethodConfig):
    """SwAV (arXiv 2006.09882); the defaults are those of its ResNet-50. For any backbone.

    `optim.frozen_last_layer_steps` holds the prototypes still at the beginning (313 steps in the published runs).
    """

    __pydantic_config__ = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    kind: Literal["swav"] = "swav"
    """Tag of this method."""
    swav_head: SwavHead = field(default_factory=SwavHead)
    """Head over class (or pooled) tokens, and its prototypes."""
    temperature: Annotated[float, Field(gt=0)] = 0.1
    """Temperature of what crops guess."""
    epsilon: Annotated[float, Field(gt=0)] = 0.05
    """Temperature of the assignments: how much they are smoothed."""
    sinkhorn_iterations: Annotated[int, Field(ge=1)] = 3
    """Iterations of Sinkhorn-Knopp."""
    queue: Queue | None = None
    """Rows of earlier batches; null for none."""

    masks: ClassVar[Masks] = NoPatches()
    group_images: ClassVar[int | None] = None
    has_teacher: ClassVar[bool] = False

    def build(self, model: Model, *, num_steps: int) -> "SwavNetworks":
        """The network, freshly initialised from torch's global random state."""
        return SwavNetworks(self, model)

    def rules(self, share: int) -> dict[str, bool]:
        """See `MethodConfig.rules`."""
        return {
            f"each process has {share} images of data.batch_images; method.kind = {self.kind} needs 2 or more, for its "
            "head's norms": share < 2
        }

    def head_flops(self, *, num_crops: int, num_patches: int, student_dim: int, teacher_dim: int) -> float:
        """See `MethodConfig.head_flops`."""
        return FORWARD_BACKWARD * num_crops * self.swav_head.row_flops(student_dim)


class SwavNetworks(MethodNetworks):
    """The network of a run with its queue, and a step's loss over it."""

    queue: Tensor | None
    """[views, rows, dim] of all processes, the newest first, the same in each; zeros where nothing has come yet."""

    def __init__(self, config: Swav, model: Model) -> None:
        backbone = model.build()
        head = config.swav_head.build(backbone.dim)
        super().__init__(nn.ModuleDict({"backbone": backbone, "swav_head": head}), None)
        self.config = config
        rows = None if config.queue is None else (NUM_VIEWS, config.queue.num_rows, config.swav_head.mlp.out_dim)
        self.register_buffer("queue", None if rows is None else torch.zeros(rows))
        self._newest: Tensor | None = None
        self.train()

    def loss(self, batch: Batch, step: int) -> Losses:
        """The loss of one process's part of a batch; its gradient is to be averaged over processes.

            z = unit(mlp(network(crops))) for all crops, global ones first
            for view in the two global crops:
                q = sinkhorn_knopp(z[view] (and the queue) @ prototypes.T / epsilon), rows of all processes
                for crop in all crops but view:
                    total += mean over images of -sum_k q_k * log softmax(z[crop] @ prototypes.T / temperature)_k
            total / (2 * (crops - 1))

        The head's norms look at all crops of all processes together.
        Source: SwAV (arXiv 2006.09882), equations 1 to 5 and algorithm 1.
        """
        crops = [batch.global_crops, *([batch.local_crops] if len(batch.local_crops) else [])]
        tokens = self.student["backbone"](crops)
        projected = self.student["swav_head"](torch.cat([group.cls for group in tokens]))
        swapped = swapped_prediction(
            projected,
            tuple(self._kept(step, batch.num_images)),
            num_images=batch.num_images,
            temperature=self.config.temperature,
            epsilon=self.config.epsilon,
            iterations=self.config.sinkhorn_iterations,
        )
        self._keep(projected.bottleneck.detach(), batch.num_images, step)
        terms = {"swapped_global": swapped.by_crop[:NUM_VIEWS].sum()}
        if len(swapped.by_crop) > NUM_VIEWS:
            terms["swapped_local"] = swapped.by_crop[NUM_VIEWS:].sum()
        return Losses(swapped.total, terms, prototype_monitors(swapped), tokens[0].cls.detach())

    @torch.no_grad()
    def after_step(self, step: int, *, finite: Tensor | bool = True) -> None:
        """Prototypes become one long again, and the rows of a `finite` step join the queue; nobody waits."""
        cast(SwavHeadNet, self.student["swav_head"]).normalise()
        if self.queue is not None and self._newest is not None:
            taken = torch.as_tensor(finite, device=self.queue.device)
            moved = torch.cat([self._newest, self.queue], dim=1)[:, : self.queue.shape[1]]
            self.queue.copy_(torch.where(taken, moved, self.queue))
            self._newest = None

    def _kept(self, step: int, num_images: int) -> Iterator[Tensor]:
        """This process's share of the queue for each view, once it is full."""
        if self.config.queue is None or self.queue is None:
            return
        if self.config.queue.is_full(step, num_images * num_ranks()):
            for rows in self.queue:
                yield own_share(rows)

    def _keep(self, rows: Float[Tensor, "crops_x_batch dim"], num_images: int, step: int) -> None:
        if self.config.queue is not None and step >= self.config.queue.from_step:
            views = rows[: NUM_VIEWS * num_images].float().split(num_images)
            self._newest = torch.stack([gathered(view) for view in views])
