"""Descriptors stand row by row beside their images, whitened once on the pool; embeddings likewise, unwhitened."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from storage.images import encode_jpeg
from storage.layout import Layout
from storage.manifest import Manifest
from storage.tables import read_table
from storage.vectors import Vectors
from tasks.collect import Collect, Collection, collect
from tasks.describe import Describe, Whiten, describe
from tasks.embed import Embed, embed
from tasks.encoders import Pixels, Textures
from tasks.encoding.parts import WHITENING, load_whitening
from tasks.pool import NoImages
from tests.tasks.encoders.pictures import copies, scenes
from tests.tasks.image_stages import downloaded
from tests.tasks.vector_stages import made_stage

NUM = 36


def broken(data: bytes) -> bytes:
    """The header stays whole, the picture does not."""
    return data[: len(data) // 3]


@pytest.fixture
def pool(layout: Layout) -> Manifest:
    """36 images in three parts, the second of which has a broken one."""
    encoded = [encode_jpeg(picture, quality=90) for picture in scenes()[:NUM]]
    encoded[20] = broken(encoded[20])
    return downloaded(layout, {f"{number:024x}": data for number, data in enumerate(encoded)}, parts=3)


def kept_ids(manifest: Manifest) -> list[int]:
    tables = [read_table(path).to_pylist() for path in manifest.paths(".parquet")]
    return [int(row["id"], 16) for table in tables for row in table if row["drop"] is None]


def vectors_of(manifest: Manifest) -> np.ndarray:
    vectors = Vectors(manifest.paths(".npy"))
    return vectors.take(range(vectors.shape[0])).astype(np.float32)


@pytest.mark.parametrize("config", [Embed(), Describe(whiten=None)])
def test_rows_and_vectors_go_together_and_an_undecodable_image_is_dropped_with_the_reason(
    pool: Manifest, layout: Layout, config: Any
) -> None:
    manifest = (embed if isinstance(config, Embed) else describe).fn(pool, config, layout)
    assert dict(manifest.drops) == {"truncated": 1}
    assert kept_ids(manifest) == [number for number in range(NUM) if number != 20]
    found = vectors_of(manifest)
    assert found.shape == (NUM - 1, manifest.facts["dim"])
    expected = config.encoder.build().encode([scenes()[0], scenes()[35]])
    own = np.einsum("nd,nd->n", found[[0, -1]], expected)
    others = found[1:-1] @ expected.T
    assert own.min() > 0.98  # JPEG stands between
    assert own.min() > others.max()


def test_what_is_described_does_not_depend_on_batches_threads_or_parts(layout: Layout, tmp_path: Path) -> None:
    images = {f"{number:024x}": encode_jpeg(picture, quality=90) for number, picture in enumerate(scenes()[:NUM])}
    found = []
    for parts, batch, threads in ((1, 64, 1), (4, 5, 3)):
        here = Layout(str(tmp_path / f"run-{parts}"))
        config = Describe(batch_images=batch, decode_threads=threads)
        manifest = describe.fn(downloaded(here, images, parts=parts), config, here)
        found.append(vectors_of(manifest))
    assert np.array_equal(found[0], found[1])


def test_whitening_is_fitted_once_on_the_pool_and_carried_to_the_benchmarks(
    pool: Manifest, layout: Layout, tmp_path: Path
) -> None:
    described = describe.fn(pool, Describe(), layout)
    folder = tmp_path / "benchmark"
    folder.mkdir()
    for number, picture in enumerate(copies("recompress")[:6]):
        (folder / f"{number}.jpg").write_bytes(encode_jpeg(picture, quality=80))
    benchmark = collect.fn("benchmarks", [Collection(name="scenes", path=str(folder))], Collect(), layout)
    references = describe.fn(benchmark, Describe(), layout, name="describe_benchmarks", fitted=described)
    whitening = load_whitening(described.file(WHITENING))
    raw = Pixels().build().encode([picture for number, picture in enumerate(scenes()[:NUM]) if number != 20])
    assert np.median((whitening(raw) * vectors_of(described)).sum(axis=1)) > 0.9
    similarity = vectors_of(references) @ vectors_of(described).T
    assert (similarity.argmax(axis=1) == np.arange(6)).all()
    assert similarity.max(axis=1).min() > 0.6
    assert read_table(references.paths(".parquet")[0])["source"].to_pylist() == ["scenes"] * 6
    assert Path(references.file(WHITENING)).read_bytes() == Path(described.file(WHITENING)).read_bytes()


def test_a_sample_of_the_pool_is_enough_to_fit_and_does_not_change_what_is_described(
    pool: Manifest, layout: Layout
) -> None:
    manifest = describe.fn(pool, Describe(whiten=Whiten(sample_images=18)), layout)
    assert kept_ids(manifest) == [number for number in range(NUM) if number != 20]
    dims = {load_whitening(manifest.file(WHITENING)).out_dim, manifest.facts["dim"], vectors_of(manifest).shape[1]}
    assert len(dims) == 1


def test_a_run_that_was_cut_ends_in_the_same_bytes(pool: Manifest, layout: Layout) -> None:
    whole = describe.fn(pool, Describe(), layout)
    before = {path: hashlib.sha256(Path(path).read_bytes()).hexdigest() for path in whole.paths(".npy")}
    directory = Path(whole.directory)
    (directory / "manifest.json").unlink()
    (directory / "part-00001.npy").unlink()
    again = describe.fn(pool, Describe(), layout)
    assert {path: hashlib.sha256(Path(path).read_bytes()).hexdigest() for path in again.paths(".npy")} == before
    assert again.files == whole.files


@pytest.mark.parametrize("sample_images", [18, 20_000])
def test_nothing_is_left_beside_what_the_manifest_names(pool: Manifest, layout: Layout, sample_images: int) -> None:
    manifest = describe.fn(pool, Describe(whiten=Whiten(sample_images=sample_images)), layout)
    left = {path.name for path in Path(manifest.directory).iterdir()}
    assert left == {entry.path for entry in manifest.files} | {"manifest.json", "timing.json"}


def test_every_part_is_the_index_of_its_vectors(pool: Manifest, layout: Layout) -> None:
    manifest = describe.fn(pool, Describe(), layout)
    for table, matrix in zip(manifest.paths(".parquet"), manifest.paths(".npy"), strict=True):
        rows = [row["id"] for row in read_table(table).to_pylist() if row["drop"] is None]
        alone = Describe(whiten=None).encoder.build().encode([scenes()[int(name, 16)] for name in rows])
        found = np.load(matrix).astype(np.float32)
        expected = load_whitening(manifest.file(WHITENING))(alone)
        assert np.median((found * expected).sum(axis=1)) > 0.9  # JPEG stands between


def test_no_image_is_an_error_that_says_so(layout: Layout) -> None:
    empty = made_stage(layout, "safety", [[]])
    for task, config in ((describe, Describe()), (embed, Embed(encoder=Textures()))):
        with pytest.raises(NoImages, match="no image is left of stage safety"):
            task.fn(empty, config, layout)  # type: ignore[arg-type]


def test_too_few_images_to_whiten_say_what_to_do(layout: Layout) -> None:
    few = downloaded(layout, {f"{n:024x}": encode_jpeg(scenes()[n], quality=90) for n in range(3)})
    with pytest.raises(NoImages, match=r"at least four vectors, got 3\. Take one .* or set whiten to null"):
        describe.fn(few, Describe(), layout)
