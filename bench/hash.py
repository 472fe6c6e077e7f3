"""Hashes per CPU second, one core: our PCA hash and PDQ beside imagehash.phash, of images in memory and of JPEG bytes.

    python -m bench.hash [--num-images 2000] [--repeats 5]

In memory: 224 pixels on a side (as packages.md measured). From bytes: scenes of the sample web whose longer side is 500
and 1,000 pixels, the sizes of a crawl, at about 1.4 bits a pixel, and noise at 1.9. Of our time from bytes nine tenths
are libjpeg-turbo's, most of it entropy decoding, which no reduced scale saves and nothing here can do without (at 500
pixels of 0.37 ms 0.34 are its luma at half scale, 0.32 at a quarter; 0.01 each the header with the Python around it,
the thumbnail and the hash; phash takes 1.45 to 1.53). So the ratio, about 4, is at its ceiling; with more bits a pixel
both take longer by the same time, and it is lower. `decoders`: the same luma by others. imagehash is in this
environment, for the stage's method `phash` is its own; pdqhash, if it is installed too, is measured beside our PDQ.
Also: pairs of 64-bit hashes within a radius, by multi-index hashing, beside comparing all with all by Faiss.
"""

import argparse
import importlib.util
import io
import os
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

os.environ |= dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")  # threads that wait

import cv2
import faiss
import imagehash
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bench.measure import machine, save
from examples.sample_web.concepts import CONCEPTS, render_scene
from storage.images import decode_gray, encode_jpeg
from tasks.algorithms.hamming import near_pairs
from tasks.algorithms.pca_hash import fit_pca, hash_thumbnails
from tasks.algorithms.pdq import pdq_hash
from tasks.hashing.looks import thumbnail_of
from tasks.hashing.parts import thumbnail

_BATCH = 256


def main() -> None:
    """Measure, print and save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--num-images", type=int, default=2000)
    parser.add_argument("--num-hashes", type=int, default=200_000)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    cv2.setNumThreads(1)
    files = jpegs(min(options.num_images, 100))
    rates = {"in_memory": _rates(in_memory(options.num_images), options)}
    rates |= {f"jpeg_{name}": _rates(from_jpeg(some), options) for name, some in files.items()}
    for place, found in rates.items():
        print(place, found)
    ratios = {place: round(found["pca_hash"] / found["imagehash_phash"], 2) for place, found in rates.items()}
    print(f"pca hash / imagehash.phash: {ratios} (wanted: 9 in memory, 4 from JPEG bytes)")
    radius = near(options.num_hashes)
    result = {
        "machine": machine(),
        "images_per_cpu_second": rates,
        "times_imagehash": ratios,
        "jpeg_bytes": {name: round(sum(map(len, some)) / len(some)) for name, some in files.items()},
        "decoders_per_cpu_second": {name: _rates(decoders(some), options) for name, some in files.items()},
        "near_pairs": radius,
    }
    save("hash", result)


def pictures(count: int, height: int, width: int) -> list[NDArray[np.uint8]]:
    """Waves and noise in gray: photographs in what matters to a hash and to a JPEG decoder."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[0:height, 0:width] / max(height, width)
    found = []
    for _ in range(count):
        u, v, phase, weight = (
            rng.uniform(-12, 12, 8),
            rng.uniform(-12, 12, 8),
            rng.uniform(0, 6, 8),
            rng.uniform(9, 30, 8),
        )
        waves = sum(w * np.sin(2 * np.pi * (a * x + b * y) + p) for a, b, p, w in zip(u, v, phase, weight, strict=True))
        found.append(np.clip(128 + waves + rng.normal(0, 6, x.shape), 0, 255).astype(np.uint8))
    return found


def in_memory(count: int) -> dict[str, tuple[int, Callable[[], object]]]:
    """The work of each on 224 x 224 RGB images, as the peer takes them (PIL) and as we have them (luma)."""
    gray = pictures(min(count, 400), 224, 224)
    rgb = [Image.fromarray(np.repeat(image[..., None], 3, axis=2)) for image in gray]
    pca = fit_pca([np.stack([thumbnail_of(image) for image in gray])])

    def ours() -> None:
        for start in range(0, len(gray), _BATCH):
            hash_thumbnails(np.stack([thumbnail_of(image) for image in gray[start : start + _BATCH]]), pca)

    work: dict[str, tuple[int, Callable[[], object]]] = {
        "pca_hash": (len(gray), ours),
        "pdq": (len(gray), lambda: [pdq_hash(image) for image in gray]),
        "imagehash_phash": (len(rgb), lambda: [imagehash.phash(image) for image in rgb]),
    }
    if importlib.util.find_spec("pdqhash"):
        import pdqhash

        arrays = [np.asarray(image) for image in rgb]
        work["pdqhash"] = (len(arrays), lambda: [pdqhash.compute(image) for image in arrays])
    return work


def jpegs(count: int) -> dict[str, list[bytes]]:
    """Files of quality 85 by what they show: scenes with a longer side of 500 and of 1,000 pixels, and noise."""
    sizes = {"500px": (500, 375), "1000px": (1000, 750)}
    found = {
        name: [encode_jpeg(render_scene(CONCEPTS[n % len(CONCEPTS)], n, size), quality=85) for n in range(count)]
        for name, size in sizes.items()
    }
    noise = pictures(count, 375, 500)
    found["500px_noise"] = [encode_jpeg(np.repeat(one[..., None], 3, axis=2), quality=85) for one in noise]
    return found


def from_jpeg(files: Sequence[bytes]) -> dict[str, tuple[int, Callable[[], object]]]:
    """The work of each on JPEG bytes."""
    pca = fit_pca([np.stack([thumbnail(data) for data in files])])

    def ours() -> None:
        for start in range(0, len(files), _BATCH):
            hash_thumbnails(np.stack([thumbnail(data) for data in files[start : start + _BATCH]]), pca)

    return {
        "pca_hash": (len(files), ours),
        "imagehash_phash": (len(files), lambda: [imagehash.phash(Image.open(io.BytesIO(data))) for data in files]),
    }


def decoders(files: Sequence[bytes]) -> dict[str, tuple[int, Callable[[], object]]]:
    """Luma of at least 128 pixels on a side by what could decode it, and whole RGB, which the peer needs."""
    return {
        "ours_simplejpeg": (len(files), lambda: [decode_gray(data, min_side=128) for data in files]),
        "opencv_reduced_2": (len(files), lambda: [_opencv(data) for data in files]),
        "pillow_draft": (len(files), lambda: [_pillow(data) for data in files]),
        "pillow_whole_rgb": (len(files), lambda: [Image.open(io.BytesIO(data)).load() for data in files]),
    }


def _opencv(data: bytes) -> object:
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_REDUCED_GRAYSCALE_2)


def _pillow(data: bytes) -> object:
    image = Image.open(io.BytesIO(data))
    image.draft("L", (128, 128))
    return np.asarray(image)


def _rates(work: dict[str, tuple[int, Callable[[], object]]], options: argparse.Namespace) -> dict[str, int]:
    """Images per CPU second: by turns, medians, the first run thrown away; each run at least 0.2 s."""
    seconds: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(options.repeats + 1):
        for name, (_, function) in work.items():
            started, times = time.process_time(), 0
            while times == 0 or time.process_time() - started < 0.2:
                function()
                times += 1
            seconds[name].append((time.process_time() - started) / times)
    return {name: round(count / statistics.median(seconds[name][1:])) for name, (count, _) in work.items()}


def near(count: int) -> dict[str, Any]:
    """CPU seconds for all pairs within 3 and 6 bits among hashes of which a tenth are near another."""
    rng = np.random.default_rng(1)
    hashes = rng.integers(0, 256, (count, 8), dtype=np.uint8)
    copies = rng.permutation(count)[: count // 10]
    hashes[copies[: len(copies) // 2]] = hashes[copies[len(copies) - len(copies) // 2 :]] ^ np.uint8(1)  # 8 bits apart
    hashes[copies[: len(copies) // 2], 2:] = hashes[copies[len(copies) - len(copies) // 2 :], 2:]  # 2 bits apart
    found: dict[str, Any] = {"hashes": count}
    faiss.omp_set_num_threads(1)
    index = faiss.IndexBinaryFlat(64)
    index.add(hashes)
    sample = min(count, 2000)
    for distance in (3, 6):
        started = time.process_time()
        pairs = near_pairs(hashes, max_distance=distance)
        ours = time.process_time() - started
        started = time.process_time()
        index.range_search(hashes[:sample], distance + 1)
        flat = (time.process_time() - started) * count / sample / 2  # each pair once
        found[f"within_{distance}"] = {
            "pairs": len(pairs.first),
            "cpu_seconds": round(ours, 2),
            "faiss_flat_cpu_seconds_estimated": round(flat, 2),
        }
    print(f"near pairs: {found}")
    return found


if __name__ == "__main__":
    main()
