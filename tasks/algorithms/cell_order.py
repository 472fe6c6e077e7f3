"""Cells that lie near each other put into one group: what a query looks into then lies in few groups."""

import numpy as np
import numpy.typing as npt

from tasks.algorithms.blocks import Floats, Rows

_POWER_STEPS = 8


def group_cells(centroids: Floats, sizes: npt.NDArray[np.integer], *, rows_per_group: int) -> list[Rows]:
    """Groups of cells of at most `rows_per_group` rows (a single cell may have more), every cell in one of them.

    The cells are halved along the direction in which their centroids [cells, dim] differ most, again and again (a
    principal-axis tree: McNames, IEEE PAMI 2001). Depends on centroids and sizes alone. Cost: cells * dim * depth.
    """
    groups, waiting = list[Rows](), [np.arange(len(centroids))]
    while waiting:
        cells = waiting.pop()
        if len(cells) == 1 or sizes[cells].sum() <= rows_per_group:
            groups.append(np.sort(cells))
            continue
        along = centroids[cells] @ _widest_direction(centroids[cells])
        order = np.argsort(along, kind="stable")
        rows = np.cumsum(sizes[cells][order])
        half = int(np.clip(np.searchsorted(rows, rows[-1] / 2) + 1, 1, len(cells) - 1))
        waiting += [cells[order[half:]], cells[order[:half]]]
    return groups


def _widest_direction(points: Floats) -> Floats:
    """The first principal axis, by power iteration from the point that is farthest from the mean."""
    centred = points - points.mean(axis=0)
    direction = centred[np.linalg.norm(centred, axis=1).argmax()]
    for _ in range(_POWER_STEPS):
        length = np.linalg.norm(direction)
        if length == 0:  # all in one point: any direction will do
            return np.asarray(np.eye(points.shape[1])[0], dtype=np.float32)
        direction = centred.T @ (centred @ (direction / length))
    return np.asarray(direction, dtype=np.float32)
