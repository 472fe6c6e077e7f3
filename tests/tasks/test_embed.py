"""Embeddings put images of one kind beside each other, keep a collection's columns, and are made once."""

from pathlib import Path

import numpy as np

from storage.images import encode_jpeg
from storage.layout import Layout
from storage.tables import read_table
from storage.vectors import Vectors
from tasks.collect import Collect, Collection, collect
from tasks.embed import Embed, embed
from tasks.encoders import Pixels
from tests.tasks.encoders.pictures import concepts, scenes
from tests.tasks.image_stages import downloaded


def test_neighbours_of_a_curated_source_in_the_pool_share_its_concept(layout: Layout, tmp_path: Path) -> None:
    pool = downloaded(layout, {f"{n:024x}": encode_jpeg(scenes()[n], quality=85) for n in range(84)}, parts=2)
    folder = tmp_path / "curated"
    folder.mkdir()
    for number in range(84, 96):  # one of each concept
        (folder / f"{number}.jpg").write_bytes(encode_jpeg(scenes()[number], quality=85))
    sources = collect.fn("sources", [Collection(name="mixed", path=str(folder))], Collect(), layout)
    embedded, asking = embed.fn(pool, Embed(), layout), embed.fn(sources, Embed(), layout, name="embed_sources")
    matrices = [Vectors(manifest.paths(".npy")) for manifest in (asking, embedded)]
    queries, images = (matrix.take(range(matrix.shape[0])).astype(np.float32) for matrix in matrices)
    nearest = (queries @ images.T).argmax(axis=1)
    assert (concepts()[nearest] == concepts()[84:]).mean() >= 0.75
    assert read_table(asking.paths(".parquet")[0])["source"].to_pylist() == ["mixed"] * 12


def test_the_encoder_decides_the_fingerprint_and_the_batch_does_not(layout: Layout) -> None:
    pool = downloaded(layout, {f"{n:024x}": encode_jpeg(scenes()[n], quality=85) for n in range(4)})
    first = embed.fn(pool, Embed(), layout)
    assert embed.fn(pool, Embed(batch_images=3), layout) == first
    assert embed.fn(pool, Embed(encoder=Pixels()), layout).fingerprint != first.fingerprint
