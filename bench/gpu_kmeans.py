"""k-means' pass over the rows on a GPU: exact assignment and integer sums, beside plain blocked torch in one run.

    python -m bench.gpu_kmeans [--device cuda] [--sizes 2000000x1024x100000 ...] [--name gpu_kmeans]

Needs torch and numpy alone, no Faiss, no numba. Told are rows/s and TFLOP/s of products (2 * rows * clusters * dim),
and what part of the card's own peak that is: the product of two square matrices in the same precision, just before. The
peer is what one writes first: blocked products in half precision, argmax, index_add_ of float32; its answer depends on
rounding (`differing`: rows that it gives another centroid) and on the order of additions, ours on neither.
"""

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from bench.measure import machine, save
from tasks.algorithms.kmeans_device import DeviceCentroids, DeviceSums

_BLOCK = 8192


def seconds_of(function: Callable[[], object], device: torch.device, *, repeats: int = 3) -> float:
    """Median wall seconds, the device idle before and after; the first call warms up."""
    times = []
    for _ in range(repeats + 1):
        _wait(device)
        started = time.perf_counter()
        function()
        _wait(device)
        times.append(time.perf_counter() - started)
    return float(np.median(times[1:]))


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def peak_tflops(precision: str, device: torch.device, side: int) -> float:
    """TFLOP/s of the product of two square matrices."""
    left, right = (torch.randn(side, side, device=device).to(getattr(torch, precision)) for _ in range(2))
    return 2 * side**3 / seconds_of(lambda: left @ right, device, repeats=5) / 1e12


def rows_on(device: torch.device, num: int, dim: int, seed: int = 0) -> torch.Tensor:
    """Unit vectors float16 around as many concepts as there are hundreds of them, with a falling spectrum."""
    generator = torch.Generator(device=device).manual_seed(seed)
    spectrum = torch.arange(1, dim + 1, device=device) ** -0.4
    concepts = torch.randn(max(16, num // 100), dim, generator=generator, device=device) * spectrum
    blocks = []
    for start in range(0, num, _BLOCK):
        size = min(_BLOCK, num - start)
        which = torch.randint(0, len(concepts), (size,), generator=generator, device=device)
        block = concepts[which] + 0.8 * torch.randn(size, dim, generator=generator, device=device) * spectrum
        blocks.append(torch.nn.functional.normalize(block, dim=1).half())
    return torch.cat(blocks)


def ours(rows: torch.Tensor, centroids: np.ndarray, precision: str) -> tuple[torch.Tensor, torch.Tensor]:
    """(labels, sums in units of 2^-24)."""
    near = DeviceCentroids(centroids, precision, rows.device)
    sums = DeviceSums(len(centroids), centroids.shape[1], rows.device)
    labels = []
    for block in rows.split(_BLOCK):
        labels.append(near.nearest(block))
        sums.add(block, labels[-1])
    return torch.cat(labels), sums.sums


def plain(rows: torch.Tensor, centroids: np.ndarray, precision: str) -> tuple[torch.Tensor, torch.Tensor]:
    """(labels, float32 sums) of blocked torch."""
    low = torch.from_numpy(centroids).to(rows.device).to(getattr(torch, precision))
    sums = torch.zeros(centroids.shape, device=rows.device)
    labels = []
    for block in rows.split(_BLOCK):
        labels.append((block.to(low.dtype) @ low.T).argmax(dim=1))
        sums.index_add_(0, labels[-1], block.float())
    return torch.cat(labels), sums


def compare(num: int, dim: int, clusters: int, *, device: torch.device, precision: str, peak: float) -> dict[str, Any]:
    """One pass of both over the same rows and centroids."""
    rows = rows_on(device, num, dim)
    chosen = rows[torch.randperm(num, generator=torch.Generator().manual_seed(1))[:clusters].to(device)].double()
    exact = torch.nn.functional.normalize(chosen, dim=1).cpu().numpy()
    centroids = np.asarray(np.rint(exact * 2.0**24) / 2.0**24, dtype=np.float32)
    work = 2.0 * num * clusters * dim / 1e12
    seconds = {
        name: seconds_of(lambda run=run: run(rows, centroids, precision), device)  # type: ignore[misc]
        for name, run in (("ours", ours), ("plain", plain))
    }
    labels, other = ours(rows, centroids, precision)[0], plain(rows, centroids, precision)[0]
    checked = slice(0, min(num, 2048))
    truth = (rows[checked].double() @ torch.from_numpy(centroids).to(device).double().T).argmax(dim=1)
    return {
        "rows": num,
        "dim": dim,
        "clusters": clusters,
        "precision": precision,
        "ours_seconds": round(seconds["ours"], 4),
        "plain_seconds": round(seconds["plain"], 4),
        "times_faster": round(seconds["plain"] / seconds["ours"], 2),
        "rows_per_second": round(num / seconds["ours"]),
        "tflops": round(work / seconds["ours"], 2),
        "of_peak": round(work / seconds["ours"] / peak, 3),
        "plain_of_peak": round(work / seconds["plain"] / peak, 3),
        "wrong_of_checked": int((labels[checked] != truth).sum()),
        "differing": int((labels != other).sum()),
    }


def main() -> None:
    """Run and write bench/results/<name>.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--precision", default="float16", choices=["float16", "bfloat16", "float32"])
    parser.add_argument(
        "--sizes", nargs="+", default=["4000000x256x4096", "2000000x1024x100000"], help="rows x dim x k"
    )
    parser.add_argument("--peak-side", type=int, default=8192)
    parser.add_argument("--name", default="gpu_kmeans")
    options = parser.parse_args()
    device = torch.device(options.device)
    peak = peak_tflops(options.precision, device, options.peak_side)
    card = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    rows: list[dict[str, Any]] = []
    content = {"machine": machine(), "device": card, "peak_tflops": round(peak, 2), "passes": rows}
    for size in options.sizes:
        num, dim, clusters = (int(number) for number in size.split("x"))
        rows.append(compare(num, dim, clusters, device=device, precision=options.precision, peak=peak))
        print(f"{size}: {rows[-1]}", flush=True)
        save(options.name, content)


if __name__ == "__main__":
    main()
