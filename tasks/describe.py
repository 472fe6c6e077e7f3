"""Images -> copy-detection descriptors, by an encoder plug; centred and whitened on the pool if the config says so.

SSCD (Pizzi et al. 2022) is what DINOv2 used. Memory of a part: one batch of decoded images and the part's vectors.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import Field
from safetensors.numpy import load, save

from storage.filesystem import file_sha256, open_read, read_bytes, write_bytes
from storage.images import ImageError, Pixels, decode_rgb
from storage.layout import Layout
from storage.manifest import FileEntry, Manifest
from storage.tables import count_drops, kept, read_table, write_table
from storage.vectors import Vectors, write_vectors
from tasks.algorithms.sampling import id_keys
from tasks.algorithms.whitening import Whitening, fit_among_copies
from tasks.config import StageConfig
from tasks.encoders import BuiltEncoder, Encoder
from tasks.encoders import Pixels as PixelsEncoder
from tasks.pool import NoImages, Verdicts, with_verdicts
from tasks.stage import Outcome, Stage, stage_task

VERSION = 1
WHITENING = "whitening.safetensors"


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


class Describe(StageConfig):
    """How images are described for finding copies."""

    NOT_IN_FINGERPRINT: ClassVar[frozenset[str]] = frozenset({"batch_images"})

    encoder: Encoder = PixelsEncoder()
    """The encoder."""
    whiten: Whiten | None = Whiten()
    """Whitening, or null to compare the encoder's own vectors (as DINOv2 did with SSCD)."""
    batch_images: Annotated[int, Field(ge=1, le=4096)] = 64
    """Images decoded and encoded at a time."""


@stage_task(name="describe", task_run_name="{name}")
def describe(
    images: Manifest, config: Describe, layout: Layout, name: str = "describe", fitted: Manifest | None = None
) -> Manifest:
    """Descriptors of the kept images, part by part; undecodable ones are dropped with the decoder's reason.

    `fitted` is the pool's own manifest, for collections (benchmarks) that must be whitened as the pool was.
    Raises NoImages when there is nothing to describe.
    """
    require_images(images)
    inputs = {"images": images} | ({"whitening": fitted} if fitted is not None else {})
    stage = Stage(name, version=VERSION, config=config, inputs=inputs, layout=layout)
    if stage.finished:
        return stage.reuse()
    config.encoder.build()  # missing or damaged weights are said once, here, and not by every part
    parts = images.paths(".parquet")
    plain: dict[str, Any] = {"encoder": config.encoder, "root": layout.root, "batch_images": config.batch_images}
    files: list[FileEntry] = []
    whitening = fitted.file(WHITENING) if fitted is not None and config.whiten is not None else None
    if config.whiten is not None and whitening is None:
        share = min(1.0, config.whiten.sample_images / images.rows_kept)
        sampled = stage.map(encode_part, parts, prefix="sample", share=share, **plain)
        whitening = stage.path(WHITENING)
        fit_on(sampled, stage.directory, config.whiten, whitening)
        size, digest = file_sha256(whitening)
        files.append(FileEntry(WHITENING, 0, size, digest))
        if share == 1.0:  # the sample was everything: what is encoded need not be encoded again
            samples = [stage.path(f"sample-{number:05d}") for number in range(len(parts))]
            return _publish(stage, stage.map(whiten_part, samples, whitening=whitening), files)
    return _publish(stage, stage.map(encode_part, parts, whitening=whitening, **plain), files)


def _publish(stage: Stage, outcomes: Sequence[Outcome], files: Sequence[FileEntry]) -> Manifest:
    paths = [stage.path(entry.path) for outcome in outcomes for entry in outcome.files if entry.path.endswith(".npy")]
    return stage.publish(outcomes, files=files, facts={"dim": Vectors(paths).shape[1]})


def require_images(images: Manifest) -> None:
    """Raises NoImages when the manifest keeps no image."""
    if images.rows_kept == 0:
        raise NoImages(
            f"no image is left of stage {images.stage} in {images.directory}: its drops are {dict(images.drops)}. "
            "Give it more images or loosen the stages before."
        )


def encode_part(
    part: str,
    out: str,
    *,
    encoder: Encoder,
    root: str,
    batch_images: int,
    whitening: str | None = None,
    share: float = 1.0,
) -> Outcome:
    """One part: the table of its images (a `share` of them, chosen by id) with verdicts, and their vectors."""
    table = kept(read_table(part))
    if share < 1.0:
        chosen = id_keys(table["id"].to_pylist(), seed=0) < np.uint64(share * 2.0**64)
        table = table.filter(pa.array(chosen))
    vectors, failures = encode_images(table, encoder.build(), Layout(root), batch_images)
    verdicts = Verdicts.keep(len(table))
    for row, error in failures.items():
        verdicts.drop[row], verdicts.detail[row] = error.reason, error.detail
    if whitening is not None:
        vectors = load_whitening(whitening)(vectors)
    return write_part(out, with_verdicts(table, verdicts), np.delete(vectors, list(failures), axis=0))


def write_part(out: str, table: pa.Table, vectors: npt.NDArray[np.floating]) -> Outcome:
    """A part's table and the vectors [kept rows, dim] of its kept rows."""
    drops = count_drops(table)
    files = [write_table(f"{out}.parquet", table), write_vectors(f"{out}.npy", vectors)]
    return Outcome(len(table), len(table) - sum(drops.values()), drops, files)


def whiten_part(sample: str, out: str, *, whitening: str) -> Outcome:
    """A part whose raw vectors lie in `sample`.npy already: whitened."""
    raw = Vectors([f"{sample}.npy"]).take(range(Vectors([f"{sample}.npy"]).shape[0]))
    return write_part(out, read_table(f"{sample}.parquet"), load_whitening(whitening)(raw.astype(np.float32)))


def encode_images(
    table: pa.Table, encoder: BuiltEncoder, layout: Layout, batch_images: int
) -> tuple[npt.NDArray[np.float32], Mapping[int, ImageError]]:
    """Vectors [rows, dim] of the images of a table (zeros where one cannot be decoded), and why, by row."""
    vectors = np.zeros((len(table), encoder.dim), dtype=np.float32)
    failures: dict[int, ImageError] = {}
    batch: dict[int, Pixels] = {}
    for row, data in read_images(table, layout):
        try:
            batch[row] = decode_rgb(data, min_side=encoder.min_side)
        except ImageError as error:
            failures[row] = error
        if len(batch) == batch_images:
            vectors[list(batch)] = encoder.encode(list(batch.values()))
            batch = {}
    if batch:
        vectors[list(batch)] = encoder.encode(list(batch.values()))
    return vectors, dict(sorted(failures.items()))


def read_images(table: pa.Table, layout: Layout) -> Iterator[tuple[int, bytes]]:
    """(row, encoded bytes), file by file and each file from its front, so that every file is opened once."""
    places: dict[str, list[tuple[int, int, int]]] = defaultdict(list)
    columns = (table[name].to_pylist() for name in ("image_file", "image_offset", "image_bytes"))
    for row, (file, offset, size) in enumerate(zip(*columns, strict=True)):
        places[file].append((offset, size, row))
    for file, inside in places.items():
        if len(inside) == 1:
            offset, size, row = inside[0]
            yield row, read_bytes(layout.resolve(file), offset, size)
            continue
        with open_read(layout.resolve(file)) as opened:
            for offset, size, row in sorted(inside):
                opened.seek(offset)
                yield row, opened.read(size)


def fit_on(sampled: Sequence[Outcome], directory: str, config: Whiten, target: str) -> None:
    """Fit whitening on the sample's vectors and write it. Raises NoImages when there are too few to fit."""
    paths = [f"{directory}/{file.path}" for outcome in sampled for file in outcome.files if file.path.endswith(".npy")]
    sample = Vectors(paths)
    vectors = sample.take(range(sample.shape[0])).astype(np.float32)
    try:
        fitted = fit_among_copies(vectors, dim=config.dim, shrinkage=config.shrinkage, chance=config.chance)
    except ValueError as error:
        raise NoImages(f"whitening cannot be fitted on {len(vectors)} images: {error}. Set whiten to null.") from error
    offset = np.array([fitted.offset], dtype=np.float32)
    write_bytes(target, save({"mean": fitted.mean, "matrix": fitted.matrix, "offset": offset}))


def load_whitening(path: str) -> Whitening:
    """The whitening that a stage has written."""
    content: dict[str, Any] = load(read_bytes(path))
    return Whitening(content["mean"], content["matrix"], float(content["offset"][0]))
