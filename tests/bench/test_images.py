"""The benchmarks of decoding, hashing and NSFW run on tiny input, and their claims hold there."""

from pathlib import Path

import pytest

from bench import decode_once, hash, nsfw
from tasks.filters.nudenet import Nudenet


@pytest.mark.parametrize("kind", ["free", "models"])
def test_three_two_and_one_decode_end_in_the_same_verdicts(tmp_path: Path, kind: str) -> None:
    row = decode_once.measure(tmp_path, kind, count=6, side=200, copies=0.3, repeats=1)
    assert row["verdicts_equal"]
    assert row["dropped"] >= 2
    assert set(row["images_per_cpu_second"]) == {"three", "two", "one"}


def test_hash_and_decoder_rows_do_the_work_they_name() -> None:
    files = hash.jpegs(2)
    assert set(files) == {"500px", "1000px", "500px_noise"}
    for some in files.values():
        works = hash.from_jpeg(some) | hash.decoders(some)
        assert {"pca_hash", "imagehash_phash", "ours_simplejpeg", "opencv_reduced_2"} <= set(works)
        for count, work in works.values():
            work()
            assert count == 2


def test_the_nsfw_row_compares_equal_detections_and_the_gpu_row_needs_a_gpu() -> None:
    pictures = nsfw.photographs(4)
    assert nsfw.disagreements(Nudenet(), nsfw.peer(), pictures) == 0
    rates = nsfw.rates_of({"ours": lambda: Nudenet().detect(pictures)}, len(pictures), 1)
    assert rates["ours"] > 0
    assert nsfw.on_gpu(4, 1, 1) is None or nsfw.on_gpu(4, 1, 1) > 0  # type: ignore[operator]
