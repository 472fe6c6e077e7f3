from typing import Any

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from ssl_train.models.projectors import BatchNorm, MlpHead, MlpHeadNet

TOLERANCE = {"rtol": 1e-4, "atol": 1e-5}


def test_the_projector_is_the_published_one_under_its_names(vectors: Any) -> None:
    v = vectors("mocov3")
    head = MlpHead(hidden_dim=32, out_dim=16).build(24)
    state = v.under("mlp3.weights.")
    assert head.state_dict().keys() == state.keys()
    head.load_state_dict(state)
    assert_close(head(v["mlp3.in"]), v["mlp3.out_train_mode"], **TOLERANCE)


def test_the_head_is_the_loop_over_its_layers() -> None:
    head, x = MlpHead(hidden_dim=6, out_dim=3, num_layers=2, bias=True).build(5), torch.randn(7, 5)
    hidden = x @ head[0].weight.T + head[0].bias
    hidden = (hidden - hidden.mean(0)) / (hidden.var(0, unbiased=False) + 1e-5).sqrt()
    out = hidden.relu() @ head[3].weight.T + head[3].bias
    out = (out - out.mean(0)) / (out.var(0, unbiased=False) + 1e-5).sqrt()
    assert_close(head(x), out)


@pytest.mark.parametrize(
    ("settings", "kinds"),
    [
        (MlpHead(num_layers=3), ["Linear", "BatchNorm", "ReLU"] * 2 + ["Linear", "BatchNorm"]),
        (MlpHead(num_layers=2, last_norm=False), ["Linear", "BatchNorm", "ReLU", "Linear"]),
        (MlpHead(num_layers=1, last_norm=False), ["Linear"]),
    ],
)
def test_a_head_has_the_layers_asked_for(settings: MlpHead, kinds: list[str]) -> None:
    with torch.device("meta"):
        head = settings.build(8)
    assert [type(layer).__name__ for layer in head] == kinds
    assert all(layer.bias is None for layer in head if isinstance(layer, nn.Linear))


def test_a_row_costs_two_operations_for_every_weight() -> None:
    settings = MlpHead(hidden_dim=6, out_dim=3, num_layers=3)
    weights = [layer.weight.numel() for layer in settings.build(5) if isinstance(layer, nn.Linear)]
    assert settings.row_flops(5) == 2 * sum(weights)


@pytest.mark.parametrize("shape", [(6, 5), (3, 5, 4, 2)])
@pytest.mark.parametrize("affine", [True, False])
def test_a_process_that_is_alone_has_the_norm_of_torch(shape: tuple[int, ...], affine: bool) -> None:
    ours = BatchNorm(5, affine=affine)
    theirs = (nn.BatchNorm1d if len(shape) == 2 else nn.BatchNorm2d)(5, affine=affine)
    for _ in range(3):
        x = torch.randn(shape) * 3 + 1
        assert_close(ours(x), theirs(x))
    assert_close(ours.state_dict(), theirs.state_dict())
    assert_close(ours.eval()(x), theirs.eval()(x))


@pytest.mark.parametrize("training", [True, False])
def test_half_precision_goes_in_and_comes_out_and_statistics_stay_long(training: bool) -> None:
    norm, x = BatchNorm(5).train(training), torch.randn(64, 5) * 2 + 3
    exact = norm(x).detach()
    norm = BatchNorm(5).train(training)
    norm.weight, norm.bias = (nn.Parameter(part.bfloat16()) for part in (norm.weight, norm.bias))  # as FSDP makes them
    out = norm(x.bfloat16())
    assert out.dtype == torch.bfloat16
    assert norm.running_mean is not None
    assert norm.running_mean.dtype == torch.float32
    assert_close(out.float(), exact, rtol=0, atol=0.05 * float(exact.abs().max()))


def test_a_repeated_forward_pass_counts_once() -> None:
    norm, x = BatchNorm(5), torch.randn(6, 5)
    first = norm(x)
    before = {name: tensor.clone() for name, tensor in norm.state_dict().items()}
    norm.keeps_statistics = False
    assert_close(norm(x), first, rtol=0, atol=0)
    assert_close(norm.state_dict(), before, rtol=0, atol=0)


def test_an_input_that_is_neither_rows_nor_maps_is_named() -> None:
    with pytest.raises(ValueError, match=r"not \[2, 5, 3\]"):
        BatchNorm(5)(torch.zeros(2, 5, 3))


def test_heads_are_drawn_from_the_global_random_state() -> None:
    def drawn() -> MlpHeadNet:
        torch.manual_seed(3)
        return MlpHead(hidden_dim=8, out_dim=4).build(8)

    assert_close(drawn().state_dict(), drawn().state_dict(), rtol=0, atol=0)
