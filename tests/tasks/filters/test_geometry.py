"""Geometry: too small, too thin, nearly blank; each limit where the config puts it."""

import numpy as np
import pytest
from pydantic import TypeAdapter, ValidationError

from storage.images import Pixels
from tasks.filters import Faces, Filter, Geometry, Nsfw, Picture
from tests.tasks.filters.planted import backgrounds


def _verdict(pixels: Pixels, config: Geometry | None = None) -> str | None:
    (finding,) = (config or Geometry()).build().examine([Picture(pixels, pixels.shape[1], pixels.shape[0])])
    return finding.drop


def _noise(height: int, width: int, seed: int = 0) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)


@pytest.mark.parametrize(
    ("height", "width", "verdict"),
    [
        (63, 500, "too_small"),
        (64, 64, None),
        (64, 256, None),
        (64, 257, "extreme_aspect"),
        (1000, 200, "extreme_aspect"),
    ],
)
def test_sizes_are_dropped_just_beyond_their_limits(height: int, width: int, verdict: str | None) -> None:
    assert _verdict(_noise(height, width)) == verdict


def test_sizes_are_the_files_and_not_the_reduced_decodes() -> None:
    (finding,) = Geometry().build().examine([Picture(_noise(32, 50), 500, 320)])
    assert finding.drop is None


def test_blank_pictures_are_dropped_with_or_without_noise_and_specks() -> None:
    rng = np.random.default_rng(1)
    plain = np.full((300, 400, 3), (240, 240, 250), np.uint8)
    noisy = np.clip(plain + rng.normal(0, 4, plain.shape), 0, 255).astype(np.uint8)
    speck = plain.copy()
    speck[100:120, 100:120] = 0
    assert [_verdict(picture) for picture in (plain, noisy, speck)] == ["near_blank"] * 3


def test_pictures_with_content_are_kept() -> None:
    drawing = np.full((300, 400, 3), 255, np.uint8)
    drawing[80:160, 100:180] = (20, 60, 160)
    assert [_verdict(picture) for picture in (drawing, *backgrounds())] == [None] * 16


def test_raising_a_limit_never_keeps_more() -> None:
    pictures = [_noise(side, 3 * side) for side in (40, 70, 120)]
    kept = [
        sum(_verdict(one, Geometry(min_side_pixels=side)) is None for one in pictures) for side in (1, 60, 100, 500)
    ]
    assert kept == [3, 2, 1, 0]


def test_the_kind_chooses_the_filter_and_unknown_keys_are_refused() -> None:
    union: TypeAdapter[Filter] = TypeAdapter(Filter)
    for kind, expected in (("geometry", Geometry), ("nudenet", Nsfw), ("faces", Faces)):
        assert isinstance(union.validate_python({"kind": kind}), expected)
    with pytest.raises(ValidationError):
        union.validate_python({"kind": "geometry", "min_size": 3})
