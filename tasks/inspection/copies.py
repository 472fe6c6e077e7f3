"""What the page on copies shows, read from the copy graph and the verdicts of self-dedup; no image is described again.

Memory: 16 bytes per image (the sweep, then the groups), 18 bytes per held edge and what the page shows.
"""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from storage.manifest import Manifest
from storage.tables import read_table
from tasks.algorithms.sampling import id_keys, mix, sample
from tasks.algorithms.self_join import Edges
from tasks.algorithms.threshold_sweep import ThresholdSweep, sweep_thresholds
from tasks.graph.edges import graph_edges
from tasks.graph.files import merge, select
from tasks.inspection.charts import Chart, Curve, Panel
from tasks.inspection.config import Inspection
from tasks.inspection.copy_pages import THRESHOLD
from tasks.inspection.pairs import pick_pairs, threshold_grid, weakest_joint
from tasks.inspection.views import CopiesView, Group, Key, Member, Pair, Rung

_MOST_EDGES_OF_A_GROUP = 2_000_000
_MOST_MEMBERS = 10_000
ALONE = -1

Groups = npt.NDArray[np.int64]


def view_copies(described: Manifest, graph: Manifest, unique: Manifest, sizes: Inspection) -> CopiesView:
    """The page's content. Three passes over the edges."""
    threshold, lowest = float(unique.facts["threshold"]), float(graph.facts["threshold"])
    sweep = sweep_thresholds(
        described.rows_kept,
        graph_edges(graph, lowest),
        threshold_grid(lowest, threshold),
        held_edges=sizes.held_edges,
    )
    picked = pick_pairs(
        graph_edges(graph, lowest),
        lowest=lowest,
        threshold=threshold,
        num=sizes.pairs,
        num_per_rung=sizes.pairs_per_step,
        seed=sizes.seed,
    )
    groups = groups_of(unique)
    return CopiesView(
        threshold=threshold,
        lowest=lowest,
        recall=float(graph.facts.get("recall", 1.0)),
        images=unique.rows_in,
        dropped=unique.rows_in - unique.rows_kept,
        panels=[sweep_panel(sweep, threshold)],
        above=in_pool(picked.above),
        below=in_pool(picked.below),
        rungs=[
            Rung(low, high, count, in_pool(pairs))
            for (low, high), count, pairs in zip(picked.steps, picked.counts, picked.rungs, strict=True)
        ],
        sizes=size_classes(groups),
        groups=largest_groups(unique, groups, graph_edges(graph, threshold), sizes),
    )


def sweep_panel(sweep: ThresholdSweep, now: float) -> Panel:
    """The curves of the copy graph."""
    return Panel(
        title="By threshold",
        attribute=THRESHOLD,
        x_name="threshold",
        xs=[round(float(value), 6) for value in sweep.thresholds],
        now=now,
        charts=[
            Chart("Images dropped", [Curve("dropped", sweep.dropped.tolist())]),
            Chart("Images of the largest component", [Curve("largest", sweep.largest.tolist())], scale="log"),
            Chart("Components of two or more", [Curve("components", sweep.components.tolist())]),
            Chart("Pairs that the graph holds", [Curve("pairs", sweep.edges.tolist())], scale="log"),
        ],
        rule="above",
    )


def in_pool(pairs: Iterable[tuple[int, int, float]], note: str = "") -> list[Pair]:
    """Pairs of rows of the pool."""
    return [Pair(Key("described", left), Key("described", right), value, note) for left, right, value in pairs]


def groups_of(unique: Manifest) -> Groups:
    """A number for the group of each row that self-dedup judged, ALONE for rows without one: 8 bytes per image.

    The number is a hash of the group's name (two of a billion groups share one with a chance of 5 %).
    """
    parts = []
    for path in unique.paths(".parquet"):
        column = read_table(path, ["group"])["group"]
        there = column.is_valid().to_numpy()
        numbers = np.full(len(column), ALONE, dtype=np.int64)
        numbers[there] = (id_keys(column.drop_null().to_pylist(), seed=0) >> np.uint64(1)).astype(np.int64)
        parts.append(numbers)
    return np.concatenate(parts) if parts else np.zeros(0, dtype=np.int64)


def size_classes(groups: Groups) -> list[tuple[str, int]]:
    """How many components there are of sizes 1, 2, 3-4, 5-8, ..."""
    _, sizes = np.unique(groups[groups != ALONE], return_counts=True)
    counts = np.bincount(np.ceil(np.log2(sizes)).astype(np.int64), minlength=1)
    counts[0] = (groups == ALONE).sum()
    found = []
    for power, count in enumerate(counts.tolist()):
        low, high = 2 ** (power - 1) + 1 if power else 1, 2**power
        found.append((f"{low:,}" if low >= high else f"{low:,}–{high:,}", count))
    return found


def largest_groups(unique: Manifest, groups: Groups, edges: Iterable[Edges], sizes: Inspection) -> list[Group]:
    """The largest components: keeper, others from the loosest to the tightest, and the pair they hang by.

    Of a component with more than 10,000 images that many are looked at, drawn by row.
    """
    labels, counts = np.unique(groups[groups != ALONE], return_counts=True)
    order = np.lexsort((labels, -counts))[: sizes.groups]
    wanted = {int(labels[place]): int(counts[place]) for place in order}
    keepers, rows = _members(unique, groups, list(wanted), sizes.seed)
    values = _values(unique, rows)
    inside = _edges_inside(groups, list(wanted), edges)
    found = []
    for label, size in wanted.items():
        others = [row for row in rows[label].tolist() if row != keepers[label]]
        others = spread(sorted(others, key=lambda row: (values[row], row)), sizes.members - 1)
        shown = [Member(Key("described", row), values[row]) for row in others]
        found.append(Group(size, Key("described", keepers[label]), shown, _joint(inside[label])))
    return found


def spread(rows: Sequence[int], num: int) -> list[int]:
    """`num` of the rows, evenly from the first to the last."""
    if num <= 0 or len(rows) <= num:
        return list(rows[: max(num, 0)])
    return [rows[place] for place in np.unique(np.linspace(0, len(rows) - 1, num).round().astype(int))]


def _joint(edges: Edges | None) -> Pair | None:
    place = weakest_joint(edges) if edges is not None else None
    if edges is None or place is None:
        return None
    joint = (int(edges.left[place]), int(edges.right[place]), float(edges.similarity[place]))
    return in_pool([joint], "weakest joint")[0]


def _edges_inside(groups: Groups, wanted: Sequence[int], edges: Iterable[Edges]) -> dict[int, Edges | None]:
    """The edges of each wanted group; None for one with more than are worth holding."""
    found: dict[int, list[Edges] | None] = {label: [] for label in wanted}
    num_found = dict.fromkeys(wanted, 0)
    for block in edges if wanted else ():
        mine = groups[block.left]
        mine = np.where(mine == groups[block.right], mine, -1)
        for label in np.intersect1d(mine, wanted):
            here, held = select(block, mine == label), found[int(label)]
            num_found[int(label)] += len(here.left)
            if held is None or num_found[int(label)] > _MOST_EDGES_OF_A_GROUP:
                found[int(label)] = None
            else:
                held.append(here)
    return {label: None if blocks is None else merge(blocks) for label, blocks in found.items()}


def _members(
    unique: Manifest, groups: Groups, wanted: Sequence[int], seed: int
) -> tuple[dict[int, int], dict[int, npt.NDArray[np.int64]]]:
    """({group: its keeper}, {group: rows of it to look at}) of the wanted groups."""
    rows = {}
    for label in wanted:
        inside = np.flatnonzero(groups == label).astype(np.int64)
        rows[label] = inside[sample(mix(inside.astype(np.uint64) ^ np.uint64(seed)), _MOST_MEMBERS)]
    keepers = {label: int(inside[0]) for label, inside in rows.items()}
    start = 0
    for path in unique.paths(".parquet") if wanted else ():
        kept = read_table(path, ["drop"])["drop"].is_null().to_numpy()
        own = np.flatnonzero(kept & np.isin(groups[start : start + len(kept)], wanted)) + start
        keepers |= {int(groups[row]): int(row) for row in own}
        start += len(kept)
    return keepers, rows


def _values(unique: Manifest, rows: Mapping[int, npt.NDArray[np.int64]]) -> dict[int, float]:
    """The similarity behind the verdict of each of these rows; 0 where there is none. Reads one column."""
    wanted = np.sort(np.concatenate([*rows.values(), np.zeros(0, dtype=np.int64)]))
    found: dict[int, float] = {}
    start = 0
    for path in unique.paths(".parquet") if len(wanted) else ():
        column = read_table(path, ["value"])["value"]
        here = wanted[(wanted >= start) & (wanted < start + len(column))]
        found |= dict(zip(here.tolist(), column.take(here - start).fill_null(0.0).to_pylist(), strict=True))
        start += len(column)
    return found
