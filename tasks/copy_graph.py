"""The graph of copies: all pairs of images with similar descriptors, computed once for every stage that needs pairs.

DINOv2 (arXiv 2304.07193, App. A.3) makes a graph of 64 neighbours for its self-dedup (similarity > 0.6) and another for
its benchmarks (> 0.45). Here one graph at the lowest threshold serves both, any threshold above it, and later crawls.
What each method costs stands in graph.exact, graph.cells and graph.by_faiss; how edges are bounded, in graph.limit.
"""

from typing import Any

from storage.layout import Layout
from storage.manifest import Manifest
from tasks.graph.base import Base, Known, find_known, known_pairs
from tasks.graph.config import Auto, Cells, CopyGraph, Exact, Faiss, resolve
from tasks.graph.edges import ThresholdTooLow, edge_paths, graph_edges
from tasks.graph.files import read_edges
from tasks.graph.limit import Ranges, limit_pairs
from tasks.graph.methods import Found, Run, find_pairs, judge_graph
from tasks.graph.recall import RecallTooLow
from tasks.graph.rows import PoolFiles
from tasks.graph.scratch import Files, sweep
from tasks.pool import NoImages
from tasks.progress import run_logger
from tasks.stage import Stage, stage_task

__all__ = [
    "Auto",
    "Cells",
    "CopyGraph",
    "Exact",
    "Faiss",
    "RecallTooLow",
    "ThresholdTooLow",
    "copy_graph",
    "edge_paths",
    "graph_edges",
]

VERSION = 1


@stage_task(name="copy_graph")
def copy_graph(
    described: Manifest, config: CopyGraph, layout: Layout, base: tuple[Manifest, Manifest] | None = None
) -> Manifest:
    """Files edges-*.parquet of pairs (left < right: rows of the pool `described`, similarity), read by `graph_edges`.

    `base` is an earlier run's (described, copy_graph): pairs of images that it knew are taken from there. By the exact
    method the graph is the same without it; by cells and Faiss what it found counts, so there it is an input. Raises
    NoImages for an empty pool and RecallTooLow when too many pairs or planted copies are missed.
    """
    if described.rows_kept == 0:
        raise NoImages(
            f"no image is left of stage {described.stage} in {described.directory}: its drops are "
            f"{dict(described.drops)}. Give it more images or loosen the stages before."
        )
    method = resolve(config.method, described.rows_kept)
    earlier = Base(*base) if base is not None else None
    inputs = {"described": described}
    if earlier is not None and not isinstance(method, Exact):
        inputs["base"] = earlier.graph
    stage = Stage("copy_graph", version=VERSION, config=config, inputs=inputs, layout=layout)
    if stage.finished:
        sweep(stage)
        return stage.reuse()
    pool = PoolFiles(described)
    ranges = Ranges(pool.num_rows, config.rows_per_file)
    run = Run(stage, pool, config, ranges, earlier, None)
    run = run._replace(known=_known(run))
    found = find_pairs(run, method)
    sources = found.pairs if run.new_rows is None else [*found.pairs, _taken_over(run)]
    sampled = found.check.queries.rows.tolist() if found.check else []
    limited = limit_pairs(stage, sources, ranges, neighbours=config.neighbours, sampled=sampled)
    files = [*(entry for outcome in limited.outcomes for entry in outcome.files), *limited.files]
    facts = _facts(run, found) | {
        "edges": sum(entry.rows for entry in files),
        "saturated": limited.num_saturated,
    }
    if found.check is not None:
        edges = read_edges([stage.path(entry.path) for entry in files])
        facts |= judge_graph(found.check, limited.found, edges, run)
    manifest = stage.publish(limited.outcomes, files=[*limited.files, *found.files], facts=facts)
    sweep(stage)
    return manifest


def _known(run: Run) -> Known | None:
    """What an earlier run knew; said in the log when it is of no use."""
    if run.base is None:
        return None
    config = run.config
    known = find_known(
        run.stage, run.pool, run.base, threshold=config.threshold, neighbours=config.neighbours, rows=run.span_rows
    )
    if known.unused:
        run_logger().warning(f"copy_graph: the earlier graph {run.base.graph.directory} is not used: {known.unused}")
    return known


def _taken_over(run: Run) -> Files:
    if run.base is None or run.known is None:
        raise ValueError("pairs are taken over from an earlier graph only")
    return known_pairs(run.stage, run.base, run.known, ranges=run.ranges, threshold=run.config.threshold)


def _facts(run: Run, found: Found) -> dict[str, Any]:
    facts = {"threshold": run.config.threshold, "neighbours": run.config.neighbours} | found.facts
    if run.base is not None and run.known is not None:
        reused = 0 if run.known.unused else run.pool.num_rows - len(run.known.new_rows)
        facts |= {"base": run.base.graph.reference, "reused": reused}
    return facts
