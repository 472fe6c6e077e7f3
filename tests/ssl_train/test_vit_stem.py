import math
from typing import Any

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from ssl_train.models import Vit
from ssl_train.models.vit_stem import ConvPatchEmbed, conv_stem_weights, initialise_mocov3, sincos_positions


def test_positions_are_the_published_ones(vectors: Any) -> None:
    # That table is of a grid 3 high and 5 wide, counted column by column: row by row, of one 5 high and 3 wide.
    assert_close(sincos_positions(5, 3, 16), vectors("mocov3")["sincos.3x5x16"], rtol=1e-5, atol=1e-6)


def test_positions_are_the_loop_over_rows_columns_and_frequencies() -> None:
    rows, columns, dim = 3, 4, 8
    table = sincos_positions(rows, columns, dim)[0]
    assert not table[0].any()
    for row in range(rows):
        for column in range(columns):
            expected = []
            for place in (row, column):
                for wave in (math.sin, math.cos):
                    expected.append([wave(place * 10_000 ** (-i / (dim / 4))) for i in range(dim // 4)])
            assert_close(table[1 + row * columns + column], torch.tensor(expected).flatten())


def test_a_width_that_four_does_not_divide_is_refused() -> None:
    with pytest.raises(ValueError, match="not 6"):
        sincos_positions(2, 2, 6)


@pytest.mark.parametrize("patch", [4, 8, 16])
def test_a_convolutional_stem_gives_one_token_a_patch_under_the_published_names(patch: int) -> None:
    stem = ConvPatchEmbed(patch, 32)
    assert stem(torch.randn(2, 3, 32, 48)).shape == (2, 32 // patch, 48 // patch, 32)
    places = int(math.log2(patch))
    convolutions = {f"proj.{3 * i}.weight" for i in range(places)} | {f"proj.{3 * places}.weight"}
    assert convolutions == {name for name, p in stem.named_parameters() if p.ndim == 4}
    assert stem.proj[0].weight.shape[0] * 2 ** (places - 1) == 32
    weights = [weight for _, weight in conv_stem_weights(patch, 32)]
    assert weights == [layer.weight.numel() for layer in stem.proj if isinstance(layer, nn.Conv2d)]


def test_a_patch_that_halving_does_not_reach_and_an_odd_picture_are_refused() -> None:
    with pytest.raises(ValueError, match="patch_size = 14"):
        ConvPatchEmbed(14, 32)
    with pytest.raises(ValueError, match="whole number of 16-pixel"):
        ConvPatchEmbed(16, 32)(torch.zeros(1, 3, 32, 40))


def test_weights_are_drawn_as_published() -> None:
    network = Vit(size="tiny", patch_size=8, image_size=32).build()
    initialise_mocov3(network)
    dim = network.dim
    bounds = {
        "patch_embed.proj.weight": math.sqrt(6 / (3 * 8**2 + dim)),
        "blocks.1.attn.qkv.weight": math.sqrt(6 / (dim + dim)),
        "blocks.1.attn.proj.weight": math.sqrt(6 / (dim + dim)),
        "blocks.2.mlp.fc1.weight": math.sqrt(6 / (dim + 4 * dim)),
    }
    parameters = dict(network.named_parameters())
    for name, bound in bounds.items():
        drawn = parameters[name].detach()
        assert 0.99 * bound < drawn.abs().max() <= bound
        assert drawn.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.03)
    assert parameters["cls_token"].abs().max() < 1e-5
    assert not any(p.any() for name, p in parameters.items() if name.endswith(".bias"))
