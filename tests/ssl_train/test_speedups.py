"""Compiled, recomputed or plain: a network's outputs and gradients are the same."""

import copy
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from ssl_train.distributed import World
from ssl_train.models.vit import VisionTransformer
from ssl_train.ops.attention import settled_kernel
from ssl_train.parallel import Speedups, speed_up

ALONE = World(0, 1, torch.device("cpu"))


def networks() -> tuple[nn.ModuleDict, nn.ModuleDict]:
    torch.manual_seed(0)
    student = nn.ModuleDict({"backbone": VisionTransformer(32, 2, 2, patch_size=8, grid=2, drop_paths=(0.5, 0.5))})
    return student, copy.deepcopy(student).requires_grad_(False)


def run(how: Speedups) -> list[Tensor]:
    """Class tokens of two sizes of crops, and all gradients."""
    student, teacher = networks()
    speed_up((student, teacher), ALONE, "fp32", how)
    crops = [torch.randn(4, 3, side, side, generator=torch.Generator().manual_seed(side)) for side in (16, 8)]
    torch.manual_seed(1)  # drop path
    out = [tokens.cls for tokens in student["backbone"](crops)]
    torch.cat(out).square().sum().backward()  # type: ignore[no-untyped-call]
    grads = [parameter.grad for parameter in student.parameters() if parameter.grad is not None]
    return [*out, *grads]


@pytest.mark.parametrize("share", [1.0, 0.5])
def test_what_is_recomputed_is_what_was_computed(share: float) -> None:
    how = Speedups(recompute_activations=True, recompute_share=share)
    for plain, recomputed in zip(run(Speedups()), run(how), strict=True):
        assert_close(recomputed, plain, rtol=0, atol=0)


def test_the_share_of_the_blocks_that_recompute_is_what_is_asked_for_and_spread_evenly() -> None:
    for share, expected in ((1.0, [True] * 12), (1 / 3, [False, False, True] * 4), (0.5, [False, True] * 6)):
        student = nn.ModuleDict({"backbone": VisionTransformer(32, 12, 2, patch_size=8, grid=2)})
        speed_up([student], ALONE, "fp32", Speedups(recompute_activations=True, recompute_share=share))
        assert [unit.recompute for unit in cast(VisionTransformer, student["backbone"]).units()] == expected


# torch's tracer asks every tensor for its gradient, and means to hide the warning that it gives.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
@pytest.mark.parametrize("recompute", [False, True])
def test_a_compiled_block_is_one_graph_with_the_numbers_of_a_plain_one(
    monkeypatch: pytest.MonkeyPatch, recompute: bool
) -> None:
    # Capturing the graph is what can fail here; the compiler behind it is torch's, and slow.
    compiled = torch.compile

    def capture(function: Any, **options: Any) -> Any:
        assert options == {"fullgraph": True, "dynamic": False}
        return compiled(function, backend="aot_eager", **options)

    monkeypatch.setattr(torch, "compile", capture)
    torch._dynamo.reset()
    how = Speedups(compile=True, recompute_activations=recompute)
    for plain, other in zip(run(Speedups()), run(how), strict=True):
        assert_close(other, plain, rtol=1e-5, atol=1e-6)


def test_auto_is_settled_before_anything_is_compiled() -> None:
    assert settled_kernel("auto", on_cuda=False, half=True, compiled=False) == "sdpa"
    assert settled_kernel("auto", on_cuda=True, half=True, compiled=True) == "sdpa"
    assert settled_kernel("varlen", on_cuda=True, half=True, compiled=True) == "varlen"
    student, teacher = networks()
    speed_up((student, teacher), ALONE, "fp32", Speedups())
    assert {block.attn.kernel for block in student["backbone"].blocks} == {"sdpa"}
