"""Parts on a cluster: every call's own result or error in its place, whatever finishes first and whoever dies."""

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks.news import News, Teller
from tasks.workers import Workers, listening, map_parts, workers

NUM = 120


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    with workers(Workers(num_workers=2, window=7)):
        yield


def squared(number: int) -> int:
    """Some take longer than those after them; every 29th fails."""
    sum(range(20_000 * (number % 5)))
    if number % 29 == 28:
        raise ValueError(f"part {number} is bad")
    return number * number


def dies_once(number: int, marker: str) -> int:
    """The process of the first call for 5 ends without a word."""
    if number == 5 and not Path(marker).exists():
        Path(marker).touch()
        os._exit(1)
    return number


def test_results_and_errors_stand_where_their_calls_stood(cluster: None) -> None:
    told: list[tuple[int, int, int | None]] = []
    results, failures = map_parts(squared, [(n,) for n in range(NUM)], on_done=lambda *said: told.append(said))
    assert [result for result in results if result is not None] == [n * n for n in range(NUM) if n % 29 != 28]
    assert {n: str(error) for n, error in failures.items()} == {n: f"part {n} is bad" for n in range(28, NUM, 29)}
    assert [said[:2] for said in told] == [(done, NUM) for done in range(1, NUM + 1)]
    assert sorted(said[2] for said in told if said[2] is not None) == [n * n for n in range(NUM) if n % 29 != 28]


def test_more_and_fewer_calls_than_the_window_are_all_made(cluster: None) -> None:
    for num in (0, 1, 6, 7, 8, 28):
        assert map_parts(squared, [(n,) for n in range(num)]) == ([n * n for n in range(num)], {})


def tells(number: int) -> int:
    with Teller(f"stage/part-{number:05d}", 2) as teller:
        teller._told = 0.0  # long ago
        teller.row("timeout")
    return number


def test_what_parts_tell_while_they_run_comes_from_the_workers(cluster: None) -> None:
    heard: list[News] = []
    came = threading.Event()

    def listen(news: News) -> None:
        heard.append(news)
        if len(heard) == 4:
            came.set()

    with listening("stage", listen):
        assert map_parts(tells, [(0,), (1,)]) == ([0, 1], {})
        assert came.wait(20)
    assert [news for news in heard if news.part == "part-00001"] == [
        News("part-00001", 0.5, 1, 0, {"timeout": 1}),
        News("part-00001", 1.0),
    ]


def test_a_part_whose_worker_dies_is_tried_once_more(cluster: None, tmp_path: Path) -> None:
    calls = [(n, str(tmp_path / "died")) for n in range(12)]
    assert map_parts(dies_once, calls) == (list(range(12)), {})
    assert (tmp_path / "died").exists()
