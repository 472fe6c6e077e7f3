"""How well the weight-free descriptor tells copies from other images, on the sample web's scenes and planted copies.

The whitening is fitted, as in a run, on a pool that holds the originals and some of the copies. Prints a table and
writes bench/results/pixels_descriptor.json:  python bench/pixels_descriptor.py [--scenes 1200] [--copies 150]
"""

import argparse
import json
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from examples.sample_web.concepts import CONCEPTS, render_scene
from examples.sample_web.plants import COPY_KINDS, STRENGTHS, transform
from storage.images import decode_rgb, encode_jpeg
from tasks.algorithms.whitening import fit_among_copies
from tasks.encoders import Pixels, Textures
from tasks.encoders.base import Floats

THRESHOLDS = (0.6, 0.45)


def scene(number: int) -> bytes:
    """One scene as the web has it: a JPEG of 260 to 420 pixels across."""
    random = np.random.default_rng(number)
    width = int(random.integers(260, 420))
    size = (width, int(width * random.choice([0.66, 0.75, 1.0, 1.33])))
    return encode_jpeg(render_scene(CONCEPTS[number % len(CONCEPTS)], number, size), quality=88)


def copy(job: tuple[str, int, bytes]) -> bytes:
    """A copy of a scene, of the given kind, stored once more as JPEG."""
    kind, number, original = job
    random = np.random.default_rng([COPY_KINDS.index(kind), number])
    return encode_jpeg(transform(kind, decode_rgb(original), random), quality=int(random.integers(65, 90)))


def describe(images: list[bytes]) -> tuple[Floats, Floats, float]:
    """Raw descriptors, textures, and the processor seconds that decoding and describing took."""
    encoder, textures = Pixels().build(), Textures().build()
    started = time.process_time()
    vectors = encoder.encode([decode_rgb(data, min_side=encoder.min_side) for data in images])
    seconds = time.process_time() - started
    return vectors, textures.encode([decode_rgb(data, min_side=textures.min_side) for data in images]), seconds


def measure(num_scenes: int, num_copies: int, *, dim: int, shrinkage: float, chance: float) -> dict[str, Any]:
    """Recall by kind of copy at both thresholds, chance pairs among unrelated scenes, neighbours of one concept."""
    with ProcessPoolExecutor(2) as workers:
        scenes = list(workers.map(scene, range(num_scenes), chunksize=16))
        random = np.random.default_rng(0)
        chosen = {kind: random.choice(num_scenes, num_copies, replace=False) for kind in COPY_KINDS}
        jobs = [(kind, int(number), scenes[number]) for kind, numbers in chosen.items() for number in numbers]
        copies = list(workers.map(copy, jobs, chunksize=16))
        batches = [(scenes + copies)[start : start + 64] for start in range(0, num_scenes + len(copies), 64)]
        described = list(workers.map(describe, batches))
    vectors = np.concatenate([part[0] for part in described])
    textures = np.concatenate([part[1] for part in described])[:num_scenes]
    in_pool = np.r_[np.arange(num_scenes), num_scenes + np.arange(0, len(copies), 5)]
    whitening = fit_among_copies(vectors[in_pool], dim=dim, shrinkage=shrinkage, chance=chance)
    whitened = whitening(vectors)
    originals, planted = whitened[:num_scenes], whitened[num_scenes:]
    similarity = np.einsum("nd,nd->n", planted, originals[np.concatenate(list(chosen.values()))])
    by_kind = dict(zip(COPY_KINDS, similarity.reshape(len(COPY_KINDS), num_copies), strict=True))
    pairs = (originals @ originals.T)[np.triu_indices(num_scenes, 1)]
    concepts = np.arange(num_scenes) % len(CONCEPTS)
    return {
        "config": {"scenes": num_scenes, "copies_per_kind": num_copies, "fitted_on": len(in_pool)}
        | {"dim": whitening.out_dim, "shrinkage": shrinkage, "chance": chance, "offset": round(whitening.offset, 3)},
        "strengths": {kind: dict(ranges) for kind, ranges in STRENGTHS.items()},
        "recall": {kind: {str(t): float((values > t).mean()) for t in THRESHOLDS} for kind, values in by_kind.items()},
        "lowest_similarity": {kind: round(float(values.min()), 3) for kind, values in by_kind.items()},
        "unrelated": {"pairs": len(pairs), "largest": round(float(pairs.max()), 3)}
        | {f"above {t}": int((pairs > t).sum()) for t in THRESHOLDS},
        "same_concept_among_5_nearest": {
            name: round(float(same_concept(space, concepts)), 4)
            for name, space in (("pixels, whitened", originals), ("textures", textures))
        },
        "images_per_processor_second": round(len(vectors) / sum(part[2] for part in described), 1),
    }


def same_concept(vectors: Floats, concepts: np.ndarray) -> float:
    """k-NN accuracy, k=5, leaving each image itself out; ties go to the nearest."""
    similarity = vectors @ vectors.T
    np.fill_diagonal(similarity, -2)
    nearest = concepts[np.argsort(-similarity, axis=1)[:, :5]]
    votes = (nearest[:, :, None] == np.arange(concepts.max() + 1)).sum(axis=1).astype(float)
    votes[np.arange(len(votes)), nearest[:, 0]] += 0.5
    return float((votes.argmax(axis=1) == concepts).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scenes", type=int, default=1200)
    parser.add_argument("--copies", type=int, default=150)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--shrinkage", type=float, default=0.1)
    parser.add_argument("--chance", type=float, default=0.45)
    given = parser.parse_args()
    result = measure(given.scenes, given.copies, dim=given.dim, shrinkage=given.shrinkage, chance=given.chance)
    print(f"{'copy':12s} {'> 0.6':>7s} {'> 0.45':>7s} {'lowest':>7s}")
    for kind, recall in result["recall"].items():
        print(f"{kind:12s} {recall['0.6']:7.1%} {recall['0.45']:7.1%} {result['lowest_similarity'][kind]:7.2f}")
    for name in ("config", "unrelated", "same_concept_among_5_nearest", "images_per_processor_second"):
        print(name, result[name])
    target = Path(__file__).parent / "results" / "pixels_descriptor.json"
    target.parent.mkdir(exist_ok=True)
    target.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
