"""Faces: the converted network is the published graph, planted faces are found, what is found is blurred."""

import hashlib
import json
import math
from importlib.resources import files
from pathlib import Path

import cv2
import numpy as np
import pytest
from skimage import data as photographs

from tasks.filters import Faces, Picture
from tasks.filters.blur import blur_boxes
from tasks.filters.faces import NudenetFaces
from tasks.filters.retinaface import (
    WEIGHTS,
    RetinaFace,
    RetinaFaceDetector,
    anchor_boxes,
    decode_boxes,
)
from tasks.filters.sessions import load_session
from tests.tasks.filters.planted import backgrounds, coverage, planted_faces


@pytest.fixture(scope="module")
def detector() -> RetinaFaceDetector:
    return RetinaFace().build()


def test_the_onnx_file_says_what_the_published_graph_says() -> None:
    """The reference was computed by tools/convert_retinaface.py from the TensorFlow graph, operation by operation."""
    reference = np.load(Path(__file__).with_name("retinaface_reference.npz"))
    session = load_session(str(files("tasks.filters") / "weights" / WEIGHTS))
    pixels = reference["pixels"].astype(np.float32).transpose(2, 0, 1)[None]
    boxes, scores = session.run(["boxes", "scores"], {"pixels": pixels})
    assert reference["scores"].max() > 0.99
    assert np.abs(scores[0] - reference["scores"]).max() < 2e-3  # float16 weights
    assert np.abs(boxes[0] - reference["boxes"]).max() < 0.03


def test_the_weights_are_the_ones_the_readme_names() -> None:
    folder = files("tasks.filters") / "weights"
    digest = hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()
    assert digest in (folder / "README.txt").read_text()


def test_anchors_stand_at_the_centres_of_their_cells() -> None:
    anchors = anchor_boxes(64, 96)
    assert anchors.shape == ((8 * 12 + 4 * 6 + 2 * 3) * 2, 3)
    slow = [
        ((column + 0.5) * stride, (row + 0.5) * stride, side)
        for stride, sides in ((8, (16, 32)), (16, (64, 128)), (32, (256, 512)))
        for row in range(64 // stride)
        for column in range(96 // stride)
        for side in sides
    ]
    assert np.array_equal(anchors, np.array(slow, np.float32))
    centred = decode_boxes(anchors[:1], np.zeros((1, 4), np.float32))
    assert centred.tolist() == [[-4, -4, 12, 12]]


@pytest.mark.parametrize("height", [24, 32, 48, 100, 180])
def test_every_planted_face_from_24_pixels_on_is_found(detector: RetinaFaceDetector, height: int) -> None:
    per_background = 2 if height == 24 else 1
    found = [coverage(detector.detect(picture), face) > 0.6 for picture, face in planted_faces(height, per_background)]
    assert sum(found) >= 0.99 * len(found)


def test_faces_are_found_in_tiles_and_across_their_seams(detector: RetinaFaceDetector) -> None:
    """A picture of 1,900 x 1,000 is cut into tiles; faces stand on the seams, one is as high as the picture."""
    large, face = next(planted_faces(180))
    canvas = np.full((1000, 1900, 3), 120, np.uint8)
    places = [(0, 0), (560, 640), (300, 1000), (640, 1400)]
    patch, box = _cut(large, face)
    for top, left in places:
        canvas[top : top + patch.shape[0], left : left + patch.shape[1]] = patch
    boxes = detector.detect(canvas)
    for top, left in places:
        assert coverage(boxes, box + np.array([left, top, left, top])) > 0.6
    huge = np.asarray(cv2.resize(patch, None, fx=4, fy=4, interpolation=cv2.INTER_CUBIC), np.uint8)
    assert coverage(detector.detect(huge), box * 4) > 0.6


def _cut(picture: np.ndarray, face: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    left, top, right, bottom = (int(side) for side in face)
    margin = 40
    left, top = max(0, left - margin), max(0, top - margin)
    return picture[top : bottom + margin, left : right + margin], face - np.array([left, top, left, top])


def test_pictures_looked_at_together_give_the_boxes_that_each_gives_alone(
    detector: RetinaFaceDetector, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of several sizes, one of them of several tiles; in batches as large as a GPU's, and tile by tile."""
    pictures = [picture for height in (24, 120) for picture, _ in list(planted_faces(height))[2:6]]
    pictures += [pictures[5][:300, :401], np.tile(pictures[6], (1, 3, 1))]
    alone = [detector.detect(picture) for picture in pictures]
    assert sum(len(boxes) for boxes in alone) > 8
    for pixels in (1 << 22, 1):
        monkeypatch.setattr(detector, "_run_pixels", pixels)
        for boxes, wanted in zip(detector.detect_all(pictures), alone, strict=True):
            assert boxes.shape == wanted.shape
            assert np.allclose(boxes, wanted, atol=1e-2)
    assert detector.detect_all([]) == []


def test_pictures_without_a_person_stay_as_they_are(detector: RetinaFaceDetector) -> None:
    assert sum(len(detector.detect(picture)) > 0 for picture in backgrounds()) <= 1


def test_the_defaults_are_for_recall_and_those_of_the_published_blur() -> None:
    assert (RetinaFace().min_score, RetinaFace().smallest_face_pixels) == (0.3, 24)
    assert (Faces().expand, Faces().blur) == (0.1, 0.1)


def test_a_lower_threshold_never_finds_fewer_faces() -> None:
    picture, _ = next(planted_faces(24))
    counts = [len(RetinaFace(min_score=score).build().detect(picture)) for score in (0.9, 0.3, 0.05)]
    assert counts == sorted(counts)


def test_blurred_faces_are_not_found_again_and_the_rest_is_untouched(detector: RetinaFaceDetector) -> None:
    faces = Faces().build()
    again = 0
    for height in (24, 120):
        for picture, face in planted_faces(height):
            (finding,) = faces.examine([Picture(picture, picture.shape[1], picture.shape[0])])
            assert finding.changed is not None
            again += coverage(detector.detect(finding.changed), face) > 0.4
            boxes = np.array(json.loads(finding.columns["faces"]))
            assert _share_changed(picture, finding.changed, face) > 0.99
            assert np.array_equal(_outside(picture, boxes), _outside(finding.changed, boxes))
    assert again == 0


def _share_changed(before: np.ndarray, after: np.ndarray, face: np.ndarray) -> float:
    """Of the face's pixels, those whose 3 x 3 neighbourhood the blur has changed."""
    left, top, right, bottom = (int(side) for side in face)
    changed = (before != after).any(axis=-1).astype(np.uint8)
    return float(cv2.dilate(changed, np.ones((3, 3)))[top:bottom, left:right].mean())


def _outside(pixels: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Pixels farther from every box than its growth and the mask's blur can reach."""
    longest = (boxes[:, 2:4] - boxes[:, :2]).max()
    reach = math.ceil(0.1 * longest + 4 * 0.1 * longest) + 2
    far = np.ones(pixels.shape[:2], bool)
    for left, top, right, bottom in boxes[:, :4]:
        rows = slice(max(0, int(top) - reach), int(bottom) + reach + 1)
        far[rows, max(0, int(left) - reach) : int(right) + reach + 1] = False
    return pixels[far]


def test_blurring_the_region_equals_blurring_the_whole_picture() -> None:
    """The procedure of Yang et al. as they state it, on the whole picture."""
    picture = np.asarray(photographs.astronaut(), np.uint8)
    boxes = np.array([[177, 60, 270, 181, 1.0], [10, 300, 50, 330, 0.5], [-20, 480, 30, 600, 0.4]], np.float32)
    mask = np.zeros(picture.shape[:2], np.float64)
    for left, top, right, bottom in boxes[:, :4]:
        grow = 0.1 * max(right - left, bottom - top)
        rows = slice(max(0, math.floor(top - grow)), math.ceil(bottom + grow))
        mask[rows, max(0, math.floor(left - grow)) : math.ceil(right + grow)] = 1
    sigma = 0.1 * 121
    weight = cv2.GaussianBlur(mask, (0, 0), sigma, borderType=cv2.BORDER_REPLICATE)[..., None]
    soft = cv2.GaussianBlur(picture.astype(np.float64), (0, 0), sigma, borderType=cv2.BORDER_REPLICATE)
    slow = soft * weight + picture * (1 - weight)
    assert np.abs(blur_boxes(picture, boxes) - slow).max() < 1.0
    assert blur_boxes(picture, boxes[:0]) is picture


def test_nudenets_faces_are_a_second_detector() -> None:
    (box,) = NudenetFaces().build().detect_all([np.asarray(photographs.astronaut(), np.uint8)])[0]
    assert coverage(box[None], np.array([177, 82, 275, 180])) > 0.9
    assert box[4] > 0.6
