"""InternImage: the published numbers and names, the paper's rules, and what a trainer asks of every backbone."""

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter
from torch import Tensor, nn
from torch.testing import assert_close
from torch.utils.flop_counter import FlopCounterMode

from ssl_train.errors import CheckpointError
from ssl_train.models.backbone import Unit
from ssl_train.models.internimage import InternImage, InternImageNetwork, infer_internimage
from ssl_train.models.internimage_classifier import ATTENTION_DIM, ATTENTION_HEADS, InternImageClassifier
from ssl_train.models.internimage_layers import Level, residual
from ssl_train.models.internimage_scaling import VARIANTS, Size, Variant, scaled, stacked
from ssl_train.models.load import load_backbone

PUBLISHED: dict[str, Size] = {
    "internimage_t_1k_224": "tiny",
    "internimage_s_1k_224": "small",
    "internimage_b_1k_224": "base",
    "internimage_l_22kto1k_384": "large",
    "internimage_xl_22kto1k_384": "xlarge",
    "internimage_h_22kto1k_640": "huge",
}
TINY = Variant(16, (1, 1, 2, 1), (1, 2, 4, 8))
H_LIKE = replace(TINY, norm="res_post", dw_kernel=5, centre_gate=True, post_norm_blocks=(0,), attention_head=True)


def varied(network: nn.Module) -> Any:
    """With weights that change what goes through them: as initialised, all points weigh the same and stay in place."""
    for name, parameter in network.named_parameters():
        nn.init.normal_(parameter, 1.0 if "norm" in name and "weight" in name else 0.0, 0.2)
    return network


def classifier_of(metadata: dict[str, str]) -> InternImageClassifier:
    said = json.loads(metadata["config"])
    variant = Variant(
        said["channels"],
        tuple(said["depths"]),
        tuple(said["groups"]),
        norm="post" if said["post_norm"] else "pre",
        layer_scale=said["layer_scale"],
        offset_scale=said["offset_scale"],
    )
    return InternImageClassifier(variant, said["num_classes"]).eval()


@pytest.mark.parametrize("name", ["internimage_tiny_t_like", "internimage_tiny_b_like"])
@torch.no_grad()
def test_stages_features_and_logits_are_the_published_ones(name: str, vectors: Callable[[str], Any]) -> None:
    file = vectors(name)
    network = classifier_of(file.metadata)
    network.load_state_dict(file.under("weights."), strict=True)
    for index, stage in enumerate(network.stages(file["in.x"])):
        assert_close(stage, file[f"out.stage{index}"], rtol=1e-4, atol=1e-5)
    assert_close(network.features(file["in.x"]), file["out.features"], rtol=1e-4, atol=1e-5)
    assert_close(network.logits(file["in.x"]), file["out.logits"], rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_a_stage_of_the_largest_style_is_the_published_one(vectors: Callable[[str], Any]) -> None:
    file = vectors("internimage_block_h_like")
    said = json.loads(file.metadata["config"])
    # The stage stands alone in the file; post norms are the third stage's, so it is that here, of a quarter the width.
    variant = Variant(
        said["channels"] // 4,
        (1, 1, said["depth"], 1),
        (1, 1, said["groups"], 1),
        norm="res_post",
        dw_kernel=said["dw_kernel_size"],
        centre_gate=said["center_feature_scale"],
        post_norm_blocks=tuple(said["post_norm_block_ids"]),
    )
    level = Level(variant, 2, drop_paths=[0.0] * said["depth"]).eval()
    level.load_state_dict(file.under("weights."), strict=True)
    stage = level(file["in.x"])
    assert_close(stage, file["out.x_before_downsample"], rtol=1e-4, atol=1e-5)
    assert level.downsample is not None
    assert_close(level.downsample(stage), file["out.x"], rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_h_classifies_by_what_a_mean_reads_from_all_places() -> None:
    """The head of H and G has no vector; this is its published code's sum, place by place and head by head."""
    network: InternImageClassifier = varied(InternImageClassifier(H_LIKE, 5)).double().eval()
    images = torch.randn(2, 3, 64, 96, dtype=torch.float64)
    *_, third, last = network.stages(images)  # [2, 4, 6, 64], [2, 2, 3, 128]; the second image is looked at
    widen, bring = network.dcnv3_head_x4[0], network.dcnv3_head_x3
    pool, attention = network.clip_projector, network.clip_projector.cross_dcn
    places = []
    for row in range(4):
        for column in range(6):
            # of each place of the last stage four: a channel's quarter says which corner it is
            wide = widen.weight[:, :, 0, 0] @ last[1, row // 2, column // 2] + widen.bias
            quarter = wide.view(ATTENTION_DIM, 4)[:, 2 * (row % 2) + column % 2]
            places.append(quarter + bring.weight[:, :, 0, 0] @ third[1, row, column] + bring.bias)
    mean = torch.stack(places).mean(0)
    query = attention.q.weight @ pool.norm1_q(mean) + attention.q_bias
    read = []
    for head in range(ATTENTION_HEADS):
        own = slice(64 * head, 64 * head + 64)
        keys = [attention.k.weight[own] @ pool.norm1_k(place) + attention.k_bias[own] for place in places]
        values = [attention.v.weight[own] @ pool.norm1_v(place) + attention.v_bias[own] for place in places]
        weights = torch.stack([query[own] @ key / 8 for key in keys]).softmax(0)
        read.append(sum(weight * value for weight, value in zip(weights, values, strict=True)))
    features = network.fc_norm(attention.proj(torch.cat(read)))
    assert_close(network.features(images)[1], features)
    assert_close(network.logits(images)[1], network.head(features))


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_names_and_shapes_load_strictly(name: str, facts: Callable[[str], Any]) -> None:
    shapes = facts("internimage_state_dict_shapes")[name]
    with torch.device("meta"):
        state = {key: torch.empty(shape) for key, shape in shapes.items()}
        network = InternImageClassifier(VARIANTS[PUBLISHED[name]], 1000)
    network.load_state_dict(state, strict=True, assign=True)
    assert infer_internimage(state) == InternImage(size=PUBLISHED[name])


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_settings_follow_the_stacking_rules(name: str, facts: Callable[[str], Any]) -> None:
    said = facts("internimage_configs")[name]
    channels, depths, groups = said["channels"], tuple(said["depths"]), tuple(said["groups"])
    ruled = stacked(channels, channels // groups[0], depths[0], depths[2])
    assert (ruled.channels, ruled.depths, ruled.groups) == (channels, depths, groups)
    own = VARIANTS[PUBLISHED[name]]
    assert (own.channels, own.depths, own.groups) == (channels, depths, groups)
    assert own.layer_scale == said.get("layer_scale")
    assert own.offset_scale == said.get("offset_scale", 1.0)
    assert own.dw_kernel == said.get("dw_kernel_size", 3)
    style = "res_post" if said.get("res_post_norm") else "post" if said.get("post_norm") else "pre"
    assert own.norm == style
    assert own.post_norm_blocks == tuple(said.get("level2_post_norm_block_ids", ()))
    assert own.centre_gate == said.get("center_feature_scale", False)
    assert own.attention_head == said.get("use_clip_projector", False)


@pytest.mark.parametrize(
    ("size", "millions"), [("tiny", 30), ("small", 50), ("base", 97), ("large", 223), ("xlarge", 335)]
)
def test_published_sizes_have_the_weights_that_the_paper_says(size: Size, millions: int) -> None:
    with torch.device("meta"):
        network = InternImageClassifier(VARIANTS[size], 1000)
    assert sum(p.numel() for p in network.parameters()) / 1e6 == pytest.approx(millions, rel=0.02)


def test_stacking_refuses_what_the_rules_exclude() -> None:
    with pytest.raises(ValueError, match="70 channels do not part into groups of 16"):
        stacked(70, 16, 4, 18)
    with pytest.raises(ValueError, match="3 blocks are fewer than 4"):
        stacked(64, 16, 4, 3)


def test_scaling_begins_with_t_and_doubles_the_operations() -> None:
    assert scaled(0.0) == VARIANTS["tiny"]
    cost = [InternImage(variant=scaled(doublings)).forward_flops(224) for doublings in range(5)]
    assert (cost[4] / cost[0]) ** (1 / 4) == pytest.approx(2.0, rel=0.05)


@pytest.mark.parametrize(("size", "doublings"), [("small", 0.73), ("base", 1.82), ("large", 2.98), ("xlarge", 3.57)])
def test_scaled_networks_are_near_the_published_ones(size: Size, doublings: float) -> None:
    assert scaled(doublings).channels == VARIANTS[size].channels
    assert abs(sum(scaled(doublings).depths) - sum(VARIANTS[size].depths)) <= 3


@pytest.mark.parametrize("variant", [TINY, H_LIKE])
@torch.no_grad()
def test_operations_are_what_torch_counts(variant: Variant) -> None:
    config = InternImage(variant=variant)
    with FlopCounterMode(display=False) as counted:
        config.build().tokens(torch.randn(1, 3, 70, 70))
    assert config.forward_flops(70) == counted.get_total_flops()


@torch.no_grad()
def test_operations_of_t_are_the_five_billion_multiply_adds_of_the_paper() -> None:
    assert InternImage().forward_flops(224) / 2 == pytest.approx(5e9, rel=0.08)


@torch.no_grad()
def test_tokens_are_the_last_stage_row_by_row_and_their_mean() -> None:
    network = varied(InternImage(size="nano").build()).eval()
    images = torch.randn(2, 3, 64, 96)
    tokens, (pooled, dense) = network.tokens(images), network.intermediate(images, 1)[0]
    assert tokens.grid == (2, 3)
    assert_close(tokens.map, dense)
    assert_close(tokens.cls, tokens.patches.mean(1))
    assert_close(tokens.cls, pooled)
    assert tokens.registers.shape == (2, 0, network.dim)


@torch.no_grad()
def test_stages_halve_the_side_and_double_the_width() -> None:
    network = InternImage(size="nano").build().eval()
    maps = [dense for _, dense in network.intermediate(torch.randn(1, 3, 64, 64), range(4))]
    assert [tuple(dense.shape[1:]) for dense in maps] == [(16, 16, 16), (32, 8, 8), (64, 4, 4), (128, 2, 2)]


@torch.no_grad()
def test_crops_of_several_sizes_are_seen_one_by_one() -> None:
    network = varied(InternImage(size="nano").build()).eval()
    crops = [torch.randn(2, 3, 64, 64), torch.randn(3, 3, 32, 32)]
    for tokens, images in zip(network(crops), crops, strict=True):
        assert_close(tokens.patches, network.tokens(images).patches)


def test_masks_are_refused() -> None:
    network = InternImage(size="nano").build()
    with pytest.raises(ValueError, match="cannot hide patches"):
        network([torch.randn(1, 3, 32, 32)], [torch.ones(1, 1, dtype=torch.bool)])


def test_nano_is_small_and_learns() -> None:
    network = InternImage(size="nano", drop_path=0.2).build().train()
    assert sum(p.numel() for p in network.parameters()) < 5e5
    images, wanted = torch.randn(4, 3, 32, 32), torch.randn(4, 128)
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
    losses = []
    for _ in range(12):
        loss = (network.tokens(images).cls - wanted).square().mean()
        optimizer.zero_grad()
        loss.backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]


def test_depths_of_parameters_follow_the_forward_pass() -> None:
    network = InternImageNetwork(H_LIKE)
    assert network.num_layers == 5
    expected = {
        "patch_embed.conv1.weight": 0,
        "levels.0.blocks.0.dcn.offset.weight": 1,
        "levels.0.norm.0.weight": 2,
        "levels.0.downsample.conv.weight": 2,
        "levels.1.blocks.0.norm1.0.bias": 2,
        "levels.2.blocks.1.mlp.fc1.weight": 4,
        "levels.2.post_norms.0.0.weight": 3,
        "levels.2.downsample.norm.1.weight": 5,
        "levels.3.blocks.0.norm1.0.bias": 5,
        "levels.3.norm.0.weight": 6,
    }
    assert {name: network.layer_of(name) for name in expected} == expected
    assert all(0 <= network.layer_of(name) <= 6 for name, _ in network.named_parameters())


def test_the_share_of_skipped_images_grows_from_nothing() -> None:
    network = InternImage(size="nano", drop_path=0.4).build()
    assert [unit.drop_path for unit in network.units()] == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4])  # type: ignore[attr-defined]


def test_dropping_branches_keeps_whole_images_and_the_expectation() -> None:
    x = torch.rand(10, 2, 3, 4) + 0.5
    outputs = torch.stack([residual(x, torch.sin, drop=0.4) for _ in range(3000)])
    changes = ((outputs - x) / x.sin()).flatten(2)  # of an image, the same at every place: 0 or 10 / 6
    kept = changes > 1
    assert_close(changes, kept * (10 / 6), rtol=1e-3, atol=1e-3)
    assert (kept.all(2) == kept.any(2)).all()
    assert (kept.all(2).sum(1) == 6).all()
    assert_close(outputs.mean(0), x + x.sin(), rtol=0, atol=0.08)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
@pytest.mark.parametrize("variant", [replace(TINY, norm="post", layer_scale=0.1), H_LIKE])
def test_recomputed_and_compiled_blocks_give_the_same_numbers(variant: Variant) -> None:
    network = varied(InternImageNetwork(variant))
    images = torch.randn(2, 3, 32, 32)

    def gradients() -> list[Tensor]:
        return list(torch.autograd.grad(network.tokens(images).cls.sin().sum(), list(network.parameters())))

    plain = gradients()
    for unit in network.units():
        unit.recompute = True
    assert_close(gradients(), plain)
    unit = network.units()[0]
    unit.compute = torch.compile(unit.compute, fullgraph=True, dynamic=False, backend="aot_eager")
    assert_close(gradients(), plain, rtol=1e-4, atol=1e-5)


def test_every_block_is_a_unit_and_the_stem_can_be_frozen() -> None:
    network = InternImage(size="nano", frozen_stem=True).build()
    assert len(network.units()) == network.num_layers
    assert all(isinstance(unit, Unit) for unit in network.units())
    frozen = {name for name, p in network.named_parameters() if not p.requires_grad}
    assert frozen == {name for name, _ in network.named_parameters() if name.startswith("patch_embed.")}


def test_a_config_survives_a_file() -> None:
    config = InternImage(variant=H_LIKE, drop_path=0.1)
    assert TypeAdapter(InternImage).validate_json(json.dumps(asdict(config))) == config


@pytest.mark.parametrize("size", ["nano", "huge"])
def test_a_published_file_gives_the_backbone_without_its_heads(size: Size, tmp_path: Path) -> None:
    # The heads, and nothing else, may be left over; huge's are other ones, on a body small enough for a test.
    variant = replace(VARIANTS["nano"], attention_head=VARIANTS[size].attention_head)
    whole = varied(InternImageClassifier(variant, 7))
    torch.save({"model": whole.state_dict(), "epoch": 3}, tmp_path / "published.pth")
    network = load_backbone(str(tmp_path / "published.pth"))
    assert isinstance(network, InternImageNetwork)
    own = network.state_dict()
    assert own.keys() == InternImage(size="nano").build().state_dict().keys()
    assert all(torch.equal(tensor, whole.state_dict()[name]) for name, tensor in own.items())


def test_tensors_of_no_published_size_are_refused() -> None:
    with pytest.raises(CheckpointError, match=r"16 channels, depths \[1, 1, 3, 1\] and groups \[1, 2, 4, 8\]"):
        infer_internimage(InternImageNetwork(replace(TINY, depths=(1, 1, 3, 1))).state_dict())
