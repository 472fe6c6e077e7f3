"""The benchmarks of extraction compare like with like, and their results hold what the issue's rows ask."""

import argparse
import json
import sys
from pathlib import Path

import pytest

from bench import crawl_peers, wat
from bench import extract as bench_extract
from bench.crawl_peer_run import fastwarc_selectolax
from bench.crawl_peers import alternated, page_files, warc_records, wat_records, write_records
from bench.extract import WANTED, ours, policy, speeds


@pytest.fixture
def pages(tmp_path: Path) -> Path:
    folder = tmp_path / "pages"
    folder.mkdir()
    for number in range(20):
        images = "".join(f"<img src=image{number}-{one}.png alt='Text {one}'>" for one in range(number % 4))
        (folder / f"{number}.html").write_text(f"<html><a href=x.html>x</a><p>{'text ' * 300}{images}</html>")
    return folder


def test_where_a_page_names_its_images_plainly_all_find_as_many(tmp_path: Path, pages: Path) -> None:
    files = page_files(tmp_path, pages)
    write_records(tmp_path / "a.warc.gz", warc_records(files))
    write_records(tmp_path / "a.warc.wat.gz", wat_records(files))
    found = ours(str(tmp_path / "a.warc.gz"))
    assert (found["rows"], found["pages"]) == (30, 20)
    assert fastwarc_selectolax(str(tmp_path / "a.warc.gz")) == 30
    assert ours(str(tmp_path / "a.warc.wat.gz"))["rows"] == 30


def test_the_results_say_what_the_issue_asks(
    tmp_path: Path, pages: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every process is replaced by a call, the peers (which are not installed here) by the one that is."""

    def in_process(python: Path | str, arguments: list[str]) -> dict[str, object]:
        path = arguments[-1]
        return ours(path) if "-m" in arguments else {"rows": 1, "cpu_seconds": 1.0}

    monkeypatch.setattr(bench_extract, "in_process", in_process)
    monkeypatch.setattr(wat, "in_process", in_process)
    options = argparse.Namespace(
        folder=tmp_path, pages=pages, num_pages=20, repeats=1, peer_python=Path(sys.executable)
    )
    found = speeds(options)
    assert set(found["times_the_peer"]) == set(WANTED) == {"fastwarc_selectolax", "warcio_lxml"}
    assert found["sample"]["pages"] == 20
    saved: dict[str, object] = {}
    monkeypatch.setattr(wat, "save", lambda name, content: saved.update(content, name=name))
    monkeypatch.setattr(sys, "argv", ["wat", str(tmp_path), "--pages", str(pages), "--peer-python", "x", "--repeats=1"])
    wat.main()
    assert {"machine", "sample", "runs", "times_the_peer", "wanted"} <= set(saved)
    assert "ours / cc2dataset" in capsys.readouterr().out


def test_a_policy_over_urls_is_measured() -> None:
    found = policy(2000)
    assert found["urls"] == 2000
    assert 1000 < found["kept"] < 2000
    assert found["urls_per_cpu_second"] > 0
    json.dumps(found)


def test_a_run_takes_its_turn_with_the_others() -> None:
    order: list[str] = []

    def run(name: str, seconds: float) -> dict[str, object]:
        order.append(name)
        return {"rows": 3, "cpu_seconds": seconds}

    found = alternated({"a": lambda: run("a", 2.0), "b": lambda: run("b", 4.0)}, pages=8, repeats=2)
    assert order == ["a", "b", "a", "b"]
    assert [one["pages_per_cpu_second"] for one in found.values()] == [4, 2]


def test_a_peer_environment_that_is_given_is_taken_as_it_is(tmp_path: Path) -> None:
    assert crawl_peers.peer_python(Path("/given"), tmp_path, ["x"]) == Path("/given")
    with pytest.raises(FileNotFoundError, match="give --pages"):
        page_files(tmp_path, tmp_path)
