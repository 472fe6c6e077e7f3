"""The pairs between the pool and one described set of benchmarks' images: computed once, whatever joins it later.

A stage of its own for every set: another benchmark, another threshold of self_dedup or another cut change nothing here.
Parts of the pool are joined group by group, each group a task and, for every benchmark and split, a file named by its
content: `links-<source>-<split>-<key>.parquet` (left: row within the group, right: row of the references).
Memory of a task: the vectors of its group (330 MB at 512 dimensions), a block of products, 40 bytes per pair.
"""

import dataclasses
import posixpath
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from pydantic import Field

from storage.filesystem import join
from storage.manifest import FileEntry, Manifest, adopt
from storage.vectors import Vectors, read_array, write_array
from tasks.algorithms.cross_join import cross_pairs, first_shared_cell
from tasks.algorithms.sampling import id_keys, sample
from tasks.algorithms.self_join import Edges, Quantiser, assign_cells, fit_quantiser
from tasks.config import StageConfig
from tasks.graph.files import merge, select, write_edges
from tasks.leaks.references import References, content_hash, file_slugs
from tasks.stage import Outcome, Stage

PARTS_OF_A_GROUP = 32
_CELLS = "cells.npy"
_COUNTS = ("recall_found", "recall_pairs")


class LinkRecallTooLow(RuntimeError):
    """The join by cells missed more true pairs of pool and benchmark than the config allows."""


class LinkJoin(StageConfig):
    """How pairs of pool and benchmark are found: all compared with all up to a size, by cells above it."""

    exact_up_to: Annotated[float, Field(ge=0)] = 1e11
    """Pool images times benchmark images up to which every pair is compared (1e11: 15 minutes of two cores)."""
    assignments: Annotated[int, Field(ge=1, le=64)] = 8
    """Cells that each image is put in, above that: more cost (squared) and more recall."""
    recall_sample: Annotated[int, Field(ge=1)] = 500
    """Images of the benchmark whose pairs with the whole pool are found by brute force, to measure recall."""
    min_recall: Annotated[float, Field(ge=0, le=1)] = 0.98
    """The stage fails below this measured share of true pairs."""
    seed: int = 0
    """Seed of the quantiser and of the sample."""


@dataclass(frozen=True)
class Group:
    """Some parts of the pool: their vectors' files, their content's key, and what an earlier run has for them."""

    vectors: Sequence[str]
    key: str
    earlier: "Earlier | None" = None


@dataclass(frozen=True)
class Earlier:
    """Where a group's files lie already, and what recall was measured with them."""

    directory: str
    entries: Sequence[FileEntry]
    found: int
    pairs: int


@dataclass(frozen=True)
class Side:
    """The references of the join, for the workers: files, the benchmark of each row, and how pairs are looked for."""

    vectors: Sequence[str]
    name_of: str
    slugs: Sequence[str]
    threshold: float
    quantiser: Sequence[str] = ()
    """Files of the quantiser's three arrays; none: every pair is compared."""
    cells: str = ""
    """File of the references' own cells."""
    sampled: Sequence[int] = ()
    """References that recall is measured on."""

    @property
    def by_cells(self) -> bool:
        """Whether pairs are looked for in cells alone."""
        return bool(self.quantiser)

    def find(self, vectors: npt.NDArray[np.floating]) -> tuple[Edges, int, int]:
        """Pairs of rows of `vectors` [n, dim] with references, sorted; and (found, all) of the sampled ones' pairs."""
        if not self.by_cells:
            return _sorted(merge(list(self._all(vectors)))), 0, 0
        quantiser = Quantiser(*(np.array(read_array(path)) for path in self.quantiser))
        theirs = np.array(read_array(self.cells))
        mine = assign_cells(vectors, quantiser, assignments=theirs.shape[1])
        edges = _sorted(merge(list(self._in_cells(vectors, mine, theirs))))
        sampled = np.array(self.sampled, dtype=np.int64)
        true = cross_pairs(vectors, Vectors(self.vectors).take(sampled), threshold=self.threshold)
        # What is found is decided as brute force decides, so that counting is comparing.
        return edges, int(np.isin(edges.right, sampled).sum()), sum(len(block.left) for block in true)

    def _all(self, vectors: npt.NDArray[np.floating]) -> Iterator[Edges]:
        start = 0
        for path in self.vectors:
            block = read_array(path)
            for edges in cross_pairs(vectors, block, threshold=self.threshold) if len(block) else ():
                yield Edges(edges.left, edges.right + start, edges.similarity)
            start += len(block)

    def _in_cells(
        self, vectors: npt.NDArray[np.floating], mine: npt.NDArray[np.int32], theirs: npt.NDArray[np.int32]
    ) -> Iterator[Edges]:
        references = Vectors(self.vectors)
        rows_of, members_of = _members(mine), _members(theirs)
        for cell in sorted(rows_of.keys() & members_of.keys()):
            rows, members = rows_of[cell], members_of[cell]
            for edges in cross_pairs(vectors[rows], references.take(members), threshold=self.threshold):
                left, right = rows[edges.left], members[edges.right]
                first = first_shared_cell(mine[left], theirs[right]) == cell  # no pair twice
                yield select(Edges(left, right, edges.similarity), first)


def make_side(
    stage: Stage, references: References, config: LinkJoin, *, threshold: float, num_pool: int
) -> tuple[Side, list[FileEntry]]:
    """The references' side, and the files of it that the stage publishes."""
    names = write_array(stage.path("names.npy"), references.name_of)
    side = Side(references.vectors, stage.path(names.path), file_slugs(references.names), threshold)
    if num_pool * len(references) <= config.exact_up_to:
        return side, [names]
    vectors = Vectors(references.vectors)
    count, seed = len(references), config.seed
    quantiser = fit_quantiser(vectors, num_rows=count, assignments=config.assignments, seed=seed)
    cells = write_array(stage.path(_CELLS), assign_cells(vectors, quantiser, assignments=config.assignments))
    arrays: dict[str, npt.NDArray[Any]] = dict(zip(Quantiser._fields, quantiser, strict=True))
    files = [write_array(stage.path(f"quantiser-{name}.npy"), array) for name, array in arrays.items()]
    rows = sample(id_keys(references.ids, seed=seed), config.recall_sample)
    paths = tuple(stage.path(entry.path) for entry in files)
    by_cells = dataclasses.replace(side, quantiser=paths, cells=stage.path(_CELLS), sampled=tuple(rows.tolist()))
    return by_cells, [names, *files, cells]


def groups_of(described: Manifest, key: str, slugs: Sequence[str], earlier: Sequence[Manifest]) -> list[Group]:
    """The pool's parts in groups; what one of the earlier stages has for a group's very content goes with it."""
    known = {entry.path: (manifest, entry) for manifest in earlier for entry in manifest.files}
    groups = []
    for entries in _grouped(described):
        mine = content_hash([key, *(entry.sha256 for entry in entries)])[:16]
        names = [link_file(slug, mine) for slug in slugs]
        found = [known[name] for name in names if name in known]
        there = None
        if len(found) == len(names):
            manifest = found[0][0]
            counts = (manifest.facts.get(name, {}).get(mine, 0) for name in _COUNTS)
            there = Earlier(manifest.directory, [manifest_entry for _, manifest_entry in found], *counts)
        groups.append(Group([join(described.directory, entry.path) for entry in entries], mine, there))
    return groups


def group_starts(described: Manifest) -> list[int]:
    """The pool row that each group begins with."""
    sizes = [sum(entry.rows for entry in entries) for entries in _grouped(described)]
    return [0, *np.cumsum(sizes).tolist()][:-1]


def link_file(slug: str, key: str) -> str:
    """Name of the file of one benchmark's pairs with one group."""
    return f"links-{slug}-{key}.parquet"


def link_paths(links: Manifest, num_names: int) -> list[list[str]]:
    """Files by group, and in each by benchmark."""
    paths = [join(links.directory, entry.path) for entry in links.files if entry.path.startswith("links-")]
    return [paths[start : start + num_names] for start in range(0, len(paths), num_names)]


def link_group(group: Group, out: str, *, side: Side) -> Outcome:
    """The pairs of one group, one file per benchmark; files of an earlier run are taken over."""
    folder = posixpath.dirname(out)
    if group.earlier is not None:
        there = group.earlier
        entries = [adopt(entry, there.directory, join(folder, entry.path)) for entry in there.entries]
        return _outcome(group, entries, there.found, there.pairs, computed=0)
    blocks = [block for path in group.vectors if len(block := read_array(path))]
    vectors = blocks[0] if len(blocks) == 1 else np.concatenate(blocks) if blocks else None
    edges, found, pairs = side.find(vectors) if vectors is not None else (merge([]), 0, 0)
    name_of = read_array(side.name_of)[edges.right]
    entries = [
        write_edges(join(folder, link_file(slug, group.key)), [select(edges, name_of == number)])
        for number, slug in enumerate(side.slugs)
    ]
    return _outcome(group, entries, found, pairs, computed=1)


def _outcome(group: Group, entries: Sequence[FileEntry], found: int, pairs: int, *, computed: int) -> Outcome:
    num_rows = sum(len(read_array(path)) for path in group.vectors)
    counts = {"recall_found": {group.key: found}, "recall_pairs": {group.key: pairs}} if pairs else {}
    return Outcome(num_rows, num_rows, files=entries, facts={"computed": computed} | counts)


def check_recall(outcomes: Sequence[Outcome], side: Side, config: LinkJoin, title: str) -> dict[str, Any]:
    """Facts of how pairs were found. Raises LinkRecallTooLow."""
    if not side.by_cells:
        return {"join": "exact", "recall": 1.0}
    found, total = (sum(sum(one.facts.get(name, {}).values()) for one in outcomes) for name in _COUNTS)
    recall = found / total if total else 1.0
    if recall < config.min_recall:
        raise LinkRecallTooLow(
            f"benchmark {title}: the join by cells finds {found} of {total} true pairs of "
            f"{len(side.sampled)} sampled images ({recall:.3f}, at least {config.min_recall} wanted). Raise "
            f"relative_dedup.join.assignments (now {config.assignments}) or exact_up_to."
        )
    return {"join": "cells", "recall": round(recall, 5), "recall_of_pairs": total}


def _grouped(described: Manifest) -> Iterator[Sequence[FileEntry]]:
    parts = [entry for entry in described.files if entry.path.startswith("part-") and entry.path.endswith(".npy")]
    return (parts[start : start + PARTS_OF_A_GROUP] for start in range(0, len(parts), PARTS_OF_A_GROUP))


def _members(cells: npt.NDArray[np.int32]) -> Mapping[int, npt.NDArray[np.int64]]:
    """Rows by cell."""
    flat = cells.ravel()
    order = np.argsort(flat, kind="stable")
    order = order[flat[order] >= 0]
    starts = np.flatnonzero(np.diff(flat[order], prepend=-1))
    return {int(flat[one[0]]): one // cells.shape[1] for one in np.split(order, starts[1:]) if len(one)}


def _sorted(edges: Edges) -> Edges:
    return select(edges, np.lexsort((edges.right, edges.left)))
