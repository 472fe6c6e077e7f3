"""Pictures of the sample web for the encoders' tests, made once."""

from functools import cache

import numpy as np

from examples.sample_web.concepts import CONCEPTS, render_scene
from examples.sample_web.plants import COPY_KINDS, transform


@cache
def scenes(num: int = 96) -> tuple[np.ndarray, ...]:
    """Scenes of all concepts in turn."""
    return tuple(render_scene(CONCEPTS[number % len(CONCEPTS)], number, (240, 180)) for number in range(num))


@cache
def copies(kind: str, num: int = 24) -> tuple[np.ndarray, ...]:
    """A copy of each of the first scenes."""
    return tuple(
        transform(kind, scenes()[number], np.random.default_rng([COPY_KINDS.index(kind), number]))
        for number in range(num)
    )


def concepts(num: int = 96) -> np.ndarray:
    """The number of each scene's concept."""
    return np.arange(num) % len(CONCEPTS)
