"""The exact self-join on a GPU: images/s and TFLOP/s beside the card's own matmul peak and blocked torch.

Needs plain python, numpy and torch >= 2.11 (Faiss GPU is timed where it can be imported). What is compared is all pairs
above 0.6 of clustered unit vectors on the card: products, thresholding, exact verification, edges back on the host.
TFLOP/s count the products that were made (2 * dim each, tiles above the diagonal), for all three alike.

    python -m bench.gpu_join                       # on the machine with the GPU; writes bench/results/gpu_join.json
    python -m bench.gpu_join --device cpu --rows 2000 --tile 512 --peak-size 256 --no-save      # is it correct?
"""

import argparse
import importlib
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from bench.clustered_vectors import DIM, clustered_vectors
from bench.measure import machine, median_seconds, save
from tasks.algorithms.join_device import TILE_ROWS, OnDevice, pairs_on_device, to_device
from tasks.algorithms.join_edges import Edges

THRESHOLD = 0.6


def peak_flops(device: str, size: int, repeats: int) -> float:
    """Operations a second of the best large half-precision product: the card's own measured peak."""
    best = 0.0
    for rows, inner in ((size, size), (2 * size, size), (2 * size, DIM)):
        left = torch.randn(rows, inner, device=device).half()
        right = torch.randn(rows, inner, device=device).half()
        seconds = median_seconds(lambda a=left, b=right: _done(a @ b.T), repeats=repeats)  # type: ignore[misc]
        best = max(best, 2.0 * rows * rows * inner / seconds)
    return best


def blocked_torch(rows: OnDevice, tile: int) -> int:
    """What one writes first: products by tiles, a mask, `nonzero`; the number of pairs above the threshold in half."""
    found = 0
    for start in range(0, len(rows.half), tile):
        for other in range(start, len(rows.half), tile):
            mask = rows.half[start : start + tile] @ rows.half[other : other + tile].T > THRESHOLD
            pairs = (torch.triu(mask, diagonal=1) if start == other else mask).nonzero()
            found += len(pairs.cpu())
    return found


def computed_flop(num_rows: int, tile: int) -> float:
    """2 * dim for every product of a tile on or above the diagonal."""
    starts = range(0, num_rows, tile)
    products = sum(min(tile, num_rows - start) * (num_rows - start) for start in starts)
    return 2.0 * DIM * products


def faiss_gpu(vectors: npt.NDArray[np.float16], repeats: int) -> float | None:
    """Seconds of Faiss's brute force on the card, k = 65; None where Faiss has no GPU."""
    try:
        faiss = importlib.import_module("faiss")
    except ImportError:
        return None
    if not hasattr(faiss, "StandardGpuResources") or not torch.cuda.is_available():
        return None
    resources, metric = faiss.StandardGpuResources(), faiss.METRIC_INNER_PRODUCT
    return median_seconds(lambda: faiss.knn_gpu(resources, vectors, vectors, 65, metric=metric), repeats=repeats)


def measure(num_rows: int, device: str, *, tile: int, peak_size: int, repeats: int) -> dict[str, Any]:
    """Everything in one run, on the same rows."""
    vectors = clustered_vectors(num_rows)
    rows = to_device(vectors, None, device)
    peak = peak_flops(device, peak_size, repeats)
    flop = computed_flop(num_rows, tile)

    def join() -> Edges:
        return pairs_on_device(rows, rows, THRESHOLD, upper=True, tile_rows=tile)

    num_edges = len(join().left)  # and the warm-up
    ours = median_seconds(join, repeats=repeats)
    half_edges = blocked_torch(rows, tile)
    blocked = median_seconds(lambda: blocked_torch(rows, tile), repeats=repeats)
    faiss_seconds = faiss_gpu(vectors, repeats)
    content: dict[str, Any] = {
        "rows": num_rows,
        "tile_rows": tile,
        "peak_tflops": round(peak / 1e12, 3),
        "ours": _figures(ours, flop, peak, num_rows) | {"num_edges": num_edges},
        "blocked_torch": _figures(blocked, flop, peak, num_rows) | {"pairs_above_in_half_precision": half_edges},
        "faiss_gpu": None if faiss_seconds is None else {"seconds": round(faiss_seconds, 4)},
    }
    if torch.cuda.is_available():
        content["peak_memory_mb"] = round(torch.cuda.max_memory_allocated() / 2**20)
    return content


def _figures(seconds: float, flop: float, peak: float, num_rows: int) -> dict[str, float]:
    return {
        "seconds": round(seconds, 4),
        "images_per_second": round(num_rows / seconds),
        "tflops": round(flop / seconds / 1e12, 3),
        "share_of_peak": round(flop / seconds / peak, 3),
    }


def _done(result: torch.Tensor) -> torch.Tensor:
    if result.is_cuda:
        torch.cuda.synchronize()
    return result


def main() -> None:
    """Prints a line per way; exit code 1 if the join stays below half of the card's peak."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--rows", type=int, default=262_144)
    parser.add_argument("--tile", type=int, default=TILE_ROWS)
    parser.add_argument("--peak-size", type=int, default=8192)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--no-save", action="store_true")
    options = parser.parse_args()
    content = measure(
        options.rows, options.device, tile=options.tile, peak_size=options.peak_size, repeats=options.repeats
    )
    card = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    content = {"machine": machine() | {"card": card}, **content}
    print(f"{card}: peak {content['peak_tflops']} TFLOP/s")
    for way in ("ours", "blocked_torch", "faiss_gpu"):
        print(f"  {way:<14}{content[way]}")
    if not options.no_save:
        save("gpu_join", content)
    if options.device != "cpu" and content["ours"]["share_of_peak"] < 0.5:
        raise SystemExit("the join stays below half of the card's measured peak")


if __name__ == "__main__":
    main()
