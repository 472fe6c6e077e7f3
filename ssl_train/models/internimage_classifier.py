"""The published InternImage classifiers, whole: the backbone and the heads that their checkpoints hold beside it."""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ssl_train.models.internimage import InternImageNetwork
from ssl_train.models.internimage_layers import layer_norm
from ssl_train.models.internimage_scaling import Variant

WIDENING = 1.5
"""How much wider the features of T to XL are than the last stage."""
ATTENTION_DIM, ATTENTION_HEADS, ATTENTION_OUT = 1024, 16, 768
"""Width, heads and output of the attention that H and G classify by."""


class InternImageClassifier(InternImageNetwork):
    """An InternImage that says class logits; `load_state_dict` takes the published checkpoints with strict=True.

    T to XL: a 1x1 convolution, BatchNorm, GELU and mean. H and G: attention of the mean over all places of the last
    two stages, brought to one size.
    """

    def __init__(self, variant: Variant, num_classes: int, *, drop_path: float = 0.0, image_size: int = 224) -> None:
        super().__init__(variant, drop_path=drop_path, image_size=image_size)
        self.attends = variant.attention_head
        if self.attends:
            self.dcnv3_head_x4 = nn.Sequential(nn.Conv2d(self.dim, 4 * ATTENTION_DIM, 1), nn.PixelShuffle(2))
            self.dcnv3_head_x3 = nn.Conv2d(self.dim // 2, ATTENTION_DIM, 1)
            self.clip_projector = AttentionPool(ATTENTION_DIM, ATTENTION_OUT)
            self.fc_norm = layer_norm(ATTENTION_OUT)
            self.num_features = ATTENTION_OUT
        else:
            self.num_features = int(WIDENING * self.dim)
            norm = nn.Sequential(nn.BatchNorm2d(self.num_features))
            self.conv_head = nn.Sequential(nn.Conv2d(self.dim, self.num_features, 1, bias=False), norm, nn.GELU())
        self.head = nn.Linear(self.num_features, num_classes)
        self.initialise()

    def features(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch features"]:
        """What the published networks call features: the input of their last linear layer.

        H and G need an even number of places in the third stage: images whose sides are multiples of 32 pixels.
        """
        *_, third, last = (stage.permute(0, 3, 1, 2) for stage in self.stages(images))
        if not self.attends:
            pooled: Tensor = self.conv_head(last).mean((2, 3))
            return pooled
        places = (self.dcnv3_head_x4(last) + self.dcnv3_head_x3(third)).flatten(2).transpose(1, 2)
        attended: Tensor = self.fc_norm(self.clip_projector(places))
        return attended

    def logits(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch classes"]:
        """A number for each class."""
        out: Tensor = self.head(self.features(images))
        return out


class AttentionPool(nn.Module):
    """What the mean of some places reads from all of them, by attention."""

    def __init__(self, dim: int, out_dim: int) -> None:
        super().__init__()
        self.norm1_q, self.norm1_k, self.norm1_v = layer_norm(dim), layer_norm(dim), layer_norm(dim)
        self.cross_dcn = CrossAttention(dim, out_dim)

    def forward(self, places: Float[Tensor, "batch places dim"]) -> Float[Tensor, "batch out_dim"]:
        query = self.norm1_q(places.mean(1, keepdim=True))
        out: Tensor = self.cross_dcn(query, self.norm1_k(places), self.norm1_v(places))
        return out.squeeze(1)


class CrossAttention(nn.Module):
    """Multi-head attention whose biases lie beside its projections."""

    def __init__(self, dim: int, out_dim: int) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(dim, dim, bias=False) for _ in range(3))
        self.q_bias, self.k_bias, self.v_bias = (nn.Parameter(self.q.weight.new_zeros(dim)) for _ in range(3))
        self.proj = nn.Linear(dim, out_dim)

    def forward(
        self,
        query: Float[Tensor, "batch queries dim"],
        key: Float[Tensor, "batch places dim"],
        value: Float[Tensor, "batch places dim"],
    ) -> Float[Tensor, "batch queries out_dim"]:
        q, k, v = (
            F.linear(x, linear.weight, bias).unflatten(-1, (ATTENTION_HEADS, -1)).transpose(1, 2)
            for x, linear, bias in (
                (query, self.q, self.q_bias),
                (key, self.k, self.k_bias),
                (value, self.v, self.v_bias),
            )
        )  # each [batch, heads, places, head_dim]
        out: Tensor = self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return out
