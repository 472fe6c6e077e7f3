"""Blur of boxes after Yang et al. 2021, "A Study of Face Obfuscation in ImageNet" (arXiv 2103.06191), section 4."""

import math

import cv2
import numpy as np

from storage.images import Pixels
from tasks.filters.base import Boxes

_REACH = 4  # sigmas at which a Gaussian is cut off: what lies beyond is under 1/15,000 of it


def blur_boxes(pixels: Pixels, boxes: Boxes, *, expand: float = 0.1, strength: float = 0.1) -> Pixels:
    """Blur the boxes [boxes, 4 or more] of an RGB image; returns a new array, the same one when there is no box.

    d = a box's longer side. Each box grows by `expand` * d on every side; D = the largest d; the image and the mask of
    the grown boxes are both blurred with sigma = `strength` * D, and the blurred image is laid over the sharp one by
    the blurred mask, so the edge is soft. Only the region that the mask's blur reaches is computed, which gives the
    same pixels as the whole would.
    """
    if not len(boxes):
        return pixels
    height, width = pixels.shape[:2]
    corners = boxes[:, :4].astype(np.float64)
    longer = (corners[:, 2:] - corners[:, :2]).max(axis=1, keepdims=True)
    sigma = strength * float(longer.max())
    grown = np.concatenate([corners[:, :2] - expand * longer, corners[:, 2:] + expand * longer], axis=1)
    mask = np.zeros((height, width), np.float32)
    for left, top, right, bottom in grown:
        rows = slice(max(0, math.floor(top)), max(0, math.ceil(bottom)))
        mask[rows, max(0, math.floor(left)) : max(0, math.ceil(right))] = 1
    margin = 2 * math.ceil(_REACH * sigma)  # once for the mask's blur, once for what the image's blur looks at
    region = np.s_[
        max(0, math.floor(grown[:, 1].min()) - margin) : max(1, math.ceil(grown[:, 3].max()) + margin),
        max(0, math.floor(grown[:, 0].min()) - margin) : max(1, math.ceil(grown[:, 2].max()) + margin),
    ]
    sharp, weight = pixels[region].astype(np.float32), _gaussian(mask[region], sigma)[..., None]
    blurred = pixels.copy()
    blurred[region] = np.rint(sharp + (_gaussian(sharp, sigma) - sharp) * weight).astype(np.uint8)
    return blurred


def _gaussian(array: np.ndarray, sigma: float) -> np.ndarray:
    side = 2 * math.ceil(_REACH * sigma) + 1
    return np.asarray(
        cv2.GaussianBlur(array, (side, side), sigmaX=sigma, sigmaY=sigma, borderType=cv2.BORDER_REPLICATE)
    )
