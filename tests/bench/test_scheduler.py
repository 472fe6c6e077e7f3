"""The scheduler's benchmark: growth is per part, sizes measured before stay, Prefect's rows are counted."""

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from bench import scheduler
from bench.scheduler import earlier_rows, growth, prefect_rows, row_line


def row(parts: int, milliseconds: float, scheduler_peak: float, flow_peak: float, tasks: int = 3) -> dict:
    return {
        "parts": parts,
        "milliseconds_per_part": milliseconds,
        "milliseconds_per_part_resumed": milliseconds,
        "seconds_to_publish": 1.0,
        "seconds_reused": 1.0,
        "manifest_megabytes": 1.0,
        "processor_milliseconds_per_part": {"scheduler": 1.0},
        "peak_megabytes": {"scheduler": scheduler_peak, "flow": flow_peak},
        "prefect": {"flow_run": 3, "task_run": tasks, "artifact": 6, "log": 12, "kilobytes": 1300},
    }


def test_growth_is_what_a_part_more_costs() -> None:
    found = growth(row(1_000, 8.0, 160, 250), row(101_000, 6.0, 160, 750))
    assert found["bytes_per_part_of_peak"] == {"scheduler": 0, "flow": 5000}
    assert found["times_milliseconds_per_part"] == 0.75
    assert found["prefect_rows_more"] == {"flow_run": 0, "task_run": 0, "artifact": 0, "log": 0}
    assert growth(row(1, 8, 160, 250), row(2, 8, 160, 250, tasks=9))["prefect_rows_more"]["task_run"] == 6


def test_a_size_measured_again_replaces_itself_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scheduler, "RESULTS", tmp_path)
    assert earlier_rows(5) == []
    rows = [row(1_000, 8, 160, 250), row(10_000, 7, 160, 290)]
    (tmp_path / "scheduler.json").write_text(json.dumps({"runs": rows}))
    assert earlier_rows(1_000) == rows[1:]
    assert earlier_rows(120_000) == rows


def test_prefects_rows_are_counted_in_its_database(tmp_path: Path) -> None:
    path = tmp_path / "prefect.db"
    with closing(sqlite3.connect(path)) as connection:
        for number, name in enumerate(("flow_run", "task_run", "artifact", "log")):
            connection.execute(f"CREATE TABLE {name} (id INTEGER)")
            connection.executemany(f"INSERT INTO {name} VALUES (?)", [(n,) for n in range(number)])
        connection.commit()
    found = prefect_rows(path)
    assert {name: found[name] for name in ("flow_run", "task_run", "artifact", "log")} == {
        "flow_run": 0,
        "task_run": 1,
        "artifact": 2,
        "log": 3,
    }


def test_the_line_that_a_person_reads_has_every_process() -> None:
    line = row_line(row(1_000, 8.0, 160, 250))
    assert "1000 parts: 8.00 ms a part" in line
    assert "scheduler 160, flow 250" in line
