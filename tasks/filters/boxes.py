"""Arithmetic of boxes: corners in pixels, [boxes, 4]."""

import numpy as np
from numpy.typing import NDArray

Corners = NDArray[np.floating]


def overlaps(box: Corners, others: Corners) -> NDArray[np.floating]:
    """Intersection over union of one box [4] with others [boxes, 4]; 0 where both are empty."""
    sides = np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2])
    intersection = np.clip(sides, 0, None).prod(axis=1)
    union = (box[2:] - box[:2]).prod() + (others[:, 2:] - others[:, :2]).prod(axis=1) - intersection
    return np.asarray(np.divide(intersection, union, out=np.zeros_like(intersection), where=union > 0))


def suppress(corners: Corners, scores: NDArray[np.floating], *, max_overlap: float) -> NDArray[np.int64]:
    """Greedy non-maximum suppression: indices of the boxes kept, best score first, equal scores in their order."""
    order = np.argsort(-scores, kind="stable")
    keep = []
    while order.size:
        best, order = order[0], order[1:]
        keep.append(best)
        order = order[overlaps(corners[best], corners[order]) <= max_overlap]
    return np.array(keep, dtype=np.int64)


def merge(boxes: NDArray[np.float32], *, max_overlap: float) -> NDArray[np.float32]:
    """Like `suppress` on [boxes, 5] (corners, score), but a kept box grows to enclose those that it suppresses.

    For sightings of one thing at several scales and in several tiles, some of which saw only a piece of it.
    """
    left, merged = boxes[np.argsort(-boxes[:, 4], kind="stable")], []
    while len(left):
        same = overlaps(left[0, :4], left[:, :4]) > max_overlap
        same[0] = True
        corners = [left[same, :2].min(axis=0), left[same, 2:4].max(axis=0)]
        merged.append(np.concatenate([*corners, left[0, 4:]]))
        left = left[~same]
    return np.array(merged, np.float32).reshape(-1, 5)
