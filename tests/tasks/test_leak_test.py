"""A benchmark's own images, recompressed, are found in it, every one; where they would not be, the stage fails."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from storage.images import decode_rgb, encode_jpeg
from storage.layout import Layout
from storage.manifest import Manifest
from storage.tables import read_table
from tasks.collect import Collect, Collection, collect
from tasks.describe import Describe, describe
from tasks.encoders import Textures
from tasks.leaks.links import LinkJoin
from tasks.leaks.references import References
from tasks.leaks.self_test import LeakTest, LeakTestFailed, Recompress
from tasks.link_benchmark import link_benchmark
from tasks.relative_dedup import RelativeDedup
from tasks.stage import PartsFailed
from tests.tasks.encoders.pictures import scenes
from tests.tasks.image_stages import downloaded

NUM_POOL, NUM_BENCHMARK = 40, 14


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Layout:
    """One run folder for all tests here: describing is most of the work."""
    return Layout(str(tmp_path_factory.mktemp("leak-test") / "run"))


@pytest.fixture(scope="module")
def pool(layout: Layout) -> Manifest:
    images = {f"{number:024x}": encode_jpeg(scenes()[number], quality=90) for number in range(NUM_POOL)}
    return describe.fn(downloaded(layout, images), Describe(), layout)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("benchmark")
    for number, picture in enumerate(scenes()[NUM_POOL : NUM_POOL + NUM_BENCHMARK]):
        (root / f"class-{number % 2}").mkdir(exist_ok=True)
        Image.fromarray(picture).save(root / f"class-{number % 2}" / f"{number}.png")
    return root


@pytest.fixture(scope="module")
def references(pool: Manifest, folder: Path, layout: Layout) -> Manifest:
    collections = [Collection(name="scenes", path=str(folder), split="test")]
    images = collect.fn("collect_benchmarks", collections, Collect(images_per_part=5), layout)
    return describe.fn(images, Describe(), layout, "describe_benchmarks", pool)


@pytest.mark.parametrize("join", [LinkJoin(), LinkJoin(exact_up_to=0, recall_sample=3)])
def test_recompressed_images_are_found_all_of_them(
    join: LinkJoin, pool: Manifest, references: Manifest, layout: Layout
) -> None:
    config = RelativeDedup(self_test=LeakTest(images=None, quality=60), join=join)
    facts = link_benchmark.fn(pool, references, config, layout, Describe()).facts["self_test"]
    assert (facts["tested"], facts["quality"]) == (NUM_BENCHMARK, 60)
    assert 0.8 < facts["least_similarity"] < 1


def test_a_sample_is_as_large_as_asked_for(pool: Manifest, references: Manifest, layout: Layout) -> None:
    config = RelativeDedup(self_test=LeakTest(images=6))
    assert link_benchmark.fn(pool, references, config, layout, Describe()).facts["self_test"]["tested"] == 6
    assert link_benchmark.fn(pool, references, RelativeDedup(), layout, Describe()).facts["self_test"]["tested"] == 14
    assert "self_test" not in link_benchmark.fn(pool, references, RelativeDedup(self_test=None), layout).facts


def test_copies_that_are_not_found_fail_the_stage_with_their_names(
    pool: Manifest, references: Manifest, layout: Layout
) -> None:
    config = RelativeDedup(threshold=0.9999, self_test=LeakTest(quality=20))
    with pytest.raises(LeakTestFailed, match=r"Lower relative_dedup\.threshold") as failure:
        link_benchmark.fn(pool, references, config, layout, Describe())
    ids = [row["id"] for path in references.paths(".parquet") for row in read_table(path).to_pylist()]
    assert sum(name in str(failure.value) for name in ids) == 5
    assert "scenes/test: 14 of 14" in str(failure.value)
    with pytest.raises(LeakTestFailed):  # run again: what was found stands
        link_benchmark.fn(pool, references, config, layout, Describe())


def test_a_copy_goes_the_way_of_the_pools_images(references: Manifest, folder: Path, layout: Layout) -> None:
    """Encoded as JPEG, decoded, described and whitened as a pool's image with these bytes would be."""
    how = Recompress.of(References(references), Describe(), layout.root, 75)
    original = (folder / "class-0/0.png").read_bytes()
    copy = encode_jpeg(decode_rgb(original), quality=75)
    images = downloaded(layout, {f"{7:024x}": copy})
    (path,) = describe.fn(images, Describe(), layout, "describe_copy", references).paths(".npy")
    assert np.array_equal(how.vectors([original]), np.load(path))


def test_an_encoder_that_is_missing_or_another_is_said(pool: Manifest, references: Manifest, layout: Layout) -> None:
    config = RelativeDedup(self_test=LeakTest(quality=33))
    with pytest.raises(ValueError, match=r"scenes/test needs the encoder: give link_benchmark the `describe` config"):
        link_benchmark.fn(pool, references, config, layout)
    with pytest.raises(ValueError, match=r"'pixels'.*is to use.*'textures'.*that described the benchmarks"):
        link_benchmark.fn(pool, references, config, layout, Describe(encoder=Textures()))


def test_a_benchmark_whose_files_were_taken_away_is_one_clear_error(
    pool: Manifest, folder: Path, layout: Layout, tmp_path: Path
) -> None:
    (tmp_path / "gone").mkdir()
    (tmp_path / "gone/0.png").write_bytes((folder / "class-0/0.png").read_bytes())
    images = collect.fn("collect_benchmarks", [Collection(name="gone", path=str(tmp_path / "gone"))], Collect(), layout)
    references = describe.fn(images, Describe(), layout, "describe_benchmarks", pool)
    (tmp_path / "gone/0.png").unlink()
    with pytest.raises(PartsFailed, match=r"selftest.*cannot reach .*gone/0\.png"):
        link_benchmark.fn(pool, references, RelativeDedup(), layout, Describe())
