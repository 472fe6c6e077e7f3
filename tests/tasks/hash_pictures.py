"""Scenes, and copies of some of them, for the tests of hash deduplication."""

import numpy as np

from examples.sample_web.concepts import CONCEPTS, render_scene
from examples.sample_web.plants import transform
from storage.images import Pixels, encode_jpeg
from storage.manifest import Manifest
from tests.tasks.image_stages import rows_of


def scene(number: int, size: tuple[int, int] = (192, 144)) -> Pixels:
    """A picture that only this number has."""
    return render_scene(CONCEPTS[number % len(CONCEPTS)], number, size)


def hash_pictures() -> dict[str, bytes]:
    """60 different scenes; of the first 10 a second file with the same bytes, of the next 20 a recompressed one."""
    images = {f"{number:03d}-scene": encode_jpeg(scene(number), quality=90) for number in range(60)}
    images |= {f"{number:03d}-again": images[f"{number:03d}-scene"] for number in range(10)}
    rng = np.random.default_rng(5)
    for number in range(10, 30):
        copy = transform("recompress", scene(number), rng)
        images[f"{number:03d}-recompressed"] = encode_jpeg(copy, quality=90)
    return images


def copies_of(manifest: Manifest) -> dict[str, str]:
    """id -> keeper, of what hash deduplication dropped."""
    return {row["id"]: row["other"] for row in rows_of(manifest) if row["drop"]}
