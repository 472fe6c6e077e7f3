"""Whether training makes a descriptor that finds copies: SSCD's method on a CPU, before and after, beside `pixels`.

    python -m bench.copy_descriptor [--recipe debug_sscd] [--steps 160] [--train-images 800] [--keep FILE] [key=value]

Trains a small descriptor on scenes of the sample web (and crops of the photographs that scikit-image and scikit-learn
carry), then looks for copies of other scenes among them: `planted` are copies as the sample web makes them, `strong`
ones have SSCD's own edits at a third of the image's area or more. Of every query the nearest of all scenes is sought
(recall@1), and all pairs are ranked together (micro average precision, DISC2021's measure). Each encoder is used as it
is and whitened on the scenes, as the `describe` stage does it. --keep writes the descriptor (float16).
"""

import argparse
import shutil
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bench.measure import machine, save
from bench.pixels_descriptor import copy, scene
from examples.sample_web.photographs import PHOTOGRAPHS, load_photograph
from examples.sample_web.plants import COPY_KINDS
from ssl_train.checkpoint import export_teacher
from ssl_train.config import TrainConfig, load_recipe
from ssl_train.data.copy_augment import CopyCrops
from ssl_train.data.pixels import MEAN, STD
from ssl_train.descriptor import write_descriptor
from ssl_train.distributed import World
from ssl_train.trainer import Trainer
from storage.filesystem import file_sha256
from storage.images import decode_rgb, encode_jpeg
from tasks.algorithms.whitening import fit_among_copies
from tasks.encoders import Pixels, SslDescriptor
from tasks.encoders.base import BuiltEncoder, Floats

ALONE = World(0, 1, torch.device("cpu"))
FIRST_TRAINING_SCENE = 1_000_000
"""Scenes from here on are trained on, those from 0 on are looked for: none is both."""
STRONG = CopyCrops(
    global_pixels=160, global_scale=(0.33, 1.0), frame=0.2, blur_sigma=(0.5, 3.0), jpeg_quality=(10, 100)
)
PAIRS_PER_QUERY = 20


def main() -> None:
    """Train, look for copies, print and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="debug_sscd")
    parser.add_argument("--steps", type=int, default=160)
    parser.add_argument("--train-images", type=int, default=800)
    parser.add_argument("--scenes", type=int, default=400)
    parser.add_argument("--copies", type=int, default=25, help="of each planted kind; eight times as many strong")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", default="")
    parser.add_argument("overrides", nargs="*", help="key=value of the recipe")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, ProcessPoolExecutor(given.workers) as workers:
        config = recipe(given, folder)
        training_images(Path(folder) / "images", given.train_images, workers)
        queries = Queries(given.scenes, given.copies, workers)
        files, seconds = trained(config, Path(folder))
        if given.keep:
            shutil.copyfile(files["after"], given.keep)
        encoders: dict[str, BuiltEncoder] = {"pixels": Pixels().build()}
        encoders |= {name: encoder_of(path) for name, path in files.items()}
        found = {name: queries.measure(encoder) for name, encoder in encoders.items()}
    for name, figures in found.items():
        print(name, {key: value for key, value in figures.items() if key != "by_kind"})
    settings = {**vars(given), "training_seconds": round(seconds, 1)}
    kept = {"megabytes": round(Path(given.keep).stat().st_size / 1e6, 2)} if given.keep else {}
    save("copy_descriptor", {"machine": machine(), "settings": settings, **kept, "found": found})


def recipe(given: argparse.Namespace, folder: str) -> TrainConfig:
    """The recipe with this run's folders and length."""
    own = [f"data.folder={folder}/images", f"output_dir={folder}/run", f"num_steps={given.steps}", f"seed={given.seed}"]
    return load_recipe(given.recipe, [*own, *given.overrides])


def training_images(folder: Path, count: int, workers: ProcessPoolExecutor) -> None:
    """Scenes, and every photograph, as JPEGs."""
    folder.mkdir()
    numbers = range(FIRST_TRAINING_SCENE, FIRST_TRAINING_SCENE + count)
    for number, data in zip(numbers, workers.map(scene, numbers, chunksize=16), strict=True):
        (folder / f"scene-{number}.jpg").write_bytes(data)
    for name in PHOTOGRAPHS:
        (folder / f"photograph-{name}.jpg").write_bytes(encode_jpeg(load_photograph(name, 420), quality=90))


class Queries:
    """Scenes, copies of them, and what each is a copy of."""

    def __init__(self, num_scenes: int, num_copies: int, workers: ProcessPoolExecutor) -> None:
        self.scenes = list(workers.map(scene, range(num_scenes), chunksize=16))
        rng = np.random.default_rng(0)
        self.truth: dict[str, NDArray[np.int64]] = {}
        self.copies: dict[str, list[bytes]] = {}
        for kind in COPY_KINDS:
            self.truth[kind] = rng.choice(num_scenes, num_copies, replace=False)
            jobs = [(kind, int(number), self.scenes[number]) for number in self.truth[kind]]
            self.copies[kind] = list(workers.map(copy, jobs, chunksize=8))
        self.truth["strong"] = rng.choice(num_scenes, min(num_scenes, num_copies * len(COPY_KINDS)), replace=False)
        strong_jobs = [(int(number), self.scenes[number]) for number in self.truth["strong"]]
        self.copies["strong"] = list(workers.map(strong_copy, strong_jobs, chunksize=8))

    def measure(self, encoder: BuiltEncoder) -> dict[str, Any]:
        """Recall@1 and micro average precision of planted and of strong copies, raw and whitened."""
        started = time.process_time()
        scenes = described(encoder, self.scenes)
        copies = {kind: described(encoder, images) for kind, images in self.copies.items()}
        seconds = time.process_time() - started
        num_images = len(scenes) + sum(len(images) for images in copies.values())
        whitening = fit_among_copies(scenes, dim=encoder.dim, shrinkage=0.1, chance=0.45)
        figures: dict[str, Any] = {"images_per_processor_second": round(num_images / seconds, 1), "by_kind": {}}
        for name, space in (("raw", lambda rows: rows), ("whitened", whitening)):
            against = space(scenes)
            similarity = {kind: space(rows) @ against.T for kind, rows in copies.items()}
            for group, kinds in (("planted", COPY_KINDS), ("strong", ("strong",))):
                rows = np.concatenate([similarity[kind] for kind in kinds])
                truth = np.concatenate([self.truth[kind] for kind in kinds])
                figures[f"{group}, {name}"] = {
                    "recall@1": round(float((rows.argmax(1) == truth).mean()), 4),
                    "micro_ap": round(micro_average_precision(rows, truth), 4),
                }
            figures["by_kind"][name] = {
                kind: round(float((rows.argmax(1) == self.truth[kind]).mean()), 3) for kind, rows in similarity.items()
            }
        return figures


def strong_copy(job: tuple[int, bytes]) -> bytes:
    """A copy of a scene by the augmentation that SSCD trains with, stored once more as JPEG."""
    number, original = job
    image = decode_rgb(original)
    height, width = image.shape[:2]
    plan = STRONG.plan(height, width, np.random.default_rng([99, number]))
    made = plan.copies[0].made(image, plan.side) * torch.tensor(STD)[:, None, None] + torch.tensor(MEAN)[:, None, None]
    return encode_jpeg((made.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy(), quality=85)


def described(encoder: BuiltEncoder, images: Sequence[bytes]) -> Floats:
    """The encoder's vectors of encoded images."""
    return encoder.encode([decode_rgb(data, min_side=encoder.min_side) for data in images])


def micro_average_precision(similarity: Floats, truth: NDArray[np.int64]) -> float:
    """All (query, scene) pairs in one ranking by similarity: the mean, over true pairs, of the precision down to each.

    Of every query the 20 most similar scenes are ranked; a true pair that is not among them counts 0.
    """
    best = np.argsort(-similarity, axis=1)[:, :PAIRS_PER_QUERY]
    scores = np.take_along_axis(similarity, best, axis=1).ravel()
    is_true = (best == truth[:, None]).ravel()[np.argsort(-scores, kind="stable")]
    precision = np.cumsum(is_true) / np.arange(1, len(is_true) + 1)
    return float((precision * is_true).sum() / len(truth))


def trained(config: TrainConfig, folder: Path) -> tuple[dict[str, str], float]:
    """Files of the descriptor before and after a run, and the seconds it took."""
    trainer = Trainer(config, ALONE)
    before = str(folder / "before" / "teacher.safetensors")
    export_teacher(before, trainer.networks, model=config.model, step=0, seed=config.seed, world=ALONE)
    started = time.perf_counter()
    trainer.run()
    seconds = time.perf_counter() - started
    files = {}
    for name, teacher in (("before", before), ("after", f"{config.output_dir}/teacher.safetensors")):
        files[name] = str(folder / f"{name}.safetensors")
        write_descriptor(teacher, files[name], half=True)
    return files, seconds


def encoder_of(path: str) -> BuiltEncoder:
    """The pipeline's encoder of a descriptor's file."""
    return SslDescriptor(weights=path, sha256=file_sha256(path)[1]).build()


if __name__ == "__main__":
    main()
