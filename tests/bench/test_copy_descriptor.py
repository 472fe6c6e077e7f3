"""The descriptors' benchmark: it trains, finds planted copies, and its measures are those that it says."""

import json
from argparse import Namespace
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from bench.copy_descriptor import (
    PAIRS_PER_QUERY,
    Search,
    compare,
    encoder_of,
    leaf_picture,
    micro_average_precision,
    small_scene,
    train,
)
from bench.pixels_descriptor import measure, scene
from storage.images import decode_rgb
from tasks.encoders import Pixels


def test_a_descriptor_is_trained_and_looks_for_copies_beside_pixels(tmp_path: Path) -> None:
    tiny = ["data.batch_images=4", "augment.global_pixels=32", "model.image_size=32", "efficiency.num_workers=0"]
    given = Namespace(recipe="debug_sscd", steps=2, scenes=6, leaves=2, overrides=tiny)
    with ThreadPoolExecutor(1) as here:
        files, _ = train(given, tmp_path, here)
        search = Search([scene(number) for number in range(24)], 3, here)
    found = compare({"pixels": Pixels().build(), "after": encoder_of(files["after"])}, {"scenes": search})
    assert found.keys() == {"pixels", "after"}
    json.dumps(found)
    for figures in found.values():
        for place in ("scenes, raw", "scenes, whitened"):
            for group in ("planted", "strong"):
                numbers = figures[place][group]
                assert 0 <= numbers["recall at 0 false pairs"] <= numbers["recall at 10 false pairs"] <= 1
                assert numbers["recall above 0.6"] <= numbers["recall above 0.45"]
                assert numbers["micro_ap"] <= numbers["recall@1"] + 0.2
                assert numbers["unrelated pairs"] == 24 * 23 // 2 + 24 * 23
    assert found["pixels"]["scenes, raw"]["planted"]["recall@1"] > 0.9


def test_micro_average_precision_is_the_mean_of_the_precisions_at_true_pairs() -> None:
    random = np.random.default_rng(0)
    similarity, truth = random.random((7, 40)).astype(np.float32), random.integers(40, size=7)
    pairs = sorted(
        ((similarity[q, r], r == truth[q]) for q in range(7) for r in np.argsort(-similarity[q])[:PAIRS_PER_QUERY]),
        key=lambda pair: -pair[0],
    )
    precisions, hits = [], 0
    for rank, (_, is_true) in enumerate(pairs, start=1):
        hits += is_true
        if is_true:
            precisions.append(hits / rank)
    assert micro_average_precision(similarity, truth) == pytest.approx(sum(precisions) / 7)
    assert 0 < len(precisions) < 7  # some are beyond the pairs that count


def test_training_images_are_the_same_every_time_and_small() -> None:
    for make in (small_scene, leaf_picture):
        assert make(3) == make(3) != make(4)
        assert min(decode_rgb(make(3)).shape[:2]) == 208


def test_the_bench_of_pixels_finds_copies_of_all_kinds() -> None:
    found = measure(24, 2, dim=64, shrinkage=0.1, chance=0.45)
    assert found["unrelated"]["pairs"] == 24 * 23 // 2
    assert found["recall"].keys() == found["lowest_similarity"].keys() == found["strengths"].keys()
    assert np.mean([recall["0.45"] for recall in found["recall"].values()]) > 0.8
