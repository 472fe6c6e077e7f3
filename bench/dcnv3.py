"""DCNv3's forms side by side, forward and backward, at the stage shapes of InternImage-T and -B (224 pixels).

Compared in one run, on the same numbers: `triton` (where it is installed and the device is a GPU), `plain`, `textbook`
(grid sampling, every sample in memory: what is published as the fallback), and `torchvision`'s deform_conv2d where it
is installed, with one identity per group for its weight, which makes it the same sum (its layout, channels first, is
prepared outside of the timing). Outputs are compared before anything is timed. Seconds are medians; memory is what the
device holds at most beyond the inputs and the upstream gradient (on a CPU: what a process of its own takes, less what
it takes to run the form on next to nothing).

    python -m bench.dcnv3                                  # a CPU in about two minutes, or a GPU
    python -m bench.dcnv3 --device cuda --batch 64 --dtypes float32 bfloat16
"""

import argparse
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bench.measure import machine, median_seconds, peak_megabytes, save
from ssl_train.models.internimage_scaling import VARIANTS, Size
from ssl_train.ops.dcnv3 import dcnv3, textbook_dcnv3, triton_imports
from ssl_train.ops.dcnv3_geometry import Geometry

SIDES = (56, 28, 14, 7)
"""Rows and columns of the four stages at 224 pixels."""
SIZES: dict[str, Size] = {"T": "tiny", "B": "base"}
POINTS = 9
PAIRS = (("triton", "plain"), ("triton", "torchvision"), ("plain", "textbook"), ("plain", "torchvision"))
"""(fast, slow): what is compared."""
Run = Callable[[Tensor, Tensor, Tensor], Tensor]


class Case(NamedTuple):
    """One shape; picklable, so that its memory can be measured in another process."""

    batch: int
    side: int
    channels: int
    groups: int
    dtype: str
    device: str

    @property
    def geometry(self) -> Geometry:
        return Geometry((3, 3), (1, 1), (1, 1), (1, 1), self.groups, 1.0, False)

    def inputs(self) -> tuple[list[Tensor], Tensor]:
        """Input, offsets of a pixel's size and softmaxed masks, all with gradients; and the upstream gradient."""
        generator = torch.Generator().manual_seed(0)

        def normal(*shape: int) -> Tensor:
            return torch.randn(self.batch, self.side, self.side, *shape, generator=generator)

        numbers = (normal(self.channels), normal(self.groups * POINTS * 2))
        mask = normal(self.groups, POINTS).softmax(-1).flatten(-2)
        leaves = [x.to(self.device, getattr(torch, self.dtype)).requires_grad_() for x in (*numbers, mask)]
        return leaves, normal(self.channels).to(leaves[0])


def forms(device: str) -> list[str]:
    """The forms that can run here, the slow reference last."""
    names = ["triton"] if device == "cuda" and triton_imports() else []
    return [*names, "plain", *(["torchvision"] if find_spec("torchvision") else []), "textbook"]


def runner(form: str, case: Case) -> Run:
    """The operator in this form, channels last in and out."""
    if form == "textbook":
        return lambda x, offset, mask: textbook_dcnv3(x, offset, mask, case.geometry)
    if form == "torchvision":
        return torchvision_form(case)
    settings: dict[str, Any] = {**case.geometry._asdict(), "form": form}
    return lambda x, offset, mask: dcnv3(x, offset, mask, **settings)


def torchvision_form(case: Case) -> Run:
    """deform_conv2d by the same settings; its points run along rows, its offsets are (y, x), channels come first."""
    from torchvision.ops import deform_conv2d

    width = case.channels // case.groups
    weight = torch.eye(width).repeat(case.groups, 1)[..., None, None].expand(-1, -1, 3, 3)
    weight = weight.to(case.device, getattr(torch, case.dtype)).contiguous()
    return lambda x, offset, mask: deform_conv2d(x, offset, weight, padding=1, mask=mask)


def as_torchvision_has_it(x: Tensor, offset: Tensor, mask: Tensor, case: Case) -> list[Tensor]:
    """The same inputs in its layout, with gradients."""
    shape = (*mask.shape[:-1], case.groups, 3, 3)
    points = mask.view(shape).transpose(-1, -2).flatten(-3)
    shifts = offset.view(*shape, 2).transpose(-2, -3).flip(-1).flatten(-4)
    return [t.permute(0, 3, 1, 2).contiguous().detach().requires_grad_() for t in (x, shifts, points)]


def prepared(form: str, case: Case) -> tuple[Run, list[Tensor], Tensor]:
    """What is timed, its inputs, and the upstream gradient, all in the layout that the form wants."""
    leaves, grad = case.inputs()
    if form != "torchvision":
        return runner(form, case), leaves, grad
    first = as_torchvision_has_it(leaves[0], leaves[1], leaves[2], case)
    return runner(form, case), first, grad.permute(0, 3, 1, 2).contiguous()


def forward_backward(run: Run, leaves: list[Tensor], grad: Tensor) -> Tensor:
    """One of each; returns when the device is done."""
    out = run(leaves[0], leaves[1], leaves[2])
    torch.autograd.grad(out, leaves, grad)
    if out.is_cuda:
        torch.cuda.synchronize()
    return out


def seconds(form: str, case: Case, repeats: int) -> float:
    """Median of `repeats`, after two that warm up (the first compiles Triton's kernels)."""
    run, leaves, grad = prepared(form, case)
    for _ in range(2):
        forward_backward(run, leaves, grad)
    return median_seconds(lambda: forward_backward(run, leaves, grad), repeats=repeats)


def input_megabytes(case: Case) -> float:
    """Inputs and upstream gradient."""
    numbers = case.batch * case.side**2 * (2 * case.channels + 3 * case.groups * POINTS)
    return numbers * getattr(torch, case.dtype).itemsize / 2**20


@cache
def constant_megabytes(form: str) -> float:
    """What a process takes to run a form at all: code, threads and their buffers, measured on next to nothing."""
    return peak_megabytes(memory_on_cpu, form, Case(1, 2, 16, 1, "float32", "cpu"))[1]


def memory_on_cpu(form: str, case: Case) -> None:
    """What runs in a process of its own."""
    forward_backward(*prepared(form, case))


def megabytes(form: str, case: Case) -> float:
    """Peak of one forward and backward pass beyond its inputs."""
    if case.device == "cpu":
        return peak_megabytes(memory_on_cpu, form, case)[1] - constant_megabytes(form) - input_megabytes(case)
    run, leaves, grad = prepared(form, case)
    forward_backward(run, leaves, grad)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    forward_backward(run, leaves, grad)
    return (torch.cuda.max_memory_allocated() - before) / 2**20


def check(case: Case) -> None:
    """AssertionError where two forms say different things of the same numbers."""
    small = case._replace(batch=1)
    wanted = forward_backward(*prepared("textbook", small._replace(dtype="float32"))).float()
    tolerance = 1e-4 if case.dtype == "float32" else 5e-2
    for form in forms(case.device):
        out = forward_backward(*prepared(form, small)).float()
        out = out.permute(0, 2, 3, 1) if form == "torchvision" else out
        torch.testing.assert_close(out, wanted, rtol=tolerance, atol=tolerance)


def measure(case: Case, repeats: int) -> dict[str, Any]:
    """Seconds and megabytes of every form, and how the fast ones stand to the slow."""
    check(case)
    found: dict[str, dict[str, float]] = {
        form: {
            "seconds": round(seconds(form, case, repeats), 6),
            "megabytes_beyond_inputs": round(megabytes(form, case), 1),
        }
        for form in forms(case.device)
    }
    ratios = {
        f"{slow}_to_{fast}": {name: round(found[slow][name] / max(found[fast][name], 1e-9), 2) for name in found[fast]}
        for fast, slow in PAIRS
        if fast in found and slow in found
    }
    return {"inputs_megabytes": round(input_megabytes(case), 1), "forms": found, "times": ratios}


def main() -> None:
    """One line a shape, and the JSON of all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=["cpu", "cuda"])
    parser.add_argument("--sizes", nargs="*", default=["T", "B"], choices=list(SIZES))
    parser.add_argument("--batch", type=int, help="images; 4 on a CPU, 64 on a GPU")
    parser.add_argument("--dtypes", nargs="*", default=["float32"], choices=["float32", "float16", "bfloat16"])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--name", help="of the JSON; dcnv3_<device> if left out")
    options = parser.parse_args()
    batch = options.batch or (64 if options.device == "cuda" else 4)
    shapes: dict[str, Any] = {}
    content = {"machine": machine() | {"threads": torch.get_num_threads()}, "batch": batch, "shapes": shapes}
    if options.device == "cuda":
        content["gpu"] = torch.cuda.get_device_name()
    for size in options.sizes:
        variant = VARIANTS[SIZES[size]]
        for dtype in options.dtypes:
            for stage, side in enumerate(SIDES):
                channels, groups = variant.channels * 2**stage, variant.groups[stage]
                case = Case(batch, side, channels, groups, dtype, options.device)
                name = f"{size}{stage + 1} {side}x{side}x{channels} {dtype}"
                shapes[name] = measure(case, options.repeats)
                print(name, shapes[name]["forms"], shapes[name]["times"], flush=True)
    save(options.name or f"dcnv3_{options.device}", content)


if __name__ == "__main__":
    main()
