"""What the pages on benchmarks show, read from the copy graph and the links that are stored.

Memory: as the page on copies, and 1 to 8 bytes per image for the benchmarks' marks.
"""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from storage.manifest import Manifest
from tasks.algorithms.self_join import Edges
from tasks.algorithms.threshold_sweep import MAX_GROUPS, ThresholdSweep, sweep_thresholds
from tasks.graph.edges import graph_edges
from tasks.graph.files import select
from tasks.inspection.charts import Chart, Curve, Panel
from tasks.inspection.config import Inspection
from tasks.inspection.copy_pages import THRESHOLD
from tasks.inspection.links import BenchmarkLinks
from tasks.inspection.pairs import pick_pairs, threshold_grid
from tasks.inspection.views import BenchmarkView, Key, Pair, Rung


def view_benchmarks(graph: Manifest, links: BenchmarkLinks, sizes: Inspection) -> list[BenchmarkView]:
    """One view per benchmark and split, in the order of `links.names`."""
    threshold = float(links.clean.facts["threshold"])
    lowest = max(links.lowest, float(graph.facts["threshold"]))
    grid = threshold_grid(lowest, threshold)
    views = []
    for start in range(0, len(links.names), MAX_GROUPS):
        names = links.names[start : start + MAX_GROUPS]
        sweep = sweep_benchmarks(graph, links, names, grid, held_edges=sizes.held_edges)
        views += [_view(name, sweep, group, links, threshold, sizes) for group, name in enumerate(names)]
    return views


def sweep_benchmarks(
    graph: Manifest, links: BenchmarkLinks, names: Sequence[str], grid: Sequence[float], *, held_edges: int
) -> ThresholdSweep:
    """Pool images dropped for each of these benchmarks (64 at most) at every threshold, as relative_dedup drops them.

    One graph of the pool's kept images and all references: a component that holds references of several benchmarks
    counts for each of them.
    """
    num_pool = links.described.rows_kept
    marks = [np.flatnonzero(links.name_of == links.names.index(name)) + num_pool for name in names]
    return sweep_thresholds(
        num_pool + links.num_references,
        _graph(graph, links, grid[0]),
        grid,
        marks=marks,
        counted=num_pool,
        held_edges=held_edges,
    )


def _graph(graph: Manifest, links: BenchmarkLinks, lowest: float) -> Iterator[Edges]:
    num_pool = links.described.rows_kept
    for block in graph_edges(graph, lowest):
        yield select(block, links.kept[block.left] & links.kept[block.right])
    for block in links.edges():
        yield Edges(block.left, block.right + num_pool, block.similarity)
    for block in links.among_references():
        yield Edges(block.left + num_pool, block.right + num_pool, block.similarity)


def _view(
    name: str, sweep: ThresholdSweep, group: int, links: BenchmarkLinks, threshold: float, sizes: Inspection
) -> BenchmarkView:
    facts = links.clean.facts["benchmarks"][name]
    picked = pick_pairs(
        links.edges(name),
        lowest=links.stored_above,
        threshold=threshold,
        num=sizes.pairs,
        num_per_rung=sizes.pairs_per_step,
        seed=sizes.seed,
    )
    return BenchmarkView(
        name=name,
        threshold=threshold,
        **{kind: int(facts[kind]) for kind in ("images", "touched", "dropped_direct", "dropped_through_a_chain")},
        panels=[_panel(sweep, group, threshold)],
        above=_with_references(links, picked.above),
        below=_with_references(links, picked.below),
        chained=links.chained(name, sizes.pairs),
        rungs=[
            Rung(low, high, count, _with_references(links, pairs))
            for (low, high), count, pairs in zip(picked.steps, picked.counts, picked.rungs, strict=True)
        ],
    )


def _panel(sweep: ThresholdSweep, group: int, now: float) -> Panel:
    return Panel(
        title="By threshold",
        attribute=THRESHOLD,
        x_name="threshold",
        xs=[round(float(value), 6) for value in sweep.thresholds],
        now=now,
        charts=[
            Chart("Pool images dropped for it", [Curve("for it", sweep.marked[group].tolist())]),
            Chart("Pool images dropped for any benchmark", [Curve("for any", sweep.marked_any.tolist())]),
        ],
        rule="above",
    )


def _with_references(links: BenchmarkLinks, pairs: Iterable[tuple[int, int, float]]) -> list[Pair]:
    """Pairs of (pool row, reference): the reference on the left."""
    return [Pair(links.key(right), Key("described", left), value) for left, right, value in pairs]
