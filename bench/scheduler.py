"""What a stage of 120,000 parts asks of the scheduler and of the flow, when the parts themselves do nothing.

    python -m bench.scheduler [--parts 1000 10000 120000]

The real path: a Prefect flow with one stage task, `Stage.map`, `tasks.workers.map_parts`, a Dask scheduler and two
workers in processes of their own. A part leaves two empty files and its receipt, as any part does. Each size has a
fresh cluster, flow process, Prefect database and folder. Then the same stage again with its manifest gone (a killed
run that resumes), and once more with it (a finished stage that is reused). Files lie in memory where they can: a
receipt is synced to disk, which took more than everything else here (4.3 ms of a busy disk), and is no matter of the
scheduler's.
"""

import argparse
import json
import os
import sqlite3
import subprocess
import sys
import tempfile
from contextlib import closing
from pathlib import Path
from typing import Any

from bench.measure import RESULTS, machine, save

MEMORY = "/dev/shm"
_TABLES = ("flow_run", "task_run", "artifact", "log")


def main() -> None:
    """Run every size in a process of its own and save what they found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parts", type=int, nargs="+", default=[1_000, 10_000, 120_000])
    parser.add_argument(
        "--folder", default=MEMORY if Path(MEMORY).is_dir() else None, help="where the files are written"
    )
    options = parser.parse_args()
    for num_parts in options.parts:
        row = (
            measured(num_parts, options.folder)
            | {"folder": options.folder}
            | {"load_at_start": machine()["load_at_start"]}
        )
        print(row_line(row), flush=True)
        rows = sorted([row, *earlier_rows(num_parts)], key=lambda one: one["parts"])
        save("scheduler", {"machine": machine(), "runs": rows, "growth": growth(rows[0], rows[-1])})


def earlier_rows(but: int) -> list[dict[str, Any]]:
    """Sizes measured before: 120,000 parts take a quarter of an hour, and are not done again for a smaller size."""
    path = RESULTS / "scheduler.json"
    rows = json.loads(path.read_text())["runs"] if path.exists() else []
    return [row for row in rows if row["parts"] != but]


def growth(first: dict[str, Any], last: dict[str, Any]) -> dict[str, Any]:
    """What the last size costs beyond the first, per part."""
    more = max(1, last["parts"] - first["parts"])
    bytes_more = {
        name: round(1e6 * (last["peak_megabytes"][name] - peak) / more)
        for name, peak in first["peak_megabytes"].items()
    }
    return {
        "from_parts": first["parts"],
        "to_parts": last["parts"],
        "times_milliseconds_per_part": round(last["milliseconds_per_part"] / first["milliseconds_per_part"], 2),
        "bytes_per_part_of_peak": bytes_more,
        "prefect_rows_more": {name: last["prefect"][name] - first["prefect"][name] for name in _TABLES},
    }


def row_line(row: dict[str, Any]) -> str:
    """What a person reads while it runs."""
    peaks = ", ".join(f"{name} {peak:.0f}" for name, peak in row["peak_megabytes"].items())
    used = ", ".join(f"{name} {busy:.2f}" for name, busy in row["processor_milliseconds_per_part"].items())
    resumed = row["milliseconds_per_part_resumed"]
    return (
        f"{row['parts']:>7} parts: {row['milliseconds_per_part']:.2f} ms a part (processor: {used}), resumed "
        f"{'-' if resumed is None else f'{resumed:.2f} ms'}; published in {row['seconds_to_publish']:.1f} s, reused in "
        f"{row['seconds_reused']:.1f} s; manifest {row['manifest_megabytes']:.1f} MB; peak MB: {peaks}; "
        f"Prefect: {row['prefect']}"
    )


def measured(num_parts: int, place: str | None) -> dict[str, Any]:
    """One size, in a fresh process with a Prefect home of its own."""
    with tempfile.TemporaryDirectory(dir=place) as folder:
        environment = os.environ | {
            "PREFECT_HOME": f"{folder}/prefect",
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "180",
        }
        command = [sys.executable, "-m", "bench.scheduler_run", str(num_parts), folder]
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True, text=True)
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return found | {"prefect": prefect_rows(Path(folder) / "prefect" / "prefect.db")}


def prefect_rows(database: Path) -> dict[str, int]:
    """Rows that the three runs of the flow left in Prefect's database, and its size."""
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        found = {name: int(connection.execute(f"SELECT count(*) FROM {name}").fetchone()[0]) for name in _TABLES}
    return found | {"kilobytes": database.stat().st_size // 1000}


if __name__ == "__main__":
    main()
