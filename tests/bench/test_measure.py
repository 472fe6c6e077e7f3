"""The benchmarks' own instruments: memory that is taken is memory that is reported."""

from pathlib import Path

import numpy as np
import pytest

from bench.measure import machine, peak_megabytes, save


def take(megabytes: int) -> int:
    return int(np.ones(megabytes << 20, dtype=np.uint8)[-1])


def fail() -> None:
    raise SystemExit(3)


def test_memory_that_is_taken_and_given_back_is_reported() -> None:
    result, peak = peak_megabytes(take, 200)
    assert result == 1
    assert 195 <= peak <= 230


def test_work_that_dies_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="exit code 3"):
        peak_megabytes(fail)


def test_results_name_the_machine(tmp_path: Path) -> None:
    path = save("x", {"machine": machine()}, tmp_path)
    assert '"processor"' in path.read_text()
