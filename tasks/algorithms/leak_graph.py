"""Which images of a pool hang together with a reference, directly or through others, from edges that stream by.

References come first, so that the smallest row of a component, which is its label, tells whether it holds one.
"""

from typing import NamedTuple

import numba
import numpy as np
import numpy.typing as npt

from tasks.algorithms.components import Components, Integers

Floats = npt.NDArray[np.float32]


class Leaks(NamedTuple):
    """Of some rows of the pool: the reference (-1: none), whether it is linked with it directly, and the similarity.

    A direct one's reference is the most similar (of equals the first), a row's that hangs on through a chain the first
    of its component, with the similarity of its nearest neighbour in the pool.
    """

    reference: Integers
    direct: npt.NDArray[np.bool_]
    similarity: npt.NDArray[np.float32]


class LeakGraph:
    """Add all edges, in any order, then ask for the leaks. Memory: 12 bytes per row of the pool, 5 per reference (20
    and 9 where there are 2**31 rows or more); edges are never held."""

    def __init__(self, num_references: int, num_pool: int) -> None:
        self.num_references, self.num_pool = num_references, num_pool
        self._forest = Components(num_references + num_pool)
        self._best = np.zeros(num_pool, dtype=np.float32)
        self._direct = np.full(num_pool, -1, dtype=self._forest.parents.dtype)
        self._flat = self._with_references = False
        self.touched = np.zeros(num_references, dtype=np.bool_)

    def join_pool(self, left: Integers, right: Integers, similarity: Floats) -> None:
        """Two rows of the pool each, and their cosine. Raises IndexError for rows that are not there, as all here."""
        _check(left, self.num_pool, "image")
        _check(right, self.num_pool, "image")
        self._join(left + self.num_references, right + self.num_references)
        for rows in (left, right):
            _raise_best(self._best, self._direct, rows, similarity)

    def pool_labels(self) -> Integers:
        """The components of the pool's own pairs: for every row the smallest row of its component. A copy. To be asked
        before any reference is joined: RuntimeError afterwards."""
        if self._with_references:
            raise RuntimeError("references are joined already: the components are no longer the pool's own")
        return np.asarray(self._labels()[self.num_references :] - self.num_references)

    def set_pool_labels(self, labels: Integers) -> None:
        """Components of the pool in place of those its pairs made; a row's label is the smallest row of its own."""
        self._forest.parents[self.num_references :] = labels
        self._forest.parents[self.num_references :] += self.num_references

    def join_references(self, left: Integers, right: Integers) -> None:
        """Two references each."""
        _check(left, self.num_references, "reference")
        _check(right, self.num_references, "reference")
        self._with_references = True
        self._join(left, right)

    def link(self, rows: Integers, references: Integers, similarity: Floats) -> None:
        """A row of the pool and a reference each, and their cosine."""
        _check(rows, self.num_pool, "image")
        _check(references, self.num_references, "reference")
        self._with_references = True
        self._join(references, rows + self.num_references)
        _link_best(self._best, self._direct, rows, references, similarity)
        self.touched[references] = True

    def _join(self, left: Integers, right: Integers) -> None:
        self._forest.add(left, right)
        self._flat = False

    def leaks(self, rows: Integers) -> Leaks:
        """Of these rows of the pool. Cost: of the rows asked for, once all have been made ready."""
        label = self._labels()[rows + self.num_references]
        direct = self._direct[rows] >= 0
        first = np.where(label < self.num_references, label, -1)
        reference = np.where(direct, self._direct[rows], first).astype(label.dtype)
        return Leaks(reference, direct, np.where(reference >= 0, self._best[rows], np.float32(np.nan)))

    def _labels(self) -> Integers:
        if not self._flat:
            self._forest.labels()
            self._flat = True
        return self._forest.parents

    def images_by_component(self, rows: Integers) -> Integers:
        """How many of these rows of the pool lie in the component that each reference is the first of: [references]."""
        label = self._labels()[rows + self.num_references]
        return np.bincount(label[label < self.num_references], minlength=self.num_references)

    def references_of(self, first: int) -> int:
        """How many references lie in the component that this reference is the first of."""
        return int((self._labels()[: self.num_references] == first).sum())


def _check(rows: Integers, count: int, what: str) -> None:
    low, high = rows.min(initial=0), rows.max(initial=-1)
    if low < 0 or high >= count:
        raise IndexError(f"edge to {what} {low if low < 0 else high} where there are {count}")


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _raise_best(best: Floats, direct: Integers, rows: Integers, similarity: Floats) -> None:
    for edge in range(len(rows)):
        row = rows[edge]
        if direct[row] < 0 and similarity[edge] > best[row]:
            best[row] = similarity[edge]


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _link_best(best: Floats, direct: Integers, rows: Integers, references: Integers, similarity: Floats) -> None:
    for edge in range(len(rows)):
        row, reference = rows[edge], references[edge]
        nearer = similarity[edge] > best[row] or (similarity[edge] == best[row] and reference < direct[row])
        if direct[row] < 0 or nearer:
            best[row], direct[row] = similarity[edge], reference
