"""The descriptor that the package carries: its file, its laws, and that training has made it better than `pixels`."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter

from bench.copy_descriptor import Search
from bench.pixels_descriptor import scene
from bench.sscd_small import Training, learned_whitening, measured_views, projection
from tasks.encoders import Encoder, EncoderUnavailable, Pixels, SscdSmall, sscd_small
from tests.tasks.encoders.pictures import scenes


def test_it_finds_more_strong_copies_than_pixels_and_needs_no_pool_for_the_thresholds() -> None:
    with ThreadPoolExecutor(1) as here:
        search = Search([scene(number) for number in range(48)], 3, here)
    ours, theirs = (search.figures(search.described(plug.build())) for plug in (SscdSmall(), Pixels()))
    assert ours["strong"]["micro_ap"] > theirs["strong"]["micro_ap"] + 0.03
    assert ours["planted"]["recall@1"] == 1
    assert ours["planted"]["recall above 0.6"] > 0.8
    assert ours["planted"]["false pairs above 0.6"] == 0


def test_vectors_are_unit_and_do_not_depend_on_the_batch() -> None:
    encoder = TypeAdapter(Encoder).validate_python({"kind": "sscd_small"}).build()
    together = encoder.encode(scenes()[:4])
    assert together.shape == (4, encoder.dim)
    assert np.allclose(np.linalg.norm(together, axis=1), 1, atol=1e-5)
    assert np.array_equal(together[3:], encoder.encode(scenes()[3:4]))
    assert encoder.encode([]).shape == (0, encoder.dim)


def test_a_mirrored_picture_is_the_same_picture() -> None:
    encoder, picture = SscdSmall().build(), scenes()[0]
    one, other = encoder.encode([picture, np.ascontiguousarray(picture[:, ::-1])])
    assert one @ other > 0.8


def test_the_shipped_file_is_small_and_a_changed_one_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert sscd_small.PATH.stat().st_size < 5e6
    changed = tmp_path / "sscd_small.safetensors"
    changed.write_bytes(sscd_small.PATH.read_bytes()[:-1] + b"x")
    monkeypatch.setattr(sscd_small, "PATH", changed)
    sscd_small.load_projection.cache_clear()
    with pytest.raises(EncoderUnavailable, match="install the package again"):
        SscdSmall().build()
    sscd_small.load_projection.cache_clear()


def test_learned_whitening_makes_differences_of_copies_white() -> None:
    random = torch.Generator().manual_seed(0)
    pictures = torch.randn(500, 1, 6, generator=random) * torch.tensor([9.0, 5.0, 3.0, 1.0, 1.0, 1.0])
    views = pictures + torch.randn(500, 3, 6, generator=random) @ torch.randn(6, 6, generator=random)
    found = views @ learned_whitening(views, Training(dim=6, shrinkage=0.0))
    differences = torch.cat([found[:, i] - found[:, j] for i in range(3) for j in range(i)])
    torch.testing.assert_close(differences.T @ differences / len(differences), torch.eye(6), rtol=0, atol=1e-3)
    spread = found[:, 0].var(0)
    assert (spread.diff() <= 1e-3).all()  # the first tell pictures apart best


def test_training_repeats_itself_and_sets_the_scale() -> None:
    settings = Training(scenes=12, leaves=2, dim=6, components=16, steps=2, batch_images=8)
    views = measured_views(settings)
    one, other = projection(views, settings), projection(views, settings)
    assert views.shape[:2] == (14, 3)
    assert np.array_equal(one.matrix, other.matrix)
    assert one.out_dim == 6 + (one.offset > 0)
