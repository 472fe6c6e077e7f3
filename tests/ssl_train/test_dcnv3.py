"""DCNv3 in three forms: the published numbers, one another's, and what torch asks of an operator."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from ssl_train.ops import dcnv3_plain
from ssl_train.ops.dcnv3 import chosen_form, dcnv3, textbook_dcnv3, triton_imports
from ssl_train.ops.dcnv3_geometry import Geometry, unpacked
from tests.ssl_train.dcnv3_forms import GEOMETRIES, Inputs, draw, results

HERE = Path(__file__).parent


def plain(geometry: Geometry) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    return lambda *inputs: dcnv3(*inputs, **geometry._asdict(), form="plain")


def textbook(geometry: Geometry) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    return lambda *inputs: textbook_dcnv3(*inputs, geometry)


@pytest.mark.parametrize("form", [plain, textbook])
@pytest.mark.parametrize("case", range(6))
def test_output_and_gradients_are_the_published_ones(form: Any, case: int, vectors: Callable[[str], Any]) -> None:
    file = vectors("dcnv3")
    said = json.loads(file.metadata["cases"])[str(case)]
    kernel, stride, padding, dilation = ((said[name],) * 2 for name in ("kernel", "stride", "pad", "dilation"))
    geometry = Geometry(kernel, stride, padding, dilation, said["groups"], said["offset_scale"], said["remove_center"])
    case_of = file.under(f"{case}.")
    names = ("input", "offset", "mask")
    found = results(form(geometry), Inputs(*(case_of[f"in.{name}"] for name in names), case_of["in.grad_output"]))
    wanted = [case_of["out.output"], *(case_of[f"out.grad_{name}"] for name in names)]
    for one, other in zip(found, wanted, strict=True):
        assert_close(one, other, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_the_plain_form_is_the_textbook(geometry: Geometry, seed: int) -> None:
    inputs = draw(geometry, torch.float64, seed)
    for one, other in zip(results(plain(geometry), inputs), results(textbook(geometry), inputs), strict=True):
        assert_close(one, other)


@pytest.mark.parametrize("geometry", GEOMETRIES[:2])
def test_one_output_is_the_sum_that_the_paper_writes(geometry: Geometry) -> None:
    x, offset, mask, _ = draw(geometry, torch.float64, 0)
    out, points = dcnv3(x, offset, mask, **geometry._asdict()), geometry.points()
    width = x.shape[-1] // geometry.groups

    def pixel(row: int, column: int, group: int) -> Tensor:
        inside = 0 <= row < x.shape[1] and 0 <= column < x.shape[2]
        return x[1, row, column, group * width :][:width] if inside else torch.zeros(width, dtype=x.dtype)

    for row, column, group in ((0, 0, 0), (1, 2, 1), (out.shape[1] - 1, out.shape[2] - 1, 0)):
        total = torch.zeros(width, dtype=x.dtype)
        for index, (down, right) in enumerate(points):
            place = group * len(points) + index
            shift_x, shift_y = offset[1, row, column, 2 * place : 2 * place + 2]
            first_row, first_column = geometry.origin()
            y = row * geometry.stride[0] + first_row + geometry.offset_scale * (down + shift_y)
            z = column * geometry.stride[1] + first_column + geometry.offset_scale * (right + shift_x)
            top, left = int(y.floor()), int(z.floor())
            for below in (0, 1):
                for beside in (0, 1):
                    share = (1 - (y - top - below).abs()) * (1 - (z - left - beside).abs())
                    total += mask[1, row, column, place] * share * pixel(top + below, left + beside, group)
        assert_close(out[1, row, column, group * width :][:width], total)


@pytest.mark.parametrize("geometry", GEOMETRIES[:2])
def test_gradients_are_those_of_finite_differences(geometry: Geometry) -> None:
    x, offset, mask, _ = (tensor[:1] for tensor in draw(geometry, torch.float64, 0, side=4))
    inputs = [tensor.requires_grad_() for tensor in (x, offset, mask)]
    assert torch.autograd.gradcheck(plain(geometry), inputs, fast_mode=True)


@pytest.mark.parametrize("samples", [1, 700, 40_000])
def test_blocks_of_any_size_give_the_same_numbers(samples: int, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = draw(GEOMETRIES[0], torch.float64, 0)
    whole = results(plain(GEOMETRIES[0]), inputs)
    monkeypatch.setitem(dcnv3_plain.BLOCK_SAMPLES, "cpu", samples)
    assert_close(results(plain(GEOMETRIES[0]), inputs), whole)


@pytest.mark.parametrize("count", [20, 9_000, 20_000, 40_000])
def test_rows_are_sorted_whatever_their_number(count: int) -> None:
    rows = torch.randint(0, 500, (count,), dtype=torch.int32)
    ordered, order = dcnv3_plain._sorted(rows)
    assert_close(ordered, rows.sort().values)
    assert_close(rows[order], ordered)


def test_points_far_outside_have_no_value_and_no_gradient() -> None:
    geometry = GEOMETRIES[0]
    x, _, mask, grad = draw(geometry, torch.float32, 0)
    offset = torch.full((*mask.shape[:-1], 2 * mask.shape[-1]), 1e9)
    out, by_input, by_offset, by_mask = results(plain(geometry), Inputs(x, offset, mask, grad))
    for tensor in (out, by_input, by_offset, by_mask):
        assert tensor.count_nonzero() == 0


@pytest.mark.parametrize("broken", ["input", "offset", "mask"])
def test_what_is_no_number_is_not_hidden(broken: str) -> None:
    inputs = draw(GEOMETRIES[0], torch.float32, 0)
    getattr(inputs, broken)[0, 2, 2, 3] = float("nan")
    assert results(plain(GEOMETRIES[0]), inputs)[0].isnan().any()


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
def test_half_precision_is_rounded_only_at_the_ends(half: torch.dtype) -> None:
    geometry = GEOMETRIES[0]
    inputs = Inputs(*(tensor.to(half) for tensor in draw(geometry, torch.float32, 0)))
    exact = results(plain(geometry), Inputs(*(tensor.float() for tensor in inputs)))
    for one, other in zip(results(plain(geometry), inputs), exact, strict=True):
        assert one.dtype == half
        assert_close(one, other.to(half))


def test_inputs_may_be_of_several_dtypes_under_autocast() -> None:
    geometry = GEOMETRIES[0]
    x, offset, mask, grad = draw(geometry, torch.float32, 0)
    with torch.autocast("cpu", torch.bfloat16):
        found = results(plain(geometry), Inputs(x.bfloat16(), offset, mask, grad.bfloat16()))
    assert [tensor.dtype for tensor in found] == [torch.bfloat16, torch.bfloat16, torch.float32, torch.float32]
    exact = results(plain(geometry), Inputs(x.bfloat16().float(), offset, mask, grad.bfloat16().float()))
    for one, other in zip(found, exact, strict=True):
        assert_close(one.float(), other, rtol=1e-2, atol=1e-2 if one.dtype == torch.bfloat16 else 1e-5)


def test_a_slice_of_a_larger_tensor_is_as_good_as_a_copy() -> None:
    geometry = GEOMETRIES[0]
    x, offset, mask, grad = draw(geometry, torch.float64, 0)
    spread = Inputs(*(torch.stack([tensor, tensor], -1)[..., 0] for tensor in (x, offset, mask, grad)))
    assert_close(results(plain(geometry), spread), results(plain(geometry), Inputs(x, offset, mask, grad)))


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
def test_it_compiles_into_one_graph() -> None:
    geometry = GEOMETRIES[0]
    inputs = draw(geometry, torch.float32, 0)
    form = plain(geometry)
    compiled = torch.compile(lambda *x: form(*x).sin() * 2, fullgraph=True, dynamic=False, backend="aot_eager")
    assert_close(results(compiled, inputs), results(lambda *x: form(*x).sin() * 2, inputs))


def test_it_is_an_operator_by_torchs_own_rules() -> None:
    geometry = GEOMETRIES[2]
    inputs = [tensor.requires_grad_() for tensor in draw(geometry, torch.float32, 0)[:3]]
    arguments = (*inputs, geometry.packed(), geometry.offset_scale, "plain")
    checks = ("test_schema", "test_autograd_registration", "test_faketensor")
    torch.library.opcheck(torch.ops.ssl_train.dcnv3.default, arguments, test_utils=checks)


def test_settings_survive_the_operators_schema() -> None:
    for geometry in GEOMETRIES:
        assert unpacked(geometry.packed(), geometry.offset_scale) == geometry


def test_shapes_that_do_not_fit_are_named() -> None:
    x, offset, mask, _ = draw(GEOMETRIES[0], torch.float32, 0)
    settings = GEOMETRIES[0]._asdict()
    with pytest.raises(ValueError, match=r"offset is \[2, 7, 6, 36\], should be \[2, 7, 6, 54\]"):
        dcnv3(x, offset[..., :36], mask, **settings)
    with pytest.raises(ValueError, match="do not part into 5 groups"):
        dcnv3(x, offset, mask, **settings | {"groups": 5})
    with pytest.raises(ValueError, match="has no centre to remove"):
        dcnv3(x, offset, mask, **settings | {"kernel": (3, 2), "remove_center": True})
    with pytest.raises(ValueError, match="smaller than the kernel"):
        dcnv3(x[:, :1], offset, mask, **settings | {"padding": 0})


@pytest.mark.skipif(triton_imports(), reason="says what happens without Triton")
def test_triton_is_refused_where_it_is_not_installed() -> None:
    with pytest.raises(RuntimeError, match="needs the triton package"):
        dcnv3(*draw(GEOMETRIES[0], torch.float32, 0)[:3], **GEOMETRIES[0]._asdict(), form="triton")


def test_a_cpu_takes_the_plain_form() -> None:
    assert chosen_form(torch.zeros(1)) == "plain"


@pytest.mark.skipif(not triton_imports(), reason="needs the triton package")
def test_triton_kernels_have_the_numbers_of_the_plain_form_in_tritons_interpreter() -> None:
    """In a process of its own: the interpreter is chosen when the kernels are imported."""
    environment = os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run(
        [sys.executable, "-m", "tests.ssl_train.dcnv3_forms"], env=environment, cwd=HERE.parent.parent, check=True
    )


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_triton_has_the_numbers_of_the_plain_form_on_a_gpu(geometry: Geometry, dtype: torch.dtype) -> None:
    inputs = Inputs(*(tensor.to("cuda", dtype) for tensor in draw(geometry, torch.float32, 0)))
    assert chosen_form(inputs.input) == "triton"
    triton = results(lambda *x: dcnv3(*x, **geometry._asdict()), inputs)
    tolerance = {torch.float32: 1e-4, torch.float16: 4e-3, torch.bfloat16: 3e-2}[dtype]
    for one, other in zip(triton, results(plain(geometry), inputs), strict=True):
        assert one.dtype == dtype
        assert_close(one, other, rtol=tolerance, atol=tolerance)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_triton_form_compiles_into_one_graph_on_a_gpu() -> None:
    geometry = GEOMETRIES[0]
    inputs = Inputs(*(tensor.cuda() for tensor in draw(geometry, torch.float32, 0)))

    def function(*x: Tensor) -> Tensor:
        return dcnv3(*x, **geometry._asdict(), form="triton").sin() * 2

    compiled = torch.compile(function, fullgraph=True, dynamic=False)
    assert_close(results(compiled, inputs), results(function, inputs), rtol=1e-4, atol=1e-4)
