"""Vectors for the self-join's benchmarks: what the descriptors of a crawl look like to a join, seeded, any size.

Three things of a real pool decide what a join costs and what it misses, and all are here:

- Topics. Descriptors of one topic are not independent: cosines of 0.1 to 0.5 inside of a topic (each has its own),
  none above the threshold of 0.6 but by copies. Sizes fall as 1 / rank (Zipf; the largest holds about 2 % of the rows
  at a million), so that cells are uneven and the largest topics have to be cut by the quantiser where nothing cuts
  them by nature: what is left of a vector beyond its topic is isotropic in all dimensions, the hardest case for any
  quantiser or index (real descriptors have a falling spectrum).
- Copies: a quarter of the rows (LAION-2B: about a third, facts/curation.md 2.8; DINOv2's 1.3B -> 1.1B: 15 %). Groups
  have Zipf-like sizes up to 200, more than the 64 neighbours of a k-NN graph; a copy has a cosine of 0.6 to 0.98 to its
  original, evenly spread, so that many pairs lie close to the threshold. One copy in five is a collage: what is left
  beyond its original is another image of the pool, which draws it into the other image's cells.
- Noise: a tenth of the rows belong to no topic.
"""

import numpy as np
import numpy.typing as npt

DIM = 512
_BLOCK = 65_536
_TOPIC_ROWS = 150  # on average
_COPIES, _NOISE, _COLLAGES = 0.25, 0.1, 0.2
_MAX_GROUP = 200


def clustered_vectors(num_rows: int, *, dim: int = DIM, seed: int = 0) -> npt.NDArray[np.float16]:
    """Unit vectors [num_rows, dim] float16, in random order. Memory: 2 * dim bytes per row, and a block."""
    random = np.random.default_rng([seed, num_rows])
    originals_of, cosines = _copies(num_rows, random)
    vectors = np.empty((num_rows, dim), dtype=np.float16)
    places = random.permutation(num_rows)
    num_originals = num_rows - len(originals_of)
    topics = _topics(num_originals, random)
    centres = _unit(random.normal(size=(int(topics.max()) + 1, dim)).astype(np.float32))
    closeness = random.uniform(0.1, 0.5, size=(len(centres), 1)).astype(np.float32)
    for start in range(0, num_originals, _BLOCK):
        topic = topics[start : start + _BLOCK]
        share = np.where(topic[:, None] >= 0, closeness[topic], 0.0).astype(np.float32)
        own = _unit(random.standard_normal((len(topic), dim), dtype=np.float32))
        block = np.sqrt(share) * centres[topic] + np.sqrt(1 - share) * own
        vectors[places[start : start + len(block)]] = _unit(block)
    for start in range(0, len(originals_of), _BLOCK):
        original = vectors[places[originals_of[start : start + _BLOCK]]].astype(np.float32)
        cosine = cosines[start : start + _BLOCK, None]
        rest = random.standard_normal(original.shape, dtype=np.float32)
        collage = np.flatnonzero(random.random(len(rest)) < _COLLAGES)
        rest[collage] = vectors[places[random.integers(0, num_originals, len(collage))]]
        rest -= (rest * original).sum(axis=1, keepdims=True) * original
        block = cosine * original + np.sqrt(1 - cosine**2) * _unit(rest)
        vectors[places[num_originals + start : num_originals + start + len(block)]] = _unit(block)
    return vectors


def _copies(num_rows: int, random: np.random.Generator) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """For every copy its original and its cosine to it. Copies per original: Zipf with exponent 2, at most 199."""
    total = int(num_rows * _COPIES)
    groups = np.minimum(random.zipf(2.0, size=max(total, 1)), _MAX_GROUP - 1)
    num_groups = int(np.searchsorted(np.cumsum(groups), total)) + 1
    originals = random.choice(num_rows - total, size=min(num_groups, num_rows - total), replace=False)
    of = np.repeat(originals, groups[: len(originals)])[:total]
    return of, random.uniform(0.6, 0.98, size=len(of)).astype(np.float32)


def _topics(num_rows: int, random: np.random.Generator) -> npt.NDArray[np.int64]:
    """The topic of every row, -1 for noise: sizes fall as 1 / (rank + 5)."""
    shares = 1.0 / (np.arange(max(num_rows // _TOPIC_ROWS, 1)) + 5.0)
    topics = random.choice(len(shares), size=num_rows, p=shares / shares.sum())
    topics[random.random(num_rows) < _NOISE] = -1
    return topics


def _unit(block: npt.NDArray[np.floating]) -> npt.NDArray[np.float32]:
    return np.asarray(block / np.linalg.norm(block, axis=1, keepdims=True), dtype=np.float32)
