"""Makes the small copy descriptor that the package carries, `sscd_small`: SSCD's objective on what `pixels` measures.

    python -m bench.sscd_small [--write]

Draws pictures (scenes of the sample web, and dead leaves), makes two strong copies of each, measures all by `pixels`,
and trains a projection of the measurements: it begins as the learned whitening of Radenovic et al. (arXiv 1711.02512,
section 4.3) and goes on by SSCD's loss (arXiv 2202.10261), InfoNCE with the entropy term. Its scale is set so that the
most similar of a million unrelated pairs of the training pictures has a cosine of 0.45, as the pipeline's thresholds
want it. Without --write only says what it would have written. bench.copy_descriptor measures it.
"""

import argparse
import json
import time
from hashlib import sha256
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from safetensors.numpy import save
from torch import Tensor

from bench.copy_descriptor import FIRST_TRAINING_SCENE, edited, leaf_picture, small_scene
from ssl_train.data.copy_augment import CopyCrops
from ssl_train.losses.copies import copy_losses
from storage.images import decode_rgb
from tasks.algorithms.whitening import Whitening
from tasks.encoders import Pixels
from tasks.encoders.base import Floats
from tasks.encoders.sscd_small import PATH

COPIES = CopyCrops(
    global_pixels=160,
    global_scale=(0.25, 1.0),
    frame=0.2,
    turn=0.02,
    quarter_turn=0.02,
    jitter_strength=(0.4, 0.4, 0.4, 0.08),
    gray=0.1,
    blur=0.3,
    blur_sigma=(0.5, 3.0),
    jpeg=0.4,
    jpeg_quality=(10, 90),
    text=0.25,
    drawing=0.25,
)
"""What is done to a picture: SSCD's edits, without its least recognisable ones."""
VIEWS = 3
"""A picture and two copies of it."""
SECOND_SITTING = 1500
"""The measurements that the file was made from were taken in two sittings; here the second one's chance begins anew."""
CHANCE = 0.45


class Training(NamedTuple):
    """How the projection is trained; the file was made with these."""

    scenes: int = 3000
    leaves: int = 800
    dim: int = 448
    components: int = 1024
    """Principal components of the measurements, in which all is done."""
    shrinkage: float = 0.05
    """Of the covariance of copies' differences, towards a multiple of the identity."""
    steps: int = 400
    batch_images: int = 256
    temperature: float = 0.05
    entropy_weight: float = 10.0
    lr: float = 1e-3


def main() -> None:
    """Train, write, and say the checksum."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true")
    given = parser.parse_args()
    settings, started = Training(), time.process_time()
    data = as_file(projection(measured_views(settings), settings), settings)
    print(
        f"{len(data)} bytes, SHA-256 {sha256(data).hexdigest()}, {time.process_time() - started:.0f} processor seconds"
    )
    if given.write:
        PATH.write_bytes(data)


def measured_views(settings: Training) -> Float[Tensor, "pictures views measurements"]:
    """What `pixels` says of every training picture and of its copies, each of unit length; kept in half precision."""
    jobs = {f"leaves-{number}.jpg": (leaf_picture, number) for number in range(settings.leaves)}
    scenes = range(FIRST_TRAINING_SCENE, FIRST_TRAINING_SCENE + settings.scenes)
    jobs |= {f"scene-{number}.jpg": (small_scene, number) for number in scenes}
    names, random, encoder = sorted(jobs), np.random.default_rng(0), Pixels().build()
    views = []
    for row, name in enumerate(random.permutation(np.array(names))):
        if row == SECOND_SITTING:
            random = np.random.default_rng(row)
        draw, number = jobs[name]
        picture = decode_rgb(draw(number))
        copies = [edited(picture, COPIES, random) for _ in range(VIEWS - 1)]
        views.append(encoder.encode([picture, *copies]).astype(np.float16))
    return torch.from_numpy(np.stack(views)).float()


def projection(views: Float[Tensor, "pictures views measurements"], settings: Training) -> Whitening:
    """The trained projection: centre, project, make unit, and set the scale."""
    mean = views.flatten(0, 1).mean(0)
    centred = views - mean
    basis = principal_directions(centred.flatten(0, 1), settings.components)
    reduced = centred @ basis
    begun = learned_whitening(reduced, settings)
    ended = trained(reduced, begun, settings)
    made = Whitening(mean.numpy(), np.asarray((basis @ ended).half().float().numpy()))
    return Whitening(made.mean, made.matrix, scale_offset(made(views[:, 0].numpy())))


def principal_directions(
    rows: Float[Tensor, "rows dim"], count: int, *, sample: int = 3000
) -> Float[Tensor, "dim count"]:
    """Directions of the largest variances, from a sample of the (centred) rows."""
    chosen = rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))[:sample]].double()
    variances, vectors = torch.linalg.eigh(chosen @ chosen.T / len(chosen))
    kept = min(count, len(chosen) - 1)
    variances, vectors = variances.flip(0)[:kept], vectors.flip(1)[:, :kept]
    return (chosen.T @ vectors / torch.sqrt(variances * len(chosen))).float()


def learned_whitening(
    views: Float[Tensor, "pictures views components"], settings: Training
) -> Float[Tensor, "components dim"]:
    """Differences of copies become white, then the directions follow in which the pictures differ most."""
    rows = views.double()
    differences = torch.cat([rows[:, i] - rows[:, j] for i in range(VIEWS) for j in range(i)])
    within = differences.T @ differences / len(differences)
    identity = torch.eye(len(within), dtype=torch.float64)
    within = torch.lerp(within, within.diagonal().mean() * identity, settings.shrinkage)
    variances, vectors = torch.linalg.eigh(within)
    whiten = vectors / variances.sqrt() @ vectors.T
    pictures = (rows[:, 0] - rows[:, 0].mean(0)) @ whiten
    _, directions = torch.linalg.eigh(pictures.T @ pictures)
    return (whiten @ directions.flip(1)[:, : settings.dim]).float()


def trained(
    views: Float[Tensor, "pictures views components"], begun: Float[Tensor, "components dim"], settings: Training
) -> Float[Tensor, "components dim"]:
    """The projection after `steps` of Adam on SSCD's loss between two views of each picture of a batch."""
    random, batch = torch.Generator().manual_seed(1), min(settings.batch_images, len(views))
    weight = (begun / (views[:, 0] @ begun).norm(dim=1).mean()).requires_grad_()
    optimizer = torch.optim.Adam([weight], lr=settings.lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(settings.steps, 1))
    related = torch.eye(batch, dtype=torch.bool).repeat(2, 2)
    for _ in range(settings.steps):
        pictures = torch.randperm(len(views), generator=random)[:batch]
        first = torch.randint(VIEWS, (batch,), generator=random)
        second = (first + torch.randint(1, VIEWS, (batch,), generator=random)) % VIEWS
        seen = torch.cat([views[pictures, first], views[pictures, second]])
        descriptors = F.normalize(seen @ weight, dim=-1)
        losses = copy_losses(descriptors, descriptors, related, first=0, temperature=settings.temperature)
        optimizer.zero_grad()
        (losses.contrast + settings.entropy_weight * losses.entropy).backward()
        optimizer.step()
        schedule.step()
    return weight.detach()


def scale_offset(descriptors: Floats) -> float:
    """The offset that puts the most similar of a million unrelated pairs at CHANCE (see `Whitening`)."""
    pairs = (descriptors @ descriptors.T)[np.triu_indices(len(descriptors), 1)]
    rank = max(1, round(len(pairs) / 1e6))
    reached = float(np.partition(pairs, -rank)[-rank])
    return max(0.0, (CHANCE - reached) / (1 - CHANCE))


def as_file(made: Whitening, settings: Training) -> bytes:
    """The safetensors file, weights in float16."""
    told = {
        "made_by": "python -m bench.sscd_small --write",
        "settings": settings._asdict(),
        "trained_on": "pictures drawn by this project (sample web scenes, dead leaves); no photographs",
        "licence": "Apache-2.0, as the project",
    }
    matrix, offset = made.matrix.astype(np.float16), np.array([made.offset], dtype=np.float32)
    tensors: dict[str, np.ndarray] = {"mean": made.mean, "matrix": matrix, "offset": offset}
    return save(tensors, metadata={"sscd_small": json.dumps(told, sort_keys=True)})


if __name__ == "__main__":
    main()
