"""The images of benchmarks, described: who they are, and which benchmark and split each belongs to."""

import hashlib
import posixpath
import re
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from storage.filesystem import list_files
from storage.layout import Layout
from storage.manifest import Manifest, load_manifest
from storage.tables import kept, read_table
from tasks.pool import NoImages


class References:
    """The kept rows of one described set of images, in order. Memory: 28 bytes per image.

    ids [rows]; names: the benchmarks in it, as "source/split", sorted; name_of [rows]: positions in `names`;
    starts: the row that each part begins with.
    Raises NoImages when there are none.
    """

    def __init__(self, manifest: Manifest) -> None:
        if manifest.rows_kept == 0:
            raise NoImages(
                f"no image is left of the benchmark in {manifest.directory} (stage {manifest.stage}): its drops are "
                f"{dict(manifest.drops)}. Correct its path, or leave it out."
            )
        self.manifest = manifest
        self.tables, self.vectors = manifest.paths(".parquet"), manifest.paths(".npy")
        columns = [kept(read_table(path, ["drop", "id", "source", "split"])) for path in self.tables]
        self.ids = np.concatenate([np.asarray(table["id"].to_pylist(), dtype="S24") for table in columns])
        named = np.concatenate([_names(table["source"].to_pylist(), table["split"].to_pylist()) for table in columns])
        self.starts = [0, *np.cumsum([len(table) for table in columns]).tolist()][:-1]
        names, name_of = np.unique(named, return_inverse=True)
        self.names: list[str] = names.tolist()
        self.name_of: npt.NDArray[np.int32] = name_of.astype(np.int32)

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def title(self) -> str:
        """For people: the benchmarks in it."""
        return self.names[0] if len(self.names) == 1 else f"{self.names[0]} and {len(self.names) - 1} more"

    @property
    def key(self) -> str:
        """Equal for equal images with equal vectors in equal order, whatever run described them."""
        return content_hash([entry.sha256 for entry in self.manifest.files if entry.path.startswith("part-")])


def _names(sources: Sequence[str | None], splits: Sequence[str | None]) -> npt.NDArray[np.str_]:
    return np.array([f"{source or ''}/{split or ''}" for source, split in zip(sources, splits, strict=True)], np.str_)


def all_names(references: Sequence[References]) -> list[str]:
    """All benchmarks, in order. Raises ValueError when there are none, or when two manifests hold the same one."""
    names = [name for one in references for name in one.names]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice or not names:
        raise ValueError(f"every benchmark and split must be given once, in one manifest; got {twice or 'none'}.")
    return names


def two_of(count: int) -> Iterator[tuple[int, int]]:
    """Every two of `count` sets, and each with itself, in the order of `link_references`' files."""
    return ((left, right) for left in range(count) for right in range(left, count))


def earlier_stages(name: str, layout: Layout, base: Manifest | None) -> list[Manifest]:
    """Finished stages of this name, in the layout and among what `base` was made of (which may have another root)."""
    folders = [posixpath.dirname(path) for path in list_files(layout.stage_manifests(name))]
    if base is not None:
        root = posixpath.dirname(posixpath.dirname(posixpath.dirname(base.directory)))
        references = [text.split("/") for text in base.inputs.values()]
        folders += [Layout(root).stage(stage, mark) for stage, mark in references if stage == name]
    return [load_manifest(folder) for folder in sorted(set(folders))]


def content_hash(items: Sequence[object]) -> str:
    """Hex SHA-256 of a list of plain values."""
    return hashlib.sha256(repr(list(items)).encode()).hexdigest()


def file_slugs(names: Sequence[str]) -> list[str]:
    """Benchmarks' names as parts of files' names, no two alike: "birds/test" is "birds-test"."""
    slugs = [re.sub(r"[^A-Za-z0-9_.]+", "-", name).strip("-") for name in names]
    return [slug if slugs.count(slug) == 1 else f"{slug}-{number}" for number, slug in enumerate(slugs)]
