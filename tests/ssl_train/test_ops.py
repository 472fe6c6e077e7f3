import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.testing import assert_close

from ssl_train.ops.attention import Kernel, attend, xformers_runs
from ssl_train.ops.drop_path import num_kept, residual
from ssl_train.ops.packed import Shapes, pack, unpack

SHAPES: Shapes = ((4, 5), (8, 2))


def branch(x: Tensor, shapes: Shapes) -> Tensor:
    return x.sin()


def test_unpacking_gives_back_what_was_packed() -> None:
    groups = [torch.randn(2, 5, 3), torch.randn(4, 1, 3)]
    packed, shapes = pack(groups)
    assert packed.shape == (14, 3)
    assert_close(unpack(packed, shapes), groups)


def test_attention_is_the_loop_over_crops_heads_and_tokens() -> None:
    shapes, heads, dim = ((2, 3), (1, 2)), 2, 4
    qkv = torch.randn(8, 3 * dim)
    expected, start = torch.zeros(8, dim), 0
    for crops, tokens in shapes:
        for _ in range(crops):
            for head in range(heads):
                q, k, v = (
                    qkv[start : start + tokens, part * dim + head * 2 : part * dim + head * 2 + 2] for part in range(3)
                )
                for token in range(tokens):
                    weights = F.softmax(torch.stack([q[token] @ k[other] for other in range(tokens)]) / 2**0.5, dim=0)
                    expected[start + token, head * 2 : head * 2 + 2] = sum(w * v[i] for i, w in enumerate(weights))
            start += tokens
    assert_close(attend(qkv, shapes, num_heads=heads), expected)


def test_xformers_is_refused_where_it_cannot_run() -> None:
    with pytest.raises(ValueError, match=r"set efficiency\.networks\.attention to 'auto' or 'sdpa'"):
        attend(torch.randn(4, 12), ((2, 2),), num_heads=2, kernel="xformers")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("kernel", ["varlen", "xformers"])
def test_a_kernel_for_all_crops_at_once_has_the_numbers_of_sdpa(kernel: Kernel) -> None:
    if kernel == "xformers" and not xformers_runs():
        pytest.skip("needs xFormers")
    qkv = torch.randn(26, 3 * 128, dtype=torch.bfloat16, device="cuda")
    shapes = ((2, 9), (4, 2))
    one, other = (attend(qkv, shapes, num_heads=2, kernel=which) for which in (kernel, "sdpa"))
    assert_close(one, other, rtol=2e-2, atol=2e-2)


def test_without_drop_the_residual_is_plain() -> None:
    x = torch.randn(36, 3)
    assert_close(residual(x, SHAPES, branch, drop=0.0), x + x.sin())


@pytest.mark.parametrize(("crops", "drop", "kept"), [(10, 0.3, 7), (64, 0.4, 38), (1, 0.9, 1), (3, 0.5, 1)])
def test_the_number_of_kept_crops_is_constant(crops: int, drop: float, kept: int) -> None:
    assert num_kept(crops, drop) == kept


def test_dropping_paths_changes_nothing_in_expectation() -> None:
    x = torch.randn(36, 3)
    mean = torch.stack([residual(x, SHAPES, branch, drop=0.4) for _ in range(4000)]).mean(0)
    assert_close(mean, x + x.sin(), rtol=0, atol=0.08)


def test_whole_crops_are_kept_and_scaled_up() -> None:
    x = torch.randn(36, 3)
    ratios = [
        group / part
        for group, part in zip(
            unpack(residual(x, SHAPES, branch, drop=0.4) - x, SHAPES), unpack(x.sin(), SHAPES), strict=True
        )
    ]
    for ratio, (crops, kept) in zip(ratios, [(4, 2), (8, 4)], strict=True):
        per_crop = ratio.flatten(1)
        assert_close(per_crop, per_crop[:, :1].expand_as(per_crop), rtol=1e-3, atol=1e-3)
        assert (
            sorted(round(value.item(), 2) for value in per_crop[:, 0]) == [0.0] * (crops - kept) + [crops / kept] * kept
        )


def test_the_branch_does_no_work_for_dropped_crops() -> None:
    seen = list[Shapes]()

    def spy(x: Tensor, shapes: Shapes) -> Tensor:
        seen.append(shapes)
        assert len(x) == sum(crops * tokens for crops, tokens in shapes)
        return x

    residual(torch.randn(36, 3), SHAPES, spy, drop=0.5)
    assert seen == [((2, 5), (4, 2))]
