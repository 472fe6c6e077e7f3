"""A cut against chaining: components that grew beyond a size are taken apart where no direct similarity holds them.

At DINOv2's loose thresholds (0.6, 0.45) a few wrong edges join thousands of groups into one, of which a single image
would be kept, or which one reference would discard. Two checks, the second on what the first leaves too large:

1. verified pairs: the edges of an oversized component count only above a stricter threshold, their cosines computed
   again from the vectors;
2. medoid: the row with the largest sum of similarities keeps the members that are directly similar to it. The others
   leave and form components among themselves, checked again while they are too large.

Afterwards every component above the size is a star: all of its members are directly similar to one of them.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from tasks.algorithms.blocks import Floats, Rows, VectorSource
from tasks.algorithms.components import Components, Integers, component_sizes, size_histogram
from tasks.algorithms.sampling import mix
from tasks.algorithms.self_join import Edges

_EDGES_AT_A_TIME = 16_384
_ROWS_AT_A_TIME = 8_192
_MEDOIDS_AT_A_TIME = 64
_ROUNDING = 1e-4  # a float32 product of unit vectors lies nearer than this to the true one, for any dim below 100,000


@dataclass(frozen=True)
class Cut:
    """What a cut gave. `labels` [rows]: the smallest row of every row's component, afterwards.

    num_oversized, num_members: components above the size before, and their rows. largest_before, largest_after: rows
    of the largest component. num_unverified: edges that the stricter threshold took away. num_rounds: of medoids.
    num_held: components still above the size, every member of which is directly similar to the medoid.
    """

    labels: Integers
    num_oversized: int
    num_members: int
    largest_before: int
    largest_after: int
    num_unverified: int = 0
    num_rounds: int = 0
    num_held: int = 0


def cut_components(
    labels: Integers,
    edges: Callable[[], Iterator[Edges]],
    vectors: VectorSource,
    *,
    max_size: int,
    strict_threshold: float,
    medoid_threshold: float,
) -> Cut:
    """Takes components of more than `max_size` rows apart; all others stay as they are.

    `labels` [rows] are those of `Components.labels`, `edges()` gives the edges that they came from, from the first on
    (it is called once, and only when a component is oversized; edges between two labels are passed over).
    `vectors` [rows, dim] need not be of unit length. A pair counts when its cosine is > `strict_threshold`, a member
    stays with the medoid when its cosine is > `medoid_threshold`. The result does not depend on the order of the edges.

    Memory beside `labels`: 4 bytes per row (8 from 2**31 on), and of oversized components alone 40 bytes per verified
    edge and 60 per member; vectors are read by blocks. Cost: num_rounds * members * min(64, members / max_size) * dim
    products.
    Raises ValueError for a size below 2 or thresholds outside of (-1, 1).
    """
    if max_size < 2 or not -1 < strict_threshold < 1 or not -1 < medoid_threshold < 1:
        raise ValueError(
            f"a cut needs a size of at least 2 and cosines between -1 and 1, got max_size {max_size}, "
            f"strict_threshold {strict_threshold}, medoid_threshold {medoid_threshold}"
        )
    sizes = component_sizes(labels)
    histogram = size_histogram(sizes)
    members = _members(labels, sizes, max_size)
    del sizes
    largest = max(histogram, default=0)
    num_oversized = sum(count for size, count in histogram.items() if size > max_size)
    if num_oversized == 0:
        return Cut(labels, 0, 0, largest, largest)
    held, num_unverified = _verified(labels, members, edges, vectors, strict_threshold)
    pieces = _Pieces(members, held)
    num_rounds = 0
    while pieces.split(vectors, max_size=max_size, threshold=medoid_threshold):
        num_rounds += 1
    after = np.array(labels)
    after[members] = members[pieces.labels]
    sizes_after = component_sizes(pieces.labels)
    num_held = int((sizes_after > max_size).sum())
    largest_after = max([int(sizes_after.max()), *(size for size in histogram if size <= max_size)])
    return Cut(after, num_oversized, len(members), largest, largest_after, num_unverified, num_rounds, num_held)


def _members(labels: Integers, sizes: Integers, max_size: int) -> Rows:
    """Rows of oversized components, increasing; found by blocks, so that no mask of all rows is needed."""
    found = [np.zeros(0, dtype=np.int64)]
    for start in range(0, len(labels), 1 << 20):
        block = labels[start : start + (1 << 20)]
        found.append(np.flatnonzero(sizes[block] > max_size) + start)
    return np.concatenate(found)


@dataclass(frozen=True)
class _Held:
    """Verified edges between members, as positions in their sorted list: by (left, right), each once."""

    left: npt.NDArray[np.int32]
    right: npt.NDArray[np.int32]
    similarity: npt.NDArray[np.float64]

    def where(self, keep: npt.NDArray[np.bool_]) -> "_Held":
        return _Held(self.left[keep], self.right[keep], self.similarity[keep])


def _verified(
    labels: Integers, members: Rows, edges: Callable[[], Iterator[Edges]], vectors: VectorSource, threshold: float
) -> tuple[_Held, int]:
    """Edges inside oversized components whose true cosine is above the threshold, and how many are not."""
    kept: list[tuple[Rows, Rows, npt.NDArray[np.float64]]] = []
    num_seen = 0
    for block in edges():
        left, right = np.minimum(block.left, block.right), np.maximum(block.left, block.right)
        inside = (_among(members, left) & _among(members, right)) & (labels[left] == labels[right]) & (left < right)
        left, right = left[inside], right[inside]
        for start in range(0, len(left), _EDGES_AT_A_TIME):
            here = slice(start, start + _EDGES_AT_A_TIME)
            similarity = _cosines(_unit(vectors.take(left[here])), _unit(vectors.take(right[here])))
            above = similarity > threshold
            kept.append((left[here][above], right[here][above], similarity[above]))
        num_seen += len(left)
    num_kept = sum(len(piece[0]) for piece in kept)
    if num_kept == 0:
        nothing = np.zeros(0, dtype=np.int32)
        return _Held(nothing, nothing, np.zeros(0)), num_seen
    columns = [np.concatenate([piece[column] for piece in kept]) for column in range(3)]
    del kept
    order = np.lexsort((columns[1], columns[0]))
    left, right, similarity = (column[order] for column in columns)
    new = np.r_[True, (left[1:] != left[:-1]) | (right[1:] != right[:-1])]
    starts, ends = (np.searchsorted(members, side[new]).astype(np.int32) for side in (left, right))
    return _Held(starts, ends, similarity[new]), num_seen - num_kept


def _among(members: Rows, rows: Rows) -> npt.NDArray[np.bool_]:
    places = np.minimum(np.searchsorted(members, rows), len(members) - 1)
    return np.asarray(members[places] == rows)


class _Pieces:
    """Members of oversized components in the pieces they have come to; positions, not rows."""

    def __init__(self, members: Rows, edges: _Held) -> None:
        self.members, self.edges = members, edges
        self.settled = np.zeros(len(members), dtype=np.bool_)
        self.labels = _joined(len(members), edges.left, edges.right)

    def split(self, vectors: VectorSource, *, max_size: int, threshold: float) -> bool:
        """One round of medoids for all pieces that are too large; False when there were none."""
        active = (component_sizes(self.labels)[self.labels] > max_size) & ~self.settled
        if not active.any():
            return False
        self.edges = self.edges.where(active[self.edges.left] & active[self.edges.right])
        sums = self._sums()
        star = np.full(len(self.members), -1, dtype=np.int64)
        positions = np.flatnonzero(active)
        positions = positions[np.argsort(self.labels[positions], kind="stable")]
        for piece in np.split(positions, np.flatnonzero(np.diff(self.labels[positions])) + 1):
            # Equal sums in an order that has nothing to do with the rows': a chain is cut at many places at once.
            order = piece[np.lexsort((mix(self.members[piece].astype(np.uint64)), -sums[piece]))]
            candidates = order[: max(1, min(_MEDOIDS_AT_A_TIME, len(piece) // max_size))]
            star[piece] = self._stars(vectors, piece, candidates, threshold)
        self.settled |= star >= 0
        together = (star[self.edges.left] < 0) & (star[self.edges.right] < 0)
        self.edges = self.edges.where(together)
        stays = np.flatnonzero(star >= 0)
        left, right = np.r_[self.edges.left, stays], np.r_[self.edges.right, star[stays]]
        self.labels = np.where(active, _joined(len(self.members), left, right), self.labels)
        return True

    def _sums(self) -> npt.NDArray[np.float64]:
        """Each member's summed similarity over its edges; in the order of the sorted edges, hence always the same."""
        count = len(self.members)
        sums = np.bincount(self.edges.left, self.edges.similarity, count)
        return np.asarray(sums + np.bincount(self.edges.right, self.edges.similarity, count))

    def _stars(self, vectors: VectorSource, piece: Rows, candidates: Rows, threshold: float) -> Rows:
        """The medoid (a position) that each member of a piece stays with, or -1; of several, the first candidate.

        A candidate that an earlier medoid keeps is none itself: a clique has one, however large it is.
        """
        centres = _unit(vectors.take(self.members[candidates]))
        medoids = np.ones(len(candidates), dtype=np.bool_)
        near = _similar(centres, centres, threshold)
        for index in range(len(candidates)):
            medoids[index] = not (near[index, :index] & medoids[:index]).any()
        centres, candidates = centres[medoids], candidates[medoids]
        star = np.full(len(piece), -1, dtype=np.int64)
        for start in range(0, len(piece), _ROWS_AT_A_TIME):
            here = piece[start : start + _ROWS_AT_A_TIME]
            close = _similar(_unit(vectors.take(self.members[here])), centres, threshold)  # [members, medoids]
            close |= here[:, None] == candidates
            star[start : start + len(here)] = np.where(close.any(axis=1), candidates[close.argmax(axis=1)], -1)
        star[np.searchsorted(piece, candidates)] = candidates
        return star


def _joined(count: int, left: Integers, right: Integers) -> npt.NDArray[np.int64]:
    forest = Components(count)
    forest.add(left, right)
    return forest.labels().astype(np.int64)


def _similar(left: Floats, right: Floats, threshold: float) -> npt.NDArray[np.bool_]:
    """[left, right] cosine > threshold of unit vectors: by a product, those near the threshold again in float64."""
    products = torch.mm(torch.from_numpy(left), torch.from_numpy(right).T).numpy()
    above = products > threshold
    i, j = np.nonzero(np.abs(products - threshold) < _ROUNDING)
    above[i, j] = _cosines(left[i], right[j]) > threshold
    return np.asarray(above)


def _cosines(left: Floats, right: Floats) -> npt.NDArray[np.float64]:
    """Of pairs of unit vectors, [pairs, dim] twice; a row's result does not depend on the others."""
    return np.asarray((left.astype(np.float64) * right.astype(np.float64)).sum(axis=1))


def _unit(block: npt.NDArray[np.floating]) -> Floats:
    """Rows of length 1, float32; zero rows stay zero."""
    floats = np.asarray(block, dtype=np.float64)
    lengths = np.linalg.norm(floats, axis=1, keepdims=True)
    return np.asarray(floats / np.where(lengths > 0, lengths, 1.0), dtype=np.float32)
