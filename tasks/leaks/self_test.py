"""The self-test of benchmark removal: a benchmark's own images, recompressed, must be found, every one of them.

DataComp (Gadre et al. 2023) did so with ImageNet: what goes in must come out whole. Copies are described by the pool's
encoder and whitening, and looked for in the very way the pool is. Memory of a task: one batch of pictures.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from pydantic import Field

from storage.filesystem import join
from storage.images import decode_rgb, encode_jpeg
from storage.layout import Layout
from storage.tables import kept, read_table
from storage.vectors import read_array
from tasks.algorithms.sampling import id_keys
from tasks.config import StageConfig
from tasks.describe import Describe
from tasks.encoders import Encoder, bounded_threads, built
from tasks.encoding.images import read_images
from tasks.encoding.parts import WHITENING, load_whitening
from tasks.leaks.links import Side
from tasks.leaks.references import References
from tasks.stage import Outcome, Stage

_BATCH_IMAGES = 64
_NAMED = 5


class LeakTestFailed(RuntimeError):
    """A benchmark's own images, recompressed, would have stayed in the dataset."""


class LeakTest(StageConfig):
    """The self-test: the benchmark's own images, recompressed, must all be found in it."""

    images: Annotated[int, Field(ge=1)] | None = 200
    """Images of each benchmark that are tested, chosen by their ids; null tests all."""
    quality: Annotated[int, Field(ge=1, le=100)] = 75
    """JPEG quality of the copies."""


@dataclass(frozen=True)
class Recompress:
    """How a picture becomes the vector of its recompressed copy, for the workers."""

    encoder: Encoder
    whitening: str | None
    root: str
    quality: int

    @classmethod
    def of(cls, references: References, describe: Describe | None, root: str, quality: int) -> "Recompress":
        """As the references were described. Raises ValueError without the encoder that described them."""
        manifest = references.manifest
        if describe is None:
            raise ValueError(
                f"the self-test of benchmark {references.title} needs the encoder: give link_benchmark the `describe` "
                "config, or set relative_dedup.self_test to null."
            )
        if manifest.config.get("encoder") != describe.deciding()["encoder"]:
            raise ValueError(
                f"{manifest.directory} was described by {manifest.config.get('encoder')}, the self-test is to use "
                f"{describe.deciding()['encoder']}. Give relative_dedup the config that described the benchmarks."
            )
        there = any(entry.path == WHITENING for entry in manifest.files)
        return cls(describe.encoder, join(manifest.directory, WHITENING) if there else None, root, quality)

    def vectors(self, images: Sequence[bytes]) -> npt.NDArray[np.float16]:
        """[images, dim], as the pool's are stored."""
        encoder = built(self.encoder)
        with bounded_threads(encoder.num_threads):
            copies = [encode_jpeg(decode_rgb(data), quality=self.quality) for data in images]
            found = encoder.encode([decode_rgb(copy, min_side=encoder.min_side) for copy in copies])
            whitened = found if self.whitening is None else load_whitening(self.whitening)(found)
        return whitened.astype(np.float16)


def leak_test(
    stage: Stage, references: References, config: LeakTest, *, side: Side, threshold: float, how: Recompress
) -> dict[str, Any]:
    """Facts of a passed test: images tested, least similarity. Raises LeakTestFailed, which names what was missed."""
    keys = id_keys(references.ids, seed=0)
    count = len(keys) if config.images is None else min(config.images, len(keys))
    last = int(np.partition(keys, count - 1)[count - 1])
    parts = list(zip(references.tables, references.vectors, references.starts, strict=True))
    outcomes = stage.map(
        recompress_part, parts, prefix="selftest", side=side, threshold=threshold, how=how, last_key=last
    )
    missed: Mapping[str, float] = {name: value for one in outcomes for name, value in one.facts["missed"].items()}
    tested = sum(one.rows_in for one in outcomes)
    if missed:
        named = ", ".join(
            f"{name} ({missed[name]:.3f})" for name in sorted(missed, key=lambda name: missed[name])[:_NAMED]
        )
        raise LeakTestFailed(
            f"benchmark {references.title}: {len(missed)} of {tested} of its own images, recompressed as JPEG of "
            f"quality {config.quality}, are not found in it above a similarity of {threshold}: {named}"
            f"{' ...' if len(missed) > _NAMED else ''}. Copies of them would stay in the dataset. Lower "
            "relative_dedup.threshold, take a stronger describe.encoder, or set relative_dedup.self_test to null."
        )
    return {
        "tested": tested,
        "quality": config.quality,
        "least_similarity": min(one.facts["least"] for one in outcomes),
    }


def recompress_part(
    part: tuple[str, str, int], out: str, *, side: Side, threshold: float, how: Recompress, last_key: int
) -> Outcome:
    """The chosen images of one part: which of them are not found, with the similarity to their copy."""
    table_path, vectors_path, start = part
    table, originals = kept(read_table(table_path)), read_array(vectors_path)
    rows = np.flatnonzero(id_keys(table["id"].to_pylist(), seed=0) <= np.uint64(last_key))
    ids = table["id"].take(rows).to_pylist()
    missed: dict[str, float] = {}
    least = 1.0
    for batch in _batches(read_images(table.take(rows), Layout(how.root))):
        places = np.array([place for place, _ in batch])
        copies = how.vectors([data for _, data in batch])
        edges, _, _ = side.find(copies)
        own = (edges.right == start + rows[places][edges.left]) & (edges.similarity > threshold)
        found = np.isin(np.arange(len(places)), edges.left[own])
        similarity = _cosines(copies, originals[rows[places]])
        least = min(least, float(similarity.min()))
        missed |= {ids[places[index]]: round(float(similarity[index]), 4) for index in np.flatnonzero(~found)}
    return Outcome(len(rows), len(rows), facts={"missed": missed, "least": round(least, 4)})


def _batches(images: Iterator[tuple[int, bytes]]) -> Iterator[list[tuple[int, bytes]]]:
    while batch := list(islice(images, _BATCH_IMAGES)):
        yield batch


def _cosines(left: npt.NDArray[np.floating], right: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    pairs = [np.asarray(side, dtype=np.float64) for side in (left, right)]
    lengths = np.prod([np.linalg.norm(side, axis=1) for side in pairs], axis=0)
    return np.asarray((pairs[0] * pairs[1]).sum(axis=1) / np.where(lengths > 0, lengths, 1.0))
