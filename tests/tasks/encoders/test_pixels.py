"""The weight-free encoders: copies are near, others far; pictures of one kind are neighbours."""

from functools import cache

import numpy as np
import pytest

from examples.sample_web.plants import COPY_KINDS
from tasks.algorithms.whitening import Whitening, fit_among_copies
from tasks.encoders import Pixels, Textures
from tasks.encoders.pixel_codebook import load_codebook, make_codebook
from tasks.encoders.pixel_features import Codebook, layout, mirror_permutation, trim_frame
from tests.tasks.encoders.pictures import concepts, copies, scenes

ENCODERS = [Pixels(), Textures()]


@cache
def whitened_scenes() -> tuple[Whitening, np.ndarray]:
    raw = Pixels().build().encode(scenes())
    whitening = fit_among_copies(raw, dim=512, shrinkage=0.1, chance=0.45)
    return whitening, whitening(raw)


@pytest.mark.parametrize("kind", COPY_KINDS)
def test_a_copy_is_nearer_to_its_original_than_any_other_scene_is(kind: str) -> None:
    whitening, originals = whitened_scenes()
    found = whitening(Pixels().build().encode(copies(kind))) @ originals.T
    own = found[np.arange(len(found)), np.arange(len(found))].copy()
    found[np.arange(len(found)), np.arange(len(found))] = -1
    assert (own > found.max(axis=1)).mean() >= 0.95
    assert np.median(own) > 0.6


def test_unrelated_scenes_lie_below_the_benchmarks_threshold() -> None:
    _, originals = whitened_scenes()
    pairs = (originals @ originals.T)[concepts()[:, None] != concepts()]
    assert (
        pairs > 0.45
    ).mean() < 0.003  # 96 scenes leave but 48 dimensions: bench/pixels_descriptor.py has the figures


@pytest.mark.parametrize("plug", ENCODERS, ids=lambda plug: plug.kind)
def test_vectors_are_unit_and_do_not_depend_on_the_batch(plug: Pixels | Textures) -> None:
    encoder = plug.build()
    together = encoder.encode(scenes()[:5])
    assert together.shape == (5, encoder.dim)
    assert np.allclose(np.linalg.norm(together, axis=1), 1, atol=1e-5)
    assert np.array_equal(together[3:4], encoder.encode(scenes()[3:4]))
    assert encoder.encode([]).shape == (0, encoder.dim)


@pytest.mark.parametrize("plug", ENCODERS, ids=lambda plug: plug.kind)
@pytest.mark.parametrize("shape", [(1, 1), (3, 700), (700, 3), (16, 16)])
def test_no_shape_of_picture_is_too_odd(plug: Pixels | Textures, shape: tuple[int, int]) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    for image in (picture, np.full_like(picture, 200)):
        assert np.isfinite(plug.build().encode([image])).all()


def test_a_mirror_image_has_the_same_layout_exactly() -> None:
    picture = scenes()[3][:, :192]
    assert np.allclose(layout(picture), layout(np.ascontiguousarray(picture[:, ::-1])), atol=1e-5)


def test_a_frame_is_trimmed_to_the_pixel_and_a_picture_without_one_is_left_alone() -> None:
    picture = scenes()[0]
    framed = np.full((220, 290, 3), (255, 250, 240), dtype=np.uint8)
    framed[20:200, 30:270] = picture
    assert np.array_equal(trim_frame(framed), picture)
    assert np.array_equal(trim_frame(picture), picture)


def test_a_blank_picture_keeps_its_middle() -> None:
    assert trim_frame(np.zeros((40, 60, 3), dtype=np.uint8)).shape == (20, 30, 3)


@pytest.mark.parametrize("codebook", [load_codebook(), make_codebook(num_pictures=5, num_words=8, dim=12)])
def test_a_codebook_mirrors_itself(codebook: Codebook) -> None:
    half = len(codebook.words) // 2
    assert np.allclose(codebook.words[half:], codebook.words[:half] * codebook.signs)
    mirrored = codebook.directions[mirror_permutation()]
    assert np.abs(mirrored - codebook.directions * codebook.signs).max() < 1e-4
    assert np.allclose(codebook.mean[mirror_permutation()], codebook.mean, atol=1e-6)


def test_the_carried_codebook_is_of_the_pictures_it_is_said_to_be_of() -> None:
    few, carried = make_codebook(num_pictures=12, num_words=2), load_codebook()
    assert np.abs(few.mean - carried.mean).max() < 0.02  # means of 12 and of 150 pictures
    overlap = np.linalg.norm(few.directions[:, :6].T @ carried.directions[:, :10], axis=1)
    assert overlap.min() > 0.9


def test_neighbours_by_texture_share_the_concept() -> None:
    vectors = Textures().build().encode(scenes())
    similarity = vectors @ vectors.T
    np.fill_diagonal(similarity, -1)
    assert (concepts()[similarity.argmax(axis=1)] == concepts()).mean() > 0.75  # 8 scenes of a concept; chance is 0.08
