"""The download's benchmark counts what it says: ours has every image of a small web, and ratios are of medians."""

import sys
from pathlib import Path

import pytest

from bench import download
from bench.download import make_pictures, measure, ours_asked, serving, summary, urls_of


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    make_pictures(tmp_path / "pictures", 3)
    return tmp_path / "pictures"


def asked(folder: Path, row: str, port: int, images: int) -> dict[str, object]:
    listed = folder / "urls.txt"
    listed.write_text("\n".join(urls_of(row, images, port)))
    mode = "copies" if row == "copies" else "originals"
    return {"urls": str(listed), "folder": str(folder / "out"), "urls_per_part": 8, "mode": mode,
            "config": ours_asked(row)}  # fmt: skip


def test_ours_has_every_image_and_a_copy_of_each(tmp_path: Path, pictures: Path) -> None:
    with serving(pictures) as port:
        found = measure([sys.executable, "-m", "bench.download_ours"], asked(tmp_path, "copies", port, 12))
    assert (found["images"], found["ended"]) == (12, True)
    assert found["cpu_seconds"] > 0
    assert {path.name for path in (tmp_path / "out").glob("*.copies.tar")} == {
        f"part-0000{number}.copies.tar" for number in (0, 1)
    }


def test_what_does_not_end_is_stopped_and_said(tmp_path: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "_GIVE_UP_SECONDS", 1)
    endless = [sys.executable, "-c", "import threading; threading.Event().wait()"]
    with serving(pictures) as port:
        found = measure(endless, asked(tmp_path, "hosts", port, 2))
    assert found == {"ended": False, "wall_seconds": 1}


def test_ratios_are_of_medians_by_processor_or_by_the_clock() -> None:
    ours = [{"images": 100, "cpu_seconds": cpu, "wall_seconds": 1.0, "ended": True} for cpu in (1.0, 0.5, 2.0)]
    peer = [{"images": 100, "cpu_seconds": 8.0, "wall_seconds": 5.0, "ended": True}, {"ended": False}]
    originals = summary("originals", {"ours": ours, "img2dataset": peer})
    assert (originals["times"], originals["times_the_issues_722"]) == (8.0, 0.14)
    assert summary("hosts", {"ours": ours, "img2dataset": peer})["times"] == 5.0
    assert summary("hosts", {"ours": ours, "img2dataset": [{"ended": False}]})["times"] is None
