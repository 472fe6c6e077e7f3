"""What `describe` and `embed` do with a part: its images' vectors, encoded or taken from an earlier run, and its table.

part-N.parquet holds all rows with their verdicts, part-N.npy one row for each kept one, in the table's order: that is
the index from a row of vectors to its image.
"""

import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import Field
from safetensors import SafetensorError
from safetensors.numpy import load

from storage.errors import UnreachableStorage
from storage.filesystem import exists, file_sizes, join, read_bytes
from storage.layout import Layout
from storage.manifest import FileEntry, Manifest
from storage.tables import count_drops, kept, read_table, write_table
from storage.vectors import Vectors, read_array, remove_files, write_array, write_vectors
from tasks.algorithms.sampling import id_keys
from tasks.algorithms.whitening import Whitening
from tasks.config import StageConfig
from tasks.encoders import Encoder, built
from tasks.encoding.images import encode_images
from tasks.encoding.known import (
    INDEX_PREFIXES,
    IncompatibleBase,
    KnownVectors,
    Places,
    adopt_vectors,
    index_vectors,
)
from tasks.pool import NoImages, Verdicts, with_verdicts
from tasks.progress import run_logger
from tasks.stage import Outcome, Stage

WHITENING = "whitening.safetensors"
WHOLE, SAMPLE = "whole", "sample"
"""Prefixes of the raw vectors that whitening is fitted on: all of a part's, or some."""
Matrix = npt.NDArray[np.floating]
_HELPERS = {WHOLE, SAMPLE, *INDEX_PREFIXES}


class Encodes(StageConfig):
    """How a stage that encodes images goes about it; the encoder itself is the stage's own field."""

    NOT_IN_FINGERPRINT: ClassVar[frozenset[str]] = frozenset({"batch_images", "decode_threads"})

    batch_images: Annotated[int, Field(ge=1, le=65536)] = 64
    """Pictures that wait for the encoder, decoded, at most (0.3 MB each at 320 pixels); never less than its batch."""
    decode_threads: Annotated[int, Field(ge=1, le=256)] = 1
    """Threads that decode beside the encoder, in each worker: 1 where every core has its worker, all the cores that
    belong to a GPU where one worker drives it."""


def require_images(images: Manifest) -> None:
    """Raises NoImages when the manifest keeps no image."""
    if images.rows_kept == 0:
        raise NoImages(
            f"no image is left of stage {images.stage} in {images.directory}: its drops are {dict(images.drops)}. "
            "Give it more images or loosen the stages before."
        )


def encode_stage(
    stage: Stage, images: Manifest, how: "PartEncoder", base: Manifest | None, *files: FileEntry
) -> Manifest:
    """All parts encoded, but for the rows that `base` knows, and the stage published with `files` beside them.

    Raises IncompatibleBase when the vectors of `base` are not what would be computed here.
    """
    facts: dict[str, Any] = {}
    known = None
    if base is not None and base.version != stage.version:
        facts = {"base": base.reference, "reused": 0}
        run_logger().warning(f"{stage.name}: {base.directory} is of version {base.version}, all is encoded anew")
    elif base is not None:
        check_base(base, stage, files)
        known, facts = index_vectors(stage, base), {"base": base.reference}
    outcomes = stage.map(encode_part, images.paths(".parquet"), how=how, known=known)
    matrices = [entry for outcome in outcomes for entry in outcome.files if entry.path.endswith(".npy")]
    facts["dim"] = Vectors([stage.path(one.path) for one in matrices], [one.rows for one in matrices]).shape[1]
    remove_files(stage.path(name) for name in file_sizes(stage.directory) if name.split("-")[0] in _HELPERS)
    return stage.publish(outcomes, files=files, facts=facts)


def check_base(base: Manifest, stage: Stage, files: Sequence[FileEntry]) -> None:
    """Raises IncompatibleBase unless `base` was made by the same encoder and whitened alike."""
    whitenings = [
        next((entry.sha256 for entry in entries if entry.path == WHITENING), None) for entries in (base.files, files)
    ]
    same = {
        "encoder": base.config.get("encoder") == stage.config["encoder"],
        "whitening": whitenings[0] == whitenings[1],
    }
    different = [what for what, is_same in same.items() if not is_same]
    if different:
        raise IncompatibleBase(
            f"stage {stage.name} cannot take vectors from its base {base.reference[:24]} in {base.directory}: its "
            f"{' and '.join(different)} differ. Give the config the base had (for whitening: fitted), or leave it out."
        )


@dataclass(frozen=True)
class PartEncoder:
    """How the images of a part become vectors; travels to the workers."""

    encoder: Encoder
    root: str
    waiting_images: int
    decode_threads: int
    whitening: str | None = None
    """Path of the whitening's file."""

    def vectors(self, table: pa.Table, verdicts: Verdicts, dtype: npt.DTypeLike = np.float16) -> Matrix:
        """[rows, dim] of a table's images; of those that cannot be decoded `verdicts` says why."""
        encoder, whitening = built(self.encoder), self.load_whitening()
        encoded = encode_images(
            table,
            encoder,
            Layout(self.root),
            waiting_images=self.waiting_images,
            decode_threads=self.decode_threads,
            transform=whitening,
            out_dim=encoder.dim if whitening is None else whitening.out_dim,
            dtype=dtype,
        )
        for row, error in encoded.failures.items():
            verdicts.drop[row], verdicts.detail[row] = error.reason, error.detail
        return encoded.vectors

    def load_whitening(self) -> Whitening | None:
        """The whitening, if there is one."""
        return None if self.whitening is None else load_whitening(self.whitening)


def encode_part(part: str, out: str, *, how: PartEncoder, known: KnownVectors | None = None) -> Outcome:
    """One part: its table with verdicts and its vectors, float16 and whitened if there is a whitening.

    What `sample_part` has left of the whole part, and what `known` has, is not encoded again.
    """
    sampled = join(posixpath.dirname(out), posixpath.basename(out).replace("part-", f"{WHOLE}-"))
    whitening = how.load_whitening()
    if whitening is not None and exists(f"{sampled}.npy"):
        return write_part(out, read_table(f"{sampled}.parquet"), whitening(read_array(f"{sampled}.npy")))
    table = kept(read_table(part))
    verdicts = Verdicts.keep(len(table))
    if known is None:
        vectors = how.vectors(table, verdicts)
        return write_part(out, with_verdicts(table, verdicts), vectors)
    places = known.find(table)
    vectors = _vectors_of_new(table, places, how, known, verdicts)
    known.take(places, vectors, verdicts)
    reused = {"reused": int((places >= 0).sum())}
    return write_part(out, with_verdicts(table, verdicts), vectors, same=known.whole_part(places), facts=reused)


def _vectors_of_new(
    table: pa.Table, places: Places, how: PartEncoder, known: KnownVectors, verdicts: Verdicts
) -> Matrix:
    """[rows, dim] with the rows that have no place encoded, the others zeros. No weights are read when all have one."""
    new = np.flatnonzero(places < 0)
    if len(new) == 0 and len(table):
        return np.zeros((len(table), known.dim(places)), dtype=np.float16)
    judged = Verdicts.keep(len(new))
    encoded = how.vectors(table.take(new), judged)
    verdicts.drop[new], verdicts.detail[new] = judged.drop, judged.detail
    vectors = np.zeros((len(table), encoded.shape[1]), dtype=np.float16)
    vectors[new] = encoded
    return vectors


def sample_part(part: str, out: str, *, how: PartEncoder, share: float) -> Outcome:
    """A share of a part's images, chosen by id, with their raw vectors as float32: what whitening is fitted on."""
    table = kept(read_table(part))
    if share < 1.0:
        chosen = id_keys(table["id"].to_pylist(), seed=0) < np.uint64(share * 2.0**64)
        table = table.filter(pa.array(chosen))
    verdicts = Verdicts.keep(len(table))
    vectors = how.vectors(table, verdicts, np.float32)
    table = with_verdicts(table, verdicts)
    raw = write_array(f"{out}.npy", vectors[table["drop"].is_null().to_numpy()])
    return Outcome(len(table), raw.rows, count_drops(table), [write_table(f"{out}.parquet", table), raw])


def write_part(
    out: str, table: pa.Table, vectors: Matrix, *, same: str | None = None, facts: Mapping[str, Any] | None = None
) -> Outcome:
    """A part's table, and its vectors [rows, dim] without those of dropped rows; `same` is a part that has the same."""
    drops = count_drops(table)
    stays = table["drop"].is_null().to_numpy()
    if len(vectors) == len(table):
        vectors = vectors[stays]
    if len(vectors) != int(stays.sum()):
        raise ValueError(f"{len(vectors)} vectors for {int(stays.sum())} kept rows of {out}")
    matrix = write_vectors(f"{out}.npy", vectors) if same is None else adopt_vectors(same, out)
    files = [write_table(f"{out}.parquet", table), matrix]
    return Outcome(len(table), len(vectors), drops, files, facts or {})


def load_whitening(path: str) -> Whitening:
    """The whitening in a file that `describe` has written. Raises UnreachableStorage for a file of another kind."""
    try:
        content: dict[str, Any] = load(read_bytes(path))
        return Whitening(content["mean"], content["matrix"], float(content["offset"][0]))
    except (SafetensorError, KeyError) as error:
        raise UnreachableStorage(f"{path} is no whitening that `describe` wrote: {error!r}.") from error
