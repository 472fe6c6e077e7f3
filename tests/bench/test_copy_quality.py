"""The copies that bench.download compares are of one size and one quality."""

from pathlib import Path

from bench.copy_quality import copy_quality
from bench.download import make_pictures
from bench.download_ours import COPIES
from storage.images import probe
from tasks.packing.images import Row


def test_our_copies_have_the_peers_size_and_are_as_near_to_their_pictures(tmp_path: Path) -> None:
    make_pictures(tmp_path / "pictures", 3)
    files = [path.read_bytes() for path in sorted((tmp_path / "pictures").glob("*.jpg"))]
    row = Row(0, "", "", "", 512, 384, "JPEG", "", 0, len(files[0]), "{}")
    copy = probe(COPIES.encode(files[0], row))
    assert (copy.format, copy.width, copy.height) == ("JPEG", 341, 256)
    found = copy_quality(files)
    for truth in ("area", "lanczos"):
        assert abs(found["ours"][truth] - found["img2dataset"][truth]) < 1
        assert found["ours"][truth] > 30
