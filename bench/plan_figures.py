"""The numbers that a plan is made of: figures of the benchmarks where they have been measured, else assumptions.

Every number has a name, a unit and a source. A result file that is missing or has another form than expected costs a
plan nothing but the figure: an assumption stands in for it, and the plan says so.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.measure import RESULTS
from tasks.algorithms.quantiser import GROUPS, PROBES

MEASURED, MISSING, ASSUMED, CONFIG = "measured", "missing", "assumed", "config"


@dataclass(frozen=True)
class Number:
    """A named number, and where it comes from. `kind`: measured, missing (assumed instead), assumed or config."""

    name: str
    value: float
    unit: str
    kind: str
    source: str


@dataclass(frozen=True)
class Figure:
    """A number to be read from a result file: which, how, and what stands in for it."""

    name: str
    unit: str
    file: str
    read: Callable[[Any], float]
    instead: float
    why: str
    or_file: str | None = None
    """A smaller run of the same benchmark, where the whole one is not there."""

    def number(self, folder: Path) -> Number:
        """The figure as measured, or what stands in for it and why."""
        missing = []
        for file in filter(None, (self.file, self.or_file)):
            try:
                value = float(self.read(json.loads((folder / f"{file}.json").read_text(encoding="utf-8"))))
            except FileNotFoundError:
                missing.append(f"no {file}.json")
            except (KeyError, IndexError, TypeError, ValueError, ZeroDivisionError, StopIteration) as error:
                missing.append(f"{file}.json has no such figure ({type(error).__name__}: {error})")
            else:
                return Number(self.name, value, self.unit, MEASURED, f"bench/results/{file}.json")
        source = f"{', '.join(missing)}; assumed: {self.why}"
        return Number(self.name, self.instead, self.unit, MISSING, source)


def _per_image(kind: str, *steps: str) -> Callable[[Any], float]:
    def read(content: Any) -> float:
        return float(sum(content[kind]["processor_seconds"][step] for step in steps) / content["images"])

    return read


def _join_rate(content: Any) -> float:
    rows = max(content["sizes"], key=int)
    ours = content["sizes"][rows]["ours"]
    operations = ours["products_per_row"] * int(rows) * 2 * 512
    return float(operations / ours["join_seconds"] / content["machine"]["threads"])


def _assign_rate(content: Any) -> float:
    """Of finding the cells of every row: groups, then the cells of the nearest groups."""
    rows = max(content["sizes"], key=int)
    ours = content["sizes"][rows]["ours"]
    products = int(rows) * (GROUPS + PROBES / GROUPS) * ours["num_cells"] ** 0.5
    return float(2 * 512 * products / ours["assign_seconds"] / content["machine"]["threads"])


def _kmeans_rate(content: Any) -> float:
    row = max(content["rows"], key=lambda one: one["rows"] * one["clusters"])
    operations = 2 * row["rows"] * row["clusters"] * row["dim"] * row["iterations"]
    busy = row.get("ours_cpu_seconds") or row["ours_seconds"] * row["threads"]  # on a shared machine the truer one
    return float(operations / busy)


def _largest_graph(content: Any) -> Any:
    return max((row for row in content["results"] if row["graph"] == "copies"), key=lambda row: row["nodes"])


def _union_rate(content: Any) -> float:
    row = _largest_graph(content)
    return float(row["edges"] / row["ours_parquet"]["seconds"])


def _retrieval_rate(content: Any) -> float:
    """Of our faster search: a query is compared with the rows of its probed cells, as many as there are on average."""
    run = content["runs"][-1]
    ours = min(
        (side for side in run["sides"] if side["side"] == "ours"), key=lambda side: float(side["search_seconds"])
    )
    compared = run["queries"] * run["pool"] * ours["probes"] / ours["cells"]
    return float(2 * run["dim"] * compared / ours["search_seconds"] / content["threads"])


def _pack(content: Any) -> Any:
    return max(content["results"], key=lambda row: row["mean_kilobytes"])


def _gpu_join_share(content: Any) -> float:
    if content["machine"]["card"].lower() in ("cpu", "no gpu"):
        raise ValueError("measured on a CPU")
    return float(content["ours"]["share_of_peak"])


def _gpu_kmeans_share(content: Any) -> float:
    if content["device"] == "cpu":
        raise ValueError("measured on a CPU")
    return float(max(content["passes"], key=lambda row: row["clusters"] * row["dim"])["of_peak"])


def _largest_run(content: Any) -> Any:
    return max(content["runs"], key=lambda run: run["parts"])


def _part_seconds(content: Any) -> float:
    """What a part takes of scheduler and flow, were they to take turns; what workers take is theirs to share."""
    busy = _largest_run(content)["processor_milliseconds_per_part"]
    return float(busy["scheduler"] + busy["flow"]) / 1e3


FIGURES: tuple[Figure, ...] = (
    Figure(
        "decode_core_seconds", "s per image", "encoding",
        _per_image("sscd_shaped_320", "read", "decode", "prepare"), 0.004,
        "JPEGs of 640x480 at 250 a second and core",
    ),
    Figure(
        "sscd_core_seconds", "s per image", "encoding", _per_image("sscd_shaped_320", "encode"), 0.15,
        "16.8 GFLOP at 110 GFLOP/s a core",
    ),
    Figure(
        "vit_core_seconds_per_gflop", "s per GFLOP", "encoding",
        lambda content: _per_image("vit_s16_224", "encode")(content) / 9.2, 0.012, "80 GFLOP/s a core",
    ),
    Figure(
        "join_operations_per_core_second", "1/s", "self_join", _join_rate, 2e11,
        "8-bit products at 200 GOP/s a core, screening and exact products among it",
    ),
    Figure(
        "assign_operations_per_core_second", "1/s", "self_join", _assign_rate, 2e11, "as the join's",
    ),
    Figure(
        "kmeans_operations_per_core_second", "1/s", "kmeans", _kmeans_rate, 3e11, "8-bit products at 300 GOP/s a core",
        or_file="kmeans_small",
    ),
    Figure(
        "search_operations_per_core_second", "1/s", "retrieval", _retrieval_rate, 6e10,
        "float32 products at 60 GFLOP/s a core",
    ),
    Figure(
        "edges_per_second", "1/s", "components", _union_rate, 1e7, "union-find from Parquet, one core",
    ),
    Figure(
        "pack_core_seconds", "s per image", "pack",
        lambda content: _pack(content)["median_seconds"]["ours, 1 thread"] / _pack(content)["images"], 0.0005,
        "2,000 images of 110 KB a second and core",
    ),
    Figure(
        "pack_image_bytes", "bytes", "pack", lambda content: _pack(content)["bytes"] / _pack(content)["images"], 110e3,
        "images of 110 KB",
    ),
    Figure(
        "shuffle_core_seconds", "s per image", "pack",
        lambda content: _pack(content)["shuffle_seconds"] / _pack(content)["images"], 0.0001,
        "10,000 rows a second and core",
    ),
    Figure(
        "part_seconds", "s per part", "scheduler", _part_seconds, 0.003,
        "3 ms of processor time of scheduler and flow for every part, one after the other",
    ),
    Figure(
        "flow_bytes_per_part", "bytes", "scheduler",
        lambda content: content["growth"]["bytes_per_part_of_peak"]["flow"], 6000, "results of two files each",
    ),
    Figure(
        "scheduler_bytes_per_part", "bytes", "scheduler",
        lambda content: content["growth"]["bytes_per_part_of_peak"]["scheduler"], 1000, "hardly anything: a window",
    ),
    Figure(
        "publish_seconds_per_part", "s per part", "scheduler",
        lambda content: _largest_run(content)["seconds_to_publish"] / _largest_run(content)["parts"], 5e-5,
        "a manifest of two files a part",
    ),
    Figure(
        "gpu_share_join", "of the peak", "gpu_join", _gpu_join_share, 0.5,
        "the issue's target for the join on a GPU",
    ),
    Figure(
        "gpu_share_kmeans", "of the peak", "gpu_kmeans", _gpu_kmeans_share, 0.5, "as the join's",
    ),
)  # fmt: skip


def read_figures(folder: Path = RESULTS) -> dict[str, Number]:
    """Every figure by name."""
    return {figure.name: figure.number(folder) for figure in FIGURES}


def missing_files(numbers: Mapping[str, Number]) -> list[str]:
    """Names of figures that an assumption stands in for."""
    return [number.name for number in numbers.values() if number.kind == MISSING]
