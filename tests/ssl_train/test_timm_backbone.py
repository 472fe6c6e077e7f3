"""timm's backbones: a clear word where timm is missing; the adapter, on stand-ins that have timm's feature interface.

What the stand-ins cannot show is that timm's models have that interface: where timm is installed, they are tried too.
"""

import importlib.util
import sys
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from ssl_train.errors import ConfigError
from ssl_train.models.projectors import BatchNorm
from ssl_train.models.timm_backbone import Timm


class StandIn(nn.Module):
    """What timm documents of its models: sizes, features, levels, groups of parameters, where the stem is."""

    def __init__(self, layout: str, drop_path_rate: float = 0.0) -> None:
        super().__init__()
        self.layout, self.num_features, self.drop_path_rate = layout, 12, drop_path_rate
        self.stem = nn.Conv2d(3, 12, 8, stride=8)
        self.norm = nn.BatchNorm2d(12, eps=1e-3)
        self.block = nn.Conv2d(12, 12, 3, padding=1)
        self.pretrained_cfg = {"first_conv": "stem"}
        if layout == "tokens":
            self.num_prefix_tokens = 3
            self.prefix = nn.Parameter(torch.randn(1, 3, 12))

    def maps(self, images: Tensor) -> list[Tensor]:
        first = self.norm(self.stem(images))
        return [first, self.block(first)]

    def forward_features(self, images: Tensor) -> Tensor:
        last = self.maps(images)[-1]
        if self.layout == "channels_last":
            return last.permute(0, 2, 3, 1)
        if self.layout == "tokens":
            return torch.cat([self.prefix.expand(len(images), -1, -1), last.flatten(2).transpose(1, 2)], dim=1)
        return last

    def forward_intermediates(
        self, images: Tensor, *, indices: int | list[int], norm: bool, intermediates_only: bool
    ) -> list[Tensor]:
        maps = self.maps(images)
        return maps[-indices:] if isinstance(indices, int) else [maps[index] for index in indices]

    def group_matcher(self, coarse: bool) -> dict[str, int]:
        depths = {"stem": 0, "prefix": 0, "block": 1, "norm": 2}
        return {name: depths[name.split(".")[0]] for name, _ in self.named_parameters()}


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """A timm that knows three models."""

    def create_model(name: str, **plain: Any) -> StandIn:
        assert plain.pop("num_classes") == 0
        if "img_size" in plain and name == "maps":
            raise TypeError("unexpected keyword argument 'img_size'")
        plain.pop("img_size", None)
        return StandIn(name, **plain)

    timm, models = ModuleType("timm"), ModuleType("timm.models")
    for name, value in {
        "create_model": create_model,
        "is_model": lambda name: name in ("maps", "channels_last", "tokens"),
        "__version__": "0",
        "models": models,
    }.items():
        setattr(timm, name, value)
    models.group_parameters = lambda model, matcher, reverse: matcher  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "timm", timm)
    monkeypatch.setitem(sys.modules, "timm.models", models)


@pytest.mark.skipif(importlib.util.find_spec("timm") is not None, reason="says what happens without timm")
def test_without_timm_it_is_said_what_to_install() -> None:
    config = Timm(name="convnext_tiny")
    with pytest.raises(ConfigError, match=r"convnext_tiny.* needs the timm package.*pip install timm"):
        config.build()
    with pytest.raises(ConfigError, match="needs the timm package"):
        assert config.patch_size


@pytest.mark.usefixtures("stand_in")
@pytest.mark.parametrize("layout", ["maps", "channels_last", "tokens"])
def test_features_become_tokens_whatever_their_layout(layout: str) -> None:
    config, images = Timm(name=layout, image_size=40, drop_path=0.1), torch.randn(2, 3, 40, 56)
    net = config.build().eval()
    with torch.no_grad():
        tokens, model = net.tokens(images), net.body.model
        last = model.maps(images)[-1]
        levels = net.intermediate(images, [0, 1])
    assert (config.dim, config.patch_size, net.patch_size, tokens.grid) == (12, 8, 8, (5, 7))
    assert_close(tokens.map, last)
    assert_close(tokens.cls, model.prefix[:, 0].expand(2, -1) if layout == "tokens" else last.mean((2, 3)))
    assert tokens.registers.shape[1] == (2 if layout == "tokens" else 0)
    assert_close(levels[1][1], last)
    assert_close(levels[0][0], levels[0][1].mean((2, 3)))
    assert model.drop_path_rate == 0.1


@pytest.mark.usefixtures("stand_in")
def test_depths_units_and_stem_are_the_models_own() -> None:
    net = Timm(name="maps", image_size=40, frozen_stem=True).build()
    assert {name: net.layer_of(name) for name, _ in net.named_parameters()} == {
        "body.model.stem.weight": 0,
        "body.model.stem.bias": 0,
        "body.model.norm.weight": 2,
        "body.model.norm.bias": 2,
        "body.model.block.weight": 1,
        "body.model.block.bias": 1,
    }
    assert net.num_layers == 1
    assert not net.body.model.stem.weight.requires_grad
    assert net.units() == [net.body]


@pytest.mark.usefixtures("stand_in")
def test_norms_become_shared_ones_that_compute_the_same() -> None:
    config, images = Timm(name="maps", image_size=40), torch.randn(4, 3, 40, 40)
    torch.manual_seed(3)
    net = config.build()
    torch.manual_seed(3)
    plain = StandIn("maps")
    assert isinstance(net.body.model.norm, BatchNorm)
    assert list(net.body.model.state_dict()) == list(plain.state_dict())
    net.body.recompute = True
    tokens = net.tokens(images)
    assert_close(tokens.map, plain.forward_features(images))
    tokens.cls.sum().backward()
    assert_close(net.body.model.state_dict(), plain.state_dict())


@pytest.mark.usefixtures("stand_in")
def test_operations_are_counted_and_unknown_names_refused() -> None:
    stem, block = 2 * 3 * 12 * 8**2 * 5**2, 2 * 12 * 12 * 3**2 * 5**2
    assert Timm(name="maps", image_size=40).forward_flops(40) == stem + block
    with pytest.raises(ConfigError, match="is no model of timm"):
        Timm(name="no_such_model").build()


@pytest.mark.parametrize("name", ["resnet18", "convnext_atto", "vit_tiny_patch16_224", "swin_tiny_patch4_window7_224"])
def test_timms_own_models_have_that_interface(name: str) -> None:
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    net = Timm(name=name).build().eval()
    torch.manual_seed(0)
    plain, images = timm.create_model(name, num_classes=0).eval(), torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        assert_close(net.body(images), plain.forward_features(images))
        tokens, (_, dense) = net.tokens(images), net.intermediate(images, 1)[0]
    assert tokens.patches.shape == (1, tokens.grid[0] * tokens.grid[1], net.dim)
    assert dense.shape[1] == net.dim
    assert {net.layer_of(name) for name, _ in net.named_parameters()} <= set(range(net.num_layers + 2))
