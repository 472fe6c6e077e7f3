"""Kozachenko-Leonenko regulariser: features of a batch spread evenly over the sphere."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

EPS = 1e-8


def koleo_loss(features: Float[Tensor, "batch dim"], *, group_images: int | None = None) -> Float[Tensor, ""]:
    """Minus the mean logarithm of the distance to the nearest neighbour, features made unit vectors.

    Neighbours are sought within groups of `group_images` consecutive rows (the whole batch if None); a group needs
    two rows at least, and the batch must be a whole number of groups. Equal to

        x = features / max(norm of each, 1e-8)
        -mean over i of log(norm(x[i] - x[j] + 1e-8) + 1e-8), where j != i of the same group has the largest x[i] . x[j]

    Source: Sablayrolles et al. (arXiv 1806.03198), DINOv2 (arXiv 2304.07193) section 4.
    """
    group = group_images or len(features)
    if group < 2 or len(features) % group:
        raise ValueError(f"{len(features)} features are not a whole number of groups of {group} (two or more)")
    with torch.autocast(features.device.type, enabled=False):
        x = F.normalize(features.float(), dim=-1, eps=EPS).unflatten(0, (-1, group))  # [groups, group, dim]
        with torch.no_grad():
            similarity = x @ x.transpose(-1, -2)
            similarity.diagonal(dim1=-2, dim2=-1).fill_(-1)
            nearest = similarity.argmax(-1)  # [groups, group]
        neighbours = torch.gather(x, 1, nearest.unsqueeze(-1).expand_as(x))
        return -(F.pairwise_distance(x, neighbours, eps=EPS) + EPS).log().mean()
