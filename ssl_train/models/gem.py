"""Generalised-mean pooling: between the mean (power 1) and the largest value (power infinite) of a feature map."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

EPS = 1e-6


class GemPool(nn.Module):
    """Dense tokens to one: each channel's generalised mean (Radenovic et al., arXiv 1711.02512, equation 3).

    Equal, channel by channel, to (mean over places of max(x, 1e-6) ^ power) ^ (1 / power). The power is a tensor of
    the state dict, whether it is learned or not: a file says itself how it pools.
    """

    power: Tensor

    def __init__(self, power: float = 3.0, *, learned: bool = False) -> None:
        super().__init__()
        if power <= 0:
            raise ValueError(f"power is {power}: a generalised mean wants more than 0")
        if learned:
            self.power = nn.Parameter(torch.tensor([power]))
        else:
            self.register_buffer("power", torch.tensor([power]))

    def forward(self, patches: Float[Tensor, "batch patches dim"]) -> Float[Tensor, "batch dim"]:
        with torch.autocast(patches.device.type, enabled=False):  # cubes of small numbers are zero in half precision
            positive = patches.float().clamp(min=EPS)
            power = self.power.float()
            pooled = positive.pow(power).mean(1).pow(1 / power)
        return pooled.to(patches.dtype)


class DescriptorHead(nn.Module):
    """Pool, project, make a unit vector: what SSCD puts on its trunk (Pizzi et al., arXiv 2202.10261, section 4.1)."""

    def __init__(self, in_dim: int, out_dim: int, *, power: float = 3.0, learned_power: bool = False) -> None:
        super().__init__()
        self.pool = GemPool(power, learned=learned_power)
        self.projection = nn.Linear(in_dim, out_dim)

    def forward(self, patches: Float[Tensor, "batch patches dim"]) -> Float[Tensor, "batch out_dim"]:
        # In half precision 1e-12 is zero, and a zero row would become NaN: unit length is made in float32.
        return nn.functional.normalize(self.projection(self.pool(patches)).float(), dim=-1)
