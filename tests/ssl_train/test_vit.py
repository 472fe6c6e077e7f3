from typing import Any

import pytest
import torch
from torch.testing import assert_close

from ssl_train.models.vit import VisionTransformer, Vit

TOLERANCE = {"rtol": 1e-4, "atol": 1e-5}
DINOV2 = {
    "vit_tiny_mlp": {},
    "vit_tiny_reg4": {"num_registers": 4, "interpolation": "antialias"},
    "vit_tiny_swiglu": {"ffn": "swiglu"},
}


def load(vectors: Any, name: str) -> tuple[VisionTransformer, Any]:
    reference = vectors(name)
    network = VisionTransformer(64, 3, 2, patch_size=14, grid=4, **DINOV2[name]).eval()
    network.load_state_dict(reference.under("weights."), strict=True)
    return network, reference


@torch.no_grad()
@pytest.mark.parametrize("name", DINOV2)
def test_tokens_are_those_of_the_published_network(vectors: Any, name: str) -> None:
    network, reference = load(vectors, name)
    plain, masked, oblong = network(
        [reference["in.x"], reference["in.x"], reference["in.x_98x70"]], [None, reference["in.masks"], None]
    )
    for prefix, tokens in (("", plain), ("masked.", masked), ("98x70.", oblong)):
        assert_close(tokens.cls, reference[f"out.{prefix}x_norm_clstoken"], **TOLERANCE)
        assert_close(tokens.patches, reference[f"out.{prefix}x_norm_patchtokens"], **TOLERANCE)
    if "out.x_norm_regtokens" in reference:
        assert_close(plain.registers, reference["out.x_norm_regtokens"], **TOLERANCE)


@torch.no_grad()
@pytest.mark.parametrize("name", DINOV2)
def test_intermediate_blocks_are_those_of_the_published_network(vectors: Any, name: str) -> None:
    network, reference = load(vectors, name)
    for index, (cls, patches) in enumerate(network.intermediate(reference["in.x"], 2)):
        assert_close(cls, reference[f"out.intermediate.{index}.cls"], **TOLERANCE)
        assert_close(patches, reference[f"out.intermediate.{index}.patch"], **TOLERANCE)


@torch.no_grad()
def test_a_dino_network_is_the_same_class_without_layer_scale_and_mask_token(vectors: Any) -> None:
    reference = vectors("dino_v1_vit_tiny")
    network = VisionTransformer(48, 2, 3, patch_size=8, grid=4, layer_scale=None, mask_token=False).eval()
    network.load_state_dict(reference.under("weights."), strict=True)
    assert_close(network.tokens(reference["in.x"]).cls, reference["out.cls"], **TOLERANCE)
    assert_close(network.tokens(reference["in.x_24x40"]).cls, reference["out.cls_24x40"], **TOLERANCE)
    assert_close(network.last_self_attention(reference["in.x"]), reference["out.last_selfattention"], **TOLERANCE)


def test_one_pass_over_crops_of_two_sizes_equals_one_pass_each() -> None:
    network = Vit(size="tiny", patch_size=8, image_size=32, num_registers=2).build().eval()
    large, small = torch.randn(3, 3, 32, 32), torch.randn(5, 3, 16, 16)
    together, apart = network([large, small]), [network([large])[0], network([small])[0]]
    for one, other in zip(together, apart, strict=True):
        assert_close(one.cls, other.cls)
        assert_close(one.patches, other.patches)
        assert_close(one.registers, other.registers)


def test_a_network_without_mask_token_refuses_masks() -> None:
    network = Vit(size="tiny", patch_size=8, image_size=16, mask_token=False).build()
    with pytest.raises(ValueError, match="mask_token=true"):
        network([torch.randn(1, 3, 16, 16)], [torch.ones(1, 4, dtype=torch.bool)])


def test_an_image_that_is_no_whole_number_of_patches_is_refused() -> None:
    with pytest.raises(ValueError, match="30x32 pixels is not a whole number of 8-pixel patches"):
        Vit(size="tiny", patch_size=8, image_size=32).build().tokens(torch.randn(1, 3, 30, 32))
