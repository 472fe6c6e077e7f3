"""Images -> copy-detection descriptors, by an encoder plug; centred and whitened on the pool if the config says so.

SSCD (Pizzi et al. 2022) is what DINOv2 used. Memory of a part: see `encoding`; of fitting a whitening: 12 bytes times
the encoder's dim per sampled image, nothing per image of the pool.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field
from safetensors.numpy import save

from storage.filesystem import exists, fetch_verified, file_sha256, read_bytes, write_bytes
from storage.layout import Layout
from storage.manifest import FileEntry, Manifest
from storage.vectors import Vectors
from tasks.algorithms.whitening import fit_among_copies
from tasks.config import StageConfig
from tasks.encoders import Encoder, Pixels
from tasks.encoders.network import Sha256
from tasks.encoding.known import IncompatibleBase
from tasks.encoding.parts import (
    SAMPLE,
    WHITENING,
    WHOLE,
    Encodes,
    PartEncoder,
    encode_stage,
    load_whitening,
    require_images,
    sample_part,
)
from tasks.pool import NoImages
from tasks.stage import Outcome, Stage, stage_task

VERSION = 2


class FittedBy(StageConfig):
    """A whitening that was fitted elsewhere: the `whitening.safetensors` of another run's `describe`."""

    NOT_IN_FINGERPRINT: ClassVar[frozenset[str]] = frozenset({"path"})

    path: str
    """Path or URL of the file."""
    sha256: Sha256
    """Its SHA-256; the file is refused when it differs."""


class Whiten(StageConfig):
    """Centring and whitening with a sample of the pool, as SSCD's authors advise where one has such a sample."""

    dim: Annotated[int, Field(ge=2, le=4096)] = 512
    """Dimensions that are left; fewer when the pool has not twice as many images."""
    shrinkage: Annotated[float, Field(ge=0, le=1)] = 0.1
    """0 makes all directions equally long, 1 leaves their lengths."""
    chance: Annotated[float, Field(ge=0, lt=1)] = 0.45
    """Cosine that the most similar of a million unrelated pairs are to have: thresholds were found for other scales."""
    sample_images: Annotated[int, Field(ge=16)] = 20_000
    """Images of the pool that whitening is fitted on, chosen by their ids."""
    fitted_by: FittedBy | None = None
    """A whitening from elsewhere instead (the fields above then say nothing): for pools too small to fit one."""


class Describe(Encodes):
    """How images are described for finding copies."""

    encoder: Encoder = Pixels()
    """The encoder."""
    whiten: Whiten | None = Whiten()
    """Whitening, or null to compare the encoder's own vectors (as DINOv2 did with SSCD)."""


@stage_task(name="describe", task_run_name="{name}")
def describe(
    images: Manifest,
    config: Describe,
    layout: Layout,
    name: str = "describe",
    fitted: Manifest | None = None,
    base: Manifest | None = None,
) -> Manifest:
    """Descriptors of the kept images, part by part; undecodable ones are dropped with the decoder's reason.

    `fitted` is a `describe` whose whitening is taken: the pool's own for benchmarks, an earlier run's for a further
    crawl. It decides the result. `base` is an earlier `describe`: rows with equal id and sha256 take their vector from
    it, and only the others are encoded. It decides nothing but the cost (to float16's last digit where a network is
    given pictures of many shapes, or runs on other hardware or in other batches than it did then). One of another
    version of this stage is of no use, which the log and the facts say.

    Raises NoImages when there is nothing to describe; IncompatibleBase for a `base` of another encoder or whitening,
    and where whitening is to be fitted on this very pool: whitened vectors cannot be whitened anew, and raw ones are
    not kept (1 KB per image), since a later run compares with the earlier one's descriptors, hence takes its whitening,
    too (`fitted`).
    """
    require_images(images)
    # The whitening's bytes decide, not the run that they came by: benchmarks that were described with the same ones are
    # found done, and an earlier run's folder is no input that must be kept.
    also = {"whitening": whitening_of(fitted).sha256} if fitted is not None and config.whiten is not None else None
    stage = Stage(name, version=VERSION, config=config, inputs={"images": images}, layout=layout, also=also)
    if stage.finished:
        return stage.reuse()
    config.encoder.build()  # missing or damaged weights are said once, here, and not by every part
    if base is not None and config.whiten is not None and fitted is None and config.whiten.fitted_by is None:
        raise IncompatibleBase(
            f"{name} has a base ({base.reference[:24]}) and fits its whitening on its own pool, so that no vector of "
            "the base can be taken. Pass fitted=<the base>, name its whitening.safetensors in whiten.fitted_by, or "
            "leave the base out."
        )
    plain = PartEncoder(config.encoder, layout.root, config.batch_images, config.decode_threads)
    if config.whiten is None:
        return encode_stage(stage, images, plain, base)
    whitening = _whitening(stage, images, config.whiten, plain, fitted)
    return encode_stage(stage, images, replace(plain, whitening=stage.path(WHITENING)), base, whitening)


def whitening_of(described: Manifest) -> FileEntry:
    """The file with a stage's whitening. Raises BadManifest when it has none."""
    described.file(WHITENING)  # says what is there when it is not
    return next(entry for entry in described.files if entry.path == WHITENING)


def _whitening(
    stage: Stage, images: Manifest, config: Whiten, plain: PartEncoder, fitted: Manifest | None
) -> FileEntry:
    """The stage's own copy of its whitening: taken from where it is said to be, else fitted on a sample."""
    target = stage.path(WHITENING)
    if fitted is not None:
        return stage.adopt(fitted, WHITENING)
    if config.fitted_by is not None:
        given = fetch_verified(config.fitted_by.path, config.fitted_by.sha256)
        load_whitening(given)
        write_bytes(target, read_bytes(given))
    elif not exists(target):  # it is there, whole, when a run was cut after it
        share = min(1.0, config.sample_images / images.rows_kept)
        prefix = WHOLE if share == 1.0 else SAMPLE
        sampled = stage.map(sample_part, images.paths(".parquet"), prefix=prefix, how=plain, share=share)
        fit_on(sampled, stage.directory, config, target)
    size, digest = file_sha256(target)
    return FileEntry(WHITENING, 0, size, digest)


def fit_on(sampled: Sequence[Outcome], directory: str, config: Whiten, target: str) -> None:
    """Fit whitening on the sample's vectors and write it. Raises NoImages when there are too few to fit."""
    entries = [entry for outcome in sampled for entry in outcome.files if entry.path.endswith(".npy")]
    sample = Vectors([f"{directory}/{entry.path}" for entry in entries], [entry.rows for entry in entries])
    vectors = sample.take(np.arange(sample.shape[0])).astype(np.float32)
    try:
        fitted = fit_among_copies(vectors, dim=config.dim, shrinkage=config.shrinkage, chance=config.chance)
    except ValueError as error:
        raise NoImages(
            f"whitening cannot be fitted on {len(vectors)} images: {error}. Take one that was fitted elsewhere "
            "(whiten.fitted_by), or set whiten to null."
        ) from error
    offset = np.array([fitted.offset], dtype=np.float32)
    write_bytes(target, save({"mean": fitted.mean, "matrix": fitted.matrix, "offset": offset}))
