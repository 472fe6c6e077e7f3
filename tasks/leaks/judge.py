"""The graph of pool and references as the stage reads it: pairs from files, in; leaks part by part, and counts, out."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from storage.manifest import Manifest
from storage.tables import read_table
from tasks.algorithms.leak_graph import LeakGraph, Leaks
from tasks.algorithms.self_join import Edges
from tasks.graph.chain_cut import Cut, cut_chains
from tasks.graph.files import read_edges, select
from tasks.graph.scratch import save_array
from tasks.leaks.borderline import Borderline
from tasks.leaks.links import group_starts, link_paths
from tasks.leaks.references import References, two_of
from tasks.pool import NoImages, Pool
from tasks.progress import run_logger
from tasks.stage import Stage

_ROWS_AT_A_TIME = 1 << 20
_LEAST_ALARMING = 100


LEAK = np.dtype([("row", "<i8"), ("reference", "<i8"), ("direct", "?"), ("similarity", "<f4")])
"""A row that hangs together with a reference (its place among all kept rows), and what `LeakGraph.leaks` says of it."""


@dataclass(frozen=True)
class PartLeaks:
    """A part of self_dedup's table: its kept rows are first <= row < last of all kept ones; `leaks` is a file of `LEAK`
    in which theirs are, by row."""

    table: str
    leaks: str
    first: int
    last: int


class LeakJudge:
    """Reads all pairs once, in any order; then answers. Memory: see the stage.

    ids [references], name_of [references]: of all sets one after the other, in the order given.
    """

    def __init__(
        self,
        references: Sequence[References],
        unique: Manifest,
        *,
        threshold: float,
        through_copies: bool,
        borderline_pairs: int,
        cut: Cut | None = None,
        alarm_share: float = 1.0,
    ) -> None:
        self.references, self.threshold, self.through_copies = references, threshold, through_copies
        self.cut, self.alarm_share = cut, alarm_share
        self.cut_facts: dict[str, int] | None = None
        self.ids = np.concatenate([one.ids for one in references])
        starts = np.cumsum([0, *(len(one.names) for one in references)])
        self.name_of = np.concatenate([one.name_of + start for one, start in zip(references, starts, strict=False)])
        self.offsets = np.cumsum([0, *(len(one) for one in references)])
        self.tables = unique.paths(".parquet")
        flags = [read_table(path, ["drop"])["drop"].is_null().to_numpy() for path in self.tables]
        self._sizes = [len(one) for one in flags]
        self.kept: npt.NDArray[np.bool_] = np.concatenate(flags) if flags else np.zeros(0, dtype=np.bool_)
        if not self.kept.any():
            raise NoImages(f"no image is left of stage {unique.stage} in {unique.directory}. Give the run more images.")
        self.graph = LeakGraph(len(self.ids), len(self.kept))
        self.borderline = Borderline(threshold, borderline_pairs, int(starts[-1]))
        self.links: dict[str, Manifest] = {}
        self._num_pairs = np.zeros(int(starts[-1]), dtype=np.int64)

    def read(self, pairs: Callable[[], Iterator[Edges]], links: Sequence[Manifest], described: Manifest) -> None:
        """The pool's own pairs, which are cut if the config says so, then those with the benchmarks and those among
        them. Raises ValueError for links of another pool, and when those of a benchmark are missing."""
        self.links = {one.inputs["references"]: one for one in links if "references" in one.inputs}
        self._check(links, described)
        for block in self._counting(pairs()):
            self.graph.join_pool(block.left, block.right, block.similarity)
        if self.cut is not None:
            labels = self.graph.pool_labels()
            vectors, again = Pool(described).vectors, lambda: self._counting(pairs())
            labels, self.cut_facts = cut_chains(self.cut, self.threshold, labels, again, vectors)
            self.graph.set_pool_labels(labels)
        starts = group_starts(described)
        for one, offset in zip(self.references, self.offsets, strict=False):
            by_group = link_paths(self.links[one.manifest.reference], len(one.names))
            for start, paths in zip(starts, by_group, strict=True):
                for block in read_edges(paths):
                    self._link(Edges(block.left + start, block.right + offset, block.similarity))
        among = next(one for one in links if "references" not in one.inputs)
        for (left, right), entry in zip(two_of(len(self.references)), among.files, strict=True):
            for block in read_edges([among.file(entry.path)], threshold=self.threshold):
                self.graph.join_references(block.left + self.offsets[left], block.right + self.offsets[right])

    def _counting(self, pairs: Iterator[Edges]) -> Iterator[Edges]:
        for block in pairs:
            yield block if self.through_copies else select(block, self.kept[block.left] & self.kept[block.right])

    def _link(self, pairs: Edges) -> None:
        stays = self.kept[pairs.left]
        self.borderline.add(select(pairs, stays), self.name_of)
        pairs = select(pairs, (pairs.similarity > self.threshold) & (stays | self.through_copies))
        self._num_pairs += np.bincount(self.name_of[pairs.right], minlength=len(self._num_pairs))
        self.graph.link(pairs.left, pairs.right, pairs.similarity)

    def _check(self, links: Sequence[Manifest], described: Manifest) -> None:
        wanted = {one.manifest.reference for one in self.references}
        among = [set(one.inputs.values()) for one in links if "references" not in one.inputs]
        if set(self.links) != wanted or among != [wanted]:
            raise ValueError(
                f"{len(wanted)} benchmarks, but links of {len(self.links)} with the pool and of "
                f"{[len(one) for one in among]} among themselves. Give what link_benchmark and link_references gave."
            )
        other = [one.directory for one in self.links.values() if one.inputs["described"] != described.reference]
        if other:
            raise ValueError(f"{other[0]} holds links with another pool than {described.reference}. Link this pool.")

    def parts(self, stage: Stage) -> list[PartLeaks]:
        """The parts of self_dedup's table; what is to be said of their rows is left in files, a million rows each."""
        found, start, first = list[PartLeaks](), 0, 0
        for number, batch in enumerate(self._batches()):
            path = stage.path(f"scratch-leaks-{number:05d}.npy")
            leaks = np.zeros(0, dtype=LEAK)
            for table, size in batch:
                mine = self.graph.leaks(np.flatnonzero(self.kept[start : start + size]) + start)
                leaks = np.concatenate([leaks, _leaking(mine, first)])
                found.append(PartLeaks(table, path, first, first + len(mine.direct)))
                start, first = start + size, first + len(mine.direct)
            save_array(path, leaks)
        return found

    def _batches(self) -> Iterator[list[tuple[str, int]]]:
        batch = list[tuple[str, int]]()
        for part in zip(self.tables, self._sizes, strict=True):
            batch.append(part)
            if sum(size for _, size in batch) >= _ROWS_AT_A_TIME:
                yield batch
                batch = []
        if batch:
            yield batch

    def facts(self, names: Sequence[str]) -> dict[str, Any]:
        """By benchmark: its images, those with a pair in the pool, pairs, pool images dropped, close calls; then how
        many components were discarded, what the largest of them cost and for which reference's sake; what the cut did;
        an alarm, logged too, when that component cost more than its share of the pool."""
        count = len(names)
        dropped = np.zeros((2, count), dtype=np.int64)
        cost, direct = np.zeros((2, len(self.ids)), dtype=np.int64)
        for start in range(0, len(self.kept), _ROWS_AT_A_TIME):
            rows = np.flatnonzero(self.kept[start : start + _ROWS_AT_A_TIME]) + start
            leaks = self.graph.leaks(rows)
            cost += self.graph.images_by_component(rows)
            direct += self.graph.images_by_component(rows[leaks.direct])
            for number, which in enumerate((leaks.direct, ~leaks.direct & (leaks.reference >= 0))):
                dropped[number] += np.bincount(self.name_of[leaks.reference[which]], minlength=count)
        images, touched = (
            np.bincount(chosen, minlength=count) for chosen in (self.name_of, self.name_of[self.graph.touched])
        )
        close = self.borderline.counts()
        table = {
            name: {
                "images": int(images[number]),
                "touched": int(touched[number]),
                "pairs": int(self._num_pairs[number]),
                "dropped_direct": int(dropped[0, number]),
                "dropped_through_a_chain": int(dropped[1, number]),
                "borderline_above": close[number][0],
                "borderline_below": close[number][1],
            }
            for number, name in enumerate(names)
        }
        facts = {"benchmarks": table, "components": int((cost > 0).sum()), "largest_component": int(cost.max())}
        if self.cut_facts is not None:
            facts["cut"] = self.cut_facts
        return facts | (self._largest(int(cost.argmax()), cost, direct, names) if cost.any() else {})

    def _largest(
        self, first: int, cost: npt.NDArray[np.int64], direct: npt.NDArray[np.int64], names: Sequence[str]
    ) -> dict[str, Any]:
        """Of the component that cost most: its first reference, and whether that is cause for alarm."""
        images, near, num_references = int(cost[first]), int(direct[first]), self.graph.references_of(first)
        reference, benchmark = self.ids[first].decode(), names[self.name_of[first]]
        largest = {
            "images": images,
            "direct": near,
            "references": num_references,
            "reference": reference,
            "benchmark": benchmark,
        }
        share = images / int(self.kept.sum())
        if images <= _LEAST_ALARMING or share <= self.alarm_share:
            return {"largest": largest}
        alarm = (
            f"one component of {images} images ({share:.1%} of the pool) is discarded because it holds reference "
            f"{reference} of {benchmark} (and {num_references - 1} others); only {near} of its images are similar to a "
            "reference themselves, the rest hang on by chains. Look at the pages of the benchmarks; raise "
            "relative_dedup.threshold or set relative_dedup.cut."
        )
        run_logger().warning(f"relative_dedup: {alarm}")
        return {"largest": largest, "alarm": alarm}


def _leaking(leaks: Leaks, first: int) -> npt.NDArray[Any]:
    """Those of some rows that hang together with a reference; the rows are `first` and on."""
    places = np.flatnonzero(leaks.reference >= 0)
    found = np.empty(len(places), dtype=LEAK)
    found["row"] = places + first
    for name in ("reference", "direct", "similarity"):
        found[name] = getattr(leaks, name)[places]
    return found
