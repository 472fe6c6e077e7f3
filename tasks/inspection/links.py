"""The links between pool and benchmarks that earlier stages stored, with one row number for every reference.

Memory: 1 byte per image of the pool, 40 per reference.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc

from storage.manifest import Manifest
from storage.tables import read_table
from tasks.algorithms.self_join import Edges
from tasks.graph.files import read_edges, select
from tasks.inspection.views import Key, Pair
from tasks.leaks.links import group_starts, link_paths
from tasks.leaks.references import References, two_of


class BenchmarkLinks:
    """All benchmarks of a run: references are numbered through, set after set, as relative_dedup numbers them.

    names: "source/split", in that order; name_of [references]: positions in `names`; kept [pool rows]: what self_dedup
    kept; stored_above: the least similarity of the stored links of pool and references; lowest: that above which those
    among references are known too.
    """

    def __init__(
        self,
        described: Manifest,
        unique: Manifest,
        clean: Manifest,
        references: Sequence[Manifest],
        links: Sequence[Manifest],
    ) -> None:
        self.described, self.clean = described, clean
        self.sets = sorted((References(one) for one in references), key=lambda one: one.names)
        self.names = [name for one in self.sets for name in one.names]
        first_name = np.cumsum([0, *(len(one.names) for one in self.sets)])
        self.offsets = np.cumsum([0, *(len(one) for one in self.sets)])
        self.name_of = np.concatenate([one.name_of + at for one, at in zip(self.sets, first_name, strict=False)])
        self.ids = np.concatenate([one.ids for one in self.sets])
        self.links = {one.inputs["references"]: one for one in links if "references" in one.inputs}
        self.among = next(one for one in links if "references" not in one.inputs)
        self.lowest = max(float(one.config["threshold"]) for one in links)
        self.stored_above = max(float(one.config["threshold"]) for one in self.links.values())
        flags = [read_table(path, ["drop"])["drop"].is_null().to_numpy() for path in unique.paths(".parquet")]
        self.kept: npt.NDArray[np.bool_] = np.concatenate(flags)

    @property
    def num_references(self) -> int:
        """Images of all benchmarks."""
        return len(self.ids)

    def edges(self, name: str | None = None) -> Iterator[Edges]:
        """Stored pairs of kept pool rows (left) and references (right), of one benchmark or of all."""
        starts = group_starts(self.described)
        for one, offset in zip(self.sets, self.offsets, strict=False):
            by_group = link_paths(self.links[one.manifest.reference], len(one.names))
            for start, paths in zip(starts, by_group, strict=True):
                wanted = [path for path, said in zip(paths, one.names, strict=True) if name in (None, said)]
                for block in read_edges(wanted):
                    block = Edges(block.left + start, block.right + offset, block.similarity)
                    yield select(block, self.kept[block.left])

    def among_references(self) -> Iterator[Edges]:
        """Pairs of references."""
        for (left, right), entry in zip(two_of(len(self.sets)), self.among.files, strict=True):
            for block in read_edges([self.among.file(entry.path)]):
                yield Edges(block.left + self.offsets[left], block.right + self.offsets[right], block.similarity)

    def key(self, reference: int) -> Key:
        """Where a reference's image is to be found."""
        number = int(np.searchsorted(self.offsets, reference, side="right")) - 1
        return Key(reference_role(number), int(reference - self.offsets[number]))

    def manifests(self) -> dict[str, Manifest]:
        """The described benchmarks by the names that `key` gives them."""
        return {reference_role(number): one.manifest for number, one in enumerate(self.sets)}

    def chained(self, name: str, num: int) -> list[Pair]:
        """Pool images that were dropped for this benchmark through others, each beside the reference: loosest first."""
        found: list[tuple[float, int, str]] = []
        kept_rows, start = np.flatnonzero(self.kept), 0
        for path in self.clean.paths(".parquet"):
            table = read_table(path, ["detail", "value", "other"])
            here = pc.fill_null(pc.equal(table["detail"], f"{name} through a chain"), False).to_numpy()
            places = np.flatnonzero(here)
            rows = kept_rows[start + places].tolist()
            said = table.take(places).to_pylist()
            found += [(verdict["value"], row, verdict["other"]) for row, verdict in zip(rows, said, strict=True)]
            found = sorted(found)[:num]
            start += len(table)
        return [
            Pair(self.key(self._row_of(other)), Key("described", row), value, "through others")
            for value, row, other in found
        ]

    def _row_of(self, identity: str) -> int:
        return int(np.flatnonzero(self.ids == identity.encode())[0])


def reference_role(number: int) -> str:
    """The role of the n-th set of references, benchmarks sorted by name."""
    return f"references {number}"
