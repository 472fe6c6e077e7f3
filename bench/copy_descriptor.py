"""How well descriptors find copies: `sscd_small` and `pixels`, which come with the package, and one trained here.

    python -m bench.copy_descriptor                                     # the two, in about a processor minute
    python -m bench.copy_descriptor --recipe debug_sscd [--steps 160] [--keep FILE] [key=value]
    python -m bench.copy_descriptor --file descriptor.safetensors

A recipe is trained on scenes of the sample web and on dead leaves (pictures of random shapes) and measured before and
after. Sought are copies of other `scenes`, and of `photographs` (quarters of those that scikit-image and scikit-learn
carry; no photograph is trained on): `planted` ones as the sample web makes them, and `strong` ones with SSCD's own
edits at a third of the image's area or more. Of every query the nearest original is sought (recall@1), all pairs are
ranked together (micro average precision, DISC2021's measure), and recall is counted above the pipeline's thresholds and
above all but so many of the unrelated pairs. Each encoder is used as it is and whitened on the scenes, as the
`describe` stage does it. --keep writes the trained descriptor (float16).
"""

import argparse
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

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
from storage.images import decode_rgb, encode_jpeg, resize
from tasks.algorithms.whitening import fit_among_copies
from tasks.encoders import Pixels, SscdSmall, SslDescriptor
from tasks.encoders.base import BuiltEncoder, Floats, Pixels8
from tasks.encoders.pixel_codebook import dead_leaves

ALONE = World(0, 1, torch.device("cpu"))
FIRST_TRAINING_SCENE, FIRST_TRAINING_LEAF = 1_000_000, 10_000
"""Scenes from here on are trained on, those from 0 on are looked for: none is both. Leaves: the codebook has others."""
TRAINING_SIDE = 208
"""Pixels of the shorter side of training images: no larger than crops need them."""
STRONG = CopyCrops(
    global_pixels=160, global_scale=(0.33, 1.0), frame=0.2, blur_sigma=(0.5, 3.0), jpeg_quality=(10, 100)
)
PAIRS_PER_QUERY = 20
THRESHOLDS = (0.6, 0.45)
"""Cosines above which the pipeline takes two images for copies of each other, and one for a copy of a benchmark's."""
FALSE_PAIRS = (0, 10)


def main() -> None:
    """Train, look for copies, print and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="", help="to train; nothing is trained if left out")
    parser.add_argument("--steps", type=int, help="of training; the recipe's, if left out")
    parser.add_argument("--scenes", type=int, default=800, help="to train on")
    parser.add_argument("--leaves", type=int, default=0, help="pictures of random shapes to train on")
    parser.add_argument("--file", default="", help="a descriptor that is measured, too")
    parser.add_argument("--queries", type=int, default=400, help="scenes among which copies are sought")
    parser.add_argument("--copies", type=int, default=25, help="of each planted kind; eight times as many strong")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--keep", default="")
    parser.add_argument("--name", default="copy_descriptor", help="of the JSON")
    parser.add_argument("overrides", nargs="*", help="key=value of the recipe")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, ProcessPoolExecutor(given.workers) as workers:
        files, seconds = train(given, Path(folder), workers) if given.recipe else ({}, 0.0)
        if given.keep:
            shutil.copyfile(files["after"], given.keep)
        files |= {"file": given.file} if given.file else {}
        searches = {
            "scenes": Search(list(workers.map(scene, range(given.queries), chunksize=16)), given.copies, workers),
            "photographs": Search(photographs(), given.copies, workers),
        }
        megabytes = {name: round(Path(path).stat().st_size / 1e6, 2) for name, path in files.items()}
        encoders: dict[str, BuiltEncoder] = {"pixels": Pixels().build(), "sscd_small": SscdSmall().build()}
        found = compare(encoders | {name: encoder_of(path) for name, path in files.items()}, searches)
    for name, figures in found.items():
        for place, numbers in figures.items():
            print(name, place, numbers)
    settings = {**vars(given), "training_seconds": round(seconds, 1)}
    save(given.name, {"machine": machine(), "settings": settings, "megabytes": megabytes, "found": found})


def train(given: argparse.Namespace, folder: Path, workers: Executor) -> tuple[dict[str, str], float]:
    """Files of the descriptor before and after a run of the recipe, and the seconds it took."""
    training_images(folder / "images", scenes=given.scenes, leaves=given.leaves, workers=workers)
    steps = [] if given.steps is None else [f"num_steps={given.steps}"]
    own = [f"data.folder={folder}/images", f"output_dir={folder}/run", *steps]
    config = load_recipe(given.recipe, [*own, *given.overrides])
    return trained(config, folder)


def training_images(folder: Path, *, scenes: int, leaves: int, workers: Executor) -> None:
    """Scenes and dead leaves, small, as JPEGs; all of them are drawn by this project."""
    folder.mkdir()
    numbers = range(FIRST_TRAINING_SCENE, FIRST_TRAINING_SCENE + scenes)
    for number, data in zip(numbers, workers.map(small_scene, numbers, chunksize=16), strict=True):
        (folder / f"scene-{number}.jpg").write_bytes(data)
    for number, data in enumerate(workers.map(leaf_picture, range(leaves), chunksize=16)):
        (folder / f"leaves-{number}.jpg").write_bytes(data)


def small_scene(number: int) -> bytes:
    """A scene, its shorter side TRAINING_SIDE."""
    image = decode_rgb(scene(number))
    height, width = image.shape[:2]
    scale = TRAINING_SIDE / min(height, width)
    small = resize(image, height=round(height * scale), width=round(width * scale), method="bicubic")
    return encode_jpeg(small, quality=92)


def leaf_picture(number: int) -> bytes:
    """Dead leaves of more or fewer shapes."""
    picture = dead_leaves(FIRST_TRAINING_LEAF + number, size=TRAINING_SIDE, num_shapes=60 + number % 200)
    return encode_jpeg(picture, quality=92)


def photographs() -> list[bytes]:
    """Quarters of the photographs, as JPEGs, but for those too small to bear a crop."""
    quarters = []
    for name in PHOTOGRAPHS:
        image = load_photograph(name, 4000)
        height, width = image.shape[0] // 2, image.shape[1] // 2
        if min(height, width) >= 90:
            corners = [(top, left) for top in (0, height) for left in (0, width)]
            quarters += [image[top : top + height, left : left + width] for top, left in corners]
    return [encode_jpeg(np.ascontiguousarray(quarter), quality=90) for quarter in quarters]


class Described(NamedTuple):
    """An encoder's vectors of a search's originals, and of the copies by kind."""

    originals: Floats
    copies: dict[str, Floats]

    def mapped(self, space: Callable[[Floats], Floats]) -> "Described":
        return Described(space(self.originals), {kind: space(rows) for kind, rows in self.copies.items()})


class Search:
    """Originals, copies of them, and what each is a copy of."""

    def __init__(self, originals: Sequence[bytes], num_copies: int, workers: Executor) -> None:
        self.originals, count = list(originals), len(originals)
        random = np.random.default_rng(0)
        self.truth = {kind: random.choice(count, min(num_copies, count), replace=False) for kind in COPY_KINDS}
        jobs = {kind: [(kind, int(n), self.originals[n]) for n in chosen] for kind, chosen in self.truth.items()}
        self.copies = {kind: list(workers.map(copy, own, chunksize=8)) for kind, own in jobs.items()}
        self.truth["strong"] = random.choice(count, min(count, num_copies * len(COPY_KINDS)), replace=False)
        strong = [(int(number), self.originals[number]) for number in self.truth["strong"]]
        self.copies["strong"] = list(workers.map(strong_copy, strong, chunksize=8))

    def described(self, encoder: BuiltEncoder) -> Described:
        """What the encoder says of all of them."""

        def encode(images: Sequence[bytes]) -> Floats:
            return encoder.encode([decode_rgb(data, min_side=encoder.min_side) for data in images])

        return Described(encode(self.originals), {kind: encode(images) for kind, images in self.copies.items()})

    def figures(self, seen: Described) -> dict[str, dict[str, float]]:
        """How well copies are told from other pictures, planted ones and strong ones."""
        within = (seen.originals @ seen.originals.T)[np.triu_indices(len(seen.originals), 1)]
        figures = {}
        for group, kinds in (("planted", COPY_KINDS), ("strong", ("strong",))):
            rows = np.concatenate([seen.copies[kind] for kind in kinds]) @ seen.originals.T
            truth = np.concatenate([self.truth[kind] for kind in kinds])
            is_own = np.arange(rows.shape[1]) == truth[:, None]
            own, others = rows[is_own], np.sort(np.concatenate([within, rows[~is_own]]))[::-1]
            figures[group] = {
                "recall@1": round(float((rows.argmax(1) == truth).mean()), 4),
                "micro_ap": round(micro_average_precision(rows, truth), 4),
                **{f"recall at {n} false pairs": round(float((own > others[n]).mean()), 4) for n in FALSE_PAIRS},
                **{f"recall above {t}": round(float((own > t).mean()), 4) for t in THRESHOLDS},
                **{f"false pairs above {t}": int((others > t).sum()) for t in THRESHOLDS},
                "unrelated pairs": len(others),
            }
        return figures


def compare(encoders: dict[str, BuiltEncoder], searches: dict[str, Search]) -> dict[str, dict[str, Any]]:
    """Figures of each encoder, raw and whitened on the first search's originals."""
    found: dict[str, dict[str, Any]] = {}
    num_images = sum(len(s.originals) + sum(map(len, s.copies.values())) for s in searches.values())
    for name, encoder in encoders.items():
        started = time.process_time()
        seen = {place: search.described(encoder) for place, search in searches.items()}
        seconds = time.process_time() - started
        originals = next(iter(seen.values())).originals
        whiten = fit_among_copies(originals, dim=min(512, originals.shape[1] + 1), shrinkage=0.1, chance=0.45)
        found[name] = {"images_per_processor_second": round(num_images / seconds, 1)}
        for place, described in seen.items():
            found[name][f"{place}, raw"] = searches[place].figures(described)
            found[name][f"{place}, whitened"] = searches[place].figures(described.mapped(whiten))
    return found


def strong_copy(job: tuple[int, bytes]) -> bytes:
    """A copy of a picture by the augmentation that SSCD trains with, stored once more as JPEG."""
    number, original = job
    return encode_jpeg(edited(decode_rgb(original), STRONG, np.random.default_rng([99, number])), quality=85)


def edited(image: Pixels8, crops: CopyCrops, random: np.random.Generator) -> Pixels8:
    """One copy of a picture by an augmentation, as bytes."""
    height, width = image.shape[:2]
    plan = crops.plan(height, width, random)
    made = plan.copies[0].made(image, plan.side) * torch.tensor(STD)[:, None, None] + torch.tensor(MEAN)[:, None, None]
    return (made.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()


def micro_average_precision(similarity: Floats, truth: NDArray[np.int64]) -> float:
    """All (query, original) pairs in one ranking by similarity: the mean, over true ones, of the precision down to it.

    Of every query the 20 most similar originals are ranked; a true pair that is not among them counts 0.
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
