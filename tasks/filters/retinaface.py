"""Face detector `retinaface`: RetinaFace on MobileNetV2, its weights in this package (weights/README.txt).

Anchors, box decoding and suppression follow Deng et al. 2019 (arXiv 1905.00641) and the graph's own constants. Of faces
pasted on photographs the network finds nearly all from about 40 pixels on and few below 24: so pictures are enlarged
first, large ones cut into tiles, and what is faint or small is looked at again, closer.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from importlib.resources import files
from typing import Annotated, ClassVar, Literal, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from storage.images import Pixels
from tasks.config import StageConfig
from tasks.filters.base import Boxes
from tasks.filters.boxes import merge, suppress
from tasks.filters.sessions import load_session

WEIGHTS = "retinaface_mobilenet_v2.onnx"
STRIDES_AND_SIDES = ((8, (16, 32)), (16, (64, 128)), (32, (256, 512)))
"""Of each level: pixels between anchors, and the anchors' sides."""
_CENTRE_VARIANCE, _SIDE_VARIANCE = 0.1, 0.2
_MAX_OVERLAP = 0.4

_SURE_PIXELS = 32
"""Face side, in the network's pixels, from which it finds nearly all, with the second look's help."""
_FAINT_SCORE = 0.01
_SECOND_LOOKS = 12
_SECOND_SIDE = 192
"""A faint or small box is looked at again in a square of this side, three times as wide as itself."""
_TILE, _TILE_OVERLAP = 1024, 96
_RUN_PIXELS_CPU, _RUN_PIXELS_GPU = 1 << 17, 1 << 24
"""Pixels that go through the network at a time: a core loses a tenth with a million of them, a GPU wants to be fed."""
_COARSEST_SIDE = 640
"""Levels are halved down to this longer side, since faces above about 600 pixels fall apart."""


class RetinaFace(StageConfig):
    """RetinaFace (MobileNetV2) with weights in the package: no download."""

    NOT_IN_FINGERPRINT: ClassVar[frozenset[str]] = frozenset({"threads"})

    kind: Literal["retinaface"] = "retinaface"
    min_score: Annotated[float, Field(gt=0, le=1)] = 0.3
    """Faces scored at least this are taken. Low, for recall: a blur too many costs less than a face too many."""
    smallest_face_pixels: Annotated[int, Field(ge=8, le=512)] = 24
    """Height of the smallest face to look for. The time per image goes with its inverse square."""
    max_examined_pixels: Annotated[int, Field(ge=100_000)] = 4_000_000
    """Images are enlarged at most, and reduced at least, to this many pixels: bounds the time of one image (0.15 s per
    million on one core). Beyond it the smallest face found grows with the image."""
    threads: Annotated[int, Field(ge=1)] = 1
    """Threads of one session; parts run side by side, so one is right unless there are more cores than parts."""

    def build(self) -> "RetinaFaceDetector":
        return RetinaFaceDetector(self)


class _Tile(NamedTuple):
    """A piece of a scaled picture: whose, at which scale, its corner there, its pixels."""

    picture: int
    scale: float
    left: int
    top: int
    pixels: Pixels


class RetinaFaceDetector:
    """`detect_all`: faces of pictures, at several scales; tiles of equal padded size go through the network together,
    whichever picture they are of."""

    min_side: int | None = None

    def __init__(self, config: RetinaFace) -> None:
        self.config = config
        self._session = load_session(str(files("tasks.filters") / "weights" / WEIGHTS), config.threads)
        on_gpu = self._session.get_providers()[0] == "CUDAExecutionProvider"
        self._run_pixels = _RUN_PIXELS_GPU if on_gpu else _RUN_PIXELS_CPU

    def detect(self, pixels: Pixels) -> Boxes:
        """Faces of one RGB image as [faces, 5]: left, top, right, bottom in its pixels, score; best first."""
        return self.detect_all([pixels])[0]

    def detect_all(self, pictures: Sequence[Pixels]) -> list[Boxes]:
        """Per RGB image its faces, as `detect` gives them: the same, up to the rounding of the network's sums."""
        first = [merge(boxes, max_overlap=_MAX_OVERLAP) for boxes in self._first_looks(pictures)]
        sure = [boxes[:, 4] >= self.config.min_score for boxes in first]
        small = [
            (boxes[:, 2:4] - boxes[:, :2]).max(axis=1, initial=0) < 2 * self.config.smallest_face_pixels
            for boxes in first
        ]
        faint = [boxes[~one][:_SECOND_LOOKS] for boxes, one in zip(first, sure, strict=True)]
        few = [boxes[one & other] for boxes, one, other in zip(first, sure, small, strict=True)]
        asked = [np.concatenate(both) for both in zip(faint, few, strict=True)]
        found = []
        for number, closer in enumerate(self._look_again(pictures, asked)):
            again, placed = closer[: len(faint[number])], closer[len(faint[number]) :]
            kept = [seen if len(seen) else box[None] for box, seen in zip(few[number], placed, strict=True)]
            large = first[number][sure[number] & ~small[number]]
            found.append(merge(np.concatenate([large, *again, *kept]), max_overlap=_MAX_OVERLAP))
        return found

    def _scales(self, height: int, width: int) -> Iterator[float]:
        """The finest scale, then halves of it until the whole picture is of the size of the largest anchors."""
        scale = _SURE_PIXELS / self.config.smallest_face_pixels
        scale = min(scale, math.sqrt(self.config.max_examined_pixels / (height * width)))
        yield scale
        while max(height, width) * scale > _COARSEST_SIDE:
            scale /= 2
            yield scale

    def _first_looks(self, pictures: Sequence[Pixels]) -> list[Boxes]:
        """Per picture the boxes above the faint score, in its own pixels, seen at all scales and in all tiles."""
        found: list[list[Boxes]] = [[np.zeros((0, 5), np.float32)] for _ in pictures]
        tiles = (tile for number, pixels in enumerate(pictures) for tile in self._tiles(number, pixels))
        for batch in _of_one_size(tiles, self._run_pixels):
            seen = self.run([tile.pixels for tile in batch], min_score=_FAINT_SCORE)
            for tile, boxes in zip(batch, seen, strict=True):
                corner = np.array([tile.left, tile.top, tile.left, tile.top, 0], np.float32)
                found[tile.picture].append((boxes + corner) / _per_box(tile.scale))
        return [np.concatenate(boxes) for boxes in found]

    def _tiles(self, number: int, pixels: Pixels) -> Iterator[_Tile]:
        for scale in self._scales(*pixels.shape[:2]):
            scaled = _scaled(pixels, scale)
            for top in _tile_starts(scaled.shape[0]):
                for left in _tile_starts(scaled.shape[1]):
                    yield _Tile(number, scale, left, top, scaled[top : top + _TILE, left : left + _TILE])

    def _look_again(self, pictures: Sequence[Pixels], asked: Sequence[Boxes]) -> list[list[Boxes]]:
        """Per picture and box the faces that are seen where it is when it is seen larger, as that look places and
        scores them."""
        looks = [(number, box) for number, boxes in enumerate(asked) for box in boxes]
        found: list[list[Boxes]] = [[] for _ in pictures]
        at_once = max(1, self._run_pixels // _SECOND_SIDE**2)
        for start in range(0, len(looks), at_once):
            chunk = looks[start : start + at_once]
            close = [_close_up(pictures[number], box) for number, box in chunk]
            seen = self.run([crop for crop, _, _ in close], min_score=self.config.min_score)
            for (number, box), (_, corner, scale), faces in zip(chunk, close, seen, strict=True):
                placed = faces / _per_box(scale) + np.array([*corner, *corner, 0], np.float32)
                shift = np.abs(placed[:, :2] + placed[:, 2:4] - box[:2] - box[2:4]).max(axis=1, initial=0) / 2
                found[number].append(placed[shift < (box[2:4] - box[:2]).max()])
        return found

    def run(self, images: Sequence[Pixels], *, min_score: float) -> list[Boxes]:
        """The network on images of one padded size: faces of each above a score, in its own pixels, suppressed."""
        rows, columns = _padded(images[0])
        batch = np.zeros((len(images), 3, rows, columns), np.float32)
        for slot, image in zip(batch, images, strict=True):
            slot[:, : image.shape[0], : image.shape[1]] = image.transpose(2, 0, 1)
        offsets, scores = self._session.run(["boxes", "scores"], {"pixels": batch})
        anchors = anchor_boxes(rows, columns)
        found = []
        for offset, score in zip(offsets, scores, strict=True):
            likely = score >= min_score
            found.append(_best(np.column_stack([decode_boxes(anchors[likely], offset[likely]), score[likely]])))
        return found


def _padded(image: Pixels) -> tuple[int, int]:
    """Rows and columns that the network takes: multiples of its coarsest stride."""
    return math.ceil(image.shape[0] / 32) * 32, math.ceil(image.shape[1] / 32) * 32


def _of_one_size(tiles: Iterable[_Tile], max_pixels: int) -> Iterator[list[_Tile]]:
    """Batches of equal padded size, of `max_pixels` at most or of one tile; what is left over comes last."""
    waiting: dict[tuple[int, int], list[_Tile]] = defaultdict(list)
    for tile in tiles:
        size = _padded(tile.pixels)
        if waiting[size] and (len(waiting[size]) + 1) * math.prod(size) > max_pixels:
            yield waiting.pop(size)
        waiting[size].append(tile)
    yield from waiting.values()


def _per_box(scale: float) -> NDArray[np.float32]:
    return np.array([scale, scale, scale, scale, 1], np.float32)


def _scaled(pixels: Pixels, scale: float) -> Pixels:
    size = (max(1, round(pixels.shape[1] * scale)), max(1, round(pixels.shape[0] * scale)))
    return np.asarray(
        cv2.resize(pixels, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC), np.uint8
    )


def _tile_starts(side: int) -> list[int]:
    """Starts of tiles that cover `side`, each sharing at least the overlap with the next."""
    count = max(1, math.ceil((side - _TILE_OVERLAP) / (_TILE - _TILE_OVERLAP)))
    return [round(number * max(0, side - _TILE) / max(1, count - 1)) for number in range(count)]


def _close_up(pixels: Pixels, box: NDArray[np.float32]) -> tuple[Pixels, NDArray[np.float32], float]:
    """A square around a box, scaled to the second look's size: the crop, its corner in the picture, the scale."""
    side = max(4.0, 3 * float((box[2:4] - box[:2]).max()))
    scale = _SECOND_SIDE / side
    corner = (box[:2] + box[2:4]) / 2 - side / 2
    matrix = np.array([[scale, 0, -corner[0] * scale], [0, scale, -corner[1] * scale]], np.float64)
    crop = cv2.warpAffine(pixels, matrix, (_SECOND_SIDE, _SECOND_SIDE), flags=cv2.INTER_CUBIC)
    return np.asarray(crop, np.uint8), corner.astype(np.float32), scale


def _best(boxes: Boxes) -> Boxes:
    return boxes[suppress(boxes[:, :4], boxes[:, 4], max_overlap=_MAX_OVERLAP)].astype(np.float32)


@lru_cache(maxsize=64)
def anchor_boxes(height: int, width: int) -> NDArray[np.float32]:
    """Centre x, centre y and side of every anchor, [anchors, 3], in the order of the network's outputs."""
    levels = []
    for stride, sides in STRIDES_AND_SIDES:
        y, x = np.mgrid[0 : height // stride, 0 : width // stride]
        centres = (np.stack([x, y], axis=-1).reshape(-1, 1, 2) + 0.5) * stride
        grid = np.broadcast_to(np.array(sides, float)[None, :, None], (len(centres), len(sides), 1))
        levels.append(np.concatenate([np.repeat(centres, len(sides), axis=1), grid], axis=2).reshape(-1, 3))
    return np.concatenate(levels).astype(np.float32)


def decode_boxes(anchors: NDArray[np.float32], offsets: NDArray[np.float32]) -> NDArray[np.float32]:
    """Corners [n, 4] from anchors [n, 3] and the network's offsets [n, 4]: shift of the centre, log of the sides."""
    side = anchors[:, 2:]
    centres = anchors[:, :2] + offsets[:, :2] * _CENTRE_VARIANCE * side
    sides = side * np.exp(offsets[:, 2:] * _SIDE_VARIANCE)
    return np.concatenate([centres - sides / 2, centres + sides / 2], axis=1)
