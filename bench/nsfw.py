"""The NSFW filter beside NudeNet's own call, on the same decoded photographs and one thread: images per CPU second.

Ours examines the stage's batches of decoded arrays; the peer's `NudeDetector.detect` takes one image at a time (an
array, so that neither decodes) and sorts out its boxes in Python. Their detections are compared: equal labels, scores
within 0.01. With a GPU (pip install onnxruntime-gpu instead of onnxruntime) a second row runs NSFW and faces together
there, images per second of the clock: as many processes side by side as a node's GPU has cores (`--processes`; each
prepares its own batches, one GPU serves all), as the stage's parts are. `--gpu-row-on-cpu` runs that row without one,
to see that it runs: its figure then says nothing.

    python -m bench.nsfw [--images 300] [--repeats 3] [--processes 16]
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import numpy as np
import onnxruntime
from nudenet import NudeDetector

from bench.measure import machine, save
from examples.sample_web.concepts import CONCEPTS, render_scene
from storage.images import Pixels
from tasks.filters import BuiltFilter, Faces, Nsfw, Picture
from tasks.filters.nudenet import Nudenet

WANTED, WANTED_GPU = 1.3, 1500.0
_BATCH = 32
_SIZES = ((384, 512), (512, 384), (640, 480), (333, 500), (800, 600))


def photographs(count: int) -> list[Pixels]:
    """Scenes of the sample web with astronauts' faces pasted in, so that there is something to find: RGB arrays."""
    from skimage import data

    face = data.astronaut()[:300, 80:380]
    pictures = []
    for number in range(count):
        height, width = _SIZES[number % len(_SIZES)]
        scene = np.array(render_scene(CONCEPTS[number % len(CONCEPTS)], number, (width, height)))
        scene[20:320, 10:310] = face[: scene.shape[0] - 20, : scene.shape[1] - 10]
        pictures.append(scene)
    return pictures


def rates_of(works: Mapping[str, Callable[[], object]], images: int, repeats: int) -> dict[str, float]:
    """Images per second of processor, by turns, the medians."""
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(repeats):
        for name, work in works.items():
            started = time.process_time()
            work()
            seconds[name].append(time.process_time() - started)
    return {name: images / statistics.median(spent) for name, spent in seconds.items()}


def peer() -> NudeDetector:
    """NudeNet as it comes, but on one thread as ours is: its own session takes every core."""
    detector = NudeDetector()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    path = detector.onnx_session._model_path
    detector.onnx_session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return detector


def disagreements(ours: Nudenet, theirs: NudeDetector, pictures: Sequence[Pixels]) -> int:
    """Pictures in which the two see something else."""
    wrong = 0
    for picture, found in zip(pictures, ours.detect(pictures), strict=True):
        wanted = theirs.detect(picture)
        pairs = list(zip(found, wanted, strict=False))
        alike = len(found) == len(wanted) and all(
            one.label == other["class"] and abs(one.score - other["score"]) < 0.01 for one, other in pairs
        )
        wrong += not alike
    return wrong


def examined(number: int, images: int, repeats: int, barrier: Any) -> tuple[float, float]:
    """One process of the GPU row: its models warm, NSFW and faces on its share; the clock at its start and end."""
    pictures = photographs(images)
    filters: list[BuiltFilter] = [Nsfw().build(), Faces().build()]
    batches = [
        [Picture(one, one.shape[1], one.shape[0]) for one in pictures[at : at + _BATCH]]
        for at in range(0, len(pictures), _BATCH)
    ]
    for one in filters:
        one.examine(batches[number % len(batches)])
    barrier.wait()
    started = time.time()
    for _ in range(repeats):
        for batch in batches:
            for one in filters:
                one.examine(batch)
    return started, time.time()


def on_gpu(images: int, repeats: int, processes: int, *, anyway: bool = False) -> float | None:
    """NSFW and faces together, images per second by the clock over all processes; None without a GPU."""
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers() and not anyway:
        return None
    context = get_context("spawn")
    with context.Manager() as manager, ProcessPoolExecutor(processes, mp_context=context) as pool:
        barrier = manager.Barrier(processes)
        share = -(-images // processes)
        running = [pool.submit(examined, number, share, repeats, barrier) for number in range(processes)]
        spans = [one.result() for one in running]
    seconds = max(end for _, end in spans) - min(start for start, _ in spans)
    return share * processes * repeats / seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=300)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--gpu-row-on-cpu", action="store_true")
    asked = parser.parse_args()
    pictures = photographs(asked.images)
    ours, theirs = Nudenet(), peer()
    wrong = disagreements(ours, theirs, pictures[:50])

    def in_batches() -> None:
        for at in range(0, len(pictures), _BATCH):
            ours.detect(pictures[at : at + _BATCH])

    works = {"ours": in_batches, "nudenet": lambda: [theirs.detect(picture) for picture in pictures]}
    rates = rates_of(works, len(pictures), asked.repeats)
    content: dict[str, Any] = {
        "machine": machine(),
        "images": asked.images,
        "images_per_cpu_second": {who: round(value, 1) for who, value in rates.items()},
        "times": round(rates["ours"] / rates["nudenet"], 2),
        "wanted": WANTED,
        "disagreements_of_50": wrong,
        "gpu_images_per_second": on_gpu(asked.images, asked.repeats, asked.processes, anyway=asked.gpu_row_on_cpu),
        "gpu_processes": asked.processes,
        "gpu_wanted": WANTED_GPU,
    }
    print(content)
    save("nsfw", content)


if __name__ == "__main__":
    main()
