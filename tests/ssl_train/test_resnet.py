"""ResNets: the published names, the textbook's arithmetic, and what a trainer asks of every backbone."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.testing import assert_close
from torch.utils.flop_counter import FlopCounterMode

from ssl_train.models import load_backbone
from ssl_train.models.resnet import SHAPES, ResidualNetwork, Resnet, Shape, infer_resnet

# Shaped like a ResNet-50, but narrow: its stages have 16, 32, 64 and 128 channels.
BOTTLENECKS = Shape((2, 1, 1, 1), 4, 4)
BASIC = Shape((1, 2, 1, 1), 8, 1)


def network(shape: Shape, stem: Any = "imagenet") -> ResidualNetwork:
    """With statistics and norms that change what goes through them."""
    net = ResidualNetwork(shape, stem=stem, image_size=64)
    net.initialise(zero_last_gamma=False)
    for name, tensor in net.state_dict().items():
        if ("bn" in name or "downsample.1" in name) and tensor.is_floating_point():
            tensor.copy_(torch.rand(tensor.shape) + 0.5)
    return net.eval()


def textbook(state: dict[str, Tensor], x: Tensor, *, stem: str, shape: Shape) -> list[Tensor]:
    """The outputs of the four stages, from tensors by their published names alone."""

    def normed(x: Tensor, name: str) -> Tensor:
        mean, var, weight, bias = (
            state[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")
        )
        column = [tensor[None, :, None, None] for tensor in (mean, var, weight, bias)]
        return (x - column[0]) / (column[1] + 1e-5).sqrt() * column[2] + column[3]

    def convolved(x: Tensor, name: str, stride: int = 1) -> Tensor:
        weight = state[f"{name}.weight"]
        return F.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2)

    x = normed(convolved(x, "conv1", 2 if stem == "imagenet" else 1), "bn1").relu()
    if stem == "imagenet":
        x = F.max_pool2d(F.pad(x, [1, 1, 1, 1]), 3, 2)  # what is pooled is not negative: zeros are never the largest
    maps = []
    for stage, num_blocks in enumerate(shape.blocks):
        for block in range(num_blocks):
            name, stride = f"layer{stage + 1}.{block}", 2 if stage and not block else 1
            shortcut = x
            if f"{name}.downsample.0.weight" in state:
                shortcut = normed(convolved(x, f"{name}.downsample.0", stride), f"{name}.downsample.1")
            if shape.expansion == 4:
                x = normed(convolved(x, f"{name}.conv1"), f"{name}.bn1").relu()
                x = normed(convolved(x, f"{name}.conv2", stride), f"{name}.bn2").relu()
                x = normed(convolved(x, f"{name}.conv3"), f"{name}.bn3")
            else:
                x = normed(convolved(x, f"{name}.conv1", stride), f"{name}.bn1").relu()
                x = normed(convolved(x, f"{name}.conv2"), f"{name}.bn2")
            x = (x + shortcut).relu()
        maps.append(x)
    return maps


def test_a_resnet50_has_the_tensors_of_the_published_one(facts: Callable[[str], Any]) -> None:
    with torch.device("meta"):
        ours = {name: list(tensor.shape) for name, tensor in Resnet().build().state_dict().items()}
    assert ours == facts("dino_v1_state_dict_shapes")["dino_resnet50"]


@pytest.mark.parametrize(("shape", "stem"), [(BOTTLENECKS, "imagenet"), (BASIC, "imagenet"), (BASIC, "small")])
@pytest.mark.parametrize("size", [(64, 64), (72, 40)])
def test_stages_and_tokens_are_those_of_the_textbook(shape: Shape, stem: str, size: tuple[int, int]) -> None:
    net, images = network(shape, stem), torch.randn(2, 3, *size)
    expected = textbook(dict(net.state_dict()), images, stem=stem, shape=shape)
    with torch.no_grad():
        found, tokens = net.intermediate(images, range(4)), net.tokens(images)
    for (pooled, dense), truth in zip(found, expected, strict=True):
        assert_close(dense, truth, rtol=1e-4, atol=1e-5)
        assert_close(pooled, truth.mean((2, 3)), rtol=1e-4, atol=1e-5)
    assert tokens.grid == tuple(expected[-1].shape[-2:])
    assert_close(tokens.map, expected[-1], rtol=1e-4, atol=1e-5)
    assert_close(tokens.cls, expected[-1].mean((2, 3)), rtol=1e-4, atol=1e-5)
    assert tokens.registers.shape == (2, 0, net.dim)


def test_it_is_the_network_that_transformers_calls_a_resnet() -> None:
    transformers = pytest.importorskip("transformers")
    net = network(Shape((1, 1, 1, 1), 4, 4))
    config = transformers.ResNetConfig(embedding_size=4, hidden_sizes=[16, 32, 64, 128], depths=[1, 1, 1, 1])
    theirs = transformers.ResNetModel(config).eval()
    names, tensors = list(theirs.state_dict()), dict(net.state_dict())
    ours = [name for name in tensors if "downsample" not in name]
    shortcuts = [name for name in tensors if "downsample" in name]
    # Both list a block's layers in the order of the forward pass, but for the shortcut, which transformers has first.
    renamed = {name: tensors[(shortcuts if "shortcut" in name else ours).pop(0)] for name in names}
    theirs.load_state_dict(renamed, strict=True)
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert_close(net.tokens(images).map, theirs(images).last_hidden_state, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("wrapping", ["", "module.", "module.base_encoder.", "backbone."])
def test_published_state_dicts_load_by_name(tmp_path: Path, wrapping: str) -> None:
    net, path = Resnet(size="tiny").build(), tmp_path / "published.pth"
    state = {wrapping + name: tensor for name, tensor in net.state_dict().items()}
    others = {
        "": ["fc.weight", "fc.bias"],
        "module.": ["module.projection_head.0.weight", "module.prototypes.weight"],
        "module.base_encoder.": ["module.base_encoder.fc.0.weight", "module.predictor.0.weight"]
        + [f"module.momentum_encoder.{name}" for name in net.state_dict()],
        "backbone.": ["dino_head.mlp.0.weight"],
    }[wrapping]
    torch.save({"state_dict": state | {name: torch.zeros(2) for name in others}}, path)
    loaded = load_backbone(str(path))
    assert_close(loaded.state_dict(), net.state_dict(), rtol=0, atol=0)
    assert loaded.state_dict()["bn1.num_batches_tracked"].dtype == torch.int64


def test_every_size_is_recognised_by_its_tensors() -> None:
    for size in SHAPES:
        for stem in ("imagenet", "small"):
            with torch.device("meta"):
                state = Resnet(size=size, stem_kind=stem).build().state_dict()
            assert infer_resnet(state) == Resnet(size=size, stem_kind=stem)


@pytest.mark.parametrize("config", [Resnet(size="tiny"), Resnet(size="tiny", stem_kind="small"), Resnet()])
@pytest.mark.parametrize("side", [64, 96])
def test_the_cost_of_a_config_is_what_is_computed(config: Resnet, side: int) -> None:
    with torch.device("meta"):
        net, images = config.build().eval(), torch.empty(1, 3, side, side)
    with FlopCounterMode(display=False) as counted:
        tokens = net.tokens(images)
    assert config.forward_flops(side) == counted.get_total_flops()
    assert (config.dim, side // config.patch_size) == (net.dim, tokens.grid[0])


def test_layers_are_numbered_from_the_stem_to_the_last_block() -> None:
    net = Resnet(size="resnet18").build()
    numbers = [net.layer_of(name) for name, _ in net.named_parameters()]
    assert numbers == sorted(numbers)
    assert sorted(set(numbers)) == list(range(net.num_layers + 1))
    depths = {id(p): net.layer_of(name) for name, p in net.named_parameters()}
    for number, unit in enumerate(net.units(), start=1):
        assert {depths[id(parameter)] for parameter in unit.parameters()} == {number}


def test_crops_of_several_sizes_are_seen_group_by_group() -> None:
    net, large, small = network(BASIC).train(), torch.randn(4, 3, 64, 64), torch.randn(6, 3, 32, 32)
    together = net([large, small])
    for tokens, crops in zip(together, (large, small), strict=True):
        assert_close(tokens.patches, net.tokens(crops).patches)


def test_blocks_begin_as_the_identity() -> None:
    net = Resnet(size="tiny").build()
    x = torch.rand(2, 32, 8, 8)  # nothing is negative after a ReLU
    assert_close(net.units()[0](x), x)


def test_recomputed_activations_change_neither_gradients_nor_statistics() -> None:
    images, nets = torch.randn(4, 3, 64, 64), [network(BASIC).train() for _ in range(2)]
    nets[1].load_state_dict(nets[0].state_dict())
    for unit in nets[1].units():
        unit.recompute = True
    for net in nets:
        net.tokens(images).cls.square().sum().backward()
    for one, other in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
        assert_close(one.grad, other.grad)
    assert_close(nets[0].state_dict(), nets[1].state_dict())
    assert float(nets[1].units()[0].bn1.num_batches_tracked) == 1


def test_a_frozen_stem_keeps_its_first_weights() -> None:
    net = Resnet(size="tiny", frozen_stem=True).build()
    net.tokens(torch.randn(2, 3, 64, 64)).cls.sum().backward()
    assert [name for name, p in net.named_parameters() if p.grad is None] == ["conv1.weight"]


def test_masks_are_refused() -> None:
    net = Resnet(size="tiny").build()
    with pytest.raises(ValueError, match="cannot hide patches"):
        net([torch.randn(1, 3, 64, 64)], [torch.ones(1, 4, dtype=torch.bool)])
