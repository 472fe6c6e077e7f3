"""What each stage of the middle takes, as formulas in the names of a plan's numbers.

A stage takes resources: gpu_seconds and core_seconds (of work, over all devices), bytes read and written, parts (each
costs the flow and the scheduler a while), serial_seconds (one process, nothing beside it), and memory_bytes of its
largest process. Where there are no GPUs, `core_seconds_without_gpu` stands for gpu_seconds. The formulas are those of
the docstrings of the code they plan: `tasks/algorithms/join_cost.py`, tasks/copy_graph.py, tasks/cluster.py,
tasks/hierarchy.py (whose third and further levels cost a hundredth of the second and are left out),
tasks/retrieval/search.py, tasks/self_dedup.py, tasks/relative_dedup.py, tasks/pack.py.
"""

from dataclasses import dataclass, field

from pydantic import Field

from tasks.algorithms.join_cost import UNEVENNESS, join_cost
from tasks.cluster import MAX_CLUSTERS, Cluster
from tasks.config import StageConfig
from tasks.copy_graph import CopyGraph
from tasks.graph.config import Cells
from tasks.hierarchy import Hierarchy, plan_levels
from tasks.retrieve import Retrieve

RESOURCES = (
    "gpu_seconds", "core_seconds", "core_seconds_without_gpu", "read_bytes", "write_bytes", "parts", "serial_seconds",
    "memory_bytes",
)  # fmt: skip


class Machines(StageConfig):
    """The cluster. Defaults: the paper's 20 nodes of 8 V100-32GB; it does not say what else they had."""

    nodes: float = 20
    """Nodes."""
    cores: float = 40
    """Cores of a node; the paper does not say, DGX-1 and its like have 40."""
    core_speed: float = 1.0
    """A core's speed, of the cores that the figures were measured on."""
    gpus: float = 8
    """GPUs of a node."""
    gpu_tflops: float = 112
    """Peak of a GPU for half-precision products, TFLOP/s (V100 PCIe: 112)."""
    disk_gb_per_second: float = 2
    """What a node's share of the storage gives, read and written together, GB/s."""
    net_gb_per_second: float = 1.25
    """A node's network, GB/s (10 Gbit/s); all reads and writes cross it, as with shared storage."""
    busy_share: float = Field(0.8, gt=0, le=1)
    """Share of the time that what a stage waits for is busy; the rest is stragglers and ends of stages."""


class Work(StageConfig):
    """The pool and the sources. Defaults: DINOv2's (arXiv 2304.07193, section 3 and App. A)."""

    images: float = 1.2e9
    """Images of the pool."""
    image_bytes: float = 100e3
    """Mean size of an image."""
    images_per_part: float = 10_000
    """Images of a part (shard)."""
    kept_by_self_dedup: float = 1.1 / 1.3
    """App. A.3: 1.3 billion to 1.1 billion."""
    kept_by_relative_dedup: float = 744 / 1100
    """App. A.3: 1.1 billion to 744 million."""
    share_in_groups: float = 0.25
    """Share of images that have a copy (1 - 1.1 / 1.3 are dropped, and each group keeps one)."""
    edges_per_image: float = 4
    """Edges of the copy graph for each image, on average; at most 65 by construction."""
    references: float = 5e6
    """Images of all benchmarks' train and test splits."""
    queries: float = 17_058_723
    """Images of the sources that bring neighbours: ImageNet-22k, ImageNet-1k, Landmarks v2 (Table 15)."""
    chosen: float = 142_109_386
    """Images of the dataset (Table 15)."""
    descriptor_dim: float = 512
    """Numbers of a descriptor (SSCD)."""
    embedding_dim: float = 1280
    """Numbers of an embedding (ViT-H)."""
    sscd_gflop: float = 16.8
    """SSCD's ResNet-50 at 320x320: 4.1 G multiply-adds at 224x224, times (320/224)^2, times 2."""
    vit_gflop: float = 255
    """ViT-H/16 at 224x224: 2 x 632 M weights x 197 tokens, and attention."""
    clusters: float = MAX_CLUSTERS
    """Clusters of k-means (App. A.4)."""
    gpu_share_convolution: float = 0.15
    """Share of a GPU's peak that a ResNet-50 gets (2,000 images/s of 224x224 on a V100)."""
    gpu_share_transformer: float = 0.4
    """Share of a GPU's peak that a large ViT gets."""
    gpu_share_products: float = 0.5
    """Share of a GPU's peak that the blocked products of retrieval get."""
    row_bytes: float = 200
    """An image's row in a part's table (URL, checksum, place, verdict), compressed."""
    row_core_seconds: float = 2e-5
    """Reading an image's row and writing it with its verdict."""
    batch_memory_bytes: float = 2e9
    """A process with torch and an encoder's weights (ViT-H: 1.3 GB in half precision), pictures that wait."""


_LEAST_POOL = 10_000  # below, one level is enough


def hierarchy_numbers(work: Work) -> dict[str, tuple[float, str]]:
    """What tasks.hierarchy does by default with so many images: its finest level, iterations, runs of k-means above."""
    pool = round(work.images * work.kept_by_self_dedup * work.kept_by_relative_dedup)
    finest, *above = plan_levels(Hierarchy(), max(pool, _LEAST_POOL))
    where = f"tasks.hierarchy.plan_levels(Hierarchy(), {pool})"
    return {
        "images_per_leaf": (pool / (finest.num_clusters * finest.splits), f"{where}[0]"),
        "leaf_splits": (finest.splits, f"{where}[0].splits"),
        "level_iterations": (finest.iterations, f"{where}[0].iterations"),
        "leaves_per_upper": (finest.num_clusters * finest.splits / above[0].num_clusters, f"{where}[1].num_clusters"),
        "upper_runs": (above[0].resamplings + 1, f"1 + {where}[1].resamplings"),
        "upper_sample": (above[0].sample_size, f"{where}[1].sample_size"),
    }


CONSTANTS: dict[str, tuple[float, str]] = {
    "assignments": (Cells().assignments, "tasks.graph.config.Cells.assignments"),
    "unevenness": (UNEVENNESS, "tasks.algorithms.join_cost.UNEVENNESS"),
    "group_bytes": (CopyGraph().group_bytes, "tasks.copy_graph.CopyGraph.group_bytes"),
    "rows_per_file": (CopyGraph().rows_per_file, "tasks.copy_graph.CopyGraph.rows_per_file"),
    "iterations": (Cluster().iterations, "tasks.cluster.Cluster.iterations"),
    "fit_images": (float(Cluster().fit_images or 0), "tasks.cluster.Cluster.fit_images"),
    "sum_groups": (Cluster().efficiency.groups, "tasks.cluster.Efficiency.groups"),
    "cells_probed": (Retrieve().num_probes, "tasks.retrieve.Retrieve.num_probes"),
    "neighbours": (Retrieve().neighbours, "tasks.retrieve.Retrieve.neighbours"),
}
"""Defaults of the code that the formulas use."""


def join_numbers(work: Work, method: Cells | None = None) -> dict[str, tuple[float, str]]:
    """Cells and operations of the join, by its own formula: 2 * dim for each product of two vectors."""
    how = method or Cells()
    images, cell_rows = round(work.images), how.rows_of_a_cell(round(work.images))
    cost = join_cost(images, round(work.descriptor_dim), how.assignments, cell_rows=cell_rows)
    where = f"tasks.algorithms.join_cost(images, descriptor_dim, Cells().assignments, cell_rows={cell_rows})"
    found = {"cells": (cost["cells"], f"{where}['cells']")}
    for step in ("fit", "assign", "join"):
        operations = 2 * work.descriptor_dim * cost[f"{step}_products"]
        found[f"{step}_operations"] = (operations, f"2 * descriptor_dim * {where}['{step}_products']")
    return found


DERIVED: dict[str, str] = {
    "unique": "images * kept_by_self_dedup",
    "pool": "unique * kept_by_relative_dedup",
    "gpu_flops": "gpu_tflops * 1e12",
    "descriptor_bytes": "2 * descriptor_dim",
    "embedding_bytes": "2 * embedding_dim",
    "exchanged_bytes": "images * assignments * (descriptor_bytes + 8 + 4 * assignments)",
    "link_operations": "2 * descriptor_dim * unique * assignments**2 * references / cells * unevenness",
    "kmeans_operations": "2 * embedding_dim * clusters * (fit_images * iterations + pool)",
    "finest_clusters": "pool / images_per_leaf",
    "coarse_clusters": "finest_clusters / leaf_splits",
    "upper_clusters": "finest_clusters / leaves_per_upper",
    "leaf_products": "level_iterations * (fit_images * coarse_clusters + pool * leaf_splits)"
    " + pool * (2 * coarse_clusters + leaf_splits)",
    "upper_products": "upper_clusters * (level_iterations * (finest_clusters + (upper_runs - 1) * upper_sample *"
    " upper_clusters) + upper_runs * finest_clusters)",
    "hierarchy_operations": "2 * embedding_dim * (leaf_products + upper_products)",
    "search_operations": "2 * embedding_dim * queries * (clusters + cells_probed * pool / clusters)",
}
"""Numbers made of others, in order."""


@dataclass(frozen=True)
class StagePlan:
    """A stage's resources by formula, and where its largest process is."""

    name: str
    what: str
    memory_in: str
    formulas: dict[str, str] = field(default_factory=dict)
    beyond_the_paper: bool = False
    """Whether it is left out of the sum that stands beside the paper's figure, for the paper had no such stage."""


STAGES: tuple[StagePlan, ...] = (
    StagePlan(
        "describe", "SSCD descriptors of the pool", "worker: encoder",
        {
            "gpu_seconds": "images * sscd_gflop * 1e9 / (gpu_flops * gpu_share_convolution)",
            "core_seconds": "images * (decode_core_seconds + row_core_seconds)",
            "core_seconds_without_gpu": "images * sscd_core_seconds",
            "read_bytes": "images * (image_bytes + row_bytes)",
            "write_bytes": "images * (descriptor_bytes + row_bytes)",
            "parts": "images / images_per_part",
            "memory_bytes": "batch_memory_bytes",
        },
    ),
    StagePlan(
        "copy_graph", "all pairs above 0.45, by cells", "worker: its vectors and the quantiser",
        {
            "gpu_seconds": "(fit_operations + assign_operations + join_operations) / (gpu_flops * gpu_share_join)",
            "core_seconds": "images * edges_per_image * 2 / edges_per_second",
            "core_seconds_without_gpu": "(fit_operations + assign_operations) / assign_operations_per_core_second"
            " + join_operations / join_operations_per_core_second",
            "read_bytes": "2 * images * descriptor_bytes + exchanged_bytes + 40 * images * edges_per_image",
            "write_bytes": "exchanged_bytes + 4 * images * assignments + 60 * images * edges_per_image",
            "parts": "2 * images * descriptor_bytes / group_bytes + exchanged_bytes / group_bytes",
            "memory_bytes": "group_bytes + max(4 * images - group_bytes, cells * descriptor_dim,"
            " 100 * rows_per_file * edges_per_image)",
        },
    ),
    StagePlan(
        "self_dedup", "components above 0.6, a keeper of each", "flow: union-find and sizes",
        {
            "core_seconds": "images * row_core_seconds * (1 + share_in_groups)",
            "serial_seconds": "2 * images * edges_per_image / edges_per_second",
            "read_bytes": "2 * images * row_bytes + 2 * 20 * images * edges_per_image + 250 * images * share_in_groups",
            "write_bytes": "images * row_bytes + 190 * images * share_in_groups",
            "parts": "images / images_per_part + 2 * images / 2**20 + images / 2**22",
            "memory_bytes": "(8 if images < 2**31 else 16) * images",
        },
    ),
    StagePlan(
        "relative_dedup", "pairs with benchmarks, components that hold one", "flow: union-find of pool and references",
        {
            "gpu_seconds": "link_operations / (gpu_flops * gpu_share_join)",
            "core_seconds": "unique * row_core_seconds",
            "core_seconds_without_gpu": "link_operations / join_operations_per_core_second",
            "serial_seconds": "unique * edges_per_image / edges_per_second",
            "read_bytes": "unique * (descriptor_bytes + row_bytes) + 20 * images * edges_per_image",
            "write_bytes": "unique * row_bytes",
            "parts": "unique / images_per_part + unique * descriptor_bytes / group_bytes",
            "memory_bytes": "13 * images + 33 * references",
        },
    ),
    StagePlan(
        "embed", "ViT-H/16 embeddings of the pool and the sources", "worker: encoder",
        {
            "gpu_seconds": "(pool + queries) * vit_gflop * 1e9 / (gpu_flops * gpu_share_transformer)",
            "core_seconds": "(pool + queries) * (decode_core_seconds + row_core_seconds)",
            "core_seconds_without_gpu": "(pool + queries) * vit_gflop * vit_core_seconds_per_gflop",
            "read_bytes": "(pool + queries) * (image_bytes + row_bytes)",
            "write_bytes": "(pool + queries) * (embedding_bytes + row_bytes)",
            "parts": "(pool + queries) / images_per_part",
            "memory_bytes": "batch_memory_bytes",
        },
    ),
    StagePlan(
        "cluster", "spherical k-means, fitted to a sample, all assigned", "flow: centroids and where they move",
        {
            "gpu_seconds": "kmeans_operations / (gpu_flops * gpu_share_kmeans)",
            "core_seconds": "pool * row_core_seconds",
            "core_seconds_without_gpu": "kmeans_operations / kmeans_operations_per_core_second",
            "read_bytes": "pool * (embedding_bytes + row_bytes) + iterations *"
            " (fit_images * embedding_bytes + sum_groups * 8 * clusters * embedding_dim)",
            "write_bytes": "pool * row_bytes + iterations * sum_groups * 8 * clusters * embedding_dim",
            "parts": "pool / images_per_part + 2 * iterations * sum_groups",
            "memory_bytes": "16 * clusters * embedding_dim",
        },
    ),
    StagePlan(
        "hierarchy", "k-means in levels, a balanced sample", "flow: centroids of one k-means, levels",
        {
            "gpu_seconds": "hierarchy_operations / (gpu_flops * gpu_share_kmeans)",
            "core_seconds": "2 * pool * row_core_seconds",
            "core_seconds_without_gpu": "hierarchy_operations / kmeans_operations_per_core_second",
            "read_bytes": "pool * (3 * embedding_bytes + 2 * row_bytes) + level_iterations *"
            " (fit_images * embedding_bytes + sum_groups * 8 * coarse_clusters * embedding_dim)"
            " + upper_runs * level_iterations * sum_groups * 8 * upper_clusters * embedding_dim",
            "write_bytes": "pool * (embedding_bytes + row_bytes + 24) + level_iterations * sum_groups * 8 *"
            " coarse_clusters * embedding_dim * (1 + upper_runs * upper_clusters / coarse_clusters)",
            "parts": "pool / images_per_part + 2 * level_iterations * sum_groups * (1 + upper_runs)"
            " + 8 * pool * embedding_dim / 2**30",
            "memory_bytes": "max(16 * max(coarse_clusters, upper_clusters) * embedding_dim, 40 * finest_clusters)",
        },
        beyond_the_paper=True,
    ),
    StagePlan(
        "retrieve", "neighbours of every query in the nearest cells", "worker: a group's images, its queries",
        {
            "gpu_seconds": "search_operations / (gpu_flops * gpu_share_products)",
            "core_seconds": "pool * row_core_seconds",
            "core_seconds_without_gpu": "search_operations / search_operations_per_core_second",
            "read_bytes": "pool * (2 * embedding_bytes + row_bytes) + queries * cells_probed * embedding_bytes",
            "write_bytes": "pool * (embedding_bytes + row_bytes) + 44 * queries * neighbours * cells_probed",
            "parts": "2 * pool / images_per_part",
            "memory_bytes": "4 * group_bytes",
        },
    ),
    StagePlan(
        "shuffle_and_pack", "one permutation, tars with index and checksums", "worker: rows of a stretch of shards",
        {
            "core_seconds": "chosen * shuffle_core_seconds"
            " + chosen * pack_core_seconds * max(1, image_bytes / pack_image_bytes)",
            "read_bytes": "chosen * (image_bytes + 3 * row_bytes)",
            "write_bytes": "chosen * (image_bytes + 2 * row_bytes)",
            "parts": "chosen / 320000 + pool / images_per_part",
            "memory_bytes": "1000 * 1e6",
        },
    ),
)  # fmt: skip
