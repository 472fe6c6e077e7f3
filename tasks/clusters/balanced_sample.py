"""Balanced sampling over many workers: which finest cluster each image is in, how many each gives, which ones.

Groups of parts leave the rank of every image in its cluster, sorted by cluster; ranges of clusters read theirs of every
group and find the last rank that is sampled; parts then judge their images one by one. 24 bytes per image on disk while
it runs; no process holds more than a group or a range of it.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from storage.manifest import Manifest
from storage.tables import kept, read_table, write_table
from tasks.algorithms.balanced import ORDER, Counts, Leaf, last_sampled, leaf_order, sampled
from tasks.algorithms.blocks import Array
from tasks.algorithms.hierarchy import nearest_in_split
from tasks.algorithms.kmeans_nearest import Centroids, own_cosines
from tasks.clusters.points import Part, groups_of, part_keys, pool_parts, read_array, write_array
from tasks.clusters.seeding import Compute
from tasks.clusters.split import coarse_paths
from tasks.graph.scratch import Files, scratch_map
from tasks.pool import Verdicts, with_verdicts
from tasks.stage import Outcome, Stage

_IMAGE = np.dtype([("leaf", np.int32), ("cosine", np.float32), ("order", ORDER)])
_RANGES = 64


class Finest(NamedTuple):
    """The level that images are assigned to, whose files the stage has: its name, whether it was made in two steps, how
    it computes, in how many tasks; of every part that an earlier run assigned to it, that run's table."""

    name: str
    split: bool
    compute: Compute
    groups: int
    earlier: Sequence[str | None]


def sample_pool(
    stage: Stage,
    embedded: Manifest,
    finest: Finest,
    parents: Sequence[Array],
    *,
    leaf: Leaf,
    give: Callable[[Counts], Counts],
) -> tuple[list[Outcome], Counts, Counts]:
    """Judges every image; (outcomes of the parts, sizes of the finest clusters, what `give` has each of them give)."""
    split = list(coarse_paths(stage, finest.name)) if finest.split else None
    centroids = stage.path(f"{finest.name}-centroids.npy")
    parts = pool_parts(embedded)
    groups = groups_of(parts, finest.groups)
    plain: dict[str, Any] = {"leaf": leaf, "seed": finest.compute.seed, "device": finest.compute.device}
    known = dict(zip((part[0] for part in parts), finest.earlier, strict=True))
    told = [[(part, known[part[0]]) for part in group] for group in groups]
    _, ranked = scratch_map(stage, "ranked", rank_images, told, centroids=centroids, split=split, **plain)
    sizes = sum((read_array(path) for path in ranked.paths("-sizes.npy")), start=np.zeros(1, dtype=np.int64))
    given = give(sizes)
    share = stage.path("scratch-given.npy")
    write_array(share, given)
    step = -(-len(given) // _RANGES)
    ranges = [[first, min(first + step, len(given))] for first in range(0, len(given), step)]
    _, last = scratch_map(stage, "last", find_last, ranges, ranked=list(ranked), given=share)
    path = stage.path("scratch-last-all.npy")
    write_array(path, np.concatenate([read_array(file) for file in last.paths(".npy")]))
    tree = stage.path("scratch-path.npy")
    write_array(tree, path_of_clusters(len(given), parents))
    wanted = [
        [table, ranked.path(number, "-images.npy"), part[2] - group[0][2]]
        for number, group in enumerate(groups)
        for part, table in ((part, part[1]) for part in group)
    ]
    return stage.map(judge_part, wanted, given=share, last=path, tree=tree), sizes, given


def path_of_clusters(num_leaves: int, parents: Sequence[Array]) -> npt.NDArray[np.int32]:
    """[leaves, levels]: the cluster of each level that a finest cluster lies in."""
    columns: list[Array] = [np.arange(num_leaves, dtype=np.int32)]
    for above in parents:
        columns.append(above[columns[-1]])
    return np.stack(columns, axis=1).astype(np.int32)


def rank_images(
    group: list[tuple[Part, str | None]],
    out: str,
    *,
    centroids: str,
    split: list[str] | None,
    leaf: Leaf,
    seed: int,
    device: str,
) -> Outcome:
    """Every image's finest cluster, cosine and rank: in order of the rows, and ranks again in order of the clusters.

    `group`: parts, each with the table in which an earlier run has assigned it. `split`: centroids of the first step,
    and where their parts begin, when the level was made in two.
    """
    if split is None:
        near = Centroids(np.array(read_array(centroids)), device=device)
    else:
        near = Centroids(np.array(read_array(split[0])), device=device)
    finest = read_array(centroids)
    starts = None if split is None else np.array(read_array(split[1]))
    images = np.concatenate(
        [_images_of(part, near, finest, starts) if table is None else _known_images(table) for part, table in group]
    )
    keys = np.concatenate([part_keys(part, seed=seed) for part, _ in group])
    images["order"] = leaf_order(images["cosine"], keys, leaf)
    by_leaf = np.argsort(images["leaf"], kind="stable")
    sizes = np.bincount(images["leaf"], minlength=len(finest)).astype(np.int64)
    files = [
        write_array(f"{out}-images.npy", images),
        write_array(f"{out}-ranks.npy", images["order"][by_leaf]),
        write_array(f"{out}-sizes.npy", sizes),
    ]
    return Outcome(len(images), len(images), {}, files)


def _images_of(part: Part, near: Centroids, finest: Array, starts: npt.NDArray[np.int64] | None) -> Array:
    vectors = read_array(part[0])
    images = np.zeros(len(vectors), dtype=_IMAGE)
    if len(vectors):
        labels = near.nearest(vectors)
        images["leaf"] = labels if starts is None else nearest_in_split(vectors, labels, finest, starts)
        images["cosine"] = own_cosines(vectors, finest, images["leaf"])
    return images


def _known_images(path: str) -> Array:
    """What an earlier run's table of a part says of its images."""
    table = read_table(path, ["clusters", "value"])
    images = np.zeros(len(table), dtype=_IMAGE)
    if len(table):
        images["leaf"] = pc.list_element(table["clusters"], 0).to_numpy()
        images["cosine"] = table["value"].to_numpy()
    return images


def find_last(bounds: list[int], out: str, *, ranked: list[Any], given: str) -> Outcome:
    """For a range of clusters the rank of the last image that each gives."""
    first, last = bounds
    files = Files(*ranked)
    leaves, orders = [], []
    for sizes_path, ranks_path in zip(files.paths("-sizes.npy"), files.paths("-ranks.npy"), strict=True):
        sizes = np.asarray(read_array(sizes_path))
        ends = np.cumsum(np.r_[0, sizes])
        leaves.append(np.repeat(np.arange(last - first), sizes[first:last]))
        orders.append(np.asarray(read_array(ranks_path, int(ends[first]), int(ends[last]))))
    share = np.asarray(read_array(given, first, last))
    found = last_sampled(np.concatenate(leaves), np.concatenate(orders), share)
    return Outcome(last - first, last - first, {}, [write_array(f"{out}.npy", found)])


def judge_part(part: list[Any], out: str, *, given: str, last: str, tree: str) -> Outcome:
    """The kept rows of one part: sampled or not, with the clusters that lead to them."""
    path, images_path, first = part
    table = kept(read_table(path))
    images = np.asarray(read_array(images_path, first, first + len(table)))
    leaves = images["leaf"]
    chosen = sampled(leaves, images["order"], read_array(given), read_array(last))
    verdicts = Verdicts.keep(len(table))
    verdicts.drop[~chosen], verdicts.detail[chosen] = "not_sampled", "balanced"
    verdicts.value[:] = images["cosine"]
    clusters = np.asarray(read_array(tree)[leaves])
    column = pa.FixedSizeListArray.from_arrays(pa.array(clusters.reshape(-1), pa.int32()), clusters.shape[1])
    judged = with_verdicts(table, verdicts).append_column("clusters", column.cast(pa.list_(pa.int32())))
    num_kept = int(chosen.sum())
    drops = {"not_sampled": len(table) - num_kept} if num_kept < len(table) else {}
    return Outcome(len(table), num_kept, drops, [write_table(f"{out}.parquet", judged)])
