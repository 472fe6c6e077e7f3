"""What every backbone is: crops in, tokens out, and the few things that a trainer asks of it."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ssl_train.ops.attention import Kernel


class Tokens(NamedTuple):
    """What a backbone says of a group of equally large crops, after its last norm."""

    cls: Float[Tensor, "batch dim"]
    """The class token; the pooled one of a backbone that has none."""
    registers: Float[Tensor, "batch registers dim"]
    """[batch, 0, dim] where there are none."""
    patches: Float[Tensor, "batch patches dim"]
    """The dense tokens, row by row."""
    grid: tuple[int, int]
    """Rows and columns of them."""

    @property
    def map(self) -> Float[Tensor, "batch dim rows columns"]:
        """The dense tokens as a picture."""
        return self.patches.transpose(1, 2).unflatten(2, self.grid)


class Unit(nn.Module):
    """A piece of a backbone that is compiled, recomputed and sharded as one; subclasses say what it computes."""

    def __init__(self) -> None:
        super().__init__()
        self.recompute = False  # activations are made again in the backward pass, not kept

    def forward(self, *inputs: Any) -> Any:
        if self.recompute and torch.is_grad_enabled():
            return checkpoint(self.compute, *inputs, use_reentrant=False)
        return self.compute(*inputs)

    def compute(self, *inputs: Any) -> Any:
        """What the unit does; a function of its inputs, its weights and the random state."""
        raise NotImplementedError

    def compile_compute(self, *, fullgraph: bool) -> None:
        """Compile what the unit computes, for the shapes it will see: each makes a graph of its own."""
        self.compute = torch.compile(self.compute, fullgraph=fullgraph, dynamic=False)  # type: ignore[method-assign]


class Backbone(nn.Module):
    """Base of all backbones."""

    dim: int
    """Width of class and dense tokens."""
    patch_size: int
    """Pixels along a side of what one dense token stands for."""
    image_size: int = 224
    """Side in pixels of the images that it was built for."""
    takes_masks: bool = False
    """Whether patches can be hidden."""
    num_layers: int
    """Layers, for layer-wise learning rates."""

    def forward(
        self,
        crops: Sequence[Float[Tensor, "_batch 3 _height _width"]],
        masks: Sequence[Bool[Tensor, "_batch _patches"] | None] | None = None,
    ) -> list[Tokens]:
        """The tokens of each group of crops; True in a mask hides the patch. ValueError where none can be hidden."""
        raise NotImplementedError

    def tokens(self, images: Float[Tensor, "batch 3 height width"]) -> Tokens:
        """The tokens of images of one size."""
        tokens: Tokens = self([images])[0]
        return tokens

    def intermediate(
        self, images: Float[Tensor, "batch 3 height width"], blocks: Iterable[int] | int
    ) -> list[tuple[Float[Tensor, "batch dim"], Float[Tensor, "batch dim rows columns"]]]:
        """Class (or pooled) token and dense map of the given blocks or stages, or of the last so many."""
        raise NotImplementedError

    def units(self) -> list[Unit]:
        """The pieces that are compiled, recomputed and sharded one by one, in the order of the forward pass."""
        raise NotImplementedError

    def layer_of(self, parameter: str) -> int:
        """Depth of a parameter: 0 for the stem and the embeddings, 1 to num_layers, then num_layers + 1."""
        raise NotImplementedError

    def stem(self) -> nn.Module:
        """What turns pixels into the first features: the patch projection, or the first convolutions."""
        raise NotImplementedError

    def use_kernel(self, kernel: Kernel) -> None:
        """Compute attention by this kernel, where there is attention."""

    def fitted(self, loaded: "Backbone") -> Mapping[str, Tensor]:
        """The tensors of another network of this kind, for this one: positions are interpolated where there are any."""
        state: dict[str, Tensor] = loaded.state_dict()
        return state


def freeze_stem(backbone: Backbone) -> None:
    """Leave the stem as it was drawn: the cure that MoCo v3 found for unstable training (arXiv 2104.02057, 4.3)."""
    backbone.stem().requires_grad_(False)
