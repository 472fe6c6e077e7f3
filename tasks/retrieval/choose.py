"""The last steps of a retrieval: what the clusters give, the verdicts part by part, the composition."""

import dataclasses
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from storage.manifest import FileEntry
from storage.tables import write_table
from tasks.retrieval.clusters import (
    Limits,
    cluster_ranges,
    clusters_table,
    count_queries,
    first_members,
    keys_by_cluster,
    limits_of,
    members_table,
    queries_by_cluster,
)
from tasks.retrieval.rules import Counted, composition_row, with_total
from tasks.retrieval.sorted_runs import runs_of
from tasks.retrieval.steps import Work, total
from tasks.retrieval.verdicts import judge
from tasks.stage import Outcome


class Chosen(NamedTuple):
    """The verdicts' outcomes, clusters.parquet and members.parquet, the stage's facts about the choice."""

    verdicts: list[Outcome]
    files: list[FileEntry]
    facts: dict[str, Any]


class FromClusters(NamedTuple):
    """What mode cluster comes down to: by rule (its place among the modes), images before the cap and clusters that
    count; files of their first members; what `judge` needs of it."""

    actual: dict[int, int]
    counting: dict[int, int]
    shown: list[str]
    plain: dict[str, Any]


def choose(work: Work) -> Chosen:
    """Verdicts and composition, once the neighbours are known."""
    modes, counts = work.found.modes, work.found.counts
    sources = sorted(counts)
    num_queries = count_queries(work.blocks.tables, sources, work.num_clusters)
    table = clusters_table(sources, num_queries, work.sizes, work.config.min_queries)
    files = [write_table(work.stage.path("clusters.parquet"), table)]
    rules = [number for number, row in enumerate(modes) if row.mode == "cluster"]
    places = [sources.index(modes[rule].source) for rule in rules]
    given = _from_clusters(work, rules, num_queries[places] > work.config.min_queries)
    files.append(write_table(work.stage.path("members.parquet"), members_table(given.shown)))
    judged = work.map("verdicts", judge, work.chunks, modes=modes, hits=work.hits, seed=work.config.seed, **given.plain)
    rows = []
    for rule, row in enumerate(modes):
        final, shared = total(judged, "unique", row.name), total(judged, "shared", row.name)
        actual = given.actual.get(rule, work.actual.get(row.name, 0))
        counted = Counted(actual, actual if row.mode == "cluster" else final, final, shared)
        rows.append(composition_row(row, given.counting.get(rule, 0), None if row.mode == "as_is" else counted))
    as_is = sorted(row.source for row in modes if row.mode == "as_is")
    final = sum(outcome.rows_kept for outcome in judged) + sum(counts[name] for name in as_is)
    composition = with_total(rows, images=sum(counts.values()), final=final)
    verdicts = [dataclasses.replace(outcome, facts={}) for outcome in judged]
    return Chosen(verdicts, files, {"composition": composition, "as_is": as_is})


def _from_clusters(work: Work, rules: list[int], counts: npt.NDArray[np.bool_]) -> FromClusters:
    """`counts` [rules, clusters]: which clusters count for each rule in mode cluster."""
    counting = dict(zip(rules, counts.sum(axis=1).tolist(), strict=True))
    if not counts.any():
        return FromClusters(dict.fromkeys(rules, 0), counting, [], {"clustered": {}, "limits": "", "counting": ""})
    modes = [work.found.modes[rule] for rule in rules]
    path = work.scratch("counting", counts)
    limits, shown = _limits(work, rules, counts, path)
    some = [(number, mode.source) for number, mode in enumerate(modes)]
    asking = work.map("asking", queries_by_cluster, some, blocks=work.blocks, counting=path)
    plain = {
        "clustered": dict(zip(rules, runs_of(work.stage.directory, asking), strict=True)),
        "limits": work.scratch("limits", limits.keys),
        "counting": path,
    }
    return FromClusters(dict(zip(rules, limits.actual.tolist(), strict=True)), counting, shown, plain)


def _limits(work: Work, rules: list[int], counts: npt.NDArray[np.bool_], counting: str) -> tuple[Limits, list[str]]:
    modes = [work.found.modes[rule] for rule in rules]
    keyed = work.map("keys", keys_by_cluster, work.chunks, counting=counting, seed=work.config.seed)
    ranges = cluster_ranges(np.where(counts.any(axis=0), work.sizes, 0), 16 * work.config.images_per_task)
    members = work.map(
        "members",
        first_members,
        ranges,
        runs=runs_of(work.stage.directory, keyed),
        per_cluster=max(mode.per_cluster for mode in modes),
        shown=work.config.inspect_members,
    )
    limits = limits_of(modes, counts, ranges, runs_of(work.stage.directory, members))
    return limits, work.paths(members, ".shown.npy")
