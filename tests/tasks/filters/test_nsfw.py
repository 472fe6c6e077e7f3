"""NSFW: our batched run of NudeNet's network gives its own detections; the rule is the config's."""

import json
from importlib import util

import cv2
import numpy as np
import pytest
from nudenet import NudeDetector
from pydantic import ValidationError
from skimage import data as photographs

from storage.images import Pixels
from tasks.filters import Nsfw, Picture
from tasks.filters.base import FilterUnavailable
from tasks.filters.nudenet import Detection, Nudenet
from tests.tasks.filters.planted import backgrounds, planted_faces

ASTRONAUT = np.asarray(photographs.astronaut(), np.uint8)


def _pictures() -> list[Pixels]:
    """Twelve pictures of several sizes and shapes, with and without people."""
    shapes = [
        np.asarray(cv2.resize(ASTRONAUT, size), np.uint8) for size in ((320, 320), (200, 333), (900, 411), (77, 640))
    ]
    faces = [picture for picture, _ in list(planted_faces(150))[:5]]
    return [ASTRONAUT, *shapes, *faces, *backgrounds()[:2]]


def test_detections_equal_nudenets_own() -> None:
    pictures = _pictures()
    theirs = NudeDetector()
    seen = 0
    for picture, ours in zip(pictures, Nudenet().detect(pictures), strict=True):
        expected = theirs.detect(picture)
        assert [found.label for found in ours] == [found["class"] for found in expected]
        for found, other in zip(ours, expected, strict=True):
            left, top, right, bottom = found.box
            assert found.score == pytest.approx(other["score"], abs=1e-4)
            assert np.abs(np.array([left, top, right - left, bottom - top]) - other["box"]).max() <= 1.01  # they cut
        seen += len(ours)
    assert seen >= 5


def test_a_batch_gives_what_single_pictures_give() -> None:
    pictures = _pictures()
    network = Nudenet()
    for found, alone in zip(network.detect(pictures), (network.detect([one])[0] for one in pictures), strict=True):
        assert [seen.label for seen in found] == [seen.label for seen in alone]
        assert np.allclose([seen.score for seen in found], [seen.score for seen in alone], atol=1e-4)


def test_the_rule_drops_a_named_class_at_its_threshold_and_stores_all_that_was_seen() -> None:
    (detection,) = [seen for seen in Nudenet().detect([ASTRONAUT])[0] if seen.label == "FACE_FEMALE"]
    verdicts = {}
    for threshold in (0.25, detection.score - 0.001, detection.score + 0.001, 1.0):
        rule = Nsfw(thresholds={"FACE_FEMALE": max(0.25, threshold)}).build()
        (finding,) = rule.examine([Picture(ASTRONAUT, 512, 512)])
        verdicts[threshold] = finding.drop
        assert finding.value == pytest.approx(detection.score, abs=1e-5)
        labels = [label for label, _, _ in json.loads(finding.columns["nsfw_detections"])]
        assert "FACE_FEMALE" in labels
    assert list(verdicts.values()) == ["nsfw", "nsfw", None, None]


def test_what_covers_too_little_of_the_picture_is_stored_and_does_not_count() -> None:
    (detection,) = [seen for seen in Nudenet().detect([ASTRONAUT])[0] if seen.label == "FACE_FEMALE"]
    left, top, right, bottom = detection.box
    share = (right - left) * (bottom - top) / 512**2
    for smallest, drop in ((0.0, "nsfw"), (0.99 * share, "nsfw"), (1.01 * share, None)):
        rule = Nsfw(thresholds={"FACE_FEMALE": 0.25}, min_area_share=smallest).build()
        (finding,) = rule.examine([Picture(ASTRONAUT, 512, 512)])
        assert finding.drop == drop
        assert "FACE_FEMALE" in finding.columns["nsfw_detections"]


def test_boxes_of_a_reduced_decode_are_told_in_the_files_own_pixels() -> None:
    whole, half = (
        Nsfw().build().examine([Picture(pixels, 512, 512)])[0] for pixels in (ASTRONAUT, ASTRONAUT[::2, ::2])
    )
    boxes = [np.array(json.loads(finding.columns["nsfw_detections"])[0][2]) for finding in (whole, half)]
    assert np.abs(boxes[0] - boxes[1]).max() < 40


def test_ordinary_pictures_pass_the_default_rule() -> None:
    pictures = [*backgrounds(), ASTRONAUT]
    findings = Nsfw().build().examine([Picture(pixels, pixels.shape[1], pixels.shape[0]) for pixels in pictures])
    assert [finding.drop for finding in findings] == [None] * len(pictures)


def test_without_the_package_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.filters.nudenet.find_spec", lambda name: util.find_spec("no_such_package_at_all"))
    with pytest.raises(FilterUnavailable, match=r"AGPL-3\.0.*pip install '\.\[nsfw\]'"):
        Nsfw().build()


def test_unknown_classes_and_impossible_thresholds_are_refused() -> None:
    with pytest.raises(ValidationError, match="FACE_ROBOT"):
        Nsfw.model_validate({"thresholds": {"FACE_ROBOT": 0.5}})
    with pytest.raises(ValidationError, match=r"greater than or equal to 0\.25"):
        Nsfw(thresholds={"FACE_MALE": 0.1})


def test_detection_boxes_lie_within_the_picture() -> None:
    found: list[Detection] = [seen for one in Nudenet().detect(_pictures()[:1]) for seen in one]
    for seen in found:
        assert 0 <= seen.box[0] < seen.box[2] <= 512
        assert 0 <= seen.box[1] < seen.box[3] <= 512
